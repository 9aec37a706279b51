/*
 * loop: the caller's event loop. It reads the answers of its statements itself, where no blocked caller reads for it, and
 * runs the callbacks.
 */
#ifndef PQP_LOOP_H
#define PQP_LOOP_H

#include "pool.h"

/* Runs the callbacks that are due, in the caller's thread; how many. */
int pqp_loop_dispatch(pqpool *p);

#endif
