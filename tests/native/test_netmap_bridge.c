/* netmap: a NIC that is shared with the host, on the fake module. */
#include <arpa/inet.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/wire.h"
#include "netmap_case.h"
#include "ports/netmap_bridge.h"
#include "worker/server.h"

enum {
    OURS = 0x0a000001,
    OTHER = 0x0a000002,
    ECHO = 7,
    SSH = 22,
    RINGS = 2,
    MANY = 40,
};

static const struct device_config shared = {
    .ip = OURS, .take = PORT_TAKE_PORTS, .tcp_ports = {ECHO}};
static const struct device_config own = {.ip = OURS, .take = PORT_TAKE_ADDRESS};

static struct fake_port *begin(uint32_t slots)
{
    fake_begin();
    return fake_nic("eth0", RINGS, RINGS, slots);
}

static struct device *open_shared(const struct device_config *config)
{
    struct device *device;

    CHECK_EQ(case_open(&device, "eth0", config), 0);
    CHECK_EQ(device ? device->rings : 0, RINGS);
    return device;
}

/* A TCP segment to an address and a port; its last byte is its number. */
static void arrive(struct fake_port *nic, uint32_t ring, uint32_t ip, uint16_t to, uint8_t number)
{
    uint8_t frame[FRAME] = {0};

    store_u16(frame + offsetof(struct wire_eth, type), htons(ETHERTYPE_IPV4));
    frame[ETH_HDR_LEN] = 0x45;
    frame[ETH_HDR_LEN + offsetof(struct wire_ipv4, protocol)] = PROTO_TCP;
    store_u32(frame + ETH_HDR_LEN + offsetof(struct wire_ipv4, dst), htonl(ip));
    store_u16(frame + ETH_HDR_LEN + IPV4_HDR_LEN + offsetof(struct wire_tcp, dst_port), htons(to));
    frame[FRAME - 1] = number;
    fake_receive(nic, ring, frame, FRAME);
}

/* Frames that are left for the stack; their slots go back, and with them the host's. */
static uint32_t take(struct port *port)
{
    struct nm_ring *ring = port->rx;
    uint32_t n = 0;

    for (uint32_t i = ring->head; i != nm_ring_tail(ring); i = nm_ring_next(ring, i)) {
        n += !(ring->slot[i].flags & (NM_FORWARD | NM_REPORT));
    }
    nm_ring_give(ring, nm_ring_tail(ring));
    return n;
}

static int rx(struct device *device, uint32_t ring, uint64_t now_us)
{
    return device->ports[ring].ops->rx_sync(&device->ports[ring], now_us);
}

static int tx(struct device *device, uint32_t ring, uint64_t now_us)
{
    return device->ports[ring].ops->tx_sync(&device->ports[ring], now_us);
}

static void end(struct device *device)
{
    device_close(device);
    CHECK(fake_end());
}

static void what_is_not_ours_goes_up_to_the_host(void)
{
    struct fake_port *nic = begin(16);
    struct device *device = open_shared(&shared);
    uint8_t frame[FAKE_FRAME_MAX];

    CHECK(device->host_arp);
    for (uint32_t ring = 0; ring < RINGS; ring++) {
        arrive(nic, ring, OURS, SSH, 1);
        arrive(nic, ring, OURS, ECHO, 2);
        arrive(nic, ring, OTHER, ECHO, 3);
        CHECK_EQ(rx(device, ring, 1), 0);
        CHECK_EQ(take(&device->ports[ring]), 1);
        CHECK_EQ(fake_went_up(nic, frame), 0); /* not before its slot goes back */
        CHECK_EQ(rx(device, ring, 2), 0);
        CHECK_EQ(fake_went_up(nic, frame), FRAME);
        CHECK_EQ(frame[FRAME - 1], 1);
        CHECK_EQ(fake_went_up(nic, frame), FRAME);
        CHECK_EQ(frame[FRAME - 1], 3);
        CHECK_EQ(fake_went_up(nic, frame), 0);
        CHECK_EQ(device->ports[ring].counters->rx_frames, 3);
    }
    end(device);
}

static void an_address_of_our_own_is_wholly_ours(void)
{
    struct fake_port *nic = begin(16);
    struct device *device = open_shared(&own);
    uint8_t frame[FAKE_FRAME_MAX];

    CHECK(!device->host_arp);
    arrive(nic, 1, OURS, SSH, 1);
    arrive(nic, 1, OTHER, SSH, 2);
    CHECK_EQ(rx(device, 1, 1), 0);
    CHECK_EQ(take(&device->ports[1]), 1);
    CHECK_EQ(rx(device, 1, 2), 0);
    CHECK_EQ(fake_went_up(nic, frame), FRAME);
    CHECK_EQ(frame[FRAME - 1], 2);
    end(device);
}

