/* lexer: as src/backend/parser/scan.l of the server reads, as far as the guard needs it. */
#include "lexer.h"

#include <string.h>

char pqp_lexer_upper(char c)
{
    return c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
}

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool word_start(char c)
{
    return (pqp_lexer_upper(c) >= 'A' && pqp_lexer_upper(c) <= 'Z') || c == '_' || (unsigned char)c >= 0x80;
}

static const char *skip_line(const char *p)
{
    return p + strcspn(p, "\n\r");
}

/* Skips a comment of either kind, nested ones within; p is at its first character. */
static const char *skip_comment(const char *p)
{
    if (*p == '-')
        return skip_line(p);
    int depth = 0;
    do {
        if (p[0] == '/' && p[1] == '*') {
            depth++;
            p += 2;
        } else if (p[0] == '*' && p[1] == '/') {
            depth--;
            p += 2;
        } else {
            p++;
        }
    } while (depth > 0 && *p);
    return p;
}

static const char *skip_space(const char *p)
{
    for (;;) {
        while (blank(*p))
            p++;
        if (!(p[0] == '-' && p[1] == '-') && !(p[0] == '/' && p[1] == '*'))
            return p;
        p = skip_comment(p);
    }
}

/*
 * A string goes on in the next line: 'a' <newline> 'b' is one, and an E before the first part counts for the
 * second. Returns the quote that opens the next part, or NULL.
 */
static const char *next_part(const char *p)
{
    bool newline = false;
    for (;;) {
        for (; blank(*p); p++)
            newline = newline || *p == '\n' || *p == '\r';
        if (p[0] != '-' || p[1] != '-')
            return newline && *p == '\'' ? p : NULL;
        p = skip_line(p);
    }
}

/* Skips the string whose quote is at p. */
static const char *skip_string(const char *p, bool escapes)
{
    for (p++; *p; p++) {
        if (escapes && p[0] == '\\' && p[1] != '\0') {
            p++;
        } else if (p[0] == '\'' && p[1] == '\'') {
            p++;
        } else if (p[0] == '\'') {
            const char *part = next_part(p + 1);
            if (!part)
                return p + 1;
            p = part;
        }
    }
    return p;
}

/* Skips $tag$ ... $tag$; returns p itself where no such quote begins. */
static const char *skip_dollar(const char *p)
{
    const char *tag = p + 1;
    if (word_start(*tag))
        while (word_start(*tag) || digit(*tag))
            tag++;
    if (*tag != '$')
        return p;
    size_t size = (size_t)(tag - p) + 1;
    for (const char *q = tag + 1; (q = strchr(q, '$')); q++)
        if (strncmp(q, p, size) == 0)
            return q + size;
    return p + strlen(p); /* it has no end: to the server too, all the rest is in it */
}

static const char *read_quoted(const char *p, pqp_token *t)
{
    *t = (pqp_token){.kind = PQP_TOKEN_QUOTED, .at = ++p};
    while (*p && (p[0] != '"' || p[1] == '"'))
        p += p[0] == '"' ? 2 : 1;
    t->size = (size_t)(p - t->at);
    return *p ? p + 1 : p;
}

/* What may follow U&"...": UESCAPE and another character than the backslash. p is behind the name. */
static const char *read_escape(const char *p, pqp_token *t)
{
    const char *at = skip_space(p);
    pqp_token word = {.kind = PQP_TOKEN_WORD, .at = at, .size = sizeof "UESCAPE" - 1};
    t->escape = '\\';
    if (!pqp_lexer_is(&word, "UESCAPE"))
        return p;
    at = skip_space(at + word.size);
    if (at[0] != '\'' || at[1] == '\0' || at[2] != '\'')
        return p;
    t->escape = at[1];
    return at + 3;
}

