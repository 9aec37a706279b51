/*
 * pg: what tests with a server share: a control connection outside any pool, threads that start together.
 */
#ifndef SUPPORT_PG_H
#define SUPPORT_PG_H

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <time.h>

#include <libpq-fe.h>
#include <pqpool-ops.h>
#include <pqpool.h>

#include "support/now.h"
#include "tap.h"

/* Starts this program again under t/with-pg, in an environment that has `variable`. */
__attribute__((unused, noreturn)) static void again_with_server(const char *variable)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0) {
        self[n] = '\0';
        alarm(0);
        setenv(variable, "1", 1);
        execl("/bin/sh", "sh", WITH_PG, self, (char *)NULL);
    }
    tap_ok(false, __FILE__, __LINE__, "%s can be run", WITH_PG);
    exit(1);
}

static void no_notice(void *arg, const char *message)
{
    (void)arg, (void)message;
}

/*
 * A connection outside the pool. A test that was not started with a server (by with-pg or `make
 * installcheck`) starts itself again under t/with-pg, so that each can be run alone, and so that none ever
 * meets somebody's real data.
 */
__attribute__((unused)) static PGconn *control(void)
{
    if (!getenv("PQPOOL_TEST_SERVER"))
        again_with_server("PQPOOL_TEST_SERVER");
    PGconn *c = PQconnectdb("application_name=control");
    if (PQstatus(c) != CONNECTION_OK)
        bail("control connection: %s", PQerrorMessage(c));
    PQsetNoticeProcessor(c, no_notice, NULL);
    return c;
}

/* The same for a test that breaks its server: that one is never shared with another test. */
__attribute__((unused)) static PGconn *control_alone(void)
{
    if (!getenv("PQPOOL_TEST_ALONE"))
        again_with_server("PQPOOL_TEST_ALONE");
    return control();
}

/* One value as text, in a buffer of this thread's; "" for no row; bails when the statement fails. */
__attribute__((unused, format(printf, 2, 3))) static const char *one(PGconn *c, const char *fmt, ...)
{
    static _Thread_local char value[4000];
    char sql[4000];
    va_list args;
    va_start(args, fmt);
    vsnprintf(sql, sizeof sql, fmt, args);
    va_end(args);
    PGresult *res = PQexec(c, sql);
    ExecStatusType status = PQresultStatus(res);
    if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
        bail("%s: %s", sql, PQerrorMessage(c));
    snprintf(value, sizeof value, "%s", PQntuples(res) > 0 ? PQgetvalue(res, 0, 0) : "");
    PQclear(res);
    return value;
}

/* How many server processes serve connections of this application name. */
__attribute__((unused)) static int backends(PGconn *c, const char *application)
{
    return atoi(one(c, "select count(*) from pg_stat_activity where application_name = '%s'", application));
}

/* Waits until a condition holds, up to 10 s (times the slowness); for what another process does. */
#define eventually(condition)                                                                                \
    __extension__({                                                                                          \
        bool holds_ = false;                                                                                 \
        for (double end_ = now_s() + 10.0 * tap_slowness(); !(holds_ = (condition)) && now_s() < end_;)      \
            sleep_ms(2);                                                                                     \
        holds_;                                                                                              \
    })

/* The log of a pool that is meant to meet trouble: shown with PQPOOL_TEST_LOG=1. */
static void test_log(int level, const char *line, void *arg)
{
    (void)level, (void)arg;
    if (getenv("PQPOOL_TEST_LOG"))
        diag("log: %s", line);
}

__attribute__((unused)) static pqpool *open_pool(const char *conninfo, const pqpool_hooks *hooks)
{
    pqpool_error err;
    pqpool_hooks own = {PQPOOL_HOOKS};
    if (hooks)
        own = *hooks;
    if (!own.on_log)
        own.on_log = test_log;
    pqpool *pool = pqpool_open(conninfo, &own, &err);
    if (!pool)
        bail("pqpool_open(%s): %s", conninfo, err.message);
    return pool;
}

__attribute__((unused)) static void close_pool(pqpool *pool)
{
    pqpool_close(pool, 5000);
    pqpool_code code = pqpool_free(pool);
    if (code != PQPOOL_OK)
        bail("pqpool_free: %s", pqpool_code_name(code));
}

__attribute__((unused)) static pqpool_stats_data stats(pqpool *pool)
{
    pqpool_stats_data s = {PQPOOL_STATS};
    if (pqpool_stats(pool, &s) != PQPOOL_OK)
        bail("pqpool_stats");
    return s;
}

/* The first field of the first row; "" if there is none. */
__attribute__((unused)) static const char *value(const PGresult *res)
{
    return PQntuples(res) > 0 ? PQgetvalue(res, 0, 0) : "";
}

