/* What every part of the native core stands on: atomics, futexes, memfds, the clock, kill points.
 *
 * Needs no Python. Each extension module and each test program has kill points of its own.
 */
#ifndef MULTITASK_BASE_H
#define MULTITASK_BASE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/memfd.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* ---- kill points: numbered steps at which a test may have the process killed ---- */
static int mt_kill_step = 0;
static long mt_kill_after = 0;
static int mt_kill_signal = SIGKILL; /* or SIGSTOP: then it goes on when it is continued */

static void mt_step_hit(void) {
    if (mt_kill_after-- > 0) return;
    mt_kill_step = 0;
    syscall(SYS_kill, (int)syscall(SYS_getpid), mt_kill_signal);
    while (mt_kill_signal == SIGKILL) pause();
}
#define MT_STEP(n)                                                   \
    do {                                                             \
        if (__builtin_expect(mt_kill_step == (n), 0)) mt_step_hit(); \
    } while (0)

static inline uint64_t mt_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static inline void mt_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Sleep while *word == value. 0 woken (or value differed), -EINTR, -ETIMEDOUT. timeout_ns < 0: for ever. */
static inline int mt_futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t timeout_ns) {
    struct timespec t, *p = NULL;
    if (timeout_ns >= 0) {
        t.tv_sec = timeout_ns / 1000000000;
        t.tv_nsec = timeout_ns % 1000000000;
        p = &t;
    }
    if (syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT, value, p, NULL, 0) == 0) return 0;
    return errno == EAGAIN ? 0 : -errno;
}

static inline void mt_futex_wake(_Atomic uint32_t *word) {
    syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static inline int mt_memfd(const char *name, size_t size) {
    int fd = (int)syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return -errno;
    if (size && ftruncate(fd, (off_t)size) != 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

/* Write all of it at `offset`; 0 or a negative errno. */
static inline int mt_pwrite_all(int fd, const void *data, size_t size, off_t offset) {
    const char *p = data;
    while (size) {
        ssize_t n = pwrite(fd, p, size > (1u << 30) ? (1u << 30) : size, offset);
        if (n < 0) {
            if (errno == EINTR) continue;
            return -errno;
        }
        if (n == 0) return -EIO;
        p += n;
        size -= (size_t)n;
        offset += n;
    }
    return 0;
}

/* ---- small atomics for words that live in Python objects ---- */
static inline uint32_t mt_load32(_Atomic uint32_t *p) { return atomic_load_explicit(p, memory_order_acquire); }
static inline void mt_store32(_Atomic uint32_t *p, uint32_t v) { atomic_store_explicit(p, v, memory_order_release); }
static inline uint64_t mt_load64(_Atomic uint64_t *p) { return atomic_load_explicit(p, memory_order_acquire); }
static inline void mt_store64(_Atomic uint64_t *p, uint64_t v) { atomic_store_explicit(p, v, memory_order_release); }
static inline int mt_cas32(_Atomic uint32_t *p, uint32_t expected, uint32_t wanted) {
    return atomic_compare_exchange_strong(p, &expected, wanted);
}
static inline void mt_fence(void) { atomic_thread_fence(memory_order_seq_cst); }

#endif
