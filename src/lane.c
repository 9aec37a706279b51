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
 * UNITS. What lies between two Syncs is one transaction of the server's, and fails as one. Mostly that is one
 * statement; the members of an all-or-nothing group share one unit. Before a statement its unit may hold a Parse
 * (its prepared statement is not there yet) and the setting of its time-out. Each such part gets one result, so
 * counting parts tells what a result is about; only the Sync tells that it stands.
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

/* libpq has at most two NULLs in a row for us between answers; a third is libpq after the end. */
enum { ENDS_MAX = 2 };

/* Whose the statement is that sets a time-out: no plan has this number. */
#define SETTING_PLAN UINT64_MAX

#define MARGIN_MIN (5 * PQP_MS)

/* When a unit has taken this long, the way to the server is measured anew, but not more often than this. */
#define SOUND_AFTER (5 * PQP_MS)
#define SOUND_EVERY PQP_SECOND

int pqp_lane_init(pqp_lane *l, const pqp_transport *tp, const pqp_lane_owner *owner)
{
    memset(l, 0, sizeof *l);
    l->tp = tp;
    l->stmts = owner->stmts;
    l->tell_keeper = owner->tell_keeper;
    l->tell_room = owner->tell_room;
    l->waiting = owner->waiting;
    l->owner = owner->owner;
    l->alarm = PQP_NEVER;
    return pqp_mutex_init(&l->mu, PQP_RANK_LANE);
}

void pqp_lane_fini(pqp_lane *l)
{
    assert(!l->flight.head && !l->backlog.head);
    pqp_prepared_fini(&l->prepared);
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
        if (call->over)
            call->over(call);
        else
            pqp_parker_post(&call->parker, call->wake_word);
        call = next;
    }
}

bool pqp_lane_drives(const pqp_lane *l, const pqp_call *call)
{
    return call && l->driver == PQP_DRIVER_CALL && l->driver_call == call;
}

/* ---- answers ---- */

void pqp_stmt_put(pqp_depot *stmts, pqp_stmt *m)
{
    pqp_plan_unpin(m->plan);
    m->plan = NULL;
    pqp_depot_put(stmts, m);
}

/* One member of the call has its code and outcome. The owner is woken when it was the last. */
static void end_member(pqp_lane *l, pqp_call *call)
{
    if (--call->remaining > 0 || call->waking)
        return;
    if (!pqp_lane_drives(l, call))
        wake(l, call, PQP_WORD_DONE);
    else if (!l->driver_awake)
        l->kick = true; /* he is in poll() or on his way there */
}

static void leave(pqp_lane *l, pqp_stmt *m)
{
    atomic_fetch_sub(&l->load, 1);
    l->freed = true;
    m->state = PQP_STMT_DONE;
}

/* The statement is over. */
static void finish(pqp_lane *l, pqp_stmt *m, pqpool_code code, pqpool_outcome outcome)
{
    leave(l, m);
    atomic_fetch_add_explicit(&l->served, 1, memory_order_relaxed);
    if (m->given_up || !m->call) {
        if (m->result)
            l->tp->clear(m->result);
        m->result = NULL;
        if (!m->call)
            pqp_stmt_put(l->stmts, m);
        return;
    }
    if (m->result && code != PQPOOL_OK && code != PQPOOL_ESERVER) {
        l->tp->clear(m->result);
        m->result = NULL;
    }
    m->code = code;
    m->outcome = outcome;
    end_member(l, m->call);
}

bool pqp_lane_due(const pqp_stmt *m, pqp_time now)
{
    if (m->state == PQP_STMT_PENDING)
        return now >= m->deadline || (!m->call->sent && now >= m->call->unsent_deadline);
    return m->state == PQP_STMT_SENT && !m->given_up && now >= m->deadline;
}

