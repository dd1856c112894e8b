/* A port under test and its other end: frames with numbers, syncs, sleeps, laws. */
#include <arpa/inet.h>
#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/csum.h"
#include "conformance.h"

enum {
    UDP_LEN = 8,
    UDP_AT = ETH_HDR_LEN + IPV4_HDR_LEN,
    NUMBER_AT = UDP_AT + UDP_LEN,
    PATTERN_AT = NUMBER_AT + 4,
    OUR_ADDRESS = 0x0a090002,
    THEIR_ADDRESS = 0x0a090001,
    LEN_SPAN = 1514 - FRAME_MIN + 1,
    LEN_STEP = 37,
    NAP_US = 50,
};

uint64_t real_now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t rig_now_us(const struct rig *rig)
{
    return rig->frozen_us ? rig->frozen_us : real_now_us();
}

uint32_t rig_frame_max(const struct rig *rig)
{
    return rig->wire->frame_max ? rig->wire->frame_max : FRAME_LONGEST;
}

static uint32_t open_fds(void)
{
    DIR *folder = opendir("/proc/self/fd");
    uint32_t n = 0;

    while (folder && readdir(folder)) {
        n++;
    }
    if (folder) {
        closedir(folder);
    }
    return n;
}

bool rig_open(struct rig *rig, uint32_t slots)
{
    const struct wire *wire = rig->wire;

    memset(rig, 0, sizeof(*rig));
    rig->wire = wire;
    rig->slots = slots ? slots : RIG_SLOTS;
    rig->fds = open_fds();
    if (!wire->open(rig)) {
        return false;
    }
    rig->header = rig->port->caps & PORT_CAP_VNET_HDR ? PORT_VNET_HDR_LEN : 0;
    return CHECK_EQ(rig->port->rx->num_slots, rig->slots) &&
           CHECK_EQ(rig->port->tx->num_slots, rig->slots);
}

void rig_close(struct rig *rig)
{
    CHECK_EQ(rig->port->counters->errors, 0);
    CHECK_EQ(rig->wire->audit(rig), 0);
    rig->wire->close(rig);
    CHECK_EQ(open_fds(), rig->fds);
}

static void make(struct frame *frame, const uint8_t dst[6], const uint8_t src[6], uint32_t number)
{
    uint32_t ip_len = frame->len - ETH_HDR_LEN;
    struct wire_eth eth = {.type = htons(ETHERTYPE_IPV4)};
    struct wire_ipv4 ip = {.version_ihl = 0x45,
                           .total_len = htons((uint16_t)ip_len),
                           .ttl = 64,
                           .protocol = PROTO_UDP,
                           .src = htonl(THEIR_ADDRESS),
                           .dst = htonl(OUR_ADDRESS)};
    uint16_t udp[4] = {htons(40000), htons(7), htons((uint16_t)(ip_len - IPV4_HDR_LEN)), 0};

    memcpy(eth.dst, dst, 6);
    memcpy(eth.src, src, 6);
    ip.check = csum_fold(csum_ipv4_header(&ip));
    memcpy(frame->data, &eth, sizeof(eth));
    memcpy(frame->data + ETH_HDR_LEN, &ip, sizeof(ip));
    memcpy(frame->data + UDP_AT, udp, sizeof(udp));
    memcpy(frame->data + NUMBER_AT, &number, sizeof(number));
    for (uint32_t i = PATTERN_AT; i < frame->len; i++) {
        frame->data[i] = (uint8_t)((i + number) * 2654435761u >> 13);
    }
}

void frame_in(const struct rig *rig, struct frame *frame, uint32_t number, uint32_t len)
{
    frame->hdr = (struct vnet_hdr){0};
    frame->len = len;
    make(frame, rig->ours, rig->theirs, number);
}

void frame_out(const struct rig *rig, struct frame *frame, uint32_t number, uint32_t len)
{
    frame->hdr = (struct vnet_hdr){0};
    frame->len = len;
    make(frame, rig->theirs, rig->ours, number);
}

uint32_t frame_number(const struct frame *frame)
{
    return load_u32(frame->data + NUMBER_AT);
}

