/* Cutting a super-segment into frames that every wire carries. Pure: bytes in, bytes out. */
#pragma once
#include "ports/port.h"

enum {
    VNET_GSO_TCPV6 = 4,
    VNET_GSO_UDP_L4 = 5,
    VNET_GSO_ECN = 0x80,
    CUT_HEADERS_MAX = 160, /* Ethernet, two tags, IP and TCP with all options */
};

/* A flat frame and where it is cut: TCP, or UDP that asks for it, over IPv4 or IPv6. */
struct cut {
    const uint8_t *frame;
    uint32_t len;
    uint32_t network;   /* where the IP header begins */
    uint32_t transport; /* where the TCP or UDP header begins */
    uint32_t headers;   /* bytes before the payload */
    uint32_t size;      /* payload of each segment but the last */
    uint32_t n;
    bool v6;
    uint8_t proto;
};

/*
 * Into pieces of at most the header's gso_size and, if `mtu` is not 0, of the MTU. A header without
 * gso_size: TCP by the MTU alone. False: a kind that is not cut here, or headers that cannot be.
 */
bool cut_init(struct cut *cut, const struct vnet_hdr *hdr, const uint8_t *frame, uint32_t len,
              uint32_t mtu);
/* Writes segment `i` with whole checksums, at most headers + size bytes; returns its length. */
uint32_t cut_segment(const struct cut *cut, uint32_t i, uint8_t *out);
