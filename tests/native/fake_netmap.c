/* The fake module's descriptors and control requests; see fake_netmap.h. */
#include "fake_netmap.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

struct fake_state *fake;

static uint8_t *region;
static int region_fd = -1;

uint8_t *fake_region(void)
{
    return region;
}

uint8_t *fake_region_at(uint32_t index)
{
    return region + index * fake_region_bytes();
}

void fake_begin(void)
{
    size_t bytes = FAKE_REGIONS_MAX * fake_region_bytes();

    region_fd = memfd_create("fake-netmap", MFD_CLOEXEC);
    if (region_fd < 0 || ftruncate(region_fd, (off_t)bytes) != 0) {
        abort();
    }
    region = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, region_fd, 0);
    fake = mmap(NULL, sizeof(*fake), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED || fake == MAP_FAILED) {
        abort();
    }
    fake->admits = true;
    fake->ring_size = FAKE_RING_BYTES;
    fake->link = (struct netmap_link){.mtu = 1500,
                                      .mac = {0x52, 0x54, 0, 1, 2, 3},
                                      .ethernet = true,
                                      .up = true,
                                      .running = true};
}

static uint32_t free_bufs(uint32_t index)
{
    uint32_t n = 0;

    for (uint32_t i = NM_BUF_FIRST; i < FAKE_BUFS; i++) {
        n += !fake->buf_used[index][i];
    }
    return n;
}

uint32_t fake_free_bufs(void)
{
    return free_bufs(0);
}

bool fake_end(void)
{
    uint32_t open = 0;
    bool clean;

    for (uint32_t i = 0; i < FAKE_FDS_MAX; i++) {
        open += fake->file[i].open;
    }
    clean = open == 0 && fake->mappings == 0;
    for (uint32_t i = 0; i < FAKE_REGIONS_MAX; i++) {
        clean &= free_bufs(i) == FAKE_BUFS - NM_BUF_FIRST;
    }
    munmap(fake, sizeof(*fake));
    munmap(region, FAKE_REGIONS_MAX * fake_region_bytes());
    close(region_fd);
    return clean;
}

struct fake_port *fake_find(const char *name)
{
    for (uint32_t i = 0; i < FAKE_PORTS_MAX; i++) {
        if (fake->port[i].name[0] != '\0' && strcmp(fake->port[i].name, name) == 0) {
            return &fake->port[i];
        }
    }
    return NULL;
}

struct fake_port *fake_port_add(const char *name)
{
    for (uint32_t i = 0; i < FAKE_PORTS_MAX; i++) {
        if (fake->port[i].name[0] == '\0') {
            memset(&fake->port[i], 0, sizeof(fake->port[i]));
            snprintf(fake->port[i].name, NM_NAME_MAX, "%s", name);
            fake->port[i].mem_id = 1;
            return &fake->port[i];
        }
    }
    abort();
}

struct fake_port *fake_nic(const char *name, uint32_t tx_rings, uint32_t rx_rings, uint32_t slots)
{
    struct fake_port *port = fake_port_add(name);

    port->rings[FAKE_TX] = tx_rings;
    port->rings[FAKE_RX] = rx_rings;
    port->host_rings = 1;
    port->slots[FAKE_TX] = slots;
    port->slots[FAKE_RX] = slots;
    return port;
}

/* Counts what may fail; true: this one does. */
static bool fails(void)
{
    fake->steps++;
    return fake->fail_at != 0 && fake->steps == fake->fail_at;
}

static int fake_open(void)
{
    int fd;

    if (!fake->admits) {
        return fake->open_code;
    }
    if (fails()) {
        return fake->fail_code;
    }
    fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0 || fd >= FAKE_FDS_MAX) {
        abort();
    }
    fake->file[fd] = (struct fake_file){.open = true, .owner = getpid()};
    return fd;
}

static uint32_t all_rings(const struct fake_port *port, enum fake_dir dir)
{
    return port->rings[dir] + port->host_rings;
}

static void note(char what, uint32_t mode, uint32_t ring)
{
    if (fake->calls < FAKE_CALLS_MAX) {
        fake->call[fake->calls++] = (struct fake_call){what, mode, ring};
    }
}

static void release_ring(struct fake_kring *kring, uint64_t flags)
{
    kring->users--;
    if (flags & NM_REG_EXCLUSIVE) {
        kring->exclusive = false;
    }
    if (kring->users == 0 && !kring->kept) {
        fake_ring_delete(kring);
    }
}

static struct nm_if *if_of(const struct fake_file *file)
{
    return (struct nm_if *)(void *)(fake_region_at(file->region) +
                                    (size_t)file->if_object * FAKE_IF_BYTES);
}

