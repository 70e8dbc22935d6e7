/* Lanes: rings in shared memory between one parent and one worker, and the words on which they sleep.
 *
 * Needs no Python: the C harness in tests/native compiles this file alone and runs it under sanitizers.
 * The protocol, the memory layout and what happens when either side dies are in README.md beside this file.
 * Rule: per ring one producer and one consumer; only the consumer writes `tail`, only the producer `head`.
 */
#ifndef MULTITASK_LANE_H
#define MULTITASK_LANE_H

#include "base.h"

#include <stdio.h>
#include <sys/file.h>

#ifndef MT_SLOTS
#define MT_SLOTS 512u /* messages under way per ring; a power of two */
#endif
#ifndef MT_BYTES
#define MT_BYTES (512u * 1024u) /* content under way per ring; a power of two */
#endif
#define MT_INLINE_MAX (MT_BYTES / 8u) /* anything larger travels in a segment of its own */
#define MT_NOTE_BYTES 200u

/* What a slot's state word says in its low bits; the rest of the word is the message's number. */
enum { MT_EMPTY = 0, MT_READY = 1, MT_TAKEN = 2, MT_DONE = 3, MT_REVOKED = 4, MT_CONDEMNED = 5 };
#define MT_STATE(seq, s) (((uint64_t)(seq) << 3) | (uint64_t)(s))

/* The doorbell word of a pool: who sleeps and wants to be woken. */
enum { MT_AWAKE = 0, MT_MANAGER = 1, MT_CALLER = 2, MT_RINGING_MANAGER = 3, MT_RINGING_CALLER = 4 };

typedef struct {
    _Atomic uint64_t state;
    uint32_t length;
    uint8_t kind;
    uint8_t form;
    uint8_t mode;
    uint8_t segment; /* 1: the content is in the next descriptor on the control socket */
    uint64_t position;
    _Atomic uint64_t start_ns; /* request: when the call started (0: not yet); reply: how long it took */
    _Atomic uint64_t item;     /* inside a chunk: the item the worker is at */
    uint64_t function;
    uint64_t cookie; /* reply: number of the request it answers */
    uint64_t spare;
} mt_slot;

typedef struct {
    _Alignas(64) _Atomic uint64_t head; /* written by the producer */
    uint64_t next_position;             /* producer's own */
    _Atomic uint32_t producer_waiting;  /* futex: the producer sleeps until there is room */
    _Alignas(64) _Atomic uint64_t tail; /* written by the consumer */
    _Alignas(64) _Atomic uint32_t consumer_asleep; /* futex */
    _Alignas(64) mt_slot slots[MT_SLOTS];
    _Alignas(64) unsigned char bytes[MT_BYTES];
} mt_ring;

typedef struct {
    _Alignas(64) uint64_t spin_ns;
    _Atomic uint64_t note_seq; /* odd while a note is being written */
    _Atomic uint64_t note_ns;
    _Atomic uint64_t resident_bytes; /* as of the worker's last look */
    _Atomic uint64_t tasks_started;
    uint32_t note_length;
    char note[MT_NOTE_BYTES];
    mt_ring requests;
    mt_ring replies;
} mt_lane;

typedef struct {
    _Alignas(64) _Atomic uint32_t word;
} mt_page;

/* ---- producer ---- */

static inline mt_slot *mt_slot_of(mt_ring *ring, uint64_t seq) { return &ring->slots[seq & (MT_SLOTS - 1u)]; }

/* Number of slots the producer may still fill. */
static inline uint32_t mt_room(mt_ring *ring) {
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    /* acquire: pairs with the release in mt_release(): the consumer is done with the slots it freed */
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    return (uint32_t)(MT_SLOTS - (head - tail));
}

