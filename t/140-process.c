/* The process around a pool: forked children, signals that interrupt everything, SIGPIPE. */
#include "support/nemesis.h"
#include "support/storm.h"

#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>

#define APP "process"
#define NAMED "application_name=" APP " "

static PGconn *ctl, *locker;

/* ---- tools ---- */

static bool answers(pqpool *pool)
{
    PGresult *res = pqpool_exec(pool, "select 'here'", NULL);
    bool right = strcmp(value(res), "here") == 0;
    PQclear(res);
    return right;
}

static void count_answer(PGresult *res, const pqpool_error *err, void *arg)
{
    _Atomic int *right = arg;
    *right += err->code == PQPOOL_OK && PQntuples(res) == 1;
    PQclear(res);
}

static void count_group(PGresult **results, const pqpool_error *errors, int n, void *arg)
{
    (void)results, (void)errors, (void)n, (void)arg;
}

static void count_lease(pqpool_lease *lease, const pqpool_error *err, void *arg)
{
    _Atomic int *right = arg;
    *right += err->code == PQPOOL_OK && lease && pqpool_release(lease) == PQPOOL_OK;
}

/* Server processes of this application whose statement waits for a lock. */
static int blocked(void)
{
    return atoi(one(ctl, "select count(*) from pg_stat_activity where application_name = '" APP
                         "' and wait_event_type = 'Lock'"));
}

static char *pids(void)
{
    return strdup(one(ctl,
                      "select coalesce(string_agg(pid::text, ' ' order by pid), '') from pg_stat_activity "
                      "where application_name = '" APP "'"));
}

/* ---- fork ---- */

/* What the child of a fork finds in its memory. */
typedef struct inherited {
    pqpool *pool;
    pqpool_lease *lease;
    pqpool_ticket *ticket;
} inherited;

/* In the child: what each function answers; reports the name of the first that is wrong. */
static const char *try_all(void *arg)
{
    pqpool *pool = ((inherited *)arg)->pool;
    pqpool_lease *lease = ((inherited *)arg)->lease;
    pqpool_ticket *ticket = ((inherited *)arg)->ticket;
    pqpool_error err;
    pqpool_stmt stmt = {PQPOOL_STMT, .sql = "select 1"};
    pqpool_stats_data figures = {PQPOOL_STATS};
    PGresult *res = NULL;
    pqpool_lease mine, copy = *lease;
    char text[40];
#define EXPECT(name, condition)                                                                              \
    do {                                                                                                     \
        err = (pqpool_error){0};                                                                             \
        if (!(condition))                                                                                    \
            return name;                                                                                     \
    } while (0)
#define FORKED(name, call) EXPECT(name, (call) == PQPOOL_EFORKED)
#define NULL_FORKED(name, call) EXPECT(name, !(call) && err.code == PQPOOL_EFORKED)
    NULL_FORKED("exec", pqpool_exec(pool, "select 1", &err));
    NULL_FORKED("exec_params", pqpool_exec_params(pool, "select 1", 0, NULL, NULL, NULL, NULL, 0, &err));
    NULL_FORKED("exec_stmt", pqpool_exec_stmt(pool, &stmt, &err));
    EXPECT("outcome", !pqpool_exec_stmt(pool, &stmt, &err) && err.outcome == PQPOOL_NOT_SENT);
    FORKED("exec_all", pqpool_exec_all(pool, &stmt, 1, PQPOOL_EACH, &res, &err));
    EXPECT("exec_all's error", pqpool_exec_all(pool, &stmt, 1, PQPOOL_ATOMIC, &res, &err) != PQPOOL_OK &&
                                   err.code == PQPOOL_EFORKED && !res);
    NULL_FORKED("submit", pqpool_submit(pool, &stmt, &err));
    NULL_FORKED("wait", pqpool_wait(ticket, -1, &err));
    pqpool_abandon(ticket);
    NULL_FORKED("wait after abandon", pqpool_wait(ticket, -1, &err));
    (void)pqpool_ticket_done(ticket);
    FORKED("submit_cb", code_submit_cb(pool, &stmt, count_answer, NULL, &err));
    FORKED("submit_all_cb", code_submit_all_cb(pool, &stmt, 1, PQPOOL_EACH, count_group, NULL, &err));
    FORKED("acquire_cb", code_acquire_cb(pool, NULL, count_lease, NULL, &err));
    EXPECT("fd", pqpool_fd(pool) == -1);
    EXPECT("dispatch", pqpool_dispatch(pool) == -PQPOOL_EFORKED);
    FORKED("acquire", pqpool_acquire(pool, &mine, &err));
    EXPECT("acquire's lease", !mine.conn && !mine.pool);
    FORKED("acquire_within", pqpool_acquire_within(pool, -1, &mine, &err));
    FORKED("release", pqpool_release(&copy));
    FORKED("discard", pqpool_discard(&copy));
    pqpool_release_auto(&copy);
    FORKED("stats", pqpool_stats(pool, &figures));
    FORKED("set", pqpool_set(pool, "max_size", "3", &err));
    FORKED("get", pqpool_get(pool, "max_size", text, sizeof text));
    EXPECT("name", strcmp(pqpool_name(pool), "") == 0);
    FORKED("close", pqpool_close(pool, -1));
    FORKED("free", pqpool_free(pool));
    return NULL;
}

