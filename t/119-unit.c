/* Groups, each for itself and all or nothing: what is sent, what stands afterwards, and what each member is told. */
#include "support/nemesis.h"
#include "support/wire.h"

#define APP "unit-test"

static PGconn *ctl;

static pqpool *one_lane(const char *options)
{
    char conninfo[400];
    snprintf(conninfo, sizeof conninfo, "application_name=" APP " pool_shared_max=1 %s", options);
    return open_pool(conninfo, NULL);
}

enum { N = 5 };

typedef struct group {
    pqpool_stmt stmts[N];
    PGresult *results[N];
    pqpool_error errors[N];
    pqpool_code code;
} group;

static void run(pqpool *pool, group *g, pqpool_group_mode mode)
{
    g->code = pqpool_exec_all(pool, g->stmts, N, mode, g->results, g->errors);
}

static void drop(group *g)
{
    for (int i = 0; i < N; i++)
        PQclear(g->results[i]);
}

/* Inserts 0 .. N-1; at `bad` something that fails with the SQL given. */
static group inserts(int bad, const char *sql)
{
    static const char *const texts[N] = {
        "insert into unit_kept values (0) returning n", "insert into unit_kept values (1) returning n",
        "insert into unit_kept values (2) returning n", "insert into unit_kept values (3) returning n",
        "insert into unit_kept values (4) returning n"};
    group g = {0};
    for (int i = 0; i < N; i++)
        g.stmts[i] = (pqpool_stmt){PQPOOL_STMT, .sql = i == bad ? sql : texts[i]};
    return g;
}

static int kept(void)
{
    int n = atoi(one(ctl, "select count(*) from unit_kept"));
    one(ctl, "truncate unit_kept");
    return n;
}

static void one_sync(void)
{
    wire *proxy = wire_start(ctl);
    pqpool *pool = one_lane(wire_conninfo(proxy));
    group g = inserts(-1, NULL);
    for (int mode = 0; mode < 2; mode++) {
        int64_t syncs = wire_count(proxy, WIRE_ALL, WIRE_SYNC),
                trips = wire_count(proxy, WIRE_ALL, WIRE_ROUND_TRIP);
        wire_set_delay(proxy, mode == 0 ? 0 : 20);
        run(pool, &g, (pqpool_group_mode)mode);
        bool right = g.code == PQPOOL_OK;
        for (int i = 0; i < N; i++)
            right &= atoi(value(g.results[i])) == i && PQntuples(g.results[i]) == 1;
        ok(right, "B3: a group %s has each member's answer",
           mode ? "of all or nothing" : "of each for itself");
        drop(&g);
        syncs = wire_count(proxy, WIRE_ALL, WIRE_SYNC) - syncs;
        trips = wire_count(proxy, WIRE_ALL, WIRE_ROUND_TRIP) - trips;
        ok(mode == 0 ? syncs >= N : syncs == 1, "B3: with %s (%lld)",
           mode ? "one Sync for all" : "a Sync for each", (long long)syncs);
        if (mode == 1)
            is_int(trips, 1, "B3: in one round trip");
        is_int(kept(), N, "B3: and what it did stands");
    }
    wire_set_delay(proxy, 0);
    close_pool(pool);
    wire_stop(proxy);
}