static void unregister(struct fake_file *file)
{
    struct fake_port *port = &fake->port[file->port - 1];
    uint32_t extra = if_of(file)->bufs_head;

    while (extra >= NM_BUF_FIRST && extra < FAKE_BUFS) {
        fake->buf_used[file->region][extra] = 0;
        memcpy(&extra, fake_buf_at(file->region, extra), sizeof(extra));
    }
    for (int dir = FAKE_RX; dir <= FAKE_TX; dir++) {
        for (uint32_t i = file->first[dir]; i < file->last[dir]; i++) {
            release_ring(&port->kring[dir][i], file->flags);
        }
    }
    fake->if_used[file->region][file->if_object] = 0;
    file->port = 0;
    port->fds--;
    if (port->fds == 0) {
        fake_port_release(port);
    }
}

static int fake_close(int fd)
{
    struct fake_file *file = &fake->file[fd];

    if (file->open && file->owner == getpid()) {
        if (file->port != 0) {
            note('c', file->last[FAKE_RX] - file->first[FAKE_RX], file->first[FAKE_RX]);
            unregister(file);
        }
        file->open = false;
    }
    return close(fd) == 0 ? 0 : -errno;
}

/* Which rings a mode names; 0 or -errno. */
static int bind_rings(struct fake_file *file, const struct fake_port *port,
                      const struct nm_req_register *want)
{
    static const uint64_t excluded[2] = {NM_REG_TX_RINGS_ONLY, NM_REG_RX_RINGS_ONLY};

    for (int dir = FAKE_RX; dir <= FAKE_TX; dir++) {
        uint32_t nic = port->rings[dir];
        uint32_t ring = want->ringid < nic ? want->ringid : 0;
        bool host = want->mode == NM_MODE_SW || want->mode == NM_MODE_ONE_SW;

        if (want->mode == NM_MODE_ONE_NIC && want->ringid >= port->rings[FAKE_TX] &&
            want->ringid >= port->rings[FAKE_RX]) {
            return -EINVAL;
        }
        if ((host || want->mode == NM_MODE_NIC_SW) && port->host_rings == 0) {
            return -EINVAL;
        }
        if (want->flags & excluded[dir]) {
            continue;
        }
        file->first[dir] = host ? nic : want->mode == NM_MODE_ONE_NIC ? ring : 0;
        file->last[dir] = want->mode == NM_MODE_ALL_NIC ? nic : all_rings(port, dir);
        if (want->mode == NM_MODE_ONE_NIC) {
            file->last[dir] = ring + 1;
        } else if (want->mode == NM_MODE_ONE_SW) {
            file->first[dir] = nic + want->ringid;
            file->last[dir] = file->first[dir] + 1;
        }
    }
    return 0;
}

static int take_rings(struct fake_file *file, struct fake_port *port)
{
    bool alone = file->flags & NM_REG_EXCLUSIVE;

    for (int dir = FAKE_RX; dir <= FAKE_TX; dir++) {
        for (uint32_t i = file->first[dir]; i < file->last[dir]; i++) {
            const struct fake_kring *kring = &port->kring[dir][i];

            if (kring->exclusive || (kring->users > 0 && alone)) {
                return -EBUSY;
            }
        }
    }
    for (int dir = FAKE_RX; dir <= FAKE_TX; dir++) {
        for (uint32_t i = file->first[dir]; i < file->last[dir]; i++) {
            struct fake_kring *kring = &port->kring[dir][i];

            if (kring->object == 0 && !fake_ring_create(port, (enum fake_dir)dir, i)) {
                return -ENOMEM;
            }
            kring->users++;
            kring->exclusive = alone;
        }
    }
    return 0;
}

static void fill_if(struct fake_file *file, const struct fake_port *port)
{
    struct nm_if *nifp = if_of(file);
    int64_t own = (int64_t)((uint8_t *)nifp - fake_region_at(file->region));
    uint32_t at = 0;

    memset(nifp, 0, FAKE_IF_BYTES);
    memcpy(nifp->name, port->name, sizeof(nifp->name) - 1);
    nifp->version = NM_API;
    nifp->tx_rings = port->rings[FAKE_TX];
    nifp->rx_rings = port->rings[FAKE_RX];
    nifp->host_tx_rings = port->host_rings ? port->host_rings : 1;
    nifp->host_rx_rings = nifp->host_tx_rings;
    for (int dir = FAKE_TX; dir >= FAKE_RX; dir--) {
        uint32_t n = port->rings[dir] + nifp->host_tx_rings;

        for (uint32_t i = 0; i < n; i++, at++) {
            bool bound = i >= file->first[dir] && i < file->last[dir];

            nifp->ring_ofs[at] = bound ? (int64_t)fake_ring_offset(&port->kring[dir][i]) - own : 0;
        }
    }
}

