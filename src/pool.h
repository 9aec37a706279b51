/*
 * pool: what there is, who waits, and what is to happen next. The one place where slots change their state.
 *
 * All policy is in one function, settle(), which pqp_pool_unlock() runs each time the mutex is given up: idle
 * connections go to who has waited longest, connects are ordered for those whom none covers, lanes are
 * drained for leases that nothing else can serve, what is too much is closed. So no path that frees something
 * can forget to serve a waiter: the path only moves the slot.
 */
#ifndef PQP_POOL_H
#define PQP_POOL_H

#include "base.h"
#include "clock.h"
#include "depot.h"
#include "error.h"
#include "event.h"
#include "call.h"
#include "options.h"
#include "queue.h"
#include "session.h"
#include "slot.h"

enum { PQP_LANES_MAX = 64 };

/* The pool is used for statements under this many milliseconds of unbroken pressure before it opens one more
 * shared connection, and pressure is this many statements on the emptiest one. doc/ARCHITECTURE.md says
 * why. */
enum { PQP_GROW_LOAD = 8, PQP_GROW_MS = 50 };

struct pqpool {
    uint64_t magic;
    unsigned process;  /* of the process that opened it (pqp_process()) */
    pqp_target target; /* constant */
    char name[PQP_NAME_SIZE + 192];
    pqp_events events;
    pqp_depot waiters, calls, stmts;
    int keeper_fd; /* eventfd: wakes the keeper */
    int epoll_fd;  /* the keeper's: every connection's socket is in it */
    pthread_t keeper;

    /* For routing without the mutex; written under it. */
    _Atomic(pqp_lane *) lanes[PQP_LANES_MAX];
    _Atomic int n_lanes_top;        /* no lane at or beyond this index */
    _Atomic int64_t pressure_since; /* ns; 0: none */
    _Atomic int64_t acquire_timeout_ms, statement_timeout_ms, slow_ms, lanes_limit; /* mirrors of options */
    _Atomic int calls_inside; /* exported functions running in it */
    _Atomic int closed;       /* mirrors closing */
    _Atomic int lane_wanted;  /* a lease waits until the last lane is idle: settle when it is */

    pqp_mutex mu;
    /* guarded by mu */
    pqp_options options;
    pqp_slots slots;
    pqp_queue queue;
    pqp_waiter *wakes;      /* words to give after the unlock */
    bool kick;              /* the keeper has something to do */
    bool closing, stopping; /* closed to callers; the keeper is to end */
    bool grow;              /* pressure asks for one more lane */
    int warm;               /* initial_size, until reached */
    int failures;           /* connect attempts failed in a row */
    pqp_time failed_at;     /* the last one */
    bool refused;           /* the last one was refused for good */
    pqp_time next_attempt;  /* while failures > 0 */
    pqpool_error last_failure;
    pqp_time due; /* earliest thing settle() knows of that time alone will bring */
    int32_t connection_ids;
    int refs;         /* the handle, and one for each job; the last one frees the memory */
    int jobs;         /* running, not orphaned */
    pqp_cond changed; /* a slot became EMPTY or was given back, a job ended */
    int64_t connects, connect_failures, closes, acquires, releases, timeouts, enqueues, shared_grown;
};

/* Everything but threads. name, target and options are taken over. */
pqpool *pqp_pool_new(const pqp_options *options, pqp_target *target, const pqpool_hooks *hooks,
                     pqpool_error *err) PQP_MUSTCHECK;
void pqp_pool_unref(pqpool *p, int jobs); /* with so many errands ended; no lock held */

void pqp_pool_lock(pqpool *p);
void pqp_pool_unlock(pqpool *p); /* the one way out: settles, wakes, tells */
void pqp_pool_kick(void *pool);  /* wakes the keeper; no lock needed */

void pqp_pool_settle_locked(pqpool *p);
void pqp_pool_due_locked(pqpool *p, pqp_time at); /* the keeper must look at this time at the latest */

/* The idle slot used last, lent to the caller; NULL: there is none, or an older ticket waits. */
pqp_slot *pqp_pool_lend_idle_locked(pqpool *p, uint64_t ticket);
/* Lanes a caller may bind himself to; a lost one keeps its slot until its last caller has gone. */
int pqp_pool_lanes_open_locked(const pqpool *p);
/* Closes a slot's connection. */
void pqp_pool_scrap_locked(pqpool *p, pqp_slot *slot, const char *reason);
/* The same for one that a check refused: the next connect waits a little, as after one that failed. */
void pqp_pool_reject_locked(pqpool *p, pqp_slot *slot, const char *reason);

void pqp_pool_fail_waiters_locked(pqpool *p, const pqpool_error *why);

/* Takes new options into force; the mutex is held. */
pqpool_code pqp_pool_reconfigure_locked(pqpool *p, const pqp_options *options,
                                        pqpool_error *err) PQP_MUSTCHECK;

/* What jobs report; each moves the slot. */
void pqp_pool_connected_locked(pqpool *p, pqp_slot *slot, PGconn *conn, int fd, int backend_pid);
void pqp_pool_connect_failed_locked(pqpool *p, pqp_slot *slot, const pqpool_error *why, bool for_good);
void pqp_pool_shared_locked(pqpool *p, pqp_slot *slot);                          /* RESETTING -> LANE */
void pqp_pool_unshareable_locked(pqpool *p, pqp_slot *slot, const char *reason); /* RESETTING -> CLOSING */
void pqp_pool_cleaned_locked(pqpool *p, pqp_slot *slot); /* RESETTING, PROBING -> IDLE */
void pqp_pool_emptied_locked(pqpool *p, pqp_slot *slot); /* CLOSING -> EMPTY */
/* A lane takes nothing new any more. */
void pqp_pool_drain_locked(pqpool *p, pqp_slot *slot);
/* A drained or lost lane is vacant: RESETTING or CLOSING. */
void pqp_pool_vacated_locked(pqpool *p, pqp_slot *slot, const char *lost);

/* Callers waiting that no connect under way covers; live connections. */
int pqp_pool_waiting_locked(const pqpool *p);
int pqp_pool_live_locked(const pqpool *p);

void pqp_pool_event_locked(pqpool *p, int id, const pqp_slot *slot, int64_t wait_us, const char *text);
void pqp_pool_stats_locked(pqpool *p, pqpool_stats_data *out);

#endif
