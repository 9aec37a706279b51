/* guard: one pass over the tokens of a statement. */
#include "guard.h"

#include "lexer.h"

typedef pqp_token token;

static bool is(const token *t, const char *upper_case)
{
    return pqp_lexer_is(t, upper_case);
}

static bool is_one_of(const token *t, const char *const *upper_case)
{
    return pqp_lexer_is_one_of(t, upper_case);
}

/* ---- what is allowed ---- */

#define BY_LEASE "take a lease (pqpool_acquire) and run it there"
#define BY_TX "take a lease (pqpool_acquire) and run the transaction there"
#define BY_SETTING                                                                                           \
    "set it in the connection string (options=) or the on_connect hook, or take a lease (pqpool_acquire)"
#define BY_PREPARE                                                                                           \
    "give the statement as it is: the pool prepares what is repeated, or take a lease (pqpool_acquire)"
#define BY_LISTEN "take a lease (pqpool_acquire) and listen there"
#define BY_COPY "take a lease (pqpool_acquire) and copy there"
#define BY_XACT_LOCK "use the function of this name with _xact_, or take a lease (pqpool_acquire)"
#define BY_RETURNING "use RETURNING, or take a lease (pqpool_acquire)"
#define BY_ONE "give one statement per call (pqpool_exec_all runs several side by side)"
#define BY_LOCAL "take a lease (pqpool_acquire), or set it for the one statement: third argument true"

/* What further is looked at in a statement, by its first word. */
enum {
    ALLOWED = 1,
    CALLS = 2,    /* it runs expressions: the session's functions count */
    COMMITS = 4,  /* it commits by itself, in whole or in part */
    EXPLAINS = 8, /* the statement in it counts */
    CREATES = 16,
    CHANGES = 32, /* ALTER, DROP: some kinds of objects commit by themselves */
    PLANNED = 64, /* the server plans it */
};

typedef struct first_word {
    const char *word;
    int traits;
    const char *way_out; /* of those not allowed */
} first_word;

static const first_word first_words[] = {
    {"SELECT", ALLOWED | CALLS | PLANNED, NULL},
    {"INSERT", ALLOWED | CALLS | PLANNED, NULL},
    {"UPDATE", ALLOWED | CALLS | PLANNED, NULL},
    {"DELETE", ALLOWED | CALLS | PLANNED, NULL},
    {"WITH", ALLOWED | CALLS | PLANNED, NULL},
    {"MERGE", ALLOWED | CALLS | PLANNED, NULL},
    {"VALUES", ALLOWED | CALLS | PLANNED, NULL},
    {"TABLE", ALLOWED | CALLS | PLANNED, NULL},
    {"SHOW", ALLOWED, NULL},
    {"EXPLAIN", ALLOWED | EXPLAINS, NULL},
    {"CREATE", ALLOWED | CREATES, NULL},
    {"ALTER", ALLOWED | CHANGES, NULL},
    {"DROP", ALLOWED | CHANGES, NULL},
    {"TRUNCATE", ALLOWED, NULL},
    {"COMMENT", ALLOWED, NULL},
    {"GRANT", ALLOWED, NULL},
    {"REVOKE", ALLOWED, NULL},
    {"ANALYZE", ALLOWED | COMMITS, NULL},
    {"ANALYSE", ALLOWED | COMMITS, NULL},
    {"VACUUM", ALLOWED | COMMITS, NULL},
    {"REINDEX", ALLOWED | COMMITS, NULL},
    {"REFRESH", ALLOWED, NULL},
    {"CLUSTER", ALLOWED | COMMITS, NULL},
    {"CALL", ALLOWED | CALLS | COMMITS, NULL},
    {"DO", ALLOWED | COMMITS, NULL},
    {"NOTIFY", ALLOWED, NULL},
    {"IMPORT", ALLOWED, NULL},
    {"SECURITY", ALLOWED, NULL},
    {"REASSIGN", ALLOWED, NULL},
    {"BEGIN", 0, BY_TX},
    {"START", 0, BY_TX},
    {"COMMIT", 0, BY_TX},
    {"END", 0, BY_TX},
    {"ROLLBACK", 0, BY_TX},
    {"ABORT", 0, BY_TX},
    {"SAVEPOINT", 0, BY_TX},
    {"RELEASE", 0, BY_TX},
    {"LOCK", 0, BY_TX},
    {"PREPARE", 0, BY_PREPARE},
    {"EXECUTE", 0, BY_PREPARE},
    {"DEALLOCATE", 0, BY_PREPARE},
    {"SET", 0, BY_SETTING},
    {"RESET", 0, BY_SETTING},
    {"DISCARD", 0, BY_LEASE},
    {"LISTEN", 0, BY_LISTEN},
    {"UNLISTEN", 0, BY_LISTEN},
    {"DECLARE", 0, BY_TX},
    {"FETCH", 0, BY_TX},
    {"MOVE", 0, BY_TX},
    {"CLOSE", 0, BY_TX},
    {"COPY", 0, BY_COPY},
    {"LOAD", 0, "load it in the on_connect hook, or take a lease (pqpool_acquire)"},
    {"CHECKPOINT", 0, BY_LEASE},
};

