/* request: the article list, asked for in one of several ways, and checked. */
#include "request.h"

#include "answer.h"

#include <stdio.h>
#include <string.h>

#define MAX_ROUNDS 4
#define MAX_GROUP 5

static const char *const mode_names[MODE_COUNT + 1] = {"serial", "parallel",    "transaction",
                                                       "shared", "shared-auto", "plain"};

/* A form: rounds of statements that stand side by side, each round needing what came before. */
static const struct form {
    int name, n_rounds;
    struct {
        board_query first;
        int n;
    } rounds[MAX_ROUNDS];
} forms[] = {
    {3, 2, {{BOARD_ARTICLES_OF_PAGE, 1}, {BOARD_LIKES_BY_ARTICLE, 3}}},
    {5, 2, {{BOARD_ARTICLES_OF_PAGE, 1}, {BOARD_LIKES_BY_ARTICLE, 5}}},
    {12,
     4,
     {{BOARD_ARTICLES_OF_PAGE, 1},
      {BOARD_LIKES_BY_ARTICLE, 5},
      {BOARD_LIKED_ARTICLES, 1},
      {BOARD_LIKES_BY_ARTICLE, 5}}},
};

const char *request_mode_name(request_mode mode)
{
    return mode_names[mode];
}

static const struct form *find_form(int name)
{
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
        if (forms[i].name == name)
            return &forms[i];
    return NULL;
}

bool request_form_exists(int form)
{
    return find_form(form) != NULL;
}

bool requester_init(requester *r, request_mode mode, int form, pqpool *pool, PGconn *conn)
{
    *r = (requester){.mode = mode, .form = form, .pool = pool, .conn = conn};
    if (mode == MODE_PARALLEL)
        r->crew = crew_new(pool, MAX_GROUP);
    return mode != MODE_PARALLEL || r->crew;
}

void requester_wipe(requester *r)
{
    crew_free(r->crew);
    r->crew = NULL;
}

/* ---- the ways ---- */

static bool command(requester *r, const char *sql)
{
    PGresult *res = PQexec(r->conn, sql);
    bool good = PQresultStatus(res) == PGRES_COMMAND_OK;
    if (!good)
        snprintf(r->why, sizeof r->why, "%s: %s", sql, PQerrorMessage(r->conn));
    PQclear(res);
    return good;
}

static bool begin(requester *r)
{
    pqpool_error err;
    if (r->mode != MODE_TRANSACTION)
        return true;
    if (pqpool_acquire(r->pool, &r->lease, &err) != PQPOOL_OK) {
        snprintf(r->why, sizeof r->why, "acquire: %s", err.message);
        return false;
    }
    r->conn = r->lease.conn;
    return command(r, "BEGIN");
}

static bool end(requester *r, bool good)
{
    if (r->mode != MODE_TRANSACTION || !r->lease.conn)
        return good;
    good = good && command(r, "COMMIT"); /* after a failure the release rolls back */
    pqpool_code code = pqpool_release(&r->lease);
    if (code != PQPOOL_OK && good)
        snprintf(r->why, sizeof r->why, "release: %s", pqpool_strerror(code));
    return good && code == PQPOOL_OK;
}

static void run_calls(requester *r, call *calls, int n)
{
    switch (r->mode) {
    case MODE_PARALLEL:
        crew_run(r->crew, calls, n);
        break;
    case MODE_SHARED:
    case MODE_SHARED_AUTO:
        call_shared(calls, n, r->pool);
        break;
    case MODE_SERIAL:
        for (int i = 0; i < n; i++)
            call_on_lease(&calls[i], r->pool);
        break;
    case MODE_TRANSACTION:
    case MODE_PLAIN:
        for (int i = 0; i < n; i++)
            call_on_connection(&calls[i], r->conn);
        break;
    }
}

/* ---- the request ---- */

/* A request under way: the parameters as text and the results so far, by statement. */
struct state {
    char cursor[24], member[24], ids[ANSWER_IDS_SIZE];
    PGresult *results[BOARD_QUERIES];
};

static void prepare(call *c, board_query query, const struct state *p)
{
    *c = (call){.sql = board_sql(query), .n_params = board_n_params(query)};
    c->values[0] = query == BOARD_ARTICLES_OF_PAGE ? p->cursor : p->ids;
    c->values[1] = query == BOARD_ARTICLES_OF_PAGE ? BOARD_PAGE_LENGTH : p->member;
}

static bool check_answer(requester *r, const struct state *p, uint64_t *hash)
{
    const PGresult *by_query[BOARD_QUERIES];
    for (int q = 0; q < BOARD_QUERIES; q++)
        by_query[q] = p->results[q];
    *hash = answer_hash(by_query);
    if (answer_agrees(by_query))
        return true;
    snprintf(r->why, sizeof r->why, "the statements' results do not agree with one another");
    return false;
}

static bool run_round(requester *r, board_query first, int n, struct state *p)
{
    call calls[MAX_GROUP];
    bool good = true;
    for (int i = 0; i < n; i++)
        prepare(&calls[i], first + (board_query)i, p);
    run_calls(r, calls, n);
    for (int i = 0; i < n; i++) {
        PGresult **result = &p->results[first + (board_query)i];
        PQclear(*result); /* the long form runs its group twice, and both must give the answer */
        *result = calls[i].result;
        if (calls[i].why[0] && good)
            snprintf(r->why, sizeof r->why, "%s", calls[i].why);
        good = good && !calls[i].why[0];
    }
    if (good && first == BOARD_ARTICLES_OF_PAGE)
        answer_ids(p->results[first], p->ids);
    return good;
}

static bool run_rounds(requester *r, struct state *p, uint64_t *hash)
{
    const struct form *form = find_form(r->form);
    uint64_t first = 0;
    for (int i = 0; i < form->n_rounds; i++) {
        if (!run_round(r, form->rounds[i].first, form->rounds[i].n, p))
            return false;
        if (form->rounds[i].n == 1)
            continue;
        if (!check_answer(r, p, hash))
            return false;
        if (i > 1 && *hash != first) {
            snprintf(r->why, sizeof r->why, "the second group's answer is not the first one's");
            return false;
        }
        first = *hash;
    }
    return true;
}

bool request_run(requester *r, const board_page *page, uint64_t *hash)
{
    struct state p = {.results = {NULL}};
    snprintf(p.cursor, sizeof p.cursor, "%lld", (long long)page->cursor);
    snprintf(p.member, sizeof p.member, "%lld", (long long)page->member);
    r->why[0] = '\0';
    bool good = begin(r) && run_rounds(r, &p, hash);
    good = end(r, good);
    for (int q = 0; q < BOARD_QUERIES; q++)
        PQclear(p.results[q]);
    return good;
}
