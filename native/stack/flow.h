/*
 * The flow table: one 64-byte line a bucket, eight entries {tag 32, index + 1}, two candidate
 * buckets a flow and no chains. An entry is published by one store and verified against the
 * connection, so a wrong or stale entry can mislead nobody.
 */
#pragma once
#include "stack/conn.h"

enum {
    FLOW_BUCKET_ENTRIES = 8,
};

static inline uint32_t flow_bucket_a(const struct stack *stack, uint64_t hash)
{
    return (uint32_t)hash & stack->flow_mask;
}

static inline uint32_t flow_bucket_b(const struct stack *stack, uint64_t hash)
{
    return ((uint32_t)hash ^ (uint32_t)(hash >> 32) * 0x9e3779b1u) & stack->flow_mask;
}

/* Where in a bucket a flow is looked for first, and put if it is free. */
static inline uint64_t *flow_first(const struct stack *stack, uint32_t bucket, uint64_t hash)
{
    return &stack->flow_table[(size_t)bucket * FLOW_BUCKET_ENTRIES +
                              (uint32_t)(hash >> 29) % FLOW_BUCKET_ENTRIES];
}

static inline void flow_prefetch(const struct stack *stack, uint64_t hash)
{
    prefetch_line(&stack->flow_table[(size_t)flow_bucket_a(stack, hash) * FLOW_BUCKET_ENTRIES]);
}

/* Number of buckets (a power of two) for `conns` connections at a load of at most 3/4. */
uint32_t flow_buckets(uint32_t conns);
/* CONN_NONE: the entry is another flow's. */
static inline uint32_t flow_match(const struct stack *stack, uint64_t entry,
                                  const struct tuple *tuple, uint64_t hash)
{
    uint32_t conn = (uint32_t)entry - 1;

    if ((entry ^ hash) >> 32 != 0 || conn >= stack->config->conns_max ||
        !tuple_equal(&stack->hot[conn].tuple, tuple)) {
        return CONN_NONE;
    }
    return conn;
}

uint32_t flow_search(const struct stack *stack, const struct tuple *tuple, uint64_t hash);

/* The connection of a flow; CONN_NONE. */
static inline uint32_t flow_lookup(const struct stack *stack, const struct tuple *tuple,
                                   uint64_t hash)
{
    uint64_t entry = *flow_first(stack, flow_bucket_a(stack, hash), hash);
    uint32_t conn = flow_match(stack, entry, tuple, hash);

    if (likely(conn != CONN_NONE)) {
        return conn;
    }
    entry = *flow_first(stack, flow_bucket_b(stack, hash), hash);
    conn = flow_match(stack, entry, tuple, hash);
    return likely(conn != CONN_NONE) ? conn : flow_search(stack, tuple, hash);
}

/* A free entry for a flow, made free if need be; NULL: the table is full around it. */
uint64_t *flow_room(struct stack *stack, uint64_t hash);
void flow_insert(struct stack *stack, uint64_t *entry, uint32_t conn, uint64_t hash);
void flow_remove(struct stack *stack, uint32_t conn, uint64_t hash);
