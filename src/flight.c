/*
 * flight: what was sent on a lane, what comes back, and what becomes of it when nothing does. The rules are in lane.c's
 * essay.
 */
#include "flight.h"

#include <stdio.h>

/* libpq has at most two NULLs in a row for us between answers; a third is libpq after the end. */
enum { ENDS_MAX = 2 };

/* When a unit has taken this long, the way to the server is measured anew, but not more often than this. */
#define SOUND_AFTER (5 * PQP_MS)
#define SOUND_EVERY PQP_SECOND

/* Answers flow when they come this fast, and those on their way would take that long: several come while somebody rests,
 * and the server has enough to do meanwhile. */
#define FLOW_PACE (30 * PQP_US)
#define FLOW_TIME (400 * PQP_US)

void pqp_flight_wake(pqp_lane *l, pqp_call *call, int word)
{
    call->waking = true;
    call->wake_word = (uint8_t)word;
    call->wake_next = NULL;
    *(l->wakes ? &l->last_wake->wake_next : &l->wakes) = call;
    l->last_wake = call;
}

bool pqp_flight_drives(const pqp_lane *l, const pqp_call *call)
{
    return call && l->driver == PQP_DRIVER_CALL && l->driver_call == call;
}

void pqp_flight_retire(pqp_lane *l)
{
    pqp_store(&l->accepting, 0);
}

/* A head nobody waits for any more holds up all behind it, perhaps for ever: whoever comes now gets another
 * lane. */
void pqp_flight_fence_stall(pqp_lane *l)
{
    if (!l->flight.head || !l->flight.head->given_up)
        return;
    pqp_flight_retire(l);
    if (l->unwanted_since == 0) {
        l->unwanted_since = PQP_MAX(1, pqp_now());
        l->orphaned = true; /* the keeper has it canceled */
    }
}

void pqp_stmt_put(pqp_depot *stmts, pqp_stmt *m)
{
    pqp_plan_unpin(m->plan);
    m->plan = NULL;
    pqp_depot_put(stmts, m);
}

static bool was_last(pqp_lane *l, pqp_call *call)
{
    if (--call->remaining > 0)
        return false;
    l->attending -= call->attended;
    call->attended = false;
    return true;
}

/* One member of the call has its code and outcome. The owner is woken when it was the last. */
static void end_member(pqp_lane *l, pqp_call *call)
{
    if (!was_last(l, call) || call->waking)
        return;
    if (!pqp_flight_drives(l, call))
        pqp_flight_wake(l, call, PQP_WORD_DONE);
    else if (!l->driver_awake)
        l->kick = true; /* he is in poll() or on his way there */
}

static void leave(pqp_lane *l, pqp_stmt *m)
{
    atomic_fetch_sub(&l->load, 1);
    l->freed = true;
    m->state = PQP_STMT_DONE;
}

static void drop_result(pqp_lane *l, pqp_stmt *m)
{
    if (m->result)
        l->tp->clear(m->result);
    m->result = NULL;
}

/* The statement is over. */
void pqp_flight_finish(pqp_lane *l, pqp_stmt *m, pqpool_code code, pqpool_outcome outcome)
{
    if (m->alters && m->state == PQP_STMT_SENT && l->ddl) /* before its owner, or others, may rely on it */
        pqp_add(l->ddl, 1);
    leave(l, m);
    atomic_fetch_add_explicit(&l->served, 1, memory_order_relaxed);
    if (m->given_up || !m->call) {
        drop_result(l, m);
        if (!m->call)
            pqp_stmt_put(l->stmts, m);
        return;
    }
    if (code != PQPOOL_OK && code != PQPOOL_ESERVER)
        drop_result(l, m);
    m->code = code;
    m->outcome = outcome;
    end_member(l, m->call);
}

bool pqp_flight_due(const pqp_stmt *m, pqp_time now)
{
    if (m->state == PQP_STMT_PENDING)
        return now >= m->deadline || (!m->call->sent && now >= m->call->unsent_deadline);
    return m->state == PQP_STMT_SENT && !m->given_up && now >= m->deadline;
}

