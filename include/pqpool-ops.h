/*
 * pqpool-ops: what operators want to know: events and figures. Ordinary callers don't need it.
 */
#ifndef PQPOOL_OPS_H
#define PQPOOL_OPS_H

#include <pqpool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Levels of on_log and of the option log_level. */
typedef enum {
    PQPOOL_LOG_OFF = 0,
    PQPOOL_LOG_ERROR,
    PQPOOL_LOG_WARN,
    PQPOOL_LOG_INFO,
    PQPOOL_LOG_DEBUG
} pqpool_log_level;

typedef enum {
    PQPOOL_EVENT_CONNECT = 1, /* a new connection is up, in the pool, and goes to the longest waiter */
    PQPOOL_EVENT_ACQUIRE,     /* a lease began */
    PQPOOL_EVENT_ENQUEUE, /* a caller has to wait: no idle connection, and no connect under way covers it */
    PQPOOL_EVENT_DEQUEUE, /* an enqueued caller was served */
    PQPOOL_EVENT_RELEASE, /* a lease ended */
    PQPOOL_EVENT_CLOSE,   /* a connection left the pool; text tells why */
    PQPOOL_EVENT_TIMEOUT, /* a waiting caller's deadline passed */
    PQPOOL_EVENT_CONNECT_FAILED, /* an attempt to connect failed; text holds the server's words */
    PQPOOL_EVENT_DISCARDED, /* this many events (wait_us holds the number) were dropped for want of room */
} pqpool_event_id;

/* An event. Valid only while on_event runs. Fields that do not apply are 0 or "". */
struct pqpool_event {
    size_t size;
    int32_t id;            /* pqpool_event_id */
    int32_t connection;    /* the pool's own number of the connection, from 1, never used twice; 0: none */
    int32_t backend_pid;   /* the server's process, as PQbackendPID */
    int32_t waiting;       /* callers waiting, after the event */
    int64_t wait_us;       /* ACQUIRE, DEQUEUE, TIMEOUT: how long the caller waited */
    const char *pool_name; /* never NULL */
    const char *text;      /* never NULL */
};

/* "enqueue", "connect" ...; static. "unknown" for a number that is none. */
const char *pqpool_event_name(int id);

/*
 * The pool in figures, at one instant: the gauges are taken under one lock and always add up:
 * total = idle + leased + shared + connecting + resetting + probing + draining + closing <= limit (more than
 * limit only while a max_size that was just lowered waits for leases to end).
 */
typedef struct pqpool_stats_data {
    size_t size; /* in: sizeof of the caller's struct, by PQPOOL_STATS */
    int32_t limit, total, idle, leased, shared, connecting, resetting, probing, draining, closing;
    int32_t waiting;    /* callers waiting that no connect under way covers */
    int32_t statements; /* statements on shared connections, sent or not, unanswered */
    int64_t connects, connect_failures, closes;
    int64_t acquires, releases, timeouts, enqueues;
    int64_t shared_grown;   /* times the pressure opened one more shared connection */
    int64_t events_dropped; /* events the hook was too slow for */
    int32_t
        unsent; /* statements that wait for room on a shared connection, or for the first one; a group counts once */
    int32_t alone; /* connections that one slow or large statement has to itself; counted in shared */
    int32_t
        stalled; /* shared connections whose statement runs longer than stall_threshold: they take no more */
    int32_t promised; /* tickets and callbacks that are out */
} pqpool_stats_data;
#define PQPOOL_STATS .size = sizeof(pqpool_stats_data)

/* Fills *stats, at most stats->size bytes of it. Does not block. EINVAL for NULL or a size of 0.
 * Thread-safe. */
pqpool_code pqpool_stats(pqpool *pool, pqpool_stats_data *stats);

#ifdef __cplusplus
}
#endif
#endif
