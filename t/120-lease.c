/* Leases: who gets a connection, when one is made or closed, in what state it is handed on, and how it
 * ends. */
#include "support/pg.h"

#include <signal.h>
#include <sys/wait.h>

#define APP "application_name=lease-test "

static PGconn *ctl;

/* ---- tools ---- */

static void give(pqpool_lease *lease)
{
    pqpool_code code = pqpool_release(lease);
    if (code != PQPOOL_OK)
        bail("release: %s", pqpool_code_name(code));
}

static int pid(const pqpool_lease *lease)
{
    return PQbackendPID(lease->conn);
}

/* One that acquires, or runs a statement, in a thread of its own. */
typedef struct caller {
    pqpool *pool;
    const char *sql; /* NULL: takes a lease */
    int timeout_ms;
    pthread_t thread;
    pqpool_lease lease;
    pqpool_error err;
    pqpool_code code;
    double began, ended;
    _Atomic int *turn; /* counts those served, if not NULL */
    int place;
    _Atomic int done;
} caller;

static void *call_main(void *arg)
{
    caller *c = arg;
    c->began = now_s();
    if (c->sql) {
        PGresult *res = pqpool_exec(c->pool, c->sql, &c->err);
        c->code = (pqpool_code)c->err.code;
        PQclear(res);
    } else {
        c->code = pqpool_acquire_within(c->pool, c->timeout_ms, &c->lease, &c->err);
    }
    c->ended = now_s();
    if (c->turn)
        c->place = ++*c->turn;
    c->done = 1;
    return NULL;
}

static void start(caller *c)
{
    if (pthread_create(&c->thread, NULL, call_main, c) != 0)
        bail("pthread_create");
}

static void join(caller *c)
{
    pthread_join(c->thread, NULL);
}

/* ---- events ---- */

typedef struct recorder {
    pthread_mutex_t mu;
    int ids[4096], n;
    char last_close[200];
} recorder;

static void record(const pqpool_event *event, void *arg)
{
    recorder *r = arg;
    pthread_mutex_lock(&r->mu);
    if (r->n < 4096)
        r->ids[r->n++] = event->id;
    if (event->id == PQPOOL_EVENT_CLOSE)
        snprintf(r->last_close, sizeof r->last_close, "%s", event->text);
    pthread_mutex_unlock(&r->mu);
}

static int count(recorder *r, int id)
{
    int n = 0;
    pthread_mutex_lock(&r->mu);
    for (int i = 0; i < r->n; i++)
        n += r->ids[i] == id;
    pthread_mutex_unlock(&r->mu);
    return n;
}

/* Whether the last close told of had this reason; what was done is seen in the figures before it is told. */
static bool closed_for(recorder *r, const char *reason)
{
    pthread_mutex_lock(&r->mu);
    bool so = strstr(r->last_close, reason) != NULL;
    pthread_mutex_unlock(&r->mu);
    return so;
}

static int first(recorder *r, int id)
{
    pthread_mutex_lock(&r->mu);
    int i = 0;
    while (i < r->n && r->ids[i] != id)
        i++;
    pthread_mutex_unlock(&r->mu);
    return i;
}

static int last(recorder *r, int id)
{
    pthread_mutex_lock(&r->mu);
    int i = r->n - 1;
    while (i >= 0 && r->ids[i] != id)
        i--;
    pthread_mutex_unlock(&r->mu);
    return i;
}

/* Holds each new connection back in on_connect until it is opened. */
typedef struct gate {
    _Atomic int at_it, open;
} gate;

static int pass_gate(PGconn *conn, void *arg)
{
    gate *g = arg;
    (void)conn;
    g->at_it++;
    return eventually(g->open) ? 0 : 1;
}

/* ---- A1, A2 ---- */

static void lazily(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=3", NULL);
    is_int(stats(pool).total, 0, "A1: an open pool has no connection");
    is_int(backends(ctl, "lease-test"), 0, "A1: nor has the server one of it");
    pqpool_lease a = take(pool);
    is_int(stats(pool).total, 1, "A1: one lease makes one connection");
    int first_pid = pid(&a);
    give(&a);
    int same = 0;
    for (int i = 0; i < 20; i++) {
        a = take(pool);
        same += pid(&a) == first_pid;
        give(&a);
    }
    is_int(same, 20, "A1: leases one after another use that connection");
    is_int(stats(pool).connects, 1, "A1: and no other is made");
    a = take(pool);
    pqpool_lease b = take(pool);
    is_int(stats(pool).connects, 2, "A1: a second one is made when none is idle");
    pqpool_lease c = take(pool);
    int pids[] = {pid(&a), pid(&b), pid(&c)};
    give(&b), give(&a), give(&c);
    b = take(pool), a = take(pool), c = take(pool);
    ok(pid(&b) == pids[2] && pid(&a) == pids[0] && pid(&c) == pids[1],
       "A2: the most recently used one is lent first");
    caller w = {.pool = pool, .timeout_ms = -1};
    start(&w);
    ok(eventually(stats(pool).waiting == 1), "A1: beyond max_size a caller waits");
    is_int(pqpool_set(pool, "max_size", "3", NULL), PQPOOL_OK,
           "an option set to what it was changes nothing");
    int given = pid(&a);
    give(&a);
    join(&w);
    is_int(pid(&w.lease), given, "A2: a connection that comes back goes to who waits");
    is_int(stats(pool).connects, 3, "A2: and no new one is made for him");
    give(&w.lease), give(&b), give(&c);
    is_int(stats(pool).idle, 3, "all are idle in the end");
    close_pool(pool);
}

static void warm(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=5 pool_initial_size=3", NULL);
    ok(eventually(stats(pool).idle == 3), "A1: initial_size connections are made at once");
    is_int(stats(pool).connects, 3, "A1: and no more");
    close_pool(pool);

    pool = open_pool(APP "pool_max_size=3 pool_min_idle=2", NULL);
    ok(eventually(stats(pool).idle == 2), "A1: min_idle connections are made ready");
    pqpool_lease a = take(pool);
    ok(eventually(stats(pool).idle == 2), "A1: a lease is made up for");
    pqpool_lease b = take(pool);
    ok(eventually(stats(pool).connecting == 0) && stats(pool).total == 3, "A1: but never beyond max_size");
    is_int(pqpool_discard(&a), PQPOOL_OK, "a lease can be discarded");
    ok(!a.conn && !a.pool && !a.token, "and is zeroed then");
    ok(eventually(stats(pool).idle == 2 && stats(pool).closing == 0),
       "A1: a discarded connection is made up for");
    is_int(stats(pool).connects, 4, "A1: by one connect");
    ok(eventually(backends(ctl, "lease-test") == 3), "the discarded one's server process has ended");
    give(&b);
    close_pool(pool);

    pool = open_pool(APP "pool_max_size=2 pool_min_idle=2", NULL);
    ok(eventually(stats(pool).idle == 2), "A1: min_idle = max_size is a pool of fixed size");
    close_pool(pool);
}

