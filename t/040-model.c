/*
 * The lane's own code over a fake transport, in every order its threads could run.
 *
 * Three callers run two statements each on one lane, with a keeper beside them; the world outside answers,
 * lets time pass, or cuts the connection, whenever it likes. Checked in every state: nobody waits for what
 * will never come; at the end: each caller got his own answer or the truth about it, nothing was sent twice,
 * nothing that was called unsent was ever sent, and the lane is empty.
 */
#include "tap.h"

#include "call.h"
#include "model/sched.h"

enum { CALLERS = 3, STMTS = 2, KEEPER = CALLERS, LOOP };

/* AWAITED: a ticket whose owner comes back and waits; IMPATIENT: but not for long, then he leaves it to others. */
typedef enum {
    RUN,
    RUN_WITH_DEADLINE,
    ABANDON,
    TICKET,
    TICKET_WITH_DEADLINE,
    TICKET_WITHDRAWN,
    TICKET_AWAITED,
    TICKET_IMPATIENT,
    TICKET_IMPATIENT_WITH_DEADLINE
} manner;

enum { WORD_OVER = 100 };

/* What the fake connection holds of a statement. */
typedef struct fate {
    bool sent, given_back, dropped, parses;
    int name; /* it was sent by */
} fate;

typedef struct scene {
    pqp_lane lane;
    pqp_call call[CALLERS];
    pqp_stmt stmt[CALLERS][STMTS];
    fate fate[CALLERS][STMTS];
    manner manner[CALLERS][STMTS];
    int statements; /* each caller runs */
    bool grouped;   /* the first caller runs his as one group */
    bool atomic;    /* ... of one unit */
    bool planned;   /* all are one prepared statement */
    bool nested;    /* when a call is over, its lane is entered again */
    int8_t depth[MODEL_THREADS];
    bool over[CALLERS];
    pqp_prepared prepared[2];
    uint32_t parsed; /* names the server knows, a bit each */

    /* the wire: numbers of statements, caller * STMTS + k */
    int out[CALLERS * STMTS], n_out;       /* in libpq's send buffer */
    int server[CALLERS * STMTS], n_server; /* at the server */
    int in[CALLERS * STMTS], n_in;         /* answers in the socket */
    int read[CALLERS * STMTS], n_read;     /* answers read, not yet taken */
    int part;                              /* of the first answer: results and NULLs, sync point */
    bool full;                             /* the socket takes nothing just now */
    bool cut, cut_seen, kicked, keeper_kicked;
    bool cancelling, cancelled; /* a request to cancel is on its way; there was one */
    bool may_fill, may_cut, may_age;
    bool stalls; /* a head that is there when time passes holds up what is behind it */
    _Atomic int64_t stall_time;
    pqp_time keeper_due; /* it will look at this time */
    _Atomic int loop;    /* there is an event loop: not negative */
    bool in_loop;        /* ... and it watches the socket */
    bool loop_comes;     /* ... or comes by itself */
} scene;

_Static_assert(sizeof(scene) <= MODEL_DATA, "the scene fits");
#define S ((scene *)model_data())

pqp_time pqp_now(void)
{
    return model_time();
}

/* error.c formats with more stack than a model thread has. */
pqpool_code pqp_fail(pqpool_error *err, pqpool_code code, pqpool_outcome outcome, const char *fmt, ...)
{
    (void)fmt;
    err->code = (int32_t)code;
    err->outcome = (int32_t)outcome;
    return code;
}

void pqp_error_clear(pqpool_error *err)
{
    err->code = PQPOOL_OK;
}

static fate *fate_of(int number)
{
    return &S->fate[number / STMTS][number % STMTS];
}

/* The one plan there is lies outside: nothing of it changes. */
static pqp_plan plan = {.place = 0, .id = 1};

void pqp_plan_unpin(pqp_plan *p)
{
    (void)p;
}

void pqp_plan_took(pqp_plan *p, pqp_time span, pqp_time cap)
{
    (void)p, (void)span, (void)cap;
}

void *pqp_depot_take(pqp_depot *d)
{
    (void)d;
    model_violation("a prepared statement was closed");
    return NULL;
}

