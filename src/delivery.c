#include "delivery.h"

#include <sys/eventfd.h>
#include <unistd.h>

int pqp_delivery_init(pqp_delivery *d)
{
    d->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (d->fd < 0)
        return errno;
    d->first = NULL;
    d->end = &d->first;
    d->count = 0;
    int rc = pqp_mutex_init(&d->mu, PQP_RANK_DELIVERY);
    if (rc != 0)
        close(d->fd);
    return rc;
}

void pqp_delivery_fini(pqp_delivery *d)
{
    close(d->fd);
    pqp_mutex_destroy(&d->mu);
}

void pqp_delivery_put(pqp_delivery *d, pqp_parcel *parcel)
{
    parcel->next = NULL;
    pqp_mutex_lock(&d->mu);
    if (d->count++ == 0)
        (void)eventfd_write(d->fd, 1); /* under the lock: else a taker might leave it readable for nothing */
    *d->end = parcel;
    d->end = &parcel->next;
    pqp_mutex_unlock(&d->mu);
}

pqp_parcel *pqp_delivery_take(pqp_delivery *d)
{
    pqp_mutex_lock(&d->mu);
    pqp_parcel *parcel = d->first;
    if (parcel) {
        d->first = parcel->next;
        if (!d->first)
            d->end = &d->first;
        eventfd_t ignored;
        if (--d->count == 0)
            (void)eventfd_read(d->fd, &ignored);
    }
    pqp_mutex_unlock(&d->mu);
    return parcel;
}

int pqp_delivery_count(pqp_delivery *d)
{
    pqp_mutex_lock(&d->mu);
    int count = d->count;
    pqp_mutex_unlock(&d->mu);
    return count;
}
