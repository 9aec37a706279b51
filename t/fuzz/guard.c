/*
 * Fuzzes the lexer and the guard. With libpg_query, which is PostgreSQL's own scanner and grammar as a library, each text that
 * the two read must be cut in the same pieces, and a statement that the guard allows must not be one that changes the
 * session, as the grammar has it. Without it (FUZZ_WITHOUT_PG_QUERY) a verdict must at least be the same behind a comment.
 * Run by t/fuzz/run.
 */
#include "guard.h"
#include "lexer.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void fault(const char *what, const char *text, const char *more)
{
    fprintf(stderr, "\n%s\n  text: %s\n  %s\n", what, text, more);
    abort();
}

/* ---- what the lexer makes of each byte: W word, Q name in quotes, S string, O other, ' ' nothing ---- */

static bool doubtful; /* a token was: the text is refused, and may be cut in another way */

static void cut(const char *text, char *map)
{
    static const char marks[] = {[PQP_TOKEN_WORD] = 'W', [PQP_TOKEN_QUOTED] = 'Q', [PQP_TOKEN_STRING] = 'S'};
    memset(map, ' ', strlen(text));
    doubtful = false;
    pqp_token t;
    for (const char *p = text, *next;; p = next) {
        next = pqp_lexer_next(p, &t);
        if (t.kind == PQP_TOKEN_END)
            return;
        if (next <= p || t.at < p || t.at + t.size > text + strlen(text))
            fault("a token is no piece of the text", text, "");
        doubtful |= t.doubt != NULL;
        const char *from = t.kind == PQP_TOKEN_QUOTED ? t.at - 1 : t.at;
        char mark = t.kind <= PQP_TOKEN_STRING ? marks[t.kind] : 'O';
        memset(map + (from - text), mark, (size_t)(next - from));
    }
}

static void check_alone(const char *text)
{
    pqp_verdict v = pqp_guard_check(text);
    if (v.construct && (!v.way_out || v.plannable))
        fault("a refused statement has no way out, or is planned", text, v.construct);
    char *behind = malloc(strlen(text) + 40);
    sprintf(behind, "/* x /* ' */ */ -- \"\n%s", text);
    pqp_verdict w = pqp_guard_check(behind);
    free(behind);
    if (v.construct != w.construct || v.params != w.params || strcmp(v.word, w.word) != 0)
        fault("behind a comment the verdict is another one", text, v.construct ? v.construct : "allowed");
}

#ifndef FUZZ_WITHOUT_PG_QUERY
#include <pg_query.h>

/* ---- the same from PostgreSQL's scanner: its answer is a protobuf, of which little is needed ---- */

enum {
    SQL_COMMENT = 275,
    C_COMMENT = 276,
    IDENT = 258,
    UIDENT = 259,
    SCONST = 261,
    USCONST = 262,
    BCONST = 263,
    XCONST = 264
};

typedef struct bytes {
    const unsigned char *at, *end;
} bytes;

static uint64_t varint(bytes *b)
{
    uint64_t n = 0;
    for (int shift = 0; b->at < b->end; shift += 7) {
        n |= (uint64_t)(*b->at & 127) << shift;
        if (!(*b->at++ & 128))
            break;
    }
    return n;
}

typedef struct scanned {
    uint64_t start, end, token, keyword;
} scanned;

static scanned read_token(bytes b)
{
    scanned s = {0};
    while (b.at < b.end) {
        uint64_t field = varint(&b) >> 3, n = varint(&b);
        *(field == 1 ? &s.start : field == 2 ? &s.end : field == 4 ? &s.token : &s.keyword) = n;
    }
    return s;
}

static char mark_of(const char *text, const scanned *s)
{
    const char *at = text + s->start;
    bool national = s->end - s->start == 1 && toupper((unsigned char)*at) == 'N' && at[1] == '\'';
    if (s->token == C_COMMENT || s->token == SQL_COMMENT)
        return ' ';
    if (s->token == SCONST || s->token == BCONST || s->token == XCONST || national)
        return 'S';
    if (s->token == IDENT && *at == '"')
        return 'Q';
    return s->token == IDENT || s->keyword > 0 ? 'W' : 'O';
}

