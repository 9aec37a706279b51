/*
 * flight: the statements of a lane, what was sent and what comes back. A lane's struct stands here, because three
 * files share it: flight, unit (how things are sent) and lane (who holds it, who drives, how it is left), in this order
 * of layers. Functions are called with the lane's lock held unless they say otherwise.
 */
#ifndef PQP_FLIGHT_H
#define PQP_FLIGHT_H

#include "base.h"
#include "clock.h"
#include "depot.h"
#include "error.h"
#include "parker.h"
#include "plan.h"
#include "prepared.h"
#include "tally.h"
#include "transport.h"

struct pqp_call;

typedef enum {
    PQP_STMT_PENDING, /* in the inbox or the backlog: nothing of it was handed to the transport */
    PQP_STMT_SENT,    /* in flight: it and its Sync are on their way, it has its place in the FIFO */
    PQP_STMT_DONE,    /* answered, or out of the lane: the owner's again */
} pqp_stmt_state;

/* What a statement's unit is made of, in order: each is answered by one result. */
typedef enum {
    PQP_PART_SETTING_PARSE,
    PQP_PART_SETTING,
    PQP_PART_PARSE,
    PQP_PART_BODY,
    /* Of a unit of the lane's own. The second is what its prepared statement would be, were it parsed now. */
    PQP_PART_ASIDE,
    PQP_PART_DESCRIBED,
    PQP_PART_DESCRIBED_ANEW
} pqp_part;
enum { PQP_PARTS_MAX = 4 };

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
    bool alters;    /* it may change what other statements mean: DDL, or what may run some */
    bool joined;    /* its unit goes on with the next statement: one Sync, one transaction for all */
    bool timed;     /* the deadline is its own: the server is told */
    bool unnamed;   /* run it without a prepared statement */
    pqp_plan *plan; /* pinned; NULL: it is not to be prepared */
    pqp_time deadline;
    int index; /* the owner's: place in his array; of a lane's own unit: of what it asks about, in the prepared set */
    bool repeated;    /* the owner's: it was run again after an unknown outcome */
    uint64_t doubted; /* the owner's: the error for which it was run again, parsed anew; 0: it was not */

    /* guarded by lane->mu; the owner may read them once his call is over */
    PQP_LINK(pqp_stmt) link; /* in the backlog or the flight */
    struct pqp_call *call;   /* NULL: the owner has left; dropped when its turn is over */
    pqp_stmt_state state;
    bool given_up; /* its deadline passed while it was in flight: it keeps its place, its answer is dropped */
    bool send_refused; /* libpq would not take it, though the connection lived: it will not elsewhere */
    bool taints;       /* its command changed the session: what ran behind it did so in a state not its own */
    bool headed_loss;  /* it was the head when the connection went without a FATAL */
    bool stale;        /* its prepared statement could not be used: it did not run, and would without */
    bool no_memory;    /* its answer was there, and there was no room for it */
    bool doubtful;     /* it failed, and the types of its parameters are from an earlier unit */
    pqp_time asked_at; /* the owner's: when it came */
    pqp_time sent_at;
    uint8_t parts[PQP_PARTS_MAX]; /* pqp_part; what was sent */
    uint8_t n_parts, answered;
    uint32_t number, setting_number; /* of the prepared statements it was sent with; 0: none */
    PGresult *result; /* first error of the unit, else its last result; the owner's once DONE */
    bool result_is_error;
    pqpool_code code; /* OK or ESERVER: result is the answer; else why there is none */
    pqpool_outcome outcome;
} pqp_stmt;

PQP_LIST(pqp_stmt_list, pqp_stmt, link);

/* A caller and his statements, one or a group (call.c). Type-stable. */
typedef struct pqp_call {
    pqp_parker parker;
    pqp_stmt *members;        /* in order, by sibling */
    pqp_time unsent_deadline; /* while nothing of the call is sent */
    /* Nobody sleeps on the parker: this is called in place of a word, without locks, when all members are over.
     * NULL: the owner waits, and drives when he is asked to. */
    void (*over)(
        struct pqp_call *call);      /* where somebody attends all the same: by him, if he drove it there */
    _Atomic(struct pqp_lane *) lane; /* the last one it was handed to */
    char *room;                      /* the owner's, for copies of what he was handed: see pqp_call_room() */
    uint32_t room_size;

    /* guarded by lane->mu */
    int remaining; /* members without an answer */
    int sent;      /* members sent so far */
    bool attended; /* its owner waits, on this lane, and drives when he is asked to */
    bool waking;   /* on a wake list: a word is on its way, and until it is there the owner must stay */
    uint8_t wake_word;
    struct pqp_call *wake_next;
} pqp_call;

