/* The tools' loops: what they count, move, answer and spread, on pipes and switches. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/csum.h"
#include "check.h"
#include "soft_wire.h"
#include "tools/frames.h"
#include "tools/move.h"

enum {
    PATIENCE_MS = 20000,
};

static struct ss_tool_options options_for(uint32_t kind, const char *a, const char *b)
{
    struct ss_tool_options options = {.kind = kind, .duration_us = 20000000};

    snprintf(options.port[0], sizeof(options.port[0]), "%s", a);
    snprintf(options.port[1], sizeof(options.port[1]), "%s", b ? b : "");
    return options;
}

static struct ss_tool *open_tool(const struct ss_tool_options *options)
{
    struct ss_tool *tool = NULL;
    char error[SS_ERROR_MAX] = "";

    if (!CHECK_EQ(ss_tool_open(&tool, options, error), 0)) {
        printf("    %s\n", error);
        exit(1);
    }
    return tool;
}

static struct ss_tool *start_tool(const struct ss_tool_options *options)
{
    struct ss_tool *tool = open_tool(options);

    CHECK_EQ(ss_tool_start(tool), 0);
    return tool;
}

static void nap(void)
{
    struct timespec pause = {.tv_nsec = 1000000};

    nanosleep(&pause, NULL);
}

/* Waits until the tool has ended by itself; its counters. The tool is closed. */
static struct ss_tool_stats *finish(struct ss_tool *tool)
{
    static struct ss_tool_stats stats;

    for (int ms = 0; ms < PATIENCE_MS; ms++) {
        ss_tool_read(tool, &stats);
        if (!stats.running) {
            break;
        }
        nap();
    }
    CHECK_EQ(stats.running, 0);
    CHECK_EQ(stats.error, 0);
    ss_tool_stop(tool);
    ss_tool_read(tool, &stats);
    ss_tool_close(tool);
    return &stats;
}

static void a_sink_counts_what_a_generator_sends_to_its_port(void)
{
    for (uint32_t busy = 0; busy < 2; busy++) {
        struct ss_tool_options sink =
            options_for(SS_TOOL_SINK, soft_wire_name("mem:t", "{s"), NULL);
        struct ss_tool_options gen = options_for(SS_TOOL_GEN, soft_wire_name("mem:t", "}s"), NULL);
        struct ss_tool *receiver;
        struct ss_tool_stats *stats;

        sink.udp_port = 1003;
        sink.count = 2000;
        sink.busy = busy;
        gen.count = 20000;
        gen.dst_port = (struct ss_tool_range){1000, 10};
        receiver = start_tool(&sink);
        stats = finish(start_tool(&gen));
        CHECK_EQ(stats->tx_frames, 20000);
        CHECK_EQ(stats->tx_dropped, 0);
        CHECK_EQ(stats->tx_bytes, 20000 * 60);
        stats = finish(receiver);
        CHECK_EQ(stats->matched, 2000);
        CHECK(stats->rx_frames <= 20000 && stats->rx_frames >= 2000 * 10 - 9);
        CHECK(stats->rx_batches > 0 && stats->rx_batches < stats->rx_frames);
    }
}

static void a_rate_is_kept(void)
{
    struct ss_tool_options gen = options_for(SS_TOOL_GEN, soft_wire_name("mem:t", "{r"), NULL);
    struct ss_tool_stats *stats;
    uint64_t us;

    gen.rate = 20000;
    gen.count = 4000;
    stats = finish(start_tool(&gen)); /* nobody reads: an open end is not needed for a rate */
    us = stats->ended_us - stats->started_us;
    CHECK_EQ(stats->tx_dropped, 4000);
    CHECK(us > 190000);
}

