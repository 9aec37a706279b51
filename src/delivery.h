/*
 * delivery: what has ended and waits for the caller's event loop to fetch it, behind one descriptor.
 *
 * The descriptor is an epoll's: readable as long as something lies here, and when a connection has answers that the loop
 * is to read itself (lane.h; loop.c). Who ends something only puts it here; the caller's own code runs when he fetches, in
 * his thread, so however slow he is, he holds up nobody else.
 */
#ifndef PQP_DELIVERY_H
#define PQP_DELIVERY_H

#include "base.h"

typedef struct pqp_parcel {
    bool (*open)(
        struct pqp_parcel *parcel); /* by the caller's thread, without locks; whether a callback ran */
    struct pqp_parcel *next;
} pqp_parcel;

typedef struct pqp_delivery {
    int fd;
    _Atomic int looped; /* fd, as soon as somebody has asked for it; -1 before */
    int bell;           /* an eventfd in it, readable as long as there are parcels */
    int timer;          /* likewise a timerfd */
    pqp_mutex mu;
    /* guarded by mu */
    pqp_parcel *first, **end;
    int count;
} pqp_delivery;

int pqp_delivery_init(pqp_delivery *d) PQP_MUSTCHECK; /* 0 or an errno value */
void pqp_delivery_fini(pqp_delivery *d);

int pqp_delivery_fd(pqp_delivery *d); /* from now on a loop is there */

void pqp_delivery_put(pqp_delivery *d, pqp_parcel *parcel);
/* The oldest, or NULL. When the last is taken, the bell falls silent. */
pqp_parcel *pqp_delivery_take(pqp_delivery *d);
int pqp_delivery_count(pqp_delivery *d);
void pqp_delivery_call_soon(pqp_delivery *d, long ns); /* the descriptor will be readable, whatever happens */
/* What the connections were registered with that have answers; at most n. */
int pqp_delivery_sources(pqp_delivery *d, void **sources, int n);

#endif
