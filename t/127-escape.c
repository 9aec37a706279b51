/* Quoting, and the server's version, without a lease: held against libpq and the server. */

#include "support/pg.h"

#define APP "escape"

static PGconn *ctl;

static const char *const texts[] = {"",
                                    "plain",
                                    "it's",
                                    "'",
                                    "''",
                                    "\\",
                                    "a\\'b",
                                    "\\\\",
                                    "\"",
                                    "say \"hi\"",
                                    "$1 -- /* */ ; drop table x",
                                    "line\nfeed\ttab",
                                    "h\xc3\xb6rt",
                                    "\xe2\x82\xac'\xe2\x82\xac\\",
                                    "\xf0\x9f\x90\x98",
                                    "\xed\x9f\xbf",
                                    "\xf4\x8f\xbf\xbf",
                                    "E'",
                                    " E'x'",
                                    "U&'\\0041'"};
enum { TEXTS = sizeof texts / sizeof *texts };

static void as_libpq(pqpool *pool)
{
    int literals = 0, identifiers = 0, back = 0;
    for (int i = 0; i < TEXTS; i++) {
        size_t length = strlen(texts[i]);
        char *mine = pqpool_escape_literal(pool, texts[i], length, NULL);
        char *theirs = PQescapeLiteral(ctl, texts[i], length);
        literals += mine && theirs && strcmp(mine, theirs) == 0;
        for (int strings = 0; strings < 2; strings++) {
            one(ctl, "set standard_conforming_strings = %s", strings ? "on" : "off");
            back += mine && strcmp(one(ctl, "select%s", mine), texts[i]) == 0;
        }
        if (!mine || !theirs || strcmp(mine, theirs) != 0)
            diag("%s: got %s, libpq %s", texts[i], mine ? mine : "NULL", theirs);
        PQfreemem(mine);
        PQfreemem(theirs);
        mine = pqpool_escape_identifier(pool, texts[i], length, NULL);
        theirs = PQescapeIdentifier(ctl, texts[i], length);
        identifiers += mine && theirs && strcmp(mine, theirs) == 0;
        PQfreemem(mine);
        PQfreemem(theirs);
    }
    is_int(literals, TEXTS, "literals are those that libpq makes");
    is_int(back, 2 * TEXTS,
           "the server reads each as the text it was, with standard_conforming_strings on and off");
    is_int(identifiers, TEXTS, "identifiers are those that libpq makes");
    char *part = pqpool_escape_literal(pool, "abc'def", 4, NULL),
         *ended = pqpool_escape_literal(pool, "ab\0cd", 5, NULL);
    is_str(part, "'abc'''", "no more than length bytes are taken");
    is_str(ended, "'ab'", "and none beyond a NUL");
    PQfreemem(part);
    PQfreemem(ended);
}

static void refused(pqpool *pool, const char *text, const char *what)
{
    pqpool_error err = {0};
    char *literal = pqpool_escape_literal(pool, text, strlen(text), &err);
    ok(!literal && err.code == PQPOOL_EINVAL, "%s is refused: %s", what, err.message);
    char *identifier = pqpool_escape_identifier(pool, text, strlen(text), &err);
    ok(!identifier && err.code == PQPOOL_EINVAL, "%s is refused as a name too", what);
    PQfreemem(literal);
    PQfreemem(identifier);
}

static pqpool *pool_in(const char *encoding)
{
    char conninfo[200];
    pqpool_error err;
    snprintf(conninfo, sizeof conninfo, "application_name=" APP " client_encoding=%s", encoding);
    pqpool *pool = open_pool(conninfo, NULL);
    if (pqpool_ping(pool, 10000, &err) != PQPOOL_OK)
        bail("ping in %s: %s", encoding, err.message);
    return pool;
}

static void other_encodings(void)
{
    static const char *const misleading[] = {"SJIS",    "BIG5",  "GBK",           "UHC",
                                             "GB18030", "JOHAB", "SHIFT_JIS_2004"};
    for (size_t i = 0; i < sizeof misleading / sizeof *misleading; i++) {
        PGconn *c = control();
        bool known = PQsetClientEncoding(c, misleading[i]) == 0;
        PQfinish(c);
        if (!known)
            continue;
        pqpool *pool = pool_in(misleading[i]);
        pqpool_error err;
        ok(!pqpool_escape_literal(pool, "\x95\\' or 1", 9, &err) && err.code == PQPOOL_EINVAL &&
               strstr(err.message, misleading[i]),
           "under %s nothing is quoted: %s", misleading[i], err.message);
        close_pool(pool);
    }
    pqpool *pool = pool_in("LATIN1");
    char *literal = pqpool_escape_literal(pool, "\xf6'\xe9", 3, NULL);
    is_str(literal, "'\xf6''\xe9'", "under LATIN1 each byte is a character");
    PQfreemem(literal);
    close_pool(pool);
    pool = pool_in("EUC_JP");
    literal = pqpool_escape_literal(pool, "\xa4\xa2'", 3, NULL);
    is_str(literal, "'\xa4\xa2'''", "under EUC_JP two bytes are one");
    PQfreemem(literal);
    refused(pool, "\xa4'", "under EUC_JP a first byte with a quote behind it");
    close_pool(pool);
}

int main(void)
{
    tap_begin(60);
    ctl = control();
    pqpool *pool = open_pool("application_name=" APP " client_encoding=UTF8", NULL);
    pqpool_error err;
    is_int(pqpool_server_version(pool), 0, "before the first connection the server's version is 0");
    ok(!pqpool_escape_literal(pool, "x", 1, &err) && err.code == PQPOOL_EPENDING,
       "and quoting is EPENDING: %s", err.message);
    ok(!pqpool_escape_identifier(pool, "x", 1, &err) && err.code == PQPOOL_EPENDING, "that of a name too");
    is_int(pqpool_ping(pool, 10000, &err), PQPOOL_OK, "a ping makes a connection");
    is_int(pqpool_server_version(pool), PQserverVersion(ctl), "then the server's version is known");
    PQsetClientEncoding(ctl, "UTF8");
    as_libpq(pool);
    refused(pool, "a\xc3", "a character that is cut");
    refused(pool, "\xc3'; drop table x --", "a first byte with a quote behind it");
    refused(pool, "\xc0\xa7", "a quote in two bytes");
    refused(pool, "\xe0\x80\xa7", "a quote in three bytes");
    refused(pool, "\xed\xa0\x80", "half of a pair");
    refused(pool, "\xf4\x90\x80\x80", "what is beyond the last character");
    refused(pool, "\x80", "a byte that begins no character");
    refused(pool, "\xff'", "a byte that is in no character");
    ok(!pqpool_escape_literal(pool, NULL, 0, &err) && err.code == PQPOOL_EINVAL, "NULL is EINVAL");
    is_int(pqpool_server_version(NULL), 0, "no pool has no version");
    pqpool_close(pool, 1000);
    is_int(pqpool_server_version(pool), PQserverVersion(ctl), "a closed pool still knows it");
    close_pool(pool);
    other_encodings();
    PQfinish(ctl);
    return done_testing();
}
