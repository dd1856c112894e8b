/*
 * packet: and a worker that is killed: between any two instructions of a sync, and at any time under
 * load. Its successor, forked from the same parent, finds every frame once.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "packet_wire.h"

enum {
    FRAMES = 3,
    KILLS_AT_STEPS = 120, /* per direction, spread over the instructions of a sync */
    KILLS_UNDER_LOAD = 150,
    LOAD_BURST = 20,
    STEPS_MAX = 1000000,
};

/* What a worker leaves behind, besides the port: MAP_SHARED. */
struct progress {
    uint64_t commit; /* (sequence number expected << 32) | RX slot: stored at once */
    uint32_t wrong;
};

static struct progress *progress_new(void)
{
    void *page = mmap(NULL, sizeof(struct progress), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    CHECK(page != MAP_FAILED);
    return page;
}

/* Runs `work` in a child, one instruction at a time, and kills it after `steps` of them. */
static uint32_t run_steps(struct port *port, int (*work)(struct port *, uint64_t), uint32_t steps)
{
    uint32_t done = 0;
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        work(port, wire_now_us());
        _exit(0);
    }
    waitpid(pid, &status, 0);
    while (WIFSTOPPED(status) && done < steps) {
        ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL);
        waitpid(pid, &status, 0);
        done++;
    }
    if (!WIFEXITED(status)) {
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
    }
    return done;
}

static bool can_trace(struct port *port)
{
    if (run_steps(port, port->ops->rx_sync, 1) == 1) {
        return true;
    }
    check_skip("this system refuses ptrace");
    return false;
}

/* One short frame, one over two slots, one short one; the first word is its number. */
static void send_three(const struct packet_wire *wire, uint32_t round)
{
    static uint32_t payload[750];

    for (uint32_t i = 0; i < FRAMES; i++) {
        size_t len = i == 1 ? sizeof(payload) : 64;

        payload[0] = round * FRAMES + i;
        CHECK(send(wire->udp, payload, len, 0) == (ssize_t)len);
    }
}

static void kill_in_receive(struct packet_wire *wire, uint32_t round, uint32_t steps)
{
    struct port *port = &wire->device->ports[0];

    send_three(wire, round);
    run_steps(port, port->ops->rx_sync, steps);
    CHECK_EQ(port->ops->recover(port), 0);
    for (uint32_t i = 0; i < FRAMES; i++) {
        uint32_t number;

        CHECK(wire_receive(port));
        memcpy(&number, got.data + UDP_HEADERS, sizeof(number));
        CHECK_EQ(number, round * FRAMES + i);
        CHECK_EQ(got.slots, i == 1 ? 2 : 1);
    }
    CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), 0);
    CHECK(!wire_take(port));
    CHECK_EQ(port->ops->sleep_arm(port), 0);
}

static void a_kill_at_any_instruction_of_rx_sync_loses_and_doubles_nothing(void)
{
    struct packet_wire wire;
    uint32_t whole;

    if (!wire_open(&wire, 1, JUMBO)) {
        return;
    }
    if (can_trace(&wire.device->ports[0])) {
        send_three(&wire, 0);
        whole = run_steps(&wire.device->ports[0], wire.device->ports[0].ops->rx_sync, STEPS_MAX);
        CHECK(whole > KILLS_AT_STEPS);
        for (int i = 0; i < FRAMES; i++) {
            CHECK(wire_take(&wire.device->ports[0]));
        }
        for (uint32_t k = 0; k < KILLS_AT_STEPS; k++) {
            kill_in_receive(&wire, k + 1, (uint32_t)((uint64_t)whole * k / KILLS_AT_STEPS));
        }
        CHECK_EQ(wire.device->ports[0].counters->rx_missed, 0);
    }
    wire_close(&wire);
}

static void push_three(const struct packet_wire *wire, uint32_t round)
{
    static uint32_t payload[750];

    for (uint32_t i = 0; i < FRAMES; i++) {
        payload[0] = round * FRAMES + i;
        wire_push_udp(wire, payload, i == 1 ? sizeof(payload) : 64);
    }
}

static void kill_in_transmit(struct packet_wire *wire, uint32_t round, uint32_t steps)
{
    struct port *port = &wire->device->ports[0];
    static uint32_t payload[750];

    push_three(wire, round);
    run_steps(port, port->ops->tx_sync, steps);
    CHECK_EQ(port->ops->recover(port), 0);
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
    for (uint32_t i = 0; i < FRAMES; i++) {
        CHECK_EQ(recv(wire->udp, payload, sizeof(payload), 0), i == 1 ? sizeof(payload) : 64);
        CHECK_EQ(payload[0], round * FRAMES + i);
    }
    CHECK(recv(wire->udp, payload, sizeof(payload), MSG_DONTWAIT) < 0 && errno == EAGAIN);
    CHECK_EQ(nm_ring_distance(port->tx, port->tx->head, nm_ring_tail(port->tx)),
             port->tx->num_slots - 1);
}

