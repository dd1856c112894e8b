/*
 * The native engine behind the seam: bursts in, verdicts settled one by one, services, output,
 * timers, adoption. Each loop body here is one transaction. Start reading at engine_input.
 */
#include "base/hash.h"
#include "stack/arp.h"
#include "stack/chunk.h"
#include "stack/directory.h"
#include "stack/events.h"
#include "stack/flow.h"
#include "stack/icmp.h"
#include "stack/timer.h"
#include "stack/tcp/tcp.h"

enum {
    SWEEP_SLICE = 1024, /* connections looked at per turn after an adoption */
    TIMERS_PER_TURN = 4096,
};

void stack_commit(struct stack *stack)
{
    chunk_free_pending(stack);
    undo_commit(&stack->arena);
    for (; stack->counted < stack->settled; stack->counted++) {
        stack->stats->verdict[stack->frames[stack->counted].verdict]++;
    }
    for (uint32_t i = 0; i < stack->clears_n && stack->config->shards > 1; i++) {
        directory_clear(stack->cluster->directory, stack->clear_hash[i], stack->shard);
    }
    stack->clears_n = 0;
    stack->commit_soon = false;
}

void stack_clear_later(struct stack *stack, uint64_t hash)
{
    ENSURE(stack->clears_n < CLEARS_MAX);
    stack->clear_hash[stack->clears_n++] = hash;
    stack->commit_soon |= stack->clears_n == CLEARS_MAX;
}

void stack_clear_not(struct stack *stack, uint64_t hash)
{
    for (uint32_t i = 0; i < stack->clears_n; i++) {
        if (stack->clear_hash[i] == hash) {
            stack->clear_hash[i] = stack->clear_hash[--stack->clears_n];
            return;
        }
    }
}

bool engine_owns(struct stack *stack, const struct tuple *tuple, uint64_t hash, uint32_t *conn)
{
    *conn = flow_lookup(stack, tuple, hash);
    return *conn != CONN_NONE;
}

/* A frame off a lane: its cursor stands elsewhere. */
static void settle_lane(struct stack *stack, const struct frame *frame)
{
    uint32_t *cursor;

    ENSURE(frame->slot < STACK_SHARDS_MAX);
    cursor = &stack->shared->lane_cursor[frame->slot];
    stats_add(stack->stats, COUNTER_steered_in, 1);
    undo_save(&stack->arena, cursor);
    *cursor = frame->next;
}

/*
 * The frame's verdict and its cursor belong to the step that changed everything else. The ring's
 * cursor has been saved.
 */
static inline void settle(struct stack *stack, const struct frame *frame)
{
    ASSERT(frame->verdict < VERDICT_COUNT);
    if (likely(frame->nslots != 0)) {
        stack->shared->rx_cursor = frame->next;
    } else {
        settle_lane(stack, frame);
    }
    stack->settled++;
    if (stack_step(stack)) {
        undo_save(&stack->arena, &stack->shared->rx_cursor);
    }
}

static void input_other(struct stack *stack, struct frame *frame)
{
    switch (frame->kind) {
    case FRAME_TCP:
        tcp_input(stack, frame);
        break;
    case FRAME_ARP:
        arp_input(stack, frame);
        break;
    default:
        icmp_input(stack, frame);
    }
}

void engine_begin(struct stack *stack)
{
    stack->settled = 0;
    stack->counted = 0;
    stack->opened = false;
    undo_save(&stack->arena, &stack->shared->rx_cursor);
}

void engine_settle(struct stack *stack, struct frame *frame)
{
    settle(stack, frame);
}

void engine_input(struct stack *stack, struct frame *frames, uint32_t n)
{
    ENSURE(frames == stack->frames);
    engine_begin(stack);
    frames[n].conn = CONN_NONE;
    for (struct frame *frame = frames; frame < frames + n; frame++) {
        bool done = frame->conn != CONN_NONE && /* only what is open has a connection */
                    tcp_predicted(stack, frame, frame[1].conn == frame->conn);

        if (!done && frame->verdict == VERDICT_NONE) {
            input_other(stack, frame);
        }
        settle(stack, frame);
    }
}

void engine_services(struct stack *stack)
{
    uint32_t n = stack->ready_n;

    stack->ready_n = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t conn = stack->ready[i];
        const struct conn_hot *hot = &stack->hot[conn];

        stack->marks[conn] &= (uint8_t)~CONN_MARK_READY;
        if (hot->state < CONN_ESTABLISHED) {
            continue; /* in TIME-WAIT there may still be something to read */
        }
        if (stack->services[hot->service]->step(stack, conn)) {
            conn_mark_ready(stack, conn); /* ready_n <= i: behind what is still to be read */
        }
        stack_step(stack);
        conn_mark_output(stack, conn);
    }
}

static bool send_reply(struct stack *stack, const struct reply *reply)
{
    switch (reply->kind) {
    case REPLY_TCP:
        return reply_send_tcp(stack, reply);
    case REPLY_ICMP_ECHO:
        return reply_send_icmp(stack, reply);
    default:
        return reply_send_arp(stack, reply);
    }
}

static void output_replies(struct stack *stack)
{
    uint32_t n = stack->replies_n;

    for (uint32_t i = 0; i < n; i++) {
        if (!send_reply(stack, &stack->replies[i])) {
            stats_add(stack->stats, COUNTER_replies_limited, n - i);
            break;
        }
    }
    /* sending may have queued questions for neighbours: they go next turn */
    memmove(stack->replies, stack->replies + n, (stack->replies_n - n) * sizeof(struct reply));
    stack->replies_n -= n;
}

