/* The queue in shared memory: layout, and how messages get in and out. Many producers, many consumers.
 *
 * Needs no Python: the C harness in tests/native compiles this file alone and runs it under sanitizers. The drawings,
 * the rules and what happens when anybody dies are in QUEUE.md beside this file; waiting is in ringwait.h.
 * Rule: put state and tail belong to the holder of the put lock, get state and head to the holder of the get lock.
 * What one side sees of the other: the two count words and `freed`.
 */
#ifndef MULTITASK_RING_H
#define MULTITASK_RING_H

#include "base.h"
#include "room.h"

#include <pthread.h>
#include <sys/stat.h>

#define MTQ_PAGE 4096ull
#ifndef MTQ_HOT
#define MTQ_HOT (64ull << 10)      /* the first ring */
#define MTQ_KEEP (4ull << 20)      /* an empty ring larger than this is given back */
#define MTQ_RING_MAX (64ull << 20) /* no ring is larger */
#define MTQ_LONG (MTQ_KEEP / 2 - 64) /* a larger frame does not go through a ring */
#define MTQ_STEP_MAX (1ull << 20)  /* reserve at most so much ahead */
#endif
#define MTQ_MAGIC (0x3230657565757174ull ^ ((uint64_t)sizeof(pthread_mutex_t) << 48))

/* What a frame holds. MTQ_IS_LONG is added when the content lies outside of the ring. */
enum { MTQ_PLAIN = 1, MTQ_BYTES = 2, MTQ_PICKLE = 3, MTQ_PARCEL = 4, MTQ_NEXT = 5, MTQ_IS_LONG = 128 };
enum { MTQ_SHUT = 1, MTQ_IMMEDIATE = 2 };
/* Results; errors are negative. LATER: not without reserving, mapping or giving back, so not while the GIL is held. */
enum { MTQ_DONE = 0, MTQ_FULL = 1, MTQ_NOTHING = 2, MTQ_ENDED = 3, MTQ_LATER = 4, MTQ_BUSY = 5, MTQ_SLICE = 6, MTQ_LATE = 7 };

/* May a put reserve and map? NOT_LARGE: yes, but no larger ring than is kept when it is empty. */
enum { MTQ_NO = 0, MTQ_YES = 1, MTQ_NOT_LARGE = 2 };

#define MTQ_HEAD(kind, length) (((uint64_t)(length) << 8) | (uint64_t)(kind))
#define MTQ_KIND(head) ((int)((head) & 127u))
#define MTQ_FRAME(length) (8 + (((uint64_t)(length) + 7) & ~7ull))
#define MTQ_NEXT_BYTES 24ull

typedef struct {
    uint64_t segment, capacity, base, position;
    uint64_t reserved; /* of this ring, from its start */
    uint64_t file_end; /* places behind it are free */
} mtq_put_state;

typedef struct {
    uint64_t segment, capacity, base, position;
    uint64_t long_end; /* end of the last long content that was taken */
} mtq_get_state;

typedef struct {
    _Atomic uint32_t turn; /* futex */
    _Atomic uint32_t sleepers;
    _Atomic uint32_t vain; /* wakes in a row that woke nobody */
} mtq_bell;

typedef struct {
    uint64_t magic;
    uint64_t maxsize; /* 0: none */
    _Atomic uint32_t flags;
    _Alignas(64) mtq_bell items;
    mtq_bell room, settled;
    _Alignas(64) _Atomic uint64_t done;
    _Atomic uint64_t discarded;
    _Alignas(64) pthread_mutex_t put_lock;
    _Alignas(64) _Atomic uint64_t put_word;
    _Atomic uint32_t put_cpu; /* where the last put ran, + 1; a hint */
    mtq_put_state put_states[2];
    _Alignas(64) pthread_mutex_t get_lock;
    _Alignas(64) _Atomic uint64_t get_word;
    _Atomic uint64_t freed;
    _Atomic uint32_t get_cpu;
    mtq_get_state get_states[2];
} mtq_control;

_Static_assert(sizeof(mtq_control) <= MTQ_PAGE, "the control page is one page");

/* Where a ring is mapped in this process. */
typedef struct {
    _Atomic uint64_t segment; /* 0: nothing is mapped */
    uint64_t capacity;
    unsigned char *at;
} mtq_view;

