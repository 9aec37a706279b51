/* error: one list gives the codes their names and texts. */
#include "error.h"

#include "refusal.h"
#include "text.h"

#include <stdarg.h>

_Static_assert(sizeof(pqpool_error) == 1024, "the public error has a fixed size");

#define CODES(X)                                                                                             \
    X(PQPOOL_OK, "success")                                                                                  \
    X(PQPOOL_EINVAL, "the call is wrong")                                                                    \
    X(PQPOOL_ENOMEM, "out of memory")                                                                        \
    X(PQPOOL_ETIMEDOUT, "the deadline passed")                                                               \
    X(PQPOOL_EPENDING, "not finished yet")                                                                   \
    X(PQPOOL_EQUEUEFULL, "the pool's queue is full")                                                         \
    X(PQPOOL_ENOWAIT, "no connection is free and waiting is off")                                            \
    X(PQPOOL_ECLOSED, "the pool is closed")                                                                  \
    X(PQPOOL_EBUSY, "leases or statements are still out")                                                    \
    X(PQPOOL_ECONNECT, "no connection to the server")                                                        \
    X(PQPOOL_ELOST, "the connection was lost")                                                               \
    X(PQPOOL_EDEADLOCK, "waiting could never end")                                                           \
    X(PQPOOL_ENESTED, "a second connection while one is held")                                               \
    X(PQPOOL_EREFUSED, "the statement may not run on a shared connection")                                   \
    X(PQPOOL_ESERVER, "the server answered with an error")                                                   \
    X(PQPOOL_ETOOBIG, "too large")                                                                           \
    X(PQPOOL_ECANCELED, "canceled")                                                                          \
    X(PQPOOL_EFORKED, "the pool belongs to the parent process")

const char *pqpool_code_name(pqpool_code code)
{
    switch (code) {
#define NAME(code, text)                                                                                     \
    case code:                                                                                               \
        return #code;
        CODES(NAME)
    }
    return "unknown code";
}

const char *pqpool_strerror(pqpool_code code)
{
    switch (code) {
#define TEXT(code, text)                                                                                     \
    case code:                                                                                               \
        return text;
        CODES(TEXT)
    }
    return "unknown error";
}

void pqp_error_clear(pqpool_error *err)
{
    if (!err)
        return;
    /* The message's tail is left as it is: clearing 1 KB for each statement would cost more than sending
     * it. */
    memset(err, 0, offsetof(pqpool_error, message) + 1);
    err->row = -1;
}

pqpool_code pqp_fail(pqpool_error *err, pqpool_code code, pqpool_outcome outcome, const char *fmt, ...)
{
    if (!err)
        return code;
    pqp_error_clear(err);
    err->code = (int32_t)code;
    err->outcome = (int32_t)outcome;
    va_list args;
    va_start(args, fmt);
    pqp_text_print(err->message, sizeof err->message, fmt, args);
    va_end(args);
    pqp_text_one_line(err->message);
    return code;
}

void pqp_error_sqlstate(pqpool_error *err, const char *sqlstate)
{
    if (!err)
        return;
    if (sqlstate && strlen(sqlstate) == 5)
        memcpy(err->sqlstate, sqlstate, 6);
    else
        err->sqlstate[0] = '\0';
}

void pqp_error_append(pqpool_error *err, const char *fmt, ...)
{
    if (!err)
        return;
    size_t used = strlen(err->message);
    va_list args;
    va_start(args, fmt);
    pqp_text_print(err->message + used, sizeof err->message - used, fmt, args);
    va_end(args);
    pqp_text_one_line(err->message + used);
}

pqpool_code pqp_no_memory(pqpool_error *err)
{
    return pqp_fail(err, PQPOOL_ENOMEM, PQPOOL_NOT_SENT, "out of memory");
}

static bool one_of(const char *sqlstate, const char *const *list)
{
    for (; *list; list++)
        if (strncmp(sqlstate, *list, strlen(*list)) == 0)
            return true;
    return false;
}

int pqpool_is_retryable(const pqpool_error *err)
{
    static const char *const retry[] = {"40001", "40P01", NULL};
    if (!err || err->code == PQPOOL_OK)
        return 0;
    if (one_of(err->sqlstate, retry))
        return 1;
    if (pqp_refusal_is_final(err))
        return 0;
    switch (err->code) {
    case PQPOOL_EINVAL:
    case PQPOOL_EREFUSED:
    case PQPOOL_ETOOBIG:
    case PQPOOL_ECLOSED:
    case PQPOOL_EFORKED:
        return 0;
    default:
        return err->outcome == PQPOOL_NOT_SENT || err->outcome == PQPOOL_NOT_RUN;
    }
}
