#include "ticket.h"

#include "run.h"

/* The word on the run's parker when all is over. */
enum { WORD_OVER = 100 };

/* What a handle stands for: pqpool_ticket is only the type of handles (promise.h). */
typedef struct ticket {
    pqp_run run; /* first: whose run it is can be told by its address */
    pqp_promise promise;
    pqp_parcel parcel; /* with a callback: its way to the caller's event loop */
    pqp_ticket_kind kind;
    int n;
    pqpool_stmt stmt; /* one statement: here and in the call's room is what was handed in ... */
    PGresult *result; /* ... and here is its answer */
    pqpool_error
        *group; /* more, or a callback for a group: n errors; behind them n statements and n results */
} ticket;

_Static_assert(sizeof(ticket) <= PQP_TICKET_SIZE, "a ticket fits into the depot's objects");

static pqpool_stmt *stmts_of(ticket *t)
{
    return t->group ? (pqpool_stmt *)(void *)(t->group + t->n) : &t->stmt;
}

static PGresult **results_of(ticket *t)
{
    return t->group ? (PGresult **)(void *)(stmts_of(t) + t->n) : &t->result;
}

/* ---- copying ---- */

/* Where the next piece goes; without memory it only counts. */
typedef struct packer {
    char *at;
    size_t size;
} packer;

static void *pack(packer *p, const void *bytes, size_t n)
{
    enum { ALIGN = _Alignof(max_align_t) };
    char *to = p->at ? p->at + p->size : NULL;
    if (to && n > 0)
        memcpy(to, bytes, n);
    p->size += (n + ALIGN - 1) / ALIGN * ALIGN;
    return to;
}

static void *pack_array(packer *p, const void *array, size_t element, int n)
{
    return array && n > 0 ? pack(p, array, element * (size_t)n) : NULL;
}

static const char *pack_value(packer *p, const pqpool_stmt *s, int i)
{
    const char *value = s->param_values[i];
    if (!value)
        return NULL;
    bool binary = s->param_formats && s->param_formats[i] != 0;
    return pack(p, value, binary ? (size_t)s->param_lengths[i] : strlen(value) + 1);
}

/* A copy of a statement that has passed the checks. A text that the pool keeps anyway is not copied. */
static void pack_stmt(packer *p, const pqp_stmt *m, pqpool_stmt *copy)
{
    const pqpool_stmt *s = m->request;
    int n = s->n_params;
    const char **values = pack_array(p, s->param_values, sizeof *values, n);
    if (p->at) {
        *copy = *s;
        copy->size = sizeof *copy;
    }
    const char *sql = m->plan ? m->plan->sql : pack(p, s->sql, strlen(s->sql) + 1);
    const Oid *types = pack_array(p, s->param_types, sizeof *types, n);
    const int *lengths = pack_array(p, s->param_lengths, sizeof *lengths, n);
    const int *formats = pack_array(p, s->param_formats, sizeof *formats, n);
    for (int i = 0; i < n; i++) {
        const char *value = pack_value(p, s, i);
        if (values)
            values[i] = value;
    }
    if (!p->at)
        return;
    copy->sql = sql;
    copy->param_types = types;
    copy->param_lengths = lengths;
    copy->param_formats = formats;
    copy->param_values = values;
}

/* The run reads what the caller handed in until it is over: from here on, our copies. */
static bool copy_stmts(ticket *t)
{
    pqp_run *r = &t->run;
    pqpool_stmt *stmts = stmts_of(t);
    packer p = {0};
    for (int pass = 0; pass < 2; pass++) {
        for (const pqp_stmt *m = r->call.members; m; m = m->sibling)
            pack_stmt(&p, m, &stmts[m->index]);
        if (pass == 0 && !(p.at = pqp_call_room(&r->call, p.size)))
            return false;
        p.size = 0;
    }
    for (pqp_stmt *m = r->call.members; m; m = m->sibling)
        m->request = &stmts[m->index];
    r->stmts = stmts;
    r->stride = sizeof *stmts;
    return true;
}

