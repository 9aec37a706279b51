#include "memory.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
char *__real_strdup(const char *s);
void __real_free(void *p);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
char *__wrap_strdup(const char *s);
void __wrap_free(void *p);

static atomic_llong live_bytes, calls;

long long library_bytes(void)
{
    return live_bytes;
}

long long library_calls(void)
{
    return calls;
}

/* With the word that the allocator keeps before each block. */
static long long size_of(void *p)
{
    return p ? (long long)(malloc_usable_size(p) + sizeof(size_t)) : 0;
}

static void *counted(void *p)
{
    live_bytes += size_of(p);
    calls++;
    return p;
}

void *__wrap_malloc(size_t size)
{
    return counted(__real_malloc(size));
}

void *__wrap_calloc(size_t n, size_t size)
{
    return counted(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t size)
{
    long long before = size_of(p);
    void *q = __real_realloc(p, size);
    calls++;
    if (q)
        live_bytes += size_of(q) - before;
    return q;
}

char *__wrap_strdup(const char *s)
{
    return counted(__real_strdup(s));
}

void __wrap_free(void *p)
{
    live_bytes -= size_of(p);
    __real_free(p);
}
