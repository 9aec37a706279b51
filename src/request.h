/*
 * request: a lease that is asked for by an event loop: it waits in the queue with the others, and comes with a
 * callback.
 */
#ifndef PQP_REQUEST_H
#define PQP_REQUEST_H

#include "pool.h"
#include "promise.h"

/* NULL: refused, err says why. */
pqpool_ticket *pqp_request_lease(pqpool *p, const pqp_site *site, pqp_time deadline,
                                 pqpool_lease_callback callback, void *arg, pqpool_error *err) PQP_MUSTCHECK;
/* OK: its callback will not run, and no lease is left to it. EBUSY: it runs, or has run. */
pqpool_code pqp_request_abandon(const pqp_claim *c);

#endif
