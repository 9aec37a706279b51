#include "session.h"

#include <ctype.h>
#include <poll.h>
#include <stdio.h>

#include "refusal.h"
#include "transport.h"

/* How soon a wait ends that is not wanted any more. */
#define STOP_LOOK (50 * PQP_MS)

static PQP_THREAD_LOCAL _Atomic int *stop;

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

static void quiet_notice(void *arg, const PGresult *result)
{
    (void)arg, (void)result; /* libpq would write it to stderr, which is the service's */
}

void pqp_session_quiet(PGconn *conn)
{
    PQsetNoticeReceiver(conn, quiet_notice, NULL);
}

bool pqp_session_await(PGconn *conn, short events, pqp_time deadline)
{
    return poll_fd(PQsocket(conn), events, deadline);
}

/* "... FATAL:  28P01: text" of a verbose message: takes the codes out, and keeps the first. Every code has a digit, no
 * severity has. */
static void take_sqlstate(char *text, char *sqlstate)
{
    for (char *p = text; (p = strstr(p, ": ")); p++) {
        char *at = p + 1 + strspn(p + 1, " ");
        size_t n = 0, digits = 0;
        for (; n < 5 && (isupper((unsigned char)at[n]) || isdigit((unsigned char)at[n])); n++)
            digits += isdigit((unsigned char)at[n]) != 0;
        if (n < 5 || digits == 0 || at[5] != ':')
            continue;
        if (!*sqlstate)
            memcpy(sqlstate, at, 5);
        memmove(p + 2, at + 5 + strspn(at + 5, ": "), strlen(at + 5 + strspn(at + 5, ": ")) + 1);
    }
}

/* libpq may try twice, with encryption and without, and then says everything twice. */
static void drop_repeated_lines(char *text)
{
    for (char *line = strchr(text, '\n'); line && line[1];) {
        char *next = strchr(line + 1, '\n');
        size_t size = next ? (size_t)(next - line) : strlen(line);
        bool again = strncmp(text, line + 1, size - 1) == 0 && text[size - 1] == '\n';
        for (char *p = strchr(text, '\n'); p && p < line && !again; p = strchr(p + 1, '\n'))
            again = strncmp(p, line, size) == 0 && p[size] == '\n';
        if (again)
            memmove(line, line + size, strlen(line + size) + 1);
        line = again ? (*line ? line : NULL) : next;
    }
}

void pqp_session_words(PGconn *conn, char *text, size_t size, char sqlstate[6])
{
    snprintf(text, size, "%s", PQerrorMessage(conn));
    take_sqlstate(text, sqlstate);
    for (char *p; (p = strstr(text, "\nLOCATION:"));) {
        char *end = strchr(p + 1, '\n');
        memmove(p, end ? end : "", end ? strlen(end) + 1 : 1);
    }
    drop_repeated_lines(text);
}

/* on_connect has refused: its connection's last error is the reason. */
static pqpool_code explain_refusal(PGconn *conn, bool for_good, pqpool_error *err)
{
    char text[sizeof err->message], sqlstate[6] = "";
    pqp_session_words(conn, text, sizeof text, sqlstate);
    pqp_refuse(err, PQPOOL_ECONNECT, "the on_connect hook failed%s%s%s", for_good ? " for good" : "",
               *text ? ": " : "", text);
    pqp_error_sqlstate(err, sqlstate);
    pqp_refusal_mark(err, for_good);
    return PQPOOL_ECONNECT;
}

pqpool_code pqp_session_set_up(PGconn *conn, pqp_events *ev, pqpool_error *err)
{
    if (!ev->hooks.on_connect)
        return PQPOOL_OK;
    PQsetErrorVerbosity(conn, PQERRORS_VERBOSE); /* or an error's SQLSTATE could not be told */
    int rc = ev->hooks.on_connect(conn, ev->hooks.arg);
    PGVerbosity after = PQsetErrorVerbosity(conn, PQERRORS_DEFAULT);
    if (after != PQERRORS_VERBOSE) /* its own choice */
        PQsetErrorVerbosity(conn, after);
    if (rc != 0)
        return explain_refusal(conn, rc < 0, err);
    /* Left open, it would take in whatever runs next, and roll it back. */
    if (PQtransactionStatus(conn) == PQTRANS_IDLE)
        return PQPOOL_OK;
    return pqp_refuse(err, PQPOOL_ECONNECT, "the on_connect hook left a transaction or a statement open");
}

