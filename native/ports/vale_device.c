/* Opening a port of a software switch; see vale.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ports/backends.h"
#include "ports/region.h"
#include "ports/vale.h"

enum {
    DEFAULT_SLOTS = 512,
    DEFAULT_BUF = 2048,
    DEFAULT_MTU = 1500,
    SWITCH_NAME_MAX = 24,
    LANES = VALE_PORTS * VALE_PORTS,
};

struct layout {
    uint32_t slots;
    uint32_t buf_size;
    uint32_t bufs;
    uint32_t mtu;
    size_t rings_bytes;
    size_t shared_ofs;
    size_t lanes_ofs;
    size_t bytes;
    const char *name;
};

static size_t page_up(size_t bytes)
{
    return (bytes + 4095) / 4096 * 4096;
}

static void make_layout(struct layout *layout, const char *name, const struct device_config *config)
{
    struct region_spec specs[VALE_PORTS];

    *layout = (struct layout){
        .slots = config->slots ? config->slots : DEFAULT_SLOTS,
        .buf_size = config->buf_size ? config->buf_size : DEFAULT_BUF,
        .mtu = config->mtu ? config->mtu : DEFAULT_MTU,
        .name = name,
    };
    for (uint32_t i = 0; i < VALE_PORTS; i++) {
        specs[i] = (struct region_spec){.pairs = 1, .slots = layout->slots};
    }
    layout->rings_bytes = region_rings_bytes(specs, VALE_PORTS);
    layout->bufs = NM_BUF_FIRST + 2 * VALE_PORTS * layout->slots + LANES * VALE_CELLS;
    layout->shared_ofs = page_up(layout->rings_bytes + (size_t)layout->bufs * layout->buf_size);
    layout->lanes_ofs = page_up(layout->shared_ofs + sizeof(struct vale_shared));
    layout->bytes =
        page_up(layout->lanes_ofs + LANES * sizeof(struct vale_lane) + sizeof(uint64_t));
}

/* The shared part's place stands in the memory's last 8 bytes: the region itself is netmap's. */
static void build(uint8_t *base, const void *arg)
{
    const struct layout *layout = arg;
    struct vale_shared *shared = (struct vale_shared *)(void *)(base + layout->shared_ofs);
    struct vale_lane *lanes = (struct vale_lane *)(void *)(base + layout->lanes_ofs);
    uint64_t shared_ofs = layout->shared_ofs;
    struct region region;

    region_init(&region, base, layout->rings_bytes, layout->bufs, layout->buf_size);
    shared->bufs = layout->bufs;
    shared->mtu = layout->mtu;
    shared->lanes_ofs = layout->lanes_ofs;
    for (uint32_t i = 0; i < VALE_PORTS; i++) {
        struct region_spec spec = {.pairs = 1, .slots = layout->slots};

        shared->if_ofs[i] =
            (uint64_t)((uint8_t *)region_add_if(&region, layout->name, &spec) - base);
    }
    for (uint32_t i = 0; i < LANES; i++) {
        for (uint32_t k = 0; k < VALE_CELLS; k++) {
            lanes[i].cell[k].buf_idx = region_take_buf(&region);
        }
    }
    shared->magic = VALE_MAGIC;
    memcpy(base + layout->bytes - sizeof(shared_ofs), &shared_ofs, sizeof(shared_ofs));
}

static bool view(struct vale_device *vale)
{
    const struct soft *soft = &vale->soft;
    uint64_t shared_ofs;

    memcpy(&shared_ofs, soft->base + soft->bytes - sizeof(shared_ofs), sizeof(shared_ofs));
    if (soft->bytes < sizeof(struct vale_shared) ||
        shared_ofs > soft->bytes - sizeof(struct vale_shared)) {
        return false;
    }
    vale->shared = (struct vale_shared *)(void *)(soft->base + shared_ofs);
    if (vale->shared->magic != VALE_MAGIC ||
        vale->shared->lanes_ofs > soft->bytes - LANES * sizeof(struct vale_lane)) {
        return false;
    }
    vale->lanes = (struct vale_lane *)(void *)(soft->base + vale->shared->lanes_ofs);
    vale->bufs = vale->shared->bufs;
    return true;
}

static int refuse(char *error, const char *name, int code, const char *what)
{
    if (error[0] == '\0') {
        snprintf(error, PORT_ERROR_MAX, "vale:%s: %s", name, what);
    }
    return code;
}

/* The port of this name if it ever was one, else the first that nobody holds. */
static int choose_port(struct vale_device *vale, const char *port_name)
{
    for (uint32_t i = 0; i < VALE_PORTS; i++) {
        if (strncmp(vale->shared->name[i], port_name, VALE_NAME_MAX) == 0) {
            vale->port = i;
            return soft_take(&vale->soft, i);
        }
    }
    for (uint32_t i = 0; i < VALE_PORTS; i++) {
        if (soft_take(&vale->soft, i) == 0) {
            vale->port = i;
            snprintf(vale->shared->name[i], VALE_NAME_MAX, "%s", port_name);
            return 0;
        }
    }
    return -ENOSPC;
}

static struct nm_if *if_of(const struct vale_device *vale, uint32_t port)
{
    return (struct nm_if *)(void *)(vale->soft.base + vale->shared->if_ofs[port]);
}

void vale_go_up(struct vale_shared *shared, uint32_t port)
{
    uint64_t up = atomic_load(&shared->up);
    uint32_t shift = vale_opens_shift(port);
    uint64_t now;

    do {
        now = (up & ~((uint64_t)7 << shift)) | ((up >> shift) + 1) % 8 << shift;
    } while (!atomic_compare_exchange_weak(&shared->up, &up, now | vale_up_bit(port)));
}

