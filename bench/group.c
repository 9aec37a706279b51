/*
 * group: the parallel statements of one request, as one group on one shared connection, and on as many leased
 * connections as there are statements, each with a thread that is there already.
 *
 *     group [--seconds S] [--warm-up S]
 *
 * The members are point reads, or take about 1 ms of the server's time each. One backend runs a group's members one
 * after another: so a group can take as long as one member and the server's time of the others, and where members take
 * long, parallel connections are faster on more than one processor. The server's time is that of a member among many
 * that are sent together, without the round trip; under bench/with-delay too.
 */
#include "bench.h"

enum { MOST_MEMBERS = 5, FEWEST_ROUNDS = 5, MOST_ROUNDS = 5000, TOGETHER = 100, ROWS = 1000000 };

typedef enum { CHEAP, DEAR } weight;

static const char *const names[] = {"point reads", "members of about 1 ms"};
static char dear_text[100];
static const char *texts[] = {"SELECT abalance FROM pgbench_accounts WHERE aid = $1", dear_text};

static double seconds = 1, warm_up = 0.1;
static pqpool *sharing, *leasing;

/* ---- a statement ---- */

typedef struct member {
    weight w;
    int key;
    char text[12];
    const char *values[1];
} member;

/* The dear one takes a number too, so that both look alike. */
static void draw(member *m, weight w)
{
    static unsigned seed = 1;
    seed = seed * 1664525u + 1013904223u;
    *m = (member){.w = w, .key = (int)(seed >> 8) % ROWS + 1};
    snprintf(m->text, sizeof m->text, "%d", m->key);
    m->values[0] = m->text;
}

static void check(const member *m, const PGresult *res, const char *why)
{
    must(PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1, "%s: %s%s", texts[m->w],
         PQresultErrorMessage(res), why);
    long got = atol(PQgetvalue(res, 0, 0));
    must(got == (m->w == CHEAP ? (long)m->key * 7919 % 100003 : m->key), "%s for %d: %ld", texts[m->w],
         m->key, got);
}

static void bind(const member *m, pqpool_stmt *stmt)
{
    *stmt = (pqpool_stmt){PQPOOL_STMT, .sql = texts[m->w], .n_params = 1, .param_values = m->values};
}

/* ---- the server's time ---- */

static void prepare(PGconn *conn)
{
    static const char *const statement_names[] = {"cheap", "dear"};
    for (weight w = CHEAP; w <= DEAR; w++) {
        PGresult *res = PQprepare(conn, statement_names[w], texts[w], 0, NULL);
        must(PQresultStatus(res) == PGRES_COMMAND_OK, "%s: %s", texts[w], PQerrorMessage(conn));
        PQclear(res);
    }
}

static PGresult *execute(PGconn *conn, const member *m)
{
    return PQexecPrepared(conn, m->w == CHEAP ? "cheap" : "dear", 1, m->values, NULL, NULL, 0);
}

static void set_dear(int rows)
{
    snprintf(dear_text, sizeof dear_text, "SELECT max(i) - %d + $1::int FROM generate_series(1, %d) AS i",
             rows, rows);
}

/* Without the delay, if there is one. */
static PGconn *near(void)
{
    const char *host = getenv("BENCH_NEAR_HOST"), *port = getenv("BENCH_NEAR_PORT");
    const char *keywords[] = {"application_name", "host", "port", NULL},
               *values[] = {"near", host, port, NULL};
    PGconn *conn = PQconnectdbParams(keywords, values, 0);
    must(PQstatus(conn) == CONNECTION_OK, "%s", PQerrorMessage(conn));
    return conn;
}

static void send_together(PGconn *conn, const member *members, int n)
{
    for (int i = 0; i < n; i++)
        must(PQsendQueryPrepared(conn, members[i].w == CHEAP ? "cheap" : "dear", 1, members[i].values, NULL,
                                 NULL, 0) == 1,
             "%s", PQerrorMessage(conn));
    must(PQpipelineSync(conn) == 1, "%s", PQerrorMessage(conn));
}

