/* call: a statement to run, and what came of it. */
#include "call.h"

#include <stdio.h>

#define MAX_GROUP 8

static void note_failure(call *c, const char *what, const char *message)
{
    snprintf(c->why, sizeof c->why, "%s: %s", what, message);
}

void call_on_connection(call *c, PGconn *conn)
{
    c->result = PQexecParams(conn, c->sql, c->n_params, NULL, c->values, NULL, NULL, 0);
    if (PQresultStatus(c->result) != PGRES_TUPLES_OK)
        note_failure(c, "statement on a lease", PQerrorMessage(conn));
}

void call_on_lease(call *c, pqpool *pool)
{
    pqpool_lease lease;
    pqpool_error err;
    if (pqpool_acquire(pool, &lease, &err) != PQPOOL_OK) {
        note_failure(c, "acquire", err.message);
        return;
    }
    call_on_connection(c, lease.conn);
    pqpool_code code = pqpool_release(&lease);
    if (code != PQPOOL_OK)
        note_failure(c, "release", pqpool_strerror(code));
}

static void check_shared(call *c, const pqpool_error *err, pqpool_code code)
{
    if (err->code != PQPOOL_OK)
        note_failure(c, "shared statement", err->message);
    else if (PQresultStatus(c->result) != PGRES_TUPLES_OK)
        note_failure(c, "shared statement without rows", pqpool_strerror(code));
}

void call_shared(call *calls, int n, pqpool *pool)
{
    pqpool_stmt stmts[MAX_GROUP] = {{0}};
    pqpool_error errors[MAX_GROUP] = {{0}};
    PGresult *results[MAX_GROUP] = {NULL};
    if (n == 1) {
        calls->result = pqpool_exec_params(pool, calls->sql, calls->n_params, NULL, calls->values, NULL, NULL,
                                           0, &errors[0]);
        check_shared(calls, &errors[0], PQPOOL_OK);
        return;
    }
    for (int i = 0; i < n; i++)
        stmts[i] = (pqpool_stmt){PQPOOL_STMT, .sql = calls[i].sql, .n_params = calls[i].n_params,
                                 .param_values = calls[i].values};
    pqpool_code code = pqpool_exec_all(pool, stmts, n, PQPOOL_EACH, results, errors);
    for (int i = 0; i < n; i++) {
        calls[i].result = results[i];
        check_shared(&calls[i], &errors[i], code);
    }
}
