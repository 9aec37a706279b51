/* Who holds what: call sites, what a holder does, leaks, long holds, exhaustion that explains itself, nesting. */
#include "support/nemesis.h"
#include "support/wire.h"

#include <sys/syscall.h>

#define APP "watch-test"

static PGconn *ctl;

static int own_thread(void)
{
    return (int)syscall(SYS_gettid);
}

/* ---- what the pool tells ---- */

typedef struct told {
    pqpool_event event;
    char text[1000], file[200];
} told;

typedef struct listener {
    pthread_mutex_t mu;
    told of[PQPOOL_EVENT_IDS]; /* the last of each kind */
    int n[PQPOOL_EVENT_IDS];
    char log[8000];
} listener;

static void on_event(const pqpool_event *e, void *arg)
{
    listener *l = arg;
    pthread_mutex_lock(&l->mu);
    told *t = &l->of[e->id];
    t->event = *e;
    snprintf(t->text, sizeof t->text, "%s", e->text);
    snprintf(t->file, sizeof t->file, "%s", e->file ? e->file : "");
    l->n[e->id]++;
    pthread_mutex_unlock(&l->mu);
}

static void on_log(int level, const char *line, void *arg)
{
    listener *l = arg;
    pthread_mutex_lock(&l->mu);
    size_t at = strlen(l->log);
    snprintf(l->log + at, sizeof l->log - at, "%d %s\n", level, line);
    pthread_mutex_unlock(&l->mu);
}

static int heard(listener *l, int id)
{
    pthread_mutex_lock(&l->mu);
    int n = l->n[id];
    pthread_mutex_unlock(&l->mu);
    return n;
}

/* The n-th of its kind, when it has come: another thread may be telling it just now. */
static told nth(listener *l, int id, int n)
{
    if (!eventually(heard(l, id) >= n))
        bail("no %s event", pqpool_event_name(id));
    pthread_mutex_lock(&l->mu);
    told t = l->of[id];
    pthread_mutex_unlock(&l->mu);
    return t;
}

static bool logged(listener *l, const char *part)
{
    pthread_mutex_lock(&l->mu);
    bool found = strstr(l->log, part) != NULL;
    pthread_mutex_unlock(&l->mu);
    return found;
}

static pqpool *listened(listener *l, const char *options)
{
    char conninfo[400];
    *l = (listener){.mu = PTHREAD_MUTEX_INITIALIZER};
    snprintf(conninfo, sizeof conninfo, "%s application_name=" APP, options);
    return open_pool(conninfo,
                     &(pqpool_hooks){PQPOOL_HOOKS, .arg = l, .on_event = on_event, .on_log = on_log});
}

static pqpool_holder first_holder(pqpool *pool, int ask_ms)
{
    pqpool_error err;
    pqpool_holder_list *list = pqpool_holders(pool, ask_ms, &err);
    pqpool_holder h = {0};
    if (!list)
        bail("pqpool_holders: %s", err.message);
    if (list->n > 0)
        h = *list->holders[0];
    pqpool_holders_free(list);
    return h;
}

/* ---- call sites ---- */

static void call_sites(void)
{
    listener l;
    pqpool *pool = listened(&l, "pool_max_size=4");
    pqpool_lease lease[4];
    pqpool_error err;
    int line = __LINE__ + 1;
    is_int(pqpool_acquire(pool, &lease[0], &err), PQPOOL_OK, "A11: pqpool_acquire");
    told t = nth(&l, PQPOOL_EVENT_ACQUIRE, 1);
    has(t.file, "122-watch.c", "A11: tells the file");
    is_int(t.event.line, line, "A11: and the line");
    ok(t.event.thread == own_thread(), "A11: and the thread");
    is_int(t.event.backend_pid, PQbackendPID(lease[0].conn), "A11: and the backend");
    line = __LINE__ + 1;
    is_int(pqpool_acquire_within(pool, 100, &lease[1], &err), PQPOOL_OK,
           "A11: so does pqpool_acquire_within");
    is_int(nth(&l, PQPOOL_EVENT_ACQUIRE, 2).event.line, line, "A11: its line");
    pqpool_acquire_options named = {
        .size = sizeof named, .timeout_ms = 100, .file = "somewhere.c", .line = 7};
    is_int(pqpool_acquire_with(pool, &named, &lease[2], &err), PQPOOL_OK, "A11: so does pqpool_acquire_with");
    is_str(nth(&l, PQPOOL_EVENT_ACQUIRE, 3).file, "somewhere.c", "A11: with what it was given");
    pqpool_code (*bare)(pqpool *, pqpool_lease *, pqpool_error *) = pqpool_acquire;
    is_int(bare(pool, &lease[3], &err), PQPOOL_OK, "A11: there is a function behind the macro");
    ok(nth(&l, PQPOOL_EVENT_ACQUIRE, 4).event.file == NULL, "A11: which knows no place");
    pqpool_lease none;
    is_int(pqpool_acquire_with(pool, &(pqpool_acquire_options){.size = 3}, &none, &err), PQPOOL_EINVAL,
           "a wrong size is refused");
    has(err.message, "PQPOOL_ACQUIRE", "with the way out");
    is_int(pqpool_acquire_with(pool, &(pqpool_acquire_options){PQPOOL_ACQUIRE, .flags = 1}, &none, &err),
           PQPOOL_EINVAL, "and flags that there are not");
    for (int i = 0; i < 4; i++)
        pqpool_release(&lease[i]);
    close_pool(pool);
}

