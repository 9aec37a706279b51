/* delayproxy: forwards connections to a server and delays what goes through by half a round trip. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* ppoll, accept4 */
#endif
#include "delayproxy.h"

#include "progress.h"
#include "ticks.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_LINKS 256
#define READ_SIZE 65536
#define MAX_ON_THE_WAY (4u << 20) /* bytes per direction; beyond it reading pauses */
#define UNIX_PORT "5432"          /* only a name, in the proxy's own directory */

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
    bool ended;      /* the end was passed on */
    bool blocked;    /* the receiver takes no more for now */
};

/* A client and its connection to the server; line i goes from fd[i] to fd[1 - i]. */
struct link {
    int fd[2];
    struct line line[2];
    bool broken;
};

struct address {
    socklen_t len;
    union {
        struct sockaddr sa;
        struct sockaddr_un un;
        struct sockaddr_storage storage;
    } a;
};

struct delayproxy {
    pthread_t thread;
    int listener, stop_pipe[2];
    int64_t delay;
    struct address server;
    target_route route;
    char dir[40], socket_path[80], host[300], port[8];
    int n_links;
    struct link links[MAX_LINKS];
};

/* ---- a direction ---- */

static void read_chunk(struct link *link, int from, int64_t delay)
{
    char buffer[READ_SIZE];
    struct line *line = &link->line[from];
    ssize_t len = recv(link->fd[from], buffer, sizeof buffer, 0);
    if (len < 0) {
        link->broken = errno != EAGAIN && errno != EINTR;
        return;
    }
    int64_t due = ticks_now() + delay;
    if (len == 0) {
        line->end_due = due;
        return;
    }
    struct chunk *chunk = malloc(sizeof *chunk + (size_t)len);
    if (!chunk) {
        link->broken = true;
        return;
    }
    *chunk = (struct chunk){.due = due, .len = (size_t)len};
    memcpy(chunk->data, buffer, (size_t)len);
    *(line->head ? &line->tail->next : &line->head) = chunk;
    line->tail = chunk;
    line->bytes += chunk->len;
}

/* Passes on what is due. */
static void deliver(struct link *link, int from, int64_t now)
{
    struct line *line = &link->line[from];
    int to = link->fd[1 - from];
    while (line->head && line->head->due <= now && !line->blocked) {
        struct chunk *chunk = line->head;
        ssize_t sent = send(to, chunk->data + chunk->sent, chunk->len - chunk->sent, MSG_NOSIGNAL);
        if (sent < 0) {
            line->blocked = errno == EAGAIN;
            link->broken = errno != EAGAIN && errno != EINTR;
            return;
        }
        chunk->sent += (size_t)sent;
        if (chunk->sent < chunk->len)
            continue;
        line->head = chunk->next;
        line->bytes -= chunk->len;
        free(chunk);
    }
    if (!line->head && line->end_due && line->end_due <= now && !line->ended) {
        shutdown(to, SHUT_WR);
        line->ended = true;
    }
}

/* When something of the line is next due; INT64_MAX: when poll() says so. */
static int64_t next_due(const struct line *line)
{
    if (line->blocked || line->ended)
        return INT64_MAX;
    if (line->head)
        return line->head->due;
    return line->end_due ? line->end_due : INT64_MAX;
}

/* ---- a link ---- */

static void close_link(struct link *link)
{
    for (int i = 0; i < 2; i++) {
        for (struct chunk *chunk = link->line[i].head, *next; chunk; chunk = next) {
            next = chunk->next;
            free(chunk);
        }
        close(link->fd[i]);
    }
}

