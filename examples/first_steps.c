/*
 * first_steps: the smallest use of pqpool: open a pool, run one statement, print its answer.
 *
 *     first_steps [CONNINFO]
 */
#include <pqpool.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    pqpool_error err;
    pqpool *pool = pqpool_open(argc > 1 ? argv[1] : "", NULL, &err);
    if (!pool) {
        fprintf(stderr, "first_steps: %s\n", err.message);
        return 1;
    }
    PGresult *res = pqpool_exec_params(pool, "SELECT 6 * $1::int AS answer", 1, NULL, (const char *[]){"7"},
                                       NULL, NULL, 0, &err);
    int status = PQresultStatus(res) == PGRES_TUPLES_OK ? 0 : 1;
    if (status == 0)
        printf("the answer is %s\n", PQgetvalue(res, 0, 0));
    else
        fprintf(stderr, "first_steps: %s\n", err.message);
    PQclear(res);
    pqpool_close(pool, 1000);
    pqpool_free(pool);
    return status;
}