enum { PQP_WORD_DRIVE = 1, PQP_WORD_DONE }; /* what a caller is woken with; queue.h has others */

/* Who reads the answers. */
typedef enum {
    PQP_DRIVER_NONE, /* nothing is in flight */
    PQP_DRIVER_CALL, /* a caller who waits for an answer of his own */
    PQP_DRIVER_GUEST, /* nobody stays: whoever comes by for his tickets or callbacks, and the keeper if nobody does */
    PQP_DRIVER_KEEPER, /* the keeper */
} pqp_driver;

/* Answers are let gather for this long. A thread that sleeps for it sleeps 50 us longer, as timers are set. */
#define PQP_GATHER_TIME (20 * PQP_US)

typedef struct pqp_lane {
    const pqp_transport *tp;
    pqp_wire wire;
    pqp_depot *stmts;                 /* where abandoned statements go back to */
    void (*tell_keeper)(void *owner); /* it drives now, or the lane may be vacant. Called without locks */
    void (*tell_room)(void *owner);   /* statements have ended while others waited for room. The same */
    _Atomic int *waiting;             /* how many wait for room; NULL: nobody ever does */
    _Atomic int *loop_fd;  /* an event loop's, where it wants to hear of answers; -1 or NULL: none */
    _Atomic uint64_t *ddl; /* pqp_plans.ddl; NULL: there never is any */
    _Atomic int64_t
        *stall_time; /* a head that runs for longer holds up what is behind it, ns; NULL: none does */
    _Atomic int64_t *max_result, *max_buffer; /* bytes, 0: off; NULL: the same */
    pqp_tally *tally;                         /* its own; NULL: nothing is counted */
    void *owner;
    int window;             /* most statements in flight */
    bool pooled;            /* behind a pooler: see unit.c */
    pqp_time round_trip;    /* to the server */
    int session_timeout_ms; /* the session's own statement_timeout; 0: none */
    pqp_time cost_cap;      /* a run that took longer counts as this much */

    _Atomic(pqp_stmt *) inbox; /* newest first */
    _Atomic int held;          /* mirrors mu; see the essay */
    _Atomic int users;         /* callers that are bound to this lane */
    _Atomic int accepting;     /* may a new caller bind himself? */
    _Atomic int ended;         /* dead or condemned: whatever is put on it comes back unsent */
    _Atomic int load;          /* statements not yet answered: a hint for routing */
    _Atomic int64_t served;    /* statements ended so far */
    _Atomic int forsaken;      /* the event loop has not come yet, or was too late: it must come by itself */
    _Atomic int64_t
        head_since; /* since when the head of the flight has been running; 0: the flight is empty */

    pqp_mutex mu;
    /* guarded by mu */
    pqp_stmt_list backlog; /* accepted, not sent */
    pqp_stmt_list flight;  /* sent, in the order sent: the truth about what comes back */
    size_t flight_bytes;
    pqp_stmt *answering;     /* of the head unit: whose answer comes next; NULL: the head's */
    bool held_up;            /* the keeper knows that it must look whether the backlog is held up */
    int head_reads;          /* since the head unit's last answer */
    int64_t head_bytes;      /* read for it, as far as they were counted */
    pqp_time unwanted_since; /* the head is given up; 0: it is not */
    bool cancel_asked;       /* for this head */
    bool cancelling;         /* the server is being asked to cancel the head: nothing is sent */
    bool large;              /* an answer was larger than max_buffer: the connection is to be replaced */
    bool cut;                /* the connection was given up with work on it */
    int unsynced;            /* this many at the end of the flight have no Sync yet */
    pqp_time sending_at;     /* when the sending under way began */
    bool sound;              /* the round trip is to be measured when the flight is empty */
    pqp_time sounded_at;
    pqp_prepared_set prepared; /* its place 0 is set_config()'s; plan n has place n + 1 */
    pqp_driver driver;
    pqp_call *driver_call; /* of PQP_DRIVER_CALL */
    bool polls_write;      /* the driver's wait under way looks for WRITE; only he sets it */
    bool want_write;       /* the transport has more to write */
    bool driver_at_work;   /* he has accepted the role, and not given it back */
    bool driver_awake;     /* he holds the lock, and will look at his call before he sleeps */
    bool kick;             /* the driver must look again */
    int attending;         /* calls whose owners wait */
    bool guests;           /* somebody has come by of late */
    bool looked_after;     /* the keeper knows that it must look whether guests still come */
    bool in_loop;          /* the socket is watched by loop_fd */
    bool unread;           /* the keeper saw that there was something to read, and nobody has read since */
    pqp_time unread_at;
    pqp_time pause_after; /* the driver makes no pause before this time; his own */
    pqp_time ended_at;    /* when units last ended, in a pump, and what each of these took, as they came */
    pqp_time pace;
    bool orphaned;          /* the keeper must be told that it drives, or has to look after guests */
    bool tainted;           /* a statement that taints has been seen */
    bool condemned;         /* takes and sends nothing more, drains, is closed */
    bool dead;              /* the connection is gone; nothing is in it any more */
    int ends;               /* NULLs since the last result */
    bool freed;             /* statements have ended */
    int ended_now;          /* units, in the pump under way */
    const char *ended_text; /* the last one's SQL, if its owner is there; only in a pump */
    pqp_time alarm;  /* the keeper must look for statements that are past their time and have no waiter */
    pqp_call *wakes; /* words to give after the lock is dropped, in order */
    pqp_call *last_wake;
    pqp_time undriven_since; /* watchdog builds */
    pqpool_error why;        /* of condemned or dead; constant from then on */
} pqp_lane;

