/* Callbacks for event loops: one for each statement and lease asked for, in the thread that dispatches. */
#include "support/nemesis.h"

#include <fcntl.h>
#include <semaphore.h>

#define APP "callbacks"
#define NAMED "application_name=" APP " "

static PGconn *ctl;

/* ---- tools ---- */

static bool readable(pqpool *pool)
{
    struct pollfd p = {.fd = pqpool_fd(pool), .events = POLLIN};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
}

/* An event loop in small: waits for the descriptor and dispatches until the condition holds. */
#define loop_until(pool, condition)                                                                          \
    __extension__({                                                                                          \
        struct pollfd p_ = {.fd = pqpool_fd(pool), .events = POLLIN};                                        \
        double end_ = now_s() + 10.0 * tap_slowness();                                                       \
        while (!(condition) && now_s() < end_)                                                               \
            if (poll(&p_, 1, 100) == 1 && pqpool_dispatch(pool) < 0)                                         \
                bail("dispatch");                                                                            \
        (condition);                                                                                         \
    })

/* What one callback was told. */
typedef struct note {
    pqpool *pool;
    _Atomic int calls;
    PGresult *res;
    pqpool_error err;
    pqpool_lease lease;
    bool lent;
    pthread_t thread;
} note;

static void take_note(PGresult *res, const pqpool_error *err, void *arg)
{
    note *n = arg;
    PQclear(n->res);
    n->res = res;
    n->err = *err;
    n->thread = pthread_self();
    n->calls++;
}

static void take_lease(pqpool_lease *lease, const pqpool_error *err, void *arg)
{
    note *n = arg;
    n->err = *err;
    n->lent = lease != NULL;
    if (lease)
        n->lease = *lease;
    n->thread = pthread_self();
    n->calls++;
}

static void submit_to(pqpool *pool, const char *sql, pqpool_callback callback, void *arg)
{
    pqpool_error err;
    if (code_submit_cb(pool, &(pqpool_stmt){PQPOOL_STMT, .sql = sql}, callback, arg, &err) != PQPOOL_OK)
        bail("submit %s: %s", sql, err.message);
}

static void ask_lease(pqpool *pool, int timeout_ms, note *n)
{
    pqpool_error err;
    pqpool_acquire_options options = {PQPOOL_ACQUIRE, .timeout_ms = timeout_ms};
    *n = (note){.pool = pool};
    if (code_acquire_cb(pool, &options, take_lease, n, &err) != PQPOOL_OK)
        bail("acquire_cb: %s", err.message);
}

static void forget(note *n)
{
    PQclear(n->res);
    *n = (note){0};
}

static void pool_ends(pqpool *pool)
{
    ok(eventually(stats(pool).promised == 0), "no callback is owed in the end");
    ok(!readable(pool), "and the descriptor is silent");
    close_pool(pool);
    ok(eventually(backends(ctl, APP) == 0), "a freed pool leaves no server process behind");
}

/* ---- the descriptor ---- */

static void descriptor(void)
{
    pqpool *pool = open_pool(NAMED, NULL);
    int fd = pqpool_fd(pool);
    ok(fd >= 0, "a pool has a descriptor");
    ok(fcntl(fd, F_GETFD) & FD_CLOEXEC, "it is close-on-exec");
    ok(fcntl(fd, F_GETFL) & O_NONBLOCK, "and non-blocking");
    ok(!readable(pool), "B4: silent when nothing is ready");
    is_int(pqpool_dispatch(pool), 0, "dispatch has nothing to do then, and does not block");
    note a = {0}, b = {0};
    submit_to(pool, "select 'a'", take_note, &a);
    ok(eventually(readable(pool)), "B4: readable when an answer is there");
    is_int(a.calls, 0, "and no callback has been run");
    is_int(stats(pool).statements, 0, "B13: the answer holds no place on the connection");
    submit_to(pool, "select 'b'", take_note, &b);
    ok(eventually(stats(pool).statements == 0), "another statement has ended");
    ok(readable(pool) && readable(pool), "B4: it is level-triggered");
    is_int(stats(pool).promised, 2, "two callbacks are owed");
    is_int(pqpool_free(pool), PQPOOL_EBUSY, "so the pool can't be freed");
    ok(loop_until(pool, a.calls + b.calls == 2), "dispatch runs both");
    ok(!readable(pool), "B4: and the descriptor is silent again");
    ok(a.calls == 1 && strcmp(value(a.res), "a") == 0 && a.err.code == PQPOOL_OK && a.err.row == -1,
       "B4: one has its answer");
    ok(b.calls == 1 && strcmp(value(b.res), "b") == 0, "and the other");
    ok(pthread_equal(a.thread, pthread_self()), "B4: in the thread that dispatches");
    is_int(pqpool_fd(pool), fd, "the descriptor stays the same");
    is_int(pqpool_fd(NULL), -1, "no pool has none");
    is_int(pqpool_dispatch(NULL), -PQPOOL_EINVAL, "and can't be dispatched");
    forget(&a), forget(&b);
    pool_ends(pool);
}

