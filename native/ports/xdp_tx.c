/*
 * From netmap slots to the wire without a copy of ours; see xdp.h.
 *
 * Entries that name the slots' buffers are written behind the TX ring's producer; the store of the
 * producer is the commit, and tx_plan, stored before it, tells a successor which slots it stands
 * for. The kernel gives buffers back in any order; a slot is the user's again when it and all
 * before it are back.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "ports/xdp.h"

/* A burst in the making: where it would leave the cursors, what it would count. */
struct burst {
    uint32_t slot; /* behind the frames that are in it */
    uint32_t next; /* TX entry */
    uint32_t room;
    uint32_t frames;
    uint32_t dropped;
    uint64_t bytes;
};

/* The frame at a slot: how many slots, how many TX entries they take. */
struct outgoing {
    uint32_t slots; /* 0: its end is not published */
    uint32_t pieces;
    uint32_t bytes;
};

static uint64_t pack(uint32_t slot, uint32_t next)
{
    return (uint64_t)slot << 32 | next;
}

/* Bytes from the start of a slot's buffer to the end of its chunk. */
static uint32_t chunk_room(const struct xdp_port *xdp)
{
    return xdp->chunk - (xdp->data_ofs - PORT_VNET_HDR_LEN);
}

static bool slot_valid(const struct xdp_port *xdp, uint32_t slot, bool first)
{
    const struct nm_slot *at = &xdp->tx->slot[slot];
    uint32_t min = first ? PORT_VNET_HDR_LEN : 0;

    if (!xdp_buf_valid(xdp, at->buf_idx) || at->len <= min || at->len > xdp->tx->nr_buf_size) {
        return false;
    }
    return xdp->slot_of[at->buf_idx] == 0 || xdp->slot_of[at->buf_idx] == slot + 1;
}

/* Measures the frame at `slot`; false: it cannot be. */
static bool measure(const struct xdp_port *xdp, uint32_t slot, struct outgoing *out)
{
    const struct nm_ring *ring = xdp->tx;
    uint32_t n = 0;
    bool more;

    *out = (struct outgoing){0};
    do {
        const struct nm_slot *at = &ring->slot[slot];

        if (n == XDP_FRAME_SLOTS_MAX || !slot_valid(xdp, slot, n == 0)) {
            return false;
        }
        out->bytes += at->len;
        out->pieces += at->len > chunk_room(xdp) ? 2 : 1;
        more = at->flags & NM_MOREFRAG;
        slot = nm_ring_next(ring, slot);
        n++;
    } while (more && slot != ring->head);
    out->slots = more ? 0 : n;
    out->bytes -= PORT_VNET_HDR_LEN;
    return true;
}

/*
 * Offloads were not offered, and a frame in pieces may be more than this socket can send. What is
 * too long for the interface, the kernel would drop without a word.
 */
static bool can_send(const struct xdp_port *xdp, uint32_t slot, const struct outgoing *out)
{
    struct vnet_hdr hdr;

    memcpy(&hdr, nm_ring_buf(xdp->tx, slot), sizeof(hdr));
    return out->bytes <= xdp->longest && !(hdr.flags & VNET_F_NEEDS_CSUM) &&
           hdr.gso_type == VNET_GSO_NONE && out->pieces <= (xdp->pieces ? XDP_PIECES_MAX : 1);
}

static void add_entry(const struct xdp_port *xdp, struct burst *burst, struct xdp_desc desc)
{
    *xdp_desc_at(&xdp->socket[0].tx, burst->next++) = desc;
    burst->room--;
}