/* ---- A3 ---- */

enum { RUNNERS = 8, ROUNDS = 30 };

typedef struct relay {
    pqpool *pool;
    int served[RUNNERS * ROUNDS];
    _Atomic int n, stuck;
} relay;

typedef struct runner {
    relay *relay;
    int number;
    pthread_t thread;
} runner;

static void *run_relay(void *arg)
{
    runner *r = arg;
    relay *all = r->relay;
    for (int k = 0; k < ROUNDS; k++) {
        pqpool_lease lease;
        if (pqpool_acquire_within(all->pool, -1, &lease, NULL) != PQPOOL_OK)
            bail("acquire in the relay");
        int n = all->n;
        all->served[n] = r->number;
        all->n = n + 1;
        int left = RUNNERS * ROUNDS - n - 1, waiting = left < RUNNERS - 1 ? left : RUNNERS - 1;
        if (!eventually(stats(all->pool).waiting == waiting))
            all->stuck++;
        give(&lease);
    }
    return NULL;
}

static void in_order(void)
{
    static relay all;
    runner runners[RUNNERS];
    pqpool *pool = all.pool = open_pool(APP "pool_max_size=1", NULL);
    pqpool_lease lease = take(pool);
    for (int i = 0; i < RUNNERS; i++) {
        runners[i] = (runner){.relay = &all, .number = i};
        if (pthread_create(&runners[i].thread, NULL, run_relay, &runners[i]) != 0)
            bail("pthread_create");
        if (!eventually(stats(pool).waiting == i + 1))
            bail("runner %d does not wait", i);
    }
    give(&lease);
    for (int i = 0; i < RUNNERS; i++)
        pthread_join(runners[i].thread, NULL);
    int wrong = 0;
    for (int n = 0; n < RUNNERS * ROUNDS; n++)
        wrong += all.served[n] != n % RUNNERS;
    is_int(wrong, 0, "A3: %d hand-overs among 8 waiters are in the order they came", RUNNERS * ROUNDS);
    is_int(all.stuck, 0, "A3: and nobody who came back was let in before");
    is_int(stats(pool).connects, 1, "A3: on one connection");
    close_pool(pool);
}

typedef struct five {
    pqpool *pool;
    _Atomic int go;
} five;

static void one_of_five(int i, void *arg)
{
    five *f = arg;
    (void)i;
    pqpool_lease lease = take(f->pool);
    if (!eventually(f->go))
        bail("no go");
    give(&lease);
}

static void events_of_five(void)
{
    static recorder r = {.mu = PTHREAD_MUTEX_INITIALIZER};
    pqpool_hooks hooks = {PQPOOL_HOOKS, .arg = &r, .on_event = record};
    five f = {.pool = open_pool(APP "pool_max_size=2", &hooks)};
    crew c;
    crew_start(&c, 5, one_of_five, &f);
    ok(eventually(stats(f.pool).leased == 2 && stats(f.pool).waiting == 3),
       "A3: of five at once, two are served and three wait");
    f.go = 1;
    crew_join(&c);
    ok(eventually(count(&r, PQPOOL_EVENT_RELEASE) == 5), "A11: five release events");
    is_int(count(&r, PQPOOL_EVENT_CONNECT), 2,
           "A3: two connects: those they cover are not announced as waiting");
    is_int(count(&r, PQPOOL_EVENT_ENQUEUE), 3, "A3: three are");
    is_int(count(&r, PQPOOL_EVENT_DEQUEUE), 3, "A11: and served");
    is_int(count(&r, PQPOOL_EVENT_ACQUIRE), 5, "A11: all five acquire");
    ok(last(&r, PQPOOL_EVENT_CONNECT) < first(&r, PQPOOL_EVENT_RELEASE) &&
           last(&r, PQPOOL_EVENT_ENQUEUE) < first(&r, PQPOOL_EVENT_RELEASE),
       "A3: connects and enqueues come before the first release");
    ok(first(&r, PQPOOL_EVENT_CONNECT) < first(&r, PQPOOL_EVENT_ACQUIRE),
       "A3: a connect comes before its acquire");
    close_pool(f.pool);
    is_int(count(&r, PQPOOL_EVENT_CLOSE), 2, "A11: each connection's close is told");
    has(r.last_close, "closed", "A11: with the reason");

    static recorder r2 = {.mu = PTHREAD_MUTEX_INITIALIZER};
    hooks.arg = &r2;
    pqpool *pool = open_pool(APP "pool_max_size=2", &hooks);
    for (int i = 0; i < 5; i++) {
        pqpool_lease lease = take(pool);
        give(&lease);
    }
    /* They come in their order, so that with the last all are there; the keeper may be telling it just now. */
    ok(eventually(count(&r2, PQPOOL_EVENT_RELEASE) == 5) && count(&r2, PQPOOL_EVENT_CONNECT) == 1 &&
           count(&r2, PQPOOL_EVENT_ENQUEUE) == 0,
       "A3: five one after another: one connect, no enqueue, five releases");
    close_pool(pool);
}

/* ---- A4 ---- */

static void without_waiting(void)
{
    static gate g;
    pqpool_hooks hooks = {PQPOOL_HOOKS, .arg = &g, .on_connect = pass_gate};
    pqpool *pool = open_pool(APP "pool_max_size=2 pool_wait=off", &hooks);
    caller a = {.pool = pool, .timeout_ms = -1}, b = {.pool = pool, .timeout_ms = -1};
    start(&a), start(&b);
    ok(eventually(g.at_it == 2), "with wait=off two connects are under way");
    pqpool_lease lease;
    pqpool_error err;
    double began = now_s();
    is_int(pqpool_acquire(pool, &lease, &err), PQPOOL_ENOWAIT, "A4: wait=off: a third caller is refused");
    ok(now_s() - began < 0.1 * tap_slowness(), "A4: at once");
    is_int(err.outcome, PQPOOL_NOT_SENT, "A4: with the outcome NOT_SENT");
    has(err.message, "max_size", "A4: and the message tells the limit");
    ok(!lease.conn, "and the lease is zeroed");
    g.open = 1;
    join(&a), join(&b);
    ok(a.code == PQPOOL_OK && b.code == PQPOOL_OK,
       "A4: wait=off: those whose connects are under way wait and are served");
    is_int(pqpool_acquire(pool, &lease, &err), PQPOOL_ENOWAIT, "A4: wait=off: so it is when all are leased");
    give(&a.lease);
    lease = take(pool);
    give(&lease), give(&b.lease);
    close_pool(pool);
}

