#include "trace.h"

#include <stdio.h>
#ifdef HAVE_BACKTRACE
#include <execinfo.h>
#endif

#ifdef HAVE_BACKTRACE

int pqp_trace_take(void **frames, int room)
{
    return backtrace(frames, room);
}

void pqp_trace_text(void *const *frames, int n, char *text, size_t size)
{
    size_t at = 0;
    char **symbols = n > 0 ? backtrace_symbols(frames, n) : NULL;
    text[0] = '\0';
    for (int i = 0; symbols && i < n && at < size; i++) {
        const char *name = strrchr(symbols[i], '/'); /* "path/program(function+0x1f) [0x55...]" */
        name = name ? name + 1 : symbols[i];
        if (at == 0 && strncmp(name, "libpqpool", 9) == 0)
            continue; /* everybody's way in */
        at +=
            (size_t)snprintf(text + at, size - at, "%s%.*s", at ? " < " : "", (int)strcspn(name, " "), name);
    }
    free(symbols);
}

#else

int pqp_trace_take(void **frames, int room)
{
    (void)frames, (void)room;
    return 0;
}

void pqp_trace_text(void *const *frames, int n, char *text, size_t size)
{
    (void)frames, (void)n, (void)size;
    text[0] = '\0';
}

#endif
