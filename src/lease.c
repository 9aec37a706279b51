#include "lease.h"

#include <stdio.h>

#include "admission.h"
#include "connector.h"
#include "remains.h"
#include "trace.h"

#define TEST_TIME (5 * PQP_SECOND)
#define ROUND_TRIP (50 * PQP_MS)   /* in less, no server need answer */
#define TEST_BYPASS (500 * PQP_MS) /* used this lately, a connection needs no round trip to be trusted */

static uint64_t token_of(const pqp_slot *slot)
{
    return (uint64_t)slot->generation << 32 | (uint32_t)slot->index;
}

typedef enum { TEST_PASSED, TEST_FAILED, TEST_SILENT } verdict;

/*
 * test_on_borrow: a round trip, if there is time for one, or, where the server was there just now, only a look whether it
 * has said anything since: its last words, perhaps. Who is silent is not waited for: patience.h.
 */
static verdict test(pqpool *p, pqp_slot *slot, pqp_time deadline)
{
    pqp_time now = pqp_now();
    bool trusted = now - slot->probed < TEST_BYPASS || deadline - now < ROUND_TRIP;
    if (trusted && pqp_session_silent(slot->conn))
        return TEST_PASSED;
    if (pqp_session_ping(slot->conn, PQP_MIN(deadline, now + pqp_fleet_patience(p)))) {
        slot->probed = pqp_now();
        return TEST_PASSED;
    }
    return pqp_remains_running(slot->conn) ? TEST_SILENT : TEST_FAILED;
}

/* Nobody listens here, but perhaps somebody did whose LISTEN was not seen. */
static void drop_notifications(pqpool *p, pqp_slot *slot)
{
    if (pqp_load(&p->keeps_state) || !pqp_session_notified(slot->conn))
        return;
    pqp_pool_lock(p);
    pqp_remains_tell_notified_locked(p, slot);
    pqp_pool_unlock(p);
}

/*
 * A look at what has arrived while it was idle: the keeper hears of an end too, but need not have come to it yet, least of all
 * when this process, or the machine, was stopped meanwhile. Of one that was used just now there is none: it is a system call.
 */
static pqpool_close_reason look(pqpool *p, pqp_slot *slot, char *words, size_t size)
{
    bool suspect = pqp_load(&slot->suspect) != 0;
    if (!suspect && (!slot->rested || pqp_session_silent(slot->conn)))
        return PQPOOL_CLOSE_NONE;
    pqpool_close_reason flaw = pqp_session_hear(slot->conn, words, size);
    if (flaw == PQPOOL_CLOSE_NONE)
        drop_notifications(p, slot);
    return flaw;
}

/* Why a connection just taken can't be handed on; NONE: it can. */
static pqpool_close_reason examine(pqpool *p, pqp_slot *slot, pqp_time deadline, bool *silent, char *words,
                                   size_t size)
{
    pqpool_close_reason flaw = look(p, slot, words, size);
    if (flaw != PQPOOL_CLOSE_NONE)
        return flaw;
    verdict tested = pqp_load(&p->test_on_borrow) ? test(p, slot, deadline) : TEST_PASSED;
    *silent = tested == TEST_SILENT;
    if (tested != TEST_PASSED)
        return PQPOOL_CLOSE_PROBE_FAILED;
    if (p->events.hooks.on_acquire && p->events.hooks.on_acquire(slot->conn, p->events.hooks.arg) != 0)
        return PQPOOL_CLOSE_ON_ACQUIRE;
    return PQPOOL_CLOSE_NONE;
}

static void tell_nested(pqpool *p, const pqp_slot *slot, const pqp_slot *first)
{
    char text[200], site[PQP_SITE_TEXT];
    snprintf(text, sizeof text, "while the same thread holds connection %d, acquired at %s", (int)first->id,
             pqp_site_text(&first->site, site));
    PQP_TELL(p, PQPOOL_EVENT_NESTED, slot, text);
}

