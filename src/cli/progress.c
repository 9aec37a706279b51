/* progress: a bar on stderr, and complaints that do not tear it apart. */
#include "progress.h"

#include "ticks.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BAR_WIDTH 30
#define REDRAW (50 * TICKS_MS) /* more often than this nobody can read it */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool shown;       /* guarded by lock: a bar stands on the current line */
static int64_t drawn_at; /* guarded by lock */
static char drawn[60];   /* guarded by lock: the text of the bar that was drawn last */

static void clear_locked(void)
{
    if (shown)
        fputs("\r\033[K", stderr);
    shown = false;
}

void progress_show(const char *what, double done, double whole)
{
    if (!isatty(STDERR_FILENO) || whole <= 0)
        return;
    char bar[BAR_WIDTH + 1];
    double part = done < whole ? done / whole : 1;
    int full = (int)(part * BAR_WIDTH);
    memset(bar, ' ', BAR_WIDTH);
    memset(bar, '#', (size_t)full);
    bar[BAR_WIDTH] = '\0';

    pthread_mutex_lock(&lock);
    int64_t now = ticks_now();
    if (now - drawn_at >= REDRAW || strncmp(drawn, what, sizeof drawn - 1) != 0) {
        clear_locked();
        fprintf(stderr, "[%s] %3.0f %% %s", bar, part * 100, what);
        fflush(stderr);
        snprintf(drawn, sizeof drawn, "%s", what);
        drawn_at = now;
        shown = true;
    }
    pthread_mutex_unlock(&lock);
}

void progress_clear(void)
{
    pthread_mutex_lock(&lock);
    clear_locked();
    pthread_mutex_unlock(&lock);
}

void complain(const char *fmt, ...)
{
    char text[2000];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    size_t len = strlen(text); /* libpq's messages end with a newline */
    while (len > 0 && text[len - 1] == '\n')
        text[--len] = '\0';
    pthread_mutex_lock(&lock);
    clear_locked();
    fprintf(stderr, "pqpool demo: %s\n", text);
    pthread_mutex_unlock(&lock);
}