/* ---- what a holder does ---- */

static void *sleep_in_server(void *arg)
{
    PQclear(PQexec(arg, "select pg_sleep(1)"));
    return NULL;
}

/* The account of one lease: in a transaction, 300 ms of work, 400 ms of nothing, the same again before COMMIT. */
static void account(const char *options, const char *over)
{
    listener l;
    pqpool *pool = listened(&l, options);
    pqpool_lease lease = take(pool);
    one(lease.conn, "begin");
    one(lease.conn, "select pg_sleep(0.3)");
    sleep_ms(600);
    pqpool_holder h = first_holder(pool, 0);
    is_int(h.state, PQPOOL_HOLDER_IDLE_IN_TRANSACTION,
           "A14: over %s a holder that does nothing in a transaction is seen", over);
    ok(h.idle_tx_us > 350000 && h.idle_tx_us < 650000 + 250000 * tap_slowness(), "A14: for how long (%lld us)",
       (long long)h.idle_tx_us);
    ok(h.working_us > 150000 && h.working_us < 500000 * tap_slowness(),
       "A14: and how long the server worked (%lld us)", (long long)h.working_us);
    ok(h.working_us + h.idle_us + h.idle_tx_us <= h.held_us, "A14: together not more than it was held");
    is_int(h.answers, 2, "A14: two answers were fetched");
    is_str(h.last_answer, "SELECT", "A14: the last one of a SELECT");
    ok(h.thread == own_thread() && *h.thread_name, "A12: by thread %d (%s)", (int)h.thread, h.thread_name);
    has(h.text, "122-watch.c", "A12: in one line: %s", h.text);

    pthread_t thread;
    pthread_create(&thread, NULL, sleep_in_server, lease.conn);
    ok(eventually(first_holder(pool, 0).state == PQPOOL_HOLDER_RUNNING),
       "A12: one that waits for the server is running");
    pthread_join(thread, NULL);
    one(lease.conn, "commit");
    pqpool_release(&lease);
    told t = nth(&l, PQPOOL_EVENT_LONG_HOLD, 1); /* at the end the idle time is told */

    ok(t.event.hold_us > 1900000 && t.event.idle_tx_us > 350000 &&
           t.event.idle_tx_us < 900000 * tap_slowness(),
       "A14: held %.0f ms, %.0f ms of it idle in transaction", (double)t.event.hold_us / 1000,
       (double)t.event.idle_tx_us / 1000);
    ok(logged(&l, "2 long_hold: connection 1"), "A14: and logged as a warning");
    is_int(stats(pool).long_holds, 1, "A14: and counted");

    lease = take(pool);
    one(lease.conn, "begin");
    one(lease.conn, "select pg_sleep(0.7)");
    one(lease.conn, "commit");
    sleep_ms(600);
    pqpool_release(&lease);
    is_int(stats(pool).long_holds, 1, "A14: neither work nor idling outside a transaction is reproached");
    close_pool(pool);
}

