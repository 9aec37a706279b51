#include "stress.h"

#include <inttypes.h>
#include <stdatomic.h>

#include "ask.h"

#define APP "stress"
enum {
    POOLS = 2,
    ROUNDS = 40,
    GROUP_MOST = 20,
    HELD_MOST = 32,
    MAIL_MOST = 64,
    TOLD_MOST = 10,
    PIDS = 1 << 22
};

/* A ticket, and what it must bring. */
typedef struct promise {
    pqpool_ticket *ticket;
    ask a;
    struct promise *next;
} promise;

/* How often a nonce must stand in the log. */
typedef struct entry {
    int64_t nonce;
    int least, most;
    bool tied; /* stands exactly as often as the one before */
} entry;

typedef struct journal {
    entry *entries;
    size_t n, room;
} journal;

typedef struct worker {
    struct stress *s;
    int number;
    pqpool *pool;
    bool clean; /* its pool has reset=clean */
    uint64_t state;
    int64_t nonce, left; /* next one; statements of this round */
    bool leasing;        /* this round is of leases */
    promise *held[HELD_MOST];
    int n_held;
    ask group[GROUP_MOST], one;
    journal journal;
} worker;

typedef struct stress {
    const stress_plan *plan;
    stress_tally *t;
    pqpool *pools[POOLS];
    _Atomic int running;
    pthread_barrier_t round;
    pthread_mutex_t mail_lock;
    promise *mail;
    int n_mail;
    worker workers[STRESS_THREADS];
} stress;

/* Who used a server process last: see move(). */
enum { SHARED = 1, LEASED = 2 };
static _Atomic unsigned char last_use[PIDS];

uint64_t stress_seed(void)
{
    const char *seed = getenv("PQPOOL_SEED");
    return seed && *seed ? strtoull(seed, NULL, 0) : 4711;
}

static uint64_t draw(worker *w, uint64_t below)
{
    w->state += UINT64_C(0x9e3779b97f4a7c15);
    return ask_mix(w->state) % below;
}

/* ---- what was found ---- */

__attribute__((format(printf, 3, 4))) static void count(stress *s, _Atomic int64_t *what, const char *fmt,
                                                        ...)
{
    (*what)++;
    if (s->t->told++ >= TOLD_MOST)
        return;
    char text[1000];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    diag("%s", text);
}

static void note(worker *w, int64_t nonce, int least, int most, bool tied)
{
    journal *j = &w->journal;
    if (j->n == j->room) {
        j->room = j->room ? 2 * j->room : 1024;
        j->entries = realloc(j->entries, j->room * sizeof *j->entries);
        if (!j->entries)
            bail("no memory for the journal");
    }
    j->entries[j->n++] = (entry){nonce, least, most, tied};
}

/* What the outcome says of a write. */
static void note_outcome(worker *w, const ask *a, int outcome, bool succeeded, bool tied)
{
    bool stands = outcome == PQPOOL_DONE && succeeded;
    bool may = stands || (outcome == PQPOOL_UNKNOWN && !ask_sqlstate(a));
    if (ask_writes(a))
        note(w, a->nonce, stands, may, tied);
}

static void move(stress *s, int pid, unsigned char use)
{
    if (pid <= 0 || pid >= PIDS)
        return;
    unsigned char before = atomic_exchange(&last_use[pid], use);
    if (before != 0 && before != use)
        (*(use == SHARED ? &s->t->to_shared : &s->t->to_lease))++;
}

static const char *value_or_none(const PGresult *res)
{
    return PQntuples(res) > 0 && PQnfields(res) > 0 && PQfformat(res, 0) == 0 ? PQgetvalue(res, 0, 0) : "?";
}

static void describe(const worker *w, _Atomic int64_t *what, const ask *a, const PGresult *res,
                     const pqpool_error *err)
{
    count(w->s, what, "nonce %" PRId64 " (%.60s): %s, outcome %d, %d x %d, first %.40s: %.200s", a->nonce,
          a->stmt.sql, pqpool_code_name((pqpool_code)err->code), err->outcome, PQntuples(res), PQnfields(res),
          value_or_none(res), err->message);
}

