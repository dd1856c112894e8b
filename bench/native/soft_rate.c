/*
 * What a frame costs on the software links: mem:, a pipe, a switch, in frames per second and core.
 *
 * One thread is sender and receiver by turns, so that a figure holds both sides' work and nothing
 * waits; its own CPU time is the measure, so that other programs on the machine do not count. Best
 * of several rounds. "swap": slots are handed over as they are; "touch": each frame of 60 bytes is
 * written by the sender and its first bytes read by the receiver.
 * Run: soft_rate [BATCH]
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ports/portset.h"

enum {
    FRAME = 60,
    ROUNDS = 8,
    ROUND_FRAMES = 2000000,
};

static uint32_t batch = 256;

struct link {
    const char *what;
    struct portset sender;
    struct portset receiver;
    uint8_t dst[6];
};

static double cpu_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void open_port(struct portset *set, const char *spec, uint32_t rings, uint32_t slots)
{
    struct device_config config = {.rings = rings, .slots = slots};
    char error[PORT_ERROR_MAX] = "";

    if (portset_open(set, spec, &config, PORTSET_OWNER, error) != 0) {
        fprintf(stderr, "soft_rate: %s\n", error);
        exit(1);
    }
}

static void fill(struct port *port, const uint8_t *frame, uint32_t n, bool touch)
{
    struct nm_ring *tx = port->tx;
    uint32_t at = tx->head;

    for (; n > 0; n--) {
        if (touch) {
            memcpy(nm_ring_buf(tx, at), frame, FRAME);
        }
        tx->slot[at].len = FRAME;
        tx->slot[at].flags = 0;
        at = nm_ring_next(tx, at);
    }
    nm_ring_give(tx, at);
}

static uint32_t take(struct port *port, bool touch, uint32_t *sum)
{
    struct nm_ring *rx = port->rx;
    uint32_t tail = nm_ring_tail(rx);
    uint32_t n = nm_ring_distance(rx, rx->head, tail);

    for (uint32_t at = rx->head; touch && at != tail; at = nm_ring_next(rx, at)) {
        *sum += nm_ring_buf(rx, at)[12];
    }
    nm_ring_give(rx, tail);
    return n;
}

/* Frames per CPU second of one round. */
static double run_round(struct link *link, bool touch)
{
    struct port *from = link->sender.ports[0];
    struct port *to = link->receiver.ports[0];
    uint8_t frame[FRAME] = {0};
    uint32_t frames = 0;
    uint32_t sum = 0;
    double start;

    memcpy(frame, link->dst, 6);
    memcpy(frame + 6, link->sender.mac, 6);
    start = cpu_s();
    while (frames < ROUND_FRAMES) {
        uint32_t n = min_u32(batch, nm_ring_space(from->tx));

        fill(from, frame, n, touch);
        from->ops->tx_sync(from, 1);
        to->ops->rx_sync(to, 1);
        frames += take(to, touch, &sum);
    }
    return frames / (cpu_s() - start) + (sum == 1); /* the sum is read: nothing is left out */
}

static void measure(struct link *link)
{
    for (int touch = 1; touch >= 0; touch--) { /* touch first: then every buffer has a header */
        double best = 0;

        for (int i = 0; i < ROUNDS; i++) {
            double rate = run_round(link, touch);

            best = rate > best ? rate : best;
        }
        printf("%-7s %-6s batch %4u  %7.2f M frames/s and core  %6.2f ns each\n", link->what,
               touch ? "touch" : "swap", batch, best / 1e6, 1e9 / best);
    }
}

/* The switch learns where the receiver is. */
static void teach(struct link *link)
{
    uint8_t frame[FRAME] = {0};

    memcpy(frame, link->sender.mac, 6);
    memcpy(frame + 6, link->receiver.mac, 6);
    memcpy(nm_ring_buf(link->receiver.ports[0]->tx, 0), frame, FRAME);
    fill(link->receiver.ports[0], frame, 1, true);
    link->receiver.ports[0]->ops->tx_sync(link->receiver.ports[0], 1);
    memcpy(link->dst, link->receiver.mac, 6);
}

/* Both ends in this process: a thread answers for the first while the second is being opened. */
static void *answer(void *set)
{
    for (int i = 0; i < 2000; i++) {
        portset_serve(set);
        usleep(1000);
    }
    return NULL;
}

static void open_both(struct link *link, const char *first, const char *second)
{
    pthread_t thread;

    open_port(&link->sender, first, 1, 1024);
    pthread_create(&thread, NULL, answer, &link->sender);
    open_port(&link->receiver, second, 1, 1024);
    pthread_cancel(thread);
    pthread_join(thread, NULL);
}

static void open_mem(struct link *link)
{
    char error[PORT_ERROR_MAX] = "";
    char spec[PORT_NAME_MAX];

    snprintf(spec, sizeof(spec), "mem:rate-%d", getpid());
    open_port(&link->receiver, spec, 1, 1024);
    if (portset_attach(&link->sender, &link->receiver, error) != 0) {
        fprintf(stderr, "soft_rate: %s\n", error);
        exit(1);
    }
    memcpy(link->dst, link->receiver.mac, 6);
}

int main(int argc, char **argv)
{
    struct link links[3] = {{.what = "mem"}, {.what = "pipe"}, {.what = "switch"}};
    char first[PORT_NAME_MAX];
    char second[PORT_NAME_MAX];

    batch = argc > 1 ? (uint32_t)atoi(argv[1]) : batch;
    setvbuf(stdout, NULL, _IONBF, 0);
    open_mem(&links[0]);
    snprintf(first, sizeof(first), "mem:rate-%d{0", getpid());
    snprintf(second, sizeof(second), "mem:rate-%d}0", getpid());
    open_both(&links[1], first, second);
    snprintf(first, sizeof(first), "vale:rate-%d:a", getpid());
    snprintf(second, sizeof(second), "vale:rate-%d:b", getpid());
    open_both(&links[2], first, second);
    teach(&links[2]);
    for (int i = 0; i < 3; i++) {
        measure(&links[i]);
        portset_close(&links[i].sender);
        portset_close(&links[i].receiver);
    }
    return 0;
}
