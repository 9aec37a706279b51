/*
 * callgrind: counts what runs between START and STOP, when it was started with --instr-atstart=no.
 */
#ifndef BENCH_CALLGRIND_H
#define BENCH_CALLGRIND_H

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_START_INSTRUMENTATION ((void)0)
#define CALLGRIND_STOP_INSTRUMENTATION ((void)0)
#endif

#endif
