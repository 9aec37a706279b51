/* Refusals that stay until somebody changes something are told at once, and not said to be worth a retry. */
#include "support/server.h"
#include "support/way.h"

static PGconn *ctl;
static int port;

static pqpool *refused_pool(const char *conninfo, const pqpool_hooks *hooks)
{
    char all[2000];
    snprintf(all, sizeof all, "application_name=refusals-test pool_acquire_timeout=20s %s", conninfo);
    return open_pool(all, hooks);
}

static void refused_at_once(const char *what, const char *conninfo, const char *sqlstate, const char *words)
{
    for (way by = LEASE; by < WAYS; by++) {
        pqpool_error err;
        pqpool *pool = refused_pool(conninfo, NULL);
        double took = attempt(pool, by, &err);
        is_int(err.code, PQPOOL_ECONNECT, "%s: %s fails", what, ways[by]);
        is_str(err.sqlstate, sqlstate, "%s: with the server's SQLSTATE", what);
        has(err.message, words, "%s: and its words", what);
        ok(!strstr(err.message, *sqlstate ? sqlstate : "LOCATION"), "%s: in which no code is left: %s", what,
           err.message);
        const char *first = strstr(err.message, words);
        ok(first && !strstr(first + 1, words), "%s: which are there once: %s", what, err.message);
        ok(took < 5, "%s: at once (%.0f ms of 20 s)", what, took * 1000);
        ok(!pqpool_is_retryable(&err), "%s: not to be repeated", what);
        close_pool(pool);
    }
}

static void for_good(void)
{
    char tcp[200];
    one(ctl, "create role r login");
    one(ctl, "create database closed");
    one(ctl, "revoke connect on database closed from public");
    refused_at_once("REVOKE CONNECT", "user=r dbname=closed", "42501", "permission denied for database");
    one(ctl, "grant connect on database closed to public");
    one(ctl, "alter database closed allow_connections false");
    refused_at_once("ALLOW_CONNECTIONS false", "user=r dbname=closed", "55000",
                    "not currently accepting connections");
    refused_at_once("an unknown setting in options=", "user=r options='-c nosuchsetting=1'", "42704",
                    "nosuchsetting");
    refused_at_once("a wrong value in options=", "user=r options='-c statement_timeout=soon'", "22023",
                    "statement_timeout");
    refused_at_once("an unknown encoding", "user=r client_encoding=bogus", "22023", "client_encoding");
    refused_at_once("a library that is not there", "options='-c session_preload_libraries=nosuch'", "58P01",
                    "nosuch");
    snprintf(tcp, sizeof tcp, "host=127.0.0.1 port=%d sslmode=require", port);
    refused_at_once("TLS where the server has none", tcp, "", "SSL was required");
}

/* A setting that forbids sharing is a reason to lease, not to connect anew for each statement. */
static void unshareable(void)
{
    one(ctl, "create role old login");
    one(ctl, "alter role old set standard_conforming_strings = off");
    pqpool *pool = refused_pool("user=old", NULL);
    pqpool_error err;
    for (int i = 0; i < 20; i++)
        attempt(pool, STATEMENT, &err);
    is_int(err.code, PQPOOL_ECONNECT, "standard_conforming_strings=off can't be shared");
    has(err.message, "standard_conforming_strings", "as the message says");
    ok(!pqpool_is_retryable(&err), "nor will it be");
    is_int(stats(pool).connects, 1, "and 20 such calls need one connection, not 20");
    attempt(pool, LEASE, &err);
    is_int(err.code, PQPOOL_OK, "which can be leased: %s", err.message);
    is_int(stats(pool).connects, 1, "without another");
    close_pool(pool);
}

/* A connection dies while the server refuses the login for good: the caller who waits hears of it when the last one goes, not at
 * the next attempt. The holder of the dying one keeps it. */