static void limited_queue(void)
{
    static gate g;
    pqpool_hooks hooks = {PQPOOL_HOOKS, .arg = &g, .on_connect = pass_gate};
    pqpool *pool = open_pool(APP "pool_max_size=2 pool_queue_limit=2", &hooks);
    caller w[4];
    for (int i = 0; i < 4; i++) {
        w[i] = (caller){.pool = pool, .timeout_ms = -1};
        start(&w[i]);
        if (!(i < 2 ? eventually(g.at_it == i + 1) : eventually(stats(pool).waiting == i - 1)))
            bail("caller %d does not wait", i);
    }
    is_int(stats(pool).enqueues, 2,
           "A4: callers covered by connects under way do not count, the limit-th waiter may wait");
    pqpool_lease lease;
    pqpool_error err;
    is_int(pqpool_acquire(pool, &lease, &err), PQPOOL_EQUEUEFULL, "A4: one more than queue_limit is refused");
    has(err.message, "queue_limit", "A4: with the option's name");
    ok(!strstr(err.message, "too many") && !strstr(err.message, "clients"),
       "A4: in words the server does not use");
    is_int(stats(pool).waiting, 2, "A4: the refused one does not stand in the queue");
    g.open = 1;
    for (int i = 0; i < 2; i++) {
        join(&w[i]);
        give(&w[i].lease);
    }
    for (int i = 2; i < 4; i++) {
        join(&w[i]);
        ok(w[i].code == PQPOOL_OK, "A4: those who waited are served");
        give(&w[i].lease);
    }
    close_pool(pool);
}

typedef struct sleeper {
    double until, woke;
} sleeper;

static void *sleep_until(void *arg)
{
    sleeper *s = arg;
    struct timespec at = {.tv_sec = (time_t)s->until,
                          .tv_nsec = (long)((s->until - (double)(time_t)s->until) * 1e9)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
    s->woke = now_s();
    return NULL;
}

/* How late, in ms, a wait of this long ended, beyond a thread that just slept as long. Negative: early. */
static double lateness(pqpool *pool, int timeout_ms, pqpool_code *code, pqpool_error *err)
{
    pqpool_lease lease;
    pthread_t thread;
    sleeper s = {.until = now_s() + timeout_ms / 1000.0};
    if (pthread_create(&thread, NULL, sleep_until, &s) != 0)
        bail("pthread_create");
    double began = now_s();
    *code = pqpool_acquire_within(pool, timeout_ms, &lease, err);
    double late = now_s() - began - timeout_ms / 1000.0;
    pthread_join(thread, NULL);
    double other = s.woke - s.until;
    return late < 0 ? late * 1000 : late > other ? (late - other) * 1000 : 0;
}

static void deadlines(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=1 pool_acquire_timeout=80ms", NULL);
    pqpool_lease lease = take(pool);
    static const int times[] = {0, 1, 50, 200};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        int early = 0;
        double least = 1e9; /* a machine may be late now and then */
        pqpool_code code = PQPOOL_OK;
        pqpool_error err;
        for (int k = 0; k < 5 && code != PQPOOL_EINVAL; k++) {
            double late = lateness(pool, times[i], &code, &err);
            early += late < 0;
            least = late < least ? late : least;
        }
        is_int(code, PQPOOL_ETIMEDOUT, "A4: a caller with %d ms is told that the deadline passed", times[i]);
        is_int(early, 0, "A4: never before it has");
        ok(least <= 20 * tap_slowness(), "A4: and within 20 ms after it (%.1f ms)", least);
        is_int(err.outcome, PQPOOL_NOT_SENT, "with the outcome NOT_SENT");
        ok(strstr(err.message, "max_size") && strstr(err.message, "1 leased") &&
               strstr(err.message, "0 idle"),
           "A13: and the pool's figures in the message: %s", err.message);
    }
    pqpool_lease none;
    double began = now_s();
    is_int(pqpool_acquire(pool, &none, NULL), PQPOOL_ETIMEDOUT,
           "A4: acquire_timeout holds for who gives no time of his own");
    ok(now_s() - began >= 0.080, "A4: all of it");
    is_int(stats(pool).waiting, 0, "A4: who gave up has left the queue");
    ok(stats(pool).timeouts > 0, "D1: and is counted");
    caller w = {.pool = pool, .timeout_ms = -1};
    start(&w);
    ok(eventually(stats(pool).waiting == 1), "a caller without limit waits");
    sleep_ms(100);
    ok(!w.done, "A4: longer than acquire_timeout");
    give(&lease);
    join(&w);
    is_int(w.code, PQPOOL_OK, "A4: until he is served");
    give(&w.lease);
    is_int(stats(pool).idle, 1, "A4: after all those time-outs no connection is missing");
    lease = take(pool);
    is_int(pqpool_acquire_within(pool, -3, &none, NULL), PQPOOL_EINVAL, "a time-out below -2 is EINVAL");
    give(&lease);
    is_int(pqpool_acquire_within(pool, 0, &none, NULL), PQPOOL_OK,
           "A4: a caller with 0 ms gets an idle connection");
    give(&none);
    close_pool(pool);
}

/* Deadlines that pass at the very moment the connection comes. */
typedef struct tryst {
    pqpool *pool;
    _Atomic int stop;
    _Atomic int got, missed, other;
} tryst;

static void try_in_time(int i, void *arg)
{
    tryst *t = arg;
    (void)i;
    while (!t->stop) {
        pqpool_lease lease;
        switch (pqpool_acquire_within(t->pool, 1, &lease, NULL)) {
        case PQPOOL_OK:
            t->got++;
            pqpool_release(&lease);
            break;
        case PQPOOL_ETIMEDOUT:
            t->missed++;
            break;
        default:
            t->other++;
        }
    }
}

static void handed_too_late(void)
{
    int tries = 3000 / tap_slowness();
    tryst t = {.pool = open_pool(APP "pool_max_size=1", NULL)};
    crew c;
    crew_start(&c, 2, try_in_time, &t);
    for (int i = 0; i < tries; i++) {
        pqpool_lease lease;
        if (pqpool_acquire_within(t.pool, -1, &lease, NULL) != PQPOOL_OK)
            bail("acquire");
        double until = now_s() + 0.00090 + (i % 41) * 0.00001;
        while (now_s() < until)
            if (until - now_s() > 0.0004)
                usleep(200);
        give(&lease);
    }
    t.stop = 1;
    crew_join(&c);
    ok(t.got > 0 && t.missed > 0, "A4: %d releases around a deadline: %d in time, %d too late", tries,
       (int)t.got, (int)t.missed);
    is_int(t.other, 0, "A4: and nothing else");
    pqpool_stats_data s = stats(t.pool);
    ok(s.idle == 1 && s.total == 1 && s.waiting == 0 && s.leased == 0, "A4: the connection is not lost");
    is_int(s.acquires, s.releases, "A4: each that was handed over came back");
    close_pool(t.pool);
}

/* ---- A6 ---- */

static void three_and_back(pqpool *pool)
{
    pqpool_lease a = take(pool), b = take(pool), c = take(pool);
    give(&a), give(&b), give(&c);
}

