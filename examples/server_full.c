/*
 * server_full: what a caller sees when the server has no connection left.
 *
 *     server_full [CONNINFO [SECONDS]]          SECONDS the long statement takes; 2 if not given
 *
 * A role that may have two connections (where the story had a server of two): an observer has one, a pool of two wants
 * both. One statement sleeps on the one connection the pool gets. A second call waits for it; a third, in more of a hurry,
 * ends at its own deadline, and is told who sleeps. Neither is told "too many connections" and left alone with that: the
 * pool knows that it is full, serves with what it has, and asks the server again later. Needs a user who may create roles.
 * Exit status: 0 if it was so.
 */
#include <pqpool-ops.h>
#include <pqpool.h>

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double seconds = 2;
static int failures;
static char role[40];

static void expect(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "server_full: not so: %s\n", what);
    failures++;
}

static void run(PGconn *conn, const char *sql)
{
    PGresult *res = PQexec(conn, sql);
    if (PQresultStatus(res) != PGRES_COMMAND_OK)
        fprintf(stderr, "server_full: %s", PQerrorMessage(conn));
    PQclear(res);
}

static PGconn *connect_as(const char *conninfo, const char *user)
{
    const char *keywords[] = {"dbname", user ? "user" : NULL, NULL}, *values[] = {conninfo, user, NULL};
    PGconn *conn = PQconnectdbParams(keywords, values, 1);
    if (PQstatus(conn) == CONNECTION_OK)
        return conn;
    fprintf(stderr, "server_full: %s", PQerrorMessage(conn));
    exit(1);
}

/* The 60 seconds of the story, scaled down. */
static void *sleep_leased(void *arg)
{
    pqpool_error err;
    PQPOOL_LEASE(lease);
    char sql[100];
    snprintf(sql, sizeof sql, "SELECT pg_sleep(%g) AS delay, id FROM generate_series(1, 1) id", seconds);
    if (pqpool_acquire(arg, &lease, &err) == PQPOOL_OK)
        PQclear(PQexec(lease.conn, sql));
    return NULL;
}

static void *sleep_shared(void *arg)
{
    pqpool_error err;
    char sql[100];
    snprintf(sql, sizeof sql, "SELECT pg_sleep(%g) AS delay, id FROM generate_series(1, 1) id", seconds);
    PQclear(pqpool_exec(arg, sql, &err));
    return NULL;
}

/* A call that may take so many ms: "ok", or the error. */
static const char *call(pqpool *pool, int timeout_ms)
{
    static char text[1100];
    pqpool_error err;
    PQPOOL_LEASE(lease);
    if (pqpool_acquire_within(pool, timeout_ms, &lease, &err) == PQPOOL_OK)
        return "ok";
    snprintf(text, sizeof text, "%s: %s", pqpool_code_name(err.code), err.message);
    return text;
}

static void asleep(PGconn *observer)
{
    for (int i = 0; i < 5000; i++, poll(NULL, 0, 1)) {
        PGresult *res = PQexec(
            observer, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND usename = user");
        int there = PQntuples(res);
        PQclear(res);
        if (there)
            return;
    }
    expect(0, "the long statement runs");
}

static void show(const char *conninfo, PGconn *observer, const char *how, void *(*sleeper)(void *),
                 const char *name)
{
    const char *keywords[] = {"dbname", "user", "pool_max_size", "pool_log_level", NULL};
    const char *values[] = {conninfo, role, "2", "off", NULL};
    pqpool_error err;
    pthread_t thread;
    pqpool *pool = pqpool_open_params(keywords, values, 1, NULL, &err);
    if (!pool) {
        fprintf(stderr, "server_full: %s\n", err.message);
        exit(1);
    }
    printf("%s\n", how);
    if (pthread_create(&thread, NULL, sleeper, pool) != 0)
        abort();
    asleep(observer);
    poll(NULL, 0, 200);
    const char *said = call(pool, (int)(seconds * 300));
    printf("  a call that has %.1f s: %s\n", seconds * 0.3, said);
    expect(strncmp(said, "PQPOOL_ETIMEDOUT: no connection was free", 40) == 0, "it ends at its deadline");
    expect(strstr(said, name) != NULL, "the message names the sleeper");
    said = call(pool, 30000);
    printf("  a call that has time: %s\n", said);
    expect(strcmp(said, "ok") == 0, "it waits and is served");
    pthread_join(thread, NULL);
    pqpool_stats_data s = {PQPOOL_STATS};
    pqpool_stats(pool, &s);
    printf("  connections made: %lld, refused by the server: %s\n", (long long)s.connects,
           s.connect_failures > 0 ? "the second one" : "none");
    expect(s.connects == 1 && s.connect_failures > 0, "there is room for one");
    pqpool_close(pool, 1000);
    pqpool_free(pool);
}

int main(int argc, char **argv)
{
    const char *conninfo = argc > 1 ? argv[1] : "";
    char sql[200];
    seconds = argc > 2 ? atof(argv[2]) : seconds;
    PGconn *admin = connect_as(conninfo, NULL);
    snprintf(role, sizeof role, "server_full_%d", PQbackendPID(admin));
    snprintf(sql, sizeof sql, "CREATE ROLE %s LOGIN CONNECTION LIMIT 2", role);
    run(admin, sql);
    PGconn *observer = connect_as(conninfo, role);
    show(conninfo, observer, "The sleeper has a lease:", sleep_leased, "server_full.c:");
    show(conninfo, observer, "The sleeper's statement is on a shared connection:", sleep_shared,
         "SELECT pg_sleep");
    PQfinish(observer);
    snprintf(sql, sizeof sql, "DROP ROLE %s", role);
    run(admin, sql);
    PQfinish(admin);
    return failures ? 1 : 0;
}
