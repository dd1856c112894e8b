/* Lanes between shards: order, bytes, bounds, and what a death on either side leaves behind. */
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"
#include "check.h"
#include "ports/swring.h"
#include "stack/lane.h"
#include "stepper.h"
#include "worker/worker.h"

enum {
    LANE = 16384,
    FRAME_MAX = 3000,
    MANY = 50000,
    MANY_MIN = 1000,
    PATIENCE_US = 10000000, /* for the rest: with one CPU, each of the two waits for the other */
    RECORD = 16,            /* what a frame costs besides its bytes */
};

static struct lanes *new_lanes(uint32_t shards)
{
    return lanes_init(shared_memory(lanes_bytes(shards, LANE)), shards, LANE);
}

static void delete_lanes(struct lanes *lanes, uint32_t shards)
{
    munmap(lanes, lanes_bytes(shards, LANE));
}

/* Frame number n: its length and its bytes follow from n. */
static uint32_t frame_len(uint32_t n)
{
    uint64_t state = n;

    return 14 + (uint32_t)(splitmix64(&state) % (FRAME_MAX - 14));
}

static struct frame frame_of(uint32_t n, uint8_t *bytes)
{
    uint32_t len = frame_len(n);

    for (uint32_t i = 0; i < len; i++) {
        bytes[i] = (uint8_t)(n + i * 7);
    }
    return (struct frame){.data = bytes,
                          .len = len,
                          .contig = len,
                          .nslots = 1,
                          .csum = (uint8_t)(n % 3),
                          .gso_size = (uint16_t)(n % 1400)};
}

static bool push(struct lanes *lanes, uint32_t from, uint32_t to, uint32_t n)
{
    uint8_t bytes[FRAME_MAX];
    struct frame frame = frame_of(n, bytes);

    return lane_push(lanes, from, to, &frame);
}

/* The next frame is number n, whole. */
static bool is_frame(const struct frame *frame, uint32_t n)
{
    uint8_t bytes[FRAME_MAX];
    struct frame sent = frame_of(n, bytes);

    return frame->len == sent.len && frame->contig == sent.len && frame->nslots == 0 &&
           frame->csum == sent.csum && frame->gso_size == sent.gso_size &&
           memcmp(frame->data, bytes, sent.len) == 0;
}

static bool peek(const struct lanes *lanes, uint32_t from, uint32_t to, uint32_t *cursor,
                 uint32_t n)
{
    struct frame frame = {0};

    return lane_peek(lanes, from, to, cursor, &frame) && is_frame(&frame, n);
}

static void frames_come_whole_and_in_order(void)
{
    struct lanes *lanes = new_lanes(2);
    uint64_t random = 5;
    uint32_t cursor = 0;
    uint32_t sent = 0;
    uint32_t got = 0;
    struct frame none;

    CHECK(!lane_ready(lanes, 0, 1, cursor));
    CHECK(!lane_peek(lanes, 0, 1, &cursor, &none));
    while (got < 20000) {
        for (uint32_t burst = (uint32_t)splitmix64(&random) % 9; burst > 0; burst--) {
            sent += push(lanes, 0, 1, sent);
        }
        for (uint32_t burst = (uint32_t)splitmix64(&random) % 9; burst > 0 && got < sent; burst--) {
            CHECK(lane_ready(lanes, 0, 1, cursor));
            CHECK(peek(lanes, 0, 1, &cursor, got));
            got++;
        }
        CHECK_EQ(lane_ready(lanes, 0, 1, cursor), got < sent);
        lane_release(lanes, 0, 1, cursor);
    }
    delete_lanes(lanes, 2);
}

/* Each ordered pair of shards has a lane of its own. */
static void lanes_do_not_mix(void)
{
    struct lanes *lanes = new_lanes(3);

    for (uint32_t from = 0; from < 3; from++) {
        for (uint32_t to = 0; to < 3; to++) {
            CHECK(push(lanes, from, to, from * 3 + to));
        }
    }
    for (uint32_t from = 0; from < 3; from++) {
        for (uint32_t to = 0; to < 3; to++) {
            uint32_t cursor = 0;
            struct frame none;

            CHECK(peek(lanes, from, to, &cursor, from * 3 + to));
            CHECK(!lane_peek(lanes, from, to, &cursor, &none));
        }
    }
    delete_lanes(lanes, 3);
}

static void a_full_lane_refuses_and_loses_nothing(void)
{
    struct lanes *lanes = new_lanes(2);
    uint32_t bytes = 0;
    uint32_t cursor = 0;
    uint32_t sent = 0;

    for (uint32_t life = 0; life < 100; life++) {
        uint32_t first = sent;

        while (push(lanes, 0, 1, sent)) {
            bytes += RECORD + frame_len(sent++);
            CHECK(bytes <= LANE);
        }
        CHECK(bytes > LANE - 2 * (FRAME_MAX + 2 * RECORD)); /* the end may be left empty */
        CHECK(!push(lanes, 0, 1, sent));
        CHECK(push(lanes, 1, 0, 1)); /* the other way is another lane */
        for (uint32_t n = first; n < sent; n++) {
            CHECK(peek(lanes, 0, 1, &cursor, n));
            CHECK(!push(lanes, 0, 1, sent)); /* read is not released */
        }
        lane_release(lanes, 0, 1, cursor);
        bytes = 0;
        lane_release(lanes, 1, 0, 0);
        if (life % 10 == 9) {
            delete_lanes(lanes, 2);
            lanes = new_lanes(2);
            cursor = 0;
        }
    }
    delete_lanes(lanes, 2);
}

