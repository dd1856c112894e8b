/* pcap: libpcap on a veth pair with the kernel as the peer, and a capture file as a source. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/csum.h"
#include "packet_wire.h"

enum {
    FLOWS = 100,
    FILE_FRAMES = 1000,
};

static bool pcap_open(struct packet_wire *wire, uint32_t rings, unsigned mtu)
{
    struct device_config config = {.rings = rings, .slots = 256};

    *wire = (struct packet_wire){.udp = -1};
    if (!wire_has_libpcap() || !wire_make(4, mtu) ||
        !wire_open_device(wire, "pcap:srv0", &config)) {
        return false;
    }
    wire_read_client_mac(wire);
    wire->udp = wire_client(CLIENT_PORT);
    return true;
}

static void a_datagram_goes_both_ways(void)
{
    struct packet_wire wire;
    uint8_t payload[100];
    uint8_t back[200];
    struct port *port;

    if (!pcap_open(&wire, 1, 1500)) {
        return;
    }
    port = &wire.device->ports[0];
    CHECK(strstr(wire.device->banner, "libpcap version 1.") != NULL);
    CHECK_EQ(port->caps, PORT_CAP_VNET_HDR | PORT_CAP_RX_GSO);
    wire_fill(payload, sizeof(payload), 1);
    CHECK(send(wire.udp, payload, sizeof(payload), 0) == sizeof(payload));
    CHECK(wire_receive(port));
    CHECK_EQ(got.len, UDP_HEADERS + sizeof(payload));
    CHECK(memcmp(got.data + UDP_HEADERS, payload, sizeof(payload)) == 0);
    wire_push_udp(&wire, payload, sizeof(payload));
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
    CHECK_EQ(recv(wire.udp, back, sizeof(back), 0), sizeof(payload));
    CHECK(memcmp(back, payload, sizeof(payload)) == 0);
    CHECK_EQ(port->counters->rx_frames, 1);
    CHECK_EQ(port->counters->rx_bytes, UDP_HEADERS + sizeof(payload));
    CHECK_EQ(port->counters->tx_frames, 1);
    CHECK_EQ(port->counters->tx_bytes, UDP_HEADERS + sizeof(payload));
    CHECK_EQ(port->ops->sleep_arm(port), 0); /* what we sent does not come back */
    port->ops->sleep_disarm(port);
    wire_close(&wire);
}

/* A SYN to the service from the client's MAC; its checksum is right, or off by one. */
static void inject_syn(const struct packet_wire *wire, uint16_t off_by)
{
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex("cli0")};
    struct wire_tcp tcp = {.src_port = htons(50000),
                           .dst_port = htons(SERVICE_PORT),
                           .data_off = TCP_HDR_LEN / 4 << 4,
                           .flags = TCP_SYN};
    uint8_t frame[TCP_HEADERS_LEN + 6] = {0};
    uint8_t *l4 = wire_write_ip(wire, frame, PROTO_TCP, TCP_HDR_LEN);
    uint32_t addresses[2];
    int fd = socket(AF_PACKET, SOCK_RAW, 0);

    memcpy(addresses, l4 - sizeof(addresses), sizeof(addresses));
    tcp.check = csum_fold(csum_add(
        &tcp, sizeof(tcp), csum_pseudo(addresses[0], addresses[1], PROTO_TCP, TCP_HDR_LEN)));
    tcp.check = (uint16_t)(tcp.check + off_by);
    memcpy(l4, &tcp, sizeof(tcp));
    memcpy(frame, wire->device->mac, 6);
    CHECK_EQ(sendto(fd, frame, sizeof(frame), 0, (struct sockaddr *)&to, sizeof(to)),
             sizeof(frame));
    close(fd);
}

