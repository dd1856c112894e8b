/*
 * netmap: and a worker that is killed between any two instructions of a sync. A system call ends
 * before its caller does; whatever else was cut short, the successor finds every frame once.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "netmap_case.h"

enum {
    FRAMES = 3,
    CHECKS_MIN = 5, /* a sync makes so many visible stores */
    REGIONS = 4,
};

typedef void check_fn(struct fake_port *nic, struct port *port);

/* All that a sync may change where others see it. */
struct snapshot {
    struct iovec region[REGIONS];
    uint8_t *copy[REGIONS];
};

static void snapshot_begin(struct snapshot *snapshot, const struct port *port)
{
    snapshot->region[0] = (struct iovec){fake_region(), fake_region_bytes() / 8};
    snapshot->region[1] = (struct iovec){port->shared, sizeof(struct netmap_shared)};
    for (int dir = FAKE_RX; dir <= FAKE_TX; dir++) {
        snapshot->region[2 + dir] =
            (struct iovec){&fake->port[0].kring[dir][0], 2 * sizeof(struct fake_kring)};
    }
    for (int i = 0; i < REGIONS; i++) {
        snapshot->copy[i] = calloc(1, snapshot->region[i].iov_len);
    }
}

static void snapshot_end(struct snapshot *snapshot)
{
    for (int i = 0; i < REGIONS; i++) {
        free(snapshot->copy[i]);
    }
}

static void snapshot_save(struct snapshot *snapshot)
{
    for (int i = 0; i < REGIONS; i++) {
        memcpy(snapshot->copy[i], snapshot->region[i].iov_base, snapshot->region[i].iov_len);
    }
}

static void snapshot_restore(const struct snapshot *snapshot)
{
    for (int i = 0; i < REGIONS; i++) {
        memcpy(snapshot->region[i].iov_base, snapshot->copy[i], snapshot->region[i].iov_len);
    }
}

/* The backend's own words and the ring's: what a kill can leave half done. */
static uint64_t digest(const struct port *port)
{
    const uint8_t *shared = port->shared;
    const struct nm_ring *host = netmap_ring(port)->host_rx;
    uint64_t sum = port->rx->tail * 31u + port->tx->tail;

    for (uint32_t i = 0; host && i < SLOTS; i++) {
        sum = sum * 31u + host->slot[i].buf_idx;
        sum = sum * 31u + port->tx->slot[i].buf_idx + port->tx->slot[i].len;
        sum += (uint64_t)host->head << 32 | port->tx->head;
    }
    for (size_t i = 0; i < sizeof(struct netmap_shared); i++) {
        sum = sum * 1099511628211u + shared[i];
    }
    return sum;
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
    _exit(sync(port, 0) != 0);
}

/* Plays the worker's death wherever it has stored something; `check` is its successor. */
static void at_every_store(struct fake_port *nic, struct port *port,
                           int (*sync)(struct port *, uint64_t), check_fn *check)
{
    struct snapshot snapshot;
    uint64_t last = digest(port);
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
        if (!fake->in_kernel && digest(port) != last) {
            last = digest(port);
            snapshot_save(&snapshot);
            CHECK_EQ(port->ops->recover(port), 0);
            check(nic, port);
            snapshot_restore(&snapshot);
            checks++;
        }
        ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL);
        waitpid(pid, &status, 0);
    }
    CHECK_EQ(status, 0);
    CHECK(checks >= CHECKS_MIN);
    snapshot_end(&snapshot);
}

/* Two frames wait in the ring, one is on the wire; counted or not, each is there once. */
static void three_are_there(struct fake_port *nic, struct port *port)
{
    uint32_t n = 0;

    (void)nic;
    for (int turn = 0; turn < 3; turn++) {
        CHECK_EQ(port->ops->rx_sync(port, 0), 0);
        n += case_take(port, (uint8_t)n);
    }
    CHECK_EQ(n, FRAMES);
    CHECK_EQ(port->counters->errors, 0);
    CHECK(port->counters->rx_frames <= FRAMES);
}

static void a_kill_at_any_store_of_rx_sync_loses_and_doubles_nothing(void)
{
    struct fake_port *nic;
    struct device *device;

    fake_begin();
    nic = fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("eth0-0");
    for (uint8_t i = 0; i < FRAMES; i++) {
        case_arrive(nic, 0, i);
    }
    at_every_store(nic, &device->ports[0], netmap_rx_sync, three_are_there);
    device_close(device);
    CHECK(fake_end());
}

/* The head was published: all three leave, in order, once, and no frame after them is lost. */
static void three_have_left(struct fake_port *nic, struct port *port)
{
    static uint8_t frame[FAKE_FRAME_MAX];

    CHECK_EQ(port->ops->tx_sync(port, 0), 0);
    case_send(port, 1, FRAMES);
    CHECK_EQ(port->ops->tx_sync(port, 0), 0);
    for (uint32_t i = 0; i <= FRAMES; i++) {
        CHECK_EQ(fake_sent(nic, 0, frame), FRAME);
        CHECK_EQ(frame[0], i);
    }
    CHECK_EQ(fake_sent(nic, 0, frame), 0);
    CHECK_EQ(nm_ring_space(port->tx), port->tx->num_slots - 1);
    CHECK_EQ(port->counters->errors, 0);
}

