#include "share.h"

#include "run.h"

pqpool_code pqp_share_run(pqpool *p, const pqpool_stmt *stmts, int n, pqpool_group_mode mode,
                          PGresult **results, pqpool_error *errors)
{
    pqpool_error why;
    if (n == 0)
        return PQPOOL_OK;
    pqp_run *r = pqp_run_new(p, stmts, n, mode, results, errors, &why);
    if (!r) {
        for (int i = 0; i < n && errors; i++)
            errors[i] = why;
        return (pqpool_code)why.code;
    }
    pqpool_code code = pqp_run_exec(r);
    pqp_run_free(r);
    return code;
}
