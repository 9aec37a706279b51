#include "patience.h"

#define LEAST (100 * PQP_MS)
#define MOST PQP_SECOND

pqp_time pqp_patience_time(pqp_time round_trip)
{
    return PQP_MAX(LEAST, PQP_MIN(MOST, 4 * round_trip));
}

pqp_slot *pqp_patience_next(const pqp_slots *s, const pqp_slot *slot)
{
    pqp_slot *next = slot ? slot->link.next : s->in[PQP_SLOT_PROBING].head;
    return next || (slot && slot->state == PQP_SLOT_RESETTING) ? next : s->in[PQP_SLOT_RESETTING].head;
}

bool pqp_patience_is_over(const pqp_slot *slot, pqp_time patience, pqp_time now)
{
    return slot->doubtful || now - slot->since >= patience;
}

int pqp_patience_covering(const pqp_slots *s, pqp_slot_state state, bool to_lane, pqp_time patience,
                          pqp_time now)
{
    int n = 0;
    for (const pqp_slot *slot = s->in[state].head; slot; slot = slot->link.next) {
        bool lane = state == PQP_SLOT_RESETTING && slot->to_lane;
        if (lane == to_lane && !(to_lane && slot->alone))
            n += !pqp_patience_is_over(slot, patience, now);
    }
    return n;
}

/* When the server was last known to be there. */
static pqp_time heard(const pqp_slot *slot)
{
    return PQP_MAX(slot->probed, slot->rested_since);
}

pqp_slot *pqp_patience_doubtful(const pqp_slots *s, const pqp_slot *silent)
{
    for (pqp_slot *slot = s->in[PQP_SLOT_IDLE].tail; slot; slot = slot->link.prev)
        if (slot->server == silent->server && heard(slot) <= heard(silent))
            return slot;
    return NULL;
}

pqp_slot *pqp_patience_longest(const pqp_slots *s, pqp_time silent_for, pqp_time now)
{
    pqp_slot *longest = NULL;
    for (pqp_slot *slot = NULL; (slot = pqp_patience_next(s, slot));)
        if (!slot->given_up && now - slot->since >= silent_for && (!longest || slot->since < longest->since))
            longest = slot;
    return longest;
}
