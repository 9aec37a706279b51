/*
 * ask: statements of which everything that must come back follows from one number, the nonce: how many columns and
 * rows, which values, or which error. An answer that was another statement's shows at once, and so does one that
 * was worked out with another's types, or in a session that is not as it should be.
 */
#ifndef SUPPORT_ASK_H
#define SUPPORT_ASK_H

#include <stdbool.h>
#include <stdint.h>

#include <libpq-fe.h>
#include <pqpool.h>

typedef enum {
    ASK_ECHO,        /* one value */
    ASK_WIDE,        /* three columns, one of them NULL */
    ASK_COLUMNS,     /* 1 to 6 columns, a text for each number */
    ASK_ROWS,        /* 0 to 12 rows, with NULLs */
    ASK_LITERAL,     /* a text that never comes again */
    ASK_TYPED,       /* one text, its two parameters of any types */
    ASK_BINARY,      /* parameters in text and binary, or NULL */
    ASK_BIG,         /* a row of 100 kB */
    ASK_EMPTY,       /* no statement at all */
    ASK_DIVIDE,      /* 22012 */
    ASK_MIDWAY,      /* 22012 after some rows */
    ASK_INVALID,     /* 22P02, the nonce in its message */
    ASK_TAKEN,       /* 23505 */
    ASK_LATE,        /* 23505 at the commit */
    ASK_NOTE,        /* from here: writes the nonce to the log and returns it, */
    ASK_NOTE_QUIET,  /* returns nothing, */
    ASK_NOTE_SELECT, /* in a WITH, */
    ASK_NOTE_FAILS,  /* fails after it has written: 22P02 */
    ASK_PEEK,        /* from here: looks at the session's settings, */
    ASK_CANARY,      /* at all that somebody may have left in it */
    ASK_KINDS
} ask_kind;

enum { ASK_PARAMS = 4 };

/* A statement. It points into itself: not to be copied or moved. */
typedef struct ask {
    pqpool_stmt stmt;
    int64_t nonce;
    uint64_t random; /* follows from the nonce */
    ask_kind kind;
    char sql[100], number[24], text[64];
    char raw[ASK_PARAMS][64];
    const char *values[ASK_PARAMS];
    int lengths[ASK_PARAMS], formats[ASK_PARAMS];
    Oid types[ASK_PARAMS];
} ask;

/* SQL that makes the tables, and what leases can hide behind; for a superuser. */
extern const char ask_schema[];

/* The user whom statements must find themselves to be. */
extern char ask_user[64];

/* With `at_once`, none whose error comes at the commit only. */
void ask_make(ask *a, int64_t nonce, bool at_once);

/* Of a kind. */
void ask_make_kind(ask *a, int64_t nonce, ask_kind kind);

/* The SQLSTATE it must fail with; NULL: it must succeed. */
const char *ask_sqlstate(const ask *a);

/* Whether it writes to the log, if it succeeds. */
bool ask_writes(const ask *a);

typedef enum {
    ASK_RIGHT,
    ASK_WRONG,   /* not its own answer */
    ASK_VALUE,   /* an answer to its text, but not to its parameters: they were taken for another type */
    ASK_FOREIGN, /* its own answer, of a session in which somebody has left something */
} ask_verdict;

/* About an answer of the server's: OK or ESERVER. */
ask_verdict ask_judge(const ask *a, const PGresult *res, const pqpool_error *err);

/* The server process that answered, of PEEK and CANARY when they are right; else 0. */
int ask_backend(const ask *a, const PGresult *res);

/* An integer in text or binary format; INT64_MIN for NULL and for what is none. */
int64_t ask_int(const PGresult *res, int row, int column);

uint64_t ask_mix(uint64_t x);

#endif
