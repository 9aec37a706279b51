/* The types of a prepared statement's parameters do not outlive the column, type or function they were taken from. */
#include "support/pg.h"

#define APP "types-test"

static PGconn *ctl;

static pqpool *open_types(const char *options)
{
    char conninfo[300];
    snprintf(conninfo, sizeof conninfo, "application_name=" APP " pool_shared_max=1 %s", options);
    return open_pool(conninfo, NULL);
}

/* The value of a statement with one parameter or none, or its SQLSTATE in parentheses. */
static const char *ask_by(pqpool *pool, const char *sql, const char *parameter, unsigned flags)
{
    static _Thread_local char text[1200];
    pqpool_error err;
    pqpool_stmt s = {PQPOOL_STMT, .sql = sql, .n_params = parameter != NULL, .param_values = &parameter,
                     .flags = flags};
    PGresult *res = pqpool_exec_stmt(pool, &s, &err);
    if (err.code == PQPOOL_OK)
        snprintf(text, sizeof text, "%s", value(res));
    else
        snprintf(text, sizeof text, "(%s %s)", err.sqlstate, err.message);
    PQclear(res);
    return text;
}

static const char *ask(pqpool *pool, const char *sql, const char *parameter)
{
    return ask_by(pool, sql, parameter, 0);
}

static const char *by_ticket(pqpool *pool, const char *sql, const char *parameter)
{
    static char text[1200];
    pqpool_error err;
    pqpool_stmt s = {PQPOOL_STMT, .sql = sql, .n_params = 1, .param_values = &parameter};
    PGresult *res = pqpool_wait(submit_stmt(pool, &s), -1, &err);
    snprintf(text, sizeof text, "%s%s", value(res), err.message);
    PQclear(res);
    return text;
}

/* What is changed, before and after it: a statement whose parameter follows it, and what comes of that. */
typedef struct change {
    const char *what, *before, *ddl, *sql, *parameter, *want;
} change;

static const change changes[] = {
    {"a date that becomes a timestamp keeps the time of day", "create table d (v date)",
     "alter table d alter v type timestamp", "insert into d values ($1) returning v::text",
     "2020-01-01 15:30:00", "2020-01-01 15:30:00"},
    {"a timestamp that becomes one with time zone keeps the offset", "create table d (v timestamp)",
     "alter table d alter v type timestamptz",
     "insert into d values ($1) returning (v at time zone 'UTC')::text", "2020-01-01 12:00+05",
     "2020-01-01 07:00:00"},
    {"a real that becomes double precision keeps its digits", "create table d (v real)",
     "alter table d alter v type double precision", "insert into d values ($1) returning v::text", "0.1",
     "0.1"},
    {"an integer that becomes a bigint takes large numbers", "create table d (v int)",
     "alter table d alter v type bigint", "insert into d values ($1) returning v::text", "3000000000",
     "3000000000"},
    {"a text that becomes a char is compared as one",
     "create table d (v varchar); insert into d values ('a')", "alter table d alter v type char(3)",
     "select count(*) from d where v = $1", "a  ", "1"},
    {"an enumeration that was made again takes its labels",
     "create type mood as enum ('a'); create table d (v mood)",
     "drop table d; drop type mood; create type mood as enum ('a', 'b'); create table d (v mood)",
     "insert into d values ($1) returning v::text", "a", "a"},
    {"a function that was made again for another type is called with that one",
     "create function f(int) returns text language sql as 'select ''int'''",
     "drop function f(int); create function f(text) returns text language sql as 'select $1'", "select f($1)",
     "word", "word"},
};

static void clean_up(void)
{
    one(ctl, "drop table if exists d; drop type if exists mood; drop function if exists f(int); "
             "drop function if exists f(text)");
}

/* Runs DDL, several statements in a row, one of four ways. */
typedef enum { BY_STATEMENT, BY_LEASE, BY_TRANSACTION, BY_TICKET, ELSEWHERE, WAYS } way;
static const char *const way_names[WAYS] = {"a shared connection", "a lease", "a lease's transaction",
                                            "a ticket", "another program"};

