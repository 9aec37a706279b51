/* transport: a lane's connection over libpq's pipeline mode. */
#include "transport.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <linux/tcp.h> /* netinet/tcp.h does not know what the kernel counts */
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "error.h"
#include "guard.h"

/*
 * libpq 17 can queue a Sync without sending at once. Found when the program is loaded, so that one binary
 * serves every libpq from 14 on: a burst of statements then costs one send() instead of one each.
 */
#ifndef LIBPQ_HAS_SEND_PIPELINE_SYNC
extern int PQsendPipelineSync(PGconn *conn);
#endif
#pragma weak PQsendPipelineSync
#ifndef LIBPQ_HAS_CLOSE_PREPARED
extern int PQsendClosePrepared(PGconn *conn, const char *name);
#endif
#pragma weak PQsendClosePrepared

/* A TLS record can be read whole by OpenSSL and only in part by libpq; poll() then shows nothing although
 * input is there, and libpq offers no way to ask. So a TLS wait ends this often to look. */
#define TLS_LOOK (10 * PQP_MS)

int pqp_wire_init(pqp_wire *w)
{
    *w = (pqp_wire){.fd = -1, .loop_fd = -1, .kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    return w->kick_fd < 0 ? errno : 0;
}

void pqp_wire_fini(pqp_wire *w)
{
    if (w->kick_fd >= 0)
        close(w->kick_fd);
    pqp_sockets_drop(w->loop_fd, w->loop);
    w->loop = NULL;
    w->kick_fd = w->loop_fd = -1;
    PQfreeCancel(w->cancel);
    w->cancel = NULL;
}

/*
 * What the server reports of the settings a statement could have changed, as one number. It reports them before
 * each ReadyForQuery, so that it is known by the time the last answer is. Not in the list: what no session can
 * change (server_version), or another one may (in_hot_standby). search_path is reported from 18 on. What a server does not
 * report at first it never does: `absent` collects these, so that libpq's list is not searched for them again. FNV-1a.
 */
static uint64_t settings_of(const PGconn *conn, unsigned *absent)
{
    static const char *const names[] = {"DateStyle",        "TimeZone",
                                        "IntervalStyle",    "standard_conforming_strings",
                                        "application_name", "session_authorization",
                                        "is_superuser",     "default_transaction_read_only",
                                        "search_path"};
    uint64_t hash = 14695981039346656037u ^ (unsigned)PQclientEncoding(conn);
    for (size_t i = 0; i < PQP_COUNT_OF(names); i++) {
        const char *value = *absent & 1u << i ? NULL : PQparameterStatus(conn, names[i]);
        for (const char *p = value ? value : ""; *p; p++)
            hash = (hash ^ (unsigned char)*p) * 1099511628211u;
        hash =
            (hash ^ (value ? 0x100 : 0x101)) * 1099511628211u; /* where one value ends, and the next begins */
        *absent |= value ? 0 : 1u << i;
    }
    return hash;
}

/*
 * Names of prepared statements. Behind a pooler that lends its server connections for a transaction at a time, a
 * statement may reach a session in which another process, or this one before a restart, has prepared its own. A name
 * that two of them could have would run the other's text, and nothing would report it. So a name has a random part for
 * each connection of each process, a part made of text and types (should two processes have the same random numbers, as
 * copies of one virtual machine do), and a number. Then a mix-up can only be 26000 (not there) or 42P05 (there
 * already), which prove that nothing ran.
 */
enum { PREFIX_SIZE = 21 }; /* pqpool_, 13 digits, _ */

static char *put_base32(char *to, uint64_t n, int digits)
{
    for (; digits > 0; digits--, n >>= 5)
        *to++ = "abcdefghijklmnopqrstuvwxyz234567"[n & 31];
    return to;
}

/* Without the system's random numbers: what no other process has had at this instant. */
static uint64_t random_number(const pqp_wire *w)
{
    uint64_t n;
    if (getrandom(&n, sizeof n, GRND_NONBLOCK) == (ssize_t)sizeof n)
        return n;
    return (uint64_t)pqp_now() * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)getpid() << 32 ^ (uintptr_t)w;
}

static void choose_prefix(pqp_wire *w)
{
    char *to = stpcpy(w->prefix, "pqpool_");
    to = put_base32(to, random_number(w), 13);
    *to++ = '_';
    *to = '\0';
}

