/* What a lease's user leaves on the connection: the next one never meets it, and its holder is told. */
#define _GNU_SOURCE /* RTLD_NEXT */
#include <dlfcn.h>
#include <poll.h>
#include <sys/syscall.h>

#include "support/nemesis.h"

#define APP "application_name=remains "

static PGconn *ctl;

/* libpq's own poll() fails once, in this thread: no memory. */
static _Thread_local bool poll_fails;

int poll(struct pollfd *fds, nfds_t n, int ms)
{
    static int (*libc_poll)(struct pollfd *, nfds_t, int);
    if (poll_fails && n == 1) {
        poll_fails = false;
        errno = ENOMEM;
        return -1;
    }
    if (!libc_poll)
        *(void **)&libc_poll = dlsym(RTLD_NEXT, "poll");
    return libc_poll(fds, n, ms);
}

typedef struct ear {
    _Atomic int left, line;
    char text[400];
} ear;

static void listen_in(const pqpool_event *e, void *arg)
{
    ear *l = arg;
    if (e->id != PQPOOL_EVENT_LEFT)
        return;
    snprintf(l->text, sizeof l->text, "%s", e->text);
    l->line = e->line;
    l->left++;
}

static pqpool *open_with(ear *l, const char *options)
{
    char conninfo[200];
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_event = listen_in, .arg = l};
    snprintf(conninfo, sizeof conninfo, APP "%s", options);
    return open_pool(conninfo, &hooks);
}

static void give(pqpool_lease *lease)
{
    is_int(pqpool_release(lease), PQPOOL_OK, "the lease is given back");
}

/* ---- libpq fails ---- */

static void libpq_fails(void)
{
    for (int later = 0; later < 2; later++) {
        ear l = {0};
        pqpool *pool = open_with(&l, "pool_max_size=1");
        pqpool_lease lease = take(pool);
        one(lease.conn, "select 'warm'");
        poll_fails = true;
        PGresult *res = PQexec(lease.conn, "select pg_sleep(0.1), 'a secret'");
        is_int(PQresultStatus(res), PGRES_FATAL_ERROR, "libpq fails while it waits for an answer");
        PQclear(res);
        if (later)
            sleep_ms(300); /* the answer is there, unread */
        give(&lease);
        lease = take(pool);
        is_str(one(lease.conn, "select 'mine'"), "mine",
               "after libpq has failed the next lease gets its own answer (%s)",
               later ? "the other one was unread" : "the other one was still to come");
        give(&lease);
        res = pqpool_exec(pool, "select 'shared'", NULL);
        is_str(value(res), "shared", "and so does a shared statement");
        PQclear(res);
        is_int(stats(pool).closed_by[PQPOOL_CLOSE_FAILED], 1, "the connection was closed for that");
        close_pool(pool);
    }
    ear l = {0};
    pqpool *pool = open_with(&l, "pool_max_size=1");
    pqpool_lease lease = take(pool);
    poll_fails = true;
    PQclear(PQexec(lease.conn, "select 'first'"));
    PQclear(PQexec(lease.conn, "select 'second'")); /* gets the first one's answer: libpq's own mistake */
    sleep_ms(50);
    give(&lease);
    lease = take(pool);
    is_str(one(lease.conn, "select 'mine'"), "mine",
           "an answer that is one behind does not reach the next lease");
    give(&lease);
    close_pool(pool);
}

/* ---- PQfinish() ---- */

static void finished(void)
{
    for (int discard = 0; discard < 2; discard++) {
        ear l = {0};
        pqpool *pool = open_with(&l, "pool_max_size=1");
        pqpool_lease lease = take(pool), copy = lease;
        one(lease.conn, "select 1");
        PQfinish(lease.conn);
        is_int(discard ? pqpool_discard(&lease) : pqpool_release(&lease), PQPOOL_EINVAL,
               "a lease whose connection was finished can't be %s", discard ? "discarded" : "given back");
        ok(!lease.conn && pqpool_release(&copy) == PQPOOL_EINVAL, "it is over");
        ok(eventually(l.left == 1) && strstr(l.text, "PQfinish"), "its holder is told: %s", l.text);
        ok(l.line > 0, "with the place");
        lease = take(pool);
        is_str(one(lease.conn, "select 'next'"), "next", "its place in the pool is free");
        give(&lease);
        close_pool(pool);
    }
}

/* ---- left running ---- */

static int at_work(void)
{
    return atoi(
        one(ctl,
            "select count(*) from pg_stat_activity where application_name = 'remains' and state = 'active'"));
}

