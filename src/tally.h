/*
 * tally: figures of the statements on shared connections.
 *
 * Each lane has one, written under its lock, so that no statement touches a cache line that another lane writes; a look adds
 * them up without a lock. What is seldom (an error that may be run once more, a time-out, a loss) is counted by the pool, in
 * one of its own under a mutex.
 */
#ifndef PQP_TALLY_H
#define PQP_TALLY_H

#include "base.h"
#include "clock.h"
#include "histogram.h"
#include <pqpool-ops.h>

typedef struct pqp_tally {
    int64_t done, failed, failed_by[PQPOOL_ERROR_CLASSES];
    int64_t rows, bytes, prepared_hits, prepared_misses;
    pqpool_histogram duration, unsent, rows_of_each, bytes_of_each;
} pqp_tally;

/* By its first two characters. */
pqpool_error_class pqp_tally_class(const char *sqlstate);

/* One writer at a time; any number of readers. */
void pqp_tally_done(pqp_tally *t, int64_t rows, int64_t bytes);
void pqp_tally_failed(pqp_tally *t, const char *sqlstate);
/* From the call to the answer, and of that, until it was sent. */
void pqp_tally_time(pqp_tally *t, pqp_time whole, pqp_time unsent);
void pqp_tally_prepared(pqp_tally *t, bool hit);
void pqp_tally_merge(const pqp_tally *t, pqpool_stats_data *into);

#endif
