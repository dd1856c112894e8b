/* A real wire for the tests of packet:; see packet_wire.h. */
#include "packet_wire.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct whole_frame got;

uint64_t wire_now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

bool wire_enter(void)
{
    const char *why = NULL;

    if (!netns_enter(&why)) {
        check_skip(why);
        return false;
    }
    return true;
}

int wire_client(uint16_t local_port)
{
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_port = htons(local_port)};
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(SERVICE_PORT),
                             .sin_addr.s_addr = htonl(ADDR_SERVICE)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    CHECK(bind(fd, (struct sockaddr *)&from, sizeof(from)) == 0);
    CHECK(connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0);
    return fd;
}

static void read_mac(const char *iface, uint8_t mac[6])
{
    char error[PORT_ERROR_MAX];
    struct packet_link link;

    CHECK_EQ(packet_link_find(&link, iface, error), 0);
    memcpy(mac, link.mac, 6);
}

void wire_read_client_mac(struct packet_wire *wire)
{
    read_mac("cli0", wire->client_mac);
}

bool wire_resolve(const uint8_t mac[6])
{
    return netns_ip("neigh replace 10.9.0.2 dev cli0 lladdr %02x:%02x:%02x:%02x:%02x:%02x", mac[0],
                    mac[1], mac[2], mac[3], mac[4], mac[5]);
}

/* Addresses on the client's side only, and its neighbour entry: the service needs no ARP. */
bool wire_make(unsigned queues, unsigned mtu)
{
    uint8_t mac[6];

    if (!wire_enter() || !CHECK(netns_veth("cli0", "srv0", queues, mtu))) {
        return false;
    }
    read_mac("srv0", mac);
    return CHECK(netns_ip("addr add 10.9.0.1/24 dev cli0")) && CHECK(wire_resolve(mac));
}

bool wire_open_device(struct packet_wire *wire, const char *spec,
                      const struct device_config *config)
{
    if (device_open(&wire->device, spec, config, wire->error) == 0) {
        return true;
    }
    printf("    %s\n", wire->error);
    return CHECK(!"device_open");
}

bool wire_open(struct packet_wire *wire, unsigned rings, unsigned mtu)
{
    struct device_config config = {.rings = rings, .slots = 256};

    *wire = (struct packet_wire){.udp = -1};
    if (!wire_make(4, mtu) || !wire_open_device(wire, "packet:srv0", &config)) {
        return false;
    }
    read_mac("cli0", wire->client_mac);
    wire->udp = wire_client(CLIENT_PORT);
    return true;
}

bool wire_open_host(struct packet_wire *wire, const char *spec, const struct device_config *config)
{
    *wire = (struct packet_wire){.udp = -1};
    if (!wire_open_device(wire, spec, config) ||
        !CHECK(netns_ip("addr add 10.9.0.1/24 dev cli0")) ||
        !CHECK(wire_resolve(wire->device->mac))) {
        return false;
    }
    read_mac("cli0", wire->client_mac);
    wire->udp = wire_client(CLIENT_PORT);
    return true;
}

void wire_close_host(struct packet_wire *wire)
{
    close(wire->udp);
    device_close(wire->device);
}

void wire_close(struct packet_wire *wire)
{
    close(wire->udp);
    device_close(wire->device);
    netns_ip("link del cli0");
}

bool wire_take(struct port *port)
{
    struct nm_ring *ring = port->rx;
    uint32_t at = ring->head;
    uint32_t tail = nm_ring_tail(ring);
    uint32_t used = 0;
    bool more = at != tail;
    static uint8_t bytes[sizeof(got.data) + PORT_VNET_HDR_LEN];

    got.slots = 0;
    if (!more) {
        return false;
    }
    while (more && CHECK(at != tail)) {
        memcpy(bytes + used, nm_ring_buf(ring, at), ring->slot[at].len);
        used += ring->slot[at].len;
        more = ring->slot[at].flags & NM_MOREFRAG;
        at = nm_ring_next(ring, at);
        got.slots++;
    }
    nm_ring_give(ring, at);
    CHECK(used >= PORT_VNET_HDR_LEN + ETH_HDR_LEN);
    got.len = used - PORT_VNET_HDR_LEN;
    memcpy(&got.hdr, bytes, sizeof(got.hdr));
    memcpy(got.data, bytes + PORT_VNET_HDR_LEN, got.len);
    return true;
}

