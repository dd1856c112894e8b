/*
 * A hostile client of a mem: device: it writes what it likes into its rings, slots, lanes and its
 * intent record, syncs, hangs up and comes back, while an honest client pings. What the shards hold
 * stays in bounds, the honest client is answered, the books balance. Start reading at run_op.
 *
 * Not attacked: the layout words (interfaces, ring sizes, offsets), which nobody writes after the
 * open. A buffer index in range but not its own may spoil bytes of others (ARCHITECTURE, decision
 * 4), so answers are compared only while there was none.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "base/csum.h"
#include "base/wire.h"
#include "check.h"
#include "fuzz.h"
#include "ports/mem.h"
#include "stack/arp.h"

enum {
    RINGS = 2,
    SLOTS = 16,
    OPS_MAX = 300,
    PING_TURNS = 8,
    PING_LEN = 64,
    ECHO_REPLY_AT = ETH_HDR_LEN + IPV4_HDR_LEN,
};

enum op {
    OP_FRAME,
    OP_SYNC,
    OP_POKE_RING,
    OP_POKE_SLOT,
    OP_POKE_LANE,
    OP_POKE_CELL,
    OP_POKE_INTENT,
    OP_TURN,
    OP_PING,
    OP_COME_BACK,
    OP_ANNOUNCE,
    OP_TIME,
    OP_RESTART,
    OP_COUNT,
};

static struct {
    struct sim sim;
    struct mem_device *mem;
    struct mem_attachment *honest;
    struct mem_attachment *hostile; /* NULL: it was not let in again */
    uint32_t link;                  /* the hostile one's */
    uint32_t bufs;
    uint8_t answer[2048];
    uint32_t answer_len;
    bool spoilt; /* somebody else's buffer may have been written to */
} lab;

static uint32_t make_ping(uint8_t *frame, const struct mem_attachment *from, uint8_t host)
{
    struct wire_ipv4 ip = {.version_ihl = 0x45,
                           .total_len = htons(IPV4_HDR_LEN + PING_LEN),
                           .ttl = 64,
                           .protocol = PROTO_ICMP,
                           .src = htonl(0x0a4d0000u + host),
                           .dst = htonl(LAB_IP)};
    uint8_t *l4 = frame + ECHO_REPLY_AT;
    uint16_t check = 0;

    memcpy(frame, mem_attachment_mac(from, true), 6);
    memcpy(frame + 6, mem_attachment_mac(from, false), 6);
    frame[12] = 0x08;
    frame[13] = 0x00;
    ip.check = csum_fold(csum_add(&ip, sizeof(ip), 0));
    memcpy(frame + ETH_HDR_LEN, &ip, sizeof(ip));
    for (uint32_t i = 0; i < PING_LEN; i++) {
        l4[i] = (uint8_t)(i * 7 + host);
    }
    l4[0] = 8;
    l4[1] = 0;
    memcpy(l4 + 2, &check, sizeof(check));
    check = csum_fold(csum_add(l4, PING_LEN, 0));
    memcpy(l4 + 2, &check, sizeof(check));
    return ECHO_REPLY_AT + PING_LEN;
}

static void take_answers(void)
{
    struct port *port = mem_attachment_port(lab.honest);
    struct nm_ring *ring = port->rx;

    CHECK_EQ(port->ops->rx_sync(port, lab.sim.now_us), 0);
    while (!nm_ring_empty(ring)) {
        const uint8_t *frame = nm_ring_buf(ring, ring->head);
        uint32_t len = ring->slot[ring->head].len;

        if (len > ECHO_REPLY_AT && len <= sizeof(lab.answer) && frame[13] == 0x00) {
            memcpy(lab.answer, frame, len);
            lab.answer_len = len;
        }
        nm_ring_give(ring, nm_ring_next(ring, ring->head));
    }
}

static void turn(void)
{
    for (uint32_t i = 0; i < RINGS; i++) {
        CHECK(worker_turn(&lab.sim.worker[i], lab.sim.now_us) >= 0);
    }
    lab.sim.now_us += SIM_STEP_US;
    take_answers();
}

