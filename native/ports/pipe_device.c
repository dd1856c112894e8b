/* Opening an end of a pipe; see pipe.h. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ports/backends.h"
#include "ports/pipe.h"
#include "ports/region.h"

enum {
    DEFAULT_SLOTS = 1024,
    DEFAULT_BUF = 2048,
    DEFAULT_MTU = 1500,
    ID_MAX = 16,
    QUIET_TRIES = 20000, /* of 100 us each, while the other end may be inside a sync */
};

struct layout {
    uint32_t rings;
    uint32_t slots;
    uint32_t buf_size;
    uint32_t bufs;
    size_t rings_bytes;
    size_t shared_ofs;
    size_t bytes;
    uint32_t mtu;
    uint32_t links;
};

static size_t page_up(size_t bytes)
{
    return (bytes + 4095) / 4096 * 4096;
}

static size_t shared_bytes(uint32_t links)
{
    return sizeof(struct pipe_shared) + links * sizeof(struct pipe_link);
}

static void make_layout(struct layout *layout, uint32_t links, const struct device_config *config)
{
    struct region_spec specs[PIPE_ENDS * PIPE_LINKS_MAX];
    uint32_t ends = PIPE_ENDS * links;

    *layout = (struct layout){
        .rings = config->rings ? config->rings : 1,
        .slots = config->slots ? config->slots : DEFAULT_SLOTS,
        .buf_size = config->buf_size ? config->buf_size : DEFAULT_BUF,
        .mtu = config->mtu ? config->mtu : DEFAULT_MTU,
        .links = links,
    };
    for (uint32_t i = 0; i < ends; i++) {
        specs[i] = (struct region_spec){.pairs = layout->rings, .slots = layout->slots};
    }
    layout->rings_bytes = region_rings_bytes(specs, ends);
    layout->bufs = NM_BUF_FIRST + 2 * ends * layout->rings * layout->slots;
    layout->shared_ofs = page_up(layout->rings_bytes + (size_t)layout->bufs * layout->buf_size);
    layout->bytes = page_up(layout->shared_ofs + shared_bytes(links) + sizeof(uint64_t));
}

/* The shared part's place stands in the memory's last 8 bytes: the region itself is netmap's. */
static void build(uint8_t *base, const void *arg)
{
    const struct layout *layout = arg;
    struct pipe_shared *shared = (struct pipe_shared *)(void *)(base + layout->shared_ofs);
    uint64_t shared_ofs = layout->shared_ofs;
    struct region region;

    region_init(&region, base, layout->rings_bytes, layout->bufs, layout->buf_size);
    shared->rings = layout->rings;
    shared->bufs = layout->bufs;
    shared->mtu = layout->mtu;
    shared->links = layout->links;
    for (uint32_t i = 0; i < PIPE_ENDS * layout->links; i++) {
        struct region_spec spec = {.pairs = layout->rings, .slots = layout->slots};
        struct nm_if *nifp = region_add_if(&region, i % PIPE_ENDS ? "second" : "first", &spec);

        shared->link[i / PIPE_ENDS].if_ofs[i % PIPE_ENDS] = (uint64_t)((uint8_t *)nifp - base);
    }
    shared->magic = PIPE_MAGIC;
    memcpy(base + layout->bytes - sizeof(shared_ofs), &shared_ofs, sizeof(shared_ofs));
}

static bool view(struct pipe_device *pipe)
{
    const struct soft *soft = &pipe->soft;
    uint64_t shared_ofs;

    memcpy(&shared_ofs, soft->base + soft->bytes - sizeof(shared_ofs), sizeof(shared_ofs));
    if (soft->bytes < sizeof(struct pipe_shared) ||
        shared_ofs > soft->bytes - sizeof(struct pipe_shared)) {
        return false;
    }
    pipe->shared = (struct pipe_shared *)(void *)(soft->base + shared_ofs);
    pipe->links = pipe->shared->links;
    return pipe->shared->magic == PIPE_MAGIC && pipe->shared->rings <= PORT_RINGS_MAX &&
           pipe->links <= PIPE_LINKS_MAX && shared_bytes(pipe->links) <= soft->bytes - shared_ofs;
}

