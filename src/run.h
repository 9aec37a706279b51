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
    pqpool *pool;
    pqp_depot *home;                     /* where it is put back */
    _Atomic(pqp_standing *) standing;    /* NULL: it never had to wait for room */
    pqp_stmt *over;                      /* the members that have theirs */
    pqp_stmt *rest;                      /* those whose turn has not come */
    const pqpool_stmt *stmts;            /* first of n, stride apart; the owner's */
    PGresult **results;                  /* the owner's */
    pqpool_error *errors;                /* the owner's, or NULL */
    void (*finished)(struct pqp_run *r); /* NULL: the caller blocks */
    pqp_time served;                     /* when it got room at once; 0: it did not */
    uint32_t stride;
    _Atomic int withdrawn;        /* not to be placed any more */
    _Atomic int holds;            /* who still looks at it: put back by the last */
    int first_index;              /* of the first member, by index, that failed ... */
    uint8_t first, first_outcome; /* ... with this pqpool_code and pqpool_outcome */
    bool many;                    /* placed piece by piece */
    bool atomic;                  /* all or nothing */
    bool alone;                   /* on a connection where nothing else runs */
    bool holder;                  /* because its caller holds a lease */
    bool lazy;                    /* one statement; errors is its own, and is there only when it has failed */
} pqp_run;

/*
 * Checks n >= 1 statements and makes of an object of the depot `home` a run of them. Refused: err says why, err->row which,
 * nothing was sent, and the object is as it was. results (n of them) and errors (n or NULL) are written until the run is
 * over, and read from no more. Where finished is given, nobody blocks for it (pqp_run_start()).
 */
pqpool_code pqp_run_init(pqp_run *r, pqpool *p, pqp_depot *home, const pqpool_stmt *stmts, int n,
                         pqpool_group_mode mode, PGresult **results, pqpool_error *errors,
                         void (*finished)(pqp_run *r), pqpool_error *err) PQP_MUSTCHECK;
/* Back to its depot; what is not over is given up with it: only before it was started, or after its end. */
void pqp_run_free(pqp_run *r);

/* How a run of one statement that was made without errors has ended. */
void pqp_run_tell(const pqp_run *r, pqpool_error *err);

/* Until the end; the code of the first member that failed. */
pqpool_code pqp_run_exec(pqp_run *r);

/* Sets it going. Refused: err says why, and run->finished is not called. */
pqpool_code pqp_run_start(pqp_run *r, pqpool_error *err) PQP_MUSTCHECK;
/* As long as nothing of it is sent, nothing will be. Only while the owner knows that it has not been freed. */
void pqp_run_withdraw(pqp_run *r);
/* For the keeper: takes up what was left to be placed again. */
void pqp_run_go_on(pqpool *p);

#endif
