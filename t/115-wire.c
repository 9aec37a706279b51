/*
 * What goes over the wire, seen by a proxy before the server: how many statements are on their way before the
 * first answer, how many round trips it takes, and that nothing runs twice when connections are cut.
 * PQPOOL_SEED steers the cuts.
 */
#include "support/pg.h"
#include "support/wire.h"

#define APP "wire-test"

static PGconn *ctl;
static wire *proxy;

static pqpool *pool_through_proxy(const char *options)
{
    char conninfo[400];
    snprintf(conninfo, sizeof conninfo, "%s application_name=" APP " %s", wire_conninfo(proxy), options);
    return open_pool(conninfo, NULL);
}

static int64_t all(wire_what what)
{
    return wire_count(proxy, WIRE_ALL, what);
}

/* ---- the proxy itself ---- */

static PGconn *plain_connection(void)
{
    char conninfo[300];
    snprintf(conninfo, sizeof conninfo, "%s application_name=plain", wire_conninfo(proxy));
    PGconn *c = PQconnectdb(conninfo);
    if (PQstatus(c) != CONNECTION_OK)
        bail("through the proxy: %s", PQerrorMessage(c));
    PQsetNoticeProcessor(c, no_notice, NULL);
    return c;
}

static void counts_messages(PGconn *c, int number)
{
    int64_t trips = wire_count(proxy, number, WIRE_ROUND_TRIP);
    const char big_endian[8] = {0, 0, 0, 1, 0, 0, 0, 2}; /* 2^32 + 2 */
    one(c, "select 1");
    PQclear(PQprepare(c, "named", "select $1::int8", 0, NULL));
    PQclear(PQexecPrepared(c, "named", 1, (const char *[]){"4294967298"}, NULL, NULL, 0));
    PQclear(PQexecPrepared(c, "named", 1, (const char *[]){big_endian}, (int[]){8}, (int[]){1}, 0));
    PQclear(PQexecParams(c, "select 1/0", 0, NULL, NULL, NULL, NULL, 0));
    is_int(wire_count(proxy, number, WIRE_QUERY), 1, "the proxy counts Query");
    is_int(wire_count(proxy, number, WIRE_PARSE), 2, "and Parse");
    is_int(wire_count(proxy, number, WIRE_PARSE_NAMED), 1, "and which of them name the statement");
    is_int(wire_count(proxy, number, WIRE_BIND), 3, "and Bind");
    is_int(wire_count(proxy, number, WIRE_EXECUTE), 3, "and Execute");
    is_int(wire_count(proxy, number, WIRE_SYNC), 4, "and Sync");
    is_int(wire_count(proxy, number, WIRE_PARSE_COMPLETE), 2, "and of the server ParseComplete");
    is_int(wire_count(proxy, number, WIRE_ERROR), 1, "and ErrorResponse");
    is_int(wire_count(proxy, number, WIRE_READY), 6, "and ReadyForQuery, the first one too");
    is_int(wire_count(proxy, number, WIRE_ROUND_TRIP) - trips, 5, "five calls are five round trips");
    is_int(wire_seen_number(proxy, 4294967298), 2, "it knows a parameter as text and in binary");
    is_int(wire_seen(proxy, "4294967297"), 0, "and knows which it has not seen");
}

static void logs_messages(size_t from)
{
    const struct {
        wire_direction direction;
        char type;
        const char *name, *text;
    } want[] = {{WIRE_FROM_CLIENT, 'P', "", "select $1::text"},
                {WIRE_FROM_CLIENT, 'B', "", "x"},
                {WIRE_FROM_CLIENT, 'D', "", "P"},
                {WIRE_FROM_CLIENT, 'E', "", NULL},
                {WIRE_FROM_CLIENT, 'S', NULL, NULL},
                {WIRE_FROM_SERVER, '1', NULL, NULL},
                {WIRE_FROM_SERVER, '2', NULL, NULL},
                {WIRE_FROM_SERVER, 'T', NULL, NULL},
                {WIRE_FROM_SERVER, 'D', NULL, NULL},
                {WIRE_FROM_SERVER, 'C', NULL, "SELECT 1"},
                {WIRE_FROM_SERVER, 'Z', NULL, "I"}};
    const size_t n = sizeof want / sizeof want[0];
    size_t right = 0;
    for (; right < n && from + right < wire_events(proxy); right++) {
        wire_event e = wire_event_at(proxy, from + right);
        if (e.direction != want[right].direction || e.type != want[right].type ||
            strcmp(e.name ? e.name : "-", want[right].name ? want[right].name : "-") != 0 ||
            strcmp(e.text ? e.text : "-", want[right].text ? want[right].text : "-") != 0)
            break;
    }
    is_int(right, n, "it keeps the messages of both sides, in their order");
    is_int(wire_events(proxy), from + n, "and no others");
}

