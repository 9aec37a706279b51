#include "life.h"

#include <stdio.h>

#include "connector.h"
#include "keeper.h"
#include "loop.h"
#include "run.h"

#define MAGIC UINT64_C(0x706f6f6c31767170)

/* How long a forced close waits for the errands it has set off. */
#define FORCED_TIME (2 * PQP_SECOND)

/* How long pqpool_free() waits for its threads: longer than a resolver takes that gets no answer. */
#define FREE_TIME (60 * PQP_SECOND)

/* ---- the process: counted up in each forked child, so that no call needs getpid() ---- */

static _Atomic unsigned process = 1;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static int fork_rc;

static void in_child(void)
{
    atomic_fetch_add(&process, 1);
    pqp_thread_forked();
    pqp_sockets_forked();
}

static void register_fork(void)
{
    fork_rc = pthread_atfork(NULL, NULL, in_child);
}

pqpool_code pqp_life_check(const pqpool *p, pqpool_error *err)
{
    if (!p)
        return pqp_refuse(err, PQPOOL_EINVAL, "pool is NULL: did pqpool_open() fail?");
    if (p->magic != MAGIC)
        return pqp_refuse(err, PQPOOL_EINVAL, "this is no pool, or it was freed");
    if (p->process != atomic_load(&process))
        return pqp_refuse(err, PQPOOL_EFORKED,
                          "the pool belongs to the parent process; open one of your own after fork()");
    return PQPOOL_OK;
}

/* A thread that is cancelled inside would leave locks taken and others waiting: within a call it is not, only after it. */
static PQP_THREAD_LOCAL int depth, cancel_state;

static void hold_cancellation(void)
{
    if (depth++ == 0)
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
}

static void allow_cancellation(void)
{
    if (--depth == 0)
        pthread_setcancelstate(cancel_state, NULL);
}

void pqp_life_enter(pqpool *p)
{
    hold_cancellation();
    pqp_add(&p->calls_inside, 1);
}

pqpool_code pqp_life_leave(pqpool *p, pqpool_code code)
{
    pqp_sub(&p->calls_inside, 1);
    allow_cancellation();
    return code;
}

/* ---- opening ---- */

/* Options that this version checks and keeps but does not act on: whoever sets one should know. */
static void tell_idle_options(pqpool *p)
{
    const pqp_option_row *row;
    for (int i = 0; (row = pqp_options_row(i)); i++)
        if (!row->in_force && pqp_options_given(&p->options, row->name))
            pqp_log(&p->events, PQPOOL_LOG_WARN, "option %s is accepted but has no effect in version %s",
                    row->name, PACKAGE_VERSION);
}

static void tell_bare_times(pqpool *p)
{
    const pqp_option_row *row;
    for (int i = 0; (row = pqp_options_row(i)); i++) {
        char value[PQP_NAME_SIZE];
        if (p->options.bare >> i & 1 &&
            pqp_options_print(&p->options, row->name, value, sizeof value) == PQPOOL_OK)
            pqp_log(&p->events, PQPOOL_LOG_WARN,
                    "option %s is %s: a number without a unit is in milliseconds; write pool_%s=%s if that "
                    "is meant, or "
                    "give seconds as pool_%s=%.*ss",
                    row->name, value, row->name, value, row->name, (int)strcspn(value, "m"), value);
    }
}

pqpool *pqp_life_open(const pqp_options *options, pqp_target *target, const pqpool_hooks *hooks,
                      pqpool_error *err)
{
    pqpool *p = NULL;
    pthread_once(&fork_once, register_fork);
    if (fork_rc != 0) {
        pqp_no_memory(err);
        goto done;
    }
    p = pqp_fleet_new(options, target, hooks, err);
    if (!p)
        goto done;
    p->process = atomic_load(&process);
    p->magic = MAGIC;
    int rc = pqp_keeper_start(p);
    if (rc != 0) {
        pqp_refuse(err, PQPOOL_ENOMEM, "the pool's thread could not be started: %s", strerror(rc));
        pqp_fleet_free(p);
        p = NULL;
        goto done;
    }
    tell_idle_options(p);
    tell_bare_times(p);
done:
    pqp_target_fini(target);
    return p;
}

