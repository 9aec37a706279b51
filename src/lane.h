/*
 * lane: a shared connection. Statements of many threads go in, each with its own Sync; one of the threads
 * that wait, the driver, reads the answers for all. How and why: the essay in lane.c.
 */
#ifndef PQP_LANE_H
#define PQP_LANE_H

#include "flight.h"

/* Who is told of what happens in a lane. */
typedef struct pqp_lane_owner {
    pqp_depot *stmts;
    void (*tell_keeper)(void *owner);
    void (*tell_room)(void *owner);
    _Atomic int *waiting;
    _Atomic int *loop_fd;
    _Atomic uint64_t *ddl;
    _Atomic int64_t *stall_time;
    _Atomic int64_t *max_result, *max_buffer;
    void *owner;
} pqp_lane_owner;

int pqp_lane_init(pqp_lane *l, const pqp_transport *tp,
                  const pqp_lane_owner *owner) PQP_MUSTCHECK; /* errno */
void pqp_lane_fini(pqp_lane *l);

/* What a lane is opened with. */
typedef struct pqp_lane_terms {
    int window;
    pqp_time round_trip, cost_cap;
    int session_timeout_ms;
    bool pooled;
} pqp_lane_terms;

/* Opens an empty lane over its bound wire. Nobody is admitted yet. */
void pqp_lane_open(pqp_lane *l, const pqp_lane_terms *terms);

/* Callers may pin it from here on. Takes no lock. */
void pqp_lane_admit(pqp_lane *l);

/* Binds the caller to the lane, so that it stays one; false: it takes nothing new. Takes no lock. */
bool pqp_lane_pin(pqp_lane *l) PQP_MUSTCHECK;
void pqp_lane_unpin(pqp_lane *l);
/* How long the statement that runs has been running, 0: none, and its text, "" if its owner has left or the lane is busy
 * just now. It waits for no lock, and may be called with the pool's mutex held. */
pqp_time pqp_lane_head(pqp_lane *l, pqp_time now, char *sql, size_t size);
/* For a lane that is one caller's alone: it accepts nobody. */
void pqp_lane_pin_alone(pqp_lane *l);

/* Takes room for n statements, if there is some left. A group may go beyond. Takes no lock. */
bool pqp_lane_reserve(pqp_lane *l, int n) PQP_MUSTCHECK;

/* Whether its head has been running for longer than `limit`: no statement should stand behind it. Takes no lock. */
bool pqp_lane_stalled(pqp_lane *l, pqp_time now, pqp_time limit);

/* ---- for call.c: the lock and what may be done under it ---- */

void pqp_lane_lock(pqp_lane *l);
/* The one way out; self: the caller that is going to wait now, or NULL. Returns whether self is the
 * driver. */
bool pqp_lane_unlock(pqp_lane *l, pqp_call *self);
void pqp_lane_take_inbox(pqp_lane *l); /* inbox to backlog */
void pqp_lane_nudge(pqp_lane *l);      /* something lies in the inbox; takes the lock if nobody has it */
/* The call's owner waits from now on; false: it is over, or elsewhere. And he waits no more; true: but he has been asked to
 * drive, and the word is on its way. */
bool pqp_lane_attend(pqp_lane *l, pqp_call *call);
bool pqp_lane_unattend(pqp_lane *l, pqp_call *call);

/* ---- for an event loop ---- */

/* Takes what the socket has, if no caller drives. From then on the loop is expected to come again: when it hears of an
 * answer, or, if true, after PQP_GATHER_TIME or so, since it will hear of none. */
bool pqp_lane_visit(pqp_lane *l) PQP_MUSTCHECK;
/* Whether it must come without having heard of an answer: at first, after it was too slow, and when it was to come
 * again. Takes no lock. */
bool pqp_lane_forsaken(pqp_lane *l);

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
    bool cancel;  /* pqp_lane_begin_cancel() */
    pqp_time due; /* look again at this time at the latest */
} pqp_tended;
pqp_tended pqp_lane_tend(pqp_lane *l, bool ready);

/*
 * The last look before the connection is used otherwise, with the pool's mutex held, so that nobody comes in: what was seen is a
 * moment old. True: it is empty, and no event loop reads its socket from here on; `seen` tells what it ended as. It waits for
 * no lock; false also if the lane is busy just now.
 */
bool pqp_lane_vacate(pqp_lane *l, pqp_tended *seen) PQP_MUSTCHECK;

/*
 * The server is to be asked to cancel what runs there alone, and is not wanted; false: it is over, or there is more. Nothing is
 * sent from here on until the request has been answered, and the second function called: what comes meanwhile goes
 * back to its owners.
 */
bool pqp_lane_begin_cancel(pqp_lane *l) PQP_MUSTCHECK;
void pqp_lane_end_cancel(pqp_lane *l);

/* Fails everything that is left, as when the connection is lost. */
void pqp_lane_cut(pqp_lane *l, const char *reason);

#endif
