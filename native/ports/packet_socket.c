/* One AF_PACKET socket with its ring, and the fanout group of a device; see packet.h. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ports/packet.h"

enum {
    FANOUT_IGNORE_OUTGOING = 0x4000, /* Linux 6.4; the filter says the same to older ones */
    SEND_BUFFER = 8 << 20,
    FANOUT_ID_MASK = 0xffff,
    ETH_TYPE = 12,
    IP_DST = 30,
    WHOLE = 0x40000, /* bytes that an accepting filter keeps: all */
};

static int set_int(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof(value)) == 0 ? 0 : -errno;
}

static int attach(int fd, struct sock_filter *code, size_t n)
{
    struct sock_fprog program = {(unsigned short)n, code};

    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0 ? 0
                                                                                        : -errno;
}

/* While the group is not complete, a frame would go to the wrong ring, or to several. */
static int attach_deaf(int fd)
{
    struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, 0)};

    return attach(fd, code, 1);
}

/*
 * To our MAC or to many: ARP, IPv4 for our address (0: any), or what has its VLAN tag in the frame;
 * nothing that we sent ourselves.
 */
static int attach_ours(int fd, const uint8_t mac[6], uint32_t ip)
{
    uint32_t high;
    uint16_t low;

    memcpy(&high, mac, sizeof(high));
    memcpy(&low, mac + sizeof(high), sizeof(low));
    const uint8_t other = ip == 0 ? 0 : 1;
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_PKTTYPE)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING, 15, 0),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 1, 4, 0), /* broadcast, multicast */
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohl(high), 0, 11),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohs(low), 0, 9),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, ETH_TYPE),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IP, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_ARP, 5, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_8021Q, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_8021AD, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JA, 3, 0, 0),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, IP_DST),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ip, 0, other),
        BPF_STMT(BPF_RET | BPF_K, WHOLE),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    return attach(fd, code, sizeof(code) / sizeof(code[0]));
}

/* The kernel may have no room for as much as was asked: half as much then. */
static int make_ring(struct packet_ring *ring, uint32_t blocks)
{
    struct tpacket_req req = {.tp_block_size = PACKET_BLOCK_SIZE,
                              .tp_frame_size = PACKET_FRAME_SIZE};

    for (;;) {
        req.tp_block_nr = blocks;
        req.tp_frame_nr = blocks * PACKET_BLOCK_FRAMES;
        if (setsockopt(ring->fd, SOL_PACKET, PACKET_RX_RING, &req, sizeof(req)) == 0) {
            break;
        }
        if (errno != ENOMEM || blocks <= PACKET_BLOCKS_MIN) {
            return -errno;
        }
        blocks = max_u32(blocks / 2, PACKET_BLOCKS_MIN);
    }
    ring->frames = req.tp_frame_nr;
    ring->map_bytes = (size_t)blocks * PACKET_BLOCK_SIZE;
    ring->map = mmap(NULL, ring->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, 0);
    if (ring->map == MAP_FAILED) {
        ring->map = NULL;
        return -errno;
    }
    return 0;
}

static int set_options(int fd)
{
    int code = set_int(fd, SOL_PACKET, PACKET_VERSION, TPACKET_V2);

    code = code != 0 ? code : set_int(fd, SOL_PACKET, PACKET_VNET_HDR, 1);
    code = code != 0 ? code : set_int(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
    code = code != 0 ? code : set_int(fd, SOL_PACKET, PACKET_QDISC_BYPASS, 1);
    if (set_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER) != 0) {
        set_int(fd, SOL_SOCKET, SO_SNDBUF, SEND_BUFFER); /* as much as net.core.wmem_max lets */
    }
    return code != 0 ? code : attach_deaf(fd);
}

/* The kernel picks a group id that is free, for the first socket; the others join it by that id. */
static int join_fanout(struct packet_device *device, uint32_t index)
{
    int mode = device->fanout == PACKET_BY_QUEUE ? PACKET_FANOUT_QM : PACKET_FANOUT_HASH;
    int group = 0;
    int code;

    if (index == 0) {
        mode |= PACKET_FANOUT_FLAG_UNIQUEID;
    } else {
        socklen_t len = sizeof(group);

        if (getsockopt(device->ring[0].fd, SOL_PACKET, PACKET_FANOUT, &group, &len) != 0) {
            return -errno;
        }
        group &= FANOUT_ID_MASK;
    }
    code = set_int(device->ring[index].fd, SOL_PACKET, PACKET_FANOUT,
                   group | (mode | FANOUT_IGNORE_OUTGOING) << 16);
    if (code == -EINVAL) {
        code = set_int(device->ring[index].fd, SOL_PACKET, PACKET_FANOUT, group | mode << 16);
    }
    return code;
}

static int bind_socket(int fd, const struct packet_link *link)
{
    struct sockaddr_ll addr = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = link->ifindex};

    return bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 ? 0 : -errno;
}

int packet_socket_open(struct packet_device *device, uint32_t index, uint32_t blocks)
{
    struct packet_ring *ring = &device->ring[index];
    int code;

    ring->fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (ring->fd < 0) {
        return -errno;
    }
    code = set_options(ring->fd);
    code = code != 0 ? code : make_ring(ring, blocks);
    code = code != 0 ? code : bind_socket(ring->fd, &device->link);
    if (code == 0 && device->rings > 1) {
        code = join_fanout(device, index);
    }
    return code;
}

static int go_promiscuous(const struct packet_device *device)
{
    struct packet_mreq mreq = {.mr_ifindex = device->link.ifindex, .mr_type = PACKET_MR_PROMISC};

    if (!device->promiscuous) {
        return 0;
    }
    return setsockopt(device->ring[0].fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &mreq, sizeof(mreq)) ==
                   0
               ? 0
               : -errno;
}

int packet_socket_listen(struct packet_device *device, const uint8_t mac[6], uint32_t ip)
{
    int code = go_promiscuous(device);

    for (uint32_t i = 0; i < device->rings && code == 0; i++) {
        code = attach_ours(device->ring[i].fd, mac, ip);
    }
    return code;
}

void packet_socket_close(struct packet_ring *ring)
{
    if (ring->map) {
        munmap(ring->map, ring->map_bytes);
    }
    if (ring->fd >= 0) {
        close(ring->fd);
    }
    ring->map = NULL;
    ring->fd = -1;
}

int packet_socket_drops(int fd)
{
    struct tpacket_stats stats;
    socklen_t len = sizeof(stats);

    if (getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &len) != 0) {
        return -errno;
    }
    return (int)min_u32(stats.tp_drops, INT32_MAX);
}
