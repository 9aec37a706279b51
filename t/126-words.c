/* What callers are told of statements and connection strings that can't be right, and what they are not told. */
#include "support/pg.h"

static PGconn *ctl;

/* ---- statements ---- */

static void check_params(void)
{
    static const char *const x[] = {"x"};
    pqpool *pool = open_pool("", NULL);
    pqpool_error err;
    PQclear(pqpool_exec_params(pool, "select $1::text, $2::text", 1, NULL, x, NULL, NULL, 0, &err));
    is_int(err.code, PQPOOL_EINVAL, "a parameter that is not given is a wrong call");
    is_int(err.outcome, PQPOOL_NOT_SENT, "  found before anything is sent");
    is_str(err.message, "$2 is used but n_params is 1", "  and told");
    PGresult *res =
        pqpool_exec_params(pool, "select $1::text, '$2', $a$ $3 $a$", 1, NULL, x, NULL, NULL, 0, &err);
    ok(PQresultStatus(res) == PGRES_TUPLES_OK && strcmp(PQgetvalue(res, 0, 0), "x") == 0,
       "parameters in strings are none");
    PQclear(res);
    for (int i = 0; i < 2; i++) {
        PQclear(pqpool_exec(pool, "select $1::text", &err));
        is_str(err.message, "$1 is used but n_params is 0",
               "a text known with its parameter is told without it");
        PQclear(pqpool_exec_params(pool, "select $1::text", 1, NULL, x, NULL, NULL, 0, &err));
        is_int(err.code, PQPOOL_OK, "  and runs with it");
    }
    PQclear(pqpool_exec(pool, "create function pg_catalog_f(int) returns int return $1 + 1", &err));
    is_int(err.code, PQPOOL_OK, "the $1 of a function's body is the function's: %s", err.message);
    PQclear(pqpool_exec(pool, "drop function pg_catalog_f", &err));
    pqpool_stmt group[] = {{PQPOOL_STMT, .sql = "select 1"}, {PQPOOL_STMT, .sql = "select $1::int"}};
    PGresult *results[2];
    pqpool_error errors[2];
    for (int mode = PQPOOL_EACH; mode <= PQPOOL_ATOMIC; mode++) {
        is_int(pqpool_exec_all(pool, group, 2, (pqpool_group_mode)mode, results, errors), PQPOOL_EINVAL,
               "a group with such a member is not sent");
        is_str(errors[1].message, "$1 is used but n_params is 0", "  and the member is told why");
        PQclear(results[0]);
        PQclear(results[1]);
    }
    close_pool(pool);
}

static void check_misspelt(void)
{
    pqpool *pool = open_pool("", NULL);
    pqpool_error err;
    PQclear(pqpool_exec(pool, "selec 1", &err));
    is_int(err.code, PQPOOL_EREFUSED, "a misspelt statement is refused");
    has(err.message, "(SELEC)", "  its first word is told");
    has(err.message, "did you mean SELECT?", "  and the one that it is like");
    has(err.message, "if it is not misspelt, take a lease", "  and the way out, should it be right");
    PQclear(pqpool_exec(pool, "frobnicate 1", &err));
    ok(!strstr(err.message, "did you mean"), "a word like none is not explained: %s", err.message);
    PQclear(pqpool_exec(pool, "commit prepared 'x'", &err));
    has(err.message, "COMMIT PREPARED may not run", "COMMIT PREPARED is told by its name");
    ok(!strstr(err.message, "run the transaction"), "  and not taken for the end of a transaction");
    PQclear(pqpool_exec(pool, "select set_config('a.b', 'c', false)", &err));
    ok(!strstr(err.message, "did you mean"), "a word that is known is not doubted: %s", err.message);
    PQclear(pqpool_exec(pool, "checkpoint", &err));
    is_int(err.code, PQPOOL_OK, "CHECKPOINT runs: %s", err.message);
    close_pool(pool);
}

/* ---- client encodings ---- */

static void check_encodings(void)
{
    static const char *const misleading[] = {"SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "GB18030",
                                             "UHC",  "JOHAB"};
    static const char *const plain[] = {"UTF8", "LATIN1", "EUC_JP", "SQL_ASCII", "WIN1252"};
    for (size_t i = 0; i < sizeof misleading / sizeof *misleading; i++) {
        char conninfo[100];
        pqpool_error err;
        snprintf(conninfo, sizeof conninfo, "client_encoding=%s", misleading[i]);
        pqpool *pool = open_pool(conninfo, NULL);
        PQclear(pqpool_exec(pool, "select 1", &err));
        is_int(err.code, PQPOOL_ECONNECT, "nothing is shared under %s", misleading[i]);
        is_int(err.outcome, PQPOOL_NOT_SENT, "  the statement was not sent");
        has(err.message, misleading[i], "  the encoding is named");
        has(err.message, "client_encoding=UTF8", "  and one way out");
        has(err.message, "pqpool_acquire", "  and the other");
        pqpool_ticket *ticket = submit_sql(pool, "select 1");
        PQclear(pqpool_wait(ticket, -1, &err));
        has(err.message, misleading[i], "  a ticket is told the same");
        pqpool_lease lease = take(pool);
        is_str(one(lease.conn, "show client_encoding"), misleading[i], "  a lease works with it");
        pqpool_release(&lease);
        close_pool(pool);
    }
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        char conninfo[100];
        pqpool_error err;
        snprintf(conninfo, sizeof conninfo, "client_encoding=%s", plain[i]);
        pqpool *pool = open_pool(conninfo, NULL);
        PQclear(pqpool_exec(pool, "select 1", &err));
        is_int(err.code, PQPOOL_OK, "%s is shared: %s", plain[i], err.message);
        close_pool(pool);
    }
}

static int set_encoding(PGconn *conn, void *arg)
{
    return PQsetClientEncoding(conn, arg);
}

static void check_encoding_of_hook(void)
{
    char encoding[] = "SJIS";
    pqpool_hooks hooks = {PQPOOL_HOOKS, .arg = encoding, .on_connect = set_encoding, .on_log = test_log};
    pqpool_error err;
    pqpool *pool = open_pool("", &hooks);
    PQclear(pqpool_exec(pool, "select 1", &err));
    has(err.message, "client_encoding is SJIS", "nothing is shared under what on_connect sets");
    close_pool(pool);
    pool = open_pool("", NULL);
    PQclear(
        pqpool_exec(pool, "do $$ begin perform set_config('client_encoding', 'BIG5', false); end $$", &err));
    PGresult *res = pqpool_exec(pool, "show client_encoding", &err);
    is_str(value(res), "UTF8", "a connection whose encoding a function changed is not shared any longer");
    PQclear(res);
    close_pool(pool);
}

int main(void)
{
    tap_begin(60);
    ctl = control();
    check_params();
    check_misspelt();
    check_encodings();
    check_encoding_of_hook();
    PQfinish(ctl);
    return done_testing();
}
