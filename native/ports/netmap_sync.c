/*
 * The two syncs of a netmap ring pair; see netmap.h.
 *
 * The kernel takes head and cur only within their bounds and answers anything else with a quiet
 * re-initialisation of the ring, so they are checked here before each call; buffer indices and
 * lengths are checked as slots become ours, before anybody follows them.
 */
#include <errno.h>
#include <poll.h>

#include "ports/netmap_bridge.h"

enum {
    TX_FULL_WAIT_MS = 1,
    TX_AGAIN_US = 50, /* how soon a ring that the driver has not finished with is synced again */
};

static int broken(const struct port *port)
{
    port->counters->errors++;
    return -EIO;
}

/* A stopped ring has lost its driver: the interface is gone. */
static int failed(int code)
{
    return code == -EIO ? -ENODEV : code;
}

static int call(const struct port *port, unsigned long request)
{
    const struct netmap_file *file = &netmap_ring(port)->file;
    int code = file->kernel->ioctl(file->fd, request, NULL);

    port->counters->syscalls++;
    return code == -EINTR ? 0 : code;
}

/* head in [from, to], cur in [head, to]. */
static bool user_valid(const struct nm_ring *ring, uint32_t from, uint32_t to)
{
    uint32_t span;

    if (ring->head >= ring->num_slots || ring->cur >= ring->num_slots) {
        return false;
    }
    span = nm_ring_distance(ring, from, to);
    return nm_ring_distance(ring, from, ring->head) <= span &&
           nm_ring_distance(ring, from, ring->head) <= nm_ring_distance(ring, from, ring->cur) &&
           nm_ring_distance(ring, from, ring->cur) <= span;
}

static bool buf_valid(const struct nm_slot *slot, uint32_t bufs)
{
    return slot->buf_idx >= NM_BUF_FIRST && slot->buf_idx < bufs;
}

/* Slots that have become ours; false: one of them cannot be. Frames and bytes for the counters. */
static bool look_at(const struct nm_ring *ring, uint32_t from, uint32_t to, uint32_t bufs,
                    uint64_t found[2])
{
    for (uint32_t i = from; i != to; i = nm_ring_next(ring, i)) {
        if (!buf_valid(&ring->slot[i], bufs) || ring->slot[i].len > ring->nr_buf_size) {
            return false;
        }
        found[0] += !(ring->slot[i].flags & NM_MOREFRAG);
        found[1] += ring->slot[i].len;
    }
    return true;
}

/* What the kernel has put between the last tail and this one. */
static int take_received(const struct port *port)
{
    struct netmap_shared *shared = netmap_shared(port);
    const struct nm_ring *ring = port->rx;
    uint32_t tail = nm_ring_tail(ring);
    uint64_t found[2] = {0, 0};

    if (tail == shared->rx_tail) {
        return 0;
    }
    if (tail >= ring->num_slots ||
        nm_ring_distance(ring, shared->rx_head, tail) <
            nm_ring_distance(ring, shared->rx_head, shared->rx_tail) ||
        !look_at(ring, shared->rx_tail, tail, netmap_ring(port)->rx_bufs, found)) {
        return broken(port);
    }
    netmap_bridge_mark(port, shared->rx_tail, tail);
    compiler_barrier();
    __atomic_store_n(&shared->rx_tail, tail, __ATOMIC_RELEASE);
    compiler_barrier();
    port->counters->rx_frames += found[0];
    port->counters->rx_bytes += found[1];
    port->counters->rx_syncs += found[0] > 0;
    return 0;
}

/* A poll() syncs, too: what it brought is taken without another call. */
int netmap_rx_sync(struct port *port, uint64_t now_us)
{
    struct netmap_shared *shared = netmap_shared(port);
    const struct nm_ring *ring = port->rx;
    uint32_t head;
    int code;

    if (shared->broken) {
        return broken(port);
    }
    if (netmap_ring(port)->rx_stub) {
        return 0;
    }
    head = ring->head;
    if (!user_valid(ring, shared->rx_head, shared->rx_tail)) {
        return broken(port);
    }
    code = netmap_bridge_pull(port, now_us);
    if (code != 0) {
        return code;
    }
    shared->rx_head = head;
    compiler_barrier();
    if (nm_ring_tail(ring) != shared->rx_tail) {
        return take_received(port);
    }
    code = call(port, NM_IOC_RXSYNC);
    if (code != 0) {
        return failed(code);
    }
    return ring->head == head ? take_received(port) : broken(port);
}

/* Slots that the kernel has finished with: their buffers are about to be written to. */
static int take_completed(const struct port *port)
{
    struct netmap_shared *shared = netmap_shared(port);
    const struct nm_ring *ring = port->tx;
    uint32_t tail = nm_ring_tail(ring);

    if (tail >= ring->num_slots || nm_ring_distance(ring, shared->tx_head, tail) <
                                       nm_ring_distance(ring, shared->tx_head, shared->tx_tail)) {
        return broken(port);
    }
    for (uint32_t i = shared->tx_tail; i != tail; i = nm_ring_next(ring, i)) {
        if (!buf_valid(&ring->slot[i], netmap_ring(port)->tx_bufs)) {
            return broken(port);
        }
    }
    shared->tx_tail = tail;
    return 0;
}

/* Slots that the kernel has not given back: sent, on their way, or not yet taken by the driver. */
static uint32_t tx_outstanding(const struct port *port)
{
    const struct nm_ring *ring = port->tx;

    return ring->num_slots - 1 - nm_ring_distance(ring, ring->head, netmap_shared(port)->tx_tail);
}

