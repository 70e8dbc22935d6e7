/* A worker process killed by SIGKILL at every numbered step of the protocol, and at random instants.
 *
 * The parent is a small engine on lane.h: it feeds tasks, collects replies, takes back, condemns, and buries a
 * dead worker and starts another. It sleeps as the manager does (poll on eventfd and pidfd) or as a leading
 * caller does (futex on the doorbell word, a second thread waits for the pidfd). After each round: every task
 * has one outcome, started at most once, none lost but the one that a killed worker had taken.
 */
#include "harness.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define TASKS 24
#define STEPS 12
enum { PENDING = 0, RESULT = 1, LOST = 2, CANCELLED = 3 };
enum { PATIENCE_MS = 20000 }; /* only a hang lasts as long */

typedef struct {
    mt_lane lane;
    mt_page page;
    _Atomic int starts[TASKS];
} common;

typedef struct {
    common *shared;
    dice d;
    int line[TASKS], waiting; /* a stack: the last is the first to go */
    int outcome[TASKS], open;
    int eventfd, pidfd;
    pid_t pid;
    int leads;    /* sleep on the word as a caller does */
    int lazy;     /* do not collect before the worker waits for room */
    int we_kill;  /* this worker is killed by us */
    int kills, lost, came_back, condemned;
    _Atomic int dead, rung;
    pthread_t watcher;
} engine;

/* ---- the worker ---- */

/* Straight to the eventfd: the word says awake while the parent is between its failed try and its sleep. */
static void tell_of_room(int bell) {
    uint64_t one = 1;
    CHECK(write(bell, &one, sizeof one) == sizeof one);
}

static void worker(engine *e, int step, int after, uint64_t seed) {
    common *c = e->shared;
    mt_ring *in = &c->lane.requests, *out = &c->lane.replies;
    dice d = {seed};
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed check must leave nobody behind */
    mt_kill_step = step;
    mt_kill_after = after;
    for (uint64_t seq = 0, skipped = 0;;) {
        int got = mt_take(in, seq);
        if (got == MT_NOTHING) {
            /* Skipping frees slots without a reply: the parent may be waiting for just that. */
            if (skipped) tell_of_room(e->eventfd);
            skipped = 0;
            mt_consumer_sleep(in, seq, roll(&d, 2) ? 3000 : 0, -1);
            continue;
        }
        if (got == MT_SKIP) skipped = 1;
        if (got == MT_GOT) {
            mt_slot *slot = mt_slot_of(in, seq);
            uint64_t task = slot->cookie;
            atomic_fetch_add(&c->starts[task], 1);
            verify(mt_content(in, slot), task, slot->length);
            for (uint32_t i = roll(&d, 2000); i; i--) mt_relax();
            put_waiting(out, task, roll(&d, MT_INLINE_MAX + 1));
            mt_ring_bell(&c->page, e->eventfd);
            if (!mt_finish(in, seq))
                for (;;) pause();
        }
        mt_release(in, seq++);
    }
}

/* ---- sleeping and dying ---- */

/* What the manager thread does beside a leader: listen to the eventfd and to death, and wake the leader. */
static void *stand_by(void *argument) {
    engine *e = argument;
    struct pollfd watched[2] = {{e->pidfd, POLLIN, 0}, {e->eventfd, POLLIN, 0}};
    for (int dead = 0; !dead;) {
        CHECK(poll(watched, 2, 2 * PATIENCE_MS) > 0, "the worker hangs");
        uint64_t count;
        if (watched[1].revents) CHECK(read(e->eventfd, &count, sizeof count) == sizeof count);
        dead = watched[0].revents != 0;
        atomic_store(dead ? &e->dead : &e->rung, 1);
        /* Always wake: a worker killed between its swap and its wake leaves the word awake and the leader asleep. */
        atomic_store(&e->shared->page.word, MT_AWAKE);
        mt_futex_wake(&e->shared->page.word);
    }
    return NULL;
}

static void start_worker(engine *e, int step, int after) {
    memset(&e->shared->lane, 0, sizeof e->shared->lane);
    atomic_store(&e->shared->page.word, MT_AWAKE);
    atomic_store(&e->dead, 0);
    uint64_t seed = roll(&e->d, 1u << 30);
    e->pid = fork();
    CHECK(e->pid >= 0, "fork: %d", errno);
    if (e->pid == 0) {
        worker(e, step, after, seed);
        _exit(1);
    }
    e->pidfd = (int)syscall(SYS_pidfd_open, e->pid, 0);
    CHECK(e->pidfd >= 0, "pidfd: %d", errno);
    e->we_kill = 0;
    if (e->leads) e->watcher = start_thread(stand_by, e);
}

