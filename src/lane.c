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
 * it can't be lost. One reader thread for the whole pool would make one core the limit of all its connections.
 *
 * GUESTS. The owner of a ticket or a callback is not there while it runs. When he comes back for it
 * (pqp_call_attend), he counts as a blocked caller for as long as he waits. An event loop does not wait; it comes by
 * when the socket, which is then in its epoll, has something (pqp_lane_visit). In between nobody stays: the driver is
 * `GUEST`, and whoever comes next reads. Only when something has lain unread for 2 ms does the keeper take the role,
 * and it keeps it until somebody comes again: a callback that takes its time, or tickets that nobody waits for, hold
 * nothing up. Before anybody has ever come, and when every owner has left, the keeper is the driver at once.
 *
 * PAUSES. To sleep in poll() for a single answer costs the server, which has to wake the sleeper, as much as a small
 * statement. So where many answers are on their way and come fast (pqp_flight_flows), the driver first naps, and an
 * event loop is called by a timer; a driver who has woken others lets them run before he sleeps. What was tried:
 * looking again and again without sleep was as fast and took twice the processor time; a driver who yields without
 * regard to how long that takes lost half the throughput beside two busy programs.
 *
 * An attendant looks at his call under the lock of the lane it was handed to last; so that it can't move on under his
 * eyes, it is made ready for another lane under that lock too (pqp_call_ready).
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
 * the lane takes nothing new: it may run for ever, and nothing should stand behind it. If nothing does, the keeper has the
 * server cancel it. A request to cancel hits what the server process runs when it arrives; so from before it is made until
 * it has been taken nothing is sent (pqp_lane_begin_cancel), and afterwards the lane drains, and its session is cleaned.
 *
 * HELD UP. What stands in the backlog behind a head that runs for longer than stall_time goes back to its owners, unsent,
 * and elsewhere; but not the rest of a group that has begun here, which keeps its order.
 *
 * A QUIET LANE. While nothing is in flight nobody reads. A server that has ended the session, say while this process was
 * stopped, has said so on the socket, and a statement sent all the same would be UNKNOWN to its caller. So the first one
 * after a silence is sent only after a look at the socket (pqp_unit_send_backlog); if there is something, it is taken in
 * first, and if it is the end, everything in the backlog goes back unsent, and is tried elsewhere. The look is a system
 * call, made after 2 ms of silence and by no busy lane.
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

#include "unit.h"

/* A statement that is given up mostly ends by itself: the server was told its time-out. */
#ifdef PQP_MODEL
#define CANCEL_AFTER 0
#else
#define CANCEL_AFTER (50 * PQP_MS)
#endif

/* Without a guest for this long, the keeper drives. */
#ifdef PQP_MODEL
#define GUEST_TIME 0 /* whenever it likes */
#else
#define GUEST_TIME (2 * PQP_MS)
#endif

int pqp_lane_init(pqp_lane *l, const pqp_transport *tp, const pqp_lane_owner *owner)
{
    memset(l, 0, sizeof *l);
    l->tp = tp;
    l->stmts = owner->stmts;
    l->tell_keeper = owner->tell_keeper;
    l->tell_room = owner->tell_room;
    l->waiting = owner->waiting;
    l->loop_fd = owner->loop_fd;
    l->ddl = owner->ddl;
    l->stall_time = owner->stall_time;
    l->max_result = owner->max_result;
    l->max_buffer = owner->max_buffer;
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

/* The words a thread is giving. */
typedef struct words {
    pqp_call *first, **end;
} words;

static void add_words(words *w, pqp_call *calls)
{
    *w->end = calls;
    for (; calls; calls = calls->wake_next)
        w->end = &calls->wake_next;
}

/*
 * Gives the words decided under the lock. The word is the last thing: its reader may be gone with the call.
 * What over() does may lead back to here, on this lane or another; those words are then given by the first one, in
 * turn, so that a thousand calls that are over together don't stand on each other's stack.
 */
static void give_words(pqp_call *calls)
{
    words **giving = (words **)pqp_thread_slot();
    if (!calls)
        return;
    if (*giving) {
        add_words(*giving, calls);
        return;
    }
    words w = {.end = &w.first};
    add_words(&w, calls);
    *giving = &w;
    for (pqp_call *call; (call = w.first);) {
        w.first = call->wake_next;
        if (!w.first)
            w.end = &w.first;
        if (call->over && call->wake_word == PQP_WORD_DONE)
            call->over(call);
        else
            pqp_parker_post(&call->parker, call->wake_word);
    }
    *giving = NULL;
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
            if (pqp_flight_due(m, now))
                pqp_flight_give_up(l, m, PQPOOL_ETIMEDOUT);
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
        else if (!oldest->call->attended)
            l->attending += oldest->call->attended = true;
    }
}

