/*
 * waiting: what one more waiter costs, when 10 wait and when 10 000 do. In time, in the library's memory, and, under
 * callgrind, in instructions.
 *
 *     waiting                    all manners and numbers, each in a process of its own
 *     waiting MANNER NUMBER      one of them; this is what callgrind is to count
 *
 * threads     threads blocked in pqpool_acquire(), each gives back at once what it gets
 * bare        the same threads without a pool, each waits for a condition that the one before it brings about: what
 *             the system takes to wake one of so many
 * callbacks   pqpool_acquire_cb(); whoever is served gives back and asks again, so the number stays the same
 * tickets     pqpool_submit(), on one shared connection with one statement in flight; likewise
 *
 * There is one connection. Nobody may overtake: each is served in his turn, or the program fails.
 */
#include "bench.h"
#include "callgrind.h"
#include "memory.h"

#include <semaphore.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { OPERATIONS = 10000, WARM_UP = 1000, MOST = 10000, STACK = 64 * 1024 };

static const int numbers[] = {10, 100, 1000, MOST};
enum { N_NUMBERS = sizeof numbers / sizeof *numbers };

/* What one measurement found; in memory that its process shares with the first one. */
typedef struct finding {
    double us;    /* from one served waiter to the next */
    double bytes; /* of the library's, per waiter */
    double rss;   /* of the process, per waiter */
    int could;    /* so many could be made to wait */
    char why[200];
} finding;

