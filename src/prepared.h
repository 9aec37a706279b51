/*
 * prepared: the prepared statements of one connection. Guarded by its lane's lock; knows no libpq.
 *
 * Each plan of the pool (plan.h) has a place, and a connection has at most one prepared statement for each place.
 * On the server it has a name made of a number, and a number is never used twice on a connection: what an answer
 * says of it can then be said of nothing else. Only answers, in the order in which they come, make a statement
 * READY or take it away, for a Parse or a Close that was sent may be skipped after an earlier error of its unit.
 */
#ifndef PQP_PREPARED_H
#define PQP_PREPARED_H

#include "base.h"

typedef struct pqp_prepared {
    uint64_t plan;   /* whose it is (pqp_plan.id); 0: the place was never used */
    uint32_t number; /* its name; 0: there is none on the server */
    bool stale;      /* the server would refuse it: to be closed, and made anew under another number */
} pqp_prepared;

typedef struct pqp_prepared_set {
    pqp_prepared *at; /* by place */
    int places;
    uint32_t numbers; /* given so far; goes on counting when the connection is another */
} pqp_prepared_set;

void pqp_prepared_fini(pqp_prepared_set *s);

/* The connection has none any more. */
void pqp_prepared_forget(pqp_prepared_set *s);

/* What is to be done to run a plan by name. */
typedef struct pqp_use {
    uint32_t number; /* 0: no memory; run it without a name */
    bool parse;      /* it must be parsed first */
    uint32_t close;  /* the one that had the place before must be closed first; 0: none */
} pqp_use;
/* Without may_close, a place that another one holds stays as it is, and number is 0. */
pqp_use pqp_prepared_use(pqp_prepared_set *s, int place, uint64_t plan, bool may_close);

/* Its Parse failed, or was skipped. */
void pqp_prepared_failed(pqp_prepared_set *s, int place, uint32_t number);
/* The server would not run it: it knows the name no more (gone), or its result's columns have changed. */
void pqp_prepared_refused(pqp_prepared_set *s, int place, uint32_t number, bool gone);

#endif
