/*
 * guard: which statements may share a connection. Pure text, no state.
 *
 * Sharing is safe only for statements that leave the session as they found it. The guard reads the text as
 * the server's lexer would (comments, quotes, dollar quotes, case) and allows by its first keyword; what a
 * text cannot show (a function that sets something) it does not see. It is a policy against mistakes, not a
 * security boundary.
 */
#ifndef PQP_GUARD_H
#define PQP_GUARD_H

#include "base.h"

typedef struct pqp_verdict {
    const char
        *construct;      /* NULL: may share. Else what is refused, in words ("BEGIN", "a temporary table") */
    const char *way_out; /* what to do instead, in words; static */
    bool commits_itself; /* CALL, VACUUM, CREATE INDEX CONCURRENTLY ...: not undone when its Sync fails */
    bool plannable; /* worth preparing: SELECT, INSERT ..., but no utility, nor SELECT ... INTO a table */
    int params;     /* the highest n of the parameters $n in a text that may share, 0 if there is none */
    char word[32];  /* the first keyword in upper case, "" for an empty statement */
} pqp_verdict;

pqp_verdict pqp_guard_check(const char *sql);

/*
 * The backstop: whether a command tag, as the server answered it, tells of a statement that must not have run
 * on a shared connection ("BEGIN", "SET", "LISTEN", "DEALLOCATE ALL" ...).
 */
bool pqp_guard_bad_tag(const char *tag);

#endif
