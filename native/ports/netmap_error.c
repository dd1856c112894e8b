/* netmap's refusals in words: the kernel gives a number, and the reason to its log only. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ports/netmap.h"

int netmap_refuse(char *error, const struct device *device, const char *what, int code)
{
    snprintf(error, PORT_ERROR_MAX, "%.48s: %.200s", device->name, what);
    return code;
}

int netmap_explain_open(char *error, const struct device *device, int code)
{
    const char *what = "/dev/netmap cannot be opened";

    switch (code) {
    case -ENOENT:
    case -ENODEV:
    case -ENXIO:
        what = "no /dev/netmap: the kernel module netmap is not loaded: `modprobe netmap`, or give "
               "--device packet:IFACE";
        break;
    case -EACCES:
    case -EPERM:
        what = "no permission to open /dev/netmap: run as root, or give its group to the user with "
               "the udev rule KERNEL==\"netmap\", GROUP=\"netmap\", MODE=\"0660\"";
        break;
    case -EMFILE:
        what = "too many open files: ulimit -n 1024";
        break;
    default:
        break;
    }
    return netmap_refuse(error, device, what, code);
}

static const char *invalid(const struct netmap_device *netmap, uint32_t mode)
{
    if (netmap->name.mem_id != 0) {
        return "netmap has no memory region of this number (1 is the common one, others come with "
               "a port), or this port exists already in another: leave @NUMBER and share= out";
    }
    if (netmap->name.flags & NM_REG_MONITOR) {
        return "nothing to monitor: the port must be in netmap mode already, opened by another "
               "program";
    }
    if (mode == NM_MODE_SW || mode == NM_MODE_ONE_SW || mode == NM_MODE_NIC_SW) {
        return "netmap refuses these host rings: this port has none, or not so many";
    }
    return "netmap refuses it: no such ring, or an interface that cannot be in netmap mode (lo), "
           "or an MTU above its buffers: see `dmesg | grep netmap`";
}

static const char *busy(const struct netmap_device *netmap)
{
    if (netmap->name.flags & NM_REG_EXCLUSIVE) {
        return "its rings are in use and /x wants them alone: close the other program, or leave /x "
               "out";
    }
    return "its rings belong to another program alone, or the interface to a bridge, a bond or a "
           "VALE switch: take it out of there";
}

int netmap_explain_register(char *error, const struct device *device, uint32_t mode, int code)
{
    const struct netmap_device *netmap = device->priv;

    switch (code) {
    case -ENXIO:
        return netmap_refuse(error, device,
                             netmap->name.kind == NETMAP_NIC
                                 ? "no such interface in this network namespace: see `ip link`"
                                 : "netmap knows no such port",
                             code);
    case -EBUSY:
        return netmap_refuse(error, device, busy(netmap), code);
    case -EINVAL:
        return netmap_refuse(error, device, invalid(netmap, mode), code);
    case -ENOMEM:
        return netmap_refuse(
            error, device,
            "netmap's memory is used up, or not all in reach of a card with 32-bit "
            "DMA: close other ports, shorten the rings (ethtool -G), or change "
            "buf_num, ring_num, if_num in /sys/module/netmap/parameters",
            code);
    case -EOPNOTSUPP:
        return netmap_refuse(error, device,
                             "admode=1 allows native adapters only, and its driver has none: echo "
                             "0 > /sys/module/netmap/parameters/admode",
                             code);
    case -EIO:
        return netmap_refuse(error, device,
                             "the port carries virtio-net headers, which is not supported on "
                             "netmap: set its header length to 0",
                             code);
    default:
        snprintf(error, PORT_ERROR_MAX, "%s: netmap refuses it (%s)", device->name,
                 strerror(-code));
        return code;
    }
}
