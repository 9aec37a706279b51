#include "connector.h"

#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>

#include "cancel.h"
#include "remains.h"

/* What a reset or a probe may take, and what a stuck connect has beyond its time-out to come back by
 * itself. */
#define RESET_TIME (5 * PQP_SECOND)
#define GRACE PQP_SECOND
#define ASKING_TIME (250 * PQP_MS)
/* What a request to cancel may take, and what the server then has to let go. */
#define CANCEL_TIME (2 * PQP_SECOND)
#define LETTING_GO_TIME PQP_SECOND

/* One thread's errand. Guarded by the pool's mutex. */
typedef struct pqp_job {
    pqpool *pool;
    pqp_slot *slot;
    pqp_slot_state state; /* of the slot: which errand */
    PGconn *conn;         /* the slot's, while the errand lasts */
    bool to_lane, fresh, rested, asked;
    bool running;  /* of CLOSING: the server is to be told to stop first */
    bool was_lane; /* ... and may have more in its hands */
    bool untold;   /* of CLOSING: its event is to be told */
    bool met;      /* on_connect has seen the connection */
    pqp_time
        deadline; /* of CONNECTING: when it must have come back, but for a resolver that hangs; 0: not begun */
    bool orphaned; /* the slot was taken back */
    pthread_t thread;
    struct pqp_job *next;
} pqp_job;

/* The errand of a leased slot that its last user cleans himself. */
static pqp_job here;

/* ---- the errands; each is called without locks and returns with the mutex held ---- */

static void log_failure(pqpool *p, const pqpool_error *why)
{
    pqp_log(&p->events, PQPOOL_LOG_WARN, "no connection: %s%s%s%s", why->message,
            *why->sqlstate ? " (SQLSTATE " : "", why->sqlstate, *why->sqlstate ? ")" : "");
}

/* Runs on_connect, but not for a pool that has been closed meanwhile: its hooks' memory may be gone. */
static pqpool_code set_up(pqp_job *job, PGconn *conn, pqpool_error *why)
{
    pqp_pool_lock(job->pool);
    job->met = !job->orphaned && !job->pool->closing;
    pqp_pool_unlock(job->pool);
    return job->met ? pqp_session_set_up(conn, &job->pool->events, why) : PQPOOL_OK;
}

/* No lock held. */
static void close_conn(pqpool *p, PGconn *conn, bool met)
{
    pqp_session_close(conn, met ? &p->events : NULL);
}

static void note_deadline(void *arg, pqp_time deadline)
{
    pqp_job *job = arg;
    pqp_pool_lock(job->pool);
    job->deadline = PQP_MAX(job->deadline, deadline);
    pqp_mutex_unlock(&job->pool->mu);
}

static pqpool_code dial(pqp_job *job, pqp_dial *to, PGconn **conn, pqpool_error *why)
{
    pqpool *p = job->pool;
    pqp_pool_lock(p);
    to->time = p->options.connect_timeout * PQP_MS;
    to->time_is_given = pqp_options_given(&p->options, "connect_timeout");
    job->deadline = pqp_now() + to->time;
    bool wanted = !p->closing;
    pqp_mutex_unlock(&p->mu);
    return wanted ? pqp_dial_connect(to, conn, why) : PQPOOL_ECLOSED;
}

