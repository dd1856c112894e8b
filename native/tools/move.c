/* Bringing a frame from one ring to another; see move.h. */
#include "tools/move.h"

#include <string.h>

#include "tools/frames.h"

enum {
    FRAME_SLOTS_MAX = 64,
};

void mover_init(struct mover *mover, struct port *from, struct port *to, bool copy)
{
    *mover = (struct mover){.from = from, .to = to};
    mover->swap = !copy && port_same_region(from, from->rx, to, to->tx) &&
                  tool_header(from) == tool_header(to);
}

uint32_t move_frame_slots(const struct nm_ring *ring, uint32_t at)
{
    uint32_t tail = nm_ring_tail(ring);

    for (uint32_t n = 1; n <= FRAME_SLOTS_MAX; n++) {
        if (!(ring->slot[at].flags & NM_MOREFRAG)) {
            return n;
        }
        at = nm_ring_next(ring, at);
        if (at == tail) {
            return 0;
        }
    }
    return 0;
}

static void swap_slots(struct nm_ring *rx, struct nm_ring *tx, uint32_t at, uint32_t n)
{
    uint32_t to = tx->head;

    for (uint32_t i = 0; i < n; i++) {
        struct nm_slot *from_slot = &rx->slot[at];
        struct nm_slot *to_slot = &tx->slot[to];
        uint32_t buf = to_slot->buf_idx;

        to_slot->buf_idx = from_slot->buf_idx;
        to_slot->len = from_slot->len;
        to_slot->flags = (uint16_t)(NM_BUF_CHANGED | (from_slot->flags & NM_MOREFRAG));
        from_slot->buf_idx = buf;
        from_slot->flags = NM_BUF_CHANGED;
        at = nm_ring_next(rx, at);
        to = nm_ring_next(tx, to);
    }
    nm_ring_give(tx, to);
}

/* Where the bytes of a frame are written: slot after slot, as the buffers' size divides it. */
struct writer {
    struct nm_ring *ring;
    uint32_t slot;
    uint32_t used; /* bytes in the slot */
};

static void writer_next(struct writer *writer)
{
    struct nm_slot *slot = &writer->ring->slot[writer->slot];

    slot->len = (uint16_t)writer->used;
    slot->flags = NM_MOREFRAG;
    writer->slot = nm_ring_next(writer->ring, writer->slot);
    writer->used = 0;
}

static void writer_add(struct writer *writer, const uint8_t *bytes, uint32_t len)
{
    while (len > 0) {
        uint32_t room = writer->ring->nr_buf_size - writer->used;
        uint32_t part = min_u32(len, room);

        if (room == 0) {
            writer_next(writer);
            continue;
        }
        memcpy(nm_ring_buf(writer->ring, writer->slot) + writer->used, bytes, part);
        writer->used += part;
        bytes += part;
        len -= part;
    }
}

/* Zero bytes of `header`, where the source has none. */
static void writer_begin(struct writer *writer, struct port *to, uint32_t header)
{
    static const uint8_t zeros[PORT_VNET_HDR_LEN];

    *writer = (struct writer){.ring = to->tx, .slot = to->tx->head};
    writer_add(writer, zeros, header);
}

static void writer_end(struct writer *writer)
{
    struct nm_slot *slot = &writer->ring->slot[writer->slot];

    slot->len = (uint16_t)writer->used;
    slot->flags = 0;
    nm_ring_give(writer->ring, nm_ring_next(writer->ring, writer->slot));
}

static bool has_room(const struct port *to, uint32_t bytes)
{
    uint32_t slots = (bytes + to->tx->nr_buf_size - 1) / to->tx->nr_buf_size;

    return nm_ring_space(to->tx) >= (slots ? slots : 1);
}

static uint32_t frame_bytes(const struct nm_ring *ring, uint32_t at, uint32_t n)
{
    uint32_t bytes = 0;

    for (; n > 0; n--) {
        bytes += min_u32(ring->slot[at].len, ring->nr_buf_size);
        at = nm_ring_next(ring, at);
    }
    return bytes;
}

/* What a header that the target cannot carry asks for. False: it cannot be done here. */
static bool settle_header(struct port *from, uint32_t at, uint32_t n)
{
    uint8_t *buf = nm_ring_buf(from->rx, at);
    uint32_t len = from->rx->slot[at].len;
    struct vnet_hdr header;

    if (len < sizeof(header)) {
        return false;
    }
    memcpy(&header, buf, sizeof(header));
    if (header.gso_type != VNET_GSO_NONE) {
        return false;
    }
    if (!(header.flags & VNET_F_NEEDS_CSUM)) {
        return true;
    }
    return n == 1 && frame_complete_csum(buf + sizeof(header), len - (uint32_t)sizeof(header),
                                         header.csum_start, header.csum_offset);
}

static enum move_answer copy_frame(const struct mover *mover, uint32_t at, uint32_t n)
{
    struct nm_ring *rx = mover->from->rx;
    uint32_t strip = tool_header(mover->from);
    uint32_t lead = tool_header(mover->to);
    struct writer writer;

    if (strip == lead) {
        strip = lead = 0; /* the header goes along */
    } else if (strip && !settle_header(mover->from, at, n)) {
        return MOVE_UNSENDABLE;
    }
    if (!has_room(mover->to, frame_bytes(rx, at, n) - strip + lead)) {
        return MOVE_NO_ROOM;
    }
    writer_begin(&writer, mover->to, lead);
    for (; n > 0; n--) {
        uint32_t len = max_u32(min_u32(rx->slot[at].len, rx->nr_buf_size), strip);

        writer_add(&writer, nm_ring_buf(rx, at) + strip, len - strip);
        strip = 0;
        at = nm_ring_next(rx, at);
    }
    writer_end(&writer);
    return MOVE_COPIED;
}

uint32_t move_flatten(struct port *from, uint32_t at, uint32_t n, uint8_t *bytes, uint32_t max)
{
    uint32_t strip = tool_header(from);
    uint32_t used = 0;

    if ((strip && !settle_header(from, at, n)) || frame_bytes(from->rx, at, n) - strip > max) {
        return 0;
    }
    for (; n > 0; n--) {
        uint32_t len = max_u32(min_u32(from->rx->slot[at].len, from->rx->nr_buf_size), strip);

        len = min_u32(len - strip, max - used);
        memcpy(bytes + used, nm_ring_buf(from->rx, at) + strip, len);
        used += len;
        strip = 0;
        at = nm_ring_next(from->rx, at);
    }
    return used;
}

enum move_answer move_frame(const struct mover *mover, uint32_t at, uint32_t n)
{
    if (!mover->swap) {
        return copy_frame(mover, at, n);
    }
    if (nm_ring_space(mover->to->tx) < n) {
        return MOVE_NO_ROOM;
    }
    swap_slots(mover->from->rx, mover->to->tx, at, n);
    return MOVE_SWAPPED;
}

enum move_answer move_bytes(struct port *to, const uint8_t *bytes, uint32_t len)
{
    uint32_t lead = tool_header(to);
    struct writer writer;

    if (!has_room(to, len + lead)) {
        return MOVE_NO_ROOM;
    }
    writer_begin(&writer, to, lead);
    writer_add(&writer, bytes, len);
    writer_end(&writer);
    return MOVE_COPIED;
}
