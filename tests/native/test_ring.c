/* The queue between threads of one process: content, growing and shrinking, maxsize, runs, shutdown, sleeping. */
#include "ringtest.h"

static mtq make(uint64_t maxsize, uint64_t spin_ns) {
    mtq q;
    int result = mtq_make(&q, maxsize);
    CHECK(result == 0, "mtq_make: %d", result);
    q.spin_ns = spin_ns;
    return q;
}

/* ---- one thread: against a plain line ---- */

typedef struct {
    uint32_t first, behind; /* the numbers that are in the queue */
} line;

static void first_of(void *to, label l) {
    line *there = to;
    CHECK(l.number == there->first, "%u comes out, %u is the oldest", l.number, there->first);
    there->first++;
}

static void one_random_step(mtq *q, line *there, dice *d, uint32_t bias) {
    uint64_t done = 0;
    int result;
    switch (roll(d, 4) + (roll(d, 8) < bias ? 0 : 10)) {
        case 0: case 1: case 2:
            result = put_message(q, (label){1, there->behind}, 0);
            done = result == MTQ_DONE;
            break;
        case 3: result = put_messages(q, (label){1, there->behind}, 1 + roll(d, 40), 0, &done); break;
        case 13: result = get_messages(q, 1 + roll(d, 40), 0, first_of, there); break;
        default: result = get_message(q, 0, first_of, there);
    }
    there->behind += (uint32_t)done;
    CHECK(result == MTQ_DONE || result == MTQ_LATE, "result %d", result);
    CHECK(mtq_size(q) == there->behind - there->first);
    if (q->c->maxsize) CHECK(mtq_size(q) <= q->c->maxsize);
}

static void test_a_queue_is_a_line(uint64_t maxsize) {
    mtq q = make(maxsize, 0);
    line there = {0, 0};
    dice d = {maxsize + 3};
    uint64_t most = 0;
    for (int i = 0; i < scaled(60000); i++) {
        one_random_step(&q, &there, &d, i / 500 % 2 ? 6 : 2);
        if (memory_of(&q) > most) most = memory_of(&q);
        if (there.first != there.behind) continue;
        CHECK(get_message(&q, 0, first_of, &there) == MTQ_LATE);
        CHECK(memory_of(&q) <= BASELINE, "found empty: %llu bytes", (unsigned long long)memory_of(&q));
    }
    while (there.first < there.behind) CHECK(get_messages(&q, 100, 0, first_of, &there) == MTQ_DONE);
    CHECK(get_message(&q, 0, first_of, &there) == MTQ_LATE);
    CHECK(memory_of(&q) <= BASELINE);
    if (maxsize == 0) CHECK(most > 4 * MTQ_RING_MAX, "it never grew: %llu", (unsigned long long)most);
    mtq_leave(&q);
}

/* Two ends of one queue take turns: what an end saw last is out of date. */
static void test_an_end_that_was_away(void) {
    for (uint64_t maxsize = 0; maxsize < 40; maxsize += 13) {
        mtq a = make(maxsize, 0), b;
        CHECK(mtq_attach(&b, dup(a.fd)) == 0);
        line there = {0, 0};
        dice d = {11};
        for (int i = 0; i < scaled(40000); i++) one_random_step(i / 97 % 2 ? &a : &b, &there, &d, i / 500 % 2 ? 6 : 2);
        mtq_leave(&a);
        mtq_leave(&b);
    }
}

static void test_a_burst_leaves_no_memory_behind(void) {
    mtq q = make(0, 0);
    line there = {0, 0};
    for (int i = 0; i < 4000; i++) CHECK(put_message(&q, (label){1, there.behind++}, 0) == MTQ_DONE);
    CHECK(memory_of(&q) > 10 * BASELINE);
    while (there.first < there.behind) CHECK(get_message(&q, 0, first_of, &there) == MTQ_DONE);
    CHECK(memory_of(&q) <= BASELINE, "%llu bytes", (unsigned long long)memory_of(&q));
    mtq_leave(&q);
}

