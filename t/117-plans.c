/* Prepared statements that nobody sees: once on each connection, bounded, and healed when the server won't have them. */
#include "support/pg.h"
#include "support/wire.h"

#define APP "plans-test"

static PGconn *ctl;

static pqpool *one_lane(const char *options)
{
    char conninfo[300];
    snprintf(conninfo, sizeof conninfo, "application_name=" APP " pool_shared_max=1 %s", options);
    return open_pool(conninfo, NULL);
}

/* One value of a statement that must succeed; "(...)" with the error if it does not. */
static const char *ask(pqpool *pool, const pqpool_stmt *s)
{
    static _Thread_local char text[1200];
    pqpool_error err;
    PGresult *res = pqpool_exec_stmt(pool, s, &err);
    if (err.code == PQPOOL_OK)
        snprintf(text, sizeof text, "%s", value(res));
    else
        snprintf(text, sizeof text, "(%s %s)", pqpool_code_name((pqpool_code)err.code), err.message);
    PQclear(res);
    return text;
}

static const char *ask_sql(pqpool *pool, const char *sql)
{
    return ask(pool, &(pqpool_stmt){PQPOOL_STMT, .sql = sql});
}

/* Asked on the shared connection itself, without leaving a trace. */
static const char *of_prepared(pqpool *pool, const char *what, const char *text)
{
    char sql[400];
    snprintf(sql, sizeof sql, "select %s from pg_prepared_statements where statement like '%s'", what, text);
    return ask(pool, &(pqpool_stmt){PQPOOL_STMT, .sql = sql, .flags = PQPOOL_NO_PREPARE});
}

static void prepared_once(pqpool *pool)
{
    bool right = true;
    for (int i = 0; i < 10; i++) {
        char number[12];
        snprintf(number, sizeof number, "%d", i);
        pqpool_stmt s = {PQPOOL_STMT, .sql = "select $1::int /* ten */", .n_params = 1,
                         .param_values = (const char *[]){number}};
        right &= strcmp(ask(pool, &s), number) == 0;
    }
    ok(right, "B8: a statement that comes again has the right answers");
    is_str(of_prepared(pool, "count(*)", "%/* ten */"), "1", "B8: it is prepared once on its connection");
    is_str(of_prepared(pool, "sum(generic_plans + custom_plans)", "%/* ten */"), "10",
           "B8: and run by its name each time");
    pqpool_stmt plain = {PQPOOL_STMT, .sql = "select 'x' /* never */", .flags = PQPOOL_NO_PREPARE};
    is_str(ask(pool, &plain), "x", "B8: with PQPOOL_NO_PREPARE a statement runs");
    is_str(of_prepared(pool, "count(*)", "%/* never */"), "0", "B8: and is not prepared");
    PQclear(pqpool_exec(pool, "show work_mem", NULL));
    is_str(of_prepared(pool, "count(*)", "show%"), "0", "B8: nor is what the server does not plan");
}

static void first_use(void)
{
    wire *proxy = wire_start(ctl);
    char conninfo[300];
    snprintf(conninfo, sizeof conninfo, "%s application_name=" APP " pool_shared_max=1",
             wire_conninfo(proxy));
    pqpool *pool = open_pool(conninfo, NULL);
    ask_sql(pool, "select 'warm'");
    int64_t trips = wire_count(proxy, WIRE_ALL, WIRE_ROUND_TRIP),
            parses = wire_count(proxy, WIRE_ALL, WIRE_PARSE_NAMED);
    is_str(ask_sql(pool, "select 'first use'"), "first use", "B8: the first use of a statement");
    is_int(wire_count(proxy, WIRE_ALL, WIRE_ROUND_TRIP) - trips, 1, "B8: costs no round trip more");
    is_int(wire_count(proxy, WIRE_ALL, WIRE_PARSE_NAMED) - parses, 1, "B8: and prepares it");
    for (int i = 0; i < 5; i++)
        ask_sql(pool, "select 'first use'");
    is_int(wire_count(proxy, WIRE_ALL, WIRE_PARSE_NAMED) - parses, 1, "B8: later ones only bind");
    close_pool(pool);
    wire_stop(proxy);
}

