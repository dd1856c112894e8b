/* Bringing a frame from one port's RX ring to another's TX ring. */
#pragma once
#include "tools/tool.h"

struct mover {
    struct port *from;
    struct port *to;
    bool swap; /* buffers change places: same region, same kind of header */
};

enum move_answer {
    MOVE_SWAPPED,
    MOVE_COPIED,
    MOVE_NO_ROOM,    /* nothing was done */
    MOVE_UNSENDABLE, /* a super-segment, or a partial checksum over several buffers */
};

void mover_init(struct mover *mover, struct port *from, struct port *to, bool copy);
/* Slots of the frame at `at`; 0: its end has not come, or it is longer than a frame can be. */
uint32_t move_frame_slots(const struct nm_ring *ring, uint32_t at);
/* Moves the frame of `n` slots at `at` into the TX ring, up to the user: give `at` back after. */
enum move_answer move_frame(const struct mover *mover, uint32_t at, uint32_t n);
/* The frame's bytes without a port's header, `max` at most; 0: it cannot be had so. */
uint32_t move_flatten(struct port *from, uint32_t at, uint32_t n, uint8_t *bytes, uint32_t max);
/* Copies flat bytes as a frame into the TX ring. */
enum move_answer move_bytes(struct port *to, const uint8_t *bytes, uint32_t len);