/*
 * Runs a statement that exceeds its time-out. The server's word of that is there before the caller's deadline, unless this
 * machine was late by more than the few ms between them: then it is ETIMEDOUT, UNKNOWN, which says nothing of what the server
 * was told, and it is tried again.
 */
__attribute__((unused)) static PGresult *exec_too_long(pqpool *pool, const pqpool_stmt *stmt, pqpool_error *err)
{
    PGresult *res = pqpool_exec_stmt(pool, stmt, err);
    for (int i = 0; i < 30 && err->code == PQPOOL_ETIMEDOUT && err->outcome == PQPOOL_UNKNOWN; i++)
        res = pqpool_exec_stmt(pool, stmt, err); /* there was no result to clear */
    return res;
}

__attribute__((unused)) static pqpool_ticket *submit_stmt(pqpool *pool, const pqpool_stmt *stmt)
{
    pqpool_error err;
    pqpool_ticket *ticket = pqpool_submit(pool, stmt, &err);
    if (!ticket)
        bail("submit %s: %s", stmt->sql, err.message);
    return ticket;
}

__attribute__((unused)) static pqpool_ticket *submit_sql(pqpool *pool, const char *sql)
{
    return submit_stmt(pool, &(pqpool_stmt){PQPOOL_STMT, .sql = sql});
}

/* The code with which one of these ended, in place of its ticket. */
__attribute__((unused)) static pqpool_code
code_submit_cb(pqpool *pool, const pqpool_stmt *stmt, pqpool_callback callback, void *arg, pqpool_error *err)
{
    pqpool_error own;
    err = err ? err : &own;
    return pqpool_submit_cb(pool, stmt, callback, arg, err) ? PQPOOL_OK : (pqpool_code)err->code;
}

__attribute__((unused)) static pqpool_code code_submit_all_cb(pqpool *pool, const pqpool_stmt *stmts, int n,
                                                              pqpool_group_mode mode,
                                                              pqpool_group_callback callback, void *arg,
                                                              pqpool_error *err)
{
    pqpool_error own;
    err = err ? err : &own;
    return pqpool_submit_all_cb(pool, stmts, n, mode, callback, arg, err) ? PQPOOL_OK
                                                                          : (pqpool_code)err->code;
}

__attribute__((unused)) static pqpool_code code_acquire_cb(pqpool *pool,
                                                           const pqpool_acquire_options *options,
                                                           pqpool_lease_callback callback, void *arg,
                                                           pqpool_error *err)
{
    pqpool_error own;
    err = err ? err : &own;
    return pqpool_acquire_cb(pool, options, callback, arg, err) ? PQPOOL_OK : (pqpool_code)err->code;
}

/* Whether a ticket's answer is this value. */
__attribute__((unused)) static bool fetch_is(pqpool_ticket *ticket, const char *want)
{
    pqpool_error err;
    PGresult *res = pqpool_wait(ticket, -1, &err);
    bool same = err.code == PQPOOL_OK && strcmp(value(res), want) == 0;
    if (!same)
        diag("got %s, want %s: %s", value(res), want, err.message);
    PQclear(res);
    return same;
}

/* How many this process has open. */
__attribute__((unused)) static int descriptors(void)
{
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n;
}

/* A lease, or the end of the test. */
#define take(pool) take_at((pool), __FILE__, __LINE__)
__attribute__((unused)) static pqpool_lease take_at(pqpool *pool, const char *file, int line)
{
    pqpool_lease lease;
    pqpool_error err;
    if (pqpool_acquire_at(pool, PQPOOL_DEFAULT, &lease, &err, file, line) != PQPOOL_OK)
        bail("acquire: %s", err.message);
    return lease;
}

/* Threads that begin at the same instant. */
typedef struct crew {
    int n;
    void (*work)(int i, void *arg);
    void *arg;
    pthread_barrier_t start;
    pthread_t threads[256];
    _Atomic int next;
} crew;

__attribute__((unused)) static void *crew_main(void *arg)
{
    crew *c = arg;
    int i = c->next++;
    pthread_barrier_wait(&c->start);
    c->work(i, c->arg);
    return NULL;
}

__attribute__((unused)) static void crew_start(crew *c, int n, void (*work)(int, void *), void *arg)
{
    *c = (crew){.n = n, .work = work, .arg = arg};
    pthread_barrier_init(&c->start, NULL, (unsigned)n);
    for (int i = 0; i < n; i++)
        if (pthread_create(&c->threads[i], NULL, crew_main, c) != 0)
            bail("pthread_create");
}

__attribute__((unused)) static void crew_join(crew *c)
{
    for (int i = 0; i < c->n; i++)
        pthread_join(c->threads[i], NULL);
    pthread_barrier_destroy(&c->start);
}

__attribute__((unused)) static void in_threads(int n, void (*work)(int, void *), void *arg)
{
    crew c;
    crew_start(&c, n, work, arg);
    crew_join(&c);
}

#endif
