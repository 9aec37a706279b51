#include "ask.h"

#include <endian.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INT8 = 20, INT4 = 23, TEXT = 25, FLOAT4 = 700, FLOAT8 = 701, BYTEA = 17 };
enum { TAKEN_KEYS = 64, BIG_TIMES = 12500, BIG_UNIT = 8 };

const char ask_schema[] =
    "set client_min_messages = error;"
    "drop schema if exists stress, decoy cascade;"
    "create schema stress; create schema decoy;"
    "create table stress.log (nonce bigint);"
    "create table decoy.log (nonce bigint);" /* where a search_path that stayed would lead */
    "create table stress.taken (k int primary key);"
    "insert into stress.taken select generate_series(0, 63);"
    "create table stress.late (k int unique deferrable initially deferred);"
    "insert into stress.late select generate_series(0, 63);"
    "create table stress.nothing (id int);"
    "do $$ begin create role dirty; exception when duplicate_object then null; end $$;"
    "grant usage on schema decoy to dirty; grant all on decoy.log to dirty;";

char ask_user[64] = "postgres";

/* Percent of a percent of all. COLUMNS and LITERAL have texts of their own. */
static const struct {
    const char *sql;
    int weight;
} kinds[ASK_KINDS] = {
    [ASK_ECHO] = {"select $1::bigint", 2000},
    [ASK_WIDE] = {"select $1::bigint % 1000003, $1::bigint, null::int", 900},
    [ASK_COLUMNS] = {NULL, 900},
    [ASK_ROWS] = {"select $1::bigint + g, case when g % 3 > 0 then g end from generate_series(1, $2::int) g",
                  900},
    [ASK_LITERAL] = {NULL, 300},
    [ASK_TYPED] = {"select $1, $2", 1200},
    [ASK_BINARY] = {"select $1::int8, $2::text, $3::int4, $4::bytea", 800},
    [ASK_BIG] = {"select $1::bigint, repeat($2, 12500)", 15},
    [ASK_EMPTY] = {"", 85},
    [ASK_DIVIDE] = {"select $1::bigint / ($1::bigint % 1)", 100},
    [ASK_MIDWAY] = {"select $1::bigint / ($2::int - g) from generate_series(1, 8) g", 100},
    [ASK_INVALID] = {"select ('no ' || $1)::int", 200},
    [ASK_TAKEN] = {"insert into stress.taken(k) values ($1)", 60},
    [ASK_LATE] = {"insert into stress.late(k) values ($1)", 40},
    [ASK_NOTE] = {"insert into log(nonce) values ($1) returning nonce", 500},
    [ASK_NOTE_QUIET] = {"insert into log(nonce) values ($1)", 300},
    [ASK_NOTE_SELECT] = {"with i as (insert into log(nonce) values ($1::bigint) returning nonce) "
                         "select nonce, null::int, nonce % 1000003 from i",
                         200},
    [ASK_NOTE_FAILS] = {"with i as (insert into log(nonce) values ($1::bigint) returning nonce) "
                        "select ('no ' || nonce)::int from i",
                        100},
    [ASK_PEEK] = {"select $1::bigint, pg_backend_pid(), current_user::text, session_user::text, "
                  "current_setting('search_path'), coalesce(current_setting('stress.mark', true), '')",
                  1100},
    [ASK_CANARY] = {"select $1::bigint, pg_backend_pid(), current_user::text, session_user::text, "
                    "current_setting('search_path'), coalesce(current_setting('stress.mark', true), ''), "
                    "(select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()), "
                    "(select count(*) from pg_listening_channels()), "
                    "(select count(*) from pg_prepared_statements where name like 'dirt%'), "
                    "(select count(*) from pg_cursors where is_holdable), "
                    "(to_regclass('pg_temp.dirt') is not null)::int",
                    200},
};

/* As in splitmix64. */
uint64_t ask_mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* ---- making one ---- */

