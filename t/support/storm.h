/*
 * storm: signals that interrupt every system call of a thread, a thousand a second.
 */
#ifndef SUPPORT_STORM_H
#define SUPPORT_STORM_H

#include <signal.h>
#include <sys/syscall.h>

#include "pg.h"

static _Atomic int64_t signals; /* arrived so far, in all threads */

static void count_signal(int sig)
{
    (void)sig;
    signals++;
}

/* For the calling thread, until timer_delete(). The handler of SIGUSR2, count_signal(), must be in place. */
static timer_t storm_begin(void)
{
    timer_t timer;
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2};
    struct itimerspec every = {{0, 1000000}, {0, 1000000}};
#ifdef sigev_notify_thread_id
    ev.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
#else
    ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
#endif
    if (timer_create(CLOCK_MONOTONIC, &ev, &timer) != 0 || timer_settime(timer, 0, &every, NULL) != 0)
        bail("timer: %s", strerror(errno));
    return timer;
}

#endif