bool wire_receive(struct port *port)
{
    uint64_t end = wire_now_us() + WAIT_MS * 1000;

    while (wire_now_us() < end) {
        if (port->ops->rx_sync(port, wire_now_us()) != 0) {
            return false;
        }
        if (wire_take(port)) {
            return true;
        }
        if (port->ops->sleep_arm(port) == 0) {
            struct pollfd fd = {.fd = port->wait_fd, .events = POLLIN};

            poll(&fd, 1, 100);
        }
        port->ops->sleep_disarm(port);
    }
    return false;
}

bool wire_datagram(const struct packet_wire *wire, void *bytes, size_t len, bool due)
{
    struct pollfd fd = {.fd = wire->udp, .events = POLLIN};

    return poll(&fd, 1, due ? WAIT_MS : 0) == 1 && recv(wire->udp, bytes, len, MSG_DONTWAIT) > 0;
}

uint16_t wire_word(uint32_t offset)
{
    return (uint16_t)(got.data[offset] << 8 | got.data[offset + 1]);
}

uint32_t wire_long(uint32_t offset)
{
    return (uint32_t)wire_word(offset) << 16 | wire_word(offset + 2);
}

void wire_fill(uint8_t *bytes, uint32_t len, uint32_t seed)
{
    for (uint32_t i = 0; i < len; i++) {
        bytes[i] = (uint8_t)((i + seed) * 2654435761u >> 13);
    }
}

static uint16_t ip_checksum(const void *bytes)
{
    const uint8_t *at = bytes;
    uint32_t sum = 0;

    for (int i = 0; i < IPV4_HDR_LEN; i += 2) {
        sum += (uint32_t)at[i] << 8 | at[i + 1];
    }
    sum = (sum & 0xffff) + (sum >> 16);
    return htons((uint16_t)~((sum & 0xffff) + (sum >> 16)));
}

uint8_t *wire_write_ip(const struct packet_wire *wire, uint8_t *buf, uint8_t protocol,
                       uint32_t l4_len)
{
    struct wire_eth eth = {.type = htons(ETHERTYPE_IPV4)};
    struct wire_ipv4 ip = {.version_ihl = 0x45,
                           .total_len = htons((uint16_t)(IPV4_HDR_LEN + l4_len)),
                           .ttl = 64,
                           .protocol = protocol,
                           .src = htonl(ADDR_SERVICE),
                           .dst = htonl(ADDR_CLIENT)};

    memcpy(eth.dst, wire->client_mac, 6);
    memcpy(eth.src, wire->device->mac, 6);
    ip.check = ip_checksum(&ip);
    memcpy(buf, &eth, sizeof(eth));
    memcpy(buf + sizeof(eth), &ip, sizeof(ip));
    return buf + sizeof(eth) + sizeof(ip);
}

void wire_push(struct port *port, const struct vnet_hdr *hdr, const uint8_t *frame, uint32_t len)
{
    static uint8_t bytes[70000];
    struct nm_ring *ring = port->tx;
    uint32_t at = ring->head;
    uint32_t total = len + PORT_VNET_HDR_LEN;
    uint32_t part;

    memcpy(bytes, hdr, sizeof(*hdr));
    memcpy(bytes + sizeof(*hdr), frame, len);
    for (uint32_t done = 0; done < total; done += part) {
        part = min_u32(total - done, ring->nr_buf_size);
        CHECK(at != nm_ring_tail(ring));
        memcpy(nm_ring_buf(ring, at), bytes + done, part);
        ring->slot[at].len = (uint16_t)part;
        ring->slot[at].flags = done + part < total ? NM_MOREFRAG : 0;
        at = nm_ring_next(ring, at);
    }
    nm_ring_give(ring, at);
}

void wire_push_udp(const struct packet_wire *wire, const void *payload, uint32_t len)
{
    static uint8_t frame[JUMBO + UDP_HEADERS];
    struct vnet_hdr hdr = {0};
    uint16_t udp[4] = {htons(SERVICE_PORT), htons(CLIENT_PORT), htons((uint16_t)(UDP_HDR + len)),
                       0};
    uint8_t *l4 = wire_write_ip(wire, frame, PROTO_UDP, UDP_HDR + len);

    memcpy(l4, udp, sizeof(udp));
    memcpy(l4 + UDP_HDR, payload, len);
    wire_push(&wire->device->ports[0], &hdr, frame, UDP_HEADERS + len);
}

bool wire_has_libpcap(void)
{
    void *object = dlopen("libpcap.so.0.8", RTLD_NOW);

    if (!object) {
        check_skip("libpcap is missing (package libpcap0.8)");
        return false;
    }
    dlclose(object);
    return true;
}
