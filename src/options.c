/* options: the table, and what is derived from it. */
#include "options.h"
#include "conninfo.h"
#include "error.h"
#include "foreign.h"
#include "span.h"
#include <pqpool-ops.h>

typedef enum { COUNT, PERCENT, TIME, SIZE, SWITCH, WORD, TEXT } value_kind;

enum {
    CAN_BE_OFF = 1,   /* 0 means off, and is written so */
    NO_LIMIT = 2,     /* -1 means that there is no limit */
    LIKE_MAX = 4,     /* -1 means as max_size, and is written so */
    LIKE_ACQUIRE = 8, /* the same of acquire_timeout */
};

typedef struct row {
    pqp_option_row shown;
    value_kind kind;
    int special;
    size_t offset;
    const char *words; /* of a WORD, the n-th for the value n */
} row;

#define AT(member) offsetof(pqp_options, member)
#define SECOND 1000
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY ((int64_t)24 * HOUR)
#define MUCH ((int64_t)1 << 40)
#define LONG_TIME (24 * DAY) /* the most that fits the int milliseconds of poll() and of the public calls */

/* clang-format off */
static const row rows[] = {
    {{"max_size", "connectionLimit maxActive maxTotal maximumPoolSize max pool_max_conns", "10", "", 1, 10000,
      true, true, "connections at most"}, COUNT, 0, AT(max_size), NULL},
    {{"initial_size", "initialSize", "0", "", 0, 10000,
      false, true, "connections made when the pool is opened"}, COUNT, 0, AT(initial_size), NULL},
    {{"min_idle", "minIdle minimumIdle min pool_min_conns", "0", "", 0, 10000,
      true, true, "idle connections kept ready"}, COUNT, 0, AT(min_idle), NULL},
    {{"max_idle", "maxIdle", "max_size", "", 0, 10000,
      true, true, "idle connections at most; max_size: as many as there are"},
      COUNT, LIKE_MAX, AT(max_idle), NULL},
    {{"acquire_timeout", "acquireTimeout maxWait maxWaitMillis connectionTimeout connectionTimeoutMillis",
      "30s", "ms", 0, LONG_TIME,
      true, true, "how long a caller waits for a connection; 0: not at all, -1: no limit"},
      TIME, NO_LIMIT, AT(acquire_timeout), NULL},
    {{"outage_wait", "", "acquire_timeout", "ms", 0, LONG_TIME,
      true, true,
      "how long a caller waits while no connection lives and the last attempt failed; 0: told at once, in the server's words"},
      TIME, LIKE_ACQUIRE, AT(outage_wait), NULL},
    {{"wait", "waitForConnections blockWhenExhausted", "on", "", 0, 1,
      true, true, "whether callers wait at all when every connection is taken"}, SWITCH, 0, AT(wait), NULL},
    {{"queue_limit", "queueLimit", "0", "", 0, 1000000,
      true, true, "callers waiting at most; 0: no limit"}, COUNT, 0, AT(queue_limit), NULL},
    {{"connect_timeout", "connectTimeout", "10s", "ms", 1, DAY,
      true, true, "how long one attempt to connect may take"}, TIME, 0, AT(connect_timeout), NULL},
    {{"connect_concurrency", "", "4", "", 1, 1000,
      true, true, "attempts to connect at a time"}, COUNT, 0, AT(connect_concurrency), NULL},
    {{"idle_timeout", "idleTimeout minEvictableIdleTimeMillis idleTimeoutMillis pool_max_conn_idle_time",
      "10min", "ms", 0, LONG_TIME,
      true, true, "a connection idle for longer is closed, down to min_idle"},
      TIME, CAN_BE_OFF, AT(idle_timeout), NULL},
    {{"max_lifetime", "maxConnLifetimeMillis maxLifetime maxLifetimeSeconds pool_max_conn_lifetime", "30min",
      "ms", 0, LONG_TIME,
      true, true, "a connection older than this is replaced"}, TIME, CAN_BE_OFF, AT(max_lifetime), NULL},
    {{"max_uses", "maxUses", "0", "", 0, INT32_MAX,
      true, true, "a connection leased this often is replaced; 0: never"}, COUNT, 0, AT(max_uses), NULL},
    {{"keeper_interval", "timeBetweenEvictionRunsMillis pool_health_check_period", "30s", "ms", 10, DAY,
      true, true, "how often the pool looks after its connections"}, TIME, 0, AT(keeper_interval), NULL},
    {{"test_on_borrow", "testOnBorrow", "off", "", 0, 1,
      true, true, "whether an idle connection is probed before it is leased, unless it was used within 500 ms"},
      SWITCH, 0, AT(test_on_borrow), NULL},
    {{"test_while_idle", "testWhileIdle", "off", "", 0, 1,
      true, true, "whether idle connections are probed every keeper_interval"},
      SWITCH, 0, AT(test_while_idle), NULL},
    {{"reset", "", "rollback", "", 0, PQP_RESET_DISCARD,
      true, true, "what is undone when a lease ends"}, WORD, 0, AT(reset), "none rollback clean discard"},
    {{"shared_max", "", "4", "", 1, 64,
      true, true, "shared connections at most"}, COUNT, 0, AT(shared_max), NULL},
    {{"pipeline_depth", "", "128", "", 1, 10000,
      true, true, "statements in flight on one shared connection at most"},
      COUNT, 0, AT(pipeline_depth), NULL},
    {{"statement_timeout", "", "off", "ms", 0, LONG_TIME,
      true, true, "how long a statement on a shared connection may take"},
      TIME, CAN_BE_OFF, AT(statement_timeout), NULL},
    {{"max_result", "", "256MB", "B", 1024, MUCH,
      true, true, "an answer on a shared connection that is larger fails by itself (ETOOBIG)"},
      SIZE, CAN_BE_OFF, AT(max_result), NULL},
    {{"max_buffer", "", "16MB", "B", 1024, MUCH,
      true, true, "a connection that carried a larger answer is replaced: libpq keeps the memory"},
      SIZE, CAN_BE_OFF, AT(max_buffer), NULL},
    {{"statement_cache_size", "", "256", "", 0, 10000,
      false, true, "statements prepared on each shared connection at most; 0: none"},
      COUNT, 0, AT(statement_cache_size), NULL},
    {{"slow_lane_threshold", "", "20ms", "ms", 0, LONG_TIME,
      true, true, "a statement known to take longer gets a connection to itself"},
      TIME, CAN_BE_OFF, AT(slow_lane_threshold), NULL},
    {{"stall_threshold", "", "50ms", "ms", 0, LONG_TIME,
      true, true, "a shared connection busy with one statement for longer takes no more"},
      TIME, CAN_BE_OFF, AT(stall_threshold), NULL},
    {{"slow_statement", "maxQueryExecutionTime", "1s", "ms", 0, LONG_TIME,
      true, true, "a statement that takes longer is logged"}, TIME, CAN_BE_OFF, AT(slow_statement), NULL},
    {{"leak_threshold", "removeAbandonedTimeout leakDetectionThreshold", "off", "ms", 0, LONG_TIME,
      true, true, "a lease held for longer is reported"}, TIME, CAN_BE_OFF, AT(leak_threshold), NULL},
    {{"idle_tx_threshold", "", "500ms", "ms", 0, LONG_TIME,
      true, true, "a lease that was idle in a transaction for longer is reported when it ends"},
      TIME, CAN_BE_OFF, AT(idle_tx_threshold), NULL},
    {{"backtrace", "", "off", "", 0, 1,
      true, true, "whether the call stack of each acquire is kept, for reports of leaks (some microseconds each)"},
      SWITCH, 0, AT(backtrace), NULL},
    {{"log_level", "logging", "warn", "", 0, PQPOOL_LOG_DEBUG,
      true, true, "what is logged"}, WORD, 0, AT(log_level), "off error warn info debug"},
    {{"health_interval", "", "5min", "ms", 0, LONG_TIME,
      true, true, "how often the pool checks its own health"}, TIME, CAN_BE_OFF, AT(health_interval), NULL},
    {{"health_used", "", "80%", "%", 1, 100,
      true, true, "more connections in use than this are worth a warning"},
      PERCENT, 0, AT(health_used), NULL},
    {{"health_waiting", "", "10", "", 0, 1000000,
      true, true, "more callers waiting than this are worth a warning"},
      COUNT, 0, AT(health_waiting), NULL},
    {{"instances", "", "1", "", 1, 100000,
      false, false, "processes that open this pool, against the server's limit"},
      COUNT, 0, AT(instances), NULL},
    {{"batch_size", "", "100", "", 1, 100000,
      false, false, "rows sent together"}, COUNT, 0, AT(batch_size), NULL},
    {{"preset", "", "none", "", 0, PQP_PRESET_PRODUCTION,
      false, true, "max_size, queue_limit, acquire_timeout and connect_timeout at once"},
      WORD, 0, AT(preset), "none development qa production"},
    {{"name", "", "", "", 0, PQP_NAME_SIZE - 1,
      false, true, "the pool's name in messages and figures; empty: host:port/dbname"},
      TEXT, 0, AT(name), NULL},
};
/* clang-format on */

