/* xdp: traffic between our rings and the kernel, over a veth pair. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <string.h>
#include <unistd.h>

#include "base/csum.h"
#include "xdp_wire.h"

static const char *const modes[] = {"xdp:srv0:copy", "xdp:srv0:generic", "xdp:srv0:busy-poll"};

enum {
    MODES = sizeof(modes) / sizeof(modes[0]),
    FLOWS = 100,
    ADDR_OTHER = 0x0a090003,
    TEST_FRAME = 60,
};

static void a_datagram_goes_both_ways(void)
{
    uint8_t payload[100];
    uint8_t back[200];

    for (int mode = 0; mode < MODES; mode++) {
        struct packet_wire wire;
        struct port *port;

        if (!xdp_wire_open(&wire, &(struct xdp_plan){.spec = modes[mode]})) {
            return;
        }
        port = &wire.device->ports[0];
        CHECK_EQ(wire.device->mtu, 1500);
        CHECK(port->caps & PORT_CAP_VNET_HDR);
        wire_fill(payload, sizeof(payload), 1);
        CHECK(send(wire.udp, payload, sizeof(payload), 0) == sizeof(payload));
        CHECK(wire_receive(port));
        CHECK_EQ(got.len, UDP_HEADERS + sizeof(payload));
        CHECK(memcmp(got.data, wire.device->mac, 6) == 0);
        CHECK(memcmp(got.data + UDP_HEADERS, payload, sizeof(payload)) == 0);
        wire_push_udp(&wire, payload, sizeof(payload));
        CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
        CHECK_EQ(recv(wire.udp, back, sizeof(back), 0), sizeof(payload));
        CHECK(memcmp(back, payload, sizeof(payload)) == 0);
        CHECK_EQ(port->counters->rx_frames, 1);
        CHECK_EQ(port->counters->rx_bytes, UDP_HEADERS + sizeof(payload));
        CHECK_EQ(port->counters->tx_frames, 1);
        CHECK_EQ(port->counters->tx_bytes, UDP_HEADERS + sizeof(payload));
        CHECK_EQ(xdp_wire_audit(port), 0);
        wire_close(&wire);
    }
}

/* Of either chunk size; slots that are filled to their end go beyond their chunk's. */
static void a_jumbo_frame_takes_several_slots(void)
{
    static uint8_t payload[8000];
    static uint8_t back[JUMBO];

    for (int mode = 0; mode < 2 * MODES; mode++) {
        struct packet_wire wire;
        struct port *port;
        uint32_t chunk = mode < MODES ? XDP_CHUNK_MIN : XDP_CHUNK_MAX;

        if (!xdp_wire_open(
                &wire,
                &(struct xdp_plan){.spec = modes[mode % MODES], .mtu = JUMBO, .buf_size = chunk})) {
            return;
        }
        port = &wire.device->ports[0];
        CHECK_EQ(port->rx->nr_buf_size, chunk);
        for (uint32_t round = 0; round < 300; round++) { /* over the end of both rings */
            uint32_t len = 1 + round * 26 % sizeof(payload);

            wire_fill(payload, len, round);
            CHECK(send(wire.udp, payload, len, 0) == (ssize_t)len);
            if (!CHECK(wire_receive(port))) {
                break;
            }
            CHECK_EQ(got.len, UDP_HEADERS + len);
            CHECK(memcmp(got.data + UDP_HEADERS, payload, len) == 0);
            wire_push_udp(&wire, got.data + UDP_HEADERS, len);
            CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
            CHECK_EQ(recv(wire.udp, back, sizeof(back), 0), len);
            CHECK(memcmp(back, payload, len) == 0);
        }
        CHECK_EQ(port->counters->rx_missed, 0);
        CHECK_EQ(xdp_wire_audit(port), 0);
        wire_close(&wire);
    }
}

/* A frame to the service's MAC: type, and an IPv4 or ARP target at `at`; 0: none. */
static void make_frame(const struct packet_wire *wire, uint8_t *frame, uint16_t type, uint32_t at)
{
    uint32_t address = htonl(ADDR_SERVICE);
    uint16_t ethertype = htons(type);

    memset(frame, 0, TEST_FRAME);
    memcpy(frame, wire->device->mac, 6);
    memcpy(frame + 6, wire->client_mac, 6);
    memcpy(frame + 12, &ethertype, sizeof(ethertype));
    if (at != 0) {
        memcpy(frame + at, &address, sizeof(address));
    }
}

