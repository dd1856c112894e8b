/* ping sends a datagram and waits for it to come back; pong sends every datagram back. */
#include <string.h>

#include "client/histogram.h"
#include "tools/frames.h"
#include "tools/move.h"

enum {
    GIVE_UP_US = 1000000,
    SECOND_US = 1000000,
};

static int send_ping(struct tool_worker *worker, struct port *port)
{
    uint8_t frame[65536];
    struct tool *tool = worker->tool;
    struct ping_payload payload = {PING_MAGIC, ++worker->next, tool_clock_ns()};
    static const uint8_t no_mac[6];
    const struct ss_tool_options *options = &tool->options;

    frame_build(frame, options,
                memcmp(options->src_mac, no_mac, 6) ? options->src_mac : tool->sets[0].mac,
                memcmp(options->dst_mac, no_mac, 6) ? options->dst_mac : tool->sets[0].peer_mac);
    memcpy(frame + UDP_HEADERS_LEN, &payload, sizeof(payload));
    memset(frame + UDP_HEADERS_LEN - 2, 0, 2); /* RFC 768: no checksum */
    if (move_bytes(port, frame, options->size) != MOVE_COPIED) {
        return 0;
    }
    worker->due_us = worker->now_us + GIVE_UP_US;
    worker->turned = true; /* in flight */
    return tool_tx_sync(worker, port);
}

/* The answer to the last ping: its round trip in nanoseconds; 0: something else. */
static uint64_t round_trip_ns(const struct tool_worker *worker, const struct port *port,
                              uint32_t at)
{
    uint32_t header = tool_header(port);
    uint32_t len = min_u32(port->rx->slot[at].len, port->rx->nr_buf_size);
    const uint8_t *frame = nm_ring_buf(port->rx, at) + header;
    struct ping_payload payload;

    if (len < header + UDP_HEADERS_LEN + sizeof(payload) || !frame_is_udp(frame, len - header, 0)) {
        return 0;
    }
    memcpy(&payload, frame + UDP_HEADERS_LEN, sizeof(payload));
    if (payload.magic != PING_MAGIC || payload.seq != worker->next) {
        return 0;
    }
    return tool_clock_ns() - payload.sent_ns;
}

static int take_answers(struct tool_worker *worker, struct port *port)
{
    struct nm_ring *rx = port->rx;
    int code = tool_rx_sync(worker, port);
    uint32_t tail = nm_ring_tail(rx);
    int handled = 0;

    for (uint32_t at = rx->head; at != tail && code == 0; at = nm_ring_next(rx, at)) {
        uint64_t ns = worker->turned ? round_trip_ns(worker, port, at) : 0;

        handled++;
        if (ns) {
            histogram_record(worker->tool->latency, ns);
            worker->counts.matched++;
            worker->turned = false;
            worker->done++;
            worker->due_us = 0;
        }
    }
    nm_ring_give(rx, tail);
    return code ? code : handled;
}

/* One in flight; the next leaves at once, or when the rate allows it. */
static int next_ping(struct tool_worker *worker)
{
    uint64_t rate = worker->tool->options.rate;
    uint64_t then = rate ? worker->tool->started_us + worker->next * SECOND_US / rate : 0;

    if (worker->turned && worker->now_us >= worker->due_us) {
        worker->counts.lost++;
        worker->done++;
        worker->turned = false;
    }
    if (worker->turned) {
        worker->wait_us = worker->due_us - worker->now_us;
        return 0;
    }
    if (worker->done >= worker->quota) {
        return TOOL_DONE;
    }
    if (worker->now_us < then) {
        worker->wait_us = then - worker->now_us;
        return 0;
    }
    return send_ping(worker, worker->tool->sets[0].ports[0]);
}

int ping_turn(struct tool_worker *worker)
{
    struct portset *set = &worker->tool->sets[0];
    int handled = 0;
    int code = 0;

    for (uint32_t r = 0; r < set->n; r++) {
        code = take_answers(worker, set->ports[r]);
        if (code < 0) {
            return code;
        }
        handled += code;
    }
    code = next_ping(worker);
    return code ? code : handled;
}

/* The frame at head goes back where it came from. False: the TX ring is full. */
static bool turn_back(struct tool_worker *worker, const struct mover *mover)
{
    struct nm_ring *rx = mover->from->rx;
    uint32_t header = tool_header(mover->from);
    uint32_t len = min_u32(rx->slot[rx->head].len, rx->nr_buf_size);
    uint8_t *frame = nm_ring_buf(rx, rx->head) + header;
    enum move_answer answer;

    if (len <= header || !frame_is_udp(frame, len - header, 0) ||
        (rx->slot[rx->head].flags & NM_MOREFRAG)) {
        worker->counts.dropped++;
        return true;
    }
    if (nm_ring_space(mover->to->tx) == 0) {
        return false;
    }
    frame_turn_back(frame);
    answer = move_frame(mover, rx->head, 1);
    worker->counts.swapped += answer == MOVE_SWAPPED;
    worker->counts.copied += answer == MOVE_COPIED;
    worker->counts.matched++;
    worker->done++;
    return true;
}

int pong_turn(struct tool_worker *worker)
{
    struct tool *tool = worker->tool;
    int handled = 0;

    for (uint32_t r = worker->index; r < tool->sets[0].n; r += tool->workers_n) {
        struct port *port = tool->sets[0].ports[r];
        struct mover mover;
        int code = tool_rx_sync(worker, port);
        uint32_t tail = nm_ring_tail(port->rx);

        mover_init(&mover, port, port, tool->options.copy);
        while (code == 0 && port->rx->head != tail && turn_back(worker, &mover)) {
            nm_ring_give(port->rx, nm_ring_next(port->rx, port->rx->head));
            handled++;
        }
        code = code ? code : tool_tx_sync(worker, port);
        if (code != 0) {
            return code;
        }
    }
    return worker->done >= worker->quota ? TOOL_DONE : handled;
}
