/* Connecting: what the caller is told when it fails, how soon, how often it is tried, and how it recovers. */
#include "support/server.h"
#include "support/way.h"

#include <netinet/tcp.h>
#include <signal.h>
#include <sys/un.h>

static PGconn *ctl;
static int tcp_port;

/* ---- tools ---- */

/* The same, where an answer by the deadline is wanted: again where the machine itself may have been late. */
static double attempt_by(pqpool *pool, way by, double deadline_s, pqpool_error *err)
{
    double took = attempt(pool, by, err);
    for (int i = 0; i < 5 && took > deadline_s + 0.02 * tap_slowness(); i++)
        took = attempt(pool, by, err);
    return took;
}

static pqpool *connect_pool(const char *conninfo, const pqpool_hooks *hooks)
{
    char all[2000];
    snprintf(all, sizeof all,
             "application_name=connect-test pool_log_level=off pool_acquire_timeout=400ms %s", conninfo);
    return open_pool(all, hooks);
}

/* The first call fails for a passing cause: at its deadline, with few attempts. */
static void fails_in_time(const char *what, const char *conninfo, const char *words)
{
    for (way by = LEASE; by <= STATEMENT; by++) {
        pqpool *pool = connect_pool(conninfo, NULL);
        pqpool_error err;
        double took = attempt(pool, by, &err);
        is_int(err.code, PQPOOL_ECONNECT, "A5: %s: %s fails with ECONNECT", what, ways[by]);
        is_int(err.outcome, PQPOOL_NOT_SENT, "B10: %s: with NOT_SENT", what);
        has(err.message, words, "A5: %s: with libpq's own words", what);
        ok(took >= 0.4 && took <= 0.4 + 0.02 * tap_slowness(), "A4: %s: at its deadline (%.1f ms)", what,
           took * 1000);
        ok(pqpool_is_retryable(&err), "B10: %s: it may be tried again", what);
        pqpool_stats_data s = stats(pool);
        ok(s.connect_failures >= 1 && (double)s.connect_failures <= took / 0.04 + 1,
           "A5: %s: without a storm of attempts (%d)", what, (int)s.connect_failures);
        ok(s.waiting == 0 && s.leased == 0, "A4: %s: and nobody is left waiting", what);
        close_pool(pool);
    }
}

/* The first call fails for good: at once, and logins are not tried over and over. */
static void fails_for_good(const char *what, const char *conninfo, const char *words, const char *sqlstate)
{
    for (way by = LEASE; by <= STATEMENT; by++) {
        pqpool *pool = connect_pool(conninfo, NULL);
        pqpool_error err;
        pqpool_set(pool, "acquire_timeout", "20s", NULL);
        double took = attempt(pool, by, &err), began = now_s();
        is_int(err.code, PQPOOL_ECONNECT, "A5: %s: %s fails with ECONNECT", what, ways[by]);
        is_str(err.sqlstate, sqlstate, "A5: %s: with the server's SQLSTATE", what);
        has(err.message, words, "A5: %s: and its words", what);
        is_int(err.outcome, PQPOOL_NOT_SENT, "B10: %s: and NOT_SENT", what);
        ok(took < 5, "A5: %s: long before the deadline (%.1f ms)", what, took * 1000);
        if (*sqlstate)
            ok(!pqpool_is_retryable(&err), "B10: %s: trying again would not help", what);
        int calls = 0, wrong = 0;
        for (; now_s() - began < 1.7; calls++) {
            attempt(pool, by, &err);
            wrong += err.code != PQPOOL_ECONNECT || strcmp(err.sqlstate, sqlstate) != 0;
            sleep_ms(5);
        }
        int64_t tries = stats(pool).connect_failures;
        is_int(wrong, 0, "A5: %s: so do all calls after it (%d)", what, calls);
        ok((double)tries <= 2 + (now_s() - began) / 0.8, "A5: %s: and the server is asked seldom (%d times)",
           what, (int)tries);
        close_pool(pool);
    }
}

/* ---- causes ---- */

