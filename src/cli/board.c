/* board: the meeting board: its tables, their made-up content, and the statements of its article list. */
#include "board.h"

#include "progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_CATEGORIES 12
#define N_REGIONS 17
#define N_DISTRICTS 228
#define COPY_CHUNK 65536
#define MAX_ROWS_TEXT 4096 /* of all the rows one call of a table's writer makes */

#define OF_THESE " WHERE article_id = ANY ($1::int8[])"
#define LIKES_OF_THESE " FROM article_likes" OF_THESE
#define ACTIVE_OF_THESE " FROM participation" OF_THESE " AND status = 'ACTIVE'"
#define BY_ARTICLE " GROUP BY article_id"

static const struct {
    int n_params;
    const char *sql;
} queries[BOARD_QUERIES] = {
    [BOARD_ARTICLES_OF_PAGE] =
        {2, "WITH filtered_articles AS"
            " (SELECT id FROM articles WHERE id < $1::int8 ORDER BY id DESC LIMIT $2::int8)"
            " SELECT article.id, article.title, article.content, article.start_time, article.end_time,"
            " article.article_image, article.created_at, article.updated_at,"
            " member.id AS member_id, member.name AS member_name, member.nickname AS member_nickname,"
            " member.profile_image AS member_profile_image,"
            " category.id AS category_id, category.name AS category_name,"
            " region.id AS region_id, region.name AS region_name,"
            " district.id AS district_id, district.name AS district_name"
            " FROM filtered_articles JOIN articles article ON article.id = filtered_articles.id"
            " JOIN member ON member.id = article.member_id"
            " JOIN category ON category.id = article.category_id"
            " JOIN region ON region.id = article.region_id"
            " JOIN district ON district.id = article.district_id"
            " ORDER BY article.id DESC"},
    [BOARD_LIKES_BY_ARTICLE] = {1, "SELECT article_id, COUNT(*) AS like_count" LIKES_OF_THESE BY_ARTICLE},
    [BOARD_PARTICIPANTS] = {1, "SELECT article_id, COUNT(*) AS participant_count" ACTIVE_OF_THESE BY_ARTICLE},
    [BOARD_LIKED_BY_ME] = {2, "SELECT DISTINCT article_id" LIKES_OF_THESE " AND member_id = $2::int8"},
    [BOARD_LIKES_ONLY] = {1, "SELECT COUNT(*) AS like_count" LIKES_OF_THESE BY_ARTICLE},
    [BOARD_PARTICIPANTS_ONLY] = {1, "SELECT COUNT(*) AS participant_count" ACTIVE_OF_THESE BY_ARTICLE},
    [BOARD_LIKED_ARTICLES] = {1, "SELECT article_id" LIKES_OF_THESE BY_ARTICLE},
};

const char *board_sql(board_query query)
{
    return queries[query].sql;
}

int board_n_params(board_query query)
{
    return queries[query].n_params;
}

/* ---- the content: arithmetic, so that it is the same each time ---- */

/* A number that looks random but depends on n alone (the finaliser of MurmurHash3). */
static unsigned scatter(unsigned n)
{
    n ^= n >> 16;
    n *= 0x85ebca6bu;
    n ^= n >> 13;
    n *= 0xc2b2ae35u;
    return n ^ (n >> 16);
}

/* One article in 17 nobody likes, one in 13 nobody takes part in: rows the counts do not have. */
static unsigned n_likes(unsigned article)
{
    return article % 17 == 0 ? 0 : scatter(article) % 23;
}

static unsigned n_participants(unsigned article)
{
    return article % 13 == 0 ? 0 : scatter(article + 1000003) % 12;
}

static unsigned liker(unsigned article, unsigned k)
{
    return (scatter(article) + k * 37) % BOARD_MEMBERS + 1;
}

board_page board_make_page(int n)
{
    unsigned cursor = BOARD_ARTICLES + 1 - (scatter((unsigned)n + 7) % (BOARD_ARTICLES - 100));
    unsigned article = cursor - 1;
    while (n_likes(article) == 0)
        article--;
    return (board_page){.member = liker(article, 0), .cursor = cursor};
}

