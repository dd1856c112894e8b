/*
 * Which way out of an AF_PACKET socket is the fastest, and how fast does packet: receive?
 *
 * On a veth pair in a namespace of its own: the peer's kernel drops the frames, so a figure is the
 * cost of handing a frame over. Prints one line per way, best of several rounds interleaved.
 * Run: packet_tx [FRAME_BYTES]
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "netns.h"
#include "ports/port.h"

enum {
    BURST = 64,
    RING_FRAMES = 1024,
    RING_FRAME_SIZE = 2048,
    ROUND_US = 250000,
    ROUNDS = 4,
    VNET = 10,
    DATA_OFFSET = (sizeof(struct tpacket2_hdr) + 15) / 16 * 16,
    DRAIN_FRAMES = 1000,
    DRAINS = 50,
};

struct sender {
    const char *name;
    bool ring;
    bool bypass;
    int fd;
    uint8_t *map;
    uint32_t next;
    double best_mpps;
};

static uint8_t frame[VNET + 65536];
static size_t frame_len = 60;

static double now_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void need(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "packet_tx: %s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static void set(int fd, int option, int value)
{
    need(setsockopt(fd, SOL_PACKET, option, &value, sizeof(value)) == 0, "setsockopt");
}

static void open_sender(struct sender *sender, const char *iface)
{
    struct sockaddr_ll addr = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(iface)};
    struct tpacket_req req = {1 << 20, RING_FRAMES * RING_FRAME_SIZE >> 20, RING_FRAME_SIZE,
                              RING_FRAMES};

    sender->fd = socket(AF_PACKET, SOCK_RAW, 0);
    need(sender->fd >= 0, "socket");
    set(sender->fd, PACKET_VERSION, TPACKET_V2);
    set(sender->fd, PACKET_VNET_HDR, 1);
    set(sender->fd, PACKET_QDISC_BYPASS, sender->bypass);
    if (sender->ring) {
        need(setsockopt(sender->fd, SOL_PACKET, PACKET_TX_RING, &req, sizeof(req)) == 0, "TX_RING");
        sender->map = mmap(NULL, (size_t)RING_FRAMES * RING_FRAME_SIZE, PROT_READ | PROT_WRITE,
                           MAP_SHARED, sender->fd, 0);
        need(sender->map != MAP_FAILED, "mmap");
    }
    need(bind(sender->fd, (struct sockaddr *)&addr, sizeof(addr)) == 0, "bind");
}

static uint32_t send_by_ring(struct sender *sender)
{
    uint32_t filled = 0;

    for (; filled < BURST; filled++) {
        struct tpacket2_hdr *hdr = (void *)(sender->map + (size_t)sender->next * RING_FRAME_SIZE);

        if (__atomic_load_n(&hdr->tp_status, __ATOMIC_ACQUIRE) != TP_STATUS_AVAILABLE) {
            break;
        }
        memcpy((uint8_t *)hdr + DATA_OFFSET, frame, VNET + frame_len);
        hdr->tp_len = (uint32_t)(VNET + frame_len);
        __atomic_store_n(&hdr->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
        sender->next = (sender->next + 1) % RING_FRAMES;
    }
    need(send(sender->fd, NULL, 0, MSG_DONTWAIT) >= 0 || errno == EAGAIN || errno == ENOBUFS,
         "send");
    return filled;
}

static uint32_t send_by_mmsg(struct sender *sender)
{
    static struct mmsghdr msgs[BURST];
    static struct iovec iovs[BURST][2];
    int sent;

    for (uint32_t i = 0; i < BURST; i++) {
        iovs[i][0] = (struct iovec){frame, VNET};
        iovs[i][1] = (struct iovec){frame + VNET, frame_len};
        msgs[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = iovs[i], .msg_iovlen = 2}};
    }
    sent = sendmmsg(sender->fd, msgs, BURST, MSG_DONTWAIT);
    need(sent >= 0 || errno == EAGAIN || errno == ENOBUFS, "sendmmsg");
    return sent > 0 ? (uint32_t)sent : 0;
}

static void run_round(struct sender *sender)
{
    double start = now_s();
    double end = start + ROUND_US / 1e6;
    uint64_t frames = 0;
    double mpps;

    while (now_s() < end) {
        frames += sender->ring ? send_by_ring(sender) : send_by_mmsg(sender);
    }
    mpps = (double)frames / (now_s() - start) / 1e6;
    sender->best_mpps = mpps > sender->best_mpps ? mpps : sender->best_mpps;
}

static void measure_send(const char *iface)
{
    struct sender senders[] = {
        {.name = "TX ring"},
        {.name = "TX ring, bypass"},
        {.name = "sendmmsg"},
        {.name = "sendmmsg, bypass"},
    };

    for (int i = 0; i < 4; i++) {
        senders[i].ring = i < 2;
        senders[i].bypass = i & 1;
        open_sender(&senders[i], iface);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < 4; i++) {
            run_round(&senders[i]);
        }
    }
    for (int i = 0; i < 4; i++) {
        printf("tx  %-18s %5zu bytes  %.3f Mpps\n", senders[i].name, frame_len,
               senders[i].best_mpps);
        close(senders[i].fd);
    }
}

/* The n-th CPU that this process may use, if there are so many: both sides on one CPU take turns.
 */
