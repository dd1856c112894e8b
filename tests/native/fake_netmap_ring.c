/* The fake module's memory and its syncs; see fake_netmap.h. */
#include <string.h>
#include <sys/mman.h>

#include "fake_netmap.h"

enum {
    IF_OFFSET = 0,
    RING_OFFSET = IF_OFFSET + FAKE_IF_OBJECTS * FAKE_IF_BYTES,
    BUF_OFFSET = RING_OFFSET + FAKE_RING_OBJECTS * FAKE_RING_BYTES,
    REGION_BYTES = BUF_OFFSET + FAKE_BUFS * FAKE_BUF_SIZE,
};

size_t fake_region_bytes(void)
{
    return REGION_BYTES;
}

uint8_t *fake_buf(uint32_t index)
{
    return fake_buf_at(0, index);
}

uint8_t *fake_buf_at(uint32_t region, uint32_t index)
{
    return fake_region_at(region) + BUF_OFFSET + (size_t)index * FAKE_BUF_SIZE;
}

uint32_t fake_buf_take(uint32_t region)
{
    for (uint32_t i = NM_BUF_FIRST; i < FAKE_BUFS; i++) {
        if (!fake->buf_used[region][i]) {
            fake->buf_used[region][i] = 1;
            return i;
        }
    }
    return 0;
}

uint64_t fake_ring_offset(const struct fake_kring *kring)
{
    return RING_OFFSET + (uint64_t)(kring->object - 1) * FAKE_RING_BYTES;
}

struct nm_ring *fake_ring(const struct fake_kring *kring)
{
    return (struct nm_ring *)(void *)(fake_region_at(kring->region) + fake_ring_offset(kring));
}

static uint32_t take_object(uint32_t region)
{
    for (uint32_t i = 0; i < FAKE_RING_OBJECTS; i++) {
        if (!fake->ring_used[region][i]) {
            fake->ring_used[region][i] = 1;
            return i + 1;
        }
    }
    return 0;
}

bool fake_ring_create(struct fake_port *port, enum fake_dir dir, uint32_t index)
{
    struct fake_kring *kring = &port->kring[dir][index];
    struct nm_ring *ring;

    kring->slots = port->slots[dir];
    kring->region = port->mem_id - 1u;
    if (NM_RING_SLOTS_OFS + kring->slots * sizeof(struct nm_slot) > fake->ring_size) {
        return false;
    }
    kring->object = take_object(kring->region);
    if (kring->object == 0) {
        return false;
    }
    ring = fake_ring(kring);
    memset(ring, 0, sizeof(*ring));
    ring->buf_ofs = BUF_OFFSET - (int64_t)fake_ring_offset(kring);
    ring->num_slots = kring->slots;
    ring->nr_buf_size = FAKE_BUF_SIZE;
    ring->ringid = (uint16_t)index;
    ring->dir = (uint16_t)dir;
    for (uint32_t i = 0; i < kring->slots; i++) {
        ring->slot[i] =
            (struct nm_slot){.buf_idx = fake_buf_take(kring->region), .len = FAKE_BUF_SIZE};
    }
    kring->hwcur = 0;
    kring->hwtail = dir == FAKE_TX ? kring->slots - 1 : 0;
    ring->tail = kring->hwtail;
    return true;
}

void fake_ring_delete(struct fake_kring *kring)
{
    const struct nm_ring *ring = fake_ring(kring);

    for (uint32_t i = 0; i < kring->slots; i++) {
        fake->buf_used[kring->region][ring->slot[i].buf_idx] = 0;
    }
    fake->ring_used[kring->region][kring->object - 1] = 0;
    kring->object = 0;
}

/* head in [from, to] and cur in [head, to]: anything else the kernel re-initialises quietly. */
static bool user_valid(struct nm_ring *ring, uint32_t from, uint32_t to)
{
    uint32_t span = nm_ring_distance(ring, from, to);

    if (ring->head >= ring->num_slots || ring->cur >= ring->num_slots) {
        ring->head = ring->cur = from;
        return false;
    }
    return nm_ring_distance(ring, from, ring->head) <= span &&
           nm_ring_distance(ring, from, ring->cur) <= span;
}

static bool wire_put(struct fake_wire *wire, const void *data, uint32_t len)
{
    uint32_t at = (wire->first + wire->n) % FAKE_WIRE_MAX;

    if (wire->n == FAKE_WIRE_MAX || len > FAKE_FRAME_MAX) {
        return false;
    }
    memcpy(wire->data[at], data, len);
    wire->len[at] = len;
    wire->n++;
    return true;
}

bool fake_wire_put(struct fake_wire *wire, const void *data, uint32_t len)
{
    return wire_put(wire, data, len);
}

bool fake_receive(struct fake_port *port, uint32_t ring, const void *data, uint32_t len)
{
    return wire_put(&port->kring[FAKE_RX][ring].wire, data, len);
}

