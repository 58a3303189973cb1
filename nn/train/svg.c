/* svg.c: writes charts as SVG: frame, axes, legend, lines, markers, error bars, labels.
 *
 * Coordinates in the file are whole tenths of a unit, so that no locale's decimal comma can get into it. */
#include "chart.h"

#include <lorikeet/file.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 560, HEIGHT = 420, LEFT = 72, RIGHT = 22, TOP = 46, BOTTOM = 58, HEAD = 38, LEGEND = 20, COLORS = 8 };
#define MARK 4.6 /* half size of a marker */
#define T(v) ((int)lround(10 * (v)))

static const char *const palette[COLORS] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                            "#e69f00", "#56b4e9", "#444444", "#8c6d1f"};

typedef struct chart {
  lk_writer *w;
  const lk_panel *panel;
  lk_axis x, y;
  lk_box plot;
} chart;

/* Bytes of the UTF-8 sequence at s, or 0 if there is none. */
static int sequence(const char *s) {
  unsigned char c = (unsigned char)*s;
  int n = c < 0x80 ? 1 : c >= 0xC2 && c < 0xE0 ? 2 : (c & 0xF0) == 0xE0 ? 3 : c >= 0xF0 && c < 0xF5 ? 4 : 0;
  for (int i = 1; i < n; i++)
    if (((unsigned char)s[i] & 0xC0) != 0x80) return 0;
  unsigned char second = n > 1 ? (unsigned char)s[1] : 0;
  int bad = (c == 0xE0 && second < 0xA0) || (c == 0xED && second > 0x9F) || (c == 0xF0 && second < 0x90) ||
            (c == 0xF4 && second > 0x8F) || (c == 0xEF && second == 0xBF && (unsigned char)s[2] > 0xBD);
  return bad ? 0 : n;
}

/* Text as XML: markup escaped, control characters blank, broken UTF-8 as a question mark. */
static void put_text(lk_writer *w, const char *s) {
  while (*s) {
    int n = sequence(s);
    const char *entity = *s == '&' ? "&amp;" : *s == '<' ? "&lt;" : *s == '>' ? "&gt;" : *s == '"' ? "&quot;" : NULL;
    if (entity) lk_writef(w, "%s", entity);
    else if (n == 1 && ((unsigned char)*s < 0x20 || *s == 0x7F)) lk_writef(w, " ");
    else if (n == 0) lk_writef(w, "?");
    else lk_write(w, s, (size_t)n);
    s += n ? n : 1;
  }
}

/* About what a text takes at 12 units, in the widest of the usual fonts. */
static double text_width(const char *s) {
  double width = 0;
  for (; *s; s++) {
    if (((unsigned char)*s & 0xC0) == 0x80) continue;
    int narrow = strchr("fijlrtI.,:;'()/|- ", *s) != NULL, wide = (*s >= 'A' && *s <= 'Z') || strchr("mw%&=<>+", *s);
    width += narrow ? 4.6 : wide ? 9.2 : 7.5;
  }
  return width;
}

static void put_label(lk_writer *w, double x, double y, const char *style, const char *anchor, const char *text) {
  lk_writef(w, "<text x=\"%d\" y=\"%d\" class=\"%s\" text-anchor=\"%s\">", T(x), T(y), style, anchor);
  put_text(w, text);
  lk_writef(w, "</text>\n");
}

static void put_line(lk_writer *w, double x0, double y0, double x1, double y1, const char *style) {
  lk_writef(w, "<path class=\"%s\" d=\"M%d %dL%d %d\"/>\n", style, T(x0), T(y0), T(x1), T(y1));
}

static int color_of(const lk_panel *p, int i) {
  int c = p->series[i].color;
  return (c > 0 ? c - 1 : i) % COLORS;
}

