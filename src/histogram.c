#include "histogram.h"

enum { PER_OCTAVE = 4, LAST = PQPOOL_HISTOGRAM_CLASSES - 1 };

/* 0 to 3 us have a class each; from 4 us on the two bits below the highest one tell four classes of an octave apart. */
static int class_of(int64_t us)
{
    if (us < PER_OCTAVE)
        return us < 0 ? 0 : (int)us;
    int octave = 63 - __builtin_clzll((unsigned long long)us);
    int class = (octave - 1) * PER_OCTAVE + (int)(us >> (octave - 2) & (PER_OCTAVE - 1));
    return PQP_MIN(class, LAST);
}

int64_t pqpool_histogram_bound(int index)
{
    if (index < PER_OCTAVE)
        return PQP_MAX(0, index);
    if (index >= LAST)
        return INT64_MAX;
    int octave = index / PER_OCTAVE + 1;
    return ((int64_t)(PER_OCTAVE + index % PER_OCTAVE + 1) << (octave - 2)) - 1;
}

/* One thread writes at a time, under a lock of its own; others read without it. */
#define READ(place) __atomic_load_n((place), __ATOMIC_RELAXED)
#define WRITE(place, value) __atomic_store_n((place), (value), __ATOMIC_RELAXED)

void pqp_histogram_count(pqpool_histogram *h, int64_t us)
{
    int64_t *place = &h->classes[class_of(us)];
    WRITE(&h->count, READ(&h->count) + 1);
    WRITE(&h->sum_us, READ(&h->sum_us) + us);
    if (us > READ(&h->max_us))
        WRITE(&h->max_us, us);
    WRITE(place, READ(place) + 1);
}

void pqpool_histogram_merge(pqpool_histogram *into, const pqpool_histogram *from)
{
    into->count += READ(&from->count);
    into->sum_us += READ(&from->sum_us);
    into->max_us = PQP_MAX(into->max_us, READ(&from->max_us));
    for (int i = 0; i < PQPOOL_HISTOGRAM_CLASSES; i++)
        into->classes[i] += READ(&from->classes[i]);
}

int64_t pqpool_histogram_quantile(const pqpool_histogram *h, double share)
{
    int64_t seen = 0;
    for (int i = 0; i < PQPOOL_HISTOGRAM_CLASSES; i++) {
        seen += h->classes[i];
        if (seen > 0 && (double)seen >= share * (double)h->count)
            return PQP_MIN(pqpool_histogram_bound(i), h->max_us);
    }
    return 0;
}