static void test_shutdown(void) {
    for (int immediate = 0; immediate < 2; immediate++) {
        mtq q = make(0, 0);
        line there = {0, 300};
        for (uint32_t i = 0; i < 300; i++) CHECK(put_message(&q, (label){1, i}, 0) == MTQ_DONE);
        CHECK(get_message(&q, 0, first_of, &there) == MTQ_DONE && mtq_task_done(&q, 1) == MTQ_DONE);
        CHECK(get_message(&q, 0, first_of, &there) == MTQ_DONE);
        CHECK(mtq_shutdown(&q, immediate, MTQ_NEVER) == MTQ_DONE);
        CHECK(put_message(&q, (label){1, 300}, 0) == MTQ_ENDED);
        CHECK(mtq_size(&q) == (immediate ? 0 : 298));
        while (!immediate && there.first < 300) CHECK(get_message(&q, 0, first_of, &there) == MTQ_DONE);
        CHECK(get_message(&q, MTQ_NEVER, first_of, &there) == MTQ_ENDED);
        CHECK(!mtq_is_settled(&q), "one that was got is not done");
        CHECK(mtq_task_done(&q, immediate ? 1 : 299) == MTQ_DONE && mtq_is_settled(&q));
        CHECK(mtq_task_done(&q, 1) == -EINVAL);
        if (immediate) CHECK(memory_of(&q) <= BASELINE);
        mtq_leave(&q);
    }
}

/* What came before the announcement is seen by the last look; without it, these sleep until the alarm. */
static void test_a_sleeper_looks_again(void) {
    mtq q = make(1, 0);
    line there = {0, 0};
    unsigned int rest = alarm(20);
    CHECK(put_message(&q, (label){1, 0}, 0) == MTQ_DONE);
    CHECK(mtq_sleep(&q, &q.c->items, mtq_has_items, MTQ_NEVER) == 0);
    CHECK(get_message(&q, 0, first_of, &there) == MTQ_DONE);
    CHECK(mtq_sleep(&q, &q.c->room, mtq_has_room, MTQ_NEVER) == 0);
    CHECK(mt_load32(&q.c->items.sleepers) == 0 && mt_load32(&q.c->room.sleepers) == 0);
    alarm(rest);
    mtq_leave(&q);
}

static void test_sleepers_that_are_dead_are_forgotten(void) {
    mtq q = make(0, 0);
    line there = {0, 0};
    mt_store32(&q.c->items.sleepers, 3);
    for (uint32_t i = 0; i < MTQ_VAIN + 1; i++) {
        CHECK(put_message(&q, (label){1, i}, 0) == MTQ_DONE);
        CHECK(get_message(&q, 0, first_of, &there) == MTQ_DONE);
    }
    CHECK(mt_load32(&q.c->items.sleepers) == 0);
    mtq_get_up(&q.c->items); /* one that was there after all */
    CHECK(mt_load32(&q.c->items.sleepers) == 0);
    mtq_leave(&q);
}

/* ---- threads ---- */

#define SIDES 4

typedef struct {
    mtq *q;
    uint32_t count, hasten;
    uint64_t spin_ns;
    uint32_t next[SIDES + 1][SIDES]; /* by consumer: the least number that may still come from a producer */
    _Atomic uint32_t got;
} crowd;

typedef struct {
    crowd *all;
    uint32_t which;
} member;

static void in_order(void *to, label l) {
    member *me = to;
    uint32_t *next = &me->all->next[me->which][l.producer];
    CHECK(l.number >= *next, "%u of producer %u comes after %u", l.number, l.producer, *next - 1);
    *next = l.number + 1;
    atomic_fetch_add(&me->all->got, 1);
}

static void *produce(void *argument) {
    member *me = argument;
    dice d = {me->which + 100};
    for (uint64_t i = 0; i < me->all->count;) {
        uint32_t some = 1 + roll(&d, 20);
        if (some > me->all->count - i) some = (uint32_t)(me->all->count - i);
        int result = MTQ_DONE;
        if (roll(&d, 3))
            result = put_message(me->all->q, (label){me->which, (uint32_t)i++}, MTQ_NEVER);
        else
            result = put_messages(me->all->q, (label){me->which, (uint32_t)i}, some, MTQ_NEVER, &i);
        CHECK(result == MTQ_DONE, "put: %d", result);
        if (me->all->hasten && roll(&d, 64) == 0) usleep(roll(&d, 100));
    }
    return NULL;
}

