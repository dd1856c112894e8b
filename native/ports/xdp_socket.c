/* Memory and sockets of one port: UMEM, the kernel's four rings, the queue; see xdp.h. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/wire.h"
#include "ports/region.h"
#include "ports/xdp.h"

enum {
    FILL_MIN = 512, /* what a queue can hold while its worker is away */
    PAGE = 4096,
    TX_BUDGET = 256, /* frames that one system call sends; 32 where this cannot be set */
    BUSY_POLL_US = 20,
    BUSY_BUDGET = 64,
    VLAN_LEN = 4,     /* beyond the MTU */
    BIND_TRIES = 100, /* a queue whose socket was just closed is busy for a moment */
    BIND_PAUSE_NS = 10000000,
};

static uint32_t power_of_two(uint32_t at_least)
{
    uint32_t power = 1;

    while (power < at_least) {
        power *= 2;
    }
    return power;
}

static size_t align_up(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

/*
 * A private UMEM would be copied on a worker's first write, and its frames never leave, without an
 * error. Only a shared mapping can be duplicated like this.
 */
static void ensure_shared(void *base)
{
    void *twin = mremap(base, 0, PAGE, MREMAP_MAYMOVE);

    ENSURE(twin != MAP_FAILED);
    munmap(twin, PAGE);
}

/* Netmap rings, cursors and tables in one mapping, the UMEM in another: it is pinned as a whole. */
int xdp_port_map(struct xdp_port *port, uint32_t slots, uint32_t chunk)
{
    struct region_spec spec = {.pairs = 1, .slots = slots};
    struct region region;
    struct nm_if *nifp;
    size_t rings = region_rings_bytes(&spec, 1);
    size_t tables;

    ENSURE(chunk == power_of_two(chunk));
    port->chunk = chunk;
    port->chunk_bits = (uint32_t)__builtin_ctz(chunk);
    port->fill = power_of_two(max_u32(2 * slots, FILL_MIN));
    port->bufs = NM_BUF_FIRST + 2 * slots + port->sockets * port->fill;
    tables = sizeof(struct xdp_shared) + align_up(slots, sizeof(uint32_t));
    port->bytes = rings + tables + port->bufs * sizeof(uint32_t);
    port->umem_bytes = align_up(((size_t)port->bufs + 1) * chunk, PAGE);
    port->base = arena_shared_map("shardserver-rings", port->bytes);
    if (!port->base) {
        return -errno;
    }
    port->umem = arena_shared_map("shardserver-umem", port->umem_bytes);
    if (!port->umem) {
        return -errno;
    }
    ensure_shared(port->base);
    ensure_shared(port->umem);
    region_init(&region, port->base, rings, port->bufs, chunk);
    nifp = region_add_if(&region, "xdp", &spec);
    port->rx = nm_rx_ring(nifp, 0);
    port->tx = nm_tx_ring(nifp, 0);
    port->shared = (struct xdp_shared *)(void *)(port->base + rings);
    port->tx_wait = (uint8_t *)(port->shared + 1);
    port->slot_of = (uint32_t *)(void *)(port->base + rings + tables);
    return 0;
}

void xdp_port_unmap(struct xdp_port *port)
{
    if (port->base) {
        munmap(port->base, port->bytes);
    }
    if (port->umem) {
        munmap(port->umem, port->umem_bytes);
    }
    port->base = NULL;
    port->umem = NULL;
}

static int set_xdp(int fd, int option, const void *value, size_t len)
{
    return setsockopt(fd, SOL_XDP, option, value, (socklen_t)len) == 0 ? 0 : -errno;
}

static int map_fifo(struct xdp_fifo *fifo, int fd, const struct xdp_ring_offset *at, uint64_t where)
{
    size_t entry = where == XDP_PGOFF_RX_RING || where == XDP_PGOFF_TX_RING
                       ? sizeof(struct xdp_desc)
                       : sizeof(uint64_t);
    uint8_t *map;

    if (fifo->size == 0) {
        return 0;
    }
    fifo->map_bytes = at->desc + fifo->size * entry;
    map = mmap(NULL, fifo->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
               (off_t)where);
    if (map == MAP_FAILED) {
        return -errno;
    }
    fifo->map = map;
    fifo->producer = (uint32_t *)(void *)(map + at->producer);
    fifo->consumer = (uint32_t *)(void *)(map + at->consumer);
    fifo->flags = (uint32_t *)(void *)(map + at->flags);
    fifo->entries = map + at->desc;
    return 0;
}

static int size_fifo(struct xdp_fifo *fifo, int fd, int option, uint32_t size)
{
    fifo->size = size;
    return set_xdp(fd, option, &size, sizeof(size));
}

static int make_fifos(const struct xdp_port *port, struct xdp_socket *sock)
{
    bool first = sock == &port->socket[0];
    uint32_t sends = power_of_two(port->tx->num_slots);
    struct xdp_mmap_offsets at;
    socklen_t len = sizeof(at);
    int code = size_fifo(&sock->fill, sock->fd, XDP_UMEM_FILL_RING, port->fill);

    code = code != 0 ? code : size_fifo(&sock->rx, sock->fd, XDP_RX_RING, port->fill);
    code = code != 0 ? code
                     : size_fifo(&sock->done, sock->fd, XDP_UMEM_COMPLETION_RING,
                                 first ? 2 * sends : PACKET_SLOTS_MIN);
    if (code == 0 && first) {
        code = size_fifo(&sock->tx, sock->fd, XDP_TX_RING, sends);
    }
    if (code == 0 && getsockopt(sock->fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &len) != 0) {
        code = -errno;
    }
    code = code != 0 ? code : map_fifo(&sock->rx, sock->fd, &at.rx, XDP_PGOFF_RX_RING);
    code = code != 0 ? code : map_fifo(&sock->tx, sock->fd, &at.tx, XDP_PGOFF_TX_RING);
    code = code != 0 ? code : map_fifo(&sock->fill, sock->fd, &at.fr, XDP_UMEM_PGOFF_FILL_RING);
    return code != 0 ? code
                     : map_fifo(&sock->done, sock->fd, &at.cr, XDP_UMEM_PGOFF_COMPLETION_RING);
}

/* Gives the kernel side of socket `index` its buffers; they come back one for one. */
static void fill_up(const struct xdp_port *port, uint32_t index)
{
    const struct xdp_fifo *fill = &port->socket[index].fill;
    uint32_t first = NM_BUF_FIRST + 2 * port->rx->num_slots + index * port->fill;

    for (uint32_t i = 0; i < port->fill; i++) {
        *xdp_addr_at(fill, i) = (uint64_t)(first + i) * port->chunk;
    }
    xdp_store(fill->producer, port->fill);
}

static int bind_queue(const struct xdp_socket *sock, int ifindex, uint16_t flags, int umem_fd)
{
    struct sockaddr_xdp addr = {.sxdp_family = AF_XDP,
                                .sxdp_flags = flags,
                                .sxdp_ifindex = (uint32_t)ifindex,
                                .sxdp_queue_id = sock->queue,
                                .sxdp_shared_umem_fd = umem_fd < 0 ? 0 : (uint32_t)umem_fd};
    const struct timespec pause = {.tv_nsec = BIND_PAUSE_NS};

    for (int i = 0; i < BIND_TRIES; i++) {
        if (bind(sock->fd, (struct sockaddr *)&addr, sizeof(addr)) == 0) {
            return 0;
        }
        if (errno != EBUSY) {
            return -errno;
        }
        nanosleep(&pause, NULL);
    }
    return -EBUSY;
}

/* A kernel before 6.6 knows no frames in pieces. */
static int bind_first(struct xdp_port *port, int ifindex, enum xdp_mode mode)
{
    uint16_t flags = XDP_USE_NEED_WAKEUP;
    int code;

    flags |= mode == XDP_MODE_ZEROCOPY ? XDP_ZEROCOPY : XDP_COPY;
    if (port->pieces) {
        code = bind_queue(&port->socket[0], ifindex, flags | XDP_BIND_USE_SG, -1);
        if (code != -EINVAL && code != -EOPNOTSUPP) {
            return code;
        }
    }
    port->pieces = false;
    return bind_queue(&port->socket[0], ifindex, flags, -1);
}

/* Both save time and nothing else: a kernel that knows them not does without. */
static int set_options(const struct xdp_port *port, int fd)
{
    int budget = TX_BUDGET;
    int one = 1;
    int busy_us = BUSY_POLL_US;
    int busy_budget = BUSY_BUDGET;

    set_xdp(fd, XDP_OPTION_TX_BUDGET, &budget, sizeof(budget));
    if (!port->busy_poll) {
        return 0;
    }
    if (setsockopt(fd, SOL_SOCKET, SO_PREFER_BUSY_POLL, &one, sizeof(one)) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_BUSY_POLL, &busy_us, sizeof(busy_us)) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_BUSY_POLL_BUDGET, &busy_budget, sizeof(busy_budget)) != 0) {
        return -errno;
    }
    return 0;
}

