/*
 * Single wild words from the other side of a shared ring: netmap's module, the other end of a pipe,
 * a neighbour on a switch. Each stops the port that would have followed it, with a count, or is not
 * believed. What was found here was found by ../fuzz; test_mem_hostile.c is the same for mem:.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "netmap_case.h"
#include "ports/pipe.h"
#include "ports/vale.h"
#include "soft_wire.h"

enum {
    LINK_SLOTS = 9,
};

static const struct device_config small = {.rings = 1, .slots = LINK_SLOTS};

/* Between two syncs with nothing to send the module has moved the tail. */
static void a_wild_tail_of_an_idle_netmap_ring_stops_the_port(void)
{
    struct device *device;
    struct port *port;

    fake_begin();
    fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("eth0-0");
    port = &device->ports[0];
    CHECK_EQ(port->ops->tx_sync(port, 0), 0);
    port->tx->tail = SLOTS + 100;
    CHECK_EQ(port->ops->tx_sync(port, 0), -EIO);
    CHECK_EQ(port->counters->errors, 1);
    port->tx->tail = SLOTS - 1;
    device_close(device);
    CHECK(fake_end());
}

/* A poll has moved the user's own word; the next turn would have written there. */
static void a_wild_head_behind_a_poll_stops_the_port(void)
{
    struct device *device;
    struct port *port;

    fake_begin();
    fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("eth0-0");
    port = &device->ports[0];
    port->tx->head = SLOTS + 1;
    port->ops->sleep_disarm(port);
    port->tx->head = 0;
    CHECK_EQ(port->ops->rx_sync(port, 0), -EIO);
    CHECK_EQ(port->ops->tx_sync(port, 0), -EIO);
    CHECK_EQ(port->counters->errors, 2);
    device_close(device);
    CHECK(fake_end());
}

static void a_successor_takes_over_no_wild_head(void)
{
    struct device *device;
    struct port *port;

    fake_begin();
    fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("eth0-0");
    port = &device->ports[0];
    port->tx->head = SLOTS;
    CHECK_EQ(port->ops->recover(port), -EIO);
    port->tx->head = 0;
    port->rx->head = SLOTS - 1; /* beyond what has come */
    CHECK_EQ(port->ops->recover(port), -EIO);
    CHECK_EQ(port->counters->errors, 2);
    port->rx->head = 0;
    CHECK_EQ(port->ops->recover(port), 0);
    device_close(device);
    CHECK(fake_end());
}

static struct device *ends[2];

static struct pipe_way *open_pipe(void)
{
    ends[0] = soft_wire_open(soft_wire_name("mem:wild", "{0"), &small, NULL);
    ends[1] = soft_wire_open(soft_wire_name("mem:wild", "}0"), &small, ends[0]);
    return ((struct pipe_place *)ends[0]->ports[0].priv)->out; /* from the first to the second */
}

static void close_pipe(void)
{
    device_close(ends[1]);
    device_close(ends[0]);
}

static void a_readers_position_beyond_its_ring_stops_the_sender(void)
{
    static const uint8_t mac[6] = {2};
    struct pipe_way *way = open_pipe();
    struct port *port = &ends[0]->ports[0];

    way->released = LINK_SLOTS;
    CHECK(soft_wire_put(port, mac, mac, 1));
    CHECK_EQ(port->ops->tx_sync(port, 0), -EIO);
    CHECK_EQ(port->counters->errors, 1);
    way->released = 0;
    CHECK_EQ(port->ops->tx_sync(port, 0), 0);
    close_pipe();
}

/* It would have taken back what its reader was reading, and handed it out a second time. */
static void a_senders_position_that_goes_back_stops_the_reader(void)
{
    static const uint8_t mac[6] = {2};
    struct pipe_way *way = open_pipe();
    struct port *port = &ends[1]->ports[0];

    for (uint32_t i = 0; i < 3; i++) {
        CHECK(soft_wire_put(&ends[0]->ports[0], mac, mac, i));
    }
    soft_wire_tx(&ends[0]->ports[0]);
    soft_wire_rx(port);
    way->published = 1;
    CHECK_EQ(port->ops->rx_sync(port, 0), -EIO);
    CHECK_EQ(port->counters->errors, 1);
    CHECK_EQ(nm_ring_space(port->rx), 3);
    way->published = 3;
    CHECK_EQ(port->ops->rx_sync(port, 0), 0);
    close_pipe();
}

