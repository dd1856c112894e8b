/*
 * The contract of every way to the wire: two netmap rings and a sync.
 *
 * A *device* is opened once, by the orchestrator, before it forks: descriptors, rings and cursors
 * live in MAP_SHARED mappings that all workers inherit at the same address. A *port* is one ring
 * pair of it, used by one worker at a time. Start reading at struct port.
 *
 * Rings follow netmap: the user owns slots [head, tail); RX slots there hold frames, TX slots there
 * are free. Consumed slots return, and new frames come, only in a sync. A frame is one or more
 * slots, all but the last flagged NM_MOREFRAG. Slots are changed only inside [head, tail). What the
 * user has looked at but keeps lies between head and cur. tests/native/conformance holds every
 * backend to this.
 */
#pragma once
#include "base/compiler.h"
#include "ports/netmap_abi.h"

enum {
    PORT_RINGS_MAX = 64,
    PORT_NAME_MAX = 64,
    PORT_ERROR_MAX = 256,
    PORT_VNET_HDR_LEN = 12,
    PORT_TCP_PORTS_MAX = 16,
};

/* Which frames of a card that we share with the host are ours. */
enum port_take {
    PORT_TAKE_ADDRESS, /* to our address */
    PORT_TAKE_PORTS,   /* to our TCP ports at our address, which is the host's as well */
    PORT_TAKE_ALL,     /* all: the host gets none */
};

/* What a port can do; `stack` looks here once per burst, never per frame. */
enum port_cap {
    PORT_CAP_VNET_HDR = 1 << 0, /* the first slot of each frame begins with struct vnet_hdr */
    PORT_CAP_RX_GSO = 1 << 1,   /* frames longer than the MTU may arrive (super-segments) */
    PORT_CAP_TX_CSUM = 1 << 2,  /* NEEDS_CSUM is honoured on transmit */
    PORT_CAP_TX_GSO = 1 << 3,   /* super-segments are taken on transmit */
    PORT_CAP_HOST = 1 << 4,     /* slots marked NM_FORWARD are the host's, NM_REPORT lost to it */
};

/* virtio_net_hdr_mrg_rxbuf, little endian as on the wire of a virtio queue. */
struct vnet_hdr {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t hdr_len;
    uint16_t gso_size;
    uint16_t csum_start;
    uint16_t csum_offset;
    uint16_t num_buffers;
};
_Static_assert(sizeof(struct vnet_hdr) == PORT_VNET_HDR_LEN, "virtio_net_hdr is 12 bytes");

enum {
    VNET_F_NEEDS_CSUM = 1, /* checksum is partial: the pseudo-header sum stands in its field */
    VNET_F_DATA_VALID = 2, /* checksum was verified */
    VNET_GSO_NONE = 0,
    VNET_GSO_TCPV4 = 1,
};

/* Counted by the ring itself, whatever the stack says (DESIGN 10.10). Shared memory, one writer. */
struct port_counters {
    _Alignas(CACHE_LINE) uint64_t rx_frames;
    uint64_t rx_bytes;
    uint64_t rx_syncs;  /* syncs that brought at least one frame */
    uint64_t rx_missed; /* frames for this ring that found no room, where the backend knows; of
                         * mem: those that a client left behind, counted by the owner */
    uint64_t tx_frames;
    uint64_t tx_bytes;
    uint64_t tx_syncs;   /* syncs that sent at least one frame */
    uint64_t tx_dropped; /* frames the backend could not pass on: peer's lane full, no peer */
    uint64_t syscalls;
    uint64_t errors;   /* ring contents out of bounds: the port has stopped */
    uint64_t rx_ended; /* 1: the source, a file, was read to its end */
};

struct port;

struct port_ops {
    const char *backend;
    /* Gives consumed RX slots back and fetches what has come. 0 or -errno (the port is dead). */
    int (*rx_sync)(struct port *port, uint64_t now_us);
    /* Sends slots up to head and reclaims completed ones. 0 or -errno. */
    int (*tx_sync)(struct port *port, uint64_t now_us);
    /* Before the worker sleeps on wait_fd. 1: frames are there, do not sleep; 0: armed. Frames
     * between head and cur have been looked at and keep nobody awake. */
    int (*sleep_arm)(struct port *port);
    /* After the sleep; drains wait_fd if it is an eventfd. */
    void (*sleep_disarm)(struct port *port);
    /* In the successor of a worker that died at any instruction, before any sync. */
    int (*recover)(struct port *port);
};

