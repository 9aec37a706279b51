#include "request.h"

#include "admission.h"
#include "lease.h"

typedef struct request {
    pqp_parcel parcel;
    pqp_promise promise;
    pqp_waiter waiter;
    pqp_turn turn;
    pqpool_lease_callback callback;
    void *arg;
    pqpool_error error;
} request;

_Static_assert(sizeof(request) <= PQP_REQUEST_SIZE, "a request fits into the depot's objects");

static void retire(request *q)
{
    pqp_promise_free(&q->promise);
    pqp_depot_put(&q->promise.pool->requests, q);
}

/* It has been given up: a lease that it was granted meanwhile goes back. */
static void return_lease(request *q)
{
    if (q->waiter.word == PQP_WORD_GRANTED)
        pqp_lease_return_unused(q->promise.pool, q->waiter.grant);
    q->waiter.word = PQP_WORD_FAILED;
}

static void drop(request *q)
{
    return_lease(q);
    retire(q);
}

/* Served or refused: the rest is done in the caller's event loop. */
static void on_told(pqp_waiter *w)
{
    request *q = (request *)(void *)((char *)w - offsetof(request, waiter));
    pqp_promise_state state = pqp_promise_come(&q->promise);
    if (state == PQP_PROMISE_OVER)
        pqp_delivery_put(&q->promise.pool->delivery, &q->parcel);
    else if (state == PQP_PROMISE_GONE)
        drop(q);
}

static void end(request *q, pqpool_lease *lease)
{
    pqpool *p = q->promise.pool;
    q->callback(lease, &q->error, q->arg);
    retire(q);
    pqp_sub(&p->promised, 1);
}

/* In the caller's event loop: the lease begins in its thread. A broken one is replaced, the place in the queue kept. */
static bool open(pqp_parcel *parcel)
{
    request *q = (request *)parcel;
    pqpool *p = q->promise.pool;
    pqp_promise_state state = pqp_promise_begin(&q->promise);
    if (state == PQP_PROMISE_GONE)
        drop(q);
    if (state != PQP_PROMISE_BUSY)
        return false;
    if (q->waiter.word != PQP_WORD_GRANTED) {
        end(q, NULL);
        return true;
    }
    pqpool_lease lease;
    const char *flaw = pqp_lease_begin(p, q->waiter.grant, q->waiter.deadline, &lease);
    if (!flaw) {
        pqp_error_clear(&q->error);
        end(q, &lease);
        return true;
    }
    if (pqp_now() >= q->waiter.deadline) {
        (void)pqp_lease_refuse_late(&q->error, flaw);
        end(q, NULL);
        return true;
    }
    q->turn.stood = true;
    pqp_promise_again(&q->promise);
    pqpool_code code = pqp_admission_enter(p, &q->waiter, &q->turn, &q->error);
    if (code == PQPOOL_OK)
        return false;
    q->waiter.word = PQP_WORD_FAILED; /* it may have been given up just now */
    state = pqp_promise_come(&q->promise);
    if (state == PQP_PROMISE_OVER)
        state = pqp_promise_begin(&q->promise);
    if (state == PQP_PROMISE_GONE)
        drop(q);
    if (state == PQP_PROMISE_BUSY)
        end(q, NULL);
    return state == PQP_PROMISE_BUSY;
}

pqpool_code pqp_request_abandon(const pqp_claim *c)
{
    request *q = (request *)(void *)((char *)c->promise - offsetof(request, promise));
    pqpool *p = c->promise->pool;
    for (;;) {
        bool over = pqp_promise_move(c, PQP_PROMISE_OVER, PQP_PROMISE_TAKEN);
        if (over || pqp_promise_move(c, PQP_PROMISE_LIVE, PQP_PROMISE_TAKEN)) {
            /* In the queue it is told by nothing any more; if it was taken out of it, its word comes, or has. */
            bool waits = !over && pqp_admission_leave(p, &q->waiter, PQPOOL_ECANCELED);
            if (over)
                return_lease(q);
            pqp_sub(&p->promised, 1);
            if (waits)
                retire(q);
            else if (!pqp_promise_move(c, PQP_PROMISE_TAKEN, PQP_PROMISE_GONE))
                drop(q);
            return PQPOOL_OK;
        }
        if (pqp_promise_state_of(c) != PQP_PROMISE_LIVE)
            return PQPOOL_EBUSY;
    }
}

pqpool_ticket *pqp_request_lease(pqpool *p, const pqp_site *site, pqp_time deadline,
                                 pqpool_lease_callback callback, void *arg, pqpool_error *err)
{
    request *q = pqp_depot_take(&p->requests);
    if (!q) {
        pqp_no_memory(err);
        return NULL;
    }
    q->parcel.open = open;
    q->promise.pool = p;
    q->callback = callback;
    q->arg = arg;
    q->turn = (pqp_turn){0};
    q->waiter = (pqp_waiter){
        .want = PQP_WANT_LEASE, .told = on_told, .site = *site, .deadline = deadline, .err = &q->error};
    pqpool_ticket *handle = pqp_promise_make(&q->promise, PQP_PROMISE_LEASE);
    pqp_add(&p->promised, 1);
    if (pqp_admission_enter(p, &q->waiter, &q->turn, &q->error) == PQPOOL_OK)
        return handle;
    if (err)
        *err = q->error;
    retire(q);
    pqp_sub(&p->promised, 1);
    return NULL;
}
