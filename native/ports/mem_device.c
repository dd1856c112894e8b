/* Making a mem: device, looking at it, checking it; see mem.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ports/backends.h"
#include "ports/mem.h"
#include "ports/region.h"

enum {
    DEFAULT_RINGS = 2,
    DEFAULT_LINKS = 8,
    DEFAULT_SLOTS = 512,
    DEFAULT_BUF = 2048,
    DEFAULT_MTU = 1500,
};

struct plan {
    uint32_t rings; /* the host's included */
    uint32_t links; /* likewise */
    bool host;
    uint32_t slots;
    uint32_t buf_size;
    uint32_t bufs;
    size_t rings_bytes;
    size_t shared_ofs;
    size_t lanes_ofs;
    size_t bytes;
};

void mem_mac_of_link(const struct mem_shared *shared, uint32_t link, uint8_t mac[6])
{
    memcpy(mac, shared->server_mac, 6);
    if (shared->host && link == shared->links - 1) {
        return; /* the host behind the card has the card's */
    }
    mac[0] = 0x06; /* locally administered, and not the server's */
    mac[5] = (uint8_t)link;
}

static size_t page_up(size_t bytes)
{
    return (bytes + 4095) / 4096 * 4096;
}

static void make_plan(struct plan *plan, const struct device_config *config, bool host)
{
    struct region_spec specs[1 + MEM_LINKS_MAX];
    uint32_t lanes;

    plan->host = host;
    plan->rings = config->rings ? config->rings : (uint32_t)DEFAULT_RINGS + host;
    plan->links = (config->links ? config->links : (uint32_t)DEFAULT_LINKS) + host;
    plan->slots = config->slots ? config->slots : DEFAULT_SLOTS;
    plan->buf_size = config->buf_size ? config->buf_size : DEFAULT_BUF;
    specs[0] = (struct region_spec){.pairs = plan->rings, .slots = plan->slots};
    for (uint32_t i = 0; i < plan->links; i++) {
        specs[1 + i] = (struct region_spec){.pairs = 1, .slots = plan->slots};
    }
    lanes = plan->links * plan->rings * 2;
    plan->rings_bytes = region_rings_bytes(specs, 1 + plan->links);
    plan->bufs = NM_BUF_FIRST + 2 * plan->slots * (plan->rings + plan->links) + lanes * MEM_CELLS;
    plan->shared_ofs = page_up(plan->rings_bytes + (size_t)plan->bufs * plan->buf_size);
    plan->lanes_ofs = page_up(plan->shared_ofs + sizeof(struct mem_shared));
    plan->bytes = page_up(plan->lanes_ofs + lanes * sizeof(struct mem_lane));
}

/* The shared part is found from the mapping's last 8 bytes, where its offset stands. */
bool mem_view(struct mem_device *device)
{
    const struct nm_ring *ring;
    uint64_t shared_ofs;

    memcpy(&shared_ofs, device->base + device->bytes - sizeof(shared_ofs), sizeof(shared_ofs));
    if (shared_ofs > device->bytes - sizeof(struct mem_shared)) {
        return false;
    }
    device->shared = (struct mem_shared *)(void *)(device->base + shared_ofs);
    if (device->shared->magic != MEM_MAGIC || device->shared->lanes_ofs >= device->bytes) {
        return false;
    }
    device->lanes = (struct mem_lane *)(void *)(device->base + device->shared->lanes_ofs);
    device->rings = device->shared->rings;
    device->links = device->shared->links;
    device->bufs = device->shared->bufs;
    device->host = device->shared->host != 0;
    ring = nm_tx_ring((struct nm_if *)(void *)(device->base + device->shared->if_ofs[0]), 0);
    device->slots = ring->num_slots;
    device->buf_size = ring->nr_buf_size;
    device->bufs_ofs = (size_t)((const uint8_t *)ring - device->base + ring->buf_ofs);
    return true;
}

int mem_port_init(struct port *port, struct mem_device *device, bool server, uint32_t index)
{
    struct mem_shared *shared = device->shared;
    uint64_t if_ofs = shared->if_ofs[server ? 0 : 1 + index];
    struct nm_if *nifp = (struct nm_if *)(void *)(device->base + if_ofs);
    struct mem_place *place = calloc(1, sizeof(*place));
    uint32_t side = server ? index : shared->rings + index;

    if (!place) {
        return -ENOMEM;
    }
    *place = (struct mem_place){.device = device, .side = side, .server = server, .index = index};
    *port = (struct port){.ops = &mem_port_ops,
                          .rx = nm_rx_ring(nifp, server ? index : 0),
                          .tx = nm_tx_ring(nifp, server ? index : 0),
                          .counters = &shared->side[side].counters,
                          .shared = &shared->side[side],
                          .priv = place,
                          .ring_id = server ? index : 0,
                          .wait_fd = device->doorbell[side],
                          .bufs = shared->bufs};
    place->slots = port->tx->num_slots;
    place->buf_size = port->tx->nr_buf_size;
    return 0;
}

