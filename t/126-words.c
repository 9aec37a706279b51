/* What callers are told of statements and connection strings that can't be right, and what they are not told. */
#include "support/pg.h"

static PGconn *ctl;

/* ---- statements ---- */

static void check_params(void)
{
    static const char *const x[] = {"x"};
    pqpool *pool = open_pool("", NULL);
    pqpool_error err;
    PQclear(pqpool_exec_params(pool, "select $1::text, $2::text", 1, NULL, x, NULL, NULL, 0, &err));
    is_int(err.code, PQPOOL_EINVAL, "a parameter that is not given is a wrong call");
    is_int(err.outcome, PQPOOL_NOT_SENT, "  found before anything is sent");
    is_str(err.message, "$2 is used but n_params is 1", "  and told");
    PGresult *res =
        pqpool_exec_params(pool, "select $1::text, '$2', $a$ $3 $a$", 1, NULL, x, NULL, NULL, 0, &err);
    ok(PQresultStatus(res) == PGRES_TUPLES_OK && strcmp(PQgetvalue(res, 0, 0), "x") == 0,
       "parameters in strings are none");
    PQclear(res);
    for (int i = 0; i < 2; i++) {
        PQclear(pqpool_exec(pool, "select $1::text", &err));
        is_str(err.message, "$1 is used but n_params is 0",
               "a text known with its parameter is told without it");
        PQclear(pqpool_exec_params(pool, "select $1::text", 1, NULL, x, NULL, NULL, 0, &err));
        is_int(err.code, PQPOOL_OK, "  and runs with it");
    }
    PQclear(pqpool_exec(pool, "create function pg_catalog_f(int) returns int return $1 + 1", &err));
    is_int(err.code, PQPOOL_OK, "the $1 of a function's body is the function's: %s", err.message);
    PQclear(pqpool_exec(pool, "drop function pg_catalog_f", &err));
    pqpool_stmt group[] = {{PQPOOL_STMT, .sql = "select 1"}, {PQPOOL_STMT, .sql = "select $1::int"}};
    PGresult *results[2];
    pqpool_error errors[2];
    for (int mode = PQPOOL_EACH; mode <= PQPOOL_ATOMIC; mode++) {
        is_int(pqpool_exec_all(pool, group, 2, (pqpool_group_mode)mode, results, errors), PQPOOL_EINVAL,
               "a group with such a member is not sent");
        is_str(errors[1].message, "$1 is used but n_params is 0", "  and the member is told why");
        PQclear(results[0]);
        PQclear(results[1]);
    }
    close_pool(pool);
}

static void check_misspelt(void)
{
    pqpool *pool = open_pool("", NULL);
    pqpool_error err;
    PQclear(pqpool_exec(pool, "selec 1", &err));
    is_int(err.code, PQPOOL_EREFUSED, "a misspelt statement is refused");
    has(err.message, "(SELEC)", "  its first word is told");
    has(err.message, "did you mean SELECT?", "  and the one that it is like");
    has(err.message, "if it is not misspelt, take a lease", "  and the way out, should it be right");
    PQclear(pqpool_exec(pool, "frobnicate 1", &err));
    ok(!strstr(err.message, "did you mean"), "a word like none is not explained: %s", err.message);
    PQclear(pqpool_exec(pool, "commit prepared 'x'", &err));
    has(err.message, "COMMIT PREPARED may not run", "COMMIT PREPARED is told by its name");
    ok(!strstr(err.message, "run the transaction"), "  and not taken for the end of a transaction");
    PQclear(pqpool_exec(pool, "select set_config('a.b', 'c', false)", &err));
    ok(!strstr(err.message, "did you mean"), "a word that is known is not doubted: %s", err.message);
    PQclear(pqpool_exec(pool, "checkpoint", &err));
    is_int(err.code, PQPOOL_OK, "CHECKPOINT runs: %s", err.message);
    close_pool(pool);
}

/* ---- client encodings ---- */

