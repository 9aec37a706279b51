#include "text.h"

#include <stdio.h>
#include <string.h>

/* The size without the character that was cut at its end, if one was. */
static size_t whole_characters(const char *text, size_t size)
{
    size_t back = 0;
    while (back < 3 && back < size && ((unsigned char)text[size - 1 - back] & 0xC0) == 0x80)
        back++;
    if (back >= size)
        return size;
    unsigned char lead = (unsigned char)text[size - 1 - back];
    size_t needs = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    return needs > back + 1 ? size - 1 - back : size;
}

size_t pqp_text_print(char *buf, size_t size, const char *fmt, va_list args)
{
    if (size == 0)
        return 0;
    int needed = vsnprintf(buf, size, fmt, args);
    if (needed < 0)
        buf[0] = '\0';
    size_t used = strlen(buf);
    if (needed > 0 && (size_t)needed >= size) {
        used = whole_characters(buf, used);
        buf[used] = '\0';
    }
    return used;
}

static bool ends_a_phrase(char c)
{
    return strchr(".:;,?!", c) != NULL; /* NUL too: nothing stands before */
}

void pqp_text_one_line(char *text)
{
    char *to = text;
    for (const char *p = text; *p;) {
        if (*p != '\n' && *p != '\r') {
            *to++ = (unsigned char)*p < ' ' || *p == 0x7F ? ' ' : *p;
            p++;
            continue;
        }
        p += strspn(p, "\n\r\t ");
        if (!*p)
            break;
        if (!ends_a_phrase(to > text ? to[-1] : '\0') && to + 1 < p)
            *to++ = ';';
        *to++ = ' ';
    }
    *to = '\0';
}

void pqp_text_copy(char *buf, size_t size, const char *text)
{
    size_t length = strlen(text);
    size_t used = length < size ? length : whole_characters(text, size - 1);
    memcpy(buf, text, used);
    buf[used] = '\0';
    pqp_text_one_line(buf);
}
