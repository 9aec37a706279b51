/*
 * ops: the exported functions of pqpool-ops.h, as api.c has those of pqpool.h.
 */
#include "base.h"

#include "connector.h"
#include "health.h"
#include "inspect.h"
#include "life.h"

/* The caller's struct may be of an older or a newer library: he gets what both know. */
static void hand_over(void *to, size_t size, const void *from, size_t known)
{
    memcpy((char *)to + sizeof size, (const char *)from + sizeof size, PQP_MIN(size, known) - sizeof size);
}

/* ---- figures, health ---- */

pqpool_code pqpool_stats(pqpool *pool, pqpool_stats_data *stats)
{
    pqpool_code code = pqp_life_check(pool, NULL);
    if (code != PQPOOL_OK)
        return code;
    if (!stats || stats->size < sizeof stats->size)
        return PQPOOL_EINVAL;
    pqpool_stats_data all;
    pqp_life_enter(pool);
    pqp_pool_lock(pool);
    pqp_fleet_stats_locked(pool, &all);
    pqp_pool_unlock(pool);
    hand_over(stats, stats->size, &all, sizeof all);
    return pqp_life_leave(pool, PQPOOL_OK);
}

pqpool_code pqpool_health(pqpool *pool, pqpool_health_data *health)
{
    pqpool_code code = pqp_life_check(pool, NULL);
    if (code != PQPOOL_OK)
        return code;
    if (!health || health->size < sizeof health->size)
        return PQPOOL_EINVAL;
    pqpool_health_data all;
    pqp_life_enter(pool);
    pqp_pool_lock(pool);
    pqp_health_judge_locked(pool, pqp_now(), &all);
    pqp_pool_unlock(pool);
    hand_over(health, health->size, &all, sizeof all);
    return pqp_life_leave(pool, PQPOOL_OK);
}

/* ---- who, what ---- */

pqpool_inspection *pqpool_inspect(pqpool *pool, pqpool_error *err)
{
    if (pqp_life_check(pool, err) != PQPOOL_OK)
        return NULL;
    pqp_error_clear(err);
    pqp_life_enter(pool);
    pqpool_inspection *all = pqp_inspect_pool(pool);
    (void)pqp_life_leave(pool, PQPOOL_OK);
    if (!all)
        pqp_no_memory(err);
    return all;
}

void pqpool_inspection_free(pqpool_inspection *inspection)
{
    free(inspection);
}

pqpool_holder_list *pqpool_holders(pqpool *pool, int ask_ms, pqpool_error *err)
{
    if (pqp_life_check(pool, err) != PQPOOL_OK)
        return NULL;
    if (ask_ms < 0) {
        pqp_refuse(err, PQPOOL_EINVAL, "ask_ms is %d: give milliseconds, or 0 not to ask the server", ask_ms);
        return NULL;
    }
    pqp_error_clear(err);
    pqp_life_enter(pool);
    (void)pqp_watch_look(pool, true);
    if (ask_ms > 0)
        pqp_connector_survey_here(pool, pqp_deadline(pqp_now(), ask_ms));
    pqpool_holder_list *list = pqp_inspect_holders(pool);
    (void)pqp_life_leave(pool, PQPOOL_OK);
    if (!list)
        pqp_no_memory(err);
    return list;
}

void pqpool_holders_free(pqpool_holder_list *list)
{
    free(list);
}

/* ---- control ---- */

/* Something that is done to the pool as a whole, unless it is closed. */
static pqpool_code control(pqpool *pool, void (*act_locked)(pqpool *))
{
    pqpool_code code = pqp_life_check(pool, NULL);
    if (code != PQPOOL_OK)
        return code;
    pqp_life_enter(pool);
    pqp_pool_lock(pool);
    if (pool->closing)
        code = PQPOOL_ECLOSED;
    else
        act_locked(pool);
    pqp_pool_unlock(pool);
    return pqp_life_leave(pool, code);
}

pqpool_code pqpool_suspend(pqpool *pool)
{
    return control(pool, pqp_pool_suspend_locked);
}

pqpool_code pqpool_resume(pqpool *pool)
{
    return control(pool, pqp_pool_resume_locked);
}

pqpool_code pqpool_evict(pqpool *pool)
{
    return control(pool, pqp_pool_evict_locked);
}

/* An option that is fixed may be named with the value it has. */
static pqpool_code check_fixed(const pqp_options *before, const pqp_options *after, pqpool_error *err)
{
    const pqp_option_row *row;
    for (int i = 0; (row = pqp_options_row(i)); i++) {
        char was[PQP_NAME_SIZE], is[PQP_NAME_SIZE];
        if (row->changeable || pqp_options_print(before, row->name, was, sizeof was) != PQPOOL_OK ||
            pqp_options_print(after, row->name, is, sizeof is) != PQPOOL_OK || strcmp(was, is) == 0)
            continue;
        return pqp_refuse(err, PQPOOL_EINVAL, "option %s is fixed once the pool is open: it is %s", row->name,
                          was);
    }
    return PQPOOL_OK;
}

pqpool_code pqpool_reload(pqpool *pool, const char *text, pqpool_error *err)
{
    pqpool_code code = pqp_life_check(pool, err);
    if (code != PQPOOL_OK)
        return code;
    pqp_error_clear(err);
    if (!text)
        return pqp_refuse(err, PQPOOL_EINVAL, "options must not be NULL");
    pqp_life_enter(pool);
    pqp_pool_lock(pool);
    pqp_options options = pool->options;
    code = pqp_options_parse(&options, text, err);
    if (code == PQPOOL_OK)
        code = check_fixed(&pool->options, &options, err);
    if (code == PQPOOL_OK)
        code = pqp_fleet_reconfigure_locked(pool, &options, err);
    pqp_pool_unlock(pool);
    return pqp_life_leave(pool, code);
}
