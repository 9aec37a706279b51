/* options: every row of the table, the units, the presets, the contradictions, and the connection strings. */
#include "tap.h"
#include "options.h"
#include "conninfo.h"
#include "error.h"
#include <pqpool-ops.h>

static pqp_options fresh(void)
{
    pqp_options o;
    pqp_options_init(&o);
    return o;
}

static const char *printed(const pqp_options *o, const char *name)
{
    static char buf[4][100];
    static int turn;
    char *mine = buf[turn++ % 4];
    return pqp_options_print(o, name, mine, sizeof buf[0]) == PQPOOL_OK ? mine : "(failed)";
}

/* Sets and tells what it is then, or the message. */
static const char *set(const char *name, const char *value)
{
    static pqpool_error err;
    pqp_options o = fresh(), before = o;
    if (pqp_options_set(&o, name, value, &err) == PQPOOL_OK)
        return printed(&o, name);
    if (err.code != PQPOOL_EINVAL || memcmp(&o, &before, sizeof o) != 0)
        return "(the options were changed, or no EINVAL)";
    return err.message;
}

static void check_set(const char *name, const char *value, const char *want)
{
    is_str(set(name, value), want, "%s=%s is %s", name, value, want);
}

static void check_refused(const char *name, const char *value, const char *part)
{
    const char *got = set(name, value);
    has(got, part, "%s=%.40s is refused: %s", name, value, part);
    has(got, name, "  and the message names %s", name);
}

static void test_rows(void)
{
    static const char *const want[][2] = {{"max_size", "10"},
                                          {"initial_size", "0"},
                                          {"min_idle", "0"},
                                          {"max_idle", "max_size"},
                                          {"acquire_timeout", "30s"},
                                          {"outage_wait", "acquire_timeout"},
                                          {"wait", "on"},
                                          {"queue_limit", "0"},
                                          {"connect_timeout", "10s"},
                                          {"connect_concurrency", "4"},
                                          {"idle_timeout", "10min"},
                                          {"max_lifetime", "30min"},
                                          {"max_uses", "0"},
                                          {"keeper_interval", "30s"},
                                          {"test_on_borrow", "off"},
                                          {"test_while_idle", "off"},
                                          {"reset", "rollback"},
                                          {"shared_max", "4"},
                                          {"pipeline_depth", "128"},
                                          {"statement_timeout", "off"},
                                          {"max_result", "256MB"},
                                          {"max_buffer", "16MB"},
                                          {"statement_cache_size", "256"},
                                          {"slow_lane_threshold", "20ms"},
                                          {"stall_threshold", "50ms"},
                                          {"slow_statement", "1s"},
                                          {"leak_threshold", "off"},
                                          {"idle_tx_threshold", "500ms"},
                                          {"backtrace", "off"},
                                          {"log_level", "warn"},
                                          {"health_interval", "5min"},
                                          {"health_used", "80%"},
                                          {"health_waiting", "10"},
                                          {"instances", "1"},
                                          {"batch_size", "100"},
                                          {"preset", "none"},
                                          {"name", ""}};
    pqp_options o = fresh();
    for (size_t i = 0; i < PQP_COUNT_OF(want); i++) {
        is_str(printed(&o, want[i][0]), want[i][1], "%s is %s by default", want[i][0], want[i][1]);
        const pqp_option_row *r = pqp_options_row((int)i);
        is_str(r ? r->name : "(no row)", want[i][0], "  and is row %zu", i);
        is_str(r ? r->default_ : "(no row)", want[i][1], "  whose default says so");
        ok(!pqp_options_given(&o, want[i][0]), "  and was not given");
        ok(r && *r->help, "  and has a help text");
    }
    ok(!pqp_options_row((int)PQP_COUNT_OF(want)) && !pqp_options_row(-1), "there is no other row");
    is_int(o.max_idle, -1, "max_idle is stored as -1");
    is_int(o.acquire_timeout, 30000, "times are stored in ms");
    is_int(o.log_level, PQPOOL_LOG_WARN, "log_level is stored as the public level");
    is_int(o.reset, PQP_RESET_ROLLBACK, "reset is stored as its enumeration");
    pqpool_error err;
    ok(pqp_options_check(&o, &err) == PQPOOL_OK, "D9: the defaults do not contradict each other");
}

