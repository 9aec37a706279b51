#include "hosts.h"

#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/un.h>

#include "refusal.h"

#define MEMORY (60 * PQP_SECOND)

/* ---- what is remembered ---- */

static uint64_t hash(uint64_t key, const char *text)
{
    for (const char *p = text;; p++) {
        key = (key ^ (unsigned char)*p) * UINT64_C(1099511628211);
        if (!*p)
            return key;
    }
}

static uint64_t key_of(const char *name, const char *port)
{
    return hash(hash(UINT64_C(14695981039346656037), name), port) | 1; /* 0 is an empty place */
}

/* A place that is written by two at once holds one of them, or is forgotten: no harm. */
void pqp_silence_note(pqp_silence *s, uint64_t key, pqp_time now)
{
    int place = 0;
    for (int i = 0; i < PQP_SILENT_MAX; i++) {
        if (pqp_load(&s->key[i]) == key) {
            place = i;
            break;
        }
        if (pqp_load(&s->until[i]) < pqp_load(&s->until[place]))
            place = i;
    }
    pqp_store(&s->key[place], key);
    pqp_store(&s->until[place], now + MEMORY);
}

void pqp_silence_break(pqp_silence *s, uint64_t key)
{
    for (int i = 0; i < PQP_SILENT_MAX; i++)
        if (pqp_load(&s->key[i]) == key)
            pqp_store(&s->until[i], 0);
}

bool pqp_silence_holds(pqp_silence *s, uint64_t key, pqp_time now)
{
    for (int i = 0; i < PQP_SILENT_MAX; i++)
        if (pqp_load(&s->key[i]) == key)
            return pqp_load(&s->until[i]) > now;
    return false;
}

/* ---- reading ---- */

/* fmt has one %s. */
#define refuse(err, fmt, value)                                                                              \
    (pqp_refuse((err), PQPOOL_ECONNECT, fmt, (value)), pqp_refusal_mark(err, true), PQPOOL_ECONNECT)

/* The elements of a list with commas; one for "". */
static int count(const char *list)
{
    int n = 1;
    for (; list && (list = strchr(list, ',')); list++)
        n++;
    return n;
}

/* The i-th element, or the only one there is; not ended by a NUL. */
static size_t find_element(const char *list, int i, const char **at)
{
    *at = list ? list : "";
    for (const char *comma; i > 0 && (comma = strchr(*at, ',')); i--)
        *at = comma + 1;
    return strcspn(*at, ",");
}

static char *copy(const char *from, size_t size, char **to)
{
    char *text = memcpy(*to, from, size);
    text[size] = '\0';
    *to += size + 1;
    return text;
}

/* As libpq sees it: a directory, or an abstract socket. */
static bool is_socket_path(const char *name)
{
    return *name == '/' || *name == '@';
}

static pqpool_code check_host(const pqp_host *h, pqpool_error *err)
{
    char *end;
    long port = *h->port ? strtol(h->port, &end, 10) : 5432;
    if (*h->port && (*end || end == h->port))
        return refuse(err, "invalid integer value \"%s\" for connection option \"port\"", h->port);
    if (port < 1 || port > 65535)
        return refuse(err, "invalid port number: \"%s\"", h->port);
    if (*h->address) {
        struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST}, *found = NULL;
        if (getaddrinfo(h->address, NULL, &want, &found) != 0)
            return refuse(err, "could not parse network address \"%s\"", h->address);
        freeaddrinfo(found);
    } else if (is_socket_path(h->name)) {
        size_t length = strlen(h->name) + strlen("/.s.PGSQL.") + (*h->port ? strlen(h->port) : 4);
        if (length >= sizeof((struct sockaddr_un *)0)->sun_path)
            return refuse(err, "Unix-domain socket path \"%s\" is too long", h->name);
    }
    return PQPOOL_OK;
}

static pqpool_code read_host(pqp_host *h, int i, const char *names, const char *addresses, const char *ports,
                             pqpool_error *err)
{
    const char *name, *address, *port;
    size_t name_size = find_element(names, i, &name), address_size = find_element(addresses, i, &address),
           port_size = find_element(ports, count(ports) == 1 ? 0 : i, &port);
    char *room = malloc(name_size + address_size + port_size + 3);
    if (!room)
        return pqp_no_memory(err);
    h->name = copy(name, name_size, &room); /* owns the room */
    h->address = copy(address, address_size, &room);
    h->port = copy(port, port_size, &room);
    h->resolve = *h->name && !*h->address && !is_socket_path(h->name);
    h->key = key_of(*h->name ? h->name : h->address, h->port);
    return check_host(h, err);
}

static pqpool_code read_attrs(const char *value, pqp_attrs *attrs, pqpool_error *err)
{
    static const char *const words[] = {"any",     "read-write", "read-only",
                                        "primary", "standby",    "prefer-standby"};
    for (size_t i = 0; i < PQP_COUNT_OF(words); i++)
        if (!value || strcmp(value, words[i]) == 0) {
            *attrs = (pqp_attrs)i;
            return PQPOOL_OK;
        }
    return refuse(err, "invalid target_session_attrs value: \"%s\"", value);
}

