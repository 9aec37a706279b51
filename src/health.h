/*
 * health: whether the pool is too small, too large, or without a server: one judgement, for the call and for the check the
 * keeper makes every health_interval.
 */
#ifndef PQP_HEALTH_H
#define PQP_HEALTH_H

#include "fleet.h"

void pqp_health_judge_locked(pqpool *p, pqp_time now, pqpool_health_data *out);

/* For the keeper: when it is time, warns of what is found, and begins a new stretch. */
void pqp_health_check_locked(pqpool *p, pqp_time now);

#endif
