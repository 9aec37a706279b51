#include "session.h"

#include <ctype.h>
#include <poll.h>
#include <stdio.h>

/* ---- target ---- */

void pqp_target_fini(pqp_target *t)
{
    for (int i = 0; t->keywords && t->keywords[i]; i++) {
        free(t->keywords[i]);
        free(t->values[i]);
    }
    free(t->keywords);
    free(t->values);
    t->keywords = t->values = NULL;
}

/* Has libpq say now what it would say at each connect. */
static pqpool_code check_target(const pqp_target *t, pqpool_error *err)
{
    PQconninfoOption *known = PQconndefaults();
    if (!known)
        return pqp_no_memory(err);
    pqpool_code code = PQPOOL_OK;
    for (int i = 0; t->keywords[i] && code == PQPOOL_OK; i++) {
        const PQconninfoOption *o = known;
        while (o->keyword && strcmp(o->keyword, t->keywords[i]) != 0)
            o++;
        if (!o->keyword)
            code = pqp_refuse(
                err, PQPOOL_EINVAL,
                "unknown connection option %s=%s: not one of libpq's, and the pool's begin with pool_",
                t->keywords[i], t->values[i]);
    }
    PQconninfoFree(known);
    return code;
}

static pqpool_code check_conninfo(const char *text, pqpool_error *err)
{
    char *why = NULL;
    PQconninfoOption *parsed = PQconninfoParse(text, &why);
    if (parsed) {
        PQconninfoFree(parsed);
        return PQPOOL_OK;
    }
    if (!why)
        return pqp_no_memory(err);
    why[strcspn(why, "\n")] = '\0';
    pqp_refuse(err, PQPOOL_EINVAL, "the connection string is not valid: %s", why);
    PQfreemem(why);
    return PQPOOL_EINVAL;
}

pqpool_code pqp_target_init(pqp_target *t, const char *const *keywords, const char *const *values,
                            int expand_dbname, pqpool_error *err)
{
    size_t n = 0, to = 0;
    while (keywords[n])
        n++;
    t->expand_dbname = expand_dbname;
    t->keywords = calloc(n + 1, sizeof *t->keywords);
    t->values = calloc(n + 1, sizeof *t->values);
    if (!t->keywords || !t->values)
        goto no_memory;
    for (size_t i = 0; i < n; i++) {
        if (strncmp(keywords[i], "pool_", 5) == 0 || !values[i])
            continue;
        t->keywords[to] = strdup(keywords[i]);
        t->values[to] = strdup(values[i]);
        if (!t->keywords[to] || !t->values[to]) {
            free(t->values[to]);
            free(t->keywords[to]);
            t->keywords[to] = NULL;
            goto no_memory;
        }
        to++;
    }
    pqpool_code code = check_target(t, err);
    for (size_t i = 0; i < to && code == PQPOOL_OK; i++)
        if (expand_dbname && strcmp(t->keywords[i], "dbname") == 0 && pqp_options_is_conninfo(t->values[i]))
            code = check_conninfo(t->values[i], err);
    if (code != PQPOOL_OK)
        pqp_target_fini(t);
    return code;
no_memory:
    pqp_target_fini(t);
    return pqp_no_memory(err);
}

/* Replaces *value by what the options say of the keyword, if anything. False: no memory. */
static bool value_in(const PQconninfoOption *options, const char *keyword, char **value)
{
    if (!options)
        return false;
    for (; options->keyword; options++) {
        if (strcmp(options->keyword, keyword) != 0 || !options->val || !*options->val)
            continue;
        free(*value);
        *value = strdup(options->val);
        return *value != NULL;
    }
    return true;
}

bool pqp_target_value(const pqp_target *t, const char *keyword, char **value)
{
    bool fine = true;
    *value = NULL;
    for (int i = 0; fine && t->keywords[i]; i++) {
        bool expand = t->expand_dbname && strcmp(t->keywords[i], "dbname") == 0;
        if (expand && pqp_options_is_conninfo(t->values[i])) {
            PQconninfoOption *parsed = PQconninfoParse(t->values[i], NULL);
            fine = value_in(parsed, keyword, value);
            PQconninfoFree(parsed);
        } else if (strcmp(t->keywords[i], keyword) == 0) {
            free(*value);
            *value = strdup(t->values[i]);
            fine = *value != NULL;
        }
    }
    if (fine && !*value) {
        PQconninfoOption *defaults = PQconndefaults();
        fine = value_in(defaults, keyword, value);
        PQconninfoFree(defaults);
    }
    return fine;
}

