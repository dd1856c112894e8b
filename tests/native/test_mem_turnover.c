/*
 * From one client of a mem: link to the next: each frame that the last one gave is received, or
 * counted as missed, whoever was killed at whichever store; the next one is not held, and hears
 * nothing that was meant for the last.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"
#include "check.h"
#include "ports/mem.h"
#include "soft_wire.h"

enum {
    FRAME = 64,
    NUMBER_AT = 54,
    PIECE_AT = 58, /* which slot of its frame */
    NOBODY = UINT32_MAX,
};

static struct device *device;
static struct mem_device *mem;
static struct mem_attachment *client;

static void open_nic(uint32_t rings, uint32_t slots)
{
    struct device_config config = {.rings = rings, .links = 1, .slots = slots, .buf_size = 1600};
    char name[64];
    char error[PORT_ERROR_MAX] = "";

    snprintf(name, sizeof(name), "mem:turnover-%d", getpid());
    if (!CHECK_EQ(device_open(&device, name, &config, error), 0)) {
        printf("    %s\n", error);
        exit(1);
    }
    mem = device->priv;
    client = NULL;
}

static void close_nic(void)
{
    if (client) {
        mem_detach(client);
    }
    CHECK_EQ(device_audit(device), 0);
    device_close(device);
}

static void next_client(void)
{
    if (client) {
        mem_detach(client);
    }
    if (!CHECK_EQ(mem_attach_local(&client, device), 0)) {
        exit(1);
    }
}

/* A TCP frame of so many slots into the TX ring; false: there is no room. No sync. */
static bool give(struct port *port, uint32_t number, uint32_t slots)
{
    struct nm_ring *ring = port->tx;
    uint16_t flow = (uint16_t)(number % 251);

    if (nm_ring_space(ring) < slots) {
        return false;
    }
    for (uint32_t i = 0; i < slots; i++) {
        uint8_t *buf = nm_ring_buf(ring, ring->head);

        memset(buf, 0, FRAME);
        memcpy(buf, mem_attachment_mac(client, port != &device->ports[0]), 6);
        buf[12] = 0x08;
        buf[14] = 0x45;
        buf[23] = 6;
        memcpy(buf + 34, &flow, sizeof(flow));
        memcpy(buf + NUMBER_AT, &number, sizeof(number));
        memcpy(buf + PIECE_AT, &i, sizeof(i));
        ring->slot[ring->head].len = FRAME;
        ring->slot[ring->head].flags = i + 1 < slots ? NM_MOREFRAG : 0;
        nm_ring_give(ring, nm_ring_next(ring, ring->head));
    }
    return true;
}

static struct port *client_port(void)
{
    return mem_attachment_port(client);
}

/* The next frame's number, in one piece; NOBODY: there is none. */
static uint32_t take(struct port *port)
{
    struct nm_ring *ring = port->rx;
    uint32_t first = NOBODY;
    bool more = true;

    if (nm_ring_empty(ring)) {
        return NOBODY;
    }
    for (uint32_t i = 0; more && CHECK(!nm_ring_empty(ring)); i++) {
        const uint8_t *buf = nm_ring_buf(ring, ring->head);
        uint32_t number;
        uint32_t piece;

        memcpy(&number, buf + NUMBER_AT, sizeof(number));
        memcpy(&piece, buf + PIECE_AT, sizeof(piece));
        first = i == 0 ? number : first;
        CHECK_EQ(number, first);
        CHECK_EQ(piece, i);
        more = ring->slot[ring->head].flags & NM_MOREFRAG;
        nm_ring_give(ring, nm_ring_next(ring, ring->head));
    }
    return first;
}

static void receive(struct port *port)
{
    CHECK_EQ(port->ops->rx_sync(port, 1), 0);
}

static void send(struct port *port, uint64_t now_us)
{
    CHECK_EQ(port->ops->tx_sync(port, now_us), 0);
}

/* Reads a ring empty; its numbers go up. Returns how many there were. */
static uint32_t read_ring(uint32_t ring, uint32_t *last)
{
    struct port *port = &device->ports[ring];
    uint32_t frames = 0;
    uint32_t number;

    receive(port);
    while ((number = take(port)) != NOBODY) {
        CHECK(*last == NOBODY || number > *last);
        *last = number;
        frames++;
        if (nm_ring_empty(port->rx)) {
            receive(port);
        }
    }
    return frames;
}

/* Thousands of clients, one after the other, on one link; the rings read now and then. */
static void every_frame_arrives_before_those_of_the_next_client(void)
{
    enum {
        CLIENTS = 4000,
        RINGS = 2,
    };
    uint32_t last[RINGS] = {NOBODY, NOBODY};
    uint64_t random = 3;
    uint32_t given = 0;
    uint32_t seen = 0;

    open_nic(RINGS, 64);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        uint64_t dice = splitmix64(&random);

        next_client();
        receive(client_port());
        CHECK_EQ(take(client_port()), NOBODY);
        for (uint32_t n = (uint32_t)(dice % 8); n > 0; n--) {
            given += give(client_port(), given, 1 + n % 3);
        }
        send(client_port(), 1);
        CHECK(give(&device->ports[0], i, 1)); /* for this one, who does not read it */
        send(&device->ports[0], 1);
        for (uint32_t ring = 0; ring < RINGS && dice >> 8 & 1; ring++) {
            seen += read_ring(ring, &last[ring]);
        }
    }
    for (uint32_t ring = 0; ring < RINGS; ring++) {
        seen += read_ring(ring, &last[ring]);
        CHECK_EQ(device->ports[ring].counters->rx_missed, 0);
    }
    CHECK_EQ(seen, given);
    CHECK(given > 2 * MEM_CELLS);
    close_nic();
}

