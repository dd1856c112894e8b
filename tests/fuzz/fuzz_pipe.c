/*
 * An end of a pipe whose other end is another process: it writes what it likes into all that it has
 * mapped, but for the rings that this end's user owns (who shares a netmap region shares its
 * buffers; see ARCHITECTURE, decisions 16 and 17). What this end's user may look at is in bounds,
 * or its port has stopped with a counter. Start reading at run_op.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "check.h"
#include "ports/pipe.h"
#include "ports/region.h"
#include "rings.h"

enum {
    SLOTS = 7, /* not a power of two */
    BUF = 128,
    BUFS = NM_BUF_FIRST + 2 * PIPE_ENDS * SLOTS,
    OPS_MAX = 300,
};

enum op {
    OP_RX,
    OP_TX,
    OP_TAKE,
    OP_PUT,
    OP_SLEEP,
    OP_RECOVER,
    OP_TIME,
    OP_POKE_WAY,
    OP_POKE_LOG,
    OP_POKE_SLOT,
    OP_POKE_RING,
    OP_POKE_FLAGS,
    OP_COUNT,
};

struct end {
    struct pipe_device device;
    struct pipe_place place;
    struct port port;
    struct rings_user user;
    struct nm_if *nifp;
};

static struct {
    struct pipe_shared *shared;
    struct pipe_link *link; /* the only one */
    uint8_t *base;
    struct end end[PIPE_ENDS]; /* 0: ours; 1: the hostile one's */
    struct input input;
    int bell;
    bool honest;
} lab;

static void open_end(uint32_t which)
{
    struct end *end = &lab.end[which];
    struct nm_if *nifp = end->nifp;

    end->device =
        (struct pipe_device){.shared = lab.shared, .link = lab.link, .links = 1, .end = which};
    /* `end` is whom nobody has to ask whether it lives: the other one, who does. */
    end->device.soft = (struct soft){.memfd = -1, .end = !which, .bells = {lab.bell, lab.bell}};
    end->place = (struct pipe_place){.pipe = &end->device,
                                     .out = &lab.link->way[which][0],
                                     .in = &lab.link->way[!which][0],
                                     .side = &lab.link->side[which][0],
                                     .peer = &lab.link->side[!which][0],
                                     .peer_rx = nm_rx_ring(lab.end[!which].nifp, 0),
                                     .bufs = BUFS,
                                     .buf_size = BUF,
                                     .slots = SLOTS};
    end->port = (struct port){.ops = &pipe_port_ops,
                              .rx = nm_rx_ring(nifp, 0),
                              .tx = nm_tx_ring(nifp, 0),
                              .counters = &end->place.side->counters,
                              .shared = end->place.side,
                              .priv = &end->place,
                              .wait_fd = lab.bell,
                              .bufs = BUFS};
    end->user = (struct rings_user){.port = &end->port, .bufs = BUFS, .slots = SLOTS};
    lab.link->up[which] = 1;
}

static void open_lab(const uint8_t *data, size_t size)
{
    const struct region_spec spec = {.pairs = 1, .slots = SLOTS};
    const struct region_spec specs[PIPE_ENDS] = {spec, spec};
    size_t rings = region_rings_bytes(specs, PIPE_ENDS);
    int bell = lab.bell;
    struct region region;

    memset(&lab, 0, sizeof(lab));
    lab.bell = bell > 0 ? bell : eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    lab.input = (struct input){data, size};
    lab.honest = true;
    lab.base = calloc(1, rings + (size_t)BUFS * BUF);
    lab.shared = aligned_alloc(CACHE_LINE, sizeof(*lab.shared) + sizeof(*lab.link));
    ENSURE(lab.base && lab.shared);
    memset(lab.shared, 0, sizeof(*lab.shared) + sizeof(*lab.link));
    lab.link = &lab.shared->link[0];
    lab.shared->links = 1;
    lab.shared->bufs = BUFS;
    lab.shared->rings = 1;
    region_init(&region, lab.base, rings, BUFS, BUF);
    for (uint32_t i = 0; i < PIPE_ENDS; i++) {
        lab.end[i].nifp = region_add_if(&region, "fuzz", &specs[i]);
    }
    open_end(0);
    open_end(1);
}

static void poke_way(void)
{
    uint8_t what = input_u8(&lab.input);
    struct pipe_way *way = &lab.link->way[what & 1][0];
    uint32_t value = rings_wild(&lab.input, SLOTS);

    switch (what >> 1 & 3) {
    case 0:
        way->published = value;
        break;
    case 1:
        way->filled = value;
        break;
    case 2:
        way->released = value;
        break;
    default:
        way->held_us = value;
        way->held_released = value;
    }
}

/* The record of an exchange, which a successor believes. */
static void poke_log(void)
{
    uint8_t what = input_u8(&lab.input);
    struct swap_log *log = &lab.link->way[what & 1][0].log;
    struct swap_record *record = &log->record[what >> 1 & 1];

    log->turn = what >> 4;
    record->left = rings_wild(&lab.input, SLOTS);
    record->right = what & 4 ? record->left : rings_wild(&lab.input, SLOTS);
    if (what & 8) {
        lab.link->way[what & 1][0].filled = record->right;
    }
    record->left_buf = rings_wild(&lab.input, BUFS);
    record->right_buf = rings_wild(&lab.input, BUFS);
}

