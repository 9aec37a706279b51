/* guard: a small lexer that reads as the server's does, and one pass over its tokens. */
#include "guard.h"

/* ---- lexer ---- */

typedef enum { END, WORD, QUOTED, STRING, OPEN, CLOSE, COMMA, SEMICOLON, DOT, OTHER } token_kind;

typedef struct token {
    token_kind kind;
    const char *at; /* WORD: its text; QUOTED: without the quotes; OPEN, CLOSE, OTHER: the character */
    size_t size;
} token;

static char upper(char c)
{
    return c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
}

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool word_start(char c)
{
    return (upper(c) >= 'A' && upper(c) <= 'Z') || c == '_' || (unsigned char)c >= 0x80;
}

static const char *skip_line(const char *p)
{
    return p + strcspn(p, "\n\r");
}

/* Skips a comment of either kind, nested ones within; p is at its first character. */
static const char *skip_comment(const char *p)
{
    if (*p == '-')
        return skip_line(p);
    int depth = 0;
    do {
        if (p[0] == '/' && p[1] == '*') {
            depth++;
            p += 2;
        } else if (p[0] == '*' && p[1] == '/') {
            depth--;
            p += 2;
        } else {
            p++;
        }
    } while (depth > 0 && *p);
    return p;
}

static const char *skip_space(const char *p)
{
    for (;;) {
        while (blank(*p))
            p++;
        if (!(p[0] == '-' && p[1] == '-') && !(p[0] == '/' && p[1] == '*'))
            return p;
        p = skip_comment(p);
    }
}

/*
 * A string goes on in the next line: 'a' <newline> 'b' is one, and an E before the first part counts for the
 * second. Returns the quote that opens the next part, or NULL.
 */
static const char *next_part(const char *p)
{
    bool newline = false;
    for (;;) {
        for (; blank(*p); p++)
            newline = newline || *p == '\n' || *p == '\r';
        if (p[0] != '-' || p[1] != '-')
            return newline && *p == '\'' ? p : NULL;
        p = skip_line(p);
    }
}

/* Skips the string whose quote is at p. */
static const char *skip_string(const char *p, bool escapes)
{
    for (p++; *p; p++) {
        if (escapes && p[0] == '\\' && p[1] != '\0') {
            p++;
        } else if (p[0] == '\'' && p[1] == '\'') {
            p++;
        } else if (p[0] == '\'') {
            const char *part = next_part(p + 1);
            if (!part)
                return p + 1;
            p = part;
        }
    }
    return p;
}

/* Skips $tag$ ... $tag$; returns p itself where no such quote begins. */
static const char *skip_dollar(const char *p)
{
    const char *tag = p + 1;
    if (word_start(*tag))
        while (word_start(*tag) || digit(*tag))
            tag++;
    if (*tag != '$')
        return p;
    size_t size = (size_t)(tag - p) + 1;
    for (const char *q = tag + 1; (q = strchr(q, '$')); q++)
        if (strncmp(q, p, size) == 0)
            return q + size;
    return p + strlen(p); /* it has no end: to the server too, all the rest is in it */
}

static const char *read_quoted(const char *p, token *t)
{
    *t = (token){QUOTED, ++p, 0};
    while (*p && (p[0] != '"' || p[1] == '"'))
        p += p[0] == '"' ? 2 : 1;
    t->size = (size_t)(p - t->at);
    return *p ? p + 1 : p;
}

/* A word, or one of the strings that have letters before their quote. */
static const char *read_word(const char *p, token *t)
{
    *t = (token){WORD, p, 0};
    if (upper(p[0]) == 'U' && p[1] == '&' && p[2] == '"')
        return read_quoted(p + 2, t);
    bool unicode = upper(p[0]) == 'U' && p[1] == '&' && p[2] == '\'';
    if (unicode || (p[1] == '\'' && strchr("EBXN", upper(p[0])))) {
        t->kind = STRING;
        return skip_string(p + (unicode ? 2 : 1), upper(p[0]) == 'E');
    }
    while (word_start(*p) || digit(*p) || *p == '$')
        p++;
    t->size = (size_t)(p - t->at);
    return p;
}

