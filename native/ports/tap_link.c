/* Opening the queues of a TAP interface, and making the interface; see tap.h. */
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "ports/tap.h"

enum {
    MTU_MIN = 576,
    MTU_MAX = 65521, /* the kernel's own limit for a TAP */
};

static const char device_node[] = "/dev/net/tun";

static int refuse(const struct tap_device *tap, const char *what, int code, char *error)
{
    return framewise_refuse(error, tap->spec, what, code);
}

static int refuse_node(const struct tap_device *tap, int code, char *error)
{
    if (code == -ENOENT || code == -ENODEV || code == -ENXIO) {
        return refuse(tap, "this kernel has no /dev/net/tun: load it with `modprobe tun`", code,
                      error);
    }
    if (code == -EACCES || code == -EPERM) {
        return refuse(tap,
                      "no permission to open /dev/net/tun: run as root, or give your user the "
                      "device with `setfacl -m u:USER:rw /dev/net/tun`",
                      code, error);
    }
    return refuse(tap, "/dev/net/tun cannot be opened", code, error);
}

/* Whether an interface of that name is a TAP: the kernel says EINVAL to anything else. */
static bool is_tap(const struct tap_device *tap)
{
    struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
    struct ifreq ifr = {.ifr_data = (void *)&info};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int code;

    memcpy(ifr.ifr_name, tap->link.name, sizeof(ifr.ifr_name));
    code = fd < 0 ? -1 : ioctl(fd, SIOCETHTOOL, &ifr);
    if (fd >= 0) {
        close(fd);
    }
    return code == 0 && strcmp(info.driver, "tun") == 0 && strcmp(info.bus_info, "tap") == 0;
}

static int refuse_queue(const struct tap_device *tap, int code, char *error)
{
    if (code == -EPERM || code == -EACCES) {
        return refuse(tap,
                      "no permission for this interface: run as root or with CAP_NET_ADMIN, or "
                      "have it made for you: `ip tuntap add dev NAME mode tap user USER "
                      "multi_queue vnet_hdr`",
                      code, error);
    }
    if (code == -EBUSY) {
        return refuse(tap, "another process has this TAP: stop it, or take another name", code,
                      error);
    }
    if (code == -EINVAL && !tap->created && !is_tap(tap)) {
        return refuse(tap,
                      "the name is taken by an interface that is no TAP: take another name, see "
                      "`ip link`",
                      -EEXIST, error);
    }
    if (code == -E2BIG) {
        return refuse(tap, "the interface has no more queues: use fewer --workers", code, error);
    }
    return refuse(tap, "the interface cannot be opened", code, error);
}

/* A descriptor of one more queue, or -errno. */
static int open_queue(struct tap_device *tap)
{
    static const unsigned offloads = TUN_F_CSUM | TUN_F_TSO4;
    struct ifreq ifr = {0};
    int header = PORT_VNET_HDR_LEN;
    int fd = open(device_node, O_RDWR | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0) {
        return -errno;
    }
    memcpy(ifr.ifr_name, tap->link.name, sizeof(ifr.ifr_name));
    ifr.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    ifr.ifr_flags = (short)(ifr.ifr_flags | (tap->single ? 0 : IFF_MULTI_QUEUE));
    if (ioctl(fd, TUNSETIFF, &ifr) != 0 || ioctl(fd, TUNSETVNETHDRSZ, &header) != 0 ||
        ioctl(fd, TUNSETOFFLOAD, offloads) != 0) {
        int code = -errno;

        close(fd);
        return code;
    }
    return fd;
}

/* The first queue tells what the interface is; a TAP of one queue is taken as such. */
static int open_first(struct tap_device *tap, char *error)
{
    int fd = open(device_node, O_RDWR | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0) {
        return refuse_node(tap, -errno, error);
    }
    close(fd);
    fd = open_queue(tap);
    if (fd == -EINVAL && !tap->created && is_tap(tap)) {
        tap->single = true;
        fd = open_queue(tap);
    }
    if (fd < 0) {
        return refuse_queue(tap, fd, error);
    }
    tap->ring[0].fd = fd;
    return 0;
}

