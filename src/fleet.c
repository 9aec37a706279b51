/* fleet: making it, counting and moving; fleet.h says how it stands to pool. */
#include "fleet.h"

#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* ---- life ---- */

static void mirror_options(pqpool *p)
{
    const pqp_options *o = &p->options;
    pqp_store(&p->acquire_timeout_ms, o->acquire_timeout);
    pqp_store(&p->statement_timeout_ms, o->statement_timeout > 0 ? o->statement_timeout : -1);
    pqp_store(&p->slow_ms, o->slow_statement);
    pqp_store(&p->stall_time, o->stall_threshold > 0 ? o->stall_threshold * PQP_MS : PQP_NEVER);
    pqp_store(&p->slow_lane_time, o->slow_lane_threshold > 0 ? o->slow_lane_threshold * PQP_MS : PQP_NEVER);
    pqp_store(&p->max_result, o->max_result);
    pqp_store(&p->max_buffer, o->max_buffer);
    pqp_store(&p->depth, (int)o->pipeline_depth);
    pqp_store(&p->test_on_borrow, o->test_on_borrow != 0);
    pqp_store(&p->backtrace, o->backtrace != 0);
    pqp_store(&p->keeps_state, o->reset == PQP_RESET_NONE);
    pqp_store(&p->lanes_limit, PQP_MIN(o->shared_max, PQP_MAX(1, o->max_size - 1)));
    pqp_store(&p->events.level, (int)o->log_level);
}

static bool init_stores(pqpool *p, int plans)
{
    if (pqp_depot_init(&p->sleepers, sizeof(pqp_sleeper), pqp_sleeper_init, pqp_sleeper_fini) != 0)
        return false;
    if (pqp_depot_init(&p->standings, sizeof(pqp_standing), NULL, NULL) != 0)
        goto no_standings;
    if (pqp_depot_init(&p->runs, PQP_RUN_SIZE, pqp_call_init, pqp_call_fini) != 0)
        goto no_runs;
    if (pqp_depot_init(&p->tickets, PQP_TICKET_SIZE, pqp_call_init, pqp_call_fini) != 0)
        goto no_tickets;
    if (pqp_depot_init(&p->requests, PQP_REQUEST_SIZE, NULL, NULL) != 0)
        goto no_requests;
    if (pqp_depot_init(&p->stmts, sizeof(pqp_stmt), NULL, NULL) != 0)
        goto no_stmts;
    if (pqp_plans_init(&p->plans, plans) != 0)
        goto no_plans;
    if (pqp_delivery_init(&p->delivery) == 0)
        return true;
    pqp_plans_fini(&p->plans);
no_plans:
    pqp_depot_fini(&p->stmts);
no_stmts:
    pqp_depot_fini(&p->requests);
no_requests:
    pqp_depot_fini(&p->tickets);
no_tickets:
    pqp_depot_fini(&p->runs);
no_runs:
    pqp_depot_fini(&p->standings);
no_standings:
    pqp_depot_fini(&p->sleepers);
    return false;
}

static void fini_stores(pqpool *p)
{
    pqp_delivery_fini(&p->delivery);
    pqp_plans_fini(&p->plans);
    pqp_depot_fini(&p->stmts);
    pqp_depot_fini(&p->requests);
    pqp_depot_fini(&p->tickets);
    pqp_depot_fini(&p->runs);
    pqp_depot_fini(&p->standings);
    pqp_depot_fini(&p->sleepers);
}

static bool init_descriptors(pqpool *p)
{
    p->keeper_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event kick = {.events = EPOLLIN, .data.u64 = 0};
    if (p->keeper_fd >= 0 && p->epoll_fd >= 0 &&
        epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, p->keeper_fd, &kick) == 0)
        return true;
    if (p->keeper_fd >= 0)
        close(p->keeper_fd);
    if (p->epoll_fd >= 0)
        close(p->epoll_fd);
    return false;
}

