/* Small objects in shared memory: who uses which cell of an arena, the lock on a cell, the counter in one.
 *
 * SHARED.md beside this file has the layout, the order of the stores, and what each death leaves behind. Nothing here
 * needs Python: tests/native compiles it alone.
 */
#ifndef MULTITASK_SHARED_H
#define MULTITASK_SHARED_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* The steps at which tests/native/test_shared.c kills a process. */
#ifndef MS_STEP
#define MS_STEP(number)
#endif

#define MS_MAGIC 0x6d756c7461726531ull
#define MS_MEMBERS 2048u
#define MS_PAGE 4096u

enum { MS_FREE = 0, MS_USED = 1 };

typedef struct {
    uint64_t magic;
    uint32_t cell_bytes, cells, members, record_bytes;
    uint64_t words_at, members_at, cells_at, size;
    _Atomic uint32_t high;  /* members beyond it were never used; only grows */
    _Atomic uint32_t joins; /* how often anybody joined; only grows */
} ms_arena;

typedef struct {
    _Atomic uint32_t state; /* changes only while the byte of this record is locked */
    uint32_t spare[15];
    _Atomic uint64_t uses[]; /* a bit a cell: this process uses it */
} ms_member;

/* --- layout ---------------------------------------------------------------------------------------------------- */

static inline uint64_t ms_page_up(uint64_t n) { return (n + MS_PAGE - 1) & ~(uint64_t)(MS_PAGE - 1); }

static inline uint32_t ms_bit_words(uint32_t cells) { return (cells + 63) / 64; }

static inline void ms_plan(ms_arena *a, uint32_t cell_bytes, uint32_t cells) {
    memset(a, 0, sizeof *a);
    a->cell_bytes = cell_bytes;
    a->cells = cells;
    a->members = MS_MEMBERS;
    a->record_bytes = (uint32_t)((sizeof(ms_member) + 8ull * ms_bit_words(cells) + 63) & ~63ull);
    a->words_at = MS_PAGE;
    a->members_at = ms_page_up(a->words_at + 8ull * cells);
    a->cells_at = ms_page_up(a->members_at + (uint64_t)a->members * a->record_bytes);
    a->size = ms_page_up(a->cells_at + (uint64_t)cells * cell_bytes);
}

/* Whether *base*, mapped from a file of *size* bytes, holds an arena that fits into it. */
static inline int ms_sound(ms_arena *a, uint64_t size) {
    return size >= MS_PAGE && a->magic == MS_MAGIC && a->size == size &&
           a->cells_at + (uint64_t)a->cells * a->cell_bytes <= size;
}

static inline _Atomic uint64_t *ms_word(ms_arena *a, uint32_t cell) {
    return (_Atomic uint64_t *)((char *)a + a->words_at) + cell;
}

static inline ms_member *ms_record(ms_arena *a, uint32_t member) {
    return (ms_member *)((char *)a + a->members_at + (uint64_t)member * a->record_bytes);
}

static inline void *ms_cell(ms_arena *a, uint32_t cell) {
    return (char *)a + a->cells_at + (uint64_t)cell * a->cell_bytes;
}

/* A cell's word: its generation (odd: in use) in the upper half, the handles under way to it in the lower. */
static inline uint32_t ms_generation(uint64_t word) { return (uint32_t)(word >> 32); }
static inline uint32_t ms_claims(uint64_t word) { return (uint32_t)word; }
static inline uint64_t ms_fresh(uint32_t generation) { return (uint64_t)generation << 32; }

/* --- members: the kernel tells who is alive ---------------------------------------------------------------------- */

static inline int ms_byte(int fd, uint32_t member, short type) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = member, .l_len = 1};
    int done;
    do
        done = fcntl(fd, F_OFD_SETLK, &lock);
    while (done < 0 && errno == EINTR);
    return done < 0 ? -errno : 0;
}

static inline void ms_wipe(ms_arena *a, ms_member *record) {
    for (uint32_t i = 0; i < ms_bit_words(a->cells); i++)
        atomic_store_explicit(&record->uses[i], 0, memory_order_relaxed);
}

