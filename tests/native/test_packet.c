/* packet: traffic between our rings and the kernel, over a veth pair. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "packet_wire.h"

static void a_datagram_goes_both_ways(void)
{
    struct packet_wire wire;
    uint8_t payload[100];
    uint8_t back[200];
    struct port *port;

    if (!wire_open(&wire, 1, 1500)) {
        return;
    }
    port = &wire.device->ports[0];
    CHECK_EQ(wire.device->mtu, 1500);
    CHECK_EQ(port->caps & (PORT_CAP_VNET_HDR | PORT_CAP_RX_GSO | PORT_CAP_TX_CSUM),
             PORT_CAP_VNET_HDR | PORT_CAP_RX_GSO | PORT_CAP_TX_CSUM);
    wire_fill(payload, sizeof(payload), 1);
    CHECK(send(wire.udp, payload, sizeof(payload), 0) == sizeof(payload));
    CHECK(wire_receive(port));
    CHECK_EQ(got.len, UDP_HEADERS + sizeof(payload));
    CHECK(memcmp(got.data, wire.device->mac, 6) == 0);
    CHECK(memcmp(got.data + UDP_HEADERS, payload, sizeof(payload)) == 0);
    CHECK_EQ(got.hdr.flags, VNET_F_NEEDS_CSUM); /* a local kernel leaves the checksum to the card */
    CHECK_EQ(got.hdr.csum_start, ETH_HDR_LEN + IPV4_HDR_LEN);
    CHECK_EQ(got.hdr.csum_offset, 6);
    wire_push_udp(&wire, payload, sizeof(payload));
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
    CHECK_EQ(recv(wire.udp, back, sizeof(back), 0), sizeof(payload));
    CHECK(memcmp(back, payload, sizeof(payload)) == 0);
    CHECK_EQ(port->counters->rx_frames, 1);
    CHECK_EQ(port->counters->rx_bytes, UDP_HEADERS + sizeof(payload));
    CHECK_EQ(port->counters->tx_frames, 1);
    CHECK_EQ(port->counters->tx_bytes, UDP_HEADERS + sizeof(payload));
    wire_close(&wire);
}

/* Sends a frame as it is from the client's interface. */
static void inject(const uint8_t *frame, size_t len)
{
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex("cli0")};
    int fd = socket(AF_PACKET, SOCK_RAW, 0);

    CHECK_EQ(sendto(fd, frame, len, 0, (struct sockaddr *)&to, sizeof(to)), len);
    close(fd);
}

static void what_is_not_ours_never_comes(void)
{
    struct packet_wire wire;
    uint8_t frame[60] = {0};

    if (!wire_open(&wire, 1, 1500)) {
        return;
    }
    memcpy(frame, wire.device->mac, 6);
    frame[12] = 0x86; /* IPv6 */
    frame[13] = 0xdd;
    inject(frame, sizeof(frame));
    frame[12] = 0x08; /* IPv4, but another's */
    frame[13] = 0x00;
    frame[5] ^= 1;
    inject(frame, sizeof(frame));
    memset(frame, 0xff, 6); /* ARP to all */
    frame[13] = 0x06;
    inject(frame, sizeof(frame));
    CHECK(wire_receive(&wire.device->ports[0]));
    CHECK_EQ(wire_word(12), ETHERTYPE_ARP);
    CHECK_EQ(wire.device->ports[0].counters->rx_frames, 1);
    wire_close(&wire);
}

/* A bridge has to hear what is for others, and not what it sent itself. */
static void with_every_frame_also_that_comes(void)
{
    struct device_config config = {.rings = 1, .slots = 256, .every_frame = true};
    struct packet_wire wire = {.udp = -1};
    struct port *port;
    uint8_t frame[60] = {0x02, 0, 0, 0, 0, 0x77};

    if (!wire_make(1, 1500) || !wire_open_device(&wire, "packet:srv0", &config)) {
        return;
    }
    port = &wire.device->ports[0];
    CHECK(strstr(wire.device->banner, "promiscuous for every frame") != NULL);
    CHECK(netns_ip("-d link show dev srv0 | grep -q 'promiscuity 1'"));
    frame[12] = 0x86; /* IPv6 to somebody else */
    frame[13] = 0xdd;
    wire_push(port, &(struct vnet_hdr){0}, frame, sizeof(frame));
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
    frame[13] = 0xcc; /* no kind that we know */
    inject(frame, sizeof(frame));
    CHECK(wire_receive(port));
    CHECK_EQ(wire_word(12), 0x86cc);
    CHECK_EQ(port->counters->rx_frames, 1);
    device_close(wire.device);
    CHECK(netns_ip("-d link show dev srv0 | grep -q 'promiscuity 0'"));
    CHECK(netns_ip("link del cli0"));
}

