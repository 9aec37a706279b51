/* sched: coroutines, and the explorer that runs them in every order. */
#include "model/sched.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

int model_planted;

/* All that threads can see. Always at the same address, so that pointers into it survive being copied. */
static struct world {
    model_thread thread[MODEL_THREADS];
    int64_t now;
    int n_threads;
    int running, preemptions;
    _Alignas(64) char data[MODEL_DATA];
    _Alignas(64) char stack[MODEL_THREADS][MODEL_STACK];
} world;

static const model_spec *spec;
static jmp_buf explorer;      /* where a thread returns to when it yields */
static const char *violation; /* of the step under way */
static int starting;
static ucontext_t start_context, explorer_context;

/* ---- coroutines ---- */

__attribute__((noinline)) static void yield(void)
{
    model_thread *t = &world.thread[world.running];
    t->low = (char *)__builtin_frame_address(0) - 64; /* the registers this function saves lie just below */
    if (_setjmp(t->at) == 0)
        _longjmp(explorer, 1);
}

static void thread_main(void)
{
    int self = starting;
    if (_setjmp(world.thread[self].at) == 0) {
        world.thread[self].low = (char *)__builtin_frame_address(0) - 128;
        swapcontext(&start_context, &explorer_context); /* born; runs when first chosen */
    }
    world.thread[world.running].main(world.running);
    world.thread[world.running].status = FINISHED;
    yield();
}

void model_spawn(int thread, void (*main)(int), bool daemon)
{
    model_thread *t = &world.thread[thread];
    *t = (model_thread){.status = RUNNABLE, .main = main, .daemon = daemon};
    getcontext(&start_context);
    start_context.uc_stack.ss_sp = world.stack[thread];
    start_context.uc_stack.ss_size = MODEL_STACK;
    start_context.uc_link = NULL;
    starting = thread;
    makecontext(&start_context, thread_main, 0);
    swapcontext(&explorer_context, &start_context);
    if (thread >= world.n_threads)
        world.n_threads = thread + 1;
}

/* Runs one thread up to its next point. */
__attribute__((noinline)) static void run_thread(int thread)
{
    world.running = thread;
    /* What lies below its stack pointer is dead. Cleared, it can't make equal states look different. */
    memset(world.stack[thread], 0, (size_t)(world.thread[thread].low - world.stack[thread]) - 256);
    if (_setjmp(explorer) == 0)
        _longjmp(world.thread[thread].at, 1);
    if (world.thread[thread].low < world.stack[thread] + 512) {
        fprintf(stderr, "a model thread's stack is too small\n");
        abort();
    }
}

void model_point(void)
{
    yield();
}

int model_self(void)
{
    return world.running;
}

void *model_data(void)
{
    return world.data;
}

int64_t model_time(void)
{
    return world.now;
}

void model_set_time(int64_t now)
{
    world.now = now;
}

bool model_all_finished(void)
{
    for (int i = 0; i < world.n_threads; i++)
        if (!world.thread[i].daemon && world.thread[i].status != FINISHED)
            return false;
    return true;
}

void model_violation(const char *what)
{
    if (!violation)
        violation = what;
    world.thread[world.running].status = FINISHED;
    yield();
}

/* ---- mutexes, conditions ---- */

int pqp_mutex_init(pqp_mutex *mu, int rank)
{
    (void)rank;
    mu->owner = 0;
    return 0;
}

int pqp_cond_init(pqp_cond *cond)
{
    cond->unused = 0;
    return 0;
}

void pqp_mutex_destroy(pqp_mutex *mu)
{
    (void)mu;
}

void pqp_cond_destroy(pqp_cond *cond)
{
    (void)cond;
}

static void block(model_status status, const void *on, int64_t until)
{
    model_thread *t = &world.thread[world.running];
    t->status = status;
    t->on = on;
    t->until = until;
    t->signalled = false;
    yield();
}

void pqp_mutex_lock(pqp_mutex *mu)
{
    model_point();
    while (mu->owner)
        block(ON_MUTEX, mu, INT64_MAX);
    mu->owner = world.running + 1;
}

bool pqp_mutex_trylock(pqp_mutex *mu)
{
    model_point();
    if (mu->owner)
        return false;
    mu->owner = world.running + 1;
    return true;
}

void **pqp_thread_slot(void)
{
    return &world.thread[world.running].local;
}

void pqp_mutex_unlock(pqp_mutex *mu)
{
    if (mu->owner != world.running + 1)
        model_violation("a mutex was unlocked by who does not hold it");
    mu->owner = 0;
}

void pqp_cond_signal(pqp_cond *cond)
{
    model_point();
    for (int i = 0; i < world.n_threads; i++)
        if (world.thread[i].status == ON_COND && world.thread[i].on == cond)
            world.thread[i].signalled = true;
}