/* What libpq itself has to say has no SQLSTATE: that something came which it takes for the answer to nothing. */
bool pqp_wire_unasked(const PGresult *notice)
{
    const char *severity = PQresultErrorField(notice, PG_DIAG_SEVERITY_NONLOCALIZED);
    bool error = severity && strcmp(severity, "ERROR") == 0;
    return error || !PQresultErrorField(notice, PG_DIAG_SQLSTATE);
}

/* An error that comes while no statement is under way is a notice to libpq: it is why the connection ends. */
static void keep_last_words(void *arg, const PGresult *result)
{
    pqp_wire *w = arg;
    const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
    if (severity && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0))
        snprintf(w->last_words, sizeof w->last_words, "%s", PQresultErrorMessage(result));
    else if (pqp_wire_unasked(result))
        w->unasked = true;
}

void pqp_wire_bind(pqp_wire *w, PGconn *conn)
{
    w->last_words[0] = '\0';
    if (conn)
        PQsetNoticeReceiver(conn, keep_last_words, w);
    choose_prefix(w);
    PQfreeCancel(w->cancel);
    w->cancel = conn ? PQgetCancel(conn) : NULL;
    w->conn = conn;
    w->fd = conn ? PQsocket(conn) : -1;
    w->tls = conn && PQsslInUse(conn);
    w->absent = 0;
    w->attrs = PQP_ATTRS_ANY;
    w->bound_at = pqp_now();
    w->refused = w->notified = w->widened = w->unasked = false;
    pqp_store(&w->astray, 0);
    w->settings = conn ? settings_of(conn, &w->absent) : 0;
}

/* What a prepared statement is called on the server. */
typedef struct plan_name {
    char text[48]; /* the server's limit is 63 */
} plan_name;

/* By hand: for each statement one, and printf takes ten times as long. */
static plan_name name_of(const pqp_wire *w, uint32_t number, uint32_t text)
{
    plan_name name;
    char *to = put_base32((char *)memcpy(name.text, w->prefix, sizeof w->prefix) + PREFIX_SIZE, text, 7);
    do
        to = put_base32(to, number & 31, 1);
    while ((number >>= 5) > 0);
    *to = '\0';
    return name;
}

/* The statement's own time-out, in its own transaction: undone at its Sync, in success and failure. */
static bool send_setting(pqp_wire *w, const pqp_sending *how)
{
    static const char sql[] = "select pg_catalog.set_config('statement_timeout', $1, true)";
    plan_name name = name_of(w, how->setting, 0);
    char ms[16];
    const char *value = ms;
    snprintf(ms, sizeof ms, "%d", how->timeout_ms);
    if (how->setting == 0)
        return PQsendQueryParams(w->conn, sql, 1, NULL, &value, NULL, NULL, 0) == 1;
    if (how->parse_setting && !PQsendPrepare(w->conn, name.text, sql, 1, NULL))
        return false;
    return PQsendQueryPrepared(w->conn, name.text, 1, &value, NULL, NULL, 0) == 1;
}

static bool send_statement(pqp_wire *w, const pqpool_stmt *r, const pqp_sending *how)
{
    if (how->plan == 0)
        return PQsendQueryParams(w->conn, r->sql, r->n_params, r->param_types, r->param_values,
                                 r->param_lengths, r->param_formats, r->result_format) == 1;
    plan_name name = name_of(w, how->plan, how->text);
    if (how->parse && !PQsendPrepare(w->conn, name.text, r->sql, r->n_params, r->param_types))
        return false;
    return PQsendQueryPrepared(w->conn, name.text, r->n_params, r->param_values, r->param_lengths,
                               r->param_formats, r->result_format) == 1;
}

static bool send_sync(pqp_wire *w)
{
    return (PQsendPipelineSync ? PQsendPipelineSync(w->conn) : PQpipelineSync(w->conn)) == 1;
}

/*
 * libpq moves all it has yet to send each time the socket takes a part of it. A Unix socket takes some 200 kB, so that the
 * time grows with the square of a large statement's size. With a larger buffer there are fewer parts. Beyond
 * net.core.wmem_max that takes a privilege.
 */
static void widen(pqp_wire *w)
{
    enum { WIDE = 16 << 20 };
    struct sockaddr_storage at;
    socklen_t size = sizeof at;
    const int wide = WIDE;
    w->widened = true;
    if (getsockname(w->fd, (struct sockaddr *)&at, &size) != 0 || at.ss_family != AF_UNIX)
        return;
    if (setsockopt(w->fd, SOL_SOCKET, SO_SNDBUFFORCE, &wide, sizeof wide) != 0)
        (void)setsockopt(w->fd, SOL_SOCKET, SO_SNDBUF, &wide, sizeof wide);
}

