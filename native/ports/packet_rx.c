/*
 * From the kernel's TPACKET ring into software netmap slots; see packet.h.
 *
 * Before the commit: frames are copied into slots behind the ring's tail, where nobody looks, and
 * marked. After it: the tail is published and the marked frames go back to the kernel. A mark is a
 * byte that the kernel clears when it fills a frame, so a successor tells a frame that it has still
 * to give back from one that the kernel has since filled anew.
 */
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <string.h>

#include "base/wire.h"
#include "ports/packet.h"

enum {
    MARK = 1,
    MACS_LEN = 2 * ETH_ALEN_BYTES,
    VLAN_LEN = 4,
};

/* A burst in the making: where it would leave the cursors, and what it would add to the counters.
 */
struct take {
    const struct packet_ring *from;
    struct nm_ring *to;
    uint32_t index; /* next TPACKET frame */
    uint32_t tail;  /* next free slot */
    uint32_t space;
    uint32_t frames;
    uint32_t cut;
    uint64_t bytes;
    bool losing;
    bool broken;
};

static struct tpacket2_hdr *frame_at(const struct packet_ring *ring, uint32_t index)
{
    size_t offset = (size_t)(index / PACKET_BLOCK_FRAMES) * PACKET_BLOCK_SIZE +
                    (size_t)(index % PACKET_BLOCK_FRAMES) * PACKET_FRAME_SIZE;

    return (struct tpacket2_hdr *)(void *)(ring->map + offset);
}

static uint32_t frame_next(const struct packet_ring *ring, uint32_t index)
{
    return index + 1 == ring->frames ? 0 : index + 1;
}

static uint32_t frame_status(const struct tpacket2_hdr *frame)
{
    return __atomic_load_n(&frame->tp_status, __ATOMIC_ACQUIRE);
}

static uint64_t pack(uint32_t index, uint32_t tail)
{
    return (uint64_t)tail << 32 | index;
}

/*
 * Writes what stands before the payload of the first slot: virtio header, and for a tag that the
 * kernel took off also both MACs and the tag. Returns its length; `data` moves past what it used.
 */
static uint32_t write_start(uint8_t *buf, const struct tpacket2_hdr *frame, const uint8_t **data)
{
    struct vnet_hdr hdr = {0};
    uint16_t tag[2] = {ETH_P_8021Q, frame->tp_vlan_tci};

    memcpy(&hdr, *data - PACKET_VNET_LEN, PACKET_VNET_LEN);
    if (!(frame->tp_status & TP_STATUS_VLAN_VALID)) {
        memcpy(buf, &hdr, sizeof(hdr));
        return sizeof(hdr);
    }
    if (frame->tp_status & TP_STATUS_VLAN_TPID_VALID) {
        tag[0] = frame->tp_vlan_tpid;
    }
    tag[0] = __builtin_bswap16(tag[0]);
    tag[1] = __builtin_bswap16(tag[1]);
    hdr.csum_start = (uint16_t)(hdr.csum_start + (hdr.flags & VNET_F_NEEDS_CSUM ? VLAN_LEN : 0));
    hdr.hdr_len = (uint16_t)(hdr.hdr_len + (hdr.hdr_len != 0 ? VLAN_LEN : 0));
    memcpy(buf, &hdr, sizeof(hdr));
    memcpy(buf + sizeof(hdr), *data, MACS_LEN);
    memcpy(buf + sizeof(hdr) + MACS_LEN, tag, sizeof(tag));
    *data += MACS_LEN;
    return sizeof(hdr) + MACS_LEN + sizeof(tag);
}

static uint32_t slots_for(const struct take *take, const struct tpacket2_hdr *frame)
{
    uint32_t len = PORT_VNET_HDR_LEN + VLAN_LEN + frame->tp_snaplen;

    return (len + take->to->nr_buf_size - 1) / take->to->nr_buf_size;
}

/* The frame lies within its place, behind both headers. */
static bool frame_valid(const struct tpacket2_hdr *frame)
{
    return frame->tp_mac >= sizeof(*frame) + PACKET_VNET_LEN &&
           frame->tp_snaplen <= PACKET_FRAME_SIZE - (uint32_t)frame->tp_mac;
}

static void copy_frame(struct take *take, const uint8_t *place, const struct tpacket2_hdr *frame)
{
    const uint8_t *data = place + frame->tp_mac;
    const uint8_t *end = data + frame->tp_snaplen;
    uint32_t start = 0;

    do {
        struct nm_slot *slot = &take->to->slot[take->tail];
        uint8_t *buf = nm_ring_buf(take->to, take->tail);
        uint32_t part;

        if (!packet_slot_valid(take->from, slot)) {
            take->broken = true;
            return;
        }
        if (start == 0) {
            start = write_start(buf, frame, &data);
            part = start;
        } else {
            part = 0;
        }
        uint32_t room = take->to->nr_buf_size - part;
        uint32_t rest = min_u32(room, (uint32_t)(end - data));

        memcpy(buf + part, data, rest);
        data += rest;
        slot->len = (uint16_t)(part + rest);
        slot->flags = data < end ? NM_MOREFRAG : 0;
        take->bytes += slot->len;
        take->tail = nm_ring_next(take->to, take->tail);
        take->space--;
    } while (data < end);
    take->frames++;
    take->bytes -= PORT_VNET_HDR_LEN;
}