void pqp_cond_wait(pqp_cond *cond, pqp_mutex *mu, int64_t at)
{
    pqp_mutex_unlock(mu);
    block(ON_COND, cond, at);
    pqp_mutex_lock(mu);
}

bool model_wait(bool (*ready)(void *), void *arg, int64_t until)
{
    model_thread *t = &world.thread[world.running];
    model_point();
    t->ready = ready;
    t->ready_arg = arg;
    block(ON_CONDITION, NULL, until);
    return ready(arg);
}

static bool can_run(int i)
{
    const model_thread *t = &world.thread[i];
    switch (t->status) {
    case RUNNABLE:
        return true;
    case ON_MUTEX:
        return ((const pqp_mutex *)t->on)->owner == 0;
    case ON_COND:
        return t->signalled || world.now >= t->until;
    case ON_CONDITION:
        return world.now >= t->until || t->ready(t->ready_arg);
    default:
        return false;
    }
}

/* ---- states ---- */

typedef struct saved {
    size_t size;
    char bytes[];
} saved;

static size_t used_stack(int i)
{
    return world.thread[i].status == FINISHED ? 0
                                              : (size_t)(world.stack[i] + MODEL_STACK - world.thread[i].low);
}

static saved *save(void)
{
    size_t head = offsetof(struct world, stack), size = head;
    for (int i = 0; i < world.n_threads; i++)
        size += used_stack(i);
    saved *s = malloc(sizeof *s + size);
    if (!s)
        abort();
    s->size = size;
    memcpy(s->bytes, &world, head);
    char *to = s->bytes + head;
    for (int i = 0; i < world.n_threads; i++) {
        size_t used = used_stack(i);
        memcpy(to, world.stack[i] + MODEL_STACK - used, used);
        to += used;
    }
    return s;
}

__attribute__((noinline)) static void restore(const saved *s)
{
    size_t head = offsetof(struct world, stack);
    memcpy(&world, s->bytes, head);
    const char *from = s->bytes + head;
    for (int i = 0; i < world.n_threads; i++) {
        size_t used = used_stack(i);
        memcpy(world.stack[i] + MODEL_STACK - used, from, used);
        from += used;
    }
}

static uint64_t mix(uint64_t h, const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t x;
        memcpy(&x, p, 8);
        h = (h ^ x) * UINT64_C(0x9fb21c651e98df25);
        h ^= h >> 35;
    }
    for (; n > 0; n--, p++)
        h = (h ^ *p) * UINT64_C(0x100000001b3);
    return h;
}

/* What makes two states the same: the data, and of each thread its registers and its stack. */
static uint64_t hash_state(bool with_bound)
{
    uint64_t h =
        spec->hash ? spec->hash(mix) : mix(UINT64_C(0x243f6a8885a308d3), world.data, sizeof world.data);
    h = mix(h, &world.now, sizeof world.now);
    if (with_bound) {
        h = mix(h, &world.running, sizeof world.running);
        h = mix(h, &world.preemptions, sizeof world.preemptions);
    }
    for (int i = 0; i < world.n_threads; i++) {
        const model_thread *t = &world.thread[i];
        h = mix(h, &t->status, sizeof t->status);
        if (t->status == FINISHED)
            continue;
        h = mix(h, &t->until, sizeof t->until);
        h = mix(h, &t->signalled, sizeof t->signalled);
        h = mix(h, t->at[0].__jmpbuf, sizeof t->at[0].__jmpbuf);
        h = mix(h, t->low, used_stack(i));
    }
    return h ? h : 1;
}

static uint64_t *seen;
static size_t seen_room, seen_count;

static bool seen_before(uint64_t h)
{
    if (seen_count * 2 >= seen_room) {
        size_t room = seen_room ? seen_room * 2 : 1u << 16;
        uint64_t *old = seen, *fresh = calloc(room, sizeof *fresh);
        if (!fresh)
            abort();
        for (size_t i = 0; i < seen_room; i++) {
            if (!old[i])
                continue;
            size_t at = old[i] & (room - 1);
            while (fresh[at])
                at = (at + 1) & (room - 1);
            fresh[at] = old[i];
        }
        free(old);
        seen = fresh;
        seen_room = room;
    }
    size_t at = h & (seen_room - 1);
    for (; seen[at]; at = (at + 1) & (seen_room - 1))
        if (seen[at] == h)
            return true;
    seen[at] = h;
    seen_count++;
    return false;
}

/* ---- exploring ---- */

enum { DEPTH = 4000 };

/* A choice: thread i, or event i - MODEL_THREADS. */
typedef struct level {
    saved *state;  /* before the choice; NULL when there is but one */
    unsigned left; /* choices not yet taken, as bits */
    int taken;
} level;

static level path[DEPTH + 1];
static bool runs_on(int i)
{
    return i < world.n_threads && can_run(i);
}

