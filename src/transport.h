/*
 * transport: what a lane needs of a pipelined connection, as a table of functions. transport.c fills it with
 * libpq; t/model with a fake, so that the very lane code can be run through all its interleavings.
 *
 * All but wait() and kick() are called with the lane's lock held and never block.
 */
#ifndef PQP_TRANSPORT_H
#define PQP_TRANSPORT_H

#include "base.h"
#include "clock.h"
#include "role.h"
#include "sockets.h"
#include <pqpool.h>

typedef struct pqp_wire pqp_wire; /* one end of a connection; the transport's own */

/*
 * How a statement is sent. What goes before it in its unit, in this order: PARSE_SETTING, SETTING, PARSE. Each of
 * these, and the statement itself, is answered by one result of its own.
 */
typedef struct pqp_sending {
    uint32_t plan;    /* number of its prepared statement; 0: it has none */
    uint32_t text;    /* a part of the name of that */
    bool parse;       /* prepare it first */
    bool set;         /* a setting goes before it */
    uint32_t setting; /* number of the prepared set_config(); 0: it has none */
    bool parse_setting;
    int timeout_ms; /* of a setting: statement_timeout for this statement, 0 for none */
    bool sync;      /* it ends its unit */
    bool large;     /* more than the socket takes in a few goes */
} pqp_sending;

typedef enum {
    PQP_SENT_WHOLE,   /* the statement, and its Sync if asked, are on their way */
    PQP_SENT_NOTHING, /* refused: not so much of it was taken that it could run */
    PQP_SENT_NO_SYNC, /* the statement was handed over but not its Sync: it can't commit */
} pqp_sent;

/* What came back next. */
typedef enum {
    PQP_NEXT_BUSY,      /* nothing until more input is there */
    PQP_NEXT_END,       /* libpq's NULL: a hint, no more */
    PQP_NEXT_RESULT,    /* an answer that is no error */
    PQP_NEXT_STATE,     /* such an answer, but of a command that changes the session: it slipped through */
    PQP_NEXT_ERROR,     /* an error of the statement */
    PQP_NEXT_NO_MEMORY, /* the server's answer was one, and libpq had no room for it */
    PQP_NEXT_ABORTED,   /* skipped after an earlier error of its unit */
    PQP_NEXT_SYNC,      /* the unit is over */
    PQP_NEXT_COPY,      /* the connection has fallen out of step */
    PQP_NEXT_FATAL,     /* the connection is going; result has the reason */
} pqp_next;

/* What a FATAL proves about the statements that were sent. */
typedef enum {
    PQP_PROOF_NONE,
    PQP_PROOF_BEHIND, /* those behind the head were not run */
    PQP_PROOF_ALL,    /* nor was the head */
} pqp_proof;

/* Whether an error says that a prepared statement could not be used, before anything of it ran. */
typedef enum {
    PQP_NOT_STALE,
    PQP_STALE_GONE,    /* the server knows no statement of this name, or, to be parsed, one already */
    PQP_STALE_CHANGED, /* what it would return has changed */
} pqp_staleness;

typedef struct pqp_answer {
    pqp_next kind;
    pqp_proof proof;     /* of a FATAL */
    bool spoke;          /* of a FATAL: it is the server's own word, not libpq's about its silence */
    pqp_staleness stale; /* of an ERROR */
    PGresult *result;    /* of RESULT, STATE, ERROR and FATAL: the receiver's to clear */
} pqp_answer;

enum { PQP_READY_READ = 1, PQP_READY_WRITE = 2 };

typedef struct pqp_transport {
    pqp_sent (*send)(pqp_wire *w, const pqpool_stmt *request, const pqp_sending *how);
    /* Drops a prepared statement: a unit of its own. */
    pqp_sent (*close)(pqp_wire *w, uint32_t number, uint32_t text);
    /* Describes how->plan, parses the same text without a name, and describes that: a unit of its own, three answers. */
    pqp_sent (*check)(pqp_wire *w, const pqpool_stmt *request, const pqp_sending *how);
    bool (*same_types)(const PGresult *a,
                       const PGresult *b);           /* of the parameters, in two such descriptions */
    pqp_sent (*aside)(pqp_wire *w, const char *sql); /* runs it (NULL: nothing): a unit of its own */
    int (*flush)(pqp_wire *w);                       /* 0: all is out; 1: more to write; -1: lost */
    /* Reads what is there; false: lost. bytes (may be NULL): so many are added, as far as the system tells. */
    bool (*consume)(pqp_wire *w, int64_t *bytes);
    size_t (*size)(const PGresult *result); /* bytes of memory */
    int (*rows)(const PGresult *result);
    const char *(*sqlstate)(const PGresult *result); /* of an error; never NULL */
    pqp_answer (*next)(pqp_wire *w);
    bool (*alive)(pqp_wire *w);
    /* Nothing was asked: whether what has been read leaves the connection as it is. False: the server has said that it ends
     * it, or answers what was not asked. */
    bool (*heard)(pqp_wire *w);
    /* What a statement has done to the session that it should not have, as far as the server shows it; or NULL. */
    const char *(*unclean)(pqp_wire *w, bool drained);
    void (*describe)(pqp_wire *w, PGresult *fatal, pqpool_error *why); /* why it was lost */
    void (*clear)(PGresult *result);
    int (*wait)(pqp_wire *w, bool write, pqp_time deadline); /* PQP_READY_ bits; 0 when kicked or timed out */
    bool (*readable)(pqp_wire *w);                           /* the socket has something */
    void (*kick)(pqp_wire *w);                               /* ends the wait under way, or the next one */
    void (*watch)(pqp_wire *w, int epoll_fd, void *data);    /* its answers are told there; NULL: no more */
} pqp_transport;

extern const pqp_transport pqp_transport_libpq;

/* The libpq side: a wire over conn, which must be in pipeline mode and non-blocking. */
struct pqp_wire {
    PGconn *conn;
    int fd;
    int kick_fd;
    int loop_fd; /* the same socket once more, while an event loop watches it; -1 */
    pqp_known *loop;
    bool tls;
    int64_t received;  /* by the kernel's count, when it was last asked; -1: it was not */
    uint64_t settings; /* those that the server reports, as they were when the wire was bound */
    unsigned absent;   /* those it does not report: transport.c */
    pqp_attrs attrs;   /* what the connection had to lead to */
    pqp_time bound_at;
    char last_words[200]; /* of the server, when nothing was asked; "": none */
    bool refused;         /* a statement was answered 25006 */
    bool widened;         /* its socket's buffer was made larger */
    bool notified;        /* something was told by NOTIFY */
    bool unasked;         /* it was answered what nobody had asked */
    _Atomic int astray;   /* the server is not what is asked for any more: role.h */
    PGcancel *cancel;     /* to stop what it runs, from any thread; NULL: no memory for it */
    /* Of the names of prepared statements: no other connection, of any process, has the same. */
    char prefix[28];
};

int pqp_wire_init(pqp_wire *w) PQP_MUSTCHECK; /* makes the kick descriptor; 0 or an errno value */
void pqp_wire_fini(pqp_wire *w);
void pqp_wire_bind(pqp_wire *w, PGconn *conn);
/* Whether such a notice, while nothing is asked, is about an answer all the same. */
bool pqp_wire_unasked(const PGresult *notice);

#endif
