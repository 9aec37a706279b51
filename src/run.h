/*
 * run: one statement or a group on its way through the pool: it is placed on a lane, or waits for room; what came
 * back is looked at; what provably did not run is placed again.
 *
 * A run is carried by its caller, who blocks (pqp_run_exec), or by nobody (pqp_run_start): then each step is taken
 * by whoever brings it about, without locks, and in the end run->finished is called.
 */
#ifndef PQP_RUN_H
#define PQP_RUN_H

#include "pool.h"

typedef struct pqp_run {
    pqp_call call; /* the members that are still to have their answers */
    pqp_waiter waiter;
    pqpool *pool;
    const pqpool_stmt *stmts; /* first of n, stride apart; the owner's */
    size_t stride;
    PGresult **results;                  /* the owner's */
    pqpool_error *errors;                /* the owner's, or NULL */
    void (*finished)(struct pqp_run *r); /* NULL: the caller blocks */
    void *owner;
    _Atomic int withdrawn; /* not to be placed any more */
    _Atomic int holds;     /* who still looks at it: freed by the last */
    pqp_turn turn;
    bool atomic;       /* all or nothing */
    bool alone;        /* on a connection where nothing else runs */
    bool holder;       /* because its caller holds a lease */
    pqpool_code first; /* code of the first member, by index, that failed */
    int first_index;
    pqp_time began;
} pqp_run;

/*
 * Checks n >= 1 statements and makes a run of them; NULL: err says why, err->row which, and nothing was sent.
 * results (n of them) and errors (n or NULL) are written until the run is over, and read from no more.
 */
pqp_run *pqp_run_new(pqpool *p, const pqpool_stmt *stmts, int n, pqpool_group_mode mode, PGresult **results,
                     pqpool_error *errors, pqpool_error *err) PQP_MUSTCHECK;
void pqp_run_free(
    pqp_run *r); /* what is not over is given up with it: only before it was started, or after its end */

/* Until the end; the code of the first member that failed. */
pqpool_code pqp_run_exec(pqp_run *r);

/* Sets it going. Refused: err says why, and run->finished is not called. */
pqpool_code pqp_run_start(pqp_run *r, pqpool_error *err) PQP_MUSTCHECK;
/* As long as nothing of it is sent, nothing will be. Only while the owner knows that it has not been freed. */
void pqp_run_withdraw(pqp_run *r);
/* For the keeper: takes up what was left to be placed again. */
void pqp_run_go_on(pqpool *p);

#endif
