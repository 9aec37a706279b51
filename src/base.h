/*
 * base: what every other file stands on: attributes, typed lists, mutexes with ranks, atomics.
 *
 * Every lock, unlock, condition wait and atomic of the library goes through this file. That is what lets
 * t/model run the very same lane code under a scheduler of its own: built with PQP_MODEL, each of these
 * operations becomes a place where the model may switch to another thread.
 */
#ifndef PQP_BASE_H
#define PQP_BASE_H

#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#if !defined(PQP_CHECKS) && !defined(NDEBUG)
#define NDEBUG /* assertions belong to --enable-checks builds: a library does not end its host */
#endif
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PQP_MUSTCHECK __attribute__((warn_unused_result))
#define PQP_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
/* A few bytes in the space that every thread has from its start: a library's own would cost a call each time. */
#define PQP_THREAD_LOCAL _Thread_local __attribute__((tls_model("initial-exec")))
#define PQP_COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define PQP_MIN(a, b) ((a) < (b) ? (a) : (b))
#define PQP_MAX(a, b) ((a) > (b) ? (a) : (b))

/*
 * Lock ranks. A thread may take a lock only when its rank is higher than that of every lock it holds.
 * doc/ARCHITECTURE.md says what each guards and what may not be done under it.
 */
enum {
    PQP_RANK_POOL = 10,
    PQP_RANK_LANE = 20,
    PQP_RANK_PLAN = 30,
    PQP_RANK_DELIVERY = 35,
    PQP_RANK_EVENT = 40,
    PQP_RANK_DEPOT = 50,
    PQP_RANK_PARKER = 60,
};

#ifdef PQP_MODEL
#include "model/sched.h" /* pqp_mutex, pqp_cond, PQP_POINT(), PQP_PLANTED() of the model */
#else

#define PQP_POINT() ((void)0) /* the model switches threads here */

/* Faults that tests plant, to show that they would find them. */
#ifdef PQP_PLANTS
enum {
    PQP_PLANT_LOST_WAKEUP = 1,
    PQP_PLANT_LOST_DRIVER,
    PQP_PLANT_SHIFTED_FLIGHT,
    PQP_PLANT_PLAN_WITHOUT_TYPES,
    PQP_PLANT_SKIPPED_CLEAN,
    PQP_PLANT_LOST_GUEST,
};
extern _Atomic int pqp_planted; /* the test's */
#define PQP_PLANTED(fault) (atomic_load(&pqp_planted) == PQP_PLANT_##fault)
#else
#define PQP_PLANTED(fault) false
#endif

typedef struct pqp_mutex {
    pthread_mutex_t m;
    int rank;
} pqp_mutex;

typedef struct pqp_cond {
    pthread_cond_t c;
} pqp_cond;

#ifdef PQP_CHECKS
void pqp_rank_enter(int rank); /* asserts the order; base.c */
void pqp_rank_leave(int rank);
#else
#define pqp_rank_enter(rank) ((void)0)
#define pqp_rank_leave(rank) ((void)0)
#endif

int pqp_mutex_init(pqp_mutex *mu, int rank) PQP_MUSTCHECK; /* 0, or an errno value */
int pqp_cond_init(pqp_cond *cond) PQP_MUSTCHECK;           /* waits on CLOCK_MONOTONIC */

static inline void pqp_mutex_destroy(pqp_mutex *mu)
{
    pthread_mutex_destroy(&mu->m);
}

static inline void pqp_mutex_lock(pqp_mutex *mu)
{
    pqp_rank_enter(mu->rank);
    pthread_mutex_lock(&mu->m);
}

/* False: another thread has it. Never waits, so no rank is in its way. */
static inline bool pqp_mutex_trylock(pqp_mutex *mu)
{
    if (pthread_mutex_trylock(&mu->m) != 0)
        return false;
    pqp_rank_enter(mu->rank);
    return true;
}

static inline void pqp_mutex_unlock(pqp_mutex *mu)
{
    pqp_rank_leave(mu->rank);
    pthread_mutex_unlock(&mu->m);
}

static inline void pqp_cond_destroy(pqp_cond *cond)
{
    pthread_cond_destroy(&cond->c);
}

static inline void pqp_cond_signal(pqp_cond *cond)
{
    pthread_cond_signal(&cond->c);
}

static inline void pqp_cond_broadcast(pqp_cond *cond)
{
    pthread_cond_broadcast(&cond->c);
}

