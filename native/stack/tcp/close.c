/* How connections end. */
#include "base/hash.h"
#include "stack/timer.h"
#include "stack/tcp/tcp.h"

void tcp_enter_time_wait(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];

    hot->state = CONN_TIME_WAIT;
    hot->rtx_at = tick_after(stack, stack->config->time_wait_us);
    hot->delack_at = 0;
    undo_save(&stack->arena, &stack->shared->time_wait);
    stack->shared->time_wait++;
    timer_update(stack, conn);
}

static void count_end(struct stack *stack, enum close_reason reason)
{
    stats_add(stack->stats, COUNTER_conns_closed, 1);
    if (reason == CLOSE_RESET || reason == CLOSE_ABORTED || reason == CLOSE_REFUSED) {
        stats_add(stack->stats, COUNTER_conns_reset, 1);
    } else if (reason == CLOSE_TIMEOUT) {
        stats_add(stack->stats, COUNTER_conns_timed_out, 1);
    }
}

void tcp_drop(struct stack *stack, uint32_t conn, enum close_reason reason)
{
    const struct conn_hot *hot = &stack->hot[conn];
    bool half_open = hot->state == CONN_SYN_RCVD && (hot->flags & CONN_PASSIVE);
    const struct service *service = stack->services[hot->service];

    if (!half_open) { /* a service never hears of what was not open (MUST-11) */
        count_end(stack, reason);
        if (service->closed) {
            service->closed(stack, conn, reason);
        }
    }
    stack_clear_later(stack, flow_hash(stack->cluster->flow_key, &hot->tuple));
    conn_free(stack, conn);
}
