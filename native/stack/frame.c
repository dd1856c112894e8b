/* Walking the bytes of a frame over its slots; see frame.h. */
#include "stack/frame.h"

#include <string.h>

#include "base/csum.h"

/* Where byte `off` lies and how many follow it there without a break. */
static const uint8_t *piece_at(const struct frame *frame, uint32_t off, uint32_t *len)
{
    uint32_t slot = frame->slot;
    uint32_t end = frame->contig;
    uint32_t size;

    if (off < frame->contig || frame->nslots <= 1) {
        ENSURE(off <= frame->contig);
        *len = frame->contig - off;
        return frame->data + off;
    }
    do {
        slot = nm_ring_next(frame->ring, slot);
        size = min_u32(frame->ring->slot[slot].len, frame->ring->nr_buf_size);
        end += size;
        ENSURE(slot != frame->next);
    } while (off >= end);
    *len = end - off;
    return nm_ring_buf(frame->ring, slot) + (size - *len);
}

void frame_copy(const struct frame *frame, uint32_t off, void *dst, uint32_t len)
{
    uint8_t *to = dst;

    while (len > 0) {
        uint32_t have;
        const uint8_t *from = piece_at(frame, off, &have);
        uint32_t part = min_u32(have, len);

        ENSURE(part > 0);
        memcpy(to, from, part);
        to += part;
        off += part;
        len -= part;
    }
}

uint64_t frame_sum(const struct frame *frame, uint32_t off, uint32_t len)
{
    uint64_t sum = 0;
    uint32_t done = 0;

    while (done < len) {
        uint32_t have;
        const uint8_t *from = piece_at(frame, off + done, &have);
        uint32_t part = min_u32(have, len - done);
        uint64_t piece = csum_add(from, part, 0);

        ENSURE(part > 0);
        sum = csum_carry(sum, done % 2 ? csum_shift(piece) : piece);
        done += part;
    }
    return sum;
}
