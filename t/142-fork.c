/* A forked child that lives on beside its parent's pool: with the handlers of fork(), and without them. */
#define _GNU_SOURCE /* pipe2, dup3 */
#include "support/nemesis.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define APP "fork"
#define NAMED "application_name=" APP " pool_log_level=off "

static PGconn *ctl;

static int lost;

static void count_lost(const pqpool_event *e, void *arg)
{
    (void)arg;
    lost += e->id == PQPOOL_EVENT_CLOSE && e->reason == PQPOOL_CLOSE_LOST_IDLE;
}

static double processor_time(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* A child that no handler of fork() knows of, and that holds all descriptors until it is ended. */
static pid_t fork_unseen(void)
{
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        struct timespec long_time = {60, 0};
        syscall(SYS_nanosleep, &long_time, NULL);
        syscall(SYS_exit_group, 0);
    }
    if (child < 0)
        bail("clone");
    return child;
}

static void end(pid_t child)
{
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static int use_often(pqpool *pool)
{
    int used = 0;
    for (int i = 0; i < 20; i++, sleep_ms(5)) {
        pqpool_lease lease = take(pool);
        PGresult *res = PQexec(lease.conn, "select 'used'");
        used += strcmp(value(res), "used") == 0;
        PQclear(res);
        pqpool_release(&lease);
    }
    return used;
}

/* What the keeper was reading is held open by a child; shared: as a shared connection, else as a lease's. */
static void held_open(bool shared)
{
    const char *mode = shared ? "shared" : "leased";
    pqpool *pool = open_pool(NAMED "pool_max_size=1", &(pqpool_hooks){PQPOOL_HOOKS, .on_event = count_lost});
    lost = 0;
    pid_t child;
    if (shared) {
        PGresult *res = pqpool_exec(pool, "select pg_backend_pid()", NULL);
        pid_t backend = (pid_t)atoi(value(res));
        PQclear(res);
        pqpool_ticket *ticket = submit_sql(pool, "select pg_sleep(60)"); /* the keeper reads */
        if (!eventually(waits_for(ctl, backend, "Timeout")))
            bail("the statement does not run");
        child = fork_unseen();
        terminate(ctl, backend);
        PQclear(pqpool_wait(ticket, -1, NULL));
    } else {
        pqpool_lease lease = take(pool);
        child = fork_unseen();
        pqpool_discard(&lease);
    }
    if (!eventually(stats(pool).total == 0 || stats(pool).connects > 1))
        bail("the connection is not closed");
    double before = processor_time();
    sleep_ms(500);
    double spent = processor_time() - before;
    ok(spent < 0.25, "%s: the keeper does not spin over a socket that a child holds open", mode);
    if (spent >= 0.25)
        diag("got: %.2f s of processor time in 0.5 s", spent);
    is_int(use_often(pool), 20, "%s: every lease after that works", mode);
    is_int(lost, 0, "%s: and none of the healthy connections is closed for what befalls the old one", mode);
    is_int(stats(pool).connects, 2, "%s: one connection in the lost one's place serves them all", mode);
    end(child);
    close_pool(pool);
}

/* ---- a child of a parent that dies ---- */

static void answer(PGresult *res, const pqpool_error *err, void *arg)
{
    (void)err;
    *(int *)arg = 1;
    PQclear(res);
}

/* Takes a connection in each manner, and returns with them open. */
static void occupy(pqpool *pool)
{
    pqpool_lease lease = take(pool), reset = take(pool), idle = take(pool);
    PQclear(PQexec(lease.conn, "begin; lock table fork_lock in access exclusive mode"));
    PQreset(reset.conn);
    pqpool_release(&idle);
    int done = 0;
    (void)pqpool_fd(pool);
    (void)pqpool_dispatch(pool);
    (void)pqpool_submit_cb(pool, &(pqpool_stmt){PQPOOL_STMT, .sql = "select 1"}, answer, &done, NULL);
    while (!done)
        pqpool_dispatch(pool);
}

/* In a process of its own: has a child, says so, and is gone. */
static void die_with_child(int ready, int hold)
{
    occupy(open_pool(NAMED "pool_max_size=4", NULL));
    if (fork() == 0) {
        char byte;
        close(ready);
        (void)!read(hold, &byte, 1); /* until the test ends it */
        _exit(0);
    }
    if (write(ready, "r", 1) == 1)
        raise(SIGKILL);
    _exit(1);
}

static void parent_dies(void)
{
    int ready[2], hold[2];
    char byte;
    one(ctl, "create table if not exists fork_lock (id int)");
    if (pipe2(ready, O_CLOEXEC) != 0 || pipe2(hold, O_CLOEXEC) != 0)
        bail("pipe");
    fflush(stdout);
    pid_t parent = fork();
    if (parent == 0) {
        close(hold[1]);
        die_with_child(ready[1], hold[0]);
    }
    close(ready[1]);
    close(hold[0]);
    if (read(ready[0], &byte, 1) != 1)
        bail("the parent did not get so far");
    waitpid(parent, NULL, 0);
    bool ended = eventually(backends(ctl, APP) == 0);
    ok(ended, "the sessions of a killed parent end, though a child of it lives on");
    if (!ended)
        diag("got: %d left", backends(ctl, APP));
    one(ctl, "set lock_timeout = '5s'");
    is_str(one(ctl, "select count(*) from fork_lock"), "0", "and with them its locks");
    close(hold[1]); /* now the child ends */
    close(ready[0]);
    one(ctl, "drop table fork_lock");
}

/* ---- what a child may do by what it has inherited ---- */

/* In a child; its exit status: whether it is right. */
static bool right_in_child(bool (*look)(void *), void *arg)
{
    int status = -1;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(10 * (unsigned)tap_slowness());
        bool right = look(arg);
        kill(getpid(), right ? SIGUSR1 : SIGUSR2); /* its exit status belongs to whatever watches it */
        _exit(0);
    }
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR1;
}