/* A connection that is cut under a statement of libpq's. */
static void cuts(wire_direction direction, int64_t bytes, wire_ending how, const char *name)
{
    PGconn *c = plain_connection();
    int number = (int)all(WIRE_ACCEPTED);
    int64_t ready = wire_count(proxy, number, WIRE_READY);
    wire_cut(proxy, number, direction, bytes, how);
    PGresult *res = PQexec(c, "select repeat('x', 100000)");
    ok(PQresultStatus(res) == PGRES_FATAL_ERROR && PQstatus(c) == CONNECTION_BAD, "it cuts %s", name);
    is_int(wire_count(proxy, number, WIRE_READY), ready, "and the answer does not get through");
    is_int(wire_count(proxy, number, WIRE_CUT), 1, "once");
    PQclear(res);
    PQfinish(c);
}

/* The whole of a statement less so many bytes; returns how many rows it has inserted. */
static int rows_of_the_first_bytes(int less)
{
    static const char sql[] = "insert into bytes values (1)";
    const int header = 5;
    PGconn *c = plain_connection();
    one(ctl, "create table bytes (n int)");
    wire_cut(proxy, (int)all(WIRE_ACCEPTED), WIRE_FROM_CLIENT, header + (int)sizeof sql - less, WIRE_FIN);
    PQclear(PQexec(c, sql));
    PQfinish(c);
    if (!eventually(backends(ctl, "plain") == 0))
        bail("a session that was cut does not end");
    int rows = atoi(one(ctl, "select count(*) from bytes"));
    one(ctl, "drop table bytes");
    return rows;
}

static void the_proxy(void)
{
    PGconn *c = plain_connection();
    counts_messages(c, (int)all(WIRE_ACCEPTED));
    size_t from = wire_events(proxy);
    PQclear(PQexecParams(c, "select $1::text", 1, NULL, (const char *[]){"x"}, NULL, NULL, 0));
    logs_messages(from);

    double began = now_s();
    wire_set_delay(proxy, 20);
    one(c, "select 1");
    wire_set_delay(proxy, 0);
    ok(now_s() - began >= 0.04, "it delays, each way");
    PQfinish(c);

    cuts(WIRE_FROM_CLIENT, 10, WIRE_RST, "in the middle of a statement, by a reset");
    cuts(WIRE_FROM_CLIENT, 10, WIRE_FIN, "in the middle of a statement, by an end");
    cuts(WIRE_FROM_SERVER, 50000, WIRE_RST, "in the middle of an answer, by a reset");
    cuts(WIRE_FROM_SERVER, 50000, WIRE_FIN, "in the middle of an answer, by an end");
    cuts(WIRE_FROM_SERVER, 0, WIRE_FIN, "at once");
    ok(eventually(backends(ctl, "plain") == 0), "and the server hears of it each time");
    is_int(rows_of_the_first_bytes(1), 0,
           "it cuts to the byte: all but the last, and the server has nothing");
    is_int(rows_of_the_first_bytes(0), 1, "with the last byte, it has the statement");
}

/* ---- what is on the wire before the first answer ---- */

/* The statements that the client has sent in a part of the log. */
typedef struct sent {
    int binds, units, replies; /* a unit: Bind, Execute and Sync, with no other statement's in between */
    int connection;            /* the one of all of them; -1: there are several */
} sent;

static sent sent_since(size_t from)
{
    sent s = {0};
    char expected = 'B';
    for (size_t i = from, n = wire_events(proxy); i < n; i++) {
        wire_event e = wire_event_at(proxy, i);
        s.replies += e.direction == WIRE_FROM_SERVER;
        if (e.direction == WIRE_FROM_SERVER || !strchr("BES", e.type))
            continue;
        s.binds += e.type == 'B';
        s.connection = s.connection == 0 || s.connection == e.connection ? e.connection : -1;
        s.units += e.type == 'S' && expected == 'S';
        /* what is out of its turn spoils its unit, and a Sync ends it all the same */
        if (e.type == 'S')
            expected = 'B';
        else
            expected = e.type != expected ? '?' : e.type == 'B' ? 'E' : 'S';
    }
    return s;
}

