/* Opening rings on an interface, and the operations of a port; see packet.h. */
#include "ports/packet.h"

#include <linux/if_packet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "ports/backends.h"
#include "ports/host_drop.h"

enum {
    DEFAULT_SLOTS = 1024,
    DEFAULT_BUF = 2048,
    BUF_MAX = 32768,
    SLOTS_MAX = 8176,
    MEMORY_SHARE = 8, /* the TPACKET rings take at most one part in so many of the memory */
    MTU_MIN = 576,
};

static const char by_queue_suffix[] = ":queue";

static int port_sleep_arm(struct port *port)
{
    const struct packet_shared *shared = packet_shared(port);
    bool unsent = (uint32_t)shared->tx_commit != port->tx->head;

    return shared->gone || unsent || nm_ring_space(port->rx) > 0 || packet_rx_ready(port);
}

/*
 * A sleep that ended without a frame may have ended with an error: an interface that goes down says
 * so once, and poll() returns at once until somebody has read it. It comes back by itself; one
 * that is deleted then does not, tells nothing more, and its sockets cannot be bound to another: so
 * we look again until a frame comes.
 */
static void port_sleep_disarm(struct port *port)
{
    int fd = packet_ring(port)->fd;
    struct sockaddr_ll addr;
    socklen_t addr_len = sizeof(addr);
    socklen_t len = sizeof(int);
    int error = 0;

    if (packet_rx_ready(port)) {
        packet_shared(port)->down = 0;
        return;
    }
    port->counters->syscalls++;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error != 0) {
        packet_shared(port)->down = 1;
    }
    if (!packet_shared(port)->down) {
        return;
    }
    port->counters->syscalls++;
    if (getsockname(fd, (struct sockaddr *)&addr, &addr_len) == 0 && addr.sll_ifindex <= 0) {
        packet_shared(port)->gone = 1;
    }
}

static int port_recover(struct port *port)
{
    packet_rx_recover(port);
    packet_tx_recover(port);
    return 0;
}

const struct port_ops packet_port_ops = {
    .backend = "packet",
    .rx_sync = packet_rx_sync,
    .tx_sync = packet_tx_sync,
    .sleep_arm = port_sleep_arm,
    .sleep_disarm = port_sleep_disarm,
    .recover = port_recover,
};

static void close_ring(struct packet_ring *ring)
{
    packet_socket_close(ring);
    swring_destroy(&ring->rings);
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
}

static void packet_close(struct device *device)
{
    struct packet_device *packet = device->priv;

    if (!packet) {
        return;
    }
    for (uint32_t i = 0; i < PORT_RINGS_MAX; i++) {
        close_ring(&packet->ring[i]);
    }
    close_fd(&packet->lock_fd);
    close_fd(&packet->drop_fd);
    free(packet);
    device->priv = NULL;
}

/*
 * The lock stays with the workers: while one of them lives, the interface is taken, and the host
 * keeps off its frames.
 */
static void packet_keep_only(struct device *device, uint32_t ring_id)
{
    struct packet_device *packet = device->priv;

    for (uint32_t i = 0; i < packet->rings; i++) {
        if (i != ring_id) {
            close_ring(&packet->ring[i]);
            device->ports[i] = (struct port){.wait_fd = -1};
        }
    }
}

static int check_config(const struct device_config *config, const char *name, char *error)
{
    if (config->rings > PORT_RINGS_MAX || config->slots > SLOTS_MAX ||
        (config->slots != 0 && config->slots < PACKET_SLOTS_MIN) ||
        (config->buf_size != 0 &&
         (config->buf_size < DEFAULT_BUF || config->buf_size > BUF_MAX || config->buf_size % 64))) {
        return packet_refuse(error, name,
                             "at most 64 rings, 128 to 8176 slots, buffers of 2048 to 32768 bytes "
                             "in steps of 64",
                             -EINVAL);
    }
    return 0;
}