static void run_ddl(pqpool *pool, way how, const char *ddl)
{
    if (how == ELSEWHERE) {
        one(ctl, "%s", ddl);
        return;
    }
    if (how == BY_LEASE || how == BY_TRANSACTION) {
        pqpool_lease lease = take(pool);
        if (how == BY_TRANSACTION)
            one(lease.conn, "begin");
        char copy[400], *rest;
        snprintf(copy, sizeof copy, "%s", ddl);
        for (char *one_of = strtok_r(copy, ";", &rest); one_of; one_of = strtok_r(NULL, ";", &rest))
            one(lease.conn, "%s", one_of);
        if (how == BY_TRANSACTION)
            one(lease.conn, "commit");
        pqpool_release(&lease);
        return;
    }
    char copy[400], *rest;
    snprintf(copy, sizeof copy, "%s", ddl);
    for (char *one_of = strtok_r(copy, ";", &rest); one_of; one_of = strtok_r(NULL, ";", &rest)) {
        pqpool_error err;
        pqpool_stmt s = {PQPOOL_STMT, .sql = one_of};
        PGresult *res = how == BY_TICKET ? pqpool_wait(submit_stmt(pool, &s), -1, &err)
                                         : pqpool_exec_stmt(pool, &s, &err);
        PQclear(res);
        if (err.code != PQPOOL_OK)
            bail("%s: %s", one_of, err.message);
    }
}

static void after_ddl(void)
{
    for (way how = BY_STATEMENT; how < ELSEWHERE; how++)
        for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
            const change *c = &changes[i];
            pqpool *pool = open_types("");
            clean_up();
            one(ctl, "%s", c->before);
            ask(pool, c->sql, i == 6 ? "1" : i == 3 ? "1" : c->parameter);
            ask(pool, c->sql, i == 6 ? "1" : i == 3 ? "1" : c->parameter);
            run_ddl(pool, how, c->ddl);
            if (i < 4 || i == 5)
                ask(pool, "truncate d", NULL);
            is_str(how == BY_TICKET ? by_ticket(pool, c->sql, c->parameter) : ask(pool, c->sql, c->parameter),
                   c->want, "after DDL by %s, %s", way_names[how], c->what);
            close_pool(pool);
        }
    clean_up();
}

/* On other connections too, and where a statement has one to itself. */
static void on_all_connections(void)
{
    pqpool *pool = open_pool("application_name=" APP " pool_shared_max=2 pool_max_size=4", NULL);
    clean_up();
    one(ctl, "create table d (v date)");
    const char *sql = "insert into d values ($1) returning v::text",
               *slow = "insert into d values ($1) returning v::text /* slow */";
    for (int i = 0; i < 2; i++) {
        ask(pool, sql, "2020-01-01");
        ask_by(pool, slow, "2020-01-01", PQPOOL_SLOW);
    }
    run_ddl(pool, BY_STATEMENT, "alter table d alter v type timestamp");
    is_str(ask_by(pool, slow, "2020-01-01 15:30:00", PQPOOL_SLOW), "2020-01-01 15:30:00",
           "after DDL on another connection, a statement that has one to itself uses the new type");
    is_str(ask(pool, sql, "2020-01-01 15:30:00"), "2020-01-01 15:30:00",
           "after DDL, the shared connection uses the new type");
    close_pool(pool);
}

/* What stands behind DDL in the same group. */
static void in_groups(void)
{
    static const char *const parameter = "2020-01-01 15:30:00";
    pqpool_stmt stmts[2] = {{PQPOOL_STMT, .sql = "alter table d alter v type timestamp"},
                            {PQPOOL_STMT, .sql = "insert into d values ($1) returning v::text", .n_params = 1,
                             .param_values = &parameter}};
    for (int mode = PQPOOL_EACH; mode <= PQPOOL_ATOMIC; mode++) {
        pqpool *pool = open_types("");
        PGresult *results[2];
        pqpool_error errors[2];
        clean_up();
        one(ctl, "create table d (v date)");
        ask(pool, stmts[1].sql, "2020-01-01");
        pqpool_code code = pqpool_exec_all(pool, stmts, 2, (pqpool_group_mode)mode, results, errors);
        is_int(code, PQPOOL_OK, "a group of DDL and a statement that was prepared before it succeeds (%s)",
               mode == PQPOOL_EACH ? "each" : "atomic");
        is_str(value(results[1]), parameter, "the statement behind the DDL uses the new type (%s)",
               mode == PQPOOL_EACH ? "each" : "atomic");
        PQclear(results[0]);
        PQclear(results[1]);
        close_pool(pool);
    }
    pqpool *pool = open_types("");
    PGresult *results[3];
    clean_up();
    one(ctl, "create table d (v date)");
    pqpool_stmt undone[3] = {stmts[0], stmts[1], {PQPOOL_STMT, .sql = "select 1/0"}};
    is_int(pqpool_exec_all(pool, undone, 3, PQPOOL_ATOMIC, results, NULL), PQPOOL_ESERVER,
           "a group of DDL, a statement and a failure is undone");
    for (int i = 0; i < 3; i++)
        PQclear(results[i]);
    ask(pool, "alter table d alter v type text", NULL);
    ask(pool, stmts[1].sql, "any words");
    is_str(ask(pool, stmts[1].sql, "any words"), "any words",
           "what was parsed behind DDL that was undone is not used");
    close_pool(pool);
}