static void answer(struct nm_req_register *want, const struct fake_file *file,
                   const struct fake_port *port)
{
    want->offset = (uint64_t)((uint8_t *)if_of(file) - fake_region_at(file->region));
    want->memsize = fake_region_bytes();
    want->tx_slots = port->slots[FAKE_TX];
    want->rx_slots = port->slots[FAKE_RX];
    want->tx_rings = (uint16_t)port->rings[FAKE_TX];
    want->rx_rings = (uint16_t)port->rings[FAKE_RX];
    want->host_tx_rings = (uint16_t)(port->host_rings ? port->host_rings : 1);
    want->host_rx_rings = want->host_tx_rings;
    want->mem_id = port->mem_id;
}

static void grant_extra(struct fake_file *file, struct nm_req_register *want)
{
    uint32_t head = 0;

    for (uint32_t i = 0; i < want->extra_bufs; i++) {
        uint32_t buf = fake_buf_take(file->region);

        if (buf == 0) {
            want->extra_bufs = i;
            break;
        }
        memcpy(fake_buf_at(file->region, buf), &head, sizeof(head));
        head = buf;
    }
    if_of(file)->bufs_head = head;
}

static int do_register(struct fake_file *file, const struct nm_req_header *header)
{
    struct nm_req_register *want = (struct nm_req_register *)(uintptr_t)header->body;
    int code = -ENXIO;
    struct fake_port *port = fake_find_or_make(header->name, want, &code);

    note('r', want->mode, want->ringid);
    if (file->port != 0) {
        return -EBUSY;
    }
    if (!port) {
        return code;
    }
    if (want->mem_id != 0 && want->mem_id != port->mem_id) {
        return -EINVAL;
    }
    if (port->fds == 0 && port->host_rings > 0 && want->host_rx_rings > 0) {
        port->host_rings = want->host_rx_rings;
    }
    file->flags = want->flags;
    file->region = port->mem_id - 1u;
    code = bind_rings(file, port, want);
    code = code != 0 ? code : take_rings(file, port);
    if (code != 0) {
        return code;
    }
    for (file->if_object = 0; fake->if_used[file->region][file->if_object]; file->if_object++) {
    }
    fake->if_used[file->region][file->if_object] = 1;
    file->port = (uint32_t)(port - fake->port) + 1;
    port->fds++;
    fill_if(file, port);
    answer(want, file, port);
    grant_extra(file, want);
    return 0;
}

static int do_info(const struct nm_req_header *header)
{
    struct nm_req_port_info *info = (struct nm_req_port_info *)(uintptr_t)header->body;
    struct nm_req_register want = {.tx_slots = info->tx_slots,
                                   .rx_slots = info->rx_slots,
                                   .tx_rings = info->tx_rings,
                                   .rx_rings = info->rx_rings,
                                   .mem_id = info->mem_id};
    struct fake_file file = {0};
    bool existed = fake_find(header->name);
    int code = -ENXIO;
    struct fake_port *port = fake_find_or_make(header->name, &want, &code);

    if (!port) {
        return code;
    }
    file.region = port->mem_id - 1u;
    answer(&want, &file, port);
    *info = (struct nm_req_port_info){.memsize = want.memsize,
                                      .tx_slots = want.tx_slots,
                                      .rx_slots = want.rx_slots,
                                      .tx_rings = want.tx_rings,
                                      .rx_rings = want.rx_rings,
                                      .host_tx_rings = want.host_tx_rings,
                                      .host_rx_rings = want.host_rx_rings,
                                      .mem_id = want.mem_id};
    if (!existed) {
        fake_port_release(port);
    }
    return 0;
}

static int control(struct fake_file *file, const struct nm_req_header *header)
{
    if (header->version != NM_API || header->reserved != 0 || header->body == 0) {
        return -EINVAL;
    }
    switch (header->reqtype) {
    case NM_REQ_REGISTER:
        return do_register(file, header);
    case NM_REQ_PORT_INFO_GET:
        return do_info(header);
    default:
        return -EINVAL;
    }
}

static int sync_all(const struct fake_file *file, enum fake_dir dir)
{
    struct fake_port *port;
    int code = 0;

    if (file->port == 0) {
        return -ENXIO;
    }
    port = &fake->port[file->port - 1];
    for (uint32_t i = file->first[dir]; i < file->last[dir]; i++) {
        if (port->kring[dir][i].stopped) {
            code = -EIO;
        } else {
            fake_sync(port, dir, i);
        }
    }
    return code;
}

