/*
 * The bad wire (ports/faulty.c): fates by seed and frame number, rates, conserved buffers, refused
 * specifications. Whole clusters on it are in test_faulty_tcp.c.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "check.h"
#include "ports/mem.h"

enum {
    FRAME = 192,
    NUMBER_AT = 64,  /* behind whatever a NIC looks at */
    COPIES = 15,     /* of the number: the majority is right whatever bit was flipped */
    FRAMES = 200000, /* for rates */
    FEW = 5000,      /* for what is exact */
    INTACT = -1,     /* no bit was flipped */
};

static const char bad_wire[] = "drop=5%,reorder=5%,dup=2%,corrupt=0.1%";

enum way {
    TO_SERVER, /* the wrapper's TX */
    TO_CLIENT, /* the wrapper's RX */
};

/* A client's port with faults, on a NIC of one ring. */
struct wire {
    struct device *device;
    struct mem_attachment *link;
    struct port port;
    uint64_t now_us;
};

struct arrival {
    uint64_t at_us;
    uint32_t number;
    int32_t flipped; /* bit, or INTACT */
};

/* How to send a row of frames. */
struct row {
    enum way way;
    uint32_t frames;
    uint32_t burst; /* frames to a sync */
    uint32_t gap_us;
    bool cross; /* others go the other way meanwhile */
};

struct arrivals {
    uint32_t n;
    struct arrival list[2 * FRAMES];
};

static struct arrivals seen;
static struct arrivals again;

static void wire_open(struct wire *wire, const char *spec, uint64_t seed)
{
    struct device_config config = {.rings = 1, .links = 1, .slots = 256};
    char error[PORT_ERROR_MAX] = "";
    char name[64];

    *wire = (struct wire){.now_us = 1000};
    snprintf(name, sizeof(name), "mem:faulty-%d", getpid());
    CHECK_EQ(device_open(&wire->device, name, &config, error), 0);
    CHECK_EQ(mem_attach_local(&wire->link, wire->device), 0);
    wire->port = *mem_attachment_port(wire->link);
    if (!CHECK_EQ(faulty_wrap(&wire->port, spec, seed, error), 0)) {
        printf("    %s\n", error);
        exit(1);
    }
}

static void wire_close(struct wire *wire)
{
    CHECK_EQ(device_audit(wire->device), 0);
    faulty_unwrap(&wire->port);
    mem_detach(wire->link);
    CHECK_EQ(device_audit(wire->device), 0);
    device_close(wire->device);
}

static struct port *sender(struct wire *wire, enum way way)
{
    return way == TO_SERVER ? &wire->port : &wire->device->ports[0];
}

static struct port *receiver(struct wire *wire, enum way way)
{
    return way == TO_SERVER ? &wire->device->ports[0] : &wire->port;
}

static void make_frame(const struct wire *wire, enum way way, uint32_t number, uint8_t *frame)
{
    memset(frame, 0, FRAME);
    memcpy(frame, mem_attachment_mac(wire->link, way == TO_SERVER), 6);
    for (uint32_t i = 0; i < COPIES; i++) {
        memcpy(frame + NUMBER_AT + i * sizeof(number), &number, sizeof(number));
    }
}

static bool put(struct wire *wire, enum way way, uint32_t number)
{
    struct nm_ring *ring = sender(wire, way)->tx;

    if (nm_ring_space(ring) == 0) {
        return false;
    }
    make_frame(wire, way, number, nm_ring_buf(ring, ring->head));
    ring->slot[ring->head].len = FRAME;
    ring->slot[ring->head].flags = 0;
    nm_ring_give(ring, nm_ring_next(ring, ring->head));
    return true;
}

static void flush(struct wire *wire, enum way way)
{
    struct port *port = sender(wire, way);

    CHECK_EQ(port->ops->tx_sync(port, wire->now_us), 0);
}

/* The number that most copies say, and which bit differs from the frame that was sent. */
static struct arrival identify(const struct wire *wire, enum way way, const uint8_t *frame)
{
    struct arrival arrival = {.at_us = wire->now_us, .flipped = INTACT};
    uint8_t sent[FRAME];
    uint32_t number[3];
    uint32_t flips = 0;

    memcpy(number, frame + NUMBER_AT, sizeof(number));
    arrival.number = number[0] == number[1] ? number[0] : number[2];
    make_frame(wire, way, arrival.number, sent);
    for (uint32_t bit = 0; bit < 8 * FRAME; bit++) {
        if ((sent[bit / 8] ^ frame[bit / 8]) >> bit % 8 & 1) {
            arrival.flipped = (int32_t)bit;
            flips++;
        }
    }
    CHECK(flips <= 1);
    return arrival;
}

