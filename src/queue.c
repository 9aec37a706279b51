#include "queue.h"

int pqp_waiter_init(void *waiter)
{
    return pqp_parker_init(&((pqp_waiter *)waiter)->parker);
}

void pqp_waiter_fini(void *waiter)
{
    pqp_parker_fini(&((pqp_waiter *)waiter)->parker);
}

void pqp_queue_enter(pqp_queue *q, pqp_waiter *w, pqp_want want, pqp_time now)
{
    bool again = w->ticket != 0; /* he was served something unusable: back to the front, where he was */
    w->want = want;
    w->queued = true;
    w->word = PQP_PARKED;
    w->grant = NULL;
    if (again) {
        pqp_waiter_list_unshift(&q->list[want], w);
        return;
    }
    w->ticket = ++q->tickets;
    w->since = now;
    w->announced = false;
    pqp_waiter_list_push(&q->list[want], w);
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