/* The honest client is served as if it were alone. */
static void ping(uint8_t host)
{
    struct port *port = mem_attachment_port(lab.honest);
    uint8_t frame[2048];
    uint32_t len = make_ping(frame, lab.honest, host);

    turn();
    lab.answer_len = 0;
    if (CHECK(nm_ring_space(port->tx) > 0)) {
        memcpy(nm_ring_buf(port->tx, port->tx->head), frame, len);
        port->tx->slot[port->tx->head].len = (uint16_t)len;
        port->tx->slot[port->tx->head].flags = 0;
        nm_ring_give(port->tx, nm_ring_next(port->tx, port->tx->head));
    }
    CHECK_EQ(port->ops->tx_sync(port, lab.sim.now_us), 0);
    for (uint32_t i = 0; i < PING_TURNS && lab.answer_len == 0; i++) {
        turn();
    }
    if (!lab.spoilt && CHECK_EQ(lab.answer_len, len)) {
        CHECK(memcmp(lab.answer + ECHO_REPLY_AT + 4, frame + ECHO_REPLY_AT + 4, PING_LEN - 4) == 0);
    }
}

/* A value as an attacker chooses it: near, at the limits, or anything. */
static uint32_t wild(struct input *input, uint32_t limit)
{
    uint8_t how = input_u8(input);

    switch (how & 3) {
    case 0:
        return how >> 2;
    case 1:
        return limit - 32 + (how >> 2);
    case 2:
        return input_u32(input);
    default:
        return input_u16(input) % (limit + 2);
    }
}

static uint32_t wild_buf(struct input *input)
{
    uint32_t value = wild(input, lab.bufs);

    lab.spoilt |= value >= NM_BUF_FIRST && value < lab.bufs;
    return value;
}

static struct nm_ring *hostile_ring(uint8_t what)
{
    struct port *port = mem_attachment_port(lab.hostile);

    return what & 1 ? port->tx : port->rx;
}

static void op_frame(struct input *input)
{
    struct nm_ring *ring = hostile_ring(1);
    uint8_t what = input_u8(input);
    uint32_t head = ring->head;
    uint8_t frame[2048];
    uint32_t len = make_ping(frame, lab.hostile, (uint8_t)(2 + (what & 7)));

    if (head >= SLOTS || ring->slot[head].buf_idx < NM_BUF_FIRST ||
        ring->slot[head].buf_idx >= lab.bufs) {
        return; /* its own foot */
    }
    memcpy(nm_ring_buf(ring, head), frame, len);
    ring->slot[head].len = (uint16_t)len;
    ring->slot[head].flags = what & 0x80 ? NM_MOREFRAG : 0;
    nm_ring_give(ring, nm_ring_next(ring, head));
}

static void op_sync(struct input *input)
{
    struct port *port = mem_attachment_port(lab.hostile);
    uint64_t errors = port->counters->errors;
    int code = input_u8(input) & 1 ? port->ops->tx_sync(port, lab.sim.now_us)
                                   : port->ops->rx_sync(port, lab.sim.now_us);

    CHECK(code == 0 || code == -EIO);
    CHECK(code == 0 || port->counters->errors > errors ||
          atomic_load(&lab.mem->shared->link[lab.link].broken));
}

static void op_poke_ring(struct input *input)
{
    uint8_t what = input_u8(input);
    struct nm_ring *ring = hostile_ring(what);
    uint32_t value = wild(input, SLOTS);

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
        lab.mem->shared->side[RINGS + lab.link].tx_hwcur = value;
    }
}

static void op_poke_slot(struct input *input)
{
    uint8_t what = input_u8(input);
    struct nm_slot *slot = &hostile_ring(what)->slot[what >> 4];

    switch (what >> 1 & 3) {
    case 0:
        slot->buf_idx = wild_buf(input);
        break;
    case 1:
        slot->len = (uint16_t)wild(input, UINT16_MAX);
        break;
    default:
        slot->flags = input_u16(input);
    }
}

static struct mem_lane *hostile_lane(uint8_t what)
{
    return &lab.mem->lanes[mem_lane_index(lab.mem->shared, lab.link, what & 1, what >> 1 & 1)];
}

static void op_poke_lane(struct input *input)
{
    uint8_t what = input_u8(input);
    struct mem_lane *lane = hostile_lane(what);
    uint32_t value = wild(input, MEM_CELLS);

    if (what & 0x10) {
        value += what & 4 ? atomic_load(&lane->tail) : atomic_load(&lane->head);
    }
    if (what & 4) {
        atomic_store(&lane->tail, value);
    } else {
        atomic_store(&lane->head, value);
    }
    lab.spoilt |= (what & 6) == 6 || (what & 6) == 0; /* a word that is not its own to write */
}

static void op_poke_cell(struct input *input)
{
    uint8_t what = input_u8(input);
    struct mem_lane *lane = hostile_lane(what);
    uint32_t at = what & 4 ? atomic_load(&lane->tail) : atomic_load(&lane->head);
    struct mem_cell *cell = &lane->cell[(at + (what >> 5)) % MEM_CELLS];

    switch (what >> 3 & 3) {
    case 0:
        cell->buf_idx = wild_buf(input);
        break;
    case 1:
        cell->len = (uint16_t)wild(input, UINT16_MAX);
        break;
    default:
        cell->flags = input_u16(input);
    }
}