#define N_ROWS ((int)PQP_COUNT_OF(rows))
_Static_assert(PQP_COUNT_OF(rows) <= 64, "pqp_options.given has a bit for each row");

/* Under these names, as their home has it, a bare number is in seconds. */
static const char *const in_seconds[] = {"maxLifetimeSeconds", "removeAbandonedTimeout"};

/* What a preset sets; [0] is what holds without one, taken from the table. */
static const struct {
    const char *name;
    const char *values[PQP_PRESET_PRODUCTION + 1];
} presets[] = {
    {"max_size", {NULL, "20", "50", "90"}},
    {"queue_limit", {NULL, "10", "30", "50"}},
    {"acquire_timeout", {NULL, "10s", "20s", "30s"}},
    {"connect_timeout", {NULL, "5s", "10s", "10s"}},
};

static int64_t *field(pqp_options *o, const row *r)
{
    return (int64_t *)(void *)((char *)o + r->offset);
}

static int64_t value_of(const pqp_options *o, const row *r)
{
    return *(const int64_t *)(const void *)((const char *)o + r->offset);
}

static pqp_span without_prefix(pqp_span s)
{
    return s.size > 5 && pqp_span_is((pqp_span){s.at, 5}, "pool_") ? (pqp_span){s.at + 5, s.size - 5} : s;
}

