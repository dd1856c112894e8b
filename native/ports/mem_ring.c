/* The two syncs of mem: ports, and how a successor completes them; see mem.h. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/wire.h"
#include "ports/mem.h"
#include "ports/region.h"

static struct mem_place *place_of(const struct port *port)
{
    return port->priv;
}

static struct mem_side *side_of(const struct port *port)
{
    return port->shared;
}

static struct mem_lane *lane_at(const struct mem_device *device, uint32_t index)
{
    return &device->lanes[index];
}

static struct mem_cell *cell_at(struct mem_lane *lane, uint32_t position)
{
    return &lane->cell[position & (MEM_CELLS - 1)];
}

static uint32_t lane_used(struct mem_lane *lane)
{
    uint32_t used = atomic_load_explicit(&lane->tail, memory_order_acquire) -
                    atomic_load_explicit(&lane->head, memory_order_acquire);

    return used <= MEM_CELLS ? used : 0; /* nonsense from the other side: nothing to take */
}

static void sync_begin(struct mem_side *side)
{
    atomic_fetch_add(&side->sync_seq, 1);
}

static void sync_end(struct mem_side *side)
{
    atomic_fetch_add(&side->sync_seq, 1);
}

static void intent_set(struct mem_side *side, const struct mem_intent *intent)
{
    side->intent.lane = intent->lane;
    side->intent.position = intent->position;
    side->intent.slot = intent->slot;
    side->intent.slot_buf = intent->slot_buf;
    side->intent.cell_buf = intent->cell_buf;
    compiler_barrier();
    side->intent.kind = intent->kind;
    compiler_barrier();
}

static void intent_done(struct mem_side *side)
{
    compiler_barrier();
    side->intent.kind = MEM_INTENT_NONE;
    compiler_barrier();
}

static void ring_the_bell(struct mem_device *device, struct port *port, uint32_t side)
{
    static const uint64_t one = 1;

    atomic_thread_fence(memory_order_seq_cst); /* the frame, then whether its reader sleeps */
    if (atomic_load_explicit(&device->shared->side[side].sleeping, memory_order_relaxed)) {
        port->counters->syscalls++;
        if (write(device->doorbell[side], &one, sizeof(one)) < 0) {
            ENSURE(errno == EAGAIN); /* already ringing */
        }
    }
}

/* Takes one cell into the slot at the ring's tail. */
static void rx_exchange(struct port *port, uint32_t lane_index, uint32_t position)
{
    struct mem_side *side = side_of(port);
    struct mem_lane *lane = lane_at(place_of(port)->device, lane_index);
    struct mem_cell *cell = cell_at(lane, position);
    uint32_t tail = port->rx->tail;
    struct nm_slot *slot = &port->rx->slot[tail];

    slot->len = cell->len;
    slot->flags = (uint16_t)(cell->flags & NM_MOREFRAG);
    slot->ptr = 0;
    intent_set(side, &(struct mem_intent){MEM_INTENT_RX, lane_index, position, tail, slot->buf_idx,
                                          cell->buf_idx});
    slot->buf_idx = side->intent.cell_buf;
    compiler_barrier();
    cell->buf_idx = side->intent.slot_buf;
    atomic_store_explicit(&lane->head, position + 1, memory_order_release);
    __atomic_store_n(&port->rx->tail, nm_ring_next(port->rx, tail), __ATOMIC_RELEASE);
    intent_done(side);
}

/* Cells of the next whole frame in a lane; 0: none. `bad`: an index or length out of bounds. */
static uint32_t whole_frame(const struct mem_device *device, struct mem_lane *lane, uint32_t head,
                            uint32_t used, bool *bad)
{
    for (uint32_t n = 0; n < used && n < MEM_FRAGS_MAX; n++) {
        const struct mem_cell *cell = cell_at(lane, head + n);

        if (cell->buf_idx < NM_BUF_FIRST || cell->buf_idx >= device->shared->bufs) {
            *bad = true;
            return 0;
        }
        if (!(cell->flags & NM_MOREFRAG)) {
            return n + 1;
        }
    }
    *bad = used >= MEM_FRAGS_MAX;
    return 0;
}

static uint32_t rx_room(const struct nm_ring *ring)
{
    return ring->num_slots - 1 - nm_ring_distance(ring, ring->head, ring->tail);
}

