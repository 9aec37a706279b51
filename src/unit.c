/*
 * unit: how what is in a lane's backlog is sent: by which prepared statement, with which time-out, and where its Sync
 * stands.
 *
 * BEHIND A POOLER (PgBouncer in transaction mode) each unit may reach another session. Nothing is prepared there by name: who
 * comes next would not find it, and what is made anew each time stays at the server for as long as its sessions live. And a
 * unit is sent only when nothing else is in flight: such a pooler takes its server connection away at the ReadyForQuery of
 * the last Sync it has seen, although the first half of the next unit went there already; the other half then goes to
 * another session, where it runs what somebody else has parsed there, or finds nothing (seen with PgBouncer 1.18, a few times
 * in 100 000 statements). So such a lane has one unit in flight, none of its own, and sets nothing outside a transaction.
 */
#include "unit.h"

#include <stdio.h>

/* How much one holder sends before it lets others at the lock. */
enum { SEND_STATEMENTS = 64, SEND_BYTES = 64 * 1024 };

/* Bytes in flight beyond which nothing more is sent (one statement always may). libpq and the server buffer
 * what the other side is not ready for, so this bounds memory on both. */
enum { FLIGHT_BYTES = 4 * 1024 * 1024 };

/* From here on it matters how much the socket takes at a time. */
enum { LARGE_BYTES = 1024 * 1024 };

/* After a silence this long the server may have ended the connection unseen. In a busy one no look is made. */
#ifdef PQP_MODEL
#define LOOK_AFTER 0
#else
#define LOOK_AFTER (2 * PQP_MS)
#endif

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

/* For a unit of the lane's own; NULL: no memory. */
static pqp_stmt *own_unit(pqp_lane *l)
{
    pqp_stmt *m = pqp_depot_take(l->stmts);
    if (m)
        memset(m, 0, sizeof *m);
    return m;
}

static aside enter_own(pqp_lane *l, pqp_stmt *m, pqp_sent sent)
{
    atomic_fetch_add(&l->load, 1);
    pqp_flight_enter(l, m);
    if (sent == PQP_SENT_WHOLE) {
        l->unsynced = 0;
        return ASIDE_SENT;
    }
    fail_sending(l, m);
    return ASIDE_LOST;
}

/* A unit of the lane's own, whose answer is dropped: runs SQL, or is nothing but a Sync (NULL), which the server answers
 * at once. */
static aside send_aside(pqp_lane *l, const char *sql)
{
    pqp_stmt *m = own_unit(l);
    if (!m)
        return ASIDE_SKIPPED;
    m->parts[0] = PQP_PART_ASIDE;
    m->n_parts = sql != NULL;
    return enter_own(l, m, l->tp->aside(&l->wire, sql));
}

/* Drops a prepared statement. Skipped, it stays until the connection ends, and harms nothing. */
static aside send_close(pqp_lane *l, uint32_t number, uint32_t text)
{
    pqp_stmt *m = own_unit(l);
    if (!m)
        return ASIDE_SKIPPED;
    m->parts[0] = PQP_PART_ASIDE;
    m->n_parts = 1;
    return enter_own(l, m, l->tp->close(&l->wire, number, text));
}

/* Asks whether the types of a prepared statement's parameters are still right. */
static aside send_check(pqp_lane *l, const pqpool_stmt *request, const pqp_sending *how, int place)
{
    static const uint8_t parts[] = {PQP_PART_DESCRIBED, PQP_PART_ASIDE, PQP_PART_DESCRIBED_ANEW};
    pqp_stmt *m = own_unit(l);
    if (!m)
        return ASIDE_SKIPPED;
    memcpy(m->parts, parts, sizeof parts);
    m->n_parts = sizeof parts;
    m->index = place;
    m->number = how->plan;
    return enter_own(l, m, l->tp->check(&l->wire, request, how));
}

/* What is known of a unit while it is sent. */
typedef struct unit {
    bool begun;   /* it may not be broken into any more */
    bool timed;   /* a time-out was set in it, and holds for what follows */
    bool around;  /* its time-out is set and undone around it */
    bool altered; /* something in it may have changed what the rest means, and be undone again */
} unit;

/*
 * The prepared statement to send it by, under which number. Behind DDL in the same unit there is none: should the unit
 * be undone, what was parsed in it would stay, with types that never were. The check goes ahead of the statement: it is
 * a unit of its own, and what it finds is for the next.
 */