static bool finish_lease(void *arg)
{
    PGconn *conn = arg;
    PGresult *res = PQexec(conn, "select 1");
    bool refused = PQresultStatus(res) == PGRES_FATAL_ERROR;
    PQclear(res);
    PQfinish(conn);
    return refused;
}

static void child_finishes(void)
{
    pqpool *pool = open_pool(NAMED, NULL);
    pqpool_lease lease = take(pool);
    PQclear(PQexec(lease.conn, "begin"));
    ok(right_in_child(finish_lease, lease.conn),
       "what a child asks by a lease of its parent's fails, and is never sent");
    PGresult *res = PQexec(lease.conn, "select 'here'");
    ok(strcmp(value(res), "here") == 0 && PQtransactionStatus(lease.conn) == PQTRANS_INTRANS,
       "and its PQfinish() does not end the parent's session");
    PQclear(res);
    pqpool_release(&lease);
    close_pool(pool);
}

static bool reads_file(void *arg)
{
    char byte;
    return read(*(int *)arg, &byte, 1) == 1 && byte == 'x';
}

/* A descriptor that was a connection's and is a file's by now is no business of the pool's. */
static void number_is_taken(void)
{
    pqpool *pool = open_pool(NAMED, NULL);
    pqpool_lease lease = take(pool);
    int fd = PQsocket(lease.conn), file[2];
    PQfinish(lease.conn);
    if (pipe2(file, O_CLOEXEC) != 0 || write(file[1], "x", 1) != 1 ||
        (file[0] != fd && dup3(file[0], fd, O_CLOEXEC) != fd))
        bail("a file with the number of a connection");
    ok(eventually(backends(ctl, APP) == 0), "PQfinish() on a lease ends its session at once");
    ok(right_in_child(reads_file, &fd),
       "a file that has a former connection's number is the child's as it is");
    close(fd);
    pqpool_release(&lease);
    close_pool(pool);
}

int main(void)
{
    tap_begin(90);
    ctl = control();
    held_open(true);
    held_open(false);
    parent_dies();
    child_finishes();
    number_is_taken();
    ok(eventually(backends(ctl, APP) == 0), "no server process is left behind");
    PQfinish(ctl);
    return done_testing();
}
