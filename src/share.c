#include "share.h"

#include "admission.h"
#include "guard.h"

/* The protocol's own limits: a message's length is a signed 32-bit number, and the server refuses 1 GB. */
#define MESSAGE_MAX ((size_t)1 << 30)
enum { PARAMS_MAX = 65535 };

/* While a statement is copied and sent, everybody on its connection waits. A lease's user waits only for
 * himself. */
enum { SHARED_BYTES_MAX = 16 * 1024 * 1024 };

/* A run of one statement or a group, over as many lanes as it takes. */
typedef struct run {
    pqpool *pool;
    const pqpool_stmt *stmts; /* first of n, stride apart */
    size_t stride;
    PGresult **results;
    pqpool_error *errors; /* or NULL */
    pqp_time unsent_deadline;
    pqpool_code first; /* code of the first member, by index, that failed */
    int first_index;
} run;

static const pqpool_stmt *stmt_at(const run *r, int i)
{
    return (const pqpool_stmt *)((const char *)r->stmts + (size_t)i * r->stride);
}

static pqpool_error *error_at(const run *r, int i)
{
    return r->errors ? &r->errors[i] : NULL;
}

static void note_code(run *r, int index, pqpool_code code)
{
    if (code != PQPOOL_OK && (r->first == PQPOOL_OK || index < r->first_index)) {
        r->first = code;
        r->first_index = index;
    }
}

/* ---- checking: all of it before anything is sent ---- */

static pqpool_code check_bytes(size_t bytes, pqpool_error *err)
{
    if (bytes >= MESSAGE_MAX)
        return pqp_refuse(err, PQPOOL_ETOOBIG,
                          "the statement and its parameters are 1 GB or more, which the server "
                          "refuses");
    if (bytes > SHARED_BYTES_MAX)
        return pqp_refuse(
            err, PQPOOL_ETOOBIG,
            "the statement and its parameters are %zu bytes; a shared connection takes %d, so that "
            "the others on it need not wait; take a lease for it",
            bytes, SHARED_BYTES_MAX);
    return PQPOOL_OK;
}

static pqpool_code check_params(const pqpool_stmt *s, size_t *bytes, pqpool_error *err)
{
    if (s->n_params < 0 || s->n_params > PARAMS_MAX)
        return pqp_refuse(err, PQPOOL_EINVAL,
                          "n_params is %d: the protocol allows 0 to %d; pass a list as one array "
                          "parameter",
                          s->n_params, PARAMS_MAX);
    if (s->n_params > 0 && !s->param_values)
        return pqp_refuse(err, PQPOOL_EINVAL, "n_params is %d but param_values is NULL", s->n_params);
    for (int i = 0; i < s->n_params; i++) {
        const char *value = s->param_values[i];
        bool binary = s->param_formats && s->param_formats[i] != 0;
        if (!value)
            continue;
        if (binary && (!s->param_lengths || s->param_lengths[i] < 0))
            return pqp_refuse(err, PQPOOL_EINVAL, "parameter $%d is binary and has no length", i + 1);
        size_t length = binary ? (size_t)s->param_lengths[i] : strlen(value);
        if (!binary && s->param_lengths && s->param_lengths[i] > 0 && (size_t)s->param_lengths[i] > length)
            return pqp_refuse(err, PQPOOL_EINVAL,
                              "parameter $%d holds a NUL byte, which text can't: libpq would cut it "
                              "there; pass it in binary format (bytea)",
                              i + 1);
        *bytes += length;
        if (*bytes >= MESSAGE_MAX)
            break;
    }
    return check_bytes(*bytes, err);
}

