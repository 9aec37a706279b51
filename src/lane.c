/*
 * lane: a shared connection.
 *
 * WHAT IT PROMISES. Each statement is sent at most once, with a Sync of its own; its answer goes to its owner
 * and to nobody else; every call returns exactly once, also when the connection dies, and by its deadline.
 *
 * THE PATH OF A STATEMENT
 *
 *   submit ──> inbox ──> backlog ──> flight ──> owner
 *            (no lock)  (lane->mu) (lane->mu)
 *
 * A caller pushes his statements on the inbox, a lock-free stack, and looks whether somebody holds the lane.
 * If not, he takes the lock himself. Whoever holds the lock leaves through ONE function, pqp_lane_unlock(),
 * which moves the inbox to the backlog, sends from the backlog while the window has room, sees to it that
 * somebody drives, unlocks, and then gives the wake-ups that came together. So many callers' statements go
 * out under one lock, and nobody waits for the lock only to say that he has a statement. The callers' side of
 * it is call.c.
 *
 * The flight is OUR first-in-first-out list of what was sent and the only truth about what an answer belongs
 * to. libpq's NULLs and states are hints: after a connection has died it returns one error and then NULL for
 * ever, and no sync point. A unit ends only at its sync point: CommandComplete is not commit, a deferred
 * constraint can still turn it into an error.
 *
 * THE EXIT PROTOCOL. What must never happen: a statement lies in the inbox, and nobody will look. The holder
 * clears `held`, unlocks, then looks at the inbox; the submitter pushes, then looks at `held`. Both words are
 * sequentially consistent, so at least one of the two sees the other: either the submitter finds the lane
 * free and takes the lock, or the holder finds the statement and comes back for it. (`held` stands beside the
 * mutex because a mutex gives no such order between its release and a later load, and fences are unknown to
 * TSan. A trylock in place of the look would not do: one that fails orders nothing.)
 *
 * THE DRIVER. While something is in flight, exactly one of the blocked callers is the driver: it alone sleeps
 * in poll() on the socket, reads, and hands the others their answers. The role changes hands only under the
 * lock: pqp_lane_unlock() appoints (the caller itself if it is going to wait anyway, else the newest
 * statement's owner, who will drive longest). An appointed caller who is just then giving up takes the role
 * all the same, finds his deadline passed, and passes it on: a hand-over counts only once it is accepted, and
 * it can't be lost. When every owner has left, the keeper is the driver, until the next caller takes the role
 * back simply by being there. One reader thread for the whole pool would make one core the limit of all its
 * connections.
 *
 * WORDS AND LIFETIME. Under the lock it is only decided who is to be woken (call->waking, on l->wakes); the
 * word is given after the unlock, and is the waker's last use of the call. Hence the rule for an owner whose
 * deadline passes: under the lock, if he is `waking`, he must wait for the word, which is then only
 * instructions away; and one who was appointed and comes by the lock before the word does must wait for it
 * too, or it would wake his next statement (the model found that). Only so may calls return to their depot
 * while wakers are still under way.
 *
 * GIVING UP. A statement past its deadline leaves the backlog at once: it was never sent. In flight it keeps
 * its place, and its answer is read and dropped; the object stays with the lane (call = NULL). When it is the head,
 * the lane takes nothing new: it may run for ever, and nobody should stand behind it.
 *
 * There is no time-out in here but the callers' own, and no thread. Nothing that can block is called under
 * the lock: never PQgetResult while PQisBusy, never connect or PQfinish.
 */
#include "lane.h"

#include <stdio.h>

/* How much one holder sends before it lets others at the lock. */
enum { SEND_STATEMENTS = 64, SEND_BYTES = 64 * 1024 };

/* Bytes in flight beyond which nothing more is sent (one statement always may). libpq and the server buffer
 * what the other side is not ready for, so this bounds memory on both. */
enum { FLIGHT_BYTES = 4 * 1024 * 1024 };

/* A unit of one statement yields at most two NULLs in a row; a third is libpq after the end. */
enum { ENDS_MAX = 2 };