static void *consume(void *argument) {
    member *me = argument;
    dice d = {me->which + 200};
    for (;;) {
        int result = roll(&d, 3) ? get_message(me->all->q, MTQ_NEVER, in_order, me)
                                 : get_messages(me->all->q, 1 + roll(&d, 30), MTQ_NEVER, in_order, me);
        if (result == MTQ_ENDED) return NULL;
        CHECK(result == MTQ_DONE, "get: %d", result);
        if (me->all->hasten && roll(&d, 64) == 0) usleep(roll(&d, 100));
    }
}

static void test_many_producers_and_consumers(uint32_t producers, uint32_t consumers, uint64_t maxsize, uint64_t spin_ns, uint32_t hasten) {
    mtq q = make(maxsize, spin_ns);
    crowd all = {.q = &q, .count = (uint32_t)scaled(6000) / producers, .hasten = hasten};
    member who[2 * SIDES];
    pthread_t threads[2 * SIDES];
    for (uint32_t i = 0; i < producers + consumers; i++) {
        who[i] = (member){&all, i < producers ? i : i - producers};
        threads[i] = start_thread(i < producers ? produce : consume, &who[i]);
    }
    for (uint32_t i = 0; i < producers; i++) pthread_join(threads[i], NULL);
    CHECK(mtq_shutdown(&q, 0, MTQ_NEVER) == MTQ_DONE);
    for (uint32_t i = producers; i < producers + consumers; i++) pthread_join(threads[i], NULL);
    CHECK(all.got == all.count * producers, "%u of %u", all.got, all.count * producers);
    CHECK(mtq_put_count(&q) == all.got && mtq_got_count(&q) == all.got);
    mtq_leave(&q);
}

/* ---- looking before sleeping ---- */

static int never(mtq *q) { return q == NULL; }

static void test_a_look_that_is_in_vain_makes_the_next_one_shorter(void) {
    mtq q = make(0, 20000);
    line there = {0, 0};
    for (uint32_t vain = 0; vain < MTQ_SPIN_HALVES; vain++) {
        CHECK(q.vain == vain, "%u after %u waits", q.vain, vain);
        while (q.vain == vain) /* who got no CPU until it was late has neither looked nor slept */
            CHECK(get_message(&q, mt_now_ns() + 500000, first_of, &there) == MTQ_LATE);
    }
    for (int i = 0; i < 3; i++) CHECK(get_message(&q, mt_now_ns() + 500000, first_of, &there) == MTQ_LATE);
    CHECK(q.vain == MTQ_SPIN_HALVES);
    CHECK(put_message(&q, (label){1, there.behind++}, 0) == MTQ_DONE);
    uint64_t now = mt_now_ns();
    CHECK(mtq_spin(&q, &q.c->items, mtq_has_items, now, now + PATIENCE_NS) && q.vain == 0);
    mtq_slept(&q, 40000);
    CHECK(q.vain == 1);
    mtq_slept(&q, 39999);
    CHECK(q.vain == 0);
    now = mt_now_ns();
    CHECK(!mtq_spin(&q, &q.c->items, never, now, MTQ_NEVER) && mt_now_ns() - now >= 20000);
    mtq_leave(&q);
}

/* What a sleeper sees that looks just before something comes. */
static int rung_after_the_look(mtq *q) {
    mtq_strike(&q->c->items, 1);
    return 0;
}

static void test_a_bell_between_the_look_and_the_sleep_is_heard(void) {
    mtq q = make(0, 0);
    CHECK(mtq_sleep(&q, &q.c->items, rung_after_the_look, mt_now_ns() + PATIENCE_NS) == 0, "it slept on");
    mtq_leave(&q);
}

static void test_whoever_is_beside_is_known(void) {
    mtq q = make(0, 20000);
    line there = {0, 1};
    CHECK(!mtq_is_beside(&q, &q.c->items) && !mtq_is_beside(&q, &q.c->room), "nobody has been there yet");
    while (!mtq_is_beside(&q, &q.c->items)) /* moved in between */
        CHECK(put_message(&q, (label){1, there.behind - 1}, 0) == MTQ_DONE);
    CHECK(get_message(&q, 0, first_of, &there) == MTQ_DONE);
    CHECK(q.c->get_cpu > 0 && q.c->put_cpu > 0);
    mtq_leave(&q);
}

