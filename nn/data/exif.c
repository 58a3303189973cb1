/* exif.c: the orientation tag of an EXIF block (CIPA DC-008; TIFF 6.0's first directory). */
#include "data/decode.h"

#include <string.h>

enum { ORIENTATION = 0x0112, SHORT = 3, ENTRY = 12 };

static uint32_t number(const uint8_t *p, int bytes, int big) {
  uint32_t v = 0;
  for (int i = 0; i < bytes; i++) v |= (uint32_t)p[i] << 8 * (big ? bytes - 1 - i : i);
  return v;
}

int lk_exif_orientation(const uint8_t *p, size_t n) {
  if (n < 8 || (memcmp(p, "II*\0", 4) && memcmp(p, "MM\0*", 4))) return 1;
  int big = p[0] == 'M';
  size_t at = number(p + 4, 4, big);
  if (at > n - 2) return 1;
  uint32_t entries = number(p + at, 2, big);
  for (at += 2; entries-- && n - at >= ENTRY; at += ENTRY)
    if (number(p + at, 2, big) == ORIENTATION && number(p + at + 2, 2, big) == SHORT) {
      uint32_t value = number(p + at + 8, 2, big);
      return value >= 1 && value <= 8 ? (int)value : 1;
    }
  return 1;
}