/* A number below n that follows from the nonce. */
static int pick(const ask *a, int bits, int n)
{
    return (int)(a->random >> bits & 0xffff) % n;
}

static void put_int(ask *a, int i, int bytes, int64_t value)
{
    uint32_t four = htobe32((uint32_t)value);
    uint64_t eight = htobe64((uint64_t)value);
    memcpy(a->raw[i], bytes == 4 ? (void *)&four : (void *)&eight, (size_t)bytes);
    a->values[i] = a->raw[i];
    a->lengths[i] = bytes;
    a->formats[i] = 1;
}

static int64_t typed_number(const ask *a, int i)
{
    return (int64_t)((uint64_t)a->nonce * 2654435761u >> i) % 60000; /* float4 has it exactly */
}

static const Oid typed[] = {0, TEXT, INT4, INT8, FLOAT4, FLOAT8};

static Oid type_of(const ask *a, int i)
{
    return typed[(a->random >> (8 + 8 * i)) % (sizeof typed / sizeof *typed)];
}

static int64_t typed_int(const ask *a, int i)
{
    return type_of(a, i) == INT8 ? a->nonce + i : a->nonce % INT32_MAX + i;
}

static void typed_text(const ask *a, int i, char *text, size_t size)
{
    snprintf(text, size, "%c%" PRId64, 't' + i, a->nonce);
}

static void put_typed(ask *a, int i)
{
    float f4 = (float)typed_number(a, i);
    double f8 = (double)typed_number(a, i);
    uint32_t bits4;
    uint64_t bits8;
    a->types[i] = type_of(a, i);
    switch (a->types[i]) {
    case INT4:
    case INT8:
        put_int(a, i, a->types[i] == INT4 ? 4 : 8, typed_int(a, i));
        break;
    case FLOAT4:
        memcpy(&bits4, &f4, sizeof bits4);
        put_int(a, i, 4, bits4);
        break;
    case FLOAT8:
        memcpy(&bits8, &f8, sizeof bits8);
        put_int(a, i, 8, (int64_t)bits8);
        break;
    default:
        typed_text(a, i, a->raw[i], sizeof a->raw[i]);
        a->values[i] = a->raw[i];
    }
}

static void put_text(ask *a, int i, const char *text)
{
    a->values[i] = text;
}

static bool binary_null(const ask *a, int i)
{
    return i > 0 && (a->random >> (16 + i)) % 4 == 0;
}

static int bytea_length(const ask *a)
{
    return pick(a, 24, (int)sizeof a->raw[3]);
}

static void put_mixed(ask *a)
{
    put_int(a, 0, 8, a->nonce);
    put_text(a, 1, a->number);
    put_int(a, 2, 4, a->nonce % 1000003);
    a->lengths[3] = bytea_length(a);
    a->formats[3] = 1;
    a->values[3] = a->raw[3];
    for (int i = 0; i < a->lengths[3]; i++)
        a->raw[3][i] = (char)(a->nonce + i);
    static const Oid types[] = {INT8, TEXT, INT4, BYTEA};
    memcpy(a->types, types, sizeof types);
    for (int i = 0; i < ASK_PARAMS; i++)
        if (binary_null(a, i))
            a->values[i] = NULL;
}

static int columns_of(const ask *a)
{
    return 1 + pick(a, 16, 6);
}

static int rows_of(const ask *a)
{
    return pick(a, 16, 13);
}

static void write_sql(ask *a)
{
    int end;
    switch (a->kind) {
    case ASK_COLUMNS:
        end = snprintf(a->sql, sizeof a->sql, "select $1::bigint");
        for (int i = 1; i < columns_of(a); i++)
            end += snprintf(a->sql + end, sizeof a->sql - (size_t)end, ", $1+%d", i);
        break;
    case ASK_LITERAL:
        snprintf(a->sql, sizeof a->sql, "select %" PRId64 "::bigint as n", a->nonce);
        break;
    case ASK_EMPTY:
        snprintf(a->sql, sizeof a->sql, "%s", a->random >> 16 & 1 ? "" : "-- nothing");
        break;
    default:
        a->stmt.sql = kinds[a->kind].sql;
        return;
    }
    a->stmt.sql = a->sql;
}

