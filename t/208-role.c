/* A server that is demoted, or made read only, under a pool: its connections are left, and the right server is looked for. */
#include "support/server.h"
#include "support/way.h"

static PGconn *ctl;
static int port;

static const char *write_by(pqpool *pool, way by, pqpool_error *err)
{
    static char state[10];
    *state = '\0';
    if (by == STATEMENT) {
        PQclear(pqpool_exec(pool, "insert into log values (1)", err));
        return err->sqlstate;
    }
    pqpool_lease lease;
    if (pqpool_acquire(pool, &lease, err) != PQPOOL_OK)
        return err->sqlstate;
    PGresult *res = PQexec(lease.conn, "insert into log values (1)");
    const char *said = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    snprintf(state, sizeof state, "%s", said ? said : "");
    PQclear(res);
    pqpool_release(&lease);
    return state;
}

/* The first host has a role of its own that makes its sessions read only when it is told to: as seen from a pool, a server
 * that was demoted. */
static void demoted(void)
{
    for (way by = LEASE; by < WAYS; by++) {
        char conninfo[400];
        pqpool_error err;
        snprintf(conninfo, sizeof conninfo,
                 "host=127.0.0.1 port=%d application_name=role-test target_session_attrs=read-write "
                 "pool_max_size=4 "
                 "pool_acquire_timeout=20s",
                 port);
        pqpool *pool = open_pool(conninfo, NULL);
        pqpool_lease a = take(pool), b = take(pool);
        pqpool_release(&a);
        pqpool_release(&b);
        is_str(write_by(pool, by, &err), "", "%s writes: %s", ways[by], err.message);
        one(ctl, "alter system set default_transaction_read_only = on");
        one(ctl, "select pg_reload_conf()");
        pqpool_set(pool, "acquire_timeout", "300ms", NULL);
        int refused = 0;
        bool told = false;
        for (double end = now_s() + 10; !told && now_s() < end; sleep_ms(5)) {
            const char *state = write_by(pool, by, &err);
            refused += strcmp(state, "25006") == 0;
            told = err.code == PQPOOL_ECONNECT;
        }
        ok(told, "a pool that asks for read-write leaves a server that is read only (%d times 25006)",
           refused);
        has(err.message, "session is read-only", "and says so");
        ok(refused <= 4, "with its first words (%d)", refused);
        ok(eventually(stats(pool).idle + stats(pool).shared == 0), "the idle siblings are left too");
        ok(stats(pool).closed_by[PQPOOL_CLOSE_ROLE] + stats(pool).closed_by[PQPOOL_CLOSE_CHANGED] >= 2,
           "for that reason");
        one(ctl, "set default_transaction_read_only = off");
        one(ctl, "alter system reset default_transaction_read_only");
        one(ctl, "select pg_reload_conf()");
        pqpool_set(pool, "acquire_timeout", "20s", NULL);
        is_str(write_by(pool, by, &err), "", "and finds it again when it takes writes: %s", err.message);
        is_int(err.code, PQPOOL_OK, "without a failed call");
        close_pool(pool);
    }
}

/* What a caller has made read only himself is no reason to leave. */
static void own_doing(void)
{
    char conninfo[300];
    snprintf(conninfo, sizeof conninfo,
             "host=127.0.0.1 port=%d application_name=role-test target_session_attrs=read-write", port);
    pqpool *pool = open_pool(conninfo, NULL);
    sleep_ms(1100);
    for (int i = 0; i < 3; i++) {
        pqpool_lease lease = take(pool);
        if (i == 0)
            sleep_ms(1100); /* old enough to be believed */
        one(lease.conn, "begin read only");
        PGresult *res = PQexec(lease.conn, "insert into log values (1)");
        is_str(PQresultErrorField(res, PG_DIAG_SQLSTATE), "25006",
               "a transaction that is read only refuses a write");
        PQclear(res);
        pqpool_release(&lease);
    }
    pqpool_error err;
    PGresult *res =
        pqpool_exec(pool, "with w as (insert into log values (1) returning 1) select * from w", &err);
    is_int(err.code, PQPOOL_OK, "and none but it: %s", err.message);
    PQclear(res);
    is_int(stats(pool).connects, 1, "its connection is kept");
    close_pool(pool);
}

int main(int argc, char **argv)
{
    (void)argc;
    port = own_server(argv[0], "127.0.0.1", 100);
    tap_begin(60);
    ctl = control();
    one(ctl, "create table log (n int)");
    demoted();
    own_doing();
    ok(eventually(backends(ctl, "role-test") == 0), "no server process is left");
    PQfinish(ctl);
    return done_testing();
}
