/*
 * pqpool-ops: what operators want to know and do: events, figures, who holds what, health, control. Ordinary callers
 * don't need it.
 *
 * Conventions are those of pqpool.h. A struct that grows begins with its size: the caller fills it in (PQPOOL_STATS
 * ...), and gets the fields his size has room for. What the library allocates it also frees, by the function named
 * beside it.
 */
#ifndef PQPOOL_OPS_H
#define PQPOOL_OPS_H

#include <pqpool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- log ---- */

/*
 * Levels of on_log and of the option log_level. error: what the pool can't mend by itself; warn: leaks, long holds,
 * slow statements, failed connects and their end, health; info: connections made and closed, suspend and resume; debug: each
 * acquire, enqueue, dequeue and release.
 */
typedef enum {
    PQPOOL_LOG_OFF = 0,
    PQPOOL_LOG_ERROR,
    PQPOOL_LOG_WARN,
    PQPOOL_LOG_INFO,
    PQPOOL_LOG_DEBUG
} pqpool_log_level;

/* ---- events ---- */

typedef enum {
    PQPOOL_EVENT_CONNECT = 1, /* a new connection is up, in the pool, and goes to the longest waiter */
    PQPOOL_EVENT_ACQUIRE,     /* a lease began */
    PQPOOL_EVENT_ENQUEUE, /* a caller has to wait: no idle connection, and no connect under way covers it */
    PQPOOL_EVENT_DEQUEUE, /* an enqueued caller was served */
    PQPOOL_EVENT_RELEASE, /* a lease ended */
    PQPOOL_EVENT_CLOSE,   /* a connection left the pool; reason and text tell why */
    PQPOOL_EVENT_TIMEOUT, /* a waiting caller's deadline passed */
    PQPOOL_EVENT_CONNECT_FAILED, /* an attempt to connect failed; text holds the server's words. One that says the same
                                    as the last is told once a second at most */
    PQPOOL_EVENT_DISCARDED, /* this many events (count) were dropped for want of room */
    PQPOOL_EVENT_LEAK,   /* a lease is older than leak_threshold; text says who holds it and what he does */
    PQPOOL_EVENT_UNLEAK, /* one that was reported has come back after all */
    PQPOOL_EVENT_LONG_HOLD, /* a lease came back that had been idle in a transaction for idle_tx_threshold */
    PQPOOL_EVENT_SLOW_STATEMENT, /* a shared statement took slow_statement or more; text is its SQL */
    PQPOOL_EVENT_NESTED, /* a thread that holds a lease took another one; text names the place of the first */
    PQPOOL_EVENT_POOL_LOCK, /* every lease is held by a thread that waits for one more: only time ends it */
    PQPOOL_EVENT_HEALTH,    /* the check of every health_interval has found something; text says what */
    PQPOOL_EVENT_SUSPEND,   /* pqpool_suspend() */
    PQPOOL_EVENT_RESUME,    /* pqpool_resume() */
    PQPOOL_EVENT_LEFT, /* a lease came back with a transaction open, a statement running, settings changed ...;
                               text says what, and what was done; the place and the thread are its holder's */
    PQPOOL_EVENT_RESTORED,  /* a connect succeeded after some that failed; text tells for how long, and why */
    PQPOOL_EVENT_STALL,     /* a shared statement has run for 20 stall_threshold, a second at least, and others stand
                               behind it on its connection: once for each. text is its SQL and whose lock it waits for, if
                               the server could be asked over an idle connection; file, line and thread are the
                               holder's of that lock, if it is a lease of this pool */
} pqpool_event_id;
#define PQPOOL_EVENT_IDS 64 /* room for them, in an array by id; more may come */