static void ageing(void)
{
    static recorder r = {.mu = PTHREAD_MUTEX_INITIALIZER};
    pqpool_hooks hooks = {PQPOOL_HOOKS, .arg = &r, .on_event = record};
    pqpool *pool = open_pool(APP "pool_max_size=3 pool_max_idle=1", &hooks);
    three_and_back(pool);
    ok(eventually(stats(pool).total == 1), "A6: beyond max_idle connections are closed");
    is_int(stats(pool).closes, 2, "A6: and no more than that");
    ok(eventually(closed_for(&r, "max_idle")), "A11: the close tells why");
    close_pool(pool);

    pool = open_pool(APP "pool_max_size=3 pool_idle_timeout=60ms pool_min_idle=1", &hooks);
    three_and_back(pool);
    ok(eventually(stats(pool).total == 1), "A6: idle_timeout closes what nobody uses");
    sleep_ms(150);
    ok(stats(pool).idle == 1, "A6: down to min_idle");
    ok(eventually(closed_for(&r, "idle_timeout")), "A11: the close tells why");
    close_pool(pool);

    pool = open_pool(APP "pool_max_size=2 pool_max_lifetime=150ms pool_min_idle=1", &hooks);
    ok(eventually(stats(pool).connects >= 3), "A6: max_lifetime replaces idle connections, again and again");
    ok(eventually(stats(pool).idle >= 1), "A6: min_idle is made up for");
    pqpool_lease lease = take(pool);
    int old = pid(&lease);
    sleep_ms(200);
    is_int(atoi(one(ctl, "select count(*) from pg_stat_activity where pid = %d", old)), 1,
           "A6: a leased connection lives on past max_lifetime");
    give(&lease);
    ok(eventually(atoi(one(ctl, "select count(*) from pg_stat_activity where pid = %d", old)) == 0),
       "A6: and is closed when it comes back");
    close_pool(pool);

    pool = open_pool(APP "pool_max_size=1 pool_max_uses=3", &hooks);
    int pids[6], changes = 0;
    for (int i = 0; i < 6; i++) {
        lease = take(pool);
        pids[i] = pid(&lease);
        give(&lease);
        changes += i > 0 && pids[i] != pids[i - 1];
    }
    ok(changes == 1 && pids[2] != pids[3], "A6: a connection is replaced after max_uses leases");
    ok(eventually(closed_for(&r, "max_uses")), "A11: the close tells why");
    close_pool(pool);
}

/* ---- A7 ---- */

static void lost_while_idle(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=3", NULL);
    three_and_back(pool);
    one(ctl, "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = "
             "'lease-test'");
    ok(eventually(stats(pool).idle == 0),
       "A7: connections the server ends while they are idle are noticed unasked");
    pqpool_lease lease = take(pool);
    is_str(one(lease.conn, "select 1"), "1", "A7: and the next caller gets a good one");
    give(&lease);
    close_pool(pool);

    pool = open_pool(APP "pool_max_size=2 pool_min_idle=2", NULL);
    ok(eventually(stats(pool).idle == 2), "two connections are ready");
    one(ctl, "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = "
             "'lease-test'");
    ok(eventually(stats(pool).connects == 4 && stats(pool).idle == 2),
       "A7: and lost ones are replaced without a call");
    close_pool(pool);

    pool = open_pool(APP "pool_max_size=1 pool_test_on_borrow=on", NULL);
    int good = 0;
    for (int i = 0; i < 20; i++) {
        lease = take(pool);
        int old = pid(&lease);
        PGresult *res = PQexec(lease.conn, "select 1");
        good += PQresultStatus(res) == PGRES_TUPLES_OK;
        PQclear(res);
        give(&lease);
        one(ctl, "select pg_terminate_backend(%d, 5000)", old);
    }
    is_int(good, 20, "A7: test_on_borrow: a connection that has just died is never lent");
    lease = take(pool);
    int frozen = pid(&lease);
    give(&lease);
    sleep_ms(510); /* beyond the time for which it is trusted */
    if (kill(frozen, SIGSTOP) != 0) {
        diag("may not stop the server's process: %s", strerror(errno));
    } else {
        pqpool_error err;
        double began = now_s();
        pqpool_code code = pqpool_acquire_within(pool, 80, &lease, &err);
        double took = now_s() - began;
        is_int(code, PQPOOL_ETIMEDOUT,
               "A7: test_on_borrow: a frozen server process ends at the caller's deadline");
        ok(took >= 0.08 && took < 0.1 * tap_slowness() + 0.1, "A7: in time (%.0f ms)", took * 1000);
        has(err.message, "did not answer a probe", "A7: and the message tells of the test");
        lease = take(pool);
        ok(pid(&lease) != frozen, "A7: the next caller gets another one");
        give(&lease);
        kill(frozen, SIGCONT);
    }
    close_pool(pool);

    pool = open_pool(APP "pool_max_size=1", NULL);
    lease = take(pool);
    one(ctl, "select pg_terminate_backend(%d, 5000)", pid(&lease));
    PQclear(PQexec(lease.conn, "select 1"));
    caller w = {.pool = pool, .timeout_ms = -1};
    start(&w);
    ok(eventually(stats(pool).waiting == 1), "one waits while another's connection is lost");
    give(&lease);
    join(&w);
    is_int(w.code, PQPOOL_OK, "A7: a lost connection is replaced for who waits");
    is_str(one(w.lease.conn, "select 1"), "1", "A7: by a good one");
    give(&w.lease);
    close_pool(pool);
}

/* ---- A9 ---- */

static void leave_transaction(PGconn *c)
{
    one(c, "begin");
}

static void leave_failed_transaction(PGconn *c)
{
    one(c, "begin");
    PQclear(PQexec(c, "select 1/0"));
}

static void leave_copy_out(PGconn *c)
{
    PQclear(PQexec(c, "copy (select generate_series(1, 100000)) to stdout"));
}

static void leave_copy_in(PGconn *c)
{
    PQclear(PQexec(c, "copy stuff from stdin"));
}

static void leave_unread(PGconn *c)
{
    PQsendQuery(c, "select generate_series(1, 1000)");
}

static void leave_running(PGconn *c)
{
    PQsendQuery(c, "select pg_sleep(1)");
    PQflush(c);
}

static void leave_single_rows(PGconn *c)
{
    PQsendQuery(c, "select generate_series(1, 1000)");
    PQsetSingleRowMode(c);
    PQclear(PQgetResult(c));
}

static void leave_pipeline(PGconn *c)
{
    PQenterPipelineMode(c);
}

static void leave_full_pipeline(PGconn *c)
{
    PQenterPipelineMode(c);
    PQsendQueryParams(c, "select 1", 0, NULL, NULL, NULL, NULL, 0);
    PQpipelineSync(c);
}

static void leave_nonblocking(PGconn *c)
{
    PQsetnonblocking(c, 1);
}

static void reset_it(PGconn *c)
{
    PQreset(c);
}

static void shut_socket(PGconn *c)
{
    one(ctl, "select pg_terminate_backend(%d, 5000)", PQbackendPID(c));
}

