/* The timer wheel; see timer.h. */
#include "stack/timer.h"

/* Saves the place in the wheel alone: a record may lie on two lines. */
static struct conn_cold *wheel_touch(struct stack *stack, uint32_t conn)
{
    struct conn_cold *cold = &stack->cold[conn];

    undo_save(&stack->arena, &cold->wheel_next);
    undo_save(&stack->arena, &cold->wheel_slot);
    return cold;
}

/* Queues for tick `at`, seen from tick `base` (now, or the tick that is about to begin). */
static void link_at(struct stack *stack, uint32_t conn, uint32_t at, uint32_t base)
{
    struct wheel *wheel = &stack->shared->wheel;
    uint32_t delta = at - base;
    uint32_t level = delta < WHEEL_SLOTS ? 0 : delta < WHEEL_SLOTS * WHEEL_SLOTS ? 1 : 2;
    uint32_t slot = at >> (8 * level) & (WHEEL_SLOTS - 1);
    uint32_t *head = &wheel->head[level][slot];
    struct conn_cold *cold = wheel_touch(stack, conn);

    cold->wheel_at = at;
    cold->wheel_slot = (uint16_t)(level * WHEEL_SLOTS + slot);
    cold->wheel_prev = NONE;
    cold->wheel_next = *head;
    if (*head != NONE) {
        ENSURE(*head < stack->config->conns_max);
        wheel_touch(stack, *head)->wheel_prev = conn;
    }
    undo_save(&stack->arena, head);
    *head = conn;
    undo_save(&stack->arena, &wheel->queued);
    wheel->queued++;
}

void wheel_init(struct stack *stack, uint32_t tick)
{
    struct wheel *wheel = &stack->shared->wheel;

    wheel->now = tick;
    wheel->queued = 0;
    memset(wheel->head, 0xff, sizeof(wheel->head));
}

void timer_remove(struct stack *stack, uint32_t conn)
{
    struct wheel *wheel = &stack->shared->wheel;
    uint32_t slot = stack->cold[conn].wheel_slot;
    struct conn_cold *cold;

    if (slot == WHEEL_NOWHERE) {
        return;
    }
    ENSURE(slot < WHEEL_LEVELS * WHEEL_SLOTS);
    cold = wheel_touch(stack, conn);
    if (cold->wheel_prev == NONE) {
        uint32_t *head = &wheel->head[slot / WHEEL_SLOTS][slot % WHEEL_SLOTS];
        undo_save(&stack->arena, head);
        *head = cold->wheel_next;
    } else {
        ENSURE(cold->wheel_prev < stack->config->conns_max);
        wheel_touch(stack, cold->wheel_prev)->wheel_next = cold->wheel_next;
    }
    if (cold->wheel_next != NONE) {
        ENSURE(cold->wheel_next < stack->config->conns_max);
        wheel_touch(stack, cold->wheel_next)->wheel_prev = cold->wheel_prev;
    }
    cold->wheel_slot = WHEEL_NOWHERE;
    undo_save(&stack->arena, &wheel->queued);
    wheel->queued--;
}

void timer_requeue(struct stack *stack, uint32_t conn, uint32_t at)
{
    uint32_t now = stack->shared->wheel.now;

    if ((int32_t)(at - now) <= 0) {
        at = now + 1;
    }
    timer_remove(stack, conn);
    link_at(stack, conn, at, now);
}

/* Spreads a slot of a higher level over the levels below it, before the tick `base` begins. */
static void cascade(struct stack *stack, uint32_t level, uint32_t base)
{
    uint32_t slot = base >> (8 * level) & (WHEEL_SLOTS - 1);
    uint32_t conn;

    while ((conn = stack->shared->wheel.head[level][slot]) != NONE) {
        uint32_t at;

        ENSURE(conn < stack->config->conns_max);
        at = stack->cold[conn].wheel_at;
        timer_remove(stack, conn);
        link_at(stack, conn, (int32_t)(at - base) < 0 ? base : at, base);
        stack_step(stack);
    }
}

/* Cascades first: a commit between them finds the old tick, and what is left is spread then. */
static void wheel_step(struct stack *stack)
{
    uint32_t next = stack->shared->wheel.now + 1;

    if ((next & (WHEEL_SLOTS - 1)) == 0) {
        if ((next & (WHEEL_SLOTS * WHEEL_SLOTS - 1)) == 0) {
            cascade(stack, 2, next);
        }
        cascade(stack, 1, next);
    }
    undo_save(&stack->arena, &stack->shared->wheel.now);
    stack->shared->wheel.now = next;
}

uint32_t timer_pop(struct stack *stack, uint32_t tick)
{
    struct wheel *wheel = &stack->shared->wheel;

    for (;;) {
        uint32_t conn = wheel->head[0][wheel->now & (WHEEL_SLOTS - 1)];

        if (conn != NONE) {
            ENSURE(conn < stack->config->conns_max);
            timer_remove(stack, conn);
            return conn;
        }
        if ((int32_t)(tick - wheel->now) <= 0) {
            return NONE;
        }
        if (wheel->queued == 0) {
            undo_save(&stack->arena, &wheel->now);
            wheel->now = tick;
            return NONE;
        }
        wheel_step(stack);
    }
}

uint32_t timer_next(const struct stack *stack, uint32_t limit)
{
    const struct wheel *wheel = &stack->shared->wheel;
    uint32_t end = limit < WHEEL_SLOTS ? limit : WHEEL_SLOTS - 1;

    if (wheel->queued == 0) {
        return wheel->now + limit;
    }
    for (uint32_t ahead = 0; ahead < end; ahead++) {
        uint32_t tick = wheel->now + ahead;

        /* a cascade is due at a boundary: it may bring anything */
        if (wheel->head[0][tick & (WHEEL_SLOTS - 1)] != NONE ||
            (ahead > 0 && (tick & (WHEEL_SLOTS - 1)) == 0)) {
            return tick;
        }
    }
    return wheel->now + end;
}
