#include "target.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>

#include "conninfo.h"
#include "refusal.h"

#define BALANCE "load_balance_hosts"

/* ---- pairs ---- */

bool pqp_pairs_add(pqp_pairs *pairs, const char *keyword, const char *value)
{
    if (pairs->n + 1 >= pairs->room) {
        int room = pairs->room ? 2 * pairs->room : 32;
        const char **both = calloc(2 * (size_t)room, sizeof *both);
        if (!both)
            return false;
        for (int i = 0; i < pairs->n; i++) {
            both[i] = pairs->keywords[i];
            both[room + i] = pairs->values[i];
        }
        free(pairs->keywords);
        pairs->keywords = both;
        pairs->values = both + room;
        pairs->room = room;
    }
    pairs->keywords[pairs->n] = keyword;
    pairs->values[pairs->n++] = value;
    pqp_pairs_cut(pairs, pairs->n);
    return true;
}

void pqp_pairs_cut(pqp_pairs *pairs, int n)
{
    if (pairs->room == 0)
        return;
    pairs->n = n;
    pairs->keywords[n] = pairs->values[n] = NULL;
}

void pqp_pairs_fini(pqp_pairs *pairs)
{
    free(pairs->keywords);
    *pairs = (pqp_pairs){0};
}

/* ---- load_balance_hosts ---- */

static pqpool_code read_balance(const char *value, pqp_balance *balance, pqpool_error *err)
{
    if (!*value)
        return PQPOOL_OK; /* as if it were not there */
    if (strcmp(value, "disable") != 0 && strcmp(value, "random") != 0)
        return pqp_refuse(err, PQPOOL_EINVAL, "invalid " BALANCE " value: \"%s\"", value);
    *balance = *value == 'r' ? PQP_BALANCE_RANDOM : PQP_BALANCE_OFF;
    return PQPOOL_OK;
}

static pqpool_code take_balance(void *arg, const char *name, const char *value, pqpool_error *err)
{
    if (strcmp(name, BALANCE) != 0)
        return pqp_refuse(err, PQPOOL_EINVAL, "invalid connection option \"%s\"", name);
    return read_balance(value, arg, err);
}

/* ---- the caller's pairs ---- */

void pqp_target_fini(pqp_target *t)
{
    for (int i = 0; t->keywords && t->keywords[i]; i++) {
        free(t->keywords[i]);
        explicit_bzero(t->values[i], strlen(t->values[i])); /* passwords, among others */
        free(t->values[i]);
    }
    free(t->keywords);
    free(t->values);
    t->keywords = t->values = NULL;
}

static bool is_known(const PQconninfoOption *known, const char *keyword)
{
    while (known->keyword && strcmp(known->keyword, keyword) != 0)
        known++;
    return known->keyword != NULL;
}

/* Has libpq say now what it would say at each connect. */
static pqpool_code check_keywords(const pqp_target *t, pqpool_error *err)
{
    PQconninfoOption *known = PQconndefaults();
    if (!known)
        return pqp_no_memory(err);
    pqpool_code code = PQPOOL_OK;
    for (int i = 0; t->keywords[i] && code == PQPOOL_OK; i++)
        if (!is_known(known, t->keywords[i]))
            code = pqp_refuse(
                err, PQPOOL_EINVAL,
                "unknown connection option %s: not one of libpq's, and the pool's begin with pool_",
                t->keywords[i]);
    PQconninfoFree(known);
    return code;
}

static pqpool_code check_conninfo(const char *text, pqpool_error *err)
{
    char *why = NULL;
    PQconninfoOption *parsed = PQconninfoParse(text, &why);
    if (parsed) {
        pqp_settings_free(parsed);
        return PQPOOL_OK;
    }
    if (!why)
        return pqp_no_memory(err);
    pqp_conninfo_forget(why); /* it may repeat a part of a password */
    return pqp_refuse(err, PQPOOL_EINVAL, "the connection string is not valid");
}

static bool is_expanded(const pqp_target *t, int i)
{
    return t->expand_dbname && strcmp(t->keywords[i], "dbname") == 0 && pqp_conninfo_recognize(t->values[i]);
}

