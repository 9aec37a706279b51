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

int main(void)
{
    tap_begin(60);
    ctl = control();
    check_params();
    check_misspelt();
    PQfinish(ctl);
    return done_testing();
}
