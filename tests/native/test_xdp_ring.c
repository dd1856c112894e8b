/* xdp: the contract of the rings: who owns which slot when, and what becomes of nonsense. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "xdp_wire.h"

enum {
    BUSY_FRAMES = 600, /* more than twice round the rings */
    HUGE = 60000,
    WILD_PORTS = 24,
    WILD_SYNCS = 500,
};

static const struct xdp_plan plain = {.spec = "xdp:srv0"};

/* Without a consumer the ring fills up to its last slot, keeps order, and the rest waits. */
static void slots_come_and_go_only_in_a_sync(void)
{
    struct packet_wire wire;
    struct port *port;
    uint32_t seq = 0;

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    port = &wire.device->ports[0];
    for (uint32_t i = 0; i < 400; i++) { /* past the ring's 256 slots, within the fill ring's */
        CHECK(send(wire.udp, &i, sizeof(i), 0) == sizeof(i));
        if (i % 50 == 49) {
            CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), 0);
            CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), 0);
        }
    }
    CHECK_EQ(nm_ring_distance(port->rx, port->rx->head, nm_ring_tail(port->rx)), 255);
    CHECK_EQ(port->ops->sleep_arm(port), 1); /* what waits keeps the worker awake */
    for (uint32_t round = 0; round < 8; round++) {
        uint32_t tail = nm_ring_tail(port->rx);

        while (wire_take(port)) {
            uint32_t value;

            memcpy(&value, got.data + UDP_HEADERS, sizeof(value));
            CHECK_EQ(value, seq++);
        }
        CHECK_EQ(nm_ring_tail(port->rx), tail);
        CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), 0);
    }
    CHECK_EQ(seq, 400);
    CHECK_EQ(seq, port->counters->rx_frames);
    CHECK_EQ(port->ops->sleep_arm(port), 0);
    port->ops->sleep_disarm(port);
    CHECK_EQ(xdp_wire_audit(port), 0);
    wire_close(&wire);
}

/* A frame longer than a ring would wait for ever; here single frames are made pieces of one. */
static void a_frame_that_never_fits_is_skipped_and_counted(void)
{
    struct packet_wire wire;
    struct port *port;
    const struct xdp_fifo *rx;
    uint32_t pieces = XDP_FRAME_SLOTS_MAX + 1;

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    port = &wire.device->ports[0];
    rx = &xdp_port(port)->socket[0].rx;
    for (uint32_t i = 0; i < pieces + 1; i++) {
        CHECK(send(wire.udp, "good", 4, 0) == 4);
        if (i + 1 < pieces) {
            xdp_desc_at(rx, i)->options |= XDP_DESC_CONTD;
        }
    }
    CHECK(wire_receive(port));
    CHECK_EQ(got.len, UDP_HEADERS + 4);
    CHECK(memcmp(got.data + UDP_HEADERS, "good", 4) == 0);
    CHECK(!wire_take(port));
    CHECK_EQ(port->ops->rx_sync(port, wire_now_us() + 1000000), 0);
    CHECK_EQ(port->counters->rx_frames, 1);
    CHECK_EQ(port->counters->rx_missed, 1);
    CHECK_EQ(xdp_wire_audit(port), 0);
    wire_close(&wire);
}

static void frames_without_room_are_counted(void)
{
    struct packet_wire wire;
    struct port *port;
    uint32_t seen = 0;

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    port = &wire.device->ports[0];
    for (uint32_t i = 0; i < 1000; i++) {
        CHECK(send(wire.udp, &i, sizeof(i), 0) == sizeof(i));
    }
    for (uint32_t round = 0; round < 40; round++) {
        CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), 0);
        while (wire_take(port)) {
            seen++;
        }
    }
    CHECK_EQ(port->ops->rx_sync(port, wire_now_us() + 1000000), 0);
    CHECK(port->counters->rx_missed > 0);
    CHECK_EQ(seen + port->counters->rx_missed, 1000);
    CHECK_EQ(xdp_wire_audit(port), 0);
    wire_close(&wire);
}

