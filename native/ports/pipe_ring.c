/* The two syncs of a pipe's end; see pipe.h. */
#include <errno.h>
#include <unistd.h>

#include "ports/pipe.h"

static struct pipe_place *place_of(const struct port *port)
{
    return port->priv;
}

static uint32_t ring_prev(const struct nm_ring *ring, uint32_t i)
{
    return i ? i - 1 : ring->num_slots - 1;
}

static void wake_peer(struct port *port)
{
    struct pipe_place *place = place_of(port);

    atomic_thread_fence(memory_order_seq_cst); /* what it waits for, then whether it sleeps */
    if (atomic_load_explicit(&place->peer->sleeping, memory_order_relaxed)) {
        soft_ring(&place->pipe->soft, pipe_soft_end(place->pipe, !place->pipe->end),
                  port->counters);
    }
}

/* Slots from filled to head that the reader has room for: whole frames only. */
static uint32_t sendable(const struct port *port, uint32_t filled)
{
    const struct nm_ring *tx = port->tx;
    uint32_t released = atomic_load_explicit(&place_of(port)->out->released, memory_order_acquire);
    uint32_t room = tx->num_slots - 1 - nm_ring_distance(tx, released, filled);
    uint32_t n = min_u32(nm_ring_distance(tx, filled, tx->head), room);
    uint32_t last = filled + n;

    if (unlikely(released >= tx->num_slots)) {
        return 0; /* nonsense from the other side: no room */
    }
    last = ring_prev(tx, last >= tx->num_slots ? last - tx->num_slots : last);
    while (n > 0 && unlikely(tx->slot[last].flags & NM_MOREFRAG)) {
        last = ring_prev(tx, last);
        n--;
    }
    return n;
}

struct tally {
    uint32_t frames;
    uint64_t bytes;
};

/* Exchanges `n` slots from filled on. False: an index or length that cannot be. */
static bool exchange_slots(struct port *port, uint32_t n, struct tally *tally)
{
    const struct pipe_place *place = place_of(port);
    struct pipe_way *way = place->out;
    struct nm_ring *tx = port->tx;
    struct nm_ring *rx = place->peer_rx;
    uint32_t at = way->filled;

    for (; n > 0; n--) {
        struct nm_slot mine = tx->slot[at];
        uint32_t theirs = rx->slot[at].buf_idx;
        uint32_t next = nm_ring_next(tx, at);

        if (unlikely(!slot_valid(&mine, place->bufs, place->buf_size) ||
                     !buf_valid(theirs, place->bufs))) {
            return false;
        }
        swap_begin(&way->log,
                   &(struct swap_record){
                       .left = at, .right = at, .left_buf = mine.buf_idx, .right_buf = theirs});
        rx->slot[at] = (struct nm_slot){.buf_idx = mine.buf_idx,
                                        .len = mine.len,
                                        .flags = (uint16_t)(mine.flags & NM_MOREFRAG)};
        compiler_barrier();
        tx->slot[at].buf_idx = theirs;
        tx->slot[at].flags = NM_BUF_CHANGED;
        compiler_barrier();
        way->filled = next;
        tally->frames += !(mine.flags & NM_MOREFRAG);
        tally->bytes += mine.len;
        at = next;
    }
    return true;
}

/* Nobody reads: what is sent is gone. Both rings stay in step, no buffer moves. */
static void swallow(struct port *port)
{
    struct pipe_way *way = place_of(port)->out;
    struct nm_ring *tx = port->tx;
    uint32_t head = tx->head;

    for (uint32_t at = way->filled; at != head; at = nm_ring_next(tx, at)) {
        port->counters->tx_dropped += !(tx->slot[at].flags & NM_MOREFRAG);
    }
    way->log.turn = 0; /* its record is of a place that comes again */
    compiler_barrier();
    way->filled = head;
    atomic_store_explicit(&way->published, head, memory_order_release);
    atomic_store_explicit(&way->released, head, memory_order_release);
}

