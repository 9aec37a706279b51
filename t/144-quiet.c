/* Connections that were quiet: what the server has said meanwhile is found before they are used. */
#define _GNU_SOURCE /* pipe2 */
#include "support/nemesis.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#define APP "quiet"
#define NAMED "application_name=" APP " pool_log_level=off "

static PGconn *ctl;

static _Atomic int left;
static char left_text[400];

static void listen_in(const pqpool_event *e, void *arg)
{
    (void)arg;
    if (e->id != PQPOOL_EVENT_LEFT)
        return;
    snprintf(left_text, sizeof left_text, "%s", e->text);
    left++;
}

/* ---- thawed ---- */

/* In a process of its own: each time it is told, waits until its parent is stopped, ends what that has in the server, and lets
 * it go on. */
static void thaw(pid_t parent, int told)
{
    char byte, path[64], stat[512];
    while (read(told, &byte, 1) == 1) {
        do {
            sleep_ms(1);
            snprintf(path, sizeof path, "/proc/%d/stat", (int)parent);
            FILE *f = fopen(path, "r");
            if (!f || !fgets(stat, sizeof stat, f))
                _exit(1);
            fclose(f);
        } while (!strstr(stat, ") T"));
        PGconn *c = PQconnectdb("");
        PQclear(PQexec(c, "select pg_terminate_backend(pid, 5000) from pg_stat_activity where "
                          "application_name = '" APP "'"));
        PQfinish(c);
        kill(parent, SIGCONT);
    }
    _exit(0);
}

static bool lease_works(pqpool *pool)
{
    pqpool_lease lease;
    if (pqpool_acquire(pool, &lease, NULL) != PQPOOL_OK)
        return false;
    PGresult *res = PQexec(lease.conn, "select 'here'");
    bool right = strcmp(value(res), "here") == 0;
    PQclear(res);
    pqpool_release(&lease);
    return right;
}

static bool statement_works(pqpool *pool)
{
    PGresult *res = pqpool_exec(pool, "select 'here'", NULL);
    bool right = strcmp(value(res), "here") == 0;
    PQclear(res);
    return right;
}

static void thawed(void)
{
    enum { ROUNDS = 12 };
    int go[2], leases = 0, statements = 0;
    if (pipe2(go, O_CLOEXEC) != 0)
        bail("pipe");
    fflush(stdout);
    pid_t parent = getpid(), helper = fork();
    if (helper == 0) {
        close(go[1]);
        thaw(parent, go[0]);
    }
    pqpool *pool = open_pool(NAMED "pool_max_size=4 pool_min_idle=3", NULL);
    for (int i = 0; i < ROUNDS; i++) {
        bool shared = i % 2;
        if (!eventually(stats(pool).idle >= 3) || (shared && !statement_works(pool)))
            bail("the pool is not up");
        sleep_ms(5); /* what was used just now is not looked at */
        if (write(go[1], "g", 1) != 1)
            bail("write");
        raise(SIGSTOP);
        if (shared)
            statements += statement_works(pool);
        else
            leases += lease_works(pool);
    }
    is_int(leases, ROUNDS / 2,
           "leased: the first lease after the process was stopped, and its sessions ended, works");
    is_int(statements, ROUNDS / 2, "shared: so does the first statement, though its connection was quiet");
    close(go[1]);
    waitpid(helper, NULL, 0);
    close(go[0]);
    close_pool(pool);
}

/* ---- answers that nobody asked for ---- */

/* Has the server answer behind libpq's back, and waits for it. */
static void ask_unseen(int fd)
{
    static const char query[] = "Q\0\0\0\x13select 'stray'";
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (write(fd, query, sizeof query) != (ssize_t)sizeof query || poll(&p, 1, 10000) != 1)
        bail("a query beside libpq");
    sleep_ms(5);
}