static void a_long_frame_of_the_hosts_is_lost_by_name(void)
{
    struct fake_port *nic = begin(16);
    struct device *device = open_shared(&shared);
    uint8_t frame[FAKE_FRAME_MAX] = {0};
    const struct nm_ring *ring = device->ports[0].rx;

    fake_receive(nic, 0, frame, 3000);
    CHECK_EQ(rx(device, 0, 1), 0);
    CHECK_EQ(ring->slot[0].flags, NM_MOREFRAG | NM_REPORT);
    CHECK_EQ(ring->slot[1].flags, 0);
    nm_ring_give(device->ports[0].rx, 2);
    CHECK_EQ(rx(device, 0, 2), 0);
    CHECK_EQ(fake_went_up(nic, frame), 0);
    end(device);
}

/* The kernel's host ring of queue q lies behind the NIC's rings. */
static void host_sends(struct fake_port *nic, uint32_t ring, uint8_t number)
{
    uint8_t frame[FRAME];

    memset(frame, number, sizeof(frame));
    fake_receive(nic, nic->rings[FAKE_RX] + ring, frame, sizeof(frame));
}

static void what_the_host_sends_leaves_by_the_nics_ring(void)
{
    struct fake_port *nic = begin(16);
    static const uint8_t order[] = {9, 1, 2};
    struct device *device = open_shared(&shared);
    uint8_t frame[FAKE_FRAME_MAX];

    for (uint32_t ring = 0; ring < RINGS; ring++) {
        host_sends(nic, ring, 1);
        case_send(&device->ports[ring], 1, 9); /* and one of ours between */
        CHECK_EQ(rx(device, ring, 100), 0);
        host_sends(nic, ring, 2);
        CHECK_EQ(rx(device, ring, 200), 0);
        CHECK_EQ(tx(device, ring, 201), 0);
        for (uint32_t i = 0; i < 3; i++) {
            CHECK_EQ(fake_sent(nic, ring, frame), FRAME);
            CHECK_EQ(frame[0], order[i]);
        }
        CHECK_EQ(fake_sent(nic, ring, frame), 0);
        CHECK_EQ(device->ports[ring].counters->tx_frames, 3);
    }
    end(device);
}

static void a_full_ring_holds_the_host_back_and_loses_nothing(void)
{
    struct fake_port *nic = begin(8);
    struct device *device = open_shared(&shared);
    uint8_t frame[FAKE_FRAME_MAX];
    uint64_t now_us = 0;
    uint8_t sent = 0;

    nic->stuck = 6;
    for (uint8_t i = 0; i < MANY; i++) {
        host_sends(nic, 0, i);
    }
    for (uint32_t turn = 0; turn < 60; turn++) {
        const struct port *port = &device->ports[0];

        now_us += 100;
        CHECK_EQ(rx(device, 0, now_us), 0);
        CHECK(nm_ring_distance(port->tx, port->tx->head, nm_ring_tail(port->tx)) >= 2);
        CHECK_EQ(tx(device, 0, now_us), 0);
        while (fake_sent(nic, 0, frame) > 0) {
            CHECK_EQ(frame[0], sent++);
        }
    }
    CHECK_EQ(sent, MANY);
    end(device);
}

static void nonsense_in_a_host_ring_stops_the_port(void)
{
    struct fake_port *nic = begin(8);
    struct device *device = open_shared(&shared);
    struct nm_ring *host = ((const struct netmap_ring *)device->ports[0].priv)->host_rx;
    uint32_t was = host->slot[0].buf_idx;

    host->slot[0].buf_idx = FAKE_BUFS;
    nic->kring[FAKE_RX][RINGS].hwtail = 1;
    CHECK_EQ(rx(device, 0, 100), -EIO);
    CHECK_EQ(device->ports[0].counters->errors, 1);
    host->slot[0].buf_idx = was;
    end(device);
}

