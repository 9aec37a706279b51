/*
 * holder: which thread holds which lease.
 *
 * A thread that holds a lease must never have a statement of its own wait behind another's on a shared
 * connection: what runs there may be waiting for a lock its lease holds, and neither the server nor anybody else
 * could see that circle.
 */
#ifndef PQP_HOLDER_H
#define PQP_HOLDER_H

#include "pool.h"

/* The calling thread has taken, or is giving back, the lease of this slot. The latter from any thread. */
void pqp_holder_took(pqp_slot *slot);
void pqp_holder_left(pqp_slot *slot);

/* Whether the calling thread holds a lease of the pool. Takes the pool's mutex only if it has lately held one. */
bool pqp_holder_is_me(pqpool *p);

#endif
