/*
 * admission: how a caller gets in. He is served at once, waits in the queue by the pool's rules (wait,
 * queue_limit, his deadline), or is refused with the pool's figures.
 */
#ifndef PQP_ADMISSION_H
#define PQP_ADMISSION_H

#include "pool.h"

/* Waits for a slot of one's own (LEASE) or for a lane to be there (SHARE: *slot's lane is pinned for the
 * caller; NULL: he must look for one). */
pqpool_code pqp_admission_wait(pqpool *p, pqp_want want, pqp_time deadline, pqp_turn *turn, pqp_slot **slot,
                               pqpool_error *err) PQP_MUSTCHECK;

#endif
