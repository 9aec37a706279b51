#include "inspect.h"

#include "holder.h"

/* ---- one block for it all ---- */

typedef struct block {
    char *at;
} block;

static size_t rounded(size_t size)
{
    const size_t step = _Alignof(max_align_t);
    return (size + step - 1) / step * step;
}

static size_t size_of_list(int n, size_t item)
{
    return rounded((size_t)(n + 1) * sizeof(void *)) + (size_t)n * rounded(item);
}

static bool block_new(block *b, size_t size)
{
    b->at = calloc(1, size);
    return b->at != NULL;
}

static void *block_take(block *b, size_t size)
{
    void *item = b->at;
    b->at += rounded(size);
    return item;
}

/* ---- connections ---- */

static const char *word_of(pqp_slot_state state)
{
    static const char *const words[] = {
        [PQP_SLOT_CONNECTING] = "connecting", [PQP_SLOT_RESETTING] = "resetting", [PQP_SLOT_IDLE] = "idle",
        [PQP_SLOT_LEASED] = "leased",         [PQP_SLOT_PROBING] = "probing",     [PQP_SLOT_LANE] = "shared",
        [PQP_SLOT_DRAINING] = "draining",     [PQP_SLOT_CLOSING] = "closing"};
    return words[state];
}

static void describe_connection(const pqp_slot *s, pqp_time now, pqpool_connection_info *c)
{
    bool lane = s->state == PQP_SLOT_LANE || s->state == PQP_SLOT_DRAINING,
         up = s->state != PQP_SLOT_CONNECTING;
    c->size = sizeof *c;
    c->state = word_of(s->state);
    c->state_us = (now - s->since) / 1000;
    if (!up)
        return;
    c->connection = s->id;
    c->backend_pid = s->backend_pid;
    c->age_us = (now - s->made_at) / 1000;
    c->uses = s->uses;
    if (!lane)
        return;
    c->alone = s->alone;
    c->in_flight = pqp_load(&s->lane->load);
    c->head_us = pqp_lane_head(s->lane, now, c->sql, sizeof c->sql) / 1000;
}

static const pqpool_holder *take_holder(block *b, const pqp_slot *s, pqp_time now)
{
    pqpool_holder *h = block_take(b, sizeof *h);
    pqp_holder_describe_locked(s, now, h);
    return h;
}

static void put_connections(pqpool *p, block *b, pqp_time now, pqpool_inspection *all)
{
    int n = 0;
    const pqpool_connection_info **list =
        block_take(b, (size_t)(pqp_slots_total(&p->slots) + 1) * sizeof(void *));
    for (int i = 0; i < p->slots.count; i++) {
        const pqp_slot *s = p->slots.all[i];
        if (s->state == PQP_SLOT_EMPTY)
            continue;
        pqpool_connection_info *c = block_take(b, sizeof *c);
        describe_connection(s, now, c);
        if (s->state == PQP_SLOT_LEASED)
            c->holder = take_holder(b, s, now);
        list[n++] = c;
    }
    all->connections = list;
    all->n_connections = n;
}

/* ---- waiters ---- */

static void describe_waiter(const pqp_waiter *w, pqp_time now, pqpool_waiter_info *out)
{
    static const char *const wants[] = {[PQP_WANT_LEASE] = "lease",
                                        [PQP_WANT_ALONE] = "connection for one statement",
                                        [PQP_WANT_SHARE] = "shared connection"};
    *out =
        (pqpool_waiter_info){.size = sizeof *out,
                             .wants = wants[w->want],
                             .waited_us = PQP_MAX(0, now - w->since) / 1000,
                             .left_us = w->deadline == PQP_NEVER ? -1 : PQP_MAX(0, w->deadline - now) / 1000,
                             .file = w->site.file,
                             .line = w->site.line,
                             .thread = w->site.thread};
}

/* The two lists in the one order of their tickets. */
static void put_waiters(pqpool *p, block *b, pqp_time now, pqpool_inspection *all)
{
    const pqp_waiter *owner = p->queue.owners.head, *sharer = p->queue.sharers.head;
    int n = 0;
    const pqpool_waiter_info **list =
        block_take(b, (size_t)(p->queue.owners.count + p->queue.sharers.count + 1) * sizeof(void *));
    while (owner || sharer) {
        const pqp_waiter **first = !sharer || (owner && owner->ticket < sharer->ticket) ? &owner : &sharer;
        pqpool_waiter_info *w = block_take(b, sizeof *w);
        describe_waiter(*first, now, w);
        list[n++] = w;
        *first = (*first)->link.next;
    }
    all->waiters = list;
    all->n_waiters = n;
}

/* ---- options ---- */

static int count_options(void)
{
    int n = 0;
    while (pqp_options_row(n))
        n++;
    return n;
}

static void put_options(const pqpool *p, block *b, pqpool_inspection *all)
{
    int n = count_options();
    const pqpool_option_info **list = block_take(b, (size_t)(n + 1) * sizeof(void *));
    for (int i = 0; i < n; i++) {
        const pqp_option_row *row = pqp_options_row(i);
        pqpool_option_info *o = block_take(b, sizeof *o);
        o->size = sizeof *o;
        o->name = row->name;
        o->help = row->help;
        o->changeable = row->changeable;
        o->given = pqp_options_given(&p->options, row->name);
        (void)!pqp_options_print(&p->options, row->name, o->value, sizeof o->value);
        list[i] = o;
    }
    all->options = list;
    all->n_options = n;
}

pqpool_inspection *pqp_inspect_pool(pqpool *p)
{
    block b;
    pqp_pool_lock(p);
    pqp_time now = pqp_now();
    int connections = pqp_slots_total(&p->slots), waiters = p->queue.owners.count + p->queue.sharers.count;
    pqpool_inspection *all = NULL;
    if (block_new(&b, rounded(sizeof *all) + rounded(strlen(p->name) + 1) +
                          size_of_list(connections, sizeof(pqpool_connection_info)) +
                          (size_t)pqp_fleet_in(p, PQP_SLOT_LEASED) * rounded(sizeof(pqpool_holder)) +
                          size_of_list(waiters, sizeof(pqpool_waiter_info)) +
                          size_of_list(count_options(), sizeof(pqpool_option_info)))) {
        all = block_take(&b, sizeof *all);
        all->size = sizeof *all;
        all->pool_name = strcpy(block_take(&b, strlen(p->name) + 1), p->name);
        put_connections(p, &b, now, all);
        put_waiters(p, &b, now, all);
        put_options(p, &b, all);
        pqp_fleet_stats_locked(p, &all->stats);
        all->stats.size = sizeof all->stats;
    }
    pqp_pool_unlock(p);
    return all;
}

pqpool_holder_list *pqp_inspect_holders(pqpool *p)
{
    block b;
    pqp_pool_lock(p);
    pqp_time now = pqp_now();
    int n = pqp_fleet_in(p, PQP_SLOT_LEASED);
    pqpool_holder_list *list = NULL;
    if (block_new(&b, rounded(sizeof *list) + size_of_list(n, sizeof(pqpool_holder)))) {
        list = block_take(&b, sizeof *list);
        list->size = sizeof *list;
        const pqpool_holder **holders = block_take(&b, (size_t)(n + 1) * sizeof(void *));
        int i = 0;
        for (const pqp_slot *s = p->slots.in[PQP_SLOT_LEASED].head; s; s = s->link.next)
            if (!s->ending)
                holders[i++] = take_holder(&b, s, now);
        list->n = i;
        list->holders = holders;
    }
    pqp_pool_unlock(p);
    return list;
}
