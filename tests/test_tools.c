/* test_tools.c: progress lines with a fake clock, JSON lines, text tables, SVG charts. */
#include "alloc.h"
#include "files.h"

#include <check.h>
#include <lorikeet/json.h>
#include <lorikeet/random.h>
#include <lorikeet/svg.h>
#include <lorikeet/train.h>
#include <math.h>

static lk_ctx *ctx;

static void setup(void) {
  test_directory();
  ctx = lk_ctx_new(NULL);
}

static void teardown(void) {
  lk_warnings_clear(ctx);
  ck_assert_uint_eq(lk_ctx_statistics(ctx).live, 0);
  lk_ctx_free(ctx);
  test_directory_remove();
}

/* The context must have this error, whose sentence contains the words; clears it. */
static void expect_error(lk_status status, const char *words) {
  const char *message;
  ck_assert_int_eq(lk_error(ctx, &message), status);
  ck_assert_msg(strstr(message, words) != NULL, "\"%s\" is not in \"%s\"", words, message);
  lk_error_clear(ctx);
}

/* ---- progress ---- */

static double fake_clock(void *user) { return *(const double *)user; }

/* What a bar printed: a stream in memory. */
static char *printed;
static size_t printed_bytes;

static lk_bar fake_bar(lk_bar_style style, double *now) {
  *now = 100;
  lk_bar b = {.to = open_memstream(&printed, &printed_bytes), .label = "train", .total = 200, .style = style};
  b.clock = fake_clock;
  b.user = now;
  return b;
}

static void expect_printed(lk_bar *b, const char *text) {
  fclose(b->to);
  ck_assert_str_eq(printed, text);
  free(printed);
}

START_TEST(plain_lines_come_at_intervals) {
  double now;
  lk_bar b = fake_bar(LK_BAR_PLAIN, &now);
  lk_bar_start(&b);
  for (int step = 1; step <= 200; step++) {
    now += .08;
    lk_bar_update(&b, step, "loss %.3f", 2. / step);
  }
  lk_bar_finish(&b);
  expect_printed(&b, "train   31%  63/200  loss 0.032  12.5 steps/s  0:05, ETA 0:11\n"
                     "train   63%  126/200  loss 0.016  12.5 steps/s  0:10, ETA 0:06\n"
                     "train   94%  189/200  loss 0.011  12.5 steps/s  0:15, ETA 0:01\n"
                     "train  100%  200/200  loss 0.010  12.5 steps/s  0:16, ETA 0:00\n");
}
END_TEST

START_TEST(plain_lines_without_total) {
  double now;
  lk_bar b = fake_bar(LK_BAR_PLAIN, &now);
  b.label = NULL;
  b.total = 0;
  b.unit = "images";
  b.per_step = 16;
  b.interval = 3600;
  lk_bar_start(&b);
  now += 7200;
  lk_bar_update(&b, 90000, "%s", "");
  now += 10;
  lk_bar_update(&b, 90001, "acc 97%%");
  lk_bar_finish(&b);
  expect_printed(&b, "90000  200 images/s  2:00:00\n"
                     "90001  acc 97%  200 images/s  2:00:10\n");
}
END_TEST

START_TEST(a_terminal_line_is_redrawn) {
  double now;
  lk_bar b = fake_bar(LK_BAR_LINE, &now);
  b.ascii = 1;
  b.width = 70;
  lk_bar_start(&b);
  now += 1;
  lk_bar_update(&b, 50, "loss %.4f", 1.25);
  now += .05;
  lk_bar_update(&b, 51, "too early");
  now += .95;
  lk_bar_update(&b, 100, "loss %d", 1);
  lk_bar_clear(&b);
  now += 2;
  lk_bar_update(&b, 200, "loss %d", 0);
  lk_bar_finish(&b);
  expect_printed(&b, "\rtrain [#----]  25%  50/200  loss 1.2500  50.0 steps/s  0:01, ETA 0:03"
                     "\rtrain [####-----]  50%  100/200  loss 1  50.0 steps/s  0:02, ETA 0:02"
                     "\r                                                                     \r"
                     "\rtrain [#########] 100%  200/200  loss 0  50.0 steps/s  0:04, ETA 0:00\n");
}
END_TEST

