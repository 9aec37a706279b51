#include "event.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define EVENTS(X)                                                                                            \
    X(PQPOOL_EVENT_CONNECT, "connect")                                                                       \
    X(PQPOOL_EVENT_ACQUIRE, "acquire")                                                                       \
    X(PQPOOL_EVENT_ENQUEUE, "enqueue")                                                                       \
    X(PQPOOL_EVENT_DEQUEUE, "dequeue")                                                                       \
    X(PQPOOL_EVENT_RELEASE, "release")                                                                       \
    X(PQPOOL_EVENT_CLOSE, "close")                                                                           \
    X(PQPOOL_EVENT_TIMEOUT, "timeout")                                                                       \
    X(PQPOOL_EVENT_CONNECT_FAILED, "connect_failed")                                                         \
    X(PQPOOL_EVENT_DISCARDED, "discarded")

const char *pqpool_event_name(int id)
{
    switch (id) {
#define NAME(id, name)                                                                                       \
    case id:                                                                                                 \
        return name;
        EVENTS(NAME)
    default:
        return "unknown";
    }
}

int pqp_events_init(pqp_events *ev, const pqpool_hooks *hooks, const char *pool_name)
{
    memset(ev, 0, sizeof *ev);
    if (hooks)
        memcpy(&ev->hooks, hooks, PQP_MIN(hooks->size, sizeof ev->hooks));
    ev->pool_name = pool_name;
    if (ev->hooks.on_event && !(ev->ring = calloc(PQP_EVENT_RING, sizeof *ev->ring)))
        return ENOMEM;
    int rc = pqp_mutex_init(&ev->mu, PQP_RANK_EVENT);
    if (rc != 0)
        free(ev->ring);
    return rc;
}

void pqp_events_fini(pqp_events *ev)
{
    pqp_mutex_destroy(&ev->mu);
    free(ev->ring);
}

static void append(pqp_events *ev, const pqpool_event *what, const char *text)
{
    pqp_event_note *note = &ev->ring[(ev->first + ev->count++) % PQP_EVENT_RING];
    note->event = *what;
    note->event.size = sizeof note->event;
    note->event.pool_name = ev->pool_name;
    snprintf(note->text, sizeof note->text, "%s", text ? text : "");
}

void pqp_event_note_down(pqp_events *ev, const pqpool_event *what, const char *text)
{
    if (!ev->ring)
        return;
    pqp_mutex_lock(&ev->mu);
    if (ev->count < PQP_EVENT_RING - 1) {
        append(ev, what, text);
    } else {
        ev->dropped++;
        ev->dropped_untold++;
    }
    pqp_store(&ev->noted, 1);
    pqp_mutex_unlock(&ev->mu);
}

/* Takes the next event to tell; the count of lost ones comes when there is room again, behind the last
 * kept. */
static bool take(pqp_events *ev, pqp_event_note *note)
{
    if (ev->count == 0 && ev->dropped_untold > 0) {
        append(ev, &(pqpool_event){.id = PQPOOL_EVENT_DISCARDED, .wait_us = ev->dropped_untold}, "");
        ev->dropped_untold = 0;
    }
    if (ev->count == 0)
        return false;
    *note = ev->ring[ev->first];
    note->event.text = note->text;
    ev->first = (ev->first + 1) % PQP_EVENT_RING;
    ev->count--;
    return true;
}

void pqp_events_hand_out(pqp_events *ev)
{
    if (!ev->ring || !pqp_load(&ev->noted))
        return;
    pqp_event_note note;
    pqp_mutex_lock(&ev->mu);
    if (!ev->handing_out) {
        ev->handing_out = true;
        while (take(ev, &note)) {
            pqp_mutex_unlock(&ev->mu);
            ev->hooks.on_event(&note.event, ev->hooks.arg);
            pqp_mutex_lock(&ev->mu);
        }
        pqp_store(&ev->noted, 0);
        ev->handing_out = false;
    }
    pqp_mutex_unlock(&ev->mu);
}

int64_t pqp_events_dropped(pqp_events *ev)
{
    pqp_mutex_lock(&ev->mu);
    int64_t dropped = ev->dropped;
    pqp_mutex_unlock(&ev->mu);
    return dropped;
}

void pqp_log(pqp_events *ev, pqpool_log_level level, const char *fmt, ...)
{
    static const char *const names[] = {"off", "error", "warn", "info", "debug"};
    if ((int)level > pqp_peek(&ev->level))
        return;
    char line[1400];
    va_list args;
    va_start(args, fmt);
    int at =
        ev->hooks.on_log ? 0 : snprintf(line, sizeof line, "pqpool[%s] %s: ", ev->pool_name, names[level]);
    vsnprintf(line + at, sizeof line - (size_t)at - 1, fmt, args);
    va_end(args);
    if (ev->hooks.on_log) {
        ev->hooks.on_log((int)level, line, ev->hooks.arg);
        return;
    }
    size_t length = strlen(line);
    line[length++] = '\n';
    (void)!write(STDERR_FILENO, line, length); /* one call, so that lines of several threads stay whole */
}
