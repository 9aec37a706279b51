/*
 * api: the exported functions of pqpool.h; ops.c has those of pqpool-ops.h. Each checks its arguments and its pool, makes
 * the deadline, and calls the one module that does the work.
 */
#define PQPOOL_NO_CALL_SITES /* here are the functions behind those macros */
#include "base.h"

#include "conninfo.h"
#include "escape.h"
#include "hint.h"
#include "lease.h"
#include "life.h"
#include "loop.h"
#include "request.h"
#include "share.h"
#include "ticket.h"

const char *pqpool_version(void)
{
    return PACKAGE_VERSION;
}

/* ---- opening and closing ---- */

/* A hook may yet put right what is wrong with the connection string. */
static bool completes(const pqpool_hooks *hooks)
{
    size_t needed = offsetof(pqpool_hooks, on_conninfo) + sizeof hooks->on_conninfo;
    return hooks && hooks->size >= needed && hooks->on_conninfo;
}

static pqpool *open_checked(pqp_options *options, const char *const *keywords, const char *const *values,
                            int expand_dbname, const pqpool_hooks *hooks, pqpool_error *err)
{
    pqp_target target = {0};
    if (hooks && (hooks->size < offsetof(pqpool_hooks, on_event) || hooks->size > 4096)) {
        pqp_refuse(err, PQPOOL_EINVAL, "hooks->size is %zu: begin the initialiser with PQPOOL_HOOKS",
                   hooks->size);
        return NULL;
    }
    if (pqp_options_check(options, err) != PQPOOL_OK)
        return NULL;
    if (pqp_hint_pairs(keywords, values, expand_dbname, err) != PQPOOL_OK)
        return NULL;
    if (pqp_target_init(&target, keywords, values, expand_dbname, err) != PQPOOL_OK)
        return NULL;
    int timeout_s = 0; /* libpq's own, for each host */
    pqpool_code code = pqp_hosts_check(&target, &timeout_s, err);
    if (code != PQPOOL_OK && !completes(hooks)) {
        pqp_target_fini(&target);
        return NULL;
    }
    pqp_error_clear(err);
    if (!pqp_options_given(options, "connect_timeout") && timeout_s > 0)
        options->connect_timeout = (int64_t)timeout_s * 1000;
    return pqp_life_open(options, &target, hooks, err);
}

pqpool *pqpool_open(const char *conninfo, const pqpool_hooks *hooks, pqpool_error *err)
{
    pqp_options options;
    char *rest;
    pqp_error_clear(err);
    pqp_option_names names = {{0}};
    pqp_options_init(&options);
    if (pqp_options_split(&options, &names, conninfo, &rest, err) != PQPOOL_OK)
        return NULL;
    /* An empty string would be a database called "": leave the keyword out. */
    bool any = rest[strspn(rest, " \t\n")] != '\0';
    const char *keywords[] = {any ? "dbname" : NULL, NULL}, *values[] = {any ? rest : NULL, NULL};
    pqpool *pool = NULL;
    if (any && !pqp_options_is_conninfo(rest))
        pqp_refuse(err, PQPOOL_EINVAL,
                   "the connection string is not valid: it has neither keyword=value nor postgresql://");
    else
        pool = open_checked(&options, keywords, values, 1, hooks, err);
    pqp_conninfo_forget(rest);
    return pool;
}

