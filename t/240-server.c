/*
 * The server is killed, stopped, frozen, cut off, full, or won't have us any more: everybody who waits is told in time, the
 * server is not stormed, and when it is back the pool serves by itself. For leases and for statements alike: of the callers
 * of every test each other one wants the one or the other.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* unshare() */
#endif
#include <sched.h>
#include <sys/syscall.h>

#include "support/late.h"
#include "support/nemesis.h"
#include "support/server.h"

#define NAME "server-test"
enum { SLOTS = 24 }; /* max_connections of the server */

static PGconn *ctl;
static int tcp_port;
static bool may_kill;
static _Atomic int attempts; /* to connect, of all pools that count them */

static int count_attempt(char *buf, size_t size, void *arg)
{
    (void)buf, (void)size, (void)arg;
    attempts++;
    return 0;
}

/* The control connection, when the server is there again. */
static void again(void)
{
    ctl = control_again(ctl);
    PQsetNoticeProcessor(ctl, no_notice, NULL);
}

static pqpool *server_pool(const char *options)
{
    char conninfo[1000];
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_conninfo = count_attempt};
    snprintf(conninfo, sizeof conninfo,
             "application_name=" NAME
             " pool_log_level=error pool_slow_statement=off pool_acquire_timeout=%ds %s",
             20 * tap_slowness(), options);
    return open_pool(conninfo, &hooks);
}

/* ---- callers ---- */

enum { CALLERS = 12 };

/* Works with what it gets, and is told an error if there is one. */
static void call(pqpool *pool, bool statement, pqpool_error *err)
{
    if (statement) {
        PQclear(pqpool_exec(pool, "select 1", err));
        return;
    }
    pqpool_lease lease;
    if (pqpool_acquire(pool, &lease, err) != PQPOOL_OK)
        return;
    PGresult *res = PQexec(lease.conn, "select 1");
    if (PQresultStatus(res) != PGRES_TUPLES_OK) {
        err->code = PQPOOL_ELOST;
        snprintf(err->message, sizeof err->message, "the lease was broken: %s", PQerrorMessage(lease.conn));
    }
    PQclear(res);
    pqpool_release(&lease);
}

typedef enum { BOTH, LEASES, STATEMENTS } kinds;

typedef struct patients {
    pqpool *pool;
    kinds kind;
    pqpool_error err[CALLERS];
    double ended[CALLERS];
    _Atomic int done;
    crew crew;
} patients;

static void be_patient(int i, void *arg)
{
    patients *p = arg;
    call(p->pool, p->kind == BOTH ? i % 2 : p->kind == STATEMENTS, &p->err[i]);
    p->ended[i] = now_s();
    p->done++;
}

static void patients_come(patients *p, pqpool *pool, kinds kind)
{
    memset(p, 0, sizeof *p);
    p->pool = pool;
    p->kind = kind;
    crew_start(&p->crew, CALLERS, be_patient, p);
}

/* How many were served; the last of them when. */
static int patients_go(patients *p, double *last)
{
    int served = 0;
    *last = 0;
    crew_join(&p->crew);
    for (int i = 0; i < CALLERS; i++) {
        if (p->err[i].code != PQPOOL_OK)
            diag("%s: %s", i % 2 ? "a statement" : "a lease", p->err[i].message);
        served += p->err[i].code == PQPOOL_OK;
        *last = p->ended[i] > *last ? p->ended[i] : *last;
    }
    return served;
}

/* All ways once more, one after another. */
static void serves(pqpool *pool, const char *when)
{
    int failed = 0;
    for (int i = 0; i < 20; i++) {
        pqpool_error err;
        call(pool, i % 2, &err);
        if (err.code != PQPOOL_OK && failed++ == 0)
            diag("%s", err.message);
    }
    is_int(failed, 0, "A7: %s every call works", when);
}

static void warm_up(pqpool *pool)
{
    pqpool_error err;
    pqpool_lease a = take(pool), b = take(pool);
    PQclear(pqpool_exec(pool, "select 1", &err));
    pqpool_release(&a), pqpool_release(&b);
    if (!eventually(stats(pool).shared >= 1 && stats(pool).idle >= 2))
        bail("the pool is not warm: %s", err.message);
}