/* Gives until nothing is taken any more; what was given for each ring. */
static void fill(uint32_t *given)
{
    struct port *port = client_port();
    struct nm_ring *ring = port->tx;
    uint32_t number = 0;

    while (nm_ring_space(ring) >= 2) {
        uint32_t slot = ring->head;

        CHECK(give(port, number, 1 + number % 2));
        given[rss_queue(&mem->shared->rss, nm_ring_buf(ring, slot), FRAME)]++;
        number++;
        if (nm_ring_space(ring) < 2) {
            send(port, 1000);
        }
    }
}

static void what_finds_no_room_is_counted_at_its_ring(void)
{
    enum {
        RINGS = 4
    };
    uint32_t given[RINGS] = {0};
    uint64_t missed = 0;

    open_nic(RINGS, 256);
    next_client();
    fill(given);
    mem_detach(client);
    client = NULL;
    for (uint32_t ring = 0; ring < RINGS; ring++) { /* nobody has come after it */
        uint32_t last = NOBODY;
        uint32_t seen = read_ring(ring, &last);

        CHECK_EQ(seen + device->ports[ring].counters->rx_missed, given[ring]);
        missed += device->ports[ring].counters->rx_missed;
    }
    CHECK(missed > 0);
    next_client();
    for (uint32_t i = 0; i < 3; i++) { /* given, and never sent */
        CHECK(give(client_port(), i, 2));
    }
    next_client();
    for (uint32_t ring = 0; ring < RINGS; ring++) {
        receive(&device->ports[ring]);
        CHECK_EQ(take(&device->ports[ring]), NOBODY);
        missed -= device->ports[ring].counters->rx_missed;
    }
    CHECK_EQ(missed, (uint64_t)-3);
    close_nic();
}

/* A full lane of the last one's: the next one is held as on any full lane, and goes on once it is
 * read. */
static void a_full_lane_holds_the_next_client_no_longer_than_any(void)
{
    uint32_t given[1] = {0};
    uint32_t last = NOBODY;

    open_nic(1, 64);
    next_client();
    fill(given);
    next_client();
    CHECK(give(client_port(), 100000, 1));
    send(client_port(), 5000);
    CHECK_EQ(client_port()->counters->tx_frames, 0);
    send(client_port(), 5000 + MEM_STALL_US);
    CHECK_EQ(client_port()->counters->tx_dropped, 1);
    CHECK(give(client_port(), 100001, 1));
    CHECK(read_ring(0, &last) > 0);
    send(client_port(), 20000);
    CHECK_EQ(read_ring(0, &last), 1);
    CHECK_EQ(last, 100001);
    close_nic();
}

/* What stands in memory is kept while a death at this store is tried. */
static struct {
    uint8_t *saved;
    uint32_t least; /* frames of the dead one's that arrived */
    uint32_t most;
} tear;

static struct soft_step watched(void)
{
    const uint8_t *end = (const uint8_t *)mem->shared;
    struct soft_step step = {.at = {mem->base, end},
                             .bytes = {mem->bufs_ofs, (size_t)(mem->base + mem->bytes - end)},
                             .n = 2};

    tear.saved = malloc(mem->bytes);
    tear.least = UINT32_MAX;
    tear.most = 0;
    return step;
}

static void client_dies(void)
{
    memcpy(tear.saved, mem->base, mem->bytes);
    mem_link_drop(mem, 0);
}

static void client_lives_on(void)
{
    CHECK_EQ(device_audit(device), 0);
    memcpy(mem->base, tear.saved, mem->bytes);
}

enum {
    TORN_FRAMES = 3
};

/* The ring that sleeps is woken for what has come to it, as the dead one would have done. */
static void check_woken(void)
{
    struct pollfd bell = {.fd = device->ports[0].wait_fd, .events = POLLIN};
    struct mem_lane *lane = mem_lane_at(mem, mem_lane_index(mem->shared, 0, 0, false));

    if (mem_lane_used(lane) > 0) {
        CHECK_EQ(poll(&bell, 1, 0), 1);
    }
    device->ports[0].ops->sleep_disarm(&device->ports[0]);
}

