/* clock: the only file that asks the system for the time. */
#include "clock.h"

#include <limits.h>
#include <time.h>

pqp_time pqp_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (pqp_time)ts.tv_sec * PQP_SECOND + ts.tv_nsec;
}

pqp_time pqp_deadline(pqp_time now, int64_t ms)
{
    if (ms < 0 || ms > (PQP_NEVER - now) / PQP_MS - 1)
        return PQP_NEVER;
    return now + ms * PQP_MS;
}

int pqp_poll_ms(pqp_time deadline, pqp_time now)
{
    if (deadline == PQP_NEVER)
        return -1;
    if (deadline <= now)
        return 0;
    pqp_time ms = (deadline - now + PQP_MS - 1) / PQP_MS;
    return ms > INT_MAX ? INT_MAX : (int)ms;
}

pqp_time pqp_jitter(pqp_time span, int percent)
{
    /* xorshift over a word shared by all threads: a lost update only repeats a number. */
    static _Atomic uint64_t word = 0;
    uint64_t x = pqp_peek(&word);
    if (x == 0)
        x = (uint64_t)pqp_now() | 1;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    atomic_store_explicit(&word, x, memory_order_relaxed);
    pqp_time reach = span / 100 * percent;
    return reach <= 0 ? span : span - reach + (pqp_time)(x % (uint64_t)(2 * reach + 1));
}
