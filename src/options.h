/*
 * options: the one table of the pool's options, and all that is derived from it: names and aliases, parsing
 * with units, bounds, contradictions, printing, the nearest name for a misspelt one, and taking pool_
 * options out of a connection string.
 */
#ifndef PQP_OPTIONS_H
#define PQP_OPTIONS_H

#include "base.h"
#include <pqpool.h>
#include <stdio.h>

typedef enum { PQP_RESET_NONE, PQP_RESET_ROLLBACK, PQP_RESET_CLEAN, PQP_RESET_DISCARD } pqp_reset_level;
typedef enum { PQP_PRESET_NONE, PQP_PRESET_DEVELOPMENT, PQP_PRESET_QA, PQP_PRESET_PRODUCTION } pqp_preset;

#define PQP_NAME_SIZE 64

/*
 * The values. Times are in milliseconds, and 0 in a time that can be switched off means off. Integer-valued
 * throughout (enumerations and on/off too), but for the name, so that the table can reach each by its offset.
 */
typedef struct pqp_options {
    int64_t max_size, initial_size, min_idle, max_idle; /* max_idle < 0: as max_size */
    int64_t acquire_timeout, wait, queue_limit;
    int64_t outage_wait; /* < 0: as acquire_timeout */
    int64_t connect_timeout, connect_concurrency;
    int64_t idle_timeout, max_lifetime, max_uses, keeper_interval;
    int64_t test_on_borrow, test_while_idle, reset;
    int64_t shared_max, pipeline_depth, statement_timeout;
    int64_t max_result, max_buffer; /* bytes; 0: off */
    int64_t statement_cache_size, slow_lane_threshold, stall_threshold;
    int64_t slow_statement, leak_threshold, idle_tx_threshold, backtrace, log_level;
    int64_t health_interval, health_used, health_waiting;
    int64_t instances, batch_size, preset;
    char name[PQP_NAME_SIZE];
    uint64_t
        bare; /* bit i: a short time given as a number without a unit, which may have been meant in seconds */
    uint64_t given; /* bit i: row i of the table was set by name (not by a preset, not by default) */
} pqp_options;

/* One row of the table, as the outside may see it. */
typedef struct pqp_option_row {
    const char *name;
    const char *aliases;  /* separated by blanks, "" if none */
    const char *default_; /* as it would be written */
    const char *unit;     /* "ms", "" or "%": what a bare number means */
    int64_t min, max;
    bool changeable; /* by pqpool_set() while the pool runs */
    bool in_force;   /* false: checked and kept, but nothing acts on it in this version */
    const char *help;
} pqp_option_row;

/* The rows in order; NULL past the end. */
const pqp_option_row *pqp_options_row(int i);

/* All at their defaults. */
void pqp_options_init(pqp_options *o);

/*
 * Sets one option from text: `name` with or without "pool_", or any alias (aliases and names compare without
 * case). A preset sets its four options except those given by name, whichever comes first. On failure *o is
 * unchanged and err says EINVAL with the name, the value, and what would be right.
 */
pqpool_code pqp_options_set(pqp_options *o, const char *name, const char *value,
                            pqpool_error *err) PQP_MUSTCHECK;

/* What a name that is no option may have been meant for, as a sentence; false: nothing is known of it. In a
 * connection string names begin with "pool_", and one that does not has only forgotten it. */
bool pqp_options_suggest(const char *name, bool in_conninfo, char *buf, size_t size);

/* Options given by two names in one call contradict each other. Begin with all 0. */
typedef struct pqp_option_names {
    uint8_t of[64]; /* for each row, which name was used: 1 its own, from 2 on its aliases */
} pqp_option_names;

/* As pqp_options_set(), and refuses an option that *names has under another name already. */
pqpool_code pqp_options_take(pqp_options *o, pqp_option_names *names, const char *name, const char *value,
                             pqpool_error *err) PQP_MUSTCHECK;

/* The row of a name or alias, or -1. */
int pqp_options_find(const char *name);
bool pqp_options_given(const pqp_options *o, const char *name);

/* Writes the value in force as pqp_options_set() takes it ("30s", "on", "rollback"). */
pqpool_code pqp_options_print(const pqp_options *o, const char *name, char *buf, size_t size) PQP_MUSTCHECK;

/* Refuses contradictions, naming both options and both values. */
pqpool_code pqp_options_check(const pqp_options *o, pqpool_error *err) PQP_MUSTCHECK;

/*
 * Takes the pool_ options out of a conninfo string ("k=v k='v w'", libpq's quoting) or URI (query parameters,
 * percent-decoding) and sets them in *o. *rest becomes a malloc'd copy of everything else, byte for byte
 * (blanks and separators around a removed option aside), which the caller frees. A NULL conninfo is "".
 * Does not check contradictions, but that no option is given by two names (names as for pqp_options_take()). On failure *rest
 * is NULL.
 */
pqpool_code pqp_options_split(pqp_options *o, pqp_option_names *names, const char *conninfo, char **rest,
                              pqpool_error *err) PQP_MUSTCHECK;

/* Sets options from text of the same form, "max_size=4 pool_min_idle=2", all or none, in *o. Checks contradictions, too. */
pqpool_code pqp_options_parse(pqp_options *o, const char *text, pqpool_error *err) PQP_MUSTCHECK;

/* Whether text is a URI or a keyword=value string as libpq's dbname expansion sees it. */
bool pqp_options_is_conninfo(const char *text);

#endif
