/*
 * pool: what there is, who waits, and what is to happen next.
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

/* What follows from the silence of connections that are being asked: patience.h. */
void pqp_pool_heed_silence_locked(pqpool *p, pqp_time now);
/* A connection just lent does not answer its test: it is put aside, and another is to be had. */
void pqp_pool_put_aside_locked(pqpool *p, pqp_slot *slot);

/* The pool was seen this busy: perhaps one more shared connection is wanted. No lock held. */
void pqp_pool_feel_pressure(pqpool *p, const pqp_choice *seen, pqp_time now);

/* The idle slot used last, lent to the caller; NULL: there is none, or an older ticket waits. */
pqp_slot *pqp_pool_lend_idle_locked(pqpool *p, const pqp_turn *turn, const pqp_site *site);
/* Serves nobody any more, or serves again. */
void pqp_pool_suspend_locked(pqpool *p);
void pqp_pool_resume_locked(pqpool *p);
/* All connections there are, or are being made, go as soon as nobody uses them. */
void pqp_pool_evict_locked(pqpool *p);
/*
 * Whether a connection past max_lifetime may go now. Make before break: not as long as connects fail (the server may refuse
 * new ones, and then the old ones are the last; where it is full or refuses the login for good, for one more max_lifetime,
 * but for the very last), and not before a younger one is up, which is ordered if there is room for it.
 */
bool pqp_pool_may_retire_locked(pqpool *p, const pqp_slot *slot, pqp_time now);
/* Why a connection that is given back is not to be lent again; NONE: it may be. */
pqpool_close_reason pqp_pool_outlived_locked(pqpool *p, const pqp_slot *slot, pqp_time now);

/* Puts a waiter's statements on a lane that is his alone, pinned by nobody yet. */
void pqp_pool_put_alone_locked(pqpool *p, pqp_waiter *w, pqp_slot *slot, pqp_time now);

void pqp_pool_fail_list_locked(pqpool *p, pqp_waiter_list *list, const pqpool_error *why);
void pqp_pool_fail_waiters_locked(pqpool *p, const pqpool_error *why);

#endif