static void die_sending(void *arg)
{
    struct port *server = &device->ports[0];
    uint32_t arrived = 0;
    uint32_t number;

    (void)arg;
    atomic_store(&mem->shared->side[0].sleeping, 1);
    client_dies();
    check_woken();
    CHECK_EQ(mem_link_take(mem, false), 0);
    CHECK(give(client_port(), 77, 2));
    send(client_port(), 1);
    receive(server);
    for (number = take(server); number != 77 && CHECK_EQ(number, arrived); number = take(server)) {
        arrived++;
    }
    CHECK_EQ(take(server), NOBODY);
    CHECK_EQ(arrived + server->counters->rx_missed, TORN_FRAMES);
    tear.least = min_u32(tear.least, arrived);
    tear.most = max_u32(tear.most, arrived);
    client_lives_on();
    atomic_store(&mem->shared->side[0].sleeping, 0);
}

static void sync_client_tx(void *arg)
{
    (void)arg;
    client_port()->ops->tx_sync(client_port(), 1);
}

/* Between the slots of a frame as well: half of it neither arrives nor grows together. */
static void a_client_killed_while_it_sends_leaves_whole_frames(void)
{
    struct soft_step step;

    open_nic(1, 12);
    next_client();
    for (uint32_t i = 0; i < TORN_FRAMES; i++) {
        CHECK(give(client_port(), i, 1 + i)); /* of 1, 2 and 3 slots */
    }
    step = watched();
    soft_wire_step(&step, sync_client_tx, die_sending, NULL);
    CHECK(step.stores > 20);
    CHECK_EQ(tear.least, 0);
    CHECK_EQ(tear.most, TORN_FRAMES);
    free(tear.saved);
    close_nic();
}

/* The server goes on sending to the dead one until its lane is full, and a moment longer. */
static void die_receiving(void *arg)
{
    struct port *server = &device->ports[0];

    (void)arg;
    memcpy(tear.saved, mem->base, mem->bytes);
    for (uint32_t i = 0; i <= MEM_CELLS / 8 + 1; i++) {
        while (give(server, 1000 + i, 1)) {
            continue;
        }
        send(server, 1);
    }
    CHECK_EQ(nm_ring_space(server->tx), 0);
    send(server, 2 + MEM_STALL_US);
    mem_link_drop(mem, 0);
    CHECK_EQ(mem_link_take(mem, false), 0);
    receive(client_port());
    CHECK_EQ(take(client_port()), NOBODY);
    CHECK(give(server, 99, 1));
    send(server, 1);
    receive(client_port());
    CHECK_EQ(take(client_port()), 99);
    CHECK_EQ(take(client_port()), NOBODY);
    client_lives_on();
}

static void sync_client_rx(void *arg)
{
    (void)arg;
    client_port()->ops->rx_sync(client_port(), 1);
}

static void a_client_killed_while_it_receives_gives_all_buffers_back(void)
{
    struct soft_step step;

    open_nic(1, 12);
    next_client();
    for (uint32_t i = 0; i < TORN_FRAMES; i++) {
        CHECK(give(&device->ports[0], i, 1));
    }
    send(&device->ports[0], 1);
    step = watched();
    soft_wire_step(&step, sync_client_rx, die_receiving, NULL);
    CHECK(step.stores > 10);
    free(tear.saved);
    close_nic();
}

/* In a child: attaches by name, sends, and goes, or is killed before it can. */
static void send_and_go(uint32_t frames, bool killed)
{
    char error[PORT_ERROR_MAX];

    if (mem_attach(&client, device->name + 4, error) != 0) {
        _exit(1);
    }
    for (uint32_t i = 0; i < frames; i++) {
        give(client_port(), i, 1);
    }
    client_port()->ops->tx_sync(client_port(), 1);
    if (killed) {
        raise(SIGKILL);
    }
    mem_detach(client);
    _exit(0);
}

/* Processes, by name, on a device of one link whose rings nobody reads meanwhile. */
static void processes_come_and_go_while_nobody_reads(void)
{
    enum {
        CLIENTS = 20,
        SENT = 40,
    };
    uint32_t seen = 0;

    open_nic(2, 64);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        pid_t child = fork();
        int status = 0;

        if (child == 0) {
            send_and_go(SENT, i % 2);
        }
        while (waitpid(child, &status, WNOHANG) == 0) {
            device_event(device);
            usleep(200);
        }
        CHECK(i % 2 ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL : status == 0);
    }
    device_event(device);
    for (uint32_t ring = 0; ring < 2; ring++) {
        struct port *port = &device->ports[ring];

        for (receive(port); take(port) != NOBODY; receive(port)) {
            seen++;
        }
    }
    CHECK_EQ(seen, CLIENTS * SENT);
    close_nic();
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"every frame arrives before those of the next client",
         every_frame_arrives_before_those_of_the_next_client},
        {"what finds no room is counted at its ring", what_finds_no_room_is_counted_at_its_ring},
        {"a full lane holds the next client no longer than any",
         a_full_lane_holds_the_next_client_no_longer_than_any},
        {"a client killed while it sends leaves whole frames",
         a_client_killed_while_it_sends_leaves_whole_frames},
        {"a client killed while it receives gives all buffers back",
         a_client_killed_while_it_receives_gives_all_buffers_back},
        {"processes come and go while nobody reads", processes_come_and_go_while_nobody_reads},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
