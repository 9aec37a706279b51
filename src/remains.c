#include "remains.h"

/* What its user has done to it, by what libpq has told meanwhile and by its socket. */
static pqpool_close_reason find_damage(pqp_slot *slot, PGconn *conn, unsigned traces)
{
    if (pqp_load(&slot->suspect) && !pqp_session_lives(conn))
        return PQPOOL_CLOSE_LOST;
    bool refused = pqp_peek(&slot->activity.refused);
    if (pqp_role_is_lost(conn, slot->attrs, refused, refused ? pqp_now() - slot->made_at : 0))
        return PQPOOL_CLOSE_ROLE;
    /* Where libpq fails while it waits, its error is told by no event, but stands until the next command. */
    bool failed = *PQerrorMessage(conn) && !pqp_peek(&slot->activity.server_error) &&
                  PQpipelineStatus(conn) == PQ_PIPELINE_OFF;
    if (failed || (traces & PQP_TRACE_FAILED))
        return PQstatus(conn) == CONNECTION_OK ? PQPOOL_CLOSE_FAILED : PQPOOL_CLOSE_LOST;
    return PQPOOL_CLOSE_NONE;
}

/* libpq takes a connection for idle that has an answer coming, where it failed while it waited for that. */
static bool has_unread(const pqp_slot *slot, PGconn *conn)
{
    return pqp_load(&((pqp_slot *)slot)->activity.answers) > 0 && !pqp_session_silent(conn);
}

bool pqp_remains_running(const PGconn *conn)
{
    return PQstatus(conn) == CONNECTION_OK && PQtransactionStatus(conn) == PQTRANS_ACTIVE;
}

static bool is_large(pqpool *p, const pqp_slot *slot)
{
    size_t most = (size_t)pqp_peek(&p->max_buffer);
    return most > 0 && pqp_peek(&((pqp_slot *)slot)->activity.largest) > most;
}

pqp_remains pqp_remains_find(pqpool *p, pqp_slot *slot, PGconn *conn, pqp_reset_level level, unsigned traces)
{
    pqp_remains r = {.running = pqp_remains_running(conn)};
    bool open = false;
    r.flaw = find_damage(slot, conn, traces);
    if (r.flaw == PQPOOL_CLOSE_NONE)
        r.flaw = pqp_session_inspect(conn, slot->fd, slot->backend_pid, &open);
    if (open)
        r.undo |= PQP_UNDO_TRANSACTION;
    r.running |= r.flaw == PQPOOL_CLOSE_LEFT_RUNNING || r.flaw == PQPOOL_CLOSE_LEFT_PIPELINE;
    if (r.flaw != PQPOOL_CLOSE_NONE)
        return r;
    if (level == PQP_RESET_ROLLBACK && (pqp_session_notified(conn) || (traces & PQP_TRACE_LISTENS)))
        r.undo |= PQP_UNDO_LISTEN;
    if (has_unread(slot, conn))
        r.flaw = pqp_session_lives(conn) ? PQPOOL_CLOSE_LEFT_RUNNING : PQPOOL_CLOSE_LOST;
    else if (open && level == PQP_RESET_NONE)
        r.flaw = PQPOOL_CLOSE_LEFT_OPEN;
    else if (is_large(p, slot))
        r.flaw = PQPOOL_CLOSE_LARGE;
    else
        r.changed = level < PQP_RESET_CLEAN && (traces & PQP_TRACE_SET);
    return r;
}

static void tell(pqpool *p, const pqp_slot *slot, const char *text)
{
    PQP_TELL(p, PQPOOL_EVENT_LEFT, slot, text);
}

void pqp_remains_tell_locked(pqpool *p, const pqp_slot *slot, const pqp_remains *r)
{
    p->left_open += (r->undo & PQP_UNDO_TRANSACTION) != 0;
    p->left_running += r->running;
    p->left_changed += r->changed;
    if (r->undo & PQP_UNDO_TRANSACTION)
        tell(p, slot,
             r->flaw == PQPOOL_CLOSE_NONE
                 ? "a transaction was left open, and is rolled back: commit it before the release"
                 : "a transaction was left open, and is undone with its connection");
    if (r->running)
        tell(p, slot,
             "a statement was left running, or its answer unread: it is canceled, and the connection closed");
    if (r->flaw == PQPOOL_CLOSE_REPLACED)
        tell(p, slot, "PQreset was called on the lease, and its connection leads elsewhere: it is closed");
    /* A program that does this does it each time. */
    if (r->changed && (p->left_changed & (p->left_changed - 1)) == 0)
        tell(p, slot,
             "a setting was changed (SET), which reset=rollback leaves to the next lease: use SET LOCAL or "
             "reset=clean");
}

void pqp_remains_tell_notified_locked(pqpool *p, pqp_slot *slot)
{
    if (slot->told_notified)
        return;
    slot->told_notified = true;
    PQP_TELL(
        p, PQPOOL_EVENT_LEFT, slot,
        "notifications come on an idle connection, and are dropped: a LISTEN that the pool did not see, in a "
        "function perhaps, was left; use reset=clean, or UNLISTEN before the release");
}
