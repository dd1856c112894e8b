/*
 * Software rings for a device that takes and gives one frame a system call: what tap, pcap and vde
 * share. Slots become I/O vectors and back, and a TX ring is sent frame by frame.
 *
 * Slots are as in port.h, each frame behind its virtio header. A kill may fall between any two
 * instructions: the frame that was in the system call may be sent again, no other is, and none is
 * left out. Unlike AF_PACKET's sendmmsg(), these calls leave no trace in memory of whether they
 * were made, and a frame that comes twice costs a peer less than one that never comes.
 */
#pragma once
#include <sys/uio.h>

#include "ports/port.h"

enum {
    FRAMEWISE_SLOTS = 64,        /* of one frame at most, as in netmap */
    FRAMEWISE_FRAME_MAX = 65580, /* an IPv4 packet of 65,535 bytes with its MACs and VLAN tags */
    FRAMEWISE_DEFAULT_SLOTS = 1024,
    FRAMEWISE_DEFAULT_BUF = 2048,
};

/* A part of what a port has in MAP_SHARED memory. */
struct framewise_tx {
    uint32_t slot; /* the next to send: the one word that commits a frame */
    uint32_t pad;
    uint64_t refused_us; /* when the kernel began to refuse frames; 0: it takes them */
};

/*
 * Sends one frame, virtio header first. 0, or -errno: -EAGAIN and its like are tried again for a
 * while, everything else drops the frame.
 */
typedef int framewise_send(const struct port *port, const struct iovec *iov, int n);

/* -EOPNOTSUPP: the frame's header asks for what this device does not do; 0: it is whole. */
int framewise_whole(const struct iovec *iov);

/* The port's ring up to head; 0, or -EIO when a slot holds what cannot be. */
int framewise_tx_sync(struct port *port, struct framewise_tx *tx, framewise_send *send,
                      uint64_t now_us);
/* In a successor: what the ring's tail must be. */
void framewise_tx_recover(struct port *port, const struct framewise_tx *tx);

/*
 * The buffers of `n` slots from `slot` on as vectors, those that touch as one. Returns how many
 * vectors; 0: a slot's buffer index cannot be.
 */
int framewise_iov(const struct nm_ring *ring, uint32_t slot, uint32_t n,
                  struct iovec iov[FRAMEWISE_SLOTS]);
/* Its buffer index is one of the rings'. */
bool framewise_slot_valid(const struct nm_ring *ring, uint32_t slot);
/* Marks the slots that a frame of `len` bytes fills, header included; returns the slot behind. */
uint32_t framewise_mark(struct nm_ring *ring, uint32_t slot, uint32_t len);
/* Slots that the longest frame can take. */
uint32_t framewise_slots(const struct nm_ring *ring);
/* Copies a header and a frame into free slots and marks them; the slot behind, or UINT32_MAX: a
 * buffer index that cannot be. */
uint32_t framewise_copy(struct nm_ring *ring, uint32_t slot, const struct iovec parts[2]);
/* Copies the vectors into one piece; its length, 0: longer than `size`. */
size_t framewise_join(const struct iovec *iov, int n, uint8_t *to, size_t size);

/* 0, or -EINVAL with a sentence in error: rings, slots and buffers within their limits. */
int framewise_check(const struct device_config *config, const char *spec, char *error);
/* Writes "SPEC: what (errno in words)" and returns code. */
int framewise_refuse(char *error, const char *spec, const char *what, int code);