/* What an error says that came while nothing was asked: libpq takes it for a notice. */
typedef struct words {
    char *text;
    size_t size;
} words;

static void keep_words(void *arg, const PGresult *result)
{
    const words *w = arg;
    const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
    if (!severity || (strcmp(severity, "FATAL") != 0 && strcmp(severity, "PANIC") != 0))
        return;
    snprintf(w->text, w->size, "%s", PQresultErrorMessage(result));
    w->text[strcspn(w->text, "\n")] = '\0';
}

void pqp_session_last_words(PGconn *conn, char *text, size_t size)
{
    words w = {text, size};
    *text = '\0';
    PQsetNoticeReceiver(conn, keep_words, &w);
    for (int reads = 0; reads < 3; reads++) {
        int more = PQconsumeInput(conn);
        PGnotify *n = PQnotifies(conn); /* reads what has come */
        PQfreemem(n);
        if (!more)
            break;
    }
    pqp_session_quiet(conn);
}

void pqp_session_close(PGconn *conn, pqp_events *ev)
{
    if (conn && ev && ev->hooks.on_disconnect)
        ev->hooks.on_disconnect(conn, ev->hooks.arg);
    if (conn) /* with what it has yet to send it would wait for a server that does not read */
        (void)!PQsetnonblocking(conn, 1);
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

bool pqp_session_name(PGconn *conn, pqp_time deadline)
{
    const char *name = PQparameterStatus(conn, "application_name");
    return !name || *name || pqp_session_run(conn, "SET application_name = '" PQP_SESSION_NAME "'", deadline);
}

bool pqp_session_ping(PGconn *conn, pqp_time deadline)
{
    return pqp_session_run(conn, "", deadline);
}

bool pqp_session_drain(PGconn *conn, pqp_time deadline)
{
    if (PQsetnonblocking(conn, 1) != 0)
        return false;
    while (PQtransactionStatus(conn) == PQTRANS_ACTIVE) {
        while (!PQisBusy(conn) && PQtransactionStatus(conn) == PQTRANS_ACTIVE) {
            PGresult *result = PQgetResult(conn);
            ExecStatusType status = PQresultStatus(result);
            PQclear(result);
            if (status == PGRES_COPY_IN || status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH)
                return false; /* closing ends it */
        }
        if (PQtransactionStatus(conn) == PQTRANS_ACTIVE &&
            (!poll_fd(PQsocket(conn), POLLIN, deadline) || !PQconsumeInput(conn)))
            return false;
    }
    return PQstatus(conn) == CONNECTION_OK;
}

bool pqp_session_notified(PGconn *conn)
{
    bool any = false;
    for (PGnotify *n; (n = PQnotifies(conn)); any = true)
        PQfreemem(n);
    return any;
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

typedef struct heard {
    words last;
    bool unasked;
} heard;

static void hear(void *arg, const PGresult *result)
{
    heard *h = arg;
    keep_words(&h->last, result);
    h->unasked |= pqp_wire_unasked(result);
}

pqpool_close_reason pqp_session_hear(PGconn *conn, char *text, size_t size)
{
    heard h = {.last = {text, size}};
    *text = '\0';
    if (!pqp_session_lives(conn)) /* its last words are left where they are */
        return PQPOOL_CLOSE_LOST_IDLE;
    PQsetNoticeReceiver(conn, hear, &h);
    (void)PQisBusy(conn); /* takes in what has come */
    pqp_session_quiet(conn);
    if (*text)
        return PQPOOL_CLOSE_LOST_IDLE;
    return h.unasked ? PQPOOL_CLOSE_LEFT_RUNNING : PQPOOL_CLOSE_NONE;
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

/* Runs one statement of a reset; where it fails, why says which, and what the server said. */
static bool reset_by(PGconn *conn, const char *sql, pqp_time deadline, pqpool_error *why)
{
    if (pqp_session_run(conn, sql, deadline))
        return true;
    char text[sizeof why->message], sqlstate[6] = "";
    pqp_session_words(conn, text, sizeof text, sqlstate);
    pqp_refuse(why, PQPOOL_ECONNECT, "%s failed: %s", sql,
               *text ? text : "the server did not answer in time");
    return false;
}

bool pqp_session_reset(PGconn *conn, pqp_events *ev, pqp_reset_level level, unsigned undo, pqp_time deadline,
                       pqpool_error *why)
{
    /* One at a time: DISCARD refuses a transaction block, and an implicit one spans a string of several. */
    static const char *const clean[] = {
        "CLOSE ALL",    "DEALLOCATE ALL",    "SET SESSION AUTHORIZATION DEFAULT",
        "RESET ALL",    "UNLISTEN *",        "SELECT pg_catalog.pg_advisory_unlock_all()",
        "DISCARD TEMP", "DISCARD SEQUENCES", NULL};
    static const char *const discard[] = {"DISCARD ALL", NULL};
    static const char *const nothing[] = {NULL};

    if ((undo & PQP_UNDO_TRANSACTION) && !reset_by(conn, "ROLLBACK", deadline, why))
        return false;
    if ((undo & PQP_UNDO_LISTEN) && level < PQP_RESET_CLEAN && !reset_by(conn, "UNLISTEN *", deadline, why))
        return false;
    (void)pqp_session_notified(conn); /* what it had heard is not for the next */
    bool undone = level == PQP_RESET_CLEAN || level == PQP_RESET_DISCARD;
    for (const char *const *sql = level == PQP_RESET_CLEAN ? clean : undone ? discard : nothing; *sql; sql++)
        if (!reset_by(conn, *sql, deadline, why))
            return false;
    if (!undone)
        return true;
    if (pqp_session_name(conn, deadline))
        return pqp_session_set_up(conn, ev, why) == PQPOOL_OK;
    pqp_refuse(why, PQPOOL_ECONNECT, "the server did not answer in time");
    return false;
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
    static const char question[] =
        "select pg_catalog.pg_backend_pid() || ' ' || pg_catalog.current_setting('statement_timeout')";
    char value[64], *time;
    pqp_time began = pqp_now();
    if (!pqp_session_ask(conn, question, value, sizeof value, deadline))
        return false;
    terms->round_trip = pqp_now() - began;
    terms->pooled = strtol(value, &time, 10) != PQbackendPID(conn);
    terms->statement_timeout_ms = terms->pooled ? 0 : (int)ms_of(time + strspn(time, " "));
    if (terms->pooled)
        return true;
    int64_t margin = PQP_MAX(5, 2 * terms->round_trip / PQP_MS), ours = PQP_MAX(1, timeout_ms - margin);
    if (timeout_ms <= 0 || (terms->statement_timeout_ms > 0 && terms->statement_timeout_ms <= ours))
        return true;
    char sql[64];
    snprintf(sql, sizeof sql, "set statement_timeout = %lld", (long long)ours);
    terms->statement_timeout_ms = (int)ours;
    return pqp_session_run(conn, sql, deadline);
}

/* In these a byte within a character may look like a quote, a backslash or a bracket; the guard would misread the text. */
static const char *misleading_encoding(const char *name)
{
#define MISLEADING(name)                                                                                     \
    {                                                                                                        \
        name, "client_encoding is " name ", in which the pool can't tell statements apart safely: put "      \
              "client_encoding=UTF8 into the connection string, or take a lease (pqpool_acquire)"            \
    }
    static const char *const encodings[][2] = {
        MISLEADING("SJIS"), MISLEADING("SHIFT_JIS_2004"), MISLEADING("BIG5"),   MISLEADING("GBK"),
        MISLEADING("UHC"),  MISLEADING("JOHAB"),          MISLEADING("GB18030")};
    for (size_t i = 0; name && i < PQP_COUNT_OF(encodings); i++)
        if (strcmp(name, encodings[i][0]) == 0)
            return encodings[i][1];
    return NULL;
}

const char *pqp_session_unshareable(PGconn *conn)
{
    const char *misleading = misleading_encoding(PQparameterStatus(conn, "client_encoding"));
    if (misleading)
        return misleading;
    const char *strings = PQparameterStatus(conn, "standard_conforming_strings");
    if (strings && strcmp(strings, "on") != 0)
        return "standard_conforming_strings is off, by which the pool can't tell statements apart safely: "
               "put "
               "options='-c standard_conforming_strings=on' into the connection string, or take a lease "
               "(pqpool_acquire)";
    return NULL;
}

const char *pqp_session_share(PGconn *conn)
{
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
