/* Looking for the pseudo-header's sum where a checksum should be; see unfinished.h. */
#include "ports/unfinished.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>

#include "base/csum.h"
#include "base/wire.h"

enum {
    TYPE_OFS = 2 * ETH_ALEN_BYTES,
    VLAN_LEN = 4,
    UDP_CHECK_OFS = 6,
    FRAGMENT = 0x3fff, /* more fragments, or an offset */
};

/* Where IPv4 begins; 0: it is something else. */
static uint32_t find_ipv4(const uint8_t *frame, uint32_t len)
{
    uint32_t at = TYPE_OFS;

    for (int tags = 0; at + 2 + IPV4_HDR_LEN <= len && tags <= 2; tags++) {
        uint16_t type = ntohs(load_u16(frame + at));

        if (type == ETH_P_IP) {
            return at + 2;
        }
        if (type != ETH_P_8021Q && type != ETH_P_8021AD) {
            break;
        }
        at += VLAN_LEN;
    }
    return 0;
}

bool unfinished_find(const uint8_t *frame, uint32_t len, struct vnet_hdr *hdr)
{
    uint32_t at = find_ipv4(frame, len);
    struct wire_ipv4 ip;
    uint32_t start;
    uint16_t check_ofs;

    if (at == 0) {
        return false;
    }
    memcpy(&ip, frame + at, sizeof(ip));
    start = (uint32_t)(ip.version_ihl & 15) * 4;
    if ((ntohs(ip.frag_off) & FRAGMENT) || start < IPV4_HDR_LEN || ntohs(ip.total_len) < start) {
        return false;
    }
    check_ofs = ip.protocol == PROTO_TCP ? offsetof(struct wire_tcp, check) : UDP_CHECK_OFS;
    if ((ip.protocol != PROTO_TCP && ip.protocol != PROTO_UDP) ||
        len < at + start + check_ofs + sizeof(uint16_t) ||
        load_u16(frame + at + start + check_ofs) !=
            csum_fold16(csum_pseudo(ip.src, ip.dst, ip.protocol, ntohs(ip.total_len) - start))) {
        return false;
    }
    hdr->flags = VNET_F_NEEDS_CSUM;
    hdr->csum_start = (uint16_t)(at + start);
    hdr->csum_offset = check_ofs;
    return true;
}
