/* What a worker has done is one store in shared memory; its successor goes on from there. */
#include "under_load.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"

enum {
    LOAD_BURST = 20,
    IN_FLIGHT_MAX = 100,
};

/* What a worker leaves behind, besides the port: MAP_SHARED. */
struct progress {
    uint64_t commit; /* (sequence number expected or sent << 32) | slot: stored at once */
    uint32_t wrong;
    uint32_t arrived; /* at the kernel's socket; written by the test */
};

static struct progress *progress_new(void)
{
    void *page = mmap(NULL, sizeof(struct progress), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    CHECK(page != MAP_FAILED);
    return page;
}

static void end_worker(pid_t pid)
{
    kill(pid, SIGKILL);
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
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

static void sleep_on(struct port *port)
{
    struct pollfd fd = {.fd = port->wait_fd, .events = POLLIN};

    if (port->rx->head == port->rx->tail && port->ops->sleep_arm(port) == 0) {
        poll(&fd, 1, WAIT_MS);
    }
    port->ops->sleep_disarm(port);
}

static pid_t fork_receiver(struct port *port, struct progress *progress, bool sleeps)
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
        if (sleeps) {
            sleep_on(port);
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

void under_load_kill_receivers(const struct packet_wire *wire, uint32_t kills, bool sleeps)
{
    struct port *port = &wire->device->ports[0];
    struct progress *progress = progress_new();
    uint32_t sent = 0;
    uint64_t seed = 1;

    for (uint32_t k = 1; k <= kills; k++) {
        pid_t pid = fork_receiver(port, progress, sleeps);

        usleep((unsigned)(splitmix64(&seed) % 1000)); /* when it dies is the seed's to say */
        for (int i = 0; i < LOAD_BURST; i++, sent++) {
            CHECK(send(wire->udp, &sent, sizeof(sent), 0) == sizeof(sent));
        }
        usleep((unsigned)(splitmix64(&seed) % 200));
        end_worker(pid);
        if (k % 8 == 0 || k == kills) { /* a ring that overflows would be another kind of loss */
            pid = fork_receiver(port, progress, sleeps);
            CHECK(wait_for(progress, sent));
            end_worker(pid);
        }
    }
    CHECK_EQ(progress->wrong, 0);
    munmap(progress, sizeof(*progress));
}

/* Sends numbered datagrams; number and head are one store, and the ring's head follows it. */
static pid_t fork_sender(const struct packet_wire *wire, struct progress *progress)
{
    struct port *port = &wire->device->ports[0];
    pid_t pid = fork();

    if (pid != 0) {
        return pid;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    nm_ring_give(port->tx, (uint32_t)progress->commit);
    port->ops->recover(port);
    for (;;) {
        uint32_t number = (uint32_t)(progress->commit >> 32);
        uint32_t arrived = __atomic_load_n(&progress->arrived, __ATOMIC_ACQUIRE);
        uint32_t head = port->tx->head;

        while (number - arrived < IN_FLIGHT_MAX && nm_ring_space(port->tx) > 0) {
            wire_push_udp(wire, &number, sizeof(number));
            number++;
        }
        compiler_barrier();
        progress->commit = (uint64_t)number << 32 | port->tx->head;
        compiler_barrier();
        if (head != port->tx->head || port->ops->sleep_arm(port)) {
            port->ops->tx_sync(port, wire_now_us());
        }
    }
}

static void count_arrivals(const struct packet_wire *wire, struct progress *progress)
{
    uint32_t number;

    while (recv(wire->udp, &number, sizeof(number), MSG_DONTWAIT) > 0) {
        progress->wrong += number != progress->arrived;
        __atomic_store_n(&progress->arrived, progress->arrived + 1, __ATOMIC_RELEASE);
    }
    sched_yield(); /* who sends may have no other CPU */
}

/* A kernel that is busy brings frames later than it takes them. */
static void await_arrivals(const struct packet_wire *wire, struct progress *progress)
{
    uint64_t end = wire_now_us() + WAIT_MS * 1000;

    do {
        count_arrivals(wire, progress);
    } while (progress->arrived != (uint32_t)(progress->commit >> 32) && wire_now_us() < end);
}

void under_load_kill_senders(const struct packet_wire *wire, uint32_t kills)
{
    struct port *port = &wire->device->ports[0];
    struct progress *progress = progress_new();
    uint64_t seed = 2;

    for (uint32_t k = 0; k < kills; k++) {
        pid_t pid = fork_sender(wire, progress);
        uint64_t end = wire_now_us() + 500 + splitmix64(&seed) % 2000;

        while (wire_now_us() < end) {
            count_arrivals(wire, progress);
        }
        end_worker(pid);
        count_arrivals(wire, progress);
    }
    nm_ring_give(port->tx, (uint32_t)progress->commit);
    CHECK_EQ(port->ops->recover(port), 0);
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
    await_arrivals(wire, progress);
    CHECK_EQ(progress->wrong, 0);
    CHECK_EQ(progress->arrived, (uint32_t)(progress->commit >> 32));
    CHECK(progress->arrived > kills);
    CHECK_EQ(nm_ring_space(port->tx), port->tx->num_slots - 1);
    munmap(progress, sizeof(*progress));
}
