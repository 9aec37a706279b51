/* meaning: what the measured figures say, in words. */
#include "meaning.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define WIDTH 100
#define ALIKE 0.1 /* rates that differ by less than this part are called the same: runs vary that much */

/* The modes of one round trip and form. */
struct set {
    const cell *by_mode[MODE_COUNT];
};

/* ---- text ---- */

static int column;

/* Prints words, broken into lines. */
static void tell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void tell(const char *fmt, ...)
{
    char text[1000], *rest = NULL;
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    for (char *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        int len = (int)strlen(word);
        if (column > 0 && column + 1 + len > WIDTH) {
            putchar('\n');
            column = 0;
        }
        column += printf("%s%s", column ? " " : "", word);
    }
}

static void end_paragraph(void)
{
    puts("");
    column = 0;
}

static const char *plural(int n)
{
    return n == 1 ? "connection" : "connections";
}

/* ---- figures ---- */

/* The rate of a as a multiple of b's; 0 if there is none to compare with. */
static double ratio(const cell *a, const cell *b)
{
    return b->requests_per_s > 0 ? a->requests_per_s / b->requests_per_s : 0;
}

static bool alike(double r)
{
    return r > 1 - ALIKE && r < 1 / (1 - ALIKE);
}

/* "1.9 times as many requests as", "0.60 times ...", "about as many ...". */
static void tell_ratio(const cell *a, const cell *b)
{
    double r = ratio(a, b);
    const char *other = request_mode_name(b->mode);
    if (r <= 0)
        tell("of which nothing can be said against %s,", other);
    else if (alike(r))
        tell("about as many requests as %s (%.0f against %.0f per second),", other, a->requests_per_s,
             b->requests_per_s);
    else
        tell("%.*f times as many requests as %s (%.0f against %.0f per second),", r < 1 ? 2 : 1, r, other,
             a->requests_per_s, b->requests_per_s);
}

/* ---- paragraphs ---- */

static void tell_connections(const struct set *s)
{
    const cell *parallel = s->by_mode[MODE_PARALLEL], *shared = s->by_mode[MODE_SHARED];
    const cell *serial = s->by_mode[MODE_SERIAL], *transaction = s->by_mode[MODE_TRANSACTION];
    tell("Connections: a lease for each statement of a group held up to %d %s, shared %d.",
         parallel->connections_peak, plural(parallel->connections_peak), shared->connections_peak);
    if (parallel->connections_peak == shared->connections_peak)
        tell("So sharing saved none here.");
    else if (parallel->connections_peak >= parallel->pool_size)
        tell("That is all the pool may open (%d): the other statements had to wait for one.",
             parallel->pool_size);
    tell("One after another took %d, one transaction around the request %d.", serial->connections_peak,
         transaction->connections_peak);
}

static void tell_speed(const struct set *s)
{
    const cell *parallel = s->by_mode[MODE_PARALLEL], *shared = s->by_mode[MODE_SHARED];
    double against_parallel = ratio(shared, parallel);
    tell("Speed: shared served");
    tell_ratio(shared, parallel);
    tell_ratio(shared, s->by_mode[MODE_SERIAL]);
    tell("and");
    tell_ratio(shared, s->by_mode[MODE_TRANSACTION]);
    tell("with a median of %.2f ms against parallel's %.2f ms.", shared->p50_ms, parallel->p50_ms);
    if (against_parallel <= 0)
        return;
    if (alike(against_parallel))
        tell("Between shared and parallel the speed does not decide; the connections do.");
    else if (against_parallel < 1)
        tell("Shared was slower than parallel: statements on one connection run one after another in"
             " one server process, which uses one core at most, where parallel had up to %d of them.",
             parallel->connections_peak);
    else
        tell("Shared was the faster of the two: a group goes out together and costs one round trip,"
             " and nobody waits for a connection.");
}

static void tell_auto(const struct set *s)
{
    const cell *shared = s->by_mode[MODE_SHARED], *more = s->by_mode[MODE_SHARED_AUTO];
    double r = ratio(more, shared);
    if (more->connections_peak <= shared->connections_peak) {
        tell("shared-auto saw no need to open more than %d %s.", more->connections_peak,
             plural(more->connections_peak));
        return;
    }
    tell("shared-auto, which may open more when one is really busy, went up to %d %s and served",
         more->connections_peak, plural(more->connections_peak));
    tell_ratio(more, shared);
    tell_ratio(more, s->by_mode[MODE_PARALLEL]);
    tell(r > 0 && !alike(r) && r > 1 ? "so the additional ones paid."
                                     : "so the additional ones gained nothing.");
}

static void tell_errors(const struct set *s)
{
    long errors = 0;
    for (int m = 0; m < MODE_COUNT; m++)
        errors += s->by_mode[m]->errors;
    if (errors)
        tell("%ld requests failed or had a wrong answer, so these figures prove nothing.", errors);
}

static void tell_set(const struct set *s)
{
    const cell *any = s->by_mode[0];
    tell("%d %s, %s,", any->users, any->users == 1 ? "user" : "users",
         any->statements == 12  ? "1 + 5 + 1 + 5 statements"
         : any->statements == 5 ? "1 + 5 statements"
                                : "1 + 3 statements");
    if (any->rtt_ms > 0)
        tell("%g ms of round trip added.", any->rtt_ms);
    else
        tell("directly at the server.");
    tell_connections(s);
    tell_speed(s);
    tell_auto(s);
    tell_errors(s);
    end_paragraph();
}

void meaning_print(const cell *cells, int n)
{
    if (n >= MODE_COUNT)
        puts("\nWhat that means");
    for (int i = 0; i + MODE_COUNT <= n; i += MODE_COUNT) {
        struct set s;
        for (int m = 0; m < MODE_COUNT; m++)
            s.by_mode[m] = &cells[i + m];
        puts("");
        tell_set(&s);
    }
}
