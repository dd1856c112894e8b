/*
 * netmap: the rings' contract on a /dev/netmap in memory that answers the same requests as the
 * module: syncs, polls, wrap-around, and what is refused before the kernel sees it.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "netmap_case.h"

static void the_holder_is_never_synced(void)
{
    struct fake_port *nic;
    struct device *device;

    fake_begin();
    nic = fake_nic("eth0", 2, 2, SLOTS);
    device = case_port("eth0");
    case_arrive(nic, 0, 1);
    case_arrive(nic, 1, 1);
    CHECK_EQ(device->ports[0].ops->rx_sync(&device->ports[0], 0), 0);
    CHECK_EQ(case_take(&device->ports[0], 1), 1);
    CHECK_EQ(nic->kring[FAKE_RX][1].wire.n, 1); /* still on the wire: nobody synced ring 1 */
    device_close(device);
    CHECK(fake_end());
}

static void a_full_ring_waits_for_completion_and_does_not_sleep(void)
{
    struct fake_port *nic;
    struct device *device;
    struct port *port;

    fake_begin();
    nic = fake_nic("eth0", 1, 1, SLOTS);
    nic->slow = true;
    device = case_port("eth0-0");
    port = &device->ports[0];
    case_send(port, SLOTS - 1, 0);
    CHECK_EQ(port->ops->tx_sync(port, 0), 0);
    CHECK_EQ(nm_ring_space(port->tx), 0);
    CHECK_EQ(port->ops->sleep_arm(port), 1); /* waits for room: the poll reclaims */
    CHECK_EQ(port->ops->tx_sync(port, 0), 0);
    CHECK_EQ(nm_ring_space(port->tx), SLOTS - 1);
    CHECK_EQ(port->ops->sleep_arm(port), 0);
    device_close(device);
    CHECK(fake_end());
}

static void an_idle_turn_makes_one_call_for_each_direction_at_most(void)
{
    struct device *device;
    struct port *port;
    uint32_t syncs;

    fake_begin();
    fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("eth0-0");
    port = &device->ports[0];
    CHECK_EQ(port->ops->tx_sync(port, 0), 0);
    syncs = fake->syncs;
    CHECK_EQ(port->ops->tx_sync(port, 0), 0);
    CHECK_EQ(fake->syncs, syncs); /* nothing to send, room enough */
    CHECK_EQ(port->ops->rx_sync(port, 0), 0);
    CHECK_EQ(fake->syncs, syncs + 1);
    device_close(device);
    CHECK(fake_end());
}

/* poll() syncs, too, and with the head that was published before it. */
static void what_a_poll_brought_is_taken_without_a_sync(void)
{
    struct fake_port *nic;
    struct device *device;
    struct port *port;
    uint32_t syncs;

    fake_begin();
    nic = fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("eth0-0");
    port = &device->ports[0];
    for (uint32_t lap = 0; lap < 3 * SLOTS; lap++) {
        for (uint32_t i = 0; i < SLOTS - 1; i++) {
            case_arrive(nic, 0, (uint8_t)i);
        }
        CHECK_EQ(fake_kernel.poll(port->wait_fd, POLLIN, 0), POLLIN);
        syncs = fake->syncs;
        CHECK_EQ(port->ops->rx_sync(port, 0), 0);
        CHECK_EQ(fake->syncs, syncs);
        CHECK_EQ(case_take(port, 0), SLOTS - 1);
    }
    CHECK_EQ(port->counters->errors, 0);
    CHECK_EQ(port->counters->rx_frames, 3 * SLOTS * (SLOTS - 1));
    device_close(device);
    CHECK(fake_end());
}

/* A poll for frames also sends what is published, unless the name says no-tx-poll. */
static void a_poll_sends_unless_it_was_asked_not_to(void)
{
    static const char *const names[] = {"eth0", "eth0@conf:no-tx-poll=1"};

    for (uint32_t quiet = 0; quiet < 2; quiet++) {
        struct fake_port *nic;
        struct device *device;
        struct port *port;
        uint8_t frame[FAKE_FRAME_MAX];

        fake_begin();
        nic = fake_nic("eth0", 1, 1, SLOTS);
        device = case_port(names[quiet]);
        port = &device->ports[0];
        case_send(port, 1, 9);
        fake_kernel.poll(port->wait_fd, POLLIN, 0);
        CHECK_EQ(fake_sent(nic, 0, frame), quiet ? 0 : FRAME);
        CHECK_EQ(port->ops->tx_sync(port, 0), 0);
        CHECK_EQ(fake_sent(nic, 0, frame), quiet ? FRAME : 0);
        CHECK_EQ(port->counters->tx_frames, 1);
        device_close(device);
        CHECK(fake_end());
    }
}

