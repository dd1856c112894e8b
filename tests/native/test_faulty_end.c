/*
 * What a bad wire (ports/faulty.c) says of the port that it is around: that its source has ended,
 * that it has stopped, and what it alone has counted.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "packet_wire.h"
#include "ports/swring.h"

enum {
    FRAMES = 600, /* more than the wrapper holds */
    FRAME = 60,
    BURST = 16,
    SLOTS = 64,
    STEP_US = 100,
    SYNCS_MAX = 4000,
    MISSED = 7,
};

/* What is lost on a wire is no fault of these: all frames come out, some later than others. */
static const char *const lossless[] = {"drop=0%", "reorder=100%", "rx.delay=5ms",
                                       "reorder=20%,delay=300us"};

/* A port that reads so many frames from nowhere, and then has ended or stopped. */
struct source {
    struct swring rings;
    struct port port; /* the wrapper, around it */
    struct port_counters counters;
    uint32_t left;
    int code; /* when nothing is left; 0: it has ended */
    uint64_t now_us;
};

static int source_rx_sync(struct port *port, uint64_t now_us)
{
    struct source *source = port->priv;
    struct nm_ring *ring = port->rx;
    uint32_t tail = ring->tail;

    (void)now_us;
    if (source->left == 0 && nm_ring_space(ring) == 0) {
        port->counters->rx_ended = source->code == 0;
        return source->code;
    }
    for (uint32_t i = 0; i < BURST && source->left > 0 && nm_ring_next(ring, tail) != ring->head;
         i++) {
        ring->slot[tail].len = FRAME;
        ring->slot[tail].flags = 0;
        tail = nm_ring_next(ring, tail);
        source->left--;
    }
    ring->tail = tail;
    return 0;
}

static int source_tx_sync(struct port *port, uint64_t now_us)
{
    (void)now_us;
    port->counters->tx_dropped += port->tx->head != nm_ring_next(port->tx, port->tx->tail);
    port->tx->tail = port->tx->head == 0 ? SLOTS - 1 : port->tx->head - 1;
    return 0;
}

/* Wakes by nothing: whoever sleeps before the end was told sleeps for ever. */
static int source_sleep_arm(struct port *port)
{
    const struct source *source = port->priv;

    return nm_ring_space(port->rx) > 0 || source->code != 0 || port->counters->rx_ended == 0;
}

static void source_sleep_disarm(struct port *port)
{
    (void)port;
}

static const struct port_ops source_ops = {
    .backend = "source",
    .rx_sync = source_rx_sync,
    .tx_sync = source_tx_sync,
    .sleep_arm = source_sleep_arm,
    .sleep_disarm = source_sleep_disarm,
};

static void source_open(struct source *source, const char *faults, int code)
{
    char error[PORT_ERROR_MAX] = "";

    *source = (struct source){.left = FRAMES, .code = code, .now_us = 1};
    source->counters.rx_missed = MISSED;
    if (swring_create(&source->rings, SLOTS, 2048, 0) != 0) {
        exit(2);
    }
    source->port = (struct port){.ops = &source_ops,
                                 .rx = source->rings.rx,
                                 .tx = source->rings.tx,
                                 .counters = &source->counters,
                                 .priv = source,
                                 .wait_fd = -1};
    if (!CHECK_EQ(faulty_wrap(&source->port, faults, 5, error), 0)) {
        printf("    %s\n", error);
        exit(1);
    }
}

static void source_close(struct source *source)
{
    faulty_unwrap(&source->port);
    swring_destroy(&source->rings);
}

/* Frames that were looked at until the end was told; `code` is what the port said then. */
static uint32_t read_to_the_end(struct source *source, int *code)
{
    struct port *port = &source->port;
    uint32_t seen = 0;

    *code = 0;
    for (int i = 0; *code == 0 && port->counters->rx_ended == 0 && CHECK(i < SYNCS_MAX); i++) {
        *code = port->ops->rx_sync(port, source->now_us);
        CHECK((*code == 0 && port->counters->rx_ended == 0) || nm_ring_empty(port->rx));
        for (int k = 0; k < i % 20 && !nm_ring_empty(port->rx); k++) { /* some are left for later */
            nm_ring_give(port->rx, nm_ring_next(port->rx, port->rx->head));
            seen++;
        }
        if (*code == 0 && port->counters->rx_ended == 0) {
            CHECK(port->ops->sleep_arm(port) != 0);
            port->ops->sleep_disarm(port);
        }
        source->now_us += STEP_US;
    }
    return seen;
}