/* Moves what a lane holds into the ring. -EIO: its contents cannot be true. */
static int rx_lane(struct port *port, uint32_t lane_index)
{
    struct mem_device *device = place_of(port)->device;
    struct mem_lane *lane = lane_at(device, lane_index);
    uint32_t head = atomic_load_explicit(&lane->head, memory_order_relaxed);
    uint32_t used = lane_used(lane);
    bool bad = false;

    while (used > 0) {
        uint32_t n = whole_frame(device, lane, head, used, &bad);

        if (bad) {
            port->counters->errors++;
            atomic_store(&lane->head, atomic_load(&lane->tail)); /* this lane's frames are lost */
            return 0;
        }
        if (n == 0 || n > rx_room(port->rx)) {
            return 0;
        }
        for (uint32_t i = 0; i < n; i++) {
            port->counters->rx_bytes += cell_at(lane, head)->len;
            rx_exchange(port, lane_index, head++);
        }
        port->counters->rx_frames++;
        used -= n;
    }
    return 0;
}

static int mem_rx_sync(struct port *port, uint64_t now_us)
{
    const struct mem_place *place = place_of(port);
    struct mem_side *side = side_of(port);
    const struct mem_shared *shared = place->device->shared;
    uint32_t n = place->server ? shared->links : shared->rings;
    uint64_t up = atomic_load(&shared->links_up);
    uint64_t before = port->counters->rx_frames;
    uint32_t first = side->rx_next++;

    (void)now_us;
    ENSURE(port->rx->head < port->rx->num_slots && port->rx->tail < port->rx->num_slots);
    sync_begin(side);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t other = (first + i) % n;
        uint32_t link = place->server ? other : place->index;
        uint32_t ring = place->server ? place->index : other;

        if (up >> link & 1) {
            rx_lane(port, mem_lane_index(shared, link, ring, !place->server));
        }
    }
    sync_end(side);
    port->counters->rx_syncs += port->counters->rx_frames != before;
    return 0;
}

/* Gives one slot's buffer to the lane and takes the free cell's. */
static void tx_exchange(struct port *port, uint32_t lane_index, uint32_t at)
{
    struct mem_side *side = side_of(port);
    struct mem_lane *lane = lane_at(place_of(port)->device, lane_index);
    uint32_t tail = atomic_load_explicit(&lane->tail, memory_order_relaxed);
    struct mem_cell *cell = cell_at(lane, tail);
    struct nm_slot *slot = &port->tx->slot[at];

    cell->len = slot->len;
    cell->flags = (uint16_t)(slot->flags & NM_MOREFRAG);
    cell->ptr = 0;
    intent_set(side, &(struct mem_intent){MEM_INTENT_TX, lane_index, tail, at, slot->buf_idx,
                                          cell->buf_idx});
    cell->buf_idx = side->intent.slot_buf;
    compiler_barrier();
    slot->buf_idx = side->intent.cell_buf;
    slot->flags |= NM_BUF_CHANGED;
    atomic_store_explicit(&lane->tail, tail + 1, memory_order_release);
    side->tx_hwcur = nm_ring_next(port->tx, at);
    intent_done(side);
}

/* Slots of the frame at hwcur, all of them before head; 0: its end is not there. */
static uint32_t tx_frame_slots(const struct nm_ring *ring, uint32_t at)
{
    uint32_t n = 1;

    while (ring->slot[at].flags & NM_MOREFRAG) {
        at = nm_ring_next(ring, at);
        if (at == ring->head) {
            return 0;
        }
        n++;
    }
    return n;
}

enum tx_answer {
    TX_SENT,
    TX_DROP,
    TX_HOLD,
};

/* A full lane holds its sender for a moment, and never longer unless its consumer moves. */
static enum tx_answer lane_room(struct mem_lane *lane, uint32_t n, uint64_t now_us)
{
    uint32_t head = atomic_load_explicit(&lane->head, memory_order_acquire);
    uint32_t tail = atomic_load_explicit(&lane->tail, memory_order_relaxed);

    if (MEM_CELLS - (tail - head) >= n && tail - head <= MEM_CELLS) {
        lane->stalled = 0;
        return TX_SENT;
    }
    if (!lane->stalled || lane->stalled_head != head) {
        lane->stalled = 1;
        lane->stalled_head = head;
        lane->stalled_us = now_us;
    }
    return now_us - lane->stalled_us < MEM_STALL_US ? TX_HOLD : TX_DROP;
}

static void tx_skip(struct port *port, uint32_t n)
{
    struct mem_side *side = side_of(port);
    uint32_t at = side->tx_hwcur;

    while (n-- > 0) {
        at = nm_ring_next(port->tx, at);
    }
    side->tx_hwcur = at;
}

