/*
 * article_list: one request of a meeting board, run in four ways, and the connections each of them takes.
 *
 *     article_list [CONNINFO]          a plain libpq connection string, without pool_ options
 *
 * The request asks for a page of articles (Q0) and then, over the articles found, for things that do not
 * depend on each other: likes, participants, which ones I liked. Its forms: short Q0 {Q1 Q2 Q3}, wide
 * Q0 {Q1 ... Q5}, long Q0 {Q1 ... Q5} Q6 {Q1 ... Q5}; what stands in braces runs side by side.
 *
 * The connections are counted from outside, in pg_stat_activity. A schema with a few dozen articles is made
 * for it and removed at the end. Exit status: 0 if all ways gave the same rows and sharing took 1 connection.
 */
#include <pqpool.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_GROUP = 5, MAX_ROUNDS = 4, N_FORMS = 3, TEXT = 20000 };
enum way { ONE_BY_ONE, PARALLEL, TRANSACTION, SHARED, N_WAYS };

static const char *const way_names[N_WAYS] = {"one lease after another", "a lease each, in parallel",
                                              "one transaction", "shared"};

#define LIKES_OF_THESE " FROM article_likes WHERE article_id = ANY ($1::int8[])"
#define ACTIVE_OF_THESE " FROM participation WHERE article_id = ANY ($1::int8[]) AND status = 'ACTIVE'"
static const char *const queries[] = {
    "WITH filtered_articles AS (SELECT id FROM articles WHERE id < $1::int8 ORDER BY id DESC LIMIT 10)"
    " SELECT a.id, a.title, m.nickname FROM filtered_articles f JOIN articles a ON a.id = f.id"
    " JOIN member m ON m.id = a.member_id ORDER BY a.id DESC",
    "SELECT article_id, count(*)" LIKES_OF_THESE " GROUP BY article_id ORDER BY article_id",
    "SELECT article_id, count(*)" ACTIVE_OF_THESE " GROUP BY article_id ORDER BY article_id",
    "SELECT DISTINCT article_id" LIKES_OF_THESE " AND member_id = 3 ORDER BY article_id",
    "SELECT count(*)" LIKES_OF_THESE " GROUP BY article_id ORDER BY article_id",
    "SELECT count(*)" ACTIVE_OF_THESE " GROUP BY article_id ORDER BY article_id",
    "SELECT article_id" LIKES_OF_THESE " GROUP BY article_id ORDER BY article_id",
};

/* What stands in one round runs side by side: the first query and how many. */
static const struct {
    const char *name;
    int rounds[MAX_ROUNDS][2];
} forms[N_FORMS] = {
    {"short", {{0, 1}, {1, 3}}}, {"wide", {{0, 1}, {1, 5}}}, {"long", {{0, 1}, {1, 5}, {6, 1}, {1, 5}}}};

static const char board[] =
    "CREATE TABLE member AS SELECT id::int8, 'nick' || id AS nickname FROM generate_series(1, 9) id;"
    "CREATE TABLE articles AS SELECT id::int8, 'Meeting ' || id AS title, id % 9 + 1 AS member_id"
    " FROM generate_series(1, 40) id;"
    "CREATE TABLE article_likes AS SELECT a::int8 AS article_id, m::int8 AS member_id"
    " FROM generate_series(1, 40) a, generate_series(1, 9) m WHERE a % m = 1;"
    "CREATE TABLE participation AS SELECT a::int8 AS article_id,"
    " CASE WHEN (a + m) % 4 = 0 THEN 'CANCELLED' ELSE 'ACTIVE' END AS status"
    " FROM generate_series(1, 40) a, generate_series(1, 5) m WHERE a % (m + 1) = 0";

static const char *conninfo = "";
static char schema[40];
static PGconn *outside; /* counts connections, and is none of the pools' */
static atomic_int failures;

static int fail(const char *message)
{
    failures++;
    fprintf(stderr, "article_list: %s\n", message);
    return 0;
}

static void check(const PGresult *res, const char *message)
{
    if (PQresultStatus(res) != PGRES_TUPLES_OK && PQresultStatus(res) != PGRES_COMMAND_OK)
        fail(message);
}