static void connect_slot(pqp_job *job)
{
    pqpool *p = job->pool;
    pqpool_error why;
    PGconn *conn = NULL;
    pqp_dial to = {.target = &p->target,
                   .events = &p->events,
                   .memory = &p->dialled,
                   .until = note_deadline,
                   .arg = job};
    pqpool_code code = dial(job, &to, &conn, &why);
    if (code == PQPOOL_OK)
        code = set_up(job, conn, &why);
    pqp_known *own = NULL;
    int own_fd = code == PQPOOL_OK ? pqp_sockets_copy(PQsocket(conn), &own) : -1;
    if (code == PQPOOL_OK && own_fd < 0)
        code = pqp_refuse(&why, PQPOOL_ECONNECT, "no descriptor is left to watch the connection by: %s",
                          strerror(errno));
    if (code != PQPOOL_OK) {
        close_conn(p, conn, job->met);
        pqp_sockets_forget(to.known);
        to.known = NULL;
        conn = NULL;
    }
    if (conn)
        pqp_store(&p->reported, (int64_t)PQserverVersion(conn) << 16 | (PQclientEncoding(conn) + 1));
    int fd = conn ? PQsocket(conn) : -1, pid = conn ? PQbackendPID(conn) : 0;
    pqp_pool_lock(p);
    if (job->orphaned || p->closing) { /* nobody wants to know any more; the hooks may be gone */
        pqp_mutex_unlock(&p->mu);
        pqp_sockets_drop(own_fd, own);
        close_conn(p, conn, job->met);
        pqp_sockets_forget(to.known);
        pqp_pool_lock(p);
        if (!job->orphaned) {
            job->slot->job = NULL;
            pqp_slot_move(&p->slots, job->slot, PQP_SLOT_EMPTY, pqp_now());
        }
        return;
    }
    if (code == PQPOOL_OK) {
        job->slot->met = job->met;
        job->slot->attrs = to.attrs;
        job->slot->server = to.server;
        job->slot->known = to.known;
        job->slot->own = own;
        job->slot->own_fd = own_fd;
        pqp_outcome_connected_locked(p, job->slot, conn, fd, pid);
        return;
    }
    bool tell = p->failures == 0 || strcmp(p->last_failure.message, why.message) != 0;
    pqp_outcome_connect_failed_locked(p, job->slot, &why);
    if (tell) { /* once for each kind of trouble, not once for each attempt */
        pqp_pool_unlock(p);
        log_failure(p, &why);
        pqp_pool_lock(p);
    }
}

static bool ensure_lane(pqpool *p, pqp_slot *slot)
{
    if (slot->lane)
        return true;
    pqp_lane *lane = malloc(sizeof *lane);
    if (!lane)
        return false;
    pqp_lane_owner owner = {.stmts = &p->stmts,
                            .tell_keeper = pqp_fleet_kick,
                            .tell_room = pqp_pool_settle,
                            .waiting = &p->sharers_waiting,
                            .loop_fd = &p->delivery.looped,
                            .ddl = &p->plans.ddl,
                            .stall_time = &p->stall_time,
                            .max_result = &p->max_result,
                            .max_buffer = &p->max_buffer,
                            .owner = p};
    if (pqp_lane_init(lane, &pqp_transport_libpq, &owner) != 0)
        goto no_lane;
    if (pqp_wire_init(&lane->wire) != 0)
        goto no_wire;
    lane->tally = calloc(1, sizeof *lane->tally); /* without memory for it nothing is counted */
    pqp_pool_lock(p);
    slot->lane = lane;
    pqp_pool_unlock(p);
    return true;
no_wire:
    pqp_lane_fini(lane);
no_lane:
    free(lane);
    return false;
}

/* Before an idle connection is asked anything: an answer that is there already would be taken for the one to come. */
static pqpool_close_reason hear(PGconn *conn, char *words, size_t size)
{
    *words = '\0';
    return pqp_session_silent(conn) ? PQPOOL_CLOSE_NONE : pqp_session_hear(conn, words, size);
}

