/* pool: composition and policy; the one mover of slot states. pool.h says how it works. */
#include "pool.h"

#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* While somebody waits: one probe this often; otherwise, and when a login was refused, more slowly. */
#define RETRY_WAITED (50 * PQP_MS)
#define RETRY_IDLE (250 * PQP_MS)
#define RETRY_REFUSED (1000 * PQP_MS)

/* ---- life ---- */

static void mirror_options(pqpool *p)
{
    const pqp_options *o = &p->options;
    pqp_store(&p->acquire_timeout_ms, o->acquire_timeout);
    pqp_store(&p->statement_timeout_ms, o->statement_timeout > 0 ? o->statement_timeout : -1);
    pqp_store(&p->slow_ms, o->slow_statement);
    pqp_store(&p->lanes_limit, PQP_MIN(o->shared_max, PQP_MAX(1, o->max_size - 1)));
    pqp_store(&p->events.level, (int)o->log_level);
}

static bool init_depots(pqpool *p)
{
    if (pqp_depot_init(&p->waiters, sizeof(pqp_waiter), pqp_waiter_init, pqp_waiter_fini) != 0)
        return false;
    if (pqp_depot_init(&p->calls, sizeof(pqp_call), pqp_call_init, pqp_call_fini) != 0)
        goto no_calls;
    if (pqp_depot_init(&p->stmts, sizeof(pqp_stmt), NULL, NULL) != 0)
        goto no_stmts;
    return true;
no_stmts:
    pqp_depot_fini(&p->calls);
no_calls:
    pqp_depot_fini(&p->waiters);
    return false;
}

static void fini_depots(pqpool *p)
{
    pqp_depot_fini(&p->stmts);
    pqp_depot_fini(&p->calls);
    pqp_depot_fini(&p->waiters);
}

static bool init_descriptors(pqpool *p)
{
    p->keeper_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event kick = {.events = EPOLLIN, .data.ptr = NULL};
    if (p->keeper_fd >= 0 && p->epoll_fd >= 0 &&
        epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, p->keeper_fd, &kick) == 0)
        return true;
    if (p->keeper_fd >= 0)
        close(p->keeper_fd);
    if (p->epoll_fd >= 0)
        close(p->epoll_fd);
    return false;
}

pqpool *pqp_pool_new(const pqp_options *options, pqp_target *target, const pqpool_hooks *hooks,
                     pqpool_error *err)
{
    pqpool *p = calloc(1, sizeof *p);
    if (!p)
        goto no_pool;
    p->options = *options;
    p->warm = (int)options->initial_size;
    p->refs = 1;
    p->due = PQP_NEVER;
    if (*options->name)
        snprintf(p->name, sizeof p->name, "%s", options->name);
    else if (!pqp_target_name(target, p->name, sizeof p->name))
        goto no_events;
    if (pqp_events_init(&p->events, hooks, p->name) != 0)
        goto no_events;
    mirror_options(p);
    if (!init_depots(p))
        goto no_depots;
    if (!init_descriptors(p))
        goto no_descriptors;
    if (pqp_mutex_init(&p->mu, PQP_RANK_POOL) != 0)
        goto no_mutex;
    if (pqp_cond_init(&p->changed) != 0)
        goto no_cond;
    if (!pqp_slots_grow(&p->slots, (int)options->max_size))
        goto no_slots;
    p->target = *target;
    *target = (pqp_target){0};
    return p;

no_slots:
    pqp_slots_fini(&p->slots);
    pqp_cond_destroy(&p->changed);
no_cond:
    pqp_mutex_destroy(&p->mu);
no_mutex:
    close(p->keeper_fd);
    close(p->epoll_fd);
no_descriptors:
    fini_depots(p);
no_depots:
    pqp_events_fini(&p->events);
no_events:
    free(p);
no_pool:
    pqp_refuse(err, PQPOOL_ENOMEM, "not enough memory or descriptors to open a pool");
    return NULL;
}

static void destroy(pqpool *p)
{
    for (int i = 0; i < p->slots.count; i++) {
        pqp_session_close(p->slots.all[i]->conn); /* what an errand gave back when the keeper had ended */
        pqp_lane *lane = p->slots.all[i]->lane;
        if (!lane)
            continue;
        pqp_wire_fini(&lane->wire);
        pqp_lane_fini(lane);
        free(lane);
    }
    pqp_slots_fini(&p->slots);
    pqp_cond_destroy(&p->changed);
    pqp_mutex_destroy(&p->mu);
    close(p->keeper_fd);
    close(p->epoll_fd);
    fini_depots(p);
    pqp_events_fini(&p->events);
    pqp_target_fini(&p->target);
    p->magic = 0;
    free(p);
}

