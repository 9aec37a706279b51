/*
 * load_pool: statements through a pool, in each way it has.
 */
#include "load.h"

#include <sys/epoll.h>

static pqpool *pool;

static int prepare_all(PGconn *conn, void *arg)
{
    (void)arg;
    load_prepare(conn);
    return 0;
}

static void open_with(const pqpool_hooks *hooks, const char *options)
{
    char all[1000];
    snprintf(all, sizeof all, "application_name=bench-load pool_acquire_timeout=1min %s %s", options,
             settings.pool ? settings.pool : "");
    pool = open_pool(all, hooks);
}

/* With all of them up: those who are first shall not wait for a connect. */
static void open_leased(void)
{
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_connect = prepare_all};
    char options[100];
    snprintf(options, sizeof options, "pool_max_size=%d pool_initial_size=%d", settings.connections,
             settings.connections);
    open_with(&hooks, options);
    for (double end = now_s() + 60; stats(pool).idle < settings.connections; sleep_ms(1))
        must(now_s() < end, "%d of %d connections are up", stats(pool).idle, settings.connections);
}

/* A shared pool keeps a place for leases. */
static void open_shared(void)
{
    char options[100];
    snprintf(options, sizeof options, "pool_shared_max=%d pool_max_size=%d", settings.connections,
             settings.connections + 1);
    open_with(NULL, options);
}

static int close_counting(void)
{
    int made = (int)stats(pool).connects;
    close_pool(pool);
    return made;
}

static void enter_nothing(caller *c)
{
    (void)c;
}

/* The first one brings the connection up. */
static void enter_shared(caller *c)
{
    pqpool_error err;
    if (c->number > 0)
        return;
    PGresult *res = pqpool_exec(pool, "select 1", &err);
    must(PQresultStatus(res) == PGRES_TUPLES_OK, "%s", err.message);
    PQclear(res);
}

/* ---- leased ---- */

static PGresult *ask_leased(caller *c, const request *r, const char **why)
{
    const statement *s = &statements[r->kind];
    pqpool_lease lease;
    pqpool_error err;
    (void)c;
    (void)why;
    must(pqpool_acquire(pool, &lease, &err) == PQPOOL_OK, "acquire: %s", err.message);
    PGresult *res = PQexecPrepared(lease.conn, s->name, s->n_params, r->values, NULL, NULL, 0);
    must(res, "%s", PQerrorMessage(lease.conn));
    must(pqpool_release(&lease) == PQPOOL_OK, "release");
    return res;
}

const manner load_leased = {.name = "leased",
                            .open = open_leased,
                            .enter = enter_nothing,
                            .ask = ask_leased,
                            .leave = enter_nothing,
                            .close = close_counting};

/* ---- shared ---- */

static PGresult *ask_shared(caller *c, const request *r, const char **why)
{
    const statement *s = &statements[r->kind];
    pqpool_error err;
    (void)c;
    (void)why;
    PGresult *res = pqpool_exec_params(pool, s->sql, s->n_params, NULL, r->values, NULL, NULL, 0, &err);
    must(res, "%s", err.message);
    return res;
}

const manner load_shared = {.name = "shared",
                            .open = open_shared,
                            .enter = enter_shared,
                            .ask = ask_shared,
                            .leave = enter_nothing,
                            .close = close_counting};

/* ---- tickets ---- */

static pqpool_stmt as_stmt(const request *r)
{
    const statement *s = &statements[r->kind];
    return (pqpool_stmt){PQPOOL_STMT, .sql = s->sql, .n_params = s->n_params, .param_values = r->values};
}

typedef struct pending {
    request request;
    pqpool_ticket *ticket;
} pending;

static void submit_ticket(caller *c, pending *p)
{
    pqpool_error err;
    request_make(c, &p->request);
    pqpool_stmt stmt = as_stmt(&p->request);
    p->ticket = pqpool_submit(pool, &stmt, &err);
    must(p->ticket, "submit: %s", err.message);
}

static void await_ticket(caller *c, pending *p)
{
    pqpool_error err;
    PGresult *res = pqpool_wait(p->ticket, -1, &err);
    request_end(c, &p->request, res, err.message);
    PQclear(res);
    p->ticket = NULL;
}

static void work_tickets(caller *c)
{
    pending *ring = calloc((size_t)settings.in_flight, sizeof *ring);
    must(ring, "out of memory");
    for (int i = 0; i < settings.in_flight; i++)
        submit_ticket(c, &ring[i]);
    for (int oldest = 0, left = settings.in_flight; left > 0; oldest = (oldest + 1) % settings.in_flight) {
        await_ticket(c, &ring[oldest]);
        if (caller_may_ask())
            submit_ticket(c, &ring[oldest]);
        else
            left--;
    }
    free(ring);
}

const manner load_tickets = {.name = "tickets",
                             .one_thread = true,
                             .open = open_shared,
                             .enter = enter_shared,
                             .work = work_tickets,
                             .leave = enter_nothing,
                             .close = close_counting};

/* ---- loop ---- */

/* A request of an event-driven service: its answer makes it ask anew. */
typedef struct asker {
    request request;
    caller *caller;
} asker;

static int askers_left;

static void on_answer(PGresult *res, const pqpool_error *err, void *arg);

static void ask_by_callback(asker *a)
{
    pqpool_error err;
    request_make(a->caller, &a->request);
    pqpool_stmt stmt = as_stmt(&a->request);
    bool submitted = pqpool_submit_cb(pool, &stmt, on_answer, a, &err) != NULL;
    must(submitted, "submit_cb: %s", err.message);
}

static void on_answer(PGresult *res, const pqpool_error *err, void *arg)
{
    asker *a = arg;
    request_end(a->caller, &a->request, res, err->message);
    PQclear(res);
    if (caller_may_ask())
        ask_by_callback(a);
    else
        askers_left--;
}

static void work_loop(caller *c)
{
    asker *askers = calloc((size_t)settings.in_flight, sizeof *askers);
    struct epoll_event event = {.events = EPOLLIN};
    int loop = epoll_create1(EPOLL_CLOEXEC);
    must(askers && loop >= 0 && epoll_ctl(loop, EPOLL_CTL_ADD, pqpool_fd(pool), &event) == 0, "epoll: %s",
         strerror(errno));
    for (askers_left = 0; askers_left < settings.in_flight; askers_left++) {
        askers[askers_left].caller = c;
        ask_by_callback(&askers[askers_left]);
    }
    while (askers_left > 0) {
        must(epoll_wait(loop, &event, 1, 60000) == 1, "no answer within a minute");
        must(pqpool_dispatch(pool) >= 0, "dispatch");
    }
    close(loop);
    free(askers);
}

const manner load_loop = {.name = "loop",
                          .one_thread = true,
                          .open = open_shared,
                          .enter = enter_shared,
                          .work = work_loop,
                          .leave = enter_nothing,
                          .close = close_counting};
