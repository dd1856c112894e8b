/* tap: traffic between our rings and the host's kernel, and what may be wrong with an interface. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "packet_wire.h"

enum {
    FLOWS = 100,
};

static bool tap_usable(void)
{
    int fd;

    if (!wire_enter()) {
        return false;
    }
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        check_skip("/dev/net/tun cannot be opened here");
        return false;
    }
    close(fd);
    return true;
}

static bool tap_open(struct packet_wire *wire, uint32_t rings, uint32_t mtu)
{
    struct device_config config = {.rings = rings, .slots = 256, .mtu = mtu};

    return tap_usable() && wire_open_host(wire, "tap:cli0", &config);
}

static void a_datagram_goes_both_ways(void)
{
    struct packet_wire wire;
    uint8_t payload[100];
    uint8_t back[200];
    struct port *port;

    if (!tap_open(&wire, 1, 0)) {
        return;
    }
    port = &wire.device->ports[0];
    CHECK_EQ(wire.device->mtu, 1500);
    CHECK(memcmp(wire.device->mac, wire.client_mac, 6) != 0);
    wire_fill(payload, sizeof(payload), 1);
    CHECK(send(wire.udp, payload, sizeof(payload), 0) == sizeof(payload));
    CHECK(wire_receive(port));
    CHECK_EQ(got.len, UDP_HEADERS + sizeof(payload));
    CHECK(memcmp(got.data, wire.device->mac, 6) == 0);
    CHECK(memcmp(got.data + UDP_HEADERS, payload, sizeof(payload)) == 0);
    CHECK_EQ(got.hdr.flags, VNET_F_NEEDS_CSUM); /* the kernel leaves the checksum to the card */
    CHECK_EQ(got.hdr.csum_start, ETH_HDR_LEN + IPV4_HDR_LEN);
    wire_push_udp(&wire, payload, sizeof(payload));
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
    CHECK_EQ(recv(wire.udp, back, sizeof(back), 0), sizeof(payload));
    CHECK(memcmp(back, payload, sizeof(payload)) == 0);
    CHECK_EQ(port->counters->rx_frames, 1);
    CHECK_EQ(port->counters->rx_bytes, UDP_HEADERS + sizeof(payload));
    CHECK_EQ(port->counters->tx_frames, 1);
    CHECK_EQ(port->counters->tx_bytes, UDP_HEADERS + sizeof(payload));
    wire_close_host(&wire);
    CHECK_EQ(if_nametoindex("cli0"), 0); /* made by us, and gone with us */
}

static void super_segments_of_the_kernel_s_tcp_go_both_ways(void)
{
    struct packet_wire wire;

    if (tap_open(&wire, 1, 0)) {
        wire_tcp_both_ways(&wire);
        wire_close_host(&wire);
    }
}

/* Says something on a flow and returns the ring where it came. */
static int ring_of(const struct packet_wire *wire, int udp)
{
    CHECK(send(udp, "x", 1, 0) == 1);
    for (uint32_t ring = 0; ring < wire->device->rings; ring++) {
        struct port *port = &wire->device->ports[ring];

        CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), 0);
        if (wire_take(port)) {
            CHECK(!wire_take(port));
            return (int)ring;
        }
    }
    return -1;
}

/* Answers the frame in `got` on a ring: the kernel then knows the flow by that queue. */
static void answer_on(const struct packet_wire *wire, uint32_t ring)
{
    struct port *port = &wire->device->ports[ring];
    uint16_t client = htons(wire_word(ETH_HDR_LEN + IPV4_HDR_LEN));
    uint16_t udp[4] = {htons(SERVICE_PORT), client, htons(UDP_HDR + 1), 0};
    uint8_t frame[UDP_HEADERS + 1] = {0};
    struct vnet_hdr hdr = {0};
    uint8_t *l4 = wire_write_ip(wire, frame, PROTO_UDP, UDP_HDR + 1);

    memcpy(l4, udp, sizeof(udp));
    wire_push(port, &hdr, frame, sizeof(frame));
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
}

static void a_flow_comes_where_it_was_answered(void)
{
    struct packet_wire wire;
    uint32_t first_seen[4] = {0};

    if (!tap_open(&wire, 4, 0)) {
        return;
    }
    for (uint16_t flow = 0; flow < FLOWS; flow++) {
        int udp = wire_client((uint16_t)(41000 + flow));
        int first = ring_of(&wire, udp);

        CHECK(first >= 0);
        first_seen[first]++;
        CHECK_EQ(ring_of(&wire, udp), first);
        for (uint32_t k = 0; k < 4; k++) {
            uint32_t ring = (flow + k) % 4;

            answer_on(&wire, ring);
            CHECK_EQ(ring_of(&wire, udp), ring);
        }
        close(udp);
    }
    CHECK(first_seen[0] && first_seen[1] && first_seen[2] && first_seen[3]);
    wire_close_host(&wire);
}

/* Waits until the feeder has brought a frame to some ring; which. */
static int fed_ring_of(const struct packet_wire *wire)
{
    uint64_t end = wire_now_us() + WAIT_MS * 1000;

    while (wire_now_us() < end) {
        for (uint32_t ring = 0; ring < wire->device->rings; ring++) {
            struct port *port = &wire->device->ports[ring];

            CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), 0);
            if (wire_take(port)) {
                return (int)ring;
            }
        }
        usleep(50);
    }
    return -1;
}