static void command(PGconn *conn, const char *sql)
{
    PGresult *res = PQexec(conn, sql);
    check(res, PQerrorMessage(conn));
    PQclear(res);
}

/* A statement of the request, its one parameter, and its answer. */
struct statement {
    pqpool *pool;
    pthread_barrier_t *all_have_one; /* PARALLEL */
    const char *sql, *param;
    PGresult *res;
};

static void run_on(PGconn *conn, struct statement *s)
{
    s->res = PQexecParams(conn, s->sql, 1, NULL, &s->param, NULL, NULL, 0);
    check(s->res, PQerrorMessage(conn));
}

static void *run_on_lease(void *arg)
{
    struct statement *s = arg;
    pqpool_error err;
    PQPOOL_LEASE(lease); /* goes back when the function ends, whichever way */
    pqpool_code code = pqpool_acquire(s->pool, &lease, &err);
    if (s->all_have_one)
        pthread_barrier_wait(s->all_have_one);
    if (code == PQPOOL_OK)
        run_on(lease.conn, s);
    else
        fail(err.message);
    return NULL;
}

/* All ask for a connection before the first is done with his, which is what "run all of these" comes to. */
static void run_in_parallel(struct statement *s, int n)
{
    pthread_t threads[MAX_GROUP];
    pthread_barrier_t all_have_one;
    pthread_barrier_init(&all_have_one, NULL, (unsigned)n);
    for (int i = 0; i < n; i++) {
        s[i].all_have_one = &all_have_one;
        if (pthread_create(&threads[i], NULL, run_on_lease, &s[i]) != 0)
            abort();
    }
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&all_have_one);
}

/* The group goes out together, on one connection, and costs one network round trip. */
static void run_shared(struct statement *s, int n)
{
    pqpool_stmt stmts[MAX_GROUP];
    pqpool_error errors[MAX_GROUP];
    PGresult *results[MAX_GROUP];
    memset(stmts, 0, sizeof stmts);
    for (int i = 0; i < n; i++)
        stmts[i] = (pqpool_stmt){PQPOOL_STMT, .sql = s[i].sql, .n_params = 1, .param_values = &s[i].param};
    if (pqpool_exec_all(s->pool, stmts, n, PQPOOL_EACH, results, errors) != PQPOOL_OK)
        fail("a member of the group failed:");
    for (int i = 0; i < n; i++) {
        s[i].res = results[i];
        check(s[i].res, errors[i].message);
    }
}

/* Runs a round in the given way and returns how often it waited for the server. */
static int run_round(struct statement *s, int n, enum way way, PGconn *leased)
{
    if (way == SHARED)
        run_shared(s, n);
    else if (way == PARALLEL)
        run_in_parallel(s, n);
    else
        for (int i = 0; i < n; i++)
            way == TRANSACTION ? run_on(leased, &s[i]) : (void)run_on_lease(&s[i]);
    return way == SHARED || way == PARALLEL ? 1 : n;
}

/* Appends the rows, a value a line, to text and returns their number. */
static int append_rows(char *text, const PGresult *res)
{
    for (int i = 0; i < PQntuples(res) * PQnfields(res); i++)
        snprintf(text + strlen(text), TEXT - strlen(text), "%s\n",
                 PQgetvalue(res, i / PQnfields(res), i % PQnfields(res)));
    return PQntuples(res);
}

/* The first column as the text of an array: {1,2,3}. */
static void write_ids(char *ids, size_t size, const PGresult *res)
{
    size_t at = (size_t)snprintf(ids, size, "{");
    for (int i = 0; i < PQntuples(res) && at < size - 30; i++)
        at += (size_t)snprintf(ids + at, size - at, "%s%s", i ? "," : "", PQgetvalue(res, i, 0));
    snprintf(ids + at, size - at, "}");
}

