#include "span.h"

#include <stdio.h>

#define SECOND INT64_C(1000000) /* in microseconds */
#define HOUR (3600 * SECOND)

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

pqp_span pqp_span_of(const char *text)
{
    return (pqp_span){text, strlen(text)};
}

pqp_span pqp_span_cut_blanks(pqp_span s)
{
    while (s.size > 0 && is_blank(s.at[s.size - 1]))
        s.size--;
    return s;
}

pqp_span pqp_span_trimmed(const char *text)
{
    return pqp_span_cut_blanks(pqp_span_of(text + strspn(text, " \t\n\v\f\r")));
}

bool pqp_span_same(pqp_span a, pqp_span b)
{
    if (a.size != b.size)
        return false;
    for (size_t i = 0; i < a.size; i++)
        if (lower(a.at[i]) != lower(b.at[i]))
            return false;
    return true;
}

bool pqp_span_is(pqp_span s, const char *text)
{
    return pqp_span_same(s, pqp_span_of(text));
}

bool pqp_span_next_word(const char **list, pqp_span *word)
{
    *list += strspn(*list, " ");
    *word = (pqp_span){*list, strcspn(*list, " ")};
    *list += word->size;
    return word->size > 0;
}

int pqp_span_word_index(pqp_span s, const char *list)
{
    pqp_span word;
    for (int i = 0; pqp_span_next_word(&list, &word); i++)
        if (pqp_span_same(word, s))
            return i;
    return -1;
}

int pqp_span_distance(pqp_span a, pqp_span b)
{
    int line[64];
    if (a.size >= PQP_COUNT_OF(line) || b.size >= PQP_COUNT_OF(line))
        return INT32_MAX;
    for (size_t j = 0; j <= b.size; j++)
        line[j] = (int)j;
    for (size_t i = 0; i < a.size; i++) {
        int diagonal = line[0];
        line[0] = (int)i + 1;
        for (size_t j = 0; j < b.size; j++) {
            int change = diagonal + (lower(a.at[i]) != lower(b.at[j]));
            diagonal = line[j + 1];
            line[j + 1] = PQP_MIN(change, PQP_MIN(diagonal, line[j]) + 1);
        }
    }
    return line[b.size];
}

bool pqp_span_parse_whole(pqp_span s, int64_t *out)
{
    *out = 0;
    for (size_t i = 0; i < s.size; i++)
        if (!is_digit(s.at[i]) || __builtin_mul_overflow(*out, 10, out) ||
            __builtin_add_overflow(*out, s.at[i] - '0', out))
            return false;
    return s.size > 0;
}

/* From the largest, which printing tries first. */
static const struct {
    const char *name;
    int64_t us;
} units[] = {{"d", 24 * HOUR}, {"h", HOUR}, {"min", 60 * SECOND}, {"s", SECOND}, {"ms", 1000}, {"us", 1}};

/* The microseconds of a unit, 0 for an unknown one. Case does not count, as nobody means megaseconds. */
static int64_t unit_us(pqp_span unit, bool seconds)
{
    if (unit.size == 0)
        return seconds ? 1000000 : 1000;
    for (size_t i = 0; i < PQP_COUNT_OF(units); i++)
        if (pqp_span_is(unit, units[i].name))
            return units[i].us;
    return 0;
}

/* Takes leading digits off s. */
static pqp_span take_digits(pqp_span *s)
{
    pqp_span digits = {s->at, 0};
    while (digits.size < s->size && is_digit(s->at[digits.size]))
        digits.size++;
    *s = (pqp_span){s->at + digits.size, s->size - digits.size};
    return digits;
}

bool pqp_span_parse_time(pqp_span s, bool seconds, int64_t *out)
{
    pqp_span number = take_digits(&s), decimals = {"0", 1};
    if (s.size > 0 && *s.at == '.') {
        s = (pqp_span){s.at + 1, s.size - 1};
        decimals = take_digits(&s);
    }
    while (s.size > 0 && is_blank(*s.at))
        s = (pqp_span){s.at + 1, s.size - 1};
    int64_t us = unit_us(s, seconds), part;
    if (us == 0 || decimals.size > 6 || !pqp_span_parse_whole(number, out) ||
        !pqp_span_parse_whole(decimals, &part))
        return false;
    int64_t divisor = 1;
    for (size_t i = 0; i < decimals.size; i++)
        divisor *= 10;
    part = (part * us + divisor - 1) / divisor;
    if (__builtin_mul_overflow(*out, us, out) || __builtin_add_overflow(*out, part, out))
        return false;
    *out = *out / 1000 + (*out % 1000 != 0);
    return true;
}

int pqp_span_print_time(int64_t ms, char *buf, size_t size)
{
    size_t i = 0;
    while (ms * 1000 % units[i].us != 0)
        i++;
    return snprintf(buf, size, "%lld%s", (long long)(ms * 1000 / units[i].us), units[i].name);
}

static const struct {
    const char *name;
    int64_t bytes;
} sizes[] = {{"GB", (int64_t)1 << 30}, {"MB", 1 << 20}, {"kB", 1 << 10}, {"B", 1}};

bool pqp_span_parse_size(pqp_span s, int64_t *out)
{
    pqp_span number = take_digits(&s);
    while (s.size > 0 && is_blank(*s.at))
        s = (pqp_span){s.at + 1, s.size - 1};
    if (!pqp_span_parse_whole(number, out))
        return false;
    for (size_t i = 0; i < PQP_COUNT_OF(sizes); i++)
        if (s.size == 0 || pqp_span_is(s, sizes[i].name))
            return !__builtin_mul_overflow(*out, s.size ? sizes[i].bytes : 1, out);
    return false;
}

int pqp_span_print_size(int64_t bytes, char *buf, size_t size)
{
    size_t i = 0;
    while (bytes % sizes[i].bytes != 0)
        i++;
    return snprintf(buf, size, "%lld%s", (long long)(bytes / sizes[i].bytes), sizes[i].name);
}
