/* What was asked for and is not wanted any more: taken back, and told apart from what came after it. */
#include "support/nemesis.h"

#define APP "application_name=taken-back "

static PGconn *ctl;
static _Atomic int called;
static int order[64], n_order;
static pqpool_lease got;

static void on_answer(PGresult *res, const pqpool_error *err, void *arg)
{
    (void)err;
    PQclear(res);
    if (arg && n_order < 64)
        order[n_order++] = *(int *)arg;
    called++;
}

static void on_group(PGresult **results, const pqpool_error *errors, int n, void *arg)
{
    (void)errors, (void)arg;
    for (int i = 0; i < n; i++)
        PQclear(results[i]);
    called++;
}

static void on_lease(pqpool_lease *lease, const pqpool_error *err, void *arg)
{
    (void)err, (void)arg;
    if (lease)
        got = *lease;
    called++;
}

static void dispatch(pqpool *pool, int ms)
{
    struct pollfd fd = {.fd = pqpool_fd(pool), .events = POLLIN};
    for (double end = now_s() + ms / 1000.0; now_s() < end;) {
        poll(&fd, 1, 5);
        pqpool_dispatch(pool);
    }
}

static void dispatch_until(pqpool *pool, int n)
{
    for (double end = now_s() + 10 * tap_slowness(); called < n && now_s() < end;)
        dispatch(pool, 5);
}

static pqpool_ticket *ask(pqpool *pool, const char *sql, void *arg)
{
    pqpool_error err;
    pqpool_stmt s = {PQPOOL_STMT, .sql = sql};
    pqpool_ticket *t = pqpool_submit_cb(pool, &s, on_answer, arg, &err);
    if (!t)
        bail("%s: %s", sql, err.message);
    return t;
}

/* ---- statements with a callback ---- */

static void callbacks(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=2 pool_shared_max=1", NULL);
    PQclear(pqpool_exec(pool, "select 1", NULL));
    called = 0;
    pqpool_ticket *t = ask(pool, "select pg_sleep(30)", NULL);
    if (!eventually(stats(pool).statements == 1))
        bail("it does not run");
    is_int(pqpool_abandon(t), PQPOOL_OK, "a callback whose statement runs is taken back");
    is_int(stats(pool).promised, 0, "nothing is out then");
    dispatch(pool, 150);
    is_int(called, 0, "it is not called");
    ok(eventually(
           atoi(one(ctl, "select count(*) from pg_stat_activity where application_name = 'taken-back' and "
                         "state = 'active'")) == 0),
       "its statement is stopped at the server");

    t = ask(pool, "select 1", NULL);
    if (!eventually(pqpool_ticket_done(t)))
        bail("it does not end");
    is_int(pqpool_abandon(t), PQPOOL_OK, "one whose answer is there, and was not dispatched, is taken back");
    dispatch(pool, 50);
    is_int(called, 0, "it is not called either");

    t = ask(pool, "select 1", NULL);
    dispatch_until(pool, 1);
    is_int(called, 1, "one that is dispatched is called");
    is_int(pqpool_abandon(t), PQPOOL_EBUSY, "then it is too late");
    ok(!pqpool_wait(t, 0, NULL), "what has a callback can't be waited for");

    called = 0;
    pqpool_stmt two[2] = {{PQPOOL_STMT, .sql = "select pg_sleep(0.2)"}, {PQPOOL_STMT, .sql = "select 2"}};
    t = pqpool_submit_all_cb(pool, two, 2, PQPOOL_EACH, on_group, NULL, NULL);
    is_int(pqpool_abandon(t), PQPOOL_OK, "a group is taken back");
    dispatch(pool, 400);
    is_int(called, 0, "it is not called");
    t = pqpool_submit_all_cb(pool, two, 0, PQPOOL_EACH, on_group, NULL, NULL);
    is_int(pqpool_abandon(t), PQPOOL_OK, "an empty group is taken back too");
    dispatch(pool, 20);
    is_int(called, 0, "and not called");
    t = ask(pool, "select 1", NULL);
    if (!eventually(pqpool_ticket_done(t)))
        bail("it does not end");
    pqpool_abandon(t);
    close_pool(pool);
    ok(true, "a pool is freed though something that was taken back was never dispatched");
}

static void on_itself(PGresult *res, const pqpool_error *err, void *arg)
{
    (void)err;
    PQclear(res);
    is_int(pqpool_abandon(*(pqpool_ticket **)arg), PQPOOL_EBUSY,
           "from within its own callback it is too late");
    called++;
}