/* Another program's DDL that makes a statement fail: once more, parsed anew, unseen. */
static void errors_heal(void)
{
    static const size_t failing[] = {3, 5, 6};
    for (size_t k = 0; k < sizeof failing / sizeof *failing; k++) {
        const change *c = &changes[failing[k]];
        const char *fine = failing[k] == 5 ? "a" : "1";
        pqpool *pool = open_types("");
        clean_up();
        one(ctl, "%s", c->before);
        for (int i = 0; i < 3; i++)
            ask(pool, c->sql, fine);
        run_ddl(pool, ELSEWHERE, c->ddl);
        is_str(ask(pool, c->sql, c->parameter), c->want, "after another program's DDL, at once, %s", c->what);
        is_str(ask(pool, c->sql, c->parameter), c->want, "and again, %s", c->what);
        close_pool(pool);
    }
    pqpool *pool = open_types("");
    clean_up();
    one(ctl, "create table d (v int)");
    static const char *const large = "3000000000";
    pqpool_stmt stmts[2] = {
        {PQPOOL_STMT, .sql = "select 'first'"},
        {PQPOOL_STMT, .sql = "insert into d values ($1)", .n_params = 1, .param_values = &large}};
    PGresult *results[2];
    ask(pool, stmts[1].sql, "1");
    run_ddl(pool, ELSEWHERE, "alter table d alter v type bigint");
    is_int(pqpool_exec_all(pool, stmts, 2, PQPOOL_ATOMIC, results, NULL), PQPOOL_OK,
           "an all-or-nothing group with a member whose types are old is run once more as a whole");
    is_str(one(ctl, "select count(*) from d where v > 5"), "1", "its effects are there once");
    PQclear(results[0]);
    PQclear(results[1]);
    close_pool(pool);
}

static int runs(void)
{
    return atoi(one(ctl, "select case when is_called then last_value else 0 end from counted"));
}

/* A statement that is plainly wrong, and one that may not run twice. */
static void repeats(void)
{
    pqpool *pool = open_types("");
    char number[20];
    one(ctl, "drop sequence if exists counted; create sequence counted");
    for (int i = 0; i < 100; i++)
        ask(pool, "select nextval('counted') / $1::int", i % 50 == 0 ? "1" : "0");
    int n = runs();
    ok(n >= 100 && n <= 102,
       "a statement that is plainly wrong is run once more the first time only (%d runs)", n);
    one(ctl, "create or replace function counts(text) returns int language plpgsql as $f$ begin "
             "perform nextval('counted'); return $1::int; end $f$");
    one(ctl, "alter sequence counted restart");
    for (int i = 0; i < 100; i++) {
        snprintf(number, sizeof number, "word %d", i);
        ask(pool, "select counts($1)", i ? number : "1");
    }
    n = runs();
    ok(n >= 100 && n <= 100 + 8 * tap_slowness(),
       "with a hundred different wrong values it is run again a few times a second (%d runs)", n);
    static const char *const never[] = {"57014", "40001", "40P01", "25006", "53200", "53400"};
    one(ctl, "create or replace function raises(text) returns bigint language plpgsql as $f$ begin "
             "if $1 <> '' then perform nextval('counted'); "
             "raise exception using errcode = $1, message = 'raised'; end if; return 0; end $f$");
    for (size_t i = 0; i < sizeof never / sizeof *never; i++) {
        ask(pool, "select raises($1)", "");
        one(ctl, "alter sequence counted restart");
        const char *got = ask(pool, "select raises($1)", never[i]);
        ok(strncmp(got + 1, never[i], 5) == 0 && runs() == 1,
           "%s is never a reason to run a statement again (%s, %d)", never[i], got, runs());
    }
    one(ctl, "create table if not exists kept (n int); truncate kept; "
             "create or replace procedure commits(int) language plpgsql as $f$ begin "
             "insert into kept values ($1); commit; raise exception 'after its commit'; end $f$");
    for (int i = 0; i < 3; i++)
        ask(pool, "call commits($1)", "7");
    is_str(one(ctl, "select count(*) from kept"), "3",
           "a procedure that commits and then fails is run once for each call");
    one(ctl, "drop sequence counted; drop function raises(text); drop function counts(text); drop procedure "
             "commits(int); drop table kept");
    close_pool(pool);
}

