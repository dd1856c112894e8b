/*
 * xdp: rings on a Linux interface through AF_XDP; what its files share.
 *
 * A socket for each of the interface's queues; a port serves queue q where q modulo the ports is
 * its number. The sockets of a port share one UMEM, whose chunks are the buffers of the port's
 * netmap rings: xdp_rx.c and xdp_tx.c exchange indices, and copy only what does not lie where a
 * slot begins. A small program (xdp_program.c) sends frames for our address to the sockets and
 * leaves all else to the kernel.
 *
 * Where a frame lies: the kernel writes it `data_ofs` bytes into a chunk. A slot's buffer begins
 * PORT_VNET_HDR_LEN before that and is as long as a chunk, so it ends in the room before the next
 * chunk's frame, which nobody else uses. All slots can be filled to nr_buf_size that way.
 *
 * All state is in MAP_SHARED memory, and a kill may fall between any two instructions. Receive has
 * one 64-bit word that commits a burst; transmit commits by the store that shows a burst to the
 * kernel, announced in tx_plan. Start reading at struct xdp_shared, then xdp_rx_sync.
 */
#pragma once
#include <linux/bpf.h>
#include <linux/if_xdp.h>

#include "ports/filter.h"
#include "ports/packet.h"
#include "ports/port.h"

enum {
    XDP_RX_BURST = 64,
    XDP_SLOTS_MIN = 128, /* three super-segments of 2 KiB slots */
    XDP_SLOTS_MAX = 8176,
    XDP_CHUNK_MIN = 2048, /* the kernel's limits; a power of two */
    XDP_CHUNK_MAX = 4096,
    XDP_HEADROOM = 256,       /* what the kernel keeps before each frame */
    XDP_FRAME_SLOTS_MAX = 64, /* of a frame, as in netmap */
    XDP_PIECES_MAX = 17,      /* of a frame that is sent: MAX_SKB_FRAGS */
    /* In newer headers than some systems have. */
    XDP_BIND_USE_SG = 1 << 4,
    XDP_DESC_CONTD = 1,
    XDP_OPTION_TX_BUDGET = 9,
    XDP_CODE_MAX = 64,
};

enum xdp_mode {
    XDP_MODE_ZEROCOPY, /* the card reads and writes the UMEM */
    XDP_MODE_COPY,     /* the program runs in the driver, frames are copied */
    XDP_MODE_GENERIC,  /* the program runs behind the driver, on the kernel's own buffers */
    XDP_MODES,
};

/* What of a slot that is sent the kernel has not given back. */
enum xdp_wait {
    XDP_WAIT_MAIN = 1,
    XDP_WAIT_SPILL = 2, /* the part beyond the chunk's end */
};

/* One of a socket's rings with the kernel: indices run on and are masked. */
struct xdp_fifo {
    uint32_t *producer;
    uint32_t *consumer;
    uint32_t *flags;
    void *entries;
    uint32_t size;
    void *map;
    size_t map_bytes;
};

/* One queue. Only the first socket of a port sends. */
struct xdp_socket {
    int fd;
    uint32_t queue;
    struct xdp_fifo rx;
    struct xdp_fifo fill;
    struct xdp_fifo tx;
    struct xdp_fifo done;
};

/* Of one port, in MAP_SHARED memory. */
struct xdp_shared {
    /*
     * Bits 0 to 31: next entry of a socket's RX ring; 32 to 47: the netmap ring's tail; from 48:
     * which socket. Each entry taken gives its fill ring one buffer, so that one follows too.
     */
    _Alignas(CACHE_LINE) uint64_t rx_commit;
    uint32_t rx_first; /* socket to look at first: any value will do */
    uint32_t gone;     /* the interface was deleted */
    /* Low half: the kernel's TX producer; high half: next slot to send. */
    uint64_t tx_commit;
    uint64_t tx_plan; /* the commit, if the producer stands where this says */
    uint32_t tx_done; /* slots before this one are the user's */
    uint32_t down;    /* the kernel refuses to send: the interface is down */
    uint64_t missed_us;
    uint64_t skipped; /* frames of more slots than a frame may have */
    struct port_counters counters;
};

/* Process-private, fixed after the open. */
struct xdp_port {
    struct xdp_shared *shared;
    uint8_t *tx_wait;  /* per TX slot: enum xdp_wait bits; shared */
    uint32_t *slot_of; /* per buffer: 1 + the TX slot that it is in flight for; shared */
    uint8_t *base;
    size_t bytes;
    uint8_t *umem;
    size_t umem_bytes;
    uint32_t bufs;  /* valid buffer indices are below this */
    uint32_t chunk; /* bytes: 1 << chunk_bits, since a division costs as much as a frame */
    uint32_t chunk_bits;
    uint32_t data_ofs;
    uint32_t longest; /* frame that the interface passes */
    uint32_t fill;    /* buffers that each socket's kernel side holds */
    struct nm_ring *rx;
    struct nm_ring *tx;
    bool copies;     /* frames are copied to the kernel's buffers */
    bool pieces;     /* frames over several chunks are possible */
    bool unfinished; /* the other side may be a kernel that leaves checksums to the card */
    bool busy_poll;
    uint32_t sockets;
    struct xdp_socket socket[PORT_RINGS_MAX];
    int wait_fd; /* an epoll descriptor if there are several sockets; -1: the socket itself */
};

