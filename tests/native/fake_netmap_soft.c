/* The fake module's pipes and switches, which exist as long as somebody has them open. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_netmap.h"

enum {
    SOFT_SLOTS = 256,
    MAC_LEN = 6,
};

static uint32_t or_default(uint32_t wanted, uint32_t fallback)
{
    return wanted ? wanted : fallback;
}

/* Of a pipe its base; of a switch's port the switch. */
static size_t base_len(const char *name)
{
    return strcspn(name, "{}:");
}

static bool same_base(const char *a, const char *b)
{
    return base_len(a) == base_len(b) && strncmp(a, b, base_len(a)) == 0;
}

bool fake_is_switch(const struct fake_port *port)
{
    return strncmp(port->name, "vale", 4) == 0 && strchr(port->name, ':');
}

bool fake_is_base(const char *iface)
{
    for (uint32_t i = 0; i < FAKE_PORTS_MAX; i++) {
        if (fake->port[i].peer != 0 && fake->port[i].name[0] != '\0' &&
            same_base(fake->port[i].name, iface)) {
            return true;
        }
    }
    return false;
}

static bool region_used(uint16_t mem_id)
{
    for (uint32_t i = 0; i < FAKE_PORTS_MAX; i++) {
        if (fake->port[i].name[0] != '\0' && fake->port[i].mem_id == mem_id) {
            return true;
        }
    }
    return mem_id == 1;
}

/* Who shares a base shares its region; whoever else is made gets one of its own, or that asked for,
 * which must be there. 0: there is none. */
static uint16_t region_for(const char *name, uint16_t wanted)
{
    const struct fake_port *nic;
    char base[NM_NAME_MAX];

    snprintf(base, sizeof(base), "%.*s", (int)base_len(name), name);
    nic = fake_find(base);
    if (strpbrk(name, "{}") && nic) {
        return nic->mem_id;
    }
    for (uint32_t i = 0; strpbrk(name, "{}") && i < FAKE_PORTS_MAX; i++) {
        if (fake->port[i].peer != 0 && same_base(fake->port[i].name, name)) {
            return fake->port[i].mem_id;
        }
    }
    if (wanted != 0) {
        return region_used(wanted) ? wanted : 0;
    }
    for (uint16_t id = 2; id <= FAKE_REGIONS_MAX; id++) {
        if (!region_used(id)) {
            return id;
        }
    }
    abort();
}

/* Both rings of a link name the same buffers, slot by slot. */
static void link_rings(struct fake_port *from, struct fake_port *to, uint32_t index)
{
    struct fake_kring *tx = &from->kring[FAKE_TX][index];
    struct fake_kring *rx = &to->kring[FAKE_RX][index];

    if (!fake_ring_create(from, FAKE_TX, index) || !fake_ring_create(to, FAKE_RX, index)) {
        abort();
    }
    for (uint32_t i = 0; i < tx->slots; i++) {
        fake->buf_used[rx->region][fake_ring(rx)->slot[i].buf_idx] = 0;
        fake_ring(rx)->slot[i] = fake_ring(tx)->slot[i];
    }
    tx->pipe_tail = tx->hwtail;
    rx->pipe_tail = rx->hwtail;
    tx->kept = rx->kept = true;
}

static void link_ends(struct fake_port *port)
{
    struct fake_port *peer = &fake->port[port->peer - 1];

    if (port->kring[FAKE_TX][0].object != 0) {
        return;
    }
    for (uint32_t i = 0; i < port->rings[FAKE_TX]; i++) {
        link_rings(port, peer, i);
    }
    for (uint32_t i = 0; i < port->rings[FAKE_RX]; i++) {
        link_rings(peer, port, i);
    }
}

/* Both ends come into being together; what one sends the other receives. */
static struct fake_port *add_pipe(const char *name, const struct nm_req_register *want,
                                  uint16_t mem_id)
{
    char other[NM_NAME_MAX];
    struct fake_port *port = fake_port_add(name);
    struct fake_port *peer;
    char *brace;

    snprintf(other, sizeof(other), "%s", name);
    brace = strpbrk(other, "{}");
    *brace = *brace == '{' ? '}' : '{';
    peer = fake_port_add(other);
    port->mem_id = peer->mem_id = mem_id;
    port->rings[FAKE_TX] = peer->rings[FAKE_RX] = or_default(want->tx_rings, 1);
    port->rings[FAKE_RX] = peer->rings[FAKE_TX] = or_default(want->rx_rings, 1);
    port->slots[FAKE_TX] = peer->slots[FAKE_RX] = or_default(want->tx_slots, SOFT_SLOTS);
    port->slots[FAKE_RX] = peer->slots[FAKE_TX] = or_default(want->rx_slots, SOFT_SLOTS);
    port->peer = (uint32_t)(peer - fake->port) + 1;
    peer->peer = (uint32_t)(port - fake->port) + 1;
    link_ends(port);
    return port;
}

