/* Whose a frame is; see filter.h. */
#include "ports/filter.h"

#include <arpa/inet.h>
#include <stddef.h>
#include <string.h>

#include "base/wire.h"

enum {
    FRAG_OFFSET = 0x1fff,
    ETHERTYPE_TAG = 0x8100,
    ETHERTYPE_OUTER_TAG = 0x88a8,
};

void filter_set(struct filter *filter, const struct device_config *config)
{
    memset(filter, 0, sizeof(*filter));
    filter->rule = config->every_frame ? PORT_TAKE_ALL : config->take;
    filter->ip = htonl(config->ip);
    for (uint32_t i = 0; i < PORT_TCP_PORTS_MAX && config->tcp_ports[i] != 0; i++) {
        uint16_t tcp_port = config->tcp_ports[i];

        filter->tcp_ports[tcp_port / 8] |= (uint8_t)(1u << tcp_port % 8);
    }
}

static uint16_t load_be16(const uint8_t *at)
{
    return ntohs(load_u16(at));
}

/* Fragments behind the first have no ports: whatever they are, the host's kernel collects them. */
static bool takes_tcp(const struct filter *filter, const uint8_t *ip, uint32_t len)
{
    uint32_t header = (ip[0] & 15u) * 4;
    uint16_t tcp_port;

    if (ip[0] >> 4 != 4 || header < IPV4_HDR_LEN || len < header + 4 ||
        ip[offsetof(struct wire_ipv4, protocol)] != PROTO_TCP ||
        (load_be16(ip + offsetof(struct wire_ipv4, frag_off)) & FRAG_OFFSET) != 0) {
        return false;
    }
    tcp_port = load_be16(ip + header + offsetof(struct wire_tcp, dst_port));
    return filter->tcp_ports[tcp_port / 8] >> tcp_port % 8 & 1;
}

static bool takes_ip(const struct filter *filter, const uint8_t *ip, uint32_t len)
{
    if (filter->rule == PORT_TAKE_ADDRESS && filter->ip == 0) {
        return true;
    }
    return load_u32(ip + offsetof(struct wire_ipv4, dst)) == filter->ip &&
           (filter->rule == PORT_TAKE_ADDRESS || takes_tcp(filter, ip, len));
}

static bool takes_arp(const struct filter *filter, const uint8_t *arp, uint32_t len)
{
    return filter->rule == PORT_TAKE_ADDRESS && len >= ARP_LEN &&
           (filter->ip == 0 || load_u32(arp + offsetof(struct wire_arp, tpa)) == filter->ip);
}

bool filter_takes(const struct filter *filter, const uint8_t *frame, uint32_t len)
{
    uint16_t type;

    if (filter->rule == PORT_TAKE_ALL) {
        return true;
    }
    if (len < ETH_HDR_LEN + IPV4_HDR_LEN) {
        return false;
    }
    type = load_be16(frame + offsetof(struct wire_eth, type));
    switch (type) {
    case ETHERTYPE_IPV4:
        return takes_ip(filter, frame + ETH_HDR_LEN, len - ETH_HDR_LEN);
    case ETHERTYPE_ARP:
        return takes_arp(filter, frame + ETH_HDR_LEN, len - ETH_HDR_LEN);
    case ETHERTYPE_TAG:
    case ETHERTYPE_OUTER_TAG:
        return filter->rule == PORT_TAKE_ADDRESS && filter->ip == 0;
    default:
        return false;
    }
}
