/*
 * loop_ev: a pool in a libev loop; loop_work.h says what it is used for.
 *
 *     loop_ev [CONNINFO]
 *
 * The pool's descriptor is watched by one ev_io, for all its connections; it must be stopped before the pool is freed.
 */
#include "loop_work.h"

#define EV_COMPAT3 0 /* only the names of libev 4 */
#include <ev.h>

static void on_ready(struct ev_loop *loop, ev_io *watcher, int events)
{
    (void)events;
    if (!loop_work_ready(watcher->data))
        ev_break(loop, EVBREAK_ALL);
}

static void on_impatience(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)timer, (void)events;
    ev_break(loop, EVBREAK_ALL);
}

static void run_loop(struct ev_loop *loop, loop_work *work)
{
    ev_io watcher = {.data = work};
    ev_timer patience;
    ev_io_init(&watcher, on_ready, pqpool_fd(work->pool), EV_READ);
    watcher.data = work;
    ev_io_start(loop, &watcher);
    ev_timer_init(&patience, on_impatience, LOOP_WORK_PATIENCE_MS / 1000.0, 0.0);
    ev_timer_start(loop, &patience);
    ev_run(loop, 0);
    ev_timer_stop(loop, &patience);
    ev_io_stop(loop, &watcher);
}

int main(int argc, char **argv)
{
    loop_work work;
    struct ev_loop *loop = ev_default_loop(0);
    int failed = !loop || !loop_work_begin(&work, "loop_ev", argc, argv);
    if (!failed)
        run_loop(loop, &work);
    return loop_work_end(&work) || failed;
}
