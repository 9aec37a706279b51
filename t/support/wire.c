/*
 * wire: one thread, one lock. The thread holds the lock except while it sleeps in ppoll(), so all that a test
 * asks or orders falls between two steps of it. Answers are handed to the client under the lock: whoever has
 * read one and then asks for a count finds it counted.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* ppoll, accept4 */
#endif
#include "wirelog.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "../tap.h"

#define MAX_LINKS 256
#define READ_SIZE 65536
#define MAX_ON_THE_WAY (4u << 20) /* bytes per direction; beyond it reading pauses */
#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)

/* Bytes that were read together, and when they are to arrive. */
struct chunk {
    struct chunk *next;
    int64_t due;
    size_t len, sent;
    char data[];
};

/* One direction of a link. */
struct line {
    struct chunk *head, *tail;
    size_t bytes;
    int64_t end_due; /* when the end of the stream is to arrive; 0: not seen yet */
    bool ended;      /* the end was passed on, or there is nobody to pass it to */
    bool blocked;    /* the receiver takes no more for now */
    bool deaf;       /* the receiver is gone: what comes is dropped */
};

/* A client and its connection to the server; line i goes from fd[i] to fd[1 - i]. */
struct link {
    int fd[2], number;
    struct line line[2];
    wirelog_reader reader[2];
    bool broken; /* to be closed */
};

/* When a connection is to be cut: one that is there, or one to come. */
struct plan {
    int64_t cut_in[2]; /* bytes; -1: not planned */
    wire_ending how[2];
};

struct address {
    socklen_t len;
    union {
        struct sockaddr sa;
        struct sockaddr_un un;
        struct sockaddr_storage storage;
    } a;
};

struct wire {
    pthread_t thread;
    int listener, wake;
    struct address server;
    char conninfo[200];
    pthread_mutex_t mu;
    pthread_cond_t changed;

