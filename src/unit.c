/*
 * unit: how what is in a lane's backlog is sent: by which prepared statement, with which time-out, and where its Sync
 * stands.
 */
#include "unit.h"

#include <stdio.h>

/* How much one holder sends before it lets others at the lock. */
enum { SEND_STATEMENTS = 64, SEND_BYTES = 64 * 1024 };

/* Bytes in flight beyond which nothing more is sent (one statement always may). libpq and the server buffer
 * what the other side is not ready for, so this bounds memory on both. */
enum { FLIGHT_BYTES = 4 * 1024 * 1024 };

/* Whose the statement is that sets a time-out: no plan has this number. */
#define SETTING_PLAN UINT64_MAX

#define MARGIN_MIN (5 * PQP_MS)

/* Any failure to send ends the connection: what it has taken in of the statement, and of its neighbours before,
 * can no longer be known. */
static void fail_sending(pqp_lane *l, pqp_stmt *m)
{
    m->send_refused = l->tp->alive(&l->wire);
    pqp_flight_pump(l, true); /* the server may have said why */
    pqp_flight_lose(l, NULL);
}

typedef enum {
    ASIDE_SENT,
    ASIDE_SKIPPED,
    ASIDE_LOST
} aside; /* skipped: no memory; lost: the connection is */

/* A unit of the lane's own, whose answer is dropped: closes a prepared statement, or runs SQL (number 0), or is nothing
 * but a Sync (neither), which the server answers at once. */
static aside send_aside(pqp_lane *l, uint32_t number, const char *sql)
{
    pqp_stmt *m = pqp_depot_take(l->stmts);
    if (!m)
        return ASIDE_SKIPPED;
    memset(m, 0, sizeof *m);
    m->parts[0] = PQP_PART_ASIDE;
    m->n_parts = number || sql;
    atomic_fetch_add(&l->load, 1);
    pqp_sent sent = number ? l->tp->close(&l->wire, number) : l->tp->aside(&l->wire, sql);
    pqp_flight_enter(l, m);
    if (sent == PQP_SENT_WHOLE) {
        l->unsynced = 0;
        return ASIDE_SENT;
    }
    fail_sending(l, m);
    return ASIDE_LOST;
}

/* The prepared statement to send it by, under which number. */
static bool choose_name(pqp_lane *l, pqp_stmt *m, pqp_sending *how, bool unit_begun)
{
    m->number = 0;
    if (!m->plan || m->unnamed)
        return true;
    /* A unit may not be broken into. */
    pqp_use use = pqp_prepared_use(&l->prepared, m->plan->place + 1, m->plan->id, !unit_begun);
    /* Skipped, it stays until the connection ends, and harms nobody. */
    if (use.close && send_aside(l, use.close, NULL) == ASIDE_LOST)
        return false;
    m->number = how->plan = use.number;
    how->parse = use.parse;
    return true;
}

/* Margin within which the server's word of a time-out should reach us before our own deadline. */
static pqp_time margin_of(const pqp_lane *l)
{
    return PQP_MAX(MARGIN_MIN, 2 * l->round_trip);
}

/* What the server is to be told: statement_timeout in ms, 0 for none; false: the session's own is tighter. */
static bool own_timeout(const pqp_lane *l, const pqp_stmt *m, int *ms)
{
    if (!m->timed || m->deadline == PQP_NEVER)
        return false;
    int64_t left = PQP_MAX(1, (m->deadline - l->sending_at - margin_of(l)) / PQP_MS);
    *ms = (int)PQP_MIN(left, INT32_MAX);
    return l->session_timeout_ms == 0 || *ms < l->session_timeout_ms;
}

/* A setting holds for the whole unit: after one, the next statement in it needs another. */
static void choose_setting(pqp_lane *l, pqp_stmt *m, pqp_sending *how, bool unit_timed)
{
    m->setting_number = 0;
    if (!own_timeout(l, m, &how->timeout_ms)) {
        if (!unit_timed)
            return;
        how->timeout_ms = l->session_timeout_ms;
    }
    how->set = true;
    if (m->unnamed)
        return;
    pqp_use use = pqp_prepared_use(&l->prepared, 0, SETTING_PLAN, false);
    m->setting_number = how->setting = use.number;
    how->parse_setting = use.parse;
}

/* A statement that refuses a transaction with anything else in it has its time-out set and undone around it. It is
 * alone on the lane. */