/* Seconds for each of n statements that are sent together. */
static double together(PGconn *conn, weight w, int n)
{
    member members[TOGETHER];
    for (int i = 0; i < n; i++)
        draw(&members[i], w);
    must(PQenterPipelineMode(conn) == 1, "%s", PQerrorMessage(conn));
    double began = now_s();
    send_together(conn, members, n);
    for (int i = 0; i < n; i++) {
        PGresult *res = PQgetResult(conn);
        check(&members[i], res, "");
        PQclear(res);
        must(!PQgetResult(conn), "more than one result");
    }
    PGresult *sync = PQgetResult(conn);
    double took = now_s() - began;
    must(PQresultStatus(sync) == PGRES_PIPELINE_SYNC && PQexitPipelineMode(conn) == 1, "%s",
         PQerrorMessage(conn));
    PQclear(sync);
    return took / n;
}

static double server_time(PGconn *conn, weight w)
{
    enum { TIMES = 9 };
    double took[TIMES];
    for (int i = 0; i < TIMES; i++)
        took[i] = together(conn, w, w == CHEAP ? TOGETHER : 10);
    return median(took, TIMES);
}

/* So many rows that it takes about a millisecond here. */
static void choose_dear(void)
{
    PGconn *conn = near();
    set_dear(10000);
    prepare(conn);
    double ms = server_time(conn, DEAR) * 1e3;
    set_dear((int)(10000 / ms));
    PQfinish(conn);
}

/* ---- the ways ---- */

static void one(member *m, int n)
{
    pqpool_error err;
    pqpool_stmt stmt;
    (void)n;
    bind(&m[0], &stmt);
    PGresult *res = pqpool_exec_stmt(sharing, &stmt, &err);
    check(&m[0], res, err.message);
    PQclear(res);
}

static void group(member *m, int n)
{
    pqpool_stmt stmts[MOST_MEMBERS] = {{PQPOOL_STMT}};
    PGresult *results[MOST_MEMBERS];
    pqpool_error errors[MOST_MEMBERS];
    for (int i = 0; i < n; i++)
        bind(&m[i], &stmts[i]);
    must(pqpool_exec_all(sharing, stmts, n, PQPOOL_EACH, results, errors) == PQPOOL_OK,
         "a member has failed");
    for (int i = 0; i < n; i++) {
        check(&m[i], results[i], errors[i].message);
        PQclear(results[i]);
    }
}

/* Threads that wait for work, as a service has them; the one that asks does a part itself. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    member *members;
    int n, next, left;
    bool over;
} hands = {
    .lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};

static void by_lease(const member *m)
{
    pqpool_lease lease;
    pqpool_error err;
    must(pqpool_acquire(leasing, &lease, &err) == PQPOOL_OK, "acquire: %s", err.message);
    PGresult *res = execute(lease.conn, m);
    check(m, res, PQerrorMessage(lease.conn));
    PQclear(res);
    must(pqpool_release(&lease) == PQPOOL_OK, "release");
}

static void *lend_a_hand(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&hands.lock);
    for (;;) {
        while (!hands.over && hands.next == hands.n)
            pthread_cond_wait(&hands.work, &hands.lock);
        if (hands.over)
            break;
        member *m = &hands.members[hands.next++];
        pthread_mutex_unlock(&hands.lock);
        by_lease(m);
        pthread_mutex_lock(&hands.lock);
        if (--hands.left == 0)
            pthread_cond_signal(&hands.done);
    }
    pthread_mutex_unlock(&hands.lock);
    return NULL;
}

static void parallel(member *m, int n)
{
    pthread_mutex_lock(&hands.lock);
    hands.members = m;
    hands.n = n;
    hands.next = 1;
    hands.left = n - 1;
    for (int i = 1; i < n; i++)
        pthread_cond_signal(&hands.work);
    pthread_mutex_unlock(&hands.lock);
    by_lease(&m[0]);
    pthread_mutex_lock(&hands.lock);
    while (hands.left > 0)
        pthread_cond_wait(&hands.done, &hands.lock);
    pthread_mutex_unlock(&hands.lock);
}

/* ---- a measurement ---- */

typedef enum { ONE, GROUP, PARALLEL, WAYS } way;
static void (*const ways[WAYS])(member *m, int n) = {one, group, parallel};

static double time_way(way by, weight w, int n)
{
    member members[MOST_MEMBERS];
    for (int i = 0; i < n; i++)
        draw(&members[i], w);
    double began = now_s();
    ways[by](members, n);
    return (now_s() - began) * 1e3;
}