static void leave_nothing(PGconn *c)
{
    (void)c;
}

static const struct mess {
    const char *what;
    void (*make)(PGconn *);
    bool closes;
} messes[] = {{"nothing", leave_nothing, false},
              {"an open transaction", leave_transaction, false},
              {"a failed transaction", leave_failed_transaction, false},
              {"a COPY to the client", leave_copy_out, true},
              {"a COPY from the client", leave_copy_in, true},
              {"an unread answer", leave_unread, true},
              {"a running statement", leave_running, true},
              {"rows one at a time, half read", leave_single_rows, true},
              {"an empty pipeline", leave_pipeline, false},
              {"a pipeline with a statement in it", leave_full_pipeline, true},
              {"a nonblocking connection", leave_nonblocking, false},
              {"a PQreset() of his own", reset_it, true},
              {"a connection the server has ended", shut_socket, true}};

static void hand_on_messes(const char *level)
{
    char conninfo[200];
    bool none = strcmp(level, "none") == 0;
    snprintf(conninfo, sizeof conninfo, APP "pool_max_size=1 pool_reset=%s", level);
    pqpool *pool = open_pool(conninfo, NULL);
    for (size_t i = 0; i < sizeof messes / sizeof *messes; i++) {
        const struct mess *m = &messes[i];
        pqpool_lease lease = take(pool);
        int before = pid(&lease);
        m->make(lease.conn);
        double began = now_s();
        give(&lease);
        double took = now_s() - began;
        lease = take(pool);
        ok(PQstatus(lease.conn) == CONNECTION_OK && PQtransactionStatus(lease.conn) == PQTRANS_IDLE &&
               PQpipelineStatus(lease.conn) == PQ_PIPELINE_OFF && !PQisnonblocking(lease.conn) &&
               strcmp(one(lease.conn, "select 'fine'"), "fine") == 0,
           "A9: reset=%s: after %s the next holder finds a usable connection", level, m->what);
        bool transaction = m->make == leave_transaction || m->make == leave_failed_transaction;
        if (!(none && transaction))
            is_int(pid(&lease) != before, m->closes, "A9: reset=%s: after %s it is %s", level, m->what,
                   m->closes ? "another one" : "the same");
        ok(took < 5.5 * tap_slowness(), "A9: reset=%s: and the release took no longer than it may", level);
        give(&lease);
    }
    close_pool(pool);
}

static _Atomic int set_ups;

static int set_up(PGconn *conn, void *arg)
{
    (void)arg;
    PGresult *res = PQexec(conn, "set lease.mark = 'there'");
    int bad = PQresultStatus(res) != PGRES_COMMAND_OK;
    PQclear(res);
    set_ups++;
    return bad;
}

static void session_state(const char *level, bool undone)
{
    char conninfo[200];
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_connect = set_up};
    set_ups = 0;
    snprintf(conninfo, sizeof conninfo, APP "pool_max_size=1 pool_reset=%s", level);
    pqpool *pool = open_pool(conninfo, &hooks);
    pqpool_lease lease = take(pool);
    int before = pid(&lease);
    is_str(one(lease.conn, "show lease.mark"), "there", "on_connect has set the session up");
    one(lease.conn, "set work_mem = '1234kB'");
    one(lease.conn, "create temp table scratch(i int)");
    one(lease.conn, "select pg_advisory_lock(4711)");
    one(lease.conn, "listen gossip");
    one(lease.conn, "declare held cursor with hold for select 1");
    one(lease.conn, "prepare mine as select 1");
    one(lease.conn, "set role pg_monitor");
    give(&lease);
    lease = take(pool);
    PGconn *c = lease.conn;
    is_int(pid(&lease), before, "A9: reset=%s: it is the same connection", level);
    is_int(strcmp(one(c, "show work_mem"), "1234kB") != 0, undone, "A9: reset=%s: a SET is %s", level,
           undone ? "undone" : "kept");
    is_int(*one(c, "select to_regclass('pg_temp.scratch')") == '\0', undone,
           "A9: reset=%s: so is a temporary table", level);
    is_int(atoi(one(ctl, "select count(*) from pg_locks where locktype = 'advisory' and pid = %d", before)),
           !undone, "A9: reset=%s: so is an advisory lock", level);
    bool listens = strcmp(level, "none") == 0; /* what it hears would be told to a stranger */
    is_int(atoi(one(c, "select count(*) from pg_listening_channels()")), listens,
           "with reset=%s a LISTEN is %s", level, listens ? "kept" : "undone");
    is_int(atoi(one(c, "select count(*) from pg_cursors where name = 'held'")), !undone,
           "A9: reset=%s: so is a cursor WITH HOLD", level);
    is_int(strcmp(one(c, "select current_user"), "pg_monitor") != 0, undone, "A9: reset=%s: so is a SET ROLE",
           level);
    if (strcmp(level, "discard") == 0)
        is_int(atoi(one(c, "select count(*) from pg_prepared_statements")), 0,
               "A9: reset=discard: no prepared statement is left");
    is_str(one(c, "show lease.mark"), "there", "A9: reset=%s: what on_connect did holds again", level);
    is_int(set_ups, undone ? 2 : 1, "A9: reset=%s: on_connect ran %s", level, undone ? "again" : "once");
    give(&lease);
    close_pool(pool);
}

static void cleaning(void)
{
    static const char *const levels[] = {"none", "rollback", "clean", "discard"};
    one(ctl, "create table stuff(i int)");
    for (int i = 0; i < 4; i++) {
        hand_on_messes(levels[i]);
        session_state(levels[i], i >= 2);
    }
    ok(eventually(backends(ctl, "lease-test") == 0), "A9: what was left running has ended");
    one(ctl, "drop table stuff");
}

/* ---- A10 ---- */

static void auto_lease(pqpool *pool)
{
    PQPOOL_AUTO_LEASE lease = {0};
    if (pqpool_acquire(pool, &lease, NULL) != PQPOOL_OK)
        bail("acquire");
    is_int(stats(pool).leased, 1, "a lease that ends with its scope is out");
}

static void *release_it(void *lease)
{
    return pqpool_release(lease) == PQPOOL_OK ? lease : NULL;
}

