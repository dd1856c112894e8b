/*
 * Clusters on bad wires, on virtual time: two runs leave the same trace, and no byte is wrong. The
 * long conversation is 100 MB each way; SHARDSERVER_FAULTY_MB asks for another size.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "check.h"
#include "talk.h"

/* Of the long conversation. */
#ifdef __SANITIZE_ADDRESS__
enum {
    MEGABYTES = 20
};
#else
enum {
    MEGABYTES = 100
};
#endif

static const char bad_wire[] = "drop=5%,reorder=5%,dup=2%,corrupt=0.1%";

/* Every frame at every ring, with its virtual time, into one hash. */
struct tap {
    struct port *port;
    const struct port_ops *inner;
    struct port_ops ops;
    uint32_t rx_next;
    uint32_t tx_next;
};

static struct {
    struct tap tap[8];
    uint32_t taps;
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

static void untap_ports(void)
{
    for (uint32_t i = 0; i < trace.taps; i++) {
        trace.tap[i].port->ops = trace.tap[i].inner;
    }
}

/* Two shards and a client, all on bad wires. */
static uint64_t traced_run(uint64_t seed)
{
    struct sim sim;

    sim_open(&sim, &(struct sim_options){.shards = 2,
                                         .clients = 1,
                                         .seed = seed,
                                         .faults = bad_wire,
                                         .device_faults = "drop=1%,dup=1%,reorder=1%"});
    memset(&trace, 0, sizeof(trace));
    tap_port(&sim.device->ports[0]);
    tap_port(&sim.device->ports[1]);
    tap_port(&sim.client[0].device.ports[0]);
    talk_echo(&sim, 32, 100000, 600000000);
    sim_run(&sim, 5000000);
    untap_ports();
    CHECK(trace.frames > 10000);
    sim_close(&sim);
    return trace.hash;
}

static void two_runs_leave_the_same_trace(void)
{
    uint64_t first = traced_run(21);

    CHECK(traced_run(21) == first);
    CHECK(traced_run(22) != first);
}

static void many_bytes_over_a_bad_wire_are_exact(void)
{
    const char *asked = getenv("SHARDSERVER_FAULTY_MB");
    uint64_t megabytes = asked ? strtoull(asked, NULL, 10) : MEGABYTES;
    uint64_t dropped_by_checksum = 0;
    struct sim sim;

    sim_open(&sim, &(struct sim_options){
                       .shards = 2, .clients = 1, .chunks = 16384, .seed = 31, .faults = bad_wire});
    talk_echo(&sim, 250, megabytes * 4000, 3600000000u);
    for (uint32_t i = 0; i < 2; i++) {
        const struct stats_page *stats = sim.worker[i].stack.stats;

        CHECK(stats->counter[COUNTER_conns_accepted] > 50);
        CHECK(stats->verdict[VERDICT_tcp_ooo] > 0);
        CHECK(stats->counter[COUNTER_retransmits] > 0);
        dropped_by_checksum += stats->verdict[VERDICT_tcp_bad_checksum];
    }
    CHECK(dropped_by_checksum > 0);
    printf("    %llu MB each way in %.1f s of virtual time\n", (unsigned long long)megabytes,
           (double)sim.now_us / 1e6);
    sim_run(&sim, 100000000);
    sim_check_laws(&sim);
    sim_close(&sim);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"two runs leave the same trace", two_runs_leave_the_same_trace},
        {"many bytes over a bad wire are exact", many_bytes_over_a_bad_wire_are_exact},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