static void a_kill_at_any_instruction_of_tx_sync_loses_and_doubles_nothing(void)
{
    struct packet_wire wire;
    static uint32_t payload[750];
    uint32_t whole;

    if (!wire_open(&wire, 1, JUMBO)) {
        return;
    }
    if (can_trace(&wire.device->ports[0])) {
        push_three(&wire, 0);
        whole = run_steps(&wire.device->ports[0], wire.device->ports[0].ops->tx_sync, STEPS_MAX);
        CHECK(whole > KILLS_AT_STEPS);
        for (int i = 0; i < FRAMES; i++) {
            CHECK(recv(wire.udp, payload, sizeof(payload), MSG_DONTWAIT) > 0);
        }
        for (uint32_t k = 0; k < KILLS_AT_STEPS; k++) {
            kill_in_transmit(&wire, k + 1, (uint32_t)((uint64_t)whole * k / KILLS_AT_STEPS));
        }
        CHECK_EQ(wire.device->ports[0].counters->tx_dropped, 0);
    }
    wire_close(&wire);
}

/* Checks the frame in one slot and moves on, as one store; the slot goes back after it. */
static void consume(struct port *port, struct progress *progress)
{
    struct nm_ring *ring = port->rx;
    uint32_t slot = (uint32_t)progress->commit;
    uint32_t expected = (uint32_t)(progress->commit >> 32);

    while (slot != nm_ring_tail(ring)) {
        uint32_t number;

        memcpy(&number, nm_ring_buf(ring, slot) + PORT_VNET_HDR_LEN + UDP_HEADERS, sizeof(number));
        progress->wrong += number != expected;
        slot = nm_ring_next(ring, slot);
        expected++;
        __atomic_store_n(&progress->commit, (uint64_t)expected << 32 | slot, __ATOMIC_RELEASE);
    }
    nm_ring_give(ring, slot);
}

static pid_t fork_worker(struct port *port, struct progress *progress)
{
    pid_t pid = fork();

    if (pid != 0) {
        return pid;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    port->ops->recover(port);
    for (;;) {
        consume(port, progress);
        if (port->ops->rx_sync(port, wire_now_us()) != 0) {
            _exit(1);
        }
    }
}

static bool wait_for(const struct progress *progress, uint32_t number)
{
    uint64_t end = wire_now_us() + WAIT_MS * 1000;

    while ((uint32_t)(__atomic_load_n(&progress->commit, __ATOMIC_ACQUIRE) >> 32) < number) {
        if (wire_now_us() > end) {
            return false;
        }
        usleep(20);
    }
    return true;
}

static void workers_killed_under_load_lose_and_double_nothing(void)
{
    struct packet_wire wire;
    struct progress *progress;
    uint32_t sent = 0;
    unsigned seed = 1;

    if (!wire_open(&wire, 1, 1500)) {
        return;
    }
    progress = progress_new();
    for (int k = 0; k < KILLS_UNDER_LOAD; k++) {
        pid_t pid = fork_worker(&wire.device->ports[0], progress);

        usleep((unsigned)rand_r(&seed) % 1000);
        for (int i = 0; i < LOAD_BURST; i++, sent++) {
            CHECK(send(wire.udp, &sent, sizeof(sent), 0) == sizeof(sent));
        }
        usleep((unsigned)rand_r(&seed) % 200);
        kill(pid, SIGKILL);
        CHECK_EQ(waitpid(pid, NULL, 0), pid);
        if (k % 8 == 7) { /* let no ring overflow: that would be a loss of another kind */
            pid = fork_worker(&wire.device->ports[0], progress);
            CHECK(wait_for(progress, sent));
            kill(pid, SIGKILL);
            CHECK_EQ(waitpid(pid, NULL, 0), pid);
        }
    }
    CHECK_EQ(progress->wrong, 0);
    CHECK_EQ(wire.device->ports[0].counters->rx_missed, 0);
    munmap(progress, sizeof(*progress));
    wire_close(&wire);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a kill at any instruction of rx_sync loses and doubles nothing",
         a_kill_at_any_instruction_of_rx_sync_loses_and_doubles_nothing},
        {"a kill at any instruction of tx_sync loses and doubles nothing",
         a_kill_at_any_instruction_of_tx_sync_loses_and_doubles_nothing},
        {"workers killed under load lose and double nothing",
         workers_killed_under_load_lose_and_double_nothing},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
