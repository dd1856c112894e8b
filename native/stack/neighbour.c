/* The neighbour table; see neighbour.h. */
#include "stack/neighbour.h"

#include <string.h>

enum {
    WAYS = 4, /* entries to a cache line */
    REFRESH_S = 60,
    ASK_AGAIN_S = 1,
};

/* first: ip 32 | mac high 16 | check 16.  second: mac low 32 | seconds 32. */
struct entry {
    _Atomic uint64_t first;
    _Atomic uint64_t second;
};

struct neighbour_table {
    _Alignas(CACHE_LINE) uint32_t sets;
    _Alignas(CACHE_LINE) struct entry entry[];
};

struct known {
    uint32_t ip;
    uint32_t seconds;
    uint64_t mac; /* 48 bits; 0: asked for, not answered */
};

static uint64_t check_of(uint32_t ip, uint64_t mac)
{
    uint64_t x = (mac ^ (uint64_t)ip << 16) * 0x9e3779b97f4a7c15u;

    return x >> 48;
}

size_t neighbour_bytes(uint32_t entries)
{
    return sizeof(struct neighbour_table) + (size_t)entries * sizeof(struct entry);
}

struct neighbour_table *neighbour_init(void *memory, uint32_t entries)
{
    struct neighbour_table *table = memory;

    memset(memory, 0, neighbour_bytes(entries));
    table->sets = entries / WAYS;
    return table;
}

static struct entry *set_of(struct neighbour_table *table, uint32_t ip)
{
    uint32_t set = (uint32_t)((ip * 0x9e3779b1u) >> 7) % table->sets;

    return &table->entry[(size_t)set * WAYS];
}

/* False: empty or torn. */
static bool entry_read(struct entry *entry, struct known *known)
{
    uint64_t first = atomic_load_explicit(&entry->first, memory_order_acquire);
    uint64_t second = atomic_load_explicit(&entry->second, memory_order_relaxed);

    known->ip = (uint32_t)(first >> 32);
    known->mac = (first >> 16 & 0xffff) << 32 | second >> 32;
    known->seconds = (uint32_t)second;
    return first != 0 && (first & 0xffff) == check_of(known->ip, known->mac);
}

static void entry_write(struct entry *entry, const struct known *known)
{
    uint64_t first = (uint64_t)known->ip << 32 | (known->mac >> 32 & 0xffff) << 16 |
                     check_of(known->ip, known->mac);
    uint64_t second = known->mac << 32 | known->seconds;

    atomic_store_explicit(&entry->second, second, memory_order_relaxed);
    atomic_store_explicit(&entry->first, first, memory_order_release);
}

/* The entry of an address, or the one to use for it: empty, torn or oldest. */
static struct entry *find(struct neighbour_table *table, uint32_t ip, struct known *known)
{
    struct entry *set = set_of(table, ip);
    struct entry *spare = NULL;
    uint32_t oldest = UINT32_MAX;

    for (int i = 0; i < WAYS; i++) {
        struct known here;
        bool whole = entry_read(&set[i], &here);

        if (whole && here.ip == ip) {
            *known = here;
            return &set[i];
        }
        if (!whole || here.seconds < oldest) {
            oldest = whole ? here.seconds : 0;
            spare = &set[i];
        }
    }
    *known = (struct known){0};
    return spare;
}

static uint64_t pack_mac(const uint8_t mac[6])
{
    uint64_t packed = 0;

    for (int i = 0; i < 6; i++) {
        packed = packed << 8 | mac[i];
    }
    return packed;
}

bool neighbour_lookup(struct neighbour_table *table, uint32_t ip, uint8_t mac[6], uint64_t now_us,
                      bool *ask)
{
    uint32_t now_s = (uint32_t)(now_us / 1000000) + 1;
    struct known known;
    struct entry *entry = find(table, ip, &known);
    bool complete = known.ip == ip && known.mac != 0;
    uint32_t patience = complete ? REFRESH_S : ASK_AGAIN_S;

    *ask = known.ip != ip || now_s - known.seconds >= patience;
    if (*ask) { /* a stale mapping stays in use while it is asked for again */
        known.ip = ip;
        known.seconds = complete ? now_s - REFRESH_S + ASK_AGAIN_S : now_s;
        entry_write(entry, &known);
    }
    for (int i = 0; i < 6 && complete; i++) {
        mac[i] = (uint8_t)(known.mac >> (40 - 8 * i));
    }
    return complete;
}

bool neighbour_update(struct neighbour_table *table, uint32_t ip, const uint8_t mac[6],
                      uint64_t now_us, bool create)
{
    struct known known;
    struct entry *entry = find(table, ip, &known);

    if (known.ip != ip && !create) {
        return false;
    }
    known.ip = ip;
    known.mac = pack_mac(mac);
    known.seconds = (uint32_t)(now_us / 1000000) + 1;
    entry_write(entry, &known);
    return true;
}