static void fill_lanes(struct mem_device *device, struct region *region)
{
    uint32_t lanes = device->shared->links * device->shared->rings * 2;

    for (uint32_t i = 0; i < lanes; i++) {
        for (uint32_t k = 0; k < MEM_CELLS; k++) {
            device->lanes[i].cell[k].buf_idx = region_take_buf(region);
        }
    }
}

static void derive_mac(const char *name, uint8_t mac[6])
{
    uint32_t hash = 2166136261u; /* FNV-1a */

    for (const char *c = name; *c; c++) {
        hash = (hash ^ (uint8_t)*c) * 16777619u;
    }
    mac[0] = 0x02;
    for (int i = 0; i < 4; i++) {
        mac[1 + i] = (uint8_t)(hash >> (8 * i));
    }
    mac[5] = 0xfe;
}

static void build(struct mem_device *device, const struct plan *plan,
                  const struct device_config *config)
{
    static const uint8_t no_mac[6];
    struct mem_shared *shared = (struct mem_shared *)(void *)(device->base + plan->shared_ofs);
    uint64_t shared_ofs = plan->shared_ofs;
    struct region region;

    region_init(&region, device->base, plan->rings_bytes, plan->bufs, plan->buf_size);
    shared->rings = plan->rings;
    shared->links = plan->links;
    shared->host = plan->host;
    shared->bufs = plan->bufs;
    shared->mtu = config->mtu ? config->mtu : DEFAULT_MTU;
    shared->lanes_ofs = plan->lanes_ofs;
    for (uint32_t i = 0; i <= plan->links; i++) {
        struct region_spec spec = {
            .pairs = i == 0 ? plan->rings : 1, .slots = plan->slots, .host = i == 0 && plan->host};
        struct nm_if *nifp = region_add_if(&region, i == 0 ? device->name : "link", &spec);

        shared->if_ofs[i] = (uint64_t)((uint8_t *)nifp - device->base);
    }
    rss_init(&shared->rss, plan->rings - plan->host);
    derive_mac(device->name, shared->server_mac);
    if (memcmp(config->mac, no_mac, 6) != 0) {
        memcpy(shared->server_mac, config->mac, 6);
    }
    shared->magic = MEM_MAGIC;
    memcpy(device->base + device->bytes - sizeof(shared_ofs), &shared_ofs, sizeof(shared_ofs));
    mem_view(device);
    fill_lanes(device, &region);
}

