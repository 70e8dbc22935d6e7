/* The queue in shared memory: its locks, its bells, and the calls that wait. The rules are in QUEUE.md.
 *
 * Rule: nobody sleeps with a lock, rings with a lock, or comes back to Python with a lock.
 */
#ifndef MULTITASK_RINGWAIT_H
#define MULTITASK_RINGWAIT_H

#include "ringspin.h"

#define MTQ_VAIN 1000u            /* wakes that woke nobody until the sleepers are thought dead */
#define MTQ_GRACE_NS 50000000ull  /* a call that may not wait still gives the lock's holder so long */
#define MTQ_SPINS 16              /* tries at a busy lock before sleeping on it: it is held for less than a microsecond */
#define MTQ_PATIENCE_NS 2000u     /* before a large ring is made, and what follows for each byte */
#define MTQ_FRESH_PS 700u         /* what a byte of fresh shared memory costs: 1 to 1.5 GiB/s where it was measured */
#define MTQ_TURN_NS 8000000u      /* what whoever shares a CPU may have to wait for its turn: two ticks */
#define MTQ_NEVER UINT64_MAX
enum { MTQ_PUT = 0, MTQ_GET = 1 };

/* ---- bells ---- */

static inline void mtq_strike(mtq_bell *bell, int many) {
    atomic_fetch_add(&bell->turn, 1);
    MT_STEP(7);
    if (syscall(SYS_futex, (uint32_t *)&bell->turn, FUTEX_WAKE, many, NULL, NULL, 0) > 0) {
        atomic_store_explicit(&bell->vain, 0, memory_order_relaxed);
    } else if (atomic_fetch_add(&bell->vain, 1) + 1 >= MTQ_VAIN) {
        atomic_store_explicit(&bell->vain, 0, memory_order_relaxed);
        atomic_store(&bell->sleepers, 0);
    }
}

/* After a commit: wake that many, if anybody sleeps. */
static inline void mtq_wake(mtq_bell *bell, int many) {
    /* full fence: pairs with the one in mtq_sleep(); one of the two sees the other */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&bell->sleepers, memory_order_relaxed)) mtq_strike(bell, many);
}

static inline void mtq_get_up(mtq_bell *bell) {
    uint32_t sleepers = atomic_load_explicit(&bell->sleepers, memory_order_relaxed);
    /* it may have been set to 0 meanwhile */
    while (sleepers && !atomic_compare_exchange_weak(&bell->sleepers, &sleepers, sleepers - 1)) {
    }
}

/* Sleep until the bell is rung or `until` has come; not at all if ready(q). -EINTR: a signal came. */
static inline int mtq_sleep(mtq *q, mtq_bell *bell, int (*ready)(mtq *), uint64_t until) {
    int result = 0;
    uint32_t turn = atomic_load_explicit(&bell->turn, memory_order_acquire);
    atomic_fetch_add(&bell->sleepers, 1);
    /* Announce the sleep before the last look: the other order loses what comes in between. */
    atomic_thread_fence(memory_order_seq_cst);
    MT_STEP(19);
    if (!ready(q)) {
        uint64_t now = mt_now_ns();
        if (now < until) result = mt_futex_wait(&bell->turn, turn, (int64_t)(until - now));
    }
    mtq_get_up(bell);
    return result;
}

static int mtq_has_items(mtq *q) { return mtq_flags(q) || mtq_got_count(q) < mtq_put_count(q); }

static int mtq_has_room(mtq *q) {
    uint64_t put = mtq_put_count(q);
    return mtq_flags(q) || q->c->maxsize == 0 || put - mtq_got_count(q) < q->c->maxsize || mtq_got_count(q) > put;
}

/* Everything done? What is done is read first: if it covers what was put until later, it did so at that moment.
 * It may be more: items that were done before they came out, and are then dropped. */
static int mtq_is_settled(mtq *q) {
    uint64_t done = atomic_load_explicit(&q->c->discarded, memory_order_acquire);
    done += atomic_load_explicit(&q->c->done, memory_order_acquire);
    return done >= mtq_put_count(q);
}

/* ---- locks ---- */

static inline int mtq_lock_until(pthread_mutex_t *lock, uint64_t until) {
    struct timespec t;
/* gcc's thread sanitizer does not know pthread_mutex_clocklock() */
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 30) && !defined(__SANITIZE_THREAD__)
    t.tv_sec = (time_t)(until / 1000000000u);
    t.tv_nsec = (long)(until % 1000000000u);
    return pthread_mutex_clocklock(lock, CLOCK_MONOTONIC, &t);
