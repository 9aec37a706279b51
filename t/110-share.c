/* Statements on one shared connection: answers, failures, groups, and who gets what. */
#include "support/pg.h"

static PGconn *ctl;

static void one_statement(pqpool *pool)
{
    pqpool_error err;
    PGresult *res = pqpool_exec(pool, "select 41 + 1", &err);
    is_int(PQresultStatus(res), PGRES_TUPLES_OK, "B1: a statement runs on a shared connection");
    is_str(value(res), "42", "its answer is a plain PGresult");
    is_int(err.code, PQPOOL_OK, "err says OK");
    PQclear(res);

    res = pqpool_exec_params(pool, "select $1::int * 2, $2::text", 2, NULL, (const char *[]){"21", "x'y"},
                             NULL, NULL, 0, &err);
    is_str(value(res), "42", "parameters are PQexecParams'");
    is_str(PQgetvalue(res, 0, 1), "x'y", "and arrive byte for byte");
    PQclear(res);

    res = pqpool_exec(pool, "", &err);
    is_int(PQresultStatus(res), PGRES_EMPTY_QUERY, "an empty statement gets the empty answer");
    PQclear(res);
    res = pqpool_exec(pool, "select 1", NULL);
    is_str(value(res), "1", "err may be NULL");
    PQclear(res);
}

static void server_errors(pqpool *pool)
{
    pqpool_error err;
    PGresult *res = pqpool_exec(pool, "select 1/0", &err);
    is_int(PQresultStatus(res), PGRES_FATAL_ERROR, "B10: a server error is a result as libpq's");
    is_int(err.code, PQPOOL_ESERVER, "err says ESERVER");
    is_int(err.outcome, PQPOOL_DONE, "and DONE");
    is_str(err.sqlstate, "22012", "and the SQLSTATE");
    has(err.message, "division by zero", "and the server's words");
    has(PQresultErrorMessage(res), "division by zero", "which the result has too");
    is_int(err.row, -1, "a single statement has no member number");
    PQclear(res);
    res = pqpool_exec(pool, "select 7", &err);
    is_str(value(res), "7", "B1: the next statement is not touched by it");
    PQclear(res);
    res = pqpool_exec(pool, "select 10/(4-g) from generate_series(1,10) g", &err);
    is_str(err.sqlstate, "22012", "an error after some rows is an error, not a short answer");
    PQclear(res);
}

/* CommandComplete is not commit: the constraint is checked at the sync point. */
static void deferred_constraint(pqpool *pool)
{
    pqpool_error errors[3];
    PGresult *results[3];
    one(ctl, "create table late (id int unique deferrable initially deferred)");
    one(ctl, "insert into late values (1)");
    pqpool_stmt stmts[3] = {{PQPOOL_STMT, .sql = "select 'before'"},
                            {PQPOOL_STMT, .sql = "insert into late values (1) returning 'in'"},
                            {PQPOOL_STMT, .sql = "select 'behind'"}};
    pqpool_code code = pqpool_exec_all(pool, stmts, 3, PQPOOL_EACH, results, errors);
    is_int(code, PQPOOL_ESERVER, "a deferred constraint that fails at commit is an error of the group");
    is_int(PQresultStatus(results[1]), PGRES_FATAL_ERROR,
           "its statement's answer is the error, though rows had come");
    is_str(errors[1].sqlstate, "23505", "with its SQLSTATE");
    is_int(errors[1].row, 1, "and its place in the group");
    is_str(value(results[0]), "before", "the statement before it is not touched");
    is_str(value(results[2]), "behind", "the statement after it is not shifted");
    for (int i = 0; i < 3; i++)
        PQclear(results[i]);
    is_str(one(ctl, "select count(*) from late"), "1", "and nothing was inserted");
    one(ctl, "drop table late");
}