static token_kind kind_of(char c)
{
    switch (c) {
    case '\0':
        return END;
    case '(':
    case '[':
        return OPEN;
    case ')':
    case ']':
        return CLOSE;
    case ',':
        return COMMA;
    case ';':
        return SEMICOLON;
    case '.':
        return DOT;
    default:
        return OTHER;
    }
}

/* Reads the token at p, returns the place behind it. At the end it stays there. */
static const char *read_token(const char *p, token *t)
{
    p = skip_space(p);
    *t = (token){STRING, p, 0};
    if (word_start(*p))
        return read_word(p, t);
    if (*p == '\'')
        return skip_string(p, false);
    if (*p == '"')
        return read_quoted(p, t);
    if (*p == '$' && !digit(p[1])) {
        const char *end = skip_dollar(p);
        if (end != p)
            return end;
    }
    *t = (token){kind_of(*p), p, 1};
    if (digit(*p) || (*p == '$' && digit(p[1])))
        while (digit(p[1]))
            p++;
    return *p ? p + 1 : p;
}

/* Words compare without case, quoted identifiers with it, as what the server folds a word to is lower
 * case. */
static bool is(const token *t, const char *upper_case)
{
    if (t->kind != WORD)
        return false;
    for (size_t i = 0; i < t->size; i++)
        if (upper(t->at[i]) != upper_case[i])
            return false; /* at its end too, where upper_case has NUL */
    return upper_case[t->size] == '\0';
}

static bool names(const token *t, const char *lower_case)
{
    if (t->kind != WORD && t->kind != QUOTED)
        return false;
    for (size_t i = 0; i < t->size; i++) {
        char c =
            t->kind == WORD && t->at[i] >= 'A' && t->at[i] <= 'Z' ? (char)(t->at[i] - 'A' + 'a') : t->at[i];
        if (c != lower_case[i])
            return false;
    }
    return lower_case[t->size] == '\0';
}

static bool is_one_of(const token *t, const char *const *list)
{
    for (; *list; list++)
        if (is(t, *list))
            return true;
    return false;
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
};

typedef struct first_word {
    const char *word;
    int traits;
    const char *way_out; /* of those not allowed */
} first_word;