#else
    uint64_t now = mt_now_ns(), wait = until > now ? until - now : 0;
    clock_gettime(CLOCK_REALTIME, &t);
    wait += (uint64_t)t.tv_nsec;
    t.tv_sec += (time_t)(wait / 1000000000u);
    t.tv_nsec = (long)(wait % 1000000000u);
    return pthread_mutex_timedlock(lock, &t);
#endif
}

static void mtq_inherit(mtq *q, int side) {
    if (side == MTQ_PUT) {
        mtq_repair_put(q);
        pthread_mutex_consistent(&q->c->put_lock);
        mtq_wake(&q->c->items, INT_MAX); /* it may have been killed between commit and wake */
    } else {
        mtq_repair_get(q);
        pthread_mutex_consistent(&q->c->get_lock);
        mtq_wake(&q->c->room, INT_MAX);
    }
}

/* Take a side's lock: MTQ_DONE, or MTQ_BUSY. until: 0 for a single try, else the time at which to give up. */
static inline int mtq_lock(mtq *q, int side, uint64_t until) {
    pthread_mutex_t *lock = side == MTQ_PUT ? &q->c->put_lock : &q->c->get_lock;
    int result = pthread_mutex_trylock(lock);
    if (__builtin_expect(result == 0, 1)) return MTQ_DONE;
    for (int i = 0; result == EBUSY && q->spin_ns && i < MTQ_SPINS; i++) {
        for (int j = 0; j < 8; j++) mt_relax();
        result = pthread_mutex_trylock(lock);
    }
    if (result == EBUSY && until) result = mtq_lock_until(lock, until);
    if (result == EOWNERDEAD) {
        mtq_inherit(q, side);
        result = 0;
    }
    return result == 0 ? MTQ_DONE : MTQ_BUSY;
}

static inline void mtq_unlock(mtq *q, int side) {
    pthread_mutex_unlock(side == MTQ_PUT ? &q->c->put_lock : &q->c->get_lock);
    MT_STEP(side == MTQ_PUT ? 6 : 18);
}

/* ---- giving a large ring back, dropping everything ---- */

/* The head goes to the ring of `tail` without taking anything, and all before it is given back. */
static inline void mtq_go_to(mtq *q, const mtq_put_state *tail, uint64_t position, uint64_t messages) {
    const mtq_get_state *head = mtq_head(q);
    uint64_t from = head->segment;
    mtq_get_state to = {tail->segment, tail->capacity, tail->base, position, head->long_end};
    mtq_move_head(q, &to, messages);
    MT_STEP(22);
    mtq_give_back(q, from, to.segment);
}

static inline int mtq_is_empty_and_large(mtq *q) {
    return mtq_got_count(q) == mtq_put_count(q) && mtq_head(q)->capacity > MTQ_KEEP &&
           !(mtq_flags(q) & MTQ_IMMEDIATE);
}

/* With both locks. */
static inline void mtq_replace_ring(mtq *q) {
    mtq_put_state at = *mtq_tail(q);
    MT_STEP(20);
    if (mtq_map(q, &q->put_view, at.segment, at.capacity) == 0 && mtq_append_ring(q, &at, MTQ_HOT, 0) == 0) {
        mtq_commit(q, &at, 0);
        MT_STEP(21);
        mtq_go_to(q, &at, at.base, 0);
    } else {
        mtq_cut(q);
    }
}

/* Call after a get that left a large ring empty. Not done if anybody is busy: a message is coming, or going. */
static inline void mtq_retire(mtq *q) {
    if (mtq_lock(q, MTQ_GET, 0) != MTQ_DONE) return;
    if (mtq_is_empty_and_large(q) && mtq_lock(q, MTQ_PUT, 0) == MTQ_DONE) {
        if (mtq_is_empty_and_large(q)) mtq_replace_ring(q);
        mtq_unlock(q, MTQ_PUT);
    }
    mtq_unlock(q, MTQ_GET);
}

static inline int mtq_must_drain(mtq *q) {
    return (mtq_flags(q) & MTQ_IMMEDIATE) && mtq_got_count(q) != mtq_put_count(q);
}

