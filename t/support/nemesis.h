/*
 * nemesis: what tests that end or freeze server processes share. The server may belong to another user, so
 * signals are sent directly, which takes root or the same user; may_signal() tells.
 */
#ifndef SUPPORT_NEMESIS_H
#define SUPPORT_NEMESIS_H

#include <signal.h>
#include <sys/types.h>

#include "pg.h"

/* A connection like control()'s, waiting for a server that is just coming back. */
__attribute__((unused)) static PGconn *control_again(PGconn *old)
{
    PQfinish(old);
    for (double end = now_s() + 20.0 * tap_slowness(); now_s() < end; sleep_ms(5)) {
        PGconn *c = PQconnectdb("application_name=control");
        if (PQstatus(c) == CONNECTION_OK)
            return c;
        PQfinish(c);
    }
    bail("the server does not come back");
}

/* The one server process of this application; waits until there is exactly one. */
__attribute__((unused)) static pid_t backend_of(PGconn *c, const char *application)
{
    for (double end = now_s() + 10.0 * tap_slowness(); now_s() < end; sleep_ms(1)) {
        int pid = atoi(one(c,
                           "select case when count(*) = 1 then min(pid) else 0 end from pg_stat_activity "
                           "where application_name = '%s'",
                           application));
        if (pid > 0)
            return pid;
    }
    bail("there is not exactly one server process for %s", application);
}

__attribute__((unused)) static void terminate(PGconn *c, pid_t pid)
{
    one(c, "select pg_terminate_backend(%d)", (int)pid);
}

__attribute__((unused)) static bool gone(PGconn *c, pid_t pid)
{
    return strcmp(one(c, "select count(*) from pg_stat_activity where pid = %d", (int)pid), "0") == 0;
}

/* Whether the server process sleeps for this reason: "Lock" or "Timeout". */
__attribute__((unused)) static bool waits_for(PGconn *c, pid_t pid, const char *type)
{
    return atoi(one(c, "select count(*) from pg_stat_activity where pid = %d and wait_event_type = '%s'",
                    (int)pid, type)) == 1;
}

__attribute__((unused)) static bool may_signal(PGconn *c)
{
    return kill((pid_t)atoi(one(c, "select pg_backend_pid()")), 0) == 0;
}

#endif
