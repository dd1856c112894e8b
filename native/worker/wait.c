/* How an idle worker sleeps without missing a wake-up: announce, look again, poll. */
#include "worker/wait.h"

#include <errno.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "stack/lane.h"

enum {
    SLEEPING_STRIDE = 16, /* words: one cache line a shard */
};

static bool lanes_have_frames(const struct stack *stack)
{
    for (uint32_t from = 0; from < stack->config->shards; from++) {
        if (from != stack->shard && lane_ready(stack->cluster->lanes, from, stack->shard,
                                               stack->shared->lane_cursor[from])) {
            return true;
        }
    }
    return false;
}

static void drain(int fd)
{
    uint64_t count;

    if (read(fd, &count, sizeof(count)) < 0 && errno != EAGAIN) {
        ENSURE(errno == EINTR);
    }
}

static void poll_for(struct stack *stack, uint64_t us)
{
    struct pollfd fds[2] = {
        {.fd = stack->cluster->doorbell[stack->shard], .events = POLLIN},
        {.fd = stack->port->wait_fd, .events = POLLIN},
    };
    struct timespec ts = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};

    stats_add(stack->stats, COUNTER_sleeps, 1);
    if (ppoll(fds, 2, &ts, NULL) > 0 && (fds[0].revents & POLLIN)) {
        drain(fds[0].fd);
    }
}

void wait_for_work(struct stack *stack, uint64_t us)
{
    _Atomic uint32_t *sleeping = &stack->cluster->sleeping[stack->shard * SLEEPING_STRIDE];
    int armed;

    atomic_store(sleeping, 1);
    atomic_thread_fence(memory_order_seq_cst); /* before the looks below */
    armed = stack->port->ops->sleep_arm(stack->port);
    if (armed == 0 && !lanes_have_frames(stack)) {
        poll_for(stack, us);
    }
    stack->port->ops->sleep_disarm(stack->port);
    atomic_store(sleeping, 0);
}