/* Sends what came back where it came from, by exchanging the buffers of an RX and a TX slot. */
static void turn_round(const struct packet_wire *wire, struct port *port)
{
    struct nm_slot *rx = &port->rx->slot[port->rx->head];
    struct nm_slot *tx = &port->tx->slot[port->tx->head];
    uint32_t buf = tx->buf_idx;
    uint8_t *bytes;

    *tx = (struct nm_slot){.buf_idx = rx->buf_idx, .len = rx->len, .flags = NM_BUF_CHANGED};
    *rx = (struct nm_slot){.buf_idx = buf, .flags = NM_BUF_CHANGED};
    bytes = nm_ring_buf(port->tx, port->tx->head);
    memset(bytes, 0, PORT_VNET_HDR_LEN);
    bytes += PORT_VNET_HDR_LEN;
    memcpy(bytes, wire->client_mac, 6);
    memcpy(bytes + 6, wire->device->mac, 6);
    wire_write_ip(wire, bytes, PROTO_UDP, UDP_HDR + sizeof(uint32_t));
    for (int k = 0; k < 2; k++) {
        uint8_t port_byte = bytes[34 + k];

        bytes[34 + k] = bytes[36 + k];
        bytes[36 + k] = port_byte;
        bytes[40 + k] = 0; /* no checksum */
    }
    nm_ring_give(port->rx, nm_ring_next(port->rx, port->rx->head));
    nm_ring_give(port->tx, nm_ring_next(port->tx, port->tx->head));
}

static void buffers_can_be_exchanged(void)
{
    struct packet_wire wire;
    struct port *port;

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    port = &wire.device->ports[0];
    for (uint32_t i = 0; i < BUSY_FRAMES; i++) {
        uint32_t back = 0;

        CHECK(send(wire.udp, &i, sizeof(i), 0) == sizeof(i));
        CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), 0);
        CHECK(!nm_ring_empty(port->rx));
        turn_round(&wire, port);
        CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
        CHECK_EQ(recv(wire.udp, &back, sizeof(back), 0), sizeof(back));
        CHECK_EQ(back, i);
    }
    CHECK_EQ(xdp_wire_audit(port), 0);
    wire_close(&wire);
}

/* A full ring leaves in one sync, in order, and is free after it. */
static void a_full_ring_is_sent_at_once(void)
{
    struct packet_wire wire;
    struct port *port;
    int size = 1 << 20;

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    port = &wire.device->ports[0];
    CHECK(setsockopt(wire.udp, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)) == 0);
    for (uint32_t round = 0; round < 4; round++) {
        uint32_t n = nm_ring_space(port->tx);

        CHECK_EQ(n, port->tx->num_slots - 1);
        for (uint32_t i = 0; i < n; i++) {
            wire_push_udp(&wire, &i, sizeof(i));
        }
        CHECK_EQ(nm_ring_space(port->tx), 0);
        CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t back = UINT32_MAX;

            CHECK(wire_datagram(&wire, &back, sizeof(back), true));
            CHECK_EQ(back, i);
        }
        CHECK_EQ(port->counters->tx_frames, (round + 1) * n);
    }
    CHECK_EQ(port->counters->tx_dropped, 0);
    wire_close(&wire);
}

static void what_cannot_be_sent_is_counted(void)
{
    static uint8_t huge[HUGE];
    struct vnet_hdr whole = {0};
    struct vnet_hdr unfinished = {.flags = VNET_F_NEEDS_CSUM};
    struct vnet_hdr super = {.gso_type = VNET_GSO_TCPV4, .gso_size = 1460};
    struct packet_wire wire;
    struct port *port;
    uint8_t back[8];

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    port = &wire.device->ports[0];
    wire_push(port, &whole, huge, sizeof(huge)); /* more pieces than the kernel takes */
    wire_push(port, &unfinished, huge, 64);      /* offloads that the port does not offer */
    wire_push(port, &super, huge, 64);
    wire_push_udp(&wire, "good", 4);
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
    CHECK_EQ(recv(wire.udp, back, sizeof(back), 0), 4);
    CHECK_EQ(port->counters->tx_dropped, 3);
    CHECK_EQ(port->counters->tx_frames, 1);
    CHECK_EQ(nm_ring_space(port->tx), port->tx->num_slots - 1);
    CHECK_EQ(xdp_wire_audit(port), 0);
    wire_close(&wire);
}