static void judge_answer(worker *w, const ask *a, const PGresult *res, const pqpool_error *err)
{
    stress_tally *t = w->s->t;
    ask_verdict verdict = ask_judge(a, res, err);
    if (verdict == ASK_RIGHT)
        move(w->s, ask_backend(a, res), SHARED);
    else
        describe(w, &t->wrong, a, res, err);
    t->values += verdict == ASK_VALUE;
    t->foreign += verdict == ASK_FOREIGN;
}

/* One that was lost may be so only while server processes are terminated. */
static bool judge_loss(worker *w, const ask *a, const pqpool_error *err)
{
    if (err->code == PQPOOL_ELOST && err->outcome == PQPOOL_UNKNOWN && w->s->plan->kill_ms > 0) {
        w->s->t->unknown++;
        return true;
    }
    describe(w, &w->s->t->undocumented, a, NULL, err);
    return false;
}

static void judge(worker *w, const ask *a, PGresult *res, const pqpool_error *err)
{
    w->s->t->judged++;
    bool answered = err->code == PQPOOL_OK || err->code == PQPOOL_ESERVER;
    if (answered && (!res || err->outcome != PQPOOL_DONE))
        describe(w, &w->s->t->undocumented, a, res, err);
    else if (answered)
        judge_answer(w, a, res, err);
    else
        judge_loss(w, a, err);
    note_outcome(w, a, err->outcome, err->code == PQPOOL_OK, false);
    PQclear(res);
}

/* ---- statements ---- */

static ask *next(worker *w, ask *a, bool at_once)
{
    ask_make(a, w->nonce++, at_once);
    w->left--;
    w->s->t->asked++;
    return a;
}

/* The flags and time-outs that change a statement's way, but not its answer. */
static void vary(worker *w, ask *a)
{
    unsigned flags = 0;
    if (a->kind < ASK_TAKEN || a->kind > ASK_NOTE_FAILS)
        flags |= (unsigned)draw(w, 4) & (PQPOOL_READ_ONLY | PQPOOL_IDEMPOTENT);
    if (draw(w, 8) == 0)
        flags |= PQPOOL_NO_PREPARE;
    if (draw(w, 16) == 0)
        a->stmt.timeout_ms = 600000 + (int)draw(w, 3);
    a->stmt.flags = flags;
}

static void by_params(worker *w)
{
    pqpool_error err;
    const pqpool_stmt *s = &next(w, &w->one, false)->stmt;
    PGresult *res = s->n_params == 0 && s->result_format == 0
                        ? pqpool_exec(w->pool, s->sql, &err)
                        : pqpool_exec_params(w->pool, s->sql, s->n_params, s->param_types, s->param_values,
                                             s->param_lengths, s->param_formats, s->result_format, &err);
    judge(w, &w->one, res, &err);
}

static void by_stmt(worker *w)
{
    pqpool_error err;
    vary(w, next(w, &w->one, false));
    PGresult *res = pqpool_exec_stmt(w->pool, &w->one.stmt, &err);
    judge(w, &w->one, res, &err);
}

/* On a connection of its own, which was idle before: it looks what is left there. */
static void by_slow(worker *w)
{
    pqpool_error err;
    ask_make_kind(next(w, &w->one, false), w->nonce - 1, ASK_CANARY);
    w->one.stmt.flags = PQPOOL_SLOW;
    w->s->t->alone++;
    PGresult *res = pqpool_exec_stmt(w->pool, &w->one.stmt, &err);
    judge(w, &w->one, res, &err);
}

/* ---- groups ---- */

static int first_failing(const worker *w, int n)
{
    for (int i = 0; i < n; i++)
        if (ask_sqlstate(&w->group[i]))
            return i;
    return -1;
}