static void groups(pqpool *pool)
{
    enum { N = 10000 };
    pqpool_error err, *errors = calloc(N, sizeof *errors);
    PGresult **results = calloc(N, sizeof *results);
    pqpool_stmt *stmts = calloc(N, sizeof *stmts);
    char(*text)[12] = calloc(N, sizeof *text);
    const char **values = calloc(N, sizeof *values);
    is_int(pqpool_exec_all(pool, NULL, 0, PQPOOL_EACH, NULL, NULL), PQPOOL_OK, "B3: an empty group is fine");
    for (int i = 0; i < N; i++) {
        snprintf(text[i], sizeof text[i], "%d", i);
        values[i] = text[i];
        stmts[i] =
            (pqpool_stmt){PQPOOL_STMT, .sql = i % 100 == 7 ? "select 1/($1::int-$1::int)" : "select $1::int",
                          .n_params = 1, .param_values = &values[i]};
    }
    pqpool_code code = pqpool_exec_all(pool, stmts, N, PQPOOL_EACH, results, errors);
    is_int(code, PQPOOL_ESERVER, "B3: a group of 10000 in which some fail reports the first failure");
    int right = 0, failed = 0;
    for (int i = 0; i < N; i++) {
        if (i % 100 == 7)
            failed += strcmp(errors[i].sqlstate, "22012") == 0 && errors[i].row == i;
        else
            right += errors[i].code == PQPOOL_OK && strcmp(value(results[i]), text[i]) == 0;
        PQclear(results[i]);
    }
    is_int(right, N - N / 100, "every good member has its own answer");
    is_int(failed, N / 100, "every bad one its own error");
    is_int(backends(ctl, "share-test"), 1, "B3: on one connection");

    stmts[1].sql = "begin";
    stmts[1].n_params = 0;
    code = pqpool_exec_all(pool, stmts, 3, PQPOOL_EACH, results, errors);
    is_int(code, PQPOOL_EREFUSED, "a group with one refused member is refused");
    ok(!results[0] && !results[1] && !results[2], "and nothing of it is run");
    is_int(errors[0].row, 1, "each error names the member");
    (void)err;
    free(errors), free(results), free(stmts), free(text), free(values);
}

static void refused(pqpool *pool)
{
    static const char *const no[] = {"begin",
                                     "COMMIT",
                                     "/* x */ set work_mem = '1MB'",
                                     "listen x",
                                     "copy late from stdin",
                                     "prepare p as select 1",
                                     "select 1; select 2",
                                     "create temp table x()",
                                     "rollback"};
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        pqpool_error err;
        PGresult *res = pqpool_exec(pool, no[i], &err);
        ok(!res && err.code == PQPOOL_EREFUSED && err.outcome == PQPOOL_NOT_SENT,
           "B7: \"%s\" is refused unsent", no[i]);
        ok(strstr(err.message, "lease") || strstr(err.message, "pqpool_exec_all"),
           "B7: and the message shows the way out");
        PQclear(res);
    }
}

static void wrong_calls(pqpool *pool)
{
    pqpool_error err;
    PGresult *res = pqpool_exec(pool, NULL, &err);
    ok(!res && err.code == PQPOOL_EINVAL, "sql NULL is EINVAL");
    res = pqpool_exec_params(pool, "select 1", 65536, NULL, NULL, NULL, NULL, 0, &err);
    ok(!res && err.code == PQPOOL_EINVAL && err.outcome == PQPOOL_NOT_SENT,
       "65536 parameters are refused unsent");
    res = pqpool_exec_params(pool, "select $1", 1, NULL, (const char *[]){"ab\0cd"}, (int[]){5}, (int[]){0},
                             0, &err);
    ok(!res && err.code == PQPOOL_EINVAL && strstr(err.message, "$1"),
       "a NUL byte in a text parameter is refused, by name");
    pqpool_stmt s = {PQPOOL_STMT, .sql = "select 1", .flags = 1u << 20};
    res = pqpool_exec_stmt(pool, &s, &err);
    ok(!res && err.code == PQPOOL_EINVAL, "an unknown flag is refused");
    s = (pqpool_stmt){.sql = "select 1"};
    res = pqpool_exec_stmt(pool, &s, &err);
    ok(!res && err.code == PQPOOL_EINVAL && strstr(err.message, "PQPOOL_STMT"),
       "a statement without its size is refused");
    res = pqpool_exec(NULL, "select 1", &err);
    ok(!res && err.code == PQPOOL_EINVAL, "a NULL pool is EINVAL");
    res = pqpool_exec(pool, "select 'fine'", &err);
    is_str(value(res), "fine", "after all that the connection is as it was");
    PQclear(res);
}

static void big(pqpool *pool)
{
    enum { SIZE = 8 * 1024 * 1024 };
    pqpool_error err;
    char *text = malloc(SIZE + 1);
    memset(text, 'x', SIZE);
    text[SIZE] = '\0';
    PGresult *res =
        pqpool_exec_params(pool, "select $1::text", 1, NULL, (const char *[]){text}, NULL, NULL, 0, &err);
    ok(res && PQgetlength(res, 0, 0) == SIZE && memcmp(PQgetvalue(res, 0, 0), text, SIZE) == 0,
       "8 MB go there and come back, larger than any socket buffer (%s)", err.message);
    PQclear(res);
    free(text);
}

