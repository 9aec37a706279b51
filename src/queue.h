/*
 * queue: who waits for a connection, in the order they came. Knows no libpq, no slots, no locks.
 *
 * Three kinds wait in one order of tickets. A caller for a lease, and statements that want a lane to themselves,
 * each need a connection of their own: they stand in one list. Statements for any shared connection need room on
 * one, and a single connection may serve them all: they stand in another. So the two never hold each other up
 * where they want different things, and where they want the same, a new connection, the ticket decides.
 *
 * A grant must be taken: whoever is granted leaves the list at once and finds his grant when he wakes, or
 * when his deadline passes first. Nothing is ever handed to one who has left. Statements need not wake to take
 * theirs: they are put on the lane by whoever grants.
 */
#ifndef PQP_QUEUE_H
#define PQP_QUEUE_H

#include "base.h"
#include "clock.h"
#include "error.h"
#include "event.h"
#include "parker.h"

typedef enum {
    PQP_WANT_LEASE, /* a connection for a caller */
    PQP_WANT_ALONE, /* a connection for his statements and nobody else's */
    PQP_WANT_SHARE, /* room on any shared connection */
} pqp_want;

/* What a waiter is woken with; a lane's words are 1 and 2 (lane.h), and may come to the same parker. */
enum { PQP_WORD_GRANTED = 3, PQP_WORD_FAILED };

struct pqp_call;
struct pqp_slot;

/* A waiting caller. Type-stable, as is his parker (parker.h). Guarded by the pool's mutex. */
typedef struct pqp_waiter {
    pqp_parker *parker;
    /* Nobody sleeps on the parker: called in place of the word, without locks. NULL: somebody does. */
    void (*told)(struct pqp_waiter *w);
    struct pqp_call *call; /* ALONE, SHARE: what is to be put on a lane */
    int members;           /* of call */
    pqp_site site;
    bool holder; /* his own lease may be what a running statement waits for: never behind one */
    pqp_time deadline;
    PQP_LINK(pqp_waiter) link;
    pqp_want want;
    uint64_t ticket;
    pqp_time since;
    bool queued;
    bool announced;          /* he had to wait: no connect under way covered him */
    struct pqp_slot *making; /* ALONE: the connection that is being made a lane for him; then not queued */
    struct pqp_slot *grant;  /* what he got */
    pqp_time served;         /* ... ALONE, SHARE: when */
    int word;                /* GRANTED or FAILED, when no longer queued by his own doing */
    pqpool_error *err;       /* of FAILED: filled before the word; the waiter's own, may be NULL */
    pqpool_code code;        /* of FAILED */
    struct pqp_waiter *wake_next;
} pqp_waiter;

PQP_LIST(pqp_waiter_list, pqp_waiter, link);

/* One with a parker of his own: a caller for a lease. */
typedef struct pqp_sleeper {
    pqp_waiter waiter;
    pqp_parker parker;
} pqp_sleeper;

/* A place in the order: given when somebody comes, and kept when he was served something unusable. */
typedef struct pqp_turn {
    uint64_t ticket; /* 0: not given yet; lower ones are served first */
    pqp_time since;
    bool stood; /* he has been admitted to the queue once */
} pqp_turn;

/* What statements need that have to wait, and others don't: on whose behalf somebody stands in the queue. Type-stable. */
typedef struct pqp_standing {
    pqp_waiter waiter;
    pqp_turn turn;
    pqpool_error why; /* he was refused, where nobody sleeps for him */
} pqp_standing;

typedef struct pqp_queue {
    pqp_waiter_list owners;  /* LEASE and ALONE */
    pqp_waiter_list sharers; /* SHARE */
    uint64_t tickets;
} pqp_queue;

int pqp_sleeper_init(void *sleeper); /* for a depot */
void pqp_sleeper_fini(void *sleeper);

void pqp_queue_take_turn(pqp_queue *q, pqp_turn *turn, pqp_time now); /* unless he has one */

/* Stands where his turn puts him: at the end, or further in front when he comes back. */
void pqp_queue_enter(pqp_queue *q, pqp_waiter *w, pqp_want want, pqp_turn turn);
void pqp_queue_leave(pqp_queue *q, pqp_waiter *w);

/* Whose turn it is, if sharers are to be served too (false: owners only); NULL: nobody's. */
pqp_waiter *pqp_queue_first(const pqp_queue *q, bool sharers);

#endif