/* After shutdown(immediate): drop what is left. Anybody may do it, or go on with it. MTQ_DONE or BUSY. */
static inline int mtq_drain(mtq *q, uint64_t until) {
    if (!mtq_must_drain(q)) return MTQ_DONE;
    if (mtq_lock(q, MTQ_GET, until) != MTQ_DONE) return MTQ_BUSY;
    int result = mtq_lock(q, MTQ_PUT, until);
    if (result == MTQ_DONE) {
        uint64_t left = mtq_put_count(q) - mtq_got_count(q);
        mtq_put_state *tail = mtq_tail(q);
        MT_STEP(23);
        /* Not a second time: whoever died here has counted them, and nothing was put since. */
        if (left && atomic_load(&q->c->discarded) == 0) atomic_store(&q->c->discarded, left);
        MT_STEP(24);
        if (left) mtq_go_to(q, tail, tail->position, left);
        MT_STEP(25);
        mtq_give_back(q, tail->segment, tail->file_end);
        mtq_unlock(q, MTQ_PUT);
    }
    mtq_unlock(q, MTQ_GET);
    if (result == MTQ_DONE) mtq_wake(&q->c->settled, INT_MAX);
    return result;
}

/* MTQ_DONE, or MTQ_SLICE: the put lock is not to be had yet. */
static inline int mtq_shutdown(mtq *q, int immediate, uint64_t until) {
    mtq_control *c = q->c;
    /* With the lock: no put is half way through then, so a queue that is empty and shut stays empty. */
    if (mtq_lock(q, MTQ_PUT, until) != MTQ_DONE) return MTQ_SLICE;
    atomic_fetch_or(&c->flags, immediate ? MTQ_SHUT | MTQ_IMMEDIATE : MTQ_SHUT);
    mtq_unlock(q, MTQ_PUT);
    mtq_wake(&c->items, INT_MAX);
    mtq_wake(&c->room, INT_MAX);
    mtq_wake(&c->settled, INT_MAX);
    return mtq_drain(q, until) == MTQ_DONE ? MTQ_DONE : MTQ_SLICE;
}

/* ---- calls that wait; each returns MTQ_SLICE at `slice`, so that the caller can look for signals ---- */

