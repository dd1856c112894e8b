/*
 * Timers: a three-level wheel of connections, 1 ms to 4.6 hours. The deadlines in the connection
 * are the truth; a place in the wheel is only moved earlier, and an entry that fires too soon is
 * queued again, so that a request costs no timer operation.
 */
#pragma once
#include "stack/conn.h"

void wheel_init(struct stack *stack, uint32_t tick);
/* The earlier of its deadlines; 0: none. */
static inline uint32_t timer_earliest(const struct conn_hot *hot)
{
    if (hot->rtx_at == 0 || hot->delack_at == 0) {
        return hot->rtx_at | hot->delack_at;
    }
    return (int32_t)(hot->rtx_at - hot->delack_at) < 0 ? hot->rtx_at : hot->delack_at;
}

void timer_requeue(struct stack *stack, uint32_t conn, uint32_t at);

/* Sees to it that the wheel fires for `conn` at its earliest deadline or sooner. */
static inline void timer_update(struct stack *stack, uint32_t conn)
{
    const struct conn_cold *cold = &stack->cold[conn];
    uint32_t at = timer_earliest(&stack->hot[conn]);

    if (at != 0 && (cold->wheel_slot == WHEEL_NOWHERE || (int32_t)(cold->wheel_at - at) > 0)) {
        timer_requeue(stack, conn, at);
    }
}

void timer_remove(struct stack *stack, uint32_t conn);
/* Takes the next connection out of the wheel whose entry is due at `tick`; NONE: the wheel is
 * there. */
uint32_t timer_pop(struct stack *stack, uint32_t tick);
/* The tick at which something may be due, at most `limit` ticks from the wheel's now. */
uint32_t timer_next(const struct stack *stack, uint32_t limit);

static inline bool tick_reached(uint32_t deadline, uint32_t now)
{
    return deadline != 0 && (int32_t)(now - deadline) >= 0;
}

/* A tick `us` from now, never 0, which means none. */
static inline uint32_t tick_after(const struct stack *stack, uint64_t us)
{
    uint32_t tick = (uint32_t)((stack->now_us + us + TICK_US - 1) / TICK_US);

    return tick ? tick : 1;
}