/* Unicode bar of at most 24 cells; a shorter line covers the longer one; too narrow a terminal cuts. */
START_TEST(a_terminal_line_fits) {
  double now;
  lk_bar b = fake_bar(LK_BAR_LINE, &now);
  b.width = 200;
  b.total = 4;
  lk_bar_start(&b);
  now += 1;
  lk_bar_update(&b, 1, "%s", "a long text");
  now += 1;
  lk_bar_update(&b, 2, "%s", "");
  b.width = 21;
  now += 1;
  lk_bar_update(&b, 3, "\xC3\xA4\xC3\xB6\xC3\xBC");
  lk_bar_finish(&b);
  expect_printed(
      &b,
      "\rtrain \u2501\u2501\u2501\u2501\u2501\u2501\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500"
      "\u2500\u2500\u2500\u2500\u2500\u2500\u2500  25%  1/4  a long text  1.00 steps/s  0:01, ETA 0:03"
      "\rtrain \u2501\u2501\u2501\u2501\u2501\u2501\u2501\u2501\u2501\u2501\u2501\u2501\u2500\u2500\u2500\u2500\u2500"
      "\u2500\u2500\u2500\u2500\u2500\u2500\u2500  50%  2/4  1.00 steps/s  0:02, ETA 0:02             "
      "\rtrain  75%  3/4  \u00e4\u00f6\u00fc                                                  \n");
}
END_TEST

START_TEST(resumed_steps_are_not_part_of_the_rate) {
  double now;
  lk_bar b = fake_bar(LK_BAR_PLAIN, &now);
  b.first = 100;
  lk_bar_start(&b);
  lk_bar_finish(&b);
  now += 5;
  lk_bar_update(&b, 110, "x");
  expect_printed(&b, "train   50%  100/200  0 steps/s  0:00, ETA -:--\n"
                     "train   55%  110/200  x  2.00 steps/s  0:05, ETA 0:45\n");
}
END_TEST

START_TEST(no_stream_prints_nothing) {
  lk_bar b = {.total = 3};
  lk_bar_start(&b);
  lk_bar_update(&b, 3, "done");
  lk_bar_clear(&b);
  lk_bar_finish(&b);
  ck_assert_int_eq(b.style, LK_BAR_PLAIN);
  ck_assert_double_gt(b.started, 0);
}
END_TEST

/* ---- metrics ---- */

static void put_line(lk_metrics *m, int64_t step, double loss, const char *note) {
  lk_metrics_int(m, "step", step);
  lk_metrics_real(m, "loss", loss);
  lk_metrics_string(m, "note", note);
  lk_metrics_end(m);
}

/* The file's lines, each of which must be a JSON object with the step expected. */
static int count_lines(const char *path, int first_step) {
  size_t size;
  char *text = (char *)test_get(path, &size), *at = text;
  int lines = 0;
  for (char *end; (end = strchr(at, '\n')); at = end + 1, lines++) {
    lk_json *j = lk_json_parse(ctx, at, (size_t)(end - at), path);
    ck_assert_ptr_nonnull(j);
    ck_assert_int_eq(lk_json_int(ctx, j, "step", -1), first_step + lines);
    lk_json_free(j);
  }
  ck_assert_int_eq(*at, 0);
  free(text);
  return lines;
}

