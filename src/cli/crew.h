/*
 * crew: threads that run the statements of one user side by side, each on a lease of its own: what an
 * application does that has "all of these at once" over a pool that lends connections.
 */
#ifndef CLI_CREW_H
#define CLI_CREW_H

#include "call.h"

typedef struct crew crew;

/* A crew for up to n calls at once: n - 1 threads, as the user's own thread does its share. NULL on
 * failure. */
crew *crew_new(pqpool *pool, int n);

/* Runs the calls at once and waits for all; how each went stands in it. */
void crew_run(crew *c, call *calls, int n);

/* NULL is allowed. */
void crew_free(crew *c);

#endif
