/*
 * delayproxy: a stand-in for a distant server: forwards connections to a server nearby and delays what goes
 * through, in both directions, by half a round trip. It is a delay line, not a brake: order is kept, any
 * number of bytes may be on the way at once, and reading goes on while earlier bytes wait.
 */
#ifndef CLI_DELAYPROXY_H
#define CLI_DELAYPROXY_H

#include "target.h"

typedef struct delayproxy delayproxy;

/*
 * Starts a proxy in a thread of its own, to the server that conn is connected to. Where that is reached by
 * TCP, so is the proxy (on 127.0.0.1); where by a Unix socket, the proxy has one too, in a directory only the
 * user may enter: the server may trust us for who we are, and nobody else shall pass for us.
 * NULL after having complained.
 */
delayproxy *delayproxy_start(PGconn *conn, double rtt_ms);

/* The way to the server through the proxy; valid until it is stopped. */
const target_route *delayproxy_route(const delayproxy *proxy);

/* Cuts what is still connected. NULL is allowed. */
void delayproxy_stop(delayproxy *proxy);

#endif