bool pqp_target_name(const pqp_target *t, char *buf, size_t size)
{
    char *host = NULL, *port = NULL, *dbname = NULL, *user = NULL;
    bool fine = pqp_target_value(t, "host", &host) && pqp_target_value(t, "port", &port) &&
                pqp_target_value(t, "dbname", &dbname) && (dbname || pqp_target_value(t, "user", &user));
    if (fine)
        snprintf(buf, size, "%s:%s/%s", host ? host : "local", port ? port : "5432",
                 dbname ? dbname
                 : user ? user
                        : "");
    free(host);
    free(port);
    free(dbname);
    free(user);
    return fine;
}

/* ---- connecting ---- */

enum { HOOK_BUFFER = 16 * 1024, PAIRS_MAX = 128 };

/* The arguments of one attempt: our defaults, the target, then what the hooks say; later ones win. */
typedef struct attempt {
    const char *keywords[PAIRS_MAX + 1], *values[PAIRS_MAX + 1];
    int n;
    PQconninfoOption *fresh; /* from on_conninfo */
    char *secret;            /* from on_password */
} attempt;

static void add_pair(attempt *a, const char *keyword, const char *value)
{
    if (a->n == PAIRS_MAX)
        return;
    a->keywords[a->n] = keyword;
    a->values[a->n++] = value;
}

static void wipe(char *buf, size_t size)
{
    for (volatile char *p = buf; size > 0; size--)
        *p++ = 0;
}

static void attempt_fini(attempt *a)
{
    if (a->secret)
        wipe(a->secret, HOOK_BUFFER);
    free(a->secret);
    if (a->fresh)
        PQconninfoFree(a->fresh);
}

static pqpool_code ask_conninfo(attempt *a, const pqpool_hooks *hooks, pqpool_error *err)
{
    char *buf = calloc(1, HOOK_BUFFER);
    if (!buf)
        return pqp_no_memory(err);
    pqpool_code code = PQPOOL_OK;
    char *why = NULL;
    if (hooks->on_conninfo(buf, HOOK_BUFFER, hooks->arg) != 0)
        code = pqp_refuse(err, PQPOOL_ECONNECT, "the on_conninfo hook failed");
    else if (!(a->fresh = PQconninfoParse(buf, &why)))
        code =
            pqp_refuse(err, PQPOOL_ECONNECT, "the on_conninfo hook's text is not valid: %s", why ? why : "");
    PQfreemem(why);
    wipe(buf, HOOK_BUFFER);
    free(buf);
    for (const PQconninfoOption *o = a->fresh; o && o->keyword; o++)
        if (o->val)
            add_pair(a, o->keyword, o->val);
    return code;
}

static pqpool_code ask_password(attempt *a, const pqpool_hooks *hooks, pqpool_error *err)
{
    a->secret = calloc(1, HOOK_BUFFER);
    if (!a->secret)
        return pqp_no_memory(err);
    if (hooks->on_password(a->secret, HOOK_BUFFER, hooks->arg) != 0)
        return pqp_refuse(err, PQPOOL_ECONNECT, "the on_password hook failed");
    add_pair(a, "password", a->secret);
    return PQPOOL_OK;
}

static pqpool_code attempt_init(attempt *a, const pqp_target *t, const pqpool_hooks *hooks, pqpool_error *err)
{
    /* Both kinds are needed: keepalives notice a cut link while we only listen, the user time-out one that
     * was cut with data under way. libpq's own defaults notice neither for minutes. */
    static const char *const ours[][2] = {{"keepalives_idle", "5"},
                                          {"keepalives_interval", "2"},
                                          {"keepalives_count", "3"},
                                          {"tcp_user_timeout", "10000"},
                                          {"fallback_application_name", "pqpool"}};
    memset(a, 0, sizeof *a);
    for (size_t i = 0; i < PQP_COUNT_OF(ours); i++)
        add_pair(a, ours[i][0], ours[i][1]);
    for (int i = 0; t->keywords[i]; i++)
        add_pair(a, t->keywords[i], t->values[i]);
    pqpool_code code = PQPOOL_OK;
    if (hooks->on_conninfo)
        code = ask_conninfo(a, hooks, err);
    if (code == PQPOOL_OK && hooks->on_password)
        code = ask_password(a, hooks, err);
    return code;
}

