/* Small objects in shared memory: cells that go from hand to hand, and users killed at every numbered step and at random.
 *
 * Threads: a maker hands out cells, readers read handles once and again; nobody ever reads a cell that is another by
 * then (its plain content says so, and the thread sanitizer looks on). Processes: after a death the lock is had within
 * a second, the count is what was added, and the dead one's uses can be buried.
 *
 * PLANT_RACE makes a reader look at the word before it sets its bit; PLANT_OVERFLOW writes past the last cell.
 */
#include "harness.h"
#define MS_STEP(number) MT_STEP(number)
#include "shared.h"

#include <sys/prctl.h>
#include <sys/wait.h>

#define CELLS 64u
#define LAST_STEP 17 /* 15 … 17 are steps of this file, around the lock and the counter */
#define HITS 50
#define RANDOM_ROUNDS 1000

/* An arena with a page behind it that nobody may touch; *fd* is the maker's own description. */
static ms_arena *new_arena(int *fd) {
    static ms_arena plan;
    ms_plan(&plan, 64, CELLS);
    plan.magic = MS_MAGIC;
    *fd = mt_memfd("shared-test", plan.size);
    CHECK(*fd >= 0);
    char *base = mmap(NULL, plan.size + MS_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(base != MAP_FAILED);
    CHECK(mmap(base, plan.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, *fd, 0) == base);
    memcpy(base, &plan, sizeof plan);
    CHECK(ms_sound((ms_arena *)base, plan.size));
#ifdef PLANT_OVERFLOW
    ((volatile char *)ms_cell((ms_arena *)base, CELLS - 1))[64 + MS_PAGE] = 1;
#endif
    return (ms_arena *)base;
}

static void drop_arena(ms_arena *a, int fd) {
    close(fd);
    munmap(a, a->size + MS_PAGE);
}

/* A description of its own for the same file, as another process would have. */
static int open_again(int fd) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int mine = open(path, O_RDWR | O_CLOEXEC);
    CHECK(mine >= 0, "%s: %d", path, errno);
    return mine;
}

static int arrives(ms_arena *a, uint32_t me, uint32_t cell, uint32_t generation) {
#ifdef PLANT_RACE
    int there = ms_generation(atomic_load(ms_word(a, cell))) == generation;
    ms_use(a, me, cell);
    return there;
#else
    return ms_arrive(a, me, cell, generation);
#endif
}

/* --- threads --------------------------------------------------------------------------------------------------------- */

#define READERS 3

typedef struct {
    ms_arena *a;
    int fd;
    _Atomic uint64_t handles[16]; /* generation << 32 | cell + 1, each read as a counted one once */
    _Atomic int over;
    _Atomic long fresh, stale, refused;
} table;

typedef struct {
    table *t;
    uint32_t number;
} reader;

static void look(ms_arena *a, uint32_t cell, uint32_t generation) {
    uint32_t content = *(volatile uint32_t *)ms_cell(a, cell);
#ifdef PLANT_RACE /* the sanitizer is to see it, and not this */
    (void)content, (void)generation;
#else
    CHECK(content == generation, "cell %u holds %u and not %u", cell, content, generation);
#endif
}

static void *read_handles(void *argument) {
    reader *r = argument;
    table *t = r->t;
    dice d = {r->number};
    int fd = open_again(t->fd), member = ms_join(t->a, fd);
    CHECK(member > 0, "join: %d", member);
    uint32_t me = (uint32_t)member;
    uint64_t old[8] = {0};
    while (!atomic_load(&t->over)) {
        uint64_t got = atomic_exchange(&t->handles[roll(&d, 16)], 0);
        int counted = got != 0;
        if (counted)
            old[roll(&d, 8)] = got;
        else if (!(got = old[roll(&d, 8)]))
            continue;
        uint32_t cell = (uint32_t)got - 1, generation = (uint32_t)(got >> 32);
        int there = arrives(t->a, me, cell, generation);
        if (counted) {
            CHECK(there, "cell %u went while a handle was under way", cell);
            ms_settle(t->a, cell, generation);
        }
        if (there)
            look(t->a, cell, generation);
        atomic_fetch_add(there ? counted ? &t->fresh : &t->stale : &t->refused, 1);
        ms_leave(t->a, me, cell);
    }
    close(fd);
    return NULL;
}

