/*
 * pqpool: a client-side connection pool over libpq in which parallel statements share a connection.
 *
 * There are two ways to use a connection of the pool:
 *
 *   lease   one caller has one PGconn to itself for a while: pqpool_acquire() ... pqpool_release()
 *   share   independent statements of many threads are pipelined over one or a few connections:
 *           pqpool_exec(), pqpool_exec_params(), pqpool_exec_stmt(), pqpool_exec_all(); without waiting:
 *           pqpool_submit() with a ticket, pqpool_submit_cb() with a callback in an event loop
 *
 * An answer is a plain PGresult and a lease a plain PGconn; what libpq's manual says of them holds here.
 *
 *     pqpool *pool = pqpool_open("dbname=shop pool_max_size=10", NULL, &err);
 *     PGresult *res = pqpool_exec_params(pool, "select name from item where id = $1",
 *                                        1, NULL, (const char *[]){"42"}, NULL, NULL, 0, &err);
 *     if (PQresultStatus(res) != PGRES_TUPLES_OK)
 *         fprintf(stderr, "%s\n", err.message);
 *     PQclear(res);
 *     pqpool_close(pool, 1000);
 *     pqpool_free(pool);
 *
 * Conventions. A time-out is in milliseconds: 0 does not wait, -1 has no limit of its own,
 * PQPOOL_DEFAULT takes the pool's option. Every function that can fail takes a pqpool_error, which is the
 * caller's and may be NULL. Strings handed in are copied unless a function says otherwise. No function
 * exits, aborts, writes to stdout, or calls the caller back while it holds a lock.
 *
 * Cancellation: a thread that is cancelled (pthread_cancel) while it is in a call of the pool ends when
 * the call has ended.
 *
 * Fork: a pool belongs to the process that opened it. In a child every call returns PQPOOL_EFORKED (or
 * NULL) and touches nothing; open a new pool there. The child's copies of the pool's connections, leased ones
 * too, are dead from the start: what it asks by one fails, PQfinish() on one sends nothing, and the sessions
 * end with the parent, however long the child lives. This holds for fork(), whose handlers run; not for
 * children made without them (_Fork(), clone()) that do not exec.
 *
 * Events and figures for operators are in pqpool-ops.h.
 */
#ifndef PQPOOL_H
#define PQPOOL_H

#include <stddef.h>
#include <stdint.h>
#include <libpq-fe.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PQPOOL_MUST_CHECK __attribute__((warn_unused_result))
#else
#define PQPOOL_MUST_CHECK
#endif

/* A pool. This object is thread-safe: every function below may be called from any thread at any time. */
typedef struct pqpool pqpool;

/* A statement that was submitted and whose answer has not been fetched. Thread-safe as its functions say. */
typedef struct pqpool_ticket pqpool_ticket;

/* A transaction or a scope a statement may belong to; no function makes one yet. */
typedef struct pqpool_tx pqpool_tx;
typedef struct pqpool_scope pqpool_scope;

/* What an event tells: see pqpool-ops.h. */
typedef struct pqpool_event pqpool_event;

/* What went wrong. pqpool_code_name() and pqpool_strerror() put each in words. */
typedef enum {
    PQPOOL_OK = 0,
    PQPOOL_EINVAL,     /* the call itself is wrong: an argument, an option, a lease that is not out */
    PQPOOL_ENOMEM,     /* out of memory; this call failed, the pool is as it was */
    PQPOOL_ETIMEDOUT,  /* the deadline passed; the outcome tells what became of the statement */
    PQPOOL_EPENDING,   /* not finished yet */
    PQPOOL_EQUEUEFULL, /* queue_limit callers are waiting in this process already */
    PQPOOL_ENOWAIT,    /* wait=off, no connection is idle, and none may be opened */
    PQPOOL_ECLOSED,    /* the pool is closed */
    PQPOOL_EBUSY,      /* leases or statements are still out */
    PQPOOL_ECONNECT,   /* no connection could be made; the message holds the server's own words */
    PQPOOL_ELOST,      /* the connection was lost under the statement; see the outcome */
    PQPOOL_EDEADLOCK,  /* waiting could never end */
    PQPOOL_ENESTED,    /* a second connection was asked for while one is held */
    PQPOOL_EREFUSED,   /* a statement that may not run on a shared connection; take a lease */
    PQPOOL_ESERVER,    /* the server answered with an error: SQLSTATE in sqlstate, and a PGresult */
    PQPOOL_ETOOBIG,    /* larger than the protocol or an option allows */
    PQPOOL_ECANCELED,  /* canceled by the caller */
    PQPOOL_EFORKED     /* the pool belongs to the parent process */
} pqpool_code;

