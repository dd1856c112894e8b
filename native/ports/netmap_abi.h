/*
 * netmap's shared memory, from its published layout: our own declarations, byte for byte, and the
 * ring arithmetic. head and cur are the user's, tail the kernel's (or the other side's).
 */
#pragma once
#include "base/compiler.h"

enum {
    NM_BUF_CHANGED = 0x0001, /* the slot's buffer was exchanged */
    NM_REPORT = 0x0002,
    NM_FORWARD = 0x0004,
    NM_NO_LEARN = 0x0008,
    NM_INDIRECT = 0x0010,
    NM_MOREFRAG = 0x0020,     /* the frame goes on in the next slot */
    NM_RING_FORWARD = 0x0004, /* of a ring: NM_FORWARD in its slots is heeded */
    NM_IF_RING_OFS = 56,
    NM_RING_SLOTS_OFS = 256,
    NM_BUF_FIRST = 2, /* indices 0 and 1 are reserved */
};

struct nm_slot {
    uint32_t buf_idx;
    uint16_t len;
    uint16_t flags;
    uint64_t ptr;
};

struct nm_ring {
    int64_t buf_ofs; /* from this ring to buffer 0 */
    uint32_t num_slots;
    uint32_t nr_buf_size;
    uint16_t ringid;
    uint16_t dir;
    uint32_t head;
    uint32_t cur;
    uint32_t tail;
    uint32_t flags;
    uint32_t pad;
    int64_t ts[2];
    uint64_t offset_mask;
    uint64_t buf_align;
    uint8_t reserved[56];
    uint8_t sem[128];
    struct nm_slot slot[];
};

struct nm_if {
    char name[16];
    uint32_t version;
    uint32_t flags;
    uint32_t tx_rings;
    uint32_t rx_rings;
    uint32_t bufs_head;
    uint32_t host_tx_rings;
    uint32_t host_rx_rings;
    uint32_t spare[3];
    int64_t ring_ofs[]; /* NIC TX, host TX, NIC RX, host RX; from this netmap_if */
};

_Static_assert(sizeof(struct nm_slot) == 16, "netmap_slot");
_Static_assert(offsetof(struct nm_ring, head) == 20, "netmap_ring.head");
_Static_assert(offsetof(struct nm_ring, cur) == 24, "netmap_ring.cur");
_Static_assert(offsetof(struct nm_ring, tail) == 28, "netmap_ring.tail");
_Static_assert(offsetof(struct nm_ring, ts) == 40, "netmap_ring.ts");
_Static_assert(offsetof(struct nm_ring, offset_mask) == 56, "netmap_ring.offset_mask");
_Static_assert(offsetof(struct nm_ring, buf_align) == 64, "netmap_ring.buf_align");
_Static_assert(offsetof(struct nm_ring, sem) == 128, "netmap_ring.sem");
_Static_assert(offsetof(struct nm_ring, slot) == NM_RING_SLOTS_OFS, "netmap_ring.slot");
_Static_assert(offsetof(struct nm_if, ring_ofs) == NM_IF_RING_OFS, "netmap_if.ring_ofs");

static inline uint32_t nm_ring_next(const struct nm_ring *ring, uint32_t i)
{
    return unlikely(i + 1 == ring->num_slots) ? 0 : i + 1;
}

static inline uint32_t nm_ring_tail(const struct nm_ring *ring)
{
    return __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
}

/* Slots from `from` to `to`, modulo the ring. */
static inline uint32_t nm_ring_distance(const struct nm_ring *ring, uint32_t from, uint32_t to)
{
    return to >= from ? to - from : to + ring->num_slots - from;
}

/* Slots that the user may still use. */
static inline uint32_t nm_ring_space(const struct nm_ring *ring)
{
    return nm_ring_distance(ring, ring->cur, nm_ring_tail(ring));
}

static inline bool nm_ring_empty(const struct nm_ring *ring)
{
    return ring->head == nm_ring_tail(ring);
}

/* Gives everything before `head` back at the next sync. */
static inline void nm_ring_give(struct nm_ring *ring, uint32_t head)
{
    ring->cur = head;
    __atomic_store_n(&ring->head, head, __ATOMIC_RELEASE);
}

/* The bytes of a slot. Whoever owns the ring has validated buf_idx when the slot came in. */
static inline uint8_t *nm_ring_buf(const struct nm_ring *ring, uint32_t slot)
{
    return (uint8_t *)(uintptr_t)ring + ring->buf_ofs +
           (size_t)ring->slot[slot].buf_idx * ring->nr_buf_size;
}

static inline struct nm_ring *nm_tx_ring(struct nm_if *nifp, uint32_t i)
{
    return (struct nm_ring *)(void *)((uint8_t *)nifp + nifp->ring_ofs[i]);
}

static inline struct nm_ring *nm_rx_ring(struct nm_if *nifp, uint32_t i)
{
    return (struct nm_ring *)(void *)((uint8_t *)nifp +
                                      nifp->ring_ofs[nifp->tx_rings + nifp->host_tx_rings + i]);
}