static int set_mtu(struct device *device, const struct packet_device *packet,
                   const struct device_config *config, char *error)
{
    device->mtu = packet->link.mtu;
    if (config->mtu == 0) {
        return 0;
    }
    if (config->mtu < MTU_MIN || config->mtu > packet->link.mtu) {
        return packet_refuse(error, packet->link.name,
                             "the MTU asked for is below 576 or above the interface's", -EINVAL);
    }
    device->mtu = config->mtu;
    return 0;
}

/*
 * Our MAC is the card's, unless the caller wants another: then the card must pass on all frames.
 * Where the kernel speaks ARP for us, it tells everybody the card's.
 */
static int set_mac(struct device *device, struct packet_device *packet,
                   const struct device_config *config, char *error)
{
    static const uint8_t none[6];
    bool given = memcmp(config->mac, none, sizeof(none)) != 0;
    bool other;

    memcpy(device->mac, given ? config->mac : packet->link.mac, sizeof(device->mac));
    other = memcmp(device->mac, packet->link.mac, sizeof(device->mac)) != 0;
    packet->promiscuous = other || config->every_frame;
    device->host_arp = config->take == PORT_TAKE_PORTS;
    if (device->host_arp && other) {
        return packet_refuse(error, packet->link.name,
                             "--mac with an address that is the host's: its kernel tells everybody "
                             "the card's own",
                             -EADDRNOTAVAIL);
    }
    return 0;
}

/* As many frames as slots, within a share of the machine's memory. */
static uint32_t count_blocks(uint32_t slots, uint32_t rings)
{
    uint32_t blocks = (slots + PACKET_BLOCK_FRAMES - 1) / PACKET_BLOCK_FRAMES;
    struct sysinfo info;
    uint64_t share;

    if (sysinfo(&info) != 0) {
        return PACKET_BLOCKS_MIN;
    }
    share = (uint64_t)info.totalram * info.mem_unit / MEMORY_SHARE / PACKET_BLOCK_SIZE / rings;
    blocks = share < blocks ? (uint32_t)share : blocks;
    return max_u32(blocks, PACKET_BLOCKS_MIN);
}

static int open_ring(struct device *device, uint32_t index, const struct device_config *config)
{
    struct packet_device *packet = device->priv;
    struct packet_ring *ring = &packet->ring[index];
    uint32_t slots = config->slots ? config->slots : DEFAULT_SLOTS;
    struct packet_shared *shared;
    int code = packet_socket_open(packet, index, count_blocks(slots, packet->rings));

    if (code == 0) {
        code = swring_create(&ring->rings, slots, config->buf_size ? config->buf_size : DEFAULT_BUF,
                             sizeof(struct packet_shared));
    }
    if (code != 0) {
        return code;
    }
    shared = ring->rings.extra;
    ring->bufs = NM_BUF_FIRST + 2 * slots;
    ring->rings.rx->ringid = (uint16_t)index;
    ring->rings.tx->ringid = (uint16_t)index;
    device->ports[index] = (struct port){.ops = &packet_port_ops,
                                         .rx = ring->rings.rx,
                                         .tx = ring->rings.tx,
                                         .counters = &shared->counters,
                                         .shared = shared,
                                         .priv = ring,
                                         .ring_id = index,
                                         .caps = PORT_CAP_VNET_HDR | PORT_CAP_RX_GSO |
                                                 PORT_CAP_TX_CSUM | PORT_CAP_TX_GSO,
                                         .wait_fd = ring->fd,
                                         .bufs = ring->rings.bufs};
    return 0;
}

static int refuse_rings(const struct packet_device *packet, int code, char *error)
{
    const char *what = "its rings could not be opened";

    if (code == -EPERM || code == -EACCES) {
        what = "no permission to open a packet socket: run as root or with CAP_NET_RAW, or in a "
               "network namespace of your own, entered with `unshare -Urn`";
    } else if (code == -ENOMEM) {
        what = "not enough memory for its rings: use fewer rings or slots";
    } else if (code == -ENETDOWN) {
        what = "the interface is down: bring it up with `ip link set DEV up`";
    }
    return packet_refuse(error, packet->link.name, what, code);
}

