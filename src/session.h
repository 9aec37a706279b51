/*
 * session: one PGconn: making it, asking it, cleaning it, turning it into a lane's connection and back. With
 * the transport the only caller of libpq's functions. Knows no pool; all functions are called without locks,
 * and those with a deadline block until then at most (connecting: but for the resolver, which libpq calls
 * synchronously).
 */
#ifndef PQP_SESSION_H
#define PQP_SESSION_H

#include "base.h"
#include "clock.h"
#include "error.h"
#include "event.h"
#include "options.h"

/* Where to connect: PQconnectStartParams' arguments, NULL-terminated, our copies. */
typedef struct pqp_target {
    char **keywords, **values;
    int expand_dbname;
} pqp_target;

/* Copies the arrays; keywords that begin with pool_ are left out. Refuses what libpq would refuse. */
pqpool_code pqp_target_init(pqp_target *t, const char *const *keywords, const char *const *values,
                            int expand_dbname, pqpool_error *err) PQP_MUSTCHECK;
void pqp_target_fini(pqp_target *t);

/* "host:port/dbname" as far as they can be known before connecting. */
bool pqp_target_name(const pqp_target *t, char *buf, size_t size) PQP_MUSTCHECK; /* false: no memory */
/* The value a keyword has in the target, from the environment, or by default; malloc'd, NULL if none. False:
 * no memory. */
bool pqp_target_value(const pqp_target *t, const char *keyword, char **value) PQP_MUSTCHECK;

/*
 * Connects. On failure err has ECONNECT, the server's own words, and its SQLSTATE if it
 * spoke; *for_good tells that trying again can't help until somebody changes something (login refused,
 * database unknown).
 */
pqpool_code pqp_session_connect(const pqp_target *t, pqp_events *ev, pqp_time deadline, PGconn **conn,
                                bool *for_good, pqpool_error *err) PQP_MUSTCHECK;

/* Runs on_connect. NULL, or why the connection can't be used. */
const char *pqp_session_set_up(PGconn *conn, pqp_events *ev);

/* What the calling thread waits for in here ends soon once the flag is set. */
void pqp_session_stop_here(_Atomic int *flag);

void pqp_session_close(PGconn *conn); /* may block; NULL is allowed */

/* Runs SQL without parameters, several statements if need be. False: failed, or not in time. */
bool pqp_session_run(PGconn *conn, const char *sql, pqp_time deadline) PQP_MUSTCHECK;

/* The first value the SQL returns, as text; false: it failed, returned none, or not in time. */
bool pqp_session_ask(PGconn *conn, const char *sql, char *value, size_t size,
                     pqp_time deadline) PQP_MUSTCHECK;

/* What the server says of one of its processes. */
typedef struct pqp_survey {
    int32_t backend_pid; /* in: which */
    uint32_t generation; /* the asker's own */
    int32_t blocked_by;  /* one that holds the lock it waits for; 0: none */
    pqpool_holder_state state;
    pqp_time since;
    char sql[239]; /* that runs, or ran last; "": not known */
} pqp_survey;

/* Fills in what it says of these; those it does not know stay as they are. False: it did not answer. */
bool pqp_session_survey(PGconn *conn, pqp_survey *rows, int n, pqp_time deadline) PQP_MUSTCHECK;

/* A round trip with an empty query. */
bool pqp_session_ping(PGconn *conn, pqp_time deadline) PQP_MUSTCHECK;

/* Whether nothing has arrived on an idle connection. */
bool pqp_session_silent(PGconn *conn);

/* Whether an idle connection is still there, by what has arrived; no round trip. */
bool pqp_session_lives(PGconn *conn);

/*
 * What the last user left behind. fd and backend_pid are those of the connection that was handed out. NONE:
 * it can go on being used, perhaps after a rollback (*open_transaction); else why it must be closed.
 */
pqpool_close_reason pqp_session_inspect(PGconn *conn, int fd, int backend_pid, bool *open_transaction);

/* Cleans the session: an open transaction is rolled back, then as the level says, and on_connect runs again
 * where its settings were undone. */
bool pqp_session_reset(PGconn *conn, pqp_events *ev, pqp_reset_level level, bool open_transaction,
                       pqp_time deadline) PQP_MUSTCHECK;

/* What a lane must know of the session it will use. */
typedef struct pqp_session_terms {
    pqp_time round_trip;
    int statement_timeout_ms; /* the session's; 0: none */
} pqp_session_terms;

/* Learns the session's own time-out, and how long a round trip takes, and lowers the former if need be, so that the
 * server ends a statement before timeout_ms (0: none) is over. False: it did not answer. */
bool pqp_session_agree(PGconn *conn, int64_t timeout_ms, pqp_session_terms *terms,
                       pqp_time deadline) PQP_MUSTCHECK;

/* Into pipeline mode, non-blocking; NULL, or why it can't be shared. And back. */
const char *pqp_session_share(PGconn *conn);
bool pqp_session_unshare(PGconn *conn) PQP_MUSTCHECK;

#endif
