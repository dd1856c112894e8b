/* What a socket that gets copies of an interface's frames is to receive: classic BPF, no privilege.
 */
#pragma once
#include <linux/filter.h>

#include "ports/port.h"

enum {
    SOCKET_FILTER_MAX = 64,
};

/*
 * To `mac` or to many: of IPv4 what is ours by config->take (all of it if config->ip is 0), ARP
 * unless it is the host's, and frames that hold their VLAN tag unless the address is the host's.
 * With `in_kernel` nothing that we sent ourselves; libpcap runs filters outside it, too, where the
 * direction is not known. Returns the number of instructions.
 */
uint32_t socket_filter_make(struct sock_filter code[SOCKET_FILTER_MAX], const uint8_t mac[6],
                            const struct device_config *config, bool in_kernel);
