#include "activity.h"

#include <libpq-events.h>
#include <linux/tcp.h> /* netinet/tcp.h does not know what the kernel counts */
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>

/* ---- answers ---- */

/* The first characters as one number, so that it is read and written at once. */
static uint64_t pack(const char *tag)
{
    char chars[8] = "";
    for (size_t i = 0; i < sizeof chars && tag[i] && tag[i] != ' '; i++)
        chars[i] = tag[i];
    uint64_t packed;
    memcpy(&packed, chars, sizeof packed);
    return packed;
}

/* What the tag says of the transaction. ROLLBACK TO has the tag of ROLLBACK: then it is taken for ended until something
 * tells better. */
static int transaction_after(const char *tag, int before)
{
    static const char *const begins[] = {"BEGIN", "START TRANSACTION"};
    static const char *const ends[] = {"COMMIT", "ROLLBACK", "PREPARE TRANSACTION"};
    for (size_t i = 0; i < PQP_COUNT_OF(begins); i++)
        if (strcmp(tag, begins[i]) == 0)
            return 1;
    for (size_t i = 0; i < PQP_COUNT_OF(ends); i++)
        if (strcmp(tag, ends[i]) == 0)
            return 0;
    return before;
}

/*
 * Whether a command may have changed what other statements mean: DDL, or what may run some. Those that don't are listed.
 * CREATE TABLE AS and SELECT INTO have the tag of SELECT, but no rows.
 */
static bool alters(const char *tag)
{
    static const char *const harmless[] = {
        "INSERT",     "UPDATE",  "DELETE",   "MERGE",   "BEGIN",   "START",    "COMMIT",   "ROLLBACK",
        "SAVEPOINT",  "RELEASE", "SET",      "RESET",   "SHOW",    "DECLARE",  "FETCH",    "MOVE",
        "CLOSE",      "COPY",    "PREPARE",  "EXECUTE", "DISCARD", "LISTEN",   "NOTIFY",   "UNLISTEN",
        "DEALLOCATE", "LOCK",    "TRUNCATE", "VACUUM",  "ANALYZE", "EXPLAIN",  "COMMENT",  "GRANT",
        "REVOKE",     "REINDEX", "CLUSTER",  "REFRESH", "LOAD",    "SECURITY", "REASSIGN", "CHECKPOINT"};
    if (*tag == '\0')
        return false;
    size_t size = strcspn(tag, " ");
    for (size_t i = 0; i < PQP_COUNT_OF(harmless); i++)
        if (strlen(harmless[i]) == size && strncmp(tag, harmless[i], size) == 0)
            return false;
    return true;
}

static void count_altered(pqp_activity *a)
{
    pqp_poke(&a->altered, 1);
    if (a->ddl)
        pqp_add(a->ddl, 1);
}

/* What the kernel has to say of a TCP socket. */
static bool ask_kernel(int fd, struct tcp_info *info)
{
    socklen_t size = sizeof *info;
    memset(info, 0, sizeof *info);
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &size) == 0 &&
           size >= offsetof(struct tcp_info, tcpi_bytes_retrans) + sizeof info->tcpi_bytes_retrans;
}

static int64_t bytes_sent(const struct tcp_info *info)
{
    return (int64_t)(info->tcpi_bytes_sent - info->tcpi_bytes_retrans);
}

static void note_sent(pqp_activity *a, int fd)
{
    struct tcp_info info;
    pqp_poke(&a->sent_then, ask_kernel(fd, &info) ? bytes_sent(&info) : -1);
}

static void leave_trace(pqp_activity *a, unsigned trace)
{
    pqp_poke(&a->traces, pqp_peek(&a->traces) | trace);
}

/* An error without SQLSTATE was made by libpq. */
static void note_traces(pqp_activity *a, const PGresult *answer, ExecStatusType status, const char *tag)
{
    bool failed = status == PGRES_FATAL_ERROR || status == PGRES_BAD_RESPONSE;
    const char *state = failed ? PQresultErrorField(answer, PG_DIAG_SQLSTATE) : NULL;
    pqp_poke(&a->server_error, state != NULL);
    if (failed) {
        if (!state)
            leave_trace(a, PQP_TRACE_FAILED);
        else if (strcmp(state, "25006") == 0)
            pqp_poke(&a->refused, 1);
    } else if (status == PGRES_COMMAND_OK && strcmp(tag, "LISTEN") == 0) {
        leave_trace(a, PQP_TRACE_LISTENS);
    } else if (status == PGRES_COMMAND_OK && strcmp(tag, "SET") == 0 && !pqp_peek(&a->in_transaction)) {
        leave_trace(a, PQP_TRACE_SET);
    } else if (status == PGRES_TUPLES_OK) {
        size_t size = PQresultMemorySize(answer);
        if (size > pqp_peek(&a->largest))
            pqp_poke(&a->largest, size);
    }
}

