/* The software wires: mem: from both sides, a pipe, a switch. Their other end is a port, too. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conformance.h"
#include "soft_wire.h"

enum {
    NOW_US = 1000, /* the other end's clock stands still: it never gives up on us */
};

struct peer {
    struct device *device; /* its own, or the mem: device that both ends are on */
    struct mem_attachment *attachment;
    struct port *port; /* NULL: it has hung up */
    struct device_config config;
    char spec[64];
};

static void open_peer(struct rig *rig, const char *prefix, const char *rest)
{
    struct peer *peer = calloc(1, sizeof(*peer));

    peer->config = (struct device_config){.rings = 1, .slots = rig->slots, .mtu = RIG_MTU};
    snprintf(peer->spec, sizeof(peer->spec), "%s", soft_wire_name(prefix, rest));
    rig->peer = peer;
}

/* The server's port of mem: is under test, a client is the other end. */
static void attach(struct rig *rig)
{
    struct peer *peer = rig->peer;

    CHECK_EQ(mem_attach_local(&peer->attachment, rig->device), 0);
    peer->port = mem_attachment_port(peer->attachment);
    memcpy(rig->theirs, mem_attachment_mac(peer->attachment, false), 6);
}

static void detach(struct rig *rig)
{
    if (rig->peer->attachment) {
        mem_detach(rig->peer->attachment);
    }
    rig->peer->attachment = NULL;
    rig->peer->port = NULL;
}

static bool mem_open(struct rig *rig)
{
    open_peer(rig, "mem:conformance", "");
    rig->device = soft_wire_open(rig->peer->spec, &rig->peer->config, NULL);
    rig->port = &rig->device->ports[0];
    memcpy(rig->ours, rig->device->mac, 6);
    attach(rig);
    return true;
}

static void mem_close(struct rig *rig)
{
    detach(rig);
    device_close(rig->device);
    free(rig->peer);
}

static void mem_link(struct rig *rig, bool up)
{
    if (up) {
        attach(rig);
    } else {
        detach(rig);
    }
}

static void mem_remove(struct rig *rig)
{
    detach(rig);
}

/* The client's port is under test, the server's is the other end. */
static bool client_open(struct rig *rig)
{
    struct peer *peer;

    open_peer(rig, "mem:conformance", "");
    peer = rig->peer;
    peer->device = soft_wire_open(peer->spec, &peer->config, NULL);
    peer->port = &peer->device->ports[0];
    peer->attachment = soft_wire_attach(peer->spec, peer->device);
    rig->port = mem_attachment_port(peer->attachment);
    memcpy(rig->ours, mem_attachment_mac(peer->attachment, false), 6);
    memcpy(rig->theirs, mem_attachment_mac(peer->attachment, true), 6);
    return true;
}

static void client_close(struct rig *rig)
{
    mem_detach(rig->peer->attachment);
    if (rig->peer->device) {
        device_close(rig->peer->device);
    }
    free(rig->peer);
}

static void end_owner(struct rig *rig)
{
    device_close(rig->peer->device);
    rig->peer->device = NULL;
    rig->peer->port = NULL;
}

/* The memory stays mapped; that nobody is there, the connection says. */
static bool owner_is_gone(struct rig *rig)
{
    struct pollfd fd = {.fd = mem_attachment_fd(rig->peer->attachment), .events = POLLIN};

    return poll(&fd, 1, COME_MS) == 1 && !mem_attachment_alive(rig->peer->attachment);
}

static int client_audit(struct rig *rig)
{
    return rig->peer->device ? device_audit(rig->peer->device) : 0; /* with it, all went */
}

/* Both ends of a pipe, or two ports of a switch: who opens second asks the first. */
static void connect_peer(struct rig *rig)
{
    struct peer *peer = rig->peer;

    peer->device = soft_wire_open(peer->spec, &peer->config, rig->device);
    peer->port = &peer->device->ports[0];
    memcpy(rig->theirs, peer->device->mac, 6);
}

static bool pair_open(struct rig *rig, const char *prefix, const char *mine, const char *theirs)
{
    open_peer(rig, prefix, theirs);
    rig->device = soft_wire_open(soft_wire_name(prefix, mine), &rig->peer->config, NULL);
    rig->port = &rig->device->ports[0];
    memcpy(rig->ours, rig->device->mac, 6);
    connect_peer(rig);
    return true;
}

