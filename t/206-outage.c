/* No server, a full one, an old connection: what callers are told when, how often the server is asked, what is kept. */
#include "support/server.h"

static PGconn *ctl;
static int port;

typedef enum { LEASE, STATEMENT, TICKET, CALLBACK, WAYS } way;
static const char *const ways[] = {"a lease", "a statement", "a ticket", "a lease by callback"};

static void got_lease(pqpool_lease *lease, const pqpool_error *err, void *arg)
{
    *(pqpool_error *)arg = *err;
    if (lease) {
        pqpool_lease mine = *lease;
        pqpool_release(&mine);
    }
}

/* In seconds. */
static double attempt(pqpool *pool, way by, pqpool_error *err)
{
    double began = now_s();
    if (by == STATEMENT) {
        PQclear(pqpool_exec(pool, "select 1", err));
    } else if (by == TICKET) {
        pqpool_stmt stmt = {PQPOOL_STMT, .sql = "select 1"};
        pqpool_ticket *ticket = pqpool_submit(pool, &stmt, err);
        if (ticket)
            PQclear(pqpool_wait(ticket, -1, err));
    } else if (by == CALLBACK) {
        pqpool_error refused;
        err->code = -1;
        (void)!code_acquire_cb(pool, NULL, got_lease, err, &refused);
        if (refused.code != PQPOOL_OK)
            *err = refused;
        for (struct pollfd p = {.fd = pqpool_fd(pool), .events = POLLIN}; err->code == -1;) {
            poll(&p, 1, 1000);
            pqpool_dispatch(pool);
        }
    } else {
        pqpool_lease lease;
        if (pqpool_acquire(pool, &lease, err) == PQPOOL_OK)
            pqpool_release(&lease);
    }
    return now_s() - began;
}

static pqpool *outage_pool(const char *conninfo, const pqpool_hooks *hooks)
{
    char all[2000];
    snprintf(all, sizeof all, "application_name=outage-test pool_acquire_timeout=20s %s", conninfo);
    return open_pool(all, hooks);
}

/* A directory through which the server can be reached, or not. */
typedef struct door {
    char dir[40], conninfo[100], real[300], name[100];
} door;

static void door_make(door *d)
{
    snprintf(d->dir, sizeof d->dir, "/tmp/pqpool-outage.XXXXXX");
    if (!mkdtemp(d->dir))
        bail("mkdtemp");
    snprintf(d->conninfo, sizeof d->conninfo, "host=%s", d->dir);
    snprintf(d->real, sizeof d->real, "%s/.s.PGSQL.%d", getenv("PGHOST"), port);
    snprintf(d->name, sizeof d->name, "%s/.s.PGSQL.%d", d->dir, port);
}

static void door_open(const door *d)
{
    if (symlink(d->real, d->name) != 0)
        bail("symlink");
}

static void door_shut(const door *d)
{
    unlink(d->name);
}

/* ---- outage_wait ---- */

static void told_when(void)
{
    door d;
    door_make(&d);
    for (way by = LEASE; by < WAYS; by++) {
        pqpool_error err;
        char conninfo[200];
        snprintf(conninfo, sizeof conninfo, "%s pool_outage_wait=0", d.conninfo);
        pqpool *pool = outage_pool(conninfo, NULL);
        for (int i = 0; i < 3; i++) {
            double took = attempt(pool, by, &err);
            is_int(err.code, PQPOOL_ECONNECT, "outage_wait=0: %s, call %d fails", ways[by], i);
            has(err.message, "No such file", "in the system's words");
            ok(took < 5, "at once (%.1f ms of 20 s)", took * 1000);
            is_int(err.outcome, PQPOOL_NOT_SENT, "not sent");
            ok(pqpool_is_retryable(&err), "and may be tried again");
        }
        door_open(&d);
        double began = now_s();
        do {
            attempt(pool, by, &err);
            sleep_ms(5);
        } while (err.code != PQPOOL_OK && now_s() - began < 10);
        is_int(err.code, PQPOOL_OK,
               "outage_wait=0: calls that are told at once have the pool recover (%.0f ms)",
               (now_s() - began) * 1000);
        door_shut(&d);
        close_pool(pool);

        snprintf(conninfo, sizeof conninfo, "%s pool_outage_wait=300ms", d.conninfo);
        pool = outage_pool(conninfo, NULL);
        double took = attempt(pool, by, &err);
        is_int(err.code, PQPOOL_ECONNECT, "outage_wait=300ms: %s fails", ways[by]);
        ok(took >= 0.3 && took < 5, "then (%.1f ms)", took * 1000);
        has(err.message, "300 ms (outage_wait)", "as the message says");
        close_pool(pool);

        pool = outage_pool(d.conninfo, NULL);
        pqpool_set(pool, "acquire_timeout", "400ms", NULL);
        took = attempt(pool, by, &err);
        ok(took >= 0.4 && err.code == PQPOOL_ECONNECT, "by default %s waits for acquire_timeout (%.1f ms)",
           ways[by], took * 1000);
        close_pool(pool);
    }
    rmdir(d.dir);
}

/* A pool that is busy makes its callers wait, whatever outage_wait says. */
static void busy_is_no_outage(void)
{
    pqpool *pool = outage_pool("pool_outage_wait=0 pool_max_size=1 pool_acquire_timeout=300ms", NULL);
    pqpool_lease lease = take(pool);
    pqpool_error err;
    double took = attempt(pool, LEASE, &err);
    ok(err.code == PQPOOL_ETIMEDOUT && took >= 0.3,
       "a busy pool is no outage: the caller waits (%.0f ms): %s", took * 1000, err.message);
    pqpool_release(&lease);
    close_pool(pool);
}