static void wrong_returns(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=2", NULL), *other = open_pool(APP "pool_max_size=2", NULL);
    pqpool_lease lease = take(pool), copy = lease, foreign = take(other), forged;
    pqpool_stats_data before = stats(pool);
    forged = lease, forged.conn = foreign.conn;
    is_int(pqpool_release(&forged), PQPOOL_EINVAL, "A10: a lease with a foreign connection in it is EINVAL");
    forged = lease, forged.pool = other;
    is_int(pqpool_release(&forged), PQPOOL_EINVAL, "A10: and one with another pool in it");
    forged = lease, forged.token += UINT64_C(1) << 32;
    is_int(pqpool_release(&forged), PQPOOL_EINVAL, "A10: and one with another token");
    forged = lease, forged.token |= UINT32_MAX;
    is_int(pqpool_discard(&forged), PQPOOL_EINVAL, "A10: and one with an impossible token");
    forged = (pqpool_lease){0};
    is_int(pqpool_release(&forged), PQPOOL_EINVAL, "A10: and a zeroed one");
    is_int(pqpool_release(NULL), PQPOOL_EINVAL, "A10: and NULL");
    is_int(pqpool_discard(NULL), PQPOOL_EINVAL, "A10: so for discard");
    pqpool_release_auto(&forged);
    pqpool_release_auto(NULL);
    pqpool_stats_data after = stats(pool);
    ok(memcmp(&before, &after, sizeof before) == 0, "A10: and nothing in the pool has changed");
    is_int(stats(other).leased, 1, "A10: nor in the other one");
    is_str(one(lease.conn, "select 1"), "1", "A10: the lease is still good");

    give(&lease);
    ok(!lease.conn && !lease.pool && !lease.token, "A10: a lease given back is zeroed");
    before = stats(pool);
    is_int(pqpool_release(&lease), PQPOOL_EINVAL, "A10: given back twice is EINVAL");
    forged = copy;
    is_int(pqpool_release(&forged), PQPOOL_EINVAL, "A10: and so is a copy of it");
    lease = take(pool);
    ok(lease.conn == copy.conn, "the same connection is lent again");
    is_int(pqpool_release(&copy), PQPOOL_EINVAL, "A10: a stale copy can't give back another's lease");
    is_int(pqpool_discard(&copy), PQPOOL_EINVAL, "A10: nor discard it");
    is_int(stats(pool).leased, 1, "A10: it is still out");
    is_int(stats(pool).releases, before.releases, "A10: and no release was counted");

    pthread_t thread;
    void *released = NULL;
    if (pthread_create(&thread, NULL, release_it, &lease) != 0)
        bail("pthread_create");
    pthread_join(thread, &released);
    ok(released && stats(pool).idle == 1, "A10: another thread may give a lease back");
    auto_lease(pool);
    is_int(stats(pool).leased, 0, "A10: PQPOOL_AUTO_LEASE gives back on the way out");
    lease = take(pool);
    int old = pid(&lease);
    is_int(pqpool_discard(&lease), PQPOOL_OK, "a lease is discarded");
    ok(eventually(stats(pool).total == 0), "A10: discard closes the connection");
    ok(eventually(atoi(one(ctl, "select count(*) from pg_stat_activity where pid = %d", old)) == 0),
       "on the server too");
    give(&foreign);
    close_pool(pool), close_pool(other);
}

typedef struct twice {
    pqpool_lease lease;
    _Atomic int right, wrong;
} twice;

static void release_copy(int i, void *arg)
{
    twice *t = arg;
    pqpool_lease copy = t->lease;
    (void)i;
    if (pqpool_release(&copy) == PQPOOL_OK)
        t->right++;
    else
        t->wrong++;
}

static void returned_at_once(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=1 pool_reset=clean", NULL);
    int bad = 0;
    for (int i = 0; i < 200 / tap_slowness(); i++) {
        twice t = {.lease = take(pool)};
        in_threads(2, release_copy, &t);
        bad += t.right != 1 || t.wrong != 1;
    }
    is_int(bad, 0, "A10: of two threads that give back the same lease at once, exactly one does");
    ok(stats(pool).idle == 1 && stats(pool).acquires == stats(pool).releases,
       "A10: and the figures are right");
    close_pool(pool);
}

/* ---- A11: hooks ---- */

typedef struct hooked {
    _Atomic int acquires, releases, refuse_acquire, refuse_release;
    pthread_t thread;
} hooked;

static int hook_acquire(PGconn *conn, void *arg)
{
    hooked *h = arg;
    h->acquires++;
    h->thread = pthread_self();
    return PQstatus(conn) != CONNECTION_OK || (h->refuse_acquire > 0 && h->refuse_acquire-- > 0);
}

static int hook_release(PGconn *conn, void *arg)
{
    hooked *h = arg;
    h->releases++;
    return PQstatus(conn) != CONNECTION_OK || h->refuse_release;
}

static void hooks_refuse(void)
{
    static hooked h;
    pqpool_hooks hooks = {PQPOOL_HOOKS, .arg = &h, .on_acquire = hook_acquire, .on_release = hook_release};
    pqpool *pool = open_pool(APP "pool_max_size=2", &hooks);
    pqpool_lease lease = take(pool);
    ok(h.acquires == 1 && pthread_equal(h.thread, pthread_self()),
       "A11: on_acquire runs in the caller's thread");
    give(&lease);
    is_int(h.releases, 1, "A11: and on_release at the end");
    h.refuse_acquire = 1;
    lease = take(pool);
    is_int(h.acquires, 3, "A11: a connection that on_acquire refuses is not lent: another one is taken");
    ok(eventually(stats(pool).connects == 2 && stats(pool).total == 1), "A11: and the refused one closed");
    h.refuse_release = 1;
    give(&lease);
    ok(eventually(stats(pool).total == 0), "A11: a connection that on_release refuses is closed");
    h.refuse_release = 0;
    h.refuse_acquire = 1000000000;
    pqpool_error err;
    double began = now_s();
    pqpool_code code = pqpool_acquire_within(pool, 200, &lease, &err);
    double took = now_s() - began;
    ok(code == PQPOOL_ECONNECT && strstr(err.message, "on_acquire"),
       "A11: when it refuses each, the deadline still holds, and the message says why");
    ok(stats(pool).connects < 15, "A11: without a storm of connects (%d)", (int)stats(pool).connects);
    ok(took >= 0.2 && took < 0.5 * tap_slowness(), "A11: in time (%.0f ms)", took * 1000);
    ok(!lease.conn && stats(pool).leased == 0, "A11: and nothing is lent");
    close_pool(pool);
}

/* ---- leases beside shared statements ---- */

static bool runs(const char *part)
{
    return atoi(one(ctl,
                    "select count(*) from pg_stat_activity where application_name = 'lease-test' and state = "
                    "'active' and "
                    "query like '%%%s%%'",
                    part)) > 0;
}

