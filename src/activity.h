/*
 * activity: what the user of a leased connection makes of it, as far as that can be seen without asking him and
 * without costing him anything.
 *
 * What there is to see. (1) The answers he fetches: libpq tells an event procedure of each (registered when a
 * connection is first leased), in his thread: when, and the command tag. It has no word for the sending. (2) The
 * socket, over TCP: the kernel counts what was sent; if that is more than at the last answer, the server is at work.
 * (Comparing the times of the last sending and receiving instead does not do: the kernel's are 4 ms apart, and a statement
 * often follows the last answer within one.) (3) The title of the server's
 * process, on a Unix socket: "idle in transaction", "SELECT", "UPDATE waiting" (PostgreSQL's documentation, "Standard
 * Unix Tools"). So for a lease that lasts, somebody looks now and then at (2) or (3), and adds the time since the last
 * look to what the connection was doing. What lasts long is told apart well; where something was fetched between two looks,
 * the time before that counts as work, so that idle time is rather too short than too long.
 *
 * Tried and not taken: PQtransactionStatus() from another thread is a race; PQtrace() formats each row; asking the server
 * needs a connection, of which there is none when it matters most (watch.h asks where there is one).
 */
#ifndef PQP_ACTIVITY_H
#define PQP_ACTIVITY_H

#include "base.h"
#include "clock.h"
#include "sockets.h"
#include <libpq-fe.h>
#include <pqpool-ops.h>

enum { PQP_VIA_PROCESS = -1, PQP_VIA_NOTHING = -2 };

/* What a lease's user has done that concerns the connection's next one. */
enum {
    PQP_TRACE_FINISHED = 1, /* PQfinish(): there is no connection any more */
    PQP_TRACE_FAILED =
        2, /* libpq itself has failed: what the server says next may belong to what went before */
    PQP_TRACE_LISTENS = 4, /* LISTEN */
    PQP_TRACE_SET = 8,     /* SET, outside a transaction */
};

typedef struct pqp_activity {
    bool registered;       /* with the connection there is now; its user's */
    pqp_known *known;      /* its socket, which PQreset() makes another */
    int own_fd;            /* the pool's descriptor of it: slot.h */
    _Atomic int leased;    /* what befalls the connection is its user's doing */
    _Atomic uint64_t *ddl; /* counts statements that may change what others mean */
    _Atomic int altered;   /* the lease has run one */
    _Atomic int via;       /* what a look is at: the socket's descriptor, or one of the below */
    _Atomic int shared;    /* it is used for a lane: no answer concerns us */

    /* Written by the lease's user, through libpq, read by anybody. */
    _Atomic int64_t answers, answered_at; /* ns; 0: none in this lease */
    _Atomic uint64_t tag;                 /* the last answer's command tag, its first 8 characters */
    _Atomic int in_transaction;           /* by the tags */
    _Atomic int refused;                  /* one of them was 25006: no writing here */
    _Atomic unsigned traces;              /* of the lease: a sum of PQP_TRACE_ */
    _Atomic int server_error;             /* the last answer was an error of the server's */
    _Atomic size_t largest;               /* bytes of memory of an answer, at most */
    _Atomic int64_t sent_then;            /* bytes, by the kernel, at the last answer; -1: not known */

    /* Guarded by the pool's mutex. */
    pqp_time looked_at;
    int64_t answers_then; /* at that look */
    pqpool_holder_state state;
    pqp_time state_since;
    pqp_time working, idle, idle_tx;
} pqp_activity;

/* What one look has seen, without the mutex. */
typedef struct pqp_sight {
    pqp_time at;
    pqpool_holder_state state;
    pqp_time since; /* in this state at least since then; 0: not known */
} pqp_sight;

/* Has libpq tell of answers on this connection from now on; by its holder, no lock held. Without memory for that there
 * are none to see. ddl goes up for each that may have changed what statements mean. */
void pqp_activity_watch(pqp_activity *a, PGconn *conn, _Atomic uint64_t *ddl);
/* The lease ends: what it has altered holds by now. Returns its traces. */
unsigned pqp_activity_end(pqp_activity *a);
/* Its connection becomes a lane's, or ceases to be; no lock held. */
void pqp_activity_share(pqp_activity *a, bool shared);
/* The connection is another one, with this socket, and the pool's own descriptor of that. */
void pqp_activity_forget(pqp_activity *a, pqp_known *known, int own_fd);
/* A lease begins; the mutex is held. */
void pqp_activity_begin_locked(pqp_activity *a, pqp_time now);

/* Looks at a lease that has begun, from any thread, by its descriptor or its server process alone. No lock needed. */
pqp_sight pqp_activity_look(pqp_activity *a, int backend_pid);
/* Puts it to the account; the mutex is held. */
void pqp_activity_note_locked(pqp_activity *a, const pqp_sight *seen);

#endif