static void note_command(pqp_activity *a, const char *tag)
{
    pqp_poke(&a->in_transaction, transaction_after(tag, pqp_peek(&a->in_transaction)));
    if (alters(tag) || (pqp_peek(&a->altered) && transaction_after(tag, 1) == 0))
        count_altered(a);
}

static int on_libpq_event(PGEventId id, void *info, void *arg)
{
    pqp_activity *a = arg;
    if (id == PGEVT_CONNDESTROY) {
        leave_trace(a, PQP_TRACE_FINISHED);
        pqp_store(&a->via, PQP_VIA_NOTHING); /* the descriptor will be another's */
        if (pqp_load(
                &a->leased)) /* the server is to see it end, which the pool's descriptor would not let it */
            (void)shutdown(a->own_fd, SHUT_RDWR);
    }
    if (id == PGEVT_CONNRESET && pqp_load(&a->leased)) {
        pqp_store(&a->via, PQP_VIA_NOTHING);
        pqp_sockets_now(a->known, PQsocket(((const PGEventConnReset *)info)->conn));
        (void)shutdown(a->own_fd, SHUT_RDWR);
    }
    if (id != PGEVT_RESULTCREATE) /* of the others some come when the pool may be gone */
        return 1;
    const PGEventResultCreate *answer = info;
    ExecStatusType status = PQresultStatus(answer->result);
    if (pqp_peek(&a->shared) || status == PGRES_SINGLE_TUPLE)
        return 1;
    const char *tag = PQcmdStatus(answer->result);
    note_traces(a, answer->result, status, tag);
    pqp_poke(&a->tag, pack(tag));
    pqp_poke(&a->answered_at, pqp_now());
    if (status == PGRES_COMMAND_OK)
        note_command(a, tag);
    bool copy = status == PGRES_COPY_OUT || status == PGRES_COPY_IN || status == PGRES_COPY_BOTH;
    if (copy || PQpipelineStatus(answer->conn) != PQ_PIPELINE_OFF) /* there is, or may be, more under way */
        pqp_poke(&a->sent_then, -1);
    else if (pqp_peek(&a->via) >= 0)
        note_sent(a, pqp_peek(&a->via));
    pqp_add(&a->answers, 1);
    return 1;
}

void pqp_activity_watch(pqp_activity *a, PGconn *conn, _Atomic uint64_t *ddl)
{
    pqp_store(&a->leased, 1);
    if (a->registered)
        return;
    a->ddl = ddl;
    struct sockaddr_storage peer;
    socklen_t size = sizeof peer;
    int fd = PQsocket(conn);
    bool tcp = getpeername(fd, (struct sockaddr *)&peer, &size) == 0 && peer.ss_family != AF_UNIX;
    if (tcp)
        note_sent(a, fd);
    pqp_store(&a->via, tcp ? fd : PQP_VIA_PROCESS);
    a->registered = PQregisterEventProc(conn, on_libpq_event, "pqpool", a);
    if (!a->registered)
        pqp_poke(&a->sent_then, -1);
}

unsigned pqp_activity_end(pqp_activity *a)
{
    pqp_store(&a->leased, 0);
    if (pqp_peek(&a->altered))
        count_altered(a);
    pqp_poke(&a->altered, 0);
    return pqp_peek(&a->traces);
}

void pqp_activity_share(pqp_activity *a, bool shared)
{
    pqp_poke(&a->shared, shared);
}

void pqp_activity_forget(pqp_activity *a, pqp_known *known, int own_fd)
{
    a->known = known;
    a->own_fd = own_fd;
    a->registered = false;
    pqp_poke(&a->shared, 0);
    pqp_poke(&a->largest, 0);
    pqp_store(&a->via, PQP_VIA_NOTHING);
}