int pqp_lane_init(pqp_lane *l, const pqp_transport *tp, pqp_depot *stmts, void (*tell_keeper)(void *),
                  void *owner)
{
    memset(l, 0, sizeof *l);
    l->tp = tp;
    l->stmts = stmts;
    l->tell_keeper = tell_keeper;
    l->owner = owner;
    return pqp_mutex_init(&l->mu, PQP_RANK_LANE);
}

void pqp_lane_fini(pqp_lane *l)
{
    assert(!l->flight.head && !l->backlog.head);
    pqp_mutex_destroy(&l->mu);
}

/* ---- the lock ---- */

void pqp_lane_lock(pqp_lane *l)
{
    pqp_mutex_lock(&l->mu);
    pqp_store(&l->held, 1);
}

static void wake(pqp_lane *l, pqp_call *call, int word)
{
    call->waking = true;
    call->wake_word = word;
    call->wake_next = l->wakes;
    l->wakes = call;
}

/* Gives the words decided under the lock. The word is the last thing: its reader may be gone with the
 * call. */
static void give_words(pqp_call *call)
{
    while (call) {
        pqp_call *next = call->wake_next;
        pqp_parker_post(&call->parker, call->wake_word);
        call = next;
    }
}

bool pqp_lane_drives(const pqp_lane *l, const pqp_call *call)
{
    return call && l->driver == PQP_DRIVER_CALL && l->driver_call == call;
}

/* ---- answers ---- */

/* The statement is over. Its owner is woken when it was the last of his call. */
static void finish(pqp_lane *l, pqp_stmt *m, pqpool_code code, pqpool_outcome outcome)
{
    atomic_fetch_sub_explicit(&l->load, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&l->served, 1, memory_order_relaxed);
    m->state = PQP_STMT_DONE;
    if (m->given_up || !m->call) {
        if (m->result)
            l->tp->clear(m->result);
        m->result = NULL;
        if (!m->call)
            pqp_depot_put(l->stmts, m);
        return;
    }
    if (m->result && code != PQPOOL_OK && code != PQPOOL_ESERVER) {
        l->tp->clear(m->result);
        m->result = NULL;
    }
    m->code = code;
    m->outcome = outcome;
    pqp_call *call = m->call;
    if (--call->remaining > 0 || call->waking)
        return;
    if (!pqp_lane_drives(l, call))
        wake(l, call, PQP_WORD_DONE);
    else if (!l->driver_awake)
        l->kick = true; /* he is in poll() or on his way there */
}

/* A head nobody waits for any more holds up all behind it, perhaps for ever: whoever comes now gets another
 * lane. */
void pqp_lane_fence_stall(pqp_lane *l)
{
    if (l->flight.head && l->flight.head->given_up)
        pqp_lane_retire(l);
}

static pqp_stmt *flight_shift(pqp_lane *l)
{
    pqp_stmt *m = pqp_stmt_list_shift(&l->flight);
    l->flight_bytes -= m->bytes;
    pqp_lane_fence_stall(l);
    return m;
}

/* The head's sync point has come: now, and not before, its answer is final. */
static void finish_head(pqp_lane *l)
{
    pqp_stmt *m = flight_shift(l);
    if (l->tainted && !m->taints) /* after a BEGIN that slipped through, say: "done" may yet be rolled back */
        finish(l, m, PQPOOL_ELOST, PQPOOL_UNKNOWN);
    else
        finish(l, m, m->result_is_error ? PQPOOL_ESERVER : PQPOOL_OK, PQPOOL_DONE);
}

/* Nothing of these was sent; their owners may try another lane. */
static void return_backlog(pqp_lane *l)
{
    for (pqp_stmt *m; (m = pqp_stmt_list_shift(&l->backlog));)
        finish(l, m, PQPOOL_ELOST, PQPOOL_NOT_SENT);
}

/*
 * The connection is gone. An error already seen in the head's unit is final, since nothing can commit it any
 * more. What else the FATAL proves is proven; all the rest may or may not have run.
 */
