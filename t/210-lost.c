/* The server process of a connection is ended: what each statement's outcome says, and that it is true. */
#include "support/nemesis.h"

#define APP "lost"
enum { CALLERS = 64 };

static PGconn *ctl, *locker;
static bool may_kill;

static pqpool *shared_pool(void)
{
    return open_pool(
        "application_name=" APP
        " pool_shared_max=1 pool_stall_threshold=60s pool_acquire_timeout=60s pool_log_level=error",
        NULL);
}

static const char *field(const PGresult *res, int column)
{
    return PQntuples(res) > 0 ? PQgetvalue(res, 0, column) : "";
}

/* Whoever writes to or reads the log now waits. */
static void lock_log(void)
{
    one(locker, "begin");
    one(locker, "lock table log in access exclusive mode");
}

static void unlock_log(void)
{
    if (PQstatus(locker) == CONNECTION_OK)
        PQclear(PQexec(locker, "rollback"));
    if (PQstatus(locker) != CONNECTION_OK)
        locker = control_again(locker);
}

/* kill -9: the postmaster ends all server processes, ours too. */
static void crash(pid_t pid)
{
    if (kill(pid, SIGKILL) != 0)
        bail("kill -9 %d: %s", (int)pid, strerror(errno));
    for (double end = now_s() + 10.0 * tap_slowness(); PQstatus(ctl) == CONNECTION_OK && now_s() < end;
         sleep_ms(1))
        PQclear(PQexec(ctl, "select 1"));
    ctl = control_again(ctl);
    PQclear(PQexec(locker, "select 1"));
    unlock_log();
}

static int rows_of(int64_t nonce)
{
    return atoi(one(ctl, "select count(*) from log where nonce = %lld", (long long)nonce));
}

/* ---- one statement of each caller, in an order that is known ---- */

typedef struct told {
    pqpool *pool;
    const char *sql;
    unsigned flags;
    int64_t first;
    pqpool_error err[CALLERS];
    PGresult *result[CALLERS];
} told;

static void tell(int i, void *arg)
{
    told *t = arg;
    char number[24];
    snprintf(number, sizeof number, "%lld", (long long)t->first + i);
    pqpool_stmt s = {PQPOOL_STMT, .sql = t->sql, .n_params = strstr(t->sql, "$1") != NULL,
                     .param_values = (const char *[]){number}, .flags = t->flags};
    t->result[i] = pqpool_exec_stmt(t->pool, &s, &t->err[i]);
}

static int counted(const told *t, int n, pqpool_code code, pqpool_outcome outcome, const char *sqlstate)
{
    int count = 0;
    for (int i = 0; i < n; i++)
        count += t->err[i].code == (int)code && t->err[i].outcome == (int)outcome &&
                 strcmp(t->err[i].sqlstate, sqlstate) == 0;
    return count;
}

static void clear(told *t, int n)
{
    for (int i = 0; i < n; i++)
        PQclear(t->result[i]);
}

static const char insert[] = "insert into log(nonce) values ($1) returning nonce";

/* Starts n callers against the locked log and waits until all their statements are on the connection. */
static pid_t pile_up(crew *c, told *t, int n)
{
    lock_log();
    crew_start(c, n, tell, t);
    if (!eventually(stats(t->pool).statements == n))
        bail("%d statements, not %d, are on the connection", (int)stats(t->pool).statements, n);
    pid_t pid = backend_of(ctl, APP);
    if (!eventually(waits_for(ctl, pid, "Lock")))
        bail("the head does not wait for the lock");
    return pid;
}

