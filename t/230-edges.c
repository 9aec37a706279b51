/* Where promises meet: outcomes across repeats, what a holder leaves on a PGconn, a stuck head, free and its
 * callers. */
#include "support/nemesis.h"

#include <semaphore.h>

#define APP "application_name=edges "

static PGconn *ctl;

typedef struct call {
    pqpool *pool;
    pqpool_stmt stmt;
    pqpool_error err;
    PGresult *res;
    pthread_t thread;
} call;

static void *run_call(void *arg)
{
    call *c = arg;
    c->res = pqpool_exec_stmt(c->pool, &c->stmt, &c->err);
    return NULL;
}

static void start(call *c)
{
    if (pthread_create(&c->thread, NULL, run_call, c) != 0)
        bail("pthread_create");
}

/* It ran once, its connection was ended, and the repeat finds no server that lets it in. */
static void repeated_and_not_sent(void)
{
    one(ctl, "create role shut login; create sequence ran; grant all on sequence ran to shut");
    pqpool *pool = open_pool(APP "user=shut pool_acquire_timeout=3s", NULL);
    call c = {
        .pool = pool,
        .stmt = {PQPOOL_STMT, .sql = "select nextval('ran'), pg_sleep(20)", .flags = PQPOOL_IDEMPOTENT}};
    start(&c);
    if (!eventually(
            atoi(one(ctl, "select count(*) from pg_stat_activity where usename = 'shut' and wait_event = "
                          "'PgSleep'")) == 1))
        bail("the statement does not sleep");
    one(ctl, "alter role shut nologin");
    one(ctl, "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'shut'");
    pthread_join(c.thread, NULL);
    ok(!c.res && c.err.code == PQPOOL_ECONNECT,
       "a repeat that finds no server fails with what the server says (%s)", c.err.message);
    is_int(c.err.outcome, PQPOOL_UNKNOWN, "B10: it is UNKNOWN all the same: it was sent before, and it ran");
    ok(!pqpool_is_retryable(&c.err), "B10: and not to be repeated");
    is_str(one(ctl, "select is_called from ran"), "t", "as the sequence shows");
    close_pool(pool);
    one(ctl, "drop sequence ran; drop role shut");
}

static int heard;

static void listen_to_notice(void *arg, const PGresult *res)
{
    (void)arg, (void)res;
    heard++;
}

static void nothing_left_on_the_conn(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=1", NULL);
    pqpool_lease lease = take(pool);
    PQsetNoticeReceiver(lease.conn, listen_to_notice, NULL);
    PQsetErrorVerbosity(lease.conn, PQERRORS_VERBOSE);
    PQclear(PQexec(lease.conn, "drop table if exists nobody_has_this"));
    is_int(heard, 1, "a holder may listen to notices");
    pqpool_release(&lease);
    pqpool_error err;
    PQclear(pqpool_exec(pool, "drop table if exists nobody_has_this", &err));
    lease = take(pool);
    PQclear(PQexec(lease.conn, "drop table if exists nobody_has_this"));
    is_int(heard, 1, "A9: but hears none of those who come after him");
    PGresult *res = PQexec(lease.conn, "select 1/0");
    ok(!strstr(PQresultErrorMessage(res), "LOCATION"), "A9: and his verbosity is gone");
    PQclear(res);
    pqpool_release(&lease);
    close_pool(pool);
}

/* The head of the only shared connection is past its deadline and goes on running in the server. */
static void stuck_head(void)
{
    one(ctl, "create function stubborn() returns void language plpgsql as $$ begin perform pg_sleep(600); "
             "exception when query_canceled then perform pg_sleep(600); end $$");
    pqpool *pool = open_pool(APP "pool_max_size=4", NULL);
    pqpool_error err;
    pqpool_stmt slow = {PQPOOL_STMT, .sql = "select stubborn()", .timeout_ms = 100};
    ok(!pqpool_exec_stmt(pool, &slow, &err) && err.code == PQPOOL_ETIMEDOUT,
       "B9: a statement times out at the head");
    pqpool_stmt quick = {PQPOOL_STMT, .sql = "select 'served'", .timeout_ms = 5000 * tap_slowness()};
    PGresult *res = pqpool_exec_stmt(pool, &quick, &err);
    is_str(value(res), "served", "B6: those who come after it get another connection: %s", err.message);
    PQclear(res);
    is_int(stats(pool).statements, 1, "and what it still does is counted");
    if (getenv("PQPOOL_TEST_LONG"))
        ok(eventually(stats(pool).statements == 0 && stats(pool).draining == 0),
           "a connection on which nobody waits any more is given up after a while");
    one(ctl, "select pg_terminate_backend(pid) from pg_stat_activity where query like '%%stubborn()' and "
             "application_name = 'edges'");
    ok(eventually(stats(pool).statements == 0), "when its server process ends, so does it");
    close_pool(pool);
    one(ctl, "drop function stubborn()");
}

static sem_t in_hook, go_on;

