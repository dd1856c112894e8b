/* One descriptor of /dev/netmap: registration and mapping; see netmap.h. */
#include <errno.h>
#include <string.h>

#include "ports/netmap.h"

static struct nm_req_header header_of(const char *port, uint16_t reqtype, const void *body)
{
    struct nm_req_header header = {
        .version = NM_API, .reqtype = reqtype, .body = (uint64_t)(uintptr_t)body};

    memcpy(header.name, port, strnlen(port, sizeof(header.name) - 1));
    return header;
}

int netmap_file_info(const struct netmap_kernel *kernel, const struct netmap_name *name,
                     struct nm_req_port_info *info)
{
    struct nm_req_header header = header_of(name->port, NM_REQ_PORT_INFO_GET, info);
    int fd = kernel->open();
    int code;

    if (fd < 0) {
        return fd;
    }
    *info = (struct nm_req_port_info){.tx_slots = name->conf.tx_slots,
                                      .rx_slots = name->conf.rx_slots,
                                      .tx_rings = (uint16_t)name->conf.tx_rings,
                                      .rx_rings = (uint16_t)name->conf.rx_rings,
                                      .host_tx_rings = (uint16_t)name->conf.host_tx_rings,
                                      .host_rx_rings = (uint16_t)name->conf.host_rx_rings,
                                      .mem_id = name->mem_id};
    code = kernel->ioctl(fd, NM_IOC_CTRL, &header);
    kernel->close(fd);
    return code;
}

int netmap_file_open(struct netmap_file *file, const struct netmap_name *name, uint32_t mode,
                     uint32_t ring, uint64_t flags)
{
    struct nm_req_register *body = &file->granted;
    struct nm_req_header header = header_of(name->port, NM_REQ_REGISTER, body);
    int code;

    *body = (struct nm_req_register){.tx_slots = name->conf.tx_slots,
                                     .rx_slots = name->conf.rx_slots,
                                     .tx_rings = (uint16_t)name->conf.tx_rings,
                                     .rx_rings = (uint16_t)name->conf.rx_rings,
                                     .host_tx_rings = (uint16_t)name->conf.host_tx_rings,
                                     .host_rx_rings = (uint16_t)name->conf.host_rx_rings,
                                     .mem_id = name->mem_id,
                                     .ringid = (uint16_t)ring,
                                     .mode = mode,
                                     .extra_bufs = name->conf.extra_bufs,
                                     .flags = flags};
    file->fd = file->kernel->open();
    if (file->fd < 0) {
        return file->fd;
    }
    code = file->kernel->ioctl(file->fd, NM_IOC_CTRL, &header);
    if (code != 0) {
        netmap_file_close(file);
    }
    return code;
}

/* The netmap_if and its ring offsets must lie in what was mapped: the kernel's word, checked once.
 */
static bool layout_valid(const struct netmap_file *file)
{
    const struct nm_if *nifp = file->nifp;
    uint64_t rings =
        (uint64_t)nifp->tx_rings + nifp->host_tx_rings + nifp->rx_rings + nifp->host_rx_rings;
    int64_t start = (int64_t)file->granted.offset;

    if (rings * sizeof(int64_t) > file->map_bytes - file->granted.offset - sizeof(*nifp)) {
        return false;
    }
    for (uint64_t i = 0; i < rings; i++) {
        int64_t at = nifp->ring_ofs[i];

        if (at != 0 && (at < -start ||
                        at > (int64_t)file->map_bytes - start - (int64_t)sizeof(struct nm_ring))) {
            return false;
        }
    }
    return true;
}

int netmap_file_map(struct netmap_file *file)
{
    void *base = NULL;
    int code;

    if (file->granted.memsize < sizeof(struct nm_if) ||
        file->granted.offset > file->granted.memsize - sizeof(struct nm_if)) {
        return -EPROTO;
    }
    code = file->kernel->map(file->fd, file->granted.memsize, &base);
    if (code != 0) {
        return code;
    }
    file->map = base;
    file->map_bytes = file->granted.memsize;
    file->nifp = (struct nm_if *)(void *)(file->map + file->granted.offset);
    return layout_valid(file) ? 0 : -EPROTO;
}

void netmap_file_close(struct netmap_file *file)
{
    if (file->map) {
        file->kernel->unmap(file->map, file->map_bytes);
    }
    if (file->fd >= 0) {
        file->kernel->close(file->fd);
    }
    file->map = NULL;
    file->nifp = NULL;
    file->fd = -1;
}

uint32_t netmap_file_bufs(const struct netmap_file *file, const struct nm_ring *ring)
{
    const uint8_t *end = file->map + file->map_bytes;
    const uint8_t *first = (const uint8_t *)ring + ring->buf_ofs;
    uint64_t n;

    if (ring->nr_buf_size == 0 || first < file->map || first >= end) {
        return 0;
    }
    n = (uint64_t)(end - first) / ring->nr_buf_size;
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

static struct nm_ring *find_ring(const struct netmap_file *file, uint32_t first, uint32_t n)
{
    for (uint32_t i = first; i < first + n; i++) {
        int64_t at = file->nifp->ring_ofs[i];

        if (at != 0) {
            return (struct nm_ring *)(void *)((uint8_t *)file->nifp + at);
        }
    }
    return NULL;
}

struct nm_ring *netmap_file_tx(const struct netmap_file *file)
{
    return find_ring(file, 0, file->nifp->tx_rings + file->nifp->host_tx_rings);
}

struct nm_ring *netmap_file_rx(const struct netmap_file *file)
{
    return find_ring(file, file->nifp->tx_rings + file->nifp->host_tx_rings,
                     file->nifp->rx_rings + file->nifp->host_rx_rings);
}
