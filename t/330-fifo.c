/*
 * Statements that find no room on the shared connection: they are served in the order in which they came, whoever
 * waits for them and however; those who may not wait are told so in words of their own. The order is forced: the
 * statement in front waits for a lock on a table, and each comes when the one before him stands in the queue.
 */
#include <semaphore.h>

#include "support/pg.h"

#define APP "fifo"
enum { CALLERS = 64, GROUP = 3, AGAIN = 1000 };
enum { LATE_MS = 2000 }; /* longer than it takes all to line up */

/* How a caller comes; he is the number of his row in the table, or of his first. */
typedef enum { BLOCKS, HAS_TICKET, IN_GROUP, GIVES_UP, HAS_NO_TIME } manner;

typedef struct caller {
    struct line *line;
    int number;
    manner how;
    sem_t turn;
    pthread_t thread;
    pqpool_ticket *ticket;
    pqpool_error err; /* of a thread: that of its first statement */
} caller;

typedef struct line {
    pqpool *pool;
    int depth;
    _Atomic int again; /* those who came a second time, and were answered */
    caller callers[CALLERS];
} line;

typedef struct events {
    _Atomic int enqueues, dequeues, timeouts, most_waiting, unordered;
} events;

static PGconn *ctl, *locker;
static events seen;

static void on_event(const pqpool_event *e, void *arg)
{
    (void)arg;
    if (e->id == PQPOOL_EVENT_ENQUEUE) {
        seen.enqueues++;
        if (e->waiting <= seen.most_waiting)
            seen.unordered++;
        seen.most_waiting = e->waiting;
    }
    seen.dequeues += e->id == PQPOOL_EVENT_DEQUEUE;
    seen.timeouts += e->id == PQPOOL_EVENT_TIMEOUT;
}

/* Nothing but one shared connection, on which a statement may take as long as it likes. */
static pqpool *open_narrow(int depth)
{
    char conninfo[300];
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_event = on_event};
    snprintf(conninfo, sizeof conninfo,
             "application_name=" APP " pool_max_size=2 pool_shared_max=1 pool_pipeline_depth=%d "
             "pool_acquire_timeout=-1 pool_stall_threshold=off pool_slow_lane_threshold=off "
             "pool_log_level=error",
             depth);
    pqpool *pool = open_pool(conninfo, &hooks);
    PQclear(pqpool_exec(pool, "select 1", NULL));
    if (!eventually(stats(pool).shared == 1))
        bail("there is no shared connection");
    return pool;
}

static void lock_table(void)
{
    one(ctl, "truncate line restart identity");
    one(locker, "begin");
    one(locker, "lock table line in access exclusive mode");
}

static void unlock_table(void)
{
    one(locker, "rollback");
}

static pqpool_stmt insertion(char number[static 12], const char *const values[static 1], int who)
{
    snprintf(number, 12, "%d", who);
    return (pqpool_stmt){PQPOOL_STMT, .sql = "insert into line(who) values ($1)", .n_params = 1,
                         .param_values = values};
}

static void insert(pqpool *pool, int who, int timeout_ms, pqpool_error *err)
{
    char number[12];
    const char *values[] = {number};
    pqpool_stmt s = insertion(number, values, who);
    s.timeout_ms = timeout_ms;
    PQclear(pqpool_exec_stmt(pool, &s, err));
}

static pqpool_ticket *submit(pqpool *pool, int who, pqpool_error *err)
{
    char number[12];
    const char *values[] = {number};
    pqpool_stmt s = insertion(number, values, who);
    return pqpool_submit(pool, &s, err);
}

static void insert_group(pqpool *pool, int who, pqpool_error *err)
{
    char numbers[GROUP][12];
    const char *values[GROUP];
    pqpool_stmt stmts[GROUP];
    PGresult *results[GROUP];
    pqpool_error errors[GROUP];
    for (int i = 0; i < GROUP; i++) {
        values[i] = numbers[i];
        stmts[i] = insertion(numbers[i], &values[i], who + i * AGAIN * 10);
    }
    pqpool_code code = pqpool_exec_all(pool, stmts, GROUP, PQPOOL_EACH, results, errors);
    *err = errors[0];
    err->code = (int32_t)code;
    for (int i = 0; i < GROUP; i++)
        PQclear(results[i]);
}