static void share_slot(pqp_job *job)
{
    pqpool *p = job->pool;
    pqp_time deadline = pqp_now() + RESET_TIME;
    pqp_session_terms session = {0};
    pqp_pool_lock(p);
    pqp_lane_terms terms = {.window = (int)p->options.pipeline_depth};
    int64_t timeout_ms = job->slot->told_timeout = p->options.statement_timeout;
    pqp_pool_unlock(p);
    pqp_activity_share(&job->slot->activity, true);
    pqpool_error why;
    pqp_refuse(&why, PQPOOL_ECONNECT, "the server did not answer in time");
    char words[200];
    if (job->rested && hear(job->conn, words, sizeof words) != PQPOOL_CLOSE_NONE) {
        pqp_pool_lock(p);
        pqp_outcome_unclean_locked(p, job->slot, true, &why);
        return;
    }
    bool clean = job->fresh || PQP_PLANTED(SKIPPED_CLEAN) ||
                 pqp_session_reset(job->conn, &p->events, PQP_RESET_DISCARD, 0, deadline, &why);
    const char *never = clean ? pqp_session_unshareable(job->conn) : NULL;
    if (never) {
        pqp_pool_lock(p);
        pqp_outcome_unshareable_locked(p, job->slot, never, true);
        return;
    }
    if (!clean || !pqp_session_agree(job->conn, timeout_ms, &session, deadline)) {
        bool lost =
            (!job->fresh || job->rested) && !pqp_session_lives(job->conn); /* else the server is no good */
        pqp_pool_lock(p);
        pqp_outcome_unclean_locked(p, job->slot, lost, &why);
        return;
    }
    const char *why_not =
        ensure_lane(p, job->slot) ? pqp_session_share(job->conn) : "out of memory or descriptors";
    if (!why_not) {
        pqp_time slow = pqp_load(&p->slow_lane_time);
        terms.round_trip = session.round_trip;
        pqp_fleet_note_round_trip(p, session.round_trip);
        terms.session_timeout_ms = session.statement_timeout_ms;
        terms.pooled = session.pooled;
        terms.cost_cap = slow < PQP_NEVER / 4 ? 4 * slow : PQP_NEVER;
        pqp_wire_bind(&job->slot->lane->wire, job->conn);
        job->slot->lane->wire.attrs = job->slot->attrs;
        pqp_lane_open(job->slot->lane, &terms);
    }
    pqp_pool_lock(p);
    if (why_not)
        pqp_outcome_unshareable_locked(p, job->slot, why_not, false);
    else
        pqp_outcome_shared_locked(p, job->slot);
}

static void clean_slot(pqp_job *job)
{
    pqpool *p = job->pool;
    pqp_activity_share(&job->slot->activity, false);
    pqp_session_quiet(job->conn);
    pqpool_error why;
    pqp_refuse(&why, PQPOOL_ECONNECT, "libpq could not leave pipeline mode");
    bool clean = pqp_session_unshare(job->conn) &&
                 pqp_session_reset(job->conn, &p->events, PQP_RESET_DISCARD, 0, pqp_now() + RESET_TIME, &why);
    pqp_pool_lock(p);
    job->slot->fresh = clean;
    if (clean)
        pqp_outcome_cleaned_locked(p, job->slot);
    else
        pqp_fleet_scrap_for_locked(p, job->slot, PQPOOL_CLOSE_RESET_FAILED, why.message);
}

enum { SURVEYED_AT_ONCE = 64 };

/* Taken in by who asked over it, with the mutex held: what a connection that was idle has answered. */
static void probed_locked(pqpool *p, pqp_slot *slot, pqpool_close_reason flaw, const char *words)
{
    bool answers = flaw == PQPOOL_CLOSE_NONE;
    slot->probed = answers ? pqp_now() : slot->probed;
    if (answers)
        pqp_outcome_cleaned_locked(p, slot);
    else
        pqp_fleet_scrap_for_locked(p, slot, flaw, words && *words ? words : NULL);
}

/* A probe that also asks for the leases: those that are to be told of as leaks, or all. Called without locks, returns with
 * the mutex held. */
static void survey(pqpool *p, pqp_slot *slot, PGconn *conn, bool all, pqp_time deadline)
{
    pqp_survey rows[SURVEYED_AT_ONCE];
    char words[200];
    pqpool_close_reason flaw = hear(conn, words, sizeof words);
    pqp_pool_lock(p);
    int n = pqp_watch_list_locked(p, all, rows, SURVEYED_AT_ONCE);
    pqp_mutex_unlock(&p->mu);
    pqp_time began = pqp_now();
    if (flaw == PQPOOL_CLOSE_NONE &&
        !(n > 0 ? pqp_session_survey(conn, rows, n, deadline) : pqp_session_ping(conn, deadline)))
        flaw = PQPOOL_CLOSE_PROBE_FAILED;
    bool answers = flaw == PQPOOL_CLOSE_NONE;
    if (answers && n == 0)
        pqp_fleet_note_round_trip(p, pqp_now() - began);
    bool notified = answers && !pqp_load(&p->keeps_state) && pqp_session_notified(conn);
    pqp_pool_lock(p);
    if (notified)
        pqp_remains_tell_notified_locked(p, slot);
    pqp_watch_heard_locked(p, rows, n);
    probed_locked(p, slot, flaw, words);
}