/* ---- names ---- */

const pqp_option_row *pqp_options_row(int i)
{
    return i >= 0 && i < N_ROWS ? &rows[i].shown : NULL;
}

static int find(pqp_span name)
{
    for (int i = 0; i < N_ROWS; i++)
        if (pqp_span_is(name, rows[i].shown.name) || pqp_span_word_index(name, rows[i].shown.aliases) >= 0)
            return i;
    return -1;
}

int pqp_options_find(const char *name)
{
    if (!name)
        return -1;
    int i = find(pqp_span_of(name)); /* some aliases have the prefix for their own */
    return i >= 0 ? i : find(without_prefix(pqp_span_of(name)));
}

bool pqp_options_given(const pqp_options *o, const char *name)
{
    int i = pqp_options_find(name);
    return i >= 0 && (o->given >> i & 1) != 0;
}

static bool begins(pqp_span s, const char *with)
{
    return s.size >= strlen(with) && pqp_span_is((pqp_span){s.at, strlen(with)}, with);
}

/* A least and a most are no misspelling of each other. */
static bool opposite(pqp_span a, pqp_span b)
{
    return (begins(a, "min") && begins(b, "max")) || (begins(a, "max") && begins(b, "min"));
}

/* The name or alias that is most like this one, of size 0 if none is. */
static pqp_span nearest(pqp_span name)
{
    pqp_span best = {"", 0};
    int limit = PQP_MAX(1, (int)PQP_MIN(name.size, 64) / 3) + 1;
    for (int i = 0; i < N_ROWS; i++) {
        const char *aliases = rows[i].shown.aliases;
        pqp_span candidate = pqp_span_of(rows[i].shown.name);
        do {
            int d = pqp_span_distance(name, without_prefix(candidate));
            if (d < limit && !opposite(name, without_prefix(candidate))) {
                limit = d;
                best = candidate;
            }
        } while (pqp_span_next_word(&aliases, &candidate));
    }
    return best;
}

