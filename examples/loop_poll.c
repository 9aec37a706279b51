/*
 * loop_poll: a pool in a poll() loop; loop_work.h says what it is used for.
 *
 *     loop_poll [CONNINFO]
 *
 * The pool has one descriptor, for all its connections, and it never changes. It is readable as long as callbacks are
 * ready; pqpool_dispatch() runs them, in this thread.
 */
#include "loop_work.h"

#include <poll.h>

static void run_loop(loop_work *work)
{
    /* A server would have its own sockets here too. */
    struct pollfd fds[] = {{.fd = pqpool_fd(work->pool), .events = POLLIN}};
    while (poll(fds, 1, LOOP_WORK_PATIENCE_MS) == 1)
        if (!loop_work_ready(work))
            break;
}

int main(int argc, char **argv)
{
    loop_work work;
    int failed = !loop_work_begin(&work, "loop_poll", argc, argv);
    if (!failed)
        run_loop(&work);
    return loop_work_end(&work) || failed;
}