/* Callers whose time will be over before anything is well again. */
static void in_vain(pqpool *pool, const char *what, bool may_be_sent)
{
    vain v[CALLERS];
    for (int i = 0; i < CALLERS; i++)
        v[i] = (vain){.pool = pool, .statement = i % 2, .timeout_ms = 100 + 30 * i};
    in_threads(CALLERS, vain_wait, v);
    vain_judge(v, CALLERS, what);
    is_int(vain_told(v, CALLERS, PQPOOL_ECONNECT, PQPOOL_ETIMEDOUT,
                     may_be_sent ? VAIN_ANY : (int)PQPOOL_NOT_SENT),
           CALLERS, "B10: %s: all of them are told so%s", what, may_be_sent ? "" : ", NOT_SENT");
}

/* One attempt each 50 ms +-20 %, and those that were under way at the beginning. */
static bool no_storm(int count, double seconds, int at_first)
{
    return count <= (int)(seconds / 0.04) + 1 + at_first;
}

/* ---- away for a while ---- */

typedef struct lookout {
    pthread_t thread;
    double there; /* when the server first answered */
} lookout;

static void *look_out(void *arg)
{
    lookout *l = arg;
    for (double end = now_s() + 30 * tap_slowness(); now_s() < end; sleep_ms(2))
        if (PQping("connect_timeout=2") == PQPING_OK)
            break;
    l->there = now_s();
    return NULL;
}

static void stop(void)
{
    pg_ctl("-m fast stop");
}

static void go_on(void)
{
    pg_ctl("restart");
}

static void away(void)
{
    pqpool *pool = server_pool("pool_max_size=6");
    static patients p;
    lookout l;
    warm_up(pool);
    stop();
    ok(eventually(stats(pool).total == stats(pool).connecting),
       "A7: the server stops: all is noticed by itself");

    attempts = 0;
    double began = now_s();
    in_vain(pool, "a server that is away", false);
    double took = now_s() - began;
    ok(attempts >= 3 && no_storm(attempts, took, 4),
       "A5: while somebody waits there is one attempt each 50 ms (%d in %.0f ms)", attempts, took * 1000);
    attempts = 0;
    sleep_ms(600);
    ok(attempts <= 1, "A5: and none when nobody does (%d)", attempts);

    patients_come(&p, pool, BOTH);
    ok(eventually(attempts >= 5), "callers with more patience wait");
    is_int(p.done, 0, "A4: none of them is sent away");
    pthread_create(&l.thread, NULL, look_out, &l);
    attempts = 0;
    began = now_s();
    go_on();
    double last;
    is_int(patients_go(&p, &last), CALLERS, "A7: when the server is started again, all of them are served");
    pthread_join(l.thread, NULL);
    ok(last - l.there < 1.0 * tap_slowness(), "A7: soon after it takes connections (%.0f ms)",
       (last - l.there) * 1000);
    ok(no_storm(attempts, last - began, 6), "A5: nor is it stormed when it starts (%d attempts in %.0f ms)",
       attempts, (last - began) * 1000);
    again();
    serves(pool, "then");
    close_pool(pool);
}

/* Nobody waits, but connections are to be kept ready. */
static void away_unnoticed(void)
{
    pqpool *pool = server_pool("pool_max_size=6 pool_min_idle=2");
    ok(eventually(stats(pool).idle == 2), "two connections are kept ready");
    stop();
    ok(eventually(stats(pool).idle == 0), "the server stops");
    attempts = 0;
    double began = now_s();
    sleep_ms(1000);
    int n = attempts;
    ok(n >= 1 && n <= (int)((now_s() - began) / 0.2) + 1,
       "A6: while nobody waits it is tried each 250 ms to make up for them (%d)", n);
    go_on();
    again();
    ok(eventually(stats(pool).idle == 2), "A6: and it is made up for when the server is back");
    serves(pool, "then");
    close_pool(pool);
}

/* ---- ended and started anew, under load ---- */

