#include "ticket.h"

#include "run.h"

/* The word on the run's parker when all is over. */
enum { WORD_OVER = 100 };

/* Who frees it: the owner comes back for it, or he has left. */
enum { LIVE, OVER, ABANDONED };

struct pqpool_ticket {
    pqp_run run;       /* first: whose run it is can be told by its address */
    pqp_parcel parcel; /* with a callback: its way to the caller's event loop */
    pqp_ticket_kind kind;
    _Atomic int state;
    _Atomic int awaited; /* a thread waits for it */
    int n;
    pqpool_stmt stmt; /* one statement: here and in the call's room is what was handed in ... */
    PGresult *result; /* ... and here is its answer */
    pqpool_error
        *group; /* more, or a callback for a group: n errors; behind them n statements and n results */
};

_Static_assert(sizeof(pqpool_ticket) <= PQP_TICKET_SIZE, "a ticket fits into the depot's objects");

static pqpool_stmt *stmts_of(pqpool_ticket *t)
{
    return t->group ? (pqpool_stmt *)(void *)(t->group + t->n) : &t->stmt;
}

static PGresult **results_of(pqpool_ticket *t)
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
static bool copy_stmts(pqpool_ticket *t)
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

static pqpool_ticket *ticket_new(pqpool *p, int n, pqp_ticket_kind kind)
{
    enum { EACH = sizeof(pqpool_error) + sizeof(pqpool_stmt) + sizeof(PGresult *) };
    pqpool_ticket *t = pqp_depot_take(&p->tickets);
    if (!t)
        return NULL;
    t->run.pool = p;
    t->kind = kind;
    t->n = n;
    t->result = NULL;
    t->group = NULL;
    pqp_poke(&t->state, LIVE);
    pqp_poke(&t->awaited, 0);
    if (kind.group && n > 0 && !(t->group = calloc((size_t)n, EACH))) {
        pqp_depot_put(&p->tickets, t);
        return NULL;
    }
    return t;
}

/* Without its run. */
static void strip(pqpool_ticket *t)
{
    free(t->group);
    pqp_call_trim(&t->run.call);
}

/* It was promised, and is kept now. The last use of the pool by it. */
static void retire(pqpool_ticket *t)
{
    pqpool *p = t->run.pool;
    strip(t);
    if (t->n > 0)
        pqp_run_free(&t->run);
    else
        pqp_depot_put(&p->tickets, t);
    pqp_sub(&p->promised, 1);
}

static void drop_results(pqpool_ticket *t)
{
    for (int i = 0; i < t->n; i++)
        PQclear(results_of(t)[i]);
}

/* In the caller's event loop. */
static void call_back(pqp_parcel *parcel)
{
    pqpool_ticket *t = (pqpool_ticket *)(void *)((char *)parcel - offsetof(pqpool_ticket, parcel));
    pqpool_error err;
    if (t->kind.one) {
        pqp_run_tell(&t->run, &err);
        t->kind.one(t->result, &err, t->kind.arg);
    } else {
        t->kind.group(t->n > 0 ? results_of(t) : NULL, t->group, t->n, t->kind.arg);
    }
    retire(t);
}

static void deliver(pqpool_ticket *t)
{
    t->parcel.open = call_back;
    pqp_delivery_put(&t->run.pool->delivery, &t->parcel);
}

static void on_finished(pqp_run *r)
{
    pqpool_ticket *t = (pqpool_ticket *)r;
    int live = LIVE;
    if (t->kind.one || t->kind.group) {
        deliver(t);
    } else if (pqp_cas(&t->state, &live, OVER)) {
        pqp_parker_post(&r->call.parker, WORD_OVER);
    } else {
        drop_results(t);
        retire(t);
    }
}

/* ---- for the caller ---- */

static bool start(pqpool_ticket *t, const pqpool_stmt *stmts, pqpool_group_mode mode, pqpool_error *err)
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
    pqpool_ticket *t = ticket_new(p, n, kind);
    if (!t) {
        pqp_no_memory(err);
        return NULL;
    }
    pqp_add(&p->promised, 1);
    if (n == 0) {
        deliver(t);
    } else if (!start(t, stmts, mode, err)) {
        pqp_sub(&p->promised, 1);
        return NULL;
    }
    return t;
}

pqpool *pqp_ticket_pool(const pqpool_ticket *t)
{
    return t->run.pool;
}

bool pqp_ticket_done(const pqpool_ticket *t)
{
    return pqp_load(&t->run.call.parker.word) == WORD_OVER;
}

PGresult *pqp_ticket_wait(pqpool_ticket *t, pqp_time deadline, pqpool_error *err)
{
    if (pqp_swap(&t->awaited, 1)) {
        pqp_fail(err, PQPOOL_EBUSY, PQPOOL_UNKNOWN, "another thread waits for this ticket");
        return NULL;
    }
    pqp_call *call = &t->run.call;
    pqp_lane *lane = pqp_load(&call->lane);
    if (lane && !pqp_ticket_done(t))
        pqp_call_attend(call, lane, deadline);
    if (pqp_parker_wait(&call->parker, deadline) != WORD_OVER) {
        pqp_store(&t->awaited, 0);
        pqp_fail(err, PQPOOL_EPENDING, PQPOOL_UNKNOWN,
                 "the statement has not ended yet; the ticket can be waited for again");
        return NULL;
    }
    PGresult *result = t->result;
    if (err)
        pqp_run_tell(&t->run, err);
    retire(t);
    return result;
}

void pqp_ticket_abandon(pqpool_ticket *t)
{
    int live = LIVE;
    pqp_run_withdraw(&t->run);
    if (pqp_cas(&t->state, &live, ABANDONED))
        return;
    (void)pqp_parker_wait(&t->run.call.parker, PQP_NEVER); /* over already; the word is on its way */
    drop_results(t);
    retire(t);
}