/* One process' end of a queue. The put_ and get_ parts belong to the holder of the lock, as in the control page. */
typedef struct {
    mtq_control *c;
    int fd;
    uint64_t spin_ns;        /* how long to look before sleeping, at most; what follows is ringspin.h's */
    _Atomic uint32_t vain;   /* looks in a row that were, up to a bound */
    _Atomic uint32_t beside; /* waits in a row that were ended from this CPU */
    _Atomic uint64_t apart_at, apart_ns;
    _Atomic uint64_t patient_at; /* `freed` when a put last waited for memory that is in use */
    mtq_view put_view, get_view;
    uint64_t put_knows_got, put_knows_freed; /* as of the last look */
    uint64_t get_knows_put;
} mtq;

/* Content in pieces. */
typedef struct {
    const void *data;
    uint64_t size;
} mtq_part;

static inline uint64_t mtq_put_count(mtq *q) { return atomic_load_explicit(&q->c->put_word, memory_order_acquire) >> 1; }
static inline uint64_t mtq_got_count(mtq *q) { return atomic_load_explicit(&q->c->get_word, memory_order_acquire) >> 1; }
static inline uint32_t mtq_flags(mtq *q) { return atomic_load_explicit(&q->c->flags, memory_order_acquire); }

static inline mtq_put_state *mtq_tail(mtq *q) {
    return &q->c->put_states[atomic_load_explicit(&q->c->put_word, memory_order_relaxed) & 1];
}

static inline mtq_get_state *mtq_head(mtq *q) {
    return &q->c->get_states[atomic_load_explicit(&q->c->get_word, memory_order_relaxed) & 1];
}

/* This thread's CPU + 1; 0: not known. */
static inline uint32_t mtq_this_cpu(void) { return (uint32_t)(sched_getcpu() + 1); }

/* ---- making, mapping ---- */

static inline void mtq_make_lock(pthread_mutex_t *lock) {
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(lock, &kind);
    pthread_mutexattr_destroy(&kind);
}

static inline int mtq_map_control(mtq *q, int fd) {
    void *at = mmap(NULL, MTQ_PAGE + MTQ_HOT, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) return -errno;
    memset(q, 0, sizeof *q);
    q->c = at;
    q->fd = fd;
    return 0;
}

/* A new queue; 0 or a negative errno. */
static inline int mtq_make(mtq *q, uint64_t maxsize) {
    int fd = mt_memfd("multitask-queue", MTQ_PAGE + MTQ_HOT);
    if (fd < 0) return fd;
    /* reserved like the rings: without it the first look at the page could end in SIGBUS */
    int result = fallocate(fd, 0, 0, MTQ_PAGE) == 0 || errno == EOPNOTSUPP ? mtq_map_control(q, fd) : -errno;
    if (result < 0) {
        close(fd);
        return result;
    }
    mtq_control *c = q->c;
    c->maxsize = maxsize;
    mtq_make_lock(&c->put_lock);
    mtq_make_lock(&c->get_lock);
    c->put_states[0] = (mtq_put_state){MTQ_PAGE, MTQ_HOT, 0, 0, 0, MTQ_PAGE + MTQ_HOT};
    c->get_states[0] = (mtq_get_state){MTQ_PAGE, MTQ_HOT, 0, 0, 0};
    c->magic = MTQ_MAGIC;
    return 0;
}

/* The queue behind `fd`, which is taken over; 0 or a negative errno (-EINVAL: that is no queue). */
static inline int mtq_attach(mtq *q, int fd) {
    struct stat what;
    if (fstat(fd, &what) != 0) return -errno;
    if (!S_ISREG(what.st_mode) || (uint64_t)what.st_size < MTQ_PAGE + MTQ_HOT) return -EINVAL;
    int result = mtq_map_control(q, fd);
    if (result < 0) return result;
    if (q->c->magic == MTQ_MAGIC) return 0;
    munmap(q->c, MTQ_PAGE + MTQ_HOT);
    q->c = NULL;
    return -EINVAL;
}

