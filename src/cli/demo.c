/* demo: `pqpool demo`: the same requests with and without sharing, measured on the user's own server. */
#include "demo.h"

#include "cell.h"
#include "delayproxy.h"
#include "meaning.h"
#include "observer.h"
#include "progress.h"
#include "report.h"
#include "settings.h"
#include "target.h"
#include "ticks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_PAGES 64
#define MAX_CELLS (MODE_COUNT * 2 * 2)
#define OWN_CONNECTIONS 2 /* the one that makes the tables, and the observer's */
#define CLOSE_DRAIN_MS 2000
#define RECONNECT_TRIES 10
#define RECONNECT_PAUSE (500 * TICKS_MS)

struct demo {
    settings settings;
    target where;
    char schema[40];
    int pool_size;
    PGconn *board, *observer; /* plain connections of our own */
    board_page pages[N_PAGES];
    cell cells[MAX_CELLS];
    int n_cells;
};

/* ---- signals: noted here, acted upon where there is something to clean up ---- */

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
    stopped = number;
}

static void catch_signals(void)
{
    /* Once only: whoever asks a second time wants out at once. */
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND | SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    signal(SIGPIPE, SIG_IGN); /* a closed stdout is no reason to leave the schema behind */
}

/* ---- before the measurement ---- */

/* Checks the options in the user's conninfo and learns how many connections a pool may open. */
static bool learn_pool_size(struct demo *d)
{
    char size[20] = "";
    pqpool_error err;
    pqpool *pool = target_open_pool(&d->where, NULL, NULL, NULL, "pqpool-demo", NULL, &err);
    if (!pool) {
        complain("%s", err.message);
        return false;
    }
    pqpool_get(pool, "max_size", size, sizeof size);
    d->pool_size = atoi(size);
    pqpool_free(pool);
    return true;
}

/* Whether the server has room for the largest pool beside our own connections. */
static bool server_has_room(struct demo *d)
{
    PGresult *res = PQexec(
        d->observer, "SELECT current_setting('max_connections')::int"
                     " - current_setting('superuser_reserved_connections')::int"
                     " - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int,"
                     " current_setting('max_connections')");
    bool known = PQresultStatus(res) == PGRES_TUPLES_OK;
    int free_slots = known ? atoi(PQgetvalue(res, 0, 0)) : 0;
    bool good = known && free_slots >= d->pool_size;
    if (!known)
        complain("cannot ask the server for its room: %s", PQerrorMessage(d->observer));
    else if (!good)
        complain("the pool may open %d connections, but the server has only %d left (max_connections=%s);"
                 " %d are needed in all: raise max_connections, or add pool_max_size=%d to CONNINFO",
                 d->pool_size, free_slots < 0 ? 0 : free_slots, PQgetvalue(res, 0, 1),
                 d->pool_size + OWN_CONNECTIONS, free_slots > 1 ? free_slots : 1);
    PQclear(res);
    return good;
}

/* The right answers, by plain libpq and one statement after another. */
static bool compute_expected(struct demo *d)
{
    requester r;
    bool good = requester_init(&r, MODE_PLAIN, 3, NULL, d->board);
    for (int i = 0; good && i < N_PAGES && !stopped; i++) {
        d->pages[i] = board_make_page(i);
        good = request_run(&r, &d->pages[i], &d->pages[i].expected);
        if (!good)
            complain("cannot compute the right answers: %s", r.why);
    }
    requester_wipe(&r);
    return good && !stopped;
}

/* ---- the measurement ---- */

static const char *shared_max(request_mode mode)
{
    return mode == MODE_SHARED ? "1" : NULL;
}

static bool measure(struct demo *d, cell *c, const target_route *route)
{
    char name[64];
    observer o;
    pqpool_error err;
    snprintf(name, sizeof name, "pqpool-demo %s %s", d->schema, request_mode_name(c->mode));
    observer_wait_gone(d->observer, name);
    pqpool *pool = target_open_pool(&d->where, d->board, route, d->schema, name, shared_max(c->mode), &err);
    if (!pool) {
        complain("cannot open the pool: %s", err.message);
        return false;
    }
    bool good = observer_start(&o, d->observer, name) == 0;
    if (good) {
        good = cell_run(c, pool, d->pages, N_PAGES, d->settings.seconds / d->settings.rounds, &stopped);
        c->connections_peak = observer_stop(&o);
        good = good && c->connections_peak >= 0;
    } else {
        complain("cannot start the observer's thread");
    }
    pqpool_close(pool, CLOSE_DRAIN_MS);
    if (pqpool_free(pool) != PQPOOL_OK)
        complain("the pool of %s is still in use after it was closed", request_mode_name(c->mode));
    if (good)
        observer_wait_gone(d->observer, name); /* the next pool needs the room */
    return good;
}

