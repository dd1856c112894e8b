/*
 * An xdp: port under a kernel that writes what it likes into the four rings it shares with us:
 * positions, addresses, lengths, options, flags. It plays the honest kernel as long as nothing is
 * poked: then every buffer stays in one place. What is out of bounds stops the port with a counter,
 * in a bounded number of steps. Start reading at run_op.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "ports/region.h"
#include "ports/xdp.h"
#include "rings.h"

enum {
    SLOTS = 13,
    CHUNK = 2048,
    FILL = 32,
    TX_SIZE = 16,
    DONE_SIZE = 32,
    SOCKETS = 2,
    BUFS = NM_BUF_FIRST + 2 * SLOTS + SOCKETS * FILL,
    OPS_MAX = 300,
};

enum op {
    OP_ARRIVE,
    OP_RX,
    OP_TX,
    OP_SEND,
    OP_TAKE,
    OP_PUT,
    OP_RECOVER,
    OP_POKE_POSITION,
    OP_POKE_ENTRY,
    OP_COUNT,
};

/* What the kernel maps: the four rings of a socket. */
struct mapped {
    uint32_t producer[4];
    uint32_t consumer[4];
    uint32_t flags[4];
    struct xdp_desc rx[FILL];
    struct xdp_desc tx[TX_SIZE];
    uint64_t fill[FILL];
    uint64_t done[DONE_SIZE];
};

static struct {
    struct xdp_port xdp;
    struct port port;
    struct rings_user user;
    struct input input;
    struct mapped *mapped[SOCKETS]; /* each on its own: ASan sees the byte behind */
    uint8_t *base;
    bool honest;
} lab;

static void map_fifo(struct xdp_fifo *fifo, struct mapped *mapped, uint32_t which, uint32_t size)
{
    void *const entries[4] = {mapped->rx, mapped->tx, mapped->fill, mapped->done};

    *fifo = (struct xdp_fifo){.producer = &mapped->producer[which],
                              .consumer = &mapped->consumer[which],
                              .flags = &mapped->flags[which],
                              .entries = entries[which],
                              .size = size};
}

static void open_socket(uint32_t index)
{
    struct xdp_socket *sock = &lab.xdp.socket[index];
    struct mapped *mapped = calloc(1, sizeof(*mapped));

    ENSURE(mapped);
    lab.mapped[index] = mapped;
    sock->fd = -1; /* calls are refused: nobody is there to be woken */
    map_fifo(&sock->rx, mapped, 0, FILL);
    map_fifo(&sock->tx, mapped, 1, TX_SIZE);
    map_fifo(&sock->fill, mapped, 2, FILL);
    map_fifo(&sock->done, mapped, 3, DONE_SIZE);
    for (uint32_t i = 0; i < FILL; i++) {
        mapped->fill[i] = (uint64_t)(NM_BUF_FIRST + 2 * SLOTS + index * FILL + i) * CHUNK;
    }
    mapped->producer[2] = FILL;
}

/* As xdp_port_map and its lay_out do it, in the copy mode's place of a frame. */
static void lay_out(void)
{
    struct region_spec spec = {.pairs = 1, .slots = SLOTS};
    size_t rings = region_rings_bytes(&spec, 1);
    struct region region;
    struct nm_if *nifp;
    uint8_t *first;

    lab.base = calloc(1, rings);
    lab.xdp.umem = calloc(BUFS + 1, CHUNK);
    lab.xdp.shared = aligned_alloc(CACHE_LINE, sizeof(struct xdp_shared));
    lab.xdp.tx_wait = calloc(SLOTS, 1);
    lab.xdp.slot_of = calloc(BUFS, sizeof(uint32_t));
    ENSURE(lab.base && lab.xdp.umem && lab.xdp.shared && lab.xdp.tx_wait && lab.xdp.slot_of);
    memset(lab.xdp.shared, 0, sizeof(*lab.xdp.shared));
    region_init(&region, lab.base, rings, BUFS, CHUNK);
    nifp = region_add_if(&region, "fuzz", &spec);
    lab.xdp.rx = nm_rx_ring(nifp, 0);
    lab.xdp.tx = nm_tx_ring(nifp, 0);
    first = lab.xdp.umem + lab.xdp.data_ofs - PORT_VNET_HDR_LEN;
    lab.xdp.tx->buf_ofs = first - (uint8_t *)lab.xdp.tx;
    lab.xdp.rx->buf_ofs = first - (uint8_t *)lab.xdp.rx;
}

