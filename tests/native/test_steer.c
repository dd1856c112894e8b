/*
 * Steering: whatever queue a flow's frames come by, one shard owns it, and it alone answers. Queues
 * change because the tests rewrite the device's RSS table.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/wire.h"
#include "check.h"
#include "peer.h"
#include "ports/mem.h"
#include "stack/directory.h"
#include "talk.h"

static struct peer peer;

static uint64_t verdicts(const struct sim *sim, enum verdict verdict)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < sim->shards; i++) {
        sum += sim->worker[i].stack.stats->verdict[verdict];
    }
    return sum;
}

static uint64_t counters(const struct sim *sim, enum counter counter)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < sim->shards; i++) {
        sum += sim->worker[i].stack.stats->counter[counter];
    }
    return sum;
}

static uint32_t conns_of(const struct sim *sim, uint32_t shard)
{
    return sim->worker[shard].stack.shared->conns_active;
}

static uint32_t directory_entries(const struct sim *sim)
{
    uint32_t entries = 0;

    for (uint32_t i = 0; i < sim->shards; i++) {
        entries += directory_count(sim->server->cluster.directory, i);
    }
    return entries;
}

static void say(uint32_t seq, uint32_t ack, const char *text)
{
    peer_send(
        &peer,
        &(struct send){.seq = seq, .ack = ack, .flags = TCP_ACK, .window = 65535, .payload = text});
}

static void open_to(uint32_t shards, uint32_t owner)
{
    peer_open_shards(&peer, shards);
    sim_direct(&peer.sim, owner);
    peer_connect(&peer, 7);
    peer_flush(&peer);
    CHECK_EQ(conns_of(&peer.sim, owner), 1);
}

static void reset_and_close(uint32_t seq)
{
    peer_send(&peer, &(struct send){.seq = seq, .flags = TCP_RST});
    peer_run(&peer, 1000);
    CHECK_EQ(directory_entries(&peer.sim), 0);
    peer_close(&peer);
}

static void only_the_owner_answers(void)
{
    open_to(4, 2);
    for (uint32_t i = 0; i < 12; i++) {
        sim_direct(&peer.sim, i % 4);
        say(1 + i, 1 + i, "x");
        peer_run(&peer, 1000);
        peer_expect(&peer, TCP_ACK, 1 + i, 2 + i, 1);
        peer_silent(&peer);
    }
    CHECK_EQ(conns_of(&peer.sim, 2), 1);
    CHECK_EQ(peer.sim.worker[2].stack.stats->counter[COUNTER_steered_in], 9);
    CHECK_EQ(verdicts(&peer.sim, VERDICT_steered_out), 9);
    CHECK_EQ(counters(&peer.sim, COUNTER_rsts_sent), 0);
    sim_direct(&peer.sim, 0);
    reset_and_close(13);
}

/* RST, FIN, SYN and nonsense of a flow that lives elsewhere go to its owner as well. */
static void a_wrong_shard_never_resets(void)
{
    static const uint8_t flags[] = {TCP_ACK, TCP_ACK | TCP_FIN, TCP_RST,
                                    TCP_SYN, TCP_SYN | TCP_ACK, 0,
                                    TCP_FIN, TCP_ACK | TCP_RST};

    for (uint32_t i = 0; i < sizeof(flags); i++) {
        open_to(3, 0);
        sim_direct(&peer.sim, 1 + i % 2);
        peer_send(
            &peer,
            &(struct send){.seq = 500, .ack = 1, .flags = flags[i], .window = 100, .payload = "?"});
        peer_run(&peer, 1000);
        CHECK_EQ(counters(&peer.sim, COUNTER_rsts_sent), 0);
        CHECK_EQ(verdicts(&peer.sim, VERDICT_tcp_no_connection), 0);
        CHECK_EQ(peer.sim.worker[0].stack.stats->counter[COUNTER_steered_in], 1);
        CHECK_EQ(conns_of(&peer.sim, 0), 1);
        reset_and_close(1);
    }
}

static void what_nobody_owns_is_reset_once(void)
{
    peer_open_shards(&peer, 4);
    peer.tcp_port = 7;
    for (uint32_t i = 0; i < 4; i++) {
        sim_direct(&peer.sim, i);
        peer.local_port++;
        say(1, 77, "stray");
        peer_run(&peer, 1000);
        peer_expect(&peer, TCP_RST, 77, 0, 0);
        peer_silent(&peer);
        CHECK_EQ(peer.sim.worker[i].stack.stats->counter[COUNTER_rsts_sent], 1);
    }
    peer_close(&peer);
}

