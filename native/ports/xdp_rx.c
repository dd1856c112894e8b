/*
 * From a socket's RX ring into netmap slots; see xdp.h.
 *
 * A frame's chunk takes the place of the slot's buffer, which goes to the fill ring: nothing is
 * copied. Copied are the pieces of a long frame but the first, because slots begin with the frame's
 * bytes there and the kernel leaves room, and what a card has put elsewhere than expected.
 *
 * Before the commit: fill entries behind the producer, then slots behind the tail, where nobody
 * looks. Doing it again finds the chunk in its slot already. After it: tail, producer and consumer,
 * all of which follow from the commit, are stored once more by a successor.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "ports/unfinished.h"
#include "ports/xdp.h"

enum {
    MISSED_EVERY_US = 100000, /* asking the kernel is a system call */
    STARVED_EVERY_US = 1000,
};

/* A burst of one socket in the making: where it would leave the cursors, what it would count. */
struct take {
    const struct xdp_port *from;
    const struct xdp_socket *sock;
    struct nm_ring *to;
    uint32_t next; /* RX entry */
    uint32_t end;
    uint32_t tail; /* next free slot */
    uint32_t space;
    uint32_t frames;
    uint32_t skipped;
    uint64_t bytes;
    bool broken;
};

static uint64_t pack(uint32_t index, uint32_t tail, uint32_t next)
{
    return (uint64_t)index << 48 | (uint64_t)tail << 32 | next;
}

static uint32_t tail_of(uint64_t commit)
{
    return (uint32_t)(commit >> 32) & 0xffff;
}

/* The bytes of an entry: a chunk, where it begins there, and its length, all within bounds. */
static bool entry_valid(const struct take *take, const struct xdp_desc *desc)
{
    uint64_t buf = xdp_buf_of(take->from, desc->addr);
    uint32_t ofs = xdp_ofs_of(take->from, desc->addr);

    return buf >= NM_BUF_FIRST && buf < take->from->bufs && desc->len > 0 &&
           desc->len <= take->from->chunk - ofs;
}

/* Puts one entry into the slot at the tail; `first`: of a frame. */
static void take_piece(struct take *take, const struct xdp_desc *desc, bool first)
{
    const struct xdp_port *from = take->from;
    struct nm_slot *slot = &take->to->slot[take->tail];
    uint32_t buf = (uint32_t)xdp_buf_of(from, desc->addr);
    uint32_t before = first ? PORT_VNET_HDR_LEN : 0;
    uint64_t *fill = xdp_addr_at(&take->sock->fill, take->next);

    if (!entry_valid(take, desc) || before + desc->len > take->to->nr_buf_size ||
        !xdp_buf_valid(from, slot->buf_idx)) {
        take->broken = true;
        return;
    }
    if (first && xdp_ofs_of(from, desc->addr) == from->data_ofs) {
        if (slot->buf_idx != buf) {
            *fill = (uint64_t)slot->buf_idx * from->chunk;
            compiler_barrier();
            slot->buf_idx = buf;
        }
    } else if (slot->buf_idx == buf) { /* the kernel names what it does not have */
        take->broken = true;
        return;
    } else {
        *fill = (uint64_t)buf * from->chunk;
        memmove(nm_ring_buf(take->to, take->tail) + before, from->umem + desc->addr, desc->len);
    }
    slot->len = (uint16_t)(before + desc->len);
    slot->flags = desc->options & XDP_DESC_CONTD ? NM_MOREFRAG : 0;
    take->bytes += desc->len;
    take->tail = nm_ring_next(take->to, take->tail);
    take->space--;
    take->next++;
}

/* Entries of the frame at `next`; 0: its end has not come. */
static uint32_t count_pieces(const struct take *take)
{
    uint32_t n = 0;

    while (take->next + n != take->end) {
        if (!(xdp_desc_at(&take->sock->rx, take->next + n++)->options & XDP_DESC_CONTD)) {
            return n;
        }
    }
    return 0;
}

/* A frame that would never find room: its buffers go back, and it is counted. */
static bool skip_frame(struct take *take, uint32_t pieces)
{
    for (uint32_t i = 0; i < pieces && !take->broken; i++, take->next++) {
        const struct xdp_desc *desc = xdp_desc_at(&take->sock->rx, take->next);

        take->broken = !entry_valid(take, desc);
        *xdp_addr_at(&take->sock->fill, take->next) =
            desc->addr - xdp_ofs_of(take->from, desc->addr);
    }
    take->skipped++;
    return !take->broken;
}

static bool take_frame(struct take *take)
{
    uint32_t slot = take->tail;
    uint32_t pieces = count_pieces(take);
    struct vnet_hdr hdr = {0};
    uint8_t *buf;

    if (pieces > XDP_FRAME_SLOTS_MAX) {
        return skip_frame(take, pieces);
    }
    if (pieces == 0 || pieces > take->space) {
        return false;
    }
    for (uint32_t i = 0; i < pieces && !take->broken; i++) {
        take_piece(take, xdp_desc_at(&take->sock->rx, take->next), i == 0);
    }
    if (take->broken) {
        return false;
    }
    buf = nm_ring_buf(take->to, slot);
    if (take->from->unfinished) {
        unfinished_find(buf + PORT_VNET_HDR_LEN, take->to->slot[slot].len - PORT_VNET_HDR_LEN,
                        &hdr);
    }
    memcpy(buf, &hdr, sizeof(hdr));
    take->frames++;
    return true;
}

