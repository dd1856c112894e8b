/* Opening a netmap port ring by ring, and letting go of it; see netmap.h. */
#include "ports/netmap.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/arena.h"
#include "base/hash.h"
#include "ports/backends.h"
#include "ports/netmap_bridge.h"

enum {
    ETH_OVERHEAD = 18,
    MTU_DEFAULT = 1500,
    MTU_MIN = 576,
    STUB_SLOTS = 2,
    DEAF_MAX = 80,             /* words of tell_deaf_ring */
    REGION_MARK = 0x6e6d,      /* above netmap's number: no number of somebody else's region */
    CARRIER_WAIT_US = 4000000, /* a reset at the open takes copper and 10G so long */
    CARRIER_STEP_US = 20000,
};

static void give_extra_back(struct netmap_device *netmap);

static void close_ring(struct netmap_ring *ring)
{
    netmap_bridge_close(ring);
    netmap_file_close(&ring->file);
    swring_destroy(&ring->stub);
}

static void netmap_close(struct device *device)
{
    struct netmap_device *netmap = device->priv;

    if (!netmap) {
        return;
    }
    give_extra_back(netmap);
    for (uint32_t i = 0; i < PORT_RINGS_MAX; i++) {
        close_ring(&netmap->ring[i]);
    }
    netmap_file_close(&netmap->holder);
    if (netmap->promiscuous_fd >= 0) {
        netmap->kernel->close(netmap->promiscuous_fd);
    }
    if (netmap->shared) {
        munmap(netmap->shared, netmap->shared_bytes);
    }
    free(netmap->extra);
    free(netmap);
    device->priv = NULL;
}

/*
 * A port stays in netmap mode while anybody has one of its descriptors or mappings. The counters
 * are in a mapping of their own and can be read on.
 */
static void netmap_keep_only(struct device *device, uint32_t ring_id)
{
    struct netmap_device *netmap = device->priv;

    for (uint32_t i = 0; i < netmap->rings; i++) {
        if (i != ring_id) {
            close_ring(&netmap->ring[i]);
            device->ports[i] = (struct port){.counters = device->ports[i].counters, .wait_fd = -1};
        }
    }
    netmap_file_close(&netmap->holder);
    if (netmap->promiscuous_fd >= 0) {
        netmap->kernel->close(netmap->promiscuous_fd);
        netmap->promiscuous_fd = -1;
    }
    netmap->extra_n = 0; /* they are the orchestrator's to return */
}

static void netmap_leave(struct device *device)
{
    netmap_keep_only(device, PORT_RINGS_MAX);
}

static struct netmap_device *netmap_new(const struct netmap_kernel *kernel)
{
    struct netmap_device *netmap = calloc(1, sizeof(*netmap));

    if (!netmap) {
        return NULL;
    }
    netmap->kernel = kernel;
    netmap->promiscuous_fd = -1;
    netmap->holder = (struct netmap_file){.kernel = kernel, .fd = -1};
    for (uint32_t i = 0; i < PORT_RINGS_MAX; i++) {
        netmap->ring[i].file = (struct netmap_file){.kernel = kernel, .fd = -1};
        netmap->ring[i].host = (struct netmap_file){.kernel = kernel, .fd = -1};
        netmap->ring[i].both_fd = -1;
    }
    return netmap;
}

/* The caller's options are wishes like those in the name, which comes first. */
static void merge_wishes(struct netmap_device *netmap, const struct device_config *config)
{
    struct netmap_conf *conf = &netmap->name.conf;

    if (conf->tx_slots == 0 && conf->rx_slots == 0) {
        conf->tx_slots = config->slots;
        conf->rx_slots = config->slots;
    }
    if (netmap->name.kind != NETMAP_NIC && netmap_takes_all(netmap) && conf->tx_rings == 0 &&
        conf->rx_rings == 0) {
        conf->tx_rings = config->rings;
        conf->rx_rings = config->rings;
    }
}

