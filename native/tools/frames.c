/* Reading and building the tools' frames; see frames.h. */
#include "tools/frames.h"

#include <arpa/inet.h>
#include <string.h>

#include "base/csum.h"
#include "base/hash.h"

enum {
    FRAG_MASK = 0x3fff, /* more fragments, or an offset */
    TTL = 64,
};

/* The UDP or TCP ports' place; 0: none to be read. */
static uint32_t ports_at(const uint8_t *frame, uint32_t len)
{
    const struct wire_ipv4 *ip = (const void *)(frame + ETH_HDR_LEN);
    uint32_t at;

    if (len < UDP_HEADERS_LEN || frame[12] != 0x08 || frame[13] != 0x00 ||
        (ip->frag_off & htons(FRAG_MASK))) {
        return 0;
    }
    at = ETH_HDR_LEN + (uint32_t)(ip->version_ihl & 15) * 4;
    return (ip->version_ihl & 15) >= 5 && at + UDP_HDR_LEN <= len ? at : 0;
}

bool frame_is_udp(const uint8_t *frame, uint32_t len, uint32_t udp_port)
{
    uint32_t at = ports_at(frame, len);
    const struct wire_udp *udp = (const void *)(frame + at);

    return at != 0 && frame[ETH_HDR_LEN + 9] == PROTO_UDP &&
           (udp_port == 0 || ntohs(udp->dst_port) == udp_port);
}

uint64_t frame_symmetric_hash(const uint8_t *frame, uint32_t len)
{
    const struct wire_ipv4 *ip = (const void *)(frame + ETH_HDR_LEN);
    uint32_t at = ports_at(frame, len);
    uint64_t sides[2] = {0, 0};

    if (len < ETH_HDR_LEN + IPV4_HDR_LEN || frame[12] != 0x08 || frame[13] != 0x00) {
        return 0;
    }
    sides[0] = (uint64_t)ip->src << 16;
    sides[1] = (uint64_t)ip->dst << 16;
    if (at != 0 && (ip->protocol == PROTO_UDP || ip->protocol == PROTO_TCP)) {
        const struct wire_udp *ports = (const void *)(frame + at);

        sides[0] |= ports->src_port;
        sides[1] |= ports->dst_port;
    }
    return hash_fold((sides[0] ^ sides[1]) ^ 0x9e3779b97f4a7c15u,
                     (sides[0] + sides[1]) ^ 0xd6e8feb86659fd93u);
}

static void swap_bytes(uint8_t *a, uint8_t *b, uint32_t n)
{
    uint8_t keep[6];

    memcpy(keep, a, n);
    memcpy(a, b, n);
    memcpy(b, keep, n);
}

void frame_turn_back(uint8_t *frame)
{
    uint8_t *ip = frame + ETH_HDR_LEN;
    uint8_t *udp = ip + (size_t)(ip[0] & 15) * 4;

    swap_bytes(frame, frame + ETH_ALEN_BYTES, ETH_ALEN_BYTES);
    swap_bytes(ip + 12, ip + 16, 4);
    swap_bytes(udp, udp + 2, 2);
}

void frame_build(uint8_t *frame, const struct ss_tool_options *options, const uint8_t *src_mac,
                 const uint8_t *dst_mac)
{
    struct wire_eth *eth = (void *)frame;
    struct wire_ipv4 *ip = (void *)(frame + ETH_HDR_LEN);
    struct wire_udp *udp = (void *)(frame + ETH_HDR_LEN + IPV4_HDR_LEN);
    uint32_t udp_len = options->size - ETH_HDR_LEN - IPV4_HDR_LEN;
    uint64_t sum;

    memset(frame, 0, options->size);
    memcpy(eth->dst, dst_mac, ETH_ALEN_BYTES);
    memcpy(eth->src, src_mac, ETH_ALEN_BYTES);
    eth->type = htons(ETHERTYPE_IPV4);
    ip->version_ihl = 0x45;
    ip->total_len = htons((uint16_t)(options->size - ETH_HDR_LEN));
    ip->ttl = TTL;
    ip->protocol = PROTO_UDP;
    ip->src = htonl(options->src_ip.first);
    ip->dst = htonl(options->dst_ip.first);
    ip->check = csum_fold(csum_ipv4_header(ip));
    udp->src_port = htons((uint16_t)options->src_port.first);
    udp->dst_port = htons((uint16_t)options->dst_port.first);
    udp->len = htons((uint16_t)udp_len);
    sum = csum_pseudo(ip->src, ip->dst, PROTO_UDP, udp_len);
    udp->check = csum_fold(csum_add(udp, udp_len, sum));
    udp->check = udp->check ? udp->check : 0xffff; /* RFC 768: zero means none */
}

bool frame_complete_csum(uint8_t *frame, uint32_t len, uint32_t start, uint32_t offset)
{
    uint16_t check;

    if (start >= len || offset + sizeof(check) > len - start) {
        return false;
    }
    check = csum_fold(csum_add(frame + start, len - start, 0));
    memcpy(frame + start + offset, &check, sizeof(check));
    return true;
}
