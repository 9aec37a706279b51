#include "plan.h"

/* A text longer than this is not kept: it is hardly one that comes again word for word. */
enum { TEXT_MAX = 64 * 1024 };

#define END (-1)

int pqp_plans_init(pqp_plans *t, int limit)
{
    memset(t, 0, sizeof *t);
    int chains = 1;
    while (chains < limit)
        chains *= 2;
    t->limit = limit;
    t->mask = chains - 1;
    t->all = calloc((size_t)PQP_MAX(limit, 1), sizeof *t->all);
    t->chains = calloc((size_t)chains, sizeof *t->chains);
    int rc = t->all && t->chains ? pqp_mutex_init(&t->mu, PQP_RANK_PLAN) : ENOMEM;
    if (rc != 0) {
        free(t->all);
        free(t->chains);
        return rc;
    }
    for (int i = 0; i < chains; i++)
        atomic_init(&t->chains[i], END);
    for (int i = 0; i < limit; i++) {
        t->all[i].place = i;
        atomic_init(&t->all[i].pins, -1);
    }
    return 0;
}

void pqp_plans_fini(pqp_plans *t)
{
    for (int i = 0; i < t->count; i++) {
        assert(pqp_load(&t->all[i].pins) <= 0);
        free(t->all[i].sql);
        free(t->all[i].types);
    }
    free(t->all);
    free(t->chains);
    pqp_mutex_destroy(&t->mu);
}

/* ---- keys ---- */

