/*
 * load: statements in a closed loop: each caller has one on its way at a time, or one thread so many.
 *
 *     load MANNER [--callers N] [--connections N] [--in-flight N] [--seconds S] [--warm-up S] [--pool "OPTIONS"]
 *                 [--sleepers PERCENT] [--inserts] [--unprepared] [--operations N]
 *
 *     load --libpq      its version at run time
 *
 * raw        no pool: each caller has a connection to himself
 * pipeline   no pool: one thread and one connection, in libpq's pipeline mode, one Sync a statement
 * handloop   no pool: one thread, epoll, so many connections in pipeline mode, a callback for each answer
 * leased     pqpool_acquire(), PQexecPrepared(), pqpool_release()
 * shared     pqpool_exec_params()
 * tickets    one thread: pqpool_submit(), pqpool_wait() for the oldest
 * loop       one thread, epoll on pqpool_fd(): pqpool_submit_cb()
 *
 * The statement reads one row of pgbench_accounts, by a key that is drawn anew each time; every answer is checked.
 * --sleepers: so many of 100 sleep 50 ms instead, and the latencies are those of the others. --inserts: each writes a
 * row of its own, and the rows are counted afterwards. All callers begin together when all connections are up; what
 * ends between the warm-up and the deadline counts. At the end the server must have counted one transaction a
 * statement: nobody may have put two of them before one Sync. --unprepared is for raw behind a pooler in between: the
 * statement goes with its text each time, and as the pooler's connections stay, transactions are not counted.
 *
 * --operations N, with one thread: so many statements, after some to warm up, for callgrind to count.
 */
#include "load.h"

#include "callgrind.h"

#include <math.h>
#include <sys/resource.h>

enum { ROWS = 1000000, MOST_CALLERS = 1024, FINE = 5, CLASSES = 60 << FINE, WARM_UP = 1000 };
#define NAME "bench-load"

const statement statements[KINDS] = {
    {"point", "SELECT abalance FROM pgbench_accounts WHERE aid = $1", 1},
    {"sleep", "SELECT pg_sleep(0.05)", 0},
    {"insert", "INSERT INTO bench_inserts VALUES ($1, $2)", 2},
};

load_settings settings = {.callers = 64, .connections = 1, .in_flight = 64, .seconds = 1, .warm_up = 0.2};

static const manner *const manners[] = {&load_raw,    &load_pipeline, &load_handloop, &load_leased,
                                        &load_shared, &load_tickets,  &load_loop};
enum { N_MANNERS = sizeof manners / sizeof *manners };

static const manner *how;
static caller callers[MOST_CALLERS];
static pthread_barrier_t gate;
static int operations_left;              /* of the one thread */
static int64_t window_begin, window_end; /* set before the callers pass the gate the second time */

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* ---- latencies ---- */

/* Classes get wider with the time: 32 between each power of two and the next. */
static int class_of(int64_t ns)
{
    uint64_t v = (uint64_t)(ns > 0 ? ns : 0);
    if (v < 1u << FINE)
        return (int)v;
    int power = 63 - __builtin_clzll(v);
    return ((power - FINE + 1) << FINE) + (int)(v >> (power - FINE) & ((1u << FINE) - 1));
}

/* The middle of a class. */
static double class_ns(int class)
{
    if (class < 1 << FINE)
        return class;
    int shift = (class >> FINE) - 1;
    return ((double)((class & ((1 << FINE) - 1)) + (1 << FINE)) + 0.5) * pow(2, shift);
}

static double percentile_ms(const uint64_t *classes, uint64_t total, double part)
{
    uint64_t rank = (uint64_t)ceil(part * (double)total), seen = 0;
    for (int i = 0; i < CLASSES; i++) {
        seen += classes[i];
        if (seen >= rank)
            return class_ns(i) / 1e6;
    }
    return 0;
}

/* ---- statements ---- */

static uint64_t draw(caller *c)
{
    c->random ^= c->random << 13;
    c->random ^= c->random >> 7;
    c->random ^= c->random << 17;
    return c->random >> 16;
}

