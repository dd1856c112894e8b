/* IPv4: what is accepted (RFC 1122 section 3.2.1) and what we write. */
#pragma once
#include "stack/stack.h"

/* Fills l4_off, l4_len and the tuple's addresses; VERDICT_NONE when the packet is for us. */
enum verdict ipv4_parse(const struct stack_config *config, struct frame *frame, uint8_t *protocol);
/* The same for the usual frame, in few steps: TCP, no options, no fragment. False: not usual. */
bool ipv4_plain_tcp(const struct stack_config *config, struct frame *frame);
/* A header without options, DF, for `len` bytes of payload. */
void ipv4_write(const struct stack *stack, uint8_t *buf, uint32_t dst, uint8_t protocol,
                uint32_t len);
/* Makes stack->head, the headers that are equal in all that we send. */
void ipv4_prepare(struct stack *stack);
/* The address whose MAC a packet to `dst` needs. */
uint32_t stack_next_hop(const struct stack_config *config, uint32_t dst);
