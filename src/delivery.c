#include "delivery.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { SOURCES_MAX = 32 };

static bool watch(pqp_delivery *d, int fd, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = NULL};
    return fd >= 0 && epoll_ctl(d->fd, EPOLL_CTL_ADD, fd, &e) == 0;
}

static void close_descriptors(pqp_delivery *d)
{
    int all[] = {d->fd, d->bell, d->timer};
    for (size_t i = 0; i < PQP_COUNT_OF(all); i++)
        if (all[i] >= 0)
            close(all[i]);
}

static int open_descriptors(pqp_delivery *d)
{
    d->fd = epoll_create1(EPOLL_CLOEXEC);
    d->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    d->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    /* Told once each time, the timer need not be read. */
    if (d->fd >= 0 && watch(d, d->bell, EPOLLIN) && watch(d, d->timer, EPOLLIN | EPOLLET)) {
        (void)fcntl(d->fd, F_SETFL, O_NONBLOCK); /* some loops look for it */
        return 0;
    }
    int rc = errno;
    close_descriptors(d);
    return rc;
}

int pqp_delivery_init(pqp_delivery *d)
{
    int rc = open_descriptors(d);
    if (rc != 0)
        return rc;
    atomic_init(&d->looped, -1);
    d->first = NULL;
    d->end = &d->first;
    d->count = 0;
    rc = pqp_mutex_init(&d->mu, PQP_RANK_DELIVERY);
    if (rc != 0)
        close_descriptors(d);
    return rc;
}

void pqp_delivery_fini(pqp_delivery *d)
{
    close_descriptors(d);
    pqp_mutex_destroy(&d->mu);
}

int pqp_delivery_fd(pqp_delivery *d)
{
    if (pqp_peek(&d->looped) < 0)
        pqp_store(&d->looped, d->fd);
    return d->fd;
}

void pqp_delivery_put(pqp_delivery *d, pqp_parcel *parcel)
{
    parcel->next = NULL;
    pqp_mutex_lock(&d->mu);
    if (d->count++ == 0)
        (void)eventfd_write(d->bell, 1); /* under the lock: else a taker might leave it ringing for nothing */
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
            (void)eventfd_read(d->bell, &ignored);
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

int pqp_delivery_sources(pqp_delivery *d, void **sources, int n)
{
    struct epoll_event events[SOURCES_MAX];
    int found = 0, ready = epoll_wait(d->fd, events, PQP_MIN(n + 1, SOURCES_MAX), 0);
    for (int i = 0; i < ready && found < n; i++)
        if (events[i].data.ptr)
            sources[found++] = events[i].data.ptr;
    return found;
}

void pqp_delivery_call_soon(pqp_delivery *d, long ns)
{
    struct itimerspec at = {.it_value.tv_nsec = ns};
    (void)timerfd_settime(d->timer, 0, &at, NULL);
}
