/* Slow and quick ones apart: who gets a connection to himself, who is never put behind whom, and that nobody starves. */
#include "support/nemesis.h"

#define APP "apart-test"

static PGconn *ctl, *locker;

static pqpool *pool_of(const char *options)
{
    char conninfo[300];
    snprintf(conninfo, sizeof conninfo, "application_name=" APP " %s", options);
    return open_pool(conninfo, NULL);
}

static const char *ask(pqpool *pool, const char *sql)
{
    static _Thread_local char text[1200];
    pqpool_error err;
    PGresult *res = pqpool_exec(pool, sql, &err);
    snprintf(text, sizeof text, "%s%s",
             err.code == PQPOOL_OK ? "" : "error: ", err.code == PQPOOL_OK ? value(res) : err.message);
    PQclear(res);
    return text;
}

static int pid_of(pqpool *pool)
{
    return atoi(ask(pool, "select pg_backend_pid()"));
}

/* A statement in a thread of its own, with its answer. */
typedef struct call {
    pqpool *pool;
    pqpool_stmt stmt;
    PGresult *res;
    pqpool_error err;
    pthread_t thread;
} call;

/* Statements so large that not all of them are sent behind a slow one: those go elsewhere. */
static void unsent_behind_slow(void)
{
    enum { N = 8, SIZE = 900 * 1024 };
    pqpool *pool = pool_of("pool_max_size=4 pool_shared_max=1 pool_slow_lane_threshold=off");
    char *large = malloc(SIZE + 1);
    if (!large)
        bail("malloc");
    memset(large, 'x', SIZE);
    large[SIZE] = '\0';
    PQclear(pqpool_exec(pool, "select 1", NULL));
    pqpool_ticket *slow = submit_sql(pool, "select pg_sleep(2)"), *t[N];
    pqpool_stmt s = {PQPOOL_STMT, .sql = "select length($1)", .n_params = 1,
                     .param_values = (const char *const[]){large}};
    for (int i = 0; i < N; i++)
        t[i] = submit_stmt(pool, &s);
    int done = 0;
    bool early = eventually((done = pqpool_ticket_done(t[N - 1])) || pqpool_ticket_done(slow)) && done;
    ok(early && !pqpool_ticket_done(slow),
       "what stands unsent behind a slow statement runs elsewhere, before that ends");
    int right = 0;
    for (int i = 0; i < N; i++)
        right += fetch_is(t[i], "921600");
    is_int(right, N, "each has its answer");
    PQclear(pqpool_wait(slow, -1, NULL));
    free(large);
    close_pool(pool);
}

static void *call_main(void *arg)
{
    call *c = arg;
    c->res = pqpool_exec_stmt(c->pool, &c->stmt, &c->err);
    return NULL;
}

static void start(call *c, pqpool *pool, const char *sql, unsigned flags)
{
    *c = (call){.pool = pool, .stmt = {PQPOOL_STMT, .sql = sql, .flags = flags}};
    if (pthread_create(&c->thread, NULL, call_main, c) != 0)
        bail("pthread_create");
}

static const char *end(call *c)
{
    static char text[1200];
    pthread_join(c->thread, NULL);
    snprintf(text, sizeof text, "%s", c->err.code == PQPOOL_OK ? value(c->res) : c->err.message);
    PQclear(c->res);
    return text;
}

/* Whoever reads the table apart_gate waits from here on. */
static void shut(void)
{
    one(locker, "begin; lock table apart_gate in access exclusive mode");
}

static void open_gate(void)
{
    one(locker, "rollback");
}

static bool waiting_at_gate(int n)
{
    return atoi(one(ctl, "select count(*) from pg_stat_activity where application_name = '" APP
                         "' and wait_event_type = 'Lock'")) == n;
}

#define AT_GATE "select pg_backend_pid() || '/' || count(*) from apart_gate"

static int answered(pqpool *pool, int n)
{
    int right = 0;
    for (int i = 0; i < n; i++)
        right += strcmp(ask(pool, "select 'quick'"), "quick") == 0;
    return right;
}

static void flagged(void)
{
    pqpool *pool = pool_of("pool_max_size=4");
    int shared = pid_of(pool);
    call slow[2];
    shut();
    start(&slow[0], pool, AT_GATE, PQPOOL_SLOW);
    start(&slow[1], pool, AT_GATE, PQPOOL_SLOW);
    ok(eventually(waiting_at_gate(2)), "B6: two statements flagged as slow run side by side");
    is_int(stats(pool).alone, 2, "B6: each with a connection to itself");
    is_int(answered(pool, 200), 200, "B6: the quick ones are not behind them");
    is_int(pid_of(pool), shared, "B6: being where they were");
    open_gate();
    int first = atoi(end(&slow[0])), second = atoi(end(&slow[1]));
    ok(first > 0 && second > 0 && first != second && first != shared && second != shared,
       "B14: work that needs several backends at once gets them");
    is_int(stats(pool).alone, 0, "B6: afterwards nothing is taken");
    start(&slow[0], pool, AT_GATE, PQPOOL_SLOW);
    int third = atoi(end(&slow[0]));
    ok(third == first || third == second, "A2: the next slow one takes a connection that is there");
    pqpool_lease leases[4];
    for (int i = 0; i < 3; i++)
        leases[i] = take(pool);
    ok(stats(pool).leased == 3 && stats(pool).total <= 4, "A2: and so do leases");
    for (int i = 0; i < 3; i++)
        pqpool_release(&leases[i]);
    close_pool(pool);
}

