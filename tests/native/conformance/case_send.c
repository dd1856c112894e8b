/* Sending: full rings, media that stand still, frames of several slots. */
#include <string.h>
#include <unistd.h>

#include "conformance.h"

enum {
    ROUNDS = 3,
    FROZEN_US = 1000000,
    TICK_US = 100,    /* the port's clock goes on with each frame that arrives: nobody gives up */
    SHORT_SPAN = 97,  /* a ring of such frames fits the queues of any socket on the way */
    HOLDS_MAX = 5000, /* more than any medium holds that pushes back */
    STILL = 20,       /* syncs without progress: the medium takes no more */
};

/* Frames from `number` on into all free slots, below `end`; the next number. */
static uint32_t fill_ring(struct rig *rig, uint32_t number, uint32_t end)
{
    static struct frame frame;

    for (; number < end; number++) {
        frame_out(rig, &frame, number, FRAME_MIN + number % SHORT_SPAN);
        if (!rig_put(rig, &frame, 0)) {
            break;
        }
    }
    return number;
}

void case_full(struct rig *rig)
{
    uint32_t number = 0;

    if (!rig_open(rig, 0)) {
        return;
    }
    rig->frozen_us = FROZEN_US;
    for (uint32_t round = 0; round < ROUNDS && check_failures() == 0; round++) {
        uint32_t first = number;

        number = fill_ring(rig, number, UINT32_MAX);
        CHECK_EQ(number - first, rig->slots - 1);
        CHECK_EQ(nm_ring_space(rig->port->tx), 0);
        for (uint32_t i = first; i < number; i++) {
            rig_expect_out(rig, i, 1);
            rig->frozen_us += TICK_US;
        }
        CHECK(rig_drained(rig));
    }
    CHECK_EQ(rig->port->counters->tx_frames, number);
    CHECK_EQ(rig->port->counters->tx_dropped, 0);
    rig_close(rig);
}

/* Frames until the ring stays full, or so many as a medium that never does can be given. */
static uint32_t send_until_held(struct rig *rig)
{
    uint32_t most = rig->wire->holds ? HOLDS_MAX : 4 * rig->slots;
    uint32_t number = 0;
    uint32_t still = 0;

    while (still < STILL && number < most && check_failures() == 0) {
        uint32_t before = number;

        number = fill_ring(rig, number, most);
        rig_tx_sync(rig);
        still = number == before ? still + 1 : 0;
    }
    return number;
}

/* What the medium has in its queues, all of it: they are as long as the port's own. */
static uint32_t collect_queued(struct rig *rig, uint32_t *next)
{
    uint32_t n = 0;

    while (!rig_silent(rig) && check_failures() == 0) {
        CHECK(frame_is_out(rig, &rig->out) && frame_number(&rig->out) >= *next);
        *next = frame_number(&rig->out) + 1;
        rig->frozen_us += TICK_US;
        n++;
    }
    return n;
}

/*
 * Asleep with frames that could not leave: room for them wakes, if there is any sleep at all. Of
 * media that stand still by themselves the other end reads a frame here; how many it read.
 */
static uint32_t let_go(struct rig *rig, uint32_t *next)
{
    bool armed = rig->port->ops->sleep_arm(rig->port) == 0;
    uint32_t got = 0;

    if (rig->wire->stall) {
        rig->wire->stall(rig, false);
    } else if (CHECK(rig->wire->collect(rig, &rig->out))) {
        CHECK(frame_is_out(rig, &rig->out));
        *next = frame_number(&rig->out) + 1;
        got = 1;
    }
    if (armed && rig->wire->holds && !rig->wire->deaf) {
        CHECK(rig_woken(rig, COME_MS));
    }
    rig->port->ops->sleep_disarm(rig->port);
    return got;
}

/* The other end reads again; the port sends on as its worker would, asleep where it may be. */
static uint32_t collect_all(struct rig *rig, uint32_t number)
{
    uint32_t next = 0;
    uint32_t got = let_go(rig, &next);
    const struct port_counters *counters = rig->port->counters;
    uint64_t end = real_now_us() + COME_MS * 1000;
    uint32_t total = number + rig->slots;

    got += collect_queued(rig, &next);
    while (got + counters->tx_dropped < total && CHECK(real_now_us() < end)) {
        rig_tx_sync(rig);
        number = fill_ring(rig, number, total);
        rig_sleep(rig, 1);
        got += collect_queued(rig, &next);
    }
    CHECK_EQ(number, total);
    return got;
}

