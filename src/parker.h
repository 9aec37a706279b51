/*
 * parker: one blocked caller's place to sleep, with a deadline, and the word it is woken with.
 *
 * A parker is type-stable: it is never freed while its pool lives, only used again. So a waker may still be
 * on its way out of pqp_parker_post() when the owner has long gone; the next owner then sees at most a
 * wake-up without a word, which pqp_parker_wait() ignores.
 *
 * Rule for wakers: set the word only after every other use of what the owner shares with you. Whoever reads
 * it may be gone at once, with all that was his.
 */
#ifndef PQP_PARKER_H
#define PQP_PARKER_H

#include "base.h"
#include "clock.h"

enum { PQP_PARKED = 0 }; /* no word yet; all other words are the user's own, and positive */

typedef struct pqp_parker {
    pqp_mutex mu;
    pqp_cond cond;
    _Atomic int word;
} pqp_parker;

int pqp_parker_init(pqp_parker *p) PQP_MUSTCHECK; /* 0, or an errno value */
void pqp_parker_fini(pqp_parker *p);

/* Ready for a new wait. Only by the owner, when no word is on its way to him. */
void pqp_parker_reset(pqp_parker *p);

/* Gives the owner a word and wakes him. */
void pqp_parker_post(pqp_parker *p, int word);

/* Sleeps until a word is there or the deadline has passed (then PQP_PARKED). */
int pqp_parker_wait(pqp_parker *p, pqp_time deadline);

#endif
