/* Deadlines of statements: they hold, they tell the truth, and they are nobody else's business. */
#include "support/nemesis.h"
#include "support/storm.h"

#define APP "timeouts"
enum { LATE_MS = 20 };

static PGconn *ctl;

static pqpool *shared_pool(const char *more)
{
    char conninfo[200];
    snprintf(conninfo, sizeof conninfo, "application_name=" APP " pool_shared_max=1 %s", more);
    return open_pool(conninfo, NULL);
}

/* ---- how late a thread may be on this machine: one that only sleeps tells ---- */

typedef struct sleeper {
    pthread_t thread;
    _Atomic bool stop;
    double latest; /* s; read when it has ended */
} sleeper;

static void *oversleep(void *arg)
{
    sleeper *s = arg;
    while (!s->stop) {
        double due = now_s() + 0.002;
        sleep_ms(2);
        double late = now_s() - due;
        s->latest = late > s->latest ? late : s->latest;
    }
    return NULL;
}

static void sleeper_start(sleeper *s)
{
    *s = (sleeper){0};
    if (pthread_create(&s->thread, NULL, oversleep, s) != 0)
        bail("pthread_create");
}

/* The lateness, in ms, that is allowed after what the machine itself was late meanwhile. */
static double sleeper_end(sleeper *s)
{
    s->stop = true;
    pthread_join(s->thread, NULL);
    return LATE_MS * tap_slowness() + s->latest * 1000;
}

/* A statement with the time its call took beyond a deadline. */
typedef struct timed {
    pqpool_stmt stmt;
    PGresult *result;
    pqpool_error err;
    double ms;
} timed;

static void run(pqpool *pool, timed *t)
{
    double began = now_s();
    t->result = pqpool_exec_stmt(pool, &t->stmt, &t->err);
    t->ms = (now_s() - began) * 1000;
}

/* The server was told of the deadline, and kept it. */
static bool is_told(const timed *t)
{
    return t->err.code == PQPOOL_ESERVER && t->err.outcome == PQPOOL_DONE &&
           strcmp(t->err.sqlstate, "57014") == 0;
}

static bool is_late(const timed *t, pqpool_outcome outcome)
{
    return !t->result && t->err.code == PQPOOL_ETIMEDOUT && t->err.outcome == (int)outcome;
}

static void quiet(pqpool *pool)
{
    ok(eventually(stats(pool).statements == 0),
       "B9: nothing is left on the connection, though nobody came to see to it");
}

typedef struct head {
    pqpool *pool;
    timed t;
    pthread_t thread;
} head;

static void *head_main(void *arg)
{
    head *h = arg;
    run(h->pool, &h->t);
    return NULL;
}

/* A statement that occupies the connection until the lock on the table gate is given up. */
static void block(PGconn *locker, head *h, pqpool *pool)
{
    *h = (head){.pool = pool, .t.stmt = {PQPOOL_STMT, .sql = "select count(*) from gate"}};
    one(locker, "begin");
    one(locker, "lock table gate in access exclusive mode");
    if (pthread_create(&h->thread, NULL, head_main, h) != 0)
        bail("pthread_create");
    if (!eventually(backends(ctl, APP) == 1 && waits_for(ctl, backend_of(ctl, APP), "Lock")))
        bail("the head does not wait for its lock");
}

static void unblock(PGconn *locker, head *h)
{
    one(locker, "rollback");
    pthread_join(h->thread, NULL);
}

/* ---- sent and running ---- */

typedef struct mixed {
    pqpool *pool;
    timed late[4];
    _Atomic int ready, wrong;
} mixed;

static void neighbour_or_late(int i, void *arg)
{
    mixed *m = arg;
    if (i < 4) {
        m->late[i].stmt =
            (pqpool_stmt){PQPOOL_STMT, .sql = "select 'late', pg_sleep(0.2)", .timeout_ms = 100 + i};
        run(m->pool, &m->late[i]);
        return;
    }
    for (int k = 0; k < 20; k++) {
        char number[24];
        pqpool_error err;
        snprintf(number, sizeof number, "%d", i * 1000 + k);
        PGresult *res = pqpool_exec_params(m->pool, "select $1::int", 1, NULL, (const char *[]){number}, NULL,
                                           NULL, 0, &err);
        if (err.code != PQPOOL_OK || strcmp(value(res), number) != 0)
            m->wrong++;
        PQclear(res);
    }
}

