/*
 * netmap: rings of a port of the netmap kernel module, mapped as they are; what its files share.
 *
 * A device is one descriptor for each ring pair, bound to that pair alone, and before them a
 * *holder* on all of the port's rings: opened first, never synced (it would sync the workers'
 * rings), closed last, so that all rings enter and leave netmap mode in one step and the port stays
 * taken while workers come and go. Each descriptor has a mapping of its own: a mapping holds its
 * descriptor open, and a worker must hold nothing but its own ring.
 *
 * head, cur and tail are the rings' own, in the kernel's shared memory. What the backend must know
 * besides lies in MAP_SHARED memory, and each word is stored before the system call that it is
 * about: a published head never goes back, so a successor may do the call again. Start reading at
 * netmap_rx_sync.
 */
#pragma once
#include "ports/filter.h"
#include "ports/netmap_limits.h"
#include "ports/netmap_name.h"
#include "ports/port.h"
#include "ports/swring.h"

/* A frame of the host's on its way from its ring to the NIC's: netmap_bridge.c. */
struct netmap_move {
    uint32_t from; /* slots */
    uint32_t to;
    uint32_t sent; /* buffers */
    uint32_t back;
    uint16_t len;
};

/* Of one ring pair, in MAP_SHARED memory. */
struct netmap_shared {
    struct port_counters counters;
    uint32_t rx_head; /* as last handed to the kernel */
    uint32_t rx_tail; /* slots before this one are checked and counted */
    uint32_t tx_head;
    uint32_t tx_tail;      /* as the kernel left it; free slots before it are checked */
    uint32_t tx_unsynced;  /* a head was stored, its sync may not have happened */
    uint64_t tx_synced_us; /* when the last one was */
    uint32_t broken;       /* a slot held nonsense when nobody could be told */
    uint32_t host_head;    /* of the host ring beside it */
    uint32_t host_tail;    /* slots before this one are checked */
    uint64_t host_synced_us;
    volatile uint32_t moving; /* `move` is in hand */
    struct netmap_move move;
};

/* One descriptor with its mapping. Process-private, fixed after the open. */
struct netmap_file {
    const struct netmap_kernel *kernel;
    int fd;
    uint8_t *map; /* NULL: not mapped */
    size_t map_bytes;
    struct nm_if *nifp;
    struct nm_req_register granted; /* the kernel's answer */
};

struct netmap_ring {
    struct netmap_file file;
    struct swring stub; /* stands in for a direction that is not bound; base NULL: none */
    bool tx_stub;
    bool rx_stub;
    uint32_t tx_bufs; /* valid buffer indices of the TX ring are below this */
    uint32_t rx_bufs;
    const struct filter *filter; /* which frames are ours; NULL: all, and there is no host ring */
    struct netmap_file host;
    struct nm_ring *host_rx;
    uint32_t host_bufs;
    int both_fd; /* hears the NIC's ring and the host's; -1: none */
};

struct netmap_device {
    const struct netmap_kernel *kernel;
    struct netmap_name name;
    struct netmap_link link;
    struct netmap_limits limits;
    struct nm_req_port_info info; /* what the port has, asked before any of it was bound */
    struct netmap_file holder;
    int promiscuous_fd; /* -1: not needed */
    uint8_t *shared;    /* struct netmap_shared for each ring */
    size_t shared_bytes;
    uint32_t *extra; /* buffers besides those in the rings */
    uint32_t extra_n;
    uint32_t rings;
    bool bridged; /* the host has its frames */
    struct filter filter;
    struct netmap_ring ring[PORT_RINGS_MAX];
};

extern const struct port_ops netmap_port_ops;

static inline bool netmap_is_monitor(const struct netmap_device *netmap)
{
    return netmap->name.flags & NM_REG_MONITOR;
}

static inline bool netmap_takes_all(const struct netmap_device *netmap)
{
    return netmap->name.mode != NM_MODE_ONE_NIC && netmap->name.mode != NM_MODE_ONE_SW;
}

/* netmap.c: device_ops.open on a system that the caller gives. */
int netmap_open_on(struct device *device, const struct netmap_kernel *kernel, const char *name,
                   const struct device_config *config, char *error);

/* netmap_plan.c: how many rings the device takes, within what the port has and netmap can hold. */
int netmap_plan(struct device *device, const struct device_config *config, char *error);
uint32_t netmap_plan_nic_pairs(const struct netmap_device *netmap);
/* Whether the kernel granted what was asked for. */
int netmap_plan_compare(const struct device *device, const struct nm_req_register *got,
                        char *error);
/* A refusal of the kernel's in words. */
int netmap_plan_explain(struct device *device, uint32_t mode, int code, char *error);

/* netmap_file.c: 0 or -errno. */
/* A descriptor bound to `mode`, `ring` of the named port; `want` is asked of whoever creates it. */
int netmap_file_open(struct netmap_file *file, const struct netmap_name *name, uint32_t mode,
                     uint32_t ring, uint64_t flags);
int netmap_file_map(struct netmap_file *file);
/* Idempotent. */
void netmap_file_close(struct netmap_file *file);
/* What the port has, without binding it. */
int netmap_file_info(const struct netmap_kernel *kernel, const struct netmap_name *name,
                     struct nm_req_port_info *info);
/* How many buffers the mapping holds, as seen from this ring: a bound for its indices. */
uint32_t netmap_file_bufs(const struct netmap_file *file, const struct nm_ring *ring);
/* Rings of the pair that the descriptor is bound to; NULL: that direction is not. */
struct nm_ring *netmap_file_tx(const struct netmap_file *file);
struct nm_ring *netmap_file_rx(const struct netmap_file *file);

/* netmap_error.c: "netmap:NAME: what: what to do", and returns code. */
int netmap_refuse(char *error, const struct device *device, const char *what, int code);
int netmap_explain_open(char *error, const struct device *device, int code);
int netmap_explain_register(char *error, const struct device *device, uint32_t mode, int code);

int netmap_rx_sync(struct port *port, uint64_t now_us);
int netmap_tx_sync(struct port *port, uint64_t now_us);
/* Checks what lies in the rings as they are and sets the cursors; false: nonsense. */
bool netmap_sync_begin(struct port *port);

static inline struct netmap_shared *netmap_shared(const struct port *port)
{
    return port->shared;
}

static inline const struct netmap_ring *netmap_ring(const struct port *port)
{
    return port->priv;
}
