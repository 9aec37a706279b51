/*
 * Whether the stress of t/320 would find what it looks for: the library once more with faults that can be switched on.
 * Each is pressed in a process of its own, which it may well hang or crash; what counts is what was found before.
 */
#include "base.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "support/stress.h"

_Atomic int pqp_planted;

enum { STATEMENTS = 20000, PATIENCE_S = 30 };

typedef struct ending {
    bool in_time;
    int status; /* as waitpid() has it */
} ending;

/* In a process of its own: its report is for nobody. */
static void press(int fault, stress_tally *tally)
{
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    int nowhere = open("/dev/null", O_WRONLY);
    if (fault != 0 && !getenv("PQPOOL_TEST_LOG")) {
        dup2(nowhere, STDOUT_FILENO);
        dup2(nowhere, STDERR_FILENO);
    }
    PGconn *ctl = control();
    stress_prepare(ctl);
    atomic_store(&pqp_planted, fault);
    stress_plan plan = {.statements = STATEMENTS / tap_slowness(), .seed = stress_seed(), .options = ""};
    stress_run(ctl, &plan, tally);
    PQfinish(ctl);
    exit(0);
}

static stress_tally *new_tally(void)
{
    stress_tally *t = mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (t == MAP_FAILED)
        bail("mmap: %s", strerror(errno));
    return t;
}

/* Runs it until it ends, `found` is no longer 0, or patience does; found: NULL to let it end. */
static ending watch(int fault, stress_tally *tally, const _Atomic int64_t *found)
{
    ending e = {.in_time = true};
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        bail("fork: %s", strerror(errno));
    if (pid == 0)
        press(fault, tally);
    double end = now_s() + PATIENCE_S * tap_slowness();
    pid_t ended;
    while ((ended = waitpid(pid, &e.status, WNOHANG)) == 0) {
        if ((found && *found > 0) || now_s() > end) {
            e.in_time = now_s() <= end;
            kill(pid, SIGKILL);
            ended = waitpid(pid, &e.status, 0);
            break;
        }
        sleep_ms(5);
    }
    if (ended != pid)
        bail("waitpid: %s", strerror(errno));
    return e;
}

static int64_t faults_found(const stress_tally *t)
{
    return t->wrong + t->undocumented + t->dirty + t->misused + t->lost + t->twice + t->torn + t->sums +
           t->leaked + t->asked - t->judged - t->abandoned;
}

static void in_order(void)
{
    stress_tally *t = new_tally();
    ending e = watch(0, t, NULL);
    ok(e.in_time && WIFEXITED(e.status) && WEXITSTATUS(e.status) == 0,
       "the short stress of a build without a fault ends (status 0x%x)", (unsigned)e.status);
    is_int(faults_found(t), 0, "B1: and finds nothing in %d statements", (int)t->asked);
    ok(t->to_shared > 0, "though connections went from leases to statements, %d times", (int)t->to_shared);
    munmap(t, sizeof *t);
}

/* found: what the fault must show by. */
static void is_caught(int fault, stress_tally *t, const _Atomic int64_t *found, const char *name)
{
    double began = now_s();
    ending e = watch(fault, t, found);
    ok(*found > 0, "%s (after %" PRId64 " statements, %.1f s; %" PRId64 " found, %s)", name, t->judged,
       now_s() - began, *found, e.in_time ? "in time" : "it hangs");
    munmap(t, sizeof *t);
}

int main(void)
{
    tap_begin(5 * PATIENCE_S);
    PGconn *ctl = control();
    PQfinish(ctl); /* each process has one of its own */
    in_order();
    stress_tally *t = new_tally();
    is_caught(PQP_PLANT_SHIFTED_FLIGHT, t, &t->wrong,
              "B1: a build in which answers are shifted in the flight is caught by wrong answers");
    t = new_tally();
    is_caught(PQP_PLANT_PLAN_WITHOUT_TYPES, t, &t->values,
              "B11: a build in which plans are kept without their types is caught by wrong values");
    t = new_tally();
    is_caught(PQP_PLANT_SKIPPED_CLEAN, t, &t->foreign,
              "B7: a build in which leased connections are shared uncleaned is caught by foreign state");
    return done_testing();
}