static void with_one_connection(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=1 pool_slow_statement=off", NULL);
    pqpool_lease lease = take(pool);
    _Atomic int turn = 0;
    caller c[4] = {{.pool = pool, .sql = "select pg_sleep(0.05)", .turn = &turn},
                   {.pool = pool, .timeout_ms = -1, .turn = &turn},
                   {.pool = pool, .sql = "select pg_sleep(0.05)", .turn = &turn},
                   {.pool = pool, .timeout_ms = -1, .turn = &turn}};
    start(&c[0]);
    ok(eventually(stats(pool).waiting == 1), "B12: a statement waits for the only connection");
    start(&c[1]);
    ok(eventually(stats(pool).waiting == 2), "B12: a lease waits behind it");
    double given = now_s();
    give(&lease);
    ok(eventually(c[1].done), "B12: both are served on one connection");
    join(&c[0]), join(&c[1]);
    ok(c[0].code == PQPOOL_OK && c[1].code == PQPOOL_OK, "B12: without an error: %s", c[0].err.message);
    ok(c[1].ended - given >= 0.05, "B12: in the order they came: the lease when the statement had ended");
    start(&c[2]);
    ok(eventually(stats(pool).waiting == 1), "B12: another statement waits");
    start(&c[3]);
    ok(eventually(stats(pool).waiting == 2), "B12: and another lease");
    given = now_s();
    give(&c[1].lease);
    join(&c[2]), join(&c[3]);
    ok(c[2].code == PQPOOL_OK && c[3].code == PQPOOL_OK && c[3].ended - given >= 0.05,
       "B12: and so on, in order");
    give(&c[3].lease);

    caller busy = {.pool = pool, .sql = "select pg_sleep(0.3), 'busy'"},
           waits = {.pool = pool, .timeout_ms = -1};
    start(&busy);
    ok(eventually(runs("busy")), "a statement runs on the only connection");
    start(&waits);
    join(&waits);
    join(&busy);
    ok(waits.code == PQPOOL_OK && waits.ended >= busy.began + 0.3,
       "B12: a lease waits until the shared connection has drained");
    is_int(busy.code, PQPOOL_OK, "B12: and the statement is not cut short");
    give(&waits.lease);
    is_int(backends(ctl, "lease-test"), 1, "B12: never more than one connection");
    is_int(stats(pool).connects, 1, "B12: and that is still the first");
    close_pool(pool);
}

static void with_two_connections(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=2 pool_slow_statement=off", NULL);
    caller busy = {.pool = pool, .sql = "select pg_sleep(0.5), 'busy'"};
    start(&busy);
    ok(eventually(runs("busy")), "a statement runs on the shared connection");
    pqpool_lease lease = take(pool);
    ok(!busy.done, "B12: a lease gets the other connection meanwhile");
    caller waits = {.pool = pool, .timeout_ms = -1};
    start(&waits);
    ok(eventually(stats(pool).waiting == 1), "B12: a second lease waits while the shared connection is busy");
    join(&busy);
    is_int(busy.code, PQPOOL_OK, "the statement ends well");
    ok(eventually(waits.done), "B12: and the shared connection gives way to it when it is idle");
    if (!waits.done)
        give(&lease);
    join(&waits);
    is_int(waits.code, PQPOOL_OK, "B12: so the waiting lease is served");
    give(&waits.lease);
    if (lease.conn)
        give(&lease);

    PQclear(pqpool_exec(pool, "select 1", NULL));
    is_int(stats(pool).shared, 1, "an idle shared connection is kept");
    lease = take(pool);
    pqpool_lease second;
    pqpool_error err;
    pqpool_code code = pqpool_acquire_within(pool, 3000, &second, &err);
    is_int(code, PQPOOL_OK, "B12: an idle shared connection gives way at once when all else is leased");
    is_int(stats(pool).leased, 2, "B12: then all are leased");
    give(&second), give(&lease);
    PGresult *res = pqpool_exec(pool, "select 'again'", &err);
    is_int(err.code, PQPOOL_OK, "B12: and statements are served again afterwards");
    PQclear(res);
    ok(backends(ctl, "lease-test") <= 2, "B12: never more connections than max_size");
    close_pool(pool);
}

static void resized(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=1", NULL);
    pqpool_lease a = take(pool);
    caller w = {.pool = pool, .timeout_ms = -1}, v = {.pool = pool, .timeout_ms = -1};
    start(&w);
    ok(eventually(stats(pool).waiting == 1), "one waits at max_size=1");
    is_int(pqpool_set(pool, "max_size", "3", NULL), PQPOOL_OK, "A15: max_size is raised");
    join(&w);
    ok(w.code == PQPOOL_OK, "A15: and who waits is served at once");
    pqpool_lease b = take(pool);
    is_int(stats(pool).leased, 3, "A15: up to the new limit");
    give(&b);
    is_int(pqpool_set(pool, "pool_max_size", "1", NULL), PQPOOL_OK, "A15: max_size is lowered");
    ok(eventually(stats(pool).total == 2), "A15: idle connections are closed at once");
    start(&v);
    ok(eventually(stats(pool).waiting == 1), "one waits above the new limit");
    give(&a);
    ok(eventually(stats(pool).total == 1),
       "A15: leased ones are closed as they come back, though somebody waits");
    ok(!v.done, "A15: who has to wait until there is room");
    give(&w.lease);
    join(&v);
    is_int(v.code, PQPOOL_OK, "A15: and is served then");
    is_int(stats(pool).total, 1, "A15: within the new limit");
    give(&v.lease);
    pqpool_error err;
    is_int(pqpool_set(pool, "min_idle", "2", &err), PQPOOL_EINVAL, "D9: a contradiction is refused");
    ok(strstr(err.message, "min_idle") && strstr(err.message, "max_size"), "D9: with both names: %s",
       err.message);
    close_pool(pool);
}

/* ---- close ---- */