static void behind_the_head(pqpool *pool)
{
    static told t;
    crew c;
    t = (told){.pool = pool, .sql = insert, .first = 1000000};
    terminate(ctl, pile_up(&c, &t, CALLERS));
    unlock_log();
    crew_join(&c);
    is_int(counted(&t, CALLERS, PQPOOL_ELOST, PQPOOL_UNKNOWN, "57P01"), 1,
           "B10: terminated with 64 in flight, the head is UNKNOWN, with 57P01");
    is_int(
        counted(&t, CALLERS, PQPOOL_OK, PQPOOL_DONE, ""), CALLERS - 1,
        "B10: the 63 behind it provably did not run; the library ran them again, and their callers see OK");
    int once = 0, right = 0;
    for (int i = 0; i < CALLERS; i++) {
        bool fine = t.err[i].code == PQPOOL_OK;
        once += fine && rows_of(t.first + i) == 1;
        right += fine && atoll(field(t.result[i], 0)) == t.first + i;
        if (!fine)
            is_int(rows_of(t.first + i), 0, "the head, which waited for a lock, has done nothing");
    }
    is_int(once, CALLERS - 1, "B10: each of them ran exactly once");
    is_int(right, CALLERS - 1, "and each caller has his own answer");
    clear(&t, CALLERS);
}

static void repeated_once(pqpool *pool, unsigned flags, const char *sql, const char *name)
{
    told t = {.pool = pool, .sql = sql, .flags = flags, .first = 2000000 + flags};
    crew c;
    terminate(ctl, pile_up(&c, &t, 1));
    unlock_log();
    crew_join(&c);
    is_int(t.err[0].code, PQPOOL_OK, "B10: %s at the head of a terminated connection is run again (%s)", name,
           t.err[0].message);
    clear(&t, 1);

    t.first += 10;
    pid_t pid = pile_up(&c, &t, 1), next = 0;
    terminate(ctl, pid);
    bool again = eventually(
        (next = (pid_t)atoi(one(ctl, "select pid from pg_stat_activity where application_name = '" APP
                                     "' and wait_event_type = 'Lock'"))) > 0 &&
        next != pid);
    ok(again, "B10: %s is seen to wait on another server process", name);
    if (again)
        terminate(ctl, next);
    /* The lock stays until the process is gone: a statement run for the third time would be seen to wait. */
    ok(eventually(gone(ctl, next) && stats(pool).statements == 0),
       "B10: ended there too, it is not run a third time");
    unlock_log();
    crew_join(&c);
    ok(t.err[0].code == PQPOOL_ELOST && t.err[0].outcome == PQPOOL_UNKNOWN, "B10: and is UNKNOWN (%s)",
       pqpool_code_name((pqpool_code)t.err[0].code));
    clear(&t, 1);
}

static void crashed_head(pqpool *pool)
{
    if (!may_kill) {
        ok(true, "B10: head of a connection that died without a word # SKIP may not signal the server");
        return;
    }
    static told t;
    crew c;
    t = (told){.pool = pool, .sql = insert, .flags = PQPOOL_IDEMPOTENT, .first = 3000000};
    crash(pile_up(&c, &t, 8));
    crew_join(&c);
    is_int(
        counted(&t, 8, PQPOOL_ELOST, PQPOOL_UNKNOWN, ""), 1,
        "B10: an IDEMPOTENT statement at the head of a connection that died without a word is not repeated");
    is_int(counted(&t, 8, PQPOOL_OK, PQPOOL_DONE, ""), 7, "B10: those behind it are, once");
    for (int i = 0; i < 8; i++)
        if (t.err[i].code == PQPOOL_ELOST)
            is_int(rows_of(t.first + i), 0, "B10: nobody ran the head again");
    clear(&t, 8);

    t = (told){.pool = pool, .sql = insert, .first = 3000100};
    crash(pile_up(&c, &t, 8));
    crew_join(&c);
    is_int(counted(&t, 8, PQPOOL_ELOST, PQPOOL_UNKNOWN, ""), 8,
           "B10: without the caller's word all that was sent is UNKNOWN after a crash");
    clear(&t, 8);
}

/* ---- during commit ---- */

