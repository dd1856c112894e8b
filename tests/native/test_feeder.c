/*
 * A feeder and those it feeds, when they are killed. The device is a capture on a veth pair: the
 * worker's side of the rings is the same for pcap, vde and a TAP of one queue.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"
#include "kill_steps.h"
#include "packet_wire.h"
#include "ports/feeder.h"
#include "under_load.h"

enum {
    FRAMES = 3,
    CHANGES_MAX = 400,
    KILLS_UNDER_LOAD = 100,
    LONG = 3000,
    FEEDER_KILLS = 5,
    KEYS = 2000,
    KEY_FLOWS = 60,
};

static bool fed_open(struct packet_wire *wire)
{
    struct device_config config = {.rings = 1, .slots = 256};

    *wire = (struct packet_wire){.udp = -1};
    if (!wire_has_libpcap() || !wire_make(1, JUMBO) ||
        !wire_open_device(wire, "pcap:srv0", &config)) {
        return false;
    }
    wire_read_client_mac(wire);
    wire->udp = wire_client(CLIENT_PORT);
    return true;
}

static struct fed_shared *shared_of(const struct packet_wire *wire)
{
    return wire->device->ports[0].shared;
}

/* Sends a short frame, one over two slots and a short one; waits until the feeder has them. */
static void send_three(const struct packet_wire *wire)
{
    static uint32_t payload[LONG / 4];
    uint32_t filled = shared_of(wire)->filled;
    uint64_t end = wire_now_us() + WAIT_MS * 1000;

    for (uint32_t i = 0; i < FRAMES; i++) {
        size_t len = i == 1 ? LONG : 64;

        payload[0] = i;
        CHECK(send(wire->udp, payload, len, 0) == (ssize_t)len);
    }
    while (shared_of(wire)->filled != (filled + FRAMES + 1) % 256 && wire_now_us() < end) {
        usleep(10);
    }
}

static void three_are_there(const struct packet_wire *wire)
{
    struct port *port = &wire->device->ports[0];

    CHECK_EQ(port->ops->rx_sync(port, 1), 0);
    for (uint32_t i = 0; i < FRAMES; i++) {
        uint32_t number;

        if (!CHECK(wire_take(port))) {
            return;
        }
        memcpy(&number, got.data + UDP_HEADERS, sizeof(number));
        CHECK_EQ(number, i);
        CHECK_EQ(got.len, UDP_HEADERS + (i == 1 ? LONG : 64));
    }
    CHECK(!wire_take(port));
}

static void a_worker_killed_at_any_store_of_rx_sync_loses_nothing(void)
{
    struct packet_wire wire;
    struct port *port;
    uint32_t change = 0;
    int killed = 1;

    if (!fed_open(&wire)) {
        return;
    }
    port = &wire.device->ports[0];
    for (; killed == 1 && change < CHANGES_MAX; change++) {
        struct kill_watch watch[KILL_WATCHES] = {
            {port->rx, sizeof(*port->rx) + port->rx->num_slots * sizeof(struct nm_slot)},
            {port->shared, sizeof(struct fed_shared)},
        };

        send_three(&wire);
        killed = kill_at_change(port, port->ops->rx_sync, watch, change);
        if (killed < 0) {
            check_skip("this system refuses ptrace");
            break;
        }
        CHECK_EQ(port->ops->recover(port), 0);
        three_are_there(&wire);
    }
    CHECK(killed < 0 || (change > 2 && killed == 0));
    wire_close(&wire);
}

static void workers_killed_under_load_lose_and_double_nothing(void)
{
    struct packet_wire wire;

    if (!fed_open(&wire)) {
        return;
    }
    under_load_kill_receivers(&wire, KILLS_UNDER_LOAD, true);
    CHECK_EQ(shared_of(&wire)->missed, 0);
    wire_close(&wire);
}

/* What a worker writes where only positions belong costs it its frames, and nobody else. */
static void a_confused_worker_gets_nothing(void)
{
    struct packet_wire wire;
    struct port *port;
    uint64_t end;

    if (!fed_open(&wire)) {
        return;
    }
    port = &wire.device->ports[0];
    shared_of(&wire)->returned = 100000;
    CHECK(send(wire.udp, "x", 1, 0) == 1);
    end = wire_now_us() + WAIT_MS * 1000;
    while (shared_of(&wire)->missed == 0 && wire_now_us() < end) {
        usleep(100);
    }
    CHECK_EQ(shared_of(&wire)->missed, 1);
    CHECK_EQ(port->ops->rx_sync(port, 1), 0); /* stores the position that the ring has */
    send_three(&wire);
    three_are_there(&wire);
    shared_of(&wire)->filled = 100000;
    CHECK_EQ(port->ops->rx_sync(port, 1), -EIO);
    wire_close(&wire);
}