void pqp_pool_unref(pqpool *p, int jobs)
{
    pqp_mutex_lock(&p->mu);
    p->jobs -= jobs;
    bool last = --p->refs == 0;
    pqp_cond_broadcast(&p->changed);
    pqp_mutex_unlock(&p->mu);
    if (last)
        destroy(p);
}

/* ---- counting ---- */

static int in(const pqpool *p, pqp_slot_state state)
{
    return p->slots.in[state].count;
}

/* Slots on their way to be a lane. */
static int building(const pqpool *p)
{
    int n = 0;
    for (const pqp_slot *s = p->slots.in[PQP_SLOT_RESETTING].head; s; s = s->link.next)
        n += s->to_lane;
    return n;
}

/* Slots on their way to be idle. */
static int underway(const pqpool *p)
{
    return in(p, PQP_SLOT_CONNECTING) + in(p, PQP_SLOT_RESETTING) - building(p) + in(p, PQP_SLOT_PROBING) +
           in(p, PQP_SLOT_DRAINING);
}

int pqp_pool_lanes_open_locked(const pqpool *p)
{
    int n = 0;
    for (const pqp_slot *s = p->slots.in[PQP_SLOT_LANE].head; s; s = s->link.next)
        n += pqp_load(&s->lane->accepting);
    return n;
}

/* Whether callers for a shared connection need one to be made: all of them are served by one. */
static bool sharers_need(const pqpool *p)
{
    return p->queue.list[PQP_WANT_SHARE].count > 0 && building(p) == 0 && pqp_pool_lanes_open_locked(p) == 0;
}

static int demand(const pqpool *p)
{
    return p->queue.list[PQP_WANT_LEASE].count + (sharers_need(p) ? 1 : 0);
}

int pqp_pool_waiting_locked(const pqpool *p)
{
    return PQP_MAX(0, demand(p) - underway(p));
}

int pqp_pool_live_locked(const pqpool *p)
{
    return in(p, PQP_SLOT_IDLE) + in(p, PQP_SLOT_LEASED) + in(p, PQP_SLOT_RESETTING) +
           in(p, PQP_SLOT_PROBING) + in(p, PQP_SLOT_LANE) + in(p, PQP_SLOT_DRAINING);
}

void pqp_pool_event_locked(pqpool *p, int id, const pqp_slot *slot, int64_t wait_us, const char *text)
{
    if (!p->events.ring)
        return;
    pqpool_event e = {.id = id, .waiting = pqp_pool_waiting_locked(p), .wait_us = wait_us};
    if (slot) {
        e.connection = slot->id;
        e.backend_pid = slot->backend_pid;
    }
    pqp_event_note_down(&p->events, &e, text);
}

void pqp_pool_stats_locked(pqpool *p, pqpool_stats_data *out)
{
    *out = (pqpool_stats_data){
        .limit = (int32_t)p->options.max_size,
        .total = pqp_slots_total(&p->slots),
        .idle = in(p, PQP_SLOT_IDLE),
        .leased = in(p, PQP_SLOT_LEASED),
        .shared = in(p, PQP_SLOT_LANE),
        .connecting = in(p, PQP_SLOT_CONNECTING),
        .resetting = in(p, PQP_SLOT_RESETTING),
        .probing = in(p, PQP_SLOT_PROBING),
        .draining = in(p, PQP_SLOT_DRAINING),
        .closing = in(p, PQP_SLOT_CLOSING),
        .waiting = pqp_pool_waiting_locked(p),
        .connects = p->connects,
        .connect_failures = p->connect_failures,
        .closes = p->closes,
        .acquires = p->acquires,
        .releases = p->releases,
        .timeouts = p->timeouts,
        .enqueues = p->enqueues,
        .shared_grown = p->shared_grown,
        .events_dropped = pqp_events_dropped(&p->events),
    };
    static const pqp_slot_state with_lanes[] = {PQP_SLOT_LANE, PQP_SLOT_DRAINING};
    for (size_t i = 0; i < PQP_COUNT_OF(with_lanes); i++)
        for (const pqp_slot *s = p->slots.in [with_lanes[i]].head; s; s = s->link.next)
            out->statements += pqp_load(&s->lane->load);
}

