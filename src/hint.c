#include "hint.h"

#include "conninfo.h"
#include "error.h"
#include "options.h"
#include "span.h"

#define IN_URI                                                                                               \
    "in a URI, write / ? # @ : and %% within a user or password as %%2F %%3F %%23 %%40 %%3A and %%25"

/* A keyword that some libraries know and others don't, and that the pool sees to itself. */
#define BALANCE "load_balance_hosts"

/* ---- keywords ---- */

static const PQconninfoOption *known_as(const PQconninfoOption *known, const char *keyword)
{
    for (; known->keyword; known++)
        if (strcmp(known->keyword, keyword) == 0)
            return known;
    return NULL;
}

/* libpq's keyword that is most like this one; NULL: none is. */
static const char *nearest(const PQconninfoOption *known, const char *keyword)
{
    const char *best = NULL;
    pqp_span given = pqp_span_of(keyword);
    int limit = (int)PQP_MIN(given.size, 12) / 4 + 2;
    for (; known->keyword; known++) {
        int d = pqp_span_distance(given, pqp_span_of(known->keyword));
        if (d < limit) {
            limit = d;
            best = known->keyword;
        }
    }
    return best;
}

static pqpool_code refuse_keyword(const PQconninfoOption *known, const char *intro, const char *keyword,
                                  pqpool_error *err)
{
    const char *near = nearest(known, keyword);
    char ours[300];
    pqp_refuse(err, PQPOOL_EINVAL, "%sunknown connection option %.80s: ", intro, keyword);
    if (pqp_options_find(keyword) >= 0 || !near) {
        if (pqp_options_suggest(keyword, true, ours, sizeof ours)) {
            pqp_error_append(err, "%s", ours);
            return PQPOOL_EINVAL;
        }
    }
    if (near)
        pqp_error_append(err, "did you mean %s?", near);
    else
        pqp_error_append(
            err,
            "not one of libpq's; the pool's begin with pool_, and a setting of the server is given by "
            "options='-c %.80s=...'",
            keyword);
    return PQPOOL_EINVAL;
}

/* ---- values ---- */

static bool is_port_list(const char *value)
{
    for (const char *p = value;; p++) {
        pqp_span element = {p, strcspn(p, ",")};
        int64_t port = 1;
        p += element.size;
        while (element.size > 0 && *element.at == ' ')
            element = (pqp_span){element.at + 1, element.size - 1};
        element = pqp_span_cut_blanks(element);
        if (element.size > 0 && (!pqp_span_parse_whole(element, &port) || port < 1 || port > 65535))
            return false;
        if (!*p)
            return true;
    }
}

/* An "@" that is no abstract socket's and no directory's. */
static bool holds_user(const char *hosts)
{
    for (const char *p = hosts; *p; p += *p == ',') {
        size_t size = strcspn(p, ",");
        if (size > 1 && *p != '/' && memchr(p + 1, '@', size - 1))
            return true;
        p += size;
    }
    return false;
}

static pqpool_code check_value(const char *keyword, const char *value, pqpool_error *err)
{
    if (strcmp(keyword, "port") == 0 && !is_port_list(value))
        return pqp_refuse(err, PQPOOL_EINVAL, "port is no number from 1 to 65535; " IN_URI);
    if ((strcmp(keyword, "host") == 0 || strcmp(keyword, "hostaddr") == 0) && holds_user(value))
        return pqp_refuse(err, PQPOOL_EINVAL, "%s holds an \"@\"; " IN_URI, keyword);
    if (strcmp(keyword, "dbname") == 0 && pqp_conninfo_recognize(value))
        return pqp_refuse(
            err, PQPOOL_EINVAL,
            "dbname holds a connection string, which is not read there: give it by itself (or, to "
            "pqpool_open_params(), with expand_dbname)");
    return PQPOOL_OK;
}

/* ---- a connection string ---- */

typedef struct reading {
    const PQconninfoOption *known;
    bool secret;    /* what follows may be the rest of a password with a blank or an "@" in it */
    bool balancing; /* it has the keyword that libpq may not know */
} reading;

