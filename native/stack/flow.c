/* The flow table; see flow.h. */
#include "stack/flow.h"

#include "base/hash.h"

enum {
    UNEVEN = 2, /* entries by which one bucket may be fuller */
};

static inline uint64_t entry_make(uint64_t hash, uint32_t conn)
{
    return (hash & 0xffffffff00000000u) | (conn + 1);
}

static uint64_t *bucket_at(const struct stack *stack, uint32_t bucket)
{
    return &stack->flow_table[(size_t)bucket * FLOW_BUCKET_ENTRIES];
}

uint32_t flow_buckets(uint32_t conns)
{
    uint64_t wanted = ((uint64_t)conns * 4 / 3 + FLOW_BUCKET_ENTRIES) / FLOW_BUCKET_ENTRIES;
    uint32_t buckets = 2;

    while (buckets < wanted) {
        buckets *= 2;
    }
    return buckets;
}

static uint32_t bucket_lookup(const struct stack *stack, uint32_t bucket, const struct tuple *tuple,
                              uint64_t hash)
{
    const uint64_t *entry = bucket_at(stack, bucket);
    uint32_t conn = CONN_NONE;

    for (uint32_t i = 0; i < FLOW_BUCKET_ENTRIES && conn == CONN_NONE; i++) {
        conn = flow_match(stack, entry[i], tuple, hash);
    }
    return conn;
}

uint32_t flow_search(const struct stack *stack, const struct tuple *tuple, uint64_t hash)
{
    uint32_t conn = bucket_lookup(stack, flow_bucket_a(stack, hash), tuple, hash);

    if (conn == CONN_NONE) {
        conn = bucket_lookup(stack, flow_bucket_b(stack, hash), tuple, hash);
    }
    return conn;
}

static uint32_t bucket_used(const struct stack *stack, uint32_t bucket)
{
    const uint64_t *entry = bucket_at(stack, bucket);
    uint32_t used = 0;

    for (uint32_t i = 0; i < FLOW_BUCKET_ENTRIES; i++) {
        used += entry[i] != 0;
    }
    return used;
}

static uint64_t *free_entry(const struct stack *stack, uint32_t bucket)
{
    uint64_t *entry = bucket_at(stack, bucket);

    for (uint32_t i = 0; i < FLOW_BUCKET_ENTRIES; i++) {
        if (entry[i] == 0) {
            return &entry[i];
        }
    }
    return NULL;
}

/* Makes room in a full bucket: one of its flows moves to that flow's other bucket. */
static uint64_t *make_room(struct stack *stack, uint32_t bucket)
{
    uint64_t *entry = bucket_at(stack, bucket);

    for (uint32_t i = 0; i < FLOW_BUCKET_ENTRIES; i++) {
        uint32_t conn = (uint32_t)entry[i] - 1;
        uint64_t *other;
        uint64_t hash;

        ENSURE(conn < stack->config->conns_max);
        hash = flow_hash(stack->cluster->flow_key, &stack->hot[conn].tuple);
        other =
            free_entry(stack, flow_bucket_a(stack, hash) == bucket ? flow_bucket_b(stack, hash)
                                                                   : flow_bucket_a(stack, hash));
        if (other) {
            undo_save(&stack->arena, other);
            *other = entry[i];
            undo_save(&stack->arena, &entry[i]);
            entry[i] = 0;
            return &entry[i];
        }
    }
    return NULL;
}

/* Found at the first look if it may lie there; the emptier bucket decides when they differ much. */
uint64_t *flow_room(struct stack *stack, uint64_t hash)
{
    uint32_t a = flow_bucket_a(stack, hash);
    uint32_t b = flow_bucket_b(stack, hash);
    uint32_t used_a = bucket_used(stack, a);
    uint32_t used_b = bucket_used(stack, b);
    uint64_t *entry = flow_first(stack, a, hash);

    if (*entry == 0 && used_a <= used_b + UNEVEN) {
        return entry;
    }
    entry = flow_first(stack, b, hash);
    if (*entry == 0 && used_b <= used_a + UNEVEN) {
        return entry;
    }
    entry = free_entry(stack, used_b < used_a ? b : a);
    if (!entry) {
        entry = make_room(stack, a);
    }
    return entry ? entry : make_room(stack, b);
}

void flow_insert(struct stack *stack, uint64_t *entry, uint32_t conn, uint64_t hash)
{
    undo_save(&stack->arena, entry);
    *entry = entry_make(hash, conn);
}

static bool bucket_remove(struct stack *stack, uint32_t bucket, uint64_t wanted)
{
    uint64_t *entry = bucket_at(stack, bucket);

    for (uint32_t i = 0; i < FLOW_BUCKET_ENTRIES; i++) {
        if (entry[i] == wanted) {
            undo_save(&stack->arena, &entry[i]);
            entry[i] = 0;
            return true;
        }
    }
    return false;
}

void flow_remove(struct stack *stack, uint32_t conn, uint64_t hash)
{
    uint64_t wanted = entry_make(hash, conn);

    if (!bucket_remove(stack, flow_bucket_a(stack, hash), wanted)) {
        bucket_remove(stack, flow_bucket_b(stack, hash), wanted);
    }
}
