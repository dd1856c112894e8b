/* Sharing a NIC with the host; see netmap_bridge.h. */
#include "ports/netmap_bridge.h"

#include <errno.h>
#include <unistd.h>

enum {
    HOST_AGAIN_US = 50, /* how often a host ring is looked at by a busy worker: a system call */
    RESERVE = 4,        /* of a TX ring's slots one in so many is never the host's */
};

bool netmap_bridge_wanted(const struct netmap_device *netmap, const struct device_config *config)
{
    return netmap->name.kind == NETMAP_NIC && netmap->name.mode == NM_MODE_ALL_NIC &&
           !netmap_is_monitor(netmap) &&
           !(netmap->name.flags & (NM_REG_RX_RINGS_ONLY | NM_REG_TX_RINGS_ONLY)) &&
           config->ip != 0 && config->take != PORT_TAKE_ALL;
}

void netmap_bridge_plan(struct netmap_device *netmap, const struct device_config *config)
{
    netmap->bridged = netmap_bridge_wanted(netmap, config);
    if (netmap->bridged) {
        netmap->name.conf.host_tx_rings = netmap->rings;
        netmap->name.conf.host_rx_rings = netmap->rings;
        filter_set(&netmap->filter, config);
    }
}

static bool host_slots_valid(const struct netmap_ring *ring, const struct nm_ring *host,
                             uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i != to; i = nm_ring_next(host, i)) {
        const struct nm_slot *slot = &host->slot[i];

        if (slot->buf_idx < NM_BUF_FIRST || slot->buf_idx >= ring->host_bufs ||
            slot->len > host->nr_buf_size) {
            return false;
        }
    }
    return true;
}

int netmap_bridge_open(struct device *device, uint32_t index)
{
    struct netmap_device *netmap = device->priv;
    struct netmap_ring *ring = &netmap->ring[index];
    struct port *port = &device->ports[index];
    struct netmap_shared *shared = port->shared;
    int code = netmap_file_open(&ring->host, &netmap->name, NM_MODE_ONE_SW, index, 0);

    code = code != 0 ? code : netmap_file_map(&ring->host);
    if (code != 0) {
        return code;
    }
    ring->host_rx = netmap_file_rx(&ring->host);
    if (!ring->host_rx || ring->host_rx->nr_buf_size != port->tx->nr_buf_size ||
        ring->host.granted.mem_id != ring->file.granted.mem_id) {
        return -EPROTO;
    }
    ring->host_bufs = netmap_file_bufs(&ring->host, ring->host_rx);
    ring->both_fd = netmap->kernel->both(ring->file.fd, ring->host.fd);
    if (ring->both_fd < 0) {
        return ring->both_fd;
    }
    ring->filter = &netmap->filter;
    shared->host_head = ring->host_rx->head;
    shared->host_tail = ring->host_rx->head;
    port->wait_fd = ring->both_fd;
    port->caps |= PORT_CAP_HOST;
    port->rx->flags |= NM_RING_FORWARD;
    return 0;
}

void netmap_bridge_close(struct netmap_ring *ring)
{
    if (ring->both_fd >= 0) {
        close(ring->both_fd);
    }
    ring->both_fd = -1;
    netmap_file_close(&ring->host);
}

/* A frame over several slots cannot go up: netmap would make a frame of each. */
void netmap_bridge_mark(const struct port *port, uint32_t from, uint32_t to)
{
    const struct filter *filter = netmap_ring(port)->filter;
    struct nm_ring *ring = port->rx;
    bool first = true;

    for (uint32_t i = from; i != to && filter; i = nm_ring_next(ring, i)) {
        struct nm_slot *slot = &ring->slot[i];
        bool more = slot->flags & NM_MOREFRAG;

        slot->flags &= (uint16_t)~(NM_FORWARD | NM_REPORT);
        if (first && !filter_takes(filter, nm_ring_buf(ring, i), slot->len)) {
            slot->flags |= more ? NM_REPORT : NM_FORWARD;
        }
        first = !more;
    }
}

/* The exchange that is in hand; doing it again changes nothing. */
static void move_slot(struct port *port)
{
    struct netmap_shared *shared = netmap_shared(port);
    struct nm_ring *host = netmap_ring(port)->host_rx;
    struct nm_ring *tx = port->tx;
    const struct netmap_move *move = &shared->move;

    tx->slot[move->to] =
        (struct nm_slot){.buf_idx = move->sent, .len = move->len, .flags = NM_BUF_CHANGED};
    host->slot[move->from].buf_idx = move->back;
    host->slot[move->from].flags = NM_BUF_CHANGED;
    nm_ring_give(host, nm_ring_next(host, move->from));
    shared->host_head = host->head;
    nm_ring_give(tx, nm_ring_next(tx, move->to));
    compiler_barrier();
    shared->moving = 0;
    compiler_barrier();
}

/* Frames of the host's in one slot each, while the stack keeps room of its own. */
static void move_frames(struct port *port)
{
    struct netmap_shared *shared = netmap_shared(port);
    struct nm_ring *host = netmap_ring(port)->host_rx;
    const struct nm_ring *tx = port->tx;

    while (host->head != shared->host_tail &&
           nm_ring_distance(tx, tx->head, shared->tx_tail) > tx->num_slots / RESERVE) {
        const struct nm_slot *slot = &host->slot[host->head];

        shared->move = (struct netmap_move){.from = host->head,
                                            .to = tx->head,
                                            .sent = slot->buf_idx,
                                            .back = tx->slot[tx->head].buf_idx,
                                            .len = slot->len};
        compiler_barrier();
        shared->moving = 1;
        compiler_barrier();
        move_slot(port);
    }
}

static int broken(const struct port *port)
{
    port->counters->errors++;
    return -EIO;
}

/* What the kernel has put there since. */
static int take_new(const struct port *port)
{
    struct netmap_shared *shared = netmap_shared(port);
    const struct netmap_ring *ring = netmap_ring(port);
    const struct nm_ring *host = ring->host_rx;
    uint32_t tail = nm_ring_tail(host);

    if (host->head != shared->host_head || tail >= host->num_slots ||
        nm_ring_distance(host, host->head, tail) <
            nm_ring_distance(host, host->head, shared->host_tail) ||
        !host_slots_valid(ring, host, shared->host_tail, tail)) {
        return broken(port);
    }
    shared->host_tail = tail;
    return 0;
}

int netmap_bridge_pull(struct port *port, uint64_t now_us)
{
    struct netmap_shared *shared = netmap_shared(port);
    const struct netmap_ring *ring = netmap_ring(port);
    int code = 0;

    if (!ring->filter) {
        return 0;
    }
    if (nm_ring_tail(ring->host_rx) == shared->host_tail &&
        now_us - shared->host_synced_us >= HOST_AGAIN_US) {
        shared->host_synced_us = now_us;
        port->counters->syscalls++;
        code = ring->host.kernel->ioctl(ring->host.fd, NM_IOC_RXSYNC, NULL);
    }
    if (code != 0 && code != -EINTR) {
        return code == -EIO ? -ENODEV : code;
    }
    code = take_new(port);
    if (code == 0) {
        move_frames(port);
    }
    return code;
}

int netmap_bridge_recover(struct port *port)
{
    struct netmap_shared *shared = netmap_shared(port);
    const struct netmap_ring *ring = netmap_ring(port);

    if (!ring->filter) {
        return 0;
    }
    if (shared->moving) {
        move_slot(port);
    }
    ring->host_rx->cur = ring->host_rx->head;
    return take_new(port);
}