/* What became of the statement of a failed call. Only NOT_SENT and NOT_RUN are safe to repeat. */
typedef enum {
    PQPOOL_DONE = 0, /* the server finished it: its answer, be it an error, is final */
    PQPOOL_NOT_SENT, /* it never left this process */
    PQPOOL_NOT_RUN,  /* sent, and proven not to have been executed */
    PQPOOL_UNKNOWN   /* sent, and its answer did not come: it may have run, or may still run */
} pqpool_outcome;

/* An error, in the caller's memory; 1024 bytes, never grows. Not thread-safe: one call at a time. */
typedef struct {
    int32_t code;     /* pqpool_code */
    int32_t outcome;  /* pqpool_outcome */
    int64_t row;      /* the failing member of a group, else -1 */
    char sqlstate[6]; /* the server's five characters, or "" where it did not speak */
    char pad[2];
    char message[1000]; /* one line of text, cut between characters of UTF-8, "" when code is PQPOOL_OK */
} pqpool_error;

#define PQPOOL_DEFAULT (-2) /* a time-out: the pool's own option */

/*
 * Hooks: what the pool calls. Copied by pqpool_open(); any of them may be NULL. None is called under a lock.
 * Start the initialiser with PQPOOL_HOOKS, which fills in the size.
 */
typedef struct pqpool_hooks {
    size_t size; /* sizeof(pqpool_hooks), by PQPOOL_HOOKS */
    void *arg;   /* handed to each hook */

    /* Something happened (pqpool-ops.h). In a thread that is just leaving the pool, or one of the pool's
     * own; one event at a time, in their order. May not wait for the pool. A slow hook delays the thread
     * it runs in by 5 ms and one event at most, and loses events when the ring is full. */
    void (*on_event)(const pqpool_event *event, void *arg);

    /* A line for the service's log, without a newline; level is a pqpool_log_level of pqpool-ops.h. Without
     * this hook lines go to stderr. In any thread. */
    void (*on_log)(int level, const char *line, void *arg);

    /*
     * A new connection: set the session up with blocking libpq calls. It finds a session without prepared statements,
     * settings, listeners, locks, temporary tables or an open transaction, and is to leave it without a transaction. It runs
     * again whenever these were undone (reset=clean or discard, and between leasing and sharing), so a connection
     * may see it many times. 0: good. > 0: the connection is closed, and connecting is tried again later, as after a
     * failed connect. < 0: closed and refused for good, as when the server refuses the login: who waits is told at once
     * (ECONNECT), where no other connection serves. In both cases the message has PQerrorMessage() of its connection,
     * and the error its SQLSTATE; for that, error messages are verbose while it runs. In a thread of the pool, or in the
     * one that calls pqpool_release().
     */
    int (*on_connect)(PGconn *conn, void *arg);

    /* A lease begins / ends, in the caller's thread. Nonzero: the connection is closed, and for on_acquire
     * another one is taken. on_release is not called for a connection that is closed anyway: discarded, past
     * max_uses or max_lifetime, or of a closed pool. */
    int (*on_acquire)(PGconn *conn, void *arg);
    int (*on_release)(PGconn *conn, void *arg);

    /* A fresh password (a NUL-terminated string into buf) before each connect; buf has 16 KiB and is wiped
     * after use. Nonzero: this attempt fails. In a thread of the pool. */
    int (*on_password)(char *buf, size_t size, void *arg);

    /* Fresh host, port ... before each connect, as a conninfo string of libpq keywords; they override the
     * pool's. Nonzero: this attempt fails. In a thread of the pool. */
    int (*on_conninfo)(char *buf, size_t size, void *arg);

    /* A connection is about to be closed, once for each that on_connect has seen (or would have, were it set), a refused one
     * too. It may be lost already: take leave of it by PQstatus(). What the host has hung on it (PQsetInstanceData)
     * may be freed here. In a thread of the pool; never after pqpool_free() has returned. */
    void (*on_disconnect)(PGconn *conn, void *arg);
} pqpool_hooks;
#define PQPOOL_HOOKS .size = sizeof(pqpool_hooks)

/*
 * Appends keyword='value' to the text in buf, a blank before it where something stands there, and the value quoted as libpq
 * reads it: for on_conninfo, pqpool_open() and pqpool_reload(). NULL and "" as a value add nothing. Returns the length of the
 * whole text, without the NUL, as snprintf() counts: where it is not below size, nothing was added. buf holds a string, "" at the
 * beginning; the keyword is not quoted and must be the caller's own. Thread-safe; does not block.
 */
