#include "run.h"

#include "admission.h"
#include "check.h"
#include "holder.h"
#include "outcome.h"

_Static_assert(sizeof(pqp_run) <= PQP_RUN_SIZE, "a run fits into the depot's objects");

static const pqpool_stmt *stmt_at(const pqp_run *r, int i)
{
    return (const pqpool_stmt *)((const char *)r->stmts + (size_t)i * r->stride);
}

static pqpool_error *error_at(const pqp_run *r, int i)
{
    return r->errors ? &r->errors[i] : NULL;
}

/* For a member that has failed. Most don't, and an error is larger than all else of a statement. */
static pqpool_error *failure_at(pqp_run *r, int i)
{
    if (r->lazy && !r->errors)
        r->errors = malloc(sizeof *r->errors); /* without memory, code and outcome are told */
    return error_at(r, i);
}

static void note_code(pqp_run *r, int index, pqpool_code code, pqpool_outcome outcome)
{
    if (code != PQPOOL_OK && (r->first == PQPOOL_OK || index < r->first_index)) {
        r->first = (uint8_t)code;
        r->first_outcome = (uint8_t)outcome;
        r->first_index = index;
    }
}

void pqp_run_tell(const pqp_run *r, pqpool_error *err)
{
    if (r->first == PQPOOL_OK)
        pqp_error_clear(err);
    else if (!r->errors)
        pqp_fail(err, (pqpool_code)r->first, (pqpool_outcome)r->first_outcome,
                 "%s (there was no memory to say more)", pqpool_strerror((pqpool_code)r->first));
    else if (err)
        *err = r->errors[0];
    if (err)
        err->row = -1; /* it is no group */
}

/* ---- making one ---- */

static void put_members(pqpool *p, pqp_stmt *members)
{
    for (pqp_stmt *m = members, *next; m; m = next) {
        next = m->sibling;
        pqp_stmt_put(&p->stmts, m);
    }
}

/* Takes and checks all members; *failed: the one that was refused. */
static pqpool_code take_members(pqp_run *r, int n, pqp_time now, int *failed, pqpool_error *err)
{
    pqp_stmt **end = &r->call.members;
    size_t bytes = 0;
    *end = NULL;
    for (int i = 0; i < n; i++) {
        const pqpool_stmt *s = stmt_at(r, i);
        *failed = i;
        pqp_stmt *m = pqp_depot_take(&r->pool->stmts);
        if (!m)
            return pqp_no_memory(err);
        m->sibling = NULL;
        *end = m;
        end = &m->sibling;
        m->request = s;
        m->index = i;
        pqpool_code code = pqp_check_stmt(r->pool, s, now, m, err);
        if (code != PQPOOL_OK)
            return code;
        bytes += m->bytes;
        r->alone |= pqp_check_wants_alone(r->pool, s, m);
    }
    r->alone |= r->atomic && bytes > PQP_SHARED_BYTES_MAX; /* its unit is sent in one go */
    return PQPOOL_OK;
}

/* The members become one unit, which is over when the first of their deadlines is. */
static pqpool_code join(pqp_run *r, pqpool_error *err, int *failed)
{
    pqp_time first = PQP_NEVER;
    bool timed = false;
    for (const pqp_stmt *m = r->call.members; m; m = m->sibling) {
        first = PQP_MIN(first, m->deadline);
        timed |= m->timed;
    }
    for (pqp_stmt *m = r->call.members; m; m = m->sibling) {
        if (m->commits_itself && (m != r->call.members || m->sibling)) {
            *failed = m->index;
            return pqp_refuse(err, PQPOOL_EREFUSED,
                              "a statement that commits by itself can't be one of an "
                              "all-or-nothing group; run it by itself");
        }
        m->deadline = first;
        m->timed = timed;
        m->joined = m->sibling != NULL;
    }
    return PQPOOL_OK;
}

