/*
 * The software rings of a packet: port under a user that writes what it likes into heads, cursors
 * and slots. The kernel is played here: a TPACKET ring in memory on one side, a datagram socket on
 * the other. A sync is done, or stops the port with -EIO and a counter; what the kernel gave and
 * took is counted to the frame. Start reading at run_op.
 */
#include <errno.h>
#include <linux/if_packet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/wire.h"
#include "check.h"
#include "fuzz.h"
#include "ports/packet.h"

enum {
    SLOTS = 128,
    BUF = 2048,
    BLOCKS = 5,
    FRAMES = BLOCKS * PACKET_BLOCK_FRAMES,
    OPS_MAX = 300,
    MAC_AT = 96, /* where the kernel puts a frame's first byte */
    SNAP_MAX = 9000,
};
_Static_assert((int)FRAMES > (int)PACKET_RX_BURST, "as in a real ring");

enum op {
    OP_ARRIVE,
    OP_RX_SYNC,
    OP_TAKE,
    OP_PUT,
    OP_TX_SYNC,
    OP_POKE_RING,
    OP_POKE_SLOT,
    OP_HEAL,
    OP_RECOVER,
    OP_COUNT,
};

static _Alignas(CACHE_LINE) uint8_t kernel_map[BLOCKS * PACKET_BLOCK_SIZE];

static struct {
    struct packet_ring ring;
    struct packet_shared *shared;
    struct port port;
    int kernel_fd;
    uint32_t next; /* frame that the kernel fills next */
    uint64_t arrived;
    uint64_t cut;
    uint64_t left; /* by our port, on the other end of the socket */
} lab;

static struct tpacket2_hdr *kernel_frame(uint32_t index)
{
    return (
        struct tpacket2_hdr *)(void *)(kernel_map +
                                       (size_t)(index / PACKET_BLOCK_FRAMES) * PACKET_BLOCK_SIZE +
                                       (size_t)(index % PACKET_BLOCK_FRAMES) * PACKET_FRAME_SIZE);
}

