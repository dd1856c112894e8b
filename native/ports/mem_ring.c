/* Sleeping on mem: ports, and how a successor completes what was cut short; see mem.h. */
#include <errno.h>
#include <unistd.h>

#include "ports/mem_exchange.h"
#include "ports/region.h"

static bool lanes_hold_frames(const struct port *port)
{
    const struct mem_place *place = mem_place_of(port);
    const struct mem_shared *shared = place->device->shared;
    uint32_t n = place->server ? place->device->links : place->device->rings;
    uint64_t up = atomic_load(place->server ? &shared->links_read : &shared->links_up);

    for (uint32_t other = 0; other < n; other++) {
        uint32_t link = place->server ? other : place->index;
        uint32_t ring = place->server ? place->index : other;
        uint32_t lane = mem_lane_index(shared, link, ring, !place->server);

        if ((up >> link & 1) && mem_lane_used(mem_lane_at(place->device, lane)) > 0) {
            return true;
        }
    }
    return false;
}

static int mem_sleep_arm(struct port *port)
{
    struct mem_side *side = mem_side_of(port);

    atomic_store(&side->sleeping, 1);
    atomic_thread_fence(memory_order_seq_cst); /* before the looks */
    return side->tx_hwcur != port->tx->head || nm_ring_space(port->rx) > 0 ||
           lanes_hold_frames(port);
}

static void mem_sleep_disarm(struct port *port)
{
    uint64_t count;

    atomic_store(&mem_side_of(port)->sleeping, 0);
    if (read(port->wait_fd, &count, sizeof(count)) < 0) {
        ENSURE(errno == EAGAIN || errno == EINTR);
    }
}

/* Completes the exchange in progress; returns how many of the batch are done. */
static uint32_t complete_step(const struct mem_intent *intent, void *to, void *from)
{
    uint32_t saved = (uint32_t)intent->step;
    uint32_t done = (uint32_t)(intent->step >> 32);

    if ((uint32_t)exchange_load(to) == saved) {
        return done; /* not begun */
    }
    exchange_store(from, (exchange_load(from) & ~(uint64_t)UINT32_MAX) | saved);
    return done + 1;
}

/* Of the cells behind `position`, those of whole frames. */
static uint32_t whole_frames(struct mem_lane *lane, uint32_t position, uint32_t cells)
{
    while (cells > 0 && mem_cell_at(lane, position + cells - 1)->flags & NM_MOREFRAG) {
        cells--;
    }
    return cells;
}

/*
 * A batch cut short: what was exchanged is published, in an order that may be cut short again. With
 * `last`, nobody will ever send the rest of a frame, which must not grow together with another's.
 */
static void complete_batch(struct mem_device *device, struct nm_ring *ring, struct mem_side *side,
                           bool last)
{
    const struct mem_intent *intent = &side->intent;
    struct mem_lane *lane = mem_lane_at(device, intent->lane);
    uint32_t number = (uint32_t)(intent->step >> 32);
    struct mem_cell *cell = mem_cell_at(lane, intent->position + number);
    struct nm_slot *slot = &ring->slot[(intent->slot + number) % ring->num_slots];
    bool rx = intent->kind == MEM_INTENT_RX;
    /* what is published already is exchanged, and its cells are the other side's again */
    uint32_t done = atomic_load(rx ? &lane->head : &lane->tail) - intent->position;
    bool published = done != 0;
    uint32_t next;

    if (!published && (uint32_t)intent->step != 0) {
        done = rx ? complete_step(intent, slot, cell) : complete_step(intent, cell, slot);
    }
    next = (intent->slot + done) % ring->num_slots;
    compiler_barrier();
    if (rx) {
        atomic_store(&lane->head, intent->position + done);
        __atomic_store_n(&ring->tail, next, __ATOMIC_RELEASE);
    } else {
        done = last && !published ? whole_frames(lane, intent->position, done) : done;
        atomic_store(&lane->tail, intent->position + done);
        side->tx_hwcur = next;
    }
}

/* A side receives from and sends to its own lanes alone, whatever its record says. */
static bool lane_is_own(const struct mem_device *device, uint32_t side,
                        const struct mem_intent *intent)
{
    bool server = side < device->rings;
    bool receives = intent->kind == MEM_INTENT_RX;
    bool down = intent->lane % 2;
    uint32_t link = intent->lane / 2 / device->rings;
    uint32_t ring = intent->lane / 2 % device->rings;

    return link < device->links && down == (server != receives) &&
           (server ? ring == side : link == side - device->rings);
}

static bool intent_possible(const struct mem_device *device, uint32_t side,
                            const struct nm_ring *ring)
{
    const struct mem_intent *intent = &device->shared->side[side].intent;
    uint32_t saved = (uint32_t)intent->step;

    return intent->kind <= MEM_INTENT_TX && lane_is_own(device, side, intent) &&
           intent->slot < ring->num_slots && intent->step >> 32 < MEM_CELLS &&
           (saved == 0 || mem_buf_possible(device, saved));
}

static bool recover(struct mem_device *device, uint32_t index, bool last)
{
    struct mem_side *side = &device->shared->side[index];
    bool server = index < device->rings;
    uint32_t which = server ? 0 : 1 + index - device->rings;
    uint32_t pair = server ? index : 0;
    struct nm_if *nifp = (struct nm_if *)(void *)(device->base + device->shared->if_ofs[which]);
    uint32_t kind = side->intent.kind;
    struct nm_ring *ring = kind == MEM_INTENT_TX ? nm_tx_ring(nifp, pair) : nm_rx_ring(nifp, pair);

    if (kind != MEM_INTENT_NONE) {
        if (!intent_possible(device, index, ring)) {
            return false;
        }
        complete_batch(device, ring, side, last);
    }
    compiler_barrier();
    side->intent.kind = MEM_INTENT_NONE;
    if (atomic_load(&side->sync_seq) & 1) {
        atomic_fetch_add(&side->sync_seq, 1);
    }
    atomic_store(&side->sleeping, 0);
    return true;
}

bool mem_side_recover(struct mem_device *device, uint32_t side)
{
    return recover(device, side, false);
}

bool mem_side_bury(struct mem_device *device, uint32_t side)
{
    return recover(device, side, true);
}

static int mem_recover(struct port *port)
{
    if (!mem_side_recover(mem_place_of(port)->device, mem_place_of(port)->side)) {
        return mem_port_broken(port);
    }
    return 0;
}

const struct port_ops mem_port_ops = {
    .backend = "mem",
    .rx_sync = mem_rx_sync,
    .tx_sync = mem_tx_sync,
    .sleep_arm = mem_sleep_arm,
    .sleep_disarm = mem_sleep_disarm,
    .recover = mem_recover,
};
