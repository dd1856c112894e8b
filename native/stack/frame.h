/*
 * A received frame while it lives: from the ring (or a lane) to its one verdict, within a turn.
 * Its bytes lie in ring slots or in a lane; a pointer to them dies with the turn.
 */
#pragma once
#include <string.h>

#include "base/compiler.h"
#include "base/wire.h"
#include "ports/netmap_abi.h"
#include "stats/stats.h"

enum {
    BURST_MAX = 64, /* frames taken in one turn */
    CONN_NONE = UINT32_MAX,
};

/* Both ends of a flow, in network order; `l` is ours. */
struct tuple {
    uint32_t laddr;
    uint32_t raddr;
    uint16_t lport;
    uint16_t rport;
};
_Static_assert(sizeof(struct tuple) == 12, "hashed as 12 bytes");

static inline bool tuple_equal(const struct tuple *a, const struct tuple *b)
{
    uint64_t addresses[2];
    uint32_t ports[2];

    memcpy(&addresses[0], a, sizeof(uint64_t));
    memcpy(&addresses[1], b, sizeof(uint64_t));
    memcpy(&ports[0], &a->lport, sizeof(uint32_t));
    memcpy(&ports[1], &b->lport, sizeof(uint32_t));
    return ((addresses[0] ^ addresses[1]) | (ports[0] ^ ports[1])) == 0;
}

enum frame_csum {
    FRAME_CSUM_NONE,    /* verify in software */
    FRAME_CSUM_VALID,   /* verified by whoever handed it to us */
    FRAME_CSUM_PARTIAL, /* a local kernel never finished it: nothing to verify */
};

enum frame_kind {
    FRAME_UNKNOWN,
    FRAME_ARP,
    FRAME_ICMP,
    FRAME_TCP,
};

struct frame {
    const uint8_t *data; /* the Ethernet header */
    uint32_t len;        /* all bytes of the frame, over all its slots */
    uint32_t contig;     /* bytes that follow `data` without a break */
    uint32_t slot;       /* first slot when it came from a ring; the sending shard from a lane */
    uint32_t next;       /* where its ring's or lane's cursor stands behind it */
    uint16_t nslots;     /* 0: from a lane, contiguous */
    uint8_t csum;        /* enum frame_csum */
    uint8_t kind;        /* enum frame_kind */
    uint16_t l3_off;     /* 14, or 18 behind a VLAN tag */
    uint16_t l4_off;
    uint32_t l4_len;    /* header and payload, from the IP header */
    uint16_t gso_size;  /* 0: one segment */
    uint8_t verdict;    /* enum verdict; VERDICT_NONE while it is open */
    uint8_t broadcast;  /* link-layer broadcast or multicast */
    uint32_t conn;      /* index found by steering, CONN_NONE */
    struct tuple tuple; /* TCP only */
    uint64_t hash;      /* keyed flow hash, TCP only */
    const struct nm_ring *ring;
};

/* Copies `len` bytes from offset `off` of the frame, across slots. The range must lie inside. */
void frame_copy(const struct frame *frame, uint32_t off, void *dst, uint32_t len);
/* The unfolded checksum of a range. */
uint64_t frame_sum(const struct frame *frame, uint32_t off, uint32_t len);