/* A Linux sender's retransmitted SYN reaches another queue: the first claim stands. */
static void a_syn_on_several_queues_opens_one_connection(void)
{
    for (uint32_t at_once = 0; at_once < 2; at_once++) {
        struct send syn = {.flags = TCP_SYN, .window = 65535};
        uint32_t opened = 0;

        peer_open_shards(&peer, 4);
        peer.tcp_port = 7;
        for (uint32_t i = 0; i < 4; i++) {
            sim_direct(&peer.sim, 3 - i);
            peer_post(&peer, &syn);
            peer_run(&peer, at_once ? 0 : 2000);
        }
        peer_run(&peer, 2000);
        for (uint32_t i = 0; i < 4; i++) {
            opened += conns_of(&peer.sim, i);
        }
        CHECK_EQ(opened, 1);
        CHECK_EQ(directory_entries(&peer.sim), 1);
        CHECK(peer.answers_n >= 1);
        for (uint32_t i = 0; i < peer.answers_n; i++) {
            CHECK_EQ(peer.answers[i].flags, TCP_SYN | TCP_ACK);
            CHECK_EQ(peer.answers[i].seq, peer.answers[0].seq);
        }
        peer.irs = peer.answers[0].seq;
        reset_and_close(1);
    }
}

/* The queue of every flow changes all the time. */
static void rotate(struct sim *sim)
{
    struct mem_device *mem = sim->device->priv;
    uint64_t state = sim->now_us / 300;
    uint64_t dice = splitmix64(&state);

    for (uint32_t i = 0; i < RSS_TABLE_LEN && sim->now_us % 300 == 0; i++) {
        mem->shared->rss.table[i] = (uint8_t)((dice + i) % sim->shards);
    }
}

static void moved_flows_live_on(void)
{
    for (uint32_t shards = 2; shards <= 4; shards++) {
        const struct stats_page *client;
        struct sim sim;

        sim_open(&sim, &(struct sim_options){.shards = shards, .clients = 1, .seed = shards});
        client = sim.client[0].worker.stack.stats;
        sim.before_step = rotate;
        talk_echo(&sim, 32, 200000, 60000000);
        sim_run(&sim, 3000000);
        CHECK(verdicts(&sim, VERDICT_steered_out) > 1000);
        CHECK_EQ(client->counter[COUNTER_rsts_sent], 0);
        CHECK_EQ(client->verdict[VERDICT_tcp_rst], 0);
        /* none but for the last ACK, overtaken by another: its connection has ended */
        CHECK_EQ(counters(&sim, COUNTER_rsts_sent), client->verdict[VERDICT_tcp_late_rst]);
        CHECK(counters(&sim, COUNTER_rsts_sent) < 4);
        CHECK_EQ(directory_entries(&sim), 0);
        sim_check_laws(&sim);
        sim_close(&sim);
    }
}

static void moved_flows_live_on_over_a_bad_wire(void)
{
    struct sim sim;

    sim_open(&sim, &(struct sim_options){.shards = 4,
                                         .clients = 1,
                                         .seed = 8,
                                         .faults = "drop=3%,reorder=3%,dup=2%,corrupt=0.1%"});
    sim.before_step = rotate;
    talk_echo(&sim, 32, 100000, 600000000);
    sim_run(&sim, 100000000);
    CHECK_EQ(verdicts(&sim, VERDICT_tcp_no_listener), 0);
    CHECK_EQ(directory_entries(&sim), 0);
    sim_check_laws(&sim);
    sim_close(&sim);
}

/* While its owner is away nobody answers for it; what waits in the lane is answered after. */
static void a_dead_owners_flow_waits(void)
{
    open_to(2, 0);
    sim_stop_shard(&peer.sim, 0);
    sim_direct(&peer.sim, 1);
    say(1, 1, "are you there");
    peer_send(&peer, &(struct send){.seq = 0, .flags = TCP_SYN, .window = 100}); /* the SYN again */
    peer_run(&peer, 5000);
    peer_silent(&peer);
    CHECK_EQ(conns_of(&peer.sim, 1), 0);
    sim_restart_shard(&peer.sim, 0);
    peer_run(&peer, 1000);
    peer_expect(&peer, TCP_ACK, 1, 14, 13);
    CHECK_EQ(counters(&peer.sim, COUNTER_rsts_sent), 0);
    reset_and_close(14);
}