static void during_commit(pqpool *pool)
{
    one(ctl, "create table slow_commit (id int, filler text)");
    one(ctl, "create function at_commit() returns trigger language plpgsql as "
             "$$ begin perform pg_sleep(60); return null; end $$");
    one(ctl, "create constraint trigger t after insert on slow_commit deferrable initially deferred "
             "for each row when (new.id = 1) execute function at_commit()");
    /* Many rows, so that they are with the client long before the commit begins. */
    told t = {
        .pool = pool,
        .sql =
            "insert into slow_commit select g, repeat('x', 100) from generate_series(1, 2000) g returning *"};
    crew c;
    crew_start(&c, 1, tell, &t);
    ok(eventually(backends(ctl, APP) == 1 && waits_for(ctl, backend_of(ctl, APP), "Timeout")),
       "B10: a statement waits in its commit");
    terminate(ctl, backend_of(ctl, APP));
    crew_join(&c);
    ok(!t.result[0] && t.err[0].code == PQPOOL_ELOST && t.err[0].outcome == PQPOOL_UNKNOWN,
       "B10: terminated there it is UNKNOWN, although its rows had come");
    is_str(t.err[0].sqlstate, "57P01", "and the server's reason is with it");
    is_str(one(ctl, "select count(*) from slow_commit"), "0",
           "B10: OK would have been a lie: nothing is there");
    one(ctl, "drop table slow_commit");
    one(ctl, "drop function at_commit");
    clear(&t, 1);
}

/* ---- leases, idle connections ---- */

static void under_a_lease(void)
{
    pqpool *pool = shared_pool();
    pqpool_error err;
    for (int looks = 0; looks < 2; looks++) {
        pqpool_lease lease;
        if (pqpool_acquire(pool, &lease, &err) != PQPOOL_OK)
            bail("acquire: %s", err.message);
        pid_t pid = PQbackendPID(lease.conn);
        int64_t closes = stats(pool).closes;
        terminate(ctl, pid);
        ok(eventually(gone(ctl, pid)), "a leased connection's server process is ended");
        if (looks) {
            PGresult *res = PQexec(lease.conn, "select 1");
            is_int(PQresultStatus(res), PGRES_FATAL_ERROR, "its user sees that");
            PQclear(res);
        }
        is_int(pqpool_release(&lease), PQPOOL_OK, "its release succeeds");
        ok(eventually(stats(pool).closes == closes + 1), "A7: the connection is closed, %s",
           looks ? "found dead at release" : "though its user did not look");
        if (pqpool_acquire(pool, &lease, &err) != PQPOOL_OK)
            bail("A7: acquire: %s", err.message);
        PGresult *res = PQexec(lease.conn, "select 1");
        is_str(field(res, 0), "1", "A7: the next lease works");
        ok(PQbackendPID(lease.conn) != pid, "and is another connection");
        PQclear(res);
        pqpool_release(&lease);
    }

    /* Straight from a lease that ended, unnoticed, into the hands of a statement. */
    int failed = 0;
    for (int k = 0; k < 10; k++) {
        pqpool_lease lease;
        if (pqpool_acquire(pool, &lease, &err) != PQPOOL_OK)
            bail("acquire: %s", err.message);
        pid_t pid = PQbackendPID(lease.conn);
        terminate(ctl, pid);
        if (!eventually(gone(ctl, pid)))
            bail("the process does not end");
        pqpool_release(&lease);
        PGresult *res = pqpool_exec(pool, "select 1", &err);
        if (err.code != PQPOOL_OK && failed++ == 0)
            diag("%s: %s", pqpool_code_name((pqpool_code)err.code), err.message);
        PQclear(res);
        close_pool(pool);
        pool = shared_pool();
    }
    is_int(failed, 0, "B1: a statement never suffers from a connection that died under a lease");
    close_pool(pool);
}

/* Where libpq's sending fails before it has read the server's last words, it has an error and still calls the connection
 * good. */