/* libpcap does not tell; what the kernel left in the checksum's place does. */
static void an_unfinished_checksum_is_recognised(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(SERVICE_PORT),
                             .sin_addr.s_addr = htonl(ADDR_SERVICE)};
    struct packet_wire wire;
    struct port *port;
    int fd;

    if (!pcap_open(&wire, 1, 1500)) {
        return;
    }
    port = &wire.device->ports[0];
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK(connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0 && errno == EINPROGRESS);
    CHECK(wire_receive(port));
    CHECK_EQ(got.hdr.flags, VNET_F_NEEDS_CSUM);
    CHECK_EQ(got.hdr.csum_start, ETH_HDR_LEN + IPV4_HDR_LEN);
    close(fd);
    inject_syn(&wire, 0);
    CHECK(wire_receive(port));
    CHECK_EQ(got.hdr.flags, 0); /* finished: the stack verifies it */
    inject_syn(&wire, 1);
    CHECK(wire_receive(port));
    CHECK_EQ(got.hdr.flags, 0); /* wrong: the stack will see */
    wire_close(&wire);
}

/* Waits until the feeder has brought a frame to some ring; which. */
static int ring_of(const struct packet_wire *wire)
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

static void a_flow_stays_on_its_ring(void)
{
    struct packet_wire wire;
    uint32_t flows[4] = {0};

    if (!pcap_open(&wire, 4, 1500)) {
        return;
    }
    for (uint16_t flow = 0; flow < FLOWS; flow++) {
        int udp = wire_client((uint16_t)(41000 + flow));
        int owner = -1;

        for (int k = 0; k < 3; k++) {
            int ring;

            CHECK(send(udp, "x", 1, 0) == 1);
            ring = ring_of(&wire);
            CHECK(ring >= 0 && (owner == -1 || owner == ring));
            owner = ring;
        }
        flows[owner & 3]++;
        close(udp);
    }
    CHECK(flows[0] && flows[1] && flows[2] && flows[3]);
    wire_close(&wire);
}

static void frames_without_room_are_counted(void)
{
    struct packet_wire wire;
    struct port *port;
    uint32_t seen = 0;
    uint64_t end = wire_now_us() + WAIT_MS * 1000;

    if (!pcap_open(&wire, 1, 1500)) {
        return;
    }
    port = &wire.device->ports[0];
    for (uint32_t i = 0; i < 600; i++) {
        CHECK(send(wire.udp, &i, sizeof(i), 0) == sizeof(i));
    }
    while (port->counters->rx_missed < 600 - 255 && /* by the ring, or by libpcap's before it */
           wire_now_us() < end) {
        usleep(1000);
        CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), 0); /* nothing is taken meanwhile */
    }
    while (wire_take(port)) {
        uint32_t value;

        memcpy(&value, got.data + UDP_HEADERS, sizeof(value));
        CHECK_EQ(value, seen++);
    }
    CHECK_EQ(seen, 255); /* in order, up to the ring's last slot */
    CHECK_EQ(port->counters->rx_missed, 600 - 255);
    CHECK_EQ(port->counters->rx_frames, seen);
    wire_close(&wire);
}

static void nonsense_in_a_ring_stops_the_port(void)
{
    struct packet_wire wire;
    struct port *port;

    if (!pcap_open(&wire, 1, 1500)) {
        return;
    }
    port = &wire.device->ports[0];
    wire_push_udp(&wire, "x", 1);
    port->tx->slot[0].buf_idx = 100000;
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), -EIO);
    port->rx->slot[0].buf_idx = 1;
    CHECK(send(wire.udp, "x", 1, 0) == 1);
    CHECK(!wire_receive(port)); /* the feeder found it; the port says so */
    CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), -EIO);
    CHECK(port->counters->errors >= 2);
    wire_close(&wire);
}

static void a_deleted_interface_ends_the_port(void)
{
    struct packet_wire wire;
    struct port *port;
    uint64_t end;
    int code = 0;

    if (!pcap_open(&wire, 2, 1500)) {
        return;
    }
    port = &wire.device->ports[1];
    CHECK(netns_ip("link del srv0"));
    end = wire_now_us() + WAIT_MS * 1000;
    while (code == 0 && wire_now_us() < end) {
        code = port->ops->rx_sync(port, wire_now_us());
        usleep(1000);
    }
    CHECK_EQ(code, -ENODEV);
    CHECK_EQ(device_event(wire.device), 0); /* and no new feeder for it */
    close(wire.udp);
    device_close(wire.device);
}

