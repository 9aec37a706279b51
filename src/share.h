/*
 * share: statements on shared connections, for callers who block until they have their answers.
 */
#ifndef PQP_SHARE_H
#define PQP_SHARE_H

#include "pool.h"

/* Runs n statements; results[n] and errors[n] (or NULL) as pqpool_exec_all() says. */
pqpool_code pqp_share_run(pqpool *p, const pqpool_stmt *stmts, int n, pqpool_group_mode mode,
                          PGresult **results, pqpool_error *errors) PQP_MUSTCHECK;

#endif
