/* What the kernel says about an interface, and who may have it; see packet.h. */
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/un.h>
#include <unistd.h>

#include "ports/packet.h"

int packet_refuse(char *error, const char *name, const char *what, int code)
{
    snprintf(error, PORT_ERROR_MAX, "packet:%s: %s (%s)", name, what, strerror(-code));
    return code;
}

static int ask(int fd, unsigned long request, struct ifreq *ifr)
{
    return ioctl(fd, request, ifr) == 0 ? 0 : -errno;
}

/*
 * RX queues in use, or 1 for a driver that does not say. By ioctl and not from /sys, which shows
 * the network namespace that it was mounted in, not ours.
 */
static uint32_t count_queues(int fd, struct ifreq *ifr)
{
    struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};
    uint32_t queues;

    ifr->ifr_data = (void *)&channels;
    if (ask(fd, SIOCETHTOOL, ifr) != 0) {
        return 1;
    }
    queues = channels.rx_count + channels.combined_count;
    return queues == 0 ? 1 : queues;
}

static int read_link(struct packet_link *link, int fd, char *error)
{
    struct ifreq ifr = {0};
    int code;

    memcpy(ifr.ifr_name, link->name, sizeof(ifr.ifr_name));
    code = ask(fd, SIOCGIFFLAGS, &ifr);
    if (code == 0 && !(ifr.ifr_flags & IFF_UP)) {
        return packet_refuse(error, link->name,
                             "the interface is down: bring it up with `ip link set DEV up`",
                             -ENETDOWN);
    }
    link->loopback = ifr.ifr_flags & IFF_LOOPBACK;
    code = code != 0 ? code : ask(fd, SIOCGIFMTU, &ifr);
    link->mtu = (uint32_t)ifr.ifr_mtu;
    code = code != 0 ? code : ask(fd, SIOCGIFHWADDR, &ifr);
    if (code != 0) {
        return packet_refuse(error, link->name, "the interface cannot be read", code);
    }
    if (ifr.ifr_hwaddr.sa_family != ARPHRD_ETHER && !link->loopback) {
        return packet_refuse(error, link->name, "not an Ethernet interface", -EINVAL);
    }
    memcpy(link->mac, ifr.ifr_hwaddr.sa_data, sizeof(link->mac));
    link->queues = count_queues(fd, &ifr);
    return 0;
}

int packet_link_find(struct packet_link *link, const char *name, char *error)
{
    int fd;
    int code;

    *link = (struct packet_link){0};
    if (strlen(name) >= sizeof(link->name)) {
        return packet_refuse(error, name, "the name is longer than an interface's can be", -ENODEV);
    }
    memcpy(link->name, name, strlen(name));
    link->ifindex = (int)if_nametoindex(name);
    if (link->ifindex == 0) {
        return packet_refuse(error, name,
                             "no such interface in this network namespace: see `ip link`", -ENODEV);
    }
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return packet_refuse(error, name, "no socket to read the interface with", -errno);
    }
    code = read_link(link, fd, error);
    close(fd);
    return code;
}

/*
 * An abstract name, keyed by interface and network namespace, that lives as long as any process
 * that holds the descriptor: two servers on one wire would answer each frame twice.
 */
int packet_link_lock(const struct packet_link *link, char *error)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int len = snprintf(addr.sun_path + 1, sizeof(addr.sun_path) - 1, "shardserver/device/%d",
                       link->ifindex);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
    int code;

    if (fd < 0) {
        return packet_refuse(error, link->name, "no socket to lock the interface with", -errno);
    }
    if (bind(fd, (struct sockaddr *)&addr, size) == 0) {
        return fd;
    }
    code = errno == EADDRINUSE ? -EBUSY : -errno;
    close(fd);
    return packet_refuse(error, link->name,
                         "another server uses this interface: stop it, or take another interface",
                         code);
}
