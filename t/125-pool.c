/*
 * How the pool grows, reuses, ages and refills, where pools have gone wrong. New connections stop at a gate, so that who
 * waits for whom is known; the two tests that press it say what must hold whatever happened.
 */
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/prctl.h>

#include "support/late.h"
#include "support/nemesis.h"

#define NAME "pool-test"
#define APP "application_name=" NAME " pool_log_level=error "

static PGconn *ctl;

/* ---- the desk: what the hooks do, and what they have seen ---- */

enum { NOTES = 4096, ALL = 1000000 };

typedef struct note {
    double at;
    int id, connection;
    char text[60];
} note;

typedef struct desk {
    _Atomic int begun, under_way, most; /* attempts to connect; how many at a time */
    _Atomic int arrived, may_pass,
        to_fail; /* at the gate: new connections, those let through, those that fail there */
    _Atomic int to_refuse, refused; /* by on_acquire */
    pthread_mutex_t mu;
    int n;
    note notes[NOTES];
} desk;

/* The first of the hooks to run in an attempt. */
static int begin_connect(char *buf, size_t size, void *arg)
{
    desk *d = arg;
    (void)buf, (void)size;
    d->begun++;
    int now = ++d->under_way, most = d->most;
    while (now > most && !atomic_compare_exchange_weak(&d->most, &most, now))
        ;
    return 0;
}

static int pass_gate(PGconn *conn, void *arg)
{
    desk *d = arg;
    (void)conn;
    int mine = d->arrived++;
    bool passed = eventually(mine < d->may_pass);
    d->under_way--;
    return !passed || (d->to_fail > 0 && d->to_fail-- > 0);
}

static int refuse(PGconn *conn, void *arg)
{
    desk *d = arg;
    (void)conn;
    if (d->to_refuse <= 0)
        return 0;
    d->to_refuse--;
    d->refused++;
    return 1;
}

static void write_down(const pqpool_event *e, void *arg)
{
    desk *d = arg;
    pthread_mutex_lock(&d->mu);
    if (d->n < NOTES) {
        d->notes[d->n] = (note){.at = now_s(), .id = e->id, .connection = e->connection};
        snprintf(d->notes[d->n++].text, sizeof d->notes->text, "%s", e->text);
    }
    pthread_mutex_unlock(&d->mu);
}

/* A pool at a new desk, which is *made. */
static pqpool *open_at_desk(const char *options, int may_pass, desk **made)
{
    desk *d = *made = calloc(1, sizeof *d);
    char conninfo[300];
    if (!d)
        bail("no memory");
    pthread_mutex_init(&d->mu, NULL);
    d->may_pass = may_pass;
    pqpool_hooks hooks = {PQPOOL_HOOKS,           .arg = d,
                          .on_event = write_down, .on_connect = pass_gate,
                          .on_acquire = refuse,   .on_conninfo = begin_connect};
    snprintf(conninfo, sizeof conninfo, APP "%s", options);
    return open_pool(conninfo, &hooks);
}

static void leave_desk(pqpool *pool, desk *d)
{
    d->may_pass = ALL;
    close_pool(pool);
    pthread_mutex_destroy(&d->mu);
    free(d);
}

/* How many notes are of this kind: of this connection, if not 0; with this in the text, if not NULL. */
static int noted(desk *d, int id, int connection, const char *text)
{
    int n = 0;
    pthread_mutex_lock(&d->mu);
    for (int i = 0; i < d->n; i++)
        n += d->notes[i].id == id && (!connection || d->notes[i].connection == connection) &&
             (!text || strstr(d->notes[i].text, text));
    pthread_mutex_unlock(&d->mu);
    return n;
}

/* When; 0: it has not happened. */
static double time_of(desk *d, int id, int connection)
{
    double at = 0;
    pthread_mutex_lock(&d->mu);
    for (int i = 0; i < d->n && at == 0; i++)
        if (d->notes[i].id == id && d->notes[i].connection == connection)
            at = d->notes[i].at;
    pthread_mutex_unlock(&d->mu);
    return at;
}

/* ---- tools ---- */

static void give(pqpool_lease *lease)
{
    pqpool_code code = pqpool_release(lease);
    if (code != PQPOOL_OK)
        bail("release: %s", pqpool_code_name(code));
}

static int pid_of(const pqpool_lease *lease)
{
    return PQbackendPID(lease->conn);
}

static void set(pqpool *pool, const char *option, const char *value)
{
    pqpool_error err;
    if (pqpool_set(pool, option, value, &err) != PQPOOL_OK)
        bail("%s", err.message);
}

/* Callers who take a lease once each, look whether it works, do something to it and give it back. */
typedef struct guests {
    pqpool *pool;
    int hold_ms, timeout_ms;
    void (*use)(int i, pqpool_lease *lease); /* gives it back */
    _Atomic int come, served, failed, broken, turn, out_of_turn;
} guests;

