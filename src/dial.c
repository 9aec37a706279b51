#include "dial.h"

#include <poll.h>
#include <stdio.h>

#include "refusal.h"

enum { HOOK_BUFFER = 16 * 1024 };

/* pqp_dialled.naming */
enum { NOT_KNOWN, BY_ROLE, BY_NOBODY };

/* ---- what is asked for ---- */

/* The arguments of one connect: the target, then what the hooks say; later ones win. */
typedef struct walk {
    pqp_dial *dial;
    pqp_pairs pairs;
    PQconninfoOption *fresh; /* from on_conninfo */
    char *secret;            /* from on_password */
    pqp_balance balance;
    bool name_sent; /* the pool's, as application_name */
    PQconninfoOption *settings;
    pqp_hosts hosts;

    pqp_time deadline; /* of the whole; where each address has its own time: not used */
    pqp_time each;     /* that time; 0: a share of the whole */
    int left;          /* addresses still to come, as far as they are known */
    bool spoke;        /* of the host at hand: one of its addresses has answered */
    bool silent;       /* ... one has not */
    pqpool_error *err; /* what has been said so far, by all */
    bool final;        /* ... and it is final */
} walk;

void pqp_dialled_forget(pqp_dialled *d)
{
    pqp_store(&d->naming, NOT_KNOWN);
}

static void walk_fini(walk *w)
{
    if (w->secret)
        explicit_bzero(w->secret, HOOK_BUFFER);
    free(w->secret);
    pqp_settings_free(w->fresh);
    pqp_settings_free(w->settings);
    pqp_pairs_fini(&w->pairs);
    pqp_hosts_fini(&w->hosts);
}

static pqpool_code add_pair(walk *w, const char *keyword, const char *value)
{
    return pqp_pairs_add(&w->pairs, keyword, value) ? PQPOOL_OK : pqp_no_memory(w->err);
}

static pqpool_code ask_conninfo(walk *w, const pqpool_hooks *hooks)
{
    char *buf = calloc(1, HOOK_BUFFER);
    if (!buf)
        return pqp_no_memory(w->err);
    pqpool_code code = PQPOOL_OK;
    pqpool_error why;
    if (hooks->on_conninfo(buf, HOOK_BUFFER, hooks->arg) != 0)
        code = pqp_refuse(w->err, PQPOOL_ECONNECT, "the on_conninfo hook failed");
    else if (!(w->fresh = pqp_target_parse(buf, &w->balance, &why))) {
        code =
            pqp_refuse(w->err, PQPOOL_ECONNECT, "the on_conninfo hook's text is not valid: %s", why.message);
        pqp_refusal_mark(w->err, true);
    }
    explicit_bzero(buf, HOOK_BUFFER);
    free(buf);
    for (const PQconninfoOption *o = w->fresh; code == PQPOOL_OK && o && o->keyword; o++)
        if (o->val)
            code = add_pair(w, o->keyword, o->val);
    return code;
}

static pqpool_code ask_password(walk *w, const pqpool_hooks *hooks)
{
    w->secret = calloc(1, HOOK_BUFFER);
    if (!w->secret)
        return pqp_no_memory(w->err);
    if (hooks->on_password(w->secret, HOOK_BUFFER, hooks->arg) != 0)
        return pqp_refuse(w->err, PQPOOL_ECONNECT, "the on_password hook failed");
    return add_pair(w, "password", w->secret);
}

/* The pool's name is for a session that has none: not by the connection string, nor the environment, nor ALTER ROLE. Of the last
 * only a session tells, and only one that came without any name; what it has told holds for the next ones. */
static bool is_unnamed(const walk *w)
{
    return !pqp_settings_value(w->settings, "application_name") &&
           !pqp_settings_value(w->settings, "fallback_application_name");
}

/* What the pool would have where nothing is said, be it in a service file. Both kinds of the first four are needed: keepalives
 * notice a cut link while we only listen, the user time-out one that was cut with data under way. libpq's own defaults notice
 * neither for minutes. */
