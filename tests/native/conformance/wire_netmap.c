/* netmap: on the fake module of the tests, a NIC with one ring pair. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "conformance.h"
#include "netmap_case.h"

struct peer {
    struct fake_port *nic;
    uint32_t bufs_free; /* after the open */
};

static bool netmap_open(struct rig *rig)
{
    static const uint8_t theirs[6] = {0x52, 0x54, 0, 9, 9, 9};

    fake_begin();
    rig->peer = calloc(1, sizeof(*rig->peer));
    rig->peer->nic = fake_nic("eth0", 1, 1, rig->slots);
    rig->device = case_port("eth0-0");
    if (!rig->device) {
        return false;
    }
    rig->port = &rig->device->ports[0];
    rig->peer->bufs_free = fake_free_bufs();
    memcpy(rig->ours, rig->device->mac, 6);
    memcpy(rig->theirs, theirs, 6);
    return true;
}

static void netmap_close(struct rig *rig)
{
    device_close(rig->device);
    CHECK(fake_end());
    free(rig->peer);
}

static bool inject(struct rig *rig, const struct frame *frame)
{
    return fake_receive(rig->peer->nic, 0, frame->data, frame->len);
}

static bool collect(struct rig *rig, struct frame *frame)
{
    frame->hdr = (struct vnet_hdr){0};
    frame->len = fake_sent(rig->peer->nic, 0, frame->data);
    return frame->len > 0;
}

static bool woken(struct rig *rig, int ms)
{
    return fake_kernel.poll(rig->port->wait_fd, POLLIN, ms) != 0;
}

/* Each slot of the NIC's rings has a buffer of its own, and nobody else has one. */
static int audit(struct rig *rig)
{
    uint8_t seen[FAKE_BUFS] = {0};
    int wrong = fake_free_bufs() != rig->peer->bufs_free;

    for (uint32_t i = 0; i < rig->slots; i++) {
        seen[rig->port->rx->slot[i].buf_idx % FAKE_BUFS]++;
        seen[rig->port->tx->slot[i].buf_idx % FAKE_BUFS]++;
    }
    for (uint32_t i = 0; i < FAKE_BUFS; i++) {
        wrong += seen[i] > 1;
    }
    return wrong;
}

static void stall(struct rig *rig, bool on)
{
    rig->peer->nic->stuck = on ? UINT32_MAX : 0;
}

/* A NIC without a carrier takes nothing and brings nothing. */
static void set_link(struct rig *rig, bool up)
{
    stall(rig, !up);
}

static void delete_nic(struct rig *rig)
{
    rig->peer->nic->kring[FAKE_RX][0].stopped = true;
    rig->peer->nic->kring[FAKE_TX][0].stopped = true;
}

const struct wire wire_netmap = {
    .name = "netmap",
    .poll_syncs = true,
    .holds = true,
    .open = netmap_open,
    .close = netmap_close,
    .inject = inject,
    .collect = collect,
    .woken = woken,
    .audit = audit,
    .stall = stall,
    .link = set_link,
    .remove = delete_nic,
    .gone = -ENODEV,
    .excused = {[CASE_UNFINISHED_FRAME] = "a driver takes slots as they are published, not frames"},
};