static struct nm_if *if_of(const struct pipe_device *pipe, uint32_t end)
{
    return (struct nm_if *)(void *)(pipe->soft.base + pipe->link->if_ofs[end]);
}

static int refuse(char *error, const char *name, int code, const char *what)
{
    if (error[0] == '\0') {
        snprintf(error, PORT_ERROR_MAX, "mem:%s: %s", name, what);
    }
    return code;
}

/* Letters and digits, up to `end`. */
static bool is_id(const char *from, const char *end)
{
    for (const char *c = from; c < end; c++) {
        if (!isalnum((unsigned char)*c) && *c != '_') {
            return false;
        }
    }
    return end > from && end - from <= ID_MAX;
}

/* "NAME{ID" or "NAME}ID", perhaps "@REGION": 0 or 1 for the end; -1: neither. The pipe's name is
 * "NAME{ID", that of its memory the region's or the same. */
static int parse(const char *name, char *pipe_name, char *memory)
{
    const char *brace = strpbrk(name, "{}");
    const char *at = strchr(brace, '@');
    const char *end = name + strlen(name);

    if (brace == name || !is_id(brace + 1, at ? at : end) || (at && !is_id(at + 1, end)) ||
        end - name >= PORT_NAME_MAX) {
        return -1;
    }
    snprintf(pipe_name, PORT_NAME_MAX, "%.*s", (int)((at ? at : end) - name), name);
    pipe_name[brace - name] = '{';
    snprintf(memory, PORT_NAME_MAX, "%s", at ? at + 1 : pipe_name);
    return *brace == '}';
}

/* Until the other end has left a sync that began while ours was down: it may still write. False: it
 * stands still there. */
static bool wait_quiet(const struct pipe_device *pipe, uint32_t ring)
{
    struct pipe_side *peer = &pipe->link->side[!pipe->end][ring];
    uint32_t then = atomic_load(&peer->sync_seq);
    struct timespec pause = {.tv_nsec = 100000};

    for (int i = 0; i < QUIET_TRIES && (then & 1); i++) {
        if (atomic_load(&peer->sync_seq) != then ||
            !soft_alive(&pipe->soft, pipe_soft_end(pipe, !pipe->end))) {
            return true;
        }
        nanosleep(&pause, NULL);
    }
    return !(then & 1);
}

/* What a predecessor left: its half exchange is completed, what it had not read is dropped. */
static int reset_ring(struct pipe_device *pipe, uint32_t ring)
{
    struct pipe_link *link = pipe->link;
    struct pipe_way *out = &link->way[pipe->end][ring];
    struct pipe_way *in = &link->way[!pipe->end][ring];
    struct nm_ring *tx = nm_tx_ring(if_of(pipe, pipe->end), ring);
    struct nm_ring *rx = nm_rx_ring(if_of(pipe, pipe->end), ring);
    struct nm_ring *peer_rx = nm_rx_ring(if_of(pipe, !pipe->end), ring);
    struct pipe_side *side = &link->side[pipe->end][ring];
    uint32_t last;
    uint32_t at;

    pipe_way_recover(out, tx, peer_rx, pipe->shared->bufs);
    last = out->filled ? out->filled - 1 : tx->num_slots - 1;
    peer_rx->slot[last].flags = 0; /* a frame cut short ends here */
    tx->head = tx->cur = out->filled;
    tx->tail = last;
    if (!wait_quiet(pipe, ring)) {
        return -EAGAIN;
    }
    at = atomic_load(&in->published) % rx->num_slots;
    rx->head = rx->cur = rx->tail = at;
    atomic_store(&in->released, at);
    atomic_store(&side->sync_seq, 0);
    atomic_store(&side->sleeping, 0);
    memset(&side->counters, 0, sizeof(side->counters));
    return 0;
}

