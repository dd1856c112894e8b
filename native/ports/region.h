/*
 * Building netmap regions in memory of our own: interfaces, rings and buffers as the kernel module
 * lays them out, so that one code serves both.
 */
#pragma once
#include "ports/netmap_abi.h"

/* One netmap_if in a region: so many ring pairs of so many slots; the last may be host rings. */
struct region_spec {
    uint32_t pairs;
    uint32_t slots;
    bool host;
};

struct region {
    uint8_t *base;
    uint32_t buf_size;
    uint32_t bufs;      /* buffers in all, the two reserved ones included */
    uint32_t next_buf;  /* first buffer not yet handed out */
    size_t bufs_offset; /* of buffer 0, from base */
    size_t used;        /* bytes of interfaces and rings so far */
};

/* Bytes that interfaces and rings of these specs take. */
size_t region_rings_bytes(const struct region_spec *specs, uint32_t n);
/* `base` is zeroed memory; rings come first, then `bufs` buffers at bufs_offset. */
void region_init(struct region *region, uint8_t *base, size_t rings_bytes, uint32_t bufs,
                 uint32_t buf_size);
size_t region_bytes(const struct region *region);
/* Lays out the next interface and gives each of its slots a buffer. */
struct nm_if *region_add_if(struct region *region, const char *name,
                            const struct region_spec *spec);
/* A buffer for whoever needs one outside the rings. */
uint32_t region_take_buf(struct region *region);
/* RX empty, TX free: the state after an open. Buffers stay in their slots. */
void region_reset_rx(struct nm_ring *ring);
void region_reset_tx(struct nm_ring *ring);

/* Counting where every buffer is: once each, or something is wrong. */
struct region_audit {
    uint8_t *seen;
    uint32_t bufs;
};

/* 0 or -ENOMEM. */
int region_audit_begin(struct region_audit *audit, uint32_t bufs);
void region_audit_buf(struct region_audit *audit, uint32_t buf);
/* The slots of all rings. */
void region_audit_if(struct region_audit *audit, struct nm_if *nifp);
/* How many were in no or in two places. */
int region_audit_end(struct region_audit *audit);
