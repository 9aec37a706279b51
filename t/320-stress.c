/*
 * A million statements of every kind, by 24 threads on few connections, which leases and statements take from each
 * other; then some more while server processes are terminated. PQPOOL_STRESS says how many, PQPOOL_SEED which.
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
         " writes; %d processes terminated, %d statements UNKNOWN",
         t->asked, seconds, t->groups, t->tickets, t->elsewhere, t->abandoned, t->alone, t->leases,
         t->lease_statements, t->dirt, t->to_shared, t->to_lease, t->kept, (int)t->ended, (int)t->unknown);
}

int main(void)
{
    const char *given = getenv("PQPOOL_STRESS");
    int64_t statements = given && atoll(given) > 0 ? atoll(given) : 1000000;
    if (tap_slowness() > 1)
        statements /= 2 * tap_slowness();
    tap_begin(240 + (unsigned)(statements / 2000));
    ctl = control();
    int before = stress_descriptors();
    stress_prepare(ctl);
    static stress_tally calm, storm;
    double began = now_s();
    stress_plan plan = {.statements = statements, .seed = stress_seed(), .options = ""};
    diag("PQPOOL_SEED=%" PRIu64, plan.seed);
    stress_run(ctl, &plan, &calm);
    tell(&calm, now_s() - began);
    must_hold(&calm, "in peace");
    ok(calm.to_shared > 0 && calm.to_lease > 0, "B7: connections went from leases to statements and back");
    ok(calm.groups > 0 && calm.elsewhere > 0 && calm.abandoned > 0 && calm.dirt > 0 && calm.kept > 0,
       "everything was at work");

    began = now_s();
    plan.statements = statements / 20;
    plan.first = (int64_t)1 << 48;
    plan.kill_ms = 30;
    one(ctl, "set client_min_messages = error"); /* a process may be gone before it is terminated */
    stress_run(ctl, &plan, &storm);
    tell(&storm, now_s() - began);
    must_hold(&storm, "while server processes are terminated");
    ok(storm.ended > 0 && storm.kept > 0, "processes were terminated, and writes done");
    is_int(stress_descriptors(), before, "A3: no descriptor is left behind");
    PQfinish(ctl);
    return done_testing();
}
