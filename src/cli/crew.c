/* crew: threads that run the statements of one user side by side, each on a lease of its own. */
#include "crew.h"

#include <pthread.h>
#include <stdlib.h>

struct helper {
    struct crew *crew;
    int share; /* which of the calls is his, from 1; the user's own thread does call 0 */
    pthread_t thread;
};

struct crew {
    pqpool *pool;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    /* guarded by lock */
    call *calls;
    int n_calls;
    int pending;    /* helpers that are not done with this round */
    unsigned round; /* counts crew_run() */
    bool stop;
    /* fixed once made */
    int n_helpers;
    struct helper helpers[];
};

static void *help(void *arg)
{
    struct helper *h = arg;
    struct crew *c = h->crew;
    unsigned seen = 0;
    pthread_mutex_lock(&c->lock);
    for (;;) {
        while (!c->stop && c->round == seen)
            pthread_cond_wait(&c->work, &c->lock);
        if (c->stop)
            break;
        seen = c->round;
        if (h->share >= c->n_calls)
            continue;
        call *mine = &c->calls[h->share];
        pthread_mutex_unlock(&c->lock);
        call_on_lease(mine, c->pool);
        pthread_mutex_lock(&c->lock);
        if (--c->pending == 0)
            pthread_cond_signal(&c->done);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

crew *crew_new(pqpool *pool, int n)
{
    crew *c = calloc(1, sizeof *c + (size_t)n * sizeof c->helpers[0]);
    if (!c)
        return NULL;
    c->pool = pool;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->work, NULL);
    pthread_cond_init(&c->done, NULL);
    for (int i = 0; i < n - 1; i++) {
        struct helper *h = &c->helpers[i];
        *h = (struct helper){.crew = c, .share = i + 1};
        if (pthread_create(&h->thread, NULL, help, h) != 0) {
            crew_free(c);
            return NULL;
        }
        c->n_helpers++;
    }
    return c;
}

void crew_run(crew *c, call *calls, int n)
{
    pthread_mutex_lock(&c->lock);
    c->calls = calls;
    c->n_calls = n;
    c->pending = n - 1;
    c->round++;
    if (n > 1)
        pthread_cond_broadcast(&c->work);
    pthread_mutex_unlock(&c->lock);
    call_on_lease(&calls[0], c->pool);
    pthread_mutex_lock(&c->lock);
    while (c->pending > 0)
        pthread_cond_wait(&c->done, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

void crew_free(crew *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->stop = true;
    pthread_cond_broadcast(&c->work);
    pthread_mutex_unlock(&c->lock);
    for (int i = 0; i < c->n_helpers; i++)
        pthread_join(c->helpers[i].thread, NULL);
    pthread_cond_destroy(&c->done);
    pthread_cond_destroy(&c->work);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
