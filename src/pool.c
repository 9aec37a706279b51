/* pool: policy; pool.h says how it works. */
#include "pool.h"

#include <sys/socket.h>

#include "refusal.h"

/* After this long a connect is not relied on where a shared connection could give way. */
#define CONNECT_OVERDUE (100 * PQP_MS)

pqp_slot *pqp_pool_lend_idle_locked(pqpool *p, const pqp_turn *turn, const pqp_site *site)
{
    if (p->suspended)
        return NULL;
    pqp_time now = pqp_now();
    pqp_slot *slot = p->slots.in[PQP_SLOT_IDLE].head;
    const pqp_waiter *first = pqp_queue_first(&p->queue, pqp_fleet_lane_needed_locked(p, now));
    if (!slot || (first && first->ticket < turn->ticket))
        return NULL;
    pqp_fleet_lend_locked(p, slot, site, turn->since, now);
    return slot;
}

static void tell_dequeue(pqpool *p, const pqp_waiter *w, const pqp_slot *slot, pqp_time now)
{
    if (w->announced)
        PQP_TELL(p, PQPOOL_EVENT_DEQUEUE, slot, NULL, .wait_us = (now - w->since) / 1000,
                 .file = w->site.file, .line = w->site.line, .thread = w->site.thread);
}

static void grant(pqpool *p, pqp_waiter *w, pqp_slot *slot, pqp_time now)
{
    pqp_queue_leave(&p->queue, w);
    tell_dequeue(p, w, slot, now);
    pqp_fleet_lend_locked(p, slot, &w->site, w->since, now);
    w->grant = slot;
    pqp_fleet_wake_locked(p, w, PQP_WORD_GRANTED);
}

/* The waiter's statements go onto a lane that is pinned, with room reserved. From here on he may have his answers
 * at any time, so this is the last use of him. */
static void put_on_lane(pqpool *p, pqp_waiter *w, pqp_slot *slot, pqp_time now)
{
    if (w->queued)
        pqp_queue_leave(&p->queue, w);
    tell_dequeue(p, w, slot, now);
    w->grant = slot;
    w->served = now;
    pqp_call_has_room(w->call, now);
    pqp_call_push(w->call, slot->lane);
    pqp_fleet_nudge_locked(p, slot);
}

void pqp_pool_put_alone_locked(pqpool *p, pqp_waiter *w, pqp_slot *slot, pqp_time now)
{
    slot->busy = true;
    slot->waiter = NULL;
    w->making = NULL;
    pqp_lane_pin_alone(slot->lane);
    atomic_fetch_add(&slot->lane->load, w->members);
    put_on_lane(p, w, slot, now);
}

void pqp_pool_fail_list_locked(pqpool *p, pqp_waiter_list *list, const pqpool_error *why)
{
    for (pqp_waiter *w; (w = list->head);)
        pqp_fleet_fail_locked(p, w, why);
}

void pqp_pool_fail_waiters_locked(pqpool *p, const pqpool_error *why)
{
    pqp_pool_fail_list_locked(p, &p->queue.sharers, why);
    pqp_pool_fail_list_locked(p, &p->queue.owners, why);
    for (pqp_slot *s = p->slots.in[PQP_SLOT_RESETTING].head; s; s = s->link.next)
        if (s->waiter)
            pqp_fleet_fail_locked(p, s->waiter, why);
}

/* ---- settling ---- */

static pqp_slot *slot_of_lane(pqpool *p, const pqp_lane *lane)
{
    pqp_slot *s = pqp_fleet_slot_of_locked(p, lane);
    return s && s->state == PQP_SLOT_LANE ? s : NULL;
}

/* What new statements look at before they go to a lane by themselves. */
static void mirror_sharers(pqpool *p)
{
    pqp_store(&p->sharers_waiting, p->queue.sharers.count + p->suspended);
}

/*
 * Statements that wait go where there is room now. What lies on a lane's side of this: it counts a statement off
 * first and looks at sharers_waiting second; here it is the other way round, so one of the two sees the other.
 */