static void lose(pqp_lane *l, const pqp_answer *fatal)
{
    if (l->dead)
        return;
    pqp_proof proof = fatal ? fatal->proof : PQP_PROOF_NONE;
    l->dead = true;
    pqp_store(&l->accepting, 0);
    if (!l->condemned)
        l->tp->describe(&l->wire, fatal ? fatal->result : NULL, &l->why);
    l->want_write = false;
    for (bool head = true; l->flight.head; head = false) {
        pqp_stmt *m = flight_shift(l);
        if (head && m->result_is_error) {
            finish(l, m, PQPOOL_ESERVER, PQPOOL_DONE);
            continue;
        }
        m->headed_loss = head && !(fatal && fatal->spoke);
        bool not_run = proof == PQP_PROOF_ALL || (proof == PQP_PROOF_BEHIND && !head);
        finish(l, m, PQPOOL_ELOST, not_run ? PQPOOL_NOT_RUN : PQPOOL_UNKNOWN);
    }
    return_backlog(l);
}

/* Takes and sends nothing more; what is in flight still gets its answers. */
static void condemn(pqp_lane *l, const char *reason)
{
    if (l->condemned || l->dead)
        return;
    l->condemned = true;
    pqp_store(&l->accepting, 0);
    pqp_fail(&l->why, PQPOOL_ELOST, PQPOOL_UNKNOWN, "the shared connection was closed: %s", reason);
    return_backlog(l);
}

/* Keeps the unit's answer so far: the first error wins, else the latest result. */
static void keep(pqp_lane *l, pqp_stmt *m, PGresult *result, bool is_error)
{
    if (m->result_is_error) {
        l->tp->clear(result);
        return;
    }
    if (m->result)
        l->tp->clear(m->result);
    m->result = result;
    m->result_is_error = is_error;
}

/* Takes every answer that is here. */
static void collect(pqp_lane *l)
{
    while (l->flight.head && !l->dead) {
        pqp_answer a = l->tp->next(&l->wire);
        if (a.kind == PQP_NEXT_BUSY)
            return;
        l->ends = a.kind == PQP_NEXT_END ? l->ends + 1 : 0;
        switch (a.kind) {
        case PQP_NEXT_END:
            if (l->ends > ENDS_MAX)
                lose(l, NULL);
            break;
        case PQP_NEXT_STATE:
            condemn(l, "a statement changed the state of its session");
            l->tainted = l->flight.head->taints = true;
            keep(l, l->flight.head, a.result, false);
            break;
        case PQP_NEXT_RESULT:
            keep(l, l->flight.head, a.result, false);
            break;
        case PQP_NEXT_ERROR:
            keep(l, l->flight.head, a.result, true);
            break;
        case PQP_NEXT_SYNC:
            finish_head(l);
            break;
        case PQP_NEXT_COPY:
            condemn(l, "it fell out of step (COPY, or an answer that belongs to no statement)");
            lose(l, NULL);
            break;
        case PQP_NEXT_FATAL:
            lose(l, &a);
            l->tp->clear(a.result);
            break;
        default: /* ABORTED: the error that caused it is the answer */
            break;
        }
    }
}

/* Reads, writes and takes what is there. */
void pqp_lane_pump(pqp_lane *l, bool readable)
{
    if (l->dead)
        return;
    bool here = !readable || l->tp->consume(&l->wire);
    if (here && l->want_write) {
        int more = l->tp->flush(&l->wire);
        l->want_write = more > 0;
        here = more >= 0;
    }
    collect(l); /* what arrived before the end still counts */
    if (!l->dead && (!here || !l->tp->alive(&l->wire)))
        lose(l, NULL);
    if (!l->dead && !l->flight.head && !l->tp->clean(&l->wire))
        condemn(l, "a statement left a transaction open");
}

/* ---- leaving: inbox, sending, appointing ---- */

