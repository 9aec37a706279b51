/*
 * promise: what a caller is given for something that is still to come (a ticket), so that a handle from before is told
 * apart from the one that has its memory now.
 *
 * The handle is the promise's address with a kind and a generation packed into bits that an address leaves free: the three
 * lowest, and the sixteen highest of 64. Promises are type-stable (they lie in objects of a depot), so that a stale handle
 * may be looked at. State and generation are one word, so that a look and a move are one step.
 *
 *   FREE ──> LIVE ──> OVER ──> BUSY ──> FREE      it comes, and is fetched, or its callback runs
 *             │         │
 *             └─────────┴──> TAKEN ──> GONE        it is given up: whoever ends it frees it
 *                              └─────> LEFT        it ended meanwhile: whoever gives it up frees it
 *
 * TAKEN lasts while its owner takes it back from where it waits; nothing else frees it meanwhile. In BUSY it is too late to
 * give it up. FREE makes its handle stale. A lease that is asked for may go back from BUSY to LIVE, to wait once more.
 */
#ifndef PQP_PROMISE_H
#define PQP_PROMISE_H

#include "base.h"
#include <pqpool.h>

typedef enum {
    PQP_PROMISE_FREE,
    PQP_PROMISE_LIVE,
    PQP_PROMISE_OVER,
    PQP_PROMISE_BUSY,
    PQP_PROMISE_TAKEN,
    PQP_PROMISE_GONE,
    PQP_PROMISE_LEFT,
} pqp_promise_state;

typedef enum { PQP_PROMISE_ANSWER, PQP_PROMISE_CALLBACK, PQP_PROMISE_LEASE } pqp_promise_kind;

typedef struct pqp_promise {
    pqpool *pool;
    _Atomic uint64_t word; /* generation, awaited, state */
} pqp_promise;

/* One that a handle stands for, or stood for. */
typedef struct pqp_claim {
    pqp_promise *promise;
    pqp_promise_kind kind;
    uint32_t generation;
} pqp_claim;

/* FREE -> LIVE; the handle. The address is a multiple of 8. */
pqpool_ticket *pqp_promise_make(pqp_promise *p, pqp_promise_kind kind);
pqp_claim pqp_promise_claim(const pqpool_ticket *handle); /* not NULL */

/* The state of what the handle stands for; FREE: it is stale. */
pqp_promise_state pqp_promise_state_of(const pqp_claim *c);
/* Moves it; false: it is in another state, or stale. */
bool pqp_promise_move(const pqp_claim *c, pqp_promise_state from, pqp_promise_state to) PQP_MUSTCHECK;
/* For what has the object and not the handle. It has come: LIVE -> OVER; or it begins to be fetched: OVER -> BUSY; or it
 * has been given up, and is in another state then: LEFT is for its owner to free, GONE for the caller. */
pqp_promise_state pqp_promise_come(pqp_promise *p) PQP_MUSTCHECK;
pqp_promise_state pqp_promise_begin(pqp_promise *p) PQP_MUSTCHECK;
void pqp_promise_again(pqp_promise *p); /* BUSY -> LIVE */
void pqp_promise_free(pqp_promise *p);  /* whatever its state */

/* One thread waits for it; false: another one does, or it is stale. */
bool pqp_promise_await(const pqp_claim *c) PQP_MUSTCHECK;
void pqp_promise_unawait(const pqp_claim *c);
bool pqp_promise_awaited(const pqp_claim *c);

#endif
