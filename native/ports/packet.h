/*
 * packet: rings on a Linux interface through AF_PACKET; what its files share.
 *
 * Each ring pair is one socket. Receive: the kernel writes into a TPACKET_V2 ring, packet_rx.c
 * copies from there into software netmap slots. Transmit: packet_tx.c hands slots to sendmmsg().
 * The sockets of a device form one fanout group, so that a flow stays whole.
 *
 * All state is in MAP_SHARED memory, and a kill may fall between any two instructions. Each
 * direction has one 64-bit word, stored once, that commits a whole burst; what was done on the near
 * side of that store is done again by a successor, what comes after it is finished by
 * packet_recover. Start reading at struct packet_shared, then packet_rx_sync.
 */
#pragma once
#include <errno.h>
#include <net/if.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "ports/port.h"
#include "ports/swring.h"

enum {
    /*
     * Holds the kernel's header and the longest IP packet, a super-segment, with two VLAN tags. An
     * odd number of cache lines, so that the frames' headers do not all fall into one cache set.
     */
    PACKET_FRAME_SIZE = 1033 * 64,
    PACKET_BLOCK_SIZE = 1 << 20,
    PACKET_BLOCK_FRAMES = PACKET_BLOCK_SIZE / PACKET_FRAME_SIZE,
    PACKET_BLOCKS_MIN = 9,
    PACKET_VNET_LEN = 10, /* what the kernel puts before a frame: no num_buffers */
    PACKET_RX_BURST = 64,
    PACKET_TX_BURST = 64,
    PACKET_TX_IOVS = 256,
    PACKET_SLOTS_MIN = 128, /* three super-segments of 2 KiB slots */
};
_Static_assert(PACKET_RX_BURST < PACKET_BLOCKS_MIN * PACKET_BLOCK_FRAMES,
               "a burst is less than a lap of the ring");

enum packet_fanout {
    PACKET_BY_FLOW,  /* the kernel's 4-tuple hash: a flow never moves */
    PACKET_BY_QUEUE, /* each of the card's receive queues has its ring */
};

/* What the kernel says about an interface. */
struct packet_link {
    char name[IF_NAMESIZE];
    int ifindex;
    uint32_t queues;
    uint32_t mtu;
    uint8_t mac[6];
    bool loopback;
};

/* Of one ring pair, in MAP_SHARED memory. */
struct packet_shared {
    /* Low half: next TPACKET frame to take; high half: the software ring's tail. */
    _Alignas(CACHE_LINE) uint64_t rx_commit;
    uint32_t rx_returned; /* frames before this one are the kernel's again */
    uint32_t gone;        /* the interface was deleted */
    uint32_t down;        /* it went down, and may be gone since */
    uint32_t pad;
    /* Low half: next TX slot to send; high half: messages that are in a system call. */
    uint64_t tx_commit;
    uint64_t tx_refused_us; /* when the kernel began to refuse frames; 0: it takes them */
    struct port_counters counters;
    struct mmsghdr msgs[PACKET_TX_BURST]; /* msg_len != 0: the kernel has taken it */
    struct iovec iovs[PACKET_TX_IOVS];
};

/* Process-private, fixed after the open. */
struct packet_ring {
    int fd;
    uint32_t frames; /* in the TPACKET ring */
    uint32_t bufs;   /* valid buffer indices are below this */
    uint8_t *map;
    size_t map_bytes;
    struct swring rings;
};

struct packet_device {
    struct packet_link link;
    int lock_fd;
    int drop_fd; /* host_drop.h; negative: the host's stack gets our frames too */
    enum packet_fanout fanout;
    bool promiscuous;
    uint32_t rings;
    struct packet_ring ring[PORT_RINGS_MAX];
};

extern const struct port_ops packet_port_ops;

/* packet_link.c: 0 or -errno; each failure writes its sentence into error. */
int packet_link_find(struct packet_link *link, const char *name, char *error);
int packet_link_lock(const struct packet_link *link, char *error);
/* Writes "packet:NAME: what (errno in words)" and returns code. */
int packet_refuse(char *error, const char *name, const char *what, int code);

/* packet_socket.c: opens, binds and fills ring `index`; it receives nothing before _listen. */
int packet_socket_open(struct packet_device *device, uint32_t index, uint32_t blocks);
/* Of the frames to `mac` those are received that are ours by config->take. */
int packet_socket_listen(struct packet_device *device, const uint8_t mac[6],
                         const struct device_config *config);
void packet_socket_close(struct packet_ring *ring);
/* Frames that found the TPACKET ring full since the last call, or -errno. */
int packet_socket_drops(int fd);

int packet_rx_sync(struct port *port, uint64_t now_us);
bool packet_rx_ready(const struct port *port);
void packet_rx_recover(struct port *port);
int packet_tx_sync(struct port *port, uint64_t now_us);
void packet_tx_recover(struct port *port);

static inline struct packet_shared *packet_shared(const struct port *port)
{
    return port->shared;
}

static inline const struct packet_ring *packet_ring(const struct port *port)
{
    return port->priv;
}

/* A buffer index is checked before each use: whoever fills the rings may be confused. */
static inline bool packet_slot_valid(const struct packet_ring *ring, const struct nm_slot *slot)
{
    return slot->buf_idx >= NM_BUF_FIRST && slot->buf_idx < ring->bufs;
}

/* The ring holds what cannot be: the port stops. */
static inline int packet_broken(const struct port *port)
{
    port->counters->errors++;
    return -EIO;
}