static void a_kill_at_any_store_of_tx_sync_loses_and_doubles_nothing(void)
{
    struct fake_port *nic;
    struct device *device;

    fake_begin();
    nic = fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("eth0-0");
    case_send(&device->ports[0], FRAMES, 0);
    at_every_store(nic, &device->ports[0], netmap_tx_sync, three_have_left);
    device_close(device);
    CHECK(fake_end());
}

/* What the host sent leaves once, in order, and each buffer is in one slot. */
static void the_hosts_three_have_left(struct fake_port *nic, struct port *port)
{
    const struct nm_ring *host = netmap_ring(port)->host_rx;
    static uint8_t frame[FAKE_FRAME_MAX];
    uint8_t seen[FAKE_BUFS] = {0};

    CHECK_EQ(port->ops->rx_sync(port, 0), 0);
    CHECK_EQ(port->ops->tx_sync(port, 0), 0);
    for (uint32_t i = 0; i < FRAMES; i++) {
        CHECK_EQ(fake_sent(nic, 0, frame), FRAME);
        CHECK_EQ(frame[0], i);
    }
    CHECK_EQ(fake_sent(nic, 0, frame), 0);
    for (uint32_t i = 0; i < SLOTS; i++) {
        CHECK_EQ(seen[host->slot[i].buf_idx]++, 0);
        CHECK_EQ(seen[port->tx->slot[i].buf_idx]++, 0);
    }
    CHECK_EQ(port->counters->errors, 0);
}

static void a_kill_at_any_store_between_host_and_nic_loses_and_doubles_nothing(void)
{
    static const struct device_config shared = {.ip = 1, .take = PORT_TAKE_PORTS};
    struct fake_port *nic;
    struct device *device;

    fake_begin();
    nic = fake_nic("eth0", 1, 1, SLOTS);
    CHECK_EQ(case_open(&device, "eth0", &shared), 0);
    for (uint8_t i = 0; i < FRAMES; i++) {
        case_arrive(nic, 1, i); /* its host ring */
    }
    fake_sync(nic, FAKE_RX, 1);
    at_every_store(nic, &device->ports[0], netmap_rx_sync, the_hosts_three_have_left);
    device_close(device);
    CHECK(fake_end());
}

/* Between the two stores of nm_ring_give(), cur is ahead of head: the slots are still ours. */
static void a_kill_between_cur_and_head_gives_nothing_away(void)
{
    struct fake_port *nic;
    struct device *device;
    struct port *port;

    fake_begin();
    nic = fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("eth0-0");
    port = &device->ports[0];
    for (uint8_t i = 0; i < FRAMES; i++) {
        case_arrive(nic, 0, i);
    }
    CHECK_EQ(port->ops->rx_sync(port, 0), 0);
    port->rx->cur = FRAMES;
    port->tx->cur = 2;
    CHECK_EQ(port->ops->recover(port), 0);
    CHECK_EQ(nm_ring_space(port->rx), FRAMES);
    CHECK_EQ(nm_ring_space(port->tx), SLOTS - 1);
    CHECK_EQ(case_take(port, 0), FRAMES);
    device_close(device);
    CHECK(fake_end());
}

/* Killed after a poll that synced: the published head is the kernel's already. */
static void a_kill_after_a_poll_finds_what_it_brought(void)
{
    struct fake_port *nic;
    struct device *device;
    struct port *port;

    fake_begin();
    nic = fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("eth0-0");
    port = &device->ports[0];
    for (uint32_t lap = 0; lap < 3 * SLOTS; lap++) {
        for (uint8_t i = 0; i < SLOTS - 1; i++) {
            case_arrive(nic, 0, i);
        }
        fake_kernel.poll(port->wait_fd, 1, 0);
        CHECK_EQ(port->ops->recover(port), 0);
        CHECK_EQ(case_take(port, 0), SLOTS - 1);
    }
    CHECK_EQ(port->counters->rx_frames, 3 * SLOTS * (SLOTS - 1));
    CHECK_EQ(port->counters->errors, 0);
    device_close(device);
    CHECK(fake_end());
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a kill at any store of rx_sync loses and doubles nothing",
         a_kill_at_any_store_of_rx_sync_loses_and_doubles_nothing},
        {"a kill at any store of tx_sync loses and doubles nothing",
         a_kill_at_any_store_of_tx_sync_loses_and_doubles_nothing},
        {"a kill at any store between host and NIC loses and doubles nothing",
         a_kill_at_any_store_between_host_and_nic_loses_and_doubles_nothing},
        {"a kill between cur and head gives nothing away",
         a_kill_between_cur_and_head_gives_nothing_away},
        {"a kill after a poll finds what it brought", a_kill_after_a_poll_finds_what_it_brought},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
