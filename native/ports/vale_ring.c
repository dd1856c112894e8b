/* The two syncs of a switch's port; see vale.h. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/wire.h"
#include "ports/region.h"
#include "ports/vale.h"

enum {
    FRAME_SLOTS_MAX = 64,
};

static struct vale_device *vale_of(const struct port *port)
{
    return port->priv;
}

static uint32_t ring_prev(const struct nm_ring *ring, uint32_t i)
{
    return i ? i - 1 : ring->num_slots - 1;
}

/* Cells that a sender may fill. A receiver's nonsense reads as none. */
static uint32_t lane_room(struct vale_lane *lane)
{
    uint32_t used = lane->filled - atomic_load_explicit(&lane->head, memory_order_acquire);

    return used <= VALE_CELLS ? VALE_CELLS - used : 0;
}

/*
 * A lane that stays full may belong to the dead: its lock says so, and the port goes down; not if
 * it was opened again since before that look.
 */
static void look_for_receiver(struct port *port, uint32_t to, uint64_t now_us)
{
    struct vale_device *vale = vale_of(port);
    struct vale_lane *lane = vale_lane_at(vale, vale->port, to);

    uint64_t up = atomic_load(&vale->shared->up);
    uint64_t opens = up >> vale_opens_shift(to) & 7;

    if (now_us - lane->probed_us < VALE_PROBE_US) {
        return;
    }
    lane->probed_us = now_us;
    port->counters->syscalls++;
    if (soft_alive(&vale->soft, to)) {
        return;
    }
    while ((up >> vale_opens_shift(to) & 7) == opens &&
           !atomic_compare_exchange_weak(&vale->shared->up, &up, up & ~vale_up_bit(to))) {
    }
}

/*
 * Exchanges the buffer of the TX slot at hwcur with the next cell's. Both are read once: what the
 * other side writes meanwhile is not believed. False: an index or length that cannot be.
 */
static bool tx_exchange(struct vale_device *vale, struct vale_lane *lane, uint32_t to)
{
    struct vale_side *side = vale->side;
    uint32_t at = side->tx_hwcur;
    struct nm_slot slot = vale->tx->slot[at];
    struct nm_slot *cell = vale_cell_at(lane, lane->filled);
    struct swap_record record = {.left = at,
                                 .right = lane->filled,
                                 .lane = to,
                                 .left_buf = slot.buf_idx,
                                 .right_buf = cell->buf_idx,
                                 .more = slot.flags & NM_MOREFRAG};

    if (unlikely(!slot_valid(&slot, vale->bufs, vale->buf_size) ||
                 !buf_valid(record.right_buf, vale->bufs))) {
        return false;
    }
    swap_begin(&side->tx_log, &record);
    *cell =
        (struct nm_slot){.buf_idx = slot.buf_idx, .len = slot.len, .flags = (uint16_t)record.more};
    compiler_barrier();
    vale->tx->slot[at].buf_idx = record.right_buf;
    vale->tx->slot[at].flags = NM_BUF_CHANGED;
    compiler_barrier();
    lane->filled = record.right + 1;
    compiler_barrier();
    side->tx_hwcur = nm_ring_next(vale->tx, at);
    return true;
}

static void tx_skip(struct vale_device *vale, uint32_t n)
{
    uint32_t at = vale->side->tx_hwcur;

    for (; n > 0; n--) {
        at = nm_ring_next(vale->tx, at);
    }
    vale->side->tx_log.turn = 0; /* its record is of a place that comes again */
    compiler_barrier();
    vale->side->tx_hwcur = at;
}

/* Slots of the frame at hwcur; 0: its end is not there yet, or (`bad`) it cannot be. */
static uint32_t tx_frame_slots(const struct vale_device *vale, bool *bad)
{
    const struct nm_ring *ring = vale->tx;
    uint32_t at = vale->side->tx_hwcur;

    for (uint32_t n = 1; n <= FRAME_SLOTS_MAX; n++) {
        *bad |= !slot_valid(&ring->slot[at], vale->bufs, vale->buf_size);
        if (!(ring->slot[at].flags & NM_MOREFRAG)) {
            return n;
        }
        at = nm_ring_next(ring, at);
        if (at == ring->head) {
            return 0;
        }
    }
    *bad = true;
    return 0;
}