static void test_no_cell_goes_under_a_reader(void) {
    table t = {0};
    t.a = new_arena(&t.fd);
    CHECK(ms_join(t.a, t.fd) == 0);
    pthread_t threads[READERS];
    reader readers[READERS];
    for (uint32_t i = 0; i < READERS; i++) {
        readers[i] = (reader){&t, i + 1};
        threads[i] = start_thread(read_handles, &readers[i]);
    }
    dice d = {99};
    long given = 0, taken = 0;
    uint8_t used[4] = {0}; /* few cells, so that each comes again soon */
    int wanted = scaled(200000);
    while (given < wanted) {
        uint32_t cell = roll(&d, 4);
        if (used[cell]) {
            if (ms_reclaim(t.a, cell)) {
                *(volatile uint32_t *)ms_cell(t.a, cell) = 0; /* nobody may see this */
                used[cell] = 0;
                taken++;
            }
            continue;
        }
        uint32_t generation = ms_begin(t.a, 0, cell);
        *(volatile uint32_t *)ms_cell(t.a, cell) = generation;
        used[cell] = 1;
        uint64_t handle = (uint64_t)generation << 32 | (cell + 1), none = 0;
        ms_claim(t.a, cell);
        if (!atomic_compare_exchange_strong(&t.handles[roll(&d, 16)], &none, handle))
            ms_settle(t.a, cell, generation); /* no room: it is not sent */
        else
            given++;
        ms_leave(t.a, 0, cell);
    }
    atomic_store(&t.over, 1);
    for (int i = 0; i < READERS; i++) pthread_join(threads[i], NULL);
    printf("%ld handles, %ld cells taken back, %ld read once, %ld again, %ld refused\n", given, taken,
           atomic_load(&t.fresh), atomic_load(&t.stale), atomic_load(&t.refused));
    CHECK(taken > given / 2 && atomic_load(&t.refused) > 0);
    drop_arena(t.a, t.fd);
}

/* --- deaths ---------------------------------------------------------------------------------------------------------- */

enum { LOCK = 0, COUNT = 1, PASSED = 2 }; /* cells */

typedef struct {
    uint32_t begun, ended; /* adds of the one that holds the lock */
    _Atomic int64_t free_begun, free_ended; /* adds of those that hold none */
} diary;

/* What a user does until it is killed, or for *rounds*. Never returns. */
static void use_all(ms_arena *a, int fd, diary *mine, dice d, uint32_t generation, int rounds) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int own = open_again(fd), member = ms_join(a, own);
    CHECK(member > 0, "join: %d", member);
    uint32_t me = (uint32_t)member;
    ms_lock *lock = ms_cell(a, LOCK);
    _Atomic int64_t *count = ms_cell(a, COUNT);
    int64_t sum;
    while (rounds--) {
        int got = ms_lock_wait(lock, INT64_C(20000000000));
        CHECK(got == 0 || got == EOWNERDEAD, "lock: %d", got);
        MS_STEP(15);
        mine->begun++;
        CHECK(ms_add(count, 1, &sum));
        MS_STEP(16);
        mine->ended++;
        CHECK(ms_lock_release(lock) == 0);
        MS_STEP(17);
        ms_claim(a, PASSED);
        if (ms_arrive(a, me, PASSED, generation)) ms_settle(a, PASSED, generation);
        ms_leave(a, me, PASSED);
        if (roll(&d, 4) == 0) ms_bury(a, own, me);
        /* as the maker does, with a cell of one's own */
        uint32_t cell = 8 + me % (CELLS - 8);
        uint32_t begun = ms_begin(a, me, cell);
        ms_leave(a, me, cell);
        CHECK(begun & 1);
        ms_reclaim(a, cell);
    }
    _exit(0);
}