static double resident(void)
{
    long size = 0, pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    must(f && fscanf(f, "%ld %ld", &size, &pages) == 2, "/proc/self/statm");
    fclose(f);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

/* What there is before they line up, and after. */
typedef struct memory {
    double bytes, rss;
} memory;

static memory take_stock(void)
{
    return (memory){(double)library_bytes(), resident()};
}

static void note_memory(finding *f, memory before, int number)
{
    f->bytes = ((double)library_bytes() - before.bytes) / number;
    f->rss = (resident() - before.rss) / number;
}

/* With its connection up: what the first caller needs while it is made is not another waiter's. */
static pqpool *open_ready(const char *conninfo)
{
    pqpool *pool = open_pool(conninfo, NULL);
    for (double end = now_s() + 10; stats(pool).idle < 1; sleep_ms(1))
        must(now_s() < end, "there is no connection");
    return pool;
}

/* ---- threads ---- */

typedef struct crowd {
    pqpool *pool; /* NULL: without one */
    int number;
    int served; /* whose turn it is; only who has the connection looks */
    double last;
    atomic_int asleep; /* without a pool: those who wait, or nearly */
    atomic_bool over;
    sem_t all_served;
} crowd;

/* They live through all rounds: a new one would find its stack cold, and one that ends would hold up the others. */
typedef struct member {
    int turn;
    sem_t come;
    pthread_mutex_t lock;
    pthread_cond_t woken;
    bool word;
    pthread_t thread;
} member;

static crowd everybody;
static member members[MOST];

static void note_served(const member *m)
{
    must(everybody.served == m->turn, "thread %d is served in the turn of %d", m->turn, everybody.served);
    everybody.served++;
    everybody.last = now_s();
}

static void give_word(member *m)
{
    pthread_mutex_lock(&m->lock);
    m->word = true;
    pthread_mutex_unlock(&m->lock);
    pthread_cond_signal(&m->woken);
}

static void wait_for_lease(member *m)
{
    pqpool_lease lease;
    pqpool_error err;
    must(pqpool_acquire(everybody.pool, &lease, &err) == PQPOOL_OK, "acquire: %s", err.message);
    note_served(m);
    pqpool_release(&lease);
}

/* With a limit, as the pool's callers have one. */
static void wait_for_word(member *m)
{
    struct timespec limit;
    clock_gettime(CLOCK_MONOTONIC, &limit);
    limit.tv_sec += 600;
    pthread_mutex_lock(&m->lock);
    everybody.asleep++;
    while (!m->word)
        must(pthread_cond_timedwait(&m->woken, &m->lock, &limit) == 0, "pthread_cond_timedwait");
    m->word = false;
    pthread_mutex_unlock(&m->lock);
    note_served(m);
    if (m->turn + 1 < everybody.number)
        give_word(&m[1]);
}

static void await(sem_t *s)
{
    while (sem_wait(s) != 0)
        continue;
}

static void *come_and_wait(void *arg)
{
    member *m = arg;
    bool last = m->turn == everybody.number - 1;
    for (await(&m->come); !everybody.over; await(&m->come)) {
        if (everybody.pool)
            wait_for_lease(m);
        else
            wait_for_word(m);
        if (last)
            sem_post(&everybody.all_served);
    }
    return NULL;
}

/* Returns how many there could be. */
static int make_threads(int number, char *why, size_t size)
{
    pthread_attr_t attr;
    pthread_condattr_t monotonic;
    pthread_attr_init(&attr);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    must(pthread_attr_setstacksize(&attr, STACK) == 0, "a stack of %d bytes", STACK);
    everybody.number = number;
    everybody.over = false;
    sem_init(&everybody.all_served, 0, 0);
    int n = 0, rc = 0;
    for (; n < number && rc == 0; n += rc == 0) {
        member *m = &members[n];
        m->turn = n;
        sem_init(&m->come, 0, 0);
        pthread_mutex_init(&m->lock, NULL);
        pthread_cond_init(&m->woken, &monotonic);
        rc = pthread_create(&m->thread, &attr, come_and_wait, m);
    }
    snprintf(why, size, "%s", strerror(rc));
    pthread_attr_destroy(&attr);
    pthread_condattr_destroy(&monotonic);
    return n;
}

static void end_threads(int n)
{
    everybody.over = true;
    for (int i = 0; i < n; i++)
        sem_post(&members[i].come);
    for (int i = 0; i < n; i++)
        pthread_join(members[i].thread, NULL);
}

static int waiting_threads(void)
{
    return everybody.pool ? stats(everybody.pool).waiting : everybody.asleep;
}

/* One after another, so that it is known who came before whom. */
static void line_up_threads(void)
{
    everybody.served = everybody.asleep = 0;
    for (int n = 0; n < everybody.number; n++) {
        sem_post(&members[n].come);
        for (double end = now_s() + 60; waiting_threads() != n + 1; sched_yield())
            must(now_s() < end, "%d wait, not %d", waiting_threads(), n + 1);
    }
}

/* All of them wait, and then one after another is served. Returns the seconds from the first to the last. */
static double serve_threads(finding *f, bool note)
{
    pqpool_lease lease;
    pqpool_error err;
    if (everybody.pool)
        must(pqpool_acquire(everybody.pool, &lease, &err) == PQPOOL_OK, "acquire: %s", err.message);
    memory before = take_stock();
    line_up_threads();
    if (note)
        note_memory(f, before, everybody.number);
    double began = now_s();
    if (everybody.pool)
        pqpool_release(&lease);
    else
        give_word(&members[0]);
    await(&everybody.all_served);
    must(everybody.served == everybody.number, "%d are served", everybody.served);
    return everybody.last - began;
}

static void time_threads(int number, finding *f)
{
    int rounds = OPERATIONS / number;
    double total = 0;
    f->could = make_threads(number, f->why, sizeof f->why);
    if (f->could == number) {
        serve_threads(f, true); /* the first time takes the memory, and warms up */
        for (int i = 0; i < rounds; i++)
            total += serve_threads(f, false);
        f->us = total * 1e6 / (rounds * number);
    }
    end_threads(f->could);
}

static void with_threads(int number, finding *f)
{
    everybody.pool = open_ready("pool_max_size=1 pool_acquire_timeout=10min pool_initial_size=1");
    time_threads(number, f);
    close_pool(everybody.pool);
}

static void with_bare(int number, finding *f)
{
    everybody.pool = NULL;
    time_threads(number, f);
}

/* ---- callbacks ---- */

static struct {
    pqpool *pool;
    intptr_t asked, served, left; /* so many ask once more when they are served */
} line;

static void on_lease(pqpool_lease *lease, const pqpool_error *err, void *arg);

static void ask(void)
{
    pqpool_error err;
    bool asked = pqpool_acquire_cb(line.pool, NULL, on_lease, (void *)line.asked++, &err) != NULL;
    must(asked, "acquire_cb: %s", err.message);
}

static void on_lease(pqpool_lease *lease, const pqpool_error *err, void *arg)
{
    must(lease, "a callback has no lease: %s", err->message);
    must((intptr_t)arg == line.served, "callback %d is served in the turn of %d", (int)(intptr_t)arg,
         (int)line.served);
    line.served++;
    pqpool_lease mine = *lease;
    if (line.left > 0) {
        line.left--;
        ask();
    }
    must(pqpool_release(&mine) == PQPOOL_OK, "release");
}

/* Until so many more are served, and have asked again if `again`. */
static void serve(int number, bool again)
{
    intptr_t until = line.served + number;
    struct pollfd ready = {.fd = pqpool_fd(line.pool), .events = POLLIN};
    line.left = again ? number : 0;
    while (line.served < until)
        if (pqpool_dispatch(line.pool) == 0)
            must(poll(&ready, 1, 60000) == 1, "no callback within a minute");
}

static void with_callbacks(int number, finding *f)
{
    line.pool = open_ready("pool_max_size=1 pool_acquire_timeout=10min pool_initial_size=1");
    pqpool_lease lease;
    pqpool_error err;
    must(pqpool_acquire(line.pool, &lease, &err) == PQPOOL_OK, "acquire: %s", err.message);
    memory before = take_stock();
    for (int i = 0; i < number; i++)
        ask();
    note_memory(f, before, number);
    must(stats(line.pool).waiting == number, "%d wait", stats(line.pool).waiting);
    pqpool_release(&lease);
    serve(WARM_UP, true);
    double began = now_s();
    CALLGRIND_START_INSTRUMENTATION;
    serve(OPERATIONS, true);
    CALLGRIND_STOP_INSTRUMENTATION;
    f->us = (now_s() - began) * 1e6 / OPERATIONS;
    /* One has been served already and is on his way through pqpool_fd(). */
    must(stats(line.pool).waiting == number - 1, "%d wait at the end", stats(line.pool).waiting);
    serve(number, false);
    f->could = number;
    close_pool(line.pool);
}

/* ---- tickets ---- */

static pqpool_ticket *tickets[MOST];

static pqpool_ticket *submit(pqpool *pool, const char *sql)
{
    pqpool_error err;
    pqpool_stmt s = {PQPOOL_STMT, .sql = sql};
    pqpool_ticket *t = pqpool_submit(pool, &s, &err);
    must(t, "submit: %s", err.message);
    return t;
}

static long fetch(pqpool_ticket *t)
{
    pqpool_error err;
    PGresult *res = pqpool_wait(t, -1, &err);
    must(PQresultStatus(res) == PGRES_TUPLES_OK, "wait: %s", err.message);
    long value = atol(PQgetvalue(res, 0, 0));
    PQclear(res);
    return value;
}

/* The server numbers the statements as it runs them; those of the tickets must be numbered as they came. */
static void fetch_in_turn(pqpool *pool, int number, int times, bool again)
{
    static long turn;
    for (int i = 0; i < times; i++) {
        pqpool_ticket **t = &tickets[turn % number];
        long value = fetch(*t);
        must(value == ++turn, "a ticket is served as number %ld in the turn of %ld", value, turn);
        *t = again ? submit(pool, "select nextval('turn')") : NULL;
    }
}

static void with_tickets(int number, finding *f)
{
    PGconn *locker = control();
    run_sql(locker, "drop table if exists gate; drop sequence if exists turn");
    run_sql(locker, "create table gate (); create sequence turn");
    pqpool *pool =
        open_pool("pool_max_size=2 pool_shared_max=1 pool_pipeline_depth=1 pool_acquire_timeout=10min "
                  "pool_stall_threshold=off pool_slow_lane_threshold=off pool_log_level=error",
                  NULL);
    fetch(submit(pool, "select count(*) from gate"));
    run_sql(locker, "begin; lock table gate in access exclusive mode");
    pqpool_ticket *head = submit(pool, "select count(*) from gate");
    memory before = take_stock();
    for (int i = 0; i < number; i++)
        tickets[i] = submit(pool, "select nextval('turn')");
    note_memory(f, before, number);
    must(stats(pool).unsent == number, "%d wait", stats(pool).unsent);
    run_sql(locker, "rollback");
    fetch(head);
    fetch_in_turn(pool, number, WARM_UP, true);
    double began = now_s();
    CALLGRIND_START_INSTRUMENTATION;
    fetch_in_turn(pool, number, OPERATIONS, true);
    CALLGRIND_STOP_INSTRUMENTATION;
    f->us = (now_s() - began) * 1e6 / OPERATIONS;
    must(stats(pool).promised == number, "%d tickets are out", stats(pool).promised);
    fetch_in_turn(pool, number, number, false);
    f->could = number;
    close_pool(pool);
    run_sql(locker, "drop table gate; drop sequence turn");
    PQfinish(locker);
}

/* ---- all of them ---- */

static const struct manner {
    const char *name, *operation;
    void (*measure)(int number, finding *f);
} manners[] = {
    {"threads", "hand-over to a thread", with_threads},
    {"bare", "hand-over without a pool", with_bare},
    {"callbacks", "hand-over to a callback", with_callbacks},
    {"tickets", "statement of a ticket", with_tickets},
};
enum { THREADS, BARE, N_MANNERS = sizeof manners / sizeof *manners };

/* In a process of its own: memory that an earlier one gave back would hide what this one takes. */
static void measure_apart(const struct manner *m, int number, finding *f)
{
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    must(child >= 0, "fork: %s", strerror(errno));
    if (child == 0) {
        m->measure(number, f);
        _exit(0);
    }
    must(waitpid(child, &status, 0) == child && status == 0, "%s, %d waiting: failed", m->name, number);
}

static void tell_one(const struct manner *m, const finding *f, int number)
{
    if (f->could < number) {
        remark("%s: %d of %d could be made: %s", m->name, f->could, number, f->why);
        return;
    }
    sample(f->us, "us", NULL, "%s, %d waiting", m->operation, number);
    if (m->measure == with_bare)
        return;
    sample(f->bytes, "bytes", NULL, "of the library per waiter, %d %s", number, m->name);
    if (number >= 1000) /* fewer are lost among whole pages */
        sample(f->rss, "bytes", NULL, "resident per waiter, %d %s", number, m->name);
}

/* The system takes longer to wake one of 10 000 threads than one of 10: so much of the time is its own. */
static void tell_against_bare(const finding threads[N_NUMBERS], const finding bare[N_NUMBERS])
{
    for (int i = 0; i < N_NUMBERS; i++)
        if (threads[i].could == numbers[i] && bare[i].could == numbers[i])
            sample(threads[i].us / bare[i].us, "ratio", NULL,
                   "hand-over to a thread : without a pool, %d waiting", numbers[i]);
}

static void tell(const struct manner *m, const finding f[N_NUMBERS])
{
    const finding *few = &f[0], *some = &f[1], *many = &f[N_NUMBERS - 1];
    for (int i = 0; i < N_NUMBERS; i++)
        tell_one(m, &f[i], numbers[i]);
    if (many->could < MOST)
        return;
    sample(many->us / few->us, "ratio", NULL, "time per %s, %d : %d waiting", m->operation, MOST, numbers[0]);
    if (m->measure != with_bare) /* memory is taken for sixteen at a time: of ten, little can be told */
        sample(many->bytes / some->bytes, "ratio", "median <= 1.2", "memory per waiter, %d : %d %s", MOST,
               numbers[1], m->name);
}

static void tell_limits(void)
{
    struct rlimit most = {0};
    char pids[40] = "none";
    FILE *f = fopen("/sys/fs/cgroup/pids.max", "r");
    if (!f)
        f = fopen("/sys/fs/cgroup/pids/pids.max", "r");
    if (f) {
        if (fscanf(f, "%39s", pids) != 1)
            snprintf(pids, sizeof pids, "unreadable");
        fclose(f);
    }
    getrlimit(RLIMIT_NPROC, &most);
    remark("threads: ulimit -u %lld, cgroup pids.max %s, stacks of %d KB", (long long)most.rlim_cur, pids,
           STACK / 1024);
}

int main(int argc, char **argv)
{
    static finding one;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i < N_MANNERS && argc == 3; i++)
        if (strcmp(manners[i].name, argv[1]) == 0) {
            int number = atoi(argv[2]);
            must(number > 0 && number <= MOST && OPERATIONS % number == 0, "not %s", argv[2]);
            manners[i].measure(number, &one);
            printf("%s, %d waiting: %.2f us, %.0f bytes of the library per waiter\n", manners[i].operation,
                   number, one.us, one.bytes);
            return 0;
        }
    must(argc == 1, "usage: waiting [threads|bare|callbacks|tickets NUMBER]");
    finding(*found)[N_NUMBERS] = mmap(NULL, sizeof(finding) * N_MANNERS * N_NUMBERS, PROT_READ | PROT_WRITE,
                                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(found != MAP_FAILED, "mmap: %s", strerror(errno));
    tell_limits();
    for (int i = 0; i < N_MANNERS; i++) {
        for (int k = 0; k < N_NUMBERS; k++)
            measure_apart(&manners[i], numbers[k], &found[i][k]);
        tell(&manners[i], found[i]);
    }
    tell_against_bare(found[THREADS], found[BARE]);
    return 0;
}