/* As in a kernel, a kill waits until the call has returned. */
static int fake_ioctl(int fd, unsigned long request, void *arg)
{
    struct fake_file *file = &fake->file[fd];
    int code = -EINVAL;

    __atomic_store_n(&fake->in_kernel, 1, __ATOMIC_SEQ_CST);
    if (request == NM_IOC_TXSYNC) {
        code = sync_all(file, FAKE_TX);
    } else if (request == NM_IOC_RXSYNC) {
        code = sync_all(file, FAKE_RX);
    } else if (request == NM_IOC_CTRL) {
        code = fails() ? fake->fail_code : control(file, arg);
    }
    __atomic_store_n(&fake->in_kernel, 0, __ATOMIC_SEQ_CST);
    return code;
}

static int fake_map(int fd, size_t bytes, void **base)
{
    if (fails()) {
        return fake->fail_code;
    }
    if (fake->file[fd].port == 0 || bytes > fake_region_bytes()) {
        return -EINVAL;
    }
    *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, region_fd,
                 (off_t)(fake->file[fd].region * fake_region_bytes()));
    if (*base == MAP_FAILED) {
        return -errno;
    }
    fake->mappings++;
    return 0;
}

static void fake_unmap(void *base, size_t bytes)
{
    munmap(base, bytes);
    fake->mappings--;
}

/* The events asked for that a ring has: slots that the user has not looked at. */
static int ready(const struct fake_file *file, short events)
{
    static const short wanted[] = {[FAKE_RX] = POLLIN, [FAKE_TX] = POLLOUT};
    const struct fake_port *port = &fake->port[file->port - 1];
    int found = 0;

    for (int dir = FAKE_RX; dir <= FAKE_TX; dir++) {
        for (uint32_t i = file->first[dir]; i < file->last[dir]; i++) {
            const struct nm_ring *ring = fake_ring(&port->kring[dir][i]);

            found |= ring->cur != ring->tail ? wanted[dir] : 0;
        }
    }
    return found & events;
}

static int fake_poll(int fd, short events, int timeout_ms)
{
    const struct fake_file *file = &fake->file[fd];

    (void)timeout_ms;
    if (file->port == 0) {
        return POLLERR;
    }
    if ((events & POLLOUT) || !(file->flags & NM_REG_NO_TX_POLL)) {
        sync_all(file, FAKE_TX);
    }
    return sync_all(file, FAKE_RX) == 0 ? ready(file, events) : POLLERR;
}

static bool fake_exists(const char *iface)
{
    return fake_find(iface) != NULL || fake_is_base(iface);
}

static int fake_link(const char *iface, struct netmap_link *link)
{
    const struct fake_port *port = fake_find(iface);

    if (fake->carrier_after > 0) {
        fake->carrier_after--;
        fake->link.running = fake->carrier_after == 0;
    }
    *link = fake->link;
    link->running &= !port || !port->down;
    return 0;
}

static int fake_promiscuous(const char *iface)
{
    int fd = fake_open();

    (void)iface;
    fake->promiscuous = true;
    return fd;
}

static int fake_parameter(const char *name, uint64_t *value)
{
    if (strcmp(name, "ring_curr_size") == 0) {
        *value = fake->ring_size;
    } else if (strcmp(name, "ring_num") == 0) {
        *value = FAKE_RING_OBJECTS;
    } else if (strcmp(name, "if_size") == 0) {
        *value = FAKE_IF_BYTES;
    } else if (strcmp(name, "if_num") == 0) {
        *value = FAKE_IF_OBJECTS;
    } else if (strcmp(name, "buf_num") == 0) {
        *value = FAKE_BUFS;
    } else if (strcmp(name, "buf_size") == 0) {
        *value = FAKE_BUF_SIZE;
    } else if (strcmp(name, "admode") == 0) {
        *value = fake->admode;
    } else {
        return -ENOENT;
    }
    return 0;
}

static int fake_both(int fd, int other)
{
    (void)fd;
    (void)other;
    return eventfd(0, EFD_CLOEXEC);
}

static void fake_sleep_us(uint32_t us)
{
    (void)us;
}

const struct netmap_kernel fake_kernel = {
    .open = fake_open,
    .close = fake_close,
    .ioctl = fake_ioctl,
    .map = fake_map,
    .unmap = fake_unmap,
    .poll = fake_poll,
    .exists = fake_exists,
    .link = fake_link,
    .promiscuous = fake_promiscuous,
    .parameter = fake_parameter,
    .both = fake_both,
    .sleep_us = fake_sleep_us,
};
