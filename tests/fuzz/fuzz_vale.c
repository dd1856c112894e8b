/*
 * A port of a switch, and an honest neighbour, beside a third that writes what it likes into all
 * that it has mapped but the rings that others own: lanes, cells, records, the table of addresses,
 * its own rings. What the two may look at is in bounds; a lane whose contents cannot be is given up
 * with a counter, and costs nobody but its two ends. Start reading at run_op.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/wire.h"
#include "check.h"
#include "ports/region.h"
#include "ports/vale.h"
#include "rings.h"

enum {
    PORTS = 3,
    HOSTILE = 2,
    SLOTS = 9,
    BUF = 128,
    BUFS = NM_BUF_FIRST + 2 * PORTS * SLOTS + PORTS * PORTS * VALE_CELLS,
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
    OP_POKE_LANE,
    OP_POKE_CELL,
    OP_POKE_LOG,
    OP_POKE_TABLE,
    OP_POKE_RING,
    OP_COUNT,
};

struct member {
    struct vale_device device;
    struct port port;
    struct rings_user user;
};

static struct vale_lane lanes[VALE_PORTS * VALE_PORTS];

static struct {
    struct vale_shared *shared;
    uint8_t *base;
    struct nm_if *nifp[PORTS];
    struct member member[PORTS];
    struct input input;
    int bell;
    bool honest;
} lab;

static void open_member(uint32_t which)
{
    struct member *member = &lab.member[which];
    struct vale_device *vale = &member->device;

    *vale = (struct vale_device){.shared = lab.shared,
                                 .lanes = lanes,
                                 .side = &lab.shared->side[which],
                                 .rx = nm_rx_ring(lab.nifp[which], 0),
                                 .tx = nm_tx_ring(lab.nifp[which], 0),
                                 .port = which,
                                 .bufs = BUFS,
                                 .buf_size = BUF,
                                 .slots = SLOTS};
    vale->soft.memfd = -1; /* whose lane stays full is taken for dead */
    vale->buf0 = (uint8_t *)vale->tx + vale->tx->buf_ofs;
    for (uint32_t i = 0; i < SOFT_ENDS_MAX; i++) {
        vale->soft.bells[i] = lab.bell;
    }
    member->port = (struct port){.ops = &vale_port_ops,
                                 .rx = vale->rx,
                                 .tx = vale->tx,
                                 .counters = &vale->side->counters,
                                 .shared = vale->side,
                                 .priv = vale,
                                 .wait_fd = lab.bell,
                                 .bufs = BUFS};
    member->user = (struct rings_user){.port = &member->port, .bufs = BUFS, .slots = SLOTS};
}

static void open_lab(const uint8_t *data, size_t size)
{
    const struct region_spec spec = {.pairs = 1, .slots = SLOTS};
    const struct region_spec specs[PORTS] = {spec, spec, spec};
    size_t rings = region_rings_bytes(specs, PORTS);
    int bell = lab.bell;
    struct region region;

    memset(&lab, 0, sizeof(lab));
    lab.bell = bell > 0 ? bell : eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    lab.input = (struct input){data, size};
    lab.honest = true;
    lab.base = calloc(1, rings + (size_t)BUFS * BUF);
    lab.shared = aligned_alloc(CACHE_LINE, sizeof(*lab.shared));
    ENSURE(lab.base && lab.shared);
    memset(lab.shared, 0, sizeof(*lab.shared));
    memset(lanes, 0, sizeof(lanes));
    region_init(&region, lab.base, rings, BUFS, BUF);
    for (uint32_t i = 0; i < PORTS; i++) {
        lab.nifp[i] = region_add_if(&region, "fuzz", &specs[i]);
    }
    for (uint32_t i = 0; i < PORTS * PORTS; i++) {
        struct vale_lane *lane = &lanes[i / PORTS * VALE_PORTS + i % PORTS];

        for (uint32_t k = 0; k < VALE_CELLS; k++) {
            lane->cell[k].buf_idx = region_take_buf(&region);
        }
    }
    lab.shared->up = (1u << PORTS) - 1;
    for (uint32_t i = 0; i < PORTS; i++) {
        open_member(i);
    }
}

/* A lane from the hostile port, or to it. */
static struct vale_lane *its_lane(uint8_t what)
{
    uint32_t other = (what >> 1) % PORTS;

    return &lanes[what & 1 ? HOSTILE * VALE_PORTS + other : other * VALE_PORTS + HOSTILE];
}

static void poke_lane(void)
{
    uint8_t what = input_u8(&lab.input);
    struct vale_lane *lane = its_lane(what & 15);
    uint32_t value = rings_wild(&lab.input, VALE_CELLS);

    value += what & 0x80 ? lane->filled : 0;
    switch (what >> 4 & 3) {
    case 0:
        lane->tail = value;
        break;
    case 1:
        lane->head = value;
        break;
    case 2:
        lane->filled = value;
        break;
    default:
        lane->taken = value;
    }
}

static void poke_cell(void)
{
    uint8_t what = input_u8(&lab.input);
    struct vale_lane *lane = its_lane(what & 15);
    struct nm_slot *cell = vale_cell_at(lane, lane->taken + input_u8(&lab.input) % 4);

    switch (what >> 4 & 3) {
    case 0:
        cell->buf_idx = rings_wild(&lab.input, BUFS);
        break;
    case 1:
        cell->len = (uint16_t)rings_wild(&lab.input, BUF);
        break;
    default:
        cell->flags = input_u16(&lab.input);
    }
}