/* ---- closing ---- */

static int connections_but_leases(const pqpool *p)
{
    return pqp_slots_total(&p->slots) - p->slots.in[PQP_SLOT_LEASED].count;
}

/* Waits, the mutex held, until the pool is empty; leases count only if asked. */
static bool wait_empty(pqpool *p, bool leases_too, pqp_time deadline)
{
    while ((leases_too ? pqp_slots_total(&p->slots) : connections_but_leases(p)) > 0) {
        if (pqp_now() >= deadline)
            return false;
        pqp_cond_wait(&p->changed, &p->mu, deadline);
    }
    return true;
}

static void stop_taking(pqpool *p)
{
    pqpool_error why;
    pqp_refuse(&why, PQPOOL_ECLOSED, "the pool was closed while the call waited");
    p->closing = true;
    pqp_store(&p->closed, 1);
    pqp_pool_fail_waiters_locked(p, &why);
    for (pqp_slot *s; (s = p->slots.in[PQP_SLOT_LANE].head);)
        pqp_fleet_drain_locked(p, s);
    for (pqp_slot *s = p->slots.in[PQP_SLOT_CONNECTING].head, *next; s; s = next) {
        next = s->link.next;
        if (!s->job) /* not begun yet */
            pqp_slot_move(&p->slots, s, PQP_SLOT_EMPTY, pqp_now());
    }
}

static void cut_lanes(pqpool *p)
{
    for (int i = 0;; i++) {
        pqp_lane *lane = NULL;
        pqp_pool_lock(p);
        bool more = i < p->slots.count;
        if (more && p->slots.all[i]->state == PQP_SLOT_DRAINING)
            lane = p->slots.all[i]->lane;
        pqp_pool_unlock(p);
        if (!more)
            return;
        if (lane) /* lanes outlive their connections */
            pqp_lane_cut(lane, "the pool was closed");
    }
}

pqpool_code pqp_life_close(pqpool *p, int64_t drain_ms)
{
    pqp_time deadline = pqp_deadline(pqp_now(), drain_ms);
    pqp_pool_lock(p);
    if (!p->closing)
        stop_taking(p);
    pqp_pool_unlock(p); /* settles: idle connections go */
    pqp_pool_lock(p);
    bool drained = wait_empty(p, true, deadline);
    pqp_pool_unlock(p);
    if (drained)
        return PQPOOL_OK;
    cut_lanes(p);
    pqp_fleet_kick(p);
    if (drain_ms != 0) {
        pqp_pool_lock(p);
        (void)wait_empty(p, false, pqp_now() + FORCED_TIME);
        pqp_pool_unlock(p);
    }
    return PQPOOL_ETIMEDOUT;
}

static pqpool_code end(pqpool *p)
{
    pqp_pool_lock(p);
    bool busy = p->slots.in[PQP_SLOT_LEASED].count > 0 || pqp_load(&p->calls_inside) > 0 ||
                pqp_load(&p->promised) > 0;
    pqp_pool_unlock(p);
    if (busy)
        return PQPOOL_EBUSY;
    (void)pqp_life_close(p, 0);
    pqp_time end = pqp_now() + FREE_TIME;
    pqp_pool_lock(p);
    bool empty = wait_empty(p, true, end);
    pqp_pool_unlock(p);
    if (!empty || !pqp_connector_join(p, end))
        return PQPOOL_EBUSY; /* a hook or the resolver holds a thread of ours */
    pqp_keeper_stop(p);
    if (!pqp_connector_join(p, end))
        return PQPOOL_EBUSY;
    pqp_run_go_on(p);           /* what was given up, and was to be placed once more */
    (void)pqp_loop_dispatch(p); /* only what was given up lies there */
    pqp_events_hand_out_all(&p->events);
    p->magic = 0;
    pqp_fleet_free(p);
    return PQPOOL_OK;
}

pqpool_code pqp_life_free(pqpool *p)
{
    hold_cancellation();
    pqpool_code code = end(p);
    allow_cancellation();
    return code;
}