/* What the kernel gets of srv0: a packet socket sees all that the program passes. */
static int listen_beside(void)
{
    struct sockaddr_ll to = {.sll_family = AF_PACKET,
                             .sll_protocol = htons(0x0003),
                             .sll_ifindex = (int)if_nametoindex("srv0")};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);

    CHECK(bind(fd, (struct sockaddr *)&to, sizeof(to)) == 0);
    return fd;
}

/* Who gets a frame: 'r' the ring, 'k' the kernel, '-' neither, '2' both. */
static char who_gets(const struct packet_wire *wire, int beside, const uint8_t *frame, size_t len)
{
    struct port *port = &wire->device->ports[0];
    uint64_t end = wire_now_us() + WAIT_MS * 1000;
    uint8_t back[256];
    bool ring = false;
    bool kernel = false;

    xdp_wire_inject(frame, len);
    while (!ring && !kernel && wire_now_us() < end) {
        CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), 0);
        ring = wire_take(port);
        kernel = recv(beside, back, sizeof(back), 0) > 0;
    }
    return ring && kernel ? '2' : ring ? 'r' : kernel ? 'k' : '-';
}

static void the_kernel_gets_what_is_not_for_our_address(void)
{
    for (int mode = 0; mode < MODES; mode++) {
        struct packet_wire wire;
        uint8_t frame[TEST_FRAME];
        int beside;

        if (!xdp_wire_open(&wire, &(struct xdp_plan){.spec = modes[mode], .ip = ADDR_SERVICE})) {
            return;
        }
        beside = listen_beside();
        make_frame(&wire, frame, ETHERTYPE_IPV4, 30);
        CHECK_EQ(who_gets(&wire, beside, frame, sizeof(frame)), 'r');
        CHECK_EQ(who_gets(&wire, beside, frame, 33), 'k'); /* no whole header */
        frame[33] ^= 1;
        CHECK_EQ(who_gets(&wire, beside, frame, sizeof(frame)), 'k');
        make_frame(&wire, frame, ETHERTYPE_ARP, 38);
        CHECK_EQ(who_gets(&wire, beside, frame, 42), 'r');
        CHECK_EQ(who_gets(&wire, beside, frame, 41), 'k');
        frame[41] ^= 1;
        CHECK_EQ(who_gets(&wire, beside, frame, 42), 'k');
        make_frame(&wire, frame, 0x86dd, 30);
        CHECK_EQ(who_gets(&wire, beside, frame, sizeof(frame)), 'k');
        make_frame(&wire, frame, 0x8100, 34); /* our address behind a tag: the kernel's VLAN */
        frame[16] = 8;
        CHECK_EQ(who_gets(&wire, beside, frame, sizeof(frame)), 'k');
        CHECK_EQ(wire.device->ports[0].counters->rx_frames, 2);
        close(beside);
        wire_close(&wire);
    }
}

static void without_an_address_all_ipv4_is_ours(void)
{
    static const uint16_t ours[] = {ETHERTYPE_IPV4, ETHERTYPE_ARP, 0x8100, 0x88a8};
    struct packet_wire wire;
    uint8_t frame[TEST_FRAME];
    int beside;

    if (!xdp_wire_open(&wire, &(struct xdp_plan){.spec = "xdp:srv0"})) {
        return;
    }
    beside = listen_beside();
    for (uint32_t i = 0; i < 4; i++) {
        make_frame(&wire, frame, ours[i], 0);
        CHECK_EQ(who_gets(&wire, beside, frame, sizeof(frame)), 'r');
        CHECK(memcmp(got.data, frame, sizeof(frame)) == 0); /* a tag stays in the frame */
    }
    make_frame(&wire, frame, 0x86dd, 0);
    CHECK_EQ(who_gets(&wire, beside, frame, sizeof(frame)), 'k');
    close(beside);
    wire_close(&wire);
}

