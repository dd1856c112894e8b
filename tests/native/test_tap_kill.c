/*
 * tap: and a worker that is killed: at any store of a sync, and at any time under load. Its
 * successor, forked from the same parent, finds every frame once, and sends each at least once.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kill_steps.h"
#include "packet_wire.h"
#include "ports/tap.h"
#include "under_load.h"

enum {
    FRAMES = 3,
    CHANGES_MIN = 10, /* a sync makes more visible stores than that */
    CHANGES_MAX = 400,
    KILLS_UNDER_LOAD = 150,
    LONG = 3000,
};

static bool tap_open(struct packet_wire *wire)
{
    struct device_config config = {.rings = 1, .slots = 256, .mtu = JUMBO};
    int fd;

    if (!wire_enter()) {
        return false;
    }
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        check_skip("/dev/net/tun cannot be opened here");
        return false;
    }
    close(fd);
    return wire_open_host(wire, "tap:cli0", &config);
}

static void watch_port(const struct port *port, struct kill_watch watch[KILL_WATCHES])
{
    const struct nm_ring *rx = port->rx;
    const struct nm_ring *tx = port->tx;
    uint32_t tail = (uint32_t)tap_shared(port)->rx_commit;
    size_t ring = sizeof(*rx) + rx->num_slots * sizeof(struct nm_slot);

    watch[0] = (struct kill_watch){rx, ring};
    watch[1] = (struct kill_watch){tx, ring};
    watch[2] = (struct kill_watch){port->shared, sizeof(struct tap_shared)};
    watch[3] = (struct kill_watch){nm_ring_buf(rx, tail), rx->nr_buf_size}; /* where reads begin */
}

static void send_three(const struct packet_wire *wire)
{
    static uint32_t payload[LONG / 4];

    for (uint32_t i = 0; i < FRAMES; i++) {
        size_t len = i == 1 ? LONG : 64;

        payload[0] = i;
        CHECK(send(wire->udp, payload, len, 0) == (ssize_t)len);
    }
}

/* The successor finds the three frames, in the slots or still in the kernel's queue. */
static void three_are_there(const struct packet_wire *wire)
{
    struct port *port = &wire->device->ports[0];

    for (uint32_t i = 0; i < FRAMES; i++) {
        uint32_t number;

        CHECK_EQ(port->ops->rx_sync(port, 1), 0);
        if (!CHECK(wire_take(port))) {
            return;
        }
        memcpy(&number, got.data + UDP_HEADERS, sizeof(number));
        CHECK_EQ(number, i);
        CHECK_EQ(got.len, UDP_HEADERS + (i == 1 ? LONG : 64));
        CHECK_EQ(got.slots, i == 1 ? 2 : 1);
    }
    CHECK_EQ(port->ops->rx_sync(port, 1), 0);
    CHECK(!wire_take(port));
}

static void a_kill_at_any_store_of_rx_sync_loses_and_doubles_nothing(void)
{
    struct packet_wire wire;
    struct kill_watch watch[KILL_WATCHES];
    struct port *port;
    uint32_t change = 0;
    int killed = 1;

    if (!tap_open(&wire)) {
        return;
    }
    port = &wire.device->ports[0];
    for (; killed == 1 && change < CHANGES_MAX; change++) {
        send_three(&wire);
        watch_port(port, watch);
        killed = kill_at_change(port, port->ops->rx_sync, watch, change);
        if (killed < 0) {
            check_skip("this system refuses ptrace");
            break;
        }
        CHECK_EQ(port->ops->recover(port), 0);
        three_are_there(&wire);
    }
    CHECK(killed < 0 || (change > CHANGES_MIN && killed == 0));
    wire_close_host(&wire);
}

/* All three have arrived, in order; the one in the system call may have come twice. */
static void three_arrived(const struct packet_wire *wire)
{
    static uint32_t payload[LONG / 4];
    uint32_t next = 0;
    uint32_t twice = 0;

    while (wire_datagram(wire, payload, sizeof(payload), next < FRAMES)) {
        if (payload[0] + 1 == next) {
            twice++;
        } else {
            CHECK_EQ(payload[0], next++);
        }
    }
    CHECK_EQ(next, FRAMES);
    CHECK(twice <= 1);
}

static void a_kill_at_any_store_of_tx_sync_loses_nothing(void)
{
    struct packet_wire wire;
    struct kill_watch watch[KILL_WATCHES];
    static uint32_t payload[LONG / 4];
    struct port *port;
    uint32_t change = 0;
    int killed = 1;

    if (!tap_open(&wire)) {
        return;
    }
    port = &wire.device->ports[0];
    for (; killed == 1 && change < CHANGES_MAX; change++) {
        for (uint32_t i = 0; i < FRAMES; i++) {
            payload[0] = i;
            wire_push_udp(&wire, payload, i == 1 ? LONG : 64);
        }
        watch_port(port, watch);
        killed = kill_at_change(port, port->ops->tx_sync, watch, change);
        if (killed < 0) {
            check_skip("this system refuses ptrace");
            break;
        }
        CHECK_EQ(port->ops->recover(port), 0);
        CHECK_EQ(port->ops->tx_sync(port, 1), 0);
        CHECK_EQ(nm_ring_space(port->tx), port->tx->num_slots - 1);
        three_arrived(&wire);
    }
    CHECK(killed < 0 || (change > FRAMES && killed == 0));
    wire_close_host(&wire);
}

static void receivers_killed_under_load_lose_and_double_nothing(void)
{
    struct packet_wire wire;

    if (!tap_open(&wire)) {
        return;
    }
    under_load_kill_receivers(&wire, KILLS_UNDER_LOAD, false);
    CHECK_EQ(wire.device->ports[0].counters->rx_missed, 0);
    wire_close_host(&wire);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a kill at any store of rx_sync loses and doubles nothing",
         a_kill_at_any_store_of_rx_sync_loses_and_doubles_nothing},
        {"a kill at any store of tx_sync loses nothing",
         a_kill_at_any_store_of_tx_sync_loses_nothing},
        {"receivers killed under load lose and double nothing",
         receivers_killed_under_load_lose_and_double_nothing},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
