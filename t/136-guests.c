/* Who waits for a ticket, and an event loop, read answers themselves; the keeper only what nobody comes for. */
#include "support/pg.h"

#include <semaphore.h>
#include <signal.h>
#include <sys/wait.h>

#define NAMED "application_name=guests-test pool_max_size=2 pool_shared_max=1 "

enum { ROUNDS = 1000 };

static PGconn *ctl;

/* How often the pool's thread has gone to sleep; there is one pool at a time. */
static long keeper_sleeps(void)
{
    long sleeps = -1;
    DIR *dir = opendir("/proc/self/task");
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char path[300], line[200];
        bool keeper = false;
        snprintf(path, sizeof path, "/proc/self/task/%s/status", e->d_name);
        FILE *f = fopen(path, "r");
        while (f && fgets(line, sizeof line, f)) {
            keeper |= strcmp(line, "Name:\tpqpool-keeper\n") == 0;
            if (keeper)
                sscanf(line, "voluntary_ctxt_switches: %ld", &sleeps);
        }
        if (f)
            fclose(f);
    }
    if (dir)
        closedir(dir);
    return sleeps;
}

/* ---- an event loop ---- */

typedef struct count {
    _Atomic int calls, wrong;
    sem_t begun, go_on; /* of one that takes its time */
} count;

static void take_one(PGresult *res, const pqpool_error *err, void *arg)
{
    count *c = arg;
    c->wrong += err->code != PQPOOL_OK || strcmp(value(res), "1") != 0;
    PQclear(res);
    c->calls++;
}

static void take_its_time(PGresult *res, const pqpool_error *err, void *arg)
{
    count *c = arg;
    sem_post(&c->begun);
    while (sem_wait(&c->go_on) != 0)
        continue;
    take_one(res, err, c);
}

static void submit_to(pqpool *pool, pqpool_callback callback, count *c)
{
    pqpool_error err;
    pqpool_stmt stmt = {PQPOOL_STMT, .sql = "select 1"};
    if (code_submit_cb(pool, &stmt, callback, c, &err) != PQPOOL_OK)
        bail("submit_cb: %s", err.message);
}

static bool readable(pqpool *pool, int ms)
{
    struct pollfd p = {.fd = pqpool_fd(pool), .events = POLLIN};
    return poll(&p, 1, ms) == 1;
}

/* Turns the loop until so many callbacks have run. */
static bool turn(pqpool *pool, count *c, int calls)
{
    double end = now_s() + 10.0 * tap_slowness();
    while (c->calls < calls && now_s() < end)
        if (readable(pool, 100))
            (void)pqpool_dispatch(pool);
    return c->calls == calls;
}

static void reads_for_itself(void)
{
    pqpool *pool = open_pool(NAMED, NULL);
    count c = {0};
    (void)pqpool_fd(pool);
    submit_to(pool, take_one, &c);
    ok(turn(pool, &c, 1), "a first callback");
    long before = keeper_sleeps();
    double began = now_s();
    for (int i = 0; i < ROUNDS; i++) {
        submit_to(pool, take_one, &c);
        if (!turn(pool, &c, 2 + i))
            break;
    }
    long sleeps = keeper_sleeps() - before, ms = (long)((now_s() - began) * 1000);
    is_int(c.calls, 1 + ROUNDS, "one after another, all callbacks run");
    is_int(c.wrong, 0, "each with its answer");
    ok(before >= 0 && sleeps <= ROUNDS / 2 + ms / 2, "B4: the loop reads the answers, not the pool's thread");
    diag("%ld wake-ups of the pool's thread in %ld ms", sleeps, ms);
    close_pool(pool);
}

static pqpool *_Atomic looped; /* by loop_main, until it is NULL */

static void *loop_main(void *arg)
{
    (void)arg;
    for (pqpool *pool; (pool = looped);)
        if (readable(pool, 10))
            (void)pqpool_dispatch(pool);
    return NULL;
}

static pthread_t start_loop(pqpool *pool)
{
    pthread_t thread;
    looped = pool;
    if (pthread_create(&thread, NULL, loop_main, NULL) != 0)
        bail("pthread_create");
    return thread;
}

static void stop_loop(pthread_t thread)
{
    looped = NULL;
    pthread_join(thread, NULL);
}

static void is_late(void)
{
    pqpool *pool = open_pool(NAMED, NULL);
    count c = {0};
    sem_init(&c.begun, 0, 0), sem_init(&c.go_on, 0, 0);
    submit_to(pool, take_one, &c);
    ok(turn(pool, &c, 1), "a loop is there");
    pthread_t thread = start_loop(pool);
    submit_to(pool, take_its_time, &c);
    while (sem_wait(&c.begun) != 0)
        continue;
    pqpool_ticket *ticket = submit_sql(pool, "select 'done'");
    ok(eventually(pqpool_ticket_done(ticket)), "what a busy loop does not read, the pool's thread does");
    ok(fetch_is(ticket, "done"), "and it is the answer");
    ok(fetch_is(submit_sql(pool, "select 'waited'"), "waited"), "who waits for a ticket needs no loop");
    is_int(c.calls, 1, "all that while the callback takes its time");
    sem_post(&c.go_on);
    ok(eventually(c.calls == 2), "and ends");
    submit_to(pool, take_one, &c);
    ok(eventually(c.calls == 3), "the loop goes on");
    stop_loop(thread);
    is_int(c.wrong, 0, "no answer is another's");
    close_pool(pool);
    sem_destroy(&c.begun), sem_destroy(&c.go_on);
}