size_t pqpool_conninfo_put(char *buf, size_t size, const char *keyword, const char *value);

/* ---- opening and closing ---- */

/*
 * Opens a pool. conninfo is any libpq connection string or URI; options of the pool stand in it as
 * pool_NAME=value (pool_max_size=20, or under a name known from elsewhere: pool_connectionLimit=20), the rest
 * goes to libpq byte for byte. NULL or "" means libpq's defaults and environment.
 * Makes no connection: the first one is made when it is needed, or in the background with initial_size or
 * min_idle. Does not block. An unknown, out-of-range or contradictory option is refused, as is one given by two of its
 * names: EINVAL, and the message names the option and what would be right. So is what libpq would refuse at each
 * connect without a server (a port, sslmode, a service, as many ports as hosts); but not with on_conninfo, which may
 * put it right. A short *_timeout or *_lifetime without a unit is told at warn: it is in milliseconds. No message, name
 * or event shows a password or a part of one: where the string is malformed, the message tells the place.
 *
 * Several hosts, and several addresses of one name, are tried one by one, each with a share of connect_timeout, or for as long
 * as libpq's own connect_timeout says, where that is set and pool_connect_timeout is not. One that was silent is tried last for a
 * minute. target_session_attrs and load_balance_hosts mean what libpq's manual says; a server that is not what is asked for any
 * more is left.
 * Returns NULL on failure. The caller owns the pool: pqpool_close(), then pqpool_free().
 */
pqpool *pqpool_open(const char *conninfo, const pqpool_hooks *hooks, pqpool_error *err) PQPOOL_MUST_CHECK;

/* The same from two NULL-terminated arrays, as PQconnectdbParams takes them; pool_NAME among the keywords.
 * With expand_dbname, a dbname that is a connection string is expanded, its pool_ options too. */
pqpool *pqpool_open_params(const char *const *keywords, const char *const *values, int expand_dbname,
                           const pqpool_hooks *hooks, pqpool_error *err) PQPOOL_MUST_CHECK;

/*
 * Closes the pool: from here on calls fail with ECLOSED and waiting callers are told so; statements in flight
 * and leases have drain_ms to end (-1: as long as it takes); then shared connections are cut, and the
 * statements on them fail with ELOST. A lease that is still out stays the caller's, and its connection is
 * closed when it comes back.
 * A lease that pqpool_acquire_cb() has been granted is out too, before its callback has run: keep dispatching meanwhile,
 * or give a limit. Idempotent; may be called from any thread, and from a hook with drain_ms 0. The handle stays valid:
 * release, discard, wait, abandon, dispatch, get, name and stats still work. PQPOOL_OK when all ended in time, ETIMEDOUT when
 * something had to be cut or a lease is still out.
 */
pqpool_code pqpool_close(pqpool *pool, int drain_ms);

/*
 * Frees a pool, closing it first (drain 0) if need be. EBUSY, and nothing is freed, while a lease or a
 * ticket is out, a callback has not been run yet (pqpool_dispatch), or a call is running in it. When it has
 * returned PQPOOL_OK no thread of the pool runs and no hook is called any more; any use of the handle is an
 * unchecked error. NULL is allowed. Blocks until the pool's threads have ended: until a hook returns, or the
 * system's resolver; if that takes longer than 60 s, EBUSY, and it can be called again.
 */
pqpool_code pqpool_free(pqpool *pool);

/*
 * Changes an option while the pool runs (pool_ prefix optional, aliases allowed). EINVAL for an unknown name,
 * a bad value, a contradiction with the other options, or an option that is fixed once the pool is open.
 * A smaller max_size closes idle connections at once, leased ones as they come back, and shared ones when the
 * statements on them have ended.
 */
pqpool_code pqpool_set(pqpool *pool, const char *option, const char *value, pqpool_error *err);

/* Writes an option's value in force, with its unit ("30s"), as pqpool_set() would take it. EINVAL for an
 * unknown name, ETOOBIG when buf is too small (it then holds "" if size > 0). */
pqpool_code pqpool_get(pqpool *pool, const char *option, char *buf, size_t size);

/*
 * Whether a caller can get a connection, and its server answers: takes a lease, makes a round trip, gives it back.
 * Blocks at most timeout_ms, and 50 ms where the server is slow to answer. PQPOOL_OK; else as pqpool_acquire(), or
 * ELOST when the server did not answer (the connection is then closed).
 */
pqpool_code pqpool_ping(pqpool *pool, int timeout_ms, pqpool_error *err);

