#include "cancel.h"

/* After a request that got no answer, others are not sent for this long. */
#define SILENT_TIME (10 * PQP_SECOND)

static _Atomic int64_t silent_until;

typedef struct request {
    PGcancel *cancel;
    bool taken;
} request;

static void *ask(void *arg)
{
    request *r = arg;
    char why[256];
    int state;
    pthread_setname_np(pthread_self(), "pqpool-cancel");
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state);
    int taken = PQcancel(r->cancel, why, sizeof why);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    r->taken = taken == 1;
    return NULL;
}

static bool wait_for(pthread_t thread, pqp_time deadline)
{
    struct timespec at = {.tv_sec = (time_t)(deadline / PQP_SECOND),
                          .tv_nsec = (long)(deadline % PQP_SECOND)};
    return pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &at) == 0;
}

bool pqp_cancel_request(PGcancel *cancel, pqp_time deadline)
{
    request r = {.cancel = cancel};
    pthread_t thread;
    if (!cancel || pqp_now() < pqp_load(&silent_until) || pthread_create(&thread, NULL, ask, &r) != 0)
        return false;
    if (!wait_for(thread, deadline)) {
        pthread_cancel(thread);
        pthread_join(thread, NULL);
        if (!r.taken)
            pqp_store(&silent_until, pqp_now() + SILENT_TIME);
    }
    return r.taken;
}
