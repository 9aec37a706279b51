#include "slot.h"

#include <sys/epoll.h>

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
    [PQP_SLOT_LEASED] = TO(IDLE) | TO(RESETTING) | TO(PROBING) | TO(CLOSING),
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
        slot->fd = slot->own_fd = -1;
        slot->watched = PQP_UNWATCHED;
        s->all[s->count++] = slot;
        pqp_slot_list_push(&s->in[PQP_SLOT_EMPTY], slot);
    }
    return true;
}

/* ---- the socket ---- */

#define USUAL_WATCH (EPOLLRDHUP | EPOLLET) /* silent as long as the connection lives */

void pqp_slot_watch(pqp_slot *slot, int epoll_fd, uint32_t events)
{
    uint64_t data = (uint64_t)(uint32_t)slot->id << 32 | (uint32_t)slot->index;
    struct epoll_event e = {.events = events ? events : USUAL_WATCH, .data.u64 = data};
    bool first = slot->watched == PQP_UNWATCHED;
    if (!first && slot->watched == events)
        return;
    (void)epoll_ctl(epoll_fd, first ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, slot->own_fd,
                    &e); /* unwatched, it is only found dead later */
    slot->watched = events;
}

void pqp_slot_unwatch(pqp_slot *slot, int epoll_fd)
{
    struct epoll_event ignored = {0};
    if (slot->own_fd >= 0)
        (void)epoll_ctl(epoll_fd, EPOLL_CTL_DEL, slot->own_fd, &ignored);
    pqp_sockets_drop(slot->own_fd, slot->own);
    slot->own_fd = -1;
    slot->own = NULL;
    slot->watched = PQP_UNWATCHED;
}

pqp_slot *pqp_slot_of_event(const pqp_slots *s, uint64_t data)
{
    uint32_t index = (uint32_t)data;
    pqp_slot *slot = index < (uint32_t)s->count ? s->all[index] : NULL;
    return slot && (uint32_t)slot->id == data >> 32 ? slot : NULL;
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
    slot->doubtful = slot->known_silent = slot->given_up = slot->asked = false;
    if (to == PQP_SLOT_IDLE)
        slot->rested_since = now;
    if (to == PQP_SLOT_IDLE)
        pqp_slot_list_insert(&s->in[to], NULL, slot);
    else
        pqp_slot_list_push(&s->in[to], slot);
}