/*
 * A group of many, each for itself, is placed piece by piece: so that a lane holds up nobody's statements for longer than a
 * piece of it takes, and those that wait take turns with it. The order is kept, for a piece is placed when the one before
 * is over.
 */
enum { PIECE = 1024 };

/* False: all of it is over. */
static bool next_piece(pqp_run *r)
{
    pqp_call *call = &r->call;
    if (call->members || !r->rest)
        return call->members != NULL;
    /* It had no time to wait for room before. */
    call->unsent_deadline = pqp_deadline(pqp_now(), pqp_peek(&r->pool->acquire_timeout_ms));
    pqp_stmt **end = &r->rest;
    for (int i = 0; *end && i < PIECE; i++)
        end = &(*end)->sibling;
    call->members = r->rest;
    r->rest = *end;
    *end = NULL;
    return call->members != NULL;
}

static void begin_pieces(pqp_run *r)
{
    if (!r->many)
        return;
    pqp_time deadline = r->call.unsent_deadline;
    r->rest = r->call.members;
    r->call.members = NULL;
    (void)next_piece(r);
    r->call.unsent_deadline = deadline;
}

pqpool_code pqp_run_init(pqp_run *r, pqpool *p, pqp_depot *home, const pqpool_stmt *stmts, int n,
                         pqpool_group_mode mode, PGresult **results, pqpool_error *errors,
                         void (*finished)(pqp_run *r), pqpool_error *err)
{
    pqp_time now = pqp_now();
    int failed = 0;
    for (int i = 0; i < n; i++)
        results[i] = NULL;
    r->pool = p;
    r->home = home;
    pqp_poke(&r->standing, NULL);
    r->over = r->rest = NULL;
    r->stmts = stmts;
    r->stride = (uint32_t)stmts[0].size;
    r->results = results;
    r->errors = errors;
    r->finished = finished;
    pqp_poke(&r->holds, 1);
    pqp_poke(&r->withdrawn, 0);
    r->atomic = mode == PQPOOL_ATOMIC;
    r->many = n > PIECE && !r->atomic;
    r->lazy = finished && !errors;
    r->first = PQPOOL_OK;
    r->alone = r->holder = pqp_holder_is_me(p);
    r->call.over = NULL;
    pqp_poke(&r->call.lane, NULL);
    r->call.unsent_deadline = pqp_deadline(now, pqp_peek(&p->acquire_timeout_ms));
    pqpool_code code = take_members(r, n, now, &failed, err);
    if (code == PQPOOL_OK && r->atomic)
        code = join(r, err, &failed);
    if (code == PQPOOL_OK)
        return PQPOOL_OK;
    if (err)
        err->row = failed;
    put_members(p, r->call.members);
    return code;
}

void pqp_run_free(pqp_run *r)
{
    if (pqp_sub(&r->holds, 1) > 1)
        return; /* whoever set it going is not done with it yet */
    put_members(r->pool, r->call.members);
    put_members(r->pool, r->rest);
    put_members(r->pool, r->over);
    pqp_standing *standing = pqp_peek(&r->standing);
    if (standing)
        pqp_depot_put(&r->pool->standings, standing);
    if (r->lazy)
        free(r->errors);
    pqp_depot_put(r->home, r);
}

/* ---- what came back ---- */

/* Errors that no types of parameters bring about, and that are not to be brought about twice. */
static bool is_of_the_moment(const char *sqlstate)
{
    static const char *const list[] = {"57014", "40001", "40P01", "25006", "55P03", "53"};
    for (size_t i = 0; i < PQP_COUNT_OF(list); i++)
        if (strncmp(sqlstate, list[i], strlen(list[i])) == 0)
            return true;
    return false;
}

static uint64_t error_of(const pqp_run *r, const pqp_stmt *m)
{
    const char *sqlstate = PQresultErrorField(m->result, PG_DIAG_SQLSTATE);
    const char *message = PQresultErrorField(m->result, PG_DIAG_MESSAGE_PRIMARY);
    return pqp_plan_error(&r->pool->plans, sqlstate ? sqlstate : "", message ? message : "");
}

