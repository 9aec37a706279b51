/*
 * loop_work: what the loop_* examples have an event loop do; how the loop is tied to the pool is theirs to show.
 *
 * A hundred members are found by their ids, three figures are asked for as a group, and a visit is noted in a
 * transaction on a lease, all at the same time and in one thread. When the last answer is there, the server is asked
 * how many connections all that took.
 */
#ifndef LOOP_WORK_H
#define LOOP_WORK_H

#include <pqpool.h>

enum { LOOP_WORK_FINDS = 100, LOOP_WORK_FIGURES = 3, LOOP_WORK_PATIENCE_MS = 10000 };

typedef struct loop_work {
    const char *name; /* the program's */
    pqpool *pool;
    int finds, figures, visits; /* that have come, and were right */
    int left;                   /* callbacks that have not come yet */
    int failures;
    int connections; /* as the server counts them */
    int over;
} loop_work;

/* Opens the pool, by argv[1] and the environment, and sets everything going. 0: there is nothing to wait for. */
int loop_work_begin(loop_work *work, const char *name, int argc, char **argv);

/* The pool's descriptor is readable: runs the callbacks. 1: go on; 0: all is over, or has failed. */
int loop_work_ready(loop_work *work);

/* Prints what there is to say, and ends the pool. Returns the program's exit status. */
int loop_work_end(loop_work *work);

#endif
