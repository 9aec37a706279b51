/* observer: counts, over a connection of its own, the connections that carry an application's name. */
#include "observer.h"

#include "progress.h"
#include "ticks.h"

#include <stdio.h>
#include <stdlib.h>

#define INTERVAL (10 * TICKS_MS)
#define GONE_TRIES 300

int observer_count(PGconn *conn, const char *application_name)
{
    PGresult *res = PQexecParams(conn,
                                 "SELECT count(*) FROM pg_stat_activity"
                                 " WHERE application_name = $1 AND backend_type = 'client backend'",
                                 1, NULL, &application_name, NULL, NULL, 0);
    int n = -1;
    if (PQresultStatus(res) == PGRES_TUPLES_OK)
        n = atoi(PQgetvalue(res, 0, 0));
    else
        complain("cannot count connections: %s", PQerrorMessage(conn));
    PQclear(res);
    return n;
}

static void look(observer *o)
{
    int n = observer_count(o->conn, o->application_name);
    if (n < 0)
        atomic_store(&o->stop, true);
    if (n < 0 || n > o->peak)
        o->peak = n;
}

static void *watch(void *arg)
{
    observer *o = arg;
    while (!atomic_load(&o->stop)) {
        look(o);
        ticks_sleep(INTERVAL);
    }
    return NULL;
}

int observer_start(observer *o, PGconn *conn, const char *application_name)
{
    o->conn = conn;
    o->peak = 0;
    atomic_init(&o->stop, false);
    snprintf(o->application_name, sizeof o->application_name, "%s", application_name);
    return pthread_create(&o->thread, NULL, watch, o);
}

int observer_stop(observer *o)
{
    atomic_store(&o->stop, true);
    pthread_join(o->thread, NULL);
    if (o->peak >= 0)
        look(o);
    return o->peak;
}

void observer_wait_gone(PGconn *conn, const char *application_name)
{
    for (int i = 0; i < GONE_TRIES && observer_count(conn, application_name) > 0; i++)
        ticks_sleep(INTERVAL);
}