/* ---- the order ---- */

static manner manner_of(int i)
{
    static const manner turns[] = {BLOCKS, HAS_TICKET, BLOCKS,   IN_GROUP,   HAS_TICKET, BLOCKS, GIVES_UP,
                                   BLOCKS, HAS_TICKET, IN_GROUP, HAS_TICKET, BLOCKS,     BLOCKS, HAS_NO_TIME};
    return turns[(size_t)i % (sizeof turns / sizeof *turns)];
}

static bool has_thread(const caller *c)
{
    return c->how == BLOCKS || c->how == IN_GROUP || c->how == HAS_NO_TIME;
}

/* Comes when it is his turn, and once more as soon as he has been served. */
static void *come(void *arg)
{
    caller *c = arg;
    pqpool *pool = c->line->pool;
    pqpool_error err;
    while (sem_wait(&c->turn) != 0)
        ;
    if (c->how == IN_GROUP)
        insert_group(pool, c->number, &c->err);
    else
        insert(pool, c->number, c->how == HAS_NO_TIME ? LATE_MS * tap_slowness() : 0, &c->err);
    if (c->err.code != PQPOOL_OK)
        return NULL;
    insert(pool, c->number + AGAIN, 0, &err);
    c->line->again += err.code == PQPOOL_OK;
    return NULL;
}

/* Lets one come and waits until he stands where he will stand: on the connection, or in the queue. */
static void let_come(line *l, int i, int *on_lane, int *queued)
{
    caller *c = &l->callers[i];
    if (has_thread(c))
        sem_post(&c->turn);
    else if (!(c->ticket = submit(l->pool, i, &c->err)))
        bail("submit: %s", c->err.message);
    bool room = *queued == 0 && *on_lane < l->depth;
    if (room)
        *on_lane += c->how == IN_GROUP ? GROUP : 1;
    else
        ++*queued;
    if (!eventually(stats(l->pool).unsent == *queued && stats(l->pool).statements == *on_lane))
        bail("after caller %d there are %d unsent, not %d, and %d on the connection, not %d", i,
             stats(l->pool).unsent, *queued, stats(l->pool).statements, *on_lane);
}

static int line_up(line *l)
{
    int on_lane = 0, queued = 0;
    for (int i = 0; i < CALLERS; i++) {
        caller *c = &l->callers[i];
        *c = (caller){.line = l, .number = i, .how = i < l->depth ? BLOCKS : manner_of(i)};
        sem_init(&c->turn, 0, 0);
        if (has_thread(c) && pthread_create(&c->thread, NULL, come, c) != 0)
            bail("pthread_create");
    }
    for (int i = 0; i < CALLERS; i++)
        let_come(l, i, &on_lane, &queued);
    return queued;
}

static int count_of(const line *l, manner how)
{
    int n = 0;
    for (int i = 0; i < CALLERS; i++)
        n += l->callers[i].how == how;
    return n;
}

/* Those in the middle of the queue who leave it before they are served. */
static int leave_early(line *l)
{
    int gone = 0;
    for (int i = 0; i < CALLERS; i++) {
        caller *c = &l->callers[i];
        if (c->how == GIVES_UP)
            pqpool_abandon(c->ticket);
        if (c->how == HAS_NO_TIME)
            pthread_join(c->thread, NULL);
        gone += c->how == GIVES_UP || c->how == HAS_NO_TIME;
    }
    return gone;
}

static int collect(line *l)
{
    int failed = 0;
    for (int i = 0; i < CALLERS; i++) {
        caller *c = &l->callers[i];
        if (c->how == HAS_TICKET)
            PQclear(pqpool_wait(c->ticket, -1, &c->err));
        else if (c->how == BLOCKS || c->how == IN_GROUP)
            pthread_join(c->thread, NULL);
        if (c->how != GIVES_UP && c->how != HAS_NO_TIME && c->err.code != PQPOOL_OK && failed++ == 0)
            diag("caller %d: %s", i, c->err.message);
        sem_destroy(&c->turn);
    }
    return failed;
}