/* An end of the connection that the loop watches makes it readable; it must not stay so, not even while another process
 * holds the socket too. */
static void is_hung_up_on(bool forked)
{
    pqpool *pool = open_pool(NAMED, NULL);
    count c = {0};
    pid_t child = 0;
    for (int i = 1; i <= 20; i++) {
        submit_to(pool, take_one, &c);
        (void)turn(pool, &c, i);
    }
    is_int(c.calls, 20, "a loop watches its connection");
    if (forked && (child = fork()) == 0)
        for (;;)
            pause();
    one(ctl, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'guests-test'");
    ok(eventually(backends(ctl, "guests-test") == 0), "which the server ends while nothing is in flight");
    int turns = 0;
    for (double end = now_s() + 0.5; now_s() < end; turns++)
        if (readable(pool, 50))
            (void)pqpool_dispatch(pool);
    ok(turns < 100, "the loop does not turn for nothing%s", forked ? ", after a fork" : "");
    diag("%d turns", turns);
    submit_to(pool, take_one, &c);
    ok(turn(pool, &c, 21) && c.wrong == 0, "the next callback has its answer");
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    close_pool(pool);
}

/* What is long in coming is waited for by one who can sleep. */
static void waits_long(void)
{
    pqpool *pool = open_pool(NAMED, NULL);
    count c = {0};
    pqpool_error err;
    for (int i = 1; i <= 20; i++) {
        submit_to(pool, take_one, &c);
        (void)turn(pool, &c, i);
    }
    pqpool_stmt stmt = {PQPOOL_STMT, .sql = "select 1 from (select pg_sleep(1)) s"};
    if (code_submit_cb(pool, &stmt, take_one, &c, &err) != PQPOOL_OK)
        bail("submit_cb: %s", err.message);
    long before = keeper_sleeps();
    ok(turn(pool, &c, 21) && c.wrong == 0, "a callback of a slow statement runs");
    long sleeps = keeper_sleeps() - before;
    ok(sleeps < 100, "meanwhile the pool's thread sleeps");
    diag("%ld wake-ups of the pool's thread in 1 s", sleeps);
    close_pool(pool);
}

/* ---- texts ---- */

static void note_slow(const pqpool_event *event, void *arg)
{
    if (event->id == PQPOOL_EVENT_SLOW_STATEMENT && strstr(event->text, "the first of a group"))
        *(_Atomic int *)arg = 1;
}

static void take_group(PGresult **results, const pqpool_error *errors, int n, void *arg)
{
    count *c = arg;
    for (int i = 0; i < n; i++) {
        c->wrong += errors[i].code != (i == 0 ? PQPOOL_ETIMEDOUT : PQPOOL_OK);
        PQclear(results[i]);
    }
    c->calls++;
}

/* A group's first member ends long before the others; what it was called is told in the end. */
static void are_kept(void)
{
    _Atomic int told = 0;
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_event = note_slow, .arg = &told};
    pqpool *pool = open_pool(NAMED "pool_statement_cache_size=2 pool_slow_statement=100ms", &hooks);
    count c = {0};
    pqpool_error err;
    PQclear(pqpool_exec(pool, "select 1", &err));
    pqpool_suspend(pool);
    pqpool_stmt group[] = {{PQPOOL_STMT, .sql = "select 'the first of a group'", .timeout_ms = 100},
                           {PQPOOL_STMT, .sql = "select pg_sleep(0.3)", .timeout_ms = 10000}};
    if (code_submit_all_cb(pool, group, 2, PQPOOL_EACH, take_group, &c, &err) != PQPOOL_OK)
        bail("submit_all_cb: %s", err.message);
    sleep_ms(300);
    pqpool_resume(pool);
    for (int i = 0; i < 8; i++) {
        char sql[32];
        snprintf(sql, sizeof sql, "select %d", i);
        PQclear(pqpool_exec(pool, sql, &err));
    }
    ok(turn(pool, &c, 1) && c.wrong == 0,
       "of a group, one was too late and one runs, while other texts come");
    ok(eventually(told), "it is told by its first statement's text");
    close_pool(pool);
}

