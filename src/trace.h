/*
 * trace: how a caller came to where he is: his call stack, taken quickly, put into words only when somebody asks. Where the
 * system's library can't do it, traces are empty.
 */
#ifndef PQP_TRACE_H
#define PQP_TRACE_H

#include "base.h"
#include <pqpool-ops.h>

/* The calling thread's, innermost first; returns how many frames. */
int pqp_trace_take(void **frames, int room);

/* "server(handle+0x1f) < server(main+0x40)", from the caller of the library on: what addr2line wants. Allocates; without
 * memory the text is empty. */
void pqp_trace_text(void *const *frames, int n, char *text, size_t size);

#endif
