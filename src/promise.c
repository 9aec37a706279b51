#include "promise.h"

/* The word: the state in the lowest bits, then AWAITED, then the generation. The handle: kind, and the generation's lowest
 * bit; where an address has 64 bits, sixteen more of it on top. */
#define STATE UINT64_C(15)
#define AWAITED UINT64_C(16)
enum { GENERATION_SHIFT = 8, KIND_BITS = 2, TOP_SHIFT = 48 };

static uint32_t kept(uint64_t generation)
{
    return (uint32_t)(generation & (sizeof(uintptr_t) == 8 ? 0x1ffff : 1));
}

static uint32_t generation_in(uint64_t word)
{
    return kept(word >> GENERATION_SHIFT);
}

pqpool_ticket *pqp_promise_make(pqp_promise *p, pqp_promise_kind kind)
{
    uint64_t word = (pqp_load(&p->word) & ~(STATE | AWAITED)) | PQP_PROMISE_LIVE;
    pqp_store(&p->word, word);
    uint64_t handle = (uintptr_t)p, generation = generation_in(word);
    assert((handle & 7) == 0);
    handle |= (uint64_t)kind | (generation & 1) << KIND_BITS;
    if (sizeof(uintptr_t) == 8)
        handle |= generation >> 1 << TOP_SHIFT;
    return (pqpool_ticket *)(uintptr_t)handle;
}

pqp_claim pqp_promise_claim(const pqpool_ticket *handle)
{
    uint64_t bits = (uintptr_t)handle, top = sizeof(uintptr_t) == 8 ? bits >> TOP_SHIFT : 0;
    return (pqp_claim){
        .promise = (pqp_promise *)(uintptr_t)((bits & ((UINT64_C(1) << TOP_SHIFT) - 1)) & ~UINT64_C(7)),
        .kind = (pqp_promise_kind)(bits & ((1 << KIND_BITS) - 1)),
        .generation = (uint32_t)(top << 1 | (bits >> KIND_BITS & 1))};
}

pqp_promise_state pqp_promise_state_of(const pqp_claim *c)
{
    uint64_t word = pqp_load(&c->promise->word);
    return generation_in(word) == c->generation ? (pqp_promise_state)(word & STATE) : PQP_PROMISE_FREE;
}

static bool pass(pqp_promise *p, const pqp_claim *c, pqp_promise_state from, pqp_promise_state to)
{
    uint64_t word = pqp_load(&p->word);
    while ((word & STATE) == (uint64_t)from && (!c || generation_in(word) == c->generation))
        if (pqp_cas(&p->word, &word, (word & ~STATE) | (uint64_t)to))
            return true;
    return false;
}

bool pqp_promise_move(const pqp_claim *c, pqp_promise_state from, pqp_promise_state to)
{
    return pass(c->promise, c, from, to);
}

static pqp_promise_state advance(pqp_promise *p, pqp_promise_state from, pqp_promise_state to)
{
    for (;;) {
        if (pass(p, NULL, from, to))
            return to;
        if (pass(p, NULL, PQP_PROMISE_TAKEN, PQP_PROMISE_LEFT))
            return PQP_PROMISE_LEFT;
        if ((pqp_load(&p->word) & STATE) == PQP_PROMISE_GONE)
            return PQP_PROMISE_GONE;
    }
}

pqp_promise_state pqp_promise_come(pqp_promise *p)
{
    return advance(p, PQP_PROMISE_LIVE, PQP_PROMISE_OVER);
}

pqp_promise_state pqp_promise_begin(pqp_promise *p)
{
    return advance(p, PQP_PROMISE_OVER, PQP_PROMISE_BUSY);
}

void pqp_promise_again(pqp_promise *p)
{
    (void)pass(p, NULL, PQP_PROMISE_BUSY, PQP_PROMISE_LIVE);
}

void pqp_promise_free(pqp_promise *p)
{
    uint64_t word = pqp_load(&p->word) & ~(STATE | AWAITED);
    pqp_store(&p->word, word + (UINT64_C(1) << GENERATION_SHIFT));
}

bool pqp_promise_await(const pqp_claim *c)
{
    uint64_t word = pqp_load(&c->promise->word);
    while (!(word & AWAITED) && generation_in(word) == c->generation)
        if (pqp_cas(&c->promise->word, &word, word | AWAITED))
            return true;
    return false;
}

void pqp_promise_unawait(const pqp_claim *c)
{
    uint64_t word = pqp_load(&c->promise->word);
    while (generation_in(word) == c->generation && (word & AWAITED))
        if (pqp_cas(&c->promise->word, &word, word & ~AWAITED))
            return;
}

bool pqp_promise_awaited(const pqp_claim *c)
{
    uint64_t word = pqp_load(&c->promise->word);
    return generation_in(word) == c->generation && (word & AWAITED);
}
