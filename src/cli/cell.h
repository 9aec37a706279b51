/* cell: one measurement: a mode, a round trip and a form of the request, and what came out. */
#ifndef CLI_CELL_H
#define CLI_CELL_H

#include "request.h"

#define MAX_ROUNDS 99

/* One round's, or all rounds' medians. */
typedef struct cell {
    request_mode mode;
    double rtt_ms;
    int statements; /* the form */
    int users;
    int connections_peak;
    int pool_size; /* what the pool was allowed */
    double requests_per_s, p50_ms, p99_ms;
    long errors;
    int n_rounds;
    double rates[MAX_ROUNDS]; /* requests_per_s in each round */
} cell;

/* The median, which reorders the values; 0 of none. */
double cell_median(double *values, int n);
/* How far the rates of the rounds lie apart, as a part of their median. */
double cell_spread(const cell *c);
/* Makes one of its rounds: medians, the most connections, all errors. */
cell cell_of_rounds(const cell *rounds, int n);

/*
 * Lets cell->users threads send requests through the pool: a while to warm up, then for the measured time,
 * or until *stop becomes nonzero. Fills in the rates, times and errors of the cell; the first error is told
 * on stderr. False, after having complained, when the users could not be set up.
 */
bool cell_run(cell *c, pqpool *pool, const board_page *pages, int n_pages, double seconds,
              volatile sig_atomic_t *stop);

#endif