static void nothing_there(void)
{
    char conninfo[400], path[200];
    char dir[] = "/tmp/pqpool-connect.XXXXXX";
    if (!mkdtemp(dir))
        bail("mkdtemp");
    snprintf(conninfo, sizeof conninfo, "host=%s", dir);
    fails_in_time("no server", conninfo, "No such file or directory");
    rmdir(dir);

    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int fd =
        socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); /* bound and not listening: the port is refused */
    if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &size) != 0)
        bail("bind");
    snprintf(conninfo, sizeof conninfo, "host=127.0.0.1 port=%d", ntohs(at.sin_port));
    fails_in_time("a refused port", conninfo, "Connection refused");
    close(fd);

    snprintf(path, sizeof path, "%d", tcp_port);
    double began = now_s();
    pqpool *pool = connect_pool("host=nosuch.invalid", NULL);
    pqpool_error err;
    attempt(pool, LEASE, &err);
    bool quick = stats(pool).connect_failures > 0; /* else the resolver takes its time, which is not ours */
    close_pool(pool);
    if (quick && now_s() - began < 1)
        fails_in_time("an unknown host", "host=nosuch.invalid", "could not translate host name");
    else
        ok(err.code == PQPOOL_ECONNECT || err.code == PQPOOL_ETIMEDOUT,
           "A4: a slow resolver holds no caller: %s", err.message);
}

static void refused_logins(void)
{
    one(ctl, "create role locked login password 'right'");
    rule(ctl, "local all locked scram-sha-256");
    fails_for_good("a wrong password", "user=locked password=wrong", "password authentication failed",
                   "28P01");
    fails_for_good("no password", "user=locked passfile=/nonexistent", "no password supplied", "");
    fails_for_good("an unknown role", "user=nobody_there", "does not exist", "28000");
    fails_for_good("an unknown database", "dbname=nosuch", "database \"nosuch\" does not exist", "3D000");

    pqpool *pool = connect_pool("user=locked password=wrong pool_acquire_timeout=20s", NULL);
    pqpool_error err;
    attempt(pool, LEASE, &err);
    is_str(err.sqlstate, "28P01", "a login is refused");
    one(ctl, "alter role locked password 'wrong'");
    double began = now_s();
    do {
        attempt(pool, LEASE, &err);
        sleep_ms(10);
    } while (err.code != PQPOOL_OK && now_s() - began < 10 * tap_slowness());
    is_int(err.code, PQPOOL_OK, "A5: once it is accepted, the pool recovers by itself");
    ok(now_s() - began < 2.0 * tap_slowness(), "A5: soon (%.0f ms)", (now_s() - began) * 1000);
    close_pool(pool);
}

/* ---- hooks ---- */

typedef struct desk {
    _Atomic int passwords, conninfos, fail;
    const char *password, *conninfo;
} desk;

static int tell_password(char *buf, size_t size, void *arg)
{
    desk *d = arg;
    d->passwords++;
    snprintf(buf, size, "%s", d->password);
    return d->fail;
}

static int tell_conninfo(char *buf, size_t size, void *arg)
{
    desk *d = arg;
    d->conninfos++;
    snprintf(buf, size, "%s", d->conninfo);
    return d->fail;
}

static int fail_set_up(PGconn *conn, void *arg)
{
    (void)conn, (void)arg;
    return 1;
}

