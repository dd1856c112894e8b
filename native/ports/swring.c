/* Netmap rings of a backend's own; see swring.h. */
#include "ports/swring.h"

#include <errno.h>
#include <sys/mman.h>

#include "base/arena.h"
#include "ports/region.h"

int swring_create(struct swring *swring, uint32_t slots, uint32_t buf_size, size_t extra)
{
    struct region_spec spec = {.pairs = 1, .slots = slots};
    struct region region;
    struct nm_if *nifp;
    size_t region_size;
    uint8_t *base;

    region_init(&region, NULL, region_rings_bytes(&spec, 1), NM_BUF_FIRST + 2 * slots, buf_size);
    region_size = (region_bytes(&region) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    base = arena_shared_map("shardserver-rings", region_size + extra);
    if (!base) {
        return -errno;
    }
    region.base = base;
    nifp = region_add_if(&region, "software", &spec);
    *swring = (struct swring){.base = base,
                              .bytes = region_size + extra,
                              .rx = nm_rx_ring(nifp, 0),
                              .tx = nm_tx_ring(nifp, 0),
                              .extra = base + region_size,
                              .bufs = region.bufs};
    return 0;
}

void swring_destroy(struct swring *swring)
{
    if (swring->base) {
        munmap(swring->base, swring->bytes);
    }
    *swring = (struct swring){0};
}