static void running(pqpool *pool)
{
    double worst = 0;
    int unknown = 0, told = 0, wrong = 0, early = 0;
    sleeper s;
    PGresult *warm = pqpool_exec(pool, "select 1", NULL);
    PQclear(warm);
    sleeper_start(&s);
    for (int k = 0; k < 5; k++) {
        mixed m = {.pool = pool};
        in_threads(12, neighbour_or_late, &m);
        for (int i = 0; i < 4; i++) {
            double late = m.late[i].ms - (100 + i);
            worst = late > worst ? late : worst;
            early += late < (is_told(&m.late[i]) ? -15 : -1);
            told += is_told(&m.late[i]);
            unknown += is_late(&m.late[i], PQPOOL_UNKNOWN);
            PQclear(m.late[i].result);
        }
        wrong += m.wrong;
    }
    double allowed = sleeper_end(&s);
    is_int(told + unknown, 20,
           "B9: past its deadline a statement that was sent is ended by the server, or UNKNOWN");
    ok(told >= 1, "B9: by the server, where it ran by itself (%d)", told);
    is_int(early, 0, "and not before");
    ok(worst < allowed, "B9: its caller is back %.1f ms after it at the latest (%.1f allowed)", worst,
       allowed);
    is_int(wrong, 0,
           "B9: its neighbours on the connection get their own answers; the late ones go to nobody");
    ok(backends(ctl, APP) <= 6, "B6: some of them on another one, since the first was held up");
    quiet(pool);
}

/* ---- not sent ---- */

static void never_sent(PGconn *locker)
{
    pqpool *pool = shared_pool("pool_pipeline_depth=1 pool_stall_threshold=off");
    head h;
    sleeper s;
    one(ctl, "create table effect (id int)");
    block(locker, &h, pool);
    sleeper_start(&s);
    timed t = {.stmt = {PQPOOL_STMT, .sql = "insert into effect values (1)", .timeout_ms = 60}};
    run(pool, &t);
    double allowed = sleeper_end(&s);
    ok(is_late(&t, PQPOOL_NOT_SENT), "B9: past its deadline behind a slow head a statement is NOT_SENT");
    ok(pqpool_is_retryable(&t.err), "and may be repeated");
    ok(t.ms >= 59 && t.ms - 60 < allowed, "B9: in time (%.1f ms late, %.1f allowed)", t.ms - 60, allowed);
    unblock(locker, &h);
    is_int(h.t.err.code, PQPOOL_OK, "B9: the head has its answer");
    PQclear(h.t.result);
    PGresult *res = pqpool_exec(pool, "select count(*) from effect", NULL);
    is_str(value(res), "0", "B9: and what was not sent has never run, not even later");
    PQclear(res);
    quiet(pool);
    close_pool(pool);

    pool = shared_pool("pool_pipeline_depth=1 pool_stall_threshold=off pool_acquire_timeout=80ms");
    block(locker, &h, pool);
    sleeper_start(&s);
    t = (timed){.stmt = {PQPOOL_STMT, .sql = "insert into effect values (2)"}};
    run(pool, &t);
    allowed = sleeper_end(&s);
    ok(is_late(&t, PQPOOL_NOT_SENT) && t.ms >= 79 && t.ms - 80 < allowed,
       "B9: without a deadline of its own it waits acquire_timeout for room (%.1f ms)", t.ms);
    unblock(locker, &h);
    is_int(h.t.err.code, PQPOOL_OK, "which limits nothing that is sent");
    PQclear(h.t.result);
    close_pool(pool);
    is_str(one(ctl, "select count(*) from effect"), "0", "B9: it has never run either");
    one(ctl, "drop table effect");
}

/* ---- a group ---- */

