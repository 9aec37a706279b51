/* Tickets: a statement is handed in now, and its answer fetched later, by anybody, or by nobody. */
#include "support/nemesis.h"

#define APP "tickets"
#define NAMED "application_name=" APP " "
#define ONE_LANE NAMED "pool_shared_max=1 pool_stall_threshold=60s "
/* One at a time, and only a lease beside it: what comes second is not sent. */
#define NARROW ONE_LANE "pool_pipeline_depth=1 pool_max_size=2 "

static PGconn *ctl, *locker;

/* ---- tools ---- */

static pqpool_ticket *submit_number(pqpool *pool, const char *sql, int number)
{
    char text[16];
    snprintf(text, sizeof text, "%d", number);
    return submit_stmt(
        pool, &(pqpool_stmt){PQPOOL_STMT, .sql = sql, .n_params = 1, .param_values = (const char *[]){text}});
}

/* Nobody waits for these: the ticket ends with this code and outcome, and no result. */
static void fetch_fails(pqpool_ticket *ticket, pqpool_code code, pqpool_outcome outcome, const char *name)
{
    pqpool_error err;
    PGresult *res = pqpool_wait(ticket, -1, &err);
    if (!ok(!res && err.code == (int)code && err.outcome == (int)outcome, "%s", name))
        diag("%s, outcome %d: %s", pqpool_code_name((pqpool_code)err.code), err.outcome, err.message);
    PQclear(res);
}

static void lock_gate(void)
{
    one(locker, "begin");
    one(locker, "lock table ticket_gate in access exclusive mode");
}

static void unlock_gate(void)
{
    one(locker, "rollback");
}

/* A statement that occupies the shared connection until the ticket_gate is unlocked. */
static pqpool_ticket *block(pqpool *pool)
{
    lock_gate();
    pqpool_ticket *head = submit_sql(pool, "select count(*) from ticket_gate");
    if (!eventually(backends(ctl, APP) >= 1 &&
                    atoi(one(ctl, "select count(*) from pg_stat_activity where application_name = '" APP
                                  "' and wait_event_type = 'Lock'")) == 1))
        bail("the head does not wait for its lock");
    return head;
}

static int effects(int id)
{
    return atoi(one(ctl, "select count(*) from ticket_effect where id = %d", id));
}

static const char insert[] = "insert into ticket_effect values ($1)";

static void quiet(pqpool *pool)
{
    ok(eventually(stats(pool).promised == 0 && stats(pool).statements == 0 && stats(pool).unsent == 0),
       "no ticket is out in the end, and nothing is left on the connection");
}

static void pool_ends(pqpool *pool)
{
    quiet(pool);
    close_pool(pool);
    ok(eventually(backends(ctl, APP) == 0), "a freed pool leaves no server process behind");
}

/* ---- submit and wait ---- */

static void one_after_the_other(pqpool *pool)
{
    pqpool_error err;
    pqpool_ticket *t[3];
    for (int i = 0; i < 3; i++)
        t[i] = submit_number(pool, "select $1::int", i);
    is_int(stats(pool).promised, 3, "B4: submit returns a ticket at once, and the pool counts those out");
    ok(fetch_is(t[2], "2") && fetch_is(t[0], "0") && fetch_is(t[1], "1"),
       "B4: answers are fetched in any order, each its own");

    pqpool_ticket *ticket = submit_sql(pool, "select 1 / 0");
    PGresult *res = pqpool_wait(ticket, -1, &err);
    ok(PQresultStatus(res) == PGRES_FATAL_ERROR && err.code == PQPOOL_ESERVER && err.outcome == PQPOOL_DONE,
       "a server's error comes as a result");
    is_str(err.sqlstate, "22012", "with its SQLSTATE");
    is_int(err.row, -1, "it is no member of a group");
    PQclear(res);

    ticket = submit_sql(pool, "select 'done'");
    ok(eventually(pqpool_ticket_done(ticket)),
       "B4: the answer comes in by itself, without anybody who waits");
    is_int(stats(pool).statements, 0, "B13: and holds no place on the connection until it is fetched");
    res = pqpool_wait(ticket, 0, &err);
    is_str(value(res), "done", "B4: with a time-out of 0 it is fetched");
    PQclear(res);

    ticket = submit_sql(pool, "select 'default'");
    res = pqpool_wait(ticket, PQPOOL_DEFAULT, NULL);
    is_str(value(res), "default", "PQPOOL_DEFAULT waits until it is there; no pqpool_error is needed");
    PQclear(res);
}

