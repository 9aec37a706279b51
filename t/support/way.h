/* The two ways in which a thread asks a pool for something and waits; what holds for one is to hold for the other. */
#ifndef SUPPORT_WAY_H
#define SUPPORT_WAY_H

#include "pg.h"

typedef enum { LEASE, STATEMENT, WAYS } way;

static const char *const ways[] = {"a lease", "a statement"};

/* Acquires and gives back, or runs a statement; how it ended, in how many seconds. */
__attribute__((unused)) static double attempt(pqpool *pool, way by, pqpool_error *err)
{
    double began = now_s();
    if (by == STATEMENT) {
        PQclear(pqpool_exec(pool, "select 1", err));
    } else {
        pqpool_lease lease;
        if (pqpool_acquire(pool, &lease, err) == PQPOOL_OK)
            pqpool_release(&lease);
    }
    return now_s() - began;
}

#endif