static void the_address_can_be_changed(void)
{
    struct packet_wire wire;
    uint8_t frame[TEST_FRAME];
    const struct xdp_device *xdp;
    struct filter filter;
    int beside;

    if (!xdp_wire_open(&wire, &(struct xdp_plan){.spec = "xdp:srv0", .ip = ADDR_OTHER})) {
        return;
    }
    xdp = wire.device->priv;
    beside = listen_beside();
    make_frame(&wire, frame, ETHERTYPE_IPV4, 30);
    CHECK_EQ(who_gets(&wire, beside, frame, sizeof(frame)), 'k');
    filter_set(&filter, &(struct device_config){.ip = ADDR_SERVICE});
    CHECK_EQ(xdp_program_set_filter(&xdp->program, &filter), 0);
    CHECK_EQ(who_gets(&wire, beside, frame, sizeof(frame)), 'r');
    close(beside);
    wire_close(&wire);
}

/* A TCP segment to the service with `options` bytes of IP options and 10 bytes of payload. */
static uint32_t make_segment(const struct packet_wire *wire, uint8_t *frame, uint32_t options,
                             bool whole)
{
    uint32_t l4_len = TCP_HDR_LEN + 10;
    uint8_t *l4 = frame + ETH_HDR_LEN + IPV4_HDR_LEN + options;
    struct wire_ipv4 ip = {.version_ihl = (uint8_t)(0x45 + options / 4),
                           .total_len = htons((uint16_t)(IPV4_HDR_LEN + options + l4_len)),
                           .ttl = 64,
                           .protocol = PROTO_TCP,
                           .src = htonl(ADDR_CLIENT),
                           .dst = htonl(ADDR_SERVICE)};
    struct wire_tcp tcp = {.src_port = htons(1), .data_off = 5 << 4};
    uint64_t pseudo = csum_pseudo(ip.src, ip.dst, PROTO_TCP, l4_len);

    make_frame(wire, frame, ETHERTYPE_IPV4, 0);
    memcpy(frame + ETH_HDR_LEN, &ip, sizeof(ip));
    memcpy(l4, &tcp, sizeof(tcp));
    wire_fill(l4 + sizeof(tcp), 10, 5);
    tcp.check = whole ? csum_fold(csum_add(l4, l4_len, pseudo)) : csum_fold16(pseudo);
    memcpy(l4, &tcp, sizeof(tcp));
    return ETH_HDR_LEN + IPV4_HDR_LEN + options + l4_len;
}

/* The checksum state with which a segment arrives. */
static uint8_t state_of(const struct packet_wire *wire, const uint8_t *frame, uint32_t len)
{
    xdp_wire_inject(frame, len);
    CHECK(wire_receive(&wire->device->ports[0]));
    CHECK_EQ(got.len, len);
    CHECK(memcmp(got.data, frame, len) == 0);
    return got.hdr.flags;
}

static void a_checksum_that_a_kernel_left_unfinished_is_known(void)
{
    struct packet_wire wire;
    uint8_t frame[128];
    uint32_t len;

    if (!xdp_wire_open(&wire, &(struct xdp_plan){.spec = "xdp:srv0"})) {
        return;
    }
    CHECK(strstr(wire.device->banner, "unfinished checksums") != NULL);
    for (uint32_t options = 0; options <= 8; options += 8) {
        len = make_segment(&wire, frame, options, false);
        CHECK_EQ(state_of(&wire, frame, len), VNET_F_NEEDS_CSUM);
        CHECK_EQ(got.hdr.csum_start, ETH_HDR_LEN + IPV4_HDR_LEN + options);
        CHECK_EQ(got.hdr.csum_offset, 16);
        frame[len - 1] ^= 1; /* the payload plays no part */
        CHECK_EQ(state_of(&wire, frame, len), VNET_F_NEEDS_CSUM);
        frame[ETH_HDR_LEN + 15] ^= 1; /* the source address does */
        CHECK_EQ(state_of(&wire, frame, len), 0);
        len = make_segment(&wire, frame, options, true);
        CHECK_EQ(state_of(&wire, frame, len), 0);
    }
    len = make_segment(&wire, frame, 0, false);
    frame[ETH_HDR_LEN + 7] = 1; /* a fragment has no checksum of its own */
    CHECK_EQ(state_of(&wire, frame, len), 0);
    len = make_segment(&wire, frame, 0, false);
    CHECK_EQ(state_of(&wire, frame, len - 20), 0); /* cut before its checksum ends */
    CHECK_EQ(send(wire.udp, "abcdefgh", 8, 0), 8);
    CHECK(wire_receive(&wire.device->ports[0])); /* and it is what this kernel does */
    CHECK_EQ(got.hdr.flags, VNET_F_NEEDS_CSUM);
    CHECK_EQ(got.hdr.csum_offset, 6);
    wire_close(&wire);
}

