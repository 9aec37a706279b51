/* The small parts the pool is made of, each alone and without a server. */
#include "tap.h"

#include "clock.h"
#include "depot.h"
#include "error.h"
#include "event.h"
#include "lane.h"
#include "options.h"
#include "parker.h"
#include "queue.h"
#include "slot.h"
#include "text.h"

#include <locale.h>

static void clocks(void)
{
    pqp_time now = pqp_now();
    ok(pqp_now() >= now, "time does not go back");
    is_int(pqp_deadline(now, 20), now + 20 * PQP_MS, "a deadline lies as many ms ahead as was said");
    is_int(pqp_deadline(now, -1), PQP_NEVER, "-1 is never");
    is_int(pqp_deadline(now, INT64_MAX), PQP_NEVER, "too far to count is never");
    is_int(pqp_poll_ms(now + 1, now), 1, "a rest below one ms is rounded up: poll() is never early");
    is_int(pqp_poll_ms(now, now), 0, "nothing is left at the deadline");
    is_int(pqp_poll_ms(PQP_NEVER, now), -1, "never is poll()'s -1");
    bool within = true, varied = false;
    pqp_time first = pqp_jitter(1000, 20);
    for (int i = 0; i < 1000; i++) {
        pqp_time t = pqp_jitter(1000, 20);
        within &= t >= 800 && t <= 1200;
        varied |= t != first;
    }
    ok(within && varied, "jitter of 20 %% stays within 20 %%, and varies");
}