pqpool *pqpool_open_params(const char *const *keywords, const char *const *values, int expand_dbname,
                           const pqpool_hooks *hooks, pqpool_error *err)
{
    pqp_error_clear(err);
    if (!keywords || !values) {
        pqp_refuse(err, PQPOOL_EINVAL, "keywords and values must be arrays that end with NULL");
        return NULL;
    }
    size_t n = 0;
    while (keywords[n])
        n++;
    pqp_options options;
    pqp_option_names names = {{0}};
    pqp_options_init(&options);
    pqpool *pool = NULL;
    char *rest = NULL;
    const char **own = calloc(n + 1, sizeof *own); /* the values, a dbname without our options in it */
    if (!own) {
        pqp_no_memory(err);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        own[i] = values[i];
        if (strncmp(keywords[i], "pool_", 5) == 0) {
            if (values[i] && pqp_options_take(&options, &names, keywords[i], values[i], err) != PQPOOL_OK)
                goto done;
        } else if (expand_dbname && !rest && values[i] && strcmp(keywords[i], "dbname") == 0 &&
                   pqp_options_is_conninfo(values[i])) {
            if (pqp_options_split(&options, &names, values[i], &rest, err) != PQPOOL_OK)
                goto done;
            own[i] = rest;
        }
    }
    pool = open_checked(&options, keywords, own, expand_dbname, hooks, err);
done:
    pqp_conninfo_forget(rest);
    free(own);
    return pool;
}

size_t pqpool_conninfo_put(char *buf, size_t size, const char *keyword, const char *value)
{
    return pqp_conninfo_put(buf, size, keyword, value);
}

pqpool_code pqpool_close(pqpool *pool, int drain_ms)
{
    pqpool_code code = pqp_life_check(pool, NULL);
    if (code != PQPOOL_OK)
        return code;
    if (drain_ms < PQPOOL_DEFAULT)
        return PQPOOL_EINVAL;
    pqp_life_enter(pool);
    int64_t ms = drain_ms == PQPOOL_DEFAULT ? pqp_load(&pool->acquire_timeout_ms) : drain_ms;
    return pqp_life_leave(pool, pqp_life_close(pool, ms));
}

pqpool_code pqpool_free(pqpool *pool)
{
    if (!pool)
        return PQPOOL_OK;
    pqpool_code code = pqp_life_check(pool, NULL);
    return code == PQPOOL_OK ? pqp_life_free(pool) : code;
}

pqpool_code pqpool_set(pqpool *pool, const char *option, const char *value, pqpool_error *err)
{
    pqpool_code code = pqp_life_check(pool, err);
    if (code != PQPOOL_OK)
        return code;
    pqp_error_clear(err);
    if (!option || !value)
        return pqp_refuse(err, PQPOOL_EINVAL, "option and value must not be NULL");
    int row = pqp_options_find(option);
    if (row >= 0 && !pqp_options_row(row)->changeable)
        return pqp_refuse(err, PQPOOL_EINVAL, "option %s is fixed once the pool is open", option);
    pqp_life_enter(pool);
    pqp_pool_lock(pool);
    pqp_options options = pool->options;
    code = pqp_options_set(&options, option, value, err);
    if (code == PQPOOL_OK)
        code = pqp_options_check(&options, err);
    if (code == PQPOOL_OK)
        code = pqp_fleet_reconfigure_locked(pool, &options, err);
    pqp_pool_unlock(pool);
    return pqp_life_leave(pool, code);
}

pqpool_code pqpool_get(pqpool *pool, const char *option, char *buf, size_t size)
{
    pqpool_code code = pqp_life_check(pool, NULL);
    if (code != PQPOOL_OK)
        return code;
    if (!option || (!buf && size > 0))
        return PQPOOL_EINVAL;
    pqp_life_enter(pool);
    pqp_pool_lock(pool);
    pqp_options options = pool->options;
    pqp_pool_unlock(pool);
    return pqp_life_leave(pool, pqp_options_print(&options, option, buf, size));
}

const char *pqpool_name(const pqpool *pool)
{
    return pqp_life_check(pool, NULL) == PQPOOL_OK ? pool->name : "";
}

int pqpool_server_version(pqpool *pool)
{
    return pqp_life_check(pool, NULL) == PQPOOL_OK ? (int)(pqp_load(&pool->reported) >> 16) : 0;
}

