/*
 * connector: the short-lived threads that do what may block: connect, clean, probe and close connections. One
 * thread for one slot's one step, so that a resolver or a server that hangs holds up nothing but itself.
 */
#ifndef PQP_CONNECTOR_H
#define PQP_CONNECTOR_H

#include "outcome.h"
#include "pool.h"
#include "watch.h"

/* Starts a thread for every slot that waits for its step. Called by the keeper, without locks. False: the
 * system refused one; try again a little later. */
bool pqp_connector_start(pqpool *p) PQP_MUSTCHECK;

/* Waits until every such thread has ended, and joins it. For pqpool_free(), without locks. False: not until the deadline. */
bool pqp_connector_join(pqpool *p, pqp_time deadline) PQP_MUSTCHECK;

/* Takes slots back from connects that are past their time: the resolver holds them, and libpq can't be
 * interrupted there. Their threads clean up after themselves whenever it lets them go. */
void pqp_connector_give_up_stuck_locked(pqpool *p, pqp_time now);

/* In the calling thread: cleans a leased slot (RESETTING) as `level` says, and gives it back or closes it. */
void pqp_connector_reset_here(pqpool *p, pqp_slot *slot, pqp_reset_level level, unsigned undo);

/* In the calling thread: asks the server, over an idle connection if there is one, what the leases are used for, and notes
 * it with them. Blocks until the deadline at most. */
void pqp_connector_survey_here(pqpool *p, pqp_time deadline);

#endif
