/*
 * Ring pairs for targets whose other side writes what it likes, and a user that keeps the rules: it
 * looks only behind a sync that worked, and then at every slot and every byte that it was given.
 */
#pragma once
#include "fuzz.h"
#include "ports/swring.h"

/* Rings and buffers in memory of their own, so that ASan sees the byte behind them. */
void rings_make(struct swring *rings, uint32_t slots, uint32_t buf_size, size_t extra);
/* Checks that both rings still hold the buffers of rings_make, then frees them. */
void rings_free(struct swring *rings);

/* A value as an attacker chooses it: near zero, near the limit, or anything. */
uint32_t rings_wild(struct input *input, uint32_t limit);

/* The worker of a port. What it may look at ends with the other side's next poke. */
struct rings_user {
    struct port *port;
    uint32_t bufs;
    uint32_t slots;
    uint32_t min_len; /* of a frame's first slot */
    uint64_t now_us;
    bool stopped; /* by the port: only a successor may go on */
    bool rx_ready;
    bool tx_ready;
    bool in_frame;  /* head stands behind a frame's first slots */
    bool tx_spoilt; /* by its own user: no law about it until the next TX sync */
};

/* Each returns what the sync returned: 0, -EIO with a counter, -ENODEV. */
int rings_rx(struct rings_user *user);
int rings_tx(struct rings_user *user);
/* Reads all bytes of at most `n` slots, then gives them back. */
void rings_take(struct rings_user *user, uint32_t n);
/* Writes whole buffers of free slots: one frame of `slots` slots. */
void rings_put(struct rings_user *user, uint32_t slots, uint16_t len);
/* A successor takes over. */
void rings_recover(struct rings_user *user);