/* Two users, of which one is killed; a third that died before, holding the lock. Returns whether it was killed. */
static int one_death(int step, dice *d) {
    int fd, status, hit;
    ms_arena *a = new_arena(&fd);
    CHECK(ms_join(a, fd) == 0);
    diary *diaries = shared_memory(3 * sizeof(diary));
    uint32_t generation = ms_begin(a, 0, PASSED);
    ms_lock *lock = ms_cell(a, LOCK);
    CHECK(ms_lock_init(lock) == 0);
    pid_t pids[3];
    int often = (step >= 8 && step <= 12) || step >= 15; /* the others come once for each dead one */
    for (int i = 0; i < 3; i++) {
        if ((pids[i] = fork())) {
            if (i == 0) CHECK(waitpid(pids[0], &status, 0) == pids[0] && WIFSIGNALED(status));
            continue;
        }
        if (i == 0) mt_kill_step = 15; /* so that somebody meets a dead owner, and a dead record */
        if (i == 1) mt_kill_step = step, mt_kill_after = (long)roll(d, often ? 3 : 1);
        use_all(a, fd, &diaries[i], (dice){roll(d, 1u << 30)}, generation, i == 1 && !step ? 1 << 30 : 40);
    }
    if (!step) { /* at a random instant */
        struct timespec pause = {0, (long)roll(d, 2000000)};
        nanosleep(&pause, NULL);
        kill(pids[1], SIGKILL);
    }
    CHECK(waitpid(pids[1], &status, 0) == pids[1]);
    hit = WIFSIGNALED(status);
    CHECK(hit ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0, "status %d", status);
    CHECK(waitpid(pids[2], &status, 0) == pids[2] && WIFEXITED(status) && WEXITSTATUS(status) == 0, "%d", status);

    int got = ms_lock_wait(lock, 1000000000);
    CHECK(got == 0 || got == EOWNERDEAD, "the lock of the dead: %d", got);
    CHECK(ms_lock_release(lock) == 0);
    int64_t sum = *(_Atomic int64_t *)ms_cell(a, COUNT), least = 0, most = 0;
    for (int i = 0; i < 3; i++) least += diaries[i].ended, most += diaries[i].begun;
    CHECK(least <= sum && sum <= most, "%lld adds, and not %lld to %lld", (long long)sum, (long long)least, (long long)most);
    ms_bury(a, fd, 0);
    for (uint32_t i = 1; i < atomic_load(&a->high); i++)
        CHECK(atomic_load(&ms_record(a, i)->state) == MS_FREE, "record %u is not buried", i);
    ms_leave(a, 0, PASSED);
    uint64_t word = atomic_load(ms_word(a, PASSED));
    CHECK(ms_claims(word) <= 2, "%u claims", ms_claims(word)); /* one at most for each of the two that were killed */
    CHECK(ms_reclaim(a, PASSED) == (ms_claims(word) == 0));
    munmap(diaries, 3 * sizeof(diary));
    drop_arena(a, fd);
    return hit;
}

static void test_deaths_at_every_step(void) {
    dice d = {5};
    int wanted = scaled(HITS);
    for (int step = 1; step <= LAST_STEP; step++) {
        int hits = 0, rounds = 0;
        while (hits < wanted) {
            hits += one_death(step, &d);
            CHECK(++rounds < 60 * wanted, "step %d was hit %d times only", step, hits);
        }
        printf("step %d: %d hits in %d rounds\n", step, hits, rounds);
    }
}

static void test_deaths_at_random_instants(void) {
    dice d = {6};
    int hits = 0, wanted = scaled(RANDOM_ROUNDS);
    for (int i = 0; i < wanted; i++) hits += one_death(0, &d);
    printf("%d killed at random instants\n", hits);
    CHECK(hits > wanted * 9 / 10);
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    test_no_cell_goes_under_a_reader();
    test_deaths_at_every_step();
    test_deaths_at_random_instants();
    puts("all good");
}