static void a_tap_of_one_queue_feeds_four_rings(void)
{
    struct device_config config = {.rings = 4, .slots = 256};
    struct packet_wire wire;
    uint32_t flows[4] = {0};
    char back;

    if (!tap_usable() || !CHECK(netns_ip("tuntap add dev cli0 mode tap")) ||
        !CHECK(netns_ip("link set cli0 up")) || !wire_open_host(&wire, "tap:cli0", &config)) {
        return;
    }
    CHECK(strstr(wire.device->banner, "one queue") != NULL);
    for (uint16_t flow = 0; flow < FLOWS; flow++) {
        int udp = wire_client((uint16_t)(41000 + flow));
        int first = -1;

        for (int k = 0; k < 3; k++) {
            int ring;

            CHECK(send(udp, "x", 1, 0) == 1);
            ring = fed_ring_of(&wire);
            CHECK(ring >= 0 && (first == -1 || ring == first));
            first = ring;
        }
        flows[first & 3]++;
        answer_on(&wire, (uint32_t)first & 3);
        CHECK_EQ(recv(udp, &back, 1, 0), 1);
        close(udp);
    }
    CHECK(flows[0] && flows[1] && flows[2] && flows[3]);
    wire_close_host(&wire);
    CHECK(if_nametoindex("cli0") != 0); /* another's: it stays */
    netns_ip("link del cli0");
}

static void refused(const char *spec, int code, const char *words)
{
    struct device_config config = {.rings = 2};
    struct device *device = NULL;
    char error[PORT_ERROR_MAX] = "";

    if (!CHECK_EQ(device_open(&device, spec, &config, error), code)) {
        printf("    %s\n", error);
        return;
    }
    if (!CHECK(strstr(error, words) != NULL) || !CHECK(strncmp(error, spec, strlen(spec)) == 0)) {
        printf("    %s\n", error);
    }
}

static void what_cannot_be_opened_is_explained(void)
{
    int other;
    struct ifreq ifr = {.ifr_name = "cli0", .ifr_flags = IFF_TAP | IFF_NO_PI};

    if (!tap_usable()) {
        return;
    }
    CHECK(netns_veth("cli0", "srv0", 1, 1500));
    refused("tap:cli0", -EEXIST, "no TAP");
    CHECK(netns_ip("link del cli0"));
    refused("tap:a-name-far-too-long", -EINVAL, "at most 15");
    refused("tap:tap%d", -EINVAL, "no %");
    CHECK(netns_ip("tuntap add dev cli0 mode tap multi_queue"));
    refused("tap:cli0", -ENETDOWN, "ip link set");
    CHECK(netns_ip("link del cli0"));
    other = open("/dev/net/tun", O_RDWR | O_CLOEXEC); /* somebody else has its only queue */
    CHECK_EQ(ioctl(other, TUNSETIFF, &ifr), 0);
    CHECK(netns_ip("link set cli0 up"));
    refused("tap:cli0", -EBUSY, "another process");
    close(other);
    CHECK_EQ(if_nametoindex("cli0"), 0);
}

static void two_servers_do_not_share_an_interface(void)
{
    struct packet_wire wire;

    if (tap_open(&wire, 1, 0)) {
        refused("tap:cli0", -EBUSY, "another server");
        wire_close_host(&wire);
    }
}

static void a_deleted_interface_ends_the_port(void)
{
    struct packet_wire wire;
    struct port *port;

    if (!tap_open(&wire, 2, 0)) {
        return;
    }
    port = &wire.device->ports[1];
    CHECK(netns_ip("link del cli0"));
    CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), -ENODEV);
    CHECK_EQ(port->ops->sleep_arm(port), 1);
    CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), -ENODEV);
    wire_close_host(&wire);
}

static void nonsense_in_a_ring_stops_the_port(void)
{
    struct packet_wire wire;
    struct port *port;

    if (!tap_open(&wire, 1, 0)) {
        return;
    }
    port = &wire.device->ports[0];
    wire_push_udp(&wire, "x", 1);
    port->tx->slot[0].buf_idx = 100000;
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), -EIO);
    port->tx->slot[0].buf_idx = NM_BUF_FIRST;
    port->tx->slot[0].len = 2049;
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), -EIO);
    port->rx->slot[3].buf_idx = 1;
    CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), -EIO);
    port->rx->head = 256;
    CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), -EIO);
    CHECK_EQ(port->counters->errors, 4);
    wire_close_host(&wire);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a datagram goes both ways", a_datagram_goes_both_ways},
        {"super-segments of the kernel's TCP go both ways",
         super_segments_of_the_kernel_s_tcp_go_both_ways},
        {"a flow comes where it was answered", a_flow_comes_where_it_was_answered},
        {"a TAP of one queue feeds four rings", a_tap_of_one_queue_feeds_four_rings},
        {"what cannot be opened is explained", what_cannot_be_opened_is_explained},
        {"two servers do not share an interface", two_servers_do_not_share_an_interface},
        {"a deleted interface ends the port", a_deleted_interface_ends_the_port},
        {"nonsense in a ring stops the port", nonsense_in_a_ring_stops_the_port},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