void pqp_activity_begin_locked(pqp_activity *a, pqp_time now)
{
    pqp_poke(&a->tag, 0);
    pqp_poke(&a->in_transaction, 0);
    pqp_poke(&a->refused, 0);
    pqp_poke(&a->traces, 0);
    pqp_poke(&a->server_error, 0);
    pqp_poke(&a->answered_at, 0);
    pqp_store(&a->answers, 0);
    a->looked_at = a->state_since = now;
    a->answers_then = 0;
    a->state = PQPOOL_HOLDER_UNKNOWN;
    a->working = a->idle = a->idle_tx = 0;
}

/* ---- a look ---- */

/* TCP: whether anything was sent since the last answer. */
static bool look_at_socket(pqp_activity *a, int fd, pqp_sight *seen)
{
    struct tcp_info info;
    int64_t sent_then = pqp_peek(&a->sent_then);
    if (sent_then < 0 || !ask_kernel(fd, &info))
        return false;
    bool running = bytes_sent(&info) > sent_then;
    seen->state = running ? PQPOOL_HOLDER_RUNNING : PQPOOL_HOLDER_IDLE;
    if (running)
        seen->since = seen->at - info.tcpi_last_data_sent * PQP_MS;
    return true;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* The server's process on this machine: its title ends with what it does. */
static bool look_at_process(int backend_pid, pqp_sight *seen)
{
    char path[40], title[300];
    snprintf(path, sizeof path, "/proc/%d/cmdline", backend_pid);
    pqp_read_text(path, title, sizeof title); /* it is padded with NULs */
    if (strncmp(title, "postgres: ", 10) != 0)
        return false; /* another machine's number, or titles are off */
    if (ends_with(title, " idle"))
        seen->state = PQPOOL_HOLDER_IDLE;
    else if (ends_with(title, " idle in transaction") || ends_with(title, " idle in transaction (aborted)"))
        seen->state = PQPOOL_HOLDER_IDLE_IN_TRANSACTION;
    else
        seen->state = ends_with(title, " waiting") ? PQPOOL_HOLDER_LOCKED : PQPOOL_HOLDER_RUNNING;
    return true;
}

static bool is_idle(pqpool_holder_state state)
{
    return state == PQPOOL_HOLDER_IDLE || state == PQPOOL_HOLDER_IDLE_IN_TRANSACTION;
}

pqp_sight pqp_activity_look(pqp_activity *a, int backend_pid)
{
    pqp_sight seen = {.at = pqp_now(), .state = PQPOOL_HOLDER_UNKNOWN};
    pqp_time answered_at = pqp_peek(&a->answered_at);
    int via = pqp_load(&a->via);
    if (via == PQP_VIA_NOTHING ||
        (via == PQP_VIA_PROCESS ? !look_at_process(backend_pid, &seen) : !look_at_socket(a, via, &seen)))
        return seen;
    if (seen.state == PQPOOL_HOLDER_IDLE && pqp_peek(&a->in_transaction))
        seen.state = PQPOOL_HOLDER_IDLE_IN_TRANSACTION;
    if (is_idle(seen.state) && seen.since == 0)
        seen.since = answered_at;
    return seen;
}

/* Where the time in a state is put down. */
static pqp_time *account_of(pqp_activity *a, pqpool_holder_state state)
{
    if (state == PQPOOL_HOLDER_IDLE_IN_TRANSACTION)
        return &a->idle_tx;
    return state == PQPOOL_HOLDER_RUNNING || state == PQPOOL_HOLDER_LOCKED ? &a->working : &a->idle;
}

void pqp_activity_note_locked(pqp_activity *a, const pqp_sight *seen)
{
    pqp_time last = a->looked_at, now = seen->at;
    int64_t answers = pqp_load(&a->answers);
    if (now <= last)
        return;
    bool fetched = answers != a->answers_then;
    pqp_time from = PQP_MAX(last, PQP_MIN(seen->since, now));
    a->looked_at = now;
    if (seen->state != PQPOOL_HOLDER_UNKNOWN) {
        /* In this state since `from`; before that as at the last look, or at work, if something was fetched. */
        *(fetched ? &a->working : account_of(a, a->state)) += from - last;
        *account_of(a, seen->state) += now - from;
    }
    if (seen->state != a->state || fetched)
        a->state_since = seen->since > 0 ? from : now;
    a->state = seen->state;
    a->answers_then = answers;
}
