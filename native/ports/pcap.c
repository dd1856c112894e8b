/*
 * pcap: rings on whatever libpcap can capture from, and a capture file as a source of frames.
 *
 * "pcap:IFACE" is one libpcap handle in immediate mode. Its place in the kernel's ring is in the
 * library's own memory, so no worker reads it: a feeder does (feeder.h), and spreads the flows.
 * Workers transmit by pcap_inject() on the handle that they inherit.
 *
 * libpcap does not say whether a checksum was finished. A local kernel, and a card's GRO, leave the
 * pseudo-header's sum in its place, and just that is looked for; it is as sure as a checksum.
 *
 * "pcap:FILE" (a name with a slash) replays a capture, pcap or pcapng, as fast as its rings take
 * it, then ends; what is sent to it is dropped and counted.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/wire.h"
#include "ports/backends.h"
#include "ports/feeder.h"
#include "ports/host_drop.h"
#include "ports/packet.h"
#include "ports/pcap_lib.h"
#include "ports/socket_filter.h"
#include "ports/unfinished.h"

enum {
    SNAPLEN = FRAMEWISE_FRAME_MAX,
    BUFFER_BYTES = 64 << 20,
    TIMEOUT_MS = 1, /* without effect in immediate mode, but it must not be 0 everywhere */
    ERROR_PCAP = PCAP_ERROR_BYTES,
    WRITER_MS = 5000,
};

struct pcap_device {
    char spec[PORT_NAME_MAX];
    struct pcap_lib lib;
    struct pcap_handle *handle;
    struct packet_link link;
    bool file;
    bool promiscuous;
    uint32_t filter_len;
    struct sock_filter filter[SOCKET_FILTER_MAX];
    int lock_fd;
    int drop_fd;  /* host_drop.h; negative: none */
    uint64_t cut; /* frames of which the capture holds but a part */
    struct feeder feeder;
};

static int refuse(const struct pcap_device *pcap, const char *what, int code, char *error)
{
    return framewise_refuse(error, pcap->spec, what, code);
}

static int set_filter(struct pcap_device *pcap)
{
    struct pcap_program program = {pcap->filter_len, pcap->filter};

    return pcap->lib.setfilter(pcap->handle, &program) == 0 ? 0 : -EIO;
}

/* The words of the library, for the sentence about a refusal. */
static int refuse_activation(struct pcap_device *pcap, int status, char *error)
{
    char *words = pcap->lib.geterr(pcap->handle);
    const char *name = pcap->spec + strlen("pcap:");
    const char *next = "see `ip link`";
    int code = -ENODEV;

    if (status == -8 || status == -11) { /* PCAP_ERROR_PERM_DENIED, _PROMISC_PERM_DENIED */
        next = "run as root or with CAP_NET_RAW, or enter a namespace with `unshare -Urn`";
        code = -EPERM;
    } else if (status == -9) { /* PCAP_ERROR_IFACE_NOT_UP */
        next = "bring it up with `ip link set DEV up`";
        code = -ENETDOWN;
    }
    snprintf(error, PORT_ERROR_MAX, "pcap:%s: libpcap refuses it: %.100s: %s", name,
             words && words[0] ? words : pcap->lib.statustostr(status), next);
    return code;
}

static int configure(struct pcap_device *pcap)
{
    const struct pcap_lib *lib = &pcap->lib;
    int failed = lib->set_snaplen(pcap->handle, SNAPLEN);

    failed |= lib->set_promisc(pcap->handle, pcap->promiscuous);
    failed |= lib->set_timeout(pcap->handle, TIMEOUT_MS);
    failed |= lib->set_immediate_mode(pcap->handle, 1);
    failed |= lib->set_buffer_size(pcap->handle, BUFFER_BYTES);
    return failed ? -EIO : 0;
}

/*
 * A queueing discipline without a carrier swallows what it is given and says that it was sent. Past
 * it, the kernel says that it cannot.
 */
static void pass_by_the_queue(const struct pcap_device *pcap)
{
    int one = 1;

    setsockopt(pcap->lib.get_selectable_fd(pcap->handle), SOL_PACKET, PACKET_QDISC_BYPASS, &one,
               sizeof(one));
}

