#include "watch.h"

#include <stdio.h>

#include "trace.h"

/* ---- leaks ---- */

void pqp_watch_tell_leak_locked(pqpool *p, pqp_slot *s)
{
    pqpool_holder h;
    char doing[PQP_EVENT_TEXT], trace[PQP_EVENT_TEXT / 2];
    pqp_holder_describe_locked(s, pqp_now(), &h);
    pqp_holder_doing(&h, doing, sizeof doing);
    pqp_trace_text(h.frames, h.n_frames, trace, sizeof trace);
    size_t at = strlen(doing);
    snprintf(doing + at, sizeof doing - at, "%s%s", *trace ? "; acquired by " : "", trace);
    s->leak_untold = false;
    PQP_TELL(p, PQPOOL_EVENT_LEAK, s, doing, .hold_us = h.held_us, .idle_tx_us = h.idle_tx_us);
}

static void tell_leaks(pqpool *p)
{
    for (pqp_slot *s = p->slots.in[PQP_SLOT_LEASED].head; s; s = s->link.next)
        if (s->leak_untold)
            pqp_watch_tell_leak_locked(p, s);
}

/* Somebody to ask the server; it is probed by the way. */
static bool send_asker(pqpool *p, pqp_time now)
{
    pqp_slot *idle = p->slots.in[PQP_SLOT_IDLE].tail;
    if (!idle)
        return false;
    pqp_fleet_probe_locked(p, idle, now);
    return true;
}

void pqp_watch_find_leaks_locked(pqpool *p, pqp_time now)
{
    pqp_time patience = p->options.leak_threshold * PQP_MS;
    bool found = false;
    for (pqp_slot *s = p->slots.in[PQP_SLOT_LEASED].head; s && patience > 0; s = s->link.next) {
        if (s->leaked || s->ending)
            continue;
        if (s->since + patience > now) { /* so are those behind it */
            pqp_fleet_due_locked(p, s->since + patience);
            break;
        }
        s->leaked = s->leak_untold = found = true;
        p->leaks++;
    }
    if (found && !send_asker(p, now))
        tell_leaks(p);
}

/* ---- statements that hold up others ---- */

#define ASKER_LOOK (50 * PQP_MS) /* whether the connection has come up by which to ask */

/* By then it is worth a line in the log. */
static pqp_time stall_patience(pqpool *p)
{
    pqp_time stall = pqp_peek(&p->stall_time);
    return stall >= PQP_NEVER / 20 ? PQP_NEVER : PQP_MAX(PQP_SECOND, 20 * stall);
}

static const pqp_slot *lease_of(const pqpool *p, int backend_pid)
{
    for (const pqp_slot *s = p->slots.in[PQP_SLOT_LEASED].head; s && backend_pid; s = s->link.next)
        if (s->backend_pid == backend_pid && !s->ending)
            return s;
    return NULL;
}

/* blocker: the server process whose lock it waits for; 0: none, or the server was not asked. */
static void tell_stall(pqpool *p, pqp_slot *s, int blocker)
{
    pqp_time now = pqp_now(), since = pqp_peek(&s->lane->head_since);
    int behind = pqp_load(&s->lane->load) - 1;
    s->stall_untold = s->stall_asked = false;
    if (since != s->stall_told || behind <= 0) /* it has ended meanwhile */
        return;
    char sql[200], waits[120] = "", holder[200] = "", place[PQP_SITE_TEXT], text[PQP_EVENT_TEXT];
    const pqp_slot *lease = lease_of(p, blocker);
    (void)pqp_lane_head(s->lane, now, sql, sizeof sql);
    if (blocker)
        snprintf(waits, sizeof waits, "; it waits for a lock of pid %d", blocker);
    if (lease)
        snprintf(holder, sizeof holder, ", the lease of connection %d, acquired at %s by thread %d",
                 (int)lease->id, pqp_site_text(&lease->site, place), (int)lease->site.thread);
    snprintf(text, sizeof text,
             "it has run for %.1f s, and %d more stand behind it on the shared connection%s%s: %s",
             (double)(now - since) / (double)PQP_SECOND, behind, waits, holder, sql);
    pqpool_event what = {.id = PQPOOL_EVENT_STALL, .count = behind, .wait_us = (now - since) / 1000};
    if (lease) {
        what.file = lease->site.file;
        what.line = lease->site.line;
        what.thread = lease->site.thread;
    }
    pqp_fleet_tell_locked(p, s, text, what);
}