static void a_duration_ends_a_tool_and_so_does_a_wish(void)
{
    struct ss_tool_options recv = options_for(SS_TOOL_RECV, soft_wire_name("mem:t", "{d"), NULL);
    struct ss_tool_stats *stats;
    struct ss_tool *tool;

    recv.duration_us = 50000;
    stats = finish(start_tool(&recv));
    CHECK(stats->ended_us - stats->started_us >= 50000);
    recv.duration_us = 0;
    tool = start_tool(&recv);
    nap();
    ss_tool_stop(tool);
    stats = finish(tool);
    CHECK_EQ(stats->rx_frames, 0);
}

/* What a port has got: numbers in the order of arrival. */
static uint32_t drain(struct device *device, uint32_t *numbers, uint32_t max)
{
    uint32_t n = 0;

    for (int ms = 0; ms < PATIENCE_MS / 10 && n < max; ms++) {
        uint32_t number;

        soft_wire_rx(&device->ports[0]);
        while (n < max && (number = soft_wire_take(&device->ports[0])) != UINT32_MAX) {
            numbers[n++] = number;
        }
        device_event(device);
        nap();
    }
    return n;
}

/* Addresses and ports of a flow; `back`: its other direction. */
static void put_flow(struct port *port, uint16_t flow, bool back, uint32_t number)
{
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 9};
    struct ss_tool_range a[2] = {{0x0a000001, 1}, {0x0a000002u + flow / 4, 1}};
    struct ss_tool_range b[2] = {{7, 1}, {1000u + flow, 1}};
    struct ss_tool_options options = {.size = 60,
                                      .src_ip = a[back],
                                      .dst_ip = a[!back],
                                      .src_port = b[!back],
                                      .dst_port = b[back]};
    struct nm_slot *slot = &port->tx->slot[port->tx->head];
    uint8_t *frame = nm_ring_buf(port->tx, port->tx->head);

    frame_build(frame, &options, mac, mac);
    memcpy(frame + 44, &number, sizeof(number));
    slot->len = 60;
    slot->flags = 0;
    nm_ring_give(port->tx, nm_ring_next(port->tx, port->tx->head));
}

static struct device *open_end(const char *rest)
{
    struct device_config config = {.slots = 1024};

    return soft_wire_open(soft_wire_name("mem:t", rest), &config, NULL);
}

/* 300 datagrams in, of which 100 are to the port: these come out, in order, and nothing else. */
static void run_forward(const char *a, const char *b, const char *other_a, const char *other_b)
{
    bool swaps = strcmp(a, b) == 0 || strchr(a, '@');
    struct ss_tool_options forward =
        options_for(SS_TOOL_FORWARD, soft_wire_name("mem:t", a), soft_wire_name("mem:t", b));
    struct ss_tool *tool;
    struct ss_tool_stats *stats;
    struct device *source;
    struct device *target;
    uint32_t numbers[100];
    bool same = strcmp(a, b) == 0;

    forward.udp_port = 7;
    forward.count = 100;
    tool = start_tool(&forward);
    source = open_end(other_a);
    target = same ? source : open_end(other_b);
    for (uint32_t i = 0; i < 300; i++) {
        put_flow(&source->ports[0], (uint16_t)i, i % 3 != 0, i); /* to port 7, or from it */
    }
    soft_wire_tx(&source->ports[0]);
    CHECK_EQ(drain(target, numbers, 100), 100);
    for (uint32_t i = 0; i < 100; i++) {
        CHECK_EQ(numbers[i], 3 * i);
    }
    stats = finish(tool);
    CHECK_EQ(stats->matched, 100);
    CHECK_EQ(stats->swapped, swaps ? 100 : 0);
    CHECK_EQ(stats->copied, swaps ? 0 : 100);
    CHECK(stats->dropped >= 198 && stats->dropped <= 200);
    soft_wire_rx(&target->ports[0]);
    CHECK_EQ(soft_wire_take(&target->ports[0]), UINT32_MAX);
    CHECK_EQ(device_audit(source), 0);
    device_close(source);
    if (!same) {
        CHECK_EQ(device_audit(target), 0);
        device_close(target);
    }
}

