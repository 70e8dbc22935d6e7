/* Many workers ring, a manager and callers who lead take turns at collecting: nobody sleeps through a reply.
 *
 * The collector token is a mutex here (in the library it is the GIL). Each caller waits until a worker has
 * answered so often; the reply it waits for is sent only after it began to wait, so that it must be woken for it.
 */
#include "harness.h"

#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>

#define WORKERS 3
#define CALLERS 2
enum { PATIENCE_MS = 20000 }; /* only a hang lasts as long */

typedef struct {
    mt_lane *lanes[WORKERS];
    mt_page *page;
    int eventfd, rounds;
    pthread_mutex_t token;
    int leader;                      /* caller that leads, -1: none; under the token */
    uint64_t reply_seq[WORKERS];     /* under the token */
    _Atomic uint64_t asked[WORKERS]; /* how many replies a worker is to give */
    _Atomic uint32_t counted[WORKERS]; /* futex for those who follow */
    _Atomic int over;
    long led, followed;
} pool;

typedef struct {
    pool *p;
    int number;
} party;

static void *work(void *argument) {
    party *me = argument;
    pool *p = me->p;
    mt_ring *in = &p->lanes[me->number]->requests, *out = &p->lanes[me->number]->replies;
    dice d = {(uint64_t)me->number + 31};
    for (uint64_t seq = 0;; seq++) {
        while (mt_take(in, seq) != MT_GOT) mt_consumer_sleep(in, seq, roll(&d, 2) ? 2000 : 0, -1);
        uint64_t number = mt_slot_of(in, seq)->cookie;
        if (number == UINT64_MAX) return NULL;
        for (uint32_t i = roll(&d, 500); i; i--) mt_relax();
        put_waiting(out, number, roll(&d, 64));
        CHECK(mt_finish(in, seq));
        mt_release(in, seq);
        mt_ring_bell(p->page, p->eventfd);
    }
}

/* ---- collecting, under the token ---- */

static int collect(pool *p) {
    int found = 0;
    for (int w = 0; w < WORKERS; w++) {
        mt_ring *out = &p->lanes[w]->replies;
        int here = 0;
        for (uint64_t seq; mt_peek(out, seq = p->reply_seq[w]); here++) {
            CHECK(mt_slot_of(out, seq)->cookie == seq, "worker %d answers twice or not at all", w);
            mt_release(out, seq);
            p->reply_seq[w] = seq + 1;
            atomic_fetch_add(&p->counted[w], 1);
        }
        if (here) mt_wake_producer(out);
        if (here) mt_futex_wake(&p->counted[w]);
        found += here;
    }
    return found;
}

static int something(pool *p) { /* by the ring's own tail: it is read without the token here */
    for (int w = 0; w < WORKERS; w++) {
        mt_ring *out = &p->lanes[w]->replies;
        if (mt_peek(out, mt_load64(&out->tail))) return 1;
    }
    return 0;
}

static void ring_manager(pool *p) {
    uint64_t one = 1;
    CHECK(write(p->eventfd, &one, sizeof one) == sizeof one);
}

/* Others settle too: the leader is woken whatever the word says. */
static void wake_leader(pool *p) {
    mt_cas32(&p->page->word, MT_CALLER, MT_AWAKE);
    mt_futex_wake(&p->page->word);
}

static void *manage(void *argument) {
    pool *p = argument;
    struct pollfd watched = {p->eventfd, POLLIN, 0};
    while (!atomic_load(&p->over)) {
        pthread_mutex_lock(&p->token);
        int found = collect(p), led = p->leader >= 0;
        if (!led) atomic_store(&p->page->word, MT_MANAGER);
        pthread_mutex_unlock(&p->token);
        mt_fence();
        if (led && found) wake_leader(p);
        if (!led && something(p)) {
            mt_cas32(&p->page->word, MT_MANAGER, MT_AWAKE);
            continue;
        }
        if (poll(&watched, 1, PATIENCE_MS) > 0) {
            uint64_t count;
            CHECK(read(p->eventfd, &count, sizeof count) == sizeof count);
        } else {
            CHECK(atomic_load(&p->over) || !something(p), "the manager slept through a reply");
        }
        mt_awake(p->page, MT_MANAGER);
    }
    return NULL;
}

/* ---- waiting ---- */

static int reached(pool *p, int w, uint32_t goal) { return mt_load32(&p->counted[w]) >= goal; }