/* Process-private handle; everything that changes lies behind rx, tx, counters and shared. */
struct port {
    const struct port_ops *ops;
    struct nm_ring *rx;
    struct nm_ring *tx;
    struct port_counters *counters;
    void *shared; /* the backend's cursors, MAP_SHARED */
    void *priv;   /* the backend's own, fixed after open */
    uint32_t ring_id;
    uint32_t caps;
    int wait_fd;     /* poll it for POLLIN; -1: none */
    uint32_t bufs;   /* a slot's buf_idx is below; 0: unknown */
    uint64_t region; /* the same in two ports: buffers may be exchanged; 0: see port_same_region */
};

/* What the caller wants of a device; zero means the backend's default. */
struct device_config {
    uint32_t rings;
    uint32_t slots;    /* per ring */
    uint32_t buf_size; /* bytes, default 2048 */
    uint32_t links;    /* mem: attachments at most */
    uint32_t mtu;
    uint32_t ip;   /* whose frames are ours, host order; 0: everybody's */
    uint32_t take; /* enum port_take; where the wire is shared with a host */
    uint16_t tcp_ports[PORT_TCP_PORTS_MAX]; /* with PORT_TAKE_PORTS; 0 ends them */
    uint64_t queues;  /* xdp: the card's queues that we take, a bit each; 0: all */
    uint8_t mac[6];   /* mem: MAC of the server side; zero: derived from the name */
    bool every_frame; /* of any kind and to any MAC, whatever `take` says */
    uint64_t seed;
    char faults[128]; /* "rx.drop=5%,tx.reorder=5%,dup=2%,corrupt=0.1%,delay=1ms"; "": none */
};

struct device_ops;

struct device {
    const struct device_ops *ops;
    void *priv;
    char name[PORT_NAME_MAX]; /* "mem:demo", "packet:eth0" */
    uint32_t rings;
    uint32_t mtu;
    uint8_t mac[6];
    bool host_arp;   /* the host's kernel speaks ARP for our address, and hears the answers */
    uint16_t region; /* devices of one number swap buffers by index; 0: shares none */
    int event_fd;    /* for the owner's poll loop: device_event() when readable; -1: none */
    char banner[PORT_ERROR_MAX]; /* what was obtained, in words: "TPACKET_V2 rx, sendmmsg tx" */
    struct port ports[PORT_RINGS_MAX];
};

struct device_ops {
    const char *backend;
    int (*open)(struct device *device, const char *name, const struct device_config *config,
                char *error);
    /* mem: a client attached or hung up; a device of one queue: its feeder ended. Called by the
     * owner when event_fd is readable. 1: the feeder was replaced; 0 or -errno. */
    int (*event)(struct device *device);
    int (*audit)(struct device *device);
    void (*keep_only)(struct device *device, uint32_t ring_id);
    void (*leave)(struct device *device);
    void (*close)(struct device *device);
};

/*
 * Opens "BACKEND:NAME", wrapped in `faulty` if the config asks. On failure returns -errno, writes
 * one sentence that names device, cause and next step into error[PORT_ERROR_MAX], and leaves
 * nothing.
 */
int device_open(struct device **out, const char *spec, const struct device_config *config,
                char *error);
int device_event(struct device *device);
void device_close(struct device *device);
/* Buffers in no or in two places, 0 is right; -ENOTSUP where buffers are not shared. */
int device_audit(struct device *device);
/* Closes this process's descriptors of all rings but one. */
int device_keep_only(struct device *device, uint32_t ring_id);
/* In a child that serves no ring: lets go of what would keep the device taken. Counters stay. */
void device_leave(struct device *device);
/* The backends of this build; NULL beyond the last. */
const char *device_backend_name(uint32_t index);

/* The client's side of "mem:NAME" that another process (or this one) owns: one port, ring_id 0. */
struct mem_attachment;
int mem_attach(struct mem_attachment **out, const char *name, char *error);
/* The same within the process that opened the device: tests and simulation. */
int mem_attach_local(struct mem_attachment **out, struct device *device);
/* Likewise as the host behind "mem:NAME*"; by name it is mem_attach of "NAME^". */
int mem_attach_local_host(struct mem_attachment **out, struct device *device);
struct port *mem_attachment_port(struct mem_attachment *attachment);
/* The MAC given to this link and the MAC of the device. */
const uint8_t *mem_attachment_mac(const struct mem_attachment *attachment, bool server);
uint32_t mem_attachment_mtu(const struct mem_attachment *attachment);
uint32_t mem_attachment_link(const struct mem_attachment *attachment);
/* 1 while the owner lives. */
int mem_attachment_alive(struct mem_attachment *attachment);
/* Readable once the owner is gone; -1: local. */
int mem_attachment_fd(const struct mem_attachment *attachment);
/* The owner's rings still take what was sent before. */
void mem_detach(struct mem_attachment *attachment);
/* Wraps an open port (a client's, say) with faults; the wrapper's rings replace the inner ones. */
int faulty_wrap(struct port *port, const char *spec, uint64_t seed, char *error);
void faulty_unwrap(struct port *port);
