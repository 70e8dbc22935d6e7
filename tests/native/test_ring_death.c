/* Producers and consumers killed by SIGKILL at every numbered step of the queue, and at random instants.
 *
 * Every message has a number; a diary in shared memory says which puts began and ended and which messages came out.
 * After each round: what came out is whole, in order, and came once; what was put came out, but for what a killed
 * consumer had taken (put count, got count and diary say how many that are); the queue works, and its memory is back.
 */
#include "ringtest.h"

#include <sys/prctl.h>
#include <sys/wait.h>

#define PRODUCERS 2
#define CONSUMERS 2
#define MESSAGES 60
#define LAST_STEP 30
#define BATCH 16

typedef struct {
    uint32_t begun, ended; /* of each producer: puts of numbers below these */
} book;

typedef struct {
    book puts[PRODUCERS];
    _Atomic uint8_t came[PRODUCERS][MESSAGES];
    uint32_t next[CONSUMERS][PRODUCERS];
    _Atomic uint32_t done; /* task_done() calls that returned */
} diary;

typedef struct {
    mtq q;
    diary *d;
    dice dice;
    pid_t pids[PRODUCERS + CONSUMERS + 1];
    int hits[LAST_STEP + 1], lost, at_random;
} arena;

typedef struct {
    arena *a;
    uint32_t which;
} consumer;

static void note(void *to, label l) {
    consumer *me = to;
    uint32_t *next = &me->a->d->next[me->which][l.producer];
    CHECK(l.number >= *next, "%u of producer %u comes after %u", l.number, l.producer, *next - 1);
    *next = l.number + 1;
    CHECK(atomic_fetch_add(&me->a->d->came[l.producer][l.number], 1) == 0, "%u of producer %u comes twice", l.number, l.producer);
}

static void produce(arena *a, uint32_t which, dice *d) {
    book *mine = &a->d->puts[which];
    while (mine->ended < MESSAGES) {
        uint64_t done = 0;
        uint32_t some = 1 + roll(d, 12);
        if (some > MESSAGES - mine->ended) some = MESSAGES - mine->ended;
        label l = {which, mine->ended};
        int result;
        if (roll(d, 3)) {
            mine->begun = mine->ended + 1;
            result = put_message(&a->q, l, MTQ_NEVER);
            done = result == MTQ_DONE;
        } else {
            mine->begun = mine->ended + some;
            result = put_messages(&a->q, l, some, MTQ_NEVER, &done);
        }
        mine->ended += (uint32_t)done;
        if (result == MTQ_ENDED) return; /* shut down meanwhile */
        CHECK(result == MTQ_DONE, "put: %d", result);
    }
}

static void consume(arena *a, uint32_t which, dice *d) {
    consumer me = {a, which};
    uint32_t slow = roll(d, 3);
    for (;;) {
        int result = roll(d, 3) ? get_message(&a->q, MTQ_NEVER, note, &me)
                                : get_messages(&a->q, 1 + roll(d, BATCH), MTQ_NEVER, note, &me);
        if (result == MTQ_ENDED) return;
        CHECK(result == MTQ_DONE, "get: %d", result);
        if (mtq_task_done(&a->q, 1) == MTQ_DONE) atomic_fetch_add(&a->d->done, 1);
        for (uint32_t i = slow ? roll(d, 3000) : 0; i; i--) mt_relax();
    }
}

/* One that shuts the queue down in the middle; only in rounds for the steps of shutdown. */
static void shut_down(arena *a, dice *d) {
    for (uint32_t i = roll(d, 3000); i; i--) mt_relax();
    CHECK(mtq_shutdown(&a->q, 1, MTQ_NEVER) == MTQ_DONE);
}

enum { SHUTTER = PRODUCERS + CONSUMERS };

static void start(arena *a, int who, int step, long after) {
    uint64_t seed = roll(&a->dice, 1u << 30);
    pid_t parent = getpid();
    a->pids[who] = fork();
    CHECK(a->pids[who] >= 0, "fork: %d", errno);
    if (a->pids[who]) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed check must leave nobody behind */
    if (getppid() != parent) _exit(1);
    dice d = {seed};
    mt_kill_step = step;
    mt_kill_after = after;
    if (who < PRODUCERS)
        produce(a, (uint32_t)who, &d);
    else if (who < SHUTTER)
        consume(a, (uint32_t)(who - PRODUCERS), &d);
    else
        shut_down(a, &d);
    _exit(0);
}

