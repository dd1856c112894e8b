/* Pipes: the ring contract between two ends, and what a dead end leaves behind. */
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
#include "ports/hooks.h"
#include "ports/pipe.h"
#include "soft_wire.h"

static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
static struct device *ends[2];
static struct port *left;
static struct port *right;

static void open_pipe(const struct device_config *config)
{
    ends[0] = soft_wire_open(soft_wire_name("mem:p", "{0"), config, NULL);
    ends[1] = soft_wire_open(soft_wire_name("mem:p", "}0"), config, ends[0]);
    left = &ends[0]->ports[0];
    right = &ends[1]->ports[0];
}

static void close_pipe(void)
{
    CHECK_EQ(device_audit(ends[0]), 0);
    device_close(ends[1]);
    device_close(ends[0]);
}

static bool put(struct port *port, uint32_t number)
{
    return soft_wire_put(port, mac, mac, number);
}

static void a_buffer_changes_hands_and_no_byte_is_copied(void)
{
    struct device_config config = {.slots = 8};
    uint32_t buf;

    open_pipe(&config);
    put(left, 7);
    buf = left->tx->slot[0].buf_idx;
    soft_wire_tx(left);
    soft_wire_rx(right);
    CHECK_EQ(right->rx->slot[0].buf_idx, buf);
    CHECK(left->tx->slot[0].buf_idx != buf);
    CHECK_EQ(left->tx->slot[0].flags, NM_BUF_CHANGED);
    CHECK(left->region != 0 && left->region == right->region);
    close_pipe();
}

static void a_reader_that_stands_still_holds_its_sender_and_loses_nothing(void)
{
    struct device_config config = {.slots = 8};
    uint32_t sent = 0;
    uint32_t got = 0;

    open_pipe(&config);
    for (uint64_t now_us = 1; now_us < 1000000; now_us += 5000) {
        sent += put(left, sent);
        CHECK_EQ(left->ops->tx_sync(left, now_us), 0);
    }
    CHECK_EQ(sent, 14); /* seven on each side */
    CHECK_EQ(left->counters->tx_dropped, 0);
    CHECK_EQ(nm_ring_space(left->tx), 0);
    for (int i = 0; i < 6; i++) {
        soft_wire_rx(right);
        while (soft_wire_take(right) == got) {
            got++;
        }
        soft_wire_tx(left);
    }
    CHECK_EQ(got, 14);
    close_pipe();
}

static void an_end_that_is_not_open_swallows(void)
{
    struct device_config config = {.slots = 8};

    ends[0] = soft_wire_open(soft_wire_name("mem:p", "{0"), &config, NULL);
    left = &ends[0]->ports[0];
    for (uint32_t i = 0; i < 20; i++) {
        CHECK(put(left, i));
        soft_wire_tx(left);
    }
    CHECK_EQ(left->counters->tx_dropped, 20);
    ends[1] = soft_wire_open(soft_wire_name("mem:p", "}0"), &config, ends[0]);
    right = &ends[1]->ports[0];
    soft_wire_rx(right);
    CHECK_EQ(soft_wire_take(right), UINT32_MAX); /* nothing of before it came */
    put(left, 99);
    soft_wire_tx(left);
    soft_wire_rx(right);
    CHECK_EQ(soft_wire_take(right), 99);
    close_pipe();
}

static void an_end_may_be_closed_and_opened_again(void)
{
    struct device_config config = {.slots = 9};

    open_pipe(&config);
    for (uint32_t life = 0; life < 50; life++) {
        for (uint32_t i = 0; i < 1 + life % 7; i++) {
            put(left, i);
        }
        soft_wire_tx(left);
        put(right, life);
        if (life % 3) {
            soft_wire_tx(right);
        }
        device_close(ends[1]);
        ends[1] = soft_wire_open(soft_wire_name("mem:p", "}0"), &config, ends[0]);
        right = &ends[1]->ports[0];
        CHECK_EQ(nm_ring_space(right->tx), 8);
        CHECK(nm_ring_empty(right->rx));
        soft_wire_rx(left);
        CHECK_EQ(soft_wire_take(left), life % 3 ? life : UINT32_MAX);
        CHECK_EQ(device_audit(ends[0]), 0);
    }
    close_pipe();
}

static void ring_pairs_are_independent(void)
{
    struct device_config config = {.slots = 8, .rings = 3};

    open_pipe(&config);
    CHECK_EQ(ends[1]->rings, 3);
    for (uint32_t r = 0; r < 3; r++) {
        put(&ends[0]->ports[r], 10 + r);
    }
    soft_wire_tx(&ends[0]->ports[2]);
    for (uint32_t r = 0; r < 3; r++) {
        soft_wire_rx(&ends[1]->ports[r]);
        CHECK_EQ(soft_wire_take(&ends[1]->ports[r]), r == 2 ? 12 : UINT32_MAX);
    }
    close_pipe();
}

