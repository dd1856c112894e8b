/*
 * What the other side of shared memory does between any two instructions of ours. Each case lets
 * it act after the first instruction, after the second, and so on, until ours has ended before.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"
#include "ports/feeder.h"
#include "ports/mem.h"
#include "ports/pipe.h"
#include "ports/vale.h"
#include "soft_wire.h"
#include "stepper.h"

enum {
    SLOTS = 128,
    FRAME_LEN = 60,
    INSTRUCTIONS_MIN = 30,
#ifdef __SANITIZE_ADDRESS__
    STRIDE = 1009, /* a hundred times as many instructions there: memory is its subject */
#else
    STRIDE = 1,
#endif
};

/* Every place of `meeting` in turn; `law` looks at how it went, `clean` makes ready for the next.
 */
static void meet_everywhere(const struct meeting *meeting, void (*clean)(void *),
                            void (*law)(void *))
{
    uint64_t n = 0;
    int met = 1;

    for (; met == 1 && check_failures() == 0; n += STRIDE) {
        clean(meeting->arg);
        met = step_between(meeting, n);
        if (met == -1 && n == 0) {
            check_skip("this system refuses ptrace");
            return;
        }
        if (met == 1) {
            law(meeting->arg);
        }
    }
    CHECK_EQ(met, 0);
    CHECK(n > INSTRUCTIONS_MIN);
}

/* A feeder whose process does nothing: the test itself fills the ring in its place. */
struct fed {
    struct feeder feeder;
    struct device device;
    int never; /* readable */
    int *code; /* of the child's sync */
    bool woken;
    void (*end)(struct feeder_shared *);
};

static int receive_nothing(void *source, struct vnet_hdr *hdr, const uint8_t **frame)
{
    (void)source;
    (void)hdr;
    (void)frame;
    return 0;
}

static int never_readable(void *source)
{
    return *(int *)source;
}

static int send_nothing(const struct port *port, const struct iovec *iov, int n)
{
    (void)port;
    (void)iov;
    (void)n;
    return 0;
}

static bool fed_open(struct fed *fed)
{
    static const struct device_config config = {.rings = 1, .slots = SLOTS};
    char error[PORT_ERROR_MAX] = "";

    memset(fed, 0, sizeof(*fed));
    fed->never = eventfd(0, EFD_CLOEXEC);
    fed->code = shared_memory(sizeof(*fed->code));
    fed->feeder.source = (struct feeder_source){.spec = "test:order",
                                                .receive = receive_nothing,
                                                .send = send_nothing,
                                                .fd = never_readable,
                                                .source = &fed->never};
    fed->feeder.source.fds.bits[fed->never / 64] |= (uint64_t)1 << fed->never % 64;
    return CHECK(fed->never >= 0) &&
           CHECK_EQ(feeder_open(&fed->feeder, &fed->device, &config, error), 0);
}

static void fed_close(struct fed *fed)
{
    feeder_close(&fed->feeder);
    close(fed->never);
}

static struct fed_shared *fed_ring_state(struct fed *fed)
{
    return fed->device.ports[0].shared;
}

static void fed_clean(void *arg)
{
    struct fed *fed = arg;
    struct port *port = &fed->device.ports[0];

    fed_ring_state(fed)->filled = 0;
    fed->feeder.shared->gone = 0;
    fed->feeder.shared->ended = 0;
    port->rx->head = port->rx->cur = port->rx->tail = 0;
    memset(port->counters, 0, sizeof(*port->counters));
    port->rx->slot[0].len = PORT_VNET_HDR_LEN + FRAME_LEN;
    port->rx->slot[0].flags = 0;
}

static void fed_sync(void *arg)
{
    struct fed *fed = arg;
    struct port *port = &fed->device.ports[0];

    *fed->code = port->ops->rx_sync(port, 1);
}

/* The last frame, then the end, as feeder_run() does. */
static void fed_finish(void *arg)
{
    struct fed *fed = arg;

    fed_ring_state(fed)->filled = 1;
    fed->end(fed->feeder.shared);
}

static void damage(struct feeder_shared *shared)
{
    shared->gone = EBADMSG;
}

static void vanish(struct feeder_shared *shared)
{
    shared->gone = ENODEV;
}

static void end_of_file(struct feeder_shared *shared)
{
    shared->ended = 1;
}