bool pqp_options_suggest(const char *name, bool in_conninfo, char *buf, size_t size)
{
    pqp_span given = pqp_span_of(name), bare = without_prefix(given);
    const char *prefix = in_conninfo || bare.size < given.size ? "pool_" : "";
    if (find(given) >= 0)
        return snprintf(buf, size, "an option of the pool begins with pool_: did you mean pool_%.*s?",
                        (int)PQP_MIN(given.size, 80), given.at) > 0;
    const pqp_foreign *foreign = pqp_foreign_find(bare);
    pqp_span near = foreign ? (pqp_span){"", 0} : nearest(bare);
    if (!foreign && near.size == 0)
        foreign = pqp_foreign_near(bare);
    if (near.size > 0)
        snprintf(buf, size, "did you mean %s%.*s?", without_prefix(near).size == near.size ? prefix : "",
                 (int)near.size, near.at);
    else if (foreign && *foreign->ours)
        snprintf(buf, size, "did you mean %s%s?%s%s%s", prefix, foreign->ours, *foreign->note ? " (" : "",
                 foreign->note, *foreign->note ? ")" : "");
    else if (foreign)
        snprintf(buf, size, "there is no such option: %s", foreign->note);
    return foreign || near.size > 0;
}

/* Whether a value may be shown: one in which a quote or a blank was forgotten may have taken in a password. */
static bool looks_like_value(const char *value)
{
    return strlen(value) <= 24 &&
           strspn(value, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                         ".,%_+- ") == strlen(value);
}

/* The value is shown only where a number was given to a misspelt option: pool_password=... is a name that is not known, too. */
static pqpool_code refuse_name(const char *name, const char *value, pqpool_error *err)
{
    char suggestion[300];
    pqp_span bare = without_prefix(pqp_span_of(name));
    bool shown = strlen(value) <= 8 && *value >= '0' && *value <= '9' && looks_like_value(value) &&
                 nearest(bare).size > 0;
    pqp_refuse(err, PQPOOL_EINVAL, "unknown option %.80s%s%s: ", name, shown ? "=" : "", shown ? value : "");
    if (pqp_options_suggest(name, false, suggestion, sizeof suggestion)) {
        pqp_error_append(err, "%s", suggestion);
        return PQPOOL_EINVAL;
    }
    pqp_error_append(err, "the options are");
    for (int i = 0; i < N_ROWS; i++)
        pqp_error_append(err, "%s %s", i ? "," : "", rows[i].shown.name);
    return PQPOOL_EINVAL;
}

/* ---- values from text ---- */

static bool parse_switch(pqp_span s, int64_t *out)
{
    *out = pqp_span_word_index(s, "off on false true no yes 0 1");
    if (*out < 0)
        return false;
    *out %= 2;
    return true;
}

/* One of the values that stand for no number. */
static bool parse_special(const row *r, pqp_span s, int64_t *out)
{
    if (r->special & CAN_BE_OFF && pqp_span_is(s, "off")) {
        *out = 0;
        return true;
    }
    *out = -1;
    return (r->special & NO_LIMIT && (pqp_span_is(s, "off") || pqp_span_is(s, "-1"))) ||
           (r->special & LIKE_MAX && pqp_span_is(s, "max_size")) ||
           (r->special & LIKE_ACQUIRE && pqp_span_is(s, "acquire_timeout"));
}

