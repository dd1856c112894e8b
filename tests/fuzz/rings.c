/* Ring pairs under a user that keeps the rules; see rings.h. */
#include "rings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "ports/region.h"

void rings_make(struct swring *rings, uint32_t slots, uint32_t buf_size, size_t extra)
{
    struct region_spec spec = {.pairs = 1, .slots = slots};
    struct region region;
    struct nm_if *nifp;
    size_t bytes;
    uint8_t *base;

    region_init(&region, NULL, region_rings_bytes(&spec, 1), NM_BUF_FIRST + 2 * slots, buf_size);
    bytes = (region_bytes(&region) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    base = aligned_alloc(CACHE_LINE, bytes + (extra + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    ENSURE(base);
    memset(base, 0, bytes + extra);
    region.base = base;
    nifp = region_add_if(&region, "fuzz", &spec);
    *rings = (struct swring){.base = base,
                             .bytes = bytes + extra,
                             .rx = nm_rx_ring(nifp, 0),
                             .tx = nm_tx_ring(nifp, 0),
                             .extra = base + bytes,
                             .bufs = region.bufs};
}

void rings_free(struct swring *rings)
{
    struct region_audit audit;

    CHECK_EQ(region_audit_begin(&audit, rings->bufs), 0);
    for (uint32_t i = 0; i < rings->rx->num_slots; i++) {
        region_audit_buf(&audit, rings->rx->slot[i].buf_idx);
        region_audit_buf(&audit, rings->tx->slot[i].buf_idx);
    }
    CHECK_EQ(region_audit_end(&audit), 0);
    free(rings->base);
    *rings = (struct swring){0};
}

uint32_t rings_wild(struct input *input, uint32_t limit)
{
    uint8_t how = input_u8(input);

    switch (how & 3) {
    case 0:
        return how >> 2;
    case 1:
        return limit - 32 + (how >> 2);
    case 2:
        return input_u32(input);
    default:
        return input_u16(input) % (limit + 2);
    }
}

/* The slots that are the user's now: all of them can be followed. */
static void check_slots(const struct rings_user *user, const struct nm_ring *ring, bool rx)
{
    bool first = !user->in_frame;

    if (!CHECK(ring->head < user->slots) || !CHECK(ring->tail < user->slots)) {
        return;
    }
    for (uint32_t i = ring->head; i != ring->tail; i = nm_ring_next(ring, i)) {
        const struct nm_slot *slot = &ring->slot[i];

        CHECK(slot->buf_idx >= NM_BUF_FIRST && slot->buf_idx < user->bufs);
        CHECK(!rx || slot->len <= ring->nr_buf_size);
        CHECK(!rx || !first || slot->len >= user->min_len);
        first = !(slot->flags & NM_MOREFRAG);
    }
}

static int sync_once(struct rings_user *user, bool rx)
{
    struct port *port = user->port;
    uint64_t errors = port->counters->errors;
    int code = rx ? port->ops->rx_sync(port, user->now_us) : port->ops->tx_sync(port, user->now_us);

    CHECK(code == 0 || code == -EIO || code == -ENODEV);
    CHECK(code != -EIO || port->counters->errors > errors); /* a stop has a counter */
    user->stopped = code != 0;
    fuzz_say("  %s sync: %d\n", rx ? "rx" : "tx", code);
    return code;
}

int rings_rx(struct rings_user *user)
{
    int code = user->stopped ? -EIO : sync_once(user, true);

    user->rx_ready = code == 0;
    user->tx_ready = code == 0 && !user->tx_spoilt; /* answers are written while frames are read */
    if (code == 0) {
        check_slots(user, user->port->rx, true);
    }
    if (user->tx_ready) {
        check_slots(user, user->port->tx, false);
    }
    fuzz_settle(); /* before anybody follows what is wrong */
    return code;
}

int rings_tx(struct rings_user *user)
{
    int code = user->stopped ? -EIO : sync_once(user, false);

    user->tx_ready = code == 0;
    if (code == 0) {
        user->tx_spoilt = false;
        check_slots(user, user->port->tx, false);
    }
    fuzz_settle();
    return code;
}

void rings_take(struct rings_user *user, uint32_t n)
{
    struct nm_ring *ring = user->port->rx;
    volatile uint8_t sum = 0;

    for (; n > 0 && user->rx_ready && !nm_ring_empty(ring); n--) {
        const uint8_t *bytes = nm_ring_buf(ring, ring->head);

        for (uint32_t i = 0; i < ring->slot[ring->head].len; i++) {
            sum = (uint8_t)(sum + bytes[i]);
        }
        user->in_frame = ring->slot[ring->head].flags & NM_MOREFRAG;
        nm_ring_give(ring, nm_ring_next(ring, ring->head));
    }
}

void rings_put(struct rings_user *user, uint32_t slots, uint16_t len)
{
    struct nm_ring *ring = user->port->tx;

    if (!user->tx_ready || nm_ring_distance(ring, ring->head, ring->tail) < slots) {
        return;
    }
    for (uint32_t i = 0; i < slots; i++) {
        memset(nm_ring_buf(ring, ring->head), 0, ring->nr_buf_size);
        ring->slot[ring->head].len = (uint16_t)max_u32(len, i == 0 ? user->min_len + 1 : 1);
        ring->slot[ring->head].flags = i + 1 < slots ? NM_MOREFRAG : 0;
        nm_ring_give(ring, nm_ring_next(ring, ring->head));
    }
}

void rings_recover(struct rings_user *user)
{
    user->rx_ready = user->tx_ready = false;
    user->stopped = user->port->ops->recover(user->port) != 0;
}
