/*
 * zdb: the point read, by threads that share a pool of libzdb; what it prints and takes is what every program under
 * bench/peers takes and prints (bench/peers/README.md).
 *
 *     zdb [query|prepared] --callers N --connections M --seconds S --warm-up S [--sleepers PERCENT] [--rows N]
 *
 * query      Connection_executeQuery(), the number written into the text
 * prepared   Connection_prepareStatement(): libzdb forgets prepared statements when the connection goes back to the
 *            pool, so that each lease prepares, executes and deallocates
 *
 * libzdb has no queue: ConnectionPool_getConnection() returns NULL when all connections are out, and who wants one asks
 * again. These callers yield the processor in between; how often they had to is told. Its exceptions are left to its
 * abort handler, which spares it the setjmp() that a TRY takes.
 */
#include "bench.h"

#include <sched.h>
#include <sys/resource.h>
#include <zdb.h>

enum { FACTOR = 7919, MODULUS = 100003, MOST_CALLERS = 10000 };

typedef enum phase { WARM_UP, MEASURING, OVER } phase;

typedef struct caller {
    pthread_t thread;
    uint64_t seed;
    double *latencies; /* ms, of the point reads alone */
    size_t reads, room;
    long statements, retries;
} caller;

static struct {
    ConnectionPool_T pool;
    bool prepared;
    int callers, connections, rows;
    double seconds, warm_up, sleepers;
    _Atomic phase phase;
} run = {.callers = 1, .connections = 1, .rows = 1000000, .seconds = 1, .warm_up = 0.2};

static void on_abort(const char *error)
{
    die("libzdb: %s", error);
}

/* xorshift: even enough for which row is read. */
static uint64_t next_random(caller *c)
{
    c->seed ^= c->seed << 13;
    c->seed ^= c->seed >> 7;
    c->seed ^= c->seed << 17;
    return c->seed;
}

static Connection_T get_connection(long *retries)
{
    Connection_T con = ConnectionPool_getConnection(run.pool);
    for (; !con; con = ConnectionPool_getConnection(run.pool)) {
        ++*retries;
        sched_yield();
        if (run.phase == OVER)
            return NULL;
    }
    return con;
}

static void read_point(Connection_T con, int aid)
{
    ResultSet_T rows;
    if (run.prepared) {
        PreparedStatement_T statement =
            Connection_prepareStatement(con, "SELECT abalance FROM pgbench_accounts WHERE aid = ?");
        PreparedStatement_setInt(statement, 1, aid);
        rows = PreparedStatement_executeQuery(statement);
    } else {
        rows = Connection_executeQuery(con, "SELECT abalance FROM pgbench_accounts WHERE aid = %d", aid);
    }
    must(ResultSet_next(rows), "no row with aid %d", aid);
    int expected = (int)((int64_t)aid * FACTOR % MODULUS), got = ResultSet_getInt(rows, 1);
    must(got == expected, "aid %d: abalance is %d, not %d", aid, got, expected);
}

static void sleep_on_server(Connection_T con)
{
    ResultSet_T rows = Connection_executeQuery(con, "SELECT pg_sleep(0.05)");
    must(ResultSet_next(rows), "pg_sleep() has returned no row");
}

static void note_latency(caller *c, double ms)
{
    if (c->reads == c->room) {
        c->room = c->room ? 2 * c->room : 4096;
        c->latencies = realloc(c->latencies, c->room * sizeof *c->latencies);
        must(c->latencies, "out of memory");
    }
    c->latencies[c->reads++] = ms;
}

static void call_once(caller *c)
{
    long retries = 0;
    bool sleeper = (double)(next_random(c) % 100000) < run.sleepers * 1000;
    int aid = (int)(next_random(c) % (uint64_t)run.rows) + 1;
    double began = now_s();
    Connection_T con = get_connection(&retries);
    if (!con)
        return;
    if (sleeper)
        sleep_on_server(con);
    else
        read_point(con, aid);
    Connection_close(con);
    if (run.phase != MEASURING)
        return;
    c->statements++;
    c->retries += retries;
    if (!sleeper)
        note_latency(c, (now_s() - began) * 1000);
}

static void *call_until_over(void *arg)
{
    while (run.phase != OVER)
        call_once(arg);
    return NULL;
}

/* ---- the run ---- */

/* Without a password it would not even try; a server that trusts its clients does not look at it. */
static void write_url(char *url, size_t size)
{
    const char *host = getenv("PGHOST"), *port = getenv("PGPORT"), *user = getenv("PGUSER");
    const char *database = getenv("PGDATABASE"), *password = getenv("PGPASSWORD");
    must(host && user, "PGHOST and PGUSER must name the server");
    bool is_socket = host[0] == '/';
    int n = snprintf(url, size, "postgresql://%s:%s/%s?user=%s&password=%s%s%s",
                     is_socket ? "localhost" : host, port ? port : "5432", database ? database : user, user,
                     password ? password : "none", is_socket ? "&unix-socket=" : "", is_socket ? host : "");
    must(n < (int)size, "PGHOST and the like are too long");
}