/* A driver that takes nothing at the first sync gets another, though there is nothing new. */
static void frames_that_the_driver_left_are_offered_again(void)
{
    struct fake_port *nic;
    struct device *device;
    struct port *port;
    uint8_t frame[FAKE_FRAME_MAX];

    fake_begin();
    nic = fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("eth0-0");
    port = &device->ports[0];
    nic->stuck = 2;
    case_send(port, 1, 9);
    CHECK_EQ(port->ops->tx_sync(port, 1000), 0);
    CHECK_EQ(port->ops->tx_sync(port, 1010), 0); /* too soon */
    CHECK_EQ(nic->stuck, 1);
    CHECK_EQ(port->ops->tx_sync(port, 1100), 0);
    CHECK_EQ(fake_sent(nic, 0, frame), 0);
    CHECK_EQ(port->ops->sleep_arm(port), 0);
    fake_kernel.poll(port->wait_fd, POLLIN, 0); /* the sleep goes on sending */
    port->ops->sleep_disarm(port);
    CHECK_EQ(fake_sent(nic, 0, frame), FRAME);
    CHECK_EQ(nm_ring_space(port->tx), SLOTS - 1);
    CHECK_EQ(port->counters->tx_frames, 1);
    device_close(device);
    CHECK(fake_end());
}

/* The kernel would re-initialise the ring without a word. */
static void a_wild_head_or_cur_stops_the_port_before_the_kernel_sees_it(void)
{
    static const uint32_t wild[][2] = {{3, 3}, {SLOTS, SLOTS}, {0, SLOTS}, {2, 1}, {0, 3}};

    for (size_t i = 0; i < sizeof(wild) / sizeof(wild[0]); i++) {
        struct fake_port *nic;
        struct device *device;
        struct port *port;
        uint32_t syncs;

        fake_begin();
        nic = fake_nic("eth0", 1, 1, SLOTS);
        device = case_port("eth0-0");
        port = &device->ports[0];
        case_arrive(nic, 0, 0);
        case_arrive(nic, 0, 1);
        CHECK_EQ(port->ops->rx_sync(port, 0), 0); /* [0, 2) is ours */
        syncs = fake->syncs;
        port->rx->head = wild[i][0];
        port->rx->cur = wild[i][1];
        CHECK_EQ(port->ops->rx_sync(port, 0), -EIO);
        port->tx->head = SLOTS + 1;
        CHECK_EQ(port->ops->tx_sync(port, 0), -EIO);
        CHECK_EQ(port->counters->errors, 2);
        CHECK_EQ(fake->syncs, syncs);
        device_close(device);
        fake_end(); /* a wild cur is not put back */
    }
}

static void a_wild_slot_stops_the_port(void)
{
    struct fake_port *nic;
    struct device *device;
    struct port *port;

    fake_begin();
    nic = fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("eth0-0");
    port = &device->ports[0];
    case_send(port, 2, 0);
    port->tx->slot[1].buf_idx = 1 << 30;
    CHECK_EQ(port->ops->tx_sync(port, 0), -EIO);
    port->tx->slot[1].buf_idx = port->tx->slot[0].buf_idx;
    port->tx->slot[1].len = FAKE_BUF_SIZE + 1;
    CHECK_EQ(port->ops->tx_sync(port, 0), -EIO);
    case_arrive(nic, 0, 0);
    fake_kernel.poll(port->wait_fd, POLLIN, 0);
    port->rx->slot[0].buf_idx = 1; /* reserved */
    CHECK_EQ(port->ops->rx_sync(port, 0), -EIO);
    port->rx->slot[0].buf_idx = port->rx->slot[1].buf_idx;
    __atomic_store_n(&port->rx->tail, SLOTS + 5, __ATOMIC_RELEASE);
    CHECK_EQ(port->ops->rx_sync(port, 0), -EIO);
    CHECK_EQ(port->counters->errors, 4);
    device_close(device);
    fake_end(); /* the buffers that were overwritten are lost */
}

