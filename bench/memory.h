/*
 * memory: what the library has allocated, and how often. The linker sends its calls here (--wrap=malloc ...), so this
 * is for programs that are linked with its objects; libpq and libc, shared libraries, keep their own.
 */
#ifndef BENCH_MEMORY_H
#define BENCH_MEMORY_H

/* Bytes in use, with what the allocator keeps for each block. */
long long library_bytes(void);

/* Calls that may have allocated, from the beginning on. */
long long library_calls(void);

#endif
