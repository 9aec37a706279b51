/*
 * pool: what there is, who waits, and what is to happen next. The one place where slots change their state.
 *
 * All policy is in one function, settle(), which pqp_pool_unlock() runs each time the mutex is given up: idle
 * connections go to who has waited longest, connects are ordered for those whom none covers, lanes are
 * drained for leases that nothing else can serve, what is too much is closed. So no path that frees something
 * can forget to serve a waiter: the path only moves the slot.
 */
#ifndef PQP_POOL_H
#define PQP_POOL_H

#include "fleet.h"

void pqp_pool_lock(pqpool *p);
void pqp_pool_unlock(pqpool *p);  /* the one way out: settles, sends, wakes, tells */
void pqp_pool_settle(void *pool); /* something may have changed; no lock held */

void pqp_pool_settle_locked(pqpool *p);

/* The pool was seen this busy: perhaps one more shared connection is wanted. No lock held. */
void pqp_pool_feel_pressure(pqpool *p, const pqp_choice *seen, pqp_time now);

/* The idle slot used last, lent to the caller; NULL: there is none, or an older ticket waits. */
pqp_slot *pqp_pool_lend_idle_locked(pqpool *p, const pqp_turn *turn, const pqp_site *site);
/* Closes a connection that a check refused: the next connect waits a little, as after one that failed. */
void pqp_pool_reject_locked(pqpool *p, pqp_slot *slot, pqpool_close_reason reason);
/* One is good after all. */
void pqp_pool_accept_locked(pqpool *p);

/* Serves nobody any more, or serves again. */
void pqp_pool_suspend_locked(pqpool *p, bool suspended);
/* All connections there are, or are being made, go as soon as nobody uses them. */
void pqp_pool_evict_locked(pqpool *p);
/* Why a connection that is given back is not to be lent again; NONE: it may be. */
pqpool_close_reason pqp_pool_outlived_locked(const pqpool *p, const pqp_slot *slot, pqp_time now);

void pqp_pool_fail_waiters_locked(pqpool *p, const pqpool_error *why);

/* What jobs report; each moves the slot. */
void pqp_pool_connected_locked(pqpool *p, pqp_slot *slot, PGconn *conn, int fd, int backend_pid);
void pqp_pool_connect_failed_locked(pqpool *p, pqp_slot *slot, const pqpool_error *why, bool for_good);
void pqp_pool_shared_locked(pqpool *p, pqp_slot *slot); /* RESETTING -> LANE */
/* RESETTING -> CLOSING. lost: it went as connections do, and the next one is not held back for it. */
void pqp_pool_unclean_locked(pqpool *p, pqp_slot *slot, bool lost);
void pqp_pool_unshareable_locked(pqpool *p, pqp_slot *slot,
                                 const char *text);      /* the same, for good; text: why */
void pqp_pool_cleaned_locked(pqpool *p, pqp_slot *slot); /* RESETTING, PROBING -> IDLE */
void pqp_pool_emptied_locked(pqpool *p, pqp_slot *slot); /* CLOSING -> EMPTY */
/* A drained lane, or one that is to be closed for a reason, is vacant: RESETTING or CLOSING. */
void pqp_pool_vacated_locked(pqpool *p, pqp_slot *slot, pqpool_close_reason reason);
/* The one caller of a lane has gone. */
void pqp_pool_alone_over_locked(pqpool *p, pqp_lane *lane);

#endif