    /* guarded by mu */
    bool stopping, held;
    int64_t delay;
    int n_links;
    struct link *links[MAX_LINKS];
    struct plan *plans; /* by the connection's number */
    size_t n_plans;
    wirelog log;
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static struct plan *plan_of(wire *w, int number)
{
    size_t n = w->n_plans;
    if ((size_t)number < n)
        return &w->plans[number];
    w->n_plans = (size_t)number + 1;
    w->plans = wirelog_room(w->plans, w->n_plans, sizeof *w->plans);
    for (; n < w->n_plans; n++)
        w->plans[n] = (struct plan){.cut_in = {-1, -1}};
    return &w->plans[number];
}

/* ---- a direction ---- */

static void drop_chunks(struct line *line)
{
    for (struct chunk *chunk = line->head, *next; chunk; chunk = next) {
        next = chunk->next;
        free(chunk);
    }
    line->head = NULL;
    line->bytes = 0;
}

/* The receiver is gone; the sender is still listened to until he ends. */
static void deafen(struct line *line)
{
    line->deaf = true;
    line->blocked = false;
    drop_chunks(line);
}

static void push_chunk(struct line *line, const char *data, size_t len, int64_t due)
{
    struct chunk *chunk = wirelog_room(NULL, 1, sizeof *chunk + len);
    *chunk = (struct chunk){.due = due, .len = len};
    memcpy(chunk->data, data, len);
    *(line->head ? &line->tail->next : &line->head) = chunk;
    line->tail = chunk;
    line->bytes += len;
}

static void receive(wire *w, struct link *link, wire_direction from)
{
    char buffer[READ_SIZE];
    struct line *line = &link->line[from];
    ssize_t len = recv(link->fd[from], buffer, sizeof buffer, 0);
    if (len < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (len <= 0) { /* a reset is passed on as an end */
        line->end_due = now_ns() + w->delay;
        return;
    }
    if (from == WIRE_FROM_CLIENT)
        link->broken |= !wirelog_read(&w->log, &link->reader[from], buffer, (size_t)len);
    if (!line->deaf)
        push_chunk(line, buffer, (size_t)len, now_ns() + w->delay);
}

/* How much of so much may pass before the connection is cut. */
static size_t may_pass(wire *w, const struct link *link, wire_direction from, size_t len)
{
    int64_t cut_in = plan_of(w, link->number)->cut_in[from];
    return cut_in >= 0 && (size_t)cut_in < len ? (size_t)cut_in : len;
}

/* Sends what may go of the first chunk. False: nothing more goes for now. */
static bool send_chunk(wire *w, struct link *link, wire_direction from)
{
    struct line *line = &link->line[from];
    struct chunk *chunk = line->head;
    char *data = chunk->data + chunk->sent;
    size_t len = may_pass(w, link, from, chunk->len - chunk->sent);
    ssize_t sent = len == 0 ? 0 : send(link->fd[1 - from], data, len, MSG_NOSIGNAL);
    if (sent < 0) {
        line->blocked = errno == EAGAIN;
        if (errno != EAGAIN && errno != EINTR)
            deafen(line);
        return false;
    }
    if (from == WIRE_FROM_SERVER)
        link->broken |= !wirelog_read(&w->log, &link->reader[from], data, (size_t)sent);
    struct plan *p = plan_of(w, link->number);
    p->cut_in[from] -= p->cut_in[from] >= 0 ? sent : 0;
    chunk->sent += (size_t)sent;
    if (chunk->sent < chunk->len)
        return len > 0 && p->cut_in[from] != 0;
    line->head = chunk->next;
    line->bytes -= chunk->len;
    free(chunk);
    return p->cut_in[from] != 0;
}

static bool is_held(const wire *w, wire_direction from)
{
    return w->held && from == WIRE_FROM_SERVER;
}

/* Passes on what is due. */
static void deliver(wire *w, struct link *link, wire_direction from, int64_t now)
{
    struct line *line = &link->line[from];
    if (is_held(w, from))
        return;
    while (line->head && line->head->due <= now && !line->blocked && !link->broken)
        if (!send_chunk(w, link, from))
            break;
    if (!line->head && line->end_due && line->end_due <= now && !line->ended) {
        shutdown(link->fd[1 - from], SHUT_WR);
        line->ended = true;
    }
}

/* When something of the line is next due; INT64_MAX: when poll() or a test says so. */
static int64_t next_due(const wire *w, const struct link *link, wire_direction from)
{
    const struct line *line = &link->line[from];
    if (line->blocked || line->ended || is_held(w, from))
        return INT64_MAX;
    if (line->head)
        return line->head->due;
    return line->end_due ? line->end_due : INT64_MAX;
}

/* ---- a link ---- */

static void close_link(struct link *link)
{
    for (int i = 0; i < 2; i++) {
        drop_chunks(&link->line[i]);
        close(link->fd[i]);
    }
    free(link);
}

static bool is_over(const struct link *link)
{
    const struct line *line = link->line;
    return link->broken || (line[0].ended && line[0].end_due && line[1].ended && line[1].end_due);
}

static void reset(struct link *link)
{
    struct linger linger = {.l_onoff = 1};
    for (int i = 0; i < 2; i++)
        setsockopt(link->fd[i], SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    link->broken = true;
}

static void finish(struct link *link)
{
    for (int i = 0; i < 2; i++) {
        shutdown(link->fd[i], SHUT_WR);
        deafen(&link->line[i]);
        link->line[i].ended = true;
    }
}

/* Cuts the link if that is due. */
static void cut_in_time(wire *w, struct link *link)
{
    struct plan *p = plan_of(w, link->number);
    for (int i = 0; i < 2; i++) {
        if (p->cut_in[i] != 0 || link->broken)
            continue;
        (p->how[i] == WIRE_RST ? reset : finish)(link);
        p->cut_in[0] = p->cut_in[1] = -1;
        wirelog_count(&w->log, link->number, WIRE_CUT);
        break;
    }
}

static void make_quick(int fd, int family)
{
    int on = 1;
    if (family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* A Unix socket connects at once or, its queue being full, waits; TCP connects in the background. */
static int connect_server(const wire *w)
{
    int family = w->server.a.sa.sa_family;
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | (family == AF_UNIX ? 0 : SOCK_NONBLOCK), 0);
    if (fd >= 0 && connect(fd, &w->server.a.sa, w->server.len) < 0 && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    if (fd >= 0)
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return fd;
}

static void accept_link(wire *w)
{
    int client = accept4(w->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0)
        return;
    int server = connect_server(w);
    if (server < 0) {
        close(client);
        return;
    }
    make_quick(client, AF_INET);
    make_quick(server, w->server.a.sa.sa_family);
    struct link *link = wirelog_room(NULL, 1, sizeof *link);
    memset(link, 0, sizeof *link);
    link->fd[WIRE_FROM_CLIENT] = client;
    link->fd[WIRE_FROM_SERVER] = server;
    link->number = (int)wirelog_counted(&w->log, WIRE_ALL, WIRE_ACCEPTED) + 1;
    for (int i = 0; i < 2; i++)
        wirelog_begin(&link->reader[i], link->number, (wire_direction)i);
    w->links[w->n_links++] = link;
    wirelog_count(&w->log, link->number, WIRE_ACCEPTED);
}

/* What to poll one end of a link for: bytes to read from it, room for those that go to it. */
static struct pollfd interest(const struct link *link, int i)
{
    const struct line *in = &link->line[i], *out = &link->line[1 - i];
    short events = 0;
    if (!in->end_due && in->bytes < MAX_ON_THE_WAY)
        events |= POLLIN;
    if (out->blocked)
        events |= POLLOUT;
    return (struct pollfd){.fd = events ? link->fd[i] : -1, .events = events};
}

static void serve_link(wire *w, struct link *link, const struct pollfd fds[2])
{
    cut_in_time(w, link);
    for (int i = 0; i < 2 && !link->broken; i++) {
        if (fds[i].revents && (fds[i].events & POLLIN))
            receive(w, link, (wire_direction)i);
        if (fds[i].revents)
            link->line[1 - i].blocked = false;
    }
    int64_t now = now_ns();
    for (int i = 0; i < 2 && !link->broken; i++) {
        deliver(w, link, (wire_direction)i, now);
        cut_in_time(w, link);
    }
}

/* ---- the thread ---- */

/* Sleeps until there is something to do; the lock is open meanwhile. Returns how many links were polled. */
static int wait_for_work(wire *w, struct pollfd *fds)
{
    int64_t due = INT64_MAX;
    int polled = w->n_links;
    nfds_t n_fds = (nfds_t)(2 + 2 * polled);
    fds[0] = (struct pollfd){.fd = w->wake, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = polled < MAX_LINKS ? w->listener : -1, .events = POLLIN};
    for (int l = 0; l < polled; l++)
        for (int i = 0; i < 2; i++) {
            int64_t line_due = next_due(w, w->links[l], (wire_direction)i);
            due = line_due < due ? line_due : due;
            fds[2 + 2 * l + i] = interest(w->links[l], i);
        }
    int64_t span = due == INT64_MAX ? 0 : due - now_ns();
    span = span > 0 ? span : 0;
    struct timespec time = {.tv_sec = span / NS_PER_S, .tv_nsec = span % NS_PER_S};
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->mu);
    int n = ppoll(fds, n_fds, due == INT64_MAX ? NULL : &time, NULL);
    pthread_mutex_lock(&w->mu);
    for (nfds_t i = 0; n <= 0 && i < n_fds; i++)
        fds[i].revents = 0;
    return polled;
}

static void *work(void *arg)
{
    wire *w = arg;
    struct pollfd fds[2 + 2 * MAX_LINKS];
    eventfd_t ignored;
    pthread_mutex_lock(&w->mu);
    while (!w->stopping) {
        int polled = wait_for_work(w, fds);
        if (fds[0].revents)
            (void)eventfd_read(w->wake, &ignored);
        for (int l = 0; l < polled; l++)
            serve_link(w, w->links[l], &fds[2 + 2 * l]);
        for (int l = polled - 1; l >= 0; l--)
            if (is_over(w->links[l])) {
                close_link(w->links[l]);
                w->links[l] = w->links[--w->n_links];
            }
        if (fds[1].revents)
            accept_link(w);
    }
    pthread_mutex_unlock(&w->mu);
    return NULL;
}

/* ---- starting and stopping ---- */

/* Where the server really is. */
static bool find_server(const PGconn *conn, struct address *server)
{
    const char *host = PQhost(conn);
    server->len = sizeof server->a;
    if (getpeername(PQsocket(conn), &server->a.sa, &server->len) < 0)
        return false;
    if (server->a.sa.sa_family != AF_UNIX)
        return true;
    /* The name as seen from here; the server may have bound its socket under another one. */
    memset(&server->a, 0, sizeof server->a);
    server->a.un.sun_family = AF_UNIX;
    int len =
        snprintf(server->a.un.sun_path, sizeof server->a.un.sun_path, "%s/.s.PGSQL.%s", host, PQport(conn));
    server->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)len);
    if (host[0] == '@')
        server->a.un.sun_path[0] = '\0';
    return len < (int)sizeof server->a.un.sun_path;
}

static bool start_listening(wire *w)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof in;
    w->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (w->listener < 0 || bind(w->listener, (struct sockaddr *)&in, sizeof in) < 0 ||
        getsockname(w->listener, (struct sockaddr *)&in, &len) < 0 || listen(w->listener, 128) < 0)
        return false;
    snprintf(w->conninfo, sizeof w->conninfo,
             "host=127.0.0.1 hostaddr=127.0.0.1 port=%u sslmode=disable gssencmode=disable",
             ntohs(in.sin_port));
    return true;
}

static void init_locks(wire *w)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&w->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&w->mu, NULL);
}

