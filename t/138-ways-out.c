/*
 * What a thread does on its way out of the pool: it gives others their words, their answers, their events. However many there
 * are, it does not do so on a growing stack, and not for ever.
 */
#define _GNU_SOURCE /* pthread_getname_np */
#include <limits.h>
#include <stdatomic.h>

#include "support/pg.h"

#define APP "application_name=ways-out "
#define ONE_LANE                                                                                             \
    APP "pool_max_size=1 pool_stall_threshold=off pool_slow_lane_threshold=off pool_pipeline_depth=1 "

static PGconn *ctl;

/* Threads of the pool that run in this process. */
static int pool_threads(void)
{
    int n = 0;
    DIR *dir = opendir("/proc/self/task");
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char path[300], name[40] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", e->d_name);
        FILE *f = fopen(path, "r");
        if (f && fgets(name, sizeof name, f))
            n += strncmp(name, "pqpool-", 7) == 0;
        if (f)
            fclose(f);
    }
    if (dir)
        closedir(dir);
    return n;
}

/* ---- many that are past due when room comes ---- */

typedef struct crowd {
    pqpool *pool;
    double deadline;
    _Atomic int began, ended;
} crowd;

static void *past_due(void *arg)
{
    crowd *c = arg;
    c->began++;
    int ms = (int)((c->deadline - now_s()) * 1000);
    pqpool_stmt s = {PQPOOL_STMT, .sql = "select 1", .timeout_ms = ms < 1 ? 1 : ms};
    PQclear(pqpool_exec_stmt(c->pool, &s, NULL));
    c->ended++;
    return NULL;
}

static void threads_past_due(void)
{
    enum { THREADS = 1000 };
    static pthread_t threads[THREADS];
    crowd c = {.pool = open_pool(ONE_LANE, NULL)};
    PQclear(pqpool_exec(c.pool, "select 1", NULL));
    c.deadline = now_s() + 1.5 * tap_slowness();
    char sql[100];
    snprintf(sql, sizeof sql, "select pg_sleep(%.3f)", 1.5 * tap_slowness() + 0.002);
    pqpool_ticket *blocker = submit_sql(c.pool, sql);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, (size_t)(PTHREAD_STACK_MIN > 65536 ? PTHREAD_STACK_MIN : 65536));
    int n = 0;
    while (n < THREADS && pthread_create(&threads[n], &attr, past_due, &c) == 0)
        n++;
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    pthread_attr_destroy(&attr);
    ok(n >= 100 && c.ended == n, "%d threads with stacks of 64 KB whose deadlines pass together all return",
       n);
    PQclear(pqpool_wait(blocker, -1, NULL));
    close_pool(c.pool);
}

static _Atomic int called;

static void count_call(PGresult *res, const pqpool_error *err, void *arg)
{
    (void)err, (void)arg;
    PQclear(res);
    called++;
}

static void *blocks(void *pool)
{
    PQclear(pqpool_exec(pool, "select pg_sleep(1.2)", NULL));
    return NULL;
}

static void dispatch_until(pqpool *pool, int n)
{
    struct pollfd fd = {.fd = pqpool_fd(pool), .events = POLLIN};
    for (double end = now_s() + 20 * tap_slowness(); called < n && now_s() < end;) {
        poll(&fd, 1, 50);
        pqpool_dispatch(pool);
    }
}

/* The thread that finds them past due has a small stack. */
static void callbacks_past_due(void)
{
    enum { CALLBACKS = 20000 };
    pqpool *pool = open_pool(ONE_LANE, NULL);
    PQclear(pqpool_exec(pool, "select 1", NULL));
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 256 * 1024);
    pthread_t thread;
    called = 0;
    if (pthread_create(&thread, &attr, blocks, pool) != 0)
        bail("pthread_create");
    pthread_attr_destroy(&attr);
    if (!eventually(stats(pool).statements == 1))
        bail("the statement does not run");
    pqpool_stmt s = {PQPOOL_STMT, .sql = "select 1", .timeout_ms = 500};
    for (int i = 0; i < CALLBACKS; i++)
        if (code_submit_cb(pool, &s, count_call, NULL, NULL) != PQPOOL_OK)
            bail("submit");
    pthread_join(thread, NULL);
    dispatch_until(pool, CALLBACKS);
    is_int(called, CALLBACKS, "callbacks whose deadlines pass together are each called once");
    close_pool(pool);
}

