/*
 * wire: one thread, one lock. The thread holds the lock except while it sleeps in ppoll(), so all that a test
 * asks or orders falls between two steps of it. Answers are handed to the client under the lock: whoever has
 * read one and then asks for a count finds it counted.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* ppoll, accept4 */
#endif
#include "wire.h"

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
#define KEPT_BYTES 4000           /* of a message's body: enough for its names and the first parameter */
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

/* Finds the messages in one direction's bytes. */
struct reader {
    unsigned char header[5]; /* type and length; a start-up packet is given the type it lacks */
    size_t header_len, body_left, kept;
    char body[KEPT_BYTES + 1];
};

/* A client and its connection to the server; line i goes from fd[i] to fd[1 - i]. */
struct link {
    int fd[2], number;
    struct line line[2];
    struct reader reader[2];
    bool broken; /* to be closed */
};

/* What is known of a connection, also after its end; number 0 is all together. */
struct record {
    int64_t count[WIRE_COUNTS];
    bool client_spoke; /* since the server last did */
    int64_t cut_in[2]; /* bytes; -1: not planned */
    wire_ending cut_how[2];
};

/* A first parameter, and how often it was seen. The text is an event's. */
struct sighting {
    const char *text;
    int n;
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
    struct record *records;
    size_t n_records;
    wire_event *events;
    size_t n_events, events_room;
    struct sighting *sightings; /* a hash table; its size is a power of 2, at most half of it is used */
    size_t n_sightings, sightings_room;
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static void *room(void *old, size_t n, size_t size)
{
    void *new = reallocarray(old, n, size);
    if (!new)
        abort();
    return new;
}

static char *copy(const char *text, size_t len)
{
    char *new = strndup(text, len);
    if (!new)
        abort();
    return new;
}

/* ---- what is known: counts, events, sightings ---- */

static struct record *record_of(wire *w, int number)
{
    size_t n = w->n_records;
    if ((size_t)number < n)
        return &w->records[number];
    w->n_records = (size_t)number + 1;
    w->records = room(w->records, w->n_records, sizeof *w->records);
    for (; n < w->n_records; n++)
        w->records[n] = (struct record){.cut_in = {-1, -1}};
    return &w->records[number];
}

static void count(wire *w, int number, wire_what what)
{
    record_of(w, number)->count[what]++;
    w->records[WIRE_ALL].count[what]++;
}

/* Where the text is in the table, or belongs. */
static struct sighting *sighting_of(const wire *w, const char *text)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (const char *c = text; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    for (size_t i = hash;; i++) {
        struct sighting *s = &w->sightings[i & (w->sightings_room - 1)];
        if (!s->text || strcmp(s->text, text) == 0)
            return s;
    }
}

static void grow_sightings(wire *w)
{
    struct sighting *old = w->sightings;
    size_t n = w->sightings_room;
    w->sightings_room = n ? 2 * n : 1024;
    w->sightings = room(NULL, w->sightings_room, sizeof *w->sightings);
    memset(w->sightings, 0, w->sightings_room * sizeof *w->sightings);
    for (size_t i = 0; i < n; i++)
        if (old[i].text)
            *sighting_of(w, old[i].text) = old[i];
    free(old);
}

static void note_sighting(wire *w, const char *text)
{
    if (2 * w->n_sightings >= w->sightings_room)
        grow_sightings(w);
    struct sighting *s = sighting_of(w, text);
    w->n_sightings += !s->text;
    s->text = s->text ? s->text : text;
    s->n++;
}

static void note_event(wire *w, const wire_event *e)
{
    if (w->n_events == w->events_room) {
        w->events_room = w->events_room ? 2 * w->events_room : 1024;
        w->events = room(w->events, w->events_room, sizeof *w->events);
    }
    w->events[w->n_events++] = *e;
}

/* ---- a message ---- */

/* A message's body from here on. What was not kept is as if it were not there. */
struct body {
    const char *at, *end;
};

static size_t left(const struct body *b)
{
    return (size_t)(b->end - b->at);
}

static char *take_string(struct body *b)
{
    size_t len = strnlen(b->at, left(b));
    char *text = copy(b->at, len);
    b->at += len < left(b) ? len + 1 : len;
    return text;
}

/* A number of 2, 4 or 8 bytes; -1 where there is none. */
static int64_t take_number(struct body *b, size_t size)
{
    uint64_t n = 0;
    if (left(b) < size)
        return -1;
    for (size_t i = 0; i < size; i++)
        n = n << 8 | (unsigned char)*b->at++;
    return size == 2 ? (int16_t)n : size == 4 ? (int32_t)n : (int64_t)n;
}

/* Bind, after the statement's name: the parameters' formats, their number, the first one. */
static char *first_parameter(struct body *b)
{
    char number[24];
    int64_t n_formats = take_number(b, 2);
    if (n_formats < 0 || left(b) < (size_t)n_formats * 2)
        return NULL;
    const char *formats_end = b->at + n_formats * 2;
    bool binary = n_formats > 0 && take_number(b, 2) == 1;
    b->at = formats_end;
    if (take_number(b, 2) <= 0)
        return NULL;
    int64_t len = take_number(b, 4);
    if (len < 0)
        return NULL;
    if (!binary || (len != 4 && len != 8))
        return copy(b->at, (size_t)len < left(b) ? (size_t)len : left(b));
    snprintf(number, sizeof number, "%lld", (long long)take_number(b, (size_t)len));
    return copy(number, sizeof number);
}

/* ErrorResponse is a list of fields: a letter and a text each. */
static char *sqlstate(struct body *b)
{
    while (left(b) > 0 && *b->at) {
        bool found = *b->at++ == 'C';
        char *text = take_string(b);
        if (found)
            return text;
        free(text);
    }
    return NULL;
}

static void read_client_message(wire_event *e, struct body *b)
{
    switch (e->type) {
    case 'Q':
        e->text = take_string(b);
        break;
    case 'P':
        e->name = take_string(b);
        e->text = take_string(b);
        break;
    case 'B':
        free(take_string(b)); /* the portal */
        e->name = take_string(b);
        e->text = first_parameter(b);
        break;
    case 'D':
    case 'C':
        e->text = copy(b->at, left(b) > 0);
        b->at += left(b) > 0;
        e->name = take_string(b);
        break;
    case 'E':
        e->name = take_string(b);
        break;
    default:
        break;
    }
}

static void read_server_message(wire_event *e, struct body *b)
{
    if (e->type == 'E')
        e->text = sqlstate(b);
    else if (e->type == 'C')
        e->text = take_string(b);
    else if (e->type == 'Z')
        e->text = copy(b->at, left(b) > 0);
}

static const struct {
    wire_direction direction;
    char type;
    wire_what what;
} counted[] = {
    {WIRE_FROM_CLIENT, 'P', WIRE_PARSE},    {WIRE_FROM_CLIENT, 'B', WIRE_BIND},
    {WIRE_FROM_CLIENT, 'D', WIRE_DESCRIBE}, {WIRE_FROM_CLIENT, 'E', WIRE_EXECUTE},
    {WIRE_FROM_CLIENT, 'C', WIRE_CLOSE},    {WIRE_FROM_CLIENT, 'Q', WIRE_QUERY},
    {WIRE_FROM_CLIENT, 'S', WIRE_SYNC},     {WIRE_FROM_SERVER, '1', WIRE_PARSE_COMPLETE},
    {WIRE_FROM_SERVER, 'E', WIRE_ERROR},    {WIRE_FROM_SERVER, 'Z', WIRE_READY},
};

static void count_message(wire *w, const wire_event *e)
{
    for (size_t i = 0; i < sizeof counted / sizeof counted[0]; i++)
        if (counted[i].direction == e->direction && counted[i].type == e->type)
            count(w, e->connection, counted[i].what);
    if (e->direction == WIRE_FROM_CLIENT && e->type == 'P' && *e->name)
        count(w, e->connection, WIRE_PARSE_NAMED);
}

static void count_round_trip(wire *w, const wire_event *e)
{
    struct record *r = record_of(w, e->connection);
    bool unasked = e->type == 'N' || e->type == 'A' || e->type == 'S';
    if (e->direction == WIRE_FROM_CLIENT) {
        r->client_spoke = true;
    } else if (r->client_spoke && !unasked) {
        r->client_spoke = false;
        count(w, e->connection, WIRE_ROUND_TRIP);
    }
}

/* Tells the packets apart that come first and have no type. False: a request for encryption, or nonsense. */
static bool read_startup(wire_event *e, struct body *b)
{
    int64_t code = take_number(b, 4);
    if (code == 80877102)
        e->type = WIRE_CANCEL;
    return code == 80877102 || code >> 16 == 3;
}

static void message(wire *w, struct link *link, wire_direction from)
{
    struct reader *r = &link->reader[from];
    wire_event e = {.time = (double)now_ns() / NS_PER_S,
                    .connection = link->number,
                    .direction = from,
                    .type = (char)r->header[0]};
    struct body body = {r->body, r->body + r->kept};
    if (e.type == WIRE_STARTUP)
        link->broken |= !read_startup(&e, &body);
    else if (from == WIRE_FROM_CLIENT)
        read_client_message(&e, &body);
    else
        read_server_message(&e, &body);
    note_event(w, &e);
    count_message(w, &e);
    count_round_trip(w, &e);
    if (from == WIRE_FROM_CLIENT && e.type == 'B' && e.text)
        note_sighting(w, e.text);
}

/* Takes one byte of a header. */
static void read_header(struct link *link, struct reader *r, char byte)
{
    r->header[r->header_len++] = (unsigned char)byte;
    if (r->header_len < sizeof r->header)
        return;
    struct body length = {(char *)r->header + 1, (char *)r->header + sizeof r->header};
    int64_t n = take_number(&length, 4);
    link->broken |= n < 4;
    r->body_left = n < 4 ? 0 : (size_t)n - 4;
    r->kept = 0;
}

/* Takes what is there of a body; returns how much that is. */
static size_t read_body(struct reader *r, const char *data, size_t len)
{
    size_t n = len < r->body_left ? len : r->body_left, space = KEPT_BYTES - r->kept;
    memcpy(r->body + r->kept, data, n < space ? n : space);
    r->kept += n < space ? n : space;
    r->body_left -= n;
    return n;
}

/* Reads along with what goes through. */
static void read_along(wire *w, struct link *link, wire_direction from, const char *data, size_t len)
{
    struct reader *r = &link->reader[from];
    while (len > 0 && !link->broken) {
        size_t n = 1;
        if (r->header_len < sizeof r->header)
            read_header(link, r, *data);
        else
            n = read_body(r, data, len);
        data += n;
        len -= n;
        if (r->header_len == sizeof r->header && r->body_left == 0 && !link->broken) {
            message(w, link, from);
            r->header_len = 0;
        }
    }
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
    struct chunk *chunk = room(NULL, 1, sizeof *chunk + len);
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
        read_along(w, link, from, buffer, (size_t)len);
    if (!line->deaf)
        push_chunk(line, buffer, (size_t)len, now_ns() + w->delay);
}

/* How much of so much may pass before the connection is cut. */
static size_t may_pass(wire *w, const struct link *link, wire_direction from, size_t len)
{
    int64_t cut_in = record_of(w, link->number)->cut_in[from];
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
        read_along(w, link, from, data, (size_t)sent);
    struct record *r = record_of(w, link->number);
    r->cut_in[from] -= r->cut_in[from] >= 0 ? sent : 0;
    chunk->sent += (size_t)sent;
    if (chunk->sent < chunk->len)
        return len > 0 && r->cut_in[from] != 0;
    line->head = chunk->next;
    line->bytes -= chunk->len;
    free(chunk);
    return r->cut_in[from] != 0;
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
    struct record *r = record_of(w, link->number);
    for (int i = 0; i < 2; i++) {
        if (r->cut_in[i] != 0 || link->broken)
            continue;
        (r->cut_how[i] == WIRE_RST ? reset : finish)(link);
        r->cut_in[0] = r->cut_in[1] = -1;
        count(w, link->number, WIRE_CUT);
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
    struct link *link = room(NULL, 1, sizeof *link);
    memset(link, 0, sizeof *link);
    link->fd[WIRE_FROM_CLIENT] = client;
    link->fd[WIRE_FROM_SERVER] = server;
    link->number = (int)record_of(w, WIRE_ALL)->count[WIRE_ACCEPTED] + 1;
    link->reader[WIRE_FROM_CLIENT].header[0] = WIRE_STARTUP;
    link->reader[WIRE_FROM_CLIENT].header_len = 1;
    w->links[w->n_links++] = link;
    count(w, link->number, WIRE_ACCEPTED);
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
    for (size_t i = 0; i < w->n_events; i++) {
        free((char *)w->events[i].name);
        free((char *)w->events[i].text);
    }
    free(w->events);
    free(w->sightings);
    free(w->records);
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
    wire *w = room(NULL, 1, sizeof *w);
    memset(w, 0, sizeof *w);
    w->listener = -1;
    w->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    init_locks(w);
    grow_sightings(w);
    record_of(w, WIRE_ALL);
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
    struct record *r = record_of(w, number);
    r->cut_in[direction] = bytes;
    r->cut_how[direction] = how;
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
    int64_t n = record_of(w, connection)->count[what];
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
    while (record_of(w, connection)->count[what] < n && rc == 0)
        rc = pthread_cond_timedwait(&w->changed, &w->mu, &end);
    bool reached = record_of(w, connection)->count[what] >= n;
    pthread_mutex_unlock(&w->mu);
    return reached;
}

size_t wire_events(wire *w)
{
    pthread_mutex_lock(&w->mu);
    size_t n = w->n_events;
    pthread_mutex_unlock(&w->mu);
    return n;
}

wire_event wire_event_at(wire *w, size_t i)
{
    pthread_mutex_lock(&w->mu);
    wire_event e = w->events[i];
    pthread_mutex_unlock(&w->mu);
    return e;
}

int wire_seen(wire *w, const char *text)
{
    pthread_mutex_lock(&w->mu);
    int n = sighting_of(w, text)->n;
    pthread_mutex_unlock(&w->mu);
    return n;
}

int wire_seen_number(wire *w, int64_t number)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)number);
    return wire_seen(w, text);
}
