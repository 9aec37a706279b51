/*
 * share: statements on shared connections: checking them, choosing a lane, running them there, and running
 * again elsewhere what provably did not run.
 */
#ifndef PQP_SHARE_H
#define PQP_SHARE_H

#include "pool.h"

/* n statements as one group, each for itself; stride is the caller's sizeof(pqpool_stmt). results has n
 * places, errors n or is NULL. Returns the first member's code that is not OK. */
pqpool_code pqp_share_run(pqpool *p, const pqpool_stmt *stmts, int n, PGresult **results,
                          pqpool_error *errors) PQP_MUSTCHECK;

#endif
