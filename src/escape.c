#include "escape.h"

#include <stdio.h>

/* One character of UTF-8 as the server takes it: no shorter form of another, no half of a pair, none beyond the last. */
static bool is_utf8(const unsigned char *s, size_t n)
{
    if (n == 2)
        return s[0] >= 0xc2;
    if (n == 3)
        return (s[0] != 0xe0 || s[1] >= 0xa0) && (s[0] != 0xed || s[1] < 0xa0);
    return n == 4 && s[0] <= 0xf4 && (s[0] != 0xf0 || s[1] >= 0x90) && (s[0] != 0xf4 || s[1] < 0x90);
}

/*
 * The length of the character of several bytes that begins here; 0: it is none. In the encodings that come here each of its
 * bytes has the high bit, so that none of them is a quote or a backslash to a reader that knows the encoding or not.
 */
static size_t length_of(const unsigned char *s, size_t left, int encoding, bool utf8)
{
    int n = PQmblen((const char *)s, encoding);
    if (n < 1 || (size_t)n > left)
        return 0;
    for (int i = 1; i < n; i++)
        if (!(s[i] & 0x80) || (utf8 && (s[i] & 0xc0) != 0x80))
            return 0;
    return !utf8 || is_utf8(s, (size_t)n) ? (size_t)n : 0;
}

/* Bytes that are to be doubled, of which backslashes; -1: text is not what its encoding says, at *where. */
static ptrdiff_t count(const char *text, size_t length, char quote, int encoding, size_t *backslashes,
                       size_t *where)
{
    const unsigned char *s = (const unsigned char *)text;
    bool utf8 = strcmp(pg_encoding_to_char(encoding), "UTF8") == 0;
    ptrdiff_t quotes = 0;
    *backslashes = 0;
    for (size_t i = 0, n; i < length; i += n) {
        n = s[i] & 0x80 ? length_of(s + i, length - i, encoding, utf8) : 1;
        *where = i;
        if (n == 0)
            return -1;
        quotes += text[i] == quote;
        *backslashes += text[i] == '\\' && quote == '\'';
    }
    return quotes;
}

char *pqp_escape(const char *text, size_t length, char quote, int encoding, pqpool_error *err)
{
    size_t backslashes, where = 0;
    if (!pg_valid_server_encoding_id(encoding)) {
        pqp_refuse(err, PQPOOL_EINVAL,
                   "client_encoding is %s, in which a byte within a character may look like a quote: put "
                   "client_encoding=UTF8 into the connection string, or hand the text over as a parameter",
                   pg_encoding_to_char(encoding));
        return NULL;
    }
    length = strnlen(text, length);
    ptrdiff_t quotes = count(text, length, quote, encoding, &backslashes, &where);
    if (quotes < 0) {
        pqp_refuse(err, PQPOOL_EINVAL, "the text is no valid %s: byte %zu begins no whole character",
                   pg_encoding_to_char(encoding), where + 1);
        return NULL;
    }
    char *escaped = malloc(length + (size_t)quotes + backslashes + sizeof " E''");
    char *to = escaped;
    if (!escaped) {
        pqp_no_memory(err);
        return NULL;
    }
    if (backslashes >
        0) /* right whatever standard_conforming_strings says; the blank keeps it from a word before it */
        to = stpcpy(to, " E");
    *to++ = quote;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == quote || (text[i] == '\\' && quote == '\''))
            *to++ = text[i];
        *to++ = text[i];
    }
    *to++ = quote;
    *to = '\0';
    pqp_error_clear(err);
    return escaped;
}