static char *escape(pqpool *pool, const char *text, size_t length, char quote, pqpool_error *err)
{
    pqpool_code code = pqp_life_check(pool, err);
    if (code != PQPOOL_OK)
        return NULL;
    int encoding = (int)(pqp_load(&pool->reported) & 0xffff) - 1;
    if (!text)
        pqp_refuse(err, PQPOOL_EINVAL, "text must not be NULL");
    else if (encoding < 0)
        pqp_refuse(err, PQPOOL_EPENDING,
                   "no connection has been made yet, so the encoding is not known: pqpool_ping() makes one");
    else
        return pqp_escape(text, length, quote, encoding, err);
    return NULL;
}

char *pqpool_escape_literal(pqpool *pool, const char *text, size_t length, pqpool_error *err)
{
    return escape(pool, text, length, '\'', err);
}

char *pqpool_escape_identifier(pqpool *pool, const char *text, size_t length, pqpool_error *err)
{
    return escape(pool, text, length, '"', err);
}

/* ---- lease ---- */

static pqpool_code check_timeout(int timeout_ms, pqpool_error *err)
{
    if (timeout_ms >= PQPOOL_DEFAULT)
        return PQPOOL_OK;
    return pqp_refuse(err, PQPOOL_EINVAL,
                      "timeout_ms is %d: give milliseconds, -1 for no limit, or PQPOOL_DEFAULT", timeout_ms);
}

/* A time-out as an absolute deadline; PQPOOL_DEFAULT: acquire_timeout. */
static pqpool_code deadline_of(pqpool *pool, int timeout_ms, pqp_time *deadline, pqpool_error *err)
{
    pqpool_code code = check_timeout(timeout_ms, err);
    if (code == PQPOOL_OK)
        *deadline = pqp_deadline(pqp_now(), timeout_ms == PQPOOL_DEFAULT ? pqp_load(&pool->acquire_timeout_ms)
                                                                         : timeout_ms);
    return code;
}

/* For a call that may wait: the pool is one, and this is when its time is over. */
static pqpool_code check_call(pqpool *pool, int timeout_ms, pqp_time *deadline, pqpool_error *err)
{
    pqpool_code code = pqp_life_check(pool, err);
    return code == PQPOOL_OK ? deadline_of(pool, timeout_ms, deadline, err) : code;
}

pqpool_code pqpool_acquire_at(pqpool *pool, int timeout_ms, pqpool_lease *lease, pqpool_error *err,
                              const char *file, int line)
{
    if (!lease)
        return pqp_refuse(err, PQPOOL_EINVAL, "lease is NULL");
    *lease = (pqpool_lease){0};
    pqp_time deadline;
    pqpool_code code = check_call(pool, timeout_ms, &deadline, err);
    if (code != PQPOOL_OK)
        return code;
    pqp_site site = {file, line, pqp_thread()};
    pqp_life_enter(pool);
    return pqp_life_leave(pool, pqp_lease_acquire(pool, &site, deadline, lease, err));
}

pqpool_code pqpool_acquire(pqpool *pool, pqpool_lease *lease, pqpool_error *err)
{
    return pqpool_acquire_at(pool, PQPOOL_DEFAULT, lease, err, NULL, 0);
}

pqpool_code pqpool_acquire_within(pqpool *pool, int timeout_ms, pqpool_lease *lease, pqpool_error *err)
{
    return pqpool_acquire_at(pool, timeout_ms, lease, err, NULL, 0);
}

static pqpool_code check_acquire(const pqpool_acquire_options *options, pqpool_error *err)
{
    if (!options)
        return PQPOOL_OK;
    if (options->size < sizeof *options || options->size > 4096)
        return pqp_refuse(err, PQPOOL_EINVAL,
                          "options->size is %zu: begin the initialiser with PQPOOL_ACQUIRE", options->size);
    if (options->flags != 0 || options->scope)
        return pqp_refuse(err, PQPOOL_EINVAL, "flags and scope must be 0 in this version");
    return PQPOOL_OK;
}

