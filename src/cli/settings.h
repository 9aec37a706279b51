/* settings: what `pqpool demo` was told on its command line. */
#ifndef CLI_SETTINGS_H
#define CLI_SETTINGS_H

#include <stdbool.h>

typedef struct settings {
    int users;
    double seconds; /* per cell, in all rounds */
    int rounds;
    double rtts[2];
    int n_rtts;
    int forms[2];
    int n_forms;
    bool tsv;
    const char *conninfo;
} settings;

/*
 * Reads the command line. 0: go on. Anything else: the command is done, with this exit status - 1 (help: 1,
 * wrong usage, told on stderr: 3).
 */
int settings_read(settings *s, int argc, char **argv);

#endif