/* What must not be taken for idle, or for anything else than it is. */
static void misjudged(const char *proxied)
{
    listener l;
    pqpool *pool = listened(&l, proxied);
    pqpool_lease lease = take(pool);
    one(lease.conn, "begin");
    PGresult *res = PQexec(lease.conn, "copy (select repeat('x', 100) from generate_series(1, 3)) to stdout");
    ok(PQresultStatus(res) == PGRES_COPY_OUT, "a COPY is under way");
    PQclear(res);
    sleep_ms(250);
    ok(first_holder(pool, 0).state == PQPOOL_HOLDER_UNKNOWN, "A14: over TCP what a COPY does is not guessed");
    for (char *row; PQgetCopyData(lease.conn, &row, 0) > 0;)
        PQfreemem(row);
    while ((res = PQgetResult(lease.conn)))
        PQclear(res);
    one(lease.conn, "commit");
    pqpool_release(&lease);
    close_pool(pool);

    pool = listened(&l, "pool_max_size=2");
    pqpool_error err;
    lease = take(pool);
    pthread_t thread;
    pthread_create(&thread, NULL, sleep_in_server, lease.conn);
    if (!eventually(waits_for(ctl, PQbackendPID(lease.conn), "Timeout")))
        bail("it does not sleep");
    is_int(first_holder(pool, 0).state, PQPOOL_HOLDER_RUNNING,
           "A12: a lease that is young is looked at when asked for");
    pthread_join(thread, NULL);
    pqpool_release(&lease);

    /* A connection that was shared, and closed as one: its place is used by a lease again. */
    PQclear(pqpool_exec(pool, "select 1", &err));
    lease = take(pool);
    pqpool_release(&lease);
    pqpool_evict(pool);
    ok(eventually(stats(pool).total == 0), "all are evicted");
    lease = take(pool);
    pqpool_lease other = take(pool);
    one(lease.conn, "select 1");
    one(other.conn, "select 1");
    pqpool_holder_list *list = pqpool_holders(pool, 0, &err);
    ok(list && list->n == 2 && list->holders[0]->answers == 1 && list->holders[1]->answers == 1,
       "A14: answers are seen in a place that was a shared connection's");
    pqpool_holders_free(list);
    pqpool_release(&other);

    /* Asking must not cost a connection that is well. */
    int64_t closes = stats(pool).closes;
    pqpool_holders_free(pqpool_holders(pool, 1, &err));
    other = take(pool);
    one(other.conn, "create role watch_nobody");
    one(other.conn, "grant watch_nobody to current_user");
    one(other.conn, "revoke execute on function pg_catalog.pg_stat_get_activity(int) from public");
    one(other.conn, "set role watch_nobody");
    pqpool_release(&other);
    pqpool_holders_free(pqpool_holders(pool, 1000, &err));
    is_int(stats(pool).closes - closes, 0, "A12: nor one that may not ask");
    one(ctl, "grant execute on function pg_catalog.pg_stat_get_activity(int) to public");
    pqpool_release(&lease);
    close_pool(pool);
    one(ctl, "drop role watch_nobody");
}

/* ---- leaks ---- */

static int slow_release(PGconn *conn, void *arg)
{
    (void)conn, (void)arg;
    sleep_ms(400);
    return 0;
}

/* Given back in time, though the hook takes its. */
static void no_leak(void)
{
    pqpool *pool = open_pool("application_name=" APP " pool_leak_threshold=200ms",
                             &(pqpool_hooks){PQPOOL_HOOKS, .on_release = slow_release});
    pqpool_lease lease = take(pool);
    pqpool_release(&lease);
    is_int(stats(pool).leaks, 0,
           "A12: a lease that was given back is no leak, however long on_release takes");
    close_pool(pool);
}

