#include "outcome.h"

#include <stdio.h>

#include "refusal.h"

/* While somebody waits: one probe this often; otherwise, and when a login was refused, more slowly. */
#define RETRY_WAITED (50 * PQP_MS)
#define RETRY_IDLE (250 * PQP_MS)
#define RETRY_REFUSED (1000 * PQP_MS)
/* While connections serve, each attempt that fails doubles the pause before the next one, up to this. */
#define RETRY_SERVED (1000 * PQP_MS)
/* Failures that repeat themselves are told this often. */
#define TELL_AGAIN (1 * PQP_SECOND)

/* ---- connects ---- */

static void hold_back(pqpool *p, pqp_time now, pqp_time pause)
{
    pqp_time served = RETRY_WAITED << PQP_MIN(p->failures, 5);
    p->failures++;
    p->failed_at = now;
    p->next_attempt = now + pqp_jitter(pause, 20);
    p->next_attempt_waited = p->refused ? p->next_attempt : now + pqp_jitter(RETRY_WAITED, 20);
    p->next_attempt_served = now + pqp_jitter(PQP_MIN(served, RETRY_SERVED), 20);
}

void pqp_outcome_rejected_locked(pqpool *p, pqp_slot *slot, pqpool_close_reason reason,
                                 const pqpool_error *why)
{
    pqp_time now = pqp_now();
    pqp_fleet_scrap_for_locked(p, slot, reason, why ? why->message : NULL);
    pqp_store(&p->rejecting, 1);
    p->refused = why && pqp_refusal_is_final(why);
    hold_back(p, now, p->refused ? RETRY_REFUSED : RETRY_WAITED);
    if (why)
        p->last_failure = *why;
    else
        pqp_refuse(&p->last_failure, PQPOOL_ECONNECT, "%s", pqp_close_text(reason));
}

void pqp_outcome_accepted_locked(pqpool *p)
{
    if (!pqp_load(&p->rejecting))
        return;
    pqp_store(&p->rejecting, 0);
    p->failures = 0;
}

/* Connects that failed succeed again. */
static void tell_restored(pqpool *p, const pqp_slot *slot, pqp_time now)
{
    if (p->trouble_since == 0)
        return;
    char text[PQP_EVENT_TEXT];
    snprintf(text, sizeof text, "connects succeed again, after %.1f s and %d that failed; the last: %.500s",
             (double)(now - p->trouble_since) / (double)PQP_SECOND, p->trouble_count,
             p->last_failure.message);
    PQP_TELL(p, PQPOOL_EVENT_RESTORED, slot, text, .count = p->trouble_count,
             .wait_us = (now - p->trouble_since) / 1000);
    p->trouble_since = p->outage_since = 0;
    p->trouble_count = p->failures_untold = 0;
}

/* An event for the first of its kind, and then one for all that a second brings. */
static void tell_failure(pqpool *p, const pqpool_error *why, pqp_time now)
{
    bool other = p->trouble_count == 0 || strcmp(p->last_failure.message, why->message) != 0;
    if (p->trouble_since == 0)
        p->trouble_since = now;
    p->trouble_count++;
    p->failures_untold++;
    if (!other && now < p->failure_told + TELL_AGAIN)
        return;
    PQP_TELL(p, PQPOOL_EVENT_CONNECT_FAILED, NULL, why->message, .count = p->failures_untold);
    p->failures_untold = 0;
    p->failure_told = now;
}

/* Makes sure the keeper is there when an unused connection has reached its age. */
static void mind_age(pqpool *p, const pqp_slot *slot, pqp_time now)
{
    pqp_time idle_timeout = pqp_fleet_idle_time_locked(p);
    pqp_fleet_due_locked(p, PQP_MIN(slot->expires, now + idle_timeout));
}

