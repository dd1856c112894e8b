/* Rings that a feeder fills, and the life of its process; see feeder.h. */
#include "ports/feeder.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arena.h"

enum {
    RESTARTS_MAX = 1000, /* of a process that does so little: something kills it on purpose */
};

static struct fed_shared *fed_shared(const struct port *port)
{
    return port->shared;
}

static const struct fed_ring *fed_ring(const struct port *port)
{
    return port->priv;
}

/*
 * Frames in [from, to), which the feeder has just published. It is another process, and it reads
 * what strangers wrote: a slot is looked at before anybody follows it. False: one cannot be.
 */
static bool take(const struct port *port, uint32_t from, uint32_t to)
{
    const struct nm_ring *ring = port->rx;
    struct port_counters *counters = port->counters;
    uint64_t frames = 0;
    uint64_t bytes = 0;
    bool first = true;

    for (uint32_t at = from; at != to; at = nm_ring_next(ring, at)) {
        const struct nm_slot *slot = &ring->slot[at];
        bool last = !(slot->flags & NM_MOREFRAG);

        if (slot->buf_idx < NM_BUF_FIRST || slot->buf_idx >= fed_ring(port)->rings.bufs ||
            slot->len > ring->nr_buf_size || (first && slot->len <= PORT_VNET_HDR_LEN)) {
            return false;
        }
        frames += last;
        bytes += slot->len - (first ? PORT_VNET_HDR_LEN : 0u);
        first = last;
    }
    counters->rx_frames += frames;
    counters->rx_bytes += bytes;
    counters->rx_syncs += frames > 0;
    return first;
}

static int stop(const struct port *port)
{
    port->counters->errors++;
    return -EIO;
}

/*
 * The end is read before what came before it: frames published since are then frames to deliver. It
 * is told when nothing is left to look at: who hears of it stops, and may have left some for later.
 */
static int fed_rx_sync(struct port *port, uint64_t now_us)
{
    struct fed_shared *shared = fed_shared(port);
    struct nm_ring *ring = port->rx;
    uint32_t tail = nm_ring_tail(ring);
    uint32_t gone = fed_ring(port)->common->gone;
    uint32_t ended = fed_ring(port)->common->ended;
    uint32_t filled = atomic_load_explicit(&shared->filled, memory_order_acquire);

    (void)now_us;
    if (ring->head >= ring->num_slots || filled >= ring->num_slots || tail >= ring->num_slots ||
        shared->broken ||
        nm_ring_distance(ring, ring->head, filled) < nm_ring_distance(ring, ring->head, tail)) {
        return stop(port);
    }
    atomic_store_explicit(&shared->returned, ring->head, memory_order_release);
    port->counters->rx_missed = shared->missed;
    if (filled != tail) {
        if (!take(port, tail, filled)) {
            return stop(port);
        }
        __atomic_store_n(&ring->tail, filled, __ATOMIC_RELEASE);
    } else if (nm_ring_space(ring) == 0) {
        port->counters->rx_ended = ended;
        return gone == 0 ? 0 : gone == EBADMSG ? stop(port) : -ENODEV;
    }
    return 0;
}

static int fed_tx_sync(struct port *port, uint64_t now_us)
{
    return framewise_tx_sync(port, &fed_shared(port)->tx, fed_ring(port)->send, now_us);
}

static int fed_sleep_arm(struct port *port)
{
    struct fed_shared *shared = fed_shared(port);
    const struct feeder_shared *common = fed_ring(port)->common;

    atomic_store(&shared->sleeping, 1); /* sequentially consistent: before the looks below */
    return atomic_load(&shared->filled) != port->rx->tail || nm_ring_space(port->rx) > 0 ||
           shared->tx.slot != port->tx->head || common->gone ||
           common->ended != port->counters->rx_ended;
}

static void fed_sleep_disarm(struct port *port)
{
    uint64_t rung;

    atomic_store_explicit(&fed_shared(port)->sleeping, 0, memory_order_relaxed);
    ENSURE(read(port->wait_fd, &rung, sizeof(rung)) == sizeof(rung) || errno == EAGAIN ||
           errno == EINTR);
}

/* Slots and positions are the feeder's, or were stored at once: there is nothing to complete. */
static int fed_recover(struct port *port)
{
    framewise_tx_recover(port, &fed_shared(port)->tx);
    return 0;
}

const struct port_ops fed_port_ops = {
    .backend = "fed",
    .rx_sync = fed_rx_sync,
    .tx_sync = fed_tx_sync,
    .sleep_arm = fed_sleep_arm,
    .sleep_disarm = fed_sleep_disarm,
    .recover = fed_recover,
};

static int open_ring(struct feeder *feeder, struct device *device, uint32_t index,
                     const struct device_config *config)
{
    struct fed_ring *ring = &feeder->ring[index];
    int code = swring_create(&ring->rings, config->slots ? config->slots : FRAMEWISE_DEFAULT_SLOTS,
                             config->buf_size ? config->buf_size : FRAMEWISE_DEFAULT_BUF,
                             sizeof(struct fed_shared));

    if (code != 0) {
        return code;
    }
    ring->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (ring->wake_fd < 0) {
        return -errno;
    }
    ring->shared = ring->rings.extra;
    ring->common = feeder->shared;
    ring->send = feeder->source.send;
    ring->source = feeder->source.source;
    ring->rings.rx->ringid = (uint16_t)index;
    ring->rings.tx->ringid = (uint16_t)index;
    device->ports[index] = (struct port){.ops = &fed_port_ops,
                                         .rx = ring->rings.rx,
                                         .tx = ring->rings.tx,
                                         .counters = &ring->shared->counters,
                                         .shared = ring->shared,
                                         .priv = ring,
                                         .ring_id = index,
                                         .caps = PORT_CAP_VNET_HDR,
                                         .wait_fd = ring->wake_fd};
    return 0;
}

