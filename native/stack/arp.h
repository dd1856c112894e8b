/* ARP (RFC 826): answer for our address, learn from who asks us, resolve next hops. */
#pragma once
#include "stack/stack.h"

void arp_input(struct stack *stack, struct frame *frame);
/* The MAC of an address on our link, for this turn; NULL: unknown, asked for once a second at most.
 */
const uint8_t *arp_resolve(struct stack *stack, uint32_t ip);
/* Where a frame of its tuple's remote address came from: in place of ARP, where that is the host's.
 */
void arp_learn_from(struct stack *stack, const struct frame *frame);
/* Queues an announcement of our own address (RFC 5227 section 2.3). */
void arp_announce(struct stack *stack);
/* False: the TX ring is full. */
bool reply_send_arp(struct stack *stack, const struct reply *reply);
