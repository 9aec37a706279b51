#include "prepared.h"

void pqp_prepared_fini(pqp_prepared_set *s)
{
    free(s->at);
    s->at = NULL;
    s->places = 0;
}

void pqp_prepared_forget(pqp_prepared_set *s)
{
    if (s->places > 0)
        memset(s->at, 0, (size_t)s->places * sizeof *s->at);
}

static bool grow(pqp_prepared_set *s, int place)
{
    int places = PQP_MAX(place + 1, PQP_MAX(8, 2 * s->places));
    pqp_prepared *at = realloc(s->at, (size_t)places * sizeof *at);
    if (!at)
        return false;
    memset(at + s->places, 0, (size_t)(places - s->places) * sizeof *at);
    s->at = at;
    s->places = places;
    return true;
}

pqp_use pqp_prepared_use(pqp_prepared_set *s, int place, uint64_t plan, bool may_close)
{
    if (place >= s->places && !grow(s, place))
        return (pqp_use){0};
    pqp_prepared *p = &s->at[place];
    if (p->plan == plan && p->number != 0 && !p->stale)
        return (pqp_use){.number = p->number};
    if (p->number != 0 && !may_close)
        return (pqp_use){0};
    pqp_use use = {.number = ++s->numbers, .parse = true, .close = p->number};
    *p = (pqp_prepared){.plan = plan, .number = use.number};
    return use;
}

/* The place, if it still holds what the number stands for. */
static pqp_prepared *find(pqp_prepared_set *s, int place, uint32_t number)
{
    pqp_prepared *p = place < s->places ? &s->at[place] : NULL;
    return p && p->number == number ? p : NULL;
}

void pqp_prepared_failed(pqp_prepared_set *s, int place, uint32_t number)
{
    pqp_prepared *p = find(s, place, number);
    if (p)
        p->number = 0;
}

void pqp_prepared_refused(pqp_prepared_set *s, int place, uint32_t number, bool gone)
{
    pqp_prepared *p = find(s, place, number);
    if (!p)
        return;
    if (gone)
        p->number = 0;
    else
        p->stale = true;
}