static pqpool *inner;
static int depth, deepest, refused_with;

/* Submits another and dispatches for it, until that is refused. */
static void dispatch_within(PGresult *res, const pqpool_error *err, void *arg)
{
    (void)err, (void)arg;
    PQclear(res);
    called++;
    depth++;
    deepest = depth > deepest ? depth : deepest;
    pqpool_stmt s = {PQPOOL_STMT, .sql = "select 1"};
    int before = called;
    if (!refused_with && depth < 40 && code_submit_cb(inner, &s, dispatch_within, NULL, NULL) == PQPOOL_OK)
        for (int n = 0; n >= 0 && called == before && !refused_with;)
            if ((n = pqpool_dispatch(inner)) < 0)
                refused_with = n;
    depth--;
}

static void nested_dispatch(void)
{
    inner = open_pool(APP, NULL);
    called = 0;
    pqpool_stmt s = {PQPOOL_STMT, .sql = "select 1"};
    if (code_submit_cb(inner, &s, dispatch_within, NULL, NULL) != PQPOOL_OK)
        bail("submit");
    dispatch_until(inner, 1);
    is_int(refused_with, -PQPOOL_EBUSY, "a dispatch within too many callbacks is refused");
    is_int(deepest, 16, "sixteen callbacks may stand on each other's stack");
    dispatch_until(inner, 17);
    is_int(called, 17, "the callback that found no place is called later");
    close_pool(inner);
}

/* ---- room ---- */

static void no_time_to_wait(void)
{
    pqpool *pool = open_pool(APP "pool_shared_max=1", NULL);
    pqpool_error err;
    PQclear(pqpool_exec(pool, "select 1", NULL));
    if (pqpool_set(pool, "acquire_timeout", "0", &err) != PQPOOL_OK)
        bail("%s", err.message);
    int fine = 0;
    for (int i = 0; i < 20; i++) {
        PQclear(pqpool_exec(pool, "select 1", &err));
        fine += err.code == PQPOOL_OK;
    }
    is_int(fine, 20, "with acquire_timeout=0 a statement is sent that finds room");
    is_int(fetch_is(submit_sql(pool, "select 'room'"), "room"), true,
           "with acquire_timeout=0 a ticket is sent that finds room");
    called = 0;
    pqpool_stmt s = {PQPOOL_STMT, .sql = "select 1"};
    if (code_submit_cb(pool, &s, count_call, NULL, &err) != PQPOOL_OK)
        bail("%s", err.message);
    dispatch_until(pool, 1);
    is_int(called, 1, "with acquire_timeout=0 a callback is sent that finds room");
    close_pool(pool);
    pool = open_pool(ONE_LANE "pool_acquire_timeout=0", NULL);
    pqpool_ticket *blocker = NULL;
    for (int i = 0; !blocker && i < 5000; i++, sleep_ms(1)) {
        PQclear(pqpool_exec(pool, "select 1", &err));
        if (err.code == PQPOOL_OK)
            blocker = submit_sql(pool, "select pg_sleep(0.5)");
    }
    PQclear(pqpool_exec(pool, "select 1", &err));
    ok(err.code == PQPOOL_ETIMEDOUT && err.outcome == PQPOOL_NOT_SENT,
       "with acquire_timeout=0 a statement that finds none is not sent (%s)", err.message);
    PQclear(pqpool_wait(blocker, -1, NULL));
    close_pool(pool);
}

