/* call: a statement to run, and what came of it. */
#ifndef CLI_CALL_H
#define CLI_CALL_H

#include <pqpool.h>
#include <stdbool.h>

typedef struct call {
    const char *sql;
    int n_params;
    const char *values[2];
    PGresult *result; /* the caller clears it */
    char why[1100];   /* "" if all went well */
} call;

/* Runs it on a connection the caller has to himself. */
void call_on_connection(call *c, PGconn *conn);

/* Runs it on a lease taken for it alone. */
void call_on_lease(call *c, pqpool *pool);

/* Runs n of them on a shared connection, sent together. */
void call_shared(call *calls, int n, pqpool *pool);

#endif
