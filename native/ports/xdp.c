/* Opening queues of an interface, and the operations of a port; see xdp.h. */
#include "ports/xdp.h"

#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/wire.h"
#include "ports/backends.h"

enum {
    DEFAULT_SLOTS = 1024,
    MTU_MIN = 576,
    VLAN_LEN = 4,
};

static int port_sleep_arm(struct port *port)
{
    const struct xdp_port *xdp = xdp_port(port);
    const struct xdp_shared *shared = port->shared;
    bool stuck = xdp_tx_unsent(xdp) || nm_ring_space(port->tx) == 0;

    return shared->gone || nm_ring_space(port->rx) > 0 || xdp_rx_ready(xdp) ||
           (stuck && !shared->down);
}

/* An interface that is deleted says so once, and unbinds its sockets; see packet.c. */
static void look_for_end(const struct port *port, const struct xdp_socket *sock)
{
    int error = 0;
    socklen_t len = sizeof(error);

    port->counters->syscalls++;
    if (getsockopt(sock->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error == 0) {
        return;
    }
    port->counters->syscalls++;
    if (recvfrom(sock->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL) < 0 && errno == ENXIO) {
        ((struct xdp_shared *)port->shared)->gone = 1;
    }
}

static void port_sleep_disarm(struct port *port)
{
    const struct xdp_port *xdp = xdp_port(port);

    for (uint32_t i = 0; i < xdp->sockets && !xdp_rx_ready(xdp); i++) {
        look_for_end(port, &xdp->socket[i]);
    }
}

static int port_recover(struct port *port)
{
    xdp_rx_recover(port);
    return xdp_tx_recover(port);
}

const struct port_ops xdp_port_ops = {
    .backend = "xdp",
    .rx_sync = xdp_rx_sync,
    .tx_sync = xdp_tx_sync,
    .sleep_arm = port_sleep_arm,
    .sleep_disarm = port_sleep_disarm,
    .recover = port_recover,
};

static void close_port(struct xdp_port *port)
{
    xdp_port_unbind(port);
    xdp_port_unmap(port);
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
}

static void xdp_close(struct device *device)
{
    struct xdp_device *xdp = device->priv;

    if (!xdp) {
        return;
    }
    for (uint32_t i = 0; i < xdp->rings && xdp->ports; i++) {
        close_port(&xdp->ports[i]);
    }
    xdp_program_close(&xdp->program);
    close_fd(&xdp->promisc_fd);
    close_fd(&xdp->lock_fd);
    free(xdp->ports);
    free(xdp);
    device->priv = NULL;
}

/*
 * A worker keeps its own sockets and the lock. The program is the orchestrator's: it leaves the
 * interface when that ends, also while a worker hangs.
 */
static void xdp_keep_only(struct device *device, uint32_t ring_id)
{
    struct xdp_device *xdp = device->priv;

    for (uint32_t i = 0; i < xdp->rings; i++) {
        if (i != ring_id) {
            close_port(&xdp->ports[i]);
            device->ports[i] = (struct port){.wait_fd = -1};
        }
    }
    xdp_program_close(&xdp->program);
    close_fd(&xdp->promisc_fd);
}

/* Behind these drivers a kernel of this machine may send, and leave checksums unfinished. */
static bool has_local_peer(const char *iface)
{
    static const char *const drivers[] = {"veth", "tun", "virtio_net", "netkit", "macvlan"};
    struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
    struct ifreq ifr = {0};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool found = false;

    snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%.15s", iface); /* validated before */
    ifr.ifr_data = (void *)&info;
    if (fd >= 0 && ioctl(fd, SIOCETHTOOL, &ifr) == 0) {
        for (size_t i = 0; i < sizeof(drivers) / sizeof(drivers[0]); i++) {
            found |= strcmp(info.driver, drivers[i]) == 0;
        }
    }
    close_fd(&fd);
    return found;
}

static int find_and_lock(struct xdp_device *xdp, char *error)
{
    const char *iface = xdp->wishes.iface;
    struct xdp_tenant tenant;
    int code = xdp_as_ours(error, packet_link_find(&xdp->link, iface, error));

    if (code != 0) {
        return code;
    }
    if (xdp->link.loopback) {
        return xdp_refuse(
            error, iface,
            "the loopback interface has no queues of a card: use mem:NAME, or a veth pair",
            -EOPNOTSUPP);
    }
    xdp->lock_fd = xdp_as_ours(error, packet_link_lock(&xdp->link, error));
    if (xdp->lock_fd < 0) {
        return xdp->lock_fd;
    }
    if (xdp_tenant_find(xdp->link.ifindex, &tenant) == 0 && tenant.prog_id != 0) {
        return xdp_refuse_tenant(iface, &tenant, error);
    }
    if (xdp->link.queues > PORT_RINGS_MAX) {
        return xdp_refuse(error, iface,
                          "more than 64 queues: give it fewer with `ethtool -L DEV combined 64`",
                          -EINVAL);
    }
    xdp->queues = xdp->link.queues;
    xdp->local_peer = has_local_peer(iface);
    return 0;
}

/* Long enough a chunk that a frame of the MTU is one piece, as far as chunks go. */
static uint32_t choose_chunk(const struct xdp_device *xdp, const struct device_config *config)
{
    uint32_t room = XDP_CHUNK_MIN - XDP_HEADROOM - PORT_VNET_HDR_LEN - ETH_HDR_LEN - VLAN_LEN;

    if (config->buf_size != 0) {
        return config->buf_size;
    }
    return xdp->link.mtu <= room ? XDP_CHUNK_MIN : XDP_CHUNK_MAX;
}

static uint64_t all_queues(const struct xdp_device *xdp)
{
    return UINT64_MAX >> (PORT_RINGS_MAX - xdp->queues);
}

static int check_config(struct xdp_device *xdp, const struct device_config *config, char *error)
{
    const char *iface = xdp->wishes.iface;
    uint32_t taken;

    xdp->taken = config->queues ? config->queues : all_queues(xdp);
    taken = (uint32_t)__builtin_popcountll(xdp->taken);

    if ((config->slots != 0 && config->slots < XDP_SLOTS_MIN) || config->slots > XDP_SLOTS_MAX ||
        (config->buf_size != 0 && config->buf_size != XDP_CHUNK_MIN &&
         config->buf_size != XDP_CHUNK_MAX)) {
        return xdp_refuse(error, iface, "128 to 8176 slots, buffers of 2048 or 4096 bytes",
                          -EINVAL);
    }
    if (config->queues & ~all_queues(xdp)) {
        snprintf(error, PORT_ERROR_MAX,
                 "xdp:%s: it has queues 0 to %u, not all that --rings names: give it more with "
                 "`ethtool -L`",
                 iface, xdp->queues - 1);
        return -EINVAL;
    }
    if (config->rings > taken) {
        snprintf(error, PORT_ERROR_MAX,
                 "xdp:%s: %u rings for %u queues: give at most %u --workers, or more queues: "
                 "`ethtool -L %s combined %u`",
                 iface, config->rings, taken, taken, iface, config->rings);
        return -EINVAL;
    }
    return 0;
}

/* What the stack sends lies in one slot and one chunk. */
static int set_mtu(struct device *device, const struct device_config *config, uint32_t chunk,
                   char *error)
{
    const struct xdp_device *xdp = device->priv;
    uint32_t room = chunk - XDP_HEADROOM - PORT_VNET_HDR_LEN - ETH_HDR_LEN;

    device->mtu = min_u32(xdp->link.mtu, room);
    if (config->mtu == 0) {
        return 0;
    }
    if (config->mtu < MTU_MIN || config->mtu > device->mtu) {
        return xdp_refuse(
            error, xdp->wishes.iface,
            "the MTU asked for is below 576, or above the interface's, or more than a "
            "buffer holds (3814 bytes at most)",
            -EINVAL);
    }
    device->mtu = config->mtu;
    return 0;
}

/* Our MAC is the card's, unless the caller wants another: then the card must pass on all frames. */
static int set_mac(struct device *device, const struct device_config *config)
{
    static const uint8_t none[6];
    struct xdp_device *xdp = device->priv;
    struct packet_mreq mreq = {.mr_ifindex = xdp->link.ifindex, .mr_type = PACKET_MR_PROMISC};
    bool given = memcmp(config->mac, none, sizeof(none)) != 0;

    memcpy(device->mac, given ? config->mac : xdp->link.mac, sizeof(device->mac));
    if (memcmp(device->mac, xdp->link.mac, sizeof(device->mac)) == 0 && !config->every_frame) {
        return 0;
    }
    if (device->host_arp) { /* the kernel tells everybody the card's */
        return -EADDRNOTAVAIL;
    }
    xdp->promisc_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (xdp->promisc_fd < 0 ||
        setsockopt(xdp->promisc_fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &mreq, sizeof(mreq)) != 0) {
        return -errno;
    }
    return 0;
}

/* The queues that are ours, to the ports by turns. */
static void deal_queues(struct xdp_device *xdp)
{
    uint32_t turn = 0;

    for (uint32_t queue = 0; queue < xdp->queues; queue++) {
        struct xdp_port *port = &xdp->ports[turn % xdp->rings];

        if (xdp->taken >> queue & 1) {
            port->wait_fd = -1;
            port->socket[port->sockets++] = (struct xdp_socket){.fd = -1, .queue = queue};
            turn++;
        }
    }
}

static int map_ports(struct xdp_device *xdp, const struct device_config *config, uint32_t chunk)
{
    uint32_t slots = config->slots ? config->slots : DEFAULT_SLOTS;
    int code = 0;

    xdp->ports = calloc(xdp->rings, sizeof(*xdp->ports));
    if (!xdp->ports) {
        return -ENOMEM;
    }
    deal_queues(xdp);
    for (uint32_t i = 0; i < xdp->rings && code == 0; i++) {
        xdp->ports[i].busy_poll = xdp->wishes.busy_poll;
        xdp->ports[i].unfinished = xdp->local_peer && !xdp->wishes.verify;
        code = xdp_port_map(&xdp->ports[i], slots, chunk);
    }
    return code;
}

/*
 * Pieces cost nothing where frames are copied. A card that can do without copies may not be able to
 * do it in pieces, so it is asked only where a frame of the MTU needs them.
 */
static bool wants_pieces(const struct xdp_device *xdp, enum xdp_mode mode)
{
    uint32_t room = xdp->ports[0].chunk - XDP_HEADROOM - ETH_HDR_LEN - VLAN_LEN;

    return xdp->program.pieces && (mode != XDP_MODE_ZEROCOPY || xdp->link.mtu > room);
}

static int bind_ports(struct xdp_device *xdp, enum xdp_mode mode)
{
    int code = 0;

    for (uint32_t i = 0; i < xdp->rings && code == 0; i++) {
        xdp->ports[i].pieces = wants_pieces(xdp, mode);
        code = xdp_port_bind(&xdp->ports[i], &xdp->link, mode);
    }
    return code;
}

/* Program and sockets in one mode, or nothing of it. */
static int enter_mode(struct xdp_device *xdp, enum xdp_mode mode)
{
    int code = xdp_program_attach(&xdp->program, xdp->link.ifindex, mode == XDP_MODE_GENERIC);

    code = code != 0 ? code : bind_ports(xdp, mode);
    xdp->mode = mode;
    if (code != 0) {
        for (uint32_t i = 0; i < xdp->rings; i++) {
            xdp_port_unbind(&xdp->ports[i]);
        }
        xdp_program_detach(&xdp->program);
    }
    return code;
}

/* What no other mode would change. */
static bool is_final(int code)
{
    return code == -EPERM || code == -EACCES || code == -EBUSY || code == -EEXIST ||
           code == -ENOMEM || code == -ENOBUFS || code == -ENODEV || code == -EAFNOSUPPORT;
}

static int climb(struct xdp_device *xdp)
{
    int wanted = xdp->wishes.mode;
    int code = -EOPNOTSUPP;

    for (int mode = 0; mode < XDP_MODES; mode++) {
        if (wanted >= 0 && wanted != mode) {
            continue;
        }
        code = enter_mode(xdp, (enum xdp_mode)mode);
        if (code == 0 || is_final(code)) {
            return code;
        }
        xdp->refused[mode] = code;
    }
    return code;
}

static void publish_port(struct device *device, uint32_t index)
{
    struct xdp_device *xdp = device->priv;
    struct xdp_port *port = &xdp->ports[index];

    port->rx->ringid = (uint16_t)index;
    port->tx->ringid = (uint16_t)index;
    device->ports[index] =
        (struct port){.ops = &xdp_port_ops,
                      .rx = port->rx,
                      .tx = port->tx,
                      .counters = &port->shared->counters,
                      .shared = port->shared,
                      .priv = port,
                      .ring_id = index,
                      .caps = PORT_CAP_VNET_HDR | (port->pieces ? PORT_CAP_RX_GSO : 0),
                      .wait_fd = port->wait_fd >= 0 ? port->wait_fd : port->socket[0].fd};
}

/* The sockets' queues hear from now on. */
static int listen_all(struct xdp_device *xdp)
{
    int code = 0;

    for (uint32_t i = 0; i < xdp->rings; i++) {
        for (uint32_t k = 0; k < xdp->ports[i].sockets && code == 0; k++) {
            const struct xdp_socket *sock = &xdp->ports[i].socket[k];

            code = xdp_program_set_socket(&xdp->program, sock->queue, sock->fd);
        }
    }
    return code;
}

static int open_rings(struct device *device, const struct device_config *config, char *error)
{
    struct xdp_device *xdp = device->priv;
    struct filter filter;
    int code;

    filter_set(&filter, config);
    code = xdp_program_load(&xdp->program, xdp->queues, &filter);
    if (code != 0) {
        return xdp_refuse_program(xdp, code, error);
    }
    code = map_ports(xdp, config, choose_chunk(xdp, config));
    code = code != 0 ? code : set_mac(device, config);
    code = code != 0 ? code : climb(xdp);
    code = code != 0 ? code : listen_all(xdp);
    if (code != 0) {
        return xdp_refuse_open(xdp, code, error);
    }
    device->rings = xdp->rings;
    for (uint32_t i = 0; i < xdp->rings; i++) {
        publish_port(device, i);
    }
    return 0;
}

static struct xdp_device *xdp_new(void)
{
    struct xdp_device *xdp = calloc(1, sizeof(*xdp));

    if (xdp) {
        xdp->lock_fd = -1;
        xdp->promisc_fd = -1;
        xdp->program = (struct xdp_program){-1, -1, -1, -1, false};
    }
    return xdp;
}

static int xdp_open(struct device *device, const char *name, const struct device_config *config,
                    char *error)
{
    struct xdp_device *xdp = xdp_new();
    int code;

    if (!xdp) {
        return xdp_refuse(error, name, "out of memory", -ENOMEM);
    }
    device->priv = xdp;
    code = xdp_parse_name(&xdp->wishes, name, error);
    code = code != 0 ? code : find_and_lock(xdp, error);
    code = code != 0 ? code : check_config(xdp, config, error);
    code = code != 0 ? code : set_mtu(device, config, choose_chunk(xdp, config), error);
    if (code == 0) {
        device->host_arp = config->take == PORT_TAKE_PORTS;
        xdp->rings = config->rings ? config->rings : (uint32_t)__builtin_popcountll(xdp->taken);
        code = open_rings(device, config, error);
    }
    if (code != 0) {
        xdp_close(device);
        return code;
    }
    xdp_describe(device);
    return 0;
}

const struct device_ops xdp_device_ops = {
    .backend = "xdp",
    .open = xdp_open,
    .keep_only = xdp_keep_only,
    .close = xdp_close,
};