static int parse(struct device *device, const char *name, const struct device_config *config,
                 char *error)
{
    struct netmap_device *netmap = device->priv;
    char why[NETMAP_WHY_MAX];
    int code = netmap_name_parse(&netmap->name, name, netmap->kernel->exists, why);

    if (code != 0) {
        return netmap_refuse(error, device, why, code);
    }
    if (config->rings > PORT_RINGS_MAX) {
        return netmap_refuse(error, device, "at most 64 rings: give fewer --workers", -EINVAL);
    }
    merge_wishes(netmap, config);
    return 0;
}

/* The buffers that the kernel granted beyond the rings, as indices. */
static int take_extra(struct netmap_device *netmap, struct netmap_file *file)
{
    uint32_t n = file->granted.extra_bufs;
    uint32_t buf = 0;

    if (n == 0) {
        return 0;
    }
    netmap->extra = calloc(n, sizeof(*netmap->extra));
    if (!netmap->extra) {
        return -ENOMEM;
    }
    buf = file->nifp->bufs_head;
    while (netmap->extra_n < n && buf >= NM_BUF_FIRST) {
        const struct nm_ring *ring = netmap_file_rx(file);

        ring = ring ? ring : netmap_file_tx(file);
        if (!ring || buf >= netmap_file_bufs(file, ring)) {
            return -EPROTO;
        }
        netmap->extra[netmap->extra_n++] = buf;
        memcpy(&buf, (const uint8_t *)ring + ring->buf_ofs + (size_t)buf * ring->nr_buf_size,
               sizeof(buf));
    }
    return 0;
}

static struct netmap_file *first_file(struct netmap_device *netmap)
{
    return netmap->holder.fd >= 0 ? &netmap->holder : &netmap->ring[0].file;
}

/* As a list again, or they stay lost until the region's last user goes. */
static void give_extra_back(struct netmap_device *netmap)
{
    struct netmap_file *file = first_file(netmap);
    uint32_t next = 0;

    if (netmap->extra_n == 0 || !file->nifp) {
        return;
    }
    for (uint32_t i = netmap->extra_n; i-- > 0;) {
        const struct nm_ring *ring = netmap_file_rx(file);

        ring = ring ? ring : netmap_file_tx(file);
        memcpy((uint8_t *)(uintptr_t)ring + ring->buf_ofs +
                   (size_t)netmap->extra[i] * ring->nr_buf_size,
               &next, sizeof(next));
        next = netmap->extra[i];
    }
    file->nifp->bufs_head = next;
    netmap->extra_n = 0;
}

/* What every descriptor of the device is opened with. */
static uint64_t flags_of(const struct netmap_device *netmap)
{
    return netmap->name.flags | (netmap->name.conf.no_tx_poll ? NM_REG_NO_TX_POLL : 0);
}

static int open_holder(struct device *device, char *error)
{
    struct netmap_device *netmap = device->priv;
    uint32_t mode = netmap->name.mode;
    int code;

    if (!netmap_takes_all(netmap) || netmap_is_monitor(netmap) ||
        (netmap->name.flags & NM_REG_EXCLUSIVE)) {
        return 0;
    }
    code = netmap_file_open(&netmap->holder, &netmap->name, mode, 0, flags_of(netmap));
    if (code != 0) {
        return netmap_plan_explain(device, mode, code, error);
    }
    return 0;
}

/* Mode and number of the device's ring pair `index`. */
static void place_of(const struct netmap_device *netmap, uint32_t nic, uint32_t index,
                     uint32_t place[2])
{
    bool host = netmap->name.mode == NM_MODE_SW || netmap->name.mode == NM_MODE_ONE_SW ||
                (netmap->name.mode == NM_MODE_NIC_SW && index >= nic);
    uint32_t number = netmap->name.mode == NM_MODE_NIC_SW && host ? index - nic : index;

    place[0] = host ? NM_MODE_ONE_SW : NM_MODE_ONE_NIC;
    place[1] = netmap_takes_all(netmap) ? number : netmap->name.ring;
}

/* Stands in for a direction that is not bound: nothing arrives, no room to send. */
static int make_stub(struct netmap_ring *ring, struct port *port)
{
    int code;

    if (!ring->tx_stub && !ring->rx_stub) {
        return 0;
    }
    code = swring_create(&ring->stub, STUB_SLOTS, NM_BODY_MAX, 0);
    if (code != 0) {
        return code;
    }
    if (ring->tx_stub) {
        port->tx = ring->stub.tx;
        port->tx->tail = port->tx->head;
    }
    if (ring->rx_stub) {
        port->rx = ring->stub.rx;
    }
    return 0;
}