static pqp_sent wire_send(pqp_wire *w, const pqpool_stmt *r, const pqp_sending *how)
{
    if (how->large && !w->widened)
        widen(w);
    if (how->set && !send_setting(w, how))
        return PQP_SENT_NOTHING;
    if (!send_statement(w, r, how))
        return PQP_SENT_NOTHING;
    return !how->sync || send_sync(w) ? PQP_SENT_WHOLE : PQP_SENT_NO_SYNC;
}

static pqp_sent wire_aside(pqp_wire *w, const char *sql)
{
    if (sql && !PQsendQueryParams(w->conn, sql, 0, NULL, NULL, NULL, NULL, 0))
        return PQP_SENT_NOTHING;
    return send_sync(w) ? PQP_SENT_WHOLE : PQP_SENT_NO_SYNC;
}

static pqp_sent wire_close(pqp_wire *w, uint32_t number, uint32_t text)
{
    plan_name name = name_of(w, number, text);
    char sql[64];
    if (!PQsendClosePrepared) {
        snprintf(sql, sizeof sql, "DEALLOCATE %s", name.text);
        return wire_aside(w, sql);
    }
    if (!PQsendClosePrepared(w->conn, name.text))
        return PQP_SENT_NOTHING;
    return send_sync(w) ? PQP_SENT_WHOLE : PQP_SENT_NO_SYNC;
}

static pqp_sent wire_check(pqp_wire *w, const pqpool_stmt *r, const pqp_sending *how)
{
    plan_name name = name_of(w, how->plan, how->text);
    if (!PQsendDescribePrepared(w->conn, name.text) ||
        !PQsendPrepare(w->conn, "", r->sql, r->n_params, r->param_types) ||
        !PQsendDescribePrepared(w->conn, ""))
        return PQP_SENT_NOTHING;
    return send_sync(w) ? PQP_SENT_WHOLE : PQP_SENT_NO_SYNC;
}

static bool wire_same_types(const PGresult *a, const PGresult *b)
{
    int n = PQnparams(a);
    bool same = n == PQnparams(b);
    for (int i = 0; same && i < n; i++)
        same = PQparamtype(a, i) == PQparamtype(b, i);
    return same;
}

static int wire_flush(pqp_wire *w)
{
    return PQflush(w->conn);
}

/* What the kernel has received over TCP; -1: this is not TCP. */
static int64_t received(const pqp_wire *w)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    memset(&info, 0, sizeof info);
    if (getsockopt(w->fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0 ||
        size < offsetof(struct tcp_info, tcpi_bytes_received) + sizeof info.tcpi_bytes_received)
        return -1;
    return (int64_t)info.tcpi_bytes_received;
}

static int64_t unread(const pqp_wire *w)
{
    int bytes = 0;
    return ioctl(w->fd, FIONREAD, &bytes) == 0 ? bytes : 0;
}

/*
 * libpq does not tell how much it reads. Over TCP the kernel has a count. A Unix socket has none: what lies there before and
 * afterwards is compared, and as more may have come meanwhile, it is less than was read, most so where rows are large.
 */
static bool consume_counting(pqp_wire *w, int64_t *bytes)
{
    enum { LEAST = 8192 }; /* libpq has room for so much at least */
    int64_t now = received(w), before = now < 0 ? unread(w) : 0;
    bool here = PQconsumeInput(w->conn) == 1;
    if (now < 0)
        *bytes += PQP_MAX(before - unread(w), PQP_MIN(before, LEAST));
    else if (w->received >= 0)
        *bytes += now - w->received;
    w->received = now;
    return here;
}

/* No lane listens; one that is told something has a statement to blame that did. What is told is dropped at once: a server
 * may have no end of it. */
static bool wire_consume(pqp_wire *w, int64_t *bytes)
{
    if (!bytes)
        w->received = -1;
    bool here = bytes ? consume_counting(w, bytes) : PQconsumeInput(w->conn) == 1;
    for (PGnotify *n; (n = PQnotifies(w->conn)); w->notified = true)
        PQfreemem(n);
    return here;
}

static bool wire_alive(pqp_wire *w)
{
    return PQstatus(w->conn) == CONNECTION_OK;
}