/* The parameters; returns how many. */
static int write_params(ask *a)
{
    switch (a->kind) {
    case ASK_LITERAL:
    case ASK_EMPTY:
        return 0;
    case ASK_TYPED:
        put_typed(a, 0);
        put_typed(a, 1);
        return 2;
    case ASK_BINARY:
        put_mixed(a);
        return 4;
    case ASK_TAKEN:
    case ASK_LATE:
        snprintf(a->text, sizeof a->text, "%d", (int)(a->nonce % TAKEN_KEYS));
        put_text(a, 0, a->text);
        return 1;
    case ASK_ROWS:
        snprintf(a->text, sizeof a->text, "%d", rows_of(a));
        break;
    case ASK_MIDWAY:
        snprintf(a->text, sizeof a->text, "%d", 1 + pick(a, 16, 8));
        break;
    case ASK_BIG:
        snprintf(a->text, sizeof a->text, "%08" PRIx32, (uint32_t)a->nonce);
        break;
    default:
        put_text(a, 0, a->number);
        return 1;
    }
    put_text(a, 0, a->number);
    put_text(a, 1, a->text);
    return 2;
}

void ask_make_kind(ask *a, int64_t nonce, ask_kind kind)
{
    a->nonce = nonce;
    a->kind = kind;
    a->random = ask_mix((uint64_t)nonce);
    snprintf(a->number, sizeof a->number, "%" PRId64, nonce);
    memset(a->lengths, 0, sizeof a->lengths);
    memset(a->formats, 0, sizeof a->formats);
    memset(a->types, 0, sizeof a->types);
    a->stmt = (pqpool_stmt){PQPOOL_STMT, .result_format = (int)(a->random >> 60 & 1)};
    write_sql(a);
    a->stmt.n_params = write_params(a);
    a->stmt.param_values = a->values;
    a->stmt.param_lengths = a->lengths;
    a->stmt.param_formats = a->formats;
    a->stmt.param_types = a->types;
}

void ask_make(ask *a, int64_t nonce, bool at_once)
{
    int at = (int)(ask_mix((uint64_t)nonce ^ UINT64_C(0x5bd1e995)) % 10000), kind = 0;
    while (kind < ASK_KINDS - 1 && at >= kinds[kind].weight)
        at -= kinds[kind++].weight;
    ask_make_kind(a, nonce, at_once && kind == ASK_LATE ? ASK_TAKEN : (ask_kind)kind);
}

const char *ask_sqlstate(const ask *a)
{
    switch (a->kind) {
    case ASK_DIVIDE:
    case ASK_MIDWAY:
        return "22012";
    case ASK_INVALID:
    case ASK_NOTE_FAILS:
        return "22P02";
    case ASK_TAKEN:
    case ASK_LATE:
        return "23505";
    default:
        return NULL;
    }
}

bool ask_writes(const ask *a)
{
    return a->kind >= ASK_NOTE && a->kind <= ASK_NOTE_FAILS;
}

/* ---- what came back ---- */

int64_t ask_int(const PGresult *res, int row, int column)
{
    if (PQntuples(res) <= row || PQnfields(res) <= column || PQgetisnull(res, row, column))
        return INT64_MIN;
    const char *value = PQgetvalue(res, row, column);
    if (PQfformat(res, column) == 0)
        return atoll(value);
    uint32_t four;
    uint64_t eight;
    switch (PQgetlength(res, row, column)) {
    case 4:
        memcpy(&four, value, sizeof four);
        return (int32_t)be32toh(four);
    case 8:
        memcpy(&eight, value, sizeof eight);
        return (int64_t)be64toh(eight);
    default:
        return INT64_MIN;
    }
}

