/*
 * session: one PGconn that is up: asking it, setting it up, cleaning it, turning it into a lane's connection and back. With
 * the transport the only caller of libpq's functions. Knows no pool; all functions are called without locks,
 * and those with a deadline block until then at most.
 */
#ifndef PQP_SESSION_H
#define PQP_SESSION_H

#include "base.h"
#include "clock.h"
#include "error.h"
#include "event.h"
#include "options.h"

/* Waits for a socket's events (POLLIN, POLLOUT); false: not in time. */
bool pqp_session_await(PGconn *conn, short events, pqp_time deadline) PQP_MUSTCHECK;
/* The server's notices go nowhere, rather than to stderr. */
void pqp_session_quiet(PGconn *conn);

/* The name of a session that nobody has named. */
#define PQP_SESSION_NAME "pqpool"
bool pqp_session_name(PGconn *conn, pqp_time deadline) PQP_MUSTCHECK; /* false: it did not answer */

/* The connection's last error, made while its messages were verbose: the words for people, and the first SQLSTATE in them, if
 * there is one. */
void pqp_session_words(PGconn *conn, char *text, size_t size, char sqlstate[6]);

/* Runs on_connect. ECONNECT: the connection can't be used; err says why, in its connection's words, and whether that is
 * final. */
pqpool_code pqp_session_set_up(PGconn *conn, pqp_events *ev, pqpool_error *err) PQP_MUSTCHECK;

/* What the calling thread waits for in here ends soon once the flag is set. */
void pqp_session_stop_here(_Atomic int *flag);

/* What the server last said on an idle connection that it has ended; "" if it said nothing. Does not block. */
void pqp_session_last_words(PGconn *conn, char *text, size_t size);

/* May block; NULL is allowed. ev: on_disconnect is called first; NULL: it is not. */
void pqp_session_close(PGconn *conn, pqp_events *ev);

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

/* Waits until the server has ended what it runs here, and drops the answers; false: it has not, until the deadline. */
bool pqp_session_drain(PGconn *conn, pqp_time deadline) PQP_MUSTCHECK;

/* Takes the notifications that have arrived; whether there were any. */
bool pqp_session_notified(PGconn *conn);

/* Whether nothing has arrived on an idle connection. */
bool pqp_session_silent(PGconn *conn);

/* Whether an idle connection is still there, by what has arrived; no round trip. */
bool pqp_session_lives(PGconn *conn);

/*
 * What has arrived on an idle connection, as far as that matters for its use; no round trip. NONE: nothing, or notifications,
 * which wait to be taken, and parameters. LOST_IDLE: its end; text has the server's last words, unless they are still to be
 * read (pqp_session_last_words). LEFT_RUNNING: an answer that nobody asked for.
 */
pqpool_close_reason pqp_session_hear(PGconn *conn, char *text, size_t size);

/*
 * What the last user left behind. fd and backend_pid are those of the connection that was handed out. NONE:
 * it can go on being used, perhaps after a rollback (*open_transaction); else why it must be closed.
 */
pqpool_close_reason pqp_session_inspect(PGconn *conn, int fd, int backend_pid, bool *open_transaction);

/* What is to be undone whatever the level says. */
enum { PQP_UNDO_TRANSACTION = 1, PQP_UNDO_LISTEN = 2 };

/* Cleans the session: first what is to be undone, then as the level says, and on_connect runs again
 * where its settings were undone. False: why says what failed. */
bool pqp_session_reset(PGconn *conn, pqp_events *ev, pqp_reset_level level, unsigned undo, pqp_time deadline,
                       pqpool_error *why) PQP_MUSTCHECK;

/* What a lane must know of the session it will use. */
typedef struct pqp_session_terms {
    pqp_time round_trip;
    int statement_timeout_ms; /* the session's; 0: none */
    bool pooled;              /* the session may be another for each transaction */
} pqp_session_terms;

/*
 * Learns the session's own time-out, and how long a round trip takes, and lowers the former if need be, so that the
 * server ends a statement before timeout_ms (0: none) is over. False: it did not answer.
 *
 * A pooler in between gives a number of its own for the server process, by which it is known. Whether it lends a session for
 * longer than a transaction can't be seen: nothing is set in one, since it may be anybody's next.
 */
bool pqp_session_agree(PGconn *conn, int64_t timeout_ms, pqp_session_terms *terms,
                       pqp_time deadline) PQP_MUSTCHECK;

/* Why no session of this kind can be shared, whatever is done with it; NULL: it can. */
const char *pqp_session_unshareable(PGconn *conn);
/* Into pipeline mode, non-blocking; NULL, or why it can't be shared. And back. */
const char *pqp_session_share(PGconn *conn);
bool pqp_session_unshare(PGconn *conn) PQP_MUSTCHECK;

#endif