static int map_region(struct mem_device *device, size_t bytes)
{
    device->memfd = memfd_create("shardserver-mem", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (device->memfd < 0) {
        return -errno;
    }
    if (ftruncate(device->memfd, (off_t)bytes) != 0 ||
        fcntl(device->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return -errno;
    }
    device->base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, device->memfd, 0);
    if (device->base == MAP_FAILED) {
        device->base = NULL;
        return -errno;
    }
    device->bytes = bytes;
    return 0;
}

static int make_doorbells(struct mem_device *device)
{
    for (uint32_t i = 0; i < device->shared->rings + device->shared->links; i++) {
        device->doorbell[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (device->doorbell[i] < 0) {
            return -errno;
        }
    }
    return 0;
}

static struct mem_device *mem_new(const char *name)
{
    struct mem_device *mem = calloc(1, sizeof(*mem));

    if (!mem) {
        return NULL;
    }
    mem->memfd = -1;
    mem->listen_fd = -1;
    mem->host_fd = -1;
    mem->epoll_fd = -1;
    memset(mem->doorbell, 0xff, sizeof(mem->doorbell));
    memset(mem->link_fd, 0xff, sizeof(mem->link_fd));
    snprintf(mem->name, sizeof(mem->name), "%.*s", (int)strcspn(name, "*"), name);
    return mem;
}

static void mem_close(struct device *device)
{
    struct mem_device *mem = device->priv;

    if (!mem) {
        return;
    }
    mem_unlisten(mem);
    for (uint32_t i = 0; i < MEM_SIDES_MAX; i++) {
        if (mem->doorbell[i] >= 0) {
            close(mem->doorbell[i]);
        }
    }
    for (uint32_t i = 0; i < device->rings; i++) {
        free(device->ports[i].priv);
    }
    if (mem->base) {
        munmap(mem->base, mem->bytes);
    }
    if (mem->memfd >= 0) {
        close(mem->memfd);
    }
    free(mem);
    device->priv = NULL;
}

static int make_ports(struct device *device)
{
    struct mem_device *mem = device->priv;

    for (uint32_t i = 0; i < mem->shared->rings; i++) {
        int error = mem_port_init(&device->ports[i], mem, true, i);

        if (error != 0) {
            return error;
        }
        device->rings = i + 1;
    }
    return 0;
}

static int mem_refuse(char *error, const char *name, const char *what, int code)
{
    if (error[0] == '\0') {
        snprintf(error, PORT_ERROR_MAX, "mem:%s: %s", name, what);
    }
    return code;
}

/* "NAME" or "NAME*". What is wrong, or NULL. */
static const char *check_open(const char *name, const struct device_config *config)
{
    const char *mark = strpbrk(name, "*^");
    uint32_t host = mark != NULL;

    if (mark && (*mark == '^' || mark == name || mark[1] != '\0')) {
        return "NAME* is a software NIC with host rings, and NAME^ the host that attaches to it";
    }
    if (config->links + host > MEM_LINKS_MAX || config->rings > PORT_RINGS_MAX ||
        (config->slots && config->slots < 8) || config->slots > 8176 ||
        (config->buf_size && (config->buf_size < 1600 || config->buf_size % 64))) {
        return "at most 32 links and 64 rings, 8 to 8176 slots, buffers of at least 1600 bytes in "
               "steps of 64";
    }
    if (host && config->rings == 1) {
        return "host rings are one more ring pair: give at least 2 --workers";
    }
    return NULL;
}

static void describe(struct device *device, const struct plan *plan)
{
    snprintf(device->banner, sizeof(device->banner),
             "software NIC in shared memory: %u ring pairs of %u slots%s, up to %u links, Toeplitz "
             "RSS",
             plan->rings, plan->slots, plan->host ? ", the last of them the host's" : "",
             plan->links - plan->host);
}

static int mem_open(struct device *device, const char *name, const struct device_config *config,
                    char *error)
{
    const char *wrong = check_open(name, config);
    struct mem_device *mem;
    struct plan plan;
    int code;

    if (wrong) {
        return mem_refuse(error, name, wrong, -EINVAL);
    }
    mem = mem_new(name);
    if (!mem) {
        return mem_refuse(error, name, "out of memory", -ENOMEM);
    }
    device->priv = mem;
    make_plan(&plan, config, strchr(name, '*') != NULL);
    code = map_region(mem, plan.bytes);
    if (code == 0) {
        build(mem, &plan, config);
        code = make_doorbells(mem);
    }
    if (code == 0) {
        code = make_ports(device);
    }
    if (code == 0) {
        code = mem_listen(mem, error);
    }
    if (code != 0) {
        mem_close(device);
        return mem_refuse(error, name,
                          code == -EMFILE
                              ? "too many open files: raise ulimit -n, or give fewer --workers"
                              : "its memory could not be made: use fewer rings or slots",
                          code);
    }
    device->mtu = mem->shared->mtu;
    memcpy(device->mac, mem->shared->server_mac, 6);
    device->event_fd = mem->epoll_fd;
    describe(device, &plan);
    return 0;
}

static int mem_event(struct device *device)
{
    return mem_serve(device->priv);
}

static int mem_audit(struct device *device)
{
    const struct mem_device *mem = device->priv;
    const struct mem_shared *shared = mem->shared;
    uint32_t lanes = shared->links * shared->rings * 2;
    struct region_audit audit;

    if (region_audit_begin(&audit, shared->bufs) != 0) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i <= shared->links; i++) {
        region_audit_if(&audit, (struct nm_if *)(void *)(mem->base + shared->if_ofs[i]));
    }
    for (uint32_t i = 0; i < lanes; i++) {
        for (uint32_t k = 0; k < MEM_CELLS; k++) {
            region_audit_buf(&audit, mem->lanes[i].cell[k].buf_idx);
        }
    }
    return region_audit_end(&audit);
}

/* A worker keeps the bells: it rings its peers'; the owner's sockets are not its business. */
static void mem_keep_only(struct device *device, uint32_t ring_id)
{
    (void)ring_id;
    mem_unlisten(device->priv);
    device->event_fd = -1;
}

const struct device_ops mem_device_ops = {
    .backend = "mem",
    .open = mem_open,
    .event = mem_event,
    .audit = mem_audit,
    .keep_only = mem_keep_only,
    .close = mem_close,
};