static inline void mtq_unmap(mtq *q, mtq_view *view) {
    uint64_t segment = atomic_load_explicit(&view->segment, memory_order_relaxed);
    /* A child forked in between must not believe in a mapping that is going. */
    atomic_store_explicit(&view->segment, 0, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    if (segment > MTQ_PAGE) munmap(view->at, view->capacity);
    (void)q;
}

static inline void mtq_leave(mtq *q) {
    if (q->c == NULL) return;
    mtq_unmap(q, &q->put_view);
    mtq_unmap(q, &q->get_view);
    munmap(q->c, MTQ_PAGE + MTQ_HOT);
    close(q->fd);
    q->c = NULL;
    q->fd = -1;
}

/* A place whose ring was never committed may be used for another ring: it is this one only if the size fits too. */
static inline int mtq_is_mapped(mtq_view *view, uint64_t segment, uint64_t capacity) {
    return atomic_load_explicit(&view->segment, memory_order_relaxed) == segment && view->capacity == capacity;
}

/* Map a ring into this process; 0 or a negative errno. */
static inline int mtq_map(mtq *q, mtq_view *view, uint64_t segment, uint64_t capacity) {
    if (mtq_is_mapped(view, segment, capacity)) return 0;
    mtq_unmap(q, view);
    if (segment == MTQ_PAGE) {
        view->at = (unsigned char *)q->c + MTQ_PAGE;
    } else {
        void *at = mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_SHARED, q->fd, (off_t)segment);
        if (at == MAP_FAILED) return -errno;
        view->at = at;
    }
    view->capacity = capacity;
    atomic_store_explicit(&view->segment, segment, memory_order_release);
    return 0;
}

static inline void mtq_copy_in(unsigned char *ring, uint64_t capacity, uint64_t offset, const void *data, uint64_t size) {
    offset &= capacity - 1;
    uint64_t first = capacity - offset < size ? capacity - offset : size;
    memcpy(ring + offset, data, first);
    if (size > first) memcpy(ring, (const unsigned char *)data + first, size - first);
}

static inline void mtq_copy_out(const unsigned char *ring, uint64_t capacity, uint64_t offset, void *to, uint64_t size) {
    offset &= capacity - 1;
    uint64_t first = capacity - offset < size ? capacity - offset : size;
    memcpy(to, ring + offset, first);
    if (size > first) memcpy((unsigned char *)to + first, ring, size - first);
}

static inline void mtq_give_back(mtq *q, uint64_t from, uint64_t to) {
    if (to > from) (void)fallocate(q->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)(to - from));
}

/* ---- the tail: under the put lock ---- */

/* Bytes that may be written before the next NEXT frame. */
static inline uint64_t mtq_free_bytes(mtq *q, const mtq_put_state *at, uint64_t wanted) {
    for (int looked = 0;; looked = 1) {
        uint64_t from = q->put_knows_freed >= at->base ? q->put_knows_freed : at->base;
        /* What was seen last may be older than a lap of the ring: then it seems more than full. */
        uint64_t used = at->position - from + MTQ_NEXT_BYTES;
        uint64_t left = used < at->capacity ? at->capacity - used : 0;
        if (left >= wanted || looked) return left;
        /* acquire: pairs with the release in mtq_move_head(): the content before it has been copied out */
        q->put_knows_freed = atomic_load_explicit(&q->c->freed, memory_order_acquire);
    }
}

/* Messages that maxsize still allows. */
static inline uint64_t mtq_free_places(mtq *q, uint64_t count, uint64_t wanted) {
    uint64_t maxsize = q->c->maxsize;
    if (maxsize == 0) return wanted;
    for (int looked = 0;; looked = 1) {
        uint64_t there = count - q->put_knows_got; /* as of the last look: may be more than there ever were at once */
        uint64_t left = there < maxsize ? maxsize - there : 0;
        if (left >= wanted || looked) return left < wanted ? left : wanted;
        q->put_knows_got = mtq_got_count(q);
    }
}

/* Memory for file places [from, from + size); 0 or -ENOMEM. */
static inline int mtq_reserve(mtq *q, uint64_t from, uint64_t size) {
    struct stat now;
    if (size > 4 * MTQ_PAGE && (fstat(q->fd, &now) != 0 || mt_room_for((uint64_t)now.st_blocks * 512, size) < 0))
        return -ENOMEM;
    while (fallocate(q->fd, 0, (off_t)from, (off_t)size) != 0)
        if (errno != EINTR) return -ENOMEM;
    MT_STEP(2);
    return 0;
}

