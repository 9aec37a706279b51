/*
 * slot: a place for one connection, and the set of all of them. A slot is in one state; each state is a list,
 * so a count is a list's length; one function moves a slot and refuses a move that is not in the table. Knows
 * no libpq. Everything here is guarded by the pool's mutex unless it says otherwise.
 */
#ifndef PQP_SLOT_H
#define PQP_SLOT_H

#include "base.h"
#include "activity.h"
#include "clock.h"
#include "event.h"
#include "role.h"
#include "sockets.h"
#include <libpq-fe.h>

/*      state        who is here, and what takes it out */
#define PQP_SLOT_STATES(X)                                                                                   \
    X(EMPTY)      /* no connection. Out when one is to be made */                                            \
    X(CONNECTING) /* a job connects. Out when it has, has failed, or is past its time */                     \
    X(RESETTING)  /* being cleaned by a job or by its last user, to become idle or a lane */                 \
    X(IDLE)       /* ready to be lent; most recently used first. Out by grant, age, or loss */               \
    X(LEASED)     /* lent to one caller. Out by release or discard, and by nothing else */                   \
    X(PROBING)    /* taken out of circulation while a job asks whether the server still answers */           \
    X(LANE)       /* shared. Out when it is to be drained, or is lost or condemned and empty */              \
    X(DRAINING)   /* a lane that takes nothing new. Out when empty */                                        \
    X(CLOSING)    /* a job closes the connection. Out when it has */

typedef enum {
#define PQP_SLOT_ENUM(state) PQP_SLOT_##state,
    PQP_SLOT_STATES(PQP_SLOT_ENUM)
#undef PQP_SLOT_ENUM
        PQP_SLOT_N_STATES
} pqp_slot_state;

/* Whether the server is to be asked to cancel something. */
typedef enum { PQP_CANCEL_NONE, PQP_CANCEL_WANTED, PQP_CANCEL_UNDERWAY } pqp_cancel_state;

#define PQP_UNWATCHED UINT32_MAX /* its socket is not in the keeper's epoll */

/* After a rest this long the server may have ended the connection, and the keeper has not seen it yet. */
#define PQP_REST (2 * PQP_MS)

struct pqp_job;
struct pqp_lane;