void pqp_depot_put(pqp_depot *d, void *object)
{
    (void)d;
    int number = (int)((pqp_stmt *)object - &S->stmt[0][0]);
    if (fate_of(number)->given_back)
        model_violation("a statement went back to its depot twice");
    fate_of(number)->given_back = true;
}

/* ---- the fake transport ---- */

static PGresult *result_of(int number)
{
    return (PGresult *)(uintptr_t)(number + 1);
}

static int fake_flush(pqp_wire *w)
{
    (void)w;
    if (S->cut)
        return 0; /* as libpq: write errors are swallowed, reading tells */
    if (S->full)
        return S->n_out > 0;
    for (int i = 0; i < S->n_out; i++)
        S->server[S->n_server++] = S->out[i];
    S->n_out = 0;
    return 0;
}

static pqp_sent fake_send(pqp_wire *w, const pqpool_stmt *request, const pqp_sending *how)
{
    (void)w;
    int number = request->n_params; /* carries it */
    if (S->cut_seen)
        return PQP_SENT_NOTHING;
    if (S->cancelling)
        model_violation("something is sent while a request to cancel is on its way");
    if (fate_of(number)->sent)
        model_violation("a statement was sent twice");
    if (S->cut && !S->lane.flight.head)
        model_violation("a quiet lane sends, though its end lies there unread");
    fate_of(number)->sent = true;
    fate_of(number)->parses = how->parse;
    fate_of(number)->name = (int)how->plan;
    if (how->sync == (S->atomic && S->grouped && number == 0 && S->statements == 2))
        model_violation("a Sync in the wrong place");
    S->out[S->n_out++] = number;
    return PQP_SENT_WHOLE;
}

static bool fake_consume(pqp_wire *w, int64_t *bytes)
{
    (void)w, (void)bytes;
    for (int i = 0; i < S->n_in; i++)
        S->read[S->n_read++] = S->in[i];
    S->n_in = 0;
    S->cut_seen |= S->cut;
    return !S->cut;
}

static pqp_answer fake_next(pqp_wire *w)
{
    (void)w;
    if (S->n_read == 0) {
        if (S->cut_seen)
            return (pqp_answer){.kind = PQP_NEXT_END};
        return (pqp_answer){.kind = PQP_NEXT_BUSY};
    }
    int number = S->read[0], part = S->part++, results = fate_of(number)->parses ? 2 : 1;
    if (part < 2 * results) {
        if (part % 2 == 1)
            return (pqp_answer){.kind = PQP_NEXT_END};
        return (pqp_answer){.kind = PQP_NEXT_RESULT,
                            .result = part / 2 < results - 1 ? NULL : result_of(number)};
    }
    S->part = 0;
    memmove(S->read, S->read + 1, (size_t)--S->n_read * sizeof S->read[0]);
    if (S->atomic && number == 0 && S->statements == 2)
        return fake_next(w); /* its unit goes on */
    return (pqp_answer){.kind = PQP_NEXT_SYNC};
}

static bool fake_alive(pqp_wire *w)
{
    (void)w;
    return !S->cut_seen;
}

/* No connection here says that it ends. */
static bool fake_heard(pqp_wire *w)
{
    return fake_alive(w);
}

static const char *fake_unclean(pqp_wire *w, bool drained)
{
    (void)w, (void)drained;
    return NULL;
}

static void fake_describe(pqp_wire *w, PGresult *fatal, pqpool_error *why)
{
    (void)w, (void)fatal;
    why->code = PQPOOL_ELOST;
}

static void fake_clear(PGresult *result)
{
    fate_of((int)(uintptr_t)result - 1)->dropped = true;
}

static bool readable(void)
{
    return S->n_in > 0 || (S->cut && !S->cut_seen);
}

static bool may_wake(void *arg)
{
    return S->kicked || readable() || (arg && !S->full);
}

static int fake_wait(pqp_wire *w, bool write, pqp_time deadline)
{
    (void)w;
    model_wait(may_wake, write ? S : NULL, deadline);
    S->kicked = false;
    return (readable() ? PQP_READY_READ : 0) | (write && !S->full ? PQP_READY_WRITE : 0);
}

static bool fake_readable(pqp_wire *w)
{
    (void)w;
    return readable();
}

static void fake_kick(pqp_wire *w)
{
    (void)w;
    S->kicked = true;
}