/* Whoever is told of the end has the last frame; whoever is not yet gets both with the next sync.
 */
static void fed_last_frame_first(void *arg)
{
    struct fed *fed = arg;
    struct port *port = &fed->device.ports[0];
    bool told = *fed->code != 0 || port->counters->rx_ended;

    CHECK(!told || port->rx->tail == 1);
    fed_sync(fed);
    CHECK_EQ(port->rx->tail, 1);
    CHECK_EQ(port->counters->rx_frames, 1);
    nm_ring_give(port->rx, 1);
    fed_sync(fed);
    CHECK(*fed->code != 0 || port->counters->rx_ended);
}

static void the_end_of_a_source_never_overtakes_its_last_frame(void)
{
    static void (*const ends[])(struct feeder_shared *) = {damage, vanish, end_of_file};
    struct fed fed;

    if (!fed_open(&fed)) {
        return;
    }
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        fed.end = ends[i];
        meet_everywhere(&(struct meeting){.act = fed_sync, .other = fed_finish, .arg = &fed},
                        fed_clean, fed_last_frame_first);
    }
    fed_close(&fed);
}

/* The end of a file, told as feeder_run() tells it: published, then whether somebody sleeps. */
static void fed_end_and_wake(void *arg)
{
    struct fed *fed = arg;

    fed->feeder.shared->ended = 1;
    atomic_thread_fence(memory_order_seq_cst);
    fed->woken = fed_ring_state(fed)->sleeping;
}

static void fed_arm(void *arg)
{
    struct fed *fed = arg;
    struct port *port = &fed->device.ports[0];

    *fed->code = port->ops->sleep_arm(port);
}

static void fed_clean_awake(void *arg)
{
    struct fed *fed = arg;

    fed_clean(fed);
    fed_ring_state(fed)->sleeping = 0;
    fed->woken = false;
}

static void fed_does_not_sleep(void *arg)
{
    const struct fed *fed = arg;

    CHECK(fed->woken || *fed->code != 0);
}

static void a_sleeper_hears_of_the_end_of_a_file(void)
{
    struct fed fed;

    if (fed_open(&fed)) {
        meet_everywhere(&(struct meeting){.act = fed_arm, .other = fed_end_and_wake, .arg = &fed},
                        fed_clean_awake, fed_does_not_sleep);
        fed_close(&fed);
    }
}

/* Two ports that send to each other: the child has the first, we the second. */
struct two {
    struct device *device[2];
    struct mem_attachment *client;
    struct port *port[2];
    int *code;    /* of what the child did */
    int lock;     /* a new owner's, on an end that is dead */
    bool sending; /* mem: the ring was inside a sync that sends when the link went down */
    uint64_t now_us;
};

static const uint8_t everybody[6] = {255, 255, 255, 255, 255, 255};
static const uint8_t sender[6] = {2, 0, 0, 0, 0, 9};

static void two_open(struct two *two, const char *prefix, const char *first, const char *second)
{
    static const struct device_config config = {.slots = VALE_CELLS + 2, .rings = 1, .links = 1};

    *two = (struct two){.lock = -1, .code = shared_memory(sizeof(int))};
    two->device[0] = soft_wire_open(soft_wire_name(prefix, first), &config, NULL);
    two->port[0] = &two->device[0]->ports[0];
    if (second) {
        two->device[1] = soft_wire_open(soft_wire_name(prefix, second), &config, two->device[0]);
        two->port[1] = &two->device[1]->ports[0];
    } else {
        CHECK_EQ(mem_attach_local(&two->client, two->device[0]), 0);
        two->port[1] = mem_attachment_port(two->client);
    }
}

static void two_close(struct two *two)
{
    if (two->lock >= 0) {
        close(two->lock);
    }
    if (two->client) {
        mem_detach(two->client);
    } else {
        device_close(two->device[1]);
    }
    device_close(two->device[0]);
}

static void arm(void *arg)
{
    struct two *two = arg;

    *two->code = two->port[0]->ops->sleep_arm(two->port[0]);
}

static void send_one(void *arg)
{
    struct two *two = arg;

    CHECK(soft_wire_put(two->port[1], everybody, sender, 7));
    soft_wire_tx(two->port[1]);
}

static void take_all_and_wake(void *arg)
{
    struct two *two = arg;

    soft_wire_rx(two->port[0]);
    while (soft_wire_take(two->port[0]) != UINT32_MAX) {
    }
    soft_wire_rx(two->port[0]);
    two->port[0]->ops->sleep_disarm(two->port[0]);
}

