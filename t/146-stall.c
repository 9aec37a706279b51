/* A shared statement that waits for a lock, with others behind it on its connection: told once, with who has the lock. */
#include "support/nemesis.h"

#define APP "stall"

static PGconn *ctl, *locker;

typedef struct ear {
    _Atomic int stalls, done;
    int count, line;
    bool placed; /* the event names a place of this file */
    char text[900];
} ear;

static void listen_in(const pqpool_event *e, void *arg)
{
    ear *l = arg;
    if (e->id != PQPOOL_EVENT_STALL)
        return;
    snprintf(l->text, sizeof l->text, "%s", e->text);
    l->count = e->count;
    l->line = e->line;
    l->placed = e->file && strstr(e->file, "146-stall.c");
    l->stalls++;
}

static void note_done(PGresult **results, const pqpool_error *errors, int n, void *arg)
{
    ear *l = arg;
    for (int i = 0; i < n; i++) {
        l->done += errors[i].code == PQPOOL_OK;
        PQclear(results[i]);
    }
}

static pqpool *open_with(ear *l, int max_size)
{
    char conninfo[100];
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_event = listen_in, .arg = l};
    snprintf(conninfo, sizeof conninfo, "application_name=" APP " pool_shared_max=1 pool_max_size=%d",
             max_size);
    return open_pool(conninfo, &hooks);
}

typedef struct submitter {
    pqpool *pool;
    ear *l;
} submitter;

static void *submit(void *arg)
{
    static const pqpool_stmt both[] = {{PQPOOL_STMT, .sql = "update stall_row set n = n + 10"},
                                       {PQPOOL_STMT, .sql = "select 'behind'"}};
    submitter *s = arg;
    if (!pqpool_submit_all_cb(s->pool, both, 2, PQPOOL_EACH, note_done, s->l, NULL))
        bail("submit");
    return NULL;
}

/* An update that waits for the row, and behind it, on the same connection, a statement that waits for nothing. From another
 * thread: those of a lease's holder go by themselves. */
static void stand_behind(pqpool *pool, ear *l)
{
    pthread_t thread;
    submitter both = {pool, l};
    if (pthread_create(&thread, NULL, submit, &both) != 0)
        bail("a thread");
    pthread_join(thread, NULL);
}

static void finish(pqpool *pool, ear *l)
{
    ok(eventually(pqpool_dispatch(pool) >= 0 && l->done == 2), "when the lock is gone, both end");
    is_int(l->stalls, 1, "and it was told once");
    close_pool(pool);
}

static void by_lease(void)
{
    ear l = {0};
    pqpool *pool = open_with(&l, 3);
    char pid[60], place[60];
    pqpool_lease lease = take(pool);
    int line = __LINE__ - 1;
    PQclear(PQexec(lease.conn, "begin; update stall_row set n = n + 1"));
    stand_behind(pool, &l);
    ok(eventually(l.stalls == 1), "a statement that holds up another behind it is told of");
    ok(strstr(l.text, "update stall_row") && strstr(l.text, "1 more stand behind it"),
       "with its SQL, and how many stand behind: %s", l.text);
    is_int(l.count, 1, "so does the event's count");
    snprintf(pid, sizeof pid, "a lock of pid %d", PQbackendPID(lease.conn));
    snprintf(place, sizeof place, "146-stall.c:%d", line);
    ok(strstr(l.text, pid) && strstr(l.text, place),
       "it names the lease that has the lock, and where that was acquired");
    ok(l.placed && l.line == line, "and that is the event's place");
    PQclear(PQexec(lease.conn, "commit"));
    pqpool_release(&lease);
    finish(pool, &l);
}

static void by_stranger(void)
{
    ear l = {0};
    pqpool *pool = open_with(&l, 2);
    char pid[60];
    one(locker, "begin");
    one(locker, "update stall_row set n = n + 1");
    stand_behind(pool, &l);
    ok(eventually(l.stalls == 1), "nor has the lock to be a lease's");
    snprintf(pid, sizeof pid, "a lock of pid %d", PQbackendPID(locker));
    ok(strstr(l.text, pid) && !l.placed, "then its process is named, and no place: %s", l.text);
    one(locker, "commit");
    finish(pool, &l);
}

static void nothing_to_ask_by(void)
{
    ear l = {0};
    pqpool *pool = open_with(&l, 2);
    pqpool_lease lease = take(pool);
    PQclear(PQexec(lease.conn, "begin; update stall_row set n = n + 1"));
    stand_behind(pool, &l);
    ok(eventually(l.stalls == 1), "it is told where there is no connection to ask the server by");
    ok(!strstr(l.text, "lock of"), "without what only the server knows: %s", l.text);
    PQclear(PQexec(lease.conn, "commit"));
    pqpool_release(&lease);
    finish(pool, &l);
}

/* With nothing behind it a statement may take its time. */
static void alone(void)
{
    ear l = {0};
    pqpool *pool = open_with(&l, 2);
    pqpool_ticket *ticket = submit_sql(pool, "select 'slept' from pg_sleep(1.3)");
    ok(fetch_is(ticket, "slept"), "a statement that holds up none");
    is_int(l.stalls, 0, "is not told of");
    close_pool(pool);
}

int main(void)
{
    tap_begin(60);
    ctl = control();
    locker = control();
    one(ctl, "drop table if exists stall_row");
    one(ctl, "create table stall_row as select 0 as n");
    by_lease();
    by_stranger();
    nothing_to_ask_by();
    alone();
    one(ctl, "drop table stall_row");
    PQfinish(locker);
    PQfinish(ctl);
    return done_testing();
}