/* A copy for one of several receivers: the cell keeps its buffer. One slot only. */
static void tx_copy(struct port *port, uint32_t lane_index)
{
    struct mem_device *device = place_of(port)->device;
    struct mem_lane *lane = lane_at(device, lane_index);
    uint32_t tail = atomic_load_explicit(&lane->tail, memory_order_relaxed);
    struct mem_cell *cell = cell_at(lane, tail);
    const struct nm_slot *slot = &port->tx->slot[side_of(port)->tx_hwcur];
    uint8_t *to =
        (uint8_t *)port->tx + port->tx->buf_ofs + (size_t)cell->buf_idx * port->tx->nr_buf_size;

    memcpy(to, nm_ring_buf(port->tx, side_of(port)->tx_hwcur), slot->len);
    cell->len = slot->len;
    cell->flags = 0;
    atomic_store_explicit(&lane->tail, tail + 1, memory_order_release);
}

static void tx_broadcast(struct port *port, uint64_t up, uint64_t now_us, uint64_t *woken)
{
    const struct mem_place *place = place_of(port);
    const struct mem_shared *shared = place->device->shared;

    for (uint32_t link = 0; link < shared->links; link++) {
        uint32_t lane = mem_lane_index(shared, link, place->index, true);

        if (!(up >> link & 1)) {
            continue;
        }
        if (lane_room(lane_at(place->device, lane), 1, now_us) == TX_SENT) {
            tx_copy(port, lane);
            *woken |= (uint64_t)1 << link;
        } else {
            port->counters->tx_dropped++;
        }
    }
    tx_skip(port, 1);
}

/* The link or ring that a frame is for; -1: nobody. */
static int tx_target(const struct port *port, const uint8_t *frame, uint32_t len, uint64_t up)
{
    const struct mem_place *place = place_of(port);
    const struct mem_shared *shared = place->device->shared;
    uint8_t mac[6];

    if (!place->server) {
        return (int)rss_queue(&shared->rss, frame, len);
    }
    mem_mac_of_link(shared, frame[5], mac);
    if (frame[5] >= shared->links || !(up >> frame[5] & 1) || memcmp(mac, frame, 6) != 0) {
        return -1;
    }
    return frame[5];
}

/* Sends the frame of `n` slots at hwcur. */
static enum tx_answer tx_frame(struct port *port, uint32_t n, uint64_t now_us, uint64_t *woken)
{
    const struct mem_place *place = place_of(port);
    struct mem_side *side = side_of(port);
    const struct mem_shared *shared = place->device->shared;
    uint64_t up = atomic_load_explicit(&shared->links_up, memory_order_relaxed);
    const uint8_t *frame = nm_ring_buf(port->tx, side->tx_hwcur);
    uint32_t len = port->tx->slot[side->tx_hwcur].len;
    enum tx_answer answer;
    uint32_t lane;
    int target;

    if (len < ETH_HDR_LEN || (!place->server && !(up >> place->index & 1))) {
        return TX_DROP;
    }
    if (place->server && (frame[0] & 1) && n == 1) {
        tx_broadcast(port, up, now_us, woken);
        return TX_SENT;
    }
    target = tx_target(port, frame, len, up);
    if (target < 0) {
        return TX_DROP;
    }
    lane = place->server ? mem_lane_index(shared, (uint32_t)target, place->index, true)
                         : mem_lane_index(shared, place->index, (uint32_t)target, false);
    answer = lane_room(lane_at(place->device, lane), n, now_us);
    if (answer == TX_SENT) {
        *woken |= (uint64_t)1 << target;
        for (uint32_t i = 0; i < n; i++) {
            tx_exchange(port, lane, side->tx_hwcur);
        }
    }
    return answer;
}

static void wake_all(struct port *port, uint64_t woken)
{
    const struct mem_place *place = place_of(port);
    uint32_t base = place->server ? place->device->shared->rings : 0;

    while (woken) {
        ring_the_bell(place->device, port, base + (uint32_t)__builtin_ctzll(woken));
        woken &= woken - 1;
    }
}