static int something(engine *e) {
    mt_ring *out = &e->shared->lane.replies;
    return mt_peek(out, mt_load64(&out->tail)) || atomic_load(&e->dead) || atomic_load(&e->rung);
}

static void sleep_as_leader(engine *e) {
    _Atomic uint32_t *word = &e->shared->page.word;
    atomic_store(word, MT_CALLER);
    mt_fence();
    if (!something(e)) {
        int result = mt_futex_wait(word, MT_CALLER, PATIENCE_MS * 1000000ll);
        CHECK(result != -ETIMEDOUT, "the leader hangs: %d open, %d in line", e->open, e->waiting);
    }
    mt_awake(&e->shared->page, MT_CALLER);
}

static void sleep_as_manager(engine *e) {
    _Atomic uint32_t *word = &e->shared->page.word;
    atomic_store(word, MT_MANAGER);
    mt_fence();
    if (!something(e)) {
        struct pollfd watched[2] = {{e->eventfd, POLLIN, 0}, {e->pidfd, POLLIN, 0}};
        CHECK(poll(watched, 2, PATIENCE_MS) > 0, "the manager hangs: %d open, %d in line", e->open, e->waiting);
        uint64_t count;
        if (watched[0].revents) CHECK(read(e->eventfd, &count, sizeof count) == sizeof count);
        if (watched[1].revents) atomic_store(&e->dead, 1);
    }
    mt_awake(&e->shared->page, MT_MANAGER);
}

static int is_dead(engine *e) {
    struct pollfd watched = {e->pidfd, POLLIN, 0};
    return poll(&watched, 1, 0) == 1;
}

static void kill_worker(engine *e) {
    e->we_kill = 1;
    syscall(SYS_pidfd_send_signal, e->pidfd, SIGKILL, NULL, 0);
}

/* ---- the engine ---- */

static void settle(engine *e, int task, int outcome) {
    if (e->outcome[task] != PENDING) {
        CHECK(e->outcome[task] == CANCELLED, "task %d has two outcomes, %d and %d", task, e->outcome[task], outcome);
        return; /* cancelled while its reply was on the way */
    }
    e->outcome[task] = outcome;
    e->open--;
}

static void collect(engine *e) {
    mt_ring *out = &e->shared->lane.replies;
    for (uint64_t seq; mt_peek(out, seq = mt_load64(&out->tail));) {
        mt_slot *slot = mt_slot_of(out, seq);
        verify(mt_content(out, slot), slot->cookie, slot->length);
        settle(e, (int)slot->cookie, RESULT);
        mt_release(out, seq);
        mt_wake_producer(out);
    }
}

static void feed(engine *e) {
    mt_ring *in = &e->shared->lane.requests;
    while (e->waiting && put(in, (uint64_t)e->line[e->waiting - 1], roll(&e->d, MT_INLINE_MAX + 1))) {
        e->waiting--;
        mt_wake_consumer(in);
    }
}

static void take_back(engine *e) {
    mt_ring *in = &e->shared->lane.requests;
    uint64_t head = mt_load64(&in->head), tail = mt_load64(&in->tail);
    for (uint64_t seq = head; seq-- > tail && mt_revoke(in, seq); e->came_back++)
        e->line[e->waiting++] = (int)mt_slot_of(in, seq)->cookie;
}

static void condemn(engine *e) {
    mt_ring *in = &e->shared->lane.requests;
    uint64_t seq = mt_load64(&in->tail);
    if (seq == mt_load64(&in->head)) return;
    int task = (int)mt_slot_of(in, seq)->cookie;
    /* Settled and still TAKEN: its reply is collected, the worker has not come to mark it done. */
    if (e->outcome[task] != PENDING || !mt_condemn(in, seq)) return;
    settle(e, task, CANCELLED);
    e->condemned++;
    kill_worker(e);
}

/* The worker is dead and its replies are read: what it had taken is lost, what it had not goes to the front. */
static void bury(engine *e) {
    mt_ring *in = &e->shared->lane.requests;
    int status, lost = 0;
    if (e->leads) pthread_join(e->watcher, NULL);
    CHECK(waitpid(e->pid, &status, 0) == e->pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
          "the worker ended by itself, status %#x", status);
    close(e->pidfd);
    e->pid = 0;
    if (!e->we_kill) e->kills++;
    uint64_t tail = mt_load64(&in->tail);
    for (uint64_t seq = mt_load64(&in->head); seq-- > tail;) {
        int task = (int)mt_slot_of(in, seq)->cookie;
        switch (mt_state(in, seq)) {
            case MT_READY: e->line[e->waiting++] = task; break;
            case MT_REVOKED: break;
            case MT_DONE: CHECK(e->outcome[task] == RESULT || e->outcome[task] == CANCELLED, "done without a reply"); break;
            case MT_TAKEN:
                if (e->outcome[task] == PENDING) lost++;
                if (e->outcome[task] == PENDING) settle(e, task, LOST);
                break;
            case MT_CONDEMNED: CHECK(e->outcome[task] == CANCELLED); break;
            default: CHECK(0, "state %d", mt_state(in, seq));
        }
    }
    CHECK(lost <= 1, "one death took %d tasks", lost);
    e->lost += lost;
}