static void asked_anew(void)
{
    one(ctl, "alter role locked password 'first'");
    desk d = {.password = "first"};
    pqpool_hooks hooks = {PQPOOL_HOOKS, .arg = &d, .on_password = tell_password};
    pqpool *pool =
        connect_pool("user=locked password=wrong pool_max_size=2 pool_acquire_timeout=20s", &hooks);
    pqpool_lease a, b;
    pqpool_error err;
    is_int(pqpool_acquire(pool, &a, &err), PQPOOL_OK,
           "E6: on_password's word is used, not the connection string's: %s", err.message);
    one(ctl, "alter role locked password 'second'");
    d.password = "second";
    is_int(pqpool_acquire(pool, &b, &err), PQPOOL_OK,
           "E6: it is asked anew for each connect, so passwords may change: %s", err.message);
    is_int(d.passwords, 2, "E6: once for each");
    if (a.conn)
        pqpool_release(&a);
    if (b.conn)
        pqpool_discard(&b);
    close_pool(pool);
    rule(ctl, "");

    d = (desk){.password = "", .fail = 1};
    pool = connect_pool("", &hooks);
    double took = attempt(pool, LEASE, &err);
    is_int(err.code, PQPOOL_ECONNECT, "a failing on_password is a failed connect");
    has(err.message, "on_password", "and told of");
    ok(took <= 0.4 + 0.02 * tap_slowness(), "in time");
    close_pool(pool);

    char there[100];
    snprintf(there, sizeof there, "host=127.0.0.1 port=%d", tcp_port);
    d = (desk){.conninfo = there};
    hooks = (pqpool_hooks){PQPOOL_HOOKS, .arg = &d, .on_conninfo = tell_conninfo};
    pool = connect_pool("host=/nonexistent pool_acquire_timeout=20s", &hooks);
    is_int(pqpool_acquire(pool, &a, &err), PQPOOL_OK, "E6: on_conninfo's host and port are used: %s",
           err.message);
    if (a.conn) {
        is_str(PQhost(a.conn), "127.0.0.1", "E6: as it says");
        pqpool_discard(&a);
    }
    attempt(pool, STATEMENT, &err);
    is_int(err.code, PQPOOL_OK, "E6: for statements too");
    is_int(d.conninfos, 2, "E6: and asked for each connect");
    close_pool(pool);
    d = (desk){.conninfo = "what is this"};
    pool = connect_pool("", &hooks);
    attempt(pool, LEASE, &err);
    is_int(err.code, PQPOOL_ECONNECT, "a wrong text from on_conninfo is a failed connect");
    has(err.message, "on_conninfo", "and told of");
    close_pool(pool);

    hooks = (pqpool_hooks){PQPOOL_HOOKS, .on_connect = fail_set_up};
    pool = connect_pool("", &hooks);
    attempt(pool, STATEMENT, &err);
    is_int(err.code, PQPOOL_ECONNECT, "a failing on_connect is a failed connect");
    has(err.message, "on_connect", "and told of");
    close_pool(pool);
    ok(eventually(backends(ctl, "connect-test") == 0), "and no connection is left");
}

/* ---- the server is stopped ---- */

static void frozen(void)
{
    pid_t server = postmaster();
    if (kill(server, SIGSTOP) != 0) {
        diag("may not stop the server: %s", strerror(errno));
        return;
    }
    for (way by = LEASE; by <= STATEMENT; by++) {
        pqpool *pool = connect_pool("", NULL);
        pqpool_error err;
        double took = attempt_by(pool, by, 0.4, &err);
        ok(err.code == PQPOOL_ETIMEDOUT || err.code == PQPOOL_ECONNECT, "A5: a frozen server: %s fails",
           ways[by]);
        has(err.message, "1 connecting", "A13: the message tells that a connect is under way");
        is_int(err.outcome, PQPOOL_NOT_SENT, "B10: with NOT_SENT");
        ok(took >= 0.4 && took <= 0.4 + 0.02 * tap_slowness(), "A4: at its deadline (%.1f ms)", took * 1000);
        double began = now_s();
        pqpool_close(pool, 0);
        pqpool_code code = pqpool_free(pool);
        ok(code == PQPOOL_OK && now_s() - began < 5 * tap_slowness(),
           "A15: the pool can be freed all the same (%.0f ms)", (now_s() - began) * 1000);
    }
    pqpool *pool = connect_pool("pool_connect_timeout=100ms", NULL);
    pqpool_error err;
    double took = attempt_by(pool, LEASE, 0.4, &err);
    is_int(err.code, PQPOOL_ECONNECT, "A5: connect_timeout bounds an attempt");
    has(err.message, "connect_timeout", "A5: and the message tells");
    ok(took <= 0.4 + 0.02 * tap_slowness(), "A4: at its deadline (%.1f ms)", took * 1000);
    ok(stats(pool).connect_failures >= 2, "A5: another attempt was made meanwhile");
    close_pool(pool);

    pool = connect_pool("connect_timeout=1", NULL);
    char value[40];
    pqpool_get(pool, "connect_timeout", value, sizeof value);
    is_str(value, "2s", "A5: libpq's own connect_timeout is taken, and 1 for 2 as libpq does");
    pqpool_set(pool, "acquire_timeout", "2500ms", NULL);
    took = attempt(pool, LEASE, &err);
    ok(stats(pool).connect_failures >= 1, "A5: and holds");
    is_int(err.code, PQPOOL_ECONNECT, "A5: for an attempt that gets no answer (%.0f ms)", took * 1000);
    close_pool(pool);

    pool = connect_pool("pool_connect_timeout=30s", NULL);
    pqpool_set(pool, "acquire_timeout", "20s", NULL);
    kill(server, SIGCONT);
    attempt(pool, LEASE, &err);
    is_int(err.code, PQPOOL_OK, "A5: when the server goes on, so does the pool: %s", err.message);
    close_pool(pool);
}

