/*
 * tap: Test Anything Protocol for C programs, one header.
 *
 *     int main(void)
 *     {
 *         tap_begin(60);                            // seconds this program may take
 *         ok(1 + 1 == 2, "one and one are two");
 *         return done_testing();
 *     }
 *
 * Checks may be made from any thread. A program that exceeds its limit is ended by SIGALRM, which prove
 * shows. PQPOOL_TEST_SLOW=N multiplies the limit, for sanitizers and valgrind.
 */
#ifndef TAP_H
#define TAP_H

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t tap_lock = PTHREAD_MUTEX_INITIALIZER;
static int tap_run, tap_failed;

/* How many times slower than usual this run may be. */
__attribute__((unused)) static int tap_slowness(void)
{
    const char *slow = getenv("PQPOOL_TEST_SLOW");
    return slow && atoi(slow) > 0 ? atoi(slow) : 1;
}

__attribute__((unused)) static void tap_begin(unsigned seconds)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    alarm(seconds * (unsigned)tap_slowness());
}

__attribute__((unused, format(printf, 1, 2))) static void diag(const char *fmt, ...)
{
    char text[4000];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    pthread_mutex_lock(&tap_lock);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        printf("# %s\n", line);
    pthread_mutex_unlock(&tap_lock);
}

__attribute__((unused, format(printf, 4, 5))) static bool tap_ok(bool passed, const char *file, int line,
                                                                 const char *fmt, ...)
{
    char name[1000];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    pthread_mutex_lock(&tap_lock);
    printf("%sok %d - %s\n", passed ? "" : "not ", ++tap_run, name);
    if (!passed) {
        tap_failed++;
        printf("#   at %s:%d\n", file, line);
    }
    pthread_mutex_unlock(&tap_lock);
    return passed;
}
#define ok(passed, ...) tap_ok((passed), __FILE__, __LINE__, __VA_ARGS__)

#define is_int(got, want, ...)                                                                               \
    tap_is_int((long long)(got), (long long)(want), __FILE__, __LINE__, __VA_ARGS__)
#define tap_is_int(got, want, file, line, ...)                                                               \
    do {                                                                                                     \
        long long got_ = (got), want_ = (want);                                                              \
        if (!tap_ok(got_ == want_, file, line, __VA_ARGS__))                                                 \
            diag("  got: %lld\n  want: %lld", got_, want_);                                                  \
    } while (0)

/* A function, not a macro around ok(): the compiler would take the test for NULL as a hint that it may be. */
__attribute__((unused, format(printf, 5, 6))) static void
tap_is_str(const char *got, const char *want, const char *file, int line, const char *fmt, ...)
{
    char name[1000];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    if (!tap_ok(got && want ? strcmp(got, want) == 0 : got == want, file, line, "%s", name))
        diag("  got: %s\n  want: %s", got ? got : "(null)", want ? want : "(null)");
}
#define is_str(got, want, ...) tap_is_str((got), (want), __FILE__, __LINE__, __VA_ARGS__)

/* That text holds part. */
#define has(text, part, ...)                                                                                 \
    do {                                                                                                     \
        const char *text_ = (text), *part_ = (part);                                                         \
        if (!ok(text_ && strstr(text_, part_), __VA_ARGS__))                                                 \
            diag("  text: %s\n  has no: %s", text_ ? text_ : "(null)", part_);                               \
    } while (0)

__attribute__((unused)) static void skip_all(const char *why)
{
    printf("1..0 # SKIP %s\n", why);
    exit(0);
}

/* A test that cannot go on: says why and ends the program as failed. */
#define bail(...)                                                                                            \
    do {                                                                                                     \
        tap_ok(false, __FILE__, __LINE__, __VA_ARGS__);                                                      \
        exit(1);                                                                                             \
    } while (0)

__attribute__((unused)) static int done_testing(void)
{
    printf("1..%d\n", tap_run);
    if (tap_failed)
        printf("# %d of %d failed\n", tap_failed, tap_run);
    return tap_failed != 0;
}

#endif