static int register_umem(const struct xdp_port *port, int fd)
{
    struct xdp_umem_reg reg = {.addr = (uint64_t)(uintptr_t)port->umem,
                               .len = port->umem_bytes / port->chunk * port->chunk,
                               .chunk_size = port->chunk,
                               .headroom = port->data_ofs - XDP_HEADROOM};

    return set_xdp(fd, XDP_UMEM_REG, &reg, sizeof(reg));
}

static int open_socket(struct xdp_port *port, uint32_t index, int ifindex, enum xdp_mode mode)
{
    struct xdp_socket *sock = &port->socket[index];
    int code;

    sock->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (sock->fd < 0) {
        return -errno;
    }
    code = index == 0 ? register_umem(port, sock->fd) : 0;
    code = code != 0 ? code : make_fifos(port, sock);
    if (code != 0) {
        return code;
    }
    fill_up(port, index);
    code = index == 0 ? bind_first(port, ifindex, mode)
                      : bind_queue(sock, ifindex, XDP_SHARED_UMEM, port->socket[0].fd);
    return code != 0 ? code : set_options(port, sock->fd);
}

/* One descriptor to wait for all queues of a port. */
static int join_sockets(struct xdp_port *port)
{
    if (port->sockets == 1) {
        return 0;
    }
    port->wait_fd = epoll_create1(EPOLL_CLOEXEC);
    if (port->wait_fd < 0) {
        return -errno;
    }
    for (uint32_t i = 0; i < port->sockets; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};

        if (epoll_ctl(port->wait_fd, EPOLL_CTL_ADD, port->socket[i].fd, &event) != 0) {
            return -errno;
        }
    }
    return 0;
}

