/*
 * What the library repairs without anybody noticing: prepared statements that the server does not have, connections
 * that end just before they are shared.
 */
#include "support/pg.h"

static PGconn *ctl;

typedef struct press {
    pqpool *pool;
    _Atomic bool stop;
    _Atomic int64_t calls;
    _Atomic int wrong;
} press;

static void expect(press *p, const pqpool_error *err, const char *sqlstate)
{
    p->calls++;
    if (strcmp(err->sqlstate, sqlstate) != 0 && p->wrong++ == 0)
        diag("%s: %s", pqpool_code_name((pqpool_code)err->code), err->message);
}

/* Half of them send the setting of a time-out in a unit that fails before it gets there, the others behind it. */
static void with_timeouts(int i, void *arg)
{
    press *p = arg;
    enum { MEMBERS = 3 };
    pqpool_stmt stmts[MEMBERS];
    for (int k = 0; k < MEMBERS; k++)
        stmts[k] = (pqpool_stmt){PQPOOL_STMT, .sql = "select 1", .timeout_ms = 600000};
    if (i % 2)
        stmts[0] = (pqpool_stmt){PQPOOL_STMT, .sql = "select 1/0"};
    while (!p->stop) {
        PGresult *results[MEMBERS];
        pqpool_error errors[MEMBERS];
        pqpool_code code =
            pqpool_exec_all(p->pool, stmts, MEMBERS, i % 2 ? PQPOOL_ATOMIC : PQPOOL_EACH, results, errors);
        p->wrong += (code != PQPOOL_OK) != i % 2;
        for (int k = 0; k < MEMBERS; k++) {
            expect(p, &errors[k], i % 2 ? "22012" : "");
            PQclear(results[k]);
        }
    }
}

static void timed_behind_failures(void)
{
    static press p;
    crew c;
    p.pool = open_pool("application_name=timed pool_shared_max=1", NULL);
    crew_start(&c, 16, with_timeouts, &p);
    sleep_ms(4000);
    p.stop = true;
    crew_join(&c);
    is_int(p.wrong, 0, "B8: a time-out whose setting was prepared by a unit that failed is set all the same");
    ok(p.calls > 100, "  in %lld calls", (long long)p.calls);
    close_pool(p.pool);
}

/* Texts that never come again, as members of groups: each takes the place of one before. */
static void bounded_in_groups(pqpool_group_mode mode, const char *name)
{
    enum { CACHE = 4, MEMBERS = 4 };
    pqpool *pool = open_pool("application_name=bounded pool_shared_max=1 pool_statement_cache_size=4", NULL);
    pqpool_error err;
    for (int k = 0; k < 50; k++) {
        char sql[MEMBERS][32];
        pqpool_stmt stmts[MEMBERS];
        PGresult *results[MEMBERS];
        for (int i = 0; i < MEMBERS; i++) {
            snprintf(sql[i], sizeof sql[i], "select %d", k * MEMBERS + i);
            stmts[i] = (pqpool_stmt){PQPOOL_STMT, .sql = sql[i]};
        }
        if (pqpool_exec_all(pool, stmts, MEMBERS, mode, results, NULL) != PQPOOL_OK)
            bail("a group of four fails");
        for (int i = 0; i < MEMBERS; i++)
            PQclear(results[i]);
    }
    PGresult *res = pqpool_exec(pool, "select count(*) from pg_prepared_statements", &err);
    ok(atoi(value(res)) <= CACHE + 1, "B8: %s leave no more than statement_cache_size prepared (%s of %d)",
       name, value(res), CACHE);
    PQclear(res);
    close_pool(pool);
}

/* ---- ended before it was shared ---- */

static _Atomic int connects;

static int end_the_first(PGconn *conn, void *arg)
{
    (void)arg;
    if (connects++ > 0)
        return 0;
    PGconn *c = PQconnectdb("");
    char sql[80];
    snprintf(sql, sizeof sql, "select pg_terminate_backend(%d, 10000)", PQbackendPID(conn));
    PQclear(PQexec(c, sql));
    PQfinish(c);
    return 0;
}

static void ended_before_shared(void)
{
    int failed = 0;
    for (int k = 0; k < 20; k++) {
        pqpool_hooks hooks = {PQPOOL_HOOKS, .on_connect = end_the_first};
        pqpool_error err;
        connects = 0;
        pqpool *pool = open_pool("application_name=ended", &hooks);
        PQclear(pqpool_exec(pool, "select 1", &err));
        if (err.code != PQPOOL_OK && failed++ == 0)
            diag("%s: %s", pqpool_code_name((pqpool_code)err.code), err.message);
        close_pool(pool);
    }
    is_int(failed, 0, "A7: of a connection that the server ends before it is shared no statement hears");
}

int main(void)
{
    tap_begin(30);
    ctl = control();
    timed_behind_failures();
    bounded_in_groups(PQPOOL_EACH, "groups whose members stand each for itself");
    bounded_in_groups(PQPOOL_ATOMIC, "all-or-nothing groups");
    ended_before_shared();
    PQfinish(ctl);
    return done_testing();
}
