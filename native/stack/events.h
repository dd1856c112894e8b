/*
 * The seam between stack and services. The stack never calls into a service while it handles a
 * frame: connections that became readable, writable or open are queued, and the worker runs their
 * step between input and output, one transaction a step.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct stack;

enum close_reason {
    CLOSE_DONE,    /* both directions ended in order */
    CLOSE_RESET,   /* RST from the peer */
    CLOSE_ABORTED, /* RST from us */
    CLOSE_TIMEOUT, /* R2 passed without an ACK */
    CLOSE_REFUSED, /* RST in SYN-SENT */
};

/* A service is a table entry without state of its own; a connection's state is 8 bytes in the
 * arena. */
struct service {
    const char *name;
    uint16_t default_port;
    bool mirror; /* step() only sends back what has come: the usual request needs no call */
    /* Does what it can now. True: call again next turn, memory was short. */
    bool (*step)(struct stack *stack, uint32_t conn);
    /* The connection is about to be freed; may be NULL. */
    void (*closed)(struct stack *stack, uint32_t conn, enum close_reason reason);
};
