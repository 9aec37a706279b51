#include "event.h"

#include "clock.h"
#include "text.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

const char *pqp_site_text(const pqp_site *site, char text[PQP_SITE_TEXT])
{
    enum { PATH = PQP_SITE_TEXT - 12 };
    size_t length = site->file ? strlen(site->file) : 0;
    if (site->file)
        snprintf(text, PQP_SITE_TEXT, "%s:%d", site->file + (length > PATH ? length - PATH : 0),
                 (int)site->line);
    else
        snprintf(text, PQP_SITE_TEXT, "place not known");
    return text;
}

/*      event, its name, from which log level on it is a line in the log */
#define EVENTS(X)                                                                                            \
    X(CONNECT, "connect", INFO)                                                                              \
    X(ACQUIRE, "acquire", DEBUG)                                                                             \
    X(ENQUEUE, "enqueue", DEBUG)                                                                             \
    X(DEQUEUE, "dequeue", DEBUG)                                                                             \
    X(RELEASE, "release", DEBUG)                                                                             \
    X(CLOSE, "close", INFO)                                                                                  \
    X(TIMEOUT, "timeout", DEBUG)                                                                             \
    X(CONNECT_FAILED, "connect_failed", DEBUG)                                                               \
    X(DISCARDED, "discarded", WARN)                                                                          \
    X(LEAK, "leak", WARN)                                                                                    \
    X(UNLEAK, "unleak", WARN)                                                                                \
    X(LONG_HOLD, "long_hold", WARN)                                                                          \
    X(SLOW_STATEMENT, "slow_statement", WARN)                                                                \
    X(NESTED, "nested", INFO)                                                                                \
    X(POOL_LOCK, "pool_lock", WARN)                                                                          \
    X(HEALTH, "health", WARN)                                                                                \
    X(SUSPEND, "suspend", INFO)                                                                              \
    X(RESUME, "resume", INFO)                                                                                \
    X(LEFT, "left", WARN)                                                                                    \
    X(RESTORED, "restored", WARN)                                                                            \
    X(STALL, "stall", WARN)

static const struct {
    const char *name;
    pqpool_log_level level;
} kinds[] = {
#define ROW(id, name, level) [PQPOOL_EVENT_##id] = {name, PQPOOL_LOG_##level},
    EVENTS(ROW)
#undef ROW
};

const char *pqpool_event_name(int id)
{
    return id > 0 && id < (int)PQP_COUNT_OF(kinds) ? kinds[id].name : "unknown";
}

/*      reason, its word, its sentence */
#define CLOSE_REASONS(X)                                                                                     \
    X(NONE, "none", "")                                                                                      \
    X(IDLE_TIMEOUT, "idle_timeout", "it was idle for idle_timeout")                                          \
    X(MAX_LIFETIME, "max_lifetime", "it had reached max_lifetime")                                           \
    X(MAX_USES, "max_uses", "it had reached max_uses")                                                       \
    X(MAX_IDLE, "max_idle", "more idle connections than max_idle allows")                                    \
    X(MAX_SIZE, "max_size", "more connections than max_size allows")                                         \
    X(EVICTED, "evicted", "it was evicted")                                                                  \
    X(POOL_CLOSED, "pool_closed", "the pool was closed")                                                     \
    X(DISCARDED, "discarded", "its user discarded it")                                                       \
    X(LOST_IDLE, "lost_idle", "the server ended it while it was idle")                                       \
    X(LOST, "lost", "the connection was lost")                                                               \
    X(PROBE_FAILED, "probe_failed", "the server did not answer a probe")                                     \
    X(LEFT_RUNNING, "left_running", "its user left a statement running, or its answer unread")               \
    X(LEFT_PIPELINE, "left_pipeline", "its user left a pipeline with statements in it, or unsent data")      \
    X(LEFT_OPEN, "left_open", "its user left a transaction open, and reset=none")                            \
    X(REPLACED, "replaced", "its user reset it to another server process")                                   \
    X(RESET_FAILED, "reset_failed", "its session could not be cleaned")                                      \
    X(ON_ACQUIRE, "on_acquire", "the on_acquire hook refused it")                                            \
    X(ON_RELEASE, "on_release", "the on_release hook refused it")                                            \
    X(CHANGED, "changed", "its session was changed")                                                         \
    X(UNSHAREABLE, "unshareable", "it could not be shared")                                                  \
    X(FINISHED, "finished", "its user called PQfinish on it, which is for the pool to do")                   \
    X(FAILED, "failed", "libpq failed while it was leased, and what it would read next is not known")        \
    X(CUT, "cut", "what ran on it was given up, and did not end")                                            \
    X(LARGE, "large", "it carried an answer larger than max_buffer")                                         \
    X(ROLE, "role", "its server is not what target_session_attrs asks for, or takes no writes")