/* A buffer for each slot, as after an open: a mode that failed may have used some. */
static void lay_out(struct xdp_port *port, enum xdp_mode mode)
{
    uint32_t slots = port->rx->num_slots;
    uint8_t *first;

    /* A card writes to the kernel's own place; a copy can go where header and frame share lines. */
    port->data_ofs = XDP_HEADROOM + (mode == XDP_MODE_ZEROCOPY ? 0 : PORT_VNET_HDR_LEN);
    first = port->umem + port->data_ofs - PORT_VNET_HDR_LEN;
    port->tx->buf_ofs = first - (uint8_t *)port->tx;
    port->rx->buf_ofs = first - (uint8_t *)port->rx;
    for (uint32_t i = 0; i < slots; i++) {
        port->tx->slot[i].buf_idx = NM_BUF_FIRST + i;
        port->rx->slot[i].buf_idx = NM_BUF_FIRST + slots + i;
    }
}

int xdp_port_bind(struct xdp_port *port, const struct packet_link *link, enum xdp_mode mode)
{
    int code = 0;

    lay_out(port, mode);
    port->copies = mode != XDP_MODE_ZEROCOPY;
    port->longest = link->mtu + ETH_HDR_LEN + VLAN_LEN;
    for (uint32_t i = 0; i < port->sockets && code == 0; i++) {
        code = open_socket(port, i, link->ifindex, mode);
    }
    return code != 0 ? code : join_sockets(port);
}

static void unmap_fifo(struct xdp_fifo *fifo)
{
    if (fifo->map) {
        munmap(fifo->map, fifo->map_bytes);
    }
    *fifo = (struct xdp_fifo){0};
}

void xdp_port_unbind(struct xdp_port *port)
{
    for (uint32_t i = 0; i < port->sockets; i++) {
        struct xdp_socket *sock = &port->socket[i];

        unmap_fifo(&sock->rx);
        unmap_fifo(&sock->tx);
        unmap_fifo(&sock->fill);
        unmap_fifo(&sock->done);
        if (sock->fd >= 0) {
            close(sock->fd);
        }
        sock->fd = -1;
    }
    if (port->wait_fd >= 0) {
        close(port->wait_fd);
    }
    port->wait_fd = -1;
}