/* Functions that change the session, or read what an earlier statement left in it. */
static const struct {
    const char *name, *construct, *way_out;
} session_functions[] = {
    {"currval", "currval()", BY_RETURNING},
    {"lastval", "lastval()", BY_RETURNING},
    {"setseed", "setseed()", BY_LEASE},
    {"pg_advisory_lock", "pg_advisory_lock()", BY_XACT_LOCK},
    {"pg_advisory_lock_shared", "pg_advisory_lock_shared()", BY_XACT_LOCK},
    {"pg_try_advisory_lock", "pg_try_advisory_lock()", BY_XACT_LOCK},
    {"pg_try_advisory_lock_shared", "pg_try_advisory_lock_shared()", BY_XACT_LOCK},
    {"pg_advisory_unlock", "pg_advisory_unlock()", BY_XACT_LOCK},
    {"pg_advisory_unlock_shared", "pg_advisory_unlock_shared()", BY_XACT_LOCK},
    {"pg_advisory_unlock_all", "pg_advisory_unlock_all()", BY_XACT_LOCK},
    {"pg_backup_start", "pg_backup_start()", BY_LEASE},
    {"pg_backup_stop", "pg_backup_stop()", BY_LEASE},
    {"pg_start_backup", "pg_start_backup()", BY_LEASE}, /* their names before 15 */
    {"pg_stop_backup", "pg_stop_backup()", BY_LEASE},
    {"pg_replication_origin_session_setup", "pg_replication_origin_session_setup()", BY_LEASE},
    {"pg_replication_origin_session_reset", "pg_replication_origin_session_reset()", BY_LEASE},
    {"pg_replication_origin_xact_setup", "pg_replication_origin_xact_setup()", BY_LEASE},
    {"pg_replication_origin_xact_reset", "pg_replication_origin_xact_reset()", BY_LEASE},
};

/* ---- the decision ---- */

/* An open call of set_config(), of which the third argument must be TRUE and nothing else. */
typedef struct setting {
    int depth; /* within its parentheses */
    int argument;
    int tokens; /* of the third argument */
    bool is_true;
} setting;

/* How far into an EXPLAIN or a CREATE the reader is. */
typedef enum { BODY, EXPLAIN_HEAD, EXPLAIN_OPTIONS, CREATE_HEAD, CREATE_QUERY } stage;

/* What SELECT ... INTO may have before the name of a table. */
typedef enum { INTO_NONE, INTO_SEEN, INTO_TEMP } into_state;

typedef struct reader {
    pqp_verdict verdict;
    token now, before, before2;
    stage stage;
    into_state into;
    int traits; /* of the first word; those of the inner statement once an EXPLAIN has shown it */
    token first, object;
    int depth;    /* of parentheses and brackets */
    int body;     /* of BEGIN ATOMIC and CASE in a function's body */
    bool schema;  /* CREATE SCHEMA, which may have a CREATE in it */
    bool updates; /* between UPDATE and the name of what it updates */
    bool ended;   /* a semicolon ended the statement */
    int n_settings;
    setting settings[4];
} reader;

static void refuse(reader *r, const char *construct, const char *way_out)
{
    if (r->verdict.construct)
        return;
    r->verdict.plannable = false;
    r->verdict.construct = construct;
    r->verdict.way_out = way_out;
}

#define TEMPORARY "a temporary table or other temporary object"

static void begin_create(reader *r)
{
    r->stage = CREATE_HEAD;
    r->object = (token){.kind = PQP_TOKEN_END};
}

/* SET LOCAL, PREPARE TRANSACTION and their like, which have a meaning in a transaction only. */
static bool in_transaction(const token *first)
{
    static const char *const second[] = {"LOCAL", "TRANSACTION", "CONSTRAINTS", NULL};
    token next;
    pqp_lexer_next(first->at + first->size, &next);
    return is_one_of(&next, second);
}