pqpool *pqp_fleet_new(const pqp_options *options, pqp_target *target, const pqpool_hooks *hooks,
                      pqpool_error *err)
{
    pqpool *p = calloc(1, sizeof *p);
    if (!p)
        goto no_pool;
    p->options = *options;
    p->warm = (int)options->initial_size;
    p->due = p->alarm = PQP_NEVER;
    p->health_since = pqp_now();
    if (*options->name)
        snprintf(p->name, sizeof p->name, "%s", options->name);
    else if (!pqp_target_name(target, p->name, sizeof p->name))
        goto no_events;
    if (pqp_events_init(&p->events, hooks, p->name) != 0)
        goto no_events;
    p->events.tell_keeper = pqp_fleet_kick;
    p->events.owner = p;
    mirror_options(p);
    if (!init_stores(p, (int)options->statement_cache_size))
        goto no_stores;
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
    fini_stores(p);
no_stores:
    pqp_events_fini(&p->events);
no_events:
    free(p);
no_pool:
    pqp_refuse(err, PQPOOL_ENOMEM, "not enough memory or descriptors to open a pool");
    return NULL;
}

void pqp_fleet_free(pqpool *p)
{
    for (int i = 0; i < p->slots.count; i++) {
        pqp_slot *s =
            p->slots.all[i]; /* its connection: what an errand gave back when the keeper had ended */
        pqp_slot_unwatch(s, p->epoll_fd);
        pqp_session_close(s->conn, NULL);
        pqp_sockets_forget(s->known);
        pqp_lane *lane = p->slots.all[i]->lane;
        if (!lane)
            continue;
        pqp_wire_fini(&lane->wire);
        free(lane->tally);
        pqp_lane_fini(lane);
        free(lane);
    }
    pqp_slots_fini(&p->slots);
    pqp_cond_destroy(&p->changed);
    pqp_mutex_destroy(&p->mu);
    close(p->keeper_fd);
    close(p->epoll_fd);
    fini_stores(p);
    pqp_events_fini(&p->events);
    pqp_target_fini(&p->target);
    p->magic = 0;
    free(p);
}

pqpool_code pqp_fleet_reconfigure_locked(pqpool *p, const pqp_options *options, pqpool_error *err)
{
    if (!pqp_slots_grow(&p->slots, (int)options->max_size))
        return pqp_no_memory(err);
    bool timeout_changed = options->statement_timeout != p->options.statement_timeout;
    p->options = *options;
    mirror_options(p);
    if (timeout_changed) /* their sessions have the old one */
        for (pqp_slot *s; (s = p->slots.in[PQP_SLOT_LANE].head);)
            pqp_fleet_drain_locked(p, s);
    p->kick = true;
    return PQPOOL_OK;
}

/* ---- counting ---- */

/* Of the connections that are being asked, those somebody may rely on. */
static int covering(const pqpool *p, pqp_slot_state state, bool to_lane)
{
    if (pqp_fleet_in(p, state) == 0)
        return 0;
    return pqp_patience_covering(&p->slots, state, to_lane, pqp_fleet_patience(p), pqp_now());
}

int pqp_fleet_building_locked(const pqpool *p, bool soon)
{
    int n = 0;
    if (soon)
        return covering(p, PQP_SLOT_RESETTING, true);
    for (const pqp_slot *s = p->slots.in[PQP_SLOT_RESETTING].head; s; s = s->link.next)
        n += s->to_lane && !s->alone;
    return n;
}

int pqp_fleet_lanes_locked(const pqpool *p)
{
    int n = pqp_fleet_building_locked(p, false);
    for (const pqp_slot *s = p->slots.in[PQP_SLOT_LANE].head; s; s = s->link.next)
        n += !s->alone;
    return n;
}

int pqp_fleet_underway_locked(const pqpool *p, bool late)
{
    int n = pqp_fleet_in(p, PQP_SLOT_CONNECTING) + covering(p, PQP_SLOT_PROBING, false) +
            covering(p, PQP_SLOT_RESETTING, false);
    for (const pqp_slot *s = p->slots.in[PQP_SLOT_DRAINING].head; s; s = s->link.next)
        n += (late && s->for_owner) || (pqp_load(&s->lane->load) == 0 && pqp_load(&s->lane->users) == 0);
    return n;
}

