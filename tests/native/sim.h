/*
 * A whole cluster in one process on virtual time: a mem: device, its shards, and client stacks on
 * its links. Nothing sleeps, nothing is random but by the seed.
 */
#pragma once
#include "stack/socket.h"
#include "worker/server.h"

enum {
    SIM_CLIENTS_MAX = 4,
    SIM_STEP_US = 50,
};

struct sim_options {
    uint32_t shards;
    uint32_t clients;
    uint32_t conns;
    uint32_t chunks;
    uint32_t buffers;          /* rcv_buf and snd_buf; 0: 64 KiB */
    uint32_t links;            /* of the device; 0: SIM_CLIENTS_MAX */
    uint32_t slots;            /* of its rings; 0: the default */
    const char *faults;        /* on each client's port */
    const char *device_faults; /* on each ring of the device */
    uint64_t seed;
    bool picotcp; /* the shards run picoTCP; so do all when SIM_ENGINE=picotcp is set */
};

struct sim_client {
    struct mem_attachment *attachment;
    struct port port;
    struct stack_config config;
    struct server *server; /* its arena and tables: one shard, on a device of its own port */
    struct device device;
    struct worker worker;
};

struct sim {
    struct device *device;
    struct server *server;
    struct worker worker[8];
    bool alive[8];
    struct sim_client client[SIM_CLIENTS_MAX];
    uint32_t shards;
    uint32_t clients;
    uint64_t now_us;
    void (*before_step)(struct sim *sim); /* a test's own; NULL: none */
};

/* Aborts the test program when something cannot be made. */
void sim_open(struct sim *sim, const struct sim_options *options);
void sim_close(struct sim *sim);
/* One turn of everybody, then time moves. */
void sim_step(struct sim *sim);
void sim_run(struct sim *sim, uint64_t us);
/* A client stack's service table is this one entry. */
void sim_client_service(struct sim *sim, uint32_t client, const struct service *const *table,
                        void *data);
/* The ring that the device gives all flows to from now on, whatever it gave them to before. */
void sim_direct(struct sim *sim, uint32_t ring);
/* The shard's worker runs no more, as if killed between two turns; sim_restart_shard. */
void sim_stop_shard(struct sim *sim, uint32_t shard);
/* Opens a connection from a client to a TCP port; CONN_NONE: no room. */
uint32_t sim_connect(struct sim *sim, uint32_t client, uint16_t from_port, uint16_t to_port);
/* Forgets a shard's process-private state and adopts its arena anew, as after a kill. */
void sim_restart_shard(struct sim *sim, uint32_t shard);
/* Prints what is not zero, for a failing test. */
void sim_print(const struct sim *sim);
/* Only these laws: frames at the ring equal verdicts, pools equal what is in use. */
void sim_check_stacks(struct sim *sim);
/* The laws: buffers back where they belong, frames at the ring equal verdicts. Checks them. */
void sim_check_laws(struct sim *sim);
