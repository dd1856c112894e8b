/*
 * Clusters on bad wires, on virtual time: two runs leave the same trace, and no byte is wrong. The
 * long conversation is 100 MB each way; SHARDSERVER_FAULTY_MB asks for another size.
 */
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "law.h"
#include "talk.h"
#include "trace.h"

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

/* Two shards and a client, all on bad wires. */
static uint64_t traced_run(uint64_t seed)
{
    uint64_t frames;
    uint64_t hash;
    struct sim sim;

    sim_open(&sim, &(struct sim_options){.shards = 2,
                                         .clients = 1,
                                         .seed = seed,
                                         .faults = bad_wire,
                                         .device_faults = "drop=1%,dup=1%,reorder=1%"});
    trace_sim(&sim);
    talk_echo(&sim, 32, 100000, 600000000);
    sim_run(&sim, 5000000);
    hash = trace_end(&frames);
    CHECK(frames > 10000);
    sim_close(&sim);
    return hash;
}

static void two_runs_leave_the_same_trace(void)
{
    uint64_t first = traced_run(21);

    CHECK(traced_run(21) == first);
    CHECK(traced_run(22) != first);
}

/* Lossy ends, odd sizes, small and large buffers; each seed is a world of its own. */
static void lawful_run(uint64_t seed)
{
    uint64_t frames;
    struct sim sim;

    sim_open(&sim, &(struct sim_options){.shards = 1 + (uint32_t)(seed % 3),
                                         .clients = 1,
                                         .seed = seed,
                                         .buffers = seed % 2 ? 0 : 4096,
                                         .faults = seed % 5 ? bad_wire : "drop=15%",
                                         .device_faults = "drop=2%,dup=2%,reorder=2%"});
    law_begin();
    trace_sent(&sim, law_frame);
    talk_echo(&sim, 20, 1 + seed * 997 % 30000, 900000000);
    sim_run(&sim, 5000000);
    trace_end(&frames);
    CHECK(law_segments() > 100);
    sim_close(&sim);
}

static void both_ends_keep_a_senders_law(void)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        lawful_run(seed);
    }
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
        {"both ends keep a sender's law", both_ends_keep_a_senders_law},
        {"many bytes over a bad wire are exact", many_bytes_over_a_bad_wire_are_exact},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
