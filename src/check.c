#include "check.h"

#include "guard.h"
#include "lexicon.h"
#include "span.h"

/* The protocol's own limits: a message's length is a signed 32-bit number, and the server refuses 1 GB. */
#define MESSAGE_MAX ((size_t)1 << 30)
enum { PARAMS_MAX = 65535 };

static pqpool_code check_params(const pqpool_stmt *s, size_t *bytes, pqpool_error *err)
{
    if (s->n_params < 0 || s->n_params > PARAMS_MAX)
        return pqp_refuse(err, PQPOOL_EINVAL,
                          "n_params is %d: the protocol allows 0 to %d; pass a list as one array "
                          "parameter",
                          s->n_params, PARAMS_MAX);
    if (s->n_params > 0 && !s->param_values)
        return pqp_refuse(err, PQPOOL_EINVAL, "n_params is %d but param_values is NULL", s->n_params);
    for (int i = 0; i < s->n_params && *bytes < MESSAGE_MAX; i++) {
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
    }
    if (*bytes >= MESSAGE_MAX)
        return pqp_refuse(err, PQPOOL_ETOOBIG,
                          "the statement and its parameters are 1 GB or more, which the server "
                          "refuses");
    return PQPOOL_OK;
}

static pqpool_code check_fields(const pqpool_stmt *s, pqpool_error *err)
{
    const unsigned known = PQPOOL_READ_ONLY | PQPOOL_IDEMPOTENT | PQPOOL_SLOW | PQPOOL_NO_PREPARE;
    if (!s->sql)
        return pqp_refuse(err, PQPOOL_EINVAL, "sql is NULL");
    if (s->flags & ~known)
        return pqp_refuse(err, PQPOOL_EINVAL,
                          "flags 0x%x: this version knows PQPOOL_READ_ONLY, "
                          "PQPOOL_IDEMPOTENT, PQPOOL_SLOW and PQPOOL_NO_PREPARE",
                          s->flags);
    if (s->tx || s->scope)
        return pqp_refuse(err, PQPOOL_EINVAL, "tx and scope must be NULL in this version");
    if (s->timeout_ms < PQPOOL_DEFAULT)
        return pqp_refuse(err, PQPOOL_EINVAL,
                          "timeout_ms is %d: give milliseconds, -1 for no limit, or PQPOOL_DEFAULT",
                          s->timeout_ms);
    return PQPOOL_OK;
}

/* Whether it may change what other statements mean: DDL, or what may run some. One word more is a statement parsed anew,
 * one too few may be a wrong answer: so those that don't are listed. */
static bool may_alter(const pqp_verdict *v)
{
    static const char *const harmless[] = {
        "SHOW",    "NOTIFY", "TRUNCATE", "COMMENT", "GRANT",   "CHECKPOINT", "REVOKE",   "ANALYZE",
        "ANALYSE", "VACUUM", "REINDEX",  "REFRESH", "CLUSTER", "SECURITY",   "REASSIGN", ""};
    bool listed = v->plannable;
    for (size_t i = 0; !listed && i < PQP_COUNT_OF(harmless); i++)
        listed = strcmp(v->word, harmless[i]) == 0;
    return !listed;
}

/* What a first word that is not known may have been meant for; NULL: it is like none, or known. */
static const char *nearest_word(const char *word)
{
    const char *best = NULL;
    int limit = strlen(word) < 4 ? 2 : 3;
    for (const pqp_first_word *w = pqp_first_words; w->word; w++) {
        int d = pqp_span_distance(pqp_span_of(word), pqp_span_of(w->word));
        if (d == 0)
            return NULL;
        if (d < limit) {
            limit = d;
            best = w->word;
        }
    }
    return best;
}

static pqpool_code refuse_text(const pqp_verdict *v, pqpool_error *err)
{
    bool told = strncmp(v->construct, v->word, strlen(v->word)) == 0;
    const char *near = nearest_word(v->word);
    pqp_refuse(err, PQPOOL_EREFUSED, "%s%s%s%s may not run on a shared connection; ", v->construct,
               told ? "" : " (", told ? "" : v->word, told ? "" : ")");
    if (near)
        pqp_error_append(err, "did you mean %s? ", near);
    pqp_error_append(err, "%s", v->way_out);
    return PQPOOL_EREFUSED;
}

/* Whether the text may share, and the plan it is known by. A text the pool keeps has passed the guard. */
static pqpool_code check_text(pqpool *p, const pqpool_stmt *s, size_t length, pqp_stmt *m, pqpool_error *err)
{
    bool keep = !(s->flags & PQPOOL_NO_PREPARE);
    if (keep && (m->plan = pqp_plans_find(&p->plans, s, length)))
        return PQPOOL_OK;
    pqp_verdict verdict = pqp_guard_check(s->sql);
    if (verdict.construct)
        return refuse_text(&verdict, err);
    if (verdict.params > s->n_params)
        return pqp_refuse(err, PQPOOL_EINVAL, "$%d is used but n_params is %d", verdict.params, s->n_params);
    m->commits_itself = verdict.commits_itself;
    m->alters = may_alter(&verdict);
    if (keep && verdict.plannable)
        m->plan = pqp_plans_add(&p->plans, s, length);
    return PQPOOL_OK;
}

pqpool_code pqp_check_stmt(pqpool *p, const pqpool_stmt *s, pqp_time now, pqp_stmt *m, pqpool_error *err)
{
    m->plan = NULL;
    m->commits_itself = m->alters = m->joined = m->unnamed = m->repeated = false;
    m->doubted = 0;
    m->asked_at = now;
    pqpool_code code = check_fields(s, err);
    if (code != PQPOOL_OK)
        return code;
    size_t length = strlen(s->sql);
    m->bytes = length;
    code = check_params(s, &m->bytes, err);
    if (code == PQPOOL_OK)
        code = check_text(p, s, length, m, err);
    m->timed = s->timeout_ms > 0;
    bool own = s->timeout_ms != 0 && s->timeout_ms != PQPOOL_DEFAULT;
    m->deadline = pqp_deadline(now, own ? s->timeout_ms : pqp_load(&p->statement_timeout_ms));
    return code;
}

bool pqp_check_wants_alone(pqpool *p, const pqpool_stmt *s, const pqp_stmt *m)
{
    return (s->flags & PQPOOL_SLOW) || m->bytes > PQP_SHARED_BYTES_MAX || (m->timed && m->commits_itself) ||
           (m->plan && pqp_peek(&m->plan->cost) > pqp_load(&p->slow_lane_time));
}
