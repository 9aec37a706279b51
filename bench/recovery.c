/*
 * recovery: how long after a server accepts connections again does a pool's caller have his first answer, and how
 * often was it asked meanwhile?
 *
 *     recovery [--rounds N] [--outage MS]...
 *
 * In each round some threads run statements in a loop, in turn by leases and on shared connections; the server
 * crashes, is away, and is started again. Somebody outside the pool logs in every millisecond: the delay counts from
 * the beginning of his last login that was refused, so it is never too short, and too long by `login of the observer`
 * at most. Needs a server of its own: run it under t/with-pg.
 */
#include "bench.h"

enum { THREADS = 4, CONNECTIONS = 4, GAPS = 4096, OUTAGES = 8, WARM_UP = 10 };
/* While the connections that were lost together are tried together, the pool does not count as probing. */
#define SETTLED 0.1

typedef enum { LEASES, SHARED } way;
static const char *const ways[] = {"leases", "shared"};

typedef struct worker {
    pthread_t thread;
    atomic_int served;
    _Atomic double first; /* end of the first statement after `restarted`; 0: none yet */
} worker;

static pqpool *pool;
static atomic_bool over;
static _Atomic double restarted; /* when the server was told to start; 0: not yet */
static worker workers[THREADS];

/* Connections lost under their holder in this outage, by their server processes. */
static struct {
    pthread_mutex_t lock;
    int pids[THREADS * CONNECTIONS], n, again;
} lost = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct {
    pthread_mutex_t lock;
    double at[GAPS];
    int n;
} failures = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void on_event(const pqpool_event *event, void *arg)
{
    (void)arg;
    if (event->id != PQPOOL_EVENT_CONNECT_FAILED)
        return;
    pthread_mutex_lock(&failures.lock);
    if (failures.n < GAPS)
        failures.at[failures.n++] = now_s();
    pthread_mutex_unlock(&failures.lock);
}

/* Nobody should be lent a connection of which its last holder has seen that it was lost. */
static void note_lost(int pid)
{
    pthread_mutex_lock(&lost.lock);
    bool before = false;
    for (int i = 0; i < lost.n; i++)
        before |= lost.pids[i] == pid;
    lost.again += before;
    if (!before && lost.n < THREADS * CONNECTIONS)
        lost.pids[lost.n++] = pid;
    pthread_mutex_unlock(&lost.lock);
}

/* ---- those who work ---- */

/* One statement. False: its connection was lost under it. Nothing else may go wrong. */
static bool by_lease(void)
{
    pqpool_lease lease;
    pqpool_error err;
    must(pqpool_acquire(pool, &lease, &err) == PQPOOL_OK, "acquire: %s", err.message);
    int pid = PQbackendPID(lease.conn); /* libpq forgets it with the connection */
    PGresult *res = PQexec(lease.conn, "select 1");
    bool fine = PQresultStatus(res) == PGRES_TUPLES_OK;
    /* Words of libpq, not of a server. (PQstatus() may still be good when only sending has failed.) */
    must(fine || !PQresultErrorField(res, PG_DIAG_SQLSTATE), "select 1: %s", PQerrorMessage(lease.conn));
    if (!fine)
        note_lost(pid);
    PQclear(res);
    must(pqpool_release(&lease) == PQPOOL_OK, "release");
    return fine;
}

static bool by_sharing(void)
{
    pqpool_error err;
    PGresult *res = pqpool_exec(pool, "select 1", &err);
    bool fine = PQresultStatus(res) == PGRES_TUPLES_OK;
    must(fine || err.code == PQPOOL_ELOST, "exec: %s: %s", pqpool_code_name((pqpool_code)err.code),
         err.message);
    PQclear(res);
    return fine;
}

static void work(worker *w, bool (*run)(void))
{
    while (!over) {
        if (!run()) {
            must(restarted == 0, "a connection to the new server is lost");
            continue;
        }
        double now = now_s(), since = restarted;
        w->served++;
        if (since > 0 && w->first == 0 && now > since)
            w->first = now;
    }
}

static void *work_by_lease(void *arg)
{
    work(arg, by_lease);
    return NULL;
}

static void *work_by_sharing(void *arg)
{
    work(arg, by_sharing);
    return NULL;
}

static void start_work(way by)
{
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_event = on_event};
    failures.n = lost.n = lost.again = 0;
    over = false;
    restarted = 0;
    char options[100];
    snprintf(options, sizeof options, "pool_max_size=%d pool_log_level=off pool_acquire_timeout=60s",
             CONNECTIONS);
    pool = open_pool(options, &hooks);
    for (int i = 0; i < THREADS; i++) {
        worker *w = &workers[i];
        w->served = 0;
        w->first = 0;
        must(pthread_create(&w->thread, NULL, by == LEASES ? work_by_lease : work_by_sharing, w) == 0,
             "pthread_create");
    }
    for (int i = 0; i < THREADS; i++)
        for (double end = now_s() + 20; workers[i].served < WARM_UP; sleep_ms(1))
            must(now_s() < end, "thread %d does not get going", i);
}

