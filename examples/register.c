/*
 * register: what an outside call costs inside a transaction.
 *
 *     register [CONNINFO [MILLISECONDS]]          an outside call takes so long; 200 if not given
 *
 * A registration fetches the member from a provider, saves him, and mails a welcome: two outside calls around one
 * statement. 16 threads and 4 connections, three ways: all in one transaction, no transaction at all, and a transaction
 * around the saving only. How long each held a connection, how much of it for nothing, and how many got through. Makes a
 * table in the current schema, and drops it.
 */
#include <pqpool-ops.h>
#include <pqpool.h>

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { THREADS = 16, CONNECTIONS = 4, ROUNDS = 2 };

static pqpool *pool;
static int outside_ms = 200;
static char insert[120];
static atomic_int registered, number, failed;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* An HTTP request, a mail. */
static void outside(void)
{
    poll(NULL, 0, outside_ms);
}

static void fail(const char *message)
{
    fprintf(stderr, "register: %s\n", message);
    failed++;
}

static void run(PGconn *conn, const char *sql)
{
    char text[20];
    const char *values[] = {text};
    snprintf(text, sizeof text, "%d", number++);
    PGresult *res = strcmp(sql, insert) == 0 ? PQexecParams(conn, sql, 1, NULL, values, NULL, NULL, 0)
                                             : PQexec(conn, sql);
    if (PQresultStatus(res) != PGRES_COMMAND_OK)
        fail(PQerrorMessage(conn));
    PQclear(res);
}

static void all_in_one(void)
{
    pqpool_error err;
    PQPOOL_LEASE(lease);
    if (pqpool_acquire(pool, &lease, &err) != PQPOOL_OK) {
        fail(err.message);
        return;
    }
    run(lease.conn, "BEGIN");
    outside();
    run(lease.conn, insert);
    outside();
    run(lease.conn, "COMMIT");
}

static void save(int in_transaction)
{
    pqpool_error err;
    PQPOOL_LEASE(lease);
    if (pqpool_acquire(pool, &lease, &err) != PQPOOL_OK) {
        fail(err.message);
        return;
    }
    if (in_transaction)
        run(lease.conn, "BEGIN");
    run(lease.conn, insert);
    if (in_transaction)
        run(lease.conn, "COMMIT");
}

static void no_transaction(void)
{
    outside();
    save(0);
    outside();
}

static void around_the_save(void)
{
    outside();
    save(1);
    outside();
}

static void *work(void *arg)
{
    void (*const *form)(void) = arg;
    for (int i = 0; i < ROUNDS; i++) {
        (*form)();
        registered++;
    }
    return NULL;
}

static int warnings;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void on_log(int level, const char *line, void *unused)
{
    (void)unused;
    pthread_mutex_lock(&lock);
    if (level == PQPOOL_LOG_WARN && warnings++ == 0)
        fprintf(stderr, "the pool's first warning: %s\n", line);
    pthread_mutex_unlock(&lock);
}

static void show(const char *conninfo, const char *name, void (*form)(void))
{
    const char *keywords[] = {"dbname", "pool_maximumPoolSize", "pool_idle_tx_threshold", NULL};
    char threshold[20];
    snprintf(threshold, sizeof threshold, "%dms", outside_ms);
    const char *values[] = {conninfo, "4", threshold, NULL};
    pthread_t threads[THREADS];
    pqpool_error err;
    pool = pqpool_open_params(keywords, values, 1, &(pqpool_hooks){PQPOOL_HOOKS, .on_log = on_log}, &err);
    if (!pool) {
        fprintf(stderr, "register: %s\n", err.message);
        exit(1);
    }
    registered = 0;
    double began = now();
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, &form) != 0)
            abort();
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    double took = now() - began;
    pqpool_stats_data s = {PQPOOL_STATS};
    pqpool_stats(pool, &s);
    printf("| %s | %.1f | %.1f | %lld of %lld | %.0f |\n", name,
           (double)s.use.sum_us / 1000 / (double)s.use.count,
           (double)s.wait.sum_us / 1000 / (double)s.wait.count, (long long)s.long_holds,
           (long long)s.releases, registered / took);
    pqpool_close(pool, 1000);
    pqpool_free(pool);
}

int main(int argc, char **argv)
{
    const char *conninfo = argc > 1 ? argv[1] : "", *keywords[] = {"dbname", NULL},
               *values[] = {conninfo, NULL};
    outside_ms = argc > 2 ? atoi(argv[2]) : outside_ms;
    PGconn *conn = PQconnectdbParams(keywords, values, 1);
    char sql[120];
    if (PQstatus(conn) != CONNECTION_OK) {
        fprintf(stderr, "register: %s", PQerrorMessage(conn));
        return 1;
    }
    snprintf(sql, sizeof sql, "CREATE TABLE register_%d (code int)", PQbackendPID(conn));
    run(conn, sql);
    snprintf(insert, sizeof insert, "INSERT INTO register_%d VALUES ($1)", PQbackendPID(conn));
    printf("%d threads, %d connections, %d registrations each; an outside call takes %d ms\n\n", THREADS,
           CONNECTIONS, ROUNDS, outside_ms);
    printf("| transaction | a connection was held, ms | waited for, ms | idle in transaction for long | "
           "registrations a second |\n"
           "|---|---|---|---|---|\n");
    show(conninfo, "around everything", all_in_one);
    show(conninfo, "none", no_transaction);
    show(conninfo, "around the save only", around_the_save);
    printf("\nIf each of Tn threads needs Cm connections at once, Tn x (Cm - 1) + 1 are enough: 200 x (4 - "
           "1) + 1 = %d.\n",
           200 * (4 - 1) + 1);
    snprintf(sql, sizeof sql, "DROP TABLE register_%d", PQbackendPID(conn));
    run(conn, sql);
    PQfinish(conn);
    return failed ? 1 : 0;
}
