/*
 * An AF_XDP socket without us, in copy mode on queue 0: entries are taken from the RX ring and
 * their chunks given back, or sent and reaped. Only the program that redirects is ours.
 * Run: raw_xdp rx IFACE SECONDS CPU, raw_xdp tx IFACE SECONDS CPU MAC; IFACE:generic for that mode
 */
#include <linux/if_xdp.h>
#include <net/if.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "loop.h"
#include "ports/xdp.h"

enum {
    ENTRIES = 2048,
    CHUNK = 2048,
};

struct fifo {
    uint32_t *producer;
    uint32_t *consumer;
    uint32_t *flags;
    uint8_t *entries;
};

struct socket {
    int fd;
    uint8_t *umem;
    struct fifo rx;
    struct fifo tx;
    struct fifo fill;
    struct fifo done;
};

static uint32_t load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void store(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static uint64_t *address(const struct fifo *fifo, uint32_t at)
{
    return (uint64_t *)(void *)fifo->entries + at % ENTRIES;
}

static struct xdp_desc *entry(const struct fifo *fifo, uint32_t at)
{
    return (struct xdp_desc *)(void *)fifo->entries + at % ENTRIES;
}

static void set(int fd, int option, const void *value, socklen_t len)
{
    loop_need(setsockopt(fd, SOL_XDP, option, value, len) == 0, "setsockopt");
}

static struct fifo map(int fd, const struct xdp_ring_offset *at, size_t each, uint64_t where)
{
    uint8_t *base = mmap(NULL, at->desc + ENTRIES * each, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_POPULATE, fd, (off_t)where);

    loop_need(base != MAP_FAILED, "mmap");
    return (struct fifo){(uint32_t *)(void *)(base + at->producer),
                         (uint32_t *)(void *)(base + at->consumer),
                         (uint32_t *)(void *)(base + at->flags), base + at->desc};
}

static void make_rings(struct socket *sock)
{
    const size_t bytes = (size_t)2 * ENTRIES * CHUNK;
    struct xdp_umem_reg reg = {.len = bytes, .chunk_size = CHUNK};
    struct xdp_mmap_offsets at;
    socklen_t len = sizeof(at);
    int size = ENTRIES;

    sock->umem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    loop_need(sock->umem != MAP_FAILED, "mmap");
    reg.addr = (uint64_t)(uintptr_t)sock->umem;
    sock->fd = socket(AF_XDP, SOCK_RAW, 0);
    loop_need(sock->fd >= 0, "socket");
    set(sock->fd, XDP_UMEM_REG, &reg, sizeof(reg));
    set(sock->fd, XDP_UMEM_FILL_RING, &size, sizeof(size));
    set(sock->fd, XDP_UMEM_COMPLETION_RING, &size, sizeof(size));
    set(sock->fd, XDP_RX_RING, &size, sizeof(size));
    set(sock->fd, XDP_TX_RING, &size, sizeof(size));
    loop_need(getsockopt(sock->fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &len) == 0, "offsets");
    sock->rx = map(sock->fd, &at.rx, sizeof(struct xdp_desc), XDP_PGOFF_RX_RING);
    sock->tx = map(sock->fd, &at.tx, sizeof(struct xdp_desc), XDP_PGOFF_TX_RING);
    sock->fill = map(sock->fd, &at.fr, sizeof(uint64_t), XDP_UMEM_PGOFF_FILL_RING);
    sock->done = map(sock->fd, &at.cr, sizeof(uint64_t), XDP_UMEM_PGOFF_COMPLETION_RING);
}

static void open_socket(struct socket *sock, char *iface)
{
    struct sockaddr_xdp addr = {.sxdp_family = AF_XDP,
                                .sxdp_flags = XDP_USE_NEED_WAKEUP | XDP_COPY};
    const struct filter every = {.rule = PORT_TAKE_ADDRESS};
    struct xdp_program program;
    char *mode = strchr(iface, ':');
    int budget = 256;

    if (mode) {
        *mode = '\0';
    }
    make_rings(sock);
    for (uint32_t i = 0; i < ENTRIES; i++) {
        *address(&sock->fill, i) = (uint64_t)i * CHUNK;
    }
    store(sock->fill.producer, ENTRIES);
    addr.sxdp_ifindex = if_nametoindex(iface);
    loop_need(xdp_program_load(&program, 1, &every) == 0 &&
                  xdp_program_attach(&program, (int)addr.sxdp_ifindex, mode != NULL) == 0,
              "program");
    loop_need(bind(sock->fd, (struct sockaddr *)&addr, sizeof(addr)) == 0, "bind");
    setsockopt(sock->fd, SOL_XDP, 9 /* XDP_MAX_TX_SKB_BUDGET */, &budget, sizeof(budget));
    loop_need(xdp_program_set_socket(&program, 0, sock->fd) == 0, "socket map");
}

static void receive(struct socket *sock)
{
    uint32_t fill = ENTRIES;
    uint64_t frames = 0;
    uint32_t next = 0;
    uint32_t sum = 0;

    while (!loop_over) {
        uint32_t end = load(sock->rx.producer);

        if (next == end) {
            loop_nap();
            continue;
        }
        for (; next != end; next++, frames++) {
            const struct xdp_desc *desc = entry(&sock->rx, next);

            sum += sock->umem[desc->addr + 12];
            *address(&sock->fill, fill++) = desc->addr / CHUNK * CHUNK;
        }
        store(sock->fill.producer, fill);
        store(sock->rx.consumer, next);
    }
    loop_report(frames, sum);
}

static void transmit(struct socket *sock, const char *mac)
{
    uint8_t frame[LOOP_FRAME];
    uint32_t sent = 0;
    uint32_t reaped = 0;

    loop_frame(frame, mac);
    while (!loop_over) {
        for (uint32_t i = 0; i < LOOP_BURST && sent - reaped < ENTRIES; i++, sent++) {
            uint64_t addr = (uint64_t)(ENTRIES + sent % ENTRIES) * CHUNK;

            memcpy(sock->umem + addr, frame, LOOP_FRAME);
            *entry(&sock->tx, sent) = (struct xdp_desc){.addr = addr, .len = LOOP_FRAME};
        }
        store(sock->tx.producer, sent);
        if (load(sock->tx.flags) & XDP_RING_NEED_WAKEUP) {
            sendto(sock->fd, NULL, 0, MSG_DONTWAIT, NULL, 0);
        }
        reaped = load(sock->done.producer);
        store(sock->done.consumer, reaped);
    }
    loop_report(reaped, 0);
}

int main(int argc, char **argv)
{
    bool rx = argc == 5 && strcmp(argv[1], "rx") == 0;
    bool tx = argc == 6 && strcmp(argv[1], "tx") == 0 && strlen(argv[5]) == 17;
    struct socket sock = {.fd = -1};

    if (!rx && !tx) {
        fputs("raw_xdp rx IFACE SECONDS CPU | tx IFACE SECONDS CPU MAC\n", stderr);
        return 2;
    }
    open_socket(&sock, argv[2]);
    loop_start(atoi(argv[4]), argv[3]);
    if (rx) {
        receive(&sock);
    } else {
        transmit(&sock, argv[5]);
    }
    return 0;
}