/* The pool's name: option name, or host:port/dbname as the connection string has them, with hostaddr where there is no host, a
 * service file read; where on_conninfo gives the address, that is not in it: give option name. Valid until pqpool_free(). */
const char *pqpool_name(const pqpool *pool);

/*
 * The server's version, as PQserverVersion() has it (150018), by the connection made last; no
 * lease is needed. 0: none has been made yet (pqpool_ping() makes one), or no pool. Thread-safe;
 * does not block.
 */
int pqpool_server_version(pqpool *pool);

/*
 * A value, or a name, quoted to stand in SQL text, as PQescapeLiteral() and PQescapeIdentifier()
 * do it, but without a connection at hand: by the client_encoding that the connection made last
 * came up with (on_connect included). What a lease's user sets it to afterwards is not seen. At
 * most length bytes, and none beyond a NUL. The result has its quotes, and is the caller's to
 * PQfreemem(). A literal with a backslash begins with " E'" and is right whatever
 * standard_conforming_strings is. A parameter ($1) needs no quoting, and is the better way for a
 * value. NULL: EPENDING before the first connection has been made (pqpool_ping() makes one);
 * EINVAL for a text that is not valid in that encoding (the message tells the byte), and under
 * SJIS, SHIFT_JIS_2004, BIG5, GBK, GB18030, UHC and JOHAB; ENOMEM. Thread-safe; do not block.
 */
char *pqpool_escape_literal(pqpool *pool, const char *text, size_t length, pqpool_error *err) PQPOOL_MUST_CHECK;
char *pqpool_escape_identifier(pqpool *pool, const char *text, size_t length, pqpool_error *err) PQPOOL_MUST_CHECK;

const char *pqpool_code_name(pqpool_code code); /* "PQPOOL_ETIMEDOUT"; static */
const char *pqpool_strerror(pqpool_code code);  /* "the deadline passed"; static */
const char *pqpool_version(void);               /* of the library at run time, "0.1.0" */

/*
 * Whether the same call may be made again without doing something twice: the outcome is NOT_SENT or NOT_RUN,
 * or the server said 40001 or 40P01 (repeat the whole transaction), and repeating could help: not after a
 * login that is refused for good (28xxx, 3Dxxx, 3Fxxx, 42xxx, 22xxx, 0Axxx, 55000, 58P01; no password; TLS or a certificate
 * that libpq itself refuses; on_connect < 0), a refused statement, a wrong call, or a closed pool.
 */
int pqpool_is_retryable(const pqpool_error *err);

/* ---- lease: a PGconn of one's own ---- */

/* In C++ a member that is not written in an initialiser is zero by itself. */
#if defined(__cplusplus) && __cplusplus >= 201402L
#define PQPOOL_ZERO = 0
#else
#define PQPOOL_ZERO
#endif

/* A lease, in the caller's memory. Zeroed when it is given back. conn is the caller's alone until then. libpq
 * would write the server's notices to stderr; the pool drops them, unless on_connect sets a receiver of its
 * own. */
typedef struct pqpool_lease {
    PGconn *conn PQPOOL_ZERO;
    pqpool *pool PQPOOL_ZERO;
    uint64_t token PQPOOL_ZERO; /* which slot, and the how-manieth lease of it: a copy is no second lease */
} pqpool_lease;

/*
 * Takes a connection: an idle one (the most recently used), or a new one below max_size, or waits in FIFO
 * order for one to come back. Blocks at most acquire_timeout (pqpool_acquire) or timeout_ms
 * (pqpool_acquire_within). On failure *lease is zeroed and the connection was never taken:
 * ETIMEDOUT or ECONNECT at the deadline (the message has the pool's figures and the last connect error),
 * ECONNECT at once when the login is refused for good, and when no connection lives and none could be made for
 * outage_wait, EQUEUEFULL, ENOWAIT, ECLOSED, EINVAL, ENOMEM.
 */
pqpool_code pqpool_acquire(pqpool *pool, pqpool_lease *lease, pqpool_error *err) PQPOOL_MUST_CHECK;
pqpool_code pqpool_acquire_within(pqpool *pool, int timeout_ms, pqpool_lease *lease,
                                  pqpool_error *err) PQPOOL_MUST_CHECK;

