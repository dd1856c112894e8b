/*
 * A /dev/netmap in memory, for tests of the netmap backend without the module: the same control
 * requests, memory layout and sync rules, on ports that a test makes: NICs with host rings, pipes,
 * learning switches, memory regions that are shared or not, links that go down. All state is in one
 * shared mapping, so that forked workers make their "system calls" on it, too. Start reading at
 * fake_ioctl.
 */
#pragma once
#include "ports/netmap_abi.h"
#include "ports/netmap_kernel.h"

enum {
    FAKE_PORTS_MAX = 16,
    FAKE_REGIONS_MAX = 12, /* the first is the common one */
    FAKE_MACS_MAX = 64,
    FAKE_RINGS_MAX = 16, /* of a direction, host rings included */
    FAKE_FDS_MAX = 1024,
    FAKE_CALLS_MAX = 64,
    FAKE_WIRE_MAX = 64, /* frames */
    FAKE_FRAME_MAX = 9216,
    FAKE_BUF_SIZE = 2048,
    FAKE_BUFS = 8192,
    FAKE_RING_OBJECTS = 64,
    FAKE_RING_BYTES = 36864,
    FAKE_IF_OBJECTS = 64,
    FAKE_IF_BYTES = 1024,
};

enum fake_dir {
    FAKE_RX,
    FAKE_TX,
};

/* What a NIC has sent, or what is on the way to it. */
struct fake_wire {
    uint32_t first;
    uint32_t n;
    uint32_t len[FAKE_WIRE_MAX];
    uint8_t data[FAKE_WIRE_MAX][FAKE_FRAME_MAX];
};

struct fake_kring {
    uint32_t slots;
    uint32_t region;
    uint32_t pipe_tail; /* pipes: what the other side has made of this one's slots */
    uint32_t object;    /* ring object + 1; 0: none */
    uint32_t hwcur;
    uint32_t hwtail;
    uint32_t users;
    bool exclusive;
    bool kept;    /* a pipe's: its ring lives as long as either end is open */
    bool stopped; /* by the test: its driver is gone */
    struct fake_wire wire;
};

struct fake_port {
    char name[NM_NAME_MAX]; /* "": unused */
    uint32_t rings[2];      /* by enum fake_dir, without host rings */
    uint32_t host_rings;    /* of each direction */
    uint32_t slots[2];
    uint16_t mem_id; /* region + 1 */
    bool down;       /* by the test: nothing leaves, what comes is lost */
    uint32_t peer;   /* pipes: the other end's index + 1 */
    uint32_t fds;
    uint32_t stuck;      /* by the test: so many TX syncs in which the driver takes nothing */
    bool slow;           /* by the test: TX slots complete one sync later */
    struct fake_wire up; /* what went to the host by NM_FORWARD */
    struct fake_kring kring[2][FAKE_RINGS_MAX];
};

/* What a descriptor is bound to. */
struct fake_file {
    bool open;
    int owner;     /* a forked copy that closes leaves the port bound, as in the kernel */
    uint32_t port; /* index + 1; 0: not registered */
    uint32_t first[2];
    uint32_t last[2];
    uint64_t flags;
    uint32_t if_object;
    uint32_t region;
};

/* What a switch has learned. */
struct fake_mac {
    uint8_t mac[6];
    uint32_t port; /* index + 1; 0: unused */
};

struct fake_call {
    char what; /* 'r'egister, 'c'lose of a registered one */
    uint32_t mode;
    uint32_t ring;
};

struct fake_state {
    struct fake_port port[FAKE_PORTS_MAX];
    struct fake_file file[FAKE_FDS_MAX];
    struct fake_call call[FAKE_CALLS_MAX];
    uint32_t calls;
    uint32_t mappings;
    uint32_t fail_at; /* the so manieth request, mapping or open fails; 0: none does */
    int fail_code;
    uint32_t steps;
    uint32_t in_kernel; /* nobody can be killed here */
    uint32_t syncs;
    bool promiscuous;
    bool admits; /* false: /dev/netmap cannot be opened */
    int open_code;
    struct netmap_link link;
    uint32_t carrier_after; /* link() says running after so many questions */
    uint64_t ring_size;
    uint64_t admode;
    struct fake_mac mac[FAKE_MACS_MAX];
    uint8_t buf_used[FAKE_REGIONS_MAX][FAKE_BUFS];
    uint8_t ring_used[FAKE_REGIONS_MAX][FAKE_RING_OBJECTS];
    uint8_t if_used[FAKE_REGIONS_MAX][FAKE_IF_OBJECTS];
};

extern const struct netmap_kernel fake_kernel;
extern struct fake_state *fake;

/* An empty machine with the module loaded. */
void fake_begin(void);
/* Ends it; false: a descriptor, mapping or buffer was left. */
bool fake_end(void);
/* An interface with so many rings; more can be set in what is returned. */
struct fake_port *fake_nic(const char *name, uint32_t tx_rings, uint32_t rx_rings, uint32_t slots);
struct fake_port *fake_find(const char *name);
/* A frame arrives for the ring; false: the wire is full. */
bool fake_receive(struct fake_port *port, uint32_t ring, const void *data, uint32_t len);
/* Takes the oldest frame that the ring has sent; its length, 0: none. */
uint32_t fake_sent(struct fake_port *port, uint32_t ring, void *data);
/* Takes the oldest frame that was handed on to the host; its length, 0: none. */
uint32_t fake_went_up(struct fake_port *port, void *data);
/* Buffers that nobody has. */
uint32_t fake_free_bufs(void);

/* fake_netmap_ring.c */
uint8_t *fake_region(void); /* the common one; the others lie behind it */
uint8_t *fake_region_at(uint32_t region);
size_t fake_region_bytes(void);
/* Creates the ring's object and fills it with buffers; false: no memory. */
bool fake_ring_create(struct fake_port *port, enum fake_dir dir, uint32_t index);
void fake_ring_delete(struct fake_kring *kring);
struct nm_ring *fake_ring(const struct fake_kring *kring);
uint64_t fake_ring_offset(const struct fake_kring *kring);
void fake_sync(struct fake_port *port, enum fake_dir dir, uint32_t index);
uint32_t fake_buf_take(uint32_t region);
uint8_t *fake_buf(uint32_t index); /* of the common region */
uint8_t *fake_buf_at(uint32_t region, uint32_t index);
bool fake_wire_put(struct fake_wire *wire, const void *data, uint32_t len);

/* fake_netmap_soft.c: ports that are made by whoever opens them */
struct fake_port *fake_port_add(const char *name);
/* The port, made if its name is a pipe's or a switch port's; NULL: none, `code` says why. */
struct fake_port *fake_find_or_make(const char *name, const struct nm_req_register *want,
                                    int *code);
/* After its last descriptor: such a port goes. */
void fake_port_release(struct fake_port *port);
bool fake_is_switch(const struct fake_port *port);
/* A frame of one port of a switch, to those that it is for. */
void fake_switch_frame(struct fake_port *from, const uint8_t *frame, uint32_t len);
/* The interface that the kernel makes for pipes without one. */
bool fake_is_base(const char *iface);
/* The syncs of a pipe's ring. */
void fake_pipe_tx(struct fake_kring *kring, struct fake_kring *peer, const struct nm_ring *ring);
void fake_pipe_rx(struct fake_kring *kring, struct fake_kring *peer, const struct nm_ring *ring);