/* ---- moving ---- */

static void wake_waiter(pqpool *p, pqp_waiter *w, int word)
{
    pqp_queue_leave(&p->queue, w);
    w->word = word;
    w->wake_next = p->wakes;
    p->wakes = w;
}

static void fail_waiter(pqpool *p, pqp_waiter *w, const pqpool_error *why)
{
    if (w->err)
        *w->err = *why;
    w->code = (pqpool_code)why->code;
    wake_waiter(p, w, PQP_WORD_FAILED);
}

static void fail_waiters(pqpool *p, const pqpool_error *why, bool sharers_only)
{
    for (pqp_waiter *w; (w = p->queue.list[PQP_WANT_SHARE].head);)
        fail_waiter(p, w, why);
    for (pqp_waiter *w; !sharers_only && (w = p->queue.list[PQP_WANT_LEASE].head);)
        fail_waiter(p, w, why);
}

static void close_slot(pqpool *p, pqp_slot *slot, const char *reason, pqp_time now)
{
    slot->job = NULL;
    pqp_slot_move(&p->slots, slot, PQP_SLOT_CLOSING, now);
    p->closes++;
    p->kick = true;
    pqp_pool_event_locked(p, PQPOOL_EVENT_CLOSE, slot, 0, reason);
}

void pqp_pool_scrap_locked(pqpool *p, pqp_slot *slot, const char *reason)
{
    close_slot(p, slot, reason, pqp_now());
}

void pqp_pool_reject_locked(pqpool *p, pqp_slot *slot, const char *reason)
{
    pqp_time now = pqp_now();
    close_slot(p, slot, reason, now);
    p->failures++;
    p->failed_at = now;
    p->next_attempt = now + pqp_jitter(RETRY_WAITED, 20);
    pqp_refuse(&p->last_failure, PQPOOL_ECONNECT, "%s", reason);
}

static void start_sharing(pqpool *p, pqp_slot *slot, pqp_time now)
{
    slot->to_lane = true;
    slot->job = NULL;
    pqp_slot_move(&p->slots, slot, PQP_SLOT_RESETTING, now);
    p->kick = true;
}

/* To one caller, for himself. */
static void lend(pqpool *p, pqp_slot *slot, pqp_time now)
{
    slot->generation++;
    slot->uses++;
    slot->fresh = false;
    pqp_slot_move(&p->slots, slot, PQP_SLOT_LEASED, now);
    p->acquires++;
}

pqp_slot *pqp_pool_lend_idle_locked(pqpool *p, uint64_t ticket)
{
    pqp_slot *slot = p->slots.in[PQP_SLOT_IDLE].head;
    const pqp_waiter *first = pqp_queue_first(&p->queue, sharers_need(p));
    if (!slot || (first && first->ticket < ticket))
        return NULL;
    lend(p, slot, pqp_now());
    pqp_pool_event_locked(p, PQPOOL_EVENT_ACQUIRE, slot, 0, NULL);
    return slot;
}

static void grant(pqpool *p, pqp_waiter *w, pqp_slot *slot, pqp_time now)
{
    int64_t waited = (now - w->since) / 1000;
    lend(p, slot, now);
    w->grant = slot;
    wake_waiter(p, w, PQP_WORD_GRANTED);
    if (w->announced)
        pqp_pool_event_locked(p, PQPOOL_EVENT_DEQUEUE, slot, waited, NULL);
    pqp_pool_event_locked(p, PQPOOL_EVENT_ACQUIRE, slot, waited, NULL);
}

void pqp_pool_drain_locked(pqpool *p, pqp_slot *slot)
{
    for (int i = 0; i < PQP_LANES_MAX; i++)
        if (pqp_load(&p->lanes[i]) == slot->lane)
            pqp_store(&p->lanes[i], NULL);
    pqp_lane_retire(slot->lane);
    pqp_slot_move(&p->slots, slot, PQP_SLOT_DRAINING, pqp_now());
    p->kick = true;
}

/* ---- settling ---- */

void pqp_pool_due_locked(pqpool *p, pqp_time at)
{
    if (at >= p->due)
        return;
    p->due = at;
    p->kick = true;
}