static void visit(int i, void *arg)
{
    guests *g = arg;
    pqpool_lease lease;
    pqpool_error err;
    g->come++;
    if (pqpool_acquire_within(g->pool, g->timeout_ms, &lease, &err) != PQPOOL_OK) {
        if (g->failed++ == 0 && err.code != PQPOOL_ETIMEDOUT)
            diag("a guest had no lease: %s", err.message);
        return;
    }
    g->out_of_turn += g->turn++ != i;
    if (g->hold_ms > 0)
        sleep_ms(g->hold_ms);
    if (g->use) {
        PGresult *res = PQexec(lease.conn, "select 1");
        g->broken += PQresultStatus(res) != PGRES_TUPLES_OK;
        PQclear(res);
        g->served++;
        g->use(i, &lease);
    } else {
        g->served++;
        give(&lease);
    }
}

/* One after another, each when the one before him waits. */
typedef struct guest {
    guests *all;
    int number;
    pthread_t thread;
} guest;

static void *visit_alone(void *arg)
{
    guest *one = arg;
    visit(one->number, one->all);
    return NULL;
}

static void line_up(guests *g, guest *line, int n)
{
    for (int i = 0; i < n; i++) {
        line[i] = (guest){.all = g, .number = i};
        if (pthread_create(&line[i].thread, NULL, visit_alone, &line[i]) != 0)
            bail("pthread_create");
        if (!eventually(stats(g->pool).waiting == i + 1))
            bail("guest %d does not wait", i);
    }
}

static void see_off(guest *line, int n)
{
    for (int i = 0; i < n; i++)
        pthread_join(line[i].thread, NULL);
}

/* ---- growth ---- */

static void burst_on_nothing(void)
{
    desk *d;
    guests g = {.pool = open_at_desk("pool_max_size=64", 0, &d), .timeout_ms = -1};
    crew c;
    crew_start(&c, 64, visit, &g);
    ok(eventually(d->arrived == 4) && eventually(stats(g.pool).waiting == 60),
       "A1: 64 callers at once on an empty pool: as many connects as connect_concurrency allows");
    is_int(stats(g.pool).enqueues, 60,
           "A3: the 60 whom no connect under way covers are announced as waiting");
    d->may_pass = 4;
    ok(eventually(g.served == 64),
       "A2: the first four connections serve all 64, while no other comes up: returned ones go to waiters");
    ok(stats(g.pool).connects <= 4,
       "A2: nobody was served by a fifth"); /* the fourth may still be on its way */
    crew_join(&c);
    ok(d->begun <= 8,
       "A1: each of them that came up ordered one more at most, and none for those served (%d)",
       d->begun - 4);
    is_int(d->most, 4, "A5: never more attempts at a time than connect_concurrency");
    d->may_pass = ALL;
    ok(eventually(stats(g.pool).connecting == 0), "the others come up when everybody has gone");
    pqpool_stats_data s = stats(g.pool);
    ok(s.connects == d->begun && s.idle == s.connects && s.total <= 8,
       "A1: they join the pool, and no more are made (%d)", (int)s.connects);
    is_int(g.failed, 0, "nobody was sent away");
    leave_desk(g.pool, d);
}

/* Where logins are slow, a burst is served by what comes back long before the first of them is done. */
static void burst_on_a_few(void)
{
    desk *d;
    pqpool *pool = open_at_desk("pool_max_size=50 pool_initial_size=5 pool_connect_concurrency=1", 5, &d);
    guests g = {.pool = pool, .hold_ms = 2, .timeout_ms = -1};
    ok(eventually(stats(pool).idle == 5), "five connections are ready");
    in_threads(50, visit, &g);
    is_int(g.served, 50, "A2: they serve 50 callers at once, while a slow login goes on");
    ok(d->begun == 5 || d->begun == 6, "A1: for which one connect was begun, no more (%d)", d->begun - 5);
    is_int(d->most, 1, "A5: with connect_concurrency=1 one at a time, also at the start");
    leave_desk(pool, d);
}