/* What must stand in the table, in its order: the members of a group as in a row. */
static void expected_order(const line *l, char *text, size_t size)
{
    size_t end = 0;
    for (int i = 0; i < CALLERS; i++) {
        manner how = l->callers[i].how;
        if (how == GIVES_UP || how == HAS_NO_TIME)
            continue;
        for (int k = 0; k < (how == IN_GROUP ? GROUP : 1); k++)
            end += (size_t)snprintf(text + end, size - end, "%s%d", end ? " " : "", i + k * AGAIN * 10);
    }
}

static void in_order(int depth)
{
    static line l;
    char want[2000];
    l = (line){.pool = open_narrow(depth), .depth = depth};
    lock_table();
    seen = (events){0};
    int64_t before = stats(l.pool).enqueues;
    int queued = line_up(&l);
    expected_order(&l, want, sizeof want);
    ok(queued == CALLERS - depth && count_of(&l, IN_GROUP) > 5 && count_of(&l, HAS_TICKET) > 10,
       "B12: at depth %d, %d of %d callers find no room: threads, tickets and groups", depth, queued,
       CALLERS);
    is_int(stats(l.pool).waiting, queued, "B12: all of them are counted as waiting");
    is_int(stats(l.pool).enqueues - before, queued, "B12: and as enqueued");
    ok(eventually(seen.enqueues == queued), "B12: by as many events");
    ok(seen.unordered == 0 && seen.most_waiting == queued,
       "B12: each of which finds one more waiting than the one before");
    is_int(stats(l.pool).shared, 1, "A3: all that while there is one shared connection");

    int no_time = count_of(&l, HAS_NO_TIME), gone = leave_early(&l);
    ok(eventually(stats(l.pool).unsent == queued - gone), "B9: %d leave the queue before they are served",
       gone);
    int not_sent = 0;
    for (int i = 0; i < CALLERS; i++)
        not_sent += l.callers[i].how == HAS_NO_TIME && l.callers[i].err.code == PQPOOL_ETIMEDOUT &&
                    l.callers[i].err.outcome == PQPOOL_NOT_SENT;
    is_int(not_sent, no_time, "B9: those who ran out of time are told ETIMEDOUT, NOT_SENT");
    ok(eventually(seen.timeouts == no_time), "B12: each with an event");

    unlock_table();
    is_int(collect(&l), 0, "B10: all others have their answers");
    is_str(
        one(ctl, "select string_agg(who::text, ' ' order by seq) from line where who / %d %% 10 = 0", AGAIN),
        want, "A3: at depth %d the server has run them in the order in which they came", depth);
    is_int(l.again, count_of(&l, BLOCKS) + count_of(&l, IN_GROUP),
           "every thread that was served came once more");
    is_str(one(ctl,
               "select (select max(seq) from line where who / %d %% 10 = 0) < "
               "(select min(seq) from line where who / %d %% 10 = 1)",
               AGAIN, AGAIN),
           "t", "A3: and none of them overtook one who stood in the queue");
    ok(eventually(seen.dequeues == seen.enqueues - gone),
       "B12: every enqueued caller but those who left was dequeued (%d of %d)", seen.dequeues, seen.enqueues);
    pqpool_stats_data s = stats(l.pool);
    ok(s.unsent == 0 && s.waiting == 0 && s.promised == 0 && eventually(stats(l.pool).statements == 0),
       "B11: nothing is left in the queue or on the connection");
    close_pool(l.pool);
}

/* ---- those who may not wait ---- */

/* The connection's room is taken until unlock_table(). */
static void fill(line *l, int depth)
{
    *l = (line){.pool = open_narrow(depth), .depth = depth};
    lock_table();
    for (int i = 0; i < depth; i++)
        if (!(l->callers[i].ticket = submit(l->pool, i, &l->callers[i].err)))
            bail("submit: %s", l->callers[i].err.message);
    if (!eventually(stats(l->pool).statements == depth))
        bail("%d statements are on the connection", stats(l->pool).statements);
}

static void empty(line *l, int tickets)
{
    unlock_table();
    int failed = 0;
    for (int i = 0; i < tickets; i++) {
        PQclear(pqpool_wait(l->callers[i].ticket, -1, &l->callers[i].err));
        failed += l->callers[i].err.code != PQPOOL_OK;
    }
    is_int(failed, 0, "B9: those who had room, or waited, are served");
    is_int(atoi(one(ctl, "select count(*) from line")), tickets, "B10: and nobody else");
    close_pool(l->pool);
}

