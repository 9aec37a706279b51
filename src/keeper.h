/*
 * keeper: the pool's one lasting thread. It sleeps until something is due or somebody kicks it; then it
 * retires what is old, starts the connector's errands, closes connections whose socket hung up, and drives
 * lanes whose owners have all left. It calls nothing that can block.
 */
#ifndef PQP_KEEPER_H
#define PQP_KEEPER_H

#include "pool.h"

int pqp_keeper_start(pqpool *p) PQP_MUSTCHECK; /* 0 or an errno value */
void pqp_keeper_stop(pqpool *p);               /* returns when it has ended; not from the keeper itself */

#endif
