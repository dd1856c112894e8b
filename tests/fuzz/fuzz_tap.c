/*
 * A queue of a TAP whose other side sends anything: frames of any length, virtio headers of any
 * bytes, and a worker that is killed in the middle of a read. What is taken lies in the slots, and
 * a successor never believes a frame's own length beyond what a frame can be. The descriptor is one
 * end of a datagram socket. Start reading at run_op.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "ports/tap.h"
#include "rings.h"

enum {
    SLOTS = 48,
    BUF = 2048,
    OPS_MAX = 200,
    READING = 1,
};

enum op {
    OP_ARRIVE,
    OP_RX,
    OP_TX,
    OP_TAKE,
    OP_PUT,
    OP_KILL,
    OP_HANG_UP,
    OP_COUNT,
};

static struct {
    struct tap_ring ring;
    struct port port;
    struct rings_user user;
    struct input input;
    int host;
    uint64_t arrived;
} lab;

static int send_frame(const struct port *port, const struct iovec *iov, int n)
{
    return writev(port->wait_fd, iov, n) >= 0 ? 0 : -errno;
}

static int tx_sync(struct port *port, uint64_t now_us)
{
    return framewise_tx_sync(port, &tap_shared(port)->tx, send_frame, now_us);
}

static int recover(struct port *port)
{
    tap_rx_recover(port);
    framewise_tx_recover(port, &tap_shared(port)->tx);
    return 0;
}

static const struct port_ops ops = {
    .backend = "tap", .rx_sync = tap_rx_sync, .tx_sync = tx_sync, .recover = recover};

static void open_lab(const uint8_t *data, size_t size)
{
    int fds[2];

    memset(&lab, 0, sizeof(lab));
    rings_make(&lab.ring.rings, SLOTS, BUF, sizeof(struct tap_shared));
    CHECK_EQ(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    fuzz_settle();
    lab.input = (struct input){data, size};
    lab.host = fds[1];
    lab.ring.fd = fds[0];
    lab.port = (struct port){.ops = &ops,
                             .rx = lab.ring.rings.rx,
                             .tx = lab.ring.rings.tx,
                             .shared = lab.ring.rings.extra,
                             .priv = &lab.ring,
                             .caps = PORT_CAP_VNET_HDR,
                             .wait_fd = fds[0]};
    lab.port.counters = &tap_shared(&lab.port)->counters;
    lab.user = (struct rings_user){.port = &lab.port, .bufs = lab.ring.rings.bufs, .slots = SLOTS};
}

/* The host sends: bytes of the input, then a fill up to any length. */
static void arrive(void)
{
    static uint8_t frame[PORT_VNET_HDR_LEN + FRAMEWISE_FRAME_MAX + 64];
    uint32_t len = input_u16(&lab.input);
    uint32_t given = input_u8(&lab.input) & 63;
    const uint8_t *bytes = input_bytes(&lab.input, &given);

    memset(frame, 0x11, sizeof(frame));
    memcpy(frame, bytes, given);
    lab.arrived += send(lab.host, frame, len, 0) > PORT_VNET_HDR_LEN;
}

/* Its worker dies behind a readv(): the words say "reading", and the frame lies in the slots. */
static void die_reading(void)
{
    struct tap_shared *shared = tap_shared(&lab.port);
    struct nm_ring *ring = lab.port.rx;
    uint32_t tail = (uint32_t)shared->rx_commit;
    uint32_t room = ring->num_slots - 1 - nm_ring_distance(ring, ring->head, tail);
    uint32_t len = 64;
    const uint8_t *bytes = input_bytes(&lab.input, &len);

    if (lab.user.rx_ready && room >= framewise_slots(ring)) {
        memcpy(nm_ring_buf(ring, tail), bytes, len);
        shared->rx_commit = (uint64_t)READING << 32 | tail;
        lab.arrived++;
    }
    rings_recover(&lab.user);
}

static void take_sent(void)
{
    static uint8_t frame[SLOTS * BUF];

    while (recv(lab.host, frame, sizeof(frame), MSG_DONTWAIT) > 0) {
    }
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
        lab.user.now_us += 1000;
        rings_tx(&lab.user);
        take_sent();
        break;
    case OP_TAKE:
        rings_take(&lab.user, input_u8(&lab.input) % SLOTS);
        break;
    case OP_PUT:
        lab.user.min_len = PORT_VNET_HDR_LEN;
        rings_put(&lab.user, 1 + input_u8(&lab.input) % 40, input_u16(&lab.input) % (BUF + 1));
        break;
    case OP_KILL:
        die_reading();
        break;
    default:
        if (input_u8(&lab.input) == 0xff) {
            close(lab.host);
            lab.host = -1;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    open_lab(data, size);
    for (uint32_t i = 0; i < OPS_MAX && lab.input.left > 0; i++) {
        run_op();
        CHECK(lab.port.counters->rx_frames <= lab.arrived);
        CHECK_EQ(lab.port.counters->errors, 0); /* nothing from there spoils a ring */
        fuzz_settle();
    }
    close(lab.ring.fd);
    if (lab.host >= 0) {
        close(lab.host);
    }
    rings_free(&lab.ring.rings);
    fuzz_settle();
    return 0;
}
