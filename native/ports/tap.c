/* Opening rings on a TAP interface, and the operations of a port; see tap.h. */
#include "ports/tap.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ports/backends.h"

static int send_frame(const struct port *port, const struct iovec *iov, int n)
{
    ssize_t sent = n == 1 ? write(port->wait_fd, iov[0].iov_base, iov[0].iov_len)
                          : writev(port->wait_fd, iov, n);

    return sent >= 0 ? 0 : -errno;
}

static int tap_tx_sync(struct port *port, uint64_t now_us)
{
    return framewise_tx_sync(port, &tap_shared(port)->tx, send_frame, now_us);
}

static int tap_sleep_arm(struct port *port)
{
    const struct tap_shared *shared = tap_shared(port);

    return shared->gone || shared->tx.slot != port->tx->head || nm_ring_space(port->rx) > 0;
}

static void tap_sleep_disarm(struct port *port)
{
    (void)port; /* the queue's descriptor is readable while frames are there */
}

static int tap_recover(struct port *port)
{
    tap_rx_recover(port);
    framewise_tx_recover(port, &tap_shared(port)->tx);
    return 0;
}

static const struct port_ops tap_port_ops = {
    .backend = "tap",
    .rx_sync = tap_rx_sync,
    .tx_sync = tap_tx_sync,
    .sleep_arm = tap_sleep_arm,
    .sleep_disarm = tap_sleep_disarm,
    .recover = tap_recover,
};

/* A TAP of one queue: the descriptor is in struct tap_device, for feeder and workers alike. */
struct single {
    struct tap_device *tap;
    uint8_t frame[PORT_VNET_HDR_LEN + FRAMEWISE_FRAME_MAX]; /* the feeder's own */
};

static int single_receive(void *source, struct vnet_hdr *hdr, const uint8_t **frame)
{
    struct single *single = source;
    ssize_t len = read(single->tap->ring[0].fd, single->frame, sizeof(single->frame));

    if (len < 0) {
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    }
    if (len <= PORT_VNET_HDR_LEN) { /* no frame; below 0 the device were gone */
        return 0;
    }
    memcpy(hdr, single->frame, sizeof(*hdr));
    *frame = single->frame + sizeof(*hdr);
    return (int)len - PORT_VNET_HDR_LEN;
}

static int single_send(const struct port *port, const struct iovec *iov, int n)
{
    const struct fed_ring *ring = port->priv;
    const struct single *single = ring->source;

    return writev(single->tap->ring[0].fd, iov, n) >= 0 ? 0 : -errno;
}

static int single_fd(void *source)
{
    const struct single *single = source;

    return single->tap->ring[0].fd;
}

static void close_ring(struct tap_ring *ring)
{
    swring_destroy(&ring->rings);
    if (ring->fd >= 0) {
        close(ring->fd);
    }
    ring->fd = -1;
}

static void tap_close(struct device *device)
{
    struct tap_device *tap = device->priv;

    if (!tap) {
        return;
    }
    feeder_close(&tap->feeder);
    free(tap->feeder.source.source);
    for (uint32_t i = 0; i < PORT_RINGS_MAX; i++) {
        close_ring(&tap->ring[i]);
    }
    if (tap->lock_fd >= 0) {
        close(tap->lock_fd);
    }
    free(tap);
    device->priv = NULL;
}

static void tap_keep_only(struct device *device, uint32_t ring_id)
{
    struct tap_device *tap = device->priv;

    if (tap->single) {
        feeder_keep_only(&tap->feeder, device, ring_id);
        return;
    }
    for (uint32_t i = 0; i < tap->rings; i++) {
        if (i != ring_id) {
            close_ring(&tap->ring[i]);
            device->ports[i] = (struct port){.wait_fd = -1};
        }
    }
}

static int tap_event(struct device *device)
{
    struct tap_device *tap = device->priv;

    return tap->single ? feeder_event(&tap->feeder) : -ENOTSUP;
}

/* The interface's own MAC is the host's; ours is next to it, so that it stays when the host's does.
 */
static void set_mac(struct device *device, const struct tap_device *tap,
                    const struct device_config *config)
{
    static const uint8_t none[6];

    if (memcmp(config->mac, none, sizeof(none)) != 0) {
        memcpy(device->mac, config->mac, sizeof(device->mac));
        return;
    }
    memcpy(device->mac, tap->link.mac, sizeof(device->mac));
    device->mac[0] = (uint8_t)((device->mac[0] | 0x02) & ~0x01);
    device->mac[5] ^= 0x80;
}

