#include "ticket.h"

#include "run.h"

/* The word on the run's parker when all is over. */
enum { WORD_OVER = 100 };

/* Who frees it: the owner comes back for it, or he has left. */
enum { LIVE, OVER, ABANDONED };

struct pqpool_ticket {
    pqp_parcel parcel; /* with a callback: its way to the caller's event loop */
    pqpool *pool;
    pqp_run *run;
    pqp_ticket_kind kind;
    _Atomic int state;
    _Atomic int awaited; /* a thread waits for it */
    int n;
    pqpool_stmt *stmts;   /* n, all they point to is in `copies` */
    PGresult **results;   /* n */
    pqpool_error *errors; /* n */
    char *copies;
};

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

/* A copy of a statement that has passed the checks. */
static void pack_stmt(packer *p, const pqpool_stmt *s, pqpool_stmt *copy)
{
    int n = s->n_params;
    const char **values = pack_array(p, s->param_values, sizeof *values, n);
    memcpy(copy, s, sizeof *copy);
    copy->size = sizeof *copy;
    copy->sql = pack(p, s->sql, strlen(s->sql) + 1);
    copy->param_types = pack_array(p, s->param_types, sizeof *s->param_types, n);
    copy->param_lengths = pack_array(p, s->param_lengths, sizeof *s->param_lengths, n);
    copy->param_formats = pack_array(p, s->param_formats, sizeof *s->param_formats, n);
    copy->param_values = values;
    for (int i = 0; i < n; i++) {
        const char *value = pack_value(p, s, i);
        if (values)
            values[i] = value;
    }
}

/* The run reads what the caller handed in until it is over: from here on, our copies. */
static bool copy_stmts(pqpool_ticket *t)
{
    pqp_run *r = t->run;
    packer p = {0};
    for (int pass = 0; pass < 2; pass++) {
        for (const pqp_stmt *m = r->call.members; m; m = m->sibling)
            pack_stmt(&p, m->request, &t->stmts[m->index]);
        if (pass == 0 && !(p.at = malloc(p.size)))
            return false;
        p.size = 0;
    }
    t->copies = p.at;
    for (pqp_stmt *m = r->call.members; m; m = m->sibling)
        m->request = &t->stmts[m->index];
    r->stmts = t->stmts;
    r->stride = sizeof *t->stmts;
    return true;
}

/* ---- life ---- */

static pqpool_ticket *ticket_new(pqpool *p, int n, pqp_ticket_kind kind)
{
    pqpool_ticket *t = calloc(1, sizeof *t);
    size_t each = sizeof *t->errors + sizeof *t->stmts + sizeof *t->results;
    if (!t || (n > 0 && !(t->errors = calloc((size_t)n, each)))) {
        free(t);
        return NULL;
    }
    if (n > 0) {
        t->stmts = (pqpool_stmt *)(void *)(t->errors + n);
        t->results = (PGresult **)(void *)(t->stmts + n);
    }
    t->pool = p;
    t->kind = kind;
    t->n = n;
    return t;
}

static void ticket_free(pqpool_ticket *t)
{
    free(t->copies);
    free(t->errors);
    free(t);
}

/* It was promised, and is kept now. The last use of the pool by it. */
static void retire(pqpool_ticket *t)
{
    pqpool *p = t->pool;
    if (t->run)
        pqp_run_free(t->run);
    ticket_free(t);
    pqp_sub(&p->promised, 1);
}

static void drop_results(pqpool_ticket *t)
{
    for (int i = 0; i < t->n; i++)
        PQclear(t->results[i]);
}

/* In the caller's event loop. */
static void call_back(pqp_parcel *parcel)
{
    pqpool_ticket *t = (pqpool_ticket *)parcel;
    if (t->kind.one)
        t->kind.one(t->results[0], &t->errors[0], t->kind.arg);
    else
        t->kind.group(t->results, t->errors, t->n, t->kind.arg);
    retire(t);
}

static void deliver(pqpool_ticket *t)
{
    for (int i = 0; i < t->n && t->kind.one; i++)
        t->errors[i].row = -1; /* it is no group */
    t->parcel.open = call_back;
    pqp_delivery_put(&t->pool->delivery, &t->parcel);
}

static void on_finished(pqp_run *r)
{
    pqpool_ticket *t = r->owner;
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
    t->run = pqp_run_new(t->pool, stmts, t->n, mode, t->results, t->errors, err);
    if (!t->run)
        return false;
    t->run->finished = on_finished;
    t->run->owner = t;
    if (!copy_stmts(t))
        pqp_no_memory(err);
    else if (pqp_run_start(t->run, err) == PQPOOL_OK)
        return true;
    pqp_run_free(t->run);
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
        ticket_free(t);
        pqp_sub(&p->promised, 1);
        return NULL;
    }
    return t;
}

pqpool *pqp_ticket_pool(const pqpool_ticket *t)
{
    return t->pool;
}

bool pqp_ticket_done(const pqpool_ticket *t)
{
    return pqp_load(&t->run->call.parker.word) == WORD_OVER;
}

PGresult *pqp_ticket_wait(pqpool_ticket *t, pqp_time deadline, pqpool_error *err)
{
    if (pqp_swap(&t->awaited, 1)) {
        pqp_fail(err, PQPOOL_EBUSY, PQPOOL_UNKNOWN, "another thread waits for this ticket");
        return NULL;
    }
    if (pqp_parker_wait(&t->run->call.parker, deadline) != WORD_OVER) {
        pqp_store(&t->awaited, 0);
        pqp_fail(err, PQPOOL_EPENDING, PQPOOL_UNKNOWN,
                 "the statement has not ended yet; the ticket can be waited for again");
        return NULL;
    }
    PGresult *result = t->results[0];
    if (err) {
        *err = t->errors[0];
        err->row = -1;
    }
    retire(t);
    return result;
}

void pqp_ticket_abandon(pqpool_ticket *t)
{
    int live = LIVE;
    pqp_run_withdraw(t->run);
    if (pqp_cas(&t->state, &live, ABANDONED))
        return;
    (void)pqp_parker_wait(&t->run->call.parker, PQP_NEVER); /* over already; the word is on its way */
    drop_results(t);
    retire(t);
}
