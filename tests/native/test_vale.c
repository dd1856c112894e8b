/* The learning switch: who gets which frame, and what dead or slow ports do to the others. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"
#include "check.h"
#include "ports/vale.h"
#include "soft_wire.h"

enum {
    PORTS_MAX = 16,
};

static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
static struct device *at[PORTS_MAX];
static uint32_t ports_n;

static struct vale_device *vale_of(uint32_t i)
{
    return at[i]->priv;
}

static struct port *port_of(uint32_t i)
{
    return &at[i]->ports[0];
}

static const char *name_of(uint32_t i)
{
    char rest[8];

    snprintf(rest, sizeof(rest), ":p%u", i);
    return soft_wire_name("vale:s", rest);
}

static void open_switch(uint32_t n, uint32_t slots)
{
    struct device_config config = {.slots = slots, .buf_size = 128};

    for (uint32_t i = 0; i < n; i++) {
        at[i] = soft_wire_open(name_of(i), &config, i ? at[0] : NULL);
    }
    ports_n = n;
}

static void close_switch(void)
{
    CHECK_EQ(device_audit(at[0]), 0);
    for (uint32_t i = ports_n; i-- > 0;) {
        device_close(at[i]);
    }
}

static void put(uint32_t from, const uint8_t *dst, uint32_t number)
{
    CHECK(soft_wire_put(port_of(from), dst, at[from]->mac, number));
}

static void put_to(uint32_t from, uint32_t to, uint32_t number)
{
    put(from, at[to]->mac, number);
}

static void send(uint32_t from, const uint8_t *dst, uint32_t number)
{
    put(from, dst, number);
    soft_wire_tx(port_of(from));
}

/* The next frame's number at a port, after a sync. */
static uint32_t next_at(uint32_t i)
{
    soft_wire_rx(port_of(i));
    return soft_wire_take(port_of(i));
}

static void an_unknown_address_is_flooded_and_a_known_one_is_not(void)
{
    open_switch(8, 16);
    send(0, at[3]->mac, 1);
    for (uint32_t i = 0; i < 8; i++) {
        CHECK_EQ(next_at(i), i == 0 ? UINT32_MAX : 1);
    }
    send(3, at[0]->mac, 2); /* 0 has been seen */
    for (uint32_t i = 0; i < 8; i++) {
        CHECK_EQ(next_at(i), i == 0 ? 2 : UINT32_MAX);
    }
    send(0, at[3]->mac, 3); /* and now 3 has, too */
    for (uint32_t i = 0; i < 8; i++) {
        CHECK_EQ(next_at(i), i == 3 ? 3 : UINT32_MAX);
    }
    close_switch();
}

static void a_broadcast_reaches_all_sixteen_but_its_sender(void)
{
    open_switch(16, 16);
    for (uint32_t from = 0; from < 16; from++) {
        send(from, everybody, 100 + from);
        for (uint32_t i = 0; i < 16; i++) {
            CHECK_EQ(next_at(i), i == from ? UINT32_MAX : 100 + from);
        }
    }
    CHECK_EQ(port_of(0)->counters->tx_frames, 1);
    CHECK_EQ(port_of(0)->counters->tx_dropped, 0);
    CHECK_EQ(port_of(0)->counters->rx_frames, 15);
    close_switch();
}

static void a_frame_for_nobody_is_counted_as_dropped(void)
{
    open_switch(1, 16);
    send(0, everybody, 1);
    CHECK_EQ(port_of(0)->counters->tx_frames, 0);
    CHECK_EQ(port_of(0)->counters->tx_dropped, 1);
    close_switch();
}

static void a_known_address_gets_the_buffer_itself(void)
{
    uint32_t buf;

    open_switch(2, 16);
    send(1, everybody, 1);
    CHECK_EQ(next_at(0), 1);
    put_to(0, 1, 2);
    buf = port_of(0)->tx->slot[0].buf_idx;
    soft_wire_tx(port_of(0));
    soft_wire_rx(port_of(1));
    CHECK_EQ(port_of(1)->rx->slot[0].buf_idx, buf);
    CHECK(port_of(0)->tx->slot[0].buf_idx != buf);
    CHECK_EQ(port_of(0)->region, port_of(1)->region);
    close_switch();
}

static void a_station_that_moves_is_found_at_its_new_port(void)
{
    open_switch(3, 16);
    send(1, everybody, 1);
    next_at(0);
    next_at(2);
    CHECK(soft_wire_put(port_of(2), everybody, at[1]->mac, 2)); /* port 1's address, from port 2 */
    soft_wire_tx(port_of(2));
    next_at(0);
    next_at(1);
    send(0, at[1]->mac, 3);
    CHECK_EQ(next_at(1), UINT32_MAX);
    CHECK_EQ(next_at(2), 3);
    send(2, at[1]->mac, 4); /* at the sender's own port: it needs no switch */
    CHECK_EQ(next_at(0), UINT32_MAX);
    CHECK_EQ(next_at(1), UINT32_MAX);
    CHECK_EQ(port_of(2)->counters->tx_dropped, 1);
    close_switch();
}