int pqp_fleet_lanes_open_locked(const pqpool *p, pqp_time now)
{
    pqp_time stall = pqp_peek(&((pqpool *)p)->stall_time);
    int n = 0;
    for (const pqp_slot *s = p->slots.in[PQP_SLOT_LANE].head; s; s = s->link.next)
        n += pqp_load(&s->lane->accepting) && !pqp_lane_stalled(s->lane, now, stall);
    return n;
}

bool pqp_fleet_lane_needed_locked(pqpool *p, pqp_time now)
{
    if (p->queue.sharers.count == 0 || pqp_fleet_building_locked(p, true) > 0 ||
        pqp_fleet_lanes_open_locked(p, now) > 0)
        return false;
    int64_t most = PQP_MIN(PQP_LANES_MAX, PQP_MAX(1, p->options.max_size - 1));
    return pqp_fleet_lanes_locked(p) < most;
}

int pqp_fleet_demand_locked(pqpool *p, pqp_time now)
{
    return p->queue.owners.count + pqp_fleet_lane_needed_locked(p, now);
}

int pqp_fleet_waiting_locked(pqpool *p)
{
    if (p->suspended)
        return p->queue.owners.count + p->queue.sharers.count;
    int sharers = p->queue.sharers.count, spare = pqp_fleet_underway_locked(p, false) - p->queue.owners.count;
    int owners = PQP_MAX(0, -spare);
    if (sharers == 0 || pqp_fleet_building_locked(p, true) > 0)
        return owners;
    if (spare > 0 && pqp_fleet_lane_needed_locked(p, pqp_now()))
        return 0; /* one connection will serve them all */
    return owners + sharers;
}

pqp_slot *pqp_fleet_slot_of_locked(const pqpool *p, const pqp_lane *lane)
{
    for (int i = 0; i < p->slots.count; i++)
        if (lane && p->slots.all[i]->lane == lane)
            return p->slots.all[i];
    return NULL;
}

pqp_slot *pqp_fleet_next_lane_locked(const pqpool *p, const pqp_slot *lane)
{
    pqp_slot *draining = p->slots.in[PQP_SLOT_DRAINING].head;
    pqp_slot *next = lane ? lane->link.next : p->slots.in[PQP_SLOT_LANE].head;
    return next || (lane && lane->state == PQP_SLOT_DRAINING) ? next : draining;
}

pqp_time pqp_fleet_idle_time_locked(const pqpool *p)
{
    return p->options.idle_timeout > 0 ? p->options.idle_timeout * PQP_MS : PQP_NEVER / 2;
}

int pqp_fleet_in_use_locked(const pqpool *p)
{
    int n = pqp_fleet_in(p, PQP_SLOT_LEASED);
    for (const pqp_slot *s = NULL; (s = pqp_fleet_next_lane_locked(p, s));)
        n += pqp_load(&s->lane->load) > 0;
    return n;
}

int pqp_fleet_live_locked(const pqpool *p)
{
    return pqp_fleet_in(p, PQP_SLOT_IDLE) + pqp_fleet_in(p, PQP_SLOT_LEASED) +
           pqp_fleet_in(p, PQP_SLOT_RESETTING) + pqp_fleet_in(p, PQP_SLOT_PROBING) +
           pqp_fleet_in(p, PQP_SLOT_LANE) + pqp_fleet_in(p, PQP_SLOT_DRAINING);
}

int pqp_fleet_serving_locked(const pqpool *p)
{
    static const pqp_slot_state up[] = {PQP_SLOT_IDLE,    PQP_SLOT_LEASED, PQP_SLOT_RESETTING,
                                        PQP_SLOT_PROBING, PQP_SLOT_LANE,   PQP_SLOT_DRAINING};
    int n = 0;
    for (size_t i = 0; i < PQP_COUNT_OF(up); i++)
        for (const pqp_slot *s = p->slots.in [up[i]].head; s; s = s->link.next) {
            bool lane = s->state == PQP_SLOT_LANE || s->state == PQP_SLOT_DRAINING;
            n += !pqp_load(&((pqp_slot *)s)->suspect) && !(lane && pqp_load(&s->lane->ended));
        }
    return n;
}