static bool undone(const PGresult *res, const pqpool_error *err, const char *sqlstate)
{
    return !res && err->code == PQPOOL_ECANCELED && err->outcome == PQPOOL_DONE &&
           strcmp(err->sqlstate, sqlstate) == 0;
}

/* All or nothing: one that fails undoes the others, and nothing else may. */
static void judge_atomic(worker *w, int n, PGresult **results, const pqpool_error *errors, pqpool_code code)
{
    int failing = first_failing(w, n);
    pqpool_code expected = failing < 0 ? PQPOOL_OK : PQPOOL_ESERVER;
    bool lost = errors[0].code == PQPOOL_ELOST;
    for (int i = 0; i < n; i++) {
        const ask *a = &w->group[i];
        w->s->t->judged++;
        if (lost ? errors[i].code == PQPOOL_ELOST : failing < 0 || i == failing) {
            if (lost || (errors[i].code != PQPOOL_OK && errors[i].code != PQPOOL_ESERVER))
                judge_loss(w, a, &errors[i]);
            else
                judge_answer(w, a, results[i], &errors[i]);
        } else if (lost || !undone(results[i], &errors[i], ask_sqlstate(&w->group[failing]))) {
            describe(w, &w->s->t->wrong, a, results[i], &errors[i]);
        }
    }
    if (code != (lost ? PQPOOL_ELOST : expected))
        count(w->s, &w->s->t->wrong, "a group of %d is %s", n, pqpool_code_name(code));
    bool tied = false;
    for (int i = 0; i < n; i++) {
        note_outcome(w, &w->group[i], failing < 0 ? errors[i].outcome : PQPOOL_DONE, failing < 0, tied);
        tied |= ask_writes(&w->group[i]);
    }
    for (int i = 0; i < n; i++)
        PQclear(results[i]);
}

static void judge_each(worker *w, int n, PGresult **results, const pqpool_error *errors, pqpool_code code)
{
    pqpool_code first = PQPOOL_OK;
    for (int i = 0; i < n; i++) {
        if (first == PQPOOL_OK)
            first = (pqpool_code)errors[i].code;
        if (errors[i].code != PQPOOL_OK && errors[i].row != i)
            describe(w, &w->s->t->wrong, &w->group[i], results[i], &errors[i]);
        judge(w, &w->group[i], results[i], &errors[i]);
    }
    if (code != first)
        count(w->s, &w->s->t->wrong, "a group of %d is %s, its first failure %s", n, pqpool_code_name(code),
              pqpool_code_name(first));
}

static void by_group(worker *w)
{
    pqpool_stmt stmts[GROUP_MOST];
    PGresult *results[GROUP_MOST];
    pqpool_error errors[GROUP_MOST];
    int n = 1 + (int)draw(w, GROUP_MOST);
    bool atomic = draw(w, 2) == 0;
    for (int i = 0; i < n; i++) {
        vary(w, next(w, &w->group[i], atomic));
        stmts[i] = w->group[i].stmt;
    }
    w->s->t->groups++;
    pqpool_code code =
        pqpool_exec_all(w->pool, stmts, n, atomic ? PQPOOL_ATOMIC : PQPOOL_EACH, results, errors);
    (atomic ? judge_atomic : judge_each)(w, n, results, errors, code);
}

/* ---- tickets ---- */

static void redeem(worker *w, promise *p)
{
    pqpool_error err;
    PGresult *res = NULL;
    err.code = PQPOOL_EPENDING;
    for (int timeout = (int)draw(w, 3); err.code == PQPOOL_EPENDING; timeout = -1)
        res = pqpool_wait(p->ticket, timeout, &err);
    judge(w, &p->a, res, &err);
    free(p);
}

static void give_up(worker *w, promise *p)
{
    pqpool_abandon(p->ticket);
    w->s->t->abandoned++;
    note_outcome(w, &p->a, PQPOOL_UNKNOWN, false, false);
    free(p);
}

