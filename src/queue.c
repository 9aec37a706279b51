#include "queue.h"

int pqp_waiter_init(void *waiter)
{
    return pqp_parker_init(&((pqp_waiter *)waiter)->parker);
}

void pqp_waiter_fini(void *waiter)
{
    pqp_parker_fini(&((pqp_waiter *)waiter)->parker);
}

void pqp_queue_take_turn(pqp_queue *q, pqp_turn *turn, pqp_time now)
{
    if (turn->ticket == 0)
        *turn = (pqp_turn){.ticket = ++q->tickets, .since = now};
}

void pqp_queue_enter(pqp_queue *q, pqp_waiter *w, pqp_want want, pqp_turn turn)
{
    w->want = want;
    w->ticket = turn.ticket;
    w->since = turn.since;
    w->queued = true;
    w->announced = false;
    w->word = PQP_PARKED;
    w->grant = NULL;
    /* Nearly always the end at once: only who comes back has an old ticket. */
    pqp_waiter *before = q->list[want].tail;
    while (before && before->ticket > turn.ticket)
        before = before->link.prev;
    pqp_waiter_list_insert(&q->list[want], before, w);
}

void pqp_queue_leave(pqp_queue *q, pqp_waiter *w)
{
    pqp_waiter_list_remove(&q->list[w->want], w);
    w->queued = false;
}

pqp_waiter *pqp_queue_first(const pqp_queue *q, bool sharers)
{
    pqp_waiter *lease = q->list[PQP_WANT_LEASE].head;
    pqp_waiter *share = sharers ? q->list[PQP_WANT_SHARE].head : NULL;
    if (!lease || !share)
        return lease ? lease : share;
    return lease->ticket < share->ticket ? lease : share;
}
