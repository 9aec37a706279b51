/*
 * hosts: the hosts of a connection string, in the order in which one connect tries them, and what is remembered of them from
 * one connect to the next.
 *
 * Why the pool does not leave them to libpq. Asked for several hosts, or for a name that has several addresses, libpq goes on
 * to the next when one refuses; when one is silent (frozen, behind a broken link, or a firewall that drops), only its
 * blocking functions go on, after connect_timeout. A pool connects without blocking functions, since it has a time-out of its
 * own to keep, and so would stay at the silent one until its time is over, each time. So the pool walks over hosts and
 * addresses itself, and libpq is asked for one address at a time (host=NAME hostaddr=ADDRESS port=PORT: the name stays beside
 * the address for certificates, the password file and messages).
 *
 *   time      with pool_connect_timeout, or by default, the whole walk has that time, and each address its share of what is
 *             left, so that what fails at once leaves its time to the others. With libpq's own connect_timeout (in the string,
 *             a service file or the environment) each address has that time, at least 2 s, as libpq documents.
 *   memory    what was silent is noted, by address and by host, and for a minute stands at the end of the order: the next
 *             connect begins behind it. An answer of any kind deletes the note.
 *   order     as written, or shuffled (load_balance_hosts=random; hosts first, then the addresses of each), the silent ones last.
 *   an end    as with libpq: a server that refuses a login ends the walk, since the next would refuse it too. A network
 *             error, silence, and a server that starts, stops or is full lead to the next address; a session that is not what
 *             target_session_attrs asks for leads to the next host. prefer-standby is two walks: for a standby, then for any.
 *
 * Names are resolved here, in the connector's thread, one at a time and only when it is their turn.
 */
#ifndef PQP_HOSTS_H
#define PQP_HOSTS_H

#include "clock.h"
#include "role.h"
#include "target.h"

/* ---- what is remembered; one for each pool, thread-safe, all zero at first ---- */

enum { PQP_SILENT_MAX = 32 };

typedef struct pqp_silence {
    _Atomic uint64_t key[PQP_SILENT_MAX];
    _Atomic int64_t until[PQP_SILENT_MAX];
} pqp_silence;

void pqp_silence_note(pqp_silence *s, uint64_t key, pqp_time now);
void pqp_silence_break(pqp_silence *s, uint64_t key);
bool pqp_silence_holds(pqp_silence *s, uint64_t key, pqp_time now);

/* ---- hosts ---- */

typedef struct pqp_host {
    char *name, *address, *port; /* "" where none is given; in one piece of memory */
    bool resolve;                /* the name is one that has addresses */
    uint64_t key;
} pqp_host;

typedef struct pqp_hosts {
    pqp_host *all;
    int n;
    bool alone;    /* one host, not named at all: libpq's default */
    bool numbered; /* hostaddr is given somewhere, and has to be overridden */
    bool shuffle;
    int timeout_s; /* libpq's connect_timeout; 0: none */
    pqp_attrs attrs;
} pqp_hosts;

/* What the settings say; EINVAL-like refusals are ECONNECT, final. */
pqpool_code pqp_hosts_init(pqp_hosts *h, const PQconninfoOption *settings, pqp_balance balance,
                           pqpool_error *err) PQP_MUSTCHECK;
void pqp_hosts_fini(pqp_hosts *h);

/* Whether libpq would take the target, and its hosts, ports and numbers are some: EINVAL with its words if not. *timeout_s:
 * its connect_timeout, as libpq takes it; 0: none. Opens no socket, asks no resolver. */
pqpool_code pqp_hosts_check(const pqp_target *target, int *timeout_s, pqpool_error *err) PQP_MUSTCHECK;

/* Puts them in the order of one walk. */
void pqp_hosts_order(pqp_hosts *h, pqp_silence *s, pqp_time now);

/* An address of a host; text is "" where libpq is left to find it (a Unix socket). */
typedef struct pqp_address {
    char text[80];
    uint64_t key;
} pqp_address;

/* The addresses of a host, in order, malloc'd; blocks as long as the resolver does. 0, and err says why: there are none. */
int pqp_hosts_resolve(const pqp_hosts *h, const pqp_host *host, pqp_silence *s, pqp_address **addresses,
                      pqpool_error *err) PQP_MUSTCHECK;

#endif