static void place_sharers(pqpool *p, pqp_time now)
{
    pqp_waiter *w;
    pqp_choice choice;
    mirror_sharers(p);
    for (pqp_waiter *next = p->queue.sharers.head; (w = next);) {
        next = w->link.next;
        if (w->deadline <= now && w->since < w->deadline) /* it is about to leave, or to be told */
            continue;
        pqp_lane *lane = pqp_fleet_reserve(p, w->members, now, &choice);
        if (!lane)
            break;
        put_on_lane(p, w, slot_of_lane(p, lane), now);
    }
    mirror_sharers(p);
    if (p->queue.sharers.head) /* a lane that stalls meanwhile tells nobody */
        pqp_fleet_due_locked(p, now + PQP_MIN(pqp_load(&p->stall_time), PQP_SECOND));
}

/* A lane that was one caller's alone and is nobody's now; the one used last. */
static pqp_slot *parked_lane(const pqpool *p)
{
    pqp_slot *s = p->slots.in[PQP_SLOT_LANE].tail;
    while (s && (!s->alone || s->busy || pqp_load(&s->lane->ended)))
        s = s->link.prev;
    return s;
}

/* Opens a lane that was one caller's alone to everybody. */
static bool open_parked(pqpool *p, pqp_slot *slot)
{
    if (!pqp_fleet_publish_locked(p, slot))
        return false;
    slot->alone = false;
    pqp_lane_admit(slot->lane);
    return true;
}

/* Parked lanes serve without a round trip those who want just that. For a lease one has to be cleaned first. */
static void use_parked(pqpool *p, pqp_time now)
{
    pqp_slot *slot;
    pqp_waiter *w;
    while ((slot = parked_lane(p)) &&
           (w = pqp_queue_first(&p->queue, pqp_fleet_lane_needed_locked(p, now)))) {
        if (w->want == PQP_WANT_ALONE)
            pqp_pool_put_alone_locked(p, w, slot, now);
        else if (w->want == PQP_WANT_LEASE && p->queue.owners.count > pqp_fleet_underway_locked(p, true))
            pqp_fleet_drain_locked(p, slot);
        else if (w->want == PQP_WANT_LEASE || !open_parked(p, slot))
            break;
        else
            place_sharers(p, now);
    }
}

/* Idle connections go to those who wait, in their order. */
static void serve_waiters(pqpool *p, pqp_time now)
{
    pqp_slot *slot;
    while ((slot = p->slots.in[PQP_SLOT_IDLE].head)) {
        pqp_waiter *w = pqp_queue_first(&p->queue, pqp_fleet_lane_needed_locked(p, now));
        if (!w)
            break;
        if (w->want == PQP_WANT_LEASE)
            grant(p, w, slot, now);
        else
            pqp_fleet_share_locked(p, slot, w->want == PQP_WANT_ALONE ? w : NULL);
    }
    use_parked(p, now);
    if (!p->grow || pqp_fleet_lanes_locked(p) >= pqp_load(&p->lanes_limit))
        return;
    bool parked = (slot = parked_lane(p)) && open_parked(p, slot);
    if (!parked && (slot = p->slots.in[PQP_SLOT_IDLE].head))
        pqp_fleet_share_locked(p, slot, NULL);
    if (slot) {
        p->grow = false;
        p->shared_grown++;
    }
}

/* How many connects may be started now; sets `due` when it is only a matter of time. */
static int connects_allowed(pqpool *p, pqp_time now)
{
    int room = (int)p->options.max_size - pqp_slots_total(&p->slots);
    int allowed = PQP_MIN(room, (int)p->options.connect_concurrency - pqp_fleet_in(p, PQP_SLOT_CONNECTING));
    if (p->failures == 0 || allowed <= 0)
        return allowed;
    pqp_time at = pqp_fleet_demand_locked(p, now) > 0 ? p->next_attempt_waited : p->next_attempt;
    if (pqp_fleet_serving_locked(p) >
        0) /* a server that is full need not be asked often by those who have a place */
        at = PQP_MAX(at, p->next_attempt_served);
    if (now < at) {
        pqp_fleet_due_locked(p, at);
        return 0;
    }
    return pqp_fleet_in(p, PQP_SLOT_CONNECTING) > 0 ? 0 : 1;
}