static int take_port(struct device *device, struct vale_device *vale, const char *name, char *error)
{
    int code = choose_port(vale, strchr(name, ':') + 1);

    if (code != 0) {
        return refuse(error, name, code,
                      code == -ENOSPC ? "all 16 ports of this switch are taken: close one"
                                      : "this port is open already: choose another name");
    }
    vale->side = &vale->shared->side[vale->port];
    vale->rx = nm_rx_ring(if_of(vale, vale->port), 0);
    vale->tx = nm_tx_ring(if_of(vale, vale->port), 0);
    vale->buf_size = vale->tx->nr_buf_size;
    vale->slots = vale->tx->num_slots;
    vale->buf0 = (uint8_t *)vale->tx + vale->tx->buf_ofs;
    vale_side_recover(vale);
    vale_side_reset(vale);
    device->ports[0] = (struct port){.ops = &vale_port_ops,
                                     .rx = vale->rx,
                                     .tx = vale->tx,
                                     .counters = &vale->side->counters,
                                     .shared = vale->side,
                                     .priv = vale,
                                     .wait_fd = vale->soft.bells[vale->port],
                                     .bufs = vale->bufs,
                                     .region = vale->soft.inode};
    device->rings = 1;
    vale_go_up(vale->shared, vale->port);
    code = soft_ready(&vale->soft);
    if (code != 0) {
        atomic_fetch_and(&vale->shared->up, ~vale_up_bit(vale->port));
        return refuse(error, name, code, "this port could not be made ready");
    }
    return 0;
}

static void describe(struct device *device, const struct vale_device *vale)
{
    device->mtu = vale->shared->mtu;
    device->event_fd = vale->soft.listen_fd;
    soft_mac(vale->soft.name, vale->port, device->mac);
    snprintf(device->banner, sizeof(device->banner),
             "learning switch in shared memory: port %u of %u, %u slots", vale->port, VALE_PORTS,
             vale->rx->num_slots);
}

static void vale_close(struct device *device)
{
    struct vale_device *vale = device->priv;

    if (!vale) {
        return;
    }
    if (vale->soft.end < VALE_PORTS && vale->soft.listen_fd >= 0) { /* not in a worker */
        atomic_fetch_and(&vale->shared->up, ~vale_up_bit(vale->port));
    }
    soft_close(&vale->soft);
    free(vale);
    device->priv = NULL;
}

/* "SWITCH:PORT". */
static const char *check_open(const char *name, const struct device_config *config)
{
    const char *colon = strchr(name, ':');

    if (!colon || colon == name || colon[1] == '\0' || strchr(colon + 1, ':') ||
        colon - name > SWITCH_NAME_MAX || strlen(colon + 1) >= VALE_NAME_MAX) {
        return "a switch's port is vale:SWITCH:PORT, of at most 24 and 15 characters";
    }
    if (config->rings > 1) {
        return "a switch's port has one ring pair: open more ports";
    }
    if ((config->slots && config->slots < 8) || config->slots > 8176 ||
        (config->buf_size && (config->buf_size < 64 || config->buf_size % 64))) {
        return "8 to 8176 slots, buffers in steps of 64 bytes";
    }
    return NULL;
}

static int vale_open(struct device *device, const char *name, const struct device_config *config,
                     char *error)
{
    const char *wrong = check_open(name, config);
    char switch_name[SWITCH_NAME_MAX + 1];
    struct vale_device *vale;
    struct layout layout;
    int code;

    if (wrong) {
        return refuse(error, name, -EINVAL, wrong);
    }
    vale = calloc(1, sizeof(*vale));
    if (!vale) {
        return refuse(error, name, -ENOMEM, "out of memory");
    }
    snprintf(switch_name, sizeof(switch_name), "%.*s", (int)(strchr(name, ':') - name), name);
    make_layout(&layout, switch_name, config);
    code = soft_open(&vale->soft,
                     &(struct soft_plan){.kind = "vale",
                                         .name = switch_name,
                                         .ends = VALE_PORTS,
                                         .bytes = layout.bytes,
                                         .build = build,
                                         .arg = &layout},
                     error);
    if (code != 0) {
        free(vale);
        return code;
    }
    device->priv = vale;
    code = view(vale) ? take_port(device, vale, name, error)
                      : refuse(error, name, -EPROTO, "its memory is of another version");
    if (code != 0) {
        vale_close(device);
        return code;
    }
    describe(device, vale);
    return 0;
}

static int vale_event(struct device *device)
{
    return soft_serve(&((struct vale_device *)device->priv)->soft);
}

static int vale_audit(struct device *device)
{
    const struct vale_device *vale = device->priv;
    struct region_audit audit;

    if (region_audit_begin(&audit, vale->bufs) != 0) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < VALE_PORTS; i++) {
        region_audit_if(&audit, if_of(vale, i));
    }
    for (uint32_t i = 0; i < LANES; i++) {
        for (uint32_t k = 0; k < VALE_CELLS; k++) {
            region_audit_buf(&audit, vale->lanes[i].cell[k].buf_idx);
        }
    }
    return region_audit_end(&audit);
}

static void vale_keep_only(struct device *device, uint32_t ring_id)
{
    (void)ring_id;
    soft_unlisten(&((struct vale_device *)device->priv)->soft);
    device->event_fd = -1;
}

const struct device_ops vale_device_ops = {
    .backend = "vale",
    .open = vale_open,
    .event = vale_event,
    .audit = vale_audit,
    .keep_only = vale_keep_only,
    .close = vale_close,
};