/* The same text with other types is another statement. */
static void types(pqpool *pool)
{
    static const char integer[4] = {0, 0, 0, 42}, single[4] = {0x42, 0x28, 0, 0},
                      twice[8] = {0x40, 0x45, 0, 0, 0, 0, 0, 0};
    static const struct {
        Oid type;
        const char *bytes;
        int length;
    } forms[] = {{23, integer, 4}, {700, single, 4}, {701, twice, 8}, {21, integer + 2, 2}};
    bool right = true;
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
            pqpool_stmt s = {PQPOOL_STMT,
                             .sql = "select $1::text /* typed */",
                             .n_params = 1,
                             .param_types = &forms[i].type,
                             .param_values = &forms[i].bytes,
                             .param_lengths = &forms[i].length,
                             .param_formats = (int[]){1}};
            right &= strcmp(ask(pool, &s), "42") == 0;
        }
    ok(right, "B8: one text with binary parameters of four types has four times the right answer");
    is_str(of_prepared(pool, "count(*)", "%/* typed */"), "4", "B8: being prepared for each");
}

static void bounded(void)
{
    pqpool *pool = one_lane("pool_statement_cache_size=4");
    int wrong = 0, most = 0;
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 20; i++) {
            char sql[60], want[12];
            snprintf(sql, sizeof sql, "select %d /* bounded */", i);
            snprintf(want, sizeof want, "%d", i);
            wrong += strcmp(ask_sql(pool, sql), want) != 0;
            int n = atoi(of_prepared(pool, "count(*)", "%/* bounded */"));
            most = n > most ? n : most;
        }
    is_int(wrong, 0, "B8: twenty statements through a cache of four have their answers");
    is_int(most, 4, "B8: a connection never has more than four prepared");
    is_str(of_prepared(pool, "count(distinct name) = count(*)", "%"), "t",
           "B8: each under a name of its own");
    close_pool(pool);
    pool = one_lane("pool_statement_cache_size=0");
    for (int i = 0; i < 3; i++)
        ask_sql(pool, "select 'none' /* off */");
    is_str(of_prepared(pool, "count(*)", "%"), "0", "B8: with statement_cache_size=0 nothing is prepared");
    close_pool(pool);
}

typedef struct crowd {
    pqpool *pool;
    _Atomic int right, wrong;
} crowd;

static void many_texts(int i, void *arg)
{
    crowd *c = arg;
    for (int k = 0; k < 400 / tap_slowness(); k++) {
        char sql[60], want[12];
        int n = (i * 7 + k * 13) % 50;
        snprintf(sql, sizeof sql, "select %d /* crowd */", n);
        snprintf(want, sizeof want, "%d", n);
        bool fine = strcmp(ask_sql(c->pool, sql), want) == 0;
        c->right += fine;
        c->wrong += !fine;
    }
}

static void crowded(void)
{
    pqpool *pool = one_lane("pool_statement_cache_size=4");
    crowd c = {.pool = pool};
    in_threads(16, many_texts, &c);
    is_int(c.wrong, 0,
           "B8: 16 threads push each other's statements out of a cache of four: all answers are right");
    ok(atoi(of_prepared(pool, "count(*)", "%/* crowd */")) <= 4, "B8: and the bound holds");
    close_pool(pool);
}

/* ---- healing ---- */

static void altered(pqpool *pool)
{
    one(ctl, "create table healed (a int); insert into healed values (7)");
    for (int i = 0; i < 3; i++)
        is_str(ask_sql(pool, "select * from healed"), "7", "B8: a table is read");
    char before[100];
    snprintf(before, sizeof before, "%s", of_prepared(pool, "max(name)", "select * from healed"));
    one(ctl, "alter table healed add column b int default 8");
    pqpool_error err;
    PGresult *res = pqpool_exec(pool, "select * from healed", &err);
    ok(err.code == PQPOOL_OK && PQnfields(res) == 2,
       "B8: and after a column was added, without an error (%s)", err.message);
    PQclear(res);
    ask_sql(pool, "select * from healed");
    ok(strcmp(of_prepared(pool, "max(name)", "select * from healed"), before) != 0,
       "B8: being prepared anew, under another name");
    is_str(of_prepared(pool, "count(*)", "select * from healed"), "1", "B8: with the old one closed");
}

static void read_healed(int i, void *arg)
{
    crowd *c = arg;
    (void)i;
    for (int k = 0; k < 200 / tap_slowness(); k++) {
        bool fine = strcmp(ask_sql(c->pool, "select * from healed"), "7") == 0;
        c->right += fine;
        c->wrong += !fine;
    }
}

static void altered_under_load(pqpool *pool)
{
    crowd c = {.pool = pool};
    crew readers;
    crew_start(&readers, 16, read_healed, &c);
    for (int i = 0; i < 20; i++) {
        one(ctl, "alter table healed add column c%d int", i);
        sleep_ms(5);
    }
    crew_join(&readers);
    is_int(c.wrong, 0, "B8: columns added under the eyes of 16 threads: nobody sees an error");
}