static void an_address_is_forgotten_after_two_minutes(void)
{
    open_switch(3, 16);
    vale_learn(vale_of(0)->shared, at[2]->mac, 2, 1000000);
    CHECK_EQ(vale_find(vale_of(0)->shared, at[2]->mac, 100000000), 2);
    CHECK_EQ(vale_find(vale_of(0)->shared, at[2]->mac, 130000000), VALE_PORTS);
    close_switch();
}

static void a_receiver_that_stands_still_loses_its_own_frames_only(void)
{
    uint32_t got = 0;

    open_switch(3, 64);
    send(1, everybody, 0);
    send(2, everybody, 0);
    next_at(2);
    for (uint32_t i = 0; i < 1000; i++) {
        put_to(0, 1, i); /* never reads */
        put_to(0, 2, i);
        soft_wire_tx(port_of(0));
        CHECK_EQ(next_at(2), got++);
    }
    CHECK_EQ(port_of(2)->counters->rx_frames, 1001); /* and port 1's broadcast */
    CHECK_EQ(port_of(0)->counters->tx_dropped, 1000 - VALE_CELLS);
    close_switch();
}

/* Whatever the other side writes, a sync stays within its memory and comes to an end. */
static void scribbling_breaks_the_switch_and_nothing_else(void)
{
    uint8_t *memory[4];
    size_t bytes[4];
    uint64_t random = 78;

    open_switch(3, 16);
    memory[0] = (uint8_t *)port_of(0)->tx->slot;
    memory[1] = (uint8_t *)port_of(1)->rx->slot;
    bytes[0] = bytes[1] = 16 * sizeof(struct nm_slot);
    memory[2] = (uint8_t *)vale_lane_at(vale_of(0), 0, 1);
    bytes[2] = sizeof(struct vale_lane);
    memory[3] = (uint8_t *)vale_of(0)->shared->table;
    bytes[3] = sizeof(vale_of(0)->shared->table) + sizeof(struct vale_side);
    for (uint64_t step = 0; step < 100000; step++) {
        soft_wire_scribble(&random, memory, bytes, 4);
        for (uint32_t i = 0; i < 3; i++) {
            soft_wire_turn(port_of(i), step);
        }
        if (step % 64 == 0) {
            CHECK_EQ(port_of(0)->ops->recover(port_of(0)), 0);
        }
    }
    CHECK(port_of(0)->counters->errors + port_of(1)->counters->errors > 0);
    for (uint32_t i = 3; i-- > 0;) {
        device_close(at[i]);
    }
}

static void buffers_are_conserved_by_random_steps(void)
{
    uint64_t random = 8;

    open_switch(5, 24);
    for (uint32_t step = 0; step < 300000; step++) {
        uint64_t dice = splitmix64(&random);
        uint32_t who = (uint32_t)(dice >> 8) % 5;
        struct port *port = port_of(who);

        switch (dice & 3) {
        case 0:
            soft_wire_put(port, dice >> 20 & 7 ? at[dice >> 30 & 3]->mac : everybody, at[who]->mac,
                          step);
            break;
        case 1:
            CHECK_EQ(port->ops->tx_sync(port, step), 0);
            break;
        case 2:
            CHECK_EQ(port->ops->rx_sync(port, step), 0);
            break;
        default:
            soft_wire_take(port);
        }
        if (step % 60000 == 0) {
            CHECK_EQ(device_audit(at[0]), 0);
        }
    }
    close_switch();
}

static void nonsense_in_a_ring_stops_that_port_and_touches_nothing(void)
{
    struct nm_slot *cell;

    open_switch(2, 16);
    send(1, everybody, 1);
    next_at(0);
    put_to(0, 1, 5);
    port_of(0)->tx->slot[0].buf_idx += port_of(0)->bufs;
    CHECK_EQ(port_of(0)->ops->tx_sync(port_of(0), 0), -EIO);
    port_of(0)->tx->slot[0].buf_idx -= port_of(0)->bufs;
    port_of(0)->tx->head = 16;
    CHECK_EQ(port_of(0)->ops->tx_sync(port_of(0), 0), -EIO);
    port_of(0)->tx->head = 1;
    CHECK_EQ(port_of(0)->counters->errors, 2);
    soft_wire_tx(port_of(0));
    cell = vale_cell_at(vale_lane_at(vale_of(1), 0, 1), 0);
    cell->buf_idx += port_of(0)->bufs; /* the other side's doing: its lane is given up */
    soft_wire_rx(port_of(1));
    CHECK_EQ(port_of(1)->counters->errors, 1);
    CHECK_EQ(soft_wire_take(port_of(1)), UINT32_MAX);
    cell->buf_idx -= port_of(0)->bufs;
    send(0, at[1]->mac, 6);
    CHECK_EQ(next_at(1), 6);
    close_switch();
}

