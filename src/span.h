/*
 * span: pieces of text, and the words, numbers and times in them. Compared without case and without the locale, in which a
 * Turkish i would not be an I.
 */
#ifndef PQP_SPAN_H
#define PQP_SPAN_H

#include "base.h"

typedef struct pqp_span {
    const char *at;
    size_t size;
} pqp_span;

pqp_span pqp_span_of(const char *text);
pqp_span pqp_span_cut_blanks(pqp_span s);    /* without those at its end */
pqp_span pqp_span_trimmed(const char *text); /* without the blanks around it */

bool pqp_span_same(pqp_span a, pqp_span b);
bool pqp_span_is(pqp_span s, const char *text);
/* Levenshtein's distance, of names that are not longer than our own can be; INT32_MAX for longer ones. */
int pqp_span_distance(pqp_span a, pqp_span b);

/* Takes the next word off a list separated by blanks; false at its end. */
bool pqp_span_next_word(const char **list, pqp_span *word);
int pqp_span_word_index(pqp_span s, const char *list); /* -1: it is not in it */

bool pqp_span_parse_whole(pqp_span s, int64_t *out) PQP_MUSTCHECK;
/* A time with up to six decimals, in ms and rounded up, so that a little time is never none at all. A bare number is in ms,
 * or in seconds. */
bool pqp_span_parse_time(pqp_span s, bool seconds, int64_t *out) PQP_MUSTCHECK;
/* Bytes, from a number and a unit: B (or none), kB, MB, GB, in powers of 1024, as the server has them. */
bool pqp_span_parse_size(pqp_span s, int64_t *out) PQP_MUSTCHECK;
int pqp_span_print_size(int64_t bytes, char *buf, size_t size); /* as snprintf() */
int pqp_span_print_time(int64_t ms, char *buf, size_t size);    /* "30s"; as snprintf() */

#endif