static int add_port(struct device *device, struct pipe_device *pipe, uint32_t ring)
{
    struct pipe_place *place = calloc(1, sizeof(*place));
    struct pipe_shared *shared = pipe->shared;
    struct pipe_link *link = pipe->link;
    struct nm_if *nifp = if_of(pipe, pipe->end);

    if (!place) {
        return -ENOMEM;
    }
    *place = (struct pipe_place){.pipe = pipe,
                                 .out = &link->way[pipe->end][ring],
                                 .in = &link->way[!pipe->end][ring],
                                 .side = &link->side[pipe->end][ring],
                                 .peer = &link->side[!pipe->end][ring],
                                 .peer_rx = nm_rx_ring(if_of(pipe, !pipe->end), ring),
                                 .bufs = shared->bufs,
                                 .buf_size = nm_tx_ring(nifp, ring)->nr_buf_size,
                                 .slots = nm_tx_ring(nifp, ring)->num_slots};
    device->ports[ring] = (struct port){.ops = &pipe_port_ops,
                                        .rx = nm_rx_ring(nifp, ring),
                                        .tx = nm_tx_ring(nifp, ring),
                                        .counters = &place->side->counters,
                                        .shared = place->side,
                                        .priv = place,
                                        .ring_id = ring,
                                        .wait_fd = pipe->soft.bells[pipe_soft_end(pipe, pipe->end)],
                                        .bufs = shared->bufs,
                                        .region = pipe->soft.inode};
    device->rings = ring + 1;
    return 0;
}

/* One that nobody has open, as far as its neighbours can tell. */
static bool is_free(const struct pipe_device *pipe, const struct pipe_link *link)
{
    uint32_t first = (uint32_t)(link - pipe->shared->link) * PIPE_ENDS;

    return link->name[0] == '\0' ||
           (!soft_alive(&pipe->soft, first) && !soft_alive(&pipe->soft, first + 1));
}

static void set_down(struct pipe_link *link, uint32_t end)
{
    atomic_fetch_and(&link->up[end], ~(uint32_t)PIPE_UP);
}

/* The pipe of this name, or the first of the region that is free; NULL: none. */
static struct pipe_link *choose_link(const struct pipe_device *pipe)
{
    struct pipe_link *link = pipe->shared->link;

    for (uint32_t i = 0; i < pipe->links; i++) {
        if (strncmp(link[i].name, pipe->name, PORT_NAME_MAX) == 0) {
            return &link[i];
        }
    }
    for (uint32_t i = 0; i < pipe->links; i++) {
        if (is_free(pipe, &link[i])) {
            snprintf(link[i].name, PORT_NAME_MAX, "%s", pipe->name);
            set_down(&link[i], 0);
            set_down(&link[i], 1);
            return &link[i];
        }
    }
    return NULL;
}

static int take_end(struct device *device, struct pipe_device *pipe, const char *name, char *error)
{
    int code;

    pipe->link = choose_link(pipe);
    if (!pipe->link) {
        return refuse(error, name, -ENOSPC, "all 16 pipes of this region are taken: close one");
    }
    code = soft_take(&pipe->soft, pipe_soft_end(pipe, pipe->end));
    if (code != 0) {
        return refuse(error, name, code, "this end is open already: open the other one");
    }
    pipe_go_up(pipe->link, pipe->end);
    for (uint32_t ring = 0; ring < pipe->shared->rings && code == 0; ring++) {
        code = reset_ring(pipe, ring);
        code = code ? code : add_port(device, pipe, ring);
    }
    code = code ? code : soft_ready(&pipe->soft);
    if (code == 0) {
        return 0;
    }
    set_down(pipe->link, pipe->end);
    return refuse(error, name, code,
                  code == -EAGAIN ? "the other end stands still: end that program, or give it time"
                                  : "this end could not be made ready");
}

static void describe(struct device *device, const struct pipe_device *pipe)
{
    device->mtu = pipe->shared->mtu;
    device->event_fd = pipe->soft.listen_fd;
    soft_mac(pipe->name, pipe->end, device->mac);
    snprintf(device->banner, sizeof(device->banner),
             "pipe in shared memory: %u ring pairs of %u slots, %s end%s%s", pipe->shared->rings,
             device->ports[0].rx->num_slots, pipe->end ? "second" : "first",
             pipe->links > 1 ? ", region " : "", pipe->links > 1 ? pipe->soft.name : "");
}

