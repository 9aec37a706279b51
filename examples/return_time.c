/*
 * return_time: when is a connection given back?
 *
 *     return_time [CONNINFO [SECONDS]]          SECONDS a handler sleeps; 2 if not given
 *
 * A pool of 2, and more handlers of requests than that, which sleep: after their statement, or between starting it and
 * collecting its answer. Meanwhile others make 20 calls at once, on shared connections and on leases. A connection is
 * free again as soon as the server has answered, so none of the 20 has to wait for a handler. Exit status: 0 if so.
 */
#include <pqpool-ops.h>
#include <pqpool.h>

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { HANDLERS = 5, CALLS = 20 };

static pqpool *pool;
static double nap = 2;
static sem_t asleep;
static atomic_int awake; /* handlers whose sleep is over */
static atomic_int failures;
static pthread_barrier_t all_at_once;

static const char find[] = "SELECT id, 'nick' || id FROM generate_series(1, 1000) id WHERE id = $1::int";

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *message)
{
    fprintf(stderr, "return_time: %s\n", message);
    failures++;
}

static void check(PGresult *res, const char *message)
{
    if (PQntuples(res) != 1 || strcmp(PQgetvalue(res, 0, 0), "7") != 0)
        fail(message);
    PQclear(res);
}

static void sleep_a_while(void)
{
    sem_post(&asleep);
    poll(NULL, 0, (int)(nap * 1000));
    awake++;
}

static const pqpool_stmt find_seven = {PQPOOL_STMT, .sql = find, .n_params = 1,
                                       .param_values = (const char *const[]){"7"}};

static void *find_then_sleep(void *unused)
{
    pqpool_error err;
    check(pqpool_exec_stmt(pool, &find_seven, &err), err.message);
    sleep_a_while();
    return unused;
}

static void *start_sleep_collect(void *unused)
{
    pqpool_error err;
    pqpool_ticket *ticket = pqpool_submit(pool, &find_seven, &err);
    sleep_a_while();
    if (ticket)
        check(pqpool_wait(ticket, -1, &err), err.message);
    else
        fail(err.message);
    return unused;
}

/* One of the 20: *arg is set to the seconds it took. The odd ones take a lease. */
static void *call(void *arg)
{
    static atomic_int number;
    int leased = number++ % 2;
    double *took = arg;
    pqpool_error err;
    pthread_barrier_wait(&all_at_once);
    double began = now();
    if (leased) {
        PQPOOL_LEASE(lease);
        if (pqpool_acquire(pool, &lease, &err) == PQPOOL_OK)
            check(PQexec(lease.conn, "SELECT 7"), PQerrorMessage(lease.conn));
        else
            fail(err.message);
    } else {
        check(pqpool_exec_stmt(pool, &find_seven, &err), err.message);
    }
    *took = now() - began;
    return NULL;
}

static void start(pthread_t *threads, int n, void *(*work)(void *), double *args)
{
    for (int i = 0; i < n; i++)
        if (pthread_create(&threads[i], NULL, work, args ? &args[i] : NULL) != 0)
            abort();
}

static void join(pthread_t *threads, int n)
{
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

/* Has the handlers sleep and the others call; prints what was seen elsewhere, and here. */
static void show(const char *name, const char *elsewhere, void *(*handler)(void *))
{
    pthread_t handlers[HANDLERS], callers[CALLS];
    double took[CALLS], slowest = 0;
    pqpool_stats_data s = {PQPOOL_STATS};
    awake = 0;
    start(handlers, HANDLERS, handler, NULL);
    for (int i = 0; i < HANDLERS; i++)
        while (sem_wait(&asleep) != 0)
            continue;
    for (double end = now() + nap / 2; now() < end; poll(NULL, 0, 1))
        if (pqpool_stats(pool, &s) == PQPOOL_OK && s.statements + s.unsent == 0)
            break; /* the answers are there, collected or not */
    start(callers, CALLS, call, took);
    join(callers, CALLS);
    for (int i = 0; i < CALLS; i++)
        slowest = took[i] > slowest ? took[i] : slowest;
    int up = awake;
    join(handlers, HANDLERS);
    printf("%s\n  there: %s\n", name, elsewhere);
    printf("  here:  while %d handlers sleep: %d leased, %d shared with %d statements on it, %d idle, %d "
           "waiting,"
           " %d tickets out;\n         %d calls at once took %.1f ms at most\n",
           HANDLERS, (int)s.leased, (int)s.shared, (int)s.statements, (int)s.idle, (int)s.waiting,
           (int)s.promised, CALLS, slowest * 1000);
    if (s.leased || s.waiting || s.statements || s.unsent)
        fail("a handler that sleeps holds a connection");
    if (up || slowest >= nap)
        fail("a call had to wait for a handler that slept");
}

int main(int argc, char **argv)
{
    const char *keywords[] = {"dbname", "pool_max_size", NULL},
               *values[] = {argc > 1 ? argv[1] : "", "2", NULL};
    pqpool_error err;
    nap = argc > 2 ? atof(argv[2]) : nap;
    pool = pqpool_open_params(keywords, values, 1, NULL, &err);
    if (!pool) {
        fail(err.message);
        return 1;
    }
    sem_init(&asleep, 0, 0);
    pthread_barrier_init(&all_at_once, NULL, CALLS);
    printf("A pool of 2; a handler sleeps %g s. There: a service with a pool of 2 that lends a connection "
           "for each "
           "statement.\n",
           nap);
    show("find by id, then sleep", "further calls work: the connection is back", find_then_sleep);
    show("start the find, sleep, then collect the answer",
         "further calls work: \"pending takes no connection\"", start_sleep_collect);
    pqpool_close(pool, 1000);
    pqpool_free(pool);
    return failures ? 1 : 0;
}
