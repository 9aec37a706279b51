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

void pqp_prepared_outdate(pqp_prepared_set *s)
{
    s->age++;
}

void pqp_prepared_heed(pqp_prepared_set *s, uint64_t ddl)
{
    if (ddl == s->ddl)
        return;
    s->ddl = ddl;
    pqp_prepared_outdate(s);
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

/* It is there, and its types are known to be right. */
static bool is_good(const pqp_prepared_set *s, const pqp_prepared *p, const pqp_wanted *w)
{
    if (p->plan != w->plan || p->number == 0 || p->stale || p->renewal != w->renewal)
        return false;
    return w->now == 0 || (p->age == s->age && w->now - p->known_at < PQP_TYPES_LAST);
}

pqp_use pqp_prepared_use(pqp_prepared_set *s, const pqp_wanted *w)
{
    if (w->place >= s->places && !grow(s, w->place))
        return (pqp_use){0};
    pqp_prepared *p = &s->at[w->place];
    if (is_good(s, p, w)) {
        bool check = !p->checking && w->now - p->known_at > PQP_TYPES_LAST / 2;
        p->checking |= check;
        return (pqp_use){.number = p->number, .check = check};
    }
    if (p->number != 0 && !w->may_close)
        return (pqp_use){0};
    pqp_use use = {.number = ++s->numbers, .parse = true, .close = p->number, .closed_text = p->text};
    *p = (pqp_prepared){.plan = w->plan,
                        .age = s->age,
                        .number = use.number,
                        .text = w->text,
                        .renewal = w->renewal,
                        .known_at = w->now};
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

void pqp_prepared_refused(pqp_prepared_set *s, int place, uint32_t number)
{
    pqp_prepared *p = find(s, place, number);
    if (p)
        p->stale = true;
}

void pqp_prepared_known(pqp_prepared_set *s, int place, uint32_t number, pqp_time sent_at)
{
    pqp_prepared *p = find(s, place, number);
    if (!p)
        return;
    p->checking = false;
    p->known_at = PQP_MAX(p->known_at, sent_at);
}
