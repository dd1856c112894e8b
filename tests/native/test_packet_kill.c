/*
 * packet: and a worker that is killed: between any two instructions of a sync, and at any time
 * under load. Its successor, forked from the same parent, finds every frame once.
 */
#include <linux/if_packet.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "packet_wire.h"
#include "under_load.h"

enum {
    FRAMES = 3,
    REGIONS = 2 + FRAMES + 1,
    CHECKS_MIN = 10, /* a sync makes more visible stores than that */
    KILLS_UNDER_LOAD = 150,
};

/* All that a sync may change where others see it, but for the buffers' bytes. */
struct snapshot {
    struct iovec region[REGIONS];
    uint8_t *copy[REGIONS];
};

typedef void check_fn(struct packet_wire *wire);

static void snapshot_begin(struct snapshot *snapshot, const struct port *port)
{
    const struct packet_ring *ring = packet_ring(port);
    const uint8_t *bufs = (uint8_t *)port->rx + port->rx->buf_ofs;
    uint32_t first = (uint32_t)packet_shared(port)->rx_commit;

    snapshot->region[0] = (struct iovec){ring->rings.base, (size_t)(bufs - ring->rings.base)};
    snapshot->region[1] = (struct iovec){port->shared, sizeof(struct packet_shared)};
    for (uint32_t i = 0; i <= FRAMES; i++) {
        uint32_t index = (first + i) % ring->frames;

        snapshot->region[2 + i].iov_base = ring->map +
                                           index / PACKET_BLOCK_FRAMES * PACKET_BLOCK_SIZE +
                                           index % PACKET_BLOCK_FRAMES * PACKET_FRAME_SIZE;
        snapshot->region[2 + i].iov_len = sizeof(struct tpacket2_hdr);
    }
    for (uint32_t i = 0; i < REGIONS; i++) {
        snapshot->copy[i] = calloc(1, snapshot->region[i].iov_len);
    }
}

static void snapshot_end(struct snapshot *snapshot)
{
    for (uint32_t i = 0; i < REGIONS; i++) {
        free(snapshot->copy[i]);
    }
}

static bool snapshot_changed(const struct snapshot *snapshot)
{
    for (uint32_t i = 0; i < REGIONS; i++) {
        if (memcmp(snapshot->copy[i], snapshot->region[i].iov_base, snapshot->region[i].iov_len)) {
            return true;
        }
    }
    return false;
}

static void snapshot_save(struct snapshot *snapshot)
{
    for (uint32_t i = 0; i < REGIONS; i++) {
        memcpy(snapshot->copy[i], snapshot->region[i].iov_base, snapshot->region[i].iov_len);
    }
}

static void snapshot_restore(const struct snapshot *snapshot)
{
    for (uint32_t i = 0; i < REGIONS; i++) {
        memcpy(snapshot->region[i].iov_base, snapshot->copy[i], snapshot->region[i].iov_len);
    }
}

static pid_t fork_traced(struct port *port, int (*sync)(struct port *, uint64_t))
{
    pid_t pid = fork();

    if (pid != 0) {
        return pid;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) {
        _exit(1);
    }
    raise(SIGSTOP);
    _exit(sync(port, wire_now_us()) != 0);
}

/*
 * Runs a sync in a child, one instruction at a time. Whenever it has stored something, plays its
 * death: `check` recovers and looks at what is there, and all is put back for the next instruction.
 */
static void at_every_store(struct packet_wire *wire, int (*sync)(struct port *, uint64_t),
                           check_fn *check)
{
    struct port *port = &wire->device->ports[0];
    struct snapshot snapshot;
    uint32_t checks = 0;
    int status = 0;
    pid_t pid = fork_traced(port, sync);

    waitpid(pid, &status, 0);
    if (!WIFSTOPPED(status)) {
        check_skip("this system refuses ptrace");
        return;
    }
    snapshot_begin(&snapshot, port);
    while (WIFSTOPPED(status)) {
        if (snapshot_changed(&snapshot)) {
            snapshot_save(&snapshot);
            CHECK_EQ(port->ops->recover(port), 0);
            check(wire);
            snapshot_restore(&snapshot);
            checks++;
        }
        ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL);
        waitpid(pid, &status, 0);
    }
    CHECK_EQ(status, 0);
    CHECK(checks > CHECKS_MIN);
    snapshot_end(&snapshot);
}

/* One short frame, one over two slots, one short one; the first word is its number. */
static void send_three(const struct packet_wire *wire)
{
    static uint32_t payload[750];

    for (uint32_t i = 0; i < FRAMES; i++) {
        size_t len = i == 1 ? sizeof(payload) : 64;

        payload[0] = i;
        CHECK(send(wire->udp, payload, len, 0) == (ssize_t)len);
    }
}