/* False: the scanner does not read the text. */
static bool cut_by_server(const char *text, char *map)
{
    PgQueryScanResult r = pg_query_scan(text);
    memset(map, ' ', strlen(text));
    bool fine = !r.error;
    bytes all = {(const unsigned char *)r.pbuf.data, NULL};
    if (fine)
        all.end = all.at + r.pbuf.len;
    while (fine && all.at < all.end) {
        uint64_t key = varint(&all);
        if ((key & 7) != 2) {
            varint(&all);
            continue;
        }
        uint64_t length = varint(&all);
        scanned s = read_token((bytes){all.at, all.at + length});
        all.at += length;
        if (s.token == USCONST || s.token == UIDENT) { /* libpg_query does not tell where these end */
            fine = false;
            break;
        }
        memset(map + s.start, mark_of(text, &s), s.end - s.start);
    }
    pg_query_free_scan_result(r);
    return fine;
}

static bool has_word(const char *text, const char *word)
{
    for (; *text; text++)
        if (strncasecmp(text, word, strlen(word)) == 0)
            return true;
    return false;
}

/* Whether they differ where a string goes on behind a comment: libpg_query ends it there, the server does not. */
static bool goes_on(const char *text, const char *ours, const char *theirs)
{
    size_t i = 0;
    while (ours[i] == theirs[i])
        i++;
    size_t at = i + strspn(text + i, " \t\n\f\r");
    return ours[i] == 'S' && theirs[i] == ' ' && text[at] == '-' && text[at + 1] == '-';
}

static void compare_pieces(const char *text)
{
    char *ours = calloc(1, strlen(text) + 1), *theirs = calloc(1, strlen(text) + 1);
    cut(text, ours);
    /* The scanner leaves UESCAPE to the grammar; a vertical tab is a blank from 16 on, and no token before. */
    if (!doubtful && !strchr(text, '\v') && !has_word(text, "uescape") && cut_by_server(text, theirs) &&
        strcmp(ours, theirs) != 0 && !goes_on(text, ours, theirs)) {
        fprintf(stderr, "\n  ours:   %s\n  theirs: %s\n", ours, theirs);
        fault("PostgreSQL cuts the text in other pieces", text, "");
    }
    free(ours);
    free(theirs);
}

/* ---- what the grammar makes of it: a tree in JSON ---- */

