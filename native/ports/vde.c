/*
 * vde: rings on a port of a VDE switch, through libvdeplug opened at run time. The port is one
 * queue: a feeder reads it for all rings (feeder.h), workers send on the connection they inherit.
 * The few functions below are our own declarations of the library's documented interface.
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/wire.h"
#include "ports/backends.h"
#include "ports/feeder.h"

enum {
    INTERFACE_VERSION = 1, /* of libvdeplug, since vde2 */
    MTU_MIN = 576,
    /* A vde_switch keeps so much of a frame and cuts the rest off, without a word. */
    SWITCH_FRAME = ETH_HDR_LEN + 1504,
    VLAN_LEN = 4,
    MTU_OTHER_MAX = 9000, /* of what else libvdeplug reaches by a URL */
};

static const uint64_t mac_key[2] = {0x7664652d6d616331u, 0x7368617264737276u};
static const char how_to_get[] = "`apt install libvdeplug2`";

/* struct vde_open_args */
struct vde_arguments {
    int port;
    char *group;
    mode_t mode;
};

/* VDECONN: opaque. */
struct vde_connection;

struct vde_lib {
    void *object;
    struct vde_connection *(*open)(char *url, char *description, int version,
                                   struct vde_arguments *);
    ssize_t (*recv)(struct vde_connection *, void *, size_t, int flags);
    ssize_t (*send)(struct vde_connection *, const void *, size_t, int flags);
    int (*datafd)(struct vde_connection *);
    int (*ctlfd)(struct vde_connection *);
    int (*close)(struct vde_connection *);
};

struct vde_device {
    char spec[PORT_NAME_MAX];
    struct vde_lib lib;
    struct vde_connection *connection;
    struct feeder feeder;
    uint32_t longest;                   /* frame that the other side passes whole */
    uint64_t cut;                       /* the feeder's: frames that came shorter than they were */
    uint8_t frame[FRAMEWISE_FRAME_MAX]; /* the feeder's own */
};

static int refuse(const struct vde_device *vde, const char *what, int code, char *error)
{
    return framewise_refuse(error, vde->spec, what, code);
}

/* True when all functions are there. */
static bool find_symbols(struct vde_lib *lib)
{
    static const char *const names[] = {"vde_open_real", "vde_recv",  "vde_send",
                                        "vde_datafd",    "vde_ctlfd", "vde_close"};
    void *address[sizeof(names) / sizeof(names[0])];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        address[i] = dlsym(lib->object, names[i]);
        if (!address[i]) {
            return false;
        }
    }
    memcpy(&lib->open, &address[0], sizeof(address[0]));
    memcpy(&lib->recv, &address[1], sizeof(address[1]));
    memcpy(&lib->send, &address[2], sizeof(address[2]));
    memcpy(&lib->datafd, &address[3], sizeof(address[3]));
    memcpy(&lib->ctlfd, &address[4], sizeof(address[4]));
    memcpy(&lib->close, &address[5], sizeof(address[5]));
    return true;
}

static int open_lib(struct vde_device *vde, char *error)
{
    static const char *const names[] = {"libvdeplug.so.2", "libvdeplug.so.3", "libvdeplug.so"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && !vde->lib.object; i++) {
        vde->lib.object = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    }
    if (vde->lib.object && find_symbols(&vde->lib)) {
        return 0;
    }
    snprintf(error, PORT_ERROR_MAX, "%s: unavailable: this machine has no %s: %s", vde->spec,
             vde->lib.object ? "libvdeplug of interface 1" : "libvdeplug", how_to_get);
    return -EOPNOTSUPP;
}

/* The switch cuts what is longer than its buffers: IPv4 says how long it was. */
static bool was_cut(const struct vde_device *vde, size_t len)
{
    size_t at = ETH_HDR_LEN;

    if (len < vde->longest) {
        return false;
    }
    if (ntohs(load_u16(vde->frame + at - 2)) == ETH_P_8021Q) {
        at += VLAN_LEN;
    }
    return ntohs(load_u16(vde->frame + at - 2)) == ETH_P_IP &&
           at + ntohs(load_u16(vde->frame + at + 2)) > len;
}

static uint64_t count_cut(void *source)
{
    const struct vde_device *vde = source;

    return vde->cut;
}

static ssize_t read_one(struct vde_device *vde)
{
    return vde->lib.recv(vde->connection, vde->frame, sizeof(vde->frame), MSG_DONTWAIT);
}

static bool hung_up(const struct vde_device *vde)
{
    struct pollfd control = {.fd = vde->lib.ctlfd(vde->connection), .events = POLLIN};
    char drain[64];

    return poll(&control, 1, 0) == 1 && recv(control.fd, drain, sizeof(drain), MSG_DONTWAIT) == 0;
}

/* What the switch sent before it hung up may have come after the first look. */
static int receive(void *source, struct vnet_hdr *hdr, const uint8_t **frame)
{
    struct vde_device *vde = source;
    ssize_t len = read_one(vde);
    bool over = len <= 0 && hung_up(vde);

    (void)hdr;
    len = over ? read_one(vde) : len;
    *frame = vde->frame;
    if (len > 0 && was_cut(vde, (size_t)len)) {
        vde->cut++;
        return 1; /* too short for a frame: the feeder goes on */
    }
    if (len > 0) {
        return (int)len;
    }
    if (over) {
        return -ENODEV;
    }
    return len < 0 && errno != EAGAIN && errno != EINTR ? -errno : 0;
}