/* libpq looks at what nobody has asked for only when it takes itself for idle, which in a pipeline takes a call. */
static void take_unasked(pqp_wire *w)
{
    for (int i = 0; i < 2 && !*w->last_words && !PQisBusy(w->conn); i++)
        PQclear(PQgetResult(w->conn));
}

static bool wire_heard(pqp_wire *w)
{
    take_unasked(w);
    return !*w->last_words && !w->unasked && wire_alive(w);
}

static const char *wire_unclean(pqp_wire *w, bool drained)
{
    if (drained && PQtransactionStatus(w->conn) != PQTRANS_IDLE)
        return "a statement left a transaction open";
    if (drained && w->notified)
        return "a statement listens on a channel";
    if (pqp_role_is_lost(w->conn, w->attrs, w->refused, w->refused ? pqp_now() - w->bound_at : 0)) {
        pqp_store(&w->astray, 1);
        return "its server is not what target_session_attrs asks for, or takes no writes";
    }
    w->refused = false;
    return settings_of(w->conn, &w->absent) == w->settings ? NULL : "a setting of its session was changed";
}

/*
 * A FATAL proves that later statements did not run only when the backend itself raised it while it looked
 * for interrupts: between statements or inside the head, never past it. A pooler's FATAL proves nothing.
 */
static pqp_proof proof_of(const PGresult *result, const char *sqlstate)
{
    const char *function = PQresultErrorField(result, PG_DIAG_SOURCE_FUNCTION);
    if (!function || strcmp(function, "ProcessInterrupts") != 0)
        return PQP_PROOF_NONE;
    if (strcmp(sqlstate, "57P05") == 0) /* idle_session_timeout: it had not begun */
        return PQP_PROOF_ALL;
    if (strcmp(sqlstate, "57P01") == 0 || strcmp(sqlstate, "25P03") == 0)
        return PQP_PROOF_BEHIND;
    return PQP_PROOF_NONE;
}

/* The server's own words before anything of the statement ran; from within a function they would have a context. */
static pqp_staleness staleness_of(const PGresult *result, const char *sqlstate)
{
    const char *function = PQresultErrorField(result, PG_DIAG_SOURCE_FUNCTION);
    if (!function || PQresultErrorField(result, PG_DIAG_CONTEXT))
        return PQP_NOT_STALE;
    if (strcmp(sqlstate, "26000") == 0 && strcmp(function, "FetchPreparedStatement") == 0)
        return PQP_STALE_GONE;
    if (strcmp(sqlstate, "42P05") == 0 && strcmp(function, "StorePreparedStatement") == 0)
        return PQP_STALE_GONE;
    if (strcmp(sqlstate, "0A000") == 0 && strcmp(function, "RevalidateCachedQuery") == 0)
        return PQP_STALE_CHANGED;
    return PQP_NOT_STALE;
}

/* libpq had no memory for the rows. It has read past them, and is in step: the next answer is the next statement's. */
static bool ran_out_of_memory(const pqp_wire *w, const PGresult *result)
{
    return PQstatus(w->conn) == CONNECTION_OK && strstr(PQresultErrorMessage(result), "out of memory");
}

static pqp_answer error_answer(pqp_wire *w, PGresult *result)
{
    const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
    const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    /* Without an SQLSTATE it is libpq's own word: the connection is gone, or out of step. */
    if ((!sqlstate || !severity) && ran_out_of_memory(w, result))
        return (pqp_answer){.kind = PQP_NEXT_NO_MEMORY, .result = result};
    if (!sqlstate || !severity)
        return (pqp_answer){.kind = PQP_NEXT_FATAL, .result = result};
    if (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0)
        return (pqp_answer){
            .kind = PQP_NEXT_FATAL, .proof = proof_of(result, sqlstate), .spoke = true, .result = result};
    w->refused |= strcmp(sqlstate, "25006") == 0;
    return (pqp_answer){.kind = PQP_NEXT_ERROR, .stale = staleness_of(result, sqlstate), .result = result};
}