static void forward_exchanges_buffers_within_a_region(void)
{
    run_forward("{f", "{f", "}f", "}f");
    run_forward("{f1@reg", "{f2@reg", "}f1@reg", "}f2@reg");
}

static void forward_copies_between_regions(void)
{
    run_forward("{f1", "{f2", "}f1", "}f2");
}

static void bridge_carries_both_ways_whatever_it_is(void)
{
    struct ss_tool_options bridge =
        options_for(SS_TOOL_BRIDGE, soft_wire_name("mem:t", "{b1"), soft_wire_name("mem:t", "{b2"));
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 9};
    struct ss_tool *tool;
    struct device *ends[2];
    uint32_t numbers[50];

    bridge.count = 100;
    tool = start_tool(&bridge);
    ends[0] = open_end("}b1");
    ends[1] = open_end("}b2");
    for (uint32_t i = 0; i < 50; i++) {
        soft_wire_put(&ends[0]->ports[0], mac, mac, i);
        soft_wire_put(&ends[1]->ports[0], mac, mac, 100 + i);
    }
    soft_wire_tx(&ends[0]->ports[0]);
    soft_wire_tx(&ends[1]->ports[0]);
    for (uint32_t way = 0; way < 2; way++) {
        CHECK_EQ(drain(ends[!way], numbers, 50), 50);
        for (uint32_t i = 0; i < 50; i++) {
            CHECK_EQ(numbers[i], way * 100 + i);
        }
    }
    CHECK_EQ(finish(tool)->matched, 100);
    device_close(ends[0]);
    device_close(ends[1]);
}

static void ping_has_all_its_answers_from_pong(void)
{
    struct ss_tool_options pong = options_for(SS_TOOL_PONG, soft_wire_name("mem:t", "{p"), NULL);
    struct ss_tool_options ping = options_for(SS_TOOL_PING, soft_wire_name("mem:t", "}p"), NULL);
    struct ss_tool_stats *stats;
    struct ss_tool *answering;

    ping.count = 200;
    answering = start_tool(&pong);
    stats = finish(start_tool(&ping));
    CHECK_EQ(stats->matched, 200);
    CHECK_EQ(stats->lost, 0);
    CHECK(ss_tool_quantile(stats, 0.0) > 50);
    CHECK(ss_tool_quantile(stats, 1.0) < 5000000000u);
    CHECK(ss_tool_quantile(stats, 0.5) <= ss_tool_quantile(stats, 0.99));
    ss_tool_stop(answering);
    stats = finish(answering);
    CHECK_EQ(stats->swapped, 200);
}

static void an_answer_that_does_not_come_is_counted_as_lost(void)
{
    struct ss_tool_options ping = options_for(SS_TOOL_PING, soft_wire_name("mem:t", "{l"), NULL);
    struct ss_tool_stats *stats;

    ping.count = 1;
    stats = finish(start_tool(&ping));
    CHECK_EQ(stats->matched, 0);
    CHECK_EQ(stats->lost, 1);
}

static struct {
    struct device *source;
    struct device *pipe[4];
    struct ss_tool *tool;
} lb;

static void open_lb(uint32_t slots, uint32_t extra)
{
    struct ss_tool_options options = options_for(SS_TOOL_LB, soft_wire_name("mem:t", "{L"), NULL);

    options.pipes = 4;
    options.extra = extra;
    options.slots = slots;
    lb.tool = start_tool(&options);
    lb.source = open_end("}L");
    for (uint32_t i = 0; i < 4; i++) {
        char rest[8];

        snprintf(rest, sizeof(rest), "_L}%u", i);
        lb.pipe[i] = open_end(rest);
    }
}

static struct ss_tool_stats *close_lb(void)
{
    struct ss_tool_stats *stats;

    ss_tool_stop(lb.tool);
    stats = finish(lb.tool);
    device_close(lb.source);
    for (uint32_t i = 0; i < 4; i++) {
        device_close(lb.pipe[i]);
    }
    return stats;
}