static void check_encodings(void)
{
    static const char *const misleading[] = {"SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "GB18030",
                                             "UHC",  "JOHAB"};
    static const char *const plain[] = {"UTF8", "LATIN1", "EUC_JP", "SQL_ASCII", "WIN1252"};
    for (size_t i = 0; i < sizeof misleading / sizeof *misleading; i++) {
        char conninfo[100];
        pqpool_error err;
        snprintf(conninfo, sizeof conninfo, "client_encoding=%s", misleading[i]);
        pqpool *pool = open_pool(conninfo, NULL);
        PQclear(pqpool_exec(pool, "select 1", &err));
        is_int(err.code, PQPOOL_ECONNECT, "nothing is shared under %s", misleading[i]);
        is_int(err.outcome, PQPOOL_NOT_SENT, "  the statement was not sent");
        has(err.message, misleading[i], "  the encoding is named");
        has(err.message, "client_encoding=UTF8", "  and one way out");
        has(err.message, "pqpool_acquire", "  and the other");
        pqpool_ticket *ticket = submit_sql(pool, "select 1");
        PQclear(pqpool_wait(ticket, -1, &err));
        has(err.message, misleading[i], "  a ticket is told the same");
        pqpool_lease lease = take(pool);
        is_str(one(lease.conn, "show client_encoding"), misleading[i], "  a lease works with it");
        pqpool_release(&lease);
        close_pool(pool);
    }
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        char conninfo[100];
        pqpool_error err;
        snprintf(conninfo, sizeof conninfo, "client_encoding=%s", plain[i]);
        pqpool *pool = open_pool(conninfo, NULL);
        PQclear(pqpool_exec(pool, "select 1", &err));
        is_int(err.code, PQPOOL_OK, "%s is shared: %s", plain[i], err.message);
        close_pool(pool);
    }
}

static int set_encoding(PGconn *conn, void *arg)
{
    return PQsetClientEncoding(conn, arg);
}

static void check_encoding_of_hook(void)
{
    char encoding[] = "SJIS";
    pqpool_hooks hooks = {PQPOOL_HOOKS, .arg = encoding, .on_connect = set_encoding, .on_log = test_log};
    pqpool_error err;
    pqpool *pool = open_pool("", &hooks);
    PQclear(pqpool_exec(pool, "select 1", &err));
    has(err.message, "client_encoding is SJIS", "nothing is shared under what on_connect sets");
    close_pool(pool);
    pool = open_pool("", NULL);
    PQclear(
        pqpool_exec(pool, "do $$ begin perform set_config('client_encoding', 'BIG5', false); end $$", &err));
    PGresult *res = pqpool_exec(pool, "show client_encoding", &err);
    is_str(value(res), "UTF8", "a connection whose encoding a function changed is not shared any longer");
    PQclear(res);
    close_pool(pool);
}

/* ---- connection strings ---- */

static _Atomic int leaks;

static void look(const char *text)
{
    if (text && strstr(text, "S3cr")) {
        leaks++;
        diag("shown: %s", text);
    }
}

static void look_at_event(const pqpool_event *event, void *arg)
{
    (void)arg;
    look(event->text);
}

static void look_at_line(int level, const char *line, void *arg)
{
    (void)level, (void)arg;
    look(line);
}

static int bad_conninfo(char *buf, size_t size, void *arg)
{
    snprintf(buf, size, "%s", (const char *)arg);
    return 0;
}

/* Neither opening, nor running, nor a line or an event shows a part of the password. */
static void shows_nothing(const char *conninfo, const pqpool_hooks *more)
{
    pqpool_hooks hooks = more ? *more : (pqpool_hooks){PQPOOL_HOOKS};
    pqpool_error err;
    hooks.on_event = look_at_event;
    hooks.on_log = look_at_line;
    leaks = 0;
    pqpool *pool = pqpool_open(conninfo, &hooks, &err);
    look(err.message);
    if (pool) {
        look(pqpool_name(pool));
        PQclear(pqpool_exec(pool, "select 1", &err));
        look(err.message);
        close_pool(pool);
    }
    is_int(leaks, 0, "nothing of the password is shown: %s", conninfo);
}

