#include "keeper.h"

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "admission.h"
#include "connector.h"
#include "health.h"
#include "run.h"

enum { EVENTS_AT_ONCE = 64 };

#define THREAD_RETRY (100 * PQP_MS)  /* when the system has no thread for us */
#define RETIRE_LOOK (100 * PQP_MS)   /* at a connection that is past its lifetime, and may not go yet */
#define TLS_LOOK (10 * PQP_MS)       /* at a TLS lane we drive: transport.c says why */
#define STUCK_LOOK (1 * PQP_SECOND)  /* at a lane on which nobody waits any more for what is in flight */
#define STUCK_TIME (10 * PQP_SECOND) /* it has this long to end what its callers have given up */
#define SUSPECT_LOOK (5 * PQP_MS)    /* at a lane that hung up while a caller drove it */
#ifdef PQP_WATCHDOG
#define LONGEST_SLEEP (50 * PQP_MS)
#else
#define LONGEST_SLEEP PQP_NEVER
#endif

/* ---- what time brings; the mutex is held ---- */

static void retire_idle(pqpool *p, pqp_time now)
{
    pqp_time idle_timeout = pqp_fleet_idle_time_locked(p);
    int spare = p->slots.in[PQP_SLOT_IDLE].count - (int)p->options.min_idle;
    for (pqp_slot *s = p->slots.in[PQP_SLOT_IDLE].tail, *prev; s; s = prev) {
        prev = s->link.prev;
        if (pqp_load(&s->suspect)) {
            pqp_fleet_scrap_locked(p, s, PQPOOL_CLOSE_LOST_IDLE);
            spare--;
        } else if (s->expires <= now && pqp_pool_may_retire_locked(p, s, now)) {
            pqp_fleet_scrap_locked(p, s, PQPOOL_CLOSE_MAX_LIFETIME);
            spare--;
        } else if (spare > 0 && s->since + idle_timeout <= now) {
            pqp_fleet_scrap_locked(p, s, PQPOOL_CLOSE_IDLE_TIMEOUT);
            spare--;
        } else {
            pqp_time old = s->expires > now ? s->expires : now + RETIRE_LOOK;
            pqp_fleet_due_locked(p, PQP_MIN(old, spare > 0 ? s->since + idle_timeout : PQP_NEVER));
        }
    }
}

static void probe_idle(pqpool *p, pqp_time now)
{
    if (!p->options.test_while_idle)
        return;
    pqp_time every = p->options.keeper_interval * PQP_MS;
    for (pqp_slot *s = p->slots.in[PQP_SLOT_IDLE].tail, *prev; s; s = prev) {
        prev = s->link.prev;
        pqp_time at = PQP_MAX(s->since, s->probed) + every;
        if (at > now) {
            pqp_fleet_due_locked(p, at);
            continue;
        }
        pqp_fleet_probe_locked(p, s, now);
    }
}

/* What arrives on an idle connection, notifications mostly, stays unread, and a server waits to be rid of it. A probe takes it
 * in, and tells an answer that nobody asked for from a connection's end. */
static void hear_idle(pqpool *p, pqp_time now)
{
    if (now < p->heard_idle + p->options.keeper_interval * PQP_MS)
        return;
    p->heard_idle = now;
    for (pqp_slot *s = p->slots.in[PQP_SLOT_IDLE].tail, *prev; s; s = prev) {
        prev = s->link.prev;
        struct pollfd fd = {.fd = s->own_fd, .events = POLLIN};
        if (now - s->since >= PQP_REST && poll(&fd, 1, 0) == 1)
            pqp_fleet_probe_locked(p, s, now);
    }
}

/* Shared connections that are old, or that nobody uses, go back to the pool when they are empty. */
static void retire_lanes(pqpool *p, pqp_time now)
{
    pqp_time quiet_limit = pqp_fleet_idle_time_locked(p);
    for (pqp_slot *s = p->slots.in[PQP_SLOT_LANE].head, *next; s; s = next) {
        next = s->link.next;
        int64_t served = pqp_peek(&s->lane->served);
        if (served != s->served || pqp_peek(&s->lane->load) > 0) {
            s->served = served;
            s->quiet_since = now;
        }
        pqp_time old = s->expires, quiet = s->quiet_since + quiet_limit;
        if (old <= now && !pqp_pool_may_retire_locked(p, s, now))
            old = now + RETIRE_LOOK;
        pqp_time at = PQP_MIN(old, quiet);
        if (at <= now)
            pqp_fleet_drain_locked(p, s);
        else
            pqp_fleet_due_locked(p, at);
    }
}

/* ---- sockets ---- */

/* A frozen server must not hold a place for ever: what it still does, its callers have been told is
 * UNKNOWN. */
static void cut_when_stuck(pqp_slot *s, bool stuck)
{
    pqp_time now = pqp_now();
    if (!stuck)
        s->stuck_since = 0;
    else if (s->stuck_since == 0)
        s->stuck_since = now;
    else if (now - s->stuck_since > STUCK_TIME)
        pqp_lane_cut(s->lane, "it did not answer after all its callers had given up");
}