/* Idle connections go to those who wait, in their order. */
static void serve_waiters(pqpool *p, pqp_time now)
{
    pqp_slot *slot;
    while ((slot = p->slots.in[PQP_SLOT_IDLE].head)) {
        pqp_waiter *w = pqp_queue_first(&p->queue, sharers_need(p));
        if (!w)
            break;
        if (w->want == PQP_WANT_LEASE)
            grant(p, w, slot, now);
        else
            start_sharing(p, slot, now);
    }
    bool room_for_lane = in(p, PQP_SLOT_LANE) + building(p) < pqp_load(&p->lanes_limit);
    if (p->grow && room_for_lane && (slot = p->slots.in[PQP_SLOT_IDLE].head)) {
        p->grow = false;
        p->shared_grown++;
        start_sharing(p, slot, now);
    }
}

/* How many connects may be started now; sets `due` when it is only a matter of time. */
static int connects_allowed(pqpool *p, pqp_time now)
{
    int room = (int)p->options.max_size - pqp_slots_total(&p->slots);
    int allowed = PQP_MIN(room, (int)p->options.connect_concurrency - in(p, PQP_SLOT_CONNECTING));
    if (p->failures == 0 || allowed <= 0)
        return allowed;
    if (now < p->next_attempt) {
        pqp_pool_due_locked(p, p->next_attempt);
        return 0;
    }
    return in(p, PQP_SLOT_CONNECTING) > 0 ? 0 : 1;
}

/* Connects are ordered for those whom nothing under way covers, then for what is to be kept ready. */
static void order_connects(pqpool *p, pqp_time now)
{
    int total = pqp_slots_total(&p->slots);
    if (total >= p->warm)
        p->warm = 0;
    int spare = PQP_MAX(0, underway(p) - demand(p)) + in(p, PQP_SLOT_IDLE);
    int ready = PQP_MAX(0, (int)p->options.min_idle - spare);
    int want = PQP_MAX(pqp_pool_waiting_locked(p) + ready, p->warm - total);
    if (p->grow &&
        (total >= p->options.max_size || in(p, PQP_SLOT_LANE) + building(p) >= pqp_load(&p->lanes_limit)))
        p->grow = false; /* no room: the pressure will ask again if it lasts */
    if (p->grow && spare == 0)
        want++;
    if (want <= 0)
        return;
    for (int n = PQP_MIN(want, connects_allowed(p, now)); n > 0; n--) {
        pqp_slot *slot = p->slots.in[PQP_SLOT_EMPTY].head;
        slot->job = NULL;
        pqp_slot_move(&p->slots, slot, PQP_SLOT_CONNECTING, now);
        p->kick = true;
    }
}

/* The newest lane gives way to a lease that nothing else will serve. The last one only while it is idle, or
 * when it holds the only connection there may be: else statements and leases would take it from each
 * other. */
static void drain_for_leases(pqpool *p)
{
    int unserved = p->queue.list[PQP_WANT_LEASE].count - underway(p);
    if (pqp_peek(&p->lane_wanted))
        pqp_store(&p->lane_wanted, 0);
    /* While no connect succeeds, what there is is all there may be. */
    int64_t most = p->failures > 0 ? pqp_pool_live_locked(p) : p->options.max_size;
    while (unserved-- > 0 && pqp_slots_total(&p->slots) >= most) {
        pqp_slot *newest = p->slots.in[PQP_SLOT_LANE].tail;
        if (!newest)
            return;
        if (in(p, PQP_SLOT_LANE) == 1 && most > 1) {
            pqp_store(&p->lane_wanted, 1); /* before the look: whoever leaves the lane then looks here */
            if (pqp_load(&newest->lane->users) > 0 || pqp_load(&newest->lane->load) > 0)
                return;
        }
        pqp_pool_drain_locked(p, newest);
    }
}

/* A limit that was lowered comes before those who wait, or it would never be reached while somebody does. */
static void shrink(pqpool *p, pqp_time now)
{
    pqp_slot *oldest;
    while ((oldest = p->slots.in[PQP_SLOT_IDLE].tail) &&
           pqp_slots_total(&p->slots) - in(p, PQP_SLOT_CLOSING) > p->options.max_size)
        close_slot(p, oldest, "more connections than max_size allows", now);
    for (int64_t many = pqp_pool_lanes_open_locked(p) - pqp_load(&p->lanes_limit); many > 0; many--) {
        pqp_slot *newest = p->slots.in[PQP_SLOT_LANE].tail;
        while (newest && !pqp_load(&newest->lane->accepting)) /* it is on its way out as it is */
            newest = newest->link.prev;
        if (!newest) /* one was lost just now */
            return;
        pqp_pool_drain_locked(p, newest);
    }
}

