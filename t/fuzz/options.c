/*
 * Fuzzes what is taken out of connection strings, and the options' values. What is left must be what libpq reads, and no option of
 * the pool's may be left in it; what was set must print as text that sets the same. Run by t/fuzz/run.
 */
#include "options.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fault(const char *what, const char *text, const char *more)
{
    fprintf(stderr, "\n%s\n  text: %s\n  %s\n", what, text, more);
    abort();
}

static void check_rest(const char *text, const char *rest, const pqp_options *o)
{
    char *why = NULL;
    if (o->given == 0 && strcmp(rest, text) != 0)
        fault("nothing was taken, and yet the rest is another text", text, rest);
    PQconninfoOption *parsed = PQconninfoParse(rest, &why);
    static const char option[] = "invalid connection option \"pool_",
                      param[] = "invalid URI query parameter: \"pool_";
    if (!parsed && why &&
        (strncmp(why, option, strlen(option)) == 0 || strncmp(why, param, strlen(param)) == 0))
        fault("an option of the pool's is left", text, why);
    PQconninfoFree(parsed);
    PQfreemem(why);
}

static void check_printed(const pqp_options *o, const char *text)
{
    pqp_options again;
    pqp_options_init(&again);
    for (int i = 0; pqp_options_row(i); i++) {
        char value[PQP_NAME_SIZE + 1];
        const char *name = pqp_options_row(i)->name;
        if (!(o->given >> i & 1))
            continue;
        if (pqp_options_print(o, name, value, sizeof value) != PQPOOL_OK ||
            pqp_options_set(&again, name, value, NULL) != PQPOOL_OK)
            fault("what an option prints does not set it", text, name);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), *rest = NULL;
    memcpy(text, data, size);
    text[size] = '\0';
    if (strlen(text) + 1 < size)
        text = realloc(text, strlen(text) + 1);
    pqp_options o, before;
    pqpool_error err;
    pqp_option_names names = {{0}};
    pqp_options_init(&o);
    before = o;
    if (pqp_options_split(&o, &names, text, &rest, &err) == PQPOOL_OK) {
        check_rest(text, rest, &o);
        check_printed(&o, text);
        (void)!pqp_options_check(&o, &err);
        free(rest);
    } else if (rest || memcmp(&o, &before, sizeof o) != 0 || !*err.message) {
        fault("a refused text has changed something, or is refused without a word", text, "");
    }
    pqp_options_init(&o);
    (void)!pqp_options_parse(&o, text, &err);
    free(text);
    return 0;
}