static void put32(FILE *file, uint32_t value)
{
    CHECK_EQ(fwrite(&value, sizeof(value), 1, file), 1);
}

/* A classic capture of Ethernet frames: frame i has 60 + i bytes, filled by seed i. */
static void write_capture(const char *path)
{
    static uint8_t bytes[60 + FILE_FRAMES];
    FILE *file = fopen(path, "w");

    put32(file, 0xa1b2c3d4);
    put32(file, 2 | 4 << 16);
    put32(file, 0);
    put32(file, 0);
    put32(file, 65535);
    put32(file, 1);
    for (uint32_t i = 0; i < FILE_FRAMES; i++) {
        uint32_t len = 60 + i;

        wire_fill(bytes, len, i);
        put32(file, i);
        put32(file, 0);
        put32(file, len);
        put32(file, len);
        CHECK_EQ(fwrite(bytes, len, 1, file), 1);
    }
    CHECK_EQ(fclose(file), 0);
}

static void read_capture(struct device *device)
{
    static uint8_t expected[60 + FILE_FRAMES];
    struct port *port = &device->ports[0];

    for (uint32_t i = 0; i < FILE_FRAMES; i++) {
        if (!CHECK(wire_receive(port))) {
            return;
        }
        wire_fill(expected, 60 + i, i);
        CHECK_EQ(got.len, 60 + i);
        CHECK(memcmp(got.data, expected, got.len) == 0);
    }
}

static void a_file_is_replayed_to_its_end(void)
{
    char spec[PORT_NAME_MAX];
    char path[] = "/tmp/sspcapXXXXXX";
    struct device_config config = {.rings = 1, .slots = 128};
    struct packet_wire wire = {.udp = -1};
    struct port *port;
    uint64_t end;
    int fd;

    if (!wire_has_libpcap()) {
        return;
    }
    fd = mkstemp(path);
    close(fd);
    write_capture(path);
    snprintf(spec, sizeof(spec), "pcap:%s", path);
    if (wire_open_device(&wire, spec, &config)) {
        port = &wire.device->ports[0];
        read_capture(wire.device);
        end = wire_now_us() + WAIT_MS * 1000;
        while (port->counters->rx_ended == 0 && wire_now_us() < end) {
            CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), 0);
        }
        CHECK_EQ(port->counters->rx_ended, 1);
        CHECK_EQ(port->counters->rx_frames, FILE_FRAMES);
        CHECK_EQ(port->counters->rx_missed, 0);
        wire_push_udp(&wire, "x", 1);
        CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
        CHECK_EQ(port->counters->tx_dropped, 1);
        CHECK_EQ(port->counters->tx_frames, 0);
        CHECK_EQ(device_event(wire.device), 0);
        CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), 0); /* ended is not broken */
        device_close(wire.device);
    }
    unlink(path);
}

/* Three frames, the second of which the capture holds a part of; then so many stray bytes. */
static void write_damaged(const char *path, uint32_t stray)
{
    static const uint32_t lens[3][2] = {{60, 60}, {60, 1500}, {61, 61}};
    static const uint8_t bytes[64];
    FILE *file = fopen(path, "w");

    put32(file, 0xa1b2c3d4);
    put32(file, 2 | 4 << 16);
    put32(file, 0);
    put32(file, 0);
    put32(file, 65535);
    put32(file, 1);
    for (uint32_t i = 0; i < 3; i++) {
        put32(file, i);
        put32(file, 0);
        put32(file, lens[i][0]);
        put32(file, lens[i][1]);
        CHECK_EQ(fwrite(bytes, lens[i][0], 1, file), 1);
    }
    CHECK_EQ(fwrite(bytes, 1, stray, file), stray);
    CHECK_EQ(fclose(file), 0);
}

