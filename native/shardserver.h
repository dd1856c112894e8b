/*
 * All that Python sees of the C core. Read by the compiler and by cffi alike: no macros, plain C
 * structs of fixed-width fields, opaque handles. Every argument is checked in api.c, every return
 * code in shardserver/native.py. Functions that can fail return 0 or -errno and write one sentence
 * (object, cause, next step) into `error`, which holds SS_ERROR_MAX bytes.
 */
#pragma once
#include <stdint.h>

enum ss_limit {
    SS_ABI_VERSION = 1,
    SS_ERROR_MAX = 256,
    SS_NAME_MAX = 64,
    SS_SHARDS_MAX = 64,
    SS_SERVICES_MAX = 16,
    SS_STATS_MAX = 64,
};

/* What a shard's worker is doing; the word stands in its statistics page. */
enum ss_shard_state {
    SS_SHARD_DOWN = 0,
    SS_SHARD_STARTING = 1,
    SS_SHARD_ADOPTING = 2,
    SS_SHARD_RUNNING = 3,
    SS_SHARD_DRAINING = 4,
    SS_SHARD_STOPPED = 5,
};

struct ss_device;
struct ss_server;

struct ss_layout_entry {
    char name[40]; /* "ss_server_options.mtu" */
    uint32_t offset;
    uint32_t size;
};

/* Zero means the backend's default. */
struct ss_device_options {
    uint32_t rings;
    uint32_t slots;
    uint32_t buf_size;
    uint32_t links; /* mem: client attachments at most */
    uint32_t mtu;
    uint8_t mac[6];
    uint8_t pad[6];
    uint64_t seed;
    char faults[128]; /* "drop=5%,dup=2%,reorder=5%,corrupt=0.1%,delay=1ms", "rx." or "tx." before a
                         key */
};

struct ss_device_info {
    char name[64];
    char backend[16];
    char banner[256];
    uint32_t rings;
    uint32_t mtu;
    uint8_t mac[6];
    uint8_t pad[2];
    int32_t event_fd; /* poll for POLLIN, then ss_device_event(); -1: none */
};

struct ss_service_options {
    char name[16]; /* echo, discard, chargen, daytime, http */
    uint32_t tcp_port;
    uint32_t pad;
};

/* Addresses are IPv4 in host order. Zero means the default. */
struct ss_server_options {
    uint32_t shards;
    uint32_t ip;
    uint32_t prefix; /* bits */
    uint32_t gateway;
    uint8_t mac[6]; /* zero: the device's */
    uint8_t pad[2];
    uint32_t mtu;
    uint32_t conns_max;   /* per shard */
    uint32_t actives_max; /* per shard: connections with data in flight or queued */
    uint32_t chunks_max;  /* per shard: payload buffers of 2 KiB */
    uint32_t rcv_buf;     /* bytes a connection may have unread */
    uint32_t snd_buf;
    uint32_t backlog_max;
    uint32_t rto_min_us;
    uint32_t delack_us;
    uint32_t time_wait_us;
    uint32_t retries_max;
    uint32_t nagle;   /* 1: RFC 9293 Nagle on; the default is off (NODELAY) */
    uint32_t spin_us; /* how long an idle worker polls before it sleeps */
    uint32_t services_n;
    struct ss_service_options services[16];
    uint64_t secret[2]; /* zero: drawn from the kernel */
    char engine[16];    /* "": native; or picotcp */
};

struct ss_adoption {
    uint32_t adopted;      /* connections that live on */
    uint32_t dropped;      /* found inconsistent, dropped alone */
    uint32_t undone_lines; /* of a transaction cut short */
    uint32_t generation;   /* 1: the first worker of this arena */
    uint64_t took_us;
};

/* A copy of a shard's words at one instant. Index by ss_verdict_name and ss_counter_name. */
struct ss_shard_stats {
    uint64_t verdict[64];
    uint64_t counter[64];
    uint64_t rx_frames;
    uint64_t rx_bytes;
    uint64_t rx_syncs;
    uint64_t rx_missed;
    uint64_t tx_frames;
    uint64_t tx_bytes;
    uint64_t tx_syncs;
    uint64_t tx_dropped;
    uint64_t syscalls;
    uint64_t ring_errors;
    uint64_t heartbeat;
    uint64_t heartbeat_us;
    uint64_t adopted_us;
    uint32_t state; /* enum ss_shard_state */
    uint32_t phase; /* last words: see ss_phase_name */
};

uint32_t ss_abi_version(void);
/* Sizes and offsets as the compiler laid them out; returns how many, at most `max` are written. */
uint32_t ss_layout(struct ss_layout_entry *entries, uint32_t max);

/* Orchestrator, before the fork. Spec: "mem:NAME", "packet:IFACE". */
int32_t ss_device_open(struct ss_device **out, const char *spec,
                       const struct ss_device_options *options, char *error);