static void failing_member(pqpool *pool)
{
    group g = inserts(2, "select 1/0");
    run(pool, &g, PQPOOL_EACH);
    is_int(g.code, PQPOOL_ESERVER, "B3: each for itself: the code is that of the one that failed");
    is_int(kept(), N - 1, "B3: and the others stand");
    drop(&g);
    for (int bad = 0; bad < N; bad++) {
        g = inserts(bad, "select 1/0");
        run(pool, &g, PQPOOL_ATOMIC);
        is_int(g.code, PQPOOL_ESERVER, "B3: all or nothing, member %d fails: the code is its own", bad);
        bool right = true;
        for (int i = 0; i < N; i++) {
            pqpool_error *e = &g.errors[i];
            right &= e->outcome == PQPOOL_DONE && e->row == i && strcmp(e->sqlstate, "22012") == 0;
            right &= i == bad ? e->code == PQPOOL_ESERVER && PQresultStatus(g.results[i]) == PGRES_FATAL_ERROR
                              : e->code == PQPOOL_ECANCELED && !g.results[i] && strstr(e->message, "undone");
        }
        ok(right, "B3: each of the others is told that it is undone, and why (%s)",
           g.errors[bad ? 0 : 1].message);
        is_int(kept(), 0, "B3: and nothing stands");
        drop(&g);
    }
    ok(!pqpool_is_retryable(&g.errors[0]), "B10: it is not to be repeated as it is");
    g = inserts(3, "do $$ begin raise exception 'again' using errcode = '40001'; end $$");
    g.stmts[3].sql = "select unit_raise('40001')";
    run(pool, &g, PQPOOL_ATOMIC);
    ok(pqpool_is_retryable(&g.errors[0]) && pqpool_is_retryable(&g.errors[3]),
       "B10: but a serialization failure says of each member that the whole may be");
    drop(&g);
    is_int(kept(), 0, "B3: nothing of it stands");
}

static void at_commit(pqpool *pool)
{
    one(ctl, "create table unit_late (n int unique deferrable initially deferred)");
    group g = inserts(1, "insert into unit_late values (1), (1)");
    run(pool, &g, PQPOOL_ATOMIC);
    is_int(g.code, PQPOOL_ESERVER, "B3: an error at the commit is one of the group");
    ok(strcmp(g.errors[N - 1].sqlstate, "23505") == 0 && g.errors[N - 1].code == PQPOOL_ESERVER,
       "B3: told by its last member");
    ok(g.errors[0].code == PQPOOL_ECANCELED && g.errors[1].code == PQPOOL_ECANCELED, "B3: and to the others");
    drop(&g);
    is_int(kept(), 0, "B3: nothing of it stands");
    one(ctl, "drop table unit_late");
}

static void refused(pqpool *pool)
{
    group g = inserts(3, "vacuum unit_kept");
    run(pool, &g, PQPOOL_ATOMIC);
    ok(g.code == PQPOOL_EREFUSED && g.errors[0].row == 3,
       "B3: what commits by itself is refused in a group of all or nothing");
    drop(&g);
    is_int(kept(), 0, "B3: before anything is sent");
    g = inserts(1, "begin");
    run(pool, &g, PQPOOL_ATOMIC);
    ok(g.code == PQPOOL_EREFUSED && g.errors[0].row == 1, "B7: so is a BEGIN");
    drop(&g);
    is_int(pqpool_exec_all(pool, NULL, 0, PQPOOL_ATOMIC, NULL, NULL), PQPOOL_OK,
           "B3: an empty group is fine");
    is_int(pqpool_exec_all(pool, g.stmts, 1, (pqpool_group_mode)2, g.results, g.errors), PQPOOL_EINVAL,
           "another mode is not");
}

/* A group of 10 000, and one that is larger than what sockets hold. */
static void large(pqpool *pool, int n, int width)
{
    char *text = malloc((size_t)width + 1);
    pqpool_stmt *stmts = calloc((size_t)n, sizeof *stmts);
    PGresult **results = calloc((size_t)n, sizeof *results);
    char(*numbers)[12] = calloc((size_t)n, sizeof *numbers);
    const char *(*values)[2] = calloc((size_t)n, sizeof *values);
    memset(text, 'x', (size_t)width);
    text[width] = '\0';
    for (int i = 0; i < n; i++) {
        snprintf(numbers[i], sizeof numbers[i], "%d", i);
        values[i][0] = numbers[i];
        values[i][1] = text;
        stmts[i] = (pqpool_stmt){PQPOOL_STMT, .sql = "select $1::int, $2::text", .n_params = 2,
                                 .param_values = values[i]};
    }
    for (int mode = 0; mode < 2; mode++) {
        pqpool_code code = pqpool_exec_all(pool, stmts, n, (pqpool_group_mode)mode, results, NULL);
        int right = 0;
        for (int i = 0; i < n; i++) {
            right += atoi(value(results[i])) == i && PQntuples(results[i]) == 1 &&
                     PQgetlength(results[i], 0, 1) == width;
            PQclear(results[i]);
        }
        ok(code == PQPOOL_OK && right == n, "B3: %d members with %d bytes there and back, %s", n, width,
           mode ? "all or nothing" : "each for itself");
    }
    free(values);
    free(numbers);
    free(results);
    free(stmts);
    free(text);
}

