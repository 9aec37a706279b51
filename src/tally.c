#include "tally.h"

#define BUMP(place, n)                                                                                       \
    __atomic_store_n((place), __atomic_load_n((place), __ATOMIC_RELAXED) + (n), __ATOMIC_RELAXED)
#define READ(place) __atomic_load_n((place), __ATOMIC_RELAXED)

/*      class, its name, the SQLSTATE classes in it */
#define CLASSES(X)                                                                                           \
    X(OTHER, "other", "")                                                                                    \
    X(CONNECTION, "connection", "08")                                                                        \
    X(DATA, "data", "22")                                                                                    \
    X(CONSTRAINT, "constraint", "23")                                                                        \
    X(TRANSACTION, "transaction", "25 2D 3B")                                                                \
    X(ROLLBACK, "rollback", "40")                                                                            \
    X(SYNTAX, "syntax_or_access", "42 44 26 34 3D 3F 28")                                                    \
    X(RESOURCES, "resources", "53 54")                                                                       \
    X(STATE, "object_state", "55")                                                                           \
    X(INTERVENTION, "intervention", "57")                                                                    \
    X(RAISED, "raised", "P0 39")                                                                             \
    X(INTERNAL, "internal", "58 XX")

static const struct {
    const char *name, *states;
} classes[] = {
#define ROW(id, name, states) [PQPOOL_ERROR_##id] = {name, states},
    CLASSES(ROW)
#undef ROW
};
_Static_assert(PQP_COUNT_OF(classes) <= PQPOOL_ERROR_CLASSES, "each is counted");

const char *pqpool_error_class_name(int error_class)
{
    return error_class >= 0 && error_class < (int)PQP_COUNT_OF(classes) ? classes[error_class].name
                                                                        : "unknown";
}

pqpool_error_class pqp_tally_class(const char *sqlstate)
{
    for (size_t i = 1; sqlstate && *sqlstate && i < PQP_COUNT_OF(classes); i++)
        for (const char *state = classes[i].states; *state; state += state[2] ? 3 : 2)
            if (strncmp(state, sqlstate, 2) == 0)
                return (pqpool_error_class)i;
    return PQPOOL_ERROR_OTHER;
}

void pqp_tally_done(pqp_tally *t, int64_t rows, int64_t bytes)
{
    BUMP(&t->done, 1);
    BUMP(&t->rows, rows);
    BUMP(&t->bytes, bytes);
    pqp_histogram_count(&t->rows_of_each, rows);
    pqp_histogram_count(&t->bytes_of_each, bytes);
}

void pqp_tally_failed(pqp_tally *t, const char *sqlstate)
{
    BUMP(&t->failed, 1);
    BUMP(&t->failed_by[pqp_tally_class(sqlstate)], 1);
}

void pqp_tally_time(pqp_tally *t, pqp_time whole, pqp_time unsent)
{
    pqp_histogram_count(&t->duration, PQP_MAX(0, whole) / 1000);
    pqp_histogram_count(&t->unsent, PQP_MAX(0, unsent) / 1000);
}

void pqp_tally_prepared(pqp_tally *t, bool hit)
{
    BUMP(hit ? &t->prepared_hits : &t->prepared_misses, 1);
}

void pqp_tally_merge(const pqp_tally *t, pqpool_stats_data *into)
{
    into->statements_done += READ(&t->done);
    into->statements_failed += READ(&t->failed);
    for (int i = 0; i < PQPOOL_ERROR_CLASSES; i++)
        into->failed_by[i] += READ(&t->failed_by[i]);
    into->returned_rows += READ(&t->rows);
    into->returned_bytes += READ(&t->bytes);
    into->prepared_hits += READ(&t->prepared_hits);
    into->prepared_misses += READ(&t->prepared_misses);
    pqpool_histogram_merge(&into->duration, &t->duration);
    pqpool_histogram_merge(&into->unsent_time, &t->unsent);
    pqpool_histogram_merge(&into->rows, &t->rows_of_each);
    pqpool_histogram_merge(&into->bytes, &t->bytes_of_each);
}