static void errors(void)
{
    pqpool_error e;
    is_int(pqp_fail(&e, PQPOOL_ELOST, PQPOOL_UNKNOWN, "%s %d", "lost", 7), PQPOOL_ELOST,
           "failing returns the code");
    ok(e.code == PQPOOL_ELOST && e.outcome == PQPOOL_UNKNOWN && e.row == -1, "and fills the error");
    is_str(e.message, "lost 7", "with its text");
    char big[3000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    pqp_refuse(&e, PQPOOL_EINVAL, "%s", big);
    is_int(strlen(e.message), sizeof e.message - 1, "a text too long is cut");
    pqp_error_append(&e, "more");
    is_int(strlen(e.message), sizeof e.message - 1, "appending to a full one changes nothing");
    pqp_error_sqlstate(&e, "40001");
    is_str(e.sqlstate, "40001", "an SQLSTATE has five characters");
    pqp_error_sqlstate(&e, "4000");
    is_str(e.sqlstate, "", "anything else is none");
    is_int(pqp_no_memory(NULL), PQPOOL_ENOMEM, "every error may be NULL");
    pqp_refuse(&e, PQPOOL_EINVAL, "a\n\tb.\nc;\r\nd\x1b[0m\n");
    is_str(e.message, "a; b. c; d [0m", "lines and control characters become one line");
    static const char *const characters[] = {"\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x90\x98", "\xe9"};
    for (size_t k = 0; k < PQP_COUNT_OF(characters); k++)
        for (size_t n = 990; n < 1000; n++) {
            snprintf(big, n + 1, "%.*s", (int)n, "");
            memset(big, 'x', n);
            big[n] = '\0';
            pqp_refuse(&e, PQPOOL_EINVAL, "%s%s%s", big, characters[k], characters[k]);
            size_t rest = strlen(e.message) - n, whole = strlen(characters[k]);
            if (rest % whole != 0 || rest > 2 * whole || n + rest + whole < 1000)
                ok(rest % whole == 0, "a character of %zu bytes is cut behind byte %zu", whole, n);
        }
    char *before = setlocale(LC_ALL, NULL), point[40];
    snprintf(point, sizeof point, PQP_TENTHS " " PQP_TENTHS " " PQP_TENTHS,
             PQP_TENTHS_OF(1549999, PQP_S_IN_US), PQP_TENTHS_OF(INT64_C(950), PQP_MS_IN_US),
             PQP_TENTHS_OF(0, PQP_S_IN_US));
    is_str(point, "1.5 1.0 0.0", "tenths are written with a point, rounded (locale %s)", before);

    bool named = true;
    for (int c = PQPOOL_OK; c <= PQPOOL_EFORKED; c++)
        named &= strncmp(pqpool_code_name((pqpool_code)c), "PQPOOL_", 7) == 0 &&
                 strcmp(pqpool_strerror((pqpool_code)c), "unknown error") != 0;
    ok(named, "every code has its name and text");
    is_str(pqpool_strerror((pqpool_code)99), "unknown error", "a number that is no code has neither");
}

static bool retryable(pqpool_code code, pqpool_outcome outcome, const char *sqlstate)
{
    pqpool_error e;
    pqp_fail(&e, code, outcome, "x");
    pqp_error_sqlstate(&e, sqlstate);
    return pqpool_is_retryable(&e);
}

static void retries(void)
{
    ok(retryable(PQPOOL_ELOST, PQPOOL_NOT_SENT, ""), "B10: what was not sent may be repeated");
    ok(retryable(PQPOOL_ELOST, PQPOOL_NOT_RUN, "57P01"), "B10: what was not run may be repeated");
    ok(!retryable(PQPOOL_ELOST, PQPOOL_UNKNOWN, "57P01"), "B10: what may have run may not");
    ok(retryable(PQPOOL_ESERVER, PQPOOL_DONE, "40001"), "B10: a serialization failure may be repeated");
    ok(retryable(PQPOOL_ESERVER, PQPOOL_DONE, "40P01"), "B10: and a deadlock");
    ok(!retryable(PQPOOL_ESERVER, PQPOOL_DONE, "23505"), "B10: another error of the server may not");
    ok(!retryable(PQPOOL_ECONNECT, PQPOOL_NOT_SENT, "28P01"),
       "a refused login won't get better by repeating");
    ok(!retryable(PQPOOL_ECONNECT, PQPOOL_NOT_SENT, "3D000"), "nor an unknown database");
    ok(retryable(PQPOOL_ECONNECT, PQPOOL_NOT_SENT, "53300"), "a full server may");
    static const char *const final[] = {"42501", "55000", "42704", "22023", "3F000", "0A000", "58P01"};
    static const char *const passing[] = {"57P03", "53200", "57P01", "08006", ""};
    for (size_t i = 0; i < sizeof final / sizeof *final; i++)
        ok(!retryable(PQPOOL_ECONNECT, PQPOOL_NOT_SENT, final[i]),
           "a login refused with %s is not to be repeated", final[i]);
    for (size_t i = 0; i < sizeof passing / sizeof *passing; i++)
        ok(retryable(PQPOOL_ECONNECT, PQPOOL_NOT_SENT, passing[i]), "one that fails with \"%s\" is",
           passing[i]);
    ok(!retryable(PQPOOL_EREFUSED, PQPOOL_NOT_SENT, "") && !retryable(PQPOOL_EINVAL, PQPOOL_NOT_SENT, "") &&
           !retryable(PQPOOL_ECLOSED, PQPOOL_NOT_SENT, ""),
       "a refused statement, a wrong call, a closed pool will not");
    ok(!pqpool_is_retryable(NULL), "no error is nothing to repeat");
}

static int made, unmade;

static int make_one(void *object)
{
    (void)object;
    made++;
    return 0;
}

static void unmake_one(void *object)
{
    (void)object;
    unmade++;
}

static void depots(void)
{
    pqp_depot d;
    ok(pqp_depot_init(&d, 40, make_one, unmake_one) == 0, "a depot opens");
    void *a = pqp_depot_take(&d), *b = pqp_depot_take(&d);
    ok(a && b && a != b, "it hands out objects");
    is_int(d.out, 2, "and counts them");
    int before = made;
    pqp_depot_put(&d, a);
    ok(pqp_depot_take(&d) == a, "one that came back is handed out again");
    is_int(made, before, "and is not made anew");
    pqp_depot_put(&d, a);
    pqp_depot_put(&d, b);
    pqp_depot_fini(&d);
    is_int(unmade, made, "each is unmade once, at the end");
}

typedef struct nap {
    pqp_parker parker;
    _Atomic int rounds;
} nap;

static void *sleeper(void *arg)
{
    nap *n = arg;
    for (int i = 1; i <= 20000; i++) {
        if (pqp_parker_wait(&n->parker, PQP_NEVER) != i)
            return n;
        pqp_parker_reset(&n->parker);
        n->rounds = i;
    }
    return NULL;
}

static void parkers(void)
{
    nap n = {0};
    ok(pqp_parker_init(&n.parker) == 0, "a parker opens");
    pqp_time began = pqp_now();
    is_int(pqp_parker_wait(&n.parker, began + 30 * PQP_MS), PQP_PARKED,
           "without a word it sleeps until its deadline");
    ok(pqp_now() - began >= 30 * PQP_MS, "and not shorter");
    pqp_parker_post(&n.parker, 5);
    is_int(pqp_parker_wait(&n.parker, 0), 5, "a word that is there is taken though the deadline has passed");
    pqp_parker_reset(&n.parker);
    pthread_t thread;
    pthread_create(&thread, NULL, sleeper, &n);
    for (int i = 1; i <= 20000; i++) {
        pqp_parker_post(&n.parker, i);
        while (n.rounds != i)
            sched_yield();
    }
    void *failed;
    pthread_join(thread, &failed);
    ok(!failed, "20000 words to a sleeping thread arrive, none lost, none twice");
    pqp_parker_fini(&n.parker);
}

static void queues(void)
{
    pqp_queue q = {0};
    pqp_waiter w[5] = {0};
    pqp_turn turns[5] = {0};
    for (int i = 0; i < 4; i++) {
        pqp_queue_take_turn(&q, &turns[i], i);
        pqp_queue_enter(&q, &w[i], i == 1 || i == 2 ? PQP_WANT_SHARE : PQP_WANT_LEASE, turns[i]);
    }
    ok(pqp_queue_first(&q, true) == &w[0], "A3: who came first is first");
    pqp_queue_leave(&q, &w[0]);
    ok(pqp_queue_first(&q, true) == &w[1], "A3: then who came next, whatever he wants");
    ok(pqp_queue_first(&q, false) == &w[3], "if sharers have no need, the first lease caller is");
    pqp_queue_take_turn(&q, &turns[4], 5);
    pqp_queue_enter(&q, &w[4], PQP_WANT_LEASE, turns[4]);
    pqp_queue_take_turn(&q, &turns[0], 6);
    pqp_queue_enter(&q, &w[0], PQP_WANT_LEASE, turns[0]);
    ok(pqp_queue_first(&q, true) == &w[0], "A3: who was served something broken stands where he stood");
    pqp_queue_leave(&q, &w[3]);
    pqp_queue_enter(&q, &w[3], PQP_WANT_LEASE, turns[3]);
    pqp_queue_leave(&q, &w[0]);
    ok(pqp_queue_first(&q, false) == &w[3], "A3: also in the middle of the line");
    for (int i = 1; i < 5; i++)
        pqp_queue_leave(&q, &w[i]);
    ok(!pqp_queue_first(&q, true), "who leaves is not served");
    is_int(q.owners.count + q.sharers.count, 0, "and not counted");
}

static void slots(void)
{
    pqp_slots s = {0};
    ok(pqp_slots_grow(&s, 3), "slots are made");
    is_int(pqp_slots_total(&s), 0, "empty ones hold no connection");
    pqp_slot *a = s.all[0], *b = s.all[1];
    pqp_slot_move(&s, a, PQP_SLOT_CONNECTING, 1);
    pqp_slot_move(&s, b, PQP_SLOT_CONNECTING, 1);
    pqp_slot_move(&s, a, PQP_SLOT_IDLE, 2);
    pqp_slot_move(&s, b, PQP_SLOT_IDLE, 3);
    ok(s.in[PQP_SLOT_IDLE].head == b, "A2: the one used last is lent first");
    is_int(pqp_slots_total(&s), 2, "the total is what the lists hold");
    is_str(pqp_slot_state_name(PQP_SLOT_DRAINING), "DRAINING", "a state has its name");
    ok(pqp_slots_grow(&s, 5) && s.all[0] == a && s.count == 5, "more can be made; slots stay where they are");
    pqp_slots_fini(&s);
}

static int told[2000], n_told;
static pqp_events *the_events;

static void on_event(const pqpool_event *e, void *arg)
{
    (void)arg;
    if (n_told < (int)PQP_COUNT_OF(told))
        told[n_told++] = e->id == PQPOOL_EVENT_DISCARDED ? -(int)e->count : e->connection;
    if (e->connection == 3)
        pqp_events_hand_out(the_events); /* a hook may come back in: no loop, no deadlock */
}

static void events(void)
{
    static pqp_events ev;
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_event = on_event};
    the_events = &ev;
    ok(pqp_events_init(&ev, &hooks, "mine") == 0, "events open");
    for (int i = 1; i <= 5; i++)
        pqp_event_note_down(&ev, &(pqpool_event){.id = PQPOOL_EVENT_CONNECT, .connection = i}, "x");
    is_int(n_told, 0, "nothing is told while it is noted");
    pqp_events_hand_out(&ev);
    ok(n_told == 5 && told[0] == 1 && told[4] == 5,
       "A11: all are told afterwards, in order, though the hook came back in");
    n_told = 0;
    for (int i = 1; i <= 1000; i++)
        pqp_event_note_down(&ev, &(pqpool_event){.id = PQPOOL_EVENT_CONNECT, .connection = 100 + i}, NULL);
    pqp_events_hand_out(&ev);
    ok(n_told > 0 && n_told <= 32, "a thread that leaves the pool hands out a bounded number of events (%d)",
       n_told);
    pqp_events_hand_out_all(&ev);
    is_int(pqp_events_dropped(&ev), 1000 - (PQP_EVENT_RING - 1), "what has no room is counted");
    is_int(told[n_told - 1], -(1000 - (PQP_EVENT_RING - 1)), "and the count is told");
    is_str(pqpool_event_name(PQPOOL_EVENT_ENQUEUE), "enqueue", "an event has its name");
    pqp_events_fini(&ev);
}

