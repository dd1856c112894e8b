/* Transmit of mem: ports: the ring's frames go into the lane of their receiver. */
#include <errno.h>
#include <unistd.h>

#include "base/wire.h"
#include "ports/mem_exchange.h"

enum tx_answer {
    TX_SENT,
    TX_DROP,
    TX_HOLD,
    TX_BROKEN, /* the lane holds what cannot be */
};

/* One sync: frames in a row for the same lane are one batch. */
struct tx_run {
    struct port *port;
    const struct mem_shared *shared;
    const struct mem_place *place;
    uint64_t now_us;
    uint64_t up;
    uint64_t woken;    /* receivers to ring for */
    uint32_t target;   /* of the batch; UINT32_MAX: no batch is open */
    uint64_t mac_word; /* destination of the batch's frames, in six bytes: the next may be alike */
    uint32_t room;     /* cells known to be free in its lane; a client's: 0 */
    struct exchange batch;
};

static void ring_the_bell(struct mem_device *device, struct port_counters *counters, uint32_t side)
{
    static const uint64_t one = 1;

    if (atomic_load_explicit(&device->shared->side[side].sleeping, memory_order_relaxed)) {
        counters->syscalls++;
        if (write(device->doorbell[side], &one, sizeof(one)) < 0) {
            ENSURE(errno == EAGAIN); /* already ringing */
        }
    }
}

/* Of the sides from `base` on those in `woken`. */
static void wake_all(struct mem_device *device, struct port_counters *counters, uint32_t base,
                     uint64_t woken)
{
    if (woken) {
        atomic_thread_fence(memory_order_seq_cst); /* the frames, then whether readers sleep */
    }
    while (woken) {
        ring_the_bell(device, counters, base + (uint32_t)__builtin_ctzll(woken));
        woken &= woken - 1;
    }
}