static int warm_up(pqpool *pool)
{
    pqpool_error err;
    size_t from = wire_events(proxy);
    PGresult *res =
        pqpool_exec_params(pool, "select $1::text", 1, NULL, (const char *[]){"warm"}, NULL, NULL, 0, &err);
    if (strcmp(value(res), "warm") != 0)
        bail("the first statement: %s", err.message);
    PQclear(res);
    return sent_since(from).connection;
}

enum { CALLERS = 8, MEMBERS = 5 };

typedef struct held {
    pqpool *pool;
    _Atomic int over, right;
} held;

static void ask(int i, void *arg)
{
    held *h = arg;
    char nonce[24];
    pqpool_error err;
    snprintf(nonce, sizeof nonce, "caller %d", i);
    PGresult *res =
        pqpool_exec_params(h->pool, "select $1::text", 1, NULL, (const char *[]){nonce}, NULL, NULL, 0, &err);
    h->over++;
    h->right += strcmp(value(res), nonce) == 0;
    PQclear(res);
}

static void ask_all(int i, void *arg)
{
    held *h = arg;
    char nonces[MEMBERS][24];
    const char *values[MEMBERS];
    pqpool_stmt stmts[MEMBERS];
    PGresult *results[MEMBERS];
    (void)i;
    for (int k = 0; k < MEMBERS; k++) {
        snprintf(nonces[k], sizeof nonces[k], "member %d", k);
        values[k] = nonces[k];
        stmts[k] =
            (pqpool_stmt){PQPOOL_STMT, .sql = "select $1::text", .n_params = 1, .param_values = &values[k]};
    }
    pqpool_code code = pqpool_exec_all(h->pool, stmts, MEMBERS, PQPOOL_EACH, results, NULL);
    h->over++;
    for (int k = 0; k < MEMBERS; k++) {
        h->right += code == PQPOOL_OK && strcmp(value(results[k]), nonces[k]) == 0;
        PQclear(results[k]);
    }
}

/* What has been sent as soon as that is n whole statements, or when no more come. */
static sent await_units(size_t from, int n)
{
    for (;;) {
        int64_t syncs = all(WIRE_SYNC);
        sent s = sent_since(from);
        if (s.units >= n || !wire_await(proxy, WIRE_ALL, WIRE_SYNC, syncs + 1))
            return s;
    }
}

/* n statements, by so many threads, while no answer gets through. */
static void before_the_first_reply(pqpool *pool, int shared, int threads, void (*work)(int, void *), int n,
                                   const char *name)
{
    held h = {.pool = pool};
    crew c;
    size_t from = wire_events(proxy);
    wire_hold(proxy);
    crew_start(&c, threads, work, &h);
    sent s = await_units(from, n);
    int over = h.over;
    wire_let_go(proxy);
    crew_join(&c);
    if (!ok(s.binds == n && s.units == n, "%s", name))
        diag("%d Binds, %d whole statements", s.binds, s.units);
    is_int(s.replies, 0, "until then no byte of an answer has come back");
    is_int(over, 0, "and no caller has returned");
    is_int(s.connection, shared, "all are on the one shared connection");
    is_int(h.right, n, "and then each has its own answer");
    is_int(sent_since(from).binds, n, "and no statement was sent but these");
}

static void on_the_wire(void)
{
    pqpool *pool = pool_through_proxy("pool_shared_max=1");
    int shared = warm_up(pool);
    before_the_first_reply(
        pool, shared, CALLERS, ask, CALLERS,
        "B1: k statements of k threads are on the wire before the first reply, and each has its own Sync");
    before_the_first_reply(
        pool, shared, 1, ask_all, MEMBERS,
        "B1: n statements of a group are on the wire before the first reply, and each has its own Sync");
    close_pool(pool);
}

/* ---- round trips ---- */

/* A request: rounds of statements, each of which needs what the one before has brought. */
static const struct request {
    const char *name;
    int rounds[4], trips, statements;
} requests[] = {
    {"1 + 3", {1, 3}, 2, 4},
    {"1 + 5", {1, 5}, 2, 6},
    {"1 + 5 + 1 + 5", {1, 5, 1, 5}, 4, 12},
};

