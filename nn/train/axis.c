/* axis.c: axes of charts: ranges, round ticks, their texts. */
#include "chart.h"

#include <math.h>
#include <stdio.h>

int lk_axis_shows(const lk_axis *a, double v) { return fabs(v) < 1e300 && (!a->log || v > 1e-300); }

double lk_axis_at(const lk_axis *a, double v) {
  double t = ((a->log ? log10(v) : v) - a->low) / (a->high - a->low);
  return a->from + t * (a->to - a->from);
}

static void add_tick(lk_axis *a, double value) {
  double v = a->log ? log10(value) : value, slack = 1e-9 * (a->high - a->low);
  if (v >= a->low - slack && v <= a->high + slack && a->ticks < LK_MAXTICKS) a->tick[a->ticks++] = value;
}

/* 1, 2 or 5 times a power of ten, so that about `wanted` steps fill the span. */
static double round_step(double span, double wanted) {
  double power = pow(10, floor(log10(span / wanted))), rest = span / wanted / power;
  return power * (rest < 1.5 ? 1 : rest < 3.5 ? 2 : rest < 7.5 ? 5 : 10);
}

static void linear_ticks(lk_axis *a) {
  double step = round_step(a->high - a->low, 5), first = ceil(a->low / step - 1e-9);
  a->decimals = (int)fmax(0, -floor(log10(step) + 1e-9));
  for (int i = 0; i < LK_MAXTICKS; i++) add_tick(a, (first + i) * step);
}

/* Powers of ten, in larger strides over many decades; with 2 and 5 over few. */
static void log_ticks(lk_axis *a) {
  double decades = a->high - a->low;
  int stride = (int)fmax(1, ceil(decades / 6)), first = (int)floor(a->low);
  for (int e = first; e <= a->high + 1; e++) {
    if ((e - first) % stride != 0) continue;
    add_tick(a, pow(10, e));
    if (decades < 2.7) {
      add_tick(a, 2 * pow(10, e));
      add_tick(a, 5 * pow(10, e));
    }
  }
}

void lk_axis_init(lk_axis *a, double low, double high, int log, double from, double to) {
  *a = (lk_axis){.log = log, .from = from, .to = to};
  if (low > high) {
    low = log ? 1 : 0;
    high = log ? 10 : 1;
  }
  a->low = log ? log10(low) : low;
  a->high = log ? log10(high) : high;
  double span = a->high - a->low;
  /* one value, or values that differ by rounding, still get a readable axis */
  if (span <= 1e-9 * fmax(fabs(a->low), fabs(a->high))) {
    span = log ? 1 : a->low != 0 ? fabs(a->low) : 1;
    a->low -= span / 2;
    a->high += span / 2;
  }
  a->low -= .07 * span;
  a->high += .07 * span;
  if (!log && low >= 0 && a->low < 0) a->low = 0;
  if (log) log_ticks(a);
  if (a->ticks < 2 && log) { /* less than a step of 1, 2, 5: round values of the span */
    double step = round_step(pow(10, a->high) - pow(10, a->low), 3);
    a->ticks = 0;
    for (double v = ceil(pow(10, a->low) / step) * step; log10(v) <= a->high; v += step) add_tick(a, v);
  }
  if (!log) linear_ticks(a);
}

void lk_axis_format(const lk_axis *a, double v, char *out, size_t size) {
  static const struct {
    double unit;
    const char *suffix;
  } units[] = {{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}};
  double largest = a->log ? v : fmax(fabs(a->tick[0]), fabs(a->tick[a->ticks - 1]));
  double step = a->log || a->ticks < 2 ? largest : a->tick[1] - a->tick[0];
  int unit = 0;
  while (unit < 4 && largest < units[unit].unit) unit++;
  if (largest < 1e-3 && v != 0) snprintf(out, size, "%.3g", v);
  else if (unit < 4 && (a->log || largest >= 1e4) && step > 1e-5 * largest && v != 0)
    snprintf(out, size, "%.6g%s", v / units[unit].unit, units[unit].suffix);
  else if (a->log) snprintf(out, size, "%g", v);
  else snprintf(out, size, "%.*f", a->decimals, v);
}