/* Whether it was killed; any other end but a good one is a failure. */
static int await(arena *a, int who) {
    int status;
    CHECK(waitpid(a->pids[who], &status, 0) == a->pids[who]);
    a->pids[who] = 0;
    int killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    CHECK(killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0), "party %d ended with %#x", who, status);
    return killed;
}

static void begin(arena *a, uint64_t seed, uint64_t maxsize) {
    memset(a->d, 0, sizeof *a->d);
    a->dice.state = seed;
    int result = mtq_make(&a->q, maxsize);
    CHECK(result == 0, "mtq_make: %d", result);
    a->q.spin_ns = roll(&a->dice, 2) ? 3000 : 0;
    memset(a->pids, 0, sizeof a->pids);
}

/* The queue still takes and gives, empty as it is, and the memory is back. */
static void check_it_works(arena *a) {
    label l = {PRODUCERS, 1};
    mtq_box box = {.data = box.small};
    if (!mtq_flags(&a->q)) {
        CHECK(put_message(&a->q, l, mt_now_ns() + PATIENCE_NS) == MTQ_DONE);
        CHECK(mtq_get_wait(&a->q, &box, mt_now_ns() + PATIENCE_NS, MTQ_NEVER) == MTQ_DONE);
        CHECK(check_message(box.data, box.length).number == 1);
        mtq_empty_box(&box);
    }
    mtq_get_wait(&a->q, &box, 0, MTQ_NEVER);
    if (!mtq_flags(&a->q)) CHECK(put_message(&a->q, l, 0) == MTQ_DONE && mtq_get_wait(&a->q, &box, 0, MTQ_NEVER) == MTQ_DONE);
    mtq_empty_box(&box);
    CHECK(memory_of(&a->q) <= BASELINE, "%llu bytes are left", (unsigned long long)memory_of(&a->q));
    struct stat now;
    CHECK(fstat(a->q.fd, &now) == 0 && (uint64_t)now.st_size <= mtq_tail(&a->q)->file_end, "places behind the end");
}

static void account(arena *a, int killed_consumers, int immediate) {
    uint32_t came = 0, put = 0, begun = 0, missing = 0;
    for (int p = 0; p < PRODUCERS; p++) {
        put += a->d->puts[p].ended;
        begun += a->d->puts[p].begun;
        for (uint32_t i = 0; i < MESSAGES; i++) {
            came += a->d->came[p][i];
            missing += i < a->d->puts[p].ended && !a->d->came[p][i];
            CHECK(!a->d->came[p][i] || i < a->d->puts[p].begun, "%u of producer %d was never put", i, p);
        }
    }
    uint64_t counted = mtq_put_count(&a->q), discarded = atomic_load(&a->q.c->discarded);
    CHECK(counted >= put && counted <= begun, "%llu counted, %u to %u put", (unsigned long long)counted, put, begun);
    CHECK(mtq_got_count(&a->q) == counted && mtq_size(&a->q) == 0);
    uint64_t lost = counted - came - discarded;
    CHECK(lost <= (uint64_t)killed_consumers * BATCH, "%llu lost by %d killed consumers", (unsigned long long)lost, killed_consumers);
    CHECK(immediate || discarded == 0);
    CHECK(missing <= lost + discarded, "%u were put and did not come, %llu are known to be lost", missing, (unsigned long long)lost);
    CHECK(atomic_load(&a->q.c->done) >= atomic_load(&a->d->done));
    a->lost += (int)lost;
}