static void super_segments_of_the_kernel_s_tcp_go_both_ways(void)
{
    struct packet_wire wire;

    if (wire_open(&wire, 1, 1500)) {
        wire_tcp_both_ways(&wire);
        wire_close(&wire);
    }
}

static void a_flow_stays_on_its_ring(void)
{
    struct packet_wire wire;
    uint32_t frames[4] = {0};

    if (!wire_open(&wire, 4, 1500)) {
        return;
    }
    for (uint16_t flow = 0; flow < 100; flow++) {
        int fd = wire_client((uint16_t)(41000 + flow));
        int owner = -1;

        for (int k = 0; k < 3; k++) {
            CHECK(send(fd, "x", 1, 0) == 1);
        }
        for (uint32_t ring = 0; ring < 4; ring++) {
            struct port *port = &wire.device->ports[ring];

            CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), 0);
            while (wire_take(port)) {
                CHECK_EQ(wire_word(ETH_HDR_LEN + IPV4_HDR_LEN), 41000 + flow);
                CHECK(owner == -1 || owner == (int)ring);
                owner = (int)ring;
                frames[ring]++;
            }
        }
        close(fd);
    }
    CHECK_EQ(frames[0] + frames[1] + frames[2] + frames[3], 300);
    CHECK(frames[0] > 0 && frames[1] > 0 && frames[2] > 0 && frames[3] > 0);
    wire_close(&wire);
}

/* Without a consumer the ring fills up to its last slot, keeps order, and the rest waits. */
static void slots_come_and_go_only_in_a_sync(void)
{
    struct packet_wire wire;
    struct port *port;
    uint32_t seq = 0;

    if (!wire_open(&wire, 1, 1500)) {
        return;
    }
    port = &wire.device->ports[0];
    for (uint32_t i = 0; i < 400; i++) { /* past the ring's 256 slots, within the kernel's frames */
        CHECK(send(wire.udp, &i, sizeof(i), 0) == sizeof(i));
        if (i % 100 == 99) {
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
    CHECK_EQ(seq + port->counters->rx_missed, 400);
    CHECK_EQ(seq, port->counters->rx_frames);
    CHECK_EQ(port->ops->sleep_arm(port), 0);
    port->ops->sleep_disarm(port);
    wire_close(&wire);
}

static void frames_without_room_are_counted(void)
{
    struct packet_wire wire;
    struct port *port;
    uint32_t seen = 0;

    if (!wire_open(&wire, 1, 1500)) {
        return;
    }
    port = &wire.device->ports[0];
    for (uint32_t i = 0; i < 1000; i++) {
        CHECK(send(wire.udp, &i, sizeof(i), 0) == sizeof(i));
    }
    for (uint32_t round = 0; round < 16; round++) {
        CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), 0);
        while (wire_take(port)) {
            seen++;
        }
    }
    CHECK(send(wire.udp, "x", 1, 0) == 1); /* the next frame carries the news */
    CHECK(wire_receive(port));
    CHECK(port->counters->rx_missed > 0);
    CHECK_EQ(seen + port->counters->rx_missed, 1000);
    wire_close(&wire);
}

static void nonsense_in_a_ring_stops_the_port(void)
{
    struct packet_wire wire;
    struct port *port;

    if (!wire_open(&wire, 1, 1500)) {
        return;
    }
    port = &wire.device->ports[0];
    wire_push_udp(&wire, "x", 1);
    port->tx->slot[0].buf_idx = 1u << 30;
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), -EIO);
    CHECK_EQ(port->counters->errors, 1);
    port->rx->slot[0].buf_idx = 0;
    CHECK(send(wire.udp, "x", 1, 0) == 1);
    CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), -EIO);
    port->rx->head = 256;
    CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), -EIO);
    CHECK_EQ(port->counters->errors, 3);
    wire_close(&wire);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a datagram goes both ways", a_datagram_goes_both_ways},
        {"what is not ours never comes", what_is_not_ours_never_comes},
        {"with every frame, also that comes", with_every_frame_also_that_comes},
        {"super-segments of the kernel's TCP go both ways",
         super_segments_of_the_kernel_s_tcp_go_both_ways},
        {"a flow stays on its ring", a_flow_stays_on_its_ring},
        {"slots come and go only in a sync", slots_come_and_go_only_in_a_sync},
        {"frames without room are counted", frames_without_room_are_counted},
        {"nonsense in a ring stops the port", nonsense_in_a_ring_stops_the_port},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