static void pipe_close(struct device *device)
{
    struct pipe_device *pipe = device->priv;

    if (!pipe) {
        return;
    }
    for (uint32_t i = 0; i < device->rings; i++) {
        free(device->ports[i].priv);
    }
    if (pipe->soft.end < pipe->soft.ends && pipe->soft.listen_fd >= 0) { /* not in a worker */
        set_down(pipe->link, pipe->end);
    }
    soft_close(&pipe->soft);
    free(pipe);
    device->priv = NULL;
}

static bool config_fits(const struct device_config *config)
{
    return config->rings <= PORT_RINGS_MAX && (config->slots == 0 || config->slots >= 4) &&
           config->slots <= 8176 &&
           (config->buf_size == 0 || (config->buf_size >= 64 && config->buf_size % 64 == 0));
}

static int pipe_open(struct device *device, const char *name, const struct device_config *config,
                     char *error)
{
    struct pipe_device *pipe;
    char pipe_name[PORT_NAME_MAX];
    char memory[PORT_NAME_MAX];
    struct layout layout;
    int end = parse(name, pipe_name, memory);
    uint32_t links = strchr(name, '@') ? PIPE_LINKS_MAX : 1;
    int code;

    if (end < 0 || !config_fits(config)) {
        return refuse(error, name, -EINVAL,
                      end < 0
                          ? "a pipe's ends are NAME{ID and NAME}ID, in a region NAME{ID@REGION, "
                            "with an ID and a REGION of at most 16 letters and digits"
                          : "at most 64 rings, 4 to 8176 slots, buffers in steps of 64 bytes");
    }
    pipe = calloc(1, sizeof(*pipe));
    if (!pipe) {
        return refuse(error, name, -ENOMEM, "out of memory");
    }
    make_layout(&layout, links, config);
    code = soft_open(&pipe->soft,
                     &(struct soft_plan){.kind = links > 1 ? "region" : "pipe",
                                         .name = memory,
                                         .ends = PIPE_ENDS * links,
                                         .bytes = layout.bytes,
                                         .build = build,
                                         .arg = &layout},
                     error);
    if (code != 0) {
        free(pipe);
        return code;
    }
    pipe->end = (uint32_t)end;
    memcpy(pipe->name, pipe_name, sizeof(pipe->name));
    device->priv = pipe;
    code = view(pipe) ? take_end(device, pipe, name, error)
                      : refuse(error, name, -EPROTO, "its memory is of another version");
    if (code != 0) {
        pipe_close(device);
        return code;
    }
    describe(device, pipe);
    return 0;
}

static int pipe_event(struct device *device)
{
    return soft_serve(&((struct pipe_device *)device->priv)->soft);
}

static int pipe_audit(struct device *device)
{
    const struct pipe_device *pipe = device->priv;
    struct region_audit audit;
    int code = region_audit_begin(&audit, pipe->shared->bufs);

    for (uint32_t i = 0; i < PIPE_ENDS * pipe->links && code == 0; i++) {
        uint64_t if_ofs = pipe->shared->link[i / PIPE_ENDS].if_ofs[i % PIPE_ENDS];

        region_audit_if(&audit, (struct nm_if *)(void *)(pipe->soft.base + if_ofs));
    }
    return code ? code : region_audit_end(&audit);
}

static void pipe_keep_only(struct device *device, uint32_t ring_id)
{
    (void)ring_id;
    soft_unlisten(&((struct pipe_device *)device->priv)->soft);
    device->event_fd = -1;
}

const struct device_ops pipe_device_ops = {
    .backend = "mem",
    .open = pipe_open,
    .event = pipe_event,
    .audit = pipe_audit,
    .keep_only = pipe_keep_only,
    .close = pipe_close,
};
