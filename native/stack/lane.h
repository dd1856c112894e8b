/*
 * Lanes: frames that reached the wrong shard go to their owner over a single-producer
 * single-consumer byte ring, one for each ordered pair of shards. The consumer's cursor lives in
 * its arena and is published after the commit of what it read. Bounded: a full lane refuses.
 */
#pragma once
#include "stack/frame.h"

struct lanes;
struct cluster;

/* `bytes` per lane: a power of two. */
size_t lanes_bytes(uint32_t shards, uint32_t bytes);
struct lanes *lanes_init(void *memory, uint32_t shards, uint32_t bytes);
/* Copies the frame into the lane; false: no room. */
bool lane_push(struct lanes *lanes, uint32_t from, uint32_t to, const struct frame *frame);
/* The frame at `cursor`, which moves behind it; false: nothing there. Nothing is published. */
bool lane_peek(const struct lanes *lanes, uint32_t from, uint32_t to, uint32_t *cursor,
               struct frame *frame);
/* True when something lies at the cursor. */
bool lane_ready(const struct lanes *lanes, uint32_t from, uint32_t to, uint32_t cursor);
/* Lets the producer have everything before `cursor`. */
void lane_release(struct lanes *lanes, uint32_t from, uint32_t to, uint32_t cursor);
/* Wakes a shard that sleeps; true: it was asleep. */
bool doorbell_ring(const struct cluster *cluster, uint32_t shard);