/* Another program's DDL that changes an answer without an error: within five seconds. */
static void foreign_ddl(void)
{
    pqpool *busy = open_types(""), *quiet = open_types("");
    const char *sql = "insert into d values ($1) returning v::text", *precise = "2020-01-01 15:30:00";
    clean_up();
    one(ctl, "create table d (v date)");
    ask(busy, sql, precise);
    ask(quiet, sql, precise);
    sleep_ms(3000);
    is_str(ask(busy, sql, precise), "2020-01-01", "the type of a parameter is that of its column");
    one(ctl, "alter table d alter v type timestamp");
    double began = now_s(), seen = 0;
    while (!seen && now_s() - began < 20)
        if (strcmp(ask(busy, sql, precise), precise) == 0)
            seen = now_s() - began;
        else
            sleep_ms(10);
    ok(seen > 0 && seen < 6 + tap_slowness(),
       "a statement in use notices another program's DDL within 5 s (%.1f s)", seen);
    while (now_s() - began < 5.1)
        sleep_ms(20);
    is_str(ask(quiet, sql, precise), precise,
           "one that was not used for that long has the new type at its first use");
    close_pool(busy);
    close_pool(quiet);
    clean_up();
}

/* Names that others could have chosen. */
static void names(void)
{
    pqpool *pool = open_types("");
    one(ctl, "create or replace function takes_names() returns int language plpgsql as $f$ begin "
             "for i in 1..200 loop execute format('prepare pqpool_%%s as select -1', i); end loop; "
             "return 0; end $f$");
    ask(pool, "do $$ begin perform takes_names(); end $$", NULL);
    bool right = true;
    for (int i = 0; i < 3; i++)
        right &= strcmp(ask(pool, "select 'mine'", NULL), "mine") == 0;
    ok(right, "names that another part of the program has prepared are not in the way");
    ask(pool, "select 'named'", NULL);
    char first[100], second[100];
    const char *by_name = "select name from pg_prepared_statements where statement = 'select ''named'''";
    snprintf(first, sizeof first, "%s", ask_by(pool, by_name, NULL, PQPOOL_NO_PREPARE));
    pqpool *other = open_types("");
    ask(other, "select 'named'", NULL);
    snprintf(second, sizeof second, "%s", ask_by(other, by_name, NULL, PQPOOL_NO_PREPARE));
    ok(*first && *second && strcmp(first, second) != 0,
       "the same statement has different names on different connections (%s, %s)", first, second);
    close_pool(other);
    close_pool(pool);
    pool = open_types("pool_statement_cache_size=0");
    pqpool_stmt timed = {PQPOOL_STMT, .sql = "select count(*) from pg_prepared_statements",
                         .timeout_ms = 5000};
    PGresult *res = pqpool_exec_stmt(pool, &timed, NULL);
    is_str(value(res), "0", "with statement_cache_size=0 a time-out prepares nothing either");
    PQclear(res);
    close_pool(pool);
    pool = open_types("");
    timed.flags = PQPOOL_NO_PREPARE;
    res = pqpool_exec_stmt(pool, &timed, NULL);
    is_str(value(res), "0", "with PQPOOL_NO_PREPARE a time-out prepares nothing either");
    PQclear(res);
    close_pool(pool);
    one(ctl, "drop function takes_names()");
}

int main(void)
{
    tap_begin(120);
    ctl = control();
    after_ddl();
    on_all_connections();
    in_groups();
    errors_heal();
    repeats();
    foreign_ddl();
    names();
    PQfinish(ctl);
    return done_testing();
}
