/* Statements on shared connections leave figures: how they ended, how long they took, what they returned. */
#include "support/nemesis.h"

#define APP "application_name=figures "

static PGconn *ctl;

static void run(pqpool *pool, const char *sql, int timeout_ms)
{
    pqpool_stmt s = {PQPOOL_STMT, .sql = sql, .timeout_ms = timeout_ms};
    PQclear(pqpool_exec_stmt(pool, &s, NULL));
}

static void by_end(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=3", NULL);
    for (int i = 0; i < 990; i++)
        run(pool, "select * from (values (1), (2)) v", 0);
    for (int i = 0; i < 10; i++)
        run(pool, i % 2 ? "select 1/0" : "select * from no_such_table", 0);
    pqpool_stats_data s = stats(pool);
    is_int(s.statements_done, 990, "statements that succeed are counted");
    is_int(s.statements_failed, 10,
           "so are those that fail, once each, though the library may have tried them twice");
    is_int(s.failed_by[PQPOOL_ERROR_DATA], 5, "by the class of their error: a division by zero");
    is_int(s.failed_by[PQPOOL_ERROR_SYNTAX], 5, "and an unknown table");
    is_int(s.duration.count, 1000, "each has its time");
    is_int(s.unsent_time.count, 1000, "and the part of it until it was sent");
    ok(s.duration.sum_us >= s.unsent_time.sum_us && s.duration.sum_us > 0,
       "which is a part (%lld of %lld us)", (long long)s.unsent_time.sum_us, (long long)s.duration.sum_us);
    is_int(s.returned_rows, 1980, "rows are counted");
    is_int(s.rows.count, 990, "by answer");
    is_int(pqpool_histogram_quantile(&s.rows, 0.5), 2, "of which the median is known");
    ok(s.returned_bytes > 990 * 10, "bytes are counted (%lld)", (long long)s.returned_bytes);
    ok(s.prepared_hits > 900 && s.prepared_misses >= 2,
       "so are prepared statements that were there, or not (%lld, %lld)", (long long)s.prepared_hits,
       (long long)s.prepared_misses);
    for (int i = 0; i < 3; i++)
        run(pool, "select pg_sleep(10)", 100);
    s = stats(pool);
    is_int(s.statements_timed_out + s.failed_by[PQPOOL_ERROR_INTERVENTION], 3,
           "statements past their time are counted, by who was first to say so");
    is_str(pqpool_error_class_name(PQPOOL_ERROR_CONSTRAINT), "constraint", "a class has a name");
    close_pool(pool);
}

static void groups(void)
{
    pqpool *pool = open_pool(APP, NULL);
    pqpool_stmt stmts[3] = {{PQPOOL_STMT, .sql = "select 1"},
                            {PQPOOL_STMT, .sql = "select 1/0"},
                            {PQPOOL_STMT, .sql = "select 3"}};
    PGresult *results[3];
    for (int mode = 0; mode < 2; mode++) {
        (void)!pqpool_exec_all(pool, stmts, 3, (pqpool_group_mode)mode, results, NULL);
        for (int i = 0; i < 3; i++)
            PQclear(results[i]);
    }
    pqpool_stats_data s = stats(pool);
    ok(s.statements_done == 2 && s.statements_failed == 2 && s.statements_canceled == 2,
       "each member of a group counts: done %lld, failed %lld, undone %lld", (long long)s.statements_done,
       (long long)s.statements_failed, (long long)s.statements_canceled);
    close_pool(pool);
}

static void lost(void)
{
    pqpool *pool = open_pool(APP "pool_shared_max=1 pool_max_size=2", NULL);
    run(pool, "select 1", 0);
    pqpool_ticket *t = submit_sql(pool, "select pg_sleep(10)");
    pid_t pid = backend_of(ctl, "figures");
    if (!eventually(waits_for(ctl, pid, "Timeout")))
        bail("it does not run");
    terminate(ctl, pid);
    PQclear(pqpool_wait(t, -1, NULL));
    pqpool_stats_data s = stats(pool);
    ok(s.statements_lost == 1 && s.statements_unknown == 1,
       "a statement lost with its connection is counted, as unknown");
    pqpool_stmt again = {PQPOOL_STMT, .sql = "select pg_sleep(1)", .flags = PQPOOL_READ_ONLY};
    t = submit_stmt(pool, &again);
    if (!eventually((pid = backend_of(ctl, "figures")) > 0 && waits_for(ctl, pid, "Timeout")))
        bail("it does not run");
    terminate(ctl, pid);
    pqpool_error err;
    PQclear(pqpool_wait(t, -1, &err));
    s = stats(pool);
    is_int(err.code, PQPOOL_OK, "one that may be repeated is");
    is_int(s.statements_repeated, 1, "which is counted");
    pqpool_suspend(pool);
    pqpool_set(pool, "acquire_timeout", "50ms", NULL);
    run(pool, "select 1", 0);
    is_int(stats(pool).statements_timed_out, 1, "one that finds no room in time is counted");
    close_pool(pool);
}

static void many(int i, void *arg)
{
    (void)i;
    for (int n = 0; n < 500; n++)
        run(arg, "select 1", 0);
}

static void on_several_connections(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=8", NULL);
    in_threads(32, many, pool);
    is_int(stats(pool).statements_done, 16000, "what ran on several connections at a time is added up");
    pqpool_evict(pool);
    run(pool, "select 1", 0);
    is_int(stats(pool).statements_done, 16001, "and kept when the connections are replaced");
    close_pool(pool);
}

int main(void)
{
    tap_begin(60);
    ctl = control();
    by_end();
    groups();
    lost();
    on_several_connections();
    PQfinish(ctl);
    return done_testing();
}