static int start(struct feeder *feeder)
{
    struct epoll_event event = {.events = EPOLLIN};
    pid_t parent = getpid();
    pid_t pid = fork();

    if (pid < 0) {
        return -errno;
    }
    if (pid == 0) {
        feeder_run(feeder, parent);
    }
    feeder->pid = pid;
    feeder->pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (feeder->pid_fd < 0 ||
        epoll_ctl(feeder->epoll_fd, EPOLL_CTL_ADD, feeder->pid_fd, &event) != 0) {
        return -errno;
    }
    return 0;
}

void feeder_fds_now(struct feeder_fds *fds)
{
    *fds = (struct feeder_fds){0};
    for (int fd = 0; fd < FEEDER_FDS_MAX; fd++) {
        if (fcntl(fd, F_GETFD) >= 0) {
            fds->bits[fd / 64] |= (uint64_t)1 << fd % 64;
        }
    }
}

void feeder_fds_since(struct feeder_fds *fds, const struct feeder_fds *before)
{
    feeder_fds_now(fds);
    for (int i = 0; i < FEEDER_FDS_MAX / 64; i++) {
        fds->bits[i] &= ~before->bits[i];
    }
}

static int open_shared(struct feeder *feeder)
{
    feeder->pid_fd = -1;
    feeder->epoll_fd = -1;
    feeder->owner = getpid();
    feeder->ring = calloc(PORT_RINGS_MAX, sizeof(*feeder->ring));
    if (!feeder->ring) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < PORT_RINGS_MAX; i++) {
        feeder->ring[i].wake_fd = -1;
    }
    feeder->shared = arena_shared_map("shardserver-feeder", sizeof(*feeder->shared));
    if (!feeder->shared) {
        return -errno;
    }
    if (getrandom(feeder->shared->key, sizeof(feeder->shared->key), 0) < 0) {
        return -errno;
    }
    feeder->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    return feeder->epoll_fd < 0 ? -errno : 0;
}

int feeder_open(struct feeder *feeder, struct device *device, const struct device_config *config,
                char *error)
{
    int code = open_shared(feeder);

    feeder->rings = config->rings ? config->rings : 1;
    for (uint32_t i = 0; i < feeder->rings && code == 0; i++) {
        code = open_ring(feeder, device, i, config);
    }
    code = code != 0 ? code : start(feeder);
    if (code != 0) {
        return framewise_refuse(error, feeder->source.spec,
                                "the rings and their feeding process could not be made: use fewer "
                                "rings or slots",
                                code);
    }
    device->rings = feeder->rings;
    device->event_fd = feeder->epoll_fd;
    return 0;
}

static void bury(struct feeder *feeder)
{
    int status;

    if (feeder->pid > 0) {
        while (waitpid(feeder->pid, &status, 0) < 0 && errno == EINTR) {
        }
    }
    if (feeder->pid_fd >= 0) {
        epoll_ctl(feeder->epoll_fd, EPOLL_CTL_DEL, feeder->pid_fd, NULL); /* workers hold it too */
        close(feeder->pid_fd);
    }
    feeder->pid = 0;
    feeder->pid_fd = -1;
}

int feeder_event(struct feeder *feeder)
{
    struct pollfd fd = {.fd = feeder->pid_fd, .events = POLLIN};
    int code = 0;

    if (feeder->pid == 0 || poll(&fd, 1, 0) != 1) {
        return 0;
    }
    bury(feeder);
    if (feeder->shared->ended || feeder->shared->gone) {
        return 0;
    }
    if (feeder->restarts++ >= RESTARTS_MAX) {
        code = -EIO;
    } else if (feeder->source.reopen) {
        code = feeder->source.reopen(feeder->source.source);
    }
    code = code != 0 ? code : start(feeder);
    if (code != 0) {
        feeder->shared->gone = (uint32_t)-code;
        return 0;
    }
    return 1;
}

static void close_ring(struct fed_ring *ring)
{
    swring_destroy(&ring->rings);
    if (ring->wake_fd >= 0) {
        close(ring->wake_fd);
    }
    ring->wake_fd = -1;
}

void feeder_keep_only(struct feeder *feeder, struct device *device, uint32_t ring_id)
{
    close(feeder->pid_fd);
    close(feeder->epoll_fd);
    feeder->pid_fd = -1;
    feeder->epoll_fd = -1;
    for (uint32_t i = 0; i < feeder->rings; i++) {
        if (i != ring_id) {
            close_ring(&feeder->ring[i]);
            device->ports[i] = (struct port){.wait_fd = -1};
        }
    }
}

void feeder_close(struct feeder *feeder)
{
    if (!feeder->ring) {
        return;
    }
    if (feeder->owner == getpid() && feeder->pid > 0) {
        kill(feeder->pid, SIGKILL);
        bury(feeder);
    }
    for (uint32_t i = 0; i < PORT_RINGS_MAX; i++) {
        close_ring(&feeder->ring[i]);
    }
    if (feeder->epoll_fd >= 0) {
        close(feeder->epoll_fd);
    }
    if (feeder->shared) {
        munmap(feeder->shared, sizeof(*feeder->shared));
    }
    free(feeder->ring);
    feeder->ring = NULL;
}