/* See that the ring is reserved as far as `position`. */
static inline int mtq_reserve_ring(mtq *q, mtq_put_state *at, uint64_t position, int may_grow) {
    uint64_t end = position - at->base < at->capacity ? position - at->base : at->capacity;
    if (end <= at->reserved) return MTQ_DONE;
    if (!may_grow) return MTQ_LATER;
    uint64_t ahead = at->reserved > at->capacity / 16 ? at->reserved : at->capacity / 16;
    if (ahead > MTQ_STEP_MAX) ahead = MTQ_STEP_MAX;
    uint64_t to = at->reserved + ahead > end ? at->reserved + ahead : end;
    to = (to + MTQ_PAGE - 1) & ~(MTQ_PAGE - 1);
    if (to > at->capacity) to = at->capacity;
    int result = mtq_reserve(q, at->segment + at->reserved, to - at->reserved);
    if (result == 0) at->reserved = to;
    return result;
}

/* Go on in a new ring, in which a frame of `bytes` has room. `at` becomes its state; nothing is committed. */
static inline int mtq_append_ring(mtq *q, mtq_put_state *at, uint64_t capacity, uint64_t bytes) {
    uint64_t next[3] = {MTQ_HEAD(MTQ_NEXT, 16), at->file_end, capacity};
    mtq_put_state made = {at->file_end, capacity, at->position + MTQ_NEXT_BYTES, at->position + MTQ_NEXT_BYTES, 0,
                          at->file_end + capacity};
    int result = mtq_reserve_ring(q, at, at->position + MTQ_NEXT_BYTES, 1);
    if (result == 0) result = mtq_reserve_ring(q, &made, made.position + bytes + MTQ_NEXT_BYTES, 1);
    if (result < 0) return result;
    MT_STEP(8);
    mtq_copy_in(q->put_view.at, at->capacity, at->position - at->base, next, sizeof next);
    MT_STEP(9);
    result = mtq_map(q, &q->put_view, made.segment, capacity);
    if (result == 0) *at = made;
    return result;
}

static inline uint64_t mtq_larger(uint64_t capacity, uint64_t bytes) {
    uint64_t wanted = capacity * 2 < MTQ_RING_MAX ? capacity * 2 : MTQ_RING_MAX;
    while (wanted < 2 * (bytes + MTQ_NEXT_BYTES)) wanted *= 2;
    return wanted;
}

/* See that `bytes` can be written at the tail and mapped here. `at` is a copy of the put state. */
static inline int mtq_prepare(mtq *q, mtq_put_state *at, uint64_t bytes, int may_grow) {
    if (!mtq_is_mapped(&q->put_view, at->segment, at->capacity)) {
        if (!may_grow) return MTQ_LATER;
        int result = mtq_map(q, &q->put_view, at->segment, at->capacity);
        if (result < 0) return result;
    }
    if (mtq_free_bytes(q, at, bytes) < bytes) {
        uint64_t capacity = mtq_larger(at->capacity, bytes);
        if (!may_grow || (may_grow == MTQ_NOT_LARGE && capacity > MTQ_KEEP)) return MTQ_LATER;
        return mtq_append_ring(q, at, capacity, bytes);
    }
    return mtq_reserve_ring(q, at, at->position + bytes + MTQ_NEXT_BYTES, may_grow);
}

/* The store that makes `messages` messages exist. */
static inline void mtq_commit(mtq *q, const mtq_put_state *at, uint64_t messages) {
    mtq_control *c = q->c;
    uint64_t word = atomic_load_explicit(&c->put_word, memory_order_relaxed);
    MT_STEP(3);
    c->put_states[~word & 1] = *at;
    MT_STEP(4);
    atomic_store_explicit(&c->put_cpu, mtq_this_cpu(), memory_order_relaxed);
    /* release: pairs with the acquire in mtq_put_count() */
    atomic_store_explicit(&c->put_word, (((word >> 1) + messages) << 1) | (~word & 1), memory_order_release);
    MT_STEP(5);
}

