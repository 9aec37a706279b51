/* meaning: what the measured figures say, in words. */
#include "meaning.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define WIDTH 79
#define ALIKE                                                                                                \
    0.1 /* rates that differ by less than this part are called the same, however little the rounds vary */
#define BUSY 0.5 /* where the rounds of one way lie farther apart, something else was at work */

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

/* The rate of one way as a multiple of another's, round by round. */
typedef struct comparison {
    double ratio;  /* the median of the rounds; 0: there is none to compare with */
    double spread; /* between the rounds */
} comparison;

static comparison compare(const cell *a, const cell *b)
{
    double ratios[MAX_ROUNDS];
    int n = a->n_rounds;
    for (int i = 0; i < n; i++) {
        if (b->rates[i] <= 0)
            return (comparison){0};
        ratios[i] = a->rates[i] / b->rates[i];
    }
    comparison c = {.ratio = cell_median(ratios, n)}; /* in order afterwards */
    c.spread = n > 0 ? ratios[n - 1] - ratios[0] : 0;
    return c;
}

/* One more than the other only by what it varies by itself. */
static bool alike(comparison c)
{
    return (c.ratio > 1 - ALIKE && c.ratio < 1 / (1 - ALIKE)) ||
           (c.ratio > 1 - c.spread && c.ratio < 1 + c.spread);
}

/* "1.9 times as many requests as", "0.60 times ...", "as many ... within what the rounds vary". */
static void tell_ratio(const cell *a, const cell *b)
{
    comparison c = compare(a, b);
    const char *other = request_mode_name(b->mode);
    if (c.ratio <= 0)
        tell("of which nothing can be said against %s,", other);
    else if (alike(c))
        tell("as many requests as %s within what the rounds vary (%.0f against %.0f per second),", other,
             a->requests_per_s, b->requests_per_s);
    else
        tell("%.*f times as many requests as %s (%.0f against %.0f per second),", c.ratio < 1 ? 2 : 1,
             c.ratio, other, a->requests_per_s, b->requests_per_s);
}

static void tell_form(const cell *any)
{
    tell("%d %s, %s,", any->users, any->users == 1 ? "user" : "users",
         any->statements == 12  ? "1 + 5 + 1 + 5 statements"
         : any->statements == 5 ? "1 + 5 statements"
                                : "1 + 3 statements");
    if (any->rtt_ms > 0)
        tell("%g ms of round trip added:", any->rtt_ms);
    else
        tell("directly at the server:");
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
    comparison against_parallel = compare(shared, parallel);
    tell("Speed: shared served");
    tell_ratio(shared, parallel);
    tell_ratio(shared, s->by_mode[MODE_SERIAL]);
    tell("and");
    tell_ratio(shared, s->by_mode[MODE_TRANSACTION]);
    tell("with a median of %.2f ms against parallel's %.2f ms.", shared->p50_ms, parallel->p50_ms);
    if (against_parallel.ratio <= 0)
        return;
    if (alike(against_parallel))
        tell("Between shared and parallel the speed does not decide; the connections do.");
    else if (against_parallel.ratio < 1)
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
    comparison c = compare(more, shared);
    if (more->connections_peak <= shared->connections_peak) {
        tell("shared-auto saw no need to open more than %d %s.", more->connections_peak,
             plural(more->connections_peak));
        return;
    }
    tell("shared-auto, which may open more when one is really busy, went up to %d %s and served",
         more->connections_peak, plural(more->connections_peak));
    tell_ratio(more, shared);
    tell_ratio(more, s->by_mode[MODE_PARALLEL]);
    tell(!alike(c) && c.ratio > 1 ? "so the additional ones paid."
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
    tell_form(s->by_mode[0]);
    tell_connections(s);
    tell_speed(s);
    tell_auto(s);
    tell_errors(s);
    end_paragraph();
}

static struct set set_at(const cell *cells)
{
    struct set s;
    for (int m = 0; m < MODE_COUNT; m++)
        s.by_mode[m] = &cells[m];
    return s;
}

/* The machine, or the server, had something else to do: then no verdict is to be relied on. */
static void tell_busy(const cell *cells, int n)
{
    double worst = 0;
    for (int i = 0; i < n; i++)
        worst = cell_spread(&cells[i]) > worst ? cell_spread(&cells[i]) : worst;
    if (worst <= BUSY)
        return;
    tell("The machine was busy: the rounds of one way lie %.0f %% apart. Run it again when it is quiet, or "
         "with"
         " more --seconds and --rounds, before you rely on it.",
         worst * 100);
    end_paragraph();
}

void meaning_verdict(const cell *cells, int n)
{
    tell_busy(cells, n);
    for (int i = 0; i + MODE_COUNT <= n; i += MODE_COUNT) {
        struct set s = set_at(&cells[i]);
        const cell *parallel = s.by_mode[MODE_PARALLEL], *shared = s.by_mode[MODE_SHARED];
        comparison c = compare(shared, parallel);
        tell_form(shared);
        tell("sharing took %d %s in place of %d, and", shared->connections_peak,
             plural(shared->connections_peak), parallel->connections_peak);
        if (c.ratio <= 0)
            tell("of the speed nothing can be said.");
        else if (alike(c))
            tell("made no difference in speed.");
        else if (c.ratio > 1)
            tell("served %.1f times as many requests.", c.ratio);
        else
            tell("served %.2f times as many requests: fewer.", c.ratio);
        tell_errors(&s);
        end_paragraph();
    }
    puts("");
}

void meaning_print(const cell *cells, int n)
{
    if (n >= MODE_COUNT)
        puts("\nWhat that means");
    for (int i = 0; i + MODE_COUNT <= n; i += MODE_COUNT) {
        struct set s = set_at(&cells[i]);
        puts("");
        tell_set(&s);
    }
}
