/*
 * From software netmap slots to the wire, a burst per sendmmsg(); see packet.h.
 *
 * The messages lie in shared memory with msg_len = 0. The kernel stores msg_len behind each frame
 * that it takes, and a kill waits for the end of the frame that is being sent, so a successor reads
 * there how far the burst came: no frame is sent twice, none is left out.
 */
#include <errno.h>
#include <linux/if_packet.h>
#include <string.h>

#include "ports/packet.h"

enum {
    /* A kernel that refuses everything for so long has no carrier: frames are dropped, counted. */
    REFUSED_MAX_US = 10000,
    FRAME_SLOTS_MAX = 64, /* as in netmap */
};

/* A burst: `slot` is the first one behind the frames that are in it. */
struct burst {
    uint32_t frames;
    uint32_t iovs;
    uint32_t slot;
};

static uint64_t pack(uint32_t slot, uint32_t frames)
{
    return (uint64_t)frames << 32 | slot;
}

static void store_commit(struct packet_shared *shared, uint32_t slot, uint32_t frames)
{
    compiler_barrier();
    __atomic_store_n(&shared->tx_commit, pack(slot, frames), __ATOMIC_RELAXED);
    compiler_barrier();
}

/* Slots of the frame at `slot`; 0: its end is not published; more than the limit: nonsense. */
static uint32_t frame_slots(const struct nm_ring *ring, uint32_t slot)
{
    uint32_t n = 1;

    while (ring->slot[slot].flags & NM_MOREFRAG) {
        slot = nm_ring_next(ring, slot);
        if (slot == ring->head) {
            return 0;
        }
        n++;
    }
    return n;
}

static uint32_t skip_slots(const struct nm_ring *ring, uint32_t slot, uint32_t n)
{
    return (slot + n) % ring->num_slots;
}

static bool slots_valid(const struct port *port, uint32_t slot, uint32_t n)
{
    const struct nm_ring *ring = port->tx;
    bool valid = n <= FRAME_SLOTS_MAX && ring->slot[slot].len > PORT_VNET_HDR_LEN;

    for (; n > 0 && valid; n--) {
        valid = packet_slot_valid(packet_ring(port), &ring->slot[slot]) &&
                ring->slot[slot].len <= ring->nr_buf_size;
        slot = nm_ring_next(ring, slot);
    }
    return valid;
}

/* One message of the frame's slots; of the virtio header the kernel wants the first ten bytes. */
static void add_message(const struct port *port, struct burst *burst, uint32_t slots)
{
    struct packet_shared *shared = packet_shared(port);
    const struct nm_ring *ring = port->tx;
    struct iovec *iov = &shared->iovs[burst->iovs];
    uint8_t *buf = nm_ring_buf(ring, burst->slot);

    shared->msgs[burst->frames] =
        (struct mmsghdr){.msg_hdr = {.msg_iov = iov, .msg_iovlen = slots + 1}};
    *iov++ = (struct iovec){buf, PACKET_VNET_LEN};
    *iov++ = (struct iovec){buf + PORT_VNET_HDR_LEN,
                            (size_t)ring->slot[burst->slot].len - PORT_VNET_HDR_LEN};
    for (uint32_t i = 1; i < slots; i++) {
        uint32_t at = skip_slots(ring, burst->slot, i);

        *iov++ = (struct iovec){nm_ring_buf(ring, at), ring->slot[at].len};
    }
    burst->iovs += slots + 1;
    burst->frames++;
    burst->slot = skip_slots(ring, burst->slot, slots);
}

/* Fills a burst from `burst->slot` on; false: a slot holds what cannot be. */
static bool build(const struct port *port, struct burst *burst)
{
    const struct nm_ring *ring = port->tx;

    while (burst->slot != ring->head && burst->frames < PACKET_TX_BURST) {
        uint32_t slots = frame_slots(ring, burst->slot);

        if (slots == 0) {
            return true;
        }
        if (!slots_valid(port, burst->slot, slots)) {
            return false;
        }
        if (burst->iovs + slots + 1 > PACKET_TX_IOVS) {
            return true;
        }
        add_message(port, burst, slots);
    }
    return true;
}