static void a_frame_over_several_slots_arrives_in_one_piece(void)
{
    struct lanes *lanes = new_lanes(2);
    struct swring rings;
    struct frame frame = {0};
    struct frame got = {0};
    uint32_t cursor = 0;
    uint8_t bytes[FRAME_MAX];

    CHECK_EQ(swring_create(&rings, 4, 1024, 0), 0);
    for (uint32_t n = 0; n < 50; n++) { /* slots 2, 3 and 0 */
        frame = frame_of(n, bytes);
        for (uint32_t i = 0; i < 3; i++) {
            uint32_t at = (2 + i) % 4;
            uint32_t off = min_u32(i * 1024, frame.len);

            rings.rx->slot[at].len = (uint16_t)min_u32(1024, frame.len - off);
            memcpy(nm_ring_buf(rings.rx, at), bytes + off, rings.rx->slot[at].len);
        }
        frame.ring = rings.rx;
        frame.slot = 2;
        frame.next = 1;
        frame.nslots = 3;
        frame.data = nm_ring_buf(rings.rx, 2);
        frame.contig = rings.rx->slot[2].len;
        CHECK(lane_push(lanes, 0, 1, &frame));
        CHECK(lane_peek(lanes, 0, 1, &cursor, &got));
        CHECK(is_frame(&got, n));
        lane_release(lanes, 0, 1, cursor);
    }
    swring_destroy(&rings);
    delete_lanes(lanes, 2);
}

static void two_processes_pass_many_frames(void)
{
    struct lanes *lanes = new_lanes(2);
    uint32_t cursor = 0;
    uint32_t wrong = 0;
    int status = -1;
    uint64_t began_us = worker_clock_us();
    uint32_t n = 0;
    pid_t child = fork();

    for (uint32_t next = 0; child == 0;) {
        if (push(lanes, 0, 1, next)) {
            next++;
        } else {
            sched_yield();
        }
    }
    while (n < MANY_MIN || (n < MANY && worker_clock_us() - began_us < PATIENCE_US)) {
        if (!lane_ready(lanes, 0, 1, cursor)) {
            sched_yield();
            continue;
        }
        wrong += !peek(lanes, 0, 1, &cursor, n);
        if (++n % 3 == 0) {
            lane_release(lanes, 0, 1, cursor);
        }
    }
    kill(child, SIGKILL);
    CHECK(waitpid(child, &status, 0) == child && WTERMSIG(status) == SIGKILL);
    CHECK_EQ(wrong, 0);
    delete_lanes(lanes, 2);
}

/* A producer that dies while it pushes frame `n` behind `cursor`. */
struct death {
    struct lanes *lanes;
    struct lanes *copy;
    uint32_t cursor;
    uint32_t n;
    uint64_t nothing;
    uint64_t whole;
};

static void dying_push(void *arg)
{
    struct death *death = arg;

    push(death->lanes, 0, 1, death->n);
}

/* The consumer finds the whole frame or none; the successor pushes as if nothing had been. */
static void look_at_death(void *arg)
{
    struct death *death = arg;
    uint32_t cursor = death->cursor;
    bool whole;

    memcpy(death->copy, death->lanes, lanes_bytes(2, LANE));
    whole = lane_ready(death->copy, 0, 1, cursor);
    if (whole) {
        CHECK(peek(death->copy, 0, 1, &cursor, death->n));
        death->whole++;
    } else {
        death->nothing++;
    }
    CHECK(!lane_ready(death->copy, 0, 1, cursor));
    CHECK(push(death->copy, 0, 1, 77));
    CHECK(peek(death->copy, 0, 1, &cursor, 77));
}

static void a_producer_killed_at_any_store_leaves_a_frame_or_none(void)
{
    struct death death = {.lanes = new_lanes(2), .copy = new_lanes(2)};
    struct stepper stepper = {.act = dying_push,
                              .look = look_at_death,
                              .arg = &death,
                              .memory = death.lanes,
                              .bytes = lanes_bytes(2, LANE)};

    for (death.n = 1; death.n < 14; death.n++) { /* more than once around */
        CHECK(step_through(&stepper) > 2);
        CHECK(peek(death.lanes, 0, 1, &death.cursor, death.n));
        lane_release(death.lanes, 0, 1, death.cursor);
    }
    CHECK(death.nothing > 13);
    CHECK_EQ(death.whole, 13);
    delete_lanes(death.lanes, 2);
    delete_lanes(death.copy, 2);
}

/* The cursor is the consumer's own: until it is released, what was read is there again. */
static void a_consumer_that_dies_reads_again(void)
{
    struct lanes *lanes = new_lanes(2);
    uint32_t committed = 0;
    uint32_t sent = 0;

    for (uint32_t life = 0; life < 200; life++) {
        uint32_t cursor = committed;

        while (push(lanes, 0, 1, sent)) {
            sent++;
        }
        for (uint32_t n = 0; n < 2; n++) { /* read by one that dies before its commit */
            CHECK(peek(lanes, 0, 1, &cursor, life + n));
        }
        cursor = committed;
        CHECK(peek(lanes, 0, 1, &cursor, life));
        committed = cursor;
        lane_release(lanes, 0, 1, committed);
        lane_release(lanes, 0, 1, committed); /* twice does no harm */
    }
    delete_lanes(lanes, 2);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"frames come whole and in order", frames_come_whole_and_in_order},
        {"lanes do not mix", lanes_do_not_mix},
        {"a full lane refuses and loses nothing", a_full_lane_refuses_and_loses_nothing},
        {"a frame over several slots arrives in one piece",
         a_frame_over_several_slots_arrives_in_one_piece},
        {"two processes pass many frames", two_processes_pass_many_frames},
        {"a producer killed at any store leaves a frame or none",
         a_producer_killed_at_any_store_leaves_a_frame_or_none},
        {"a consumer that dies reads again", a_consumer_that_dies_reads_again},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