static void lb_keeps_both_directions_of_a_flow_on_one_pipe(void)
{
    uint8_t pipe_of[64];
    uint32_t share[4] = {0};
    uint32_t left = 4 * 64;

    open_lb(1024, 16);
    memset(pipe_of, 0xff, sizeof(pipe_of));
    for (uint32_t i = 0; i < 4 * 64; i++) {
        put_flow(&lb.source->ports[0], (uint16_t)(i % 64), i / 64 & 1, i % 64);
    }
    soft_wire_tx(&lb.source->ports[0]);
    for (int ms = 0; ms < PATIENCE_MS && left > 0; ms++) {
        for (uint8_t i = 0; i < 4; i++) {
            uint32_t flow;

            soft_wire_rx(&lb.pipe[i]->ports[0]);
            while ((flow = soft_wire_take(&lb.pipe[i]->ports[0])) < 64) {
                CHECK(pipe_of[flow] == 0xff || pipe_of[flow] == i);
                pipe_of[flow] = i;
                share[i]++;
                left--;
            }
        }
        nap();
    }
    CHECK_EQ(left, 0);
    for (uint32_t i = 0; i < 4; i++) {
        CHECK(share[i] > 16);
    }
    CHECK_EQ(close_lb()->rx_frames, 256);
}

/* A consumer that does not read costs the buffers for bursts, and then its own frames. */
static void lb_lets_a_slow_consumer_stall_nobody(void)
{
    struct ss_tool_stats *stats;
    uint64_t sum[3] = {0};

    open_lb(16, 40);
    for (uint32_t sent = 0; sent < 4000; sent++) {
        struct port *port = &lb.source->ports[0];

        put_flow(port, (uint16_t)(sent % 64), false, sent);
        soft_wire_tx(port);
        for (int ms = 0; ms < PATIENCE_MS && nm_ring_space(port->tx) == 0; ms++) {
            nap();
            soft_wire_tx(port);
        }
        for (uint32_t i = 1; i < 4; i++) {
            soft_wire_rx(&lb.pipe[i]->ports[0]);
            while (soft_wire_take(&lb.pipe[i]->ports[0]) != UINT32_MAX) {
                sum[0]++;
            }
        }
    }
    nap();
    stats = close_lb();
    for (uint32_t i = 0; i < 4; i++) {
        sum[1] += stats->pipe_frames[i];
        sum[2] += stats->pipe_dropped[i];
    }
    CHECK(stats->pipe_dropped[0] > 500);
    CHECK(stats->pipe_held_max[0] > 20);
    CHECK(stats->pipe_frames[0] <= 15 + 15 + 40);
    CHECK(sum[0] > 2500);
    CHECK(sum[1] + sum[2] + 40 >= stats->rx_frames);
}

static void the_hash_of_a_flow_is_that_of_its_other_direction(void)
{
    struct device_config config = {.slots = 512};
    struct device *device = soft_wire_open(soft_wire_name("mem:t", "{h"), &config, NULL);
    struct nm_ring *tx = device->ports[0].tx;
    uint32_t spread[8] = {0};

    for (uint16_t flow = 0; flow < 200; flow++) {
        uint64_t there;

        put_flow(&device->ports[0], flow, false, 0);
        put_flow(&device->ports[0], flow, true, 0);
        there = frame_symmetric_hash(nm_ring_buf(tx, 2u * flow), 60);
        CHECK(there == frame_symmetric_hash(nm_ring_buf(tx, 2u * flow + 1), 60));
        spread[(there >> 32) * 8 >> 32]++;
    }
    for (uint32_t i = 0; i < 8; i++) {
        CHECK(spread[i] > 8);
    }
    CHECK_EQ(frame_symmetric_hash((const uint8_t *)"short", 5), 0);
    device_close(device);
}

