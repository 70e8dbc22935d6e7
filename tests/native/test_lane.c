/* The ring between two threads: content, wraps, full rings, sleeping, take-back and condemnation. */
#include "harness.h"

#include <sched.h>
#include <sys/wait.h>

/* ---- one thread: the allocator against a list of what is alive ---- */

static void test_a_full_ring_refuses_and_has_room_again(void) {
    mt_lane *lane = heap_lane();
    mt_ring *ring = &lane->replies;
    for (int lap = 0; lap < 3; lap++) {
        for (uint32_t i = 0; i < MT_SLOTS; i++) CHECK(mt_room(ring) == MT_SLOTS - i && put(ring, i, 0));
        CHECK(mt_room(ring) == 0 && !put(ring, 99, 0));
        for (uint32_t i = 0; i < MT_SLOTS; i++) {
            uint64_t seq = mt_load64(&ring->tail);
            CHECK(mt_take(ring, seq) == MT_GOT && mt_finish(ring, seq));
            mt_release(ring, seq);
            CHECK(mt_room(ring) == i + 1);
        }
        CHECK(mt_take(ring, mt_load64(&ring->tail)) == MT_NOTHING);
    }
    int count = 0; /* now by bytes: messages of the largest size */
    while (put(ring, (uint64_t)count, MT_BYTES / 4)) count++;
    CHECK(count == 4, "%d messages of a quarter fit", count);
    mt_release(ring, mt_load64(&ring->tail));
    CHECK(!put(ring, 9, MT_BYTES / 4 + 1) && put(ring, 9, MT_BYTES / 4));
    free(lane);
}

static void test_random_messages_never_touch_each_other(void) {
    mt_lane *lane = heap_lane();
    mt_ring *ring = &lane->replies;
    dice d = {7};
    uint64_t head = 0, tail = 0;
    for (int i = 0; i < scaled(60000); i++) {
        if (roll(&d, 2)) {
            uint32_t length = roll(&d, 4) ? roll(&d, MT_INLINE_MAX + 1) : roll(&d, MT_BYTES + 1);
            if (put(ring, head, length)) head++;
        } else if (tail < head) {
            mt_slot *slot = mt_slot_of(ring, tail);
            CHECK(mt_peek(ring, tail) && slot->cookie == tail);
            verify(mt_content(ring, slot), tail, slot->length);
            mt_release(ring, tail++);
        } else {
            CHECK(!mt_peek(ring, tail) && !mt_something(ring, tail));
            CHECK(put(ring, head, MT_BYTES), "an empty ring takes a message as large as itself");
            head++;
        }
        CHECK(mt_room(ring) == MT_SLOTS - (head - tail));
    }
    free(lane);
}

/* What came before the announcement is seen by the last look; without it, these sleep until the alarm. */
static void test_a_sleeper_looks_again(void) {
    mt_lane *lane = heap_lane();
    mt_ring *ring = &lane->replies;
    unsigned int rest = alarm(20);
    CHECK(put(ring, 0, 8) && mt_consumer_sleep(ring, 0, 0, -1) == 0);
    CHECK(mt_load32(&ring->consumer_asleep) == 0 && mt_wake_consumer(ring) == 0, "nobody sleeps, nobody is woken");
    CHECK(mt_revoke(ring, 0) && mt_consumer_sleep(ring, 0, 0, -1) == 0, "what was taken back is to be skipped");
    uint64_t seen = mt_load64(&ring->tail);
    mt_release(ring, 0);
    CHECK(mt_producer_sleep(ring, seen) == 0 && mt_load32(&ring->producer_waiting) == 0);
    alarm(rest);
    free(lane);
}

/* A reader locks a segment for as long as anything of it is left: in a socket, in a table, in a mapping, in a child. */
static void test_a_segment_is_unread_once_its_last_reader_is_gone(void) {
    int pair[2], at_gate[2], fd = mt_memfd("segment", 8192);
    CHECK(fd >= 0 && mt_unread(fd) && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && pipe(at_gate) == 0);
    int reader = mt_reader(fd);
    CHECK(reader >= 0 && !mt_unread(fd), "open");
    CHECK(mt_send_fd(pair[0], reader, 0) == 0 && close(reader) == 0 && !mt_unread(fd), "in the socket");
    reader = mt_recv_fd(pair[1], 0);
    CHECK(!mt_unread(fd), "received");
    CHECK(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, reader, 0) == MAP_FAILED, "not to be written by it");
    void *at = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, reader, 0);
    CHECK(at != MAP_FAILED && close(reader) == 0 && !mt_unread(fd), "mapped");
    pid_t child = fork();
    if (child == 0) {
        char byte;
        close(at_gate[1]);
        _exit(read(at_gate[0], &byte, 1) != 0);
    }
    CHECK(munmap(at, 8192) == 0 && !mt_unread(fd), "mapped in a child");
    kill(child, SIGKILL);
    CHECK(waitpid(child, NULL, 0) == child && mt_unread(fd), "gone");
    reader = mt_reader(fd);
    CHECK(mt_send_fd(pair[0], reader, 0) == 0 && close(reader) == 0 && close(pair[1]) == 0 && mt_unread(fd), "unreceived");
    close(pair[0]), close(at_gate[0]), close(at_gate[1]), close(fd);
}

