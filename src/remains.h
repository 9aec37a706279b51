/*
 * remains: what a lease's user has left on its connection: found when the lease ends, told with the user's place, and
 * either undone or a reason to close the connection.
 */
#ifndef PQP_REMAINS_H
#define PQP_REMAINS_H

#include "fleet.h"

typedef struct pqp_remains {
    pqpool_close_reason flaw; /* the connection is not to be used again; NONE: it may be */
    unsigned undo;            /* what is to be undone first: PQP_UNDO_ (session.h) */
    bool running;             /* the server works for it */
    bool changed;             /* settings that the reset level does not undo */
} pqp_remains;

/*
 * Looks at a connection whose lease is ending, in the thread that ends it, no lock held. traces: pqp_activity_end()'s.
 * Costs no system call where the lease has fetched no answer.
 */
pqp_remains pqp_remains_find(pqpool *p, pqp_slot *slot, PGconn *conn, pqp_reset_level level, unsigned traces);
/* The same for one that is closed anyway: whether the server works for it. */
bool pqp_remains_running(const PGconn *conn);
/* Counts and tells, with the slot still LEASED; the mutex is held. */
/* Of an idle connection: it is told of what no lease listens to. Once. */
void pqp_remains_tell_notified_locked(pqpool *p, pqp_slot *slot);
void pqp_remains_tell_locked(pqpool *p, const pqp_slot *slot, const pqp_remains *r);

#endif
