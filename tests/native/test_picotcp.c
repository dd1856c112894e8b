/*
 * picoTCP behind the seam: our stack as the client of picoTCP's instances over mem:, on virtual
 * time. Skipped where make picotcp has not been run.
 */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "check.h"
#include "engine_picotcp/picotcp.h"
#include "sim.h"

enum {
    CONNS_MAX = 2048,
};

/* What a client's connection has sent and verified. Indexed by connection. */
struct talk {
    uint64_t total; /* bytes to send; 0: only listens */
    uint64_t sent[CONNS_MAX];
    uint64_t received[CONNS_MAX];
    uint64_t wrong;
    uint32_t done;
    uint32_t closed[8]; /* by reason */
};

static struct talk talk;
static bool available;

static uint8_t pattern(uint32_t conn, uint64_t offset)
{
    uint64_t state = 42 ^ ((uint64_t)conn << 40) ^ (offset / 8);

    return (uint8_t)(splitmix64(&state) >> (offset % 8 * 8));
}

static bool talk_step(struct stack *stack, uint32_t conn)
{
    uint8_t piece[1000];
    const uint8_t *bytes;
    uint32_t len;

    while ((bytes = socket_peek(stack, conn, &len)) != NULL) {
        for (uint32_t i = 0; i < len; i++) {
            talk.wrong += bytes[i] != pattern(conn, talk.received[conn] + i);
        }
        talk.received[conn] += len;
        socket_consume(stack, conn, len);
    }
    while (talk.sent[conn] < talk.total) {
        len = (uint32_t)(talk.total - talk.sent[conn] < sizeof(piece) ? talk.total - talk.sent[conn]
                                                                      : sizeof(piece));
        for (uint32_t i = 0; i < len; i++) {
            piece[i] = pattern(conn, talk.sent[conn] + i);
        }
        bytes = piece;
        talk.sent[conn] += socket_write(stack, conn, bytes, len);
        if (socket_writable(stack, conn) == 0) {
            return false;
        }
    }
    socket_shutdown(stack, conn);
    return false;
}

static void talk_closed(struct stack *stack, uint32_t conn, enum close_reason reason)
{
    (void)stack;
    talk.closed[reason]++;
    talk.done += talk.received[conn] == talk.total;
}

static const struct service talk_service = {
    .name = "talk", .step = talk_step, .closed = talk_closed};
static const struct service *const talk_table[] = {&talk_service, NULL};

static bool skipped(void)
{
    if (!available) {
        check_skip("no picoTCP here: make picotcp");
    }
    return !available;
}

static void connect_all(struct sim *sim, uint32_t conns, uint64_t bytes, uint16_t first_port)
{
    memset(&talk, 0, sizeof(talk));
    talk.total = bytes;
    sim_client_service(sim, 0, talk_table, NULL);
    for (uint32_t i = 0; i < conns; i++) {
        CHECK(sim_connect(sim, 0, (uint16_t)(first_port + i), 7) != CONN_NONE);
    }
}

/* `conns` connections echo `bytes` each, byte-exact. */
static void converse(struct sim *sim, uint32_t conns, uint64_t bytes, uint64_t limit_us)
{
    connect_all(sim, conns, bytes, 20000);
    for (uint64_t end = sim->now_us + limit_us; sim->now_us < end && talk.done < conns;) {
        sim_step(sim);
    }
    CHECK_EQ(talk.wrong, 0);
    CHECK_EQ(talk.done, conns);
    CHECK_EQ(talk.closed[CLOSE_DONE], conns);
    if (talk.done != conns) {
        sim_print(sim);
    }
}

static void every_shard_has_an_instance_and_carries_its_share(void)
{
    struct sim sim;

    if (skipped()) {
        return;
    }
    sim_open(&sim, &(struct sim_options){.shards = 2, .clients = 1, .seed = 1});
    CHECK(picotcp_of(&sim.worker[0].stack)->api != picotcp_of(&sim.worker[1].stack)->api);
    converse(&sim, 16, 500000, 60000000);
    CHECK(sim.worker[0].stack.stats->counter[COUNTER_conns_accepted] > 0);
    CHECK(sim.worker[1].stack.stats->counter[COUNTER_conns_accepted] > 0);
    sim_run(&sim, 5000000);
    CHECK_EQ(sim.worker[0].stack.shared->conns_active, 0);
    sim_check_laws(&sim);
    sim_close(&sim);
}

static void five_hundred_connections_do_not_mix(void)
{
    struct sim sim;

    if (skipped()) {
        return;
    }
    sim_open(&sim, &(struct sim_options){
                       .shards = 2, .clients = 1, .conns = 512, .chunks = 8192, .seed = 1});
    converse(&sim, 500, 3000, 60000000);
    sim_run(&sim, 8000000);
    sim_check_laws(&sim);
    sim_close(&sim);
}