/* The parties but the shutter have been started; see the round to its end. Returns how many consumers were killed. */
static int finish(arena *a, int *killed) {
    int dead = 0, consumers = 0;
    for (int p = 0; p < PRODUCERS; p++) dead += a->pids[p] ? await(a, p) : 0;
    if (a->pids[SHUTTER]) dead += await(a, SHUTTER);
    CHECK(mtq_shutdown(&a->q, 0, MTQ_NEVER) == MTQ_DONE);
    for (int c = PRODUCERS; c < SHUTTER; c++) consumers += await(a, c);
    consumer rest = {a, 0};
    memset(a->d->next[0], 0, sizeof a->d->next[0]);
    while (get_message(&a->q, MTQ_NEVER, note, &rest) == MTQ_DONE) { /* nobody was left to get them */
    }
    *killed = dead + consumers;
    return consumers;
}

static int is_consumers(int step) { return (step >= 11 && step <= 18) || (step >= 20 && step <= 22) || step == 26 || step >= 29; }

static int victim_of(arena *a, int step) {
    if (step >= 23 && step <= 25) return SHUTTER;
    if (step == 7 || step == 19) return (int)roll(&a->dice, SHUTTER); /* both sides ring and sleep */
    return (is_consumers(step) ? PRODUCERS : 0) + (int)roll(&a->dice, 2);
}

/* One round in which somebody is to be killed at `step`; returns whether it was. */
static int round_for(arena *a, int step, uint64_t seed) {
    static const uint64_t sizes[] = {0, 0, 1, 3, 17};
    begin(a, seed, (step >= 20 && step <= 22) || step >= 29 ? 0 : step == 7 && seed % 2 ? 1 : sizes[seed % 5]);
    int victim = victim_of(a, step), other = -1, consumers, killed = 0;
    /* A repair is needed after a death with the lock. */
    if (step == 27 || step == 28) other = 1 - victim;
    if (step >= 29) other = 2 * PRODUCERS + 1 - victim;
    for (int who = 0; who < SHUTTER; who++) {
        int first = step >= 29 ? 14 : 4;
        /* A ring is given back after a backlog: the consumers come when the producers are through. */
        if (who == PRODUCERS && step >= 20 && step <= 22) killed += await(a, 0) + await(a, 1);
        start(a, who, who == victim ? step : who == other ? first : 0, who == other ? roll(&a->dice, 3) : (long)roll(&a->dice, step >= 20 && step <= 25 ? 1 : 6));
    }
    if (victim == SHUTTER) start(a, SHUTTER, step, 0);
    consumers = finish(a, &killed);
    account(a, consumers, victim == SHUTTER);
    check_it_works(a);
    mtq_leave(&a->q);
    return killed > (other >= 0);
}

static void test_every_step(arena *a) {
    int wanted = scaled(20);
    printf("  kill point: hits");
    for (int step = 1; step <= LAST_STEP; step++) {
        for (int round = 0; a->hits[step] < wanted; round++) {
            CHECK(round < 100 * wanted, "step %d was hit %d times only", step, a->hits[step]);
            a->hits[step] += round_for(a, step, (uint64_t)(step * 100000 + round));
        }
        printf(" %d:%d", step, a->hits[step]);
    }
    printf("; %d messages gone with their takers\n", a->lost);
}

static void test_random_instants(arena *a) {
    int rounds = scaled(1000), kills = 0, killed;
    a->lost = 0;
    for (int round = 0; round < rounds; round++) {
        begin(a, (uint64_t)round * 7919u + 1, round % 3 ? 0 : 4);
        for (int who = 0; who < SHUTTER; who++) start(a, who, 0, 0);
        nanosleep(&(struct timespec){0, (long)roll(&a->dice, 1500000)}, NULL);
        syscall(SYS_kill, a->pids[roll(&a->dice, SHUTTER)], SIGKILL);
        int consumers = finish(a, &killed);
        kills += killed;
        account(a, consumers, 0);
        check_it_works(a);
        mtq_leave(&a->q);
    }
    printf("  random instants: %d of %d killed before they ended, %d messages gone with them\n", kills, rounds, a->lost);
}

int main(void) {
    alarm(300); /* only a hang gets there */
    slice_ns = 50000000;
    setvbuf(stdout, NULL, _IONBF, 0);
    arena a = {.d = shared_memory(sizeof(diary))};
    test_every_step(&a);
    test_random_instants(&a);
    puts("test_ring_death: all good");
    return 0;
}
