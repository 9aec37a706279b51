/*
 * ticket: statements whose caller does not wait for them: he holds a ticket and comes back for the answer, or has a
 * callback run in his event loop. What he handed in is copied; the run goes on without him.
 */
#ifndef PQP_TICKET_H
#define PQP_TICKET_H

#include "pool.h"
#include "promise.h"

/* Whose callback it is, if any. */
typedef struct pqp_ticket_kind {
    pqpool_callback one;
    pqpool_group_callback group;
    void *arg;
} pqp_ticket_kind;

/* NULL: refused, err says why and err->row which statement. n may be 0 for a group. */
pqpool_ticket *pqp_ticket_submit(pqpool *p, const pqpool_stmt *stmts, int n, pqpool_group_mode mode,
                                 pqp_ticket_kind kind, pqpool_error *err) PQP_MUSTCHECK;

bool pqp_ticket_done(const pqp_claim *c);
PGresult *pqp_ticket_wait(const pqp_claim *c, pqp_time deadline, pqpool_error *err);
pqpool_code pqp_ticket_abandon(const pqp_claim *c);

#endif
