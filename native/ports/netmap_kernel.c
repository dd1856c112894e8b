/* The real system: /dev/netmap, the module's parameters, interfaces; see netmap_kernel.h. */
#include "ports/netmap_kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if_arp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    PARAMETER_MAX = 32,
    PATH_LEN_MAX = 128,
};

static int kernel_open(void)
{
    int fd = open("/dev/netmap", O_RDWR | O_CLOEXEC);

    return fd >= 0 ? fd : -errno;
}

static int kernel_close(int fd)
{
    return close(fd) == 0 ? 0 : -errno;
}

static int kernel_ioctl(int fd, unsigned long request, void *arg)
{
    return ioctl(fd, request, arg) == 0 ? 0 : -errno;
}

static int kernel_map(int fd, size_t bytes, void **base)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (at == MAP_FAILED) {
        return -errno;
    }
    *base = at;
    return 0;
}

static void kernel_unmap(void *base, size_t bytes)
{
    munmap(base, bytes);
}

static int kernel_poll(int fd, short events, int timeout_ms)
{
    struct pollfd pollfd = {.fd = fd, .events = events};

    return poll(&pollfd, 1, timeout_ms) < 0 ? -errno : pollfd.revents;
}

static bool kernel_exists(const char *iface)
{
    return if_nametoindex(iface) != 0;
}

static int ask(int fd, unsigned long request, struct ifreq *ifr)
{
    return ioctl(fd, request, ifr) == 0 ? 0 : -errno;
}

/* Queues and ring sizes, for drivers that tell. */
static void ask_ethtool(int fd, struct ifreq *ifr, struct netmap_link *link)
{
    struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};
    struct ethtool_ringparam rings = {.cmd = ETHTOOL_GRINGPARAM};

    ifr->ifr_data = (void *)&channels;
    if (ask(fd, SIOCETHTOOL, ifr) == 0) {
        link->queues = channels.rx_count + channels.combined_count;
    }
    ifr->ifr_data = (void *)&rings;
    if (ask(fd, SIOCETHTOOL, ifr) == 0) {
        link->rx_slots = rings.rx_pending;
        link->tx_slots = rings.tx_pending;
    }
}

/* A driver with netmap's patch is a holder of the module. */
static void ask_driver(int fd, struct ifreq *ifr, struct netmap_link *link)
{
    struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
    char path[PATH_LEN_MAX];

    ifr->ifr_data = (void *)&info;
    if (ask(fd, SIOCETHTOOL, ifr) == 0) {
        snprintf(path, sizeof(path), "/sys/module/netmap/holders/%.31s", info.driver);
        link->native = access(path, F_OK) == 0;
        link->veth = strcmp(info.driver, "veth") == 0;
    }
}

static int ask_link(int fd, struct ifreq *ifr, struct netmap_link *link)
{
    int code = ask(fd, SIOCGIFFLAGS, ifr);

    link->up = ifr->ifr_flags & IFF_UP;
    link->running = ifr->ifr_flags & IFF_RUNNING;
    code = code != 0 ? code : ask(fd, SIOCGIFMTU, ifr);
    link->mtu = (uint32_t)ifr->ifr_mtu;
    code = code != 0 ? code : ask(fd, SIOCGIFHWADDR, ifr);
    if (code != 0) {
        return code;
    }
    link->ethernet = ifr->ifr_hwaddr.sa_family == ARPHRD_ETHER;
    memcpy(link->mac, ifr->ifr_hwaddr.sa_data, sizeof(link->mac));
    ask_ethtool(fd, ifr, link);
    ask_driver(fd, ifr, link);
    return 0;
}

static int kernel_link(const char *iface, struct netmap_link *link)
{
    struct ifreq ifr = {0};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int code;

    if (fd < 0) {
        return -errno;
    }
    *link = (struct netmap_link){0};
    snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", iface);
    code = ask_link(fd, &ifr, link);
    close(fd);
    return code;
}

static int kernel_promiscuous(const char *iface)
{
    struct packet_mreq wish = {.mr_ifindex = (int)if_nametoindex(iface),
                               .mr_type = PACKET_MR_PROMISC};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    int code;

    if (fd < 0) {
        return -errno;
    }
    if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &wish, sizeof(wish)) == 0) {
        return fd;
    }
    code = -errno;
    close(fd);
    return code;
}

static int kernel_parameter(const char *name, uint64_t *value)
{
    char path[PATH_LEN_MAX];
    char text[PARAMETER_MAX] = {0};
    char *end;
    FILE *file;

    snprintf(path, sizeof(path), "/sys/module/netmap/parameters/%s", name);
    file = fopen(path, "re");
    if (!file) {
        return -ENOENT;
    }
    if (!fgets(text, sizeof(text), file)) {
        text[0] = '\0';
    }
    fclose(file);
    errno = 0;
    *value = strtoull(text, &end, 10);
    return end == text || errno != 0 ? -ENOENT : 0;
}

static int kernel_both(int fd, int other)
{
    struct epoll_event event = {.events = EPOLLIN};
    int both = epoll_create1(EPOLL_CLOEXEC);
    int code = 0;

    if (both < 0) {
        return -errno;
    }
    if (epoll_ctl(both, EPOLL_CTL_ADD, fd, &event) != 0 ||
        epoll_ctl(both, EPOLL_CTL_ADD, other, &event) != 0) {
        code = -errno;
        close(both);
    }
    return code != 0 ? code : both;
}

static void kernel_sleep_us(uint32_t us)
{
    struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};

    nanosleep(&ts, NULL);
}

const struct netmap_kernel netmap_kernel = {
    .open = kernel_open,
    .close = kernel_close,
    .ioctl = kernel_ioctl,
    .map = kernel_map,
    .unmap = kernel_unmap,
    .poll = kernel_poll,
    .exists = kernel_exists,
    .link = kernel_link,
    .promiscuous = kernel_promiscuous,
    .parameter = kernel_parameter,
    .both = kernel_both,
    .sleep_us = kernel_sleep_us,
};
