/* Header layouts as they are on the wire; multi-byte fields are in network order. */
#pragma once
#include <stdint.h>
#include <string.h>

/* Loads from any address, in the machine's order. */
static inline uint16_t load_u16(const void *at)
{
    uint16_t value;

    memcpy(&value, at, sizeof(value));
    return value;
}

static inline uint32_t load_u32(const void *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof(value));
    return value;
}

static inline uint64_t load_u64(const void *at)
{
    uint64_t value;

    memcpy(&value, at, sizeof(value));
    return value;
}

static inline void store_u16(void *at, uint16_t value)
{
    memcpy(at, &value, sizeof(value));
}

static inline void store_u32(void *at, uint32_t value)
{
    memcpy(at, &value, sizeof(value));
}

enum {
    ETH_ALEN_BYTES = 6,
    ETH_HDR_LEN = 14,
    ARP_LEN = 28,
    IPV4_HDR_LEN = 20,
    TCP_HDR_LEN = 20,
    ICMP_HDR_LEN = 8,
    TCP_HEADERS_LEN = ETH_HDR_LEN + IPV4_HDR_LEN + TCP_HDR_LEN, /* 54 */
    ETHERTYPE_IPV4 = 0x0800,
    ETHERTYPE_ARP = 0x0806,
    PROTO_ICMP = 1,
    PROTO_TCP = 6,
    PROTO_UDP = 17,
};

struct wire_eth {
    uint8_t dst[6];
    uint8_t src[6];
    uint16_t type;
} __attribute__((packed));

struct wire_arp {
    uint16_t htype;
    uint16_t ptype;
    uint8_t hlen;
    uint8_t plen;
    uint16_t oper;
    uint8_t sha[6];
    uint32_t spa;
    uint8_t tha[6];
    uint32_t tpa;
} __attribute__((packed));

struct wire_ipv4 {
    uint8_t version_ihl;
    uint8_t tos;
    uint16_t total_len;
    uint16_t id;
    uint16_t frag_off;
    uint8_t ttl;
    uint8_t protocol;
    uint16_t check;
    uint32_t src;
    uint32_t dst;
} __attribute__((packed));

struct wire_icmp {
    uint8_t type;
    uint8_t code;
    uint16_t check;
    uint16_t id;
    uint16_t seq;
} __attribute__((packed));

struct wire_tcp {
    uint16_t src_port;
    uint16_t dst_port;
    uint32_t seq;
    uint32_t ack;
    uint8_t data_off; /* high nibble: header length in 32-bit words */
    uint8_t flags;
    uint16_t window;
    uint16_t check;
    uint16_t urgent;
} __attribute__((packed));

enum tcp_flag {
    TCP_FIN = 1,
    TCP_SYN = 2,
    TCP_RST = 4,
    TCP_PSH = 8,
    TCP_ACK = 16,
    TCP_URG = 32,
};

_Static_assert(sizeof(struct wire_eth) == ETH_HDR_LEN, "Ethernet header");
_Static_assert(sizeof(struct wire_arp) == ARP_LEN, "ARP for IPv4 over Ethernet");
_Static_assert(sizeof(struct wire_ipv4) == IPV4_HDR_LEN, "IPv4 header without options");
_Static_assert(sizeof(struct wire_icmp) == ICMP_HDR_LEN, "ICMP echo header");
_Static_assert(sizeof(struct wire_tcp) == TCP_HDR_LEN, "TCP header without options");