static pqpool_code add_defaults(walk *w)
{
    static const char *const ours[][2] = {{"keepalives_idle", "5"},
                                          {"keepalives_interval", "2"},
                                          {"keepalives_count", "3"},
                                          {"tcp_user_timeout", "10000"}};
    pqpool_code code = PQPOOL_OK;
    for (size_t i = 0; i < PQP_COUNT_OF(ours) && code == PQPOOL_OK; i++)
        if (!pqp_settings_value(w->settings, ours[i][0]))
            code = add_pair(w, ours[i][0], ours[i][1]);
    /* A hook may bring another role each time. */
    w->name_sent = is_unnamed(w) && !w->fresh && pqp_load(&w->dial->memory->naming) == BY_NOBODY;
    if (code == PQPOOL_OK && w->name_sent)
        code = add_pair(w, "fallback_application_name", PQP_SESSION_NAME);
    return code;
}

static pqpool_code walk_init(walk *w, pqp_dial *dial, pqpool_error *err)
{
    const pqpool_hooks *hooks = &dial->events->hooks;
    *w = (walk){.dial = dial, .err = err, .balance = dial->target->balance};
    pqpool_code code = pqp_target_add(dial->target, &w->pairs) ? PQPOOL_OK : pqp_no_memory(err);
    if (code == PQPOOL_OK && hooks->on_conninfo)
        code = ask_conninfo(w, hooks);
    if (code == PQPOOL_OK && hooks->on_password)
        code = ask_password(w, hooks);
    if (code != PQPOOL_OK)
        return code;
    w->settings = pqp_settings_of(&w->pairs, dial->target->expand_dbname, err);
    if (!w->settings)
        return PQPOOL_ECONNECT;
    code = add_defaults(w);
    if (code == PQPOOL_OK)
        code = pqp_hosts_init(&w->hosts, w->settings, w->balance, err);
    if (code != PQPOOL_OK)
        return code;
    w->deadline = pqp_now() + dial->time;
    if (!dial->time_is_given && w->hosts.timeout_s > 0)
        w->each = w->hosts.timeout_s * PQP_SECOND;
    pqp_error_clear(err);
    return PQPOOL_OK;
}

/* ---- what is said ---- */

/* Puts one address's failure behind what others have said. */
static void append(walk *w, const char *text)
{
    char line[sizeof w->err->message];
    int length = snprintf(line, sizeof line, "%s", text);
    for (length = PQP_MIN(length, (int)sizeof line - 1); length > 0 && line[length - 1] == '\n'; length--)
        line[length - 1] = '\0';
    if (w->err->code == PQPOOL_OK)
        pqp_refuse(w->err, PQPOOL_ECONNECT, "%s", line);
    else if (!strstr(w->err->message, line))
        pqp_error_append(w->err, "\n%s", line);
}

static void append_about(walk *w, const pqp_host *host, const pqp_address *address, const char *what)
{
    char text[sizeof w->err->message], at[100] = "";
    const char *name = *host->name ? host->name : address->text;
    if (*address->text && strcmp(name, address->text) != 0)
        snprintf(at, sizeof at, " (%s)", address->text);
    snprintf(text, sizeof text, "connection to server at \"%s\"%s, port %s failed: %s",
             *name ? name : "the local socket", at, *host->port ? host->port : "5432", what);
    append(w, text);
}

/* The server has neither hung up nor answered with an error, and yet the attempt is over: libpq itself has ended it. */
static bool is_libpqs_own(PGconn *conn)
{
    struct pollfd p = {.fd = PQsocket(conn), .events = POLLRDHUP};
    return p.fd >= 0 && poll(&p, 1, 0) == 0;
}

/* How one address ended. */
typedef enum { UP, NEXT_ADDRESS, NEXT_HOST, OVER } verdict;

/* The failed attempt in the server's words, without the verbose extras. */
static verdict describe_failure(walk *w, PGconn *conn)
{
    char text[sizeof w->err->message], sqlstate[6] = "";
    pqp_session_words(conn, text, sizeof text, sqlstate);
    append(w, text);
    if (*sqlstate) {
        pqp_error_sqlstate(w->err, sqlstate);
        bool passing = strncmp(sqlstate, "53", 2) == 0 || strncmp(sqlstate, "57", 2) == 0;
        w->final = pqp_refusal_by_sqlstate(sqlstate);
        return passing ? NEXT_HOST : OVER;
    }
    w->final = PQconnectionNeedsPassword(conn) || is_libpqs_own(conn) || pqp_refusal_by_text(text);
    return w->final ? OVER : NEXT_ADDRESS;
}

/* ---- one address ---- */