/*
 * Once more, without a prepared statement: the server said, before it ran anything, that this one is of no use; or it
 * failed, which undid it, and perhaps by the types that its parameters had when it was parsed.
 */
static bool may_heal(const pqp_run *r, const pqp_stmt *m, pqp_time now)
{
    if (m->code != PQPOOL_ESERVER || m->given_up || !pqp_stmt_may_heal(m))
        return false;
    if (m->stale)
        return true;
    const char *sqlstate = PQresultErrorField(m->result, PG_DIAG_SQLSTATE);
    return sqlstate && !is_of_the_moment(sqlstate) && pqp_plan_doubts(m->plan, error_of(r, m), now);
}

/* It has been run once more for an error. */
static void judge(const pqp_run *r, pqp_stmt *m, pqp_time now)
{
    if (m->doubted && !m->given_up && (m->code == PQPOOL_OK || m->code == PQPOOL_ESERVER))
        pqp_plan_judge(m->plan, m->doubted, m->code == PQPOOL_OK ? 0 : error_of(r, m), now);
    m->doubted = 0;
}

/*
 * Whether the library may run it again: when it provably did not run; once, if the caller says that twice
 * does no harm; but never the statement at the head of a connection that died without a word, since it may be
 * what kills.
 */
static bool may_repeat(const pqp_run *r, const pqp_stmt *m, pqp_time now)
{
    if (m->given_up || pqp_load(&r->pool->closed) || now >= m->deadline)
        return false;
    if (may_heal(r, m, now))
        return true;
    if (m->code != PQPOOL_ELOST || m->send_refused)
        return false;
    if (m->outcome == PQPOOL_NOT_SENT)
        return now < r->call.unsent_deadline;
    if (m->outcome == PQPOOL_NOT_RUN)
        return true;
    return m->outcome == PQPOOL_UNKNOWN && !m->repeated && !m->headed_loss &&
           (m->request->flags & (PQPOOL_READ_ONLY | PQPOOL_IDEMPOTENT));
}

/* All or nothing: whether the whole unit may run again. What a failed member undid did not happen. */
static bool may_repeat_all(const pqp_run *r, pqp_time now)
{
    bool healing = false;
    for (const pqp_stmt *m = r->call.members; m; m = m->sibling)
        healing |= may_heal(r, m, now);
    for (const pqp_stmt *m = r->call.members; m; m = m->sibling)
        if (!(healing && m->code == PQPOOL_ECANCELED) && !may_repeat(r, m, now))
            return false;
    return true;
}

/* The outcome for the caller: a statement that was sent before and is now called unsent may still have run
 * then. */
static pqpool_outcome outcome_of(const pqp_stmt *m, pqpool_outcome last)
{
    return m->repeated && last != PQPOOL_DONE ? PQPOOL_UNKNOWN : last;
}

static void report_server_error(const PGresult *result, const char *prefix, pqpool_code code,
                                pqpool_error *err)
{
    pqp_fail(err, code, PQPOOL_DONE, "%s%s", prefix, PQresultErrorMessage(result));
    pqp_error_sqlstate(err, PQresultErrorField(result, PG_DIAG_SQLSTATE));
}

static const char timed_out_unsent[] =
    "the deadline passed before the statement was sent: the shared connections had no room";
static const char timed_out_running[] =
    "the deadline passed while the statement was running; it may have run, or may still";

/* How a statement ended is counted: most by its lane. */
static void count_end(pqpool *p, pqpool_code code, pqpool_outcome outcome)
{
    _Atomic int64_t *end = code == PQPOOL_ETIMEDOUT   ? &p->ends.timed_out
                           : code == PQPOOL_ELOST     ? &p->ends.lost
                           : code == PQPOOL_ECANCELED ? &p->ends.canceled
                                                      : &p->ends.refused;
    pqp_add(end, 1);
    if (outcome == PQPOOL_UNKNOWN)
        pqp_add(&p->ends.unknown, 1);
}

