/* Sizes of netmap's pools; see netmap_limits.h. */
#include "ports/netmap_limits.h"

#include <inttypes.h>
#include <stdio.h>

#include "ports/netmap_abi.h"

enum {
    ETH_OVERHEAD = 18, /* header and a VLAN tag */
};

uint64_t netmap_ring_bytes(uint32_t slots)
{
    return NM_RING_SLOTS_OFS + (uint64_t)slots * sizeof(struct nm_slot);
}

static uint64_t rings_of(const struct netmap_want *want)
{
    return (uint64_t)want->tx_rings + want->rx_rings;
}

static uint64_t bufs_of(const struct netmap_want *want)
{
    return (uint64_t)want->tx_rings * want->tx_slots + (uint64_t)want->rx_rings * want->rx_slots +
           want->extra_bufs;
}

uint64_t netmap_if_bytes(uint32_t rings)
{
    return NM_IF_RING_OFS + rings * sizeof(int64_t);
}

/* The value in force, or what the next first user will get. */
static uint64_t read_one(const struct netmap_kernel *kernel, const char *object, const char *what)
{
    char name[32];
    uint64_t value = 0;

    snprintf(name, sizeof(name), "%s_curr_%s", object, what);
    if (kernel->parameter(name, &value) == 0 && value != 0) {
        return value;
    }
    snprintf(name, sizeof(name), "%s_%s", object, what);
    return kernel->parameter(name, &value) == 0 ? value : 0;
}

void netmap_limits_read(struct netmap_limits *limits, const struct netmap_kernel *kernel)
{
    limits->ring_size = read_one(kernel, "ring", "size");
    limits->ring_num = read_one(kernel, "ring", "num");
    limits->if_size = read_one(kernel, "if", "size");
    limits->if_num = read_one(kernel, "if", "num");
    limits->buf_size = read_one(kernel, "buf", "size");
    limits->buf_num = read_one(kernel, "buf", "num");
}

static bool beyond(uint64_t need, uint64_t limit)
{
    return limit != 0 && need > limit;
}

bool netmap_limits_check(const struct netmap_limits *limits, const struct netmap_want *want,
                         char *sentence, size_t room)
{
    uint32_t slots = want->tx_slots > want->rx_slots ? want->tx_slots : want->rx_slots;
    const char *how = "while no port is open, echo";
    const char *where = "/sys/module/netmap/parameters";

    if (beyond(netmap_ring_bytes(slots), limits->ring_size)) {
        uint64_t fit = (limits->ring_size - NM_RING_SLOTS_OFS) / sizeof(struct nm_slot);

        snprintf(sentence, room,
                 "a ring of %u slots takes %" PRIu64 " bytes, netmap's hold %" PRIu64
                 ": ethtool -G down to %" PRIu64 " slots, or %s %" PRIu64 " > %s/ring_size",
                 slots, netmap_ring_bytes(slots), limits->ring_size, fit, how,
                 netmap_ring_bytes(slots), where);
    } else if (beyond(netmap_if_bytes(want->all_rings), limits->if_size)) {
        snprintf(sentence, room,
                 "%u rings take an interface object of %" PRIu64 " bytes, netmap's hold %" PRIu64
                 ": fewer channels (ethtool -L), or %s %" PRIu64 " > %s/if_size",
                 want->all_rings, netmap_if_bytes(want->all_rings), limits->if_size, how,
                 netmap_if_bytes(want->all_rings), where);
    } else if (beyond(rings_of(want), limits->ring_num)) {
        snprintf(sentence, room,
                 "%" PRIu64 " rings, netmap has %" PRIu64
                 ": fewer channels (ethtool -L), or %s %" PRIu64 " > %s/ring_num",
                 rings_of(want), limits->ring_num, how, rings_of(want), where);
    } else if (beyond(bufs_of(want), limits->buf_num)) {
        snprintf(sentence, room,
                 "%" PRIu64 " buffers, netmap has %" PRIu64 ": shorter rings, or %s %" PRIu64
                 " > %s/buf_num",
                 bufs_of(want), limits->buf_num, how, bufs_of(want), where);
    } else if (beyond(want->descriptors, limits->if_num)) {
        snprintf(sentence, room,
                 "%u descriptors, netmap has room for %" PRIu64
                 ": fewer workers, or %s %u > %s/if_num",
                 want->descriptors, limits->if_num, how, want->descriptors, where);
    } else if (beyond(want->mtu ? want->mtu + ETH_OVERHEAD : 0, limits->buf_size)) {
        snprintf(sentence, room,
                 "frames of MTU %u do not fit into netmap's buffers of %" PRIu64
                 " bytes: ip link set mtu %" PRIu64 ", or %s 16384 > %s/buf_size",
                 want->mtu, limits->buf_size, limits->buf_size - ETH_OVERHEAD, how, where);
    } else {
        return true;
    }
    return false;
}