/* The successor finds the three frames, in the slots or still in the kernel's ring. */
static void three_are_there(struct packet_wire *wire)
{
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
    CHECK_EQ(port->ops->sleep_arm(port), 0); /* the kernel has all its frames again */
}

static void a_kill_at_any_store_of_rx_sync_loses_and_doubles_nothing(void)
{
    struct packet_wire wire;

    if (!wire_open(&wire, 1, JUMBO)) {
        return;
    }
    send_three(&wire);
    at_every_store(&wire, wire.device->ports[0].ops->rx_sync, three_are_there);
    wire_close(&wire);
}

/* A frame given back and filled anew while its worker died is the kernel's news, not a leftover. */
static void a_frame_filled_anew_is_not_given_back_twice(void)
{
    struct packet_wire wire;
    struct port *port;
    uint32_t number = 0;

    if (!wire_open(&wire, 1, 1500)) {
        return;
    }
    port = &wire.device->ports[0];
    CHECK(send(wire.udp, &number, sizeof(number), 0) == sizeof(number));
    CHECK_EQ(port->ops->rx_sync(port, 1), 0);
    packet_shared(port)->rx_returned = 0; /* as if killed just before this store */
    CHECK(wire_take(port));
    for (number = 1; number <= packet_ring(port)->frames; number++) { /* a lap of the ring */
        CHECK(send(wire.udp, &number, sizeof(number), 0) == sizeof(number));
    }
    CHECK_EQ(port->ops->recover(port), 0);
    for (uint32_t i = 1; i <= packet_ring(port)->frames; i++) {
        CHECK(wire_receive(port));
        memcpy(&number, got.data + UDP_HEADERS, sizeof(number));
        CHECK_EQ(number, i);
    }
    wire_close(&wire);
}

/* The successor's cursor stands behind exactly the frames that have arrived. */
static void what_arrived_is_behind_the_cursor(struct packet_wire *wire)
{
    static const uint32_t slot_after[] = {0, 1, 3, 4};
    static uint32_t payload[750];
    static uint32_t arrived;
    const struct port *port = &wire->device->ports[0];

    while (wire_datagram(wire, payload, sizeof(payload),
                         packet_shared(port)->tx_commit > slot_after[arrived])) {
        CHECK_EQ(payload[0], arrived++);
    }
    CHECK(arrived <= FRAMES);
    CHECK_EQ(packet_shared(port)->tx_commit, slot_after[arrived]);
    CHECK_EQ(nm_ring_distance(port->tx, port->tx->head, nm_ring_tail(port->tx)),
             port->tx->num_slots - 1 - (slot_after[FRAMES] - slot_after[arrived]));
}

static void a_kill_at_any_store_of_tx_sync_loses_and_doubles_nothing(void)
{
    struct packet_wire wire;
    static uint32_t payload[750];

    if (!wire_open(&wire, 1, JUMBO)) {
        return;
    }
    for (uint32_t i = 0; i < FRAMES; i++) {
        payload[0] = i;
        wire_push_udp(&wire, payload, i == 1 ? sizeof(payload) : 64);
    }
    at_every_store(&wire, wire.device->ports[0].ops->tx_sync, what_arrived_is_behind_the_cursor);
    wire_close(&wire);
}

static void receivers_killed_under_load_lose_and_double_nothing(void)
{
    struct packet_wire wire;

    if (!wire_open(&wire, 1, 1500)) {
        return;
    }
    under_load_kill_receivers(&wire, KILLS_UNDER_LOAD, false);
    CHECK_EQ(wire.device->ports[0].counters->rx_missed, 0);
    wire_close(&wire);
}

static void senders_killed_under_load_lose_and_double_nothing(void)
{
    struct packet_wire wire;

    if (!wire_open(&wire, 1, 1500)) {
        return;
    }
    under_load_kill_senders(&wire, KILLS_UNDER_LOAD);
    wire_close(&wire);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a kill at any store of rx_sync loses and doubles nothing",
         a_kill_at_any_store_of_rx_sync_loses_and_doubles_nothing},
        {"a frame filled anew is not given back twice",
         a_frame_filled_anew_is_not_given_back_twice},
        {"a kill at any store of tx_sync loses and doubles nothing",
         a_kill_at_any_store_of_tx_sync_loses_and_doubles_nothing},
        {"receivers killed under load lose and double nothing",
         receivers_killed_under_load_lose_and_double_nothing},
        {"senders killed under load lose and double nothing",
         senders_killed_under_load_lose_and_double_nothing},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
