/* What head, cur and tail promise, around and around, with frames held back, in rings of any size.
 */
#include <string.h>
#include <unistd.h>

#include "conformance.h"

enum {
    LAPS = 5,
    HELD = 20,
    EXTRA = 16, /* frames that come while the ring is full */
};

/* What of a ring must not change while the slots are ours. */
struct snapshot {
    uint32_t head;
    uint32_t cur;
    uint32_t tail;
    struct nm_slot slot[256];
};

static void save(struct snapshot *shot, const struct nm_ring *ring)
{
    shot->head = ring->head;
    shot->cur = ring->cur;
    shot->tail = nm_ring_tail(ring);
    memcpy(shot->slot, ring->slot, ring->num_slots * sizeof(ring->slot[0]));
}

/* Slots from head to the tail of then are as they were, and nobody but us moves head and cur. */
static void check_same(const struct snapshot *shot, const struct nm_ring *ring)
{
    CHECK_EQ(ring->head, shot->head);
    CHECK_EQ(ring->cur, shot->cur);
    for (uint32_t i = shot->head; i != shot->tail; i = nm_ring_next(ring, i)) {
        CHECK_EQ(ring->slot[i].buf_idx, shot->slot[i].buf_idx);
        CHECK_EQ(ring->slot[i].len, shot->slot[i].len);
        CHECK_EQ(ring->slot[i].flags & NM_MOREFRAG, shot->slot[i].flags & NM_MOREFRAG);
    }
}

/* The frames in the slots from `at` on; the slot behind. */
static uint32_t check_frames(struct rig *rig, uint32_t at, uint32_t first, uint32_t n)
{
    for (uint32_t i = first; i < first + n && check_failures() == 0; i++) {
        at = rig_read(rig, at);
        CHECK_EQ(frame_number(&rig->in), i);
        CHECK_EQ(rig->in.len, frame_len_of(i));
        CHECK(frame_is_in(rig, &rig->in));
    }
    return at;
}

static uint64_t bytes_of(uint32_t first, uint32_t n)
{
    uint64_t bytes = 0;

    for (uint32_t i = first; i < first + n; i++) {
        bytes += frame_len_of(i);
    }
    return bytes;
}

static void receive_by_the_contract(struct rig *rig)
{
    struct nm_ring *ring = rig->port->rx;
    static struct snapshot shot;
    uint32_t at;

    CHECK(nm_ring_empty(ring));
    CHECK_EQ(ring->cur, ring->head);
    rig_rx_sync(rig);
    CHECK(nm_ring_empty(ring)); /* nothing came, nothing is there */
    save(&shot, ring);
    rig_inject_burst(rig, 0, 5);
    CHECK(rig_sleep(rig, COME_MS));
    CHECK(rig->wire->poll_syncs || nm_ring_tail(ring) == shot.tail); /* only a sync brings them */
    rig_await_slots(rig, 5);
    CHECK_EQ(nm_ring_distance(ring, ring->head, nm_ring_tail(ring)), 5);
    check_same(&shot, ring);
    save(&shot, ring);
    rig_rx_sync(rig);
    check_same(&shot, ring);
    at = check_frames(rig, ring->head, 0, 2);
    nm_ring_give(ring, at);
    save(&shot, ring);
    rig_rx_sync(rig);
    check_same(&shot, ring);
    at = check_frames(rig, ring->head, 2, 3);
    CHECK_EQ(at, nm_ring_tail(ring));
    nm_ring_give(ring, at);
    rig_rx_sync(rig);
    CHECK(nm_ring_empty(ring));
    CHECK_EQ(rig->port->counters->rx_frames, 5);
    CHECK_EQ(rig->port->counters->rx_bytes, bytes_of(0, 5));
    CHECK_EQ(rig->port->counters->rx_missed, 0);
}

static void send_by_the_contract(struct rig *rig)
{
    struct nm_ring *ring = rig->port->tx;
    static struct frame frame;
    uint32_t head;

    CHECK_EQ(nm_ring_space(ring), rig->slots - 1);
    for (uint32_t i = 0; i < 3; i++) {
        frame_out(rig, &frame, i, frame_len_of(i));
        CHECK(rig_put(rig, &frame, 0));
    }
    head = ring->head;
    CHECK_EQ(nm_ring_space(ring), rig->slots - 4);
    CHECK(rig_silent(rig)); /* nothing leaves before a sync */
    rig_tx_sync(rig);
    CHECK_EQ(ring->head, head);
    CHECK_EQ(ring->cur, head);
    rig_expect_out(rig, 0, 3);
    CHECK(rig_drained(rig));
    CHECK(rig_silent(rig)); /* and each once */
    CHECK_EQ(rig->port->counters->tx_frames, 3);
    CHECK_EQ(rig->port->counters->tx_bytes, bytes_of(0, 3));
    CHECK_EQ(rig->port->counters->tx_dropped, 0);
}