static void check_secrets(void)
{
#define SOON "pool_log_level=debug&pool_acquire_timeout=200ms"
#define LOUD "pool_log_level=debug pool_acquire_timeout=200ms "
    static const char *const texts[] = {LOUD "user=none_such password=S3cret",
                                        LOUD "password=my S3cret",
                                        LOUD "password=my S3cret=x",
                                        LOUD "password='my S3cret",
                                        LOUD "pasword=S3cret",
                                        LOUD "pool_password=S3cret",
                                        LOUD "host=u:S3cret@localhost",
                                        LOUD "port=S3cret",
                                        LOUD "dbname=postgres://u:S3cret@h/d",
                                        LOUD "dbname='host=x password=S3cret'",
                                        "postgres://u:S3cr%zzet@localhost/d",
                                        "postgres://u:p@S3cret@localhost/d",
                                        "postgres://u:12/S3cret@localhost/d",
                                        "postgres://u:p@12/S3cret@localhost/d",
                                        "postgres://u:S3cr/et@localhost/d",
                                        "postgres://u:S3cr?et@/none_such?" SOON,
                                        "postgres://u:12/a?S3cr=et@localhost/d",
                                        "postgres://u:12?S3cr=et@/none_such?" SOON,
                                        "postgres://u:a#S3cr@[::1/d",
                                        "postgres://u:a:S3cr@/none_such?pool_max_size=2&" SOON,
                                        "postgres://localhost/d?password=S3cr%",
                                        "postgres://localhost/d?password=a=S3cr",
                                        "postgres://localhost/d?pasword=S3cr"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        shows_nothing(texts[i], NULL);
    char no_end[] = "host=x password='S3cret", blank[] = "password=my S3cret", keyword[] = "S3cret=x";
    char *said[] = {no_end, blank, keyword};
    for (size_t i = 0; i < 3; i++) {
        pqpool_hooks hooks = {PQPOOL_HOOKS, .arg = said[i], .on_conninfo = bad_conninfo};
        shows_nothing(LOUD, &hooks);
    }
    const char *const keywords[] = {"host", "pasword", NULL}, *const values[] = {"/tmp", "S3cret", NULL};
    pqpool_error err;
    ok(!pqpool_open_params(keywords, values, 0, NULL, &err) && !strstr(err.message, "S3cr"),
       "nor by arrays of keywords and values: %s", err.message);
    static const char *const fine[] = {"host=@abstract",
                                       "host=/tmp/a@b,localhost port=1,",
                                       "port='1, 2' host=a,b",
                                       "postgres://u:p%40q@h/d",
                                       "postgres://localhost:5432/d?user=a@b",
                                       "postgres://h/d?password=a@b",
                                       "postgres://u:a?b@h/d",
                                       "postgres://u@h1:1,h2:2/d",
                                       "dbname=shop"};
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        pqpool *pool = pqpool_open(fine[i], NULL, &err);
        ok(pool, "a right one opens: %s: %s", fine[i], err.message);
        pqpool_free(pool);
    }
}

static void check_hints(void)
{
    static const char *const want[][2] = {{"max_size=5", "did you mean pool_max_size?"},
                                          {"connectionLimit=5", "did you mean pool_connectionLimit?"},
                                          {"pool_min_size=3", "did you mean pool_min_idle?"},
                                          {"pool_size=3", "did you mean pool_max_size?"},
                                          {"hostt=x", "did you mean host?"},
                                          {"search_path=x", "options='-c search_path=...'"},
                                          {"pool_password=x", "stands without pool_"},
                                          {"postgres://h/d?max_size=3", "did you mean pool_max_size?"},
                                          {"pool_max_size=5 pool_maxTotal=6", "two names of one option"}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        pqpool_error err;
        ok(!pqpool_open(want[i][0], NULL, &err), "is refused: %s", want[i][0]);
        is_int(err.code, PQPOOL_EINVAL, "  as a wrong call");
        has(err.message, want[i][1], "  with a hint");
    }
}