static void write_member(unsigned i, char *to)
{
    char image[60] = "\\N";
    if (i % 3)
        snprintf(image, sizeof image, "https://img.example.org/member/%u.png", i);
    snprintf(to, MAX_ROWS_TEXT, "%u\tmember%u@example.org\tMember %u\tnick%u\t%s\n", i, i, i,
             scatter(i) % 100000, image);
}

static void write_category(unsigned i, char *to)
{
    snprintf(to, MAX_ROWS_TEXT, "%u\tCategory %u\n", i, i);
}

static void write_region(unsigned i, char *to)
{
    snprintf(to, MAX_ROWS_TEXT, "%u\tRegion %u\n", i, i);
}

static void write_district(unsigned i, char *to)
{
    snprintf(to, MAX_ROWS_TEXT, "%u\tDistrict %u\n", i, i);
}

static void write_article(unsigned i, char *to)
{
    static const char *const words[] = {"bring", "your", "own",  "cup",   "we",    "meet",  "at", "the",
                                        "river", "and",  "talk", "about", "books", "until", "it", "rains"};
    unsigned random = scatter(i + 77);
    int day = 1 + (int)(random % 28), hour = 8 + (int)(random % 10);
    int at = snprintf(to, MAX_ROWS_TEXT, "%u\tMeeting %u\t", i, i);
    for (unsigned w = 0; w < 20 + random % 20; w++)
        at += snprintf(to + at, (size_t)(MAX_ROWS_TEXT - at), "%s ", words[scatter(i * 64 + w) % 16]);
    snprintf(to + at, (size_t)(MAX_ROWS_TEXT - at),
             "\t2025-03-%02d %02d:00:00\t2025-03-%02d %02d:30:00\thttps://img.example.org/article/%u.png"
             "\t2025-02-%02d 12:00:00\t2025-02-%02d 13:00:00\t%u\t%u\t%u\t%u\n",
             day, hour, day, hour + 1, i, day, day, random % BOARD_MEMBERS + 1, random % N_CATEGORIES + 1,
             random / 100 % N_REGIONS + 1, random / 10000 % N_DISTRICTS + 1);
}

static void write_likes(unsigned article, char *to)
{
    int at = 0;
    for (unsigned k = 0; k < n_likes(article); k++)
        at += snprintf(to + at, (size_t)(MAX_ROWS_TEXT - at), "%u\t%u\n", article, liker(article, k));
}

static void write_participation(unsigned article, char *to)
{
    int at = 0;
    for (unsigned k = 0; k < n_participants(article); k++)
        at += snprintf(to + at, (size_t)(MAX_ROWS_TEXT - at), "%u\t%s\n", article,
                       (article + k) % 4 == 0 ? "CANCELLED" : "ACTIVE");
}

/* Unlogged: the demo's tables need not outlive a crash, and so spare the server's log. */
static const struct table {
    const char *name, *columns;
    unsigned n; /* calls of write */
    void (*write)(unsigned i, char *to);
} tables[] = {
    {"member",
     "id int8 PRIMARY KEY, email text NOT NULL, name text NOT NULL, nickname text NOT NULL,"
     " profile_image text",
     BOARD_MEMBERS, write_member},
    {"category", "id int8 PRIMARY KEY, name text NOT NULL", N_CATEGORIES, write_category},
    {"region", "id int8 PRIMARY KEY, name text NOT NULL", N_REGIONS, write_region},
    {"district", "id int8 PRIMARY KEY, name text NOT NULL", N_DISTRICTS, write_district},
    {"articles",
     "id int8 PRIMARY KEY, title text NOT NULL, content text NOT NULL, start_time timestamp NOT NULL,"
     " end_time timestamp NOT NULL, article_image text, created_at timestamp NOT NULL,"
     " updated_at timestamp NOT NULL, member_id int8 NOT NULL REFERENCES member,"
     " category_id int8 NOT NULL REFERENCES category, region_id int8 NOT NULL REFERENCES region,"
     " district_id int8 NOT NULL REFERENCES district",
     BOARD_ARTICLES, write_article},
    {"article_likes", "article_id int8 NOT NULL, member_id int8 NOT NULL", BOARD_ARTICLES, write_likes},
    {"participation", "article_id int8 NOT NULL, status text NOT NULL", BOARD_ARTICLES, write_participation},
};
#define N_TABLES (sizeof tables / sizeof tables[0])