/* Runs the request; the rows go to text, and their number is returned. */
static int run_request(pqpool *pool, int form, enum way way, char *text, int *trips)
{
    char ids[500];
    int rows = 0;
    pqpool_error err;
    PQPOOL_LEASE(lease);
    *trips = way == TRANSACTION ? 2 : 0; /* BEGIN and COMMIT */
    if (way == TRANSACTION && pqpool_acquire(pool, &lease, &err) != PQPOOL_OK)
        return fail(err.message);
    if (way == TRANSACTION)
        command(lease.conn, "BEGIN");
    for (int r = 0; r < MAX_ROUNDS && forms[form].rounds[r][1] > 0; r++) {
        int first = forms[form].rounds[r][0], n = forms[form].rounds[r][1];
        struct statement s[MAX_GROUP];
        for (int i = 0; i < n; i++)
            s[i] = (struct statement){.pool = pool, .sql = queries[first + i], .param = r == 0 ? "38" : ids};
        *trips += run_round(s, n, way, lease.conn);
        if (r == 0)
            write_ids(ids, sizeof ids, s[0].res);
        for (int i = 0; i < n; i++) {
            rows += append_rows(text, s[i].res);
            PQclear(s[i].res);
        }
    }
    if (way == TRANSACTION)
        command(lease.conn, "COMMIT");
    return rows;
}

/* The connections that carry the name, as the server sees them. */
static int count_connections(const char *name)
{
    static const char sql[] = "SELECT count(*) FROM pg_stat_activity"
                              " WHERE application_name = $1 AND backend_type = 'client backend'";
    PGresult *res = PQexecParams(outside, sql, 1, NULL, &name, NULL, NULL, 0);
    check(res, PQerrorMessage(outside));
    int n = PQntuples(res) == 1 ? atoi(PQgetvalue(res, 0, 0)) : -1;
    PQclear(res);
    return n;
}

/* Runs a form in a way, with a pool of its own, and prints the table's row. */
static void show(int form, enum way way, char *text)
{
    char name[64], options[80];
    int trips = 0;
    pqpool_error err;
    snprintf(name, sizeof name, "%s %s %d", schema, forms[form].name, way);
    snprintf(options, sizeof options, "-csearch_path=%s", schema);
    const char *keywords[] = {"dbname", "application_name", "options", NULL};
    const char *values[] = {conninfo, name, options, NULL};
    pqpool *pool = pqpool_open_params(keywords, values, 1, NULL, &err);
    if (!pool) {
        fail(err.message);
        return;
    }
    int rows = run_request(pool, form, way, text, &trips);
    int connections = count_connections(name);
    printf("%-6s %-26s %11d %11d %5d\n", forms[form].name, way_names[way], connections, trips, rows);
    if (way == SHARED && connections != 1)
        fail("sharing did not take one connection");
    pqpool_close(pool, 1000);
    pqpool_free(pool);
}

int main(int argc, char **argv)
{
    static char text[N_WAYS][TEXT];
    char sql[120];
    conninfo = argc > 1 ? argv[1] : conninfo;
    outside = PQconnectdb(conninfo);
    if (PQstatus(outside) != CONNECTION_OK) {
        fail(PQerrorMessage(outside));
        PQfinish(outside);
        return 1;
    }
    snprintf(schema, sizeof schema, "article_list_%ld", (long)getpid());
    snprintf(sql, sizeof sql, "CREATE SCHEMA %s; SET search_path = %s", schema, schema);
    command(outside, sql);
    command(outside, board);
    printf("%-6s %-26s %11s %11s %5s\n", "form", "way", "connections", "round trips", "rows");
    for (int form = 0; form < N_FORMS && failures == 0; form++)
        for (int way = 0; way < N_WAYS; way++) {
            text[way][0] = '\0';
            show(form, (enum way)way, text[way]);
            if (strcmp(text[way], text[0]) != 0)
                fail("these rows are not those of the first way");
        }
    puts("\nFor comparison, a service over a pool that lends a connection for each statement was seen to "
         "hold 3 for\n"
         "the short form and 4 for the wide one in parallel, and 1 one after another or in one transaction.");
    snprintf(sql, sizeof sql, "SET client_min_messages = warning; DROP SCHEMA %s CASCADE", schema);
    command(outside, sql);
    PQfinish(outside);
    return failures ? 1 : 0;
}
