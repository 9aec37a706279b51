/* call: the caller's side of a lane. The rules are in lane.c's essay; here they are kept. */
#include "call.h"

/* A pause of the driver's that is longer than this was too long, and he makes none for so many times its length. */
#define PAUSE_LONG (500 * PQP_US)
enum { PAUSE_REST = 50 };

int pqp_call_init(void *call)
{
    return pqp_parker_init(&((pqp_call *)call)->parker);
}

void pqp_call_fini(void *call)
{
    free(((pqp_call *)call)->room);
    pqp_parker_fini(&((pqp_call *)call)->parker);
}

enum { ROOM_UNIT = 64, ROOM_KEPT = 1024 };

void *pqp_call_room(pqp_call *call, size_t size)
{
    if (call->room && size <= call->room_size)
        return call->room;
    free(call->room);
    size = (size / ROOM_UNIT + 1) * ROOM_UNIT;
    call->room = size <= UINT32_MAX ? malloc(size) : NULL;
    call->room_size = (uint32_t)size;
    return call->room;
}

void pqp_call_trim(pqp_call *call)
{
    if (call->room_size <= ROOM_KEPT)
        return;
    free(call->room);
    call->room = NULL;
    call->room_size = 0;
}

/* The next instant at which something of the call runs out. */
static pqp_time next_deadline(const pqp_call *call)
{
    pqp_time first = call->sent ? PQP_NEVER : call->unsent_deadline;
    for (const pqp_stmt *m = call->members; m; m = m->sibling)
        if (m->state != PQP_STMT_DONE && !m->given_up)
            first = PQP_MIN(first, m->deadline);
    return first;
}

/* Takes what is past its time out of the call. */
static void expire(pqp_lane *l, pqp_call *call, pqp_time now)
{
    pqp_lane_take_inbox(l); /* ours may still lie there */
    for (pqp_stmt *m = call->members; m; m = m->sibling)
        if (pqp_flight_due(m, now))
            pqp_flight_give_up(l, m, PQPOOL_ETIMEDOUT);
}

/*
 * What the driver does before he looks for answers again, so that there are more of them at once. Where many are on their
 * way and come fast, he naps: each time he slept in poll(), the server would have to wake him for a single one, which
 * costs it as much as to run a small statement. Else, if he has woken others, they are to run first and hand in their
 * next statements. Where the processors are busy with other work, or the system's timers are coarse, a pause lasts long;
 * then he makes none for a while.
 */
static void make_pause(pqp_lane *l, bool flows)
{
    pqp_time before = pqp_now();
    if (before < l->pause_after)
        return;
    if (flows)
        pqp_nap(PQP_GATHER_TIME);
    else
        pqp_yield();
    pqp_time now = pqp_now();
    if (now - before > PAUSE_LONG)
        l->pause_after = now + PAUSE_REST * (now - before);
}

/*
 * The driver at work. Entered and left under the lock; on return the call has all it will get, or his patience is at
 * its end, and the role is free for the next.
 */
static void drive(pqp_lane *l, pqp_call *call, pqp_time patience)
{
    call->waking = false;
    l->driver_at_work = true;
    for (bool patient = true; patient && call->remaining > 0;) {
        pqp_time deadline = next_deadline(call);
        if (deadline != PQP_NEVER && pqp_now() >= deadline) {
            expire(l, call, pqp_now());
            continue;
        }
        l->driver_awake = false;
        bool others = l->wakes != NULL, flows = pqp_flight_flows(l);
        pqp_lane_unlock(l, call);
        if (flows || others)
            make_pause(l, flows);
        int ready = l->tp->wait(&l->wire, l->polls_write, PQP_MIN(deadline, patience));
        pqp_lane_lock(l);
        l->driver_awake = true;
        pqp_flight_pump(l, ready & PQP_READY_READ);
        patient = patience == PQP_NEVER || pqp_now() < patience;
    }
    l->driver_awake = l->driver_at_work = false;
    l->driver = PQP_DRIVER_NONE;
    l->driver_call = NULL;
}

void pqp_call_ready(pqp_call *call)
{
    pqp_lane *before = pqp_load(&call->lane); /* somebody may still attend to it there */
    if (before)
        pqp_lane_lock(before);
    call->remaining = call->sent = 0;
    call->waking = call->attended = false;
    pqp_store(&call->lane, NULL);
    pqp_parker_reset(&call->parker);
    for (pqp_stmt *m = call->members; m; m = m->sibling) {
        m->call = call;
        m->state = PQP_STMT_PENDING;
        m->given_up = m->headed_loss = m->result_is_error = m->send_refused = m->taints = m->stale =
            m->doubtful = m->no_memory = false;
        m->result = NULL;
        call->remaining++;
    }
    if (before)
        pqp_lane_unlock(before, NULL);
}

void pqp_call_push(pqp_call *call, pqp_lane *l)
{
    pqp_stmt *newest = NULL, *oldest = call->members;
    for (pqp_stmt *m = oldest; m; m = m->sibling) {
        m->inbox_next = newest;
        newest = m;
    }
    pqp_store(&call->lane, l);
    pqp_stmt *top = pqp_load(&l->inbox);
    do
        oldest->inbox_next = top;
    while (!pqp_cas(&l->inbox, &top, newest));
}

