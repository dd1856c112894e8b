/* What a port has and what of it a device takes, before any of it is bound; see netmap.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ports/netmap.h"

static int look_at_link(struct device *device, char *error)
{
    struct netmap_device *netmap = device->priv;
    const char *iface = netmap->name.iface;
    const char *what = NULL;
    int code;

    if (netmap->name.kind != NETMAP_NIC) {
        return 0;
    }
    if (!netmap->kernel->exists(iface)) {
        return netmap_explain_register(error, device, netmap->name.mode, -ENXIO);
    }
    code = netmap->kernel->link(iface, &netmap->link);
    if (code != 0) {
        return netmap_refuse(error, device, "the interface cannot be read", code);
    }
    if (!netmap->link.ethernet) {
        what = "not an Ethernet interface: netmap cannot take it";
        code = -EINVAL;
    } else if (!netmap->link.up) {
        what = "the interface is down: bring it up with `ip link set DEV up`";
        code = -ENETDOWN;
    }
    return what ? netmap_refuse(error, device, what, code) : 0;
}

/* @share=PORT is that port's region. */
static int find_share(struct device *device, char *error)
{
    struct netmap_device *netmap = device->priv;
    struct netmap_name other = {.kind = NETMAP_NIC};
    struct nm_req_port_info info;
    int code;

    if (netmap->name.share[0] == '\0') {
        return 0;
    }
    memcpy(other.port, netmap->name.share, sizeof(other.port));
    code = netmap_file_info(netmap->kernel, &other, &info);
    if (code != 0) {
        return netmap_refuse(error, device, "share= names a port that netmap cannot find", code);
    }
    netmap->name.mem_id = info.mem_id;
    return 0;
}

/* An interface's MTU is told to netmap by nobody but the kernel: its refusal is explained after. */
int netmap_plan_explain(struct device *device, uint32_t mode, int code, char *error)
{
    struct netmap_device *netmap = device->priv;
    struct netmap_want want = {.mtu = netmap->link.mtu};
    char sentence[PORT_ERROR_MAX];

    if (code == -EINVAL &&
        !netmap_limits_check(&netmap->limits, &want, sentence, sizeof(sentence))) {
        return netmap_refuse(error, device, sentence, code);
    }
    return netmap_explain_register(error, device, mode, code);
}

/* Asks for the port's rings without taking them. */
static int look_at_rings(struct device *device, char *error)
{
    struct netmap_device *netmap = device->priv;
    int code = find_share(device, error);

    if (code != 0) {
        return code;
    }
    netmap_limits_read(&netmap->limits, netmap->kernel);
    code = netmap_file_info(netmap->kernel, &netmap->name, &netmap->info);
    return code != 0 ? netmap_plan_explain(device, netmap->name.mode, code, error) : 0;
}

/* Pairs of rings; a direction that is not wanted does not limit them. */
static uint32_t pairs_of(const struct netmap_device *netmap, uint32_t tx, uint32_t rx)
{
    if (netmap_is_monitor(netmap)) {
        return max_u32(tx, rx);
    }
    if (netmap->name.flags & NM_REG_RX_RINGS_ONLY) {
        return rx;
    }
    return netmap->name.flags & NM_REG_TX_RINGS_ONLY ? tx : min_u32(tx, rx);
}

uint32_t netmap_plan_nic_pairs(const struct netmap_device *netmap)
{
    return pairs_of(netmap, netmap->info.tx_rings, netmap->info.rx_rings);
}

static uint32_t count_pairs(const struct netmap_device *netmap)
{
    uint32_t host = pairs_of(netmap, netmap->info.host_tx_rings, netmap->info.host_rx_rings);

    switch (netmap->name.mode) {
    case NM_MODE_ALL_NIC:
        return netmap_plan_nic_pairs(netmap);
    case NM_MODE_SW:
        return host;
    case NM_MODE_NIC_SW:
        return netmap_plan_nic_pairs(netmap) + host;
    default:
        return 1;
    }
}

/* What the port's objects take of netmap's pools, if all that is asked for is bound. */
static struct netmap_want want_of(const struct netmap_device *netmap)
{
    const struct nm_req_port_info *info = &netmap->info;
    bool nic = netmap->name.mode == NM_MODE_ALL_NIC || netmap->name.mode == NM_MODE_NIC_SW;
    bool host = netmap->name.mode == NM_MODE_SW || netmap->name.mode == NM_MODE_NIC_SW;
    bool one = !netmap_takes_all(netmap);

    return (struct netmap_want){
        .all_rings =
            (uint32_t)info->tx_rings + info->rx_rings + info->host_tx_rings + info->host_rx_rings,
        .tx_rings = (nic ? info->tx_rings : 0u) + (host ? info->host_tx_rings : 0u) + one,
        .rx_rings = (nic ? info->rx_rings : 0u) + (host ? info->host_rx_rings : 0u) + one,
        .tx_slots = info->tx_slots,
        .rx_slots = info->rx_slots,
        .extra_bufs = netmap->name.conf.extra_bufs,
        .descriptors = netmap->rings + 1};
}