static void the_end_of_a_source_comes_behind_its_last_frame(void)
{
    for (size_t i = 0; i < sizeof(lossless) / sizeof(lossless[0]); i++) {
        struct source source;
        int code;

        source_open(&source, lossless[i], 0);
        CHECK_EQ(read_to_the_end(&source, &code), FRAMES);
        CHECK_EQ(code, 0);
        CHECK_EQ(source.port.counters->rx_ended, 1);
        CHECK_EQ(source.port.counters->rx_frames, FRAMES);
        CHECK_EQ(source.port.ops->sleep_arm(&source.port), 0);
        CHECK_EQ(source.port.ops->rx_sync(&source.port, source.now_us), 0);
        source_close(&source);
    }
}

static void a_port_that_stops_says_so_behind_its_last_frame(void)
{
    for (size_t i = 0; i < sizeof(lossless) / sizeof(lossless[0]); i++) {
        struct source source;
        int code;

        source_open(&source, lossless[i], -ENODEV);
        CHECK_EQ(read_to_the_end(&source, &code), FRAMES);
        CHECK_EQ(code, -ENODEV);
        CHECK_EQ(source.port.counters->rx_ended, 0);
        CHECK_EQ(source.port.ops->rx_sync(&source.port, source.now_us), -ENODEV);
        source_close(&source);
    }
}

/* A source that loses every frame has an end as well. */
static void the_end_is_told_where_nothing_arrives(void)
{
    struct source source;
    int code;

    source_open(&source, "drop=100%", 0);
    CHECK_EQ(read_to_the_end(&source, &code), 0);
    CHECK_EQ(source.port.counters->rx_ended, 1);
    source_close(&source);
}

static void what_the_port_alone_knows_is_counted(void)
{
    struct source source;
    struct port *port = &source.port;

    source_open(&source, "drop=0%", 0);
    source.counters.syscalls = 3;
    source.counters.errors = 2;
    CHECK_EQ(port->ops->rx_sync(port, 1), 0);
    CHECK_EQ(port->counters->rx_missed, MISSED);
    CHECK_EQ(port->counters->syscalls, 3);
    CHECK_EQ(port->counters->errors, 2);
    CHECK_EQ(port->counters->tx_dropped, 0);
    port->tx->slot[0].len = FRAME;
    nm_ring_give(port->tx, 1);
    CHECK_EQ(port->ops->tx_sync(port, 1), 0);
    CHECK_EQ(port->counters->tx_dropped, 1);
    CHECK_EQ(port->counters->tx_frames, 1);
    source_close(&source);
}

static void put32(FILE *file, uint32_t value)
{
    fwrite(&value, sizeof(value), 1, file);
}

/* A classic capture; of its last frame it holds a part. */
static void write_capture(const char *path)
{
    static const uint32_t head[] = {0xa1b2c3d4, 2 | 4 << 16, 0, 0, 65535, 1};
    static const uint8_t bytes[FRAME];
    FILE *file = fopen(path, "w");

    fwrite(head, sizeof(head), 1, file);
    for (uint32_t i = 0; i <= FRAMES; i++) {
        put32(file, i);
        put32(file, 0);
        put32(file, FRAME);
        put32(file, i < FRAMES ? FRAME : 2 * FRAME);
        CHECK_EQ(fwrite(bytes, FRAME, 1, file), 1);
    }
    CHECK_EQ(fclose(file), 0);
}

static void a_replayed_capture_ends_behind_a_bad_wire(void)
{
    struct device_config config = {.rings = 1, .slots = 128, .faults = "reorder=20%,delay=2ms"};
    struct packet_wire wire = {.udp = -1};
    uint64_t end = wire_now_us() + (uint64_t)WAIT_MS * 1000;
    char path[] = "/tmp/ssendXXXXXX";
    char spec[PORT_NAME_MAX];
    uint32_t seen = 0;

    if (!wire_has_libpcap()) {
        return;
    }
    close(mkstemp(path));
    write_capture(path);
    snprintf(spec, sizeof(spec), "pcap:%s", path);
    if (wire_open_device(&wire, spec, &config)) {
        struct port *port = &wire.device->ports[0];

        while (port->counters->rx_ended == 0 && CHECK(wire_now_us() < end)) {
            CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), 0);
            seen += nm_ring_distance(port->rx, port->rx->head, nm_ring_tail(port->rx));
            nm_ring_give(port->rx, nm_ring_tail(port->rx));
        }
        CHECK_EQ(seen, FRAMES);
        CHECK_EQ(port->counters->rx_missed, 1);
        device_close(wire.device);
    }
    unlink(path);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"the end of a source comes behind its last frame",
         the_end_of_a_source_comes_behind_its_last_frame},
        {"a port that stops says so behind its last frame",
         a_port_that_stops_says_so_behind_its_last_frame},
        {"the end is told where nothing arrives", the_end_is_told_where_nothing_arrives},
        {"what the port alone knows is counted", what_the_port_alone_knows_is_counted},
        {"a replayed capture ends behind a bad wire", a_replayed_capture_ends_behind_a_bad_wire},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
