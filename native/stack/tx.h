/* The TX side of a turn: slots are filled behind a private cursor and published at its end. */
#pragma once
#include "stack/stack.h"

/* Loads the cursor from the ring. */
void tx_begin(struct stack *stack);
/* Bytes, header included and `most` at most, that lie in one piece in the next free slots. */
uint32_t tx_room(const struct stack *stack, uint32_t most);
/*
 * Queues a TCP frame of `len` bytes that stands in those slots, its checksum left to the port: the
 * pseudo-header's sum is in its place. gso_size: of the segments to cut it into; 0: it is one.
 */
void tx_push_partial(struct stack *stack, uint32_t len, uint16_t gso_size);
/* Publishes what was pushed since tx_begin. */
void tx_publish(struct stack *stack);
