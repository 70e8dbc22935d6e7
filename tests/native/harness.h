/* What the native tests share: checks that say where they failed, a small random source, lanes to test on.
 *
 * PLANT_RACE makes every release store of lane.h a relaxed one, PLANT_OVERFLOW makes the tests write one byte
 * too many at the end of a ring: the sanitizers must complain about either (make planted).
 */
#ifndef MULTITASK_HARNESS_H
#define MULTITASK_HARNESS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdatomic.h>
#ifdef PLANT_RACE
#define memory_order_release memory_order_relaxed
#define memory_order_acq_rel memory_order_acquire
#endif

/* Small rings wrap often. */
#define MT_SLOTS 8u
#define MT_BYTES 4096u
#include "lane.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

/* CHECK(condition) or CHECK(condition, "format", ...) */
#define CHECK(...) CHECK_(__VA_ARGS__, "checked here", 0)
#define CHECK_(condition, format, ...)                                                  \
    do {                                                                                \
        if (!(condition)) {                                                             \
            fprintf(stderr, "%s:%d: not true: %s: ", __FILE__, __LINE__, #condition);   \
            complain(format, __VA_ARGS__);                                              \
        }                                                                               \
    } while (0)

__attribute__((noreturn)) static void complain(const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    vfprintf(stderr, format, rest);
    va_end(rest);
    fputc('\n', stderr);
    abort();
}

/* How much of each test to do, in percent; the sanitizers slow everything down. */
static inline int scaled(int count) {
    const char *percent = getenv("LANE_TEST_PERCENT");
    int wanted = percent ? (int)((long)count * atoi(percent) / 100) : count;
    return wanted > 1 ? wanted : 1;
}

typedef struct {
    uint64_t state;
} dice;

static inline uint32_t roll(dice *d, uint32_t sides) { /* splitmix64 */
    uint64_t z = (d->state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return (uint32_t)((z ^ (z >> 31)) % sides);
}

/* A lane on the heap, where the address sanitizer sees its end: the reply ring's bytes are the last. */
static inline mt_lane *heap_lane(void) {
    mt_lane *lane = aligned_alloc(64, sizeof(mt_lane));
    CHECK(lane != NULL);
    memset(lane, 0, sizeof *lane);
    return lane;
}

/* Zeroed memory that forked processes share. */
static inline void *shared_memory(size_t size) {
    int fd = mt_memfd("harness", size);
    CHECK(fd >= 0, "memfd: %d", fd);
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED);
    close(fd);
    return memory;
}

static inline unsigned char expected_byte(uint64_t message, uint32_t i) {
    return (unsigned char)(message * 131u + i * 7u + (i >> 8));
}

static inline void fill(unsigned char *place, uint64_t message, uint32_t length) {
    for (uint32_t i = 0; i < length; i++) place[i] = expected_byte(message, i);
}

static inline void verify(const unsigned char *place, uint64_t message, uint32_t length) {
    for (uint32_t i = 0; i < length; i++)
        CHECK(place[i] == expected_byte(message, i), "message %llu byte %u", (unsigned long long)message, i);
}

/* Put a message in the ring, or return 0 while there is no room. */
static inline int put(mt_ring *ring, uint64_t message, uint32_t length) {
    mt_slot *slot;
    unsigned char *place = mt_reserve(ring, length, &slot);
    if (place == NULL) return 0;
    CHECK(place >= ring->bytes && place + length <= ring->bytes + MT_BYTES, "length %u", length);
    slot->cookie = message;
    fill(place, message, length);
#ifdef PLANT_OVERFLOW
    if (place + length + 64 >= ring->bytes + MT_BYTES) ((volatile unsigned char *)ring->bytes)[MT_BYTES] = 1;
#endif
    mt_commit(ring, slot);
    return 1;
}

static inline void put_waiting(mt_ring *ring, uint64_t message, uint32_t length) {
    for (;;) {
        /* The tail that was seen before the ring was found full: the other order loses a wake-up. */
        uint64_t tail = mt_load64(&ring->tail);
        if (put(ring, message, length)) break;
        mt_producer_sleep(ring, tail);
    }
    mt_wake_consumer(ring);
}

static inline pthread_t start_thread(void *(*run)(void *), void *argument) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, run, argument) == 0);
    return thread;
}

#endif