static bool checksums_hold(const uint8_t *frame)
{
    const struct wire_ipv4 *ip = (const void *)(frame + ETH_HDR_LEN);
    uint64_t sum = csum_pseudo(ip->src, ip->dst, PROTO_UDP, 26);

    return csum_fold(csum_ipv4_header(ip)) == 0 &&
           csum_fold(csum_add(frame + ETH_HDR_LEN + IPV4_HDR_LEN, 26, sum)) == 0;
}

/* Every value of every range, in turn, and checksums that are right throughout. */
static void a_generator_walks_its_ranges(void)
{
    struct ss_tool_options gen = options_for(SS_TOOL_GEN, soft_wire_name("mem:t", "{g"), NULL);
    struct ss_tool *tool;
    struct device *device;
    struct nm_ring *rx;
    uint32_t seen_ip = 0;
    uint32_t seen_port = 0;
    uint32_t frames = 0;

    gen.src_ip = (struct ss_tool_range){0x0a0000fe, 4};
    gen.dst_port = (struct ss_tool_range){65530, 6};
    tool = start_tool(&gen);
    device = open_end("}g");
    rx = device->ports[0].rx;
    for (int ms = 0; ms < PATIENCE_MS && frames < 300; ms++) {
        soft_wire_rx(&device->ports[0]);
        for (; frames < 300 && !nm_ring_empty(rx); frames++) {
            const uint8_t *frame = nm_ring_buf(rx, rx->head);

            CHECK(checksums_hold(frame));
            seen_ip |= 1u << ((uint32_t)(frame[28] << 8 | frame[29]) - 0xfe);
            seen_port |= 1u << ((uint32_t)(frame[36] << 8 | frame[37]) - 65530);
            nm_ring_give(rx, nm_ring_next(rx, rx->head));
        }
        nap();
    }
    CHECK_EQ(frames, 300);
    CHECK_EQ(seen_ip, 0xf);
    CHECK_EQ(seen_port, 0x3f);
    ss_tool_stop(tool);
    CHECK(finish(tool)->tx_frames >= 300);
    device_close(device);
}

/* 600 bytes from one buffer into three of 256, and back into one. */
static void a_frame_is_cut_to_the_buffers_of_where_it_goes(void)
{
    struct device_config large = {.slots = 8};
    struct device_config small = {.slots = 8, .buf_size = 256};
    struct device *wide = soft_wire_open(soft_wire_name("mem:t", "{c1"), &large, NULL);
    struct device *narrow = soft_wire_open(soft_wire_name("mem:t", "{c2"), &small, NULL);
    struct port *a = &wide->ports[0];
    struct port *b = &narrow->ports[0];
    static struct move_scratch scratch;
    struct move_pieces pieces;
    struct mover mover;

    for (uint32_t i = 0; i < 600; i++) {
        nm_ring_buf(a->rx, 0)[i] = (uint8_t)(i * 7);
    }
    a->rx->slot[0].len = 600; /* as if it had come */
    a->rx->tail = 1;
    mover_init(&mover, a, b, false);
    CHECK(!mover.swap);
    CHECK_EQ(move_frame(&mover, 0, 1), MOVE_COPIED);
    CHECK_EQ(nm_ring_space(b->tx), 4);
    CHECK_EQ(b->tx->slot[0].len, 256);
    CHECK_EQ(b->tx->slot[0].flags, NM_MOREFRAG);
    CHECK_EQ(b->tx->slot[2].len, 88);
    CHECK_EQ(b->tx->slot[2].flags, 0);
    for (uint32_t i = 0; i < 3; i++) { /* and now they come */
        memcpy(nm_ring_buf(b->rx, i), nm_ring_buf(b->tx, i), 256);
        b->rx->slot[i].len = b->tx->slot[i].len;
        b->rx->slot[i].flags = b->tx->slot[i].flags;
    }
    b->rx->tail = 2;
    CHECK_EQ(move_frame_slots(b->rx, 0), 0); /* its end is not there yet */
    b->rx->tail = 3;
    CHECK_EQ(move_frame_slots(b->rx, 0), 3);
    mover_init(&mover, b, a, false);
    CHECK_EQ(move_frame(&mover, 0, 3), MOVE_COPIED);
    CHECK_EQ(a->tx->slot[0].len, 600);
    CHECK(memcmp(nm_ring_buf(a->tx, 0), nm_ring_buf(a->rx, 0), 600) == 0);
    CHECK(!move_pieces(&mover, 0, 3, &pieces)); /* no memory to put it together in */
    mover_cut(&mover, &scratch, 1500);
    CHECK(move_pieces(&mover, 0, 3, &pieces));
    CHECK_EQ(pieces.n, 1);
    CHECK_EQ(pieces.len, 600);
    CHECK(memcmp(pieces.bytes, nm_ring_buf(a->rx, 0), 600) == 0);
    mover_init(&mover, a, b, false);
    CHECK_EQ(move_frame(&mover, 0, 1), MOVE_COPIED);
    CHECK_EQ(move_frame(&mover, 0, 1), MOVE_NO_ROOM);
    CHECK_EQ(nm_ring_space(b->tx), 1);
    device_close(wide);
    device_close(narrow);
}