void pqp_outcome_connected_locked(pqpool *p, pqp_slot *slot, PGconn *conn, int fd, int backend_pid)
{
    pqp_time now = pqp_now();
    /* One that began before another failed says nothing new: a server with room for one more is still
     * full. */
    if (slot->since >= p->failed_at && !pqp_load(&p->rejecting))
        p->failures = 0;
    p->refused = false;
    slot->conn = conn;
    slot->fd = fd;
    slot->backend_pid = backend_pid;
    slot->id = ++p->connection_ids;
    slot->expires = p->options.max_lifetime > 0
                        ? now + pqp_jitter(p->options.max_lifetime * PQP_MS / 100 * 95, 5)
                        : PQP_NEVER;
    slot->made_at = p->connected_at = now;
    slot->uses = 0;
    slot->astray = slot->told_notified = false;
    slot->fresh = true;
    slot->probed = now;
    slot->job = NULL;
    pqp_activity_forget(&slot->activity, slot->known, slot->own_fd);
    pqp_store(&slot->suspect, 0);
    pqp_histogram_count(&p->create, (now - slot->since) / 1000);
    pqp_slot_move(&p->slots, slot, PQP_SLOT_IDLE, now);
    mind_age(p, slot, now);
    p->connects++;
    PQP_TELL(p, PQPOOL_EVENT_CONNECT, slot, NULL);
    if (p->failures == 0)
        tell_restored(p, slot, now);
    p->outage_since = 0;
    p->renew = false;
    pqp_slot_watch(slot, p->epoll_fd, 0);
    if (slot->era != p->era) /* begun before everything was evicted */
        pqp_fleet_scrap_locked(p, slot, PQPOOL_CLOSE_EVICTED);
    pqp_cond_broadcast(&p->changed);
}

void pqp_outcome_connect_failed_locked(pqpool *p, pqp_slot *slot, const pqpool_error *why)
{
    pqp_time now = pqp_now();
    if (slot) {
        slot->job = NULL;
        pqp_slot_move(&p->slots, slot, PQP_SLOT_EMPTY, now);
    }
    p->connect_failures++;
    p->refused = pqp_refusal_is_final(why);
    hold_back(p, now, p->refused ? RETRY_REFUSED : RETRY_IDLE);
    tell_failure(p, why, now);
    p->last_failure = *why;
    p->grow = p->renew = false;
    if (p->refused || strcmp(why->sqlstate, "53300") == 0) /* it would be asked for ever */
        p->warm = 0;
    pqp_fleet_due_locked(p, p->next_attempt);
    int serving = pqp_fleet_serving_locked(p);
    bool none_comes = !p->options.wait && pqp_fleet_in(p, PQP_SLOT_CONNECTING) == 0;
    if (serving == 0 && (p->refused || none_comes)) {
        pqp_pool_fail_waiters_locked(p, why);
    } else if (none_comes) {
        pqpool_error busy;
        pqp_refuse(&busy, PQPOOL_ENOWAIT,
                   "all %d connections are taken, and wait=off; one more could not be made: %s", serving,
                   why->message);
        pqp_pool_fail_waiters_locked(p, &busy);
    }
    pqp_cond_broadcast(&p->changed);
}

/* It did not become a lane. */
static void give_up_sharing(pqpool *p, pqp_slot *slot)
{
    slot->to_lane = slot->alone = false;
    pqp_fleet_stand_again_locked(p, slot);
}

void pqp_outcome_shared_locked(pqpool *p, pqp_slot *slot)
{
    pqp_time now = pqp_now();
    slot->job = NULL;
    slot->to_lane = false;
    slot->quiet_since = now;
    pqp_slot_move(&p->slots, slot, PQP_SLOT_LANE, now);
    if (p->closing) { /* not closed at once: a caller who still knows the lane from before may have come in */
        pqp_fleet_drain_locked(p, slot);
        return;
    }
    if (slot->told_timeout != p->options.statement_timeout || slot->era != p->era ||
        slot->astray) { /* meanwhile */
        give_up_sharing(p, slot);
        pqp_fleet_drain_locked(p, slot);
        return;
    }
    p->kick = true; /* the server may have hung up meanwhile */
    mind_age(p, slot, now);
    pqp_outcome_accepted_locked(p);
    if (p->suspended) /* it is parked until the pool is resumed */
        pqp_fleet_stand_again_locked(p, slot);
    if (slot->waiter)
        pqp_pool_put_alone_locked(p, slot->waiter, slot, now);
    else if (!slot->alone && !pqp_fleet_publish_locked(p, slot))
        pqp_fleet_drain_locked(p, slot);
    else if (!slot->alone)
        pqp_lane_admit(slot->lane); /* settle() puts on it what waits */
}

void pqp_outcome_unclean_locked(pqpool *p, pqp_slot *slot, bool lost, const pqpool_error *why)
{
    give_up_sharing(p, slot);
    if (lost)
        pqp_fleet_scrap_locked(p, slot, PQPOOL_CLOSE_LOST_IDLE);
    else
        pqp_outcome_rejected_locked(p, slot, PQPOOL_CLOSE_RESET_FAILED, why);
}

