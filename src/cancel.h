/*
 * cancel: asks the server to stop what one connection runs.
 *
 * A request opens a connection of its own, and hits whatever that server process runs when it arrives there. So it is sent
 * only where nothing else can be hit: for a connection that will be closed, or a lane whose only statement is given up and
 * that sends nothing more (lane.c, GIVING UP).
 *
 * PQcancel() blocks, without a limit, on a server that accepts and does not answer. It runs in a thread of its own, which
 * is ended by pthread_cancel() when its time is over: PQcancel() may be called in a signal handler, so it holds no lock and
 * no memory; all that is left behind is a descriptor. A server that has been silent once is not asked again for a while.
 */
#ifndef PQP_CANCEL_H
#define PQP_CANCEL_H

#include "base.h"
#include "clock.h"
#include <libpq-fe.h>

/* Blocks until the server has taken the request, or until the deadline; false: it has not, for all that is known. */
bool pqp_cancel_request(PGcancel *cancel, pqp_time deadline) PQP_MUSTCHECK;

#endif