/* All ways in turn in each round, so that what the machine does meanwhile meets them all. */
static bool measure_form(struct demo *d, double rtt, int form, const target_route *route)
{
    const settings *s = &d->settings;
    static cell rounds[MODE_COUNT][MAX_ROUNDS];
    for (int i = 0; i < s->rounds * MODE_COUNT; i++) {
        int mode = i % MODE_COUNT, round = i / MODE_COUNT;
        char what[80];
        cell *c = &rounds[mode][round];
        *c = (cell){.mode = (request_mode)mode,
                    .rtt_ms = rtt,
                    .statements = form,
                    .users = s->users,
                    .pool_size = d->pool_size};
        snprintf(what, sizeof what, "%s, +%g ms, 1 + %d", request_mode_name(c->mode), rtt, form);
        progress_show(what, d->n_cells * s->rounds + i, MODE_COUNT * s->n_rtts * s->n_forms * s->rounds);
        if (!measure(d, c, route) || stopped)
            return false;
    }
    progress_clear();
    for (int mode = 0; mode < MODE_COUNT; mode++) {
        d->cells[d->n_cells] = cell_of_rounds(rounds[mode], s->rounds);
        if (s->tsv)
            report_tsv_row(&d->cells[d->n_cells]);
        d->n_cells++;
    }
    return true;
}

static bool measure_all(struct demo *d)
{
    const settings *s = &d->settings;
    bool good = true;
    if (s->tsv)
        report_tsv_header();
    for (int r = 0; good && r < s->n_rtts; r++) {
        delayproxy *proxy = s->rtts[r] > 0 ? delayproxy_start(d->board, s->rtts[r]) : NULL;
        good = proxy || s->rtts[r] <= 0;
        for (int f = 0; good && f < s->n_forms; f++)
            good = measure_form(d, s->rtts[r], s->forms[f], proxy ? delayproxy_route(proxy) : NULL);
        delayproxy_stop(proxy);
    }
    progress_clear();
    return good;
}

/* ---- after it ---- */

/* Makes our connection anew; a server that restarts gets some time for it. */
static bool reconnect(PGconn *conn)
{
    for (int i = 0; i < RECONNECT_TRIES; i++) {
        PQreset(conn);
        if (PQstatus(conn) == CONNECTION_OK)
            return true;
        ticks_sleep(RECONNECT_PAUSE);
    }
    return false;
}

/* Removes the schema; if need be over a new connection, as libpq may not know yet that ours is broken. */
static bool remove_schema(struct demo *d)
{
    if (board_drop(d->board, d->schema) || (reconnect(d->board) && board_drop(d->board, d->schema)))
        return true;
    complain("the schema %s is still there; remove it with: DROP SCHEMA %s CASCADE", d->schema, d->schema);
    return false;
}

static bool report(const struct demo *d)
{
    long errors = 0;
    for (int i = 0; i < d->n_cells; i++)
        errors += d->cells[i].errors;
    if (!d->settings.tsv && d->n_cells > 0) {
        meaning_verdict(d->cells, d->n_cells);
        report_table(d->cells, d->n_cells);
        meaning_print(d->cells, d->n_cells);
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        complain("cannot write the figures to stdout");
        return false;
    }
    return errors == 0;
}

/* All that needs the two connections; true if everything went well. */
static bool run_demo(struct demo *d)
{
    if (!server_has_room(d))
        return false;
    bool good = board_create(d->board, d->schema, &stopped) && compute_expected(d) && measure_all(d);
    good = remove_schema(d) && good;
    return report(d) && good;
}

int demo_main(int argc, char **argv)
{
    static struct demo d;
    int done = settings_read(&d.settings, argc, argv);
    if (done)
        return done - 1;
    if (target_init(&d.where, d.settings.conninfo) != 0) {
        complain("out of memory");
        return 1;
    }
    if (!learn_pool_size(&d)) {
        target_wipe(&d.where);
        return 2;
    }
    snprintf(d.schema, sizeof d.schema, "pqpool_demo_%ld", (long)getpid());
    d.board = target_connect(&d.where, "pqpool-demo board");
    d.observer = d.board ? target_connect(&d.where, "pqpool-demo observer") : NULL;
    catch_signals();
    bool good = d.observer && run_demo(&d);
    if (stopped)
        complain("stopped by signal %d", (int)stopped);
    PQfinish(d.observer);
    PQfinish(d.board);
    target_wipe(&d.where);
    if (stopped) { /* to the shell it is to look as if it had not been caught */
        fflush(NULL);
        signal(stopped, SIG_DFL);
        raise(stopped);
    }
    return good ? 0 : 1;
}