/*
 * Copies the next frame, or leaves it out if the kernel cut it; false: none, or no room for it. Its
 * header is read once: what is written there meanwhile is not believed.
 */
static bool take_frame(struct take *take)
{
    struct tpacket2_hdr *place = frame_at(take->from, take->index);
    uint32_t status = frame_status(place);
    struct tpacket2_hdr frame;

    if (!(status & TP_STATUS_USER)) {
        return false;
    }
    memcpy(&frame, place, sizeof(frame));
    if (frame.tp_snaplen < frame.tp_len || frame.tp_snaplen < ETH_HDR_LEN) {
        take->cut++;
    } else if (!frame_valid(&frame)) {
        take->broken = true;
    } else if (slots_for(take, &frame) > take->space) {
        return false;
    } else {
        copy_frame(take, (const uint8_t *)place, &frame);
    }
    if (take->broken) {
        return false;
    }
    place->tp_padding[0] = MARK;
    take->losing |= (status & TP_STATUS_LOSING) != 0;
    take->index = frame_next(take->from, take->index);
    prefetch_line(frame_at(take->from, take->index));
    return true;
}

static void give_back(const struct packet_ring *ring, struct packet_shared *shared)
{
    uint32_t end = (uint32_t)shared->rx_commit;

    for (uint32_t i = shared->rx_returned; i != end; i = frame_next(ring, i)) {
        struct tpacket2_hdr *frame = frame_at(ring, i);

        if (frame->tp_padding[0] == MARK) {
            __atomic_store_n(&frame->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        }
    }
    compiler_barrier();
    shared->rx_returned = end;
}

static void count(const struct port *port, const struct take *take)
{
    struct port_counters *counters = port->counters;

    counters->rx_frames += take->frames;
    counters->rx_bytes += take->bytes;
    counters->rx_syncs += take->frames > 0;
    counters->rx_missed += take->cut;
    if (take->losing) {
        int drops = packet_socket_drops(take->from->fd);

        counters->syscalls++;
        counters->rx_missed += drops > 0 ? (uint64_t)drops : 0;
    }
}

static void commit(const struct port *port, const struct take *take)
{
    struct packet_shared *shared = packet_shared(port);

    compiler_barrier();
    __atomic_store_n(&shared->rx_commit, pack(take->index, take->tail), __ATOMIC_RELAXED);
    compiler_barrier();
    __atomic_store_n(&port->rx->tail, take->tail, __ATOMIC_RELEASE);
    count(port, take);
    give_back(take->from, shared);
}

int packet_rx_sync(struct port *port, uint64_t now_us)
{
    struct packet_shared *shared = packet_shared(port);
    struct nm_ring *ring = port->rx;
    struct take take = {.from = packet_ring(port),
                        .to = ring,
                        .index = (uint32_t)shared->rx_commit,
                        .tail = (uint32_t)(shared->rx_commit >> 32)};

    (void)now_us;
    if (ring->head >= ring->num_slots) {
        return packet_broken(port);
    }
    if (shared->gone && nm_ring_space(ring) == 0 && !packet_rx_ready(port)) {
        return -ENODEV; /* not before its last frames have been looked at */
    }
    take.space = ring->num_slots - 1 - nm_ring_distance(ring, ring->head, take.tail);
    while (take.frames + take.cut < PACKET_RX_BURST && take_frame(&take)) {
    }
    if (take.broken) {
        return packet_broken(port);
    }
    if (take.frames + take.cut > 0) {
        commit(port, &take);
    }
    return 0;
}

bool packet_rx_ready(const struct port *port)
{
    const struct packet_ring *ring = packet_ring(port);

    return frame_status(frame_at(ring, (uint32_t)packet_shared(port)->rx_commit)) & TP_STATUS_USER;
}

void packet_rx_recover(struct port *port)
{
    const struct packet_ring *ring = packet_ring(port);
    struct packet_shared *shared = packet_shared(port);
    uint32_t tail = (uint32_t)(shared->rx_commit >> 32);

    ENSURE((uint32_t)shared->rx_commit < ring->frames && shared->rx_returned < ring->frames);
    ENSURE(tail < port->rx->num_slots);
    port->rx->tail = tail;
    give_back(ring, shared);
}