/* One pair, copied; to is where the next one goes. */
static pqpool_code copy_pair(pqp_target *t, size_t *to, const char *keyword, const char *value,
                             pqpool_error *err)
{
    if (strcmp(keyword, BALANCE) == 0)
        return read_balance(value, &t->balance, err);
    size_t at = *to;
    bool expand = t->expand_dbname && strcmp(keyword, "dbname") == 0 && pqp_conninfo_recognize(value);
    if (expand) {
        pqpool_code code = pqp_conninfo_split(value, BALANCE, take_balance, &t->balance, &t->values[at], err);
        if (code != PQPOOL_OK)
            return code;
        /* An empty string would be a database called "". */
        if (!t->values[at][strspn(t->values[at], " \t\n")] || !pqp_conninfo_recognize(t->values[at])) {
            free(t->values[at]);
            t->values[at] = NULL;
            return PQPOOL_OK;
        }
    } else {
        t->values[at] = strdup(value);
    }
    t->keywords[at] = strdup(keyword);
    if (t->keywords[at] && t->values[at]) {
        ++*to;
        return PQPOOL_OK;
    }
    free(t->keywords[at]);
    free(t->values[at]);
    t->keywords[at] = t->values[at] = NULL;
    return pqp_no_memory(err);
}

pqpool_code pqp_target_init(pqp_target *t, const char *const *keywords, const char *const *values,
                            int expand_dbname, pqpool_error *err)
{
    size_t n = 0, to = 0;
    pqpool_code code = PQPOOL_OK;
    while (keywords[n])
        n++;
    *t = (pqp_target){.expand_dbname = expand_dbname};
    t->keywords = calloc(n + 1, sizeof *t->keywords);
    t->values = calloc(n + 1, sizeof *t->values);
    if (!t->keywords || !t->values)
        code = pqp_no_memory(err);
    for (size_t i = 0; i < n && code == PQPOOL_OK; i++)
        if (strncmp(keywords[i], "pool_", 5) != 0 && values[i])
            code = copy_pair(t, &to, keywords[i], values[i], err);
    if (code == PQPOOL_OK)
        code = check_keywords(t, err);
    for (int i = 0; code == PQPOOL_OK && t->keywords[i]; i++)
        if (is_expanded(t, i))
            code = check_conninfo(t->values[i], err);
    if (code != PQPOOL_OK)
        pqp_target_fini(t);
    return code;
}

bool pqp_target_add(const pqp_target *t, pqp_pairs *pairs)
{
    for (int i = 0; t->keywords[i]; i++)
        if (!pqp_pairs_add(pairs, t->keywords[i], t->values[i]))
            return false;
    return true;
}

/* Replaces *value by what the options say of the keyword, if anything. False: no memory. */
static bool value_in(const PQconninfoOption *options, const char *keyword, char **value)
{
    const char *said = pqp_settings_value(options, keyword);
    if (!said)
        return options != NULL;
    free(*value);
    *value = strdup(said);
    return *value != NULL;
}

/* By the pairs themselves: of a target that a hook has still to complete. */
static bool value_of_pairs(const pqp_target *t, const char *keyword, char **value)
{
    bool fine = true;
    for (int i = 0; fine && t->keywords[i]; i++) {
        if (is_expanded(t, i)) {
            PQconninfoOption *parsed = PQconninfoParse(t->values[i], NULL);
            fine = value_in(parsed, keyword, value);
            pqp_settings_free(parsed);
        } else if (strcmp(t->keywords[i], keyword) == 0) {
            free(*value);
            *value = strdup(t->values[i]);
            fine = *value != NULL;
        }
    }
    if (fine && !*value) {
        PQconninfoOption *defaults = PQconndefaults();
        fine = value_in(defaults, keyword, value);
        pqp_settings_free(defaults);
    }
    return fine;
}

bool pqp_target_value(const pqp_target *t, const char *keyword, char **value)
{
    pqp_pairs pairs = {0};
    *value = NULL;
    bool fine = pqp_target_add(t, &pairs);
    PQconninfoOption *settings = fine ? pqp_settings_of(&pairs, t->expand_dbname, NULL) : NULL;
    pqp_pairs_fini(&pairs);
    if (fine)
        fine = settings ? value_in(settings, keyword, value) : value_of_pairs(t, keyword, value);
    pqp_settings_free(settings);
    return fine;
}

bool pqp_target_name(const pqp_target *t, char *buf, size_t size)
{
    char *host = NULL, *port = NULL, *dbname = NULL, *user = NULL;
    bool fine = pqp_target_value(t, "host", &host) && (host || pqp_target_value(t, "hostaddr", &host)) &&
                pqp_target_value(t, "port", &port) && pqp_target_value(t, "dbname", &dbname) &&
                (dbname || pqp_target_value(t, "user", &user));
    if (fine)
        snprintf(buf, size, "%s:%s/%s", host ? host : "local", port ? port : "5432",
                 dbname ? dbname
                 : user ? user
                        : "");
    free(host);
    free(port);
    free(dbname);
    free(user);
    return fine;
}