static void fake_watch(pqp_wire *w, int epoll_fd, void *data)
{
    (void)w, (void)epoll_fd;
    if (S->in_loop == (data != NULL))
        model_violation("watched twice, or left unwatched");
    S->in_loop = data != NULL;
}

static const pqp_transport fake = {
    .send = fake_send,
    .flush = fake_flush,
    .consume = fake_consume,
    .next = fake_next,
    .alive = fake_alive,
    .heard = fake_heard,
    .unclean = fake_unclean,
    .describe = fake_describe,
    .clear = fake_clear,
    .wait = fake_wait,
    .readable = fake_readable,
    .kick = fake_kick,
    .watch = fake_watch,
};

/* ---- the threads ---- */

static void check_answer(const pqp_stmt *m, int number)
{
    if (m->code == PQPOOL_OK && m->result != result_of(number))
        model_violation("a caller got another's answer");
    bool withdrawn =
        m->code == PQPOOL_ECANCELED && S->manner[number / STMTS][number % STMTS] == TICKET_WITHDRAWN;
    if (m->code != PQPOOL_OK && m->code != PQPOOL_ELOST && m->code != PQPOOL_ETIMEDOUT && !withdrawn)
        model_violation("an outcome that can't be");
    if (m->code == PQPOOL_ELOST && !S->cut && !((S->cancelled || S->stalls) && m->outcome == PQPOOL_NOT_SENT))
        model_violation("lost, and nothing was cut");
    if (m->outcome == PQPOOL_NOT_SENT && fate_of(number)->sent)
        model_violation("NOT_SENT of a statement that was sent");
    if (m->outcome == PQPOOL_UNKNOWN && !fate_of(number)->sent)
        model_violation("UNKNOWN of a statement that was never sent");
}

static const pqpool_stmt numbers[] = {{.n_params = 0}, {.n_params = 1}, {.n_params = 2},
                                      {.n_params = 3}, {.n_params = 4}, {.n_params = 5}};

static bool has_deadline(manner how)
{
    return how == RUN_WITH_DEADLINE || how == TICKET_WITH_DEADLINE || how == TICKET_IMPATIENT_WITH_DEADLINE;
}

static pqp_stmt *prepare(int self, int k, manner how)
{
    pqp_stmt *m = &S->stmt[self][k];
    m->request = &numbers[self * STMTS + k];
    m->bytes = 1;
    m->sibling = NULL;
    m->plan = S->planned ? &plan : NULL;
    m->joined = S->atomic && self == 0 && k == 0 && S->statements == 2;
    m->deadline = has_deadline(how) ? 1 : PQP_NEVER;
    return m;
}

/* What remains of a call is the caller's to put back. */
static void put_back(pqp_call *call)
{
    for (pqp_stmt *m = call->members; m; m = m->sibling)
        pqp_depot_put(NULL, m);
}

/* All statements of the caller as one group; the first may have a deadline of its own. */
static void group(int self)
{
    pqp_call *call = &S->call[self];
    pqp_stmt **end = &call->members;
    for (int k = 0; k < S->statements; k++) {
        *end = prepare(self, k, S->manner[self][S->atomic ? 0 : k]); /* a unit has one deadline */
        end = &(*end)->sibling;
    }
    call->unsent_deadline = PQP_NEVER;
    atomic_fetch_add(&S->lane.load, S->statements); /* beyond the window: some wait in the backlog */
    pqp_call_run(call, &S->lane);
    for (int k = 0; k < S->statements; k++)
        check_answer(&S->stmt[self][k], self * STMTS + k);
    pqp_call_part(call, &S->lane);
    put_back(call);
}

static void over(pqp_call *call)
{
    bool *done = &S->over[call - S->call];
    if (*done)
        model_violation("a call was over twice");
    *done = true;
    if (S->nested) { /* what a pool does when a call is over leads back to its lanes */
        if (S->depth[model_self()]++ > 0)
            model_violation("words are given on the stack of words");
        pqp_lane_lock(&S->lane);
        pqp_lane_unlock(&S->lane, NULL);
        S->depth[model_self()]--;
    }
    pqp_parker_post(&call->parker, WORD_OVER);
}

static bool is_over(void *arg)
{
    return *(bool *)arg;
}