/* ---- events ---- */

typedef struct notes {
    _Atomic int failed, restored, attempts;
    char text[600];
    double seconds;
    int counted;
} notes;

static void note(const pqpool_event *event, void *arg)
{
    notes *n = arg;
    if (event->id == PQPOOL_EVENT_CONNECT_FAILED) {
        n->failed++;
        n->attempts += event->count;
    }
    if (event->id != PQPOOL_EVENT_RESTORED)
        return;
    snprintf(n->text, sizeof n->text, "%s", event->text);
    n->seconds = (double)event->wait_us / 1e6;
    n->counted = event->count;
    n->restored++;
}

static void *knock(void *arg)
{
    static pqpool_error err;
    attempt(arg, LEASE, &err);
    return NULL;
}

static void told_of(void)
{
    door d;
    door_make(&d);
    notes n = {0};
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_event = note, .arg = &n};
    pqpool *pool = outage_pool(d.conninfo, &hooks);
    pthread_t thread;
    double began = now_s();
    pthread_create(&thread, NULL, knock, pool);
    while (now_s() - began < 2.5 || stats(pool).connect_failures < 10)
        sleep_ms(10);
    double lasted = now_s() - began;
    door_open(&d);
    pthread_join(thread, NULL);
    int64_t failures = stats(pool).connect_failures;
    ok(n.failed >= 2 && n.failed <= 2 + lasted, "%d failures that say the same are %d events", (int)failures,
       n.failed);
    ok(eventually(n.restored == 1), "the end of an outage is an event");
    is_int(n.counted, failures, "which counts the attempts");
    ok(n.seconds >= lasted - 0.5 && n.seconds < lasted + 5, "and tells its length (%.1f s of %.1f)",
       n.seconds, lasted);
    has(n.text, "No such file", "and its cause: %s", n.text);
    close_pool(pool);
    door_shut(&d);
    rmdir(d.dir);
}

/* ---- a full server, and connections past their lifetime ---- */

static void *ask_often(void *arg)
{
    pqpool *pool = arg;
    pqpool_error err;
    for (double end = now_s() + 3; now_s() < end;)
        if (attempt(pool, LEASE, &err) < 0 || err.code != PQPOOL_OK)
            return arg;
    return NULL;
}

static void full(void)
{
    one(ctl, "create role few login connection limit 1");
    pqpool *pool = outage_pool("user=few pool_max_size=4", NULL);
    pqpool_lease lease = take(pool);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, ask_often, pool);
    pqpool_release(&lease);
    void *failed[4];
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], &failed[i]);
    ok(!failed[0] && !failed[1] && !failed[2] && !failed[3], "a full server serves callers in turn");
    int64_t tries = stats(pool).connect_failures;
    ok(tries <= 10, "and is asked ever more rarely, down to once a second (%d times in 3 s)", (int)tries);
    one(ctl, "alter role few connection limit 4");
    lease = take(pool);
    pqpool_lease more;
    pqpool_error err;
    is_int(pqpool_acquire_within(pool, 10000, &more, &err), PQPOOL_OK, "when it has room, the pool grows: %s",
           err.message);
    pqpool_release(&more);
    pqpool_release(&lease);
    close_pool(pool);
}

static void outlives(const char *what, int max_size, way by)
{
    char conninfo[200];
    pqpool_error err;
    snprintf(conninfo, sizeof conninfo,
             "user=old pool_max_size=%d pool_max_lifetime=400ms pool_keeper_interval=50ms", max_size);
    one(ctl, "alter role old connection limit -1");
    pqpool *pool = outage_pool(conninfo, NULL);
    attempt(pool, by, &err);
    is_int(err.code, PQPOOL_OK, "%s: %s is served: %s", what, ways[by], err.message);
    one(ctl, "alter role old connection limit 0");
    int failed = 0, calls = 0;
    for (double end = now_s() + 2; now_s() < end; calls++) {
        attempt(pool, by, &err);
        failed += err.code != PQPOOL_OK;
        sleep_ms(5);
    }
    is_int(failed, 0,
           "%s: a connection past max_lifetime serves on while the server takes no other (%d calls): %s",
           what, calls, err.message);
    ok(stats(pool).connect_failures <= 6, "%s: which is asked seldom (%d times)", what,
       (int)stats(pool).connect_failures);
    is_int(stats(pool).closed_by[PQPOOL_CLOSE_MAX_LIFETIME], 0, "%s: none was closed for its age", what);
    one(ctl, "alter role old connection limit -1");
    ok(eventually((attempt(pool, by, &err), stats(pool).closed_by[PQPOOL_CLOSE_MAX_LIFETIME] >= 1)),
       "%s: it is replaced as soon as the server takes another", what);
    is_int(err.code, PQPOOL_OK, "%s: and nobody notices", what);
    close_pool(pool);
}

int main(int argc, char **argv)
{
    (void)argc;
    port = own_server(argv[0], "127.0.0.1", 100);
    tap_begin(60);
    ctl = control();
    told_when();
    busy_is_no_outage();
    told_of();
    full();
    one(ctl, "create role old login");
    outlives("an idle connection", 3, LEASE);
    outlives("a shared connection", 3, STATEMENT);
    ok(eventually(backends(ctl, "outage-test") == 0), "no server process is left");
    PQfinish(ctl);
    return done_testing();
}
