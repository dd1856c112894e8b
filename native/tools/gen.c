/* gen sends UDP frames, as many a second as it is told, from and to ranges of addresses. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csum.h"
#include "tools/frames.h"
#include "tools/move.h"

enum {
    FLUSH_US = 1000000, /* how long the last frames may take to leave */
    SECOND_US = 1000000,
};

/* A field that steps through a range: where it stands, and its value in network order. */
struct stepper {
    uint32_t n;
    uint32_t first;
    uint32_t at; /* 0..n-1 */
    uint32_t offset;
    uint32_t bytes;
};

struct gen {
    uint8_t frame[PORT_VNET_HDR_LEN + 65536];
    struct stepper steppers[4];
    uint32_t steppers_n; /* of ranges with more than one value */
    uint32_t bytes;      /* header and frame */
    uint32_t header;
    uint64_t began_us;
    uint64_t flush_us;
};

static uint32_t value_of(const struct stepper *stepper, uint32_t at)
{
    uint32_t value = stepper->first + at;

    return stepper->bytes == 4 ? htonl(value) : htons((uint16_t)value);
}

/* RFC 1624: the checksum after a field has changed. Bits set above 16-bit fields fold to zero. */
static void update_csum(uint8_t *check, uint32_t before, uint32_t after)
{
    uint16_t old;
    uint64_t sum;

    memcpy(&old, check, sizeof(old));
    sum = (uint64_t)(uint16_t)~old + (uint32_t)~before + after;
    old = csum_fold(sum);
    memcpy(check, &old, sizeof(old));
}

static void step(struct gen *gen, struct stepper *stepper)
{
    uint8_t *frame = gen->frame + gen->header;
    uint32_t before = value_of(stepper, stepper->at);
    uint32_t after;

    stepper->at = stepper->at + 1 == stepper->n ? 0 : stepper->at + 1;
    after = value_of(stepper, stepper->at);
    memcpy(frame + stepper->offset, &after, stepper->bytes);
    update_csum(frame + UDP_HEADERS_LEN - 2, before, after);
    if (stepper->bytes == 4) {
        update_csum(frame + ETH_HDR_LEN + 10, before, after);
    }
}

static void add_stepper(struct gen *gen, const struct ss_tool_range *range, uint32_t offset,
                        uint32_t bytes)
{
    if (range->n > 1) {
        gen->steppers[gen->steppers_n++] =
            (struct stepper){range->n, range->first, 0, offset, bytes};
    }
}

static void build(struct gen *gen, const struct tool *tool, const struct port *port)
{
    static const uint8_t no_mac[6];
    const struct ss_tool_options *options = &tool->options;
    const struct portset *set = &tool->sets[0];

    gen->header = tool_header(port);
    gen->bytes = gen->header + options->size;
    frame_build(gen->frame + gen->header, options,
                memcmp(options->src_mac, no_mac, 6) ? options->src_mac : set->mac,
                memcmp(options->dst_mac, no_mac, 6) ? options->dst_mac : set->peer_mac);
    add_stepper(gen, &options->src_ip, 26, 4);
    add_stepper(gen, &options->dst_ip, 30, 4);
    add_stepper(gen, &options->src_port, 34, 2);
    add_stepper(gen, &options->dst_port, 36, 2);
}

int gen_prepare(struct tool *tool, char *error)
{
    for (uint32_t i = 0; i < tool->workers_n; i++) {
        struct gen *gen = calloc(1, sizeof(*gen));

        if (!gen) {
            snprintf(error, SS_ERROR_MAX, "%s: out of memory", tool->sets[0].name);
            return -ENOMEM;
        }
        build(gen, tool, tool->sets[0].ports[0]);
        tool->workers[i].state = gen;
    }
    return 0;
}

/* Frames that may leave now. With a rate: what is due, a burst at most; sets when more will be. */
static uint64_t allowance(struct tool_worker *worker, const struct gen *gen)
{
    const struct ss_tool_options *options = &worker->tool->options;
    uint64_t rate = options->rate / worker->tool->workers_n;
    uint64_t left = tool_left(worker);
    uint64_t due;

    left = left < options->burst ? left : options->burst;
    if (options->rate == 0) {
        return left;
    }
    rate = rate ? rate : 1;
    due = (uint64_t)((double)(worker->now_us - gen->began_us) * (double)rate / SECOND_US) + 1;
    if (due <= worker->done) {
        worker->wait_us = (worker->done - due + 1) * SECOND_US / rate;
        return 0;
    }
    due -= worker->done;
    return due < left ? due : left;
}

static uint32_t fill(struct gen *gen, struct port *port, uint32_t n)
{
    struct nm_ring *tx = port->tx;
    uint32_t at = tx->head;

    n = min_u32(n, nm_ring_space(tx));
    for (uint32_t i = 0; i < n; i++) {
        struct nm_slot *slot = &tx->slot[at];

        memcpy(nm_ring_buf(tx, at), gen->frame, gen->bytes);
        slot->len = (uint16_t)gen->bytes;
        slot->flags = 0;
        at = nm_ring_next(tx, at);
        for (uint32_t k = 0; k < gen->steppers_n; k++) {
            step(gen, &gen->steppers[k]);
        }
    }
    nm_ring_give(tx, at);
    return n;
}

/* After the last frame: until every slot is free again. */
static int flush(struct tool_worker *worker, struct gen *gen)
{
    struct tool *tool = worker->tool;
    bool empty = true;

    if (!worker->turned) {
        worker->turned = true;
        gen->flush_us = worker->now_us + FLUSH_US;
    }
    for (uint32_t r = worker->index; r < tool->sets[0].n; r += tool->workers_n) {
        struct port *port = tool->sets[0].ports[r];
        int code = tool_tx_sync(worker, port);

        if (code != 0) {
            return code;
        }
        empty &= nm_ring_space(port->tx) == port->tx->num_slots - 1;
    }
    return empty || worker->now_us > gen->flush_us ? TOOL_DONE : 0;
}

int gen_turn(struct tool_worker *worker)
{
    struct tool *tool = worker->tool;
    struct gen *gen = worker->state;
    int handled = 0;

    gen->began_us = gen->began_us ? gen->began_us : worker->now_us;
    if (tool_left(worker) == 0) {
        return flush(worker, gen);
    }
    for (uint32_t r = worker->index; r < tool->sets[0].n; r += tool->workers_n) {
        struct port *port = tool->sets[0].ports[r];
        uint32_t n = fill(gen, port, (uint32_t)allowance(worker, gen));
        int code = tool_tx_sync(worker, port);

        if (code != 0) {
            return code;
        }
        worker->done += n;
        handled += (int)n;
    }
    return handled;
}