void pqp_lane_give_up(pqp_lane *l, pqp_stmt *m, pqpool_code code)
{
    m->code = code;
    m->outcome = m->state == PQP_STMT_SENT ? PQPOOL_UNKNOWN : PQPOOL_NOT_SENT;
    if (m->state == PQP_STMT_SENT) {
        m->given_up = true;
        pqp_lane_fence_stall(l);
    } else {
        pqp_stmt_list_remove(&l->backlog, m);
        leave(l, m);
    }
    if (m->call->over)
        end_member(l, m->call);
    else
        m->call->remaining--; /* its owner is here himself */
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
    return m;
}

/*
 * Since when the head has been running in the server, as the time is seen from here: from when it became the head, but
 * not before it can have arrived there and something could have come back.
 */
static void note_new_head(pqp_lane *l, pqp_time now)
{
    const pqp_stmt *m = l->flight.head;
    pqp_poke(&l->head_since, m ? PQP_MAX(now, m->sent_at + l->round_trip) : 0);
}

/*
 * The head unit is over; how long it ran tells what its statement costs. That it ran for long may also mean that the
 * network has become slow, and then the lane would seem to stall with each statement: so the round trip is sounded.
 */
static void note_cost(pqp_lane *l, const pqp_stmt *m, pqp_time now)
{
    pqp_time ran = now - pqp_peek(&l->head_since);
    if (m->plan && !m->joined)
        pqp_plan_took(m->plan, ran, l->cost_cap);
    l->round_trip = PQP_MIN(l->round_trip, now - m->sent_at);
    l->sound = ran > SOUND_AFTER && now - l->sounded_at > SOUND_EVERY;
}

static bool is_sounding(const pqp_stmt *m)
{
    return m->n_parts == 0;
}

static void next_head(pqp_lane *l, pqp_time now)
{
    l->answering = NULL;
    note_new_head(l, now);
    pqp_lane_fence_stall(l);
}

/*
 * Ends the head unit. error: that of a member, which undid what the others did (NULL: none). They are then
 * CANCELED, but no less final than the one that failed.
 */
static void finish_unit(pqp_lane *l, const pqp_stmt *error, pqpool_code code, pqpool_outcome outcome)
{
    bool more;
    do {
        pqp_stmt *m = flight_shift(l);
        more = m->joined;
        if (m == error)
            finish(l, m, PQPOOL_ESERVER, PQPOOL_DONE);
        else if (error)
            finish(l, m, PQPOOL_ECANCELED, PQPOOL_DONE);
        else
            finish(l, m, code, outcome);
    } while (more && l->flight.head);
}

/* The error in the head unit, if one has come. */
static pqp_stmt *unit_error(const pqp_lane *l)
{
    for (pqp_stmt *m = l->flight.head; m; m = m->joined ? m->link.next : NULL)
        if (m->result_is_error)
            return m;
    return NULL;
}

/* Nothing of these was sent; their owners may try another lane. */
static void return_backlog(pqp_lane *l)
{
    for (pqp_stmt *m; (m = pqp_stmt_list_shift(&l->backlog));)
        finish(l, m, PQPOOL_ELOST, PQPOOL_NOT_SENT);
}

/* A unit without its Sync can't commit, unless it commits by itself. */
static void finish_unsynced(pqp_lane *l)
{
    for (; l->unsynced > 0; l->unsynced--) {
        pqp_stmt *m = l->flight.tail;
        pqp_stmt_list_remove(&l->flight, m);
        l->flight_bytes -= m->bytes;
        finish(l, m, PQPOOL_ELOST, m->commits_itself ? PQPOOL_UNKNOWN : PQPOOL_NOT_SENT);
    }
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
    pqp_poke(&l->ended, 1);
    if (!l->condemned)
        l->tp->describe(&l->wire, fatal ? fatal->result : NULL, &l->why);
    l->want_write = false;
    finish_unsynced(l);
    for (bool head = true; l->flight.head; head = false) {
        for (pqp_stmt *m = l->flight.head; m; m = m->joined ? m->link.next : NULL)
            m->headed_loss = head && !(fatal && fatal->spoke);
        bool not_run = proof == PQP_PROOF_ALL || (proof == PQP_PROOF_BEHIND && !head);
        finish_unit(l, head ? unit_error(l) : NULL, PQPOOL_ELOST, not_run ? PQPOOL_NOT_RUN : PQPOOL_UNKNOWN);
    }
    next_head(l, 0);
    return_backlog(l);
}

