/*
 * holder: which thread holds which lease, and what he does with it.
 *
 * A thread that holds a lease must never have a statement of its own wait behind another's on a shared
 * connection: what runs there may be waiting for a lock its lease holds, and neither the server nor anybody else
 * could see that circle.
 */
#ifndef PQP_HOLDER_H
#define PQP_HOLDER_H

#include "fleet.h"

/* The calling thread has taken the lease of this slot, or has been given it. */
void pqp_holder_took(pqp_slot *slot);
/* The lease ends, in any thread. */
void pqp_holder_left(pqp_slot *slot);

/* Whether the calling thread may hold a lease, of any pool; costs nothing. */
bool pqp_holder_maybe(void);
/* The lease the calling thread holds in this pool, or NULL. The mutex is held. */
pqp_slot *pqp_holder_mine_locked(pqpool *p);
/* The same in one: takes the pool's mutex only if the thread has lately held one. */
bool pqp_holder_is_me(pqpool *p);

/* All that is known of a lease that is out; the mutex is held. */
void pqp_holder_describe_locked(const pqp_slot *slot, pqp_time now, pqpool_holder *out);
/* What he does, in words: "idle in transaction for 2.1 s (0.3 s working ...), last answer INSERT". */
void pqp_holder_doing(const pqpool_holder *h, char *text, size_t size);

/* Puts behind the message of an error who has what everybody wants: the oldest leases, and what runs on shared
 * connections. The mutex is held. */
void pqp_holder_blame_locked(pqpool *p, pqp_time now, pqpool_error *err);

#endif
