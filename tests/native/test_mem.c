/* The software NIC: its ring contract, its exchange, and what dead peers leave behind. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"
#include "check.h"
#include "ports/mem.h"

enum {
    FRAME = 64,
    MTU_BUF = 2048,
};

static struct device *device;
static struct mem_attachment *links[3];

static void open_nic(uint32_t rings, uint32_t clients, uint32_t slots)
{
    struct device_config config = {.rings = rings, .links = 4, .slots = slots};
    char name[64];
    char error[PORT_ERROR_MAX] = "";

    snprintf(name, sizeof(name), "mem:test-%d", getpid());
    if (!CHECK_EQ(device_open(&device, name, &config, error), 0)) {
        printf("    %s\n", error);
        exit(1);
    }
    for (uint32_t i = 0; i < clients; i++) {
        CHECK_EQ(mem_attach_local(&links[i], device), 0);
    }
}

static void close_nic(uint32_t clients)
{
    for (uint32_t i = 0; i < clients; i++) {
        mem_detach(links[i]);
    }
    CHECK_EQ(device_audit(device), 0);
    device_close(device);
}

/* Writes a TCP frame into the next TX slot; false: none is free. */
static bool put(struct port *port, const uint8_t *to, uint16_t flow, uint32_t number)
{
    struct nm_ring *ring = port->tx;
    uint8_t *buf;

    if (nm_ring_space(ring) == 0) {
        return false;
    }
    buf = nm_ring_buf(ring, ring->head);
    memset(buf, 0, FRAME);
    memcpy(buf, to, 6);
    buf[12] = 0x08;
    buf[14] = 0x45;
    buf[23] = 6;
    memcpy(buf + 34, &flow, sizeof(flow));
    memcpy(buf + 54, &number, sizeof(number));
    ring->slot[ring->head].len = FRAME;
    ring->slot[ring->head].flags = 0;
    nm_ring_give(ring, nm_ring_next(ring, ring->head));
    return true;
}

/* The number in the next received frame; UINT32_MAX: none. */
static uint32_t take(struct port *port)
{
    struct nm_ring *ring = port->rx;
    uint32_t number;

    if (nm_ring_empty(ring)) {
        return UINT32_MAX;
    }
    memcpy(&number, nm_ring_buf(ring, ring->head) + 54, sizeof(number));
    nm_ring_give(ring, nm_ring_next(ring, ring->head));
    return number;
}

static const uint8_t *server_mac(void)
{
    return mem_attachment_mac(links[0], true);
}

static void rss_spreads_flows_and_keeps_each_on_its_ring(void)
{
    uint32_t seen[4] = {0};
    struct port *client;

    open_nic(4, 1, 512);
    client = mem_attachment_port(links[0]);
    for (uint32_t round = 0; round < 3; round++) {
        for (uint16_t flow = 0; flow < 256; flow++) {
            put(client, server_mac(), flow, flow);
        }
        client->ops->tx_sync(client, 0);
        for (uint32_t r = 0; r < 4; r++) {
            uint32_t flow;

            device->ports[r].ops->rx_sync(&device->ports[r], 0);
            while ((flow = take(&device->ports[r])) != UINT32_MAX) {
                static uint8_t ring_of[256];

                CHECK(round == 0 || ring_of[flow] == r);
                ring_of[flow] = (uint8_t)r;
                seen[r]++;
            }
        }
    }
    for (uint32_t r = 0; r < 4; r++) {
        CHECK(seen[r] > 3 * 256 / 8);
    }
    close_nic(1);
}

static void a_mac_address_chooses_the_link_and_broadcast_reaches_all(void)
{
    static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    struct port *server;

    open_nic(2, 3, 64);
    server = &device->ports[1];
    put(server, mem_attachment_mac(links[1], false), 1, 11);
    put(server, everybody, 1, 22);
    server->ops->tx_sync(server, 0);
    for (uint32_t i = 0; i < 3; i++) {
        struct port *client = mem_attachment_port(links[i]);

        client->ops->rx_sync(client, 0);
        if (i == 1) {
            CHECK_EQ(take(client), 11);
        }
        CHECK_EQ(take(client), 22);
        CHECK_EQ(take(client), UINT32_MAX);
    }
    close_nic(3);
}