static void count_down(void)
{
    if (operations_left == settings.operations)
        CALLGRIND_START_INSTRUMENTATION;
    if (--operations_left == 0)
        CALLGRIND_STOP_INSTRUMENTATION;
}

void request_make(caller *c, request *r)
{
    if (settings.operations > 0)
        count_down();
    r->kind = settings.inserts ? INSERT : POINT;
    if (settings.sleepers > 0 && draw(c) % 100 < (uint64_t)settings.sleepers)
        r->kind = SLEEP;
    r->key = r->kind == INSERT ? c->number : (int)(draw(c) % ROWS) + 1;
    snprintf(r->text[0], sizeof r->text[0], "%d", r->key);
    snprintf(r->text[1], sizeof r->text[1], "%d", c->sent);
    r->values[0] = r->text[0];
    r->values[1] = r->text[1];
    c->sent++;
    r->began = now_ns();
}

static void check_answer(const request *r, const PGresult *res, const char *why)
{
    if (r->kind == INSERT) {
        must(PQresultStatus(res) == PGRES_COMMAND_OK && strcmp(PQcmdTuples((PGresult *)res), "1") == 0,
             "insert: %s%s", PQresultErrorMessage(res), why);
        return;
    }
    must(PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1, "%s: %s%s", statements[r->kind].sql,
         PQresultErrorMessage(res), why);
    long got = atol(PQgetvalue(res, 0, 0)), expected = (long)r->key * 7919 % 100003;
    must(r->kind != POINT || got == expected, "aid %d has the answer %ld, not %ld", r->key, got, expected);
}

void request_end(caller *c, const request *r, const PGresult *res, const char *why)
{
    int64_t now = now_ns();
    check_answer(r, res, why);
    if (now < window_begin || now >= window_end)
        return;
    c->counted++;
    if (r->kind == SLEEP)
        return;
    int64_t took = now - r->began;
    c->timed++;
    c->classes[class_of(took)]++;
    c->longest = took > c->longest ? took : c->longest;
}

bool caller_may_ask(void)
{
    return settings.operations > 0 ? operations_left > 0 : now_ns() < window_end;
}

PGconn *load_connect(void)
{
    PGconn *conn = PQconnectdb("application_name=" NAME);
    must(PQstatus(conn) == CONNECTION_OK, "%s", PQerrorMessage(conn));
    if (!settings.unprepared)
        load_prepare(conn);
    return conn;
}

void load_prepare(PGconn *conn)
{
    for (kind k = 0; k < KINDS; k++) {
        if ((k == INSERT) != settings.inserts && k != SLEEP) /* the other one's table may not be there */
            continue;
        PGresult *res = PQprepare(conn, statements[k].name, statements[k].sql, 0, NULL);
        must(PQresultStatus(res) == PGRES_COMMAND_OK, "%s: %s", statements[k].sql, PQerrorMessage(conn));
        PQclear(res);
    }
}

/* ---- threads ---- */

static void ask_one_by_one(caller *c)
{
    request r;
    while (caller_may_ask()) {
        const char *why = "";
        request_make(c, &r);
        PGresult *res = how->ask(c, &r, &why);
        request_end(c, &r, res, why);
        PQclear(res);
    }
}

static void *call(void *arg)
{
    caller *c = arg;
    how->enter(c);
    pthread_barrier_wait(&gate);
    pthread_barrier_wait(&gate);
    if (how->ask)
        ask_one_by_one(c);
    else
        how->work(c);
    pthread_barrier_wait(&gate);
    how->leave(c);
    return NULL;
}

static void start_callers(int n)
{
    must(pthread_barrier_init(&gate, NULL, (unsigned)n + 1) == 0, "pthread_barrier_init");
    for (int i = 0; i < n; i++) {
        caller *c = &callers[i];
        c->number = i;
        c->random = 0x9E3779B97F4A7C15u * (uint64_t)(i + 1) ^ (uint64_t)now_ns();
        c->classes = calloc(CLASSES, sizeof *c->classes);
        must(c->classes, "out of memory");
        int rc = pthread_create(&c->thread, NULL, call, c);
        must(rc == 0, "thread %d: %s", i, strerror(rc));
    }
}

