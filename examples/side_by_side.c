/*
 * What sharing gives and what it does not: four statements that keep the server busy, and four that wait for
 * nothing but the network, side by side in three ways.
 *
 *     side_by_side [conninfo]
 */
#include <pqpool-ops.h>
#include <pqpool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { N = 4 };

static const char busy[] = "select sum(sqrt(g)) from generate_series(1, 1000000) g";
static const char quick[] = "select 1";

static double now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

/* N tickets at once; their answers. Returns how many failed. */
static int run(pqpool *pool, const char *sql, unsigned flags)
{
    pqpool_ticket *tickets[N];
    pqpool_error err;
    int failed = 0;
    for (int i = 0; i < N; i++) {
        pqpool_stmt s = {PQPOOL_STMT, .sql = sql, .flags = flags};
        tickets[i] = pqpool_submit(pool, &s, &err);
    }
    for (int i = 0; i < N; i++) {
        PGresult *res = pqpool_wait(tickets[i], -1, &err);
        if (err.code != PQPOOL_OK) {
            failed++;
            fprintf(stderr, "%s\n", err.message);
        }
        PQclear(res);
    }
    return failed;
}

static int show(const char *conninfo, const char *what, const char *sql, unsigned flags)
{
    char text[1000];
    pqpool_error err;
    /* One shared connection, whatever happens on it: the pool is not to find a way out by itself. */
    snprintf(text, sizeof text, "%s pool_shared_max=1 pool_slow_lane_threshold=off pool_stall_threshold=off",
             conninfo);
    pqpool *pool = pqpool_open(text, NULL, &err);
    if (!pool) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    int failed = run(pool, sql, flags); /* connects, and prepares */
    double began = now_ms();
    failed += run(pool, sql, flags);
    double took = now_ms() - began;
    pqpool_stats_data s = {PQPOOL_STATS};
    pqpool_stats(pool, &s);
    printf("| %s | %d | %.1f |\n", what, (int)s.total, took);
    pqpool_close(pool, 1000);
    pqpool_free(pool);
    return failed;
}

int main(int argc, char **argv)
{
    const char *conninfo = argc > 1 ? argv[1] : "application_name=side_by_side";
    printf("| four statements side by side | connections | ms |\n|---|---|---|\n");
    int failed = show(conninfo, "quick ones, shared", quick, 0);
    failed += show(conninfo, "quick ones, PQPOOL_SLOW", quick, PQPOOL_SLOW);
    failed += show(conninfo, "busy ones, shared", busy, 0);
    failed += show(conninfo, "busy ones, PQPOOL_SLOW", busy, PQPOOL_SLOW);
    return failed ? 1 : 0;
}