static bool pipe_open(struct rig *rig)
{
    return pair_open(rig, "mem:conformance", "{1", "}1");
}

static bool vale_open(struct rig *rig)
{
    return pair_open(rig, "vale:conf", ":ours", ":theirs");
}

static void disconnect_peer(struct rig *rig)
{
    if (rig->peer->device) {
        device_close(rig->peer->device);
    }
    rig->peer->device = NULL;
    rig->peer->port = NULL;
}

static void pair_close(struct rig *rig)
{
    disconnect_peer(rig);
    device_close(rig->device);
    free(rig->peer);
}

static void pair_link(struct rig *rig, bool up)
{
    if (up) {
        connect_peer(rig);
    } else {
        disconnect_peer(rig);
    }
}

static int device_audited(struct rig *rig)
{
    return device_audit(rig->device);
}

/* The other end's own rings, without virtio headers. */
static bool inject(struct rig *rig, const struct frame *frame)
{
    struct port *port = rig->peer->port;
    struct nm_ring *ring = port->tx;
    uint32_t slots = (frame->len + ring->nr_buf_size - 1) / ring->nr_buf_size;
    uint32_t at = ring->head;

    CHECK_EQ(port->ops->tx_sync(port, NOW_US), 0);
    if (nm_ring_space(ring) < slots) {
        return false;
    }
    for (uint32_t done = 0; done < frame->len; at = nm_ring_next(ring, at)) {
        uint32_t part = min_u32(frame->len - done, ring->nr_buf_size);

        memcpy(nm_ring_buf(ring, at), frame->data + done, part);
        done += part;
        ring->slot[at].len = (uint16_t)part;
        ring->slot[at].flags = done < frame->len ? NM_MOREFRAG : 0;
    }
    nm_ring_give(ring, at);
    CHECK_EQ(port->ops->tx_sync(port, NOW_US), 0);
    return true;
}

static bool collect(struct rig *rig, struct frame *frame)
{
    struct port *port = rig->peer->port;
    struct nm_ring *ring;
    uint32_t at;
    bool more = true;

    if (!port) {
        return false;
    }
    ring = port->rx;
    CHECK_EQ(port->ops->rx_sync(port, NOW_US), 0);
    frame->hdr = (struct vnet_hdr){0};
    frame->len = 0;
    if (nm_ring_empty(ring)) {
        return false;
    }
    for (at = ring->head; more && CHECK(at != nm_ring_tail(ring)); at = nm_ring_next(ring, at)) {
        memcpy(frame->data + frame->len, nm_ring_buf(ring, at), ring->slot[at].len);
        frame->len += ring->slot[at].len;
        more = ring->slot[at].flags & NM_MOREFRAG;
    }
    nm_ring_give(ring, at);
    CHECK_EQ(port->ops->rx_sync(port, NOW_US), 0); /* and back: a pipe's sender waits for that */
    return true;
}

/* What it still has to send goes on, too. */
static uint64_t dropped_by_peer(struct rig *rig)
{
    CHECK_EQ(rig->peer->port->ops->tx_sync(rig->peer->port, NOW_US), 0);
    return rig->peer->port->counters->tx_dropped;
}

const struct wire wire_mem = {.name = "mem",
                              .holds = true,
                              .open = mem_open,
                              .close = mem_close,
                              .inject = inject,
                              .collect = collect,
                              .audit = device_audited,
                              .lost = dropped_by_peer,
                              .link = mem_link,
                              .remove = mem_remove};

const struct wire wire_mem_client = {
    .name = "mem client",
    .holds = true,
    .open = client_open,
    .close = client_close,
    .inject = inject,
    .collect = collect,
    .audit = client_audit,
    .lost = dropped_by_peer,
    .remove = end_owner,
    .told = owner_is_gone,
    .excused = {[CASE_DOWN] = "a client's link is up as long as its owner lives"},
};

const struct wire wire_pipe = {.name = "pipe",
                               .holds = true,
                               .open = pipe_open,
                               .close = pair_close,
                               .inject = inject,
                               .collect = collect,
                               .audit = device_audited,
                               .lost = dropped_by_peer,
                               .link = pair_link,
                               .remove = disconnect_peer};

const struct wire wire_vale = {.name = "vale",
                               .open = vale_open,
                               .close = pair_close,
                               .inject = inject,
                               .collect = collect,
                               .audit = device_audited,
                               .lost = dropped_by_peer,
                               .link = pair_link,
                               .remove = disconnect_peer};