static void what_cannot_be_is_refused_in_a_sentence(void)
{
    struct ss_tool_options options = options_for(SS_TOOL_GEN, soft_wire_name("mem:t", "{w"), NULL);
    struct ss_tool *tool = NULL;
    char error[SS_ERROR_MAX] = "";

    options.size = 1515;
    CHECK_EQ(ss_tool_open(&tool, &options, error), -EINVAL);
    CHECK(strstr(error, "a frame of 1515 bytes: give 60 to 1514") != NULL);
    options.size = 0;
    options.threads = 2;
    CHECK_EQ(ss_tool_open(&tool, &options, error), -EINVAL);
    CHECK(strstr(error, "2 threads for 1 rings") != NULL);
    options.threads = 0;
    options.dst_port.first = 65536;
    CHECK_EQ(ss_tool_open(&tool, &options, error), -EINVAL);
    options.dst_port.first = 0;
    options.kind = SS_TOOL_KINDS;
    CHECK_EQ(ss_tool_open(&tool, &options, error), -EINVAL);
    options.kind = SS_TOOL_BRIDGE; /* the second port does not exist: the first is closed again */
    CHECK_EQ(ss_tool_open(&tool, &options, error), -EINVAL);
    options.kind = SS_TOOL_RECV;
    CHECK_EQ(ss_tool_open(&tool, &options, error), 0);
    ss_tool_close(tool);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a sink counts what a generator sends to its port",
         a_sink_counts_what_a_generator_sends_to_its_port},
        {"a rate is kept", a_rate_is_kept},
        {"a duration ends a tool, and so does a wish", a_duration_ends_a_tool_and_so_does_a_wish},
        {"forward exchanges buffers within a region", forward_exchanges_buffers_within_a_region},
        {"forward copies between regions", forward_copies_between_regions},
        {"bridge carries both ways, whatever it is", bridge_carries_both_ways_whatever_it_is},
        {"ping has all its answers from pong", ping_has_all_its_answers_from_pong},
        {"an answer that does not come is counted as lost",
         an_answer_that_does_not_come_is_counted_as_lost},
        {"lb keeps both directions of a flow on one pipe",
         lb_keeps_both_directions_of_a_flow_on_one_pipe},
        {"lb lets a slow consumer stall nobody", lb_lets_a_slow_consumer_stall_nobody},
        {"the hash of a flow is that of its other direction",
         the_hash_of_a_flow_is_that_of_its_other_direction},
        {"a generator walks its ranges", a_generator_walks_its_ranges},
        {"a frame is cut to the buffers of where it goes",
         a_frame_is_cut_to_the_buffers_of_where_it_goes},
        {"what cannot be is refused in a sentence", what_cannot_be_is_refused_in_a_sentence},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
