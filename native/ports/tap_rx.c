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
    uint32_t longest; /* slots of the longest frame */
    uint32_t frames;
    uint64_t bytes;
};

/* Behind a frame of `len` bytes, header included, in the slots from the tail on. */
static void lay(struct tap_shared *shared, struct take *take, uint32_t len)
{
    uint32_t next = framewise_mark(take->to, take->tail, len);
    uint32_t slots = nm_ring_distance(take->to, take->tail, next);

    shared->straight -= min_u32(shared->straight, slots);
    shared->straight_buf += slots;
    take->space -= slots;
    take->tail = next;
    take->frames++;
    take->bytes += len - PORT_VNET_HDR_LEN;
}

/*
 * The longest frame's slots as one piece of memory; false: they are not. Free slots are nobody's
 * but ours, so what was looked at for one frame is known for the next; the first is looked at
 * again.
 */
static bool is_straight(struct tap_shared *shared, const struct take *take)
{
    const struct nm_ring *ring = take->to;
    uint32_t first = ring->slot[take->tail].buf_idx;
    uint32_t known = first == shared->straight_buf ? shared->straight : 0;

    for (; known < take->longest && take->tail + known < ring->num_slots; known++) {
        uint32_t at = take->tail + known;

        if (!framewise_slot_valid(ring, at) || ring->slot[at].buf_idx != first + known) {
            break;
        }
    }
    shared->straight_buf = first;
    shared->straight = known;
    return known == take->longest;
}

/* What read() says; its buffers are marked as not read. -EIO: a slot holds what cannot be. */
static ssize_t read_marked(const struct port *port, const struct take *take)
{
    struct tap_shared *shared = tap_shared(port);
    struct iovec iov[FRAMEWISE_SLOTS];
    uint8_t *first = nm_ring_buf(take->to, take->tail);
    ssize_t len;
    int n = 1;

    if (!is_straight(shared, take)) {
        n = framewise_iov(take->to, take->tail, take->longest, iov);
    }
    if (n == 0) {
        return -EIO;
    }
    memcpy(first, unread, sizeof(unread));
    store_commit(shared, take->tail, READING);
    len = shared->straight == take->longest
              ? read(port->wait_fd, first, (size_t)take->longest * take->to->nr_buf_size)
              : readv(port->wait_fd, iov, n);
    return len < 0 ? -errno : len;
}

/* 1: a frame; 0: none now; -errno. */
static int read_frame(const struct port *port, struct take *take)
{
    struct tap_shared *shared = tap_shared(port);
    ssize_t len = read_marked(port, take);

    port->counters->syscalls++;
    if (len <= PORT_VNET_HDR_LEN) {
        return len < 0 && len != -EAGAIN && len != -EINTR ? (int)len : 0;
    }
    lay(shared, take, (uint32_t)len);
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
    struct take take = {
        .to = ring, .tail = (uint32_t)shared->rx_commit, .longest = framewise_slots(ring)};
    int code = 1;

    (void)now_us;
    if (ring->head >= ring->num_slots) {
        return broken(port);
    }
    take.space = ring->num_slots - 1 - nm_ring_distance(ring, ring->head, take.tail);
    while (code == 1 && take.frames < BURST && take.space >= take.longest) {
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
    return shared->gone && nm_ring_space(ring) == 0 ? -ENODEV : 0;
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
    lay(tap_shared(port), take, PORT_VNET_HDR_LEN + len);
}

void tap_rx_recover(struct port *port)
{
    struct tap_shared *shared = tap_shared(port);
    struct nm_ring *ring = port->rx;
    struct take take = {.to = ring, .tail = (uint32_t)shared->rx_commit};
    uint32_t published = nm_ring_tail(ring);

    ENSURE(take.tail < ring->num_slots && published < ring->num_slots);
    shared->straight = 0;
    if (shared->rx_commit >> 32 == READING) {
        salvage(port, &take);
        store_commit(shared, take.tail, 0);
    }
    __atomic_store_n(&ring->tail, take.tail, __ATOMIC_RELEASE);
}