void pqp_lane_nudge(pqp_lane *l)
{
    if (pqp_load(&l->held))
        return; /* that holder finds it on his way out */
    pqp_lane_lock(l);
    pqp_lane_unlock(l, NULL);
}

static bool may_drive(const pqp_call *call)
{
    return call && call->attended && call->remaining > 0 && !call->waking;
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
    /* Of one who submits and never waits, the flight is not walked at each step. */
    pqp_call *call = may_drive(self) ? self : l->attending > 0 ? newest_waiter(l) : NULL;
    if (call) {
        l->driver = PQP_DRIVER_CALL;
        l->driver_call = call;
        l->polls_write = false;
        if (call != self)
            pqp_flight_wake(l, call, PQP_WORD_DRIVE);
    } else if (l->guests && !l->want_write) {
        l->driver = PQP_DRIVER_GUEST;
        l->orphaned |= !l->looked_after && !PQP_PLANTED(LOST_GUEST);
        l->looked_after = true;
    } else if (l->driver != PQP_DRIVER_KEEPER) {
        l->driver = PQP_DRIVER_KEEPER;
        l->orphaned = true;
    }
}

static void leave_loop(pqp_lane *l)
{
    l->in_loop = false;
    l->tp->watch(&l->wire, pqp_load(l->loop_fd), NULL);
}

/* An event loop hears of answers as long as nobody else reads them, and it does not come by itself. It stays when the lane
 * is empty: there will be more. */
