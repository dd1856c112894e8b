/* Building netmap regions; see region.h. */
#include "ports/region.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    NM_API_VERSION = 14,
    REGION_ALIGN = 4096,
    DIR_RX = 0, /* as the kernel stores it, not as its comment says */
    DIR_TX = 1,
};

static size_t align_up(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

/* NIC TX, host TX, NIC RX, host RX: the host counts are at least 1 even without host rings. */
static size_t if_bytes(uint32_t pairs)
{
    return align_up(sizeof(struct nm_if) + (2 * (size_t)pairs + 2) * sizeof(int64_t), CACHE_LINE);
}

static size_t ring_bytes(uint32_t slots)
{
    return align_up(sizeof(struct nm_ring) + slots * sizeof(struct nm_slot), 128);
}

size_t region_rings_bytes(const struct region_spec *specs, uint32_t n)
{
    size_t bytes = 0;

    for (uint32_t i = 0; i < n; i++) {
        bytes = align_up(bytes + if_bytes(specs[i].pairs), 128);
        bytes += 2 * (size_t)specs[i].pairs * ring_bytes(specs[i].slots);
    }
    return align_up(bytes, REGION_ALIGN);
}

void region_init(struct region *region, uint8_t *base, size_t rings_bytes, uint32_t bufs,
                 uint32_t buf_size)
{
    *region = (struct region){.base = base,
                              .buf_size = buf_size,
                              .bufs = bufs,
                              .next_buf = NM_BUF_FIRST,
                              .bufs_offset = rings_bytes};
}

size_t region_bytes(const struct region *region)
{
    return region->bufs_offset + (size_t)region->bufs * region->buf_size;
}

uint32_t region_take_buf(struct region *region)
{
    ENSURE(region->next_buf < region->bufs);
    return region->next_buf++;
}

void region_reset_rx(struct nm_ring *ring)
{
    ring->head = 0;
    ring->cur = 0;
    ring->tail = 0;
}

void region_reset_tx(struct nm_ring *ring)
{
    ring->head = 0;
    ring->cur = 0;
    ring->tail = ring->num_slots - 1;
}

static struct nm_ring *add_ring(struct region *region, uint32_t slots, uint32_t id, uint16_t dir)
{
    struct nm_ring *ring = (struct nm_ring *)(void *)(region->base + region->used);

    ring->buf_ofs = (int64_t)region->bufs_offset - (int64_t)region->used;
    ring->num_slots = slots;
    ring->nr_buf_size = region->buf_size;
    ring->ringid = (uint16_t)id;
    ring->dir = dir;
    ring->buf_align = CACHE_LINE;
    for (uint32_t i = 0; i < slots; i++) {
        ring->slot[i].buf_idx = region_take_buf(region);
    }
    region->used += ring_bytes(slots);
    return ring;
}

struct nm_if *region_add_if(struct region *region, const char *name, const struct region_spec *spec)
{
    struct nm_if *nifp = (struct nm_if *)(void *)(region->base + region->used);
    uint8_t *start = (uint8_t *)nifp;
    uint32_t nic = spec->pairs - spec->host;

    snprintf(nifp->name, sizeof(nifp->name), "%s", name);
    nifp->version = NM_API_VERSION;
    nifp->tx_rings = nic;
    nifp->rx_rings = nic;
    nifp->host_tx_rings = 1;
    nifp->host_rx_rings = 1;
    region->used = align_up(region->used + if_bytes(spec->pairs), 128);
    for (uint32_t i = 0; i < spec->pairs; i++) {
        struct nm_ring *ring = add_ring(region, spec->slots, i, DIR_TX);

        region_reset_tx(ring);
        nifp->ring_ofs[i] = (uint8_t *)ring - start;
    }
    for (uint32_t i = 0; i < spec->pairs; i++) {
        struct nm_ring *ring = add_ring(region, spec->slots, i, DIR_RX);

        region_reset_rx(ring);
        nifp->ring_ofs[nic + 1 + i] = (uint8_t *)ring - start;
    }
    return nifp;
}

int region_audit_begin(struct region_audit *audit, uint32_t bufs)
{
    *audit = (struct region_audit){.seen = calloc(bufs, 1), .bufs = bufs};
    return audit->seen ? 0 : -ENOMEM;
}

void region_audit_buf(struct region_audit *audit, uint32_t buf)
{
    if (buf < audit->bufs && audit->seen[buf] < UINT8_MAX) {
        audit->seen[buf]++;
    }
}

static void audit_ring(struct region_audit *audit, const struct nm_ring *ring)
{
    for (uint32_t i = 0; i < ring->num_slots; i++) {
        region_audit_buf(audit, ring->slot[i].buf_idx);
    }
}

void region_audit_if(struct region_audit *audit, struct nm_if *nifp)
{
    uint32_t host = nifp->ring_ofs[nifp->tx_rings] != 0;

    for (uint32_t i = 0; i < nifp->tx_rings + host; i++) {
        audit_ring(audit, nm_tx_ring(nifp, i));
        audit_ring(audit, nm_rx_ring(nifp, i));
    }
}

int region_audit_end(struct region_audit *audit)
{
    int wrong = 0;

    for (uint32_t i = NM_BUF_FIRST; i < audit->bufs; i++) {
        wrong += audit->seen[i] != 1;
    }
    free(audit->seen);
    return wrong;
}
