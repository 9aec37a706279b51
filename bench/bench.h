/*
 * bench: what the programs of bench/ share. Each prints samples, one a line, which bench/run gathers over its rounds:
 *
 *     NAME <tab> UNIT <tab> VALUE <tab> TARGET
 *
 * A program that compares several ways itself writes WAY | MEASURE for NAME. TARGET is empty, or a list of conditions
 * on the samples of that name: "p99 <= 100, max <= 200". A line that begins with # is a remark for the reader. What must
 * hold while it is measured is asserted by must(); a figure from a run where it did not is none.
 */
#ifndef BENCH_H
#define BENCH_H

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <pqpool-ops.h>
#include <pqpool.h>

#include "support/now.h"

__attribute__((unused, noreturn, format(printf, 1, 2))) static void die(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fflush(stdout);
    fprintf(stderr, "bench: ");
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\n");
    va_end(args);
    _exit(1);
}

#define must(condition, ...)                                                                                 \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            die(__VA_ARGS__);                                                                                \
    } while (0)

/* fmt is the sample's name; target may be NULL. */
__attribute__((unused, format(printf, 4, 5))) static void sample(double value, const char *unit,
                                                                 const char *target, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    printf("\t%s\t%.6g\t%s\n", unit, value, target ? target : "");
    fflush(stdout);
}

__attribute__((unused, format(printf, 1, 2))) static void remark(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    printf("# ");
    vprintf(fmt, args);
    printf("\n");
    fflush(stdout);
    va_end(args);
}

__attribute__((unused)) static pqpool *open_pool(const char *conninfo, const pqpool_hooks *hooks)
{
    pqpool_error err;
    pqpool *pool = pqpool_open(conninfo, hooks, &err);
    must(pool, "pqpool_open(%s): %s", conninfo, err.message);
    return pool;
}

__attribute__((unused)) static void close_pool(pqpool *pool)
{
    pqpool_close(pool, 10000);
    pqpool_code code = pqpool_free(pool);
    must(code == PQPOOL_OK, "pqpool_free: %s", pqpool_code_name(code));
}

__attribute__((unused)) static pqpool_stats_data stats(pqpool *pool)
{
    pqpool_stats_data s = {PQPOOL_STATS};
    must(pqpool_stats(pool, &s) == PQPOOL_OK, "pqpool_stats");
    return s;
}

__attribute__((unused)) static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Puts them in order. */
__attribute__((unused)) static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, by_size);
    return values[n / 2];
}

/* Microseconds of processor time that this process has spent. */
__attribute__((unused)) static double cpu_us(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* A connection outside any pool. */
__attribute__((unused)) static PGconn *control(void)
{
    PGconn *c = PQconnectdb("application_name=control options='-c client_min_messages=warning'");
    must(PQstatus(c) == CONNECTION_OK, "%s", PQerrorMessage(c));
    return c;
}

__attribute__((unused)) static void run_sql(PGconn *c, const char *sql)
{
    PGresult *res = PQexec(c, sql);
    ExecStatusType status = PQresultStatus(res);
    must(status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK, "%s: %s", sql, PQerrorMessage(c));
    PQclear(res);
}

#endif