static pqpool_code take(void *arg, const char *name, const char *value, pqpool_error *err)
{
    reading *r = arg;
    (void)value;
    bool was_secret = r->secret;
    const PQconninfoOption *option = known_as(r->known, name);
    r->secret = r->secret || (option && strchr(option->dispchar, '*')); /* libpq's mark of a password */
    r->balancing = r->balancing || strcmp(name, BALANCE) == 0;
    if (option || strcmp(name, BALANCE) == 0)
        return PQPOOL_OK;
    if (was_secret)
        return pqp_refuse(
            err, PQPOOL_EINVAL,
            "an unknown connection option behind a password: a value with a blank in it stands in quotes, "
            "password='a b'; " IN_URI);
    return refuse_keyword(r->known, "the connection string is not valid: ", name, err);
}

/* Where an "@" stands behind the host of a URI, since a password had a character in it that ended it too early. */
typedef enum { NOT_LATE, LATE_IN_PATH, LATE_IN_QUERY } late_at;

static late_at find_late_at(const char *uri)
{
    const char *host = strstr(uri, "://") + 3,
               *end = host + strcspn(host, "@/"); /* as libpq looks for the user */
    bool user = *end == '@';
    if (user)
        host = end + 1;
    const char *path = host + strcspn(host, "/?"), *query = path + strcspn(path, "?");
    if (memchr(path, '@', (size_t)(query - path)))
        return LATE_IN_PATH;
    return strchr(query, '@') && !user && memchr(host, ':', (size_t)(path - host)) ? LATE_IN_QUERY : NOT_LATE;
}

static pqpool_code explain(const char *text, const PQconninfoOption *known, bool refused, pqpool_error *err)
{
    bool uri = pqp_conninfo_is_uri(text);
    late_at late = uri ? find_late_at(text) : NOT_LATE;
    reading r = {.known = known, .secret = late == LATE_IN_QUERY};
    if (late == LATE_IN_PATH)
        return pqp_refuse(err, PQPOOL_EINVAL, "an \"@\" stands behind the host of the URI; " IN_URI);
    if (!refused)
        return PQPOOL_OK;
    pqpool_code code = pqp_conninfo_read(text, take, &r, err);
    if (code != PQPOOL_OK || r.balancing)
        return code;
    pqp_refuse(
        err, PQPOOL_EINVAL,
        "the connection string is not valid (libpq's words are not shown, as they repeat parts of it)");
    if (uri)
        pqp_error_append(err, ": " IN_URI ", an IPv6 address in brackets");
    return PQPOOL_EINVAL;
}

static pqpool_code read_conninfo(const char *text, const PQconninfoOption *known, pqpool_error *err)
{
    char *why = NULL;
    PQconninfoOption *parsed = PQconninfoParse(text, &why);
    if (!parsed && !why)
        return pqp_no_memory(err);
    pqp_conninfo_forget(why);
    pqpool_code code = explain(text, known, !parsed, err);
    for (PQconninfoOption *o = parsed; o && o->keyword; o++) {
        if (o->val && code == PQPOOL_OK)
            code = check_value(o->keyword, o->val, err);
        if (o->val)
            explicit_bzero(o->val, strlen(o->val));
    }
    PQconninfoFree(parsed);
    return code;
}

pqpool_code pqp_hint_conninfo(const char *text, pqpool_error *err)
{
    PQconninfoOption *known = PQconndefaults();
    if (!known)
        return pqp_no_memory(err);
    pqpool_code code = read_conninfo(text, known, err);
    PQconninfoFree(known);
    return code;
}

pqpool_code pqp_hint_pairs(const char *const *keywords, const char *const *values, int expand_dbname,
                           pqpool_error *err)
{
    PQconninfoOption *known = PQconndefaults();
    if (!known)
        return pqp_no_memory(err);
    pqpool_code code = PQPOOL_OK;
    for (size_t i = 0; keywords[i] && code == PQPOOL_OK; i++) {
        if (!values[i] || strncmp(keywords[i], "pool_", 5) == 0)
            continue;
        if (!known_as(known, keywords[i]) && strcmp(keywords[i], BALANCE) != 0)
            code = refuse_keyword(known, "", keywords[i], err);
        else if (expand_dbname && strcmp(keywords[i], "dbname") == 0 && pqp_conninfo_recognize(values[i]))
            code = read_conninfo(values[i], known, err);
        else
            code = check_value(keywords[i], values[i], err);
    }
    PQconninfoFree(known);
    return code;
}
