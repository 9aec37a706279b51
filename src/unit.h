/*
 * unit: what is sent between two Syncs. The lane's lock is held.
 */
#ifndef PQP_UNIT_H
#define PQP_UNIT_H

#include "flight.h"

/* Sends from the backlog while the window has room. True: it has more to send, and has only paused. */
bool pqp_unit_send_backlog(pqp_lane *l);

#endif
