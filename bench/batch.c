/*
 * batch: many rows by the same INSERT: one after another, as groups of the pool's, and by a pipeline written by hand.
 *
 *     batch [--rows N] [--seconds S] [--warm-up S]
 *
 * row by row       PQexecPrepared(), for S seconds at most
 * groups, each     pqpool_exec_all() with 5000 members, each its own transaction
 * groups, atomic   the same, 5000 of them one transaction
 * by hand, each    libpq's pipeline mode, sending while answers come, a Sync a row
 * by hand, atomic  the same, a Sync every 5000 rows
 *
 * All rows are there afterwards, or the program fails.
 */
#include "bench.h"

/* libpq 17 can queue a Sync without sending at once; before, each Sync costs a system call. */
extern int PQsendPipelineSync(PGconn *conn);
#pragma weak PQsendPipelineSync

enum { GROUP = 5000, WINDOW = 4000, MOST_ROWS = 10000000 };
#define TEXT "INSERT INTO batch VALUES ($1, $2)"

static int rows = 20000;
static double seconds = 1;

typedef struct row {
    char text[2][24];
    const char *values[2];
} row;

static void fill(row *r, int i)
{
    snprintf(r->text[0], sizeof r->text[0], "%d", i);
    snprintf(r->text[1], sizeof r->text[1], "the text of row %d", i % 10000);
    r->values[0] = r->text[0];
    r->values[1] = r->text[1];
}

static void check_inserted(const PGresult *res, const char *why)
{
    must(PQresultStatus(res) == PGRES_COMMAND_OK && strcmp(PQcmdTuples((PGresult *)res), "1") == 0,
         "%s: %s%s", TEXT, PQresultErrorMessage(res), why);
}

static PGconn *connect_prepared(void)
{
    PGconn *conn = control();
    PGresult *res = PQprepare(conn, "row", TEXT, 0, NULL);
    must(PQresultStatus(res) == PGRES_COMMAND_OK, "%s", PQerrorMessage(conn));
    PQclear(res);
    return conn;
}

/* ---- row by row ---- */

static int one_by_one(void)
{
    PGconn *conn = connect_prepared();
    int n = 0;
    for (double end = now_s() + seconds; n < rows && now_s() < end; n++) {
        row r;
        fill(&r, n);
        PGresult *res = PQexecPrepared(conn, "row", 2, r.values, NULL, NULL, 0);
        check_inserted(res, PQerrorMessage(conn));
        PQclear(res);
    }
    PQfinish(conn);
    return n;
}

/* ---- groups ---- */

static pqpool *pool;

static void insert_group(int first, int n, pqpool_group_mode mode)
{
    static row all[GROUP];
    static pqpool_stmt stmts[GROUP];
    static PGresult *results[GROUP];
    static pqpool_error errors[GROUP];
    for (int i = 0; i < n; i++) {
        fill(&all[i], first + i);
        stmts[i] = (pqpool_stmt){PQPOOL_STMT, .sql = TEXT, .n_params = 2, .param_values = all[i].values};
    }
    pqpool_code code = pqpool_exec_all(pool, stmts, n, mode, results, errors);
    must(code == PQPOOL_OK, "a group: %s", pqpool_code_name(code));
    for (int i = 0; i < n; i++) {
        check_inserted(results[i], errors[i].message);
        PQclear(results[i]);
    }
}

static int in_groups(pqpool_group_mode mode)
{
    for (int first = 0; first < rows; first += GROUP)
        insert_group(first, rows - first < GROUP ? rows - first : GROUP, mode);
    return rows;
}

static int groups_each(void)
{
    return in_groups(PQPOOL_EACH);
}

static int groups_atomic(void)
{
    return in_groups(PQPOOL_ATOMIC);
}

/* ---- by hand ---- */

typedef struct line {
    PGconn *conn;
    int sent, done, syncs; /* syncs: that are still to come back */
    int rows_a_sync;
    bool full; /* the socket takes no more for now */
} line;

static void send_row(line *l)
{
    row r;
    fill(&r, l->sent++);
    must(PQsendQueryPrepared(l->conn, "row", 2, r.values, NULL, NULL, 0) == 1, "%s", PQerrorMessage(l->conn));
    if (l->sent % l->rows_a_sync != 0 && l->sent != rows)
        return;
    l->syncs++;
    must((PQsendPipelineSync ? PQsendPipelineSync(l->conn) : PQpipelineSync(l->conn)) == 1, "%s",
         PQerrorMessage(l->conn));
}