START_TEST(metrics_are_json_lines) {
  size_t size;
  lk_metrics *m = lk_metrics_open(ctx, "m.jsonl", 0);
  put_line(m, 0, .1, "a \"quoted\"\nline");
  unsigned char *text = test_get("m.jsonl", &size); /* there before the file is closed */
  ck_assert_str_eq((char *)text, "{\"step\":0,\"loss\":0.1,\"note\":\"a \\\"quoted\\\"\\nline\"}\n");
  free(text);
  put_line(m, 1, NAN, "");
  put_line(m, 2, -INFINITY, "");
  lk_metrics_int(m, "lost", 1);
  ck_assert_int_eq(lk_metrics_close(m), LK_OK);
  ck_assert_int_eq(count_lines("m.jsonl", 0), 3);
  text = test_get("m.jsonl", &size);
  ck_assert_ptr_nonnull(strstr((char *)text, "{\"step\":1,\"loss\":null,\"note\":\"\"}\n"));
  ck_assert_ptr_nonnull(strstr((char *)text, "{\"step\":2,\"loss\":null,\"note\":\"\"}\n"));
  free(text);
}
END_TEST

START_TEST(metrics_continue) {
  const char *cut = "{\"step\":7}\n{\"step\":8,\"lo";
  test_put("m", cut, strlen(cut));
  lk_metrics *m = lk_metrics_open(ctx, "m", 1);
  ck_assert_int_eq(lk_warning_count(ctx), 1);
  ck_assert_ptr_nonnull(strstr(lk_warning(ctx, 0), "of 13 bytes"));
  put_line(m, 8, 1, "");
  lk_metrics_close(m);
  m = lk_metrics_open(ctx, "m", 1);
  put_line(m, 9, 1, "");
  lk_metrics_close(m);
  ck_assert_int_eq(lk_warning_count(ctx), 1);
  ck_assert_int_eq(count_lines("m", 7), 3);
  m = lk_metrics_open(ctx, "fragment", 1);
  put_line(m, 0, 1, "");
  lk_metrics_close(m);
  ck_assert_int_eq(count_lines("fragment", 0), 1);
  m = lk_metrics_open(ctx, "m", 0);
  lk_metrics_close(m);
  ck_assert_int_eq(count_lines("m", 0), 0);
}
END_TEST

START_TEST(metrics_report_what_the_system_refuses) {
  ck_assert_ptr_null(lk_metrics_open(ctx, "no/such/file", 0));
  expect_error(LK_EIO, "no/such/file");
  lk_metrics *m = lk_metrics_open(ctx, "/dev/full", 0);
  ck_assert_ptr_nonnull(m);
  lk_metrics_int(m, "step", 1);
  ck_assert_int_eq(lk_metrics_end(m), LK_EIO);
  expect_error(LK_EIO, "/dev/full: cannot write");
  lk_metrics_close(m);
  lk_error_clear(ctx);
  ck_assert_int_eq(lk_metrics_end(NULL), LK_ENIL);
}
END_TEST

/* ---- tables ---- */

static void expect_table(lk_table *t, const char *text) {
  char *got = lk_table_text(t);
  ck_assert_str_eq(got, text);
  lk_free(ctx, got);
}

START_TEST(tables_line_up) {
  lk_table *t = lk_table_new(ctx, 4, (const char *const[]){"method", "params", "accuracy", "note"});
  lk_table_cell(t, "LoRA r=%d", 8);
  lk_table_cell(t, "%d", 12810);
  lk_table_cell(t, "97.5 \u00b1 0.1");
  lk_table_cell(t, "4 ok");
  lk_table_cell(t, "probe");
  lk_table_cell(t, "-");
  lk_table_cell(t, "\u22128.25 \u00b1 10.1");
  lk_table_cell(t, "\u00fcber");
  lk_table_rule(t);
  lk_table_cell(t, "\u00e9");
  lk_table_cell(t, "%s", "");
  expect_table(t, "method    params      accuracy  note\n"
                  "--------  ------  ------------  ----\n"
                  "LoRA r=8   12810    97.5 \u00b1 0.1  4 ok\n"
                  "probe          -  \u22128.25 \u00b1 10.1  \u00fcber\n"
                  "--------  ------  ------------  ----\n"
                  "\u00e9               \n");
  ck_assert_int_eq(lk_table_rule(t), LK_EARG);
  expect_error(LK_EARG, "2 of 4");
  lk_table_free(t);
  ck_assert_ptr_null(lk_table_new(ctx, 0, NULL));
  expect_error(LK_EARG, "0 columns");
}
END_TEST