/*
 * Forks, and has the child work; returns what it says is wrong, NULL if nothing is. It says so by a pipe: its exit
 * status belongs to whatever watches the process.
 */
static const char *in_child(const char *(*work)(void *), void *arg, bool plain_exit)
{
    static char said[200];
    int pipe_fds[2];
    if (pipe(pipe_fds) != 0)
        bail("pipe");
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(10 * (unsigned)tap_slowness()); /* alarms are not inherited */
        const char *wrong = work(arg);
        const char *word = wrong ? wrong : "ok";
        if (write(pipe_fds[1], word, strlen(word)) < 0)
            _exit(2);
        if (plain_exit)
            exit(0); /* destructors, handlers */
        _exit(0);
    }
    close(pipe_fds[1]);
    ssize_t n = read(pipe_fds[0], said, sizeof said - 1);
    said[n > 0 ? n : 0] = '\0';
    close(pipe_fds[0]);
    int status = -1;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    if (!WIFEXITED(status) || !said[0])
        snprintf(said, sizeof said, "the child ended with status %#x", (unsigned)status);
    return strcmp(said, "ok") == 0 ? NULL : said;
}

typedef struct user {
    pqpool *pool;
    pqpool_error err;
    PGresult *res;
} user;

static void use_gate(int i, void *arg)
{
    user *u = (user *)arg + i;
    u->res = pqpool_exec(u->pool, "select count(*) from process_gate", &u->err);
}

static void forked(void)
{
    enum { USERS = 3 };
    pqpool *pool = open_pool(NAMED "pool_max_size=4 pool_shared_max=1", NULL);
    pqpool_lease lease = take(pool);
    PQclear(PQexec(lease.conn, "begin"));
    pqpool_ticket *done = submit_sql(pool, "select 'done'");
    if (!eventually(pqpool_ticket_done(done)))
        bail("a statement does not end");
    one(locker, "begin");
    one(locker, "lock table process_gate in access exclusive mode");
    pqpool_ticket *running = submit_sql(pool, "select count(*) from process_gate");
    _Atomic int called = 0;
    if (code_submit_cb(pool, &(pqpool_stmt){PQPOOL_STMT, .sql = "select count(*) from process_gate"},
                         count_answer, &called, NULL) != PQPOOL_OK)
        bail("submit_cb");
    user users[USERS] = {{.pool = pool}, {.pool = pool}, {.pool = pool}};
    crew c;
    crew_start(&c, USERS, use_gate, users);
    if (!eventually(stats(pool).statements >= USERS + 2 && blocked() >= 1))
        bail("the statements are not in flight");
    char *before = pids();

    for (int plain = 0; plain < 2; plain++) {
        const char *said = in_child(try_all, &(inherited){pool, &lease, plain ? running : done}, plain);
        ok(!said, "in a forked child every call is refused with EFORKED, at once%s%s", said ? ": " : "",
           said ? said : "");
    }
    char *after = pids();
    is_str(after, before, "the child's exit, plain or not, ends none of the parent's connections");
    free(before), free(after);
    one(locker, "rollback");
    crew_join(&c);
    int right = 0;
    for (int i = 0; i < USERS; i++) {
        right += users[i].err.code == PQPOOL_OK && strcmp(value(users[i].res), "0") == 0;
        PQclear(users[i].res);
    }
    is_int(right, USERS, "the parent's statements that were in flight have their answers");
    ok(fetch_is(running, "0") && fetch_is(done, "done"), "so have its tickets");
    ok(eventually(pqpool_dispatch(pool) >= 0 && called == 1), "and its callback");
    PGresult *res = PQexec(lease.conn, "select 'leased'");
    ok(strcmp(value(res), "leased") == 0 && PQtransactionStatus(lease.conn) == PQTRANS_INTRANS,
       "its lease is what it was");
    PQclear(res);
    is_int(pqpool_release(&lease), PQPOOL_OK, "and is given back");
    ok(answers(pool), "the pool goes on");
    close_pool(pool);
}

/* Forked in the middle of everything, again and again; the child opens a pool of its own. */
typedef struct load {
    pqpool *pool;
    _Atomic int stop, right, wrong;
} load;