static void await_ticket(int self, manner how)
{
    pqp_call *call = &S->call[self];
    if (how >= TICKET_AWAITED)
        pqp_call_attend(call, &S->lane, how == TICKET_AWAITED ? PQP_NEVER : 1);
    if (pqp_parker_wait(&call->parker, PQP_NEVER) != WORD_OVER || !is_over(&S->over[self]))
        model_violation("a ticket's owner was woken before it was over");
}

static void caller(int self)
{
    if (self == 0 && S->grouped) {
        group(self);
        return;
    }
    pqp_call *call = &S->call[self];
    for (int k = 0; k < S->statements; k++) {
        int number = self * STMTS + k;
        manner how = S->manner[self][k];
        pqp_stmt *m = call->members = prepare(self, k, how);
        call->unsent_deadline = PQP_NEVER;
        call->over = how >= TICKET ? over : NULL;
        S->over[self] = false;
        call->lane = NULL;
        pqp_call_ready(call);
        atomic_fetch_add(&S->lane.load, 1);
        bool driving = pqp_call_submit(call, &S->lane);
        if (how == TICKET_WITHDRAWN)
            pqp_call_withdraw(call, &S->lane);
        if (how == ABANDON)
            pqp_call_abandon(call, &S->lane, driving);
        else if (how >= TICKET)
            await_ticket(self, how);
        else
            pqp_call_wait(call, &S->lane, driving);
        if (how != ABANDON)
            check_answer(m, number);
        pqp_call_part(call, &S->lane);
        put_back(call);
    }
}

static bool keeper_called(void *arg)
{
    (void)arg;
    bool drives = S->lane.driver == PQP_DRIVER_KEEPER;
    return S->keeper_kicked || model_time() >= S->keeper_due ||
           (drives && (readable() || (S->lane.want_write && !S->full)));
}

static void tell_keeper(void *owner)
{
    (void)owner;
    S->keeper_kicked = true;
}

static bool is_taken(void *arg)
{
    (void)arg;
    return !S->cancelling;
}

static void keeper(int self)
{
    (void)self;
    for (;;) {
        model_wait(keeper_called, NULL, INT64_MAX);
        S->keeper_kicked = false;
        pqp_tended t = pqp_lane_tend(&S->lane, readable());
        S->keeper_due = t.due;
        S->cancelled |= t.cancel;
        if (t.cancel && pqp_lane_begin_cancel(&S->lane)) {
            S->cancelling = true;
            model_wait(is_taken, NULL, INT64_MAX);
            pqp_lane_end_cancel(&S->lane);
            S->keeper_kicked = true;
        }
    }
}

static bool loop_called(void *arg)
{
    (void)arg;
    return (S->in_loop && readable()) || S->loop_comes;
}

static void event_loop(int self)
{
    (void)self;
    for (;;) {
        model_wait(loop_called, NULL, INT64_MAX);
        S->loop_comes = pqp_lane_visit(&S->lane);
    }
}

/* ---- the world outside ---- */

static bool can_answer(void)
{
    return S->n_server > 0 && !S->cut;
}

static void answer(void)
{
    fate *f = fate_of(S->server[0]);
    if (f->parses)
        S->parsed |= 1u << f->name;
    if (f->name && !(S->parsed & 1u << f->name))
        model_violation("a prepared statement was used before it was there");
    S->in[S->n_in++] = S->server[0];
    memmove(S->server, S->server + 1, (size_t)--S->n_server * sizeof S->server[0]);
}

static bool can_cut(void)
{
    return S->may_cut && !S->cut;
}

static void cut(void)
{
    S->cut = true;
}

static bool can_age(void)
{
    return S->may_age && model_time() == 0;
}

static void age(void)
{
    model_set_time(1);
}

static bool can_cancel(void)
{
    return S->cancelling;
}

/* The server takes the request, and ends what runs there just then. */
static void take_cancel(void)
{
    S->cancelling = false;
    int number = S->n_server > 0 ? S->server[0] : -1;
    if (number >= 0 && !S->stmt[number / STMTS][number % STMTS].given_up)
        model_violation("a request to cancel hits a neighbour");
}

static bool can_fill(void)
{
    return S->may_fill;
}

static void fill(void)
{
    S->may_fill = false;
    S->full = true;
}

static bool can_empty(void)
{
    return S->full;
}

static void empty(void)
{
    S->full = false;
}

