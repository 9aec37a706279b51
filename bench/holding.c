/*
 * holding: what the library holds in memory for an idle connection and for a statement in flight, and how often it asks
 * for memory while statements come and go.
 *
 *     holding [--seconds S] [--warm-up S]      (which change nothing: it counts)
 */
#include "bench.h"
#include "memory.h"

enum { IDLE = 100, IN_FLIGHT = 1000, STEADY = 10000, WINDOW = 64, THREADS = 16, STACK = 64 * 1024 };
/* Nobody is to be sent elsewhere because one statement takes long. */
#define SHARING                                                                                              \
    "pool_max_size=2 pool_shared_max=1 pool_pipeline_depth=1024 pool_acquire_timeout=10min "                 \
    "pool_stall_threshold=off pool_slow_lane_threshold=off pool_log_level=error"

static pqpool *pool;

/* The statement; one parameter, so that there is something to copy. */
#define TEXT "SELECT $1::int"
static const char *const params[] = {"12345"};
static const pqpool_stmt statement = {PQPOOL_STMT, .sql = TEXT, .n_params = 1, .param_values = params};
enum { PARAM_BYTES = 6 };

static void take_answer(PGresult *res, const pqpool_error *err)
{
    must(PQresultStatus(res) == PGRES_TUPLES_OK && strcmp(PQgetvalue(res, 0, 0), params[0]) == 0, "%s: %s",
         TEXT, err->message);
    PQclear(res);
}

static void ask(void)
{
    pqpool_error err;
    take_answer(pqpool_exec_stmt(pool, &statement, &err), &err);
}

/* ---- idle connections ---- */

static long long bytes_with_idle(int number)
{
    char options[100];
    long long before = library_bytes();
    snprintf(options, sizeof options, "pool_max_size=%d pool_initial_size=%d", number, number);
    pool = open_pool(options, NULL);
    for (double end = now_s() + 60; stats(pool).idle < number; sleep_ms(2))
        must(now_s() < end, "%d of %d connections are up", stats(pool).idle, number);
    while (stats(pool).connecting > 0)
        sleep_ms(1);
    sleep_ms(50); /* what the connecting threads had */
    long long bytes = library_bytes() - before;
    close_pool(pool);
    return bytes;
}

static void tell_idle(void)
{
    long long all = bytes_with_idle(IDLE), one = bytes_with_idle(1);
    sample((double)all / IDLE, "bytes", "max <= 4096",
           "of the library per idle connection, the pool with it");
    sample((double)(all - one) / (IDLE - 1), "bytes", NULL, "of the library for one idle connection more");
}

/* ---- in flight ---- */

static PGconn *locker;
static int answered;

/* From here on the shared connection is busy until the gate is opened. */
static pqpool_ticket *shut_gate(void)
{
    pqpool_error err;
    pqpool_stmt head = {PQPOOL_STMT, .sql = "SELECT count(*) FROM gate"};
    run_sql(locker, "begin; lock table gate in access exclusive mode");
    pqpool_ticket *t = pqpool_submit(pool, &head, &err);
    must(t, "submit: %s", err.message);
    return t;
}

static void open_gate(pqpool_ticket *head)
{
    pqpool_error err;
    run_sql(locker, "rollback");
    PGresult *res = pqpool_wait(head, -1, &err);
    must(PQresultStatus(res) == PGRES_TUPLES_OK, "the gate: %s", err.message);
    PQclear(res);
}

static void await_statements(int number)
{
    for (double end = now_s() + 60; stats(pool).statements != number; sleep_ms(1))
        must(now_s() < end, "%d statements are in flight, not %d", stats(pool).statements, number);
}

static void tell_in_flight(long long before, int copied, const char *whose)
{
    await_statements(IN_FLIGHT + 1);
    double bytes = (double)(library_bytes() - before) / IN_FLIGHT - copied;
    sample(bytes, "bytes", "max <= 512", "of the library per statement in flight, %s, without its parameters",
           whose);
}

static void *ask_once(void *arg)
{
    (void)arg;
    ask();
    return NULL;
}

static void hold_callers(void)
{
    static pthread_t threads[IN_FLIGHT];
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    pqpool_ticket *head = shut_gate();
    long long before = library_bytes();
    for (int i = 0; i < IN_FLIGHT; i++)
        must(pthread_create(&threads[i], &attr, ask_once, NULL) == 0, "pthread_create");
    tell_in_flight(before, 0, "of a caller who waits");
    open_gate(head);
    for (int i = 0; i < IN_FLIGHT; i++)
        pthread_join(threads[i], NULL);
    pthread_attr_destroy(&attr);
}

