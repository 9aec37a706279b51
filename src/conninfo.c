/* conninfo: libpq's two connection string syntaxes, read the way fe-connect.c reads them. */
#include "conninfo.h"
#include "error.h"

#include <ctype.h>

typedef struct splitter {
    const char *prefix;
    size_t prefix_size;
    pqp_conninfo_taker take;
    void *arg;
    pqpool_error *err;
    const char *in;
    char *scratch; /* room for a name and a value, unquoted: never more than the string itself */
    char *rest;
    size_t used;
    bool taken;
} splitter;

/* Where reading failed, and why. */
typedef struct fault {
    const char *at;
    const char *why;
} fault;

static size_t uri_prefix_size(const char *text)
{
    static const char *const prefixes[] = {"postgresql://", "postgres://"};
    for (size_t i = 0; i < PQP_COUNT_OF(prefixes); i++)
        if (strncmp(text, prefixes[i], strlen(prefixes[i])) == 0)
            return strlen(prefixes[i]);
    return 0;
}

bool pqp_conninfo_recognize(const char *text)
{
    return text && (uri_prefix_size(text) > 0 || strchr(text, '='));
}

/* isspace() and with it the process's locale, because libpq does the same. */
static bool blank(char c)
{
    return isspace((unsigned char)c);
}

static const char *skip_blanks(const char *p)
{
    while (*p && blank(*p))
        p++;
    return p;
}

static void keep(splitter *s, const char *from, const char *to)
{
    memcpy(s->rest + s->used, from, (size_t)(to - from));
    s->used += (size_t)(to - from);
}

static bool is_ours(const splitter *s, const char *name)
{
    return strncmp(name, s->prefix, s->prefix_size) == 0;
}

static pqpool_code hand_over(splitter *s, const char *name, const char *value)
{
    s->taken = true;
    return s->take(s->arg, name, value, s->err);
}

/* Shows a place, not text: what stands at a bad spot may well be a part of a password. */
static pqpool_code give_up(splitter *s, fault f)
{
    if (s->taken)
        return pqp_refuse(s->err, PQPOOL_EINVAL, "the connection string is malformed at byte %zu: %s",
                          (size_t)(f.at - s->in) + 1, f.why);
    s->used = 0;
    keep(s, s->in, s->in + strlen(s->in));
    return PQPOOL_OK;
}

/* ---- keyword = value ---- */

/* Unquotes the value at p into out; returns the place behind it, NULL if a quote has no end. */
static const char *read_value(const char *p, char *out)
{
    bool quoted = *p == '\'';
    if (quoted)
        p++;
    while (*p && (quoted ? *p != '\'' : !blank(*p))) {
        if (*p == '\\' && *++p == '\0')
            break; /* libpq drops a backslash that ends the string */
        *out++ = *p++;
    }
    *out = '\0';
    if (!quoted)
        return p;
    return *p == '\'' ? p + 1 : NULL;
}

/* Reads one pair into the scratch space, *value behind the name; returns the place behind it. */
static const char *read_pair(splitter *s, const char *p, char **value, fault *f)
{
    *f = (fault){p, "missing \"=\" after a keyword"};
    const char *name = p;
    while (*p && *p != '=' && !blank(*p))
        p++;
    size_t size = (size_t)(p - name);
    p = skip_blanks(p);
    if (*p != '=')
        return NULL;
    memcpy(s->scratch, name, size);
    s->scratch[size] = '\0';
    *value = s->scratch + size + 1;
    p = skip_blanks(p + 1);
    *f = (fault){p, "a quoted value has no end"};
    return read_value(p, *value);
}

static pqpool_code split_pairs(splitter *s)
{
    /* The blanks behind the last pair that was kept; those beside a taken one go with it. An unquoted value
     * is always followed by some, so two kept pairs never grow together. */
    const char *gap = s->in, *gap_end = NULL, *p = s->in;
    for (;;) {
        p = skip_blanks(p);
        if (!*p)
            break;
        if (!gap_end)
            gap_end = p;
        char *value;
        fault f;
        const char *end = read_pair(s, p, &value, &f);
        if (!end)
            return give_up(s, f);
        if (is_ours(s, s->scratch)) {
            pqpool_code code = hand_over(s, s->scratch, value);
            if (code != PQPOOL_OK)
                return code;
        } else {
            keep(s, gap, gap_end);
            keep(s, p, end);
            gap = end;
            gap_end = NULL;
        }
        p = end;
    }
    if (!gap_end)
        keep(s, gap, p);
    return PQPOOL_OK;
}

/* ---- URI ---- */

/*
 * Finds the query of a URI, as libpq does: a '?' in the user or the password does not begin one.
 * Returns the place behind the '?', or NULL.
 */
