/*
 * loop_event: a pool in a libevent loop; loop_work.h says what it is used for.
 *
 *     loop_event [CONNINFO]
 *
 * The pool's descriptor is watched by one persistent event, for all its connections; it must be freed before the pool
 * is.
 */
#include "loop_work.h"

#include <event2/event.h>
#include <stdio.h>

static struct event_base *base;

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    if (!(what & EV_READ) || !loop_work_ready(arg)) /* no answer for too long, or the last one */
        event_base_loopbreak(base);
}

static int run_loop(loop_work *work)
{
    static const struct timeval patience = {LOOP_WORK_PATIENCE_MS / 1000, 0};
    base = event_base_new();
    struct event *watcher =
        base ? event_new(base, pqpool_fd(work->pool), EV_READ | EV_PERSIST, on_ready, work) : NULL;
    int failed = !watcher || event_add(watcher, &patience) != 0 || event_base_dispatch(base) < 0;
    if (failed)
        fputs("loop_event: libevent has failed\n", stderr);
    if (watcher)
        event_free(watcher);
    if (base)
        event_base_free(base);
    return failed;
}

int main(int argc, char **argv)
{
    loop_work work;
    int failed = !loop_work_begin(&work, "loop_event", argc, argv) || run_loop(&work);
    return loop_work_end(&work) || failed;
}