/* Once the loop's connection is a caller's, what he reads is not told to the loop. */
static void is_not_told_of_leases(void)
{
    pqpool *pool = open_pool(
        "application_name=guests-test pool_max_size=1 pool_idle_timeout=100ms pool_min_idle=0", NULL);
    count c = {0};
    submit_to(pool, take_one, &c);
    (void)turn(pool, &c, 1);
    submit_to(pool, take_one, &c);
    ok(turn(pool, &c, 2), "a loop watches the only connection");
    pqpool_lease lease = take(pool);
    int turns = 0;
    PQsendQuery(lease.conn, "select 1");
    for (double end = now_s() + 0.2; now_s() < end; turns++)
        if (readable(pool, 20))
            (void)pqpool_dispatch(pool);
    ok(turns < 30, "an answer on a lease does not concern the loop");
    for (PGresult *res; (res = PQgetResult(lease.conn));)
        PQclear(res);
    pqpool_release(&lease);
    submit_to(pool, take_one, &c);
    ok(turn(pool, &c, 3) && c.wrong == 0, "which goes on when it is given back");
    close_pool(pool);
}

/* ---- who waits for tickets ---- */

static void waits_for_himself(void)
{
    pqpool *pool = open_pool(NAMED, NULL);
    int right = fetch_is(submit_sql(pool, "select 7"), "7");
    long before = keeper_sleeps();
    double began = now_s();
    for (int i = 0; i < ROUNDS; i++)
        right += fetch_is(submit_sql(pool, "select 7"), "7");
    long sleeps = keeper_sleeps() - before, ms = (long)((now_s() - began) * 1000);
    is_int(right, 1 + ROUNDS, "tickets waited for one after another have their answers");
    ok(before >= 0 && sleeps <= ROUNDS / 2 + ms / 2, "who waits reads the answers, not the pool's thread");
    diag("%ld wake-ups of the pool's thread in %ld ms", sleeps, ms);
    close_pool(pool);
}

typedef struct waiter {
    pqpool_ticket *ticket;
    int timeout_ms, code;
    double began, seconds;
} waiter;

static void *wait_main(void *arg)
{
    waiter *w = arg;
    pqpool_error err;
    w->began = now_s();
    PQclear(pqpool_wait(w->ticket, w->timeout_ms, &err));
    w->seconds = now_s() - w->began;
    w->code = err.code;
    return NULL;
}

/* Two wait; the one who reads for both leaves early. */
static void leaves_early(void)
{
    pqpool *pool = open_pool(NAMED, NULL);
    ok(fetch_is(submit_sql(pool, "select 7"), "7"), "somebody waits for tickets");
    waiter w[2] = {{.ticket = submit_sql(pool, "select pg_sleep(0.4)"), .timeout_ms = 100},
                   {.ticket = submit_sql(pool, "select 8"), .timeout_ms = -1}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, wait_main, &w[i]) != 0)
            bail("pthread_create");
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    is_int(w[0].code, PQPOOL_EPENDING, "one whose patience ends leaves");
    ok(w[0].seconds < 0.35 * tap_slowness(), "in time");
    is_int(w[1].code, PQPOOL_OK, "and the other has his answer");
    ok(w[1].seconds < 1.0 * tap_slowness(), "without delay");
    ok(fetch_is(w[0].ticket, ""), "the ticket can be waited for again");
    close_pool(pool);
}

/* ---- all at once ---- */

typedef struct crowd {
    pqpool *pool;
    _Atomic int right;
} crowd;

enum { CROWD = 6, EACH = 300 };

static bool ask(pqpool *pool, int i, int k)
{
    char text[16];
    pqpool_error err;
    snprintf(text, sizeof text, "%d", i * EACH + k);
    pqpool_stmt stmt = {PQPOOL_STMT, .sql = "select $1::int", .n_params = 1,
                        .param_values = (const char *[]){text}};
    PGresult *res;
    if (i % 2 == 0) {
        res = pqpool_exec_stmt(pool, &stmt, &err);
    } else {
        pqpool_ticket *ticket = pqpool_submit(pool, &stmt, &err);
        do
            res = ticket ? pqpool_wait(ticket, k % 3 - 1, &err) : NULL;
        while (ticket && err.code == PQPOOL_EPENDING);
    }
    bool right = res && strcmp(value(res), text) == 0;
    PQclear(res);
    return right;
}

static void ask_many(int i, void *arg)
{
    crowd *c = arg;
    for (int k = 0; k < EACH; k++)
        c->right += ask(c->pool, i, k);
}

static void all_at_once(void)
{
    crowd all = {.pool = open_pool(NAMED, NULL)};
    count c = {0};
    pthread_t thread = start_loop(all.pool);
    for (int i = 0; i < EACH; i++)
        submit_to(all.pool, take_one, &c);
    in_threads(CROWD, ask_many, &all);
    is_int(all.right, CROWD * EACH,
           "callers, waiters and a loop on one connection: each has his own answers");
    ok(eventually(c.calls == EACH) && c.wrong == 0, "the loop too");
    stop_loop(thread);
    close_pool(all.pool);
}

int main(void)
{
    tap_begin(60);
    ctl = control();
    reads_for_itself();
    is_late();
    is_hung_up_on(false);
    is_hung_up_on(true);
    waits_long();
    is_not_told_of_leases();
    waits_for_himself();
    leaves_early();
    are_kept();
    all_at_once();
    PQfinish(ctl);
    return done_testing();
}