static void count_failure(pqpool *p, const pqp_stmt *m)
{
    pqp_time now = pqp_now();
    pqp_mutex_lock(&p->mu);
    pqp_tally_failed(&p->seldom, PQresultErrorField(m->result, PG_DIAG_SQLSTATE));
    pqp_tally_time(&p->seldom, now - m->asked_at, m->sent_at - m->asked_at);
    pqp_mutex_unlock(&p->mu);
}

/* culprit: the member of an all-or-nothing group whose failure undid this one; or NULL. */
static void report(pqp_run *r, const pqp_lane *lane, pqp_stmt *m, const pqp_stmt *culprit)
{
    if (!m->given_up) /* one given up is still the lane's: only its code and outcome are ours to read */
        r->results[m->index] = m->result;
    if (m->code == PQPOOL_OK) {
        pqp_error_clear(error_at(r, m->index));
        return;
    }
    pqpool_error *err = failure_at(r, m->index);
    if (m->code == PQPOOL_ELOST && m->outcome == PQPOOL_NOT_SENT && pqp_load(&r->pool->closed))
        m->code = PQPOOL_ECLOSED;
    if (!culprit || culprit == m)
        note_code(r, m->index, m->code, outcome_of(m, m->outcome));
    if (m->code != PQPOOL_ESERVER)
        count_end(r->pool, m->code, outcome_of(m, m->outcome));
    else if (pqp_stmt_may_heal(m))
        count_failure(r->pool, m);
    switch (m->code) {
    case PQPOOL_ESERVER:
        report_server_error(m->result, "", m->code, err);
        break;
    case PQPOOL_ECLOSED:
        pqp_fail(err, m->code, outcome_of(m, m->outcome),
                 "the pool was closed before the statement was sent");
        break;
    case PQPOOL_ETIMEDOUT:
        pqp_fail(err, m->code, outcome_of(m, m->outcome), "%s",
                 outcome_of(m, m->outcome) == PQPOOL_NOT_SENT ? timed_out_unsent : timed_out_running);
        break;
    case PQPOOL_ETOOBIG:
        pqp_fail(err, m->code, m->outcome,
                 "the answer is larger than max_result (%lld MB): take a lease and fetch it row by row, or "
                 "raise the option",
                 (long long)(pqp_peek(&r->pool->max_result) >> 20));
        break;
    case PQPOOL_ENOMEM:
        pqp_fail(err, m->code, m->outcome, "the statement is done, but there was no memory for its answer");
        break;
    case PQPOOL_ECANCELED:
        if (culprit)
            report_server_error(culprit->result,
                                "undone, because another member of the group failed: ", m->code, err);
        else
            pqp_fail(err, m->code, outcome_of(m, m->outcome), "it was given up before it was sent");
        break;
    default:
        pqp_fail(err, m->code, outcome_of(m, m->outcome), "the connection was lost: %s", lane->why.message);
        pqp_error_sqlstate(err, lane->why.sqlstate);
        break;
    }
    if (err)
        err->row = m->index;
}

static void prepare_again(const pqp_run *r, pqp_stmt *m)
{
    pqp_add(&r->pool->ends.repeated, 1);
    if (m->code == PQPOOL_ESERVER && m->doubtful && !m->stale)
        m->doubted = error_of(r, m);
    m->unnamed |= m->stale || m->doubtful;
    m->repeated |= m->code == PQPOOL_ELOST && m->outcome == PQPOOL_UNKNOWN;
    PQclear(m->result);
    m->result = NULL;
}

static const pqp_stmt *culprit_of(const pqp_run *r)
{
    const pqp_stmt *m = r->atomic ? r->call.members : NULL;
    while (m && m->code != PQPOOL_ESERVER)
        m = m->sibling;
    return m;
}