/* ---- a lane whose event loop has come back to it since the keeper looked ---- */

static int n_unwatched, n_reads;

static void note_watch(pqp_wire *w, int epoll_fd, void *data)
{
    (void)w, (void)epoll_fd;
    n_unwatched += data == NULL;
}

static bool note_read(pqp_wire *w, int64_t *bytes)
{
    (void)w, (void)bytes;
    n_reads++;
    return true;
}

static void nobody(void *owner)
{
    (void)owner;
}

static void *vacate_elsewhere(void *lane)
{
    pqp_tended seen;
    return pqp_lane_vacate(lane, &seen) ? lane : NULL;
}

static void lanes(void)
{
    static const pqp_transport none = {.watch = note_watch, .consume = note_read};
    static pqp_lane lane;
    _Atomic int loop = 1;
    pqp_tended seen = {0};
    pthread_t other;
    void *vacated = &lane;
    if (pqp_lane_init(&lane, &none, &(pqp_lane_owner){.tell_keeper = nobody, .loop_fd = &loop}) != 0)
        bail("a lane");
    lane.in_loop = true;
    pqp_lane_lock(&lane);
    if (pthread_create(&other, NULL, vacate_elsewhere, &lane) != 0)
        bail("a thread");
    pthread_join(other, &vacated);
    lane.held = 0;
    pqp_mutex_unlock(&lane.mu);
    ok(!vacated, "a lane that is busy is not vacated, and not waited for");
    ok(pqp_lane_vacate(&lane, &seen) && n_unwatched == 1,
       "an empty one is, and taken out of the event loop that has come back to it");
    ok(!pqp_lane_visit(&lane) && n_reads == 0,
       "a loop that was told before does not read its socket any more");
    static pqp_stmt m;
    pqp_stmt_list_push(&lane.backlog, &m);
    ok(!pqp_lane_vacate(&lane, &seen), "one that has something to do stays a lane");
    pqp_stmt_list_remove(&lane.backlog, &m);
    pqp_lane_fini(&lane);
}

int main(void)
{
    tap_begin(60);
    clocks();
    errors();
    retries();
    depots();
    parkers();
    queues();
    slots();
    events();
    lanes();
    return done_testing();
}