static int open_rings(struct device *device, const struct device_config *config, char *error)
{
    struct packet_device *packet = device->priv;
    int code = 0;

    for (uint32_t i = 0; i < packet->rings && code == 0; i++) {
        code = open_ring(device, i, config);
    }
    if (code == 0) {
        code = packet_socket_listen(packet, device->mac, config);
    }
    if (code != 0) {
        return refuse_rings(packet, code, error);
    }
    device->rings = packet->rings;
    packet->drop_fd =
        config->ip != 0 ? host_drop_open(packet->link.ifindex, config) : -EADDRNOTAVAIL;
    return host_drop_check(device->name, packet->drop_fd, config, error);
}

static void describe(struct device *device)
{
    const struct packet_device *packet = device->priv;
    const char *spread = packet->fanout == PACKET_BY_QUEUE ? "the card's queue" : "flow hash";
    bool own = memcmp(device->mac, packet->link.mac, sizeof(device->mac)) != 0;

    snprintf(device->banner, sizeof(device->banner),
             "AF_PACKET: %u TPACKET_V2 receive rings of %u frames by %s, transmit by sendmmsg past "
             "the qdisc, checksums and super-segments of a local peer%s%s",
             packet->rings, packet->ring[packet->rings - 1].frames, spread,
             !packet->promiscuous ? ""
             : own                ? ", promiscuous for a MAC of its own"
                                  : ", promiscuous for every frame",
             packet->drop_fd >= 0 ? ", the host's stack kept off our frames" : "");
}

/* "IFACE" or "IFACE:queue"; a colon cannot be part of an interface's name. */
static void parse_name(struct packet_device *packet, const char *name, char *iface)
{
    size_t len = strlen(name);
    size_t suffix = sizeof(by_queue_suffix) - 1;

    if (len > suffix && strcmp(name + len - suffix, by_queue_suffix) == 0) {
        packet->fanout = PACKET_BY_QUEUE;
        len -= suffix;
    }
    memcpy(iface, name, len);
    iface[len] = '\0';
}

static struct packet_device *packet_new(void)
{
    struct packet_device *packet = calloc(1, sizeof(*packet));

    if (!packet) {
        return NULL;
    }
    packet->lock_fd = -1;
    packet->drop_fd = -1;
    for (uint32_t i = 0; i < PORT_RINGS_MAX; i++) {
        packet->ring[i].fd = -1;
    }
    return packet;
}

static int find_and_lock(struct packet_device *packet, const char *name, char *error)
{
    char iface[PORT_NAME_MAX];
    int code;

    parse_name(packet, name, iface);
    code = packet_link_find(&packet->link, iface, error);
    if (code != 0) {
        return code;
    }
    packet->lock_fd = packet_link_lock(&packet->link, error);
    return packet->lock_fd < 0 ? packet->lock_fd : 0;
}

static int packet_open(struct device *device, const char *name, const struct device_config *config,
                       char *error)
{
    struct packet_device *packet = packet_new();
    int code;

    if (!packet) {
        return packet_refuse(error, name, "out of memory", -ENOMEM);
    }
    device->priv = packet;
    code = check_config(config, name, error);
    code = code != 0 ? code : find_and_lock(packet, name, error);
    code = code != 0 ? code : set_mtu(device, packet, config, error);
    if (code == 0) {
        packet->rings =
            config->rings ? config->rings : min_u32(packet->link.queues, PORT_RINGS_MAX);
        code = set_mac(device, packet, config, error);
        code = code != 0 ? code : open_rings(device, config, error);
    }
    if (code != 0) {
        packet_close(device);
        return code;
    }
    describe(device);
    return 0;
}

const struct device_ops packet_device_ops = {
    .backend = "packet",
    .open = packet_open,
    .keep_only = packet_keep_only,
    .close = packet_close,
};