static void keep_using(int i, void *arg)
{
    load *l = arg;
    while (!l->stop) {
        if (i == 0) {
            pqpool_ticket *ticket = submit_sql(l->pool, "select 'ticket'");
            fetch_is(ticket, "ticket") ? l->right++ : l->wrong++;
        } else if (i == 1) {
            pqpool_lease lease;
            bool fine =
                pqpool_acquire(l->pool, &lease, NULL) == PQPOOL_OK && pqpool_release(&lease) == PQPOOL_OK;
            fine ? l->right++ : l->wrong++;
        } else {
            answers(l->pool) ? l->right++ : l->wrong++;
        }
    }
}

/* A child of a process with threads may use what is safe there; a pool takes malloc, which the C library makes so.
 * The sanitizers' malloc and threads don't work there. */
static const char *open_another(void *pool)
{
    pqpool_error err;
    if (pqpool_exec(pool, "select 1", &err) || err.code != PQPOOL_EFORKED ||
        pqpool_free(pool) != PQPOOL_EFORKED)
        return "the parent's pool is not refused";
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    pqpool *own = open_pool(NAMED, NULL);
    if (!answers(own) || pqpool_close(own, 2000) != PQPOOL_OK || pqpool_free(own) != PQPOOL_OK)
        return "a pool of its own does not work";
#endif
    return NULL;
}

static void forked_under_load(void)
{
    enum { CHILDREN = 10 };
    load l = {.pool = open_pool(NAMED "pool_max_size=4", NULL)};
    crew c;
    int children_right = 0;
    crew_start(&c, 4, keep_using, &l);
    if (!eventually(l.right > 20))
        bail("no load");
    for (int i = 0; i < CHILDREN; i++) {
        int before = l.right;
        const char *said = in_child(open_another, l.pool, false);
        children_right += !said;
        if (said)
            diag("%s", said);
        if (!eventually(l.right > before + 20))
            break;
    }
    l.stop = 1;
    crew_join(&c);
    is_int(children_right, CHILDREN, "children forked under load are refused the pool, and open their own");
    is_int(l.wrong, 0, "and the parent's callers notice nothing");
    is_int(stats(l.pool).closes, 0, "no connection is closed for it");
    close_pool(l.pool);
}

/* ---- signals ---- */

typedef struct storm {
    pqpool *pool;
    _Atomic int wrong, statements, tickets, leases, callbacks;
} storm;

enum { STORM_ROUNDS = 60 };

static void in_storm(int i, void *arg)
{
    storm *st = arg;
    timer_t timer = storm_begin();
    for (int k = 0; k < STORM_ROUNDS; k++)
        switch (i % 4) {
        case 0: {
            PGresult *res = pqpool_exec(st->pool, "select 'slow' from pg_sleep(0.005)", NULL);
            strcmp(value(res), "slow") == 0 ? st->statements++ : st->wrong++;
            PQclear(res);
            break;
        }
        case 1: {
            pqpool_ticket *ticket = submit_sql(st->pool, "select 'slow' from pg_sleep(0.005)");
            pqpool_error err;
            PGresult *res;
            while (!(res = pqpool_wait(ticket, 3, &err)) && err.code == PQPOOL_EPENDING)
                continue;
            strcmp(value(res), "slow") == 0 ? st->tickets++ : st->wrong++;
            PQclear(res);
            break;
        }
        case 2: {
            pqpool_lease lease;
            if (pqpool_acquire(st->pool, &lease, NULL) != PQPOOL_OK) {
                st->wrong++;
                break;
            }
            PQclear(PQexec(lease.conn, "begin"));
            pqpool_release(&lease) == PQPOOL_OK ? st->leases++ : st->wrong++;
            break;
        }
        default: {
            _Atomic int right = 0;
            int asked = 0;
            asked += code_submit_cb(st->pool, &(pqpool_stmt){PQPOOL_STMT, .sql = "select 1"}, count_answer,
                                      &right, NULL) == PQPOOL_OK;
            asked += code_acquire_cb(st->pool, NULL, count_lease, &right, NULL) == PQPOOL_OK;
            struct pollfd p = {.fd = pqpool_fd(st->pool), .events = POLLIN};
            for (double end = now_s() + 10.0 * tap_slowness(); right < asked && now_s() < end;)
                if ((poll(&p, 1, 5) == 1 && pqpool_dispatch(st->pool) < 0) || asked != 2)
                    break;
            right == 2 ? st->callbacks++ : st->wrong++;
        }
        }
    timer_delete(timer);
}

