/* guard: one pass over the tokens of a statement. */
#include "guard.h"

#include "lexer.h"
#include "lexicon.h"

typedef pqp_token token;

static bool is(const token *t, const char *upper_case)
{
    return pqp_lexer_is(t, upper_case);
}

static bool is_one_of(const token *t, const char *const *upper_case)
{
    return pqp_lexer_is_one_of(t, upper_case);
}

/* An open call that is judged by its arguments. */
typedef struct open_call {
    const pqp_session_function *function;
    int depth; /* within its parentheses */
    int argument;
    int tokens;                     /* of the argument */
    bool named, temporary;          /* the argument is written as name => value; its name is temporary */
    bool marked, is_true, is_false; /* its second token begins a => or :=; its last one is the word */
    bool local;                     /* the third argument was TRUE and nothing else */
} open_call;

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
    int depth;        /* of parentheses and brackets */
    int body;         /* of BEGIN ATOMIC and CASE in a function's body */
    bool schema;      /* CREATE SCHEMA, which may have a CREATE in it */
    bool updates;     /* between UPDATE and the name of what it updates */
    bool ended;       /* a semicolon ended the statement */
    uint64_t with;    /* bit d: within d parentheses a WITH has begun, and its statement has not */
    const char *verb; /* the last INSERT or MERGE that is one, and no name */
    int n_calls;
    open_call calls[4];
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

/* COMMIT PREPARED and ROLLBACK PREPARED end no transaction of the session's own. */
static const char *of_prepared(const token *first)
{
    token next;
    pqp_lexer_next(first->at + first->size, &next);
    if (!is(&next, "PREPARED"))
        return NULL;
    return is(first, "COMMIT") ? "COMMIT PREPARED" : is(first, "ROLLBACK") ? "ROLLBACK PREPARED" : NULL;
}

static uint64_t with_bit(int depth)
{
    return depth < 64 ? UINT64_C(1) << depth : 0;
}

static bool in_with(const reader *r, int depth)
{
    return r->with & with_bit(depth);
}

/*
 * Follows what a WITH announces: until its statement begins, a name with a parenthesis behind it is no call, and an INSERT or
 * MERGE is that statement. Elsewhere the two may be names: SELECT count(*) insert INTO TEMP t.
 */
static void read_with(reader *r, bool first)
{
    static const char *const ends[] = {"SELECT", "VALUES", "TABLE",  "UPDATE", "DELETE",    "INSERT",
                                       "MERGE",  "UNION",  "EXCEPT", "ORDER",  "INTERSECT", "LIMIT",
                                       "OFFSET", "FETCH",  "FOR",    NULL};
    bool begins = first || r->before.kind == PQP_TOKEN_OPEN;
    if (begins && is(&r->now, "WITH")) {
        r->with |= with_bit(r->depth);
        return;
    }
    if (!is_one_of(&r->now, ends))
        return;
    if ((begins || in_with(r, r->depth)) && (is(&r->now, "INSERT") || is(&r->now, "MERGE")))
        r->verb = r->now.at;
    r->with &= ~with_bit(r->depth);
}

