/* request: the article list, asked for in one of several ways, and checked. */
#ifndef CLI_REQUEST_H
#define CLI_REQUEST_H

#include "board.h"
#include "call.h"
#include "crew.h"

/* How the statements of a request get their connections. */
typedef enum {
    MODE_SERIAL,      /* a lease for each statement, one after another */
    MODE_PARALLEL,    /* a lease for each statement, those of a group at once */
    MODE_TRANSACTION, /* one lease and one transaction around all of them */
    MODE_SHARED,      /* on one shared connection, a group sent together */
    MODE_SHARED_AUTO, /* the same, and the pool may open more shared connections when it is busy */
    MODE_COUNT,
    MODE_PLAIN = MODE_COUNT /* plain libpq without a pool: the measure of what is right */
} request_mode;

const char *request_mode_name(request_mode mode);

/* What one user needs for his requests. Not thread-safe: each user has his own. */
typedef struct requester {
    request_mode mode;
    int form;           /* 3, 5 or 12: see request_form_exists() */
    pqpool *pool;       /* NULL for MODE_PLAIN */
    PGconn *conn;       /* MODE_PLAIN's connection; in MODE_TRANSACTION that of the lease */
    pqpool_lease lease; /* MODE_TRANSACTION's, while a request runs */
    crew *crew;         /* MODE_PARALLEL's */
    char why[1200];     /* what went wrong with the last request */
} requester;

/*
 * The forms of the request: 3 and 5 are one statement and then 3 or 5 side by side, 12 is 1 + 5 + 1 + 5.
 */
bool request_form_exists(int form);

/* False when there is no memory or no thread to be had. conn is for MODE_PLAIN only. */
bool requester_init(requester *r, request_mode mode, int form, pqpool *pool, PGconn *conn);
void requester_wipe(requester *r);

/* Runs one request; *hash becomes the hash of its answer. False, and r->why tells, if it failed. */
bool request_run(requester *r, const board_page *page, uint64_t *hash);

#endif
