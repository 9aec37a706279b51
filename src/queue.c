#include "queue.h"

int pqp_sleeper_init(void *sleeper)
{
    pqp_sleeper *s = sleeper;
    s->waiter.parker = &s->parker;
    return pqp_parker_init(&s->parker);
}

void pqp_sleeper_fini(void *sleeper)
{
    pqp_parker_fini(&((pqp_sleeper *)sleeper)->parker);
}

void pqp_queue_take_turn(pqp_queue *q, pqp_turn *turn, pqp_time now)
{
    if (turn->ticket == 0)
        *turn = (pqp_turn){.ticket = ++q->tickets, .since = now};
}

static pqp_waiter_list *list_of(pqp_queue *q, pqp_want want)
{
    return want == PQP_WANT_SHARE ? &q->sharers : &q->owners;
}

void pqp_queue_enter(pqp_queue *q, pqp_waiter *w, pqp_want want, pqp_turn turn)
{
    pqp_waiter_list *list = list_of(q, want);
    w->want = want;
    w->ticket = turn.ticket;
    w->since = turn.since;
    w->queued = true;
    w->announced = false;
    w->word = PQP_PARKED;
    w->grant = w->making = NULL;
    /* Who comes back has an old ticket, and stands near the front; who comes first time, at the end. */
    pqp_waiter *before = turn.stood ? NULL : list->tail;
    if (turn.stood)
        for (pqp_waiter *next = list->head; next && next->ticket < turn.ticket; next = next->link.next)
            before = next;
    else
        while (before && before->ticket > turn.ticket)
            before = before->link.prev;
    pqp_waiter_list_insert(list, before, w);
}

void pqp_queue_leave(pqp_queue *q, pqp_waiter *w)
{
    pqp_waiter_list_remove(list_of(q, w->want), w);
    w->queued = false;
}

pqp_waiter *pqp_queue_first(const pqp_queue *q, bool sharers)
{
    pqp_waiter *owner = q->owners.head;
    pqp_waiter *share = sharers ? q->sharers.head : NULL;
    if (!owner || !share)
        return owner ? owner : share;
    return owner->ticket < share->ticket ? owner : share;
}
