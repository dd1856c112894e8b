/*
 * One suite for all ways to the wire: a table of wires times a table of cases, each pair in a
 * process of its own. A wire says how its port is opened and what its other end can do (struct
 * wire); a case knows the port alone, through native/ports/port.h. Start reading at struct wire,
 * then case_contract in case_ring.c; run.c holds both tables.
 */
#pragma once
#include "base/wire.h"
#include "check.h"
#include "ports/port.h"

enum {
    FRAME_MIN = 60,
    FRAME_LONGEST = ETH_HDR_LEN + 9000,
    FRAME_ROOM = 66000,
    RIG_SLOTS = 128, /* of a case's rings, unless it says otherwise */
    RIG_MTU = 9000,
    COME_MS = 30000, /* for what must come, on a machine that does other things, too */
    QUIET_MS = 40,   /* for what must not come */
    BURST = 24,      /* frames under way at a time: each medium holds so many */
    WIRES_MAX = 16,
};

/* The cases' numbers, in the order of the table in run.c. */
enum case_id {
    CASE_CONTRACT,
    CASE_WRAP,
    CASE_SIZES,
    CASE_PARTIAL,
    CASE_CUR,
    CASE_FULL,
    CASE_PRESSURE,
    CASE_PIECES,
    CASE_UNFINISHED_FRAME,
    CASE_VLAN,
    CASE_CHECKSUM,
    CASE_LENGTHS,
    CASE_CONSERVE,
    CASE_WAKE,
    CASE_IDLE,
    CASE_DOWN,
    CASE_DELETED,
    CASES,
};

/* A frame in one piece, without the virtio header's bytes in front. */
struct frame {
    struct vnet_hdr hdr;
    uint32_t len;
    uint32_t slots; /* of the ring that it was read from */
    uint8_t data[FRAME_ROOM];
};

struct wire;
struct peer; /* what a wire keeps for itself */

/* A case's port on a wire, and its other end. */
struct rig {
    const struct wire *wire;
    uint32_t slots; /* asked for */
    struct device *device;
    struct port *port; /* under test */
    struct peer *peer;
    uint32_t header; /* bytes before each frame in its first slot */
    uint8_t ours[6];
    uint8_t theirs[6];
    uint64_t frozen_us; /* the clock that the port is told; 0: the real one */
    uint32_t fds;       /* open before it was opened */
    struct frame in;    /* by rig_receive and rig_read */
    struct frame out;   /* by rig_collect */
};

struct wire {
    const char *name;
    bool net;              /* in a network namespace of the case's own */
    uint32_t frame_max;    /* longest that the medium passes; 0: FRAME_LONGEST */
    uint32_t slack;        /* slots that the port leaves free in a full RX ring */
    bool deaf;             /* the end of the link does not wake a sleeper: its next sync tells */
    bool poll_syncs;       /* waiting for the port moves its tail, as netmap's poll does */
    bool holds;            /* a peer that stands still holds the sender: nothing is dropped */
    bool local_kernel;     /* the other end may leave checksums unfinished */
    const uint16_t *vlans; /* tags that the medium is set up for, 0-terminated; NULL: any */
    /* False: failed or skipped, and said so. */
    bool (*open)(struct rig *rig);
    void (*close)(struct rig *rig);
    /* From the other end to the port; hdr as far as the other end has one. False: no room now. */
    bool (*inject)(struct rig *rig, const struct frame *frame);
    /* What the port has sent; false: nothing now. */
    bool (*collect)(struct rig *rig, struct frame *frame);
    /* Waits for the port's descriptor; NULL: by poll(). */
    bool (*woken)(struct rig *rig, int ms);
    /* Buffers in no or in two places. */
    int (*audit)(struct rig *rig);
    /* Frames that the other end could not get into the medium, as it counts them; NULL: none. */
    uint64_t (*lost)(struct rig *rig);
    void (*stall)(struct rig *rig, bool on); /* the medium takes nothing; NULL: always takes */
    void (*link)(struct rig *rig, bool up);
    void (*carrier)(struct rig *rig, bool up); /* the other end's link; NULL: the same thing */
    void (*remove)(struct rig *rig);
    bool (*told)(struct rig *rig); /* says that it is gone, where the port cannot; NULL: it can */
    int gone;                      /* what the port answers then; 0: drops, counted */
    const char *excused[CASES];    /* why a case does not apply */
};

struct conformance_case {
    const char *name;
    void (*run)(struct rig *rig);
};

