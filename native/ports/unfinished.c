/* Looking for the pseudo-header's sum where a checksum should be; see unfinished.h. */
#include "ports/unfinished.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>

#include "base/csum.h"
#include "base/wire.h"

enum {
    TYPE_OFS = 2 * ETH_ALEN_BYTES,
    VLAN_LEN = 4,
    IPV6_HDR_LEN = 40,
    UDP_CHECK_OFS = 6,
    FRAGMENT = 0x3fff, /* more fragments, or an offset */
};

/* What IP carries: its protocol, where it begins, its pseudo-header's sum. */
struct payload {
    uint8_t protocol;
    uint32_t start;
    uint16_t sum;
};

/* Where the type stands that is no tag's; 0: behind more than two tags, or the frame's end. */
static uint32_t find_type(const uint8_t *frame, uint32_t len)
{
    uint32_t at = TYPE_OFS;

    for (int tags = 0; at + 2 + IPV4_HDR_LEN <= len && tags <= 2; tags++) {
        uint16_t type = ntohs(load_u16(frame + at));

        if (type != ETH_P_8021Q && type != ETH_P_8021AD) {
            return at;
        }
        at += VLAN_LEN;
    }
    return 0;
}

static bool read_ipv4(const uint8_t *frame, uint32_t at, struct payload *payload)
{
    struct wire_ipv4 ip;
    uint32_t header;

    memcpy(&ip, frame + at, sizeof(ip));
    header = (uint32_t)(ip.version_ihl & 15) * 4;
    if ((ntohs(ip.frag_off) & FRAGMENT) || header < IPV4_HDR_LEN || ntohs(ip.total_len) < header) {
        return false;
    }
    payload->protocol = ip.protocol;
    payload->start = at + header;
    payload->sum =
        csum_fold16(csum_pseudo(ip.src, ip.dst, ip.protocol, ntohs(ip.total_len) - header));
    return true;
}

static bool read_ipv6(const uint8_t *frame, uint32_t len, uint32_t at, struct payload *payload)
{
    const uint8_t *ip = frame + at;

    if (at + IPV6_HDR_LEN > len) {
        return false;
    }
    payload->protocol = ip[6];
    payload->start = at + IPV6_HDR_LEN;
    payload->sum = csum_fold16(csum_add(ip + 8, 32, (uint64_t)load_u16(ip + 4) + htons(ip[6])));
    return true;
}

static bool read_payload(const uint8_t *frame, uint32_t len, struct payload *payload)
{
    uint32_t at = find_type(frame, len);
    uint16_t type = at ? ntohs(load_u16(frame + at)) : 0;

    if (type == ETH_P_IP) {
        return read_ipv4(frame, at + 2, payload);
    }
    return type == ETH_P_IPV6 && read_ipv6(frame, len, at + 2, payload);
}

bool unfinished_find(const uint8_t *frame, uint32_t len, struct vnet_hdr *hdr)
{
    struct payload payload;
    uint16_t check_ofs;

    if (!read_payload(frame, len, &payload) ||
        (payload.protocol != PROTO_TCP && payload.protocol != PROTO_UDP)) {
        return false;
    }
    check_ofs = payload.protocol == PROTO_TCP ? offsetof(struct wire_tcp, check) : UDP_CHECK_OFS;
    if (len < payload.start + check_ofs + sizeof(uint16_t) ||
        load_u16(frame + payload.start + check_ofs) != payload.sum) {
        return false;
    }
    hdr->flags = VNET_F_NEEDS_CSUM;
    hdr->csum_start = (uint16_t)payload.start;
    hdr->csum_offset = check_ofs;
    return true;
}