static void a_port_is_found_again_by_its_name(void)
{
    struct device_config config = {.slots = 16, .buf_size = 128};
    char error[PORT_ERROR_MAX];
    uint8_t mac[6];

    open_switch(16, 16);
    memcpy(mac, at[5]->mac, 6);
    send(4, mac, 1); /* not read before it closes: gone */
    device_close(at[5]);
    CHECK_EQ(atomic_load(&vale_of(0)->shared->up) >> 5 & 1, 0);
    at[5] = soft_wire_open(name_of(5), &config, at[0]);
    CHECK(memcmp(mac, at[5]->mac, 6) == 0);
    CHECK_EQ(next_at(5), UINT32_MAX);
    send(4, mac, 2);
    CHECK_EQ(next_at(5), 2);
    CHECK_EQ(soft_wire_refused(name_of(5), at[0], error), -EBUSY);
    CHECK(strstr(error, "open already") != NULL);
    CHECK_EQ(soft_wire_refused(name_of(16), at[0], error), -ENOSPC);
    CHECK(strstr(error, "all 16 ports") != NULL);
    close_switch();
}

static pid_t fork_sender(uint32_t port)
{
    struct device_config config = {.slots = 32, .buf_size = 128};
    const char *name = name_of(port);
    pid_t child = fork();

    if (child == 0) {
        struct device *mine = NULL;
        char error[PORT_ERROR_MAX] = "";

        for (uint32_t i = 0; i < ports_n; i++) {
            device_keep_only(at[i], 0);
            close(vale_of(i)->soft.memfd); /* its lock is not ours */
        }
        if (device_open(&mine, name, &config, error) != 0) {
            printf("    %s\n", error);
            _exit(1);
        }
        for (uint32_t i = 0;; i++) {
            soft_wire_put(&mine->ports[0], i % 64 ? at[0]->mac : everybody, mine->mac, i);
            mine->ports[0].ops->tx_sync(&mine->ports[0], i);
            mine->ports[0].ops->rx_sync(&mine->ports[0], i);
            while (soft_wire_take(&mine->ports[0]) != UINT32_MAX) {
                continue;
            }
        }
    }
    return child;
}