static bool is_text(const PGresult *res, int row, int column, const char *want)
{
    size_t length = strlen(want);
    return !PQgetisnull(res, row, column) && (size_t)PQgetlength(res, row, column) == length &&
           memcmp(PQgetvalue(res, row, column), want, length) == 0;
}

static bool is_number(const PGresult *res, int column, Oid type, double want)
{
    const char *value = PQgetvalue(res, 0, column);
    if (PQfformat(res, column) == 0)
        return strtod(value, NULL) == want;
    int64_t bits = ask_int(res, 0, column);
    uint32_t bits4 = (uint32_t)bits;
    float f4;
    double f8;
    memcpy(&f4, &bits4, sizeof f4);
    memcpy(&f8, &bits, sizeof f8);
    return PQgetlength(res, 0, column) == (type == FLOAT4 ? 4 : 8) &&
           (type == FLOAT4 ? (double)f4 : f8) == want;
}

static bool is_table(const PGresult *res, int rows, int columns)
{
    return PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == rows && PQnfields(res) == columns;
}

static bool right_rows(const ask *a, const PGresult *res)
{
    int n = rows_of(a);
    if (!is_table(res, n, 2))
        return false;
    for (int g = 1; g <= n; g++)
        if (ask_int(res, g - 1, 0) != a->nonce + g || ask_int(res, g - 1, 1) != (g % 3 ? g : INT64_MIN))
            return false;
    return true;
}

static bool right_columns(const ask *a, const PGresult *res)
{
    int n = columns_of(a);
    if (!is_table(res, 1, n))
        return false;
    for (int i = 0; i < n; i++)
        if (ask_int(res, 0, i) != a->nonce + i)
            return false;
    return true;
}

static bool right_typed(const ask *a, const PGresult *res, int i)
{
    char text[64];
    Oid type = type_of(a, i);
    if (PQftype(res, i) != (type ? type : TEXT))
        return false;
    switch (type) {
    case INT4:
    case INT8:
        return ask_int(res, 0, i) == typed_int(a, i);
    case FLOAT4:
    case FLOAT8:
        return is_number(res, i, type, (double)typed_number(a, i));
    default:
        typed_text(a, i, text, sizeof text);
        return is_text(res, 0, i, text);
    }
}

/* A bytea in text format is \x and two digits for each byte. */
static bool right_bytes(const ask *a, const PGresult *res)
{
    int n = bytea_length(a);
    if (PQfformat(res, 3) != 0)
        return PQgetlength(res, 0, 3) == n && memcmp(PQgetvalue(res, 0, 3), a->raw[3], (size_t)n) == 0;
    char text[3 + 2 * sizeof a->raw[3]] = "\\x";
    for (int i = 0; i < n; i++)
        snprintf(text + 2 + 2 * i, 3, "%02x", (unsigned char)a->raw[3][i]);
    return is_text(res, 0, 3, text);
}

static bool right_mixed(const ask *a, const PGresult *res)
{
    if (!is_table(res, 1, 4) || ask_int(res, 0, 0) != a->nonce)
        return false;
    for (int i = 0; i < 4; i++)
        if ((PQgetisnull(res, 0, i) != 0) != binary_null(a, i))
            return false;
    return (binary_null(a, 1) || is_text(res, 0, 1, a->number)) &&
           (binary_null(a, 2) || ask_int(res, 0, 2) == a->nonce % 1000003) &&
           (binary_null(a, 3) || right_bytes(a, res));
}

static bool right_big(const ask *a, const PGresult *res)
{
    if (!is_table(res, 1, 2) || ask_int(res, 0, 0) != a->nonce ||
        PQgetlength(res, 0, 1) != BIG_TIMES * BIG_UNIT)
        return false;
    for (int i = 0; i < BIG_TIMES; i++)
        if (memcmp(PQgetvalue(res, 0, 1) + (ptrdiff_t)i * BIG_UNIT, a->text, BIG_UNIT) != 0)
            return false;
    return true;
}

