/*
 * fleet: what a pool has: its connections, who waits for them, its options and counters; how they are counted,
 * and the moves a connection makes. What is to be done with it all is decided in pool.c.
 *
 * Functions that end in _locked are called with the pool's mutex held.
 */
#ifndef PQP_FLEET_H
#define PQP_FLEET_H

#include "base.h"
#include "call.h"
#include "clock.h"
#include "delivery.h"
#include "depot.h"
#include "dial.h"
#include "error.h"
#include "event.h"
#include "histogram.h"
#include "options.h"
#include "patience.h"
#include "plan.h"
#include "queue.h"
#include "session.h"
#include "slot.h"

enum { PQP_LANES_MAX = 64 };

/* The pool is used for statements under this many milliseconds of unbroken pressure before it opens one more
 * shared connection, and pressure is this many statements on the emptiest one. doc/ARCHITECTURE.md says
 * why. */
enum { PQP_GROW_LOAD = 8, PQP_GROW_MS = 50 };

/* A lease older than this is looked at now and then. */
#define PQP_LOOK_AGE (100 * PQP_MS)

struct pqpool {
    uint64_t magic;
    unsigned process;  /* of the process that opened it (pqp_process()) */
    pqp_target target; /* constant */
    pqp_dialled dialled;
    char name[PQP_NAME_SIZE + 192];
    pqp_events events;
    pqp_depot sleepers, standings, runs, tickets, requests, stmts;
    pqp_plans plans;
    pqp_delivery delivery; /* what pqpool_dispatch() will hand out */
    int keeper_fd;         /* eventfd: wakes the keeper */
    int epoll_fd;          /* the keeper's: every connection's socket is in it */
    pthread_t keeper;

    /* For routing without the mutex; written under it. */
    _Atomic(pqp_lane *) lanes[PQP_LANES_MAX];
    _Atomic int n_lanes_top;                                           /* no lane at or beyond this index */
    _Atomic int64_t pressure_since;                                    /* ns; 0: none */
    _Atomic int64_t acquire_timeout_ms, statement_timeout_ms, slow_ms; /* mirrors of options */
    _Atomic int64_t max_result, max_buffer;                            /* the same; 0: off */
    _Atomic int64_t lanes_limit, stall_time, slow_lane_time;
    _Atomic int depth, test_on_borrow, backtrace; /* the same */
    _Atomic int64_t round_trip;                   /* ns, smoothed; 0: not known */
    _Atomic int64_t reported;     /* by the newest connection: server version, and client_encoding plus one; 0: none */
    _Atomic int stalls_sought;   /* the keeper looks whether statements stand behind one that does not end */
    _Atomic int keeps_state;     /* reset=none: what a lease leaves is the next one's */
    _Atomic int sharers_waiting; /* statements that wait for room: new ones go behind them */
    _Atomic int calls_inside;    /* exported functions running in it */
    struct {
        _Atomic int64_t timed_out, lost, canceled, refused, unknown, repeated;
    } ends;                  /* of statements: how those ended that have no answer of the server's */
    _Atomic int promised;    /* tickets and callbacks that are out */
    _Atomic int closed;      /* mirrors closing */
    _Atomic int rejecting;   /* connections come up, and are refused before anybody has used one */
    _Atomic int lane_wanted; /* a lease waits until the last lane is idle: settle when it is */

