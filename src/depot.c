#include "depot.h"

enum { SHELF = 16 }; /* objects on one */

typedef struct pqp_depot_item {
    struct pqp_depot_item *next_idle;
    void *object[];
} pqp_depot_item;

typedef struct pqp_depot_shelf {
    struct pqp_depot_shelf *next;
    void *items[];
} pqp_depot_shelf;

static pqp_depot_item *item_of(void *object)
{
    return (pqp_depot_item *)(void *)((char *)object - offsetof(pqp_depot_item, object));
}

static size_t item_size(const pqp_depot *d)
{
    size_t size = sizeof(pqp_depot_item) + d->size;
    return (size + sizeof(void *) - 1) / sizeof(void *) * sizeof(void *);
}

static pqp_depot_item *item_at(const pqp_depot *d, pqp_depot_shelf *shelf, int i)
{
    return (pqp_depot_item *)(void *)((char *)shelf->items + (size_t)i * item_size(d));
}

int pqp_depot_init(pqp_depot *d, size_t size, int (*init)(void *), void (*fini)(void *))
{
    *d = (pqp_depot){.size = size, .init = init, .fini = fini};
    return pqp_mutex_init(&d->mu, PQP_RANK_DEPOT);
}

/* With so many of its objects, from the first on, ready. */
static void shelf_free(pqp_depot *d, pqp_depot_shelf *shelf, int ready)
{
    while (d->fini && ready > 0)
        d->fini(item_at(d, shelf, --ready)->object);
    free(shelf);
}

void pqp_depot_fini(pqp_depot *d)
{
    assert(d->out == 0);
    for (pqp_depot_shelf *shelf = d->shelves, *next; shelf; shelf = next) {
        next = shelf->next;
        shelf_free(d, shelf, SHELF);
    }
    pqp_mutex_destroy(&d->mu);
}

static pqp_depot_shelf *shelf_new(pqp_depot *d)
{
    pqp_depot_shelf *shelf = calloc(1, sizeof *shelf + SHELF * item_size(d));
    for (int i = 0; shelf && d->init && i < SHELF; i++)
        if (d->init(item_at(d, shelf, i)->object) != 0) {
            shelf_free(d, shelf, i);
            shelf = NULL;
        }
    return shelf;
}

/* Made without the lock, so that nobody waits for memory. */
static void *take_new(pqp_depot *d)
{
    pqp_depot_shelf *shelf = shelf_new(d);
    if (!shelf)
        return NULL;
    pqp_mutex_lock(&d->mu);
    shelf->next = d->shelves;
    d->shelves = shelf;
    for (int i = SHELF - 1; i > 0; i--) {
        pqp_depot_item *item = item_at(d, shelf, i);
        item->next_idle = d->idle;
        d->idle = item;
    }
    d->out++;
    pqp_mutex_unlock(&d->mu);
    return item_at(d, shelf, 0)->object;
}

void *pqp_depot_take(pqp_depot *d)
{
    pqp_mutex_lock(&d->mu);
    pqp_depot_item *item = d->idle;
    if (item) {
        d->idle = item->next_idle;
        d->out++;
    }
    pqp_mutex_unlock(&d->mu);
    return item ? item->object : take_new(d);
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
