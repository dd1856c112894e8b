/*
 * The feeder's own process: reads a burst, spreads it over the rings, wakes who sleeps; see
 * feeder.h. It keeps the descriptors it was forked with and can do nothing but read them.
 */
#include <errno.h>
#include <linux/if_ether.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/confine.h"
#include "base/hash.h"
#include "base/wire.h"
#include "ports/feeder.h"

enum {
    BURST = 64,
    NOBODY = 65534,
    POLL_MS = 1000,
    WAIT_FOR_ROOM_NS = 100000,
    VLAN_LEN = 4,
    IP_ADDRESSES_OFF = 12,
    IP_PROTOCOL_OFF = 9,
    IP_FRAGMENT_OFF = 6,
    IP_FRAGMENT_MASK = 0x3fff,
};

static const uint64_t ring_fold = 0x9e3779b97f4a7c15u;

/* Where each ring is filled to: our own copy, which no worker can change. */
struct spread {
    struct feeder *feeder;
    uint32_t next[PORT_RINGS_MAX];
    uint64_t touched;
};

static uint16_t word_at(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

/* Where IPv4 begins, behind up to two VLAN tags; 0: it is something else. */
static uint32_t find_ipv4(const uint8_t *frame, uint32_t len)
{
    uint32_t off = 2 * ETH_ALEN_BYTES;

    for (int tags = 0; off + 2 + IPV4_HDR_LEN <= len; tags++) {
        uint16_t type = word_at(frame + off);

        if (type == ETH_P_IP) {
            return off + 2;
        }
        if ((type != ETH_P_8021Q && type != ETH_P_8021AD) || tags == 2) {
            break;
        }
        off += VLAN_LEN;
    }
    return 0;
}

uint32_t feeder_ring(const uint64_t key[FEEDER_HASH_KEY_WORDS], uint32_t rings,
                     const uint8_t *frame, uint32_t len)
{
    uint32_t at = find_ipv4(frame, len);
    uint8_t tuple[12] = {0};
    const uint8_t *ip = frame + at;
    uint32_t header;

    if (rings == 1 || at == 0) {
        return 0;
    }
    header = (uint32_t)(ip[0] & 0x0f) * 4;
    memcpy(tuple, ip + IP_ADDRESSES_OFF, 8);
    if ((ip[IP_PROTOCOL_OFF] == PROTO_TCP || ip[IP_PROTOCOL_OFF] == PROTO_UDP) &&
        (word_at(ip + IP_FRAGMENT_OFF) & IP_FRAGMENT_MASK) == 0 && at + header + 4 <= len) {
        memcpy(tuple + 8, ip + header, 4);
    }
    /* folded once more: of neighbouring ports, one fold leaves rings empty with a key in a hundred
     */
    return (uint32_t)((hash_fold(flow_hash(key, tuple), ring_fold) >> 32) * rings >> 32);
}

static uint32_t space_of(const struct fed_ring *ring, uint32_t next)
{
    uint32_t returned = atomic_load_explicit(&ring->shared->returned, memory_order_acquire);

    if (returned >= ring->rings.rx->num_slots) {
        return 0; /* a confused worker harms nobody's ring but its own */
    }
    return ring->rings.rx->num_slots - 1 - nm_ring_distance(ring->rings.rx, returned, next);
}

static void wake(const struct fed_ring *ring)
{
    static const uint64_t one = 1;

    atomic_thread_fence(memory_order_seq_cst); /* what was published, then whether it sleeps */
    if (atomic_load_explicit(&ring->shared->sleeping, memory_order_relaxed)) {
        ENSURE(write(ring->wake_fd, &one, sizeof(one)) == sizeof(one) || errno == EAGAIN);
    }
}

static void publish(struct spread *spread)
{
    while (spread->touched) {
        uint32_t i = (uint32_t)__builtin_ctzll(spread->touched);
        struct fed_ring *ring = &spread->feeder->ring[i];

        atomic_store_explicit(&ring->shared->filled, spread->next[i], memory_order_release);
        wake(ring);
        spread->touched &= spread->touched - 1;
    }
}

/* True when there is room; a source that waits lets nothing be missed. */
static bool has_room(struct spread *spread, uint32_t index, uint32_t slots)
{
    static const struct timespec nap = {.tv_nsec = WAIT_FOR_ROOM_NS};
    const struct fed_ring *ring = &spread->feeder->ring[index];

    while (spread->feeder->source.waits && space_of(ring, spread->next[index]) < slots) {
        publish(spread);
        nanosleep(&nap, NULL);
    }
    return space_of(ring, spread->next[index]) >= slots;
}

static void put(struct spread *spread, const struct vnet_hdr *hdr, const uint8_t *frame,
                uint32_t len)
{
    struct feeder *feeder = spread->feeder;
    uint32_t index = feeder_ring(feeder->shared->key, feeder->rings, frame, len);
    struct nm_ring *to = feeder->ring[index].rings.rx;
    struct iovec parts[2] = {{(void *)(uintptr_t)hdr, sizeof(*hdr)},
                             {(void *)(uintptr_t)frame, len}};
    uint32_t slots = (PORT_VNET_HDR_LEN + len + to->nr_buf_size - 1) / to->nr_buf_size;
    uint32_t next;

    if (slots > FRAMEWISE_SLOTS || !has_room(spread, index, slots)) {
        feeder->ring[index].shared->missed++;
        return;
    }
    next = framewise_copy(to, spread->next[index], parts);
    if (next == UINT32_MAX) {
        feeder->ring[index].shared->broken = 1;
        return;
    }
    spread->next[index] = next;
    spread->touched |= (uint64_t)1 << index;
}

/* What was lost before it had a ring is booked on the first. */
static void book_lost(const struct feeder *feeder, uint64_t *booked)
{
    uint64_t lost = feeder->source.lost ? feeder->source.lost(feeder->source.source) : 0;

    if (lost > *booked) {
        feeder->ring[0].shared->missed += lost - *booked;
        *booked = lost;
    }
}

/* How many frames; -errno: the source has ended. */
static int feed_burst(struct spread *spread)
{
    const struct feeder_source *source = &spread->feeder->source;
    int n = 0;
    int len = 1;

    while (n < BURST) {
        struct vnet_hdr hdr = {0};
        const uint8_t *frame;

        len = source->receive(source->source, &hdr, &frame);
        if (len <= 0) {
            break;
        }
        if (len >= ETH_HDR_LEN) {
            put(spread, &hdr, frame, (uint32_t)len);
        }
        if (source->blocks) {
            publish(spread);
        }
        n++;
    }
    publish(spread);
    return len < 0 ? len : n;
}

/* Goes on where the last feeder stopped. */
static void take_over(struct spread *spread)
{
    for (uint32_t i = 0; i < spread->feeder->rings; i++) {
        const struct fed_ring *ring = &spread->feeder->ring[i];

        spread->next[i] = ring->shared->filled;
        if (spread->next[i] >= ring->rings.rx->num_slots) {
            ring->shared->broken = 1;
            spread->next[i] = 0;
        }
    }
}

/* Ctrl-C and a hang-up of the terminal are for the orchestrator, which ends us when it is done. */
static void leave_signals(void)
{
    static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2};
    sigset_t none;

    for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++) {
        signal(ignored[i], SIG_IGN);
    }
    signal(SIGCHLD, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Keeps standard error, the source's descriptors and the eventfds. */
static void close_others(const struct feeder *feeder)
{
    struct feeder_fds keep = feeder->source.fds;

    keep.bits[0] |= (uint64_t)1 << STDERR_FILENO;
    for (uint32_t i = 0; i < feeder->rings; i++) {
        int fd = feeder->ring[i].wake_fd;

        ENSURE(fd >= 0 && fd < FEEDER_FDS_MAX);
        keep.bits[fd / 64] |= (uint64_t)1 << fd % 64;
    }
    for (int fd = 0; fd < FEEDER_FDS_MAX; fd++) {
        if (!(keep.bits[fd / 64] >> fd % 64 & 1)) {
            close(fd);
        }
    }
    syscall(SYS_close_range, FEEDER_FDS_MAX, UINT32_MAX, 0);
}

/* In a user namespace with one uid the uid stays; the rest goes all the same. */
static void drop_privileges(void)
{
    if (geteuid() == 0 && syscall(SYS_setgroups, 0, NULL) == 0 &&
        syscall(SYS_setresgid, NOBODY, NOBODY, NOBODY) == 0 &&
        syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY) != 0) {
        _exit(1); /* half a change of identity is worse than none */
    }
    if (base_confine() != 0) { /* where the system has no seccomp: as a worker then, go on */
        dprintf(STDERR_FILENO, "the feeder is not confined\n");
    }
}

_Noreturn void feeder_run(struct feeder *feeder, pid_t parent)
{
    struct spread spread = {.feeder = feeder};
    uint64_t booked = 0;
    int code;

    leave_signals();
    close_others(feeder);
    drop_privileges();
    prctl(PR_SET_NAME, "shardserver-fdr");
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* after the change of identity, which clears it */
    if (getppid() != parent) {
        _exit(0);
    }
    take_over(&spread);
    for (;;) {
        struct pollfd fd = {.fd = feeder->source.fd(feeder->source.source), .events = POLLIN};

        code = feed_burst(&spread);
        if (code < 0) {
            break;
        }
        if (code < BURST && fd.fd >= 0) {
            book_lost(feeder, &booked);
            poll(&fd, 1, POLL_MS);
        }
    }
    book_lost(feeder, &booked);
    if (code == -ENODATA) {
        feeder->shared->ended = 1;
    } else {
        feeder->shared->gone = (uint32_t)-code;
    }
    for (uint32_t i = 0; i < feeder->rings; i++) {
        wake(&feeder->ring[i]);
    }
    _exit(0);
}
