#include "cancel.h"

/* After a request that got no answer, others are not sent for this long. */
#define SILENT_TIME (10 * PQP_SECOND)

static _Atomic int64_t silent_until;

typedef struct request {
    PGcancel *cancel;
    pqp_mutex mu;
    pqp_cond changed;
    /* guarded by mu */
    bool ended, taken;
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
    pqp_mutex_lock(&r->mu);
    r->taken = taken == 1;
    r->ended = true;
    pqp_cond_signal(&r->changed);
    pqp_mutex_unlock(&r->mu);
    return NULL;
}

static bool run(request *r, pqp_time deadline)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, ask, r) != 0)
        return false;
    pqp_mutex_lock(&r->mu);
    while (!r->ended && pqp_now() < deadline)
        pqp_cond_wait(&r->changed, &r->mu, deadline);
    bool ended = r->ended;
    pqp_mutex_unlock(&r->mu);
    if (!ended)
        pthread_cancel(thread);
    pthread_join(thread, NULL);
    if (!r->ended)
        pqp_store(&silent_until, pqp_now() + SILENT_TIME);
    return r->taken;
}

bool pqp_cancel_request(PGcancel *cancel, pqp_time deadline)
{
    request r = {.cancel = cancel};
    bool taken = false;
    if (!cancel || pqp_now() < pqp_load(&silent_until) || pqp_mutex_init(&r.mu, PQP_RANK_PARKER) != 0)
        return false;
    if (pqp_cond_init(&r.changed) == 0) {
        taken = run(&r, deadline);
        pqp_cond_destroy(&r.changed);
    }
    pqp_mutex_destroy(&r.mu);
    return taken;
}