/* The choices there are. Without optional events: what must go on by itself. */
static unsigned choices(bool *must_go_on)
{
    unsigned bits = 0;
    *must_go_on = false;
    for (int i = 0; i < world.n_threads; i++)
        if (can_run(i))
            bits |= 1u << i;
    *must_go_on = bits != 0;
    /* A thread that can go on is only left for another while the bound allows it. */
    if (spec->preemptions >= 0 && world.preemptions >= spec->preemptions && runs_on(world.running))
        bits = 1u << world.running;
    for (int i = 0; i < spec->n_events; i++)
        if (spec->events[i].possible()) {
            bits |= 1u << (MODEL_THREADS + i);
            *must_go_on |= !spec->events[i].optional;
        }
    return bits;
}

static void take(int choice)
{
    if (choice >= MODEL_THREADS) {
        spec->events[choice - MODEL_THREADS].happen();
        return;
    }
    if (choice != world.running && runs_on(world.running))
        world.preemptions++;
    world.thread[choice].status = RUNNABLE;
    run_thread(choice);
}

static void describe_path(model_report *r, int depth)
{
    size_t at = 0;
    int same = 0;
    for (int i = 0; i < depth && at + 40 < sizeof r->trace; i++) {
        int c = path[i].taken;
        same++;
        if (i + 1 < depth && path[i + 1].taken == c)
            continue;
        if (c >= MODEL_THREADS)
            at += (size_t)snprintf(r->trace + at, sizeof r->trace - at, "%s ",
                                   spec->events[c - MODEL_THREADS].name);
        else
            at += (size_t)snprintf(r->trace + at, sizeof r->trace - at, "T%d*%d ", c, same);
        same = 0;
    }
}

/* Whether the state just reached is wrong. */
static const char *judge(bool must_go_on)
{
    if (violation)
        return violation;
    if (must_go_on)
        return NULL;
    if (!model_all_finished())
        return "a caller waits, and nothing that must happen would ever wake him";
    return spec->check ? spec->check() : NULL;
}

static void begin(void)
{
    memset(&world, 0, sizeof world);
    for (int i = 0; i < MODEL_THREADS; i++)
        world.thread[i] = (model_thread){.status = FINISHED, .daemon = true}; /* until spawned */
    violation = NULL;
    spec->setup();
}

static int lowest(unsigned bits)
{
    return __builtin_ctz(bits);
}

static void explore_all(model_report *r)
{
    int depth = 0;
    bool must;
    begin();
    free(seen);
    seen = NULL;
    seen_room = seen_count = 0;
    r->complete = true;
    for (bool fresh = true;;) {
        if (fresh) {
            unsigned bits = choices(&must);
            r->violation = judge(must);
            path[depth] = (level){0};
            if (r->violation) {
                describe_path(r, depth);
                break;
            }
            if (seen_before(hash_state(spec->preemptions >= 0)))
                bits = 0;
            if (depth == DEPTH)
                bits = 0, r->complete = false;
            path[depth].left = bits;
            if (bits & (bits - 1))
                path[depth].state = save();
        } else if (path[depth].left) {
            restore(path[depth].state);
        }
        if (!path[depth].left) { /* all done from here: back */
            free(path[depth].state);
            path[depth].state = NULL;
            if (depth-- == 0)
                break;
            fresh = false;
            continue;
        }
        int choice = lowest(path[depth].left);
        path[depth].left &= path[depth].left - 1;
        path[depth].taken = choice;
        take(choice);
        r->steps++;
        depth++;
        fresh = true;
    }
    for (; depth >= 0; depth--) {
        free(path[depth].state);
        path[depth].state = NULL;
    }
    r->states = seen_count;
}

static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static void explore_random(model_report *r)
{
    for (uint64_t run = 0; run < spec->random_runs && !r->violation; run++) {
        uint64_t x = (spec->seed + run) * UINT64_C(0x9e3779b97f4a7c15) + 1;
        begin();
        for (int depth = 0; depth < DEPTH; depth++) {
            bool must;
            unsigned bits = choices(&must);
            r->violation = judge(must);
            if (r->violation)
                describe_path(r, depth);
            if (r->violation || !bits)
                break;
            unsigned pick = bits;
            for (uint64_t n = next_random(&x) % (uint64_t)__builtin_popcount(bits); n > 0; n--)
                pick &= pick - 1;
            /* Mostly go on with the same thread: long runs reach what short ones don't. */
            if (runs_on(world.running) && (bits & 1u << world.running) && next_random(&x) % 4)
                pick = 1u << world.running;
            path[depth].taken = lowest(pick);
            take(lowest(pick));
            r->steps++;
        }
        r->runs++;
    }
}

model_report model_explore(const model_spec *s)
{
    model_report *r = calloc(1, sizeof *r);
    spec = s;
    if (s->random_runs)
        explore_random(r);
    else
        explore_all(r);
    model_report copy = *r;
    free(r);
    return copy;
}
