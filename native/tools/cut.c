/*
 * What a card does with TSO, in software; see cut.h. Each segment has the super-segment's headers:
 * its own length, IPv4 identification, sequence number and checksums; FIN and PSH stay with the
 * last one, CWR with the first (RFC 3168 section 6.1.2).
 */
#include "tools/cut.h"

#include <arpa/inet.h>
#include <stddef.h>
#include <string.h>

#include "base/csum.h"
#include "base/wire.h"

enum {
    ETHERTYPE_TAG = 0x8100,
    ETHERTYPE_SERVICE_TAG = 0x88a8,
    ETHERTYPE_IPV6 = 0x86dd,
    TAG_LEN = 4,
    TAGS_MAX = 2,
    IPV6_HDR_LEN = 40,
    IPV6_ADDRESSES = 8, /* source and destination, 32 bytes from here on */
    UDP_HDR = 8,
    FRAG_MASK = 0x3fff, /* more fragments, or an offset */
    TCP_CWR = 0x80,
};

static uint16_t read_u16(const uint8_t *at)
{
    return ntohs(load_u16(at));
}

/* Where IP begins; 0: something else. */
static uint32_t find_network(struct cut *cut)
{
    uint32_t at = ETH_HDR_LEN;

    for (uint32_t tags = 0; at <= cut->len; tags++) {
        uint16_t type = read_u16(cut->frame + at - 2);

        if (type == ETHERTYPE_IPV4 || type == ETHERTYPE_IPV6) {
            cut->v6 = type == ETHERTYPE_IPV6;
            return at;
        }
        if (tags == TAGS_MAX || (type != ETHERTYPE_TAG && type != ETHERTYPE_SERVICE_TAG)) {
            return 0;
        }
        at += TAG_LEN;
    }
    return 0;
}

/* Bytes of the IP header, if nothing stands between it and TCP or UDP; else 0. */
static uint32_t ip_header(struct cut *cut)
{
    const uint8_t *ip = cut->frame + cut->network;
    uint32_t left = cut->len - cut->network;
    uint32_t header;

    if (cut->v6) {
        cut->proto = left >= IPV6_HDR_LEN ? ip[6] : 0;
        return left >= IPV6_HDR_LEN && ip[0] >> 4 == 6 ? IPV6_HDR_LEN : 0;
    }
    if (left < IPV4_HDR_LEN || ip[0] >> 4 != 4 || (read_u16(ip + 6) & FRAG_MASK)) {
        return 0;
    }
    header = (uint32_t)(ip[0] & 15) * 4;
    cut->proto = ip[9];
    return header >= IPV4_HDR_LEN && header <= left ? header : 0;
}

/* Bytes of the TCP or UDP header; 0: another protocol, or too short. */
static uint32_t transport_header(const struct cut *cut)
{
    const uint8_t *at = cut->frame + cut->transport;
    uint32_t left = cut->len - cut->transport;
    uint32_t header;

    if (cut->proto == PROTO_UDP) {
        return left >= UDP_HDR ? UDP_HDR : 0;
    }
    if (cut->proto != PROTO_TCP || left < TCP_HDR_LEN) {
        return 0;
    }
    header = (uint32_t)(at[12] >> 4) * 4;
    return header >= TCP_HDR_LEN && header <= left ? header : 0;
}

static bool parse(struct cut *cut)
{
    uint32_t bytes;

    cut->network = find_network(cut);
    if (cut->network == 0) {
        return false;
    }
    bytes = ip_header(cut);
    cut->transport = cut->network + bytes;
    if (bytes == 0) {
        return false;
    }
    bytes = transport_header(cut);
    cut->headers = cut->transport + bytes;
    return bytes != 0 && cut->headers <= CUT_HEADERS_MAX;
}

