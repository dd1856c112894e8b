/*
 * The seam between the worker and a TCP/IP engine that is not the native one. The native engine is
 * called directly (stack.h); a stack with `engine` set goes through this table once a phase and
 * turn. Steering stands before both, and connections have their records in the arena with both.
 */
#pragma once
#include "stack/events.h"
#include "stack/stack.h"

struct engine_ops {
    const char *name;
    /* At adoption: makes stack->engine_state. 0 or -errno. */
    int (*open)(struct stack *stack);
    void (*close)(struct stack *stack);
    /* Drops what a dead worker's instance held; returns how many connections. */
    uint32_t (*forget)(struct stack *stack);
    /* Classified and steered frames, perhaps none: each gets its verdict. TX slots may be used. */
    void (*input)(struct stack *stack, struct frame *frames, uint32_t n);
    void (*timers)(struct stack *stack);
    /* Replies, then the connections in stack->output. */
    void (*output)(struct stack *stack);
    uint64_t (*next_deadline)(const struct stack *stack);
    /* RST now, for a service. */
    void (*abort)(struct stack *stack, uint32_t conn);
};