/* "... FATAL:  28P01: text" of a verbose message: takes the code out. Every code has a digit, no severity
 * has. */
static void take_sqlstate(char *text, char *sqlstate)
{
    for (char *p = text; (p = strstr(p, ": ")); p++) {
        char *at = p + 1 + strspn(p + 1, " ");
        size_t n = 0, digits = 0;
        for (; n < 5 && (isupper((unsigned char)at[n]) || isdigit((unsigned char)at[n])); n++)
            digits += isdigit((unsigned char)at[n]) != 0;
        if (n == 5 && digits > 0 && at[5] == ':') {
            memcpy(sqlstate, at, 5);
            memmove(p + 2, at + 5 + strspn(at + 5, ": "), strlen(at + 5 + strspn(at + 5, ": ")) + 1);
            return;
        }
    }
}

/* The failed attempt in the server's words, without the verbose extras. */
static pqpool_code describe_failure(PGconn *conn, bool *for_good, pqpool_error *err)
{
    char text[sizeof err->message], sqlstate[6] = "";
    snprintf(text, sizeof text, "%s", PQerrorMessage(conn));
    take_sqlstate(text, sqlstate);
    for (char *p; (p = strstr(text, "\nLOCATION:"));) {
        char *end = strchr(p + 1, '\n');
        memmove(p, end ? end : "", end ? strlen(end) + 1 : 1);
    }
    pqp_refuse(err, PQPOOL_ECONNECT, "%s", text);
    pqp_error_sqlstate(err, sqlstate);
    *for_good = strncmp(sqlstate, "28", 2) == 0 || strcmp(sqlstate, "3D000") == 0 ||
                strcmp(sqlstate, "3F000") == 0 || (!*sqlstate && PQconnectionNeedsPassword(conn));
    return PQPOOL_ECONNECT;
}

/* How soon a wait ends that is not wanted any more. */
#define STOP_LOOK (50 * PQP_MS)

static _Thread_local _Atomic int *stop;

void pqp_session_stop_here(_Atomic int *flag)
{
    stop = flag;
}

/* Waits for the socket; false: not until the deadline, or nothing that this thread does is wanted any more. */
static bool poll_fd(int fd, short events, pqp_time deadline)
{
    struct pollfd p = {.fd = fd, .events = events};
    for (;;) {
        pqp_time now = pqp_now();
        int n = poll(&p, 1, pqp_poll_ms(stop ? PQP_MIN(deadline, now + STOP_LOOK) : deadline, now));
        if (n > 0)
            return true;
        if (n == 0 && (pqp_now() >= deadline || (stop && pqp_load(stop))))
            return false;
        if (n < 0 && errno != EINTR)
            return false;
    }
}

/* Runs the handshake to its end. The socket may be another one after each step. */
static bool shake_hands(PGconn *conn, pqp_time deadline, bool *in_time)
{
    PostgresPollingStatusType want = PGRES_POLLING_WRITING;
    *in_time = true;
    while (want == PGRES_POLLING_READING || want == PGRES_POLLING_WRITING) {
        if (!poll_fd(PQsocket(conn), want == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline)) {
            *in_time = false;
            return false;
        }
        want = PQconnectPoll(conn);
    }
    return want == PGRES_POLLING_OK;
}

static void quiet_notice(void *arg, const PGresult *result)
{
    (void)arg, (void)result; /* libpq would write it to stderr, which is the service's */
}