static void closing(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=2 pool_slow_statement=off", NULL);
    caller busy = {.pool = pool, .sql = "select pg_sleep(0.4), 'busy'"};
    start(&busy);
    ok(eventually(runs("busy")), "a statement runs when the pool is closed");
    pqpool_lease lease = take(pool), none;
    caller w = {.pool = pool, .timeout_ms = -1};
    start(&w);
    ok(eventually(stats(pool).waiting == 1), "a caller waits");
    is_int(pqpool_free(pool), PQPOOL_EBUSY, "a pool with a lease out is not freed");
    double began = now_s();
    is_int(pqpool_close(pool, 1000 * tap_slowness()), PQPOOL_ETIMEDOUT,
           "A15: close tells that a lease is still out");
    double took = now_s() - began;
    ok(took >= 1.0 && took < 1.5 * tap_slowness() + 1, "A15: after the time given (%.0f ms)", took * 1000);
    join(&w), join(&busy);
    is_int(w.code, PQPOOL_ECLOSED, "A15: a waiting caller fails with ECLOSED");
    ok(w.ended - began < 0.1 * tap_slowness(), "A15: at once (%.0f ms)", (w.ended - began) * 1000);
    is_int(busy.code, PQPOOL_OK, "A15: a statement in flight ends well");
    is_int(pqpool_acquire(pool, &none, NULL), PQPOOL_ECLOSED, "A15: a closed pool lends nothing");
    pqpool_error err;
    PGresult *res = pqpool_exec(pool, "select 1", &err);
    ok(!res && err.code == PQPOOL_ECLOSED && err.outcome == PQPOOL_NOT_SENT, "A15: and runs nothing");
    is_int(pqpool_free(pool), PQPOOL_EBUSY, "A15: nor can it be freed while the lease is out");
    is_str(one(lease.conn, "select 1"), "1", "A15: the lease is still good");
    is_int(stats(pool).leased, 1, "A15: the figures still work");
    is_int(pqpool_release(&lease), PQPOOL_OK, "A15: a late release works");
    ok(eventually(stats(pool).total == 0), "A15: and its connection is closed");
    is_int(pqpool_close(pool, 0), PQPOOL_OK, "A15: a second close has nothing to do");
    is_int(pqpool_free(pool), PQPOOL_OK, "A15: and free works");
    ok(eventually(backends(ctl, "lease-test") == 0), "and no server process is left");

    pool = open_pool(APP "pool_slow_statement=off pool_log_level=off", NULL);
    busy = (caller){.pool = pool, .sql = "select pg_sleep(30), 'busy'"};
    start(&busy);
    ok(eventually(runs("busy")), "a long statement runs");
    began = now_s();
    is_int(pqpool_close(pool, 100), PQPOOL_ETIMEDOUT, "A15: close cuts what takes longer than it may");
    took = now_s() - began;
    join(&busy);
    ok(took < 2.2 * tap_slowness(), "A15: and returns in time (%.0f ms)", took * 1000);
    ok(busy.code == PQPOOL_ELOST && busy.err.outcome == PQPOOL_UNKNOWN,
       "A15: the statement is ELOST, UNKNOWN: %s", busy.err.message);
    ok(busy.ended - began < 1.0 * tap_slowness(), "A15: soon after (%.0f ms)", (busy.ended - began) * 1000);
    is_int(pqpool_free(pool), PQPOOL_OK, "A15: then free works");
    one(ctl, "select count(pg_terminate_backend(pid)) from pg_stat_activity where query like "
             "'%%pg_sleep(30)%%' and "
             "pid <> pg_backend_pid()");

    static gate g;
    pqpool_hooks hooks = {PQPOOL_HOOKS, .arg = &g, .on_connect = pass_gate};
    pool = open_pool(APP, &hooks);
    caller v = {.pool = pool, .timeout_ms = -1};
    start(&v);
    ok(eventually(g.at_it == 1), "a connect is under way when the pool is closed");
    pqpool_close(pool, 0);
    join(&v);
    is_int(v.code, PQPOOL_ECLOSED, "A15: its caller fails at once");
    g.open = 1;
    ok(eventually(stats(pool).total == 0), "A15: and the connection is closed when it comes");
    is_int(pqpool_free(pool), PQPOOL_OK, "then free works");
    ok(eventually(backends(ctl, "lease-test") == 0), "and no server process is left");

    is_int(pqpool_close(NULL, 0), PQPOOL_EINVAL, "close of NULL is EINVAL");
    is_int(pqpool_free(NULL), PQPOOL_OK, "free of NULL is nothing");
    is_int(pqpool_acquire(NULL, &none, NULL), PQPOOL_EINVAL, "acquire from NULL is EINVAL");
    pool = open_pool(APP, NULL);
    is_int(pqpool_acquire(pool, NULL, NULL), PQPOOL_EINVAL, "acquire into NULL is EINVAL");
    is_int(pqpool_free(pool), PQPOOL_OK, "a pool may be freed without a close");
}

/* ---- fork ---- */

static int in_the_child(pqpool *pool, pqpool_lease *lease)
{
    int bad = 0;
    pqpool_lease mine;
    pqpool_error err;
    char value[40];
    pqpool_stats_data s = {PQPOOL_STATS};
    bad |= (pqpool_acquire(pool, &mine, &err) != PQPOOL_EFORKED) << 0;
    bad |= (pqpool_release(lease) != PQPOOL_EFORKED) << 1;
    bad |= (pqpool_discard(lease) != PQPOOL_EFORKED) << 2;
    bad |= (pqpool_exec(pool, "select 1", &err) != NULL || err.code != PQPOOL_EFORKED) << 3;
    bad |= (pqpool_set(pool, "max_size", "3", &err) != PQPOOL_EFORKED) << 4;
    bad |= (pqpool_get(pool, "max_size", value, sizeof value) != PQPOOL_EFORKED) << 5;
    bad |= (pqpool_stats(pool, &s) != PQPOOL_EFORKED) << 6;
    bad |= (pqpool_close(pool, 0) != PQPOOL_EFORKED || pqpool_free(pool) != PQPOOL_EFORKED) << 7;
    return bad;
}

static void forked(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=2", NULL);
    PQclear(pqpool_exec(pool, "select 1", NULL));
    pqpool_lease lease = take(pool);
    int64_t connects = stats(pool).connects; /* how many it took is not what is asked here */
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        _exit(in_the_child(pool, &lease));
    int status = -1;
    waitpid(child, &status, 0);
    is_int(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 0, "in a forked child every call is EFORKED");
    is_str(one(lease.conn, "select 'here'"), "here", "the parent's lease goes on");
    give(&lease);
    PGresult *res = pqpool_exec(pool, "select 1", NULL);
    is_int(PQresultStatus(res), PGRES_TUPLES_OK, "and so does its pool");
    PQclear(res);
    is_int(stats(pool).connects, connects, "on the same connections");
    close_pool(pool);
}

/* The first of those who wait is handed a connection that is no good: he is served before those behind
 * him. */
static void place_kept(void)
{
    static hooked h;
    pqpool_hooks hooks = {PQPOOL_HOOKS, .arg = &h, .on_acquire = hook_acquire};
    pqpool *pool = open_pool(APP "pool_max_size=1", &hooks);
    pqpool_lease lease = take(pool);
    _Atomic int turn = 0;
    caller callers[4];
    for (int i = 0; i < 4; i++) {
        callers[i] = (caller){.pool = pool, .timeout_ms = 20000, .turn = &turn};
        start(&callers[i]);
        if (!eventually(stats(pool).waiting == i + 1))
            bail("caller %d does not wait", i);
    }
    h.refuse_acquire = 1;
    give(&lease);
    int wrong = 0;
    for (int i = 0; i < 4; i++) {
        join(&callers[i]);
        wrong += callers[i].code != PQPOOL_OK || callers[i].place != i + 1;
        give(&callers[i].lease);
    }
    is_int(wrong, 0, "A3: who was handed a broken connection keeps his place in the line");
    is_int(stats(pool).connects, 2, "A3: and its replacement goes to him");
    close_pool(pool);
}

int main(void)
{
    tap_begin(50);
    ctl = control();
    lazily();
    warm();
    in_order();
    events_of_five();
    without_waiting();
    limited_queue();
    deadlines();
    handed_too_late();
    ageing();
    lost_while_idle();
    cleaning();
    wrong_returns();
    returned_at_once();
    hooks_refuse();
    place_kept();
    with_one_connection();
    with_two_connections();
    resized();
    closing();
    forked();
    ok(eventually(backends(ctl, "lease-test") == 0), "no server process is left");
    PQfinish(ctl);
    return done_testing();
}