/* Copies the frame of `n` slots at hwcur into a lane: the cells keep their buffers. */
static bool copy_frame(struct vale_device *vale, struct vale_lane *lane, uint32_t n)
{
    uint8_t *bufs = vale->buf0;
    uint32_t at = vale->side->tx_hwcur;

    if (lane_room(lane) < n) {
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct nm_slot slot = vale->tx->slot[at];
        struct nm_slot *cell = vale_cell_at(lane, lane->filled + i);
        uint32_t buf = cell->buf_idx;

        if (!slot_valid(&slot, vale->bufs, vale->buf_size) || !buf_valid(buf, vale->bufs)) {
            return false;
        }
        memcpy(bufs + (size_t)buf * vale->buf_size, bufs + (size_t)slot.buf_idx * vale->buf_size,
               slot.len);
        cell->len = slot.len;
        cell->flags = (uint16_t)(slot.flags & NM_MOREFRAG);
        at = nm_ring_next(vale->tx, at);
    }
    compiler_barrier();
    lane->filled += n;
    return true;
}

static bool flood(struct port *port, uint32_t n, uint32_t up, uint64_t now_us)
{
    struct vale_device *vale = vale_of(port);
    uint32_t others = up & ~(1u << vale->port);
    bool sent = false;

    port->counters->tx_dropped += others == 0;
    for (uint32_t left = others; left; left &= left - 1) {
        uint32_t to = (uint32_t)__builtin_ctz(left);

        if (copy_frame(vale, vale_lane_at(vale, vale->port, to), n)) {
            sent = true;
        } else {
            port->counters->tx_dropped++;
            look_for_receiver(port, to, now_us);
        }
    }
    tx_skip(vale, n);
    return sent;
}

static bool unicast(struct port *port, uint32_t n, uint32_t to, uint64_t now_us)
{
    struct vale_device *vale = vale_of(port);
    struct vale_lane *lane = vale_lane_at(vale, vale->port, to);
    uint32_t done = 0;

    if (lane_room(lane) < n) {
        look_for_receiver(port, to, now_us);
    } else {
        while (done < n && tx_exchange(vale, lane, to)) {
            done++;
        }
    }
    if (done == n) {
        return true;
    }
    if (done > 0) { /* a frame cut short ends where it was cut */
        vale_cell_at(lane, lane->filled - 1)->flags = 0;
    }
    port->counters->tx_dropped++;
    tx_skip(vale, n - done);
    return false;
}

/* The destination's port, VALE_PORTS for all; the source is learned. A burst asks but once. */
static uint32_t look_up(struct vale_device *vale, const uint8_t *frame, uint64_t now_us)
{
    uint64_t macs[2];

    memcpy(&macs[0], frame, 8); /* two bytes of the source, too: equal frames are equal there */
    memcpy(&macs[1], frame + 4, 8);
    if (macs[0] != vale->asked[0] || macs[1] != vale->asked[1]) {
        vale->asked[0] = macs[0];
        vale->asked[1] = macs[1];
        vale_learn(vale->shared, frame + ETH_ALEN_BYTES, vale->port, now_us);
        vale->found = frame[0] & 1 ? VALE_PORTS : vale_find(vale->shared, frame, now_us);
    }
    return vale->found;
}

/* The frame of `n` slots at hwcur leaves, or is dropped. True: somebody got it. */
static bool send_frame(struct port *port, uint32_t n, uint64_t now_us)
{
    struct vale_device *vale = vale_of(port);
    struct vale_shared *shared = vale->shared;
    const struct nm_slot slot = vale->tx->slot[vale->side->tx_hwcur];
    const uint8_t *frame = vale->buf0 + (size_t)slot.buf_idx * vale->buf_size;
    uint32_t up = (uint16_t)atomic_load_explicit(&shared->up, memory_order_relaxed);
    uint32_t to;

    if (slot.len < ETH_HDR_LEN || !slot_valid(&slot, vale->bufs, vale->buf_size)) {
        port->counters->tx_dropped++;
        tx_skip(vale, n);
        return false;
    }
    to = look_up(vale, frame, now_us);
    if (to == VALE_PORTS || !(up >> to & 1)) {
        return flood(port, n, up, now_us);
    }
    if (to == vale->port) { /* its receiver is on the sender's side already */
        port->counters->tx_dropped++;
        tx_skip(vale, n);
        return false;
    }
    return unicast(port, n, to, now_us);
}

