#include "slot.h"

const char *pqp_slot_state_name(pqp_slot_state state)
{
    switch (state) {
#define NAME(state)                                                                                          \
    case PQP_SLOT_##state:                                                                                   \
        return #state;
        PQP_SLOT_STATES(NAME)
    default:
        return "?";
    }
}

/* The moves there are; bit `to` of row `from`. */
#define TO(state) (1u << PQP_SLOT_##state)
static const unsigned allowed[PQP_SLOT_N_STATES] = {
    [PQP_SLOT_EMPTY] = TO(CONNECTING),
    [PQP_SLOT_CONNECTING] = TO(IDLE) | TO(EMPTY),
    [PQP_SLOT_RESETTING] = TO(IDLE) | TO(LANE) | TO(CLOSING),
    [PQP_SLOT_IDLE] = TO(LEASED) | TO(PROBING) | TO(RESETTING) | TO(CLOSING),
    [PQP_SLOT_LEASED] = TO(IDLE) | TO(RESETTING) | TO(CLOSING),
    [PQP_SLOT_PROBING] = TO(IDLE) | TO(CLOSING),
    [PQP_SLOT_LANE] = TO(DRAINING) | TO(CLOSING),
    [PQP_SLOT_DRAINING] = TO(RESETTING) | TO(CLOSING),
    [PQP_SLOT_CLOSING] = TO(EMPTY),
};

bool pqp_slots_grow(pqp_slots *s, int n)
{
    if (n > s->room) {
        pqp_slot **all = realloc(s->all, (size_t)n * sizeof *all);
        if (!all)
            return false;
        s->all = all;
        s->room = n;
    }
    while (s->count < n) {
        pqp_slot *slot = calloc(1, sizeof *slot);
        if (!slot)
            return false;
        slot->index = s->count;
        slot->fd = -1;
        s->all[s->count++] = slot;
        pqp_slot_list_push(&s->in[PQP_SLOT_EMPTY], slot);
    }
    return true;
}

void pqp_slots_fini(pqp_slots *s)
{
    for (int i = 0; i < s->count; i++)
        free(s->all[i]);
    free(s->all);
}

int pqp_slots_total(const pqp_slots *s)
{
    return s->count - s->in[PQP_SLOT_EMPTY].count;
}

void pqp_slot_move(pqp_slots *s, pqp_slot *slot, pqp_slot_state to, pqp_time now)
{
    assert(allowed[slot->state] & (1u << to));
    (void)allowed; /* assertions may be off */
    pqp_slot_list_remove(&s->in[slot->state], slot);
    slot->state = to;
    slot->since = now;
    if (to == PQP_SLOT_IDLE)
        pqp_slot_list_insert(&s->in[to], NULL, slot);
    else
        pqp_slot_list_push(&s->in[to], slot);
}
