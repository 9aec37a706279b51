#include "foreign.h"

#define MS "a bare number is in ms"

/* psycopg_pool and psycopg2, SQLAlchemy, PgBouncer, asyncpg, and what is common. */
static const pqp_foreign names[] = {
    {"min_size", "min_idle", "idle connections kept ready, not all there are"},
    {"min_pool_size", "min_idle", "idle connections kept ready, not all there are"},
    {"min_connections", "min_idle", "idle connections kept ready, not all there are"},
    {"minconn", "min_idle", "idle connections kept ready, not all there are"},
    {"min_conn", "min_idle", "idle connections kept ready, not all there are"},
    {"minsize", "min_idle", "idle connections kept ready, not all there are"},
    {"size", "max_size", ""},
    {"pool_size", "max_size", ""},
    {"default_pool_size", "max_size", ""},
    {"max_pool_size", "max_size", ""},
    {"reserve_pool_size", "max_size", "there is one limit"},
    {"max_db_connections", "max_size", ""},
    {"max_connections", "max_size", ""},
    {"connections", "max_size", ""},
    {"maxconn", "max_size", ""},
    {"max_conn", "max_size", ""},
    {"conn_max", "max_size", ""},
    {"maxsize", "max_size", ""},
    {"max_overflow", "max_size", "there is one limit, the sum of pool_size and max_overflow"},
    {"timeout", "acquire_timeout", MS},
    {"checkout_timeout", "acquire_timeout", MS},
    {"query_wait_timeout", "acquire_timeout", MS},
    {"wait_timeout", "acquire_timeout", MS},
    {"max_waiting", "queue_limit", ""},
    {"max_client_conn", "queue_limit", ""},
    {"max_queries", "max_uses", ""},
    {"recycle", "max_lifetime", MS},
    {"server_lifetime", "max_lifetime", MS},
    {"lifetime", "max_lifetime", MS},
    {"max_age", "max_lifetime", MS},
    {"server_idle_timeout", "idle_timeout", MS},
    {"max_inactive_connection_lifetime", "idle_timeout", MS},
    {"max_idle_time", "idle_timeout", MS},
    {"server_connect_timeout", "connect_timeout", MS},
    {"server_login_retry", "connect_timeout", MS},
    {"login_timeout", "connect_timeout", MS},
    {"command_timeout", "statement_timeout", MS},
    {"query_timeout", "statement_timeout", MS},
    {"idle_transaction_timeout", "idle_tx_threshold", MS},
    {"pre_ping", "test_on_borrow", ""},
    {"check", "test_on_borrow", ""},
    {"server_check_query", "test_on_borrow", ""},
    {"reset_on_return", "reset", ""},
    {"server_reset_query", "reset", ""},
    {"max_prepared_statements", "statement_cache_size", ""},
    {"prepared_statement_cache_size", "statement_cache_size", ""},
    {"num_workers", "connect_concurrency", ""},
    {"echo", "log_level", ""},
    {"password", "", "password is libpq's, and stands without pool_"},
    {"user", "", "user is libpq's, and stands without pool_"},
    {"host", "", "host is libpq's, and stands without pool_"},
    {"port", "", "port is libpq's, and stands without pool_"},
    {"dbname", "", "dbname is libpq's, and stands without pool_"},
    {"mode", "", "shared connections work as a pool by statement, leases as one by session"},
    {"pool_mode", "", "shared connections work as a pool by statement, leases as one by session"},
    {"use_lifo", "", "the connection used last is lent first"},
    {"max_cached_statement_lifetime", "",
     "a prepared statement lives until its connection is replaced: max_lifetime"},
    {"reconnect_timeout", "", "the pool tries again for as long as callers wait: acquire_timeout"},
};

const pqp_foreign *pqp_foreign_find(pqp_span name)
{
    for (size_t i = 0; i < PQP_COUNT_OF(names); i++)
        if (pqp_span_is(name, names[i].name))
            return &names[i];
    return NULL;
}

const pqp_foreign *pqp_foreign_near(pqp_span name)
{
    const pqp_foreign *best = NULL;
    int limit = name.size < 6 ? 2 : 3;
    for (size_t i = 0; i < PQP_COUNT_OF(names); i++) {
        int d = pqp_span_distance(name, pqp_span_of(names[i].name));
        if (d < limit) {
            limit = d;
            best = &names[i];
        }
    }
    return best;
}