/* ---- what comes back ---- */

static void answers(pqpool *pool)
{
    note n = {0};
    submit_to(pool, "select 1 / 0", take_note, &n);
    ok(loop_until(pool, n.calls), "a callback comes for a failed statement");
    ok(PQresultStatus(n.res) == PGRES_FATAL_ERROR && n.err.code == PQPOOL_ESERVER &&
           strcmp(n.err.sqlstate, "22012") == 0,
       "with the server's error");
    forget(&n);

    char sql[] = "select $1::text", text[] = "copied";
    const char *values[] = {text};
    pqpool_stmt stmt = {PQPOOL_STMT, .sql = sql, .n_params = 1, .param_values = values};
    is_int(code_submit_cb(pool, &stmt, take_note, &n, NULL), PQPOOL_OK, "no pqpool_error is needed");
    memset(sql, 'x', sizeof sql - 1), memset(text, 'x', sizeof text - 1), values[0] = NULL;
    ok(loop_until(pool, n.calls) && strcmp(value(n.res), "copied") == 0, "what is handed in is copied");
    forget(&n);

    double began = now_s();
    stmt = (pqpool_stmt){PQPOOL_STMT, .sql = "select pg_sleep(20)", .timeout_ms = 60};
    is_int(code_submit_cb(pool, &stmt, take_note, &n, NULL), PQPOOL_OK, "a slow statement is submitted");
    ok(loop_until(pool, n.calls) && now_s() - began < 0.26 * tap_slowness(),
       "B9: its callback comes at its deadline");
    ok((n.err.code == PQPOOL_ESERVER && strcmp(n.err.sqlstate, "57014") == 0) ||
           (n.err.code == PQPOOL_ETIMEDOUT && n.err.outcome == PQPOOL_UNKNOWN),
       "B9: by the server's word or the pool's");
    forget(&n);
}

static void take_group(PGresult **results, const pqpool_error *errors, int n, void *arg);

static void refused(pqpool *pool)
{
    pqpool_error err;
    note n = {0};
    pqpool_stmt two[] = {{PQPOOL_STMT, .sql = "select 1"}, {PQPOOL_STMT, .sql = "commit"}};
    is_int(code_submit_cb(pool, &two[1], take_note, &n, &err), PQPOOL_EREFUSED, "a statement is refused");
    ok(err.code == PQPOOL_EREFUSED && err.outcome == PQPOOL_NOT_SENT, "and the error says so");
    is_int(code_submit_cb(pool, &two[1], take_note, &n, NULL), PQPOOL_EREFUSED, "without an error too");
    is_int(code_submit_cb(pool, NULL, take_note, &n, &err), PQPOOL_EINVAL, "no statement");
    is_int(code_submit_cb(pool, two, NULL, &n, &err), PQPOOL_EINVAL, "no callback");
    is_int(code_submit_cb(NULL, two, take_note, &n, &err), PQPOOL_EINVAL, "no pool");
    is_int(code_submit_all_cb(pool, two, 2, PQPOOL_EACH, take_group, &n, &err), PQPOOL_EREFUSED,
           "a group with a member that is refused");
    is_int(err.row, 1, "which the error names");
    is_int(code_submit_all_cb(pool, two, -1, PQPOOL_EACH, take_group, &n, &err), PQPOOL_EINVAL,
           "a group of -1");
    is_int(code_submit_all_cb(pool, NULL, 1, PQPOOL_EACH, take_group, &n, &err), PQPOOL_EINVAL,
           "a group of nothing");
    is_int(code_submit_all_cb(pool, two, 1, PQPOOL_EACH, NULL, &n, &err), PQPOOL_EINVAL,
           "a group without a callback");
    is_int(code_submit_all_cb(pool, two, 1, (pqpool_group_mode)7, take_group, &n, &err), PQPOOL_EINVAL,
           "a group of an unknown mode");
    is_int(code_acquire_cb(pool, NULL, NULL, &n, &err), PQPOOL_EINVAL, "a lease without a callback");
    is_int(code_acquire_cb(NULL, NULL, take_lease, &n, &err), PQPOOL_EINVAL, "a lease without a pool");
    is_int(code_acquire_cb(pool, &(pqpool_acquire_options){.size = 0}, take_lease, &n, &err), PQPOOL_EINVAL,
           "options without a size");
    is_int(code_acquire_cb(pool, &(pqpool_acquire_options){PQPOOL_ACQUIRE, .timeout_ms = -3}, take_lease,
                             &n, &err),
           PQPOOL_EINVAL, "a time-out of -3");
    is_int(
        code_acquire_cb(pool, &(pqpool_acquire_options){PQPOOL_ACQUIRE, .flags = 1}, take_lease, &n, &err),
        PQPOOL_EINVAL, "an unknown flag");
    is_int(stats(pool).promised, 0, "B4: nothing is owed for a call that failed");
    is_int(pqpool_dispatch(pool), 0, "B4: and there is no callback");
    is_int(n.calls, 0, "none at all");
}