static void leaks(void)
{
    listener l;
    pqpool *pool = listened(&l, "pool_leak_threshold=150ms pool_max_size=3");
    pqpool_lease spare = take(pool), kept = take(pool);
    int line = __LINE__ - 1;
    one(kept.conn, "begin");
    one(kept.conn, "select 'the last of it'");
    pqpool_release(&spare);
    ok(eventually(heard(&l, PQPOOL_EVENT_LEAK) == 1), "A12: a lease held for too long is reported");
    told t = nth(&l, PQPOOL_EVENT_LEAK, 1);
    has(t.file, "122-watch.c", "A12: with its place");
    is_int(t.event.line, line, "A12: the line too");
    ok(t.event.hold_us >= 150000, "A12: how long it has been held (%lld us)", (long long)t.event.hold_us);
    has(t.text, "idle in transaction", "A12: what it does");
    has(t.text, "the last of it", "A12: and what it ran last, by the server: %s", t.text);
    ok(logged(&l, "2 leak: connection"), "A12: and logged as a warning");
    sleep_ms(200);
    is_int(heard(&l, PQPOOL_EVENT_LEAK), 1, "A12: once");
    pqpool_release(&kept);
    ok(eventually(heard(&l, PQPOOL_EVENT_UNLEAK) == 1), "A12: that it came back is told too");
    is_int(nth(&l, PQPOOL_EVENT_UNLEAK, 1).event.line, line, "A12: by the same place");
    ok(stats(pool).leaks == 1 && stats(pool).unleaks == 1, "A12: both are counted");
    ok(stats(pool).idle == 2, "A12: and the one that was asked is idle again");
    kept = take(pool);
    sleep_ms(20);
    pqpool_release(&kept);
    close_pool(pool);
    is_int(heard(&l, PQPOOL_EVENT_LEAK), 1, "A12: a lease that ends in time is none");
}

static void *lock_table(void *arg)
{
    PQclear(PQexec(arg, "lock table watch_lock"));
    return NULL;
}

/* No connection is free to ask over: told at once. One is: who holds the lock. */
static void leaks_that_wait(void)
{
    listener l;
    pqpool *pool = listened(&l, "pool_leak_threshold=200ms pool_max_size=1");
    pqpool_lease kept = take(pool);
    PQclear(PQexec(kept.conn, "select 1"));
    ok(eventually(heard(&l, PQPOOL_EVENT_LEAK) == 1),
       "A12: in a pool that is exhausted a leak is reported too");
    has(nth(&l, PQPOOL_EVENT_LEAK, 1).text, "answers: 1, the last SELECT",
        "A12: by what can be seen from here");
    pqpool_release(&kept);
    close_pool(pool);

    one(ctl, "create table watch_lock (id int)");
    pool = listened(&l, "pool_leak_threshold=300ms pool_max_size=3 pool_min_idle=1");
    pqpool_lease first = take(pool), second = take(pool);
    one(first.conn, "begin");
    one(first.conn, "lock table watch_lock");
    one(second.conn, "begin");
    pthread_t thread;
    pthread_create(&thread, NULL, lock_table, second.conn);
    if (!eventually(waits_for(ctl, PQbackendPID(second.conn), "Lock")))
        bail("it does not wait for the lock");
    ok(eventually(stats(pool).idle == 1), "one is idle");
    pqpool_error err;
    pqpool_holder_list *list = pqpool_holders(pool, 2000, &err);
    ok(list && list->n == 2 && !list->holders[2], "A12: both holders are listed");
    const pqpool_holder *h = list->holders[1];
    is_int(h->state, PQPOOL_HOLDER_LOCKED, "A12: the second waits for a lock");
    is_int(h->blocked_by, PQbackendPID(first.conn), "A12: of the first");
    has(h->sql, "lock table watch_lock", "A12: with this statement");
    has(h->text, "waiting for a lock", "A12: in words: %s", h->text);
    is_int(list->holders[0]->state, PQPOOL_HOLDER_IDLE_IN_TRANSACTION, "A12: the first does nothing");
    pqpool_holders_free(list);
    is_int(stats(pool).idle, 1, "A12: what was asked over is idle again");
    one(first.conn, "rollback");
    pthread_join(thread, NULL);
    ok(first_holder(pool, 0).state == PQPOOL_HOLDER_IDLE, "A12: the first is idle");
    list = pqpool_holders(pool, 0, &err);
    is_int(list->holders[1]->state, PQPOOL_HOLDER_IDLE_IN_TRANSACTION,
           "A12: and the second no longer waits for the lock");
    ok(list->holders[1]->blocked_by == 0 && !*list->holders[1]->sql,
       "A12: what the server said then is not repeated");
    pqpool_holders_free(list);
    one(second.conn, "rollback");
    pqpool_release(&first);
    pqpool_release(&second);
    close_pool(pool);
    one(ctl, "drop table watch_lock");
}

static void backtraces(void)
{
    listener l;
    pqpool *pool = listened(&l, "pool_leak_threshold=100ms pool_backtrace=on");
    pqpool_lease lease = take(pool);
    told t = nth(&l, PQPOOL_EVENT_LEAK, 1);
    has(t.text, "122-watch.t(", "A12: with backtrace=on the report has the call stack: %s", t.text);
    ok(first_holder(pool, 0).n_frames > 2, "A12: and so has the list of holders");
    pqpool_set(pool, "backtrace", "off", NULL);
    pqpool_release(&lease);
    lease = take(pool);
    is_int(first_holder(pool, 0).n_frames, 0, "A12: switched off, none is taken");
    pqpool_release(&lease);
    close_pool(pool);
}