/* What is seldom to be noted when a lease begins. Who asked in an event loop gets a thread only now. One that has a
 * lease of this pool already takes twice what one needs, which is the way into a pool-lock. */
static void note_begin(pqpool *p, pqp_slot *slot)
{
    void *frames[PQPOOL_FRAMES];
    int n = pqp_load(&p->backtrace) ? pqp_trace_take(frames, PQPOOL_FRAMES) : 0;
    pqp_pool_lock(p);
    memcpy(slot->frames, frames, (size_t)n * sizeof *frames);
    slot->n_frames = n;
    slot->site.thread = pqp_thread();
    const pqp_slot *first = pqp_holder_mine_locked(p);
    p->nested += first != NULL;
    bool tell = first && pqp_event_wanted(&p->events, PQPOOL_EVENT_NESTED);
    if (!tell && !pqp_load(&p->rejecting)) {
        pqp_mutex_unlock(&p->mu); /* nobody is served by any of this */
        return;
    }
    if (tell)
        tell_nested(p, slot, first);
    pqp_outcome_accepted_locked(p);
    pqp_pool_unlock(p);
}

/* Lent, and given back before its holder has seen it. */
static void count_return_locked(pqpool *p, pqp_slot *slot)
{
    slot->generation++;
    p->releases++;
    pqp_histogram_count(&p->use, (pqp_now() - slot->since) / 1000);
    PQP_TELL(p, PQPOOL_EVENT_RELEASE, slot, NULL);
}

void pqp_lease_return_unused(pqpool *p, pqp_slot *slot)
{
    pqp_pool_lock(p);
    count_return_locked(p, slot);
    pqp_outcome_cleaned_locked(p, slot);
    pqp_pool_unlock(p);
}

const char *pqp_lease_begin(pqpool *p, pqp_slot *slot, pqp_time deadline, pqpool_lease *lease)
{
    char words[200] = "";
    bool silent = false;
    pqpool_close_reason flaw = examine(p, slot, deadline, &silent, words, sizeof words);
    if (flaw == PQPOOL_CLOSE_NONE) {
        pqp_activity_watch(&slot->activity, slot->conn, &p->plans.ddl);
        *lease = (pqpool_lease){.conn = slot->conn, .pool = p, .token = token_of(slot)};
        if (slot->site.thread == 0 || pqp_holder_maybe() || pqp_load(&p->rejecting) ||
            pqp_load(&p->backtrace))
            note_begin(p, slot);
        pqp_holder_took(slot);
        return NULL;
    }
    pqp_pool_lock(p);
    count_return_locked(p, slot);
    bool rejected = flaw == PQPOOL_CLOSE_PROBE_FAILED || flaw == PQPOOL_CLOSE_ON_ACQUIRE;
    if (silent)
        pqp_pool_put_aside_locked(p, slot);
    else if (!rejected || pqp_load(&slot->suspect))
        pqp_fleet_scrap_for_locked(p, slot, flaw, *words ? words : NULL);
    else
        pqp_outcome_rejected_locked(p, slot, flaw, NULL);
    pqp_pool_unlock(p);
    return pqp_close_text(flaw);
}

pqpool_code pqp_lease_refuse_late(pqpool_error *err, const char *flaw)
{
    return pqp_refuse(err, PQPOOL_ETIMEDOUT, "the deadline passed while a broken connection was replaced: %s",
                      flaw);
}

pqpool_code pqp_lease_acquire(pqpool *p, const pqp_site *site, pqp_time deadline, pqpool_lease *lease,
                              pqpool_error *err)
{
    pqp_turn turn = {0};
    *lease = (pqpool_lease){0};
    for (;;) {
        pqp_slot *slot;
        pqpool_code code = pqp_admission_wait(p, site, deadline, &turn, &slot, err);
        if (code != PQPOOL_OK)
            return code;
        const char *flaw = pqp_lease_begin(p, slot, deadline, lease);
        if (!flaw) {
            pqp_error_clear(err);
            return PQPOOL_OK;
        }
        turn.stood = true; /* it was served: it is no newcomer */
        if (pqp_now() >= deadline)
            return pqp_lease_refuse_late(err, flaw);
    }
}