static void open_lab(void)
{
    int fds[2];

    memset(&lab, 0, sizeof(lab));
    for (uint32_t i = 0; i < FRAMES; i++) {
        memset(kernel_frame(i), 0, sizeof(struct tpacket2_hdr));
    }
    CHECK_EQ(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    CHECK_EQ(swring_create(&lab.ring.rings, SLOTS, BUF, sizeof(struct packet_shared)), 0);
    fuzz_settle();
    lab.ring.fd = fds[0];
    lab.kernel_fd = fds[1];
    lab.ring.frames = FRAMES;
    lab.ring.bufs = NM_BUF_FIRST + 2 * SLOTS;
    lab.ring.map = kernel_map;
    lab.ring.map_bytes = sizeof(kernel_map);
    lab.shared = lab.ring.rings.extra;
    lab.port = (struct port){.ops = &packet_port_ops,
                             .rx = lab.ring.rings.rx,
                             .tx = lab.ring.rings.tx,
                             .counters = &lab.shared->counters,
                             .shared = lab.shared,
                             .priv = &lab.ring,
                             .caps = PORT_CAP_VNET_HDR,
                             .wait_fd = lab.ring.fd};
}

static void close_lab(void)
{
    close(lab.ring.fd);
    close(lab.kernel_fd);
    swring_destroy(&lab.ring.rings);
    fuzz_settle();
}

/* The kernel receives a frame: whole or cut, with a tag taken off or not. */
static void op_arrive(struct input *input)
{
    struct tpacket2_hdr *frame = kernel_frame(lab.next);
    uint8_t what = input_u8(input);
    uint32_t len = ETH_HDR_LEN + input_u16(input) % (SNAP_MAX - ETH_HDR_LEN);

    if (frame->tp_status != TP_STATUS_KERNEL) {
        return; /* full: it drops */
    }
    *frame = (struct tpacket2_hdr){.tp_len = len + (what & 1), .tp_snaplen = len, .tp_mac = MAC_AT};
    frame->tp_vlan_tci = what;
    memset((uint8_t *)frame + MAC_AT - PACKET_VNET_LEN, what, PACKET_VNET_LEN + len);
    frame->tp_status = TP_STATUS_USER | (what & 2 ? TP_STATUS_VLAN_VALID : 0) |
                       (what & 4 ? TP_STATUS_VLAN_TPID_VALID : 0);
    lab.next = lab.next + 1 == FRAMES ? 0 : lab.next + 1;
    lab.arrived++;
    lab.cut += what & 1;
}

static void expect(int code, uint64_t errors)
{
    CHECK(code == 0 || code == -EIO);
    CHECK_EQ(lab.port.counters->errors - errors, code != 0); /* a stop is counted, once */
}

static void op_rx_sync(void)
{
    uint64_t errors = lab.port.counters->errors;
    uint64_t waiting = 0;

    expect(lab.port.ops->rx_sync(&lab.port, 0), errors);
    for (uint32_t i = 0; i < FRAMES; i++) {
        waiting += kernel_frame(i)->tp_status != TP_STATUS_KERNEL;
    }
    CHECK_EQ(lab.arrived, waiting + lab.port.counters->rx_frames + lab.port.counters->rx_missed);
    CHECK(lab.port.counters->rx_missed <= lab.cut);
    CHECK(lab.port.rx->tail < SLOTS);
}

static void op_tx_sync(uint64_t now_us)
{
    uint64_t errors = lab.port.counters->errors;
    uint8_t bytes[65 * BUF];

    expect(lab.port.ops->tx_sync(&lab.port, now_us), errors);
    for (;;) {
        ssize_t got = recv(lab.kernel_fd, bytes, sizeof(bytes), MSG_TRUNC);

        if (got < 0) {
            break;
        }
        CHECK(got > PACKET_VNET_LEN && got <= (ssize_t)sizeof(bytes));
        lab.left++;
    }
    CHECK_EQ(lab.port.counters->tx_frames, lab.left);
    CHECK(lab.port.tx->tail < SLOTS);
}

static void op_take(struct input *input)
{
    struct nm_ring *ring = lab.port.rx;
    uint32_t n = input_u8(input);

    while (n-- > 0 && ring->head < SLOTS && !nm_ring_empty(ring)) {
        nm_ring_give(ring, nm_ring_next(ring, ring->head));
    }
}

static void op_put(struct input *input)
{
    struct nm_ring *ring = lab.port.tx;
    uint8_t slots = input_u8(input) % 70;
    uint16_t len = (uint16_t)(input_u16(input) % (BUF + 1));

    for (uint32_t i = 0; i <= slots && ring->head < SLOTS && ring->head != ring->tail; i++) {
        ring->slot[ring->head].len = len;
        ring->slot[ring->head].flags = i < slots ? NM_MOREFRAG : 0;
        nm_ring_give(ring, nm_ring_next(ring, ring->head));
    }
}

static uint32_t wild(struct input *input)
{
    uint8_t how = input_u8(input);

    return how < 0xf0 ? how : input_u32(input);
}

static void op_poke_ring(struct input *input)
{
    uint8_t what = input_u8(input);
    struct nm_ring *ring = what & 1 ? lab.port.tx : lab.port.rx;

    if (what & 2) {
        ring->cur = wild(input);
    } else {
        ring->head = wild(input);
    }
}

static void op_poke_slot(struct input *input)
{
    uint8_t what = input_u8(input);
    struct nm_ring *ring = what & 1 ? lab.port.tx : lab.port.rx;
    struct nm_slot *slot = &ring->slot[input_u8(input) % SLOTS];

    if (what & 2) {
        slot->buf_idx = wild(input);
    } else if (what & 4) {
        slot->flags = input_u16(input);
    } else {
        slot->len = input_u16(input);
    }
}

/* The user mends its rings: the port goes on. */
static void op_heal(void)
{
    for (uint32_t i = 0; i < SLOTS; i++) {
        lab.port.tx->slot[i].buf_idx = NM_BUF_FIRST + i;
        lab.port.rx->slot[i].buf_idx = NM_BUF_FIRST + SLOTS + i;
    }
    lab.port.tx->head = (uint32_t)lab.shared->tx_commit;
    lab.port.rx->head = (uint32_t)(lab.shared->rx_commit >> 32);
}

static void run_op(struct input *input)
{
    switch ((enum op)(input_u8(input) % OP_COUNT)) {
    case OP_ARRIVE:
        op_arrive(input);
        break;
    case OP_RX_SYNC:
        op_rx_sync();
        break;
    case OP_TAKE:
        op_take(input);
        break;
    case OP_PUT:
        op_put(input);
        break;
    case OP_TX_SYNC:
        op_tx_sync((uint64_t)input_u8(input) << 8);
        break;
    case OP_POKE_RING:
        op_poke_ring(input);
        break;
    case OP_POKE_SLOT:
        op_poke_slot(input);
        break;
    case OP_RECOVER:
        CHECK_EQ(lab.port.ops->recover(&lab.port), 0);
        break;
    default:
        op_heal();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};

    open_lab();
    for (uint32_t i = 0; i < OPS_MAX && input.left > 0; i++) {
        run_op(&input);
        fuzz_settle();
    }
    op_heal();
    op_rx_sync();
    op_tx_sync(0);
    close_lab();
    return 0;
}