static void *go_apart(void *argument) {
    int cpus = (int)sysconf(_SC_NPROCESSORS_ONLN), moved = 0;
    cpu_set_t before, after;
    (void)argument;
    CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
    int may = cpus > 1 && CPU_COUNT(&before) >= cpus;
    for (int i = 0; i < 100; i++) {
        int cpu = sched_getcpu();
        CHECK(mtq_leave_cpu(cpus) == may);
        moved += sched_getcpu() != cpu;
        CHECK(sched_getaffinity(0, sizeof after, &after) == 0 && CPU_EQUAL(&before, &after));
    }
    CHECK(!may || moved > 0); /* it may be sent back before it looks */
    CPU_ZERO(&before);
    CPU_SET(sched_getcpu(), &before);
    CHECK(sched_setaffinity(0, sizeof before, &before) == 0);
    CHECK(cpus == 1 || !mtq_leave_cpu(cpus), "it was kept to one CPU");
    CHECK(sched_getaffinity(0, sizeof after, &after) == 0 && CPU_EQUAL(&before, &after));
    return NULL;
}

static void test_who_goes_apart_may_run_everywhere_as_before(void) { pthread_join(start_thread(go_apart, NULL), NULL); }

/* ---- the baton ---- */

static void *watch(void *argument) {
    mtq *q = argument;
    CHECK(mtq_wait(q, &q->c->items, mtq_has_items, MTQ_NEVER, MTQ_NEVER) == MTQ_DONE);
    mtq_pass_on(q, &q->c->items, mtq_has_items);
    return NULL;
}

static void *get_first(void *argument) {
    line there = {0, 1};
    CHECK(get_message(argument, MTQ_NEVER, first_of, &there) == MTQ_DONE);
    return NULL;
}

static void until_they_sleep(mtq *q, uint32_t sleepers) {
    while (mt_load32(&q->c->items.sleepers) < sleepers) usleep(100);
    usleep(2000); /* most likely they are in the kernel now: then one wake is for the first of them only */
}

static void test_who_is_woken_and_takes_nothing_wakes_the_next(void) {
    unsigned int rest = alarm(20);
    for (int i = 0; i < scaled(20); i++) {
        mtq q = make(0, 0);
        pthread_t watcher = start_thread(watch, &q);
        until_they_sleep(&q, 1);
        pthread_t getter = start_thread(get_first, &q);
        until_they_sleep(&q, 2);
        CHECK(put_message(&q, (label){1, 0}, 0) == MTQ_DONE);
        pthread_join(watcher, NULL);
        pthread_join(getter, NULL);
        mtq_leave(&q);
    }
    alarm(rest);
}

int main(void) {
    alarm(120); /* only a hang gets there */
    test_a_queue_is_a_line(0);
    test_a_queue_is_a_line(1);
    test_a_queue_is_a_line(37);
    test_an_end_that_was_away();
    test_a_burst_leaves_no_memory_behind();
    test_shutdown();
    test_a_sleeper_looks_again();
    test_sleepers_that_are_dead_are_forgotten();
    test_who_is_woken_and_takes_nothing_wakes_the_next();
    test_a_look_that_is_in_vain_makes_the_next_one_shorter();
    test_a_bell_between_the_look_and_the_sleep_is_heard();
    test_whoever_is_beside_is_known();
    test_who_goes_apart_may_run_everywhere_as_before();
    for (int spin = 0; spin <= 20000; spin += 20000)
        for (uint64_t maxsize = 0; maxsize < 12; maxsize += 5)
            for (uint32_t hasten = 0; hasten < 2; hasten++) {
                test_many_producers_and_consumers(1, 1, maxsize, (uint64_t)spin, hasten);
                test_many_producers_and_consumers(SIDES, 1, maxsize, (uint64_t)spin, hasten);
                test_many_producers_and_consumers(1, SIDES, maxsize, (uint64_t)spin, hasten);
                test_many_producers_and_consumers(SIDES, SIDES, maxsize, (uint64_t)spin, hasten);
            }
    puts("test_ring: all good");
    return 0;
}