static void make_quick(int fd, int family)
{
    int on = 1;
    if (family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void accept_link(delayproxy *p)
{
    int family = p->server.a.sa.sa_family;
    int client = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0)
        return;
    /* A Unix socket connects at once or, its queue being full, waits; TCP connects in the background. */
    int server = socket(family, SOCK_STREAM | SOCK_CLOEXEC | (family == AF_UNIX ? 0 : SOCK_NONBLOCK), 0);
    if (server < 0 || (connect(server, &p->server.a.sa, p->server.len) < 0 && errno != EINPROGRESS)) {
        close(client);
        if (server >= 0)
            close(server);
        return;
    }
    fcntl(server, F_SETFL, fcntl(server, F_GETFL) | O_NONBLOCK);
    make_quick(client, family);
    make_quick(server, family);
    p->links[p->n_links++] = (struct link){.fd = {client, server}};
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

static void serve_link(delayproxy *p, struct link *link, const struct pollfd fds[2])
{
    for (int i = 0; i < 2 && !link->broken; i++) {
        if (fds[i].revents && (fds[i].events & POLLIN))
            read_chunk(link, i, p->delay);
        if (fds[i].revents)
            link->line[1 - i].blocked = false;
    }
    int64_t now = ticks_now();
    for (int i = 0; i < 2 && !link->broken; i++)
        deliver(link, i, now);
}

/* ---- the thread ---- */

static void wait_for_work(delayproxy *p, struct pollfd *fds)
{
    int64_t due = INT64_MAX;
    fds[0] = (struct pollfd){.fd = p->stop_pipe[0], .events = POLLIN};
    fds[1] = (struct pollfd){.fd = p->n_links < MAX_LINKS ? p->listener : -1, .events = POLLIN};
    for (int l = 0; l < p->n_links; l++)
        for (int i = 0; i < 2; i++) {
            int64_t line_due = next_due(&p->links[l].line[i]);
            due = line_due < due ? line_due : due;
            fds[2 + 2 * l + i] = interest(&p->links[l], i);
        }
    int64_t left = due == INT64_MAX ? 0 : due - ticks_now();
    struct timespec span = ticks_span(left > 0 ? left : 0);
    int n = ppoll(fds, (nfds_t)(2 + 2 * p->n_links), due == INT64_MAX ? NULL : &span, NULL);
    for (int i = 0; n <= 0 && i < 2 + 2 * p->n_links; i++)
        fds[i].revents = 0;
}

static void *forward(void *arg)
{
    delayproxy *p = arg;
    struct pollfd fds[2 + 2 * MAX_LINKS];
    prctl(PR_SET_TIMERSLACK, 1UL); /* ns; the usual 50 us would be a tenth of our delay */
    for (;;) {
        wait_for_work(p, fds);
        if (fds[0].revents)
            break;
        int polled = p->n_links;
        for (int l = 0; l < polled; l++)
            serve_link(p, &p->links[l], &fds[2 + 2 * l]);
        for (int l = polled - 1; l >= 0; l--)
            if (p->links[l].broken || (p->links[l].line[0].ended && p->links[l].line[1].ended)) {
                close_link(&p->links[l]);
                p->links[l] = p->links[--p->n_links];
            }
        if (fds[1].revents)
            accept_link(p);
    }
    while (p->n_links > 0)
        close_link(&p->links[--p->n_links]);
    return NULL;
}

/* ---- starting and stopping ---- */

/* Where conn's server really is. */
static bool find_server(PGconn *conn, struct address *server)
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

static bool listen_unix(delayproxy *p)
{
    const char *tmp = getenv("TMPDIR");
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int len = snprintf(p->dir, sizeof p->dir, "%s/pqpool-XXXXXX", tmp && *tmp == '/' ? tmp : "/tmp");
    if (len >= (int)sizeof p->dir || strchr(p->dir, ',')) /* a comma would be read as a list of hosts */
        snprintf(p->dir, sizeof p->dir, "/tmp/pqpool-XXXXXX");
    if (!mkdtemp(p->dir)) {
        p->dir[0] = '\0';
        return false;
    }
    snprintf(p->socket_path, sizeof p->socket_path, "%s/.s.PGSQL." UNIX_PORT, p->dir);
    snprintf(un.sun_path, sizeof un.sun_path, "%s", p->socket_path);
    p->route = (target_route){.host = p->dir, .port = UNIX_PORT};
    return bind(p->listener, (struct sockaddr *)&un, sizeof un) == 0;
}

static bool listen_tcp(delayproxy *p, PGconn *conn)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof in;
    if (bind(p->listener, (struct sockaddr *)&in, sizeof in) < 0 ||
        getsockname(p->listener, (struct sockaddr *)&in, &len) < 0)
        return false;
    /* The host keeps its name, so that a certificate still matches. */
    snprintf(p->host, sizeof p->host, "%s", PQhost(conn));
    snprintf(p->port, sizeof p->port, "%u", ntohs(in.sin_port));
    p->route = (target_route){.host = p->host, .hostaddr = "127.0.0.1", .port = p->port};
    return true;
}

static bool start_listening(delayproxy *p, PGconn *conn)
{
    bool local = p->server.a.sa.sa_family == AF_UNIX;
    p->listener = socket(local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return p->listener >= 0 && (local ? listen_unix(p) : listen_tcp(p, conn)) &&
           listen(p->listener, 128) == 0;
}

static void wipe(delayproxy *p)
{
    int fds[] = {p->listener, p->stop_pipe[0], p->stop_pipe[1]};
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (p->socket_path[0])
        unlink(p->socket_path);
    if (p->dir[0])
        rmdir(p->dir);
    free(p);
}

delayproxy *delayproxy_start(PGconn *conn, double rtt_ms)
{
    delayproxy *p = calloc(1, sizeof *p);
    if (!p) {
        complain("out of memory");
        return NULL;
    }
    p->listener = p->stop_pipe[0] = p->stop_pipe[1] = -1;
    p->delay = (int64_t)(rtt_ms / 2 * (double)TICKS_MS);
    if (find_server(conn, &p->server) && start_listening(p, conn) && pipe(p->stop_pipe) == 0) {
        errno = pthread_create(&p->thread, NULL, forward, p);
        if (errno == 0)
            return p;
    }
    complain("cannot start the proxy that delays: %s", strerror(errno));
    wipe(p);
    return NULL;
}

const target_route *delayproxy_route(const delayproxy *proxy)
{
    return &proxy->route;
}

void delayproxy_stop(delayproxy *proxy)
{
    if (!proxy)
        return;
    while (write(proxy->stop_pipe[1], "", 1) < 0 && errno == EINTR)
        continue;
    pthread_join(proxy->thread, NULL);
    wipe(proxy);
}
