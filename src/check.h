/*
 * check: what is looked at in a statement before anything of it is sent: its arguments, its size, whether it may
 * share, and what the pool knows of it.
 */
#ifndef PQP_CHECK_H
#define PQP_CHECK_H

#include "pool.h"

/* More than this is not put among others: while it is copied and sent, all of them would wait. */
enum { PQP_SHARED_BYTES_MAX = 1024 * 1024 };

/* Fills what m knows of the statement: bytes, plan, commits_itself, timed, deadline. */
pqpool_code pqp_check_stmt(pqpool *p, const pqpool_stmt *s, pqp_time now, pqp_stmt *m,
                           pqpool_error *err) PQP_MUSTCHECK;

/* Whether it must have a connection to itself: it is slow, large, or can't be told of its time-out among others. */
bool pqp_check_wants_alone(pqpool *p, const pqpool_stmt *s, const pqp_stmt *m);

#endif