/* A word, or one of the strings that have letters before their quote. */
static const char *read_word(const char *p, pqp_token *t)
{
    *t = (pqp_token){.kind = PQP_TOKEN_WORD, .at = p};
    if (pqp_lexer_upper(p[0]) == 'U' && p[1] == '&' && p[2] == '"')
        return read_escape(read_quoted(p + 2, t), t);
    bool unicode = pqp_lexer_upper(p[0]) == 'U' && p[1] == '&' && p[2] == '\'';
    if (unicode || (p[1] == '\'' && strchr("EBXN", pqp_lexer_upper(p[0])))) {
        t->kind = PQP_TOKEN_STRING;
        return skip_string(p + (unicode ? 2 : 1), pqp_lexer_upper(p[0]) == 'E');
    }
    while (word_start(*p) || digit(*p) || *p == '$')
        p++;
    t->size = (size_t)(p - t->at);
    return p;
}

static pqp_token_kind kind_of(char c)
{
    switch (c) {
    case '\0':
        return PQP_TOKEN_END;
    case '(':
    case '[':
        return PQP_TOKEN_OPEN;
    case ')':
    case ']':
        return PQP_TOKEN_CLOSE;
    case ',':
        return PQP_TOKEN_COMMA;
    case ';':
        return PQP_TOKEN_SEMICOLON;
    case '.':
        return PQP_TOKEN_DOT;
    default:
        return PQP_TOKEN_OTHER;
    }
}

const char *pqp_lexer_next(const char *p, pqp_token *t)
{
    p = skip_space(p);
    *t = (pqp_token){.kind = PQP_TOKEN_STRING, .at = p};
    if (word_start(*p))
        return read_word(p, t);
    if (*p == '\'')
        return skip_string(p, false);
    if (*p == '"')
        return read_quoted(p, t);
    if (*p == '$' && !digit(p[1])) {
        const char *end = skip_dollar(p);
        if (end != p)
            return end;
    }
    *t = (pqp_token){.kind = kind_of(*p), .at = p, .size = 1};
    if (digit(*p) || (*p == '$' && digit(p[1])))
        while (digit(p[1]))
            p++;
    return *p ? p + 1 : p;
}

bool pqp_lexer_is(const pqp_token *t, const char *upper_case)
{
    if (t->kind != PQP_TOKEN_WORD)
        return false;
    for (size_t i = 0; i < t->size; i++)
        if (pqp_lexer_upper(t->at[i]) != upper_case[i])
            return false; /* at its end too, where upper_case has NUL */
    return upper_case[t->size] == '\0';
}

bool pqp_lexer_is_one_of(const pqp_token *t, const char *const *upper_case)
{
    for (; *upper_case; upper_case++)
        if (pqp_lexer_is(t, *upper_case))
            return true;
    return false;
}

static unsigned hex(char c)
{
    return digit(c) ? (unsigned)(c - '0') : ((unsigned)(pqp_lexer_upper(c) - 'A') + 10) & 15;
}

/* The character of a name at *i, as the server has it; *i moves behind it. Of what is escaped only ASCII is told
 * apart. */
static char name_char(const pqp_token *t, size_t *i)
{
    char c = t->at[(*i)++];
    if (t->kind == PQP_TOKEN_WORD)
        return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
    if (!t->escape || c != t->escape)
        return c;
    bool plus = *i < t->size && t->at[*i] == '+';
    unsigned code = 0;
    *i += plus;
    for (int n = plus ? 6 : 4; n > 0 && *i < t->size; n--)
        code = code << 4 | hex(t->at[(*i)++]);
    return code < 0x80 ? (char)code : (char)0x80;
}

/* Whether t begins as name does; *end is the place in t where name ends. */
static bool match(const pqp_token *t, const char *name, size_t *end)
{
    *end = 0;
    if (t->kind != PQP_TOKEN_WORD && t->kind != PQP_TOKEN_QUOTED)
        return false;
    for (; *name; name++)
        if (*end >= t->size || name_char(t, end) != *name)
            return false;
    return true;
}

bool pqp_lexer_names(const pqp_token *t, const char *name)
{
    size_t end;
    return match(t, name, &end) && end == t->size;
}

bool pqp_lexer_begins(const pqp_token *t, const char *prefix)
{
    size_t end;
    return match(t, prefix, &end);
}