/* Connects are ordered for those whom nothing under way covers, then for what is to be kept ready. */
static void order_connects(pqpool *p, pqp_time now)
{
    int total = pqp_slots_total(&p->slots);
    if (p->warm > 0 && pqp_fleet_live_locked(p) >= p->warm)
        p->warm = 0;
    int demand = pqp_fleet_demand_locked(p, now), underway = pqp_fleet_underway_locked(p, false);
    int spare = PQP_MAX(0, underway - demand) + pqp_fleet_in(p, PQP_SLOT_IDLE);
    int ready = PQP_MAX(0, (int)p->options.min_idle - spare);
    int want = PQP_MAX(PQP_MAX(0, demand - underway) + ready, p->warm - total);
    if (p->grow && (total >= p->options.max_size || pqp_fleet_lanes_locked(p) >= pqp_load(&p->lanes_limit)))
        p->grow = false; /* no room: the pressure will ask again if it lasts */
    if (p->grow && spare == 0)
        want++;
    if (p->renew && pqp_fleet_in(p, PQP_SLOT_CONNECTING) == 0)
        want = PQP_MAX(want, 1);
    if (want <= 0)
        return;
    for (int n = PQP_MIN(want, connects_allowed(p, now)); n > 0; n--) {
        pqp_slot *slot = p->slots.in[PQP_SLOT_EMPTY].head;
        slot->job = NULL;
        slot->era = p->era;
        pqp_slot_move(&p->slots, slot, PQP_SLOT_CONNECTING, now);
        p->kick = true;
    }
}

/* ---- silence; patience.h says what is done about it, and why ---- */

static void doubt_others(pqpool *p, pqp_slot *silent, pqp_time now)
{
    silent->known_silent = true;
    for (pqp_slot *s; (s = pqp_patience_doubtful(&p->slots, silent));) {
        pqp_fleet_probe_locked(p, s, now);
        s->doubtful = s->known_silent = true;
    }
}

void pqp_pool_heed_silence_locked(pqpool *p, pqp_time now)
{
    pqp_time patience = pqp_fleet_patience(p);
    for (pqp_slot *s = NULL; (s = pqp_patience_next(&p->slots, s));) {
        if (s->known_silent)
            continue;
        if (!pqp_patience_is_over(s, patience, now)) {
            pqp_fleet_due_locked(p, s->since + patience);
            continue;
        }
        doubt_others(p, s, now);
        pqp_fleet_stand_again_locked(p, s);
    }
}

void pqp_pool_put_aside_locked(pqpool *p, pqp_slot *slot)
{
    pqp_fleet_put_aside_locked(p, slot);
    doubt_others(p, slot, pqp_now());
}

#define GIVE_UP_SOON (150 * PQP_MS)
#define GIVE_UP_LATE PQP_SECOND

/* The pool is full, and nothing covers who waits. */
static void make_room(pqpool *p, pqp_time now)
{
    if (pqp_slots_total(&p->slots) < p->options.max_size ||
        pqp_fleet_in(p, PQP_SLOT_CONNECTING) + pqp_fleet_in(p, PQP_SLOT_CLOSING) > 0 ||
        pqp_fleet_in(p, PQP_SLOT_PROBING) + pqp_fleet_in(p, PQP_SLOT_RESETTING) == 0 ||
        pqp_fleet_demand_locked(p, now) <= pqp_fleet_underway_locked(p, false))
        return;
    bool proven = p->gave_up == 0 || p->connected_at > p->gave_up;
    pqp_time silent_for = proven ? GIVE_UP_SOON : GIVE_UP_LATE;
    pqp_slot *s = pqp_patience_longest(&p->slots, silent_for, now);
    if (!s) {
        s = pqp_patience_longest(&p->slots, 0, now);
        if (s)
            pqp_fleet_due_locked(p, s->since + silent_for);
        return;
    }
    s->given_up = true;
    p->gave_up = now;
    (void)shutdown(s->own_fd, SHUT_RDWR); /* whoever asks it is told at once that it has ended */
}

static pqp_slot *newest_shared(const pqpool *p)
{
    pqp_slot *s = p->slots.in[PQP_SLOT_LANE].tail;
    while (s && s->alone)
        s = s->link.prev;
    return s;
}

/* Connects that take longer than they should: nobody is to rely on them while something else might serve. */
static int overdue_connects(pqpool *p, pqp_time now)
{
    int n = 0;
    for (const pqp_slot *s = p->slots.in[PQP_SLOT_CONNECTING].head; s; s = s->link.next) {
        n += s->since + CONNECT_OVERDUE <= now;
        if (s->since + CONNECT_OVERDUE > now)
            pqp_fleet_due_locked(p, s->since + CONNECT_OVERDUE);
    }
    return n;
}

/* The newest lane gives way to a caller that nothing else will serve. The last one only while it is idle, or
 * when it holds the only connection there may be, or for one who must not stand behind what runs there: else
 * statements and leases would take it from each other. */
