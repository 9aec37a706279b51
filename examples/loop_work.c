#include "loop_work.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A find and the member it is about, so that each answer can be told from the others. */
static struct find {
    loop_work *work;
    int id;
} finds[LOOP_WORK_FINDS];

static const char find_member[] =
    "SELECT 'member ' || id FROM generate_series(1, 1000) id WHERE id = $1::int";
static const char count_connections[] =
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = current_setting('application_name')";

static void fail(loop_work *work, const char *message)
{
    fprintf(stderr, "%s: %s\n", work->name, message);
    work->failures++;
}

static const char *value(const PGresult *res)
{
    return PQntuples(res) == 1 ? PQgetvalue(res, 0, 0) : "";
}

/* ---- when all has come ---- */

static void on_count(PGresult *res, const pqpool_error *err, void *arg)
{
    loop_work *work = arg;
    if (err->code != PQPOOL_OK)
        fail(work, err->message);
    work->connections = atoi(value(res));
    work->over = 1;
    PQclear(res);
}

static void one_less(loop_work *work)
{
    pqpool_error err;
    pqpool_stmt stmt = {PQPOOL_STMT, .sql = count_connections};
    if (--work->left > 0)
        return;
    if (!pqpool_submit_cb(work->pool, &stmt, on_count, work, &err)) {
        fail(work, err.message);
        work->over = 1;
    }
}

/* ---- a statement ---- */

static void on_found(PGresult *res, const pqpool_error *err, void *arg)
{
    struct find *find = arg;
    char want[32];
    snprintf(want, sizeof want, "member %d", find->id);
    if (err->code != PQPOOL_OK)
        fail(find->work, err->message);
    else if (strcmp(value(res), want) != 0)
        fail(find->work, "this is somebody else's answer");
    else
        find->work->finds++;
    PQclear(res);
    one_less(find->work);
}

static void start_find(loop_work *work, int i)
{
    char id[16];
    pqpool_error err;
    finds[i] = (struct find){work, i + 1};
    snprintf(id, sizeof id, "%d", i + 1); /* copied: it need not outlive the call */
    pqpool_stmt stmt = {PQPOOL_STMT, .sql = find_member, .n_params = 1, .param_values = (const char *[]){id}};
    if (pqpool_submit_cb(work->pool, &stmt, on_found, &finds[i], &err))
        work->left++;
    else
        fail(work, err.message);
}

/* ---- a group: one callback for all members ---- */

static void on_figures(PGresult **results, const pqpool_error *errors, int n, void *arg)
{
    loop_work *work = arg;
    for (int i = 0; i < n; i++) {
        if (errors[i].code != PQPOOL_OK)
            fail(work, errors[i].message);
        else
            work->figures += atoi(value(results[i])) == i + 1;
        PQclear(results[i]);
    }
    one_less(work);
}

static void start_figures(loop_work *work)
{
    pqpool_error err;
    pqpool_stmt group[LOOP_WORK_FIGURES] = {
        {PQPOOL_STMT, .sql = "SELECT count(*) FROM generate_series(1, 1)"},
        {PQPOOL_STMT, .sql = "SELECT count(*) FROM generate_series(1, 2)"},
        {PQPOOL_STMT, .sql = "SELECT count(*) FROM generate_series(1, 3)"}};
    if (pqpool_submit_all_cb(work->pool, group, LOOP_WORK_FIGURES, PQPOOL_EACH, on_figures, work, &err))
        work->left++;
    else
        fail(work, err.message);
}

/* ---- a lease: a connection of one's own, for a transaction ---- */

/*
 * This transaction is short, and run as any other libpq program would: the loop waits for it. Where it must not,
 * PQsetnonblocking(), PQsendQuery() and a watch on PQsocket(lease->conn) do; the lease stays out as long as it takes.
 */
static void on_lease(pqpool_lease *lease, const pqpool_error *err, void *arg)
{
    static const char *const commands[] = {"BEGIN",
                                           "CREATE TEMPORARY TABLE visit (at timestamptz) ON COMMIT DROP",
                                           "INSERT INTO visit VALUES (now())", "COMMIT"};
    loop_work *work = arg;
    int done = 0;
    for (int i = 0; lease && i < 4; i++) {
        PGresult *res = PQexec(lease->conn, commands[i]);
        done += PQresultStatus(res) == PGRES_COMMAND_OK;
        PQclear(res);
    }
    if (done == 4)
        work->visits++;
    else
        fail(work, lease ? PQerrorMessage(lease->conn) : err->message);
    if (lease && pqpool_release(lease) != PQPOOL_OK)
        fail(work, "the lease could not be given back");
    one_less(work);
}

static void start_visit(loop_work *work)
{
    pqpool_error err;
    if (pqpool_acquire_cb(work->pool, NULL, on_lease, work, &err))
        work->left++;
    else
        fail(work, err.message);
}

/* ---- begin and end ---- */

int loop_work_begin(loop_work *work, const char *name, int argc, char **argv)
{
    char application[64];
    pqpool_error err;
    *work = (loop_work){.name = name};
    snprintf(application, sizeof application, "%s %ld", name, (long)getpid());
    const char *keywords[] = {"dbname", "application_name", "pool_max_size", "pool_shared_max", NULL};
    const char *values[] = {argc > 1 ? argv[1] : "", application, "4", "1", NULL};
    work->pool = pqpool_open_params(keywords, values, 1, NULL, &err);
    if (!work->pool) {
        fail(work, err.message);
        return 0;
    }
    for (int i = 0; i < LOOP_WORK_FINDS; i++)
        start_find(work, i);
    start_figures(work);
    start_visit(work);
    return work->left > 0;
}

int loop_work_ready(loop_work *work)
{
    int n = pqpool_dispatch(work->pool);
    if (n < 0)
        fail(work, pqpool_strerror((pqpool_code)-n));
    return n >= 0 && !work->over;
}

int loop_work_end(loop_work *work)
{
    int all = work->finds == LOOP_WORK_FINDS && work->figures == LOOP_WORK_FIGURES && work->visits == 1 &&
              work->over;
    if (work->pool && !all)
        fail(work, "not all answers have come");
    if (work->pool)
        printf("%d members found, %d figures, %d visit noted, in one thread, on %d connections\n",
               work->finds, work->figures, work->visits, work->connections);
    if (pqpool_close(work->pool, 1000) == PQPOOL_OK)
        (void)pqpool_free(work->pool);
    return work->failures ? 1 : 0;
}
