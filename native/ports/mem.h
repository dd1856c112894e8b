/*
 * mem: the software NIC, inside. One memfd holds a netmap region (the server side's interface with
 * N ring pairs, one interface with one ring pair for each link) and behind it what a NIC's silicon
 * would hold: sides, links, lanes, RSS.
 *
 * A *side* is one ring pair. For each (link, server ring) there are two *lanes* of cells, one each
 * way. Every cell and every slot always owns exactly one buffer: a sync exchanges buffers between a
 * slot and a cell, so that nothing is copied and nobody waits for anybody. The exchanges are
 * covered by the side's intent record: a kill between their stores is completed by recover. What a
 * client wrote that cannot be true stops its link, for good, and no other. What it sent and nobody
 * has read yet stays in its lanes when it goes, and is read before what the link's next one sends.
 *
 * "NAME*" has host rings, too: the last ring pair of the interface. Whoever attaches to "NAME^" is
 * the host behind the card, with the card's MAC; that link and that ring see each other alone, and
 * what passes between host and wire, the owner forwards. Start reading at mem_rx_sync in mem_rx.c
 * and mem_tx_sync in mem_tx.c.
 */
#pragma once
#include <errno.h>

#include "ports/port.h"
#include "ports/rss.h"

enum {
    MEM_MAGIC = 0x6d656d32,
    MEM_LINKS_MAX = 32,
    MEM_SIDES_MAX = PORT_RINGS_MAX + MEM_LINKS_MAX,
    MEM_CELLS = 1024,     /* per lane, a power of two */
    MEM_STALL_US = 10000, /* how long a full lane may hold its sender */
    MEM_FRAGS_MAX = 64,
};

enum mem_intent_kind {
    MEM_INTENT_NONE,
    MEM_INTENT_RX,
    MEM_INTENT_TX,
};

/*
 * A batch of exchanges between a ring and a lane. Valid while kind is not NONE. `step` is the one
 * in progress: its number in the batch << 32 | the buffer that is overwritten first; 0: none yet.
 */
struct mem_intent {
    volatile uint32_t kind;
    uint32_t lane;     /* index */
    uint32_t position; /* the lane's head (RX) or tail (TX) before the batch */
    uint32_t slot;     /* the ring's first slot of the batch */
    volatile uint64_t step;
};

/* One ring pair's state in shared memory. Its worker or client is the only writer. */
struct mem_side {
    _Alignas(CACHE_LINE) _Atomic uint32_t sleeping; /* read by those who send to it */
    _Alignas(CACHE_LINE) _Atomic uint32_t sync_seq; /* odd: inside a TX sync */
    uint32_t tx_hwcur;                              /* first TX slot not yet sent */
    uint32_t rx_frames_left;                        /* of the frame being received */
    uint32_t rx_next;                               /* lane served first in the next sync */
    struct mem_intent intent;
    struct port_counters counters;
};

struct mem_cell {
    uint32_t buf_idx;
    uint16_t len;
    uint16_t flags;
    uint64_t ptr;
};

struct mem_lane {
    _Alignas(CACHE_LINE) _Atomic uint32_t tail; /* by the producer */
    uint32_t stalled;                           /* producer's: 1 while the lane is full */
    uint32_t stalled_head;                      /* where the consumer stood then */
    uint64_t stalled_us;
    _Alignas(CACHE_LINE) _Atomic uint32_t head; /* by the consumer */
    _Alignas(CACHE_LINE) struct mem_cell cell[MEM_CELLS];
};

struct mem_link {
    _Atomic uint32_t up;
    _Atomic uint32_t broken; /* held what cannot be: stopped until the device is made anew */
    uint32_t generation;
    uint32_t down_seq[PORT_RINGS_MAX]; /* the server sides' sync_seq when it went down */
};

/* Behind the region. Offsets are from the mapping's start. */
struct mem_shared {
    uint32_t magic;
    uint32_t rings;
    uint32_t links;
    uint32_t bufs;
    uint64_t if_ofs[1 + MEM_LINKS_MAX]; /* server, then links */
    uint64_t lanes_ofs;
    uint8_t server_mac[6];
    uint8_t host; /* 1: the last ring is the host's, and the last link */
    uint8_t pad[1];
    uint32_t mtu;
    _Atomic uint64_t links_up;   /* bit per link: somebody is there */
    _Atomic uint64_t links_read; /* likewise: somebody was, and rings take what was sent */
    struct rss rss;
    struct mem_link link[MEM_LINKS_MAX];
    struct mem_side side[MEM_SIDES_MAX]; /* rings, then links */
};