typedef struct killed {
    pqpool *pool;
    group g;
    pqpool_group_mode mode;
    int late_ms;
} killed;

static void *run_killed(void *arg)
{
    killed *k = arg;
    run(k->pool, &k->g, k->mode);
    return NULL;
}

/* The server process ends while the third member runs. */
static void cut_short(killed *k)
{
    pthread_t thread;
    one(ctl, "begin; lock table unit_gate in access exclusive mode");
    if (pthread_create(&thread, NULL, run_killed, k) != 0)
        bail("pthread_create");
    PGconn *other = control();
    if (!eventually(atoi(one(other, "select count(*) from pg_stat_activity where application_name = '" APP
                                    "' and wait_event_type = 'Lock'")) == 1))
        bail("it does not wait");
    sleep_ms(k->late_ms);
    one(other, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = '" APP
               "' and wait_event_type = 'Lock'");
    one(ctl, "rollback");
    pthread_join(thread, NULL);
    PQfinish(other);
}

static void lost(void)
{
    pqpool *pool = one_lane("");
    killed k = {.pool = pool, .g = inserts(2, "select count(*) from unit_gate"), .mode = PQPOOL_EACH};
    cut_short(&k);
    ok(k.g.errors[0].code == PQPOOL_OK && k.g.errors[1].code == PQPOOL_OK,
       "B10: a connection lost in a group: what was answered is");
    ok(k.g.errors[2].code == PQPOOL_ELOST && k.g.errors[2].outcome == PQPOOL_UNKNOWN,
       "B10: the one that ran is UNKNOWN");
    ok(k.g.errors[3].code == PQPOOL_OK && k.g.errors[4].code == PQPOOL_OK,
       "B10: those behind had not run, and run elsewhere");
    is_int(k.g.code, PQPOOL_ELOST, "B3: and the code is that of the lost one");
    drop(&k.g);
    is_int(kept(), 4, "B10: each of them once");

    k = (killed){.pool = pool, .g = inserts(2, "select count(*) from unit_gate"), .mode = PQPOOL_ATOMIC};
    cut_short(&k);
    bool unknown = true;
    for (int i = 0; i < N; i++)
        unknown &=
            k.g.errors[i].code == PQPOOL_ELOST && k.g.errors[i].outcome == PQPOOL_UNKNOWN && !k.g.results[i];
    ok(unknown, "B10: of all or nothing, all are UNKNOWN (%s)", k.g.errors[0].message);
    drop(&k.g);
    is_int(kept(), 0, "B10: here, nothing");

    k = (killed){.pool = pool, .mode = PQPOOL_ATOMIC};
    for (int i = 0; i < N; i++)
        k.g.stmts[i] =
            (pqpool_stmt){PQPOOL_STMT, .sql = i == 2 ? "select count(*) from unit_gate" : "select 1",
                          .flags = PQPOOL_READ_ONLY};
    cut_short(&k);
    ok(k.g.code == PQPOOL_OK && strcmp(value(k.g.results[2]), "0") == 0,
       "B10: if all of it only reads, the whole is repeated (%s)", k.g.errors[0].message);
    drop(&k.g);
    k.g.stmts[4].flags = 0;
    cut_short(&k);
    is_int(k.g.code, PQPOOL_ELOST, "B10: but not if one member may write");
    drop(&k.g);
    close_pool(pool);
}