pqpool_code pqpool_acquire_with(pqpool *pool, const pqpool_acquire_options *options, pqpool_lease *lease,
                                pqpool_error *err)
{
    if (lease)
        *lease = (pqpool_lease){0};
    pqpool_code code = check_acquire(options, err);
    if (code != PQPOOL_OK)
        return code;
    return pqpool_acquire_at(pool, options ? options->timeout_ms : PQPOOL_DEFAULT, lease, err,
                             options ? options->file : NULL, options ? options->line : 0);
}

pqpool_code pqpool_lease_move(pqpool_lease *lease, pqpool_scope *new_owner)
{
    if (!lease || !lease->pool || !lease->conn || new_owner)
        return PQPOOL_EINVAL;
    pqpool *pool = lease->pool;
    pqpool_code code = pqp_life_check(pool, NULL);
    if (code != PQPOOL_OK)
        return code;
    pqp_life_enter(pool);
    return pqp_life_leave(pool, pqp_lease_move(pool, lease));
}

pqpool_code pqpool_ping(pqpool *pool, int timeout_ms, pqpool_error *err)
{
    pqp_time deadline;
    pqpool_code code = check_call(pool, timeout_ms, &deadline, err);
    if (code != PQPOOL_OK)
        return code;
    pqp_site site = {"pqpool_ping", 0, pqp_thread()};
    pqp_life_enter(pool);
    return pqp_life_leave(pool, pqp_lease_ping(pool, &site, deadline, err));
}

static pqpool_code end_lease(pqpool_lease *lease, pqpool_close_reason reason)
{
    if (!lease || !lease->pool || !lease->conn)
        return PQPOOL_EINVAL;
    pqpool *pool = lease->pool;
    pqpool_code code = pqp_life_check(pool, NULL);
    if (code != PQPOOL_OK)
        return code;
    pqp_life_enter(pool);
    return pqp_life_leave(pool, pqp_lease_end(pool, lease, reason));
}

pqpool_code pqpool_release(pqpool_lease *lease)
{
    return end_lease(lease, PQPOOL_CLOSE_NONE);
}

pqpool_code pqpool_discard(pqpool_lease *lease)
{
    return end_lease(lease, PQPOOL_CLOSE_DISCARDED);
}

void pqpool_release_auto(pqpool_lease *lease)
{
    if (lease && lease->conn)
        (void)pqpool_release(lease);
}

/* ---- share ---- */

/* The part every version has; a caller's larger struct is fine as long as what we don't know is 0. */
static pqpool_code check_size(const pqpool_stmt *stmts, int n, pqpool_error *err)
{
    if (n == 0)
        return PQPOOL_OK;
    size_t size = stmts[0].size;
    if (size < sizeof(pqpool_stmt) || size > 4096 || size % _Alignof(pqpool_stmt) != 0)
        return pqp_refuse(err, PQPOOL_EINVAL, "stmt.size is %zu: begin the initialiser with PQPOOL_STMT",
                          size);
    for (int i = 0; i < n; i++) {
        const char *at = (const char *)stmts + (size_t)i * size;
        for (size_t k = sizeof(pqpool_stmt); k < size; k++)
            if (at[k] != 0)
                return pqp_refuse(err, PQPOOL_EINVAL,
                                  "statement %d uses a field this version of the library lacks", i);
    }
    return PQPOOL_OK;
}

PGresult *pqpool_exec_stmt(pqpool *pool, const pqpool_stmt *stmt, pqpool_error *err)
{
    PGresult *result = NULL;
    if (pqp_life_check(pool, err) != PQPOOL_OK)
        return NULL;
    if (!stmt) {
        pqp_refuse(err, PQPOOL_EINVAL, "stmt is NULL");
        return NULL;
    }
    if (check_size(stmt, 1, err) != PQPOOL_OK)
        return NULL;
    pqp_life_enter(pool);
    if (pqp_life_leave(pool, pqp_share_run(pool, stmt, 1, PQPOOL_EACH, &result, err)) != PQPOOL_OK && err)
        err->row = -1; /* it is no group */
    return result;
}