static void take_out(pqp_lane *l, pqp_stmt *m, pqpool_code code)
{
    m->code = code;
    m->outcome = m->state == PQP_STMT_SENT ? PQPOOL_UNKNOWN : PQPOOL_NOT_SENT;
    if (m->state == PQP_STMT_SENT) {
        m->given_up = true;
        pqp_flight_fence_stall(l);
    } else {
        pqp_stmt_list_remove(&l->backlog, m);
        leave(l, m);
    }
}

void pqp_flight_give_up(pqp_lane *l, pqp_stmt *m, pqpool_code code)
{
    take_out(l, m, code);
    if (m->call->over)
        end_member(l, m->call);
    else
        (void)was_last(l, m->call); /* its owner is here himself */
}

void pqp_flight_drop_due(pqp_lane *l, pqp_time now)
{
    for (pqp_stmt *m; (m = l->backlog.head) && pqp_flight_due(m, now);) {
        take_out(l, m, PQPOOL_ETIMEDOUT);
        end_member(l, m->call);
    }
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

void pqp_flight_enter(pqp_lane *l, pqp_stmt *m)
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

static pqp_stmt *flight_shift(pqp_lane *l)
{
    pqp_stmt *m = pqp_stmt_list_shift(&l->flight);
    l->flight_bytes -= m->bytes;
    return m;
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
    l->head_reads = 0;
    l->head_bytes = l->unwanted_since = 0;
    l->cancel_asked = false;
    note_new_head(l, now);
    pqp_flight_fence_stall(l);
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
            pqp_flight_finish(l, m, PQPOOL_ESERVER, PQPOOL_DONE);
        else if (error)
            pqp_flight_finish(l, m, PQPOOL_ECANCELED, PQPOOL_DONE);
        else
            pqp_flight_finish(l, m, m->no_memory && code == PQPOOL_OK ? PQPOOL_ENOMEM : code, outcome);
    } while (more && l->flight.head);
}

/* The next statement of the same unit; NULL: it was the last. */
static pqp_stmt *next_in_unit(const pqp_stmt *m)
{
    return m->joined ? m->link.next : NULL;
}

/* The error in the head unit, if one has come. */
static pqp_stmt *unit_error(const pqp_lane *l)
{
    for (pqp_stmt *m = l->flight.head; m; m = next_in_unit(m))
        if (m->result_is_error)
            return m;
    return NULL;
}

/* A unit of the lane's own. */
static bool is_own(const pqp_stmt *m)
{
    return m->n_parts == 0 || m->parts[0] >= PQP_PART_ASIDE;
}

bool pqp_flight_may_cancel(const pqp_lane *l)
{
    const pqp_stmt *m = l->flight.head;
    if (!m || !m->given_up || l->dead || l->backlog.head || l->cancel_asked ||
        pqp_load(&((pqp_lane *)l)->accepting))
        return false;
    while (m && (m->given_up || is_own(m)))
        m = m->link.next;
    return !m;
}

/* Nothing of these was sent; their owners may try another lane. */
void pqp_flight_return_backlog(pqp_lane *l)
{
    for (pqp_stmt *m; (m = pqp_stmt_list_shift(&l->backlog));)
        pqp_flight_finish(l, m, PQPOOL_ELOST, PQPOOL_NOT_SENT);
}

void pqp_flight_return_unsent(pqp_lane *l)
{
    for (pqp_stmt *m = l->backlog.head, *next; m; m = next) {
        next = m->link.next;
        if (m->call->sent > 0)
            continue;
        pqp_stmt_list_remove(&l->backlog, m);
        pqp_flight_finish(l, m, PQPOOL_ELOST, PQPOOL_NOT_SENT);
    }
}

/* A unit without its Sync can't commit, unless it commits by itself. */
static void finish_unsynced(pqp_lane *l)
{
    for (; l->unsynced > 0; l->unsynced--) {
        pqp_stmt *m = l->flight.tail;
        pqp_stmt_list_remove(&l->flight, m);
        l->flight_bytes -= m->bytes;
        pqp_flight_finish(l, m, PQPOOL_ELOST, m->commits_itself ? PQPOOL_UNKNOWN : PQPOOL_NOT_SENT);
    }
}

/*
 * The connection is gone. An error already seen in the head's unit is final, since nothing can commit it any
 * more. What else the FATAL proves is proven; all the rest may or may not have run.
 */
