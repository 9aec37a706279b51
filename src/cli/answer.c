/* answer: what the article list shows, put together from the statements' results. */
#include "answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FNV_BASIS UINT64_C(14695981039346656037)
#define FNV_PRIME UINT64_C(1099511628211)

void answer_ids(const PGresult *articles, char ids[ANSWER_IDS_SIZE])
{
    int at = snprintf(ids, ANSWER_IDS_SIZE, "{");
    for (int i = 0; i < PQntuples(articles) && at < ANSWER_IDS_SIZE - 24; i++)
        at += snprintf(ids + at, (size_t)(ANSWER_IDS_SIZE - at), "%s%s", i ? "," : "",
                       PQgetvalue(articles, i, 0));
    snprintf(ids + at, (size_t)(ANSWER_IDS_SIZE - at), "}");
}

/* FNV-1a over a text and its closing NUL, so that neighbours cannot run into one another. */
static uint64_t mix(uint64_t hash, const char *text)
{
    do {
        hash = (hash ^ (unsigned char)*text) * FNV_PRIME;
    } while (*text++);
    return hash;
}

/* The row whose first column is the article's id, or -1. */
static int row_of(const PGresult *res, const char *id)
{
    for (int i = 0; i < PQntuples(res); i++)
        if (strcmp(PQgetvalue(res, i, 0), id) == 0)
            return i;
    return -1;
}

static const char *count_of(const PGresult *res, const char *id)
{
    int row = row_of(res, id);
    return row < 0 ? "0" : PQgetvalue(res, row, 1);
}

uint64_t answer_hash(const PGresult *const by_query[BOARD_QUERIES])
{
    const PGresult *articles = by_query[BOARD_ARTICLES_OF_PAGE];
    uint64_t hash = FNV_BASIS;
    for (int i = 0; i < PQntuples(articles); i++) {
        const char *id = PQgetvalue(articles, i, 0);
        for (int c = 0; c < PQnfields(articles); c++)
            hash = mix(hash, PQgetisnull(articles, i, c) ? "\001null" : PQgetvalue(articles, i, c));
        hash = mix(hash, count_of(by_query[BOARD_LIKES_BY_ARTICLE], id));
        hash = mix(hash, count_of(by_query[BOARD_PARTICIPANTS], id));
        hash = mix(hash, row_of(by_query[BOARD_LIKED_BY_ME], id) >= 0 ? "true" : "false");
    }
    return hash;
}

static long sum(const PGresult *res, int column)
{
    long total = 0;
    for (int i = 0; i < PQntuples(res); i++)
        total += atol(PQgetvalue(res, i, column));
    return total;
}

bool answer_agrees(const PGresult *const by_query[BOARD_QUERIES])
{
    const PGresult *likes = by_query[BOARD_LIKES_BY_ARTICLE];
    const PGresult *participants = by_query[BOARD_PARTICIPANTS];
    const PGresult *likes_only = by_query[BOARD_LIKES_ONLY];
    const PGresult *participants_only = by_query[BOARD_PARTICIPANTS_ONLY];
    const PGresult *liked = by_query[BOARD_LIKED_ARTICLES];
    if (likes_only && (PQnfields(likes_only) != 1 || sum(likes_only, 0) != sum(likes, 1)))
        return false;
    if (participants_only &&
        (PQnfields(participants_only) != 1 || sum(participants_only, 0) != sum(participants, 1)))
        return false;
    return !liked || (PQnfields(liked) == 1 && sum(liked, 0) == sum(likes, 0));
}