void pqp_call_has_room(pqp_call *call, pqp_time now)
{
    if (call->unsent_deadline <= now)
        call->unsent_deadline = now + PQP_SECOND;
}

bool pqp_call_submit(pqp_call *call, pqp_lane *l)
{
    pqp_call_push(call, l);
    if (pqp_load(&l->held))
        return false; /* that holder finds it on his way out */
    pqp_lane_lock(l);
    return pqp_lane_unlock(l, call);
}

/* The first instant that may matter to the call, before anything is known of it. */
static pqp_time first_deadline(const pqp_call *call)
{
    pqp_time first = call->unsent_deadline;
    for (const pqp_stmt *m = call->members; m; m = m->sibling)
        first = PQP_MIN(first, m->deadline);
    return first;
}

/* Drives until the call is over. */
static void serve(pqp_lane *l, pqp_call *call)
{
    pqp_lane_lock(l);
    drive(l, call, PQP_NEVER);
    pqp_lane_unlock(l, NULL);
}

void pqp_call_wait(pqp_call *call, pqp_lane *l, bool driving)
{
    pqp_time deadline = first_deadline(call);
    while (!driving) {
        int word = pqp_parker_wait(&call->parker, deadline);
        if (word == PQP_WORD_DONE)
            return;
        if (word == PQP_WORD_DRIVE)
            break;
        pqp_lane_lock(l);
        bool word_coming = call->waking && !PQP_PLANTED(LOST_DRIVER);
        if (!word_coming)
            expire(l, call, pqp_now());
        deadline = word_coming ? PQP_NEVER : next_deadline(call);
        bool over = call->remaining == 0 && !word_coming;
        driving = pqp_lane_unlock(l, over ? NULL : call);
        if (over)
            return;
    }
    serve(l, call);
}

void pqp_call_run(pqp_call *call, pqp_lane *l)
{
    pqp_call_ready(call);
    pqp_call_wait(call, l, pqp_call_submit(call, l));
}

/* Sleeps until it is asked to drive (true), or the call is over or has left, or his patience is at its end. */
static bool await_turn(pqp_call *call, pqp_lane *l, pqp_time patience)
{
    for (;;) {
        int word = pqp_parker_wait(&call->parker, patience);
        if (word != PQP_PARKED)
            return word == PQP_WORD_DRIVE;
        pqp_lane_lock(l);
        bool asked = pqp_lane_unattend(l, call);
        pqp_lane_unlock(l, NULL);
        if (!asked)
            return false;
        patience = PQP_NEVER; /* the word is on its way */
    }
}

void pqp_call_attend(pqp_call *call, pqp_lane *l, pqp_time patience)
{
    pqp_lane_lock(l);
    bool here = pqp_lane_attend(l, call);
    bool driving = pqp_lane_unlock(l, here ? call : NULL);
    if (!here || (!driving && !await_turn(call, l, patience)))
        return;
    if (!driving)
        pqp_parker_reset(&call->parker);
    pqp_lane_lock(l);
    drive(l, call, patience);
    bool over = call->remaining == 0;
    (void)pqp_lane_unattend(l, call);
    pqp_lane_unlock(l, NULL);
    if (over) /* who drives is not told */
        call->over(call);
}

void pqp_call_abandon(pqp_call *call, pqp_lane *l, bool driving)
{
    pqp_lane_lock(l);
    if (call->waking) {
        pqp_lane_unlock(l, NULL);
        pqp_parker_wait(&call->parker, PQP_NEVER);
        pqp_lane_lock(l);
    }
    expire(l, call, PQP_NEVER);
    if (driving || pqp_flight_drives(l, call)) {
        l->driver = PQP_DRIVER_NONE;
        l->driver_call = NULL;
    }
    pqp_lane_unlock(l, NULL);
}

void pqp_call_withdraw(pqp_call *call, pqp_lane *l)
{
    pqp_lane_lock(l);
    pqp_lane_take_inbox(l);
    /* By the lane's lists, not the call's: by now the call may be on its way to another lane. The last that is given up
     * ends the call, and then it is not ours to look at. */
    pqp_stmt_list *lists[] = {&l->backlog, &l->flight};
    for (size_t i = 0; i < PQP_COUNT_OF(lists); i++)
        for (pqp_stmt *m = lists[i]->head, *next; m; m = next) {
            next = m->link.next;
            if (m->call == call && !m->given_up && m->state != PQP_STMT_DONE)
                pqp_flight_give_up(l, m, PQPOOL_ECANCELED);
        }
    pqp_lane_unlock(l, NULL);
}

void pqp_call_part(pqp_call *call, pqp_lane *l)
{
    bool behind = false;
    for (const pqp_stmt *m = call->members; m; m = m->sibling)
        behind |= m->given_up;
    if (!behind)
        return;
    pqp_lane_lock(l);
    for (pqp_stmt **at = &call->members, *m; (m = *at);) {
        if (m->state == PQP_STMT_SENT) {
            *at = m->sibling;
            m->call = NULL;
        } else {
            at = &m->sibling;
        }
    }
    pqp_lane_unlock(l, NULL);
}