/* ---- life ---- */

static ticket *ticket_of(const pqp_claim *c)
{
    return (ticket *)(void *)((char *)c->promise - offsetof(ticket, promise));
}

static ticket *ticket_new(pqpool *p, int n, pqp_ticket_kind kind)
{
    enum { EACH = sizeof(pqpool_error) + sizeof(pqpool_stmt) + sizeof(PGresult *) };
    ticket *t = pqp_depot_take(&p->tickets);
    if (!t)
        return NULL;
    t->run.pool = t->promise.pool = p;
    t->kind = kind;
    t->n = n;
    t->result = NULL;
    t->group = NULL;
    if (kind.group && n > 0 && !(t->group = calloc((size_t)n, EACH))) {
        pqp_depot_put(&p->tickets, t);
        return NULL;
    }
    return t;
}

/* Without its run; its handle is stale. */
static void strip(ticket *t)
{
    pqp_promise_free(&t->promise);
    free(t->group);
    pqp_call_trim(&t->run.call);
}

/* The last use of the pool by it. */
static void retire(ticket *t)
{
    pqpool *p = t->run.pool;
    strip(t);
    if (t->n > 0)
        pqp_run_free(&t->run);
    else
        pqp_depot_put(&p->tickets, t);
}

/* It has been given up: its answers are for nothing. */
static void drop(ticket *t)
{
    for (int i = 0; i < t->n; i++)
        PQclear(results_of(t)[i]);
    retire(t);
}

/* It was promised, and is kept now. */
static void keep(ticket *t)
{
    pqpool *p = t->run.pool;
    retire(t);
    pqp_sub(&p->promised, 1);
}

/* In the caller's event loop. */
static bool call_back(pqp_parcel *parcel)
{
    ticket *t = (ticket *)(void *)((char *)parcel - offsetof(ticket, parcel));
    pqp_promise_state state = pqp_promise_begin(&t->promise);
    if (state == PQP_PROMISE_GONE)
        drop(t);
    if (state != PQP_PROMISE_BUSY)
        return false;
    pqpool_error err;
    if (t->kind.one) {
        pqp_run_tell(&t->run, &err);
        t->kind.one(t->result, &err, t->kind.arg);
    } else {
        t->kind.group(t->n > 0 ? results_of(t) : NULL, t->group, t->n, t->kind.arg);
    }
    keep(t);
    return true;
}

static void deliver(ticket *t)
{
    t->parcel.open = call_back;
    pqp_delivery_put(&t->run.pool->delivery, &t->parcel);
}

static void on_finished(pqp_run *r)
{
    ticket *t = (ticket *)r;
    switch (pqp_promise_come(&t->promise)) {
    case PQP_PROMISE_GONE:
        drop(t);
        break;
    case PQP_PROMISE_OVER:
        if (t->kind.one || t->kind.group)
            deliver(t);
        else
            pqp_parker_post(&r->call.parker, WORD_OVER);
        break;
    default: /* its owner is just giving it up, and frees it */
        break;
    }
}

/* ---- for the caller ---- */

static bool start(ticket *t, const pqpool_stmt *stmts, pqpool_group_mode mode, pqpool_error *err)
{
    pqp_run *r = &t->run;
    pqpool *p = r->pool;
    if (pqp_run_init(r, p, &p->tickets, stmts, t->n, mode, results_of(t), t->group, on_finished, err) !=
        PQPOOL_OK) {
        strip(t);
        pqp_depot_put(&p->tickets, t);
        return false;
    }
    if (!copy_stmts(t))
        pqp_no_memory(err);
    else if (pqp_run_start(r, err) == PQPOOL_OK)
        return true;
    strip(t);
    pqp_run_free(r);
    return false;
}