static const char *find_query(const char *p)
{
    const char *at = p + strcspn(p, "@/");
    if (*at == '@')
        p = at + 1;
    for (;;) {
        if (*p == '[') {
            p += strcspn(p, "]");
            if (!*p++ || (*p && !strchr(":/?,", *p)))
                return NULL;
        }
        p += strcspn(p, ":/?,");
        if (*p == ':')
            p += strcspn(p, "/?,");
        if (*p != ',')
            break;
        p++;
    }
    if (*p == '/')
        p += strcspn(p, "?");
    return *p == '?' ? p + 1 : NULL;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Decodes into out and ends it with NUL; returns the place behind that, NULL for a wrong % sequence. */
static char *decode(const char *p, const char *end, char *out)
{
    while (p < end) {
        if (*p != '%') {
            *out++ = *p++;
            continue;
        }
        int high = end - p > 2 ? hex_digit(p[1]) : -1;
        int low = high >= 0 ? hex_digit(p[2]) : -1;
        if (low < 0 || high + low == 0)
            return NULL;
        *out++ = (char)(high << 4 | low);
        p += 3;
    }
    *out = '\0';
    return out + 1;
}

/* Reads the parameter p..end into the scratch space. */
static bool read_param(splitter *s, const char *p, const char *end, char **value, fault *f)
{
    const char *equals = memchr(p, '=', (size_t)(end - p));
    *f = (fault){p, "missing \"=\" in a query parameter"};
    if (!equals)
        return false;
    const char *second = memchr(equals + 1, '=', (size_t)(end - equals - 1));
    *f = (fault){second, "a second \"=\" in a query parameter"};
    if (second)
        return false;
    *f = (fault){p, "a wrong % sequence in a query parameter"};
    *value = decode(p, equals, s->scratch);
    return *value && decode(equals + 1, end, *value);
}

static pqpool_code split_uri(splitter *s, size_t scheme)
{
    const char *p = find_query(s->in + scheme);
    if (!p) {
        keep(s, s->in, s->in + strlen(s->in));
        return PQPOOL_OK;
    }
    keep(s, s->in, p - 1);
    const char *query = p;
    char separator = '?';
    while (*p) {
        const char *end = p + strcspn(p, "&");
        char *value;
        fault f;
        if (!read_param(s, p, end, &value, &f))
            return give_up(s, f);
        if (is_ours(s, s->scratch)) {
            pqpool_code code = hand_over(s, s->scratch, value);
            if (code != PQPOOL_OK)
                return code;
        } else {
            s->rest[s->used++] = separator;
            separator = '&';
            keep(s, p, end);
        }
        p = *end ? end + 1 : end;
    }
    if (!s->taken) {
        /* As it was, be it with a '?' or '&' at its end. */
        s->used = (size_t)(query - 1 - s->in);
        keep(s, query - 1, p);
    }
    return PQPOOL_OK;
}

void pqp_conninfo_forget(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
}

static pqpool_code split(splitter *s, char **rest)
{
    s->prefix_size = strlen(s->prefix);
    size_t size = strlen(s->in);
    s->rest = malloc(size + 1);
    s->scratch = malloc(size + 2);
    if (!s->rest || !s->scratch) {
        free(s->rest);
        free(s->scratch);
        return pqp_no_memory(s->err);
    }
    size_t scheme = uri_prefix_size(s->in);
    pqpool_code code = scheme > 0 ? split_uri(s, scheme) : split_pairs(s);
    s->rest[s->used] = '\0';
    explicit_bzero(s->scratch, size + 2); /* it may have held a password */
    free(s->scratch);
    if (code == PQPOOL_OK)
        *rest = s->rest;
    else
        pqp_conninfo_forget(s->rest);
    return code;
}

pqpool_code pqp_conninfo_split(const char *conninfo, const char *prefix, pqp_conninfo_taker take, void *arg,
                               char **rest, pqpool_error *err)
{
    splitter s = {.prefix = prefix, .take = take, .arg = arg, .err = err, .in = conninfo ? conninfo : ""};
    *rest = NULL;
    return split(&s, rest);
}

pqpool_code pqp_conninfo_read(const char *conninfo, pqp_conninfo_taker take, void *arg, pqpool_error *err)
{
    splitter s = {.prefix = "", .take = take, .arg = arg, .err = err, .in = conninfo, .taken = true};
    char *rest = NULL;
    pqpool_code code = split(&s, &rest);
    pqp_conninfo_forget(rest);
    return code;
}

bool pqp_conninfo_is_uri(const char *text)
{
    return uri_prefix_size(text) > 0;
}

/* ---- writing ---- */

typedef struct writer {
    char *buf;
    size_t size, at; /* at goes on behind the end, as snprintf() counts */
} writer;

static void write_char(writer *w, char c)
{
    if (w->at + 1 < w->size)
        w->buf[w->at] = c;
    w->at++;
}

size_t pqp_conninfo_put(char *buf, size_t size, const char *keyword, const char *value)
{
    size_t used = size > 0 ? strnlen(buf, size) : 0;
    if (!keyword || !value || !*value)
        return used;
    writer w = {buf, size, used};
    if (used > 0)
        write_char(&w, ' ');
    for (const char *p = keyword; *p; p++)
        write_char(&w, *p);
    write_char(&w, '=');
    write_char(&w, '\'');
    for (const char *p = value; *p; p++) {
        if (*p == '\'' || *p == '\\')
            write_char(&w, '\\');
        write_char(&w, *p);
    }
    write_char(&w, '\'');
    if (w.at < size)
        buf[w.at] = '\0';
    else if (used < size)
        buf[used] = '\0'; /* all of it or nothing: half a value is another value */
    return w.at;
}