static bool right_error(const ask *a, const PGresult *res, const pqpool_error *err)
{
    char words[96] = "division by zero";
    if (a->kind == ASK_INVALID || a->kind == ASK_NOTE_FAILS)
        snprintf(words, sizeof words, "\"no %" PRId64 "\"", a->nonce);
    if (a->kind == ASK_TAKEN || a->kind == ASK_LATE)
        snprintf(words, sizeof words, "(k)=(%s)", a->text);
    return err->code == PQPOOL_ESERVER && strcmp(err->sqlstate, ask_sqlstate(a)) == 0 &&
           PQresultStatus(res) == PGRES_FATAL_ERROR && strstr(err->message, words);
}

static ask_verdict judge_session(const ask *a, const PGresult *res)
{
    int columns = a->kind == ASK_PEEK ? 6 : 11;
    if (!is_table(res, 1, columns) || ask_int(res, 0, 0) != a->nonce)
        return ASK_WRONG;
    bool clean = is_text(res, 0, 2, ask_user) && is_text(res, 0, 3, ask_user) &&
                 is_text(res, 0, 4, "stress") && is_text(res, 0, 5, "");
    for (int i = 6; i < columns; i++)
        clean &= ask_int(res, 0, i) == 0;
    return clean ? ASK_RIGHT : ASK_FOREIGN;
}

static ask_verdict judge_typed(const ask *a, const PGresult *res)
{
    if (!is_table(res, 1, 2))
        return ASK_WRONG;
    return right_typed(a, res, 0) && right_typed(a, res, 1) ? ASK_RIGHT : ASK_VALUE;
}

static bool right(const ask *a, const PGresult *res)
{
    switch (a->kind) {
    case ASK_WIDE:
        return is_table(res, 1, 3) && ask_int(res, 0, 0) == a->nonce % 1000003 &&
               ask_int(res, 0, 1) == a->nonce && PQgetisnull(res, 0, 2);
    case ASK_NOTE_SELECT:
        return is_table(res, 1, 3) && ask_int(res, 0, 0) == a->nonce && PQgetisnull(res, 0, 1) &&
               ask_int(res, 0, 2) == a->nonce % 1000003;
    case ASK_COLUMNS:
        return right_columns(a, res);
    case ASK_ROWS:
        return right_rows(a, res);
    case ASK_BINARY:
        return right_mixed(a, res);
    case ASK_BIG:
        return right_big(a, res);
    case ASK_EMPTY:
        return PQresultStatus(res) == PGRES_EMPTY_QUERY;
    case ASK_NOTE_QUIET:
        return PQresultStatus(res) == PGRES_COMMAND_OK &&
               strcmp(PQcmdStatus((PGresult *)res), "INSERT 0 1") == 0;
    default: /* ECHO, LITERAL, NOTE */
        return is_table(res, 1, 1) && ask_int(res, 0, 0) == a->nonce;
    }
}

ask_verdict ask_judge(const ask *a, const PGresult *res, const pqpool_error *err)
{
    if (ask_sqlstate(a))
        return right_error(a, res, err) ? ASK_RIGHT : ASK_WRONG;
    if (err->code != PQPOOL_OK)
        return ASK_WRONG;
    if (a->kind == ASK_PEEK || a->kind == ASK_CANARY)
        return judge_session(a, res);
    if (a->kind == ASK_TYPED)
        return judge_typed(a, res);
    return right(a, res) ? ASK_RIGHT : ASK_WRONG;
}

int ask_backend(const ask *a, const PGresult *res)
{
    return a->kind >= ASK_PEEK && PQresultStatus(res) == PGRES_TUPLES_OK ? (int)ask_int(res, 0, 1) : 0;
}
