/*
 * watch: keeps an eye on leases that last: what their holders do, and which of them are leaks; and on shared connections on
 * which one statement holds up others.
 *
 * Nothing here costs the holders anything, or waits for them. The keeper looks at leases older than 100 ms, ever more
 * seldom (activity.h says at what). It finds the leaks. They are told of once the server has said what they run, if an idle
 * connection is there to ask it over: an errand of the connector does, since asking may block; otherwise at once, with
 * what was seen from here.
 */
#ifndef PQP_WATCH_H
#define PQP_WATCH_H

#include "holder.h"
#include "pool.h"
#include "session.h"

/* Without locks: looks at the leases that have lasted a while, or at all (as many as one look can take in). Returns when
 * to look again. */
pqp_time pqp_watch_look(pqpool *p, bool all);

/* Tells of one leak. */
void pqp_watch_tell_leak_locked(pqpool *p, pqp_slot *s);

/* Finds leases older than leak_threshold, and has the server asked for them, or tells of them. */
void pqp_watch_find_leaks_locked(pqpool *p, pqp_time now);

/* Finds statements that hold up others on a shared connection, and has the server asked for what they wait for, or tells of
 * them. */
void pqp_watch_find_stalls_locked(pqpool *p, pqp_time now);

/* The leases the server is to be asked for: all, or those found to be leaks; and what holds up others. Returns how many. */
int pqp_watch_list_locked(pqpool *p, bool all, pqp_survey *rows, int room);
/* What it said; leaks that waited for it are told. */
void pqp_watch_heard_locked(pqpool *p, const pqp_survey *rows, int n);

#endif