static pqpool_code open_conn(const attempt *a, int expand_dbname, pqp_time deadline, PGconn **conn,
                             bool *for_good, pqpool_error *err)
{
    bool in_time = true;
    *conn = PQconnectStartParams(a->keywords, a->values, expand_dbname);
    if (!*conn)
        return pqp_no_memory(err);
    PQsetNoticeReceiver(*conn, quiet_notice, NULL);
    PQsetErrorVerbosity(*conn, PQERRORS_VERBOSE); /* the only way to a refused login's SQLSTATE */
    if (PQstatus(*conn) != CONNECTION_BAD && shake_hands(*conn, deadline, &in_time)) {
        PQsetErrorVerbosity(*conn, PQERRORS_DEFAULT);
        return PQPOOL_OK;
    }
    if (in_time)
        return describe_failure(*conn, for_good, err);
    return pqp_refuse(err, PQPOOL_ECONNECT, "no answer from the server within connect_timeout");
}

pqpool_code pqp_session_connect(const pqp_target *t, pqp_events *ev, pqp_time deadline, PGconn **conn,
                                bool *for_good, pqpool_error *err)
{
    attempt *a = malloc(sizeof *a);
    *conn = NULL;
    *for_good = false;
    if (!a)
        return pqp_no_memory(err);
    pqpool_code code = attempt_init(a, t, &ev->hooks, err);
    if (code == PQPOOL_OK)
        code = open_conn(a, t->expand_dbname, deadline, conn, for_good, err);
    attempt_fini(a);
    free(a);
    if (code != PQPOOL_OK) {
        PQfinish(*conn);
        *conn = NULL;
    }
    return code;
}

const char *pqp_session_set_up(PGconn *conn, pqp_events *ev)
{
    if (!ev->hooks.on_connect)
        return NULL;
    if (ev->hooks.on_connect(conn, ev->hooks.arg) != 0)
        return "the on_connect hook failed";
    /* Left open, it would take in whatever runs next, and roll it back. */
    return PQtransactionStatus(conn) == PQTRANS_IDLE
               ? NULL
               : "the on_connect hook left a transaction or a statement open";
}

void pqp_session_close(PGconn *conn)
{
    PQfinish(conn);
}

/* ---- asking ---- */

/* How SQL ended: not at all, with an error of the server's, or well. */
typedef enum { SQL_UNANSWERED, SQL_FAILED, SQL_FINE } sql_end;

/* Runs SQL, one statement or several; the last result that has rows is the caller's to clear. */
static sql_end run_sql(PGconn *conn, const char *sql, PGresult **rows, pqp_time deadline)
{
    *rows = NULL;
    if (PQsetnonblocking(conn, 1) != 0 || !PQsendQuery(conn, sql))
        return SQL_UNANSWERED;
    bool live = true, failed = false;
    for (int unsent = 1; live;) {
        if (unsent)
            live = (unsent = PQflush(conn)) >= 0;
        if (live && PQisBusy(conn)) {
            live = poll_fd(PQsocket(conn), (short)(unsent ? POLLIN | POLLOUT : POLLIN), deadline) &&
                   PQconsumeInput(conn);
            continue;
        }
        PGresult *result = live ? PQgetResult(conn) : NULL;
        if (!result)
            break;
        ExecStatusType status = PQresultStatus(result);
        live = status != PGRES_COPY_IN && status != PGRES_COPY_OUT && status != PGRES_COPY_BOTH;
        failed |= status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK && status != PGRES_EMPTY_QUERY;
        if (PQntuples(result) > 0) {
            PQclear(*rows);
            *rows = result;
        } else {
            PQclear(result);
        }
    }
    if (!live || PQstatus(conn) != CONNECTION_OK || PQsetnonblocking(conn, 0) != 0)
        return SQL_UNANSWERED;
    return failed ? SQL_FAILED : SQL_FINE;
}

bool pqp_session_ask(PGconn *conn, const char *sql, char *value, size_t size, pqp_time deadline)
{
    PGresult *rows;
    bool fine = run_sql(conn, sql, &rows, deadline) == SQL_FINE;
    if (rows && size > 0)
        snprintf(value, size, "%s", PQgetvalue(rows, 0, 0));
    fine &= rows || size == 0;
    PQclear(rows);
    return fine;
}