static void too_long(pqpool *pool)
{
    group g = inserts(3, "select pg_sleep(5)");
    g.stmts[0].timeout_ms = 300;
    run(pool, &g, PQPOOL_ATOMIC);
    /* As in exec_too_long(). */
    for (int i = 0; i < 30 && g.code == PQPOOL_ETIMEDOUT && g.errors[3].outcome == PQPOOL_UNKNOWN; i++) {
        drop(&g);
        run(pool, &g, PQPOOL_ATOMIC);
    }
    ok(g.code == PQPOOL_ESERVER && strcmp(g.errors[3].sqlstate, "57014") == 0 &&
           g.errors[0].outcome == PQPOOL_DONE,
       "B9: one member's time-out is told to the server for all of the group (%s)", g.errors[3].message);
    drop(&g);
    is_int(kept(), 0, "B9: so it is known that nothing of it stands");
}

/* What was sent long ago has time to be placed again. */
static void repeated_late(void)
{
    pqpool *pool = one_lane("pool_acquire_timeout=200ms");
    killed k = {.pool = pool, .mode = PQPOOL_EACH};
    for (int i = 0; i < N; i++)
        k.g.stmts[i] =
            (pqpool_stmt){PQPOOL_STMT, .sql = "select count(*) from unit_gate", .flags = PQPOOL_READ_ONLY};
    k.late_ms = 300;
    cut_short(&k);
    is_int(k.g.code, PQPOOL_OK,
           "B10: what only reads is repeated, also when it ran for longer than acquire_timeout (%s)",
           k.g.errors[0].message);
    drop(&k.g);
    close_pool(pool);
}

typedef struct mix {
    pqpool *pool;
    _Atomic int wrong;
} mix;

static void neighbours(int i, void *arg)
{
    mix *m = arg;
    for (int k = 0; k < 100 / tap_slowness(); k++) {
        if (i % 4 == 0) {
            group g = inserts(k % N, "select 1/0");
            run(m->pool, &g, PQPOOL_ATOMIC);
            m->wrong += g.code != PQPOOL_ESERVER;
            drop(&g);
        } else {
            char number[12];
            pqpool_error err;
            snprintf(number, sizeof number, "%d", i * 1000 + k);
            PGresult *res =
                pqpool_exec_params(m->pool, "insert into unit_beside values ($1::int) returning n", 1, NULL,
                                   (const char *[]){number}, NULL, NULL, 0, &err);
            m->wrong += strcmp(value(res), number) != 0;
            PQclear(res);
        }
    }
}

static void isolated(pqpool *pool)
{
    one(ctl, "create table unit_beside (n int)");
    mix m = {.pool = pool};
    in_threads(16, neighbours, &m);
    is_int(m.wrong, 0, "B1: groups that fail as a whole do nothing to their neighbours on the connection");
    is_int(atoi(one(ctl, "select count(*) from unit_beside")), 12 * (100 / tap_slowness()),
           "B1: whose work stands");
    is_int(kept(), 0, "B3: while nothing of theirs does");
    one(ctl, "drop table unit_beside");
}

int main(void)
{
    tap_begin(90);
    ctl = control();
    one(ctl, "create table unit_kept (n int); create table unit_gate (n int); create function "
             "unit_raise(state text) "
             "returns int language "
             "plpgsql as $$ begin raise exception 'raised' using errcode = state; end $$");
    one_sync();
    pqpool *pool = one_lane("");
    failing_member(pool);
    at_commit(pool);
    refused(pool);
    too_long(pool);
    isolated(pool);
    large(pool, 10000, 20);
    large(pool, 3000 / tap_slowness(), 4000);
    close_pool(pool);
    lost();
    repeated_late();
    one(ctl, "drop table unit_kept, unit_gate; drop function unit_raise");
    ok(eventually(backends(ctl, APP) == 0), "no server process is left");
    PQfinish(ctl);
    return done_testing();
}
