/* exhibit.c: the list of exhibits, their runs and their reports. */
#include "exhibit.h"

#include <stdarg.h>
#include <string.h>

/* In the order of EXHIBIT_WORDS. */
static const exhibit *const exhibits[] = {&exhibit_all,   &exhibit_tasks, &exhibit_ranks,
                                          &exhibit_shots, &exhibit_shift, &exhibit_neat};
enum { EXHIBITS = sizeof exhibits / sizeof *exhibits };

/* ---- plans ---- */

trial *plan_add(plan *p, const method *m) {
  if (lk_grow(p->ctx, &p->trials, &p->capacity, p->n + 1, sizeof *p->trials)) return NULL;
  trial *t = &p->trials[p->n++];
  *t = (trial){.full = m->full, .probe = m->probe, .augment = 1, .passes = m->passes ? m->passes : 1};
  t->domains = (domain_choice){.train = DOMAIN_BIT(DOMAIN_OWN), .test = DOMAIN_BIT(DOMAIN_OWN)};
  snprintf(t->name, sizeof t->name, "%s", m->name);
  snprintf(t->adapter, sizeof t->adapter, "%s", m->adapter ? m->adapter : "");
  return t;
}

trial *plan_add_adapter(plan *p, const char *name, const char *format, ...) {
  char spec[sizeof((trial *)0)->adapter];
  va_list ap;
  va_start(ap, format);
  vsnprintf(spec, sizeof spec, format, ap);
  va_end(ap);
  return plan_add(p, &(method){.name = name, .adapter = spec});
}

static int64_t images_of(const settings *o, const trial *t) {
  int64_t images = 0, each = t->domains.images ? t->domains.images : o->source.train;
  for (int i = 0; i < DOMAINS; i++) images += t->domains.train & DOMAIN_BIT(i) ? each : 0;
  return (images > t->domains.least ? images : t->domains.least) * o->train.epochs * t->passes;
}

int64_t plan_images(const plan *p) {
  int64_t images = 0;
  for (size_t i = 0; i < p->n; i++) images += images_of(p->o, &p->trials[i]) * p->o->seeds;
  return images;
}

int plan_run(plan *p, lk_bar *bar) {
  for (size_t i = 0; i < p->n; i++) {
    trial *t = &p->trials[i];
    for (int seed = 0; seed < p->o->seeds; seed++) {
      if (trial_run(p->ctx, p->o, t, seed)) return 1;
      lk_bar_update(bar, bar->step + images_of(p->o, t), "%s, seed %d", t->name, seed + 1);
    }
    trial_summarise(t, p->o->seeds);
  }
  return 0;
}

void plan_free(plan *p) {
  for (size_t i = 0; i < p->n; i++) trial_free(p->ctx, &p->trials[i]);
  lk_free(p->ctx, p->trials);
}

/* ---- one exhibit ---- */

static char *path_of(const report *r, const char *end) {
  return lk_sprintf(r->plan->ctx, "%s/exhibit-%s.%s", r->plan->o->out, r->name, end);
}

void report_say(report *r, const char *format, ...) {
  char text[4000];
  va_list ap;
  va_start(ap, format);
  vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  fputs(text, stdout);
  if (r->md) lk_write(r->md, text, strlen(text));
}

void report_table(report *r, lk_table *t) {
  char *text = t ? lk_table_text(t) : NULL;
  if (text) {
    printf("\n%s\n", text);
    if (r->md) lk_writef(r->md, "\n```\n%s```\n\n", text);
  }
  lk_free(r->plan->ctx, text);
  lk_table_free(t);
}

void report_draw(report *r, const char *title, int n, const lk_panel *panels) {
  char *path = path_of(r, "svg");
  if (path) lk_svg_write(r->plan->ctx, path, title, n, panels);
  lk_free(r->plan->ctx, path);
}

/* What is learned: real images or drawn ones, and how they look. */
static void say_domain(report *r) {
  const settings *o = r->plan->o;
  const plan *p = r->plan;
  int own = p->n && p->trials[0].domains.train & DOMAIN_BIT(DOMAIN_OWN);
  const char *which = o->source.directory ? "real images" : "drawn digits";
  if (own && !o->source.directory) report_say(r, "%s (%s)", which, o->source.domain);
  else report_say(r, "%s%s", which, own ? "" : " of other domains");
}

static void say_how(report *r, const exhibit *e) {
  const settings *o = r->plan->o;
  report_say(r, "# %s\n\n", e->help);
  report_say(r, "%s, pretrained on drawn digits, adapted to ", o->preset);
  say_domain(r);
  report_say(r,
             "; %lld training images unless said otherwise, %lld epochs, %lld seeds.\nThe best epoch, what LoRA-drop "
             "keeps and the structures that a search finds are chosen by training and validation\nimages; test images "
             "choose nothing.\n",
             (long long)o->source.train, (long long)o->train.epochs, (long long)o->seeds);
}

static void show(const plan *p, const exhibit *e) {
  report r = {.plan = p, .name = e->name};
  char *path = path_of(&r, "md");
  r.md = path ? lk_writer_open(p->ctx, path) : NULL;
  if (!lk_error(p->ctx, NULL)) {
    say_how(&r, e);
    e->show(&r);
    if (r.md) lk_writef(r.md, "\n![%s](exhibit-%s.svg)\n", e->name, e->name);
    if (r.md) lk_writer_commit(r.md);
    printf("\nfiles: %s and .svg\n\n", path);
    fflush(stdout); /* before the next line of progress */
  }
  lk_free(p->ctx, path);
}

/* ---- all of them ---- */

static int chosen(const settings *o, int i) { return o->exhibit == i + 1 || o->exhibit == EXHIBITS + 1; }

static int run_all(lk_ctx *ctx, const settings *o, plan *plans) {
  lk_bar bar = {.to = o->quiet ? NULL : stderr, .label = "exhibit", .unit = "images"};
  int failed = 0;
  for (int i = 0; i < EXHIBITS; i++) {
    plans[i] = (plan){.ctx = ctx, .o = o};
    if (chosen(o, i)) exhibits[i]->plan(&plans[i]);
    bar.total += plan_images(&plans[i]);
  }
  failed = lk_error(ctx, NULL) != LK_OK;
  if (!failed) failed = pretrain(o);
  lk_bar_start(&bar);
  for (int i = 0; i < EXHIBITS && !failed; i++) {
    if (!chosen(o, i)) continue;
    failed = plan_run(&plans[i], &bar);
    lk_bar_clear(&bar);
    if (!failed) show(&plans[i], exhibits[i]);
    failed |= lk_error(ctx, NULL) != LK_OK;
  }
  if (!failed) lk_bar_finish(&bar);
  return failed;
}

int exhibit_run(const settings *o) {
  plan plans[EXHIBITS];
  session s = {.ctx = lk_ctx_new(NULL)};
  if (!s.ctx) return session_close(&s);
  int failed = run_all(s.ctx, o, plans);
  for (int i = 0; i < EXHIBITS; i++) plan_free(&plans[i]);
  return session_close(&s) | failed;
}

void exhibit_help(FILE *to) {
  fprintf(to, "\nExhibits (--exhibit):\n");
  for (int i = 0; i < EXHIBITS; i++) fprintf(to, "  %-12s%s\n", exhibits[i]->name, exhibits[i]->help);
  fprintf(to, "  %-12s%s\n", "everything", "all of these; each leaves OUT/exhibit-NAME.md and .svg");
}