static pqpool_code check_stmt(const pqpool_stmt *s, pqp_stmt *m, pqpool_error *err)
{
    const unsigned known = PQPOOL_READ_ONLY | PQPOOL_IDEMPOTENT;
    if (!s->sql)
        return pqp_refuse(err, PQPOOL_EINVAL, "sql is NULL");
    if (s->flags & ~known)
        return pqp_refuse(err, PQPOOL_EINVAL,
                          "flags 0x%x: this version knows PQPOOL_READ_ONLY and PQPOOL_IDEMPOTENT", s->flags);
    if (s->tx || s->scope)
        return pqp_refuse(err, PQPOOL_EINVAL, "tx and scope must be NULL in this version");
    if (s->timeout_ms < PQPOOL_DEFAULT)
        return pqp_refuse(err, PQPOOL_EINVAL,
                          "timeout_ms is %d: give milliseconds, -1 for no limit, or PQPOOL_DEFAULT",
                          s->timeout_ms);
    m->bytes = strlen(s->sql);
    pqpool_code code = check_params(s, &m->bytes, err);
    if (code != PQPOOL_OK)
        return code;
    pqp_verdict verdict = pqp_guard_check(s->sql);
    if (verdict.construct)
        return pqp_refuse(err, PQPOOL_EREFUSED, "%s%s%s%s may not run on a shared connection; %s",
                          verdict.construct, *verdict.word ? " (" : "", verdict.word,
                          *verdict.word ? ")" : "", verdict.way_out);
    m->commits_itself = verdict.commits_itself;
    return PQPOOL_OK;
}

static pqp_time deadline_of(const pqpool *p, const pqpool_stmt *s, pqp_time now)
{
    bool own = s->timeout_ms != 0 && s->timeout_ms != PQPOOL_DEFAULT;
    return pqp_deadline(now, own ? s->timeout_ms : pqp_load(&((pqpool *)p)->statement_timeout_ms));
}

/* ---- choosing a lane ---- */

/* Asks for one more lane when even the emptiest has been busy without a break. */
static void feel_pressure(pqpool *p, int load, pqp_time now)
{
    int64_t since = pqp_peek(&p->pressure_since);
    if (load < PQP_GROW_LOAD) {
        if (since != 0)
            pqp_store(&p->pressure_since, 0);
        return;
    }
    if (since == 0) {
        pqp_store(&p->pressure_since, now);
        return;
    }
    if (now - since < PQP_GROW_MS * PQP_MS || !pqp_cas(&p->pressure_since, &since, now))
        return;
    pqp_pool_lock(p);
    p->grow = true;
    pqp_pool_unlock(p);
}

/* The lane with the least to do, pinned. NULL: there is none that takes anything. */
static pqp_lane *choose(pqpool *p, pqp_time now)
{
    for (;;) {
        pqp_lane *best = NULL;
        int least = 0, n = 0, top = pqp_load(&p->n_lanes_top);
        for (int i = 0; i < top; i++) {
            pqp_lane *lane = pqp_load(&p->lanes[i]);
            if (!lane || !pqp_load(&lane->accepting))
                continue;
            int load = pqp_peek(&lane->load);
            n++;
            if (!best || load < least) {
                best = lane;
                least = load;
            }
        }
        if (!best)
            return NULL;
        if (n < pqp_peek(&p->lanes_limit))
            feel_pressure(p, least, now);
        if (pqp_lane_pin(best))
            return best;
    }
}

static pqpool_code find_lane(run *r, pqp_time deadline, pqp_lane **lane, pqpool_error *err)
{
    pqpool *p = r->pool;
    pqp_turn turn = {0};
    for (;;) {
        pqp_slot *slot;
        pqp_time now = pqp_now();
        if (pqp_load(&p->closed))
            return pqp_refuse(err, PQPOOL_ECLOSED, "the pool is closed");
        if ((*lane = choose(p, now)))
            return PQPOOL_OK;
        pqpool_code code =
            pqp_admission_wait(p, PQP_WANT_SHARE, PQP_MIN(deadline, r->unsent_deadline), &turn, &slot, err);
        if (code != PQPOOL_OK)
            return code;
        if (slot) {
            *lane = slot->lane;
            return PQPOOL_OK;
        }
    }
}

/* ---- after a run ---- */

/*
 * Whether the library may run it again: when it provably did not run; once, if the caller says that twice
 * does no harm; but never the statement at the head of a connection that died without a word, since it may be
 * what kills.
 */
static bool may_repeat(const run *r, const pqp_stmt *m, pqp_time now)
{
    if (m->code != PQPOOL_ELOST || m->send_refused || pqp_load(&r->pool->closed) || now >= m->deadline)
        return false;
    if (m->outcome == PQPOOL_NOT_SENT || m->outcome == PQPOOL_NOT_RUN)
        return now < r->unsent_deadline;
    return m->outcome == PQPOOL_UNKNOWN && !m->repeated && !m->headed_loss &&
           (m->request->flags & (PQPOOL_READ_ONLY | PQPOOL_IDEMPOTENT));
}