/* The slot a lease stands for, if it is out. */
static pqp_slot *find_locked(pqpool *p, const pqpool_lease *lease)
{
    uint32_t index = (uint32_t)lease->token;
    if (index >= (uint32_t)p->slots.count)
        return NULL;
    pqp_slot *slot = p->slots.all[index];
    bool out = slot->state == PQP_SLOT_LEASED && slot->conn == lease->conn && token_of(slot) == lease->token;
    return out ? slot : NULL;
}

/* How a lease ends. */
typedef struct ending {
    pqp_slot *slot;
    pqpool_close_reason reason; /* to be closed; NONE: it may go on being used */
    pqp_reset_level level;
    pqp_time held;
    unsigned traces; /* of activity.h */
} ending;

static void tell_end_locked(pqpool *p, const ending *e)
{
    pqp_slot *slot = e->slot;
    int64_t held_us = e->held / 1000, idle_tx_us = slot->activity.idle_tx / 1000;
    int64_t limit = p->options.idle_tx_threshold;
    PQP_TELL(p, PQPOOL_EVENT_RELEASE, slot, NULL, .hold_us = held_us, .idle_tx_us = idle_tx_us);
    if (slot->leak_untold) /* the server is being asked just now */
        pqp_watch_tell_leak_locked(p, slot);
    if (slot->leaked) {
        p->unleaks++;
        PQP_TELL(p, PQPOOL_EVENT_UNLEAK, slot, "it came back after all", .hold_us = held_us,
                 .idle_tx_us = idle_tx_us);
    }
    if (limit > 0 && idle_tx_us >= limit * 1000) {
        p->long_holds++;
        PQP_TELL(p, PQPOOL_EVENT_LONG_HOLD, slot,
                 "do what is not for the database before or after the transaction", .hold_us = held_us,
                 .idle_tx_us = idle_tx_us);
    }
}

/*
 * Claims the return: of two threads that give back the same lease, one finds the generation changed. From
 * here on the slot is LEASED to nobody but this function.
 */
static void claim(pqpool *p, const pqpool_lease *lease, ending *e)
{
    pqp_pool_lock(p);
    pqp_slot *slot = e->slot = find_locked(p, lease);
    if (slot) {
        pqp_time now = pqp_now();
        e->held = now - slot->since;
        e->level = (pqp_reset_level)p->options.reset;
        slot->generation++;
        slot->ending = true;
        slot->probed = now;
        pqp_holder_left(slot);
        e->traces = pqp_activity_end(&slot->activity);
        p->releases++;
        pqp_histogram_count(&p->use, e->held / 1000);
        if (e->reason == PQPOOL_CLOSE_NONE)
            e->reason = pqp_pool_outlived_locked(p, slot, now);
        if (e->held < PQP_LOOK_AGE)
            tell_end_locked(p, e);
    }
    pqp_pool_unlock(p);
}

/* One that has lasted: a last look, so that the account is complete. */
static void take_last_look(pqpool *p, const ending *e)
{
    pqp_slot *slot = e->slot;
    if (e->held < PQP_LOOK_AGE)
        return;
    pqp_sight seen = pqp_activity_look(&slot->activity, slot->backend_pid);
    pqp_pool_lock(p);
    pqp_activity_note_locked(&slot->activity, &seen);
    tell_end_locked(p, e);
    pqp_pool_unlock(p);
}

/* Why a connection that comes back is not to be lent again, by the hook's word and by its looks. */
static pqp_remains examine_return(pqpool *p, const ending *e, PGconn *conn)
{
    const pqpool_hooks *hooks = &p->events.hooks;
    if (hooks->on_release && hooks->on_release(conn, hooks->arg) != 0)
        return (pqp_remains){.flaw = PQPOOL_CLOSE_ON_RELEASE, .running = pqp_remains_running(conn)};
    return pqp_remains_find(p, e->slot, conn, e->level, e->traces);
}