/* What a lease may be asked for with. */
typedef struct pqpool_acquire_options {
    size_t size;         /* sizeof(pqpool_acquire_options) */
    int timeout_ms;      /* 0: only if one is there; -1: no limit; PQPOOL_DEFAULT: acquire_timeout */
    unsigned flags;      /* 0 */
    pqpool_scope *scope; /* NULL */
    const char
        *file; /* the caller's place in his source, for messages; NULL: not known. Not copied: a string */
    int line;  /* that lives as long as the pool, as __FILE__ does */
} pqpool_acquire_options;
#define PQPOOL_ACQUIRE .size = sizeof(pqpool_acquire_options)
#define PQPOOL_HERE .file = __FILE__, .line = __LINE__ /* {PQPOOL_ACQUIRE, .timeout_ms = 100, PQPOOL_HERE} */

/* The same with options; NULL: pqpool_acquire(). */
pqpool_code pqpool_acquire_with(pqpool *pool, const pqpool_acquire_options *options, pqpool_lease *lease,
                                pqpool_error *err) PQPOOL_MUST_CHECK;

/*
 * The function behind the macros that go by the names of the first two: they add the caller's place, by which messages,
 * events and reports name a lease. -DPQPOOL_NO_CALL_SITES leaves them out.
 */
pqpool_code pqpool_acquire_at(pqpool *pool, int timeout_ms, pqpool_lease *lease, pqpool_error *err,
                              const char *file, int line) PQPOOL_MUST_CHECK;
#ifndef PQPOOL_NO_CALL_SITES
#define pqpool_acquire(pool, lease, err)                                                                     \
    pqpool_acquire_at((pool), PQPOOL_DEFAULT, (lease), (err), __FILE__, __LINE__)
#define pqpool_acquire_within(pool, timeout_ms, lease, err)                                                  \
    pqpool_acquire_at((pool), (timeout_ms), (lease), (err), __FILE__, __LINE__)
#endif

/*
 * Says that from now on the calling thread is the one that holds the lease: for reports, and for the rule that a holder's
 * statements never wait behind others'. For a lease that is handed from thread to thread. new_owner: NULL. EINVAL for a
 * lease that is not out. Does not block.
 */
pqpool_code pqpool_lease_move(pqpool_lease *lease, pqpool_scope *new_owner);

/*
 * Gives a lease back and zeroes it, from any thread.
 *
 * What its user has left is undone, or the connection closed; either is told at warn, with the place that
 * acquired it (PQPOOL_EVENT_LEFT), and counted in pqpool_stats(). An open or failed transaction is rolled
 * back. A statement that runs is canceled at the server, in a thread of the pool, and the connection closed;
 * it keeps its place in max_size until the server has let go. The option reset says what else is undone:
 * "rollback" (the default) is not a clean session: LISTEN is undone, but settings, temporary tables,
 * prepared statements, session locks stay for the next lease; "clean" and "discard" undo those too. After an
 * error of libpq's own, or with an answer unread, the connection is closed.
 *
 * Does not block where nothing is to be undone, else for these round trips, at most 5 s. EINVAL, and nothing
 * is changed, for a lease that is not out: given back already, a stale copy, or one whose conn or pool is
 * not the leased one; a zeroed lease is EINVAL too. PQfinish() on lease.conn is an error: the next release
 * or discard of it is EINVAL, the lease is over, and its place is free.
 */
pqpool_code pqpool_release(pqpool_lease *lease);

/* The same, but the connection is closed and not used again. */
pqpool_code pqpool_discard(pqpool_lease *lease);

/* Releases *lease if it is out; does nothing for a zeroed one. The function behind PQPOOL_LEASE. */
void pqpool_release_auto(pqpool_lease *lease);

/*
 * Declares a lease that is released when it goes out of scope: PQPOOL_LEASE(lease); It is zeroed, so that every way out of the
 * scope is right, those before pqpool_acquire() too. PQPOOL_AUTO_LEASE is its type alone, and must be initialised:
 * PQPOOL_AUTO_LEASE lease = {0};
 */
#if defined(__GNUC__)
#define PQPOOL_AUTO_LEASE __attribute__((cleanup(pqpool_release_auto), unused)) pqpool_lease
#ifdef __cplusplus
#define PQPOOL_LEASE(name) PQPOOL_AUTO_LEASE name = {}
#else
#define PQPOOL_LEASE(name) PQPOOL_AUTO_LEASE name = {0}
#endif
#endif

/* ---- share: statements on shared connections ---- */

/*
 * A statement, PQexecParams' arguments by name. Begin it with PQPOOL_STMT; in an array the stride is
 * [0].size, so code built against a later header works with an earlier library as long as the tail it does
 * not know is 0. Nothing is copied: all of it must stay as it is until the call returns.
 */