/* Each connect under way is for one who waits: who comes when the ones they were begun for have left orders none. */
static void covered(void)
{
    desk *d;
    pqpool *pool = open_at_desk("pool_max_size=64 pool_connect_concurrency=64", 0, &d);
    guests stay = {.pool = pool, .timeout_ms = -1}, leave = {.pool = pool, .timeout_ms = 50};
    crew staying, leaving;
    crew_start(&staying, 10, visit, &stay);
    ok(eventually(d->arrived == 10), "A1: ten callers: ten connects");
    crew_start(&leaving, 5, visit, &leave);
    ok(eventually(d->arrived == 15), "A1: five more callers: five more");
    is_int(stats(pool).waiting, 0, "A3: all are covered, and nobody is announced as waiting");
    crew_join(&leaving);
    is_int(leave.failed, 5, "five leave when their time is up");
    is_int(stats(pool).connecting, 15, "A1: the connects begun for them go on");
    pqpool_lease lease;
    pqpool_error err;
    is_int(pqpool_acquire_within(pool, 20, &lease, &err), PQPOOL_ETIMEDOUT, "one comes and goes");
    has(err.message, "15 connecting", "A1: he is covered by them: no connect is ordered for him");
    d->may_pass = ALL;
    crew_join(&staying);
    is_int(stay.served, 10, "those who stayed are served");
    ok(eventually(stats(pool).connecting == 0), "all connects come to their end");
    pqpool_stats_data s = stats(pool);
    ok(d->begun == 15 && s.connects == 15 && s.idle == 15,
       "A1: 15 in all, and all of them are in the pool (%d)", (int)s.connects);
    is_int(s.enqueues, 0, "A3: nobody was ever enqueued");
    leave_desk(pool, d);
}

/* ---- connects that come too late, or fail ---- */

static void requester_gone(bool statement)
{
    desk *d;
    pqpool *pool = open_at_desk("pool_max_size=2", 0, &d);
    const char *who = statement ? "a statement" : "a lease";
    vain v = {.pool = pool, .statement = statement, .timeout_ms = 60};
    vain_wait(0, &v);
    is_int(v.err.code, PQPOOL_ETIMEDOUT, "A4: %s times out while its connect is held up", who);
    is_int(stats(pool).connecting, 1, "A1: the connect goes on");
    d->may_pass = 1;
    ok(eventually(stats(pool).idle == 1),
       "A3: and its connection joins the pool, though who wanted it has left");
    pqpool_lease lease;
    is_int(pqpool_acquire_within(pool, 0, &lease, NULL), PQPOOL_OK,
           "A2: where it serves who comes next, at once");
    give(&lease);
    is_int(d->begun, 1, "A1: no other was made");
    d->may_pass = ALL; /* on_connect runs once more when it is shared */
    PGresult *res = pqpool_exec(pool, "select 'served'", NULL);
    is_str(value(res), "served", "A2: or a statement");
    PQclear(res);
    is_int(stats(pool).connects, 1, "A1: without another connect");
    leave_desk(pool, d);
}

static void returned_before_new(void)
{
    desk *d;
    pqpool *pool = open_at_desk("pool_max_size=2", 1, &d);
    pqpool_lease lease = take(pool);
    int first = pid_of(&lease);
    guests g = {.pool = pool, .timeout_ms = -1};
    crew c;
    crew_start(&c, 1, visit, &g);
    ok(eventually(d->arrived == 2), "a second connection is on its way for one who waits");
    give(&lease);
    crew_join(&c);
    is_int(g.served, 1, "A2: he is served by the first, which comes back before it");
    d->may_pass = 2;
    ok(eventually(stats(pool).idle == 2), "A1: the second one stays in the pool");
    lease = take(pool);
    ok(pid_of(&lease) != first, "A2: as the most recently used");
    pqpool_lease other = take(pool);
    is_int(pid_of(&other), first, "A2: before the first");
    give(&lease), give(&other);
    leave_desk(pool, d);
}