/* A statement's SQL, as long as its owner is still there. */
static const char *text_of(const pqp_stmt *m)
{
    return m->call && !m->given_up ? m->request->sql : NULL;
}

/* Takes and sends nothing more; what is in flight still gets its answers. */
static void condemn(pqp_lane *l, const char *reason, const char *culprit)
{
    if (l->condemned || l->dead)
        return;
    l->condemned = true;
    pqp_store(&l->accepting, 0);
    pqp_poke(&l->ended, 1);
    pqp_fail(&l->why, PQPOOL_ELOST, PQPOOL_UNKNOWN, "the shared connection was closed: %s%s%.200s", reason,
             culprit ? ": " : "", culprit ? culprit : "");
    return_backlog(l);
}

static void fall_out_of_step(pqp_lane *l)
{
    condemn(l, "it fell out of step (COPY, or an answer that belongs to no statement)",
            l->flight.head ? text_of(l->flight.head) : NULL);
    lose(l, NULL);
}

/* The head unit's sync point has come: now, and not before, its answers are final. */
static void finish_head(pqp_lane *l, pqp_time now)
{
    pqp_stmt *head = l->flight.head, *error = unit_error(l);
    for (pqp_stmt *m = head; m && !error; m = m->joined ? m->link.next : NULL)
        if (!m->result && m->parts[0] != PQP_PART_ASIDE) {
            fall_out_of_step(l);
            return;
        }
    if (is_sounding(head))
        l->round_trip = now - head->sent_at;
    else if (!error && !l->tainted)
        note_cost(l, head, now);
    l->ended_now++;
    l->ended_text = text_of(head);
    if (l->tainted &&
        !head->taints) /* after a BEGIN that slipped through, say: "done" may yet be rolled back */
        finish_unit(l, NULL, PQPOOL_ELOST, PQPOOL_UNKNOWN);
    else
        finish_unit(l, error, PQPOOL_OK, PQPOOL_DONE);
    if (PQP_PLANTED(SHIFTED_FLIGHT) && l->flight.count > 1) {
        pqp_stmt *m = pqp_stmt_list_shift(&l->flight);
        pqp_stmt_list_insert(&l->flight, l->flight.head, m);
    }
    next_head(l, now);
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

/* Which statement of the head unit the next answer belongs to. */
static pqp_stmt *answering(pqp_lane *l)
{
    pqp_stmt *m = l->answering ? l->answering : l->flight.head;
    while (m->answered == m->n_parts && m->joined && m->link.next)
        m = m->link.next;
    return l->answering = m;
}

static int place_of(const pqp_stmt *m, pqp_part part)
{
    return part == PQP_PART_PARSE || part == PQP_PART_BODY ? m->plan->place + 1 : 0;
}

/* What the server says of the prepared statements a statement was sent with. */
static void note_prepared(pqp_lane *l, pqp_stmt *m, pqp_part part, const pqp_answer *a)
{
    bool setting = part == PQP_PART_SETTING || part == PQP_PART_SETTING_PARSE;
    uint32_t number = setting ? m->setting_number : m->number;
    if (number == 0)
        return;
    if (part == PQP_PART_PARSE || part == PQP_PART_SETTING_PARSE) {
        pqp_prepared_parsed(&l->prepared, place_of(m, part), number, a->kind == PQP_NEXT_RESULT);
    } else if (a->kind == PQP_NEXT_ERROR && a->stale != PQP_NOT_STALE) {
        pqp_prepared_refused(&l->prepared, place_of(m, part), number, a->stale == PQP_STALE_GONE);
        m->stale = true;
    }
}

/* One of the answers of a unit: to each part of each of its statements there is one, and at the Sync there may be
 * an error more. */
static void take_answer(pqp_lane *l, const pqp_answer *a)
{
    pqp_stmt *m = answering(l);
    if (m->answered == m->n_parts) {
        if (a->kind == PQP_NEXT_ERROR) {
            keep(l, m, a->result, true);
            return;
        }
        if (a->result)
            l->tp->clear(a->result);
        fall_out_of_step(l);
        return;
    }
    pqp_part part = m->parts[m->answered++];
    note_prepared(l, m, part, a);
    if (part == PQP_PART_ASIDE || (part != PQP_PART_BODY && a->kind != PQP_NEXT_ERROR)) {
        if (a->result)
            l->tp->clear(a->result);
        return;
    }
    if (a->kind == PQP_NEXT_STATE) {
        condemn(l, "a statement changed the state of its session", text_of(m));
        l->tainted = m->taints = true;
    }
    if (a->kind != PQP_NEXT_ABORTED) /* the error that caused it is the answer */
        keep(l, m, a->result, a->kind == PQP_NEXT_ERROR);
}

/* Takes every answer that is here. */
static void collect(pqp_lane *l)
{
    pqp_time now = l->flight.head ? pqp_now() : 0;
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
        case PQP_NEXT_SYNC:
            finish_head(l, now);
            break;
        case PQP_NEXT_COPY:
            fall_out_of_step(l);
            break;
        case PQP_NEXT_FATAL:
            lose(l, &a);
            l->tp->clear(a.result);
            break;
        default:
            take_answer(l, &a);
            break;
        }
    }
}

