/*
 * error: codes, their texts, and the fixed-size error a caller hands in.
 */
#ifndef PQP_ERROR_H
#define PQP_ERROR_H

#include "base.h"
#include <pqpool.h>

/* Clears *err to PQPOOL_OK, DONE. err may be NULL. */
void pqp_error_clear(pqpool_error *err);

/* Fills *err (may be NULL) and returns code, so that a failing path is one line. Cuts what does not
 * fit, between two characters, and makes one line of several. */
pqpool_code pqp_fail(pqpool_error *err, pqpool_code code, pqpool_outcome outcome, const char *fmt, ...)
    PQP_PRINTF(4, 5);

/* The same for a call whose statement never left the process. */
#define pqp_refuse(err, code, ...) pqp_fail((err), (code), PQPOOL_NOT_SENT, __VA_ARGS__)

/* Sets only the SQLSTATE; anything but five characters clears it. */
void pqp_error_sqlstate(pqpool_error *err, const char *sqlstate);

/* Puts formatted text behind the message that is there already. */
void pqp_error_append(pqpool_error *err, const char *fmt, ...) PQP_PRINTF(2, 3);

/* Out of memory: needs none. */
pqpool_code pqp_no_memory(pqpool_error *err);

#endif
