/*
 * A server: a device, its shards' arenas, statistics pages, and what the shards share. Made by the
 * orchestrator before it forks; every worker inherits it at the same addresses.
 */
#pragma once
#include "engine_picotcp/loader.h"
#include "worker/worker.h"

struct server {
    struct stack_config config;
    struct cluster cluster;
    struct device *device;
    uint32_t spin_us;
    const struct engine_ops *engine; /* NULL: native */
    struct picotcp_library library;  /* each worker inherits it untouched */
    struct stats_page *stats;        /* one per shard */
    size_t stats_bytes;
    void *shared; /* directory, neighbours, lanes, sleeping words */
    size_t shared_bytes;
    struct arena arenas[STACK_SHARDS_MAX];
    struct worker *worker; /* the shard this process runs, once it has adopted */
};

/* 0 or -errno with a sentence in error[PORT_ERROR_MAX]; on failure nothing is left. */
int server_create(struct server **out, struct device *device, const struct stack_config *config,
                  const uint64_t secret[2], char *error);
void server_destroy(struct server *server);
/* A worker of the shard that has not adopted it yet. */
void server_worker_init(struct server *server, uint32_t shard, struct worker *worker);
/* Every worker has a turn at once, also one that sleeps: something happened outside its rings. */
void server_wake(const struct server *server);
int server_adopt(struct server *server, uint32_t shard, uint32_t *adopted, uint32_t *dropped);