static int by_time(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct load {
    pqpool *pool;
    _Atomic bool stop;
    _Atomic int right[2], lost, refused, other;
} load;

static void press(int i, void *arg)
{
    load *l = arg;
    bool statement = i % 2;
    while (!l->stop) {
        pqpool_error err;
        call(l->pool, statement, &err);
        if (err.code == PQPOOL_OK)
            l->right[statement]++;
        else if (err.code == PQPOOL_ELOST)
            l->lost++;
        else if (err.code == PQPOOL_ECONNECT)
            l->refused++;
        else if (l->other++ == 0)
            diag("%s: %s", pqpool_code_name((pqpool_code)err.code), err.message);
    }
}

static void crash_one(void)
{
    pid_t pid =
        (pid_t)atoi(one(ctl, "select min(pid) from pg_stat_activity where application_name = '" NAME "'"));
    if (pid <= 0 || kill(pid, SIGKILL) != 0)
        bail("no server process of the pool can be killed");
}

static void restart_at_once(void)
{
    pg_ctl("-m immediate restart");
}

static void under_load(const char *what, void (*end)(void))
{
    enum { ROUNDS = 5, MOST = 6 };
    load l = {.pool = server_pool("pool_max_size=6")};
    crew c;
    double took[ROUNDS] = {0};
    crew_start(&c, CALLERS, press, &l);
    bool served = eventually(l.right[0] > CALLERS && l.right[1] > CALLERS), stormed = false;
    for (int k = 0; k < ROUNDS && served; k++) {
        double began = now_s();
        attempts = 0;
        end();
        while (PQstatus(ctl) == CONNECTION_OK) /* until ours has ended too */
            PQclear(PQexec(ctl, "select 1"));
        again();
        double there = now_s();
        int right[2] = {l.right[0], l.right[1]};
        served = eventually(l.right[0] > right[0] + CALLERS && l.right[1] > right[1] + CALLERS);
        took[k] = now_s() - there;
        stormed |= !no_storm(attempts, now_s() - began, 3 * MOST);
    }
    l.stop = true;
    crew_join(&c);
    ok(served, "A7: %s: leases and statements are served again", what);
    qsort(took, ROUNDS, sizeof *took, by_time); /* the slowest may have been the machine's */
    ok(took[ROUNDS / 2] < 1.0 * tap_slowness(), "A7: %s: soon (%.0f ms, %.0f at most)", what,
       took[ROUNDS / 2] * 1000, took[ROUNDS - 1] * 1000);
    ok(!stormed, "A5: %s: without a storm of attempts", what);
    ok(l.lost <= ROUNDS * (CALLERS + MOST), "B10: %s: only what was under way is lost (%d)", what, l.lost);
    ok(l.refused == 0 && l.other == 0,
       "A4: %s: whoever waited waits on (%d told of a failed connect, %d other)", what, l.refused, l.other);
    serves(l.pool, what);
    close_pool(l.pool);
}

/* ---- the postmaster is frozen: it takes connections, and nothing follows ---- */

static void frozen_postmaster(void)
{
    static patients p;
    pqpool *pool = server_pool("pool_max_size=3");
    warm_up(pool);
    pqpool_lease a = take(pool), b = take(pool), c = take(pool); /* the shared one gives way */
    pqpool_set(pool, "max_size", "6", NULL);
    pid_t server = postmaster();
    if (kill(server, SIGSTOP) != 0)
        bail("kill -STOP: %s", strerror(errno));
    attempts = 0;
    in_vain(pool, "a frozen postmaster, and all else leased", false);
    double last, began = now_s();
    patients_come(&p, pool, LEASES);
    pqpool_release(&a);
    is_int(patients_go(&p, &last), CALLERS,
           "A8: a frozen postmaster: a connection that comes back serves all leases");
    patients_come(&p, pool, STATEMENTS);
    pqpool_release(&b);
    is_int(patients_go(&p, &last), CALLERS, "A8: a frozen postmaster: or all statements");
    ok(last - began < 2.0 * tap_slowness(), "A8: while connects hang (%.0f ms)", (last - began) * 1000);
    ok(attempts >= 1 && attempts <= 3, "A5: of which there are no more than there is room for (%d)",
       attempts);
    kill(server, SIGCONT);
    ok(eventually(stats(pool).connecting == 0) && stats(pool).connect_failures == 0 && stats(pool).total <= 6,
       "A1: when it goes on they join the pool, within max_size (%d)", stats(pool).total);
    pqpool_release(&c);
    serves(pool, "then");
    close_pool(pool);
}

/* ---- a server process is frozen ---- */

/* Runs beside other tests: it takes its time. */
typedef struct freezer {
    pthread_t thread;
    pid_t leased, shared;
    double release_s;
    pqpool_error statement, others[CALLERS];
    bool closed, cut;
} freezer;

static void *freeze(void *arg)
{
    freezer *f = arg;
    PGconn *c = control();
    pqpool *pool = open_pool("application_name=frozen pool_max_size=4 pool_log_level=off", NULL);
    pqpool_lease lease = take(pool);
    f->leased = PQbackendPID(lease.conn);
    PQclear(PQexec(lease.conn, "begin"));
    PQclear(pqpool_exec(pool, "select 1", NULL));
    f->shared =
        (pid_t)atoi(one(c, "select pid from pg_stat_activity where application_name = 'frozen' and pid <> %d",
                        (int)f->leased));
    kill(f->leased, SIGSTOP), kill(f->shared, SIGSTOP);
    pqpool_stmt s = {PQPOOL_STMT, .sql = "select 1", .timeout_ms = 100};
    PQclear(pqpool_exec_stmt(pool, &s, &f->statement));
    for (int i = 0; i < CALLERS; i++)
        call(pool, i % 2, &f->others[i]);
    double began = now_s();
    pqpool_release(&lease); /* a transaction is open */
    f->release_s = now_s() - began;
    for (double end = now_s() + 15 * tap_slowness(); now_s() < end && !(f->closed && f->cut); sleep_ms(50)) {
        f->closed = stats(pool).closes >= 1;
        f->cut = stats(pool).closes >= 2;
    }
    kill(f->leased, SIGCONT), kill(f->shared, SIGCONT);
    close_pool(pool);
    PQfinish(c);
    return NULL;
}

static void thaw(freezer *f)
{
    pthread_join(f->thread, NULL);
    int failed = 0;
    for (int i = 0; i < CALLERS; i++)
        failed += f->others[i].code != PQPOOL_OK;
    ok(f->statement.code == PQPOOL_ETIMEDOUT && f->statement.outcome == PQPOOL_UNKNOWN,
       "B9: a frozen server process: its statement is UNKNOWN at its deadline");
    is_int(failed, 0, "A7: a frozen server process: all others are served by other connections");
    ok(f->closed && f->release_s < 5.5 + 0.5 * tap_slowness(),
       "A9: a frozen server process: its lease comes back within 5 s, and is closed (%.1f s)", f->release_s);
    ok(f->cut, "A7: a frozen server process: its shared connection is cut when all have given up");
}

/* ---- full ---- */

static void full(void)
{
    PGconn *hogs[SLOTS];
    int n = 0;
    pqpool *pool = server_pool("pool_max_size=8");
    static patients p;
    while (n < SLOTS && PQstatus(hogs[n] = PQconnectdb("application_name=hog")) == CONNECTION_OK)
        n++;
    has(PQerrorMessage(hogs[n]), "too many clients", "the server is full");
    PQfinish(hogs[n]);
    attempts = 0;
    double began = now_s();
    in_vain(pool, "a full server", false);
    ok(no_storm(attempts, now_s() - began, 4), "A8: a full server is not stormed (%d attempts)", attempts);
    patients_come(&p, pool, BOTH);
    PQfinish(hogs[--n]), PQfinish(hogs[--n]);
    double last;
    is_int(patients_go(&p, &last), CALLERS, "A8: when it takes two more, all who wait are served by these");
    int told = 0;
    began = now_s();
    attempts = 0;
    for (int round = 0; round < 10; round++) {
        patients_come(&p, pool, BOTH);
        told += CALLERS - patients_go(&p, &last);
    }
    is_int(told, 0, "A8: while any connection lives, nobody is told of too many clients");
    ok(no_storm(attempts, now_s() - began, 4), "A8: nor is the server stormed (%d attempts)", attempts);
    while (n > 0)
        PQfinish(hogs[--n]);
    pqpool_lease lease[4];
    int had = 0;
    for (int i = 0; i < 4; i++)
        had += pqpool_acquire_within(pool, 1000 * tap_slowness(), &lease[i], NULL) == PQPOOL_OK;
    is_int(had, 4, "A8: when there is room again, the pool grows");
    for (int i = 0; i < had; i++)
        pqpool_release(&lease[i]);
    close_pool(pool);
}

/* ---- the password is changed ---- */

static pthread_mutex_t secret_lock = PTHREAD_MUTEX_INITIALIZER;
static char secret[32];

static int tell_secret(char *buf, size_t size, void *arg)
{
    (void)arg;
    pthread_mutex_lock(&secret_lock);
    snprintf(buf, size, "%s", secret);
    pthread_mutex_unlock(&secret_lock);
    attempts++;
    return 0;
}

static void change_secret(int n)
{
    pthread_mutex_lock(&secret_lock);
    snprintf(secret, sizeof secret, "secret %d", n);
    one(ctl, "alter role rotating password '%s'", secret);
    pthread_mutex_unlock(&secret_lock);
}

/* Leases, some of which are not given back whole, so that connections are made all the time. */
static void use_up(int i, void *arg)
{
    load *l = arg;
    if (i % 2) {
        press(i, arg);
        return;
    }
    for (int k = 0; !l->stop; k++) {
        pqpool_lease lease;
        pqpool_error err;
        if (pqpool_acquire(l->pool, &lease, &err) != PQPOOL_OK) {
            if (l->refused++ == 0)
                diag("%s", err.message);
            continue;
        }
        PGresult *res = PQexec(lease.conn, "select 1");
        if (PQresultStatus(res) == PGRES_TUPLES_OK)
            l->right[0]++;
        else
            l->lost++;
        PQclear(res);
        sleep_ms(2);
        if (k % 4 == 0)
            pqpool_discard(&lease);
        else
            pqpool_release(&lease);
    }
}

static void rotated(void)
{
    enum { ROTATIONS = 8 };
    one(ctl, "create role rotating login");
    change_secret(0);
    rule(ctl, "local all rotating scram-sha-256");
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_password = tell_secret};
    load l = {.pool = open_pool("user=rotating application_name=" NAME " pool_max_size=6 pool_log_level=off",
                                &hooks)};
    pqpool_lease kept = take(l.pool);
    crew c;
    crew_start(&c, 8, use_up, &l);
    bool goes_on = true;
    for (int n = 1; n <= ROTATIONS && goes_on; n++) {
        change_secret(n);
        int64_t connects = stats(l.pool).connects;
        int right[2] = {l.right[0], l.right[1]};
        goes_on = eventually(stats(l.pool).connects > connects + 2 && l.right[0] > right[0] + 10 &&
                             l.right[1] > right[1] + 10);
    }
    l.stop = true;
    crew_join(&c);
    ok(goes_on, "E6: the password is changed %d times, and each time connections are made with the new one",
       ROTATIONS);
    is_int(l.lost + l.refused + l.other, 0, "E6: without one error in %d leases and %d statements",
           l.right[0], l.right[1]);
    is_str(one(kept.conn, "select 'old'"), "old",
           "E6: a connection from before the first change still lives");
    pqpool_release(&kept);
    close_pool(l.pool);
    rule(ctl, "");
    one(ctl, "drop role rotating");
}