static void open_lab(const uint8_t *data, size_t size)
{
    uint8_t how;

    memset(&lab, 0, sizeof(lab));
    lab.input = (struct input){data, size};
    how = input_u8(&lab.input);
    lab.honest = true;
    lab.xdp = (struct xdp_port){.bufs = BUFS,
                                .umem_bytes = (size_t)(BUFS + 1) * CHUNK,
                                .chunk = CHUNK,
                                .chunk_bits = 11,
                                .data_ofs = XDP_HEADROOM + (how & 1 ? 0 : PORT_VNET_HDR_LEN),
                                .fill = FILL,
                                .pieces = how & 2,
                                .unfinished = how & 4,
                                .busy_poll = how & 8,
                                .sockets = how & 16 ? SOCKETS : 1,
                                .wait_fd = -1};
    lay_out();
    for (uint32_t i = 0; i < lab.xdp.sockets; i++) {
        open_socket(i);
    }
    lab.port = (struct port){.ops = &xdp_port_ops,
                             .rx = lab.xdp.rx,
                             .tx = lab.xdp.tx,
                             .counters = &lab.xdp.shared->counters,
                             .shared = lab.xdp.shared,
                             .priv = &lab.xdp,
                             .caps = PORT_CAP_VNET_HDR,
                             .wait_fd = -1,
                             .bufs = BUFS};
    lab.user = (struct rings_user){
        .port = &lab.port, .bufs = BUFS, .slots = SLOTS, .min_len = PORT_VNET_HDR_LEN};
}

static struct mapped *any_socket(void)
{
    return lab.mapped[input_u8(&lab.input) % lab.xdp.sockets];
}

/* The kernel takes buffers from the fill ring and puts a frame of so many pieces into the other. */
static void arrive(void)
{
    struct mapped *mapped = any_socket();
    uint8_t what = input_u8(&lab.input);
    uint32_t pieces = lab.xdp.pieces ? 1 + what % 4 : 1;
    uint32_t len = 1 + input_u16(&lab.input) % (CHUNK - lab.xdp.data_ofs);

    if (mapped->producer[2] - mapped->consumer[2] < pieces ||
        FILL - (mapped->producer[0] - mapped->consumer[0]) < pieces) {
        return; /* missed */
    }
    for (uint32_t i = 0; i < pieces; i++) {
        uint64_t addr = mapped->fill[mapped->consumer[2]++ % FILL];
        uint32_t ofs = i == 0 ? lab.xdp.data_ofs : XDP_HEADROOM;

        if (what & 0x80) {
            ofs = XDP_HEADROOM + (what & 0x40); /* a driver with a place of its own */
        }
        mapped->rx[mapped->producer[0]++ % FILL] =
            (struct xdp_desc){.addr = addr + ofs,
                              .len = min_u32(len, CHUNK - ofs - PORT_VNET_HDR_LEN),
                              .options = i + 1 < pieces ? XDP_DESC_CONTD : 0};
    }
}

/* The kernel sends what is in the TX ring and says so. */
static void send_out(uint32_t n)
{
    struct mapped *mapped = lab.mapped[0];

    for (; n > 0 && mapped->consumer[1] != mapped->producer[1]; n--) {
        const struct xdp_desc *desc = &mapped->tx[mapped->consumer[1] % TX_SIZE];

        if (mapped->producer[3] - mapped->consumer[3] >= DONE_SIZE) {
            return;
        }
        CHECK(desc->addr + desc->len <= lab.xdp.umem_bytes);
        CHECK(desc->len > 0 && desc->addr / CHUNK >= NM_BUF_FIRST);
        CHECK(desc->addr / CHUNK == (desc->addr + desc->len - 1) / CHUNK); /* the kernel's rule */
        mapped->done[mapped->producer[3]++ % DONE_SIZE] = desc->addr;
        mapped->consumer[1]++;
    }
}

