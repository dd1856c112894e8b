/* The owner directory; see directory.h. An entry: tag 48 | flags 8 | shard + 1. */
#include "stack/directory.h"

#include <string.h>

enum {
    WAYS = 8, /* entries to a cache line */
    TENTATIVE = 0x100,
    SHARD_MASK = 0xff,
    CANDIDATES = 2 * WAYS,
};

struct directory {
    _Alignas(CACHE_LINE) uint32_t mask; /* buckets - 1 */
    _Alignas(CACHE_LINE) _Atomic uint64_t entry[];
};

static uint32_t buckets_for(uint32_t flows)
{
    uint32_t buckets = 2;

    while ((uint64_t)buckets * WAYS * 3 / 4 < flows) {
        buckets *= 2;
    }
    return buckets;
}

size_t directory_bytes(uint32_t flows)
{
    return sizeof(struct directory) + (size_t)buckets_for(flows) * CACHE_LINE;
}

struct directory *directory_init(void *memory, uint32_t flows)
{
    struct directory *directory = memory;

    memset(memory, 0, directory_bytes(flows));
    directory->mask = buckets_for(flows) - 1;
    return directory;
}

static uint64_t tag_of(uint64_t hash)
{
    return hash & ~(uint64_t)0xffff;
}

/* The k-th of the 16 places where a flow may stand. */
static size_t place(const struct directory *directory, uint64_t hash, uint32_t k)
{
    uint32_t a = (uint32_t)(hash >> 16) & directory->mask;
    uint32_t b = (a ^ ((uint32_t)(hash >> 32) * 0x85ebca6bu | 1)) & directory->mask;

    return (size_t)(k < WAYS ? a : b) * WAYS + k % WAYS;
}

static uint64_t load(const struct directory *directory, size_t at)
{
    return atomic_load_explicit(&directory->entry[at], memory_order_acquire);
}

static bool same_flow(uint64_t entry, uint64_t hash)
{
    return entry != 0 && tag_of(entry) == tag_of(hash);
}

static uint32_t shard_of(uint64_t entry)
{
    return (uint32_t)(entry & SHARD_MASK) - 1;
}

bool directory_find(const struct directory *directory, uint64_t hash, uint32_t *owner)
{
    for (uint32_t k = 0; k < CANDIDATES; k++) {
        uint64_t entry = load(directory, place(directory, hash, k));

        if (same_flow(entry, hash) && !(entry & TENTATIVE)) {
            *owner = shard_of(entry);
            return true;
        }
    }
    return false;
}

/* After our tentative entry stands: does anybody else claim the same flow? */
static bool contested(const struct directory *directory, uint64_t hash, size_t mine)
{
    atomic_thread_fence(memory_order_seq_cst); /* ours stands before we look: one of two sees */
    for (uint32_t k = 0; k < CANDIDATES; k++) {
        size_t at = place(directory, hash, k);

        if (at != mine && same_flow(load(directory, at), hash)) {
            return true;
        }
    }
    return false;
}

/*
 * What stands there already. CLAIM_FULL: nothing of this flow; `spare` is a free place, if any, in
 * the emptier bucket: so both fill evenly, and none is full before the table nearly is.
 */
static enum directory_claim look(const struct directory *directory, uint64_t hash, uint32_t shard,
                                 uint32_t *owner, size_t *spare)
{
    size_t last[2] = {SIZE_MAX, SIZE_MAX}; /* a free place in each bucket */
    uint32_t room[2] = {0, 0};

    for (uint32_t k = 0; k < CANDIDATES; k++) {
        size_t at = place(directory, hash, k);
        uint64_t entry = load(directory, at);

        if (entry == 0) {
            last[k / WAYS] = at;
            room[k / WAYS]++;
        } else if (same_flow(entry, hash)) {
            *owner = shard_of(entry);
            if (entry & TENTATIVE) {
                return CLAIM_RACE;
            }
            return *owner == shard ? CLAIM_MINE : CLAIM_OTHER;
        }
    }
    *spare = last[room[1] > room[0]];
    return CLAIM_FULL;
}

enum directory_claim directory_claim(struct directory *directory, uint64_t hash, uint32_t shard,
                                     uint32_t *owner)
{
    uint64_t wanted = tag_of(hash) | TENTATIVE | (shard + 1);
    size_t spare = SIZE_MAX;
    uint64_t empty = 0;
    enum directory_claim found = look(directory, hash, shard, owner, &spare);

    if (found != CLAIM_FULL || spare == SIZE_MAX) {
        return found;
    }
    if (!atomic_compare_exchange_strong(&directory->entry[spare], &empty, wanted)) {
        return CLAIM_RACE;
    }
    if (contested(directory, hash, spare)) {
        atomic_store(&directory->entry[spare], 0);
        return CLAIM_RACE;
    }
    atomic_store(&directory->entry[spare], wanted & ~(uint64_t)TENTATIVE);
    *owner = shard;
    return CLAIM_MINE;
}

void directory_clear(struct directory *directory, uint64_t hash, uint32_t shard)
{
    for (uint32_t k = 0; k < CANDIDATES; k++) {
        size_t at = place(directory, hash, k);
        uint64_t entry = load(directory, at);

        if (same_flow(entry, hash) && shard_of(entry) == shard) {
            atomic_compare_exchange_strong(&directory->entry[at], &entry, 0);
        }
    }
}

void directory_forget_tentative(struct directory *directory, uint32_t shard)
{
    size_t entries = ((size_t)directory->mask + 1) * WAYS;

    for (size_t at = 0; at < entries; at++) {
        uint64_t entry = load(directory, at);

        if ((entry & TENTATIVE) && shard_of(entry) == shard) {
            atomic_compare_exchange_strong(&directory->entry[at], &entry, 0);
        }
    }
}

uint32_t directory_count(const struct directory *directory, uint32_t shard)
{
    size_t entries = ((size_t)directory->mask + 1) * WAYS;
    uint32_t count = 0;

    for (size_t at = 0; at < entries; at++) {
        uint64_t entry = load(directory, at);

        count += entry != 0 && shard_of(entry) == shard;
    }
    return count;
}