static pqp_answer wire_next(pqp_wire *w)
{
    if (PQisBusy(w->conn)) /* PQgetResult would block */
        return (pqp_answer){.kind = PQP_NEXT_BUSY};
    PGresult *result = PQgetResult(w->conn);
    if (!result)
        return (pqp_answer){.kind = PQP_NEXT_END};
    pqp_next kind = PQP_NEXT_COPY;
    switch (PQresultStatus(result)) {
    case PGRES_TUPLES_OK:
    case PGRES_EMPTY_QUERY:
        return (pqp_answer){.kind = PQP_NEXT_RESULT, .result = result};
    case PGRES_COMMAND_OK:
        kind = pqp_guard_bad_tag(PQcmdStatus(result)) ? PQP_NEXT_STATE : PQP_NEXT_RESULT;
        return (pqp_answer){.kind = kind, .result = result};
    case PGRES_FATAL_ERROR:
    case PGRES_BAD_RESPONSE:
        return error_answer(w, result);
    case PGRES_PIPELINE_SYNC:
        kind = PQP_NEXT_SYNC;
        break;
    case PGRES_PIPELINE_ABORTED:
        kind = PQP_NEXT_ABORTED;
        break;
    default:
        break;
    }
    PQclear(result);
    return (pqp_answer){.kind = kind};
}

static void wire_describe(pqp_wire *w, PGresult *fatal, pqpool_error *why)
{
    if (!fatal)
        take_unasked(w);
    const char *text = fatal            ? PQresultErrorMessage(fatal)
                       : *w->last_words ? w->last_words
                       : w->unasked     ? "the server answered what was not asked"
                                        : PQerrorMessage(w->conn);
    pqp_fail(why, PQPOOL_ELOST, PQPOOL_UNKNOWN, "%s", text);
    if (fatal)
        pqp_error_sqlstate(why, PQresultErrorField(fatal, PG_DIAG_SQLSTATE));
}

static const char *wire_sqlstate(const PGresult *result)
{
    const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    return sqlstate ? sqlstate : "";
}

static void wire_clear(PGresult *result)
{
    PQclear(result);
}

static int wire_wait(pqp_wire *w, bool write, pqp_time deadline)
{
    struct pollfd fds[2] = {{.fd = w->fd, .events = (short)(write ? POLLIN | POLLOUT : POLLIN)},
                            {.fd = w->kick_fd, .events = POLLIN}};
    pqp_time now = deadline == PQP_NEVER && !w->tls ? 0 : pqp_now();
    if (w->tls)
        deadline = PQP_MIN(deadline, now + TLS_LOOK);
    int n = poll(fds, 2,
                 pqp_poll_ms(deadline, now)); /* EINTR counts as a kick: the caller looks and waits again */
    if (n <= 0)
        return n == 0 && w->tls ? PQP_READY_READ : 0;
    if (fds[1].revents) {
        eventfd_t ignored;
        (void)eventfd_read(w->kick_fd, &ignored);
    }
    int ready = 0;
    if (fds[0].revents & ~POLLOUT) /* errors and hang-ups are found by reading */
        ready |= PQP_READY_READ;
    if (fds[0].revents & POLLOUT)
        ready |= PQP_READY_WRITE;
    return ready;
}

static void wire_kick(pqp_wire *w)
{
    (void)eventfd_write(w->kick_fd, 1);
}

static bool wire_readable(pqp_wire *w)
{
    struct pollfd p = {.fd = w->fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

/*
 * By a descriptor of our own: libpq may have closed its by the time it is to be taken out, and where a forked child holds
 * the socket open, it would then stay in the loop for ever.
 */
static void wire_watch(pqp_wire *w, int epoll_fd, void *data)
{
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = data};
    if (data) {
        w->loop_fd = pqp_sockets_copy(w->fd, &w->loop);
        if (w->loop_fd >= 0)
            (void)epoll_ctl(epoll_fd, EPOLL_CTL_ADD, w->loop_fd, &e); /* if not, the keeper finds it unread */
    } else if (w->loop_fd >= 0) {
        (void)epoll_ctl(epoll_fd, EPOLL_CTL_DEL, w->loop_fd, &e);
        pqp_sockets_drop(w->loop_fd, w->loop);
        w->loop_fd = -1;
    }
}

const pqp_transport pqp_transport_libpq = {
    .send = wire_send,
    .close = wire_close,
    .check = wire_check,
    .same_types = wire_same_types,
    .aside = wire_aside,
    .flush = wire_flush,
    .consume = wire_consume,
    .next = wire_next,
    .alive = wire_alive,
    .heard = wire_heard,
    .unclean = wire_unclean,
    .describe = wire_describe,
    .clear = wire_clear,
    .wait = wire_wait,
    .readable = wire_readable,
    .size = PQresultMemorySize,
    .rows = PQntuples,
    .sqlstate = wire_sqlstate,
    .kick = wire_kick,
    .watch = wire_watch,
};
