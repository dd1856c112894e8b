/* The built-in services, one file each, and what they share. */
#pragma once
#include "base/arena.h"
#include "service/service.h"

extern const struct service service_echo;
extern const struct service service_discard;
extern const struct service service_chargen;
extern const struct service service_daytime;
extern const struct service service_http;
extern const struct service service_sockperf;

/* The 8 bytes of a connection's service, saved for the transaction. */
static inline uint64_t *service_state_touch(struct stack *stack, uint32_t conn)
{
    undo_save(&stack->arena, &stack->service_state[conn]);
    return &stack->service_state[conn];
}
