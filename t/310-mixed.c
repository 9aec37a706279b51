/*
 * Everything at once, while server processes are terminated: what must always hold is checked while it runs,
 * and what must hold again when it is quiet is checked then. PQPOOL_STRESS_SECONDS says how long.
 */

#include "support/pg.h"

#define APP "mixed"
enum {
    SHARERS = 6,
    GROUPERS = 3,
    LESSEES = 5,
    SETTERS = 1,
    THREADS = SHARERS + GROUPERS + LESSEES + SETTERS
};
enum { MAX_SIZE = 8 };

typedef struct mix {
    pqpool *pool;
    _Atomic bool stop;
    _Atomic int64_t answers, lost, late, leases, ends;
    _Atomic int wrong, undocumented, dirty;
    int most, over_since_ms, over_ms; /* the observer's: connections seen; how long too many */
    int sums_wrong;
} mix;

static PGconn *ctl;

static const char *field(const PGresult *res, int column)
{
    return PQntuples(res) > 0 ? PQgetvalue(res, 0, column) : "";
}

static uint64_t draw(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* ---- what is asked, and what must come back; all of it follows from the nonce ---- */

static const char *const shapes[] = {
    "select $1::bigint",
    "select md5($1::text), $1::bigint, null::int",
    "select $1::bigint from generate_series(1, $1::bigint % 7)",
    "select ('no ' || $1)::int",
    "select $1::bigint, pg_sleep(0.002)",
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static bool right(int64_t nonce, const PGresult *res, const pqpool_error *err)
{
    char want[32];
    switch (nonce % SHAPES) {
    case 1:
        return PQnfields(res) == 3 && atoll(field(res, 1)) == nonce;
    case 2:
        return PQnfields(res) == 1 && PQntuples(res) == nonce % 7 &&
               (nonce % 7 == 0 || atoll(field(res, 0)) == nonce);
    case 3:
        snprintf(want, sizeof want, "no %lld", (long long)nonce);
        return err->code == PQPOOL_ESERVER && strcmp(err->sqlstate, "22P02") == 0 &&
               strstr(err->message, want);
    case 4:
        return PQnfields(res) == 2 && atoll(field(res, 0)) == nonce;
    default:
        return PQnfields(res) == 1 && atoll(field(res, 0)) == nonce;
    }
}

static void judge(mix *m, int64_t nonce, bool has_deadline, PGresult *res, const pqpool_error *err)
{
    bool fine = false;
    switch (err->code) {
    case PQPOOL_OK:
    case PQPOOL_ESERVER:
        m->answers++;
        fine = err->outcome == PQPOOL_DONE;
        if (has_deadline && strcmp(err->sqlstate, "57014") == 0) /* the server kept the deadline */
            m->late++;
        else if (!right(nonce, res, err) && m->wrong++ == 0)
            diag("nonce %lld: %s %s", (long long)nonce, pqpool_code_name((pqpool_code)err->code),
                 err->message);
        break;
    case PQPOOL_ELOST: /* NOT_SENT or NOT_RUN: there was no time to run it again */
        m->lost++;
        fine = err->outcome == PQPOOL_UNKNOWN || (has_deadline && err->outcome != PQPOOL_DONE);
        break;
    case PQPOOL_ETIMEDOUT:
        m->late++;
        fine = has_deadline && (err->outcome == PQPOOL_UNKNOWN || err->outcome == PQPOOL_NOT_SENT);
        break;
    case PQPOOL_ECONNECT: /* its connection was ended as it came up, and there was no time for another */
        m->late++;
        fine = has_deadline && err->outcome != PQPOOL_DONE;
        break;
    default:
        break;
    }
    if (!fine && m->undocumented++ == 0)
        diag("%s, outcome %d: %s", pqpool_code_name((pqpool_code)err->code), err->outcome, err->message);
    PQclear(res);
}

static void share(mix *m, int64_t nonce, uint64_t *seed)
{
    char number[24];
    pqpool_error err;
    snprintf(number, sizeof number, "%lld", (long long)nonce);
    int timeout = draw(seed) % 8 == 0 ? 1 + (int)(draw(seed) % 20) : 0;
    pqpool_stmt s = {PQPOOL_STMT,           .sql = shapes[nonce % SHAPES],
                     .n_params = 1,         .param_values = (const char *[]){number},
                     .timeout_ms = timeout, .flags = draw(seed) % 2 ? PQPOOL_READ_ONLY : 0};
    PGresult *res = pqpool_exec_stmt(m->pool, &s, &err);
    judge(m, nonce, timeout != 0, res, &err);
}

static void group(mix *m, int64_t nonce, uint64_t *seed)
{
    enum { MOST = 40 };
    char numbers[MOST][24];
    const char *values[MOST];
    pqpool_stmt stmts[MOST];
    PGresult *results[MOST];
    pqpool_error errors[MOST];
    int n = 1 + (int)(draw(seed) % MOST);
    for (int i = 0; i < n; i++) {
        snprintf(numbers[i], sizeof numbers[i], "%lld", (long long)nonce + i);
        values[i] = numbers[i];
        stmts[i] = (pqpool_stmt){PQPOOL_STMT, .sql = shapes[(nonce + i) % SHAPES], .n_params = 1,
                                 .param_values = &values[i], .timeout_ms = draw(seed) % 16 == 0 ? 5 : 0};
    }
    pqpool_code code = pqpool_exec_all(m->pool, stmts, n, PQPOOL_EACH, results, errors);
    pqpool_code first = PQPOOL_OK;
    for (int i = n - 1; i >= 0; i--) {
        first = errors[i].code ? (pqpool_code)errors[i].code : first;
        judge(m, nonce + i, stmts[i].timeout_ms != 0, results[i], &errors[i]);
    }
    if (code != first)
        m->wrong++;
}

/* A lease that finds what another left, and leaves something itself. */
static void lease(mix *m, int64_t nonce, uint64_t *seed)
{
    pqpool_lease l;
    pqpool_error err;
    pqpool_code code =
        pqpool_acquire_within(m->pool, draw(seed) % 8 == 0 ? (int)(draw(seed) % 5) : -1, &l, &err);
    if (code != PQPOOL_OK) {
        m->late++;
        if (code != PQPOOL_ETIMEDOUT && code != PQPOOL_ECONNECT && m->undocumented++ == 0)
            diag("%s: %s", pqpool_code_name(code), err.message);
        return;
    }
    m->leases++;
    char sql[200];
    if (PQtransactionStatus(l.conn) != PQTRANS_IDLE || PQpipelineStatus(l.conn) != PQ_PIPELINE_OFF)
        m->dirty++;
    snprintf(sql, sizeof sql, "select %lld, txid_current_if_assigned() is null", (long long)nonce);
    PGresult *res = PQexec(l.conn, sql);
    if (PQresultStatus(res) == PGRES_TUPLES_OK && (atoll(field(res, 0)) != nonce || *field(res, 1) != 't'))
        m->wrong++;
    PQclear(res);
    static const char *const leave[] = {"begin; insert into nothing values (1)", "begin; select 1/0",
                                        "select 1", "begin; declare c cursor for select 1; fetch c"};
    PQclear(PQexec(l.conn, leave[draw(seed) % 4]));
    if (draw(seed) % 16 == 0 && PQenterPipelineMode(l.conn))
        (void)PQsendQueryParams(l.conn, "select 1", 0, NULL, NULL, NULL, NULL, 0);
    code = draw(seed) % 10 == 0 ? pqpool_discard(&l) : pqpool_release(&l);
    if (code != PQPOOL_OK)
        m->undocumented++;
}

static void set_something(mix *m, uint64_t *seed)
{
    char number[12];
    bool size = draw(seed) % 2;
    snprintf(number, sizeof number, "%d", 2 + (int)(draw(seed) % (size ? MAX_SIZE - 1 : 3)));
    pqpool_error err;
    if (pqpool_set(m->pool, size ? "max_size" : "shared_max", number, &err) != PQPOOL_OK &&
        m->undocumented++ == 0)
        diag("pqpool_set: %s", err.message);
    sleep_ms(5);
}

static void play(int i, void *arg)
{
    mix *m = arg;
    uint64_t seed = 4711 + (uint64_t)i;
    for (int64_t nonce = (int64_t)i * 100000000; !m->stop; nonce += 64) {
        int64_t mine = nonce + (int64_t)(draw(&seed) % 20);
        if (i < SHARERS)
            share(m, mine, &seed);
        else if (i < SHARERS + GROUPERS)
            group(m, mine, &seed);
        else if (i < SHARERS + GROUPERS + LESSEES)
            lease(m, mine, &seed);
        else
            set_something(m, &seed);
    }
}

/* ---- the nemesis and the observer: the main thread ---- */

static void check_sum(mix *m)
{
    pqpool_stats_data s = stats(m->pool);
    int sum = s.idle + s.leased + s.shared + s.connecting + s.resetting + s.probing + s.draining + s.closing;
    /* max_size shrinks under connections that are in use, so the largest one is what bounds them at any
     * time */
    if ((s.total != sum || s.total > MAX_SIZE || s.statements < 0 || s.waiting < 0) && m->sums_wrong++ == 0)
        diag("total %d, sum %d, limit %d, statements %d, waiting %d", s.total, sum, s.limit, s.statements,
             s.waiting);
}

static void haunt(mix *m, double seconds)
{
    double end = now_s() + seconds, over = 0, next_end = now_s();
    while (now_s() < end) {
        double now = now_s();
        int n = backends(ctl, APP);
        m->most = n > m->most ? n : m->most;
        /* A process that was told to go takes a moment to be gone. */
        if (n <= MAX_SIZE)
            over = 0;
        else if (over == 0)
            over = now;
        else if ((now - over) * 1000 > m->over_ms)
            m->over_ms = (int)((now - over) * 1000);
        for (int k = 0; k < 20; k++)
            check_sum(m);
        if (now >= next_end) {
            m->ends += atoi(
                one(ctl, "select count(pg_terminate_backend(pid)) from (select pid from pg_stat_activity "
                         "where application_name = '" APP "' order by random() limit 1) x"));
            next_end = now + 0.03;
        }
        sleep_ms(2);
    }
}

static bool settled(pqpool *pool)
{
    pqpool_stats_data s = stats(pool);
    return s.statements == 0 && s.leased == 0 && s.waiting == 0 &&
           s.connecting + s.resetting + s.probing == 0 && s.draining + s.closing == 0 && s.total <= s.limit;
}

static void afterwards(mix *m)
{
    pqpool_error err;
    ok(eventually(settled(m->pool)), "when it is quiet nothing is out, in flight, under way or too much");
    if (!settled(m->pool)) {
        pqpool_stats_data s = stats(m->pool);
        diag("statements %d leased %d waiting %d connecting %d resetting %d draining %d closing %d total %d "
             "limit %d",
             s.statements, s.leased, s.waiting, s.connecting, s.resetting, s.draining, s.closing, s.total,
             s.limit);
    }
    int failed = 0;
    for (int k = 0; k < 100; k++) {
        PGresult *res = pqpool_exec(m->pool, "select 'fine'", &err);
        failed += strcmp(field(res, 0), "fine") != 0;
        PQclear(res);
    }
    is_int(failed, 0, "every statement then works");
    is_int(pqpool_set(m->pool, "max_size", "8", NULL), PQPOOL_OK, "max_size is set once more");
    pqpool_lease all[MAX_SIZE - 1];
    for (int i = 0; i < MAX_SIZE - 1; i++)
        if (pqpool_acquire(m->pool, &all[i], &err) != PQPOOL_OK)
            bail("of %d connections %d can be had: %s", MAX_SIZE - 1, i, err.message);
    ok(true, "no connection has been lost: all but the shared one can be leased");
    for (int i = 0; i < MAX_SIZE - 1; i++)
        failed += pqpool_release(&all[i]) != PQPOOL_OK;
    is_int(failed, 0, "and given back");
}

/* ---- shrinking ---- */

static void slowly(int i, void *arg)
{
    mix *m = arg;
    (void)i;
    while (!m->stop)
        PQclear(pqpool_exec(m->pool, "select pg_sleep(0.005)", NULL));
}

/* Under pressure more shared connections are opened; a smaller limit must take them back while it lasts. */
static void shrink(const char *option, const char *number, int most)
{
    static mix m;
    crew c;
    m.stop = false;
    m.pool = open_pool("application_name=" APP " pool_max_size=8 pool_shared_max=4", NULL);
    crew_start(&c, 64, slowly, &m);
    ok(eventually(stats(m.pool).shared >= 3), "B6: under pressure statements get more shared connections");
    is_int(pqpool_set(m.pool, option, number, NULL), PQPOOL_OK, "%s is set to %s", option, number);
    bool fewer = eventually(stats(m.pool).shared <= most && stats(m.pool).total <= stats(m.pool).limit);
    ok(fewer, "A15: and at once there are no more than that (%d shared)", stats(m.pool).shared);
    m.stop = true;
    crew_join(&c);
    close_pool(m.pool);
}

int main(void)
{
    const char *given = getenv("PQPOOL_STRESS_SECONDS");
    double seconds = given && atof(given) > 0 ? atof(given) : 4;
    tap_begin(50 + (unsigned)seconds);
    ctl = control();
    one(ctl, "set client_min_messages = error"); /* a process may be gone before it is terminated */
    one(ctl, "create table nothing (id int)");
    int before = descriptors();
    static mix m;
    m.pool = open_pool("application_name=" APP " pool_max_size=8 pool_shared_max=4 pool_acquire_timeout=30s "
                       "pool_log_level=error",
                       NULL);
    crew c;
    crew_start(&c, THREADS, play, &m);
    haunt(&m, seconds);
    m.stop = true;
    crew_join(&c);
    diag("%lld answers, %lld lost, %lld late, %lld leases; %lld processes terminated; at most %d at once",
         (long long)m.answers, (long long)m.lost, (long long)m.late, (long long)m.leases, (long long)m.ends,
         m.most);
    ok(m.answers > 0 && m.leases > 0 && m.ends > 0, "everything was at work");
    is_int(m.wrong, 0, "B1: every answer was the caller's own");
    is_int(m.undocumented, 0, "B10: every failure was one that is documented");
    is_int(m.dirty, 0, "A9: no lease found another's transaction or pipeline");
    is_int(m.sums_wrong, 0, "the figures added up at every look, and were never more than max_size");
    ok(m.over_ms < 500 * tap_slowness(),
       "nor did the server see more than max_size (but for %d ms, of processes going)", m.over_ms);
    afterwards(&m);
    close_pool(m.pool);
    shrink("shared_max", "1", 1);
    shrink("max_size", "2", 1);
    is_int(descriptors(), before, "no descriptor is left behind");
    ok(eventually(backends(ctl, APP) == 0), "no server process either");
    is_str(one(ctl, "select count(*) from nothing"), "0",
           "A9: and nothing of the transactions that were left open");
    PQfinish(ctl);
    return done_testing();
}