typedef struct pqp_slot {
    int index; /* constant */
    PQP_LINK(pqp_slot) link;
    pqp_slot_state state;
    pqp_time since;      /* in this state */
    uint32_t generation; /* counts leases: a lease's token holds it, so a stale one is told apart */
    PGconn *conn;        /* used by who has the slot, without the mutex */
    int fd, backend_pid; /* as they were when the connection was made */
    pqp_known *known;    /* its socket, for a forked child */
    /* The pool's own descriptor of it, for the keeper's epoll; -1. libpq may close its at any time, and where a forked
     * child holds the socket open, what is closed stays in an epoll for ever, and can't be taken out. */
    int own_fd;
    pqp_known *own;
    int32_t id; /* the connection's number for people; never used twice */
    pqp_time made_at;
    pqp_time expires;            /* end of life: max_lifetime, with jitter */
    int64_t uses;                /* leases so far */
    _Atomic uintptr_t holder;    /* of LEASED: stands for the thread that took it (holder.h) */
    pqp_site site;               /* of LEASED: who asked for it */
    pqp_activity activity;       /* of LEASED: what he makes of it */
    void *frames[PQPOOL_FRAMES]; /* of LEASED: how its holder came to acquire it */
    int n_frames;
    char thread_name[16];    /* of LEASED, when it has lasted a while */
    bool ending;             /* of LEASED: given back, and being looked at */
    bool leaked;             /* of LEASED: older than leak_threshold, and counted */
    bool leak_untold;        /* the same, still to be told of */
    char sql[239];           /* of LEASED: what the server said that he runs; "": it was not asked */
    int64_t answers_heard;   /* ... after so many answers */
    int32_t blocked_by;      /* ... and whose lock that waits for; 0: nobody's */
    uint32_t era;            /* of pqpool_evict() calls, when it was begun to be made */
    pqp_attrs attrs;         /* what the connection had to lead to */
    uint64_t server;         /* ... and where: the same for all that lead to one address */
    bool astray;             /* ... which is that no more: it is not to be used again */
    bool untold;             /* of CLOSING: its event waits for the server's last words */
    bool met;                /* on_connect has seen the connection */
    pqp_cancel_state cancel; /* of a lane: the statement that runs there alone */
    bool was_lane;           /* of CLOSING, with running: more may lie behind what runs */
    bool running;            /* of CLOSING: the server works for it, and is to be told to stop */
    bool fresh;              /* nobody has used it since it was made or cleaned */
    bool rested;             /* of LEASED and RESETTING: it was idle for PQP_REST before */
    pqp_time rested_since;   /* when it last became idle */
    /* Of PROBING and RESETTING: patience.h. */
    bool doubtful;             /* it covers nobody */
    bool known_silent;         /* it was silent for too long, and what follows from that was done */
    bool given_up;             /* its socket was shut, for want of room */
    bool asked;                /* of PROBING: the question is out, and the answer to come */
    bool told_notified;        /* that it is told of what no lease listens to */
    bool to_lane;              /* of RESETTING: becomes a lane, else idle */
    bool alone;                /* of a lane, or one to be: for one waiter at a time, open to nobody else */
    bool busy;                 /* of a lane that is alone: somebody has it */
    bool for_owner;            /* of DRAINING: to give its place to a caller who waits */
    int64_t told_timeout;      /* of a lane: the option statement_timeout that its session was told */
    struct pqp_waiter *waiter; /* it is being made for him, if he still waits */
    bool to_nudge;             /* on the pool's list of lanes to be nudged */
    struct pqp_slot *nudge_next;
    pqp_time probed;      /* when the server last was known to answer */
    pqp_time quiet_since; /* of LANE: no statement since, as far as the keeper has seen */
    pqp_time stall_told;  /* of LANE: the statement that runs since then was told to hold up others, */
    bool stall_untold, stall_asked; /* or is to be; the server is being asked why */
    int64_t served;                 /* of LANE: its count at that look */
    pqp_time stuck_since;           /* of a lane nobody waits on: since when; 0: not so; the keeper's alone */
    uint32_t watched; /* epoll events asked for beyond the usual; the keeper's alone, once it is up */
    struct pqp_job
        *job; /* whoever works on it in CONNECTING, RESETTING, PROBING, CLOSING; NULL: still to start */
    struct pqp_lane *lane; /* made when the slot first becomes one; lives as long as the slot */
    _Atomic int suspect;   /* the keeper saw its socket hang up; read without the mutex */
} pqp_slot;

PQP_LIST(pqp_slot_list, pqp_slot, link);

typedef struct pqp_slots {
    pqp_slot **all;
    int count, room;
    pqp_slot_list in[PQP_SLOT_N_STATES];
} pqp_slots;

/* Makes sure there are at least n slots; false: no memory. */
bool pqp_slots_grow(pqp_slots *s, int n) PQP_MUSTCHECK;
void pqp_slots_fini(pqp_slots *s); /* frees the slots; lanes are the pool's to free first */

/* How many slots hold, or are about to hold, a connection. */
int pqp_slots_total(const pqp_slots *s);

/* The one mover. IDLE is entered at the front (LIFO), the others at the back. */
void pqp_slot_move(pqp_slots *s, pqp_slot *slot, pqp_slot_state to, pqp_time now);

/*
 * Has the pool's epoll tell of the connection's socket: that it has hung up, once, and, until the next call, whatever
 * `events` ask for. What is told says of which connection, so that what comes late is not taken for the slot's next one.
 * Unwatched is what is about to be closed, by its last owner; no lock needed.
 */
void pqp_slot_watch(pqp_slot *slot, int epoll_fd, uint32_t events);
void pqp_slot_unwatch(pqp_slot *slot, int epoll_fd);
/* The slot such an event is for; NULL: for none, or one whose connection is another by now. */
pqp_slot *pqp_slot_of_event(const pqp_slots *s, uint64_t data);

const char *pqp_slot_state_name(pqp_slot_state state);

#endif