static void test_bounds(void)
{
    for (int i = 0; pqp_options_row(i); i++) {
        const pqp_option_row *r = pqp_options_row(i);
        pqp_options o = fresh();
        char low[40], high[40], below[40], above[40];
        bool word = strcmp(r->name, "reset") == 0 || strcmp(r->name, "log_level") == 0 ||
                    strcmp(r->name, "preset") == 0 || strcmp(r->name, "name") == 0;
        if (word)
            continue;
        snprintf(low, sizeof low, "%lld", (long long)r->min);
        snprintf(high, sizeof high, "%lld", (long long)r->max);
        snprintf(below, sizeof below, "%lld", (long long)r->min - 1);
        snprintf(above, sizeof above, "%lld", (long long)r->max + 1);
        ok(pqp_options_set(&o, r->name, low, NULL) == PQPOOL_OK, "%s may be %s", r->name, low);
        ok(pqp_options_set(&o, r->name, high, NULL) == PQPOOL_OK, "%s may be %s", r->name, high);
        if (strcmp(r->name, "acquire_timeout") != 0)
            check_refused(r->name, below, "must be");
        check_refused(r->name, above, "must be");
        check_refused(r->name, "99999999999999999999999", "must be");
        check_refused(r->name, "", "must be");
        check_refused(r->name, "many", "must be");
    }
    check_refused("max_size", "0", "option max_size=0: must be a whole number, from 1 to 10000");
    check_refused("pool_connectionLimit", "0", "option pool_connectionLimit=0 (max_size): must be");
    check_refused("acquire_timeout", "-2", "from 0 to 24d, or -1 for no limit");
    check_refused("idle_timeout", "25d", "from off to 24d");
    check_refused("wait", "maybe", "must be on or off");
    check_refused("reset", "all", "must be one of none, rollback, clean, discard");
    check_refused("max_idle", "-1", "from 0 to 10000, or max_size");
    check_refused("health_used", "101%", "from 1% to 100%");
    check_refused("name", "1234567890123456789012345678901234567890123456789012345678901234",
                  "at most 63 bytes");
    check_refused("name", "a\nb", "control characters");
    check_set("name", "123456789012345678901234567890123456789012345678901234567890123",
              "123456789012345678901234567890123456789012345678901234567890123");
}

static void test_aliases(void)
{
    int seen = 0;
    for (int i = 0; pqp_options_row(i); i++) {
        char list[200];
        snprintf(list, sizeof list, "%s %s", pqp_options_row(i)->name, pqp_options_row(i)->aliases);
        char *rest = list;
        for (char *name; (name = strtok_r(rest, " ", &rest)); seen++) {
            char with[100], upper[100] = "";
            snprintf(with, sizeof with, "pool_%s", name);
            for (size_t k = 0; name[k]; k++)
                upper[k] = (char)(name[k] >= 'a' && name[k] <= 'z' ? name[k] - 32 : name[k]);
            is_int(pqp_options_find(name), i, "D9: %s is %s", name, pqp_options_row(i)->name);
            is_int(pqp_options_find(with), i, "  with the prefix too");
            is_int(pqp_options_find(upper), i, "  in any case");
        }
    }
    ok(seen > 55, "%d names and aliases were tried", seen);
    static const char *const known[][2] = {{"connectionLimit", "max_size"},
                                           {"maxActive", "max_size"},
                                           {"maxTotal", "max_size"},
                                           {"maximumPoolSize", "max_size"},
                                           {"max", "max_size"},
                                           {"pool_max_conns", "max_size"},
                                           {"initialSize", "initial_size"},
                                           {"minIdle", "min_idle"},
                                           {"minimumIdle", "min_idle"},
                                           {"pool_min_conns", "min_idle"},
                                           {"maxWait", "acquire_timeout"},
                                           {"maxIdle", "max_idle"},
                                           {"waitForConnections", "wait"},
                                           {"blockWhenExhausted", "wait"},
                                           {"queueLimit", "queue_limit"},
                                           {"maxLifetime", "max_lifetime"},
                                           {"connectionTimeout", "acquire_timeout"},
                                           {"testOnBorrow", "test_on_borrow"},
                                           {"pool_health_check_period", "keeper_interval"},
                                           {"logging", "log_level"},
                                           {"maxQueryExecutionTime", "slow_statement"},
                                           {"leakDetectionThreshold", "leak_threshold"},
                                           {"connect_timeout", "connect_timeout"}};
    for (size_t i = 0; i < PQP_COUNT_OF(known); i++)
        is_int(pqp_options_find(known[i][0]), pqp_options_find(known[i][1]), "D9: %s means %s", known[i][0],
               known[i][1]);
    is_int(pqp_options_find("keepaliveTime"), -1, "keepaliveTime is no alias");
    is_int(pqp_options_find(""), -1, "no name is no name");
    is_int(pqp_options_find("pool_"), -1, "the bare prefix is no name");
    is_int(pqp_options_find(NULL), -1, "NULL is no name");
}