/* For another thread to wait for. */
static bool send_mail(worker *w, promise *p)
{
    stress *s = w->s;
    pthread_mutex_lock(&s->mail_lock);
    bool room = s->n_mail < MAIL_MOST;
    if (room) {
        p->next = s->mail;
        s->mail = p;
        s->n_mail++;
    }
    pthread_mutex_unlock(&s->mail_lock);
    return room;
}

static bool take_mail(worker *w)
{
    stress *s = w->s;
    pthread_mutex_lock(&s->mail_lock);
    promise *p = s->mail;
    if (p) {
        s->mail = p->next;
        s->n_mail--;
    }
    pthread_mutex_unlock(&s->mail_lock);
    if (!p)
        return false;
    s->t->elsewhere++;
    redeem(w, p);
    return true;
}

static void part_with(worker *w, promise *p)
{
    uint64_t how = draw(w, 16);
    if (how == 0)
        give_up(w, p);
    else if (how > 4 || !send_mail(w, p))
        redeem(w, p);
}

static void by_ticket(worker *w)
{
    int n = 1 + (int)draw(w, 8);
    for (int i = 0; i < n; i++) {
        pqpool_error err;
        if (w->n_held == HELD_MOST)
            part_with(w, w->held[--w->n_held]);
        promise *p = malloc(sizeof *p);
        if (!p)
            bail("no memory for a ticket");
        vary(w, next(w, &p->a, false));
        w->s->t->tickets++;
        p->ticket = pqpool_submit(w->pool, &p->a.stmt, &err);
        if (p->ticket) {
            w->held[w->n_held++] = p;
            continue;
        }
        judge(w, &p->a, NULL, &err);
        free(p);
    }
    while (w->n_held > 0 && draw(w, 4) > 0) { /* in any order; some are kept for later */
        int i = (int)draw(w, (uint64_t)w->n_held);
        promise *p = w->held[i];
        w->held[i] = w->held[--w->n_held];
        part_with(w, p);
    }
}

/* ---- leases ---- */

static const char *const dirt[] = {
    "set role dirty",
    "set session authorization dirty",
    "set search_path = decoy",
    "set stress.mark = 'dirt'",
    "create temp table if not exists dirt (x int)",
    "select pg_advisory_lock_shared(4711)",
    "prepare dirt as select 1",
    "listen dirt",
    "begin; declare dirt cursor with hold for select 1; commit",
    "set statement_timeout = 0",
};
/* What leaves a transaction open comes last. */
static const char *const open_dirt[] = {
    "begin; insert into stress.nothing values (1)",
    "begin; select 1/0",
    "begin; set local search_path = decoy; declare dirt2 cursor for select 1; fetch dirt2",
};
enum { DIRT = sizeof dirt / sizeof *dirt, OPEN_DIRT = sizeof open_dirt / sizeof *open_dirt };

static void run_on_lease(worker *w, const pqpool_lease *l, ask_kind kind)
{
    ask *a = &w->one;
    ask_make_kind(a, w->nonce++, kind);
    const pqpool_stmt *s = &a->stmt;
    pqpool_error err = {.code = PQPOOL_OK};
    PGresult *res = PQexecParams(l->conn, s->sql, s->n_params, s->param_types, s->param_values,
                                 s->param_lengths, s->param_formats, s->result_format);
    w->s->t->lease_statements++;
    bool lost = w->s->plan->kill_ms > 0 && PQresultStatus(res) == PGRES_FATAL_ERROR;
    if (!lost && ask_judge(a, res, &err) != ASK_RIGHT) {
        snprintf(err.message, sizeof err.message, "on a lease: %s", PQresultErrorMessage(res));
        describe(w, kind == ASK_CANARY ? &w->s->t->dirty : &w->s->t->wrong, a, res, &err);
    }
    PQclear(res);
}

static void soil(worker *w, const pqpool_lease *l, const char *sql)
{
    PGresult *res = PQexec(l->conn, sql);
    ExecStatusType status = PQresultStatus(res);
    w->s->t->dirt += status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
    PQclear(res);
}

