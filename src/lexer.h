/*
 * lexer: the tokens of an SQL text, cut where the server's lexer cuts them: comments, strings of all kinds,
 * dollar quotes, names with and without quotes. Pure text, no state.
 *
 * It takes standard_conforming_strings for on, and a client encoding in which no byte of a character of
 * several bytes is ASCII (not SJIS, BIG5, GBK, GB18030, UHC, JOHAB: under them nothing is shared).
 */
#ifndef PQP_LEXER_H
#define PQP_LEXER_H

#include <stdbool.h>
#include <stddef.h>

typedef enum {
    PQP_TOKEN_END,
    PQP_TOKEN_WORD,   /* a keyword or a plain name */
    PQP_TOKEN_QUOTED, /* a name in quotes */
    PQP_TOKEN_STRING,
    PQP_TOKEN_OPEN,  /* ( or [ */
    PQP_TOKEN_CLOSE, /* ) or ] */
    PQP_TOKEN_COMMA,
    PQP_TOKEN_SEMICOLON,
    PQP_TOKEN_DOT,
    PQP_TOKEN_OTHER, /* a number, a parameter, one character of an operator */
} pqp_token_kind;

typedef struct pqp_token {
    pqp_token_kind kind;
    char escape; /* QUOTED: what introduces a code point in U&"..."; 0: nothing does */
    const char
        *doubt;     /* NULL; else what this is that servers read in different ways, or the lexer not at all */
    const char *at; /* WORD: its text; QUOTED: without the quotes; OPEN, CLOSE, OTHER: the character */
    size_t size;
} pqp_token;

/* Reads the token at p, returns the place behind it. At the end of the text it stays there. */
const char *pqp_lexer_next(const char *p, pqp_token *t);

/* The keyword, in upper case here and in any case in the text. A name in quotes is none. */
bool pqp_lexer_is(const pqp_token *t, const char *upper_case);
bool pqp_lexer_is_one_of(const pqp_token *t, const char *const *upper_case); /* the list ends with NULL */

/* The name, in quotes or not, as the server has it: what stands outside quotes is folded to lower case. */
bool pqp_lexer_names(const pqp_token *t, const char *name);
bool pqp_lexer_begins(const pqp_token *t, const char *prefix);

/* The number of a parameter such as $1; 0: it is none. */
int pqp_lexer_parameter(const pqp_token *t);

char pqp_lexer_upper(char c);

#endif
