/* forward sends on the UDP datagrams to a port, bridge every frame, both ways. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "tools/frames.h"
#include "tools/move.h"

int forward_prepare(struct tool *tool, char *error)
{
    tool->workers[0].state = calloc(1, sizeof(struct move_scratch));
    if (!tool->workers[0].state) {
        snprintf(error, SS_ERROR_MAX, "%s: out of memory", tool->sets[0].name);
        return -ENOMEM;
    }
    return 0;
}

static bool is_wanted(const struct tool *tool, const struct port *from, uint32_t at)
{
    uint32_t header = tool_header(from);
    uint32_t len = min_u32(from->rx->slot[at].len, from->rx->nr_buf_size);

    return tool->options.kind == SS_TOOL_BRIDGE || tool->options.udp_port == 0 ||
           (len > header &&
            frame_is_udp(nm_ring_buf(from->rx, at) + header, len - header, tool->options.udp_port));
}

static void count_move(struct tool_worker *worker, enum move_answer answer)
{
    worker->counts.swapped += answer == MOVE_SWAPPED;
    worker->counts.copied += answer == MOVE_COPIED;
    worker->counts.dropped += answer == MOVE_UNSENDABLE;
    worker->counts.matched += answer == MOVE_SWAPPED || answer == MOVE_COPIED;
    worker->done += answer == MOVE_SWAPPED || answer == MOVE_COPIED;
}

/* Moves what one RX ring holds, as far as the TX ring has room: the rest waits where it is. */
static int forward_ring(struct tool_worker *worker, struct port *from, const struct portset *set,
                        struct port *to)
{
    struct nm_ring *rx = from->rx;
    uint32_t tail = nm_ring_tail(rx);
    struct mover mover;
    int handled = 0;

    mover_init(&mover, from, to, worker->tool->options.copy);
    mover_cut(&mover, worker->state, set->mtu);
    while (rx->head != tail && tool_left(worker) > 0) {
        uint32_t n = move_frame_slots(rx, rx->head);
        uint32_t next = rx->head;

        if (n == 0) {
            break;
        }
        for (uint32_t i = 0; i < n; i++) {
            next = nm_ring_next(rx, next);
        }
        if (is_wanted(worker->tool, from, rx->head)) {
            enum move_answer answer = move_frame(&mover, rx->head, n);

            if (answer == MOVE_NO_ROOM) {
                break;
            }
            count_move(worker, answer);
        } else {
            worker->counts.dropped++;
        }
        nm_ring_give(rx, next);
        handled++;
    }
    return handled;
}

static int sync_tx(struct tool_worker *worker, struct portset *to)
{
    int code = 0;

    for (uint32_t r = 0; r < to->n && code == 0; r++) {
        code = tool_tx_sync(worker, to->ports[r]);
    }
    return code;
}

static int forward_set(struct tool_worker *worker, struct portset *from, struct portset *to)
{
    int handled = 0;
    int code = 0;

    for (uint32_t r = 0; r < from->n && code == 0; r++) {
        code = tool_rx_sync(worker, from->ports[r]);
        if (code == 0) {
            handled += forward_ring(worker, from->ports[r], to, to->ports[r % to->n]);
        }
    }
    if (code == 0) {
        code = sync_tx(worker, to);
    }
    return code ? code : handled;
}

/* The TX rings are empty again: what was moved has gone. */
static bool all_sent(const struct tool *tool)
{
    for (uint32_t s = 0; s < tool->sets_n; s++) {
        for (uint32_t r = 0; r < tool->sets[s].n; r++) {
            const struct nm_ring *tx = tool->sets[s].ports[r]->tx;

            if (nm_ring_space(tx) != tx->num_slots - 1) {
                return false;
            }
        }
    }
    return true;
}

static int result_of(const struct tool_worker *worker, int handled)
{
    bool over = handled >= 0 && worker->done >= worker->quota && all_sent(worker->tool);

    return over ? TOOL_DONE : handled;
}

int forward_turn(struct tool_worker *worker)
{
    struct tool *tool = worker->tool;

    return result_of(worker, forward_set(worker, &tool->sets[0], &tool->sets[tool->sets_n - 1]));
}

int bridge_turn(struct tool_worker *worker)
{
    struct portset *a = &worker->tool->sets[0];
    struct portset *b = &worker->tool->sets[worker->tool->sets_n - 1];
    int there = forward_set(worker, a, b);
    int back = there < 0 || a == b ? there : forward_set(worker, b, a);

    return result_of(worker, back < 0 ? back : there + back);
}
