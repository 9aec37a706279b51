/*
 * foreign: what options are called in other pools, and what there is here in their place. No aliases: what they mean differs in
 * units or in kind.
 */
#ifndef PQP_FOREIGN_H
#define PQP_FOREIGN_H

#include "span.h"

typedef struct pqp_foreign {
    const char *name; /* without "pool_" */
    const char *ours; /* an option of ours; "" if there is none */
    const char *note; /* what to mind; "" if nothing */
} pqp_foreign;

/* NULL: not known. */
const pqp_foreign *pqp_foreign_find(pqp_span name);
/* The one a misspelt name is like. */
const pqp_foreign *pqp_foreign_near(pqp_span name);

#endif