typedef struct giant {
    pqpool *pool;
    int n, code;
    bool in_order;
    _Atomic int ended;
} giant;

static void *run_giant(void *arg)
{
    giant *g = arg;
    pqpool_stmt *stmts = calloc((size_t)g->n, sizeof *stmts);
    PGresult **results = calloc((size_t)g->n, sizeof *results);
    for (int i = 0; i < g->n; i++)
        stmts[i] = (pqpool_stmt){PQPOOL_STMT, .sql = "select nextval('giant')"};
    g->code = pqpool_exec_all(g->pool, stmts, g->n, PQPOOL_EACH, results, NULL);
    g->in_order = true;
    for (int i = 0, last = 0; i < g->n; i++) {
        int number = atoi(value(results[i]));
        g->in_order &= number > last;
        last = number;
        PQclear(results[i]);
    }
    free(results);
    free(stmts);
    g->ended = 1;
    return NULL;
}

static void giant_group(void)
{
    giant g = {.pool = open_pool(APP "pool_shared_max=1", NULL), .n = 20000};
    pthread_t thread;
    one(ctl, "drop sequence if exists giant; create sequence giant");
    PQclear(pqpool_exec(g.pool, "select nextval('giant')", NULL));
    if (pthread_create(&thread, NULL, run_giant, &g) != 0)
        bail("pthread_create");
    if (!eventually(atoi(one(ctl, "select last_value from giant")) > 1))
        bail("the group does not run");
    int between = 0;
    while (!g.ended && between < 100000) {
        PQclear(pqpool_exec(g.pool, "select 'a neighbour'", NULL));
        between += !g.ended;
    }
    pthread_join(thread, NULL);
    ok(between >= 10,
       "while a group of 20000 runs on the only shared connection, others' statements take turns with it "
       "(%d)",
       between);
    ok(g.code == PQPOOL_OK && g.in_order, "its members run in their order");
    one(ctl, "drop sequence giant");
    close_pool(g.pool);
}

/* ---- events ---- */

typedef struct slow_hook {
    _Atomic int us, calls, after_free, freed;
    _Atomic int in_keeper;
} slow_hook;

static void slowly(const pqpool_event *event, void *arg)
{
    slow_hook *h = arg;
    char name[20] = "";
    (void)event;
    pthread_getname_np(pthread_self(), name, sizeof name);
    h->in_keeper += strcmp(name, "pqpool-keeper") == 0;
    h->after_free += h->freed;
    h->calls++;
    if (h->us)
        usleep((useconds_t)h->us);
    h->after_free += h->freed;
}

typedef struct worker {
    pqpool *pool;
    _Atomic int stop;
    double longest[4];
} worker;

static void lease_and_return(int i, void *arg)
{
    worker *w = arg;
    while (!w->stop) {
        pqpool_lease lease;
        double began = now_s();
        if (pqpool_acquire_within(w->pool, 1000, &lease, NULL) == PQPOOL_OK)
            pqpool_release(&lease);
        double took = now_s() - began;
        w->longest[i] = took > w->longest[i] ? took : w->longest[i];
    }
}

static void slow_events(void)
{
    slow_hook h = {.us = 300};
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_event = slowly, .arg = &h};
    worker w = {.pool = open_pool(APP "pool_max_size=8", &hooks)};
    crew c;
    crew_start(&c, 4, lease_and_return, &w);
    sleep_ms(1000);
    pqpool_stmt s = {PQPOOL_STMT, .sql = "select pg_sleep(5)", .timeout_ms = 100};
    pqpool_ticket *t = submit_stmt(w.pool, &s);
    double began = now_s();
    bool done = eventually(pqpool_ticket_done(t));
    double took = now_s() - began;
    w.stop = 1;
    crew_join(&c);
    double longest = 0;
    for (int i = 0; i < 4; i++)
        longest = w.longest[i] > longest ? w.longest[i] : longest;
    ok(longest < 0.7 * tap_slowness(),
       "with a hook slower than the events come, no caller is kept handing them out (%.2f s)", longest);
    ok(done && took < 2.0 * tap_slowness(), "and a ticket's deadline holds (%.2f s)", took);
    is_int(h.in_keeper, 0, "the thread that keeps the deadlines runs no hook");
    PQclear(pqpool_wait(t, -1, NULL));
    h.us = 0;
    close_pool(w.pool);
    h.freed = 1;
    is_int(pool_threads(), 0, "after pqpool_free() no thread of the pool runs");
    sleep_ms(50);
    is_int(h.after_free, 0, "after pqpool_free() no event is told");
}

