/*
 * call: a caller and his statements, one or a group, on one lane: he hands them in, waits or drives, and leaves
 * with an answer for each, or by his deadline.
 */
#ifndef PQP_CALL_H
#define PQP_CALL_H

#include "lane.h"

int pqp_call_init(void *call); /* for a depot */
void pqp_call_fini(void *call);

/* So many bytes for the owner's own use, as long as he has the call; kept for the next owner, unless they are many. NULL:
 * no memory. */
void *pqp_call_room(pqp_call *call, size_t size) PQP_MUSTCHECK;
void pqp_call_trim(pqp_call *call); /* they are not needed any more */

/*
 * Runs all members of the call and returns when each has its code and outcome: answered, failed, or past its
 * deadline. Then pqp_call_part(). The caller must have pinned the lane, and reserved room.
 */
void pqp_call_run(pqp_call *call, pqp_lane *l);

/* Its steps: make the members ready; hand them to the lane, in one step (true: the caller is the driver, and must
 * go on) or in two, of which the first takes no lock and the second is pqp_lane_nudge(); then wait; or, for one
 * who no longer wants the answers, abandon, which gives up whatever has none yet. */
void pqp_call_ready(pqp_call *call);
void pqp_call_push(pqp_call *call, pqp_lane *l);
/* A lane has room for it now: it is to be sent, however little time it had to wait for that. */
void pqp_call_has_room(pqp_call *call, pqp_time now);
bool pqp_call_submit(pqp_call *call, pqp_lane *l);
void pqp_call_wait(pqp_call *call, pqp_lane *l, bool driving);
void pqp_call_abandon(pqp_call *call, pqp_lane *l, bool driving);

/*
 * For a call that nobody waited for so far (it has `over`): its owner waits, and drives, until it is over, or it is not on
 * this lane any more, or until `patience` (then nobody waits for it again). Only one thread at a time.
 */
void pqp_call_attend(pqp_call *call, pqp_lane *l, pqp_time patience);

/* For a call that nobody waits for: what of it is not sent never will be, and the answers of the rest are dropped. It is over
 * then. */
void pqp_call_withdraw(pqp_call *call, pqp_lane *l);

/* Leaves members that were given up in flight to the lane and takes them out of call->members: their objects
 * return to the depot when their answers have been dropped. The members that remain are the caller's. */
void pqp_call_part(pqp_call *call, pqp_lane *l);

#endif