/* ---- groups ---- */

enum { MANY = 1000 };

typedef struct group {
    _Atomic int calls;
    int n, right, failed, canceled, first_failed;
} group;

static void take_group(PGresult **results, const pqpool_error *errors, int n, void *arg)
{
    group *g = arg;
    g->n = n;
    g->first_failed = -1;
    for (int i = 0; i < n; i++) {
        char want[16];
        snprintf(want, sizeof want, "%d", i);
        g->right += errors[i].code == PQPOOL_OK && strcmp(value(results[i]), want) == 0;
        g->failed += errors[i].code == PQPOOL_ESERVER && errors[i].row == i;
        g->canceled += errors[i].code == PQPOOL_ECANCELED && !results[i];
        if (errors[i].code != PQPOOL_OK && g->first_failed < 0)
            g->first_failed = i;
        PQclear(results[i]);
    }
    g->calls++;
}

/* The members say their index; the one called `bad` fails. */
static group run_group(pqpool *pool, int n, int bad, pqpool_group_mode mode)
{
    static pqpool_stmt stmts[MANY];
    static char numbers[MANY][16];
    static const char *values[MANY];
    group g = {0};
    pqpool_error err;
    for (int i = 0; i < n; i++) {
        snprintf(numbers[i], sizeof numbers[i], "%d", i);
        values[i] = numbers[i];
        stmts[i] = (pqpool_stmt){PQPOOL_STMT, .sql = i == bad ? "select $1::int / 0" : "select $1::int",
                                 .n_params = 1, .param_values = &values[i]};
    }
    if (code_submit_all_cb(pool, stmts, n, mode, take_group, &g, &err) != PQPOOL_OK)
        bail("submit_all_cb: %s", err.message);
    memset(stmts, 0xa5, sizeof stmts), memset(numbers, 'x', sizeof numbers);
    if (!loop_until(pool, g.calls))
        bail("no callback for a group of %d", n);
    return g;
}

static void groups(pqpool *pool)
{
    static const int sizes[] = {0, 1, 3, MANY};
    for (int i = 0; i < 4; i++)
        for (int mode = PQPOOL_EACH; mode <= PQPOOL_ATOMIC; mode++) {
            const char *name = mode == PQPOOL_EACH ? "each for itself" : "all or nothing";
            group g = run_group(pool, sizes[i], -1, (pqpool_group_mode)mode);
            ok(g.calls == 1 && g.n == sizes[i] && g.right == sizes[i],
               "B4: a group of %d, %s, has one callback, with each member's answer", sizes[i], name);
        }
    group g = run_group(pool, MANY, 500, PQPOOL_EACH);
    ok(g.right == MANY - 1 && g.failed == 1 && g.first_failed == 500,
       "B4: one member that fails has its own error");
    g = run_group(pool, MANY, 500, PQPOOL_ATOMIC);
    ok(g.right == 0 && g.failed == 1 && g.canceled == MANY - 1,
       "B4: all or nothing: with one that fails the others are ECANCELED");
    is_int(pqpool_dispatch(pool), 0, "B4: and that was all");
}

/* ---- groups that meet trouble ---- */

enum { TRIO = 3 };

/* What each member of a group of three was told. */
typedef struct trio {
    _Atomic int calls;
    pqpool_error errors[TRIO];
    char values[TRIO][16];
} trio;

static void take_trio(PGresult **results, const pqpool_error *errors, int n, void *arg)
{
    trio *t = arg;
    for (int i = 0; i < n; i++) {
        t->errors[i] = errors[i];
        snprintf(t->values[i], sizeof t->values[i], "%s", value(results[i]));
        PQclear(results[i]);
    }
    t->calls++;
}

static void submit_trio(pqpool *pool, trio *t, pqpool_group_mode mode, const char *first, int first_limit)
{
    pqpool_error err;
    pqpool_stmt stmts[TRIO] = {{PQPOOL_STMT, .sql = first, .timeout_ms = first_limit},
                               {PQPOOL_STMT, .sql = "select 'second'"},
                               {PQPOOL_STMT, .sql = "select 'third'"}};
    *t = (trio){0};
    if (code_submit_all_cb(pool, stmts, TRIO, mode, take_trio, t, &err) != PQPOOL_OK)
        bail("submit_all_cb: %s", err.message);
}

static bool told(const trio *t, int i, pqpool_code code, pqpool_outcome outcome)
{
    bool as_told = t->errors[i].code == (int)code && t->errors[i].outcome == (int)outcome &&
                   t->errors[i].row == (code == PQPOOL_OK ? -1 : i);
    if (!as_told)
        diag("member %d: %s, outcome %d, row %d: %s", i, pqpool_code_name((pqpool_code)t->errors[i].code),
             t->errors[i].outcome, (int)t->errors[i].row, t->errors[i].message);
    return as_told;
}