static int64_t ask_for_articles(pqpool *pool, const char *of)
{
    pqpool_error err;
    PGresult *res =
        pqpool_exec_params(pool, "select $1::int + 1", 1, NULL, (const char *[]){of}, NULL, NULL, 0, &err);
    int64_t page = err.code == PQPOOL_OK ? atoll(value(res)) : -1;
    PQclear(res);
    return page;
}

/* Returns how many of the statements had the right answer. */
static int ask_for_likes(pqpool *pool, int64_t page, int n)
{
    char number[24];
    const char *const values[] = {number};
    pqpool_stmt stmts[MEMBERS];
    PGresult *results[MEMBERS];
    int right = 0;
    snprintf(number, sizeof number, "%lld", (long long)page);
    for (int k = 0; k < n; k++)
        stmts[k] =
            (pqpool_stmt){PQPOOL_STMT, .sql = "select $1::int * 2", .n_params = 1, .param_values = values};
    pqpool_code code = pqpool_exec_all(pool, stmts, n, PQPOOL_EACH, results, NULL);
    for (int k = 0; k < n; k++) {
        right += code == PQPOOL_OK && atoll(value(results[k])) == page * 2;
        PQclear(results[k]);
    }
    return right;
}

static int run_request(pqpool *pool, const struct request *r)
{
    int64_t page = 41;
    int right = 0;
    for (int i = 0; i < 4 && r->rounds[i] > 0; i++)
        if (r->rounds[i] == 1) {
            char of[24];
            snprintf(of, sizeof of, "%lld", (long long)page);
            int64_t next = ask_for_articles(pool, of);
            right += next == page + 1;
            page = next;
        } else {
            right += ask_for_likes(pool, page, r->rounds[i]);
        }
    return right;
}

/* The delay is what a network is: without it the first of a group could be answered before the last is sent,
 * and would be seen as one round trip more though nobody waited for it. */
static void round_trips(void)
{
    const int one_way_ms = tap_slowness() > 1 ? 200 : 50;
    const int n = sizeof requests / sizeof requests[0];
    pqpool *pool = pool_through_proxy("pool_shared_max=1");
    int shared = warm_up(pool), fine = 0, right = 0, statements = 0;
    size_t from = wire_events(proxy);
    wire_set_delay(proxy, one_way_ms);
    for (const struct request *r = requests; r < requests + n; r++) {
        int64_t trips = wire_count(proxy, shared, WIRE_ROUND_TRIP);
        double began = now_s();
        right += run_request(pool, r);
        double took = now_s() - began;
        trips = wire_count(proxy, shared, WIRE_ROUND_TRIP) - trips;
        statements += r->statements;
        fine += trips == r->trips;
        diag("%s statements: %lld round trips, %.2f times the network's own", r->name, (long long)trips,
             took * 1000 / (2 * one_way_ms));
    }
    wire_set_delay(proxy, 0);
    sent s = sent_since(from);
    is_int(fine, n,
           "B2: the article request's 1 + 3, 1 + 5 statements take two wire round trips, the long form "
           "1 + 5 + 1 + 5 four");
    is_int(right, statements, "with the right answers");
    is_int(s.units, statements, "each statement has its own Sync");
    is_int(s.connection, shared, "all on the one shared connection");
    close_pool(pool);
}

/* ---- cuts ---- */

enum { WRITERS = 16, EACH = 500, PLANNED = 2000, TERMINATIONS = 15 };

/* What the caller was told of a nonce, and what the table and the wire say. */
typedef struct fate {
    int32_t code, outcome;
    int rows;
    int sent; /* whole, with its Sync, and not proven by the server's words to have done nothing */
} fate;

typedef struct writers {
    pqpool *pool;
    int each;
    fate fates[WRITERS * EACH];
} writers;

static const char insert[] = "insert into wire_log(nonce) values ($1)";
static const char failing_insert[] =
    "insert into wire_log(nonce) select $1 where 1 / (length($1) - length($1)) = 1";

static bool is_to_fail(int nonce)
{
    return nonce % 16 == 5;
}

static void write_nonces(int i, void *arg)
{
    writers *w = arg;
    for (int k = 0; k < w->each; k++) {
        int nonce = i * w->each + k;
        char text[24];
        pqpool_error err;
        snprintf(text, sizeof text, "n%d", nonce);
        PQclear(pqpool_exec_params(w->pool, is_to_fail(nonce) ? failing_insert : insert, 1, NULL,
                                   (const char *[]){text}, NULL, NULL, 0, &err));
        w->fates[nonce].code = err.code;
        w->fates[nonce].outcome = err.outcome;
    }
}