/* Maps an open descriptor's rings and makes a port of them. */
static int make_port(struct device *device, uint32_t index)
{
    struct netmap_device *netmap = device->priv;
    struct netmap_ring *ring = &netmap->ring[index];
    struct netmap_shared *shared = (struct netmap_shared *)(void *)netmap->shared + index;
    struct port *port = &device->ports[index];
    int code = netmap_file_map(&ring->file);

    if (code != 0) {
        return code;
    }
    *port = (struct port){.ops = &netmap_port_ops,
                          .rx = netmap_file_rx(&ring->file),
                          .tx = netmap_is_monitor(netmap) ? NULL : netmap_file_tx(&ring->file),
                          .counters = &shared->counters,
                          .shared = shared,
                          .priv = ring,
                          .ring_id = index,
                          .wait_fd = ring->file.fd};
    ring->tx_stub = !port->tx;
    ring->rx_stub = !port->rx;
    if (ring->tx_stub && ring->rx_stub) {
        return -EPROTO;
    }
    code = make_stub(ring, port);
    if (code != 0) {
        return code;
    }
    if (!ring->tx_stub && !ring->rx_stub) {
        port->region = (uint64_t)REGION_MARK << 48 | ring->file.granted.mem_id;
    }
    ring->tx_bufs = netmap_file_bufs(&ring->file, port->tx);
    ring->rx_bufs = netmap_file_bufs(&ring->file, port->rx);
    return netmap_sync_begin(port) ? 0 : -EPROTO;
}

static int open_host_ring(struct device *device, uint32_t index, char *error)
{
    int code = netmap_bridge_open(device, index);

    return code != 0 ? netmap_refuse(error, device,
                                     "no host ring beside each of the NIC's, which hands the host "
                                     "its frames: give --policy exclusive, or --policy rings",
                                     code)
                     : 0;
}

static int open_ring(struct device *device, uint32_t index, const uint32_t place[2], char *error)
{
    struct netmap_device *netmap = device->priv;
    struct netmap_file *file = &netmap->ring[index].file;
    int code = netmap_file_open(file, &netmap->name, place[0], place[1], flags_of(netmap));

    if (code != 0) {
        return netmap_plan_explain(device, place[0], code, error);
    }
    code = netmap_plan_compare(device, &file->granted, error);
    if (code != 0) {
        return code;
    }
    code = make_port(device, index);
    if (code != 0) {
        return netmap_refuse(error, device,
                             "netmap's memory is not laid out as its API 14 says: see `shardserver "
                             "netmap-abi`",
                             code);
    }
    return netmap->bridged ? open_host_ring(device, index, error) : 0;
}

/* Buffers for nobody's slot are asked for once, by the first descriptor. */
static int hold_extra(struct device *device, struct netmap_file *file, char *error)
{
    struct netmap_device *netmap = device->priv;
    uint32_t wanted = netmap->name.conf.extra_bufs;
    int code = 0;

    netmap->name.conf.extra_bufs = 0;
    if (wanted == 0) {
        return 0;
    }
    code = file->map ? 0 : netmap_file_map(file);
    code = code != 0 ? code : take_extra(netmap, file);
    if (code != 0 || netmap->extra_n < wanted) {
        return netmap_refuse(
            error, device,
            "netmap has not so many extra buffers: ask for fewer, or raise buf_num "
            "in /sys/module/netmap/parameters",
            code != 0 ? code : -ENOMEM);
    }
    return 0;
}

static int open_rings(struct device *device, char *error)
{
    struct netmap_device *netmap = device->priv;
    int code;

    netmap->shared_bytes = PORT_RINGS_MAX * sizeof(struct netmap_shared);
    netmap->shared = arena_shared_map("shardserver-netmap", netmap->shared_bytes);
    if (!netmap->shared) {
        return netmap_refuse(error, device, "out of memory", -ENOMEM);
    }
    code = open_holder(device, error);
    if (code == 0 && netmap->holder.fd >= 0) {
        code = hold_extra(device, &netmap->holder, error);
    }
    for (uint32_t i = 0; i < netmap->rings && code == 0; i++) {
        uint32_t place[2];

        place_of(netmap, netmap_plan_nic_pairs(netmap), i, place);
        code = open_ring(device, i, place, error);
        code = code != 0 ? code : hold_extra(device, &netmap->ring[i].file, error);
    }
    device->rings = netmap->rings;
    device->region = netmap->ring[0].file.granted.mem_id;
    return code;
}