static void leave_dirt(worker *w, const pqpool_lease *l)
{
    for (int n = (int)draw(w, 4); n > 0; n--)
        soil(w, l, dirt[draw(w, DIRT)]);
    if (draw(w, 4) == 0)
        soil(w, l, open_dirt[draw(w, OPEN_DIRT)]);
}

static void by_lease(worker *w)
{
    pqpool_lease l;
    pqpool_error err;
    stress_tally *t = w->s->t;
    pqpool_code code = pqpool_acquire(w->pool, &l, &err);
    if (code != PQPOOL_OK) {
        count(w->s, &t->misused, "acquire: %s: %s", pqpool_code_name(code), err.message);
        return;
    }
    t->leases++;
    move(w->s, PQbackendPID(l.conn), LEASED);
    if (PQstatus(l.conn) == CONNECTION_OK &&
        (PQtransactionStatus(l.conn) != PQTRANS_IDLE || PQpipelineStatus(l.conn) != PQ_PIPELINE_OFF))
        count(w->s, &t->dirty, "a lease has transaction status %d", (int)PQtransactionStatus(l.conn));
    run_on_lease(w, &l, w->clean ? ASK_CANARY : ASK_ROWS);
    leave_dirt(w, &l);
    if (draw(w, 4) == 0)
        sleep_ms((int)draw(w, 3));
    code = draw(w, 50) == 0 ? pqpool_discard(&l) : pqpool_release(&l);
    if (code != PQPOOL_OK)
        count(w->s, &t->misused, "release: %s", pqpool_code_name(code));
}

/* ---- a thread ---- */

static void act(worker *w)
{
    if (draw(w, w->leasing ? 3 : 200) == 0) {
        by_lease(w);
        return;
    }
    if (draw(w, w->leasing ? 15 : 300) == 0) {
        by_slow(w);
        return;
    }
    switch (draw(w, 8)) {
    case 0:
    case 1:
        by_group(w);
        break;
    case 2:
    case 3:
        by_ticket(w);
        break;
    case 4:
        by_params(w);
        break;
    case 5:
        if (take_mail(w))
            break;
        /* fall through */
    default:
        by_stmt(w);
        break;
    }
}

static void act_timed(worker *w)
{
    double began = now_s();
    act(w);
    int64_t ms = (int64_t)((now_s() - began) * 1000);
    if (ms > w->s->t->slowest_ms) /* to within a race */
        w->s->t->slowest_ms = ms;
}

static void play(int number, void *arg)
{
    stress *s = arg;
    worker *w = &s->workers[number];
    int64_t share = s->plan->statements / STRESS_THREADS + 1;
    for (int round = 0; round < ROUNDS; round++) {
        w->leasing = round % 2 == 1;
        w->left += share * (w->leasing ? 1 : 9) / (5 * ROUNDS) + 1;
        while (w->left > 0)
            act_timed(w);
        while (w->n_held > 0)
            redeem(w, w->held[--w->n_held]);
        pthread_barrier_wait(&s->round);
    }
    while (take_mail(w))
        ;
    s->running--;
}

/* ---- beside them: the main thread ---- */

static void check_sums(stress *s, pqpool *pool)
{
    pqpool_stats_data d = stats(pool);
    int sum = d.idle + d.leased + d.shared + d.connecting + d.resetting + d.probing + d.draining + d.closing;
    if (d.total != sum || d.total > STRESS_MAX_SIZE || d.statements < 0 || d.waiting < 0)
        count(s, &s->t->sums, "total %d, sum %d, limit %d, statements %d, waiting %d", d.total, sum, d.limit,
              d.statements, d.waiting);
}

static void set_something(stress *s, uint64_t random)
{
    char number[12];
    bool size = random & 1;
    snprintf(number, sizeof number, "%d",
             size ? 3 + (int)(random >> 8 & 0xffff) % (STRESS_MAX_SIZE - 2)
                  : 1 + (int)(random >> 8 & 0xffff) % 3);
    pqpool_error err;
    if (pqpool_set(s->pools[random >> 1 & 1], size ? "max_size" : "shared_max", number, &err) != PQPOOL_OK)
        count(s, &s->t->misused, "pqpool_set: %s", err.message);
}