static const struct {
    const char *word, *sentence;
} close_reasons[] = {
#define ROW(reason, word, sentence) [PQPOOL_CLOSE_##reason] = {word, sentence},
    CLOSE_REASONS(ROW)
#undef ROW
};
_Static_assert(PQP_COUNT_OF(close_reasons) <= PQPOOL_CLOSE_REASONS, "each is counted");

const char *pqpool_close_reason_name(int reason)
{
    return reason >= 0 && reason < (int)PQP_COUNT_OF(close_reasons) ? close_reasons[reason].word : "unknown";
}

const char *pqp_close_text(pqpool_close_reason reason)
{
    return close_reasons[reason].sentence;
}

static pqp_event_note *new_ring(void)
{
    return calloc(PQP_EVENT_RING, sizeof(pqp_event_note));
}

int pqp_events_init(pqp_events *ev, const pqpool_hooks *hooks, const char *pool_name)
{
    memset(ev, 0, sizeof *ev);
    if (hooks)
        memcpy(&ev->hooks, hooks, PQP_MIN(hooks->size, sizeof ev->hooks));
    ev->pool_name = pool_name;
    if (ev->hooks.on_event && !(ev->ring = new_ring()))
        return ENOMEM;
    int rc = pqp_mutex_init(&ev->mu, PQP_RANK_EVENT);
    if (rc != 0)
        free(ev->ring);
    return rc;
}

void pqp_events_fini(pqp_events *ev)
{
    pqp_mutex_destroy(&ev->mu);
    free(ev->ring);
}

static void append(pqp_events *ev, const pqpool_event *what, const char *text)
{
    pqp_event_note *note = &ev->ring[(ev->first + ev->count++) % PQP_EVENT_RING];
    note->event = *what;
    note->event.size = sizeof note->event;
    note->event.pool_name = ev->pool_name;
    pqp_text_copy(note->text, sizeof note->text, text ? text : "");
}

bool pqp_event_wanted(pqp_events *ev, int id)
{
    return ev->hooks.on_event || (int)kinds[id].level <= pqp_peek(&ev->level);
}

static void note_down(pqp_events *ev, const pqpool_event *what, const char *text)
{
    pqp_mutex_lock(&ev->mu);
    if (!ev->ring) /* without a hook there may never be anything to tell */
        ev->ring = new_ring();
    if (ev->ring && ev->count < PQP_EVENT_RING - 1) {
        append(ev, what, text);
    } else {
        ev->dropped++;
        ev->dropped_untold++;
    }
    pqp_store(&ev->noted, 1);
    pqp_mutex_unlock(&ev->mu);
}

void pqp_event_note_down(pqp_events *ev, const pqpool_event *what, const char *text)
{
    if (pqp_event_wanted(ev, what->id))
        note_down(ev, what, text);
}

/* Takes the next event to tell; the count of lost ones comes when there is room again, behind the last
 * kept. */
static bool take(pqp_events *ev, pqp_event_note *note)
{
    if (ev->ring && ev->count == 0 && ev->dropped_untold > 0) {
        append(ev, &(pqpool_event){.id = PQPOOL_EVENT_DISCARDED, .count = ev->dropped_untold}, "");
        ev->dropped_untold = 0;
    }
    if (ev->count == 0)
        return false;
    *note = ev->ring[ev->first];
    note->event.text = note->text;
    ev->first = (ev->first + 1) % PQP_EVENT_RING;
    ev->count--;
    return true;
}

/* An event as a line for people. */
static void describe(const pqpool_event *e, char *line, size_t size)
{
    char site[PQP_SITE_TEXT];
    int at = snprintf(line, size, "%s:", pqpool_event_name(e->id));
#define ADD(...) (at += at < (int)size ? snprintf(line + at, size - (size_t)at, __VA_ARGS__) : 0)
    if (e->connection)
        ADD(" connection %d (pid %d),", (int)e->connection, (int)e->backend_pid);
    if (e->file)
        ADD(" %s,", pqp_site_text(&(pqp_site){e->file, e->line, 0}, site));
    if (e->thread)
        ADD(" thread %d,", (int)e->thread);
    if (e->wait_us)
        ADD(" waited " PQP_TENTHS " ms,", PQP_TENTHS_OF(e->wait_us, PQP_MS_IN_US));
    if (e->hold_us)
        ADD(" %s " PQP_TENTHS " ms,", e->id == PQPOOL_EVENT_SLOW_STATEMENT ? "took" : "held",
            PQP_TENTHS_OF(e->hold_us, PQP_MS_IN_US));
    if (e->idle_tx_us)
        ADD(" " PQP_TENTHS " ms of it idle in transaction,", PQP_TENTHS_OF(e->idle_tx_us, PQP_MS_IN_US));
    if (e->count)
        ADD(" %d,", (int)e->count);
    if (e->waiting)
        ADD(" %d wait,", (int)e->waiting);
#undef ADD
    at = PQP_MIN(at, (int)size - 1) - 1; /* at the last comma, or the first colon */
    snprintf(line + at, size - (size_t)at, "%s%s", *e->text ? ": " : "", e->text);
}