static int mem_tx_sync(struct port *port, uint64_t now_us)
{
    struct mem_side *side = side_of(port);
    uint64_t before = port->counters->tx_frames;
    uint64_t woken = 0;

    ENSURE(port->tx->head < port->tx->num_slots && side->tx_hwcur < port->tx->num_slots);
    sync_begin(side);
    while (side->tx_hwcur != port->tx->head) {
        uint32_t n = tx_frame_slots(port->tx, side->tx_hwcur);
        uint32_t len = port->tx->slot[side->tx_hwcur].len;
        enum tx_answer answer = n ? tx_frame(port, n, now_us, &woken) : TX_HOLD;

        if (answer == TX_HOLD) {
            break;
        }
        if (answer == TX_DROP) {
            tx_skip(port, n);
            port->counters->tx_dropped++;
            continue;
        }
        port->counters->tx_frames++;
        port->counters->tx_bytes += len;
    }
    /* everything before hwcur is complete at once: the slots hold fresh buffers */
    __atomic_store_n(&port->tx->tail, side->tx_hwcur ? side->tx_hwcur - 1 : port->tx->num_slots - 1,
                     __ATOMIC_RELEASE);
    sync_end(side);
    wake_all(port, woken);
    port->counters->tx_syncs += port->counters->tx_frames != before;
    return 0;
}

static bool lanes_hold_frames(const struct port *port)
{
    const struct mem_place *place = place_of(port);
    const struct mem_shared *shared = place->device->shared;
    uint32_t n = place->server ? shared->links : shared->rings;
    uint64_t up = atomic_load(&shared->links_up);

    for (uint32_t other = 0; other < n; other++) {
        uint32_t link = place->server ? other : place->index;
        uint32_t ring = place->server ? place->index : other;
        uint32_t lane = mem_lane_index(shared, link, ring, !place->server);

        if ((up >> link & 1) && lane_used(lane_at(place->device, lane)) > 0) {
            return true;
        }
    }
    return false;
}

static int mem_sleep_arm(struct port *port)
{
    struct mem_side *side = side_of(port);

    atomic_store(&side->sleeping, 1); /* sequentially consistent: before the look */
    return side->tx_hwcur != port->tx->head || port->rx->head != port->rx->tail ||
           lanes_hold_frames(port);
}

static void mem_sleep_disarm(struct port *port)
{
    uint64_t count;

    atomic_store(&side_of(port)->sleeping, 0);
    if (read(port->wait_fd, &count, sizeof(count)) < 0) {
        ENSURE(errno == EAGAIN || errno == EINTR);
    }
}

/* An exchange cut short: see the order of stores in rx_exchange. */
static void recover_rx(struct mem_device *device, struct nm_ring *ring, struct mem_side *side)
{
    const struct mem_intent *intent = &side->intent;
    struct mem_lane *lane = lane_at(device, intent->lane);
    struct nm_slot *slot = &ring->slot[intent->slot];

    if (atomic_load(&lane->head) == intent->position) {
        if (slot->buf_idx == intent->slot_buf) {
            return; /* not begun */
        }
        cell_at(lane, intent->position)->buf_idx = intent->slot_buf;
        atomic_store(&lane->head, intent->position + 1);
    }
    if (ring->tail == intent->slot) {
        ring->tail = nm_ring_next(ring, intent->slot);
    }
}

static void recover_tx(struct mem_device *device, struct nm_ring *ring, struct mem_side *side)
{
    const struct mem_intent *intent = &side->intent;
    struct mem_lane *lane = lane_at(device, intent->lane);

    if (atomic_load(&lane->tail) == intent->position) {
        if (cell_at(lane, intent->position)->buf_idx == intent->cell_buf) {
            return; /* not begun */
        }
        ring->slot[intent->slot].buf_idx = intent->cell_buf;
        atomic_store(&lane->tail, intent->position + 1);
    }
    if (side->tx_hwcur == intent->slot) {
        side->tx_hwcur = nm_ring_next(ring, intent->slot);
    }
}

void mem_side_recover(struct mem_device *device, uint32_t index)
{
    struct mem_side *side = &device->shared->side[index];
    bool server = index < device->shared->rings;
    uint32_t which = server ? 0 : 1 + index - device->shared->rings;
    uint32_t pair = server ? index : 0;
    struct nm_if *nifp = (struct nm_if *)(void *)(device->base + device->shared->if_ofs[which]);

    if (side->intent.kind == MEM_INTENT_RX) {
        recover_rx(device, nm_rx_ring(nifp, pair), side);
    } else if (side->intent.kind == MEM_INTENT_TX) {
        recover_tx(device, nm_tx_ring(nifp, pair), side);
    }
    intent_done(side);
    if (atomic_load(&side->sync_seq) & 1) {
        sync_end(side);
    }
    atomic_store(&side->sleeping, 0);
}

static int mem_recover(struct port *port)
{
    mem_side_recover(place_of(port)->device, place_of(port)->side);
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