/* What was seen in the lane is a moment old. A lane that is parked may have been taken since, or opened to everybody:
 * both under the mutex, so that what is seen now holds. (accepting first: whoever pins counts himself and then looks.) */
static bool may_be_vacated(pqp_slot *s, const pqp_tended *t)
{
    if ((s->state != PQP_SLOT_LANE && s->state != PQP_SLOT_DRAINING) || s->cancel != PQP_CANCEL_NONE)
        return false;
    if (s->state == PQP_SLOT_LANE && s->alone && !t->dead && !t->condemned)
        return false;
    return !pqp_load(&s->lane->accepting) && pqp_load(&s->lane->users) == 0 && pqp_load(&s->lane->load) == 0;
}

/* At most so many at a time: each costs the server a connection. */
enum { CANCELS_AT_ONCE = 4 };

static void order_cancel(pqpool *p, pqp_slot *s)
{
    pqp_pool_lock(p);
    int n = 0;
    for (const pqp_slot *other = NULL; (other = pqp_fleet_next_lane_locked(p, other));)
        n += other->cancel != PQP_CANCEL_NONE;
    bool wanted = s->cancel == PQP_CANCEL_NONE && n < CANCELS_AT_ONCE;
    if (wanted)
        s->cancel = PQP_CANCEL_WANTED;
    pqp_pool_unlock(p);
    if (!wanted)
        return;
    bool begun = pqp_lane_begin_cancel(s->lane);
    pqp_pool_lock(p);
    if (!begun)
        s->cancel = PQP_CANCEL_NONE;
    p->kick = true; /* a thread is to be started for it */
    pqp_pool_unlock(p);
}

static pqpool_close_reason why_vacated(const pqpool *p, const pqp_slot *s, const pqp_tended *t, bool astray)
{
    if (t->dead)
        return p->closing ? PQPOOL_CLOSE_POOL_CLOSED : s->lane->cut ? PQPOOL_CLOSE_CUT : PQPOOL_CLOSE_LOST;
    if (t->condemned)
        return astray ? PQPOOL_CLOSE_ROLE : PQPOOL_CLOSE_CHANGED;
    return s->lane->large ? PQPOOL_CLOSE_LARGE : PQPOOL_CLOSE_NONE;
}

static void tend_lane(pqpool *p, pqp_slot *s, bool ready, pqp_time *due)
{
    pqp_tended t = pqp_lane_tend(s->lane, ready);
    cut_when_stuck(s, t.stuck && !t.dead);
    bool mine = t.mine && !t.dead;
    if (t.looked || t.dead)
        pqp_store(&s->suspect, 0);
    pqp_slot_watch(s, p->epoll_fd,
                   mine ? (uint32_t)(EPOLLIN | EPOLLRDHUP | (t.want_write ? EPOLLOUT : 0)) : 0);
    *due = PQP_MIN(*due, t.due);
    if (t.cancel)
        order_cancel(p, s);
    if (!t.vacant) {
        if (pqp_load(&p->lane_wanted)) { /* it may have ended what its caller had given up */
            pqp_pool_lock(p);
            pqp_pool_unlock(p);
        }
        return;
    }
    pqp_pool_lock(p);
    bool may = may_be_vacated(s, &t), vacated = may && pqp_lane_vacate(s->lane, &t);
    bool astray = t.condemned && pqp_load(&s->lane->wire.astray);
    if (may && !vacated)
        *due = PQP_MIN(*due, pqp_now() + PQP_MS);
    if (vacated && astray)
        pqp_outcome_astray_locked(p, s);
    if (vacated)
        pqp_outcome_vacated_locked(p, s, why_vacated(p, s, &t, astray));
    bool tell = vacated && (t.dead || t.condemned) && !p->closing;
    pqp_pool_unlock(p);
    if (tell) /* the lane's reason stays until its slot becomes a lane again, which takes this thread */
        pqp_log(&p->events, PQPOOL_LOG_WARN, "shared connection %d closed: %s", (int)s->id,
                s->lane->why.message);
}

enum { LANES_AT_ONCE = 64 };

/* Lanes from the index on; moves it on. Returns how many. */
static int next_lanes(pqpool *p, int *index, pqp_slot **lanes)
{
    int n = 0;
    pqp_pool_lock(p);
    for (; *index < p->slots.count && n < LANES_AT_ONCE; (*index)++) {
        pqp_slot *s = p->slots.all[*index];
        if (s->state == PQP_SLOT_LANE || s->state == PQP_SLOT_DRAINING)
            lanes[n++] = s;
    }
    pqp_mutex_unlock(&p->mu); /* nothing has changed */
    return n;
}

/* The keeper reads its socket. */
static bool is_driven(const pqp_slot *s)
{
    return s->watched != 0 && s->watched != PQP_UNWATCHED;
}