PQconninfoOption *pqp_target_parse(const char *text, pqp_balance *balance, pqpool_error *err)
{
    char *rest;
    if (pqp_conninfo_split(text, BALANCE, take_balance, balance, &rest, err) != PQPOOL_OK)
        return NULL;
    char *why = NULL;
    PQconninfoOption *parsed = PQconninfoParse(rest, &why);
    explicit_bzero(rest, strlen(rest));
    free(rest);
    if (!parsed && !why)
        pqp_no_memory(err);
    else if (!parsed)
        pqp_refuse(err, PQPOOL_ECONNECT,
                   "it is no connection string (libpq's words are not shown, as they repeat parts of it); "
                   "pqpool_conninfo_put() quotes a value");
    pqp_conninfo_forget(why);
    return parsed;
}

/* ---- as libpq understands it ---- */

#define NO_PORT "70001"
#define NO_SSLMODE "pqpool-none"

const char *pqp_settings_value(const PQconninfoOption *settings, const char *keyword)
{
    for (; settings && settings->keyword; settings++)
        if (strcmp(settings->keyword, keyword) == 0)
            return settings->val && *settings->val ? settings->val : NULL;
    return NULL;
}

void pqp_settings_free(PQconninfoOption *settings)
{
    for (PQconninfoOption *o = settings; o && o->keyword; o++)
        if (o->val && strstr(o->keyword, "pass"))
            explicit_bzero(o->val, strlen(o->val));
    PQconninfoFree(settings);
}

/* What libpq makes of the pairs and one more, which it must not like: so it says why, and stops before the first socket. */
static PQconninfoOption *ask_libpq(pqp_pairs *pairs, int expand_dbname, const char *keyword,
                                   const char *wrong, pqpool_error *err)
{
    PQconninfoOption *settings = NULL;
    if (!pqp_pairs_add(pairs, keyword, wrong)) {
        pqp_no_memory(err);
        return NULL;
    }
    PGconn *conn = PQconnectStartParams(pairs->keywords, pairs->values, expand_dbname);
    pqp_pairs_cut(pairs, pairs->n - 1);
    const char *why = conn ? PQerrorMessage(conn) : "";
    if (conn && strstr(why, wrong))
        settings = PQconninfo(conn);
    if (!conn || (!settings && (!*why || strstr(why, wrong)))) {
        pqp_no_memory(err);
    } else if (!settings) {
        pqp_refuse(err, PQPOOL_ECONNECT, "libpq does not accept the connection options: %s", why);
        pqp_refusal_mark(err, true);
    }
    PQfinish(conn);
    return settings;
}

/* libpq reads numbers only when it has a socket. */
static pqpool_code check_numbers(const PQconninfoOption *settings, pqpool_error *err)
{
    static const char *const numbers[] = {"connect_timeout",     "keepalives",       "keepalives_idle",
                                          "keepalives_interval", "keepalives_count", "tcp_user_timeout"};
    for (size_t i = 0; i < PQP_COUNT_OF(numbers); i++) {
        const char *value = pqp_settings_value(settings, numbers[i]);
        char *end = NULL;
        errno = 0;
        long n = value ? strtol(value, &end, 10) : 0;
        while (end && isspace((unsigned char)*end))
            end++;
        if (!value || (end != value && !*end && errno == 0 && n >= INT_MIN && n <= INT_MAX))
            continue;
        pqp_refuse(err, PQPOOL_ECONNECT, "invalid integer value \"%s\" for connection option \"%s\"", value,
                   numbers[i]);
        pqp_refusal_mark(err, true);
        return PQPOOL_ECONNECT;
    }
    return PQPOOL_OK;
}

PQconninfoOption *pqp_settings_of(pqp_pairs *pairs, int expand_dbname, pqpool_error *err)
{
    int before = pairs->n;
    bool fine = pqp_pairs_add(pairs, "password", "-"); /* or it would read the password file */
    PQconninfoOption *asked = NULL, *settings = NULL;
    if (!fine)
        pqp_no_memory(err);
    else
        asked = ask_libpq(pairs, expand_dbname, "port", NO_PORT, err);
    /* All is well but for that port, which would be found in place of theirs: once more, by what none needs to know. */
    if (asked)
        settings = ask_libpq(pairs, expand_dbname, "sslmode", NO_SSLMODE, err);
    pqp_settings_free(asked);
    pqp_pairs_cut(pairs, before);
    if (settings && check_numbers(settings, err) != PQPOOL_OK) {
        pqp_settings_free(settings);
        return NULL;
    }
    return settings;
}