/* After statements have ended: what none of them showed by its answer may show by the session. Their owners are still
 * there, so the last can be named; which of several it was is not known. */
static void look_at_session(pqp_lane *l)
{
    const char *reason = l->tp->unclean(&l->wire, !l->flight.head);
    char text[300];
    if (!reason)
        return;
    if (l->ended_now > 1)
        snprintf(text, sizeof text, "%s, by one of %d statements, the last of them", reason, l->ended_now);
    else
        snprintf(text, sizeof text, "%s", reason);
    condemn(l, text, l->ended_text);
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
    l->ended_now = 0;
    collect(l); /* what arrived before the end still counts */
    if (!l->dead && (!here || !l->tp->alive(&l->wire)))
        lose(l, NULL);
    if (!l->dead && l->ended_now > 0)
        look_at_session(l);
}

/* ---- leaving: inbox, sending, appointing ---- */

/* Nobody waits for it, so the keeper must see to its deadline. */
static void set_alarm(pqp_lane *l, const pqp_stmt *m)
{
    pqp_time at = m->state == PQP_STMT_PENDING && !m->call->sent
                      ? PQP_MIN(m->deadline, m->call->unsent_deadline)
                      : m->deadline;
    if (at >= l->alarm)
        return;
    l->alarm = at;
    l->orphaned = true;
}

/* Ends what is past its time and has nobody who waits. */
static void expire_unattended(pqp_lane *l, pqp_time now)
{
    pqp_stmt_list *lists[] = {&l->backlog, &l->flight};
    l->alarm = PQP_NEVER;
    for (size_t i = 0; i < PQP_COUNT_OF(lists); i++)
        for (pqp_stmt *m = lists[i]->head, *next; m; m = next) {
            next = m->link.next;
            if (!m->call || !m->call->over || m->given_up)
                continue;
            if (pqp_lane_due(m, now))
                pqp_lane_give_up(l, m, PQPOOL_ETIMEDOUT);
            else
                set_alarm(l, m);
        }
}

