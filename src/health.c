#include "health.h"

#include "text.h"

#include <stdarg.h>
#include <stdio.h>

static int percent(int64_t part, int64_t whole)
{
    return whole > 0 ? (int)(part * 100 / whole) : 0;
}

__attribute__((format(printf, 3, 4))) static void find(pqpool_health_data *h, int finding, const char *fmt,
                                                       ...)
{
    size_t at = strlen(h->text);
    va_list args;
    h->findings |= finding;
    if (at > 0 && at + 1 < sizeof h->text)
        h->text[at++] = '\n';
    va_start(args, fmt);
    vsnprintf(h->text + at, sizeof h->text - at, fmt, args);
    va_end(args);
}

void pqp_health_judge_locked(pqpool *p, pqp_time now, pqpool_health_data *h)
{
    const pqp_options *o = &p->options;
    int in_use = pqp_fleet_in_use_locked(p), waiting = pqp_fleet_waiting_locked(p);
    *h = (pqpool_health_data){
        .total = pqp_slots_total(&p->slots),
        .in_use = in_use,
        .idle = pqp_fleet_in(p, PQP_SLOT_IDLE),
        .waiting = waiting,
        .limit = (int32_t)o->max_size,
        .utilisation = percent(in_use, o->max_size),
        .idle_all_along = p->idle_all_along,
        .peak_leased = PQP_MAX(p->peak_leased, pqp_fleet_in(p, PQP_SLOT_LEASED)),
        .since_us = (now - p->health_since) / 1000,
    };
    /* Not by the rounded figure: 81 of 100 connections are above 80 %, and so are 5 of 6. */
    if ((int64_t)in_use * 100 > o->health_used * o->max_size)
        find(h, PQPOOL_HEALTH_USED, "%d of %d connections in use (%d %%, health_used %d %%)", in_use,
             (int)o->max_size, h->utilisation, (int)o->health_used);
    if (waiting > o->health_waiting)
        find(h, PQPOOL_HEALTH_WAITING, "%d callers wait (health_waiting %d)", waiting,
             (int)o->health_waiting);
    if (p->idle_all_along > o->min_idle)
        find(h, PQPOOL_HEALTH_OVERSIZE,
             "%d connections were idle for all of the last " PQP_TENTHS
             " s, at most %d leased: the pool is larger "
             "than it need be",
             p->idle_all_along, PQP_TENTHS_OF(h->since_us, PQP_S_IN_US), h->peak_leased);
    if (p->failures > 0)
        find(h, PQPOOL_HEALTH_SERVER, "the last attempt to connect failed: %.300s", p->last_failure.message);
}

void pqp_health_check_locked(pqpool *p, pqp_time now)
{
    pqp_time every = p->options.health_interval * PQP_MS, at = p->health_since + every;
    if (every == 0)
        return;
    if (now < at) {
        pqp_fleet_due_locked(p, at);
        return;
    }
    pqpool_health_data h;
    pqp_health_judge_locked(p, now, &h);
    if (h.findings)
        PQP_TELL(p, PQPOOL_EVENT_HEALTH, NULL, h.text);
    p->health_since = now;
    p->idle_all_along = pqp_fleet_in(p, PQP_SLOT_IDLE);
    p->peak_leased = pqp_fleet_in(p, PQP_SLOT_LEASED);
    pqp_fleet_due_locked(p, now + every);
}