static int send_frame(const struct port *port, const struct iovec *iov, int n)
{
    const struct fed_ring *ring = port->priv;
    struct vde_device *vde = ring->source;
    uint8_t whole[FRAMEWISE_FRAME_MAX + PORT_VNET_HDR_LEN];
    const uint8_t *frame = n > 1 ? whole : iov[0].iov_base;
    size_t len = n > 1 ? framewise_join(iov, n, whole, sizeof(whole)) : iov[0].iov_len;
    ssize_t sent;

    if (len <= PORT_VNET_HDR_LEN || len - PORT_VNET_HDR_LEN > vde->longest) {
        return -EMSGSIZE;
    }
    if (framewise_whole(iov) != 0) {
        return -EOPNOTSUPP;
    }
    errno = 0;
    sent = vde->lib.send(vde->connection, frame + PORT_VNET_HDR_LEN, len - PORT_VNET_HDR_LEN,
                         MSG_DONTWAIT);
    if (sent > 0) {
        return 0;
    }
    return errno != 0 ? -errno : -EAGAIN;
}

static int poll_fd(void *source)
{
    struct vde_device *vde = source;

    return vde->lib.datafd(vde->connection);
}

/* The switch never closed the connection: the next feeder goes on where the dead one stopped. */
static int connect_switch(struct vde_device *vde, char *error)
{
    char url[PORT_NAME_MAX];
    char description[] = "shardserver";
    struct feeder_fds before;
    struct stat status;
    int fd;

    snprintf(url, sizeof(url), "%s", vde->spec + strlen("vde:"));
    if (!strstr(url, "://") && stat(url, &status) != 0) {
        return refuse(vde, "no switch has that path: start one with `vde_switch -d -s PATH`",
                      -errno, error);
    }
    feeder_fds_now(&before);
    errno = 0;
    vde->connection = vde->lib.open(url, description, INTERFACE_VERSION, NULL);
    if (!vde->connection) {
        return refuse(vde,
                      "the switch does not take the connection: look whether vde_switch runs, and "
                      "at the rights of its sockets (vde_switch -m 660 -g GROUP)",
                      errno != 0 ? -errno : -ECONNREFUSED, error);
    }
    feeder_fds_since(&vde->feeder.source.fds, &before);
    fd = vde->lib.datafd(vde->connection);
    if (fd < 0 || fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0) {
        return refuse(vde, "its connection has no descriptor to wait on", -EOPNOTSUPP, error);
    }
    return 0;
}

static void vde_device_close(struct device *device)
{
    struct vde_device *vde = device->priv;

    if (!vde) {
        return;
    }
    feeder_close(&vde->feeder);
    if (vde->connection) {
        vde->lib.close(vde->connection);
    }
    if (vde->lib.object) {
        dlclose(vde->lib.object);
    }
    free(vde);
    device->priv = NULL;
}

static void vde_keep_only(struct device *device, uint32_t ring_id)
{
    struct vde_device *vde = device->priv;

    feeder_keep_only(&vde->feeder, device, ring_id);
}

static int vde_event(struct device *device)
{
    struct vde_device *vde = device->priv;

    return feeder_event(&vde->feeder);
}

/* A MAC of our own that is the same after a restart: one server a switch, or --mac. */
static int set_identity(struct device *device, const struct vde_device *vde,
                        const struct device_config *config, char *error)
{
    static const uint8_t none[6];
    uint64_t hash = siphash24(mac_key, vde->spec, strlen(vde->spec));

    uint32_t most = vde->longest - ETH_HDR_LEN - VLAN_LEN;

    if (config->mtu != 0 && (config->mtu < MTU_MIN || config->mtu > most)) {
        return refuse(vde,
                      "the MTU asked for is below 576, or above 1500, which is what a vde_switch "
                      "passes whole (9000 behind a URL)",
                      -EINVAL, error);
    }
    device->mtu = config->mtu ? config->mtu : ETH_DATA_LEN;
    memcpy(device->mac, &hash, sizeof(device->mac));
    device->mac[0] = (uint8_t)((device->mac[0] | 0x02) & ~0x01);
    if (memcmp(config->mac, none, sizeof(none)) != 0) {
        memcpy(device->mac, config->mac, sizeof(device->mac));
    }
    return 0;
}

static struct vde_device *vde_new(const struct device *device)
{
    struct vde_device *vde = calloc(1, sizeof(*vde));

    if (!vde) {
        return NULL;
    }
    memcpy(vde->spec, device->name, sizeof(vde->spec));
    vde->longest = strstr(vde->spec, "://") ? ETH_HDR_LEN + VLAN_LEN + MTU_OTHER_MAX : SWITCH_FRAME;
    vde->feeder.source = (struct feeder_source){.spec = vde->spec,
                                                .receive = receive,
                                                .send = send_frame,
                                                .lost = count_cut,
                                                .fd = poll_fd,
                                                .source = vde};
    return vde;
}

static int vde_open(struct device *device, const char *name, const struct device_config *config,
                    char *error)
{
    struct vde_device *vde = vde_new(device);
    int code;

    (void)name;
    if (!vde) {
        return framewise_refuse(error, device->name, "out of memory", -ENOMEM);
    }
    device->priv = vde;
    code = framewise_check(config, vde->spec, error);
    code = code != 0 ? code : set_identity(device, vde, config, error);
    code = code != 0 ? code : open_lib(vde, error);
    code = code != 0 ? code : connect_switch(vde, error);
    code = code != 0 ? code : feeder_open(&vde->feeder, device, config, error);
    if (code != 0) {
        vde_device_close(device);
        return code;
    }
    snprintf(device->banner, sizeof(device->banner),
             "a port of a VDE switch, fed to %u rings by flow hash", device->rings);
    return 0;
}

const struct device_ops vde_device_ops = {
    .backend = "vde",
    .open = vde_open,
    .event = vde_event,
    .keep_only = vde_keep_only,
    .close = vde_device_close,
};