static void within(void)
{
    pqpool *pool = open_pool(APP, NULL);
    pqpool_ticket *t = NULL;
    pqpool_stmt s = {PQPOOL_STMT, .sql = "select 1"};
    called = 0;
    t = pqpool_submit_cb(pool, &s, on_itself, &t, NULL);
    dispatch_until(pool, 1);
    close_pool(pool);
}

/* Callbacks that are ready together. */
static void in_order(void)
{
    enum { N = 40 };
    int numbers[N];
    pqpool *pool = open_pool(APP "pool_max_size=2 pool_shared_max=1", NULL);
    PQclear(pqpool_exec(pool, "select 1", NULL));
    for (int round = 0; round < 5; round++) {
        called = n_order = 0;
        ask(pool, "select pg_sleep(0.02)", NULL);
        for (int i = 0; i < N; i++) {
            numbers[i] = i;
            ask(pool, "select 1", &numbers[i]);
        }
        dispatch_until(pool, N + 1);
        int wrong = 0;
        for (int i = 0; i < N; i++)
            wrong += order[i] != i;
        if (round == 0 || wrong)
            is_int(wrong, 0,
                   "callbacks of statements that were submitted one after another run in that order");
    }
    close_pool(pool);
}

/* ---- leases ---- */

static void leases(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=1", NULL);
    pqpool_lease mine = take(pool);
    called = 0;
    pqpool_ticket *t = pqpool_acquire_cb(pool, NULL, on_lease, NULL, NULL);
    is_int(stats(pool).waiting, 1, "a lease that is asked for waits");
    is_int(pqpool_abandon(t), PQPOOL_OK, "it is taken back");
    is_int(stats(pool).waiting, 0, "it waits no more");
    is_int(stats(pool).promised, 0, "nothing is out");
    pqpool_release(&mine);
    dispatch(pool, 20);
    is_int(called, 0, "it is not called");

    mine = take(pool);
    t = pqpool_acquire_cb(pool, NULL, on_lease, NULL, NULL);
    pqpool_release(&mine);
    if (!eventually(pqpool_ticket_done(t)))
        bail("it is not granted");
    is_int(stats(pool).leased, 1, "a lease is granted before its callback runs");
    is_int(pqpool_abandon(t), PQPOOL_OK, "it is taken back all the same");
    is_int(stats(pool).leased, 0, "and goes back at once");
    dispatch(pool, 20);
    is_int(called, 0, "its callback does not run");
    ok(stats(pool).acquires == stats(pool).releases,
       "what was granted and what was given back are counted alike (%lld, %lld)",
       (long long)stats(pool).acquires, (long long)stats(pool).releases);

    t = pqpool_acquire_cb(pool, NULL, on_lease, NULL, NULL);
    dispatch_until(pool, 1);
    is_int(called, 1, "one that is dispatched is called");
    is_int(pqpool_abandon(t), PQPOOL_EBUSY, "then it is too late");
    pqpool_release(&got);
    close_pool(pool);
}

/* ---- tickets from before ---- */

static void stale(void)
{
    pqpool *pool = open_pool(APP, NULL);
    pqpool_error err;
    pqpool_ticket *old = submit_sql(pool, "select 'old'");
    PQclear(pqpool_wait(old, -1, &err));
    ok(!pqpool_wait(old, 0, &err) && err.code == PQPOOL_EINVAL, "a ticket is waited for once: %s",
       err.message);
    is_int(pqpool_abandon(old), PQPOOL_EINVAL, "and not given up afterwards");
    is_int(pqpool_ticket_done(old), 0, "nor is it done");
    int wrong = 0;
    for (int i = 0; i < 1000; i++) {
        pqpool_ticket *now = submit_sql(pool, "select 'now'");
        wrong += pqpool_abandon(old) != PQPOOL_EINVAL;
        wrong += pqpool_wait(old, 0, &err) != NULL || err.code != PQPOOL_EINVAL;
        wrong += !fetch_is(now, "now");
    }
    is_int(wrong, 0, "a ticket from before does nothing to the one that has its memory");
    called = 0;
    pqpool_ticket *cb = ask(pool, "select 1", NULL);
    dispatch_until(pool, 1);
    for (int i = 0; i < 100; i++) {
        called = 0;
        pqpool_ticket *next = ask(pool, "select 1", NULL);
        wrong += pqpool_abandon(cb) != PQPOOL_EBUSY;
        dispatch_until(pool, 1);
        wrong += called != 1;
        cb = i % 2 ? next : cb;
    }
    is_int(wrong, 0, "nor does one that had a callback");
    close_pool(pool);
}