void pqp_flight_lose(pqp_lane *l, const pqp_answer *fatal)
{
    if (l->dead)
        return;
    pqp_proof proof = fatal ? fatal->proof : PQP_PROOF_NONE;
    l->dead = true;
    pqp_store(&l->ended, 1); /* before: pqp_lane_admit() has it the other way round */
    pqp_store(&l->accepting, 0);
    if (!l->condemned)
        l->tp->describe(&l->wire, fatal ? fatal->result : NULL, &l->why);
    l->want_write = false;
    finish_unsynced(l);
    for (bool head = true; l->flight.head; head = false) {
        for (pqp_stmt *m = l->flight.head; m; m = next_in_unit(m))
            m->headed_loss = head && !(fatal && fatal->spoke);
        bool not_run = proof == PQP_PROOF_ALL || (proof == PQP_PROOF_BEHIND && !head);
        finish_unit(l, head ? unit_error(l) : NULL, PQPOOL_ELOST, not_run ? PQPOOL_NOT_RUN : PQPOOL_UNKNOWN);
    }
    next_head(l, 0);
    pqp_flight_return_backlog(l);
}

const char *pqp_flight_text(const pqp_stmt *m)
{
    return m->call && !m->given_up ? m->request->sql : NULL;
}

/* Takes and sends nothing more; what is in flight still gets its answers. */
void pqp_flight_condemn(pqp_lane *l, const char *reason, const char *culprit)
{
    if (l->condemned || l->dead)
        return;
    l->condemned = true;
    pqp_store(&l->ended, 1); /* before: pqp_lane_admit() has it the other way round */
    pqp_store(&l->accepting, 0);
    pqp_fail(&l->why, PQPOOL_ELOST, PQPOOL_UNKNOWN, "the shared connection was closed: %s%s%.200s", reason,
             culprit ? ": " : "", culprit ? culprit : "");
    pqp_flight_return_backlog(l);
}

static void fall_out_of_step(pqp_lane *l)
{
    pqp_flight_condemn(l, "it fell out of step (COPY, or an answer that belongs to no statement)",
                       l->flight.head ? pqp_flight_text(l->flight.head) : NULL);
    pqp_flight_lose(l, NULL);
}

/*
 * ANSWERS WITHOUT END. libpq collects an answer whole before it shows any of it. So what is read for the head is counted
 * beside it, once it has taken more than a few reads. A wanted one may have max_result bytes; then its owner is told, and
 * it is wanted no more. One that is not wanted may have UNWANTED_MAX; if nothing stands behind it, it is canceled, else the
 * connection is cut.
 */
enum { FEW_READS = 4 };
#define UNWANTED_MAX ((int64_t)16 << 20)

static bool is_over(const pqp_lane *l, _Atomic int64_t *most)
{
    int64_t limit = most ? pqp_peek(most) : 0;
    return limit > 0 && l->head_bytes > limit;
}

/* libpq keeps the memory. */
static void note_large(pqp_lane *l)
{
    if (l->large || !is_over(l, l->max_buffer))
        return;
    l->large = true;
    pqp_flight_retire(l);
}

/* Reads, and counts what is read if it takes long. */
static bool read_input(pqp_lane *l)
{
    bool counts = l->max_result && l->flight.head && ++l->head_reads > FEW_READS;
    return l->tp->consume(&l->wire, counts ? &l->head_bytes : NULL);
}

/* A prepared statement has been compared with what it would be now. */
static void note_checked(pqp_lane *l, const pqp_stmt *m, bool failed)
{
    if (!failed && !m->doubtful) {
        pqp_prepared_known(&l->prepared, m->index, m->number, m->sent_at);
        return;
    }
    pqp_prepared_refused(&l->prepared, m->index, m->number);
    if (m->doubtful && l->ddl) /* somebody else has changed something: who knows what more */
        pqp_add(l->ddl, 1);
}

/* What its callers will be told. An error that may heal is for the owner to count. */
static void count_unit(pqp_lane *l, const pqp_stmt *error, pqp_time now)
{
    for (const pqp_stmt *m = l->flight.head; m; m = next_in_unit(m)) {
        if (!m->call || m->given_up || (error && (m != error || pqp_stmt_may_heal(m))))
            continue;
        if (error)
            pqp_tally_failed(l->tally, l->tp->sqlstate(m->result));
        else if (m->result)
            pqp_tally_done(l->tally, l->tp->rows(m->result), (int64_t)l->tp->size(m->result));
        pqp_tally_time(l->tally, now - m->asked_at, m->sent_at - m->asked_at);
    }
}

