/* wirelog: see wirelog.h. Strings of a message are copied; what was not kept of it is as if it were not there. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* reallocarray */
#endif
#include "wirelog.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void *wirelog_room(void *old, size_t n, size_t size)
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

static wirelog_record *record_of(wirelog *log, int number)
{
    size_t n = log->n_records;
    if ((size_t)number < n)
        return &log->records[number];
    log->n_records = (size_t)number + 1;
    log->records = wirelog_room(log->records, log->n_records, sizeof *log->records);
    for (; n < log->n_records; n++)
        log->records[n] = (wirelog_record){0};
    return &log->records[number];
}

void wirelog_count(wirelog *log, int number, wire_what what)
{
    record_of(log, number)->count[what]++;
    log->records[WIRE_ALL].count[what]++;
}

/* Where the text is in the table, or belongs. */
static wirelog_sighting *sighting_of(const wirelog *log, const char *text)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (const char *c = text; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    for (size_t i = hash;; i++) {
        wirelog_sighting *s = &log->sightings[i & (log->sightings_room - 1)];
        if (!s->text || strcmp(s->text, text) == 0)
            return s;
    }
}

static void grow_sightings(wirelog *log)
{
    wirelog_sighting *old = log->sightings;
    size_t n = log->sightings_room;
    log->sightings_room = n ? 2 * n : 1024;
    log->sightings = wirelog_room(NULL, log->sightings_room, sizeof *log->sightings);
    memset(log->sightings, 0, log->sightings_room * sizeof *log->sightings);
    for (size_t i = 0; i < n; i++)
        if (old[i].text)
            *sighting_of(log, old[i].text) = old[i];
    free(old);
}

static void note_sighting(wirelog *log, const char *text)
{
    if (2 * log->n_sightings >= log->sightings_room)
        grow_sightings(log);
    wirelog_sighting *s = sighting_of(log, text);
    log->n_sightings += !s->text;
    s->text = s->text ? s->text : text;
    s->n++;
}

static void note_event(wirelog *log, const wire_event *e)
{
    if (log->n_events == log->events_room) {
        log->events_room = log->events_room ? 2 * log->events_room : 1024;
        log->events = wirelog_room(log->events, log->events_room, sizeof *log->events);
    }
    log->events[log->n_events++] = *e;
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

static void count_message(wirelog *log, const wire_event *e)
{
    for (size_t i = 0; i < sizeof counted / sizeof counted[0]; i++)
        if (counted[i].direction == e->direction && counted[i].type == e->type)
            wirelog_count(log, e->connection, counted[i].what);
    if (e->direction == WIRE_FROM_CLIENT && e->type == 'P' && *e->name)
        wirelog_count(log, e->connection, WIRE_PARSE_NAMED);
}

static void count_round_trip(wirelog *log, const wire_event *e)
{
    wirelog_record *r = record_of(log, e->connection);
    bool unasked = e->type == 'N' || e->type == 'A' || e->type == 'S';
    if (e->direction == WIRE_FROM_CLIENT) {
        r->client_spoke = true;
    } else if (r->client_spoke && !unasked) {
        r->client_spoke = false;
        wirelog_count(log, e->connection, WIRE_ROUND_TRIP);
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

static bool message(wirelog *log, wirelog_reader *r)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    wire_event e = {.time = (double)now.tv_sec + (double)now.tv_nsec / 1e9,
                    .connection = r->connection,
                    .direction = r->direction,
                    .type = (char)r->header[0]};
    struct body body = {r->body, r->body + r->kept};
    bool fine = true;
    if (e.type == WIRE_STARTUP)
        fine = read_startup(&e, &body);
    else if (e.direction == WIRE_FROM_CLIENT)
        read_client_message(&e, &body);
    else
        read_server_message(&e, &body);
    note_event(log, &e);
    count_message(log, &e);
    count_round_trip(log, &e);
    if (e.direction == WIRE_FROM_CLIENT && e.type == 'B' && e.text)
        note_sighting(log, e.text);
    return fine;
}

/* Takes one byte of a header. False: the length it says can't be. */
static bool read_header(wirelog_reader *r, char byte)
{
    r->header[r->header_len++] = (unsigned char)byte;
    if (r->header_len < sizeof r->header)
        return true;
    struct body length = {(char *)r->header + 1, (char *)r->header + sizeof r->header};
    int64_t n = take_number(&length, 4);
    r->body_left = n < 4 ? 0 : (size_t)n - 4;
    r->kept = 0;
    return n >= 4;
}

/* Takes what is there of a body; returns how much that is. */
static size_t read_body(wirelog_reader *r, const char *data, size_t len)
{
    size_t n = len < r->body_left ? len : r->body_left, space = WIRELOG_KEPT - r->kept;
    memcpy(r->body + r->kept, data, n < space ? n : space);
    r->kept += n < space ? n : space;
    r->body_left -= n;
    return n;
}

bool wirelog_read(wirelog *log, wirelog_reader *r, const char *data, size_t len)
{
    while (len > 0) {
        size_t n = 1;
        if (r->header_len == sizeof r->header)
            n = read_body(r, data, len);
        else if (!read_header(r, *data))
            return false;
        data += n;
        len -= n;
        if (r->header_len < sizeof r->header || r->body_left > 0)
            continue;
        r->header_len = 0;
        if (!message(log, r))
            return false;
    }
    return true;
}

void wirelog_begin(wirelog_reader *r, int connection, wire_direction direction)
{
    *r = (wirelog_reader){.connection = connection, .direction = direction};
    if (direction == WIRE_FROM_CLIENT)
        r->header[r->header_len++] = WIRE_STARTUP;
}

/* ---- asking, and the end ---- */

int64_t wirelog_counted(const wirelog *log, int number, wire_what what)
{
    return (size_t)number < log->n_records ? log->records[number].count[what] : 0;
}

int wirelog_seen(const wirelog *log, const char *text)
{
    return log->sightings ? sighting_of(log, text)->n : 0;
}

void wirelog_fini(wirelog *log)
{
    for (size_t i = 0; i < log->n_events; i++) {
        free((char *)log->events[i].name);
        free((char *)log->events[i].text);
    }
    free(log->events);
    free(log->sightings);
    free(log->records);
    *log = (wirelog){0};
}
