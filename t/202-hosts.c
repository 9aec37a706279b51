#define _GNU_SOURCE
/* Several hosts: which is tried when, for how long, and what the pool remembers of it; what libpq refuses by itself. */
#include "support/server.h"
#include "support/way.h"

#include <dlfcn.h>
#include <netdb.h>
#include <signal.h>

static PGconn *ctl;
static int port; /* of the server, on 127.0.0.1 */

/* ---- names; the library's look-ups come here ---- */

static _Atomic int lookups;

static int look_up(const char *name, const char *service, const struct addrinfo *hints,
                   struct addrinfo **found)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    return real(name, service, hints, found);
}

/* "two.test" has two addresses; "busy.test" is not known just now. */
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    if (name && strcmp(name, "busy.test") == 0)
        return EAI_AGAIN;
    if (!name || strcmp(name, "two.test") != 0)
        return look_up(name, service, hints, found);
    struct addrinfo *second = NULL;
    lookups++;
    int rc = look_up("127.0.0.2", service, hints, found);
    if (rc == 0)
        rc = look_up("127.0.0.1", service, hints, &second);
    if (rc == 0)
        (*found)->ai_next = second;
    return rc;
}

/* A socket that takes connections and never says a word. */
static int silent_socket_at(const char *address, int number, int *fd)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number)};
    inet_pton(AF_INET, address, &at.sin_addr);
    socklen_t size = sizeof at;
    *fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*fd < 0 || bind(*fd, (struct sockaddr *)&at, size) != 0 || listen(*fd, 50) != 0 ||
        getsockname(*fd, (struct sockaddr *)&at, &size) != 0)
        bail("listen: %s", strerror(errno));
    return ntohs(at.sin_port);
}

static int silent_socket(int *fd)
{
    return silent_socket_at("127.0.0.1", 0, fd);
}

/* How many have knocked there, since the last look. */
static int knocks(int fd)
{
    int n = 0;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (poll(&p, 1, 0) > 0 && p.revents & POLLIN) {
        int one_ = accept(fd, NULL, NULL);
        if (one_ >= 0)
            close(one_);
        n++;
    }
    return n;
}

static pqpool *hosts_pool(const char *fmt, ...)
{
    char text[1500], all[2000];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    snprintf(all, sizeof all, "application_name=hosts-test pool_acquire_timeout=20s pool_max_size=3 %s",
             text);
    return open_pool(all, NULL);
}

static void silent_first(void)
{
    int fd, mute = silent_socket(&fd);
    for (way by = LEASE; by < WAYS; by++) {
        pqpool_error err;
        pqpool *pool = hosts_pool("host=127.0.0.1,127.0.0.1 port=%d,%d connect_timeout=2", mute, port);
        double took = attempt(pool, by, &err);
        is_int(err.code, PQPOOL_OK, "%s gets the second host when the first is silent: %s", ways[by],
               err.message);
        ok(took >= 1.9 && took < 2.0 + 1.5 * tap_slowness(),
           "libpq's connect_timeout is the time of one host (%.2f s)", took);
        ok(knocks(fd) >= 1, "the silent one was asked first");
        pqpool_evict(pool);
        took = attempt(pool, by, &err);
        ok(err.code == PQPOOL_OK && took < 1.0 * tap_slowness(),
           "the next connect begins behind the silent one (%.2f s)", took);
        is_int(knocks(fd), 0, "which is not asked again");
        close_pool(pool);

        pool = hosts_pool("host=127.0.0.1,127.0.0.1 port=%d,%d pool_connect_timeout=1s", mute, port);
        took = attempt(pool, by, &err);
        ok(err.code == PQPOOL_OK && took < 0.5 + 0.4 * tap_slowness(),
           "of pool_connect_timeout each host has its share (%.2f s): %s", took, err.message);
        close_pool(pool);

        pool = hosts_pool("host=127.0.0.1 port=%d pool_connect_timeout=200ms", mute);
        pqpool_set(pool, "acquire_timeout", "500ms", NULL);
        attempt(pool, by, &err);
        is_int(err.code, PQPOOL_ECONNECT, "a silent host alone is a failed connect");
        char want[40];
        snprintf(want, sizeof want, "port %d", mute);
        has(err.message, want, "the message names it");
        has(err.message, "127.0.0.1", "its host too");
        has(err.message, "200 ms (connect_timeout)", "and the time it was given");
        close_pool(pool);
    }
    close(fd);
}

