/*
 * Steering: nothing is assumed about which ring a flow arrives on. The shard that first claims a
 * SYN owns the flow; everybody else hands its frames over, and only the owner answers.
 */
#pragma once
#include "stack/stack.h"

/* Fills frame->conn, or ends the frame: handed over, or dropped with a name. */
void steer_burst(struct stack *stack, struct frame *frames, uint32_t n);