/* Both lists stand in the order in which they came. */
static int64_t longest_wait(const pqpool *p)
{
    const pqp_waiter *w = pqp_queue_first(&p->queue, true);
    return w ? PQP_MAX(0, pqp_now() - w->since) / 1000 : 0;
}

void pqp_fleet_stats_locked(pqpool *p, pqpool_stats_data *out)
{
    *out = (pqpool_stats_data){
        .limit = (int32_t)p->options.max_size,
        .total = pqp_slots_total(&p->slots),
        .idle = pqp_fleet_in(p, PQP_SLOT_IDLE),
        .leased = pqp_fleet_in(p, PQP_SLOT_LEASED),
        .shared = pqp_fleet_in(p, PQP_SLOT_LANE),
        .connecting = pqp_fleet_in(p, PQP_SLOT_CONNECTING),
        .resetting = pqp_fleet_in(p, PQP_SLOT_RESETTING),
        .probing = pqp_fleet_in(p, PQP_SLOT_PROBING),
        .draining = pqp_fleet_in(p, PQP_SLOT_DRAINING),
        .closing = pqp_fleet_in(p, PQP_SLOT_CLOSING),
        .waiting = pqp_fleet_waiting_locked(p),
        .connects = p->connects,
        .connect_failures = p->connect_failures,
        .closes = p->closes,
        .acquires = p->acquires,
        .releases = p->releases,
        .timeouts = p->timeouts,
        .enqueues = p->enqueues,
        .shared_grown = p->shared_grown,
        .events_dropped = pqp_events_dropped(&p->events),
        .unsent = p->queue.sharers.count,
        .promised = pqp_load(&p->promised),
        .in_use = pqp_fleet_in_use_locked(p),
        .suspended = p->suspended,
        .left_open = p->left_open,
        .left_running = p->left_running,
        .left_changed = p->left_changed,
        .cancels = p->cancels,
        .cancels_failed = p->cancels_failed,
        .leaks = p->leaks,
        .unleaks = p->unleaks,
        .long_holds = p->long_holds,
        .nested = p->nested,
        .pool_locks = p->pool_locks,
        .evictions = p->evictions,
        .suspensions = p->suspensions,
        .longest_wait_us = longest_wait(p),
        .wait = p->wait,
        .use = p->use,
        .create = p->create,
    };
    memcpy(out->closed_by, p->closed_by, sizeof out->closed_by);
    out->statements_timed_out = pqp_peek(&p->ends.timed_out);
    out->statements_lost = pqp_peek(&p->ends.lost);
    out->statements_canceled = pqp_peek(&p->ends.canceled);
    out->statements_refused = pqp_peek(&p->ends.refused);
    out->statements_unknown = pqp_peek(&p->ends.unknown);
    out->statements_repeated = pqp_peek(&p->ends.repeated);
    pqp_tally_merge(&p->seldom, out);
    for (int i = 0; i < p->slots.count; i++)
        if (p->slots.all[i]->lane && p->slots.all[i]->lane->tally)
            pqp_tally_merge(p->slots.all[i]->lane->tally, out);
    pqp_time now = pqp_now(), stall = pqp_peek(&p->stall_time);
    for (const pqp_slot *s = NULL; (s = pqp_fleet_next_lane_locked(p, s));) {
        out->statements += pqp_load(&s->lane->load);
        out->alone += s->alone && s->busy;
        out->stalled += !s->alone && pqp_lane_stalled(s->lane, now, stall);
    }
}

/* ---- telling ---- */

void pqp_fleet_tell_locked(pqpool *p, const pqp_slot *slot, const char *text, pqpool_event what)
{
    if (!pqp_event_wanted(&p->events, what.id))
        return;
    what.waiting = pqp_fleet_waiting_locked(p);
    if (slot) {
        what.connection = slot->id;
        what.backend_pid = slot->backend_pid;
    }
    if (slot && slot->state == PQP_SLOT_LEASED) {
        what.file = slot->site.file;
        what.line = slot->site.line;
        what.thread = slot->site.thread;
    }
    pqp_event_note_down(&p->events, &what, text);
}

