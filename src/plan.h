/*
 * plan: the statements the pool knows by their text, so that each is looked at by the guard once, prepared once
 * on each connection, and known to be quick or slow.
 *
 * The key is the text, the number of parameters and their types: the same text prepared for an integer and run
 * with a float's bytes would give a wrong answer and no error. At most `limit` are kept; when one more comes, the
 * one not used for longest (to within a round of the clock's hand) makes room, unless it is pinned. Its place on
 * the connections is then the new one's, so a connection never holds more prepared statements than that.
 *
 * A plan is found without a lock: it is pinned first and compared afterwards, and one that is pinned keeps its
 * key. A reader who stands on an entry while it moves to another chain may miss what he looks for; he then looks
 * again under the lock.
 */
#ifndef PQP_PLAN_H
#define PQP_PLAN_H

#include <pqpool.h>

#include "base.h"
#include "clock.h"

/* An error for which a statement was run again in vain: it is not for that one again. */
enum { PQP_VAINS = 4 };
typedef struct pqp_vain {
    _Atomic uint64_t error; /* pqp_plan_error() */
    _Atomic int64_t at;
} pqp_vain;

typedef struct pqp_plan {
    int place;        /* constant: its index */
    _Atomic int pins; /* -1: it is being replaced */
    _Atomic int next; /* in its chain; -1: the end */
    _Atomic uint64_t hash;
    _Atomic int used;          /* since the hand came by */
    _Atomic int64_t cost;      /* how long it takes in the server, ns, a running estimate; 0: not known yet */
    _Atomic uint32_t renewals; /* times it had to be prepared anew everywhere */
    pqp_vain vain[PQP_VAINS];  /* errors that stayed when it was parsed anew, in a ring */
    _Atomic unsigned vains;
    /* constant while pinned */
    uint64_t id;   /* of this text; never used for another. 0: the entry is free */
    uint32_t text; /* a part of its name on the server, made of SQL and types */
    char *sql;
    size_t length;
    Oid *types; /* n_params of them; NULL: all 0 */
    int n_params;
} pqp_plan;

typedef struct pqp_plans {
    pqp_plan *all;
    _Atomic int *chains; /* heads, by hash */
    int limit, mask;
    _Atomic uint64_t
        ddl; /* statements that may change the meaning of others, as far as they pass through the pool */
    pqp_mutex mu;
    /* guarded by mu */
    int count, hand;
    uint64_t ids;
} pqp_plans;

/* limit 0: it keeps none, and every find and add returns NULL. */
int pqp_plans_init(pqp_plans *t, int limit) PQP_MUSTCHECK; /* 0 or an errno value */
void pqp_plans_fini(pqp_plans *t);

/* Length: of s->sql. Both return the plan pinned, or NULL: it is not there; there is no room or no memory. */
pqp_plan *pqp_plans_find(pqp_plans *t, const pqpool_stmt *s, size_t length) PQP_MUSTCHECK;
pqp_plan *pqp_plans_add(pqp_plans *t, const pqpool_stmt *s, size_t length) PQP_MUSTCHECK;
void pqp_plan_unpin(pqp_plan *plan); /* NULL is allowed */

/*
 * A statement that ran under a name parsed earlier has failed; perhaps the types of its parameters have grown old
 * (prepared.h). error: pqp_plan_error() of it. Whether it is worth to run it once more, parsed anew: not for an error
 * that has stayed before, and not oftener in vain than PQP_VAINS times a second.
 */
bool pqp_plan_doubts(const pqp_plan *plan, uint64_t error, pqp_time now);
/* It was run once more, and ended like this (0: well). */
void pqp_plan_judge(pqp_plan *plan, uint64_t before, uint64_t after, pqp_time now);
/* An error as a number: the same for the same words, as long as no DDL has passed through the pool. Not 0. */
uint64_t pqp_plan_error(const pqp_plans *t, const char *sqlstate, const char *message);

/* It took so long. What counts as at most `cap`, so that one odd run does not decide. */
void pqp_plan_took(pqp_plan *plan, pqp_time span, pqp_time cap);

#endif
