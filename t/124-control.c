/* Control and inspection: suspend, evict, reload, close, ping; figures, health, and everything at one glance. */
#include "support/nemesis.h"

#define APP "control-test"

static PGconn *ctl;

static pqpool *pool_of(const char *options)
{
    char conninfo[300];
    snprintf(conninfo, sizeof conninfo, "application_name=" APP " %s", options);
    return open_pool(conninfo, NULL);
}

/* One that acquires, or runs a statement, in a thread of its own. */
typedef struct caller {
    pqpool *pool;
    const char *sql; /* NULL: takes a lease, and gives it back */
    pqpool_error err;
    int pid; /* of his backend */
    _Atomic int done;
    pthread_t thread;
} caller;

static void *call_main(void *arg)
{
    caller *c = arg;
    if (c->sql) {
        PGresult *res = pqpool_exec(c->pool, c->sql, &c->err);
        c->pid = atoi(value(res));
        PQclear(res);
    } else {
        pqpool_lease lease;
        if (pqpool_acquire(c->pool, &lease, &c->err) == PQPOOL_OK) {
            c->pid = PQbackendPID(lease.conn);
            pqpool_release(&lease);
        }
    }
    c->done = 1;
    return NULL;
}

static void start(caller *c, pqpool *pool, const char *sql)
{
    *c = (caller){.pool = pool, .sql = sql};
    if (pthread_create(&c->thread, NULL, call_main, c) != 0)
        bail("pthread_create");
}

static pqpool_code end(caller *c)
{
    pthread_join(c->thread, NULL);
    return (pqpool_code)c->err.code;
}

static int shared_pid(pqpool *pool)
{
    pqpool_error err;
    PGresult *res = pqpool_exec(pool, "select pg_backend_pid()", &err);
    int pid = atoi(value(res));
    if (err.code != PQPOOL_OK)
        bail("%s", err.message);
    PQclear(res);
    return pid;
}

/* ---- suspend ---- */

static void suspending(void)
{
    pqpool *pool = pool_of("pool_max_size=4");
    pqpool_lease out = take(pool);
    (void)shared_pid(pool);
    caller running;
    start(&running, pool, "select pg_backend_pid() from pg_sleep(0.3)");
    ok(eventually(stats(pool).statements == 1), "a statement runs");
    is_int(pqpool_suspend(pool), PQPOOL_OK, "A15: the pool is suspended");
    ok(stats(pool).suspended == 1 && stats(pool).suspensions == 1, "A15: which its figures tell");
    is_int(pqpool_suspend(pool), PQPOOL_OK, "A15: twice is once");
    is_int(stats(pool).suspensions, 1, "A15: and counted once");

    caller lease, statement;
    start(&lease, pool, NULL);
    ok(eventually(stats(pool).waiting == 1), "A15: a caller for a lease waits");
    start(&statement, pool, "select pg_backend_pid()");
    ok(eventually(stats(pool).waiting == 2), "A15: so does a statement, though its connection is there");
    is_int(end(&running), PQPOOL_OK, "A15: one that ran goes on");
    is_str(one(out.conn, "select 'still mine'"), "still mine", "A15: so does a lease");
    pqpool_release(&out);
    ok(eventually(stats(pool).idle >= 1) && !lease.done && !statement.done,
       "A15: what comes back is lent to nobody");

    pqpool_error err;
    pqpool_lease none;
    is_int(pqpool_acquire_within(pool, 50, &none, &err), PQPOOL_ETIMEDOUT, "A15: deadlines hold");
    has(err.message, "suspended", "A15: and the message says why: %s", err.message);
    pqpool_set(pool, "queue_limit", "2", NULL);
    is_int(pqpool_acquire(pool, &none, &err), PQPOOL_EQUEUEFULL, "A15: so does queue_limit");
    pqpool_set(pool, "queue_limit", "0", NULL);
    pqpool_set(pool, "wait", "off", NULL);
    is_int(pqpool_acquire(pool, &none, &err), PQPOOL_ENOWAIT, "A15: and wait=off");
    has(err.message, "suspended", "A15: with the reason");
    pqpool_set(pool, "wait", "on", NULL);

    is_int(pqpool_resume(pool), PQPOOL_OK, "A15: resumed");
    ok(end(&lease) == PQPOOL_OK && end(&statement) == PQPOOL_OK, "A15: all are served");
    is_int(stats(pool).suspended, 0, "A15: and the figures tell that too");
    int before = (int)stats(pool).connects;
    pqpool_suspend(pool);
    pqpool_evict(pool);
    start(&lease, pool, NULL);
    ok(eventually(stats(pool).waiting == 1 && stats(pool).total == 0), "A15: emptied meanwhile");
    sleep_ms(50);
    is_int((int)stats(pool).connects, before, "A15: nothing is opened");
    pqpool_resume(pool);
    is_int(end(&lease), PQPOOL_OK, "A15: until it is resumed");
    pqpool_suspend(pool);
    start(&lease, pool, NULL);
    ok(eventually(stats(pool).waiting == 1), "a caller waits");
    pqpool_close(pool, 0);
    is_int(end(&lease), PQPOOL_ECLOSED, "A15: a suspended pool can be closed");
    is_int(pqpool_resume(pool), PQPOOL_ECLOSED, "A15: and then not resumed");
    pqpool_free(pool);
}

