/* The kernel's interfaces: packet:, xdp: and pcap: on a veth pair, tap: with its host's side. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "netns.h"
#include "ports/packet.h"
#include "raw_peer.h"
#include "xdp_wire.h"

/* The other end is cli0 on each of them; ours is srv0, or the TAP's own descriptor. */
struct peer {
    int raw;
};

static bool enter(void)
{
    const char *why = NULL;

    if (!netns_enter(&why)) {
        check_skip(why);
        return false;
    }
    return true;
}

/* A library that is not there is no failure; everything else is. */
static bool open_device(struct rig *rig, const char *spec, uint32_t mtu)
{
    struct device_config config = {.rings = 1, .slots = rig->slots, .mtu = mtu};
    char error[PORT_ERROR_MAX] = "";
    int code = device_open(&rig->device, spec, &config, error);

    if (code == -EOPNOTSUPP) {
        check_skip(error);
        return false;
    }
    if (!CHECK_EQ(code, 0)) {
        printf("    %s\n", error);
        return false;
    }
    rig->port = &rig->device->ports[0];
    memcpy(rig->ours, rig->device->mac, 6);
    return true;
}

static bool open_peer(struct rig *rig)
{
    rig->peer = calloc(1, sizeof(*rig->peer));
    rig->peer->raw = raw_peer_open("cli0", rig->theirs);
    return check_failures() == 0;
}

static bool veth_open(struct rig *rig, const char *spec)
{
    return enter() && CHECK(netns_veth("cli0", "srv0", 1, RIG_MTU)) && open_device(rig, spec, 0) &&
           open_peer(rig);
}

static bool packet_open(struct rig *rig)
{
    return veth_open(rig, "packet:srv0");
}

static bool pcap_open(struct rig *rig)
{
    return veth_open(rig, "pcap:srv0");
}

static bool xdp_open(struct rig *rig)
{
    return enter() && xdp_wire_usable() && veth_open(rig, "xdp:srv0:copy");
}

static bool xdp_generic_open(struct rig *rig)
{
    return enter() && xdp_wire_usable() && veth_open(rig, "xdp:srv0:generic");
}

static bool has_tun(void)
{
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        check_skip("/dev/net/tun cannot be opened here");
        return false;
    }
    close(fd);
    return true;
}

static bool tap_open(struct rig *rig)
{
    return enter() && has_tun() && open_device(rig, "tap:cli0", RIG_MTU) && open_peer(rig);
}

/* One that somebody else made, with one queue: a feeder reads it. */
static bool tap_single_open(struct rig *rig)
{
    return enter() && has_tun() && CHECK(netns_ip("tuntap add dev cli0 mode tap")) &&
           CHECK(netns_ip("link set cli0 mtu %d up", RIG_MTU)) && open_device(rig, "tap:cli0", 0) &&
           open_peer(rig);
}

static void link_close(struct rig *rig)
{
    device_close(rig->device);
    close(rig->peer->raw);
    free(rig->peer);
}

static bool inject(struct rig *rig, const struct frame *frame)
{
    return raw_peer_inject(rig->peer->raw, frame);
}

static bool collect(struct rig *rig, struct frame *frame)
{
    return raw_peer_collect(rig->peer->raw, frame);
}

static int swring_audit(struct rig *rig)
{
    return rig_audit_rings(rig->port);
}

/* All frames that were taken from the kernel's ring are the kernel's again. */
static int packet_audit(struct rig *rig)
{
    const struct packet_shared *shared = packet_shared(rig->port);

    return rig_audit_rings(rig->port) + ((uint32_t)shared->rx_commit != shared->rx_returned);
}

static int xdp_audit(struct rig *rig)
{
    return xdp_wire_audit(rig->port);
}

static void set_up(const char *iface, bool up)
{
    CHECK(netns_ip("link set %s %s", iface, up ? "up" : "down"));
}

static void srv_link(struct rig *rig, bool up)
{
    (void)rig;
    set_up("srv0", up);
}

static void cli_link(struct rig *rig, bool up)
{
    (void)rig;
    set_up("cli0", up);
}

static void cli_stall(struct rig *rig, bool on)
{
    cli_link(rig, !on); /* no carrier: the driver refuses each frame */
}

static void srv_stall(struct rig *rig, bool on)
{
    srv_link(rig, !on);
}

static void delete_link(struct rig *rig)
{
    (void)rig;
    CHECK(netns_ip("link del cli0"));
}

const struct wire wire_packet = {.name = "packet",
                                 .net = true,
                                 .local_kernel = true,
                                 .holds = true,
                                 .open = packet_open,
                                 .close = link_close,
                                 .inject = inject,
                                 .collect = collect,
                                 .audit = packet_audit,
                                 .stall = cli_stall,
                                 .link = srv_link,
                                 .carrier = cli_link,
                                 .remove = delete_link,
                                 .gone = -ENODEV};

const struct wire wire_xdp = {.name = "xdp",
                              .net = true,
                              .local_kernel = true,
                              .holds = true,
                              .deaf = true,
                              .open = xdp_open,
                              .close = link_close,
                              .inject = inject,
                              .collect = collect,
                              .audit = xdp_audit,
                              .stall = srv_stall,
                              .link = srv_link,
                              .carrier = cli_link,
                              .remove = delete_link,
                              .gone = -ENODEV};

const struct wire wire_xdp_generic = {.name = "xdp generic",
                                      .net = true,
                                      .local_kernel = true,
                                      .holds = true,
                                      .deaf = true,
                                      .open = xdp_generic_open,
                                      .close = link_close,
                                      .inject = inject,
                                      .collect = collect,
                                      .audit = xdp_audit,
                                      .stall = srv_stall,
                                      .link = srv_link,
                                      .carrier = cli_link,
                                      .remove = delete_link,
                                      .gone = -ENODEV};

const struct wire wire_tap = {.name = "tap",
                              .net = true,
                              .local_kernel = true,
                              .slack = 33, /* it reads a frame where the longest would fit */
                              .open = tap_open,
                              .close = link_close,
                              .inject = inject,
                              .collect = collect,
                              .audit = swring_audit,
                              .link = cli_link,
                              .remove = delete_link,
                              .gone = -ENODEV};

const struct wire wire_tap_single = {.name = "tap of one queue",
                                     .net = true,
                                     .local_kernel = true,
                                     .open = tap_single_open,
                                     .close = link_close,
                                     .inject = inject,
                                     .collect = collect,
                                     .audit = swring_audit,
                                     .link = cli_link,
                                     .remove = delete_link,
                                     .gone = -ENODEV};

const struct wire wire_pcap = {.name = "pcap",
                               .net = true,
                               .local_kernel = true,
                               .holds = true,
                               .open = pcap_open,
                               .close = link_close,
                               .inject = inject,
                               .collect = collect,
                               .audit = swring_audit,
                               .stall = cli_stall,
                               .link = srv_link,
                               .carrier = cli_link,
                               .remove = delete_link,
                               .gone = -ENODEV};
