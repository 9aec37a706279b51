/* What no caller wants any more is stopped at the server, and never at a neighbour's cost; answers have a bound. */
#include <sys/resource.h>
#include <sys/wait.h>

#include "support/nemesis.h"

#define APP "unwanted"
#define NAMED "application_name=" APP " "

static PGconn *ctl;

/* Sessions that run what takes long here, not what sets them up. */
static int at_work(void)
{
    return atoi(one(ctl, "select count(*) from pg_stat_activity where application_name = '" APP
                         "' and state = 'active' and query ~ 'pg_sleep|stubborn|generate_series'"));
}

static void runs(const char *what)
{
    if (!eventually(at_work() == 1))
        bail("%s does not run", what);
}

/* A session of the pool before may still be at its end. */
static pqpool *pool_of_its_own(const char *conninfo)
{
    if (!eventually(at_work() == 0))
        bail("what an earlier pool has run does not end");
    return open_pool(conninfo, NULL);
}

static long resident_kb(void)
{
    long size = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%ld %ld", &size, &resident) != 2)
        bail("statm");
    fclose(f);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static _Atomic int called;

static void count_call(PGresult *res, const pqpool_error *err, void *arg)
{
    (void)err, (void)arg;
    PQclear(res);
    called++;
}

/* The ways of a statement that is not wanted any more. */
static void abandoned_or_late(void)
{
    static const char *const sleeps = "select pg_sleep(60)";
    for (unsigned flags = 0; flags <= PQPOOL_SLOW; flags += PQPOOL_SLOW) {
        const char *where = flags ? "with a connection to itself" : "on a shared connection";
        pqpool *pool = pool_of_its_own(NAMED "pool_max_size=2");
        pqpool_stmt s = {PQPOOL_STMT, .sql = sleeps, .flags = flags};
        pqpool_ticket *t = submit_stmt(pool, &s);
        runs("the statement");
        pqpool_abandon(t);
        is_int(stats(pool).promised, 0, "an abandoned ticket is gone at once (%s)", where);
        ok(eventually(at_work() == 0), "its statement is canceled at the server (%s)", where);
        PGresult *res = pqpool_exec(pool, "select 'next'", NULL);
        is_str(value(res), "next", "the pool goes on (%s)", where);
        PQclear(res);
        ok(eventually(stats(pool).draining == 0 && stats(pool).resetting == 0 && stats(pool).closing == 0),
           "its connection is free again (%s)", where);
        ok(eventually(stats(pool).cancels == 1) && stats(pool).cancels_failed == 0,
           "one request to cancel was enough (%s)", where);
        close_pool(pool);
    }
    /* The server does not know of the time-out: it is changed within. */
    pqpool *pool = pool_of_its_own(NAMED "pool_max_size=2");
    one(ctl, "create or replace function stubborn() returns void language plpgsql as $f$ begin "
             "perform set_config('statement_timeout', '0', true); perform pg_sleep(60); end $f$");
    pqpool_error err;
    pqpool_stmt s = {PQPOOL_STMT, .sql = "select stubborn()"};
    if (pqpool_set(pool, "statement_timeout", "off", &err) != PQPOOL_OK)
        bail("%s", err.message);
    if (!eventually(at_work() == 0))
        bail("a statement still runs");
    pqpool_ticket *t = submit_stmt(pool, &s);
    runs("the function");
    pqpool_close(pool, 0);
    ok(eventually(at_work() == 0), "a statement that is cut by pqpool_close() is canceled at the server");
    PQclear(pqpool_wait(t, -1, &err));
    ok(err.code == PQPOOL_ELOST && err.outcome == PQPOOL_UNKNOWN, "its caller is told that it is lost (%s)",
       err.message);
    close_pool(pool);
    ok(eventually(backends(ctl, APP) == 0), "no session is left behind");
    one(ctl, "drop function stubborn()");
}

/* With something behind it, it is not canceled. */
static void with_neighbours(void)
{
    pqpool *pool = pool_of_its_own(NAMED "pool_max_size=3 pool_shared_max=1 pool_stall_threshold=off");
    PQclear(pqpool_exec(pool, "select 1", NULL));
    pqpool_ticket *first = submit_sql(pool, "select pg_sleep(0.5)");
    runs("the first statement");
    pqpool_ticket *behind[8];
    for (int i = 0; i < 8; i++)
        behind[i] = submit_sql(pool, "select 'a neighbour'");
    if (!eventually(stats(pool).statements == 9))
        bail("they are not sent");
    pqpool_abandon(first);
    int fine = 0;
    for (int i = 0; i < 8; i++)
        fine += fetch_is(behind[i], "a neighbour");
    is_int(fine, 8, "statements behind one that is given up have their answers");
    is_int(stats(pool).cancels, 0, "it is not canceled while they stand there");
    close_pool(pool);
}

/* Many at once, under the eyes of neighbours. */
typedef struct traffic {
    pqpool *pool;
    _Atomic int stop, right, wrong;
} traffic;

static void ask_and_abandon(int i, void *arg)
{
    traffic *t = arg;
    for (unsigned n = 0; !t->stop; n++) {
        char number[20];
        snprintf(number, sizeof number, "%d", i * 1000000 + (int)n);
        pqpool_error err;
        pqpool_stmt s = {PQPOOL_STMT, .sql = "select $1::int", .n_params = 1,
                         .param_values = (const char *[]){number}};
        PGresult *res = pqpool_exec_stmt(t->pool, &s, &err);
        if (err.code == PQPOOL_OK && strcmp(value(res), number) == 0)
            t->right++;
        else if (t->wrong++ < 5)
            diag("%s: got %s, %s", number, value(res), err.message);
        PQclear(res);
        if (n % 4 == 0) {
            pqpool_stmt slow = {PQPOOL_STMT, .sql = n % 8 ? "select pg_sleep(1)" : "select pg_sleep(1), 2",
                                .flags = n % 16 ? 0 : PQPOOL_SLOW};
            pqpool_ticket *ticket = pqpool_submit(t->pool, &slow, NULL);
            sleep_ms((int)(n % 7));
            pqpool_abandon(ticket);
        }
    }
}

static void under_traffic(void)
{
    traffic t = {.pool = pool_of_its_own(NAMED "pool_max_size=8 pool_acquire_timeout=20s")};
    crew c;
    crew_start(&c, 6, ask_and_abandon, &t);
    sleep_ms(4000);
    t.stop = 1;
    crew_join(&c);
    ok(t.right > 100, "while statements are canceled, others run (%d)", t.right);
    is_int(t.wrong, 0, "no request to cancel hits another statement");
    ok(stats(t.pool).cancels > 0, "there were some (%lld)", (long long)stats(t.pool).cancels);
    ok(eventually(at_work() == 0), "and in the end nothing runs");
    close_pool(t.pool);
}

/* ---- answers without end ---- */

static void endless_answers(void)
{
    static const char *const endless = "select repeat('x', 1000), generate_series(1, 100000000)";
    pqpool *pool = pool_of_its_own(NAMED "pool_max_size=3");
    PQclear(pqpool_exec(pool, "select 1", NULL));
    long before = resident_kb();
    pqpool_ticket *t = submit_sql(pool, endless);
    runs("the answer");
    sleep_ms(50);
    pqpool_abandon(t);
    ok(eventually(at_work() == 0), "an answer without end that no caller wants is stopped");
    ok(resident_kb() - before < 200 * 1024, "it does not fill the memory (%ld MB)",
       (resident_kb() - before) / 1024);
    close_pool(pool);

    pool = pool_of_its_own(NAMED "pool_max_size=3 pool_max_result=8MB pool_max_buffer=off");
    pqpool_error err;
    PGresult *res = pqpool_exec(pool, "select repeat('x', 1000) from generate_series(1, 4000)", &err);
    is_int(PQntuples(res), 4000, "an answer below max_result is fetched");
    PQclear(res);
    res = pqpool_exec(pool, endless, &err);
    ok(!res && err.code == PQPOOL_ETOOBIG && err.outcome == PQPOOL_UNKNOWN, "one above max_result fails: %s",
       err.message);
    has(err.message, "max_result", "the message names the option");
    ok(eventually(at_work() == 0), "and is stopped at the server");
    res = pqpool_exec(pool, "select 'next'", &err);
    is_str(value(res), "next", "the pool goes on");
    PQclear(res);
    called = 0;
    pqpool_stmt s = {PQPOOL_STMT, .sql = endless};
    if (code_submit_cb(pool, &s, count_call, NULL, &err) != PQPOOL_OK)
        bail("%s", err.message);
    while (!called) {
        struct pollfd fd = {.fd = pqpool_fd(pool), .events = POLLIN};
        poll(&fd, 1, 100);
        pqpool_dispatch(pool);
    }
    ok(eventually(at_work() == 0), "the same for a callback");
    close_pool(pool);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
/* In a child, whose memory is bounded: the answer of one, and those of its neighbours. */
static int in_little_memory(void)
{
    pqpool *pool =
        open_pool(NAMED "pool_shared_max=1 pool_max_size=2 pool_max_result=off pool_max_buffer=off", NULL);
    PQclear(pqpool_exec(pool, "select 1", NULL));
    struct rlimit limit;
    long size = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%ld", &size) != 1)
        return 100;
    fclose(f);
    limit.rlim_cur = limit.rlim_max = (rlim_t)(size * sysconf(_SC_PAGESIZE) + (100L << 20));
    setrlimit(RLIMIT_AS, &limit);
    pqpool_stmt stmts[3] = {{PQPOOL_STMT, .sql = "select 'before'"},
                            {PQPOOL_STMT, .sql = "select repeat('x', 1000) from generate_series(1, 300000)"},
                            {PQPOOL_STMT, .sql = "select 'behind'"}};
    PGresult *results[3];
    pqpool_error errors[3];
    (void)!pqpool_exec_all(pool, stmts, 3, PQPOOL_EACH, results, errors);
    int bad = (strcmp(value(results[0]), "before") != 0) << 0;
    bad |= (errors[1].code != PQPOOL_ENOMEM || errors[1].outcome != PQPOOL_DONE) << 1;
    bad |= (strcmp(value(results[2]), "behind") != 0) << 2;
    bad |= (stats(pool).connects != 1) << 3;
    if (bad)
        fprintf(stderr, "# %s | %s %s\n", errors[0].message, pqpool_code_name((pqpool_code)errors[1].code),
                errors[1].message);
    return bad;
}
#endif

static void out_of_memory(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    diag("skipped: sanitizers need the address space");
#else
    if (getenv("PQPOOL_TEST_SLOW")) {
        diag("skipped: valgrind needs the address space");
        return;
    }
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        _exit(in_little_memory());
    int status = -1;
    waitpid(child, &status, 0);
    is_int(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 0,
           "without memory for one answer that statement fails, its neighbours and the connection don't");
#endif
}

/* A function that listens, and a server that has no end of notifications. */
static void endless_notifications(void)
{
    pqpool *pool = pool_of_its_own(NAMED "pool_shared_max=1 pool_max_size=2");
    one(ctl, "create or replace function listens() returns void language plpgsql as $f$ begin "
             "execute 'listen gossip'; end $f$");
    PQclear(pqpool_exec(pool, "select listens()", NULL));
    pqpool_ticket *t = submit_sql(pool, "select pg_sleep(3)");
    runs("the statement");
    long before = resident_kb();
    char payload[8000];
    memset(payload, 'x', 7900);
    payload[7900] = '\0';
    for (int i = 0; i < 2000; i++)
        one(ctl, "select pg_notify('gossip', '%d%.3900s')", i, payload);
    sleep_ms(200);
#if defined(__SANITIZE_ADDRESS__)
    diag("a sanitizer keeps what is freed: %ld kB more", resident_kb() - before);
#else
    ok(resident_kb() - before < 6000, "notifications on a shared connection are dropped, not kept (%ld kB)",
       resident_kb() - before);
#endif
    PQclear(pqpool_wait(t, -1, NULL));
    close_pool(pool);
    one(ctl, "drop function listens()");
}

int main(void)
{
    tap_begin(180);
    ctl = control();
    out_of_memory();
    abandoned_or_late();
    with_neighbours();
    under_traffic();
    endless_answers();
    endless_notifications();
    PQfinish(ctl);
    return done_testing();
}