static void reclaim(const struct port *port, uint32_t slot)
{
    struct nm_ring *ring = port->tx;

    __atomic_store_n(&ring->tail, slot == 0 ? ring->num_slots - 1 : slot - 1, __ATOMIC_RELEASE);
}

/* Moves the cursor over `n` frames, sent or dropped, and frees their slots. */
static void advance(const struct port *port, uint32_t n)
{
    struct packet_shared *shared = packet_shared(port);
    uint32_t slot = (uint32_t)shared->tx_commit;

    for (; n > 0; n--) {
        slot = skip_slots(port->tx, slot, frame_slots(port->tx, slot));
    }
    store_commit(shared, slot, 0);
    reclaim(port, slot);
}

static void count_sent(const struct port *port, uint32_t n)
{
    const struct packet_shared *shared = packet_shared(port);
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < n; i++) {
        const struct msghdr *msg = &shared->msgs[i].msg_hdr;

        for (size_t k = 1; k < msg->msg_iovlen; k++) {
            bytes += msg->msg_iov[k].iov_len;
        }
    }
    port->counters->tx_frames += n;
    port->counters->tx_bytes += bytes;
}

/* Full queues and buffers pass; a card without carrier answers the same, but does not pass. */
static bool refused_for_now(struct packet_shared *shared, uint64_t now_us, int error)
{
    if (error != ENOBUFS && error != EAGAIN && error != EINTR && error != ENOMEM) {
        return false;
    }
    if (shared->tx_refused_us == 0) {
        shared->tx_refused_us = now_us;
    }
    return now_us - shared->tx_refused_us < REFUSED_MAX_US;
}

/* Hands one burst to the kernel; false: it takes no more for now. */
static bool send_burst(const struct port *port, const struct burst *burst, uint64_t now_us)
{
    struct packet_shared *shared = packet_shared(port);
    int sent;

    store_commit(shared, (uint32_t)shared->tx_commit, burst->frames);
    sent = sendmmsg(packet_ring(port)->fd, shared->msgs, burst->frames, MSG_DONTWAIT);
    port->counters->syscalls++;
    if (sent > 0) {
        advance(port, (uint32_t)sent);
        count_sent(port, (uint32_t)sent);
        shared->tx_refused_us = 0;
        return true;
    }
    if (refused_for_now(shared, now_us, errno)) {
        store_commit(shared, (uint32_t)shared->tx_commit, 0);
        return false;
    }
    advance(port, 1);
    port->counters->tx_dropped++;
    return true;
}

int packet_tx_sync(struct port *port, uint64_t now_us)
{
    struct packet_shared *shared = packet_shared(port);
    uint64_t sent = port->counters->tx_frames;

    if (port->tx->head >= port->tx->num_slots) {
        return packet_broken(port);
    }
    while ((uint32_t)shared->tx_commit != port->tx->head) {
        struct burst burst = {.slot = (uint32_t)shared->tx_commit};

        if (!build(port, &burst)) {
            return packet_broken(port);
        }
        if (burst.frames == 0 || !send_burst(port, &burst, now_us)) {
            break;
        }
    }
    port->counters->tx_syncs += port->counters->tx_frames != sent;
    return 0;
}

void packet_tx_recover(struct port *port)
{
    struct packet_shared *shared = packet_shared(port);
    uint32_t pending = (uint32_t)(shared->tx_commit >> 32);
    uint32_t sent = 0;

    ENSURE(pending <= PACKET_TX_BURST && (uint32_t)shared->tx_commit < port->tx->num_slots);
    while (sent < pending && shared->msgs[sent].msg_len != 0) {
        sent++;
    }
    advance(port, sent);
    count_sent(port, sent);
}
