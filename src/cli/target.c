/* target: the server the user named, reached by plain libpq or by a pool. */
#include "target.h"

#include "progress.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POOL_PREFIX "pool_"
#define MAX_KEYWORDS 16

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* Drops the pool_ parameters behind the question mark of a URI, in place. */
static void strip_uri(char *uri)
{
    char *question = strchr(uri, '?');
    if (!question)
        return;
    char *to = question;
    for (const char *from = question + 1; *from;) {
        size_t len = strcspn(from, "&");
        bool last = from[len] == '\0';
        if (!starts_with(from, POOL_PREFIX)) {
            *to = to == question ? '?' : '&';
            memmove(to + 1, from, len);
            to += 1 + len;
        }
        from += len + !last;
    }
    *to = '\0';
}

static const char *skip_space(const char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    return s;
}

/* Past a value, 'quoted' or bare, by libpq's rules. */
static const char *skip_value(const char *s)
{
    bool quoted = *s == '\'';
    for (s += quoted; *s && (quoted ? *s != '\'' : !isspace((unsigned char)*s)); s++)
        if (*s == '\\' && s[1])
            s++;
    return s + (quoted && *s);
}

/* Drops the pool_ pairs of a keyword = value string, in place. */
static void strip_pairs(char *pairs)
{
    char *to = pairs;
    for (const char *from = pairs; *from;) {
        const char *key = skip_space(from);
        const char *equals = skip_space(key + strcspn(key, "= \t\r\n\f\v"));
        const char *end = *equals == '=' ? skip_value(skip_space(equals + 1)) : key + strlen(key);
        if (!starts_with(key, POOL_PREFIX)) {
            memmove(to, from, (size_t)(end - from));
            to += end - from;
        }
        from = end;
    }
    *to = '\0';
}

int target_init(target *where, const char *conninfo)
{
    where->conninfo = conninfo;
    where->plain = strdup(conninfo);
    if (!where->plain)
        return -1;
    if (starts_with(conninfo, "postgresql://") || starts_with(conninfo, "postgres://"))
        strip_uri(where->plain);
    else if (strchr(conninfo, '='))
        strip_pairs(where->plain);
    return 0;
}

void target_wipe(target *where)
{
    free(where->plain);
    where->plain = NULL;
}

PGconn *target_connect(const target *where, const char *application_name)
{
    const char *keywords[] = {"dbname", "application_name", NULL};
    const char *values[] = {where->plain, application_name, NULL};
    PGconn *conn = PQconnectdbParams(keywords, values, 1);
    if (PQstatus(conn) == CONNECTION_OK)
        return conn;
    complain("cannot connect: %s", conn ? PQerrorMessage(conn) : "out of memory");
    PQfinish(conn);
    return NULL;
}

/* A keyword list under construction, for libpq's ...Params functions. */
struct params {
    const char *keywords[MAX_KEYWORDS + 1];
    const char *values[MAX_KEYWORDS + 1];
    int n;
};

/* What stands later in the list overrides what stands before. */
static void add(struct params *list, const char *keyword, const char *value)
{
    if (!value || !*value || list->n == MAX_KEYWORDS)
        return;
    list->keywords[list->n] = keyword;
    list->values[list->n++] = value;
}

pqpool *target_open_pool(const target *where, PGconn *like, const target_route *route, const char *schema,
                         const char *application_name, const char *shared_max, pqpool_error *err)
{
    char options[1000];
    const char *own = like ? PQoptions(like) : NULL;
    struct params list = {.n = 0};
    add(&list, "dbname", where->conninfo);
    add(&list, "pool_shared_max", shared_max);
    if (shared_max) { /* then that many and no more, whatever a query takes on a busy machine */
        add(&list, "pool_slow_lane_threshold", "off");
        add(&list, "pool_stall_threshold", "off");
    }
    add(&list, "application_name", application_name);
    if (like) {
        add(&list, "user", PQuser(like));
        add(&list, "password", PQpass(like));
        add(&list, "dbname", PQdb(like));
    }
    if (route) {
        add(&list, "host", route->host);
        add(&list, "hostaddr", route->hostaddr);
        add(&list, "port", route->port);
    }
    if (schema) {
        /* The time-out bounds each statement: a demo must not hang when its server does. */
        snprintf(options, sizeof options, "%s -csearch_path=%s -cstatement_timeout=30s", own ? own : "",
                 schema);
        add(&list, "options", options);
    }
    return pqpool_open_params(list.keywords, list.values, 1, NULL, err);
}
