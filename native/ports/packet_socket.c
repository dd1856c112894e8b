/* One AF_PACKET socket with its ring, and the fanout group of a device; see packet.h. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ports/packet.h"
#include "ports/socket_filter.h"

enum {
    FANOUT_IGNORE_OUTGOING = 0x4000, /* Linux 6.4; the filter says the same to older ones */
    SEND_BUFFER = 8 << 20,
    FANOUT_ID_MASK = 0xffff,
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

int packet_socket_listen(struct packet_device *device, const uint8_t mac[6],
                         const struct device_config *config)
{
    struct sock_filter filter[SOCKET_FILTER_MAX];
    uint32_t n = socket_filter_make(filter, mac, config, true);
    int code = go_promiscuous(device);

    for (uint32_t i = 0; i < device->rings && code == 0; i++) {
        code = attach(device->ring[i].fd, filter, n);
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