/* Why a connection left the pool. pqpool_close_reason_name() gives a word, the event's text a sentence. */
typedef enum {
    PQPOOL_CLOSE_NONE = 0,
    PQPOOL_CLOSE_IDLE_TIMEOUT,  /* idle for idle_timeout */
    PQPOOL_CLOSE_MAX_LIFETIME,  /* as old as max_lifetime */
    PQPOOL_CLOSE_MAX_USES,      /* leased max_uses times */
    PQPOOL_CLOSE_MAX_IDLE,      /* more idle ones than max_idle */
    PQPOOL_CLOSE_MAX_SIZE,      /* more than max_size, which was lowered */
    PQPOOL_CLOSE_EVICTED,       /* pqpool_evict() */
    PQPOOL_CLOSE_POOL_CLOSED,   /* pqpool_close() */
    PQPOOL_CLOSE_DISCARDED,     /* pqpool_discard() */
    PQPOOL_CLOSE_LOST_IDLE,     /* the server or the network ended it while nobody used it */
    PQPOOL_CLOSE_LOST,          /* the same, in use */
    PQPOOL_CLOSE_PROBE_FAILED,  /* the server did not answer a probe */
    PQPOOL_CLOSE_LEFT_RUNNING,  /* its user left a statement running, an answer unread, or a COPY */
    PQPOOL_CLOSE_LEFT_PIPELINE, /* its user left a pipeline with statements in it, or unsent data */
    PQPOOL_CLOSE_LEFT_OPEN,     /* its user left a transaction open, and reset=none */
    PQPOOL_CLOSE_REPLACED,      /* its user reset it to another server process */
    PQPOOL_CLOSE_RESET_FAILED,  /* its session could not be cleaned */
    PQPOOL_CLOSE_ON_ACQUIRE,    /* the on_acquire hook refused it */
    PQPOOL_CLOSE_ON_RELEASE,    /* the on_release hook refused it */
    PQPOOL_CLOSE_CHANGED,       /* a statement on a shared connection changed its session */
    PQPOOL_CLOSE_UNSHAREABLE,   /* it could not be made a shared one */
    PQPOOL_CLOSE_FINISHED,      /* its user called PQfinish() on it */
    PQPOOL_CLOSE_FAILED,        /* libpq failed while it was leased: what it would read next is not known */
    PQPOOL_CLOSE_CUT, /* a statement on it that no caller wanted any more did not end, or had no end of an answer */
    PQPOOL_CLOSE_LARGE, /* it carried an answer larger than max_buffer */
    PQPOOL_CLOSE_ROLE, /* its server is not what target_session_attrs asks for any more, or became a standby */
} pqpool_close_reason;
#define PQPOOL_CLOSE_REASONS 32 /* room for them in pqpool_stats_data; more may come */

/* "idle_timeout", "lost" ...; static. "unknown" for a number that is none. */
const char *pqpool_close_reason_name(int reason);

/* An event. Valid only while on_event runs. Fields that do not apply are 0 or "". */
struct pqpool_event {
    size_t size;
    int32_t id;            /* pqpool_event_id */
    int32_t connection;    /* the pool's own number of the connection, from 1, never used twice; 0: none */
    int32_t backend_pid;   /* the server's process, as PQbackendPID */
    int32_t waiting;       /* callers waiting, after the event */
    int64_t wait_us;       /* ACQUIRE, DEQUEUE, TIMEOUT: how long the caller waited. RESTORED: since the first failure.
                              STALL: how long the statement has run */
    const char *pool_name; /* never NULL */
    const char *text;      /* never NULL */
    const char *file;      /* the caller's place in his source; NULL: not known */
    int32_t line;
    int32_t reason; /* CLOSE: pqpool_close_reason */
    int32_t thread; /* the system's number of the thread that holds the lease; 0: none */
    int32_t count;  /* DISCARDED: how many; CONNECT_FAILED: attempts since the last such event; RESTORED: failed ones;
                       STALL: statements that stand behind it */
    int64_t
        hold_us; /* RELEASE, LEAK, UNLEAK, LONG_HOLD: how long the lease was, or is, held. SLOW_STATEMENT: how
                           long it took */
    int64_t
        idle_tx_us; /* RELEASE, LONG_HOLD ...: how much of that the transaction was open and nothing ran, as far as it
                           was seen (pqpool_holder) */
};

/* "enqueue", "connect" ...; static. "unknown" for a number that is none. */
const char *pqpool_event_name(int id);

/* ---- figures ---- */

/*
 * A histogram of times, log-linear: four classes for each power of two of microseconds, so that a quantile is at most a
 * quarter too high. Two of them are merged by adding (pqpool_histogram_merge). Plain memory, no thread-safety of its own.
 */
#define PQPOOL_HISTOGRAM_CLASSES 148
typedef struct pqpool_histogram {
    int64_t count, sum_us, max_us;
    int64_t classes[PQPOOL_HISTOGRAM_CLASSES];
} pqpool_histogram;

void pqpool_histogram_merge(pqpool_histogram *into, const pqpool_histogram *from); /* both: caller's */
/* The time below which the share (0 to 1) of all lie, in microseconds, never more than the longest; 0 if there are none. */
int64_t pqpool_histogram_quantile(const pqpool_histogram *histogram, double share);
/* The upper bound of a class, in microseconds, inclusive; INT64_MAX for the last. */
int64_t pqpool_histogram_bound(int index);