static void drain_for_owners(pqpool *p, pqp_time now)
{
    if (pqp_peek(&p->lane_wanted))
        pqp_store(&p->lane_wanted, 0);
    if (p->queue.owners.count == 0)
        return;
    int overdue = overdue_connects(p, now);
    int unserved = p->queue.owners.count - (pqp_fleet_underway_locked(p, true) - overdue);
    /* While no connect succeeds, what there is is all there may be. */
    int64_t most = p->failures > 0 || overdue > 0 ? pqp_fleet_live_locked(p) : p->options.max_size;
    while (unserved-- > 0 && pqp_slots_total(&p->slots) >= most) {
        pqp_slot *newest = newest_shared(p);
        if (!newest)
            return;
        if (pqp_fleet_lanes_locked(p) == 1 && most > 1 && !p->queue.owners.head->holder) {
            pqp_store(&p->lane_wanted, 1); /* before the look: whoever leaves the lane then looks here */
            if (pqp_load(&newest->lane->users) > 0 || pqp_load(&newest->lane->load) > 0)
                return;
        }
        pqp_fleet_drain_locked(p, newest);
        newest->for_owner = true;
    }
}

/* A limit that was lowered comes before those who wait, or it would never be reached while somebody does. */
static void shrink(pqpool *p, pqp_time now)
{
    pqp_slot *oldest;
    while ((oldest = p->slots.in[PQP_SLOT_IDLE].tail) &&
           pqp_slots_total(&p->slots) - pqp_fleet_in(p, PQP_SLOT_CLOSING) > p->options.max_size)
        pqp_fleet_scrap_locked(p, oldest, PQPOOL_CLOSE_MAX_SIZE);
    for (pqp_slot *s; pqp_slots_total(&p->slots) > p->options.max_size && (s = parked_lane(p));)
        pqp_fleet_drain_locked(p, s);
    for (int64_t many = pqp_fleet_lanes_open_locked(p, now) - pqp_load(&p->lanes_limit); many > 0; many--) {
        pqp_slot *newest = p->slots.in[PQP_SLOT_LANE].tail;
        while (newest && !pqp_load(&newest->lane->accepting)) /* it is on its way out as it is */
            newest = newest->link.prev;
        if (!newest) /* one was lost just now */
            return;
        pqp_fleet_drain_locked(p, newest);
    }
}

static int64_t idle_limit(const pqpool *p)
{
    return p->options.max_idle < 0 ? p->options.max_size : p->options.max_idle;
}

static void trim(pqpool *p)
{
    while (pqp_fleet_in(p, PQP_SLOT_IDLE) > idle_limit(p))
        pqp_fleet_scrap_locked(p, p->slots.in[PQP_SLOT_IDLE].tail, PQPOOL_CLOSE_MAX_IDLE);
}

/* Nobody waits, and there is neither too much nor too little of anything: most leases come and go like that. */
static bool is_calm(const pqpool *p)
{
    int idle = pqp_fleet_in(p, PQP_SLOT_IDLE);
    return p->queue.owners.count == 0 && p->queue.sharers.count == 0 && pqp_peek(&p->sharers_waiting) == 0 &&
           !pqp_peek(&p->lane_wanted) && !p->closing && !p->suspended && !p->grow && !p->renew &&
           p->warm == 0 && idle >= p->options.min_idle && idle <= idle_limit(p) &&
           pqp_fleet_in(p, PQP_SLOT_LANE) <= pqp_peek(&p->lanes_limit) &&
           pqp_slots_total(&p->slots) <= p->options.max_size;
}

/* Those who have waited for outage_wait since they came, or since the outage began, whichever was later. */
static void tell_those_due(pqpool *p, pqp_time now)
{
    pqp_time wait = p->options.outage_wait * PQP_MS;
    pqpool_error why = p->last_failure;
    if (wait > 0)
        pqp_refuse(&why, PQPOOL_ECONNECT, "no connection within %lld ms (outage_wait): %s",
                   (long long)p->options.outage_wait, p->last_failure.message);
    pqp_error_sqlstate(&why, p->last_failure.sqlstate);
    pqp_refusal_inherit(&why, &p->last_failure);
    pqp_waiter_list *lists[] = {&p->queue.owners, &p->queue.sharers};
    for (size_t i = 0; i < PQP_COUNT_OF(lists); i++)
        for (pqp_waiter *w = lists[i]->head, *next; w; w = next) {
            next = w->link.next;
            pqp_time at = PQP_MAX(w->since, p->outage_since) + wait;
            if (at <= now)
                pqp_fleet_fail_locked(p, w, &why);
            else
                pqp_fleet_due_locked(p, at);
        }
}