static void troubled(void)
{
    PGconn *locker = control();
    trio t;
    one(ctl, "drop table if exists callback_gate");
    one(ctl, "create table callback_gate (id int)");
    for (int mode = PQPOOL_EACH; mode <= PQPOOL_ATOMIC; mode++) {
        pqpool *pool = open_pool(NAMED "pool_shared_max=1", NULL);
        one(locker, "begin");
        one(locker, "lock table callback_gate in access exclusive mode");
        submit_trio(pool, &t, (pqpool_group_mode)mode, "select count(*) from callback_gate", 0);
        pid_t pid = backend_of(ctl, APP);
        if (!eventually(waits_for(ctl, pid, "Lock")))
            bail("the group does not wait for its lock");
        terminate(ctl, pid);
        ok(loop_until(pool, t.calls), "B10: a group whose connection is lost has its callback");
        if (mode == PQPOOL_EACH)
            ok(told(&t, 0, PQPOOL_ELOST, PQPOOL_UNKNOWN) && told(&t, 1, PQPOOL_OK, PQPOOL_DONE) &&
                   told(&t, 2, PQPOOL_OK, PQPOOL_DONE) && strcmp(t.values[2], "third") == 0,
               "B10: each for itself: the head is UNKNOWN, the others run elsewhere");
        else
            ok(told(&t, 0, PQPOOL_ELOST, PQPOOL_UNKNOWN) && t.errors[1].code == PQPOOL_ELOST &&
                   t.errors[2].code == PQPOOL_ELOST,
               "B10: all or nothing: none of it is repeated");
        one(locker, "rollback");
        pool_ends(pool);
    }

    pqpool *pool = open_pool(NAMED "pool_max_size=1", NULL);
    pqpool_lease lease = take(pool);
    submit_trio(pool, &t, PQPOOL_EACH, "select 'first'", 50);
    ok(eventually(stats(pool).timeouts == 1), "a member's deadline passes while there is no connection");
    is_int(t.calls, 0, "the group waits on");
    pqpool_release(&lease);
    ok(loop_until(pool, t.calls) && told(&t, 0, PQPOOL_ETIMEDOUT, PQPOOL_NOT_SENT) &&
           told(&t, 1, PQPOOL_OK, PQPOOL_DONE) && strcmp(t.values[1], "second") == 0 &&
           strcmp(t.values[2], "third") == 0,
       "B9: that member is NOT_SENT, the others have their answers");
    lease = take(pool);
    submit_trio(pool, &t, PQPOOL_ATOMIC, "select 'first'", 50);
    ok(loop_until(pool, t.calls) && told(&t, 0, PQPOOL_ETIMEDOUT, PQPOOL_NOT_SENT) &&
           told(&t, 1, PQPOOL_ETIMEDOUT, PQPOOL_NOT_SENT) && told(&t, 2, PQPOOL_ETIMEDOUT, PQPOOL_NOT_SENT),
       "B9: all or nothing: the deadline of one is that of all");
    submit_trio(pool, &t, PQPOOL_EACH, "select 'first'", 0);
    is_int(pqpool_close(pool, 0), PQPOOL_ETIMEDOUT, "the pool is closed while a group waits");
    ok(loop_until(pool, t.calls) && told(&t, 0, PQPOOL_ECLOSED, PQPOOL_NOT_SENT) &&
           told(&t, 1, PQPOOL_ECLOSED, PQPOOL_NOT_SENT) && told(&t, 2, PQPOOL_ECLOSED, PQPOOL_NOT_SENT),
       "all its members are ECLOSED, NOT_SENT");
    pqpool_release(&lease);
    is_int(pqpool_free(pool), PQPOOL_OK, "and the pool can be freed");
    one(ctl, "drop table callback_gate");
    PQfinish(locker);
}

/* ---- exactly one ---- */

enum { THREADS = 8, EACH = 500 };

typedef struct tally {
    pqpool *pool;
    _Atomic int submitted, called, right, stop;
    _Atomic int calls[THREADS * EACH];
} tally;

static tally counts;

static void count_call(PGresult *res, const pqpool_error *err, void *arg)
{
    _Atomic int *mine = arg;
    int number = (int)(mine - counts.calls);
    ++*mine;
    counts.right +=
        number % 5 == 0 ? err->code == PQPOOL_ESERVER : err->code == PQPOOL_OK && atoi(value(res)) == number;
    counts.called++;
    PQclear(res);
}

/* The even ones submit, the odd ones dispatch. */
static void submit_or_dispatch(int i, void *arg)
{
    tally *t = arg;
    for (int k = 0; i % 2 == 0 && k < EACH; k++) {
        int number = i / 2 * EACH + k;
        char text[16];
        snprintf(text, sizeof text, "%d", number);
        pqpool_stmt stmt = {PQPOOL_STMT, .sql = number % 5 ? "select $1::int" : "select ('x' || $1)::int",
                            .n_params = 1, .param_values = (const char *[]){text}};
        if (code_submit_cb(t->pool, &stmt, count_call, &t->calls[number], NULL) == PQPOOL_OK)
            t->submitted++;
    }
    if (i % 2)
        (void)loop_until(t->pool, t->called == THREADS * EACH);
}