/* One name, two addresses, the first silent. */
static void silent_address(void)
{
    int fd;
    char want[100];
    silent_socket_at("127.0.0.2", port, &fd);
    for (way by = LEASE; by < WAYS; by++) {
        pqpool_error err;
        pqpool *pool = hosts_pool("host=two.test port=%d pool_connect_timeout=1s", port);
        double took = attempt(pool, by, &err);
        ok(err.code == PQPOOL_OK && took < 0.5 + 0.4 * tap_slowness(),
           "%s gets the second address of a name when the first is silent (%.2f s): %s", ways[by], took,
           err.message);
        pqpool_lease lease = take(pool);
        snprintf(want, sizeof want, "two.test 127.0.0.1");
        char is[200];
        snprintf(is, sizeof is, "%s %s", PQhost(lease.conn), PQhostaddr(lease.conn));
        is_str(is, want, "under the name that it was asked by");
        pqpool_release(&lease);
        knocks(fd);
        pqpool_evict(pool);
        took = attempt(pool, by, &err);
        ok(err.code == PQPOOL_OK && took < 0.3 * tap_slowness(), "the next one begins there (%.2f s)", took);
        is_int(knocks(fd), 0, "and asks only it");
        close_pool(pool);

        pool = hosts_pool("host=two.test port=%d connect_timeout=2", port);
        took = attempt(pool, by, &err);
        ok(err.code == PQPOOL_OK && took >= 1.9 && took < 2.0 + 1.5 * tap_slowness(),
           "libpq's connect_timeout is the time of one address (%.2f s): %s", took, err.message);
        close_pool(pool);
    }
    close(fd);
    ok(lookups > 0, "names are looked up by the pool");
    pqpool *pool = hosts_pool("host=busy.test port=%d", port);
    pqpool_error err;
    pqpool_set(pool, "acquire_timeout", "200ms", NULL);
    attempt(pool, LEASE, &err);
    ok(strstr(err.message, "busy.test") && pqpool_is_retryable(&err),
       "a resolver that fails may be asked again: %s", err.message);
    close_pool(pool);
}

static void frozen_first(void)
{
    char dir[] = "/tmp/pqpool-hosts.XXXXXX", name[300];
    pid_t server = postmaster();
    int fd, mute = silent_socket(&fd);
    if (!mkdtemp(dir))
        bail("mkdtemp");
    /* A frozen postmaster, as a host, and a Unix socket that refuses before it. */
    snprintf(name, sizeof name, "host=%s,127.0.0.1,127.0.0.1 port=%d,%d,%d pool_connect_timeout=900ms", dir,
             port, mute, port);
    pqpool *pool = hosts_pool("%s", name);
    if (kill(server, SIGSTOP) != 0)
        bail("SIGSTOP: %s", strerror(errno));
    pqpool_error err;
    pqpool_set(pool, "acquire_timeout", "2s", NULL);
    attempt(pool, LEASE, &err);
    kill(server, SIGCONT);
    is_int(err.code, PQPOOL_ECONNECT,
           "a frozen server behind a refusing and a silent host is a failed connect");
    has(err.message, dir, "the message names the first host");
    char want[40];
    snprintf(want, sizeof want, "port %d", mute);
    has(err.message, want, "the second");
    snprintf(want, sizeof want, "port %d", port);
    has(err.message, want, "and the third");
    pqpool_set(pool, "acquire_timeout", "20s", NULL);
    attempt(pool, STATEMENT, &err);
    is_int(err.code, PQPOOL_OK, "when it goes on, it serves: %s", err.message);
    close_pool(pool);
    close(fd);
    rmdir(dir);
}

/* The word that a lease's connection has for where it leads. */
static const char *leads_to(pqpool *pool)
{
    static char text[1200];
    pqpool_error err;
    pqpool_lease lease;
    if (pqpool_acquire(pool, &lease, &err) != PQPOOL_OK) {
        snprintf(text, sizeof text, "%s", err.message);
        return text;
    }
    snprintf(text, sizeof text, "%s %s %s", PQhost(lease.conn), PQhostaddr(lease.conn), PQport(lease.conn));
    pqpool_discard(&lease);
    return text;
}

