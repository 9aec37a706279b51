/*
 * outcome: what has become of a connection: it is up or is not, clean or not, shared, closed, vacant. Whoever worked on one
 * reports here, and here it is moved on; what is done with it then is for settle() to say (pool.c).
 *
 * All functions are called with the mutex held.
 */
#ifndef PQP_OUTCOME_H
#define PQP_OUTCOME_H

#include "pool.h"

void pqp_outcome_connected_locked(pqpool *p, pqp_slot *slot, PGconn *conn, int fd, int backend_pid);
void pqp_outcome_connect_failed_locked(pqpool *p, pqp_slot *slot, const pqpool_error *why);
void pqp_outcome_shared_locked(pqpool *p, pqp_slot *slot); /* RESETTING -> LANE */
/* RESETTING -> CLOSING. lost: it went as connections do, and the next one is not held back for it. */
void pqp_outcome_unclean_locked(pqpool *p, pqp_slot *slot, bool lost, const pqpool_error *why);
/* RESETTING -> IDLE (lendable: no session of this kind can be shared, but leased it is good) or CLOSING; text: why. */
void pqp_outcome_unshareable_locked(pqpool *p, pqp_slot *slot, const char *text, bool lendable);
void pqp_outcome_cleaned_locked(pqpool *p, pqp_slot *slot); /* RESETTING, PROBING -> IDLE */
void pqp_outcome_emptied_locked(pqpool *p, pqp_slot *slot); /* CLOSING -> EMPTY */
/* A drained lane, or one that is to be closed for a reason, is vacant: RESETTING or CLOSING. */
void pqp_outcome_vacated_locked(pqpool *p, pqp_slot *slot, pqpool_close_reason reason);
/* A connection's server is not what is asked for any more: those on the same server go as soon as nobody uses them. */
void pqp_outcome_astray_locked(pqpool *p, pqp_slot *slot);
/* The one caller of a lane has gone. */
void pqp_outcome_alone_over_locked(pqpool *p, pqp_lane *lane);

/* Closes a connection that a check refused: the next connect waits a little, as after one that failed. why: may be NULL. */
void pqp_outcome_rejected_locked(pqpool *p, pqp_slot *slot, pqpool_close_reason reason,
                                 const pqpool_error *why);
/* One is good after all. */
void pqp_outcome_accepted_locked(pqpool *p);

#endif