typedef struct patient {
    pqpool *pool;
    way by;
    pqpool_error err;
    double ended;
    pthread_t thread;
} patient;

static void *be_patient(void *arg)
{
    patient *w = arg;
    attempt(w->pool, w->by, &w->err);
    w->ended = now_s();
    return NULL;
}

static void comes_back(void)
{
    char dir[] = "/tmp/pqpool-connect.XXXXXX", real[300], name[300], conninfo[400];
    if (!mkdtemp(dir))
        bail("mkdtemp");
    snprintf(real, sizeof real, "%s/.s.PGSQL.%d", getenv("PGHOST"), tcp_port);
    snprintf(name, sizeof name, "%s/.s.PGSQL.%d", dir, tcp_port);
    snprintf(conninfo, sizeof conninfo, "host=%s", dir);
    for (way by = LEASE; by <= STATEMENT; by++) {
        patient w = {.pool = connect_pool(conninfo, NULL), .by = by};
        pqpool_set(w.pool, "acquire_timeout", "20s", NULL);
        if (pthread_create(&w.thread, NULL, be_patient, &w) != 0)
            bail("pthread_create");
        ok(eventually(stats(w.pool).connect_failures >= 5), "the server is away while %s waits", ways[by]);
        double began = now_s();
        if (symlink(real, name) != 0)
            bail("symlink");
        pthread_join(w.thread, NULL);
        is_int(w.err.code, PQPOOL_OK, "A5: when it comes back, the caller is served");
        ok(w.ended - began < 0.5 * tap_slowness(), "A5: soon (%.0f ms)", (w.ended - began) * 1000);
        unlink(name);
        close_pool(w.pool);
    }
    rmdir(dir);
}

/* ---- the server is full ---- */

typedef struct rush {
    pqpool *pool;
    _Atomic int right, wrong;
    char message[1000];
} rush;

static void in_the_rush(int i, void *arg)
{
    rush *r = arg;
    for (int k = 0; k < 20; k++) {
        pqpool_error err;
        attempt(r->pool, (i + k) % 2 ? LEASE : STATEMENT, &err);
        if (err.code == PQPOOL_OK) {
            r->right++;
        } else if (r->wrong++ == 0) {
            snprintf(r->message, sizeof r->message, "%s", err.message);
        }
    }
}