static void exactly_one(pqpool *pool)
{
    counts = (tally){.pool = pool};
    in_threads(2 * THREADS, submit_or_dispatch, &counts);
    int once = 0;
    for (int k = 0; k < THREADS * EACH; k++)
        once += counts.calls[k] == 1;
    is_int(counts.submitted, THREADS * EACH, "eight threads submit, eight others dispatch");
    is_int(once, THREADS * EACH, "B4: each statement has exactly one callback");
    is_int(counts.right, THREADS * EACH, "B1: with its own answer");
}

/* ---- what a callback may do ---- */

typedef struct chain {
    pqpool *pool;
    int left, failures;
    pqpool_code close_code, free_code;
    _Atomic int calls;
} chain;

static void submit_next(PGresult *res, const pqpool_error *err, void *arg)
{
    chain *c = arg;
    c->failures += err->code != PQPOOL_OK;
    PQclear(res);
    c->calls++;
    if (--c->left > 0)
        submit_to(c->pool, "select 1", submit_next, c);
}

static void run_inside(PGresult *res, const pqpool_error *err, void *arg)
{
    chain *c = arg;
    pqpool_error mine;
    c->failures += err->code != PQPOOL_OK;
    PQclear(res);
    res = pqpool_exec(c->pool, "select 'inside'", &mine);
    c->failures += mine.code != PQPOOL_OK || strcmp(value(res), "inside") != 0;
    PQclear(res);
    pqpool_ticket *ticket =
        pqpool_submit(c->pool, &(pqpool_stmt){PQPOOL_STMT, .sql = "select 'ticket'"}, NULL);
    res = pqpool_wait(ticket, -1, &mine);
    c->failures += mine.code != PQPOOL_OK || strcmp(value(res), "ticket") != 0;
    PQclear(res);
    pqpool_lease lease;
    c->failures += pqpool_acquire(c->pool, &lease, NULL) != PQPOOL_OK;
    res = PQexec(lease.conn, "select 'leased'");
    c->failures += strcmp(value(res), "leased") != 0;
    PQclear(res);
    c->failures += pqpool_release(&lease) != PQPOOL_OK;
    c->free_code = pqpool_free(c->pool);
    c->calls++;
}

static void dispatch_inside(PGresult *res, const pqpool_error *err, void *arg)
{
    chain *c = arg;
    c->failures += err->code != PQPOOL_OK;
    PQclear(res);
    note n = {0};
    submit_to(c->pool, "select 'nested'", take_note, &n);
    c->failures += !loop_until(c->pool, n.calls) || strcmp(value(n.res), "nested") != 0;
    forget(&n);
    c->calls++;
}

static void close_inside(PGresult *res, const pqpool_error *err, void *arg)
{
    chain *c = arg;
    c->failures += err->code != PQPOOL_OK;
    PQclear(res);
    c->close_code = pqpool_close(c->pool, 1000 * tap_slowness());
    c->free_code = pqpool_free(c->pool);
    c->calls++;
}

static void inside(pqpool *pool)
{
    chain c = {.pool = pool, .left = 100};
    submit_to(pool, "select 1", submit_next, &c);
    ok(loop_until(pool, c.calls == 100) && c.failures == 0,
       "a callback submits the next statement, 100 times");
    c = (chain){.pool = pool, .left = 2};
    submit_to(pool, "select 1", submit_next, &c);
    if (!eventually(readable(pool)))
        bail("no answer");
    is_int(pqpool_dispatch(pool), 1, "dispatch runs what is ready, not what its callbacks bring about");
    ok(loop_until(pool, c.calls == 2), "which is for the next time");

    c = (chain){.pool = pool};
    submit_to(pool, "select 1", run_inside, &c);
    ok(loop_until(pool, c.calls) && c.failures == 0,
       "a callback runs blocking statements, waits for a ticket, acquires and releases");
    is_int(c.free_code, PQPOOL_EBUSY, "it can't free the pool");

    c = (chain){.pool = pool};
    submit_to(pool, "select 1", dispatch_inside, &c);
    ok(loop_until(pool, c.calls) && c.failures == 0, "a callback dispatches");

    pqpool *other = open_pool(NAMED "pool_max_size=2", NULL);
    note n = {0};
    c = (chain){.pool = other};
    submit_to(other, "select 1", close_inside, &c);
    if (!eventually(readable(other)))
        bail("no answer");
    submit_to(other, "select 'late'", take_note, &n);
    ok(loop_until(other, c.calls) && c.failures == 0, "a callback closes the pool");
    is_int(c.close_code, PQPOOL_OK, "which waits for what is running");
    is_int(c.free_code, PQPOOL_EBUSY, "it can't free it then, either");
    ok(loop_until(other, n.calls) && n.err.code == PQPOOL_OK, "the other callback comes all the same");
    is_int(pqpool_free(other), PQPOOL_OK, "and afterwards the pool can be freed");
    forget(&n);
}