/* ---- exhaustion ---- */

static void exhaustion(void)
{
    listener l;
    pqpool *pool = listened(&l, "pool_max_size=2");
    pqpool_error err;
    pqpool_lease first = take(pool), second = take(pool), none;
    int line = __LINE__ - 1;
    one(first.conn, "begin");
    sleep_ms(300);
    is_int(pqpool_acquire_within(pool, 100, &none, &err), PQPOOL_ETIMEDOUT, "A13: who waits in vain");
    char place[60];
    snprintf(place, sizeof place, "122-watch.c:%d", line);
    has(err.message, "max_size 2: 2 leased", "A13: hears the figures");
    has(err.message, place, "A13: where they were acquired");
    has(err.message, "idle in transaction", "A13: and what their holders do: %s", err.message);
    char *oldest = strstr(err.message, "connection 1 ("), *newest = strstr(err.message, "connection 2 (");
    ok(oldest && newest && oldest < newest, "A13: the longest held first");
    pqpool_release(&first);
    pqpool_release(&second);
    close_pool(pool);

    /* The culprit may be a statement on a shared connection. */
    pool = listened(&l, "pool_max_size=1");
    pqpool_ticket *sleeper = pqpool_submit(
        pool, &(pqpool_stmt){PQPOOL_STMT, .sql = "select pg_sleep(1.5) /* the sleeper */"}, &err);
    ok(eventually(stats(pool).statements == 1 && stats(pool).shared == 1),
       "a slow statement has the only connection");
    is_int(pqpool_acquire_within(pool, 400, &none, &err), PQPOOL_ETIMEDOUT, "A13: a lease waits in vain");
    has(err.message, "the sleeper", "A13: and hears of it: %s", err.message);
    PGresult *res =
        pqpool_exec_stmt(pool, &(pqpool_stmt){PQPOOL_STMT, .sql = "select 1", .timeout_ms = 100}, &err);
    is_int(err.code, PQPOOL_ETIMEDOUT, "A13: so does a statement");
    has(err.message, "the sleeper", "A13: which hears of it too");
    PQclear(res);
    PQclear(pqpool_wait(sleeper, -1, &err));
    close_pool(pool);
}

/* ---- more than one ---- */

typedef struct circle {
    pqpool *pool;
    pthread_barrier_t both;
    _Atomic int timed_out;
} circle;

/* Of two that each hold one and want another, the first to give up lets the other have his. */
static void *hold_and_want(void *arg)
{
    circle *c = arg;
    pqpool_lease first = take(c->pool), second;
    pqpool_error err;
    pthread_barrier_wait(&c->both);
    if (pqpool_acquire_within(c->pool, 500, &second, &err) == PQPOOL_OK)
        pqpool_release(&second);
    else
        c->timed_out++;
    pqpool_release(&first);
    return NULL;
}

static void nesting(void)
{
    listener l;
    pqpool *pool = listened(&l, "pool_max_size=2");
    pqpool_lease a = take(pool);
    int line = __LINE__ - 1;
    is_int(heard(&l, PQPOOL_EVENT_NESTED), 0, "one lease is not nested");
    int second = __LINE__ + 1;
    pqpool_lease b = take(pool);
    ok(eventually(heard(&l, PQPOOL_EVENT_NESTED) == 1), "A11: a second lease of the same thread is told");
    char place[60];
    snprintf(place, sizeof place, "122-watch.c:%d", line);
    has(nth(&l, PQPOOL_EVENT_NESTED, 1).text, place, "A11: with the place of the first");
    is_int(nth(&l, PQPOOL_EVENT_NESTED, 1).event.line, second, "A11: and its own");
    pqpool_release(&a);
    pqpool_release(&b);
    a = take(pool);
    pqpool_release(&a);
    is_int(heard(&l, PQPOOL_EVENT_NESTED), 1, "A11: one after another is not nested");

    circle c = {.pool = pool};
    pthread_barrier_init(&c.both, NULL, 2);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, hold_and_want, &c);
    ok(eventually(heard(&l, PQPOOL_EVENT_POOL_LOCK) == 1), "A11: that all holders wait for one more is told");
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    ok(c.timed_out > 0, "A11: which only time ends");
    has(nth(&l, PQPOOL_EVENT_POOL_LOCK, 1).text, "waits at", "A11: with who waits where: %s",
        nth(&l, PQPOOL_EVENT_POOL_LOCK, 1).text);
    ok(logged(&l, "2 pool_lock"), "A11: and logged as a warning");
    is_int(stats(pool).pool_locks, 1, "A11: and counted");
    pthread_barrier_destroy(&c.both);
    close_pool(pool);
}