void pqp_lane_take_inbox(pqp_lane *l)
{
    pqp_stmt *oldest = NULL;
    for (pqp_stmt *m = pqp_swap(&l->inbox, NULL), *next; m; m = next) {
        next = m->inbox_next;
        m->inbox_next = oldest;
        oldest = m;
    }
    for (; oldest; oldest = oldest->inbox_next)
        pqp_stmt_list_push(&l->backlog, oldest);
}

/* Hands one statement to the transport. Any failure there ends the connection: what it has taken in of the
 * statement, and of its neighbours before, can no longer be known. */
static bool send_one(pqp_lane *l, pqp_stmt *m)
{
    pqp_sent sent = l->tp->send(&l->wire, m->request);
    if (sent == PQP_SENT_WHOLE) {
        m->state = PQP_STMT_SENT;
        m->call->sent++;
        pqp_stmt_list_push(&l->flight, m);
        l->flight_bytes += m->bytes;
        return true;
    }
    bool unsure = sent == PQP_SENT_NO_SYNC && m->commits_itself;
    m->send_refused = l->tp->alive(&l->wire);
    pqp_lane_pump(l, true); /* the server may have said why */
    lose(l, NULL);
    finish(l, m, PQPOOL_ELOST, unsure ? PQPOOL_UNKNOWN : PQPOOL_NOT_SENT);
    return false;
}

/* Sends from the backlog while the window has room. True: it has more to send, and has only paused. */
static bool send_backlog(pqp_lane *l)
{
    int statements = 0;
    size_t bytes = 0;
    if (l->dead || l->condemned)
        return_backlog(l);
    for (pqp_stmt *m; (m = l->backlog.head) && l->flight.count < l->window; statements++) {
        if (l->flight.head && l->flight_bytes + m->bytes > FLIGHT_BYTES)
            break;
        if (statements >= SEND_STATEMENTS || bytes >= SEND_BYTES)
            break;
        bytes += m->bytes;
        pqp_stmt_list_remove(&l->backlog, m);
        if (!send_one(l, m))
            return false;
    }
    if (statements == 0)
        return false;
    int more = l->tp->flush(&l->wire);
    l->want_write = more > 0;
    if (more < 0)
        pqp_lane_pump(l, true);
    return !l->dead && l->backlog.head && (statements >= SEND_STATEMENTS || bytes >= SEND_BYTES);
}

static bool may_drive(const pqp_call *call)
{
    return call && call->remaining > 0 && !call->waking;
}

/* The owner of the newest statement: his answer comes last, so he drives longest. */
static pqp_call *newest_waiter(pqp_lane *l)
{
    for (pqp_stmt *m = l->backlog.tail; m; m = m->link.prev)
        if (may_drive(m->call))
            return m->call;
    for (pqp_stmt *m = l->flight.tail; m; m = m->link.prev)
        if (!m->given_up && may_drive(m->call))
            return m->call;
    return NULL;
}

/* Sees to it that somebody drives while there is something to drive. */
static void appoint(pqp_lane *l, pqp_call *self)
{
    if (l->driver == PQP_DRIVER_CALL)
        return;
    if (!l->flight.head && !l->backlog.head) {
        l->driver = PQP_DRIVER_NONE;
        return;
    }
    pqp_call *call = may_drive(self) ? self : newest_waiter(l);
    if (call) {
        l->driver = PQP_DRIVER_CALL;
        l->driver_call = call;
        l->polls_write = false;
        if (call != self)
            wake(l, call, PQP_WORD_DRIVE);
    } else if (l->driver != PQP_DRIVER_KEEPER) {
        l->driver = PQP_DRIVER_KEEPER;
        l->orphaned = true;
    }
}

/* The watchdog's clock runs while something is in flight and the driver is not at work. */
static void note_driving(pqp_lane *l, bool at_work)
{
#ifdef PQP_WATCHDOG
    l->undriven_since = at_work || !l->flight.head ? PQP_NEVER : PQP_MIN(l->undriven_since, pqp_now());
#else
    (void)l, (void)at_work;
#endif
}