static void without_enough_host_rings_it_is_refused(void)
{
    struct device_config mac = shared;
    struct device *other;
    struct fake_port *nic = begin(8);

    CHECK_EQ(case_open(&other, "eth0", NULL), 0); /* opened first, with one host ring */
    CHECK(case_refused("eth0", &shared, -EBUSY, "another program has it open"));
    device_close(other);
    nic->host_rings = 0;
    nic->rings[FAKE_RX] = nic->rings[FAKE_TX] = 1;
    CHECK(case_refused("eth0", &shared, -EINVAL, "no host ring beside each"));
    nic->host_rings = 1;
    CHECK(case_refused("eth0-0", &shared, -EINVAL, "all of its rings"));
    memset(mac.mac, 2, sizeof(mac.mac));
    CHECK(case_refused("eth0", &mac, -EADDRNOTAVAIL, "leave --mac"));
    CHECK(fake_end());
}

static void exclusive_and_nobodys_address_take_all(void)
{
    static const struct device_config all = {.ip = OURS, .take = PORT_TAKE_ALL};
    static const struct device_config *const configs[] = {&all, NULL};

    for (uint32_t i = 0; i < 2; i++) {
        struct fake_port *nic = begin(8);
        struct device *device = open_shared(configs[i]);
        uint8_t frame[FAKE_FRAME_MAX];

        arrive(nic, 0, OTHER, SSH, 1);
        CHECK_EQ(rx(device, 0, 1), 0);
        CHECK_EQ(take(&device->ports[0]), 1);
        CHECK_EQ(rx(device, 0, 2), 0);
        CHECK_EQ(fake_went_up(nic, frame), 0);
        end(device);
    }
}

/* The worker's side of it: each frame has one verdict, and the host's is its own. */
static void a_worker_counts_what_it_hands_on(void)
{
    struct fake_port *nic = begin(64);
    struct device *device = open_shared(&shared);
    struct stack_config config = {.ip = htonl(OURS),
                                  .netmask = htonl(0xffffff00),
                                  .mtu = 1500,
                                  .shards = RINGS,
                                  .conns_max = 16,
                                  .actives_max = 16,
                                  .chunks_max = 64,
                                  .rcv_buf = 4096,
                                  .snd_buf = 4096,
                                  .backlog_max = 16,
                                  .host_arp = true};
    uint64_t secret[2] = {1, 2};
    uint8_t frame[FAKE_FRAME_MAX] = {0};
    struct server *server;
    struct worker worker;
    uint32_t adopted;

    CHECK_EQ(server_create(&server, device, &config, secret, case_error), 0);
    server_worker_init(server, 0, &worker);
    CHECK_EQ(worker_adopt(&worker, 1000, &adopted, &adopted), 0);
    arrive(nic, 0, OURS, SSH, 1);
    arrive(nic, 0, OTHER, ECHO, 2);
    fake_receive(nic, 0, frame, 3000);
    arrive(nic, 0, OURS, ECHO, 3);
    host_sends(nic, 0, 4);
    for (uint64_t now_us = 2000; now_us < 3000; now_us += 100) {
        CHECK(worker_turn(&worker, now_us) >= 0);
    }
    CHECK_EQ(worker.stack.stats->verdict[VERDICT_host_passed], 2);
    CHECK_EQ(worker.stack.stats->verdict[VERDICT_host_too_long], 1);
    CHECK_EQ(stats_verdict_sum(worker.stack.stats), device->ports[0].counters->rx_frames);
    CHECK_EQ(device->ports[0].counters->rx_frames, 4);
    CHECK_EQ(fake_went_up(nic, frame), FRAME);
    CHECK_EQ(fake_went_up(nic, frame), FRAME);
    CHECK_EQ(frame[FRAME - 1], 2);
    CHECK_EQ(fake_sent(nic, 0, frame), FRAME);
    CHECK_EQ(frame[0], 4);
    stack_detach(&worker.stack);
    server_destroy(server);
    end(device);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"what is not ours goes up to the host", what_is_not_ours_goes_up_to_the_host},
        {"an address of our own is wholly ours", an_address_of_our_own_is_wholly_ours},
        {"a long frame of the host's is lost by name", a_long_frame_of_the_hosts_is_lost_by_name},
        {"what the host sends leaves by the NIC's ring",
         what_the_host_sends_leaves_by_the_nics_ring},
        {"a full ring holds the host back and loses nothing",
         a_full_ring_holds_the_host_back_and_loses_nothing},
        {"nonsense in a host ring stops the port", nonsense_in_a_host_ring_stops_the_port},
        {"without enough host rings it is refused", without_enough_host_rings_it_is_refused},
        {"a worker counts what it hands on", a_worker_counts_what_it_hands_on},
        {"exclusive, and nobody's address, take all", exclusive_and_nobodys_address_take_all},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