/* ---- many threads ---- */

enum { THREADS = 64, EACH = 1000 };

typedef struct tally {
    pqpool *pool;
    _Atomic int right, wrong, failed_right;
} tally;

/* Everything of the answer follows from the nonce: columns, rows, error class. So a shift by one shows. */
static void echo(int i, void *arg)
{
    tally *t = arg;
    int each = EACH / tap_slowness();
    for (int k = 0; k < each; k++) {
        int nonce = i * EACH + k;
        char number[16], want[64];
        const char *values[] = {number};
        pqpool_error err;
        PGresult *res;
        snprintf(number, sizeof number, "%d", nonce);
        switch (nonce % 5) {
        case 0: /* fails, with the nonce in the message */
            snprintf(want, sizeof want, "no %d", nonce);
            res = pqpool_exec_params(t->pool, "select ('no ' || $1)::int", 1, NULL, values, NULL, NULL, 0,
                                     &err);
            if (err.code == PQPOOL_ESERVER && strcmp(err.sqlstate, "22P02") == 0 && strstr(err.message, want))
                t->failed_right++;
            else
                t->wrong++;
            break;
        case 1: /* nonce % 7 rows of one column */
            res = pqpool_exec_params(t->pool, "select $1::int from generate_series(1, $1::int % 7)", 1, NULL,
                                     values, NULL, NULL, 0, &err);
            if (PQntuples(res) == nonce % 7 && (nonce % 7 == 0 || strcmp(value(res), number) == 0))
                t->right++;
            else
                t->wrong++;
            break;
        case 2: /* three columns */
            res = pqpool_exec_params(t->pool, "select md5($1::text), $1::int, null::int", 1, NULL, values,
                                     NULL, NULL, 0, &err);
            if (PQnfields(res) == 3 && strcmp(PQgetvalue(res, 0, 1), number) == 0)
                t->right++;
            else
                t->wrong++;
            break;
        default:
            res = pqpool_exec_params(t->pool, "select $1::int", 1, NULL, values, NULL, NULL, 0, &err);
            if (PQnfields(res) == 1 && strcmp(value(res), number) == 0)
                t->right++;
            else
                t->wrong++;
        }
        PQclear(res);
    }
}

static void many_threads(pqpool *pool)
{
    tally t = {.pool = pool};
    double began = now_s();
    in_threads(THREADS, echo, &t);
    diag("%d statements in %.2f s", t.right + t.failed_right + t.wrong, now_s() - began);
    is_int(t.wrong, 0, "B1: 64 threads, mixed shapes, some failing: every caller gets its own answer");
    is_int(t.right + t.failed_right, THREADS * (EACH / tap_slowness()), "and every caller gets one");
    is_int(stats(pool).shared - stats(pool).alone, 2,
           "B2: on one connection, beside that of the large statement");
}

static void with_stmt_timeout(pqpool *pool)
{
    pqpool_error err;
    pqpool_stmt s = {PQPOOL_STMT, .sql = "select pg_sleep(60)", .timeout_ms = 100};
    double began = now_s();
    PGresult *res = exec_too_long(pool, &s, &err);
    double took = now_s() - began;
    ok(PQresultStatus(res) == PGRES_FATAL_ERROR && err.code == PQPOOL_ESERVER && err.outcome == PQPOOL_DONE,
       "B9: the server is told of a statement's time-out, so that its outcome is known");
    is_str(err.sqlstate, "57014", "B9: by its own word");
    PQclear(res);
    ok(took >= 0.05 && took < 30, "B9: and its caller is back long before it would have ended (%.0f ms)",
       took * 1000);
    res = pqpool_exec(pool, "select 'mine'", &err);
    is_str(value(res), "mine", "B9: the next caller gets his own answer, not the late one");
    PQclear(res);
}

int main(void)
{
    tap_begin(120);
    ctl = control();
    pqpool *pool = open_pool("application_name=share-test pool_shared_max=1", NULL);
    one_statement(pool);
    server_errors(pool);
    deferred_constraint(pool);
    groups(pool);
    refused(pool);
    wrong_calls(pool);
    big(pool);
    many_threads(pool);
    with_stmt_timeout(pool);
    ok(eventually(stats(pool).statements == 0), "nothing is left on the connection");
    close_pool(pool);
    ok(eventually(backends(ctl, "share-test") == 0), "a freed pool leaves no server process behind");
    PQfinish(ctl);
    return done_testing();
}