bool frame_is_in(const struct rig *rig, const struct frame *frame)
{
    static struct frame right;

    frame_in(rig, &right, frame_number(frame), frame->len);
    return frame->len >= FRAME_MIN && memcmp(right.data, frame->data, frame->len) == 0;
}

bool frame_is_out(const struct rig *rig, const struct frame *frame)
{
    static struct frame right;

    frame_out(rig, &right, frame_number(frame), frame->len);
    return frame->len >= FRAME_MIN && memcmp(right.data, frame->data, frame->len) == 0;
}

uint32_t frame_len_of(uint32_t number)
{
    return FRAME_MIN + number * LEN_STEP % LEN_SPAN;
}

bool rig_inject(struct rig *rig, const struct frame *frame)
{
    uint64_t end = real_now_us() + COME_MS * 1000;

    while (!rig->wire->inject(rig, frame)) {
        if (!CHECK(real_now_us() < end)) {
            return false;
        }
        usleep(NAP_US);
    }
    return true;
}

void rig_inject_burst(struct rig *rig, uint32_t first, uint32_t n)
{
    static struct frame frame;

    for (uint32_t i = first; i < first + n; i++) {
        frame_in(rig, &frame, i, frame_len_of(i));
        rig_inject(rig, &frame);
    }
}

void rig_rx_sync(struct rig *rig)
{
    CHECK_EQ(rig->port->ops->rx_sync(rig->port, rig_now_us(rig)), 0);
}

void rig_tx_sync(struct rig *rig)
{
    CHECK_EQ(rig->port->ops->tx_sync(rig->port, rig_now_us(rig)), 0);
}

uint32_t rig_read(struct rig *rig, uint32_t slot)
{
    const struct nm_ring *ring = rig->port->rx;
    static uint8_t bytes[FRAME_ROOM + PORT_VNET_HDR_LEN];
    uint32_t used = 0;
    bool more = true;

    rig->in.slots = 0;
    while (more && CHECK(slot != nm_ring_tail(ring)) &&
           CHECK(ring->slot[slot].len <= ring->nr_buf_size) &&
           CHECK(used + ring->slot[slot].len <= sizeof(bytes))) {
        memcpy(bytes + used, nm_ring_buf(ring, slot), ring->slot[slot].len);
        used += ring->slot[slot].len;
        more = ring->slot[slot].flags & NM_MOREFRAG;
        slot = nm_ring_next(ring, slot);
        rig->in.slots++;
    }
    rig->in.hdr = (struct vnet_hdr){0};
    rig->in.len = 0;
    if (CHECK(used >= rig->header)) {
        memcpy(&rig->in.hdr, bytes, rig->header);
        memcpy(rig->in.data, bytes + rig->header, used - rig->header);
        rig->in.len = used - rig->header;
    }
    return slot;
}

bool rig_woken(struct rig *rig, int ms)
{
    struct pollfd fd = {.fd = rig->port->wait_fd, .events = POLLIN};

    return rig->wire->woken ? rig->wire->woken(rig, ms) : poll(&fd, 1, ms) == 1;
}

bool rig_sleep(struct rig *rig, int ms)
{
    bool woken = rig->port->ops->sleep_arm(rig->port) != 0 || rig_woken(rig, ms);

    rig->port->ops->sleep_disarm(rig->port);
    return woken;
}

bool rig_receive(struct rig *rig)
{
    uint64_t end = real_now_us() + COME_MS * 1000;
    struct nm_ring *ring = rig->port->rx;

    while (real_now_us() < end && check_failures() == 0) {
        rig_rx_sync(rig);
        if (!nm_ring_empty(ring)) {
            nm_ring_give(ring, rig_read(rig, ring->head));
            return true;
        }
        rig_sleep(rig, 100);
    }
    return CHECK(!"a frame came");
}

bool rig_await_slots(struct rig *rig, uint32_t n)
{
    uint64_t end = real_now_us() + COME_MS * 1000;
    const struct nm_ring *ring = rig->port->rx;

    while (nm_ring_distance(ring, ring->head, nm_ring_tail(ring)) < n) {
        if (!CHECK(real_now_us() < end)) {
            return false;
        }
        rig_rx_sync(rig);
        usleep(NAP_US);
    }
    return true;
}

