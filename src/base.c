/* base: mutexes and conditions over pthreads, and the run-time check of the lock order. */
#include "base.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int pqp_mutex_init(pqp_mutex *mu, int rank)
{
    mu->rank = rank;
    return pthread_mutex_init(&mu->m, NULL);
}

int pqp_cond_init(pqp_cond *cond)
{
    pthread_condattr_t attr;
    int rc = pthread_condattr_init(&attr);
    if (rc != 0)
        return rc;
    rc = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    if (rc == 0)
        rc = pthread_cond_init(&cond->c, &attr);
    pthread_condattr_destroy(&attr);
    return rc;
}

void pqp_cond_wait(pqp_cond *cond, pqp_mutex *mu, int64_t at)
{
    pqp_rank_leave(mu->rank);
    if (at == INT64_MAX) {
        pthread_cond_wait(&cond->c, &mu->m);
    } else {
        struct timespec ts = {.tv_sec = (time_t)(at / 1000000000), .tv_nsec = (long)(at % 1000000000)};
        pthread_cond_timedwait(&cond->c, &mu->m, &ts);
    }
    pqp_rank_enter(mu->rank);
}

void pqp_read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, size - 1) : 0;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    for (size_t end = strlen(text); end > 0 && (text[end - 1] == ' ' || text[end - 1] == '\n');)
        text[--end] = '\0';
}

PQP_THREAD_LOCAL void *pqp_local;
static PQP_THREAD_LOCAL int own_number;

int pqp_thread(void)
{
    if (own_number == 0)
        own_number = (int)syscall(SYS_gettid);
    return own_number;
}

void pqp_thread_forked(void)
{
    own_number = 0;
}

#ifdef PQP_CHECKS
static PQP_THREAD_LOCAL int held[8];
static PQP_THREAD_LOCAL int n_held;

void pqp_rank_enter(int rank)
{
    assert(n_held < (int)PQP_COUNT_OF(held));
    assert(n_held == 0 || held[n_held - 1] < rank);
    held[n_held++] = rank;
}

void pqp_rank_leave(int rank)
{
    assert(n_held > 0 && held[n_held - 1] == rank);
    n_held--;
}
#endif