static void a_full_lane_drops_and_counts(void)
{
    static const char text[1400];
    uint64_t dropped;

    open_to(2, 0);
    sim_stop_shard(&peer.sim, 0);
    sim_direct(&peer.sim, 1);
    for (uint32_t i = 0; i < 600; i++) { /* 840 KB into a lane of 512 KiB */
        peer_send(&peer, &(struct send){.seq = 1,
                                        .ack = 1,
                                        .flags = TCP_ACK,
                                        .window = 65535,
                                        .payload = text,
                                        .len = sizeof(text)});
    }
    dropped = verdicts(&peer.sim, VERDICT_steer_dropped);
    CHECK(dropped > 200 && dropped < 300);
    CHECK_EQ(verdicts(&peer.sim, VERDICT_steered_out) + dropped, 600);
    sim_restart_shard(&peer.sim, 0);
    peer_run(&peer, 20000);
    CHECK(peer.answers_n > 0);
    CHECK_EQ(peer.sim.worker[0].stack.stats->counter[COUNTER_steered_in], 600 - dropped);
    CHECK_EQ(peer.sim.worker[0].stack.stats->verdict[VERDICT_tcp_dup], 600 - dropped - 1);
    peer_flush(&peer);
    say(1401, 1401, "x");
    peer_expect(&peer, TCP_ACK, 1401, 1402, 1);
    reset_and_close(1402);
}

static uint64_t hash_of_next(void)
{
    struct tuple tuple = {.laddr = htonl(0x0a4d0001),
                          .raddr = htonl(0x0a4d00c8),
                          .lport = htons(7),
                          .rport = htons((uint16_t)(peer.local_port + 1))};

    return flow_hash(peer.sim.server->cluster.flow_key, &tuple);
}

/* An owner died between its claim and the connection: the entry stands, and heals. */
static void stale_entries_heal(void)
{
    uint32_t owner;

    peer_open_shards(&peer, 3);
    CHECK_EQ(directory_claim(peer.sim.server->cluster.directory, hash_of_next(), 2, &owner),
             CLAIM_MINE);
    sim_direct(&peer.sim, 0);
    peer_connect(&peer, 7); /* the SYN goes to shard 2, which opens */
    peer_flush(&peer);
    CHECK_EQ(conns_of(&peer.sim, 2), 1);
    say(1, 1, "hello");
    peer_expect(&peer, TCP_ACK, 1, 6, 5);
    peer_send(&peer, &(struct send){.seq = 6, .flags = TCP_RST});
    CHECK_EQ(directory_entries(&peer.sim), 0);
    peer_close(&peer);
}

/* What comes for a stale entry and is no SYN: its owner says so, once. */
static void a_stale_entry_is_answered_by_its_owner(void)
{
    uint32_t owner;

    peer_open_shards(&peer, 3);
    peer.tcp_port = 7;
    directory_claim(peer.sim.server->cluster.directory, hash_of_next(), 2, &owner);
    peer.local_port++;
    sim_direct(&peer.sim, 1);
    say(1, 77, "stray");
    peer_run(&peer, 1000);
    peer_expect(&peer, TCP_RST, 77, 0, 0);
    peer_silent(&peer);
    CHECK_EQ(peer.sim.worker[2].stack.stats->counter[COUNTER_rsts_sent], 1);
    CHECK_EQ(peer.sim.worker[1].stack.stats->counter[COUNTER_rsts_sent], 0);
    peer_close(&peer);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"only the owner answers", only_the_owner_answers},
        {"a wrong shard never resets", a_wrong_shard_never_resets},
        {"what nobody owns is reset once", what_nobody_owns_is_reset_once},
        {"a SYN on several queues opens one connection",
         a_syn_on_several_queues_opens_one_connection},
        {"moved flows live on", moved_flows_live_on},
        {"moved flows live on over a bad wire", moved_flows_live_on_over_a_bad_wire},
        {"a dead owner's flow waits", a_dead_owners_flow_waits},
        {"a full lane drops and counts", a_full_lane_drops_and_counts},
        {"stale entries heal", stale_entries_heal},
        {"a stale entry is answered by its owner", a_stale_entry_is_answered_by_its_owner},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