static _Atomic int connecting, let_connect;

static int hold_connect(PGconn *conn, void *arg)
{
    (void)conn, (void)arg;
    connecting++;
    return eventually(let_connect) ? 0 : 1;
}

static void *run_slow(void *arg)
{
    caller *c = arg;
    PGresult *res = pqpool_exec_stmt(
        c->pool, &(pqpool_stmt){PQPOOL_STMT, .sql = "select pg_backend_pid()", .flags = PQPOOL_SLOW},
        &c->err);
    c->pid = atoi(value(res));
    PQclear(res);
    c->done = 1;
    return NULL;
}

/* The connection of a slow statement is being made while the pool is suspended: it must not run. */
static void suspending_meanwhile(void)
{
    pqpool *pool = open_pool("application_name=" APP " pool_max_size=2 pool_reset=clean",
                             &(pqpool_hooks){PQPOOL_HOOKS, .on_connect = hold_connect});
    let_connect = 1;
    pqpool_lease lease = take(pool);
    let_connect = 0;
    connecting = 0;
    caller slow = {.pool = pool};
    pthread_create(&slow.thread, NULL, run_slow, &slow);
    ok(eventually(connecting == 1), "a connection is being made for a slow statement");
    pqpool_suspend(pool);
    let_connect = 1;
    ok(eventually(stats(pool).connecting == 0 && stats(pool).resetting == 0), "it is there");
    sleep_ms(100);
    ok(!slow.done && stats(pool).statements == 0,
       "A15: but the pool is suspended: the statement is not sent");
    is_int(stats(pool).waiting, 1, "A15: it waits");
    pqpool_resume(pool);
    is_int(end(&slow), PQPOOL_OK, "A15: until the pool is resumed");
    pqpool_release(&lease);
    close_pool(pool);
}

/* ---- evict ---- */