static const model_event events[] = {{"answer", can_answer, answer, false},
                                     {"drain", can_empty, empty, false},
                                     {"cancel", can_cancel, take_cancel, false},
                                     {"CUT", can_cut, cut, true},
                                     {"TIME", can_age, age, true},
                                     {"FULL", can_fill, fill, true}};

static const char *check_end(void)
{
    const pqp_lane *l = &S->lane;
    if (l->inbox || l->backlog.head || l->flight.head)
        return "something was left in the lane";
    if (l->load != 0)
        return "the lane's load does not return to 0";
    for (int i = 0; i < CALLERS; i++)
        for (int k = 0; k < S->statements; k++)
            if (S->call[i].parker.mu.owner == 0 && S->stmt[i][k].request && !S->fate[i][k].given_back)
                return "a statement never came back";
    return NULL;
}

/* Fields that nobody will read again are no difference between two states. */
static uint64_t hash_scene(uint64_t (*mix)(uint64_t, const void *, size_t))
{
    static scene s;
    s = *S;
    s.lane.head_since = s.lane.served = s.lane.sending_at = 0; /* for figures only */
    for (int i = 0; i < CALLERS; i++) {
        if (!s.call[i].waking) {
            s.call[i].wake_next = NULL;
            s.call[i].wake_word = 0;
        }
        if (s.call[i].remaining == 0)
            s.call[i].lane = NULL;
        for (int k = 0; k < STMTS; k++) {
            s.stmt[i][k].sent_at = 0;
            s.stmt[i][k].inbox_next = s.stmt[i][k].state == PQP_STMT_PENDING ? s.stmt[i][k].inbox_next : NULL;
            if (s.fate[i][k].given_back)
                s.stmt[i][k] = (pqp_stmt){.request = s.stmt[i][k].request};
        }
    }
    size_t before = offsetof(scene, lane) + offsetof(pqp_lane, why), after = before + sizeof s.lane.why;
    uint64_t h = mix(s.lane.why.code + 1, &s, before); /* the text of an error is no part of the state */
    return mix(h, (char *)&s + after, sizeof s - after);
}

/* ---- scenarios ---- */

typedef struct scenario {
    const char *name;
    int callers, statements;
    manner first; /* of the first caller's first statement */
    bool cut, full;
    int shape;       /* sum of the below */
    int preemptions; /* -1: every interleaving */
} scenario;

enum {
    SINGLE = 0,
    GROUP = 1,
    UNIT = 2,
    PLANNED = 4,
    WITH_LOOP = 8,
    ALL_ALIKE = 16,
    NESTED = 32,
    STALLS = 64
};

static scenario now;

static void setup(void)
{
    scene *s = S;
    s->statements = now.statements;
    s->grouped = now.shape & GROUP;
    s->planned = now.shape & PLANNED;
    s->atomic = now.shape & UNIT;
    s->nested = now.shape & NESTED;
    if (pqp_lane_init(&s->lane, &fake,
                      &(pqp_lane_owner){.tell_keeper = tell_keeper,
                                        .loop_fd = &s->loop,
                                        .stall_time = now.shape & STALLS ? &s->stall_time : NULL}) != 0)
        abort();
    s->loop = now.shape & WITH_LOOP ? 1 : -1;
    s->lane.guests = now.shape & WITH_LOOP;
    s->lane.prepared = (pqp_prepared_set){.at = s->prepared, .places = 2};
    s->lane.window = 2;
    s->lane.accepting = 1;
    s->keeper_due = PQP_NEVER;
    s->may_cut = now.cut;
    s->may_fill = now.full;
    s->stalls = now.shape & STALLS;
    s->may_age = now.shape & STALLS || has_deadline(now.first) || now.first == TICKET_IMPATIENT;
    for (int i = 0; i < now.callers; i++)
        for (int k = 0; k < now.statements; k++)
            if ((i == 0 && k == 0) || now.shape & ALL_ALIKE)
                s->manner[i][k] = now.first;
    for (int i = 0; i < now.callers; i++) {
        if (pqp_call_init(&s->call[i]) != 0)
            abort();
        model_spawn(i, caller, false);
    }
    model_spawn(KEEPER, keeper, true);
    if (now.shape & WITH_LOOP)
        model_spawn(LOOP, event_loop, true);
}