PGresult *pqpool_exec(pqpool *pool, const char *sql, pqpool_error *err)
{
    return pqpool_exec_stmt(pool, &(pqpool_stmt){PQPOOL_STMT, .sql = sql}, err);
}

PGresult *pqpool_exec_params(pqpool *pool, const char *sql, int n_params, const Oid *types,
                             const char *const *values, const int *lengths, const int *formats,
                             int result_format, pqpool_error *err)
{
    pqpool_stmt stmt = {PQPOOL_STMT,
                        .sql = sql,
                        .n_params = n_params,
                        .param_types = types,
                        .param_values = values,
                        .param_lengths = lengths,
                        .param_formats = formats,
                        .result_format = result_format};
    return pqpool_exec_stmt(pool, &stmt, err);
}

/* What can be wrong with a group before its members are looked at. */
static pqpool_code check_group(const pqpool_stmt *stmts, int n, pqpool_group_mode mode, bool receiver,
                               pqpool_error *err)
{
    if (n < 0 || (n > 0 && (!stmts || !receiver)))
        return pqp_refuse(err, PQPOOL_EINVAL, "n is %d; stmts and results must hold that many", n);
    if (mode != PQPOOL_EACH && mode != PQPOOL_ATOMIC)
        return pqp_refuse(err, PQPOOL_EINVAL, "mode is %d: give PQPOOL_EACH or PQPOOL_ATOMIC", (int)mode);
    return check_size(stmts, n, err);
}

pqpool_code pqpool_exec_all(pqpool *pool, const pqpool_stmt *stmts, int n, pqpool_group_mode mode,
                            PGresult **results, pqpool_error *errors)
{
    pqpool_error why;
    pqpool_code code = pqp_life_check(pool, &why);
    if (code == PQPOOL_OK)
        code = check_group(stmts, n, mode, results != NULL, &why);
    if (code == PQPOOL_OK) {
        pqp_life_enter(pool);
        return pqp_life_leave(pool, pqp_share_run(pool, stmts, n, mode, results, errors));
    }
    for (int i = 0; i < n; i++) {
        if (results)
            results[i] = NULL;
        if (errors)
            errors[i] = why;
    }
    return code;
}

/* ---- tickets and callbacks ---- */

static pqpool_ticket *submit(pqpool *pool, const pqpool_stmt *stmts, int n, pqpool_group_mode mode,
                             pqp_ticket_kind kind, bool group, pqpool_error *err)
{
    pqpool_error why;
    pqpool_error *to = err ? err : &why; /* the code is needed in any case */
    if (pqp_life_check(pool, to) != PQPOOL_OK)
        return NULL;
    if (!group && !stmts) {
        pqp_refuse(to, PQPOOL_EINVAL, "stmt is NULL");
        return NULL;
    }
    if (check_group(stmts, n, mode, true, to) != PQPOOL_OK)
        return NULL;
    pqp_error_clear(to);
    pqp_life_enter(pool);
    pqpool_ticket *ticket = pqp_ticket_submit(pool, stmts, n, mode, kind, to);
    if (!ticket && !group)
        to->row = -1;
    (void)pqp_life_leave(pool, PQPOOL_OK);
    return ticket;
}

pqpool_ticket *pqpool_submit(pqpool *pool, const pqpool_stmt *stmt, pqpool_error *err)
{
    return submit(pool, stmt, 1, PQPOOL_EACH, (pqp_ticket_kind){0}, false, err);
}

/* The pool of a ticket that is one, or was. */
static pqpool_code check_ticket(const pqpool_ticket *ticket, pqp_claim *claim, pqpool_error *err)
{
    if (!ticket)
        return pqp_refuse(err, PQPOOL_EINVAL, "ticket is NULL: did pqpool_submit() fail?");
    *claim = pqp_promise_claim(ticket);
    return pqp_life_check(claim->promise->pool, err);
}

