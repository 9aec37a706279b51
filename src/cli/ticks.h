/* ticks: nanoseconds of the monotonic clock. */
#ifndef CLI_TICKS_H
#define CLI_TICKS_H

#include <stdint.h>
#include <time.h>

#define TICKS_MS INT64_C(1000000)
#define TICKS_SECOND INT64_C(1000000000)

static inline int64_t ticks_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * TICKS_SECOND + t.tv_nsec;
}

static inline struct timespec ticks_span(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / TICKS_SECOND, .tv_nsec = ns % TICKS_SECOND};
}

/* Sleeps; a signal ends the sleep early. */
static inline void ticks_sleep(int64_t ns)
{
    struct timespec span = ticks_span(ns);
    nanosleep(&span, NULL);
}

#endif