/* Every colour has its shape too. */
static void put_marker(lk_writer *w, double x, double y, int color) {
  double r = MARK;
  lk_writef(w, "<path class=\"mark\" fill=\"%s\" d=\"", palette[color]);
  switch (color % 4) {
  case 0:
    lk_writef(w, "M%d %da%d %d 0 1 0 %d 0a%d %d 0 1 0 -%d 0", T(x - r), T(y), T(r), T(r), T(2 * r), T(r), T(r),
              T(2 * r));
    break;
  case 1:
    r *= .9;
    lk_writef(w, "M%d %dh%dv%dh-%d", T(x - r), T(y - r), T(2 * r), T(2 * r), T(2 * r));
    break;
  case 2:
    r *= 1.15;
    lk_writef(w, "M%d %dl%d %dh-%d", T(x), T(y - r), T(r), T(1.8 * r), T(2 * r));
    break;
  default:
    r *= 1.25;
    lk_writef(w, "M%d %dl%d %dl-%d %dl-%d -%d", T(x), T(y - r), T(r), T(r), T(r), T(r), T(r), T(r));
    break;
  }
  lk_writef(w, "z\"/>\n");
}

static int shows(const chart *c, const lk_series *s, int64_t i) {
  return lk_axis_shows(&c->x, s->x[i]) && lk_axis_shows(&c->y, s->y[i]);
}

static double error_of(const lk_series *s, int64_t i) {
  return s->error && isfinite(s->error[i]) ? fabs(s->error[i]) : 0;
}

static void widen(double *low, double *high, double v, const lk_axis *a) {
  if (!lk_axis_shows(a, v)) return;
  *low = fmin(*low, v);
  *high = fmax(*high, v);
}

static void make_axes(chart *c) {
  double x0 = HUGE_VAL, x1 = -HUGE_VAL, y0 = HUGE_VAL, y1 = -HUGE_VAL;
  c->x.log = c->panel->log_x;
  c->y.log = c->panel->log_y;
  for (int k = 0; k < c->panel->nseries; k++) {
    const lk_series *s = &c->panel->series[k];
    for (int64_t i = 0; i < s->n; i++) {
      if (!shows(c, s, i)) continue;
      widen(&x0, &x1, s->x[i], &c->x);
      widen(&y0, &y1, s->y[i] - error_of(s, i), &c->y);
      widen(&y0, &y1, s->y[i] + error_of(s, i), &c->y);
    }
  }
  lk_axis_init(&c->x, x0, x1, c->panel->log_x, c->plot.x0, c->plot.x1);
  lk_axis_init(&c->y, y0, y1, c->panel->log_y, c->plot.y1, c->plot.y0);
}

static void draw_axes(const chart *c) {
  lk_box b = c->plot;
  char text[32];
  for (int i = 0; i < c->y.ticks; i++) {
    double y = lk_axis_at(&c->y, c->y.tick[i]);
    put_line(c->w, b.x0, y, b.x1, y, "grid");
    lk_axis_format(&c->y, c->y.tick[i], text, sizeof text);
    put_label(c->w, b.x0 - 8, y + 4, "tick", "end", text);
  }
  for (int i = 0; i < c->x.ticks; i++) {
    double x = lk_axis_at(&c->x, c->x.tick[i]);
    put_line(c->w, x, b.y1, x, b.y1 + 5, "axis");
    lk_axis_format(&c->x, c->x.tick[i], text, sizeof text);
    put_label(c->w, x, b.y1 + 19, "tick", "middle", text);
  }
  put_line(c->w, b.x0, b.y1, b.x1, b.y1, "axis");
  if (c->panel->x_label) put_label(c->w, (b.x0 + b.x1) / 2, b.y1 + 42, "name", "middle", c->panel->x_label);
  if (!c->panel->y_label) return;
  lk_writef(c->w, "<g transform=\"translate(%d %d) rotate(-90)\">", T(b.x0 - 52), T((b.y0 + b.y1) / 2));
  put_label(c->w, 0, 0, "name", "middle", c->panel->y_label);
  lk_writef(c->w, "</g>\n");
}

/* One path; a new sub-path after every point that cannot be shown. */
static void draw_line(const chart *c, const lk_series *s, int color) {
  int open = 0;
  lk_writef(c->w, "<path class=\"line\" stroke=\"%s\" d=\"", palette[color]);
  for (int64_t i = 0; i < s->n; i++) {
    int show = shows(c, s, i);
    if (show)
      lk_writef(c->w, open ? "L%d %d" : "M%d %dh0", T(lk_axis_at(&c->x, s->x[i])), T(lk_axis_at(&c->y, s->y[i])));
    open = show;
  }
  lk_writef(c->w, "\"/>\n");
}