/* ---- the slow consumer ---- */

typedef struct held {
    sem_t begun, go_on;
    _Atomic int calls, right;
    pqpool *pool;
} held;

static void hold(PGresult *res, const pqpool_error *err, void *arg)
{
    held *h = arg;
    (void)err;
    PQclear(res);
    sem_post(&h->begun);
    while (sem_wait(&h->go_on) != 0)
        continue;
    h->calls++;
}

static void *dispatch_main(void *arg)
{
    held *h = arg;
    (void)loop_until(h->pool, h->calls == 1);
    return NULL;
}

static void exec_many(int i, void *arg)
{
    held *h = arg;
    for (int k = 0; k < 250; k++) {
        char text[16];
        pqpool_error err;
        snprintf(text, sizeof text, "%d", i * 250 + k);
        PGresult *res = pqpool_exec_params(h->pool, "select $1::int", 1, NULL, (const char *[]){text}, NULL,
                                           NULL, 0, &err);
        h->right += err.code == PQPOOL_OK && strcmp(value(res), text) == 0;
        PQclear(res);
    }
}

static void slow_consumer(pqpool *pool)
{
    held h = {.pool = pool};
    pthread_t thread;
    sem_init(&h.begun, 0, 0), sem_init(&h.go_on, 0, 0);
    submit_to(pool, "select 1", hold, &h);
    if (pthread_create(&thread, NULL, dispatch_main, &h) != 0)
        bail("pthread_create");
    while (sem_wait(&h.begun) != 0)
        continue;
    in_threads(4, exec_many, &h);
    ok(h.right == 1000 && h.calls == 0,
       "B4: while a callback takes its time, 1000 statements of other threads run");
    note n = {0};
    submit_to(pool, "select 'other'", take_note, &n);
    ok(loop_until(pool, n.calls) && strcmp(value(n.res), "other") == 0,
       "and another thread dispatches other callbacks");
    forget(&n);
    pqpool_lease lease = take(pool);
    ok(pqpool_release(&lease) == PQPOOL_OK && h.calls == 0, "and leases");
    sem_post(&h.go_on);
    pthread_join(thread, NULL);
    is_int(h.calls, 1, "and it ends when it will");
    sem_destroy(&h.begun), sem_destroy(&h.go_on);
}

/* ---- leases ---- */

static void leases(void)
{
    pqpool *pool = open_pool(NAMED "pool_max_size=1", NULL);
    note n;
    ask_lease(pool, -1, &n);
    is_int(stats(pool).promised, 1, "a lease that is asked for is owed");
    ok(loop_until(pool, n.calls) && n.lent && n.err.code == PQPOOL_OK, "B4: it comes by a callback");
    ok(n.lease.conn && n.lease.pool == pool && pthread_equal(n.thread, pthread_self()),
       "with a connection, in the thread that dispatches");
    is_int(stats(pool).leased, 1, "it is out");
    is_int(stats(pool).promised, 0, "and owed no more");
    PGresult *res = PQexec(n.lease.conn, "begin");
    PQclear(res);
    note late, off;
    double began = now_s();
    ask_lease(pool, 50, &late);
    is_int(stats(pool).waiting, 1, "the next one waits");
    ok(loop_until(pool, late.calls) && !late.lent && late.err.code == PQPOOL_ETIMEDOUT,
       "and is told at its deadline that there is none");
    ok(now_s() - began >= 0.049 && now_s() - began < 10.0 * tap_slowness(), "in time");
    has(late.err.message, "no connection was free within ", "why: how long it waited");
    has(late.err.message, "max_size 1: 1 leased", "and with the pool's figures");
    is_int(late.err.outcome, PQPOOL_NOT_SENT, "nothing was sent");
    off = (note){0};
    pqpool_error err;
    is_int(code_acquire_cb(pool, &(pqpool_acquire_options){PQPOOL_ACQUIRE, .timeout_ms = 0}, take_lease,
                             &off, &err),
           PQPOOL_ETIMEDOUT, "a lease that may not wait is refused at once");
    ask_lease(pool, -1, &late);
    is_int(pqpool_release(&n.lease), PQPOOL_OK, "the first one is given back as any other");
    ok(loop_until(pool, late.calls) && late.lent, "and goes to who waits");
    is_int(PQtransactionStatus(late.lease.conn), PQTRANS_IDLE, "clean");
    pqpool_release(&late.lease);
    is_int(off.calls, 0, "what was refused has no callback");
    is_int(code_acquire_cb(pool, NULL, take_lease, &off, NULL), PQPOOL_OK, "options are not needed");
    ok(loop_until(pool, off.calls) && off.lent, "nor an error");
    pqpool_release(&off.lease);
    pool_ends(pool);

    pool = open_pool(NAMED "pool_max_size=1 pool_wait=off", NULL);
    pqpool_lease lease = take(pool);
    is_int(code_acquire_cb(pool, NULL, take_lease, &n, &err), PQPOOL_ENOWAIT, "B8: wait=off refuses");
    pqpool_release(&lease);
    pool_ends(pool);
    pool = open_pool(NAMED "pool_max_size=1 pool_queue_limit=1", NULL);
    lease = take(pool);
    ask_lease(pool, -1, &n);
    is_int(code_acquire_cb(pool, NULL, take_lease, &off, &err), PQPOOL_EQUEUEFULL,
           "B8: queue_limit refuses");
    pqpool_release(&lease);
    ok(loop_until(pool, n.calls) && n.lent, "and the one that stood there is served");
    pqpool_release(&n.lease);
    pool_ends(pool);
}