static int set_flags_up(int fd, struct ifreq *ifr)
{
    if (ioctl(fd, SIOCGIFFLAGS, ifr) != 0) {
        return -errno;
    }
    ifr->ifr_flags |= IFF_UP;
    return ioctl(fd, SIOCSIFFLAGS, ifr) == 0 ? 0 : -errno;
}

/* What we made is ours to set up; what was there before belongs to whoever made it. */
static int bring_up(const struct tap_device *tap, const struct device_config *config)
{
    struct ifreq ifr = {0};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int code = fd < 0 ? -errno : 0;

    memcpy(ifr.ifr_name, tap->link.name, sizeof(ifr.ifr_name));
    if (code == 0 && config->mtu != 0) {
        ifr.ifr_mtu = (int)config->mtu;
        code = ioctl(fd, SIOCSIFMTU, &ifr) == 0 ? 0 : -errno;
    }
    code = code != 0 ? code : set_flags_up(fd, &ifr);
    if (fd >= 0) {
        close(fd);
    }
    return code;
}

static int check_name(const struct tap_device *tap, char *error)
{
    const char *name = tap->spec + strlen("tap:");

    if (strlen(name) >= IF_NAMESIZE || strpbrk(name, "%/: ")) {
        return refuse(tap, "the name cannot be an interface's: at most 15 characters, no %, / or :",
                      -EINVAL, error);
    }
    return 0;
}

/* The facts of the interface, in the words of this backend. */
static int read_link(struct tap_device *tap, char *error)
{
    char reason[PORT_ERROR_MAX];
    int code = packet_link_find(&tap->link, tap->spec + strlen("tap:"), reason);

    if (code == -ENETDOWN) {
        return refuse(tap, "the interface is down: bring it up with `ip link set DEV up`", code,
                      error);
    }
    return code == 0 ? 0 : refuse(tap, "the interface cannot be read", code, error);
}

static int lock(struct tap_device *tap, char *error)
{
    char reason[PORT_ERROR_MAX];

    tap->lock_fd = packet_link_lock(&tap->link, reason);
    if (tap->lock_fd >= 0) {
        return 0;
    }
    return refuse(tap, "another server uses this interface: stop it, or take another name",
                  tap->lock_fd, error);
}

static int open_others(struct tap_device *tap, char *error)
{
    for (uint32_t i = 1; i < tap->rings && !tap->single; i++) {
        int fd = open_queue(tap);

        if (fd < 0) {
            return refuse_queue(tap, fd, error);
        }
        tap->ring[i].fd = fd;
    }
    return 0;
}

static int check_mtu(const struct tap_device *tap, const struct device_config *config, char *error)
{
    uint32_t most = tap->created ? MTU_MAX : tap->link.mtu;

    if (config->mtu != 0 && (config->mtu < MTU_MIN || config->mtu > most)) {
        return refuse(tap, "the MTU asked for is below 576 or above the interface's", -EINVAL,
                      error);
    }
    return 0;
}

int tap_link_open(struct tap_device *tap, const struct device_config *config, char *error)
{
    int code = check_name(tap, error);

    if (code != 0) {
        return code;
    }
    memcpy(tap->link.name, tap->spec + strlen("tap:"), strlen(tap->spec) - strlen("tap:"));
    tap->created = if_nametoindex(tap->link.name) == 0;
    code = tap->created ? 0 : read_link(tap, error);
    code = code != 0 ? code : check_mtu(tap, config, error);
    code = code != 0 ? code : open_first(tap, error);
    if (code == 0 && tap->created && (code = bring_up(tap, config)) != 0) {
        return refuse(tap, "the new interface could not be brought up", code, error);
    }
    code = code != 0 ? code : read_link(tap, error);
    code = code != 0 ? code : lock(tap, error);
    code = code != 0 ? code : open_others(tap, error);
    return code; /* and it has a carrier: the kernel gives it one when a queue is attached */
}
