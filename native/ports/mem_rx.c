/* Receive of mem: ports: what lies in the lanes comes into the ring. */
#include "ports/mem_exchange.h"

/* Cells of the whole frame at `head`; 0: its end is not there. `bad`: it could fit no ring. */
static uint32_t frame_cells(const struct mem_place *place, struct mem_lane *lane, uint32_t head,
                            uint32_t used, bool *bad)
{
    uint32_t most = min_u32((uint32_t)MEM_FRAGS_MAX, place->slots - 1);

    for (uint32_t n = 0; n < used && n < most; n++) {
        if (!(mem_cell_at(lane, head + n)->flags & NM_MOREFRAG)) {
            return n + 1;
        }
    }
    *bad = used >= most;
    return 0;
}

/* Exchanges the cell that `word` was read from. False: its index or length is out of bounds. */
static always_inline bool take_cell(struct exchange *batch, struct nm_ring *ring, uint64_t word)
{
    struct nm_slot *slot = &ring->slot[batch->slot];
    struct mem_cell *cell = mem_cell_at(batch->lane, batch->position);
    uint32_t saved = slot->buf_idx;

    if (unlikely(!exchange_possible(batch, word))) {
        return false;
    }
    word &= ~((uint64_t)(UINT16_MAX & ~NM_MOREFRAG) << WORD_FLAGS_SHIFT);
    exchange_name(batch, saved);
    exchange_store(slot, word);
    *(volatile uint32_t *)&cell->buf_idx = saved;
    exchange_next(batch, ring);
    batch->bytes += exchange_len(word);
    return true;
}

/* The cells of a longer frame, ended where a cell cannot be true. Returns how many were taken. */
static always_inline uint32_t take_cells(struct exchange *batch, struct nm_ring *ring, uint32_t n)
{
    const uint64_t more = (uint64_t)NM_MOREFRAG << WORD_FLAGS_SHIFT;
    uint32_t last = batch->slot;
    uint32_t taken = 0;

    while (taken < n) {
        uint64_t word = exchange_load(mem_cell_at(batch->lane, batch->position)) | more;

        last = batch->slot;
        if (!take_cell(batch, ring, taken + 1 < n ? word : word & ~more)) {
            break;
        }
        taken++;
    }
    if (taken > 0 && taken < n) {
        ring->slot[last == 0 ? ring->num_slots - 1 : last - 1].flags = 0;
    }
    return taken;
}

/* Takes frames while they are whole and fit; returns their number. */
static always_inline uint32_t take_frames(struct exchange *batch, struct nm_ring *ring,
                                          const struct mem_place *place, uint32_t used, bool *bad)
{
    uint32_t room = ring->num_slots - 1 - nm_ring_distance(ring, ring->head, ring->tail);
    uint32_t frames = 0;

    while (used > 0 && room > 0) {
        uint64_t word = exchange_load(mem_cell_at(batch->lane, batch->position));
        uint32_t n = 1;
        uint32_t taken;

        if (likely(!(word >> WORD_FLAGS_SHIFT & NM_MOREFRAG))) {
            taken = take_cell(batch, ring, word);
        } else {
            n = frame_cells(place, batch->lane, batch->position, used, bad);
            if (n == 0 || n > room) {
                break;
            }
            taken = take_cells(batch, ring, n);
            frames += taken > 0 && taken < n; /* what came of it */
        }
        if (unlikely(taken < n)) {
            *bad = true;
            break;
        }
        frames++;
        used -= n;
        room -= n;
    }
    return frames;
}

/* Moves what a link's lane holds into the ring; returns the number of frames. */
static uint32_t rx_lane(struct port *port, uint32_t lane_index, uint32_t link)
{
    const struct mem_place *place = mem_place_of(port);
    struct mem_lane *lane = mem_lane_at(place->device, lane_index);
    uint32_t used = mem_lane_used(lane);
    struct exchange batch = {.side = mem_side_of(port),
                             .lane = lane,
                             .lane_index = lane_index,
                             .position = atomic_load_explicit(&lane->head, memory_order_relaxed),
                             .slot = port->rx->tail,
                             .bufs_n = place->device->bufs - NM_BUF_FIRST,
                             .buf_size = place->buf_size};
    bool bad = used > MEM_CELLS;
    uint32_t frames = 0;

    if (used == 0) {
        return 0;
    }
    if (!bad) {
        exchange_begin(&batch, MEM_INTENT_RX);
        frames = take_frames(&batch, port->rx, place, used, &bad);
        compiler_barrier();
        atomic_store_explicit(&lane->head, batch.position, memory_order_release);
        __atomic_store_n(&port->rx->tail, batch.slot, __ATOMIC_RELEASE);
        exchange_done(&batch);
        port->counters->rx_bytes += batch.bytes;
    }
    if (unlikely(bad)) {
        mem_lane_broken(port, link);
    }
    return frames;
}

int mem_rx_sync(struct port *port, uint64_t now_us)
{
    const struct mem_place *place = mem_place_of(port);
    struct mem_side *side = mem_side_of(port);
    const struct mem_shared *shared = place->device->shared;
    uint32_t n = place->server ? place->device->links : place->device->rings;
    uint64_t up;
    uint32_t first = side->rx_next++ % n;
    uint32_t frames = 0;

    (void)now_us;
    if (unlikely(mem_is_stopped(port))) {
        return -EIO;
    }
    if (unlikely(port->rx->head >= place->slots || port->rx->tail >= place->slots)) {
        return mem_port_broken(port);
    }
    up = atomic_load(place->server ? &shared->links_read : &shared->links_up);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t other = first + i < n ? first + i : first + i - n;
        uint32_t link = place->server ? other : place->index;
        uint32_t ring = place->server ? place->index : other;

        if (up >> link & 1) {
            frames += rx_lane(port, mem_lane_index(shared, link, ring, !place->server), link);
        }
    }
    port->counters->rx_frames += frames;
    port->counters->rx_syncs += frames > 0;
    return 0; /* a client whose link was stopped in this sync hears of it in the next */
}