void pqp_lane_take_inbox(pqp_lane *l)
{
    pqp_stmt *oldest = NULL;
    for (pqp_stmt *m = pqp_swap(&l->inbox, NULL), *next; m; m = next) {
        next = m->inbox_next;
        m->inbox_next = oldest;
        oldest = m;
    }
    for (; oldest; oldest = oldest->inbox_next) {
        pqp_stmt_list_push(&l->backlog, oldest);
        if (oldest->call->over)
            set_alarm(l, oldest);
    }
}

void pqp_lane_nudge(pqp_lane *l)
{
    if (pqp_load(&l->held))
        return; /* that holder finds it on his way out */
    pqp_lane_lock(l);
    pqp_lane_unlock(l, NULL);
}

static void enter_flight(pqp_lane *l, pqp_stmt *m)
{
    m->state = PQP_STMT_SENT;
    m->answered = 0;
    m->sent_at = l->sending_at;
    pqp_stmt_list_push(&l->flight, m);
    if (l->flight.head == m)
        note_new_head(l, m->sent_at);
    l->flight_bytes += m->bytes;
    l->unsynced++;
}

/* Any failure to send ends the connection: what it has taken in of the statement, and of its neighbours before,
 * can no longer be known. */
static void fail_sending(pqp_lane *l, pqp_stmt *m)
{
    m->send_refused = l->tp->alive(&l->wire);
    pqp_lane_pump(l, true); /* the server may have said why */
    lose(l, NULL);
}

/* A unit of the lane's own, whose answer is dropped: closes a prepared statement, or runs SQL (number 0), or is nothing
 * but a Sync (neither), which the server answers at once. False: the connection is lost. */
static bool send_aside(pqp_lane *l, uint32_t number, const char *sql)
{
    pqp_stmt *m = pqp_depot_take(l->stmts);
    if (!m)
        return !sql; /* one that is not closed stays until the connection ends, and harms nobody */
    memset(m, 0, sizeof *m);
    m->parts[0] = PQP_PART_ASIDE;
    m->n_parts = number || sql;
    atomic_fetch_add(&l->load, 1);
    pqp_sent sent = number ? l->tp->close(&l->wire, number) : l->tp->aside(&l->wire, sql);
    enter_flight(l, m);
    if (sent == PQP_SENT_WHOLE) {
        l->unsynced = 0;
        return true;
    }
    fail_sending(l, m);
    return false;
}

/* The prepared statement to send it by, under which number. */
static bool choose_name(pqp_lane *l, pqp_stmt *m, pqp_sending *how, bool unit_begun)
{
    m->number = 0;
    if (!m->plan || m->unnamed)
        return true;
    pqp_use use = pqp_prepared_use(&l->prepared, m->plan->place + 1, m->plan->id);
    if (use.close && unit_begun) { /* a unit may not be broken into */
        pqp_prepared_refused(&l->prepared, m->plan->place + 1, use.number, true);
        use = (pqp_use){0};
    }
    if (use.close && !send_aside(l, use.close, NULL))
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
    pqp_use use = pqp_prepared_use(&l->prepared, 0, SETTING_PLAN);
    m->setting_number = how->setting = use.number;
    how->parse_setting = use.parse;
}

/* A statement that refuses a transaction with anything else in it has its time-out set and undone around it. It is
 * alone on the lane. */
static bool set_timeout(pqp_lane *l, int ms)
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
    if (how->setting)
        m->parts[m->n_parts++] = PQP_PART_SETTING;
    if (how->parse)
        m->parts[m->n_parts++] = PQP_PART_PARSE;
    m->parts[m->n_parts++] = PQP_PART_BODY;
}

/* Sends the unit at the front of the backlog: one statement, or all that share a Sync. Returns how many went out, or
 * -1: the connection is lost. */
