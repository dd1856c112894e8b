/*
 * A worker's ring under a feeder that writes what it likes into the slots and words that they
 * share, and the feeder's choice of a ring for frames of any bytes. What the worker takes is in
 * bounds, or its port has stopped with a counter. Start reading at run_op.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "check.h"
#include "ports/feeder.h"
#include "rings.h"

enum {
    SLOTS = 48,
    BUF = 2048,
    OPS_MAX = 300,
};

enum op {
    OP_PUBLISH,
    OP_RX,
    OP_TX,
    OP_TAKE,
    OP_PUT,
    OP_SLEEP,
    OP_RECOVER,
    OP_HASH,
    OP_POKE_WORD,
    OP_POKE_SLOT,
    OP_COUNT,
};

static struct {
    struct fed_ring ring;
    struct feeder_shared common;
    struct port port;
    struct rings_user user;
    struct input input;
    bool honest;
} lab;

static int send_nothing(const struct port *port, const struct iovec *iov, int n)
{
    (void)port;
    (void)iov;
    return n > 0 ? 0 : -1;
}

static void open_lab(const uint8_t *data, size_t size)
{
    int bell = lab.ring.wake_fd;

    memset(&lab, 0, sizeof(lab));
    rings_make(&lab.ring.rings, SLOTS, BUF, sizeof(struct fed_shared));
    lab.input = (struct input){data, size};
    lab.honest = true;
    lab.ring.wake_fd = bell > 0 ? bell : eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    lab.ring.shared = lab.ring.rings.extra;
    lab.ring.common = &lab.common;
    lab.ring.send = send_nothing;
    lab.port = (struct port){.ops = &fed_port_ops,
                             .rx = lab.ring.rings.rx,
                             .tx = lab.ring.rings.tx,
                             .counters = &lab.ring.shared->counters,
                             .shared = lab.ring.shared,
                             .priv = &lab.ring,
                             .caps = PORT_CAP_VNET_HDR,
                             .wait_fd = lab.ring.wake_fd};
    lab.user = (struct rings_user){.port = &lab.port,
                                   .bufs = lab.ring.rings.bufs,
                                   .slots = SLOTS,
                                   .min_len = PORT_VNET_HDR_LEN + 1};
}

/* As feeder_run.c does it: a frame behind its header, then the position. */
static void publish(void)
{
    static uint8_t frame[FRAMEWISE_FRAME_MAX];
    struct vnet_hdr hdr = {.flags = input_u8(&lab.input)};
    uint32_t len = 14u + input_u16(&lab.input) % (FRAMEWISE_FRAME_MAX - 13u);
    struct iovec parts[2] = {{&hdr, sizeof(hdr)}, {frame, len}};
    struct nm_ring *ring = lab.ring.rings.rx;
    uint32_t slots = (PORT_VNET_HDR_LEN + len + BUF - 1) / BUF;
    uint32_t filled = lab.ring.shared->filled;
    uint32_t returned = lab.ring.shared->returned;

    if (filled >= SLOTS || returned >= SLOTS ||
        ring->num_slots - 1 - nm_ring_distance(ring, returned, filled) < slots) {
        return; /* missed */
    }
    filled = framewise_copy(ring, filled, parts);
    if (filled == UINT32_MAX) {
        lab.ring.shared->broken = 1;
        return;
    }
    lab.ring.shared->filled = filled;
}

/* Any bytes, as long as the input says and not a byte longer. */
static void hash(void)
{
    uint32_t len = 14 + input_u8(&lab.input);
    uint32_t rings = 1 + input_u8(&lab.input) % PORT_RINGS_MAX;
    const uint8_t *bytes = input_bytes(&lab.input, &len);
    uint8_t *frame = malloc(len ? len : 1);

    memcpy(frame, bytes, len);
    if (len >= 14) {
        CHECK(feeder_ring(lab.common.key, rings, frame, len) < rings);
    }
    free(frame);
}

static void poke_word(void)
{
    uint8_t what = input_u8(&lab.input);
    struct fed_shared *shared = lab.ring.shared;

    switch (what & 7) {
    case 0:
    case 1:
        shared->filled = rings_wild(&lab.input, SLOTS);
        break;
    case 2:
        shared->returned = rings_wild(&lab.input, SLOTS);
        break;
    case 3:
        shared->broken = what >> 4;
        break;
    case 4:
        shared->missed = input_u32(&lab.input);
        break;
    case 5:
        lab.common.gone = input_u8(&lab.input);
        break;
    case 6:
        lab.common.ended = input_u8(&lab.input);
        break;
    default:
        shared->sleeping = what >> 4;
    }
    lab.honest = false;
}

/* A slot that the worker has not been given. */
static void poke_slot(void)
{
    struct nm_ring *ring = lab.ring.rings.rx;
    uint32_t filled = lab.ring.shared->filled;
    uint8_t what = input_u8(&lab.input);
    uint32_t at = what & 0x80 ? filled + SLOTS - 1 - (what >> 4 & 3) : what >> 2;
    struct nm_slot *slot = &ring->slot[at % SLOTS];

    if (nm_ring_distance(ring, ring->head, at % SLOTS) <
        nm_ring_distance(ring, ring->head, ring->tail)) {
        return;
    }
    switch (what & 3) {
    case 0:
        slot->buf_idx = rings_wild(&lab.input, lab.ring.rings.bufs);
        break;
    case 1:
        slot->len = (uint16_t)rings_wild(&lab.input, BUF);
        break;
    default:
        slot->flags = input_u16(&lab.input);
    }
    lab.honest = false;
}

static void op_sleep(void)
{
    if (!lab.user.stopped && lab.port.ops->sleep_arm(&lab.port) == 0) {
        lab.port.ops->sleep_disarm(&lab.port);
    }
}

static void run_user(enum op op)
{
    switch (op) {
    case OP_RX:
        rings_rx(&lab.user);
        break;
    case OP_TX:
        rings_tx(&lab.user);
        break;
    case OP_TAKE:
        rings_take(&lab.user, input_u8(&lab.input) % SLOTS);
        break;
    case OP_PUT:
        rings_put(&lab.user, 1 + input_u8(&lab.input) % 40, input_u16(&lab.input) % (BUF + 1));
        break;
    case OP_SLEEP:
        op_sleep();
        break;
    default:
        rings_recover(&lab.user);
    }
}

static void run_op(void)
{
    enum op op = input_u8(&lab.input) % OP_COUNT;

    fuzz_say("op %d with %u bytes left\n", (int)op, (unsigned)lab.input.left);
    switch (op) {
    case OP_PUBLISH:
        publish();
        break;
    case OP_HASH:
        hash();
        break;
    case OP_POKE_WORD:
        poke_word();
        break;
    case OP_POKE_SLOT:
        poke_slot();
        break;
    default:
        run_user(op);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    open_lab(data, size);
    for (uint32_t i = 0; i < OPS_MAX && lab.input.left > 0; i++) {
        run_op();
        CHECK(!lab.honest || lab.port.counters->errors == 0);
        fuzz_settle();
    }
    for (uint32_t i = 0; i < SLOTS && !lab.honest; i++) {
        lab.ring.rings.rx->slot[i].buf_idx = NM_BUF_FIRST + SLOTS + i;
    }
    rings_free(&lab.ring.rings);
    fuzz_settle();
    return 0;
}
