/*
 * hint: what is wrong with a connection string, in words of our own: libpq's show the text at the bad spot, which may well be a
 * part of a password.
 */
#ifndef PQP_HINT_H
#define PQP_HINT_H

#include "base.h"
#include <pqpool.h>

/*
 * Looks at the pairs of PQconnectdbParams before libpq does: keywords that are not libpq's, a connection string it would
 * refuse, and values that are none of what they stand for, since an unescaped character in a URI has cut a password in two.
 * EINVAL with a way out. Pairs of the pool's own, pool_NAME, are not looked at.
 */
pqpool_code pqp_hint_pairs(const char *const *keywords, const char *const *values, int expand_dbname,
                           pqpool_error *err) PQP_MUSTCHECK;

/* The same for one connection string. */
pqpool_code pqp_hint_conninfo(const char *text, pqpool_error *err) PQP_MUSTCHECK;

#endif