static void probe_slot(pqp_job *job)
{
    pqpool *p = job->pool;
    pqp_time deadline = pqp_now() + RESET_TIME;
    if (!job->asked) {
        survey(p, job->slot, job->conn, false, deadline);
        return;
    }
    bool answers = pqp_session_drain(job->conn, deadline) && PQsetnonblocking(job->conn, 0) == 0;
    pqp_pool_lock(p);
    probed_locked(p, job->slot, answers ? PQPOOL_CLOSE_NONE : PQPOOL_CLOSE_PROBE_FAILED, NULL);
}

static void count_cancel_locked(pqpool *p, bool taken)
{
    p->cancels++;
    p->cancels_failed += !taken;
}

/*
 * What its user, or its callers, have left running. A lane's socket is shut first: what waits behind the statement that runs
 * is not to be begun, and ends when the server finds that nothing reads its answers. Else the answers are waited for, so
 * that the server has let go before another connection takes this one's place.
 */
static void stop_running(pqp_job *job)
{
    pqpool *p = job->pool;
    PGcancel *own = job->was_lane ? NULL : PQgetCancel(job->conn);
    PGcancel *cancel = job->was_lane ? job->slot->lane->wire.cancel : own;
    bool pipelined = job->was_lane || PQpipelineStatus(job->conn) != PQ_PIPELINE_OFF;
    if (pipelined)
        (void)shutdown(PQsocket(job->conn), SHUT_RDWR);
    bool taken = pqp_cancel_request(cancel, pqp_now() + CANCEL_TIME);
    PQfreeCancel(own);
    bool ended = taken && (pipelined || pqp_session_drain(job->conn, pqp_now() + LETTING_GO_TIME));
    pqp_pool_lock(p);
    count_cancel_locked(p, taken);
    bool closing = p->closing;
    pqp_mutex_unlock(&p->mu);
    if (!ended && !closing)
        pqp_log(&p->events, PQPOOL_LOG_WARN,
                "connection %d (pid %d) is closed, but the server may still run what was left on it: %s",
                (int)job->slot->id, (int)job->slot->backend_pid,
                taken ? "it was told to stop, and has not yet" : "it did not take the request to cancel");
}

/* A lane that lives: its only statement is given up, and nothing is sent meanwhile. */
static void cancel_head(pqp_job *job)
{
    pqpool *p = job->pool;
    pqp_lane *lane = job->slot->lane;
    bool taken = pqp_cancel_request(lane->wire.cancel, pqp_now() + CANCEL_TIME);
    pqp_lane_end_cancel(lane);
    pqp_pool_lock(p);
    count_cancel_locked(p, taken);
    job->slot->cancel = PQP_CANCEL_NONE;
    p->kick = true;
}

static void tell_lost(pqp_job *job)
{
    pqpool *p = job->pool;
    char words[300], text[PQP_EVENT_TEXT];
    pqp_session_last_words(job->conn, words, sizeof words);
    snprintf(text, sizeof text, "%s%s%s", pqp_close_text(PQPOOL_CLOSE_LOST_IDLE), *words ? ": " : "", words);
    pqp_pool_lock(p);
    PQP_TELL(p, PQPOOL_EVENT_CLOSE, job->slot, text, .reason = PQPOOL_CLOSE_LOST_IDLE);
    pqp_pool_unlock(p);
}

static void close_slot(pqp_job *job)
{
    if (job->running && job->conn)
        stop_running(job);
    if (job->untold)
        tell_lost(job);
    pqp_slot_unwatch(job->slot, job->pool->epoll_fd);
    close_conn(job->pool, job->conn, job->met);
    pqp_sockets_forget(job->slot->known);
    job->slot->known = NULL;
    pqp_pool_lock(job->pool);
    pqp_outcome_emptied_locked(job->pool, job->slot);
}

