#include "holder.h"

/* Its address stands for the thread. The number is a hint: not 0 while the thread holds a lease of any pool; a
 * lease that another thread gives back does not count it down. */
static _Thread_local int maybe_held;

void pqp_holder_took(pqp_slot *slot)
{
    pqp_store(&slot->holder, (uintptr_t)&maybe_held);
    maybe_held++;
}

void pqp_holder_left(pqp_slot *slot)
{
    if (pqp_swap(&slot->holder, 0) == (uintptr_t)&maybe_held && maybe_held > 0)
        maybe_held--;
}

bool pqp_holder_is_me(pqpool *p)
{
    if (maybe_held == 0)
        return false;
    bool mine = false;
    pqp_pool_lock(p);
    for (pqp_slot *s = p->slots.in[PQP_SLOT_LEASED].head; s && !mine; s = s->link.next)
        mine = pqp_load(&s->holder) == (uintptr_t)&maybe_held;
    pqp_pool_unlock(p);
    return mine;
}