static void hold_tickets(void)
{
    static pqpool_ticket *tickets[IN_FLIGHT];
    pqpool_error err;
    pqpool_ticket *head = shut_gate();
    long long before = library_bytes();
    for (int i = 0; i < IN_FLIGHT; i++) {
        tickets[i] = pqpool_submit(pool, &statement, &err);
        must(tickets[i], "submit: %s", err.message);
    }
    tell_in_flight(before, PARAM_BYTES, "by ticket");
    open_gate(head);
    for (int i = 0; i < IN_FLIGHT; i++)
        take_answer(pqpool_wait(tickets[i], -1, &err), &err);
}

static int to_ask_again;

static void on_answer(PGresult *res, const pqpool_error *err, void *arg);

static void submit_callback(void)
{
    pqpool_error err;
    must(pqpool_submit_cb(pool, &statement, on_answer, NULL, &err) != NULL, "submit_cb: %s",
         err.message);
}

static void on_answer(PGresult *res, const pqpool_error *err, void *arg)
{
    (void)arg;
    take_answer(res, err);
    answered++;
    if (to_ask_again > 0) {
        to_ask_again--;
        submit_callback();
    }
}

static void dispatch_until(int number)
{
    struct pollfd ready = {.fd = pqpool_fd(pool), .events = POLLIN};
    while (answered < number)
        if (pqpool_dispatch(pool) == 0)
            must(poll(&ready, 1, 60000) == 1, "no callback within a minute");
}

static void hold_callbacks(void)
{
    pqpool_ticket *head = shut_gate();
    long long before = library_bytes();
    answered = 0;
    for (int i = 0; i < IN_FLIGHT; i++)
        submit_callback();
    tell_in_flight(before, PARAM_BYTES, "with a callback");
    open_gate(head);
    dispatch_until(IN_FLIGHT);
}

/* ---- coming and going ---- */

static void *ask_many(void *arg)
{
    pthread_barrier_t *gate = arg;
    for (int i = 0; i < STEADY / THREADS; i++)
        ask();
    pthread_barrier_wait(gate);
    pthread_barrier_wait(gate);
    for (int i = 0; i < STEADY / THREADS; i++)
        ask();
    pthread_barrier_wait(gate);
    return NULL;
}

static long long calls_of_callers(void)
{
    pthread_t threads[THREADS];
    pthread_barrier_t gate;
    pthread_barrier_init(&gate, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++)
        must(pthread_create(&threads[i], NULL, ask_many, &gate) == 0, "pthread_create");
    pthread_barrier_wait(&gate);
    long long before = library_calls();
    pthread_barrier_wait(&gate);
    pthread_barrier_wait(&gate);
    long long calls = library_calls() - before;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return calls;
}

static void run_tickets(int times)
{
    pqpool_ticket *tickets[WINDOW];
    pqpool_error err;
    for (int i = 0; i < times + WINDOW; i++) {
        pqpool_ticket **t = &tickets[i % WINDOW];
        if (i >= WINDOW)
            take_answer(pqpool_wait(*t, -1, &err), &err);
        *t = i < times ? pqpool_submit(pool, &statement, &err) : NULL;
        must(*t || i >= times, "submit: %s", err.message);
    }
}

static long long calls_of_tickets(void)
{
    run_tickets(STEADY);
    long long before = library_calls();
    run_tickets(STEADY);
    return library_calls() - before;
}

static void run_callbacks(int times)
{
    answered = 0;
    to_ask_again = times - WINDOW;
    for (int i = 0; i < WINDOW; i++)
        submit_callback();
    dispatch_until(times);
}

static long long calls_of_callbacks(void)
{
    run_callbacks(STEADY);
    long long before = library_calls();
    run_callbacks(STEADY);
    return library_calls() - before;
}

/* ---- the command ---- */

/* In a pool of its own each: what one has needed must not serve the next. */
static void with_pool(void (*run)(void))
{
    pool = open_pool(SHARING, NULL);
    ask();
    run();
    must(stats(pool).connects == 1, "%d connections were made", (int)stats(pool).connects);
    close_pool(pool);
}

static long long (*calls_of)(void);
static const char *calls_whose;

static void tell_calls(void)
{
    sample((double)calls_of() / STEADY, "count", "max <= 0", "allocations of the library per statement, %s",
           calls_whose);
}

static void count_calls(long long (*of)(void), const char *whose)
{
    calls_of = of;
    calls_whose = whose;
    with_pool(tell_calls);
}

int main(void)
{
    locker = control();
    run_sql(locker, "drop table if exists gate");
    run_sql(locker, "create table gate ()");
    tell_idle();
    with_pool(hold_callers);
    with_pool(hold_tickets);
    with_pool(hold_callbacks);
    count_calls(calls_of_callers, "of callers who wait");
    count_calls(calls_of_tickets, "by ticket");
    count_calls(calls_of_callbacks, "with a callback");
    run_sql(locker, "drop table gate");
    PQfinish(locker);
    return 0;
}
