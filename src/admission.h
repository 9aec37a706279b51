/*
 * admission: how a caller gets in. He is served at once, waits in the queue by the pool's rules (wait,
 * queue_limit, his deadline), or is refused with the pool's figures. The same rules hold for a caller who wants a
 * connection and for statements that find no room.
 */
#ifndef PQP_ADMISSION_H
#define PQP_ADMISSION_H

#include "pool.h"

/* Waits for a connection of one's own; it blocks. */
pqpool_code pqp_admission_wait(pqpool *p, const pqp_site *site, pqp_time deadline, pqp_turn *turn,
                               pqp_slot **slot, pqpool_error *err) PQP_MUSTCHECK;

/*
 * Takes a place in the queue, and returns: w->want and what belongs to it are set. PQPOOL_OK: he stands there, or
 * has been served already; he will have a word (told, or on his parker) if he is refused later, and when he is
 * served with a connection. Statements that are served get no word: they are on their lane, and get those of the
 * lane. Else he was refused, for the reason given.
 */
pqpool_code pqp_admission_enter(pqpool *p, pqp_waiter *w, pqp_turn *turn, pqpool_error *err) PQP_MUSTCHECK;

/* His time is over, or he no longer wants it. True: he has left, and w->code and w->err say why. False: he was
 * served, or refused with a word that is on its way. */
bool pqp_admission_leave(pqpool *p, pqp_waiter *w, pqpool_code code) PQP_MUSTCHECK;

/* For the keeper: refuses those past their time who have nobody that sleeps for them. */
void pqp_admission_expire_locked(pqpool *p, pqp_time now);

#endif