static bool starts(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* The place behind the JSON value at p. */
static const char *skip_value(const char *p)
{
    int depth = 0;
    for (bool quoted = false; *p; p++) {
        if (*p == '\\' && quoted)
            p++;
        else if (*p == '"')
            quoted = !quoted;
        else if (!quoted && (*p == '{' || *p == '['))
            depth++;
        else if (!quoted && (*p == '}' || *p == ']') && --depth < 0)
            return p;
        else if (!quoted && *p == ',' && depth == 0)
            return p;
    }
    return p;
}

static bool is_constant(const char *p, bool value)
{
    return starts(p, value ? "{\"A_Const\":{\"boolval\":{\"boolval\":true}" : "{\"A_Const\":{\"boolval\":{}");
}

/* p is at the names of a FuncCall. The last of them, and whether it is PostgreSQL's own. */
static const char *function_name(const char *p, char *name, size_t size, bool *own)
{
    char schema[80] = "";
    *name = '\0';
    while (starts(p, "{\"String\":{\"sval\":\"")) {
        p += strlen("{\"String\":{\"sval\":\"");
        snprintf(schema, sizeof schema, "%s", name);
        snprintf(name, size, "%.*s", (int)strcspn(p, "\""), p);
        p = strstr(p, "\"}}") + 3;
        p += *p == ',';
    }
    *own = !*schema || strcmp(schema, "pg_catalog") == 0;
    return p;
}

/* What is forbidden in a call, NULL if nothing is. */
static const char *judge_call(const char *p)
{
    static const char *const session[] = {"currval",
                                          "lastval",
                                          "setseed",
                                          "pg_advisory_lock",
                                          "pg_advisory_lock_shared",
                                          "pg_try_advisory_lock",
                                          "pg_advisory_unlock",
                                          "pg_advisory_unlock_all",
                                          "pg_backup_start",
                                          "pg_replication_origin_session_setup"};
    static const char *const slots[] = {"pg_create_physical_replication_slot",
                                        "pg_create_logical_replication_slot",
                                        "pg_copy_physical_replication_slot"};
    char name[80];
    bool own, third_true = false, third_forbidden = false;
    p = function_name(p, name, sizeof name, &own);
    int n = 0;
    if (starts(p, "],\"args\":[")) {
        for (p += strlen("],\"args\":["); *p && *p != ']'; p += *p == ',') {
            const char *end = skip_value(p);
            bool is_named = starts(p, "{\"NamedArgExpr\""), temporary = false, denied = false;
            if (is_named) {
                const char *called = memmem(p, (size_t)(end - p), "\"name\":\"temporary\"", 18);
                temporary = called != NULL;
                denied = starts(p + strlen("{\"NamedArgExpr\":{\"arg\":"), "{\"A_Const\":{\"boolval\":{},");
            }
            third_true |= n == 2 && is_constant(p, true);
            third_forbidden |= is_named ? temporary && !denied : n == 2 && !is_constant(p, false);
            n++;
            p = end;
        }
    }
    if (starts(name, "dblink_") && (strcmp(name, "dblink_connect") == 0 || strcmp(name, "dblink_open") == 0))
        return "a function of dblink";
    if (strcmp(name, "set_limit") == 0 && n == 1)
        return "set_limit()";
    if (!own)
        return NULL;
    if (strcmp(name, "set_config") == 0 && !(n == 3 && third_true))
        return "set_config()";
    for (size_t i = 0; i < COUNT(session); i++)
        if (strcmp(name, session[i]) == 0)
            return session[i];
    for (size_t i = 0; i < COUNT(slots); i++)
        if (strcmp(name, slots[i]) == 0 && third_forbidden)
            return "a temporary slot";
    return NULL;
}

static bool one_of(const char *p, const char *const *list)
{
    for (; *list; list++)
        if (starts(p, *list) && p[strlen(*list)] == '"')
            return true;
    return false;
}

/* The kind of a statement: p is at its node. */
static const char *kind_at(const char *p)
{
    return starts(p, "{\"") ? p + 2 : "";
}

static const char *judge_statement(const char *tree, const char *kind)
{
    static const char *const forbidden[] = {
        "TransactionStmt",   "VariableSetStmt", "PrepareStmt",        "ExecuteStmt",
        "DeallocateStmt",    "DiscardStmt",     "ListenStmt",         "UnlistenStmt",
        "DeclareCursorStmt", "FetchStmt",       "ClosePortalStmt",    "CopyStmt",
        "LockStmt",          "LoadStmt",        "ConstraintsSetStmt", NULL};
    /* In these an expression is only written down. */
    static const char *const stored[] = {"CreateFunctionStmt", "RuleStmt", NULL};
    static const char *const runs[] = {"SelectStmt",  "InsertStmt",        "UpdateStmt",
                                       "DeleteStmt",  "MergeStmt",         "CallStmt",
                                       "ExplainStmt", "CreateTableAsStmt", NULL};
    if (one_of(kind, forbidden))
        return "its kind";
    if (strstr(tree, "{\"ExecuteStmt\":{") || strstr(tree, "{\"DeclareCursorStmt\":{"))
        return "EXECUTE or DECLARE within";
    if (!one_of(kind, stored) && strstr(tree, "\"relpersistence\":\"t\""))
        return "a temporary object";
    if (!one_of(kind, stored) &&
        (strstr(tree, "\"schemaname\":\"pg_temp\"") || strstr(tree, "\"schemaname\":\"pg_temp_")))
        return "the temporary schema";
    if (!one_of(kind, runs))
        return NULL;
    for (const char *p = tree; (p = strstr(p, "\"funcname\":[")); p++) {
        const char *why = judge_call(p + strlen("\"funcname\":["));
        if (why)
            return why;
    }
    for (const char *p = tree; (p = strstr(p, "\"UpdateStmt\":{\"relation\":{")); p++) {
        const char *end = skip_value(p + strlen("\"UpdateStmt\":{\"relation\":"));
        const char *named = memmem(p, (size_t)(end - p), "\"relname\":\"pg_settings\"", 23);
        const char *schema = memmem(p, (size_t)(end - p), "\"schemaname\":\"", 14);
        if (named && (!schema || starts(schema + 14, "pg_catalog\"")))
            return "UPDATE pg_settings";
    }
    return NULL;
}

static int highest_parameter(const char *tree)
{
    int highest = 0;
    for (const char *p = tree; (p = strstr(p, "\"ParamRef\":{\"number\":")); p++) {
        int n = atoi(p + strlen("\"ParamRef\":{\"number\":"));
        highest = n > highest ? n : highest;
    }
    return highest;
}

static void compare_verdict(const char *text)
{
    static const char *const planned[] = {"SelectStmt", "InsertStmt", "UpdateStmt",
                                          "DeleteStmt", "MergeStmt",  NULL};
    pqp_verdict v = pqp_guard_check(text);
    if (v.construct)
        return;
    PgQueryParseResult r = pg_query_parse(text);
    const char *first = r.error ? NULL : strstr(r.parse_tree, "\"stmts\":[{\"stmt\":");
    if (first) {
        first += strlen("\"stmts\":[{\"stmt\":");
        const char *kind = kind_at(first), *why = judge_statement(first, kind);
        if (why)
            fault("the guard allows what it must refuse", text, why);
        if (strstr(first, "},{\"stmt\":") || strstr(first, ",\"stmt_location\""))
            if (*skip_value(first) && strstr(skip_value(first), "{\"stmt\":"))
                fault("the guard takes several statements for one", text, r.parse_tree);
        if (one_of(kind, planned) && v.params < INT_MAX && v.params != highest_parameter(first))
            fault("the guard reads other parameters", text, r.parse_tree);
        if (v.plannable && strstr(first, "\"intoClause\":{"))
            fault("SELECT INTO is taken for a query", text, r.parse_tree);
    }
    pg_query_free_parse_result(r);
}
#else
static void compare_pieces(const char *text)
{
    char *map = malloc(strlen(text) + 1);
    cut(text, map);
    free(map);
}

static void compare_verdict(const char *text)
{
    (void)text;
}
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1); /* exact, so that a sanitizer sees what is read behind it */
    memcpy(text, data, size);
    text[size] = '\0';
    if (strlen(text) + 1 < size)
        text = realloc(text, strlen(text) + 1);
    check_alone(text);
    compare_pieces(text);
    compare_verdict(text);
    free(text);
    return 0;
}

/* Bytes alone seldom make another statement of one: half of the time whole words are put in, or taken out. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    static const char *const words[] = {
#include "words.inc"
    };
    if (seed % 2 || size + 80 > max)
        return LLVMFuzzerMutate(data, size, max);
    unsigned state = seed;
    for (int n = 1 + rand_r(&state) % 3; n > 0 && size + 40 < max; n--) {
        size_t at = size ? (size_t)rand_r(&state) % (size + 1) : 0;
        while (at < size && (isalnum(data[at]) || data[at] == '_')) /* to the end of a word */
            at++;
        size_t end = at;
        if (rand_r(&state) % 2) {
            while (end < size && !isalnum(data[end]))
                end++;
            while (end < size && isalnum(data[end]))
                end++;
        }
        char word[60];
        const char *chosen = words[(size_t)rand_r(&state) % COUNT(words)];
        const char *space = rand_r(&state) % 4 ? " " : "";
        size_t length =
            (size_t)snprintf(word, sizeof word, "%s%s%s", space, rand_r(&state) % 8 ? chosen : "", space);
        if (size - (end - at) + length > max)
            break;
        memmove(data + at + length, data + end, size - end);
        memcpy(data + at, word, length);
        size += length - (end - at);
    }
    return size;
}
