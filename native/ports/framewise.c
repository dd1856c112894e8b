/* Rings of a device that takes and gives one frame a call; see framewise.h. */
#include "ports/framewise.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
    /* A kernel that refuses everything for so long has no carrier: frames are dropped, counted. */
    REFUSED_MAX_US = 10000,
    SLOTS_MIN = 128, /* three super-segments of 2 KiB slots */
    SLOTS_MAX = 8176,
    BUF_MAX = 32768,
};

int framewise_refuse(char *error, const char *spec, const char *what, int code)
{
    snprintf(error, PORT_ERROR_MAX, "%s: %s (%s)", spec, what, strerror(-code));
    return code;
}

int framewise_check(const struct device_config *config, const char *spec, char *error)
{
    uint32_t slots = config->slots ? config->slots : FRAMEWISE_DEFAULT_SLOTS;
    uint32_t buf = config->buf_size ? config->buf_size : FRAMEWISE_DEFAULT_BUF;

    if (config->rings > PORT_RINGS_MAX || slots < SLOTS_MIN || slots > SLOTS_MAX ||
        buf < FRAMEWISE_DEFAULT_BUF || buf > BUF_MAX || buf % CACHE_LINE != 0) {
        return framewise_refuse(error, spec,
                                "at most 64 rings, 128 to 8176 slots, buffers of 2048 to 32768 "
                                "bytes in steps of 64",
                                -EINVAL);
    }
    return 0;
}

uint32_t framewise_slots(const struct nm_ring *ring)
{
    return (PORT_VNET_HDR_LEN + FRAMEWISE_FRAME_MAX + ring->nr_buf_size - 1) / ring->nr_buf_size;
}

/* A buffer index is checked before each use; swring.c gives each slot of both rings one buffer. */
static bool index_valid(const struct nm_ring *ring, uint32_t index)
{
    return index >= NM_BUF_FIRST && index < NM_BUF_FIRST + 2 * ring->num_slots;
}

bool framewise_slot_valid(const struct nm_ring *ring, uint32_t slot)
{
    return index_valid(ring, ring->slot[slot].buf_idx);
}

int framewise_iov(const struct nm_ring *ring, uint32_t slot, uint32_t n,
                  struct iovec iov[FRAMEWISE_SLOTS])
{
    uint8_t *end = NULL;
    int used = 0;

    for (; n > 0; n--) {
        uint8_t *buf = nm_ring_buf(ring, slot);

        if (!framewise_slot_valid(ring, slot)) {
            return 0;
        }
        if (buf == end) {
            iov[used - 1].iov_len += ring->nr_buf_size;
        } else {
            iov[used++] = (struct iovec){buf, ring->nr_buf_size};
        }
        end = buf + ring->nr_buf_size;
        slot = nm_ring_next(ring, slot);
    }
    return used;
}

uint32_t framewise_mark(struct nm_ring *ring, uint32_t slot, uint32_t len)
{
    uint32_t part;

    do {
        part = min_u32(len, ring->nr_buf_size);
        len -= part;
        ring->slot[slot].len = (uint16_t)part;
        ring->slot[slot].flags = len > 0 ? NM_MOREFRAG : 0;
        slot = nm_ring_next(ring, slot);
    } while (len > 0);
    return slot;
}

uint32_t framewise_copy(struct nm_ring *ring, uint32_t slot, const struct iovec parts[2])
{
    uint32_t total = (uint32_t)(parts[0].iov_len + parts[1].iov_len);
    const uint8_t *from = parts[1].iov_base;
    uint32_t skip = (uint32_t)parts[0].iov_len;
    uint32_t at = slot;

    for (uint32_t done = 0; done < total; at = nm_ring_next(ring, at)) {
        uint32_t part = min_u32(total - done, ring->nr_buf_size) - skip;
        /* read once: a worker may write there meanwhile */
        uint32_t index = *(const volatile uint32_t *)&ring->slot[at].buf_idx;
        uint8_t *buf = (uint8_t *)ring + ring->buf_ofs + (size_t)index * ring->nr_buf_size;

        if (!index_valid(ring, index)) {
            return UINT32_MAX;
        }
        if (skip > 0) {
            memcpy(buf, parts[0].iov_base, skip);
        }
        memcpy(buf + skip, from, part);
        from += part;
        done += part + skip;
        skip = 0;
    }
    return framewise_mark(ring, slot, total);
}

