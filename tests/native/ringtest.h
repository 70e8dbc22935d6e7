/* What the tests of the queue share: small rings with a guard behind each, messages that show whether they are whole.
 *
 * PLANT_OVERFLOW makes a producer write one byte behind a ring now and then, PLANT_RACE makes release stores relaxed.
 */
#ifndef MULTITASK_RINGTEST_H
#define MULTITASK_RINGTEST_H

#include "harness.h"

/* A page that nobody may touch behind each mapping: a byte too far is an error at once. */
static inline void *guarded_map(size_t size, int fd, off_t offset) {
    char *at = mmap(NULL, size + 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return MAP_FAILED;
    return mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, offset);
}

#define MTQ_HOT 4096ull
#define MTQ_KEEP 8192ull
#define MTQ_RING_MAX 65536ull
#define MTQ_LONG (MTQ_KEEP / 2 - 64)
#define MTQ_STEP_MAX 8192ull
#define mmap(at, size, protection, flags, fd, offset) guarded_map(size, fd, offset)
#define munmap(at, size) munmap(at, (size) + 4096)
#include "ringwait.h"
#undef mmap
#undef munmap

#define PATIENCE_NS 20000000000ull /* only a hang lasts as long */

/* How long a wake that a death has swallowed may go unnoticed; 0: there are no deaths, and each wake counts. */
static uint64_t slice_ns = 0;

static inline uint64_t slice_end(void) { return slice_ns ? mt_now_ns() + slice_ns : MTQ_NEVER; }

typedef struct {
    uint32_t producer, number;
} label;

/* Small ones mostly, some that are a good part of a ring, some that do not go through a ring. */
static inline uint64_t length_of(label l) {
    uint32_t h = (l.number * 2654435761u) ^ (l.producer * 40503u);
    if (h % 61 == 0) return 8 + h % 20000;
    if (h % 7 == 0) return 8 + h % 1500;
    return 8 + h % 60;
}

static inline void write_message(unsigned char *to, label l, uint64_t length) {
    memcpy(to, &l, sizeof l);
    fill(to + 8, l.number * 31u + l.producer, (uint32_t)length - 8);
}

/* The label of a message, which must be whole. */
static inline label check_message(const unsigned char *at, uint64_t length) {
    label l;
    CHECK(length >= 8, "length %llu", (unsigned long long)length);
    memcpy(&l, at, sizeof l);
    CHECK(length == length_of(l), "%u of producer %u has %llu bytes", l.number, l.producer, (unsigned long long)length);
    verify(at + 8, l.number * 31u + l.producer, (uint32_t)length - 8);
    return l;
}

static inline int put_message(mtq *q, label l, uint64_t deadline) {
    static _Thread_local unsigned char space[32768];
    uint64_t length = length_of(l);
    write_message(space, l, length);
    mtq_part parts[2] = {{space, length / 3}, {space + length / 3, length - length / 3}};
    int result = MTQ_SLICE;
    while (result == MTQ_SLICE) result = mtq_put_wait(q, MTQ_BYTES, parts, 2, length, deadline, slice_end());
#ifdef PLANT_OVERFLOW
    if (l.number == 50) ((volatile unsigned char *)q->put_view.at)[q->put_view.capacity] = 1;
#endif
    return result;
}

/* `count` messages from `l` on as one run; how many of them were put is added to *done. */
static inline int put_messages(mtq *q, label l, uint32_t count, uint64_t deadline, uint64_t *done) {
    static _Thread_local unsigned char run[32768 * 2];
    uint64_t size = 0, taken = 0;
    for (uint32_t i = 0; i < count; i++) {
        label next = {l.producer, l.number + i};
        uint64_t length = length_of(next), head = MTQ_HEAD(MTQ_BYTES, length);
        if (MTQ_FRAME(length) > MTQ_LONG || size + MTQ_FRAME(length) > sizeof run) break;
        memcpy(run + size, &head, 8);
        write_message(run + size + 8, next, length);
        size += MTQ_FRAME(length);
    }
    if (size == 0) {
        int result = put_message(q, l, deadline);
        *done += result == MTQ_DONE;
        return result;
    }
    int result = MTQ_SLICE;
    while (result == MTQ_SLICE)
        result = mtq_run_in_wait(q, run, size, &taken, done, deadline, slice_end());
    return result;
}

typedef void (*taker)(void *to, label l);

/* Get one message and hand its label on: as mtq_get_wait(), without MTQ_SLICE. */
static inline int get_message(mtq *q, uint64_t deadline, taker take, void *to) {
    mtq_box box = {.data = box.small};
    int result = MTQ_SLICE;
    while (result == MTQ_SLICE) result = mtq_get_wait(q, &box, deadline, slice_end());
    if (result != MTQ_DONE) return result;
    take(to, check_message(box.data, box.length));
    mtq_empty_box(&box);
    return result;
}

/* Get up to `most` at once, waiting for none but the first. */
static inline int get_messages(mtq *q, uint64_t most, uint64_t deadline, taker take, void *to) {
    static _Thread_local unsigned char run[8192];
    uint64_t bytes = 0, n = 0, head;
    int result = mtq_lock(q, MTQ_GET, mt_now_ns() + PATIENCE_NS);
    CHECK(result == MTQ_DONE, "the get lock is not to be had");
    result = mtq_run_out(q, most, run, sizeof run, &bytes, &n, 1);
    if (result != MTQ_DONE) return get_message(q, deadline, take, to);
    for (uint64_t at = 0; at < bytes; at += MTQ_FRAME(head >> 8)) {
        memcpy(&head, run + at, 8);
        take(to, check_message(run + at + 8, head >> 8));
    }
    return result;
}

static inline uint64_t memory_of(mtq *q) {
    struct stat now;
    CHECK(fstat(q->fd, &now) == 0);
    return (uint64_t)now.st_blocks * 512;
}

/* What a queue that is empty may occupy: its page, the hot ring, a ring that is kept, the NEXT of one before. */
#define BASELINE (4096 + MTQ_HOT + MTQ_KEEP + 4096)

#endif