static void collect(struct wire *wire, enum way way, struct arrivals *arrivals)
{
    struct port *port = receiver(wire, way);
    struct nm_ring *ring = port->rx;

    CHECK_EQ(port->ops->rx_sync(port, wire->now_us), 0);
    while (!nm_ring_empty(ring)) {
        CHECK_EQ(ring->slot[ring->head].len, FRAME);
        if (arrivals && CHECK(arrivals->n < 2 * FRAMES)) {
            arrivals->list[arrivals->n++] = identify(wire, way, nm_ring_buf(ring, ring->head));
        }
        nm_ring_give(ring, nm_ring_next(ring, ring->head));
    }
}

static void send_row(struct wire *wire, const struct row *row, struct arrivals *arrivals)
{
    enum way back = row->way == TO_SERVER ? TO_CLIENT : TO_SERVER;

    arrivals->n = 0;
    for (uint32_t i = 0; i < row->frames; i++) {
        CHECK(put(wire, row->way, i));
        if (row->cross && i % 3 == 0) {
            CHECK(put(wire, back, i));
            flush(wire, back);
            collect(wire, back, NULL);
        }
        if ((i + 1) % row->burst == 0 || i + 1 == row->frames) {
            flush(wire, row->way);
            collect(wire, row->way, arrivals);
            wire->now_us += row->gap_us;
        }
    }
    for (uint32_t i = 0; i < 3; i++) { /* whatever is held comes out, and its ring's rest */
        wire->now_us += 1000000;
        flush(wire, row->way);
        collect(wire, row->way, arrivals);
    }
}

/* A row over a new wire. */
static void try_row(const char *spec, uint64_t seed, const struct row *row,
                    struct arrivals *arrivals)
{
    struct wire wire;

    wire_open(&wire, spec, seed);
    send_row(&wire, row, arrivals);
    wire_close(&wire);
}

/* The same frames in the same order, with the same bits, at the same times. */
static bool alike(const struct arrivals *a, const struct arrivals *b)
{
    return a->n == b->n && memcmp(a->list, b->list, a->n * sizeof(a->list[0])) == 0;
}

static void the_same_seed_is_the_same_fate(void)
{
    for (enum way way = TO_SERVER; way <= TO_CLIENT; way++) {
        struct row row = {.way = way, .frames = FEW, .burst = 1, .gap_us = 10};

        try_row(bad_wire, 11, &row, &seen);
        try_row(bad_wire, 11, &row, &again);
        CHECK(alike(&seen, &again));
        try_row(bad_wire, 12, &row, &again);
        CHECK(!alike(&seen, &again));
        row.way = TO_SERVER + TO_CLIENT - way; /* the other direction has fates of its own */
        try_row(bad_wire, 11, &row, &again);
        CHECK(!alike(&seen, &again));
    }
}

/* What became of a frame, without when and where in the order. */
struct fate {
    uint8_t copies;
    int32_t flipped;
};

static void fates_of(const struct arrivals *arrivals, struct fate *fates)
{
    for (uint32_t i = 0; i < FEW; i++) {
        fates[i] = (struct fate){.flipped = INTACT};
    }
    for (uint32_t i = 0; i < arrivals->n; i++) {
        struct fate *fate = &fates[arrivals->list[i].number % FEW];

        fate->copies++;
        fate->flipped =
            arrivals->list[i].flipped > INTACT ? arrivals->list[i].flipped : fate->flipped;
    }
}

/* Neither bursts, nor pauses, nor the other direction's frames change what befalls frame k. */
static void a_fate_depends_on_the_number_alone(void)
{
    static struct fate one[FEW];
    static struct fate other[FEW];

    for (enum way way = TO_SERVER; way <= TO_CLIENT; way++) {
        struct row alone = {.way = way, .frames = FEW, .burst = 1, .gap_us = 10};
        struct row crowd = {.way = way, .frames = FEW, .burst = 37, .gap_us = 700, .cross = true};

        try_row("drop=5%,reorder=5%,dup=4%,corrupt=3%", 5, &alone, &seen);
        try_row("drop=5%,reorder=5%,dup=4%,corrupt=3%", 5, &crowd, &again);
        fates_of(&seen, one);
        fates_of(&again, other);
        for (uint32_t i = 0; i < FEW; i++) {
            CHECK_EQ(one[i].copies, other[i].copies);
            CHECK_EQ(one[i].flipped, other[i].flipped);
        }
    }
}

struct tally {
    uint32_t lost;
    uint32_t doubled;
    uint32_t late; /* frames that a later one overtook */
    uint32_t flipped;
    uint32_t most_overtaken;
};