static int open_ring(struct device *device, uint32_t index, const struct device_config *config)
{
    struct tap_device *tap = device->priv;
    struct tap_ring *ring = &tap->ring[index];
    struct tap_shared *shared;
    int code = swring_create(&ring->rings, config->slots ? config->slots : FRAMEWISE_DEFAULT_SLOTS,
                             config->buf_size ? config->buf_size : FRAMEWISE_DEFAULT_BUF,
                             sizeof(struct tap_shared));

    if (code != 0) {
        return code;
    }
    shared = ring->rings.extra;
    ring->rings.rx->ringid = (uint16_t)index;
    ring->rings.tx->ringid = (uint16_t)index;
    device->ports[index] = (struct port){.ops = &tap_port_ops,
                                         .rx = ring->rings.rx,
                                         .tx = ring->rings.tx,
                                         .counters = &shared->counters,
                                         .shared = shared,
                                         .priv = ring,
                                         .ring_id = index,
                                         .caps = PORT_CAP_VNET_HDR | PORT_CAP_RX_GSO |
                                                 PORT_CAP_TX_CSUM | PORT_CAP_TX_GSO,
                                         .wait_fd = ring->fd};
    return 0;
}

static int open_single(struct device *device, const struct device_config *config, char *error)
{
    struct tap_device *tap = device->priv;
    struct single *single = calloc(1, sizeof(*single));
    int fd = tap->ring[0].fd;
    int code;

    if (!single) {
        return framewise_refuse(error, tap->spec, "out of memory", -ENOMEM);
    }
    single->tap = tap;
    tap->feeder.source = (struct feeder_source){.spec = tap->spec,
                                                .receive = single_receive,
                                                .send = single_send,
                                                .fd = single_fd,
                                                .source = single};
    tap->feeder.source.fds.bits[fd / 64] |= (uint64_t)1 << fd % 64;
    code = feeder_open(&tap->feeder, device, config, error);
    for (uint32_t i = 0; i < device->rings && code == 0; i++) {
        device->ports[i].caps |= PORT_CAP_RX_GSO | PORT_CAP_TX_CSUM | PORT_CAP_TX_GSO;
    }
    return code;
}

static int open_rings(struct device *device, const struct device_config *config, char *error)
{
    struct tap_device *tap = device->priv;

    if (tap->single) {
        return open_single(device, config, error);
    }
    for (uint32_t i = 0; i < tap->rings; i++) {
        int code = open_ring(device, i, config);

        if (code != 0) {
            return framewise_refuse(error, tap->spec,
                                    "not enough memory for its rings: use fewer rings or slots",
                                    code);
        }
    }
    device->rings = tap->rings;
    return 0;
}

static void describe(struct device *device)
{
    const struct tap_device *tap = device->priv;
    char queues[64];

    snprintf(queues, sizeof(queues),
             tap->single ? "one queue, fed to %u rings by flow hash"
                         : "%u queues, each flow on the last it was sent on",
             tap->rings);
    snprintf(device->banner, sizeof(device->banner),
             "TAP, %s: %s, checksums and super-segments of the host's kernel",
             tap->created ? "made for this run" : "found", queues);
}

static struct tap_device *tap_new(const struct device *device)
{
    struct tap_device *tap = calloc(1, sizeof(*tap));

    if (!tap) {
        return NULL;
    }
    memcpy(tap->spec, device->name, sizeof(tap->spec));
    tap->lock_fd = -1;
    for (uint32_t i = 0; i < PORT_RINGS_MAX; i++) {
        tap->ring[i].fd = -1;
    }
    return tap;
}

static int tap_open(struct device *device, const char *name, const struct device_config *config,
                    char *error)
{
    struct tap_device *tap = tap_new(device);
    int code;

    (void)name;
    if (!tap) {
        return framewise_refuse(error, device->name, "out of memory", -ENOMEM);
    }
    device->priv = tap;
    tap->rings = config->rings ? config->rings : 1;
    code = framewise_check(config, tap->spec, error);
    code = code != 0 ? code : tap_link_open(tap, config, error);
    if (code == 0) {
        device->mtu = config->mtu ? config->mtu : tap->link.mtu;
        set_mac(device, tap, config);
        code = open_rings(device, config, error);
    }
    if (code != 0) {
        tap_close(device);
        return code;
    }
    describe(device);
    return 0;
}

const struct device_ops tap_device_ops = {
    .backend = "tap",
    .open = tap_open,
    .event = tap_event,
    .keep_only = tap_keep_only,
    .close = tap_close,
};
