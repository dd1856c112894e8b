/*
 * A netmap: ring pair under a module that answers a sync, or a poll, with anything: heads, cursors,
 * tails, buffer indices, lengths and flags. Most of the time it works as the module does, so that
 * rings move. What the port lets pass can be followed; all else stops it with a counter. Start
 * reading at fuzz_ioctl.
 *
 * Not attacked: the layout (num_slots, nr_buf_size, buf_ofs), which nobody writes after the open,
 * and slots that are the user's already: netmap does not guard its clients from each other.
 */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "ports/netmap.h"
#include "rings.h"

enum {
    SLOTS = 7, /* not a power of two */
    BUF = 256,
    OPS_MAX = 300,
    POKES_MAX = 4,
};

enum op {
    OP_RX,
    OP_TX,
    OP_TAKE,
    OP_PUT,
    OP_SLEEP,
    OP_RECOVER,
    OP_USER,
    OP_COUNT,
};

static struct {
    struct swring rings;
    struct netmap_ring ring;
    struct netmap_shared shared;
    struct port port;
    struct rings_user user;
    struct input input;
    uint32_t rx_next; /* where the module receives next */
    bool honest;      /* nothing has been poked yet */
} lab;

/* As the module does it: frames come into free slots, all that was given is sent. */
static void work_rx(void)
{
    struct nm_ring *ring = lab.rings.rx;
    uint32_t room = ring->num_slots - 1 - nm_ring_distance(ring, ring->head, lab.rx_next);
    uint32_t n = min_u32(input_u8(&lab.input) % SLOTS, room);

    for (; n > 0; n--) {
        ring->slot[lab.rx_next].len = (uint16_t)(input_u8(&lab.input) + 1);
        ring->slot[lab.rx_next].flags = input_u8(&lab.input) & NM_MOREFRAG;
        lab.rx_next = nm_ring_next(ring, lab.rx_next);
    }
    ring->tail = lab.rx_next;
}

static void work_tx(void)
{
    struct nm_ring *ring = lab.rings.tx;

    if (ring->head < SLOTS) {
        ring->tail = ring->head == 0 ? SLOTS - 1 : ring->head - 1;
    }
}

/* One word of a ring, or of a slot outside of [head, tail), which are the user's until a sync. */
static void poke(struct nm_ring *ring, uint32_t head, uint32_t tail)
{
    uint8_t what = input_u8(&lab.input);
    uint32_t at = (what >> 4) % SLOTS;
    struct nm_slot *slot = &ring->slot[at];

    lab.honest = false;
    switch (what & 7) {
    case 0:
        ring->head = rings_wild(&lab.input, SLOTS);
        return;
    case 1:
        ring->cur = rings_wild(&lab.input, SLOTS);
        return;
    case 2:
    case 3:
        ring->tail = rings_wild(&lab.input, SLOTS);
        return;
    default:
        break;
    }
    if (head >= SLOTS || nm_ring_distance(ring, head, at) < nm_ring_distance(ring, head, tail)) {
        return;
    }
    if ((what & 3) == 0) {
        slot->buf_idx = rings_wild(&lab.input, lab.rings.bufs);
    } else if ((what & 3) == 1) {
        slot->len = (uint16_t)rings_wild(&lab.input, UINT16_MAX);
    } else {
        slot->flags = input_u16(&lab.input);
    }
}

static void poke_all(struct nm_ring *ring, uint32_t head, uint32_t tail)
{
    for (uint8_t n = input_u8(&lab.input) % POKES_MAX; n > 0; n--) {
        poke(ring, head, tail);
    }
}

static int fuzz_ioctl(int fd, unsigned long request, void *arg)
{
    uint8_t how = input_u8(&lab.input);

    (void)fd;
    (void)arg;
    if (how == 0xff) {
        return -EIO; /* its driver is gone */
    }
    if (request == NM_IOC_RXSYNC) {
        if (lab.rings.rx->head < SLOTS) {
            work_rx();
        }
        if (how & 0x80) {
            poke_all(lab.rings.rx, lab.shared.rx_head, lab.shared.rx_tail);
        }
        return 0;
    }
    work_tx();
    if (how & 0x80) {
        poke_all(lab.rings.tx, lab.shared.tx_head, lab.shared.tx_tail);
    }
    return how == 0x10 ? -EINTR : 0;
}

