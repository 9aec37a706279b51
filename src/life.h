/*
 * life: opening a pool, closing it in bounded time, freeing it; and the process it belongs to.
 */
#ifndef PQP_LIFE_H
#define PQP_LIFE_H

#include "pool.h"

/* Takes target over, also on failure. */
pqpool *pqp_life_open(const pqp_options *options, pqp_target *target, const pqpool_hooks *hooks,
                      pqpool_error *err) PQP_MUSTCHECK;
pqpool_code pqp_life_close(pqpool *p, int64_t drain_ms);
pqpool_code pqp_life_free(pqpool *p);

/* Whether p is a pool, and of this process: else EINVAL or EFORKED. */
pqpool_code pqp_life_check(const pqpool *p, pqpool_error *err) PQP_MUSTCHECK;

/* A call that was checked begins to work in the pool, and ends: a pool with a call in it is not freed. */
void pqp_life_enter(pqpool *p);
pqpool_code pqp_life_leave(pqpool *p, pqpool_code code); /* returns code */

#endif