static void sleep_until(int64_t at)
{
    struct timespec ts = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
        continue;
}

/* Returns the microseconds of CPU that this process has spent in the window. */
static double run_callers(int n)
{
    start_callers(n);
    pthread_barrier_wait(&gate);
    window_begin = now_ns() + (int64_t)(settings.warm_up * 1e9);
    window_end = settings.operations > 0 ? INT64_MAX : window_begin + (int64_t)(settings.seconds * 1e9);
    operations_left = settings.operations + WARM_UP;
    pthread_barrier_wait(&gate);
    sleep_until(window_begin);
    double before = cpu_us();
    if (settings.operations == 0)
        sleep_until(window_end);
    double spent = cpu_us() - before;
    pthread_barrier_wait(&gate);
    for (int i = 0; i < n; i++)
        pthread_join(callers[i].thread, NULL);
    return spent;
}

/* ---- what the server says ---- */

static long long ask_number(PGconn *c, const char *sql)
{
    PGresult *res = PQexec(c, sql);
    must(PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1, "%s: %s", sql, PQerrorMessage(c));
    long long value = atoll(PQgetvalue(res, 0, 0));
    PQclear(res);
    return value;
}

/* A connection's transactions are in the figures when it has ended, at the latest; so others' must have, too, of a
 * program that ran before. */
static void await_end_of_connections(PGconn *c)
{
    for (double end = now_s() + 10;; sleep_ms(5)) {
        long long left = ask_number(c, "select count(*) from pg_stat_activity "
                                       "where backend_type = 'client backend' and pid <> pg_backend_pid()");
        if (left == 0)
            return;
        must(now_s() < end, "%lld connections are still there", left);
    }
}

static long long transactions(PGconn *c)
{
    run_sql(c, "select pg_stat_clear_snapshot()");
    return ask_number(c, "select xact_commit from pg_stat_database where datname = current_database()");
}

static long long all_sent(int n)
{
    long long sent = 0;
    for (int i = 0; i < n; i++)
        sent += callers[i].sent;
    return sent;
}

/* Besides the statements: logging in, preparing, cleaning a session, and those who ask here. */
static void check_transactions(PGconn *c, long long before, long long sent, int connections)
{
    long long found, allowance = 200 + 20LL * connections;
    await_end_of_connections(c);
    for (double end = now_s() + 5; (found = transactions(c) - before) < sent; sleep_ms(20))
        must(now_s() < end, "%lld statements in %lld transactions", sent, found);
    must(found <= sent + allowance, "%lld statements in %lld transactions", sent, found);
}

static void check_rows(PGconn *c, long long sent)
{
    long long rows = ask_number(c, "select count(*) from bench_inserts");
    long long apart =
        ask_number(c, "select count(*) from (select distinct caller, n from bench_inserts) as x");
    must(rows == sent && apart == sent, "%lld inserts have made %lld rows, %lld of them different", sent,
         rows, apart);
    run_sql(c, "drop table bench_inserts");
}

/* ---- telling ---- */

static void tell_latencies(int n)
{
    static uint64_t classes[CLASSES];
    uint64_t total = 0;
    int64_t longest = 0;
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < CLASSES; k++)
            classes[k] += callers[i].classes[k];
        total += (uint64_t)callers[i].timed;
        longest = callers[i].longest > longest ? callers[i].longest : longest;
    }
    must(total > 0, "no statement ended in time");
    sample(percentile_ms(classes, total, 0.5), "ms", NULL, "latency p50");
    sample(percentile_ms(classes, total, 0.9), "ms", NULL, "latency p90");
    sample(percentile_ms(classes, total, 0.99), "ms", NULL, "latency p99");
    sample(percentile_ms(classes, total, 0.999), "ms", NULL, "latency p99.9");
    sample((double)longest / 1e6, "ms", NULL, "latency max");
}