static void take_answers(line *l)
{
    must(PQconsumeInput(l->conn) == 1, "%s", PQerrorMessage(l->conn));
    while ((l->done < l->sent || l->syncs > 0) && !PQisBusy(l->conn)) {
        PGresult *res = PQgetResult(l->conn);
        if (PQresultStatus(res) == PGRES_PIPELINE_SYNC) {
            l->syncs--;
        } else if (res) {
            check_inserted(res, "");
            l->done++;
        }
        PQclear(res);
    }
}

static int by_hand(int rows_a_sync)
{
    line l = {.conn = connect_prepared(), .rows_a_sync = rows_a_sync};
    must(PQsetnonblocking(l.conn, 1) == 0 && PQenterPipelineMode(l.conn) == 1, "%s", PQerrorMessage(l.conn));
    while (l.done < rows || l.syncs > 0) {
        while (!l.full && l.sent < rows && l.sent - l.done < WINDOW)
            send_row(&l);
        int rc = PQflush(l.conn);
        must(rc >= 0, "%s", PQerrorMessage(l.conn));
        l.full = rc == 1;
        struct pollfd fd = {PQsocket(l.conn), (short)(POLLIN | (l.full ? POLLOUT : 0)), 0};
        must(poll(&fd, 1, 60000) == 1, "no answer within a minute");
        take_answers(&l);
    }
    PQfinish(l.conn);
    return rows;
}

static int hand_each(void)
{
    return by_hand(1);
}

static int hand_atomic(void)
{
    return by_hand(GROUP);
}

/* ---- the command ---- */

typedef enum { ROW_BY_ROW, GROUPS_EACH, GROUPS_ATOMIC, HAND_EACH, HAND_ATOMIC, WAYS } way;
static const struct {
    const char *name;
    int (*run)(void);
} ways[WAYS] = {
    {"row by row", one_by_one},
    {"groups of 5000, each for itself", groups_each},
    {"groups of 5000, atomic", groups_atomic},
    {"by hand, a Sync a row", hand_each},
    {"by hand, a Sync every 5000 rows", hand_atomic},
};

/* Rows a second. */
static double measure(PGconn *c, way by)
{
    run_sql(c, "truncate batch");
    double began = now_s();
    int n = ways[by].run();
    double took = now_s() - began;
    PGresult *res = PQexec(c, "select count(*), count(distinct n) from batch");
    must(PQresultStatus(res) == PGRES_TUPLES_OK, "%s", PQerrorMessage(c));
    must(atoi(PQgetvalue(res, 0, 0)) == n && atoi(PQgetvalue(res, 0, 1)) == n, "%s: %s rows, not %d",
         ways[by].name, PQgetvalue(res, 0, 0), n);
    PQclear(res);
    return n / took;
}

static void read_arguments(int argc, char **argv)
{
    for (int i = 1; i < argc; i += 2) {
        must(i + 1 < argc, "usage: batch [--rows N] [--seconds S] [--warm-up S]");
        if (strcmp(argv[i], "--rows") == 0)
            rows = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--seconds") == 0)
            seconds = atof(argv[i + 1]);
        else
            must(strcmp(argv[i], "--warm-up") == 0, "no option %s", argv[i]);
    }
    must(rows >= GROUP && rows <= MOST_ROWS, "--rows: %d to %d", GROUP, MOST_ROWS);
}

static void tell(const double speed[WAYS])
{
    for (way by = ROW_BY_ROW; by < WAYS; by++)
        sample(speed[by], "rows/s", NULL, "%s", ways[by].name);
    sample(speed[GROUPS_EACH] / speed[ROW_BY_ROW], "ratio", "median >= 50",
           "groups, each for itself : row by row");
    sample(speed[GROUPS_ATOMIC] / speed[ROW_BY_ROW], "ratio", "median >= 50", "groups, atomic : row by row");
    sample(speed[GROUPS_EACH] / speed[HAND_EACH], "ratio", "median >= 0.95",
           "groups, each for itself : by hand, a Sync a row");
    sample(speed[GROUPS_ATOMIC] / speed[HAND_ATOMIC], "ratio", "median >= 0.95",
           "groups, atomic : by hand, a Sync every 5000 rows");
}

int main(int argc, char **argv)
{
    double speed[WAYS];
    pqpool_error err;
    read_arguments(argc, argv);
    PGconn *c = control();
    run_sql(c, "drop table if exists batch");
    run_sql(c, "create table batch (n int, words text)");
    pool = open_pool("pool_max_size=2 pool_shared_max=1 pool_pipeline_depth=1000", NULL);
    PQclear(pqpool_exec(pool, "select 1", &err)); /* brings the connection up */
    for (way by = ROW_BY_ROW; by < WAYS; by++)
        speed[by] = measure(c, by);
    tell(speed);
    close_pool(pool);
    run_sql(c, "drop table batch");
    PQfinish(c);
    return 0;
}