static inline uint64_t mtq_sooner(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* How long to wait for a lock. A call that may not wait (deadline 0) still lets its holder finish. */
static inline uint64_t mtq_lock_by(uint64_t deadline, uint64_t slice) {
    return mtq_sooner(deadline ? deadline : mt_now_ns() + MTQ_GRACE_NS, slice);
}

/* How to go on when a lock or a bell was waited for in vain. */
static inline int mtq_time_is_up(uint64_t deadline, uint64_t slice) {
    uint64_t now = mt_now_ns();
    return now >= deadline ? MTQ_LATE : now >= slice ? MTQ_SLICE : MTQ_DONE;
}

/* Sleep, unless the time is up: MTQ_DONE, LATE or SLICE. `begin`: when the wait began, the look before it included. */
static inline int mtq_sleep_from(mtq *q, mtq_bell *bell, int (*ready)(mtq *), uint64_t begin, uint64_t deadline, uint64_t slice) {
    int result = mtq_time_is_up(deadline, slice);
    if (result != MTQ_DONE) return result;
    result = mtq_sleep(q, bell, ready, mtq_sooner(deadline, slice));
    mtq_slept(q, mt_now_ns() - begin);
    return result == -EINTR ? MTQ_SLICE : MTQ_DONE;
}

/* Wait for room, or for another bell, once; then look again: as mtq_sleep_from(). */
static inline int mtq_rest(mtq *q, mtq_bell *bell, int (*ready)(mtq *), uint64_t deadline, uint64_t slice) {
    uint64_t begin = mt_now_ns();
    if (mtq_spin(q, bell, ready, begin, mtq_sooner(deadline, slice))) return MTQ_DONE;
    return mtq_sleep_from(q, bell, ready, begin, deadline, slice);
}

/* After messages were put. */
static inline void mtq_after_put(mtq *q, uint64_t messages) {
    mtq_wake(&q->c->items, messages < INT_MAX ? (int)messages : INT_MAX);
}

/* After messages were taken. */
static inline void mtq_after_get(mtq *q, uint64_t messages) {
    if (q->c->maxsize) mtq_wake(&q->c->room, messages < INT_MAX ? (int)messages : INT_MAX);
}

/* A woken one that may leave something behind wakes the next. */
static inline void mtq_pass_on(mtq *q, mtq_bell *bell, int (*ready)(mtq *)) {
    if (atomic_load_explicit(&bell->sleepers, memory_order_relaxed) && ready(q)) mtq_strike(bell, 1);
}

/* What has been taken out. */
typedef struct {
    int kind;
    uint64_t length, messages;
    unsigned char *data; /* in `small`, the caller's `offer`, or from aligned_alloc() */
    unsigned char *offer; /* a place of the caller's for a content of bytes of just this length */
    uint64_t offered;
    unsigned char small[1024];
} mtq_box;

static inline void mtq_empty_box(mtq_box *box) {
    if (box->data != box->small && box->data != box->offer) free(box->data);
    box->data = box->small;
}

static inline int mtq_box_for(mtq_box *box, int kind, uint64_t size) {
    if (kind == MTQ_BYTES && box->offer && size == box->offered) {
        box->data = box->offer;
        return MTQ_DONE;
    }
    box->data = size <= sizeof box->small ? box->small : aligned_alloc(64, (size + 63) & ~63ull);
    if (box->data != NULL) return MTQ_DONE;
    box->data = box->small;
    return -ENOMEM;
}

/* Under the get lock. *retire: the ring should be given back, at once or, with MTQ_NOTHING, before waiting. */
static inline int mtq_get_one(mtq *q, mtq_box *box, int *retire) {
    mtq_front f;
    int result = mtq_look(q, &f, 1);
    *retire = f.state.capacity > MTQ_KEEP;
    if (result == MTQ_DONE) result = mtq_box_for(box, f.kind, f.length);
    if (result != MTQ_DONE) return result;
    result = mtq_read(q, &f, box->data);
    if (result < 0) {
        mtq_empty_box(box);
        return result;
    }
    box->kind = f.kind;
    box->length = f.length;
    box->messages = 1;
    mtq_take(q, &f);
    *retire = mtq_leaves_garbage(&f, 1);
    return MTQ_DONE;
}

/* Get one message, waiting for it: MTQ_DONE, LATE, SLICE, ENDED or a negative errno. */
static inline int mtq_get_wait(mtq *q, mtq_box *box, uint64_t deadline, uint64_t slice) {
    int slept = 0;
    for (;;) {
        int retire = 0, result = mtq_lock(q, MTQ_GET, mtq_lock_by(deadline, slice));
        if (result == MTQ_BUSY) return mtq_time_is_up(deadline, slice) == MTQ_LATE ? MTQ_LATE : MTQ_SLICE;
        result = mtq_get_one(q, box, &retire);
        mtq_unlock(q, MTQ_GET);
        if (result == MTQ_DONE && retire) mtq_retire(q);
        if (result == MTQ_DONE) mtq_after_get(q, 1);
        if (result == MTQ_DONE && slept) mtq_pass_on(q, &q->c->items, mtq_has_items);
        if (result != MTQ_NOTHING) return result;
        if (mtq_flags(q) && (mtq_flags(q) & MTQ_IMMEDIATE || mtq_got_count(q) == mtq_put_count(q))) {
            if (retire) mtq_retire(q);
            mtq_drain(q, mtq_sooner(deadline, slice));
            return MTQ_ENDED;
        }
        uint64_t begin = mt_now_ns();
        if (mtq_spin(q, &q->c->items, mtq_has_items, begin, mtq_sooner(deadline, slice))) continue;
        if (retire) mtq_retire(q);
        if ((result = mtq_sleep_from(q, &q->c->items, mtq_has_items, begin, deadline, slice)) != MTQ_DONE) return result;
        slept = 1;
    }
}

/* Before a large ring is made: wait for a busy consumer to free `bytes`. As long as fresh memory would take; for one that
 * has freed something since we were last patient, as long as it may have to wait for its CPU. */
static inline void mtq_be_patient(mtq *q, uint64_t bytes) {
    uint64_t from = atomic_load_explicit(&q->c->freed, memory_order_relaxed), begin = mt_now_ns();
    uint64_t until = begin + MTQ_PATIENCE_NS + bytes * MTQ_FRESH_PS / 1000;
    if (atomic_exchange_explicit(&q->patient_at, from, memory_order_relaxed) != from && until < begin + MTQ_TURN_NS)
        until = begin + MTQ_TURN_NS;
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(&q->c->freed, memory_order_relaxed) - from >= bytes) return;
            mt_relax();
        }
        sched_yield();
    } while (mt_now_ns() < until);
}

/* Put one message, waiting for room: MTQ_DONE, LATE, SLICE, ENDED or -ENOMEM. */
static inline int mtq_put_wait(mtq *q, int kind, const mtq_part *parts, int n, uint64_t length, uint64_t deadline, uint64_t slice) {
    int slept = 0, grow = MTQ_NOT_LARGE;
    for (;;) {
        int result = mtq_lock(q, MTQ_PUT, mtq_lock_by(deadline, slice));
        if (result == MTQ_BUSY) return mtq_time_is_up(deadline, slice) == MTQ_LATE ? MTQ_LATE : MTQ_SLICE;
        result = mtq_put_one(q, kind, parts, n, length, grow);
        mtq_unlock(q, MTQ_PUT);
        if (result == MTQ_LATER) {
            mtq_be_patient(q, MTQ_FRAME(length));
            grow = MTQ_YES;
            continue;
        }
        if (result == MTQ_DONE) mtq_after_put(q, 1);
        if (result == MTQ_DONE && slept) mtq_pass_on(q, &q->c->room, mtq_has_room);
        if (result != MTQ_FULL) return result;
        if ((result = mtq_rest(q, &q->c->room, mtq_has_room, deadline, slice)) != MTQ_DONE) return result;
        slept = 1;
    }
}

