/*
 * patience: how long a connection that owes an answer may be silent before the pool goes on without it.
 *
 * A server that is there answers a probe, or a step of a reset, within a round trip. One that does not may be slow, or stopped, or
 * not reachable any more: a firewall has dropped the flow, the machine is gone. Then it takes seconds until that is certain,
 * and whoever relies on the connection meanwhile waits for nothing, while a new one would take milliseconds. So there
 * are two times. Up to the first (100 ms, or four round trips to a distant server) a connection that is being asked covers a
 * caller who waits: nothing else is begun for him. From then on it is SILENT: it is asked on, in the background, for seconds,
 * and if it answers after all it is as good as any, but it covers no caller, and a connection is made in its place.
 *
 * One that is silent says something of others: what was not heard of for as long, or longer, on the same server has most
 * likely met with the same. These are DOUBTFUL: they are not lent, but asked, all at once, in the background; and what is doubtful
 * covers nobody from the beginning. Younger ones are lent as ever: the server was heard on them since. Without this each would
 * cost its caller the first time, one after another; nothing is closed by a doubt alone.
 *
 * Where the pool is full, nothing can be made before something goes. Then the connection that has been silent longest is given
 * up for a caller whom nothing covers: the first soon, each further one at once only if a connect has come up since the
 * one before, which shows that new ones work where old ones don't; else after a second. A server that is only slow
 * loses one connection by that, and not all.
 *
 * What was tried: to ask one after another, oldest first, took 5 s for each that was dead. To connect beside each probe from
 * the beginning made connections for nothing wherever a server was busy.
 */
#ifndef PQP_PATIENCE_H
#define PQP_PATIENCE_H

#include "slot.h"

/* The first time, by the round trip to the server; 0: that is not known. */
pqp_time pqp_patience_time(pqp_time round_trip);

/* Connections that are being asked are in these states: begins with NULL, and ends with it. */
pqp_slot *pqp_patience_next(const pqp_slots *s, const pqp_slot *slot);

/* Whether one that is being asked has been silent for so long that nobody is to rely on it. */
bool pqp_patience_is_over(const pqp_slot *slot, pqp_time patience, pqp_time now);

/* How many of a state cover somebody; to_lane: of those that become lanes for everybody, else of those that become idle. */
int pqp_patience_covering(const pqp_slots *s, pqp_slot_state state, bool to_lane, pqp_time patience,
                          pqp_time now);

/* An idle connection that is doubtful since this one is silent; NULL: there is none. */
pqp_slot *pqp_patience_doubtful(const pqp_slots *s, const pqp_slot *silent);

/* What is to be given up first for want of room; NULL: there is none that has been silent for so long. */
pqp_slot *pqp_patience_longest(const pqp_slots *s, pqp_time silent_for, pqp_time now);

#endif