void pqp_fleet_kick(void *pool)
{
    (void)eventfd_write(((pqpool *)pool)->keeper_fd, 1);
}

void pqp_fleet_due_locked(pqpool *p, pqp_time at)
{
    if (at >= p->due)
        return;
    p->due = at;
    p->kick = true;
}

void pqp_fleet_wake_locked(pqpool *p, pqp_waiter *w, int word)
{
    w->word = word;
    w->wake_next = NULL;
    *(p->wakes ? &p->last_wake->wake_next : &p->wakes) = w;
    p->last_wake = w;
}

void pqp_fleet_nudge_locked(pqpool *p, pqp_slot *slot)
{
    if (slot->to_nudge)
        return;
    slot->to_nudge = true;
    slot->nudge_next = p->nudges;
    p->nudges = slot;
}

void pqp_fleet_fail_locked(pqpool *p, pqp_waiter *w, const pqpool_error *why)
{
    if (w->err)
        *w->err = *why;
    w->code = (pqpool_code)why->code;
    if (w->queued)
        pqp_queue_leave(&p->queue, w);
    if (w->making)
        w->making->waiter = NULL;
    w->making = NULL;
    pqp_fleet_wake_locked(p, w, PQP_WORD_FAILED);
}

/* ---- moving ---- */

void pqp_fleet_scrap_locked(pqpool *p, pqp_slot *slot, pqpool_close_reason reason)
{
    pqp_fleet_scrap_for_locked(p, slot, reason, NULL);
}

void pqp_fleet_scrap_for_locked(pqpool *p, pqp_slot *slot, pqpool_close_reason reason, const char *why)
{
    char text[PQP_EVENT_TEXT];
    snprintf(text, sizeof text, "%s%s%s", pqp_close_text(reason), why ? ": " : "", why ? why : "");
    pqp_site site =
        slot->state == PQP_SLOT_LEASED ? slot->site : (pqp_site){0}; /* its user has a part in it */
    slot->job = NULL;
    pqp_slot_move(&p->slots, slot, PQP_SLOT_CLOSING, pqp_now());
    p->closes++;
    p->closed_by[reason]++;
    p->kick = true;
    slot->untold =
        reason == PQPOOL_CLOSE_LOST_IDLE && !why; /* why the server has ended it, only its last words tell */
    if (slot->untold)
        return;
    PQP_TELL(p, PQPOOL_EVENT_CLOSE, slot, text, .reason = (int32_t)reason, .file = site.file,
             .line = site.line, .thread = site.thread);
}

void pqp_fleet_lend_locked(pqpool *p, pqp_slot *slot, const pqp_site *site, pqp_time since, pqp_time now)
{
    slot->site = *site;
    slot->thread_name[0] = slot->sql[0] = '\0';
    slot->blocked_by = slot->n_frames = 0;
    slot->leaked = slot->leak_untold = slot->ending = false;
    pqp_activity_begin_locked(&slot->activity, now);
    pqp_fleet_due_locked(
        p, now + PQP_LOOK_AGE); /* the first lease after a rest wakes the keeper, no other does */
    slot->generation++;
    slot->uses++;
    slot->fresh = false;
    slot->rested = now - slot->since >= PQP_REST;
    pqp_slot_move(&p->slots, slot, PQP_SLOT_LEASED, now);
    p->acquires++;
    p->peak_leased = PQP_MAX(p->peak_leased, pqp_fleet_in(p, PQP_SLOT_LEASED));
    pqp_histogram_count(&p->wait, (now - since) / 1000);
    PQP_TELL(p, PQPOOL_EVENT_ACQUIRE, slot, NULL, .wait_us = (now - since) / 1000);
}

void pqp_fleet_probe_locked(pqpool *p, pqp_slot *slot, pqp_time now)
{
    slot->job = NULL;
    pqp_slot_move(&p->slots, slot, PQP_SLOT_PROBING, now);
    p->kick = true;
}

void pqp_fleet_put_aside_locked(pqpool *p, pqp_slot *slot)
{
    pqp_fleet_probe_locked(p, slot, pqp_now());
    slot->asked = slot->doubtful = true;
}

