/*
 * queue: who waits for a connection, in the order they came. Knows no libpq, no slots, no locks.
 *
 * Two kinds wait in one order: callers for a lease, each of whom needs a connection of his own, and callers
 * for a shared connection, whom one connection serves all together. So they stand in two lists, and a ticket
 * number tells which list is to be served next.
 *
 * A grant must be taken: whoever is granted leaves the list at once and finds his grant when he wakes, or
 * when his deadline passes first. Nothing is ever handed to one who has left.
 */
#ifndef PQP_QUEUE_H
#define PQP_QUEUE_H

#include "base.h"
#include "clock.h"
#include "error.h"
#include "parker.h"

typedef enum { PQP_WANT_LEASE, PQP_WANT_SHARE } pqp_want;
enum { PQP_WORD_GRANTED = 1, PQP_WORD_FAILED };

/* A waiting caller. Type-stable (parker.h). All but the parker is guarded by the pool's mutex. */
typedef struct pqp_waiter {
    pqp_parker parker;
    PQP_LINK(pqp_waiter) link;
    pqp_want want;
    uint64_t ticket;
    pqp_time since;
    bool queued;
    bool announced;    /* he had to wait: no connect under way covered him */
    void *grant;       /* the slot; of a sharer: its lane is pinned for him */
    int word;          /* GRANTED or FAILED, when no longer queued by his own doing */
    pqpool_error *err; /* of FAILED: filled before the word; the waiter's own, may be NULL */
    pqpool_code code;  /* of FAILED */
    struct pqp_waiter *wake_next;
} pqp_waiter;

PQP_LIST(pqp_waiter_list, pqp_waiter, link);

typedef struct pqp_queue {
    pqp_waiter_list list[2]; /* by pqp_want */
    uint64_t tickets;
} pqp_queue;

int pqp_waiter_init(void *waiter); /* for a depot */
void pqp_waiter_fini(void *waiter);

/* A place in the order: given when somebody comes, and kept when he was served something unusable. */
typedef struct pqp_turn {
    uint64_t ticket; /* 0: not given yet; lower ones are served first */
    pqp_time since;
} pqp_turn;

void pqp_queue_take_turn(pqp_queue *q, pqp_turn *turn, pqp_time now); /* unless he has one */

/* Stands where his turn puts him: at the end, or further in front when he comes back. */
void pqp_queue_enter(pqp_queue *q, pqp_waiter *w, pqp_want want, pqp_turn turn);
void pqp_queue_leave(pqp_queue *q, pqp_waiter *w);

/* Whose turn it is, if sharers are to be served too (false: lease callers only); NULL: nobody's. */
pqp_waiter *pqp_queue_first(const pqp_queue *q, bool sharers);

#endif