static void left_running(void)
{
    enum { TIMES = 10, SIZE = 2 };
    ear l = {0};
    pqpool *pool = open_with(&l, "pool_max_size=2");
    int most = 0;
    for (int i = 0; i < TIMES; i++) {
        pqpool_lease lease = take(pool);
        int line = __LINE__ - 1;
        PQsendQuery(lease.conn, "select pg_sleep(60)");
        pid_t pid = PQbackendPID(lease.conn);
        if (!eventually(waits_for(ctl, pid, "Timeout")))
            bail("it does not run");
        if (i % 3 == 0)
            pqpool_discard(&lease);
        else
            pqpool_release(&lease);
        if (i == 0) {
            ok(eventually(l.left == 1) && strstr(l.text, "running"),
               "a lease that ends while its statement runs is told: %s", l.text);
            is_int(l.line, line, "with the place that acquired it");
        }
        int n = at_work();
        most = n > most ? n : most;
    }
    ok(most <= SIZE, "the server never works for more of its connections than max_size (%d)", most);
    ok(eventually(at_work() == 0), "what was left running is canceled");
    is_int(stats(pool).left_running, TIMES, "each is counted");
    ok(eventually(stats(pool).cancels >= TIMES) && stats(pool).cancels_failed == 0, "each was canceled");
    pqpool_lease lease = take(pool);
    PQsetnonblocking(lease.conn, 1);
    PQenterPipelineMode(lease.conn);
    for (int i = 0; i < 3; i++) {
        PQsendQueryParams(lease.conn, "select pg_sleep(30)", 0, NULL, NULL, NULL, NULL, 0);
        PQpipelineSync(lease.conn);
    }
    pid_t pid = PQbackendPID(lease.conn);
    if (!eventually(PQflush(lease.conn) == 0 && waits_for(ctl, pid, "Timeout")))
        bail("the pipeline does not run");
    pqpool_release(&lease);
    ok(eventually(gone(ctl, pid)), "nothing of a pipeline that was left running goes on");
    close_pool(pool);
    is_int(backends(ctl, "remains"), 0, "no session is left behind");
}

/* ---- forgotten, changed ---- */

static void forgotten_commit(void)
{
    ear l = {0};
    pqpool *pool = open_with(&l, "pool_max_size=1");
    one(ctl, "create table if not exists forgotten (n int); truncate forgotten");
    pqpool_lease lease = take(pool);
    int line = __LINE__ - 1;
    one(lease.conn, "begin");
    one(lease.conn, "insert into forgotten values (1)");
    give(&lease);
    ok(eventually(l.left == 1) && strstr(l.text, "transaction") && strstr(l.text, "rolled back"),
       "a transaction that was left open is told: %s", l.text);
    is_int(l.line, line, "with the place that acquired the lease");
    is_int(stats(pool).left_open, 1, "it is counted");
    is_str(one(ctl, "select count(*) from forgotten"), "0", "and undone");
    lease = take(pool);
    one(lease.conn, "begin");
    one(lease.conn, "set local work_mem = '64kB'");
    one(lease.conn, "commit");
    give(&lease);
    is_int(stats(pool).left_changed, 0, "SET LOCAL leaves nothing");
    lease = take(pool);
    one(lease.conn, "set work_mem = '64kB'");
    give(&lease);
    ok(eventually(l.left == 2) && strstr(l.text, "SET"),
       "a setting that stays for the next lease is told: %s", l.text);
    is_int(stats(pool).left_changed, 1, "it is counted");
    one(ctl, "drop table forgotten");
    close_pool(pool);
}

static void listening(void)
{
    ear l = {0};
    pqpool *pool = open_with(&l, "pool_max_size=1");
    pqpool_lease lease = take(pool);
    int pid = PQbackendPID(lease.conn);
    one(lease.conn, "listen gossip");
    give(&lease);
    for (int i = 0; i < 200; i++)
        one(ctl, "notify gossip, 'told %d'", i);
    lease = take(pool);
    is_int(PQbackendPID(lease.conn), pid, "a connection that listened is lent again");
    one(lease.conn, "select 1");
    int heard = 0;
    for (PGnotify *n; (n = PQnotifies(lease.conn)); heard++)
        PQfreemem(n);
    is_int(heard, 0, "the next lease hears nothing of a channel that is not its own");
    is_str(one(lease.conn, "select count(*) from pg_listening_channels()"), "0", "LISTEN was undone");
    give(&lease);
    close_pool(pool);
}

static void large_answers(void)
{
    ear l = {0};
    pqpool *pool = open_with(&l, "pool_max_size=1 pool_max_buffer=1MB");
    pqpool_lease lease = take(pool);
    int pid = PQbackendPID(lease.conn);
    one(lease.conn, "select repeat('x', 100000)");
    give(&lease);
    lease = take(pool);
    is_int(PQbackendPID(lease.conn), pid, "a connection that carried an answer below max_buffer is kept");
    PQclear(PQexec(lease.conn, "select repeat('x', 4000000)"));
    give(&lease);
    lease = take(pool);
    ok(PQbackendPID(lease.conn) != pid, "one that carried a larger answer is replaced");
    is_int(stats(pool).closed_by[PQPOOL_CLOSE_LARGE], 1, "for that reason");
    give(&lease);
    close_pool(pool);
    pool = open_with(&l, "pool_max_size=2 pool_max_buffer=1MB");
    PQclear(pqpool_exec(pool, "select repeat('x', 100000)", NULL));
    PQclear(pqpool_exec(pool, "select repeat('x', 8000000)", NULL));
    ok(eventually(stats(pool).closed_by[PQPOOL_CLOSE_LARGE] == 1),
       "a shared connection that carried one is replaced too");
    PGresult *res = pqpool_exec(pool, "select 'next'", NULL);
    is_str(value(res), "next", "and the pool goes on");
    PQclear(res);
    close_pool(pool);
}

int main(void)
{
    tap_begin(120);
    ctl = control();
    libpq_fails();
    finished();
    left_running();
    forgotten_commit();
    listening();
    large_answers();
    PQfinish(ctl);
    return done_testing();
}