static int settle(struct pcap_device *pcap, char *error)
{
    char words[ERROR_PCAP] = "";

    if (pcap->lib.datalink(pcap->handle) != PCAP_LINK_ETHERNET) {
        return refuse(pcap, "not an Ethernet interface", -EINVAL, error);
    }
    if (pcap->lib.setnonblock(pcap->handle, 1, words) != 0 ||
        pcap->lib.setdirection(pcap->handle, PCAP_DIRECTION_IN) != 0 || set_filter(pcap) != 0) {
        return refuse(pcap, "libpcap cannot receive from it without waiting", -EIO, error);
    }
    pass_by_the_queue(pcap);
    return 0;
}

/* A handle that receives, in pcap->handle. */
static int open_live(struct pcap_device *pcap, char *error)
{
    char words[ERROR_PCAP] = "";
    struct feeder_fds before;
    int status;
    int code;

    feeder_fds_now(&before);
    pcap->handle = pcap->lib.create(pcap->link.name, words);
    if (!pcap->handle || configure(pcap) != 0) {
        return refuse(pcap, "libpcap cannot make a handle for it", -ENOMEM, error);
    }
    status = pcap->lib.activate(pcap->handle);
    if (status < 0) {
        return refuse_activation(pcap, status, error);
    }
    code = settle(pcap, error);
    feeder_fds_since(&pcap->feeder.source.fds, &before);
    return code;
}

/*
 * A FIFO that nobody writes would hold the start for ever. A descriptor that keeps it open; -1: it
 * is no FIFO; or -ENXIO with a sentence.
 */
static int await_writer(const struct pcap_device *pcap, const char *path, char *error)
{
    struct pollfd fifo = {.events = POLLIN};
    struct stat file;

    if (stat(path, &file) != 0 || !S_ISFIFO(file.st_mode)) {
        return -1; /* what is wrong with it, libpcap tells */
    }
    fifo.fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fifo.fd < 0 || poll(&fifo, 1, WRITER_MS) > 0) {
        return fifo.fd;
    }
    close(fifo.fd);
    snprintf(error, PORT_ERROR_MAX,
             "%s: nobody wrote to this FIFO within %d s: start the writer first, for example "
             "tcpdump -U -w",
             pcap->spec, WRITER_MS / 1000);
    return -ENXIO;
}

static int open_file(struct pcap_device *pcap, char *error)
{
    const char *path = pcap->spec + strlen("pcap:");
    char words[ERROR_PCAP] = "";
    struct feeder_fds before;
    struct stat file;
    int fifo = await_writer(pcap, path, error);

    if (fifo < -1) {
        return fifo;
    }
    feeder_fds_now(&before);
    pcap->handle = pcap->lib.open_offline(path, words);
    if (fifo >= 0) {
        close(fifo);
    }
    if (!pcap->handle) {
        snprintf(error, PORT_ERROR_MAX,
                 "%s: not a capture that libpcap can read: %.100s: give a pcap or pcapng file",
                 pcap->spec, words);
        return -EINVAL;
    }
    feeder_fds_since(&pcap->feeder.source.fds, &before);
    pcap->feeder.source.blocks = stat(path, &file) != 0 || !S_ISREG(file.st_mode);
    if (pcap->lib.datalink(pcap->handle) != PCAP_LINK_ETHERNET) {
        return refuse(pcap, "the capture is not of Ethernet frames", -EINVAL, error);
    }
    return 0;
}

/* The end of a capture, or of what can be read of it: the words are the library's. */
static int end_of_file(struct pcap_device *pcap, int status)
{
    if (status == PCAP_READ_END) {
        return -ENODATA;
    }
    dprintf(STDERR_FILENO, "%s: the capture is damaged: %.200s\n", pcap->spec,
            pcap->lib.geterr(pcap->handle));
    return -EBADMSG;
}

/* Whole frames only, of a size that the rings take. */
static int next_whole(struct pcap_device *pcap, struct pcap_packet **packet, const uint8_t **frame)
{
    int status = pcap->lib.next_ex(pcap->handle, packet, frame);

    while (status == 1 && ((*packet)->caplen < (*packet)->len || (*packet)->caplen > SNAPLEN ||
                           (*packet)->caplen < ETH_HDR_LEN)) {
        pcap->cut++;
        status = pcap->lib.next_ex(pcap->handle, packet, frame);
    }
    return status;
}

static int receive(void *source, struct vnet_hdr *hdr, const uint8_t **frame)
{
    struct pcap_device *pcap = source;
    struct pcap_packet *packet;
    int status = next_whole(pcap, &packet, frame);

    if (status != 1 && pcap->file) {
        return end_of_file(pcap, status);
    }
    if (status != 1) {
        return status == 0 ? 0 : -ENODEV;
    }
    if (!pcap->file) {
        unfinished_find(*frame, packet->caplen, hdr);
    }
    return (int)packet->caplen;
}