static void poke_position(void)
{
    struct mapped *mapped = any_socket();
    uint8_t what = input_u8(&lab.input);
    uint32_t *const words[8] = {&mapped->producer[0], &mapped->consumer[1], &mapped->consumer[2],
                                &mapped->producer[3], &mapped->flags[1],    &mapped->flags[2],
                                &mapped->consumer[0], &mapped->consumer[3]};
    uint32_t *word = words[what & 7];

    *word = what & 8 ? rings_wild(&lab.input, FILL) : *word + input_i8(&lab.input);
    lab.honest = lab.honest && (what & 7) >= 4 && (what & 7) < 6;
}

static void poke_entry(void)
{
    struct mapped *mapped = any_socket();
    uint8_t what = input_u8(&lab.input);
    uint32_t at = input_u8(&lab.input) % FILL;
    uint64_t addr = (uint64_t)input_u32(&lab.input) << (what & 0x80 ? 32 : 0);

    addr = what & 0x40 ? addr % lab.xdp.umem_bytes : addr;
    switch (what & 3) {
    case 0:
        mapped->rx[at].addr = addr;
        break;
    case 1:
        mapped->rx[at].len = rings_wild(&lab.input, CHUNK);
        break;
    case 2:
        mapped->rx[at].options = input_u8(&lab.input);
        break;
    default:
        mapped->done[at % DONE_SIZE] = addr;
    }
    lab.honest = false;
}

static void run_op(void)
{
    enum op op = input_u8(&lab.input) % OP_COUNT;

    fuzz_say("op %d with %u bytes left\n", (int)op, (unsigned)lab.input.left);
    switch (op) {
    case OP_ARRIVE:
        arrive();
        break;
    case OP_RX:
        rings_rx(&lab.user);
        break;
    case OP_TX:
        rings_tx(&lab.user);
        break;
    case OP_SEND:
        if (lab.honest) {
            send_out(input_u8(&lab.input) % TX_SIZE);
        }
        break;
    case OP_TAKE:
        rings_take(&lab.user, input_u8(&lab.input) % SLOTS);
        break;
    case OP_PUT:
        rings_put(&lab.user, 1 + input_u8(&lab.input) % 3, input_u16(&lab.input) % (CHUNK + 1));
        break;
    case OP_RECOVER:
        rings_recover(&lab.user);
        break;
    case OP_POKE_POSITION:
        poke_position();
        break;
    default:
        poke_entry();
    }
}

static void note(uint8_t *seen, uint64_t buf)
{
    if (CHECK(buf >= NM_BUF_FIRST && buf < BUFS)) {
        seen[buf]++;
    }
}

/* While the kernel is honest each buffer is in a slot, in a fill ring or in an RX ring. */
static void check_buffers(void)
{
    uint8_t seen[BUFS] = {0};

    for (uint32_t i = 0; i < SLOTS; i++) {
        note(seen, lab.xdp.rx->slot[i].buf_idx);
        note(seen, lab.xdp.tx->slot[i].buf_idx);
    }
    for (uint32_t k = 0; k < lab.xdp.sockets; k++) {
        const struct mapped *mapped = lab.mapped[k];

        for (uint32_t i = mapped->consumer[2]; i != mapped->producer[2]; i++) {
            note(seen, mapped->fill[i % FILL] / CHUNK);
        }
        for (uint32_t i = mapped->consumer[0]; i != mapped->producer[0]; i++) {
            note(seen, mapped->rx[i % FILL].addr / CHUNK);
        }
    }
    for (uint32_t buf = NM_BUF_FIRST; buf < NM_BUF_FIRST + 2 * SLOTS + lab.xdp.sockets * FILL;
         buf++) {
        CHECK_EQ(seen[buf], 1);
    }
    CHECK_EQ(lab.port.counters->errors, 0);
}

static void close_lab(void)
{
    for (uint32_t i = 0; i < lab.xdp.sockets; i++) {
        free(lab.mapped[i]);
    }
    free(lab.base);
    free(lab.xdp.umem);
    free(lab.xdp.shared);
    free(lab.xdp.tx_wait);
    free(lab.xdp.slot_of);
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
    close_lab();
    return 0;
}
