/* lexer: as src/backend/parser/scan.l of the server reads, as far as the guard needs it. */
#include "lexer.h"

#include <limits.h>
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

static size_t word_size(const char *p)
{
    const char *end = p;
    while (word_start(*end) || digit(*end) || *end == '$')
        end++;
    return (size_t)(end - p);
}

/*
 * What may follow U&"...": UESCAPE and another character than the backslash. p is behind the name. The server takes any
 * string for that character, be it E'!', $$!$$, or one that goes on in the next line; only the plain form is read here,
 * and the others leave a doubt.
 */
static const char *read_escape(const char *p, pqp_token *t)
{
    const char *at = skip_space(p);
    pqp_token word = {.kind = PQP_TOKEN_WORD, .at = at, .size = word_size(at)};
    t->escape = '\\';
    if (!pqp_lexer_is(&word, "UESCAPE"))
        return p;
    at = skip_space(at + word.size);
    bool plain = at[0] == '\'' && at[1] != '\0' && at[1] != '\'' && at[2] == '\'' && at[3] != '\'' &&
                 !next_part(at + 3);
    if (!plain) {
        t->doubt = "a name whose UESCAPE is not written as 'c'";
        return p;
    }
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
    t->size = word_size(p);
    return p + t->size;
}

static unsigned hex(char c)
{
    return digit(c) ? (unsigned)(c - '0') : ((unsigned)(pqp_lexer_upper(c) - 'A') + 10) & 15;
}

static bool digit_of(char c, unsigned base)
{
    char upper = pqp_lexer_upper(c);
    return digit(c) ? hex(c) < base : base == 16 && upper >= 'A' && upper <= 'F';
}

/* Digits of a base, an underscore before each but the first; p itself where none is. */
static const char *skip_digits(const char *p, unsigned base)
{
    if (!digit_of(*p, base))
        return p;
    while (digit_of(p[0], base) || (p[0] == '_' && digit_of(p[1], base)))
        p++;
    return p;
}

static const char *skip_based(const char *p)
{
    char mark = pqp_lexer_upper(p[1]);
    unsigned base = p[0] != '0' ? 0 : mark == 'X' ? 16 : mark == 'O' ? 8 : mark == 'B' ? 2 : 0;
    const char *at = p + 2 + (base && p[2] == '_');
    const char *end = base ? skip_digits(at, base) : at;
    return end == at ? p : end;
}

static const char *skip_decimal(const char *p)
{
    p = skip_digits(p, 10);
    if (p[0] == '.' && p[1] != '.')
        p = digit(p[1]) ? skip_digits(p + 1, 10) : p + 1;
    if (pqp_lexer_upper(*p) == 'E') {
        const char *exponent = p + 1 + (p[1] == '+' || p[1] == '-');
        p = digit(*exponent) ? skip_digits(exponent, 10) : p;
    }
    return p;
}

/*
 * A number in all the forms of PostgreSQL 16. Letters right behind it are an error there, and up to 14 a word of their own;
 * where that word begins depends on the version: 1e5into, 0xinto.
 */
static const char *read_number(const char *p, pqp_token *t)
{
    *t = (pqp_token){.kind = PQP_TOKEN_OTHER, .at = p};
    const char *end = skip_based(p);
    if (end == p)
        end = skip_decimal(p);
    t->size = (size_t)(end - p);
    if (word_start(*end))
        t->doubt = "a number with letters right behind it";
    return end;
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
    if (digit(*p))
        return read_number(p, t);
    if (*p == '$' && !digit(p[1])) {
        const char *end = skip_dollar(p);
        if (end != p)
            return end;
    }
    *t = (pqp_token){.kind = kind_of(*p), .at = p, .size = 1};
    if (*p == '$')
        while (digit(p[t->size]))
            t->size++;
    return *p ? p + t->size : p;
}

int pqp_lexer_parameter(const pqp_token *t)
{
    int n = 0;
    if (t->kind != PQP_TOKEN_OTHER || *t->at != '$')
        return 0;
    for (size_t i = 1; i < t->size; i++)
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, t->at[i] - '0', &n))
            return INT_MAX;
    return n;
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

/* A plain name's character. In a database with a Turkish encoding of one byte a character and its locale the server makes
 * an i of the I with a dot, the only letter that is not ASCII and becomes one. */
static char folded(const pqp_token *t, size_t *i)
{
    const unsigned char c = (unsigned char)t->at[(*i)++];
    if (c >= 'A' && c <= 'Z')
        return (char)(c - 'A' + 'a');
    bool dotted = c == 0xC4 && *i < t->size && (unsigned char)t->at[*i] == 0xB0;
    *i += dotted;
    return dotted || c == 0xDD ? 'i' : (char)c;
}

/* The character of a name at *i, as the server has it; *i moves behind it. Of what is escaped only ASCII is told
 * apart. */
static char name_char(const pqp_token *t, size_t *i)
{
    if (t->kind == PQP_TOKEN_WORD)
        return folded(t, i);
    char c = t->at[(*i)++];
    if (!t->escape || c != t->escape)
        return c;
    if (*i < t->size && t->at[*i] == t->escape) { /* two of them are one */
        (*i)++;
        return c;
    }
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
