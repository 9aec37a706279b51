/* Opening a pool: where options may stand, what is refused and how, and what get and set say. */
#include "support/pg.h"

static PGconn *ctl;

static const char *get(pqpool *pool, const char *option)
{
    static char buf[100];
    return pqpool_get(pool, option, buf, sizeof buf) == PQPOOL_OK ? buf : "(refused)";
}

static bool serves(pqpool *pool)
{
    pqpool_error err;
    PGresult *res = pqpool_exec(pool, "select current_setting('application_name')", &err);
    bool good = PQresultStatus(res) == PGRES_TUPLES_OK && strcmp(PQgetvalue(res, 0, 0), "open-test") == 0;
    if (!good)
        diag("%s", err.message);
    PQclear(res);
    return good;
}

static void as_string(void)
{
    pqpool *pool =
        open_pool("application_name = 'open-test' pool_max_size=7 pool_connectionTimeout=2s", NULL);
    is_str(get(pool, "max_size"), "7", "D9: options stand in the connection string");
    is_str(get(pool, "acquire_timeout"), "2s", "D9: also under a name known from elsewhere");
    ok(serves(pool), "and the rest of the string goes to libpq");
    close_pool(pool);

    pool = open_pool(
        "postgresql:///postgres?application_name=open-test&pool_connectionLimit=3&pool_name=my%20pool", NULL);
    is_str(get(pool, "pool_max_size"), "3", "D9: and in a URI");
    is_str(pqpool_name(pool), "my pool", "percent-decoded");
    ok(serves(pool), "whose rest goes to libpq");
    close_pool(pool);

    pool = open_pool("", NULL);
    is_str(get(pool, "max_size"), "10", "an empty string means the defaults");
    has(pqpool_name(pool), ":5432/postgres", "a pool without a name is called after its server");
    close_pool(pool);
    pool = open_pool("pool_preset=qa pool_queue_limit=5", NULL);
    is_str(get(pool, "max_size"), "50", "D8: a preset sets the size");
    is_str(get(pool, "queue_limit"), "5", "D8: and not what is given by name");
    close_pool(pool);
}

static void as_params(void)
{
    pqpool_error err;
    const char *keywords[] = {"dbname", "pool_max_size", "application_name", NULL};
    const char *values[] = {"dbname=postgres pool_min_idle=1", "4", "open-test", NULL};
    pqpool *pool = pqpool_open_params(keywords, values, 1, NULL, &err);
    ok(pool, "D9: keyword and value arrays open a pool (%s)", err.message);
    is_str(get(pool, "max_size"), "4", "with the options among the keywords");
    is_str(get(pool, "min_idle"), "1", "and those in a dbname that is expanded");
    ok(serves(pool), "it serves");
    ok(eventually(stats(pool).idle >= 1), "A1: min_idle is filled by itself");
    close_pool(pool);

    const char *wrong[] = {"dbnam", NULL}, *value[] = {"x", NULL};
    pool = pqpool_open_params(wrong, value, 0, NULL, &err);
    ok(!pool && err.code == PQPOOL_EINVAL && strstr(err.message, "dbnam"),
       "an unknown keyword is refused, by name");
    pool = pqpool_open_params(NULL, NULL, 0, NULL, &err);
    ok(!pool && err.code == PQPOOL_EINVAL, "missing arrays are refused");
}

static void refused(void)
{
    static const struct {
        const char *conninfo, *part, *also;
    } no[] = {{"pool_max_sise=3", "pool_max_sise=3", "pool_max_size"},
              {"pool_max_size=0", "pool_max_size=0", "from 1 to"},
              {"pool_acquire_timeout=5x", "acquire_timeout=5x", "30s"},
              {"pool_min_idle=5 pool_max_size=3", "min_idle=5", "max_size=3"},
              {"pool_initial_size=11", "initial_size=11", "max_size=10"},
              {"host=x foo=1", "foo", "not valid"},
              {"nonsense", "not valid", "keyword=value"}};
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        pqpool_error err;
        pqpool *pool = pqpool_open(no[i].conninfo, NULL, &err);
        ok(!pool && err.code == PQPOOL_EINVAL && strstr(err.message, no[i].part) &&
               strstr(err.message, no[i].also),
           "D9: \"%s\" is refused: %s", no[i].conninfo, err.message);
        pqpool_free(pool);
    }
    ok(!pqpool_open("pool_max_size=x", NULL, NULL), "err may be NULL");
    pqpool_hooks hooks = {.arg = NULL};
    pqpool_error err;
    ok(!pqpool_open("", &hooks, &err) && strstr(err.message, "PQPOOL_HOOKS"),
       "hooks without their size are refused");
}

static void changed(void)
{
    pqpool_error err;
    char small[3];
    pqpool *pool = open_pool("pool_max_size=5", NULL);
    is_int(pqpool_set(pool, "pool_acquireTimeout", "250ms", &err), PQPOOL_OK,
           "an option is changed under any of its names");
    is_str(get(pool, "acquire_timeout"), "250ms", "and is in force");
    is_int(pqpool_set(pool, "min_idle", "6", &err), PQPOOL_EINVAL, "a contradiction is refused");
    is_str(get(pool, "min_idle"), "0", "and changes nothing");
    is_int(pqpool_set(pool, "initial_size", "2", &err), PQPOOL_EINVAL,
           "so is an option that is fixed once the pool is open");
    is_int(pqpool_set(pool, "max_sise", "2", &err), PQPOOL_EINVAL, "so is an unknown one");
    has(err.message, "max_size", "with the nearest name");
    is_int(pqpool_get(pool, "acquire_timeout", small, sizeof small), PQPOOL_ETOOBIG,
           "a buffer too small is told");
    is_int(pqpool_get(pool, "none", small, sizeof small), PQPOOL_EINVAL, "so is an unknown name");
    close_pool(pool);
    ok(strchr(pqpool_version(), '.'), "the library knows its version: %s", pqpool_version());
    is_int(pqpool_free(NULL), PQPOOL_OK, "freeing nothing is fine");
    is_int(pqpool_close(NULL, 0), PQPOOL_EINVAL, "closing nothing is not");
}

int main(void)
{
    tap_begin(60);
    ctl = control();
    as_string();
    as_params();
    refused();
    changed();
    PQfinish(ctl);
    return done_testing();
}
