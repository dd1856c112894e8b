/* Traces of simulated clusters; see trace.h. */
#include "trace.h"

#include <string.h>

#include "base/hash.h"

enum {
    PORTS_MAX = 8 + SIM_CLIENTS_MAX,
};

struct tap {
    struct port *port;
    const struct port_ops *inner;
    struct port_ops ops;
    uint32_t rx_next;
    uint32_t tx_next;
};

static struct {
    struct tap tap[PORTS_MAX];
    uint32_t taps;
    void (*sent)(const uint8_t *frame, uint32_t len);
    uint64_t hash;
    uint64_t frames;
} trace;

static struct tap *tap_of(const struct port *port)
{
    uint32_t i = 0;

    while (trace.tap[i].port != port) {
        i++;
    }
    return &trace.tap[i];
}

static uint32_t trace_slots(const struct nm_ring *ring, uint32_t from, uint32_t to, uint64_t now_us)
{
    for (uint32_t at = from; at != to; at = nm_ring_next(ring, at)) {
        uint64_t key[2] = {trace.hash, now_us};

        trace.hash = siphash24(key, nm_ring_buf(ring, at), ring->slot[at].len);
        trace.frames++;
    }
    return to;
}

static int traced_rx_sync(struct port *port, uint64_t now_us)
{
    struct tap *tap = tap_of(port);
    int code = tap->inner->rx_sync(port, now_us);

    tap->rx_next = trace_slots(port->rx, tap->rx_next, nm_ring_tail(port->rx), now_us);
    return code;
}

static int traced_tx_sync(struct port *port, uint64_t now_us)
{
    struct tap *tap = tap_of(port);

    for (uint32_t at = tap->tx_next; trace.sent && at != port->tx->head;) {
        trace.sent(nm_ring_buf(port->tx, at), port->tx->slot[at].len);
        at = nm_ring_next(port->tx, at);
    }
    tap->tx_next = trace_slots(port->tx, tap->tx_next, port->tx->head, now_us);
    return tap->inner->tx_sync(port, now_us);
}

static void tap_port(struct port *port)
{
    struct tap *tap = &trace.tap[trace.taps++];

    *tap = (struct tap){.port = port, .inner = port->ops, .ops = *port->ops};
    tap->rx_next = nm_ring_tail(port->rx);
    tap->tx_next = port->tx->head;
    tap->ops.rx_sync = traced_rx_sync;
    tap->ops.tx_sync = traced_tx_sync;
    port->ops = &tap->ops;
}

void trace_sim(struct sim *sim)
{
    memset(&trace, 0, sizeof(trace));
    for (uint32_t i = 0; i < sim->shards; i++) {
        tap_port(&sim->device->ports[i]);
    }
    for (uint32_t i = 0; i < sim->clients; i++) {
        tap_port(&sim->client[i].device.ports[0]);
    }
}

void trace_sent(struct sim *sim, void (*sent)(const uint8_t *frame, uint32_t len))
{
    trace_sim(sim);
    trace.sent = sent;
}

uint64_t trace_end(uint64_t *frames)
{
    for (uint32_t i = 0; i < trace.taps; i++) {
        trace.tap[i].port->ops = trace.tap[i].inner;
    }
    *frames = trace.frames;
    return trace.hash;
}