static void strays(void)
{
    pqpool *pool = open_pool(NAMED "pool_max_size=1", NULL);
    pqpool_lease lease = take(pool);
    int fd = PQsocket(lease.conn);
    pqpool_release(&lease);
    ask_unseen(fd);
    ok(lease_works(pool), "leased: an answer that nobody asked for is never the answer to the next question");
    is_int(stats(pool).closed_by[PQPOOL_CLOSE_LEFT_RUNNING], 1, "leased: its connection is closed for it");

    lease = take(pool);
    fd = PQsocket(lease.conn);
    pqpool_release(&lease);
    ask_unseen(fd);
    ok(statement_works(pool), "shared: nor where the connection is to be shared");
    if (!eventually(stats(pool).shared == 1))
        bail("nothing is shared");
    lease = take(pool); /* the number of the socket of the one connection there may be */
    fd = PQsocket(lease.conn);
    pqpool_release(&lease);
    if (!statement_works(pool))
        bail("the connection is not shared");
    int64_t connects = stats(pool).connects;
    sleep_ms(5);
    ask_unseen(fd);
    ok(statement_works(pool), "shared: nor where it is shared already");
    is_int(stats(pool).connects, connects + 1, "shared: that goes by another connection");
    close_pool(pool);
}

/* ---- notifications ---- */

static const char listens[] = "do $$ begin execute 'listen quiet'; end $$";

static void told_while_idle(void)
{
    pqpool *pool = open_pool(NAMED "pool_max_size=1 pool_keeper_interval=20ms",
                             &(pqpool_hooks){PQPOOL_HOOKS, .on_event = listen_in});
    pqpool_lease lease = take(pool);
    PQclear(PQexec(lease.conn, listens));
    pid_t backend = PQbackendPID(lease.conn);
    pqpool_release(&lease);
    left = 0;
    one(ctl, "notify quiet");
    ok(eventually(left == 1), "what an idle connection is told by NOTIFY is taken in while it is idle");
    ok(strstr(left_text, "LISTEN"), "and told of: %s", left_text);
    one(ctl, "notify quiet");
    lease = take(pool);
    PGnotify *n = PQnotifies(lease.conn);
    ok(!n, "the next lease hears nothing of it");
    PQfreemem(n);
    is_int(PQbackendPID(lease.conn), backend, "it has the same connection");
    pqpool_release(&lease);
    is_int(left, 1, "it is told of once");
    close_pool(pool);
}

static void told_when_lent(void)
{
    pqpool *pool = open_pool(NAMED "pool_max_size=1", &(pqpool_hooks){PQPOOL_HOOKS, .on_event = listen_in});
    pqpool_lease lease = take(pool);
    PQclear(PQexec(lease.conn, listens));
    int fd = PQsocket(lease.conn);
    pqpool_release(&lease);
    left = 0;
    one(ctl, "notify quiet");
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, 10000) != 1)
        bail("nothing comes");
    sleep_ms(5);
    lease = take(pool);
    PQclear(PQexec(lease.conn, "select 1"));
    PGnotify *n = PQnotifies(lease.conn);
    ok(!n && left == 1, "a notification that lies there when a connection is lent is dropped, and told of");
    PQfreemem(n);
    pqpool_release(&lease);
    close_pool(pool);
}

static void told_by_wish(void)
{
    pqpool *pool = open_pool(NAMED "pool_max_size=1 pool_reset=none", NULL);
    pqpool_lease lease = take(pool);
    PQclear(PQexec(lease.conn, "listen quiet"));
    int fd = PQsocket(lease.conn);
    pqpool_release(&lease);
    one(ctl, "notify quiet");
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, 10000) != 1)
        bail("nothing comes");
    sleep_ms(5);
    lease = take(pool);
    PQconsumeInput(lease.conn);
    PGnotify *n = PQnotifies(lease.conn);
    ok(n, "with reset=none it is the next lease's");
    PQfreemem(n);
    pqpool_release(&lease);
    close_pool(pool);
}

/* ---- silence ---- */

enum { SILENT = 4 };