static void learnt(void)
{
    pqpool *pool = pool_of("pool_max_size=4 pool_slow_lane_threshold=50ms pool_stall_threshold=10s");
    int shared = pid_of(pool), where[12];
    for (int i = 0; i < 12; i++)
        where[i] = atoi(ask(pool, "select pg_backend_pid() from pg_sleep(0.08)"));
    is_int(where[0], shared, "B6: a statement that the pool does not know runs among the others");
    ok(where[11] != shared, "B6: when it has been slow again and again it gets a connection to itself");
    is_int(pid_of(pool), shared, "B6: and the others stay where they are");
    for (int i = 0; i < 30; i++)
        ask(pool, "select pg_backend_pid() from pg_sleep(0.0 + case when current_setting('application_name') "
                  "= '' then 1 else 0 end)");
    is_int(pid_of(pool), shared, "B6: a quick one never does");
    close_pool(pool);

    pool = pool_of("pool_max_size=4 pool_slow_lane_threshold=off pool_stall_threshold=off");
    shared = pid_of(pool);
    for (int i = 0; i < 4; i++)
        where[i] = atoi(ask(pool, "select pg_backend_pid() from pg_sleep(0.08)"));
    is_int(where[3], shared, "B6: both can be switched off");
    close_pool(pool);
}

static void stalled(void)
{
    pqpool *pool = pool_of("pool_max_size=4 pool_shared_max=1 pool_stall_threshold=30ms");
    int shared = pid_of(pool);
    call head;
    shut();
    start(&head, pool, AT_GATE, 0);
    ok(eventually(waiting_at_gate(1)), "B6: a statement blocks the shared connection");
    ok(eventually(stats(pool).stalled == 1),
       "B6: which is seen when it has taken longer than stall_threshold");
    is_int(answered(pool, 100), 100, "B6: those who come then get another one");
    ok(pid_of(pool) != shared, "B6: beyond shared_max, for that time");
    open_gate();
    is_int(atoi(end(&head)), shared, "B6: the slow one has its answer");
    close_pool(pool);

    /* Where there is no other way they wait, unsent. */
    pool = pool_of("pool_max_size=1 pool_stall_threshold=30ms pool_acquire_timeout=300ms");
    shut();
    start(&head, pool, AT_GATE, 0);
    ok(eventually(stats(pool).stalled == 1), "B6: the only connection there may be is blocked");
    pqpool_error err;
    PGresult *res = pqpool_exec(pool, "select 1", &err);
    ok(!res && err.code == PQPOOL_ETIMEDOUT && err.outcome == PQPOOL_NOT_SENT,
       "B6: then a statement waits unsent, for acquire_timeout (%s)", err.message);
    pqpool_set(pool, "acquire_timeout", "10s", NULL);
    call behind;
    start(&behind, pool, "select 'behind'", 0);
    ok(eventually(stats(pool).unsent == 1 && stats(pool).waiting == 1), "B12: and is counted as waiting");
    open_gate();
    is_str(end(&behind), "behind", "B6: and runs when the connection is free");
    end(&head);
    close_pool(pool);
}

/* What the holder of a lease asks of the pool may not wait for those who wait for his lease. */
static void holder(void)
{
    pqpool *pool = pool_of("pool_max_size=4 pool_stall_threshold=off");
    int shared = pid_of(pool);
    pqpool_lease lease = take(pool);
    PQclear(PQexec(lease.conn, "begin; lock table apart_gate in access exclusive mode"));
    call waits;
    start(&waits, pool, AT_GATE, 0);
    ok(eventually(waiting_at_gate(1)), "B6: a statement waits for the lock of a lease");
    int mine = pid_of(pool);
    ok(mine > 0 && mine != shared, "B6: the lease's holder is not put behind it");
    PQclear(PQexec(lease.conn, "rollback"));
    is_int(atoi(end(&waits)), shared, "B6: so he can go on, and give the lock up");
    pqpool_release(&lease);
    is_int(pid_of(pool), shared, "B6: without a lease he is as everybody");
    close_pool(pool);

    pool = pool_of("pool_max_size=2 pool_stall_threshold=off pool_acquire_timeout=200ms");
    pid_of(pool);
    lease = take(pool);
    PQclear(PQexec(lease.conn, "begin; lock table apart_gate in access exclusive mode"));
    start(&waits, pool, AT_GATE, 0);
    ok(eventually(waiting_at_gate(1)), "the same where no connection is left");
    pqpool_error err;
    PGresult *res = pqpool_exec(pool, "select 1", &err);
    ok(!res && err.code == PQPOOL_ETIMEDOUT && err.outcome == PQPOOL_NOT_SENT,
       "B6: he waits unsent, and not longer than acquire_timeout");
    has(err.message, "holds a lease", "B6: being told why");
    pqpool_release(&lease);
    end(&waits);
    close_pool(pool);
}