static aside set_timeout(pqp_lane *l, int ms)
{
    char sql[64];
    snprintf(sql, sizeof sql, "set statement_timeout = %d", ms);
    return send_aside(l, 0, sql);
}

static void note_parts(pqp_stmt *m, const pqp_sending *how)
{
    m->n_parts = 0;
    if (how->parse_setting)
        m->parts[m->n_parts++] = PQP_PART_SETTING_PARSE;
    if (how->set)
        m->parts[m->n_parts++] = PQP_PART_SETTING;
    if (how->parse)
        m->parts[m->n_parts++] = PQP_PART_PARSE;
    m->parts[m->n_parts++] = PQP_PART_BODY;
}

/* The statement at the front of the backlog: on its way, with all that goes before it in its unit. */
static bool send_statement(pqp_lane *l, bool first, bool *timed, bool around)
{
    pqp_stmt *m = l->backlog.head;
    pqp_sending how = {.sync = !m->joined};
    if (!choose_name(l, m, &how, !first))
        return false; /* what is in the backlog has been returned */
    if (!around)
        choose_setting(l, m, &how, *timed);
    *timed |= how.set;
    note_parts(m, &how);
    pqp_stmt_list_remove(&l->backlog, m);
    m->call->sent++;
    pqp_sent sent = l->tp->send(&l->wire, m->request, &how);
    if (sent == PQP_SENT_NOTHING) {
        fail_sending(l, m);
        pqp_flight_finish(l, m, PQPOOL_ELOST, PQPOOL_NOT_SENT);
        return false;
    }
    pqp_flight_enter(l, m);
    if (sent == PQP_SENT_NO_SYNC)
        fail_sending(l, m);
    return sent == PQP_SENT_WHOLE;
}

/* Measures the round trip, if that was asked for and nothing is in the way. */
static bool sound(pqp_lane *l)
{
    if (!l->sound || l->flight.head)
        return true;
    l->sound = false;
    l->sounded_at = l->sending_at;
    return send_aside(l, 0, NULL) != ASIDE_LOST;
}

/* Sends the unit at the front of the backlog: one statement, or all that share a Sync. Returns how many went out, or
 * -1: the connection is lost. */
static int send_unit(pqp_lane *l, size_t *bytes)
{
    int n = 0, ms = 0;
    pqp_stmt *head = l->backlog.head;
    if (!sound(l))
        return -1;
    aside set = head->commits_itself && own_timeout(l, head, &ms) ? set_timeout(l, ms) : ASIDE_SKIPPED;
    if (set == ASIDE_LOST)
        return -1;
    bool timed = false;
    for (bool more = true; more; n++) {
        more = l->backlog.head->joined;
        *bytes += l->backlog.head->bytes;
        if (!send_statement(l, n == 0, &timed, head->commits_itself))
            return -1;
    }
    l->unsynced = 0;
    if (set == ASIDE_SKIPPED)
        return n;
    set = set_timeout(l, l->session_timeout_ms);
    if (set == ASIDE_SKIPPED)
        pqp_flight_condemn(l, "there was no memory to undo a time-out", NULL);
    return set == ASIDE_LOST ? -1 : n;
}

/* Sends from the backlog while the window has room. True: it has more to send, and has only paused. */
bool pqp_unit_send_backlog(pqp_lane *l)
{
    int statements = 0;
    size_t bytes = 0;
    if (l->dead || l->condemned)
        pqp_flight_return_backlog(l);
    if (l->backlog.head)
        l->sending_at = pqp_now();
    for (;;) {
        pqp_flight_drop_due(l, l->sending_at);
        if (!l->backlog.head || l->flight.count >= l->window)
            break;
        if (l->flight.head && l->flight_bytes + l->backlog.head->bytes > FLIGHT_BYTES)
            break;
        if (statements >= SEND_STATEMENTS || bytes >= SEND_BYTES)
            break;
        int sent = send_unit(l, &bytes);
        if (sent < 0)
            return false;
        statements += sent;
    }
    if (statements == 0)
        return false;
    int more = l->tp->flush(&l->wire);
    l->want_write = more > 0;
    if (more < 0)
        pqp_flight_pump(l, true);
    return !l->dead && l->backlog.head && (statements >= SEND_STATEMENTS || bytes >= SEND_BYTES);
}
