/*
 * AF_PACKET without us: the system calls of packet:, and nothing between them and the frames.
 * Run: raw_packet rx|copy IFACE SECONDS CPU, raw_packet tx IFACE SECONDS CPU MAC
 */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "loop.h"

enum {
    FRAME_SIZE = 2048,
    FRAMES = 1024,
    BLOCK = 1 << 20,
    VNET = 10,
};

static void set(int fd, int option, int value)
{
    loop_need(setsockopt(fd, SOL_PACKET, option, &value, sizeof(value)) == 0, "setsockopt");
}

static int open_socket(const char *iface, bool receive, uint8_t **map)
{
    struct sockaddr_ll addr = {.sll_family = AF_PACKET,
                               .sll_ifindex = (int)if_nametoindex(iface),
                               .sll_protocol = htons(receive ? ETH_P_ALL : 0)};
    struct tpacket_req req = {BLOCK, FRAMES * FRAME_SIZE / BLOCK, FRAME_SIZE, FRAMES};
    int fd = socket(AF_PACKET, SOCK_RAW, 0);

    loop_need(fd >= 0, "socket");
    set(fd, PACKET_VERSION, TPACKET_V2);
    set(fd, PACKET_VNET_HDR, 1);
    set(fd, PACKET_QDISC_BYPASS, 1);
    if (receive) {
        loop_need(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &req, sizeof(req)) == 0, "RX_RING");
        *map = mmap(NULL, (size_t)FRAMES * FRAME_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        loop_need(*map != MAP_FAILED, "mmap");
    }
    loop_need(bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0, "bind");
    return fd;
}

/* `copy`: out of the ring, as everybody must who keeps a frame; else one byte is looked at. */
static void receive(const char *iface, const char *seconds, int cpu, bool copy)
{
    static uint8_t kept[FRAMES][FRAME_SIZE];
    uint8_t *map = NULL;
    int fd = open_socket(iface, true, &map);
    uint64_t frames = 0;
    uint32_t at = 0;
    uint32_t sum = 0;

    loop_start(cpu, seconds);
    while (!loop_over) {
        struct tpacket2_hdr *hdr = (void *)(map + (size_t)at * FRAME_SIZE);

        if (!(__atomic_load_n(&hdr->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) {
            loop_nap();
            continue;
        }
        if (copy) {
            memcpy(kept[at], (const uint8_t *)hdr + hdr->tp_mac - VNET, VNET + hdr->tp_snaplen);
            sum += kept[at][VNET + 12];
        } else {
            sum += ((const uint8_t *)hdr)[hdr->tp_mac + 12];
        }
        frames++;
        __atomic_store_n(&hdr->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        at = (at + 1) % FRAMES;
    }
    loop_report(frames, sum);
    close(fd);
}

static void transmit(const char *iface, const char *seconds, int cpu, const char *mac)
{
    static uint8_t bufs[LOOP_BURST][VNET + LOOP_FRAME];
    static struct mmsghdr msgs[LOOP_BURST];
    static struct iovec iovs[LOOP_BURST];
    uint8_t frame[LOOP_FRAME];
    uint64_t frames = 0;
    int fd = open_socket(iface, false, NULL);

    loop_frame(frame, mac);
    loop_start(cpu, seconds);
    while (!loop_over) {
        int sent;

        for (uint32_t i = 0; i < LOOP_BURST; i++) {
            memcpy(bufs[i] + VNET, frame, LOOP_FRAME);
            iovs[i] = (struct iovec){bufs[i], sizeof(bufs[i])};
            msgs[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &iovs[i], .msg_iovlen = 1}};
        }
        sent = sendmmsg(fd, msgs, LOOP_BURST, MSG_DONTWAIT);
        loop_need(sent >= 0 || errno == EAGAIN || errno == ENOBUFS || errno == EINTR, "sendmmsg");
        frames += sent > 0 ? (uint64_t)sent : 0;
    }
    loop_report(frames, 0);
}

int main(int argc, char **argv)
{
    bool copy = argc == 5 && strcmp(argv[1], "copy") == 0;

    if (copy || (argc == 5 && strcmp(argv[1], "rx") == 0)) {
        receive(argv[2], argv[3], atoi(argv[4]), copy);
    } else if (argc == 6 && strcmp(argv[1], "tx") == 0 && strlen(argv[5]) == 17) {
        transmit(argv[2], argv[3], atoi(argv[4]), argv[5]);
    } else {
        fputs("raw_packet rx|copy IFACE SECONDS CPU | tx IFACE SECONDS CPU MAC\n", stderr);
        return 2;
    }
    return 0;
}
