/*
 * A packet: port under a kernel that writes what it likes into its TPACKET ring: status bits,
 * lengths, offsets, tags and the virtio header. What the port takes lies within a frame's place and
 * is copied to the byte; what cannot be stops it with a counter. Start reading at arrive.
 *
 * fuzz_swring.c is the other way round: an honest kernel, a hostile user.
 */
#include <linux/if_packet.h>
#include <string.h>

#include "base/wire.h"
#include "check.h"
#include "ports/packet.h"
#include "rings.h"

enum {
    SLOTS = 96,
    BUF = 1024,
    BLOCKS = 5,
    FRAMES = BLOCKS * PACKET_BLOCK_FRAMES,
    OPS_MAX = 200,
    MAC_AT = 96, /* where the kernel puts a frame's first byte */
    WORDS_MAX = 4,
};

enum op {
    OP_ARRIVE,
    OP_RX,
    OP_TX,
    OP_TAKE,
    OP_PUT,
    OP_RECOVER,
    OP_COUNT,
};

static _Alignas(CACHE_LINE) uint8_t kernel_map[BLOCKS * PACKET_BLOCK_SIZE];

static struct {
    struct packet_ring ring;
    struct packet_shared *shared;
    struct port port;
    struct rings_user user;
    struct input input;
    uint32_t next; /* frame that the kernel fills next */
    uint64_t arrived;
    bool honest;
} lab;

static struct tpacket2_hdr *kernel_frame(uint32_t index)
{
    size_t block = (size_t)(index / PACKET_BLOCK_FRAMES) * PACKET_BLOCK_SIZE;

    return (struct tpacket2_hdr *)(void *)(kernel_map + block +
                                           (size_t)(index % PACKET_BLOCK_FRAMES) *
                                               PACKET_FRAME_SIZE);
}

/* One word of a frame's header, or its virtio header's bytes. */
static void poke(struct tpacket2_hdr *frame)
{
    uint8_t what = input_u8(&lab.input);
    uint32_t len = PACKET_VNET_LEN;
    const uint8_t *bytes;

    switch (what & 7) {
    case 0:
        frame->tp_len = rings_wild(&lab.input, PACKET_FRAME_SIZE);
        break;
    case 1:
    case 2:
        frame->tp_snaplen = rings_wild(&lab.input, PACKET_FRAME_SIZE - MAC_AT);
        frame->tp_len = what & 8 ? frame->tp_snaplen : frame->tp_len;
        break;
    case 3:
        frame->tp_mac = (uint16_t)rings_wild(&lab.input, UINT16_MAX);
        break;
    case 4:
        frame->tp_net = (uint16_t)rings_wild(&lab.input, UINT16_MAX);
        break;
    case 5:
        frame->tp_status = input_u32(&lab.input) | (what & 8 ? TP_STATUS_USER : 0);
        break;
    case 6:
        frame->tp_vlan_tci = input_u16(&lab.input);
        frame->tp_vlan_tpid = input_u16(&lab.input);
        frame->tp_padding[0] = what;
        break;
    default:
        bytes = input_bytes(&lab.input, &len);
        memcpy((uint8_t *)frame + MAC_AT - PACKET_VNET_LEN, bytes, len);
        return; /* an honest kernel may say anything there */
    }
    lab.honest = false;
}

/* The kernel receives a frame, and then, perhaps, goes mad. */
static void arrive(void)
{
    struct tpacket2_hdr *frame = kernel_frame(lab.next);
    uint8_t what = input_u8(&lab.input);
    uint32_t len = ETH_HDR_LEN + input_u16(&lab.input) % 4000;

    if (frame->tp_status != TP_STATUS_KERNEL && lab.honest) {
        return; /* full: it drops */
    }
    *frame = (struct tpacket2_hdr){
        .tp_len = len, .tp_snaplen = len, .tp_mac = MAC_AT, .tp_net = MAC_AT + ETH_HDR_LEN};
    memset((uint8_t *)frame + MAC_AT - PACKET_VNET_LEN, 0, PACKET_VNET_LEN + len);
    frame->tp_status = TP_STATUS_USER | (what & 2 ? TP_STATUS_VLAN_VALID : 0) |
                       (what & 4 ? TP_STATUS_VLAN_TPID_VALID : 0);
    for (uint32_t n = what & 0x80 ? what % WORDS_MAX + 1 : 0; n > 0; n--) {
        poke(frame);
    }
    lab.next = lab.next + 1 == FRAMES ? 0 : lab.next + 1;
    lab.arrived++;
}

/* Each frame is taken, or counted as missed, or waits. */
static void check_books(void)
{
    uint64_t waiting = 0;

    for (uint32_t i = 0; i < FRAMES; i++) {
        waiting += kernel_frame(i)->tp_status != TP_STATUS_KERNEL;
    }
    CHECK(!lab.honest ||
          lab.arrived == waiting + lab.port.counters->rx_frames + lab.port.counters->rx_missed);
    CHECK(!lab.honest || lab.port.counters->errors == 0);
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
        check_books();
        break;
    case OP_TX:
        lab.user.now_us += input_u8(&lab.input) * 100u;
        rings_tx(&lab.user);
        break;
    case OP_TAKE:
        rings_take(&lab.user, input_u8(&lab.input));
        break;
    case OP_PUT:
        rings_put(&lab.user, 1 + input_u8(&lab.input) % 64, input_u16(&lab.input) % (BUF + 1));
        break;
    default:
        rings_recover(&lab.user);
    }
}

static void open_lab(const uint8_t *data, size_t size)
{
    memset(&lab, 0, sizeof(lab));
    for (uint32_t i = 0; i < FRAMES; i++) {
        memset(kernel_frame(i), 0, sizeof(struct tpacket2_hdr));
    }
    rings_make(&lab.ring.rings, SLOTS, BUF, sizeof(struct packet_shared));
    lab.input = (struct input){data, size};
    lab.honest = true;
    lab.ring.fd = -1; /* sending is refused: a card without carrier */
    lab.ring.frames = FRAMES;
    lab.ring.bufs = lab.ring.rings.bufs;
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
                             .wait_fd = -1};
    lab.user = (struct rings_user){
        .port = &lab.port, .bufs = lab.ring.bufs, .slots = SLOTS, .min_len = PORT_VNET_HDR_LEN};
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    open_lab(data, size);
    for (uint32_t i = 0; i < OPS_MAX && lab.input.left > 0; i++) {
        run_op();
        fuzz_settle();
    }
    rings_free(&lab.ring.rings); /* nothing from outside moves a buffer */
    fuzz_settle();
    return 0;
}