/* The last slots of a frame come in a later sync: nothing of it leaves before. */
static void half_a_frame_waits_for_its_end(void)
{
    static uint8_t payload[3000];
    static uint8_t back[JUMBO];
    struct packet_wire wire;
    struct port *port;
    uint32_t head;

    if (!xdp_wire_open(&wire, &(struct xdp_plan){
                                  .spec = "xdp:srv0", .mtu = JUMBO, .buf_size = XDP_CHUNK_MIN})) {
        return;
    }
    port = &wire.device->ports[0];
    wire_push_udp(&wire, payload, sizeof(payload));
    head = port->tx->head;
    nm_ring_give(port->tx, head - 1);
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
    CHECK_EQ(port->counters->tx_frames, 0);
    nm_ring_give(port->tx, head);
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
    CHECK_EQ(recv(wire.udp, back, sizeof(back), 0), sizeof(payload));
    wire_close(&wire);
}

/* Fills the next TX slot with nonsense and looks whether the port stops. */
static void tx_nonsense(uint32_t buf_idx, uint16_t len)
{
    struct packet_wire wire;
    struct port *port;
    struct nm_slot *slot;

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    port = &wire.device->ports[0];
    slot = &port->tx->slot[0];
    slot->buf_idx = buf_idx == 0 ? slot->buf_idx : buf_idx;
    slot->len = len;
    slot->flags = 0;
    nm_ring_give(port->tx, 1);
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), -EIO);
    CHECK_EQ(port->counters->errors, 1);
    CHECK_EQ(port->counters->tx_frames, 0);
    wire_close(&wire);
}

static void nonsense_to_send_stops_the_port(void)
{
    tx_nonsense(1, 100);
    tx_nonsense(UINT32_MAX, 100);
    tx_nonsense(2 + 2 * XDP_SLOTS + 1024, 100); /* one beyond the last */
    tx_nonsense(0, 0);
    tx_nonsense(0, PORT_VNET_HDR_LEN);
    tx_nonsense(0, 2049);
}

/* The same buffer in two slots would be sent while it is written to. */
static void a_buffer_in_two_slots_stops_the_port(void)
{
    struct packet_wire wire;
    struct port *port;

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    port = &wire.device->ports[0];
    wire_push_udp(&wire, "a", 1);
    wire_push_udp(&wire, "b", 1);
    port->tx->slot[1].buf_idx = port->tx->slot[0].buf_idx;
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), -EIO);
    CHECK_EQ(port->counters->errors, 1);
    wire_close(&wire);
}

static void nonsense_in_the_receive_ring_stops_the_port(void)
{
    struct packet_wire wire;
    struct port *port;

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    port = &wire.device->ports[0];
    port->rx->slot[0].buf_idx = 0;
    CHECK(send(wire.udp, "x", 1, 0) == 1);
    CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), -EIO);
    port->rx->head = XDP_SLOTS;
    CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), -EIO);
    port->tx->head = XDP_SLOTS;
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), -EIO);
    CHECK_EQ(port->counters->errors, 3);
    wire_close(&wire);
}

/* The RX ring is the kernel's, but it lies in memory that others can write. */
static void nonsense_from_the_other_side_stops_the_port(void)
{
    static const struct xdp_desc wrong[] = {{.addr = 0, .len = 60},
                                            {.addr = UINT64_MAX, .len = 60},
                                            {.addr = 2048 * 2 + 268, .len = 4096},
                                            {.addr = 2048 * 2 + 268, .len = 0}};

    for (uint32_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct packet_wire wire;
        struct port *port;
        const struct xdp_fifo *rx;

        if (!xdp_wire_open(&wire, &plain)) {
            return;
        }
        port = &wire.device->ports[0];
        rx = &xdp_port(port)->socket[0].rx;
        CHECK(send(wire.udp, "x", 1, 0) == 1);
        *xdp_desc_at(rx, *rx->consumer) = wrong[i];
        CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), -EIO);
        CHECK_EQ(port->counters->errors, 1);
        wire_close(&wire);
    }
}

