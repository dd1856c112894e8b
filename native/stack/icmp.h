/* ICMP (RFC 792): echo is answered, errors are counted. */
#pragma once
#include "stack/stack.h"

void icmp_input(struct stack *stack, struct frame *frame);
/* False: the TX ring is full. */
bool reply_send_icmp(struct stack *stack, const struct reply *reply);