/* What kind of error the server answered with, by the class of its SQLSTATE. */
typedef enum {
    PQPOOL_ERROR_OTHER = 0,
    PQPOOL_ERROR_CONNECTION,   /* 08 */
    PQPOOL_ERROR_DATA,         /* 22: a value is wrong */
    PQPOOL_ERROR_CONSTRAINT,   /* 23: a duplicate key, a missing parent ... */
    PQPOOL_ERROR_TRANSACTION,  /* 25, 2D, 3B: among them 25006, a server that takes no writes */
    PQPOOL_ERROR_ROLLBACK,     /* 40: serialization failures, deadlocks */
    PQPOOL_ERROR_SYNTAX,       /* 42 and others: a wrong text, an unknown name, no right to it */
    PQPOOL_ERROR_RESOURCES,    /* 53, 54: out of memory, disk, connections; a limit */
    PQPOOL_ERROR_STATE,        /* 55: among them 55P03, a lock that was not to be had */
    PQPOOL_ERROR_INTERVENTION, /* 57: among them 57014, canceled or timed out at the server */
    PQPOOL_ERROR_RAISED,       /* P0, 39: raised by a function */
    PQPOOL_ERROR_INTERNAL,     /* 58, XX */
} pqpool_error_class;
#define PQPOOL_ERROR_CLASSES 16 /* room for them in pqpool_stats_data; more may come */

/* "data", "constraint" ...; static. "unknown" for a number that is none. */
const char *pqpool_error_class_name(int error_class);

/*
 * The pool in figures, at one instant: the gauges are taken under one lock and always add up:
 * total = idle + leased + shared + connecting + resetting + probing + draining + closing <= limit (more than
 * limit only while a max_size that was just lowered waits for leases to end).
 */
typedef struct pqpool_stats_data {
    size_t size; /* in: sizeof of the caller's struct, by PQPOOL_STATS */
    int32_t limit, total, idle, leased, shared, connecting, resetting, probing, draining, closing;
    int32_t waiting;    /* callers waiting that no connect under way covers */
    int32_t statements; /* statements on shared connections, sent or not, unanswered */
    int64_t connects, connect_failures, closes;
    int64_t acquires, releases, timeouts, enqueues;
    int64_t shared_grown;   /* times the pressure opened one more shared connection */
    int64_t events_dropped; /* events the hook was too slow for */
    int32_t
        unsent; /* statements that wait for room on a shared connection, or for the first one; a group counts once */
    int32_t alone; /* connections that one slow or large statement has to itself; counted in shared */
    int32_t
        stalled; /* shared connections whose statement runs longer than stall_threshold: they take no more */
    int32_t promised;  /* tickets and callbacks that are out */
    int32_t in_use;    /* connections that somebody uses: leases, and shared ones with statements on them */
    int32_t suspended; /* 1: pqpool_suspend() is in force */
    int64_t leaks, unleaks, long_holds, nested, pool_locks, evictions, suspensions;
    int64_t longest_wait_us;                 /* of those who wait now */
    int64_t closed_by[PQPOOL_CLOSE_REASONS]; /* by pqpool_close_reason */
    pqpool_histogram wait;                   /* of each lease: from the call to the lease */
    pqpool_histogram use;                    /* of each lease that has ended: how long it was held */
    pqpool_histogram create;                 /* of each connect that succeeded: how long it took */
    /* Leases that came back with a transaction open, with a statement running, with settings changed that
     * the option reset does not undo. */
    int64_t left_open, left_running, left_changed;
    int64_t cancels,
        cancels_failed; /* statements that the server was asked to stop; requests it did not take */
    /*
     * Statements on shared connections, by how they ended for their callers; each member of a group counts. They are
     * read while others run: each is right, but they need not add up.
     */
    int64_t statements_done;                 /* the server answered, without an error */
    int64_t statements_failed;               /* the server answered with an error */
    int64_t failed_by[PQPOOL_ERROR_CLASSES]; /* these by pqpool_error_class */
    int64_t statements_timed_out;            /* ETIMEDOUT, be it before or after they were sent */
    int64_t statements_lost;                 /* ELOST */
    int64_t statements_canceled;             /* ECANCELED: undone with their group */
    int64_t statements_refused;  /* not placed: EQUEUEFULL, ENOWAIT, ECONNECT, ECLOSED, ENOMEM, or ETOOBIG */
    int64_t statements_unknown;  /* of all these, those whose outcome is UNKNOWN */
    int64_t statements_repeated; /* times the library sent one again, unseen */
    int64_t prepared_hits, prepared_misses; /* sent under a name that was there; parsed first */
    int64_t returned_rows, returned_bytes;  /* of the answers; bytes as they lie in memory */
    /* Of each that the server answered; as OpenTelemetry's db.client.operation.duration and
     * db.client.response.returned_rows. The last two are histograms of numbers, not of microseconds. */
    pqpool_histogram duration;    /* from the call to the answer */
    pqpool_histogram unsent_time; /* of that, until it was sent */
    pqpool_histogram rows, bytes;
} pqpool_stats_data;
#define PQPOOL_STATS .size = sizeof(pqpool_stats_data)

