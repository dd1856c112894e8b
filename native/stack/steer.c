/* Steering; see steer.h. */
#include "stack/steer.h"

#include <stddef.h>

#include "stack/directory.h"
#include "stack/flow.h"
#include "stack/lane.h"

static uint8_t tcp_flags(const struct frame *frame)
{
    return frame->data[frame->l4_off + offsetof(struct wire_tcp, flags)];
}

static bool is_served(const struct stack *stack, uint16_t tcp_port)
{
    for (uint32_t i = 0; i < stack->config->listeners_n; i++) {
        if (stack->config->listeners[i].tcp_port == tcp_port) {
            return true;
        }
    }
    return false;
}

static void hand_over(struct stack *stack, struct frame *frame, uint32_t owner, uint64_t *woken)
{
    struct cluster *cluster = stack->cluster;

    frame->verdict = VERDICT_steer_dropped;
    if (owner < stack->config->shards && lane_push(cluster->lanes, stack->shard, owner, frame)) {
        frame->verdict = VERDICT_steered_out;
        *woken |= (uint64_t)1 << owner;
    }
}

/* A frame off our ring that no connection here claims. */
static void find_owner(struct stack *stack, struct frame *frame, uint64_t *woken)
{
    struct directory *directory = stack->cluster->directory;
    uint32_t owner;

    if ((tcp_flags(frame) & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_SYN) {
        if (directory_find(directory, frame->hash, &owner) && owner != stack->shard) {
            hand_over(stack, frame, owner, woken);
        }
        return;
    }
    if (!is_served(stack, frame->tuple.lport)) {
        return; /* answered with RST by whoever got it */
    }
    switch (directory_claim(directory, frame->hash, stack->shard, &owner)) {
    case CLAIM_MINE:
        break;
    case CLAIM_OTHER:
        hand_over(stack, frame, owner, woken);
        break;
    case CLAIM_RACE:
        frame->verdict = VERDICT_tcp_claim_race;
        break;
    default:
        frame->verdict = VERDICT_tcp_table_full;
    }
}

static void wake(struct stack *stack, uint64_t woken)
{
    while (woken) {
        uint32_t shard = (uint32_t)__builtin_ctzll(woken);

        stats_add(stack->stats, COUNTER_wakeups_sent, doorbell_ring(stack->cluster, shard));
        woken &= woken - 1;
    }
}

void steer_burst(struct stack *stack, struct frame *frames, uint32_t n)
{
    uint64_t woken = 0;

    for (uint32_t i = 0; i < n; i++) {
        struct frame *frame = &frames[i];

        if (frame->kind != FRAME_TCP) { /* set last of all: then its verdict is open */
            continue;
        }
        if (engine_owns(stack, &frame->tuple, frame->hash, &frame->conn)) {
            prefetch_line(&stack->hot[frame->conn]);
        } else if (stack->config->shards > 1 && frame->nslots > 0) {
            find_owner(stack, frame, &woken);
        }
    }
    wake(stack, woken);
}
