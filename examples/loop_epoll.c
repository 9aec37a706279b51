/*
 * loop_epoll: a pool in an epoll loop; loop_work.h says what it is used for.
 *
 *     loop_epoll [CONNINFO]
 *
 * The pool has one descriptor, for all its connections, and it never changes: it is added once. It is readable as long
 * as callbacks are ready; pqpool_dispatch() runs them, in this thread.
 */
#include "loop_work.h"

#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

static int run_loop(loop_work *work)
{
    struct epoll_event event = {.events = EPOLLIN};
    int loop = epoll_create1(EPOLL_CLOEXEC);
    if (loop < 0 || epoll_ctl(loop, EPOLL_CTL_ADD, pqpool_fd(work->pool), &event) != 0) {
        perror("loop_epoll");
        return 1;
    }
    /* A server would have its own sockets here too. */
    while (epoll_wait(loop, &event, 1, LOOP_WORK_PATIENCE_MS) == 1)
        if (!loop_work_ready(work))
            break;
    close(loop);
    return 0;
}

int main(int argc, char **argv)
{
    loop_work work;
    int failed = !loop_work_begin(&work, "loop_epoll", argc, argv) || run_loop(&work);
    return loop_work_end(&work) || failed;
}