static void as_written(void)
{
    char want[400], dir[300];
    snprintf(dir, sizeof dir, "%s", getenv("PGHOST"));
    snprintf(want, sizeof want, "localhost 127.0.0.1 %d", port);
    pqpool *pool = hosts_pool("host=localhost port=%d", port);
    is_str(leads_to(pool), want, "the name of a host stays beside its address");
    close_pool(pool);
    pool = hosts_pool("host=some.name hostaddr=127.0.0.1 port=%d", port);
    snprintf(want, sizeof want, "some.name 127.0.0.1 %d", port);
    is_str(leads_to(pool), want, "a hostaddr is used, and the name kept");
    close_pool(pool);
    pool = hosts_pool("hostaddr=127.0.0.1 port=%d", port);
    snprintf(want, sizeof want, "127.0.0.1 %d", port);
    ok(strstr(leads_to(pool), want), "a hostaddr needs no host: %s", leads_to(pool));
    close_pool(pool);
    pool = hosts_pool("host=nosuch.invalid,%s port=1,%d", dir, port);
    snprintf(want, sizeof want, "%s  %d", dir, port);
    is_str(leads_to(pool), want, "an unknown name leads on to a Unix socket, each with its port");
    close_pool(pool);
    pool = hosts_pool("host=127.0.0.1,%s hostaddr=127.0.0.1, port=1,%d", dir, port);
    ok(strstr(leads_to(pool), dir) != NULL, "a Unix socket may stand in a list with addresses: %s",
       leads_to(pool));
    close_pool(pool);

    setenv("PGHOST", "127.0.0.1", 1);
    setenv("PGHOSTADDR", "127.0.0.1", 1);
    pool = hosts_pool("");
    snprintf(want, sizeof want, "127.0.0.1 127.0.0.1 %d", port);
    is_str(leads_to(pool), want, "PGHOST, PGHOSTADDR and PGPORT count");
    close_pool(pool);
    unsetenv("PGHOSTADDR");
    setenv("PGHOST", dir, 1);

    char file[] = "/tmp/pqpool-service.XXXXXX";
    int fd = mkstemp(file);
    dprintf(fd, "[here]\nhost=nosuch.invalid,127.0.0.1\nport=1,%d\nkeepalives_idle=77\n", port);
    close(fd);
    setenv("PGSERVICEFILE", file, 1);
    unsetenv("PGHOST");
    pool = hosts_pool("service=here");
    snprintf(want, sizeof want, "127.0.0.1 127.0.0.1 %d", port);
    is_str(leads_to(pool), want, "the hosts of a service file are tried in turn");
    pqpool_lease lease = take(pool);
    int idle = 0;
    socklen_t size = sizeof idle;
    getsockopt(PQsocket(lease.conn), IPPROTO_TCP, 4 /* TCP_KEEPIDLE */, &idle, &size);
    is_int(idle, 77, "a service file's keepalives win over the pool's");
    pqpool_release(&lease);
    close_pool(pool);
    unsetenv("PGSERVICEFILE");
    unlink(file);
    setenv("PGHOST", dir, 1);
}

static void balanced(void)
{
    int fds[2], ports[2] = {silent_socket(&fds[0]), silent_socket(&fds[1])}, at[2] = {0};
    pqpool_error err;
    for (int i = 0; i < 40 && (at[0] == 0 || at[1] == 0); i++) {
        pqpool *pool = hosts_pool("host=127.0.0.1,127.0.0.1 port=%d,%d load_balance_hosts=random "
                                  "pool_connect_timeout=30ms pool_acquire_timeout=15ms",
                                  ports[0], ports[1]);
        attempt(pool, LEASE, &err);
        bool knocked = knocks(fds[0]) > 0;
        at[0] += knocked;
        at[1] += !knocked && knocks(fds[1]) > 0;
        close_pool(pool);
        knocks(fds[0]), knocks(fds[1]);
    }
    ok(at[0] > 0 && at[1] > 0, "load_balance_hosts=random begins with one or the other (%d, %d)", at[0],
       at[1]);
    close(fds[0]), close(fds[1]);
    char text[200];
    snprintf(text, sizeof text, "postgresql://127.0.0.1:%d/postgres?load_balance_hosts=disable", port);
    pqpool *pool = open_pool(text, NULL);
    attempt(pool, STATEMENT, &err);
    is_int(err.code, PQPOOL_OK, "load_balance_hosts may stand in a URI: %s", err.message);
    close_pool(pool);
    ok(!pqpool_open("load_balance_hosts=bogus", NULL, &err) && err.code == PQPOOL_EINVAL &&
           strstr(err.message, "load_balance_hosts"),
       "another value is refused: %s", err.message);
}