/* Place for a message of `length` bytes, or NULL while there is no room. Nothing is visible before mt_commit(). */
static inline unsigned char *mt_reserve(mt_ring *ring, uint32_t length, mt_slot **slot_out) {
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    uint64_t position = ring->next_position;
    if (head - tail >= MT_SLOTS) return NULL;
    if (head == tail) {
        /* Empty: start again at the front, so that a quiet lane keeps to the same few warm pages. */
        position = (position + MT_BYTES - 1u) & ~(uint64_t)(MT_BYTES - 1u);
    } else {
        uint64_t oldest = mt_slot_of(ring, tail)->position;
        uint64_t offset = position & (MT_BYTES - 1u);
        if (offset + length > MT_BYTES) position += MT_BYTES - offset;
        if (position + length - (oldest & ~(uint64_t)63u) > MT_BYTES) return NULL;
    }
    mt_slot *slot = mt_slot_of(ring, head);
    slot->length = length;
    slot->position = position;
    *slot_out = slot;
    return ring->bytes + (position & (MT_BYTES - 1u));
}

/* The commit word, written last: before it the message does not exist. */
static inline uint64_t mt_commit(mt_ring *ring, mt_slot *slot) {
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    MT_STEP(1);
    ring->next_position = (slot->position + slot->length + 63u) & ~(uint64_t)63u;
    atomic_store_explicit(&ring->head, head + 1, memory_order_relaxed);
    MT_STEP(2);
    /* release: pairs with the acquire in mt_take() and mt_peek() */
    atomic_store_explicit(&slot->state, MT_STATE(head, MT_READY), memory_order_release);
    MT_STEP(3);
    return head;
}

/* Wake the consumer if it sleeps. The fence orders the commit before the look: the sleeper does the same crosswise. */
static inline int mt_wake_consumer(mt_ring *ring) {
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&ring->consumer_asleep, memory_order_relaxed) == 0) return 0;
    atomic_store_explicit(&ring->consumer_asleep, 0, memory_order_relaxed);
    mt_futex_wake(&ring->consumer_asleep);
    return 1;
}

/* Take a message back that has not been started. 1: it is ours again and will never start there. */
static inline int mt_revoke(mt_ring *ring, uint64_t seq) {
    uint64_t expected = MT_STATE(seq, MT_READY);
    return atomic_compare_exchange_strong_explicit(&mt_slot_of(ring, seq)->state, &expected, MT_STATE(seq, MT_REVOKED),
                                                   memory_order_acq_rel, memory_order_acquire);
}

/* Forbid the worker to go on after the message it runs. 1: it runs it and will start nothing after it. */
static inline int mt_condemn(mt_ring *ring, uint64_t seq) {
    uint64_t expected = MT_STATE(seq, MT_TAKEN);
    return atomic_compare_exchange_strong_explicit(&mt_slot_of(ring, seq)->state, &expected, MT_STATE(seq, MT_CONDEMNED),
                                                   memory_order_acq_rel, memory_order_acquire);
}

static inline int mt_state(mt_ring *ring, uint64_t seq) {
    uint64_t state = atomic_load_explicit(&mt_slot_of(ring, seq)->state, memory_order_acquire);
    return (state >> 3) == seq ? (int)(state & 7u) : MT_EMPTY;
}

/* ---- consumer ---- */

/* Is there a committed message at `seq` (the consumer's tail)? */
static inline int mt_peek(mt_ring *ring, uint64_t seq) {
    return atomic_load_explicit(&mt_slot_of(ring, seq)->state, memory_order_acquire) == MT_STATE(seq, MT_READY);
}

enum { MT_NOTHING = 0, MT_GOT = 1, MT_SKIP = 2 };

/* Start the message at `seq`: from here on the producer cannot take it back. MT_SKIP: it was taken back. */
static inline int mt_take(mt_ring *ring, uint64_t seq) {
    mt_slot *slot = mt_slot_of(ring, seq);
    uint64_t expected = MT_STATE(seq, MT_READY);
    MT_STEP(4);
    if (atomic_compare_exchange_strong_explicit(&slot->state, &expected, MT_STATE(seq, MT_TAKEN), memory_order_acq_rel,
                                                memory_order_acquire)) {
        MT_STEP(5);
        return MT_GOT;
    }
    return expected == MT_STATE(seq, MT_REVOKED) ? MT_SKIP : MT_NOTHING;
}