static uint8_t copies[FRAMES];

static void tally_copies(const struct arrivals *arrivals, struct tally *tally)
{
    memset(copies, 0, sizeof(copies));
    for (uint32_t i = 0; i < arrivals->n; i++) {
        copies[arrivals->list[i].number]++;
        tally->flipped += arrivals->list[i].flipped != INTACT;
    }
    for (uint32_t i = 0; i < FRAMES; i++) {
        CHECK(copies[i] <= 2);
        tally->lost += copies[i] == 0;
        tally->doubled += copies[i] == 2;
    }
}

static void tally_order(const struct arrivals *arrivals, struct tally *tally)
{
    uint32_t highest = 0;

    for (uint32_t i = 0; i < arrivals->n; i++) {
        uint32_t number = arrivals->list[i].number;
        uint32_t behind = highest > number ? highest - number : 0;

        tally->late += behind > 0;
        tally->most_overtaken = behind > tally->most_overtaken ? behind : tally->most_overtaken;
        highest += number > highest ? number - highest : 0;
    }
}

static struct tally tally_of(const char *spec, enum way way)
{
    struct tally tally = {0};
    struct row row = {.way = way, .frames = FRAMES, .burst = 50, .gap_us = 10};

    try_row(spec, 3, &row, &seen);
    tally_copies(&seen, &tally);
    tally_order(&seen, &tally);
    return tally;
}

/* Within five standard deviations of a binomial: one seed in a million would miss it. */
static bool is_rate(uint32_t count, double rate)
{
    double off = count - FRAMES * rate;

    return off * off <= 25 * FRAMES * rate * (1 - rate);
}

static void each_fault_has_its_rate_and_no_other(void)
{
    for (enum way way = TO_SERVER; way <= TO_CLIENT; way++) {
        struct tally drop = tally_of("drop=5%", way);
        struct tally dup = tally_of("dup=2%", way);
        struct tally reorder = tally_of("reorder=5%", way);
        struct tally corrupt = tally_of("corrupt=0.1%", way);

        CHECK(is_rate(drop.lost, 0.05));
        CHECK_EQ(drop.doubled + drop.late + drop.flipped, 0);
        CHECK(is_rate(dup.doubled, 0.02));
        CHECK_EQ(dup.lost + dup.late + dup.flipped, 0);
        CHECK(is_rate(reorder.late, 0.05));
        CHECK(reorder.most_overtaken > 1 && reorder.most_overtaken <= 8);
        CHECK_EQ(reorder.lost + reorder.doubled + reorder.flipped, 0);
        CHECK(is_rate(corrupt.flipped, 0.001));
        CHECK_EQ(corrupt.lost + corrupt.doubled + corrupt.late, 0);
    }
}

/* Lost frames have no other fate; the rates of the rest are of what is left. */
static void faults_together_keep_their_rates(void)
{
    struct tally tally = tally_of("drop=10%,dup=20%,reorder=10%,corrupt=1%", TO_CLIENT);

    CHECK(is_rate(tally.lost, 0.1));
    CHECK(is_rate(tally.doubled, 0.9 * 0.2));
    CHECK(is_rate(tally.flipped, 0.9 * 0.01));
    CHECK(tally.late > FRAMES / 20);
}

static void one_direction_may_be_bad_alone(void)
{
    struct row row = {.way = TO_SERVER, .frames = FEW, .burst = 10, .gap_us = 10};

    try_row("rx.drop=50%", 1, &row, &seen);
    CHECK_EQ(seen.n, FEW);
    try_row("tx.drop=50%", 1, &row, &seen);
    CHECK(seen.n > FEW * 4 / 10 && seen.n < FEW * 6 / 10);
    row.way = TO_CLIENT;
    try_row("tx.drop=50%", 1, &row, &seen);
    CHECK_EQ(seen.n, FEW);
    try_row("rx.drop=100%", 1, &row, &seen);
    CHECK_EQ(seen.n, 0);
}

static void what_nothing_overtakes_goes_on_soon(void)
{
    struct wire wire;

    wire_open(&wire, "reorder=100%", 1);
    seen.n = 0;
    put(&wire, TO_CLIENT, 7);
    flush(&wire, TO_CLIENT);
    collect(&wire, TO_CLIENT, &seen);
    wire.now_us += 1900;
    collect(&wire, TO_CLIENT, &seen);
    CHECK_EQ(seen.n, 0);
    CHECK_EQ(wire.port.ops->sleep_arm(&wire.port), 1); /* held: nobody may sleep over it */
    wire.port.ops->sleep_disarm(&wire.port);
    wire.now_us += 200;
    collect(&wire, TO_CLIENT, &seen);
    CHECK_EQ(seen.n, 1);
    CHECK_EQ(wire.port.ops->sleep_arm(&wire.port), 0);
    wire.port.ops->sleep_disarm(&wire.port);
    wire_close(&wire);
}