/* One pointer of each thread's own: what it is doing in lane.c, so that it does not begin it again. */
extern PQP_THREAD_LOCAL void *pqp_local;
static inline void **pqp_thread_slot(void)
{
    return &pqp_local;
}

/* Lets others run who could. */
static inline void pqp_yield(void)
{
    sched_yield();
}

/* Sleeps for about so many nanoseconds, less than a second. */
static inline void pqp_nap(long ns)
{
    struct timespec ts = {.tv_nsec = ns};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

/* Waits until signalled or until the absolute time at (ns, clock.h; INT64_MAX: for ever). May wake early. */
void pqp_cond_wait(pqp_cond *cond, pqp_mutex *mu, int64_t at);
#endif /* PQP_MODEL */

/* The beginning of a file as text, without the newlines and blanks at its end; "" if it can't be read. */
void pqp_read_text(const char *path, char *text, size_t size);

/* The calling thread's number, as the system, gdb and top show it; costs a system call only the first time. */
int pqp_thread(void);
void pqp_thread_forked(void); /* in the child: it has another one */

/*
 * Atomics. Sequentially consistent throughout: the lane's exit protocol needs a store followed by a load
 * to stay in that order, and the few places that could do with less are not hot enough to be worth a
 * second rule.
 */
#define pqp_load(p) (PQP_POINT(), atomic_load(p))
#define pqp_store(p, v) (PQP_POINT(), atomic_store((p), (v)))
#define pqp_add(p, v) (PQP_POINT(), atomic_fetch_add((p), (v)))
#define pqp_sub(p, v) (PQP_POINT(), atomic_fetch_sub((p), (v)))
#define pqp_swap(p, v) (PQP_POINT(), atomic_exchange((p), (v)))
#define pqp_cas(p, expected, v) (PQP_POINT(), atomic_compare_exchange_strong((p), (expected), (v)))
/* A hint or a statistic, of which an old value does no harm. */
#define pqp_peek(p) atomic_load_explicit((p), memory_order_relaxed)
#define pqp_poke(p, v) atomic_store_explicit((p), (v), memory_order_relaxed)

/*
 * A typed, intrusive, doubly linked list. PQP_LIST(name, type, link) defines the struct `name` and static
 * functions name_push, name_insert, name_remove and name_shift over the member `link` of type
 * PQP_LINK(type). A list counts itself, so a count can never disagree with the list.
 */
#define PQP_LINK(type)                                                                                       \
    struct {                                                                                                 \
        struct type *prev, *next;                                                                            \
    }

#define PQP_LIST(name, type, link)                                                                           \
    typedef struct name {                                                                                    \
        struct type *head, *tail;                                                                            \
        int count;                                                                                           \
    } name;                                                                                                  \
    __attribute__((unused)) static inline void name##_push(name *l, struct type *e)                          \
    {                                                                                                        \
        e->link.next = NULL;                                                                                 \
        e->link.prev = l->tail;                                                                              \
        *(l->tail ? &l->tail->link.next : &l->head) = e;                                                     \
        l->tail = e;                                                                                         \
        l->count++;                                                                                          \
    }                                                                                                        \
    /* behind `before`; NULL: in front */                                                                    \
    __attribute__((unused)) static inline void name##_insert(name *l, struct type *before, struct type *e)   \
    {                                                                                                        \
        e->link.prev = before;                                                                               \
        e->link.next = before ? before->link.next : l->head;                                                 \
        *(e->link.next ? &e->link.next->link.prev : &l->tail) = e;                                           \
        *(before ? &before->link.next : &l->head) = e;                                                       \
        l->count++;                                                                                          \
    }                                                                                                        \
    __attribute__((unused)) static inline void name##_remove(name *l, struct type *e)                        \
    {                                                                                                        \
        *(e->link.prev ? &e->link.prev->link.next : &l->head) = e->link.next;                                \
        *(e->link.next ? &e->link.next->link.prev : &l->tail) = e->link.prev;                                \
        e->link.prev = e->link.next = NULL;                                                                  \
        l->count--;                                                                                          \
    }                                                                                                        \
    __attribute__((unused)) static inline struct type *name##_shift(name *l)                                 \
    {                                                                                                        \
        struct type *e = l->head;                                                                            \
        if (e)                                                                                               \
            name##_remove(l, e);                                                                             \
        return e;                                                                                            \
    }                                                                                                        \
    typedef int name##_needs_semicolon

#endif
