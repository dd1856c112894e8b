/* A conversation with the kernel's TCP that uses its offloads; see packet_wire.h. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "packet_wire.h"

/* Sum of the pseudo-header, which the sender of a NEEDS_CSUM frame leaves in the checksum field. */
static uint16_t pseudo_sum(uint32_t l4_len)
{
    uint32_t sum = (ADDR_CLIENT >> 16) + (ADDR_CLIENT & 0xffff) + (ADDR_SERVICE >> 16) +
                   (ADDR_SERVICE & 0xffff) + PROTO_TCP + l4_len;

    sum = (sum & 0xffff) + (sum >> 16);
    return htons((uint16_t)sum);
}

/* A TCP segment from the service, its checksum left to the kernel; with gso a super-segment. */
static void push_tcp(const struct packet_wire *wire, const struct wire_tcp *tcp,
                     const uint8_t *payload, uint32_t len, uint16_t gso_size)
{
    static uint8_t frame[66000];
    struct vnet_hdr hdr = {.flags = VNET_F_NEEDS_CSUM,
                           .gso_type = gso_size ? VNET_GSO_TCPV4 : VNET_GSO_NONE,
                           .hdr_len = TCP_HEADERS_LEN,
                           .gso_size = gso_size,
                           .csum_start = ETH_HDR_LEN + IPV4_HDR_LEN,
                           .csum_offset = offsetof(struct wire_tcp, check)};
    uint8_t *l4 = wire_write_ip(wire, frame, PROTO_TCP, TCP_HDR_LEN + len);
    struct wire_tcp copy = *tcp;

    copy.data_off = TCP_HDR_LEN / 4 << 4;
    copy.window = htons(65535);
    copy.check = pseudo_sum(TCP_HDR_LEN + len);
    memcpy(l4, &copy, sizeof(copy));
    if (len > 0) {
        memcpy(l4 + sizeof(copy), payload, len);
    }
    wire_push(&wire->device->ports[0], &hdr, frame, TCP_HEADERS_LEN + len);
    CHECK_EQ(wire->device->ports[0].ops->tx_sync(&wire->device->ports[0], wire_now_us()), 0);
}

/* Answers the client's SYN; `tcp` is then what the next segment of the service begins with. */
static bool accept_client(const struct packet_wire *wire, struct wire_tcp *tcp)
{
    const uint32_t l4 = ETH_HDR_LEN + IPV4_HDR_LEN;

    if (!CHECK(wire_receive(&wire->device->ports[0])) || !CHECK(got.data[l4 + 13] == TCP_SYN)) {
        return false;
    }
    *tcp = (struct wire_tcp){.src_port = htons(SERVICE_PORT),
                             .dst_port = htons(wire_word(l4)),
                             .seq = htonl(1000),
                             .ack = htonl(wire_long(l4 + 4) + 1),
                             .flags = TCP_SYN | TCP_ACK};
    push_tcp(wire, tcp, NULL, 0, 0);
    tcp->seq = htonl(1001);
    tcp->flags = TCP_ACK;
    return true;
}

/* What the kernel sends of `len` bytes: in order, byte-exact; true if a super-segment was there. */
static bool receive_stream(const struct packet_wire *wire, struct wire_tcp *tcp,
                           const uint8_t *expected, uint32_t len)
{
    const uint32_t start = ntohl(tcp->ack);
    uint32_t done = 0;
    bool super = false;

    while (done < len && CHECK(wire_receive(&wire->device->ports[0]))) {
        uint32_t header = (uint32_t)(got.data[ETH_HDR_LEN + IPV4_HDR_LEN + 12] >> 4) * 4;
        uint32_t data = ETH_HDR_LEN + IPV4_HDR_LEN + header;

        if (got.len == data || wire_long(ETH_HDR_LEN + IPV4_HDR_LEN + 4) != start + done) {
            continue; /* an ACK, or a repetition */
        }
        super |= got.hdr.gso_type == VNET_GSO_TCPV4 && got.hdr.gso_size > 0 && got.slots > 1;
        CHECK(memcmp(got.data + data, expected + done, got.len - data) == 0);
        done += got.len - data;
        tcp->ack = htonl(start + done);
        push_tcp(wire, tcp, NULL, 0, 0);
    }
    return super;
}

/* A poll tells of the first segment; the others may come later. */
static void receive_all(int fd, uint8_t *to, size_t len)
{
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    size_t done = 0;

    while (done < len && CHECK_EQ(poll(&readable, 1, WAIT_MS), 1)) {
        ssize_t got_now = recv(fd, to + done, len - done, 0);

        if (!CHECK(got_now > 0)) {
            return;
        }
        done += (size_t)got_now;
    }
}

void wire_tcp_both_ways(const struct packet_wire *wire)
{
    static uint8_t payload[60000];
    static uint8_t back[30000];
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(SERVICE_PORT),
                             .sin_addr.s_addr = htonl(ADDR_SERVICE)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct wire_tcp tcp;

    CHECK(connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0 && errno == EINPROGRESS);
    if (accept_client(wire, &tcp)) {
        struct pollfd writable = {.fd = fd, .events = POLLOUT};

        wire_fill(payload, sizeof(payload), 3);
        CHECK_EQ(poll(&writable, 1, WAIT_MS), 1);
        CHECK_EQ(write(fd, payload, sizeof(payload)), sizeof(payload));
        CHECK(receive_stream(wire, &tcp, payload, sizeof(payload)));
        tcp.flags = TCP_ACK | TCP_PSH;
        push_tcp(wire, &tcp, payload, sizeof(back), 1460);
        receive_all(fd, back, sizeof(back));
        CHECK(memcmp(back, payload, sizeof(back)) == 0);
    }
    close(fd);
}
