/*
 * A learning switch in shared memory: vale:SWITCH:PORT. It has no process: the sender's sync looks
 * a frame's destination up and exchanges buffers with a cell of the lane from its port to that one;
 * the receiver's sync exchanges them on into its ring. A frame to everybody, or to an address not
 * yet seen, is copied to all. A lane that is full drops, counted by the sender: nobody is held up
 * by somebody else's receiver.
 *
 * Lanes have one sender and one receiver. Each keeps two positions: how far it has got (its own),
 * and how far it has told the other (once a sync). Start reading at vale_tx_sync.
 */
#pragma once
#include "ports/swap_log.h"
#include "ports/soft.h"

enum {
    VALE_MAGIC = 0x76616c65,
    VALE_PORTS = 16,
    VALE_NAME_MAX = 16,
    VALE_CELLS = 256, /* of a lane, a power of two */
    VALE_TABLE = 1024,
    VALE_AGE_S = 120,      /* an address not seen for so long is forgotten; below 256 */
    VALE_PROBE_US = 10000, /* between two looks whether a full lane's receiver lives */
};

struct vale_lane {
    _Alignas(CACHE_LINE) _Atomic uint32_t tail; /* sender has told */
    uint32_t filled;                            /* sender has got so far */
    uint64_t probed_us;
    _Alignas(CACHE_LINE) _Atomic uint32_t head; /* receiver has told */
    uint32_t taken;                             /* receiver has got so far */
    _Alignas(CACHE_LINE) struct nm_slot cell[VALE_CELLS];
};

/* A port's state; its worker is the only writer, but for `sleeping`'s readers. */
struct vale_side {
    _Alignas(CACHE_LINE) _Atomic uint32_t sleeping;
    _Alignas(CACHE_LINE) uint32_t tx_hwcur; /* first TX slot not yet sent */
    uint32_t rx_filled;                     /* RX slots are filled up to here */
    uint32_t rx_first;                      /* lane served first in the next sync */
    struct swap_log tx_log;
    struct swap_log rx_log;
    struct port_counters counters;
};

/* A MAC address, its port and when it was last seen, in one word: nobody sees half of one. */
typedef _Atomic uint64_t vale_entry;

struct vale_shared {
    uint32_t magic;
    uint32_t bufs;
    uint32_t mtu;
    uint32_t pad;
    uint64_t if_ofs[VALE_PORTS];
    uint64_t lanes_ofs;
    char name[VALE_PORTS][VALE_NAME_MAX];
    _Atomic uint64_t up; /* bit per port; above, three bits per port: how often it was opened */
    _Alignas(CACHE_LINE) vale_entry table[VALE_TABLE];
    struct vale_side side[VALE_PORTS];
};

struct vale_device {
    struct soft soft;
    struct vale_shared *shared;
    struct vale_lane *lanes; /* [from][to] */
    struct vale_side *side;
    struct nm_ring *rx;
    struct nm_ring *tx;
    uint32_t port; /* ours */
    uint8_t *buf0; /* these four as they were at the open: what stands in the ring may change */
    uint32_t bufs;
    uint32_t buf_size;
    uint32_t slots;
    uint32_t found; /* this sync's last look-up: its answer, and both addresses */
    uint64_t asked[2];
};

extern const struct port_ops vale_port_ops;

static inline struct vale_lane *vale_lane_at(const struct vale_device *vale, uint32_t from,
                                             uint32_t to)
{
    return &vale->lanes[from * VALE_PORTS + to];
}

static inline struct nm_slot *vale_cell_at(struct vale_lane *lane, uint32_t position)
{
    return &lane->cell[position & (VALE_CELLS - 1)];
}

/* Completes what a dead predecessor of this port left half done. */
void vale_side_recover(struct vale_device *vale);
/* After that, in a new process: rings as after an open, what was not read yet is dropped. */
void vale_side_reset(struct vale_device *vale);

static inline uint64_t vale_up_bit(uint32_t port)
{
    return (uint64_t)1 << port;
}

/* In `up`: how often a port was opened, modulo eight. */
static inline uint32_t vale_opens_shift(uint32_t port)
{
    return VALE_PORTS + 3 * port;
}

/* By who holds the port's lock. */
void vale_go_up(struct vale_shared *shared, uint32_t port);
/* vale_table.c: the port of a MAC address, VALE_PORTS if it is not known. */
uint32_t vale_find(struct vale_shared *shared, const uint8_t *mac, uint64_t now_us);
void vale_learn(struct vale_shared *shared, const uint8_t *mac, uint32_t port, uint64_t now_us);