void case_contract(struct rig *rig)
{
    if (rig_open(rig, 0)) {
        receive_by_the_contract(rig);
        send_by_the_contract(rig);
        rig_close(rig);
    }
}

/* Frames both ways, in bursts of changing length, over the end of both rings so many times. */
static void go_around(struct rig *rig, uint32_t laps)
{
    uint32_t total = laps * rig->slots;
    uint32_t number = 0;

    for (uint32_t round = 0; number < total && check_failures() == 0; round++) {
        uint32_t n = 1 + round * 7 % BURST;

        rig_inject_burst(rig, number, n);
        rig_expect_in(rig, number, n);
        for (uint32_t i = 0; i < n; i++) {
            rig_send(rig, number + i, frame_len_of(number + i));
        }
        rig_expect_out(rig, number, n);
        number += n;
    }
    CHECK_EQ(rig->port->counters->rx_frames, number);
    CHECK_EQ(rig->port->counters->tx_frames, number);
    CHECK(rig_drained(rig));
}

void case_wrap(struct rig *rig)
{
    if (rig_open(rig, 0)) {
        go_around(rig, LAPS);
        rig_close(rig);
    }
}

void case_sizes(struct rig *rig)
{
    static const uint32_t sizes[] = {129, 150, 199};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        if (!rig_open(rig, sizes[i])) {
            return;
        }
        go_around(rig, 3);
        rig_close(rig);
    }
}

/* As many as came, and the numbers never fall: all that was lost has been counted. */
static uint32_t receive_what_is_left(struct rig *rig, uint32_t first, uint32_t injected)
{
    const struct port_counters *counters = rig->port->counters;
    struct nm_ring *ring = rig->port->rx;
    uint64_t end = real_now_us() + COME_MS * 1000;
    uint64_t lost = 0;
    uint32_t next = first;
    uint32_t received = 0;

    while (received + counters->rx_missed + lost < injected && real_now_us() < end) {
        rig_rx_sync(rig);
        lost = rig->wire->lost ? rig->wire->lost(rig) : 0;
        while (!nm_ring_empty(ring) && check_failures() == 0) {
            nm_ring_give(ring, rig_read(rig, ring->head));
            CHECK(frame_number(&rig->in) >= next && frame_is_in(rig, &rig->in));
            next = frame_number(&rig->in) + 1;
            received++;
        }
    }
    CHECK_EQ(received + counters->rx_missed + lost, injected);
    return received;
}

/* Frames until the ring takes no more; how many were injected. */
static uint32_t fill_up(struct rig *rig)
{
    const struct nm_ring *ring = rig->port->rx;
    uint32_t most = rig->slots - 1 - rig->wire->slack;
    uint32_t n = 0;

    while (n < rig->slots - 1) {
        uint32_t burst = min_u32(BURST, rig->slots - 1 - n);

        rig_inject_burst(rig, n, burst);
        n += burst;
        rig_await_slots(rig, min_u32(n, most));
    }
    CHECK(nm_ring_distance(ring, ring->head, nm_ring_tail(ring)) >= most);
    return n;
}

/* The ring is full of frames that we hold, looked at or not; more come. */
static void hold_a_full_ring(struct rig *rig, bool looked_at)
{
    struct nm_ring *ring = rig->port->rx;
    static struct snapshot shot;
    static struct frame frame;
    uint32_t n = fill_up(rig);
    uint32_t held = nm_ring_distance(ring, ring->head, nm_ring_tail(ring));

    ring->cur = looked_at ? nm_ring_tail(ring) : ring->head;
    save(&shot, ring);
    for (uint32_t i = 0; i < EXTRA; i++) {
        frame_in(rig, &frame, n, frame_len_of(n));
        n += rig->wire->inject(rig, &frame);
    }
    usleep(QUIET_MS * 1000);
    rig_rx_sync(rig);
    CHECK_EQ(nm_ring_tail(ring), shot.tail);
    check_same(&shot, ring);
    nm_ring_give(ring, check_frames(rig, ring->head, 0, rig->slots / 2));
    rig_rx_sync(rig);
    check_frames(rig, ring->head, rig->slots / 2, held - rig->slots / 2);
    receive_what_is_left(rig, rig->slots / 2, n - rig->slots / 2);
}

