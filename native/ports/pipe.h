/*
 * Pipes: mem:NAME{ID and mem:NAME}ID are the two ends of one, named as netmap names them. Each end
 * has rings of its own in one region; a sender's sync exchanges the buffers of its TX slots with
 * those of the other end's RX slots at the same place, so both rings are always in step. Whoever
 * opens an end that died, or was closed, finds the rings where they stood, and empty.
 *
 * "NAME{ID@REGION" puts a pipe into a region that up to 16 pipes share: buffers may then be
 * exchanged between them, too. The first of them decides on rings and slots of all.
 *
 * A full RX ring holds its sender, as in netmap; an end that is not open swallows, counted.
 */
#pragma once
#include "ports/swap_log.h"
#include "ports/soft.h"

enum {
    PIPE_MAGIC = 0x70697065,
    PIPE_ENDS = 2,
    PIPE_LINKS_MAX = 16,   /* in a region */
    PIPE_PROBE_US = 10000, /* a sender that is held so long asks whether anybody is there */
    PIPE_UP = 1,
};

/* One way of one ring pair. */
struct pipe_way {
    _Alignas(CACHE_LINE) _Atomic uint32_t published; /* sender: frames have come up to here */
    uint32_t filled;                                 /* sender: exchanged up to here */
    uint32_t held_released;                          /* sender: where the reader stood then */
    uint64_t held_us;                                /* since when it stands; 0: not held */
    _Alignas(CACHE_LINE) struct swap_log log;        /* sender */
    _Alignas(CACHE_LINE) _Atomic uint32_t released;  /* reader: slots before are free again */
};

/* One ring pair of one end; its worker is the only writer but for `sleeping`'s readers. */
struct pipe_side {
    _Alignas(CACHE_LINE) _Atomic uint32_t sleeping;
    _Alignas(CACHE_LINE) _Atomic uint32_t sync_seq; /* odd: inside a TX sync */
    struct port_counters counters;
};

/* One pipe. */
struct pipe_link {
    char name[PORT_NAME_MAX]; /* "NAME{ID"; "": never used */
    uint64_t if_ofs[PIPE_ENDS];
    _Atomic uint32_t up[PIPE_ENDS]; /* PIPE_UP | how often it was opened before, times two */
    struct pipe_way way[PIPE_ENDS][PORT_RINGS_MAX]; /* from this end */
    struct pipe_side side[PIPE_ENDS][PORT_RINGS_MAX];
};

struct pipe_shared {
    uint32_t magic;
    uint32_t rings;
    uint32_t bufs;
    uint32_t mtu;
    uint32_t links;
    struct pipe_link link[];
};

struct pipe_device {
    struct soft soft;
    struct pipe_shared *shared;
    struct pipe_link *link; /* ours */
    uint32_t links;         /* own copy */
    uint32_t end;
    char name[PORT_NAME_MAX]; /* of the pipe */
};

/* The number of an end of our pipe among all ends of the memory. */
static inline uint32_t pipe_soft_end(const struct pipe_device *pipe, uint32_t end)
{
    return (uint32_t)(pipe->link - pipe->shared->link) * PIPE_ENDS + end;
}

/* By who holds the end's lock. */
static inline void pipe_go_up(struct pipe_link *link, uint32_t end)
{
    atomic_store(&link->up[end], (atomic_load(&link->up[end]) + 2) | PIPE_UP);
}

/* Where a port stands: port->priv. */
struct pipe_place {
    struct pipe_device *pipe;
    struct pipe_way *out;
    struct pipe_way *in;
    struct pipe_side *side;
    struct pipe_side *peer;
    struct nm_ring *peer_rx;
    uint32_t bufs; /* these three as they were at the open: what stands in the ring may change */
    uint32_t buf_size;
    uint32_t slots;
};

extern const struct port_ops pipe_port_ops;

/* Completes what a dead sender left half done. */
void pipe_way_recover(struct pipe_way *way, struct nm_ring *tx, struct nm_ring *peer_rx,
                      uint32_t bufs);