static void trim(pqpool *p, pqp_time now)
{
    int64_t max_idle = p->options.max_idle < 0 ? p->options.max_size : p->options.max_idle;
    while (in(p, PQP_SLOT_IDLE) > max_idle)
        close_slot(p, p->slots.in[PQP_SLOT_IDLE].tail, "more idle connections than max_idle allows", now);
}

void pqp_pool_settle_locked(pqpool *p)
{
    pqp_time now = pqp_now();
    if (p->closing) {
        for (pqp_slot *s; (s = p->slots.in[PQP_SLOT_IDLE].head);)
            close_slot(p, s, "the pool was closed", now);
        return;
    }
    shrink(p, now);
    serve_waiters(p, now);
    order_connects(p, now);
    drain_for_leases(p);
    trim(p, now);
}

/* ---- the lock ---- */

void pqp_pool_lock(pqpool *p)
{
    pqp_mutex_lock(&p->mu);
}

void pqp_pool_kick(void *pool)
{
    (void)eventfd_write(((pqpool *)pool)->keeper_fd, 1);
}

void pqp_pool_unlock(pqpool *p)
{
    pqp_pool_settle_locked(p);
    pqp_waiter *w = p->wakes;
    bool kick = p->kick;
    p->wakes = NULL;
    p->kick = false;
    pqp_mutex_unlock(&p->mu);
    while (w) {
        pqp_waiter *next = w->wake_next; /* before the word: w may be gone after it */
        pqp_parker_post(&w->parker, w->word);
        w = next;
    }
    if (kick)
        pqp_pool_kick(p);
    pqp_events_hand_out(&p->events);
}

/* ---- what jobs report ---- */

/* Makes sure the keeper is there when an unused connection has reached its age. */
static void mind_age(pqpool *p, const pqp_slot *slot, pqp_time now)
{
    pqp_time idle_timeout = p->options.idle_timeout > 0 ? p->options.idle_timeout * PQP_MS : PQP_NEVER / 2;
    pqp_pool_due_locked(p, PQP_MIN(slot->expires, now + idle_timeout));
}

void pqp_pool_connected_locked(pqpool *p, pqp_slot *slot, PGconn *conn, int fd, int backend_pid)
{
    pqp_time now = pqp_now();
    /* One that began before another failed says nothing new: a server with room for one more is still
     * full. */
    if (slot->since >= p->failed_at)
        p->failures = 0;
    p->refused = false;
    slot->conn = conn;
    slot->fd = fd;
    slot->backend_pid = backend_pid;
    slot->id = ++p->connection_ids;
    slot->expires = p->options.max_lifetime > 0
                        ? now + pqp_jitter(p->options.max_lifetime * PQP_MS / 100 * 95, 5)
                        : PQP_NEVER;
    slot->uses = 0;
    slot->fresh = true;
    slot->probed = now;
    slot->job = NULL;
    pqp_store(&slot->suspect, 0);
    pqp_slot_move(&p->slots, slot, PQP_SLOT_IDLE, now);
    mind_age(p, slot, now);
    p->connects++;
    pqp_pool_event_locked(p, PQPOOL_EVENT_CONNECT, slot, 0, NULL);
    struct epoll_event watch = {.events = EPOLLRDHUP | EPOLLET, .data.ptr = slot};
    (void)epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, slot->fd,
                    &watch); /* unwatched, it is only found dead later */
    pqp_cond_broadcast(&p->changed);
}

void pqp_pool_connect_failed_locked(pqpool *p, pqp_slot *slot, const pqpool_error *why, bool for_good)
{
    pqp_time now = pqp_now();
    if (slot) {
        slot->job = NULL;
        pqp_slot_move(&p->slots, slot, PQP_SLOT_EMPTY, now);
    }
    p->connect_failures++;
    p->failures++;
    p->failed_at = now;
    p->refused = for_good;
    p->last_failure = *why;
    p->grow = false;
    p->warm = 0;
    p->next_attempt = now + pqp_jitter(for_good        ? RETRY_REFUSED
                                       : demand(p) > 0 ? RETRY_WAITED
                                                       : RETRY_IDLE,
                                       20);
    pqp_pool_due_locked(p, p->next_attempt);
    pqp_pool_event_locked(p, PQPOOL_EVENT_CONNECT_FAILED, NULL, 0, why->message);
    int live = pqp_pool_live_locked(p);
    bool none_comes = !p->options.wait && in(p, PQP_SLOT_CONNECTING) == 0;
    if (live == 0 && (for_good || none_comes)) {
        fail_waiters(p, why, false);
    } else if (none_comes) {
        pqpool_error busy;
        pqp_refuse(&busy, PQPOOL_ENOWAIT,
                   "all %d connections are taken, and wait=off; one more could not be made: %s", live,
                   why->message);
        fail_waiters(p, &busy, false);
    }
    pqp_cond_broadcast(&p->changed);
}