static void a_checksum_is_verified_where_the_name_says_so(void)
{
    struct packet_wire wire;
    uint8_t frame[128];

    if (!xdp_wire_open(&wire, &(struct xdp_plan){.spec = "xdp:srv0:verify"})) {
        return;
    }
    CHECK(strstr(wire.device->banner, "unfinished checksums") == NULL);
    CHECK_EQ(state_of(&wire, frame, make_segment(&wire, frame, 0, false)), 0);
    wire_close(&wire);
}

/* Frames of all flows, over all ports; each flow comes by one port. */
static void collect(const struct packet_wire *wire, uint32_t *frames)
{
    for (uint16_t flow = 0; flow < FLOWS; flow++) {
        int fd = wire_client((uint16_t)(41000 + flow));
        uint32_t owner = wire->device->rings;

        for (int k = 0; k < 3; k++) {
            CHECK(send(fd, "x", 1, 0) == 1);
        }
        for (uint32_t ring = 0; ring < wire->device->rings; ring++) {
            struct port *port = &wire->device->ports[ring];

            CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), 0);
            while (wire_take(port)) {
                CHECK_EQ(wire_word(ETH_HDR_LEN + IPV4_HDR_LEN), 41000 + flow);
                CHECK(owner == wire->device->rings || owner == ring);
                owner = ring;
                frames[ring]++;
            }
        }
        close(fd);
    }
}

/* Fewer ports than queues: a port has a socket on each of its queues. */
static void every_queue_reaches_a_port(void)
{
    for (uint32_t rings = 1; rings <= XDP_QUEUES; rings++) {
        struct packet_wire wire;
        uint32_t frames[XDP_QUEUES] = {0};
        uint8_t back[8];

        if (!xdp_wire_open(&wire, &(struct xdp_plan){
                                      .spec = "xdp:srv0", .queues = XDP_QUEUES, .rings = rings})) {
            return;
        }
        collect(&wire, frames);
        CHECK_EQ(frames[0] + frames[1] + frames[2] + frames[3], 3 * FLOWS);
        for (uint32_t ring = 0; ring < rings; ring++) {
            struct port *port = &wire.device->ports[ring];

            CHECK(frames[ring] > 0);
            CHECK_EQ(frames[ring], port->counters->rx_frames);
            wire.device->ports[0] = *port; /* wire_push_udp sends by the first */
            wire_push_udp(&wire, "back", 4);
            CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
            CHECK_EQ(recv(wire.udp, back, sizeof(back), 0), 4);
            CHECK_EQ(xdp_wire_audit(port), 0);
        }
        wire_close(&wire);
    }
}

/* A worker with several queues sleeps on one descriptor. */
static void a_sleeper_hears_every_queue(void)
{
    struct packet_wire wire;

    if (!xdp_wire_open(&wire, &(struct xdp_plan){.spec = "xdp:srv0", .queues = XDP_QUEUES})) {
        return;
    }
    for (uint16_t flow = 0; flow < 20; flow++) {
        int fd = wire_client((uint16_t)(41000 + flow));

        CHECK_EQ(wire.device->ports[0].ops->sleep_arm(&wire.device->ports[0]), 0);
        wire.device->ports[0].ops->sleep_disarm(&wire.device->ports[0]);
        CHECK(send(fd, "x", 1, 0) == 1);
        CHECK(wire_receive(&wire.device->ports[0]));
        close(fd);
    }
    wire_close(&wire);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a datagram goes both ways", a_datagram_goes_both_ways},
        {"a jumbo frame takes several slots", a_jumbo_frame_takes_several_slots},
        {"the kernel gets what is not for our address",
         the_kernel_gets_what_is_not_for_our_address},
        {"without an address all IPv4 is ours", without_an_address_all_ipv4_is_ours},
        {"the address can be changed", the_address_can_be_changed},
        {"a checksum that a kernel left unfinished is known",
         a_checksum_that_a_kernel_left_unfinished_is_known},
        {"a checksum is verified where the name says so",
         a_checksum_is_verified_where_the_name_says_so},
        {"every queue reaches a port", every_queue_reaches_a_port},
        {"a sleeper hears every queue", a_sleeper_hears_every_queue},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