/*
 * A reader that stands still for long may be dead: nobody says so but its lock. `up` is read before
 * the lock: whoever has opened the end since stays up.
 */
static void look_for_reader(struct port *port, uint64_t now_us)
{
    struct pipe_place *place = place_of(port);
    struct pipe_way *way = place->out;
    uint32_t peer = !place->pipe->end;
    uint32_t released = atomic_load_explicit(&way->released, memory_order_relaxed);
    uint32_t up = atomic_load(&place->pipe->link->up[peer]);

    if (way->held_us == 0 || way->held_released != released) {
        way->held_us = now_us ? now_us : 1;
        way->held_released = released;
        return;
    }
    if (now_us - way->held_us >= PIPE_PROBE_US) {
        way->held_us = 0;
        port->counters->syscalls++;
        if (!soft_alive(&place->pipe->soft, pipe_soft_end(place->pipe, peer))) {
            atomic_compare_exchange_strong(&place->pipe->link->up[peer], &up,
                                           up & ~(uint32_t)PIPE_UP);
        }
    }
}

static int send_slots(struct port *port, uint64_t now_us)
{
    struct pipe_way *way = place_of(port)->out;
    uint32_t n = sendable(port, way->filled);
    struct tally tally = {0};
    bool valid;

    if (n == 0) {
        if (way->filled != port->tx->head) {
            look_for_reader(port, now_us);
        }
        return 0;
    }
    way->held_us = 0;
    valid = exchange_slots(port, n, &tally);
    atomic_store_explicit(&way->published, way->filled, memory_order_release);
    port->counters->tx_frames += tally.frames;
    port->counters->tx_bytes += tally.bytes;
    port->counters->tx_syncs++;
    wake_peer(port);
    if (!valid) {
        port->counters->errors++;
        return -EIO;
    }
    return 0;
}

static int pipe_tx_sync(struct port *port, uint64_t now_us)
{
    struct pipe_place *place = place_of(port);
    uint32_t filled = place->out->filled;
    int code = 0;

    if (port->tx->head >= place->slots || filled >= place->slots ||
        atomic_load_explicit(&place->out->released, memory_order_relaxed) >= place->slots ||
        port->tx->num_slots != place->slots) {
        port->counters->errors++;
        return -EIO;
    }
    if (port->tx->head != filled) {
        uint32_t seq = atomic_load_explicit(&place->side->sync_seq, memory_order_relaxed);

        atomic_store(&place->side->sync_seq, seq + 1); /* before the look at `up` */
        if (atomic_load(&place->pipe->link->up[!place->pipe->end]) & PIPE_UP) {
            code = send_slots(port, now_us);
        } else {
            swallow(port);
        }
        atomic_store_explicit(&place->side->sync_seq, seq + 2, memory_order_release);
    }
    __atomic_store_n(&port->tx->tail, ring_prev(port->tx, place->out->filled), __ATOMIC_RELEASE);
    return code;
}

/* Takes what was published into the ring. False: a slot that cannot be. */
static bool take_slots(struct port *port, uint32_t end)
{
    const struct pipe_place *place = place_of(port);
    struct nm_ring *rx = port->rx;
    uint32_t at = rx->tail;
    struct tally tally = {0};

    for (; at != end; at = nm_ring_next(rx, at)) {
        if (unlikely(!slot_valid(&rx->slot[at], place->bufs, place->buf_size))) {
            return false;
        }
        tally.frames += !(rx->slot[at].flags & NM_MOREFRAG);
        tally.bytes += rx->slot[at].len;
    }
    port->counters->rx_frames += tally.frames;
    port->counters->rx_bytes += tally.bytes;
    port->counters->rx_syncs++;
    __atomic_store_n(&rx->tail, end, __ATOMIC_RELEASE);
    return true;
}

