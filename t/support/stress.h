/*
 * stress: everything a pool can do, by many threads at once, on connections that go to and fro between leases and
 * statements; and what must always hold, counted. ask.h says what is asked and what must come back.
 *
 * Two pools are pressed, one with reset=rollback and one with reset=clean. It goes by rounds: in every other one
 * there are more leases wanted than connections, and they leave behind whatever a session can hold.
 *
 * With one seed each thread draws the same statements in the same order; how they meet is up to the machine.
 */
#ifndef SUPPORT_STRESS_H
#define SUPPORT_STRESS_H

#include <stdint.h>

#include "pg.h"

enum { STRESS_MAX_SIZE = 6, STRESS_THREADS = 24 };

typedef struct stress_plan {
    int64_t statements;
    uint64_t seed;
    int64_t first;       /* the first nonce, above all that were used */
    int kill_ms;         /* a server process is terminated this often; 0: none */
    const char *options; /* of both pools, or "" */
} stress_plan;

/* What was found. May lie in memory that another process looks at meanwhile. */
typedef struct stress_tally {
    /* must be 0 */
    _Atomic int64_t wrong;        /* an answer that was not the statement's own; all kinds of it */
    _Atomic int64_t values;       /* of these: worked out with another's types, and no error */
    _Atomic int64_t foreign;      /* of these: of a session in which somebody had left something */
    _Atomic int64_t undocumented; /* a failure that may not be */
    _Atomic int64_t dirty;        /* a lease of a pool with reset=clean that was not */
    _Atomic int64_t misused;      /* a call about leases or tickets that failed */
    _Atomic int64_t lost, twice;  /* writes that stand less, or more often, than their outcome says */
    _Atomic int64_t torn;         /* all-or-nothing groups of which a part stands */
    _Atomic int64_t sums, over;   /* figures that did not add up; ms with too many server processes */
    _Atomic int64_t leaked;       /* what the pools still had out when all was over */

    /* must not be 0 */
    _Atomic int64_t asked, judged, abandoned; /* asked = judged + abandoned */
    _Atomic int64_t groups, tickets, elsewhere, leases, lease_statements, dirt, alone;
    _Atomic int64_t to_shared, to_lease; /* server processes that changed sides */
    _Atomic int64_t kept;                /* writes that stand */
    _Atomic int64_t unknown, ended;      /* with kill_ms */
    _Atomic int64_t slowest_ms;          /* of what a thread does at a time; for the reader */

    _Atomic int told; /* of what must not be, the first are shown */
} stress_tally;

/* Makes the tables; once, before the first run. */
void stress_prepare(PGconn *ctl);

/* Runs it to its end; two pools are opened and freed. Bails when it can't go on. */
void stress_run(PGconn *ctl, const stress_plan *plan, stress_tally *tally);

/* PQPOOL_SEED, or a number of its own. */
uint64_t stress_seed(void);

#endif
