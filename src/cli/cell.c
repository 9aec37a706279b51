/* cell: one measurement: a mode, a round trip and a form of the request, and what came out. */
#include "cell.h"

#include "progress.h"
#include "ticks.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define WARM_UP (200 * TICKS_MS)       /* connects, and first statements on them */
#define PAUSE_ON_ERROR (10 * TICKS_MS) /* a server that is gone is no reason to spin */

/* What the users of a cell have in common. */
struct run {
    cell *cell;
    pqpool *pool;
    const board_page *pages;
    int n_pages;
    int64_t from, until; /* measured: what ends in between */
    volatile sig_atomic_t *stop;
    atomic_bool abandoned; /* not all users could be started */
    atomic_bool told;      /* the first error was told */
};

struct user {
    struct run *run;
    int number;
    pthread_t thread;
    requester requester;
    double *ms; /* the measured times */
    size_t n_ms, room;
    long errors;
};

static void count_error(struct user *u, const char *what, const board_page *page)
{
    cell *c = u->run->cell;
    u->errors++;
    if (!atomic_exchange(&u->run->told, true))
        complain("%s, rtt %g ms, %d statements, articles below %lld: %s", request_mode_name(c->mode),
                 c->rtt_ms, c->statements, (long long)page->cursor, what);
    ticks_sleep(PAUSE_ON_ERROR);
}

static bool keep(struct user *u, double ms)
{
    if (u->n_ms == u->room) {
        size_t room = u->room ? u->room * 2 : 1024;
        double *more = realloc(u->ms, room * sizeof *more);
        if (!more)
            return false;
        u->ms = more;
        u->room = room;
    }
    u->ms[u->n_ms++] = ms;
    return true;
}

static void *use(void *arg)
{
    struct user *u = arg;
    struct run *run = u->run;
    for (int n = u->number * 7; !*run->stop && !atomic_load(&run->abandoned);
         n++) { /* users start on different pages */
        const board_page *page = &run->pages[n % run->n_pages];
        uint64_t hash = 0;
        int64_t start = ticks_now();
        if (start >= run->until)
            break;
        bool good = request_run(&u->requester, page, &hash);
        int64_t end = ticks_now();
        if (!good)
            count_error(u, u->requester.why, page);
        else if (hash != page->expected)
            count_error(u, "the answer is not the right one", page);
        else if (end >= run->from && end < run->until && !keep(u, (double)(end - start) / (double)TICKS_MS))
            count_error(u, "out of memory", page);
    }
    return NULL;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The value that the given part of all does not exceed. */
static double percentile(const double *sorted, size_t n, double part)
{
    size_t rank = (size_t)(part * (double)n);
    return n == 0 ? 0 : sorted[rank < n ? rank : n - 1];
}

static bool evaluate(cell *c, struct user *users, double seconds)
{
    size_t n = 0;
    for (int i = 0; i < c->users; i++)
        n += users[i].n_ms;
    double *all = malloc((n + 1) * sizeof *all);
    if (!all) {
        complain("out of memory");
        return false;
    }
    n = 0;
    c->errors = 0;
    for (int i = 0; i < c->users; i++) {
        for (size_t k = 0; k < users[i].n_ms; k++)
            all[n++] = users[i].ms[k];
        c->errors += users[i].errors;
    }
    qsort(all, n, sizeof *all, by_size);
    c->requests_per_s = (double)n / seconds;
    c->p50_ms = percentile(all, n, 0.50);
    c->p99_ms = percentile(all, n, 0.99);
    free(all);
    return true;
}

bool cell_run(cell *c, pqpool *pool, const board_page *pages, int n_pages, double seconds,
              volatile sig_atomic_t *stop)
{
    int64_t start = ticks_now() + WARM_UP;
    struct run run = {.cell = c,
                      .pool = pool,
                      .pages = pages,
                      .n_pages = n_pages,
                      .from = start,
                      .until = start + (int64_t)(seconds * (double)TICKS_SECOND),
                      .stop = stop};
    struct user *users = calloc((size_t)c->users, sizeof *users);
    int ready = 0, started = 0;
    bool good = users != NULL;
    for (; good && ready < c->users; ready++) {
        users[ready].run = &run;
        users[ready].number = ready;
        good = requester_init(&users[ready].requester, c->mode, c->statements, pool, NULL);
    }
    for (; good && started < ready; started++)
        good = pthread_create(&users[started].thread, NULL, use, &users[started]) == 0;
    if (!good) {
        complain("%d users are more threads than the system gives us", c->users);
        atomic_store(&run.abandoned, true);
        started -= started > 0; /* the last one has no thread */
    }
    for (int i = 0; i < started; i++)
        pthread_join(users[i].thread, NULL);
    good = good && evaluate(c, users, seconds);
    for (int i = 0; i < ready; i++) {
        requester_wipe(&users[i].requester);
        free(users[i].ms);
    }
    free(users);
    return good;
}

/* ---- rounds ---- */

double cell_median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, by_size);
    return n == 0 ? 0 : n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double cell_spread(const cell *c)
{
    double least = c->rates[0], most = c->rates[0];
    for (int i = 1; i < c->n_rounds; i++) {
        least = c->rates[i] < least ? c->rates[i] : least;
        most = c->rates[i] > most ? c->rates[i] : most;
    }
    return c->requests_per_s > 0 ? (most - least) / c->requests_per_s : 0;
}

cell cell_of_rounds(const cell *rounds, int n)
{
    cell all = rounds[0];
    double values[3][MAX_ROUNDS];
    all.errors = 0;
    all.n_rounds = n;
    for (int i = 0; i < n; i++) {
        all.rates[i] = values[0][i] = rounds[i].requests_per_s;
        values[1][i] = rounds[i].p50_ms;
        values[2][i] = rounds[i].p99_ms;
        all.errors += rounds[i].errors;
        if (rounds[i].connections_peak > all.connections_peak)
            all.connections_peak = rounds[i].connections_peak;
    }
    all.requests_per_s = cell_median(values[0], n);
    all.p50_ms = cell_median(values[1], n);
    all.p99_ms = cell_median(values[2], n);
    return all;
}
