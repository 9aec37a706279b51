/* guard: what may share a connection, read as the server reads it. */
#include "tap.h"
#include "guard.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void allowed(const char *sql)
{
    pqp_verdict v = pqp_guard_check(sql);
    if (!ok(!v.construct, "may share: %.300s", sql))
        diag("refused as %s", v.construct);
}

static void refused(const char *sql, const char *construct)
{
    pqp_verdict v = pqp_guard_check(sql);
    is_str(v.construct, construct, "is refused as %s: %.300s", construct, sql);
    ok(v.way_out && strstr(v.way_out, "pqpool_"), "  and a way out is named");
}

static void test_first_words(void)
{
    static const char *const fine[] = {"SELECT 1",
                                       "select 1",
                                       "INSERT INTO t VALUES (1)",
                                       "UPDATE t SET a = 1",
                                       "DELETE FROM t",
                                       "MERGE INTO temp t USING s ON true WHEN MATCHED THEN DO NOTHING",
                                       "VALUES (1), (2)",
                                       "WITH a AS (SELECT 1) SELECT * FROM a",
                                       "TABLE t",
                                       "SHOW search_path",
                                       "EXPLAIN SELECT 1",
                                       "CREATE TABLE t (a int)",
                                       "ALTER TABLE t ADD b int",
                                       "DROP TABLE t",
                                       "TRUNCATE t",
                                       "COMMENT ON TABLE t IS 'x'",
                                       "GRANT SELECT ON t TO u",
                                       "REVOKE SELECT ON t FROM u",
                                       "ANALYZE t",
                                       "VACUUM t",
                                       "REINDEX TABLE t",
                                       "REFRESH MATERIALIZED VIEW v",
                                       "CLUSTER t",
                                       "CALL p()",
                                       "DO $$ begin end $$",
                                       "NOTIFY n",
                                       "IMPORT FOREIGN SCHEMA s FROM SERVER x INTO y",
                                       "SECURITY LABEL ON TABLE t IS 'x'",
                                       "REASSIGN OWNED BY a TO b",
                                       "CHECKPOINT",
                                       "",
                                       " \t\n",
                                       ";",
                                       ";;",
                                       "-- only a comment",
                                       "/* /* nested */ */",
                                       "/* open",
                                       "((SELECT 1) UNION (SELECT 2))",
                                       "--x\n/*y*/(/*z*/ select 1)",
                                       ";select 1",
                                       "select 1;",
                                       "select 1 ; -- done\n /* really */ ;"};
    for (size_t i = 0; i < COUNT(fine); i++)
        allowed(fine[i]);
    allowed(NULL);
    static const char *const bad[] = {"BEGIN",     "START",   "COMMIT",  "END",      "ROLLBACK",   "ABORT",
                                      "SAVEPOINT", "RELEASE", "PREPARE", "EXECUTE",  "DEALLOCATE", "SET",
                                      "RESET",     "DISCARD", "LISTEN",  "UNLISTEN", "DECLARE",    "FETCH",
                                      "MOVE",      "CLOSE",   "COPY",    "LOCK",     "LOAD"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        char text[100];
        refused(bad[i], bad[i]);
        snprintf(text, sizeof text, " /* a */ -- b\n %s x", bad[i]);
        refused(text, bad[i]);
        for (char *p = text; *p; p++)
            *p = (char)(*p >= 'A' && *p <= 'Z' ? *p + 32 : *p);
        refused(text, bad[i]);
        is_str(pqp_guard_check(text).word, bad[i], "  the word is told in upper case");
    }
    refused("SELCT 1", "a statement of a kind the pool does not know");
    is_str(pqp_guard_check("selct 1").word, "SELCT", "the unknown word is told");
    refused("1", "a text that does not begin as a statement does");
    refused("'select 1'", "a text that does not begin as a statement does");
    refused("\"select\" 1", "a text that does not begin as a statement does");
    refused("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "a statement of a kind the pool does not know");
    is_int(strlen(pqp_guard_check("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa").word), 31,
           "a long word is cut");
    is_str(pqp_guard_check(" -- x").word, "", "an empty statement has no word");
    is_str(pqp_guard_check("explain select 1").word, "EXPLAIN", "EXPLAIN stays the word");
    has(pqp_guard_check("SET a = 1").way_out, "options=", "SET names the connection string");
    has(pqp_guard_check("SET a = 1").way_out, "on_connect", "  and the hook");
    has(pqp_guard_check("SET LOCAL a = 1").way_out, "transaction", "SET LOCAL names the transaction");
    has(pqp_guard_check("set transaction read only").way_out, "transaction", "so does SET TRANSACTION");
    has(pqp_guard_check("SET CONSTRAINTS ALL DEFERRED").way_out, "transaction", "and SET CONSTRAINTS");
    has(pqp_guard_check("SET ROLE r").way_out, "on_connect", "SET ROLE names the hook");
    has(pqp_guard_check("SET SESSION AUTHORIZATION u").way_out, "on_connect", "so does SET SESSION ...");
    has(pqp_guard_check("PREPARE p AS SELECT 1").way_out, "repeated", "PREPARE names what the pool does");
    has(pqp_guard_check("PREPARE TRANSACTION 'x'").way_out, "transaction", "PREPARE TRANSACTION does not");
    has(pqp_guard_check("BEGIN").way_out, "pqpool_acquire", "BEGIN names the lease");
    refused("COMMIT PREPARED 'x'", "COMMIT PREPARED");
    refused("rollback /* x */ prepared 'x'", "ROLLBACK PREPARED");
    has(pqp_guard_check("selec 1").way_out, "if it is not misspelt", "an unknown word may be misspelt");
}

/* Texts that servers read in different ways, or whose reading the lexer does not follow to its end. */
static void test_doubtful(void)
{
    static const char *const escapes[] = {
        "SELECT U&\"set!005fconfig\" UESCAPE $$!$$ ('a', 'b', false)",
        "SELECT U&\"set!005fconfig\" UESCAPE $x$!$x$ ('a', 'b', false)",
        "SELECT U&\"set!005fconfig\" UESCAPE E'!' ('a', 'b', false)",
        "SELECT U&\"set!005fconfig\" UESCAPE e'\\x21'('a', 'b', false)",
        "SELECT U&\"set!005fconfig\" UESCAPE '!'\n'' ('a', 'b', false)",
        "SELECT U&\"set!005fconfig\" UESCAPE '' -- x\n '!' ('a', 'b', false)",
        "SELECT u&\"a\" /* x */ uescape -- '!'\n $$!$$ FROM t",
        "SELECT U&\"a\" UESCAPE U&'!' FROM t",
        "SELECT U&\"a\" UESCAPE N'!' FROM t",
        "SELECT U&\"a\" UESCAPE '''' FROM t",
        "SELECT U&\"a\" UESCAPE 'ab' FROM t",
        "SELECT U&\"a\" UESCAPE",
        "UPDATE U&\"pg!005fsettings\" UESCAPE E'!' SET setting = '1'",
        "CREATE TABLE U&\"pg!005ftemp\" UESCAPE $$!$$ .t (a int)"};
    for (size_t i = 0; i < COUNT(escapes); i++)
        refused(escapes[i], "a name whose UESCAPE is not written as 'c'");
    static const char *const numbers[] = {"SELECT 1into TEMP t",      "SELECT 1e5into TEMP t",
                                          "SELECT 1.into TEMP t",     "SELECT .5e1into TEMP t",
                                          "SELECT 1.5e-3into TEMP t", "SELECT 0x1Finto TEMP t",
                                          "SELECT 0xinto TEMP t",     "SELECT 0b1into TEMP t",
                                          "SELECT 1_000into TEMP t",  "SELECT 1_into TEMP t",
                                          "SELECT 0o7into TEMP t",    "SELECT 1einto TEMP t",
                                          "SELECT 1\xc3\xa4 FROM t",  "SELECT 123abc"};
    for (size_t i = 0; i < COUNT(numbers); i++)
        refused(numbers[i], "a number with letters right behind it");
    static const char *const fine[] = {
        "SELECT 0x1F, 0XaB_c, 0b1_0, 0B_1, 0o17, 0O_7, 1_000, 1_0.0_1, 1e5, 1E+1_0, .5, 1.",
        "SELECT 1.e5, 1 .5, a[1:2], a[1..2], $1+$2, 1-1, 1::int, 1e5::float8",
        "SELECT U&\"a\" UESCAPE '!' FROM t",
        "SELECT U&\"a\" uescape/**/'!'::int",
        "SELECT U&\"a\" uescaped FROM t",
        "SELECT U&'a' UESCAPE $$!$$"};
    for (size_t i = 0; i < COUNT(fine); i++)
        allowed(fine[i]);
    refused("SELECT U&\"set__config\" UESCAPE '_' ('a', 'b', false)", "set_config()");
    refused("SELECT U&\"ssetss_config\" UESCAPE 's' ('a', 'b', false), lastval()", "lastval()");
    refused("SELECT set_conf\xc4\xb0g('a', 'b', false)", "set_config()");
    refused("SELECT set_conf\xddg('a', 'b', false)", "set_config()");
    refused("CREATE TABLE PG_TEMP.\xc4\xb0 (a int)", "a temporary table or other temporary object");
    allowed("SELECT \"set_conf\xc4\xb0g\"('a', 'b', false)");
    allowed("SELECT set_conf\xc3\xadg('a', 'b', false)");
}

#define TEMPORARY "a temporary table or other temporary object"

static void test_temporary(void)
{
    static const char *const bad[] = {
        "CREATE TEMP TABLE t (a int)",
        "create temporary table t (a int)",
        "CREATE LOCAL TEMP TABLE t (a int)",
        "CREATE GLOBAL TEMPORARY TABLE t (a int)",
        "CREATE OR REPLACE TEMP VIEW v AS SELECT 1",
        "CREATE TEMP SEQUENCE s",
        "CREATE /* x */ TEMP RECURSIVE VIEW v (a) AS SELECT 1",
        "SELECT 1 INTO TEMP t",
        "SELECT 1 INTO TEMPORARY TABLE t FROM x",
        "SELECT 1 INTO LOCAL TEMP t",
        "SELECT 1 INTO TEMP \"from\"",
        "WITH a AS (SELECT 1) SELECT * INTO TEMP b FROM a",
        "CREATE TABLE pg_temp.t (a int)",
        "CREATE TABLE \"pg_temp\".t (a int)",
        "SELECT 1 INTO pg_temp.t",
        "CREATE FUNCTION PG_TEMP.f() RETURNS int LANGUAGE sql AS 'select 1'",
        "CREATE TABLE pg_temp_3.t ()",
        "CREATE SCHEMA s CREATE TEMP TABLE t (a int)",
        "EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1",
        "EXPLAIN (ANALYZE) SELECT 1 INTO TEMP t",
        "CREATE OR REPLACE LOCAL TEMPORARY VIEW v AS SELECT 1",
        "CREATE TEMP TABLE t AS SELECT 1",
        "CREATE TEMP TABLE IF NOT EXISTS t (LIKE u)",
        "CREATE SCHEMA s CREATE TABLE a () CREATE TEMP TABLE b ()",
        "CREATE TABLE mydb.pg_temp.t (a int)",
        "SELECT * FROM mydb . pg_temp . t",
        "CREATE TABLE U&\"pg\\005ftemp\".t (a int)",
        "CREATE TABLE u&\"p!0067_!+000074emp\" /* x */ uescape '!'.t (a int)",
        "CREATE VIEW v AS SELECT * FROM pg_temp.t",
        "IMPORT FOREIGN SCHEMA s FROM SERVER x INTO pg_temp",
        "IMPORT FOREIGN SCHEMA s FROM SERVER x INTO \"pg_temp_3\"",
        "CREATE EXTENSION x SCHEMA pg_temp_3",
        "SELECT 1 AS insert INTO TEMP t",
        "SELECT 1 AS merge INTO TEMP t",
        "SELECT a.insert INTO TEMPORARY t FROM a",
        "SELECT (1) insert INTO TEMP t",
        "SELECT 1 INTO TEMP U&\"x\"",
        "(SELECT 1 INTO TEMP t)",
        "WITH a AS (SELECT 1) SELECT count(*) insert INTO TEMP t FROM a",
        "WITH a AS (SELECT 1) SELECT (1) merge INTO TEMP t FROM a",
        "WITH a AS (SELECT 1) (SELECT f(1) insert INTO TEMP t FROM a)",
        "(WITH a AS (SELECT 1) SELECT f(1) insert INTO TEMP t FROM a)",
        "EXPLAIN ANALYZE WITH a AS (SELECT 1) SELECT f() merge INTO TEMP t",
        "SELECT INTO TEMP t",
        "WITH a AS (WITH b AS (SELECT 1) SELECT 1) SELECT b[1] insert INTO TEMP t"};
    for (size_t i = 0; i < COUNT(bad); i++)
        refused(bad[i], TEMPORARY);
    static const char *const fine[] = {
        "CREATE TABLE temp (a int)",
        "CREATE UNLOGGED TABLE t (temp int)",
        "INSERT INTO temp SELECT 1",
        "INSERT INTO temp VALUES (1)",
        "SELECT 1 INTO temp",
        "SELECT 1 INTO temp FROM t",
        "WITH a AS (INSERT INTO temp SELECT 1 RETURNING 1) SELECT * FROM a",
        "SELECT temp FROM temp",
        "SELECT 'create temp table t'",
        "SELECT pg_temp FROM t",
        "SELECT 'pg_temp.t'",
        "SELECT pg_template.x FROM t",
        "CREATE OR REPLACE VIEW v AS SELECT 1 AS temp",
        "SELECT 1 INTO t",
        "WITH a AS (SELECT 1) INSERT INTO temp SELECT * FROM a",
        "WITH a AS (SELECT 1), b AS MATERIALIZED (SELECT 1) INSERT INTO temp TABLE b",
        "WITH RECURSIVE a AS (SELECT 1) SEARCH DEPTH FIRST BY x SET y INSERT INTO "
        "temp SELECT * FROM a",
        "WITH a AS (WITH b AS (SELECT 1) INSERT INTO temp SELECT 1 RETURNING 1) "
        "MERGE INTO temp USING a ON true WHEN MATCHED THEN DELETE",
        "WITH a AS (MERGE INTO temp t USING s ON true WHEN MATCHED THEN "
        "DELETE RETURNING 1) SELECT 1",
        "EXPLAIN (ANALYZE) INSERT INTO temp SELECT 1",
        "EXPLAIN ANALYZE INSERT INTO temp SELECT 1",
        ";INSERT INTO temp SELECT 1",
        "CREATE TABLE U&\"pg\\005ftempo\".t (a int)",
        "CREATE TABLE U&\"pg\\\\temp\".t (a int)",
        "IMPORT FOREIGN SCHEMA pg_temp FROM SERVER x INTO s"};
    for (size_t i = 0; i < COUNT(fine); i++)
        allowed(fine[i]);
}

static void test_explain(void)
{
    static const char *const fine[] = {"EXPLAIN (SELECT 1)",
                                       "EXPLAIN ((SELECT 1) UNION SELECT 2)",
                                       "EXPLAIN (ANALYZE, BUFFERS off) SELECT 1",
                                       "EXPLAIN ANALYZE VERBOSE UPDATE t SET a = 1",
                                       "EXPLAIN ANALYZE ((SELECT 1))",
                                       "EXPLAIN (FORMAT json) (SELECT 1)",
                                       "EXPLAIN (COSTS off) CREATE TABLE t AS SELECT 1",
                                       "EXPLAIN",
                                       "EXPLAIN VALUES (1);"};
    for (size_t i = 0; i < COUNT(fine); i++)
        allowed(fine[i]);
    refused("EXPLAIN EXECUTE p", "EXECUTE");
    refused("EXPLAIN ANALYZE EXECUTE p(1)", "EXECUTE");
    refused("EXPLAIN (ANALYZE, TIMING off) EXECUTE p", "EXECUTE");
    refused("EXPLAIN ANALYZE DECLARE c CURSOR FOR SELECT 1", "DECLARE");
    refused("EXPLAIN ANALYZE SELECT setseed(0)", "setseed()");
    refused("EXPLAIN SELECT 1; SELECT 2", "several statements in one text");
    refused("CREATE TABLE t AS EXECUTE p", "EXECUTE");
    refused("EXPLAIN ANALYZE CREATE TABLE t AS EXECUTE p", "EXECUTE");
    refused("CREATE UNLOGGED TABLE IF NOT EXISTS t (a) WITH (fillfactor = 70) AS EXECUTE p (1)", "EXECUTE");
    allowed("CREATE TABLE t AS SELECT 1 AS execute");
    allowed("CREATE TABLE t AS SELECT 1 AS create, temp FROM u");
    refused("EXPLAIN (VERBOSE) (SELECT lastval())", "lastval()");
    refused("EXPLAIN (((SELECT setseed(0))))", "setseed()");
    refused("EXPLAIN (ANALYZE) CREATE TABLE t AS SELECT setseed(0)", "setseed()");
    refused("EXPLAIN ANALYZE SELECT 1 INTO TEMP t", TEMPORARY);
    refused("EXPLAIN ANALYZE UPDATE pg_settings SET setting = 'UTC'", "UPDATE pg_settings");
    allowed("CREATE TRIGGER t AFTER INSERT ON x EXECUTE FUNCTION f()");
}

static void test_functions(void)
{
    static const char *const called[][2] = {
        {"currval('s')", "currval()"},
        {"lastval()", "lastval()"},
        {"setseed(0.5)", "setseed()"},
        {"pg_advisory_lock(1)", "pg_advisory_lock()"},
        {"pg_advisory_lock_shared(1)", "pg_advisory_lock_shared()"},
        {"pg_try_advisory_lock(1)", "pg_try_advisory_lock()"},
        {"pg_try_advisory_lock_shared(1)", "pg_try_advisory_lock_shared()"},
        {"pg_advisory_unlock(1)", "pg_advisory_unlock()"},
        {"pg_advisory_unlock_shared(1)", "pg_advisory_unlock_shared()"},
        {"pg_advisory_unlock_all()", "pg_advisory_unlock_all()"},
        {"PG_ADVISORY_LOCK (1)", "pg_advisory_lock()"},
        {"pg_catalog.setseed/* x */(0)", "setseed()"},
        {"\"pg_catalog\" . \"lastval\" ()", "lastval()"},
        {"pg_catalog.set_config('a', 'b', false)", "set_config()"},
        {"set_config('a', 'b', false)", "set_config()"},
        {"set_config('a', 'b', $1)", "set_config()"},
        {"set_config('a', 'b', not true)", "set_config()"},
        {"set_config('a', 'b', true and false)", "set_config()"},
        {"set_config('a', 'b', 'true')", "set_config()"},
        {"set_config('a', true)", "set_config()"},
        {"set_config('a', f(1, true), false)", "set_config()"},
        {"set_config('a', (array['x', 'true'])[1], false)", "set_config()"},
        {"set_config('a', set_config('b', 'c', false), true)", "set_config()"},
        {"set_config('a', 'b', set_config('b', 'c', true)::bool)", "set_config()"},
        {"set_config('a', 'b', \"true\")", "set_config()"},
        {"\"set_config\"('a', 'b', false)", "set_config()"},
        {"PG_CATALOG.\"set_config\"('a', 'b', false)", "set_config()"},
        {"mydb.pg_catalog.set_config('a', 'b', false)", "set_config()"},
        {"mydb . pg_catalog . setseed (0)", "setseed()"},
        {"set_config('a', 'b', is_local => true)", "set_config()"},
        {"set_config(setting_name => 'a', new_value => 'b', is_local => false)", "set_config()"},
        {"set_config(is_local := true, setting_name := 'a', new_value := 'b')", "set_config()"},
        {"set_config('a', 'b', true::boolean)", "set_config()"},
        {"set_config('a', 'b', (true))", "set_config()"},
        {"set_config('a', 'b', true, 'c')", "set_config()"},
        {"U&\"setse\\0065d\"(0)", "setseed()"},
        {"U&\"setse\\+000065d\" (0)", "setseed()"},
        {"pg_catalog.U&\"setse!0065d\" UESCAPE '!' (0)", "setseed()"},
        {"U&\"setseed\"(0)", "setseed()"},
        {"e'\\'', setseed(0), '", "setseed()"},
        {"U&'\\', setseed(0), '", "setseed()"},
        {"N'\\', setseed(0), '", "setseed()"},
        {"$a$ $b$ $a$, setseed(0), '$a$'", "setseed()"},
        {"1/* /* */ */+setseed/* */--\n(0)", "setseed()"},
        {"array[lastval()]", "lastval()"},
        {"dblink_connect('a', 'dbname=d')", "dblink_connect()"},
        {"public.dblink_connect('dbname=d')", "dblink_connect()"},
        {"\"ext\".dblink_connect_u('a', 'dbname=d')", "dblink_connect_u()"},
        {"dblink_disconnect('a')", "dblink_disconnect()"},
        {"dblink_open('a', 'select 1')", "dblink_open()"},
        {"dblink_send_query('a', 'select 1')", "dblink_send_query()"},
        {"set_limit(0.5)", "set_limit()"},
        {"public.set_limit($1)", "set_limit()"},
        {"set_limit((array[1, 2])[1])", "set_limit()"},
        {"pg_create_physical_replication_slot('a', true, true)", "a temporary replication slot"},
        {"pg_create_physical_replication_slot('a', true, $1)", "a temporary replication slot"},
        {"pg_catalog.pg_create_logical_replication_slot('a', 'b', f(false))", "a temporary replication slot"},
        {"pg_create_logical_replication_slot('a', 'b', temporary => true)", "a temporary replication slot"},
        {"pg_create_logical_replication_slot(\"temporary\" := not false, slot_name := 'a', plugin := 'b')",
         "a temporary replication slot"},
        {"pg_copy_physical_replication_slot('a', 'b', true)", "a temporary replication slot"},
        {"pg_copy_logical_replication_slot('a', 'b', true, 'c')", "a temporary replication slot"},
        {"pg_create_physical_replication_slot('a', false, 1 = 1)", "a temporary replication slot"},
        {"pg_backup_start('a')", "pg_backup_start()"},
        {"pg_backup_stop()", "pg_backup_stop()"},
        {"pg_start_backup('a', false, false)", "pg_start_backup()"},
        {"pg_stop_backup(false)", "pg_stop_backup()"},
        {"pg_replication_origin_session_setup('a')", "pg_replication_origin_session_setup()"},
        {"pg_replication_origin_session_reset()", "pg_replication_origin_session_reset()"},
        {"pg_replication_origin_xact_setup('0/0', now())", "pg_replication_origin_xact_setup()"},
        {"pg_replication_origin_xact_reset()", "pg_replication_origin_xact_reset()"}};
    for (size_t i = 0; i < COUNT(called); i++) {
        char sql[200];
        snprintf(sql, sizeof sql, "SELECT %s", called[i][0]);
        refused(sql, called[i][1]);
        snprintf(sql, sizeof sql, "INSERT INTO t SELECT a FROM (SELECT f(%s)) x WHERE b", called[i][0]);
        refused(sql, called[i][1]);
    }
    static const char *const called_behind_with[] = {
        "WITH a AS (SELECT 1) (SELECT 1) ORDER BY lastval()",
        "WITH a AS (SELECT 1) (SELECT lastval())",
        "WITH a AS (SELECT lastval()) SELECT 1",
        "WITH a AS (SELECT 1) (SELECT 1) LIMIT lastval()",
        "WITH a AS (SELECT 1) (SELECT 1) UNION SELECT lastval()",
        "SELECT * FROM f() AS (a int), lastval()",
        "WITH a(x) AS (VALUES (lastval())) TABLE a",
        "INSERT INTO t SELECT lastval()",
        "INSERT INTO lastval (a) SELECT lastval()",
        "WITH lastval(x) AS (SELECT 1) SELECT lastval() FROM lastval"};
    for (size_t i = 0; i < COUNT(called_behind_with); i++)
        refused(called_behind_with[i], "lastval()");
    refused("CREATE TABLE t AS SELECT setseed(0)", "setseed()");
    refused("CREATE MATERIALIZED VIEW v AS (SELECT lastval())", "lastval()");
    static const char *const anywhere[] = {
        "SELECT 1 FROM t ORDER BY set_config('a', 'b', false)",
        "SELECT 1 FROM t JOIN LATERAL set_config('a', 'b', false) s ON true",
        "SELECT * FROM ROWS FROM (set_config('a', 'b', false))",
        "SELECT 1 LIMIT length(set_config('a', '1', false))",
        "VALUES (1), (length(set_config('a', 'b', false)))",
        "CALL p(1, set_config('a', 'b', false))",
        "UPDATE t SET a = set_config('a', 'b', false)",
        "DELETE FROM t WHERE a = set_config('a', 'b', false)",
        "INSERT INTO t (a) VALUES (1) RETURNING set_config('a', 'b', false)",
        "MERGE INTO t USING s ON true WHEN MATCHED AND set_config('a', 'b', false) = 'b' THEN DELETE",
        "WITH a AS (UPDATE t SET a = 1 RETURNING set_config('a', 'b', false)) SELECT * FROM a",
        "WITH a AS (SELECT 1) DELETE FROM t USING a WHERE set_config('a', 'b', false) = 'b'",
        "(SELECT 1) UNION SELECT length(set_config('a', 'b', false))",
        "CREATE TABLE t (a) AS VALUES (set_config('a', 'b', false))",
        "CREATE TABLE t PARTITION OF u FOR VALUES IN (set_config('a', 'b', false))",
        "CREATE FOREIGN TABLE t PARTITION OF u FOR VALUES IN (set_config('a', 'b', false)) SERVER s",
        "ALTER TABLE u ATTACH PARTITION t FOR VALUES IN (set_config('a', 'b', false))",
        "ALTER TABLE t ADD COLUMN a text DEFAULT set_config('a', 'b', false)",
        "ALTER TABLE t ADD a int REFERENCES u ON DELETE SET NULL DEFAULT length(set_config('a', 'b', false))",
        "ALTER TABLE t ALTER a TYPE text USING set_config('a', 'b', false)",
        "ALTER TABLE t ADD CHECK (set_config('a', 'b', false) = 'b')",
        "ALTER DOMAIN d ADD CHECK (set_config('a', 'b', false) = 'b')"};
    for (size_t i = 0; i < COUNT(anywhere); i++)
        refused(anywhere[i], "set_config()");
    static const char *const updates[] = {
        "UPDATE pg_settings SET setting = 'UTC' WHERE name = 'TimeZone'",
        "update only (pg_catalog.pg_settings) set setting = 'UTC'",
        "UPDATE mydb . \"pg_catalog\" . \"pg_settings\" s SET setting = 'UTC'",
        "WITH a AS (SELECT 1) UPDATE pg_settings SET setting = 'UTC'"};
    for (size_t i = 0; i < COUNT(updates); i++)
        refused(updates[i], "UPDATE pg_settings");
    static const char *const fine[] = {
        "WITH lastval(x) AS (SELECT 1) SELECT * FROM lastval",
        "WITH RECURSIVE lastval (x) AS (SELECT 1), currval(y) AS (SELECT 2) SELECT x FROM lastval",
        "WITH a AS (SELECT 1), lastval(x) AS (SELECT 1) INSERT INTO setseed (a) SELECT x FROM lastval",
        "SELECT * FROM (VALUES (1)) AS lastval(x)",
        "INSERT INTO currval(a) VALUES (1)",
        "SELECT set_limit(1, 2), app.set_limit('a', 2)",
        "SELECT dblink('dbname=d', 'select 1'), dblink_exec('dbname=d', 'select 1')",
        "SELECT pg_create_physical_replication_slot('a')",
        "SELECT pg_create_physical_replication_slot('a', true, false)",
        "SELECT pg_create_logical_replication_slot('a', 'b')",
        "SELECT pg_create_logical_replication_slot('a', 'b', twophase => true)",
        "SELECT pg_create_logical_replication_slot('a', 'b', temporary => false, twophase => f(1, 2))",
        "SELECT pg_copy_logical_replication_slot('a', 'b')",
        "SELECT pg_drop_replication_slot('a')",
        "SELECT set_config('a', 'b', true)",
        "SELECT set_config('a', 'b', /* x */ TRUE )",
        "SELECT set_config('a', f(1, 2), true), set_config('b', (array['x', 'y'])[1], true)",
        "SELECT set_config('a', set_config('b', 'c', true), true)",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_try_advisory_xact_lock_shared(1)",
        "SELECT nextval('s')",
        "SELECT currval FROM t",
        "SELECT my.setseed(1)",
        "SELECT \"SETSEED\"(1)",
        "SELECT 'setseed(1)'",
        "SELECT 1 -- setseed(1)",
        "GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO u",
        "COMMENT ON FUNCTION setseed(float8) IS ''",
        "CREATE VIEW v AS SELECT lastval()",
        "CREATE TABLE t (a int DEFAULT lastval())",
        "CREATE TABLE t (a int GENERATED ALWAYS AS (b) STORED, c int "
        "DEFAULT currval('s'))",
        "SELECT current_setting('a')",
        "SELECT set_config('a', 'b'",
        "SELECT set_config('a', 'b', true), current_setting('c', false)",
        "SELECT U&\"setse\\0066d\"(0)",
        "SELECT U&\"SETSEED\"(0)",
        "SELECT \"PG_ADVISORY_LOCK\"(1)",
        "SELECT dblink('dbname=d', 'select pg_advisory_lock(1)')",
        "SELECT * FROM pg_settings FOR UPDATE",
        "UPDATE t pg_settings SET a = 1",
        "UPDATE t SET pg_settings = 1 FROM pg_settings",
        "UPDATE my.settings SET pg_settings = 1",
        "UPDATE my.pg_settings SET a = 1",
        "INSERT INTO t SELECT 1 ON CONFLICT DO UPDATE SET pg_settings = 1",
        "CREATE FUNCTION setseed(a int) RETURNS int LANGUAGE sql AS 'select set_config(1, 2, false)'",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN lastval()",
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql SET search_path = a AS $$ begin set a = 1; end $$",
        "CREATE PROCEDURE p() BEGIN ATOMIC SELECT set_config('a', 'b', false); SELECT 1 INTO t; END",
        "CREATE RULE r AS ON INSERT TO t DO ALSO SELECT set_config('a', 'b', false)",
        "CREATE RULE r AS ON UPDATE TO t DO INSTEAD UPDATE pg_settings SET setting = 'x'",
        "CREATE TRIGGER t BEFORE INSERT ON u FOR EACH ROW WHEN (lastval() > 1) EXECUTE FUNCTION f()",
        "CREATE POLICY p ON t USING (currval('s') > 1)",
        "ALTER TABLE t ALTER a SET DEFAULT currval('s')",
        "ALTER FUNCTION setseed(float8) OWNER TO u",
        "DO $$ begin perform set_config('a', 'b', false); end $$",
        "SELECT mysetseed(1), setseeds(1)"};
    for (size_t i = 0; i < COUNT(fine); i++)
        allowed(fine[i]);
}

static void test_params(void)
{
    static const struct {
        const char *sql;
        int params;
    } want[] = {{"SELECT 1", 0},
                {"SELECT $1", 1},
                {"SELECT $2, $1", 2},
                {"SELECT '$1', $a$ $2 $a$, \"$3\" -- $4\n /* $5 */", 0},
                {"SELECT a$1, $1::int[3], $1e5", 1},
                {"SELECT $99999999999", INT32_MAX},
                {"INSERT INTO t VALUES ($1, $3)", 3},
                {"WITH a AS (SELECT $7) SELECT 1", 7},
                {"CALL p($2)", 2},
                {"EXPLAIN ANALYZE SELECT $1", 1},
                {"CREATE FUNCTION f(int) RETURNS int RETURN $1", 0},
                {"CREATE FUNCTION f(int) RETURNS int BEGIN ATOMIC SELECT $1; END", 0},
                {"DO '$1'", 0},
                {"", 0}};
    for (size_t i = 0; i < COUNT(want); i++)
        is_int(pqp_guard_check(want[i].sql).params, want[i].params, "the highest parameter of: %s",
               want[i].sql);
}

static void test_several(void)
{
    static const char *const bad[] = {
        "SELECT 1; SELECT 2",
        "SELECT 1;SET a = 1",
        "SELECT 1; -- x\n SELECT 2",
        "SELECT 1;;x",
        "SELECT ';'; SELECT 2",
        "SELECT 1 /* ; */; DROP TABLE t",
        "SELECT E'a\\'b'; SELECT 2",
        "SELECT 'a\\'; SELECT 2 --'",
        "SELECT U&'a\\'; SELECT 2",
        "SELECT $$a$$; SELECT 2",
        "SELECT a$b$; SELECT 2 -- $b$",
        "SELECT $1; SELECT $2",
        "SELECT $1$; SELECT 2 $$",
        "SELECT 1'a'; SELECT 2",
        "SELECT \"a\"\"\"; SELECT 2",
        "SELECT 'a' -- x\n 'b\\'; SELECT 2",
        "SELECT B'1'; SELECT 2",
        "SELECT U&\"a\\\"; SELECT 2",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; SELECT 2",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; END; SELECT 2",
        "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2); SELECT 3",
        "DO $$ begin ; end $$; SELECT 1",
        "CREATE TABLE begin_atomic (a int); END"};
    for (size_t i = 0; i < COUNT(bad); i++)
        refused(bad[i], "several statements in one text");
    static const char *const fine[] = {"SELECT 'a; b'",
                                       "SELECT 'it''s; fine'",
                                       "SELECT E'a\\'; b'",
                                       "SELECT E'a' \n 'b\\'; c'",
                                       "SELECT $$a; b$$",
                                       "SELECT $x$a; $$ $y$ b$x$;",
                                       "SELECT \"a; b\"",
                                       "SELECT 1 -- ; x\n",
                                       "SELECT 1 /* ; /* ; */ ; */",
                                       "SELECT e'\\\\\\'; x'",
                                       "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)",
                                       "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END",
                                       "CREATE OR REPLACE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC INSERT "
                                       "INTO t VALUES (1); SELECT CASE a WHEN 1 THEN "
                                       "2 END; SELECT t.end, 1 AS case; END;",
                                       "DO $$ begin perform 1; end $$",
                                       "SELECT $1 ; ",
                                       "SELECT U&'a; b'",
                                       "SELECT x'1F;'",
                                       "SELECT '\xc3\xa4;'",
                                       "SELECT 'open; string",
                                       "SELECT \"open; name",
                                       "SELECT $$open; dollar",
                                       "SELECT 1 ? 2, a @> b, c->>'d;'"};
    for (size_t i = 0; i < COUNT(fine); i++)
        allowed(fine[i]);
}

static void test_commits(void)
{
    static const char *const alone[] = {"CALL p()",
                                        "VACUUM",
                                        "vacuum (full) t",
                                        "CLUSTER",
                                        "REINDEX (CONCURRENTLY) TABLE t",
                                        "DO 'x'",
                                        "ANALYZE",
                                        "REINDEX INDEX CONCURRENTLY i",
                                        "CREATE INDEX CONCURRENTLY i ON t (a)",
                                        "CREATE UNIQUE INDEX CONCURRENTLY ON t (a)",
                                        "DROP INDEX CONCURRENTLY i",
                                        "ALTER TABLE t DETACH PARTITION p CONCURRENTLY",
                                        "CREATE DATABASE d",
                                        "DROP DATABASE IF EXISTS d",
                                        "CREATE TABLESPACE s LOCATION '/x'",
                                        "DROP TABLESPACE s",
                                        "ALTER SYSTEM SET a = 1",
                                        "ALTER DATABASE d SET TABLESPACE s",
                                        "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p",
                                        "DROP SUBSCRIPTION s"};
    for (size_t i = 0; i < COUNT(alone); i++) {
        pqp_verdict v = pqp_guard_check(alone[i]);
        ok(!v.construct && v.commits_itself, "commits by itself: %s", alone[i]);
    }
    static const char *const plain[] = {"SELECT 1",
                                        "CREATE INDEX i ON t (a)",
                                        "DROP INDEX i",
                                        "ALTER DATABASE d SET a = 1",
                                        "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
                                        "CREATE TABLE database (a int)",
                                        "ALTER TABLE t SET TABLESPACE s",
                                        "DROP TABLE system",
                                        "TRUNCATE t",
                                        "SELECT 'concurrently'",
                                        "CREATE TABLE \"concurrently\" ()",
                                        ""};
    for (size_t i = 0; i < COUNT(plain); i++)
        ok(!pqp_guard_check(plain[i]).commits_itself, "does not commit by itself: %s", plain[i]);
}

static void test_plannable(void)
{
    static const char *const planned[] = {"SELECT 1",
                                          "/* x */ ((select 1) union select 2);",
                                          "INSERT INTO t VALUES (1)",
                                          "UPDATE t SET a = 1",
                                          "DELETE FROM t",
                                          "MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE",
                                          "VALUES (1)",
                                          "TABLE t",
                                          "WITH a AS (INSERT INTO t VALUES (1) RETURNING 1) SELECT * FROM a",
                                          "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a",
                                          "SELECT 'x into t'",
                                          "SELECT \"into\" FROM t FOR UPDATE",
                                          "SELECT set_config('a', 'b', true)"};
    for (size_t i = 0; i < COUNT(planned); i++)
        ok(pqp_guard_check(planned[i]).plannable, "worth preparing: %s", planned[i]);
    static const char *const utility[] = {"CALL p()",
                                          "SHOW search_path",
                                          "EXPLAIN SELECT 1",
                                          "EXPLAIN (ANALYZE) (SELECT 1)",
                                          "DO 'x'",
                                          "CREATE TABLE t AS SELECT 1",
                                          "CREATE VIEW v AS SELECT 1",
                                          "ALTER TABLE t ADD a int DEFAULT f()",
                                          "DROP TABLE t",
                                          "TRUNCATE t",
                                          "NOTIFY n",
                                          "REFRESH MATERIALIZED VIEW v",
                                          "SELECT 1 INTO t",
                                          "SELECT 1 INTO UNLOGGED TABLE t",
                                          "(SELECT 1 INTO t)",
                                          "SELECT 1 AS insert INTO t",
                                          "WITH a AS (SELECT 1) SELECT * INTO t FROM a",
                                          "SELECT setseed(0)",
                                          "SELECT 1; SELECT 2",
                                          "BEGIN",
                                          "",
                                          "-- nothing"};
    for (size_t i = 0; i < COUNT(utility); i++)
        ok(!pqp_guard_check(utility[i]).plannable, "not worth preparing: %s", utility[i]);
}

static void test_tags(void)
{
    static const char *const bad[] = {"BEGIN",
                                      "START TRANSACTION",
                                      "COMMIT",
                                      "ROLLBACK",
                                      "SAVEPOINT",
                                      "RELEASE",
                                      "PREPARE",
                                      "PREPARE TRANSACTION",
                                      "DEALLOCATE",
                                      "DEALLOCATE ALL",
                                      "SET",
                                      "RESET",
                                      "SET CONSTRAINTS",
                                      "DISCARD ALL",
                                      "DISCARD TEMP",
                                      "LISTEN",
                                      "UNLISTEN",
                                      "DECLARE CURSOR",
                                      "CLOSE CURSOR",
                                      "CLOSE CURSOR ALL",
                                      "COPY 5",
                                      "COPY",
                                      "LOCK TABLE",
                                      "LOAD",
                                      "FETCH 1",
                                      "MOVE 1",
                                      "COMMIT PREPARED"};
    for (size_t i = 0; i < COUNT(bad); i++)
        ok(pqp_guard_bad_tag(bad[i]), "B7: the tag %s must not come", bad[i]);
    static const char *const fine[] = {
        "",       "SELECT 1", "INSERT 0 1", "UPDATE 3", "CREATE TABLE", "SECURITY LABEL", "SETTLE",
        "NOTIFY", "CALL",     "DO",         "VACUUM",   "SHOW",         "EXPLAIN",        "ALTER SYSTEM"};
    for (size_t i = 0; i < COUNT(fine); i++)
        ok(!pqp_guard_bad_tag(fine[i]), "the tag '%s' may come", fine[i]);
    ok(!pqp_guard_bad_tag(NULL), "no tag is no bad tag");
}

/* What is checked here is that nothing is read behind the end (sanitizers), and that each text ends. */
static void test_hostile(void)
{
    static const char *const texts[] = {"/* a /* b */ */ -- c\n ((select U&\"x\"\"\", E'a\\'b' \n 'c\\'', "
                                        "$t$ $$ $t$, $1, 1.5e3, set_config('a',f(1),true)",
                                        "create or replace function pg_catalog.f() returns int begin atomic "
                                        "select case when 1 then 2 end; end;;",
                                        "explain (analyze, format json) with a as (insert into temp select "
                                        "1) select * into temp x from a; x"};
    int runs = 0;
    for (size_t i = 0; i < COUNT(texts); i++)
        for (size_t n = 0; n <= strlen(texts[i]); n++, runs++) {
            char *cut = strndup(texts[i], n);
            (void)pqp_guard_check(cut);
            free(cut);
        }
    static const char *const pieces[] = {"'",           "\"",
                                         "$",           "$$",
                                         "$a$",         "\\",
                                         "--",          "/*",
                                         "*/",          "\n",
                                         " ",           "(",
                                         ")",           "[",
                                         "]",           ";",
                                         ",",           ".",
                                         "E'",          "U&'",
                                         "U&\"",        "select ",
                                         "into ",       "temp ",
                                         "create ",     "begin atomic ",
                                         "end ",        "case ",
                                         "set_config(", "true",
                                         "explain ",    "\xff",
                                         "1",           "pg_temp.",
                                         "pg_catalog.", "setseed(",
                                         "function ",   "as "};
    unsigned seed = 20;
    for (; runs < 100000; runs++) {
        char text[400] = "";
        if (runs % 3)
            strcpy(text, runs % 3 == 1 ? "select " : "create function f() begin atomic ");
        for (int n = rand_r(&seed) % 20; n > 0; n--)
            strcat(text, pieces[(size_t)rand_r(&seed) % COUNT(pieces)]);
        char *exact = strdup(text);
        pqp_verdict v = pqp_guard_check(exact);
        if ((v.construct == NULL) != (v.way_out == NULL))
            ok(false, "a refusal has a way out: %s", exact);
        free(exact);
    }
    ok(true, "%d hostile texts came to an end", runs);
    size_t size = 4000000;
    char *big = malloc(size + 1);
    if (!big)
        bail("no memory");
    static const char *const fill[] = {"set_config(", "((((",   "$a$b",  "/*", "'\n'",
                                       "'--\n",       "U&\"\"", "case ", "1,"};
    for (size_t i = 0; i < COUNT(fill); i++) {
        memcpy(big, "select ", 7);
        for (size_t n = 7; n < size; n++)
            big[n] = fill[i][(n - 7) % strlen(fill[i])];
        big[size] = '\0';
        (void)pqp_guard_check(big);
        ok(true, "4 MB of '%s' come to an end", i == 4 || i == 5 ? "quotes over lines" : fill[i]);
    }
    free(big);
}

static bool same(const char *a, const char *b)
{
    pqp_verdict v = pqp_guard_check(a), w = pqp_guard_check(b);
    return v.construct == w.construct && v.way_out == w.way_out && v.commits_itself == w.commits_itself &&
           v.plannable == w.plannable && strcmp(v.word, w.word) == 0;
}

/* Real statements with something wrong in them: one to four times a byte changed, a piece cut out, doubled, or put in
 * from another statement. */
static void mutate(char *text, size_t size, const char *const *texts, size_t n_texts, unsigned *seed)
{
    static const char marks[] = "'\"$\\-/*\n (),;.EUu&_0a!:=\xc3";
    for (int n = 1 + rand_r(seed) % 4; n > 0; n--) {
        size_t length = strlen(text), at = (size_t)rand_r(seed) % (length + 1);
        size_t cut = (size_t)rand_r(seed) % (length - at + 1) % 12;
        const char *other = texts[(size_t)rand_r(seed) % n_texts];
        const char *from = other + (size_t)rand_r(seed) % strlen(other);
        int take = rand_r(seed) % 16;
        char rest[600];
        if (rand_r(seed) % 2) {
            from = marks + (size_t)rand_r(seed) % (sizeof marks - 1);
            take = 1;
        }
        snprintf(rest, sizeof rest, "%s", text + at + (rand_r(seed) % 3 ? cut : 0));
        int made = snprintf(text + at, size - at, "%.*s%s", take, from, rest);
        if (made < 0 || (size_t)made >= size - at)
            bail("a text grew too long");
    }
}

static void test_mutated(void)
{
    static const char *const texts[] = {
        "SELECT set_config('a', E'b\\'', true), U&\"d!0061t\" UESCAPE '!' FROM pg_catalog.t -- x\n WHERE $1",
        "WITH a AS (INSERT INTO temp VALUES (1) RETURNING 1) SELECT 1 AS insert INTO TEMP b FROM a",
        "EXPLAIN (ANALYZE, BUFFERS off) SELECT currval('s') /* a /* b */ */ ORDER BY 1;",
        "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE a WHEN 1 THEN 2 END; SELECT 2; "
        "END",
        "CREATE SCHEMA s CREATE TABLE a () CREATE TEMP TABLE b ()",
        "CREATE TABLE pg_temp.t AS EXECUTE p; ",
        "ALTER TABLE t ADD a text DEFAULT setseed(0), ALTER b TYPE int USING $a$b;c$a$::int",
        "UPDATE ONLY pg_catalog.pg_settings SET setting = 'x'",
        "DO LANGUAGE plpgsql $$ begin perform set_config('a', 'b', false); end $$",
        "IMPORT FOREIGN SCHEMA s FROM SERVER x INTO \"pg_temp_3\"",
        "SELECT 'a'\n'b' || U&'c' || N'd' || B'1' || $1, \"x\"\"y\"[1], 1.5e3; SELECT 2",
        "SET LOCAL a = 1"};
    unsigned seed = 21;
    int changed = 0, refused = 0;
    enum { RUNS = 200000 };
    for (int i = 0; i < RUNS; i++) {
        char text[600], other[700];
        snprintf(text, sizeof text, "%s", texts[i % (int)COUNT(texts)]);
        mutate(text, sizeof text, texts, COUNT(texts), &seed);
        char *exact = strdup(text); /* so that a sanitizer sees what is read behind the end */
        pqp_verdict v = pqp_guard_check(exact);
        refused += v.construct != NULL;
        changed += !same(exact, text) || (v.construct && (!v.way_out || v.plannable));
        snprintf(other, sizeof other, "/* x /* ' */ */ -- \"\n%s", text);
        changed += !same(text, other);
        snprintf(other, sizeof other, "%s\n", text);
        changed += !strchr(text, '"') && !same(text, other); /* it may stand in a name that is open */
        if (!strpbrk(text, "'\"$")) {
            for (char *p = strcpy(other, text); *p; p++)
                *p = (char)(*p >= 'a' && *p <= 'z' ? *p - 32 : *p);
            changed += !same(text, other);
        }
        free(exact);
        if (changed > 0) {
            diag("it is not: %s", text);
            break;
        }
    }
    is_int(changed, 0,
           "%d mutated statements: a verdict is the same again, behind a comment, before a newline, "
           "and in upper case",
           RUNS);
    ok(refused > RUNS / 4 && refused < RUNS * 3 / 4, "  of which some were refused and some not (%d)",
       refused);
}

int main(void)
{
    tap_begin(60);
    test_first_words();
    test_doubtful();
    test_params();
    test_temporary();
    test_explain();
    test_functions();
    test_several();
    test_commits();
    test_plannable();
    test_tags();
    test_hostile();
    test_mutated();
    return done_testing();
}