/* The word a statement, or the one within an EXPLAIN, begins with. */
static void take_first(reader *r)
{
    const pqp_first_word *w = pqp_first_words;
    while (w->word && !is(&r->now, w->word))
        w++;
    if (!w->word) {
        refuse(r,
               r->now.kind == PQP_TOKEN_WORD ? "a statement of a kind the pool does not know"
                                             : "a text that does not begin as a statement does",
               BY_SPELLING);
        return;
    }
    const char *prepared = of_prepared(&r->now);
    if (prepared)
        refuse(r, prepared, BY_LEASE);
    else if (w->way_out)
        refuse(r, w->word, in_transaction(&r->now) ? BY_TX : w->way_out);
    r->first = r->now;
    r->traits = w->traits;
    r->updates = is(&r->now, "UPDATE");
    read_with(r, true);
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

/* SELECT ... INTO TEMP name, while INSERT INTO temp is a table of this name, as is SELECT ... INTO temp. */
static void read_into(reader *r)
{
    static const char *const after[] = {"FROM",   "WHERE", "GROUP", "HAVING", "WINDOW", "UNION", "INTERSECT",
                                        "EXCEPT", "ORDER", "LIMIT", "OFFSET", "FETCH",  "FOR",   NULL};
    bool word = r->now.kind == PQP_TOKEN_WORD;
    if (is(&r->now, "INTO")) {
        r->into = r->verb && r->before.at == r->verb ? INTO_NONE : INTO_SEEN;
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

/* A name that stands before a parenthesis and is not called: it is given to a CTE, an alias, or is a table's. */
static bool given_name(const reader *r)
{
    static const char *const giving[] = {"WITH", "RECURSIVE", "AS", "INTO", NULL};
    return is_one_of(&r->before2, giving) || in_with(r, r->depth - 1);
}

/* A parenthesis behind a name: a call, perhaps of a function that changes the session. */
static void read_call(reader *r)
{
    bool other_schema = r->before2.kind == PQP_TOKEN_DOT; /* than pg_catalog, see remember() */
    const pqp_session_function *f = pqp_session_functions;
    while (f->name && ((other_schema && !f->extension) || !pqp_lexer_names(&r->before, f->name)))
        f++;
    if (!f->name || given_name(r))
        return;
    if (f->rule == ALWAYS || r->n_calls == (int)PQP_COUNT_OF(r->calls))
        refuse(r, f->construct, f->way_out);
    else
        r->calls[r->n_calls++] = (open_call){.function = f, .depth = r->depth};
}

static void end_argument(reader *r, open_call *c)
{
    bool forbidden;
    if (c->function->rule == UNLESS_LOCAL)
        c->local = c->argument == 2 && c->tokens == 1 && c->is_true;
    if (c->named)
        forbidden = c->temporary && !(c->tokens == 4 && c->is_false);
    else
        forbidden = c->argument == 2 && !(c->tokens == 1 && c->is_false);
    if (c->function->rule == UNLESS_DURABLE && forbidden)
        refuse(r, c->function->construct, c->function->way_out);
    c->tokens = 0;
    c->named = c->temporary = c->marked = c->is_true = c->is_false = false;
}

/* name => value, or name := value, of which the lexer makes four tokens. */
static void read_argument(const reader *r, open_call *c)
{
    c->tokens++;
    if (c->tokens == 1)
        c->temporary = pqp_lexer_names(&r->now, "temporary");
    else if (c->tokens == 2)
        c->marked = r->now.kind == PQP_TOKEN_OTHER && (*r->now.at == '=' || *r->now.at == ':');
    else if (c->tokens == 3)
        c->named =
            c->marked && r->now.kind == PQP_TOKEN_OTHER && *r->now.at == (*r->before.at == '=' ? '>' : '=');
    c->is_true = is(&r->now, "TRUE");
    c->is_false = is(&r->now, "FALSE");
}

/* Follows the innermost call that is judged by its arguments. */
static void read_arguments(reader *r)
{
    open_call *c = &r->calls[r->n_calls - 1];
    if (r->depth >= c->depth && !(r->now.kind == PQP_TOKEN_COMMA && r->depth == c->depth)) {
        read_argument(r, c);
        return;
    }
    end_argument(r, c);
    if (r->now.kind == PQP_TOKEN_COMMA) {
        c->argument++;
        return;
    }
    if ((c->function->rule == UNLESS_LOCAL && !c->local) ||
        (c->function->rule == WITH_ONE_ARGUMENT && c->argument == 0))
        refuse(r, c->function->construct, c->function->way_out);
    r->n_calls--;
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

/* Keeps count of parentheses: read_arguments() and the rest see the depth behind the token. */
static void read_depth(reader *r)
{
    if (r->now.kind != PQP_TOKEN_OPEN && (r->now.kind != PQP_TOKEN_CLOSE || r->depth == 0))
        return;
    r->depth += r->now.kind == PQP_TOKEN_OPEN;
    r->with &= ~with_bit(r->depth);
    r->depth -= r->now.kind == PQP_TOKEN_CLOSE;
}

static void read_semicolon(reader *r)
{
    if (r->depth == 0 && r->body == 0 && r->first.kind != PQP_TOKEN_END)
        r->ended = true;
}

static void take_token(reader *r)
{
    if (r->now.doubt) {
        refuse(r, r->now.doubt, BY_UNDOUBTED);
        return;
    }
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
            read_with(r, false);
            read_into(r);
            read_update(r);
        }
        read_temp_schema(r);
        if (r->n_calls > 0)
            read_arguments(r);
        if (r->traits & CALLS && r->now.kind == PQP_TOKEN_OPEN && *r->now.at == '(')
            read_call(r);
    }
    /* $1 in the body of a function is the function's. */
    if (r->traits & CALLS && !(r->traits & (CREATES | CHANGES)))
        r->verdict.params = PQP_MAX(r->verdict.params, pqp_lexer_parameter(&r->now));
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