/* It has failed, and may be run once more, parsed anew: whether it is, is for its owner to say. */
static inline bool pqp_stmt_may_heal(const pqp_stmt *m)
{
    return (m->stale || m->doubtful) && !m->unnamed;
}

/* A statement goes back to where it came from. No lock needed. */
void pqp_stmt_put(pqp_depot *stmts, pqp_stmt *m);

/* Takes nothing new; what it has goes on. Takes no lock. */
void pqp_flight_retire(pqp_lane *l);

void pqp_flight_enter(pqp_lane *l, pqp_stmt *m);  /* it has been sent */
void pqp_flight_pump(pqp_lane *l, bool readable); /* reads, writes, and takes the answers that are there */
/* Nothing is in flight: takes in what has come all the same. */
void pqp_flight_hear(pqp_lane *l);
/* The statement is over, and in no list. */
void pqp_flight_finish(pqp_lane *l, pqp_stmt *m, pqpool_code code, pqpool_outcome outcome);
/* The connection is gone; fatal: what the server said, or NULL. */
void pqp_flight_lose(pqp_lane *l, const pqp_answer *fatal);
/* It takes and sends nothing more. culprit: a statement's text, or NULL. */
void pqp_flight_condemn(pqp_lane *l, const char *reason, const char *culprit);
void pqp_flight_return_backlog(pqp_lane *l); /* unsent, to its owners */
/* The same for calls of which nothing is sent: others may take them. Those that are under way keep their order. */
void pqp_flight_return_unsent(pqp_lane *l);

bool pqp_flight_due(const pqp_stmt *m, pqp_time now); /* it has no answer and its time is over */
/* It gets no answer: unsent, it leaves the lane; in flight, it keeps its place. */
void pqp_flight_give_up(pqp_lane *l, pqp_stmt *m, pqpool_code code);
/* What is past its time at the front of the backlog is not sent; its owners are told. */
void pqp_flight_drop_due(pqp_lane *l, pqp_time now);
/* The head is given up, nothing stands behind it that is wanted, and nothing will: a request to cancel can hit nothing
 * else. */
bool pqp_flight_may_cancel(const pqp_lane *l);
/* A statement's SQL, as long as its owner is still there; else NULL. */
const char *pqp_flight_text(const pqp_stmt *m);
/* Answers have just come, fast, and so many more will that it is better to let some gather. */
bool pqp_flight_flows(const pqp_lane *l);
void pqp_flight_fence_stall(pqp_lane *l); /* the head, or whether it is given up, has changed */

bool pqp_flight_drives(const pqp_lane *l, const pqp_call *call);
void pqp_flight_wake(pqp_lane *l, pqp_call *call, int word); /* when the lock is left */

#endif
