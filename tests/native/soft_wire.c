/* Helpers of the software links' tests; see soft_wire.h. */
#include "soft_wire.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "check.h"

enum {
    NUMBER_AT = 44, /* behind the headers of a UDP datagram */
};

struct host {
    struct device *device;
    _Atomic bool done;
};

static void *answer(void *argument)
{
    struct host *host = argument;
    struct timespec pause = {.tv_nsec = 200000};

    while (!atomic_load(&host->done)) {
        device_event(host->device);
        nanosleep(&pause, NULL);
    }
    return NULL;
}

struct mem_attachment *soft_wire_attach(const char *spec, struct device *host)
{
    struct host answering = {.device = host};
    struct mem_attachment *attachment = NULL;
    char error[PORT_ERROR_MAX] = "";
    pthread_t thread;

    CHECK_EQ(pthread_create(&thread, NULL, answer, &answering), 0);
    if (!CHECK_EQ(mem_attach(&attachment, strchr(spec, ':') + 1, error), 0)) {
        printf("    %s\n", error);
        exit(1);
    }
    atomic_store(&answering.done, true);
    pthread_join(thread, NULL);
    return attachment;
}

static int open_answered(struct device **device, const char *spec,
                         const struct device_config *config, struct device *host, char *error)
{
    struct host answering = {.device = host};
    pthread_t thread;
    int code;

    if (host) {
        CHECK_EQ(pthread_create(&thread, NULL, answer, &answering), 0);
    }
    code = device_open(device, spec, config, error);
    if (host) {
        atomic_store(&answering.done, true);
        pthread_join(thread, NULL);
    }
    return code;
}

int soft_wire_refused(const char *spec, struct device *host, char *error)
{
    struct device_config config = {.slots = 16};
    struct device *device = NULL;

    error[0] = '\0';
    return open_answered(&device, spec, &config, host, error);
}

struct device *soft_wire_open(const char *spec, const struct device_config *config,
                              struct device *host)
{
    struct device *device = NULL;
    char error[PORT_ERROR_MAX] = "";
    int code = open_answered(&device, spec, config, host, error);

    if (!CHECK_EQ(code, 0)) {
        printf("    %s\n", error);
        exit(1);
    }
    return device;
}

const char *soft_wire_name(const char *prefix, const char *rest)
{
    static char names[4][64];
    static unsigned next;
    char *name = names[next++ % 4];

    snprintf(name, sizeof(names[0]), "%s-%d%s", prefix, (int)getpid(), rest);
    return name;
}

bool soft_wire_put(struct port *port, const uint8_t *dst, const uint8_t *src, uint32_t number)
{
    struct nm_ring *ring = port->tx;
    uint8_t *buf;

    if (nm_ring_space(ring) == 0) {
        return false;
    }
    buf = nm_ring_buf(ring, ring->head);
    memset(buf, 0, SOFT_FRAME);
    memcpy(buf, dst, 6);
    memcpy(buf + 6, src, 6);
    memcpy(buf + NUMBER_AT, &number, sizeof(number));
    ring->slot[ring->head].len = SOFT_FRAME;
    ring->slot[ring->head].flags = 0;
    nm_ring_give(ring, nm_ring_next(ring, ring->head));
    return true;
}

uint32_t soft_wire_take(struct port *port)
{
    struct nm_ring *ring = port->rx;
    uint32_t number;

    if (nm_ring_empty(ring)) {
        return UINT32_MAX;
    }
    memcpy(&number, nm_ring_buf(ring, ring->head) + NUMBER_AT, sizeof(number));
    nm_ring_give(ring, nm_ring_next(ring, ring->head));
    return number;
}

void soft_wire_tx(struct port *port)
{
    CHECK_EQ(port->ops->tx_sync(port, 1000), 0);
}

void soft_wire_rx(struct port *port)
{
    CHECK_EQ(port->ops->rx_sync(port, 1000), 0);
}

void soft_wire_scribble(uint64_t *random, uint8_t *const *at, const size_t *bytes, uint32_t n)
{
    uint64_t dice = splitmix64(random);
    uint32_t which = (uint32_t)(dice % n);
    size_t place = splitmix64(random) % (bytes[which] / 4) * 4;
    uint32_t word = (uint32_t)splitmix64(random);

    word = dice >> 8 & 1 ? word : word % 2048; /* wild, or nearly right */
    memcpy(at[which] + place, &word, sizeof(word));
}

void soft_wire_turn(struct port *port, uint64_t now_us)
{
    static const uint8_t macs[2][6] = {{2, 1, 1, 1, 1, 1}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
    struct nm_ring *tx = port->tx;
    struct nm_slot *slot;

    tx->head = tx->cur = tx->head % tx->num_slots;
    slot = &tx->slot[tx->head];
    if (slot->buf_idx >= NM_BUF_FIRST && slot->buf_idx < port->bufs) {
        memcpy(nm_ring_buf(tx, tx->head), macs[now_us & 1], 6);
        slot->len = SOFT_FRAME;
    }
    nm_ring_give(tx, nm_ring_next(tx, tx->head));
    (void)port->ops->tx_sync(port, now_us);
    (void)port->ops->rx_sync(port, now_us);
    nm_ring_give(port->rx, port->rx->tail % port->rx->num_slots);
}

static bool changed(const struct soft_step *step, uint8_t *const *seen)
{
    for (uint32_t i = 0; i < step->n; i++) {
        if (memcmp(step->at[i], seen[i], step->bytes[i]) != 0) {
            return true;
        }
    }
    return false;
}

static void save(const struct soft_step *step, uint8_t *const *seen)
{
    for (uint32_t i = 0; i < step->n; i++) {
        memcpy(seen[i], step->at[i], step->bytes[i]);
    }
}

static void step_through(struct soft_step *step, pid_t child, void (*look)(void *), void *argument)
{
    uint8_t *seen[4];
    int status = 0;

    for (uint32_t i = 0; i < step->n; i++) {
        seen[i] = malloc(step->bytes[i]);
    }
    waitpid(child, &status, 0);
    save(step, seen);
    while (WIFSTOPPED(status)) {
        ptrace(PTRACE_SINGLESTEP, child, NULL, NULL);
        waitpid(child, &status, 0);
        if (changed(step, seen)) {
            save(step, seen);
            step->stores++;
            look(argument);
        }
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    for (uint32_t i = 0; i < step->n; i++) {
        free(seen[i]);
    }
}

void soft_wire_step(struct soft_step *step, void (*run)(void *), void (*look)(void *),
                    void *argument)
{
    pid_t child = fork();

    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        run(argument);
        _exit(0);
    }
    step_through(step, child, look, argument);
}
