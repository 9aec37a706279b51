#include "request.h"

#include "admission.h"
#include "lease.h"

typedef struct request {
    pqp_parcel parcel;
    pqp_waiter waiter;
    pqpool *pool;
    pqp_turn turn;
    pqpool_lease_callback callback;
    void *arg;
    pqpool_error error;
} request;

/* Served or refused: the rest is done in the caller's event loop. */
static void on_told(pqp_waiter *w)
{
    request *q = (request *)(void *)((char *)w - offsetof(request, waiter));
    pqp_delivery_put(&q->pool->delivery, &q->parcel);
}

static void end(request *q, pqpool_lease *lease)
{
    pqpool *p = q->pool;
    q->callback(lease, &q->error, q->arg);
    free(q);
    pqp_sub(&p->promised, 1);
}

/* In the caller's event loop: the lease begins in his thread. A broken one is replaced, the place in the queue kept. */
static void open(pqp_parcel *parcel)
{
    request *q = (request *)parcel;
    if (q->waiter.word != PQP_WORD_GRANTED) {
        end(q, NULL);
        return;
    }
    pqpool_lease lease;
    const char *flaw = pqp_lease_begin(q->pool, q->waiter.grant, q->waiter.deadline, &lease);
    if (!flaw) {
        pqp_error_clear(&q->error);
        end(q, &lease);
    } else if (pqp_now() >= q->waiter.deadline) {
        (void)pqp_lease_refuse_late(&q->error, flaw);
        end(q, NULL);
    } else if (pqp_admission_enter(q->pool, &q->waiter, &q->turn, &q->error) != PQPOOL_OK) {
        end(q, NULL);
    }
}

pqpool_code pqp_request_lease(pqpool *p, const pqp_site *site, pqp_time deadline,
                              pqpool_lease_callback callback, void *arg, pqpool_error *err)
{
    request *q = calloc(1, sizeof *q);
    if (!q)
        return pqp_no_memory(err);
    q->parcel.open = open;
    q->pool = p;
    q->callback = callback;
    q->arg = arg;
    q->waiter.want = PQP_WANT_LEASE;
    q->waiter.told = on_told;
    q->waiter.site = *site;
    q->waiter.deadline = deadline;
    q->waiter.err = &q->error;
    pqp_add(&p->promised, 1);
    pqpool_code code = pqp_admission_enter(p, &q->waiter, &q->turn, &q->error);
    if (code == PQPOOL_OK)
        return code;
    if (err)
        *err = q->error;
    free(q);
    pqp_sub(&p->promised, 1);
    return code;
}
