/*
 * Sharing a NIC with the host: a ring's worker hands the host's frames on, both ways.
 *
 * Up: a received frame that is not ours is marked, and the kernel passes it on when its slot goes
 * back (netmap's FORWARD). Down: each NIC ring has a host ring beside it, with what the kernel
 * wants to send from that queue; its buffers are exchanged with those of free TX slots. A ring has
 * one worker, so nothing is locked. What is in hand when it dies its successor completes.
 */
#pragma once
#include "ports/netmap.h"

/* Whether the device shares its NIC: `config` says which frames are ours. */
bool netmap_bridge_wanted(const struct netmap_device *netmap, const struct device_config *config);
/* Asks for as many host rings as NIC rings, of whoever opens the NIC first. */
void netmap_bridge_plan(struct netmap_device *netmap, const struct device_config *config);
/* The host ring beside an open port's rings; 0 or -errno. */
int netmap_bridge_open(struct device *device, uint32_t index);
/* Idempotent. */
void netmap_bridge_close(struct netmap_ring *ring);

/* Marks those of the new RX slots [from, to) that are the host's. */
void netmap_bridge_mark(const struct port *port, uint32_t from, uint32_t to);
/* What the host wants to send into free TX slots; 0 or -errno. */
int netmap_bridge_pull(struct port *port, uint64_t now_us);
/* In the successor of a worker that died. */
int netmap_bridge_recover(struct port *port);
