/* observer: counts, over a connection of its own, the connections that carry an application's name. */
#ifndef CLI_OBSERVER_H
#define CLI_OBSERVER_H

#include <libpq-fe.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

typedef struct observer {
    PGconn *conn; /* the observer's alone while it watches */
    char application_name[64];
    pthread_t thread;
    atomic_bool stop;
    int peak; /* -1: could not be counted */
} observer;

/* Connections that carry the name now, as pg_stat_activity has it; -1 after having complained. */
int observer_count(PGconn *conn, const char *application_name);

/* Starts to watch, about every 10 ms. 0, or an errno value. */
int observer_start(observer *o, PGconn *conn, const char *application_name);

/* Looks a last time, stops, and returns the most connections seen at once; -1 if that is unknown. */
int observer_stop(observer *o);

/* Waits, a few seconds at most, until the server has closed all connections of that name. */
void observer_wait_gone(PGconn *conn, const char *application_name);

#endif