static bool parse_value(const row *r, const char *text, bool seconds, int64_t *out)
{
    pqp_span s = pqp_span_trimmed(text);
    bool parsed = false;
    if (parse_special(r, s, out))
        return true;
    switch (r->kind) {
    case PERCENT:
        if (s.size > 1 && s.at[s.size - 1] == '%')
            s = pqp_span_cut_blanks((pqp_span){s.at, s.size - 1});
        parsed = pqp_span_parse_whole(s, out);
        break;
    case COUNT:
        parsed = pqp_span_parse_whole(s, out);
        break;
    case TIME:
        parsed = pqp_span_parse_time(s, seconds, out);
        break;
    case SIZE:
        parsed = pqp_span_parse_size(s, out);
        break;
    case SWITCH:
        parsed = parse_switch(s, out);
        break;
    case WORD:
        *out = pqp_span_word_index(s, r->words);
        parsed = *out >= 0;
        break;
    case TEXT:
        break;
    }
    return parsed && *out >= r->shown.min && *out <= r->shown.max;
}

/* ---- values as text ---- */

/* As snprintf(). */
static int print_value(const row *r, int64_t value, char *buf, size_t size)
{
    if (value < 0 && r->special & LIKE_MAX)
        return snprintf(buf, size, "max_size");
    if (value < 0 && r->special & LIKE_ACQUIRE)
        return snprintf(buf, size, "acquire_timeout");
    if (value == 0 && r->special & CAN_BE_OFF)
        return snprintf(buf, size, "off");
    if (r->kind == TIME && value > 0)
        return pqp_span_print_time(value, buf, size);
    if (r->kind == SIZE && value > 0)
        return pqp_span_print_size(value, buf, size);
    if (r->kind == SWITCH)
        return snprintf(buf, size, "%s", value ? "on" : "off");
    if (r->kind == WORD) {
        const char *words = r->words;
        pqp_span word = {"", 0};
        for (int64_t i = 0; i <= value; i++)
            pqp_span_next_word(&words, &word);
        return snprintf(buf, size, "%.*s", (int)word.size, word.at);
    }
    return snprintf(buf, size, "%lld%s", (long long)value, r->kind == PERCENT ? "%" : "");
}

pqpool_code pqp_options_print(const pqp_options *o, const char *name, char *buf, size_t size)
{
    if (size > 0)
        buf[0] = '\0';
    int i = pqp_options_find(name);
    if (i < 0)
        return PQPOOL_EINVAL;
    const row *r = &rows[i];
    char text[PQP_NAME_SIZE];
    int needed = r->kind == TEXT ? snprintf(text, sizeof text, "%s", (const char *)o + r->offset)
                                 : print_value(r, value_of(o, r), text, sizeof text);
    if ((size_t)needed >= size)
        return PQPOOL_ETOOBIG;
    memcpy(buf, text, (size_t)needed + 1);
    return PQPOOL_OK;
}

/* Says what would be right. */
static void append_range(const row *r, pqpool_error *err)
{
    char min[32], max[32];
    if (r->kind == SWITCH) {
        pqp_error_append(err, "must be on or off");
        return;
    }
    if (r->kind == TEXT) {
        pqp_error_append(err, "must be at most %lld bytes without control characters",
                         (long long)r->shown.max);
        return;
    }
    if (r->kind == WORD) {
        pqp_error_append(err, "must be one of");
        const char *words = r->words;
        pqp_span word;
        for (int i = 0; pqp_span_next_word(&words, &word); i++)
            pqp_error_append(err, "%s %.*s", i ? "," : "", (int)word.size, word.at);
        return;
    }
    print_value(r, r->shown.min, min, sizeof min);
    print_value(r, r->shown.max, max, sizeof max);
    pqp_error_append(err, "must be %s, from %s to %s%s",
                     r->kind == TIME   ? "a time such as 500ms, 30s or 10min"
                     : r->kind == SIZE ? "a size such as 64kB, 16MB or 1GB"
                                       : "a whole number",
                     min, max,
                     r->special & NO_LIMIT       ? ", or -1 for no limit"
                     : r->special & LIKE_MAX     ? ", or max_size"
                     : r->special & LIKE_ACQUIRE ? ", or acquire_timeout"
                                                 : "");
}

