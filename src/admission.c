#include "admission.h"

#include <stdio.h>

#include "holder.h"
#include "refusal.h"

/* The pool's figures, so that the reader can tell a leak from a slow server and both from a missing one. */
static void append_figures(pqpool *p, const pqp_waiter *w, pqpool_error *err)
{
    int others = p->queue.owners.count + p->queue.sharers.count - w->queued;
    pqp_error_append(err,
                     " (max_size %d: %d leased, %d shared, %d idle, %d connecting; %d more callers wait)",
                     (int)p->options.max_size, pqp_fleet_in(p, PQP_SLOT_LEASED),
                     pqp_fleet_in(p, PQP_SLOT_LANE) + pqp_fleet_in(p, PQP_SLOT_DRAINING),
                     pqp_fleet_in(p, PQP_SLOT_IDLE), pqp_fleet_in(p, PQP_SLOT_CONNECTING), others);
}

static const char *what_was_missing(const pqpool *p, const pqp_waiter *w)
{
    if (w->want == PQP_WANT_LEASE)
        return "connection was free";
    if (w->want == PQP_WANT_ALONE)
        return w->holder ? "connection was free for a statement of a thread that holds a lease itself"
                         : "connection was free for a statement that needs one to itself";
    return pqp_fleet_in(p, PQP_SLOT_LANE) > 0 ? "shared connection had room" : "shared connection was there";
}

/* The deadline passed. Where no connection lives, what the server or the system said is the answer. */
static pqpool_code explain_timeout(pqpool *p, const pqp_waiter *w, int64_t waited_ms, pqpool_error *err)
{
    if (pqp_fleet_serving_locked(p) == 0 && p->failures > 0) {
        pqp_refuse(err, PQPOOL_ECONNECT, "no connection within %lld ms: %s", (long long)waited_ms,
                   p->last_failure.message);
        pqp_error_sqlstate(err, p->last_failure.sqlstate);
        pqp_refusal_inherit(err, &p->last_failure);
        append_figures(p, w, err);
        return PQPOOL_ECONNECT;
    }
    pqp_refuse(err, PQPOOL_ETIMEDOUT, "no %s within %lld ms%s", what_was_missing(p, w), (long long)waited_ms,
               p->suspended ? ": the pool is suspended" : "");
    append_figures(p, w, err);
    if (p->failures > 0) {
        pqp_error_append(err, "; the last connect failed: %s", p->last_failure.message);
        pqp_error_sqlstate(err, p->last_failure.sqlstate);
    }
    pqp_holder_blame_locked(p, pqp_now(), err);
    return PQPOOL_ETIMEDOUT;
}

static const pqp_waiter *waiter_of(const pqpool *p, int thread)
{
    const pqp_waiter *w = p->queue.owners.head;
    while (w && ((w->want != PQP_WANT_LEASE && !w->holder) || w->site.thread != thread))
        w = w->link.next;
    return w;
}

/* The newest waiter may have closed a circle: every connection is leased, by threads that all wait for one more. */
static void note_pool_lock(pqpool *p, const pqp_waiter *w)
{
    char text[PQP_EVENT_TEXT] = "", here[PQP_SITE_TEXT], there[PQP_SITE_TEXT];
    int at = 0;
    if (w->site.thread == 0 || !pqp_holder_maybe() || (w->want != PQP_WANT_LEASE && !w->holder) ||
        pqp_fleet_in(p, PQP_SLOT_LEASED) < p->options.max_size)
        return;
    for (const pqp_slot *s = p->slots.in[PQP_SLOT_LEASED].head; s; s = s->link.next) {
        const pqp_waiter *other = s->site.thread ? waiter_of(p, s->site.thread) : NULL;
        if (!other)
            return;
        if (at < (int)sizeof text)
            at += snprintf(
                text + at, sizeof text - (size_t)at, "%sthread %d holds connection %d (%s) and waits at %s",
                at ? "; " : "", (int)s->site.thread, (int)s->id, pqp_site_text(&s->site, here),
                other->want == PQP_WANT_LEASE ? pqp_site_text(&other->site, there) : "a statement");
    }
    p->pool_locks++;
    PQP_TELL(p, PQPOOL_EVENT_POOL_LOCK, NULL, text);
}

