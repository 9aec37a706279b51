/* What the text of a statement does not show: session state that is found changed afterwards, and what never is. */
#include "support/pg.h"

static PGconn *ctl;

/* Why connections were closed, as the pool's events tell it. */
static _Atomic int changed_closes, warned;

static void on_event(const pqpool_event *event, void *arg)
{
    (void)arg;
    if (event->id == PQPOOL_EVENT_CLOSE && strcmp(event->text, "its session was changed") == 0)
        changed_closes++;
}

static void on_log(int level, const char *line, void *arg)
{
    test_log(level, line, arg);
    if (level == PQPOOL_LOG_WARN && strstr(line, "shared connection") && strstr(line, "closed: "))
        warned++;
}

/* One value of a statement on the shared connection, in a buffer of this thread's. */
static const char *shared(pqpool *pool, const char *sql)
{
    static _Thread_local char text[1000];
    pqpool_error err;
    PGresult *res = pqpool_exec(pool, sql, &err);
    if (err.code != PQPOOL_OK)
        bail("%s: %s", sql, err.message);
    snprintf(text, sizeof text, "%s", value(res));
    PQclear(res);
    return text;
}

static int pid(pqpool *pool)
{
    return atoi(shared(pool, "select pg_backend_pid()"));
}

/* The statement changes `setting`; whoever comes next is elsewhere, where it is as it was. */
static void is_found(pqpool *pool, const char *sql, const char *setting)
{
    char show[100], before[1000];
    snprintf(show, sizeof show, "select current_setting('%s')", setting);
    snprintf(before, sizeof before, "%s", shared(pool, show));
    int old_pid = pid(pool), closed = changed_closes, lines = warned;
    int64_t closes = stats(pool).closes;
    shared(pool, sql);
    ok(pid(pool) != old_pid, "B7: after a change of %s the next statement runs elsewhere: %s", setting, sql);
    is_str(shared(pool, show), before, "B7:   where %s is as it was", setting);
    ok(eventually(stats(pool).closes == closes + 1), "B7:   and the connection is closed");
    ok(eventually(changed_closes == closed + 1), "B7:   with the reason");
    ok(eventually(warned == lines + 1), "B7:   and a line in the log");
    ok(eventually(atoi(one(ctl, "select count(*) from pg_stat_activity where pid = %d", old_pid)) == 0),
       "B7:   and its server process has ended");
}

static void each_setting(pqpool *pool)
{
    is_found(pool, "select set_zone('Asia/Tokyo')", "TimeZone");
    is_found(pool, "do $$ begin set application_name = 'changed'; end $$", "application_name");
    is_found(pool, "select become('plain')", "is_superuser");
    is_found(pool, "do $$ begin set session authorization plain; end $$", "session_authorization");
    is_found(pool, "do $$ begin set client_encoding = latin1; end $$", "client_encoding");
    is_found(pool, "do $$ begin set datestyle = german; end $$", "DateStyle");
    is_found(pool, "do $$ begin set intervalstyle = iso_8601; end $$", "IntervalStyle");
    is_found(pool, "do $$ begin set standard_conforming_strings = off; end $$",
             "standard_conforming_strings");
    is_found(pool, "do $$ begin set default_transaction_read_only = on; end $$",
             "default_transaction_read_only");
    is_found(pool, "call set_zone_and_commit('Asia/Tokyo')", "TimeZone");
    is_found(pool, "insert into triggers values ('Asia/Tokyo') returning 1", "TimeZone");
    is_found(pool, "select * from sets_zone", "TimeZone");
    is_found(pool, "select query_to_xml('select set_zone(''Asia/Tokyo'')', true, true, '')", "TimeZone");
    is_found(
        pool,
        "do $$ begin execute 'update pg_settings set setting = ''Asia/Tokyo'' where name = ''TimeZone'''; "
        "end $$",
        "TimeZone");
}

/* What is undone by the time the statement is over is no change. */
static void undone(pqpool *pool)
{
    static const char *const harmless[] = {
        "select set_config('TimeZone', 'Asia/Tokyo', true)",
        "do $$ begin set local timezone = 'Asia/Tokyo'; end $$",
        "do $$ begin set timezone = 'Asia/Tokyo'; set timezone = default; end $$",
        "select in_tokyo()",
    };
    int old_pid = pid(pool);
    int64_t closes = stats(pool).closes;
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++) {
        shared(pool, harmless[i]);
        is_int(pid(pool), old_pid, "the connection stays: %s", harmless[i]);
    }
    pqpool_error err;
    PGresult *res = pqpool_exec(pool, "do $$ begin set timezone = 'Asia/Tokyo'; raise 'no'; end $$", &err);
    is_int(err.code, PQPOOL_ESERVER, "a change that fails is undone by the server");
    PQclear(res);
    is_int(pid(pool), old_pid, "  and the connection stays");
    is_int(stats(pool).closes, closes, "none was closed");
}