START_TEST(tables_print) {
  char longer[700];
  memset(longer, 'x', sizeof longer);
  longer[699] = 0;
  lk_table *t = lk_table_new(ctx, 1, (const char *const[]){"t"});
  lk_table_cell(t, "%s", longer);
  FILE *f = fopen("table", "w"), *full = fopen("/dev/full", "w");
  ck_assert_int_eq(lk_table_print(t, f), LK_OK);
  fclose(f);
  size_t size;
  unsigned char *text = test_get("table", &size);
  ck_assert_uint_eq(size, 2 + 700 + 700);
  free(text);
  ck_assert_int_eq(lk_table_print(t, full), LK_EIO);
  expect_error(LK_EIO, "cannot write");
  fclose(full);
  lk_table_free(t);
}
END_TEST

/* ---- charts ---- */

static int count_of(const char *text, const char *what) {
  int n = 0;
  for (; (text = strstr(text, what)); text++) n++;
  return n;
}

/* Every tag is closed in order, attributes are quoted, & begins an entity that XML knows. */
static void expect_well_formed(const char *text) {
  char open[16][16];
  int depth = 0, roots = 0;
  for (const char *p = text; *p; p++) {
    ck_assert_msg((unsigned char)*p >= 0x20 || *p == '\n', "control character");
    if (*p == '&')
      ck_assert(!strncmp(p, "&amp;", 5) || !strncmp(p, "&lt;", 4) || !strncmp(p, "&gt;", 4) ||
                !strncmp(p, "&quot;", 6));
    if (*p != '<') continue;
    const char *end = strchr(p, '>');
    ck_assert_ptr_nonnull(end);
    size_t name = strcspn(p + 1, " />");
    if (p[1] == '/') {
      name = strcspn(p + 2, ">");
      ck_assert_int_gt(depth, 0);
      ck_assert_mem_eq(open[--depth], p + 2, name);
      ck_assert_int_eq(open[depth][name], 0);
    } else if (end[-1] != '/') {
      ck_assert_int_lt(depth, 16);
      roots += depth == 0;
      snprintf(open[depth++], 16, "%.*s", (int)name, p + 1);
    }
    int quotes = 0;
    for (; p < end; p++) quotes += *p == '"';
    ck_assert_int_eq(quotes % 2, 0);
  }
  ck_assert_int_eq(depth, 0);
  ck_assert_int_eq(roots, 1);
}

static char *draw(const char *title, int n, const lk_panel *panels) {
  size_t size;
  const char *message;
  lk_svg_write(ctx, "chart.svg", title, n, panels);
  ck_assert_msg(lk_error(ctx, &message) == LK_OK, "%s", message);
  char *text = (char *)test_get("chart.svg", &size);
  expect_well_formed(text);
  ck_assert_ptr_null(strstr(text, "nan"));
  ck_assert_ptr_null(strstr(text, "inf"));
  ck_assert_ptr_null(strstr(text, "-2147483648"));
  return text;
}

START_TEST(charts_escape_and_repair_text) {
  double x[] = {1, 2}, y[] = {3, 4};
  const char *labels[] = {"a<b>&\"c\"", "bell \a, broken \xC3(, \xE2\x82, \u20ac"};
  lk_series s = {.name = "</text>", .n = 2, .x = x, .y = y, .labels = labels};
  lk_panel p = {.title = "R&D", .x_label = "<x>", .y_label = "y > 0", .nseries = 1, .series = &s};
  char *text = draw("T & <title>", 1, &p);
  ck_assert_ptr_nonnull(strstr(text, ">a&lt;b&gt;&amp;&quot;c&quot;</text>"));
  ck_assert_ptr_nonnull(strstr(text, ">bell  , broken ?(, ??, \u20ac</text>"));
  ck_assert_ptr_nonnull(strstr(text, "<title>T &amp; &lt;title&gt;</title>"));
  ck_assert_ptr_nonnull(strstr(text, ">&lt;/text&gt;</text>"));
  ck_assert_ptr_nonnull(strstr(text, ">R&amp;D</text>"));
  free(text);
}
END_TEST