/* ---- making it ---- */

static bool run(PGconn *conn, const char *sql)
{
    PGresult *res = PQexec(conn, sql);
    bool good = PQresultStatus(res) == PGRES_COMMAND_OK || PQresultStatus(res) == PGRES_COPY_IN;
    if (!good)
        complain("%.60s: %s", sql, PQerrorMessage(conn));
    PQclear(res);
    return good;
}

/* Sends the rows; false when the connection does not take them or *stop was set. */
static bool send_rows(PGconn *conn, const struct table *table, volatile sig_atomic_t *stop)
{
    char *chunk = malloc(COPY_CHUNK + MAX_ROWS_TEXT);
    bool good = chunk != NULL;
    size_t len = 0;
    for (unsigned i = 1; good && i <= table->n; i++) {
        chunk[len] = '\0'; /* the writer may have nothing to say */
        table->write(i, chunk + len);
        len += strlen(chunk + len);
        if (len >= COPY_CHUNK || i == table->n) {
            progress_show(table->name, i, table->n);
            good = !*stop && (len == 0 || PQputCopyData(conn, chunk, (int)len) == 1);
            len = 0;
        }
    }
    free(chunk);
    return good;
}

static bool fill(PGconn *conn, const struct table *table, volatile sig_atomic_t *stop)
{
    char sql[100];
    snprintf(sql, sizeof sql, "COPY %s FROM STDIN", table->name);
    if (!run(conn, sql))
        return false;
    bool good = send_rows(conn, table, stop);
    PQputCopyEnd(conn, good ? NULL : "not all rows could be sent");
    PGresult *res;
    while ((res = PQgetResult(conn)) != NULL) {
        if (good && PQresultStatus(res) != PGRES_COMMAND_OK) {
            complain("cannot fill %s: %s", table->name, PQerrorMessage(conn));
            good = false;
        }
        PQclear(res);
    }
    if (!good && !*stop && PQstatus(conn) != CONNECTION_OK)
        complain("cannot fill %s: %s", table->name, PQerrorMessage(conn));
    return good;
}

bool board_create(PGconn *conn, const char *schema, volatile sig_atomic_t *stop)
{
    char sql[600];
    snprintf(sql, sizeof sql, "CREATE SCHEMA %s", schema);
    bool good = run(conn, sql);
    snprintf(sql, sizeof sql, "SET search_path = %s", schema);
    good = good && run(conn, sql);
    for (size_t i = 0; good && i < N_TABLES; i++) {
        snprintf(sql, sizeof sql, "CREATE UNLOGGED TABLE %s (%s)", tables[i].name, tables[i].columns);
        good = !*stop && run(conn, sql) && fill(conn, &tables[i], stop);
    }
    good = good && !*stop && run(conn, "CREATE INDEX ON article_likes (article_id)") &&
           run(conn, "CREATE INDEX ON article_likes (member_id)") &&
           run(conn, "CREATE INDEX ON participation (article_id)");
    for (size_t i = 0; good && i < N_TABLES; i++) {
        /* Vacuumed too, so that no autovacuum and no first reader does it while we measure. */
        snprintf(sql, sizeof sql, "VACUUM (ANALYZE) %s", tables[i].name);
        good = !*stop && run(conn, sql);
    }
    progress_clear();
    return good;
}

bool board_drop(PGconn *conn, const char *schema)
{
    char sql[100];
    snprintf(sql, sizeof sql, "DROP SCHEMA IF EXISTS %s CASCADE", schema);
    /* Not for ever behind somebody's lock; and without a notice for each table. */
    return run(conn, "SET lock_timeout = '10s'") && run(conn, "SET client_min_messages = warning") &&
           run(conn, sql);
}