static bool choose_name(pqp_lane *l, pqp_stmt *m, pqp_sending *how, const unit *u)
{
    m->number = 0;
    if (!m->plan || m->unnamed || u->altered || l->pooled)
        return true;
    if (l->ddl)
        pqp_prepared_heed(&l->prepared, pqp_load(l->ddl));
    pqp_wanted wanted = {.place = m->plan->place + 1,
                         .plan = m->plan->id,
                         .renewal = pqp_peek(&m->plan->renewals),
                         .text = how->text = m->plan->text,
                         .now = l->sending_at,
                         .may_close = !u->begun};
    pqp_use use = pqp_prepared_use(&l->prepared, &wanted);
    if (use.close && send_close(l, use.close, use.closed_text) == ASIDE_LOST)
        return false;
    m->number = how->plan = use.number;
    how->parse = use.parse;
    if (l->tally)
        pqp_tally_prepared(l->tally, use.number && !use.parse);
    return !use.check || u->begun || send_check(l, m->request, how, wanted.place) != ASIDE_LOST;
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
static void choose_setting(pqp_lane *l, pqp_stmt *m, pqp_sending *how, const unit *u)
{
    m->setting_number = 0;
    if (!own_timeout(l, m, &how->timeout_ms)) {
        if (!u->timed)
            return;
        how->timeout_ms = l->session_timeout_ms;
    }
    how->set = true;
    if (m->unnamed || !m->plan || l->pooled) /* where nothing is prepared, this is not either */
        return;
    pqp_use use = pqp_prepared_use(&l->prepared, &(pqp_wanted){.plan = SETTING_PLAN});
    m->setting_number = how->setting = use.number;
    how->parse_setting = use.parse;
}

/* A statement that refuses a transaction with anything else in it has its time-out set and undone around it. It is
 * alone on the lane. */
static aside set_timeout(pqp_lane *l, int ms)
{
    char sql[64];
    snprintf(sql, sizeof sql, "set statement_timeout = %d", ms);
    return send_aside(l, sql);
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
static bool send_statement(pqp_lane *l, unit *u)
{
    pqp_stmt *m = l->backlog.head;
    pqp_sending how = {.sync = !m->joined, .large = m->bytes > LARGE_BYTES};
    if (!choose_name(l, m, &how, u))
        return false; /* what is in the backlog has been returned */
    if (!u->around)
        choose_setting(l, m, &how, u);
    u->begun = true;
    u->timed |= how.set;
    u->altered |= m->alters;
    if (m->alters)
        pqp_prepared_outdate(&l->prepared); /* for what follows; the pool's count goes up when it has ended */
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
    if (!l->sound || l->flight.head || l->pooled)
        return true;
    l->sound = false;
    l->sounded_at = l->sending_at;
    return send_aside(l, NULL) != ASIDE_LOST;
}

/* Sends the unit at the front of the backlog: one statement, or all that share a Sync. Returns how many went out, or
 * -1: the connection is lost. */
static int send_unit(pqp_lane *l, size_t *bytes)
{
    int n = 0, ms = 0;
    pqp_stmt *head = l->backlog.head;
    if (!sound(l))
        return -1;
    bool around = head->commits_itself && !l->pooled && own_timeout(l, head, &ms);
    aside set = around ? set_timeout(l, ms) : ASIDE_SKIPPED;
    if (set == ASIDE_LOST)
        return -1;
    unit u = {.around = head->commits_itself};
    for (bool more = true; more; n++) {
        more = l->backlog.head->joined;
        *bytes += l->backlog.head->bytes;
        if (!send_statement(l, &u))
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

/* Begins to send. What lies unread on a lane that was quiet may be that it has ended: then nothing of this was sent. */
static void look_first(pqp_lane *l)
{
    pqp_time quiet_since = PQP_MAX(l->sending_at, l->ended_at);
    l->sending_at = pqp_now();
    if (!l->flight.head && l->sending_at - quiet_since >= LOOK_AFTER && l->tp->readable(&l->wire))
        pqp_flight_hear(l);
}

/* Sends from the backlog while the window has room. True: it has more to send, and has only paused. */
bool pqp_unit_send_backlog(pqp_lane *l)
{
    int statements = 0;
    size_t bytes = 0;
    if (l->dead || l->condemned || l->cancelling)
        pqp_flight_return_backlog(l);
    if (l->backlog.head)
        look_first(l);
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
