/*
 * pool_events: what the pool tells while five requests use two connections, at once and one after another.
 *
 *     pool_events [CONNINFO]
 *
 * One thread, as in an event loop. At once: requests 1 and 2 each cause a connect, and so do not wait for anybody; 3, 4 and
 * 5 stand in the queue. The answer to the outside has left before the first connection is up. A new connection enters the
 * pool first and goes from there to the longest waiter. One after another: the first request's connection serves all.
 */
#include <pqpool-ops.h>
#include <pqpool.h>

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

enum { REQUESTS = 5 };

static pqpool *pool;
static int failures;

/* ---- events: noted by whoever tells of them, printed in this thread, in their order ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int noted[100], n_noted, n_printed, count[PQPOOL_EVENT_IDS];
static char trouble[500];

static void on_event(const pqpool_event *event, void *unused)
{
    (void)unused;
    if (event->id == PQPOOL_EVENT_CONNECT_FAILED) {
        pthread_mutex_lock(&lock);
        snprintf(trouble, sizeof trouble, "%s", event->text);
        pthread_mutex_unlock(&lock);
    }
    if (event->id != PQPOOL_EVENT_CONNECT && event->id != PQPOOL_EVENT_ENQUEUE &&
        event->id != PQPOOL_EVENT_RELEASE)
        return;
    pthread_mutex_lock(&lock);
    if (n_noted < 100)
        noted[n_noted++] = event->id;
    count[event->id]++;
    pthread_mutex_unlock(&lock);
}

static void print_events(void)
{
    pthread_mutex_lock(&lock);
    while (n_printed < n_noted)
        printf("  %s\n", pqpool_event_name(noted[n_printed++]));
    pthread_mutex_unlock(&lock);
}

/* Waits until there have been so many of a kind. */
static void await(int id, int n)
{
    for (int i = 0; i < 10000; i++, poll(NULL, 0, 1)) {
        pthread_mutex_lock(&lock);
        int there = count[id] >= n, failed = *trouble != '\0';
        pthread_mutex_unlock(&lock);
        if (there)
            return;
        if (failed)
            break;
    }
    fprintf(stderr, "pool_events: %s did not come: %s\n", pqpool_event_name(id), trouble);
    exit(1);
}

/* Connecting takes longer than answering: it is held up until the answer has left. */
static sem_t answered;

static int hold_connect(PGconn *conn, void *unused)
{
    (void)conn, (void)unused;
    while (sem_wait(&answered) != 0)
        continue;
    return 0;
}

/* ---- requests ---- */

static int served;

static void handle(pqpool_lease *lease, const pqpool_error *err, void *unused)
{
    (void)unused;
    served++;
    if (!lease) {
        fprintf(stderr, "pool_events: %s\n", err->message);
        failures++;
        return;
    }
    pqpool_lease mine = *lease;
    PGresult *res = PQexec(mine.conn, "SELECT * FROM (VALUES (1, 'a mall')) mall LIMIT 1");
    pqpool_release(&mine); /* before the error is looked at */
    failures += PQresultStatus(res) != PGRES_TUPLES_OK;
    PQclear(res);
}

static void request(int i)
{
    pqpool_error err;
    printf("  request %d\n", i);
    if (!pqpool_acquire_cb(pool, NULL, handle, NULL, &err)) {
        fprintf(stderr, "pool_events: %s\n", err.message);
        exit(1);
    }
}

static void serve(int n)
{
    struct pollfd ready = {.fd = pqpool_fd(pool), .events = POLLIN};
    while (served < n) {
        poll(&ready, 1, -1);
        pqpool_dispatch(pool);
    }
    await(PQPOOL_EVENT_RELEASE, n);
}

static void begin(const char *conninfo, const char *what)
{
    const char *keywords[] = {"dbname", "pool_max_size", NULL}, *values[] = {conninfo, "2", NULL};
    pqpool_error err;
    pool = pqpool_open_params(keywords, values, 1,
                              &(pqpool_hooks){PQPOOL_HOOKS, .on_event = on_event, .on_connect = hold_connect},
                              &err);
    if (!pool) {
        fprintf(stderr, "pool_events: %s\n", err.message);
        exit(1);
    }
    n_noted = n_printed = served = 0;
    for (int i = 0; i < PQPOOL_EVENT_IDS; i++)
        count[i] = 0;
    sem_init(&answered, 0, 0);
    printf("%s\n", what);
}

static void end(void)
{
    printf("connect %d, enqueue %d, release %d\n", count[PQPOOL_EVENT_CONNECT], count[PQPOOL_EVENT_ENQUEUE],
           count[PQPOOL_EVENT_RELEASE]);
    pqpool_close(pool, 1000);
    pqpool_free(pool);
}

int main(int argc, char **argv)
{
    const char *conninfo = argc > 1 ? argv[1] : "";
    begin(conninfo, "at once");
    for (int i = 1; i <= REQUESTS; i++) {
        request(i);
        if (i > 2)
            await(PQPOOL_EVENT_ENQUEUE, i - 2);
        print_events();
    }
    printf("  response sent\n");
    sem_post(&answered);
    sem_post(&answered);
    await(PQPOOL_EVENT_CONNECT, 2); /* both are made side by side; then the loop goes round */
    print_events();
    serve(REQUESTS);
    print_events();
    end();

    begin(conninfo, "one after another");
    sem_post(&answered);
    for (int i = 1; i <= REQUESTS; i++) {
        request(i);
        serve(i);
        print_events();
    }
    printf("  response sent\n");
    end();
    return failures ? 1 : 0;
}