/* Get messages as they lie in the ring, without waiting. The caller has the get lock, which this gives back.
 * `bytes`, `messages`: what there is now in `to`. MTQ_DONE, NOTHING, a negative errno, or LATER: the first one needs a
 * mtq_get_wait() of its own, for it is larger than `room`, or long, or the ring is to be mapped and may_map is 0. */
static inline int mtq_run_out(mtq *q, uint64_t most, unsigned char *to, uint64_t room, uint64_t *bytes, uint64_t *messages,
                              int may_map) {
    mtq_front f;
    int result = mtq_look(q, &f, may_map);
    *messages = 0;
    if (result == MTQ_DONE) {
        *messages = f.is_long ? 0 : mtq_take_run(q, &f, most, to, room, bytes);
        if (*messages == 0) result = MTQ_LATER;
    }
    mtq_unlock(q, MTQ_GET);
    if (*messages == 0) return result;
    if (mtq_leaves_garbage(&f, *messages)) mtq_retire(q);
    mtq_after_get(q, *messages);
    return MTQ_DONE;
}

/* Put frames, waiting for room, until all are put: as mtq_put_wait(). `taken`, `messages` count up. */
static inline int mtq_run_in_wait(mtq *q, const unsigned char *run, uint64_t size, uint64_t *taken, uint64_t *messages,
                                  uint64_t deadline, uint64_t slice) {
    int grow = MTQ_NOT_LARGE;
    while (*taken < size) {
        uint64_t bytes, n;
        int result = mtq_lock(q, MTQ_PUT, mtq_lock_by(deadline, slice));
        if (result == MTQ_BUSY) return mtq_time_is_up(deadline, slice) == MTQ_LATE ? MTQ_LATE : MTQ_SLICE;
        result = mtq_put_run(q, run + *taken, size - *taken, &bytes, &n, grow);
        mtq_unlock(q, MTQ_PUT);
        *taken += bytes;
        *messages += n;
        if (n) mtq_after_put(q, n);
        if (result == MTQ_DONE || result == MTQ_LATER) {
            if (result == MTQ_LATER) mtq_be_patient(q, size - *taken);
            grow = result == MTQ_LATER ? MTQ_YES : MTQ_NOT_LARGE;
            continue;
        }
        if (result != MTQ_FULL) return result;
        if ((result = mtq_rest(q, &q->c->room, mtq_has_room, deadline, slice)) != MTQ_DONE) return result;
    }
    return MTQ_DONE;
}

/* Wait until a bell's condition holds: MTQ_DONE, LATE or SLICE. */
static inline int mtq_wait(mtq *q, mtq_bell *bell, int (*ready)(mtq *), uint64_t deadline, uint64_t slice) {
    int result = MTQ_DONE;
    while (!ready(q) && result == MTQ_DONE) result = mtq_rest(q, bell, ready, deadline, slice);
    return result;
}

/* One more piece of work is done; -EINVAL when that would be more than were put. */
static inline int mtq_task_done(mtq *q, uint64_t count) {
    mtq_control *c = q->c;
    uint64_t done = atomic_load(&c->done), gone;
    do {
        gone = atomic_load(&c->discarded) + done; /* more than what was put where items were done before they came out */
        if (gone + count > mtq_put_count(q)) return -EINVAL;
    } while (!atomic_compare_exchange_weak(&c->done, &done, done + count));
    MT_STEP(26);
    if (mtq_is_settled(q)) mtq_wake(&c->settled, INT_MAX);
    return MTQ_DONE;
}

/* How many messages there are, exact at one moment of the call unless it is very busy. */
static inline uint64_t mtq_size(mtq *q) {
    if (mtq_flags(q) & MTQ_IMMEDIATE) return 0;
    uint64_t got = mtq_got_count(q), put, again;
    for (int i = 0; i < 100; i++, got = again) {
        put = mtq_put_count(q);
        again = mtq_got_count(q);
        if (again == got) return put - got;
    }
    return put > got ? put - got : 0;
}

#endif
