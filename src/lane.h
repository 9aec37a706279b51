/*
 * lane: a shared connection. Statements of many threads go in, each with its own Sync; one of the threads
 * that wait, the driver, reads the answers for all. How and why: the essay in lane.c.
 */
#ifndef PQP_LANE_H
#define PQP_LANE_H

#include "base.h"
#include "clock.h"
#include "depot.h"
#include "error.h"
#include "parker.h"
#include "transport.h"

struct pqp_call;

typedef enum {
    PQP_STMT_PENDING, /* in the inbox or the backlog: nothing of it was handed to the transport */
    PQP_STMT_SENT,    /* in flight: it and its Sync are on their way, it has its place in the FIFO */
    PQP_STMT_DONE,    /* answered, or out of the lane: the owner's again */
} pqp_stmt_state;

/*
 * A statement. Type-stable. From submit until it is DONE it belongs to the lane; its owner's buffers
 * (request) are read only while it is PENDING.
 */
typedef struct pqp_stmt {
    struct pqp_stmt *inbox_next; /* while in the inbox */
    struct pqp_stmt *sibling;    /* the owner's: next member of the same call */
    const pqpool_stmt *request;
    size_t bytes; /* of SQL and parameters: bounds what is in flight */
    bool commits_itself;
    pqp_time deadline;
    int index;     /* the owner's: place in his array */
    bool repeated; /* the owner's: it was run again after an unknown outcome */

    /* guarded by lane->mu; the owner may read them once his call is over */
    PQP_LINK(pqp_stmt) link; /* in the backlog or the flight */
    struct pqp_call *call;   /* NULL: the owner has left; dropped when its turn is over */
    pqp_stmt_state state;
    bool given_up; /* its deadline passed while it was in flight: it keeps its place, its answer is dropped */
    bool send_refused; /* libpq would not take it, though the connection lived: it will not elsewhere */
    bool taints;       /* its command changed the session: what ran behind it did so in a state not its own */
    bool headed_loss;  /* it was the head when the connection went without a FATAL */
    PGresult *result;  /* first error of the unit, else its last result; the owner's once DONE */
    bool result_is_error;
    pqpool_code code; /* OK or ESERVER: result is the answer; else why there is none */
    pqpool_outcome outcome;
} pqp_stmt;

PQP_LIST(pqp_stmt_list, pqp_stmt, link);

/* A blocked caller and his statements, one or a group (call.c). Type-stable. */
typedef struct pqp_call {
    pqp_parker parker;
    pqp_stmt *members;        /* in order, by sibling */
    pqp_time unsent_deadline; /* while nothing of the call is sent */

    /* guarded by lane->mu */
    int remaining; /* members without an answer */
    int sent;      /* members sent so far */
    bool waking;   /* on a wake list: a word is on its way, and until it is there the owner must stay */
    int wake_word;
    struct pqp_call *wake_next;
} pqp_call;

enum { PQP_WORD_DRIVE = 1, PQP_WORD_DONE }; /* what a caller is woken with */

/* Who reads the answers. */
typedef enum { PQP_DRIVER_NONE, PQP_DRIVER_CALL, PQP_DRIVER_KEEPER } pqp_driver;

typedef struct pqp_lane {
    const pqp_transport *tp;
    pqp_wire wire;
    pqp_depot *stmts;                 /* where abandoned statements go back to */
    void (*tell_keeper)(void *owner); /* it drives now, or the lane may be vacant. Called without locks */
    void *owner;
    int window; /* most statements in flight */

    _Atomic(pqp_stmt *) inbox; /* newest first */
    _Atomic int held;          /* mirrors mu; see the essay */
    _Atomic int users;         /* callers that are bound to this lane */
    _Atomic int accepting;     /* may a new caller bind himself? */
    _Atomic int load;          /* statements not yet answered: a hint for routing */
    _Atomic int64_t served;    /* statements ended so far */

    pqp_mutex mu;
    /* guarded by mu */
    pqp_stmt_list backlog; /* accepted, not sent */
    pqp_stmt_list flight;  /* sent, in the order sent: the truth about what comes back */
    size_t flight_bytes;
    pqp_driver driver;
    pqp_call *driver_call;   /* of PQP_DRIVER_CALL */
    bool polls_write;        /* the driver's wait under way looks for WRITE; only he sets it */
    bool want_write;         /* the transport has more to write */
    bool driver_at_work;     /* he has accepted the role, and not given it back */
    bool driver_awake;       /* he holds the lock, and will look at his call before he sleeps */
    bool kick;               /* the driver must look again */
    bool orphaned;           /* the keeper must be told that it drives */
    bool tainted;            /* a statement that taints has been seen */
    bool condemned;          /* takes and sends nothing more, drains, is closed */
    bool dead;               /* the connection is gone; nothing is in it any more */
    int ends;                /* NULLs since the last result */
    pqp_call *wakes;         /* words to give after the lock is dropped */
    pqp_time undriven_since; /* watchdog builds */
    pqpool_error why;        /* of condemned or dead; constant from then on */
} pqp_lane;

int pqp_lane_init(pqp_lane *l, const pqp_transport *tp, pqp_depot *stmts, void (*tell_keeper)(void *),
                  void *owner) PQP_MUSTCHECK; /* 0 or an errno value */
void pqp_lane_fini(pqp_lane *l);

/* Opens an empty lane over its bound wire: from here on callers may pin it. */
void pqp_lane_open(pqp_lane *l, int window);

/* Takes nothing new; what it has goes on. Takes no lock. */
void pqp_lane_retire(pqp_lane *l);

/* Binds the caller to the lane, so that it stays one; false: it takes nothing new. Takes no lock. */
bool pqp_lane_pin(pqp_lane *l) PQP_MUSTCHECK;
void pqp_lane_unpin(pqp_lane *l);

/* ---- for call.c: the lock and what may be done under it ---- */

void pqp_lane_lock(pqp_lane *l);
/* The one way out; self: the caller that is going to wait now, or NULL. Returns whether self is the
 * driver. */
bool pqp_lane_unlock(pqp_lane *l, pqp_call *self);
void pqp_lane_take_inbox(pqp_lane *l);          /* inbox to backlog */
void pqp_lane_pump(pqp_lane *l, bool readable); /* reads, writes, and takes the answers that are there */
bool pqp_lane_drives(const pqp_lane *l, const pqp_call *call);
void pqp_lane_fence_stall(pqp_lane *l); /* the head, or whether it is given up, has changed */

/* ---- for the keeper and the pool ---- */

/* For the keeper: reads and writes what is ready if nobody else drives, or if it hung up. */
typedef struct pqp_tended {
    bool mine;       /* the keeper drives: watch the socket */
    bool looked;     /* no caller drives, and what the socket had was taken in */
    bool want_write; /* ... for writing too */
    bool stuck;      /* nobody waits for what is in flight, and nothing new is taken */
    bool vacant;     /* takes nothing new and is empty: may leave the LANE state */
    bool dead;
    bool condemned;
} pqp_tended;
pqp_tended pqp_lane_tend(pqp_lane *l, bool ready);

/* Fails everything that is left, as when the connection is lost. */
void pqp_lane_cut(pqp_lane *l, const char *reason);

#endif
