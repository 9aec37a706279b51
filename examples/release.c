/*
 * release: five requests, a pool of four, and a handler that forgets to give its connection back.
 *
 *     release [CONNINFO]
 *
 * The handler's answers: 200, 500 when its statement fails, 501 when there is no connection. Without a release four
 * requests are answered and the fifth is not, for no reason anybody can see; here the error names the line that took the
 * connections, with the options as they are by default. With one on each path all five are answered. And why a statement's
 * values belong into parameters.
 */
#include <pqpool-ops.h>
#include <pqpool.h>

#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REQUESTS = 5 };

static const char by_name_and_age[] = "SELECT name FROM (VALUES ('Page', 50), ('Kim', 20), ('Lee', 70)) "
                                      "people (name, age) WHERE name = $1 AND age > $2::int";

static atomic_int leaks, came_back;

static void on_event(const pqpool_event *event, void *unused)
{
    (void)unused;
    if (event->id == PQPOOL_EVENT_LEAK && leaks++ == 0)
        printf("  the first report: %s:%d has held connection %d for %.1f s: %s\n", event->file,
               (int)event->line, (int)event->connection, (double)event->hold_us / 1e6, event->text);
    came_back += event->id == PQPOOL_EVENT_UNLEAK;
}

static pqpool *open_four(const char *conninfo, const char *leak_threshold)
{
    const char *keywords[] = {
        "dbname", "pool_maxActive", "pool_acquire_timeout", "pool_leak_threshold", "pool_log_level", NULL};
    const char *values[] = {conninfo, "4", "300ms", leak_threshold, "off", NULL};
    pqpool_error err;
    pqpool *pool =
        pqpool_open_params(keywords, values, 1, &(pqpool_hooks){PQPOOL_HOOKS, .on_event = on_event}, &err);
    if (!pool) {
        fprintf(stderr, "release: %s\n", err.message);
        exit(1);
    }
    return pool;
}

/* ---- handlers ---- */

/* As it was: neither after success nor after an error does the connection go back. */
static pqpool_lease forgotten[REQUESTS]; /* so that this program can tidy up behind itself */
static int n_forgotten;

static int handle_and_forget(pqpool *pool, const char *sql)
{
    pqpool_error err;
    pqpool_lease lease;
    if (pqpool_acquire(pool, &lease, &err) != PQPOOL_OK) {
        printf("  501: %s\n", err.message);
        return 501;
    }
    forgotten[n_forgotten++] = lease;
    PGresult *res = PQexec(lease.conn, sql);
    int status = PQresultStatus(res) == PGRES_TUPLES_OK ? 200 : 500;
    PQclear(res);
    return status;
}

/* As it should be: PQPOOL_LEASE gives back on every path out of the block. */
static int handle(pqpool *pool, const char *sql)
{
    pqpool_error err;
    PQPOOL_LEASE(lease);
    if (pqpool_acquire(pool, &lease, &err) != PQPOOL_OK)
        return 501;
    PGresult *res = PQexec(lease.conn, sql);
    if (PQresultStatus(res) != PGRES_TUPLES_OK) {
        PQclear(res);
        return 500;
    }
    PQclear(res);
    return 200;
}

/* The third request's statement fails. Returns how many of the five had a connection. */
static int five(pqpool *pool, int (*handler)(pqpool *, const char *))
{
    int statuses[REQUESTS], answered = 0;
    for (int i = 0; i < REQUESTS; i++) {
        statuses[i] = handler(pool, i == 2 ? "SELECT nonsense" : "SELECT 1");
        answered += statuses[i] != 501;
    }
    printf("  answers:");
    for (int i = 0; i < REQUESTS; i++)
        printf(" %d", statuses[i]);
    pqpool_stats_data s = {PQPOOL_STATS};
    pqpool_stats(pool, &s);
    printf("; %d connections are still out\n", (int)s.leased);
    return answered;
}

static int forget(const char *conninfo, const char *leak_threshold, const char *name)
{
    pqpool *pool = open_four(conninfo, leak_threshold);
    printf("%s\n", name);
    int answered = five(pool, handle_and_forget);
    for (int i = 0; i < 5000 && strcmp(leak_threshold, "off") != 0 && leaks < 4; i++)
        poll(NULL, 0, 1);
    while (n_forgotten > 0)
        pqpool_release(&forgotten[--n_forgotten]);
    pqpool_close(pool, 1000);
    pqpool_free(pool);
    return answered;
}

/* ---- raw strings and parameters ---- */

static int rows_of(PGresult *res)
{
    int rows = PQntuples(res);
    PQclear(res);
    return rows;
}

/* The same question with a name that somebody typed in. */
static int ask(pqpool *pool, const char *name)
{
    char sql[400];
    pqpool_error err;
    const char *values[] = {name, "45"};
    snprintf(sql, sizeof sql,
             "SELECT name FROM (VALUES ('Page', 50), ('Kim', 20), ('Lee', 70)) people (name, age) WHERE name "
             "= '%s' AND age > 45",
             name);
    int raw = rows_of(pqpool_exec(pool, sql, &err));
    int bound = rows_of(pqpool_exec_params(pool, by_name_and_age, 2, NULL, values, NULL, NULL, 0, &err));
    printf("  %-20s raw string: %d rows, parameters: %d rows\n", name, raw, bound);
    return bound;
}

int main(int argc, char **argv)
{
    const char *conninfo = argc > 1 ? argv[1] : "";
    int fine = forget(conninfo, "off", "without a release, with the options as they are by default:") == 4;
    fine &= forget(conninfo, "100ms", "without a release, and leak_threshold=100ms:") == 4 && leaks == 4 &&
            came_back == 4;
    pqpool *pool = open_four(conninfo, "off");
    printf("with a release on every path:\n");
    fine &= five(pool, handle) == REQUESTS;
    printf("what a raw string lets in:\n");
    fine &= ask(pool, "Page") == 1;
    fine &= ask(pool, "x' OR 'a' = 'a") == 0;
    pqpool_close(pool, 1000);
    pqpool_free(pool);
    return fine ? 0 : 1;
}