/* Tells the receivers how far their lanes have been filled, and wakes those who sleep. */
static void publish_lanes(struct port *port)
{
    struct vale_device *vale = vale_of(port);
    uint32_t told = 0;

    for (uint32_t to = 0; to < VALE_PORTS; to++) {
        struct vale_lane *lane = vale_lane_at(vale, vale->port, to);

        if (atomic_load_explicit(&lane->tail, memory_order_relaxed) != lane->filled) {
            atomic_store_explicit(&lane->tail, lane->filled, memory_order_release);
            told |= 1u << to;
        }
    }
    atomic_thread_fence(memory_order_seq_cst); /* the frames, then whether somebody sleeps */
    for (; told; told &= told - 1) {
        uint32_t to = (uint32_t)__builtin_ctz(told);

        if (atomic_load_explicit(&vale->shared->side[to].sleeping, memory_order_relaxed)) {
            soft_ring(&vale->soft, to, port->counters);
        }
    }
}

static uint64_t frame_bytes(const struct nm_ring *ring, uint32_t at, uint32_t slots)
{
    uint64_t bytes = 0;

    for (; slots > 0; slots--) {
        bytes += ring->slot[at].len;
        at = nm_ring_next(ring, at);
    }
    return bytes;
}

static int vale_tx_sync(struct port *port, uint64_t now_us)
{
    struct vale_device *vale = vale_of(port);
    struct nm_ring *tx = vale->tx;
    uint64_t frames = 0;
    uint64_t bytes = 0;
    bool bad = tx->head >= vale->slots || vale->side->tx_hwcur >= vale->slots ||
               tx->num_slots != vale->slots;

    vale->asked[0] = vale->asked[1] = 0;
    vale->found = VALE_PORTS;
    while (!bad && vale->side->tx_hwcur != tx->head) {
        uint32_t first = vale->side->tx_hwcur;
        uint32_t n = tx_frame_slots(vale, &bad);
        uint64_t len;

        if (n == 0 || bad) {
            break;
        }
        len = frame_bytes(tx, first, n);
        if (send_frame(port, n, now_us)) {
            bytes += len;
            frames++;
        }
    }
    port->counters->tx_frames += frames;
    port->counters->tx_bytes += bytes;
    port->counters->tx_syncs += frames != 0;
    publish_lanes(port);
    if (bad) {
        port->counters->errors++;
        return -EIO;
    }
    __atomic_store_n(&tx->tail, ring_prev(tx, vale->side->tx_hwcur), __ATOMIC_RELEASE);
    return 0;
}

/* Exchanges the buffer of the RX slot at rx_filled with the next cell's. */
static bool rx_exchange(struct vale_device *vale, struct vale_lane *lane, uint32_t from)
{
    struct vale_side *side = vale->side;
    struct nm_slot *slot = &vale->rx->slot[side->rx_filled];
    struct nm_slot *place = vale_cell_at(lane, lane->taken);
    struct nm_slot cell = *place;
    struct swap_record record = {.left = side->rx_filled,
                                 .right = lane->taken,
                                 .lane = from,
                                 .left_buf = slot->buf_idx,
                                 .right_buf = cell.buf_idx};

    if (unlikely(!slot_valid(&cell, vale->bufs, vale->buf_size))) {
        return false;
    }
    swap_begin(&side->rx_log, &record);
    *slot = (struct nm_slot){
        .buf_idx = cell.buf_idx, .len = cell.len, .flags = (uint16_t)(cell.flags & NM_MOREFRAG)};
    compiler_barrier();
    place->buf_idx = record.left_buf;
    compiler_barrier();
    lane->taken = record.right + 1;
    compiler_barrier();
    side->rx_filled = nm_ring_next(vale->rx, record.left);
    return true;
}

/* Cells of the next whole frame; 0: none. `bad`: what cannot be. */
static uint32_t rx_frame_cells(struct vale_lane *lane, uint32_t used, bool *bad)
{
    for (uint32_t n = 0; n < used && n < FRAME_SLOTS_MAX; n++) {
        if (!(vale_cell_at(lane, lane->taken + n)->flags & NM_MOREFRAG)) {
            return n + 1;
        }
    }
    *bad = used >= FRAME_SLOTS_MAX;
    return 0;
}