/* The head unit's sync point has come: now, and not before, its answers are final. */
static void finish_head(pqp_lane *l, pqp_time now)
{
    pqp_stmt *head = l->flight.head, *error = unit_error(l);
    for (pqp_stmt *m = head; m && !error; m = next_in_unit(m))
        if (!m->result && !m->no_memory && m->parts[0] != PQP_PART_ASIDE) {
            fall_out_of_step(l);
            return;
        }
    if (is_sounding(head))
        l->round_trip = now - head->sent_at;
    else if (head->parts[0] == PQP_PART_DESCRIBED)
        note_checked(l, head, error != NULL);
    else if (!error && !l->tainted)
        note_cost(l, head, now);
    note_large(l);
    if (l->tally)
        count_unit(l, error, now);
    l->ended_now++;
    l->ended_text = pqp_flight_text(head);
    if (l->tainted &&
        !head->taints) /* after a BEGIN that slipped through, say: "done" may yet be rolled back */
        finish_unit(l, NULL, PQPOOL_ELOST, PQPOOL_UNKNOWN);
    else
        finish_unit(l, error, is_over(l, l->max_result) ? PQPOOL_ETOOBIG : PQPOOL_OK, PQPOOL_DONE);
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
    drop_result(l, m);
    m->result = result;
    m->result_is_error = is_error;
}

/* Which statement of the head unit the next answer belongs to. */
static pqp_stmt *answering(pqp_lane *l)
{
    pqp_stmt *m = l->answering ? l->answering : l->flight.head;
    while (m->answered == m->n_parts && next_in_unit(m))
        m = next_in_unit(m);
    return l->answering = m;
}

static int place_of(const pqp_stmt *m, pqp_part part)
{
    return part == PQP_PART_PARSE || part == PQP_PART_BODY ? m->plan->place + 1 : 0;
}

static bool was_parsed_with(const pqp_stmt *m)
{
    for (int i = 0; i < m->n_parts; i++)
        if (m->parts[i] == PQP_PART_PARSE)
            return true;
    return false;
}

/* What the server says of the prepared statements a statement was sent with. */
static void note_prepared(pqp_lane *l, pqp_stmt *m, pqp_part part, const pqp_answer *a)
{
    bool setting = part == PQP_PART_SETTING || part == PQP_PART_SETTING_PARSE;
    uint32_t number = setting ? m->setting_number : m->number;
    if (number == 0)
        return;
    bool parse = part == PQP_PART_PARSE || part == PQP_PART_SETTING_PARSE;
    bool failed = a->kind == PQP_NEXT_ERROR, stale = failed && a->stale != PQP_NOT_STALE;
    if (parse ? a->kind != PQP_NEXT_RESULT : failed && a->stale == PQP_STALE_GONE)
        pqp_prepared_failed(&l->prepared, place_of(m, part), number);
    else if (stale)
        pqp_prepared_refused(&l->prepared, place_of(m, part), number);
    m->stale |= stale;
    m->doubtful |= failed && part == PQP_PART_BODY && !was_parsed_with(m);
}

/* One of the answers to a unit of the lane's own. */
static void take_own(pqp_lane *l, pqp_stmt *m, pqp_part part, const pqp_answer *a)
{
    if (a->kind == PQP_NEXT_RESULT && part == PQP_PART_DESCRIBED_ANEW)
        m->doubtful = !l->tp->same_types(m->result, a->result);
    if ((a->kind == PQP_NEXT_RESULT && part == PQP_PART_DESCRIBED) ||
        (a->kind == PQP_NEXT_ERROR && part != PQP_PART_ASIDE))
        keep(l, m, a->result, a->kind == PQP_NEXT_ERROR);
    else if (a->result)
        l->tp->clear(a->result);
}

/* One of the answers of a unit: to each part of each of its statements there is one, and at the Sync there may be
 * an error more. */
