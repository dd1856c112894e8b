/*
 * Whose a frame is: ours, or the host's. One rule for each way to share an interface; the XDP
 * program (xdp_code.c) and the bridge to netmap's host rings apply the same one.
 */
#pragma once
#include "ports/port.h"

enum {
    FILTER_PORTS_BYTES = 65536 / 8,
};

/* Also the value in the XDP program's map. */
struct filter {
    uint32_t rule; /* enum port_take */
    uint32_t ip;   /* network order; 0 with PORT_TAKE_ADDRESS: all of IPv4, ARP and tagged frames */
    uint8_t tcp_ports[FILTER_PORTS_BYTES]; /* a bit each: port p is bit p % 8 of byte p / 8 */
};

void filter_set(struct filter *filter, const struct device_config *config);
/* `frame` begins with its Ethernet header; of a frame in several pieces the first is enough. */
bool filter_takes(const struct filter *filter, const uint8_t *frame, uint32_t len);
