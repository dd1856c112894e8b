/* Ethernet, and the classification of a burst down to its flows. */
#pragma once
#include "stack/stack.h"

/* Gives each frame its kind, offsets, tuple and hash, or the verdict that ends it. */
void classify_burst(struct stack *stack, struct frame *frames, uint32_t n);
/* Writes the Ethernet header. */
void eth_write(const struct stack *stack, uint8_t *buf, const uint8_t mac[6], uint16_t ethertype);
