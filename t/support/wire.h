/*
 * wire: a proxy between the library and the server that understands what goes through it, so that a test can
 * say what was on the wire, hold it up, and cut it.
 *
 *     wire *w = wire_start(ctl);                        // to where ctl is connected
 *     pool = open_pool(wire_conninfo(w), NULL);
 *     wire_hold(w);
 *     ... k threads run a statement each ...
 *     wire_await(w, WIRE_ALL, WIRE_SYNC, before + k);   // all are sent, and no answer is back
 *     wire_let_go(w);
 *     ...
 *     wire_stop(w);
 *
 * WHERE IT LISTENS. Everything is seen from the client's end of the wire: a message of the client counts when
 * its last byte has reached the proxy, whether or not it then gets to the server; one of the server counts
 * when its last byte is handed to the client, not before, and so not while it is held or delayed. When a call
 * of the library returns, what it was told has been counted.
 *
 * Connections are numbered from 1 in the order in which the proxy accepts them; those that only cancel have
 * numbers too. The client's side is TCP, so that it can be reset. No encryption: the conninfo says so, and a
 * client that asks for it all the same is hung up on. At most 256 connections at a time. Without memory the
 * program is aborted.
 *
 * A wire is thread-safe: every function but wire_start() and wire_stop() may be called from any thread. One
 * thread of its own does the work.
 */
#ifndef SUPPORT_WIRE_H
#define SUPPORT_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libpq-fe.h>

typedef struct wire wire;

enum { WIRE_ALL = 0 }; /* in place of a connection's number */

typedef enum { WIRE_FROM_CLIENT = 0, WIRE_FROM_SERVER = 1 } wire_direction;

/* What is counted. Messages under their names in the protocol. */
typedef enum {
    WIRE_PARSE,       /* of the client */
    WIRE_PARSE_NAMED, /* those of them that name the statement */
    WIRE_BIND,
    WIRE_DESCRIBE,
    WIRE_EXECUTE,
    WIRE_CLOSE,
    WIRE_QUERY,
    WIRE_SYNC,
    WIRE_PARSE_COMPLETE, /* of the server */
    WIRE_ERROR,
    WIRE_READY,

    /* Round trips: how often the server answered after the client had spoken. What the server says unasked,
     * notices, notifications and settings, is no answer. Connecting counts its own. */
    WIRE_ROUND_TRIP,
    WIRE_ACCEPTED, /* connections, so also the number of the newest */
    WIRE_CUT,      /* connections that wire_cut() has ended */
    WIRE_COUNTS
} wire_what;

/* A message. The strings last until wire_stop(); what does not apply is NULL. At most 4000 bytes of a message
 * are looked at. */
typedef struct wire_event {
    double time; /* s, as now_s() */
    int connection;
    wire_direction direction;
    char type; /* the protocol's letter; WIRE_STARTUP, WIRE_CANCEL for those that have none */
    const char
        *name; /* Parse, Bind, Describe, Close: the statement, "" if it has no name; Execute: the portal */
    const char *text; /* Parse, Query: the SQL. Bind: the first parameter, a binary int4 or int8 as a decimal
                         number. Describe, Close: "S" or "P". ErrorResponse: the SQLSTATE. CommandComplete: the
                         tag. ReadyForQuery: "I", "T" or "E". */
} wire_event;

enum { WIRE_STARTUP = '^', WIRE_CANCEL = '!' };

/* Starts a proxy to the server that this connection is connected to; NULL, and errno says why. */
wire *wire_start(const PGconn *server);

/* Ends all connections and frees everything. NULL is allowed. */
void wire_stop(wire *w);

/* What leads a client here: host and port, as keywords to begin a connection string with. User and database
 * are those of the environment. Lasts until wire_stop(). */
const char *wire_conninfo(const wire *w);

/* ---- what a test does to the wire ---- */

/* From the return on nothing of the server reaches a client, until wire_let_go(). */
void wire_hold(wire *w);
void wire_let_go(wire *w);

/* From the return on what comes in is handed on so much later, each way. The order stays. */
void wire_set_delay(wire *w, int one_way_ms);

typedef enum {
    WIRE_FIN, /* both ends hear that nothing more will come; what they send is read and dropped */
    WIRE_RST  /* the client's connection is reset; the server, on a Unix socket, sees it closed */
} wire_ending;

/*
 * Ends a connection as soon as so many more bytes have gone through in this direction, and not one more; 0 is
 * at once, without a look at what is waiting. A number that no connection has yet is planned ahead and counts
 * from its beginning; WIRE_ALL means those that are there. A later call replaces an earlier one for the same
 * direction.
 */
void wire_cut(wire *w, int connection, wire_direction direction, int64_t bytes, wire_ending how);

/* ---- what a test sees ---- */

int64_t wire_count(wire *w, int connection, wire_what what);

/* Waits until that count is n or more, up to 10 s, times the slowness; false if it is not. */
bool wire_await(wire *w, int connection, wire_what what, int64_t n);

/* How many messages there have been, and the i-th of them, from 0, in the order in which they counted. An i
 * that is not there is an unchecked error. */
size_t wire_events(wire *w);
wire_event wire_event_at(wire *w, size_t i);

/* How often Bind had this text, or the number in any form, as its first parameter. */
int wire_seen(wire *w, const char *text);
int wire_seen_number(wire *w, int64_t number);

#endif