/* Those that were sent already run behind the change. */
static void in_a_group(pqpool *pool)
{
    pqpool_stmt stmts[3] = {{PQPOOL_STMT, .sql = "select current_setting('TimeZone')"},
                            {PQPOOL_STMT, .sql = "select set_zone('Asia/Tokyo')"},
                            {PQPOOL_STMT, .sql = "select current_setting('TimeZone')"}};
    PGresult *results[3];
    int old_pid = pid(pool);
    is_int(pqpool_exec_all(pool, stmts, 3, PQPOOL_EACH, results, NULL), PQPOOL_OK,
           "a group with a change in its middle gets its answers");
    is_str(value(results[2]), "Asia/Tokyo", "what was sent behind the change meets it");
    for (int i = 0; i < 3; i++)
        PQclear(results[i]);
    ok(pid(pool) != old_pid, "B7: what comes after the group does not");
    ok(strcmp(shared(pool, "select current_setting('TimeZone')"), "Asia/Tokyo") != 0,
       "B7: and meets the setting as it was");
}

enum { THREADS = 8, EACH = 300 };

typedef struct crowd {
    pqpool *pool;
    _Atomic int failed;
} crowd;

static void ask(int i, void *arg)
{
    crowd *c = arg;
    for (int k = 0; k < EACH / tap_slowness(); k++) {
        pqpool_error err;
        PGresult *res =
            pqpool_exec(c->pool, i == 0 && k % 50 == 7 ? "select set_zone('Asia/Tokyo')" : "select 1", &err);
        c->failed += err.code != PQPOOL_OK;
        PQclear(res);
    }
}

static void in_a_crowd(pqpool *pool)
{
    crowd c = {.pool = pool};
    in_threads(THREADS, ask, &c);
    is_int(c.failed, 0, "B7: changes amid the statements of others fail none of them");
    ok(strcmp(shared(pool, "select current_setting('TimeZone')"), "Asia/Tokyo") != 0,
       "B7: and when the connection has been empty once, the setting is as it was");
}

static int set_up(PGconn *conn, void *arg)
{
    (void)arg;
    PGresult *res = PQexec(conn, "set timezone = 'Europe/Paris'");
    int failed = PQresultStatus(res) != PGRES_COMMAND_OK;
    PQclear(res);
    return failed;
}

static void with_hook(void)
{
    pqpool *pool = open_pool("pool_shared_max=1", &(pqpool_hooks){PQPOOL_HOOKS, .on_connect = set_up});
    int first = pid(pool);
    is_str(shared(pool, "show timezone"), "Europe/Paris",
           "what on_connect sets holds on a shared connection");
    is_int(pid(pool), first, "and is not taken for a change");
    is_int(stats(pool).closes, 0, "no connection is closed for it");
    close_pool(pool);
}

static void reload(pqpool *pool)
{
    int old_pid = pid(pool);
    one(ctl, "alter system set timezone = 'Asia/Tokyo'");
    one(ctl, "select pg_reload_conf()");
    ok(eventually(pid(pool) != old_pid),
       "a setting that the server's configuration changes counts as changed");
    is_str(shared(pool, "show timezone"), "Asia/Tokyo", "the next connection begins with it");
    old_pid = pid(pool);
    sleep_ms(50);
    is_int(pid(pool), old_pid, "and stays");
    one(ctl, "alter system reset timezone");
    one(ctl, "select pg_reload_conf()");
    ok(eventually(strcmp(shared(pool, "show timezone"), "Asia/Tokyo") != 0), "B7: it can be taken back");
}

/* Random texts of quotes, comments and a function that would change a setting: the guard reads them as the server
 * does, so what it lets through changes nothing. */