/* The feeder reads what strangers sent: were it theirs, it would still not reach beyond the rings.
 */
static void a_confused_feeder_stops_the_port(void)
{
    static const struct nm_slot wrong[] = {{.buf_idx = 1, .len = 100},
                                           {.buf_idx = 1u << 30, .len = 100},
                                           {.buf_idx = 300, .len = UINT16_MAX},
                                           {.buf_idx = 300, .len = PORT_VNET_HDR_LEN},
                                           {.buf_idx = 300, .len = 100, .flags = NM_MOREFRAG}};
    struct packet_wire wire;
    struct port *port;

    if (!fed_open(&wire)) {
        return;
    }
    port = &wire.device->ports[0];
    for (uint32_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct nm_slot good = port->rx->slot[0];

        port->rx->slot[0] = wrong[i];
        shared_of(&wire)->filled = 1;
        CHECK_EQ(port->ops->rx_sync(port, 1), -EIO);
        CHECK(nm_ring_empty(port->rx));
        CHECK_EQ(port->counters->errors, i + 1);
        port->rx->slot[0] = good;
    }
    CHECK_EQ(port->counters->rx_frames, 0);
    wire_close(&wire);
}

/* Clients take one port after the other: whatever the key, no ring stays idle. */
static void neighbouring_ports_reach_all_rings_with_any_key(void)
{
    uint8_t frame[UDP_HEADERS] = {[12] = 8, [14] = 0x45, [23] = PROTO_UDP, [37] = SERVICE_PORT};
    uint64_t seed = 1;

    for (uint32_t i = 0; i < KEYS; i++) {
        uint64_t key[2] = {splitmix64(&seed), splitmix64(&seed)};
        uint32_t flows[4] = {0};

        for (uint32_t flow = 0; flow < KEY_FLOWS; flow++) {
            frame[ETH_HDR_LEN + IPV4_HDR_LEN] = (uint8_t)((CLIENT_PORT + flow) >> 8);
            frame[ETH_HDR_LEN + IPV4_HDR_LEN + 1] = (uint8_t)(CLIENT_PORT + flow);
            flows[feeder_ring(key, 4, frame, sizeof(frame))]++;
        }
        if (!CHECK(flows[0] && flows[1] && flows[2] && flows[3])) {
            return;
        }
    }
}

static pid_t feeder_pid(void)
{
    char path[64];
    FILE *file;
    int pid = 0;

    snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
    file = fopen(path, "r");
    CHECK(file && fscanf(file, "%d", &pid) == 1);
    if (file) {
        fclose(file);
    }
    return pid;
}

static void a_killed_feeder_is_replaced(void)
{
    struct packet_wire wire;
    struct pollfd event;

    if (!fed_open(&wire)) {
        return;
    }
    event = (struct pollfd){.fd = wire.device->event_fd, .events = POLLIN};
    for (int k = 0; k < FEEDER_KILLS; k++) {
        pid_t pid = feeder_pid();

        send_three(&wire);
        CHECK_EQ(kill(pid, SIGKILL), 0);
        CHECK_EQ(poll(&event, 1, WAIT_MS), 1);
        CHECK_EQ(device_event(wire.device), 1);
        CHECK_EQ(poll(&event, 1, 0), 0);
        CHECK(feeder_pid() != pid);
        three_are_there(&wire); /* what it had published is the worker's */
        send_three(&wire);
        three_are_there(&wire);
    }
    wire_close(&wire);
    CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a worker killed at any store of rx_sync loses nothing",
         a_worker_killed_at_any_store_of_rx_sync_loses_nothing},
        {"workers killed under load lose and double nothing",
         workers_killed_under_load_lose_and_double_nothing},
        {"a confused worker gets nothing", a_confused_worker_gets_nothing},
        {"a confused feeder stops the port", a_confused_feeder_stops_the_port},
        {"neighbouring ports reach all rings with any key",
         neighbouring_ports_reach_all_rings_with_any_key},
        {"a killed feeder is replaced", a_killed_feeder_is_replaced},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
