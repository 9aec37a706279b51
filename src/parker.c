#include "parker.h"

int pqp_parker_init(pqp_parker *p)
{
    int rc = pqp_mutex_init(&p->mu, PQP_RANK_PARKER);
    if (rc != 0)
        return rc;
    rc = pqp_cond_init(&p->cond);
    if (rc != 0)
        pqp_mutex_destroy(&p->mu);
    atomic_init(&p->word, PQP_PARKED);
    return rc;
}

void pqp_parker_fini(pqp_parker *p)
{
    pqp_cond_destroy(&p->cond);
    pqp_mutex_destroy(&p->mu);
}

void pqp_parker_reset(pqp_parker *p)
{
    pqp_store(&p->word, PQP_PARKED);
}

void pqp_parker_post(pqp_parker *p, int word)
{
    /* The word goes first: an owner who is awake takes it without the lock. The lock is then only passed
     * through, so that an owner between his look at the word and his sleep is not missed. */
    pqp_store(&p->word, word);
    pqp_mutex_lock(&p->mu);
    pqp_mutex_unlock(&p->mu);
    pqp_cond_signal(&p->cond);
}

int pqp_parker_wait(pqp_parker *p, pqp_time deadline)
{
    int word = pqp_load(&p->word);
    if (word != PQP_PARKED)
        return word;
    pqp_mutex_lock(&p->mu);
    while ((word = pqp_load(&p->word)) == PQP_PARKED) {
        if (deadline != PQP_NEVER && pqp_now() >= deadline)
            break;
        pqp_cond_wait(&p->cond, &p->mu, deadline);
    }
    pqp_mutex_unlock(&p->mu);
    return word;
}