static void add_slot(const struct xdp_port *xdp, struct burst *burst, uint32_t skip)
{
    const struct nm_slot *slot = &xdp->tx->slot[burst->slot];
    uint64_t addr = (uint64_t)slot->buf_idx * xdp->chunk;
    uint32_t more = slot->flags & NM_MOREFRAG ? XDP_DESC_CONTD : 0;
    uint32_t here = min_u32(slot->len, chunk_room(xdp));
    uint32_t spill = slot->len - here;

    add_entry(xdp, burst,
              (struct xdp_desc){.addr = addr + xdp->data_ofs - PORT_VNET_HDR_LEN + skip,
                                .len = here - skip,
                                .options = spill > 0 ? XDP_DESC_CONTD : more});
    if (spill > 0) {
        add_entry(xdp, burst,
                  (struct xdp_desc){.addr = addr + xdp->chunk, .len = spill, .options = more});
    }
    xdp->tx_wait[burst->slot] = spill > 0 ? XDP_WAIT_MAIN | XDP_WAIT_SPILL : XDP_WAIT_MAIN;
    xdp->slot_of[slot->buf_idx] = burst->slot + 1;
    burst->slot = nm_ring_next(xdp->tx, burst->slot);
}

static void add_frame(const struct xdp_port *xdp, struct burst *burst, const struct outgoing *out)
{
    for (uint32_t i = 0; i < out->slots; i++) {
        add_slot(xdp, burst, i == 0 ? PORT_VNET_HDR_LEN : 0);
    }
    burst->frames++;
    burst->bytes += out->bytes;
}

static void drop_frame(const struct xdp_port *xdp, struct burst *burst, const struct outgoing *out)
{
    for (uint32_t i = 0; i < out->slots; i++) {
        xdp->tx_wait[burst->slot] = 0;
        burst->slot = nm_ring_next(xdp->tx, burst->slot);
    }
    burst->dropped++;
}

/* Entries for all frames that are published and for which there is room; false: one cannot be. */
static bool build(const struct xdp_port *xdp, struct burst *burst)
{
    while (burst->slot != xdp->tx->head) {
        struct outgoing out;

        if (!measure(xdp, burst->slot, &out)) {
            return false;
        }
        if (out.slots == 0) {
            return true;
        }
        if (!can_send(xdp, burst->slot, &out)) {
            drop_frame(xdp, burst, &out);
        } else if (out.pieces <= burst->room) {
            add_frame(xdp, burst, &out);
        } else {
            return true;
        }
    }
    return true;
}

static void store_word(uint64_t *word, uint64_t value)
{
    compiler_barrier();
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
    compiler_barrier();
}

static void commit_burst(const struct port *port, const struct burst *burst)
{
    struct xdp_shared *shared = port->shared;
    uint64_t commit = pack(burst->slot, burst->next);

    store_word(&shared->tx_plan, commit);
    xdp_store(xdp_port(port)->socket[0].tx.producer, burst->next);
    store_word(&shared->tx_commit, commit);
    port->counters->tx_frames += burst->frames;
    port->counters->tx_bytes += burst->bytes;
    port->counters->tx_dropped += burst->dropped;
}

bool xdp_tx_unsent(const struct xdp_port *xdp)
{
    const struct xdp_fifo *tx = &xdp->socket[0].tx;

    return xdp_load(tx->consumer) != *tx->producer;
}