static void random_texts(pqpool *pool)
{
    static const char *const pieces[] = {"'",
                                         "'",
                                         "\"",
                                         "$$",
                                         "$a$",
                                         "$1",
                                         "\\",
                                         "--",
                                         "/*",
                                         "*/",
                                         "\n",
                                         " ",
                                         "(",
                                         ")",
                                         ",",
                                         ";",
                                         ".",
                                         "1",
                                         "a",
                                         "E'",
                                         "U&'",
                                         "U&\"",
                                         "N'",
                                         "B'",
                                         "e",
                                         "true",
                                         " as x",
                                         " uescape '!'",
                                         "!0067",
                                         "\\0067",
                                         "pg_catalog.",
                                         "set_config(",
                                         "set_config('TimeZone','Asia/Tokyo',true)",
                                         "set_config('TimeZone','Asia/Tokyo',false)",
                                         "set_config('TimeZone','Asia/Tokyo',false)",
                                         "U&\"set_confi\\0067\"('TimeZone','Asia/Tokyo',false)",
                                         "\"set_config\"('TimeZone','Asia/Tokyo',false)",
                                         "\xc3\xa4"};
    enum { PIECES = sizeof pieces / sizeof *pieces, RUNS = 20000 };
    unsigned seed = 112;
    int64_t closes = stats(pool).closes;
    int ran = 0, failed = 0, refused = 0, first = pid(pool);
    for (int i = 0; i < RUNS / tap_slowness(); i++) {
        char sql[1000] = "select ";
        for (int n = 1 + rand_r(&seed) % 8; n > 0; n--)
            strcat(sql, pieces[rand_r(&seed) % PIECES]);
        pqpool_error err;
        PGresult *res = pqpool_exec(pool, sql, &err);
        ran += err.code == PQPOOL_OK;
        failed += err.code == PQPOOL_ESERVER;
        refused += err.code == PQPOOL_EREFUSED;
        PQclear(res);
        if (stats(pool).closes != closes) {
            ok(false, "B7: it changed the session: %s", sql);
            break;
        }
    }
    diag("%d ran, %d were errors to the server, %d refused", ran, failed, refused);
    ok(ran > 100 / tap_slowness() && refused > 100 / tap_slowness(),
       "random texts: some run, some are refused");
    is_int(pid(pool), first, "B7: and none that runs changes the session");
}

/* ---- what can't be found: doc/SHARING.md says so ---- */

static void unseen(pqpool *pool)
{
    int old_pid = pid(pool);
    shared(pool, "do $$ begin set work_mem = '77MB'; end $$");
    is_str(shared(pool, "show work_mem"), "77MB", "not found: a setting that the server does not report");
    shared(pool, "do $$ begin perform pg_advisory_lock(77); end $$");
    is_str(
        shared(pool, "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"),
        "1", "not found: an advisory lock taken in a function");
    shared(pool, "do $$ begin create temp table mine (a int); end $$");
    is_str(shared(pool, "select count(*) from mine"), "0", "not found: a temporary table made in a function");
    shared(pool, "do $$ begin execute 'listen gossip'; end $$");
    is_str(shared(pool, "select count(*) from pg_listening_channels()"), "1",
           "not found: LISTEN in a function");
    shared(pool, "do $$ begin execute 'prepare p as select 77'; end $$");
    is_str(shared(pool, "select count(*) from pg_prepared_statements where name = 'p'"), "1",
           "not found: PREPARE in a function");
    shared(pool, "do $$ begin execute 'declare c cursor with hold for select 1'; end $$");
    is_str(shared(pool, "select count(*) from pg_cursors where name = 'c'"), "1",
           "not found: a cursor WITH HOLD opened in a function");
    shared(pool, "do $$ begin perform nextval('numbers'); end $$");
    is_str(shared(pool, "do $$ begin perform currval('numbers'); end $$"), "",
           "not found: currval() in a function");
    is_int(pid(pool), old_pid, "all of it on one connection, which stays");
    shared(pool, "notify gossip");
    ok(eventually(pid(pool) != old_pid),
       "B7: until it hears something on its channel: then it is found, and closed");
}

static void unseen_role(void)
{
    pqpool *pool = open_pool("user=plain pool_shared_max=1", NULL);
    int old_pid = pid(pool);
    shared(pool, "select become('plainer')");
    is_str(shared(pool, "select current_user"), "plainer",
           "not found: SET ROLE from one plain role to another");
    is_int(pid(pool), old_pid, "the connection stays");
    close_pool(pool);
}

int main(void)
{
    tap_begin(120);
    ctl = control_alone();
    one(ctl, "create role plain login; create role plainer; grant plainer to plain;"
             "create sequence numbers;"
             "create function set_zone(z text) returns text language plpgsql as"
             "  'begin perform set_config(''TimeZone'', z, false); return z; end';"
             "create function in_tokyo() returns text language sql set timezone = 'Asia/Tokyo' as"
             "  'select current_setting(''TimeZone'')';"
             "create function become(r text) returns text language plpgsql as"
             "  'begin execute format(''set role %%I'', r); return r; end';"
             "create procedure set_zone_and_commit(z text) language plpgsql as"
             "  'begin perform set_config(''TimeZone'', z, false); commit; end';"
             "create view sets_zone as select set_zone('Asia/Tokyo');"
             "create table triggers (z text);"
             "create function sets_zone() returns trigger language plpgsql as"
             "  'begin perform set_zone(new.z); return new; end';"
             "create trigger sets_zone before insert on triggers for each row execute function sets_zone();");
    pqpool *pool = open_pool("application_name=state-test pool_shared_max=1",
                             &(pqpool_hooks){PQPOOL_HOOKS, .on_event = on_event, .on_log = on_log});
    each_setting(pool);
    undone(pool);
    in_a_group(pool);
    in_a_crowd(pool);
    random_texts(pool);
    reload(pool);
    unseen(pool);
    close_pool(pool);
    with_hook();
    unseen_role();
    PQfinish(ctl);
    return done_testing();
}
