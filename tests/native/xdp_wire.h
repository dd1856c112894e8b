/* A wire whose service side is opened as xdp:srv0, beside what packet_wire.h has. */
#pragma once
#include "packet_wire.h"
#include "ports/xdp.h"

enum {
    XDP_QUEUES = 4,
    XDP_SLOTS = 256,
};

/* How a case's device is opened. */
struct xdp_plan {
    const char *spec;  /* "xdp:srv0:generic" */
    unsigned rings;    /* 0: one */
    unsigned queues;   /* 0: one */
    unsigned mtu;      /* 0: 1500 */
    uint32_t ip;       /* 0: all frames are ours */
    uint32_t buf_size; /* 0: by the MTU */
};

/* Where bpf(2) is refused, as in a user namespace, there is no AF_XDP to test: skipped, then. */
bool xdp_wire_usable(void);
/* cli0 and srv0 with the device and a UDP socket; false: skipped or failed, and said so. */
bool xdp_wire_open(struct packet_wire *wire, const struct xdp_plan *plan);
/* Buffers of a port that are in no place or in two, when nothing is in flight in the kernel. */
int xdp_wire_audit(const struct port *port);
/* Sends a frame as it is from the client's interface. */
void xdp_wire_inject(const uint8_t *frame, size_t len);