static void tell_loop(pqp_lane *l)
{
    bool others = l->driver == PQP_DRIVER_CALL || l->driver == PQP_DRIVER_KEEPER;
    if (l->in_loop && (others || l->dead)) {
        leave_loop(l);
    } else if (!l->in_loop && l->driver == PQP_DRIVER_GUEST && !pqp_peek(&l->forsaken) && l->loop_fd &&
               pqp_load(l->loop_fd) >= 0) {
        l->in_loop = true;
        l->tp->watch(&l->wire, pqp_load(l->loop_fd), l);
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

/* What stands unsent behind a head that may run for long is for the keeper to look at. */
static void mind_backlog(pqp_lane *l)
{
    bool held_up = l->stall_time && l->backlog.head && l->flight.head;
    l->orphaned |= held_up && !l->held_up;
    l->held_up = held_up;
}

/* For the keeper: what stands there goes elsewhere once the head holds it up. Returns when to look again. */
static pqp_time free_backlog(pqp_lane *l)
{
    pqp_time since = pqp_peek(&l->head_since), limit = l->stall_time ? pqp_peek(l->stall_time) : PQP_NEVER;
    if (!l->backlog.head || since == 0 || limit >= PQP_NEVER - since)
        return PQP_NEVER;
    if (pqp_now() < since + limit)
        return since + limit;
    pqp_flight_return_unsent(l);
    return PQP_NEVER;
}

bool pqp_lane_unlock(pqp_lane *l, pqp_call *self)
{
    bool driving, more;
    do {
        pqp_lane_take_inbox(l);
        more = pqp_unit_send_backlog(l);
        appoint(l, self);
        driving =
            pqp_flight_drives(l, self) && !self->waking; /* appointed by another, he must wait for the word */
        if (driving)
            l->polls_write = l->want_write;
        else if (l->driver == PQP_DRIVER_CALL && l->want_write && !l->polls_write)
            l->kick = true;
        mind_backlog(l);
        note_driving(l, l->driver_at_work || l->driver != PQP_DRIVER_CALL);
        tell_loop(l);
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
    l->window = terms->pooled ? 1 : terms->window;
    l->pooled = terms->pooled;
    l->round_trip = terms->round_trip;
    l->cost_cap = terms->cost_cap;
    l->session_timeout_ms = terms->session_timeout_ms;
    l->dead = l->condemned = l->tainted = l->want_write = l->cut = l->large = false;
    l->ends = 0;
    pqp_poke(&l->ended, 0);
    l->undriven_since = PQP_NEVER;
    l->held_up = false;
    l->sound = l->guests = l->looked_after = l->unread = false;
    pqp_store(&l->forsaken, 1);
    l->sounded_at = 0;
    pqp_prepared_forget(&l->prepared);
    pqp_error_clear(&l->why);
    pqp_lane_unlock(l, NULL);
}

void pqp_lane_admit(pqp_lane *l)
{
    pqp_store(&l->accepting, 1);
    if (pqp_load(
            &l->ended)) /* lost just now: without this it would accept for ever, and return what it gets */
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

/*
 * The pool's mutex is held, and a lane's may be for as long as it takes to copy a statement of any size: so it is not
 * waited for. The mutex alone, and not pqp_lane_lock(): `held` would promise to submitters that their statements are
 * sent on the way out.
 */
pqp_time pqp_lane_head(pqp_lane *l, pqp_time now, char *sql, size_t size)
{
    enum { TRIES = 200 };
    pqp_time since = pqp_peek(&l->head_since);
    snprintf(sql, size, "%s", "");
    for (int i = 0; i < TRIES; i++) {
        if (!pqp_mutex_trylock(&l->mu))
            continue;
        const pqp_stmt *head = l->flight.head;
        const char *text = head ? pqp_flight_text(head) : NULL;
        snprintf(sql, size, "%s", text ? text : "");
        since = head ? pqp_peek(&l->head_since) : 0;
        pqp_mutex_unlock(&l->mu);
        break;
    }
    return since != 0 ? PQP_MAX(0, now - since) : 0;
}

void pqp_lane_unpin(pqp_lane *l)
{
    if (pqp_sub(&l->users, 1) == 1 && !pqp_load(&l->accepting))
        l->tell_keeper(l->owner);
}

/* What is guarded by a lane's lock of a call is guarded by that of the lane it was handed to last. */
bool pqp_lane_attend(pqp_lane *l, pqp_call *call)
{
    if (pqp_load(&call->lane) != l || call->remaining == 0)
        return false;
    call->attended = true;
    l->attending++;
    l->guests = true;
    return true;
}

bool pqp_lane_unattend(pqp_lane *l, pqp_call *call)
{
    if (pqp_load(&call->lane) != l)
        return false;
    /* Also where it has ended since: nobody but the one who was asked will say so. */
    if (call->waking && call->wake_word == PQP_WORD_DRIVE)
        return true;
    l->attending -= call->attended;
    call->attended = false;
    return false;
}

bool pqp_lane_visit(pqp_lane *l)
{
    pqp_lane_lock(l);
    /* An empty lane that the loop does not watch may, since it was told, have given its connection to somebody else. */
    bool reads = l->driver != PQP_DRIVER_CALL && (l->flight.head || l->in_loop);
    l->guests = true;
    if (reads)
        pqp_flight_pump(l, true);
    bool again = reads && pqp_flight_flows(l);
    pqp_poke(&l->forsaken, again);
    if (again && l->in_loop)
        leave_loop(l);
    pqp_lane_unlock(l, NULL);
    return again;
}

bool pqp_lane_forsaken(pqp_lane *l)
{
    return pqp_peek(&l->forsaken);
}

/* For the keeper: guests who don't come any more are not relied on. Returns when to look again. */
static pqp_time look_after_guests(pqp_lane *l)
{
    pqp_time now = pqp_now();
    if (l->driver != PQP_DRIVER_GUEST || !l->flight.head) {
        /* There may be another in a moment: to be told of each is to be woken for each. */
        l->looked_after = now - l->sending_at < 5 * GUEST_TIME;
        return l->looked_after ? now + GUEST_TIME : PQP_NEVER;
    }
    bool unread = l->tp->readable(&l->wire);
    bool late = unread && l->unread && now - l->unread_at >= GUEST_TIME;
    /* It is long in coming: the keeper can sleep for it better than look for guests. */
    bool silent = GUEST_TIME > 0 && !unread && now - PQP_MAX(l->ended_at, l->sending_at) > 10 * GUEST_TIME;
    if (unread && !l->unread)
        l->unread_at = now;
    l->unread = unread;
    if (!late && !silent)
        return now + GUEST_TIME;
    l->guests = l->looked_after = false;
    pqp_poke(&l->forsaken, 1);
    l->driver = PQP_DRIVER_KEEPER;
    pqp_flight_pump(l, true);
    return PQP_NEVER;
}

pqp_tended pqp_lane_tend(pqp_lane *l, bool ready)
{
    pqp_lane_lock(l);
    pqp_time guests_due = l->looked_after ? look_after_guests(l) : PQP_NEVER;
    bool looked = ready && l->driver != PQP_DRIVER_CALL;
    if (looked || l->driver == PQP_DRIVER_KEEPER)
        pqp_flight_pump(l, ready);
    if (looked) /* the first look takes in the server's last words, only the second finds that nothing
                 * follows */
        pqp_flight_pump(l, true);
    if (l->alarm != PQP_NEVER && pqp_now() >= l->alarm)
        expire_unattended(l, pqp_now());
    guests_due = PQP_MIN(guests_due, free_backlog(l));
    pqp_lane_unlock(l, NULL);
    pqp_lane_lock(l); /* pqp_lane_unlock() may have sent, and appointed */
#ifdef PQP_WATCHDOG
    if (l->flight.head && !l->dead && l->undriven_since != PQP_NEVER &&
        pqp_now() - l->undriven_since > 500 * PQP_MS)
        abort();
#endif
    pqp_tended t = {
        .mine = l->driver == PQP_DRIVER_KEEPER,
        .looked = looked,
        .want_write = l->want_write,
        .dead = l->dead,
        .condemned = l->condemned,
        .due = PQP_MIN(l->alarm, guests_due),
    };
    if (pqp_flight_may_cancel(l)) {
        pqp_time at = l->unwanted_since + CANCEL_AFTER;
        t.cancel = pqp_now() >= at;
        t.due = t.cancel ? t.due : PQP_MIN(t.due, at);
    }
    t.stuck = !pqp_load(&l->accepting) && pqp_load(&l->users) == 0 && l->flight.head;
    t.vacant = !pqp_load(&l->accepting) && pqp_load(&l->users) == 0 && !pqp_load(&l->inbox) &&
               !l->backlog.head && !l->flight.head;
    if (t.vacant && l->in_loop) /* the socket will be used otherwise */
        leave_loop(l);
    pqp_lane_unlock(l, NULL);
    return t;
}

bool pqp_lane_vacate(pqp_lane *l, pqp_tended *seen)
{
    if (!pqp_mutex_trylock(&l->mu)) /* the mutex alone: pqp_lane_head() says why */
        return false;
    bool empty = !pqp_load(&l->inbox) && !l->backlog.head && !l->flight.head;
    if (empty && l->in_loop)
        leave_loop(l);
    seen->dead = l->dead;
    seen->condemned = l->condemned;
    pqp_mutex_unlock(&l->mu);
    return empty;
}

bool pqp_lane_begin_cancel(pqp_lane *l)
{
    pqp_lane_lock(l);
    bool may = pqp_flight_may_cancel(l);
    l->cancelling = l->cancel_asked = may;
    pqp_lane_unlock(l, NULL);
    return may;
}

void pqp_lane_end_cancel(pqp_lane *l)
{
    pqp_lane_lock(l);
    l->cancelling = false;
    pqp_lane_unlock(l, NULL);
}

void pqp_lane_cut(pqp_lane *l, const char *reason)
{
    pqp_lane_lock(l);
    l->cut |= !l->dead && l->flight.head != NULL;
    pqp_flight_condemn(l, reason, NULL);
    pqp_flight_lose(l, NULL);
    pqp_lane_unlock(l, NULL);
}
