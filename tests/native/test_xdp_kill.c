/*
 * xdp: and a worker that is killed: between any two instructions of a sync, and at any time under
 * load. Its successor, forked from the same parent, finds every frame once and every buffer in one
 * place.
 */
#include <string.h>

#include "stepping.h"
#include "under_load.h"
#include "xdp_wire.h"

enum {
    FRAMES = 3,
    LONG_WORDS = 750, /* the second frame takes two slots of 2 KiB */
    SLOTS_OF_THREE = 4,
    ENTRIES_OF_THREE = 5, /* its first slot goes beyond its chunk's end */
    KILLS_UNDER_LOAD = 150,
};

static const struct xdp_plan jumbo = {
    .spec = "xdp:srv0:copy", .mtu = JUMBO, .buf_size = XDP_CHUNK_MIN};

/* All that a sync may change where others see it, but for the buffers' bytes. */
static struct step_memory memory_of(const struct port *port)
{
    const struct xdp_port *xdp = xdp_port(port);
    const struct xdp_socket *sock = &xdp->socket[0];

    return (struct step_memory){.region = {{xdp->base, xdp->bytes},
                                           {sock->rx.map, sock->rx.map_bytes},
                                           {sock->fill.map, sock->fill.map_bytes},
                                           {sock->tx.map, sock->tx.map_bytes},
                                           {sock->done.map, sock->done.map_bytes}},
                                .n = 5};
}

/* One short frame, one over two slots, one short one; the first word is its number. */
static void send_three(const struct packet_wire *wire)
{
    static uint32_t payload[LONG_WORDS];

    for (uint32_t i = 0; i < FRAMES; i++) {
        size_t len = i == 1 ? sizeof(payload) : 64;

        payload[0] = i;
        CHECK(send(wire->udp, payload, len, 0) == (ssize_t)len);
    }
}

/* The successor finds the three frames, in the slots or still in the kernel's ring. */
static void three_are_there(void *context)
{
    struct packet_wire *wire = context;
    struct port *port = &wire->device->ports[0];

    for (uint32_t i = 0; i < FRAMES; i++) {
        uint32_t number;

        CHECK_EQ(port->ops->rx_sync(port, 1), 0);
        CHECK(wire_take(port));
        memcpy(&number, got.data + UDP_HEADERS, sizeof(number));
        CHECK_EQ(number, i);
        CHECK_EQ(got.slots, i == 1 ? 2 : 1);
    }
    CHECK_EQ(port->ops->rx_sync(port, 1), 0);
    CHECK(!wire_take(port));
    CHECK_EQ(port->ops->sleep_arm(port), 0);
    CHECK_EQ(xdp_wire_audit(port), 0);
}

static void a_kill_at_any_store_of_rx_sync_loses_and_doubles_nothing(void)
{
    struct packet_wire wire;
    struct step_memory memory;
    struct port *port;

    if (!xdp_wire_open(&wire, &jumbo)) {
        return;
    }
    port = &wire.device->ports[0];
    memory = memory_of(port);
    send_three(&wire);
    step_every_store(port, port->ops->rx_sync, &memory, three_are_there, &wire);
    wire_close(&wire);
}

/*
 * A burst is with the kernel, or it is not; what arrived was. The kernel's entries name the slots
 * in their order, and what it has sent is the user's again.
 */
static void the_burst_is_whole(void *context)
{
    struct packet_wire *wire = context;
    const struct port *port = &wire->device->ports[0];
    const struct xdp_port *xdp = xdp_port(port);
    const struct xdp_shared *shared = port->shared;
    const struct xdp_fifo *tx = &xdp->socket[0].tx;
    static uint32_t payload[LONG_WORDS];
    static uint32_t arrived;
    bool given = *tx->producer == ENTRIES_OF_THREE;
    bool sent = *tx->consumer == ENTRIES_OF_THREE;

    while (wire_datagram(wire, payload, sizeof(payload), sent && arrived < FRAMES)) {
        CHECK_EQ(payload[0], arrived++);
    }
    CHECK_EQ(arrived, sent ? FRAMES : 0);
    CHECK(given || *tx->producer == 0);
    CHECK(given || !sent);
    CHECK_EQ(shared->tx_commit,
             given ? (uint64_t)SLOTS_OF_THREE << 32 | ENTRIES_OF_THREE : (uint64_t)0);
    CHECK_EQ(shared->tx_done, sent ? SLOTS_OF_THREE : 0);
    CHECK_EQ(nm_ring_distance(port->tx, port->tx->head, nm_ring_tail(port->tx)),
             port->tx->num_slots - 1 - (sent ? 0 : SLOTS_OF_THREE));
    for (uint32_t i = 0; i < ENTRIES_OF_THREE && given; i++) {
        static const uint32_t slot_of_entry[] = {0, 1, 1, 2, 3};
        const struct xdp_desc *desc = xdp_desc_at(tx, i);
        uint32_t buf = xdp->tx->slot[slot_of_entry[i]].buf_idx;

        CHECK_EQ(desc->addr / xdp->chunk, i == 2 ? buf + 1 : buf);
        CHECK_EQ(desc->options, i == 1 || i == 2 ? XDP_DESC_CONTD : 0);
    }
}

static void a_kill_at_any_store_of_tx_sync_loses_and_doubles_nothing(void)
{
    static uint32_t payload[LONG_WORDS];
    struct packet_wire wire;
    struct step_memory memory;
    struct port *port;

    if (!xdp_wire_open(&wire, &jumbo)) {
        return;
    }
    port = &wire.device->ports[0];
    memory = memory_of(port);
    for (uint32_t i = 0; i < FRAMES; i++) {
        payload[0] = i;
        wire_push_udp(&wire, payload, i == 1 ? sizeof(payload) : 64);
    }
    step_every_store(port, port->ops->tx_sync, &memory, the_burst_is_whole, &wire);
    CHECK_EQ(xdp_wire_audit(port), 0);
    wire_close(&wire);
}

static void receivers_killed_under_load_lose_and_double_nothing(void)
{
    struct packet_wire wire;
    struct port *port;

    if (!xdp_wire_open(&wire, &(struct xdp_plan){.spec = "xdp:srv0"})) {
        return;
    }
    port = &wire.device->ports[0];
    under_load_kill_receivers(&wire, KILLS_UNDER_LOAD, false);
    CHECK_EQ(port->ops->recover(port), 0);
    CHECK_EQ(port->counters->rx_missed, 0);
    CHECK_EQ(xdp_wire_audit(port), 0);
    wire_close(&wire);
}

static void senders_killed_under_load_lose_and_double_nothing(void)
{
    struct packet_wire wire;

    if (!xdp_wire_open(&wire, &(struct xdp_plan){.spec = "xdp:srv0"})) {
        return;
    }
    under_load_kill_senders(&wire, KILLS_UNDER_LOAD);
    CHECK_EQ(xdp_wire_audit(&wire.device->ports[0]), 0);
    wire_close(&wire);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a kill at any store of rx_sync loses and doubles nothing",
         a_kill_at_any_store_of_rx_sync_loses_and_doubles_nothing},
        {"a kill at any store of tx_sync loses and doubles nothing",
         a_kill_at_any_store_of_tx_sync_loses_and_doubles_nothing},
        {"receivers killed under load lose and double nothing",
         receivers_killed_under_load_lose_and_double_nothing},
        {"senders killed under load lose and double nothing",
         senders_killed_under_load_lose_and_double_nothing},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