/* ---- races ---- */

typedef struct race {
    pqpool *pool;
    _Atomic int stop, asked, taken, late, odd;
} race;

static void dispatches(race *r)
{
    while (!r->stop)
        pqpool_dispatch(r->pool);
}

static void give_back(pqpool_lease *lease, const pqpool_error *err, void *arg)
{
    (void)err, (void)arg;
    if (lease)
        pqpool_release(&(pqpool_lease){lease->conn, lease->pool, lease->token});
    called++;
}

static void race_lease(int i, void *arg)
{
    race *r = arg;
    if (i > 0) {
        dispatches(r);
        return;
    }
    for (int n = 0; n < 4000 / tap_slowness(); n++) {
        pqpool_ticket *t = pqpool_acquire_cb(r->pool, NULL, give_back, NULL, NULL);
        r->asked += t != NULL;
        for (volatile int k = 0; k < n % 2000; k++)
            ;
        pqpool_code code = pqpool_abandon(t);
        r->taken += code == PQPOOL_OK;
        r->late += code == PQPOOL_EBUSY;
    }
    r->stop = 1;
}

static void statement_race(int i, void *arg)
{
    race *r = arg;
    if (i > 0) {
        dispatches(r);
        return;
    }
    for (int n = 0; n < 4000 / tap_slowness(); n++) {
        pqpool_stmt s = {PQPOOL_STMT, .sql = "select 1"};
        pqpool_ticket *t = pqpool_submit_cb(r->pool, &s, on_answer, NULL, NULL);
        r->asked += t != NULL;
        for (volatile int k = 0; k < n % 20000; k++)
            ;
        pqpool_code code = pqpool_abandon(t);
        r->taken += code == PQPOOL_OK;
        r->late += code == PQPOOL_EBUSY;
    }
    r->stop = 1;
}

static void races(void)
{
    void (*const kinds[])(int, void *) = {statement_race, race_lease};
    static const char *const names[] = {"a statement", "a lease"};
    for (int k = 0; k < 2; k++) {
        race r = {.pool = open_pool(APP "pool_max_size=2", NULL)};
        called = 0;
        pqpool_fd(r.pool);
        in_threads(3, kinds[k], &r);
        dispatch(r.pool, 100);
        is_int(r.taken + r.late, r.asked,
               "%s that is taken back while others dispatch is taken back, or too late", names[k]);
        is_int(called, r.late, "its callback has run exactly where it was too late (%s; %d of %d)", names[k],
               r.late, r.asked);
        ok(eventually(stats(r.pool).leased == 0), "no lease is left to it (%s)", names[k]);
        close_pool(r.pool);
    }
}

/* ---- fairness, counting ---- */

static _Atomic int refuse_next;

static int refuse(PGconn *conn, void *arg)
{
    (void)conn, (void)arg;
    int refused = refuse_next > 0;
    refuse_next -= refused;
    return refused;
}

static void waits(int i, void *arg)
{
    pqpool_lease lease;
    pqpool_error err;
    (void)i;
    race *r = arg;
    pqpool_code code = pqpool_acquire_within(r->pool, 5000, &lease, &err);
    r->odd += code != PQPOOL_OK;
    if (code == PQPOOL_OK)
        pqpool_release(&lease);
    else
        diag("%s", err.message);
}

static void unfit(void)
{
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_acquire = refuse};
    race r = {.pool = open_pool(APP "pool_max_size=1 pool_queue_limit=1", &hooks)};
    pqpool_lease lease = take(r.pool);
    crew c;
    crew_start(&c, 1, waits, &r);
    if (!eventually(stats(r.pool).waiting == 1))
        bail("it does not wait");
    refuse_next = 1; /* what it is granted is unfit */
    pqpool_release(&lease);
    crew_join(&c);
    is_int(r.odd, 0, "a caller that is lent an unfit connection keeps its place, though the queue is full");
    refuse_next = 3;
    lease = take(r.pool);
    pqpool_release(&lease);
    ok(stats(r.pool).acquires == stats(r.pool).releases,
       "connections that on_acquire refuses are counted as given back (%lld, %lld)",
       (long long)stats(r.pool).acquires, (long long)stats(r.pool).releases);
    close_pool(r.pool);
}

int main(void)
{
    tap_begin(120);
    ctl = control();
    callbacks();
    within();
    in_order();
    leases();
    stale();
    races();
    unfit();
    PQfinish(ctl);
    return done_testing();
}
