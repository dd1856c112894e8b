/* netmap: on what the module makes itself: pipes, switches, regions; and on a link that goes. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "netmap_case.h"
#include "ports/portset.h"

enum {
    SWITCH_PORTS = 9,
};

static bool may_exchange(const struct device *from, const struct device *to)
{
    return port_same_region(&from->ports[0], from->ports[0].rx, &to->ports[0], to->ports[0].tx);
}

static void sync_tx(struct device *device)
{
    CHECK_EQ(device->ports[0].ops->tx_sync(&device->ports[0], 0), 0);
}

static void sync_rx(struct device *device)
{
    CHECK_EQ(device->ports[0].ops->rx_sync(&device->ports[0], 0), 0);
}

static void pipes_of_one_base_share_a_region_and_others_do_not(void)
{
    struct device *end[6];

    fake_begin();
    fake_nic("eth0", 1, 1, SLOTS);
    end[0] = case_port("p{1");
    end[1] = case_port("p}2");
    end[2] = case_port("q{1");
    end[3] = case_port("r{1@1");
    end[4] = case_port("eth0{1");
    end[5] = case_port("eth0");
    CHECK(may_exchange(end[0], end[1]));
    CHECK(!may_exchange(end[0], end[2]));
    CHECK(!may_exchange(end[0], end[3]));
    CHECK(may_exchange(end[3], end[5])); /* @1 is the common region, a NIC's, too */
    CHECK(may_exchange(end[4], end[5]));
    CHECK_EQ(end[3]->region, 1);
    for (int i = 0; i < 6; i++) {
        device_close(end[i]);
    }
    CHECK(case_refused("s{1@7", NULL, -EINVAL, "netmap has no memory region of this number"));
    CHECK(fake_end());
}

static void a_pipes_slots_are_free_when_its_reader_has_released_them(void)
{
    struct device *near;
    struct device *far;

    fake_begin();
    near = case_port("p{1@conf:slots=8");
    far = case_port("p}1");
    for (uint8_t lap = 0; lap < 40; lap++) {
        uint32_t buf = near->ports[0].tx->slot[near->ports[0].tx->head].buf_idx;

        case_send(&near->ports[0], 3, lap);
        sync_tx(near);
        CHECK_EQ(nm_ring_space(near->ports[0].tx), 4);
        sync_rx(far);
        CHECK_EQ(far->ports[0].rx->slot[far->ports[0].rx->head].buf_idx, buf);
        CHECK_EQ(case_take(&far->ports[0], lap), 3);
        sync_rx(far);
        CHECK_EQ(near->ports[0].ops->tx_sync(&near->ports[0], 1000), 0);
        CHECK_EQ(nm_ring_space(near->ports[0].tx), 7);
    }
    device_close(near);
    device_close(far);
    CHECK(fake_end());
}

/* A frame from one port of the switch to another, by their numbers; 0xff: everybody. */
static void send_to(struct device *device, uint8_t from, uint8_t to)
{
    struct nm_ring *ring = device->ports[0].tx;
    uint8_t *buf = nm_ring_buf(ring, ring->head);

    memset(buf, from, FRAME);
    memset(buf, to == 0xff ? 0xff : 0x02, 6);
    memset(buf + 6, 0x02, 6);
    buf[5] = to;
    buf[11] = from;
    ring->slot[ring->head].len = FRAME;
    ring->slot[ring->head].flags = 0;
    nm_ring_give(ring, nm_ring_next(ring, ring->head));
    sync_tx(device);
}

static uint32_t count_received(struct device *device)
{
    struct nm_ring *ring = device->ports[0].rx;
    uint32_t n;

    sync_rx(device);
    n = nm_ring_distance(ring, ring->head, nm_ring_tail(ring));
    nm_ring_give(ring, nm_ring_tail(ring));
    return n;
}

static void a_switch_learns_whom_its_frames_are_for(void)
{
    struct device *port[SWITCH_PORTS];
    struct device *other;
    char name[16];

    fake_begin();
    for (uint8_t i = 0; i < SWITCH_PORTS; i++) {
        snprintf(name, sizeof(name), "vale0:%u", i);
        port[i] = case_port(name);
        CHECK_EQ(port[i]->region, i + 2); /* nothing is shared but for the asking */
    }
    other = case_port("vale1:0@1");
    CHECK_EQ(other->region, 1);
    for (uint8_t i = 0; i < SWITCH_PORTS; i++) { /* nobody knows the next one yet */
        send_to(port[i], i, 100);
        for (uint8_t k = 0; k < SWITCH_PORTS; k++) {
            CHECK_EQ(count_received(port[k]), k != i);
        }
    }
    for (uint8_t i = 0; i < SWITCH_PORTS; i++) {
        uint8_t to = (uint8_t)((i + 1) % SWITCH_PORTS);

        send_to(port[i], i, to);
        for (uint8_t k = 0; k < SWITCH_PORTS; k++) {
            CHECK_EQ(count_received(port[k]), k == to);
        }
    }
    send_to(port[0], 0, 0xff);
    for (uint8_t k = 1; k < SWITCH_PORTS; k++) {
        CHECK_EQ(count_received(port[k]), 1);
    }
    CHECK_EQ(count_received(other), 0);
    device_close(other);
    for (uint8_t i = 0; i < SWITCH_PORTS; i++) {
        device_close(port[i]);
    }
    CHECK(fake_end());
}

static void a_link_goes_down_and_comes_back(void)
{
    struct fake_port *nic;
    struct device *device;
    uint8_t frame[FAKE_FRAME_MAX];

    fake_begin();
    nic = fake_nic("eth0", 1, 1, SLOTS);
    nic->down = true;
    device = case_port("eth0");
    CHECK(strstr(device->banner, "no carrier yet") != NULL);
    case_arrive(nic, 0, 1);
    sync_rx(device);
    CHECK_EQ(case_take(&device->ports[0], 1), 0);
    case_send(&device->ports[0], 2, 5);
    sync_tx(device);
    CHECK_EQ(fake_sent(nic, 0, frame), 0);
    CHECK_EQ(nm_ring_space(device->ports[0].tx), SLOTS - 1 - 2);
    nic->down = false;
    CHECK_EQ(device->ports[0].ops->tx_sync(&device->ports[0], 1000), 0);
    CHECK_EQ(fake_sent(nic, 0, frame), FRAME);
    CHECK_EQ(frame[0], 5);
    CHECK_EQ(nm_ring_space(device->ports[0].tx), SLOTS - 1);
    case_arrive(nic, 0, 2);
    sync_rx(device);
    CHECK_EQ(case_take(&device->ports[0], 2), 1);
    device_close(device);
    CHECK(fake_end());
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"pipes of one base share a region, and others do not",
         pipes_of_one_base_share_a_region_and_others_do_not},
        {"a pipe's slots are free when its reader has released them",
         a_pipes_slots_are_free_when_its_reader_has_released_them},
        {"a switch learns whom its frames are for", a_switch_learns_whom_its_frames_are_for},
        {"a link goes down and comes back", a_link_goes_down_and_comes_back},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