/* No connection serves, and none could be made: who waits is told of it when waiting is of no use, or has lasted as long as it
 * may. Here, and not only where a connect fails: the last connection may go after that. */
static void tell_outage(pqpool *p, pqp_time now)
{
    bool waits = p->queue.owners.count + p->queue.sharers.count > 0;
    if (p->failures == 0 || !waits || pqp_fleet_serving_locked(p) > 0)
        return;
    if (p->outage_since == 0)
        p->outage_since = now;
    if (p->refused && now < p->next_attempt && pqp_fleet_in(p, PQP_SLOT_CONNECTING) == 0)
        pqp_pool_fail_waiters_locked(p, &p->last_failure);
    else if (!p->refused && p->options.outage_wait >= 0)
        tell_those_due(p, now);
}

static void settle(pqpool *p, pqp_time now)
{
    if (p->closing) {
        for (pqp_slot *s; (s = p->slots.in[PQP_SLOT_IDLE].head);)
            pqp_fleet_scrap_locked(p, s, PQPOOL_CLOSE_POOL_CLOSED);
        return;
    }
    shrink(p, now);
    if (p->suspended) {
        mirror_sharers(p);
    } else {
        pqp_pool_heed_silence_locked(p, now);
        if (p->queue.sharers.head || pqp_peek(&p->sharers_waiting))
            place_sharers(p, now);
        serve_waiters(p, now);
        order_connects(p, now);
        make_room(p, now);
        tell_outage(p, now);
        drain_for_owners(p, now);
    }
    trim(p);
}

void pqp_pool_settle_locked(pqpool *p)
{
    if (!is_calm(p))
        settle(p, pqp_now());
    p->idle_all_along = PQP_MIN(p->idle_all_along, pqp_fleet_in(p, PQP_SLOT_IDLE));
}

void pqp_pool_suspend_locked(pqpool *p)
{
    if (p->suspended)
        return;
    p->suspended = true;
    p->suspensions++;
    PQP_TELL(p, PQPOOL_EVENT_SUSPEND, NULL, NULL);
}

void pqp_pool_resume_locked(pqpool *p)
{
    if (!p->suspended)
        return;
    p->suspended = false;
    PQP_TELL(p, PQPOOL_EVENT_RESUME, NULL, NULL);
}

void pqp_pool_evict_locked(pqpool *p)
{
    p->era++;
    p->evictions++;
    pqp_dialled_forget(&p->dialled);
    for (pqp_slot *s; (s = p->slots.in[PQP_SLOT_IDLE].head);)
        pqp_fleet_scrap_locked(p, s, PQPOOL_CLOSE_EVICTED);
    for (pqp_slot *s; (s = p->slots.in[PQP_SLOT_LANE].head);)
        pqp_fleet_drain_locked(p, s);
}

/* Whether another connection serves and is not past its lifetime. */
static bool has_younger(const pqpool *p, const pqp_slot *slot, pqp_time now)
{
    static const pqp_slot_state up[] = {PQP_SLOT_IDLE, PQP_SLOT_LEASED, PQP_SLOT_LANE};
    for (size_t i = 0; i < PQP_COUNT_OF(up); i++)
        for (const pqp_slot *s = p->slots.in [up[i]].head; s; s = s->link.next)
            if (s != slot && s->expires > now && !pqp_load(&((pqp_slot *)s)->suspect))
                return true;
    return false;
}

bool pqp_pool_may_retire_locked(pqpool *p, const pqp_slot *slot, pqp_time now)
{
    if (p->failures > 0 || !has_younger(p, slot, now)) {
        /* Nobody has used it, and nobody is meant to. */
        if (slot->state == PQP_SLOT_IDLE && slot->uses == 0 && slot->fresh &&
            pqp_fleet_in(p, PQP_SLOT_IDLE) > p->options.min_idle)
            return true;
        bool taken = p->refused || strcmp(p->last_failure.sqlstate, "53300") == 0;
        if (p->failures > 0 && taken && now >= slot->expires + p->options.max_lifetime * PQP_MS &&
            pqp_fleet_serving_locked(p) > 1)
            return true; /* to a full server it is a place for another process */
        if (p->failures == 0 && pqp_slots_total(&p->slots) >= p->options.max_size)
            return p->options.max_size == 1 || pqp_fleet_serving_locked(p) > 1; /* to make room */
        p->renew = true;
        return false;
    }
    return pqp_fleet_in(p, PQP_SLOT_CONNECTING) == 0; /* else what becomes of that is to be seen first */
}

