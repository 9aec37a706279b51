/*
 * late: callers who wait in vain, and how late they were told so. Beside each of them a thread sleeps until the same
 * instant: what a busy machine does to that one is nobody's fault.
 */
#ifndef SUPPORT_LATE_H
#define SUPPORT_LATE_H

#include "pg.h"

enum { LATE_MS = 20 };
enum { VAIN_ANY = -1 }; /* in place of an outcome */

/* Who waits, how long, for a lease or for a statement's answer; then what he was told. */
typedef struct vain {
    pqpool *pool;
    bool statement;
    int timeout_ms;
    pqpool_error err;
    double late_ms;      /* beyond his deadline; negative: before it */
    double slept_ms;     /* how late the one who only slept was */
    double began, ended; /* s */
    pthread_barrier_t start;
} vain;

__attribute__((unused)) static void *vain_sleep(void *arg)
{
    vain *v = arg;
    pthread_barrier_wait(&v->start);
    double until = now_s() + v->timeout_ms / 1000.0;
    struct timespec at = {.tv_sec = (time_t)until, .tv_nsec = (long)((until - (double)(time_t)until) * 1e9)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
        ;
    v->slept_ms = (now_s() - until) * 1000;
    return NULL;
}

__attribute__((unused)) static void vain_wait(int i, void *arg)
{
    vain *v = &((vain *)arg)[i];
    pthread_t sleeper;
    pthread_barrier_init(&v->start, NULL, 2);
    if (pthread_create(&sleeper, NULL, vain_sleep, v) != 0)
        bail("pthread_create");
    pthread_barrier_wait(&v->start);
    v->began = now_s();
    if (v->statement) {
        pqpool_stmt s = {PQPOOL_STMT, .sql = "select 1", .timeout_ms = v->timeout_ms};
        PQclear(pqpool_exec_stmt(v->pool, &s, &v->err));
    } else {
        pqpool_lease lease;
        if (pqpool_acquire_within(v->pool, v->timeout_ms, &lease, &v->err) == PQPOOL_OK)
            pqpool_release(&lease);
    }
    v->ended = now_s();
    v->late_ms = (v->ended - v->began) * 1000 - v->timeout_ms;
    pthread_join(sleeper, NULL);
    pthread_barrier_destroy(&v->start);
}

/* That all of them were told when they should be: nobody before his deadline, and nobody much later. */
__attribute__((unused)) static void vain_judge(const vain *v, int n, const char *what)
{
    double worst = 0, machine = 0;
    int early = 0;
    for (int i = 0; i < n; i++) {
        early += v[i].late_ms < 0;
        worst = v[i].late_ms > worst ? v[i].late_ms : worst;
        machine = v[i].slept_ms > machine ? v[i].slept_ms : machine;
    }
    is_int(early, 0, "A4: %s: nobody is sent away before his deadline", what);
    ok(worst - machine <= LATE_MS * tap_slowness(),
       "A4: %s: %d callers are told by their deadlines (%.1f ms late, where a sleeper was %.1f)", what, n,
       worst, machine);
}

/* How many were told this; what others were told is shown. */
__attribute__((unused)) static int vain_told(const vain *v, int n, pqpool_code code, pqpool_code or_code,
                                             int outcome)
{
    int count = 0;
    for (int i = 0; i < n; i++) {
        bool so = (v[i].err.code == (int)code || v[i].err.code == (int)or_code) &&
                  (outcome == VAIN_ANY || v[i].err.outcome == outcome);
        if (!so)
            diag("%s was told %s, outcome %d: %s", v[i].statement ? "a statement" : "a lease",
                 pqpool_code_name((pqpool_code)v[i].err.code), v[i].err.outcome, v[i].err.message);
        count += so;
    }
    return count;
}

#endif