static uint64_t number_from(const char *variable, uint64_t otherwise)
{
    const char *text = getenv(variable);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

static model_report explore(scenario how, uint64_t random_runs)
{
    now = how;
    model_spec spec = {.setup = setup,
                       .events = events,
                       .n_events = (int)(sizeof events / sizeof *events),
                       .check = check_end,
                       .hash = hash_scene,
                       .preemptions = how.preemptions,
                       .random_runs = random_runs,
                       .seed = number_from("PQPOOL_SEED", 1)};
    return model_explore(&spec);
}

static void expect_clean(scenario how, uint64_t random_runs)
{
    model_report r = explore(how, random_runs);
    if (!ok(!r.violation && (random_runs || r.complete),
            "%d callers x %d statements, %s: nothing lost, late, doubled or mixed up", how.callers,
            how.statements, how.name))
        diag("%s\nthe way there: %s", r.violation, r.trace);
    if (random_runs)
        diag("%llu random runs from seed %llu, %llu steps", (unsigned long long)r.runs,
             (unsigned long long)number_from("PQPOOL_SEED", 1), (unsigned long long)r.steps);
    else if (how.preemptions < 0)
        diag("every interleaving: %llu states, %llu steps", (unsigned long long)r.states,
             (unsigned long long)r.steps);
    else
        diag("every interleaving with at most %d preemptions: %llu states, %llu steps", how.preemptions,
             (unsigned long long)r.states, (unsigned long long)r.steps);
}

static void expect_found(const char *what, int plant, scenario how)
{
    model_planted = plant;
    model_report r = explore(how, 0);
    model_planted = PLANT_NONE;
    ok(r.violation, "a planted fault is found: %s", what);
    diag("%s\nthe way there: %s", r.violation ? r.violation : "", r.trace);
}

int main(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip_all(
        "the model switches stacks by itself, which sanitizers can't follow; run it in an ordinary build");
#endif
    tap_begin(1000);
    /* More with PQPOOL_MODEL_MORE=1 (minutes) or 2 (an hour), and with PQPOOL_MODEL_RUNS and PQPOOL_SEED. */
    int more = (int)number_from("PQPOOL_MODEL_MORE", 0);
    if (more)
        alarm(4 * 3600);
    const int most = more ? -1 : 3,
              few = more ? -1 : 2; /* preemptions, where all interleavings take too long */
    const scenario whole[] = {
        {"a time-out, a cut and a full socket", 1, 2, RUN_WITH_DEADLINE, true, true, SINGLE, -1},
        {"no fault", 2, 1, RUN, false, true, SINGLE, -1},
        {"a time-out", 2, 1, RUN_WITH_DEADLINE, false, false, SINGLE, most},
        {"the connection lost", 2, 1, RUN, true, false, SINGLE, -1},
        {"one abandoned, the connection lost", 2, 1, ABANDON, true, false, SINGLE, most},
        {"no fault", 2, 2, RUN, false, false, SINGLE, most},
        {"as a group, a time-out, a cut and a full socket", 1, 2, RUN_WITH_DEADLINE, true, true, GROUP, -1},
        {"one of them as a group", 2, 2, RUN, false, false, GROUP, -1},
        {"as one unit, a time-out, a cut and a full socket", 1, 2, RUN_WITH_DEADLINE, true, true,
         GROUP | UNIT, -1},
        {"as one unit, prepared, the connection lost", 1, 2, RUN, true, true, GROUP | UNIT | PLANNED, -1},
        {"one prepared statement, the connection lost", 2, 1, RUN, true, false, PLANNED, -1},
        {"one of them as one unit, prepared", 2, 2, RUN, false, false, GROUP | UNIT | PLANNED, most},
        {"a ticket, a time-out, a cut and a full socket", 1, 2, TICKET_WITH_DEADLINE, true, true, SINGLE,
         most},
        {"a ticket, prepared", 2, 1, TICKET, false, true, PLANNED, most},
        {"a ticket with a time-out", 2, 1, TICKET_WITH_DEADLINE, false, false, SINGLE, most},
        {"tickets past due together, whose ends lead back to the lane", 2, 1, TICKET_WITH_DEADLINE, false,
         false, ALL_ALIKE | NESTED, few},
        {"tickets whose ends lead back to the lane, the connection lost", 2, 1, TICKET, true, false,
         ALL_ALIKE | NESTED, few},
        {"a backlog that is held up", 3, 1, RUN, false, false, STALLS, 1 + more},
        {"a group begun and held up", 2, 2, RUN, false, false, GROUP | STALLS, few},
        {"a ticket withdrawn, a full socket", 1, 2, TICKET_WITHDRAWN, false, true, SINGLE, most},
        {"a ticket withdrawn", 2, 1, TICKET_WITHDRAWN, false, false, SINGLE, most},
        {"tickets withdrawn, the connection lost", 2, 1, TICKET_WITHDRAWN, true, false, ALL_ALIKE, few},
        {"a ticket, the connection lost", 2, 1, TICKET, true, false, SINGLE, most},
        {"tickets waited for, a cut and a full socket", 1, 2, TICKET_AWAITED, true, true, ALL_ALIKE, most},
        {"a ticket waited for", 2, 1, TICKET_AWAITED, false, false, SINGLE, most},
        {"tickets waited for", 2, 1, TICKET_AWAITED, true, false, ALL_ALIKE, most},
        {"tickets waited for, but not for long", 2, 1, TICKET_IMPATIENT, false, false, ALL_ALIKE, few},
        {"tickets waited for, but not for long, with a time-out", 2, 1, TICKET_IMPATIENT_WITH_DEADLINE, false,
         false, ALL_ALIKE, few},
        {"tickets waited for, but not for long, the connection lost", 2, 1, TICKET_IMPATIENT, true, false,
         ALL_ALIKE, few},
        {"tickets and an event loop, a full socket", 2, 1, TICKET, false, true, ALL_ALIKE | WITH_LOOP, few},
        {"a ticket and an event loop, the connection lost", 2, 1, TICKET, true, false, WITH_LOOP, few},
        {"a ticket waited for and an event loop", 2, 1, TICKET_AWAITED, false, false, WITH_LOOP, most}};
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        expect_clean(whole[i], 0);
    if (more)
        expect_clean((scenario){"no fault", 3, 1, RUN, false, false, SINGLE, -1}, 0);

    expect_clean((scenario){"a time-out", 3, 2, RUN_WITH_DEADLINE, false, false, SINGLE, 1 + more}, 0);
    expect_clean((scenario){"one abandoned", 3, 2, ABANDON, false, false, SINGLE, 1 + more}, 0);
    expect_clean((scenario){"the connection lost", 3, 2, RUN, true, false, SINGLE, 0 + more}, 0);
    expect_clean(
        (scenario){"a time-out, the connection lost", 3, 2, RUN_WITH_DEADLINE, true, false, SINGLE, 0 + more},
        0);
    expect_clean(
        (scenario){"one abandoned, the connection lost", 3, 2, ABANDON, true, false, SINGLE, 0 + more}, 0);

    expect_clean((scenario){"one of them as a group, with a time-out", 3, 2, RUN_WITH_DEADLINE, false, false,
                            GROUP, 0 + more},
                 0);

    uint64_t runs = number_from("PQPOOL_MODEL_RUNS", 30000);
    expect_clean((scenario){"a time-out, a cut and a full socket, at random", 3, 2, RUN_WITH_DEADLINE, true,
                            true, SINGLE, -1},
                 runs);
    expect_clean((scenario){"one abandoned, a cut and a full socket, at random", 3, 2, ABANDON, true, true,
                            SINGLE, -1},
                 runs);

    expect_clean((scenario){"one as a group, a time-out, a cut and a full socket, at random", 3, 2,
                            RUN_WITH_DEADLINE, true, true, GROUP, -1},
                 runs);

    expect_found("a wake-up lost between the unlock and the inbox", PLANT_LOST_WAKEUP,
                 (scenario){"planted", 2, 1, RUN, false, false, SINGLE, -1});
    expect_found("an appointed driver who leaves without passing the role on", PLANT_LOST_DRIVER,
                 (scenario){"planted", 2, 1, RUN_WITH_DEADLINE, false, false, SINGLE, -1});
    expect_found("guests whom nobody looks after", PLANT_LOST_GUEST,
                 (scenario){"planted", 2, 1, TICKET_IMPATIENT, false, false, ALL_ALIKE, 1});
    return done_testing();
}