/* How long the server has had more processes than both pools may; one that was told to go takes a moment. */
static void check_processes(stress *s, PGconn *ctl, double *over_since)
{
    int n = backends(ctl, APP);
    double now = now_s();
    if (n <= POOLS * STRESS_MAX_SIZE)
        *over_since = 0;
    else if (*over_since == 0)
        *over_since = now;
    else if ((int64_t)((now - *over_since) * 1000) > s->t->over)
        s->t->over = (int64_t)((now - *over_since) * 1000);
}

static void end_one(stress *s, PGconn *ctl)
{
    s->t->ended +=
        atoi(one(ctl, "select count(pg_terminate_backend(pid)) from (select pid from pg_stat_activity where "
                      "application_name = '" APP "' order by random() limit 1) x"));
}

static void watch(stress *s, PGconn *ctl)
{
    uint64_t random = s->plan->seed;
    double over_since = 0, next_look = 0, next_end = now_s();
    while (s->running > 0) {
        double now = now_s();
        for (int i = 0; i < POOLS; i++)
            check_sums(s, s->pools[i]);
        set_something(s, random = ask_mix(random));
        if (now >= next_look) {
            check_processes(s, ctl, &over_since);
            next_look = now + 0.1;
        }
        if (s->plan->kill_ms > 0 && now >= next_end) {
            end_one(s, ctl);
            next_end = now + s->plan->kill_ms / 1000.0;
        }
        sleep_ms(10);
    }
}

/* ---- afterwards ---- */

static int by_nonce(const void *a, const void *b)
{
    int64_t x = ((const entry *)a)->nonce, y = ((const entry *)b)->nonce;
    return (x > y) - (x < y);
}

static entry *merge(stress *s, size_t *n)
{
    *n = 0;
    for (int i = 0; i < STRESS_THREADS; i++)
        *n += s->workers[i].journal.n;
    entry *all = malloc((*n + 1) * sizeof *all);
    if (!all)
        bail("no memory for the journals");
    size_t at = 0;
    for (int i = 0; i < STRESS_THREADS; i++) {
        journal *j = &s->workers[i].journal;
        if (j->n > 0)
            memcpy(all + at, j->entries, j->n * sizeof *all);
        at += j->n;
        free(j->entries);
    }
    qsort(all, *n, sizeof *all, by_nonce);
    return all;
}

/* Compares what stands in the log with what each write's outcome says. */
static void check_log(stress *s, PGconn *ctl)
{
    size_t n;
    entry *all = merge(s, &n);
    char sql[200];
    snprintf(sql, sizeof sql,
             "select nonce, count(*) from stress.log where nonce >= %" PRId64 " group by 1 order by 1",
             s->plan->first);
    PGresult *res = PQexec(ctl, sql);
    if (PQresultStatus(res) != PGRES_TUPLES_OK)
        bail("the log: %s", PQerrorMessage(ctl));
    int row = 0, rows = PQntuples(res), before = 0;
    for (size_t i = 0; i < n; i++) {
        const entry *e = &all[i];
        for (; row < rows && ask_int(res, row, 0) < e->nonce; row++)
            count(s, &s->t->twice, "nobody's nonce %" PRId64 " stands", ask_int(res, row, 0));
        bool there = row < rows && ask_int(res, row, 0) == e->nonce;
        int times = there ? (int)ask_int(res, row++, 1) : 0;
        s->t->kept += times;
        if (times < e->least)
            count(s, &s->t->lost, "nonce %" PRId64 " stands %d times, not %d", e->nonce, times, e->least);
        if (times > e->most)
            count(s, &s->t->twice, "nonce %" PRId64 " stands %d times, not %d", e->nonce, times, e->most);
        if (e->tied && times != before)
            count(s, &s->t->torn, "nonce %" PRId64 " stands %d times, its group's %d", e->nonce, times,
                  before);
        before = times;
    }
    for (; row < rows; row++)
        count(s, &s->t->twice, "nobody's nonce %" PRId64 " stands", ask_int(res, row, 0));
    PQclear(res);
    free(all);
    if (atoi(one(ctl, "select (select count(*) from decoy.log) + (select count(*) from stress.nothing)")) > 0)
        count(s, &s->t->foreign, "something was written to decoy.log or to stress.nothing");
}

