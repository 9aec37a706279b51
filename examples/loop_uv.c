/*
 * loop_uv: a pool in a libuv loop; loop_work.h says what it is used for.
 *
 *     loop_uv [CONNINFO]
 *
 * The pool's descriptor is watched by one uv_poll_t, for all its connections; it must be closed before the pool is
 * freed.
 */
#include "loop_work.h"

#include <uv.h>

static uv_timer_t patience;

static void stop(uv_handle_t *watcher)
{
    uv_close(watcher, NULL);
    uv_close((uv_handle_t *)&patience, NULL); /* nothing is left: uv_run() returns */
}

static void on_ready(uv_poll_t *watcher, int status, int events)
{
    (void)events;
    if (status < 0 || !loop_work_ready(watcher->data))
        stop((uv_handle_t *)watcher);
}

static void on_impatience(uv_timer_t *timer)
{
    stop(timer->data);
}

int main(int argc, char **argv)
{
    loop_work work;
    uv_poll_t watcher;
    uv_loop_t *loop = uv_default_loop();
    int failed = !loop_work_begin(&work, "loop_uv", argc, argv);
    if (!failed) {
        uv_poll_init(loop, &watcher, pqpool_fd(work.pool));
        watcher.data = &work;
        uv_poll_start(&watcher, UV_READABLE, on_ready);
        uv_timer_init(loop, &patience);
        patience.data = &watcher;
        uv_timer_start(&patience, on_impatience, LOOP_WORK_PATIENCE_MS, 0);
        uv_run(loop, UV_RUN_DEFAULT);
    }
    uv_loop_close(loop);
    return loop_work_end(&work) || failed;
}
