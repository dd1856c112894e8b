/* The public functions about netmap itself: names of ports, layouts, what the module allows. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "api.h"
#include "ports/netmap_abi.h"
#include "ports/netmap_limits.h"
#include "ports/netmap_name.h"

#define WHOLE(type) {#type, 0, sizeof(struct type)}
#define FIELD(type, field)                                                                         \
    {#type "." #field, (uint32_t)offsetof(struct type, field),                                     \
     (uint32_t)sizeof(((struct type *)0)->field)}

/* Zero-length arrays have an offset and no size. */
static const struct ss_layout_entry layout[] = {
    WHOLE(nm_req_header),
    FIELD(nm_req_header, version),
    FIELD(nm_req_header, reqtype),
    FIELD(nm_req_header, name),
    FIELD(nm_req_header, options),
    FIELD(nm_req_header, body),
    WHOLE(nm_req_register),
    FIELD(nm_req_register, offset),
    FIELD(nm_req_register, memsize),
    FIELD(nm_req_register, tx_slots),
    FIELD(nm_req_register, tx_rings),
    FIELD(nm_req_register, mem_id),
    FIELD(nm_req_register, ringid),
    FIELD(nm_req_register, mode),
    FIELD(nm_req_register, extra_bufs),
    FIELD(nm_req_register, flags),
    WHOLE(nm_req_port_info),
    WHOLE(nm_req_pools_info),
    WHOLE(nm_if),
    FIELD(nm_if, version),
    FIELD(nm_if, tx_rings),
    FIELD(nm_if, rx_rings),
    FIELD(nm_if, bufs_head),
    FIELD(nm_if, host_tx_rings),
    {"nm_if.ring_ofs", NM_IF_RING_OFS, 0},
    WHOLE(nm_ring),
    FIELD(nm_ring, buf_ofs),
    FIELD(nm_ring, num_slots),
    FIELD(nm_ring, nr_buf_size),
    FIELD(nm_ring, head),
    FIELD(nm_ring, cur),
    FIELD(nm_ring, tail),
    FIELD(nm_ring, flags),
    FIELD(nm_ring, ts),
    FIELD(nm_ring, offset_mask),
    FIELD(nm_ring, sem),
    {"nm_ring.slot", NM_RING_SLOTS_OFS, 0},
    WHOLE(nm_slot),
    FIELD(nm_slot, buf_idx),
    FIELD(nm_slot, len),
    FIELD(nm_slot, flags),
    FIELD(nm_slot, ptr),
};

uint32_t ss_netmap_layout(struct ss_layout_entry *entries, uint32_t max)
{
    uint32_t n = sizeof(layout) / sizeof(layout[0]);

    if (entries) {
        memcpy(entries, layout, sizeof(layout[0]) * (n < max ? n : max));
    }
    return n;
}

int32_t ss_netmap_name(const char *text, struct ss_netmap_name *out, char *error)
{
    struct netmap_name name;
    char why[NETMAP_WHY_MAX];
    int code;

    if (!text || !out || !error) {
        return -EINVAL;
    }
    error[0] = '\0';
    memset(out, 0, sizeof(*out));
    code = netmap_name_parse(&name, text, netmap_kernel.exists, why);
    if (code != 0) {
        snprintf(error, SS_ERROR_MAX, "netmap:%.64s: %s", text, why);
        return code;
    }
    memcpy(out->port, name.port, sizeof(out->port));
    memcpy(out->iface, name.iface, sizeof(out->iface));
    out->ring = name.ring;
    out->one_ring = name.mode == NM_MODE_ONE_NIC || name.mode == NM_MODE_ONE_SW;
    out->nic = name.mode != NM_MODE_ONE_SW && name.mode != NM_MODE_SW;
    out->host = name.mode == NM_MODE_NIC_SW || !out->nic;
    return 0;
}

/* What the module says of its first region, without taking any interface. */
static int ask_module(struct ss_netmap_module *module)
{
    struct nm_req_port_info info = {0};
    struct nm_req_header header = {
        .version = NM_API, .reqtype = NM_REQ_PORT_INFO_GET, .body = (uint64_t)(uintptr_t)&info};
    int fd = netmap_kernel.open();
    int code;

    if (fd < 0) {
        return fd;
    }
    code = netmap_kernel.ioctl(fd, NM_IOC_CTRL, &header);
    netmap_kernel.close(fd);
    module->memory_bytes = info.memsize;
    module->mem_id = info.mem_id;
    return code;
}

static int explain(char *error, int code)
{
    const char *what = "/dev/netmap cannot be opened";

    if (code == -ENOENT || code == -ENODEV || code == -ENXIO) {
        what =
            "no /dev/netmap: the kernel module netmap is not loaded: `modprobe netmap`; packet:, "
            "tap: and mem: need none";
    } else if (code == -EACCES || code == -EPERM) {
        what = "no permission to open /dev/netmap: run as root, or give its group to the user by a "
               "udev rule";
    } else if (code == -EINVAL) {
        what = "the module does not speak netmap's API 14: load a newer one";
    }
    snprintf(error, SS_ERROR_MAX, "netmap: %s", what);
    return code;
}

int32_t ss_netmap_module(struct ss_netmap_module *module, char *error)
{
    struct netmap_limits limits;
    int code;

    if (!module || !error) {
        return -EINVAL;
    }
    error[0] = '\0';
    memset(module, 0, sizeof(*module));
    module->api = NM_API;
    module->ioc_ctrl = NM_IOC_CTRL;
    module->ioc_txsync = NM_IOC_TXSYNC;
    module->ioc_rxsync = NM_IOC_RXSYNC;
    netmap_limits_read(&limits, &netmap_kernel);
    if (limits.ring_size > NM_RING_SLOTS_OFS) {
        module->ring_slots_max =
            (uint32_t)((limits.ring_size - NM_RING_SLOTS_OFS) / sizeof(struct nm_slot));
    }
    if (limits.if_size > NM_IF_RING_OFS) {
        module->port_rings_max = (uint32_t)((limits.if_size - NM_IF_RING_OFS) / sizeof(int64_t));
    }
    module->rings_max = (uint32_t)limits.ring_num;
    module->descriptors_max = (uint32_t)limits.if_num;
    module->bufs_max = (uint32_t)limits.buf_num;
    module->buf_bytes = (uint32_t)limits.buf_size;
    code = ask_module(module);
    return code != 0 ? explain(error, code) : 0;
}

int32_t ss_netmap_adapter(const char *iface)
{
    struct netmap_link link;
    uint64_t admode = 0;
    int code;

    if (!iface) {
        return -EINVAL;
    }
    code = netmap_kernel.link(iface, &link);
    if (code != 0 || !link.ethernet) {
        return code != 0 ? code : -EINVAL;
    }
    netmap_kernel.parameter("admode", &admode);
    return admode != 2 && link.native;
}