static void crashed_leases(void)
{
    enum { LEASES = 20, CRASHES = 4 };
    pqpool *pool = open_pool("application_name=" APP " pool_max_size=20", NULL);
    for (int k = 0; k < CRASHES; k++) {
        pqpool_lease leases[LEASES];
        int64_t before = stats(pool).closed_by[PQPOOL_CLOSE_LOST];
        for (int i = 0; i < LEASES; i++)
            leases[i] = take(pool);
        crash(PQbackendPID(leases[0].conn));
        for (int i = 0; i < LEASES; i++) {
            PQclear(PQexec(leases[i].conn, "select 1"));
            pqpool_release(&leases[i]);
        }
        is_int(stats(pool).closed_by[PQPOOL_CLOSE_LOST] - before, LEASES,
               "A7: connections lost under their users in a crash are closed as they come back");
    }
    close_pool(pool);
}

static void while_idle(pqpool *pool)
{
    int failed = 0, unknown = 0;
    double slowest = 0;
    for (int k = 0; k < 30; k++) {
        pqpool_error err;
        PGresult *res = pqpool_exec(pool, "select 'warm'", &err);
        PQclear(res);
        int64_t closes = stats(pool).closes;
        double began = now_s();
        terminate(ctl, backend_of(ctl, APP));
        if (!eventually(stats(pool).closes > closes))
            bail("the pool does not notice");
        slowest = now_s() - began > slowest ? now_s() - began : slowest;
        res = pqpool_exec(pool, "select 'alive'", &err);
        if (strcmp(field(res, 0), "alive") != 0) {
            failed++;
            unknown += err.outcome == PQPOOL_UNKNOWN;
        }
        PQclear(res);
    }
    is_int(failed, 0,
           "A7: when the pool has noticed that an idle shared connection was ended, nobody sees an error (%d "
           "UNKNOWN)",
           unknown);
    diag("noticed after %.1f ms at the latest", slowest * 1000);
}

/* Ended while answers are on the way: the loss may come to light when nobody waits for anything any more. */
static void while_falling_idle(pqpool *pool)
{
    int failed = 0;
    for (int k = 0; k < 40; k++) {
        pqpool_error err;
        char sql[100];
        PGresult *res = pqpool_exec(pool, "select 'warm'", &err);
        PQclear(res);
        snprintf(sql, sizeof sql, "select pg_terminate_backend(%d)", (int)backend_of(ctl, APP));
        int64_t closes = stats(pool).closes;
        if (!PQsendQuery(ctl, sql))
            bail("%s", PQerrorMessage(ctl));
        for (int n = 0; n < k % 8; n++)
            PQclear(pqpool_exec(pool, "select 1", &err)); /* may be UNKNOWN */
        while ((res = PQgetResult(ctl)))
            PQclear(res);
        if (!eventually(stats(pool).closes > closes))
            bail("the pool does not notice");
        res = pqpool_exec(pool, "select 'alive'", &err);
        failed += strcmp(field(res, 0), "alive") != 0;
        PQclear(res);
    }
    is_int(failed, 0, "A7: nor when it ended with the last answers");
}

/* ---- exactly once, over many ends ---- */

typedef struct entry {
    int64_t nonce;
    int32_t code, outcome;
} entry;

typedef struct journal {
    entry *entries;
    int n, room;
} journal;

typedef struct history {
    pqpool *pool;
    _Atomic bool stop;
    _Atomic int64_t returned; /* calls so far */
    _Atomic int wrong, undocumented;
    journal journals[CALLERS];
} history;

static void note(journal *j, int64_t nonce, const pqpool_error *err)
{
    if (j->n == j->room) {
        j->room = j->room ? 2 * j->room : 1024;
        j->entries = realloc(j->entries, (size_t)j->room * sizeof *j->entries);
        if (!j->entries)
            bail("no memory for the journal");
    }
    j->entries[j->n++] = (entry){nonce, err->code, err->outcome};
}

