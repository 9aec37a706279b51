/*
 * role: what a connection is asked to lead to (target_session_attrs), and whether its server still is that. A server that was
 * demoted, or made read only, goes on to answer; only its answers, and what it reports, tell.
 *
 * A connection that leads to another kind of server than is asked for is left, and its siblings on that server with it, so that
 * the next connect looks for the right one. The evidence: in_hot_standby and default_transaction_read_only, which the server
 * reports (from 14 on) before it is ready again; and 25006, an answer to a statement that writes. 25006 alone proves nothing
 * (the caller's own transaction may be read only): it counts where the server reports that it is a standby, or where sessions
 * that write were asked for and it reports that they are read only, or reports nothing. What counts by 25006 is looked at only when the
 * connection is a second old, so that a service that writes to a standby for hours does not connect for each statement.
 */
#ifndef PQP_ROLE_H
#define PQP_ROLE_H

#include "base.h"
#include <libpq-fe.h>

typedef enum {
    PQP_ATTRS_ANY,
    PQP_ATTRS_READ_WRITE,
    PQP_ATTRS_READ_ONLY,
    PQP_ATTRS_PRIMARY,
    PQP_ATTRS_STANDBY,
    PQP_ATTRS_PREFER_STANDBY,
} pqp_attrs;

/* Whether the server a connection leads to is not what is asked for; refused: it has answered 25006, and the connection
 * is that old (ns). Reads only what libpq has received. */
bool pqp_role_is_lost(const PGconn *conn, pqp_attrs attrs, bool refused, int64_t age);

/* "on", as the server reports a setting. */
bool pqp_role_is_on(const char *value);

#endif
