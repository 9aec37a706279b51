/*
 * Each allocation of the library fails in turn, once and from then on: the call says ENOMEM, nothing crashes,
 * the pool goes on when there is memory again, and everything is freed. Only the library's own allocations
 * pass through here; libpq is a shared library and keeps its own.
 */
#include "support/pg.h"

/* ---- the allocator; the linker sends the calls here (--wrap) ---- */

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
char *__real_strdup(const char *s);
void __real_free(void *p);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
char *__wrap_strdup(const char *s);
void __wrap_free(void *p);

static _Atomic int64_t live;     /* allocations not freed */
static _Atomic int64_t seen;     /* allocations since arm() */
static _Atomic int64_t fails_at; /* the how-manieth fails; 0: none */
static _Atomic bool for_ever;    /* and all after it */

static bool fails(void)
{
    int64_t at = fails_at, n = ++seen;
    return at > 0 && (n == at || (n > at && for_ever));
}

static void *counted(void *p)
{
    live += p != NULL;
    return p;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : counted(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t size)
{
    if (fails())
        return NULL;
    void *q = __real_realloc(p, size);
    live += !p && q;
    return q;
}

char *__wrap_strdup(const char *s)
{
    return fails() ? NULL : counted(__real_strdup(s));
}

void __wrap_free(void *p)
{
    live -= p != NULL;
    __real_free(p);
}

static void arm(int64_t at, bool persistent)
{
    for_ever = persistent;
    seen = 0;
    fails_at = at;
}

/* Whether the allocation that was to fail was asked for. */
static bool disarm(void)
{
    int64_t at = fails_at;
    fails_at = 0;
    return seen >= at;
}

/* ---- scenarios: each runs with an allocation failing, and allocates nothing itself ---- */

static const char conninfo[] =
    "application_name=memory pool_max_size=3 pool_shared_max=1 pool_acquire_timeout=60ms pool_log_level=off "
    "pool_name=memory";

typedef struct outcome {
    int wrong; /* returned what is not documented for want of memory */
    pqpool_code code;
    int64_t failed; /* calls that said ENOMEM */
} outcome;

/* A connection is made by threads of the pool: where they have no memory the caller is told at his deadline,
 * or by the connection that could not be made. */
static void tally_outcome(outcome *o, pqpool_code code)
{
    o->failed += code == PQPOOL_ENOMEM;
    if (code == PQPOOL_OK || code == PQPOOL_ENOMEM || code == PQPOOL_ECONNECT || code == PQPOOL_ETIMEDOUT)
        return;
    o->wrong++;
    o->code = code;
}

static void lease_it(pqpool *pool, outcome *o)
{
    pqpool_lease a = {0}, b = {0};
    tally_outcome(o, pqpool_acquire(pool, &a, NULL));
    tally_outcome(o, pqpool_acquire(pool, &b, NULL));
    if (a.conn)
        tally_outcome(o, pqpool_release(&a));
    if (b.conn)
        tally_outcome(o, pqpool_release(&b));
}

static void exec_it(pqpool *pool, outcome *o)
{
    pqpool_error err;
    PGresult *res = pqpool_exec(pool, "select 1", &err);
    tally_outcome(o, (pqpool_code)err.code);
    o->wrong += (res != NULL) != (err.code == PQPOOL_OK);
    PQclear(res);
}

static void exec_params_it(pqpool *pool, outcome *o)
{
    pqpool_error err;
    PGresult *res = pqpool_exec_params(pool, "select $1::text, $2::int", 2, NULL, (const char *[]){"x", "42"},
                                       NULL, NULL, 0, &err);
    tally_outcome(o, (pqpool_code)err.code);
    o->wrong += err.code == PQPOOL_OK && strcmp(PQgetvalue(res, 0, 1), "42") != 0;
    PQclear(res);
}

static void exec_group(pqpool *pool, outcome *o, pqpool_group_mode mode)
{
    static const char *const values[5] = {"0", "1", "2", "3", "4"};
    PGresult *results[5];
    pqpool_error errors[5];
    pqpool_stmt stmts[5];
    for (int i = 0; i < 5; i++)
        stmts[i] =
            (pqpool_stmt){PQPOOL_STMT, .sql = "select $1::int", .n_params = 1, .param_values = &values[i]};
    pqpool_code code = pqpool_exec_all(pool, stmts, 5, mode, results, errors);
    tally_outcome(o, code);
    for (int i = 0; i < 5; i++) {
        tally_outcome(o, (pqpool_code)errors[i].code);
        o->wrong += (results[i] != NULL) != (errors[i].code == PQPOOL_OK);
        o->wrong += code == PQPOOL_OK && strcmp(PQgetvalue(results[i], 0, 0), values[i]) != 0;
        PQclear(results[i]);
    }
}

static void exec_all_it(pqpool *pool, outcome *o)
{
    exec_group(pool, o, PQPOOL_EACH);
}

static void exec_atomic_it(pqpool *pool, outcome *o)
{
    exec_group(pool, o, PQPOOL_ATOMIC);
}

static void ticket_it(pqpool *pool, outcome *o)
{
    pqpool_error err;
    pqpool_stmt s = {PQPOOL_STMT, .sql = "select $1::int", .n_params = 1,
                     .param_values = (const char *[]){"7"}, .timeout_ms = 1000};
    pqpool_ticket *tickets[3];
    for (int i = 0; i < 3; i++) {
        tickets[i] = pqpool_submit(pool, &s, &err);
        tally_outcome(o, (pqpool_code)err.code);
        o->wrong += (tickets[i] != NULL) != (err.code == PQPOOL_OK);
    }
    pqpool_abandon(tickets[0]);
    for (int i = 1; i < 3; i++) {
        PGresult *res = tickets[i] ? pqpool_wait(tickets[i], -1, &err) : NULL;
        if (tickets[i])
            tally_outcome(o, (pqpool_code)err.code);
        o->wrong += tickets[i] && err.code == PQPOOL_OK && strcmp(PQgetvalue(res, 0, 0), "7") != 0;
        PQclear(res);
    }
}

static void answered(PGresult *res, const pqpool_error *err, void *arg)
{
    tally_outcome(arg, (pqpool_code)err->code);
    PQclear(res);
}

static void leased(pqpool_lease *lease, const pqpool_error *err, void *arg)
{
    tally_outcome(arg, (pqpool_code)err->code);
    if (lease)
        tally_outcome(arg, pqpool_release(lease));
}

static void callback_it(pqpool *pool, outcome *o)
{
    pqpool_stmt s = {PQPOOL_STMT, .sql = "select 1"};
    pqpool_code code[2] = {code_submit_cb(pool, &s, answered, o, NULL),
                           code_acquire_cb(pool, NULL, leased, o, NULL)};
    int due = 0;
    for (int i = 0; i < 2; i++) {
        tally_outcome(o, code[i]);
        due += code[i] == PQPOOL_OK;
    }
    for (double end = now_s() + 10; due > 0 && now_s() < end;) {
        struct pollfd fd = {.fd = pqpool_fd(pool), .events = POLLIN};
        poll(&fd, 1, 1000);
        due -= pqpool_dispatch(pool);
    }
    o->wrong += due != 0;
}

static void options_it(pqpool *pool, outcome *o)
{
    char text[100];
    pqpool_stats_data s = {PQPOOL_STATS};
    tally_outcome(o, pqpool_set(pool, "max_size", "40", NULL));
    tally_outcome(o, pqpool_get(pool, "max_size", text, sizeof text));
    tally_outcome(o, pqpool_set(pool, "max_size", "3", NULL));
    tally_outcome(o, pqpool_set(pool, "shared_max", "2", NULL));
    tally_outcome(o, pqpool_stats(pool, &s));
}

static void close_it(pqpool *pool, outcome *o)
{
    exec_it(pool, o);
    pqpool_lease lease;
    tally_outcome(o, pqpool_acquire(pool, &lease, NULL));
    if (lease.conn)
        tally_outcome(o, pqpool_discard(&lease));
    (void)pqpool_close(pool, 100);
}

/* ---- the loop ---- */

static bool works(pqpool *pool)
{
    pqpool_error err;
    pqpool_lease lease;
    if (pqpool_set(pool, "acquire_timeout", "20s", &err) != PQPOOL_OK)
        return false;
    PGresult *res = pqpool_exec(pool, "select 'fine'", &err);
    bool fine = PQntuples(res) == 1;
    if (!fine)
        diag("afterwards: %s: %s", pqpool_code_name((pqpool_code)err.code), err.message);
    PQclear(res);
    if (pqpool_acquire(pool, &lease, &err) != PQPOOL_OK) {
        diag("afterwards: %s: %s", pqpool_code_name((pqpool_code)err.code), err.message);
        return false;
    }
    return pqpool_release(&lease) == PQPOOL_OK && fine;
}

static int on_event_calls;
static void on_event(const pqpool_event *event, void *arg)
{
    (void)event, (void)arg;
    on_event_calls++;
}

static void scenario(const char *name, void (*body)(pqpool *, outcome *), bool persistent, bool warm)
{
    outcome o = {0};
    int broken = 0, leaked = 0;
    int64_t n = 1;
    for (bool asked = true; asked && n < 500; n++) {
        int64_t before = live;
        pqpool *pool = open_pool(conninfo, NULL);
        if (warm)
            broken += !works(pool) || pqpool_set(pool, "acquire_timeout", "60ms", NULL) != PQPOOL_OK;
        arm(n, persistent);
        body(pool, &o);
        asked = disarm();
        if (body != close_it)
            broken += !works(pool);
        close_pool(pool);
        leaked += !eventually(live == before); /* the last thread may still be on its way out */
    }
    const char *how = persistent ? "every allocation from the n-th on" : "the n-th allocation";
    is_int(o.wrong, 0,
           "%s%s: %s fails: each call says so, or succeeds (n to %lld, %lld times ENOMEM, last other: %s)",
           name, warm ? ", connected" : "", how, (long long)n - 1, (long long)o.failed,
           pqpool_code_name(o.code));
    is_int(broken, 0, "%s: the same pool works when there is memory again", name);
    is_int(leaked, 0, "%s: and everything is freed", name);
    ok(n > 2 || warm, "%s: the library's allocations are caught at all", name);
}

static void opening(bool persistent)
{
    const pqpool_hooks hooks = {PQPOOL_HOOKS, .on_event = on_event};
    static const char *const keywords[] = {"dbname", "application_name", "pool_max_size", NULL};
    static const char *const values[] = {"dbname=postgres connect_timeout=5 pool_shared_max=2", "memory", "2",
                                         NULL};
    int wrong = 0, leaked = 0, refused = 0;
    int64_t n = 1;
    for (bool asked = true; asked && n < 500; n++) {
        for (int params = 0; params < 2; params++) {
            int64_t before = live;
            pqpool_error err;
            arm(n, persistent);
            pqpool *pool = params ? pqpool_open_params(keywords, values, 1, &hooks, &err)
                                  : pqpool_open(conninfo, &hooks, &err);
            bool was_asked = disarm();
            asked = params ? asked || was_asked : was_asked;
            refused += !pool;
            wrong += pool ? err.code != PQPOOL_OK : err.code != PQPOOL_ENOMEM || !*err.message;
            if (pool) {
                char text[20];
                wrong += params && (pqpool_get(pool, "connect_timeout", text, sizeof text) != PQPOOL_OK ||
                                    strcmp(text, "5s") != 0 || !strstr(pqpool_name(pool), "/postgres"));
                close_pool(pool);
            }
            leaked += !eventually(live == before);
        }
    }
    const char *how = persistent ? "every allocation from the n-th on" : "the n-th allocation";
    is_int(wrong, 0, "open: %s fails: NULL and ENOMEM, or a pool (n to %lld)", how, (long long)n - 1);
    is_int(leaked, 0, "open: and nothing is left behind");
    ok(refused > 5, "open: %d opens were refused", refused);
}

int main(void)
{
    tap_begin(60);
    PGconn *ctl = control();
    for (int persistent = 0; persistent < 2; persistent++) {
        opening(persistent);
        scenario("acquire and release", lease_it, persistent, false);
        scenario("exec", exec_it, persistent, false);
        scenario("exec_params", exec_params_it, persistent, false);
        scenario("exec_all", exec_all_it, persistent, false);
        scenario("exec_all", exec_all_it, persistent, true);
        scenario("exec_all as one unit", exec_atomic_it, persistent, false);
        scenario("tickets", ticket_it, persistent, false);
        scenario("tickets", ticket_it, persistent, true);
        scenario("callbacks", callback_it, persistent, false);
        scenario("set, get, stats", options_it, persistent, false);
        scenario("close and free", close_it, persistent, false);
    }
    ok(eventually(backends(ctl, "memory") == 0), "no server process is left behind");
    PQfinish(ctl);
    return done_testing();
}