PGresult *pqpool_wait(pqpool_ticket *ticket, int timeout_ms, pqpool_error *err)
{
    pqp_claim claim;
    if (check_ticket(ticket, &claim, err) != PQPOOL_OK || check_timeout(timeout_ms, err) != PQPOOL_OK)
        return NULL;
    pqpool *pool = claim.promise->pool;
    pqp_life_enter(pool);
    PGresult *result = pqp_ticket_wait(&claim, pqp_deadline(pqp_now(), timeout_ms), err);
    (void)pqp_life_leave(pool, PQPOOL_OK);
    return result;
}

pqpool_code pqpool_abandon(pqpool_ticket *ticket)
{
    pqp_claim claim;
    if (!ticket)
        return PQPOOL_OK;
    pqpool_code code = check_ticket(ticket, &claim, NULL);
    if (code != PQPOOL_OK)
        return code;
    pqpool *pool = claim.promise->pool;
    pqp_life_enter(pool);
    code = claim.kind == PQP_PROMISE_LEASE ? pqp_request_abandon(&claim) : pqp_ticket_abandon(&claim);
    return pqp_life_leave(pool, code);
}

int pqpool_ticket_done(const pqpool_ticket *ticket)
{
    if (!ticket)
        return 0;
    pqp_claim claim = pqp_promise_claim(ticket);
    return pqp_ticket_done(&claim);
}

pqpool_ticket *pqpool_submit_cb(pqpool *pool, const pqpool_stmt *stmt, pqpool_callback callback, void *arg,
                                pqpool_error *err)
{
    if (!callback) {
        pqp_refuse(err, PQPOOL_EINVAL, "callback is NULL");
        return NULL;
    }
    return submit(pool, stmt, 1, PQPOOL_EACH, (pqp_ticket_kind){.one = callback, .arg = arg}, false, err);
}

pqpool_ticket *pqpool_submit_all_cb(pqpool *pool, const pqpool_stmt *stmts, int n, pqpool_group_mode mode,
                                    pqpool_group_callback callback, void *arg, pqpool_error *err)
{
    if (!callback) {
        pqp_refuse(err, PQPOOL_EINVAL, "callback is NULL");
        return NULL;
    }
    return submit(pool, stmts, n, mode, (pqp_ticket_kind){.group = callback, .arg = arg}, true, err);
}

pqpool_ticket *pqpool_acquire_cb(pqpool *pool, const pqpool_acquire_options *options,
                                 pqpool_lease_callback callback, void *arg, pqpool_error *err)
{
    pqp_time deadline;
    pqpool_code code = pqp_life_check(pool, err);
    if (code == PQPOOL_OK && !callback)
        code = pqp_refuse(err, PQPOOL_EINVAL, "callback is NULL");
    if (code == PQPOOL_OK)
        code = check_acquire(options, err);
    if (code == PQPOOL_OK)
        code = deadline_of(pool, options ? options->timeout_ms : PQPOOL_DEFAULT, &deadline, err);
    if (code != PQPOOL_OK)
        return NULL;
    pqp_site site = {options ? options->file : NULL, options ? options->line : 0, 0};
    pqp_error_clear(err);
    pqp_life_enter(pool);
    pqpool_ticket *ticket = pqp_request_lease(pool, &site, deadline, callback, arg, err);
    (void)pqp_life_leave(pool, PQPOOL_OK);
    return ticket;
}

int pqpool_fd(pqpool *pool)
{
    return pqp_life_check(pool, NULL) == PQPOOL_OK ? pqp_delivery_fd(&pool->delivery) : -1;
}

int pqpool_dispatch(pqpool *pool)
{
    pqpool_code code = pqp_life_check(pool, NULL);
    if (code != PQPOOL_OK)
        return -(int)code;
    pqp_life_enter(pool);
    int n = pqp_loop_dispatch(pool);
    (void)pqp_life_leave(pool, PQPOOL_OK);
    return n;
}
