/*
 * escape: values and names quoted for SQL text, without a connection at hand. As PQescapeLiteral() and PQescapeIdentifier()
 * do it, but where the encoding makes it doubtful where a character ends: that is refused.
 */
#ifndef PQP_ESCAPE_H
#define PQP_ESCAPE_H

#include "base.h"
#include "error.h"

/* quote: ' for a literal, " for an identifier; encoding: libpq's number. NULL: err says why. */
char *pqp_escape(const char *text, size_t length, char quote, int encoding, pqpool_error *err) PQP_MUSTCHECK;

#endif
