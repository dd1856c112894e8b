/* A cluster in one process on virtual time; see sim.h. */
#include "sim.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "check.h"
#include "engine_picotcp/picotcp.h"
#include "ports/mem.h"
#include "service/service.h"
#include "worker/rx.h"

static const uint32_t server_ip = 0x0a4d0001; /* 10.77.0.1 */

static void must(int code, const char *what, const char *error)
{
    if (code != 0) {
        printf("sim: %s: %s (%d)\n", what, error, code);
        exit(2);
    }
}

static struct stack_config base_config(const struct sim_options *options)
{
    uint32_t buffers = options->buffers ? options->buffers : 65536;
    struct stack_config config = {
        .netmask = htonl(0xffffff00),
        .mtu = 1500,
        .conns_max = options->conns ? options->conns : 256,
        .chunks_max = options->chunks ? options->chunks : 2048,
        .rcv_buf = buffers,
        .snd_buf = buffers,
        .backlog_max = 1024,
        .rto_min_us = 200000,
        .rto_initial_us = 1000000,
        .delack_us = 40000,
        .time_wait_us = 1000000,
        .retries_max = 15,
        .nodelay = 1,
    };

    config.actives_max = config.conns_max;
    return config;
}

static void open_server(struct sim *sim, const struct sim_options *options)
{
    static uint32_t opened; /* two clusters may run side by side, alike but for the name */
    struct device_config device = {.rings = options->shards,
                                   .links = options->links ? options->links : SIM_CLIENTS_MAX,
                                   .slots = options->slots,
                                   .seed = options->seed + 100,
                                   .mac = {0x02, 0, 0, 0, 0, 0xfe}};
    struct stack_config config = base_config(options);
    uint64_t secret[2] = {options->seed + 1, 2};
    const char *engine = getenv("SIM_ENGINE");
    char name[64];
    char error[PORT_ERROR_MAX] = "";

    snprintf(name, sizeof(name), "mem:sim-%d-%u", getpid(), opened++);
    snprintf(device.faults, sizeof(device.faults), "%s",
             options->device_faults ? options->device_faults : "");
    must(device_open(&sim->device, name, &device, error), "device", error);
    config.ip = htonl(server_ip);
    config.shards = options->shards;
    memcpy(config.mac, sim->device->mac, 6);
    for (uint8_t i = 0; service_table[i]; i++) {
        config.listeners[i] = (struct listener){htons(service_table[i]->default_port), i, 0};
        config.listeners_n = (uint8_t)(i + 1);
    }
    must(server_create(&sim->server, sim->device, &config, secret, error), "server", error);
    memcpy(sim->server->cluster.flow_key, secret, sizeof(secret)); /* two runs are the same */
    if (options->picotcp || (engine && strcmp(engine, engine_picotcp.name) == 0)) {
        sim->server->engine = &engine_picotcp;
    }
    for (uint32_t i = 0; i < options->shards; i++) {
        sim_restart_shard(sim, i);
    }
}

static void open_client(struct sim *sim, uint32_t index, const struct sim_options *options)
{
    struct sim_client *client = &sim->client[index];
    uint64_t secret[2] = {options->seed + index + 7, 3};
    char error[PORT_ERROR_MAX] = "";
    uint32_t adopted;

    must(mem_attach_local(&client->attachment, sim->device), "attach", "no link");
    client->port = *mem_attachment_port(client->attachment);
    if (options->faults) {
        must(faulty_wrap(&client->port, options->faults, options->seed + index, error), "faults",
             error);
    }
    client->config = base_config(options);
    client->config.ip = htonl(server_ip + 1 + index);
    client->config.shards = 1;
    memcpy(client->config.mac, mem_attachment_mac(client->attachment, false), 6);
    client->device = (struct device){.rings = 1, .name = "client"};
    client->device.ports[0] = client->port;
    must(server_create(&client->server, &client->device, &client->config, secret, error), "client",
         error);
    memcpy(client->server->cluster.flow_key, secret, sizeof(secret));
    server_worker_init(client->server, 0, &client->worker);
    must(worker_adopt(&client->worker, sim->now_us, &adopted, &adopted), "adopt", error);
}

void sim_open(struct sim *sim, const struct sim_options *options)
{
    memset(sim, 0, sizeof(*sim));
    sim->now_us = 1000000;
    sim->shards = options->shards;
    sim->clients = options->clients;
    open_server(sim, options);
    sim->server->cluster.start_us = 0;
    for (uint32_t i = 0; i < options->clients; i++) {
        open_client(sim, i, options);
        sim->client[i].server->cluster.start_us = 0;
    }
}

void sim_close(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->clients; i++) {
        stack_detach(&sim->client[i].worker.stack);
        server_destroy(sim->client[i].server);
        faulty_unwrap(&sim->client[i].port);
        mem_detach(sim->client[i].attachment);
    }
    for (uint32_t i = 0; i < sim->shards; i++) {
        stack_detach(&sim->worker[i].stack);
    }
    server_destroy(sim->server);
    device_close(sim->device);
}