static void members(PGconn *locker, pqpool *pool)
{
    enum { N = 5 };
    PGresult *results[N];
    pqpool_error errors[N];
    static const int limits[N] = {0, -1, 60, -1, 90};
    static const char *const sql[N] = {"select 'first'", "select count(*) from gate", "select 'behind'",
                                       "select 'last'", "select 'also behind'"};
    pqpool_stmt stmts[N];
    for (int i = 0; i < N; i++)
        stmts[i] = (pqpool_stmt){PQPOOL_STMT, .sql = sql[i], .timeout_ms = limits[i]};
    one(locker, "begin");
    one(locker, "lock table gate in access exclusive mode");
    one(locker, "set local idle_in_transaction_session_timeout = 400"); /* gives the lock up, all by itself */
    double began = now_s();
    pqpool_code code = pqpool_exec_all(pool, stmts, N, PQPOOL_EACH, results, errors);
    double ms = (now_s() - began) * 1000;
    is_int(code, PQPOOL_ETIMEDOUT, "B9: a group reports the first member that failed");
    ok(ms >= 350, "and waits for those that have time");
    is_str(value(results[0]), "first", "B9: a member before the slow one has its answer");
    is_str(value(results[3]), "last", "B9: so has a member behind it that has time");
    is_str(value(results[1]), "0", "B9: so has the slow one");
    for (int i = 2; i < N; i += 2)
        ok(!results[i] && errors[i].code == PQPOOL_ETIMEDOUT && errors[i].outcome == PQPOOL_UNKNOWN &&
               errors[i].row == i,
           "B9: member %d, past its own deadline, is UNKNOWN", i);
    for (int i = 0; i < N; i++)
        PQclear(results[i]);
    quiet(pool);

    PGresult *res = pqpool_exec(pool, "select 'next'", NULL);
    is_str(value(res), "next", "B9: the next statement has its own answer");
    PQclear(res);
}

/* While a group waits for a connection, too. */
static PGresult *unplaced_results[2];
static pqpool_error unplaced_errors[2];

static void *unplaced_main(void *arg)
{
    pqpool_stmt stmts[2] = {{PQPOOL_STMT, .sql = "select 'late'", .timeout_ms = 50},
                            {PQPOOL_STMT, .sql = "select 'patient'"}};
    pqpool_code code = pqpool_exec_all(arg, stmts, 2, PQPOOL_EACH, unplaced_results, unplaced_errors);
    is_int(code, PQPOOL_ETIMEDOUT, "B9: a group that waits for a connection reports the member that is late");
    return NULL;
}

static void unplaced(void)
{
    pqpool *pool = shared_pool("pool_max_size=1");
    pqpool_lease lease;
    pthread_t thread;
    if (pqpool_acquire(pool, &lease, NULL) != PQPOOL_OK)
        bail("acquire");
    if (pthread_create(&thread, NULL, unplaced_main, pool) != 0)
        bail("pthread_create");
    ok(eventually(stats(pool).timeouts == 1), "B9: a member's deadline passes while there is no connection");
    pqpool_release(&lease);
    pthread_join(thread, NULL);
    ok(!unplaced_results[0] && unplaced_errors[0].code == PQPOOL_ETIMEDOUT &&
           unplaced_errors[0].outcome == PQPOOL_NOT_SENT,
       "B9: that member is NOT_SENT");
    is_str(value(unplaced_results[1]), "patient", "B9: the other one waits on, and has its answer");
    PQclear(unplaced_results[1]);
    close_pool(pool);
}

/* ---- a frozen server process ---- */

typedef struct frozen {
    pqpool *pool;
    timed t[16];
} frozen;

static void run_frozen(int i, void *arg)
{
    frozen *f = arg;
    f->t[i].stmt = (pqpool_stmt){PQPOOL_STMT, .sql = "select 'frozen'", .timeout_ms = 100 + 5 * i};
    run(f->pool, &f->t[i]);
}

static void freeze(pqpool *pool)
{
    if (!may_signal(ctl)) {
        ok(true, "B9: a frozen server process # SKIP may not signal it");
        return;
    }
    frozen f = {.pool = pool};
    PQclear(pqpool_exec(pool, "select 1", NULL));
    pid_t pid = backend_of(ctl, APP);
    sleeper s;
    if (kill(pid, SIGSTOP) != 0)
        bail("kill -STOP: %s", strerror(errno));
    sleeper_start(&s);
    in_threads(16, run_frozen, &f);
    double allowed = sleeper_end(&s);
    int left = stats(pool).statements;
    kill(pid, SIGCONT);
    int unknown = 0;
    double worst = 0;
    for (int i = 0; i < 16; i++) {
        unknown += is_late(&f.t[i], PQPOOL_UNKNOWN);
        worst = f.t[i].ms - (100 + 5 * i) > worst ? f.t[i].ms - (100 + 5 * i) : worst;
        PQclear(f.t[i].result);
    }
    is_int(unknown, 16, "B9: with the server process frozen every statement is UNKNOWN at its deadline");
    ok(worst < allowed, "B9: and every caller back %.1f ms after it at the latest (%.1f allowed)", worst,
       allowed);
    is_int(left, 16, "all of it is still on the connection");
    quiet(pool);
    PGresult *res = pqpool_exec(pool, "select 'thawed'", NULL);
    is_str(value(res), "thawed", "B9: the connection goes on, and the next answer is the next caller's");
    PQclear(res);
    is_int(backend_of(ctl, APP), pid, "on the same server process");
}