static uint32_t wire_take(struct fake_wire *wire, void *data)
{
    uint32_t len = wire->len[wire->first];

    if (wire->n == 0) {
        return 0;
    }
    memcpy(data, wire->data[wire->first], len);
    wire->first = (wire->first + 1) % FAKE_WIRE_MAX;
    wire->n--;
    return len;
}

uint32_t fake_sent(struct fake_port *port, uint32_t ring, void *data)
{
    return wire_take(&port->kring[FAKE_TX][ring].wire, data);
}

uint32_t fake_went_up(struct fake_port *port, void *data)
{
    return wire_take(&port->up, data);
}

/* Marked slots that the user gives back go to the host, a frame each. */
static void send_up(struct fake_port *port, const struct fake_kring *kring, struct nm_ring *ring)
{
    for (uint32_t i = kring->hwcur; i != ring->head; i = nm_ring_next(ring, i)) {
        struct nm_slot *slot = &ring->slot[i];

        if ((ring->flags & NM_RING_FORWARD) && (slot->flags & NM_FORWARD)) {
            slot->flags &= (uint16_t)~NM_FORWARD;
            wire_put(&port->up, fake_buf(slot->buf_idx), slot->len);
        }
    }
}

/* The frame on the wire into as many slots as it takes; false: no room for it. */
static bool deliver(struct fake_kring *kring, struct nm_ring *ring)
{
    struct fake_wire *wire = &kring->wire;
    const uint8_t *data = wire->data[wire->first];
    uint32_t left = wire->len[wire->first];
    uint32_t room = kring->slots - 1 - nm_ring_distance(ring, kring->hwcur, kring->hwtail);

    if (wire->n == 0 || (left + FAKE_BUF_SIZE - 1) / FAKE_BUF_SIZE > room) {
        return false;
    }
    while (left > 0) {
        struct nm_slot *slot = &ring->slot[kring->hwtail];
        uint32_t part = left < FAKE_BUF_SIZE ? left : FAKE_BUF_SIZE;

        memcpy(fake_buf_at(kring->region, slot->buf_idx), data, part);
        left -= part;
        data += part;
        slot->len = (uint16_t)part;
        slot->flags = left > 0 ? NM_MOREFRAG : 0;
        kring->hwtail = nm_ring_next(ring, kring->hwtail);
    }
    wire->first = (wire->first + 1) % FAKE_WIRE_MAX;
    wire->n--;
    return true;
}

static void rx_sync(struct fake_port *port, struct fake_kring *kring, struct nm_ring *ring)
{
    send_up(port, kring, ring);
    kring->hwcur = ring->head;
    while (deliver(kring, ring)) {
    }
}

/* Slots up to head leave as frames: onto a NIC's wire while it takes them, or to a switch's ports.
 */
static void send_out(struct fake_port *port, struct fake_kring *kring, const struct nm_ring *ring)
{
    uint8_t frame[FAKE_FRAME_MAX];
    uint32_t len = 0;

    for (uint32_t at = kring->hwcur; at != ring->head;) {
        const struct nm_slot *slot = &ring->slot[at];

        if (len + slot->len > FAKE_FRAME_MAX) {
            return;
        }
        memcpy(frame + len, fake_buf_at(kring->region, slot->buf_idx), slot->len);
        len += slot->len;
        at = nm_ring_next(ring, at);
        if (slot->flags & NM_MOREFRAG) {
            continue;
        }
        if (fake_is_switch(port)) {
            fake_switch_frame(port, frame, len);
        } else if (!wire_put(&kring->wire, frame, len)) {
            return;
        }
        kring->hwcur = at;
        len = 0;
    }
}

static void tx_sync(struct fake_port *port, struct fake_kring *kring, const struct nm_ring *ring)
{
    uint32_t before = kring->hwcur;
    uint32_t done;

    if (port->stuck > 0 || port->down) {
        port->stuck -= port->stuck > 0;
        return;
    }
    send_out(port, kring, ring);
    done = port->slow ? before : kring->hwcur;
    kring->hwtail = done == 0 ? kring->slots - 1 : done - 1;
}

void fake_sync(struct fake_port *port, enum fake_dir dir, uint32_t index)
{
    struct fake_kring *kring = &port->kring[dir][index];
    struct nm_ring *ring = fake_ring(kring);
    uint32_t from = kring->hwcur;

    fake->syncs++;
    ring->tail = kring->hwtail;
    if (!user_valid(ring, from, kring->hwtail)) {
        return;
    }
    if (port->down && dir == FAKE_RX) {
        kring->wire.n = 0;
    }
    if (port->peer == 0 && dir == FAKE_RX) {
        rx_sync(port, kring, ring);
    } else if (port->peer == 0) {
        tx_sync(port, kring, ring);
    } else {
        struct fake_kring *other = &fake->port[port->peer - 1].kring[!dir][index];

        if (dir == FAKE_RX) {
            fake_pipe_rx(kring, other, ring);
        } else {
            fake_pipe_tx(kring, other, ring);
        }
    }
    __atomic_store_n(&ring->tail, kring->hwtail, __ATOMIC_RELEASE);
}