static void write_line(pqp_events *ev, int level, char *line);

static void hand_out(pqp_events *ev, const pqpool_event *event)
{
    char line[PQP_EVENT_TEXT + 400];
    if (event->id == 0) {
        snprintf(line, sizeof line, "%s", event->text);
        write_line(ev, event->count, line);
        return;
    }
    if (ev->hooks.on_event)
        ev->hooks.on_event(event, ev->hooks.arg);
    if ((int)kinds[event->id].level > pqp_peek(&ev->level))
        return;
    describe(event, line, sizeof line);
    pqp_log(ev, kinds[event->id].level, "%s", line);
}

/* How much a thread hands out that has come for something else. A hook may be slow, and under load there is always more. */
enum { HAND_OUT_MOST = 32 };
#define HAND_OUT_TIME (5 * PQP_MS)

static PQP_THREAD_LOCAL bool defers;

void pqp_events_defer_here(void)
{
    defers = true;
}

bool pqp_events_wait(pqp_events *ev)
{
    return pqp_load(&ev->noted) && !pqp_load(&ev->handing_out);
}

/* Up to so many, and until then. True: there are more, and it is for another thread to go on. */
static bool hand_out_some(pqp_events *ev, int most, pqp_time until)
{
    pqp_event_note note;
    bool more = false;
    pqp_mutex_lock(&ev->mu);
    if (pqp_load(&ev->handing_out)) {
        pqp_mutex_unlock(&ev->mu);
        return false;
    }
    pqp_store(&ev->handing_out, 1);
    for (int n = 0; !more && take(ev, &note); n++) {
        pqp_mutex_unlock(&ev->mu);
        hand_out(ev, &note.event);
        bool enough = n + 1 >= most || pqp_now() >= until;
        pqp_mutex_lock(&ev->mu);
        more = enough && ev->count > 0;
    }
    if (!more)
        pqp_store(&ev->noted, 0);
    pqp_store(&ev->handing_out, 0);
    pqp_mutex_unlock(&ev->mu);
    return more;
}

void pqp_events_hand_out(pqp_events *ev)
{
    if (!pqp_load(&ev->noted))
        return;
    bool more = defers ? pqp_events_wait(ev) : hand_out_some(ev, HAND_OUT_MOST, pqp_now() + HAND_OUT_TIME);
    if (more && ev->tell_keeper)
        ev->tell_keeper(ev->owner);
}

void pqp_events_hand_out_all(pqp_events *ev)
{
    (void)hand_out_some(ev, INT_MAX, PQP_NEVER);
}

int64_t pqp_events_dropped(pqp_events *ev)
{
    pqp_mutex_lock(&ev->mu);
    int64_t dropped = ev->dropped;
    pqp_mutex_unlock(&ev->mu);
    return dropped;
}

void pqp_log(pqp_events *ev, pqpool_log_level level, const char *fmt, ...)
{
    if ((int)level > pqp_peek(&ev->level))
        return;
    char line[PQP_EVENT_TEXT + 400];
    va_list args;
    va_start(args, fmt);
    pqp_text_print(line, sizeof line, fmt, args);
    va_end(args);
    if (defers)
        note_down(ev, &(pqpool_event){.count = (int32_t)level}, line);
    else
        write_line(ev, (int)level, line);
}

/* To the hook or to stderr, either of which may take its time. */
static void write_line(pqp_events *ev, int level, char *text)
{
    static const char *const names[] = {"off", "error", "warn", "info", "debug"};
    char line[PQP_EVENT_TEXT + 700];
    for (char *c = text; *c; c++) /* SQL in it must not look like lines of its own */
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = ' ';
    if (ev->hooks.on_log) {
        ev->hooks.on_log(level, text, ev->hooks.arg);
        return;
    }
    int length = snprintf(line, sizeof line, "pqpool[%s] %s: %s\n", ev->pool_name, names[level], text);
    (void)!write(
        STDERR_FILENO, line,
        PQP_MIN((size_t)length, sizeof line - 1)); /* one call, so that lines of several threads stay whole */
}