/* ---- setting ---- */

static bool text_is_fit(const row *r, const char *value)
{
    size_t size = strlen(value);
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)value[i] < ' ' || value[i] == 0x7f)
            return false; /* a name stands in log lines */
    return size <= (size_t)r->shown.max;
}

/* Sets the options of the preset that were not given by name; a preset that was there before is undone. */
static void apply_preset(pqp_options *o)
{
    for (size_t i = 0; i < PQP_COUNT_OF(presets); i++) {
        int at = find(pqp_span_of(presets[i].name));
        const char *text = presets[i].values[o->preset];
        if (!(o->given >> at & 1))
            (void)!parse_value(&rows[at], text ? text : rows[at].shown.default_, false, field(o, &rows[at]));
    }
}

void pqp_options_init(pqp_options *o)
{
    memset(o, 0, sizeof *o);
    for (int i = 0; i < N_ROWS; i++)
        if (rows[i].kind != TEXT)
            (void)!parse_value(&rows[i], rows[i].shown.default_, false, field(o, &rows[i]));
}

static bool counts_seconds(const char *name)
{
    for (size_t i = 0; i < PQP_COUNT_OF(in_seconds); i++)
        if (pqp_span_is(without_prefix(pqp_span_of(name)), in_seconds[i]))
            return true;
    return false;
}

static bool ends_with(const char *text, const char *end)
{
    return strlen(text) >= strlen(end) && strcmp(text + strlen(text) - strlen(end), end) == 0;
}

/* pool_connect_timeout=5 is 5 ms, and hardly meant. */
static bool may_mean_seconds(const row *r, const char *name, const char *value, int64_t number)
{
    int64_t whole;
    return r->kind == TIME &&
           (ends_with(r->shown.name, "_timeout") || ends_with(r->shown.name, "_lifetime")) &&
           !counts_seconds(name) && number > 0 && number < 1000 &&
           pqp_span_parse_whole(pqp_span_trimmed(value), &whole);
}

static pqpool_code refuse_value(const row *r, const char *name, const char *value, pqpool_error *err)
{
    bool shown = r->kind != TEXT && looks_like_value(value);
    pqp_refuse(err, PQPOOL_EINVAL, "option %.80s%s%s", name, shown ? "=" : "", shown ? value : "");
    if (!pqp_span_is(without_prefix(pqp_span_of(name)), r->shown.name))
        pqp_error_append(err, " (%s)", r->shown.name);
    pqp_error_append(err, ": ");
    append_range(r, err);
    return PQPOOL_EINVAL;
}

pqpool_code pqp_options_set(pqp_options *o, const char *name, const char *value, pqpool_error *err)
{
    if (!name || !value)
        return pqp_refuse(err, PQPOOL_EINVAL, "option %.80s has no %s", name ? name : "",
                          name ? "value" : "name");
    int i = pqp_options_find(name);
    if (i < 0)
        return refuse_name(name, value, err);
    const row *r = &rows[i];
    int64_t number = 0;
    if (r->kind == TEXT ? !text_is_fit(r, value) : !parse_value(r, value, counts_seconds(name), &number))
        return refuse_value(r, name, value, err);
    if (r->kind == TEXT)
        memcpy((char *)o + r->offset, value, strlen(value) + 1);
    else
        *field(o, r) = number;
    uint64_t bit = (uint64_t)1 << i;
    o->given |= bit;
    o->bare = may_mean_seconds(r, name, value, number) ? o->bare | bit : o->bare & ~bit;
    if (r->offset == AT(preset))
        apply_preset(o);
    return PQPOOL_OK;
}

/* ---- contradictions ---- */