static void failed_connects(void)
{
    desk *d;
    pqpool *pool = open_at_desk("pool_max_size=1", 0, &d);
    guests g = {.pool = pool, .timeout_ms = 10000 * tap_slowness()};
    guest line[3];
    line[0] = (guest){.all = &g, .number = 0};
    if (pthread_create(&line[0].thread, NULL, visit_alone, &line[0]) != 0)
        bail("pthread_create");
    ok(eventually(d->arrived == 1), "a connect is held up, and one waits for it");
    for (int i = 1; i < 3; i++) {
        line[i] = (guest){.all = &g, .number = i};
        if (pthread_create(&line[i].thread, NULL, visit_alone, &line[i]) != 0)
            bail("pthread_create");
        ok(eventually(stats(pool).waiting == i), "%d more behind him", i);
    }
    d->to_fail = 2;
    double began = now_s();
    d->may_pass = ALL;
    see_off(line, 3);
    double took = now_s() - began;
    is_int(g.served, 3, "A3: a connect that fails makes room for the next: all three are served");
    is_int(g.out_of_turn, 0, "A3: in their order");
    is_int(stats(pool).connect_failures, 2, "A5: after two failures");
    ok(took >= 0.08 && took < 0.3 * tap_slowness() + 0.2, "A5: some 50 ms apart (%.0f ms in all)",
       took * 1000);
    is_int(stats(pool).connects, 1, "A1: on one connection");
    leave_desk(pool, d);

    pool = open_at_desk("pool_max_size=4 pool_min_idle=2", ALL, &d);
    ok(eventually(stats(pool).idle == 2), "two connections are kept ready");
    d->to_fail = 3;
    one(ctl,
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = '" NAME "'");
    ok(eventually(stats(pool).connects == 4 && stats(pool).idle == 2),
       "A6: min_idle is made up for, unasked, though the first attempts fail");
    ok(d->to_fail == 0 && d->begun == 7, "A5: by one attempt at a time and no more than it takes (%d)",
       d->begun);
    leave_desk(pool, d);
}

/* ---- connections that end while others wait for them ---- */

static void end_badly(int i, pqpool_lease *lease)
{
    int pid = pid_of(lease);
    PGconn *other = i % 4 == 3 ? NULL : PQconnectdb("");
    switch (i % 4) {
    case 0:
        pqpool_discard(lease);
        break;
    case 1:
        one(other, "select pg_terminate_backend(%d, 5000)", pid); /* unnoticed by its user */
        give(lease);
        break;
    case 2:
        one(other, "select pg_terminate_backend(%d, 5000)", pid);
        PQclear(PQexec(lease->conn, "select 1"));
        give(lease);
        break;
    default:
        PQsendQuery(lease->conn, "select generate_series(1, 10)");
        give(lease);
    }
    PQfinish(other);
}

static void replaced_for_waiters(void)
{
    enum { WAITERS = 12 };
    desk *d;
    pqpool *pool = open_at_desk("pool_max_size=1", ALL, &d);
    pqpool_lease lease = take(pool);
    guests g = {.pool = pool, .timeout_ms = 20000 * tap_slowness(), .use = end_badly};
    guest line[WAITERS];
    line_up(&g, line, WAITERS);
    pqpool_discard(&lease);
    see_off(line, WAITERS);
    is_int(g.served, WAITERS,
           "A7: a connection that is discarded, ended, lost or left in disorder is replaced for who waits");
    is_int(g.broken, 0, "A7: nobody is lent one that is broken");
    is_int(g.out_of_turn, 0, "A3: and all are served in the order they came");
    is_int(g.failed, 0, "A4: each in his time");
    ok(eventually(stats(pool).total == 0), "the last one's is closed too");
    is_int(stats(pool).connects, WAITERS + 1, "A1: one connect for each of them");
    leave_desk(pool, d);
}

/* max_idle does not count a connection that somebody waits for. */
static void kept_for_waiters(void)
{
    enum { WAITERS = 10 };
    desk *d;
    pqpool *pool = open_at_desk("pool_max_size=2 pool_max_idle=0", ALL, &d);
    pqpool_lease a = take(pool), b = take(pool);
    guests g = {.pool = pool, .timeout_ms = -1};
    guest line[WAITERS];
    line_up(&g, line, WAITERS);
    give(&a), give(&b);
    see_off(line, WAITERS);
    is_int(g.served, WAITERS, "A6: max_idle=0: %d who wait are served", WAITERS);
    is_int(stats(pool).connects, 2,
           "A6: by the two connections there are: what somebody waits for is not idle");
    ok(eventually(stats(pool).total == 0), "A6: afterwards none is kept");
    leave_desk(pool, d);
}

/* ---- no longer than asked ---- */

static void refused_again_and_again(void)
{
    enum { CALLERS = 8 };
    desk *d;
    pqpool *pool = open_at_desk("pool_max_size=3", ALL, &d);
    vain v[CALLERS];
    for (int i = 0; i < CALLERS; i++)
        v[i] = (vain){.pool = pool, .timeout_ms = 100 + 40 * i};
    d->to_refuse = ALL;
    in_threads(CALLERS, vain_wait, v);
    vain_judge(v, CALLERS, "when on_acquire refuses every connection");
    is_int(vain_told(v, CALLERS, PQPOOL_ECONNECT, PQPOOL_ETIMEDOUT, PQPOOL_NOT_SENT), CALLERS,
           "A4: and they are told why");
    ok(d->refused > 3, "A4: though several were handed out to them meanwhile (%d)", d->refused);
    double rounds = (v[CALLERS - 1].ended - v[0].began) / 0.04 + 1; /* one each 50 ms, +-20 % */
    ok(stats(pool).connects <= 3 + 3 + (int)rounds, "A5: without a storm of connects (%d)",
       (int)stats(pool).connects);

    d->to_refuse = 5;
    d->refused = 0;
    guests g = {.pool = pool, .timeout_ms = 10000 * tap_slowness()};
    in_threads(4, visit, &g);
    ok(g.served == 4 && d->refused == 5, "A4: when it takes them again, all who wait are served (%d refused)",
       d->refused);
    leave_desk(pool, d);
}

/* ---- ageing ---- */

enum { USERS = 6, USES = 100, MOST_USES = 4 };

static void use_often(int i, void *arg)
{
    (void)i;
    for (int k = 0; k < USES; k++) {
        pqpool_lease lease = take(arg);
        give(&lease);
    }
}

static void worn_out(void)
{
    desk *d;
    pqpool *pool = open_at_desk("pool_max_size=3 pool_max_uses=4 pool_connect_concurrency=3", ALL, &d);
    in_threads(USERS, use_often, pool);
    pqpool_stats_data s = stats(pool);
    is_int(s.acquires, USERS * USES, "A6: max_uses: all callers are served while connections come and go");
    int closed = noted(d, PQPOOL_EVENT_CLOSE, 0, "max_uses"), over = 0, early = 0;
    for (int id = 1; id <= (int)s.connects; id++) {
        int uses = noted(d, PQPOOL_EVENT_ACQUIRE, id, NULL);
        over += uses > MOST_USES;
        early += uses < MOST_USES && noted(d, PQPOOL_EVENT_CLOSE, id, NULL) > 0;
    }
    is_int(s.events_dropped, 0, "and all of it was seen");
    is_int(over, 0, "A6: no connection is lent more often than max_uses");
    is_int(early, 0, "A6: none is closed before");
    ok(closed >= USERS * USES / MOST_USES - 3 && s.connects <= closed + 6,
       "A6: each is replaced as often as it must be (%d closed, %d made)", closed, (int)s.connects);
    leave_desk(pool, d);
}

static void least_used_first(void)
{
    desk *d;
    pqpool *pool = open_at_desk("pool_max_size=4 pool_initial_size=4 pool_idle_timeout=10min", ALL, &d);
    ok(eventually(stats(pool).idle == 4), "four connections are idle");
    pqpool_lease lease[4];
    int by_use[4]; /* their numbers, the one used last at the end */
    for (int i = 0; i < 4; i++)
        lease[i] = take(pool);
    for (int i = 0; i < 4; i++)
        by_use[i] = pid_of(&lease[i]);
    for (int i = 0; i < 4; i++)
        give(&lease[i]);
    set(pool, "max_idle", "2");
    is_int(stats(pool).idle, 2, "A6: max_idle holds as soon as it is lowered");
    lease[0] = take(pool), lease[1] = take(pool);
    ok(pid_of(&lease[0]) == by_use[3] && pid_of(&lease[1]) == by_use[2],
       "A6: those that go are the ones used least recently");
    give(&lease[0]), give(&lease[1]);
    set(pool, "max_idle", "max_size");
    set(pool, "min_idle", "4");
    ok(eventually(stats(pool).idle == 4), "A6: min_idle is made up as soon as it is raised");
    set(pool, "min_idle", "0");
    set(pool, "idle_timeout", "400ms");
    lease[0] = take(pool);
    int busy = pid_of(&lease[0]), changed = 0;
    give(&lease[0]);
    ok(eventually((lease[0] = take(pool), changed += pid_of(&lease[0]) != busy, give(&lease[0]),
                   stats(pool).total == 1)),
       "A6: idle_timeout closes what one caller does not need");
    is_int(changed, 0, "A2: who is served by the same one all the time");
    is_int(noted(d, PQPOOL_EVENT_CLOSE, 0, "idle_timeout"), 3, "A6: three were closed for that");
    ok(eventually(stats(pool).total == 0), "A6: when he has gone it goes too");
    leave_desk(pool, d);
}

/* Made together, they do not all have to be made again together. */
enum { TOGETHER = 24, LIFE_MS = 1500 };

typedef struct generation {
    pqpool *pool;
    desk *d;
} generation;

static void beget(generation *g)
{
    g->pool = open_at_desk("pool_max_size=24 pool_initial_size=24 pool_connect_concurrency=24 "
                           "pool_max_lifetime=1500ms application_name=generation",
                           ALL, &g->d);
}

static void outlive(generation *g)
{
    ok(eventually(stats(g->pool).closes == TOGETHER), "A6: all of %d connections made together grow old",
       TOGETHER);
    double least = 1e9, most = 0;
    for (int id = 1; id <= TOGETHER; id++) {
        double life = time_of(g->d, PQPOOL_EVENT_CLOSE, id) - time_of(g->d, PQPOOL_EVENT_CONNECT, id);
        least = life < least ? life : least;
        most = life > most ? life : most;
    }
    is_int(noted(g->d, PQPOOL_EVENT_CLOSE, 0, "max_lifetime"), TOGETHER, "A6: that is why they are closed");
    ok(least >= LIFE_MS / 1000.0 * 0.85, "A6: not long before max_lifetime (%.0f ms)", least * 1000);
    ok(most <= LIFE_MS / 1000.0 + 0.1 * tap_slowness(), "A6: and none later (%.0f ms)", most * 1000);
    ok(most - least >= LIFE_MS / 1000.0 * 0.03, "A6: and not all at the same instant (%.0f ms apart)",
       (most - least) * 1000);
    is_int(stats(g->pool).connects, TOGETHER, "A1: none is made anew while nobody wants one");
    leave_desk(g->pool, g->d);
}

/* ---- handed over at the very moment the deadline passes ---- */

/*
 * Pairs of a pool with one connection, which the holder has, and a waiter who gives up after 1 ms. The holder, one thread
 * for all, gives the connection back when that is over: a little later if the waiter had it the time before, a little
 * earlier if he had not. So half of them come just in time, and as many just too late. After each try the connection must
 * be there, at once.
 */
enum { PAIRS = 16 };

typedef enum { TO_TAKE, HELD, GIVEN } phase;

typedef struct pair {
    pqpool *pool;
    pqpool_lease lease;
    phase at;
    sem_t go;
    _Atomic int64_t due; /* ns; when the waiter's time is over, 0: he has not come yet */
    _Atomic int result;  /* of the waiter; -1: not yet */
    int64_t shift, tries, got, missed, other, lost;
    _Atomic bool stop;
    pthread_t thread;
} pair;

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void *wait_1_ms(void *arg)
{
    pair *p = arg;
    prctl(PR_SET_TIMERSLACK, 1UL); /* woken at the deadline, not 50 us later */
    for (;;) {
        pqpool_lease lease;
        while (sem_wait(&p->go) != 0)
            ;
        if (p->stop)
            return NULL;
        p->due = now_ns() + 1000000;
        pqpool_code code = pqpool_acquire_within(p->pool, 1, &lease, NULL);
        if (code == PQPOOL_OK && pqpool_release(&lease) != PQPOOL_OK)
            code = PQPOOL_EINVAL;
        p->result = (int)code;
    }
}

static void take_back(pair *p)
{
    if (pqpool_acquire_within(p->pool, 0, &p->lease, NULL) != PQPOOL_OK) {
        p->lost++;
        p->lease = take(p->pool);
    }
    p->due = 0;
    p->result = -1;
    p->at = HELD;
    sem_post(&p->go);
}

static void give_in_time(pair *p, int64_t due)
{
    while (now_ns() < due + p->shift)
        ;
    give(&p->lease);
    p->at = GIVEN;
}

static void look_at_result(pair *p)
{
    int64_t step = p->tries++ < 60 ? 3000 : 500;
    if (p->result == PQPOOL_OK)
        p->got++, p->shift += step;
    else if (p->result == PQPOOL_ETIMEDOUT)
        p->missed++, p->shift -= step;
    else
        p->other++;
    p->at = TO_TAKE;
}

/* Does what is next for this pair, if it is time for it. False: its tries are over. */
static bool go_on(pair *p, int64_t tries)
{
    int64_t due = p->due;
    if (p->at == TO_TAKE && p->tries == tries)
        return false;
    if (p->at == TO_TAKE)
        take_back(p);
    else if (p->at == GIVEN && p->result >= 0)
        look_at_result(p);
    else if (p->at == HELD && due != 0 && now_ns() > due + p->shift - 20000)
        give_in_time(p, due);
    return true;
}

static void pair_off(pair *pairs)
{
    for (int i = 0; i < PAIRS; i++) {
        pairs[i].pool = open_pool(APP "pool_max_size=1", NULL);
        sem_init(&pairs[i].go, 0, 0);
        if (pthread_create(&pairs[i].thread, NULL, wait_1_ms, &pairs[i]) != 0)
            bail("pthread_create");
        pqpool_lease lease = take(pairs[i].pool);
        give(&lease);
    }
}

/* True: nothing is missing of this pair. */
static bool part(pair *p)
{
    p->stop = true;
    sem_post(&p->go);
    pthread_join(p->thread, NULL);
    pqpool_stats_data s = stats(p->pool);
    /* Who comes to stand in the queue when his time is over already is no time-out: he has not waited. */
    bool right = s.idle == 1 && s.total == 1 && s.leased == 0 && s.waiting == 0 && s.connects == 1 &&
                 s.acquires == s.releases && s.acquires == 1 + p->tries + p->got && s.timeouts <= p->missed;
    if (!right)
        diag("%d idle, %d leased, %d waiting of %d; %lld connects, %lld acquires, %lld releases, %lld "
             "time-outs for %lld",
             s.idle, s.leased, s.waiting, s.total, (long long)s.connects, (long long)s.acquires,
             (long long)s.releases, (long long)s.timeouts, (long long)p->missed);
    sem_destroy(&p->go);
    close_pool(p->pool);
    return right;
}

static void at_the_last_moment(int64_t tries)
{
    static pair pairs[PAIRS];
    pair_off(pairs);
    double began = now_s();
    for (bool more = true; more;) {
        more = false;
        for (int i = 0; i < PAIRS; i++)
            more |= go_on(&pairs[i], tries / PAIRS);
    }
    double took = now_s() - began;
    pair sum = {0};
    int right = 0;
    for (int i = 0; i < PAIRS; i++) {
        pair *p = &pairs[i];
        sum.tries += p->tries, sum.got += p->got, sum.missed += p->missed, sum.other += p->other;
        sum.lost += p->lost;
        right += part(p);
    }
    ok(sum.got > sum.tries / 4 && sum.missed > sum.tries / 4,
       "A4: of %lld waiters at the end of their time %lld were served at the last moment, %lld just not "
       "(%.1f s)",
       (long long)sum.tries, (long long)sum.got, (long long)sum.missed, took);
    is_int(sum.other, 0, "A4: nothing else became of any of them");
    is_int(sum.lost, 0, "A4: each time the connection was there again at once: it is never lost");
    is_int(right, PAIRS, "A4: every lease was given back, and nothing is out");
}

/* ---- the order of many ---- */

/*
 * 64 threads on 2 connections. Events come in the order in which things happened: so they tell who was granted after whom;
 * which thread an event is about follows from its connection, whose holders write themselves down one after another.
 *
 * Let in one by one, each when the one before stands in the queue, they have numbers in the order of the queue, and must be
 * granted in that order. Left alone, each knows how many had been enqueued before it called, and must be granted after them.
 */
enum { QUEUERS = 64, CONNECTIONS = 2, QUEUE_LEAST = 16 };

typedef struct grant {
    int connection;
    bool queued;
} grant;

typedef struct line {
    pqpool *pool;
    bool one_by_one;
    sem_t entry;
    int64_t leases;
    _Atomic int64_t come;
    int pids[CONNECTIONS];
    /* on_event's */
    _Atomic int64_t enqueued, seen[CONNECTIONS]; /* callers; grants of a connection */
    _Atomic int64_t dequeued;
    bool dequeue; /* the event before was one */
    grant *grants;
    int64_t n_grants;
    /* each holder's of the connection, while he has it */
    int64_t *marks[CONNECTIONS], n_marks[CONNECTIONS];
} line;

static int connection_of(const line *l, int pid)
{
    return l->pids[0] == pid ? 0 : 1;
}

static void follow(const pqpool_event *e, void *arg)
{
    line *l = arg;
    if (!l->grants) /* it has not begun */
        return;
    if (e->id == PQPOOL_EVENT_ENQUEUE) {
        l->enqueued++;
        if (l->one_by_one)
            sem_post(&l->entry);
    }
    l->dequeued += e->id == PQPOOL_EVENT_DEQUEUE;
    if (e->id == PQPOOL_EVENT_ACQUIRE) {
        int c = connection_of(l, e->backend_pid);
        l->grants[l->n_grants++] = (grant){.connection = c, .queued = l->dequeue};
        if (!l->dequeue && l->one_by_one)
            sem_post(&l->entry);
        l->seen[c]++;
    }
    l->dequeue = e->id == PQPOOL_EVENT_DEQUEUE;
}

/* Keeps the queue long, and lets the events catch up, so that none is dropped. */
static void hold(line *l, int c)
{
    while (l->seen[c] < l->n_marks[c])
        sched_yield();
    while (l->enqueued - l->dequeued < QUEUE_LEAST && l->come < l->leases)
        sched_yield();
}

static void queue_up(int i, void *arg)
{
    line *l = arg;
    (void)i;
    for (;;) {
        while (l->one_by_one && sem_wait(&l->entry) != 0)
            ;
        int64_t mark = l->come++;
        if (mark >= l->leases) {
            l->come--;
            sem_post(&l->entry);
            return;
        }
        if (!l->one_by_one)
            mark = l->enqueued;
        pqpool_lease lease;
        if (pqpool_acquire_within(l->pool, -1, &lease, NULL) != PQPOOL_OK)
            bail("acquire in the line");
        int c = connection_of(l, pid_of(&lease));
        l->marks[c][l->n_marks[c]++] = mark;
        hold(l, c);
        give(&lease);
    }
}

static line *open_line(bool one_by_one, int64_t leases)
{
    line *l = calloc(1, sizeof *l);
    pqpool_hooks hooks = {PQPOOL_HOOKS, .arg = l, .on_event = follow};
    pqpool_lease lease[CONNECTIONS];
    l->one_by_one = one_by_one;
    l->leases = leases;
    sem_init(&l->entry, 0, 1);
    l->pool = open_pool(APP "pool_max_size=2", &hooks);
    for (int i = 0; i < CONNECTIONS; i++) {
        lease[i] = take(l->pool);
        l->pids[i] = pid_of(&lease[i]);
        l->marks[i] = calloc((size_t)leases + QUEUERS, sizeof *l->marks[i]);
    }
    for (int i = 0; i < CONNECTIONS; i++)
        give(&lease[i]);
    l->grants = calloc((size_t)leases + QUEUERS, sizeof *l->grants);
    return l;
}

/* Those who were granted before one who stood in front of them. */
static int64_t overtakers(const line *l, int64_t *queued, int64_t *sharp)
{
    int64_t at[CONNECTIONS] = {0}, last = -1, turn = 0, wrong = 0;
    for (int64_t k = 0; k < l->n_grants; k++) {
        const grant *g = &l->grants[k];
        int64_t mark = l->marks[g->connection][at[g->connection]++];
        if (!g->queued && !l->one_by_one)
            continue;
        if (l->one_by_one) {
            wrong += mark < last;
            last = mark > last ? mark : last;
        } else {
            wrong += turn < mark;
            *sharp += turn == mark;
            turn++;
        }
        *queued += g->queued;
    }
    return wrong;
}

static void in_line(bool one_by_one, int64_t leases)
{
    line *l = open_line(one_by_one, leases);
    double began = now_s();
    in_threads(QUEUERS, queue_up, l);
    double took = now_s() - began;
    int64_t queued = 0, sharp = 0, wrong = overtakers(l, &queued, &sharp);
    pqpool_stats_data s = stats(l->pool);
    const char *how = one_by_one ? "let in one by one" : "left alone";
    ok(s.events_dropped == 0 && l->n_grants == leases && s.acquires == leases + CONNECTIONS,
       "A3: %d threads %s, %d connections, %lld leases: each was granted once (%.1f s)", QUEUERS, how,
       CONNECTIONS, (long long)leases, took);
    ok(queued > leases / 2, "A3: %lld of them after a wait in the queue", (long long)queued);
    is_int(wrong, 0, "A3: nobody overtook one who stood before him");
    if (!one_by_one)
        diag("%lld of them would have shown it had they overtaken a single one", (long long)sharp);
    is_int(s.connects, CONNECTIONS, "A1: no other connection was made");
    close_pool(l->pool);
    sem_destroy(&l->entry);
    for (int i = 0; i < CONNECTIONS; i++)
        free(l->marks[i]);
    free(l->grants);
    free(l);
}

/* ---- a connect that hangs, or fails once ---- */

static _Atomic int hanging, to_fail;

static int hang(char *buf, size_t size, void *arg)
{
    (void)size, (void)arg;
    *buf = '\0';
    return eventually(!hanging) ? 0 : 1;
}

static int fail_once(PGconn *conn, void *arg)
{
    (void)conn, (void)arg;
    return to_fail > 0 && to_fail-- > 0;
}

static void beside_a_hanging_connect(void)
{
    pqpool *pool = open_pool(APP "pool_max_size=2", &(pqpool_hooks){PQPOOL_HOOKS, .on_conninfo = hang});
    pqpool_error err;
    pqpool_lease lease;
    PQclear(pqpool_exec(pool, "select 1", &err));
    is_int(stats(pool).shared, 1, "a shared connection is there, and idle");
    hanging = 1;
    is_int(pqpool_acquire_within(pool, 5000, &lease, &err), PQPOOL_OK,
           "A8: while a connect hangs, it gives way to a caller for a lease: %s", err.message);
    ok(stats(pool).connecting == 1 && stats(pool).connects == 1, "A8: who need not wait for the connect");
    hanging = 0;
    give(&lease);
    close_pool(pool);
}

static void warm_after_a_failure(void)
{
    to_fail = 1;
    pqpool *pool = open_pool(APP "pool_max_size=5 pool_initial_size=3",
                             &(pqpool_hooks){PQPOOL_HOOKS, .on_connect = fail_once});
    ok(eventually(stats(pool).idle == 3), "A1: initial_size is reached, though the first attempt failed");
    is_int(stats(pool).connect_failures, 1, "A1: as it did");
    close_pool(pool);
}

int main(void)
{
    const char *given = getenv("PQPOOL_STRESS");
    int64_t tries = given ? atoll(given) / 10 : 0;
    if (tries <= 0)
        tries = 100000 / (tap_slowness() > 1 ? 2 * tap_slowness() : 1);
    tap_begin(60 + (unsigned)(tries / 2000));
    ctl = control();
    generation made_together;
    beget(&made_together);
    burst_on_nothing();
    burst_on_a_few();
    covered();
    requester_gone(false);
    requester_gone(true);
    returned_before_new();
    failed_connects();
    replaced_for_waiters();
    kept_for_waiters();
    refused_again_and_again();
    worn_out();
    least_used_first();
    beside_a_hanging_connect();
    warm_after_a_failure();
    outlive(&made_together);
    at_the_last_moment(tries);
    in_line(true, tries);
    in_line(false, tries);
    ok(eventually(backends(ctl, NAME) == 0), "no server process is left");
    PQfinish(ctl);
    return done_testing();
}
