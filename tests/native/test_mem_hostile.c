/* The software NIC against a client that writes what it likes: one test for each word of its own.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/wire.h"
#include "check.h"
#include "ports/mem.h"

static struct device *device;
static struct mem_device *mem;
static struct mem_attachment *links[2]; /* an honest one, a hostile one */
static struct port *server;

static void open_nic(void)
{
    struct device_config config = {.rings = 1, .links = 2, .slots = 16};
    char name[64];
    char error[PORT_ERROR_MAX] = "";

    snprintf(name, sizeof(name), "mem:hostile-%d", getpid());
    if (!CHECK_EQ(device_open(&device, name, &config, error), 0)) {
        exit(1);
    }
    mem = device->priv;
    server = &device->ports[0];
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_EQ(mem_attach_local(&links[i], device), 0);
    }
}

static struct port *port_of(uint32_t link)
{
    return mem_attachment_port(links[link]);
}

static int send_frame(struct port *port, const uint8_t to[6])
{
    struct nm_ring *ring = port->tx;
    uint8_t *buf = nm_ring_buf(ring, ring->head);

    memset(buf, 0, 64);
    memcpy(buf, to, 6);
    ring->slot[ring->head].len = 64;
    ring->slot[ring->head].flags = 0;
    nm_ring_give(ring, nm_ring_next(ring, ring->head));
    return port->ops->tx_sync(port, 0);
}

/* A frame from the server to a link's MAC; what tx_sync says. */
static int send_down(uint32_t link)
{
    return send_frame(server, mem_attachment_mac(links[link], false));
}

static struct mem_lane *hostile_lane(bool down)
{
    return &mem->lanes[mem_lane_index(mem->shared, 1, 0, down)];
}

/* Both directions of the honest link work, and the server's slots hold what exists. */
static void check_others_go_on(void)
{
    uint64_t frames = server->counters->rx_frames;

    CHECK_EQ(send_frame(port_of(0), mem_attachment_mac(links[0], true)), 0);
    CHECK_EQ(server->ops->rx_sync(server, 0), 0);
    CHECK_EQ(server->counters->rx_frames, frames + 1);
    CHECK_EQ(send_down(0), 0);
    CHECK_EQ(port_of(0)->ops->rx_sync(port_of(0), 0), 0);
    CHECK_EQ(port_of(0)->counters->rx_frames, 1);
    for (uint32_t i = 0; i < server->rx->num_slots; i++) {
        CHECK(server->rx->slot[i].buf_idx < mem->shared->bufs);
        CHECK(server->tx->slot[i].buf_idx < mem->shared->bufs);
    }
}

/* The link is stopped, counted, and not given to anybody again. */
static void check_stopped_and_close(void)
{
    struct mem_attachment *next;

    CHECK(server->counters->errors > 0);
    check_others_go_on();
    CHECK_EQ(port_of(1)->ops->rx_sync(port_of(1), 0), -EIO);
    CHECK_EQ(port_of(1)->ops->tx_sync(port_of(1), 0), -EIO);
    mem_detach(links[1]);
    CHECK_EQ(mem_attach_local(&next, device), -EBUSY);
    mem_detach(links[0]);
    device_close(device);
}

static void a_wild_index_in_a_lane_stops_its_link_alone(void)
{
    open_nic();
    CHECK_EQ(send_frame(port_of(1), mem_attachment_mac(links[1], true)), 0);
    hostile_lane(false)->cell[0].buf_idx = 0x7fffffff;
    CHECK_EQ(server->ops->rx_sync(server, 0), 0);
    check_stopped_and_close();
}

static void a_wild_length_in_a_lane_stops_its_link_alone(void)
{
    open_nic();
    CHECK_EQ(send_frame(port_of(1), mem_attachment_mac(links[1], true)), 0);
    hostile_lane(false)->cell[0].len = UINT16_MAX;
    CHECK_EQ(server->ops->rx_sync(server, 0), 0);
    check_stopped_and_close();
}

