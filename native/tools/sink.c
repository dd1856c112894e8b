/* sink counts UDP datagrams to a port, recv counts whatever comes; both drop all. */
#include "tools/frames.h"
#include "tools/tool.h"

enum {
    AHEAD = 8, /* frames whose first line is fetched before it is looked at */
};

static uint32_t frames_of(struct nm_ring *ring, uint32_t head, uint32_t tail)
{
    uint32_t frames = 0;

    for (uint32_t at = head; at != tail; at = nm_ring_next(ring, at)) {
        frames += !(ring->slot[at].flags & NM_MOREFRAG);
    }
    return frames;
}

static bool is_match(const struct port *port, uint32_t at, uint32_t udp_port)
{
    uint32_t header = tool_header(port);
    uint32_t len = min_u32(port->rx->slot[at].len, port->rx->nr_buf_size);

    return len > header && frame_is_udp(nm_ring_buf(port->rx, at) + header, len - header, udp_port);
}

static uint32_t matches_of(const struct port *port, uint32_t head, uint32_t tail, uint32_t udp_port)
{
    struct nm_ring *ring = port->rx;
    uint32_t n = nm_ring_distance(ring, head, tail);
    uint32_t ahead = head;
    uint32_t matched = 0;
    bool first = true;

    for (uint32_t i = 0; i < min_u32(n, AHEAD); i++) {
        ahead = nm_ring_next(ring, ahead);
    }
    for (uint32_t at = head; at != tail; at = nm_ring_next(ring, at)) {
        if (n-- > AHEAD) {
            __builtin_prefetch(nm_ring_buf(ring, ahead));
            ahead = nm_ring_next(ring, ahead);
        }
        matched += first && is_match(port, at, udp_port);
        first = !(ring->slot[at].flags & NM_MOREFRAG);
    }
    return matched;
}

/* Takes everything that has come; `look`: counts matches, else frames. */
static int take_all(struct tool_worker *worker, bool look)
{
    struct tool *tool = worker->tool;
    int handled = 0;

    for (uint32_t r = worker->index; r < tool->sets[0].n; r += tool->workers_n) {
        struct port *port = tool->sets[0].ports[r];
        int code = tool_rx_sync(worker, port);
        uint32_t head = port->rx->head;
        uint32_t tail = nm_ring_tail(port->rx);
        uint32_t count;

        if (code != 0) {
            return code;
        }
        if (head == tail) {
            continue;
        }
        count = look ? matches_of(port, head, tail, tool->options.udp_port)
                     : frames_of(port->rx, head, tail);
        worker->counts.matched += look ? count : 0;
        worker->done += count;
        handled += (int)nm_ring_distance(port->rx, head, tail);
        nm_ring_give(port->rx, tail);
    }
    return worker->done >= worker->quota ? TOOL_DONE : handled;
}

int sink_turn(struct tool_worker *worker)
{
    return take_all(worker, true);
}

int recv_turn(struct tool_worker *worker)
{
    return take_all(worker, false);
}