static int slow_secret(char *buf, size_t size, void *arg)
{
    slow_hook *h = arg;
    h->calls++;
    for (int i = 0; i < 40; i++)
        sleep_ms(50);
    h->after_free += h->freed;
    snprintf(buf, size, "secret");
    return 0;
}

static void hook_outlasts_free(void)
{
    slow_hook h = {0};
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_password = slow_secret, .arg = &h};
    pqpool *pool = open_pool(APP "pool_connect_timeout=100ms pool_acquire_timeout=50ms", &hooks);
    PQclear(pqpool_exec(pool, "select 1", NULL));
    if (!eventually(h.calls > 0))
        bail("the hook is not called");
    pqpool_close(pool, 0);
    pqpool_code code = pqpool_free(pool);
    h.freed = 1;
    is_int(code, PQPOOL_OK, "pqpool_free() waits for a hook that takes two seconds");
    is_int(pool_threads(), 0, "when it has returned, the thread of that hook has ended");
    sleep_ms(100);
    is_int(h.after_free, 0, "a hook does not use its argument after pqpool_free()");
}

/* ---- cancelled threads ---- */

#if !defined(__SANITIZE_ADDRESS__)
static void *wait_for_lease(void *pool)
{
    pqpool_lease lease;
    (void)!pqpool_acquire_within(pool, 300, &lease, NULL);
    pthread_testcancel();
    return NULL;
}

static void *wait_for_answer(void *pool)
{
    PQclear(pqpool_exec(pool, "select pg_sleep(0.3)", NULL));
    pthread_testcancel();
    return NULL;
}

static void cancelled(void)
{
    static void *(*const waits[])(void *) = {wait_for_lease, wait_for_answer};
    static const char *const what[] = {"a lease", "an answer"};
    for (int i = 0; i < 2; i++) {
        pqpool *pool = open_pool(APP "pool_max_size=2", NULL);
        pqpool_lease first = take(pool), second = {0};
        if (i == 0)
            second = take(pool);
        pthread_t thread;
        if (pthread_create(&thread, NULL, waits[i], pool) != 0)
            bail("pthread_create");
        if (!eventually(i == 0 ? stats(pool).waiting == 1 : stats(pool).statements == 1))
            bail("it does not wait");
        pthread_cancel(thread);
        void *end;
        pthread_join(thread, &end);
        ok(end == PTHREAD_CANCELED, "a thread that waits for %s ends when its call has ended", what[i]);
        pqpool_release(&first);
        if (i == 0)
            pqpool_release(&second);
        first = take(pool);
        pqpool_release(&first);
        PGresult *res = pqpool_exec(pool, "select 'here'", NULL);
        is_str(value(res), "here", "the pool goes on after a thread was cancelled that waited for %s",
               what[i]);
        PQclear(res);
        close_pool(pool);
    }
}
#endif

int main(void)
{
    tap_begin(120);
    ctl = control();
    threads_past_due();
    callbacks_past_due();
    nested_dispatch();
    no_time_to_wait();
    giant_group();
    slow_events();
    hook_outlasts_free();
#if !defined(__SANITIZE_ADDRESS__) /* it takes the end of a cancelled thread for an error of its own */
    cancelled();
#endif
    PQfinish(ctl);
    return done_testing();
}