/* Fills *stats, at most stats->size bytes of it. Does not block. EINVAL for NULL or a size of 0.
 * Thread-safe. */
pqpool_code pqpool_stats(pqpool *pool, pqpool_stats_data *stats);

/* ---- who holds what ---- */

/* What a leased connection's user makes of it. */
typedef enum {
    PQPOOL_HOLDER_UNKNOWN = 0,         /* nothing tells */
    PQPOOL_HOLDER_RUNNING,             /* the server works for him */
    PQPOOL_HOLDER_LOCKED,              /* his statement waits for a lock */
    PQPOOL_HOLDER_IDLE,                /* nothing runs */
    PQPOOL_HOLDER_IDLE_IN_TRANSACTION, /* nothing runs, and a transaction is open */
} pqpool_holder_state;
const char *pqpool_holder_state_name(int state); /* "idle in transaction" ...; static */

/*
 * A lease that is out. Times that the pool has seen by itself cost its holder nothing: the answers he fetched (libpq's
 * event procedures), and for leases older than 100 ms now and then a look at the socket (TCP) or at the title of the
 * server's process (on the same machine). working_us + idle_us + idle_tx_us is what could be told apart of held_us.
 * sql, and LOCKED with blocked_by, are the server's word (pqpool_holders with ask_ms), until the next answer. Over TCP a
 * string of several statements counts as idle from its first answer on.
 */
#define PQPOOL_FRAMES 16
typedef struct pqpool_holder {
    size_t size;
    int32_t connection, backend_pid;
    const char *file; /* where it was acquired; NULL: not known */
    int32_t line;
    int32_t thread;       /* the system's number, as gdb and top show it */
    char thread_name[16]; /* as pthread_setname_np() set it; "" when the thread has ended */
    int32_t state;        /* pqpool_holder_state */
    int32_t leaked;       /* 1: reported as a leak */
    int64_t held_us;
    int64_t state_us; /* in this state at least that long */
    int64_t working_us, idle_us, idle_tx_us;
    int64_t answers;     /* results its holder has fetched */
    char last_answer[9]; /* the beginning of the last one's command tag: "INSERT"; "" if there was none */
    char sql[239];       /* what runs, or ran last, by the server's word; "" if it was not asked */
    int32_t blocked_by;  /* LOCKED: the backend that holds the lock; 0: not known */
    char text[480];      /* all of it in one line */
    int32_t n_frames;    /* with the option backtrace: the call stack that acquired it, innermost first */
    void *frames[PQPOOL_FRAMES];
} pqpool_holder;

/* The leases that are out, the longest held first; holders[n] is NULL. */
typedef struct pqpool_holder_list {
    size_t size;
    int32_t n;
    const pqpool_holder *const *holders;
} pqpool_holder_list;

/*
 * Lists the leases that are out. ask_ms > 0: also asks the server, over a connection that is idle if there is one, for so
 * long at most (but not less than 250 ms), what the holders run and who blocks them; for the 64 oldest. It blocks for that
 * time at most, else not at all. The list is the caller's to free. NULL: err says why. Thread-safe.
 */
pqpool_holder_list *pqpool_holders(pqpool *pool, int ask_ms, pqpool_error *err) PQPOOL_MUST_CHECK;
void pqpool_holders_free(pqpool_holder_list *list); /* NULL is allowed */

/* ---- everything at once ---- */

/* A connection, by the number that events, logs and messages give it. */
typedef struct pqpool_connection_info {
    size_t size;
    int32_t connection, backend_pid; /* 0: it is being made */
    const char *state;               /* "idle", "leased", "shared", "connecting" ...; static */
    int64_t state_us;                /* in this state for so long */
    int64_t age_us, uses;            /* since it was made; how often it was leased */
    int32_t alone;                   /* shared: one caller has it to himself */
    int32_t in_flight;               /* shared: statements on it, unanswered */
    int64_t head_us;                 /* shared: how long the one that runs has been running; 0: none */
    char sql[240];                   /* shared: its text, if its caller still waits for it */
    const pqpool_holder *holder;     /* leased: who has it; else NULL */
} pqpool_connection_info;

