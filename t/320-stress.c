/*
 * A million statements of every kind, by 24 threads on few connections, which leases and statements take from each
 * other; then some more where they find little room, and while server processes are terminated. PQPOOL_STRESS says how
 * many, PQPOOL_SEED which.
 */
#include <inttypes.h>

#include "support/stress.h"

static PGconn *ctl;

static void must_hold(const stress_tally *t, const char *when)
{
    is_int(t->wrong, 0, "B1: every answer is the statement's own, %s", when);
    is_int(t->values, 0, "B11: none was worked out with another statement's types, %s", when);
    is_int(t->foreign, 0, "B7: nothing that a lease left was ever there for a statement, %s", when);
    is_int(t->dirty, 0, "A9: nor for the next lease of a pool with reset=clean, %s", when);
    is_int(t->undocumented, 0, "B10: no failure that is not documented, %s", when);
    is_int(t->misused, 0, "A3: every lease was had and given back, %s", when);
    is_int(t->asked, t->judged + t->abandoned, "B1: every call returned, and each once, %s", when);
    is_int(t->lost, 0, "B10: no write that was reported done is missing, %s", when);
    is_int(t->twice, 0, "B10: none stands that was reported undone, and none twice, %s", when);
    is_int(t->torn, 0, "B9: of no all-or-nothing group a part stands, %s", when);
    is_int(t->sums, 0, "the figures added up at every look, %s", when);
    ok(t->over < 1000 * tap_slowness(),
       "A3: the server had no more processes than max_size (but for %d ms, of processes going), %s",
       (int)t->over, when);
    is_int(t->leaked, 0, "A3: nothing is out when it is quiet: no statement, lease, ticket or process, %s",
           when);
}

static void tell(const stress_tally *t, double seconds)
{
    diag("%" PRId64 " statements in %.1f s; %" PRId64 " groups, %" PRId64 " tickets (%" PRId64
         " waited for by another thread, %" PRId64 " abandoned), %" PRId64 " slow; %" PRId64
         " leases with %" PRId64 " statements that left %" PRId64 " things; %" PRId64
         " times a lease's connection came to statements, %" PRId64 " back; %" PRId64
         " writes; %d processes terminated, %d statements UNKNOWN; the slowest took %d ms",
         t->asked, seconds, t->groups, t->tickets, t->elsewhere, t->abandoned, t->alone, t->leases,
         t->lease_statements, t->dirt, t->to_shared, t->to_lease, t->kept, (int)t->ended, (int)t->unknown,
         (int)t->slowest_ms);
}

typedef struct phase {
    const char *when, *options;
    int share; /* of so many, the first phase's are one */
    int kill_ms;
} phase;

static const phase phases[] = {
    {"in peace", "", 1, 0},
    {"with little room", "pool_pipeline_depth=3", 8, 0},
    {"with little patience", "pool_stall_threshold=1ms pool_slow_lane_threshold=2ms", 8, 0},
    {"while server processes are terminated", "", 20, 30},
};

static void run(int i, int64_t statements, uint64_t seed)
{
    static stress_tally tallies[sizeof phases / sizeof *phases];
    const phase *p = &phases[i];
    stress_tally *t = &tallies[i];
    stress_plan plan = {.statements = statements / p->share,
                        .seed = seed + (uint64_t)i,
                        .first = (int64_t)i << 48,
                        .kill_ms = p->kill_ms,
                        .options = p->options};
    double began = now_s();
    stress_run(ctl, &plan, t);
    tell(t, now_s() - began);
    must_hold(t, p->when);
    ok(t->to_shared > 0 && t->to_lease > 0, "B7: connections went from leases to statements and back, %s",
       p->when);
    ok(t->groups > 0 && t->elsewhere > 0 && t->abandoned > 0 && t->dirt > 0 && t->kept > 0 &&
           (t->ended > 0) == (p->kill_ms > 0),
       "everything was at work, %s", p->when);
}

int main(void)
{
    const char *given = getenv("PQPOOL_STRESS");
    int64_t statements = given ? atoll(given) : 0;
    if (statements <= 0)
        statements = 1000000 / (tap_slowness() > 1 ? 2 * tap_slowness() : 1);
    tap_begin(240 + (unsigned)(statements / 2000));
    ctl = control_alone();                       /* nobody else's tables, and all of the server */
    one(ctl, "set client_min_messages = error"); /* a process may be gone before it is terminated */
    int before = descriptors();
    stress_prepare(ctl);
    diag("PQPOOL_SEED=%" PRIu64, stress_seed());
    for (int i = 0; i < (int)(sizeof phases / sizeof *phases); i++)
        run(i, statements, stress_seed());
    is_int(descriptors(), before, "A3: no descriptor is left behind");
    PQfinish(ctl);
    return done_testing();
}