void pqp_pool_shared_locked(pqpool *p, pqp_slot *slot)
{
    slot->job = NULL;
    slot->to_lane = false;
    slot->quiet_since = pqp_now();
    pqp_slot_move(&p->slots, slot, PQP_SLOT_LANE, slot->quiet_since);
    if (p->closing) { /* not closed at once: a caller who still knows the lane from before may have come in */
        pqp_pool_drain_locked(p, slot);
        return;
    }
    p->kick = true; /* the server may have hung up meanwhile */
    mind_age(p, slot, slot->quiet_since);
    int i = 0;
    while (i < PQP_LANES_MAX && pqp_load(&p->lanes[i]))
        i++;
    if (i == PQP_LANES_MAX) { /* lost ones keep their places until they are empty */
        pqp_pool_drain_locked(p, slot);
        return;
    }
    pqp_store(&p->lanes[i], slot->lane);
    if (i >= pqp_load(&p->n_lanes_top))
        pqp_store(&p->n_lanes_top, i + 1);
    for (pqp_waiter *w; (w = p->queue.list[PQP_WANT_SHARE].head);) {
        w->grant =
            pqp_lane_pin(slot->lane) ? slot : NULL; /* or a lease would take it away before he is awake */
        wake_waiter(p, w, PQP_WORD_GRANTED);
        if (w->announced)
            pqp_pool_event_locked(p, PQPOOL_EVENT_DEQUEUE, slot, (pqp_now() - w->since) / 1000, NULL);
    }
}

void pqp_pool_unshareable_locked(pqpool *p, pqp_slot *slot, const char *reason)
{
    pqpool_error why;
    pqp_refuse(&why, PQPOOL_ECONNECT, "the connection can't be shared: %s", reason);
    slot->to_lane = false;
    close_slot(p, slot, reason, pqp_now());
    if (pqp_pool_lanes_open_locked(p) == 0)
        fail_waiters(p, &why, true);
}

void pqp_pool_cleaned_locked(pqpool *p, pqp_slot *slot)
{
    pqp_time now = pqp_now();
    slot->job = NULL;
    pqp_slot_move(&p->slots, slot, PQP_SLOT_IDLE, now);
    p->kick |= pqp_load(&slot->suspect) != 0; /* the server hung up meanwhile: the keeper closes it */
    mind_age(p, slot, now);
    pqp_cond_broadcast(&p->changed);
}

void pqp_pool_emptied_locked(pqpool *p, pqp_slot *slot)
{
    slot->job = NULL;
    slot->conn = NULL;
    slot->fd = -1;
    pqp_slot_move(&p->slots, slot, PQP_SLOT_EMPTY, pqp_now());
    pqp_cond_broadcast(&p->changed);
}

void pqp_pool_vacated_locked(pqpool *p, pqp_slot *slot, const char *lost)
{
    if (slot->state == PQP_SLOT_LANE)
        pqp_pool_drain_locked(p, slot);
    if (lost || p->closing) {
        close_slot(p, slot, lost ? lost : "the pool was closed", pqp_now());
        return;
    }
    slot->to_lane = false;
    slot->job = NULL;
    pqp_slot_move(&p->slots, slot, PQP_SLOT_RESETTING, pqp_now());
    p->kick = true;
}

void pqp_pool_fail_waiters_locked(pqpool *p, const pqpool_error *why)
{
    fail_waiters(p, why, false);
}

/* ---- options ---- */

pqpool_code pqp_pool_reconfigure_locked(pqpool *p, const pqp_options *options, pqpool_error *err)
{
    if (!pqp_slots_grow(&p->slots, (int)options->max_size))
        return pqp_no_memory(err);
    p->options = *options;
    mirror_options(p);
    p->kick = true;
    return PQPOOL_OK;
}