void sim_step(struct sim *sim)
{
    if (sim->before_step) {
        sim->before_step(sim);
    }
    for (uint32_t i = 0; i < sim->clients; i++) {
        CHECK(worker_turn(&sim->client[i].worker, sim->now_us) >= 0);
    }
    for (uint32_t i = 0; i < sim->shards; i++) {
        if (sim->alive[i]) {
            CHECK(worker_turn(&sim->worker[i], sim->now_us) >= 0);
        }
    }
    sim->now_us += SIM_STEP_US;
}

void sim_run(struct sim *sim, uint64_t us)
{
    for (uint64_t end = sim->now_us + us; sim->now_us < end;) {
        sim_step(sim);
    }
}

void sim_client_service(struct sim *sim, uint32_t client, const struct service *const *table,
                        void *data)
{
    sim->client[client].worker.stack.services = table;
    sim->client[client].worker.stack.service_data = data;
}

uint32_t sim_connect(struct sim *sim, uint32_t client, uint16_t from_port, uint16_t to_port)
{
    struct stack *stack = &sim->client[client].worker.stack;
    struct tuple tuple = {.laddr = stack->config->ip,
                          .raddr = htonl(server_ip),
                          .lport = htons(from_port),
                          .rport = htons(to_port)};
    uint32_t conn;

    stack->now_us = sim->now_us;
    conn = socket_connect(stack, &tuple, 0);
    stack_commit(stack);
    return conn;
}

void sim_direct(struct sim *sim, uint32_t ring)
{
    struct mem_device *mem = sim->device->priv;

    memset(mem->shared->rss.table, (int)ring, sizeof(mem->shared->rss.table));
}

void sim_stop_shard(struct sim *sim, uint32_t shard)
{
    sim->alive[shard] = false;
}

void sim_restart_shard(struct sim *sim, uint32_t shard)
{
    uint32_t adopted;
    uint32_t dropped;

    stack_detach(&sim->worker[shard].stack);
    server_worker_init(sim->server, shard, &sim->worker[shard]);
    must(worker_adopt(&sim->worker[shard], sim->now_us, &adopted, &dropped), "adopt", "");
    sim->alive[shard] = true;
}

static void print_stack(const char *who, uint32_t index, const struct stack *stack)
{
    printf("    %s %u: ring rx %llu tx %llu dropped %llu;", who, index,
           (unsigned long long)stack->port->counters->rx_frames,
           (unsigned long long)stack->port->counters->tx_frames,
           (unsigned long long)stack->port->counters->tx_dropped);
    for (unsigned v = 0; v < VERDICT_COUNT; v++) {
        if (stack->stats->verdict[v]) {
            printf(" %s %llu", stats_verdict_name(v), (unsigned long long)stack->stats->verdict[v]);
        }
    }
    for (unsigned c = 0; c < COUNTER_COUNT; c++) {
        if (stack->stats->counter[c]) {
            printf(" %s %llu", stats_counter_name(c), (unsigned long long)stack->stats->counter[c]);
        }
    }
    printf("\n");
}

void sim_print(const struct sim *sim)
{
    for (uint32_t i = 0; i < sim->shards; i++) {
        print_stack("shard", i, &sim->worker[i].stack);
    }
    for (uint32_t i = 0; i < sim->clients; i++) {
        print_stack("client", i, &sim->client[i].worker.stack);
    }
}

static void check_books(const struct stack *stack)
{
    uint64_t seen = stack->port->counters->rx_frames + stack->stats->counter[COUNTER_steered_in];

    CHECK_EQ(seen, stats_verdict_sum(stack->stats) + rx_pending(stack));
}

static void check_pools(const struct stack *stack)
{
    const struct stack_shared *shared = stack->shared;
    uint32_t live = stack->config->conns_max - shared->conn_free_n;

    CHECK_EQ(live, shared->conns_active);
    if (live == 0) {
        CHECK_EQ(shared->active_free_n, stack->config->actives_max);
        CHECK_EQ(shared->chunk_free_n, stack->config->chunks_max);
        CHECK_EQ(shared->syn_rcvd, 0);
        CHECK_EQ(shared->time_wait, 0);
        CHECK_EQ(shared->wheel.queued, 0);
    }
    CHECK_EQ(stack->arena.undo->count, 0);
}

void sim_check_stacks(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->shards; i++) {
        check_books(&sim->worker[i].stack);
        check_pools(&sim->worker[i].stack);
    }
    for (uint32_t i = 0; i < sim->clients; i++) {
        check_books(&sim->client[i].worker.stack);
        check_pools(&sim->client[i].worker.stack);
    }
}

void sim_check_laws(struct sim *sim)
{
    CHECK_EQ(device_audit(sim->device), 0);
    sim_check_stacks(sim);
}