typedef struct blocked {
    pqpool *pool;
    pthread_t thread;
    pqpool_lease lease;
    pqpool_code code;
    _Atomic int done;
} blocked;

static void *acquire_main(void *arg)
{
    blocked *b = arg;
    pqpool_error err;
    b->code = pqpool_acquire(b->pool, &b->lease, &err);
    b->done = 1;
    return NULL;
}

static void block_in_queue(pqpool *pool, blocked *b, int waiting)
{
    *b = (blocked){.pool = pool};
    if (pthread_create(&b->thread, NULL, acquire_main, b) != 0)
        bail("pthread_create");
    if (!eventually(stats(pool).waiting == waiting))
        bail("the thread does not wait");
}

static void first_come(void)
{
    pqpool *pool = open_pool(NAMED "pool_max_size=1", NULL);
    pqpool_lease lease = take(pool);
    note n[2];
    blocked b[2];
    ask_lease(pool, -1, &n[0]);
    block_in_queue(pool, &b[0], 2);
    ask_lease(pool, -1, &n[1]);
    is_int(stats(pool).waiting, 3, "blocking callers and those with a callback stand in one queue");
    block_in_queue(pool, &b[1], 4);
    pqpool_release(&lease);
    ok(eventually(readable(pool)) && !b[0].done && !b[1].done, "B8: who came first is served first");
    pqpool_dispatch(pool);
    ok(n[0].lent && !n[1].calls, "by his callback");
    pqpool_release(&n[0].lease);
    pthread_join(b[0].thread, NULL);
    ok(b[0].code == PQPOOL_OK && !readable(pool) && !b[1].done, "B8: then the thread that came second");
    pqpool_release(&b[0].lease);
    ok(loop_until(pool, n[1].calls) && n[1].lent && !b[1].done, "B8: then the second callback");
    pqpool_release(&n[1].lease);
    pthread_join(b[1].thread, NULL);
    is_int(b[1].code, PQPOOL_OK, "B8: and the last comes last");
    pqpool_release(&b[1].lease);
    pool_ends(pool);
}