static void test_units(void)
{
    static const char *const want[][2] = {
        {"500", "500ms"},   {"500ms", "500ms"}, {"1000", "1s"},         {"90s", "90s"},  {"60s", "1min"},
        {"30min", "30min"}, {"60min", "1h"},    {"24h", "1d"},          {"1us", "1ms"},  {"1000us", "1ms"},
        {"1001us", "2ms"},  {"1.5s", "1500ms"}, {"0.1ms", "1ms"},       {" 5 s ", "5s"}, {"1.25min", "75s"},
        {"24d", "24d"},     {"0.5h", "30min"},  {"0", "off"},           {"0s", "off"},   {"OFF", "off"},
        {"1S", "1s"},       {"1.5", "2ms"},     {"1.000001s", "1001ms"}};
    for (size_t i = 0; i < PQP_COUNT_OF(want); i++)
        check_set("statement_timeout", want[i][0], want[i][1]);
    static const char *const wrong[] = {"s",
                                        "1x",
                                        "1 5s",
                                        "1.s",
                                        "-1",
                                        "+1",
                                        "1e3",
                                        ".5s",
                                        "1,5s",
                                        "1ms2",
                                        "0x10",
                                        "1.0000001s",
                                        "1s.",
                                        "9223372036854775807d",
                                        "9223372036854775808",
                                        "99999999999d"};
    for (size_t i = 0; i < PQP_COUNT_OF(wrong); i++)
        check_refused("statement_timeout", wrong[i], "must be a time such as");
    check_set("acquire_timeout", "-1", "-1");
    check_set("acquire_timeout", "off", "-1");
    check_set("acquire_timeout", "0", "0");
    check_set("maxWaitMillis", "1500", "1500ms");
    check_set("maxLifetimeSeconds", "90", "90s");
    check_set("maxLifetimeSeconds", "90ms", "90ms");
    check_set("pool_maxlifetimeseconds", "1.5", "1500ms");
    check_set("removeAbandonedTimeout", "300", "5min");
    check_set("maxLifetime", "90", "90ms");
    check_refused("max_size", "10ms", "must be a whole number");
    check_refused("max_size", "1.5", "must be a whole number");
    check_set("max_size", " 7 ", "7");
    check_set("max_idle", "max_size", "max_size");
    check_set("max_idle", "3", "3");
    check_set("health_used", "70 %", "70%");
    check_set("health_used", "70", "70%");
    check_refused("health_used", "%", "must be");
    check_refused("max_size", "7%", "must be");
    static const char *const on[] = {"on", "true", "YES", "1"}, *const off[] = {"off", "False", "no", "0"};
    for (size_t i = 0; i < 4; i++) {
        check_set("test_on_borrow", on[i], "on");
        check_set("wait", off[i], "off");
    }
    check_set("reset", "DISCARD", "discard");
    check_set("logging", "debug", "debug");
}

static void test_round_trip(void)
{
    for (int i = 0; pqp_options_row(i); i++) {
        const pqp_option_row *r = pqp_options_row(i);
        pqp_options o = fresh(), other = fresh();
        char text[100];
        bool same = true;
        int64_t step = r->max > 3000 ? r->max / 1009 : 1;
        for (int64_t v = r->min; v <= r->max; v += step) {
            char number[40];
            snprintf(number, sizeof number, "%lld", (long long)v);
            if (pqp_options_set(&o, r->name, number, NULL) != PQPOOL_OK)
                continue;
            same = same && pqp_options_print(&o, r->name, text, sizeof text) == PQPOOL_OK &&
                   pqp_options_set(&other, r->name, text, NULL) == PQPOOL_OK &&
                   memcmp(&o, &other, offsetof(pqp_options, bare)) == 0;
        }
        ok(same, "what %s prints it also takes", r->name);
        bool roundtrip = pqp_options_set(&other, r->name, r->default_, NULL) == PQPOOL_OK;
        ok(roundtrip, "  its default too");
        size_t size = strlen(printed(&other, r->name));
        memset(text, 'x', sizeof text);
        is_int(pqp_options_print(&other, r->name, text, size), PQPOOL_ETOOBIG,
               "  and no place for NUL is too small");
        ok(size == 0 || text[0] == '\0', "  then the buffer is empty");
        ok(text[size] == 'x', "  and nothing behind it was written");
        is_int(pqp_options_print(&other, r->name, text, size + 1), PQPOOL_OK, "  one byte more is enough");
    }
    pqp_options o = fresh();
    is_int(pqp_options_print(&o, "nonsense", NULL, 0), PQPOOL_EINVAL, "an unknown name cannot be printed");
    is_int(pqp_options_print(&o, "max_size", NULL, 0), PQPOOL_ETOOBIG, "nor can a known one into nothing");
}