static pqpool_holder_state state_of(const char *word)
{
    if (strcmp(word, "idle") == 0)
        return PQPOOL_HOLDER_IDLE;
    if (strncmp(word, "idle in transaction", 19) == 0)
        return PQPOOL_HOLDER_IDLE_IN_TRANSACTION;
    return strcmp(word, "active") == 0 ? PQPOOL_HOLDER_RUNNING : PQPOOL_HOLDER_UNKNOWN;
}

bool pqp_session_survey(PGconn *conn, pqp_survey *rows, int n, pqp_time deadline)
{
    static const char question[] =
        "select pid, coalesce(state, ''), left(translate(query, E'\n\t\r', '   '), 230), "
        "coalesce((extract(epoch from clock_timestamp() - state_change) * 1000)::int8, 0), "
        "case wait_event_type when 'Lock' then coalesce((pg_catalog.pg_blocking_pids(pid))[1], 0) else 0 end "
        "from pg_catalog.pg_stat_activity where pid = any ('{";
    size_t size = sizeof question + (size_t)n * 12 + 4, at = sizeof question - 1;
    char *sql = malloc(size);
    if (!sql)
        return true; /* it says nothing */
    memcpy(sql, question, sizeof question);
    for (int i = 0; i < n; i++)
        at += (size_t)snprintf(sql + at, size - at, "%s%d", i ? "," : "", (int)rows[i].backend_pid);
    snprintf(sql + at, size - at, "}')");
    PGresult *result;
    bool answers =
        run_sql(conn, sql, &result, deadline) != SQL_UNANSWERED; /* that it may not ask is an answer */
    free(sql);
    pqp_time now = pqp_now();
    for (int k = 0; result && k < PQntuples(result); k++)
        for (int i = 0; i < n; i++) {
            if (rows[i].backend_pid != atoi(PQgetvalue(result, k, 0)))
                continue;
            rows[i].state = state_of(PQgetvalue(result, k, 1));
            snprintf(rows[i].sql, sizeof rows[i].sql, "%s", PQgetvalue(result, k, 2));
            rows[i].since = now - atoll(PQgetvalue(result, k, 3)) * PQP_MS;
            rows[i].blocked_by = atoi(PQgetvalue(result, k, 4));
            if (rows[i].blocked_by)
                rows[i].state = PQPOOL_HOLDER_LOCKED;
        }
    PQclear(result);
    return answers;
}

bool pqp_session_run(PGconn *conn, const char *sql, pqp_time deadline)
{
    return pqp_session_ask(conn, sql, NULL, 0, deadline);
}

bool pqp_session_ping(PGconn *conn, pqp_time deadline)
{
    return pqp_session_run(conn, "", deadline);
}

bool pqp_session_silent(PGconn *conn)
{
    return !poll_fd(PQsocket(conn), POLLIN, pqp_now());
}

bool pqp_session_lives(PGconn *conn)
{
    /* The first call takes in the server's last words, only the second finds that nothing follows. */
    return PQconsumeInput(conn) && PQconsumeInput(conn) && PQstatus(conn) == CONNECTION_OK;
}

pqpool_close_reason pqp_session_inspect(PGconn *conn, int fd, int backend_pid, bool *open_transaction)
{
    *open_transaction = false;
    /* What its user set on the PGconn, and not in the session, would speak to him, or reach into his
     * memory. */
    PQsetNoticeReceiver(conn, quiet_notice, NULL);
    PQsetErrorVerbosity(conn, PQERRORS_DEFAULT);
    PQsetErrorContextVisibility(conn, PQSHOW_CONTEXT_ERRORS);
    PQuntrace(conn);
    if (PQstatus(conn) != CONNECTION_OK)
        return PQPOOL_CLOSE_LOST;
    if (PQsocket(conn) != fd || PQbackendPID(conn) != backend_pid)
        return PQPOOL_CLOSE_REPLACED;
    /* Where the sending failed while the server's last words were still unread, libpq has an error, but no doubt. */
    if (*PQerrorMessage(conn) && PQpipelineStatus(conn) == PQ_PIPELINE_OFF && !pqp_session_lives(conn))
        return PQPOOL_CLOSE_LOST;
    if (PQpipelineStatus(conn) != PQ_PIPELINE_OFF && !PQexitPipelineMode(conn))
        return PQPOOL_CLOSE_LEFT_PIPELINE;
    if (PQisnonblocking(conn) && PQsetnonblocking(conn, 0) != 0)
        return PQPOOL_CLOSE_LEFT_PIPELINE;
    switch (PQtransactionStatus(conn)) {
    case PQTRANS_IDLE:
        return PQPOOL_CLOSE_NONE;
    case PQTRANS_INTRANS:
    case PQTRANS_INERROR:
        *open_transaction = true;
        return PQPOOL_CLOSE_NONE;
    case PQTRANS_ACTIVE:
        return PQPOOL_CLOSE_LEFT_RUNNING;
    default:
        return PQPOOL_CLOSE_LOST;
    }
}

