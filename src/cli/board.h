/* board: the meeting board: its tables, their made-up content, and the statements of its article list. */
#ifndef CLI_BOARD_H
#define CLI_BOARD_H

#include <libpq-fe.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#define BOARD_ARTICLES 20000
#define BOARD_MEMBERS 5000
#define BOARD_PAGE_LENGTH "10" /* articles on a page */

/* The article list's statements. */
typedef enum {
    BOARD_ARTICLES_OF_PAGE,  /* Q0: the articles below a cursor, with what they refer to */
    BOARD_LIKES_BY_ARTICLE,  /* Q1 */
    BOARD_PARTICIPANTS,      /* Q2: the active ones, by article */
    BOARD_LIKED_BY_ME,       /* Q3 */
    BOARD_LIKES_ONLY,        /* Q4: Q1 without the article's column */
    BOARD_PARTICIPANTS_ONLY, /* Q5: Q2 without it */
    BOARD_LIKED_ARTICLES,    /* Q6 */
    BOARD_QUERIES
} board_query;

/* A statement's text. Q0 has the parameters (cursor, page length), Q3 (ids, member), the others (ids). */
const char *board_sql(board_query query);
int board_n_params(board_query query);

/* A page somebody asks for: the articles with an id below the cursor, as the member sees them. */
typedef struct board_page {
    int64_t member, cursor;
    uint64_t expected; /* hash of the right answer */
} board_page;

/* The n-th page; the same in each run. The hash is left 0. */
board_page board_make_page(int n);

/*
 * Makes the schema, which must not exist yet, and fills it; conn's search_path is set to it. Stops early
 * when *stop becomes nonzero. False after having complained, or when stopped.
 */
bool board_create(PGconn *conn, const char *schema, volatile sig_atomic_t *stop);

/* Removes the schema with all in it. False after having complained. */
bool board_drop(PGconn *conn, const char *schema);

#endif