static int set_mtu(struct device *device, const struct device_config *config, char *error)
{
    const struct netmap_device *netmap = device->priv;
    const struct port *port = &device->ports[0];
    uint32_t buf_size = netmap->ring[0].rx_stub ? port->tx->nr_buf_size : port->rx->nr_buf_size;
    uint32_t max = netmap->link.mtu ? netmap->link.mtu : MTU_DEFAULT;

    if (config->buf_size != 0 && config->buf_size != buf_size) {
        return netmap_refuse(error, device,
                             "--buf-size is the module's: set buf_size in "
                             "/sys/module/netmap/parameters while no port is open",
                             -EINVAL);
    }
    max = min_u32(max, buf_size - ETH_OVERHEAD); /* longer frames arrive, in several slots */
    device->mtu = config->mtu ? config->mtu : max;
    if (device->mtu < MTU_MIN || device->mtu > max) {
        return netmap_refuse(error, device,
                             "the MTU asked for is below 576, above the interface's, or above what "
                             "one buffer holds",
                             -EINVAL);
    }
    return 0;
}

/* The card's MAC, or the caller's, or for a port on no card one that its name gives. */
static int set_mac(struct device *device, const struct device_config *config, char *error)
{
    struct netmap_device *netmap = device->priv;
    static const uint8_t none[6];
    static const uint64_t key[2] = {0x6e65746d6170, 1};
    uint64_t hash = siphash24(key, netmap->name.port, strlen(netmap->name.port));
    uint8_t own[6] = {0x02};

    memcpy(own + 1, &hash, 5);
    if (netmap->name.kind == NETMAP_NIC) {
        memcpy(own, netmap->link.mac, sizeof(own));
    }
    memcpy(device->mac, memcmp(config->mac, none, 6) ? config->mac : own, 6);
    if (netmap->name.kind != NETMAP_NIC ||
        (memcmp(device->mac, own, 6) == 0 && !config->every_frame)) {
        return 0;
    }
    netmap->promiscuous_fd = netmap->kernel->promiscuous(netmap->name.iface);
    if (netmap->promiscuous_fd < 0) {
        return netmap_refuse(
            error, device,
            "frames for MACs that are not the card's need a promiscuous interface, "
            "which takes CAP_NET_RAW",
            netmap->promiscuous_fd);
    }
    return 0;
}

/* Taking a NIC resets it: what is sent before the carrier is back is lost. */
static void wait_for_carrier(struct netmap_device *netmap)
{
    uint32_t waited = 0;

    while (netmap->name.kind == NETMAP_NIC && waited < CARRIER_WAIT_US &&
           netmap->kernel->link(netmap->name.iface, &netmap->link) == 0 && !netmap->link.running) {
        netmap->kernel->sleep_us(CARRIER_STEP_US);
        waited += CARRIER_STEP_US;
    }
}

static bool is_emulated(const struct netmap_device *netmap)
{
    uint64_t admode = 0;

    netmap->kernel->parameter("admode", &admode);
    return netmap->name.kind == NETMAP_NIC && (admode == 2 || !netmap->link.native);
}

static const char *adapter_of(const struct netmap_device *netmap)
{
    if (netmap->name.kind != NETMAP_NIC) {
        return netmap->name.kind == NETMAP_PIPE ? "pipe" : "VALE port";
    }
    return is_emulated(netmap) ? "emulated adapter" : "native adapter";
}

/*
 * veth leaves the number of its peer's transmit queue in a frame, where drivers write that of the
 * receive queue plus one, and the emulated adapter reads it so: ring 0 has queues 0 and 1, ring i
 * has queue i + 1, and to the last one nothing comes from a peer of as many queues as there are
 * rings. Rings and queues are as many as they should be; the peer may be in another namespace.
 */
