/*
 * door: what it costs to take a connection that is there, and to give it back, with nobody else about.
 *
 *     door [--seconds S] [--warm-up S]
 *     door count         10 000 times; this is what callgrind is to count
 *
 * Beside it, in short blocks in turn, what such a thing can hardly do without: two mutexes that nobody else wants, locked
 * and unlocked, and the time asked for twice. The connection was used a moment ago, so nothing is asked of the server.
 * The system calls of the thread that measures are counted by another one, to which the kernel reports each.
 */
#include "bench.h"
#include "callgrind.h"
#include "memory.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

enum { OPERATIONS = 10000, BLOCK = 500, MOST_BLOCKS = 20000 };

static pqpool *pool;

/* ---- what is measured ---- */

static void through_door(int times)
{
    for (int i = 0; i < times; i++) {
        pqpool_lease lease;
        pqpool_error err;
        must(pqpool_acquire(pool, &lease, &err) == PQPOOL_OK, "acquire: %s", err.message);
        must(pqpool_release(&lease) == PQPOOL_OK, "release");
    }
}

static void through_mutexes(int times)
{
    static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER, other = PTHREAD_MUTEX_INITIALIZER;
    struct timespec ts;
    for (int i = 0; i < times; i++) {
        pthread_mutex_lock(&one);
        pthread_mutex_unlock(&one);
        clock_gettime(CLOCK_MONOTONIC, &ts);
        pthread_mutex_lock(&other);
        pthread_mutex_unlock(&other);
        clock_gettime(CLOCK_MONOTONIC, &ts);
    }
}

static double time_block(void (*run)(int))
{
    double began = now_s();
    run(BLOCK);
    return (now_s() - began) * 1e9 / BLOCK;
}

static void tell_times(double seconds)
{
    static double door[MOST_BLOCKS], mutexes[MOST_BLOCKS], ratios[MOST_BLOCKS];
    int n = 0;
    for (double end = now_s() + seconds; n < MOST_BLOCKS && now_s() < end; n++) {
        door[n] = time_block(through_door);
        mutexes[n] = time_block(through_mutexes);
        ratios[n] = door[n] / mutexes[n];
    }
    must(n > 0, "no time to measure");
    sample(median(door, n), "ns", NULL, "acquire and release");
    sample(median(mutexes, n), "ns", NULL, "two mutexes locked and unlocked, two looks at the clock");
    sample(median(ratios, n), "ratio", "median <= 6", "acquire and release : two mutexes and two looks");
}

static void tell_allocations(void)
{
    long long before = library_calls();
    through_door(OPERATIONS);
    sample((double)(library_calls() - before) / OPERATIONS, "count", "max <= 0",
           "allocations of the library per acquire and release");
}

/* ---- system calls ---- */

static struct {
    _Atomic int listener; /* -1: not yet */
    atomic_llong calls;
    long long found; /* by the thread's own loop; -1: the kernel would not have it */
    int why;
} watched = {.listener = -1};

/* Reports each call of this thread, and of no other one. Returns a descriptor, or -1. */
static int report_calls(void)
{
    struct sock_filter filter[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF)};
    struct sock_fprog program = {.len = 1, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

/* Nothing below may make a system call of its own before the loop has ended. */
static void *be_watched(void *arg)
{
    (void)arg;
    through_door(BLOCK); /* what a thread's first one takes */
    int listener = report_calls();
    if (listener < 0) {
        watched.why = errno;
        watched.found = -1;
        watched.listener = -2;
        return NULL;
    }
    watched.listener = listener;
    long long before = watched.calls;
    through_door(OPERATIONS);
    watched.found = watched.calls - before;
    syscall(SYS_getppid); /* is anybody counting? */
    must(watched.calls == before + watched.found + 1, "a system call was not counted");
    return NULL;
}

/* Lets each call go on, and counts it. Ends with the thread. */
static void watch_calls(int listener)
{
    for (;;) {
        struct seccomp_notif call = {0};
        struct pollfd fd = {.fd = listener, .events = POLLIN};
        must(poll(&fd, 1, 60000) == 1, "the thread that is watched does not end");
        if (!(fd.revents & POLLIN))
            return;
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) != 0)
            continue;
        watched.calls++;
        struct seccomp_notif_resp answer = {.id = call.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

static void tell_system_calls(void)
{
    pthread_t thread;
    must(pthread_create(&thread, NULL, be_watched, NULL) == 0, "pthread_create");
    while (watched.listener == -1)
        sleep_ms(1);
    if (watched.listener >= 0)
        watch_calls(watched.listener);
    pthread_join(thread, NULL);
    if (watched.found < 0)
        remark("system calls are not counted, the kernel does not report them here: %s",
               strerror(watched.why));
    else
        sample((double)watched.found / OPERATIONS, "count", "max <= 0",
               "system calls per acquire and release");
}

/* ---- the command ---- */

static void open_ready(void)
{
    pool = open_pool("pool_max_size=1 pool_initial_size=1 pool_acquire_timeout=1min", NULL);
    for (double end = now_s() + 10; stats(pool).idle < 1; sleep_ms(1))
        must(now_s() < end, "there is no connection");
}

int main(int argc, char **argv)
{
    double seconds = 1, warm_up = 0.1;
    bool counting = argc == 2 && strcmp(argv[1], "count") == 0;
    for (int i = 1; i < argc && !counting; i += 2) {
        must(i + 1 < argc && (strcmp(argv[i], "--seconds") == 0 || strcmp(argv[i], "--warm-up") == 0),
             "usage: door [--seconds S] [--warm-up S] | door count");
        *(argv[i][2] == 's' ? &seconds : &warm_up) = atof(argv[i + 1]);
    }
    open_ready();
    for (double end = now_s() + warm_up; now_s() < end;)
        through_door(BLOCK);
    if (counting) {
        CALLGRIND_START_INSTRUMENTATION;
        through_door(OPERATIONS);
        CALLGRIND_STOP_INSTRUMENTATION;
    } else {
        tell_times(seconds);
        tell_allocations();
        tell_system_calls();
    }
    must(stats(pool).connects == 1 && stats(pool).enqueues == 0,
         "somebody had to wait, or a connection was lost");
    close_pool(pool);
    return 0;
}
