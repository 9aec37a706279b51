/*
 * lease: a connection of one's own, from acquire to release.
 */
#ifndef PQP_LEASE_H
#define PQP_LEASE_H

#include "pool.h"

pqpool_code pqp_lease_acquire(pqpool *p, pqp_time deadline, pqpool_lease *lease,
                              pqpool_error *err) PQP_MUSTCHECK;
pqpool_code pqp_lease_end(pqpool *p, pqpool_lease *lease, bool discard) PQP_MUSTCHECK;

#endif