/* Runs the handshake to its end. The socket may be another one after each step. */
static bool shake_hands(PGconn *conn, pqp_known *known, pqp_time deadline, bool *in_time)
{
    PostgresPollingStatusType want = PGRES_POLLING_WRITING;
    *in_time = true;
    while (want == PGRES_POLLING_READING || want == PGRES_POLLING_WRITING) {
        pqp_sockets_now(known, PQsocket(conn)); /* the number may be the same, and the socket another */
        if (!pqp_session_await(conn, want == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline)) {
            *in_time = false;
            return false;
        }
        want = PQconnectPoll(conn);
    }
    return want == PGRES_POLLING_OK;
}

/* Why the session is not what is asked for; NULL: it is. As libpq does it: by what the server reports (14), or by asking. */
static const char *unfit(PGconn *conn, pqp_attrs attrs, pqp_time deadline)
{
    const char *standby = PQparameterStatus(conn, "in_hot_standby"),
               *read_only = PQparameterStatus(conn, "default_transaction_read_only");
    char value[16] = "";
    if (attrs == PQP_ATTRS_ANY)
        return NULL;
    if (attrs == PQP_ATTRS_READ_WRITE || attrs == PQP_ATTRS_READ_ONLY) {
        bool known = standby && read_only;
        if (!known && !pqp_session_ask(conn, "SHOW transaction_read_only", value, sizeof value, deadline))
            return "the server did not say whether the session is read-only";
        bool closed = known ? pqp_role_is_on(standby) || pqp_role_is_on(read_only) : pqp_role_is_on(value);
        if (attrs == PQP_ATTRS_READ_WRITE)
            return closed ? "session is read-only" : NULL;
        return closed ? NULL : "session is not read-only";
    }
    if (!standby &&
        !pqp_session_ask(conn, "SELECT pg_catalog.pg_is_in_recovery()", value, sizeof value, deadline))
        return "the server did not say whether it is a standby";
    bool recovers = standby ? pqp_role_is_on(standby) : *value == 't';
    if (attrs == PQP_ATTRS_PRIMARY)
        return recovers ? "server is in hot standby mode" : NULL;
    return recovers ? NULL : "server is not in hot standby mode";
}

/* The pairs that lead to one address; those of a default host, or of a Unix socket among numbered hosts, can only be said as a
 * list of two that are the same: libpq takes no notice of an empty value. */
typedef struct spot {
    char host[600], address[100];
} spot;

static bool add_spot(walk *w, const pqp_host *host, const pqp_address *address, spot *s)
{
    bool named = *host->name != '\0',
         twice = !w->hosts.alone && (!named || w->hosts.numbered) && !*address->text;
    bool fine = pqp_pairs_add(&w->pairs, "target_session_attrs", "any");
    if (!w->hosts.alone) {
        if (twice)
            snprintf(s->host, sizeof s->host, "%s,%s", host->name, host->name);
        else
            snprintf(s->host, sizeof s->host, "%s", named ? host->name : address->text);
        fine = fine && pqp_pairs_add(&w->pairs, "host", s->host);
    }
    if (*address->text || (twice && w->hosts.numbered)) {
        snprintf(s->address, sizeof s->address, "%s", twice ? "," : address->text);
        fine = fine && pqp_pairs_add(&w->pairs, "hostaddr", s->address);
    }
    return fine && (!*host->port || pqp_pairs_add(&w->pairs, "port", host->port));
}

static bool name_session(walk *w, PGconn *conn, pqp_time deadline)
{
    const char *name = PQparameterStatus(conn, "application_name");
    if (!name || !is_unnamed(w) || w->name_sent)
        return true;
    pqp_store(&w->dial->memory->naming, *name ? BY_ROLE : BY_NOBODY);
    return pqp_session_name(conn, deadline);
}