static bool rings(struct port *port)
{
    struct pollfd fd = {.fd = port->wait_fd, .events = POLLIN};

    return poll(&fd, 1, 0) == 1;
}

static void a_sleeper_is_woken_by_frames_and_by_room(void)
{
    struct device_config config = {.slots = 4};

    open_pipe(&config);
    CHECK_EQ(right->ops->sleep_arm(right), 0);
    put(left, 1);
    CHECK(!rings(right));
    soft_wire_tx(left);
    CHECK(rings(right));
    right->ops->sleep_disarm(right);
    CHECK(!rings(right));
    CHECK_EQ(right->ops->sleep_arm(right), 1); /* a frame is there: do not sleep */
    right->ops->sleep_disarm(right);
    for (uint32_t i = 0; i < 6; i++) {
        put(left, i);
        soft_wire_tx(left);
    }
    CHECK_EQ(left->ops->sleep_arm(left), 0); /* nothing can be done before the reader reads */
    soft_wire_rx(right);
    CHECK_EQ(soft_wire_take(right), 1);
    CHECK(!rings(left));
    soft_wire_rx(right);
    CHECK(rings(left));
    left->ops->sleep_disarm(left);
    close_pipe();
}

static void nonsense_in_a_ring_stops_that_port_and_touches_nothing(void)
{
    struct device_config config = {.slots = 8};
    uint32_t good;

    open_pipe(&config);
    put(left, 1);
    good = left->tx->slot[0].buf_idx;
    for (int round = 0; round < 3; round++) {
        left->tx->slot[0].buf_idx = round == 0 ? 0 : round == 1 ? UINT32_MAX : left->bufs;
        CHECK_EQ(left->ops->tx_sync(left, 0), -EIO);
    }
    left->tx->slot[0].buf_idx = good;
    left->tx->slot[0].len = 4000;
    CHECK_EQ(left->ops->tx_sync(left, 0), -EIO);
    left->tx->slot[0].len = SOFT_FRAME;
    left->tx->head = 8;
    CHECK_EQ(left->ops->tx_sync(left, 0), -EIO);
    left->tx->head = 1;
    CHECK_EQ(left->counters->errors, 5);
    soft_wire_tx(left);
    right->rx->head = 1u << 31;
    CHECK_EQ(right->ops->rx_sync(right, 0), -EIO);
    right->rx->head = 0;
    good = right->rx->slot[0].buf_idx;
    right->rx->slot[0].buf_idx = 1u << 30; /* the other side's doing */
    CHECK_EQ(right->ops->rx_sync(right, 0), -EIO);
    CHECK(nm_ring_empty(right->rx));
    right->rx->slot[0].buf_idx = good;
    soft_wire_rx(right);
    CHECK_EQ(soft_wire_take(right), 1);
    close_pipe();
}

/* Whatever the other side writes, a sync stays within its memory and comes to an end. */
static void scribbling_breaks_the_pipe_and_nothing_else(void)
{
    struct device_config config = {.slots = 16};
    uint8_t *at[4];
    size_t bytes[4];
    uint64_t random = 77;
    struct pipe_link *link;

    open_pipe(&config);
    link = ((struct pipe_device *)ends[0]->priv)->link;
    for (uint32_t i = 0; i < 2; i++) {
        struct nm_ring *ring = i ? left->rx : left->tx;

        at[i] = (uint8_t *)ring->slot;
        bytes[i] = 16 * sizeof(struct nm_slot);
        at[2 + i] = (uint8_t *)&link->way[i][0];
        bytes[2 + i] = sizeof(struct pipe_way);
    }
    for (uint64_t step = 0; step < 200000; step++) {
        soft_wire_scribble(&random, at, bytes, 4);
        soft_wire_turn(left, step);
        soft_wire_turn(right, step);
        if (step % 64 == 0) {
            CHECK_EQ(left->ops->recover(left), 0);
        }
    }
    CHECK(left->counters->errors > 0);
    device_close(ends[1]);
    device_close(ends[0]);
}

