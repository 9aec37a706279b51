#include "sockets.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 128, FREE = 0, TAKEN = 1 };

/* Chunks are added, and never go. */
typedef struct chunk {
    pqp_known entries[CHUNK];
    _Atomic(struct chunk *) next;
} chunk;

static chunk first;

static pqp_known *take_from(chunk *c)
{
    for (int i = 0; i < CHUNK; i++) {
        int is = FREE;
        if (atomic_load(&c->entries[i].state) == FREE &&
            atomic_compare_exchange_strong(&c->entries[i].state, &is, TAKEN))
            return &c->entries[i];
    }
    return NULL;
}

/* The chunk behind this one, made if need be. */
static chunk *next_of(chunk *c)
{
    chunk *next = atomic_load(&c->next);
    if (next)
        return next;
    chunk *made = calloc(1, sizeof *made);
    if (!made || atomic_compare_exchange_strong(&c->next, &next, made))
        return made;
    free(made);
    return next;
}

pqp_known *pqp_sockets_know(int fd)
{
    pqp_known *k = NULL;
    for (chunk *c = &first; c && !k; c = k ? c : next_of(c))
        k = take_from(c);
    if (k) {
        atomic_store(&k->fd, -1);
        pqp_sockets_now(k, fd);
    }
    return k;
}

static bool inode_of(int fd, uint64_t *inode)
{
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISSOCK(st.st_mode))
        return false;
    *inode = st.st_ino;
    return true;
}

/* In between there is none: a fork at any instant finds a whole entry. */
void pqp_sockets_now(pqp_known *k, int fd)
{
    uint64_t inode;
    if (!k)
        return;
    atomic_store(&k->fd, -1);
    if (!inode_of(fd, &inode))
        return;
    atomic_store(&k->inode, inode);
    atomic_store(&k->fd, fd);
}

void pqp_sockets_forget(pqp_known *k)
{
    if (!k)
        return;
    atomic_store(&k->fd, -1);
    atomic_store(&k->state, FREE);
}

int pqp_sockets_copy(int fd, pqp_known **k)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    *k = copy >= 0 ? pqp_sockets_know(copy) : NULL;
    if (copy >= 0 && !*k) {
        close(copy);
        copy = -1;
    }
    return copy;
}

void pqp_sockets_drop(int fd, pqp_known *k)
{
    if (fd >= 0)
        close(fd);
    pqp_sockets_forget(k);
}

/* ---- in the child ---- */

/* The entry's descriptor, if it still is that of its socket; -1: it is not. */
static int live(pqp_known *k)
{
    uint64_t inode;
    int fd = atomic_load(&k->fd);
    return atomic_load(&k->state) == TAKEN && inode_of(fd, &inode) && inode == atomic_load(&k->inode) ? fd
                                                                                                      : -1;
}

/* Reads as ended, and can't be written to. Without a descriptor left, one of those to be replaced makes room. */
static int make_dead(int spare)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0) {
        close(pair[1]);
        return pair[0];
    }
    close(spare);
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

void pqp_sockets_forked(void)
{
    int dead = -1, own = errno;
    bool in_place = false; /* it has the number of one that was replaced */
    for (chunk *c = &first; c; c = atomic_load(&c->next))
        for (int i = 0; i < CHUNK; i++) {
            int fd = live(&c->entries[i]);
            if (fd < 0)
                continue;
            if (dead < 0)
                dead = make_dead(fd);
            in_place |= fd == dead;
            if (dead >= 0 && fd != dead)
                (void)dup3(dead, fd, O_CLOEXEC);
            atomic_store(&c->entries[i].fd, -1);
        }
    if (dead >= 0 && !in_place)
        close(dead);
    errno = own;
}
