/*
 * delivery: what has ended and waits for the caller's event loop to fetch it, behind one descriptor.
 *
 * The descriptor (an eventfd) is readable as long as something lies here. Who ends something only puts it here;
 * the caller's own code runs when he fetches, in his thread, so however slow he is, he holds up nobody else.
 */
#ifndef PQP_DELIVERY_H
#define PQP_DELIVERY_H

#include "base.h"

typedef struct pqp_parcel {
    void (*open)(struct pqp_parcel *parcel); /* by the caller's thread, without locks */
    struct pqp_parcel *next;
} pqp_parcel;

typedef struct pqp_delivery {
    int fd;
    pqp_mutex mu;
    /* guarded by mu */
    pqp_parcel *first, **end;
    int count;
} pqp_delivery;

int pqp_delivery_init(pqp_delivery *d) PQP_MUSTCHECK; /* 0 or an errno value */
void pqp_delivery_fini(pqp_delivery *d);

void pqp_delivery_put(pqp_delivery *d, pqp_parcel *parcel);
/* The oldest, or NULL. When the last is taken, the descriptor falls silent. */
pqp_parcel *pqp_delivery_take(pqp_delivery *d);
int pqp_delivery_count(pqp_delivery *d);

#endif