static void dying(void)
{
    one(ctl, "create role fading login");
    pqpool *pool = refused_pool("user=fading pool_max_size=2 application_name=fading", NULL);
    pqpool_lease held = take(pool);
    one(ctl, "alter role fading nologin");
    one(ctl, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'fading'");
    ok(eventually(backends(ctl, "fading") == 0), "the connection of a lease is gone at the server");
    pqpool_error err;
    double took = attempt(pool, LEASE, &err);
    is_str(err.sqlstate, "28000", "a caller is told that the login is refused: %s", err.message);
    ok(took < 0.7 * tap_slowness(), "at once, though the lease is still out (%.0f ms)", took * 1000);
    pqpool_release(&held);
    close_pool(pool);
}

/* ---- hooks ---- */

typedef struct desk {
    _Atomic int answer, connects, disconnects, freed;
    const char *sql;
} desk;

static int greet(PGconn *conn, void *arg)
{
    desk *d = arg;
    d->connects++;
    if (d->sql) {
        PGresult *res = PQexec(conn, d->sql);
        bool good = PQresultStatus(res) == PGRES_COMMAND_OK || PQresultStatus(res) == PGRES_TUPLES_OK;
        PQclear(res);
        if (good)
            return 0;
    }
    return d->answer;
}

static void part(PGconn *conn, void *arg)
{
    desk *d = arg;
    if (conn)
        d->disconnects++;
}

static void by_hook(void)
{
    for (way by = LEASE; by < WAYS; by++) {
        desk d = {.answer = -1, .sql = "set role nobody_there"};
        pqpool_hooks hooks = {PQPOOL_HOOKS, .on_connect = greet, .on_disconnect = part, .arg = &d};
        pqpool *pool = refused_pool("", &hooks);
        pqpool_error err;
        double took = attempt(pool, by, &err);
        is_int(err.code, PQPOOL_ECONNECT, "on_connect < 0: %s fails", ways[by]);
        ok(took < 5, "at once (%.0f ms of 20 s)", took * 1000);
        is_str(err.sqlstate, "22023", "with the SQLSTATE of its connection's last error");
        has(err.message, "role \"nobody_there\" does not exist", "and its words");
        ok(!strstr(err.message, "LOCATION"), "without what is for developers of the server: %s", err.message);
        ok(!pqpool_is_retryable(&err), "not to be repeated");
        close_pool(pool);
        is_int(d.disconnects, d.connects, "on_disconnect sees each connection that on_connect has seen");

        d = (desk){.answer = 1, .sql = "set role nobody_there"};
        pool = refused_pool("", &hooks);
        pqpool_set(pool, "acquire_timeout", "400ms", NULL);
        took = attempt(pool, by, &err);
        ok(took >= 0.4, "on_connect > 0: %s waits to its deadline (%.0f ms)", ways[by], took * 1000);
        has(err.message, "nobody_there", "and hears why");
        ok(pqpool_is_retryable(&err), "it may be tried again");
        ok(d.connects >= 2, "as the pool has (%d times)", d.connects);
        close_pool(pool);
        is_int(d.disconnects, d.connects, "each connection was taken leave of");
    }
}

/* Each connection once, however it ends, and however often on_connect has seen it. */
static void farewells(void)
{
    desk d = {.answer = 0};
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_connect = greet, .on_disconnect = part, .arg = &d};
    pqpool *pool = refused_pool("pool_max_size=4 pool_reset=clean", &hooks);
    pqpool_error err;
    pqpool_lease a = take(pool), b = take(pool);
    pqpool_discard(&a);
    ok(eventually(d.disconnects == 1), "a discarded connection is taken leave of");
    pqpool_release(&b);
    ok(d.connects > stats(pool).connects, "a clean has on_connect run again");
    attempt(pool, STATEMENT, &err);
    is_int(err.code, PQPOOL_OK, "a statement: %s", err.message);
    one(ctl,
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'refusals-test'");
    ok(eventually(d.disconnects >= 2), "so is one that the server has ended");
    attempt(pool, LEASE, &err);
    pqpool_evict(pool);
    int64_t made = stats(pool).connects;
    close_pool(pool);
    is_int(d.disconnects, made, "so are all the others, once each");
}

/* ---- why a session could not be cleaned ---- */

typedef struct notes {
    char text[400];
    _Atomic int n;
} notes;

static void note(const pqpool_event *event, void *arg)
{
    notes *n = arg;
    if (event->id != PQPOOL_EVENT_CLOSE || event->reason != PQPOOL_CLOSE_RESET_FAILED)
        return;
    snprintf(n->text, sizeof n->text, "%s", event->text);
    n->n++;
}

static int greet_once(PGconn *conn, void *arg)
{
    static _Atomic int seen;
    (void)arg;
    if (seen++ == 0)
        return 0;
    PQclear(PQexec(conn, "set role nobody_there"));
    return 1;
}

static void failed_reset(void)
{
    notes n = {.n = 0};
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_event = note, .on_connect = greet_once, .arg = &n};
    pqpool *pool = refused_pool("pool_reset=clean", &hooks);
    pqpool_lease lease = take(pool);
    pqpool_release(&lease);
    ok(eventually(n.n == 1), "a session that can't be cleaned is closed");
    has(n.text, "role \"nobody_there\" does not exist", "the event says why");
    close_pool(pool);
}

/* ---- the server's last words ---- */

typedef struct farewell {
    char text[600], log[600];
    _Atomic int n, lines;
} farewell;

static void hear(const pqpool_event *event, void *arg)
{
    farewell *f = arg;
    if (event->id != PQPOOL_EVENT_CLOSE || f->n > 0)
        return;
    snprintf(f->text, sizeof f->text, "%s", event->text);
    f->n++;
}

static void hear_log(int level, const char *line, void *arg)
{
    farewell *f = arg;
    if (level > PQPOOL_LOG_WARN || f->lines > 0 || !strstr(line, "closed"))
        return;
    snprintf(f->log, sizeof f->log, "%s", line);
    f->lines++;
}

static void last_words(void)
{
    farewell f = {.n = 0};
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_event = hear, .on_log = hear_log, .arg = &f};
    pqpool_error err;
    pqpool *pool = refused_pool("options='-c idle_session_timeout=100ms'", &hooks);
    attempt(pool, LEASE, &err);
    ok(eventually(f.n == 1), "a connection that the server ends while it is idle is told of");
    has(f.text, "idle-session timeout", "in the server's words");
    close_pool(pool);

    pool = refused_pool("options='-c idle_session_timeout=100ms'", &hooks);
    attempt(pool, STATEMENT, &err);
    ok(eventually(f.lines == 1), "so is a shared one");
    has(f.log, "idle-session timeout", "in the server's words");
    f.n = 0;
    attempt(pool, STATEMENT, &err);
    ok(eventually(f.n == 1), "its event follows");
    has(f.text, "idle-session timeout", "and has them too");
    close_pool(pool);
}

int main(int argc, char **argv)
{
    (void)argc;
    port = own_server(argv[0], "127.0.0.1", 100);
    tap_begin(60);
    ctl = control();
    for_good();
    unshareable();
    dying();
    by_hook();
    farewells();
    failed_reset();
    last_words();
    ok(eventually(backends(ctl, "refusals-test") == 0), "no server process is left");
    PQfinish(ctl);
    return done_testing();
}