/* The frame of `n` cells. False: a cell that cannot be; what came of the frame ends there. */
static bool rx_frame(struct port *port, struct vale_lane *lane, uint32_t from, uint32_t n)
{
    struct vale_device *vale = vale_of(port);
    uint32_t last = vale->side->rx_filled;

    for (uint32_t i = 0; i < n; i++) {
        if (!rx_exchange(vale, lane, from)) {
            vale->rx->slot[last].flags = 0;
            return false;
        }
        last = ring_prev(vale->rx, vale->side->rx_filled);
        port->counters->rx_bytes += vale->rx->slot[last].len;
    }
    port->counters->rx_frames++;
    return true;
}

/* Moves what a lane holds into the ring. One whose contents cannot be is given up. */
static void rx_lane(struct port *port, uint32_t from)
{
    struct vale_device *vale = vale_of(port);
    struct vale_lane *lane = vale_lane_at(vale, from, vale->port);
    uint32_t tail = atomic_load_explicit(&lane->tail, memory_order_acquire);
    bool bad = tail - lane->taken > VALE_CELLS;

    while (!bad && lane->taken != tail) {
        const struct nm_ring *rx = vale->rx;
        uint32_t room = rx->num_slots - 1 - nm_ring_distance(rx, rx->head, vale->side->rx_filled);
        uint32_t n = rx_frame_cells(lane, tail - lane->taken, &bad);

        if (n == 0 || n > room) {
            break;
        }
        bad = !rx_frame(port, lane, from, n);
    }
    if (bad) {
        port->counters->errors++;
        lane->taken = tail;
    }
    atomic_store_explicit(&lane->head, lane->taken, memory_order_release);
}

static int vale_rx_sync(struct port *port, uint64_t now_us)
{
    struct vale_device *vale = vale_of(port);
    struct nm_ring *rx = vale->rx;
    uint64_t before = port->counters->rx_frames;
    uint32_t first = vale->side->rx_first++;

    (void)now_us;
    if (rx->head >= vale->slots || vale->side->rx_filled >= vale->slots ||
        rx->num_slots != vale->slots) {
        port->counters->errors++;
        return -EIO;
    }
    for (uint32_t i = 0; i < VALE_PORTS; i++) {
        uint32_t from = (first + i) % VALE_PORTS;
        struct vale_lane *lane = vale_lane_at(vale, from, vale->port);

        if (atomic_load_explicit(&lane->tail, memory_order_relaxed) != lane->taken) {
            rx_lane(port, from);
        }
    }
    __atomic_store_n(&rx->tail, vale->side->rx_filled, __ATOMIC_RELEASE);
    port->counters->rx_syncs += port->counters->rx_frames != before;
    return 0;
}

static int vale_sleep_arm(struct port *port)
{
    struct vale_device *vale = vale_of(port);
    bool frames = nm_ring_space(vale->rx) > 0;

    atomic_store(&vale->side->sleeping, 1);
    atomic_thread_fence(memory_order_seq_cst); /* before the looks */
    for (uint32_t from = 0; from < VALE_PORTS && !frames; from++) {
        struct vale_lane *lane = vale_lane_at(vale, from, vale->port);

        frames = atomic_load(&lane->tail) != lane->taken;
    }
    return frames || vale->side->tx_hwcur != vale->tx->head;
}

static void vale_sleep_disarm(struct port *port)
{
    uint64_t count;

    atomic_store(&vale_of(port)->side->sleeping, 0);
    if (read(port->wait_fd, &count, sizeof(count)) < 0) {
        ENSURE(errno == EAGAIN || errno == EINTR);
    }
}

/* Slots of a frame whose beginning has left already. */
static void skip_rest(struct vale_device *vale)
{
    const struct nm_ring *tx = vale->tx;
    uint32_t at = vale->side->tx_hwcur;
    bool more = true;

    while (more && at != tx->head && at < tx->num_slots) {
        more = tx->slot[at].flags & NM_MOREFRAG;
        at = nm_ring_next(tx, at);
    }
    vale->side->tx_log.turn = 0;
    compiler_barrier();
    vale->side->tx_hwcur = at;
}

