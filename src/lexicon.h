/*
 * lexicon: the words the guard knows: what a statement may begin with, and the functions that change a session. Tables
 * only; what a word means for a statement is the guard's to say.
 */
#ifndef PQP_LEXICON_H
#define PQP_LEXICON_H

#include <stdbool.h>
#include <stddef.h>

/* Ways out, in words. */
#define BY_LEASE "take a lease (pqpool_acquire) and run it there"
#define BY_TX "take a lease (pqpool_acquire) and run the transaction there"
#define BY_SETTING                                                                                           \
    "set it in the connection string (options=) or the on_connect hook, or take a lease (pqpool_acquire)"
#define BY_PREPARE                                                                                           \
    "give the statement as it is: the pool prepares what is repeated, or take a lease (pqpool_acquire)"
#define BY_ONE "give one statement per call (pqpool_exec_all runs several side by side)"
#define BY_UNDOUBTED "write it in its plain form, or take a lease (pqpool_acquire) and run it there"
#define BY_SPELLING "if it is not misspelt, take a lease (pqpool_acquire) and run it there"

/* What further is looked at in a statement, by its first word. */
enum {
    ALLOWED = 1,
    CALLS = 2,    /* it runs expressions: the session's functions count */
    COMMITS = 4,  /* it commits by itself, in whole or in part */
    EXPLAINS = 8, /* the statement in it counts */
    CREATES = 16,
    CHANGES = 32, /* ALTER, DROP: some kinds of objects commit by themselves */
    PLANNED = 64, /* the server plans it */
};

typedef struct pqp_first_word {
    const char *word;
    int traits;
    const char *way_out; /* of those not allowed */
} pqp_first_word;

/* Ends with a word of NULL. */
extern const pqp_first_word pqp_first_words[];

/* How a call is judged: by its name, or by what is given to it. */
typedef enum {
    ALWAYS,
    UNLESS_LOCAL,   /* set_config(): the third argument must be the word TRUE */
    UNLESS_DURABLE, /* a replication slot: the third one, or the one named temporary, must be absent or FALSE */
    WITH_ONE_ARGUMENT /* a name that others may have given to functions of theirs */
} pqp_call_rule;

/* Functions that change the session, or read what an earlier statement left in it. Those of extensions are looked for in
 * every schema. */
typedef struct pqp_session_function {
    const char *name, *construct, *way_out;
    pqp_call_rule rule;
    bool extension;
} pqp_session_function;

/* Ends with a name of NULL. */
extern const pqp_session_function pqp_session_functions[];

#endif
