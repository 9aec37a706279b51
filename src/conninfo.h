/*
 * conninfo: takes the keywords with a given prefix out of a libpq connection string and leaves the rest as it
 * was. Reads both forms, keyword=value and URI, by libpq's own rules, and knows no option.
 */
#ifndef PQP_CONNINFO_H
#define PQP_CONNINFO_H

#include "base.h"
#include <pqpool.h>

/* Gets each keyword that was taken, with its prefix, and its value, both unquoted. Not OK ends the
 * reading. */
typedef pqpool_code (*pqp_conninfo_taker)(void *arg, const char *name, const char *value, pqpool_error *err);

/*
 * *rest becomes a malloc'd copy of everything that was not taken, byte for byte, blanks and separators beside
 * a taken keyword aside. A string that libpq will refuse is passed on unchanged, so that libpq's own words
 * come, unless a keyword had been taken before the bad spot: then EINVAL with the spot. On failure *rest is
 * NULL.
 */
pqpool_code pqp_conninfo_split(const char *conninfo, const char *prefix, pqp_conninfo_taker take, void *arg,
                               char **rest, pqpool_error *err) PQP_MUSTCHECK;

/* Hands over every keyword, the query parameters of a URI. EINVAL with the spot, and no text, where the string is malformed. */
pqpool_code pqp_conninfo_read(const char *conninfo, pqp_conninfo_taker take, void *arg,
                              pqpool_error *err) PQP_MUSTCHECK;

/* Appends keyword='value', the value quoted as libpq reads it, all or nothing; nothing for NULL and "".
 * Returns how long the whole text is, or would be. */
size_t pqp_conninfo_put(char *buf, size_t size, const char *keyword, const char *value);

/* Wipes a string that may hold a secret, and frees it; NULL is allowed. */
void pqp_conninfo_forget(char *text);

bool pqp_conninfo_is_uri(const char *text);

/* Whether libpq would read this text, as a dbname, as a connection string. */
bool pqp_conninfo_recognize(const char *text);

#endif