/* The longest frame that the wire passes. */
uint32_t rig_frame_max(const struct rig *rig);
/* For a case; false: it has failed or was skipped. `slots` 0: RIG_SLOTS. */
bool rig_open(struct rig *rig, uint32_t slots);
/* With the laws: buffers back, no errors, no descriptors left. */
void rig_close(struct rig *rig);
uint64_t rig_now_us(const struct rig *rig);
uint64_t real_now_us(void);

/* Frame number `number` of `len` bytes: a UDP datagram to the port, or from it. */
void frame_in(const struct rig *rig, struct frame *frame, uint32_t number, uint32_t len);
void frame_out(const struct rig *rig, struct frame *frame, uint32_t number, uint32_t len);
/* The number that a frame carries, and whether all its bytes are right. */
uint32_t frame_number(const struct frame *frame);
bool frame_is_in(const struct rig *rig, const struct frame *frame);
bool frame_is_out(const struct rig *rig, const struct frame *frame);
/* Lengths that a burst of frames has: all sizes up to 1514, the same for the same number. */
uint32_t frame_len_of(uint32_t number);

/* Of a port whose slots have all the buffers that there are: how many are in no slot or in two. */
int rig_audit_rings(const struct port *port);

/* Gives the medium a frame, as soon as it has room. */
bool rig_inject(struct rig *rig, const struct frame *frame);
/* Frames `first` to `first + n` of the lengths above. */
void rig_inject_burst(struct rig *rig, uint32_t first, uint32_t n);
/* One sync, which must succeed. */
void rig_rx_sync(struct rig *rig);
void rig_tx_sync(struct rig *rig);
/* The frame at `slot` into rig->in; the slot behind. It must end before the tail. */
uint32_t rig_read(struct rig *rig, uint32_t slot);
/* Waits as a worker does for a frame, takes it into rig->in and gives its slots back. */
bool rig_receive(struct rig *rig);
/* Syncs until so many slots are between head and tail. */
bool rig_await_slots(struct rig *rig, uint32_t n);
/* What the port sleeps on becomes ready, in so many milliseconds. */
bool rig_woken(struct rig *rig, int ms);
/* A worker's sleep; true: it was woken, or had no need to sleep. */
bool rig_sleep(struct rig *rig, int ms);
/* The next frames must be these, in this order, and right. */
void rig_expect_in(struct rig *rig, uint32_t first, uint32_t n);
void rig_expect_out(struct rig *rig, uint32_t first, uint32_t n);

/* Puts a frame into free TX slots, `part` bytes in each (0: full ones); false: no room. */
bool rig_put(struct rig *rig, const struct frame *frame, uint32_t part);
/* Puts frame `number` there, syncing until there is room. */
bool rig_send(struct rig *rig, uint32_t number, uint32_t len);
/* Waits for a frame at the other end, syncing meanwhile; into rig->out. */
bool rig_collect(struct rig *rig);
/* Nothing comes to the other end for a while. */
bool rig_silent(struct rig *rig);
/* Syncs until all TX slots are free again. */
bool rig_drained(struct rig *rig);

/* case_ring.c */
void case_contract(struct rig *rig);
void case_wrap(struct rig *rig);
void case_sizes(struct rig *rig);
void case_partial(struct rig *rig);
void case_cur(struct rig *rig);
void case_conserve(struct rig *rig);
/* case_send.c */
void case_full(struct rig *rig);
void case_pressure(struct rig *rig);
void case_pieces(struct rig *rig);
void case_unfinished_frame(struct rig *rig);
/* case_frame.c */
void case_vlan(struct rig *rig);
void case_checksum(struct rig *rig);
void case_lengths(struct rig *rig);
/* case_life.c */
void case_wake(struct rig *rig);
void case_idle(struct rig *rig);
void case_down(struct rig *rig);
void case_deleted(struct rig *rig);

/* wire_soft.c, wire_netmap.c, wire_link.c, wire_vde.c */
extern const struct wire wire_mem;
extern const struct wire wire_mem_client;
extern const struct wire wire_pipe;
extern const struct wire wire_vale;
extern const struct wire wire_netmap;
extern const struct wire wire_packet;
extern const struct wire wire_xdp;
extern const struct wire wire_xdp_generic;
extern const struct wire wire_tap;
extern const struct wire wire_tap_single;
extern const struct wire wire_pcap;
extern const struct wire wire_vde;
