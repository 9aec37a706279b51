/* main: the command pqpool: finds the subcommand. */
#include "demo.h"

#include <pqpool.h>
#include <stdio.h>
#include <string.h>

static const char help[] = "Usage: pqpool demo [OPTION]... [CONNINFO]\n"
                           "       pqpool --version | --help\n"
                           "\n"
                           "  demo   measure on your PostgreSQL server what sharing a connection saves;\n"
                           "         pqpool demo --help tells its options\n";

int main(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : NULL;
    if (!word) {
        fputs(help, stderr);
        return 2;
    }
    if (strcmp(word, "demo") == 0)
        return demo_main(argc - 1, argv + 1);
    if (strcmp(word, "--version") == 0) {
        printf("pqpool %s\n", pqpool_version());
        return 0;
    }
    if (strcmp(word, "--help") == 0) {
        fputs(help, stdout);
        return 0;
    }
    fprintf(stderr, "pqpool: unknown %s %s; see pqpool --help\n", word[0] == '-' ? "option" : "subcommand",
            word);
    return 2;
}
