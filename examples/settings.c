/*
 * settings: a pool as it was found and as it was tuned, under the names its people knew; and what the pool says when it is
 * too small, or too large.
 *
 *     settings [CONNINFO]
 */
#include <pqpool-ops.h>
#include <pqpool.h>

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUSY = 9, WAITING = 11 };

/* 200 requests a second of 0.3 s (p95) are 60 connections, and half as much again is 90. */
static const char *const names[] = {"connectionLimit",      "waitForConnections", "queueLimit",
                                    "acquireTimeout",       "connectTimeout",     "logging",
                                    "maxQueryExecutionTime"};
static const char *const before[] = {"10", "true", "0", "-1", "60000", "off", "off"};
static const char *const after[] = {"90", "true", "50", "30000", "10000", "warn", "1000"};
enum { NAMES = sizeof names / sizeof *names };

static void warn(int level, const char *line, void *unused)
{
    (void)unused;
    printf("%s: %s\n", level == PQPOOL_LOG_WARN ? "warning" : "log", line);
}

static pqpool *open_with(const char *conninfo, const char *const *values, const char *more,
                         const char *more_value, const pqpool_hooks *hooks)
{
    const char *keywords[NAMES + 3], *settings[NAMES + 3];
    char prefixed[NAMES][40];
    int n = 0;
    keywords[n] = "dbname";
    settings[n++] = conninfo;
    for (int i = 0; i < NAMES && values; i++) {
        snprintf(prefixed[i], sizeof prefixed[i], "pool_%s", names[i]);
        keywords[n] = prefixed[i];
        settings[n++] = values[i];
    }
    keywords[n] = more;
    settings[n++] = more_value;
    keywords[n] = NULL;
    pqpool_error err;
    pqpool *pool = pqpool_open_params(keywords, settings, 1, hooks, &err);
    if (!pool) {
        fprintf(stderr, "settings: %s\n", err.message);
        exit(1);
    }
    return pool;
}

static void shut(pqpool *pool)
{
    pqpool_close(pool, 5000);
    pqpool_free(pool);
}

static void print_table(const char *conninfo)
{
    pqpool *was = open_with(conninfo, before, NULL, NULL, NULL),
           *is = open_with(conninfo, after, NULL, NULL, NULL);
    pqpool_inspection *a = pqpool_inspect(was, NULL), *b = pqpool_inspect(is, NULL);
    printf("| they call it | option | before | after |\n|---|---|---|---|\n");
    for (int i = 0; i < NAMES && a && b; i++) {
        char value[64];
        pqpool_get(is, names[i], value, sizeof value);
        for (int k = 0; k < a->n_options; k++) {
            char mine[64];
            pqpool_get(is, a->options[k]->name, mine, sizeof mine);
            /* which option goes by that name: the one it changes */
            if (!b->options[k]->given || strcmp(mine, value) != 0)
                continue;
            printf("| %s | %s | %s | %s |\n", names[i], a->options[k]->name, a->options[k]->value,
                   b->options[k]->value);
            break;
        }
    }
    pqpool_inspection_free(a);
    pqpool_inspection_free(b);
    shut(was);
    shut(is);
}

static void *want(void *arg)
{
    pqpool_error err;
    PQPOOL_LEASE(lease);
    if (pqpool_acquire(arg, &lease, &err) != PQPOOL_OK)
        fprintf(stderr, "settings: %s\n", err.message);
    return NULL;
}

static int findings(pqpool *pool, pqpool_health_data *health)
{
    *health = (pqpool_health_data){PQPOOL_HEALTH};
    return pqpool_health(pool, health) == PQPOOL_OK ? health->findings : -1;
}

/* Waits until the pool finds just that, and prints it. */
static int shows(pqpool *pool, int finding)
{
    pqpool_health_data health;
    for (int i = 0; i < 5000 && findings(pool, &health) != finding; i++)
        poll(NULL, 0, 1);
    printf("%s\n", *health.text ? health.text : "well");
    return health.findings == finding;
}

/* The old size under load: above 80 % used, more than 10 waiting. */
static int too_small(const char *conninfo)
{
    pqpool *pool = open_with(conninfo, before, NULL, NULL, NULL);
    pqpool_lease leases[BUSY + 1];
    pthread_t threads[WAITING];
    pqpool_error err;
    printf("\nbefore, %d of 10 in use:\n", BUSY);
    for (int i = 0; i < BUSY; i++)
        if (pqpool_acquire(pool, &leases[i], &err) != PQPOOL_OK) {
            fprintf(stderr, "settings: %s\n", err.message);
            exit(1);
        }
    int fine = shows(pool, PQPOOL_HEALTH_USED);
    printf("and all of them, with %d callers in the queue:\n", WAITING);
    if (pqpool_acquire(pool, &leases[BUSY], &err) != PQPOOL_OK)
        exit(1);
    for (int i = 0; i < WAITING; i++)
        if (pthread_create(&threads[i], NULL, want, pool) != 0)
            abort();
    fine &= shows(pool, PQPOOL_HEALTH_USED | PQPOOL_HEALTH_WAITING);
    for (int i = 0; i <= BUSY; i++)
        pqpool_release(&leases[i]);
    for (int i = 0; i < WAITING; i++)
        pthread_join(threads[i], NULL);
    shut(pool);
    return fine;
}

/* Connections that nobody needs: by the pool's own check, whose 5 minutes are shortened here. */
static int too_large(const char *conninfo)
{
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_log = warn};
    pqpool *pool = open_with(conninfo, NULL, "pool_initialSize", "5", &hooks);
    pqpool_stats_data s = {PQPOOL_STATS};
    printf("\nfive connections, and nobody comes:\n");
    for (int i = 0; i < 5000 && s.idle < 5; i++, poll(NULL, 0, 1))
        pqpool_stats(pool, &s);
    pqpool_set(pool, "health_interval", "100ms", NULL);
    poll(NULL, 0, 350);
    pqpool_set(pool, "health_interval", "off", NULL);
    shut(pool);
    return s.idle == 5;
}

int main(int argc, char **argv)
{
    const char *conninfo = argc > 1 ? argv[1] : "";
    print_table(conninfo);
    int fine = too_small(conninfo);
    fine &= too_large(conninfo);
    return fine ? 0 : 1;
}