int32_t ss_device_describe(const struct ss_device *device, struct ss_device_info *info);
/* Serves attach and hang-up of mem: clients; call when event_fd is readable. */
int32_t ss_device_event(struct ss_device *device);
/* Buffers of a mem: device that are in no or in two places (0 is right); -ENOTSUP elsewhere. */
int32_t ss_device_audit(struct ss_device *device);
void ss_device_close(struct ss_device *device);

/* Maps every arena, the directory, lanes and statistics; the device stays the caller's. */
int32_t ss_server_create(struct ss_server **out, struct ss_device *device,
                         const struct ss_server_options *options, char *error);
/* The engine with its version: "native", "picoTCP 1.7 (picotcp-sys 0.2.1)". */
const char *ss_server_engine(const struct ss_server *server);
/* Connections that a shard may hold, after the engine's own limit. */
uint32_t ss_server_conns_max(const struct ss_server *server);
void ss_server_destroy(struct ss_server *server);

/* Worker, after the fork: rolls back what its predecessor left unfinished and takes the arena over.
 */
int32_t ss_worker_adopt(struct ss_server *server, uint32_t shard, struct ss_adoption *adoption,
                        char *error);
/* Closes this process's descriptors of the other rings. */
int32_t ss_worker_keep_only(struct ss_server *server, uint32_t shard);
/* Turns of the worker loop for `for_us` microseconds, sleeping when idle. 0 or -errno: port dead.
 */
int32_t ss_worker_run(struct ss_server *server, uint32_t shard, uint64_t for_us);
/* 1: no new connections from now on; 0: again. */
int32_t ss_worker_drain(struct ss_server *server, uint32_t shard, uint32_t on);
/* Resets every connection that is left (end of a drain). Returns how many. */
int32_t ss_worker_abort_all(struct ss_server *server, uint32_t shard);
/* seccomp filter for a warm worker: no new files, sockets, processes. 0 or -errno. */
int32_t ss_worker_confine(void);
/* SIGKILL for this process when its parent ends. A change of uid takes it back. */
int32_t ss_die_with_parent(void);

/* Any process that inherited the server, at any time, also when the worker is hung or dead. */
int32_t ss_stats_read(const struct ss_server *server, uint32_t shard, struct ss_shard_stats *stats);
int32_t ss_stats_set_state(struct ss_server *server, uint32_t shard, uint32_t state);
/* NULL beyond the last. */
const char *ss_verdict_name(uint32_t index);
const char *ss_verdict_text(uint32_t index);
const char *ss_counter_name(uint32_t index);
const char *ss_counter_text(uint32_t index);
const char *ss_phase_name(uint32_t phase);
const char *ss_service_name(uint32_t index);
const char *ss_backend_name(uint32_t index);

/* The load client: every byte is derived from (seed, connection, offset) and checked. */
struct ss_load_options {
    char device[64]; /* mem: name without the prefix; "": kernel sockets */
    uint32_t ip;     /* target, host order */
    uint32_t tcp_port;
    uint32_t source_ip; /* first source address; 0: any (kernel), 10.77.x.1 of the link (mem:) */
    uint32_t source_n;  /* kernel: consecutive source addresses to spread over */
    uint32_t connections;
    uint32_t first_id; /* of the first connection: its pattern's name */
    uint32_t size;     /* bytes a message */
    uint32_t pipeline; /* messages in flight per connection */
    uint64_t seed;
    uint64_t duration_us;
    uint64_t messages;   /* per connection; 0: until the duration is over */
    uint64_t timeout_us; /* a connection silent for so long is counted and given up */
    uint32_t ramp;       /* connects in flight at most */
    uint32_t spin_us;
    uint32_t hold; /* 1: connect, then wait for `go` before the first message */
    uint32_t pad;
    char faults[128]; /* mem: on the client's side of the wire */
};

/* Aligned words in shared memory; the client is the one writer, but for `stop` and `go`. */
struct ss_load_stats {
    uint64_t connected; /* connections opened so far */
    uint64_t active;    /* open now (gauge) */
    uint64_t finished;  /* ended in order, everything verified */
    uint64_t messages;
    uint64_t bytes; /* echoed and compared */
    uint64_t mismatched_bytes;
    uint64_t resets;
    uint64_t timeouts;
    uint64_t refused;
    uint64_t started_us;     /* CLOCK_MONOTONIC: first message */
    uint64_t ended_us;       /* last message */
    uint64_t largest_gap_us; /* longest time without any reply while messages were in flight */
    uint64_t stop;
    uint64_t go;
    uint64_t latency[4096]; /* buckets: ss_latency_quantile */
};

/* Shared memory for one client's statistics; NULL: out of memory. */
struct ss_load_stats *ss_load_stats_map(void);
void ss_load_stats_unmap(struct ss_load_stats *stats);
/* Runs to its end. 0 or -errno with a sentence; errors of single connections are counted only. */
int32_t ss_load_run(const struct ss_load_options *options, struct ss_load_stats *stats,
                    char *error);
void ss_load_merge(struct ss_load_stats *into, const struct ss_load_stats *from);
/* Nanoseconds below which the fraction q of all samples lies (0 without samples). */
uint64_t ss_latency_quantile(const struct ss_load_stats *stats, double q);
