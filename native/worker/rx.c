/* From ring slots and lanes to frames; see rx.h. */
#include "worker/rx.h"

#include "stack/lane.h"

/* The virtio header before the frame: whether its checksum is done, and what it was cut from. */
static void take_vnet_hdr(struct frame *frame)
{
    struct vnet_hdr hdr;

    if (frame->contig < PORT_VNET_HDR_LEN) {
        frame->verdict = VERDICT_eth_malformed;
        return;
    }
    memcpy(&hdr, frame->data, sizeof(hdr));
    if (hdr.flags & VNET_F_NEEDS_CSUM) {
        frame->csum = FRAME_CSUM_PARTIAL;
    } else if (hdr.flags & VNET_F_DATA_VALID) {
        frame->csum = FRAME_CSUM_VALID;
    }
    frame->gso_size = hdr.gso_type == VNET_GSO_NONE ? 0 : hdr.gso_size;
    frame->data += PORT_VNET_HDR_LEN;
    frame->len -= PORT_VNET_HDR_LEN;
    frame->contig -= PORT_VNET_HDR_LEN;
}

/* Everything that is looked at before classification has set it. */
static void frame_init(struct frame *frame, uint32_t slot, const uint8_t *data, uint32_t contig)
{
    frame->data = data;
    frame->len = 0;
    frame->contig = contig;
    frame->slot = slot;
    frame->nslots = 0;
    frame->csum = FRAME_CSUM_NONE;
    frame->kind = FRAME_UNKNOWN;
    frame->l3_off = ETH_HDR_LEN;
    frame->l4_off = 0;
    frame->gso_size = 0;
    frame->verdict = VERDICT_NONE;
    frame->broadcast = 0;
    frame->conn = CONN_NONE;
}

/* One frame at `slot`, over as many slots as it takes; false: its end has not come yet. */
static bool frame_at(const struct port *port, uint32_t slot, uint32_t tail, struct frame *frame)
{
    const struct nm_ring *ring = port->rx;
    bool more = ring->slot[slot].flags & NM_MOREFRAG;

    frame_init(frame, slot, nm_ring_buf(ring, slot),
               min_u32(ring->slot[slot].len, ring->nr_buf_size));
    frame->ring = ring;
    frame->len = frame->contig; /* read once: on some ports the other side can write there */
    frame->nslots = 1;
    frame->next = nm_ring_next(ring, slot);
    if (likely(!more)) {
        return true;
    }
    for (uint32_t at = frame->next; more; at = frame->next) {
        const struct nm_slot *piece = &ring->slot[at];

        if (at == tail) {
            return false;
        }
        more = piece->flags & NM_MOREFRAG;
        frame->len += min_u32(piece->len, ring->nr_buf_size);
        frame->nslots++;
        frame->next = nm_ring_next(ring, at);
    }
    return true;
}

/* Of a NIC that is shared with the host: the port has looked at whose the frame is. */
static void take_mark(const struct port *port, struct frame *frame)
{
    uint16_t flags = port->rx->slot[frame->slot].flags;

    if (flags & NM_FORWARD) {
        frame->verdict = VERDICT_host_passed;
    } else if (flags & NM_REPORT) {
        frame->verdict = VERDICT_host_too_long;
    }
}

static uint32_t collect_ring(struct stack *stack)
{
    const struct port *port = stack->port;
    uint32_t tail = nm_ring_tail(port->rx);
    uint32_t slot = stack->shared->rx_cursor;
    uint32_t n = 0;

    ENSURE(slot < port->rx->num_slots && tail < port->rx->num_slots);
    while (slot != tail && n < BURST_MAX) {
        if (!frame_at(port, slot, tail, &stack->frames[n])) {
            break;
        }
        if (port->caps & PORT_CAP_VNET_HDR) {
            take_vnet_hdr(&stack->frames[n]);
        }
        if (port->caps & PORT_CAP_HOST) {
            take_mark(port, &stack->frames[n]);
        }
        prefetch_line(stack->frames[n].data);
        slot = stack->frames[n++].next;
    }
    return n;
}

static uint32_t collect_lane(struct stack *stack, uint32_t from, uint32_t n)
{
    uint32_t cursor = stack->shared->lane_cursor[from];

    while (n < BURST_MAX) {
        struct frame *frame = &stack->frames[n];

        frame_init(frame, from, NULL, 0);
        if (!lane_peek(stack->cluster->lanes, from, stack->shard, &cursor, frame)) {
            break;
        }
        frame->slot = from;
        frame->nslots = 0;
        frame->next = cursor;
        n++;
    }
    return n;
}

uint32_t rx_collect(struct stack *stack)
{
    uint32_t shards = stack->config->shards;
    uint32_t n = collect_ring(stack);
    uint32_t first = stack->shared->lane_next++; /* a hint: any value will do after a kill */

    for (uint32_t i = 0; i < shards && shards > 1; i++) {
        uint32_t from = (first + i) % shards;

        if (from != stack->shard) {
            n = collect_lane(stack, from, n);
        }
    }
    return n;
}

void rx_release(struct stack *stack)
{
    nm_ring_give(stack->port->rx, stack->shared->rx_cursor);
    for (uint32_t from = 0; from < stack->config->shards; from++) {
        if (from != stack->shard) {
            lane_release(stack->cluster->lanes, from, stack->shard,
                         stack->shared->lane_cursor[from]);
        }
    }
}

uint64_t rx_pending(const struct stack *stack)
{
    const struct nm_ring *ring = stack->port->rx;
    uint32_t tail = nm_ring_tail(ring);
    uint64_t frames = 0;

    for (uint32_t at = stack->shared->rx_cursor; at != tail; at = nm_ring_next(ring, at)) {
        frames += !(ring->slot[at].flags & NM_MOREFRAG);
    }
    return frames;
}
