/* The other end of a wire that the kernel has: a packet socket on an interface. */
#pragma once
#include "conformance.h"

/* On the interface named; its MAC into `mac`. -1: failed, and said so. */
int raw_peer_open(const char *iface, uint8_t mac[6]);
/* With its virtio header. False: no room now. */
bool raw_peer_inject(int fd, const struct frame *frame);
/* With the VLAN tag where the wire had it. */
bool raw_peer_collect(int fd, struct frame *frame);