void engine_send_replies(struct stack *stack)
{
    output_replies(stack);
}

void engine_output(struct stack *stack)
{
    uint32_t n = stack->output_n;
    uint32_t i;

    output_replies(stack);
    for (i = 0; i < n && stack->tx.left > 0; i++) { /* ring full: the rest keeps its turn */
        uint32_t conn = stack->output[i];

        stack->marks[conn] &= (uint8_t)~CONN_MARK_OUTPUT;
        tcp_output(stack, conn); /* may append itself again, behind n */
        stack_step(stack);
    }
    memmove(stack->output, stack->output + i, (stack->output_n - i) * sizeof(uint32_t));
    stack->output_n -= i;
}

void engine_timers(struct stack *stack)
{
    uint32_t tick = stack_tick(stack);

    for (uint32_t i = 0; i < TIMERS_PER_TURN; i++) {
        uint32_t conn = timer_pop(stack, tick);

        if (conn == NONE) {
            return;
        }
        tcp_timer(stack, conn);
        stack_step(stack);
    }
}

uint64_t engine_next_deadline(const struct stack *stack)
{
    uint32_t now = stack_tick(stack);
    uint32_t next;

    if (stack->ready_n || stack->output_n || stack->replies_n ||
        stack->shared->sweep < stack->config->conns_max) {
        return stack->now_us;
    }
    if (stack->shared->wheel.queued == 0) {
        return UINT64_MAX;
    }
    next = timer_next(stack, WHEEL_SLOTS);
    if ((int32_t)(next - now) <= 0) {
        return stack->now_us;
    }
    return (stack->now_us / TICK_US + (next - now)) * TICK_US;
}

/* A queue's chain, its length and its end agree. */
static bool queue_consistent(const struct stack *stack, const struct chunk_queue *queue)
{
    uint32_t bytes = 0;
    uint32_t last = NONE;
    uint32_t steps = 0;

    for (uint32_t i = queue->head; i != NONE; i = chunk_at(stack, i)->next) {
        const struct chunk *chunk;

        if (i >= stack->config->chunks_max || steps++ > stack->config->chunks_max) {
            return false;
        }
        chunk = chunk_at(stack, i);
        if (chunk->start > chunk->end || chunk->end > CHUNK_BYTES) {
            return false;
        }
        bytes += (uint32_t)(chunk->end - chunk->start);
        last = i;
    }
    return bytes == queue->bytes && last == queue->tail;
}

static bool conn_consistent(const struct stack *stack, uint32_t conn)
{
    const struct conn_hot *hot = &stack->hot[conn];
    const struct conn_active *active;

    if (hot->state >= CONN_STATES || hot->mss == 0 || !stack->services[hot->service] ||
        seq_gt(hot->snd_una, hot->snd_max) || seq_gt(hot->rcv_nxt, hot->rcv_adv)) {
        return false;
    }
    if (hot->active == NONE) {
        return true;
    }
    if (hot->active >= stack->config->actives_max) {
        return false;
    }
    active = &stack->active[hot->active];
    return active->conn == conn && queue_consistent(stack, &active->snd) &&
           queue_consistent(stack, &active->rcv) && queue_consistent(stack, &active->ooo);
}

/* Drops one record that cannot be trusted, with whatever it held: leaked memory, not a crash. */
static void quarantine(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = conn_touch(stack, conn);

    hot->active = NONE;
    hot->service = 0;
    hot->state = hot->state >= CONN_STATES ? CONN_ESTABLISHED : hot->state;
    tcp_send_rst(stack, conn);
    tcp_drop(stack, conn, CLOSE_ABORTED);
    stats_add(stack->stats, COUNTER_conns_dropped, 1);
}

/* What was committed but perhaps never sent goes again; what is unread is offered again. */
static void nudge(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = conn_touch(stack, conn);

    if (!conn_consistent(stack, conn)) {
        quarantine(stack, conn);
        return;
    }
    if (hot->active != NONE) {
        active_touch(stack, hot->active)->cur_chunk = NONE;
        conn_mark_ready(stack, conn);
    }
    if (hot->snd_nxt != hot->snd_una && !(hot->flags & CONN_PROBING)) {
        hot->snd_nxt = hot->snd_una;
        hot->rtx_at = 0;
    }
    if (hot->rcv_acked != hot->rcv_nxt && hot->state >= CONN_ESTABLISHED) {
        hot->flags |= CONN_ACK_NOW;
    }
    conn_mark_output(stack, conn);
}

void engine_adopt(struct stack *stack, uint32_t *adopted, uint32_t *dropped)
{
    uint64_t before = stack->stats->counter[COUNTER_conns_dropped];

    stack->shared->sweep = 0;
    *adopted = stack->shared->conns_active;
    while (engine_sweep(stack) && stack->config->conns_max <= SWEEP_SLICE * 16) {
        continue; /* a small table is looked through at once, a large one turn by turn */
    }
    stack_commit(stack);
    *dropped = (uint32_t)(stack->stats->counter[COUNTER_conns_dropped] - before);
    *adopted -= *dropped;
    stats_add(stack->stats, COUNTER_conns_adopted, *adopted);
}

bool engine_sweep(struct stack *stack)
{
    uint32_t first = stack->shared->sweep;
    uint32_t last = min_u32(stack->config->conns_max, first + SWEEP_SLICE);

    for (uint32_t conn = first; conn < last; conn++) {
        if (stack->hot[conn].state != CONN_FREE) {
            nudge(stack, conn);
            stack_step(stack);
        }
    }
    stack->shared->sweep = last;
    return last < stack->config->conns_max;
}