static void a_bad_wire_changes_no_byte(void)
{
    if (skipped()) {
        return;
    }
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct sim sim;

        sim_open(&sim, &(struct sim_options){.shards = 2,
                                             .clients = 1,
                                             .seed = seed,
                                             .faults = "drop=5%,reorder=5%,dup=2%,corrupt=0.1%"});
        connect_all(&sim, 16, 100000, 20000);
        for (uint64_t end = sim.now_us + 600000000; sim.now_us < end && talk.done < 16;) {
            sim_step(&sim);
        }
        CHECK_EQ(talk.wrong, 0);
        CHECK_EQ(talk.done, 16);
        sim_run(&sim, 100000000);
        sim_check_laws(&sim);
        sim_close(&sim);
    }
}

static void a_dead_worker_loses_its_own_connections_only(void)
{
    struct sim sim;
    uint64_t before;

    if (skipped()) {
        return;
    }
    sim_open(&sim, &(struct sim_options){.shards = 2, .clients = 1, .seed = 3});
    connect_all(&sim, 16, 3000000, 20000);
    while (sim.worker[0].stack.stats->counter[COUNTER_service_bytes_out] < 1000000 &&
           sim.now_us < 10000000) {
        sim_step(&sim);
    }
    before = sim.worker[0].stack.shared->conns_active;
    CHECK(before > 0 && before < 16);
    sim_restart_shard(&sim, 0);
    CHECK_EQ(sim.worker[0].stack.stats->counter[COUNTER_conns_dropped], before);
    CHECK_EQ(sim.worker[0].stack.shared->conns_active, 0);
    for (uint64_t end = sim.now_us + 60000000; sim.now_us < end && talk.done < 16 - before;) {
        sim_step(&sim);
    }
    sim_run(&sim, 5000000);
    CHECK_EQ(talk.wrong, 0);
    CHECK_EQ(talk.done, 16 - before);
    CHECK_EQ(talk.closed[CLOSE_RESET], before);
    converse(&sim, 16, 100000, 60000000); /* the successor serves */
    sim_run(&sim, 5000000);
    sim_check_laws(&sim);
    sim_close(&sim);
}

static void every_instance_gets_every_arp_frame(void)
{
    struct sim sim;

    if (skipped()) {
        return;
    }
    sim_open(&sim, &(struct sim_options){.shards = 4, .clients = 1, .conns = 64, .seed = 1});
    connect_all(&sim, 32, 1000, 20000);
    sim_run(&sim, 5000000);
    CHECK_EQ(talk.done, 32);
    for (uint32_t i = 0; i < 4; i++) {
        const struct stats_page *stats = sim.worker[i].stack.stats;

        CHECK(stats->verdict[VERDICT_arp_reply_sent] + stats->verdict[VERDICT_arp_learned] > 0);
        CHECK_EQ(picotcp_of(&sim.worker[i].stack)->neighbours_n, 1);
    }
    sim_check_laws(&sim);
    sim_close(&sim);
}

static uint64_t too_much(void)
{
    return (uint64_t)PICOTCP_MEMORY_MAX + 1;
}

static void no_connection_beyond_its_memory(void)
{
    struct picotcp_api api;
    struct picotcp *engine;
    struct sim sim;

    if (skipped()) {
        return;
    }
    sim_open(&sim, &(struct sim_options){.shards = 1, .clients = 1, .conns = 64, .seed = 1});
    connect_all(&sim, 4, 1000, 1000);
    sim_run(&sim, 3000000);
    engine = picotcp_of(&sim.worker[0].stack);
    CHECK_EQ(sim.worker[0].stack.stats->counter[COUNTER_conns_accepted], 4);
    api = *engine->api;
    api.memory = too_much;
    engine->api = &api;
    sim_connect(&sim, 0, 5000, 7);
    sim_run(&sim, 3000000);
    CHECK_EQ(sim.worker[0].stack.stats->counter[COUNTER_conns_accepted], 4);
    CHECK(sim.worker[0].stack.stats->verdict[VERDICT_tcp_table_full] > 0);
    engine->api = engine->library.api; /* the SYN comes again, and is taken */
    sim_run(&sim, 8000000);
    CHECK_EQ(sim.worker[0].stack.stats->counter[COUNTER_conns_accepted], 5);
    sim_check_laws(&sim);
    sim_close(&sim);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"every shard has an instance and carries its share",
         every_shard_has_an_instance_and_carries_its_share},
        {"five hundred connections do not mix", five_hundred_connections_do_not_mix},
        {"a bad wire changes no byte", a_bad_wire_changes_no_byte},
        {"a dead worker loses its own connections only",
         a_dead_worker_loses_its_own_connections_only},
        {"every instance gets every ARP frame", every_instance_gets_every_arp_frame},
        {"no connection beyond its memory", no_connection_beyond_its_memory},
    };
    struct picotcp_library library;
    char why[256];

    setenv("SIM_ENGINE", engine_picotcp.name, 1);
    available = picotcp_library_open(&library, why, sizeof(why)) == 0;
    picotcp_library_close(&library);
    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