typedef struct pqpool_stmt {
    size_t size; /* sizeof(pqpool_stmt), by PQPOOL_STMT */
    const char *sql;
    int n_params; /* at most 65535 */
    const Oid *param_types;
    const char *const *param_values;
    const int *param_lengths;
    const int *param_formats;
    int result_format;
    unsigned flags; /* a sum of the below */
    /*
     * 0 or PQPOOL_DEFAULT: the option statement_timeout; -1: none of its own. Counted from the call on. The server is
     * told, so that it ends the statement a little earlier with 57014 and the outcome is known (DONE: not done).
     */
    int timeout_ms;
    pqpool_tx *tx;       /* NULL */
    pqpool_scope *scope; /* NULL */
} pqpool_stmt;
#define PQPOOL_STMT .size = sizeof(pqpool_stmt)

/*
 * n_params and param_values of text parameters in one, NULL among them being SQL's NULL:
 *     pqpool_stmt stmt = {PQPOOL_STMT, .sql = "select $1 + $2", PQPOOL_PARAMS("7", id)};
 * The array lives as long as the block it stands in. In C++ there is no such array; give one a name.
 */
#ifndef __cplusplus
#define PQPOOL_PARAMS(...)                                                                                   \
    .n_params = (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *)),                    \
    .param_values = (const char *const[])                                                                    \
    {                                                                                                        \
        __VA_ARGS__                                                                                          \
    }
#endif

enum {
    /*
     * The caller's word that running the statement twice does no harm: it writes nothing, or writes the same
     * again. The library may then, once, repeat it when its connection was lost and nobody knows how it ended: it runs
     * at least once, where it is told to have run, and perhaps twice.
     */
    PQPOOL_READ_ONLY = 1,
    PQPOOL_IDEMPOTENT = 2,
    /* It takes long: it gets a connection to itself, within max_size, and holds up nobody's statements. Without the
     * flag the pool learns it by itself (option slow_lane_threshold). */
    PQPOOL_SLOW = 4,
    /* Not to be prepared: its text will hardly come again. */
    PQPOOL_NO_PREPARE = 8
};

/*
 * Runs one statement on a shared connection and waits for its answer.
 *
 * Prepared statements. A query that comes again is prepared, once on each connection (option
 * statement_cache_size), without a round trip more, under a name that no other connection or process
 * uses. One that the server does not know, or refuses to run because the columns of its answer have
 * changed, did not run; it is prepared anew, unseen.
 * The types of its parameters are those of the columns and functions it is compared with or handed to,
 * as they are when it is prepared. DDL that passes through this pool (as a statement of its own or on a
 * lease) has everything prepared anew, before a statement is sent that is issued after its answer or
 * stands behind it in a group. DDL of other sessions, or inside a function called by SELECT, can't be
 * seen: its effect on parameter types is noticed within 5 seconds, on every version of the server. Until
 * then a value may be converted to the old type first (a timestamp for what was a date loses the time of
 * day); pqpool_evict() makes an end at once. Where the old type leads to an error instead, the statement
 * is run once more, prepared anew, unseen: so a statement that fails may have been run twice, of which the
 * first was undone. That is done once for each error of a text (at most four in vain a second), never
 * for 57014, 40001, 40P01, 25006, 55P03 and 53xxx, nor for what commits by itself (CALL, DO, VACUUM ...),
 * which is never prepared. PQPOOL_NO_PREPARE, or statement_cache_size=0, avoids all of this.
 * Behind a pooler (PgBouncer ...), told by the server process having another number than the connection says, nothing is
 * prepared, and a shared connection has one statement in flight: the pooler may lend a session for no longer than that.
 *
 * The statement is its own transaction (its own Sync): it neither sees nor suffers the failure of a
 * neighbour. Statements in flight at the same time have no order. One that is issued after another's answer
 * was returned sees that one's effects.
 *
 * Returns the answer as libpq would; the caller PQclear()s it. When the server answered with an error, the
 * result is PGRES_FATAL_ERROR and err says ESERVER, DONE and the SQLSTATE. NULL means that the pool has no
 * answer; err says why, and its outcome what became of the statement:
 *   EREFUSED  NOT_SENT  transaction control, SET, LISTEN, COPY, PREPARE, several statements in one string ...:
 *                       what would change the session for the neighbours. The message names the way out.
 *   EINVAL    NOT_SENT  also a $n above n_params in the text of a query or CALL.
 *   ETIMEDOUT           NOT_SENT: no connection had room within acquire_timeout; UNKNOWN: sent, and timeout_ms
 *                       passed before the server's own word of it came. Its answer, when it comes, is dropped and
 *                       nobody else gets it, and new statements get another connection meanwhile.
 *   ELOST     UNKNOWN   the connection was lost; what is NOT_SENT or NOT_RUN the library has repeated
 *                       elsewhere as long as the deadline allowed.
 *   ETOOBIG   NOT_SENT  1 GB or more of SQL and parameters. (Above 1 MB a statement gets a connection to itself.)
 *             UNKNOWN   its answer is larger than the option max_result (256 MB): it is given up, and canceled
 *                       where that can hit nothing else. (DONE: the server had finished it.) A large answer
 *                       is fetched row by row on a lease: PQsendQuery(), PQsetSingleRowMode().
 *   ENOMEM    DONE      the statement ran, and there was no memory for its answer
 *   ECONNECT  NOT_SENT  also where the session can't be shared: standard_conforming_strings is off, or client_encoding
 *                       is one in which the text could be misread (SJIS, SHIFT_JIS_2004, BIG5, GBK, GB18030, UHC, JOHAB).
 *   ECONNECT, EQUEUEFULL, ENOWAIT, ECLOSED, EINVAL, ENOMEM
 *             NOT_SENT  (UNKNOWN where an IDEMPOTENT or READ_ONLY statement was sent once already).
 * Blocks until then. Thread-safe. A thread that holds a lease of the pool gets a connection to itself for its
 * statement: behind another's it might wait for a lock that its own lease holds.
 */
