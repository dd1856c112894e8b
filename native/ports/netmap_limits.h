/*
 * What netmap's memory pools must hold for a port, computed before the kernel is asked: it answers
 * a ring that is too large with "out of memory" and a line in its log.
 */
#pragma once
#include "ports/netmap_kernel.h"

/* In force, from the module's parameters; 0: unknown. */
struct netmap_limits {
    uint64_t ring_size;
    uint64_t ring_num;
    uint64_t if_size;
    uint64_t if_num;
    uint64_t buf_size;
    uint64_t buf_num;
};

/* What a port takes; zero where it takes nothing. */
struct netmap_want {
    uint32_t all_rings; /* of the port, bound or not: each has a place in its netmap_if */
    uint32_t tx_rings;  /* that will be bound, host rings included */
    uint32_t rx_rings;
    uint32_t tx_slots; /* per ring */
    uint32_t rx_slots;
    uint32_t extra_bufs;
    uint32_t descriptors;
    uint32_t mtu;
};

uint64_t netmap_ring_bytes(uint32_t slots);
uint64_t netmap_if_bytes(uint32_t rings);
void netmap_limits_read(struct netmap_limits *limits, const struct netmap_kernel *kernel);
/* True: it fits as far as known. Else the sentence says what does not, and what to do. */
bool netmap_limits_check(const struct netmap_limits *limits, const struct netmap_want *want,
                         char *sentence, size_t room);