static void set(pqpool *pool, const char *option, const char *value)
{
    pqpool_error err;
    if (pqpool_set(pool, option, value, &err) != PQPOOL_OK)
        bail("%s", err.message);
}

static void is_refused(const pqpool_error *err, pqpool_code code, const char *words, const char *name)
{
    is_int(err->code, code, "B12: %s is %s (%s)", name, pqpool_code_name(code), err->message);
    is_int(err->outcome, PQPOOL_NOT_SENT, "B10:   NOT_SENT");
    has(err->message, words, "B12:   in words of its own");
}

/* A statement of each manner. */
static void are_refused(pqpool *pool, pqpool_code code, const char *words, const char *when)
{
    char name[100];
    pqpool_error err;
    insert(pool, 100, 0, &err);
    snprintf(name, sizeof name, "a statement %s", when);
    is_refused(&err, code, words, name);
    insert_group(pool, 100, &err);
    snprintf(name, sizeof name, "a group %s", when);
    is_refused(&err, code, words, name);
    pqpool_ticket *t = submit(pool, 100, &err);
    if (t)
        PQclear(pqpool_wait(t, -1, &err));
    snprintf(name, sizeof name, "a ticket %s", when);
    is_refused(&err, code, words, name);
    ok(code == PQPOOL_ETIMEDOUT || !t, "B12:   and it was never given out");
}

static void without_waiting(int depth)
{
    static line l;
    fill(&l, depth);
    set(l.pool, "wait", "off");
    int64_t enqueues = stats(l.pool).enqueues;
    are_refused(l.pool, PQPOOL_ENOWAIT, "no shared connection has room", "with wait=off");
    is_int(stats(l.pool).enqueues, enqueues, "B12: none of them was enqueued");
    empty(&l, depth);
}

static void in_a_full_queue(int depth)
{
    static line l;
    enum { LIMIT = 3 };
    fill(&l, depth);
    set(l.pool, "queue_limit", "3");
    for (int i = depth; i < depth + LIMIT; i++)
        if (!(l.callers[i].ticket = submit(l.pool, i, &l.callers[i].err)))
            bail("submit: %s", l.callers[i].err.message);
    is_int(stats(l.pool).unsent, LIMIT, "B11: queue_limit callers wait");
    are_refused(l.pool, PQPOOL_EQUEUEFULL, "3 callers wait", "beyond queue_limit");
    is_int(stats(l.pool).unsent, LIMIT, "B11: no more wait than before");
    empty(&l, depth + LIMIT);
}

static void out_of_time(int depth)
{
    static line l;
    fill(&l, depth);
    set(l.pool, "acquire_timeout", "150ms");
    seen = (events){0};
    int64_t timeouts = stats(l.pool).timeouts;
    double began = now_s();
    are_refused(l.pool, PQPOOL_ETIMEDOUT, "no shared connection had room within 1", "past acquire_timeout");
    double took = now_s() - began;
    ok(took >= 3 * 0.15 && took < 3 * 0.15 + 1.0 * tap_slowness(), "B12: in time (%.0f ms for three)",
       took * 1000);
    is_int(stats(l.pool).timeouts - timeouts, 3, "B12: three time-outs are counted");
    ok(eventually(seen.timeouts == 3), "B12: by as many events");
    set(l.pool, "acquire_timeout", "0");
    are_refused(l.pool, PQPOOL_ETIMEDOUT, "no shared connection had room within 0 ms",
                "with acquire_timeout=0");
    empty(&l, depth);
}

int main(void)
{
    tap_begin(60);
    ctl = control();
    locker = control();
    one(ctl, "create table line (seq bigserial, who int)");
    static const int depths[] = {1, 4};
    for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
        in_order(depths[i]);
        without_waiting(depths[i]);
        in_a_full_queue(depths[i]);
        out_of_time(depths[i]);
    }
    ok(eventually(backends(ctl, APP) == 0), "no server process is left behind");
    PQfinish(locker);
    PQfinish(ctl);
    return done_testing();
}
