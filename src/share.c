#include "share.h"

#include "run.h"

pqpool_code pqp_share_run(pqpool *p, const pqpool_stmt *stmts, int n, pqpool_group_mode mode,
                          PGresult **results, pqpool_error *errors)
{
    pqpool_error why;
    if (n == 0)
        return PQPOOL_OK;
    pqp_run *r = pqp_depot_take(&p->runs);
    pqpool_code code =
        !r ? pqp_no_memory(&why) : pqp_run_init(r, p, &p->runs, stmts, n, mode, results, errors, NULL, &why);
    if (code != PQPOOL_OK) {
        if (r)
            pqp_depot_put(&p->runs, r);
        for (int i = 0; i < n; i++) {
            results[i] = NULL;
            if (errors)
                errors[i] = why;
        }
        return code;
    }
    code = pqp_run_exec(r);
    pqp_run_free(r);
    return code;
}