/* A process's view. */
struct mem_device {
    uint8_t *base;
    size_t bytes;
    struct mem_shared *shared;
    struct mem_lane *lanes;
    uint32_t rings; /* own copies: the shared ones are for whoever attaches */
    uint32_t links;
    uint32_t bufs;
    uint32_t slots; /* of each ring */
    uint32_t buf_size;
    size_t bufs_ofs; /* of buffer 0, from base */
    bool host;
    int memfd;
    int doorbell[MEM_SIDES_MAX]; /* eventfds; -1: not this process's to ring */
    int listen_fd;               /* owner only */
    int host_fd;                 /* listens for the host; owner of host rings only */
    int epoll_fd;
    int link_fd[MEM_LINKS_MAX]; /* owner's end of each client's connection */
    char name[PORT_NAME_MAX];
};

/* Where a port stands: port->priv. */
struct mem_place {
    struct mem_device *device;
    uint32_t side;
    bool server;
    uint32_t index; /* ring or link number */
    uint32_t slots; /* of each ring, and bytes of a buffer, as they were at the open */
    uint32_t buf_size;
};

extern const struct port_ops mem_port_ops;

/* Stops a link for good: what it holds cannot be trusted. */
void mem_link_break(struct mem_device *device, uint32_t link);

int mem_rx_sync(struct port *port, uint64_t now_us);
int mem_tx_sync(struct port *port, uint64_t now_us);

static inline struct mem_place *mem_place_of(const struct port *port)
{
    return port->priv;
}

static inline struct mem_side *mem_side_of(const struct port *port)
{
    return port->shared;
}

static inline struct mem_lane *mem_lane_at(const struct mem_device *device, uint32_t index)
{
    return &device->lanes[index];
}

static inline struct mem_cell *mem_cell_at(struct mem_lane *lane, uint32_t position)
{
    return &lane->cell[position & (MEM_CELLS - 1)];
}

/* More than MEM_CELLS: nonsense from the other side. */
static inline uint32_t mem_lane_used(struct mem_lane *lane)
{
    return atomic_load_explicit(&lane->tail, memory_order_acquire) -
           atomic_load_explicit(&lane->head, memory_order_acquire);
}

/* Every index that comes from a ring or a lane is asked this before it is used. */
static inline bool mem_buf_possible(const struct mem_device *device, uint32_t buf)
{
    return buf - NM_BUF_FIRST < device->bufs - NM_BUF_FIRST;
}

/* This port's own ring holds what cannot be: the port stops. */
static inline int mem_port_broken(struct port *port)
{
    port->counters->errors++;
    return -EIO;
}

/* A link's lane does: the link stops, and of the two ends only the client's port. */
static inline void mem_lane_broken(struct port *port, uint32_t link)
{
    port->counters->errors++;
    mem_link_break(mem_place_of(port)->device, link);
}

/* A client whose link was stopped, by either end. */
static inline bool mem_is_stopped(const struct port *port)
{
    const struct mem_place *place = mem_place_of(port);

    return !place->server && atomic_load_explicit(&place->device->shared->link[place->index].broken,
                                                  memory_order_relaxed);
}

static inline bool mem_is_host_link(const struct mem_device *device, uint32_t link)
{
    return device->host && link == device->links - 1;
}

static inline bool mem_is_host_ring(const struct mem_device *device, uint32_t ring)
{
    return device->host && ring == device->rings - 1;
}

/* Lane of a link and a ring; `down` from the server to the link. */
static inline uint32_t mem_lane_index(const struct mem_shared *shared, uint32_t link, uint32_t ring,
                                      bool down)
{
    return (link * shared->rings + ring) * 2 + down;
}

void mem_mac_of_link(const struct mem_shared *shared, uint32_t link, uint8_t mac[6]);
/* Maps the view's pointers from base. False: not a mem: region. */
bool mem_view(struct mem_device *device);
/* Fills a port for a side of the view. */
int mem_port_init(struct port *port, struct mem_device *device, bool server, uint32_t index);
/* Completes what a dead side left half done. False: its record cannot be true; nothing is done. */
bool mem_side_recover(struct mem_device *device, uint32_t side);
/* The same for a client that nobody succeeds: of a frame cut short nothing is published. */
bool mem_side_bury(struct mem_device *device, uint32_t side);
/* Wakes whom a dead client could not wake, and counts what is left in its TX ring as missed. */
void mem_tx_bury(struct mem_device *device, uint32_t link);

/* mem_turnover.c: from one client to the next. */
/* Takes a free link, or the host's, and resets all but the frames on their way to the rings;
 * -EBUSY: none, -EAGAIN: a shard may still be sending to the one before. */
int mem_link_take(struct mem_device *device, bool host);
void mem_link_leave(struct mem_device *device, uint32_t link);

/* mem_link.c: the owner's socket. */
int mem_listen(struct mem_device *device, char *error);
int mem_serve(struct mem_device *device);
void mem_unlisten(struct mem_device *device);
/* A client, of this process or by its socket, is gone. */
void mem_link_drop(struct mem_device *device, uint32_t link);
