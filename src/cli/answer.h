/* answer: what the article list shows, put together from the statements' results. */
#ifndef CLI_ANSWER_H
#define CLI_ANSWER_H

#include "board.h"

#include <stddef.h>

#define ANSWER_IDS_SIZE 512

/* Writes the ids of Q0's articles as an int8[] literal. */
void answer_ids(const PGresult *articles, char ids[ANSWER_IDS_SIZE]);

/*
 * The answer's hash. It covers, for each article in Q0's order: all columns of Q0, its likes, its
 * participants (0 where there is no row), and whether the member likes it. by_query[q] is the result of the
 * statement q.
 */
uint64_t answer_hash(const PGresult *const by_query[BOARD_QUERIES]);

/* Whether the statements that add nothing to the answer (Q4 to Q6, where they were run) agree with it. */
bool answer_agrees(const PGresult *const by_query[BOARD_QUERIES]);

#endif