/* A long content, to its own place in the file. */
static inline int mtq_write_long(mtq *q, mtq_put_state *at, const mtq_part *parts, int n, uint64_t length) {
    uint64_t place = at->file_end, size = (length + MTQ_PAGE - 1) & ~(MTQ_PAGE - 1);
    int result = mtq_reserve(q, place, size);
    if (result < 0) return result;
    at->file_end += size;
    for (int i = 0; i < n; place += parts[i++].size) {
        MT_STEP(10);
        result = mt_pwrite_all(q->fd, parts[i].data, parts[i].size, (off_t)place);
        if (result < 0) return -ENOMEM;
    }
    return 0;
}

/* Cut off what was made and not committed. */
static inline void mtq_cut(mtq *q) {
    struct stat now;
    uint64_t end = mtq_tail(q)->file_end;
    if (fstat(q->fd, &now) == 0 && (uint64_t)now.st_size > end) (void)!ftruncate(q->fd, (off_t)end);
}

/* Write one frame at the tail of `at`, which becomes the state behind it. */
static inline int mtq_write(mtq *q, mtq_put_state *at, int kind, const mtq_part *parts, int n, uint64_t length, int may_grow) {
    int is_long = MTQ_FRAME(length) > MTQ_LONG;
    uint64_t bytes = is_long ? 16 : MTQ_FRAME(length);
    if (is_long && !may_grow) return MTQ_LATER;
    int result = mtq_prepare(q, at, bytes, may_grow);
    if (result != MTQ_DONE) return result;
    uint64_t head = MTQ_HEAD(is_long ? kind | MTQ_IS_LONG : kind, length), place = at->file_end;
    uint64_t to = at->position - at->base;
    mtq_copy_in(q->put_view.at, at->capacity, to, &head, 8);
    if (is_long) {
        result = mtq_write_long(q, at, parts, n, length);
        if (result < 0) return result;
        mtq_copy_in(q->put_view.at, at->capacity, to + 8, &place, 8);
    } else {
        to += 8;
        for (int i = 0; i < n; to += parts[i++].size)
            mtq_copy_in(q->put_view.at, at->capacity, to, parts[i].data, parts[i].size);
    }
    at->position += bytes;
    return MTQ_DONE;
}

/* Put one message. MTQ_DONE, FULL, ENDED, LATER (not if may_grow is MTQ_YES) or -ENOMEM. */
static inline int mtq_put_one(mtq *q, int kind, const mtq_part *parts, int n, uint64_t length, int may_grow) {
    mtq_put_state at = *mtq_tail(q);
    uint64_t count = atomic_load_explicit(&q->c->put_word, memory_order_relaxed) >> 1;
    MT_STEP(1);
    if (mtq_flags(q) & MTQ_SHUT) return MTQ_ENDED;
    if (mtq_free_places(q, count, 1) == 0) return MTQ_FULL;
    int result = mtq_write(q, &at, kind, parts, n, length, may_grow);
    if (result == MTQ_DONE) mtq_commit(q, &at, 1);
    if (result < 0) mtq_cut(q);
    return result;
}

/* Put as many of the frames in `run` as there is room for, with one commit. `taken`, `messages`: how far it came. */
static inline int mtq_put_run(mtq *q, const unsigned char *run, uint64_t size, uint64_t *taken, uint64_t *messages, int may_grow) {
    mtq_put_state at = *mtq_tail(q);
    uint64_t count = atomic_load_explicit(&q->c->put_word, memory_order_relaxed) >> 1, head, bytes = 0, n = 0, places;
    *taken = *messages = 0;
    MT_STEP(1);
    if (mtq_flags(q) & MTQ_SHUT) return MTQ_ENDED;
    if ((places = mtq_free_places(q, count, size / 8)) == 0) return MTQ_FULL;
    memcpy(&head, run, 8);
    int result = mtq_prepare(q, &at, MTQ_FRAME(head >> 8), may_grow);
    if (result < 0) mtq_cut(q);
    if (result != MTQ_DONE) return result;
    uint64_t room = mtq_free_bytes(q, &at, size);
    if (at.position - at.base + room + MTQ_NEXT_BYTES > at.reserved && at.reserved < at.capacity)
        room = at.reserved - (at.position - at.base) - MTQ_NEXT_BYTES;
    while (bytes < size && n < places) {
        memcpy(&head, run + bytes, 8);
        if (bytes + MTQ_FRAME(head >> 8) > room) break;
        bytes += MTQ_FRAME(head >> 8);
        n++;
    }
    mtq_copy_in(q->put_view.at, at.capacity, at.position - at.base, run, bytes);
    at.position += bytes;
    mtq_commit(q, &at, n);
    *taken = bytes;
    *messages = n;
    return MTQ_DONE;
}