static void lead(pool *p, int w, uint32_t goal) {
    for (;;) {
        pthread_mutex_lock(&p->token);
        collect(p);
        pthread_mutex_unlock(&p->token);
        if (reached(p, w, goal)) return;
        atomic_store(&p->page->word, MT_CALLER);
        mt_fence();
        if (!something(p) && !reached(p, w, goal))
            CHECK(mt_futex_wait(&p->page->word, MT_CALLER, PATIENCE_MS * 1000000ll) != -ETIMEDOUT, "the leader hangs");
        mt_awake(p->page, MT_CALLER);
    }
}

static void leave(pool *p) {
    pthread_mutex_lock(&p->token);
    p->leader = -1;
    p->led++;
    atomic_store(&p->page->word, MT_MANAGER);
    pthread_mutex_unlock(&p->token);
    mt_fence();
    if (something(p)) ring_manager(p);
}

static void wait_for(pool *p, int me, int w, uint32_t goal) {
    pthread_mutex_lock(&p->token);
    int leads = p->leader < 0;
    if (leads) {
        p->leader = me;
        atomic_store(&p->page->word, MT_AWAKE);
    } else {
        p->followed++;
    }
    pthread_mutex_unlock(&p->token);
    if (leads) {
        lead(p, w, goal);
        leave(p);
        return;
    }
    for (uint32_t seen; (seen = mt_load32(&p->counted[w])) < goal;)
        CHECK(mt_futex_wait(&p->counted[w], seen, PATIENCE_MS * 1000000ll) != -ETIMEDOUT, "a follower hangs");
}

static void ask(pool *p, int w, uint64_t *number) {
    pthread_mutex_lock(&p->token);
    for (;;) {
        *number = atomic_load(&p->asked[w]);
        if (put(&p->lanes[w]->requests, *number, 0)) break;
        int wake = collect(p) && p->leader >= 0; /* full: replies are on the way */
        pthread_mutex_unlock(&p->token);
        if (wake) wake_leader(p);
        sched_yield();
        pthread_mutex_lock(&p->token);
    }
    atomic_store(&p->asked[w], *number + 1);
    pthread_mutex_unlock(&p->token);
    mt_wake_consumer(&p->lanes[w]->requests);
}

static void *call(void *argument) {
    party *me = argument;
    pool *p = me->p;
    dice d = {(uint64_t)me->number + 77};
    for (int i = 0; i < p->rounds; i++) {
        int w = (int)roll(&d, WORKERS);
        uint64_t number = 0;
        for (uint32_t n = 1 + roll(&d, 3); n; n--) ask(p, w, &number);
        wait_for(p, me->number, w, (uint32_t)number + 1);
    }
    return NULL;
}

int main(void) {
    alarm(240); /* only a hang gets there */
    pool p = {.leader = -1, .rounds = scaled(10000), .eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    pthread_mutex_init(&p.token, NULL);
    p.page = shared_memory(sizeof *p.page);
    pthread_t workers[WORKERS], callers[CALLERS];
    party names[WORKERS + CALLERS];
    for (int w = 0; w < WORKERS; w++) {
        p.lanes[w] = heap_lane();
        names[w] = (party){&p, w};
        workers[w] = start_thread(work, &names[w]);
    }
    pthread_t manager = start_thread(manage, &p);
    for (int c = 0; c < CALLERS; c++) {
        names[WORKERS + c] = (party){&p, c};
        callers[c] = start_thread(call, &names[WORKERS + c]);
    }
    for (int c = 0; c < CALLERS; c++) pthread_join(callers[c], NULL);
    atomic_store(&p.over, 1);
    ring_manager(&p);
    pthread_join(manager, NULL);
    uint64_t total = 0;
    for (int w = 0; w < WORKERS; w++) {
        CHECK(p.counted[w] == p.asked[w], "worker %d", w);
        total += p.asked[w];
        CHECK(put(&p.lanes[w]->requests, UINT64_MAX, 0));
        mt_wake_consumer(&p.lanes[w]->requests);
        pthread_join(workers[w], NULL);
        free(p.lanes[w]);
    }
    CHECK(p.led > 0 && p.followed > 0);
    printf("  doorbell: %llu replies, %ld times led, %ld followed\n", (unsigned long long)total, p.led, p.followed);
    puts("test_doorbell: all good");
    return 0;
}