/* A record for whoever holds the open description *fd*; -EAGAIN when all are taken. It lasts as long as *fd*. */
static inline int ms_join(ms_arena *a, int fd) {
    for (int again = 0; again < 2; again++) { /* the second time also the records of the dead */
        for (uint32_t i = 0; i < a->members; i++) {
            ms_member *record = ms_record(a, i);
            if (!again && atomic_load(&record->state) != MS_FREE)
                continue;
            int got = ms_byte(fd, i, F_WRLCK);
            if (got == -EAGAIN || got == -EACCES)
                continue;
            if (got < 0)
                return got;
            /* Nobody else changes this record while its byte is ours. One that is in use belongs to somebody who
             * has died, or has come in between and died since. */
            MS_STEP(1);
            ms_wipe(a, record);
            MS_STEP(2);
            atomic_store(&record->state, MS_USED);
            MS_STEP(3);
            uint32_t high = atomic_load(&a->high);
            while (high < i + 1 && !atomic_compare_exchange_weak(&a->high, &high, i + 1))
                ;
            MS_STEP(4);
            atomic_fetch_add(&a->joins, 1);
            return (int)i;
        }
    }
    return -EAGAIN;
}

/* Take away what the dead have used. Returns how many there were. *fd* is the caller's own description. */
static inline int ms_bury(ms_arena *a, int fd, uint32_t me) {
    int dead = 0;
    uint32_t high = atomic_load(&a->high);
    for (uint32_t i = 0; i < high; i++) {
        ms_member *record = ms_record(a, i);
        if (i == me || atomic_load(&record->state) != MS_USED || ms_byte(fd, i, F_WRLCK) < 0)
            continue;
        if (atomic_load(&record->state) == MS_USED) {
            MS_STEP(5);
            ms_wipe(a, record);
            MS_STEP(6);
            atomic_store(&record->state, MS_FREE);
            MS_STEP(7);
            dead++;
        }
        ms_byte(fd, i, F_UNLCK);
    }
    return dead;
}

/* The child that is about to be forked uses all that *me* uses; *fd* is the description it will have. */
static inline int ms_double(ms_arena *a, uint32_t me, int fd) {
    int child = ms_join(a, fd);
    if (child >= 0)
        for (uint32_t i = 0; i < ms_bit_words(a->cells); i++)
            atomic_store(&ms_record(a, (uint32_t)child)->uses[i], atomic_load(&ms_record(a, me)->uses[i]));
    return child;
}

/* --- cells ----------------------------------------------------------------------------------------------------------- */

static inline void ms_use(ms_arena *a, uint32_t me, uint32_t cell) {
    atomic_fetch_or(&ms_record(a, me)->uses[cell / 64], 1ull << (cell % 64));
}

static inline void ms_leave(ms_arena *a, uint32_t me, uint32_t cell) {
    atomic_fetch_and(&ms_record(a, me)->uses[cell / 64], ~(1ull << (cell % 64)));
}

/* A handle to *cell* goes out: until it has arrived, the cell stays. The caller uses the cell. */
static inline void ms_claim(ms_arena *a, uint32_t cell) { atomic_fetch_add(ms_word(a, cell), 1); }

/* One handle less is under way; read again, a handle may find none. */
static inline void ms_settle(ms_arena *a, uint32_t cell, uint32_t generation) {
    uint64_t word = atomic_load(ms_word(a, cell));
    MS_STEP(9);
    while (ms_generation(word) == generation && ms_claims(word) &&
           !atomic_compare_exchange_weak(ms_word(a, cell), &word, word - 1))
        ;
}

/* A handle has arrived at *me*. 0: its cell was given up meanwhile. */
static inline int ms_arrive(ms_arena *a, uint32_t me, uint32_t cell, uint32_t generation) {
    /* The bit first, the look second: ms_reclaim does it the other way round, so one of the two sees the other. */
    ms_use(a, me, cell);
    MS_STEP(8);
    return ms_generation(atomic_load(ms_word(a, cell))) == generation;
}

static inline int ms_wanted(ms_arena *a, uint32_t cell) {
    uint32_t high = atomic_load(&a->high);
    for (uint32_t i = 0; i < high; i++) {
        ms_member *record = ms_record(a, i);
        if (atomic_load(&record->state) == MS_USED &&
            (atomic_load(&record->uses[cell / 64]) >> (cell % 64) & 1))
            return 1;
    }
    return 0;
}