    pqp_mutex mu;
    /* guarded by mu */
    pqp_options options;
    pqp_slots slots;
    pqp_queue queue;
    pqp_waiter *wakes; /* words to give after the unlock, in order */
    pqp_waiter *last_wake;
    pqp_slot *nudges;       /* lanes on which something was put, to be sent after the unlock */
    pqp_call *again;        /* calls without an owner that waits, to be placed once more: the keeper's */
    bool kick;              /* the keeper has something to do */
    bool closing, stopping; /* closed to callers; the keeper is to end */
    bool grow;              /* pressure asks for one more lane */
    int warm;               /* initial_size, until reached */
    int failures;           /* connect attempts failed in a row */
    pqp_time failed_at;     /* the last one */
    bool refused;           /* the last one was refused for good */
    /* While failures > 0: when to try again; sooner if somebody waits, be it since later. */
    pqp_time next_attempt, next_attempt_waited;
    pqp_time next_attempt_served; /* not sooner than this, while connections serve */
    pqpool_error last_failure;
    pqp_time trouble_since; /* connects fail since then; 0: they don't */
    int trouble_count;      /* ... so many */
    int failures_untold;    /* ... of them since the last event */
    pqp_time failure_told;  /* ... which was at this time */
    pqp_time outage_since;  /* they fail, and no connection serves, as far as settle() has seen; 0: not so */
    bool renew;             /* a connection is to be made so that one past its lifetime may go */
    pqp_time due;           /* earliest thing settle() knows of that time alone will bring */
    pqp_time alarm;         /* earliest deadline of a waiter that nobody sleeps for */
    int32_t connection_ids;
    int errands;           /* threads of connector.c that have not been joined */
    struct pqp_job *ended; /* of these, those that are at their end */
    bool telling;          /* one of them hands out events */
    bool keeper_ended;
    pqp_cond changed; /* a slot became EMPTY or was given back, an errand ended */
    int64_t connects, connect_failures, closes, acquires, releases, timeouts, enqueues, shared_grown;
    int64_t closed_by[PQPOOL_CLOSE_REASONS];
    int64_t left_open, left_running, left_changed, cancels, cancels_failed;
    int64_t leaks, unleaks, long_holds, nested, pool_locks, evictions, suspensions;
    pqp_time gave_up, connected_at; /* a silent connection was, for want of room; a connect came up */
    pqp_time stood_behind;          /* when the keeper last saw a statement behind another */
    pqp_time heard_idle;            /* when the keeper last looked at what has arrived on idle connections */
    int64_t acquires_seen;          /* by the keeper, at its last look */
    pqpool_histogram wait, use, create;
    pqp_tally seldom; /* errors that might have been healed */
    bool suspended;   /* nobody is served */
    uint32_t era;     /* counts pqpool_evict(): connections begun in an earlier one are to go */
    /* Since the last check of the pool's health. */
    pqp_time health_since;
    int idle_all_along, peak_leased;
    pqpool_error blame; /* who has what everybody wants: its message, made then */
    pqp_time blamed_at;
};

/* Room for one run of statements (run.h), and for a ticket (ticket.h): their sizes are known to higher layers, which
 * assert them. Both begin with a call. */
enum { PQP_RUN_SIZE = 272, PQP_TICKET_SIZE = 440, PQP_REQUEST_SIZE = 1400 };

/* ---- making and unmaking ---- */

/* Everything but threads. name, target and options are taken over. */
pqpool *pqp_fleet_new(const pqp_options *options, pqp_target *target, const pqpool_hooks *hooks,
                      pqpool_error *err) PQP_MUSTCHECK;
void pqp_fleet_free(pqpool *p); /* no thread uses it any more */

/* Takes new options into force; the mutex is held. */
pqpool_code pqp_fleet_reconfigure_locked(pqpool *p, const pqp_options *options,
                                         pqpool_error *err) PQP_MUSTCHECK;

/* ---- counting ---- */

/* Shared connections, there or being made; those of one caller alone are not among them. */
int pqp_fleet_lanes_locked(const pqpool *p);
/* Those that take statements, now or as soon as they have room: one that stalls is replaced meanwhile, beyond
 * shared_max. */
int pqp_fleet_lanes_open_locked(const pqpool *p, pqp_time now);
/* Being made for any caller; `soon`: but not those that have been silent for too long. */
int pqp_fleet_building_locked(const pqpool *p, bool soon);
/* On their way to be idle, with nothing that could keep them. `late`: also lanes that are being drained for a caller,
 * and still have statements on them, which may take any time. */
