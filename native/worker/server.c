/* Arenas and shared mappings of a server; see server.h. */
#include "worker/server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "service/service.h"
#include "stack/directory.h"
#include "stack/lane.h"
#include "stack/neighbour.h"

enum {
    NEIGHBOURS_MAX = 1024,
    LANE_BYTES = 512 * 1024,
    SLEEPING_BYTES = STACK_SHARDS_MAX * CACHE_LINE,
};

static size_t lines(size_t bytes)
{
    return (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

static uint32_t directory_entries(const struct stack_config *config)
{
    return config->conns_max * config->shards;
}

static int map_shared(struct server *server)
{
    const struct stack_config *config = &server->config;
    struct cluster *cluster = &server->cluster;
    size_t directory = lines(directory_bytes(directory_entries(config)));
    size_t neighbours = lines(neighbour_bytes(NEIGHBOURS_MAX));
    size_t lanes = lines(lanes_bytes(config->shards, LANE_BYTES));
    uint8_t *at;

    server->shared_bytes = directory + neighbours + lanes + SLEEPING_BYTES;
    at = arena_shared_map("shardserver-shared", server->shared_bytes);
    if (!at) {
        return -errno;
    }
    server->shared = at;
    cluster->directory = directory_init(at, directory_entries(config));
    cluster->neighbours = neighbour_init(at + directory, NEIGHBOURS_MAX);
    cluster->lanes = lanes_init(at + directory + neighbours, config->shards, LANE_BYTES);
    cluster->sleeping = (_Atomic uint32_t *)(void *)(at + directory + neighbours + lanes);
    return 0;
}

static int make_secrets(struct cluster *cluster, const uint64_t secret[2])
{
    if (getrandom(cluster->flow_key, sizeof(cluster->flow_key), 0) < 0 ||
        getrandom(cluster->isn_key, sizeof(cluster->isn_key), 0) < 0) {
        return -errno;
    }
    if (secret[0] || secret[1]) {
        cluster->isn_key[0] = secret[0];
        cluster->isn_key[1] = secret[1];
    }
    cluster->start_us = worker_clock_us();
    return 0;
}

static int make_doorbells(struct server *server)
{
    for (uint32_t i = 0; i < server->config.shards; i++) {
        int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

        if (fd < 0) {
            return -errno;
        }
        server->cluster.doorbell[i] = fd;
    }
    return 0;
}

static int make_arenas(struct server *server)
{
    size_t bytes = stack_arena_bytes(&server->config);

    for (uint32_t i = 0; i < server->config.shards; i++) {
        int error = arena_create(&server->arenas[i], bytes, i);

        if (error != 0) {
            return error;
        }
    }
    return 0;
}

static int make_stats(struct server *server)
{
    server->stats_bytes = server->config.shards * sizeof(struct stats_page);
    server->stats = arena_shared_map("shardserver-stats", server->stats_bytes);
    return server->stats ? 0 : -errno;
}

static int build(struct server *server, const uint64_t secret[2], char *error)
{
    const char *what = "statistics pages";
    int code = make_stats(server);

    if (code == 0) {
        what = "shared tables";
        code = map_shared(server);
    }
    if (code == 0) {
        what = "wake-up descriptors";
        code = make_doorbells(server);
    }
    if (code == 0) {
        what = "secrets";
        code = make_secrets(&server->cluster, secret);
    }
    if (code == 0) {
        what = "arenas";
        code = make_arenas(server);
    }
    if (code != 0) {
        snprintf(error, PORT_ERROR_MAX, "%s: cannot make %s for %u shards (%s): %s",
                 server->device->name, what, server->config.shards, strerror(-code),
                 code == -EMFILE ? "raise the limit of open files, ulimit -n"
                                 : "lower --conns-max or --chunks-max");
    }
    return code;
}

int server_create(struct server **out, struct device *device, const struct stack_config *config,
                  const uint64_t secret[2], char *error)
{
    struct server *server = calloc(1, sizeof(*server));
    int code;

    if (!server) {
        snprintf(error, PORT_ERROR_MAX, "%s: out of memory", device->name);
        return -ENOMEM;
    }
    server->config = *config;
    server->device = device;
    server->library.fd = -1;
    for (uint32_t i = 0; i < STACK_SHARDS_MAX; i++) {
        server->cluster.doorbell[i] = -1;
        server->arenas[i].fd = -1;
    }
    code = build(server, secret, error);
    if (code != 0) {
        server_destroy(server);
        return code;
    }
    *out = server;
    return 0;
}

void server_destroy(struct server *server)
{
    if (server->worker) {
        stack_detach(&server->worker->stack);
        free(server->worker);
    }
    picotcp_library_close(&server->library);
    for (uint32_t i = 0; i < STACK_SHARDS_MAX; i++) {
        if (server->arenas[i].base) {
            arena_destroy(&server->arenas[i]);
        }
        if (server->cluster.doorbell[i] >= 0) {
            close(server->cluster.doorbell[i]);
        }
    }
    if (server->shared) {
        munmap(server->shared, server->shared_bytes);
    }
    if (server->stats) {
        munmap(server->stats, server->stats_bytes);
    }
    free(server);
}

void server_worker_init(struct server *server, uint32_t shard, struct worker *worker)
{
    *worker = (struct worker){.spin_us = server->spin_us};
    worker->stack =
        (struct stack){.config = &server->config,
                       .cluster = &server->cluster,
                       .port = &server->device->ports[shard],
                       .stats = &server->stats[shard],
                       .arena = server->arenas[shard],
                       .services = service_table,
                       .engine = server->engine,
                       .engine_library = server->library.handle ? &server->library : NULL,
                       .shard = shard};
}

/* Rung unasked: whether a worker is about to sleep on what it saw before cannot be known here. */
void server_wake(const struct server *server)
{
    static const uint64_t one = 1;

    for (uint32_t i = 0; i < server->config.shards; i++) {
        if (write(server->cluster.doorbell[i], &one, sizeof(one)) < 0) {
            ENSURE(errno == EAGAIN); /* rung more often than it can count: awake it will be */
        }
    }
}

int server_adopt(struct server *server, uint32_t shard, uint32_t *adopted, uint32_t *dropped)
{
    struct worker *worker = calloc(1, sizeof(*worker));
    int error;

    if (!worker) {
        return -ENOMEM;
    }
    server_worker_init(server, shard, worker);
    error = worker_adopt(worker, worker_clock_us(), adopted, dropped);
    if (error != 0) {
        stack_detach(&worker->stack);
        free(worker);
        return error;
    }
    server->worker = worker;
    return 0;
}
