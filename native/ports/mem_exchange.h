/*
 * Exchanging buffers between slots and cells in batches, so that a kill between any two stores can
 * be completed: one store names the exchange in progress and the buffer it overwrites first, one
 * store fills that place, one gives the buffer to the other. Cursors are published at the end of
 * the batch. Start reading at exchange_begin.
 */
#pragma once
#include <string.h>

#include "ports/mem.h"

/* buf_idx, len and flags of a slot or a cell, as one word (little endian). */
enum {
    WORD_FLAGS_SHIFT = 48,
};

static inline uint64_t exchange_load(const void *slot)
{
    uint64_t word;

    memcpy(&word, slot, sizeof(word));
    return word;
}

static inline uint32_t exchange_buf(uint64_t word)
{
    return (uint32_t)word;
}

static inline uint32_t exchange_len(uint64_t word)
{
    return (uint16_t)(word >> 32);
}

static inline void exchange_store(void *slot, uint64_t word)
{
    *(volatile uint64_t *)slot = word;
}

struct exchange {
    struct mem_side *side;
    struct mem_lane *lane;
    uint32_t lane_index;
    uint32_t position; /* of the lane, behind what was exchanged */
    uint32_t slot;     /* of the ring, likewise */
    uint64_t number;   /* of the exchange in the batch, << 32 */
    uint32_t bufs_n;   /* buffers that may be named, from NM_BUF_FIRST on */
    uint32_t buf_size;
    uint64_t bytes;
};

/* Every index that comes from a ring or a lane is asked this before it is used. */
static inline bool exchange_buf_possible(const struct exchange *batch, uint64_t word)
{
    return exchange_buf(word) - NM_BUF_FIRST < batch->bufs_n;
}

static inline bool exchange_possible(const struct exchange *batch, uint64_t word)
{
    return exchange_buf_possible(batch, word) && exchange_len(word) <= batch->buf_size;
}

static inline void exchange_begin(struct exchange *batch, enum mem_intent_kind kind)
{
    struct mem_intent *intent = &batch->side->intent;

    batch->number = 0;
    intent->lane = batch->lane_index;
    intent->position = batch->position;
    intent->slot = batch->slot;
    intent->step = 0;
    compiler_barrier();
    intent->kind = kind;
    compiler_barrier();
}

/* Names the next exchange before its first store: `saved` is the buffer that is overwritten first.
 */
static inline void exchange_name(struct exchange *batch, uint32_t saved)
{
    batch->side->intent.step = batch->number | saved;
}

static inline void exchange_next(struct exchange *batch, const struct nm_ring *ring)
{
    batch->number += (uint64_t)1 << 32;
    batch->position++;
    batch->slot = nm_ring_next(ring, batch->slot);
}

static inline void exchange_done(struct exchange *batch)
{
    compiler_barrier();
    batch->side->intent.kind = MEM_INTENT_NONE;
    compiler_barrier();
}