static void publish(const struct port *port, uint64_t commit)
{
    const struct xdp_port *xdp = xdp_port(port);
    const struct xdp_socket *sock = &xdp->socket[commit >> 48];

    compiler_barrier();
    __atomic_store_n(&port->rx->tail, tail_of(commit), __ATOMIC_RELEASE);
    xdp_store(sock->fill.producer, (uint32_t)commit + xdp->fill);
    xdp_store(sock->rx.consumer, (uint32_t)commit);
}

static void commit_take(const struct port *port, const struct take *take)
{
    struct xdp_shared *shared = port->shared;
    uint32_t index = (uint32_t)(take->sock - take->from->socket);
    uint64_t commit = pack(index, take->tail, take->next);

    compiler_barrier();
    __atomic_store_n(&shared->rx_commit, commit, __ATOMIC_RELAXED);
    publish(port, commit);
    port->counters->rx_frames += take->frames;
    port->counters->rx_bytes += take->bytes;
    shared->skipped += take->skipped;
}

/* Frames for which there was no buffer, ever, as the kernel counts them, and those skipped. */
static void count_missed(const struct port *port)
{
    const struct xdp_port *xdp = xdp_port(port);
    uint64_t missed = 0;

    for (uint32_t i = 0; i < xdp->sockets; i++) {
        struct xdp_statistics stats = {0};
        socklen_t len = sizeof(stats);

        port->counters->syscalls++;
        if (getsockopt(xdp->socket[i].fd, SOL_XDP, XDP_STATISTICS, &stats, &len) == 0) {
            missed += stats.rx_dropped + stats.rx_ring_full;
        }
    }
    port->counters->rx_missed = missed + ((struct xdp_shared *)port->shared)->skipped;
}

/* Lets the kernel work for us: it ran out of buffers, or only works when it is called. */
static void wake(const struct port *port, const struct xdp_socket *sock)
{
    port->counters->syscalls++;
    if (recvfrom(sock->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL) < 0 && errno == ENXIO) {
        ((struct xdp_shared *)port->shared)->gone = 1;
    }
}

/* Takes a burst from one socket; false: the ring holds what cannot be. */
static bool take_burst(const struct port *port, const struct xdp_socket *sock, uint32_t *frames)
{
    const struct xdp_port *xdp = xdp_port(port);
    struct xdp_shared *shared = port->shared;
    struct nm_ring *ring = port->rx;
    struct take take = {.from = xdp,
                        .sock = sock,
                        .to = ring,
                        .next = *sock->rx.consumer,
                        .tail = tail_of(shared->rx_commit)};

    if (*sock->fill.flags & XDP_RING_NEED_WAKEUP) {
        wake(port, sock);
    }
    take.end = xdp_load(sock->rx.producer);
    if (take.end == take.next && xdp->busy_poll) {
        wake(port, sock);
        take.end = xdp_load(sock->rx.producer);
    }
    if (take.end - take.next > sock->rx.size) {
        return false;
    }
    take.space = ring->num_slots - 1 - nm_ring_distance(ring, ring->head, take.tail);
    for (uint32_t i = take.next; i != take.end && i - take.next < XDP_RX_BURST; i++) {
        uint64_t addr = xdp_desc_at(&sock->rx, i)->addr;

        prefetch_line(xdp->umem + (addr < xdp->umem_bytes ? addr : 0));
    }
    while (*frames + take.frames < XDP_RX_BURST && take_frame(&take)) {
    }
    if (take.frames + take.skipped > 0 && !take.broken) {
        commit_take(port, &take);
    }
    *frames += take.frames;
    return !take.broken;
}

static bool starved(const struct xdp_port *xdp)
{
    bool none = false;

    for (uint32_t i = 0; i < xdp->sockets; i++) {
        none |= xdp_load(xdp->socket[i].fill.consumer) == *xdp->socket[i].fill.producer;
    }
    return none;
}

int xdp_rx_sync(struct port *port, uint64_t now_us)
{
    const struct xdp_port *xdp = xdp_port(port);
    struct xdp_shared *shared = port->shared;
    uint32_t frames = 0;

    if (port->rx->head >= port->rx->num_slots) {
        return xdp_broken(port);
    }
    if (shared->gone && nm_ring_space(port->rx) == 0 && !xdp_rx_ready(xdp)) {
        return -ENODEV; /* not before its last frames have been looked at */
    }
    if (now_us - shared->missed_us >= MISSED_EVERY_US ||
        (now_us - shared->missed_us >= STARVED_EVERY_US && starved(xdp))) {
        shared->missed_us = now_us;
        count_missed(port);
    }
    for (uint32_t i = 0; i < xdp->sockets; i++) {
        const struct xdp_socket *sock = &xdp->socket[(shared->rx_first + i) % xdp->sockets];

        if (!take_burst(port, sock, &frames)) {
            return xdp_broken(port);
        }
    }
    shared->rx_first += xdp->sockets > 1;
    port->counters->rx_syncs += frames > 0;
    return 0;
}

bool xdp_rx_ready(const struct xdp_port *xdp)
{
    for (uint32_t i = 0; i < xdp->sockets; i++) {
        const struct xdp_fifo *rx = &xdp->socket[i].rx;

        if (xdp_load(rx->producer) != *rx->consumer) {
            return true;
        }
    }
    return false;
}

void xdp_rx_recover(struct port *port)
{
    const struct xdp_port *xdp = xdp_port(port);
    uint64_t commit = ((struct xdp_shared *)port->shared)->rx_commit;

    ENSURE(commit >> 48 < xdp->sockets && tail_of(commit) < port->rx->num_slots);
    publish(port, commit);
}