void case_pressure(struct rig *rig)
{
    uint32_t number;
    uint32_t got;

    if (!rig_open(rig, 0)) {
        return;
    }
    rig->frozen_us = FROZEN_US;
    if (rig->wire->stall) {
        rig->wire->stall(rig, true);
    }
    number = send_until_held(rig);
    if (rig->wire->holds) {
        CHECK_EQ(nm_ring_space(rig->port->tx), 0);
    }
    got = collect_all(rig, number);
    CHECK(got > 0);
    CHECK(rig_drained(rig));
    CHECK_EQ(got, rig->port->counters->tx_frames);
    if (rig->wire->holds) {
        CHECK_EQ(rig->port->counters->tx_dropped, 0);
    }
    rig_close(rig);
}

static void expect_pieces(struct rig *rig, uint32_t number, uint32_t len)
{
    uint32_t size = rig->port->rx->nr_buf_size;

    CHECK_EQ(frame_number(&rig->in), number);
    CHECK_EQ(rig->in.len, len);
    CHECK(rig->in.slots >= (rig->header + len + size - 1) / size);
    CHECK(frame_is_in(rig, &rig->in));
}

static uint32_t long_len(const struct rig *rig, uint32_t number)
{
    uint32_t most = rig_frame_max(rig);

    return number % 5 == 4 ? FRAME_MIN : most - number * 97 % (most / 2);
}

/* Over the end of both rings, a short frame between long ones. */
static void pass_long_frames(struct rig *rig, uint32_t n)
{
    static struct frame frame;
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < n && check_failures() == 0; i++) {
        uint32_t len = long_len(rig, i);

        frame_in(rig, &frame, i, len);
        rig_inject(rig, &frame);
        if (rig_receive(rig)) {
            expect_pieces(rig, i, len);
        }
        rig_send(rig, i, len);
        rig_expect_out(rig, i, 1);
        CHECK_EQ(rig->out.len, len);
        bytes += len;
    }
    CHECK_EQ(rig->port->counters->rx_frames, n);
    CHECK_EQ(rig->port->counters->rx_bytes, bytes);
    CHECK_EQ(rig->port->counters->tx_frames, n);
    CHECK_EQ(rig->port->counters->tx_bytes, bytes);
}

/* The sender cuts as it likes, also where a header ends. */
static void send_odd_pieces(struct rig *rig)
{
    static const uint32_t parts[] = {ETH_HDR_LEN, 15, 34, 100, 777, 2000};
    static struct frame frame;
    uint32_t number = 0;

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        uint32_t part = parts[i];

        for (uint32_t slots = 2; slots <= 16 && slots * part <= 8000; slots += 5) {
            uint32_t len = max_u32(slots * part - part / 2, FRAME_MIN);

            CHECK(rig_drained(rig));
            frame_out(rig, &frame, number, min_u32(len, rig_frame_max(rig)));
            CHECK(rig_put(rig, &frame, part));
            rig_expect_out(rig, number++, 1);
        }
    }
    CHECK_EQ(rig->port->counters->tx_dropped, 0);
}

void case_pieces(struct rig *rig)
{
    if (!rig_open(rig, 0)) {
        return;
    }
    pass_long_frames(rig, 100);
    send_odd_pieces(rig);
    rig_close(rig);
}

/* The slots up to a new head come into being, the rest of the frame later. */
void case_unfinished_frame(struct rig *rig)
{
    static struct frame frame;
    struct nm_ring *ring;
    uint32_t first;
    uint32_t end;

    if (!rig_open(rig, 0)) {
        return;
    }
    ring = rig->port->tx;
    first = ring->head;
    frame_out(rig, &frame, 1, 1000);
    CHECK(rig_put(rig, &frame, 300));
    end = ring->head;
    for (uint32_t at = nm_ring_next(ring, first); at != end; at = nm_ring_next(ring, at)) {
        nm_ring_give(ring, at);
        rig_tx_sync(rig);
        rig_tx_sync(rig);
        CHECK(rig_silent(rig));
    }
    nm_ring_give(ring, end);
    rig_expect_out(rig, 1, 1);
    CHECK_EQ(rig->out.len, 1000);
    CHECK(rig_drained(rig));
    CHECK_EQ(rig->port->counters->tx_frames, 1);
    CHECK_EQ(rig->port->counters->tx_dropped, 0);
    rig_close(rig);
}