void case_partial(struct rig *rig)
{
    struct nm_ring *ring;

    if (!rig_open(rig, 0)) {
        return;
    }
    ring = rig->port->rx;
    rig_inject_burst(rig, 0, HELD);
    rig_await_slots(rig, HELD);
    nm_ring_give(ring, check_frames(rig, ring->head, 0, 7));
    rig_inject_burst(rig, HELD, HELD);
    rig_await_slots(rig, 2 * HELD - 7);
    check_frames(rig, ring->head, 7, 2 * HELD - 7);
    for (uint32_t i = 7; i < 2 * HELD && check_failures() == 0; i++) {
        nm_ring_give(ring, check_frames(rig, ring->head, i, 1));
        rig_rx_sync(rig);
    }
    CHECK(nm_ring_empty(ring));
    rig_close(rig);
    if (check_failures() == 0 && rig_open(rig, 0)) {
        hold_a_full_ring(rig, false);
        rig_close(rig);
    }
}

/* cur says what we have looked at, head what may go: between them frames stay as they are. */
void case_cur(struct rig *rig)
{
    struct nm_ring *ring;
    uint32_t n = 0;

    if (!rig_open(rig, 0)) {
        return;
    }
    ring = rig->port->rx;
    while (n < 3 * HELD) {
        rig_inject_burst(rig, n, HELD);
        n += HELD;
        rig_await_slots(rig, n);
        CHECK_EQ(nm_ring_space(ring), HELD);
        CHECK(rig_sleep(rig, COME_MS)); /* frames that nobody has looked at keep us awake */
        ring->cur = nm_ring_tail(ring);
        CHECK(!rig_sleep(rig, QUIET_MS)); /* those that we hold do not */
        rig_rx_sync(rig);
        CHECK_EQ(nm_ring_distance(ring, ring->head, ring->cur), n);
    }
    check_frames(rig, ring->head, 0, n);
    for (uint32_t i = 0; i < n && check_failures() == 0; i += 6) {
        ring->head = check_frames(rig, ring->head, i, 6);
        rig_rx_sync(rig);
        check_frames(rig, ring->head, i + 6, n - i - 6);
    }
    rig_inject_burst(rig, n, 1);
    CHECK(rig_sleep(rig, COME_MS));
    rig_expect_in(rig, n, 1);
    rig_close(rig);
    if (check_failures() == 0 && rig_open(rig, 0)) {
        hold_a_full_ring(rig, true);
        rig_close(rig);
    }
}

/* The buffer of a received frame goes out as it is, the TX slot's takes its place. */
static bool exchange(struct rig *rig)
{
    struct nm_ring *rx = rig->port->rx;
    struct nm_ring *tx = rig->port->tx;
    struct nm_slot *from = &rx->slot[rx->head];
    struct nm_slot *to = &tx->slot[tx->head];
    uint32_t buf = to->buf_idx;
    uint8_t *frame = nm_ring_buf(rx, rx->head) + rig->header;

    if (nm_ring_empty(rx) || nm_ring_space(tx) == 0) {
        return false;
    }
    memset(nm_ring_buf(rx, rx->head), 0, rig->header);
    memcpy(frame, rig->theirs, 6);
    memcpy(frame + 6, rig->ours, 6);
    to->buf_idx = from->buf_idx;
    to->len = from->len;
    to->flags = NM_BUF_CHANGED;
    from->buf_idx = buf;
    from->flags = NM_BUF_CHANGED;
    nm_ring_give(rx, nm_ring_next(rx, rx->head));
    nm_ring_give(tx, nm_ring_next(tx, tx->head));
    return true;
}

void case_conserve(struct rig *rig)
{
    uint32_t number = 0;

    if (!rig_open(rig, 0)) {
        return;
    }
    for (uint32_t round = 0; round < 40 && check_failures() == 0; round++) {
        uint32_t n = 1 + round * 5 % BURST;
        uint32_t done = 0;
        uint64_t end = real_now_us() + COME_MS * 1000;

        rig_inject_burst(rig, number, n);
        while (done < n && CHECK(real_now_us() < end)) {
            rig_rx_sync(rig);
            while (exchange(rig)) {
                done++;
            }
            rig_tx_sync(rig);
        }
        rig_expect_out(rig, number, n);
        number += n;
        if (round % 8 == 7) {
            CHECK(rig_drained(rig));
            CHECK_EQ(rig->wire->audit(rig), 0);
        }
    }
    CHECK_EQ(rig->port->counters->tx_dropped, 0);
    rig_close(rig);
}
