/*
 * prepared: the prepared statements of one connection. Guarded by its lane's lock; knows no libpq.
 *
 * Each plan of the pool (plan.h) has a place, and a connection has at most one prepared statement for each place.
 * On the server it has a name made of a number, and a number is never used twice on a connection: what an answer
 * says of it can then be said of nothing else. Only answers, in the order in which they come, make a statement
 * READY or take it away, for a Parse or a Close that was sent may be skipped after an earlier error of its unit.
 *
 * PARAMETER TYPES GROW OLD. The server decides the types of a statement's parameters once, at Parse. When a column, a
 * type or a function is changed later, it plans the statement anew, but with the old types: a timestamp sent to a
 * parameter that was a date loses its time of day, and nothing reports an error. (When the types of the columns it
 * returns change, the server refuses to run it; that heals by itself.) So a prepared statement is used only as long as
 * its types are known to be right:
 *
 *   1. DDL that passes through the pool is known exactly. The lane that sends it calls pqp_prepared_outdate(), since
 *      what stands behind it on the same connection runs after it; the others read the pool's counter of such
 *      statements (pqp_plans.ddl), which goes up before the answer of the DDL is delivered (for a lease: when libpq
 *      hands out its result, and again when the lease ends). Whatever is older is parsed anew, in the same flush.
 *   2. DDL of other sessions, and DDL that a function hides, can't be seen. It is bounded: types that were last
 *      known to be right PQP_TYPES_LAST ago are not relied on, and the statement is parsed anew. One that is in use
 *      is checked before that time comes: a unit of the lane's own has the server describe it, parse the same text
 *      without a name, and describe that; different types make every connection prepare everything anew. It costs a
 *      Parse of each text in use every few seconds on each connection: not measurable from one to 256 texts.
 *   3. An error of a statement that ran under a name parsed earlier may be such an old type's. It is run once more,
 *      parsed anew (run.c), and if that goes well, or otherwise wrong, every connection parses the text anew (`renewal`).
 *
 * Tried and not taken: the server's statistics of its catalogs (pg_stat_sys_tables) count each change, but tell it up
 * to 10 s late, and not at all with track_counts off, and count temporary tables too.
 */
#ifndef PQP_PREPARED_H
#define PQP_PREPARED_H

#include "base.h"
#include "clock.h"

#define PQP_TYPES_LAST (5 * PQP_SECOND)

typedef struct pqp_prepared {
    uint64_t plan;     /* whose it is (pqp_plan.id); 0: the place was never used */
    uint64_t age;      /* of the set, when it was parsed */
    uint32_t number;   /* its name; 0: there is none on the server */
    uint32_t text;     /* a part of its name */
    uint32_t renewal;  /* of the plan, when it was parsed */
    bool stale;        /* not to be used: to be closed, and made anew under another number */
    bool checking;     /* the server is being asked for its types */
    pqp_time known_at; /* its types were right when this was sent */
} pqp_prepared;

typedef struct pqp_prepared_set {
    pqp_prepared *at; /* by place */
    int places;
    uint32_t numbers; /* given so far; goes on counting when the connection is another */
    uint64_t age;     /* what was parsed at another one is outdated */
    uint64_t ddl;     /* the pool's count when it was last looked at */
} pqp_prepared_set;

void pqp_prepared_fini(pqp_prepared_set *s);

/* The connection has none any more. */
void pqp_prepared_forget(pqp_prepared_set *s);

/* What was parsed so far is not to be used any more: DDL was sent. */
void pqp_prepared_outdate(pqp_prepared_set *s);
/* The same, if the pool's count of DDL has changed. */
void pqp_prepared_heed(pqp_prepared_set *s, uint64_t ddl);

/* What is to be run by name. */
typedef struct pqp_wanted {
    int place;
    uint64_t plan;
    uint32_t renewal, text;
    pqp_time now;   /* 0: its types never change */
    bool may_close; /* else a place that another one holds stays as it is, and number is 0 */
} pqp_wanted;

/* What is to be done to run it. */
typedef struct pqp_use {
    uint32_t number;      /* 0: no memory, or no place; run it without a name */
    bool parse;           /* it must be parsed first */
    bool check;           /* its types should be checked, behind it */
    uint32_t close;       /* the one that had the place before must be closed first; 0: none */
    uint32_t closed_text; /* of that one */
} pqp_use;
pqp_use pqp_prepared_use(pqp_prepared_set *s, const pqp_wanted *wanted);

/* Its Parse failed, or was skipped; the server knows no statement of this name. */
void pqp_prepared_failed(pqp_prepared_set *s, int place, uint32_t number);
/* It is not to be used again. */
void pqp_prepared_refused(pqp_prepared_set *s, int place, uint32_t number);
/* Its types have been checked by what was sent then. */
void pqp_prepared_known(pqp_prepared_set *s, int place, uint32_t number, pqp_time sent_at);

#endif
