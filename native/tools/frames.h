/* Reading and building the tools' frames: Ethernet, IPv4, UDP. */
#pragma once
#include "api.h"
#include "base/compiler.h"
#include "base/wire.h"

enum {
    UDP_HDR_LEN = 8,
    UDP_HEADERS_LEN = ETH_HDR_LEN + IPV4_HDR_LEN + UDP_HDR_LEN, /* 42 */
    FRAME_SIZE_MIN = 60,
    PING_MAGIC = 0x73685069, /* "shPi" */
};

struct wire_udp {
    uint16_t src_port;
    uint16_t dst_port;
    uint16_t len;
    uint16_t check;
} __attribute__((packed));

_Static_assert(sizeof(struct wire_udp) == UDP_HDR_LEN, "UDP header");

/* ping's payload, in the sender's own byte order: only the sender reads it back. */
struct ping_payload {
    uint32_t magic;
    uint32_t seq;
    uint64_t sent_ns;
} __attribute__((packed));

/* An unfragmented IPv4 UDP datagram to this port, 0 for any. */
bool frame_is_udp(const uint8_t *frame, uint32_t len, uint32_t udp_port);
/* Equal for both directions of a flow: addresses, and ports of unfragmented TCP and UDP. */
uint64_t frame_symmetric_hash(const uint8_t *frame, uint32_t len);
/* Swaps MAC addresses, IP addresses and UDP ports: the answer goes back. frame_is_udp holds. */
void frame_turn_back(uint8_t *frame);
/* A UDP frame of `size` bytes with checksums for the first addresses of the options' ranges. */
void frame_build(uint8_t *frame, const struct ss_tool_options *options, const uint8_t *src_mac,
                 const uint8_t *dst_mac);
/* Completes a checksum that was left partial; `start` and `offset` as in a virtio-net header. */
bool frame_complete_csum(uint8_t *frame, uint32_t len, uint32_t start, uint32_t offset);