/* The outcome for the caller: a statement that was sent before and is now called unsent may still have run
 * then. */
static pqpool_outcome outcome_of(const pqp_stmt *m, pqpool_outcome last)
{
    return m->repeated && last != PQPOOL_DONE ? PQPOOL_UNKNOWN : last;
}

static void report_server_error(const pqp_stmt *m, pqpool_error *err)
{
    const char *text = PQresultErrorMessage(m->result);
    size_t length = strlen(text);
    while (length > 0 && text[length - 1] == '\n')
        length--;
    pqp_fail(err, PQPOOL_ESERVER, PQPOOL_DONE, "%.*s", (int)length, text);
    pqp_error_sqlstate(err, PQresultErrorField(m->result, PG_DIAG_SQLSTATE));
}

static void report(run *r, const pqp_lane *lane, pqp_stmt *m)
{
    pqpool_error *err = error_at(r, m->index);
    if (!m->given_up) /* one given up is still the lane's: only its code and outcome are ours to read */
        r->results[m->index] = m->result;
    if (m->code == PQPOOL_ELOST && m->outcome == PQPOOL_NOT_SENT && pqp_load(&r->pool->closed))
        m->code = PQPOOL_ECLOSED;
    note_code(r, m->index, m->code);
    switch (m->code) {
    case PQPOOL_OK:
        pqp_error_clear(err);
        break;
    case PQPOOL_ESERVER:
        report_server_error(m, err);
        break;
    case PQPOOL_ECLOSED:
        pqp_fail(err, m->code, outcome_of(m, m->outcome),
                 "the pool was closed before the statement was sent");
        break;
    case PQPOOL_ETIMEDOUT:
        pqp_fail(err, m->code, outcome_of(m, m->outcome), "%s",
                 m->outcome == PQPOOL_NOT_SENT
                     ? "the deadline passed before the statement was sent: the shared connections had no room"
                     : "the deadline passed while the statement was running; it may have run, or may still");
        break;
    default:
        pqp_fail(err, m->code, outcome_of(m, m->outcome), "the connection was lost: %s", lane->why.message);
        pqp_error_sqlstate(err, lane->why.sqlstate);
        break;
    }
    if (err && m->code != PQPOOL_OK)
        err->row = m->index;
}

/* Fails members that never reached a lane. */
static void fail_members(run *r, pqp_stmt *members, const pqpool_error *why)
{
    for (pqp_stmt *m = members; m; m = m->sibling) {
        pqpool_error *err = error_at(r, m->index);
        note_code(r, m->index, (pqpool_code)why->code);
        if (err) {
            *err = *why;
            err->outcome = (int32_t)outcome_of(m, (pqpool_outcome)why->outcome);
            err->row = m->index;
        }
    }
}

static void put_members(pqpool *p, pqp_stmt *members)
{
    for (pqp_stmt *m = members, *next; m; m = next) {
        next = m->sibling;
        pqp_depot_put(&p->stmts, m);
    }
}

/* Reports what is final, and returns in order what is to be run again. */
static pqp_stmt *sift(run *r, pqp_lane *lane, pqp_call *call)
{
    pqp_stmt *again = NULL, **again_end = &again, *over = NULL;
    pqp_time now = pqp_now();
    for (pqp_stmt *m = call->members; m; m = m->sibling)
        if (m->given_up)
            report(r, lane, m);
    pqp_call_part(call, lane);
    for (pqp_stmt *m = call->members, *next; m; m = next) {
        next = m->sibling;
        if (!m->given_up && may_repeat(r, m, now)) {
            m->repeated |= m->outcome == PQPOOL_UNKNOWN;
            *again_end = m;
            again_end = &m->sibling;
            continue;
        }
        if (!m->given_up)
            report(r, lane, m);
        m->sibling = over;
        over = m;
    }
    *again_end = NULL;
    put_members(r->pool, over);
    return again;
}

/* ---- running ---- */

