#include "lease.h"

#include "admission.h"
#include "connector.h"
#include "holder.h"

#define TEST_TIME (5 * PQP_SECOND)

static uint64_t token_of(const pqp_slot *slot)
{
    return (uint64_t)slot->generation << 32 | (uint32_t)slot->index;
}

/* Why a connection just taken can't be handed on; NULL: it can. */
static const char *examine(pqpool *p, pqp_slot *slot, bool test, pqp_time deadline)
{
    if (pqp_load(&slot->suspect) && !pqp_session_lives(slot->conn))
        return "the server ended it while it was idle";
    if (test && !pqp_session_ping(slot->conn, PQP_MIN(deadline, pqp_now() + TEST_TIME)))
        return "test_on_borrow: the server did not answer";
    if (p->events.hooks.on_acquire && p->events.hooks.on_acquire(slot->conn, p->events.hooks.arg) != 0)
        return "the on_acquire hook refused it";
    return NULL;
}

const char *pqp_lease_begin(pqpool *p, pqp_slot *slot, pqp_time deadline, pqpool_lease *lease)
{
    const char *flaw = examine(p, slot, pqp_load(&p->test_on_borrow), deadline);
    if (!flaw) {
        *lease = (pqpool_lease){.conn = slot->conn, .pool = p, .token = token_of(slot)};
        pqp_holder_took(slot);
        return NULL;
    }
    pqp_pool_lock(p);
    if (pqp_load(&slot->suspect))
        pqp_fleet_scrap_locked(p, slot, flaw);
    else
        pqp_pool_reject_locked(p, slot, flaw);
    pqp_pool_unlock(p);
    return flaw;
}

pqpool_code pqp_lease_refuse_late(pqpool_error *err, const char *flaw)
{
    return pqp_refuse(err, PQPOOL_ETIMEDOUT, "the deadline passed while a broken connection was replaced: %s",
                      flaw);
}

pqpool_code pqp_lease_acquire(pqpool *p, pqp_time deadline, pqpool_lease *lease, pqpool_error *err)
{
    pqp_turn turn = {0};
    *lease = (pqpool_lease){0};
    for (;;) {
        pqp_slot *slot;
        pqpool_code code = pqp_admission_wait(p, deadline, &turn, &slot, err);
        if (code != PQPOOL_OK)
            return code;
        const char *flaw = pqp_lease_begin(p, slot, deadline, lease);
        if (!flaw) {
            pqp_error_clear(err);
            return PQPOOL_OK;
        }
        if (pqp_now() >= deadline)
            return pqp_lease_refuse_late(err, flaw);
    }
}

/* The slot a lease stands for, if it is out. */
static pqp_slot *find_locked(pqpool *p, const pqpool_lease *lease)
{
    uint32_t index = (uint32_t)lease->token;
    if (index >= (uint32_t)p->slots.count)
        return NULL;
    pqp_slot *slot = p->slots.all[index];
    bool out = slot->state == PQP_SLOT_LEASED && slot->conn == lease->conn && token_of(slot) == lease->token;
    return out ? slot : NULL;
}

/*
 * Claims the return: of two threads that give back the same lease, one finds the generation changed. From
 * here on the slot is LEASED to nobody but this function.
 */
static pqp_slot *claim(pqpool *p, const pqpool_lease *lease, const char **close_why, pqp_reset_level *level)
{
    pqp_pool_lock(p);
    pqp_slot *slot = find_locked(p, lease);
    if (slot) {
        slot->generation++;
        pqp_holder_left(slot);
        p->releases++;
        *level = (pqp_reset_level)p->options.reset;
        if (p->closing)
            *close_why = "the pool was closed";
        else if (p->options.max_uses > 0 && slot->uses >= p->options.max_uses)
            *close_why = "it had reached max_uses";
        else if (slot->expires <= pqp_now())
            *close_why = "it had reached max_lifetime";
        pqp_fleet_event_locked(p, PQPOOL_EVENT_RELEASE, slot, 0, NULL);
    }
    pqp_pool_unlock(p);
    return slot;
}

pqpool_code pqp_lease_end(pqpool *p, pqpool_lease *lease, bool discard)
{
    const char *close_why = discard ? "its user discarded it" : NULL;
    pqp_reset_level level = PQP_RESET_ROLLBACK;
    bool open_transaction = false;
    pqp_slot *slot = claim(p, lease, &close_why, &level);
    if (!slot)
        return PQPOOL_EINVAL;
    PGconn *conn = lease->conn;
    *lease = (pqpool_lease){0};
    if (!close_why && p->events.hooks.on_release &&
        p->events.hooks.on_release(conn, p->events.hooks.arg) != 0)
        close_why = "the on_release hook refused it";
    if (!close_why)
        close_why = pqp_session_inspect(conn, slot->fd, slot->backend_pid, &open_transaction);
    if (!close_why && open_transaction && level == PQP_RESET_NONE)
        close_why = "its user left a transaction open, and reset=none";
    if (!close_why && (open_transaction || level >= PQP_RESET_CLEAN)) {
        pqp_connector_reset_here(p, slot, level, open_transaction);
        return PQPOOL_OK;
    }
    pqp_pool_lock(p);
    if (close_why)
        pqp_fleet_scrap_locked(p, slot, close_why);
    else
        pqp_pool_cleaned_locked(p, slot);
    pqp_pool_unlock(p);
    return PQPOOL_OK;
}