static void buffers_are_conserved_by_random_steps(void)
{
    struct device_config config = {.slots = 13};
    uint64_t random = 4;

    open_pipe(&config);
    for (uint32_t step = 0; step < 300000; step++) {
        uint64_t dice = splitmix64(&random);
        struct port *port = dice & 1 ? left : right;

        switch (dice >> 8 & 3) {
        case 0:
            put(port, step);
            port->tx->slot[(port->tx->head + 12) % 13].flags =
                (dice >> 16 & 7) == 0 ? NM_MOREFRAG : 0;
            break;
        case 1:
            soft_wire_tx(port);
            break;
        case 2:
            soft_wire_rx(port);
            break;
        default:
            soft_wire_take(port);
        }
        if (step % 50000 == 0) {
            CHECK_EQ(device_audit(ends[0]), 0);
        }
    }
    close_pipe();
}

/* The other end's life: it sends and reads until it is killed. */
static void run_peer(const char *spec, const struct device_config *config)
{
    char error[PORT_ERROR_MAX] = "";
    struct device *mine = NULL;

    device_keep_only(ends[0], 0);
    close(((struct pipe_device *)ends[0]->priv)->soft.memfd); /* its lock is not ours */
    if (device_open(&mine, spec, config, error) != 0) {
        printf("    %s\n", error);
        _exit(1);
    }
    for (uint32_t i = 0;; i++) {
        soft_wire_put(&mine->ports[0], mac, mac, i);
        mine->ports[0].ops->tx_sync(&mine->ports[0], i);
        mine->ports[0].ops->rx_sync(&mine->ports[0], i);
        while (soft_wire_take(&mine->ports[0]) != UINT32_MAX) {
            continue;
        }
    }
}

static void turn_with_peer(uint64_t turn)
{
    if (turn % 16 == 0) {
        device_event(ends[0]);
        usleep(50);
    }
    put(left, 1);
    CHECK_EQ(left->ops->tx_sync(left, turn * 100), 0);
    soft_wire_rx(left);
    while (soft_wire_take(left) != UINT32_MAX) {
        continue;
    }
}

/* Its sender goes on, the next one finds the pipe in order, and no buffer is lost. */
static void an_end_killed_anywhere_blocks_nobody(void)
{
    struct device_config config = {.slots = 32};
    uint64_t random = 11;
    const char *spec = soft_wire_name("mem:k", "}0");

    ends[0] = soft_wire_open(soft_wire_name("mem:k", "{0"), &config, NULL);
    left = &ends[0]->ports[0];
    for (int life = 0; life < 25; life++) {
        uint64_t end = left->counters->rx_frames + 50 + splitmix64(&random) % 2000;
        pid_t child = fork();

        if (child == 0) {
            run_peer(spec, &config);
        }
        for (uint64_t turn = 0; left->counters->rx_frames < end && turn < 100000; turn++) {
            turn_with_peer(turn);
        }
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        for (uint64_t turn = 0; turn < 200; turn++) { /* nobody reads: it goes on all the same */
            CHECK(put(left, 1) || turn > 0);
            CHECK_EQ(left->ops->tx_sync(left, 1000000 + turn * 1000), 0);
        }
        CHECK(nm_ring_space(left->tx) > 0);
    }
    CHECK(left->counters->rx_frames > 1000);
    CHECK(left->counters->tx_dropped > 0);
    ends[1] = soft_wire_open(soft_wire_name("mem:k", "}0"), &config, ends[0]);
    close_pipe();
}

static struct {
    uint8_t *saved;
    uint64_t wrong;
} tear;

static void send_under_look(void *argument)
{
    (void)argument;
    left->ops->tx_sync(left, 0);
}

/* A copy of the memory stands in for the pipe while the successor's work is looked at. */
static void look_at_tear(void *argument)
{
    struct soft *soft = &((struct pipe_device *)ends[0]->priv)->soft;

    (void)argument;
    memcpy(tear.saved, soft->base, soft->bytes);
    CHECK_EQ(left->ops->recover(left), 0);
    tear.wrong += device_audit(ends[0]) != 0;
    soft_wire_tx(left); /* and what it has not sent, it sends: all three arrive, in order */
    soft_wire_rx(right);
    for (uint32_t i = 0; i < 3; i++) {
        tear.wrong += soft_wire_take(right) != i;
    }
    tear.wrong += soft_wire_take(right) != UINT32_MAX;
    memcpy(soft->base, tear.saved, soft->bytes);
}

static void an_exchange_torn_at_any_store_is_completed(void)
{
    struct device_config config = {.slots = 8, .buf_size = 64};
    struct soft_step step = {0};
    struct soft *soft;

    open_pipe(&config);
    soft = &((struct pipe_device *)ends[0]->priv)->soft;
    tear.saved = malloc(soft->bytes);
    for (uint32_t i = 0; i < 3; i++) {
        put(left, i);
    }
    step.at[0] = soft->base;
    step.bytes[0] = soft->bytes;
    step.n = 1;
    soft_wire_step(&step, send_under_look, look_at_tear, NULL);
    CHECK(step.stores > 20);
    CHECK_EQ(tear.wrong, 0);
    free(tear.saved);
    soft_wire_rx(right);
    close_pipe();
}

