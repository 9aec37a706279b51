/* target: the server the user named, reached by plain libpq or by a pool. */
#ifndef CLI_TARGET_H
#define CLI_TARGET_H

#include <pqpool.h>

typedef struct target {
    const char *conninfo; /* as the user gave it, pool_ options and all; "" for libpq's defaults */
    char *plain;          /* the same without pool_ options, which libpq does not know */
} target;

/* Another way to the same server; members may be NULL. */
typedef struct target_route {
    const char *host, *hostaddr, *port;
} target_route;

/* 0, or -1 when there is no memory. conninfo must outlive the target. */
int target_init(target *where, const char *conninfo);
void target_wipe(target *where);

/* A plain connection. NULL after having complained. */
PGconn *target_connect(const target *where, const char *application_name);

/*
 * Opens a pool with the user's options; shared_max NULL leaves the pool's default. `like` is an open
 * connection whose user, password and database the pool takes over; it and route may be NULL.
 */
pqpool *target_open_pool(const target *where, PGconn *like, const target_route *route, const char *schema,
                         const char *application_name, const char *shared_max, pqpool_error *err);

#endif