static void evicting(void)
{
    pqpool *pool = pool_of("pool_max_size=5 pool_min_idle=1");
    int shared = shared_pid(pool);
    pqpool_lease out = take(pool);
    int leased = PQbackendPID(out.conn);
    caller running;
    start(&running, pool, "select pg_backend_pid() from pg_sleep(0.2)");
    ok(eventually(stats(pool).statements == 1 && stats(pool).idle == 1),
       "one is leased, one shared, one idle");
    is_int(pqpool_evict(pool), PQPOOL_OK, "A15: all are evicted");
    is_int(end(&running), PQPOOL_OK, "A15: a statement under way ends well");
    is_int(running.pid, shared, "A15: where it was");
    is_str(one(out.conn, "select 'here'"), "here", "A15: a lease goes on");
    ok(shared_pid(pool) != shared, "A15: the next statement has a new connection");
    pqpool_release(&out);
    out = take(pool);
    ok(PQbackendPID(out.conn) != leased, "A15: and so has the next lease");
    pqpool_release(&out);
    ok(eventually(stats(pool).closed_by[PQPOOL_CLOSE_EVICTED] == 3),
       "A15: three closed, and counted under their reason");
    ok(eventually(gone(ctl, leased) && gone(ctl, shared)), "A15: their server processes are gone");
    is_int(stats(pool).evictions, 1, "A15: the eviction is counted");
    close_pool(pool);

    /* A connect under way may be to the server that is being left. */
    connecting = let_connect = 0;
    pool = open_pool("application_name=" APP " pool_max_size=1",
                     &(pqpool_hooks){PQPOOL_HOOKS, .on_connect = hold_connect});
    caller waits;
    start(&waits, pool, NULL);
    ok(eventually(connecting == 1), "a connection is being made");
    pqpool_evict(pool);
    let_connect = 1;
    is_int(end(&waits), PQPOOL_OK, "A15: who waits for one that was begun before is served");
    is_int(connecting, 2, "A15: by another one");
    is_int(stats(pool).closed_by[PQPOOL_CLOSE_EVICTED], 1, "A15: the first was closed as soon as it was up");
    close_pool(pool);
}

/* ---- options ---- */

static const char *option(pqpool *pool, const char *name)
{
    static char text[8][64];
    static int i;
    char *buf = text[i++ % 8];
    if (pqpool_get(pool, name, buf, sizeof text[0]) != PQPOOL_OK)
        bail("get %s", name);
    return buf;
}

static void reloading(void)
{
    pqpool *pool = pool_of("pool_max_size=2 pool_name=mine");
    pqpool_error err;
    is_int(pqpool_reload(pool, "max_size=6 pool_min_idle=3 acquireTimeout='5 s'", &err), PQPOOL_OK,
           "A15: several options are set at once");
    is_str(option(pool, "max_size"), "6", "A15: the first");
    is_str(option(pool, "acquire_timeout"), "5s", "A15: and the last");
    ok(eventually(stats(pool).idle == 3), "A15: and in force");
    is_int(pqpool_reload(pool, "max_size=7 min_idle=8", &err), PQPOOL_EINVAL,
           "A15: a contradiction is refused");
    ok(strstr(err.message, "min_idle=8") && strstr(err.message, "max_size=7"), "A15: with both: %s",
       err.message);
    is_int(pqpool_reload(pool, "max_size=7 nonsense=1", &err), PQPOOL_EINVAL, "A15: an unknown one too");
    is_int(pqpool_reload(pool, "max_size=7 name=other", &err), PQPOOL_EINVAL, "A15: and one that is fixed");
    has(err.message, "name is fixed", "A15: by its name: %s", err.message);
    is_int(pqpool_reload(pool, "max_size=7 and more", &err), PQPOOL_EINVAL,
           "A15: and what is no option at all");
    is_int(pqpool_reload(pool, NULL, &err), PQPOOL_EINVAL, "and NULL");
    is_str(option(pool, "max_size"), "6", "A15: and nothing of them was set");
    is_int(pqpool_reload(pool, "max_size=1 min_idle=0 name=mine", &err), PQPOOL_OK,
           "A15: a fixed one may stay as it is");
    ok(eventually(stats(pool).total == 1), "A15: a smaller pool closes what is idle");
    is_int(stats(pool).closed_by[PQPOOL_CLOSE_MAX_SIZE], 2, "A15: for that reason");
    is_int(pqpool_reload(pool, "", &err), PQPOOL_OK, "nothing is nothing");
    close_pool(pool);
}

/* ---- ping ---- */