static void a_wild_tail_of_a_lane_stops_its_link_alone(void)
{
    open_nic();
    atomic_store(&hostile_lane(false)->tail, MEM_CELLS + 1);
    CHECK_EQ(server->ops->rx_sync(server, 0), 0);
    check_stopped_and_close();
}

static void a_frame_without_an_end_stops_its_link_alone(void)
{
    open_nic();
    for (uint32_t i = 0; i < MEM_CELLS; i++) {
        hostile_lane(false)->cell[i].flags = NM_MOREFRAG;
    }
    atomic_store(&hostile_lane(false)->tail, MEM_CELLS);
    CHECK_EQ(server->ops->rx_sync(server, 0), 0);
    check_stopped_and_close();
}

static void a_wild_index_in_a_free_cell_is_not_taken(void)
{
    open_nic();
    hostile_lane(true)->cell[0].buf_idx = mem->shared->bufs;
    CHECK_EQ(send_down(1), 0);
    CHECK_EQ(server->counters->tx_dropped, 1);
    check_stopped_and_close();
}

static void a_broadcast_is_not_copied_to_a_wild_index(void)
{
    static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

    open_nic();
    hostile_lane(true)->cell[0].buf_idx = mem->shared->bufs;
    CHECK_EQ(send_frame(server, everybody), 0);
    CHECK_EQ(port_of(0)->ops->rx_sync(port_of(0), 0), 0);
    CHECK_EQ(port_of(0)->counters->rx_frames, 1);
    nm_ring_give(port_of(0)->rx, port_of(0)->rx->tail);
    port_of(0)->counters->rx_frames = 0;
    check_stopped_and_close();
}

static void a_wild_head_of_a_lane_stops_its_link_alone(void)
{
    open_nic();
    atomic_store(&hostile_lane(true)->head, 5); /* before anything was sent */
    CHECK_EQ(send_down(1), 0);
    check_stopped_and_close();
}

/* The words of a client's own ring: its own port stops, the server never sees it. */
static void check_own_port_stops_and_close(int code)
{
    CHECK_EQ(code, -EIO);
    CHECK_EQ(port_of(1)->counters->errors, 1);
    CHECK_EQ(server->ops->rx_sync(server, 0), 0);
    CHECK_EQ(server->counters->errors, 0);
    check_others_go_on();
    mem_detach(links[1]);
    mem_detach(links[0]);
    device_close(device);
}

static void a_wild_head_stops_its_own_port(void)
{
    open_nic();
    port_of(1)->tx->head = 16;
    check_own_port_stops_and_close(port_of(1)->ops->tx_sync(port_of(1), 0));
    open_nic();
    port_of(1)->rx->head = UINT32_MAX;
    check_own_port_stops_and_close(port_of(1)->ops->rx_sync(port_of(1), 0));
}

static void a_wild_slot_stops_its_own_port(void)
{
    open_nic();
    port_of(1)->tx->slot[0].buf_idx = 1;
    port_of(1)->tx->slot[0].len = 64;
    port_of(1)->tx->head = 1;
    check_own_port_stops_and_close(port_of(1)->ops->tx_sync(port_of(1), 0));
    open_nic();
    port_of(1)->tx->slot[0].len = 2049;
    port_of(1)->tx->head = 1;
    check_own_port_stops_and_close(port_of(1)->ops->tx_sync(port_of(1), 0));
}

/* What a dead client says it was doing is not believed: its link is not given out again. */
static void a_wild_record_of_a_dead_client_is_not_followed(void)
{
    struct mem_attachment *next;

    open_nic();
    mem->shared->side[1 + 1].intent =
        (struct mem_intent){.kind = MEM_INTENT_TX, .lane = 1 << 20, .slot = 1 << 20, .step = 5};
    mem_detach(links[1]);
    CHECK_EQ(mem_attach_local(&next, device), -EBUSY);
    check_others_go_on();
    mem_detach(links[0]);
    device_close(device);
}