static void op_poke_intent(struct input *input)
{
    struct mem_intent *intent = &lab.mem->shared->side[RINGS + lab.link].intent;

    intent->lane = wild(input, 2 * RINGS * 3);
    intent->position = wild(input, MEM_CELLS);
    intent->slot = wild(input, SLOTS);
    intent->step = (uint64_t)wild(input, SLOTS) << 32 | wild_buf(input);
    intent->kind = input_u8(input) % 4;
    lab.spoilt = true; /* a recovery moves buffers where it says */
}

static void op_come_back(void)
{
    mem_detach(lab.hostile);
    lab.hostile = NULL;
    if (mem_attach_local(&lab.hostile, lab.sim.device) == 0) {
        lab.link = mem_attachment_link(lab.hostile);
    }
}

static void run_hostile_op(enum op op, struct input *input)
{
    switch (op) {
    case OP_FRAME:
        op_frame(input);
        break;
    case OP_SYNC:
        op_sync(input);
        break;
    case OP_POKE_RING:
        op_poke_ring(input);
        break;
    case OP_POKE_SLOT:
        op_poke_slot(input);
        break;
    case OP_POKE_LANE:
        op_poke_lane(input);
        break;
    case OP_POKE_CELL:
        op_poke_cell(input);
        break;
    case OP_POKE_INTENT:
        op_poke_intent(input);
        break;
    default:
        op_come_back();
    }
}

static void run_op(struct input *input)
{
    enum op op = input_u8(input) % OP_COUNT;

    fuzz_say("op %d with %u bytes left\n", (int)op, (unsigned)input->left);
    switch (op) {
    case OP_TURN:
        turn();
        break;
    case OP_PING:
        ping((uint8_t)(2 + input_u8(input) % 8));
        break;
    case OP_ANNOUNCE:
        arp_announce(&lab.sim.worker[input_u8(input) & 1].stack);
        turn();
        break;
    case OP_TIME:
        lab.sim.now_us += (uint64_t)1 << (input_u8(input) & 15);
        break;
    case OP_RESTART:
        sim_restart_shard(&lab.sim, input_u8(input) & 1);
        break;
    default:
        if (lab.hostile) {
            run_hostile_op(op, input);
        }
    }
}

static void check_ring(const struct nm_ring *ring)
{
    bool in_bounds = ring->head < SLOTS && ring->cur < SLOTS && ring->tail < SLOTS;

    for (uint32_t i = 0; i < SLOTS; i++) {
        in_bounds =
            in_bounds && ring->slot[i].buf_idx >= NM_BUF_FIRST && ring->slot[i].buf_idx < lab.bufs;
    }
    CHECK(in_bounds);
}

/* What the hostile client does not own holds nothing but what is in bounds. */
static void check_bounds(void)
{
    const struct mem_shared *shared = lab.mem->shared;

    for (uint32_t i = 0; i < RINGS; i++) {
        check_ring(lab.sim.device->ports[i].rx);
        check_ring(lab.sim.device->ports[i].tx);
    }
    check_ring(mem_attachment_port(lab.honest)->rx);
    check_ring(mem_attachment_port(lab.honest)->tx);
    CHECK(shared->magic == MEM_MAGIC && shared->rings == RINGS && shared->bufs == lab.bufs);
    CHECK(atomic_load(&shared->links_up) & 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};

    memset(&lab, 0, sizeof(lab));
    sim_open(&lab.sim, &(struct sim_options){.shards = RINGS,
                                             .conns = 8,
                                             .chunks = 16,
                                             .buffers = 16384,
                                             .links = 3,
                                             .slots = SLOTS,
                                             .seed = 5});
    lab.mem = lab.sim.device->priv;
    lab.bufs = lab.mem->shared->bufs;
    CHECK_EQ(mem_attach_local(&lab.honest, lab.sim.device), 0);
    CHECK_EQ(mem_attach_local(&lab.hostile, lab.sim.device), 0);
    lab.link = mem_attachment_link(lab.hostile);
    for (uint32_t i = 0; i < OPS_MAX && input.left > 0; i++) {
        run_op(&input);
        check_bounds();
        fuzz_settle();
    }
    for (uint8_t host = 2; host < 6; host++) {
        ping(host);
    }
    check_bounds();
    sim_check_stacks(&lab.sim);
    if (lab.hostile) {
        mem_detach(lab.hostile);
    }
    mem_detach(lab.honest);
    sim_close(&lab.sim);
    fuzz_settle();
    return 0;
}
