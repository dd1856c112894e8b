/* The arena's layout, and the records of connections; see conn.h. */
#include "stack/conn.h"

#include <errno.h>
#include <stdlib.h>

#include "base/hash.h"
#include "stack/chunk.h"
#include "stack/directory.h"
#include "stack/engine_ops.h"
#include "stack/flow.h"
#include "stack/ipv4.h"
#include "stack/timer.h"

static size_t lines(size_t bytes)
{
    return (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

size_t stack_arena_bytes(const struct stack_config *config)
{
    size_t conns = config->conns_max;
    size_t chunks = config->chunks_max;
    size_t bytes = lines(sizeof(struct arena_header)) + lines(sizeof(struct stack_shared));

    bytes += conns * sizeof(struct conn_hot) + lines(conns * sizeof(struct conn_cold));
    bytes += lines(conns * sizeof(uint64_t)) + lines(conns * sizeof(uint32_t));
    bytes += (size_t)flow_buckets(config->conns_max) * CACHE_LINE;
    bytes += config->actives_max * sizeof(struct conn_active);
    bytes += lines(config->actives_max * sizeof(uint32_t));
    bytes += chunks * CHUNK_BYTES + lines(chunks * sizeof(struct chunk));
    bytes += lines(chunks * sizeof(uint32_t));
    return (bytes + 4095) / 4096 * 4096;
}

size_t stack_layout(struct stack *stack)
{
    const struct stack_config *config = stack->config;
    size_t used = lines(sizeof(struct arena_header));
    size_t conns = config->conns_max;
    size_t actives = config->actives_max;
    size_t chunks = config->chunks_max;

    stack->shared = arena_carve(&stack->arena, &used, sizeof(struct stack_shared));
    stack->hot = arena_carve(&stack->arena, &used, conns * sizeof(struct conn_hot));
    stack->cold = arena_carve(&stack->arena, &used, conns * sizeof(struct conn_cold));
    stack->service_state = arena_carve(&stack->arena, &used, conns * sizeof(uint64_t));
    stack->conn_free = arena_carve(&stack->arena, &used, conns * sizeof(uint32_t));
    stack->flow_table =
        arena_carve(&stack->arena, &used, (size_t)flow_buckets(config->conns_max) * CACHE_LINE);
    stack->flow_mask = flow_buckets(config->conns_max) - 1;
    stack->active = arena_carve(&stack->arena, &used, actives * sizeof(struct conn_active));
    stack->active_free = arena_carve(&stack->arena, &used, actives * sizeof(uint32_t));
    stack->chunks =
        arena_carve(&stack->arena, &used, chunks * (CHUNK_BYTES + sizeof(struct chunk)));
    stack->chunk_free = arena_carve(&stack->arena, &used, chunks * sizeof(uint32_t));
    return used;
}

static void pools_init(struct stack *stack)
{
    const struct stack_config *config = stack->config;
    struct stack_shared *shared = stack->shared;

    for (uint32_t i = 0; i < config->conns_max; i++) {
        stack->conn_free[i] = config->conns_max - 1 - i;
        stack->cold[i].wheel_slot = WHEEL_NOWHERE;
    }
    for (uint32_t i = 0; i < config->actives_max; i++) {
        stack->active_free[i] = config->actives_max - 1 - i;
        stack->active[i].conn = NONE;
    }
    for (uint32_t i = 0; i < config->chunks_max; i++) {
        stack->chunk_free[i] = config->chunks_max - 1 - i;
    }
    shared->conn_free_n = config->conns_max;
    shared->active_free_n = config->actives_max;
    shared->chunk_free_n = config->chunks_max;
    shared->sweep = config->conns_max;
}

int stack_attach(struct stack *stack, bool fresh)
{
    uint32_t conns = stack->config->conns_max;

    arena_header(&stack->arena)->used = stack_layout(stack);
    ipv4_prepare(stack);
    stack->ready = calloc(conns, sizeof(uint32_t));
    stack->output = calloc(2 * (size_t)conns, sizeof(uint32_t)); /* a pass may append all again */
    stack->marks = calloc(conns, 1);
    stack->chunk_freed = calloc(stack->config->chunks_max, sizeof(uint32_t));
    if (!stack->ready || !stack->output || !stack->marks || !stack->chunk_freed) {
        stack_detach(stack);
        return -ENOMEM;
    }
    if (fresh) {
        pools_init(stack);
        wheel_init(stack, stack_tick(stack));
    }
    return 0;
}

void stack_detach(struct stack *stack)
{
    if (stack->engine) {
        stack->engine->close(stack);
    }
    free(stack->ready);
    free(stack->output);
    free(stack->marks);
    free(stack->chunk_freed);
    stack->ready = NULL;
    stack->output = NULL;
    stack->marks = NULL;
    stack->chunk_freed = NULL;
}

static uint32_t conn_alloc(struct stack *stack)
{
    struct stack_shared *shared = stack->shared;
    uint32_t conn;

    if (shared->conn_free_n == 0) {
        return NONE;
    }
    undo_save(&stack->arena, &shared->conn_free_n);
    conn = stack->conn_free[--shared->conn_free_n];
    shared->conns_active++;
    ENSURE(conn < stack->config->conns_max && stack->hot[conn].state == CONN_FREE);
    *conn_touch(stack, conn) = (struct conn_hot){.active = NONE, .mss = 536};
    *cold_touch(stack, conn) = (struct conn_cold){.wheel_slot = WHEEL_NOWHERE,
                                                  .wheel_next = NONE,
                                                  .wheel_prev = NONE,
                                                  .rto_us = stack->config->rto_initial_us};
    undo_save(&stack->arena, &stack->service_state[conn]);
    stack->service_state[conn] = 0;
    return conn;
}

uint32_t conn_open(struct stack *stack, uint64_t hash)
{
    uint64_t *entry = flow_room(stack, hash);
    uint32_t conn = entry ? conn_alloc(stack) : NONE;

    if (conn != NONE) {
        flow_insert(stack, entry, conn, hash);
        stack_clear_not(stack, hash);
        stack->opened = true;
    }
    return conn;
}

void conn_free(struct stack *stack, uint32_t conn)
{
    struct stack_shared *shared = stack->shared;
    struct conn_hot *hot = conn_touch(stack, conn);

    ENSURE(hot->state != CONN_FREE);
    timer_remove(stack, conn);
    conn_deactivate(stack, conn);
    flow_remove(stack, conn, flow_hash(stack->cluster->flow_key, &hot->tuple));
    undo_save(&stack->arena, &shared->conn_free_n);
    undo_save(&stack->arena, &stack->conn_free[shared->conn_free_n]);
    shared->syn_rcvd -= hot->state == CONN_SYN_RCVD;
    shared->time_wait -= hot->state == CONN_TIME_WAIT;
    shared->conns_active--;
    stack->conn_free[shared->conn_free_n++] = conn;
    hot->state = CONN_FREE;
}

struct conn_active *conn_activate(struct stack *stack, uint32_t conn)
{
    struct stack_shared *shared = stack->shared;
    struct conn_hot *hot = &stack->hot[conn];
    const struct conn_cold *cold = &stack->cold[conn];
    struct conn_active *active;
    uint32_t index = hot->active;

    if (index != NONE) {
        ENSURE(index < stack->config->actives_max);
        return active_touch(stack, index);
    }
    if (shared->active_free_n == 0) {
        return NULL;
    }
    undo_save(&stack->arena, &shared->active_free_n);
    index = stack->active_free[--shared->active_free_n];
    ENSURE(index < stack->config->actives_max);
    active = active_touch_all(stack, index);
    *active = (struct conn_active){
        .conn = conn, .cur_chunk = NONE, .spare_chunk = NONE, .flags = stack->active_flags};
    queue_init(&active->snd);
    queue_init(&active->rcv);
    queue_init(&active->ooo);
    active->recover = hot->snd_una;
    active->cwnd = 10u * hot->mss; /* RFC 6928 */
    active->ssthresh = cold->ssthresh_mss ? (uint32_t)cold->ssthresh_mss * hot->mss : UINT32_MAX;
    conn_touch(stack, conn)->active = index;
    return active;
}

void conn_deactivate(struct stack *stack, uint32_t conn)
{
    struct stack_shared *shared = stack->shared;
    struct conn_active *active = conn_active_of(stack, conn);
    uint32_t index = stack->hot[conn].active;
    uint32_t ssthresh_mss;

    if (!active) {
        return;
    }
    active = active_touch_all(stack, index);
    queue_free(stack, &active->snd);
    queue_free(stack, &active->rcv);
    queue_free(stack, &active->ooo);
    if (active->spare_chunk != NONE) {
        chunk_free(stack, active->spare_chunk);
        active->spare_chunk = NONE;
    }
    active->conn = NONE;
    ssthresh_mss = active->ssthresh == UINT32_MAX ? 0 : active->ssthresh / stack->hot[conn].mss;
    cold_touch(stack, conn)->ssthresh_mss = (uint16_t)min_u32(ssthresh_mss, UINT16_MAX);
    undo_save(&stack->arena, &shared->active_free_n);
    undo_save(&stack->arena, &stack->active_free[shared->active_free_n]);
    stack->active_free[shared->active_free_n++] = index;
    conn_touch(stack, conn)->active = NONE;
}

void conn_mark_ready(struct stack *stack, uint32_t conn)
{
    if (!(stack->marks[conn] & CONN_MARK_READY)) {
        stack->marks[conn] |= CONN_MARK_READY;
        stack->ready[stack->ready_n++] = conn;
    }
}

void conn_mark_output(struct stack *stack, uint32_t conn)
{
    if (!(stack->marks[conn] & CONN_MARK_OUTPUT)) {
        stack->marks[conn] |= CONN_MARK_OUTPUT;
        stack->output[stack->output_n++] = conn;
    }
}