static void names_that_cannot_be_are_refused_in_a_sentence(void)
{
    static const char *const bad[] = {"mem:{0", "mem:a{", "mem:a{0{1", "mem:a}b-c"};
    struct device_config config = {.slots = 8};
    struct device *device = NULL;
    char error[PORT_ERROR_MAX];

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        error[0] = '\0';
        CHECK_EQ(device_open(&device, bad[i], &config, error), -EINVAL);
        CHECK(strstr(error, "NAME{ID and NAME}ID") != NULL);
    }
    open_pipe(&config);
    CHECK_EQ(soft_wire_refused(ends[0]->name, ends[1], error), -EBUSY);
    CHECK(strstr(error, "open already: open the other one") != NULL);
    close_pipe();
}

static void links_go_down_and_come_back(void)
{
    struct device_config config = {.slots = 8};
    struct port_hooks *hooks;

    open_pipe(&config);
    hooks = hooks_wrap(left);
    CHECK(hooks != NULL && hooks_of(left) == hooks);
    atomic_store(&hooks->down, 1);
    put(left, 1);
    soft_wire_tx(left);
    soft_wire_rx(right);
    CHECK_EQ(soft_wire_take(right), UINT32_MAX);
    CHECK_EQ(nm_ring_space(left->tx), 6);
    put(right, 2);
    soft_wire_tx(right);
    soft_wire_rx(left);
    CHECK_EQ(soft_wire_take(left), UINT32_MAX);
    atomic_store(&hooks->down, 0);
    soft_wire_tx(left);
    soft_wire_rx(left);
    soft_wire_rx(right);
    CHECK_EQ(soft_wire_take(right), 1);
    CHECK_EQ(soft_wire_take(left), 2);
    atomic_store(&hooks->rx_error, EIO);
    CHECK_EQ(left->ops->rx_sync(left, 0), -EIO);
    atomic_store(&hooks->tx_error, ENXIO);
    CHECK_EQ(left->ops->tx_sync(left, 0), -ENXIO);
    hooks_unwrap(left);
    close_pipe();
}

static void slots_complete_as_late_as_told(void)
{
    struct device_config config = {.slots = 8};
    struct port_hooks *hooks;

    open_pipe(&config);
    hooks = hooks_wrap(left);
    atomic_store(&hooks->late, 2);
    put(left, 1);
    soft_wire_tx(left);
    CHECK_EQ(nm_ring_space(left->tx), 6); /* sent, not complete */
    soft_wire_rx(right);
    CHECK_EQ(soft_wire_take(right), 1);
    soft_wire_tx(left);
    CHECK_EQ(nm_ring_space(left->tx), 6);
    soft_wire_tx(left);
    CHECK_EQ(nm_ring_space(left->tx), 7);
    atomic_store(&hooks->late, 5); /* what was shown stays shown */
    soft_wire_tx(left);
    CHECK_EQ(nm_ring_space(left->tx), 7);
    hooks_unwrap(left);
    close_pipe();
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a buffer changes hands, no byte is copied", a_buffer_changes_hands_and_no_byte_is_copied},
        {"a reader that stands still holds its sender and loses nothing",
         a_reader_that_stands_still_holds_its_sender_and_loses_nothing},
        {"an end that is not open swallows", an_end_that_is_not_open_swallows},
        {"an end may be closed and opened again", an_end_may_be_closed_and_opened_again},
        {"ring pairs are independent", ring_pairs_are_independent},
        {"a sleeper is woken by frames and by room", a_sleeper_is_woken_by_frames_and_by_room},
        {"nonsense in a ring stops that port and touches nothing",
         nonsense_in_a_ring_stops_that_port_and_touches_nothing},
        {"scribbling breaks the pipe and nothing else",
         scribbling_breaks_the_pipe_and_nothing_else},
        {"buffers are conserved by random steps", buffers_are_conserved_by_random_steps},
        {"an end killed anywhere blocks nobody", an_end_killed_anywhere_blocks_nobody},
        {"an exchange torn at any store is completed", an_exchange_torn_at_any_store_is_completed},
        {"names that cannot be are refused in a sentence",
         names_that_cannot_be_are_refused_in_a_sentence},
        {"links go down and come back", links_go_down_and_come_back},
        {"slots complete as late as told", slots_complete_as_late_as_told},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
