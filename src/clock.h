/*
 * clock: monotonic time, in nanoseconds, and absolute deadlines.
 *
 * A relative time-out becomes a deadline once, at the door (api.c), and is never turned back: a wait that is
 * woken early, or a statement that is queued a second time, still ends at the same instant. Setting the
 * machine's wall clock changes nothing here.
 */
#ifndef PQP_CLOCK_H
#define PQP_CLOCK_H

#include "base.h"

typedef int64_t pqp_time; /* ns of CLOCK_MONOTONIC */

#define PQP_NEVER INT64_MAX
#define PQP_US INT64_C(1000)
#define PQP_MS ((pqp_time)1000000)
#define PQP_SECOND (1000 * PQP_MS)

pqp_time pqp_now(void);

/* now + ms; ms < 0: never. */
pqp_time pqp_deadline(pqp_time now, int64_t ms);

/* The time left in whole ms, rounded up, for poll(): 0 when past, -1 for PQP_NEVER. */
int pqp_poll_ms(pqp_time deadline, pqp_time now);

/* span, more or less by up to percent of it, evenly spread; keeps clients from acting in step. */
pqp_time pqp_jitter(pqp_time span, int percent);

#endif