static struct fake_port *add_switch_port(const char *name, const struct nm_req_register *want,
                                         uint16_t mem_id)
{
    struct fake_port *port = fake_port_add(name);

    port->mem_id = mem_id;
    port->rings[FAKE_TX] = port->rings[FAKE_RX] = or_default(want->tx_rings, 1);
    port->slots[FAKE_TX] = or_default(want->tx_slots, SOFT_SLOTS);
    port->slots[FAKE_RX] = or_default(want->rx_slots, SOFT_SLOTS);
    return port;
}

struct fake_port *fake_find_or_make(const char *name, const struct nm_req_register *want, int *code)
{
    bool pipe = strpbrk(name, "{}") != NULL;
    struct fake_port *port = fake_find(name);
    uint16_t mem_id;

    if (port || (!pipe && (strncmp(name, "vale", 4) != 0 || !strchr(name, ':')))) {
        *code = port ? 0 : -ENXIO;
        return port;
    }
    mem_id = region_for(name, want->mem_id);
    *code = mem_id == 0 ? -EINVAL : 0;
    if (mem_id == 0) {
        return NULL;
    }
    return pipe ? add_pipe(name, want, mem_id) : add_switch_port(name, want, mem_id);
}

static void forget(const struct fake_port *port)
{
    for (uint32_t i = 0; i < FAKE_MACS_MAX; i++) {
        if (fake->mac[i].port == (uint32_t)(port - fake->port) + 1) {
            fake->mac[i].port = 0;
        }
    }
}

/* Every buffer of a link is in one ring or in both: each is free once. */
static void unlink_end(struct fake_port *port)
{
    for (int dir = FAKE_RX; dir <= FAKE_TX; dir++) {
        for (uint32_t i = 0; i < port->rings[dir]; i++) {
            port->kring[dir][i].kept = false;
            fake_ring_delete(&port->kring[dir][i]);
        }
    }
    port->name[0] = '\0';
}

void fake_port_release(struct fake_port *port)
{
    struct fake_port *peer = port->peer ? &fake->port[port->peer - 1] : NULL;

    if (fake_is_switch(port)) {
        forget(port);
        port->name[0] = '\0';
    } else if (peer && peer->fds == 0) {
        unlink_end(peer);
        unlink_end(port);
    }
}

static void learn(const struct fake_port *from, const uint8_t *mac)
{
    struct fake_mac *place = NULL;

    for (uint32_t i = 0; i < FAKE_MACS_MAX; i++) {
        struct fake_mac *entry = &fake->mac[i];
        bool ours = entry->port && same_base(fake->port[entry->port - 1].name, from->name);

        if (ours && memcmp(entry->mac, mac, MAC_LEN) == 0) {
            place = entry;
            break;
        }
        place = !place && entry->port == 0 ? entry : place;
    }
    if (place && !(mac[0] & 1)) {
        memcpy(place->mac, mac, MAC_LEN);
        place->port = (uint32_t)(from - fake->port) + 1;
    }
}

/* NULL: everybody's. */
static struct fake_port *known(const struct fake_port *from, const uint8_t *mac)
{
    for (uint32_t i = 0; i < FAKE_MACS_MAX; i++) {
        struct fake_port *port = fake->mac[i].port ? &fake->port[fake->mac[i].port - 1] : NULL;

        if (port && memcmp(fake->mac[i].mac, mac, MAC_LEN) == 0 &&
            same_base(port->name, from->name)) {
            return port;
        }
    }
    return NULL;
}

void fake_switch_frame(struct fake_port *from, const uint8_t *frame, uint32_t len)
{
    struct fake_port *only = known(from, frame);

    learn(from, frame + MAC_LEN);
    for (uint32_t i = 0; i < FAKE_PORTS_MAX; i++) {
        struct fake_port *to = &fake->port[i];

        if (to != from && fake_is_switch(to) && same_base(to->name, from->name) &&
            (!only || only == to) && to->kring[FAKE_RX][0].object != 0) {
            fake_wire_put(&to->kring[FAKE_RX][0].wire, frame, len);
        }
    }
}

/* New slots are seen by the reader, whole frames only; what it has released is free. */
void fake_pipe_tx(struct fake_kring *kring, struct fake_kring *peer, const struct nm_ring *ring)
{
    struct nm_ring *rx = fake_ring(peer);

    kring->hwtail = kring->pipe_tail;
    while (kring->hwcur != ring->head) {
        bool more = ring->slot[kring->hwcur].flags & NM_MOREFRAG;

        rx->slot[kring->hwcur] = ring->slot[kring->hwcur];
        kring->hwcur = nm_ring_next(ring, kring->hwcur);
        peer->pipe_tail = more ? peer->pipe_tail : kring->hwcur;
    }
}

/* Released slots go back with whatever buffers the reader has put there. */
void fake_pipe_rx(struct fake_kring *kring, struct fake_kring *peer, const struct nm_ring *ring)
{
    struct nm_ring *tx = fake_ring(peer);

    kring->hwtail = kring->pipe_tail;
    while (kring->hwcur != ring->head) {
        tx->slot[kring->hwcur] = ring->slot[kring->hwcur];
        peer->pipe_tail = kring->hwcur;
        kring->hwcur = nm_ring_next(ring, kring->hwcur);
    }
}