/* Everything of the answer follows from the nonce, so an answer that went to a neighbour shows. */
static const char *const shapes[] = {
    "insert into log(nonce) values ($1) returning nonce",
    "with i as (insert into log(nonce) values ($1) returning nonce) select md5(nonce::text), nonce, "
    "null::int from i",
    "with i as (insert into log(nonce) values ($1::bigint) returning nonce) "
    "select nonce from i, generate_series(1, $1::bigint % 5)",
    "with i as (insert into log(nonce) values ($1) returning nonce) select ('no ' || nonce)::int from i",
};

static bool right_answer(int64_t nonce, const PGresult *res, const pqpool_error *err)
{
    char want[32];
    switch (nonce % 4) {
    case 3:
        snprintf(want, sizeof want, "no %lld", (long long)nonce);
        return err->code == PQPOOL_ESERVER && strcmp(err->sqlstate, "22P02") == 0 &&
               strstr(err->message, want);
    case 2:
        return PQnfields(res) == 1 && PQntuples(res) == nonce % 5 &&
               (nonce % 5 == 0 || atoll(field(res, 0)) == nonce);
    case 1:
        return PQnfields(res) == 3 && atoll(field(res, 1)) == nonce;
    default:
        return PQnfields(res) == 1 && atoll(field(res, 0)) == nonce;
    }
}

static bool documented(const pqpool_error *err)
{
    switch (err->code) {
    case PQPOOL_OK:
    case PQPOOL_ESERVER:
        return err->outcome == PQPOOL_DONE;
    case PQPOOL_ELOST:
        return err->outcome == PQPOOL_UNKNOWN;
    default: /* no deadline passes here, so nothing else may come */
        return false;
    }
}

static void keep_writing(int i, void *arg)
{
    history *h = arg;
    journal *j = &h->journals[i];
    for (int64_t k = 0; !h->stop; k++) {
        int64_t nonce = 10000000 + (int64_t)i * 10000000 + k;
        char number[24];
        pqpool_error err;
        snprintf(number, sizeof number, "%lld", (long long)nonce);
        PGresult *res = pqpool_exec_params(h->pool, shapes[nonce % 4], 1, NULL, (const char *[]){number},
                                           NULL, NULL, 0, &err);
        bool answered = err.code == PQPOOL_OK || err.code == PQPOOL_ESERVER;
        if (answered && !right_answer(nonce, res, &err))
            h->wrong++;
        if (!documented(&err) && h->undocumented++ == 0)
            diag("%s, outcome %d: %s", pqpool_code_name((pqpool_code)err.code), err.outcome, err.message);
        PQclear(res);
        note(j, nonce, &err);
        h->returned++;
    }
}

static int by_nonce(const void *a, const void *b)
{
    int64_t x = ((const entry *)a)->nonce, y = ((const entry *)b)->nonce;
    return (x > y) - (x < y);
}

/* Compares what the callers were told with what is in the table. */
static void judge(history *h, int ends)
{
    int64_t n = 0, missing = 0, ghosts = 0, twice = 0, unknown = 0, unknown_ran = 0;
    for (int i = 0; i < CALLERS; i++)
        n += h->journals[i].n;
    entry *all = calloc((size_t)n, sizeof *all);
    int *rows = calloc((size_t)n, sizeof *rows);
    int64_t at = 0;
    for (int i = 0; i < CALLERS; i++) {
        memcpy(all + at, h->journals[i].entries, (size_t)h->journals[i].n * sizeof *all);
        at += h->journals[i].n;
    }
    qsort(all, (size_t)n, sizeof *all, by_nonce);
    PGresult *res = PQexec(ctl, "select nonce, count(*) from log where nonce >= 10000000 group by nonce");
    if (PQresultStatus(res) != PGRES_TUPLES_OK)
        bail("the log can't be read: %s", PQerrorMessage(ctl));
    for (int r = 0; r < PQntuples(res); r++) {
        entry key = {.nonce = atoll(PQgetvalue(res, r, 0))};
        entry *e = bsearch(&key, all, (size_t)n, sizeof *all, by_nonce);
        if (e)
            rows[e - all] = atoi(PQgetvalue(res, r, 1));
        else
            ghosts++;
    }
    PQclear(res);
    for (int64_t i = 0; i < n; i++) {
        twice += rows[i] > 1;
        if (all[i].code == PQPOOL_OK)
            missing += rows[i] == 0;
        else if (all[i].outcome == PQPOOL_UNKNOWN)
            unknown++, unknown_ran += rows[i] == 1;
        else
            ghosts += rows[i] > 0;
    }
    diag("%lld calls, %d ends, %lld UNKNOWN, of which %lld ran", (long long)n, ends, (long long)unknown,
         (long long)unknown_ran);
    is_int(twice, 0, "B10: no statement ran twice");
    is_int(missing, 0, "B10: every statement that was OK ran");
    is_int(ghosts, 0, "B10: no statement ran that was said not to have");
    ok(unknown <= (int64_t)ends * CALLERS, "B10: only what was in flight is UNKNOWN");
    free(all);
    free(rows);
}