static void take_answer(pqp_lane *l, const pqp_answer *a)
{
    pqp_stmt *m = answering(l);
    if (m->answered == m->n_parts) {
        if (a->kind == PQP_NEXT_ERROR) {
            m->doubtful |= m->number != 0 && !was_parsed_with(m);
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
    if (part >= PQP_PART_ASIDE) {
        take_own(l, m, part, a);
        return;
    }
    if (part != PQP_PART_BODY && a->kind != PQP_NEXT_ERROR) {
        if (a->result)
            l->tp->clear(a->result);
        return;
    }
    l->head_reads = 0;
    if (a->kind == PQP_NEXT_NO_MEMORY) {
        m->no_memory = true;
        l->tp->clear(a->result);
        return;
    }
    if (a->kind == PQP_NEXT_STATE) {
        pqp_flight_condemn(l, "a statement changed the state of its session", pqp_flight_text(m));
        l->tainted = m->taints = true;
    }
    if (a->kind == PQP_NEXT_RESULT && l->max_result)
        l->head_bytes = PQP_MAX(l->head_bytes, (int64_t)l->tp->size(a->result));
    if (a->kind != PQP_NEXT_ABORTED) /* the error that caused it is the answer */
        keep(l, m, a->result, a->kind == PQP_NEXT_ERROR);
}

static void bound_answer(pqp_lane *l)
{
    pqp_stmt *m = l->flight.head;
    if (!m || l->dead || l->head_bytes == 0)
        return;
    note_large(l);
    bool too_large = is_over(l, l->max_result);
    if (too_large && !m->given_up && m->call && !m->joined) {
        take_out(l, m, PQPOOL_ETOOBIG);
        end_member(l, m->call);
    }
    bool stops = l->cancel_asked ? l->head_bytes < 4 * UNWANTED_MAX : pqp_flight_may_cancel(l);
    if (m->given_up || !m->call ? l->head_bytes > UNWANTED_MAX && !stops : too_large) {
        l->cut = true;
        pqp_flight_condemn(l,
                           "an answer on it was larger than max_result, or larger than is read for nothing",
                           pqp_flight_text(m));
        pqp_flight_lose(l, NULL);
    }
}

/* Takes every answer that is here. */
static void collect(pqp_lane *l)
{
    pqp_time now = l->flight.head ? pqp_now() : 0;
    l->unread = false;
    while (l->flight.head && !l->dead) {
        pqp_answer a = l->tp->next(&l->wire);
        if (a.kind == PQP_NEXT_BUSY)
            return;
        l->ends = a.kind == PQP_NEXT_END ? l->ends + 1 : 0;
        switch (a.kind) {
        case PQP_NEXT_END:
            if (l->ends > ENDS_MAX)
                pqp_flight_lose(l, NULL);
            break;
        case PQP_NEXT_SYNC:
            finish_head(l, now);
            break;
        case PQP_NEXT_COPY:
            fall_out_of_step(l);
            break;
        case PQP_NEXT_FATAL:
            pqp_flight_lose(l, &a);
            l->tp->clear(a.result);
            break;
        default:
            take_answer(l, &a);
            break;
        }
    }
}

bool pqp_flight_flows(const pqp_lane *l)
{
    return l->ended_now > 0 && l->pace <= FLOW_PACE && l->flight.count * l->pace >= FLOW_TIME &&
           !l->want_write;
}

static void note_pace(pqp_lane *l)
{
    pqp_time now = pqp_now();
    l->pace = (now - l->ended_at) / l->ended_now;
    l->ended_at = now;
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
    pqp_flight_condemn(l, text, l->ended_text);
}

/* Reads, writes and takes what is there. */
void pqp_flight_pump(pqp_lane *l, bool readable)
{
    if (l->dead)
        return;
    bool here = !readable || read_input(l);
    if (here && l->want_write) {
        int more = l->tp->flush(&l->wire);
        l->want_write = more > 0;
        here = more >= 0;
    }
    l->ended_now = 0;
    collect(l); /* what arrived before the end still counts */
    if (!l->dead && (!here || !l->tp->alive(&l->wire)))
        pqp_flight_lose(l, NULL);
    bound_answer(l);
    if (!l->dead && l->ended_now > 0) {
        note_pace(l);
        look_at_session(l);
    }
}

void pqp_flight_hear(pqp_lane *l)
{
    pqp_flight_pump(l, true);
    if (!l->dead && l->tp->readable(&l->wire)) /* the end of it, which comes behind the last words */
        pqp_flight_pump(l, true);
    if (!l->dead && !l->tp->heard(&l->wire))
        pqp_flight_lose(l, NULL);
}
