/* Receive of mem: ports: what lies in the lanes comes into the ring. */
#include "ports/mem_exchange.h"

/* Cells of the whole frame at `head`; 0: its end is not there. */
static uint32_t frame_cells(struct mem_lane *lane, uint32_t head, uint32_t used, bool *bad)
{
    for (uint32_t n = 0; n < used && n < MEM_FRAGS_MAX; n++) {
        if (!(mem_cell_at(lane, head + n)->flags & NM_MOREFRAG)) {
            return n + 1;
        }
    }
    *bad = used >= MEM_FRAGS_MAX;
    return 0;
}

/* Exchanges a cell. False: its index is out of bounds. */
static inline bool take_cell(struct exchange *batch, struct nm_ring *ring, uint32_t bufs,
                             struct mem_cell *cell, uint64_t word)
{
    uint32_t saved;

    if (unlikely((uint32_t)word - NM_BUF_FIRST >= bufs - NM_BUF_FIRST)) {
        return false;
    }
    word &= ~((uint64_t)(UINT16_MAX & ~NM_MOREFRAG) << WORD_FLAGS_SHIFT);
    saved = ring->slot[batch->slot].buf_idx;
    exchange_name(batch, saved);
    exchange_store(&ring->slot[batch->slot], word);
    *(volatile uint32_t *)&cell->buf_idx = saved;
    exchange_done(batch, ring);
    batch->bytes += (uint16_t)(word >> 32);
    return true;
}

/* Moves what a lane holds into the ring; returns the number of frames. */
static uint32_t rx_lane(struct port *port, uint32_t lane_index)
{
    const struct mem_device *device = mem_place_of(port)->device;
    struct mem_lane *lane = mem_lane_at(device, lane_index);
    uint32_t used = mem_lane_used(lane);
    struct exchange batch = {.side = mem_side_of(port),
                             .lane = lane,
                             .lane_index = lane_index,
                             .position = atomic_load_explicit(&lane->head, memory_order_relaxed),
                             .slot = port->rx->tail};
    uint32_t room =
        port->rx->num_slots - 1 - nm_ring_distance(port->rx, port->rx->head, port->rx->tail);
    uint32_t bufs = device->shared->bufs;
    uint32_t frames = 0;
    bool bad = false;

    if (used == 0) {
        return 0;
    }
    exchange_begin(&batch, MEM_INTENT_RX);
    while (used > 0) {
        struct mem_cell *cell = mem_cell_at(lane, batch.position);
        uint64_t word = exchange_load(cell);
        uint32_t n = 1;

        if (unlikely(word >> WORD_FLAGS_SHIFT & NM_MOREFRAG)) {
            n = frame_cells(lane, batch.position, used, &bad);
        }
        if (bad || n == 0 || n > room) {
            break;
        }
        bad = !take_cell(&batch, port->rx, bufs, cell, word);
        for (uint32_t i = 1; i < n && !bad; i++) {
            cell = mem_cell_at(lane, batch.position);
            bad = !take_cell(&batch, port->rx, bufs, cell, exchange_load(cell));
        }
        if (bad) {
            break;
        }
        frames++;
        used -= n;
        room -= n;
    }
    compiler_barrier();
    atomic_store_explicit(&lane->head, batch.position, memory_order_release);
    __atomic_store_n(&port->rx->tail, batch.slot, __ATOMIC_RELEASE);
    exchange_end(&batch);
    port->counters->rx_bytes += batch.bytes;
    if (bad) { /* this lane's frames are lost */
        port->counters->errors++;
        atomic_store(&lane->head, atomic_load(&lane->tail));
    }
    return frames;
}

int mem_rx_sync(struct port *port, uint64_t now_us)
{
    const struct mem_place *place = mem_place_of(port);
    struct mem_side *side = mem_side_of(port);
    const struct mem_shared *shared = place->device->shared;
    uint32_t n = place->server ? shared->links : shared->rings;
    uint64_t up = atomic_load(&shared->links_up);
    uint32_t first = side->rx_next++ % n;
    uint32_t frames = 0;

    (void)now_us;
    ENSURE(port->rx->head < port->rx->num_slots && port->rx->tail < port->rx->num_slots);
    atomic_fetch_add(&side->sync_seq, 1);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t other = first + i < n ? first + i : first + i - n;
        uint32_t link = place->server ? other : place->index;
        uint32_t ring = place->server ? place->index : other;

        if (up >> link & 1) {
            frames += rx_lane(port, mem_lane_index(shared, link, ring, !place->server));
        }
    }
    atomic_fetch_add(&side->sync_seq, 1);
    port->counters->rx_frames += frames;
    port->counters->rx_syncs += frames > 0;
    return 0;
}
