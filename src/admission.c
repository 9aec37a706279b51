/* admission: waiting for a connection, or being told why not. */
#include "admission.h"

static int in(const pqpool *p, pqp_slot_state state)
{
    return p->slots.in[state].count;
}

/* The pool's figures, so that the reader can tell a leak from a slow server and both from a missing one. */
static void append_figures(pqpool *p, pqpool_error *err)
{
    pqp_error_append(
        err, " (max_size %d: %d leased, %d shared, %d idle, %d connecting; %d more callers wait)",
        (int)p->options.max_size, in(p, PQP_SLOT_LEASED), in(p, PQP_SLOT_LANE) + in(p, PQP_SLOT_DRAINING),
        in(p, PQP_SLOT_IDLE), in(p, PQP_SLOT_CONNECTING),
        p->queue.list[PQP_WANT_LEASE].count + p->queue.list[PQP_WANT_SHARE].count);
}

/* The deadline passed. Where no connection lives, what the server or the system said is the answer. */
static pqpool_code explain_timeout(pqpool *p, pqp_want want, int64_t waited_ms, pqpool_error *err)
{
    if (pqp_pool_live_locked(p) == 0 && p->failures > 0) {
        pqp_refuse(err, PQPOOL_ECONNECT, "no connection within %lld ms: %s", (long long)waited_ms,
                   p->last_failure.message);
        pqp_error_sqlstate(err, p->last_failure.sqlstate);
        append_figures(p, err);
        return PQPOOL_ECONNECT;
    }
    pqp_refuse(err, PQPOOL_ETIMEDOUT, "no %s within %lld ms",
               want == PQP_WANT_LEASE ? "connection was free" : "shared connection was there",
               (long long)waited_ms);
    append_figures(p, err);
    if (p->failures > 0) {
        pqp_error_append(err, "; the last connect failed: %s", p->last_failure.message);
        pqp_error_sqlstate(err, p->last_failure.sqlstate);
    }
    return PQPOOL_ETIMEDOUT;
}

/* Whether the caller may stand in the queue; if not, why. Called when he already stands there. */
static pqpool_code check_queueing(pqpool *p, pqp_waiter *w, pqp_time deadline, pqp_time now,
                                  pqpool_error *err)
{
    if (p->refused && pqp_pool_live_locked(p) == 0 && now < p->next_attempt) {
        if (err)
            *err = p->last_failure;
        return PQPOOL_ECONNECT;
    }
    int waiting = pqp_pool_waiting_locked(p);
    if (waiting == 0)
        return PQPOOL_OK;
    if (!p->options.wait)
        return pqp_refuse(
            err, PQPOOL_ENOWAIT,
            "no connection is idle, max_size (%d) is reached or no server answers, and wait=off",
            (int)p->options.max_size);
    if (p->options.queue_limit > 0 && waiting > p->options.queue_limit)
        return pqp_refuse(err, PQPOOL_EQUEUEFULL, "%d callers wait for a connection already (queue_limit)",
                          (int)p->options.queue_limit);
    if (deadline <= now)
        return explain_timeout(p, w->want, 0, err);
    w->announced = true;
    p->enqueues++;
    pqp_pool_event_locked(p, PQPOOL_EVENT_ENQUEUE, NULL, 0, NULL);
    return PQPOOL_OK;
}

/* Sleeps until there is a word. A caller past his deadline leaves the queue, unless he was served
 * meanwhile. */
static int sleep_in_queue(pqpool *p, pqp_waiter *w, pqp_time deadline)
{
    int word = pqp_parker_wait(&w->parker, deadline);
    if (word != PQP_PARKED)
        return word;
    pqp_pool_lock(p);
    if (!w->queued) {
        pqp_pool_unlock(p);
        return pqp_parker_wait(&w->parker, PQP_NEVER); /* decided already; the word is on its way */
    }
    pqp_time now = pqp_now();
    pqp_queue_leave(&p->queue, w);
    p->timeouts++;
    w->code = explain_timeout(p, w->want, (now - w->since) / PQP_MS, w->err);
    pqp_pool_event_locked(p, PQPOOL_EVENT_TIMEOUT, NULL, (now - w->since) / 1000, NULL);
    pqp_pool_unlock(p);
    return PQP_WORD_FAILED;
}

static pqpool_code queue_up(pqpool *p, pqp_waiter *w, pqp_want want, pqp_time deadline, pqp_turn turn,
                            pqpool_error *err)
{
    pqp_time now = pqp_now();
    pqp_parker_reset(&w->parker);
    w->err = err;
    pqp_queue_enter(&p->queue, w, want, turn);
    pqp_pool_settle_locked(p);
    if (w->queued) {
        pqpool_code code = check_queueing(p, w, deadline, now, err);
        if (code != PQPOOL_OK) {
            pqp_queue_leave(&p->queue, w);
            pqp_pool_unlock(p);
            return code;
        }
    }
    pqp_pool_unlock(p);
    return sleep_in_queue(p, w, deadline) == PQP_WORD_GRANTED ? PQPOOL_OK : w->code;
}

pqpool_code pqp_admission_wait(pqpool *p, pqp_want want, pqp_time deadline, pqp_turn *turn, pqp_slot **slot,
                               pqpool_error *err)
{
    *slot = NULL;
    pqp_pool_lock(p);
    pqp_queue_take_turn(&p->queue, turn, pqp_now());
    if (p->closing) {
        pqp_pool_unlock(p);
        return pqp_refuse(err, PQPOOL_ECLOSED, "the pool is closed");
    }
    bool here = want == PQP_WANT_LEASE
                    ? (*slot = pqp_pool_lend_idle_locked(p, turn->ticket)) != NULL
                    : pqp_pool_lanes_open_locked(p) > 0; /* it came while the caller looked */
    if (here) {
        pqp_pool_unlock(p);
        return PQPOOL_OK;
    }
    pqp_waiter *w = pqp_depot_take(&p->waiters);
    if (!w) {
        pqp_pool_unlock(p);
        return pqp_no_memory(err);
    }
    pqpool_code code = queue_up(p, w, want, deadline, *turn, err);
    *slot = w->grant;
    pqp_depot_put(&p->waiters, w);
    return code;
}
