/*
 * load: what the files of bench/load share. load.c has the command, the threads, the clock and the samples; a manner is
 * how a statement gets to the server and its answer back.
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include "bench.h"

typedef enum { POINT, SLEEP, INSERT, KINDS } kind;

typedef struct statement {
    const char *name; /* when it is prepared by hand */
    const char *sql;
    int n_params;
} statement;

extern const statement statements[KINDS];

/* As the command line has it. */
typedef struct load_settings {
    int callers, connections, in_flight, sleepers; /* sleepers: of 100 */
    int operations;                                /* 0: until the deadline */
    double seconds, warm_up;
    bool inserts, unprepared;
    const char *pool; /* more options for a pool */
} load_settings;

extern load_settings settings;

/* A statement of a caller's, from the moment he makes it to its answer. */
typedef struct request {
    kind kind;
    int key;
    int64_t began; /* ns */
    char text[2][12];
    const char *values[2];
} request;

/* One who asks; a thread. */
typedef struct caller {
    pthread_t thread;
    void *own; /* the manner's */
    uint64_t random;
    uint32_t *classes; /* latencies of point reads */
    int64_t longest;
    int number, sent, counted, timed;
} caller;

typedef struct manner {
    const char *name;
    bool one_thread;
    void (*open)(void);      /* before the threads are there */
    void (*enter)(caller *); /* in each thread; what is still to be connected */
    /* Either one statement, whose answer is the caller's; or all, until caller_may_ask() says no. */
    PGresult *(*ask)(caller *, const request *, const char **why);
    void (*work)(caller *);
    void (*leave)(caller *);
    int (*close)(void); /* how many connections there were */
} manner;

extern const manner load_raw, load_pipeline, load_handloop, load_leased, load_shared, load_tickets, load_loop;

/* Makes a caller's next statement, which is then to be sent, and notes the time. */
void request_make(caller *c, request *r);

/* Checks the answer, and counts it if it came in time. Dies if it is wrong; `why` is what the asker was told. */
void request_end(caller *c, const request *r, const PGresult *res, const char *why);

/* Whether there is time for one more. */
bool caller_may_ask(void);

/* A connection of a caller's own, with the statements prepared unless the settings say no. */
PGconn *load_connect(void);

/* Prepares them by name, as a service would when it connects. */
void load_prepare(PGconn *conn);

#endif