/* Writes one wild value where a confused user, or a confused other side, could write. */
static void go_wild(struct port *port, uint64_t *seed)
{
    const struct xdp_socket *sock = &xdp_port(port)->socket[0];
    uint64_t what = splitmix64(seed);
    uint32_t value = (uint32_t)(what >> 32);
    struct nm_ring *ring = what & 8 ? port->rx : port->tx;
    struct nm_slot *slot = &ring->slot[(what >> 8) % XDP_SLOTS];

    value = what & 16 ? value : value % 1200;
    switch (what & 7) {
    case 0:
        ring->head = what & 32 ? value : value % XDP_SLOTS;
        break;
    case 1:
        ring->cur = value;
        break;
    case 2:
        slot->buf_idx = value;
        break;
    case 3:
        slot->len = (uint16_t)value;
        break;
    case 4:
        slot->flags = (uint16_t)value;
        break;
    case 5:
        xdp_desc_at(&sock->rx, value)->addr = what >> 20;
        break;
    case 6:
        xdp_desc_at(&sock->rx, value)->len = value;
        break;
    default:
        *xdp_addr_at(&sock->done, value) = what >> 20;
        break;
    }
}

/* One port driven by a seed until it stops; how often it was synced. */
static uint32_t drive_wild(const struct packet_wire *wire, uint64_t seed)
{
    struct port *port = &wire->device->ports[0];
    uint32_t syncs = 0;
    int code = 0;

    while (code == 0 && syncs < WILD_SYNCS) {
        struct xdp_statistics stats = {0};
        socklen_t len = sizeof(stats);

        send(wire->udp, &seed, sizeof(seed), MSG_DONTWAIT);
        if (splitmix64(&seed) % 4 == 0) {
            go_wild(port, &seed);
        }
        port->tx->slot[port->tx->head % XDP_SLOTS].len = 100;
        nm_ring_give(port->tx, (port->tx->head + 1) % XDP_SLOTS);
        code = port->ops->rx_sync(port, wire_now_us());
        code = code != 0 ? code : port->ops->tx_sync(port, wire_now_us());
        CHECK(getsockopt(port->wait_fd, SOL_XDP, XDP_STATISTICS, &stats, &len) == 0);
        CHECK_EQ(stats.tx_invalid_descs, 0); /* what we hand on is always valid */
        syncs++;
    }
    CHECK(code == 0 || code == -EIO);
    CHECK_EQ(port->counters->errors, code == 0 ? 0 : 1);
    return syncs;
}

static void wild_rings_stop_the_port_and_nothing_else(void)
{
    uint32_t syncs = 0;
    uint32_t stopped = 0;

    for (uint64_t seed = 1; seed <= WILD_PORTS; seed++) {
        struct packet_wire wire;
        uint32_t lasted;

        if (!xdp_wire_open(&wire, &plain)) {
            return;
        }
        lasted = drive_wild(&wire, seed);
        syncs += lasted;
        stopped += lasted < WILD_SYNCS;
        wire_close(&wire);
    }
    CHECK(stopped > WILD_PORTS / 2);
    CHECK(syncs > WILD_PORTS * 4);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"slots come and go only in a sync", slots_come_and_go_only_in_a_sync},
        {"frames without room are counted", frames_without_room_are_counted},
        {"a frame that never fits is skipped and counted",
         a_frame_that_never_fits_is_skipped_and_counted},
        {"buffers can be exchanged", buffers_can_be_exchanged},
        {"a full ring is sent at once", a_full_ring_is_sent_at_once},
        {"what cannot be sent is counted", what_cannot_be_sent_is_counted},
        {"half a frame waits for its end", half_a_frame_waits_for_its_end},
        {"nonsense to send stops the port", nonsense_to_send_stops_the_port},
        {"a buffer in two slots stops the port", a_buffer_in_two_slots_stops_the_port},
        {"nonsense in the receive ring stops the port",
         nonsense_in_the_receive_ring_stops_the_port},
        {"nonsense from the other side stops the port",
         nonsense_from_the_other_side_stops_the_port},
        {"wild rings stop the port and nothing else", wild_rings_stop_the_port_and_nothing_else},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