/* Idle connections whose server processes say nothing, while others would. */
static pqpool *open_silent(const char *options, pid_t *pids)
{
    char conninfo[200];
    snprintf(conninfo, sizeof conninfo, NAMED "%s", options);
    pqpool *pool = open_pool(conninfo, NULL);
    pqpool_lease leases[SILENT];
    for (int i = 0; i < SILENT; i++)
        leases[i] = take(pool);
    for (int i = 0; i < SILENT; i++) {
        pids[i] = PQbackendPID(leases[i].conn);
        pqpool_release(&leases[i]);
    }
    sleep_ms(550); /* what was used within 500 ms test_on_borrow does not ask */
    for (int i = 0; i < SILENT; i++)
        kill(pids[i], SIGSTOP);
    return pool;
}

static void wake(const pid_t *pids)
{
    for (int i = 0; i < SILENT; i++)
        kill(pids[i], SIGCONT);
}

/* Time is only told from five seconds, which each silent connection took; the rest is counted. */
static void silent_idle(bool shared, bool room)
{
    const char *mode = shared ? "shared" : "leased";
    char options[100], why[60];
    pid_t pids[SILENT];
    snprintf(options, sizeof options, "pool_test_on_borrow=on pool_max_size=%d", room ? 10 : SILENT);
    snprintf(why, sizeof why, "%s", room ? "" : ", though the pool is full");
    pqpool *pool = open_silent(options, pids);
    int64_t connects = stats(pool).connects;
    double before = now_s();
    bool works = shared ? statement_works(pool) : lease_works(pool);
    double took = now_s() - before;
    ok(works && took < 2.5 * tap_slowness(), "%s: where the idle connections are silent, a new one serves%s",
       mode, why);
    diag("%.3f s", took);
    pqpool_stats_data now = stats(pool);
    is_int(now.connects, connects + 1, "%s: and one is enough", mode);
    is_int(now.closes, room ? 0 : 1, "%s: none is closed but for want of room", mode);
    is_int(now.probing + now.resetting, room ? SILENT : SILENT - 1,
           "%s: those that are silent, or were idle for as long, are asked in the background", mode);
    ok(shared ? statement_works(pool) : lease_works(pool), "%s: the next caller meets none of them", mode);
    is_int(stats(pool).connects, connects + 1, "%s: and needs no further connection", mode);
    wake(pids);
    ok(eventually(stats(pool).probing + stats(pool).resetting == 0), "%s: they are heard of again", mode);
    is_int(stats(pool).closes, room ? 0 : 1, "%s: and are none the worse for it", mode);
    ok(lease_works(pool), "%s: the pool goes on", mode);
    close_pool(pool);
}

/* Younger than the silent one: in use when the others fell idle, and heard of since. */
static void younger(void)
{
    pqpool *pool = open_pool(NAMED "pool_test_on_borrow=on pool_max_size=3", NULL);
    pqpool_lease old = take(pool), silent = take(pool), young = take(pool);
    pid_t pid = PQbackendPID(silent.conn), kept = PQbackendPID(young.conn), asked = PQbackendPID(old.conn);
    pqpool_release(&old);
    pqpool_release(&silent);
    sleep_ms(550);
    kill(pid, SIGSTOP);
    pqpool_ticket *ticket = submit_sql(pool, "select 1");
    if (!eventually(stats(pool).probing > 0 || pqpool_ticket_done(ticket)))
        bail("nothing is found silent");
    pqpool_release(&young);
    lease_works(pool);
    young = take(pool);
    pid_t lent = PQbackendPID(young.conn); /* the one that was asked and has answered is as good */
    ok(lent == kept || lent == asked, "what was heard of later than a silent one is lent as ever (%d of %d, %d)",
       (int)lent, (int)kept, (int)asked);
    PQclear(pqpool_wait(ticket, -1, NULL));
    kill(pid, SIGCONT);
    pqpool_release(&young);
    close_pool(pool);
}

int main(void)
{
    tap_begin(120);
    ctl = control();
    thawed();
    strays();
    told_while_idle();
    told_when_lent();
    told_by_wish();
    if (may_signal(ctl)) {
        for (int i = 0; i < 4; i++)
            silent_idle(i % 2, i < 2);
        younger();
    } else {
        diag("server processes belong to another user: none can be stopped");
    }
    ok(eventually(backends(ctl, APP) == 0), "no server process is left behind");
    PQfinish(ctl);
    return done_testing();
}