static const first_word first_words[] = {
    {"SELECT", ALLOWED | CALLS, NULL},
    {"INSERT", ALLOWED | CALLS, NULL},
    {"UPDATE", ALLOWED | CALLS, NULL},
    {"DELETE", ALLOWED | CALLS, NULL},
    {"WITH", ALLOWED | CALLS, NULL},
    {"MERGE", ALLOWED | CALLS, NULL},
    {"VALUES", ALLOWED | CALLS, NULL},
    {"TABLE", ALLOWED | CALLS, NULL},
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
typedef enum { BODY, EXPLAIN_HEAD, EXPLAIN_OPTIONS, CREATE_HEAD } stage;

/* What SELECT ... INTO may have before the name of a table. */
typedef enum { INTO_NONE, INTO_SEEN, INTO_TEMP } into_state;

typedef struct reader {
    pqp_verdict verdict;
    token now, before, before2;
    stage stage;
    into_state into;
    int traits; /* of the first word; those of the inner statement once an EXPLAIN has shown it */
    token first, object;
    int depth;        /* of parentheses and brackets */
    int body;         /* of BEGIN ATOMIC and CASE in a function's body */
    bool query_in_it; /* CREATE TABLE ... AS */
    bool ended;       /* a semicolon ended the statement */
    int n_settings;
    setting settings[4];
} reader;

static void refuse(reader *r, const char *construct, const char *way_out)
{
    if (r->verdict.construct)
        return;
    r->verdict.construct = construct;
    r->verdict.way_out = way_out;
}

#define TEMPORARY "a temporary table or other temporary object"

static void begin_create(reader *r)
{
    r->stage = CREATE_HEAD;
    r->object = (token){END, NULL, 0};
}

/* The word a statement, or the one within an EXPLAIN, begins with. */
static void take_first(reader *r)
{
    const first_word *w = first_words, *end = w + PQP_COUNT_OF(first_words);
    while (w < end && !is(&r->now, w->word))
        w++;
    if (w == end) {
        refuse(r,
               r->now.kind == WORD ? "a statement of a kind the pool does not know"
                                   : "a text that does not begin as a statement does",
               BY_LEASE);
        return;
    }
    if (w->way_out)
        refuse(r, w->word, w->way_out);
    r->first = r->now;
    r->traits = w->traits;
    r->stage = w->traits & EXPLAINS ? EXPLAIN_HEAD : BODY;
    if (w->traits & CREATES)
        begin_create(r);
    r->verdict.commits_itself = w->traits & COMMITS;
}

static void take_first_word(reader *r)
{
    size_t n = r->now.kind == WORD ? PQP_MIN(r->now.size, sizeof r->verdict.word - 1) : 0;
    for (size_t i = 0; i < n; i++)
        r->verdict.word[i] = upper(r->now.at[i]);
    take_first(r);
}

/* EXPLAIN's own words and its options in parentheses, which a query may begin with as well. */
static void read_explain(reader *r)
{
    static const char *const query[] = {"SELECT", "WITH", "VALUES", "TABLE", NULL};
    if (r->stage == EXPLAIN_OPTIONS) {
        if (r->before.kind == OPEN && is_one_of(&r->now, query))
            take_first(r);
        else if (r->now.kind == CLOSE && r->depth == 0)
            r->stage = EXPLAIN_HEAD;
    } else if (r->now.kind == OPEN) {
        r->stage = is(&r->before, "EXPLAIN") || r->before.kind == OPEN ? EXPLAIN_OPTIONS : EXPLAIN_HEAD;
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
    if (is_one_of(&r->now, alone))
        r->verdict.commits_itself = true;
}

/* Words within a CREATE, ALTER or DROP. */
static void read_definition(reader *r)
{
    if (r->stage == CREATE_HEAD) {
        read_create(r);
        return;
    }
    if (is(&r->now, "CONCURRENTLY"))
        r->verdict.commits_itself = true;
    if (r->traits & CREATES) {
        bool query = is(&r->object, "TABLE") || is(&r->object, "UNLOGGED") || is(&r->object, "MATERIALIZED");
        if (is(&r->now, "CREATE") && is(&r->object, "SCHEMA"))
            begin_create(r);
        else if (query && r->depth == 0 && is(&r->now, "AS"))
            r->query_in_it = true;
        else if (query && is(&r->before, "AS") && is(&r->now, "EXECUTE"))
            refuse(r, "EXECUTE", BY_PREPARE);
        return;
    }
    if (r->object.kind == END) { /* the word after ALTER or DROP */
        static const char *const dropped[] = {"DATABASE", "TABLESPACE", "SUBSCRIPTION", NULL};
        static const char *const altered[] = {"SYSTEM", "SUBSCRIPTION", NULL};
        r->object = r->now;
        if (is_one_of(&r->now, is(&r->first, "DROP") ? dropped : altered))
            r->verdict.commits_itself = true;
    } else if (is(&r->object, "DATABASE") && is(&r->now, "TABLESPACE")) {
        r->verdict.commits_itself = true;
    }
}

/* SELECT ... INTO TEMP name, while INSERT INTO temp is a table of this name, as is SELECT ... INTO temp. */
static void read_into(reader *r)
{
    static const char *const after[] = {"FROM",   "WHERE", "GROUP", "HAVING", "WINDOW", "UNION", "INTERSECT",
                                        "EXCEPT", "ORDER", "LIMIT", "OFFSET", "FETCH",  "FOR",   NULL};
    bool word = r->now.kind == WORD;
    if (is(&r->now, "INTO"))
        r->into = is(&r->before, "INSERT") || is(&r->before, "MERGE") ? INTO_NONE : INTO_SEEN;
    else if (r->into == INTO_SEEN && (is(&r->now, "TEMP") || is(&r->now, "TEMPORARY")))
        r->into = INTO_TEMP;
    else if (r->into == INTO_SEEN && (is(&r->now, "LOCAL") || is(&r->now, "GLOBAL")))
        r->into = INTO_SEEN;
    else if (r->into == INTO_TEMP && (r->now.kind == QUOTED || (word && !is_one_of(&r->now, after))))
        refuse(r, TEMPORARY, BY_LEASE);
    else
        r->into = INTO_NONE;
}

/* The body of CREATE FUNCTION ... BEGIN ATOMIC ...; END, in which a semicolon ends nothing. */
static void read_body(reader *r)
{
    if (r->before.kind == DOT || is(&r->before, "AS"))
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
    if (r->before2.kind == DOT)
        return; /* of a schema other than pg_catalog, see remember() */
    for (size_t i = 0; i < PQP_COUNT_OF(session_functions); i++)
        if (names(&r->before, session_functions[i].name))
            refuse(r, session_functions[i].construct, session_functions[i].way_out);
    if (!names(&r->before, "set_config"))
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
    } else if (r->now.kind == COMMA && r->depth == s->depth) {
        s->argument++;
    } else if (s->argument == 2) {
        s->tokens++;
        s->is_true = is(&r->now, "TRUE");
    }
}

/* Keeps the last two tokens; pg_catalog.f is kept as f, which it stands for. */
static void remember(reader *r)
{
    bool catalog = r->now.kind == DOT && names(&r->before, "pg_catalog") && r->before2.kind != DOT;
    r->before2 = catalog ? (token){OTHER, "", 0} : r->before;
    r->before = catalog ? (token){OTHER, "", 0} : r->now;
}

static bool temp_schema(const token *t)
{
    static const char name[] = "pg_temp";
    token head = {t->kind, t->at, PQP_MIN(t->size, sizeof name - 1)};
    return names(&head, name) && (t->size == head.size || t->at[head.size] == '_');
}

/* Keeps count of parentheses: read_setting() and the rest see the depth behind the token. */
static void read_depth(reader *r)
{
    if (r->now.kind == OPEN)
        r->depth++;
    else if (r->now.kind == CLOSE && r->depth > 0)
        r->depth--;
}

static void read_semicolon(reader *r)
{
    if (r->depth == 0 && r->body == 0 && r->first.kind != END)
        r->ended = true;
}

static void take_token(reader *r)
{
    if (r->ended && r->now.kind != SEMICOLON) {
        refuse(r, "several statements in one text", BY_ONE);
        return;
    }
    read_depth(r);
    if (r->now.kind == SEMICOLON) {
        read_semicolon(r);
    } else if (r->first.kind == END) {
        if (r->now.kind != OPEN)
            take_first_word(r);
    } else if (r->stage == EXPLAIN_HEAD || r->stage == EXPLAIN_OPTIONS) {
        read_explain(r);
    } else {
        if (r->now.kind == WORD && r->traits & (CREATES | CHANGES))
            read_definition(r);
        if (r->traits & CREATES && r->now.kind == WORD)
            read_body(r);
        if (r->traits & CALLS)
            read_into(r);
        if (r->now.kind == DOT && temp_schema(&r->before) && r->before2.kind != DOT)
            refuse(r, TEMPORARY, BY_LEASE);
        if (r->n_settings > 0)
            read_setting(r);
        if (r->now.kind == OPEN && *r->now.at == '(' && (r->traits & CALLS || r->query_in_it))
            read_call(r);
    }
    remember(r);
}

pqp_verdict pqp_guard_check(const char *sql)
{
    reader r = {.first = {END, NULL, 0}};
    const char *p = sql ? sql : "";
    while (!r.verdict.construct) {
        p = read_token(p, &r.now);
        if (r.now.kind == END)
            break;
        take_token(&r);
    }
    static const char *const planned[] = {"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE",
                                          "VALUES", "WITH",   "TABLE",  NULL};
    r.verdict.plannable = is_one_of(&r.first, planned);
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
    token first = {WORD, tag, strcspn(tag, " ")};
    return is_one_of(&first, bad);
}
