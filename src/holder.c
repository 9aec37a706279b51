#include "holder.h"

#include "text.h"

#include <stdio.h>

enum { BLAMED_AT_MOST = 4 };
#define BLAME_LASTS (10 * PQP_MS) /* of many who give up together each gets the same words */

/* Its address stands for the thread. The number is a hint: not 0 while the thread holds a lease of any pool; a
 * lease that another thread gives back does not count it down. */
static PQP_THREAD_LOCAL int maybe_held;

void pqp_holder_took(pqp_slot *slot)
{
    pqp_store(&slot->holder, (uintptr_t)&maybe_held);
    maybe_held++;
}

void pqp_holder_left(pqp_slot *slot)
{
    if (pqp_swap(&slot->holder, 0) == (uintptr_t)&maybe_held && maybe_held > 0)
        maybe_held--;
}

bool pqp_holder_maybe(void)
{
    return maybe_held > 0;
}

pqp_slot *pqp_holder_mine_locked(pqpool *p)
{
    pqp_slot *s = p->slots.in[PQP_SLOT_LEASED].head;
    while (s && pqp_load(&s->holder) != (uintptr_t)&maybe_held)
        s = s->link.next;
    return s;
}

bool pqp_holder_is_me(pqpool *p)
{
    if (!pqp_holder_maybe())
        return false;
    pqp_mutex_lock(&p->mu);
    bool mine = pqp_holder_mine_locked(p) != NULL;
    pqp_mutex_unlock(&p->mu); /* nothing has changed */
    return mine;
}

/* ---- describing ---- */

const char *pqpool_holder_state_name(int state)
{
    static const char *const names[] = {"not known", "running", "waiting for a lock", "idle",
                                        "idle in transaction"};
    return state >= 0 && state < (int)PQP_COUNT_OF(names) ? names[state] : "unknown";
}

void pqp_holder_doing(const pqpool_holder *h, char *text, size_t size)
{
    size_t at = 0;
#define ADD(...) (at += at < size ? (size_t)snprintf(text + at, size - at, __VA_ARGS__) : 0)
    if (h->state == PQPOOL_HOLDER_UNKNOWN)
        ADD("what it does is %s", pqpool_holder_state_name(h->state));
    else
        ADD("%s for " PQP_TENTHS " s", pqpool_holder_state_name(h->state),
            PQP_TENTHS_OF(h->state_us, PQP_S_IN_US));
    if (h->blocked_by)
        ADD(" of pid %d", (int)h->blocked_by);
    if (h->working_us + h->idle_us + h->idle_tx_us > 0)
        ADD(" (" PQP_TENTHS " s working, " PQP_TENTHS " s idle, " PQP_TENTHS " s idle in transaction)",
            PQP_TENTHS_OF(h->working_us, PQP_S_IN_US), PQP_TENTHS_OF(h->idle_us, PQP_S_IN_US),
            PQP_TENTHS_OF(h->idle_tx_us, PQP_S_IN_US));
    if (*h->sql)
        ADD(", SQL: %s", h->sql);
    else if (h->answers > 0)
        ADD(", answers: %lld, the last %s", (long long)h->answers,
            *h->last_answer ? h->last_answer : "an error");
    else
        ADD(", no answer yet");
#undef ADD
}

void pqp_holder_describe_locked(const pqp_slot *slot, pqp_time now, pqpool_holder *h)
{
    pqp_activity *a = &((pqp_slot *)slot)->activity;
    int64_t answers = pqp_load(&a->answers);
    /* What the server said holds until the next answer. */
    bool fresh = *slot->sql && answers == slot->answers_heard;
    bool locked =
        fresh && slot->blocked_by && (a->state == PQPOOL_HOLDER_LOCKED || a->state == PQPOOL_HOLDER_RUNNING);
    *h = (pqpool_holder){
        .size = sizeof *h,
        .connection = slot->id,
        .backend_pid = slot->backend_pid,
        .file = slot->site.file,
        .line = slot->site.line,
        .thread = slot->site.thread,
        .state = locked ? PQPOOL_HOLDER_LOCKED : a->state,
        .leaked = slot->leaked,
        .held_us = (now - slot->since) / 1000,
        .state_us = PQP_MAX(0, now - a->state_since) / 1000,
        .working_us = a->working / 1000,
        .idle_us = a->idle / 1000,
        .idle_tx_us = a->idle_tx / 1000,
        .answers = answers,
        .blocked_by = locked ? slot->blocked_by : 0,
    };
    uint64_t tag = pqp_peek(&a->tag);
    memcpy(h->last_answer, &tag, sizeof tag);
    memcpy(h->thread_name, slot->thread_name, sizeof h->thread_name);
    if (fresh)
        memcpy(h->sql, slot->sql, sizeof h->sql);
    h->n_frames = slot->n_frames;
    memcpy(h->frames, slot->frames, (size_t)slot->n_frames * sizeof *h->frames);
    char site[PQP_SITE_TEXT];
    pqp_site_text(&slot->site, site);
    int at =
        snprintf(h->text, sizeof h->text,
                 "connection %d (pid %d): held " PQP_TENTHS " s by thread %d%s%s%s, %s: ", (int)h->connection,
                 (int)h->backend_pid, PQP_TENTHS_OF(h->held_us, PQP_S_IN_US), (int)h->thread,
                 *h->thread_name ? " (" : "", h->thread_name, *h->thread_name ? ")" : "", site);
    pqp_holder_doing(h, h->text + at, sizeof h->text - (size_t)at);
}

/* ---- blaming ---- */

/* Both lists stand in the order of time: who came first has had it for longest. */
static void put_blame(pqpool *p, pqp_time now, pqpool_error *text)
{
    int n = 0;
    for (const pqp_slot *s = p->slots.in[PQP_SLOT_LEASED].head; s && n < BLAMED_AT_MOST;
         s = s->link.next, n++) {
        pqpool_holder h;
        pqp_holder_describe_locked(s, now, &h);
        pqp_error_append(text, "; %s", h.text);
    }
    for (const pqp_slot *s = NULL; n < BLAMED_AT_MOST && (s = pqp_fleet_next_lane_locked(p, s));) {
        char sql[120];
        pqp_time running = pqp_lane_head(s->lane, now, sql, sizeof sql);
        if (running < PQP_LOOK_AGE)
            continue;
        pqp_error_append(text, "; connection %d (pid %d): shared, running for " PQP_TENTHS " s: %s",
                         (int)s->id, (int)s->backend_pid, PQP_TENTHS_OF(running / 1000, PQP_S_IN_US),
                         *sql ? sql : "(its caller has left)");
        n++;
    }
}

void pqp_holder_blame_locked(pqpool *p, pqp_time now, pqpool_error *err)
{
    if (!err)
        return;
    if (now - p->blamed_at > BLAME_LASTS || p->blamed_at == 0) {
        pqp_error_clear(&p->blame);
        put_blame(p, now, &p->blame);
        p->blamed_at = now;
    }
    pqp_error_append(err, "%s", p->blame.message);
}
