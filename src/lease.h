/*
 * lease: a connection of one's own, from acquire to release.
 */
#ifndef PQP_LEASE_H
#define PQP_LEASE_H

#include "pool.h"

pqpool_code pqp_lease_acquire(pqpool *p, const pqp_site *site, pqp_time deadline, pqpool_lease *lease,
                              pqpool_error *err) PQP_MUSTCHECK;
/* The last step of it, with a slot that is LEASED: NULL, and *lease is filled; or why the connection was no good,
 * and it is given back to be closed. May block for a round trip (test_on_borrow). */
const char *pqp_lease_begin(pqpool *p, pqp_slot *slot, pqp_time deadline, pqpool_lease *lease) PQP_MUSTCHECK;
/* In place of that: the slot goes back as it is. */
void pqp_lease_return_unused(pqpool *p, pqp_slot *slot);
pqpool_code pqp_lease_refuse_late(pqpool_error *err, const char *flaw);

/* reason: why its connection is to be closed; NONE: it may go on being used. */
pqpool_code pqp_lease_end(pqpool *p, pqpool_lease *lease, pqpool_close_reason reason) PQP_MUSTCHECK;

/* The calling thread is the holder from now on. */
pqpool_code pqp_lease_move(pqpool *p, const pqpool_lease *lease) PQP_MUSTCHECK;

/* Takes one, makes a round trip, gives it back. */
pqpool_code pqp_lease_ping(pqpool *p, const pqp_site *site, pqp_time deadline,
                           pqpool_error *err) PQP_MUSTCHECK;

#endif