/* The record of an exchange, anybody's, which a successor believes. */
static void poke_log(void)
{
    uint8_t what = input_u8(&lab.input);
    struct vale_side *side = &lab.shared->side[(what >> 4) % PORTS];
    struct swap_log *log = what & 1 ? &side->tx_log : &side->rx_log;
    struct swap_record *record = &log->record[what >> 1 & 1];
    const struct vale_lane *lane = its_lane(what);

    log->turn = what & 1 ? 1 : 2;
    record->left = what & 4 ? rings_wild(&lab.input, SLOTS) : side->tx_hwcur;
    record->lane = what & 8 ? rings_wild(&lab.input, PORTS) : what % PORTS;
    record->right = what & 1 ? lane->filled : lane->taken;
    record->left_buf = rings_wild(&lab.input, BUFS);
    record->right_buf = rings_wild(&lab.input, BUFS);
    record->more = what & 2;
}

static void poke_table(void)
{
    uint8_t what = input_u8(&lab.input);

    if (what & 1) {
        lab.shared->up = input_u32(&lab.input);
    } else if (what & 2) {
        lab.shared->side[(what >> 4) % PORTS].sleeping = input_u8(&lab.input);
    } else {
        vale_learn(lab.shared, (const uint8_t[6]){2, 0, 0, 0, 0, what >> 4}, input_u8(&lab.input),
                   lab.member[0].user.now_us);
    }
}

static void poke_ring(void)
{
    uint8_t what = input_u8(&lab.input);
    struct port *port = &lab.member[HOSTILE].port;
    struct nm_ring *ring = what & 1 ? port->rx : port->tx;
    uint32_t value = rings_wild(&lab.input, SLOTS);

    switch (what >> 1 & 7) {
    case 0:
        ring->head = value;
        break;
    case 1:
        ring->tail = value;
        break;
    case 2:
        ring->slot[(what >> 4) % SLOTS].buf_idx = rings_wild(&lab.input, BUFS);
        break;
    case 3:
        ring->slot[(what >> 4) % SLOTS].len = (uint16_t)value;
        break;
    case 4:
        ring->slot[(what >> 4) % SLOTS].flags = (uint16_t)value;
        break;
    case 5:
        lab.shared->side[HOSTILE].tx_hwcur = value;
        break;
    default:
        lab.shared->side[HOSTILE].rx_filled = value;
    }
}

static void poke(enum op op)
{
    lab.honest = false;
    switch (op) {
    case OP_POKE_LANE:
        poke_lane();
        break;
    case OP_POKE_CELL:
        poke_cell();
        break;
    case OP_POKE_LOG:
        poke_log();
        break;
    case OP_POKE_TABLE:
        poke_table();
        break;
    default:
        poke_ring();
    }
}

/* A frame of so many slots from this port to another, or to all. */
static void put(struct rings_user *user, uint32_t from)
{
    struct nm_ring *ring = user->port->tx;
    uint8_t what = input_u8(&lab.input);
    uint32_t at = ring->head;
    uint8_t macs[2 * ETH_ALEN_BYTES] = {2, 0, 0, 0, 0, what & 3, 2, 0, 0, 0, 0, (uint8_t)from};

    rings_put(user, 1 + (what >> 2) % 3, input_u8(&lab.input) % (BUF + 1));
    if (ring->head != at) {
        memcpy(nm_ring_buf(ring, at), macs, sizeof(macs));
    }
}

/* The hostile port's own syncs, without its laws once it has not kept the rules. */
static void hostile(enum op op)
{
    struct port *port = &lab.member[HOSTILE].port;

    if (op == OP_RX) {
        port->ops->rx_sync(port, lab.member[HOSTILE].user.now_us);
    } else if (op == OP_TX) {
        port->ops->tx_sync(port, lab.member[HOSTILE].user.now_us);
    } else if (op == OP_RECOVER) {
        port->ops->recover(port);
    }
}

static void use(uint32_t which, enum op op)
{
    struct rings_user *user = &lab.member[which].user;

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
        put(user, which);
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
    enum op op = (byte & 0x3f) % OP_COUNT;
    uint32_t which = (byte >> 6) % PORTS;

    fuzz_say("op %d of %u with %u bytes left\n", (int)op, which, (unsigned)lab.input.left);
    if (op == OP_TIME) {
        uint64_t us = (uint64_t)1 << (input_u8(&lab.input) & 31);

        for (uint32_t i = 0; i < PORTS; i++) {
            lab.member[i].user.now_us += us;
        }
    } else if (op >= OP_POKE_LANE) {
        poke(op);
    } else if (which == HOSTILE && !lab.honest) {
        hostile(op);
    } else {
        use(which, op);
    }
}

/* Rings and lanes hold each buffer once. */
static void check_buffers(void)
{
    struct region_audit audit;

    CHECK_EQ(region_audit_begin(&audit, BUFS), 0);
    for (uint32_t i = 0; i < PORTS; i++) {
        region_audit_if(&audit, lab.nifp[i]);
        CHECK_EQ(lab.member[i].port.counters->errors, 0);
    }
    for (uint32_t i = 0; i < PORTS * PORTS; i++) {
        for (uint32_t k = 0; k < VALE_CELLS; k++) {
            region_audit_buf(&audit, lanes[i / PORTS * VALE_PORTS + i % PORTS].cell[k].buf_idx);
        }
    }
    CHECK_EQ(region_audit_end(&audit), 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    open_lab(data, size);
    for (uint32_t i = 0; i < OPS_MAX && lab.input.left > 0; i++) {
        run_op();
        fuzz_settle();
    }
    if (lab.honest) {
        check_buffers();
    }
    fuzz_settle();
    free(lab.base);
    free(lab.shared);
    return 0;
}