/* In turn; fills in the median of each in ms. */
static void time_ways(weight w, int n, int fewest, double of_seconds, double p50[WAYS])
{
    static double took[WAYS][MOST_ROUNDS];
    int rounds = 0;
    for (double end = now_s() + of_seconds; rounds < MOST_ROUNDS && (rounds < fewest || now_s() < end);
         rounds++)
        for (way by = ONE; by < WAYS; by++)
            took[by][rounds] = time_way(by, w, n);
    for (way by = ONE; by < WAYS; by++)
        p50[by] = median(took[by], rounds);
}

static void tell(weight w, int n, const double p50[WAYS], double server_ms)
{
    const char *of = names[w];
    double others = (n - 1) * server_ms, limit = p50[ONE] + 1.1 * others;
    const char *measure = w == CHEAP ? "latency p50" : "latency p50, members of about 1 ms";
    sample(p50[ONE], "ms", NULL, "one, beside %d | %s", n, measure);
    sample(p50[GROUP], "ms", NULL, "group of %d | %s", n, measure);
    sample(p50[PARALLEL], "ms", NULL, "%d leased in parallel | %s", n, measure);
    sample(p50[GROUP] / limit, "ratio", "median <= 1",
           "group of %d %s : one + 1.1 x server time of the others", n, of);
    if (server_ms <= 0.03)
        sample(p50[GROUP] / p50[PARALLEL], "ratio", "median <= 1", "group of %d %s : %d leased connections",
               n, of, n);
    else
        sample(p50[GROUP] / (p50[PARALLEL] + 1.1 * others), "ratio", "median <= 1",
               "group of %d %s : %d leased connections + 1.1 x server time of the others", n, of, n);
}

static int prepare_hook(PGconn *conn, void *arg)
{
    (void)arg;
    prepare(conn);
    return 0;
}

static void start_hands(pthread_t *threads)
{
    for (int i = 0; i < MOST_MEMBERS - 1; i++)
        must(pthread_create(&threads[i], NULL, lend_a_hand, NULL) == 0, "pthread_create");
}

static void stop_hands(pthread_t *threads)
{
    pthread_mutex_lock(&hands.lock);
    hands.over = true;
    pthread_cond_broadcast(&hands.work);
    pthread_mutex_unlock(&hands.lock);
    for (int i = 0; i < MOST_MEMBERS - 1; i++)
        pthread_join(threads[i], NULL);
}

static void open_pools(void)
{
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_connect = prepare_hook};
    char options[100];
    /* One connection, whatever a member takes on a busy machine. */
    sharing = open_pool(
        "pool_max_size=2 pool_shared_max=1 pool_slow_lane_threshold=off pool_stall_threshold=off", NULL);
    snprintf(options, sizeof options, "pool_max_size=%d pool_initial_size=%d", MOST_MEMBERS, MOST_MEMBERS);
    leasing = open_pool(options, &hooks);
    for (double end = now_s() + 30; stats(leasing).idle < MOST_MEMBERS; sleep_ms(1))
        must(now_s() < end, "the connections do not come up");
}

static void measure_all(void)
{
    static const int numbers[] = {3, 5};
    PGconn *conn = near();
    prepare(conn);
    for (weight w = CHEAP; w <= DEAR; w++)
        for (int i = 0; i < 2; i++) {
            double p50[WAYS], server_ms = server_time(conn, w) * 1e3;
            time_ways(w, numbers[i], 1, warm_up / 4, p50);
            time_ways(w, numbers[i], FEWEST_ROUNDS, seconds / 4, p50);
            if (i == 0)
                sample(server_ms, "ms", NULL, "server time of one of the %s", names[w]);
            tell(w, numbers[i], p50, server_ms);
        }
    PQfinish(conn);
    must(stats(sharing).connects == 1, "the groups had %d connections", (int)stats(sharing).connects);
}

int main(int argc, char **argv)
{
    pthread_t threads[MOST_MEMBERS];
    for (int i = 1; i < argc; i += 2) {
        must(i + 1 < argc && (strcmp(argv[i], "--seconds") == 0 || strcmp(argv[i], "--warm-up") == 0),
             "usage: group [--seconds S] [--warm-up S]");
        *(argv[i][2] == 's' ? &seconds : &warm_up) = atof(argv[i + 1]);
    }
    choose_dear();
    open_pools();
    start_hands(threads);
    measure_all();
    stop_hands(threads);
    close_pool(sharing);
    close_pool(leasing);
    return 0;
}