/* The word a statement, or the one within an EXPLAIN, begins with. */
static void take_first(reader *r)
{
    const first_word *w = first_words, *end = w + PQP_COUNT_OF(first_words);
    while (w < end && !is(&r->now, w->word))
        w++;
    if (w == end) {
        refuse(r,
               r->now.kind == PQP_TOKEN_WORD ? "a statement of a kind the pool does not know"
                                             : "a text that does not begin as a statement does",
               BY_LEASE);
        return;
    }
    if (w->way_out)
        refuse(r, w->word, in_transaction(&r->now) ? BY_TX : w->way_out);
    r->first = r->now;
    r->traits = w->traits;
    r->updates = is(&r->now, "UPDATE");
    r->stage = w->traits & EXPLAINS ? EXPLAIN_HEAD : BODY;
    if (w->traits & CREATES)
        begin_create(r);
    r->verdict.commits_itself = w->traits & COMMITS;
}

static void take_first_word(reader *r)
{
    size_t n = r->now.kind == PQP_TOKEN_WORD ? PQP_MIN(r->now.size, sizeof r->verdict.word - 1) : 0;
    for (size_t i = 0; i < n; i++)
        r->verdict.word[i] = pqp_lexer_upper(r->now.at[i]);
    take_first(r);
    r->verdict.plannable = !r->verdict.construct && r->traits & PLANNED;
}

/* EXPLAIN's own words and its options in parentheses, which a query may begin with as well. */
static void read_explain(reader *r)
{
    static const char *const query[] = {"SELECT", "WITH", "VALUES", "TABLE", NULL};
    if (r->stage == EXPLAIN_OPTIONS) {
        if (r->before.kind == PQP_TOKEN_OPEN && is_one_of(&r->now, query))
            take_first(r);
        else if (r->now.kind == PQP_TOKEN_CLOSE && r->depth == 0)
            r->stage = EXPLAIN_HEAD;
    } else if (r->now.kind == PQP_TOKEN_OPEN) {
        r->stage =
            is(&r->before, "EXPLAIN") || r->before.kind == PQP_TOKEN_OPEN ? EXPLAIN_OPTIONS : EXPLAIN_HEAD;
    } else if (!is(&r->now, "ANALYZE") && !is(&r->now, "ANALYSE") && !is(&r->now, "VERBOSE")) {
        take_first(r);
    }
}

/* From CREATE to the kind of object. */
static void read_create(reader *r)
{
    static const char *const prefix[] = {"OR", "REPLACE", "GLOBAL", "LOCAL", "UNIQUE", NULL};
    static const char *const alone[] = {"DATABASE", "TABLESPACE", "SUBSCRIPTION", NULL};
    if (is(&r->now, "TEMP") || is(&r->now, "TEMPORARY"))
        refuse(r, TEMPORARY, BY_LEASE);
    if (is_one_of(&r->now, prefix))
        return;
    r->object = r->now;
    r->stage = BODY;
    r->schema = r->schema || is(&r->now, "SCHEMA");
    if (is_one_of(&r->now, alone))
        r->verdict.commits_itself = true;
}

/* Words within a CREATE. That of a table may run a query, which then counts as one. */
static void read_creation(reader *r)
{
    static const char *const filled[] = {"TABLE", "UNLOGGED", "MATERIALIZED", NULL};
    if (r->stage == CREATE_HEAD) {
        read_create(r);
    } else if (r->stage == CREATE_QUERY) {
        r->stage = BODY;
        if (is(&r->now, "EXECUTE"))
            refuse(r, "EXECUTE", BY_PREPARE);
    } else if (r->schema && is(&r->now, "CREATE")) {
        begin_create(r);
    } else if (is(&r->now, "AS") && r->depth == 0 && !(r->traits & CALLS) && is_one_of(&r->object, filled)) {
        r->stage = CREATE_QUERY;
        r->traits |= CALLS;
    }
}

/* Words within an ALTER or DROP. */
static void read_change(reader *r)
{
    static const char *const dropped[] = {"DATABASE", "TABLESPACE", "SUBSCRIPTION", NULL};
    static const char *const altered[] = {"SYSTEM", "SUBSCRIPTION", NULL};
    static const char *const rewrites[] = {"ADD", "USING", NULL};
    if (r->object.kind == PQP_TOKEN_END) { /* the word after ALTER or DROP */
        r->object = r->now;
        if (is_one_of(&r->now, is(&r->first, "DROP") ? dropped : altered))
            r->verdict.commits_itself = true;
    } else if (is(&r->object, "DATABASE") && is(&r->now, "TABLESPACE")) {
        r->verdict.commits_itself = true;
    } else if ((is(&r->object, "TABLE") || is(&r->object, "DOMAIN")) && is_one_of(&r->now, rewrites)) {
        r->traits |= CALLS; /* for each row that is there */
    }
}