pqpool_ticket *pqp_ticket_submit(pqpool *p, const pqpool_stmt *stmts, int n, pqpool_group_mode mode,
                                 pqp_ticket_kind kind, pqpool_error *err)
{
    ticket *t = ticket_new(p, n, kind);
    if (!t) {
        pqp_no_memory(err);
        return NULL;
    }
    pqp_add(&p->promised, 1);
    pqpool_ticket *handle =
        pqp_promise_make(&t->promise, kind.one || kind.group ? PQP_PROMISE_CALLBACK : PQP_PROMISE_ANSWER);
    if (n == 0) {
        if (pqp_promise_come(&t->promise) == PQP_PROMISE_OVER)
            deliver(t);
    } else if (!start(t, stmts, mode, err)) {
        pqp_sub(&p->promised, 1);
        return NULL;
    }
    return handle;
}

bool pqp_ticket_done(const pqp_claim *c)
{
    if (pqp_promise_state_of(c) != PQP_PROMISE_OVER)
        return false;
    return c->kind != PQP_PROMISE_ANSWER || pqp_load(&ticket_of(c)->run.call.parker.word) == WORD_OVER;
}

static PGresult *refuse_wait(const pqp_claim *c, pqpool_error *err)
{
    if (pqp_promise_awaited(c))
        pqp_fail(err, PQPOOL_EBUSY, PQPOOL_UNKNOWN, "another thread waits for this ticket");
    else
        pqp_fail(err, PQPOOL_EINVAL, PQPOOL_UNKNOWN,
                 c->kind == PQP_PROMISE_ANSWER ? "the ticket has been waited for, or abandoned, already"
                                               : "what has a callback can't be waited for");
    return NULL;
}

PGresult *pqp_ticket_wait(const pqp_claim *c, pqp_time deadline, pqpool_error *err)
{
    if (c->kind != PQP_PROMISE_ANSWER || !pqp_promise_await(c))
        return refuse_wait(c, err);
    ticket *t = ticket_of(c);
    pqp_call *call = &t->run.call;
    pqp_lane *lane = pqp_load(&call->lane);
    if (lane && !pqp_ticket_done(c))
        pqp_call_attend(call, lane, deadline);
    if (pqp_parker_wait(&call->parker, deadline) != WORD_OVER) {
        pqp_promise_unawait(c);
        pqp_fail(err, PQPOOL_EPENDING, PQPOOL_UNKNOWN,
                 "the statement has not ended yet; the ticket can be waited for again");
        return NULL;
    }
    PGresult *result = t->result;
    if (err)
        pqp_run_tell(&t->run, err);
    keep(t);
    return result;
}

/* It is ours alone from here on, or for whoever ends it to free. */
static void give_up(const pqp_claim *c, ticket *t)
{
    pqp_sub(&t->run.pool->promised, 1);
    if (!pqp_promise_move(c, PQP_PROMISE_TAKEN, PQP_PROMISE_GONE))
        drop(t);
}

pqpool_code pqp_ticket_abandon(const pqp_claim *c)
{
    ticket *t = ticket_of(c);
    if (pqp_promise_awaited(c))
        return PQPOOL_EBUSY;
    for (;;) {
        if (pqp_promise_move(c, PQP_PROMISE_LIVE, PQP_PROMISE_TAKEN)) {
            pqp_run_withdraw(&t->run);
            give_up(c, t);
            return PQPOOL_OK;
        }
        if (pqp_promise_move(c, PQP_PROMISE_OVER, PQP_PROMISE_TAKEN)) {
            if (c->kind == PQP_PROMISE_CALLBACK) { /* its parcel is dropped when its turn comes */
                give_up(c, t);
                return PQPOOL_OK;
            }
            (void)pqp_parker_wait(&t->run.call.parker, PQP_NEVER); /* the word is on its way */
            pqp_sub(&t->run.pool->promised, 1);
            drop(t);
            return PQPOOL_OK;
        }
        if (pqp_promise_state_of(c) != PQP_PROMISE_LIVE)
            return c->kind == PQP_PROMISE_ANSWER ? PQPOOL_EINVAL : PQPOOL_EBUSY;
    }
}
