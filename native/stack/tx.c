/* Filling TX slots, and the replies that input owes. */
#include "stack/tx.h"

#include <stddef.h>
#include <string.h>

void tx_begin(struct stack *stack)
{
    const struct nm_ring *ring = stack->port->tx;
    uint32_t tail = nm_ring_tail(ring);

    ENSURE(ring->head < ring->num_slots && tail < ring->num_slots);
    stack->tx.next = ring->head;
    stack->tx.left = nm_ring_distance(ring, ring->head, tail);
}

uint8_t *tx_reserve(struct stack *stack)
{
    uint8_t *buf;

    if (stack->tx.left == 0) {
        return NULL;
    }
    buf = nm_ring_buf(stack->port->tx, stack->tx.next);
    if (stack->port->caps & PORT_CAP_VNET_HDR) {
        memset(buf, 0, PORT_VNET_HDR_LEN);
        buf += PORT_VNET_HDR_LEN;
    }
    return buf;
}

void tx_push(struct stack *stack, uint32_t len)
{
    struct nm_ring *ring = stack->port->tx;
    struct nm_slot *slot = &ring->slot[stack->tx.next];

    if (stack->port->caps & PORT_CAP_VNET_HDR) {
        len += PORT_VNET_HDR_LEN;
    }
    ASSERT(stack->tx.left > 0 && len <= ring->nr_buf_size);
    slot->len = (uint16_t)len;
    slot->flags = 0;
    stack->tx.next = nm_ring_next(ring, stack->tx.next);
    stack->tx.left--;
}

uint32_t tx_room(const struct stack *stack, uint32_t most)
{
    const struct nm_ring *ring = stack->port->tx;
    uint32_t slot = stack->tx.next;
    uint32_t room = ring->nr_buf_size;

    for (uint32_t n = 1; n < stack->tx.left && room < most && slot + 1 < ring->num_slots; n++) {
        if (nm_ring_buf(ring, slot + 1) != nm_ring_buf(ring, slot) + ring->nr_buf_size) {
            break; /* a buffer was exchanged */
        }
        slot++;
        room += ring->nr_buf_size;
    }
    return min_u32(room, most);
}

void tx_push_partial(struct stack *stack, uint32_t len, uint16_t gso_size)
{
    struct nm_ring *ring = stack->port->tx;
    struct vnet_hdr hdr = {.flags = VNET_F_NEEDS_CSUM,
                           .gso_type = gso_size != 0 ? VNET_GSO_TCPV4 : VNET_GSO_NONE,
                           .hdr_len = TCP_HEADERS_LEN,
                           .gso_size = gso_size,
                           .csum_start = ETH_HDR_LEN + IPV4_HDR_LEN,
                           .csum_offset = offsetof(struct wire_tcp, check)};

    memcpy(nm_ring_buf(ring, stack->tx.next), &hdr, sizeof(hdr));
    for (len += PORT_VNET_HDR_LEN; len > 0; stack->tx.left--) {
        struct nm_slot *slot = &ring->slot[stack->tx.next];
        uint32_t part = min_u32(len, ring->nr_buf_size);

        ENSURE(stack->tx.left > 0);
        len -= part;
        slot->len = (uint16_t)part;
        slot->flags = len > 0 ? NM_MOREFRAG : 0;
        stack->tx.next = nm_ring_next(ring, stack->tx.next);
    }
}

void tx_publish(struct stack *stack)
{
    nm_ring_give(stack->port->tx, stack->tx.next);
}

struct reply *reply_add(struct stack *stack, enum reply_kind kind)
{
    struct reply *reply;

    if (stack->replies_n == REPLIES_MAX) {
        stats_add(stack->stats, COUNTER_replies_limited, 1);
        return NULL;
    }
    reply = &stack->replies[stack->replies_n++];
    memset(reply, 0, sizeof(*reply));
    reply->kind = (uint8_t)kind;
    return reply;
}