/* ---- interrupted system calls ---- */

typedef struct storm {
    pqpool *pool;
    timed late[8];
    _Atomic int right, wrong;
} storm;

static void in_storm(int i, void *arg)
{
    storm *st = arg;
    timer_t timer = storm_begin();
    if (i < 8) {
        st->late[i].stmt = (pqpool_stmt){PQPOOL_STMT, .sql = "select pg_sleep(0.2)", .timeout_ms = 150 + i};
        run(st->pool, &st->late[i]);
    } else {
        for (int k = 0; k < 100; k++) {
            char number[24];
            pqpool_error err;
            snprintf(number, sizeof number, "%d", i * 1000 + k);
            PGresult *res = pqpool_exec_params(st->pool, "select $1::int from generate_series(1, 200)", 1,
                                               NULL, (const char *[]){number}, NULL, NULL, 0, &err);
            if (err.code == PQPOOL_OK && PQntuples(res) == 200 && strcmp(value(res), number) == 0)
                st->right++;
            else
                st->wrong++;
            PQclear(res);
            if (k % 10 == 0) {
                pqpool_lease lease;
                if (pqpool_acquire(st->pool, &lease, &err) != PQPOOL_OK ||
                    pqpool_release(&lease) != PQPOOL_OK)
                    st->wrong++;
            }
        }
    }
    timer_delete(timer);
}

static void interrupted(pqpool *pool)
{
    struct sigaction sa = {.sa_handler = count_signal}, before;
    sigaction(SIGUSR2, &sa, &before);
    storm st = {.pool = pool};
    sleeper s;
    sleeper_start(&s);
    in_threads(12, in_storm, &st);
    double allowed = sleeper_end(&s), worst = 0;
    sigaction(SIGUSR2, &before, NULL);
    int unknown = 0, early = 0;
    for (int i = 0; i < 8; i++) {
        double late = st.late[i].ms - (150 + i);
        unknown +=
            is_late(&st.late[i], PQPOOL_UNKNOWN) || is_told(&st.late[i]) || st.late[i].err.code == PQPOOL_OK;
        early += is_late(&st.late[i], PQPOOL_UNKNOWN) && late < -1;
        worst = late > worst ? late : worst;
        PQclear(st.late[i].result);
    }
    ok(signals > 100, "every call was interrupted 1000 times a second (%lld times)", (long long)signals);
    is_int(st.right, 400, "B1: interrupted system calls are nobody's business: the answers are right");
    is_int(st.wrong, 0, "and no call fails for them");
    is_int(unknown, 8, "B9: nor do deadlines change");
    is_int(early, 0, "neither forward");
    ok(worst < allowed, "nor back (%.1f ms late, %.1f allowed)", worst, allowed);
    quiet(pool);
}

int main(void)
{
    tap_begin(60);
    ctl = control();
    PGconn *locker = control();
    one(ctl, "create table gate (id int)");
    pqpool *pool = shared_pool("pool_max_size=6");
    running(pool);
    close_pool(pool);
    ok(eventually(backends(ctl, APP) == 0), "a closed pool leaves no server process behind");
    pool = shared_pool("pool_max_size=6");
    freeze(pool);
    members(locker, pool);
    unplaced();
    PQfinish(locker);
    locker = control();
    close_pool(pool);
    ok(eventually(backends(ctl, APP) == 0), "no server process is left behind");
    never_sent(locker);
    ok(eventually(backends(ctl, APP) == 0), "nor here");
    pool = shared_pool("pool_max_size=6");
    interrupted(pool);
    close_pool(pool);
    PQfinish(locker);
    PQfinish(ctl);
    return done_testing();
}