/* A shared connection that is to go, and can't yet, is nobody's connection under way. */
static void draining(void)
{
    pqpool *pool =
        pool_of("pool_max_size=3 pool_max_lifetime=300ms pool_keeper_interval=50ms pool_stall_threshold=off "
                "pool_acquire_timeout=3s");
    call head;
    shut();
    start(&head, pool, AT_GATE, 0);
    ok(eventually(waiting_at_gate(1) && stats(pool).draining == 1),
       "A6: a shared connection has reached its age, with a statement on it");
    is_str(ask(pool, "select 'another'"), "another", "B6: those who come get another one");
    pqpool_lease lease = take(pool);
    ok(lease.conn, "A2: so does a lease");
    pqpool_release(&lease);
    open_gate();
    ok(atoi(end(&head)) > 0, "B6: the old one has its answer");
    close_pool(pool);
}

typedef struct load {
    pqpool *pool;
    unsigned flags;
    _Atomic bool stop;
    _Atomic int shared, slow, leases, failed;
} load;

static void press(int i, void *arg)
{
    load *l = arg;
    while (!l->stop) {
        pqpool_error err;
        if (i % 3 == 0) {
            pqpool_lease lease;
            if (pqpool_acquire(l->pool, &lease, &err) == PQPOOL_OK) {
                PQclear(PQexec(lease.conn, "select 1"));
                pqpool_release(&lease);
                l->leases++;
            }
        } else {
            pqpool_stmt s = {PQPOOL_STMT, .sql = i % 3 == 1 ? "select 1" : "select pg_sleep(0.002)",
                             .flags = i % 3 == 1 ? 0 : PQPOOL_SLOW};
            PQclear(pqpool_exec_stmt(l->pool, &s, &err));
            if (i % 3 == 1)
                l->shared += err.code == PQPOOL_OK;
            else
                l->slow += err.code == PQPOOL_OK;
        }
        l->failed += err.code != PQPOOL_OK;
    }
}

/* Leases, quick and slow statements press at once: all three make progress, whatever the size. */
static void nobody_starves(void)
{
    for (int size = 1; size <= 4; size++) {
        char options[60];
        snprintf(options, sizeof options, "pool_max_size=%d", size);
        pqpool *pool = pool_of(options);
        load l = {.pool = pool};
        crew c;
        crew_start(&c, 12, press, &l);
        bool all = eventually(l.shared >= 20 && l.slow >= 20 && l.leases >= 20);
        l.stop = true;
        crew_join(&c);
        ok(all, "with %d connections leases, slow and quick statements all go on (%d, %d, %d)", size,
           l.leases, l.slow, l.shared);
        is_int(l.failed, 0, "and none fails");
        close_pool(pool);
    }
}

static void busy(int i, void *arg)
{
    load *l = arg;
    (void)i;
    while (!l->stop) {
        l->shared += strcmp(ask(l->pool, "select 'busy' from pg_sleep(0.002)"), "busy") == 0;
    }
}

/* Each statement takes the server 2 ms, so that 48 callers are a crowd however little of the processor they get. */
static void growth(void)
{
    pqpool *pool = pool_of("pool_shared_max=3 pool_slow_lane_threshold=0 pool_stall_threshold=0");
    load l = {.pool = pool};
    answered(pool, 300);
    is_int(stats(pool).shared, 1, "B5: one caller needs one shared connection");
    crew c;
    crew_start(&c, 48, busy, &l);
    bool grown = eventually(stats(pool).shared == 3);
    sleep_ms(100);
    pqpool_stats_data s = stats(pool);
    l.stop = true;
    crew_join(&c);
    ok(grown, "B5: 48 at once need more");
    ok(s.shared == 3 && s.shared_grown == 2, "B5: up to shared_max, and the figures tell (%d, %lld)",
       s.shared, (long long)s.shared_grown);
    pqpool_set(pool, "idle_timeout", "100ms", NULL);
    ok(eventually(stats(pool).shared == 0), "B5: those that nobody uses go back to the pool");
    close_pool(pool);
}

int main(void)
{
    tap_begin(90);
    ctl = control();
    locker = control();
    one(ctl, "create table apart_gate (id int)");
    flagged();
    learnt();
    stalled();
    unsent_behind_slow();
    holder();
    draining();
    nobody_starves();
    growth();
    one(ctl, "drop table apart_gate");
    ok(eventually(backends(ctl, APP) == 0), "no server process is left");
    PQfinish(locker);
    PQfinish(ctl);
    return done_testing();
}