static void full(void)
{
    one(ctl, "create role few login connection limit 1");
    static rush r;
    r.pool = connect_pool("user=few pool_max_size=4", NULL);
    pqpool_set(r.pool, "acquire_timeout", "20s", NULL);
    double began = now_s();
    in_threads(8, in_the_rush, &r);
    double took = now_s() - began;
    ok(r.wrong == 0, "A8: a server that takes only one connection of four serves all callers with it: %s",
       r.message);
    is_int(r.right, 160, "A8: each of them");
    pqpool_stats_data s = stats(r.pool);
    is_int(s.connects, 1, "A8: with the connection there is");
    ok((double)s.connect_failures <= 4 + took / 0.04, "A8: without a storm of attempts (%d)",
       (int)s.connect_failures);

    pqpool_lease lease, none;
    pqpool_error err;
    if (pqpool_acquire(r.pool, &lease, &err) != PQPOOL_OK)
        bail("acquire: %s", err.message);
    is_int(pqpool_acquire_within(r.pool, 200, &none, &err), PQPOOL_ETIMEDOUT,
           "A8: with the only connection leased a caller times out, he does not fail to connect");
    has(err.message, "1 leased", "A13: and is told of the lease");
    has(err.message, "too many connections for role", "A13: and of what the server said");
    pqpool_set(r.pool, "wait", "off", NULL);
    int64_t failures = stats(r.pool).connect_failures;
    int refused = 0, calls = 0;
    for (double end = now_s() + 10; stats(r.pool).connect_failures < failures + 3 && now_s() < end; calls++) {
        refused += pqpool_acquire_within(r.pool, 2000, &none, &err) == PQPOOL_ENOWAIT;
        sleep_ms(20);
    }
    is_int(refused, calls, "A8: with wait=off too the refusal is the pool's, not the server's: %s",
           err.message);
    pqpool_set(r.pool, "wait", "on", NULL);
    one(ctl, "alter role few connection limit 2");
    is_int(pqpool_acquire_within(r.pool, 5000 * tap_slowness(), &none, &err), PQPOOL_OK,
           "A8: when the server takes more again, the pool grows: %s", err.message);
    if (none.conn)
        pqpool_release(&none);
    pqpool_release(&lease);
    close_pool(r.pool);

    one(ctl, "alter role few connection limit 0");
    fails_in_time("a server that is full", "user=few", "too many connections for role");
    pqpool *pool = connect_pool("user=few", NULL);
    attempt(pool, LEASE, &err);
    is_str(err.sqlstate, "53300", "A8: the SQLSTATE is told");
    close_pool(pool);
}

/* ---- TCP ---- */

static int sock_option(int fd, int option)
{
    int value = -1;
    socklen_t size = sizeof value;
    return getsockopt(fd, IPPROTO_TCP, option, &value, &size) == 0 ? value : -1;
}

static void tcp_settings(void)
{
    char conninfo[300];
    static const struct {
        const char *extra;
        int idle, interval, count, user_timeout;
    } want[] = {{"", 5, 2, 3, 10000},
                {"keepalives_idle=7 keepalives_count=4 tcp_user_timeout=2500", 7, 2, 4, 2500}};
    for (int i = 0; i < 2; i++) {
        snprintf(conninfo, sizeof conninfo, "host=127.0.0.1 port=%d %s", tcp_port, want[i].extra);
        pqpool *pool = connect_pool(conninfo, NULL);
        pqpool_lease lease;
        pqpool_error err;
        if (pqpool_acquire(pool, &lease, &err) != PQPOOL_OK)
            bail("acquire over TCP: %s", err.message);
        int fd = PQsocket(lease.conn), on = 0;
        socklen_t size = sizeof on;
        getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, &size);
        const char *how = i ? "the connection string's" : "by default";
        ok(on, "A7: TCP keepalive is on, %s", how);
        is_int(sock_option(fd, TCP_KEEPIDLE), want[i].idle, "A7: keepalives_idle, %s", how);
        is_int(sock_option(fd, TCP_KEEPINTVL), want[i].interval, "A7: keepalives_interval, %s", how);
        is_int(sock_option(fd, TCP_KEEPCNT), want[i].count, "A7: keepalives_count, %s", how);
        is_int(sock_option(fd, TCP_USER_TIMEOUT), want[i].user_timeout, "A7: tcp_user_timeout, %s", how);
        pqpool_release(&lease);
        close_pool(pool);
    }
}

int main(int argc, char **argv)
{
    (void)argc;
    tcp_port = own_server(argv[0], "127.0.0.1", 200);
    tap_begin(55);
    ctl = control();
    nothing_there();
    refused_logins();
    asked_anew();
    comes_back();
    full();
    tcp_settings();
    frozen();
    ok(eventually(backends(ctl, "connect-test") == 0), "no server process is left");
    PQfinish(ctl);
    return done_testing();
}
