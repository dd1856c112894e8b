/* Filling TX slots, and the replies that input owes. */
#include "stack/tx.h"

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
