/*
 * refusal: which failed connects stay failed until something is changed by hand. One list, for connecting (such a failure
 * is told at once, and tried again only once a second) and for pqpool_is_retryable().
 *
 * Final are: a login refused (28), a database, schema, setting or right that is not there (3D, 3F, 42), a setting with a wrong
 * value (22), what the server has not (0A), a database that takes no connections (55000), a library to be preloaded that is
 * not there (58P01); and what libpq itself refuses: no password, no TLS where it is required, a certificate. Passing are: too
 * many connections and other lack of resources (53), a server that starts, stops or recovers (57), the network, the
 * resolver, and all that is not known. A final failure that was none after all costs a second.
 */
#ifndef PQP_REFUSAL_H
#define PQP_REFUSAL_H

#include <pqpool.h>
#include <stdbool.h>

/* Of a failed login, the server's word. */
bool pqp_refusal_by_sqlstate(const char *sqlstate);
/* Of one without an SQLSTATE, by libpq's words: that it has ended the attempt itself. */
bool pqp_refusal_by_text(const char *text);

/* Marks an error whose SQLSTATE does not tell, since it has none or since it is not a login's; the mark is copied with the
 * error. */
void pqp_refusal_mark(pqpool_error *err, bool final);
void pqp_refusal_inherit(pqpool_error *err, const pqpool_error *from); /* an error that is made of another */
bool pqp_refusal_is_final(const pqpool_error *err);

#endif