PGresult *pqpool_exec(pqpool *pool, const char *sql, pqpool_error *err) PQPOOL_MUST_CHECK;
PGresult *pqpool_exec_params(pqpool *pool, const char *sql, int n_params, const Oid *types,
                             const char *const *values, const int *lengths, const int *formats,
                             int result_format, pqpool_error *err) PQPOOL_MUST_CHECK;
PGresult *pqpool_exec_stmt(pqpool *pool, const pqpool_stmt *stmt, pqpool_error *err) PQPOOL_MUST_CHECK;

/* How the members of a group stand together. */
typedef enum {
    PQPOOL_EACH = 0, /* each for itself: own Sync, own transaction, own error */
    PQPOOL_ATOMIC    /* all or nothing: one transaction, one Sync */
} pqpool_group_mode;

/*
 * Runs n statements side by side on ONE shared connection and waits for all: they are sent together, run in
 * the order given, and cost one network round trip. results[i] is what pqpool_exec_stmt() would return for
 * stmts[i] and errors[i] what it would say; errors may be NULL. Every result is the caller's to PQclear(),
 * also after a failure (NULL is fine to clear). If the connection is lost on the way, members that were not
 * run are repeated on another one, so the order holds only while the connection does. PQPOOL_OK when every
 * member succeeded, else the code of the first that failed. n = 0 is PQPOOL_OK. EINVAL (a wrong argument) and
 * EREFUSED (any member) are found before anything is sent, and then nothing is; errors[i].row is the member's
 * index. A group with a member that needs a connection to itself (PQPOOL_SLOW ...) has one as a whole.
 *
 * With PQPOOL_ATOMIC, one that fails undoes all: it has its own error, the others are ECANCELED, DONE (nothing of
 * them stands), with the failed one's SQLSTATE, and NULL for a result; the code returned is the failed one's. An
 * error at the commit (a deferred constraint) is the last member's. The shortest timeout_ms of a member is that of
 * the group. The whole is repeated by the library or none of it. Statements that commit by themselves (VACUUM,
 * CALL ...) are EREFUSED.
 */
pqpool_code pqpool_exec_all(pqpool *pool, const pqpool_stmt *stmts, int n, pqpool_group_mode mode,
                            PGresult **results, pqpool_error *errors) PQPOOL_MUST_CHECK;

/* ---- tickets: submit now, wait later ---- */

/*
 * Submits a statement and returns at once. What it points to is copied. NULL: it was not submitted; err says why,
 * as pqpool_exec_stmt() would, with the outcome NOT_SENT. Else the ticket is to be handed to pqpool_wait() until
 * that answers, or to pqpool_abandon(). Does not block. Thread-safe.
 */
pqpool_ticket *pqpool_submit(pqpool *pool, const pqpool_stmt *stmt, pqpool_error *err) PQPOOL_MUST_CHECK;

/*
 * Waits for a ticket's answer, from any thread, for timeout_ms (0: only looks; -1 or PQPOOL_DEFAULT: until it is
 * there; the statement's own time-out ends it too). Returns what pqpool_exec_stmt() would, and the ticket is gone. NULL
 * with EPENDING: the answer is not there yet; with EBUSY: another thread is waiting for it just now; with EINVAL or
 * EFORKED: the call was wrong. After these the ticket lives on, and what becomes of the statement is not known yet
 * (UNKNOWN). Works on a closed pool too.
 */