/* More in flight than the wrapper has room for: the rest waits in its rings, in order. */
static void delay_keeps_the_order(void)
{
    for (enum way way = TO_SERVER; way <= TO_CLIENT; way++) {
        struct wire wire;

        wire_open(&wire, "delay=1ms", 1);
        seen.n = 0;
        for (uint32_t i = 0; i < 600; i++) {
            CHECK(put(&wire, way, i));
            flush(&wire, way);
            collect(&wire, way, &seen);
            wire.now_us += 2;
        }
        for (uint32_t i = 0; i < 2000; i++) {
            flush(&wire, way);
            collect(&wire, way, &seen);
            wire.now_us += 2;
        }
        CHECK_EQ(seen.n, 600);
        for (uint32_t i = 0; i < seen.n; i++) {
            CHECK_EQ(seen.list[i].number, i);
            CHECK(seen.list[i].at_us >= 1000 + 2 * i + 1000);
        }
        CHECK(seen.list[0].at_us < 1000 + 1000 + 2 * 2);
        wire_close(&wire);
    }
}

static void delay_leaves_the_other_faults(void)
{
    struct tally tally = {0};
    struct row row = {.way = TO_SERVER, .frames = FRAMES, .burst = 10, .gap_us = 100};

    try_row("drop=5%,dup=10%,corrupt=1%,delay=100us", 3, &row, &seen);
    tally_copies(&seen, &tally);
    CHECK(is_rate(tally.lost, 0.05));
    CHECK(is_rate(tally.doubled, 0.95 * 0.1));
    CHECK(is_rate(tally.flipped, 0.95 * 0.01));
}

static uint32_t random_put(struct wire *wire, enum way way, uint64_t dice)
{
    struct nm_ring *ring = sender(wire, way)->tx;
    uint32_t slots = dice % 16 == 0 ? 2 + dice / 16 % 4 : 1;

    if (nm_ring_space(ring) < slots) {
        return 0;
    }
    for (uint32_t i = 0; i < slots; i++) {
        uint8_t *buf = nm_ring_buf(ring, ring->head);

        make_frame(wire, way, i, buf);
        ring->slot[ring->head].len = (uint16_t)(dice >> 20) % FRAME;
        ring->slot[ring->head].flags = i + 1 < slots ? NM_MOREFRAG : 0;
        nm_ring_give(ring, nm_ring_next(ring, ring->head));
    }
    return slots;
}

static void buffers_are_conserved_on_any_wire(void)
{
    uint64_t random = 17;
    uint64_t sent = 0;
    struct wire wire;

    wire_open(&wire, "drop=10%,reorder=20%,dup=20%,corrupt=10%", 9);
    for (uint32_t step = 0; step < 300000; step++) {
        uint64_t dice = splitmix64(&random);
        enum way way = dice & 1 ? TO_SERVER : TO_CLIENT;
        struct port *port = receiver(&wire, way);

        wire.now_us += 10;
        switch (dice >> 1 & 3) {
        case 0:
            sent += random_put(&wire, way, dice >> 3);
            break;
        case 1:
            flush(&wire, way);
            break;
        case 2:
            CHECK_EQ(port->ops->rx_sync(port, wire.now_us), 0);
            break;
        default:
            if (!nm_ring_empty(port->rx)) {
                nm_ring_give(port->rx, nm_ring_next(port->rx, port->rx->head));
            }
        }
        if (step % 50000 == 0) {
            CHECK_EQ(device_audit(wire.device), 0);
        }
    }
    CHECK(sent > 10000);
    wire_close(&wire);
}

/* Bytes, lengths and flags of one frame of `slots` slots, sent and compared. */
static void pass_unchanged(struct wire *wire, enum way way, uint32_t len, uint32_t slots)
{
    struct nm_ring *tx = sender(wire, way)->tx;
    struct nm_ring *rx = receiver(wire, way)->rx;
    uint8_t sent[2048];

    memset(sent, (int)len, sizeof(sent));
    memcpy(sent, mem_attachment_mac(wire->link, way == TO_SERVER), 6);
    for (uint32_t i = 0; i < slots; i++) {
        memcpy(nm_ring_buf(tx, tx->head), sent, len);
        tx->slot[tx->head].len = (uint16_t)len;
        tx->slot[tx->head].flags = i + 1 < slots ? NM_MOREFRAG : 0;
        nm_ring_give(tx, nm_ring_next(tx, tx->head));
    }
    flush(wire, way);
    receiver(wire, way)->ops->rx_sync(receiver(wire, way), wire->now_us);
    for (uint32_t i = 0; i < slots && CHECK(!nm_ring_empty(rx)); i++) {
        CHECK_EQ(rx->slot[rx->head].len, len);
        CHECK_EQ(rx->slot[rx->head].flags & NM_MOREFRAG, i + 1 < slots ? NM_MOREFRAG : 0);
        CHECK(memcmp(nm_ring_buf(rx, rx->head), sent, len) == 0);
        nm_ring_give(rx, nm_ring_next(rx, rx->head));
    }
    CHECK(nm_ring_empty(rx));
}