/* The kind that the header names is the kind that the frame is. */
static bool agrees(const struct cut *cut, const struct vnet_hdr *hdr)
{
    switch (hdr->gso_type & ~VNET_GSO_ECN) {
    case VNET_GSO_NONE:
        return cut->proto == PROTO_TCP;
    case VNET_GSO_TCPV4:
        return cut->proto == PROTO_TCP && !cut->v6;
    case VNET_GSO_TCPV6:
        return cut->proto == PROTO_TCP && cut->v6;
    case VNET_GSO_UDP_L4:
        return cut->proto == PROTO_UDP;
    default:
        return false;
    }
}

bool cut_init(struct cut *cut, const struct vnet_hdr *hdr, const uint8_t *frame, uint32_t len,
              uint32_t mtu)
{
    uint32_t most;

    *cut = (struct cut){.frame = frame, .len = len};
    if (len < ETH_HDR_LEN || !parse(cut) || !agrees(cut, hdr)) {
        return false;
    }
    most = mtu ? mtu - min_u32(mtu, cut->headers - cut->network) : UINT16_MAX;
    cut->size = hdr->gso_type == VNET_GSO_NONE ? most : min_u32(hdr->gso_size, most);
    if (cut->size == 0 || (cut->proto == PROTO_UDP && cut->size < hdr->gso_size)) {
        return false; /* a datagram has the length that it has */
    }
    cut->n = (len - cut->headers + cut->size - 1) / cut->size;
    cut->n = cut->n ? cut->n : 1;
    return true;
}

static uint64_t pseudo_sum(const struct cut *cut, const uint8_t *ip, uint32_t len)
{
    if (cut->v6) {
        return csum_add(ip + IPV6_ADDRESSES, 32, (uint64_t)htonl(len) + htons(cut->proto));
    }
    return csum_pseudo(load_u32(ip + 12), load_u32(ip + 16), cut->proto, len);
}

static void write_ip(const struct cut *cut, uint32_t i, uint8_t *ip, uint32_t len)
{
    if (cut->v6) {
        store_u16(ip + 4, htons((uint16_t)(len - IPV6_HDR_LEN)));
        return;
    }
    store_u16(ip + 2, htons((uint16_t)len));
    store_u16(ip + 4, htons((uint16_t)(read_u16(ip + 4) + i)));
    store_u16(ip + 10, 0);
    store_u16(ip + 10, csum_fold(csum_add(ip, cut->transport - cut->network, 0)));
}

static void write_transport(const struct cut *cut, uint32_t i, uint8_t *at, uint32_t len)
{
    if (cut->proto == PROTO_UDP) {
        store_u16(at + 4, htons((uint16_t)len));
        return;
    }
    store_u32(at + 4, htonl(ntohl(load_u32(at + 4)) + i * cut->size));
    if (i + 1 < cut->n) {
        at[13] &= (uint8_t)~(TCP_FIN | TCP_PSH);
    }
    if (i > 0) {
        at[13] &= (uint8_t)~TCP_CWR;
    }
}

uint32_t cut_segment(const struct cut *cut, uint32_t i, uint8_t *out)
{
    uint32_t from = cut->headers + i * cut->size;
    uint32_t part = min_u32(cut->size, cut->len - from);
    uint32_t len = cut->headers + part;
    uint32_t l4_len = len - cut->transport;
    uint8_t *ip = out + cut->network;
    uint8_t *l4 = out + cut->transport;
    uint8_t *check = l4 + (cut->proto == PROTO_UDP ? 6 : 16);
    uint16_t sum;

    memcpy(out, cut->frame, cut->headers);
    memcpy(out + cut->headers, cut->frame + from, part);
    write_ip(cut, i, ip, len - cut->network);
    write_transport(cut, i, l4, l4_len);
    store_u16(check, 0);
    sum = csum_fold(csum_add(l4, l4_len, pseudo_sum(cut, ip, l4_len)));
    store_u16(check, sum == 0 && cut->proto == PROTO_UDP ? UINT16_MAX : sum);
    return len;
}