bool pqp_lane_unlock(pqp_lane *l, pqp_call *self)
{
    bool driving, more;
    do {
        pqp_lane_take_inbox(l);
        more = send_backlog(l);
        appoint(l, self);
        driving =
            pqp_lane_drives(l, self) && !self->waking; /* appointed by another, he must wait for the word */
        if (driving)
            l->polls_write = l->want_write;
        else if (l->driver == PQP_DRIVER_CALL && l->want_write && !l->polls_write)
            l->kick = true;
        note_driving(l, l->driver_at_work || l->driver == PQP_DRIVER_KEEPER);
        bool kick = l->kick, tell = l->orphaned;
        l->kick = l->orphaned = false;
        pqp_call *wakes = l->wakes;
        l->wakes = NULL;

        pqp_store(&l->held, 0);
        pqp_mutex_unlock(&l->mu);
        if (kick)
            l->tp->kick(&l->wire);
        if (tell)
            l->tell_keeper(l->owner);
        give_words(wakes);

        if (PQP_PLANTED(LOST_WAKEUP))
            return driving;
        if (!more && !pqp_load(&l->inbox))
            return driving;
        if (pqp_load(&l->held)) /* that holder leaves by this way too */
            return driving;
        pqp_lane_lock(l);
    } while (true);
}

/* ---- opening, closing, the keeper's part ---- */

void pqp_lane_open(pqp_lane *l, int window)
{
    pqp_lane_lock(l);
    l->window = window;
    l->dead = l->condemned = l->tainted = l->want_write = false;
    l->ends = 0;
    l->undriven_since = PQP_NEVER;
    pqp_error_clear(&l->why);
    pqp_store(&l->accepting, 1);
    pqp_lane_unlock(l, NULL);
}

void pqp_lane_retire(pqp_lane *l)
{
    pqp_store(&l->accepting, 0);
}

/* The count goes up first and the look comes second; whoever closes the lane does it the other way round. */
bool pqp_lane_pin(pqp_lane *l)
{
    pqp_add(&l->users, 1);
    if (pqp_load(&l->accepting))
        return true;
    pqp_lane_unpin(l);
    return false;
}

void pqp_lane_unpin(pqp_lane *l)
{
    if (pqp_sub(&l->users, 1) == 1 && !pqp_load(&l->accepting))
        l->tell_keeper(l->owner);
}

pqp_tended pqp_lane_tend(pqp_lane *l, bool ready)
{
    pqp_lane_lock(l);
    bool looked = ready && l->driver != PQP_DRIVER_CALL;
    if (looked || l->driver == PQP_DRIVER_KEEPER)
        pqp_lane_pump(l, ready);
    if (looked) /* the first look takes in the server's last words, only the second finds that nothing
                 * follows */
        pqp_lane_pump(l, true);
    pqp_lane_unlock(l, NULL);
    pqp_lane_lock(l); /* pqp_lane_unlock() may have sent, and appointed */
#ifdef PQP_WATCHDOG
    if (l->flight.head && !l->dead && l->undriven_since != PQP_NEVER &&
        pqp_now() - l->undriven_since > 100 * PQP_MS)
        abort();
#endif
    pqp_tended t = {
        .mine = l->driver == PQP_DRIVER_KEEPER,
        .looked = looked,
        .want_write = l->want_write,
        .dead = l->dead,
        .condemned = l->condemned,
    };
    t.stuck = !pqp_load(&l->accepting) && pqp_load(&l->users) == 0 && l->flight.head;
    t.vacant = !pqp_load(&l->accepting) && pqp_load(&l->users) == 0 && !pqp_load(&l->inbox) &&
               !l->backlog.head && !l->flight.head;
    pqp_lane_unlock(l, NULL);
    return t;
}

void pqp_lane_cut(pqp_lane *l, const char *reason)
{
    pqp_lane_lock(l);
    condemn(l, reason);
    lose(l, NULL);
    pqp_lane_unlock(l, NULL);
}
