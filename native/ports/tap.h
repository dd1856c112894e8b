/*
 * tap: the host's own kernel as the peer, on a TAP interface; what its files share.
 *
 * Each ring pair is one queue of a multi-queue TAP. Receive: tap_rx.c reads a frame straight into
 * software netmap slots, virtio header first, so that an unfinished checksum or a super-segment of
 * the kernel's TCP comes whole. Transmit: one writev() a frame (framewise.c).
 *
 * The kernel steers by itself: a flow comes on the queue that it was last written to, and a new one
 * where the hash of its addresses and ports points. The shard that gets a SYN answers it, so a flow
 * stays; what arrives elsewhere all the same is handed over by the stack.
 *
 * A TAP of one queue (made by somebody else) is read by a feeder; see feeder.h.
 */
#pragma once
#include "ports/feeder.h"
#include "ports/framewise.h"
#include "ports/packet.h"
#include "ports/swring.h"

/* Of one ring pair, in MAP_SHARED memory. */
struct tap_shared {
    /* Low half: the software ring's tail; high half: 1 while a frame may have been read there. */
    _Alignas(CACHE_LINE) uint64_t rx_commit;
    uint32_t gone;         /* the interface was deleted */
    uint32_t straight;     /* free slots from the tail on whose buffers touch */
    uint32_t straight_buf; /* the first one's */
    uint32_t pad;
    struct framewise_tx tx;
    struct port_counters counters;
};

/* Process-private, fixed after the open. */
struct tap_ring {
    int fd;
    struct swring rings;
};

struct tap_device {
    char spec[PORT_NAME_MAX];
    struct packet_link link;
    int lock_fd;
    bool created; /* by us: it goes when the last descriptor is closed */
    bool single;  /* its queue 0 is read by a feeder for all rings */
    uint32_t rings;
    struct tap_ring ring[PORT_RINGS_MAX];
    struct feeder feeder;
};

/* tap_link.c: opens the queues, and the interface if there is none; 0 or -errno with a sentence. */
int tap_link_open(struct tap_device *tap, const struct device_config *config, char *error);

int tap_rx_sync(struct port *port, uint64_t now_us);
void tap_rx_recover(struct port *port);

static inline struct tap_shared *tap_shared(const struct port *port)
{
    return port->shared;
}