PGresult *pqpool_wait(pqpool_ticket *ticket, int timeout_ms, pqpool_error *err) PQPOOL_MUST_CHECK;

/*
 * Gives up what a ticket stands for: a statement, a group, a lease that was asked for.
 *
 * PQPOOL_OK: the ticket is gone, and no callback of it will run. What has not been sent never will be. The
 * answer of a statement that is running is dropped; the server is told to cancel it where that can hit
 * nothing else (it has its connection to itself, or nothing that is wanted stands behind it there), else it
 * goes on to its end. A lease that was granted meanwhile goes back.
 * EBUSY: too late: its callback is running, or has run, in this thread or another; or a thread is waiting
 * for the ticket. EINVAL: it has been waited for, or given up, already. (A ticket from before is told apart
 * from one that was made later; on 32-bit systems not surely.) NULL is allowed: PQPOOL_OK.
 * Does not block. Thread-safe.
 */
pqpool_code pqpool_abandon(pqpool_ticket *ticket);

/* Whether the answer is there: pqpool_wait() would return it at once, or the callback is ready. 0 for a
 * ticket from before. Does not block. Thread-safe. */
int pqpool_ticket_done(const pqpool_ticket *ticket);

/* ---- callbacks, for event loops ---- */

/* The answer, as pqpool_exec_stmt() would return it: res is the receiver's to PQclear(); err is valid only while the
 * callback runs, and says PQPOOL_OK or why not. */
typedef void (*pqpool_callback)(PGresult *res, const pqpool_error *err, void *arg);
/* The answers of a group: each results[i] is the receiver's to PQclear(), the arrays are the pool's. */
typedef void (*pqpool_group_callback)(PGresult **results, const pqpool_error *errors, int n, void *arg);
/* A lease, to be copied and given back with pqpool_release() later; NULL: there is none, err says why. */
typedef void (*pqpool_lease_callback)(pqpool_lease *lease, const pqpool_error *err, void *arg);

/*
 * Submit, as pqpool_submit() does; the answer comes by a callback, once, in pqpool_dispatch(). Returns a
 * ticket for pqpool_abandon(), valid until its callback begins; it need not be kept. NULL: it was not
 * submitted, there will be no callback, and err says why. Callbacks that are ready together (read from one
 * connection in one go) run in the order in which they were submitted. Do not block. Thread-safe.
 */
pqpool_ticket *pqpool_submit_cb(pqpool *pool, const pqpool_stmt *stmt, pqpool_callback callback, void *arg,
                                pqpool_error *err);
pqpool_ticket *pqpool_submit_all_cb(pqpool *pool, const pqpool_stmt *stmts, int n, pqpool_group_mode mode,
                                    pqpool_group_callback callback, void *arg, pqpool_error *err);

/*
 * Asks for a lease; it waits in the same queue as all others. options may be NULL. The lease begins in the
 * thread that dispatches: there on_acquire runs, and the round trip of test_on_borrow. Returns a ticket as
 * pqpool_submit_cb() does. Does not block. Thread-safe.
 */
pqpool_ticket *pqpool_acquire_cb(pqpool *pool, const pqpool_acquire_options *options,
                                 pqpool_lease_callback callback, void *arg, pqpool_error *err);

/*
 * The pool's descriptor for poll(), epoll or any event loop: readable (level-triggered) as long as callbacks are
 * ready, or answers are there that pqpool_dispatch() has to read first; then call it. It stays the same until pqpool_free(); it is non-blocking and close-on-exec,
 * and the caller must neither read, write nor close it (for an event loop that closes what it watched: dup() it). -1: no pool.
 */
int pqpool_fd(pqpool *pool);

/*
 * Reads what answers are there, runs the callbacks that are ready, in this thread, and returns how many (which may be none),
 * or the negative of a pqpool_code. No lock is held: a callback may use the pool in every way, close it too (not free it), and take its time: nobody else's
 * statements wait for it. Does not block by itself. Several threads may dispatch at once.
 * A callback may dispatch too, up to 16 deep in one thread; then -PQPOOL_EBUSY.
 */
int pqpool_dispatch(pqpool *pool);

#ifdef __cplusplus
}

/* pqpool_error has its code as an int32_t. */
inline const char *pqpool_code_name(int32_t code)
{
    return pqpool_code_name(static_cast<pqpool_code>(code));
}

inline const char *pqpool_strerror(int32_t code)
{
    return pqpool_strerror(static_cast<pqpool_code>(code));
}
#endif
#endif
