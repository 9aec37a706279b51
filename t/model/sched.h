/*
 * sched: threads, mutexes, conditions and time as the model sees them. base.h includes this in place of
 * pthreads when PQP_MODEL is defined; the lane's code is the same.
 *
 * A thread of the model is a coroutine with a stack of its own inside `world`. Each lock, unlock, wait and
 * atomic is a point where the explorer may run another thread instead. All that the threads can see lies in
 * `world`, so a state can be saved, compared and gone back to by copying bytes.
 */
#ifndef MODEL_SCHED_H
#define MODEL_SCHED_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- what base.h needs ---- */

typedef struct pqp_mutex {
    int owner; /* thread + 1; 0: free */
} pqp_mutex;

typedef struct pqp_cond {
    int unused;
} pqp_cond;

void model_point(void);
#define PQP_POINT() model_point()

/* Faults the model plants to show that it would find them. */
enum { PLANT_NONE, PLANT_LOST_WAKEUP, PLANT_LOST_DRIVER, PLANT_SHIFTED_FLIGHT, PLANT_LOST_GUEST };
extern int model_planted;
#define PQP_PLANTED(fault) (model_planted == PLANT_##fault)

#define pqp_yield() model_point()
#define pqp_nap(ns) model_point()

int pqp_mutex_init(pqp_mutex *mu, int rank);
int pqp_cond_init(pqp_cond *cond);
void pqp_mutex_destroy(pqp_mutex *mu);
void pqp_mutex_lock(pqp_mutex *mu);
bool pqp_mutex_trylock(pqp_mutex *mu);
void pqp_mutex_unlock(pqp_mutex *mu);
void **pqp_thread_slot(void);
void pqp_cond_destroy(pqp_cond *cond);
void pqp_cond_signal(pqp_cond *cond);
void pqp_cond_wait(pqp_cond *cond, pqp_mutex *mu, int64_t at);

/* ---- what the model needs ---- */

enum { MODEL_THREADS = 5, MODEL_STACK = 3072, MODEL_DATA = 4608 };

typedef enum { RUNNABLE, ON_MUTEX, ON_COND, ON_CONDITION, FINISHED } model_status;

typedef struct model_thread {
    model_status status;
    const void *on; /* mutex or condition variable */
    int64_t until;  /* of ON_COND and ON_CONDITION: gives up at this time */
    bool signalled;
    bool (*ready)(void *arg); /* of ON_CONDITION */
    void *ready_arg;
    bool daemon; /* need not finish */
    void (*main)(int);
    void *local; /* what pqp_thread_slot() points to */
    char *low; /* end of the used part of its stack */
    jmp_buf at;
} model_thread;

/* An action of the world outside the threads. */
typedef struct model_event {
    const char *name;
    bool (*possible)(void);
    void (*happen)(void);
    bool optional; /* it need not ever happen: nobody may depend on it */
} model_event;

typedef struct model_spec {
    void (*setup)(void); /* fills the data, calls model_spawn */
    const model_event *events;
    int n_events;
    const char *(*check)(void); /* of an end state; NULL: fine */
    uint64_t (*hash)(uint64_t (*mix)(uint64_t, const void *,
                                     size_t)); /* of the data: what tells states apart */
    int preemptions;            /* most switches away from a thread that could go on; -1: no limit */
    uint64_t random_runs, seed; /* instead of all interleavings: this many, at random */
} model_spec;

typedef struct model_report {
    const char *violation; /* NULL: none found */
    char trace[4000];      /* the way there */
    uint64_t states, steps, runs;
    bool complete; /* every interleaving within the bounds was seen */
} model_report;

void model_spawn(int thread, void (*main)(int), bool daemon);
void *model_data(void); /* MODEL_DATA bytes, part of the state */
int model_self(void);
int64_t model_time(void); /* starts at 0 */
void model_set_time(int64_t now);
bool model_wait(bool (*ready)(void *), void *arg, int64_t until); /* false: gave up */
bool model_all_finished(void);                                    /* but for daemons */
void model_violation(const char *what);                           /* ends the run */

model_report model_explore(const model_spec *spec);

#endif