static void tell(int n, double cpu, int connections)
{
    long long counted = 0;
    int fewest = callers[0].counted, most = fewest;
    for (int i = 0; i < n; i++) {
        int its = callers[i].counted;
        counted += its;
        fewest = its < fewest ? its : fewest;
        most = its > most ? its : most;
    }
    sample((double)counted / settings.seconds, "statements/s", NULL, "throughput");
    tell_latencies(n);
    sample(cpu / (double)counted, "us/statement", NULL, "CPU");
    sample(connections, "count", NULL, "connections");
    if (n > 1)
        sample((double)fewest / most, "ratio", NULL, "fewest of a caller : most of a caller");
}

/* ---- the command ---- */

__attribute__((noreturn)) static void usage(void)
{
    die("usage: load raw|pipeline|handloop|leased|shared|tickets|loop [--callers N] [--connections N] "
        "[--in-flight N] [--seconds S] [--warm-up S] [--pool \"OPTIONS\"] [--sleepers PERCENT] [--inserts] "
        "[--unprepared] [--operations N]");
}

static bool take_flag(const char *name)
{
    const struct {
        const char *name;
        bool *to;
    } flags[] = {{"--inserts", &settings.inserts}, {"--unprepared", &settings.unprepared}};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (strcmp(name, flags[i].name) == 0)
            return *flags[i].to = true;
    return false;
}

static bool take_number(const char *name, const char *value)
{
    const struct {
        const char *name;
        int *to;
        int most;
    } whole[] = {{"--callers", &settings.callers, MOST_CALLERS},
                 {"--connections", &settings.connections, 1000},
                 {"--in-flight", &settings.in_flight, 10000},
                 {"--sleepers", &settings.sleepers, 99},
                 {"--operations", &settings.operations, 1000000}};
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        if (strcmp(name, whole[i].name) == 0) {
            *whole[i].to = atoi(value);
            must(*whole[i].to > 0 && *whole[i].to <= whole[i].most, "%s %s: 1 to %d", name, value,
                 whole[i].most);
            return true;
        }
    if (strcmp(name, "--seconds") != 0 && strcmp(name, "--warm-up") != 0)
        return false;
    *(name[2] == 's' ? &settings.seconds : &settings.warm_up) = atof(value);
    must(settings.seconds > 0 && settings.warm_up >= 0, "%s %s", name, value);
    return true;
}

static void read_arguments(int argc, char **argv)
{
    if (argc < 2)
        usage();
    for (int i = 0; i < N_MANNERS; i++)
        if (strcmp(argv[1], manners[i]->name) == 0)
            how = manners[i];
    if (!how)
        usage();
    for (int i = 2; i < argc; i++) {
        if (take_flag(argv[i]))
            continue;
        if (i + 1 == argc)
            usage();
        if (strcmp(argv[i], "--pool") == 0)
            settings.pool = argv[i + 1];
        else if (!take_number(argv[i], argv[i + 1]))
            usage();
        i++;
    }
}

/* Returns the CPU that it took; so many connections there were. */
static double run(int n, int *connections)
{
    how->open();
    double cpu = run_callers(n);
    *connections = how->close();
    return cpu;
}

/* With somebody who asks the server what came of it. */
static double run_watched(int n, int *connections)
{
    PGconn *c = control();
    if (settings.inserts) {
        run_sql(c, "drop table if exists bench_inserts");
        run_sql(c, "create table bench_inserts (caller int, n int)");
    }
    await_end_of_connections(c);
    long long before = transactions(c);
    double cpu = run(n, connections);
    check_transactions(c, before, all_sent(n), *connections);
    if (settings.inserts)
        check_rows(c, all_sent(n));
    PQfinish(c);
    return cpu;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--libpq") == 0)
        return printf("%d.%d\n", PQlibVersion() / 10000, PQlibVersion() % 10000) < 0;
    read_arguments(argc, argv);
    int n = how->one_thread ? 1 : settings.callers;
    must(!settings.unprepared || (how == &load_raw && !settings.inserts), "--unprepared is for raw, to read");
    must(n == 1 || settings.operations == 0, "--operations is for one thread");
    int connections;
    double cpu = settings.unprepared ? run(n, &connections) : run_watched(n, &connections);
    if (settings.operations == 0)
        tell(n, cpu, connections);
    return 0;
}