/* Of no slot: events wait for a thread that has time for them. */
static void tell_events(pqp_job *job)
{
    pqpool *p = job->pool;
    pqp_events_hand_out_all(&p->events);
    pqp_pool_lock(p);
    p->telling = false;
    p->kick = true; /* more may have come meanwhile */
}

static void *run(void *arg)
{
    pqp_job *job = arg;
    pqpool *p = job->pool;
    pthread_setname_np(pthread_self(), "pqpool-conn");
    pqp_session_stop_here(&p->closed);
    switch (job->state) {
    case PQP_SLOT_CONNECTING:
        connect_slot(job);
        break;
    case PQP_SLOT_RESETTING:
        (job->to_lane ? share_slot : clean_slot)(job);
        break;
    case PQP_SLOT_PROBING:
        probe_slot(job);
        break;
    case PQP_SLOT_LANE:
        cancel_head(job);
        break;
    case PQP_SLOT_EMPTY:
        tell_events(job);
        break;
    default:
        close_slot(job);
        break;
    }
    job->next = p->ended; /* the thread is joined by the keeper, or by pqpool_free() */
    p->ended = job;
    pqp_cond_broadcast(&p->changed);
    pqp_pool_unlock(p);
    return NULL;
}

/* Those that are at their end may still be in a hook: the keeper does not wait for that. */
static void join_ended(pqpool *p, bool wait)
{
    pqp_job *still = NULL;
    int joined = 0;
    pqp_mutex_lock(&p->mu);
    pqp_job *ended = p->ended;
    p->ended = NULL;
    pqp_mutex_unlock(&p->mu);
    for (pqp_job *job = ended, *next; job; job = next) {
        next = job->next;
        if ((wait ? pthread_join(job->thread, NULL) : pthread_tryjoin_np(job->thread, NULL)) == 0) {
            free(job);
            joined++;
            continue;
        }
        job->next = still;
        still = job;
    }
    pqp_mutex_lock(&p->mu);
    p->errands -= joined;
    for (pqp_job *job = still, *next; job; job = next) {
        next = job->next;
        job->next = p->ended;
        p->ended = job;
    }
    pqp_mutex_unlock(&p->mu);
}

bool pqp_connector_join(pqpool *p, pqp_time deadline)
{
    for (;;) {
        join_ended(p, true);
        pqp_mutex_lock(&p->mu);
        bool late = pqp_now() >= deadline, done = p->errands == 0;
        if (!done && !late && !p->ended)
            pqp_cond_wait(&p->changed, &p->mu, deadline);
        pqp_mutex_unlock(&p->mu);
        if (done || late)
            return done;
    }
}

/* ---- starting them ---- */

static const pqp_slot_state with_errands[] = {PQP_SLOT_CONNECTING, PQP_SLOT_RESETTING, PQP_SLOT_PROBING,
                                              PQP_SLOT_CLOSING};

/* One more errand; slot NULL: of the pool. False: no memory. */
static bool add_job_locked(pqpool *p, pqp_slot *s, pqp_slot_state state, pqp_job **jobs)
{
    pqp_job *job = calloc(1, sizeof *job);
    if (!job)
        return false;
    *job = (pqp_job){.pool = p, .slot = s, .state = state, .next = *jobs};
    if (s) {
        job->conn = s->conn;
        job->to_lane = s->to_lane;
        job->fresh = s->fresh;
        job->asked = s->asked;
        job->rested = s->rested;
        job->met = s->met;
        job->running = s->running;
        job->was_lane = s->was_lane;
        job->untold = s->untold;
    }
    *jobs = job;
    p->errands++;
    return true;
}

/* Lanes of which a statement is to be canceled. */
static bool add_cancels_locked(pqpool *p, pqp_job **jobs)
{
    for (pqp_slot *s = NULL; (s = pqp_fleet_next_lane_locked(p, s));) {
        if (s->cancel != PQP_CANCEL_WANTED)
            continue;
        if (!add_job_locked(p, s, PQP_SLOT_LANE, jobs))
            return false;
        s->cancel = PQP_CANCEL_UNDERWAY;
    }
    return true;
}