/* Whatever must be closed, or may be lent again as it is. */
static void settle_return(pqpool *p, const ending *e, const pqp_remains *r)
{
    pqp_slot *slot = e->slot;
    pqp_pool_lock(p);
    slot->running = r->running;
    if (r->flaw == PQPOOL_CLOSE_ROLE)
        pqp_outcome_astray_locked(p, slot);
    if (r->flaw != PQPOOL_CLOSE_NONE)
        pqp_fleet_scrap_locked(p, slot, r->flaw);
    else
        pqp_outcome_cleaned_locked(p, slot);
    pqp_pool_unlock(p);
}

/* Its user has called PQfinish: there is nothing left but to say so. */
static void end_finished(pqpool *p, const ending *e)
{
    pqp_pool_lock(p);
    PQP_TELL(p, PQPOOL_EVENT_LEFT, e->slot,
             "PQfinish was called on the lease: use pqpool_release() or pqpool_discard()");
    e->slot->conn = NULL;
    e->slot->fd = -1;
    e->slot->met = false;
    pqp_fleet_scrap_locked(p, e->slot, PQPOOL_CLOSE_FINISHED);
    pqp_pool_unlock(p);
}

pqpool_code pqp_lease_end(pqpool *p, pqpool_lease *lease, pqpool_close_reason reason)
{
    ending e = {.reason = reason};
    claim(p, lease, &e);
    if (!e.slot)
        return PQPOOL_EINVAL;
    PGconn *conn = lease->conn;
    *lease = (pqpool_lease){0};
    take_last_look(p, &e);
    if (e.traces & PQP_TRACE_FINISHED) {
        end_finished(p, &e);
        return PQPOOL_EINVAL;
    }
    pqp_remains r = {.flaw = e.reason};
    if (e.reason == PQPOOL_CLOSE_NONE)
        r = examine_return(p, &e, conn);
    else
        r.running = pqp_remains_running(conn);
    if (r.undo || r.running || r.changed || r.flaw == PQPOOL_CLOSE_REPLACED) {
        pqp_pool_lock(p);
        pqp_remains_tell_locked(p, e.slot, &r);
        pqp_pool_unlock(p);
    }
    if (r.flaw == PQPOOL_CLOSE_NONE && (r.undo || e.level >= PQP_RESET_CLEAN))
        pqp_connector_reset_here(p, e.slot, e.level, r.undo);
    else
        settle_return(p, &e, &r);
    return PQPOOL_OK;
}

pqpool_code pqp_lease_move(pqpool *p, const pqpool_lease *lease)
{
    pqp_pool_lock(p);
    pqp_slot *slot = find_locked(p, lease);
    if (slot) {
        pqp_holder_left(slot);
        pqp_holder_took(slot);
        slot->site.thread = pqp_thread();
        slot->thread_name[0] = '\0';
    }
    pqp_pool_unlock(p);
    return slot ? PQPOOL_OK : PQPOOL_EINVAL;
}

pqpool_code pqp_lease_ping(pqpool *p, const pqp_site *site, pqp_time deadline, pqpool_error *err)
{
    pqpool_lease lease;
    pqpool_code code = pqp_lease_acquire(p, site, deadline, &lease, err);
    if (code != PQPOOL_OK)
        return code;
    pqp_time now = pqp_now();
    bool answers =
        pqp_session_ping(lease.conn, PQP_MAX(now + ROUND_TRIP, PQP_MIN(deadline, now + TEST_TIME)));
    (void)!pqp_lease_end(p, &lease, answers ? PQPOOL_CLOSE_NONE : PQPOOL_CLOSE_PROBE_FAILED);
    if (!answers)
        pqp_refuse(err, PQPOOL_ELOST, "a connection was there, but the server did not answer on it");
    return answers ? PQPOOL_OK : PQPOOL_ELOST;
}
