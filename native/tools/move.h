/* Bringing a frame from one port's RX ring to another's TX ring. */
#pragma once
#include "tools/cut.h"
#include "tools/tool.h"

enum {
    MOVE_FRAME_MAX = 65580, /* an IPv4 packet of 65,535 bytes with its MACs and VLAN tags */
};

/* Where a frame is put together, and its segments; of one thread. */
struct move_scratch {
    uint8_t whole[MOVE_FRAME_MAX];
    uint8_t segment[MOVE_FRAME_MAX];
};

struct mover {
    struct port *from;
    struct port *to;
    struct move_scratch *scratch; /* NULL: what has to be rewritten is not sendable */
    uint32_t mtu;                 /* of the target; 0: unknown */
    bool swap;                    /* buffers change places: same region, same kind of header */
};

/* A frame as its target takes it: flat, in one piece or in segments. */
struct move_pieces {
    struct cut cut;
    const uint8_t *bytes;
    uint32_t len;
    uint32_t n;
    bool whole; /* bytes are the one piece */
};

enum move_answer {
    MOVE_SWAPPED,
    MOVE_COPIED,
    MOVE_NO_ROOM,    /* nothing was done */
    MOVE_UNSENDABLE, /* a header that the target does not carry, and that cannot be settled here */
};

void mover_init(struct mover *mover, struct port *from, struct port *to, bool copy);
/* Super-segments are cut for a target that does not take them. */
void mover_cut(struct mover *mover, struct move_scratch *scratch, uint32_t mtu);
/* Slots of the frame at `at`; 0: its end has not come, or it is longer than a frame can be. */
uint32_t move_frame_slots(const struct nm_ring *ring, uint32_t at);
/* Moves the frame of `n` slots at `at` into the TX ring, up to the user: give `at` back after. */
enum move_answer move_frame(const struct mover *mover, uint32_t at, uint32_t n);
/* The frame flat in the scratch memory, as its target takes it; false: it cannot be had so. */
bool move_pieces(const struct mover *mover, uint32_t at, uint32_t n, struct move_pieces *pieces);
/* Piece `i` and its length; in the scratch memory, until the next call. */
const uint8_t *move_piece(const struct mover *mover, const struct move_pieces *pieces, uint32_t i,
                          uint32_t *len);
/* Copies flat bytes as a frame into the TX ring. */
enum move_answer move_bytes(struct port *to, const uint8_t *bytes, uint32_t len);
