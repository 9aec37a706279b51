/*
 * target: where to connect, as the caller said it, and as libpq understands it.
 *
 * The caller's pairs are kept as they came. What they amount to (a service file, the environment, defaults, and which of two
 * values for one keyword wins) libpq alone knows, and it has no function that says so without connecting. But it reads and
 * checks everything before it looks for a server, and it keeps what it has read when it fails: so it is asked to connect to a
 * port that can't be (70001). Where its complaint is of that port, all else is right; where it is of something else, that is
 * what it would say at each connect. No socket is opened and no name resolved on the way.
 */
#ifndef PQP_TARGET_H
#define PQP_TARGET_H

#include "base.h"
#include "error.h"
#include <libpq-fe.h>

/* Pairs of keyword and value, each array ended with NULL; of two with one keyword the later wins. The strings are somebody
 * else's. All zero is none. */
typedef struct pqp_pairs {
    const char **keywords, **values; /* in one piece of memory */
    int n, room;
} pqp_pairs;

bool pqp_pairs_add(pqp_pairs *pairs, const char *keyword, const char *value) PQP_MUSTCHECK;
void pqp_pairs_cut(pqp_pairs *pairs, int n); /* only the first n are left */
void pqp_pairs_fini(pqp_pairs *pairs);

/* load_balance_hosts is the pool's own business: a libpq before 16 does not know it. */
typedef enum { PQP_BALANCE_UNSET, PQP_BALANCE_OFF, PQP_BALANCE_RANDOM } pqp_balance;

/* Where to connect: PQconnectStartParams' arguments, NULL-terminated, our copies. */
typedef struct pqp_target {
    char **keywords, **values;
    int expand_dbname;
    pqp_balance balance;
} pqp_target;

/* Copies the arrays; keywords that begin with pool_ are left out. Refuses keywords and connection strings that libpq would
 * refuse. */
pqpool_code pqp_target_init(pqp_target *t, const char *const *keywords, const char *const *values,
                            int expand_dbname, pqpool_error *err) PQP_MUSTCHECK;
void pqp_target_fini(pqp_target *t);

/* "host:port/dbname" as far as they can be known before connecting. */
bool pqp_target_name(const pqp_target *t, char *buf, size_t size) PQP_MUSTCHECK; /* false: no memory */
/* The value a keyword has in the target, from a service file, from the environment, or by default; malloc'd, NULL if none.
 * False: no memory. */
bool pqp_target_value(const pqp_target *t, const char *keyword, char **value) PQP_MUSTCHECK;

/* The target's pairs, put behind those that are there. */
bool pqp_target_add(const pqp_target *t, pqp_pairs *pairs) PQP_MUSTCHECK;

/* Reads a connection string that a hook has made; load_balance_hosts in it goes to *balance. NULL, and err says why. */
PQconninfoOption *pqp_target_parse(const char *text, pqp_balance *balance, pqpool_error *err) PQP_MUSTCHECK;

/* All that libpq would take the pairs for (but for sslmode, and the password), to be freed by pqp_settings_free(); NULL: it refuses them, err says why (ECONNECT,
 * final), or no memory. The pairs are the same afterwards. */
PQconninfoOption *pqp_settings_of(pqp_pairs *pairs, int expand_dbname, pqpool_error *err) PQP_MUSTCHECK;
const char *pqp_settings_value(const PQconninfoOption *settings, const char *keyword); /* NULL: none */
void pqp_settings_free(PQconninfoOption *settings); /* wipes passwords; NULL is allowed */

#endif