/*
 * Nothing new. A driver that took only some of the frames takes the rest at a later sync, and tells
 * nobody which: so a ring with slots outstanding is synced again, at once if half of it is.
 */
static bool tx_may_wait(const struct port *port, uint64_t now_us)
{
    const struct netmap_shared *shared = netmap_shared(port);
    const struct nm_ring *ring = port->tx;

    if (ring->head != shared->tx_head || shared->tx_unsynced) {
        return false;
    }
    return tx_outstanding(port) == 0 || (tx_outstanding(port) <= ring->num_slots / 2 &&
                                         now_us - shared->tx_synced_us < TX_AGAIN_US);
}

/* Checks and counts the frames up to head, then stores that they are the kernel's. */
static bool hand_over(const struct port *port)
{
    struct netmap_shared *shared = netmap_shared(port);
    const struct nm_ring *ring = port->tx;
    uint32_t head = ring->head;
    uint64_t found[2] = {0, 0};

    if (!user_valid(ring, shared->tx_head, shared->tx_tail) ||
        !look_at(ring, shared->tx_head, head, netmap_ring(port)->tx_bufs, found)) {
        return false;
    }
    shared->tx_unsynced = 1;
    compiler_barrier();
    shared->tx_head = head;
    compiler_barrier();
    port->counters->tx_frames += found[0];
    port->counters->tx_bytes += found[1];
    port->counters->tx_syncs += found[0] > 0;
    return true;
}

int netmap_tx_sync(struct port *port, uint64_t now_us)
{
    struct netmap_shared *shared = netmap_shared(port);
    const struct nm_ring *ring = port->tx;
    int code;

    if (netmap_ring(port)->tx_stub) {
        return 0;
    }
    if (!shared->broken && tx_may_wait(port, now_us)) {
        return take_completed(port);
    }
    if (shared->broken || !hand_over(port)) {
        return broken(port);
    }
    code = call(port, NM_IOC_TXSYNC);
    if (code != 0) {
        return failed(code);
    }
    compiler_barrier();
    shared->tx_unsynced = 0;
    shared->tx_synced_us = now_us;
    return ring->head == shared->tx_head ? take_completed(port) : broken(port);
}

/* A poll has synced both rings: room that it brought is looked at before anybody writes there. */
static void look_behind_poll(const struct port *port)
{
    struct netmap_shared *shared = netmap_shared(port);

    if (!netmap_ring(port)->tx_stub &&
        (!user_valid(port->tx, shared->tx_head, shared->tx_tail) || take_completed(port) != 0)) {
        shared->broken = 1;
    }
}

/*
 * The worker polls for frames only: asking for room while there is some would never sleep. That
 * poll also goes on sending what the driver has not taken, as often as it takes something. With a
 * full ring the worker must not sleep past the room, so it waits here for both, a little.
 */
static int port_sleep_arm(struct port *port)
{
    const struct netmap_file *file = &netmap_ring(port)->file;
    bool full = !netmap_ring(port)->tx_stub && nm_ring_empty(port->tx);

    if (!netmap_ring(port)->rx_stub && nm_ring_tail(port->rx) != netmap_shared(port)->rx_tail) {
        return 1;
    }
    if (!full && !netmap_shared(port)->tx_unsynced) {
        return 0;
    }
    port->counters->syscalls++;
    file->kernel->poll(file->fd, POLLIN | POLLOUT, TX_FULL_WAIT_MS);
    look_behind_poll(port);
    return 1;
}

static void port_sleep_disarm(struct port *port)
{
    port->counters->syscalls++;
    look_behind_poll(port);
}

/*
 * head and cur are where the dead worker published them, tail where the kernel left it; no system
 * call of netmap's ends half done. What may be missing is the last call and its bookkeeping.
 */
static int port_recover(struct port *port)
{
    struct netmap_shared *shared = netmap_shared(port);
    int code = 0;

    if (!netmap_ring(port)->rx_stub) {
        port->rx->cur = port->rx->head; /* killed inside nm_ring_give() */
        if (!user_valid(port->rx, shared->rx_head, shared->rx_tail)) {
            return broken(port);
        }
        shared->rx_head = port->rx->head;
        code = take_received(port);
    }
    if (code == 0 && !netmap_ring(port)->tx_stub) {
        port->tx->cur = port->tx->head;
        code = user_valid(port->tx, shared->tx_head, shared->tx_tail) ? take_completed(port)
                                                                      : broken(port);
    }
    return code != 0 ? code : netmap_bridge_recover(port);
}

static bool all_valid(const struct nm_ring *ring, uint32_t bufs)
{
    for (uint32_t i = 0; i < ring->num_slots; i++) {
        if (!buf_valid(&ring->slot[i], bufs)) {
            return false;
        }
    }
    return nm_ring_tail(ring) < ring->num_slots && user_valid(ring, ring->head, nm_ring_tail(ring));
}

bool netmap_sync_begin(struct port *port)
{
    struct netmap_shared *shared = netmap_shared(port);
    const struct netmap_ring *ring = netmap_ring(port);

    *shared = (struct netmap_shared){.rx_head = port->rx->head,
                                     .rx_tail = port->rx->head,
                                     .tx_head = port->tx->head,
                                     .tx_tail = nm_ring_tail(port->tx)};
    return (ring->tx_stub || all_valid(port->tx, ring->tx_bufs)) &&
           (ring->rx_stub || all_valid(port->rx, ring->rx_bufs));
}

const struct port_ops netmap_port_ops = {
    .backend = "netmap",
    .rx_sync = netmap_rx_sync,
    .tx_sync = netmap_tx_sync,
    .sleep_arm = port_sleep_arm,
    .sleep_disarm = port_sleep_disarm,
    .recover = port_recover,
};
