#include "lexicon.h"

#define BY_LISTEN "take a lease (pqpool_acquire) and listen there"
#define BY_COPY "take a lease (pqpool_acquire) and copy there"
#define BY_XACT_LOCK "use the function of this name with _xact_, or take a lease (pqpool_acquire)"
#define BY_RETURNING "use RETURNING, or take a lease (pqpool_acquire)"
#define BY_DURABLE_SLOT "leave the argument temporary out, or write false, or take a lease (pqpool_acquire)"
#define BY_DBLINK                                                                                            \
    "give dblink() or dblink_exec() the connection string itself, or take a lease (pqpool_acquire)"
#define BY_THRESHOLD                                                                                         \
    "set pg_trgm.similarity_threshold in the connection string (options=) or the on_connect hook, or take "  \
    "a "                                                                                                     \
    "lease (pqpool_acquire)"
#define BY_LOCAL "take a lease (pqpool_acquire), or set it for the one statement: third argument true"

const pqp_first_word pqp_first_words[] = {
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
    {"CHECKPOINT", ALLOWED, NULL},
    {NULL, 0, NULL},
};

#define BUILT_IN(name, way_out)                                                                              \
    {                                                                                                        \
        name, name "()", way_out, ALWAYS, false                                                              \
    }
#define SLOT(name)                                                                                           \
    {                                                                                                        \
        name, "a temporary replication slot", BY_DURABLE_SLOT, UNLESS_DURABLE, false                         \
    }
#define DBLINK(name)                                                                                         \
    {                                                                                                        \
        name, name "()", BY_DBLINK, ALWAYS, true                                                             \
    }

const pqp_session_function pqp_session_functions[] = {
    {"set_config", "set_config()", BY_LOCAL, UNLESS_LOCAL, false},
    BUILT_IN("currval", BY_RETURNING),
    BUILT_IN("lastval", BY_RETURNING),
    BUILT_IN("setseed", BY_LEASE),
    BUILT_IN("pg_advisory_lock", BY_XACT_LOCK),
    BUILT_IN("pg_advisory_lock_shared", BY_XACT_LOCK),
    BUILT_IN("pg_try_advisory_lock", BY_XACT_LOCK),
    BUILT_IN("pg_try_advisory_lock_shared", BY_XACT_LOCK),
    BUILT_IN("pg_advisory_unlock", BY_XACT_LOCK),
    BUILT_IN("pg_advisory_unlock_shared", BY_XACT_LOCK),
    BUILT_IN("pg_advisory_unlock_all", BY_XACT_LOCK),
    BUILT_IN("pg_backup_start", BY_LEASE),
    BUILT_IN("pg_backup_stop", BY_LEASE),
    BUILT_IN("pg_start_backup", BY_LEASE), /* their names before 15 */
    BUILT_IN("pg_stop_backup", BY_LEASE),
    BUILT_IN("pg_replication_origin_session_setup", BY_LEASE),
    BUILT_IN("pg_replication_origin_session_reset", BY_LEASE),
    BUILT_IN("pg_replication_origin_xact_setup", BY_LEASE),
    BUILT_IN("pg_replication_origin_xact_reset", BY_LEASE),
    SLOT("pg_create_physical_replication_slot"),
    SLOT("pg_create_logical_replication_slot"),
    SLOT("pg_copy_physical_replication_slot"),
    SLOT("pg_copy_logical_replication_slot"),
    DBLINK("dblink_connect"),
    DBLINK("dblink_connect_u"),
    DBLINK("dblink_disconnect"),
    DBLINK("dblink_open"),
    DBLINK("dblink_fetch"),
    DBLINK("dblink_close"),
    DBLINK("dblink_send_query"),
    DBLINK("dblink_is_busy"),
    DBLINK("dblink_get_result"),
    DBLINK("dblink_get_notify"),
    DBLINK("dblink_get_connections"),
    DBLINK("dblink_cancel_query"),
    DBLINK("dblink_error_message"),
    {"set_limit", "set_limit()", BY_THRESHOLD, WITH_ONE_ARGUMENT, true},
    {NULL, NULL, NULL, ALWAYS, false},
};