int pqp_fleet_underway_locked(const pqpool *p, bool late);
/* Statements wait, and no shared connection that could take them is there or being made. */
bool pqp_fleet_lane_needed_locked(pqpool *p, pqp_time now);
/* Connections that those who wait could use, at most. */
int pqp_fleet_demand_locked(pqpool *p, pqp_time now);
/* Callers and statements waiting that no connection under way covers. */
int pqp_fleet_waiting_locked(pqpool *p);
/* Whose lane it is. */
pqp_slot *pqp_fleet_slot_of_locked(const pqpool *p, const pqp_lane *lane);
/* Connections that somebody uses: leases, and lanes with statements on them. */
int pqp_fleet_in_use_locked(const pqpool *p);
/* Walks over the lanes, those that are being drained last: NULL begins, and ends. */
pqp_slot *pqp_fleet_next_lane_locked(const pqpool *p, const pqp_slot *lane);
/* How long a connection may be idle. */
pqp_time pqp_fleet_idle_time_locked(const pqpool *p);
/* Connections that are up. */
int pqp_fleet_live_locked(const pqpool *p);
/* Those of them that have not been seen to hang up. */
int pqp_fleet_serving_locked(const pqpool *p);
void pqp_fleet_stats_locked(pqpool *p, pqpool_stats_data *out);

static inline int pqp_fleet_in(const pqpool *p, pqp_slot_state state)
{
    return p->slots.in[state].count;
}

/* ---- telling ---- */

/* An event: about a connection (or NULL), with a text (or NULL), and what else is known: PQP_TELL(p, PQPOOL_EVENT_CLOSE,
 * slot, "why", .reason = ...). */
void pqp_fleet_tell_locked(pqpool *p, const pqp_slot *slot, const char *text, pqpool_event what);
#define PQP_TELL(p, what, slot, text, ...)                                                                   \
    pqp_fleet_tell_locked((p), (slot), (text), (pqpool_event){.id = (what), __VA_ARGS__})

void pqp_fleet_kick(void *pool);                   /* wakes the keeper; no lock needed */
void pqp_fleet_due_locked(pqpool *p, pqp_time at); /* the keeper must look at this time at the latest */

/* ---- moving ---- */

/* Closes a slot's connection; why: what more there is to say of the reason, or NULL. */
void pqp_fleet_scrap_locked(pqpool *p, pqp_slot *slot, pqpool_close_reason reason);
void pqp_fleet_scrap_for_locked(pqpool *p, pqp_slot *slot, pqpool_close_reason reason, const char *why);
/* To one caller, for himself, who has been waiting since then. */
void pqp_fleet_lend_locked(pqpool *p, pqp_slot *slot, const pqp_site *site, pqp_time since, pqp_time now);
/* An idle connection is taken out of circulation while the server is asked something over it. */
void pqp_fleet_probe_locked(pqpool *p, pqp_slot *slot, pqp_time now);
/* The same for one that was just lent, and whose test is silent: its answer is awaited in the background. */
void pqp_fleet_put_aside_locked(pqpool *p, pqp_slot *slot);
/* The waiter for whom a lane is being made waits on, where he stood. */
void pqp_fleet_stand_again_locked(pqpool *p, pqp_slot *slot);
/* So long a round trip has taken. No lock needed. */
void pqp_fleet_note_round_trip(pqpool *p, pqp_time round_trip);
/* What one is waited for: patience.h. The same. */
pqp_time pqp_fleet_patience(const pqpool *p);
/* Begins to make an idle connection a lane, for everybody or for one waiter alone. */
void pqp_fleet_share_locked(pqpool *p, pqp_slot *slot, pqp_waiter *alone);
/* A lane takes nothing new any more. */
void pqp_fleet_drain_locked(pqpool *p, pqp_slot *slot);
/* A lane is open to everybody from here on; false: there is no place for it. */
bool pqp_fleet_publish_locked(pqpool *p, pqp_slot *slot) PQP_MUSTCHECK;

/* What was seen on the way to a choice. */
typedef struct pqp_choice {
    int lanes; /* open to everybody */
    int least; /* statements on the emptiest of those that are not stalled */
} pqp_choice;

/* Room for so many statements on the shared connection with the least to do, reserved and pinned; NULL: there is
 * none. Takes no lock. */
pqp_lane *pqp_fleet_reserve(pqpool *p, int members, pqp_time now, pqp_choice *choice) PQP_MUSTCHECK;

void pqp_fleet_unreserve(pqp_lane *lane, int members); /* nothing was put on it */

/* A waiter has a word to be given after the unlock; a lane has something in its inbox. */
void pqp_fleet_wake_locked(pqpool *p, pqp_waiter *w, int word);
void pqp_fleet_nudge_locked(pqpool *p, pqp_slot *slot);
void pqp_fleet_fail_locked(pqpool *p, pqp_waiter *w, const pqpool_error *why);

#endif