static void does_not_sleep(void *arg)
{
    const struct two *two = arg;
    struct pollfd bell = {.fd = two->port[0]->wait_fd, .events = POLLIN};

    CHECK(*two->code != 0 || poll(&bell, 1, 0) == 1);
}

static void no_frame_is_slept_over(void)
{
    static const char *const specs[][3] = {
        {"mem:order", "{1", "}1"}, {"vale:order", ":a", ":b"}, {"mem:order", "", NULL}};

    for (size_t i = 0; i < sizeof(specs) / sizeof(specs[0]); i++) {
        struct two two;

        two_open(&two, specs[i][0], specs[i][1], specs[i][2]);
        meet_everywhere(&(struct meeting){.act = arm, .other = send_one, .arg = &two},
                        take_all_and_wake, does_not_sleep);
        two_close(&two);
    }
}

/* The sender's sync, so late that it asks whether its receiver lives. */
static void send_late(void *arg)
{
    struct two *two = arg;

    *two->code = two->port[0]->ops->tx_sync(two->port[0], two->now_us);
}

/* Somebody holds the lock of a dead end again. */
static void lock_end(struct two *two, const struct soft *soft, uint32_t end)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = end, .l_len = 1};
    char path[40];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", soft->memfd);
    two->lock = open(path, O_RDWR | O_CLOEXEC);
    CHECK_EQ(fcntl(two->lock, F_OFD_SETLK, &lock), 0);
}

static void unlock_end(struct two *two)
{
    if (two->lock >= 0) {
        close(two->lock);
    }
    two->lock = -1;
    two->now_us += (uint64_t)2 * PIPE_PROBE_US;
}

static void fill(struct two *two)
{
    for (uint32_t i = 0; i <= VALE_CELLS; i++) {
        soft_wire_put(two->port[0], everybody, sender, i);
        soft_wire_tx(two->port[0]);
    }
    while (soft_wire_put(two->port[0], everybody, sender, 1)) {
    }
}

static struct pipe_place *pipe_of(const struct two *two)
{
    return two->port[0]->priv;
}

/* The second end is dead, as a killed process leaves it, and the ring to it is full. */
static void pipe_dies(void *arg)
{
    struct two *two = arg;
    struct pipe_place *place = pipe_of(two);

    unlock_end(two);
    atomic_fetch_or(&place->pipe->link->up[1], PIPE_UP);
    place->out->held_us = 1;
    place->out->held_released = atomic_load(&place->out->released);
}

static void pipe_opens(void *arg)
{
    struct two *two = arg;
    struct pipe_device *pipe = pipe_of(two)->pipe;

    lock_end(two, &pipe->soft, pipe_soft_end(pipe, 1));
    pipe_go_up(pipe->link, 1);
}

static void pipe_is_up(void *arg)
{
    CHECK(atomic_load(&pipe_of(arg)->pipe->link->up[1]) & PIPE_UP);
}

static void an_end_that_opens_again_stays_up(void)
{
    struct two two;

    two_open(&two, "mem:order", "{2", "}2");
    fill(&two);
    device_close(two.device[1]);
    meet_everywhere(&(struct meeting){.act = send_late, .other = pipe_opens, .arg = &two},
                    pipe_dies, pipe_is_up);
    unlock_end(&two);
    device_close(two.device[0]);
}

static struct vale_device *vale_of(const struct two *two)
{
    return two->port[0]->priv;
}

static void vale_dies(void *arg)
{
    struct two *two = arg;

    unlock_end(two);
    atomic_fetch_or(&vale_of(two)->shared->up, vale_up_bit(1));
    soft_wire_put(two->port[0], everybody, sender, 1);
}

static void vale_opens(void *arg)
{
    struct two *two = arg;

    lock_end(two, &vale_of(two)->soft, 1);
    vale_go_up(vale_of(two)->shared, 1);
}

static void vale_is_up(void *arg)
{
    CHECK(atomic_load(&vale_of(arg)->shared->up) & vale_up_bit(1));
}