/* ---- the head: under the get lock ---- */

/* The oldest message: where it is and what it is. */
typedef struct {
    mtq_get_state state; /* as it is before the message is taken */
    uint64_t count;      /* got so far */
    uint64_t waiting;    /* messages from here on, this one included */
    uint64_t length;
    int kind, is_long;
    uint64_t left;       /* start of a ring that is left with this message, or 0 */
} mtq_front;

/* Should who takes this message, and so empties the ring, give it back? Not one that is used over and over: fresh
 * memory costs ten times a copy. That one is given back by who finds it empty and has to wait. */
static inline int mtq_leaves_garbage(const mtq_front *f, uint64_t messages) {
    return f->waiting == messages && f->state.capacity > MTQ_KEEP && f->state.position - f->state.base < f->state.capacity;
}

/* Go where NEXT says. */
static inline int mtq_follow(mtq *q, mtq_front *f, int may_map) {
    uint64_t next[2];
    if (!may_map) return MTQ_LATER;
    mtq_copy_out(q->get_view.at, f->state.capacity, f->state.position - f->state.base + 8, next, sizeof next);
    if (f->left == 0) f->left = f->state.segment;
    f->state.position += MTQ_NEXT_BYTES;
    f->state.segment = next[0];
    f->state.capacity = next[1];
    f->state.base = f->state.position;
    return mtq_map(q, &q->get_view, f->state.segment, f->state.capacity);
}

/* MTQ_DONE, NOTHING, LATER (only without may_map) or a negative errno. */
static inline int mtq_look(mtq *q, mtq_front *f, int may_map) {
    uint64_t head;
    int result;
    f->state = *mtq_head(q);
    f->count = atomic_load_explicit(&q->c->get_word, memory_order_relaxed) >> 1;
    f->left = 0;
    MT_STEP(11);
    if (mtq_flags(q) & MTQ_IMMEDIATE) return MTQ_NOTHING;
    /* Whatever was known to be there is still there: only the holder of the get lock takes. */
    if (q->get_knows_put <= f->count) q->get_knows_put = mtq_put_count(q);
    if (q->get_knows_put <= f->count) return MTQ_NOTHING;
    f->waiting = q->get_knows_put - f->count;
    if (!mtq_is_mapped(&q->get_view, f->state.segment, f->state.capacity)) {
        if (!may_map) return MTQ_LATER;
        result = mtq_map(q, &q->get_view, f->state.segment, f->state.capacity);
        if (result < 0) return result;
    }
    for (;;) {
        mtq_copy_out(q->get_view.at, f->state.capacity, f->state.position - f->state.base, &head, 8);
        if (MTQ_KIND(head) != MTQ_NEXT) break;
        result = mtq_follow(q, f, may_map);
        if (result != MTQ_DONE) return result;
    }
    f->kind = MTQ_KIND(head);
    f->is_long = (head & MTQ_IS_LONG) != 0;
    f->length = head >> 8;
    return f->is_long && !may_map ? MTQ_LATER : MTQ_DONE;
}

/* The content in one piece in the ring, or NULL when it is not in one piece. */
static inline const unsigned char *mtq_in_place(mtq *q, const mtq_front *f) {
    uint64_t offset = (f->state.position - f->state.base + 8) & (f->state.capacity - 1);
    return f->is_long || offset + f->length > f->state.capacity ? NULL : q->get_view.at + offset;
}

static inline uint64_t mtq_long_place(mtq *q, const mtq_front *f) {
    uint64_t place;
    mtq_copy_out(q->get_view.at, f->state.capacity, f->state.position - f->state.base + 8, &place, 8);
    return place;
}