static uint64_t mix(uint64_t h, uint64_t word)
{
    h = (h ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ h >> 29;
}

static uint64_t hash_bytes(uint64_t h, const void *bytes, size_t n)
{
    const char *p = bytes;
    uint64_t word;
    for (; n >= sizeof word; p += sizeof word, n -= sizeof word) {
        memcpy(&word, p, sizeof word);
        h = mix(h, word);
    }
    word = n;
    memcpy(&word, p, n);
    return mix(h, word + ((uint64_t)n << 56));
}

static bool all_zero(const Oid *types, int n)
{
    for (int i = 0; i < n; i++)
        if (types[i] != 0)
            return false;
    return true;
}

/* Types that are left out are the same as types that are 0. */
static const Oid *types_of(const pqpool_stmt *s)
{
    return s->param_types && !all_zero(s->param_types, s->n_params) ? s->param_types : NULL;
}

static uint64_t hash_of(const pqpool_stmt *s, size_t length)
{
    uint64_t h = hash_bytes((uint64_t)s->n_params, s->sql, length);
    const Oid *types = types_of(s);
    if (types && !PQP_PLANTED(PLAN_WITHOUT_TYPES))
        h = hash_bytes(h, types, (size_t)s->n_params * sizeof *types);
    return h;
}

static bool same_types(const Oid *a, const Oid *b, int n)
{
    if (!a || !b)
        return a == b;
    return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

static bool is_for(const pqp_plan *plan, const pqpool_stmt *s, size_t length)
{
    return plan->length == length && plan->n_params == s->n_params &&
           memcmp(plan->sql, s->sql, length) == 0 &&
           (PQP_PLANTED(PLAN_WITHOUT_TYPES) || same_types(plan->types, types_of(s), s->n_params));
}

/* ---- finding ---- */

static bool pin(pqp_plan *plan)
{
    int pins = pqp_load(&plan->pins);
    while (pins >= 0)
        if (pqp_cas(&plan->pins, &pins, pins + 1))
            return true;
    return false;
}

void pqp_plan_unpin(pqp_plan *plan)
{
    if (plan)
        pqp_sub(&plan->pins, 1);
}

static pqp_plan *look(pqp_plans *t, const pqpool_stmt *s, size_t length, uint64_t hash)
{
    int at = pqp_load(&t->chains[hash & (uint64_t)t->mask]);
    for (int steps = 0; at != END && steps < t->limit; steps++) {
        pqp_plan *plan = &t->all[at];
        if (pqp_load(&plan->hash) == hash && pin(plan)) {
            if (is_for(plan, s, length)) {
                if (!pqp_peek(&plan->used))
                    pqp_store(&plan->used, 1);
                return plan;
            }
            pqp_plan_unpin(plan);
        }
        at = pqp_load(&plan->next);
    }
    return NULL;
}

pqp_plan *pqp_plans_find(pqp_plans *t, const pqpool_stmt *s, size_t length)
{
    return t->limit > 0 ? look(t, s, length, hash_of(s, length)) : NULL;
}

/* ---- adding ---- */

static void unchain(pqp_plans *t, const pqp_plan *plan)
{
    _Atomic int *at = &t->chains[pqp_load(&plan->hash) & (uint64_t)t->mask];
    while (pqp_load(at) != plan->place)
        at = &t->all[pqp_load(at)].next;
    pqp_store(at, pqp_load(&plan->next));
}

/* An entry that nobody uses, taken out of circulation; NULL: all are pinned. Mutex held. */
static pqp_plan *take_entry(pqp_plans *t)
{
    if (t->count < t->limit)
        return &t->all[t->count++];
    for (int steps = 0; steps < 2 * t->limit; steps++) {
        pqp_plan *plan = &t->all[t->hand];
        t->hand = (t->hand + 1) % t->limit;
        int unpinned = 0;
        if (pqp_swap(&plan->used, 0) || !pqp_cas(&plan->pins, &unpinned, -1))
            continue;
        if (plan->id != 0)
            unchain(t, plan);
        free(plan->sql);
        free(plan->types);
        plan->id = 0;
        plan->sql = NULL;
        plan->types = NULL;
        return plan;
    }
    return NULL;
}

/* Gives the entry its key; false: no memory, and it stays free. */
static bool fill(pqp_plan *plan, const pqpool_stmt *s, size_t length)
{
    const Oid *types = types_of(s);
    size_t size = (size_t)s->n_params * sizeof *types;
    plan->sql = malloc(length + 1);
    plan->types = types ? malloc(size) : NULL;
    plan->length = length;
    plan->n_params = s->n_params;
    if (!plan->sql || (types && !plan->types)) {
        free(plan->sql);
        free(plan->types);
        plan->sql = NULL;
        plan->types = NULL;
        plan->length = SIZE_MAX; /* matches nothing */
        return false;
    }
    memcpy(plan->sql, s->sql, length + 1);
    if (types)
        memcpy(plan->types, types, size);
    return true;
}

static pqp_plan *add_locked(pqp_plans *t, const pqpool_stmt *s, size_t length, uint64_t hash)
{
    pqp_plan *plan = look(t, s, length, hash); /* another caller may have been quicker */
    if (plan || !(plan = take_entry(t)))
        return plan;
    if (!fill(plan, s, length)) {
        plan->id = 0;
        pqp_store(&plan->pins, 0); /* free, in no chain; the hand finds it again */
        return NULL;
    }
    _Atomic int *chain = &t->chains[hash & (uint64_t)t->mask];
    plan->id = ++t->ids;
    plan->text = (uint32_t)(hash ^ hash >> 32);
    pqp_store(&plan->hash, hash);
    pqp_store(&plan->cost, 0);
    for (size_t i = 0; i < PQP_VAINS; i++)
        pqp_store(&plan->vain[i].error, 0);
    pqp_store(&plan->used, 1);
    pqp_store(&plan->next, pqp_load(chain));
    pqp_store(&plan->pins, 1);
    pqp_store(chain, plan->place);
    return plan;
}

pqp_plan *pqp_plans_add(pqp_plans *t, const pqpool_stmt *s, size_t length)
{
    if (t->limit == 0 || length > TEXT_MAX)
        return NULL;
    uint64_t hash = hash_of(s, length);
    pqp_mutex_lock(&t->mu);
    pqp_plan *plan = add_locked(t, s, length, hash);
    pqp_mutex_unlock(&t->mu);
    return plan;
}

/* ---- errors ---- */

uint64_t pqp_plan_error(const pqp_plans *t, const char *sqlstate, const char *message)
{
    uint64_t h = hash_bytes(pqp_load(&((pqp_plans *)t)->ddl), sqlstate, strlen(sqlstate));
    return hash_bytes(h, message, strlen(message)) | 1;
}

bool pqp_plan_doubts(const pqp_plan *plan, uint64_t error, pqp_time now)
{
    pqp_time oldest = PQP_NEVER;
    for (size_t i = 0; i < PQP_VAINS; i++) {
        uint64_t known = pqp_peek(&((pqp_plan *)plan)->vain[i].error);
        if (known == error)
            return false;
        oldest = known == 0 ? 0 : PQP_MIN(oldest, pqp_peek(&((pqp_plan *)plan)->vain[i].at));
    }
    return oldest == 0 || now - oldest > PQP_SECOND;
}

void pqp_plan_judge(pqp_plan *plan, uint64_t before, uint64_t after, pqp_time now)
{
    if (after != before)
        pqp_add(&plan->renewals, 1);
    if (after == 0)
        return;
    pqp_vain *vain = &plan->vain[pqp_add(&plan->vains, 1) % PQP_VAINS];
    pqp_poke(&vain->at, now);
    pqp_poke(&vain->error, after);
}

/* ---- cost ---- */

void pqp_plan_took(pqp_plan *plan, pqp_time span, pqp_time cap)
{
    span = PQP_MIN(PQP_MAX(span, 1), cap);
    pqp_time cost = pqp_peek(&plan->cost);
    /* Slow is what was slow twice: the first time may have been a cold cache, or the network. */
    pqp_time next = cost == 0 ? PQP_MIN(span, cap / 64) + 1 : cost + (span - cost) / 4;
    if (next != cost)
        atomic_store_explicit(&plan->cost, next, memory_order_relaxed);
}
