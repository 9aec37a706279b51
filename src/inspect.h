/*
 * inspect: everything in the pool, copied at one instant: connections, waiters, options, and who holds what. Each answer
 * is one block of memory, which its reader frees.
 */
#ifndef PQP_INSPECT_H
#define PQP_INSPECT_H

#include "pool.h"

/* NULL: no memory. */
pqpool_inspection *pqp_inspect_pool(pqpool *p) PQP_MUSTCHECK;
pqpool_holder_list *pqp_inspect_holders(pqpool *p) PQP_MUSTCHECK;

#endif
