/*
 * How many frames a second do packet: and xdp: move over a veth pair, and what does one cost?
 *
 * In a namespace of its own; the backends take turns, the best of several rounds counts. "out" is
 * a full TX ring sent again and again to a peer whose kernel drops it; "in" is a peer that sends as
 * fast as it can; "drain" empties rings that were filled while nobody looked: CPU time of rx_sync.
 * Run: port_rate [FRAME_BYTES]
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
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "netns.h"
#include "ports/port.h"

enum {
    BURST = 64,
    ROUNDS = 4,
    DRAIN_FRAMES = 900,
    DRAINS = 20,
    VNET = 10, /* what AF_PACKET wants before a frame */
};

static const double round_s = 0.3;

struct figures {
    const char *spec;
    double out_mpps;
    double out_ns;
    double in_mpps;
    double drain_ns;
};

static uint8_t frame[VNET + 2048];
static size_t frame_len = 60;

static double seconds(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void need(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "port_rate: %s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static struct device *open_device(const char *spec)
{
    struct device_config config = {.rings = 1};
    struct device *device;
    char error[PORT_ERROR_MAX] = "";

    if (device_open(&device, spec, &config, error) != 0) {
        fprintf(stderr, "port_rate: %s\n", error);
        exit(1);
    }
    return device;
}

static int open_source(void)
{
    struct sockaddr_ll addr = {.sll_family = AF_PACKET,
                               .sll_ifindex = (int)if_nametoindex("bench0")};
    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    int one = 1;

    need(fd >= 0, "socket");
    need(setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)) == 0 &&
             setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one)) == 0 &&
             bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0,
         "source");
    return fd;
}

static uint32_t send_some(int fd)
{
    struct mmsghdr msgs[BURST];
    struct iovec iov = {frame, VNET + frame_len};
    int sent;

    for (uint32_t i = 0; i < BURST; i++) {
        msgs[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1}};
    }
    sent = sendmmsg(fd, msgs, BURST, MSG_DONTWAIT);
    need(sent >= 0 || errno == EAGAIN || errno == ENOBUFS, "sendmmsg");
    return sent > 0 ? (uint32_t)sent : 0;
}

/* The n-th CPU that this process may use, if there are so many. */
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
static pid_t fork_source(void)
{
    pid_t pid = fork();
    int fd;

    need(pid >= 0, "fork");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pin(1);
        fd = open_source();
        for (;;) {
            send_some(fd);
        }
    }
    return pid;
}

static uint32_t receive(struct port *port)
{
    uint32_t tail;
    uint32_t frames;

    need(port->ops->rx_sync(port, 1) == 0, "rx_sync");
    tail = nm_ring_tail(port->rx);
    frames = nm_ring_distance(port->rx, port->rx->head, tail);
    nm_ring_give(port->rx, tail);
    return frames;
}

static void measure_in(struct figures *to)
{
    struct device *device = open_device(to->spec);
    uint64_t frames = 0;
    cpu_set_t before;
    pid_t pid;
    double start;
    double mpps;

    need(sched_getaffinity(0, sizeof(before), &before) == 0, "sched_getaffinity");
    pid = fork_source();
    pin(0);
    start = seconds(CLOCK_MONOTONIC);
    while (seconds(CLOCK_MONOTONIC) - start < round_s) {
        frames += receive(&device->ports[0]);
    }
    mpps = (double)frames / (seconds(CLOCK_MONOTONIC) - start) / 1e6;
    to->in_mpps = mpps > to->in_mpps ? mpps : to->in_mpps;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    sched_setaffinity(0, sizeof(before), &before);
    device_close(device);
}

static void measure_drain(struct figures *to)
{
    struct device *device = open_device(to->spec);
    int fd = open_source();

    for (int drain = 0; drain < DRAINS; drain++) {
        uint32_t sent = 0;
        uint32_t frames = 0;
        double start;
        double ns;

        while (sent < DRAIN_FRAMES - BURST) {
            sent += send_some(fd);
            usleep(50); /* veth hands over 256 at most, and does so later */
        }
        usleep(1000);
        start = seconds(CLOCK_THREAD_CPUTIME_ID);
        for (uint32_t got = 1; got > 0;) {
            got = receive(&device->ports[0]);
            frames += got;
        }
        ns = (seconds(CLOCK_THREAD_CPUTIME_ID) - start) / frames * 1e9;
        to->drain_ns = to->drain_ns == 0 || ns < to->drain_ns ? ns : to->drain_ns;
    }
    close(fd);
    device_close(device);
}

static uint32_t send_ring(struct port *port)
{
    uint32_t tail = nm_ring_tail(port->tx);
    uint32_t frames = 0;

    for (uint32_t at = port->tx->head; at != tail; at = nm_ring_next(port->tx, at)) {
        uint8_t *buf = nm_ring_buf(port->tx, at);

        memset(buf, 0, PORT_VNET_HDR_LEN);
        memcpy(buf + PORT_VNET_HDR_LEN, frame + VNET, frame_len);
        port->tx->slot[at].len = (uint16_t)(PORT_VNET_HDR_LEN + frame_len);
        port->tx->slot[at].flags = 0;
        frames++;
    }
    nm_ring_give(port->tx, tail);
    need(port->ops->tx_sync(port, 1) == 0, "tx_sync");
    return frames;
}

static void measure_out(struct figures *to)
{
    struct device *device = open_device(to->spec);
    double start = seconds(CLOCK_MONOTONIC);
    double cpu = seconds(CLOCK_THREAD_CPUTIME_ID);
    uint64_t frames = 0;
    double mpps;
    double ns;

    while (seconds(CLOCK_MONOTONIC) - start < round_s) {
        frames += send_ring(&device->ports[0]);
    }
    mpps = (double)frames / (seconds(CLOCK_MONOTONIC) - start) / 1e6;
    ns = (seconds(CLOCK_THREAD_CPUTIME_ID) - cpu) / (double)frames * 1e9;
    to->out_mpps = mpps > to->out_mpps ? mpps : to->out_mpps;
    to->out_ns = to->out_ns == 0 || ns < to->out_ns ? ns : to->out_ns;
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
    struct figures all[] = {
        {.spec = "packet:bench1"}, {.spec = "xdp:bench1"}, {.spec = "xdp:bench1:generic"}};
    enum {
        N = sizeof(all) / sizeof(all[0])
    };
    const char *why = "";

    if (argc > 1) {
        frame_len = (size_t)atoi(argv[1]);
    }
    if (frame_len < 60 || frame_len > 1514 || !netns_enter(&why) ||
        !netns_veth("bench0", "bench1", 1, 1500)) {
        fprintf(stderr, "port_rate: %s\n", why[0] ? why : "frames of 60 to 1514 bytes");
        return 1;
    }
    setvbuf(stdout, NULL, _IONBF, 0);
    make_frame();
    for (int round = 0; round < ROUNDS * N; round++) {
        measure_out(&all[round % N]);
        measure_in(&all[round % N]);
        measure_drain(&all[round % N]);
    }
    for (int i = 0; i < N; i++) {
        printf("%-20s %4zu bytes  out %.3f Mpps, %.0f ns of CPU  in %.3f Mpps, drain %.0f ns\n",
               all[i].spec, frame_len, all[i].out_mpps, all[i].out_ns, all[i].in_mpps,
               all[i].drain_ns);
    }
    return 0;
}
