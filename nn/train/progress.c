/* progress.c: the progress line: bar, step, the caller's text, rate, time passed and time left. */
#include "text.h"

#include <lorikeet/train.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { BAR = 24, LINE = 1024 };

static double monotonic(void *user) {
  struct timespec t = {0, 0};
  (void)user;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int terminal(FILE *to) {
  const char *kind = getenv("TERM");
  return isatty(fileno(to)) && !(kind && strcmp(kind, "dumb") == 0);
}

static int terminal_width(FILE *to) {
  struct winsize w = {0};
  return ioctl(fileno(to), TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

void lk_bar_start(lk_bar *b) {
  if (!b->label) b->label = "";
  if (!b->unit) b->unit = "steps";
  if (b->per_step <= 0) b->per_step = 1;
  if (b->style == LK_BAR_AUTO) b->style = b->to && terminal(b->to) ? LK_BAR_LINE : LK_BAR_PLAIN;
  if (b->width <= 0) b->width = b->to && b->style == LK_BAR_LINE ? terminal_width(b->to) : 80;
  if (b->interval <= 0) b->interval = b->style == LK_BAR_LINE ? .1 : 5;
  if (!b->clock) b->clock = monotonic;
  b->started = b->drawn = b->clock(b->user);
  b->step = b->first;
  b->drawn_step = -1;
  b->length = 0;
  b->text[0] = 0;
}

/* "0:07", "12:34", "1:02:03"; unknown (negative): "-:--". */
static void put_time(char *out, size_t size, double seconds) {
  int64_t s = seconds < 0 || seconds > 1e9 ? -1 : (int64_t)(seconds + .5);
  if (s < 0) snprintf(out, size, "-:--");
  else if (s < 3600) snprintf(out, size, "%d:%02d", (int)(s / 60), (int)(s % 60));
  else snprintf(out, size, "%lld:%02d:%02d", (long long)(s / 3600), (int)(s / 60 % 60), (int)(s % 60));
}

/* Three digits, as rates are read: "  0.0123", "  1.23", "  12.3", "  1234", and the unit. */
static void put_rate(char *out, size_t size, double rate, const char *unit) {
  int decimals = rate >= 100 || rate <= 0 ? 0 : rate >= 10 ? 1 : rate >= 1 ? 2 : 4;
  snprintf(out, size, "  %.*f %s/s", decimals, rate, unit);
}

static void put_bar(char *out, int cells, double done, int ascii) {
  const char *full = ascii ? "#" : "\u2501", *rest = ascii ? "-" : "\u2500"; /* heavy and light line */
  int filled = (int)(done * cells);
  char *end = stpcpy(out, ascii ? " [" : " ");
  for (int i = 0; i < cells; i++) end = stpcpy(end, i < filled ? full : rest);
  stpcpy(end, ascii ? "] " : " ");
}

/* Everything right of the bar; the rate on request. */
static void put_state(const lk_bar *b, double now, int with_rate, char *out, size_t size) {
  char rate[80] = "", passed[24], left[24];
  double elapsed = now - b->started, steps = (double)(b->step - b->first);
  if (with_rate) put_rate(rate, sizeof rate, elapsed > 0 ? steps * b->per_step / elapsed : 0, b->unit);
  put_time(passed, sizeof passed, elapsed);
  put_time(left, sizeof left, steps > 0 ? elapsed * (double)(b->total - b->step) / steps : -1);
  const char *gap = b->text[0] ? "  " : "";
  if (b->total > 0)
    snprintf(out, size, "%3d%%  %lld/%lld%s%s%s  %s, ETA %s", (int)(100. * (double)b->step / (double)b->total),
             (long long)b->step, (long long)b->total, gap, b->text, rate, passed, left);
  else snprintf(out, size, "%lld%s%s%s  %s", (long long)b->step, gap, b->text, rate, passed);
}

/* Redraws the line: without the rate where a bar would not fit, cut to the terminal's width at last; blanks go over
 * what was longer before. */
static void draw_line(lk_bar *b, double now) {
  char line[LINE], state[LINE / 2], bar[3 * BAR + 5] = " ";
  double done = b->total > 0 ? (double)b->step / (double)b->total : 0;
  int room = 0;
  for (int with_rate = 1; with_rate >= 0 && room < 5; with_rate--) {
    put_state(b, now, with_rate, state, sizeof state);
    room = b->width - 1 - lk_text_columns(b->label) - lk_text_columns(state) - (b->ascii ? 4 : 2);
  }
  if (b->total > 0 && room >= 5) put_bar(bar, room < BAR ? room : BAR, done < 0 ? 0 : done > 1 ? 1 : done, b->ascii);
  snprintf(line, sizeof line, "%s%s%s", b->label, bar, state);
  line[lk_text_bytes(line, b->width - 1)] = 0;
  int length = lk_text_columns(line);
  fprintf(b->to, "\r%s%*s", line, b->length > length ? b->length - length : 0, "");
  b->length = length;
}

static void draw(lk_bar *b, double now) {
  char state[LINE / 2];
  b->drawn = now;
  b->drawn_step = b->step;
  if (!b->to) return;
  if (b->style == LK_BAR_LINE) draw_line(b, now);
  else {
    put_state(b, now, 1, state, sizeof state);
    fprintf(b->to, "%s%s%s\n", b->label, b->label[0] ? "  " : "", state);
  }
  fflush(b->to);
}

void lk_bar_update(lk_bar *b, int64_t step, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(b->text, sizeof b->text, format, args);
  va_end(args);
  b->step = step;
  double now = b->clock(b->user);
  if (now - b->drawn >= b->interval || (b->total > 0 && step >= b->total)) draw(b, now);
}

void lk_bar_clear(lk_bar *b) {
  if (!b->to || b->style != LK_BAR_LINE || !b->length) return;
  fprintf(b->to, "\r%*s\r", b->length, "");
  fflush(b->to);
  b->length = 0;
  b->drawn_step = -1;
}

void lk_bar_finish(lk_bar *b) {
  if (b->drawn_step != b->step) draw(b, b->clock(b->user));
  if (!b->to || b->style != LK_BAR_LINE) return;
  fputc('\n', b->to);
  fflush(b->to);
  b->length = 0;
}