/* Whether the caller may stand in the queue; if not, why. Called when he already stands there. One who has stood
 * there before has his place. */
static pqpool_code check_queueing(pqpool *p, pqp_waiter *w, const pqp_turn *turn, pqp_time now,
                                  pqpool_error *err)
{
    if (p->refused && pqp_fleet_serving_locked(p) == 0 && now < p->next_attempt) {
        if (err)
            *err = p->last_failure;
        return PQPOOL_ECONNECT;
    }
    int waiting = pqp_fleet_waiting_locked(p);
    if (waiting == 0)
        return PQPOOL_OK;
    if (!p->options.wait)
        return pqp_refuse(err, PQPOOL_ENOWAIT, "%s, and wait=off",
                          p->suspended ? "the pool is suspended"
                          : w->want == PQP_WANT_SHARE
                              ? "no shared connection has room, max_size is reached or no "
                                "server answers"
                              : "no connection is idle, max_size is reached or no server "
                                "answers");
    if (p->options.queue_limit > 0 && waiting > p->options.queue_limit && !turn->stood)
        return pqp_refuse(err, PQPOOL_EQUEUEFULL, "%d callers wait for a connection already (queue_limit)",
                          (int)p->options.queue_limit);
    if (w->deadline <= now)
        return explain_timeout(p, w, 0, err);
    w->announced = true;
    p->enqueues++;
    note_pool_lock(p, w);
    PQP_TELL(p, PQPOOL_EVENT_ENQUEUE, NULL, NULL, .file = w->site.file, .line = w->site.line,
             .thread = w->site.thread);
    return PQPOOL_OK;
}

static void note_timeout(pqpool *p, const pqp_waiter *w, pqp_time now)
{
    p->timeouts++;
    PQP_TELL(p, PQPOOL_EVENT_TIMEOUT, NULL, NULL, .wait_us = (now - w->since) / 1000, .file = w->site.file,
             .line = w->site.line, .thread = w->site.thread);
}

static pqpool_code enter(pqpool *p, pqp_waiter *w, pqp_turn *turn, pqpool_error *err)
{
    pqp_time now = pqp_now();
    pqp_queue_enter(&p->queue, w, w->want, *turn);
    pqp_pool_settle_locked(p);
    if (!w->queued && !w->making) /* served: no longer ours to look at */
        return PQPOOL_OK;
    pqpool_code code = w->queued ? check_queueing(p, w, turn, now, err) : PQPOOL_OK;
    turn->stood = true;
    if (code != PQPOOL_OK) {
        pqp_queue_leave(&p->queue, w);
    } else if (w->told && w->deadline < p->alarm) {
        p->alarm = w->deadline;
        pqp_fleet_due_locked(p, p->alarm);
    }
    return code;
}

pqpool_code pqp_admission_enter(pqpool *p, pqp_waiter *w, pqp_turn *turn, pqpool_error *err)
{
    pqp_pool_lock(p);
    pqp_queue_take_turn(&p->queue, turn, pqp_now());
    pqpool_code code =
        p->closing ? pqp_refuse(err, PQPOOL_ECLOSED, "the pool is closed") : enter(p, w, turn, err);
    pqp_pool_unlock(p);
    return code;
}

bool pqp_admission_leave(pqpool *p, pqp_waiter *w, pqpool_code code)
{
    pqp_pool_lock(p);
    pqp_time now = pqp_now();
    bool waits = w->queued || w->making;
    if (waits && code == PQPOOL_ETIMEDOUT) {
        w->code = explain_timeout(p, w, (now - w->since) / PQP_MS, w->err);
        note_timeout(p, w, now);
    } else if (waits) {
        w->code = pqp_refuse(w->err, code, "it was given up before it was sent");
    }
    if (w->making)
        w->making->waiter = NULL; /* the lane is for whoever comes next */
    w->making = NULL;
    if (w->queued)
        pqp_queue_leave(&p->queue, w);
    pqp_pool_unlock(p);
    return waits;
}