START_TEST(charts_draw_what_can_be_shown) {
  double x[] = {0, 1, 2, 3, 4, 5}, y[] = {1, 2, NAN, .5, -1, 3}, e[] = {.1, 5, 1, NAN, 1, INFINITY};
  lk_series s[2] = {{.name = "line", .style = LK_SERIES_LINE, .n = 6, .x = x, .y = y},
                    {.name = "points", .n = 6, .x = x, .y = y, .error = e, .color = 3}};
  lk_panel p[3] = {{.nseries = 2, .series = s}, {.log_y = 1, .nseries = 2, .series = s}, {.title = "empty"}};
  char *text = draw(NULL, 3, p);
  /* 5 points on the linear axis and 4 on the logarithmic one, and a marker in each legend */
  ck_assert_int_eq(count_of(text, "class=\"mark\""), 5 + 1 + 4 + 1);
  ck_assert_int_eq(count_of(text, "class=\"error\""), 3 + 2);
  ck_assert_int_eq(count_of(text, "class=\"line\""), 4);
  ck_assert_int_eq(count_of(text, ">no data<"), 1);
  ck_assert_ptr_nonnull(strstr(text, "viewBox=\"0 0 16800 4200\""));
  ck_assert_ptr_null(strstr(text, "<title>"));
  free(text);
}
END_TEST

/* Ranges that break careless axes: one value, equal values, tiny and huge ones, rounding, decades. */
START_TEST(charts_survive_any_range) {
  static const double range[][2] = {
      {5, 5},         {0, 0},          {-3, -3},       {1e-12, 2e-12}, {-1e299, 1e299}, {1e6, 1e6 + .001}, {0, 4e-320},
      {1, 1 + 1e-15}, {1e-290, 1e290}, {97.21, 97.34}, {2.1, 2.9},     {1, 1e5},        {-40, 12345}};
  for (size_t i = 0; i < sizeof range / sizeof *range; i++)
    for (int log = 0; log < 2; log++) {
      lk_series s = {.style = LK_SERIES_BOTH, .n = 2, .x = range[i], .y = range[i]};
      lk_panel p = {.log_x = log, .log_y = log, .nseries = 1, .series = &s};
      char *text = draw(NULL, 1, &p);
      int positive = (range[i][0] > 1e-300) + (range[i][1] > 1e-300);
      ck_assert_int_eq(count_of(text, "class=\"mark\""), log ? positive : 2);
      if (range[i][1] > 1e-300 || range[i][1] <= 0) ck_assert_int_ge(count_of(text, "class=\"grid\""), 2);
      free(text);
    }
}
END_TEST

START_TEST(ticks_are_round) {
  double x[] = {650, 85000}, y[] = {88.2, 97.6};
  lk_series s = {.n = 2, .x = x, .y = y};
  lk_panel p = {.log_x = 1, .nseries = 1, .series = &s};
  static const char *const expected[] = {">1k<", ">10k<", ">100k<", ">2k<", ">200k<", ">88<", ">90<", ">98<"};
  char *text = draw(NULL, 1, &p);
  for (int i = 0; i < 8; i++) ck_assert_msg((strstr(text, expected[i]) != NULL) == (i != 4), "%s", expected[i]);
  free(text);
}
END_TEST