static void tell_stalls(pqpool *p, const pqp_survey *rows, int n)
{
    for (pqp_slot *s = NULL; (s = pqp_fleet_next_lane_locked(p, s));) {
        int blocker = 0;
        for (int i = 0; i < n; i++)
            if (rows[i].backend_pid == s->backend_pid)
                blocker = rows[i].blocked_by;
        if (rows ? s->stall_asked : s->stall_untold)
            tell_stall(p, s, blocker);
    }
}

/* Without an idle connection one is made, if there is room: that a request waits for itself is worth one. */
static void ask_for_stalls(pqpool *p, pqp_time now, pqp_time patience)
{
    bool waits = false, late = false;
    for (pqp_slot *s = NULL; (s = pqp_fleet_next_lane_locked(p, s));) {
        waits |= s->stall_untold && !s->stall_asked;
        late |= s->stall_untold && !s->stall_asked && now - s->stall_told >= patience + PQP_SECOND;
    }
    if (!waits)
        return;
    bool asks = send_asker(p, now);
    for (pqp_slot *s = NULL; asks && (s = pqp_fleet_next_lane_locked(p, s));)
        s->stall_asked |= s->stall_untold;
    if (asks)
        return;
    bool room = pqp_slots_total(&p->slots) < p->options.max_size || pqp_fleet_in(p, PQP_SLOT_CONNECTING) > 0;
    if (late || !room || p->failures > 0 || p->closing) {
        tell_stalls(p, NULL, 0);
        return;
    }
    p->renew = true;
    pqp_fleet_due_locked(p, now + ASKER_LOOK);
}

void pqp_watch_find_stalls_locked(pqpool *p, pqp_time now)
{
    pqp_time patience = stall_patience(p);
    bool behind = false;
    if (!pqp_load(&p->stalls_sought) || patience == PQP_NEVER)
        return;
    pqp_store(&p->stalls_sought, 0); /* before the look: who comes since finds it so, or is seen */
    for (pqp_slot *s = NULL; (s = pqp_fleet_next_lane_locked(p, s));) {
        pqp_time since = pqp_peek(&s->lane->head_since);
        if (pqp_load(&s->lane->load) < 2)
            continue;
        behind = true;
        if (since == 0 || s->stall_told == since) /* the first is about to be sent */
            continue;
        if (since + patience > now) {
            pqp_fleet_due_locked(p, since + patience);
            continue;
        }
        s->stall_told = since;
        s->stall_untold = true;
    }
    if (behind)
        p->stood_behind = now;
    if (now - p->stood_behind < PQP_SECOND) {
        pqp_store(&p->stalls_sought, 1);
        pqp_fleet_due_locked(p, p->stood_behind + PQP_SECOND);
    }
    ask_for_stalls(p, now, patience);
}

/* ---- what the server says ---- */

int pqp_watch_list_locked(pqpool *p, bool all, pqp_survey *rows, int room)
{
    int n = 0;
    for (const pqp_slot *s = p->slots.in[PQP_SLOT_LEASED].head; s && n < room; s = s->link.next)
        if (!s->ending && (all || s->leak_untold))
            rows[n++] = (pqp_survey){.backend_pid = s->backend_pid, .generation = s->generation};
    for (const pqp_slot *s = NULL; (s = pqp_fleet_next_lane_locked(p, s)) && n < room;)
        if (s->stall_asked)
            rows[n++] = (pqp_survey){.backend_pid = s->backend_pid, .generation = s->generation};
    return n;
}