/* ---- cleaning, sharing ---- */

bool pqp_session_reset(PGconn *conn, pqp_events *ev, pqp_reset_level level, bool open_transaction,
                       pqp_time deadline)
{
    /* One at a time: DISCARD refuses a transaction block, and an implicit one spans a string of several. */
    static const char *const clean[] = {
        "CLOSE ALL",    "DEALLOCATE ALL",    "SET SESSION AUTHORIZATION DEFAULT",
        "RESET ALL",    "UNLISTEN *",        "SELECT pg_catalog.pg_advisory_unlock_all()",
        "DISCARD TEMP", "DISCARD SEQUENCES", NULL};
    static const char *const discard[] = {"DISCARD ALL", NULL};
    static const char *const nothing[] = {NULL};

    if (open_transaction && !pqp_session_run(conn, "ROLLBACK", deadline))
        return false;
    bool undone = level == PQP_RESET_CLEAN || level == PQP_RESET_DISCARD;
    for (const char *const *sql = level == PQP_RESET_CLEAN ? clean : undone ? discard : nothing; *sql; sql++)
        if (!pqp_session_run(conn, *sql, deadline))
            return false;
    return !undone || !pqp_session_set_up(conn, ev);
}

/* A setting's time as SHOW writes it, in ms: "0", "1500ms", "30s", "2min". */
static int64_t ms_of(const char *text)
{
    static const struct {
        const char *unit;
        int64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"min", 60000}, {"h", 3600000}, {"d", 86400000}};
    char *end;
    int64_t n = strtoll(text, &end, 10);
    for (size_t i = 0; i < PQP_COUNT_OF(units); i++)
        if (strcmp(end, units[i].unit) == 0)
            return n * units[i].ms;
    return 0;
}

bool pqp_session_agree(PGconn *conn, int64_t timeout_ms, pqp_session_terms *terms, pqp_time deadline)
{
    char value[32];
    pqp_time began = pqp_now();
    if (!pqp_session_ask(conn, "show statement_timeout", value, sizeof value, deadline))
        return false;
    terms->round_trip = pqp_now() - began;
    terms->statement_timeout_ms = (int)ms_of(value);
    int64_t margin = PQP_MAX(5, 2 * terms->round_trip / PQP_MS), ours = PQP_MAX(1, timeout_ms - margin);
    if (timeout_ms <= 0 || (terms->statement_timeout_ms > 0 && terms->statement_timeout_ms <= ours))
        return true;
    char sql[64];
    snprintf(sql, sizeof sql, "set statement_timeout = %lld", (long long)ours);
    terms->statement_timeout_ms = (int)ours;
    return pqp_session_run(conn, sql, deadline);
}

const char *pqp_session_share(PGconn *conn)
{
    const char *strings = PQparameterStatus(conn, "standard_conforming_strings");
    if (strings && strcmp(strings, "on") != 0)
        return "standard_conforming_strings is off: statements could not be told apart safely";
    if (PQtransactionStatus(conn) != PQTRANS_IDLE)
        return "a transaction is open on it";
    if (PQsetnonblocking(conn, 1) != 0 || !PQenterPipelineMode(conn))
        return "libpq could not enter pipeline mode";
    return NULL;
}

bool pqp_session_unshare(PGconn *conn)
{
    return PQstatus(conn) == CONNECTION_OK && PQexitPipelineMode(conn) && PQsetnonblocking(conn, 0) == 0;
}