void pqp_fleet_stand_again_locked(pqpool *p, pqp_slot *slot)
{
    pqp_waiter *w = slot->waiter;
    slot->waiter = NULL;
    if (!w)
        return;
    bool announced = w->announced;
    pqp_queue_enter(&p->queue, w, w->want, (pqp_turn){.ticket = w->ticket, .since = w->since, .stood = true});
    w->announced = announced;
}

void pqp_fleet_note_round_trip(pqpool *p, pqp_time round_trip)
{
    pqp_time before = pqp_peek(&p->round_trip);
    bool faster = before == 0 || round_trip < before; /* a server that is busy once is no farther away */
    pqp_poke(&p->round_trip, faster ? round_trip : before + (round_trip - before) / 8);
}

pqp_time pqp_fleet_patience(const pqpool *p)
{
    return pqp_patience_time(pqp_peek(&((pqpool *)p)->round_trip));
}

void pqp_fleet_share_locked(pqpool *p, pqp_slot *slot, pqp_waiter *alone)
{
    slot->to_lane = true;
    slot->alone = alone != NULL;
    slot->busy = false;
    slot->waiter = alone;
    if (alone) {
        pqp_queue_leave(&p->queue, alone);
        alone->making = slot;
    }
    slot->job = NULL;
    pqp_time now = pqp_now();
    slot->rested = now - slot->since >= PQP_REST;
    pqp_slot_move(&p->slots, slot, PQP_SLOT_RESETTING, now);
    p->kick = true;
}

void pqp_fleet_drain_locked(pqpool *p, pqp_slot *slot)
{
    for (int i = 0; i < PQP_LANES_MAX; i++)
        if (pqp_load(&p->lanes[i]) == slot->lane)
            pqp_store(&p->lanes[i], NULL);
    pqp_flight_retire(slot->lane);
    slot->for_owner = false;
    pqp_slot_move(&p->slots, slot, PQP_SLOT_DRAINING, pqp_now());
    p->kick = true;
}

bool pqp_fleet_publish_locked(pqpool *p, pqp_slot *slot)
{
    int i = 0;
    while (i < PQP_LANES_MAX && pqp_load(&p->lanes[i]))
        i++;
    if (i == PQP_LANES_MAX) /* lost ones keep their places until they are empty */
        return false;
    pqp_store(&p->lanes[i], slot->lane);
    if (i >= pqp_load(&p->n_lanes_top))
        pqp_store(&p->n_lanes_top, i + 1);
    return true;
}

/* A statement stands behind another, and no thread looks whether that ends: once a second at most. */
static void seek_stalls(pqpool *p)
{
    if (pqp_swap(&p->stalls_sought, 1) == 0)
        pqp_fleet_kick(p);
}

pqp_lane *pqp_fleet_reserve(pqpool *p, int members, pqp_time now, pqp_choice *choice)
{
    pqp_time stall = pqp_peek(&p->stall_time);
    for (;;) {
        pqp_lane *best = NULL;
        int top = pqp_load(&p->n_lanes_top);
        *choice = (pqp_choice){0};
        for (int i = 0; i < top; i++) {
            pqp_lane *lane = pqp_load(&p->lanes[i]);
            if (!lane || !pqp_load(&lane->accepting))
                continue;
            choice->lanes++;
            if (pqp_lane_stalled(lane, now, stall))
                continue;
            int load = pqp_load(&lane->load);
            if (!best || load < choice->least) {
                best = lane;
                choice->least = load;
            }
        }
        if (!best)
            return NULL;
        if (!pqp_lane_pin(best))
            continue; /* it has closed just now */
        if (pqp_lane_reserve(best, members)) {
            if (choice->least + members > 1 && !pqp_load(&p->stalls_sought))
                seek_stalls(p);
            return best;
        }
        bool full = pqp_load(&best->load) >= best->window; /* and the others fuller */
        pqp_lane_unpin(best);
        if (full)
            return NULL;
    }
}

void pqp_fleet_unreserve(pqp_lane *lane, int members)
{
    pqp_sub(&lane->load, members);
    pqp_lane_unpin(lane);
}