/* ---- the role or the database is dropped ---- */

/* Ends the pool's server processes, and returns how many when they are gone. */
static int end_all(void)
{
    int n = atoi(one(
        ctl,
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = '" NAME "'"));
    while (backends(ctl, NAME) > 0)
        sleep_ms(1);
    return n;
}

/* Its user has seen that it is lost; else whoever comes next might. */
static void give_lost(pqpool_lease *lease)
{
    PQclear(PQexec(lease->conn, "select 1"));
    pqpool_release(lease);
}

static void dropped(const char *what, const char *conninfo, void (*make)(void), void (*drop)(void),
                    const char *sqlstate, const char *words)
{
    static patients p;
    make();
    pqpool *pool = server_pool(conninfo);
    warm_up(pool);
    pqpool_lease a = take(pool), b = take(pool), c = take(pool); /* the shared one gives way */
    patients_come(&p, pool, BOTH);
    ok(eventually(stats(pool).waiting == CALLERS), "%s: all connections are leased, and %d wait", what,
       CALLERS);
    drop();
    double began = now_s();
    attempts = 0;
    give_lost(&a), give_lost(&b), give_lost(&c);
    crew_join(&p.crew);
    int told = 0;
    double last = 0;
    for (int i = 0; i < CALLERS; i++) {
        bool so = p.err[i].code == PQPOOL_ECONNECT && p.err[i].outcome == PQPOOL_NOT_SENT &&
                  strcmp(p.err[i].sqlstate, sqlstate) == 0 && strstr(p.err[i].message, words);
        if (!so)
            diag("told %s: %s", pqpool_code_name((pqpool_code)p.err[i].code), p.err[i].message);
        told += so;
        last = p.ended[i] > last ? p.ended[i] : last;
    }
    is_int(told, CALLERS, "A5: %s: who waits is told so, in the server's words", what);
    ok(last - began < 10.0 * tap_slowness(), "A5: %s: at once, not at his deadline (%.0f ms)", what,
       (last - began) * 1000);
    int wrong = 0;
    for (began = now_s(); now_s() - began < 0.5; sleep_ms(5)) {
        pqpool_error err;
        call(pool, p.done++ % 2, &err);
        wrong += err.code != PQPOOL_ECONNECT || strcmp(err.sqlstate, sqlstate) != 0;
    }
    is_int(wrong, 0, "A5: %s: so is who comes afterwards", what);
    ok(attempts <= 6, "A5: %s: and the server is asked seldom (%d times)", what, attempts);
    make();
    pqpool_error err;
    began = now_s();
    do {
        call(pool, true, &err);
        sleep_ms(10);
    } while (err.code != PQPOOL_OK && now_s() - began < 10 * tap_slowness());
    ok(err.code == PQPOOL_OK && now_s() - began < 2.0 * tap_slowness(),
       "A5: %s: made anew, it is used again (%.0f ms)", what, (now_s() - began) * 1000);
    serves(pool, "then");
    close_pool(pool);
    drop();
}

static void make_database(void)
{
    one(ctl, "create database doomed");
}

static void drop_database(void)
{
    one(ctl, "drop database doomed with (force)");
}

static void make_role(void)
{
    one(ctl, "create role doomed login");
}

static void drop_role(void)
{
    one(ctl, "drop role doomed");
    end_all();
}

/* ---- idle connections are ended ---- */

static void ended_while_idle(void)
{
    enum { ROUNDS = 20 };
    static patients p;
    pqpool *pool = server_pool("pool_max_size=8");
    int failed = 0;
    double noticed[ROUNDS], last;
    for (int k = 0; k < ROUNDS; k++) {
        warm_up(pool);
        if (!eventually(stats(pool).connecting == 0))
            bail("connects do not end");
        int64_t closes = stats(pool).closes;
        int ended = end_all();
        double began = now_s();
        if (!eventually(stats(pool).closes >= closes + ended && stats(pool).idle == 0))
            bail("the pool does not notice: round %d, %d ended, %d closed, %d idle, %d shared, %d draining",
                 k, ended, (int)(stats(pool).closes - closes), stats(pool).idle, stats(pool).shared,
                 stats(pool).draining);
        noticed[k] = now_s() - began;
        patients_come(&p, pool, BOTH);
        failed += CALLERS - patients_go(&p, &last);
    }
    qsort(noticed, ROUNDS, sizeof *noticed, by_time);
    is_int(failed, 0, "A7: of %d callers after %d ends of all idle connections, none is lent a dead one",
           ROUNDS * CALLERS, ROUNDS);
    ok(noticed[ROUNDS / 2] <= 0.02 * tap_slowness(),
       "A7: that they ended is noticed within 20 ms (%.1f ms, %.1f at most)", noticed[ROUNDS / 2] * 1000,
       noticed[ROUNDS - 1] * 1000);
    close_pool(pool);
}

/* ---- out of reach ---- */

/* This thread, and those it starts from now on, are in a network of their own, with one link to the server's. */
static bool move_out(const char *net, char *outer, size_t size)
{
    char command[1000];
    snprintf(outer, size, "pq%d", (int)getpid() % 100000);
    if (geteuid() != 0 || system("command -v ip >/dev/null && command -v nsenter >/dev/null") != 0)
        return false;
    snprintf(command, sizeof command,
             "{ ip link add %s address 02:00:00:00:00:01 type veth peer name %sx && ip addr add %s.1/30 dev "
             "%s && ip link set %s up; } "
             ">/dev/null 2>&1",
             outer, outer, net, outer, outer);
    if (system(command) != 0 || unshare(CLONE_NEWNET) != 0)
        return false;
    /* The neighbour is told, so that nobody has to wait until it is asked for again. */
    snprintf(
        command, sizeof command,
        "{ nsenter -t %d -n ip link set %sx netns %d && ip addr add %s.2/30 dev %sx && ip link set %sx up && "
        "ip link set lo up && ip neigh replace %s.1 lladdr 02:00:00:00:00:01 nud permanent dev %sx; } "
        ">/dev/null 2>&1",
        (int)getppid(), outer, (int)syscall(SYS_gettid), net, outer, outer, net, outer);
    return system(command) == 0;
}

static void link_is(const char *outer, const char *state)
{
    char command[300];
    snprintf(command, sizeof command, "nsenter -t %d -n ip link set %s %s", (int)getppid(), outer, state);
    if (system(command) != 0)
        bail("%s", command);
}

static void *sleep_long(void *arg)
{
    vain *v = arg;
    PQclear(pqpool_exec(v->pool, "select pg_sleep(60)", &v->err));
    v->ended = now_s();
    return NULL;
}

static void out_of_reach(void)
{
    char net[40], outer[16], conninfo[400], line[100];
    static patients p;
    snprintf(net, sizeof net, "10.%d.%d", 128 + (int)getpid() / 250 % 120, (int)getpid() % 250);
    if (!move_out(net, outer, sizeof outer)) {
        ok(true, "A7: a server out of reach # SKIP needs root, ip and nsenter");
        return;
    }
    snprintf(line, sizeof line, "host all all %s.0/30 trust", net);
    rule(ctl, line);
    snprintf(
        conninfo, sizeof conninfo,
        "host=%s.1 port=%d keepalives_idle=1 keepalives_interval=1 keepalives_count=2 tcp_user_timeout=2000 "
        "pool_connect_timeout=300ms pool_max_size=6 pool_log_level=off",
        net, tcp_port);
    pqpool *pool = server_pool(conninfo);
    warm_up(pool);
    pqpool_lease a = take(pool), b = take(pool);
    vain inside = {.pool = pool};
    pthread_t thread;
    pthread_create(&thread, NULL, sleep_long, &inside);
    ok(eventually(
           atoi(one(ctl, "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)'")) == 1),
       "a statement runs");
    link_is(outer, "down");
    double cut = now_s();
    attempts = 0;
    in_vain(pool, "a server out of reach", true);
    ok(no_storm(attempts, now_s() - cut, 4), "A5: a server out of reach is not stormed (%d attempts)",
       attempts);
    pthread_join(thread, NULL);
    ok(inside.err.code == PQPOOL_ELOST && inside.err.outcome == PQPOOL_UNKNOWN,
       "B10: what was running is lost, UNKNOWN");
    ok(inside.ended - cut < 4.0 * tap_slowness(), "A7: as soon as keepalive finds out (%.1f s)",
       inside.ended - cut);
    pqpool_release(&a), pqpool_release(&b); /* their users may not have looked */
    patients_come(&p, pool, BOTH);
    ok(eventually(stats(pool).idle == 0),
       "A7: idle connections that can't be reached are found dead by themselves");
    pqpool_error err;
    link_is(outer, "up");
    double there = now_s(), last;
    int served = patients_go(&p, &last);
    ok(served >= CALLERS - 2, "A7: who waits is served when it can be reached again (%d)", served);
    ok(last - there < 1.0 * tap_slowness(), "A7: soon (%.0f ms)", (last - there) * 1000);
    call(pool, false, &err);
    serves(pool, "then");
    close_pool(pool);
    rule(ctl, "");
    end_all(); /* those that were cut off don't know it */
}

int main(int argc, char **argv)
{
    (void)argc;
    tcp_port = own_server(argv[0], "0.0.0.0", SLOTS);
    tap_begin(60);
    ctl = control();
    may_kill = may_signal(ctl);
    away();
    away_unnoticed();
    under_load("an immediate restart", restart_at_once);
    if (may_kill) {
        under_load("kill -9 of a server process", crash_one);
        frozen_postmaster();
    } else {
        ok(true, "A7: killed and frozen servers # SKIP may not signal them");
    }
    dropped("a dropped database", "dbname=doomed pool_max_size=3", make_database, drop_database, "3D000",
            "database \"doomed\" does not exist");
    dropped("a dropped role", "user=doomed pool_max_size=3", make_role, drop_role, "28000",
            "role \"doomed\" does not exist");
    ended_while_idle();
    freezer f = {0};
    if (may_kill && pthread_create(&f.thread, NULL, freeze, &f) != 0)
        bail("pthread_create");
    rotated();
    full();
    out_of_reach();
    if (may_kill)
        thaw(&f);
    ok(eventually(backends(ctl, NAME) == 0), "no server process is left");
    PQfinish(ctl);
    return done_testing();
}