static void pin(int n)
{
    cpu_set_t allowed;
    cpu_set_t one;

    need(sched_getaffinity(0, sizeof(allowed), &allowed) == 0, "sched_getaffinity");
    CPU_ZERO(&one);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &allowed) && n-- == 0) {
            CPU_SET(cpu, &one);
            need(sched_setaffinity(0, sizeof(one), &one) == 0, "sched_setaffinity");
        }
    }
}

/* Sends until its parent dies or kills it. */
static pid_t fork_source(const char *iface)
{
    struct sender sender = {.bypass = true};
    pid_t pid = fork();

    need(pid >= 0, "fork");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pin(1);
        open_sender(&sender, iface);
        for (;;) {
            send_by_mmsg(&sender);
        }
    }
    return pid;
}

static uint32_t turn(struct port *port, bool echo)
{
    uint32_t tail;
    uint32_t frames;

    need(port->ops->rx_sync(port, 1) == 0, "rx_sync");
    tail = nm_ring_tail(port->rx);
    frames = nm_ring_distance(port->rx, port->rx->head, tail);
    for (uint32_t at = port->rx->head; at != tail && echo; at = nm_ring_next(port->rx, at)) {
        uint32_t to = port->tx->head;

        if (to == nm_ring_tail(port->tx)) {
            break;
        }
        memcpy(nm_ring_buf(port->tx, to), nm_ring_buf(port->rx, at), port->rx->slot[at].len);
        port->tx->slot[to].len = port->rx->slot[at].len;
        port->tx->slot[to].flags = 0;
        nm_ring_give(port->tx, nm_ring_next(port->tx, to));
    }
    nm_ring_give(port->rx, tail);
    need(port->ops->tx_sync(port, 1) == 0, "tx_sync");
    return frames;
}

static struct device *open_device(const char *iface)
{
    struct device_config config = {.rings = 1};
    struct device *device;
    char error[PORT_ERROR_MAX] = "";
    char spec[PORT_NAME_MAX];

    snprintf(spec, sizeof(spec), "packet:%s", iface);
    if (device_open(&device, spec, &config, error) != 0) {
        fprintf(stderr, "packet_tx: %s\n", error);
        exit(1);
    }
    return device;
}

static void measure_receive(const char *iface, const char *peer, bool echo)
{
    struct device *device = open_device(iface);
    uint64_t frames = 0;
    cpu_set_t before;
    pid_t pid;
    double start;

    need(sched_getaffinity(0, sizeof(before), &before) == 0, "sched_getaffinity");
    pid = fork_source(peer);
    pin(0);
    start = now_s();

    while (now_s() - start < 1.0) {
        frames += turn(&device->ports[0], echo);
    }
    printf("rx  packet:%-11s %5zu bytes  %.3f Mpps, %llu missed\n", echo ? " and echo" : "",
           frame_len, (double)frames / (now_s() - start) / 1e6,
           (unsigned long long)device->ports[0].counters->rx_missed);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    sched_setaffinity(0, sizeof(before), &before);
    device_close(device);
}

/* What rx_sync itself costs: nobody sends while a full ring is emptied. */
static void measure_drain(const char *iface, const char *peer)
{
    struct device *device = open_device(iface);
    struct sender sender = {.bypass = true};
    double best = 1e9;

    open_sender(&sender, peer);
    for (int drain = 0; drain < DRAINS; drain++) {
        uint32_t sent = 0;
        uint32_t frames = 0;
        double start;

        while (sent < DRAIN_FRAMES - BURST) {
            sent += send_by_mmsg(&sender);
        }
        start = now_s();
        while (frames < sent) {
            frames += turn(&device->ports[0], false);
        }
        start = (now_s() - start) / sent * 1e9;
        best = start < best ? start : best;
    }
    printf("rx  a full ring emptied %5zu bytes  %.0f ns each\n", frame_len, best);
    close(sender.fd);
    device_close(device);
}

/* An ARP frame to all: nobody's address, so both kernels look at it and drop it. */
static void make_frame(void)
{
    memset(frame + VNET, 0xff, ETH_ALEN);
    frame[VNET + 12] = ETH_P_ARP >> 8;
    frame[VNET + 13] = ETH_P_ARP & 0xff;
}

int main(int argc, char **argv)
{
    const char *why = "";

    if (argc > 1) {
        frame_len = (size_t)atoi(argv[1]);
    }
    if (frame_len < 60 || frame_len > 1514 || !netns_enter(&why) ||
        !netns_veth("bench0", "bench1", 1, 1500)) {
        fprintf(stderr, "packet_tx: %s\n", why[0] ? why : "frames of 60 to 1514 bytes");
        return 1;
    }
    setvbuf(stdout, NULL, _IONBF, 0);
    make_frame();
    measure_send("bench0");
    measure_drain("bench1", "bench0");
    measure_receive("bench1", "bench0", false);
    measure_receive("bench1", "bench0", true);
    return 0;
}