static int send_unit(pqp_lane *l, size_t *bytes)
{
    int n = 0, ms;
    bool timed = false, more = true,
         around = l->backlog.head->commits_itself && own_timeout(l, l->backlog.head, &ms);
    if (l->sound && !l->flight.head) {
        l->sound = false;
        l->sounded_at = l->sending_at;
        if (!send_aside(l, 0, NULL))
            return -1;
    }
    if (around && !set_timeout(l, ms))
        return -1; /* what is in the backlog has been returned */
    while (more) {
        pqp_stmt *m = l->backlog.head;
        pqp_sending how = {.sync = !m->joined};
        if (!choose_name(l, m, &how, n > 0))
            return -1;
        if (!around)
            choose_setting(l, m, &how, timed);
        timed |= how.setting != 0;
        note_parts(m, &how);
        more = m->joined;
        n++;
        *bytes += m->bytes;
        pqp_stmt_list_remove(&l->backlog, m);
        m->call->sent++;
        pqp_sent sent = l->tp->send(&l->wire, m->request, &how);
        if (sent == PQP_SENT_NOTHING) {
            fail_sending(l, m);
            finish(l, m, PQPOOL_ELOST, PQPOOL_NOT_SENT);
            return -1;
        }
        enter_flight(l, m);
        if (sent == PQP_SENT_NO_SYNC) {
            fail_sending(l, m);
            return -1;
        }
    }
    l->unsynced = 0;
    return !around || set_timeout(l, l->session_timeout_ms) ? n : -1;
}

/* Sends from the backlog while the window has room. True: it has more to send, and has only paused. */
static bool send_backlog(pqp_lane *l)
{
    int statements = 0;
    size_t bytes = 0;
    if (l->dead || l->condemned)
        return_backlog(l);
    if (l->backlog.head)
        l->sending_at = pqp_now();
    while (l->backlog.head && l->flight.count < l->window) {
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
        pqp_lane_pump(l, true);
    return !l->dead && l->backlog.head && (statements >= SEND_STATEMENTS || bytes >= SEND_BYTES);
}

static bool may_drive(const pqp_call *call)
{
    return call && call->remaining > 0 && !call->waking && !call->over;
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
        bool kick = l->kick, tell = l->orphaned, room = l->freed && l->waiting;
        l->kick = l->orphaned = l->freed = false;
        pqp_call *wakes = l->wakes;
        l->wakes = NULL;

        pqp_store(&l->held, 0);
        pqp_mutex_unlock(&l->mu);
        if (kick)
            l->tp->kick(&l->wire);
        if (tell)
            l->tell_keeper(l->owner);
        if (room && pqp_load(l->waiting) > 0)
            l->tell_room(l->owner);
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

void pqp_lane_open(pqp_lane *l, const pqp_lane_terms *terms)
{
    pqp_lane_lock(l);
    l->window = terms->window;
    l->round_trip = terms->round_trip;
    l->cost_cap = terms->cost_cap;
    l->session_timeout_ms = terms->session_timeout_ms;
    l->dead = l->condemned = l->tainted = l->want_write = false;
    l->ends = 0;
    pqp_poke(&l->ended, 0);
    l->undriven_since = PQP_NEVER;
    l->sound = false;
    l->sounded_at = 0;
    pqp_prepared_forget(&l->prepared);
    pqp_error_clear(&l->why);
    pqp_lane_unlock(l, NULL);
}

void pqp_lane_admit(pqp_lane *l)
{
    pqp_store(&l->accepting, 1);
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

void pqp_lane_pin_alone(pqp_lane *l)
{
    pqp_add(&l->users, 1);
}

bool pqp_lane_reserve(pqp_lane *l, int n)
{
    int load = pqp_load(&l->load);
    while (load < l->window)
        if (pqp_cas(&l->load, &load, load + n))
            return true;
    return false;
}

bool pqp_lane_stalled(pqp_lane *l, pqp_time now, pqp_time limit)
{
    pqp_time since = pqp_peek(&l->head_since);
    return since != 0 && now - since > limit;
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
    if (l->alarm != PQP_NEVER && pqp_now() >= l->alarm)
        expire_unattended(l, pqp_now());
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
        .due = l->alarm,
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
    condemn(l, reason, NULL);
    lose(l, NULL);
    pqp_lane_unlock(l, NULL);
}