static uint64_t draw(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* Every connection to come gets its end: after how many bytes, of which side, and how. Some never come up. */
static void plan_cuts(uint64_t seed)
{
    int next = (int)all(WIRE_ACCEPTED) + 1;
    for (int number = next; number < next + PLANNED; number++) {
        wire_direction direction = draw(&seed) % 2 ? WIRE_FROM_CLIENT : WIRE_FROM_SERVER;
        wire_ending how = draw(&seed) % 2 ? WIRE_RST : WIRE_FIN;
        int64_t bytes = draw(&seed) % 8 == 0 ? draw(&seed) % 1000 : 1000 + draw(&seed) % 12000;
        wire_cut(proxy, number, direction, bytes, how);
    }
}

/* The number behind the n of a nonce; -1: it is none of ours. */
static int nonce_of(const char *text, int n)
{
    int nonce = text && *text == 'n' ? atoi(text + 1) : -1;
    return nonce < n ? nonce : -1;
}

static void read_table(fate *fates, int n)
{
    PGresult *res = PQexec(ctl, "select nonce, count(*) from wire_log group by nonce");
    if (PQresultStatus(res) != PGRES_TUPLES_OK)
        bail("wire_log: %s", PQerrorMessage(ctl));
    for (int i = 0; i < PQntuples(res); i++) {
        int nonce = nonce_of(PQgetvalue(res, i, 0), n);
        if (nonce < 0)
            bail("a nonce nobody has written: %s", PQgetvalue(res, i, 0));
        fates[nonce].rows = atoi(PQgetvalue(res, i, 1));
    }
    PQclear(res);
}

/* What a connection of the log is about to have answered: one entry per Sync, Query or start-up. */
typedef struct queue {
    int bound;    /* the nonce of the unit that is being sent, -1: none */
    bool refused; /* the first */
    bool over;    /* the server process was terminated: nothing behind the first will run */
    size_t first, n, room;
    int *units;
} queue;

static void push_unit(queue *q)
{
    if (q->n == q->room) {
        q->room = q->room ? 2 * q->room : 64;
        q->units = realloc(q->units, q->room * sizeof *q->units);
        if (!q->units)
            bail("out of memory");
    }
    q->units[q->n++] = q->bound;
    q->bound = -1;
}

static void note_sent(queue *q, fate *fates)
{
    if (q->bound >= 0 && !q->over)
        fates[q->bound].sent++;
    push_unit(q);
}

static void note_error(queue *q, const char *sqlstate, fate *fates)
{
    q->refused = true;
    if (!sqlstate || strcmp(sqlstate, "57P01") != 0)
        return;
    q->over = true;
    for (size_t i = q->first + 1; i < q->n; i++)
        if (q->units[i] >= 0)
            fates[q->units[i]].sent--;
}

static void note_ready(queue *q, fate *fates)
{
    if (q->first == q->n)
        return;
    int nonce = q->units[q->first++];
    if (nonce >= 0 && q->refused)
        fates[nonce].sent--;
    q->refused = false;
}

static void follow(queue *q, const wire_event *e, fate *fates, int n)
{
    bool client = e->direction == WIRE_FROM_CLIENT;
    if (client && e->type == 'B')
        q->bound = nonce_of(e->text, n);
    else if (client && strchr("SQ^", e->type))
        note_sent(q, fates);
    else if (!client && e->type == 'E')
        note_error(q, e->text, fates);
    else if (!client && e->type == 'Z')
        note_ready(q, fates);
}

static void read_wire(size_t from, fate *fates, int n)
{
    int connections = (int)all(WIRE_ACCEPTED) + 1;
    queue *queues = calloc((size_t)connections, sizeof *queues);
    for (int i = 0; i < connections; i++)
        queues[i].bound = -1;
    for (size_t i = from, end = wire_events(proxy); i < end; i++) {
        wire_event e = wire_event_at(proxy, i);
        follow(&queues[e.connection], &e, fates, n);
    }
    for (int i = 0; i < connections; i++)
        free(queues[i].units);
    free(queues);
}

static bool is_true(const fate *f, bool to_fail)
{
    if (f->code == PQPOOL_OK)
        return f->rows == 1 && !to_fail;
    if (f->outcome == PQPOOL_UNKNOWN)
        return f->rows <= 1;
    return f->rows == 0; /* the server refused it, or it has not run */
}

static void judge(const writers *w, size_t from)
{
    int n = WRITERS * w->each, untrue = 0, twice = 0, sent_twice = 0, bound_twice = 0;
    int ok_n = 0, unknown = 0, refused = 0, not_run = 0, unseen = 0, cuts_n = (int)all(WIRE_CUT);
    for (int i = 0; i < n; i++) {
        const fate *f = &w->fates[i];
        char text[24];
        snprintf(text, sizeof text, "n%d", i);
        int seen = wire_seen(proxy, text);
        if (!is_true(f, is_to_fail(i)) && untrue++ < 5)
            diag("nonce %d: %s, outcome %d, %d rows, %d times on the wire", i,
                 pqpool_code_name((pqpool_code)f->code), f->outcome, f->rows, seen);
        twice += f->rows > 1;
        sent_twice += f->sent > 1;
        bound_twice += seen > 1;
        unseen += f->code == PQPOOL_OK && seen == 0;
        ok_n += f->code == PQPOOL_OK;
        refused += f->code == PQPOOL_ESERVER;
        unknown += f->outcome == PQPOOL_UNKNOWN;
        not_run += f->outcome == PQPOOL_NOT_SENT || f->outcome == PQPOOL_NOT_RUN;
    }
    diag("%d connections were cut and %d terminated under %d statements in %zu messages: %d OK, %d refused "
         "by the server, %d not run, %d UNKNOWN (%.1f %%); %d nonces were twice on the wire",
         cuts_n, TERMINATIONS, n, wire_events(proxy) - from, ok_n, refused, not_run, unknown,
         100.0 * unknown / n, bound_twice);
    ok(cuts_n >= 20 / tap_slowness() && ok_n > 0 && refused > 0 && unknown > 0 && bound_twice > 0,
       "connections were cut, and statements met every fate; some were repeated");
    ok(unknown <= (cuts_n + TERMINATIONS) * WRITERS, "B10: only what was in flight is UNKNOWN");
    is_int(twice, 0, "B10: no statement has run twice");
    is_int(untrue, 0,
           "B10: OK is one row, a statement that was refused or not run none, an UNKNOWN one at most one");
    is_int(sent_twice, 0,
           "B10: what was sent whole, with its Sync, is not sent again unless the server's words prove that "
           "it did nothing");
    is_int(unseen, 0, "each that is OK was seen on the wire");
}

/* Server processes are terminated too: that proves of some statements that they have not run, and these the
 * library sends again. */
static void terminate_some(int statements)
{
    int64_t syncs = all(WIRE_SYNC);
    for (int i = 1; i <= TERMINATIONS; i++) {
        if (!wire_await(proxy, WIRE_ALL, WIRE_SYNC, syncs + (int64_t)statements * i / (2 * TERMINATIONS)))
            bail("the statements do not go on");
        one(ctl, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = '" APP "' "
                 "order by query_start desc nulls last limit 1");
    }
}

static void nothing_twice(uint64_t seed)
{
    static writers w;
    diag("PQPOOL_SEED=%llu", (unsigned long long)seed);
    one(ctl, "create table wire_log (nonce text)");
    w.each = EACH / tap_slowness();
    w.pool = pool_through_proxy("pool_shared_max=3 pool_acquire_timeout=60s pool_log_level=error");
    plan_cuts(seed);
    size_t from = wire_events(proxy);
    crew c;
    crew_start(&c, WRITERS, write_nonces, &w);
    terminate_some(WRITERS * w.each);
    crew_join(&c);
    close_pool(w.pool);
    /* what was on its way when a connection was cut may still be at work */
    ok(eventually(backends(ctl, APP) == 0), "the server ends the sessions that were cut");
    read_table(w.fates, WRITERS * w.each);
    read_wire(from, w.fates, WRITERS * w.each);
    judge(&w, from);
    one(ctl, "drop table wire_log");
}

int main(void)
{
    const char *seed = getenv("PQPOOL_SEED");
    tap_begin(120);
    ctl = control();
    proxy = wire_start(ctl);
    if (!proxy)
        bail("the proxy: %s", strerror(errno));
    the_proxy();
    on_the_wire();
    round_trips();
    nothing_twice(seed ? strtoull(seed, NULL, 10) : 1);
    wire_stop(proxy);
    PQfinish(ctl);
    return done_testing();
}