static void many_ends(int ends)
{
    static history h;
    h.pool = shared_pool();
    crew c;
    int done[2] = {0, 0};
    crew_start(&c, CALLERS, keep_writing, &h);
    for (int k = 0; k < ends; k++) {
        bool kill_9 = k % 2 && may_kill, pile = k % 4 < 2;
        int64_t before = h.returned;
        if (!eventually(h.returned > before + CALLERS))
            bail("B10: statements do not work any more after %d ends", k);
        if (pile) {
            lock_log();
            if (!eventually(stats(h.pool).statements == CALLERS))
                bail("B10: %d of %d callers are on the connection", (int)stats(h.pool).statements, CALLERS);
        }
        pid_t pid = backend_of(ctl, APP);
        if (kill_9)
            crash(pid);
        else
            terminate(ctl, pid);
        if (pile)
            unlock_log();
        done[kill_9]++;
    }
    int64_t before = h.returned;
    ok(eventually(h.returned > before + CALLERS), "B10: after %d terminates and %d kill -9 statements work",
       done[0], done[1]);
    h.stop = true;
    crew_join(&c);
    int64_t entries = 0;
    for (int i = 0; i < CALLERS; i++)
        entries += h.journals[i].n;
    is_int(h.returned, entries, "B1: every call returned once");
    is_int(h.wrong, 0, "B1: every answer is the caller's own");
    is_int(h.undocumented, 0, "B10: every failure is ELOST with UNKNOWN; all else the library has repeated");
    judge(&h, ends);
    ok(eventually(stats(h.pool).statements == 0), "nothing is left on the connection");
    for (int i = 0; i < CALLERS; i++)
        free(h.journals[i].entries);
    close_pool(h.pool);
    if (!may_kill)
        ok(true, "kill -9 # SKIP may not signal the server's processes");
}

int main(void)
{
    const char *rounds = getenv("PQPOOL_ROUNDS");
    int ends = rounds && atoi(rounds) > 0 ? atoi(rounds) : 100;
    tap_begin(100 + (unsigned)ends);
    ctl = control_alone();
    locker = control();
    may_kill = may_signal(ctl);
    one(ctl, "create table log (nonce bigint)");
    pqpool *pool = shared_pool();
    behind_the_head(pool);
    repeated_once(pool, PQPOOL_IDEMPOTENT, insert, "an IDEMPOTENT statement");
    repeated_once(pool, PQPOOL_READ_ONLY, "select count(*) from log", "a READ_ONLY statement");
    crashed_head(pool);
    during_commit(pool);
    while_idle(pool);
    while_falling_idle(pool);
    close_pool(pool);
    under_a_lease();
    if (may_kill)
        crashed_leases();
    many_ends(ends);
    ok(eventually(backends(ctl, APP) == 0), "no server process is left behind");
    PQfinish(locker);
    PQfinish(ctl);
    return done_testing();
}
