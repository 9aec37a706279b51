/*
 * sockets: the descriptors of this process by which servers know its pools, so that a forked child can let go of them.
 *
 * A child has a copy of each descriptor, and a server sees its session end only when the last copy has gone. A child
 * that lives on would keep sessions, transactions and locks of a parent that has died. So in the child each of these
 * descriptors is replaced, under its number, by a dead one: nothing the child does by it reaches the server, PQfinish() of
 * a lease included. To close it would not do: the number would be another file's before long, and PQfinish() would write
 * into that.
 *
 * All of this is of the process, not of a pool, and takes no lock: in the child of a process with threads a lock
 * may be held by a thread that is not there. An entry holds the socket's inode beside its descriptor, since between
 * the closing of a socket and its entry's end the number may be another file's already: that is left alone.
 */
#ifndef PQP_SOCKETS_H
#define PQP_SOCKETS_H

#include "base.h"

/* One socket, by one descriptor. */
typedef struct pqp_known {
    _Atomic int state;      /* free, or taken */
    _Atomic int fd;         /* -1: none at present */
    _Atomic uint64_t inode; /* of the socket that has this descriptor */
} pqp_known;

pqp_known *pqp_sockets_know(int fd) PQP_MUSTCHECK; /* fd -1: none as yet; NULL: no memory */
void pqp_sockets_now(pqp_known *k, int fd);        /* it is another one from here on; -1: none */
/* Closed, or about to be; NULL is taken. */
void pqp_sockets_forget(pqp_known *k);

/* A second descriptor of the same socket, closed at exec, and known; -1: there is none left, or no memory. */
int pqp_sockets_copy(int fd, pqp_known **k) PQP_MUSTCHECK;
void pqp_sockets_drop(int fd, pqp_known *k); /* closes it; -1 and NULL are taken */

void pqp_sockets_forked(void); /* in the child: replaces them all. Async-signal-safe */

#endif