/* Room that a sleep's poll brought is looked at before the stack writes into it. */
static void a_wild_slot_after_a_sleep_stops_the_port(void)
{
    struct fake_port *nic;
    struct device *device;
    struct port *port;

    fake_begin();
    nic = fake_nic("eth0", 1, 1, SLOTS);
    nic->slow = true;
    device = case_port("eth0-0");
    port = &device->ports[0];
    case_send(port, 3, 0);
    CHECK_EQ(port->ops->tx_sync(port, 0), 0);
    port->tx->slot[SLOTS - 1].buf_idx = 1 << 30;
    fake_kernel.poll(port->wait_fd, POLLIN | POLLOUT, 0);
    port->ops->sleep_disarm(port);
    CHECK_EQ(port->ops->rx_sync(port, 0), -EIO);
    port->tx->slot[SLOTS - 1].buf_idx = port->tx->slot[0].buf_idx;
    device_close(device);
    fake_end(); /* the buffer that was overwritten is lost */
}

static void a_ring_without_its_driver_is_gone(void)
{
    struct fake_port *nic;
    struct device *device;
    struct port *port;

    fake_begin();
    nic = fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("eth0-0");
    port = &device->ports[0];
    nic->kring[FAKE_RX][0].stopped = true;
    nic->kring[FAKE_TX][0].stopped = true;
    CHECK_EQ(port->ops->rx_sync(port, 0), -ENODEV);
    case_send(port, 1, 0);
    CHECK_EQ(port->ops->tx_sync(port, 0), -ENODEV);
    device_close(device);
    CHECK(fake_end());
}

static void one_direction_has_a_stub_for_the_other(void)
{
    struct fake_port *nic;
    struct device *device;
    struct port *port;

    fake_begin();
    nic = fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("eth0/R");
    port = &device->ports[0];
    CHECK_EQ(nm_ring_space(port->tx), 0);
    CHECK_EQ(port->ops->tx_sync(port, 0), 0);
    case_arrive(nic, 0, 5);
    CHECK_EQ(port->ops->rx_sync(port, 0), 0);
    CHECK_EQ(case_take(port, 5), 1);
    CHECK_EQ(port->ops->sleep_arm(port), 0);
    device_close(device);
    device = case_port("eth0-0/T");
    port = &device->ports[0];
    CHECK_EQ(port->ops->rx_sync(port, 0), 0);
    CHECK(nm_ring_empty(port->rx));
    CHECK_EQ(nm_ring_space(port->tx), SLOTS - 1);
    device_close(device);
    CHECK(fake_end());
}

static void the_two_ends_of_a_pipe_swap_buffers(void)
{
    struct device *near;
    struct device *far;

    fake_begin();
    near = case_port("x{1@conf:rings=2,slots=16");
    far = case_port("x}1");
    CHECK_EQ(near->rings, 2);
    CHECK_EQ(far->rings, 2);
    CHECK_EQ(near->region, 2); /* the base is no interface: a region of its own */
    CHECK_EQ(far->region, near->region);
    CHECK(memcmp(near->mac, far->mac, 6) != 0);
    CHECK_EQ(near->mtu, 1500);
    for (uint32_t lap = 0; lap < 40; lap++) {
        case_send(&near->ports[1], 3, (uint8_t)lap);
        CHECK_EQ(near->ports[1].ops->tx_sync(&near->ports[1], 0), 0);
        CHECK_EQ(far->ports[1].ops->rx_sync(&far->ports[1], 0), 0);
        CHECK_EQ(case_take(&far->ports[1], (uint8_t)lap), 3);
        CHECK(nm_ring_empty(far->ports[0].rx));
    }
    device_close(near);
    device_close(far);
    CHECK(fake_end());
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"the holder is never synced", the_holder_is_never_synced},
        {"a full ring waits for completion and does not sleep",
         a_full_ring_waits_for_completion_and_does_not_sleep},
        {"an idle turn makes one call for each direction at most",
         an_idle_turn_makes_one_call_for_each_direction_at_most},
        {"what a poll brought is taken without a sync",
         what_a_poll_brought_is_taken_without_a_sync},
        {"a poll sends unless it was asked not to", a_poll_sends_unless_it_was_asked_not_to},
        {"frames that the driver left are offered again",
         frames_that_the_driver_left_are_offered_again},
        {"a wild head or cur stops the port before the kernel sees it",
         a_wild_head_or_cur_stops_the_port_before_the_kernel_sees_it},
        {"a wild slot stops the port", a_wild_slot_stops_the_port},
        {"a wild slot after a sleep stops the port", a_wild_slot_after_a_sleep_stops_the_port},
        {"a ring without its driver is gone", a_ring_without_its_driver_is_gone},
        {"one direction has a stub for the other", one_direction_has_a_stub_for_the_other},
        {"the two ends of a pipe swap buffers", the_two_ends_of_a_pipe_swap_buffers},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