static pqp_time look_again_at(const pqp_slot *s)
{
    if (pqp_load(&((pqp_slot *)s)->suspect))
        return pqp_now() + SUSPECT_LOOK;
    if (is_driven(s) && s->lane->wire.tls)
        return pqp_now() + TLS_LOOK;
    return s->stuck_since ? pqp_now() + STUCK_LOOK : PQP_NEVER;
}

/* Lanes may be tended without the pool's mutex: they live as long as the pool, and only the keeper takes them
 * out of these states. That a socket hung up is told once; as long as a caller drives, it is his to find, but
 * he may have his answer and go before he does. Returns when to look again. */
static pqp_time tend_lanes(pqpool *p)
{
    pqp_slot *lanes[LANES_AT_ONCE];
    pqp_time due = PQP_NEVER;
    for (int index = 0, n; (n = next_lanes(p, &index, lanes)) > 0;)
        for (int i = 0; i < n; i++) {
            pqp_slot *s = lanes[i];
            bool tls = is_driven(s) && s->lane->wire.tls;
            tend_lane(p, s, tls || pqp_load(&s->suspect), &due);
            due = PQP_MIN(due, look_again_at(s));
        }
    return due;
}

/* A connection's socket has something to say: the server hung up, or it is a lane we drive. */
static void socket_event(pqpool *p, const struct epoll_event *e)
{
    bool lane = false;
    pqp_time due = PQP_NEVER; /* the next round asks again */
    pqp_pool_lock(p);
    pqp_slot *s = pqp_slot_of_event(&p->slots, e->data.u64);
    if (s && (e->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
        pqp_store(&s->suspect, 1);
    if (s && s->state == PQP_SLOT_IDLE && pqp_load(&s->suspect))
        pqp_fleet_scrap_locked(p, s, PQPOOL_CLOSE_LOST_IDLE);
    lane = s && (s->state == PQP_SLOT_LANE || s->state == PQP_SLOT_DRAINING);
    pqp_pool_unlock(p);
    if (lane)
        tend_lane(p, s, true, &due);
}

/* ---- the loop ---- */

static pqp_time housekeep(pqpool *p, bool *stop)
{
    pqp_mutex_lock(&p->mu);
    p->due = PQP_NEVER; /* before the look: a lease that begins during it must be heard of */
    pqp_mutex_unlock(&p->mu);
    pqp_time look = pqp_watch_look(p, false);
    pqp_pool_lock(p);
    pqp_time now = pqp_now();
    *stop = p->stopping;
    pqp_fleet_due_locked(p, look);
    pqp_watch_find_leaks_locked(p, now);
    pqp_watch_find_stalls_locked(p, now);
    if (!p->closing) {
        pqp_health_check_locked(p, now);
        pqp_pool_heed_silence_locked(p, now);
        retire_idle(p, now);
        probe_idle(p, now);
        hear_idle(p, now);
        retire_lanes(p, now);
        pqp_fleet_due_locked(p, now + p->options.keeper_interval * PQP_MS);
    }
    pqp_connector_give_up_stuck_locked(p, now);
    pqp_admission_expire_locked(p, now);
    pqp_pool_settle_locked(p);
    pqp_time due = PQP_MIN(p->due, now > PQP_NEVER - LONGEST_SLEEP ? PQP_NEVER : now + LONGEST_SLEEP);
    p->kick = false; /* what it asks for is being done */
    pqp_pool_unlock(p);
    return due;
}

static void *keep(void *arg)
{
    pqpool *p = arg;
    struct epoll_event events[EVENTS_AT_ONCE];
    bool stop = false;
    pthread_setname_np(pthread_self(), "pqpool-keeper");
    pqp_events_defer_here();
    while (!stop) {
        pqp_time due = housekeep(p, &stop);
        if (!pqp_connector_start(p))
            due = PQP_MIN(due, pqp_now() + THREAD_RETRY);
        pqp_run_go_on(p);
        due = PQP_MIN(due, tend_lanes(p));
        int n = stop ? 0 : epoll_wait(p->epoll_fd, events, EVENTS_AT_ONCE, pqp_poll_ms(due, pqp_now()));
        for (int i = 0; i < n; i++) {
            eventfd_t ignored;
            if (events[i].data.u64) /* no connection has the number 0 */
                socket_event(p, &events[i]);
            else
                (void)eventfd_read(p->keeper_fd, &ignored);
        }
    }
    return NULL;
}

int pqp_keeper_start(pqpool *p)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all,
                    &before); /* inherited: the service's signals are not for our threads */
    int rc = pthread_create(&p->keeper, NULL, keep, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

void pqp_keeper_stop(pqpool *p)
{
    if (p->keeper_ended)
        return;
    pqp_pool_lock(p);
    p->stopping = true;
    p->kick = true;
    pqp_pool_unlock(p);
    pthread_join(p->keeper, NULL);
    p->keeper_ended = true;
}