static void one_turn(engine *e, int meddle) {
    atomic_store(&e->rung, 0); /* before the work that it stands for */
    /* Death first, then the replies: all that it published is there when it is known to be dead. */
    int dead = atomic_load(&e->dead);
    collect(e);
    if (dead) {
        bury(e);
        if (e->open) start_worker(e, 0, 0);
        return;
    }
    feed(e);
    if (e->lazy) /* the worker must run into the full ring */
        while (!mt_load32(&e->shared->lane.replies.producer_waiting) && !is_dead(e)) feed(e);
    e->lazy = 0;
    if (meddle && roll(&e->d, 4) == 0) take_back(e);
    if (meddle && roll(&e->d, 24) == 0) condemn(e);
    feed(e);
    if (e->open) (e->leads ? sleep_as_leader : sleep_as_manager)(e);
}

static void prepare(engine *e, uint64_t seed, int leads, int lazy) {
    for (int i = 0; i < TASKS; i++) {
        atomic_store(&e->shared->starts[i], 0);
        e->line[i] = TASKS - 1 - i;
        e->outcome[i] = PENDING;
    }
    e->d.state = seed;
    e->waiting = e->open = TASKS;
    e->leads = leads;
    e->lazy = lazy;
}

static void end_round(engine *e) {
    if (e->pid) {
        if (!is_dead(e)) kill_worker(e);
        CHECK(poll(&(struct pollfd){e->pidfd, POLLIN, 0}, 1, PATIENCE_MS) == 1);
        bury(e);
    }
    for (int task = 0; task < TASKS; task++) {
        int starts = atomic_load(&e->shared->starts[task]), outcome = e->outcome[task];
        CHECK(starts <= 1, "task %d started %d times", task, starts);
        CHECK(outcome != PENDING && (outcome != RESULT || starts == 1), "task %d ends as %d", task, outcome);
    }
}

/* ---- what is tested ---- */

static void test_every_kill_point(engine *e) {
    int wanted = scaled(50);
    printf("  kill point: hits");
    for (int step = 1; step <= STEPS; step++) {
        int hits = 0;
        for (int round = 0; hits < wanted; round++) {
            CHECK(round < 40 * wanted, "kill point %d was hit %d times only", step, hits);
            /* The points of the bell differ for a sleeping manager (11, 12: the eventfd) and a leading caller. */
            prepare(e, (uint64_t)(step * 100000 + round), round % 2, step == 10);
            e->kills = 0;
            start_worker(e, step, (int)roll(&e->d, step == 10 ? 1 : 6));
            while (e->open) one_turn(e, round % 4 >= 2 && step != 10);
            end_round(e);
            hits += e->kills;
        }
        printf(" %d:%d", step, hits);
    }
    printf("\n");
}

typedef struct {
    int pidfd; /* its own copy: the engine may bury and start others meanwhile */
    long delay_ns;
} sniper;

static void *kill_later(void *argument) {
    sniper *s = argument;
    nanosleep(&(struct timespec){0, s->delay_ns}, NULL);
    syscall(SYS_pidfd_send_signal, s->pidfd, SIGKILL, NULL, 0);
    return NULL;
}

static void test_random_instants(engine *e) {
    int rounds = scaled(1000);
    e->lost = e->came_back = e->condemned = 0;
    for (int round = 0; round < rounds; round++) {
        prepare(e, (uint64_t)round * 7919u + 1, round % 2, 0);
        start_worker(e, 0, 0);
        sniper s = {dup(e->pidfd), roll(&e->d, 1000000)};
        pthread_t killer = start_thread(kill_later, &s);
        while (e->open) one_turn(e, round % 4 >= 2);
        pthread_join(killer, NULL);
        close(s.pidfd);
        end_round(e);
    }
    printf("  random instants: %d kills, %d lost, %d taken back, %d condemned\n", rounds, e->lost, e->came_back, e->condemned);
}

int main(void) {
    alarm(500); /* only a hang gets there */
    setvbuf(stdout, NULL, _IONBF, 0);
    engine e = {.shared = shared_memory(sizeof(common)), .eventfd = eventfd(0, EFD_CLOEXEC)};
    test_every_kill_point(&e);
    test_random_instants(&e);
    puts("test_death: all good");
    return 0;
}
