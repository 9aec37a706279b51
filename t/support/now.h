/*
 * now: the time and sleep, for tests and measurements.
 */
#ifndef SUPPORT_NOW_H
#define SUPPORT_NOW_H

#include <poll.h>
#include <time.h>

__attribute__((unused)) static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

__attribute__((unused)) static void sleep_ms(int ms)
{
    poll(NULL, 0, ms);
}

#endif