static void wrong_calls(pqpool *pool)
{
    pqpool_error err;
    static const struct {
        pqpool_stmt stmt;
        pqpool_code code;
        const char *name;
    } cases[] = {
        {{PQPOOL_STMT, .sql = "begin"}, PQPOOL_EREFUSED, "transaction control"},
        {{PQPOOL_STMT, .sql = "set work_mem = '1MB'"}, PQPOOL_EREFUSED, "a setting"},
        {{PQPOOL_STMT, .sql = "select 1; select 2"}, PQPOOL_EREFUSED, "two statements"},
        {{PQPOOL_STMT}, PQPOOL_EINVAL, "no SQL"},
        {{PQPOOL_STMT, .sql = "select $1::int", .n_params = -1}, PQPOOL_EINVAL, "-1 parameters"},
        {{PQPOOL_STMT, .sql = "select $1::int", .n_params = 1}, PQPOOL_EINVAL, "parameters without values"},
        {{PQPOOL_STMT, .sql = "select 1", .timeout_ms = -3}, PQPOOL_EINVAL, "a time-out of -3"},
        {{.sql = "select 1"}, PQPOOL_EINVAL, "a size of 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        err.code = err.outcome = -1;
        pqpool_ticket *ticket = pqpool_submit(pool, &cases[i].stmt, &err);
        ok(!ticket && err.code == (int)cases[i].code && err.outcome == PQPOOL_NOT_SENT && err.row == -1,
           "%s: no ticket, %s", cases[i].name, pqpool_code_name((pqpool_code)err.code));
    }
    ok(!pqpool_submit(pool, NULL, &err) && err.code == PQPOOL_EINVAL, "no statement: EINVAL");
    ok(!pqpool_submit(NULL, &cases[0].stmt, &err) && err.code == PQPOOL_EINVAL, "no pool: EINVAL");
    ok(!pqpool_wait(NULL, 0, &err) && err.code == PQPOOL_EINVAL, "waiting for no ticket: EINVAL");
    pqpool_abandon(NULL);
    is_int(pqpool_ticket_done(NULL), 0, "no ticket is never done");
    pqpool_ticket *ticket = submit_sql(pool, "select 'here'");
    ok(!pqpool_wait(ticket, -3, &err) && err.code == PQPOOL_EINVAL, "a time-out of -3: EINVAL");
    ok(fetch_is(ticket, "here"), "and the ticket lives on");
    is_int(stats(pool).promised, 0, "what was refused has left nothing behind");
}

typedef struct waiting {
    pqpool_ticket *ticket;
    pthread_t thread;
    PGresult *result;
    pqpool_error err;
    pthread_barrier_t begins;
} waiting;

static void *wait_main(void *arg)
{
    waiting *w = arg;
    pthread_barrier_wait(&w->begins);
    do /* the other thread may be looking just now */
        w->result = pqpool_wait(w->ticket, -1, &w->err);
    while (w->err.code == PQPOOL_EBUSY);
    return NULL;
}

static void others_wait(pqpool *pool)
{
    pqpool_error err;
    waiting w = {.ticket = block(pool)};
    pthread_barrier_init(&w.begins, NULL, 2);
    is_int(pqpool_ticket_done(w.ticket), 0, "a statement that runs is not done");
    ok(!pqpool_wait(w.ticket, 0, &err) && err.code == PQPOOL_EPENDING,
       "B4: with a time-out of 0 it is EPENDING");
    double began = now_s();
    ok(!pqpool_wait(w.ticket, 10, &err) && err.code == PQPOOL_EPENDING && now_s() - began >= 0.009,
       "B4: so it is after 10 ms");
    ok(now_s() - began < 1.0 * tap_slowness(), "and not much later");
    if (pthread_create(&w.thread, NULL, wait_main, &w) != 0)
        bail("pthread_create");
    pthread_barrier_wait(&w.begins);
    /* Until the thread waits, the ticket is EPENDING; then it is his. */
    ok(eventually(!pqpool_wait(w.ticket, 0, &err) && err.code == PQPOOL_EBUSY),
       "B4: while another thread waits for it, it is EBUSY");
    began = now_s();
    ok(!pqpool_wait(w.ticket, -1, &err) && err.code == PQPOOL_EBUSY && now_s() - began < tap_slowness(),
       "B4: at once, whatever the time-out");
    unlock_gate();
    pthread_join(w.thread, NULL);
    ok(w.err.code == PQPOOL_OK && strcmp(value(w.result), "0") == 0,
       "B4: a ticket is waited for by another thread than the one that submitted");
    PQclear(w.result);
    pthread_barrier_destroy(&w.begins);
}

/* ---- what is handed in is copied ---- */

static void *copy_of(const void *from, size_t n)
{
    void *to = malloc(n);
    if (!to)
        bail("malloc");
    memcpy(to, from, n);
    return to;
}

static void spoil(void *p, size_t n)
{
    memset(p, 0xa5, n);
    free(p);
}

static void copied(pqpool *pool)
{
    enum { N = 5, TEXT = 25, BYTEA = 17, INT4 = 23 };
    static const char sql[] =
        "select $1::text || '/' || $2::int || '/' || encode($3::bytea, 'hex') || '/' || "
        "coalesce($4::text, 'none') || '/' || length($5::bytea)";
    static const Oid types[N] = {TEXT, INT4, BYTEA, TEXT, BYTEA};
    static const int lengths[N] = {0, 4, 3, 0, 0}, formats[N] = {0, 1, 1, 0, 1};
    static const char binary_int[] = {0, 0, 1, 2}, bytes[] = {0, 'x', 0};
    pqpool_ticket *head = block(pool);

    char *own_sql = copy_of(sql, sizeof sql), *text = copy_of("word", 5);
    char *number = copy_of(binary_int, 4), *raw = copy_of(bytes, 3), *empty = copy_of("", 1);
    const char *values[N] = {text, number, raw, NULL, empty};
    const char **own_values = copy_of(values, sizeof values);
    Oid *own_types = copy_of(types, sizeof types);
    int *own_lengths = copy_of(lengths, sizeof lengths), *own_formats = copy_of(formats, sizeof formats);
    pqpool_stmt stmt = {PQPOOL_STMT,
                        .sql = own_sql,
                        .n_params = N,
                        .param_types = own_types,
                        .param_values = own_values,
                        .param_lengths = own_lengths,
                        .param_formats = own_formats};
    pqpool_ticket *ticket = submit_stmt(pool, &stmt);
    spoil(own_sql, sizeof sql), spoil(text, 5), spoil(number, 4), spoil(raw, 3), spoil(empty, 1);
    spoil(own_values, sizeof values), spoil(own_types, sizeof types);
    spoil(own_lengths, sizeof lengths), spoil(own_formats, sizeof formats);
    memset(&stmt, 0xa5, sizeof stmt);

    ok(!pqpool_ticket_done(ticket), "the statement has not been sent when all it was made of is gone");
    unlock_gate();
    ok(fetch_is(ticket, "word/258/007800/none/0"),
       "B4: SQL, types, text, binary, empty and NULL parameters, lengths and formats are copied");
    ok(fetch_is(head, "0"), "and the statement before it has its own answer");

    ticket = submit_stmt(pool, &(pqpool_stmt){PQPOOL_STMT, .sql = "select 258::int4", .result_format = 1});
    PGresult *res = pqpool_wait(ticket, -1, NULL);
    ok(PQgetlength(res, 0, 0) == 4 && memcmp(PQgetvalue(res, 0, 0), binary_int, 4) == 0,
       "the format of the result too");
    PQclear(res);
}

/* ---- given up ---- */

static void abandoned(pqpool *pool)
{
    pqpool_ticket *head = block(pool);
    pqpool_ticket *never[8];
    for (int i = 0; i < 8; i++)
        never[i] = submit_number(pool, insert, 100 + i);
    pqpool_ticket *kept = submit_number(pool, insert, 110);
    is_int(stats(pool).promised, 10, "ten tickets are out, one of them is running");
    for (int i = 0; i < 8; i++)
        pqpool_abandon(never[i]);
    is_int(stats(pool).promised, 2, "B9: a ticket that was not sent is gone when it is given up");
    pqpool_abandon(head);
    is_int(stats(pool).promised, 1, "a ticket whose statement is running is gone when it is given up");
    unlock_gate();
    PQclear(pqpool_wait(kept, -1, NULL));
    is_int(effects(110), 1, "B9: what stood behind it in the queue runs");
    int ran = 0;
    for (int i = 0; i < 8; i++)
        ran += effects(100 + i);
    is_int(ran, 0, "B9: what was given up before it was sent never runs");
    quiet(pool);

    pqpool_ticket *ticket = submit_number(pool, insert, 120);
    if (!eventually(pqpool_ticket_done(ticket)))
        bail("an insert does not end");
    pqpool_abandon(ticket);
    is_int(stats(pool).promised, 0, "B13: an answer that is there goes with the ticket");
    is_int(effects(120), 1, "and what was done is done");
}

/* The same where there is no connection to wait on at all. */
static void abandoned_in_the_queue(void)
{
    pqpool *pool = open_pool(NAMED "pool_max_size=1", NULL);
    pqpool_lease lease = take(pool);
    pqpool_ticket *t[4];
    for (int i = 0; i < 4; i++)
        t[i] = submit_stmt(pool, &(pqpool_stmt){PQPOOL_STMT, .sql = insert, .n_params = 1,
                                                .param_values = (const char *[]){"130"},
                                                .flags = i % 2 ? PQPOOL_SLOW : 0});
    is_int(stats(pool).promised, 4, "four statements wait for the only connection, which is leased");
    for (int i = 0; i < 4; i++)
        pqpool_abandon(t[i]);
    is_int(stats(pool).promised, 0, "B9: given up, they leave the queue");
    is_int(stats(pool).waiting, 0, "B9: and nobody waits in it");
    pqpool_release(&lease);
    PGresult *res = pqpool_exec(pool, "select count(*) from ticket_effect where id = 130", NULL);
    is_str(value(res), "0", "B9: they never run");
    PQclear(res);
    pool_ends(pool);
}

/* A log hook that holds up whoever is just logging that a shared connection was lost. */
typedef struct stop {
    _Atomic int armed, at_it, open;
} stop;

static void stop_at_loss(int level, const char *line, void *arg)
{
    stop *s = arg;
    test_log(level, line, NULL);
    if (strstr(line, "shared connection") && s->armed) {
        s->at_it++;
        (void)eventually(s->open);
    }
}

/* Between the loss of its connection and the next one a statement is nowhere: it can be given up there too. */
static void abandoned_between_connections(void)
{
    stop s = {0};
    pqpool_hooks hooks = {PQPOOL_HOOKS, .arg = &s, .on_log = stop_at_loss};
    pqpool *pool = open_pool(ONE_LANE "pool_max_size=2", &hooks);
    pqpool_ticket *head = block(pool), *behind[4];
    for (int i = 0; i < 4; i++)
        behind[i] = submit_number(pool, insert, 140);
    s.armed = 1;
    terminate(ctl, backend_of(ctl, APP));
    ok(eventually(s.at_it > 0), "a connection is lost under five statements");
    for (int i = 0; i < 4; i++)
        pqpool_abandon(behind[i]);
    s.armed = 0;
    s.open = 1;
    unlock_gate();
    fetch_fails(head, PQPOOL_ELOST, PQPOOL_UNKNOWN, "B10: the one that was running is UNKNOWN");
    quiet(pool);
    is_int(effects(140), 0, "B9: those behind it, given up before they were sent again, never run");
    pool_ends(pool);
}

/* ---- races ---- */

typedef struct race {
    pqpool *pool;
    pthread_barrier_t step[4];
    _Atomic int right, wrong, pending;
    int tries;
} race;

/* Pairs: one gives its ticket up, or fetches it, just when the other brings its answer in. */
static void race_work(int i, void *arg)
{
    race *r = arg;
    unsigned seed = (unsigned)i;
    for (int k = 0; k < r->tries; k++) {
        int number = i * 100000 + k;
        char want[16];
        snprintf(want, sizeof want, "%d", number);
        pthread_barrier_wait(&r->step[i / 2]);
        if (i % 2) {
            pqpool_error err;
            PGresult *res = pqpool_exec_params(r->pool, "select $1::int", 1, NULL, (const char *[]){want},
                                               NULL, NULL, 0, &err);
            err.code == PQPOOL_OK &&strcmp(value(res), want) == 0 ? r->right++ : r->wrong++;
            PQclear(res);
            continue;
        }
        pqpool_ticket *ticket = submit_number(r->pool, "select $1::int", number);
        int until = rand_r(&seed) % 4;
        double end = now_s() + (rand_r(&seed) % 300) / 1e6;
        while (until < 2 ? now_s() < end : !pqpool_ticket_done(ticket))
            continue;
        if (until % 2) {
            pqpool_abandon(ticket);
            r->right++;
            continue;
        }
        pqpool_error err;
        PGresult *res = pqpool_wait(ticket, 0, &err);
        if (!res && err.code == PQPOOL_EPENDING) {
            r->pending += until == 2; /* it was said to be done */
            res = pqpool_wait(ticket, -1, &err);
        }
        err.code == PQPOOL_OK &&strcmp(value(res), want) == 0 ? r->right++ : r->wrong++;
        PQclear(res);
    }
}

static void races(pqpool *pool)
{
    enum { PAIRS = 4 };
    race r = {.pool = pool, .tries = 2000 / tap_slowness()};
    for (int i = 0; i < PAIRS; i++)
        pthread_barrier_init(&r.step[i], NULL, 2);
    in_threads(2 * PAIRS, race_work, &r);
    is_int(r.wrong, 0, "B9: tickets given up and fetched at the moment of completion disturb nobody");
    is_int(r.right, 2 * PAIRS * r.tries, "B1: every other statement has its own answer");
    is_int(r.pending, 0, "B4: a ticket that is done is never EPENDING");
    for (int i = 0; i < PAIRS; i++)
        pthread_barrier_destroy(&r.step[i]);
    quiet(pool);
}

enum { OUT = 1000, COLLECTORS = 8 };

typedef struct heap_of {
    pqpool_ticket *tickets[OUT];
    int numbers[OUT];
    _Atomic int right;
} heap_of;

static void collect(int i, void *arg)
{
    heap_of *h = arg;
    for (int k = i; k < OUT; k += COLLECTORS) {
        char want[16];
        snprintf(want, sizeof want, "%d", h->numbers[k]);
        h->right += fetch_is(h->tickets[k], want);
    }
}

static void a_thousand(pqpool *pool)
{
    static heap_of h;
    unsigned seed = 7;
    int64_t connects = stats(pool).connects;
    for (int k = 0; k < OUT; k++) {
        h.numbers[k] = 5000 + k;
        h.tickets[k] = submit_number(pool, "select $1::int", h.numbers[k]);
    }
    is_int(stats(pool).promised, OUT, "a thousand tickets are out, and no thread is blocked for them");
    for (int k = OUT - 1; k > 0; k--) {
        int other = rand_r(&seed) % (k + 1), number = h.numbers[k];
        pqpool_ticket *ticket = h.tickets[k];
        h.tickets[k] = h.tickets[other], h.numbers[k] = h.numbers[other];
        h.tickets[other] = ticket, h.numbers[other] = number;
    }
    in_threads(COLLECTORS, collect, &h);
    is_int(h.right, OUT, "B4: fetched in random order by eight threads, each has its own answer");
    is_int(stats(pool).connects, connects, "B2: and no connection was made for them");
    quiet(pool);
}

/* ---- deadlines that nobody waits for ---- */

/* Told by the server, or by the pool. */
static bool fetch_is_late(pqpool_ticket *ticket)
{
    pqpool_error err;
    PGresult *res = pqpool_wait(ticket, 0, &err);
    bool told =
        err.code == PQPOOL_ESERVER && err.outcome == PQPOOL_DONE && strcmp(err.sqlstate, "57014") == 0;
    bool late = !res && err.code == PQPOOL_ETIMEDOUT && err.outcome == PQPOOL_UNKNOWN;
    if (!told && !late)
        diag("%s, outcome %d: %s", pqpool_code_name((pqpool_code)err.code), err.outcome, err.message);
    PQclear(res);
    return told || late;
}

static int done_of(pqpool_ticket **tickets, int n)
{
    int done = 0;
    for (int i = 0; i < n; i++)
        done += pqpool_ticket_done(tickets[i]);
    return done;
}

static bool in_time(double began, int ms)
{
    double took = (now_s() - began) * 1000;
    diag("%.0f ms, due after %d", took, ms);
    return took < ms + 200.0 * tap_slowness();
}

static void unattended(void)
{
    enum { N = 6 };
    pqpool *pool = open_pool(ONE_LANE, NULL);
    PQclear(pqpool_exec(pool, "select 1", NULL));
    pqpool_ticket *t[N];
    double began = now_s();
    for (int i = 0; i < N; i++)
        t[i] = submit_stmt(
            pool, &(pqpool_stmt){PQPOOL_STMT, .sql = "select pg_sleep(20)", .timeout_ms = 100 + 5 * i});
    ok(eventually(done_of(t, N) == N) && in_time(began, 100 + 5 * N),
       "B9: tickets that nobody waits for end at their deadlines");
    int late = 0;
    for (int i = 0; i < N; i++)
        late += fetch_is_late(t[i]);
    is_int(late, N, "B9: by the server's 57014, or by ETIMEDOUT and UNKNOWN");
    PGresult *res = pqpool_exec(pool, "select 'next'", NULL);
    is_str(value(res), "next", "B9: the next statement has its own answer");
    PQclear(res);
    ok(eventually(stats(pool).statements == 0), "and the connection is empty in the end");
    pool_ends(pool);

    if (!may_signal(ctl)) {
        ok(true, "B9: tickets on a frozen server process # SKIP may not signal it");
        return;
    }
    pool = open_pool(ONE_LANE, NULL);
    PQclear(pqpool_exec(pool, "select 1", NULL));
    pid_t pid = backend_of(ctl, APP);
    kill(pid, SIGSTOP);
    began = now_s();
    for (int i = 0; i < N; i++)
        t[i] = submit_stmt(pool, &(pqpool_stmt){PQPOOL_STMT, .sql = "select 'frozen'", .timeout_ms = 60});
    ok(eventually(done_of(t, N) == N) && in_time(began, 60),
       "B9: on a frozen server process too, where nobody else drives the connection");
    kill(pid, SIGCONT);
    late = 0;
    for (int i = 0; i < N; i++)
        late += fetch_is_late(t[i]);
    is_int(late, N, "B9: they are UNKNOWN");
    pool_ends(pool);
}

static void unattended_unsent(void)
{
    pqpool *pool = open_pool(NARROW "pool_acquire_timeout=80ms", NULL);
    PQclear(pqpool_exec(pool, "select 1", NULL));
    pqpool_ticket *head = block(pool);
    double began = now_s();
    pqpool_ticket *t[3];
    for (int i = 0; i < 3; i++)
        t[i] = submit_number(pool, insert, 200 + i);
    ok(eventually(done_of(t, 3) == 3) && in_time(began, 80),
       "B9: what has no room within acquire_timeout ends, without anybody who waits");
    for (int i = 0; i < 3; i++)
        fetch_fails(t[i], PQPOOL_ETIMEDOUT, PQPOOL_NOT_SENT, "B9: and is NOT_SENT");
    is_int(pqpool_ticket_done(head), 0, "B9: acquire_timeout limits nothing that is sent");
    unlock_gate();
    ok(fetch_is(head, "0"), "which has its answer");
    is_int(effects(200) + effects(201) + effects(202), 0, "B9: what was not sent never runs");
    pool_ends(pool);

    pool = open_pool(NAMED "pool_max_size=1 pool_acquire_timeout=60ms", NULL);
    pqpool_lease lease = take(pool);
    began = now_s();
    t[0] = submit_number(pool, insert, 210);
    ok(eventually(pqpool_ticket_done(t[0])) && in_time(began, 60), "B9: so does what waits for a connection");
    fetch_fails(t[0], PQPOOL_ETIMEDOUT, PQPOOL_NOT_SENT, "B9: NOT_SENT");
    pqpool_release(&lease);
    pool_ends(pool);
    is_int(effects(210), 0, "B9: never run");
}

static void no_queue(void)
{
    pqpool_error err;
    pqpool *pool = open_pool(NAMED "pool_max_size=1 pool_wait=off", NULL);
    pqpool_lease lease = take(pool);
    pqpool_stmt stmt = {PQPOOL_STMT, .sql = "select 'waits'"};
    ok(!pqpool_submit(pool, &stmt, &err) && err.code == PQPOOL_ENOWAIT && err.outcome == PQPOOL_NOT_SENT,
       "B8: with wait=off and no connection free, submit refuses with ENOWAIT");
    pqpool_release(&lease);
    ok(fetch_is(submit_stmt(pool, &stmt), "waits"), "and takes the statement when there is one");
    pool_ends(pool);

    pool = open_pool(NAMED "pool_max_size=1 pool_queue_limit=2", NULL);
    lease = take(pool);
    pqpool_ticket *a = submit_stmt(pool, &stmt), *b = submit_stmt(pool, &stmt);
    ok(!pqpool_submit(pool, &stmt, &err) && err.code == PQPOOL_EQUEUEFULL && err.outcome == PQPOOL_NOT_SENT,
       "B8: beyond queue_limit submit refuses with EQUEUEFULL");
    is_int(stats(pool).waiting, 2, "tickets in the queue are counted as waiting");
    pqpool_abandon(a);
    pqpool_ticket *c = submit_stmt(pool, &stmt);
    pqpool_release(&lease);
    ok(fetch_is(b, "waits") && fetch_is(c, "waits"), "B9: one that is given up makes room in the queue");
    pool_ends(pool);
}

/* ---- nothing is held longer than needed ---- */

static void holds_nothing(void)
{
    enum { N = 20 };
    pqpool *pool = open_pool(NAMED "pool_max_size=2 pool_pipeline_depth=2", NULL);
    pqpool_ticket *t[N];
    for (int i = 0; i < N; i++)
        t[i] = submit_number(pool, "select $1::int", i);
    ok(eventually(done_of(t, N) == N), "B13: twenty answers that nobody fetches all come in, two at a time");
    pqpool_stats_data s = stats(pool);
    ok(s.promised == N && s.statements == 0 && s.unsent == 0 && s.leased == 0 && s.waiting == 0,
       "B13: they hold no place on a connection");
    pqpool_lease lease = take(pool);
    PGresult *res = pqpool_exec(pool, "select 'works'", NULL);
    is_str(value(res), "works", "B13: others lease and run what they like meanwhile");
    PQclear(res);
    pqpool_release(&lease);
    int right = 0;
    for (int i = 0; i < N; i++) {
        char want[16];
        snprintf(want, sizeof want, "%d", i);
        right += fetch_is(t[i], want);
    }
    is_int(right, N, "B13: and when they are fetched at last, they are right");
    pool_ends(pool);
}

/* ---- the pool is closed ---- */

static void closed_at_once(void)
{
    pqpool_error err;
    pqpool *pool = open_pool(NARROW, NULL);
    pqpool_ticket *done = submit_sql(pool, "select 'done'");
    if (!eventually(pqpool_ticket_done(done)))
        bail("a statement does not end");
    pqpool_ticket *running = block(pool), *unsent = submit_number(pool, insert, 300);
    pqpool_ticket *given_up = submit_number(pool, insert, 301);
    pqpool_abandon(given_up);
    is_int(pqpool_close(pool, 0), PQPOOL_ETIMEDOUT, "close cuts what is running");
    is_int(pqpool_free(pool), PQPOOL_EBUSY, "the pool can't be freed while tickets are out");
    fetch_fails(running, PQPOOL_ELOST, PQPOOL_UNKNOWN, "a ticket that was cut is ELOST, UNKNOWN");
    fetch_fails(unsent, PQPOOL_ECLOSED, PQPOOL_NOT_SENT, "one that was not sent is ECLOSED, NOT_SENT");
    is_int(pqpool_free(pool), PQPOOL_EBUSY, "as long as one is out");
    ok(fetch_is(done, "done"), "an answer that was there is fetched from the closed pool");
    ok(!pqpool_submit(pool, &(pqpool_stmt){PQPOOL_STMT, .sql = "select 1"}, &err) &&
           err.code == PQPOOL_ECLOSED && err.outcome == PQPOOL_NOT_SENT,
       "a closed pool takes no statement");
    is_int(stats(pool).promised, 0, "no ticket is out");
    is_int(pqpool_free(pool), PQPOOL_OK, "and the pool can be freed");
    unlock_gate();
    is_int(effects(300) + effects(301), 0, "B9: what was not sent has not run");
}

static void closed_in_time(void)
{
    pqpool *pool = open_pool(NARROW, NULL);
    pqpool_ticket *running = submit_sql(pool, "select pg_sleep(0.2)");
    if (!eventually(stats(pool).statements == 1))
        bail("a statement does not begin");
    pqpool_ticket *unsent = submit_number(pool, insert, 310);
    is_int(pqpool_close(pool, 1000 * tap_slowness()), PQPOOL_OK, "close waits for what is running");
    ok(pqpool_ticket_done(running) && pqpool_ticket_done(unsent), "all tickets are done then");
    ok(fetch_is(running, ""), "the running one has its answer");
    fetch_fails(unsent, PQPOOL_ECLOSED, PQPOOL_NOT_SENT, "what stood in the queue is ECLOSED, NOT_SENT");
    is_int(effects(310), 0, "B9: and has not run");
    is_int(pqpool_free(pool), PQPOOL_OK, "the pool can be freed");

    /* Abandoned ones keep the pool only as long as the server takes. */
    pool = open_pool(ONE_LANE, NULL);
    pqpool_abandon(submit_sql(pool, "select pg_sleep(0.1)"));
    is_int(pqpool_close(pool, 2000 * tap_slowness()), PQPOOL_OK, "close waits for what was given up, too");
    is_int(pqpool_free(pool), PQPOOL_OK, "and nothing is in the way of freeing the pool");

    pool = open_pool(ONE_LANE, NULL);
    pqpool_abandon(block(pool));
    is_int(pqpool_close(pool, 0), PQPOOL_ETIMEDOUT, "close cuts what was given up and still runs");
    is_int(pqpool_free(pool), PQPOOL_OK, "which keeps nobody from freeing the pool");
    unlock_gate(); /* the server process would wait for it, its client gone */
}

static void *close_main(void *pool)
{
    pqpool_close(pool, 0);
    return NULL;
}

static void closed_while_waiting(void)
{
    pqpool *pool = open_pool(NARROW, NULL);
    waiting running = {.ticket = block(pool)};
    waiting unsent = {.ticket = submit_number(pool, insert, 320)};
    waiting *both[] = {&running, &unsent};
    pqpool_error err;
    pthread_t closer;
    for (int i = 0; i < 2; i++) {
        pthread_barrier_init(&both[i]->begins, NULL, 2);
        if (pthread_create(&both[i]->thread, NULL, wait_main, both[i]) != 0)
            bail("pthread_create");
        pthread_barrier_wait(&both[i]->begins);
        if (!eventually(!pqpool_wait(both[i]->ticket, 0, &err) && err.code == PQPOOL_EBUSY))
            bail("a thread does not wait");
    }
    pthread_create(&closer, NULL, close_main, pool);
    for (int i = 0; i < 2; i++) {
        pthread_join(both[i]->thread, NULL);
        pthread_barrier_destroy(&both[i]->begins);
    }
    pthread_join(closer, NULL);
    ok(!running.result && running.err.code == PQPOOL_ELOST && running.err.outcome == PQPOOL_UNKNOWN,
       "a thread that waits for a running statement is told when the pool is closed");
    ok(!unsent.result && unsent.err.code == PQPOOL_ECLOSED && unsent.err.outcome == PQPOOL_NOT_SENT,
       "so is one that waits for one that was not sent");
    is_int(pqpool_free(pool), PQPOOL_OK, "and the pool can be freed");
    unlock_gate();
}

/* ---- the server process is ended ---- */

static void terminated(void)
{
    static const struct {
        unsigned flags;
        const char *name;
    } kinds[] = {{0, "plain"}, {PQPOOL_READ_ONLY, "READ_ONLY"}, {PQPOOL_IDEMPOTENT, "IDEMPOTENT"}};
    for (int i = 0; i < 3; i++) {
        if (!eventually(backends(ctl, APP) ==
                        0)) /* those of the pools before may still be on their way out */
            bail("a server process of an earlier pool stays");
        pqpool *pool = open_pool(ONE_LANE, NULL);
        lock_gate();
        pqpool_ticket *head =
            submit_stmt(pool, &(pqpool_stmt){PQPOOL_STMT, .sql = "select count(*) from ticket_gate",
                                             .flags = kinds[i].flags});
        pid_t pid = backend_of(ctl, APP);
        if (!eventually(waits_for(ctl, pid, "Lock")))
            bail("the head does not wait for its lock");
        pqpool_ticket *behind = submit_number(pool, insert, 400 + i);
        terminate(ctl, pid);
        if (kinds[i].flags)
            ok(eventually(!gone(ctl, pid) || backends(ctl, APP) == 1), "its connection is lost");
        else
            ok(eventually(pqpool_ticket_done(head)),
               "B10: a ticket whose connection is lost ends, though nobody waits");
        unlock_gate();
        if (kinds[i].flags)
            ok(fetch_is(head, "0"), "B10: a %s ticket is run again", kinds[i].name);
        else
            fetch_fails(head, PQPOOL_ELOST, PQPOOL_UNKNOWN, "B10: a plain one is UNKNOWN");
        PQclear(pqpool_wait(behind, -1, NULL));
        is_int(effects(400 + i), 1, "B10: what stood behind it runs elsewhere, once");
        pool_ends(pool);
    }
}

int main(void)
{
    tap_begin(60);
    ctl = control();
    locker = control();
    one(ctl, "drop table if exists ticket_gate, ticket_effect");
    one(ctl, "create table ticket_gate (id int)");
    one(ctl, "create table ticket_effect (id int)");
    pqpool *pool = open_pool(ONE_LANE, NULL);
    one_after_the_other(pool);
    wrong_calls(pool);
    others_wait(pool);
    races(pool);
    a_thousand(pool);
    pool_ends(pool);
    pool = open_pool(NARROW, NULL);
    copied(pool);
    abandoned(pool);
    pool_ends(pool);
    abandoned_in_the_queue();
    abandoned_between_connections();
    unattended();
    unattended_unsent();
    no_queue();
    holds_nothing();
    closed_at_once();
    closed_in_time();
    closed_while_waiting();
    ok(eventually(backends(ctl, APP) == 0), "nor those that were closed with tickets out");
    terminated();
    one(ctl, "drop table ticket_gate, ticket_effect");
    PQfinish(locker);
    PQfinish(ctl);
    return done_testing();
}