static void a_good_wire_changes_nothing(void)
{
    struct wire wire;

    wire_open(&wire, "drop=0%,dup=0%,reorder=0%,corrupt=0%,delay=0us", 1);
    for (uint32_t len = 14; len <= 2048; len += 113) {
        for (uint32_t slots = 1; slots < 5; slots++) {
            pass_unchanged(&wire, TO_SERVER, len, slots);
            pass_unchanged(&wire, TO_CLIENT, len, slots);
        }
    }
    CHECK_EQ(wire.port.counters->tx_frames, wire.device->ports[0].counters->rx_frames);
    CHECK_EQ(wire.port.counters->rx_frames, wire.device->ports[0].counters->tx_frames);
    wire_close(&wire);
}

static void without_a_specification_nothing_is_wrapped(void)
{
    struct device_config config = {.rings = 2, .links = 1};
    struct device *device;
    char error[PORT_ERROR_MAX] = "";

    CHECK_EQ(device_open(&device, "mem:unwrapped", &config, error), 0);
    CHECK(strcmp(device->ports[1].ops->backend, "mem") == 0);
    device_close(device);
    snprintf(config.faults, sizeof(config.faults), "drop=1%%");
    CHECK_EQ(device_open(&device, "mem:unwrapped", &config, error), 0);
    CHECK(strcmp(device->ports[1].ops->backend, "faulty") == 0);
    device_close(device);
}

static void check_refused(struct port *port, const char *spec, const char *named)
{
    const struct port before = *port;
    char error[PORT_ERROR_MAX] = "";

    if (!CHECK_EQ(faulty_wrap(port, spec, 1, error), -EINVAL) ||
        !CHECK(strstr(error, named) != NULL) || !CHECK(strstr(error, "give ") != NULL)) {
        printf("    \"%s\": %s\n", spec, error);
    }
    CHECK(memcmp(port, &before, sizeof(before)) == 0);
}

static void bad_specifications_are_refused_by_name(void)
{
    static const char *const bad[][2] = {
        {"", "\"\""},
        {"drop=5", "\"drop=5\""},
        {"drop=101%", "\"drop=101%\""},
        {"drop=nan%", "\"drop=nan%\""},
        {"drop=5%,", "\"\""},
        {"loss=5%", "\"loss=5%\""},
        {"dup=1%,rx.tx.drop=1%", "\"rx.tx.drop=1%\""},
        {"delay=5", "\"delay=5\""},
        {"delay=5s", "\"delay=5s\""},
        {"delay=-1ms", "\"delay=-1ms\""},
    };
    char much[256] = "drop=1%";
    struct wire wire;

    wire_open(&wire, "drop=0%", 1);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        check_refused(mem_attachment_port(wire.link), bad[i][0], bad[i][1]);
    }
    while (strlen(much) < 200) {
        strcat(much, ",drop=1%");
    }
    check_refused(mem_attachment_port(wire.link), much, "characters");
    wire_close(&wire);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"the same seed is the same fate", the_same_seed_is_the_same_fate},
        {"a fate depends on the frame's number alone", a_fate_depends_on_the_number_alone},
        {"each fault has its rate, and no other", each_fault_has_its_rate_and_no_other},
        {"faults together keep their rates", faults_together_keep_their_rates},
        {"one direction may be bad alone", one_direction_may_be_bad_alone},
        {"what nothing overtakes goes on soon", what_nothing_overtakes_goes_on_soon},
        {"delay keeps the order", delay_keeps_the_order},
        {"delay leaves the other faults", delay_leaves_the_other_faults},
        {"buffers are conserved on any wire", buffers_are_conserved_on_any_wire},
        {"a good wire changes nothing", a_good_wire_changes_nothing},
        {"without a specification nothing is wrapped", without_a_specification_nothing_is_wrapped},
        {"bad specifications are refused by name", bad_specifications_are_refused_by_name},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