/* A slot of its own, or one of ours that our user has not been given. */
static void poke_slot(void)
{
    uint8_t what = input_u8(&lab.input);
    uint32_t at = (what >> 4) % SLOTS;
    struct nm_ring *ring = what & 1 ? lab.end[0].port.rx : lab.end[1].port.rx;

    if (what & 2) {
        ring = lab.end[1].port.tx;
    }
    if (ring == lab.end[0].port.rx &&
        nm_ring_distance(ring, ring->head, at) < nm_ring_distance(ring, ring->head, ring->tail)) {
        return;
    }
    switch (what >> 2 & 3) {
    case 0:
        ring->slot[at].buf_idx = rings_wild(&lab.input, BUFS);
        break;
    case 1:
        ring->slot[at].len = (uint16_t)rings_wild(&lab.input, BUF);
        break;
    default:
        ring->slot[at].flags = input_u16(&lab.input);
    }
}

static void poke_ring(void)
{
    uint8_t what = input_u8(&lab.input);
    struct nm_ring *ring = what & 1 ? lab.end[1].port.rx : lab.end[1].port.tx;
    uint32_t value = rings_wild(&lab.input, SLOTS);

    switch (what >> 1 & 3) {
    case 0:
        ring->head = value;
        break;
    case 1:
        ring->cur = value;
        break;
    case 2:
        ring->tail = value;
        break;
    default:
        ring->num_slots = what & 8 ? value : SLOTS;
    }
}

static void poke_flags(void)
{
    uint8_t what = input_u8(&lab.input);
    uint32_t value = input_u8(&lab.input);

    switch (what & 3) {
    case 0:
        lab.link->up[what >> 2 & 1] = value;
        break;
    case 1:
        lab.link->side[what >> 2 & 1][0].sleeping = value;
        break;
    default:
        lab.link->side[what >> 2 & 1][0].sync_seq = value;
    }
}

static void poke(enum op op)
{
    lab.honest = false;
    lab.end[1].user.rx_ready = lab.end[1].user.tx_ready = false;
    switch (op) {
    case OP_POKE_WAY:
        poke_way();
        break;
    case OP_POKE_LOG:
        poke_log();
        break;
    case OP_POKE_SLOT:
        poke_slot();
        break;
    case OP_POKE_RING:
        poke_ring();
        break;
    default:
        poke_flags();
    }
}

/* The hostile end's own user: as if it kept the rules, without its laws once it has not. */
static void hostile(enum op op)
{
    struct port *port = &lab.end[1].port;

    if (lab.honest || op == OP_TAKE || op == OP_PUT) {
        return;
    }
    if (op == OP_RX) {
        port->ops->rx_sync(port, lab.end[1].user.now_us);
    } else if (op == OP_TX) {
        port->ops->tx_sync(port, lab.end[1].user.now_us);
    } else {
        port->ops->recover(port);
    }
}

static void use(struct rings_user *user, enum op op)
{
    switch (op) {
    case OP_RX:
        rings_rx(user);
        break;
    case OP_TX:
        rings_tx(user);
        break;
    case OP_TAKE:
        rings_take(user, input_u8(&lab.input) % SLOTS);
        break;
    case OP_PUT:
        rings_put(user, 1 + input_u8(&lab.input) % 3, input_u8(&lab.input) % (BUF + 1));
        break;
    case OP_SLEEP:
        if (!user->stopped && user->port->ops->sleep_arm(user->port) == 0) {
            user->port->ops->sleep_disarm(user->port);
        }
        break;
    default:
        rings_recover(user);
    }
}

static void run_op(void)
{
    uint8_t byte = input_u8(&lab.input);
    enum op op = (byte & 0x7f) % OP_COUNT;
    struct rings_user *user = &lab.end[byte >> 7].user;

    fuzz_say("op %d of %d with %u bytes left\n", (int)op, byte >> 7, (unsigned)lab.input.left);
    if (op == OP_TIME) {
        lab.end[0].user.now_us += (uint64_t)1 << (input_u8(&lab.input) & 15);
        lab.end[1].user.now_us = lab.end[0].user.now_us;
    } else if (op >= OP_POKE_WAY) {
        poke(op);
    } else if (byte >> 7 && !lab.honest) {
        hostile(op);
    } else {
        use(user, op);
    }
}

/* Both rings of both ends hold each buffer once. */
static void check_buffers(void)
{
    struct region_audit audit;

    CHECK_EQ(region_audit_begin(&audit, BUFS), 0);
    region_audit_if(&audit, lab.end[0].nifp);
    region_audit_if(&audit, lab.end[1].nifp);
    CHECK_EQ(region_audit_end(&audit), 0);
    CHECK_EQ(lab.end[0].port.counters->errors + lab.end[1].port.counters->errors, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    open_lab(data, size);
    for (uint32_t i = 0; i < OPS_MAX && lab.input.left > 0; i++) {
        run_op();
        if (lab.honest) {
            check_buffers();
        }
        fuzz_settle();
    }
    free(lab.base);
    free(lab.shared);
    return 0;
}
