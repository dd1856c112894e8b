/* Sleep and its end, and links that come and go. */
#include <unistd.h>

#include "conformance.h"

enum {
    ROUNDS = 20,
    FEW = 10,
    SLEEPS = 5,
    SETTLE_MS = 100, /* longer than any backend offers a frame that is refused */
};

/* Asleep first, then the frame: it must ring. */
static void wake_by_frame(struct rig *rig, uint32_t number)
{
    CHECK_EQ(rig->port->ops->sleep_arm(rig->port), 0);
    rig_inject_burst(rig, number, 1);
    CHECK(rig_woken(rig, COME_MS));
    rig->port->ops->sleep_disarm(rig->port);
    rig_expect_in(rig, number, 1);
}

void case_wake(struct rig *rig)
{
    uint32_t number = 0;

    if (!rig_open(rig, 0)) {
        return;
    }
    for (uint32_t round = 0; round < ROUNDS && check_failures() == 0; round++) {
        rig_rx_sync(rig);
        wake_by_frame(rig, number++);
        rig_rx_sync(rig);
        rig_inject_burst(rig, number, 1); /* the frame first, then the sleep: it must not last */
        CHECK(rig_sleep(rig, COME_MS));
        rig_expect_in(rig, number++, 1);
    }
    rig_rx_sync(rig);
    CHECK(!rig_sleep(rig, QUIET_MS)); /* what has been read wakes nobody again */
    rig_close(rig);
}

static void pass_few(struct rig *rig, uint32_t number)
{
    rig_inject_burst(rig, number, FEW);
    rig_expect_in(rig, number, FEW);
    for (uint32_t i = number; i < number + FEW; i++) {
        rig_send(rig, i, frame_len_of(i));
    }
    rig_expect_out(rig, number, FEW);
    CHECK(rig_drained(rig));
    rig_rx_sync(rig);
}

static uint32_t wakeups(struct rig *rig)
{
    uint32_t n = 0;

    for (int i = 0; i < SLEEPS; i++) {
        n += rig_sleep(rig, QUIET_MS / 2);
        rig_rx_sync(rig);
        rig_tx_sync(rig);
    }
    return n;
}

void case_idle(struct rig *rig)
{
    if (!rig_open(rig, 0)) {
        return;
    }
    CHECK_EQ(wakeups(rig), 0);
    pass_few(rig, 0);
    CHECK_EQ(wakeups(rig), 0);
    pass_few(rig, FEW);
    CHECK_EQ(wakeups(rig), 0);
    rig_close(rig);
}

/* All that was sent has arrived or is counted as dropped, and the rest is in order. */
static void account_for(struct rig *rig, uint32_t first, uint32_t end_number)
{
    const struct port_counters *counters = rig->port->counters;
    uint64_t end = real_now_us() + COME_MS * 1000;
    uint32_t next = first;
    uint32_t got = 0;

    while (first + got + counters->tx_dropped < end_number && CHECK(real_now_us() < end)) {
        rig_tx_sync(rig);
        while (rig->wire->collect(rig, &rig->out)) {
            CHECK(frame_is_out(rig, &rig->out) && frame_number(&rig->out) >= next);
            next = frame_number(&rig->out) + 1;
            got++;
        }
    }
    CHECK_EQ(first + got + counters->tx_dropped, end_number);
}

static void send_into_nothing(struct rig *rig, uint32_t number)
{
    uint64_t end = real_now_us() + SETTLE_MS * 1000;

    for (uint32_t i = number; i < number + FEW; i++) {
        rig_send(rig, i, frame_len_of(i));
    }
    while (real_now_us() < end) {
        rig_tx_sync(rig);
        rig_rx_sync(rig);
        usleep(1000);
    }
}

static void lose_link(struct rig *rig, void (*link)(struct rig *rig, bool up))
{
    if (!rig_open(rig, 0)) {
        return;
    }
    pass_few(rig, 0);
    link(rig, false);
    rig_rx_sync(rig);
    send_into_nothing(rig, FEW);
    wakeups(rig);              /* the news may wake it, */
    CHECK_EQ(wakeups(rig), 0); /* and nothing else does */
    CHECK(nm_ring_empty(rig->port->rx));
    link(rig, true);
    rig_inject_burst(rig, FEW, FEW);
    rig_expect_in(rig, FEW, FEW);
    for (uint32_t i = 2 * FEW; i < 3 * FEW; i++) {
        rig_send(rig, i, frame_len_of(i));
    }
    account_for(rig, FEW, 3 * FEW);
    CHECK(rig->port->counters->tx_dropped <= FEW); /* of those that had no link */
    CHECK(rig_drained(rig));
    rig_close(rig);
}

void case_down(struct rig *rig)
{
    lose_link(rig, rig->wire->link);
    if (rig->wire->carrier && check_failures() == 0 && !check_skipped()) {
        lose_link(rig, rig->wire->carrier);
    }
}

/* The port says so, to who sleeps as well, and says so again. */
static void expect_end(struct rig *rig)
{
    const struct port_ops *ops = rig->port->ops;
    uint64_t end = real_now_us() + COME_MS * 1000;
    int code = 0;

    CHECK(rig_sleep(rig, rig->wire->deaf ? QUIET_MS : COME_MS) || rig->wire->deaf);
    while (code == 0 && real_now_us() < end) {
        code = ops->rx_sync(rig->port, real_now_us());
        if (code == 0) {
            nm_ring_give(rig->port->rx, nm_ring_tail(rig->port->rx)); /* the last frames, if any */
            rig_sleep(rig, QUIET_MS);
        }
    }
    CHECK_EQ(code, rig->wire->gone);
    for (int i = 0; i < 3; i++) {
        code = ops->tx_sync(rig->port, real_now_us());
        CHECK(code == 0 || code == rig->wire->gone);
        CHECK_EQ(ops->rx_sync(rig->port, real_now_us()), rig->wire->gone);
    }
}

/* A port that outlives its other end: what it sends is counted as dropped. */
static void expect_drops(struct rig *rig)
{
    send_into_nothing(rig, 0);
    CHECK_EQ(rig->port->counters->tx_dropped, FEW);
    CHECK(nm_ring_empty(rig->port->rx));
    CHECK(rig_drained(rig));
    CHECK_EQ(wakeups(rig), 0);
}

void case_deleted(struct rig *rig)
{
    static struct frame frame;

    if (!rig_open(rig, 0)) {
        return;
    }
    pass_few(rig, 0);
    rig->wire->remove(rig);
    if (rig->wire->told) {
        CHECK(rig->wire->told(rig));
        send_into_nothing(rig, 0);
    } else if (rig->wire->gone) {
        frame_out(rig, &frame, 0, FRAME_MIN);
        rig_put(rig, &frame, 0); /* it has nowhere to go, and harms nobody */
        expect_end(rig);
    } else {
        expect_drops(rig);
    }
    rig_close(rig);
}