static void lost_names(pqpool *pool)
{
    ask_sql(pool, "select 'kept' /* lost */");
    ask_sql(pool, "do $$ begin execute 'deallocate all'; end $$");
    is_str(of_prepared(pool, "count(*)", "%/* lost */"), "0", "B8: the names are lost");
    is_str(ask_sql(pool, "select 'kept' /* lost */"), "kept", "B8: which nobody sees");
    is_str(ask_sql(pool, "select 'kept' /* lost */"), "kept", "B8: and which is mended");
    is_str(of_prepared(pool, "count(*)", "%/* lost */"), "1", "B8: by preparing it again");
}

/* An error that only looks like it is the statement's own. */
static void not_healed(pqpool *pool)
{
    one(ctl,
        "create sequence tried; create function pretend(state text) returns int language plpgsql as "
        "$$ begin perform nextval('tried'); raise exception 'prepared statement \"x\" does not exist' using "
        "errcode = state; end $$");
    static const char *const states[] = {"26000", "0A000"};
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 2; k++) {
            pqpool_error err;
            PGresult *res =
                pqpool_exec_params(pool, "select pretend($1)", 1, NULL, &states[i], NULL, NULL, 0, &err);
            ok(err.code == PQPOOL_ESERVER && strcmp(err.sqlstate, states[i]) == 0,
               "B8: a function's own %s is the caller's to see", states[i]);
            PQclear(res);
        }
    is_str(one(ctl, "select last_value from tried"), "6",
           "an error of a statement that was prepared before is tried once more, and then believed");
    one(ctl, "drop function pretend; drop sequence tried");
}

static void fail_to_parse(int i, void *arg)
{
    crowd *c = arg;
    (void)i;
    pqpool_error err;
    PGresult *res = pqpool_exec(c->pool, "select * from not_there_yet", &err);
    if (err.code == PQPOOL_ESERVER && strcmp(err.sqlstate, "42P01") == 0)
        c->right++;
    else
        c->wrong++;
    PQclear(res);
}

static void failing_parse(pqpool *pool)
{
    crowd c = {.pool = pool};
    for (int k = 0; k < 10; k++)
        in_threads(16, fail_to_parse, &c);
    is_int(
        c.wrong, 0,
        "B8: when a statement can't be parsed, those behind it on the same entry get the error of their own");
    one(ctl, "create table not_there_yet as select 5 as x");
    is_str(ask_sql(pool, "select * from not_there_yet"), "5", "B8: and once it can, it runs");
    one(ctl, "drop table not_there_yet");
}

static void groups(pqpool *pool)
{
    one(ctl, "create table grouped (n int); create table effects (n int)");
    pqpool_stmt stmts[3] = {{PQPOOL_STMT, .sql = "insert into effects values (1) returning n"},
                            {PQPOOL_STMT, .sql = "select * from grouped"},
                            {PQPOOL_STMT, .sql = "insert into effects values (2) returning n"}};
    PGresult *results[3];
    pqpool_error errors[3];
    static const char *const names[] = {"each for itself", "all or nothing"};
    for (int mode = 0; mode < 2; mode++) {
        one(ctl, "truncate effects");
        for (int round = 0; round < 2; round++) {
            if (round == 1)
                one(ctl, "alter table grouped add column m%d int", mode);
            pqpool_code code = pqpool_exec_all(pool, stmts, 3, (pqpool_group_mode)mode, results, errors);
            ok(code == PQPOOL_OK, "B8: a group, %s, %s (%s)", names[mode],
               round ? "heals one whose table was altered" : "runs", errors[1].message);
            ok(PQntuples(results[0]) == 1 && PQntuples(results[2]) == 1, "with each member's answer");
            for (int i = 0; i < 3; i++)
                PQclear(results[i]);
        }
        is_str(one(ctl, "select count(*) from effects"), "4", "B8: and no member ran twice");
    }
    one(ctl, "drop table grouped, effects");
}

/* ---- time-outs told to the server ---- */

static int timeout_seen(pqpool *pool, int timeout_ms)
{
    pqpool_stmt s = {PQPOOL_STMT, .sql = "select setting from pg_settings where name = 'statement_timeout'",
                     .timeout_ms = timeout_ms};
    return atoi(ask(pool, &s));
}