/* Reports what is final; what is to be run again remains the call's. */
static void sift(pqp_run *r, pqp_lane *lane)
{
    pqp_call *call = &r->call;
    pqp_time now = pqp_now();
    for (pqp_stmt *m = call->members; m; m = m->sibling)
        judge(r, m, now);
    bool all = r->atomic && may_repeat_all(r, now);
    for (pqp_stmt *m = call->members; m; m = m->sibling)
        if (m->given_up)
            report(r, lane, m, NULL);
    pqp_call_part(call, lane);
    const pqp_stmt *culprit = culprit_of(r);
    pqp_stmt *again = NULL, **again_end = &again;
    bool sent_before = false;
    for (pqp_stmt *m = call->members, *next; m; m = next) {
        next = m->sibling;
        if (all || (!r->atomic && may_repeat(r, m, now))) {
            sent_before |= m->outcome != PQPOOL_NOT_SENT;
            prepare_again(r, m);
            *again_end = m;
            again_end = &m->sibling;
            continue;
        }
        if (!m->given_up)
            report(r, lane, m, culprit);
        m->sibling = r->over; /* their texts may be told yet */
        r->over = m;
    }
    *again_end = NULL;
    call->members = again;
    if (sent_before) /* its time to wait for room was over long ago, perhaps; it begins anew */
        call->unsent_deadline = pqp_deadline(now, pqp_load(&r->pool->acquire_timeout_ms));
}

/* The lane is left as it was found: whoever waits for it may have it. */
static void leave_lane(pqp_run *r, pqp_lane *lane)
{
    pqpool *p = r->pool;
    if (r->alone) {
        pqp_pool_lock(p);
        pqp_outcome_alone_over_locked(p, lane);
        pqp_pool_unlock(p);
    }
    pqp_lane_unpin(lane);
    if (pqp_load(&p->lane_wanted) && pqp_load(&lane->users) == 0)
        pqp_pool_settle(p);
}

static void collect(pqp_run *r)
{
    pqp_lane *lane = pqp_load(&r->call.lane);
    sift(r, lane);
    leave_lane(r, lane);
}

/* ---- never placed ---- */

static void fail_members(pqp_run *r, pqp_stmt *members, const pqpool_error *why)
{
    for (pqp_stmt *m = members, *next; m; m = next) {
        next = m->sibling;
        m->sibling = r->over; /* their texts may be told yet */
        r->over = m;
        pqpool_error *err = failure_at(r, m->index);
        pqpool_outcome outcome = outcome_of(m, (pqpool_outcome)why->outcome);
        note_code(r, m->index, (pqpool_code)why->code, outcome);
        count_end(r->pool, (pqpool_code)why->code, outcome);
        if (err) {
            *err = *why;
            err->outcome = (int32_t)outcome;
            err->row = m->index;
        }
    }
}

/*
 * No room was found, or not in time. As long as the call itself has time, that ends only those members whose
 * own deadline has passed; the others remain.
 */
static void fail_unplaced(pqp_run *r, const pqpool_error *why)
{
    pqp_stmt *due = NULL, **due_end = &due, *rest = NULL, **rest_end = &rest;
    pqp_time now = pqp_now();
    for (pqp_stmt *m = r->call.members; m; m = m->sibling) {
        pqp_stmt ***end = m->deadline <= now ? &due_end : &rest_end;
        **end = m;
        *end = &m->sibling;
    }
    *due_end = *rest_end = NULL;
    if (!due || now >= r->call.unsent_deadline) {
        fail_members(r, rest, why);
        rest = NULL;
    }
    fail_members(r, due, why);
    r->call.members = rest;
}

/* ---- placing ---- */

static int count_members(const pqp_run *r)
{
    int n = 0;
    for (const pqp_stmt *m = r->call.members; m; m = m->sibling)
        n++;
    return n;
}

