/*
 * request: a lease that is asked for by an event loop: it waits in the queue with the others, and comes with a
 * callback.
 */
#ifndef PQP_REQUEST_H
#define PQP_REQUEST_H

#include "pool.h"

pqpool_code pqp_request_lease(pqpool *p, const pqp_site *site, pqp_time deadline,
                              pqpool_lease_callback callback, void *arg, pqpool_error *err) PQP_MUSTCHECK;

#endif
