/*
 * What the other side of shared memory does between any two instructions of ours. Each case lets
 * it act after the first instruction, after the second, and so on, until ours has ended before.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"
#include "ports/feeder.h"
#include "stepper.h"

enum {
    SLOTS = 128,
    FRAME_LEN = 60,
    INSTRUCTIONS_MIN = 30,
#ifdef __SANITIZE_ADDRESS__
    STRIDE = 7, /* a sync is ten times as long there, and a fork as well */
#else
    STRIDE = 1,
#endif
};

/* Every place of `meeting` in turn; `law` looks at how it went, `clean` makes ready for the next. */
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

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"the end of a source never overtakes its last frame",
         the_end_of_a_source_never_overtakes_its_last_frame},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
