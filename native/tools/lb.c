/*
 * lb spreads the frames of a port over pipes: both directions of a flow to the same one. A pipe
 * that is full holds nobody up: its frames wait in buffers of our own, and are dropped, counted,
 * when these have run out.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/frames.h"
#include "tools/move.h"

enum {
    NONE = UINT32_MAX,
};

/* Frames in the order they came, linked by index. */
struct waiting {
    uint32_t first;
    uint32_t last;
    uint32_t n;
};

struct lb {
    struct move_scratch scratch;
    uint32_t buf_size;
    uint32_t free; /* first free buffer */
    struct waiting waiting[SS_TOOL_PIPES_MAX];
    uint32_t *next;
    uint32_t *len;
    uint8_t *bufs;
};

static int allocate(struct lb *lb, uint32_t extra, uint32_t buf_size)
{
    lb->buf_size = buf_size;
    lb->next = (uint32_t *)(void *)(lb + 1);
    lb->len = lb->next + extra;
    lb->bufs = (uint8_t *)(lb->len + extra);
    lb->free = extra ? 0 : NONE;
    for (uint32_t i = 0; i < extra; i++) {
        lb->next[i] = i + 1 < extra ? i + 1 : NONE;
    }
    for (uint32_t i = 0; i < SS_TOOL_PIPES_MAX; i++) {
        lb->waiting[i] = (struct waiting){NONE, NONE, 0};
    }
    return 0;
}

int lb_prepare(struct tool *tool, char *error)
{
    uint32_t buf_size = tool->sets[0].ports[0]->rx->nr_buf_size;
    size_t extra = tool->options.extra;
    struct lb *lb = calloc(1, sizeof(*lb) + extra * (2 * sizeof(uint32_t) + buf_size));

    if (!lb) {
        snprintf(error, SS_ERROR_MAX, "%s: out of memory: give a smaller --extra",
                 tool->sets[0].name);
        return -ENOMEM;
    }
    tool->workers[0].state = lb;
    return allocate(lb, (uint32_t)extra, buf_size);
}

/* False: no buffer is left, or the frame does not fit into one. */
static bool keep_bytes(struct tool *tool, struct lb *lb, uint32_t pipe, const uint8_t *bytes,
                       uint32_t len)
{
    struct waiting *waiting = &lb->waiting[pipe];
    uint32_t at = lb->free;

    if (at == NONE || len > lb->buf_size) {
        return false;
    }
    memcpy(lb->bufs + (size_t)at * lb->buf_size, bytes, len);
    lb->len[at] = len;
    lb->free = lb->next[at];
    lb->next[at] = NONE;
    *(waiting->n ? &lb->next[waiting->last] : &waiting->first) = at;
    waiting->last = at;
    waiting->n++;
    if (waiting->n > tool->pipe_held_max[pipe]) {
        tool->pipe_held_max[pipe] = waiting->n;
    }
    return true;
}

/* A frame that found no room waits, in as many pieces as its pipe takes it. */
static void keep(struct tool *tool, const struct mover *mover, uint32_t pipe, uint32_t n)
{
    struct lb *lb = tool->workers[0].state;
    struct move_pieces pieces;

    if (!move_pieces(mover, mover->from->rx->head, n, &pieces)) {
        tool->pipe_dropped[pipe]++;
        return;
    }
    for (uint32_t i = 0; i < pieces.n; i++) {
        uint32_t len;
        const uint8_t *bytes = move_piece(mover, &pieces, i, &len);

        tool->pipe_dropped[pipe] += !keep_bytes(tool, lb, pipe, bytes, len);
    }
}

static void send_waiting(struct tool *tool, struct lb *lb, uint32_t pipe)
{
    struct waiting *waiting = &lb->waiting[pipe];

    while (waiting->n > 0) {
        uint32_t at = waiting->first;

        if (move_bytes(tool->pipes[pipe].ports[0], lb->bufs + (size_t)at * lb->buf_size,
                       lb->len[at]) != MOVE_COPIED) {
            return;
        }
        waiting->first = lb->next[at];
        waiting->n--;
        lb->next[at] = lb->free;
        lb->free = at;
        tool->pipe_frames[pipe]++;
    }
}

static uint32_t pipe_of(const struct tool *tool, const struct port *from)
{
    uint32_t header = tool_header(from);
    uint32_t len = min_u32(from->rx->slot[from->rx->head].len, from->rx->nr_buf_size);
    const uint8_t *frame = nm_ring_buf(from->rx, from->rx->head) + header;
    uint64_t hash = len > header ? frame_symmetric_hash(frame, len - header) : 0;

    return (uint32_t)((hash >> 32) * tool->pipes_n >> 32);
}

/* The frame of `n` slots at head goes to its pipe, or waits, or is dropped. */
static void place(struct tool_worker *worker, struct port *from, uint32_t n)
{
    struct tool *tool = worker->tool;
    struct lb *lb = worker->state;
    uint32_t pipe = pipe_of(tool, from);
    enum move_answer answer = MOVE_NO_ROOM;
    struct mover mover;

    mover_init(&mover, from, tool->pipes[pipe].ports[0], tool->options.copy);
    mover_cut(&mover, &lb->scratch, tool->pipes[pipe].mtu);
    if (lb->waiting[pipe].n == 0) {
        answer = move_frame(&mover, from->rx->head, n);
    }
    worker->counts.swapped += answer == MOVE_SWAPPED;
    worker->counts.copied += answer == MOVE_COPIED;
    worker->counts.dropped += answer == MOVE_UNSENDABLE;
    tool->pipe_frames[pipe] += answer == MOVE_SWAPPED || answer == MOVE_COPIED;
    if (answer == MOVE_NO_ROOM) {
        keep(tool, &mover, pipe, n);
    }
    worker->done++;
}

static int spread(struct tool_worker *worker, struct port *from)
{
    struct nm_ring *rx = from->rx;
    int code = tool_rx_sync(worker, from);
    uint32_t tail = nm_ring_tail(rx);
    int handled = 0;

    while (code == 0 && rx->head != tail && tool_left(worker) > 0) {
        uint32_t n = move_frame_slots(rx, rx->head);
        uint32_t next = rx->head;

        if (n == 0) {
            break;
        }
        for (uint32_t i = 0; i < n; i++) {
            next = nm_ring_next(rx, next);
        }
        place(worker, from, n);
        nm_ring_give(rx, next);
        handled++;
    }
    return code ? code : handled;
}

int lb_turn(struct tool_worker *worker)
{
    struct tool *tool = worker->tool;
    struct lb *lb = worker->state;
    uint32_t waiting = 0;
    int handled = 0;

    for (uint32_t i = 0; i < tool->pipes_n; i++) {
        send_waiting(tool, lb, i);
    }
    for (uint32_t r = 0; r < tool->sets[0].n; r++) {
        int code = spread(worker, tool->sets[0].ports[r]);

        if (code < 0) {
            return code;
        }
        handled += code;
    }
    for (uint32_t i = 0; i < tool->pipes_n; i++) {
        int code = tool_tx_sync(worker, tool->pipes[i].ports[0]);

        if (code != 0) {
            return code;
        }
        waiting += lb->waiting[i].n;
    }
    worker->wait_us = waiting ? 100 : 0;
    return worker->done >= worker->quota && waiting == 0 ? TOOL_DONE : handled;
}