/* Give up *cell* if nobody uses it and no handle is under way. Only the arena's maker calls it. */
static inline int ms_reclaim(ms_arena *a, uint32_t cell) {
    /* The word before the bits: who reads a handle sets his bit before he takes the claim back. */
    uint64_t word = atomic_load(ms_word(a, cell));
    if (!(ms_generation(word) & 1) || ms_claims(word) || ms_wanted(a, cell))
        return 0;
    uint64_t given_up = ms_fresh(ms_generation(word) + 1);
    MS_STEP(10);
    if (!atomic_compare_exchange_strong(ms_word(a, cell), &word, given_up))
        return 0;
    MS_STEP(11);
    if (!ms_wanted(a, cell))
        return 1;
    /* An old handle was read once more in between, and its reader has seen either generation. */
    atomic_compare_exchange_strong(ms_word(a, cell), &given_up, word);
    return 0;
}

/* The generation under which a free cell comes into use. */
static inline uint32_t ms_begin(ms_arena *a, uint32_t me, uint32_t cell) {
    uint32_t generation = ms_generation(atomic_load(ms_word(a, cell))) | 1;
    ms_use(a, me, cell);
    MS_STEP(12);
    atomic_store(ms_word(a, cell), ms_fresh(generation));
    return generation;
}

/* --- the lock -------------------------------------------------------------------------------------------------------- */

typedef struct {
    pthread_mutex_t mutex;
} ms_lock;

_Static_assert(sizeof(ms_lock) <= 64, "a lock fits into one cell");

static inline int ms_lock_init(ms_lock *lock) {
    pthread_mutexattr_t attributes;
    int failed = pthread_mutexattr_init(&attributes);
    if (failed)
        return failed;
    if (!(failed = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED)) &&
        !(failed = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST)) &&
        !(failed = pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE)))
        failed = pthread_mutex_init(&lock->mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return failed;
}

/* 0: taken; EOWNERDEAD: taken from a holder that died, what it protects is as that one left it. */
static inline int ms_lock_got(ms_lock *lock, int result) {
    if (result == EOWNERDEAD) {
        MS_STEP(13);
        int failed = pthread_mutex_consistent(&lock->mutex);
        MS_STEP(14);
        return failed ? failed : EOWNERDEAD;
    }
    return result;
}

static inline int ms_lock_try(ms_lock *lock) { return ms_lock_got(lock, pthread_mutex_trylock(&lock->mutex)); }

/* Wait for at most so many nanoseconds. */
static inline int ms_lock_wait(ms_lock *lock, int64_t nanoseconds) {
    struct timespec until;
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 30)
    const clockid_t clock = CLOCK_MONOTONIC;
#else
    const clockid_t clock = CLOCK_REALTIME;
#endif
    clock_gettime(clock, &until);
    nanoseconds += until.tv_nsec;
    until.tv_sec += nanoseconds / 1000000000;
    until.tv_nsec = nanoseconds % 1000000000;
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 30)
    return ms_lock_got(lock, pthread_mutex_clocklock(&lock->mutex, clock, &until));
#else
    return ms_lock_got(lock, pthread_mutex_timedlock(&lock->mutex, &until));
#endif
}

/* EPERM when the calling thread does not hold it. */
static inline int ms_lock_release(ms_lock *lock) { return pthread_mutex_unlock(&lock->mutex); }

/* --- the counter ------------------------------------------------------------------------------------------------------ */

#define MS_FAR (INT64_C(1) << 62)
#define MS_STRIDE (INT64_C(1) << 32)

/* Add and give the new value; 0: it would leave the range, and nothing was added. */
static inline int ms_add(_Atomic int64_t *count, int64_t n, int64_t *sum) {
    int64_t old = atomic_load_explicit(count, memory_order_relaxed);
    if (old > -MS_FAR && old < MS_FAR && n > -MS_STRIDE && n < MS_STRIDE) {
        /* Far from both ends: one instruction. 2^30 others would have to add as much between the look and this. */
        *sum = atomic_fetch_add(count, n) + n;
        return 1;
    }
    do {
        if (__builtin_add_overflow(old, n, sum))
            return 0;
    } while (!atomic_compare_exchange_weak(count, &old, *sum));
    return 1;
}

#endif
