/* Lanes between shards; see lane.h. Positions run free modulo 2^32; records are 16-byte aligned. */
#include "stack/lane.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "stack/stack.h"

enum {
    RECORD_ALIGN = 16,
    SLEEPING_STRIDE = 16,
};

static const uint32_t skip_to_start = UINT32_MAX; /* a record's length: go on at offset 0 */

struct record {
    uint32_t len;
    uint16_t gso_size;
    uint8_t csum;
    uint8_t pad[9];
};
_Static_assert(sizeof(struct record) == RECORD_ALIGN, "data stays aligned");

struct lane {
    _Alignas(CACHE_LINE) _Atomic uint32_t filled; /* by the producer */
    _Alignas(CACHE_LINE) _Atomic uint32_t freed;  /* by the consumer */
    _Alignas(CACHE_LINE) uint8_t data[];
};

struct lanes {
    _Alignas(CACHE_LINE) uint32_t shards;
    uint32_t bytes;
    size_t stride;
    _Alignas(CACHE_LINE) uint8_t lane[];
};

size_t lanes_bytes(uint32_t shards, uint32_t bytes)
{
    return sizeof(struct lanes) + (size_t)shards * shards * (sizeof(struct lane) + bytes);
}

struct lanes *lanes_init(void *memory, uint32_t shards, uint32_t bytes)
{
    struct lanes *lanes = memory;

    ENSURE((bytes & (bytes - 1)) == 0);
    lanes->shards = shards;
    lanes->bytes = bytes;
    lanes->stride = sizeof(struct lane) + bytes;
    return lanes; /* a new mapping is zero: every lane is empty */
}

static struct lane *lane_at(const struct lanes *lanes, uint32_t from, uint32_t to)
{
    size_t index = (size_t)from * lanes->shards + to;

    ENSURE(from < lanes->shards && to < lanes->shards);
    return (struct lane *)(uintptr_t)(lanes->lane + index * lanes->stride);
}

static uint32_t record_bytes(uint32_t len)
{
    return (uint32_t)sizeof(struct record) + (len + RECORD_ALIGN - 1) / RECORD_ALIGN * RECORD_ALIGN;
}

bool lane_push(struct lanes *lanes, uint32_t from, uint32_t to, const struct frame *frame)
{
    struct lane *lane = lane_at(lanes, from, to);
    uint32_t filled = atomic_load_explicit(&lane->filled, memory_order_relaxed);
    uint32_t freed = atomic_load_explicit(&lane->freed, memory_order_acquire);
    uint32_t size = record_bytes(frame->len);
    uint32_t to_end = lanes->bytes - (filled & (lanes->bytes - 1));
    uint32_t gap = to_end < size ? to_end : 0;
    struct record record = {.len = frame->len, .gso_size = frame->gso_size, .csum = frame->csum};
    uint8_t *at;

    if (filled - freed > lanes->bytes || lanes->bytes - (filled - freed) < gap + size) {
        return false;
    }
    if (gap > 0) {
        memcpy(lane->data + (filled & (lanes->bytes - 1)), &skip_to_start, sizeof(skip_to_start));
        filled += gap;
    }
    at = lane->data + (filled & (lanes->bytes - 1));
    memcpy(at, &record, sizeof(record));
    frame_copy(frame, 0, at + sizeof(record), frame->len);
    atomic_store_explicit(&lane->filled, filled + size, memory_order_release);
    return true;
}

bool lane_ready(const struct lanes *lanes, uint32_t from, uint32_t to, uint32_t cursor)
{
    return atomic_load_explicit(&lane_at(lanes, from, to)->filled, memory_order_acquire) != cursor;
}

bool lane_peek(const struct lanes *lanes, uint32_t from, uint32_t to, uint32_t *cursor,
               struct frame *frame)
{
    const struct lane *lane = lane_at(lanes, from, to);
    uint32_t filled = atomic_load_explicit(&lane->filled, memory_order_acquire);
    uint32_t at = *cursor & (lanes->bytes - 1);
    struct record record;

    if (filled == *cursor) {
        return false;
    }
    ENSURE(filled - *cursor <= lanes->bytes && at % RECORD_ALIGN == 0);
    memcpy(&record, lane->data + at, sizeof(record));
    if (record.len == skip_to_start) {
        *cursor += lanes->bytes - at;
        at = 0;
        memcpy(&record, lane->data, sizeof(record));
    }
    ENSURE(record.len <= lanes->bytes - at - sizeof(record));
    frame->data = lane->data + at + sizeof(record);
    frame->len = record.len;
    frame->contig = record.len;
    frame->csum = record.csum;
    frame->gso_size = record.gso_size;
    frame->nslots = 0;
    *cursor += record_bytes(record.len);
    return true;
}

void lane_release(struct lanes *lanes, uint32_t from, uint32_t to, uint32_t cursor)
{
    struct lane *lane = lane_at(lanes, from, to);

    if (atomic_load_explicit(&lane->freed, memory_order_relaxed) != cursor) {
        atomic_store_explicit(&lane->freed, cursor, memory_order_release);
    }
}

bool doorbell_ring(const struct cluster *cluster, uint32_t shard)
{
    static const uint64_t one = 1;
    _Atomic uint32_t *sleeping = &cluster->sleeping[shard * SLEEPING_STRIDE];

    atomic_thread_fence(memory_order_seq_cst); /* what was published, then whether it sleeps */
    if (!atomic_load_explicit(sleeping, memory_order_relaxed)) {
        return false;
    }
    return write(cluster->doorbell[shard], &one, sizeof(one)) == sizeof(one) || errno == EAGAIN;
}