static void slow_hook(const pqpool_event *event, void *arg)
{
    (void)arg;
    if (event->id == PQPOOL_EVENT_RELEASE) {
        sem_post(&in_hook);
        sem_wait(&go_on);
    }
}

static void *release_it(void *arg)
{
    pqpool_release(arg);
    return NULL;
}

static void free_while_releasing(void)
{
    sem_init(&in_hook, 0, 0);
    sem_init(&go_on, 0, 0);
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_event = slow_hook};
    pqpool *pool = open_pool(APP, &hooks);
    pqpool_lease lease = take(pool);
    pthread_t thread;
    pthread_create(&thread, NULL, release_it, &lease);
    sem_wait(&in_hook);
    is_int(pqpool_free(pool), PQPOOL_EBUSY, "A10: a pool is not freed while a release is running in it");
    sem_post(&go_on);
    pthread_join(thread, NULL);
    is_int(pqpool_free(pool), PQPOOL_OK, "A10: and is afterwards");
}

static int begin_hook(PGconn *conn, void *arg)
{
    (void)arg;
    PQclear(PQexec(conn, "begin"));
    return 0;
}

static void transaction_from_hook(void)
{
    one(ctl, "create table kept (x int)");
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_connect = begin_hook};
    pqpool *pool = open_pool(APP "pool_acquire_timeout=300ms", &hooks);
    pqpool_error err;
    PGresult *res = pqpool_exec(pool, "insert into kept values (1)", &err);
    ok(!res && err.code == PQPOOL_ECONNECT && strstr(err.message, "on_connect"),
       "a connection that on_connect leaves in a transaction is not used: %s", err.message);
    is_int(err.outcome, PQPOOL_NOT_SENT, "B10: so nothing is called done and then rolled back");
    PQclear(res);
    close_pool(pool);
    one(ctl, "drop table kept");
}

/* What is large gets a connection to itself, so that nobody's statement waits for its way through the network. */
static void large(void)
{
    enum { SIZE = 17 * 1024 * 1024 };
    pqpool *pool = open_pool(APP, NULL);
    pqpool_error err;
    char *text = malloc(SIZE + 1), pid[24];
    memset(text, ' ', SIZE);
    text[SIZE] = '\0';
    memcpy(text, "select pg_backend_pid()", 23);
    PGresult *res = pqpool_exec(pool, "select pg_backend_pid()", &err);
    snprintf(pid, sizeof pid, "%s", value(res));
    PQclear(res);
    res = pqpool_exec(pool, text, &err);
    ok(err.code == PQPOOL_OK && strcmp(value(res), pid) != 0,
       "B11: 17 MB of SQL run on a connection of their own");
    PQclear(res);
    res = pqpool_exec_params(pool, "select length($1) || ' ' || pg_backend_pid()", 1, NULL,
                             (const char *[]){text}, NULL, NULL, 0, &err);
    ok(strncmp(value(res), "17825792 ", 9) == 0 && strcmp(value(res) + 9, pid) != 0,
       "B11: so does a parameter of 17 MB (%s)", value(res));
    PQclear(res);
    is_int(stats(pool).connects, 2, "and both use the same one");
    free(text);
    close_pool(pool);
}

/* Nobody waits for the ticket, and the connection that is made ready for it never will be. */
static void ticket_of_frozen(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=1 pool_acquire_timeout=10s", NULL);
    pqpool_lease lease = take(pool);
    pid_t pid = PQbackendPID(lease.conn);
    pqpool_release(&lease);
    if (!may_signal(ctl)) {
        diag("no right to stop a server process: not tested");
        close_pool(pool);
        return;
    }
    kill(pid, SIGSTOP);
    pqpool_error err;
    pqpool_stmt s = {PQPOOL_STMT, .sql = "select 1", .flags = PQPOOL_SLOW, .timeout_ms = 80};
    pqpool_ticket *ticket = pqpool_submit(pool, &s, &err);
    double began = now_s();
    PGresult *res = pqpool_wait(ticket, 5000 * tap_slowness(), &err);
    ok(!res && err.code == PQPOOL_ETIMEDOUT && err.outcome == PQPOOL_NOT_SENT,
       "B9: a ticket whose connection is not ready in time ends by its deadline (%s)", err.message);
    PQclear(res);
    ok(now_s() - began < 2.0 * tap_slowness(), "B9: not later (%.0f ms)", (now_s() - began) * 1000);
    s.timeout_ms = 20000;
    ok(fetch_is(pqpool_submit(pool, &s, &err), "1"), "one that has the time gets another connection");
    kill(pid, SIGCONT);
    close_pool(pool);
}

int main(void)
{
    tap_begin(60);
    ctl = control();
    repeated_and_not_sent();
    nothing_left_on_the_conn();
    stuck_head();
    free_while_releasing();
    transaction_from_hook();
    large();
    ticket_of_frozen();
    ok(eventually(backends(ctl, "edges") == 0), "no server process is left");
    PQfinish(ctl);
    return done_testing();
}
