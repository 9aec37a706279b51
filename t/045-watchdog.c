/* The watchdog of --enable-watchdog builds: it ends a program in which statements are in flight and nobody drives. */
#include "tap.h"

#include <signal.h>
#include <sys/wait.h>
#include <poll.h>

#include "call.h"

/* A connection that takes everything and never answers. */
static pqp_sent take(pqp_wire *w, const pqpool_stmt *request, const pqp_sending *how)
{
    (void)w, (void)request, (void)how;
    return PQP_SENT_WHOLE;
}

static int flushed(pqp_wire *w)
{
    (void)w;
    return 0;
}

static bool no(pqp_wire *w)
{
    (void)w;
    return false;
}

static bool yes(pqp_wire *w)
{
    (void)w;
    return true;
}

static const char *clean(pqp_wire *w, bool drained)
{
    (void)w, (void)drained;
    return NULL;
}

static pqp_answer nothing(pqp_wire *w)
{
    (void)w;
    return (pqp_answer){.kind = PQP_NEXT_BUSY};
}

static int wait_a_little(pqp_wire *w, bool write, pqp_time deadline)
{
    (void)w, (void)write, (void)deadline;
    poll(NULL, 0, 5);
    return 0;
}

static void kick(pqp_wire *w)
{
    (void)w;
}

static bool read_nothing(pqp_wire *w, int64_t *bytes)
{
    (void)w, (void)bytes;
    return true;
}

static void tell_nobody(void *owner)
{
    (void)owner;
}

static const pqp_transport silent = {.send = take,
                                     .flush = flushed,
                                     .consume = read_nothing,
                                     .next = nothing,
                                     .alive = yes,
                                     .readable = no,
                                     .unclean = clean,
                                     .wait = wait_a_little,
                                     .kick = kick};

static pqp_lane lane;
static pqp_call call;
static pqp_stmt stmt;

static void *drive_on(void *arg)
{
    (void)arg;
    pqp_call_wait(&call, &lane, true);
    return NULL;
}

/* In a process of its own: a statement in flight whose caller drives, or has walked away; 1 s of keeping. */
static int lane_of(bool driven)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        static const pqpool_stmt request = {PQPOOL_STMT, .sql = "select 1"};
        pthread_t thread;
        if (pqp_lane_init(&lane, &silent, &(pqp_lane_owner){.tell_keeper = tell_nobody}) != 0 ||
            pqp_call_init(&call) != 0)
            _exit(2);
        pqp_lane_open(&lane, &(pqp_lane_terms){.window = 10});
        stmt = (pqp_stmt){.request = &request, .deadline = PQP_NEVER};
        call.members = &stmt;
        call.unsent_deadline = PQP_NEVER;
        pqp_call_ready(&call);
        if (!pqp_lane_reserve(&lane, 1) || !pqp_call_submit(&call, &lane))
            _exit(3);
        if (driven && pthread_create(&thread, NULL, drive_on, NULL) != 0)
            _exit(4);
        for (pqp_time end = pqp_now() + 1000 * PQP_MS; pqp_now() < end; poll(NULL, 0, 10))
            pqp_lane_tend(&lane, false);
        _exit(0);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return status;
}

int main(void)
{
    tap_begin(30);
    int status = lane_of(true);
    ok(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a lane that is driven is left alone");
    status = lane_of(false);
    ok(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT,
       "one that nobody drives for half a second ends the program");
    return done_testing();
}
