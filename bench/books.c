/*
 * books: what an operation costs when the pool has one connection, and when it has 1000.
 *
 *     books                 all manners and numbers
 *     books MANNER NUMBER   one of them; this is what callgrind is to count
 *
 * idle     all are idle; one is leased and given back
 * leased   all are leased, and then all given back; one operation is one lease and its return
 *
 * No server could be asked for 1000 connections here, and none is needed: nothing is sent on a connection that is only
 * leased and given back. So a thread of this program answers the logins as a server does, and nothing else; to libpq
 * and to the pool all of them are real.
 */
#include "bench.h"
#include "callgrind.h"
#include "memory.h"

#include <sys/socket.h>
#include <sys/un.h>

enum { OPERATIONS = 10000, MOST = 1000 };

static const int numbers[] = {1, 10, 100, MOST};
enum { N_NUMBERS = sizeof numbers / sizeof *numbers };

/* ---- the server, as far as it is needed ---- */

/* In the abstract name space: nothing is left in a directory, however the program ends. */
static char host[40];

static void read_all(int fd, void *to, size_t size)
{
    for (size_t got = 0; got < size;) {
        ssize_t n = read(fd, (char *)to + got, size - got);
        must(n > 0, "a login breaks off");
        got += (size_t)n;
    }
}

/* AuthenticationOk, ParameterStatus, BackendKeyData, ReadyForQuery. */
static void welcome(int fd)
{
    static const char words[] = "R\0\0\0\10\0\0\0\0"
                                "S\0\0\0\30server_version\00015.0\0"
                                "K\0\0\0\14\0\0\0\1\0\0\0\1"
                                "Z\0\0\0\5I";
    unsigned char head[4], rest[10000];
    read_all(fd, head, sizeof head);
    size_t size = (size_t)head[2] << 8 | head[3];
    must(size >= 8 && size < sizeof rest, "a login of %zu bytes", size);
    read_all(fd, rest, size - 4);
    must(write(fd, words, sizeof words - 1) == sizeof words - 1, "write: %s", strerror(errno));
}

/* What it accepts stays open until the program ends. */
static void *serve(void *arg)
{
    int listener = *(int *)arg;
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        must(fd >= 0, "accept: %s", strerror(errno));
        welcome(fd);
    }
}

static void start_server(void)
{
    static int listener;
    pthread_t thread;
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(host, sizeof host, "@pqpool-books.%d", (int)getpid());
    int length = snprintf(at.sun_path, sizeof at.sun_path, "%s/.s.PGSQL.5432", host);
    at.sun_path[0] = '\0';
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)length);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(listener >= 0 && bind(listener, (struct sockaddr *)&at, size) == 0 && listen(listener, 128) == 0,
         "%s: %s", host, strerror(errno));
    must(pthread_create(&thread, NULL, serve, &listener) == 0, "pthread_create");
    pthread_detach(thread);
}

/* ---- the measurements ---- */

static pqpool *pool;
static pqpool_lease leases[MOST];

static void lend(pqpool_lease *lease)
{
    pqpool_error err;
    must(pqpool_acquire(pool, lease, &err) == PQPOOL_OK, "acquire: %s", err.message);
}

static void take_back(pqpool_lease *lease)
{
    must(pqpool_release(lease) == PQPOOL_OK, "release");
}

static void lend_one(int number, int times)
{
    (void)number;
    for (int i = 0; i < times; i++) {
        lend(&leases[0]);
        take_back(&leases[0]);
    }
}

static void lend_all(int number, int times)
{
    for (; times > 0; times -= number) {
        for (int i = 0; i < number; i++)
            lend(&leases[i]);
        for (int i = 0; i < number; i++)
            take_back(&leases[i]);
    }
}

static const struct manner {
    const char *name, *operation;
    void (*run)(int number, int times);
} manners[] = {
    {"idle", "lease and return, others idle", lend_one},
    {"leased", "lease and return, all leased at once", lend_all},
};
enum { N_MANNERS = sizeof manners / sizeof *manners };

static void open_books(int number)
{
    char conninfo[300];
    snprintf(
        conninfo, sizeof conninfo,
        "host=%s port=5432 user=nobody dbname=none pool_max_size=%d pool_initial_size=%d pool_min_idle=%d "
        "pool_acquire_timeout=1s",
        host, number, number, number);
    pool = open_pool(conninfo, NULL);
    for (double end = now_s() + 120; stats(pool).idle < number; sleep_ms(2))
        must(now_s() < end, "%d of %d connections are up", stats(pool).idle, number);
}

static void close_books(int number)
{
    pqpool_stats_data s = stats(pool);
    must(s.idle == number && s.connects == number && s.closes == 0 && s.enqueues == 0,
         "%d are idle, %d were made, %d closed, and %d callers had to wait", s.idle, (int)s.connects,
         (int)s.closes, (int)s.enqueues);
    close_pool(pool);
}

/* Returns the microseconds an operation takes. */
static double measure(const struct manner *m, int number)
{
    m->run(number, MOST);
    double began = now_s();
    CALLGRIND_START_INSTRUMENTATION;
    m->run(number, OPERATIONS);
    CALLGRIND_STOP_INSTRUMENTATION;
    return (now_s() - began) * 1e6 / OPERATIONS;
}

static void measure_all(void)
{
    double us[N_MANNERS][N_NUMBERS];
    for (int k = 0; k < N_NUMBERS; k++) {
        long long before = library_bytes();
        open_books(numbers[k]);
        for (int i = 0; i < N_MANNERS; i++) {
            us[i][k] = measure(&manners[i], numbers[k]);
            sample(us[i][k], "us", NULL, "%s, %d connections", manners[i].operation, numbers[k]);
        }
        if (numbers[k] >= 100) /* the pool itself counts among fewer */
            sample((double)(library_bytes() - before) / numbers[k], "bytes", "median <= 4096",
                   "of the library per connection, %d idle", numbers[k]);
        close_books(numbers[k]);
    }
    for (int i = 0; i < N_MANNERS; i++)
        sample(us[i][N_NUMBERS - 1] / us[i][0], "ratio", NULL, "time per %s, %d : %d connections",
               manners[i].operation, MOST, numbers[0]);
}

static void measure_one(const char *name, int number)
{
    must(number > 0 && number <= MOST && OPERATIONS % number == 0, "not %d", number);
    for (int i = 0; i < N_MANNERS; i++) {
        if (strcmp(manners[i].name, name) != 0)
            continue;
        open_books(number);
        double us = measure(&manners[i], number);
        printf("%s, %d connections: %.2f us\n", manners[i].operation, number, us);
        close_books(number);
        return;
    }
    die("usage: books [idle|leased NUMBER]");
}

int main(int argc, char **argv)
{
    must(argc == 1 || argc == 3, "usage: books [idle|leased NUMBER]");
    start_server();
    if (argc == 1)
        measure_all();
    else
        measure_one(argv[1], atoi(argv[2]));
    return 0;
}
