/* settings: what `pqpool demo` was told on its command line. */
#include "settings.h"

#include "cell.h"
#include "progress.h"
#include "request.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DONE 1
#define WRONG 3
#define HINT "; see pqpool demo --help"

static const char help[] =
    "Usage: pqpool demo [OPTION]... [CONNINFO]\n"
    "Measures on your PostgreSQL server what sharing a connection between parallel statements saves:\n"
    "the article list of a meeting board, asked for in five ways. Makes a schema of its own, named\n"
    "pqpool_demo_ and a number, and removes it at the end.\n"
    "\n"
    "  --users N           users at the same time, 1 to 64 (8)\n"
    "  --seconds S         how long to measure each cell in all, 0.1 to 3600 (1.5)\n"
    "  --rounds N          in how many rounds, the ways in turn in each, 1 to 99 (3)\n"
    "  --rtt MS            round trip to add, 0 to 1000; 0 goes to the server directly (both 0 and 1)\n"
    "  --statements FORM   3: 1 + 3 statements, 5: 1 + 5, 12: 1 + 5 + 1 + 5 (both 3 and 5)\n"
    "  --format FORMAT     table (with what it means in words) or tsv (table)\n"
    "  --help              this text\n"
    "\n"
    "CONNINFO is a libpq connection string or URI, in which options of the pool may stand\n"
    "(pool_max_size=20). Without it libpq's defaults hold, and PGHOST, PGPORT and so on.\n"
    "\n"
    "The ways: serial (a lease for each statement, one after another), parallel (a lease for each\n"
    "statement, those of a group at once), transaction (one lease around all), shared (on one shared\n"
    "connection), shared-auto (the pool may open more shared connections when it is busy).\n"
    "\n"
    "Exit status: 0 if all went well, 1 after an error or a wrong answer, 2 for wrong usage;\n"
    "the signal that stopped it, if one did.\n";

/* Reads a number in bounds; false after having complained. */
static bool read_number(const char *option, const char *text, double min, double max, double *number)
{
    char *end;
    *number = strtod(text, &end);
    if (end != text && *end == '\0' && isfinite(*number) && *number >= min && *number <= max)
        return true;
    complain("--%s %s: must be a number from %g to %g" HINT, option, text, min, max);
    return false;
}

static bool read_whole(const char *option, const char *text, int min, int max, int *number)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (end != text && *end == '\0' && value >= min && value <= max) {
        *number = (int)value;
        return true;
    }
    complain("--%s %s: must be a whole number from %d to %d" HINT, option, text, min, max);
    return false;
}

static bool read_form(settings *s, const char *text)
{
    char *end;
    long form = strtol(text, &end, 10);
    if (end == text || *end != '\0' || form > 100 || !request_form_exists((int)form)) {
        complain("--statements %s: must be 3, 5 or 12" HINT, text);
        return false;
    }
    s->forms[0] = (int)form;
    s->n_forms = 1;
    return true;
}

static bool read_format(settings *s, const char *text)
{
    s->tsv = strcmp(text, "tsv") == 0;
    if (s->tsv || strcmp(text, "table") == 0)
        return true;
    complain("--format %s: must be table or tsv" HINT, text);
    return false;
}

static bool read_option(settings *s, int option)
{
    switch (option) {
    case 'u':
        return read_whole("users", optarg, 1, 64, &s->users);
    case 's':
        return read_number("seconds", optarg, 0.1, 3600, &s->seconds);
    case 'o':
        return read_whole("rounds", optarg, 1, MAX_ROUNDS, &s->rounds);
    case 'r':
        s->n_rtts = 1;
        return read_number("rtt", optarg, 0, 1000, &s->rtts[0]);
    case 'n':
        return read_form(s, optarg);
    case 'f':
        return read_format(s, optarg);
    default:
        return false;
    }
}

int settings_read(settings *s, int argc, char **argv)
{
    static const struct option options[] = {{"users", required_argument, NULL, 'u'},
                                            {"seconds", required_argument, NULL, 's'},
                                            {"rounds", required_argument, NULL, 'o'},
                                            {"rtt", required_argument, NULL, 'r'},
                                            {"statements", required_argument, NULL, 'n'},
                                            {"format", required_argument, NULL, 'f'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    *s = (settings){.users = 8,
                    .seconds = 1.5,
                    .rounds = 3,
                    .rtts = {0, 1},
                    .n_rtts = 2,
                    .forms = {3, 5},
                    .n_forms = 2,
                    .conninfo = ""};
    opterr = 0;
    for (int option; (option = getopt_long(argc, argv, ":", options, NULL)) != -1;) {
        if (option == 'h') {
            fputs(help, stdout);
            return DONE;
        }
        if (option == ':')
            complain("%s needs a value" HINT, argv[optind - 1]);
        else if (option == '?')
            complain("unknown option %s" HINT, argv[optind - 1]);
        if (!read_option(s, option))
            return WRONG;
    }
    if (argc - optind > 1) {
        complain("one connection string at most, but there is also '%s'" HINT, argv[optind + 1]);
        return WRONG;
    }
    if (optind < argc)
        s->conninfo = argv[optind];
    return 0;
}