static void read_definition(reader *r)
{
    if (is(&r->now, "CONCURRENTLY"))
        r->verdict.commits_itself = true;
    if (is(&r->now, "VALUES") && is(&r->before, "FOR")) /* a partition's bounds are reckoned at once */
        r->traits |= CALLS;
    if (r->traits & CREATES)
        read_creation(r);
    else
        read_change(r);
}

/* INSERT or MERGE as the verb they are, and no column of this name: the next word is INTO. */
static bool verb(const reader *r)
{
    if (!is(&r->before, "INSERT") && !is(&r->before, "MERGE"))
        return false;
    return r->before.at == r->first.at || r->before2.kind == PQP_TOKEN_OPEN ||
           (r->before2.kind == PQP_TOKEN_CLOSE && is(&r->first, "WITH"));
}

/* SELECT ... INTO TEMP name, while INSERT INTO temp is a table of this name, as is SELECT ... INTO temp. */
static void read_into(reader *r)
{
    static const char *const after[] = {"FROM",   "WHERE", "GROUP", "HAVING", "WINDOW", "UNION", "INTERSECT",
                                        "EXCEPT", "ORDER", "LIMIT", "OFFSET", "FETCH",  "FOR",   NULL};
    bool word = r->now.kind == PQP_TOKEN_WORD;
    if (is(&r->now, "INTO")) {
        r->into = verb(r) ? INTO_NONE : INTO_SEEN;
        r->verdict.plannable = r->verdict.plannable && r->into == INTO_NONE;
        return;
    }
    if (r->into == INTO_SEEN && (is(&r->now, "TEMP") || is(&r->now, "TEMPORARY")))
        r->into = INTO_TEMP;
    else if (r->into == INTO_SEEN && (is(&r->now, "LOCAL") || is(&r->now, "GLOBAL")))
        r->into = INTO_SEEN;
    else if (r->into == INTO_TEMP &&
             (r->now.kind == PQP_TOKEN_QUOTED || (word && !is_one_of(&r->now, after))))
        refuse(r, TEMPORARY, BY_LEASE);
    else
        r->into = INTO_NONE;
}

/* The body of CREATE FUNCTION ... BEGIN ATOMIC ...; END, in which a semicolon ends nothing. */
static void read_body(reader *r)
{
    if (r->before.kind == PQP_TOKEN_DOT || is(&r->before, "AS"))
        return; /* a name, be it CASE or END */
    if (r->body == 0 && is(&r->now, "ATOMIC") && is(&r->before, "BEGIN") &&
        (is(&r->object, "FUNCTION") || is(&r->object, "PROCEDURE")))
        r->body = 1;
    else if (r->body > 0 && is(&r->now, "CASE"))
        r->body++;
    else if (r->body > 0 && is(&r->now, "END"))
        r->body--;
}

/* A parenthesis behind a name: a call, perhaps of a function that changes the session. */
static void read_call(reader *r)
{
    if (r->before2.kind == PQP_TOKEN_DOT)
        return; /* of a schema other than pg_catalog, see remember() */
    for (size_t i = 0; i < PQP_COUNT_OF(session_functions); i++)
        if (pqp_lexer_names(&r->before, session_functions[i].name))
            refuse(r, session_functions[i].construct, session_functions[i].way_out);
    if (!pqp_lexer_names(&r->before, "set_config"))
        return;
    if (r->n_settings == (int)PQP_COUNT_OF(r->settings))
        refuse(r, "set_config()", BY_LOCAL);
    else
        r->settings[r->n_settings++] = (setting){.depth = r->depth};
}

/* Follows the innermost open set_config(). */
static void read_setting(reader *r)
{
    setting *s = &r->settings[r->n_settings - 1];
    if (r->depth < s->depth) {
        if (s->argument != 2 || s->tokens != 1 || !s->is_true)
            refuse(r, "set_config()", BY_LOCAL);
        r->n_settings--;
    } else if (r->now.kind == PQP_TOKEN_COMMA && r->depth == s->depth) {
        s->argument++;
    } else if (s->argument == 2) {
        s->tokens++;
        s->is_true = is(&r->now, "TRUE");
    }
}