static void tell_deaf_ring(struct device *device)
{
    const struct netmap_device *netmap = device->priv;
    size_t said = strlen(device->banner);
    uint32_t rings = netmap->info.rx_rings;
    bool ours = netmap->name.mode == NM_MODE_ALL_NIC || netmap->name.mode == NM_MODE_NIC_SW ||
                (netmap->name.mode == NM_MODE_ONE_NIC && netmap->name.ring == rings - 1);

    if (netmap->link.veth && is_emulated(netmap) && rings > 1 && ours) {
        snprintf(device->banner + said, sizeof(device->banner) - said,
                 ", ring %u hears nothing unless its veth peer sends on %u queues", rings - 1,
                 rings + 1);
    }
}

/* The kernel hands its frames to host rings only where the NIC's are in netmap mode as well. */
static bool host_only(const struct netmap_device *netmap)
{
    return netmap->name.mode == NM_MODE_SW || netmap->name.mode == NM_MODE_ONE_SW;
}

static void describe(struct device *device)
{
    const struct netmap_device *netmap = device->priv;
    const struct nm_req_register *got = &netmap->ring[0].file.granted;

    snprintf(device->banner, sizeof(device->banner),
             "netmap API %u: %s, %u ring pair%s of %u and %u slots (tx, rx), memory region %u of "
             "%" PRIu64 " MiB%s%s%s",
             NM_API, adapter_of(netmap), netmap->rings, netmap->rings == 1 ? "" : "s",
             got->tx_slots, got->rx_slots, got->mem_id, got->memsize >> 20,
             host_only(netmap) ? ", host rings: empty until the NIC's are open as well"
             : netmap->bridged ? ", the host's frames over host rings"
                               : "",
             netmap->promiscuous_fd >= 0 ? ", promiscuous" : "",
             netmap->name.kind == NETMAP_NIC && !netmap->link.running ? ", no carrier yet" : "");
    tell_deaf_ring(device);
}

/* An address that is the host's as well takes a NIC whose frames can be told apart. */
static int check_shared(struct device *device, const struct device_config *config, char *error)
{
    const struct netmap_device *netmap = device->priv;
    static const uint8_t none[6];

    device->host_arp = config->take == PORT_TAKE_PORTS;
    if (!device->host_arp) {
        return 0;
    }
    if (!netmap->bridged) {
        return netmap_refuse(error, device,
                             "only a NIC with all of its rings can be shared with the host: give "
                             "netmap:DEV, or an address of the server's own",
                             -EINVAL);
    }
    if (memcmp(config->mac, none, 6) != 0 && memcmp(config->mac, netmap->link.mac, 6) != 0) {
        return netmap_refuse(error, device,
                             "the host's kernel tells the card's MAC for this address: leave --mac "
                             "out",
                             -EADDRNOTAVAIL);
    }
    return 0;
}

static int open_stages(struct device *device, const char *name, const struct device_config *config,
                       char *error)
{
    int code = parse(device, name, config, error);

    code = code != 0 ? code : netmap_plan(device, config, error);
    if (code == 0) {
        netmap_bridge_plan(device->priv, config);
        code = check_shared(device, config, error);
    }
    code = code != 0 ? code : open_rings(device, error);
    code = code != 0 ? code : set_mtu(device, config, error);
    return code != 0 ? code : set_mac(device, config, error);
}

int netmap_open_on(struct device *device, const struct netmap_kernel *kernel, const char *name,
                   const struct device_config *config, char *error)
{
    int code;

    device->priv = netmap_new(kernel);
    if (!device->priv) {
        return netmap_refuse(error, device, "out of memory", -ENOMEM);
    }
    code = open_stages(device, name, config, error);
    if (code != 0) {
        netmap_close(device);
        return code;
    }
    wait_for_carrier(device->priv);
    describe(device);
    return 0;
}

static int netmap_open(struct device *device, const char *name, const struct device_config *config,
                       char *error)
{
    return netmap_open_on(device, &netmap_kernel, name, config, error);
}

const struct device_ops netmap_device_ops = {
    .backend = "netmap",
    .open = netmap_open,
    .keep_only = netmap_keep_only,
    .leave = netmap_leave,
    .close = netmap_close,
};