/* A caller who waits. */
typedef struct pqpool_waiter_info {
    size_t size;
    const char *wants; /* "lease", "shared connection", "connection for one statement"; static */
    int64_t waited_us;
    int64_t left_us;  /* until his deadline; -1: he has none */
    const char *file; /* NULL: not known */
    int32_t line;
    int32_t thread; /* 0: nobody blocks (tickets, callbacks) */
} pqpool_waiter_info;

typedef struct pqpool_option_info {
    size_t size;
    const char *name; /* static */
    char value[128];  /* in force, as pqpool_set() takes it */
    int32_t given;    /* 1: somebody has set it; 0: the default, or by the preset */
    int32_t changeable;
    const char *help; /* static */
} pqpool_option_info;

/* Arrays of pointers, each with a NULL at its end. */
typedef struct pqpool_inspection {
    size_t size;
    const char *pool_name;
    int32_t n_connections, n_waiters, n_options;
    const pqpool_connection_info *const *connections;
    const pqpool_waiter_info *const *waiters; /* in the order in which they came */
    const pqpool_option_info *const *options;
    pqpool_stats_data stats;
} pqpool_inspection;

/*
 * The whole pool at one instant: connections, waiters, options, figures. Takes the pool's lock for as long as copying
 * takes. The inspection is the caller's to free. NULL: err says why. Does not block otherwise. Thread-safe.
 */
pqpool_inspection *pqpool_inspect(pqpool *pool, pqpool_error *err) PQPOOL_MUST_CHECK;
void pqpool_inspection_free(pqpool_inspection *inspection); /* NULL is allowed */

/* ---- health ---- */

enum {                             /* what pqpool_health_data.findings is a sum of */
       PQPOOL_HEALTH_USED = 1,     /* more than health_used % of max_size in use */
       PQPOOL_HEALTH_WAITING = 2,  /* more than health_waiting callers wait */
       PQPOOL_HEALTH_OVERSIZE = 4, /* connections beyond min_idle were idle all the time */
       PQPOOL_HEALTH_SERVER = 8,   /* the last attempt to connect has failed */
};

typedef struct pqpool_health_data {
    size_t size; /* in: by PQPOOL_HEALTH */
    int32_t findings;
    int32_t total, in_use, idle, waiting, limit;
    int32_t utilisation;    /* in_use / limit, in % */
    int32_t idle_all_along; /* connections that were idle all the time since the last check */
    int32_t peak_leased;    /* leases at a time, at most, since the last check */
    int64_t since_us;       /* how long ago that was; the first time: since the pool was opened */
    char text[512];         /* a line for each finding; "" when there is none */
} pqpool_health_data;
#define PQPOOL_HEALTH .size = sizeof(pqpool_health_data)

/*
 * How the pool does, now. The pool checks by itself every health_interval, warns in the log and by an event, and begins a
 * new stretch for idle_all_along and peak_leased; this call does not. PQPOOL_OK whether there are findings or not.
 * EINVAL for NULL or a size of 0. Does not block. Thread-safe.
 */
pqpool_code pqpool_health(pqpool *pool, pqpool_health_data *health);

/* ---- control ---- */

/*
 * Lends nothing more and sends no statement more until pqpool_resume(): callers wait in their order, by wait, queue_limit
 * and their deadlines as ever. Leases that are out and statements in flight go on. To let the pool run dry: suspend, then
 * watch leased and statements in pqpool_stats(). Does not block. Idempotent. Thread-safe.
 */
pqpool_code pqpool_suspend(pqpool *pool);
pqpool_code pqpool_resume(pqpool *pool);

/*
 * Has all connections there are replaced: idle ones are closed now, leased ones when they come back, shared ones when
 * what is on them has ended, those being made as soon as they are up. For a changed password, role setting, address. Does
 * not block. Thread-safe.
 */
pqpool_code pqpool_evict(pqpool *pool);

/*
 * Sets several options at once, all or none: "max_size=40 min_idle=10", with or without pool_ before the names, quoted as
 * in a connection string. An option that is fixed once the pool is open may stand there with the value it has. EINVAL, and
 * nothing is changed, as pqpool_set(). Thread-safe.
 */
pqpool_code pqpool_reload(pqpool *pool, const char *options, pqpool_error *err);

#ifdef __cplusplus
}
#endif
#endif