static void stop_work(void)
{
    over = true;
    for (int i = 0; i < THREADS; i++)
        pthread_join(workers[i].thread, NULL);
    close_pool(pool);
}

/* ---- the server ---- */

static void server(const char *what)
{
    char command[1200];
    snprintf(command, sizeof command, "'" BENCH_DIR "/server' %s", what);
    must(system(command) == 0, "%s failed", command);
}

typedef struct observed {
    double refused; /* beginning of the last login that was */
    double in;      /* end of the one that was not */
    double late;    /* the longest that a pause of 1 ms of his has taken: what the machine itself holds up */
} observed;

static void *observe(void *arg)
{
    observed *o = arg;
    for (double end = now_s() + 60, paused = now_s();; paused = now_s(), sleep_ms(1)) {
        double began = now_s();
        o->late = began - paused > o->late ? began - paused : o->late;
        if (PQping("") == PQPING_OK) {
            o->in = now_s();
            return NULL;
        }
        o->refused = began;
        must(began < end, "the server does not come back");
    }
}

/* ---- a round ---- */

/* While the server was away: what lies between one attempt and the next. */
static void tell_gaps(double from, double to, const char *name)
{
    pthread_mutex_lock(&failures.lock);
    for (int i = 1; i < failures.n; i++)
        if (failures.at[i - 1] >= from && failures.at[i] <= to)
            sample((failures.at[i] - failures.at[i - 1]) * 1e3, "ms", "min >= 40, median >= 40, median <= 60",
                   "%s: from one attempt to the next", name);
    pthread_mutex_unlock(&failures.lock);
}

static void tell_delays(const observed *o, const char *name)
{
    double first = workers[0].first, last = first;
    for (int i = 1; i < THREADS; i++) {
        double at = workers[i].first;
        first = at < first ? at : first;
        last = at > last ? at : last;
    }
    must(o->refused > 0 && first >= o->refused, "%s: an answer before the server was there", name);
    sample((first - o->refused) * 1e3, "ms", "p99 <= 100", "%s: first success after the server accepts",
           name);
    sample((last - o->refused) * 1e3, "ms", NULL, "%s: all %d threads have succeeded", name, THREADS);
    sample((o->in - o->refused) * 1e3, "ms", NULL, "%s: login of the observer", name);
    sample(o->late * 1e3, "ms", NULL, "%s: longest pause of the observer, who asks for 1 ms", name);
}

static void one_outage(way by, int outage_ms)
{
    char name[80];
    snprintf(name, sizeof name, "%s, %g s away", ways[by], outage_ms / 1e3);
    start_work(by);
    server("stop");
    double gone = now_s();
    sleep_ms((int)(SETTLED * 1e3));
    double from = now_s();
    int64_t before = stats(pool).connect_failures;
    observed o = {0};
    pthread_t observer;
    must(pthread_create(&observer, NULL, observe, &o) == 0, "pthread_create");
    sleep_ms(outage_ms - (int)((now_s() - gone) * 1e3));
    int64_t failed = stats(pool).connect_failures - before;
    double to = now_s();
    restarted = to;
    server("start");
    pthread_join(observer, NULL);
    for (int i = 0; i < THREADS; i++)
        for (double end = now_s() + 20; workers[i].first == 0; sleep_ms(1))
            must(now_s() < end, "%s: thread %d does not recover", name, i);
    stop_work();
    tell_delays(&o, name);
    if (by == LEASES)
        sample(lost.again, "count", "max <= 0", "%s: lost connections lent again", name);
    tell_gaps(from, to, name);
    sample((double)failed / (to - from), "1/s", outage_ms >= 1000 ? "median >= 16.6, median <= 25" : NULL,
           "%s: attempts", name);
}

int main(int argc, char **argv)
{
    int rounds = 30, outages[OUTAGES] = {300, 1000}, n = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < argc; i += 2) {
        must(i + 1 < argc, "%s needs a number", argv[i]);
        int value = atoi(argv[i + 1]);
        if (strcmp(argv[i], "--rounds") == 0 && value > 0)
            rounds = value;
        else if (strcmp(argv[i], "--outage") == 0 && value >= 200 && n < OUTAGES)
            outages[n++] = value;
        else
            die("usage: recovery [--rounds N] [--outage MS]..., at least 200 ms");
    }
    must(getenv("PQPOOL_PG_DATA"), "recovery crashes its server: run it under t/with-pg");
    n = n > 0 ? n : 2;
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < n; i++)
            for (way by = LEASES; by <= SHARED; by++)
                one_outage(by, outages[i]);
    return 0;
}
