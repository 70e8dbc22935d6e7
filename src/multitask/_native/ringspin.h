/* The queue in shared memory: looking for a short while before going to sleep, and apart from each other.
 *
 * Nothing here is needed for a queue to be right; "Looking before sleeping" in QUEUE.md says why it is as it is.
 */
#ifndef MULTITASK_RINGSPIN_H
#define MULTITASK_RINGSPIN_H

#include "ring.h"

#include <stdio.h>

#define MTQ_SPIN_HALVES 4u        /* whose waits are long looks for a sixteenth of the time only */
#define MTQ_LOOKS 64              /* between two yields while the other side has a CPU of its own: 2 to 4 us */
#define MTQ_BESIDE 64u            /* waits in a row that a yield to the same CPU has ended, until one of the two goes */
#define MTQ_APART_NS 10000000ull  /* from one going to the next: the first time; then twice as long, */
#define MTQ_APART_MAX 1000000000ull /* and so on up to this */

/* Who waits for this is answered by whom? */
static inline _Atomic uint32_t *mtq_other_cpu(mtq *q, mtq_bell *bell) {
    return bell == &q->c->items ? &q->c->put_cpu : &q->c->get_cpu;
}

/* Did the other side, when it last did something, run where this thread runs now? */
static inline int mtq_is_beside(mtq *q, mtq_bell *bell) {
    return atomic_load_explicit(mtq_other_cpu(q, bell), memory_order_relaxed) == mtq_this_cpu();
}

/* Does another CPU most likely idle? `cpus`: how many there are. Two that share one count as two that run. */
static inline int mtq_one_is_free(int cpus) {
    long running = 0;
    FILE *file = fopen("/proc/loadavg", "re");
    if (file == NULL) return 0;
    if (fscanf(file, "%*s %*s %*s %ld/", &running) != 1) running = 0;
    fclose(file);
    /* The kernel picks any of the others: three of four, or the only one, must be free. */
    return running > 0 && 4 * (running - 2) < cpus;
}

/* Go to another CPU, and be allowed everywhere as before. Whether that was done: not by a thread that somebody keeps to
 * some of the CPUs, for its mask could not be given back in such a way that a later change of its cpuset counts too. */
static inline int mtq_leave_cpu(int cpus) {
    cpu_set_t before, others, now;
    int cpu = sched_getcpu();
    if (cpu < 0 || cpus < 2 || sched_getaffinity(0, sizeof before, &before) != 0 || CPU_COUNT(&before) < cpus) return 0;
    others = before;
    CPU_CLR(cpu, &others);
    if (sched_setaffinity(0, sizeof others, &others) != 0) return 0;
    /* Set from outside meanwhile? Then it stays like that. */
    if (sched_getaffinity(0, sizeof now, &now) != 0 || CPU_EQUAL(&now, &others)) {
        memset(&before, 0xff, sizeof before);
        sched_setaffinity(0, sizeof before, &before);
    }
    return 1;
}

/* Two that only yield to each other look busy to the kernel, which leaves them on one CPU for seconds while another
 * idles; each handing over costs them five times what a look from there would. */
static inline void mtq_go_apart(mtq *q, uint64_t now) {
    int cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t pause = atomic_load_explicit(&q->apart_ns, memory_order_relaxed);
    pause = pause == 0 ? MTQ_APART_NS : pause * 2 < MTQ_APART_MAX ? pause * 2 : MTQ_APART_MAX;
    atomic_store_explicit(&q->apart_ns, pause, memory_order_relaxed);
    atomic_store_explicit(&q->apart_at, now + pause, memory_order_relaxed);
    atomic_store_explicit(&q->beside, 0, memory_order_relaxed);
    if (mtq_one_is_free(cpus)) mtq_leave_cpu(cpus);
}

/* After a sleep: how long the whole wait was. Was looking in vain, then the next one looks for half as long. */
static inline void mtq_slept(mtq *q, uint64_t ns) {
    uint32_t vain = atomic_load_explicit(&q->vain, memory_order_relaxed);
    /* Twice: being woken takes about as long again. */
    uint32_t next = ns < 2 * q->spin_ns ? 0 : vain < MTQ_SPIN_HALVES ? vain + 1 : vain;
    if (next != vain) atomic_store_explicit(&q->vain, next, memory_order_relaxed);
}

static inline int mtq_found(mtq *q, mtq_bell *bell) {
    uint32_t beside = mtq_is_beside(q, bell) ? atomic_load_explicit(&q->beside, memory_order_relaxed) + 1 : 0;
    if (beside <= MTQ_BESIDE) atomic_store_explicit(&q->beside, beside, memory_order_relaxed);
    if (atomic_load_explicit(&q->vain, memory_order_relaxed)) atomic_store_explicit(&q->vain, 0, memory_order_relaxed);
    return 1;
}

/* Look for a short while before going to sleep; whether there is something. `begin`: when the wait began. */
static inline int mtq_spin(mtq *q, mtq_bell *bell, int (*ready)(mtq *), uint64_t begin, uint64_t until) {
    if (q->spin_ns == 0 || begin >= until) return 0;
    uint64_t now = begin, spin = q->spin_ns >> atomic_load_explicit(&q->vain, memory_order_relaxed);
    uint64_t end = begin + spin < until ? begin + spin : until;
    int looks = mtq_is_beside(q, bell) ? 1 : MTQ_LOOKS;
    if (looks == 1 && atomic_load_explicit(&q->beside, memory_order_relaxed) >= MTQ_BESIDE &&
        now >= atomic_load_explicit(&q->apart_at, memory_order_relaxed)) {
        mtq_go_apart(q, now);
        looks = MTQ_LOOKS;
    }
    while (now < end) {
        for (int i = 0; i < looks; i++) {
            if (ready(q)) return mtq_found(q, bell);
            mt_relax();
        }
        /* The other side may be waiting for this very processor: each look before this costs it as much. */
        sched_yield();
        now = mt_now_ns();
    }
    return 0;
}

#endif
