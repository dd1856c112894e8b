/*
 * A peer made of bare segments: tests speak to one shard over a mem: link frame by frame, and look
 * at each answer. The words follow packetdrill's: connect, send, expect.
 */
#pragma once
#include "sim.h"

enum {
    PEER_ANSWERS_MAX = 256,
    PEER_PAYLOAD_MAX = 2000,
    PEER_IP = 0x0a4d00c8,  /* 10.77.0.200 */
    SHARD_IP = 0x0a4d0001, /* 10.77.0.1 */
};

/* A segment that the shard sent. */
struct answer {
    uint32_t seq;
    uint32_t ack;
    uint16_t window;
    uint16_t len; /* of the payload */
    uint16_t mss; /* in a SYN; 0: none */
    uint8_t flags;
    uint8_t wscale; /* UINT8_MAX: none */
    uint16_t to_port;
    uint64_t at_us;
    uint8_t payload[PEER_PAYLOAD_MAX];
};

struct peer {
    struct sim sim;
    struct mem_attachment *attachment;
    struct port *port;
    uint32_t ip; /* ours, host order */
    uint16_t local_port;
    uint16_t tcp_port;
    uint32_t iss; /* ours */
    uint32_t irs; /* theirs */
    struct answer answers[PEER_ANSWERS_MAX];
    uint32_t answers_n;
    uint32_t read; /* answers already expected */
    /* Sees every frame that the shard sends; NULL: only TCP is looked at. */
    void (*tap)(struct peer *peer, const uint8_t *frame, uint32_t len);
};

/* What one segment is; seq and ack are relative to the initial numbers. */
struct send {
    uint32_t seq;
    uint32_t ack;
    uint8_t flags;
    uint16_t window;
    const char *payload; /* NULL: none */
    uint32_t len;        /* 0: strlen of the payload */
    const uint8_t *options;
    uint32_t options_len; /* a multiple of four */
    bool damaged;         /* a wrong checksum */
};

void peer_open(struct peer *peer);
/* The same before several shards. */
void peer_open_shards(struct peer *peer, uint32_t shards);
/* Ends with the laws. */
void peer_close(struct peer *peer);
void peer_send(struct peer *peer, const struct send *send);
/* The same, but time stands still: several segments are one burst. */
void peer_post(struct peer *peer, const struct send *send);
/* Any frame. */
void peer_put(struct peer *peer, const uint8_t *frame, uint32_t len);
/* Lets time pass; answers are collected. */
void peer_run(struct peer *peer, uint64_t us);
/* The next answer not yet looked at; NULL: none came. */
const struct answer *peer_next(struct peer *peer);
/* Forgets answers. */
void peer_flush(struct peer *peer);
/* Three-way handshake to a port, with an MSS of 1460 and no window scale. */
void peer_connect(struct peer *peer, uint16_t tcp_port);
/* Checks the next answer: flags, relative seq and ack, payload length. */
bool peer_expect(struct peer *peer, uint8_t flags, uint32_t seq, uint32_t ack, uint32_t len);
/* Checks that nothing was said. */
bool peer_silent(struct peer *peer);