/* A lane with room, where it may go at once. */
static pqp_lane *find_room(pqp_run *r, int members)
{
    pqpool *p = r->pool;
    if (r->alone || pqp_load(&p->sharers_waiting) > 0 || pqp_load(&p->closed))
        return NULL;
    pqp_choice seen;
    pqp_time now = pqp_now();
    pqp_lane *lane = pqp_fleet_reserve(p, members, now, &seen);
    pqp_pool_feel_pressure(p, &seen, now);
    if (!lane)
        return NULL;
    /* Once more, now that it counts: whoever suspended the pool meanwhile, or stood in line, sees it or is seen. */
    if (pqp_load(&p->sharers_waiting) > 0) {
        pqp_fleet_unreserve(lane, members);
        return NULL;
    }
    r->served = now;
    pqp_call_has_room(&r->call, now);
    return lane;
}

static void on_refused(pqp_waiter *w);

/* Who stands in the queue for it: the same as before, if it has been there. */
static pqp_standing *standing_of(pqp_run *r)
{
    pqp_standing *standing = pqp_load(&r->standing);
    if (standing || !(standing = pqp_depot_take(&r->pool->standings)))
        return standing;
    standing->turn = (pqp_turn){0};
    standing->waiter =
        (pqp_waiter){.parker = &r->call.parker, .call = &r->call, .told = r->finished ? on_refused : NULL};
    pqp_store(&r->standing, standing);
    return standing;
}

/* Stands in the queue, or was put on a lane by whoever served it; else refused. */
static pqpool_code queue_up(pqp_run *r, int members, pqpool_error *why)
{
    pqp_standing *standing = standing_of(r);
    if (!standing)
        return pqp_no_memory(why);
    pqp_waiter *w = &standing->waiter;
    r->served = 0;
    w->want = r->alone ? PQP_WANT_ALONE : PQP_WANT_SHARE;
    w->members = members;
    w->holder = r->holder;
    w->site = (pqp_site){.thread = r->finished ? 0 : pqp_thread()};
    w->err = r->finished ? &standing->why : why;
    w->deadline = r->call.unsent_deadline;
    for (const pqp_stmt *m = r->call.members; m; m = m->sibling)
        w->deadline = PQP_MIN(w->deadline, m->deadline);
    return pqp_admission_enter(r->pool, w, &standing->turn, why);
}

/* ---- with a caller who blocks ---- */

/* Waits in the queue. True: its statements are on a lane, and may have their answers already. */
static bool wait_for_lane(pqp_run *r)
{
    pqp_waiter *w = &pqp_load(&r->standing)->waiter;
    int word = pqp_parker_wait(w->parker, w->deadline);
    if (word == PQP_PARKED) {
        if (pqp_admission_leave(r->pool, w, PQPOOL_ETIMEDOUT))
            return false;
        if (!w->grant)
            word = pqp_parker_wait(w->parker, PQP_NEVER); /* refused; the word is on its way */
    }
    return word != PQP_WORD_FAILED;
}

static bool place_and_wait(pqp_run *r, pqpool_error *why)
{
    int members = count_members(r);
    pqp_call_ready(&r->call);
    pqp_lane *lane = find_room(r, members);
    if (lane) {
        pqp_call_wait(&r->call, lane, pqp_call_submit(&r->call, lane));
        return true;
    }
    if (queue_up(r, members, why) != PQPOOL_OK || !wait_for_lane(r))
        return false;
    pqp_call_wait(&r->call, pqp_load(&r->call.lane), false);
    return true;
}

/* A ticket's text may be the pool's, which keeps it as long as somebody has the statement. */
static const char *first_text(const pqp_run *r)
{
    if (!r->finished)
        return r->stmts->sql;
    for (const pqp_stmt *m = r->over; m; m = m->sibling)
        if (m->index == 0)
            return m->request->sql;
    return "a statement that was given up while it ran";
}