static void told(void)
{
    pqpool *pool = one_lane("");
    is_int(timeout_seen(pool, 0), 0, "B9: without a time-out the session has none");
    int seen = timeout_seen(pool, 5000);
    ok(seen > 4000 && seen < 5000,
       "B9: a statement's own is told to the server, a little shorter (%d of 5000 ms)", seen);
    is_int(timeout_seen(pool, 0), 0, "B9: and the next statement has none again");
    pqpool_stmt fails = {PQPOOL_STMT, .sql = "select 1/0", .timeout_ms = 5000};
    ask(pool, &fails);
    is_int(timeout_seen(pool, 0), 0, "B9: not even after one that failed");
    pqpool_stmt stmts[3] = {
        {PQPOOL_STMT, .sql = "select setting from pg_settings where name = 'statement_timeout'",
         .timeout_ms = 9000},
        {PQPOOL_STMT, .sql = "select setting from pg_settings where name = 'statement_timeout'"},
        {PQPOOL_STMT, .sql = "select setting from pg_settings where name = 'statement_timeout'",
         .timeout_ms = 7000}};
    PGresult *results[3];
    is_int(pqpool_exec_all(pool, stmts, 3, PQPOOL_ATOMIC, results, NULL), PQPOOL_OK, "B9: in one unit");
    ok(atoi(value(results[0])) > 6000 && atoi(value(results[0])) < 7000,
       "B9: the shortest is that of the group");
    ok(atoi(value(results[1])) > 6000, "B9: also of a member without one");
    ok(atoi(value(results[2])) > 6000, "B9: and one behind it has its own again");
    for (int i = 0; i < 3; i++)
        PQclear(results[i]);
    close_pool(pool);

    pool = one_lane("pool_statement_timeout=3s");
    seen = timeout_seen(pool, 0);
    ok(seen > 2000 && seen < 3000, "B9: the pool's statement_timeout is the session's (%d of 3000 ms)", seen);
    is_int(timeout_seen(pool, 60000), seen, "B9: a looser one of a statement does not loosen it");
    pqpool_error err;
    ok(pqpool_set(pool, "statement_timeout", "10s", &err) == PQPOOL_OK, "it may be changed");
    ok(eventually(timeout_seen(pool, 0) > 9000), "B9: and the sessions follow");
    pqpool_stmt sleeps = {PQPOOL_STMT, .sql = "select pg_sleep(10)", .timeout_ms = 200};
    PGresult *res = exec_too_long(pool, &sleeps, &err);
    ok(err.code == PQPOOL_ESERVER && err.outcome == PQPOOL_DONE && strcmp(err.sqlstate, "57014") == 0,
       "B9: a statement that exceeds its time-out is ended by the server, and known to be undone (%s)",
       err.message);
    PQclear(res);
    close_pool(pool);

    pool = open_pool("application_name=" APP " options='-c statement_timeout=2s'", NULL);
    is_int(timeout_seen(pool, 0), 2000, "B9: a time-out the session has from elsewhere stays");
    is_int(timeout_seen(pool, 50000), 2000, "B9: and is not loosened");
    close_pool(pool);
}

/* VACUUM refuses to share a transaction, even with a setting. */
static void told_alone(void)
{
    pqpool *pool = one_lane("");
    one(ctl, "create table swept as select generate_series(1, 1000) as n");
    pqpool_error err;
    ask_sql(pool, "select 1");
    pqpool_stmt s = {PQPOOL_STMT, .sql = "vacuum swept", .timeout_ms = 5000};
    PGresult *res = pqpool_exec_stmt(pool, &s, &err);
    ok(err.code == PQPOOL_OK, "B9: a VACUUM with a time-out runs (%s)", err.message);
    PQclear(res);
    PGconn *locker = control();
    one(locker, "begin; lock table swept in access exclusive mode");
    s.timeout_ms = 300;
    res = exec_too_long(pool, &s, &err);
    ok(err.code == PQPOOL_ESERVER && strcmp(err.sqlstate, "57014") == 0,
       "B9: and is ended by the server when it has to wait for longer (%s)", err.message);
    PQclear(res);
    PQfinish(locker);
    is_int(timeout_seen(pool, 0), 0, "B9: nobody else's session knows of it");
    one(ctl, "drop table swept");
    close_pool(pool);
}

int main(void)
{
    tap_begin(60);
    ctl = control();
    pqpool *pool = one_lane("");
    prepared_once(pool);
    types(pool);
    altered(pool);
    altered_under_load(pool);
    lost_names(pool);
    not_healed(pool);
    failing_parse(pool);
    groups(pool);
    one(ctl, "drop table healed");
    close_pool(pool);
    first_use();
    bounded();
    crowded();
    told();
    told_alone();
    ok(eventually(backends(ctl, APP) == 0), "no server process is left");
    PQfinish(ctl);
    return done_testing();
}