/* The program, its maps and its place on the interface. */
struct xdp_program {
    int filter_map;
    int socket_map;
    int prog_fd;
    int link_fd;
    bool pieces;
};

/* What the caller wrote behind the interface's name. */
struct xdp_wishes {
    char iface[PORT_NAME_MAX];
    int mode; /* enum xdp_mode; -1: the best that there is */
    bool busy_poll;
    bool verify; /* no unfinished checksum is accepted */
};

struct xdp_device {
    struct packet_link link;
    struct xdp_wishes wishes;
    struct xdp_program program;
    int lock_fd;
    int promisc_fd;
    bool local_peer;
    enum xdp_mode mode;
    int refused[XDP_MODES]; /* why the better modes are not: errno */
    uint32_t rings;
    uint32_t queues;
    uint64_t taken;         /* those that we serve, a bit each; the others stay the kernel's */
    struct xdp_port *ports; /* as many as rings */
};

/* A program that somebody else has put on the interface. */
struct xdp_tenant {
    uint32_t prog_id; /* 0: none */
    bool generic;
    char name[16];
};

extern const struct port_ops xdp_port_ops;

/* xdp_code.c: the program for a rule, in `insn`; how many instructions. */
uint32_t xdp_code_make(struct bpf_insn insn[XDP_CODE_MAX], const struct xdp_program *program,
                       const struct filter *filter);
/* xdp_program.c: 0 or -errno. */
int xdp_program_load(struct xdp_program *program, uint32_t queues, const struct filter *filter);
int xdp_program_attach(struct xdp_program *program, int ifindex, bool generic);
void xdp_program_detach(struct xdp_program *program);
void xdp_program_close(struct xdp_program *program);
/* Other addresses and ports, by the rule that was loaded. */
int xdp_program_set_filter(const struct xdp_program *program, const struct filter *filter);
int xdp_program_set_socket(const struct xdp_program *program, uint32_t queue, int fd);
/* xdp_tenant.c: who is on the interface. */
int xdp_tenant_find(int ifindex, struct xdp_tenant *tenant);

/* xdp_words.c: "IFACE[:MODE][:busy-poll][:verify]"; 0 or -EINVAL and its sentence. */
int xdp_parse_name(struct xdp_wishes *wishes, const char *name, char *error);
/* Each writes its sentence and returns a negative code. */
int xdp_refuse(char *error, const char *iface, const char *what, int code);
int xdp_refuse_tenant(const char *iface, const struct xdp_tenant *tenant, char *error);
int xdp_refuse_program(const struct xdp_device *xdp, int code, char *error);
int xdp_refuse_open(const struct xdp_device *xdp, int code, char *error);
/* Returns what packet_link.c returned; its sentence then begins with our name. */
int xdp_as_ours(char *error, int code);
void xdp_describe(struct device *device);

/* xdp_socket.c: memory of a port, then its sockets in a mode. 0 or -errno. */
int xdp_port_map(struct xdp_port *port, uint32_t slots, uint32_t chunk);
void xdp_port_unmap(struct xdp_port *port);
/* Lays the rings out anew and opens a socket on each of the port's queues. */
int xdp_port_bind(struct xdp_port *port, const struct packet_link *link, enum xdp_mode mode);
void xdp_port_unbind(struct xdp_port *port);

int xdp_rx_sync(struct port *port, uint64_t now_us);
bool xdp_rx_ready(const struct xdp_port *xdp);
void xdp_rx_recover(struct port *port);
int xdp_tx_sync(struct port *port, uint64_t now_us);
bool xdp_tx_unsent(const struct xdp_port *xdp);
/* 0, or -EIO: what the kernel says it has sent cannot be. */
int xdp_tx_recover(struct port *port);

static inline const struct xdp_port *xdp_port(const struct port *port)
{
    return port->priv;
}

static inline uint32_t xdp_load(const uint32_t *index)
{
    return __atomic_load_n(index, __ATOMIC_ACQUIRE);
}

static inline void xdp_store(uint32_t *index, uint32_t value)
{
    __atomic_store_n(index, value, __ATOMIC_RELEASE);
}

static inline struct xdp_desc *xdp_desc_at(const struct xdp_fifo *fifo, uint32_t index)
{
    return (struct xdp_desc *)fifo->entries + (index & (fifo->size - 1));
}

static inline uint64_t *xdp_addr_at(const struct xdp_fifo *fifo, uint32_t index)
{
    return (uint64_t *)fifo->entries + (index & (fifo->size - 1));
}

/* The buffer, and the place in it, of an address in the UMEM. */
static inline uint64_t xdp_buf_of(const struct xdp_port *xdp, uint64_t addr)
{
    return addr >> xdp->chunk_bits;
}

static inline uint32_t xdp_ofs_of(const struct xdp_port *xdp, uint64_t addr)
{
    return (uint32_t)addr & (xdp->chunk - 1);
}

/* A buffer index is checked before each use: whoever fills the rings may be confused. */
static inline bool xdp_buf_valid(const struct xdp_port *xdp, uint32_t buf)
{
    return buf >= NM_BUF_FIRST && buf < xdp->bufs;
}

/* The ring holds what cannot be: the port stops. */
static inline int xdp_broken(const struct port *port)
{
    port->counters->errors++;
    return -EIO;
}