static void session_attrs(void)
{
    one(ctl, "create role reader login");
    one(ctl, "alter role reader set default_transaction_read_only = on");
    static const struct {
        const char *user, *attrs, *words; /* NULL: it connects */
    } cases[] = {{"postgres", "any", NULL},
                 {"postgres", "read-write", NULL},
                 {"postgres", "primary", NULL},
                 {"postgres", "prefer-standby", NULL},
                 {"postgres", "read-only", "session is not read-only"},
                 {"postgres", "standby", "server is not in hot standby mode"},
                 {"reader", "read-only", NULL},
                 {"reader", "primary", NULL},
                 {"reader", "prefer-standby", NULL},
                 {"reader", "read-write", "session is read-only"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (way by = LEASE; by < WAYS; by++) {
            pqpool_error err;
            pqpool *pool = hosts_pool("user=%s target_session_attrs=%s host=127.0.0.1,127.0.0.1 port=%d",
                                      cases[i].user, cases[i].attrs, port);
            if (cases[i].words)
                pqpool_set(pool, "acquire_timeout", "300ms", NULL);
            attempt(pool, by, &err);
            if (cases[i].words)
                has(err.message, cases[i].words, "%s: %s finds no %s session", cases[i].user, ways[by],
                    cases[i].attrs);
            else
                is_int(err.code, PQPOOL_OK, "%s: %s is served with target_session_attrs=%s: %s",
                       cases[i].user, ways[by], cases[i].attrs, err.message);
            if (cases[i].words)
                ok(pqpool_is_retryable(&err), "which may change");
            close_pool(pool);
        }
}

static int tell_conninfo(char *buf, size_t size, void *arg)
{
    snprintf(buf, size, "%s", (const char *)arg);
    return 0;
}

static void by_hook(void)
{
    int fd, mute = silent_socket(&fd);
    char text[200];
    snprintf(text, sizeof text, "host=127.0.0.1,127.0.0.1 port=%d,%d load_balance_hosts=disable", mute, port);
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_conninfo = tell_conninfo, .arg = text};
    pqpool *pool =
        open_pool("host=nosuch.invalid port=1,2 pool_connect_timeout=600ms pool_acquire_timeout=20s", &hooks);
    pqpool_error err;
    attempt(pool, STATEMENT, &err);
    is_int(err.code, PQPOOL_OK, "the hosts that on_conninfo names are tried in turn: %s", err.message);
    close_pool(pool);
    close(fd);
}

/* ---- what libpq refuses before it opens a socket ---- */

static void mistakes(void)
{
    static const char *const wrong[] = {"sslmode=bogus",
                                        "port=99999",
                                        "port=0",
                                        "port=54x",
                                        "target_session_attrs=bogus",
                                        "service=nosuch",
                                        "gssencmode=bogus",
                                        "channel_binding=bogus",
                                        "ssl_min_protocol_version=TLSv9",
                                        "host=a,b port=1,2,3",
                                        "host=a,b hostaddr=127.0.0.1",
                                        "hostaddr=not.an.address",
                                        "keepalives_idle=soon",
                                        "tcp_user_timeout=x",
                                        "connect_timeout=never"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        pqpool_error err;
        pqpool *pool = pqpool_open(wrong[i], NULL, &err);
        ok(!pool && err.code == PQPOOL_EINVAL, "%s is refused when the pool is opened: %s", wrong[i],
           err.message);
        ok(!pqpool_is_retryable(&err), "for good");
        pqpool_free(pool);
    }
}

/* As many pairs as the caller likes, and the last of them counts. */
static void many_pairs(void)
{
    enum { MANY = 300 };
    const char *keywords[MANY + 5], *values[MANY + 5];
    int n = 0;
    for (; n < MANY; n++)
        keywords[n] = "application_name", values[n] = "first";
    keywords[n] = "options", values[n++] = "-c geqo_seed=0.25";
    keywords[n] = "application_name", values[n++] = "last-of-many";
    keywords[n] = values[n] = NULL;
    pqpool_error err;
    pqpool *pool = pqpool_open_params(keywords, values, 0, NULL, &err);
    if (!pool)
        bail("%s", err.message);
    PGresult *res = pqpool_exec(
        pool, "select current_setting('application_name') || ' ' || current_setting('geqo_seed')", &err);
    is_str(value(res), "last-of-many 0.25", "none of 302 pairs is dropped, on a shared connection");
    PQclear(res);
    pqpool_lease lease = take(pool);
    is_str(one(lease.conn, "show application_name"), "last-of-many", "nor on a leased one");
    pqpool_release(&lease);
    close_pool(pool);
}

static void names(void)
{
    one(ctl, "create role named login");
    one(ctl, "alter role named set application_name = 'by-role'");
    one(ctl, "create role unnamed login");
    pqpool *pool = open_pool("user=named pool_max_size=2", NULL);
    for (int i = 0; i < 3; i++) {
        pqpool_lease lease = take(pool);
        is_str(one(lease.conn, "show application_name"), "by-role",
               "a role's application_name is left, connect %d", i);
        pqpool_discard(&lease);
    }
    close_pool(pool);
    pool = open_pool("user=unnamed pool_max_size=2 pool_reset=clean", NULL);
    for (int i = 0; i < 4; i++) {
        pqpool_lease lease = take(pool);
        is_str(one(lease.conn, "show application_name"), "pqpool",
               "a session without a name has the pool's, lease %d", i);
        (i % 2 ? pqpool_discard : pqpool_release)(&lease);
    }
    close_pool(pool);
}

int main(int argc, char **argv)
{
    (void)argc;
    port = own_server(argv[0], "127.0.0.1", 100);
    tap_begin(60);
    ctl = control();
    mistakes();
    many_pairs();
    names();
    as_written();
    session_attrs();
    balanced();
    by_hook();
    silent_first();
    silent_address();
    frozen_first();
    ok(eventually(backends(ctl, "hosts-test") == 0), "no server process is left");
    PQfinish(ctl);
    return done_testing();
}