/* Slots of the frame at `at`, all of them before head; 0: its end is not there, or it is `bad`. */
static uint32_t frame_slots(const struct tx_run *run, uint32_t at, bool *bad)
{
    const struct nm_ring *ring = run->port->tx;

    for (uint32_t n = 1; n <= MEM_FRAGS_MAX; n++) {
        uint64_t word = exchange_load(&ring->slot[at]);

        if (!exchange_possible(&run->batch, word)) {
            break;
        }
        if (!(word >> WORD_FLAGS_SHIFT & NM_MOREFRAG)) {
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

/* A full lane holds its sender for a moment, and never longer unless its consumer moves. */
static enum tx_answer lane_room(struct mem_lane *lane, uint32_t tail, uint32_t n, uint64_t now_us,
                                uint32_t *room)
{
    uint32_t head = atomic_load_explicit(&lane->head, memory_order_acquire);

    if (tail - head > MEM_CELLS) {
        return TX_BROKEN;
    }
    *room = MEM_CELLS - (tail - head);
    if (*room >= n) {
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

static uint32_t lane_of(const struct tx_run *run, uint32_t target)
{
    return run->place->server ? mem_lane_index(run->shared, target, run->place->index, true)
                              : mem_lane_index(run->shared, run->place->index, target, false);
}

/* Publishes what the open batch has exchanged. */
static void batch_close(struct tx_run *run)
{
    struct exchange *batch = &run->batch;

    if (run->target == UINT32_MAX) {
        return;
    }
    compiler_barrier();
    atomic_store_explicit(&batch->lane->tail, batch->position, memory_order_release);
    batch->side->tx_hwcur = batch->slot;
    exchange_done(batch);
    run->target = UINT32_MAX;
    run->room = 0;
}

static void batch_open(struct tx_run *run, uint32_t target)
{
    uint32_t lane_index = lane_of(run, target);
    struct mem_lane *lane = mem_lane_at(run->place->device, lane_index);

    batch_close(run);
    run->batch.lane = lane;
    run->batch.lane_index = lane_index;
    run->batch.position = atomic_load_explicit(&lane->tail, memory_order_relaxed);
    run->room = 0;
    run->target = target;
    run->woken |= (uint64_t)1 << target;
    exchange_begin(&run->batch, MEM_INTENT_TX);
}

/* The lane's link is stopped; what the batch has exchanged before stands. */
static void lane_broken(struct tx_run *run, uint32_t link)
{
    batch_close(run);
    run->up &= ~((uint64_t)1 << link);
    mem_lane_broken(run->port, link);
}

/*
 * A copy for one of several receivers: the cell keeps its buffer. One slot only. False: the cell
 * has none.
 */
static bool copy_to_lane(struct tx_run *run, uint32_t lane_index)
{
    const struct nm_ring *ring = run->port->tx;
    struct mem_lane *lane = mem_lane_at(run->place->device, lane_index);
    uint32_t tail = atomic_load_explicit(&lane->tail, memory_order_relaxed);
    struct mem_cell *cell = mem_cell_at(lane, tail);
    const struct nm_slot *slot = &ring->slot[run->batch.slot];
    uint32_t buf = exchange_buf(exchange_load(cell));
    uint8_t *to = (uint8_t *)run->port->tx + ring->buf_ofs + (size_t)buf * ring->nr_buf_size;

    if (!mem_buf_possible(run->place->device, buf)) {
        return false;
    }
    memcpy(to, nm_ring_buf(ring, run->batch.slot), slot->len);
    cell->len = slot->len;
    cell->flags = 0;
    atomic_store_explicit(&lane->tail, tail + 1, memory_order_release);
    return true;
}

/* Passes over slots whose buffers stay where they are. */
static void skip_to(struct tx_run *run, uint32_t slot)
{
    batch_close(run);
    run->batch.slot = slot;
    run->batch.side->tx_hwcur = slot;
}

static void broadcast(struct tx_run *run)
{
    batch_close(run);
    for (uint32_t link = 0; link < run->place->device->links; link++) {
        uint32_t lane = mem_lane_index(run->shared, link, run->place->index, true);
        struct mem_lane *to = mem_lane_at(run->place->device, lane);
        uint32_t tail = atomic_load_explicit(&to->tail, memory_order_relaxed);
        enum tx_answer answer;
        uint32_t room;

        if (!(run->up >> link & 1)) {
            continue;
        }
        answer = lane_room(to, tail, 1, run->now_us, &room);
        if (answer == TX_SENT && copy_to_lane(run, lane)) {
            run->woken |= (uint64_t)1 << link;
            continue;
        }
        run->port->counters->tx_dropped++;
        if (answer == TX_SENT || answer == TX_BROKEN) {
            lane_broken(run, link);
        }
    }
    skip_to(run, nm_ring_next(run->port->tx, run->batch.slot));
}

/* The links that this side's frames may reach: a ring of the NIC the wire's, a host ring its own.
 */
static uint64_t links_in_reach(const struct mem_place *place)
{
    const struct mem_device *device = place->device;
    uint64_t up = atomic_load(&device->shared->links_up);
    uint64_t host = device->host ? (uint64_t)1 << (device->links - 1) : 0;

    if (!place->server) {
        return up;
    }
    return mem_is_host_ring(device, place->index) ? up & host : up & ~host;
}

/* The ring that a link's frame is for. */
static uint32_t ring_of(const struct mem_device *device, uint32_t link, const uint8_t *frame,
                        uint32_t len)
{
    return mem_is_host_link(device, link) ? device->rings - 1
                                          : rss_queue(&device->shared->rss, frame, len);
}

/* The link or ring that a frame is for; -1: nobody. */
static int target_of(const struct tx_run *run, const uint8_t *frame, uint32_t len)
{
    const struct mem_device *device = run->place->device;
    uint8_t mac[6];

    if (!run->place->server) {
        return (int)ring_of(device, run->place->index, frame, len);
    }
    if (mem_is_host_ring(device, run->place->index)) {
        return run->up ? (int)device->links - 1 : -1;
    }
    mem_mac_of_link(run->shared, frame[5], mac);
    if (frame[5] >= run->place->device->links || !(run->up >> frame[5] & 1) ||
        memcmp(mac, frame, sizeof(mac)) != 0) {
        return -1;
    }
    return frame[5];
}

/* Gives the slot at the batch's place to its lane. False: the free cell's index is none. */
static inline bool give_slot(struct tx_run *run, struct nm_ring *ring, uint64_t word)
{
    const uint64_t kept =
        ((uint64_t)NM_MOREFRAG << WORD_FLAGS_SHIFT) | (((uint64_t)1 << WORD_FLAGS_SHIFT) - 1);
    const uint64_t changed = (uint64_t)NM_BUF_CHANGED << WORD_FLAGS_SHIFT;
    struct mem_cell *cell = mem_cell_at(run->batch.lane, run->batch.position);
    uint32_t saved = *(volatile uint32_t *)&cell->buf_idx;

    if (unlikely(!exchange_buf_possible(&run->batch, saved))) {
        return false;
    }
    exchange_name(&run->batch, saved);
    exchange_store(cell, word & kept);
    exchange_store(&ring->slot[run->batch.slot], (word & ~(uint64_t)UINT32_MAX) | saved | changed);
    exchange_next(&run->batch, ring);
    return true;
}

/* The free cells that a frame of several slots would take own buffers that exist. */
static bool cells_possible(const struct tx_run *run, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct mem_cell *cell = mem_cell_at(run->batch.lane, run->batch.position + i);

        if (!mem_buf_possible(run->place->device, cell->buf_idx)) {
            return false;
        }
    }
    return true;
}

/* Opens the batch for the frame at its slot. */
static enum tx_answer aim(struct tx_run *run, const uint8_t *frame, uint32_t len, uint32_t n)
{
    bool server = run->place->server;
    int target;

    if (len < ETH_HDR_LEN || (!server && !(run->up >> run->place->index & 1))) {
        return TX_DROP;
    }
    target = target_of(run, frame, len);
    if (target < 0) {
        return TX_DROP;
    }
    if ((uint32_t)target != run->target) {
        batch_open(run, (uint32_t)target);
    }
    if (server) { /* a client's frames differ in their hash, not in the MAC */
        run->mac_word = load_u64(frame);
    }
    if (run->room < n) {
        return lane_room(run->batch.lane, run->batch.position, n, run->now_us, &run->room);
    }
    return TX_SENT;
}

/* The frame of `n` slots at the batch's slot. */
static enum tx_answer send_frame(struct tx_run *run, uint32_t n)
{
    struct nm_ring *ring = run->port->tx;
    const uint8_t *frame = nm_ring_buf(ring, run->batch.slot);
    enum tx_answer answer;

    if (run->place->server && (frame[0] & 1) && n == 1) {
        broadcast(run);
        return TX_SENT;
    }
    answer = aim(run, frame, ring->slot[run->batch.slot].len, n);
    if (answer == TX_SENT && n > 1 && !cells_possible(run, n)) { /* of one, give_slot looks */
        answer = TX_BROKEN;
    }
    if (answer != TX_SENT) {
        return answer;
    }
    run->room = run->place->server ? run->room - n : 0; /* a client's slots are looked at each */
    for (uint32_t i = 0; i < n; i++) {
        if (!give_slot(run, ring, exchange_load(&ring->slot[run->batch.slot]))) {
            return TX_BROKEN; /* changed in this moment: its own receiver sees half a frame */
        }
    }
    return TX_SENT;
}

/*
 * True when the slot's frame is whole, and goes where the one before went. Only a shard's own stack
 * comes here: its slots hold indices that were checked when they came, and lengths of its own.
 */
static inline bool is_alike(const struct tx_run *run, const struct nm_ring *ring, uint64_t word)
{
    const uint8_t *frame =
        (const uint8_t *)ring + ring->buf_ofs + (size_t)(uint32_t)word * ring->nr_buf_size;

    return run->room > 0 && !(word >> WORD_FLAGS_SHIFT & NM_MOREFRAG) &&
           exchange_len(word) >= ETH_HDR_LEN && (load_u64(frame) ^ run->mac_word) << 16 == 0;
}

/* A frame that ends before `end` has nobody to go to, or a lane that cannot be true. */
static void pass_over(struct tx_run *run, uint32_t end, enum tx_answer answer)
{
    if (answer == TX_BROKEN) {
        lane_broken(run, run->place->server ? run->target : run->place->index);
    }
    skip_to(run, end);
    run->port->counters->tx_dropped++;
}

/* The bytes of a frame that has left, but for those of its first slot. */
static uint64_t bytes_behind(const struct nm_ring *ring, uint32_t first, uint32_t end)
{
    uint64_t bytes = 0;

    for (uint32_t at = nm_ring_next(ring, first); at != end; at = nm_ring_next(ring, at)) {
        bytes += ring->slot[at].len;
    }
    return bytes;
}

/* Sends what it can. False: a slot holds what cannot be. */
static bool send_all(struct tx_run *run)
{
    struct nm_ring *ring = run->port->tx;
    struct port_counters *counters = run->port->counters;
    uint32_t head = ring->head;
    uint64_t frames = 0;
    uint64_t bytes = 0;
    bool bad = false;

    while (run->batch.slot != head) {
        uint64_t word = exchange_load(&ring->slot[run->batch.slot]);

        if (likely(is_alike(run, ring, word) && give_slot(run, ring, word))) {
            run->room--;
        } else {
            uint32_t first = run->batch.slot;
            uint32_t n = frame_slots(run, first, &bad);
            enum tx_answer answer = n ? send_frame(run, n) : TX_HOLD;

            if (answer == TX_HOLD) {
                break;
            }
            if (answer != TX_SENT) {
                pass_over(run, (first + n) % ring->num_slots, answer);
                continue;
            }
            bytes += bytes_behind(ring, first, run->batch.slot);
        }
        frames++;
        bytes += exchange_len(word);
    }
    batch_close(run);
    counters->tx_frames += frames;
    counters->tx_bytes += bytes;
    counters->tx_syncs += frames > 0;
    return !bad;
}

int mem_tx_sync(struct port *port, uint64_t now_us)
{
    struct mem_side *side = mem_side_of(port);
    const struct mem_place *place = mem_place_of(port);
    struct nm_ring *ring = port->tx;
    struct tx_run run = {.port = port,
                         .shared = place->device->shared,
                         .place = place,
                         .now_us = now_us,
                         .target = UINT32_MAX,
                         .batch = {.side = side,
                                   .slot = side->tx_hwcur,
                                   .bufs_n = place->device->bufs - NM_BUF_FIRST,
                                   .buf_size = place->buf_size}};
    bool sound;

    if (unlikely(mem_is_stopped(port))) {
        return -EIO;
    }
    if (unlikely(ring->head >= place->slots || side->tx_hwcur >= place->slots)) {
        return mem_port_broken(port);
    }
    atomic_fetch_add(&side->sync_seq, 1);
    run.up = links_in_reach(place);
    sound = send_all(&run);
    /* everything before hwcur is complete at once: the slots hold fresh buffers */
    __atomic_store_n(&ring->tail, side->tx_hwcur ? side->tx_hwcur - 1 : ring->num_slots - 1,
                     __ATOMIC_RELEASE);
    atomic_fetch_add(&side->sync_seq, 1);
    wake_all(place->device, port->counters, place->server ? place->device->rings : 0, run.woken);
    return likely(sound) ? 0 : mem_port_broken(port);
}

/* The rings whose lanes from a link hold frames. */
static uint64_t rings_with_frames(const struct mem_device *device, uint32_t link)
{
    uint64_t rings = 0;

    for (uint32_t ring = 0; ring < device->rings; ring++) {
        uint32_t lane = mem_lane_index(device->shared, link, ring, false);

        rings |= (uint64_t)(mem_lane_used(mem_lane_at(device, lane)) != 0) << ring;
    }
    return rings;
}

/* One frame that stays behind, at the ring it was for: nobody but the owner writes to that count.
 */
static void count_missed(struct mem_device *device, uint32_t link, uint64_t word)
{
    const uint8_t *frame =
        device->base + device->bufs_ofs + (size_t)exchange_buf(word) * device->buf_size;
    uint32_t to;

    if (mem_buf_possible(device, exchange_buf(word)) && exchange_len(word) <= device->buf_size) {
        to = ring_of(device, link, frame, exchange_len(word));
        if (to < device->rings) {
            device->shared->side[to].counters.rx_missed++;
        }
    }
}

void mem_tx_bury(struct mem_device *device, uint32_t link)
{
    struct mem_shared *shared = device->shared;
    struct nm_if *nifp = (struct nm_if *)(void *)(device->base + shared->if_ofs[1 + link]);
    const struct nm_ring *ring = nm_tx_ring(nifp, 0);
    struct mem_side *side = &shared->side[device->rings + link];
    uint32_t head = ring->head;
    uint32_t at = side->tx_hwcur;
    uint32_t first = at;

    wake_all(device, &side->counters, 0, rings_with_frames(device, link));
    while (head < device->slots && at < device->slots && at != head) {
        uint64_t word = exchange_load(&ring->slot[first]);
        bool more = ring->slot[at].flags & NM_MOREFRAG;

        at = at + 1 == device->slots ? 0 : at + 1;
        if (!more) {
            count_missed(device, link, word);
            first = at;
        }
    }
}