static void test_unknown_names(void)
{
    static const char *const want[][2] = {{"pool_max_sise", "did you mean pool_max_size?"},
                                          {"max_sise", "did you mean max_size?"},
                                          {"maxSize", "did you mean max_size?"},
                                          {"pool_conectionLimit", "did you mean pool_connectionLimit?"},
                                          {"pool_max_con", "did you mean pool_max_conns?"},
                                          {"pool_idel_timeout", "did you mean pool_idle_timeout?"},
                                          {"pool_presett", "did you mean pool_preset?"},
                                          {"pool_frobnication", "the options are max_size, initial_size"},
                                          {"pool_", "the options are max_size"},
                                          {"", "the options are max_size"}};
    for (size_t i = 0; i < PQP_COUNT_OF(want); i++)
        check_refused(want[i][0], "20", want[i][1]);
    is_str(set("pool_max_sise", "20"), "unknown option pool_max_sise=20: did you mean pool_max_size?",
           "the whole message names the option and a value that is a number");
    char name[3000];
    memset(name, 'm', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    has(set(name, name), "the options are", "a name of 3000 bytes is refused and the list still shown");
    has(set("max_size", name), "must be", "a value of 3000 bytes too");
    ok(pqp_options_set(&(pqp_options){0}, "max_size", NULL, NULL) == PQPOOL_EINVAL, "no value is refused");
    ok(pqp_options_set(&(pqp_options){0}, NULL, "1", NULL) == PQPOOL_EINVAL, "no name is refused");
}

static const char *split(const char *conninfo);

/* Names of other pools, and misspellings whose nearest name would mean the opposite. */
static void test_foreign_names(void)
{
    static const char *const want[][2] = {
        {"pool_min_size", "did you mean pool_min_idle? (idle connections kept ready"},
        {"min_size", "did you mean min_idle?"},
        {"pool_MIN_SIZE", "did you mean pool_min_idle?"},
        {"pool_size", "did you mean pool_max_size?"},
        {"pool_max_overflow", "did you mean pool_max_size? (there is one limit"},
        {"pool_timeout", "did you mean pool_acquire_timeout? (a bare number is in ms)"},
        {"pool_recycle", "did you mean pool_max_lifetime?"},
        {"pool_pre_ping", "did you mean pool_test_on_borrow?"},
        {"default_pool_size", "did you mean max_size?"},
        {"pool_max_waiting", "did you mean pool_queue_limit?"},
        {"pool_command_timeout", "did you mean pool_statement_timeout?"},
        {"pool_conn_max", "did you mean pool_max_size?"},
        {"pool_max_connections", "did you mean pool_max_size?"},
        {"pool_mode", "there is no such option: "},
        {"pool_min_sise", "did you mean pool_min"},
        {"pool_max_idel", "did you mean pool_max"}};
    for (size_t i = 0; i < PQP_COUNT_OF(want); i++)
        check_refused(want[i][0], "20", want[i][1]);
}

/* One option under two of its names, in one string, is a contradiction; under one name the later wins. */
static void test_two_names(void)
{
    static const char *const twice[] = {"pool_max_size=5 pool_connectionLimit=6",
                                        "pool_maxTotal=5 pool_max_size=5",
                                        "postgres://h/d?pool_max=5&pool_maxActive=6",
                                        "pool_min_idle=1 pool_max_conns=4 host=a pool_maximumPoolSize=5"};
    for (size_t i = 0; i < PQP_COUNT_OF(twice); i++) {
        char *rest = NULL;
        pqp_options o = fresh();
        pqpool_error err;
        is_int(pqp_options_split(&o, &(pqp_option_names){{0}}, twice[i], &rest, &err), PQPOOL_EINVAL,
               "one option by two names is refused: %s", twice[i]);
        has(err.message, "are two names of one option", "  and both are told");
        free(rest);
        is_int(o.max_size, 10, "  and nothing is changed");
    }
    is_str(split("pool_max_size=5 pool_MAX_SIZE=6"), "|6|",
           "of one option by one name the later value holds");
    pqp_options o = fresh();
    pqpool_error err;
    ok(pqp_options_set(&o, "max_size", "5", &err) == PQPOOL_OK &&
           pqp_options_set(&o, "maxTotal", "6", &err) == PQPOOL_OK,
       "two calls may use two names");
    is_int(pqp_options_parse(&o, "max_size=5 maxTotal=6", &err), PQPOOL_EINVAL, "one call may not");
}

static void test_bare_times(void)
{
    static const struct {
        const char *name, *value;
        bool doubtful;
    } want[] = {{"connect_timeout", "5", true},      {"pool_max_lifetime", "999", true},
                {"maxLifetime", "90", true},         {"acquire_timeout", " 30 ", true},
                {"connect_timeout", "5ms", false},   {"connect_timeout", "1000", false},
                {"acquire_timeout", "0", false},     {"acquire_timeout", "-1", false},
                {"statement_timeout", "off", false}, {"maxLifetimeSeconds", "90", false},
                {"stall_threshold", "50", false},    {"connect_timeout", "1.5", false}};
    for (size_t i = 0; i < PQP_COUNT_OF(want); i++) {
        pqp_options o = fresh();
        pqpool_error err;
        ok(pqp_options_set(&o, want[i].name, want[i].value, &err) == PQPOOL_OK &&
               (o.bare != 0) == want[i].doubtful,
           "%s=%s %s meant in seconds", want[i].name, want[i].value, want[i].doubtful ? "may be" : "is not");
        ok(pqp_options_set(&o, want[i].name, "2s", &err) == PQPOOL_OK && o.bare == 0,
           "  and with a unit there is no doubt");
    }
}

/* What is refused shows nothing that may be a secret. */
static void test_no_secrets(void)
{
    static const char *const texts[] = {"pool_password=S3cret",
                                        "pool_pasword=S3cret pool_max_size=2",
                                        "pool_name='\x01S3cret'",
                                        "pool_max_size='20 password=S3cret'",
                                        "pool_max_size=20,password=S3cret",
                                        "pool_max_size=3 password=my S3cret",
                                        "pool_max_size=3 password='my S3cret",
                                        "postgres://h/d?pool_max_size=3&password=a=S3cret",
                                        "postgres://h/d?pool_password=S3cret"};
    for (size_t i = 0; i < PQP_COUNT_OF(texts); i++) {
        const char *said = split(texts[i]);
        ok(!strstr(said, "S3cr"), "no value is shown: %s", said);
    }
    pqpool_error err;
    pqp_options o = fresh();
    ok(pqp_options_parse(&o, "max_size=3 S3cret", &err) == PQPOOL_EINVAL && !strstr(err.message, "S3cr"),
       "nor what is no option at all: %s", err.message);
    is_str(set("max_size", "abc"), "option max_size=abc: must be a whole number, from 1 to 10000",
           "a value that looks like one is shown");
}

static void check_put(const char *before, size_t size, const char *keyword, const char *value,
                      const char *want, size_t length)
{
    char buf[100];
    snprintf(buf, sizeof buf, "%s", before);
    is_int((long long)pqp_conninfo_put(buf, size, keyword, value), (long long)length,
           "putting %s behind \"%s\", room %zu: the length of it all", value ? value : "NULL", before, size);
    is_str(buf, want, "  and the text");
}

static void test_put(void)
{
    check_put("", 100, "host", "a", "host='a'", 8);
    check_put("host='a'", 100, "port", "5", "host='a' port='5'", 17);
    check_put("host='a'", 100, "port", "", "host='a'", 8);
    check_put("host='a'", 100, "port", NULL, "host='a'", 8);
    check_put("", 100, "password", "it's \\", "password='it\\'s \\\\'", 19);
    check_put("", 9, "host", "a", "host='a'", 8);
    check_put("", 8, "host", "a", "", 8);
    check_put("x", 8, "host", "a", "x", 10);
    is_int((long long)pqp_conninfo_put(NULL, 0, "host", "a'"), 10, "without room the length is told");
}

/* Whatever the value is, libpq reads it back as it was, and nothing else of it. */
static void test_put_round_trip(void)
{
    static const char alphabet[] = "'\\ =\t\n\"a;-?&%\xc3\xa4host=";
    unsigned seed = 7;
    int wrong = 0;
    enum { RUNS = 20000 };
    for (int i = 0; i < RUNS && wrong == 0; i++) {
        char value[40], host[40], text[400] = "";
        for (int k = 0; k < 2; k++) {
            char *to = k ? host : value;
            int n = 1 + rand_r(&seed) % 30;
            for (int at = 0; at < n; at++)
                to[at] = alphabet[(size_t)rand_r(&seed) % (sizeof alphabet - 1)];
            to[n] = '\0';
        }
        pqp_conninfo_put(text, sizeof text, "password", value);
        pqp_conninfo_put(text, sizeof text, "host", host);
        PQconninfoOption *parsed = PQconninfoParse(text, NULL);
        int same = 0, others = 0;
        for (PQconninfoOption *o = parsed; o && o->keyword; o++) {
            bool ours = (strcmp(o->keyword, "password") == 0 && o->val && strcmp(o->val, value) == 0) ||
                        (strcmp(o->keyword, "host") == 0 && o->val && strcmp(o->val, host) == 0);
            same += ours;
            others += o->val && !ours;
        }
        PQconninfoFree(parsed);
        if (same != 2 || others != 0) {
            wrong++;
            diag("not read back: %s", text);
        }
    }
    is_int(wrong, 0, "%d pairs of values are read back by libpq as they were put", RUNS);
}

static void set_all(pqp_options *o, const char *const pairs[][2])
{
    for (int i = 0; pairs[i][0]; i++)
        if (pqp_options_set(o, pairs[i][0], pairs[i][1], NULL) != PQPOOL_OK)
            ok(false, "%s=%s can be set", pairs[i][0], pairs[i][1]);
}

static void check_preset(const char *name, const char *size, const char *queue, const char *acquire,
                         const char *connect)
{
    pqp_options o = fresh();
    set_all(&o, (const char *const[][2]){{"preset", name}, {NULL}});
    is_str(printed(&o, "max_size"), size, "D8: preset %s sets max_size to %s", name, size);
    is_str(printed(&o, "queue_limit"), queue, "D8:   queue_limit to %s", queue);
    is_str(printed(&o, "acquire_timeout"), acquire, "D8:   acquire_timeout to %s", acquire);
    is_str(printed(&o, "connect_timeout"), connect, "D8:   connect_timeout to %s", connect);
    ok(!pqp_options_given(&o, "max_size") && pqp_options_given(&o, "preset"),
       "D8:   and counts as no name given");
    ok(pqp_options_check(&o, NULL) == PQPOOL_OK, "D8:   and contradicts nothing");
}

static void test_presets(void)
{
    check_preset("development", "20", "10", "10s", "5s");
    check_preset("qa", "50", "30", "20s", "10s");
    check_preset("production", "90", "50", "30s", "10s");
    check_preset("none", "10", "0", "30s", "10s");
    for (int first = 0; first < 2; first++) {
        pqp_options o = fresh();
        if (first)
            set_all(&o, (const char *const[][2]){{"maxTotal", "33"}, {"preset", "qa"}, {NULL}});
        else
            set_all(&o, (const char *const[][2]){{"preset", "qa"}, {"max_size", "33"}, {NULL}});
        is_int(o.max_size, 33, "D8: a name wins over a preset when it comes %s", first ? "first" : "second");
        is_int(o.queue_limit, 30, "D8:   and the preset's other options hold");
    }
    pqp_options o = fresh();
    set_all(&o, (const char *const[][2]){{"preset", "production"}, {"preset", "none"}, {NULL}});
    is_int(o.max_size, 10, "D8: a later preset undoes an earlier one");
    set_all(&o, (const char *const[][2]){{"preset", "production"}, {"wait", "off"}, {NULL}});
    ok(pqp_options_check(&o, NULL) == PQPOOL_OK, "D8: wait=off does not contradict a preset's queue_limit");
}

static void check_contradiction(const char *const pairs[][2], const char *want)
{
    pqp_options o = fresh();
    pqpool_error err;
    pqp_error_clear(&err);
    set_all(&o, pairs);
    pqpool_code code = pqp_options_check(&o, &err);
    is_int(code, want ? PQPOOL_EINVAL : PQPOOL_OK, "D9: %s", want ? want : "equal values are fine");
    if (want)
        has(err.message, want, "D9:   is in the message");
}
#define PAIRS(...) ((const char *const[][2]){__VA_ARGS__, {NULL}})

static void test_contradictions(void)
{
    check_contradiction(PAIRS({"initial_size", "11"}), "pool_initial_size=11 contradicts pool_max_size=10");
    check_contradiction(PAIRS({"initial_size", "10"}), NULL);
    check_contradiction(PAIRS({"min_idle", "11"}), "pool_min_idle=11 contradicts pool_max_size=10");
    check_contradiction(PAIRS({"min_idle", "10"}), NULL);
    check_contradiction(PAIRS({"min_idle", "5"}, {"max_idle", "4"}),
                        "pool_min_idle=5 contradicts pool_max_idle=4");
    check_contradiction(PAIRS({"min_idle", "4"}, {"max_idle", "4"}), NULL);
    check_contradiction(PAIRS({"max_idle", "11"}), "pool_max_idle=11 contradicts pool_max_size=10");
    check_contradiction(PAIRS({"max_idle", "10"}), NULL);
    check_contradiction(PAIRS({"preset", "development"}, {"max_idle", "21"}), "pool_max_size=20");
    check_contradiction(PAIRS({"wait", "off"}, {"queue_limit", "5"}),
                        "pool_wait=off contradicts pool_queue_limit=5");
    check_contradiction(PAIRS({"wait", "off"}, {"queue_limit", "0"}), NULL);
    check_contradiction(PAIRS({"min_idle", "3"}, {"max_idle", "3"}, {"max_size", "3"}, {"initial_size", "3"}),
                        NULL);
}

/* What is left of a connection string, then "|max_size|name"; or the message. */
static const char *split(const char *conninfo)
{
    static char text[1200];
    pqpool_error err;
    pqp_options o = fresh(), before = o;
    char *rest = (char *)"";
    if (pqp_options_split(&o, &(pqp_option_names){{0}}, conninfo, &rest, &err) == PQPOOL_OK) {
        snprintf(text, sizeof text, "%s|%lld|%s", rest, (long long)o.max_size, o.name);
        free(rest);
    } else {
        snprintf(text, sizeof text, "%s%s", rest || memcmp(&o, &before, sizeof o) ? "(changed) " : "",
                 err.message);
    }
    return text;
}

static void test_pairs(void)
{
    static const char *const want[][2] = {
        {"", "|10|"},
        {"  ", "  |10|"},
        {"dbname=shop", "dbname=shop|10|"},
        {"shop", "shop|10|"},
        {"dbname=shop pool_max_size=20", "dbname=shop|20|"},
        {"pool_max_size=20 dbname=shop", "dbname=shop|20|"},
        {"a=b  pool_max_size=20   c=d ", "a=b  c=d |20|"},
        {"a=b pool_max_size = '20' c=d", "a=b c=d|20|"},
        {"a=b pool_max_size='20'c=d", "a=b c=d|20|"},
        {"a='b'pool_max_size=20 c=d", "a='b'c=d|20|"},
        {"a='b'pool_max_size='20'c=d", "a='b'c=d|20|"},
        {"a='b'c=d", "a='b'c=d|10|"},
        {"pool_max_size=20", "|20|"},
        {" pool_max_size=20 ", "|20|"},
        {"pool_max_size=20\tpool_max_size=30", "|30|"},
        {"pool_max_conns=5 a=b", "a=b|5|"},
        {"pool_connectionLimit=6", "|6|"},
        {"pool_MAXTOTAL=6", "|6|"},
        {"options='-c pool_max_size=1'", "options='-c pool_max_size=1'|10|"},
        {"password='pool_max_size=3 ' pool_name='a b'", "password='pool_max_size=3 '|10|a b"},
        {"password='it\\'s pool_max_size=3' a=b", "password='it\\'s pool_max_size=3' a=b|10|"},
        {"password=x\\ pool_max_size=3 a=b", "password=x\\ pool_max_size=3 a=b|10|"},
        {"password=x\\  pool_max_size=3", "password=x\\ |3|"},
        {"pool_name='it\\'s \\\\' a = b", "a = b|10|it's \\"},
        {"pool_name=it\\'s\\ x", "|10|it's x"},
        {"pool_name= a=b", "|10|a=b"},
        {"a=b\\", "a=b\\|10|"},
        {"pool_name=b\\", "|10|b"},
        {"pool_name=''", "|10|"},
        {"xpool_max_size=20", "xpool_max_size=20|10|"},
        {"Pool_max_size=20", "Pool_max_size=20|10|"},
        {"password='open pool_max_size=3", "password='open pool_max_size=3|10|"},
        {"dbname shop pool_max_size=3", "dbname shop pool_max_size=3|10|"},
        {"pool_max_size 20", "pool_max_size 20|10|"},
        {"pool_max_size='20", "pool_max_size='20|10|"},
        {"pool_max_size=3 dbname shop",
         "the connection string is malformed at byte 17: missing \"=\" after a keyword"},
        {"pool_max_size=3 password='s",
         "the connection string is malformed at byte 26: a quoted value has no end"},
        {"a=b pool_max_size=0", "option pool_max_size=0: must be a whole number, from 1 to 10000"},
        {"pool_max_size=3 pool_max_sise=20", "unknown option pool_max_sise=20: did you mean pool_max_size?"},
        {"pool_max_size=", "option pool_max_size=: must be a whole number, from 1 to 10000"}};
    for (size_t i = 0; i < PQP_COUNT_OF(want); i++)
        is_str(split(want[i][0]), want[i][1], "split: %s", want[i][0]);
    is_str(split(NULL), "|10|", "split: NULL is an empty string");
}

static void test_uris(void)
{
    static const char *const want[][2] = {
        {"postgresql://", "postgresql://|10|"},
        {"postgresql://h/d?pool_max_size=20", "postgresql://h/d|20|"},
        {"postgres://h/d?pool_max_size=20&a=b", "postgres://h/d?a=b|20|"},
        {"postgres://h/d?a=b&pool_max_size=20", "postgres://h/d?a=b|20|"},
        {"postgres://h/d?a=b&pool_max_size=20&c=d", "postgres://h/d?a=b&c=d|20|"},
        {"postgres://h/d?pool_max_size=20&pool_name=a%20b%26", "postgres://h/d|20|a b&"},
        {"postgres://h/d?pool%5Fmax%5fsize=2%30", "postgres://h/d|20|"},
        {"postgres://h?a=b%20c&pool_max_size=20", "postgres://h?a=b%20c|20|"},
        {"postgres://?pool_max_size=20", "postgres://|20|"},
        {"postgres:///?pool_max_size=20", "postgres:///|20|"},
        {"postgres://h/d?", "postgres://h/d?|10|"},
        {"postgres://h/d?a=b&", "postgres://h/d?a=b&|10|"},
        {"postgres://u:p?pool_max_size=3@h/d?pool_max_size=4", "postgres://u:p?pool_max_size=3@h/d|4|"},
        {"postgres://[::1]:5432,[::2]:1/d?pool_max_size=4", "postgres://[::1]:5432,[::2]:1/d|4|"},
        {"postgres://a:1,b:2?pool_max_size=4", "postgres://a:1,b:2|4|"},
        {"postgres://[::1?pool_max_size=4", "postgres://[::1?pool_max_size=4|10|"},
        {"postgres://h/pool_max_size=4", "postgres://h/pool_max_size=4|10|"},
        {"postgres://h/d?a=%zz&pool_max_size=4", "postgres://h/d?a=%zz&pool_max_size=4|10|"},
        {"postgres://h/d?a&pool_max_size=4", "postgres://h/d?a&pool_max_size=4|10|"},
        {"postgres://h/d?pool_max_size=4&a",
         "the connection string is malformed at byte 32: missing \"=\" in a "
         "query parameter"},
        {"postgres://h/d?pool_max_size=4&a=b=c",
         "the connection string is malformed at byte 35: a second \"=\" in a "
         "query parameter"},
        {"postgres://h/d?pool_max_size=4&a=%00",
         "the connection string is malformed at byte 32: a wrong % sequence "
         "in a query parameter"},
        {"postgres://h/d?pool_max_size=4000%30",
         "option pool_max_size=40000: must be a whole number, from 1 to "
         "10000"},
        {"POSTGRES://h/d?pool_max_size=4", "POSTGRES://h/d?pool_max_size=4|10|"}};
    for (size_t i = 0; i < PQP_COUNT_OF(want); i++)
        is_str(split(want[i][0]), want[i][1], "split: %s", want[i][0]);
    ok(pqp_options_is_conninfo("postgres://h") && pqp_options_is_conninfo("a=b") &&
           !pqp_options_is_conninfo("shop") && !pqp_options_is_conninfo(NULL) && !pqp_options_is_conninfo(""),
       "a dbname is a connection string as libpq sees it");
}

/* Whether libpq reads the rest just as it reads the whole string without pool_ options in it. */
static bool libpq_agrees(const char *text)
{
    char *rest = NULL, *why = NULL;
    pqp_options o = fresh();
    if (pqp_options_split(&o, &(pqp_option_names){{0}}, text, &rest, NULL) != PQPOOL_OK)
        return rest == NULL;
    bool fine = true;
    if (o.given == 0) {
        fine = strcmp(rest, text) == 0;
    } else {
        PQconninfoOption *parsed = PQconninfoParse(rest, &why);
        fine = parsed || (why && !strstr(why, "pool_"));
        PQconninfoFree(parsed);
        PQfreemem(why);
    }
    free(rest);
    return fine;
}

static void test_hostile(void)
{
    static const char *const texts[] = {
        "host=/tmp pool_max_size=20 password='it\\'s pool_x=1 \\\\' pool_name = 'a\\'b'user=me\\ too "
        "pool_wait=on  ",
        "postgresql://u%20:p%3F@[::1]:5432,h2:1/"
        "db?pool_max_size=2%30&options=-c%20x&pool_name=%41&sslmode=disable",
    };
    bool agreed = true;
    int runs = 0;
    for (size_t i = 0; i < PQP_COUNT_OF(texts); i++)
        for (size_t n = 0; n <= strlen(texts[i]); n++, runs++) {
            char *cut = strndup(texts[i], n);
            if (!libpq_agrees(cut)) {
                agreed = false;
                diag("disagrees: %s", cut);
            }
            free(cut);
        }
    ok(agreed, "%d truncated strings are read as libpq reads them", runs);
    static const char alphabet[] = "pool_max_size='= \\&?%20@/:[],\t'pool_name=x host=a\xc3\xff";
    unsigned seed = 4711;
    agreed = true;
    for (runs = 0; runs < 60000; runs++) {
        static const char *const starts[] = {"", "pool_max_size=3 ", "postgres://",
                                             "postgres://h/d?pool_max_size=3&", "host=a pool_name='"};
        char text[80];
        int used = snprintf(text, sizeof text, "%s", starts[(unsigned)runs % 5]);
        for (int n = rand_r(&seed) % 30; n > 0; n--)
            if (rand_r(&seed) % 20 == 0)
                text[used++] = (char)(1 + rand_r(&seed) % 255);
            else
                text[used++] = alphabet[(size_t)rand_r(&seed) % (sizeof alphabet - 1)];
        text[used] = '\0';
        char *exact = strdup(text); /* so that the sanitizer sees a read behind it */
        if (!libpq_agrees(exact) && agreed) {
            agreed = false;
            diag("disagrees: %s", exact);
        }
        free(exact);
    }
    ok(agreed, "%d random strings too", runs);
}

static void test_changeable(void)
{
    static const char *const fixed[] = {
        "initial_size", "statement_cache_size", "instances", "batch_size", "preset", "name"};
    static const char *const idle[] = {"instances", "batch_size"};
    for (int i = 0; pqp_options_row(i); i++) {
        const pqp_option_row *r = pqp_options_row(i);
        bool is_fixed = false, is_idle = false;
        for (size_t k = 0; k < PQP_COUNT_OF(fixed); k++)
            is_fixed |= strcmp(r->name, fixed[k]) == 0;
        for (size_t k = 0; k < PQP_COUNT_OF(idle); k++)
            is_idle |= strcmp(r->name, idle[k]) == 0;
        ok(r->changeable == !is_fixed && r->in_force == !is_idle, "%s is %s and %s", r->name,
           is_fixed ? "fixed" : "changeable", is_idle ? "not in force" : "in force");
    }
}

/* The README's table is for people; it must say what the table says. */
static void test_readme(void)
{
    char path[4096];
    const char *srcdir = getenv("PQPOOL_SRCDIR");
    snprintf(path, sizeof path, "%s/README.md", srcdir ? srcdir : "..");
    FILE *file = fopen(path, "r");
    if (!file) {
        diag("no README at %s: not compared", path);
        return;
    }
    static char text[100000];
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    for (int i = 0; pqp_options_row(i); i++) {
        const pqp_option_row *r = pqp_options_row(i);
        char line[1000];
        snprintf(line, sizeof line, "| %s%s | %s | %s | %s |", r->name, r->in_force ? "" : " (1)",
                 *r->default_ ? r->default_ : "-", *r->aliases ? r->aliases : "-", r->help);
        ok(strstr(text, line), "the README has the row of %s as it is", r->name);
    }
}

int main(void)
{
    tap_begin(60);
    test_rows();
    test_changeable();
    test_bounds();
    test_aliases();
    test_units();
    test_round_trip();
    test_unknown_names();
    test_presets();
    test_contradictions();
    test_pairs();
    test_uris();
    test_hostile();
    test_foreign_names();
    test_two_names();
    test_bare_times();
    test_no_secrets();
    test_put();
    test_put_round_trip();
    test_readme();
    return done_testing();
}