/* Twelve labelled points in a small cloud: no two labels overlap. */
START_TEST(labels_do_not_overlap) {
  enum { N = 12 };
  double x[N + 2] = {0, 100}, y[N + 2] = {0, 100}, at[N][3];
  const char *labels[N + 2] = {NULL, NULL};
  lk_key key = lk_key_make(1, "cloud");
  for (int i = 0; i < N; i++) {
    x[i + 2] = 50 + 8 * lk_random_uniform(key, (uint64_t)(2 * i));
    y[i + 2] = 50 + 8 * lk_random_uniform(key, (uint64_t)(2 * i + 1));
    labels[i + 2] = "label";
  }
  lk_series s = {.n = N + 2, .x = x, .y = y, .labels = labels};
  lk_panel p = {.nseries = 1, .series = &s};
  char *text = draw(NULL, 1, &p), *t = text;
  for (int i = 0; i < N; i++) {
    t = strstr(t, "class=\"label\"");
    ck_assert_ptr_nonnull(t);
    char *start = t;
    while (strncmp(start, "<text", 5) != 0) start--;
    ck_assert_int_eq(sscanf(start, "<text x=\"%lf\" y=\"%lf\"", &at[i][0], &at[i][1]), 2);
    const char *anchor = strstr(t, "text-anchor=\"") + 13;
    at[i][0] -= *anchor == 's' ? 0 : *anchor == 'm' ? 150 : 300; /* left edge; "label" is about 300 wide */
    for (int j = 0; j < i; j++) ck_assert(fabs(at[i][1] - at[j][1]) > 140 || fabs(at[i][0] - at[j][0]) > 290);
    t++;
  }
  free(text);
}
END_TEST

START_TEST(charts_refuse) {
  ck_assert_int_eq(lk_svg_write(ctx, "chart.svg", NULL, 0, NULL), LK_EARG);
  expect_error(LK_EARG, "0 panels");
  lk_panel p = {.title = "x"};
  ck_assert_int_eq(lk_svg_write(ctx, "no/where.svg", NULL, 1, &p), LK_EIO);
  expect_error(LK_EIO, "no/where.svg");
}
END_TEST

/* ---- failing memory ---- */

static lk_status story(lk_ctx *c, void *arg) {
  double x[] = {1, 2}, y[] = {3, 4};
  lk_series s = {.n = 2, .x = x, .y = y, .labels = (const char *const[]){"a", "b"}};
  lk_panel p = {.title = "t", .nseries = 1, .series = &s};
  lk_metrics *m = lk_metrics_open(c, "m", 1);
  lk_table *t = lk_table_new(c, 2, (const char *const[]){"a", "b"});
  (void)arg;
  put_line(m, 1, .5, "x");
  lk_metrics_close(m);
  for (int i = 0; i < 12; i++) lk_table_cell(t, "%d", i);
  lk_table_rule(t);
  lk_free(c, lk_table_text(t));
  lk_table_free(t);
  lk_svg_write(c, "c.svg", NULL, 1, &p);
  return lk_error(c, NULL);
}

START_TEST(every_allocation_may_fail) {
  uint64_t count = 0;
  const char *why = test_each_allocation(story, NULL, &count);
  ck_assert_msg(why == NULL, "%s", why);
  ck_assert_uint_gt(count, 30);
}
END_TEST

int main(void) {
  Suite *s = suite_create("tools");
  TCase *t = tcase_create("tools");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, plain_lines_come_at_intervals);
  tcase_add_test(t, plain_lines_without_total);
  tcase_add_test(t, a_terminal_line_is_redrawn);
  tcase_add_test(t, a_terminal_line_fits);
  tcase_add_test(t, resumed_steps_are_not_part_of_the_rate);
  tcase_add_test(t, no_stream_prints_nothing);
  tcase_add_test(t, metrics_are_json_lines);
  tcase_add_test(t, metrics_continue);
  tcase_add_test(t, metrics_report_what_the_system_refuses);
  tcase_add_test(t, tables_line_up);
  tcase_add_test(t, tables_print);
  tcase_add_test(t, charts_escape_and_repair_text);
  tcase_add_test(t, charts_draw_what_can_be_shown);
  tcase_add_test(t, charts_survive_any_range);
  tcase_add_test(t, ticks_are_round);
  tcase_add_test(t, labels_do_not_overlap);
  tcase_add_test(t, charts_refuse);
  tcase_add_test(t, every_allocation_may_fail);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