/* The call is over and its reply is published. 0: condemned, the worker must start nothing any more. */
static inline int mt_finish(mt_ring *ring, uint64_t seq) {
    uint64_t expected = MT_STATE(seq, MT_TAKEN);
    MT_STEP(6);
    return atomic_compare_exchange_strong_explicit(&mt_slot_of(ring, seq)->state, &expected, MT_STATE(seq, MT_DONE),
                                                   memory_order_acq_rel, memory_order_acquire);
}

/* Give slot and bytes of message `seq` back to the producer; wake it when it waits for room. */
static inline void mt_release(mt_ring *ring, uint64_t seq) {
    MT_STEP(7);
    atomic_store_explicit(&ring->tail, seq + 1, memory_order_release);
    MT_STEP(8);
}

static inline void mt_wake_producer(mt_ring *ring) {
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&ring->producer_waiting, memory_order_relaxed)) {
        atomic_store_explicit(&ring->producer_waiting, 0, memory_order_relaxed);
        mt_futex_wake(&ring->producer_waiting);
    }
}

static inline unsigned char *mt_content(mt_ring *ring, mt_slot *slot) {
    return ring->bytes + (slot->position & (MT_BYTES - 1u));
}

/* Anything at `seq` for the consumer to act on, be it a message or one that was taken back? */
static inline int mt_something(mt_ring *ring, uint64_t seq) {
    uint64_t state = atomic_load_explicit(&mt_slot_of(ring, seq)->state, memory_order_acquire);
    return state == MT_STATE(seq, MT_READY) || state == MT_STATE(seq, MT_REVOKED);
}

/* Sleep until there is something at `seq`, or for timeout_ns (below 0: without end). Spins for spin_ns first.
 * 0: look again; -EINTR: a signal came; -ETIMEDOUT. */
static inline int mt_consumer_sleep(mt_ring *ring, uint64_t seq, uint64_t spin_ns, int64_t timeout_ns) {
    if (spin_ns) {
        uint64_t end = mt_now_ns() + spin_ns;
        do {
            for (int i = 0; i < 64; i++) {
                if (mt_something(ring, seq)) return 0;
                mt_relax();
            }
            /* The other side may be waiting for this very processor. */
            sched_yield();
        } while (mt_now_ns() < end);
    }
    atomic_store_explicit(&ring->consumer_asleep, 1, memory_order_relaxed);
    /* Announce the sleep before the last look: the other order loses a message that arrives in between. */
    atomic_thread_fence(memory_order_seq_cst);
    MT_STEP(9);
    if (mt_something(ring, seq)) {
        atomic_store_explicit(&ring->consumer_asleep, 0, memory_order_relaxed);
        return 0;
    }
    int result = mt_futex_wait(&ring->consumer_asleep, 1, timeout_ns);
    atomic_store_explicit(&ring->consumer_asleep, 0, memory_order_relaxed);
    return result;
}