static verdict try_address(walk *w, const pqp_host *host, const pqp_address *address, pqp_attrs attrs,
                           pqp_time deadline, PGconn **conn)
{
    bool in_time = true;
    int before = w->pairs.n;
    pqp_time began = pqp_now();
    spot s;
    const char *flaw = NULL;
    verdict end = OVER;
    if (add_spot(w, host, address, &s))
        *conn = PQconnectStartParams(w->pairs.keywords, w->pairs.values, w->dial->target->expand_dbname);
    pqp_pairs_cut(&w->pairs, before);
    if (!*conn) {
        pqp_no_memory(w->err);
        return OVER;
    }
    pqp_session_quiet(*conn);
    PQsetErrorVerbosity(*conn, PQERRORS_VERBOSE); /* the only way to a refused login's SQLSTATE */
    if (PQstatus(*conn) != CONNECTION_BAD && shake_hands(*conn, w->dial->known, deadline, &in_time)) {
        PQsetErrorVerbosity(*conn, PQERRORS_DEFAULT);
        w->spoke = true;
        flaw = unfit(*conn, attrs, deadline);
        w->dial->attrs = w->hosts.attrs;
        w->dial->server = address->key ^ host->key << 1;
        if (!flaw && name_session(w, *conn, deadline))
            return UP;
        append_about(w, host, address, flaw ? flaw : "no answer to a first statement");
        end = NEXT_HOST;
    } else if (in_time) {
        w->spoke = true;
        end = describe_failure(w, *conn);
    } else {
        char what[100];
        snprintf(what, sizeof what, "no answer from the server within %lld ms (connect_timeout)",
                 (long long)((deadline - began + PQP_MS - 1) / PQP_MS));
        append_about(w, host, address, what);
        pqp_silence_note(&w->dial->memory->silence, address->key, pqp_now());
        w->silent = true;
        end = NEXT_ADDRESS;
    }
    if (in_time)
        pqp_silence_break(&w->dial->memory->silence, address->key);
    PQfinish(*conn);
    pqp_sockets_now(w->dial->known, -1);
    *conn = NULL;
    return end;
}

/* ---- the walk ---- */

/* When the step that begins now must be over. */
static pqp_time share(walk *w)
{
    pqp_time now = pqp_now();
    pqp_time end = w->each ? now + w->each : now + PQP_MAX(0, w->deadline - now) / PQP_MAX(1, w->left);
    if (w->dial->until)
        w->dial->until(w->dial->arg, end);
    return end;
}

static verdict try_host(walk *w, const pqp_host *host, pqp_attrs attrs, PGconn **conn)
{
    pqpool_error why;
    pqp_address *addresses;
    verdict end = NEXT_ADDRESS;
    w->spoke = w->silent = false;
    (void)share(w);
    int n = pqp_hosts_resolve(&w->hosts, host, &w->dial->memory->silence, &addresses, &why);
    if (n == 0)
        append(w, why.message);
    w->left += PQP_MAX(0, n - 1);
    for (int i = 0; i < n && end == NEXT_ADDRESS; i++, w->left--)
        end = try_address(w, host, &addresses[i], attrs, share(w), conn);
    free(addresses);
    if (n == 0)
        w->left--;
    if (w->spoke)
        pqp_silence_break(&w->dial->memory->silence, host->key);
    else if (w->silent)
        pqp_silence_note(&w->dial->memory->silence, host->key, pqp_now());
    return end == NEXT_ADDRESS ? NEXT_HOST : end;
}

static verdict try_all(walk *w, pqp_attrs attrs, int walks_after, PGconn **conn)
{
    verdict end = NEXT_HOST;
    pqp_hosts_order(&w->hosts, &w->dial->memory->silence, pqp_now());
    for (int i = 0; i < w->hosts.n && end == NEXT_HOST; i++) {
        if (!w->each && i > 0 && pqp_now() >= w->deadline)
            return OVER;
        w->left = (w->hosts.n - i) + walks_after * w->hosts.n;
        end = try_host(w, &w->hosts.all[i], attrs, conn);
    }
    return end;
}

pqpool_code pqp_dial_connect(pqp_dial *dial, PGconn **conn, pqpool_error *err)
{
    walk w;
    *conn = NULL;
    dial->known = pqp_sockets_know(-1);
    if (!dial->known)
        return pqp_no_memory(err);
    pqpool_code code = walk_init(&w, dial, err);
    if (code == PQPOOL_OK) {
        bool twice = w.hosts.attrs == PQP_ATTRS_PREFER_STANDBY;
        verdict end = try_all(&w, twice ? PQP_ATTRS_STANDBY : w.hosts.attrs, twice, conn);
        if (twice && end == NEXT_HOST)
            end = try_all(&w, PQP_ATTRS_ANY, 0, conn);
        if (end == UP)
            pqp_error_clear(err);
        else if (w.final)
            pqp_refusal_mark(err, true);
        code = (pqpool_code)err->code;
    }
    walk_fini(&w);
    if (!*conn) {
        pqp_sockets_forget(dial->known);
        dial->known = NULL;
    }
    return code;
}