/* pcap_inject() wants one piece: a frame over several slots is put together here. */
static int send_frame(const struct port *port, const struct iovec *iov, int n)
{
    const struct fed_ring *ring = port->priv;
    struct pcap_device *pcap = ring->source;
    uint8_t whole[FRAMEWISE_FRAME_MAX + PORT_VNET_HDR_LEN];
    const uint8_t *frame = n > 1 ? whole : iov[0].iov_base;
    size_t len = n > 1 ? framewise_join(iov, n, whole, sizeof(whole)) : iov[0].iov_len;

    if (pcap->file) {
        return -EROFS;
    }
    if (len <= PORT_VNET_HDR_LEN) {
        return -EMSGSIZE;
    }
    if (framewise_whole(iov) != 0) {
        return -EOPNOTSUPP;
    }
    errno = 0;
    if (pcap->lib.inject(pcap->handle, frame + PORT_VNET_HDR_LEN, len - PORT_VNET_HDR_LEN) >= 0) {
        return 0;
    }
    return errno != 0 ? -errno : -EIO;
}

static int poll_fd(void *source)
{
    struct pcap_device *pcap = source;

    return pcap->file ? -1 : pcap->lib.get_selectable_fd(pcap->handle);
}

static uint64_t lost(void *source)
{
    struct pcap_device *pcap = source;
    struct pcap_counts counts = {0};

    if (!pcap->file && pcap->lib.stats(pcap->handle, &counts) != 0) {
        return 0;
    }
    return pcap->cut + counts.dropped;
}

/* The dead feeder knew where in the kernel's ring it stood, and nobody else: a new ring, then. */
static int reopen(void *source)
{
    struct pcap_device *pcap = source;
    struct pcap_handle *old = pcap->handle;
    char error[PORT_ERROR_MAX];
    int code;

    if (pcap->file) {
        return -EIO; /* where it stood is lost: to begin anew would repeat frames */
    }
    code = open_live(pcap, error);
    if (code != 0) {
        if (pcap->handle && pcap->handle != old) {
            pcap->lib.close(pcap->handle);
        }
        pcap->handle = old;
        return code;
    }
    pcap->lib.close(old);
    return 0;
}

static void pcap_device_close(struct device *device)
{
    struct pcap_device *pcap = device->priv;

    if (!pcap) {
        return;
    }
    feeder_close(&pcap->feeder);
    if (pcap->handle) {
        pcap->lib.close(pcap->handle);
    }
    pcap_lib_close(&pcap->lib);
    if (pcap->lock_fd >= 0) {
        close(pcap->lock_fd);
    }
    if (pcap->drop_fd >= 0) {
        close(pcap->drop_fd);
    }
    free(pcap);
    device->priv = NULL;
}

static void pcap_keep_only(struct device *device, uint32_t ring_id)
{
    struct pcap_device *pcap = device->priv;

    feeder_keep_only(&pcap->feeder, device, ring_id);
}

static int pcap_event(struct device *device)
{
    struct pcap_device *pcap = device->priv;

    return feeder_event(&pcap->feeder);
}

/* The interface as the kernel knows it, in the words of this backend. */
static int find_link(struct pcap_device *pcap, char *error)
{
    char reason[PORT_ERROR_MAX];
    int code = packet_link_find(&pcap->link, pcap->spec + strlen("pcap:"), reason);

    if (code == -ENETDOWN) {
        return refuse(pcap, "the interface is down: bring it up with `ip link set DEV up`", code,
                      error);
    }
    if (code != 0) {
        return refuse(pcap,
                      "no such Ethernet interface in this network namespace, see `ip link`; a "
                      "file's name has a slash: ./NAME",
                      code, error);
    }
    pcap->lock_fd = packet_link_lock(&pcap->link, reason);
    if (pcap->lock_fd < 0) {
        return refuse(pcap, "another server uses this interface: stop it, or take another one",
                      pcap->lock_fd, error);
    }
    return 0;
}