static void interrupted(void)
{
    struct sigaction sa = {.sa_handler = count_signal}; /* without SA_RESTART */
    sigaction(SIGUSR2, &sa, NULL);
    storm st = {.pool = open_pool(NAMED "pool_max_size=6", NULL)};
    in_threads(8, in_storm, &st);
    signal(SIGUSR2, SIG_IGN);
    ok(signals > 500, "every caller was interrupted 1000 times a second (%lld times)", (long long)signals);
    is_int(st.wrong, 0, "and no call failed for it");
    is_int(st.statements, 2 * STORM_ROUNDS, "neither a statement");
    is_int(st.tickets, 2 * STORM_ROUNDS, "nor a ticket");
    is_int(st.leases, 2 * STORM_ROUNDS, "nor a lease");
    is_int(st.callbacks, 2 * STORM_ROUNDS, "nor a callback");
    is_int(stats(st.pool).timeouts, 0, "nobody was too late");
    close_pool(st.pool);
}

/* The whole process, as an interval timer of the service's would: whichever thread it meets. */
static void interval_timer(void)
{
    struct sigaction sa = {.sa_handler = count_signal};
    struct itimerval every = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
    sigaction(SIGPROF, &sa, NULL);
    signals = 0;
    load l = {.pool = open_pool(NAMED "pool_max_size=4", NULL)};
    crew c;
    setitimer(ITIMER_PROF, &every, NULL);
    crew_start(&c, 4, keep_using, &l);
    ok(eventually(signals > 100), "an interval timer interrupts the process");
    l.stop = 1;
    crew_join(&c);
    setitimer(ITIMER_PROF, &off, NULL);
    signal(SIGPROF, SIG_IGN); /* one may be on its way */
    ok(l.wrong == 0 && l.right > 0, "and no call fails for it (%d right, %d wrong)", l.right, l.wrong);
    close_pool(l.pool);
}

/* ---- SIGPIPE ---- */

/* Statements that are large, so that there is something to write when the server goes. */
static void write_much(int i, void *arg)
{
    load *l = arg;
    enum { SIZE = 300000 };
    char *text = malloc(SIZE + 1);
    if (!text)
        bail("malloc");
    memset(text, 'x', SIZE);
    text[SIZE] = '\0';
    while (!l->stop) {
        pqpool_error err;
        PGresult *res = pqpool_exec_params(l->pool, "select length($1)", 1, NULL, (const char *[]){text},
                                           NULL, NULL, 0, &err);
        bool known = err.code == PQPOOL_OK || err.code == PQPOOL_ELOST || err.code == PQPOOL_ECONNECT;
        known ? l->right++ : l->wrong++;
        PQclear(res);
        pqpool_lease lease;
        if (i == 0 && pqpool_acquire(l->pool, &lease, NULL) == PQPOOL_OK) {
            PQclear(PQexec(lease.conn, "begin"));
            pqpool_release(&lease);
        }
    }
    free(text);
}

static void server_goes(void)
{
    enum { ROUNDS = 12 };
    struct sigaction sa;
    sigaction(SIGPIPE, NULL, &sa);
    ok(sa.sa_handler == SIG_DFL, "SIGPIPE would end this program");
    load l = {.pool = open_pool(NAMED "pool_max_size=4 pool_log_level=off", NULL)};
    crew c;
    crew_start(&c, 6, write_much, &l);
    for (int i = 0; i < ROUNDS; i++) {
        int before = l.right;
        if (!eventually(l.right > before + 10))
            bail("no load");
        one(ctl,
            "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = '" APP
            "'");
    }
    l.stop = 1;
    crew_join(&c);
    ok(true, "all connections are ended %d times under load, and no SIGPIPE comes", ROUNDS);
    is_int(l.wrong, 0, "every call says what became of it");
    ok(stats(l.pool).closes > 0, "connections were lost");
    sigset_t pending;
    sigpending(&pending);
    ok(!sigismember(&pending, SIGPIPE), "nor is one pending");
    sigaction(SIGPIPE, NULL, &sa);
    ok(sa.sa_handler == SIG_DFL, "and its handling is as it was");
    close_pool(l.pool);
}

int main(void)
{
    signal(SIGPIPE, SIG_DFL);
    tap_begin(90);
    ctl = control();
    locker = control();
    one(ctl, "drop table if exists process_gate");
    one(ctl, "create table process_gate (id int)");
    forked();
    ok(eventually(backends(ctl, APP) == 0), "no server process is left behind");
    forked_under_load();
    ok(eventually(backends(ctl, APP) == 0), "nor here");
    interrupted();
    interval_timer();
    server_goes();
    ok(eventually(backends(ctl, APP) == 0), "nor here");
    one(ctl, "drop table process_gate");
    PQfinish(locker);
    PQfinish(ctl);
    return done_testing();
}