void rig_expect_in(struct rig *rig, uint32_t first, uint32_t n)
{
    for (uint32_t i = first; i < first + n && rig_receive(rig); i++) {
        CHECK_EQ(frame_number(&rig->in), i);
        CHECK(frame_is_in(rig, &rig->in));
    }
}

void rig_expect_out(struct rig *rig, uint32_t first, uint32_t n)
{
    for (uint32_t i = first; i < first + n && rig_collect(rig); i++) {
        CHECK_EQ(frame_number(&rig->out), i);
        CHECK(frame_is_out(rig, &rig->out));
    }
}

/* Slots that a frame takes, `part` bytes of it in each. */
static uint32_t slots_for(const struct rig *rig, const struct frame *frame, uint32_t part)
{
    uint32_t size = rig->port->tx->nr_buf_size;

    return part ? (frame->len + part - 1) / part : (rig->header + frame->len + size - 1) / size;
}

bool rig_put(struct rig *rig, const struct frame *frame, uint32_t part)
{
    struct nm_ring *ring = rig->port->tx;
    uint32_t left = slots_for(rig, frame, part);
    uint32_t at = ring->head;
    uint32_t done = 0;

    if (nm_ring_space(ring) < left) {
        return false;
    }
    for (uint32_t skip = rig->header; left > 0; skip = 0) {
        uint32_t room = part ? part : ring->nr_buf_size - skip;
        uint32_t here = min_u32(room, frame->len - done);
        uint8_t *buf = nm_ring_buf(ring, at);

        memcpy(buf, &frame->hdr, skip);
        memcpy(buf + skip, frame->data + done, here);
        ring->slot[at].len = (uint16_t)(skip + here);
        ring->slot[at].flags = --left > 0 ? NM_MOREFRAG : 0;
        done += here;
        at = nm_ring_next(ring, at);
    }
    nm_ring_give(ring, at);
    return true;
}

bool rig_send(struct rig *rig, uint32_t number, uint32_t len)
{
    static struct frame frame;
    uint64_t end = real_now_us() + COME_MS * 1000;

    frame_out(rig, &frame, number, len);
    while (!rig_put(rig, &frame, 0)) {
        if (!CHECK(real_now_us() < end)) {
            return false;
        }
        rig_tx_sync(rig);
    }
    rig_tx_sync(rig);
    return true;
}

bool rig_collect(struct rig *rig)
{
    uint64_t end = real_now_us() + COME_MS * 1000;

    while (real_now_us() < end && check_failures() == 0) {
        rig_tx_sync(rig);
        if (rig->wire->collect(rig, &rig->out)) {
            return true;
        }
        usleep(NAP_US);
    }
    return CHECK(!"a frame was sent");
}

bool rig_silent(struct rig *rig)
{
    uint64_t end = real_now_us() + QUIET_MS * 1000;

    while (real_now_us() < end) {
        if (rig->wire->collect(rig, &rig->out)) {
            return false;
        }
        usleep(NAP_US);
    }
    return true;
}

bool rig_drained(struct rig *rig)
{
    uint64_t end = real_now_us() + COME_MS * 1000;

    while (nm_ring_space(rig->port->tx) < rig->slots - 1) {
        if (real_now_us() >= end) {
            return false;
        }
        rig_tx_sync(rig);
        usleep(NAP_US);
    }
    return true;
}

int rig_audit_rings(const struct port *port)
{
    uint32_t n = port->rx->num_slots;
    uint8_t seen[2 * 8192] = {0};
    int wrong = 0;

    for (uint32_t i = 0; i < n; i++) {
        seen[(port->rx->slot[i].buf_idx - NM_BUF_FIRST) % sizeof(seen)]++;
        seen[(port->tx->slot[i].buf_idx - NM_BUF_FIRST) % sizeof(seen)]++;
    }
    for (uint32_t i = 0; i < 2 * n; i++) {
        wrong += seen[i] != 1;
    }
    return wrong;
}