/* Copy the content; 0 or a negative errno. */
static inline int mtq_read(mtq *q, const mtq_front *f, void *to) {
    if (!f->is_long) {
        mtq_copy_out(q->get_view.at, f->state.capacity, f->state.position - f->state.base + 8, to, f->length);
        MT_STEP(12);
        return 0;
    }
    uint64_t place = mtq_long_place(q, f), rest = f->length;
    for (unsigned char *at = to; rest;) {
        ssize_t n = pread(q->fd, at, rest > (1u << 30) ? (1u << 30) : rest, (off_t)place);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n < 0 ? -errno : -EIO;
        at += n;
        rest -= (uint64_t)n;
        place += (uint64_t)n;
    }
    MT_STEP(12);
    return 0;
}

/* The store after which `messages` messages up to the state `to` are the caller's. */
static inline void mtq_move_head(mtq *q, const mtq_get_state *to, uint64_t messages) {
    mtq_control *c = q->c;
    uint64_t word = atomic_load_explicit(&c->get_word, memory_order_relaxed);
    c->get_states[~word & 1] = *to;
    MT_STEP(13);
    atomic_store_explicit(&c->get_cpu, mtq_this_cpu(), memory_order_relaxed);
    atomic_store_explicit(&c->get_word, (((word >> 1) + messages) << 1) | (~word & 1), memory_order_release);
    MT_STEP(14);
    /* release: pairs with the acquire in mtq_free_bytes(). After the word: a late look is a ring that seems fuller. */
    atomic_store_explicit(&c->freed, to->position, memory_order_release);
    MT_STEP(15);
}

/* Take the message: from here on nobody else gets it. */
static inline void mtq_take(mtq *q, const mtq_front *f) {
    mtq_get_state to = f->state;
    uint64_t from = 0;
    if (f->is_long) {
        from = mtq_long_place(q, f);
        to.long_end = from + ((f->length + MTQ_PAGE - 1) & ~(MTQ_PAGE - 1));
    }
    to.position += f->is_long ? 16 : MTQ_FRAME(f->length);
    mtq_move_head(q, &to, 1);
    if (!f->left && !f->is_long) return;
    MT_STEP(16);
    if (f->left) mtq_give_back(q, f->left, to.segment); /* and every long content that lay between */
    if (f->is_long) mtq_give_back(q, from, to.long_end);
    MT_STEP(17);
}

/* Take the ring's next frames in one commit, whole, to `to`: at most `room` bytes and `most` messages. */
static inline uint64_t mtq_take_run(mtq *q, const mtq_front *f, uint64_t most, unsigned char *to, uint64_t room, uint64_t *bytes) {
    mtq_get_state next = f->state;
    uint64_t n = 0, used = 0, head;
    if (most > f->waiting) most = f->waiting;
    for (; n < most; n++) {
        uint64_t offset = next.position - next.base;
        mtq_copy_out(q->get_view.at, next.capacity, offset, &head, 8);
        uint64_t size = MTQ_FRAME(head >> 8);
        if (MTQ_KIND(head) == MTQ_NEXT || (head & MTQ_IS_LONG) || used + size > room) break;
        used += size;
        next.position += size;
    }
    *bytes = used;
    if (n == 0) return 0;
    mtq_copy_out(q->get_view.at, f->state.capacity, f->state.position - f->state.base, to, used);
    MT_STEP(12);
    mtq_move_head(q, &next, n);
    if (f->left) {
        MT_STEP(16);
        mtq_give_back(q, f->left, next.segment);
        MT_STEP(17);
    }
    return n;
}

/* ---- repairs ---- */

/* The last holder of the put lock died: cut off what it made and did not commit. */
static inline void mtq_repair_put(mtq *q) {
    MT_STEP(27);
    mtq_cut(q);
    MT_STEP(28);
}

/* The last holder of the get lock died: say where the head is, give back what lies before it. */
static inline void mtq_repair_get(mtq *q) {
    const mtq_get_state *at = mtq_head(q);
    MT_STEP(29);
    atomic_store_explicit(&q->c->freed, at->position, memory_order_release);
    mtq_give_back(q, MTQ_PAGE, at->segment);
    mtq_give_back(q, at->segment + at->capacity, at->long_end);
    /* Killed while it dropped everything: nothing is read or written any more. */
    if ((mtq_flags(q) & MTQ_IMMEDIATE) && mtq_got_count(q) == mtq_put_count(q)) mtq_give_back(q, MTQ_PAGE, mtq_tail(q)->file_end);
    MT_STEP(30);
}

#endif