static void expire(pqpool *p, pqp_waiter *w, pqp_time now)
{
    if (!w->told)
        return;
    if (now < w->deadline) {
        p->alarm = PQP_MIN(p->alarm, w->deadline);
        return;
    }
    pqpool_error why;
    explain_timeout(p, w, (now - w->since) / PQP_MS, &why);
    note_timeout(p, w, now);
    pqp_fleet_fail_locked(p, w, &why);
}

void pqp_admission_expire_locked(pqpool *p, pqp_time now)
{
    pqp_waiter_list *lists[] = {&p->queue.owners, &p->queue.sharers};
    if (now >= p->alarm) {
        p->alarm = PQP_NEVER;
        for (size_t i = 0; i < PQP_COUNT_OF(lists); i++)
            for (pqp_waiter *w = lists[i]->head, *next; w; w = next) {
                next = w->link.next;
                expire(p, w, now);
            }
        for (pqp_slot *s = p->slots.in[PQP_SLOT_RESETTING].head; s; s = s->link.next)
            if (s->waiter)
                expire(p, s->waiter, now);
    }
    pqp_fleet_due_locked(p, p->alarm);
}

/* ---- a caller who blocks ---- */

/* Sleeps until there is a word. A caller past his deadline leaves the queue, unless he was served
 * meanwhile. */
static int sleep_in_queue(pqpool *p, pqp_waiter *w)
{
    int word = pqp_parker_wait(w->parker, w->deadline);
    if (word != PQP_PARKED)
        return word;
    if (pqp_admission_leave(p, w, PQPOOL_ETIMEDOUT))
        return PQP_WORD_FAILED;
    return pqp_parker_wait(w->parker, PQP_NEVER); /* decided already; the word is on its way */
}

/* In the queue at once: between the look and the place in it another caller could be served that came later. */
static pqpool_code stand(pqpool *p, const pqp_site *site, pqp_time deadline, pqp_turn *turn,
                         pqp_sleeper **sleeper, pqpool_error *err)
{
    *sleeper = pqp_depot_take(&p->sleepers);
    if (!*sleeper)
        return pqp_no_memory(err);
    pqp_waiter *w = &(*sleeper)->waiter;
    pqp_parker_reset(w->parker);
    w->want = PQP_WANT_LEASE;
    w->call = NULL;
    w->told = NULL;
    w->holder = false;
    w->site = *site;
    w->deadline = deadline;
    w->err = err;
    return enter(p, w, turn, err);
}

pqpool_code pqp_admission_wait(pqpool *p, const pqp_site *site, pqp_time deadline, pqp_turn *turn,
                               pqp_slot **slot, pqpool_error *err)
{
    pqp_sleeper *sleeper = NULL;
    pqpool_code code = PQPOOL_OK;
    *slot = NULL;
    pqp_pool_lock(p);
    pqp_queue_take_turn(&p->queue, turn, pqp_now());
    if (p->closing)
        code = pqp_refuse(err, PQPOOL_ECLOSED, "the pool is closed");
    else if (!(*slot = pqp_pool_lend_idle_locked(p, turn, site)))
        code = stand(p, site, deadline, turn, &sleeper, err);
    pqp_pool_unlock(p);
    if (!sleeper)
        return code;
    pqp_waiter *w = &sleeper->waiter;
    if (code == PQPOOL_OK)
        code = sleep_in_queue(p, w) == PQP_WORD_GRANTED ? PQPOOL_OK : w->code;
    *slot = code == PQPOOL_OK ? w->grant : NULL;
    pqp_depot_put(&p->sleepers, sleeper);
    return code;
}