static void pinging(void)
{
    pqpool *pool = pool_of("pool_max_size=1");
    pqpool_error err;
    is_int(pqpool_ping(pool, 2000, &err), PQPOOL_OK, "A7: the server answers");
    is_int(pqpool_ping(pool, 0, &err), PQPOOL_OK, "A7: without a wait for a connection, too");
    is_int(stats(pool).closes, 0, "A7: and nothing is closed for that");
    ok(stats(pool).idle == 1 && stats(pool).leased == 0, "A7: and what was asked over is idle");
    pqpool_lease lease = take(pool);
    is_int(pqpool_ping(pool, 50, &err), PQPOOL_ETIMEDOUT, "A7: where no connection is free it says so");
    int pid = PQbackendPID(lease.conn);
    pqpool_release(&lease);
    if (kill(pid, SIGSTOP) == 0) {
        double began = now_s();
        is_int(pqpool_ping(pool, 200, &err), PQPOOL_ELOST, "A7: a frozen server is told: %s", err.message);
        ok(now_s() - began < 0.3 * tap_slowness(), "A7: in time");
        is_int(stats(pool).closed_by[PQPOOL_CLOSE_PROBE_FAILED], 1, "A7: and its connection closed for that");
        is_int(pqpool_ping(pool, 3000, &err), PQPOOL_OK, "A7: and replaced");
        kill(pid, SIGCONT);
    }
    close_pool(pool);
    is_int(pqpool_ping(NULL, 0, &err), PQPOOL_EINVAL, "no pool does not answer");
}

/* ---- closing ---- */

/* Close and free end in time, whatever the server does. */
static void closing_frozen(void)
{
    pqpool *pool = pool_of("pool_max_size=4 pool_min_idle=1");
    int shared = shared_pid(pool);
    pqpool_lease lease = take(pool);
    int leased = PQbackendPID(lease.conn);
    caller running;
    start(&running, pool, "select 1 from pg_sleep(0.5)");
    ok(eventually(stats(pool).statements == 1 && stats(pool).idle == 1),
       "leased, shared and idle ones are there");
    if (kill(leased, SIGSTOP) != 0 || kill(shared, SIGSTOP) != 0) {
        diag("may not stop the server's processes: %s", strerror(errno));
    } else {
        double began = now_s();
        is_int(pqpool_close(pool, 200), PQPOOL_ETIMEDOUT,
               "A15: a pool with frozen server processes is closed");
        ok(now_s() - began < 3.0 * tap_slowness(), "A15: in time (%.0f ms)", (now_s() - began) * 1000);
        is_int(end(&running), PQPOOL_ELOST, "A15: its statement fails");
        is_int(pqpool_free(pool), PQPOOL_EBUSY, "A15: the lease keeps it");
        began = now_s();
        is_int(pqpool_release(&lease), PQPOOL_OK, "A15: a late release is taken");
        is_int(pqpool_free(pool), PQPOOL_OK, "A15: and then it is freed");
        ok(now_s() - began < 3.0 * tap_slowness(), "A15: in time too (%.0f ms)", (now_s() - began) * 1000);
        kill(leased, SIGCONT);
        kill(shared, SIGCONT);
        return;
    }
    end(&running);
    pqpool_release(&lease);
    close_pool(pool);
}

/* ---- figures ---- */

static void histograms(void)
{
    pqpool_histogram a = {0}, b = {0};
    bool rising = true;
    for (int i = 1; i < PQPOOL_HISTOGRAM_CLASSES; i++)
        rising &= pqpool_histogram_bound(i) > pqpool_histogram_bound(i - 1);
    ok(rising && pqpool_histogram_bound(PQPOOL_HISTOGRAM_CLASSES - 1) == INT64_MAX,
       "D1: the classes are in order");
    is_int(pqpool_histogram_quantile(&a, 0.5), 0, "D1: nothing has no median");

    pqpool *pool = pool_of("pool_max_size=1");
    pqpool_lease lease = take(pool);
    caller waits;
    start(&waits, pool, NULL);
    if (!eventually(stats(pool).waiting == 1))
        bail("nobody waits");
    sleep_ms(120);
    ok(stats(pool).longest_wait_us >= 100000, "A16: how long somebody has been waiting");
    pqpool_release(&lease);
    end(&waits);
    pqpool_stats_data s = stats(pool);
    is_int(s.wait.count, 2, "D1: each lease's waiting is counted");
    ok(s.wait.max_us >= 100000 && pqpool_histogram_quantile(&s.wait, 1) == s.wait.max_us,
       "D1: the longest (%lld us)", (long long)s.wait.max_us);
    is_int(s.use.count, 2, "D1: and its use");
    ok(pqpool_histogram_quantile(&s.use, 0.99) >= 120000, "D1: p99 of it");
    is_int(s.create.count, 1, "D1: and each connect");
    ok(s.create.sum_us == s.create.max_us && s.create.sum_us > 0, "D1: its time");
    b = s.wait;
    pqpool_histogram_merge(&a, &b);
    pqpool_histogram_merge(&a, &b);
    ok(a.count == 4 && a.sum_us == 2 * b.sum_us && a.max_us == b.max_us, "D1: two of them can be added");
    struct {
        size_t size;
        int32_t limit;
    } old = {.size = sizeof old};
    is_int(pqpool_stats(pool, (pqpool_stats_data *)(void *)&old), PQPOOL_OK,
           "D1: a caller of an older version");
    ok(old.size == sizeof old && old.limit == 1, "D1: gets what he knows");
    close_pool(pool);
}