/* What a record names exists: anything else in it was never written by us. */
static bool record_valid(const struct vale_device *vale, const struct swap_record *record)
{
    return record->lane < VALE_PORTS && record->left < vale->slots &&
           buf_valid(record->left_buf, vale->bufs) && buf_valid(record->right_buf, vale->bufs);
}

/* See the order of stores in tx_exchange. A frame cut short ends where it was cut. */
static void recover_tx(struct vale_device *vale)
{
    struct vale_side *side = vale->side;
    const struct swap_record *last = swap_last(&side->tx_log);
    struct vale_lane *lane;

    if (!last || !record_valid(vale, last)) {
        return;
    }
    lane = vale_lane_at(vale, vale->port, last->lane);
    if (lane->filled == last->right) {
        struct nm_slot *slot = &vale->tx->slot[last->left];

        if (slot->buf_idx == last->left_buf) {
            *vale_cell_at(lane, last->right) =
                (struct nm_slot){.buf_idx = last->left_buf,
                                 .len = slot->len,
                                 .flags = (uint16_t)(slot->flags & NM_MOREFRAG)};
            compiler_barrier();
            slot->buf_idx = last->right_buf;
        }
        lane->filled = last->right + 1;
    }
    if (side->tx_hwcur == last->left) {
        side->tx_hwcur = nm_ring_next(vale->tx, last->left);
    }
    if (last->more && lane->filled == last->right + 1) {
        vale_cell_at(lane, last->right)->flags = 0;
        skip_rest(vale);
    }
}

static void recover_rx(struct vale_device *vale)
{
    struct vale_side *side = vale->side;
    const struct swap_record *last = swap_last(&side->rx_log);
    struct vale_lane *lane;

    if (!last || !record_valid(vale, last)) {
        return;
    }
    lane = vale_lane_at(vale, last->lane, vale->port);
    if (lane->taken == last->right) {
        struct nm_slot *cell = vale_cell_at(lane, last->right);

        if (cell->buf_idx == last->right_buf) {
            vale->rx->slot[last->left] =
                (struct nm_slot){.buf_idx = last->right_buf,
                                 .len = (uint16_t)min_u32(cell->len, vale->buf_size),
                                 .flags = (uint16_t)(cell->flags & NM_MOREFRAG)};
            compiler_barrier();
            cell->buf_idx = last->left_buf;
        }
        lane->taken = last->right + 1;
    }
    if (side->rx_filled == last->left) {
        side->rx_filled = nm_ring_next(vale->rx, last->left);
    }
}

void vale_side_recover(struct vale_device *vale)
{
    recover_tx(vale);
    recover_rx(vale);
    for (uint32_t other = 0; other < VALE_PORTS; other++) {
        struct vale_lane *out = vale_lane_at(vale, vale->port, other);
        struct vale_lane *in = vale_lane_at(vale, other, vale->port);

        atomic_store(&out->tail, out->filled);
        atomic_store(&in->head, in->taken);
    }
    vale->rx->tail = vale->side->rx_filled;
    atomic_store(&vale->side->sleeping, 0);
}

void vale_side_reset(struct vale_device *vale)
{
    for (uint32_t from = 0; from < VALE_PORTS; from++) {
        struct vale_lane *in = vale_lane_at(vale, from, vale->port);

        in->taken = atomic_load(&in->tail);
        atomic_store(&in->head, in->taken);
    }
    vale->side->tx_log.turn = 0;
    vale->side->rx_log.turn = 0;
    vale->side->tx_hwcur = 0;
    vale->side->rx_filled = 0;
    region_reset_rx(vale->rx);
    region_reset_tx(vale->tx);
    memset(&vale->side->counters, 0, sizeof(vale->side->counters));
}

static int vale_recover(struct port *port)
{
    vale_side_recover(vale_of(port));
    return 0;
}

const struct port_ops vale_port_ops = {
    .backend = "vale",
    .rx_sync = vale_rx_sync,
    .tx_sync = vale_tx_sync,
    .sleep_arm = vale_sleep_arm,
    .sleep_disarm = vale_sleep_disarm,
    .recover = vale_recover,
};
