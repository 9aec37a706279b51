/*
 * dial: one connect: the hooks are asked, the hosts tried one by one (hosts.h says how and why), the session looked at. Knows
 * no pool; called without locks.
 */
#ifndef PQP_DIAL_H
#define PQP_DIAL_H

#include "event.h"
#include "hosts.h"
#include "session.h"
#include "sockets.h"
#include "target.h"

/* What a pool remembers from one connect to the next; all zero at first. */
typedef struct pqp_dialled {
    pqp_silence silence;
    _Atomic int naming; /* whether the role brings an application_name of its own: 0 not known yet */
} pqp_dialled;

/* The role's application_name may be another one from now on. */
void pqp_dialled_forget(pqp_dialled *d);

typedef struct pqp_dial {
    const pqp_target *target;
    pqp_events *events;
    pqp_dialled *memory;
    pqp_time time;      /* what the whole walk may take */
    bool time_is_given; /* by pool_connect_timeout: libpq's connect_timeout does not count */
    /* Said before each step that may block: by then it will be over, but for a resolver that hangs. */
    void (*until)(void *arg, pqp_time deadline);
    void *arg;
    /* Out: of the connection that is up. */
    pqp_attrs attrs;  /* what it had to be */
    uint64_t server;  /* the same for all that lead to one address */
    pqp_known *known; /* its socket; NULL if none is up */
} pqp_dial;

/*
 * Connects. On failure err has ECONNECT, the host, the server's own words, and its SQLSTATE if it spoke;
 * pqp_refusal_is_final(err) tells that trying again can't help until somebody changes something.
 */
pqpool_code pqp_dial_connect(pqp_dial *dial, PGconn **conn, pqpool_error *err) PQP_MUSTCHECK;

#endif
