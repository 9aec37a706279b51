/*
 * histogram: times in classes, four for each power of two of microseconds. Plain memory: whoever counts in one holds
 * the lock that guards it.
 */
#ifndef PQP_HISTOGRAM_H
#define PQP_HISTOGRAM_H

#include "base.h"
#include <pqpool-ops.h>

void pqp_histogram_count(pqpool_histogram *h, int64_t us);

#endif