/* Reads until the port has ended or stopped; its last code. */
static int read_damaged(const char *path, struct port_counters *counters)
{
    struct device_config config = {.rings = 1, .slots = 128};
    struct packet_wire wire = {.udp = -1};
    uint64_t end = wire_now_us() + WAIT_MS * 1000;
    char spec[PORT_NAME_MAX];
    struct port *port;
    int code = 0;

    snprintf(spec, sizeof(spec), "pcap:%s", path);
    if (!wire_open_device(&wire, spec, &config)) {
        return 0;
    }
    port = &wire.device->ports[0];
    while (code == 0 && port->counters->rx_ended == 0 && wire_now_us() < end) {
        code = port->ops->rx_sync(port, wire_now_us());
        nm_ring_give(port->rx, nm_ring_tail(port->rx));
    }
    *counters = *port->counters;
    device_close(wire.device);
    return code;
}

static void a_file_that_is_cut_short_stops_the_port(void)
{
    char path[] = "/tmp/sspcapXXXXXX";
    struct port_counters counters = {0};
    int fd;

    if (!wire_has_libpcap()) {
        return;
    }
    fd = mkstemp(path);
    close(fd);
    write_damaged(path, 0);
    CHECK_EQ(read_damaged(path, &counters), 0);
    CHECK_EQ(counters.rx_ended, 1);
    CHECK_EQ(counters.rx_frames, 2);
    CHECK_EQ(counters.rx_missed, 1); /* of which the capture holds a part */
    CHECK_EQ(counters.errors, 0);
    write_damaged(path, 7); /* half a record's header */
    CHECK_EQ(read_damaged(path, &counters), -EIO);
    CHECK_EQ(counters.rx_ended, 0);
    CHECK_EQ(counters.rx_frames, 2);
    CHECK_EQ(counters.errors, 1);
    unlink(path);
}

static void refused(const char *spec, int code, const char *words)
{
    struct device_config config = {.rings = 2};
    struct device *device = NULL;
    char error[PORT_ERROR_MAX] = "";

    if (!CHECK_EQ(device_open(&device, spec, &config, error), code) ||
        !CHECK(strstr(error, words) != NULL) || !CHECK(strncmp(error, spec, strlen(spec)) == 0)) {
        printf("    %s\n", error);
    }
}

static void nobody_writes_to_a_fifo(void)
{
    char path[] = "/tmp/sspcapXXXXXX";
    char spec[sizeof(path) + 5];
    int fd = mkstemp(path);

    CHECK(fd >= 0 && close(fd) == 0 && unlink(path) == 0 && mkfifo(path, 0600) == 0);
    snprintf(spec, sizeof(spec), "pcap:%s", path);
    refused(spec, -ENXIO, "start the writer first");
    unlink(path);
}

static void what_cannot_be_opened_is_explained(void)
{
    struct packet_wire wire;

    if (!pcap_open(&wire, 1, 1500)) {
        return;
    }
    refused("pcap:srv0", -EBUSY, "another server");
    refused("pcap:nosuch0", -ENODEV, "ip link");
    refused("pcap:/nosuch.pcap", -EINVAL, "pcapng");
    refused("pcap:/proc/version", -EINVAL, "pcapng");
    nobody_writes_to_a_fifo();
    CHECK(netns_ip("link set cli0 down"));
    refused("pcap:cli0", -ENETDOWN, "ip link set");
    wire_close(&wire);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a datagram goes both ways", a_datagram_goes_both_ways},
        {"an unfinished checksum is recognised", an_unfinished_checksum_is_recognised},
        {"a flow stays on its ring", a_flow_stays_on_its_ring},
        {"frames without room are counted", frames_without_room_are_counted},
        {"nonsense in a ring stops the port", nonsense_in_a_ring_stops_the_port},
        {"a deleted interface ends the port", a_deleted_interface_ends_the_port},
        {"a file is replayed to its end", a_file_is_replayed_to_its_end},
        {"a file that is cut short stops the port", a_file_that_is_cut_short_stops_the_port},
        {"what cannot be opened is explained", what_cannot_be_opened_is_explained},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