static void a_port_that_opens_again_stays_up(void)
{
    struct two two;

    two_open(&two, "vale:order", ":a", ":b");
    fill(&two);
    soft_wire_tx(two.port[0]);
    device_close(two.device[1]);
    meet_everywhere(&(struct meeting){.act = send_late, .other = vale_opens, .arg = &two},
                    vale_dies, vale_is_up);
    unlock_end(&two);
    device_close(two.device[0]);
}

static struct mem_device *mem_of(const struct two *two)
{
    return two->device[0]->priv;
}

static void mem_receive(void *arg)
{
    struct two *two = arg;

    *two->code = two->port[0]->ops->rx_sync(two->port[0], 1);
}

static void mem_send(void *arg)
{
    struct two *two = arg;

    *two->code = two->port[0]->ops->tx_sync(two->port[0], 1);
}

static void mem_send_up(struct two *two, uint32_t number)
{
    CHECK(soft_wire_put(two->port[1], everybody, sender, number));
    soft_wire_tx(two->port[1]);
}

static int mem_next_client(struct two *two)
{
    int code = mem_attach_local(&two->client, two->device[0]);

    if (code == 0) {
        two->port[1] = mem_attachment_port(two->client);
    }
    return code;
}

/* A client whose frame is on its way up, and one down to it that is not sent yet. */
static void mem_attach_anew(void *arg)
{
    struct two *two = arg;

    take_all_and_wake(two);
    mem_detach(two->client);
    CHECK_EQ(mem_next_client(two), 0);
    mem_send_up(two, 1);
    soft_wire_tx(two->port[0]);
    CHECK(soft_wire_put(two->port[0], everybody, sender, 3));
}

/* The link's next client comes beside the ring's receive, and sends. */
static void mem_turn_over(void *arg)
{
    struct two *two = arg;

    mem_detach(two->client);
    CHECK_EQ(mem_next_client(two), 0);
    mem_send_up(two, 2);
}

static void mem_both_arrive(void *arg)
{
    struct two *two = arg;

    CHECK_EQ(*two->code, 0);
    soft_wire_rx(two->port[0]);
    CHECK_EQ(soft_wire_take(two->port[0]), 1);
    CHECK_EQ(soft_wire_take(two->port[0]), 2);
    CHECK_EQ(soft_wire_take(two->port[0]), UINT32_MAX);
    CHECK_EQ(device_audit(two->device[0]), 0);
}

static void the_last_frame_of_a_client_goes_before_the_next_ones(void)
{
    struct two two;

    two_open(&two, "mem:order", "", NULL);
    meet_everywhere(&(struct meeting){.act = mem_receive, .other = mem_turn_over, .arg = &two},
                    mem_attach_anew, mem_both_arrive);
    two_close(&two);
}

/* Beside a sync that sends to it, a link is not given to its next client. */
static void mem_turn_over_unless_sent_to(void *arg)
{
    struct two *two = arg;

    two->sending = atomic_load(&mem_of(two)->shared->side[0].sync_seq) & 1;
    mem_detach(two->client);
    CHECK_EQ(mem_next_client(two), two->sending ? -EAGAIN : 0);
}

static void mem_sees_none_of_the_last_ones(void *arg)
{
    struct two *two = arg;

    if (two->sending) {
        CHECK_EQ(mem_next_client(two), 0);
        soft_wire_rx(two->port[1]);
        CHECK_EQ(soft_wire_take(two->port[1]), UINT32_MAX);
    }
    CHECK_EQ(device_audit(two->device[0]), 0);
}

static void what_was_sent_to_a_client_does_not_reach_the_next(void)
{
    struct two two;

    two_open(&two, "mem:order", "", NULL);
    meet_everywhere(
        &(struct meeting){.act = mem_send, .other = mem_turn_over_unless_sent_to, .arg = &two},
        mem_attach_anew, mem_sees_none_of_the_last_ones);
    two_close(&two);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"the end of a source never overtakes its last frame",
         the_end_of_a_source_never_overtakes_its_last_frame},
        {"a sleeper hears of the end of a file", a_sleeper_hears_of_the_end_of_a_file},
        {"no frame is slept over", no_frame_is_slept_over},
        {"an end that opens again stays up", an_end_that_opens_again_stays_up},
        {"a port that opens again stays up", a_port_that_opens_again_stays_up},
        {"the last frame of a client goes before the next one's",
         the_last_frame_of_a_client_goes_before_the_next_ones},
        {"what was sent to a client does not reach the next",
         what_was_sent_to_a_client_does_not_reach_the_next},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
