/*
 * wirelog: reads the protocol's messages out of bytes, and keeps what wire.h tells of them: the log, the counts,
 * the parameters seen. Knows nothing of sockets. Not thread-safe: wire.c's lock guards it.
 */
#ifndef SUPPORT_WIRELOG_H
#define SUPPORT_WIRELOG_H

#include "wire.h"

/* What is known of a connection, also after its end; number 0 is all together. */
typedef struct wirelog_record {
    int64_t count[WIRE_COUNTS];
    bool client_spoke; /* since the server last did */
} wirelog_record;

/* A first parameter, and how often it was seen. The text is an event's. */
typedef struct wirelog_sighting {
    const char *text;
    int n;
} wirelog_sighting;

/* Begin with {0}. */
typedef struct wirelog {
    wirelog_record *records;
    size_t n_records;
    wire_event *events;
    size_t n_events, events_room;
    wirelog_sighting *sightings; /* a hash table; its size is a power of 2, at most half of it is used */
    size_t n_sightings, sightings_room;
} wirelog;

enum { WIRELOG_KEPT = 4000 }; /* bytes of a message's body: enough for its names and the first parameter */

/* Finds the messages in one direction of a connection. */
typedef struct wirelog_reader {
    int connection;
    wire_direction direction;
    unsigned char header[5]; /* type and length; a start-up packet is given the type it lacks */
    size_t header_len, body_left, kept;
    char body[WIRELOG_KEPT + 1];
} wirelog_reader;

/* realloc() for n things, or the end of the program. */
void *wirelog_room(void *old, size_t n, size_t size);

void wirelog_fini(wirelog *log);

void wirelog_begin(wirelog_reader *r, int connection, wire_direction direction);

/* Takes the next bytes in. False: they are not the protocol's, or ask for encryption. */
bool wirelog_read(wirelog *log, wirelog_reader *r, const char *data, size_t len);

void wirelog_count(wirelog *log, int connection, wire_what what);
int64_t wirelog_counted(const wirelog *log, int connection, wire_what what);
int wirelog_seen(const wirelog *log, const char *text);

#endif