/* Slow is what takes long from where it has a connection; how long callers wait for one is told otherwise. */
static void tell_if_slow(pqp_run *r)
{
    pqpool *p = r->pool;
    const pqp_standing *standing = pqp_peek(&r->standing);
    pqp_time served = r->served || !standing ? r->served : standing->waiter.served;
    int64_t limit = pqp_peek(&p->slow_ms);
    if (limit <= 0 || served == 0)
        return;
    int64_t us = (pqp_now() - served) / 1000;
    if (us < limit * 1000)
        return;
    pqp_pool_lock(p);
    const pqp_slot *slot = pqp_fleet_slot_of_locked(p, pqp_load(&r->call.lane));
    if (slot && slot->state != PQP_SLOT_LANE && slot->state != PQP_SLOT_DRAINING)
        slot = NULL; /* it is another's by now */
    PQP_TELL(p, PQPOOL_EVENT_SLOW_STATEMENT, slot, first_text(r), .hold_us = us);
    pqp_pool_unlock(p);
}

pqpool_code pqp_run_exec(pqp_run *r)
{
    begin_pieces(r);
    while (next_piece(r)) {
        pqpool_error why;
        if (place_and_wait(r, &why))
            collect(r);
        else
            fail_unplaced(r, &why);
    }
    tell_if_slow(r);
    return (pqpool_code)r->first;
}

/* ---- with nobody who waits ---- */

/* Over, or to be placed once more: by the keeper, since whoever comes by here is on business of his own. */
static void end_or_go_on(pqp_run *r)
{
    pqpool *p = r->pool;
    if (!next_piece(r)) {
        tell_if_slow(r);
        r->finished(r);
        return;
    }
    pqp_pool_lock(p);
    r->call.wake_next = p->again;
    p->again = &r->call;
    p->kick = true;
    pqp_pool_unlock(p);
}

static void on_over(pqp_call *call)
{
    pqp_run *r = (pqp_run *)call;
    collect(r);
    end_or_go_on(r);
}

static void on_refused(pqp_waiter *w)
{
    pqp_run *r = (pqp_run *)w->call;
    pqpool_error why = *w->err;
    fail_unplaced(r, &why);
    end_or_go_on(r);
}

/* Places it; it may be over, and its owner done with it, before this returns. */
static pqpool_code place(pqp_run *r, pqpool_error *why)
{
    if (pqp_load(&r->withdrawn))
        return pqp_refuse(why, PQPOOL_ECANCELED, "it was given up before it was sent");
    int members = count_members(r);
    pqp_call_ready(&r->call);
    pqp_lane *lane = find_room(r, members);
    if (!lane)
        return queue_up(r, members, why);
    pqp_call_push(&r->call, lane);
    pqp_lane_nudge(lane);
    return PQPOOL_OK;
}

pqpool_code pqp_run_start(pqp_run *r, pqpool_error *err)
{
    r->call.over = on_over;
    begin_pieces(r);
    pqp_add(&r->holds, 1);
    pqpool_code code = place(r, err);
    pqp_run_free(r); /* our hold */
    return code;
}

void pqp_run_withdraw(pqp_run *r)
{
    pqp_store(&r->withdrawn, 1); /* first: it may be nowhere just now, about to be placed again */
    pqp_standing *standing = pqp_load(&r->standing);
    /* It was neither served nor refused. */
    if (standing && pqp_admission_leave(r->pool, &standing->waiter, PQPOOL_ECANCELED)) {
        on_refused(&standing->waiter);
        return;
    }
    pqp_lane *lane = pqp_load(&r->call.lane);
    if (lane)
        pqp_call_withdraw(&r->call, lane);
}

void pqp_run_go_on(pqpool *p)
{
    pqp_pool_lock(p);
    pqp_call *call = p->again;
    p->again = NULL;
    pqp_mutex_unlock(&p->mu);
    while (call) {
        pqp_run *r = (pqp_run *)call;
        call = call->wake_next;
        pqpool_error why;
        pqp_add(&r->holds, 1);
        if (place(r, &why) != PQPOOL_OK) {
            fail_unplaced(r, &why);
            end_or_go_on(r);
        } else if (pqp_load(&r->withdrawn)) { /* just while it was placed */
            pqp_run_withdraw(r);
        }
        pqp_run_free(r);
    }
}