static int set_identity(struct device *device, struct pcap_device *pcap,
                        const struct device_config *config, char *error)
{
    static const uint8_t none[6];
    bool given = memcmp(config->mac, none, sizeof(none)) != 0;
    bool other;

    if (config->mtu != 0 && (config->mtu < 576 || config->mtu > pcap->link.mtu)) {
        return refuse(pcap, "the MTU asked for is below 576 or above the interface's", -EINVAL,
                      error);
    }
    device->mtu = config->mtu ? config->mtu : pcap->link.mtu;
    memcpy(device->mac, given ? config->mac : pcap->link.mac, sizeof(device->mac));
    pcap->filter_len = socket_filter_make(pcap->filter, device->mac, config, false);
    other = memcmp(device->mac, pcap->link.mac, sizeof(device->mac)) != 0;
    pcap->promiscuous = other || config->every_frame;
    device->host_arp = config->take == PORT_TAKE_PORTS;
    if (device->host_arp && other) {
        return refuse(pcap,
                      "--mac with an address that is the host's: its kernel tells everybody the "
                      "card's own",
                      -EADDRNOTAVAIL, error);
    }
    return 0;
}

static int open_source(struct device *device, struct pcap_device *pcap,
                       const struct device_config *config, char *error)
{
    int code;

    if (pcap->file) {
        pcap->link.mtu = FRAMEWISE_FRAME_MAX - ETH_HDR_LEN;
        code = set_identity(device, pcap, config, error);
        device->mtu = config->mtu ? config->mtu : ETH_DATA_LEN;
        return code != 0 ? code : open_file(pcap, error);
    }
    code = find_link(pcap, error);
    code = code != 0 ? code : set_identity(device, pcap, config, error);
    return code != 0 ? code : open_live(pcap, error);
}

static void describe(struct device *device, const struct pcap_device *pcap)
{
    bool own = memcmp(device->mac, pcap->link.mac, sizeof(device->mac)) != 0;

    if (pcap->file) {
        snprintf(device->banner, sizeof(device->banner),
                 "a capture file, read by %.60s, fed to %u rings by flow hash, nothing is sent",
                 pcap->lib.lib_version(), device->rings);
        return;
    }
    snprintf(device->banner, sizeof(device->banner),
             "%.60s: one handle, fed to %u rings by flow hash%s%s", pcap->lib.lib_version(),
             device->rings,
             !pcap->promiscuous ? ""
             : own              ? ", promiscuous for a MAC of its own"
                                : ", promiscuous for every frame",
             pcap->drop_fd >= 0 ? ", the host's stack kept off our frames" : "");
}

static struct pcap_device *pcap_new(const struct device *device)
{
    struct pcap_device *pcap = calloc(1, sizeof(*pcap));

    if (!pcap) {
        return NULL;
    }
    memcpy(pcap->spec, device->name, sizeof(pcap->spec));
    pcap->file = strchr(pcap->spec, '/') != NULL;
    pcap->lock_fd = -1;
    pcap->drop_fd = -1;
    pcap->feeder.source = (struct feeder_source){.spec = pcap->spec,
                                                 .receive = receive,
                                                 .reopen = reopen,
                                                 .send = send_frame,
                                                 .lost = lost,
                                                 .fd = poll_fd,
                                                 .source = pcap,
                                                 .waits = pcap->file};
    return pcap;
}

static int keep_host_off(struct pcap_device *pcap, const struct device_config *config, char *error)
{
    if (pcap->file || config->ip == 0) {
        return 0;
    }
    pcap->drop_fd = host_drop_open(pcap->link.ifindex, config);
    return host_drop_check(pcap->spec, pcap->drop_fd, config, error);
}

static int pcap_open(struct device *device, const char *name, const struct device_config *config,
                     char *error)
{
    struct pcap_device *pcap = pcap_new(device);
    int code;

    (void)name;
    if (!pcap) {
        return framewise_refuse(error, device->name, "out of memory", -ENOMEM);
    }
    device->priv = pcap;
    code = framewise_check(config, pcap->spec, error);
    code = code != 0 ? code : pcap_lib_open(&pcap->lib, pcap->spec, error);
    code = code != 0 ? code : open_source(device, pcap, config, error);
    code = code != 0 ? code : feeder_open(&pcap->feeder, device, config, error);
    if (code != 0) {
        pcap_device_close(device);
        return code;
    }
    for (uint32_t i = 0; i < device->rings; i++) {
        device->ports[i].caps |= PORT_CAP_RX_GSO;
    }
    code = keep_host_off(pcap, config, error);
    if (code != 0) {
        pcap_device_close(device);
        return code;
    }
    describe(device, pcap);
    return 0;
}

const struct device_ops pcap_device_ops = {
    .backend = "pcap",
    .open = pcap_open,
    .event = pcap_event,
    .keep_only = pcap_keep_only,
    .close = pcap_device_close,
};
