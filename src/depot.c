#include "depot.h"

typedef struct pqp_depot_item {
    struct pqp_depot_item *next_idle, *next_all;
    max_align_t object[];
} pqp_depot_item;

static pqp_depot_item *item_of(void *object)
{
    return (pqp_depot_item *)((char *)object - offsetof(pqp_depot_item, object));
}

int pqp_depot_init(pqp_depot *d, size_t size, int (*init)(void *), void (*fini)(void *))
{
    *d = (pqp_depot){.size = size, .init = init, .fini = fini};
    return pqp_mutex_init(&d->mu, PQP_RANK_DEPOT);
}

void pqp_depot_fini(pqp_depot *d)
{
    assert(d->out == 0);
    for (pqp_depot_item *item = d->all, *next; item; item = next) {
        next = item->next_all;
        if (d->fini)
            d->fini(item->object);
        free(item);
    }
    pqp_mutex_destroy(&d->mu);
}

static pqp_depot_item *item_new(pqp_depot *d)
{
    pqp_depot_item *item = calloc(1, sizeof *item + d->size);
    if (item && d->init && d->init(item->object) != 0) {
        free(item);
        item = NULL;
    }
    return item;
}

void *pqp_depot_take(pqp_depot *d)
{
    pqp_mutex_lock(&d->mu);
    pqp_depot_item *item = d->idle;
    if (item)
        d->idle = item->next_idle;
    d->out++;
    pqp_mutex_unlock(&d->mu);
    if (item)
        return item->object;
    item = item_new(d);
    pqp_mutex_lock(&d->mu);
    if (item) {
        item->next_all = d->all;
        d->all = item;
    } else {
        d->out--;
    }
    pqp_mutex_unlock(&d->mu);
    return item ? item->object : NULL;
}

void pqp_depot_put(pqp_depot *d, void *object)
{
    pqp_depot_item *item = item_of(object);
    pqp_mutex_lock(&d->mu);
    item->next_idle = d->idle;
    d->idle = item;
    d->out--;
    pqp_mutex_unlock(&d->mu);
}