/* ---- inspect ---- */

static const char *option_in(const pqpool_inspection *all, const char *name)
{
    for (int i = 0; i < all->n_options; i++)
        if (strcmp(all->options[i]->name, name) == 0)
            return all->options[i]->value;
    return "(none)";
}

static const pqpool_connection_info *in_state(const pqpool_inspection *all, const char *state)
{
    for (int i = 0; i < all->n_connections; i++)
        if (strcmp(all->connections[i]->state, state) == 0)
            return all->connections[i];
    bail("no connection is %s", state);
}

static _Atomic int event_connection;

static void note_connection(const pqpool_event *e, void *arg)
{
    (void)arg;
    if (e->id == PQPOOL_EVENT_ACQUIRE)
        event_connection = e->connection;
}

static void inspecting(void)
{
    pqpool *pool = open_pool("application_name=" APP " pool_max_size=3 pool_shared_max=1 pool_name=seen",
                             &(pqpool_hooks){PQPOOL_HOOKS, .on_event = note_connection});
    int shared = shared_pid(pool), line = __LINE__ + 1;
    pqpool_lease lease = take(pool);
    caller running, waits[2];
    start(&running, pool, "select pg_backend_pid() from pg_sleep(0.6) /* seen */");
    pqpool_lease other = take(pool);
    ok(eventually(stats(pool).statements == 1), "one is shared, two are leased");
    pqpool_release(&other);
    other = take(pool);
    for (int i = 0; i < 2; i++) {
        start(&waits[i], pool, NULL);
        if (!eventually(stats(pool).waiting == i + 1))
            bail("nobody waits");
    }
    pqpool_error err;
    pqpool_inspection *all = pqpool_inspect(pool, &err);
    if (!all)
        bail("pqpool_inspect: %s", err.message);
    is_str(all->pool_name, "seen", "A16: the pool");
    ok(all->n_connections == 3 && !all->connections[3], "A16: all its connections");
    const pqpool_connection_info *c = in_state(all, "leased"), *s = in_state(all, "shared");
    is_int(c->backend_pid, PQbackendPID(lease.conn), "A16: the leased one, by its server process");
    ok(c->holder && c->holder->line == line && c->holder->connection == c->connection, "A16: who has it");
    ok(c->uses == 1 && c->age_us > 0 && c->state_us > 0, "A16: its uses and its age");
    is_int(s->backend_pid, shared, "A16: the shared one");
    is_int(s->in_flight, 1, "A16: what is on it");
    ok(strstr(s->sql, "/* seen */") && s->head_us > 0, "A16: what runs on it, and for how long (%lld us)",
       (long long)s->head_us);
    ok(all->n_waiters == 2 && !all->waiters[2], "A16: who waits");
    ok(all->waiters[0]->waited_us >= all->waiters[1]->waited_us, "A16: in the order in which they came");
    is_str(all->waiters[0]->wants, "lease", "A16: for what");
    has(all->waiters[0]->file, "124-control.c", "A16: where");
    ok(all->waiters[0]->left_us > 0 && all->waiters[0]->left_us <= 30000000, "A16: and how long he will");
    is_str(option_in(all, "max_size"), "3", "A16: the options in force");
    is_str(option_in(all, "acquire_timeout"), "30s", "A16: the defaults too");
    ok(all->stats.leased == 2 && all->stats.waiting == 2, "A16: and the figures of the same instant");
    int newest = 0;
    for (int i = 0; i < all->n_connections; i++)
        if (all->connections[i]->holder && all->connections[i]->backend_pid == PQbackendPID(other.conn))
            newest = all->connections[i]->connection;
    is_int(newest, event_connection, "A16: events have the same numbers");
    pqpool_inspection_free(all);
    pqpool_inspection_free(NULL);
    pqpool_holders_free(NULL);
    is_int(end(&running), PQPOOL_OK, "its statement ends");
    pqpool_release(&lease);
    pqpool_release(&other);
    end(&waits[0]);
    end(&waits[1]);
    close_pool(pool);
    pool = pool_of("pool_name=gone");
    all = pqpool_inspect(pool, &err);
    close_pool(pool);
    is_str(all->pool_name, "gone", "A16: what was copied outlives the pool");
    pqpool_inspection_free(all);
    ok(!pqpool_inspect(NULL, &err) && err.code == PQPOOL_EINVAL, "nothing can't be inspected");
    ok(!pqpool_holders(pool = pool_of(""), -1, &err) && err.code == PQPOOL_EINVAL, "a bad time is refused");
    close_pool(pool);
}