static void check_names(void)
{
    char path[] = "/tmp/pqpool-service-XXXXXX";
    int fd = mkstemp(path);
    static const char file[] = "[shop]\nhost=h.example\nport=7\ndbname=d\n";
    if (fd < 0 || write(fd, file, sizeof file - 1) != (ssize_t)sizeof file - 1)
        bail("no file for services");
    close(fd);
    setenv("PGSERVICEFILE", path, 1);
    char *host = getenv("PGHOST") ? strdup(getenv("PGHOST")) : NULL;
    unsetenv("PGHOST");
    static const char *const want[][2] = {{"hostaddr=127.0.0.1 port=5 dbname=d", "127.0.0.1:5/d"},
                                          {"host=h hostaddr=127.0.0.1 port=5 dbname=d", "h:5/d"},
                                          {"service=shop", "h.example:7/d"},
                                          {"service=shop dbname=e", "h.example:7/e"},
                                          {"service=shop pool_name=mine", "mine"}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        pqpool *pool = open_pool(want[i][0], NULL);
        is_str(pqpool_name(pool), want[i][1], "the name of a pool opened with %s", want[i][0]);
        close_pool(pool);
    }
    unsetenv("PGSERVICEFILE");
    unlink(path);
    if (host)
        setenv("PGHOST", host, 1);
    free(host);
}

static char warned[2000];

static void keep_line(int level, const char *line, void *arg)
{
    (void)arg;
    if (level == PQPOOL_LOG_WARN)
        snprintf(warned, sizeof warned, "%s", line);
}

static void check_bare_times(void)
{
    pqpool_hooks hooks = {PQPOOL_HOOKS, .on_log = keep_line};
    close_pool(open_pool("pool_connect_timeout=5", &hooks));
    is_str(warned,
           "option connect_timeout is 5ms: a number without a unit is in milliseconds; write "
           "pool_connect_timeout=5ms if "
           "that is meant, or give seconds as pool_connect_timeout=5s",
           "a short time without a unit is told when the pool is opened");
    *warned = '\0';
    close_pool(
        open_pool("pool_connect_timeout=5s pool_max_lifetime=1800000 pool_stall_threshold=50", &hooks));
    is_str(warned, "", "times that are no riddle are not");
}

static void check_conninfo_put(void)
{
    char text[200] = "";
    pqpool_error err;
    pqpool_conninfo_put(text, sizeof text, "dbname", one(ctl, "select current_database()"));
    size_t length = pqpool_conninfo_put(text, sizeof text, "application_name", "it's \\ host=nowhere port=1");
    is_int((long long)length, (long long)strlen(text), "the length of the whole text is told");
    pqpool *pool = open_pool(text, NULL);
    PGresult *res = pqpool_exec(pool, "show application_name", &err);
    is_str(value(res), "it's \\ host=nowhere port=1",
           "a value with quotes and keywords in it stays one value");
    PQclear(res);
    close_pool(pool);
}

/* ---- messages ---- */

static void check_messages(void)
{
    pqpool *pool = open_pool("", NULL);
    pqpool_error err;
    PQclear(pqpool_exec(pool, "do $$ begin raise exception '%', repeat('\u00e9', 600); end $$", &err));
    unsigned char last = (unsigned char)err.message[strlen(err.message) - 1];
    is_int(last, 0xA9, "a message too long is cut between two characters");
    PQclear(pqpool_exec(pool, "do $$ begin raise exception E'a\\nb\\tc'; end $$", &err));
    ok(strstr(err.message, "a b c") && !strpbrk(err.message, "\n\t"), "a message is one line: %s",
       err.message);
    close_pool(pool);
}

int main(void)
{
    tap_begin(60);
    ctl = control();
    check_params();
    check_misspelt();
    check_encodings();
    check_encoding_of_hook();
    check_secrets();
    check_hints();
    check_bare_times();
    check_names();
    check_conninfo_put();
    check_messages();
    PQfinish(ctl);
    return done_testing();
}