void pqp_outcome_unshareable_locked(pqpool *p, pqp_slot *slot, const char *text, bool lendable)
{
    pqpool_error why;
    pqp_refuse(&why, PQPOOL_ECONNECT, "the connection can't be shared: %s", text);
    if (lendable)
        pqp_refusal_mark(&why, true);
    if (slot->waiter)
        pqp_fleet_fail_locked(p, slot->waiter, &why);
    give_up_sharing(p, slot);
    if (lendable)
        pqp_outcome_cleaned_locked(p, slot);
    else
        pqp_fleet_scrap_locked(p, slot, PQPOOL_CLOSE_UNSHAREABLE);
    if (pqp_fleet_lanes_open_locked(p, pqp_now()) == 0)
        pqp_pool_fail_list_locked(p, &p->queue.sharers, &why);
}

void pqp_outcome_alone_over_locked(pqpool *p, pqp_lane *lane)
{
    pqp_slot *slot = pqp_fleet_slot_of_locked(p, lane);
    if (!slot ||
        slot->state != PQP_SLOT_LANE) /* it drains already; the keeper looks when its last caller has gone */
        return;
    slot->busy = false;
    slot->quiet_since = pqp_now();
    mind_age(p, slot, slot->quiet_since);
    if (pqp_load(&lane->load) > 0 || pqp_load(&lane->ended)) /* given up in flight, or lost */
        pqp_fleet_drain_locked(p, slot);
}

void pqp_outcome_cleaned_locked(pqpool *p, pqp_slot *slot)
{
    pqp_time now = pqp_now();
    slot->job = NULL;
    pqp_slot_move(&p->slots, slot, PQP_SLOT_IDLE, now);
    p->kick |= pqp_load(&slot->suspect) != 0; /* the server hung up meanwhile: the keeper closes it */
    mind_age(p, slot, now);
    if (slot->era != p->era)
        pqp_fleet_scrap_locked(p, slot, PQPOOL_CLOSE_EVICTED);
    else if (slot->astray)
        pqp_fleet_scrap_locked(p, slot, PQPOOL_CLOSE_ROLE);
    pqp_cond_broadcast(&p->changed);
}

void pqp_outcome_astray_locked(pqpool *p, pqp_slot *slot)
{
    uint64_t server = slot->server;
    for (int i = 0; i < p->slots.count; i++) {
        pqp_slot *s = p->slots.all[i];
        if (s->server != server || s->state == PQP_SLOT_EMPTY || s->state == PQP_SLOT_CONNECTING)
            continue;
        s->astray = true;
        if (s->state == PQP_SLOT_IDLE)
            pqp_fleet_scrap_locked(p, s, PQPOOL_CLOSE_ROLE);
        else if (s->state == PQP_SLOT_LANE && s != slot)
            pqp_fleet_drain_locked(p, s);
    }
}

void pqp_outcome_emptied_locked(pqpool *p, pqp_slot *slot)
{
    slot->job = NULL;
    slot->conn = NULL;
    slot->fd = -1;
    slot->running = slot->was_lane = false;
    pqp_slot_move(&p->slots, slot, PQP_SLOT_EMPTY, pqp_now());
    pqp_cond_broadcast(&p->changed);
}

void pqp_outcome_vacated_locked(pqpool *p, pqp_slot *slot, pqpool_close_reason reason)
{
    if (slot->state == PQP_SLOT_LANE)
        pqp_fleet_drain_locked(p, slot);
    if (reason == PQPOOL_CLOSE_NONE && p->closing)
        reason = PQPOOL_CLOSE_POOL_CLOSED;
    else if (reason == PQPOOL_CLOSE_NONE && slot->era != p->era)
        reason = PQPOOL_CLOSE_EVICTED;
    else if (reason == PQPOOL_CLOSE_NONE && slot->astray)
        reason = PQPOOL_CLOSE_ROLE;
    if (reason != PQPOOL_CLOSE_NONE) {
        slot->running = slot->was_lane = slot->lane->cut;
        bool told = reason == PQPOOL_CLOSE_LOST; /* by the server, or by libpq */
        pqp_fleet_scrap_for_locked(p, slot, reason, told ? slot->lane->why.message : NULL);
        return;
    }
    slot->to_lane = slot->alone = false;
    slot->job = NULL;
    slot->probed = pqp_now(); /* it has answered everything */
    pqp_slot_move(&p->slots, slot, PQP_SLOT_RESETTING, slot->probed);
    p->kick = true;
}