static int fuzz_poll(int fd, short events, int timeout_ms)
{
    (void)timeout_ms;
    fuzz_ioctl(fd, NM_IOC_RXSYNC, NULL);
    return events == 0 ? 0 : fuzz_ioctl(fd, 0, NULL);
}

static const struct netmap_kernel kernel = {.ioctl = fuzz_ioctl, .poll = fuzz_poll};

/* A worker sleeps in a poll, which syncs both rings behind its back. */
static void op_sleep(void)
{
    rings_tx(&lab.user); /* as a turn ends */
    if (!lab.user.stopped && lab.port.ops->sleep_arm(&lab.port) == 0) {
        fuzz_poll(0, 1, 0);
        lab.port.ops->sleep_disarm(&lab.port);
    }
    lab.user.rx_ready = lab.user.tx_ready = false;
}

/* The user writes nonsense into its own ring and slots: -EIO, and nothing reaches the module. */
static void op_user(void)
{
    uint8_t what = input_u8(&lab.input);
    struct nm_ring *ring = what & 1 ? lab.rings.tx : lab.rings.rx;

    lab.user.rx_ready = lab.user.tx_ready = false;
    lab.user.tx_spoilt |= what & 1;
    lab.honest = false;
    if (what & 2) {
        ring->head = rings_wild(&lab.input, SLOTS);
    } else {
        ring->cur = rings_wild(&lab.input, SLOTS);
    }
}

static void run_op(void)
{
    enum op op = input_u8(&lab.input) % OP_COUNT;

    fuzz_say("op %d with %u bytes left\n", (int)op, (unsigned)lab.input.left);
    lab.user.now_us += 10;
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
        rings_put(&lab.user, 1 + input_u8(&lab.input) % 3, input_u8(&lab.input));
        break;
    case OP_SLEEP:
        op_sleep();
        break;
    case OP_RECOVER:
        rings_recover(&lab.user);
        break;
    default:
        op_user();
    }
}

static void open_lab(const uint8_t *data, size_t size)
{
    memset(&lab, 0, sizeof(lab));
    rings_make(&lab.rings, SLOTS, BUF, 0);
    lab.input = (struct input){data, size};
    lab.honest = true;
    lab.ring = (struct netmap_ring){.file = {.kernel = &kernel, .fd = -1},
                                    .tx_bufs = lab.rings.bufs,
                                    .rx_bufs = lab.rings.bufs};
    lab.port = (struct port){.ops = &netmap_port_ops,
                             .rx = lab.rings.rx,
                             .tx = lab.rings.tx,
                             .counters = &lab.shared.counters,
                             .shared = &lab.shared,
                             .priv = &lab.ring,
                             .wait_fd = -1};
    lab.user = (struct rings_user){.port = &lab.port, .bufs = lab.rings.bufs, .slots = SLOTS};
    CHECK(netmap_sync_begin(&lab.port));
}

/* What was poked is put right, so that the books can be checked. */
static void mend(void)
{
    for (uint32_t i = 0; i < SLOTS; i++) {
        lab.rings.tx->slot[i].buf_idx = NM_BUF_FIRST + i;
        lab.rings.rx->slot[i].buf_idx = NM_BUF_FIRST + SLOTS + i;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    open_lab(data, size);
    for (uint32_t i = 0; i < OPS_MAX && lab.input.left > 0; i++) {
        run_op();
        CHECK(!lab.honest || lab.shared.counters.errors == 0);
        fuzz_settle();
    }
    if (!lab.honest) {
        mend();
    }
    rings_free(&lab.rings);
    fuzz_settle();
    return 0;
}
