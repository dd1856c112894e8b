/* Bringing a frame from one ring to another; see move.h. */
#include "tools/move.h"

#include <string.h>

#include "tools/frames.h"

enum {
    FRAME_SLOTS_MAX = 64,
    LINK_MAX = 22, /* what an MTU does not count: Ethernet and two tags */
};

void mover_init(struct mover *mover, struct port *from, struct port *to, bool copy)
{
    *mover = (struct mover){.from = from, .to = to};
    mover->swap = !copy && port_same_region(from, from->rx, to, to->tx) &&
                  tool_header(from) == tool_header(to);
}

void mover_cut(struct mover *mover, struct move_scratch *scratch, uint32_t mtu)
{
    mover->scratch = scratch;
    mover->mtu = mtu;
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

static uint32_t slots_of(const struct port *to, uint32_t bytes)
{
    uint32_t slots = (bytes + to->tx->nr_buf_size - 1) / to->tx->nr_buf_size;

    return slots ? slots : 1;
}

static bool has_room(const struct port *to, uint32_t bytes)
{
    return nm_ring_space(to->tx) >= slots_of(to, bytes);
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

/* The checksum that was left to a card. False: it cannot be finished in one piece. */
static bool complete(uint8_t *frame, uint32_t len, struct vnet_hdr *hdr)
{
    hdr->flags &= (uint8_t)~VNET_F_NEEDS_CSUM;
    return frame_complete_csum(frame, len, hdr->csum_start, hdr->csum_offset);
}

static bool read_header(const struct port *from, uint32_t at, struct vnet_hdr *hdr)
{
    *hdr = (struct vnet_hdr){0};
    if (tool_header(from) == 0) {
        return true;
    }
    memcpy(hdr, nm_ring_buf(from->rx, at), sizeof(*hdr));
    return from->rx->slot[at].len >= sizeof(*hdr);
}

/*
 * Whether the target takes the frame as it stands: its header, or none, and its length. A checksum
 * is finished in place where that is all it takes.
 */
static bool is_ready(const struct mover *mover, uint32_t at, uint32_t n)
{
    struct port *from = mover->from;
    uint8_t *buf = nm_ring_buf(from->rx, at);
    uint32_t len = min_u32(from->rx->slot[at].len, from->rx->nr_buf_size);
    struct vnet_hdr hdr;

    if (!read_header(from, at, &hdr)) {
        return false;
    }
    if (hdr.gso_type != VNET_GSO_NONE) {
        return mover->to->caps & PORT_CAP_TX_GSO;
    }
    if (hdr.flags & VNET_F_NEEDS_CSUM && !(mover->to->caps & PORT_CAP_TX_CSUM)) {
        if (n > 1 || !complete(buf + sizeof(hdr), len - (uint32_t)sizeof(hdr), &hdr)) {
            return false;
        }
        memcpy(buf, &hdr, sizeof(hdr));
    }
    return tool_header(from) == 0 || !mover->scratch || mover->mtu == 0 ||
           frame_bytes(from->rx, at, n) <= mover->mtu + LINK_MAX + tool_header(from);
}

static enum move_answer copy_frame(const struct mover *mover, uint32_t at, uint32_t n)
{
    struct nm_ring *rx = mover->from->rx;
    uint32_t strip = tool_header(mover->from);
    uint32_t lead = tool_header(mover->to);
    struct writer writer;

    if (strip == lead) {
        strip = lead = 0; /* the header goes along */
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

/* The frame's bytes without a port's header; 0: too many, or none. */
static uint32_t flatten(const struct port *from, uint32_t at, uint32_t n, uint8_t *bytes)
{
    uint32_t strip = tool_header(from);
    uint32_t used = 0;

    if (frame_bytes(from->rx, at, n) > MOVE_FRAME_MAX) {
        return 0;
    }
    for (; n > 0; n--) {
        uint32_t len = max_u32(min_u32(from->rx->slot[at].len, from->rx->nr_buf_size), strip);

        memcpy(bytes + used, nm_ring_buf(from->rx, at) + strip, len - strip);
        used += len - strip;
        strip = 0;
        at = nm_ring_next(from->rx, at);
    }
    return used;
}

bool move_pieces(const struct mover *mover, uint32_t at, uint32_t n, struct move_pieces *pieces)
{
    struct vnet_hdr hdr;
    uint32_t len;
    bool gso;

    if (!mover->scratch || !read_header(mover->from, at, &hdr)) {
        return false;
    }
    gso = hdr.gso_type != VNET_GSO_NONE;
    len = flatten(mover->from, at, n, mover->scratch->whole);
    if (len == 0 ||
        (!gso && hdr.flags & VNET_F_NEEDS_CSUM && !complete(mover->scratch->whole, len, &hdr))) {
        return false;
    }
    *pieces = (struct move_pieces){.bytes = mover->scratch->whole, .len = len, .n = 1};
    if ((gso || (mover->mtu && len > mover->mtu + LINK_MAX)) &&
        cut_init(&pieces->cut, &hdr, mover->scratch->whole, len, mover->mtu)) {
        pieces->n = pieces->cut.n;
        return true;
    }
    pieces->whole = true; /* longer than the target's MTU: that is its sender's business */
    return !gso;
}

const uint8_t *move_piece(const struct mover *mover, const struct move_pieces *pieces, uint32_t i,
                          uint32_t *len)
{
    *len = pieces->len;
    if (pieces->whole) {
        return pieces->bytes;
    }
    *len = cut_segment(&pieces->cut, i, mover->scratch->segment);
    return mover->scratch->segment;
}

/* All pieces or none: a frame that waits is not sent twice. */
static enum move_answer move_in_pieces(const struct mover *mover, uint32_t at, uint32_t n)
{
    struct move_pieces pieces;
    uint32_t most;
    uint32_t slots;

    if (!move_pieces(mover, at, n, &pieces)) {
        return MOVE_UNSENDABLE;
    }
    most = pieces.whole ? pieces.len : pieces.cut.headers + pieces.cut.size;
    slots = pieces.n * slots_of(mover->to, tool_header(mover->to) + most);
    if (slots >= mover->to->tx->num_slots) {
        return MOVE_UNSENDABLE;
    }
    if (nm_ring_space(mover->to->tx) < slots) {
        return MOVE_NO_ROOM;
    }
    for (uint32_t i = 0; i < pieces.n; i++) {
        uint32_t len;
        const uint8_t *bytes = move_piece(mover, &pieces, i, &len);

        (void)move_bytes(mover->to, bytes, len); /* there is room */
    }
    return MOVE_COPIED;
}

enum move_answer move_frame(const struct mover *mover, uint32_t at, uint32_t n)
{
    if (!is_ready(mover, at, n)) {
        return move_in_pieces(mover, at, n);
    }
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