void pqp_watch_heard_locked(pqpool *p, const pqp_survey *rows, int n)
{
    pqp_time now = pqp_now();
    for (pqp_slot *s = p->slots.in[PQP_SLOT_LEASED].head; s; s = s->link.next)
        for (int i = 0; i < n; i++) {
            bool same = rows[i].backend_pid == s->backend_pid && rows[i].generation == s->generation;
            if (!same || rows[i].state == PQPOOL_HOLDER_UNKNOWN)
                continue;
            pqp_sight seen = {.at = now, .state = rows[i].state, .since = rows[i].since};
            pqp_activity_note_locked(&s->activity, &seen);
            s->answers_heard = pqp_load(&s->activity.answers);
            memcpy(s->sql, rows[i].sql, sizeof s->sql);
            s->blocked_by = rows[i].blocked_by;
        }
    tell_leaks(p);
    tell_stalls(p, rows, n);
}

/* ---- looking ---- */

enum { LOOKS_AT_ONCE = 64 };
#define LOOK_EVERY (50 * PQP_MS)

/* A lease somebody looks at, without the mutex. */
typedef struct look {
    pqp_slot *slot;
    uint32_t generation;
    int backend_pid, thread;
    bool named;
    char thread_name[sizeof((pqp_slot *)0)->thread_name];
    pqp_sight seen;
} look;

/* Often at first, then ever more seldom: an eighth of its age may be attributed wrongly. */
static pqp_time next_look(const pqp_slot *s)
{
    pqp_time last = PQP_MAX(s->activity.looked_at, s->since);
    return PQP_MAX(s->since + PQP_LOOK_AGE, last + PQP_MAX(LOOK_EVERY, (last - s->since) / 8));
}

/* Leases that are due for a look, and when the next ones are. */
static int find_looks_locked(pqpool *p, pqp_time now, bool all, look *looks, pqp_time *due)
{
    int n = 0;
    for (pqp_slot *s = p->slots.in[PQP_SLOT_LEASED].head; s; s = s->link.next) {
        pqp_time at = all ? now : next_look(s);
        if (s->ending)
            continue;
        if (at > now)
            *due = PQP_MIN(*due, at);
        else if (n < LOOKS_AT_ONCE)
            looks[n++] = (look){.slot = s,
                                .generation = s->generation,
                                .backend_pid = s->backend_pid,
                                .thread = s->site.thread,
                                .named = *s->thread_name != '\0'};
        else
            *due = now;
    }
    return n;
}

static void read_thread_name(look *l)
{
    char path[60];
    snprintf(path, sizeof path, "/proc/self/task/%d/comm", l->thread);
    pqp_read_text(path, l->thread_name, sizeof l->thread_name);
}

static void note_looks_locked(const look *looks, int n)
{
    for (int i = 0; i < n; i++) {
        pqp_slot *s = looks[i].slot;
        if (s->state != PQP_SLOT_LEASED || s->generation != looks[i].generation)
            continue;
        pqp_activity_note_locked(&s->activity, &looks[i].seen);
        if (!looks[i].named && s->site.thread == looks[i].thread) /* it may have been moved */
            memcpy(s->thread_name, looks[i].thread_name, sizeof s->thread_name);
    }
}

pqp_time pqp_watch_look(pqpool *p, bool all)
{
    look looks[LOOKS_AT_ONCE];
    pqp_time due = PQP_NEVER, now = pqp_now();
    pqp_mutex_lock(&p->mu);
    int n = find_looks_locked(p, now, all, looks, &due);
    if (!all &&
        p->acquires != p->acquires_seen) /* leases come and go: look again, and spare the next one the call */
        due = PQP_MIN(due, now + PQP_LOOK_AGE);
    if (!all)
        p->acquires_seen = p->acquires;
    pqp_mutex_unlock(&p->mu);
    if (n == 0)
        return due;
    for (int i = 0; i < n; i++) {
        looks[i].seen = pqp_activity_look(&looks[i].slot->activity, looks[i].backend_pid);
        if (!looks[i].named && looks[i].thread)
            read_thread_name(&looks[i]);
    }
    pqp_mutex_lock(&p->mu);
    note_looks_locked(looks, n);
    for (int i = 0; i < n; i++)
        due = PQP_MIN(due, next_look(looks[i].slot));
    pqp_mutex_unlock(&p->mu);
    return due;
}