static pqp_job *prepare_locked(pqpool *p, bool *short_of)
{
    pqp_job *jobs = NULL;
    for (size_t i = 0; i < PQP_COUNT_OF(with_errands); i++)
        for (pqp_slot *s = p->slots.in [with_errands[i]].head; s; s = s->link.next) {
            if (s->job)
                continue;
            *short_of = !add_job_locked(p, s, s->state, &jobs);
            if (*short_of)
                return jobs;
            s->job = jobs;
        }
    *short_of = !add_cancels_locked(p, &jobs);
    if (!*short_of && pqp_events_wait(&p->events) && !p->telling)
        *short_of = !(p->telling = add_job_locked(p, NULL, PQP_SLOT_EMPTY, &jobs));
    return jobs;
}

static void take_back(pqp_job *job)
{
    pqpool *p = job->pool;
    pqp_pool_lock(p);
    if (job->state == PQP_SLOT_LANE)
        job->slot->cancel = PQP_CANCEL_WANTED;
    else if (job->slot)
        job->slot->job = NULL;
    else
        p->telling = false;
    p->errands--;
    pqp_mutex_unlock(&p->mu); /* not by the usual way: that would order the same again at once */
    free(job);
}

bool pqp_connector_start(pqpool *p)
{
    bool short_of = false;
    join_ended(p, false);
    pqp_pool_lock(p);
    pqp_job *jobs = prepare_locked(p, &short_of);
    pqp_mutex_unlock(&p->mu);
    for (pqp_job *job = jobs, *next; job; job = next) {
        next = job->next; /* the thread puts the job on another list */
        if (pthread_create(&job->thread, NULL, run, job) != 0) {
            take_back(job);
            short_of = true;
        }
    }
    return !short_of;
}

void pqp_connector_give_up_stuck_locked(pqpool *p, pqp_time now)
{
    for (pqp_slot *s = p->slots.in[PQP_SLOT_CONNECTING].head, *next; s; s = next) {
        next = s->link.next;
        if (!s->job)
            continue;
        pqp_time end = PQP_MAX(s->job->deadline, s->since + p->options.connect_timeout * PQP_MS) + GRACE;
        if (now < end) {
            pqp_fleet_due_locked(p, end);
            continue;
        }
        pqpool_error why;
        pqp_refuse(&why, PQPOOL_ECONNECT,
                   "no connection within connect_timeout: a resolver, the server or the on_connect hook "
                   "holds it up");
        s->job->orphaned = true;
        pqp_outcome_connect_failed_locked(p, s, &why);
    }
}

void pqp_connector_reset_here(pqpool *p, pqp_slot *slot, pqp_reset_level level, unsigned undo)
{
    pqp_pool_lock(p);
    slot->job = &here;
    slot->to_lane = false;
    pqp_slot_move(&p->slots, slot, PQP_SLOT_RESETTING, pqp_now());
    PGconn *conn = slot->conn;
    pqp_pool_unlock(p);
    pqpool_error why;
    bool clean = pqp_session_reset(conn, &p->events, level, undo, pqp_now() + RESET_TIME, &why);
    pqp_pool_lock(p);
    slot->fresh = clean && level >= PQP_RESET_CLEAN;
    if (clean)
        pqp_outcome_cleaned_locked(p, slot);
    else
        pqp_fleet_scrap_for_locked(p, slot, PQPOOL_CLOSE_RESET_FAILED, why.message);
    pqp_pool_unlock(p);
}

void pqp_connector_survey_here(pqpool *p, pqp_time deadline)
{
    pqp_pool_lock(p);
    pqp_slot *slot = p->slots.in[PQP_SLOT_IDLE].tail;
    pqp_time least =
        pqp_now() + ASKING_TIME; /* in less a server that is well need not answer, and would be given up */
    if (slot && !p->closing) {
        pqp_fleet_probe_locked(p, slot, pqp_now());
        slot->job = &here;
        pqp_mutex_unlock(&p->mu); /* nobody is served by this */
        survey(p, slot, slot->conn, true, PQP_MAX(deadline, least));
    }
    pqp_pool_unlock(p);
}