static bool quiet(pqpool *pool)
{
    pqpool_stats_data d = stats(pool);
    return d.statements == 0 && d.leased == 0 && d.promised == 0 && d.waiting == 0 && d.unsent == 0 &&
           d.connecting + d.resetting + d.probing + d.draining + d.closing == 0 && d.total <= d.limit;
}

static void check_quiet(stress *s, PGconn *ctl)
{
    for (int i = 0; i < POOLS; i++) {
        if (eventually(quiet(s->pools[i])))
            continue;
        pqpool_stats_data d = stats(s->pools[i]);
        count(s, &s->t->leaked,
              "pool %d: statements %d leased %d promised %d waiting %d unsent %d total %d limit %d resetting "
              "%d draining %d",
              i, d.statements, d.leased, d.promised, d.waiting, d.unsent, d.total, d.limit, d.resetting,
              d.draining);
    }
    int most = stats(s->pools[0]).total + stats(s->pools[1]).total;
    if (!eventually(backends(ctl, APP) <= most))
        count(s, &s->t->leaked, "%d server processes for %d connections", backends(ctl, APP), most);
}

static void open_pools(stress *s)
{
    for (int i = 0; i < POOLS; i++) {
        char conninfo[500];
        snprintf(conninfo, sizeof conninfo,
                 "application_name=" APP " options='-c search_path=stress' pool_max_size=%d "
                 "pool_shared_max=3 pool_acquire_timeout=%d pool_statement_cache_size=32 "
                 "pool_log_level=error pool_reset=%s %s",
                 STRESS_MAX_SIZE, 60000 * tap_slowness(), i == 0 ? "rollback" : "clean", s->plan->options);
        s->pools[i] = open_pool(conninfo, NULL);
    }
}

void stress_prepare(PGconn *ctl)
{
    snprintf(ask_user, sizeof ask_user, "%s", one(ctl, "select current_user"));
    PGresult *res = PQexec(ctl, ask_schema);
    if (PQresultStatus(res) != PGRES_COMMAND_OK)
        bail("the schema: %s", PQerrorMessage(ctl));
    PQclear(res);
}

void stress_run(PGconn *ctl, const stress_plan *plan, stress_tally *tally)
{
    static stress s;
    memset(&s, 0, sizeof s);
    s.plan = plan;
    s.t = tally;
    s.running = STRESS_THREADS;
    pthread_mutex_init(&s.mail_lock, NULL);
    pthread_barrier_init(&s.round, NULL, STRESS_THREADS);
    for (int i = 0; i < PIDS; i++)
        atomic_store_explicit(&last_use[i], 0, memory_order_relaxed);
    open_pools(&s);
    for (int i = 0; i < STRESS_THREADS; i++)
        s.workers[i] = (worker){.s = &s,
                                .number = i,
                                .pool = s.pools[i % POOLS],
                                .clean = i % POOLS == 1,
                                .state = ask_mix(plan->seed ^ (uint64_t)i << 32),
                                .nonce = plan->first + ((int64_t)i << 36)};
    crew c;
    crew_start(&c, STRESS_THREADS, play, &s);
    watch(&s, ctl);
    crew_join(&c);
    while (take_mail(&s.workers[0]))
        ;
    check_quiet(&s, ctl);
    for (int i = 0; i < POOLS; i++)
        close_pool(s.pools[i]);
    if (!eventually(backends(ctl, APP) == 0))
        count(&s, &tally->leaked, "server processes are left behind");
    check_log(&s, ctl);
    pthread_barrier_destroy(&s.round);
    pthread_mutex_destroy(&s.mail_lock);
}