/* Region 1 is the one that the module's parameters are about; others are made to fit. */
static int check_pools(struct device *device, char *error)
{
    const struct netmap_device *netmap = device->priv;
    struct netmap_want want = want_of(netmap);
    char sentence[PORT_ERROR_MAX];

    if (netmap->info.mem_id != 1 ||
        netmap_limits_check(&netmap->limits, &want, sentence, sizeof(sentence))) {
        return 0;
    }
    return netmap_refuse(error, device, sentence, -ENOMEM);
}

/* A frame on an RX ring that nobody serves would wait for ever. */
static bool rx_unserved(const struct netmap_device *netmap)
{
    return (netmap->name.mode == NM_MODE_ALL_NIC || netmap->name.mode == NM_MODE_NIC_SW) &&
           !netmap_is_monitor(netmap) && !(netmap->name.flags & NM_REG_TX_RINGS_ONLY) &&
           netmap->info.rx_rings > netmap_plan_nic_pairs(netmap);
}

static int choose_rings(struct device *device, const struct device_config *config, char *error)
{
    struct netmap_device *netmap = device->priv;
    uint32_t pairs = netmap_plan_nic_pairs(netmap);
    uint32_t wanted = config->rings;
    char what[PORT_ERROR_MAX];

    netmap->rings = count_pairs(netmap);
    if (rx_unserved(netmap)) {
        snprintf(what, sizeof(what),
                 "%u receive rings and %u transmit rings: each worker needs one of both: make them "
                 "equal with ethtool -L",
                 netmap->info.rx_rings, netmap->info.tx_rings);
    } else if (netmap->name.mode == NM_MODE_ONE_NIC && netmap->name.ring >= pairs) {
        snprintf(what, sizeof(what), "no ring pair %u: the port has %u, numbered from 0",
                 netmap->name.ring, pairs);
    } else if (netmap->rings == 0 || netmap->rings > PORT_RINGS_MAX) {
        snprintf(what, sizeof(what), "%u ring pairs: from 1 to 64 can be served", netmap->rings);
    } else if (wanted != 0 && wanted != netmap->rings) {
        snprintf(what, sizeof(what),
                 "%u ring pair%s for %u worker%s, each needs one: give --workers %u, or change the "
                 "rings with ethtool -L",
                 netmap->rings, netmap->rings == 1 ? "" : "s", wanted, wanted == 1 ? "" : "s",
                 netmap->rings);
    } else {
        return check_pools(device, error);
    }
    return netmap_refuse(error, device, what, -EINVAL);
}

static int look_at_module(struct device *device, char *error)
{
    const struct netmap_device *netmap = device->priv;
    int fd = netmap->kernel->open();

    if (fd < 0) {
        return netmap_explain_open(error, device, fd);
    }
    netmap->kernel->close(fd);
    return 0;
}

int netmap_plan(struct device *device, const struct device_config *config, char *error)
{
    int code = look_at_module(device, error);

    code = code != 0 ? code : look_at_link(device, error);
    code = code != 0 ? code : look_at_rings(device, error);
    return code != 0 ? code : choose_rings(device, config, error);
}

static bool differs(uint32_t wanted, uint32_t got)
{
    return wanted != 0 && wanted != got;
}

/* netmap ignores the wishes of whoever is not the first to open a port. */
int netmap_plan_compare(const struct device *device, const struct nm_req_register *got, char *error)
{
    const struct netmap_device *netmap = device->priv;
    const struct netmap_conf *conf = &netmap->name.conf;
    char what[PORT_ERROR_MAX];

    if (!differs(conf->tx_rings, got->tx_rings) && !differs(conf->rx_rings, got->rx_rings) &&
        !differs(conf->tx_slots, got->tx_slots) && !differs(conf->rx_slots, got->rx_slots) &&
        !differs(conf->host_tx_rings, got->host_tx_rings) &&
        !differs(conf->host_rx_rings, got->host_rx_rings) &&
        !differs(netmap->name.mem_id, got->mem_id)) {
        return 0;
    }
    if (netmap->bridged && (differs(conf->host_tx_rings, got->host_tx_rings) ||
                            differs(conf->host_rx_rings, got->host_rx_rings))) {
        return netmap_refuse(error, device,
                             "another program has it open, with fewer host rings than the NIC's: "
                             "stop that one, or give --policy exclusive",
                             -EBUSY);
    }
    snprintf(what, sizeof(what),
             "the port has %u+%u rings of %u and %u slots, %u+%u host rings, in region %u, not "
             "what was asked for: %s",
             got->tx_rings, got->rx_rings, got->tx_slots, got->rx_slots, got->host_tx_rings,
             got->host_rx_rings, got->mem_id,
             netmap->name.kind == NETMAP_NIC ? "a NIC's rings are set with ethtool -G and -L"
                                             : "close whoever has it open, or ask for these");
    return netmap_refuse(error, device, what, -EBUSY);
}