int framewise_whole(const struct iovec *iov)
{
    struct vnet_hdr hdr;

    memcpy(&hdr, iov[0].iov_base, sizeof(hdr)); /* gather() has seen that it is all there */
    return (hdr.flags & VNET_F_NEEDS_CSUM) || hdr.gso_type != VNET_GSO_NONE ? -EOPNOTSUPP : 0;
}

size_t framewise_join(const struct iovec *iov, int n, uint8_t *to, size_t size)
{
    size_t len = 0;

    for (int i = 0; i < n; i++) {
        if (iov[i].iov_len > size - len) {
            return 0;
        }
        memcpy(to + len, iov[i].iov_base, iov[i].iov_len);
        len += iov[i].iov_len;
    }
    return len;
}

/* The frame at `slot` as vectors. n 0: its end is not published; negative: nonsense. */
struct outgoing {
    struct iovec iov[FRAMEWISE_SLOTS];
    int n;
    uint32_t next;
    uint32_t bytes;
};

static void gather(const struct nm_ring *ring, uint32_t slot, struct outgoing *out)
{
    const struct nm_slot *piece;

    out->n = 0;
    out->bytes = 0;
    do {
        if (slot == ring->head) {
            out->n = 0;
            return;
        }
        piece = &ring->slot[slot];
        if (!framewise_slot_valid(ring, slot) || piece->len > ring->nr_buf_size ||
            out->n == FRAMEWISE_SLOTS) {
            out->n = -EIO;
            return;
        }
        out->iov[out->n++] = (struct iovec){nm_ring_buf(ring, slot), piece->len};
        out->bytes += piece->len;
        slot = nm_ring_next(ring, slot);
    } while (piece->flags & NM_MOREFRAG);
    out->next = slot;
    if (out->iov[0].iov_len <= PORT_VNET_HDR_LEN) {
        out->n = -EIO;
    }
}

static void advance(struct port *port, struct framewise_tx *tx, uint32_t slot)
{
    compiler_barrier();
    __atomic_store_n(&tx->slot, slot, __ATOMIC_RELAXED);
    compiler_barrier();
    framewise_tx_recover(port, tx);
}

/* Full queues pass; a card without carrier answers the same, but does not pass. */
static bool refused_for_now(struct framewise_tx *tx, uint64_t now_us, int code)
{
    if (code != -ENOBUFS && code != -EAGAIN && code != -EINTR && code != -ENOMEM) {
        return false;
    }
    if (tx->refused_us == 0) {
        tx->refused_us = now_us;
    }
    return now_us - tx->refused_us < REFUSED_MAX_US;
}

static void count(struct port_counters *counters, struct framewise_tx *tx,
                  const struct outgoing *out, int code)
{
    if (code != 0) {
        counters->tx_dropped++;
        return;
    }
    tx->refused_us = 0;
    counters->tx_frames++;
    counters->tx_bytes += out->bytes - PORT_VNET_HDR_LEN;
}

int framewise_tx_sync(struct port *port, struct framewise_tx *tx, framewise_send *send,
                      uint64_t now_us)
{
    struct port_counters *counters = port->counters;
    uint64_t before = counters->tx_frames;
    struct outgoing out;

    if (port->tx->head >= port->tx->num_slots) {
        counters->errors++;
        return -EIO;
    }
    while (tx->slot != port->tx->head) {
        int code;

        gather(port->tx, tx->slot, &out);
        if (out.n < 0) {
            counters->errors++;
            return -EIO;
        }
        if (out.n == 0) {
            break;
        }
        code = send(port, out.iov, out.n);
        counters->syscalls++;
        if (code != 0 && refused_for_now(tx, now_us, code)) {
            break;
        }
        advance(port, tx, out.next);
        count(counters, tx, &out, code);
    }
    counters->tx_syncs += counters->tx_frames != before;
    return 0;
}

void framewise_tx_recover(struct port *port, const struct framewise_tx *tx)
{
    struct nm_ring *ring = port->tx;

    ENSURE(tx->slot < ring->num_slots);
    __atomic_store_n(&ring->tail, tx->slot == 0 ? ring->num_slots - 1 : tx->slot - 1,
                     __ATOMIC_RELEASE);
}