/* ---- two threads: a stream of messages ---- */

typedef struct {
    mt_ring *ring;
    int messages;
    uint64_t spin_ns;
    int slow; /* who dawdles: 0 nobody, 1 the producer, 2 the consumer */
} stream;

static void dawdle(dice *d) {
    if (roll(d, 64) == 0) usleep(roll(d, 200));
}

static void *produce(void *argument) {
    stream *s = argument;
    dice d = {11};
    for (int i = 0; i < s->messages; i++) {
        put_waiting(s->ring, (uint64_t)i, roll(&d, 3) ? roll(&d, 64) : roll(&d, MT_INLINE_MAX + 1));
        if (s->slow == 1) dawdle(&d);
    }
    return NULL;
}

static void consume(stream *s) {
    dice d = {13};
    for (uint64_t seq = 0; seq < (uint64_t)s->messages;) {
        if (mt_take(s->ring, seq) != MT_GOT) {
            mt_consumer_sleep(s->ring, seq, s->spin_ns, -1);
            continue;
        }
        mt_slot *slot = mt_slot_of(s->ring, seq);
        CHECK(slot->cookie == seq, "message %llu came as %llu", (unsigned long long)slot->cookie, (unsigned long long)seq);
        verify(mt_content(s->ring, slot), seq, slot->length);
        CHECK(mt_finish(s->ring, seq));
        mt_release(s->ring, seq++);
        mt_wake_producer(s->ring);
        if (s->slow == 2) dawdle(&d);
    }
}

static void test_a_stream_arrives_whole(uint64_t spin_ns, int slow) {
    mt_lane *lane = heap_lane();
    stream s = {&lane->replies, scaled(slow ? 3000 : 20000), spin_ns, slow};
    pthread_t producer = start_thread(produce, &s);
    consume(&s);
    pthread_join(producer, NULL);
    CHECK(mt_room(s.ring) == MT_SLOTS);
    free(lane);
}

/* ---- take-back under contention ---- */

typedef struct {
    mt_ring *ring;
    int tasks;
    _Atomic int *starts;
    _Atomic int over;
    int yields; /* within a call */
} contest;

static void *run_what_is_there(void *argument) {
    contest *c = argument;
    dice d = {17};
    for (uint64_t seq = 0;;) {
        int got = mt_take(c->ring, seq);
        if (got == MT_NOTHING) {
            if (atomic_load(&c->over) && !mt_something(c->ring, seq)) return NULL;
            mt_consumer_sleep(c->ring, seq, 2000, -1);
            continue;
        }
        if (got == MT_GOT) {
            mt_slot *slot = mt_slot_of(c->ring, seq);
            verify(mt_content(c->ring, slot), slot->cookie, slot->length);
            if (slot->cookie < (uint64_t)c->tasks) atomic_fetch_add(&c->starts[slot->cookie], 1);
            for (uint32_t i = roll(&d, 200); i; i--) mt_relax();
            CHECK(mt_finish(c->ring, seq));
        }
        mt_release(c->ring, seq++);
    }
}

/* From the newest backwards; what comes back is run here and now. */
static int take_back(contest *c, uint64_t head) {
    int count = 0;
    for (uint64_t seq = head; seq-- > mt_load64(&c->ring->tail);) {
        if (!mt_revoke(c->ring, seq)) break;
        mt_slot *slot = mt_slot_of(c->ring, seq);
        verify(mt_content(c->ring, slot), slot->cookie, slot->length);
        atomic_fetch_add(&c->starts[slot->cookie], 1);
        count++;
    }
    return count;
}