static void a_full_lane_holds_for_a_moment_then_drops(void)
{
    struct port *client;
    uint32_t sent = 0;

    open_nic(1, 1, 64);
    client = mem_attachment_port(links[0]);
    while (sent < 2 * MEM_CELLS && put(client, server_mac(), 1, sent)) {
        client->ops->tx_sync(client, 1000);
        sent++;
    }
    CHECK(sent >= MEM_CELLS && sent < 2 * MEM_CELLS); /* held: the ring is full */
    CHECK_EQ(client->counters->tx_dropped, 0);
    client->ops->tx_sync(client, 1000 + MEM_STALL_US + 1);
    CHECK(client->counters->tx_dropped > 0);
    CHECK(nm_ring_space(client->tx) > 0);
    close_nic(1);
}

static void buffers_are_conserved_by_a_million_random_steps(void)
{
    uint64_t random = 99;
    uint64_t now_us = 0;

    open_nic(4, 3, 32);
    for (uint32_t step = 0; step < 1000000; step++) {
        uint64_t dice = splitmix64(&random);
        uint32_t who = (uint32_t)(dice >> 8) % 7;
        struct port *port = who < 4 ? &device->ports[who] : mem_attachment_port(links[who - 4]);
        const uint8_t *to =
            who < 4 ? mem_attachment_mac(links[dice >> 20 & 1], false) : server_mac();

        now_us += 10;
        switch (dice % 4) {
        case 0:
            put(port, to, (uint16_t)(dice >> 30), step);
            break;
        case 1:
            port->ops->tx_sync(port, now_us);
            break;
        case 2:
            port->ops->rx_sync(port, now_us);
            break;
        default:
            take(port);
        }
        if (step % 100000 == 0) {
            CHECK_EQ(device_audit(device), 0);
        }
    }
    close_nic(3);
}

/* Other processes attach by name, and die: the link comes back, nobody is held. */
static void a_client_killed_anywhere_frees_its_link(void)
{
    struct port *server;
    uint64_t random = 5;

    open_nic(1, 0, 64);
    server = &device->ports[0];
    for (int life = 0; life < 60; life++) {
        uint64_t end = server->counters->rx_frames + 20 + splitmix64(&random) % 500;
        pid_t child = fork();

        if (child == 0) {
            struct mem_attachment *mine;
            char error[PORT_ERROR_MAX];

            if (mem_attach(&mine, device->name + 4, error) != 0) {
                _exit(1);
            }
            for (uint32_t i = 0;; i++) {
                struct port *port = mem_attachment_port(mine);

                put(port, mem_attachment_mac(mine, true), (uint16_t)i, i);
                port->ops->tx_sync(port, i);
                port->ops->rx_sync(port, i);
            }
        }
        for (uint64_t turn = 0; server->counters->rx_frames < end && turn < 20000000; turn++) {
            if (turn % 64 == 0) {
                device_event(device);
                sched_yield();
            }
            server->ops->rx_sync(server, turn);
            while (take(server) != UINT32_MAX) {
                continue;
            }
        }
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        device_event(device);
    }
    CHECK(server->counters->rx_frames > 1000);
    CHECK_EQ(mem_attach_local(&links[0], device), 0); /* a link is free, and whole */
    put(mem_attachment_port(links[0]), server_mac(), 1, 77);
    mem_attachment_port(links[0])->ops->tx_sync(mem_attachment_port(links[0]), 0);
    close_nic(1);
}

/* In a child: sends so many frames, and goes at once. */
static void send_and_go(uint32_t frames)
{
    struct mem_attachment *mine;
    char error[PORT_ERROR_MAX];
    struct port *port;

    if (mem_attach(&mine, device->name + 4, error) != 0) {
        _exit(1);
    }
    port = mem_attachment_port(mine);
    for (uint32_t i = 0; i < frames; i++) {
        if (!put(port, mem_attachment_mac(mine, true), (uint16_t)i, i)) {
            _exit(2);
        }
    }
    port->ops->tx_sync(port, 0);
    mem_detach(mine);
    _exit(0);
}

/* The owner is slow, and serves the hang-up first whenever there is one. */
static void what_a_client_sent_before_it_went_arrives(void)
{
    enum {
        SENT = 40,
        TURNS_MAX = 4000
    };
    uint32_t seen = 0;
    int status = -1;
    pid_t child;

    open_nic(2, 0, 64);
    child = fork();
    if (child == 0) {
        send_and_go(SENT);
    }
    for (int turn = 0; seen < SENT && turn < TURNS_MAX; turn++) {
        struct port *port = &device->ports[turn % 2];

        usleep(5000);
        device_event(device);
        port->ops->rx_sync(port, 1);
        while (take(port) != UINT32_MAX) {
            seen++;
        }
    }
    CHECK_EQ(seen, SENT);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    device_event(device);
    close_nic(0);
}

