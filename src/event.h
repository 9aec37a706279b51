/*
 * event: what the pool tells the outside: typed events through one hook, and log lines.
 *
 * Events are noted under the pool's mutex, where their order is decided, and handed out after it is dropped,
 * by a thread that just leaves; one at a time, in order: first to the hook, then, by their level, as a line to the log.
 * The ring is bounded: a hook too slow for it loses events, which are counted, and the count is told.
 *
 * A hook may take its time, and so may a write to stderr. So a thread that leaves hands out a bounded number for a bounded
 * time, and a thread that others wait for (the keeper) hands out none: what remains is for the next that leaves, or for a
 * thread of its own, which the keeper starts (connector.c). In the keeper a log line is noted like an event, with id 0.
 */
#ifndef PQP_EVENT_H
#define PQP_EVENT_H

#include "base.h"
#include <pqpool-ops.h>

enum { PQP_EVENT_RING = 512, PQP_EVENT_TEXT = 960 };

/* A caller: his place in his source (file: NULL if not known; it lives as long as the pool) and his thread. */
typedef struct pqp_site {
    const char *file;
    int32_t line;
    int32_t thread; /* 0: none blocks */
} pqp_site;

/* "file.c:57", the end of a long path; returns its buffer. */
enum { PQP_SITE_TEXT = 100 };
const char *pqp_site_text(const pqp_site *site, char text[PQP_SITE_TEXT]);

typedef struct pqp_event_note {
    pqpool_event event;
    char text[PQP_EVENT_TEXT];
} pqp_event_note;

typedef struct pqp_events {
    pqpool_hooks hooks; /* constant */
    const char *pool_name;
    _Atomic int level; /* log lines above it are not made */
    _Atomic int noted; /* something lies in the ring: saves the lock */
    _Atomic int handing_out;
    void (*tell_keeper)(
        void *owner); /* there is something that no thread hands out; NULL: the next that leaves will */
    void *owner;

    pqp_mutex mu;
    /* guarded by mu */
    pqp_event_note *ring; /* NULL: nothing was ever told */
    int first, count;
    int64_t dropped;
    int32_t dropped_untold;
} pqp_events;

int pqp_events_init(pqp_events *ev, const pqpool_hooks *hooks, const char *pool_name) PQP_MUSTCHECK;
void pqp_events_fini(pqp_events *ev);

/* Why a connection was closed, in a sentence; static. */
const char *pqp_close_text(pqpool_close_reason reason);

/* Whether anybody is told of such an event; no lock needed. */
bool pqp_event_wanted(pqp_events *ev, int id);

/* Notes an event; any lock of a lower rank may be held. `what` has all but size, pool_name and text; text may be
 * NULL and is copied. */
void pqp_event_note_down(pqp_events *ev, const pqpool_event *what, const char *text);

/* Hands out what is noted, or some of it. No lock may be held. */
void pqp_events_hand_out(pqp_events *ev);
/* The calling thread never does: others wait for it. */
void pqp_events_defer_here(void);
/* Something is noted, and no thread hands it out. */
bool pqp_events_wait(pqp_events *ev);
/* Hands out until there is nothing more, for a thread that has nothing else to do. */
void pqp_events_hand_out_all(pqp_events *ev);

int64_t pqp_events_dropped(pqp_events *ev);

/* A log line, at once, or noted where the thread defers. No lock may be held. */
void pqp_log(pqp_events *ev, pqpool_log_level level, const char *fmt, ...) PQP_PRINTF(3, 4);

#endif
