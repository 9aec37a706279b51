/*
 * load_raw: statements without a pool, as one who writes by hand against libpq would send them.
 */
#include "load.h"

#include <sys/epoll.h>

/* libpq 17 can queue a Sync without sending at once; before, each Sync costs a system call. */
extern int PQsendPipelineSync(PGconn *conn);
#pragma weak PQsendPipelineSync

static void open_nothing(void) {}

/* ---- raw: a connection of one's own ---- */

static void enter_raw(caller *c)
{
    c->own = load_connect();
}

static PGresult *ask_raw(caller *c, const request *r, const char **why)
{
    const statement *s = &statements[r->kind];
    PGconn *conn = c->own;
    PGresult *res = settings.unprepared
                        ? PQexecParams(conn, s->sql, s->n_params, NULL, r->values, NULL, NULL, 0)
                        : PQexecPrepared(conn, s->name, s->n_params, r->values, NULL, NULL, 0);
    if (!res)
        *why = PQerrorMessage(conn);
    return res;
}

static void leave_raw(caller *c)
{
    PQfinish(c->own);
}

static int count_callers(void)
{
    return settings.callers;
}

const manner load_raw = {.name = "raw",
                         .open = open_nothing,
                         .enter = enter_raw,
                         .ask = ask_raw,
                         .leave = leave_raw,
                         .close = count_callers};

/* ---- a connection in pipeline mode, and what is in flight on it, oldest first ---- */

typedef struct line {
    PGconn *conn;
    request *ring;
    int size, first, n;
    bool full; /* the socket takes no more for now */
    /* What is to happen when a statement's answer is there. */
    void (*then)(caller *c, struct line *l);
} line;

static void line_open(line *l, int size, void (*then)(caller *, line *))
{
    *l = (line){.conn = load_connect(), .size = size, .then = then};
    l->ring = calloc((size_t)size, sizeof *l->ring);
    must(l->ring, "out of memory");
    must(PQsetnonblocking(l->conn, 1) == 0 && PQenterPipelineMode(l->conn) == 1, "%s",
         PQerrorMessage(l->conn));
}

static void line_close(line *l)
{
    PQfinish(l->conn);
    free(l->ring);
}

static void line_send(caller *c, line *l)
{
    request *r = &l->ring[(l->first + l->n++) % l->size];
    request_make(c, r);
    const statement *s = &statements[r->kind];
    int sent = PQsendQueryPrepared(l->conn, s->name, s->n_params, r->values, NULL, NULL, 0) == 1 &&
               (PQsendPipelineSync ? PQsendPipelineSync(l->conn) : PQpipelineSync(l->conn)) == 1;
    must(sent, "%s", PQerrorMessage(l->conn));
}

static void line_flush(line *l)
{
    int rc = PQflush(l->conn);
    must(rc >= 0, "%s", PQerrorMessage(l->conn));
    l->full = rc == 1;
}

static void take_result(caller *c, line *l, const PGresult *res)
{
    if (PQresultStatus(res) != PGRES_PIPELINE_SYNC) {
        request_end(c, &l->ring[l->first], res, "");
        return;
    }
    l->first = (l->first + 1) % l->size;
    l->n--;
    l->then(c, l);
}

/* Takes the answers that are there. */
static void line_take(caller *c, line *l)
{
    must(PQconsumeInput(l->conn) == 1, "%s", PQerrorMessage(l->conn));
    while (l->n > 0 && !PQisBusy(l->conn)) {
        PGresult *res = PQgetResult(l->conn);
        if (res) /* NULL: the statement has no more of them, its Sync comes next */
            take_result(c, l, res);
        PQclear(res);
    }
}

/* ---- pipeline ---- */

static void do_nothing(caller *c, line *l)
{
    (void)c;
    (void)l;
}

static void enter_pipeline(caller *c)
{
    static line only;
    line_open(&only, settings.in_flight, do_nothing);
    c->own = &only;
}

static void work_pipeline(caller *c)
{
    line *l = c->own;
    for (;;) {
        while (l->n < l->size && caller_may_ask())
            line_send(c, l);
        if (l->n == 0)
            return;
        line_flush(l);
        struct pollfd fd = {PQsocket(l->conn), (short)(POLLIN | (l->full ? POLLOUT : 0)), 0};
        must(poll(&fd, 1, 60000) == 1, "no answer within a minute");
        line_take(c, l);
    }
}

static void leave_pipeline(caller *c)
{
    line_close(c->own);
}

static int count_one(void)
{
    return 1;
}

const manner load_pipeline = {.name = "pipeline",
                              .one_thread = true,
                              .open = open_nothing,
                              .enter = enter_pipeline,
                              .work = work_pipeline,
                              .leave = leave_pipeline,
                              .close = count_one};

/* ---- handloop ---- */

typedef struct handloop {
    int epoll, in_flight;
    line *lines;
} handloop;

static handloop hand;

/* A service's handler: the answer is there, the next request comes in. */
static void ask_again(caller *c, line *l)
{
    if (caller_may_ask())
        line_send(c, l);
    else
        hand.in_flight--;
}

static void watch_line(line *l, int op)
{
    struct epoll_event event = {.events = EPOLLIN | (l->full ? EPOLLOUT : 0), .data.ptr = l};
    must(epoll_ctl(hand.epoll, op, PQsocket(l->conn), &event) == 0, "epoll_ctl: %s", strerror(errno));
}

static void enter_handloop(caller *c)
{
    (void)c;
    must(settings.in_flight >= settings.connections, "fewer in flight than connections");
    hand.epoll = epoll_create1(EPOLL_CLOEXEC);
    hand.lines = calloc((size_t)settings.connections, sizeof *hand.lines);
    must(hand.epoll >= 0 && hand.lines, "epoll_create1: %s", strerror(errno));
    for (int i = 0; i < settings.connections; i++) {
        int share =
            settings.in_flight / settings.connections + (i < settings.in_flight % settings.connections);
        line_open(&hand.lines[i], share, ask_again);
        watch_line(&hand.lines[i], EPOLL_CTL_ADD);
    }
}

static void serve_line(caller *c, line *l)
{
    bool was_full = l->full;
    line_take(c, l);
    line_flush(l);
    if (l->full != was_full)
        watch_line(l, EPOLL_CTL_MOD);
}

static void work_handloop(caller *c)
{
    struct epoll_event ready[64];
    for (int i = 0; i < settings.connections; i++) {
        line *l = &hand.lines[i];
        for (int k = 0; k < l->size; k++, hand.in_flight++)
            line_send(c, l);
        serve_line(c, l);
    }
    while (hand.in_flight > 0) {
        int n = epoll_wait(hand.epoll, ready, 64, 60000);
        must(n > 0, "no answer within a minute");
        for (int i = 0; i < n; i++)
            serve_line(c, ready[i].data.ptr);
    }
}

static void leave_handloop(caller *c)
{
    (void)c;
    for (int i = 0; i < settings.connections; i++)
        line_close(&hand.lines[i]);
    free(hand.lines);
    close(hand.epoll);
}

static int count_connections(void)
{
    return settings.connections;
}

const manner load_handloop = {.name = "handloop",
                              .one_thread = true,
                              .open = open_nothing,
                              .enter = enter_handloop,
                              .work = work_handloop,
                              .leave = leave_handloop,
                              .close = count_connections};