static void open_pool_of(int connections)
{
    char url[2000];
    write_url(url, sizeof url);
    URL_T parsed = URL_new(url);
    must(parsed, "libzdb can't read the URL %s", url);
    run.pool = ConnectionPool_new(parsed);
    ConnectionPool_setAbortHandler(run.pool, on_abort);
    ConnectionPool_setInitialConnections(run.pool, 0); /* may not exceed the greatest number at any moment */
    ConnectionPool_setMaxConnections(run.pool, connections);
    ConnectionPool_setInitialConnections(run.pool, connections);
    ConnectionPool_start(run.pool);
}

/* Looks now and then how large the pool is: libzdb keeps to its limit only nearly. */
static void pass(double seconds, int *most)
{
    for (double end = now_s() + seconds; now_s() < end; sleep_ms(10)) {
        int size = ConnectionPool_size(run.pool);
        if (size > *most)
            *most = size;
    }
}

/* By nearest rank. */
static double quantile(const double *sorted, size_t n, double q)
{
    double place = q * (double)n;
    size_t rank = (size_t)place;
    rank += (double)rank < place;
    return sorted[rank > 0 ? rank - 1 : 0];
}

static void tell_latencies(const caller *callers, size_t reads)
{
    double *all = malloc((reads ? reads : 1) * sizeof *all);
    must(all && reads > 0, "no point read was answered within the time");
    size_t n = 0;
    for (int i = 0; i < run.callers; i++) {
        if (callers[i].reads > 0)
            memcpy(all + n, callers[i].latencies, callers[i].reads * sizeof *all);
        n += callers[i].reads;
    }
    qsort(all, n, sizeof *all, by_size);
    sample(quantile(all, n, 0.5), "ms", NULL, "latency p50");
    sample(quantile(all, n, 0.9), "ms", NULL, "latency p90");
    sample(quantile(all, n, 0.99), "ms", NULL, "latency p99");
    sample(quantile(all, n, 0.999), "ms", NULL, "latency p99.9");
    sample(all[n - 1], "ms", NULL, "latency max");
    free(all);
}

static void tell(const caller *callers, double seconds, double cpu, int connections)
{
    size_t reads = 0;
    long statements = 0, retries = 0;
    for (int i = 0; i < run.callers; i++) {
        reads += callers[i].reads;
        statements += callers[i].statements;
        retries += callers[i].retries;
    }
    sample((double)statements / seconds, "statements/s", NULL, "throughput");
    tell_latencies(callers, reads);
    sample(cpu / (double)statements, "us/statement", NULL, "CPU");
    sample(connections, "count", NULL, "connections");
    sample((double)retries / (double)statements, "per statement", NULL, "retries");
}

static void measure(void)
{
    int most = 0;
    caller *callers = calloc((size_t)run.callers, sizeof *callers);
    must(callers, "out of memory");
    for (int i = 0; i < run.callers; i++) {
        callers[i].seed = (uint64_t)(i + 1) * 0x9e3779b97f4a7c15u ^ (uint64_t)getpid();
        int rc = pthread_create(&callers[i].thread, NULL, call_until_over, &callers[i]);
        must(rc == 0, "thread %d: %s", i + 1, strerror(rc));
    }
    pass(run.warm_up, &most);
    double began = now_s(), cpu = cpu_us();
    run.phase = MEASURING;
    pass(run.seconds, &most);
    run.phase = OVER;
    double seconds = now_s() - began;
    cpu = cpu_us() - cpu;
    for (int i = 0; i < run.callers; i++)
        pthread_join(callers[i].thread, NULL);
    tell(callers, seconds, cpu, most);
    for (int i = 0; i < run.callers; i++)
        free(callers[i].latencies);
    free(callers);
}

/* ---- the command ---- */

static double number(const char *option, const char *value, double least, double most)
{
    char *end = NULL;
    must(value, "%s needs a value", option);
    double d = strtod(value, &end);
    must(end != value && *end == '\0' && d >= least && d <= most, "%s %s: must be a number from %g to %g",
         option, value, least, most);
    return d;
}

static void take_option(const char *name, const char *value)
{
    if (strcmp(name, "--callers") == 0)
        run.callers = (int)number(name, value, 1, MOST_CALLERS);
    else if (strcmp(name, "--connections") == 0)
        run.connections = (int)number(name, value, 1, MOST_CALLERS);
    else if (strcmp(name, "--rows") == 0)
        run.rows = (int)number(name, value, 1, 1e9);
    else if (strcmp(name, "--seconds") == 0)
        run.seconds = number(name, value, 0.001, 1e6);
    else if (strcmp(name, "--warm-up") == 0)
        run.warm_up = number(name, value, 0, 1e6);
    else if (strcmp(name, "--sleepers") == 0)
        run.sleepers = number(name, value, 0, 100);
    else
        die("unknown option %s", name);
}

int main(int argc, char **argv)
{
    int i = 1;
    if (i < argc && argv[i][0] != '-') {
        run.prepared = strcmp(argv[i], "prepared") == 0;
        must(run.prepared || strcmp(argv[i], "query") == 0, "manner %s: must be query or prepared", argv[i]);
        i++;
    }
    for (; i < argc; i += 2)
        take_option(argv[i], argv[i + 1]);
    open_pool_of(run.connections);
    measure();
    ConnectionPool_stop(run.pool);
    ConnectionPool_free(&run.pool);
    return 0;
}