static void wipe(wire *w)
{
    while (w->n_links > 0)
        close_link(w->links[--w->n_links]);
    wirelog_fini(&w->log);
    free(w->plans);
    if (w->listener >= 0)
        close(w->listener);
    if (w->wake >= 0)
        close(w->wake);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->mu);
    free(w);
}

wire *wire_start(const PGconn *server)
{
    wire *w = wirelog_room(NULL, 1, sizeof *w);
    memset(w, 0, sizeof *w);
    w->listener = -1;
    w->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    init_locks(w);
    if (w->wake >= 0 && find_server(server, &w->server) && start_listening(w)) {
        errno = pthread_create(&w->thread, NULL, work, w);
        if (errno == 0)
            return w;
    }
    int why = errno;
    wipe(w);
    errno = why;
    return NULL;
}

/* After a change, with the lock: lets the thread see it. */
static void unlock_and_wake(wire *w)
{
    pthread_mutex_unlock(&w->mu);
    (void)eventfd_write(w->wake, 1);
}

void wire_stop(wire *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->mu);
    w->stopping = true;
    unlock_and_wake(w);
    pthread_join(w->thread, NULL);
    wipe(w);
}

const char *wire_conninfo(const wire *w)
{
    return w->conninfo;
}

/* ---- what a test does to the wire ---- */

