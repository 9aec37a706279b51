/*
 * depot: type-stable objects of one size. What was taken once is never freed before the depot itself, only
 * handed out again, so a late reader never touches freed memory. Thread-safe.
 *
 * Memory is taken for many at a time, so that an object costs little beyond itself.
 */
#ifndef PQP_DEPOT_H
#define PQP_DEPOT_H

#include "base.h"

typedef struct pqp_depot {
    pqp_mutex mu;
    size_t size;
    int (*init)(void *object); /* once in an object's life; 0 or an errno value; may be NULL */
    void (*fini)(void *object);
    /* guarded by mu */
    struct pqp_depot_shelf *shelves;
    struct pqp_depot_item *idle;
    int out; /* objects taken and not yet put back */
} pqp_depot;

/* Objects are aligned as a pointer is. */
int pqp_depot_init(pqp_depot *d, size_t size, int (*init)(void *), void (*fini)(void *)) PQP_MUSTCHECK;
void pqp_depot_fini(pqp_depot *d); /* frees all objects; none may be out */

void *
pqp_depot_take(pqp_depot *d) PQP_MUSTCHECK; /* as its last user left it; zeroed at first; NULL: no memory */
void pqp_depot_put(pqp_depot *d, void *object);

#endif