pqpool_code pqp_hosts_init(pqp_hosts *h, const PQconninfoOption *settings, pqp_balance balance,
                           pqpool_error *err)
{
    const char *names = pqp_settings_value(settings, "host"),
               *addresses = pqp_settings_value(settings, "hostaddr"),
               *ports = pqp_settings_value(settings, "port"),
               *timeout = pqp_settings_value(settings, "connect_timeout"),
               *balanced = pqp_settings_value(settings, "load_balance_hosts");
    *h = (pqp_hosts){.n = count(addresses ? addresses : names), .numbered = addresses != NULL};
    h->alone = !names && !addresses;
    h->timeout_s = timeout && atoi(timeout) > 0 ? PQP_MAX(2, atoi(timeout)) : 0; /* libpq takes 1 for 2 */
    if (!balanced)
        balanced = getenv("PGLOADBALANCEHOSTS");
    h->shuffle = balance == PQP_BALANCE_RANDOM ||
                 (balance == PQP_BALANCE_UNSET && balanced && strcmp(balanced, "random") == 0);
    h->all = calloc((size_t)h->n, sizeof *h->all);
    pqpool_code code = h->all
                           ? read_attrs(pqp_settings_value(settings, "target_session_attrs"), &h->attrs, err)
                           : pqp_no_memory(err);
    for (int i = 0; i < h->n && code == PQPOOL_OK; i++)
        code = read_host(&h->all[i], i, names, addresses, ports, err);
    if (code != PQPOOL_OK)
        pqp_hosts_fini(h);
    return code;
}

void pqp_hosts_fini(pqp_hosts *h)
{
    for (int i = 0; h->all && i < h->n; i++)
        free(h->all[i].name);
    free(h->all);
    h->all = NULL;
    h->n = 0;
}

pqpool_code pqp_hosts_check(const pqp_target *target, int *timeout_s, pqpool_error *err)
{
    pqpool_error why;
    pqp_pairs pairs = {0};
    pqp_hosts hosts = {0};
    pqpool_code code = pqp_no_memory(&why);
    PQconninfoOption *settings = NULL;
    if (pqp_target_add(target, &pairs))
        settings = pqp_settings_of(&pairs, target->expand_dbname, &why);
    if (settings)
        code = pqp_hosts_init(&hosts, settings, target->balance, &why);
    else
        code = (pqpool_code)why.code;
    *timeout_s = hosts.timeout_s;
    pqp_pairs_fini(&pairs);
    pqp_hosts_fini(&hosts);
    pqp_settings_free(settings);
    if (code == PQPOOL_OK || code == PQPOOL_ENOMEM)
        return code == PQPOOL_OK ? code : pqp_no_memory(err);
    return pqp_refuse(err, PQPOOL_EINVAL, "%s", why.message);
}

/* ---- the order ---- */

/* A number below n. */
static int draw(int n)
{
    uint32_t random = (uint32_t)pqp_now();
    (void)!getrandom(&random, sizeof random, GRND_NONBLOCK);
    return (int)(random % (uint32_t)n);
}

void pqp_hosts_order(pqp_hosts *h, pqp_silence *s, pqp_time now)
{
    for (int i = h->n - 1; h->shuffle && i > 0; i--) {
        int k = draw(i + 1);
        pqp_host other = h->all[i];
        h->all[i] = h->all[k];
        h->all[k] = other;
    }
    /* The silent ones behind the others, the order kept within both. */
    for (int i = 0, left = h->n; left > 0; left--) {
        if (!pqp_silence_holds(s, h->all[i].key, now)) {
            i++;
            continue;
        }
        pqp_host silent = h->all[i];
        memmove(&h->all[i], &h->all[i + 1], (size_t)(h->n - i - 1) * sizeof *h->all);
        h->all[h->n - 1] = silent;
    }
}

static void order_addresses(pqp_address *a, int n, bool shuffle, pqp_silence *s)
{
    pqp_time now = pqp_now();
    for (int i = n - 1; shuffle && i > 0; i--) {
        int k = draw(i + 1);
        pqp_address other = a[i];
        a[i] = a[k];
        a[k] = other;
    }
    for (int i = 0, left = n; left > 0; left--) {
        if (!pqp_silence_holds(s, a[i].key, now)) {
            i++;
            continue;
        }
        pqp_address silent = a[i];
        memmove(&a[i], &a[i + 1], (size_t)(n - i - 1) * sizeof *a);
        a[n - 1] = silent;
    }
}

static int translate(const pqp_host *host, pqp_address **addresses, pqpool_error *err)
{
    struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC}, *found = NULL;
    int rc = getaddrinfo(host->name, NULL, &want, &found), n = 0;
    if (rc != 0) {
        pqp_refuse(err, PQPOOL_ECONNECT, "could not translate host name \"%s\" to address: %s", host->name,
                   gai_strerror(rc));
        return 0;
    }
    for (const struct addrinfo *a = found; a; a = a->ai_next)
        n++;
    *addresses = calloc((size_t)n, sizeof **addresses);
    int kept = 0;
    for (const struct addrinfo *a = found; a && *addresses; a = a->ai_next) {
        pqp_address *to = &(*addresses)[kept];
        if (getnameinfo(a->ai_addr, a->ai_addrlen, to->text, sizeof to->text, NULL, 0, NI_NUMERICHOST) == 0)
            to->key = key_of(to->text, host->port), kept++;
    }
    freeaddrinfo(found);
    if (!*addresses)
        pqp_no_memory(err);
    else if (kept == 0)
        pqp_refuse(err, PQPOOL_ECONNECT, "host name \"%s\" has no address that could be read", host->name);
    return kept;
}

int pqp_hosts_resolve(const pqp_hosts *h, const pqp_host *host, pqp_silence *s, pqp_address **addresses,
                      pqpool_error *err)
{
    *addresses = NULL;
    if (host->resolve) {
        int n = translate(host, addresses, err);
        if (n > 0)
            order_addresses(*addresses, n, h->shuffle, s);
        return n;
    }
    *addresses = calloc(1, sizeof **addresses);
    if (!*addresses) {
        pqp_no_memory(err);
        return 0;
    }
    snprintf((*addresses)->text, sizeof(*addresses)->text, "%s", host->address);
    (*addresses)->key = *host->address ? key_of(host->address, host->port) : host->key;
    return 1;
}