/* Lent while the event loop was busy, dead when it looks: it waits on, in front of those who came later. */
static void broken(void)
{
    pqpool *pool = open_pool(NAMED "pool_max_size=1 pool_test_on_borrow=on", NULL);
    note n[2];
    blocked b;
    pqpool_lease lease = take(pool);
    int pid = PQbackendPID(lease.conn);
    pqpool_release(&lease);
    ask_lease(pool, -1, &n[0]);
    ok(eventually(readable(pool)), "an idle connection is lent to a callback that has not been run");
    block_in_queue(pool, &b, 1);
    ask_lease(pool, -1, &n[1]);
    terminate(ctl, pid);
    if (!eventually(gone(ctl, pid)))
        bail("the process does not end");
    ok(loop_until(pool, n[0].calls) && n[0].lent,
       "A7: its server process ended: another one is lent instead");
    ok(PQbackendPID(n[0].lease.conn) != pid && !b.done && !n[1].calls,
       "B8: and the place in the queue is kept");
    pqpool_release(&n[0].lease);
    pthread_join(b.thread, NULL);
    pqpool_release(&b.lease);
    ok(loop_until(pool, n[1].calls) && n[1].lent, "the others follow");
    pqpool_release(&n[1].lease);
    pool_ends(pool);

    /* All of a pool's idle connections. */
    enum { N = 4 };
    pool = open_pool(NAMED "pool_max_size=4 pool_initial_size=4 pool_test_on_borrow=on", NULL);
    note all[N];
    if (!eventually(stats(pool).idle == N))
        bail("no four idle connections");
    for (int i = 0; i < N; i++)
        ask_lease(pool, -1, &all[i]);
    one(ctl,
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = '" APP "'");
    if (!eventually(backends(ctl, APP) == 0))
        bail("the processes do not end");
    int lent = 0, work = 0;
    ok(loop_until(pool, all[0].calls + all[1].calls + all[2].calls + all[3].calls == N),
       "A7: four are lent and end before their callbacks run: each is told once");
    for (int i = 0; i < N; i++)
        if (all[i].lent) {
            PGresult *res = PQexec(all[i].lease.conn, "select 'works'");
            lent++;
            work += strcmp(value(res), "works") == 0;
            PQclear(res);
            pqpool_release(&all[i].lease);
        }
    is_int(lent, N, "all are served");
    is_int(work, N, "by connections that work");
    pool_ends(pool);
}

static void closed_between(void)
{
    pqpool *pool = open_pool(NAMED "pool_max_size=1", NULL);
    note n[2];
    pqpool_lease lease = take(pool);
    pqpool_release(&lease);
    ask_lease(pool, -1, &n[0]);
    if (!eventually(readable(pool)))
        bail("an idle connection is not lent");
    ask_lease(pool, -1, &n[1]);
    is_int(pqpool_close(pool, 0), PQPOOL_ETIMEDOUT, "a pool is closed with a lease on its way");
    is_int(pqpool_free(pool), PQPOOL_EBUSY, "and not freed");
    ok(loop_until(pool, n[0].calls + n[1].calls == 2), "both callbacks come");
    ok(!n[1].lent && n[1].err.code == PQPOOL_ECLOSED, "who waited is told that the pool is closed");
    ok(n[0].lent ? pqpool_release(&n[0].lease) == PQPOOL_OK : n[0].err.code == PQPOOL_ECLOSED,
       "who was served has his lease, or is told so too");
    is_int(stats(pool).leased, 0, "no connection is lost on the way");
    is_int(pqpool_free(pool), PQPOOL_OK, "and the pool can be freed");
    ok(eventually(backends(ctl, APP) == 0), "its connection is closed");

    pool = open_pool(NAMED, NULL);
    pqpool_close(pool, 0);
    pqpool_error err;
    is_int(code_acquire_cb(pool, NULL, take_lease, &n[0], &err), PQPOOL_ECLOSED,
           "a closed pool lends nothing");
    is_int(code_submit_cb(pool, &(pqpool_stmt){PQPOOL_STMT, .sql = "select 1"}, take_note, &n[0], &err),
           PQPOOL_ECLOSED, "and runs nothing");
    is_int(pqpool_dispatch(pool), 0, "it can be dispatched");
    is_int(pqpool_free(pool), PQPOOL_OK, "and freed");
}

/* Close in the middle of everything, many times over. */
static void closed_in_the_middle(void)
{
    enum { N = 16 };
    int rounds = 40 / tap_slowness() + 1, wrong = 0, lost = 0;
    for (int k = 0; k < rounds; k++) {
        pqpool *pool = open_pool(NAMED "pool_max_size=3 pool_log_level=error", NULL);
        note statements[N] = {{0}}, asked[N];
        int owed = 0, calls = 0;
        for (int i = 0; i < N; i++) {
            submit_to(pool, "select 1", take_note, &statements[i]);
            ask_lease(pool, -1, &asked[i]);
            owed += 2;
        }
        for (int i = 0; i < k % 8; i++) /* so much is done before */
            pqpool_dispatch(pool);
        for (int i = 0; i < N && k % 2; i++)
            if (asked[i].lent)
                pqpool_release(&asked[i].lease);
        pqpool_close(pool, k % 3 ? 0 : 5);
        double end = now_s() + 10.0 * tap_slowness();
        while (now_s() < end && calls < owed) {
            if (poll(&(struct pollfd){.fd = pqpool_fd(pool), .events = POLLIN}, 1, 100) == 1)
                pqpool_dispatch(pool);
            calls = 0;
            for (int i = 0; i < N; i++) {
                calls += statements[i].calls + asked[i].calls;
                if (asked[i].lent && asked[i].lease.conn)
                    pqpool_release(&asked[i].lease);
            }
        }
        wrong += calls != owed;
        for (int i = 0; i < N; i++) {
            int code = statements[i].err.code;
            wrong += code != PQPOOL_OK && code != PQPOOL_ELOST && code != PQPOOL_ECLOSED;
            wrong += !asked[i].lent && asked[i].err.code != PQPOOL_ECLOSED;
            forget(&statements[i]);
        }
        lost += stats(pool).leased + stats(pool).promised;
        wrong += pqpool_free(pool) != PQPOOL_OK;
    }
    is_int(wrong, 0,
           "B4: closed in the middle, %d times: each callback comes once, with OK, ELOST or ECLOSED", rounds);
    is_int(lost, 0, "and no connection is lost");
    ok(eventually(backends(ctl, APP) == 0), "no server process is left behind");
}

int main(void)
{
    tap_begin(60);
    ctl = control();
    descriptor();
    pqpool *pool = open_pool(NAMED "pool_max_size=4", NULL);
    answers(pool);
    refused(pool);
    groups(pool);
    exactly_one(pool);
    inside(pool);
    slow_consumer(pool);
    pool_ends(pool);
    troubled();
    leases();
    first_come();
    broken();
    closed_between();
    closed_in_the_middle();
    PQfinish(ctl);
    return done_testing();
}