static void *move_here(void *arg)
{
    is_int(pqpool_lease_move(arg, NULL), PQPOOL_OK, "a lease can be moved to another thread");
    return (void *)(intptr_t)own_thread();
}

static void moving(void)
{
    pqpool *pool = open_pool("application_name=" APP, NULL);
    pqpool_lease lease = take(pool), copy = lease;
    is_int(first_holder(pool, 0).thread, own_thread(), "A12: a lease belongs to the thread that took it");
    pthread_t thread;
    void *other;
    pthread_create(&thread, NULL, move_here, &lease);
    pthread_join(thread, &other);
    is_int(first_holder(pool, 0).thread, (int)(intptr_t)other, "A12: which is then named as its holder");
    pqpool_release(&lease);
    is_int(pqpool_lease_move(&copy, NULL), PQPOOL_EINVAL, "but not one that is not out");
    is_int(pqpool_lease_move(NULL, NULL), PQPOOL_EINVAL, "nor none");
    close_pool(pool);
}

/* ---- log levels ---- */

static void levels(void)
{
    listener l;
    pqpool *pool = listened(&l, "pool_log_level=debug pool_slow_statement=100ms");
    pqpool_lease lease = take(pool);
    pqpool_release(&lease);
    pqpool_error err;
    PQclear(pqpool_exec(pool, "select pg_sleep(0.15) /* slow\npqpool: error: forged */", &err));
    ok(eventually(heard(&l, PQPOOL_EVENT_SLOW_STATEMENT) == 1), "A11: a slow statement is told");
    close_pool(pool);
    ok(!logged(&l, "\npqpool: error: forged") && logged(&l, " pqpool: error: forged"),
       "A11: no text makes a line of its own in the log");
    ok(logged(&l, "3 connect: connection 1 (pid "), "A11: at level debug connects are logged");
    ok(logged(&l, "4 acquire: connection 1 (pid "), "A11: and acquires");
    ok(logged(&l, "4 release: connection 1 (pid "), "A11: and releases");
    ok(logged(&l, "3 close: connection 1 (pid "), "A11: and closes, by the same number");
    ok(logged(&l, "the pool was closed"), "A11: with their reason");
    ok(logged(&l, "2 slow_statement: connection 1 (pid ") && logged(&l, "/* slow"),
       "A11: and slow statements");
    ok(heard(&l, PQPOOL_EVENT_SLOW_STATEMENT) == 1, "A11: which are events too");

    pool = listened(&l, "");
    lease = take(pool);
    pqpool_release(&lease);
    close_pool(pool);
    is_str(l.log, "", "A11: by default a pool that is well is silent");

    pool = listened(&l, "pool_max_size=1 pool_slow_statement=100ms pool_acquire_timeout=200ms");
    lease = take(pool);
    PQclear(pqpool_exec(pool, "select 1", &err));
    is_int(err.code, PQPOOL_ETIMEDOUT, "a statement finds no room");
    pqpool_release(&lease);
    close_pool(pool);
    is_int(heard(&l, PQPOOL_EVENT_SLOW_STATEMENT), 0, "A11: one that never ran is not slow");
}

int main(void)
{
    tap_begin(60);
    ctl = control();
    call_sites();
    account("", "a Unix socket");
    wire *proxy = wire_start(ctl);
    if (!proxy)
        bail("the proxy does not start: %s", strerror(errno));
    account(wire_conninfo(proxy), "TCP");
    misjudged(wire_conninfo(proxy));
    wire_stop(proxy);
    leaks();
    no_leak();
    leaks_that_wait();
    backtraces();
    exhaustion();
    nesting();
    moving();
    levels();
    ok(eventually(backends(ctl, APP) == 0), "no server process is left");
    PQfinish(ctl);
    return done_testing();
}