/* ---- health ---- */

typedef struct warned {
    _Atomic int n;
    char text[600];
} warned;

static void note_health(const pqpool_event *e, void *arg)
{
    warned *w = arg;
    if (e->id != PQPOOL_EVENT_HEALTH || w->n > 0)
        return;
    snprintf(w->text, sizeof w->text, "%s", e->text);
    w->n++;
}

static pqpool_health_data health(pqpool *pool)
{
    pqpool_health_data h = {PQPOOL_HEALTH};
    if (pqpool_health(pool, &h) != PQPOOL_OK)
        bail("pqpool_health");
    return h;
}

static void health_checks(void)
{
    pqpool *pool = pool_of("pool_max_size=5 pool_health_waiting=1");
    pqpool_lease leases[5];
    for (int i = 0; i < 4; i++)
        leases[i] = take(pool);
    pqpool_health_data h = health(pool);
    ok(h.utilisation == 80 && h.findings == 0, "D4: 80 %% in use is well: %s", h.text);
    leases[4] = take(pool);
    h = health(pool);
    ok(h.utilisation == 100 && h.findings == PQPOOL_HEALTH_USED, "D4: more is not");
    has(h.text, "5 of 5 connections in use", "D4: in words: %s", h.text);
    caller waits[2];
    for (int i = 0; i < 2; i++)
        start(&waits[i], pool, NULL);
    ok(eventually(health(pool).findings == (PQPOOL_HEALTH_USED | PQPOOL_HEALTH_WAITING)),
       "D4: so many who wait neither");
    has(health(pool).text, "2 callers wait", "D4: in words");
    for (int i = 0; i < 5; i++)
        pqpool_release(&leases[i]);
    for (int i = 0; i < 2; i++)
        end(&waits[i]);
    is_int(health(pool).peak_leased, 5, "D4: the peak is kept");
    close_pool(pool);

    warned w = {0};
    pool =
        open_pool("application_name=" APP " pool_max_size=4 pool_initial_size=3 pool_health_interval=300ms",
                  &(pqpool_hooks){PQPOOL_HOOKS, .arg = &w, .on_event = note_health});
    ok(eventually(w.n == 1), "D4: by itself it finds what is idle all the time");
    has(w.text, "3 connections were idle", "D4: and says so: %s", w.text);
    pqpool_set(pool, "health_interval", "off", NULL);
    close_pool(pool);
    pqpool_health_data none = {0};
    is_int(pqpool_health(NULL, &none), PQPOOL_EINVAL, "no pool has no health");
}

int main(void)
{
    tap_begin(60);
    ctl = control();
    suspending();
    suspending_meanwhile();
    evicting();
    reloading();
    pinging();
    closing_frozen();
    histograms();
    inspecting();
    health_checks();
    ok(eventually(backends(ctl, APP) == 0), "no server process is left");
    PQfinish(ctl);
    return done_testing();
}