static void test_take_back_starts_every_message_once(void) {
    mt_lane *lane = heap_lane();
    contest c = {.ring = &lane->requests, .tasks = scaled(30000)};
    c.starts = calloc((size_t)c.tasks, sizeof *c.starts);
    pthread_t worker = start_thread(run_what_is_there, &c);
    dice d = {19};
    int back = 0;
    uint64_t head = 0;
    while (head < (uint64_t)c.tasks) {
        if (put(c.ring, head, roll(&d, 100))) {
            head++;
            mt_wake_consumer(c.ring);
        } else if (roll(&d, 2)) {
            back += take_back(&c, head);
            sched_yield(); /* skipping what was taken back is the worker's part */
        }
        if (roll(&d, 4) == 0) back += take_back(&c, head);
    }
    atomic_store(&c.over, 1);
    while (!put(c.ring, (uint64_t)c.tasks, 0)) mt_relax(); /* a last message gets the worker out of its sleep */
    mt_wake_consumer(c.ring);
    pthread_join(worker, NULL);
    for (int i = 0; i < c.tasks; i++) CHECK(c.starts[i] == 1, "message %d started %d times", i, c.starts[i]);
    CHECK(back > 0 && back < c.tasks, "%d of %d came back", back, c.tasks);
    printf("  take-back: %d of %d messages came back, each ran once\n", back, c.tasks);
    free((void *)c.starts);
    free(lane);
}

/* ---- condemnation ---- */

static void *run_until_condemned(void *argument) {
    contest *c = argument;
    for (uint64_t seq = 0; seq < (uint64_t)c->tasks;) {
        if (mt_take(c->ring, seq) != MT_GOT) {
            mt_consumer_sleep(c->ring, seq, 1000, -1);
            continue;
        }
        atomic_fetch_add(&c->starts[seq], 1);
        for (int i = 0; i < 300; i++) mt_relax();
        for (int i = 0; i < c->yields; i++) sched_yield(); /* on a single CPU nobody else sees a call that runs */
        if (!mt_finish(c->ring, seq)) return argument; /* where a worker sleeps until it is killed */
        mt_release(c->ring, seq++);
    }
    return NULL;
}

static void test_a_condemned_worker_starts_nothing_more(void) {
    dice d = {23};
    int condemned = 0, rounds = scaled(1500);
    for (int round = 0; round < rounds; round++) {
        mt_lane *lane = heap_lane();
        _Atomic int starts[4] = {0};
        contest c = {.ring = &lane->requests, .tasks = 4, .starts = starts, .yields = round % 4 ? 0 : 50};
        for (uint64_t i = 0; i < 4; i++) CHECK(put(c.ring, i, 16));
        pthread_t worker = start_thread(run_until_condemned, &c);
        int victim = (int)roll(&d, 4), done = 0;
        for (int turn = 0; !done && mt_state(c.ring, 3) != MT_DONE; turn++) {
            if (turn % 64 == 63) sched_yield(); /* the worker may need this very CPU */
            done = mt_condemn(c.ring, (uint64_t)victim);
            if (mt_state(c.ring, (uint64_t)victim) == MT_DONE) break;
        }
        void *stopped;
        pthread_join(worker, &stopped);
        CHECK((stopped != NULL) == done);
        for (int i = 0; i < 4; i++) CHECK(starts[i] == (!done || i <= victim), "victim %d, message %d", victim, i);
        if (done) CHECK(mt_state(c.ring, (uint64_t)victim) == MT_CONDEMNED);
        condemned += done;
        free(lane);
    }
    CHECK(condemned > 0);
    printf("  condemn: caught %d of %d while they ran\n", condemned, rounds);
}

/* ---- a signal ends the sleep ---- */

static _Atomic int came_back;
static void on_signal(int number) { (void)number; }

static void *sleep_until_signal(void *argument) {
    int result;
    while ((result = mt_consumer_sleep(argument, 0, 0, -1)) == 0) continue;
    atomic_store(&came_back, 1);
    return (void *)(intptr_t)result;
}

static void test_a_signal_interrupts_the_sleep(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    mt_lane *lane = heap_lane();
    pthread_t sleeper = start_thread(sleep_until_signal, &lane->requests);
    while (!atomic_load(&came_back)) {
        pthread_kill(sleeper, SIGUSR1);
        sched_yield();
    }
    void *result;
    pthread_join(sleeper, &result);
    CHECK((intptr_t)result == -EINTR);
    free(lane);
}

int main(void) {
    alarm(240); /* only a hang gets there */
    test_a_full_ring_refuses_and_has_room_again();
    test_random_messages_never_touch_each_other();
    test_a_sleeper_looks_again();
    test_a_segment_is_unread_once_its_last_reader_is_gone();
    for (int slow = 0; slow < 3; slow++) {
        test_a_stream_arrives_whole(0, slow);
        test_a_stream_arrives_whole(5000, slow);
    }
    test_take_back_starts_every_message_once();
    test_a_condemned_worker_starts_nothing_more();
    test_a_signal_interrupts_the_sleep();
    puts("test_lane: all good");
    return 0;
}