/* Sleep until the consumer has freed something. Call when mt_reserve() found no room. */
static inline int mt_producer_sleep(mt_ring *ring, uint64_t seen_tail) {
    atomic_store_explicit(&ring->producer_waiting, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    MT_STEP(10);
    if (atomic_load_explicit(&ring->tail, memory_order_acquire) != seen_tail) {
        atomic_store_explicit(&ring->producer_waiting, 0, memory_order_relaxed);
        return 0;
    }
    return mt_futex_wait(&ring->producer_waiting, 1, -1);
}

/* ---- the pool's doorbell ---- */

/* Worker, after publishing: wake whoever sleeps for this pool, if anybody does. */
static inline void mt_ring_bell(mt_page *page, int eventfd) {
    /* full fence: pairs with the one between storing the word and the last look over the lanes */
    atomic_thread_fence(memory_order_seq_cst);
    uint32_t word = atomic_load_explicit(&page->word, memory_order_relaxed);
    if (word == MT_AWAKE) return;
    MT_STEP(11);
    /* Only the sleeper says that it is awake. Whoever finds it being rung rings too: the first one may have been
       stopped or killed between the swap and the call. */
    while (word == MT_MANAGER || word == MT_CALLER) {
        if (atomic_compare_exchange_strong(&page->word, &word, word + 2)) word += 2;
    }
    MT_STEP(12);
    if (word == MT_RINGING_MANAGER) {
        uint64_t one = 1;
        ssize_t n = write(eventfd, &one, sizeof one);
        (void)n;
    } else if (word == MT_RINGING_CALLER) {
        mt_futex_wake(&page->word);
    }
}

/* Sleeper, once awake and before it takes any lock: let the workers stop ringing. */
static inline void mt_awake(mt_page *page, uint32_t slept_as) {
    uint32_t word = slept_as;
    if (atomic_compare_exchange_strong(&page->word, &word, MT_AWAKE)) return;
    word = slept_as + 2;
    atomic_compare_exchange_strong(&page->word, &word, MT_AWAKE);
}

/* ---- descriptors over the control socket ---- */

static inline int mt_send_fd(int sock, int fd, int flags) {
    char byte = 'f';
    struct iovec io = {&byte, 1};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {0};
    memset(&control, 0, sizeof control);
    message.msg_iov = &io;
    message.msg_iovlen = 1;
    message.msg_control = &control;
    message.msg_controllen = sizeof control.space;
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof(int));
    for (;;) {
        if (sendmsg(sock, &message, MSG_NOSIGNAL | flags) == 1) return 0;
        if (errno != EINTR) return -errno;
    }
}

/* The next descriptor, or a negative errno; -EPIPE when the other side is gone. */
static inline int mt_recv_fd(int sock, int flags) {
    char byte;
    struct iovec io = {&byte, 1};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {0};
    message.msg_iov = &io;
    message.msg_iovlen = 1;
    message.msg_control = &control;
    message.msg_controllen = sizeof control.space;
    for (;;) {
        ssize_t n = recvmsg(sock, &message, MSG_CMSG_CLOEXEC | flags);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        if (n == 0) return -EPIPE;
        break;
    }
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    /* the kernel drops the descriptor, and says so, when this process has no free number */
    if (c == NULL || c->cmsg_type != SCM_RIGHTS || (message.msg_flags & MSG_CTRUNC)) return -EMFILE;
    int fd;
    memcpy(&fd, CMSG_DATA(c), sizeof fd);
    return fd;
}

/* Map all pages for writing at once; 0, or -1 where the kernel cannot (before Linux 5.14). */
static inline int mt_populate_write(void *at, size_t size) {
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
    return madvise(at, size, MADV_POPULATE_WRITE);
}

static inline void mt_seal(int fd) {
    (void)fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
}

/* A second open file description of the memfd `fd`, for reading, that holds a shared lock for as long as it lives:
 * in a socket, in a table of descriptors, in a mapping. A negative errno where that cannot be had. */
static inline int mt_reader(int fd) {
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int reader = open(path, O_RDONLY | O_CLOEXEC);
    if (reader < 0) return -errno;
    if (flock(reader, LOCK_SH | LOCK_NB) != 0) {
        int error = errno;
        close(reader);
        return -error;
    }
    return reader;
}

/* Has the last description that mt_reader() made of this memfd gone? Whoever asks is the only one to make new ones. */
static inline int mt_unread(int fd) {
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) return 0;
    (void)flock(fd, LOCK_UN);
    return 1;
}

/* The worker's breadcrumb: a sequence lock, so that the parent never reads half a note. */
static inline void mt_write_note(mt_lane *lane, const char *text, uint32_t length) {
    uint64_t seq = atomic_load_explicit(&lane->note_seq, memory_order_relaxed);
    if (length > MT_NOTE_BYTES) length = MT_NOTE_BYTES;
    atomic_store_explicit(&lane->note_seq, seq | 1u, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    memcpy(lane->note, text, length);
    lane->note_length = length;
    atomic_store_explicit(&lane->note_ns, length ? mt_now_ns() : 0, memory_order_relaxed);
    atomic_store_explicit(&lane->note_seq, (seq | 1u) + 1u, memory_order_release);
}

#endif