static struct {
    uint8_t *seen;
    uint8_t *saved;
    uint64_t stores;
    uint64_t wrong;
} tear;

/* A copy of the region stands in for the device while recover and audit look at it. */
static void look_at_tear(struct mem_device *mem, uint32_t side)
{
    memcpy(tear.saved, mem->base, mem->bytes);
    mem_side_recover(mem, side);
    tear.wrong += device_audit(device) != 0;
    memcpy(mem->base, tear.saved, mem->bytes);
    tear.stores++;
}

static void step_child(struct mem_device *mem, uint32_t side, pid_t child)
{
    size_t tail = mem->bytes - mem->shared->if_ofs[0];
    int status = 0;

    waitpid(child, &status, 0);
    memcpy(tear.seen, mem->base, tail);
    while (WIFSTOPPED(status)) {
        ptrace(PTRACE_SINGLESTEP, child, NULL, NULL);
        waitpid(child, &status, 0);
        if (memcmp(tear.seen, mem->base, tail) != 0) {
            look_at_tear(mem, side);
            memcpy(tear.seen, mem->base, tail);
        }
    }
}

/* A sync is cut short at every store: recover finds every buffer in exactly one place. */
static void an_exchange_torn_at_any_store_is_completed(void)
{
    struct device_config config = {.rings = 1, .links = 1, .slots = 8, .buf_size = 1600};
    struct mem_device *mem;
    struct port *client;
    char error[PORT_ERROR_MAX];
    char name[64];

    snprintf(name, sizeof(name), "mem:tear-%d", getpid());
    CHECK_EQ(device_open(&device, name, &config, error), 0);
    CHECK_EQ(mem_attach_local(&links[0], device), 0);
    mem = device->priv;
    tear.seen = malloc(mem->bytes);
    tear.saved = malloc(mem->bytes);
    client = mem_attachment_port(links[0]);
    for (int direction = 0; direction < 2; direction++) {
        pid_t child;

        put(client, server_mac(), 1, 1);
        put(client, server_mac(), 1, 2);
        if (direction == 1) {
            client->ops->tx_sync(client, 0);
        }
        child = fork();
        if (child == 0) {
            ptrace(PTRACE_TRACEME, 0, NULL, NULL);
            raise(SIGSTOP);
            if (direction == 0) {
                client->ops->tx_sync(client, 0);
            } else {
                device->ports[0].ops->rx_sync(&device->ports[0], 0);
            }
            _exit(0);
        }
        step_child(mem, direction == 0 ? 1 : 0, child);
    }
    CHECK(tear.stores > 20);
    CHECK_EQ(tear.wrong, 0);
    free(tear.seen);
    free(tear.saved);
    close_nic(1);
}

static void a_name_that_is_taken_is_refused(void)
{
    struct device_config config = {.rings = 1};
    struct device *second = NULL;
    char error[PORT_ERROR_MAX] = "";

    open_nic(1, 0, 64);
    CHECK_EQ(device_open(&second, device->name, &config, error), -EADDRINUSE);
    CHECK(strstr(error, device->name) != NULL);
    close_nic(0);
}

static void nobody_to_attach_to_is_one_sentence(void)
{
    struct mem_attachment *mine = NULL;
    char error[PORT_ERROR_MAX] = "";

    CHECK(mem_attach(&mine, "nobody-here", error) < 0);
    CHECK(strstr(error, "mem:nobody-here") != NULL);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"RSS spreads flows and keeps each on its ring",
         rss_spreads_flows_and_keeps_each_on_its_ring},
        {"a MAC address chooses the link, broadcast reaches all",
         a_mac_address_chooses_the_link_and_broadcast_reaches_all},
        {"a full lane holds for a moment, then drops", a_full_lane_holds_for_a_moment_then_drops},
        {"buffers are conserved by a million random steps",
         buffers_are_conserved_by_a_million_random_steps},
        {"a client killed anywhere frees its link", a_client_killed_anywhere_frees_its_link},
        {"what a client sent before it went arrives", what_a_client_sent_before_it_went_arrives},
        {"an exchange torn at any store is completed", an_exchange_torn_at_any_store_is_completed},
        {"a name that is taken is refused", a_name_that_is_taken_is_refused},
        {"nobody to attach to is one sentence", nobody_to_attach_to_is_one_sentence},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
