/* schedule.c: learning rates as pure functions of the step, so that a resume needs no state of theirs. */
#include <lorikeet/optim.h>
#include <math.h>
#include <string.h>

double lk_schedule_lr(const lk_schedule *s, int64_t step) {
  if (step < s->warmup) return s->lr * ((double)(step > 0 ? step : 0) / (double)s->warmup);
  if (s->kind == LK_SCHEDULE_CONSTANT) return s->lr;
  int64_t length = s->total > s->warmup ? s->total - s->warmup : 1;
  int64_t left = s->total > step ? s->total - step : 0;
  double factor = (double)left / (double)length;
  if (s->kind == LK_SCHEDULE_COSINE) {
    double progress = (double)(step - s->warmup) / (double)length;
    factor = progress < 1 ? 0.5 * (1 + cos(3.14159265358979323846 * progress)) : 0;
  }
  return s->lr * (factor * (1 - s->final_fraction) + s->final_fraction);
}

int lk_schedule_find(const char *name) {
  static const char *const names[] = {"constant", "linear", "cosine"};
  for (int i = 0; name && i < 3; i++)
    if (!strcmp(name, names[i])) return i;
  return -1;
}