void wire_hold(wire *w)
{
    pthread_mutex_lock(&w->mu);
    w->held = true;
    unlock_and_wake(w);
}

void wire_let_go(wire *w)
{
    pthread_mutex_lock(&w->mu);
    w->held = false;
    unlock_and_wake(w);
}

void wire_set_delay(wire *w, int one_way_ms)
{
    pthread_mutex_lock(&w->mu);
    w->delay = one_way_ms * NS_PER_MS;
    unlock_and_wake(w);
}

static void plan_cut(wire *w, int number, wire_direction direction, int64_t bytes, wire_ending how)
{
    struct plan *p = plan_of(w, number);
    p->cut_in[direction] = bytes;
    p->how[direction] = how;
}

void wire_cut(wire *w, int connection, wire_direction direction, int64_t bytes, wire_ending how)
{
    pthread_mutex_lock(&w->mu);
    if (connection != WIRE_ALL)
        plan_cut(w, connection, direction, bytes, how);
    for (int l = 0; connection == WIRE_ALL && l < w->n_links; l++)
        plan_cut(w, w->links[l]->number, direction, bytes, how);
    unlock_and_wake(w);
}

/* ---- what a test sees ---- */

int64_t wire_count(wire *w, int connection, wire_what what)
{
    pthread_mutex_lock(&w->mu);
    int64_t n = wirelog_counted(&w->log, connection, what);
    pthread_mutex_unlock(&w->mu);
    return n;
}

bool wire_await(wire *w, int connection, wire_what what, int64_t n)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += 10 * tap_slowness();
    pthread_mutex_lock(&w->mu);
    int rc = 0;
    while (wirelog_counted(&w->log, connection, what) < n && rc == 0)
        rc = pthread_cond_timedwait(&w->changed, &w->mu, &end);
    bool reached = wirelog_counted(&w->log, connection, what) >= n;
    pthread_mutex_unlock(&w->mu);
    return reached;
}

size_t wire_events(wire *w)
{
    pthread_mutex_lock(&w->mu);
    size_t n = w->log.n_events;
    pthread_mutex_unlock(&w->mu);
    return n;
}

wire_event wire_event_at(wire *w, size_t i)
{
    pthread_mutex_lock(&w->mu);
    wire_event e = w->log.events[i];
    pthread_mutex_unlock(&w->mu);
    return e;
}

int wire_seen(wire *w, const char *text)
{
    pthread_mutex_lock(&w->mu);
    int n = wirelog_seen(&w->log, text);
    pthread_mutex_unlock(&w->mu);
    return n;
}

int wire_seen_number(wire *w, int64_t number)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)number);
    return wire_seen(w, text);
}
