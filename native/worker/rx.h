/* From ring slots and lanes to frames; and what a successor finds there. */
#pragma once
#include "stack/conn.h"

/* Fills stack->frames from the port's ring, then from the lanes; returns how many. */
uint32_t rx_collect(struct stack *stack);
/* Lets the ring and the lanes have back what has its verdict. */
void rx_release(struct stack *stack);
/* Frames between the cursor and the ring's tail, which still await their verdict. */
uint64_t rx_pending(const struct stack *stack);