/* Of an exchange that never was: its successor would have put these indices into its rings. */
static const struct swap_record wild = {.left_buf = 1u << 30, .right_buf = 1u << 29};

static void a_wild_record_of_a_pipe_is_not_repeated(void)
{
    struct pipe_way *way = open_pipe();
    struct port *port = &ends[0]->ports[0];
    uint32_t before = port->tx->slot[0].buf_idx;

    swap_begin(&way->log, &(struct swap_record){.left_buf = before, .right_buf = 1u << 29});
    CHECK_EQ(port->ops->recover(port), 0);
    swap_begin(&way->log, &wild);
    CHECK_EQ(port->ops->recover(port), 0);
    CHECK_EQ(way->filled, 0);
    CHECK_EQ(port->tx->slot[0].buf_idx, before);
    CHECK_EQ(device_audit(ends[0]), 0);
    close_pipe();
}

static void a_wild_record_of_a_switch_is_not_repeated(void)
{
    struct device *device = soft_wire_open(soft_wire_name("vale:wild", ":a"), &small, NULL);
    struct port *port = &device->ports[0];
    struct vale_side *side = ((struct vale_device *)port->priv)->side;
    uint32_t before[2] = {port->tx->slot[0].buf_idx, port->rx->slot[0].buf_idx};

    swap_begin(&side->tx_log, &wild);
    swap_begin(&side->rx_log, &wild);
    CHECK_EQ(port->ops->recover(port), 0);
    swap_begin(&side->tx_log,
               &(struct swap_record){.left_buf = before[0], .right_buf = wild.right_buf});
    CHECK_EQ(port->ops->recover(port), 0);
    CHECK_EQ(port->tx->slot[0].buf_idx, before[0]);
    CHECK_EQ(port->rx->slot[0].buf_idx, before[1]);
    CHECK(nm_ring_empty(port->rx));
    CHECK_EQ(device_audit(device), 0);
    device_close(device);
}

/* The sender writes into the cell again after its frame was looked at, and its receiver dies. */
static void a_cell_is_looked_at_again_by_a_successor(void)
{
    struct device *device = soft_wire_open(soft_wire_name("vale:cell", ":a"), &small, NULL);
    struct port *port = &device->ports[0];
    struct vale_device *vale = port->priv;
    struct nm_slot *cell = vale_cell_at(vale_lane_at(vale, 1, vale->port), 0);

    cell->len = UINT16_MAX;
    swap_begin(&vale->side->rx_log, &(struct swap_record){.lane = 1,
                                                          .left_buf = port->rx->slot[0].buf_idx,
                                                          .right_buf = cell->buf_idx});
    CHECK_EQ(port->ops->recover(port), 0);
    CHECK_EQ(nm_ring_space(port->rx), 1);
    CHECK_EQ(port->rx->slot[0].len, port->rx->nr_buf_size);
    CHECK_EQ(device_audit(device), 0);
    device_close(device);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a wild tail of an idle netmap ring stops the port",
         a_wild_tail_of_an_idle_netmap_ring_stops_the_port},
        {"a wild head behind a poll stops the port", a_wild_head_behind_a_poll_stops_the_port},
        {"a successor takes over no wild head", a_successor_takes_over_no_wild_head},
        {"a reader's position beyond its ring stops the sender",
         a_readers_position_beyond_its_ring_stops_the_sender},
        {"a sender's position that goes back stops the reader",
         a_senders_position_that_goes_back_stops_the_reader},
        {"a wild record of a pipe is not repeated", a_wild_record_of_a_pipe_is_not_repeated},
        {"a wild record of a switch is not repeated", a_wild_record_of_a_switch_is_not_repeated},
        {"a cell is looked at again by a successor", a_cell_is_looked_at_again_by_a_successor},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