static pqpool_code refuse_pair(const pqp_options *o, const char *a, const char *b, const char *why,
                               pqpool_error *err)
{
    char left[32] = "", right[32] = "";
    (void)!pqp_options_print(o, a, left, sizeof left);
    (void)!pqp_options_print(o, b, right, sizeof right);
    return pqp_refuse(err, PQPOOL_EINVAL, "pool_%s=%s contradicts pool_%s=%s: %s", a, left, b, right, why);
}

pqpool_code pqp_options_check(const pqp_options *o, pqpool_error *err)
{
    const char *above = "the first may not be larger than the second";
    if (o->initial_size > o->max_size)
        return refuse_pair(o, "initial_size", "max_size", above, err);
    if (o->max_idle > o->max_size)
        return refuse_pair(o, "max_idle", "max_size", above, err);
    if (o->max_idle >= 0 && o->min_idle > o->max_idle)
        return refuse_pair(o, "min_idle", "max_idle", above, err);
    if (o->min_idle > o->max_size)
        return refuse_pair(o, "min_idle", "max_size", above, err);
    if (!o->wait && o->queue_limit > 0 && pqp_options_given(o, "queue_limit"))
        return refuse_pair(o, "wait", "queue_limit", "nobody would ever stand in that queue", err);
    return PQPOOL_OK;
}

/* ---- connection strings ---- */

bool pqp_options_is_conninfo(const char *text)
{
    return pqp_conninfo_recognize(text);
}

/* Which of a row's names this is: 1 its own, from 2 on its aliases. */
static int which_name(int index, pqp_span name)
{
    const char *aliases = rows[index].shown.aliases;
    int n = pqp_span_word_index(name, aliases);
    if (n < 0)
        n = pqp_span_word_index(without_prefix(name), aliases);
    return n < 0 ? 1 : n + 2;
}

static pqp_span name_number(int index, int n)
{
    const char *aliases = rows[index].shown.aliases;
    pqp_span name = pqp_span_of(rows[index].shown.name);
    for (; n > 1; n--)
        (void)pqp_span_next_word(&aliases, &name);
    return without_prefix(name);
}

pqpool_code pqp_options_take(pqp_options *o, pqp_option_names *names, const char *name, const char *value,
                             pqpool_error *err)
{
    int i = name ? pqp_options_find(name) : -1;
    if (i >= 0) {
        int n = which_name(i, pqp_span_of(name)), before = names->of[i];
        pqp_span a = name_number(i, before), b = name_number(i, n);
        if (before != 0 && before != n)
            return pqp_refuse(err, PQPOOL_EINVAL,
                              "pool_%.*s and pool_%.*s are two names of one option: give one of them",
                              (int)a.size, a.at, (int)b.size, b.at);
        names->of[i] = (uint8_t)n;
    }
    return pqp_options_set(o, name, value, err);
}

typedef struct taking {
    pqp_options options;
    pqp_option_names *names;
} taking;

static pqpool_code take_option(void *arg, const char *name, const char *value, pqpool_error *err)
{
    taking *t = arg;
    return pqp_options_take(&t->options, t->names, name, value, err);
}

pqpool_code pqp_options_split(pqp_options *o, pqp_option_names *names, const char *conninfo, char **rest,
                              pqpool_error *err)
{
    taking t = {*o, names};
    pqpool_code code = pqp_conninfo_split(conninfo, "pool_", take_option, &t, rest, err);
    if (code == PQPOOL_OK)
        *o = t.options;
    return code;
}

pqpool_code pqp_options_parse(pqp_options *o, const char *text, pqpool_error *err)
{
    pqp_option_names names = {{0}};
    taking t = {*o, &names};
    char *rest;
    pqpool_code code = pqp_conninfo_split(text, "", take_option, &t, &rest, err);
    if (code != PQPOOL_OK)
        return code;
    if (rest[strspn(rest, " \t\n")])
        code = pqp_refuse(err, PQPOOL_EINVAL, "what is to be set must be written as option=value");
    pqp_conninfo_forget(rest);
    if (code == PQPOOL_OK)
        code = pqp_options_check(&t.options, err);
    if (code == PQPOOL_OK)
        *o = t.options;
    return code;
}
