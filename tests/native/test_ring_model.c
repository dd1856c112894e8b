/*
 * What a ring is: its first state, when it is empty, and the two pointers of a card that moves one
 * while its driver moves the other, under random steps of both (netmap on the fake module).
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "netmap_case.h"
#include "soft_wire.h"

enum {
    STEPS = 200000,
    WINDOW = FAKE_WIRE_MAX,
    LINK_SLOTS = 9,
};

/* RX: nothing has come. TX: all slots are free but one, which stays unused for ever. */
static void check_first_state(const struct port *port)
{
    const struct nm_ring *rx = port->rx;
    const struct nm_ring *tx = port->tx;

    CHECK(rx->head == 0 && rx->cur == 0 && rx->tail == 0);
    CHECK(tx->head == 0 && tx->cur == 0 && tx->tail == tx->num_slots - 1);
    CHECK(nm_ring_empty(rx) && !nm_ring_empty(tx));
    CHECK_EQ(nm_ring_space(rx), 0);
    CHECK_EQ(nm_ring_space(tx), tx->num_slots - 1);
}

static void rings_begin_empty_and_free_but_for_one_slot(void)
{
    static const char *const links[] = {"{0", "}0"};
    struct device_config config = {.rings = 1, .slots = LINK_SLOTS};
    struct device *ends[2];
    struct device *device;
    struct mem_attachment *client;

    fake_begin();
    fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("eth0");
    check_first_state(&device->ports[0]);
    device_close(device);
    CHECK(fake_end());
    device = soft_wire_open(soft_wire_name("mem:first", ""), &config, NULL);
    CHECK_EQ(mem_attach_local(&client, device), 0);
    check_first_state(&device->ports[0]);
    check_first_state(mem_attachment_port(client));
    mem_detach(client);
    device_close(device);
    for (uint32_t i = 0; i < 2; i++) {
        ends[i] =
            soft_wire_open(soft_wire_name("mem:first", links[i]), &config, i ? ends[0] : NULL);
        check_first_state(&ends[i]->ports[0]);
    }
    device_close(ends[1]);
    device_close(ends[0]);
    device = soft_wire_open(soft_wire_name("vale:first", ":a"), &config, NULL);
    check_first_state(&device->ports[0]);
    device_close(device);
}

/* Empty means the same both ways: no slot for the user. A full TX ring is empty, not full. */
static void empty_means_that_no_slot_is_the_users(void)
{
    struct fake_port *nic;
    struct device *device;
    struct port *port;

    fake_begin();
    nic = fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("eth0");
    port = &device->ports[0];
    case_send(port, SLOTS - 1, 0);
    CHECK(nm_ring_empty(port->tx));
    nic->slow = true;
    CHECK_EQ(port->ops->tx_sync(port, 0), 0);
    CHECK(nm_ring_empty(port->tx)); /* on their way: completions come in a later sync */
    CHECK_EQ(port->ops->tx_sync(port, 1000), 0);
    CHECK_EQ(nm_ring_space(port->tx), SLOTS - 1);
    case_arrive(nic, 0, 1);
    CHECK_EQ(port->ops->rx_sync(port, 0), 0);
    CHECK(!nm_ring_empty(port->rx));
    CHECK_EQ(case_take(port, 1), 1);
    CHECK(nm_ring_empty(port->rx));
    device_close(device);
    CHECK(fake_end());
}

/* head <= cur <= tail, in steps from where the card last took over; the rest is the card's. */
static void check_order(const struct nm_ring *ring, const struct fake_kring *kring)
{
    uint32_t head = nm_ring_distance(ring, kring->hwcur, ring->head);
    uint32_t cur = nm_ring_distance(ring, kring->hwcur, ring->cur);
    uint32_t tail = nm_ring_distance(ring, kring->hwcur, ring->tail);

    CHECK(head <= cur && cur <= tail && tail < ring->num_slots);
    CHECK_EQ(ring->tail, kring->hwtail);
}

/* The driver reads up to `n` frames and gives some of what it has read back: cur, then head. */
static void read_some(struct nm_ring *rx, uint64_t dice, uint64_t *taken)
{
    for (uint64_t n = dice % SLOTS; n > 0 && rx->cur != rx->tail; n--) {
        CHECK_EQ(nm_ring_buf(rx, rx->cur)[0], (uint8_t)*taken);
        rx->cur = nm_ring_next(rx, rx->cur);
        *taken += 1;
    }
    for (uint64_t n = dice / SLOTS % SLOTS; n > 0 && rx->head != rx->cur; n--) {
        rx->head = nm_ring_next(rx, rx->head);
    }
}

struct tally {
    uint64_t arrived;
    uint64_t taken;
    uint64_t sent;
    uint64_t left;
};

static void step(struct fake_port *nic, struct port *port, uint64_t dice, struct tally *tally)
{
    uint8_t frame[FAKE_FRAME_MAX];
    uint64_t more = dice >> 8;

    switch (dice & 7) {
    case 0:
        if (nic->kring[FAKE_RX][0].wire.n < WINDOW) {
            case_arrive(nic, 0, (uint8_t)tally->arrived++);
        }
        break;
    case 1:
        CHECK_EQ(port->ops->rx_sync(port, dice), 0);
        break;
    case 2:
        read_some(port->rx, more, &tally->taken);
        break;
    case 3:
        more %= nm_ring_space(port->tx) + 1;
        case_send(port, (uint32_t)more, (uint8_t)tally->sent);
        tally->sent += more;
        break;
    case 4:
        nic->slow = more & 1;
        nic->stuck = more >> 1 & 1;
        break;
    case 5:
        while (fake_sent(nic, 0, frame) > 0) {
            CHECK_EQ(frame[0], (uint8_t)tally->left++);
        }
        break;
    default:
        if (nic->kring[FAKE_TX][0].wire.n + SLOTS < WINDOW) {
            CHECK_EQ(port->ops->tx_sync(port, dice), 0);
        }
    }
}

static void a_cards_two_pointers_keep_their_order_under_random_steps(void)
{
    struct tally tally = {0};
    uint64_t random = 11;
    struct fake_port *nic;
    struct device *device;
    struct port *port;

    fake_begin();
    nic = fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("eth0");
    port = &device->ports[0];
    for (uint32_t i = 0; i < STEPS && check_failures() == 0; i++) {
        step(nic, port, splitmix64(&random), &tally);
        check_order(port->rx, &nic->kring[FAKE_RX][0]);
        check_order(port->tx, &nic->kring[FAKE_TX][0]);
    }
    CHECK(tally.taken > STEPS / 100 && tally.left > STEPS / 100);
    CHECK(tally.taken <= tally.arrived && tally.left <= tally.sent);
    CHECK_EQ(port->counters->errors, 0);
    device_close(device);
    CHECK(fake_end()); /* no buffer is in two slots, none is gone */
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"rings begin empty, and free but for one slot",
         rings_begin_empty_and_free_but_for_one_slot},
        {"empty means that no slot is the user's", empty_means_that_no_slot_is_the_users},
        {"a card's two pointers keep their order under random steps",
         a_cards_two_pointers_keep_their_order_under_random_steps},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