/* A port that is killed is noticed when its lane is full; its name finds it again, in order. */
static void a_port_killed_anywhere_blocks_nobody(void)
{
    struct device_config config = {.slots = 32, .buf_size = 128};
    uint64_t random = 3;

    open_switch(2, 32);
    for (int life = 0; life < 20; life++) {
        uint64_t end = port_of(0)->counters->rx_frames + 100 + splitmix64(&random) % 2000;
        pid_t child = fork_sender(2);

        for (uint64_t turn = 0; port_of(0)->counters->rx_frames < end && turn < 100000; turn++) {
            if (turn % 16 == 0) {
                device_event(at[0]);
                usleep(50);
            }
            soft_wire_put(port_of(0), turn % 4 ? everybody : at[1]->mac, at[0]->mac, 1);
            CHECK_EQ(port_of(0)->ops->tx_sync(port_of(0), turn), 0);
            while (next_at(0) != UINT32_MAX || next_at(1) != UINT32_MAX) {
                continue;
            }
        }
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    CHECK(port_of(0)->counters->rx_frames > 1000);
    for (uint64_t i = 0; i < 2 * VALE_CELLS; i++) {
        soft_wire_put(port_of(0), everybody, at[0]->mac, 1);
        CHECK_EQ(port_of(0)->ops->tx_sync(port_of(0), 10000000 + i * 1000), 0);
        next_at(1);
    }
    CHECK_EQ((uint16_t)atomic_load(&vale_of(0)->shared->up), 3); /* the dead one is down */
    at[2] = soft_wire_open(name_of(2), &config, at[0]);
    ports_n = 3;
    close_switch();
}

static struct {
    uint8_t *saved[4];
    struct soft_step step;
    uint64_t wrong;
    bool receiving;
} tear;

static void sync_under_look(void *argument)
{
    struct port *port = port_of(tear.receiving);

    (void)argument;
    if (tear.receiving) {
        port->ops->rx_sync(port, 0);
    } else {
        port->ops->tx_sync(port, 0);
    }
}

/* The successor completes it: three frames arrive, whole and in order, and all buffers are there.
 */
static void look_at_tear(void *argument)
{
    struct port *port = port_of(tear.receiving);

    (void)argument;
    for (uint32_t i = 0; i < tear.step.n; i++) {
        memcpy(tear.saved[i], tear.step.at[i], tear.step.bytes[i]);
    }
    CHECK_EQ(port->ops->recover(port), 0);
    tear.wrong += device_audit(at[0]) != 0;
    soft_wire_tx(port_of(0));
    for (uint32_t i = 0; i < 3; i++) {
        tear.wrong += next_at(1) != i;
    }
    tear.wrong += next_at(1) != UINT32_MAX;
    for (uint32_t i = 0; i < tear.step.n; i++) {
        memcpy((uint8_t *)(uintptr_t)tear.step.at[i], tear.saved[i], tear.step.bytes[i]);
    }
}

static void watch_memory(void)
{
    const struct vale_device *vale = vale_of(0);
    size_t rings = (size_t)(vale->tx->buf_ofs + ((uint8_t *)vale->tx - vale->soft.base));

    tear.step = (struct soft_step){.n = 3};
    tear.step.at[0] = vale->soft.base;
    tear.step.bytes[0] = rings;
    tear.step.at[1] = (uint8_t *)vale->shared;
    tear.step.bytes[1] = sizeof(*vale->shared);
    tear.step.at[2] = (uint8_t *)vale_lane_at(vale, 0, 1);
    tear.step.bytes[2] = sizeof(struct vale_lane);
}

static void an_exchange_torn_at_any_store_is_completed(void)
{
    open_switch(2, 8);
    send(1, everybody, 9);
    next_at(0);
    watch_memory();
    for (uint32_t i = 0; i < tear.step.n; i++) {
        tear.saved[i] = malloc(tear.step.bytes[i]);
    }
    for (int receiving = 0; receiving < 2; receiving++) {
        tear.receiving = receiving;
        for (uint32_t i = 0; i < 3; i++) {
            put_to(0, 1, i);
        }
        if (receiving) {
            soft_wire_tx(port_of(0));
        }
        tear.step.stores = 0;
        soft_wire_step(&tear.step, sync_under_look, look_at_tear, NULL);
        CHECK(tear.step.stores > 15);
        soft_wire_rx(port_of(1));
        while (soft_wire_take(port_of(1)) != UINT32_MAX) {
            continue;
        }
    }
    CHECK_EQ(tear.wrong, 0);
    for (uint32_t i = 0; i < tear.step.n; i++) {
        free(tear.saved[i]);
    }
    close_switch();
}

static void names_that_cannot_be_are_refused_in_a_sentence(void)
{
    static const char *const bad[] = {"vale:a", "vale::b", "vale:a:", "vale:a:b:c"};
    struct device_config config = {.slots = 8};
    struct device *device = NULL;
    char error[PORT_ERROR_MAX];

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        error[0] = '\0';
        CHECK_EQ(device_open(&device, bad[i], &config, error), -EINVAL);
        CHECK(strstr(error, "vale:SWITCH:PORT") != NULL);
    }
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"an unknown address is flooded, a known one is not",
         an_unknown_address_is_flooded_and_a_known_one_is_not},
        {"a broadcast reaches all sixteen but its sender",
         a_broadcast_reaches_all_sixteen_but_its_sender},
        {"a frame for nobody is counted as dropped", a_frame_for_nobody_is_counted_as_dropped},
        {"a known address gets the buffer itself", a_known_address_gets_the_buffer_itself},
        {"a station that moves is found at its new port",
         a_station_that_moves_is_found_at_its_new_port},
        {"an address is forgotten after two minutes", an_address_is_forgotten_after_two_minutes},
        {"a receiver that stands still loses its own frames only",
         a_receiver_that_stands_still_loses_its_own_frames_only},
        {"scribbling breaks the switch and nothing else",
         scribbling_breaks_the_switch_and_nothing_else},
        {"buffers are conserved by random steps", buffers_are_conserved_by_random_steps},
        {"nonsense in a ring stops that port and touches nothing",
         nonsense_in_a_ring_stops_that_port_and_touches_nothing},
        {"a port is found again by its name", a_port_is_found_again_by_its_name},
        {"a port killed anywhere blocks nobody", a_port_killed_anywhere_blocks_nobody},
        {"an exchange torn at any store is completed", an_exchange_torn_at_any_store_is_completed},
        {"names that cannot be are refused in a sentence",
         names_that_cannot_be_are_refused_in_a_sentence},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