/* Coordinates of the ends of an error bar; a logarithmic axis ends where it must. */
static void error_ends(const chart *c, const lk_series *s, int64_t i, double *top, double *low) {
  double e = error_of(s, i), v = s->y[i];
  *top = fmax(lk_axis_at(&c->y, v + e), c->plot.y0);
  *low = lk_axis_shows(&c->y, v - e) ? fmin(lk_axis_at(&c->y, v - e), c->plot.y1) : c->plot.y1;
}

static void draw_points(const chart *c, const lk_series *s, int color) {
  for (int64_t i = 0; i < s->n; i++) {
    if (!shows(c, s, i)) continue;
    double x = lk_axis_at(&c->x, s->x[i]), top, low;
    if (error_of(s, i) > 0) {
      error_ends(c, s, i, &top, &low);
      lk_writef(c->w, "<path class=\"error\" stroke=\"%s\" d=\"M%d %dV%dM%d %dh80M%d %dh80\"/>\n", palette[color], T(x),
                T(top), T(low), T(x - 4), T(top), T(x - 4), T(low));
    }
    put_marker(c->w, x, lk_axis_at(&c->y, s->y[i]), color);
  }
}

/* ---- legend ---- */
/* Rows that the legend takes; draws it if w is not NULL, its first row at y. */
static int legend(lk_writer *w, const lk_panel *p, double left, double y) {
  double x = left, right = left + WIDTH - LEFT - RIGHT;
  int rows = 0;
  for (int i = 0; i < p->nseries; i++) {
    const lk_series *s = &p->series[i];
    if (!s->name) continue;
    double width = 28 + text_width(s->name) + 12;
    if (rows == 0 || (x + width > right && x > left)) {
      x = left;
      y += rows++ ? LEGEND : 0;
    }
    if (w) {
      if (s->style != LK_SERIES_POINTS)
        lk_writef(w, "<path class=\"line\" stroke=\"%s\" d=\"M%d %dh200\"/>\n", palette[color_of(p, i)], T(x),
                  T(y - 4));
      if (s->style != LK_SERIES_LINE) put_marker(w, x + 10, y - 4, color_of(p, i));
      put_label(w, x + 27, y, "name", "start", s->name);
    }
    x += width;
  }
  return rows;
}

/* ---- labels ---- */
/* What labels must not cover: markers and error bars.  Returns how many. */
static int64_t take_boxes(const chart *c, lk_box *box) {
  int64_t n = 0;
  for (int k = 0; k < c->panel->nseries; k++) {
    const lk_series *s = &c->panel->series[k];
    for (int64_t i = 0; s->style != LK_SERIES_LINE && i < s->n; i++) {
      if (!shows(c, s, i)) continue;
      double x = lk_axis_at(&c->x, s->x[i]), y = lk_axis_at(&c->y, s->y[i]), top, low;
      box[n++] = (lk_box){x - MARK - 2, y - MARK - 2, x + MARK + 2, y + MARK + 2};
      error_ends(c, s, i, &top, &low);
      if (error_of(s, i) > 0) box[n++] = (lk_box){x - 5, top, x + 5, low};
    }
  }
  return n;
}

static void draw_label(const chart *c, const char *text, double x, double y, lk_box *box, int64_t *n) {
  lk_box frame = {c->plot.x0, c->plot.y0 - 8, c->plot.x1 + RIGHT - 4, c->plot.y1};
  int far = 0;
  lk_box b = lk_label_place(box, *n, frame, x, y, text_width(text), 15, &far);
  box[(*n)++] = b;
  double nx = fmin(fmax(x, b.x0), b.x1), ny = fmin(fmax(y, b.y0 + 2), b.y1 - 2);
  if (far) put_line(c->w, x, y, nx, ny, "lead");
  int side = b.x0 >= x ? 0 : b.x1 <= x ? 2 : 1;
  put_label(c->w,
            side == 0   ? b.x0
            : side == 1 ? (b.x0 + b.x1) / 2
                        : b.x1,
            b.y1 - 3.5, "label", (const char *const[]){"start", "middle", "end"}[side], text);
}