/* pg_settings is a view, and an update of it a SET. */
static void read_update(reader *r)
{
    bool more = r->now.kind == PQP_TOKEN_OPEN || r->now.kind == PQP_TOKEN_DOT || is(&r->now, "ONLY");
    bool named = r->before.kind == PQP_TOKEN_QUOTED ||
                 (r->before.kind == PQP_TOKEN_WORD && !is(&r->before, "UPDATE") && !is(&r->before, "ONLY"));
    if (is(&r->now, "UPDATE")) {
        r->updates = true;
    } else if (r->updates && !more) {
        if (!named && r->before.kind != PQP_TOKEN_DOT && pqp_lexer_names(&r->now, "pg_settings"))
            refuse(r, "UPDATE pg_settings", BY_SETTING);
        r->updates = !named;
    }
}

/* Keeps the last two tokens; pg_catalog.f is kept as f, which it stands for, as does d.pg_catalog.f. */
static void remember(reader *r)
{
    bool catalog = r->now.kind == PQP_TOKEN_DOT && pqp_lexer_names(&r->before, "pg_catalog");
    r->before2 = catalog ? (token){.kind = PQP_TOKEN_OTHER, .at = ""} : r->before;
    r->before = catalog ? (token){.kind = PQP_TOKEN_OTHER, .at = ""} : r->now;
}

static bool temp_schema(const token *t)
{
    return pqp_lexer_names(t, "pg_temp") || pqp_lexer_begins(t, "pg_temp_");
}

/* What is read from the session's temporary schema, or made in it; IMPORT and CREATE EXTENSION name it alone. */
static void read_temp_schema(reader *r)
{
    bool into = is(&r->before, "INTO") || (is(&r->before, "SCHEMA") && !is(&r->before2, "FOREIGN"));
    bool alone = into && !(r->traits & CALLS) && temp_schema(&r->now);
    if (alone || (r->now.kind == PQP_TOKEN_DOT && temp_schema(&r->before)))
        refuse(r, TEMPORARY, BY_LEASE);
}

/* Keeps count of parentheses: read_setting() and the rest see the depth behind the token. */
static void read_depth(reader *r)
{
    if (r->now.kind == PQP_TOKEN_OPEN)
        r->depth++;
    else if (r->now.kind == PQP_TOKEN_CLOSE && r->depth > 0)
        r->depth--;
}

static void read_semicolon(reader *r)
{
    if (r->depth == 0 && r->body == 0 && r->first.kind != PQP_TOKEN_END)
        r->ended = true;
}

static void take_token(reader *r)
{
    if (r->ended && r->now.kind != PQP_TOKEN_SEMICOLON) {
        refuse(r, "several statements in one text", BY_ONE);
        return;
    }
    read_depth(r);
    if (r->now.kind == PQP_TOKEN_SEMICOLON) {
        read_semicolon(r);
    } else if (r->first.kind == PQP_TOKEN_END) {
        if (r->now.kind != PQP_TOKEN_OPEN)
            take_first_word(r);
    } else if (r->stage == EXPLAIN_HEAD || r->stage == EXPLAIN_OPTIONS) {
        read_explain(r);
    } else {
        if (r->now.kind == PQP_TOKEN_WORD && r->traits & (CREATES | CHANGES))
            read_definition(r);
        if (r->traits & CREATES && r->now.kind == PQP_TOKEN_WORD)
            read_body(r);
        if (r->traits & CALLS) {
            read_into(r);
            read_update(r);
        }
        read_temp_schema(r);
        if (r->n_settings > 0)
            read_setting(r);
        if (r->traits & CALLS && r->now.kind == PQP_TOKEN_OPEN && *r->now.at == '(')
            read_call(r);
    }
    remember(r);
}

pqp_verdict pqp_guard_check(const char *sql)
{
    reader r = {.verdict = {0}};
    const char *p = sql ? sql : "";
    while (!r.verdict.construct) {
        p = pqp_lexer_next(p, &r.now);
        if (r.now.kind == PQP_TOKEN_END)
            break;
        take_token(&r);
    }
    return r.verdict;
}

bool pqp_guard_bad_tag(const char *tag)
{
    static const char *const bad[] = {"BEGIN",   "START", "COMMIT",     "ROLLBACK", "SAVEPOINT", "RELEASE",
                                      "PREPARE", "SET",   "DEALLOCATE", "RESET",    "DISCARD",   "LISTEN",
                                      "DECLARE", "CLOSE", "UNLISTEN",   "FETCH",    "MOVE",      "COPY",
                                      "LOCK",    "LOAD",  NULL};
    if (!tag)
        return false;
    token first = {.kind = PQP_TOKEN_WORD, .at = tag, .size = strcspn(tag, " ")};
    return is_one_of(&first, bad);
}
