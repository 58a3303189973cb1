/* options.h: command lines from tables: parsing, range errors, --help.
 *
 *   static const option table[] = {{"epochs", OPTION_INT, offsetof(settings, epochs), 0, 1e6, "N", "passes over the data"}, {0}};
 *   const option_group groups[] = {{"Training", table, &settings}, {0}};
 *   switch (options_parse("program", groups, argc, argv)) ...                                                    */
#ifndef OPTIONS_H
#define OPTIONS_H
#include <stddef.h>
#include <stdio.h>

typedef enum option_type {
  OPTION_FLAG, /* int, set to 1; takes no value */
  OPTION_INT,  /* int64_t */
  OPTION_REAL, /* double */
  OPTION_TEXT, /* const char *, into argv */
  OPTION_LIST, /* option_list; may be given several times */
  OPTION_WORD  /* int, the word's place in `value` */
} option_type;

/* The values of an option that may be given several times, into argv. */
enum { OPTION_LIST_MOST = 32 };
typedef struct option_list {
  const char *item[OPTION_LIST_MOST];
  int n;
} option_list;

/* One option, "--key value" or "--key=value".  A table ends with {0}. */
typedef struct option {
  const char *key;
  option_type type;
  size_t offset;     /* of its place in the group's struct, which holds the default before parsing */
  double low, high;  /* inclusive range of INT and REAL */
  const char *value; /* what --help calls the value, "N"; of a WORD all words, "constant|linear|cosine" */
  const char *help;  /* a line without a full stop; the default is added to it */
} option;

/* Options under one title, for one struct.  A list ends with {0}. */
typedef struct option_group {
  const char *title;
  const option *options;
  void *to;
} option_group;

typedef enum options_outcome { OPTIONS_OK, OPTIONS_HELP, OPTIONS_WRONG } options_outcome;

/* Fills the groups' structs.  OPTIONS_HELP: --help or -h is there, and nothing was changed.  OPTIONS_WRONG: one
 * sentence on stderr says what is wrong; an unknown option gets the closest known one. */
options_outcome options_parse(const char *program, const option_group *groups, int argc, char **argv);
/* All options with their values, help and defaults. */
void options_help(const option_group *groups, FILE *to);

#endif