/* A record that names the honest link's lane: that lane stays what it is. */
static void a_record_of_another_link_s_lane_is_not_followed(void)
{
    struct mem_attachment *next;
    uint32_t buf;

    open_nic();
    buf = mem->lanes[1].cell[0].buf_idx;
    mem->shared->side[1 + 1].intent =
        (struct mem_intent){.kind = MEM_INTENT_RX, .lane = 1, .step = 6};
    mem_detach(links[1]);
    CHECK_EQ(mem_attach_local(&next, device), -EBUSY);
    CHECK_EQ(mem->lanes[1].cell[0].buf_idx, buf);
    CHECK_EQ(mem->lanes[1].head, 0);
    check_others_go_on();
    mem_detach(links[0]);
    device_close(device);
}

/* The link of a client that has gone is given to nobody any more, and the honest one goes on. */
static void check_not_given_out_and_close(void)
{
    struct mem_attachment *next;

    mem_detach(links[1]);
    CHECK_EQ(mem_attach_local(&next, device), -EBUSY);
    CHECK_EQ(server->counters->rx_missed, 0);
    check_others_go_on();
    mem_detach(links[0]);
    device_close(device);
}

/* What is on its way to a ring stays there for the next client: not if it cannot be true. */
static void nonsense_on_its_way_is_not_handed_on(void)
{
    open_nic();
    CHECK_EQ(send_frame(port_of(1), mem_attachment_mac(links[1], true)), 0);
    hostile_lane(false)->cell[0].flags = NM_MOREFRAG; /* a frame that never ends */
    check_not_given_out_and_close();
    open_nic();
    CHECK_EQ(send_frame(port_of(1), mem_attachment_mac(links[1], true)), 0);
    hostile_lane(false)->cell[0].len = UINT16_MAX;
    check_not_given_out_and_close();
    open_nic();
    atomic_store(&hostile_lane(false)->tail, MEM_CELLS + 1);
    check_not_given_out_and_close();
}

/* A wild TX ring of a client that has gone: nothing of it is followed, or counted. */
static void a_wild_ring_of_a_dead_client_is_not_counted(void)
{
    open_nic();
    port_of(1)->tx->slot[0].buf_idx = mem->shared->bufs;
    port_of(1)->tx->slot[0].len = 64;
    port_of(1)->tx->head = 1;
    check_not_given_out_and_close();
    open_nic();
    port_of(1)->tx->num_slots = 1 << 20;
    port_of(1)->tx->head = 1 << 19;
    check_not_given_out_and_close();
    open_nic();
    mem->shared->side[1 + 1].tx_hwcur = UINT32_MAX;
    port_of(1)->tx->buf_ofs = INT64_MAX / 2;
    port_of(1)->tx->num_slots = 0;
    check_not_given_out_and_close();
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a wild index in a lane stops its link alone",
         a_wild_index_in_a_lane_stops_its_link_alone},
        {"a wild length in a lane stops its link alone",
         a_wild_length_in_a_lane_stops_its_link_alone},
        {"a wild tail of a lane stops its link alone", a_wild_tail_of_a_lane_stops_its_link_alone},
        {"a frame without an end stops its link alone",
         a_frame_without_an_end_stops_its_link_alone},
        {"a wild index in a free cell is not taken", a_wild_index_in_a_free_cell_is_not_taken},
        {"a broadcast is not copied to a wild index", a_broadcast_is_not_copied_to_a_wild_index},
        {"a wild head of a lane stops its link alone", a_wild_head_of_a_lane_stops_its_link_alone},
        {"a wild head stops its own port", a_wild_head_stops_its_own_port},
        {"a wild slot stops its own port", a_wild_slot_stops_its_own_port},
        {"a wild record of a dead client is not followed",
         a_wild_record_of_a_dead_client_is_not_followed},
        {"a record of another link's lane is not followed",
         a_record_of_another_link_s_lane_is_not_followed},
        {"nonsense on its way is not handed on", nonsense_on_its_way_is_not_handed_on},
        {"a wild ring of a dead client is not counted",
         a_wild_ring_of_a_dead_client_is_not_counted},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