static int pipe_rx_sync(struct port *port, uint64_t now_us)
{
    struct pipe_place *place = place_of(port);
    struct nm_ring *rx = port->rx;
    uint32_t end = atomic_load_explicit(&place->in->published, memory_order_acquire);

    (void)now_us;
    if (rx->head >= place->slots || rx->tail >= place->slots || end >= place->slots ||
        rx->num_slots != place->slots || /* or it would take back what we have: */
        nm_ring_distance(rx, rx->head, end) < nm_ring_distance(rx, rx->head, rx->tail)) {
        port->counters->errors++;
        return -EIO;
    }
    if (atomic_load_explicit(&place->in->released, memory_order_relaxed) != rx->head) {
        atomic_store_explicit(&place->in->released, rx->head, memory_order_release);
        wake_peer(port);
    }
    while (end != rx->tail && unlikely(rx->slot[ring_prev(rx, end)].flags & NM_MOREFRAG)) {
        end = ring_prev(rx, end); /* a frame's rest is to come */
    }
    if (end != rx->tail && !take_slots(port, end)) {
        port->counters->errors++;
        return -EIO;
    }
    return 0;
}

static int pipe_sleep_arm(struct port *port)
{
    struct pipe_place *place = place_of(port);
    struct pipe_way *out = place->out;

    atomic_store(&place->side->sleeping, 1);
    atomic_thread_fence(memory_order_seq_cst); /* before the looks, of all of which one is later */
    return atomic_load(&place->in->published) != port->rx->tail || nm_ring_space(port->rx) > 0 ||
           (out->filled != port->tx->head && sendable(port, out->filled) > 0);
}

static void pipe_sleep_disarm(struct port *port)
{
    uint64_t count;

    atomic_store(&place_of(port)->side->sleeping, 0);
    if (read(port->wait_fd, &count, sizeof(count)) < 0) {
        ENSURE(errno == EAGAIN || errno == EINTR);
    }
}

void pipe_way_recover(struct pipe_way *way, struct nm_ring *tx, struct nm_ring *peer_rx,
                      uint32_t bufs)
{
    const struct swap_record *last = swap_last(&way->log);

    if (way->filled >= tx->num_slots) { /* nonsense from the other side: as after an open */
        way->filled = 0;
        way->log.turn = 0;
    } else if (last && (!buf_valid(last->left_buf, bufs) || !buf_valid(last->right_buf, bufs))) {
        way->log.turn = 0; /* the same: nothing is exchanged for what cannot be */
    } else if (last && last->right == way->filled &&
               last->left == last->right) { /* begun, and perhaps not finished */
        struct nm_slot *mine = &tx->slot[last->left];

        if (mine->buf_idx == last->left_buf) {
            peer_rx->slot[last->right] =
                (struct nm_slot){.buf_idx = last->left_buf,
                                 .len = mine->len,
                                 .flags = (uint16_t)(mine->flags & NM_MOREFRAG)};
            compiler_barrier();
            mine->buf_idx = last->right_buf;
        }
        mine->flags = NM_BUF_CHANGED;
        compiler_barrier();
        way->filled = nm_ring_next(tx, last->left);
    }
    atomic_store(&way->published, way->filled);
    way->held_us = 0;
}

static int pipe_recover(struct port *port)
{
    struct pipe_place *place = place_of(port);

    if (port->tx->num_slots != place->slots || port->rx->num_slots != place->slots) {
        port->counters->errors++;
        return -EIO;
    }
    pipe_way_recover(place->out, port->tx, place->peer_rx, place->bufs);
    if (atomic_load(&place->side->sync_seq) & 1) {
        atomic_fetch_add(&place->side->sync_seq, 1);
    }
    atomic_store(&place->side->sleeping, 0);
    return 0;
}

const struct port_ops pipe_port_ops = {
    .backend = "pipe",
    .rx_sync = pipe_rx_sync,
    .tx_sync = pipe_tx_sync,
    .sleep_arm = pipe_sleep_arm,
    .sleep_disarm = pipe_sleep_disarm,
    .recover = pipe_recover,
};