static void log_slow(run *r, pqp_time began)
{
    int64_t limit = pqp_peek(&r->pool->slow_ms);
    if (limit <= 0)
        return;
    int64_t ms = (pqp_now() - began) / PQP_MS;
    if (ms >= limit)
        pqp_log(&r->pool->events, PQPOOL_LOG_WARN, "slow statement: %lld ms: %.200s", (long long)ms,
                r->stmts->sql);
}

static pqp_time earliest_deadline(const pqp_stmt *members)
{
    pqp_time first = PQP_NEVER;
    for (const pqp_stmt *m = members; m; m = m->sibling)
        first = PQP_MIN(first, m->deadline);
    return first;
}

/*
 * No lane was found, or not in time. As long as the call itself has time, that ends only those members whose
 * own deadline has passed; returns the others.
 */
static pqp_stmt *fail_unplaced(run *r, pqp_stmt *members, const pqpool_error *why)
{
    pqp_stmt *due = NULL, **due_end = &due, *rest = NULL, **rest_end = &rest;
    pqp_time now = pqp_now();
    for (pqp_stmt *m = members; m; m = m->sibling) {
        pqp_stmt ***end = m->deadline <= now ? &due_end : &rest_end;
        **end = m;
        *end = &m->sibling;
    }
    *due_end = *rest_end = NULL;
    if (!due || now >= r->unsent_deadline) {
        fail_members(r, rest, why);
        put_members(r->pool, rest);
        rest = NULL;
    }
    fail_members(r, due, why);
    put_members(r->pool, due);
    return rest;
}

static void run_members(run *r, pqp_stmt *members)
{
    pqpool *p = r->pool;
    pqpool_error why;
    pqp_call *call = pqp_depot_take(&p->calls);
    if (!call) {
        pqp_no_memory(&why);
        fail_members(r, members, &why);
        put_members(p, members);
        return;
    }
    call->unsent_deadline = r->unsent_deadline;
    while (members) {
        pqp_lane *lane;
        if (find_lane(r, earliest_deadline(members), &lane, &why) != PQPOOL_OK) {
            members = fail_unplaced(r, members, &why);
            continue;
        }
        call->members = members;
        pqp_call_run(call, lane);
        members = sift(r, lane, call);
        pqp_lane_unpin(lane);
        if (pqp_load(&p->lane_wanted) && pqp_load(&lane->users) == 0) {
            pqp_pool_lock(p);
            pqp_pool_unlock(p);
        }
    }
    pqp_depot_put(&p->calls, call);
}

/* Takes and checks all members; on failure nothing has been sent, and nothing is. */
static pqpool_code prepare(run *r, int n, pqp_time now, pqp_stmt **members, int *failed, pqpool_error *err)
{
    pqp_stmt **end = members;
    for (int i = 0; i < n; i++) {
        const pqpool_stmt *s = stmt_at(r, i);
        *failed = i;
        pqp_stmt *m = pqp_depot_take(&r->pool->stmts);
        if (!m)
            return pqp_no_memory(err);
        *end = m;
        m->sibling = NULL;
        end = &m->sibling;
        pqpool_code code = check_stmt(s, m, err);
        if (code != PQPOOL_OK)
            return code;
        m->request = s;
        m->index = i;
        m->repeated = false;
        m->deadline = deadline_of(r->pool, s, now);
    }
    return PQPOOL_OK;
}

pqpool_code pqp_share_run(pqpool *p, const pqpool_stmt *stmts, int n, PGresult **results,
                          pqpool_error *errors)
{
    pqp_time now = pqp_now();
    run r = {.pool = p,
             .stmts = stmts,
             .stride = n ? stmts[0].size : 0,
             .results = results,
             .errors = errors,
             .unsent_deadline = pqp_deadline(now, pqp_load(&p->acquire_timeout_ms))};
    pqp_stmt *members = NULL;
    pqpool_error why;
    int failed = 0;
    for (int i = 0; i < n; i++)
        results[i] = NULL;
    pqpool_code code = prepare(&r, n, now, &members, &failed, &why);
    if (code != PQPOOL_OK) {
        put_members(p, members);
        why.row = failed;
        for (int i = 0; i < n && errors; i++)
            errors[i] = why;
        return code;
    }
    if (!members)
        return PQPOOL_OK;
    run_members(&r, members);
    log_slow(&r, now);
    return r.first;
}
