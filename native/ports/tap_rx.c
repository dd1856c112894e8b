/*
 * From a TAP queue into software netmap slots, a frame per readv(); see tap.h.
 *
 * The kernel tells the length of a frame only in the call's result, which dies with its worker. So
 * before each call the virtio header's place holds what no kernel writes there: if that is gone, a
 * frame was read, and a successor takes its length from the frame itself.
 */
#include <errno.h>
#include <linux/if_ether.h>
#include <string.h>
#include <unistd.h>

#include "base/wire.h"
#include "ports/tap.h"

enum {
    BURST = 64,
    READING = 1,
    ARP_FRAME_LEN = 42,
    IP_TOTAL_LEN_OFF = 2,
    VLAN_LEN = 4,
};

static const uint8_t unread[PACKET_VNET_LEN] = {0xff, 0xff, 0xff, 0xff, 0xff,
                                                0xff, 0xff, 0xff, 0xff, 0xff};

static uint64_t pack(uint32_t tail, uint32_t reading)
{
    return (uint64_t)reading << 32 | tail;
}

static void store_commit(struct tap_shared *shared, uint32_t tail, uint32_t reading)
{
    compiler_barrier();
    __atomic_store_n(&shared->rx_commit, pack(tail, reading), __ATOMIC_RELAXED);
    compiler_barrier();
}

/* A burst in the making. */
struct take {
    struct nm_ring *to;
    uint32_t tail;
    uint32_t space;
    uint32_t frames;
    uint64_t bytes;
};

/* Behind a frame of `len` bytes, header included, in the slots from the tail on. */
static void lay(struct take *take, uint32_t len)
{
    uint32_t next = framewise_mark(take->to, take->tail, len);

    take->space -= nm_ring_distance(take->to, take->tail, next);
    take->tail = next;
    take->frames++;
    take->bytes += len - PORT_VNET_HDR_LEN;
}

/* 1: a frame; 0: none now; -errno. */
static int read_frame(const struct port *port, struct take *take)
{
    struct tap_shared *shared = tap_shared(port);
    struct iovec iov[FRAMEWISE_SLOTS];
    int n = framewise_iov(take->to, take->tail, framewise_slots(take->to), iov);
    ssize_t len;

    if (n == 0) {
        return -EIO;
    }
    memcpy(iov[0].iov_base, unread, sizeof(unread));
    store_commit(shared, take->tail, READING);
    len = readv(port->wait_fd, iov, n);
    port->counters->syscalls++;
    if (len <= PORT_VNET_HDR_LEN) {
        return len < 0 && errno != EAGAIN && errno != EINTR ? -errno : 0;
    }
    lay(take, (uint32_t)len);
    store_commit(shared, take->tail, 0);
    return 1;
}

static void publish(const struct port *port, const struct take *take)
{
    __atomic_store_n(&port->rx->tail, take->tail, __ATOMIC_RELEASE);
    port->counters->rx_frames += take->frames;
    port->counters->rx_bytes += take->bytes;
    port->counters->rx_syncs += take->frames > 0;
}

static int broken(const struct port *port)
{
    port->counters->errors++;
    return -EIO;
}

int tap_rx_sync(struct port *port, uint64_t now_us)
{
    struct tap_shared *shared = tap_shared(port);
    struct nm_ring *ring = port->rx;
    struct take take = {.to = ring, .tail = (uint32_t)shared->rx_commit};
    uint32_t longest = framewise_slots(ring);
    int code = 1;

    (void)now_us;
    if (ring->head >= ring->num_slots) {
        return broken(port);
    }
    take.space = ring->num_slots - 1 - nm_ring_distance(ring, ring->head, take.tail);
    while (code == 1 && take.frames < BURST && take.space >= longest) {
        code = read_frame(port, &take);
    }
    store_commit(shared, take.tail, 0);
    publish(port, &take);
    if (code == -EIO) {
        return broken(port);
    }
    if (code < 0) { /* EBADFD: the interface was deleted, and its queues with it */
        shared->gone = 1;
    }
    return shared->gone ? -ENODEV : 0;
}

/* The bytes at `off` of a frame that starts at `slot`: headers never reach a second slot. */
static uint16_t word_at(const uint8_t *frame, uint32_t off)
{
    return (uint16_t)(frame[off] << 8 | frame[off + 1]);
}

/* Its length by its own words; 0: not IPv4 and not ARP, and so not for us. */
static uint32_t frame_len(const uint8_t *frame)
{
    uint32_t off = 2 * ETH_ALEN_BYTES;
    uint16_t type = word_at(frame, off);

    while ((type == ETH_P_8021Q || type == ETH_P_8021AD) &&
           off < 2 * ETH_ALEN_BYTES + 2 * VLAN_LEN) {
        off += VLAN_LEN;
        type = word_at(frame, off);
    }
    if (type == ETH_P_ARP) {
        return ARP_FRAME_LEN + off - 2 * ETH_ALEN_BYTES;
    }
    if (type != ETH_P_IP) {
        return 0;
    }
    return off + 2 + word_at(frame, off + 2 + IP_TOTAL_LEN_OFF);
}

/* A frame that was read and not yet published: into its slots, or counted as missed. */
static void salvage(const struct port *port, struct take *take)
{
    const uint8_t *buf = nm_ring_buf(take->to, take->tail);
    uint32_t len = frame_len(buf + PORT_VNET_HDR_LEN);

    if (memcmp(buf, unread, sizeof(unread)) == 0) {
        return;
    }
    if (len == 0 || len > FRAMEWISE_FRAME_MAX) {
        port->counters->rx_missed++;
        return;
    }
    lay(take, PORT_VNET_HDR_LEN + len);
}

void tap_rx_recover(struct port *port)
{
    struct tap_shared *shared = tap_shared(port);
    struct nm_ring *ring = port->rx;
    struct take take = {.to = ring, .tail = (uint32_t)shared->rx_commit};
    uint32_t published = nm_ring_tail(ring);

    ENSURE(take.tail < ring->num_slots && published < ring->num_slots);
    if (shared->rx_commit >> 32 == READING) {
        salvage(port, &take);
        store_commit(shared, take.tail, 0);
    }
    __atomic_store_n(&ring->tail, take.tail, __ATOMIC_RELEASE);
}