static lk_status draw_labels(const chart *c, lk_ctx *ctx) {
  size_t boxes = 0;
  int64_t n;
  for (int k = 0; k < c->panel->nseries; k++) boxes += 3 * (size_t)c->panel->series[k].n;
  lk_box *box = lk_alloc_array(ctx, boxes + 1, sizeof *box);
  if (!box) return lk_error(ctx, NULL);
  n = take_boxes(c, box);
  for (int k = 0; k < c->panel->nseries; k++) {
    const lk_series *s = &c->panel->series[k];
    for (int64_t i = 0; s->labels && i < s->n; i++)
      if (s->labels[i] && shows(c, s, i))
        draw_label(c, s->labels[i], lk_axis_at(&c->x, s->x[i]), lk_axis_at(&c->y, s->y[i]), box, &n);
  }
  lk_free(ctx, box);
  return LK_OK;
}

/* ---- the picture ---- */
static void draw_panel(lk_ctx *ctx, lk_writer *w, const lk_panel *p, double x, double y, double height) {
  chart c = {.w = w, .panel = p};
  double top = y + TOP + legend(NULL, p, 0, 0) * LEGEND;
  int any = 0;
  c.plot = (lk_box){x + LEFT, top, x + WIDTH - RIGHT, y + height - BOTTOM};
  make_axes(&c);
  if (p->title) put_label(w, c.plot.x0, y + 24, "title", "start", p->title);
  legend(w, p, c.plot.x0, y + 46);
  draw_axes(&c);
  for (int pass = 0; pass < 2; pass++) /* lines below markers */
    for (int i = 0; i < p->nseries; i++) {
      const lk_series *s = &p->series[i];
      for (int64_t k = 0; k < s->n; k++) any |= shows(&c, s, k);
      if (pass == 0 && s->style != LK_SERIES_POINTS) draw_line(&c, s, color_of(p, i));
      if (pass == 1 && s->style != LK_SERIES_LINE) draw_points(&c, s, color_of(p, i));
    }
  if (!any) put_label(w, (c.plot.x0 + c.plot.x1) / 2, (c.plot.y0 + c.plot.y1) / 2, "name", "middle", "no data");
  draw_labels(&c, ctx);
}

static const char style[] =
    "<style>text{font-family:Helvetica,Arial,'DejaVu Sans',sans-serif;fill:#222}"
    ".head{font-size:165px;font-weight:bold}.title{font-size:135px;font-weight:bold}"
    ".name{font-size:120px}.tick{font-size:115px;fill:#555}"
    ".label{font-size:120px;paint-order:stroke;stroke:#fff;stroke-width:30px;stroke-linejoin:round}"
    ".grid{stroke:#e4e4e4;stroke-width:10}.axis{stroke:#777;stroke-width:12}.lead{stroke:#aaa;stroke-width:8}"
    ".line{fill:none;stroke-width:18;stroke-linejoin:round;stroke-linecap:round}"
    ".error{stroke-width:14}.mark{stroke:#fff;stroke-width:8}</style>\n";

lk_status lk_svg_write(lk_ctx *ctx, const char *path, const char *title, int n, const lk_panel *panels) {
  if (n < 1) return lk_fail(ctx, LK_EARG, "%s: a picture of %d panels", path, n);
  int rows = 0, head = title ? HEAD : 0;
  for (int i = 0; i < n; i++) {
    int r = legend(NULL, &panels[i], 0, 0);
    if (r > rows) rows = r;
  }
  int width = n * WIDTH, panel = HEIGHT + (rows > 1 ? rows - 1 : 0) * LEGEND, height = head + panel;
  lk_writer *w = lk_writer_open(ctx, path);
  if (!w) return lk_error(ctx, NULL);
  lk_writef(
      w, "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\">\n",
      width, height, T(width), T(height));
  if (title) {
    lk_writef(w, "<title>");
    put_text(w, title);
    lk_writef(w, "</title>\n");
  }
  lk_writef(w, "%s<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n", style, T(width), T(height));
  if (title) put_label(w, 20, 30, "head", "start", title);
  for (int i = 0; i < n; i++) draw_panel(ctx, w, &panels[i], i * WIDTH, head, panel);
  lk_writef(w, "</svg>\n");
  return lk_writer_commit(w);
}