pqpool_close_reason pqp_pool_outlived_locked(pqpool *p, const pqp_slot *slot, pqp_time now)
{
    if (p->closing)
        return PQPOOL_CLOSE_POOL_CLOSED;
    if (slot->era != p->era)
        return PQPOOL_CLOSE_EVICTED;
    if (slot->astray)
        return PQPOOL_CLOSE_ROLE;
    if (p->options.max_uses > 0 && slot->uses >= p->options.max_uses)
        return PQPOOL_CLOSE_MAX_USES;
    return slot->expires <= now && pqp_pool_may_retire_locked(p, slot, now) ? PQPOOL_CLOSE_MAX_LIFETIME
                                                                            : PQPOOL_CLOSE_NONE;
}

/* ---- the lock ---- */

void pqp_pool_lock(pqpool *p)
{
    pqp_mutex_lock(&p->mu);
}

/* Gives a waiter his word. It is the last use of him. */
static void give_word(pqp_waiter *w)
{
    if (w->told)
        w->told(w);
    else
        pqp_parker_post(w->parker, w->word);
}

enum { NUDGES_AT_ONCE = 16 };

/* Takes lanes that have something in their inbox; true: there are more. */
static bool take_nudges(pqpool *p, pqp_lane **lanes, int *n)
{
    for (*n = 0; p->nudges && *n < NUDGES_AT_ONCE;) {
        pqp_slot *slot = p->nudges;
        p->nudges = slot->nudge_next;
        slot->to_nudge = false;
        lanes[(*n)++] = slot->lane;
    }
    return p->nudges != NULL;
}

/* A thread that is leaving the pool: what it does on its way out may lead it in and out again. */
typedef struct way_out {
    pqpool *pool;
    bool again; /* there is more to do */
} way_out;
static PQP_THREAD_LOCAL way_out *leaving;

/* What was decided under the mutex is done without it: lanes send, waiters get their words. True: there is more. */
static bool act(pqpool *p, way_out *here)
{
    pqp_lane *lanes[NUDGES_AT_ONCE];
    int n;
    bool more = take_nudges(p, lanes, &n), kick = p->kick;
    pqp_waiter *w = p->wakes;
    p->wakes = NULL;
    p->kick = false;
    here->again = false;
    pqp_mutex_unlock(&p->mu);
    for (int i = 0; i < n; i++)
        pqp_lane_nudge(lanes[i]);
    while (w) {
        pqp_waiter *next = w->wake_next; /* before the word: w may be gone after it */
        give_word(w);
        w = next;
    }
    if (kick)
        pqp_fleet_kick(p);
    return more || here->again;
}

void pqp_pool_unlock(pqpool *p)
{
    pqp_pool_settle_locked(p);
    if (leaving && leaving->pool == p) {
        leaving->again = true;
        pqp_mutex_unlock(&p->mu);
        return;
    }
    way_out *before = leaving, here = {.pool = p};
    leaving = &here;
    while (act(p, &here)) {
        pqp_mutex_lock(&p->mu);
        pqp_pool_settle_locked(p);
    }
    leaving = before;
    pqp_events_hand_out(&p->events);
}

void pqp_pool_settle(void *pool)
{
    pqp_pool_lock(pool);
    pqp_pool_unlock(pool);
}

void pqp_pool_feel_pressure(pqpool *p, const pqp_choice *seen, pqp_time now)
{
    int64_t since = pqp_peek(&p->pressure_since);
    if (seen->lanes == 0 || seen->lanes >= pqp_peek(&p->lanes_limit))
        return;
    if (seen->least < PQP_MIN(PQP_GROW_LOAD, pqp_peek(&p->depth))) {
        if (since != 0)
            pqp_store(&p->pressure_since, 0);
        return;
    }
    if (since == 0) {
        pqp_store(&p->pressure_since, now);
        return;
    }
    if (now - since < PQP_GROW_MS * PQP_MS || !pqp_cas(&p->pressure_since, &since, now))
        return;
    pqp_pool_lock(p);
    p->grow = true;
    pqp_pool_unlock(p);
}
