/* Where a switch has last seen an address: one word an entry, the newest takes the place. */
#include <string.h>

#include "base/hash.h"
#include "ports/vale.h"

enum {
    AGE_BITS = 8,
    PORT_BITS = 8,
    SECOND_SHIFT = 20, /* microseconds to about seconds */
};

static uint64_t mac_bits(const uint8_t *mac)
{
    uint64_t bits = 0;

    memcpy(&bits, mac, 6);
    return bits;
}

static vale_entry *entry_of(struct vale_shared *shared, uint64_t mac)
{
    return &shared->table[hash_fold(mac, 0x9e3779b97f4a7c15u) % VALE_TABLE];
}

static uint64_t seconds(uint64_t now_us)
{
    return now_us >> SECOND_SHIFT & 0xff;
}

uint32_t vale_find(struct vale_shared *shared, const uint8_t *mac, uint64_t now_us)
{
    uint64_t bits = mac_bits(mac);
    uint64_t entry = atomic_load_explicit(entry_of(shared, bits), memory_order_relaxed);
    uint32_t port = (uint32_t)(entry >> AGE_BITS & 0xff);

    if (entry >> (AGE_BITS + PORT_BITS) != bits || port >= VALE_PORTS ||
        ((seconds(now_us) - entry) & 0xff) > VALE_AGE_S) {
        return VALE_PORTS;
    }
    return port;
}

void vale_learn(struct vale_shared *shared, const uint8_t *mac, uint32_t port, uint64_t now_us)
{
    uint64_t bits = mac_bits(mac);
    vale_entry *entry = entry_of(shared, bits);
    uint64_t wanted = bits << (AGE_BITS + PORT_BITS) | (uint64_t)port << AGE_BITS | seconds(now_us);

    if (!(mac[0] & 1) && atomic_load_explicit(entry, memory_order_relaxed) != wanted) {
        atomic_store_explicit(entry, wanted, memory_order_relaxed);
    }
}