/* One system call; false: the kernel takes no more for now. */
static bool kick(const struct port *port)
{
    struct xdp_shared *shared = port->shared;
    const struct xdp_socket *sock = &xdp_port(port)->socket[0];
    uint32_t before = xdp_load(sock->tx.consumer);
    int error = 0;

    port->counters->syscalls++;
    if (sendto(sock->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0) {
        error = errno;
    }
    if (error == EBUSY &&
        xdp_port(port)
            ->copies) { /* taken and thrown away: there is no carrier, or no room in the driver */
        port->counters->tx_frames--;
        port->counters->tx_dropped++;
    }
    shared->gone |= error == ENXIO;
    shared->down = error == ENETDOWN;
    return xdp_load(sock->tx.consumer) != before;
}

static void push_out(const struct port *port)
{
    const struct xdp_port *xdp = xdp_port(port);

    while (xdp_tx_unsent(xdp) && (*xdp->socket[0].tx.flags & XDP_RING_NEED_WAKEUP) && kick(port)) {
    }
}

/* Notes one buffer that came back; again, after a kill, it makes no difference. */
static bool note_done(const struct xdp_port *xdp, uint64_t addr)
{
    bool spill = xdp_ofs_of(xdp, addr) == 0;
    uint64_t buf = xdp_buf_of(xdp, addr) - spill;
    uint32_t slot;

    if (buf < NM_BUF_FIRST || buf >= xdp->bufs) {
        return false;
    }
    slot = xdp->slot_of[buf];
    if (slot == 0) {
        return true;
    }
    if (slot > xdp->tx->num_slots) {
        return false;
    }
    xdp->tx_wait[slot - 1] &= (uint8_t)~(spill ? XDP_WAIT_SPILL : XDP_WAIT_MAIN);
    if (xdp->tx_wait[slot - 1] == 0) {
        xdp->slot_of[buf] = 0;
    }
    return true;
}

/* Takes back what the kernel has sent and gives the user its slots; false: nonsense came back. */
static bool reclaim(const struct port *port)
{
    const struct xdp_port *xdp = xdp_port(port);
    const struct xdp_fifo *done = &xdp->socket[0].done;
    struct xdp_shared *shared = port->shared;
    uint32_t end = (uint32_t)(shared->tx_commit >> 32);
    uint32_t next = *done->consumer;
    uint32_t last = xdp_load(done->producer);
    uint32_t slot = shared->tx_done;

    if (last - next > done->size) {
        return false;
    }
    for (; next != last; next++) {
        if (!note_done(xdp, *xdp_addr_at(done, next))) {
            return false;
        }
    }
    xdp_store(done->consumer, last);
    compiler_barrier();
    while (slot != end && xdp->tx_wait[slot] == 0) {
        slot = nm_ring_next(xdp->tx, slot);
    }
    shared->tx_done = slot;
    __atomic_store_n(&port->tx->tail, slot == 0 ? port->tx->num_slots - 1 : slot - 1,
                     __ATOMIC_RELEASE);
    return true;
}

/* One burst; false: nothing was there, or nothing more fits. */
static bool send_burst(struct port *port, bool *broken)
{
    const struct xdp_port *xdp = xdp_port(port);
    const struct xdp_fifo *tx = &xdp->socket[0].tx;
    uint64_t commit = ((struct xdp_shared *)port->shared)->tx_commit;
    struct burst burst = {.slot = (uint32_t)(commit >> 32), .next = (uint32_t)commit};
    uint32_t used = burst.next - xdp_load(tx->consumer);

    burst.room = tx->size - used;
    *broken = used > tx->size || !build(xdp, &burst);
    if (burst.frames + burst.dropped == 0) {
        return false;
    }
    commit_burst(port, &burst);
    push_out(port);
    *broken |= !reclaim(port);
    return !*broken;
}

int xdp_tx_sync(struct port *port, uint64_t now_us)
{
    const struct xdp_port *xdp = xdp_port(port);
    uint64_t sent = port->counters->tx_frames;
    bool broken = false;

    (void)now_us;
    if (port->tx->head >= port->tx->num_slots) {
        return xdp_broken(port);
    }
    if (xdp_tx_unsent(xdp)) {
        push_out(port);
    }
    while (send_burst(port, &broken)) {
    }
    if (broken || (port->counters->tx_frames == sent && !reclaim(port))) {
        return xdp_broken(port);
    }
    port->counters->tx_syncs += port->counters->tx_frames != sent;
    return 0;
}

int xdp_tx_recover(struct port *port)
{
    const struct xdp_port *xdp = xdp_port(port);
    struct xdp_shared *shared = port->shared;

    ENSURE(shared->tx_commit >> 32 < port->tx->num_slots &&
           shared->tx_plan >> 32 < port->tx->num_slots && shared->tx_done < port->tx->num_slots);
    if (*xdp->socket[0].tx.producer == (uint32_t)shared->tx_plan) {
        store_word(&shared->tx_commit, shared->tx_plan);
    }
    return reclaim(port) ? 0 : xdp_broken(port);
}
