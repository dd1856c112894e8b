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

/* Which frames of a card that we share with the host are ours. */
enum ss_take {
    SS_TAKE_ADDRESS = 0, /* to our address */
    SS_TAKE_PORTS = 1,   /* to our TCP ports at our address, which is the host's as well */
    SS_TAKE_ALL = 2,     /* all: the host gets none */
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
    uint32_t ip; /* whose frames are ours, host order; 0: everybody's */
    uint8_t mac[6];
    uint8_t pad[2];
    uint32_t take;          /* enum ss_take */
    uint16_t tcp_ports[16]; /* with SS_TAKE_PORTS; 0 ends them */
    uint64_t queues;        /* xdp: the card's queues that we take, a bit each; 0: all */
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
    uint16_t region;  /* devices of one number swap buffers by index; 0: shares none */
    int32_t event_fd; /* poll for POLLIN, then ss_device_event(); -1: none */
};

struct ss_service_options {
    char name[16]; /* echo, discard, chargen, daytime, http, sockperf */
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

/* An engine that is a library of its own. */
struct ss_engine_info {
    char path[1024];  /* where it was found; "": nowhere */
    char version[64]; /* as it calls itself; "": it cannot be loaded */
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
    uint64_t rx_ended; /* 1: the source, a capture file, was read to its end */
    uint64_t heartbeat;
    uint64_t heartbeat_us;
    uint64_t adopted_us;
    uint32_t state; /* enum ss_shard_state */
    uint32_t phase; /* last words: see ss_phase_name */
};

uint32_t ss_abi_version(void);
/* Sizes and offsets as the compiler laid them out; returns how many, at most `max` are written. */
uint32_t ss_layout(struct ss_layout_entry *entries, uint32_t max);

/* Orchestrator, before the fork. Spec: BACKEND:NAME, see ss_backend_name. */
int32_t ss_device_open(struct ss_device **out, const char *spec,
                       const struct ss_device_options *options, char *error);
int32_t ss_device_describe(const struct ss_device *device, struct ss_device_info *info);
/* Serves attach and hang-up of mem: clients, and replaces a process that fed a device of one queue,
 * which is 1; call when event_fd is readable. */
int32_t ss_device_event(struct ss_device *device);
/* Buffers of a mem: device that are in no or in two places (0 is right); -ENOTSUP elsewhere. */
int32_t ss_device_audit(struct ss_device *device);
/* In a child that serves no ring: closes this process's descriptors and mappings of all of them.
 * Statistics stay readable. */
int32_t ss_device_leave(struct ss_device *device);
void ss_device_close(struct ss_device *device);

/* Maps every arena, the directory, lanes and statistics; the device stays the caller's. */
int32_t ss_server_create(struct ss_server **out, struct ss_device *device,
                         const struct ss_server_options *options, char *error);
/* The engine with its version: "native", "picoTCP 1.7 (picotcp-sys 0.2.1)". */
const char *ss_server_engine(const struct ss_server *server);
/* Connections that a shard may hold, after the engine's own limit. */
uint32_t ss_server_conns_max(const struct ss_server *server);
/* Looks for an engine's library and loads it for a moment. 0; -ENOENT: not built, -ENODEV: found
 * and not loadable, -EINVAL: no library belongs to this engine; each with a sentence. */
int32_t ss_engine_find(struct ss_engine_info *info, const char *engine, char *error);
void ss_server_destroy(struct ss_server *server);
/* Every worker has a turn at once, also one that sleeps: for what its rings do not tell. */
int32_t ss_server_wake(struct ss_server *server);

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

/* What is known of a connection beyond its addresses and queues. */
enum ss_conn_knows {
    SS_CONN_TCP = 1,     /* the native engine's: mss to rcv_wnd; picoTCP keeps its own to itself */
    SS_CONN_SCALES = 2,  /* both sides sent a window scale */
    SS_CONN_ACTIVE = 4,  /* something is queued or in flight, or was a moment ago: cwnd to losses */
    SS_CONN_TIMER = 8,   /* timer to retries */
    SS_CONN_LOSSES = 16, /* a loss is being repaired (RFC 6582) */
};

enum ss_conn_timer {
    SS_CONN_RETRANSMIT = 0,
    SS_CONN_PERSIST = 1,
    SS_CONN_TIMEWAIT = 2, /* in FIN-WAIT-2 too: when it is given up */
    SS_CONN_TIMERS = 3,
};

/* A connection, or a service that listens. Words of four bytes; addresses and ports in host order.
 */
struct ss_conn {
    uint32_t state;   /* ss_conn_state_name */
    uint32_t service; /* ss_service_name */
    uint32_t laddr;
    uint32_t lport;
    uint32_t raddr;
    uint32_t rport;
    uint32_t recv_q; /* bytes that the service has not read; a listener: the shard's in SYN-RCVD */
    uint32_t send_q; /* bytes not yet acknowledged or sent; a listener: of those, how many may be */
    uint32_t knows;  /* enum ss_conn_knows */
    uint32_t timer;  /* enum ss_conn_timer */
    uint32_t timer_ms;
    uint32_t retries; /* time-outs in a row */
    uint32_t mss;
    uint32_t srtt_us; /* 0: no sample yet */
    uint32_t rttvar_us;
    uint32_t rto_us;
    uint32_t ssthresh; /* bytes; UINT32_MAX: no loss yet */
    uint32_t snd_wnd;
    uint32_t rcv_wnd;
    uint32_t snd_wscale;
    uint32_t rcv_wscale;
    uint32_t cwnd;    /* bytes */
    uint32_t unacked; /* sequence numbers in flight */
    uint32_t ooo;     /* bytes that came before those missing */
};

/* A part of a shard's list. */
struct ss_conns_part {
    uint32_t n;
    uint32_t next;     /* where the next part begins; 0: this was the last */
    uint32_t changing; /* left out: they changed each time they were looked at */
    uint32_t pad;
    struct ss_conn conn[512];
};

/* Any process that inherited the server: services first, then connections by record, from `from`
 * on (0: the start). Each is as its worker committed it last, whatever the worker does meanwhile.
 */
int32_t ss_conns_read(const struct ss_server *server, uint32_t shard, uint32_t from,
                      struct ss_conns_part *part);
/* As ss names them: "established"; NULL beyond the last. */
const char *ss_conn_state_name(uint32_t index);
const char *ss_conn_timer_name(uint32_t index);

/* netmap's slot and ring, byte for byte: what ss_rings_ring points to. */
struct ss_slot {
    uint32_t buf_idx;
    uint16_t len;
    uint16_t flags;
    uint64_t ptr;
};

struct ss_ring {
    int64_t buf_ofs; /* from this ring to buffer 0 */
    uint32_t num_slots;
    uint32_t nr_buf_size;
    uint16_t ringid;
    uint16_t dir;
    uint32_t head;
    uint32_t cur;
    uint32_t tail;
    uint32_t flags;
    uint32_t pad;
    int64_t ts[2];
    uint64_t offset_mask;
    uint64_t buf_align;
    uint8_t reserved[56];
    uint8_t sem[128];
    struct ss_slot slot[];
};

enum ss_rings_role {
    SS_RINGS_AUTO = 0,   /* a link if somebody owns that mem: device, else the owner */
    SS_RINGS_OWNER = 1,  /* opens the device */
    SS_RINGS_CLIENT = 2, /* attaches to a mem: device */
};

enum ss_rings_event {
    SS_RINGS_IN = 1,
    SS_RINGS_OUT = 2,
    SS_RINGS_NO_TX = 4, /* POLLIN without sending what is pending (NETMAP_NO_TX_POLL) */
};

enum ss_rings_hook {
    SS_HOOK_DOWN = 0,     /* 1: nothing leaves, nothing comes */
    SS_HOOK_RX_ERROR = 1, /* errno that syncs return; 0: none */
    SS_HOOK_TX_ERROR = 2,
    SS_HOOK_LATE = 3, /* TX syncs until a sent slot is free again, 31 at most */
    SS_HOOKS = 4,
};

struct ss_rings_info {
    char name[64];
    char backend[16];
    char banner[256];
    uint32_t rings;
    uint32_t mtu;
    uint32_t caps; /* 1: frames begin with a virtio-net header of 12 bytes */
    uint32_t bufs; /* indices of buffers are below; 0: unknown */
    uint32_t client;
    uint8_t mac[6];
    uint8_t peer_mac[6];
};

struct ss_rings;

/* Rings for teaching and tools: any backend; mem: from both sides. */
int32_t ss_rings_open(struct ss_rings **out, const char *spec,
                      const struct ss_device_options *options, uint32_t role, char *error);
/* A link of a mem: device that this process has opened itself; close it before the owner. */
int32_t ss_rings_attach(struct ss_rings **out, struct ss_rings *owner, char *error);
/* 1: a thread answers for these rings while this one opens another port of the same; 0: no more. */
int32_t ss_rings_answer(struct ss_rings *rings, uint32_t on);
int32_t ss_rings_describe(const struct ss_rings *rings, struct ss_rings_info *info);
void ss_rings_close(struct ss_rings *rings);
/* The ring in shared memory; NULL: no such ring. */
struct ss_ring *ss_rings_ring(struct ss_rings *rings, uint32_t index, uint32_t tx);
/* One ring's sync. 0 or -errno. */
int32_t ss_rings_sync(struct ss_rings *rings, uint32_t index, uint32_t tx);
/* poll() on `n` sets: ready[i] gets the events of set i. How many are ready, or -errno. */
int32_t ss_rings_poll(struct ss_rings *const *rings, const uint32_t *events, uint32_t *ready,
                      uint32_t n, uint64_t timeout_us);
/* Rings of the two sets whose buffers may be exchanged: same region, same buffer size. */
int32_t ss_rings_same_region(const struct ss_rings *a, const struct ss_rings *b);
/* Test hooks of a ring pair, see enum ss_rings_hook. */
int32_t ss_rings_hook(struct ss_rings *rings, uint32_t index, uint32_t hook, uint32_t value);
/* As ss_device_audit; -ENOTSUP for a client. */
int32_t ss_rings_audit(struct ss_rings *rings);

enum ss_tool_kind {
    SS_TOOL_SINK = 0,    /* counts UDP datagrams to a port */
    SS_TOOL_FORWARD = 1, /* UDP datagrams to a port, from port[0] to port[1] */
    SS_TOOL_BRIDGE = 2,  /* every frame, both ways */
    SS_TOOL_GEN = 3,
    SS_TOOL_RECV = 4,
    SS_TOOL_PING = 5,
    SS_TOOL_PONG = 6,
    SS_TOOL_LB = 7, /* port[0] to pipes named after it, by a symmetric hash */
    SS_TOOL_KINDS = 8,
};

enum ss_tool_limit {
    SS_TOOL_PIPES_MAX = 32,
};

/* `n` consecutive values, taken in turn; 0 is 1. */
struct ss_tool_range {
    uint32_t first;
    uint32_t n;
};

/* Zero means the default. Addresses in host order. */
struct ss_tool_options {
    char port[2][64];
    uint32_t role[2]; /* enum ss_rings_role */
    uint32_t kind;
    uint32_t busy;     /* 1: sync all the time; 0: sleep until something comes */
    uint32_t udp_port; /* sink, forward: 0 is any */
    uint32_t rings;    /* of a device that the tool opens */
    uint32_t slots;
    uint32_t threads; /* each serves its share of the rings */
    uint32_t cpu;     /* of the first thread, plus 1; 0: anywhere */
    uint32_t copy;    /* 1: never exchange buffers */
    uint32_t size;    /* bytes of a frame, without its checksum */
    uint32_t burst;   /* frames between two syncs */
    uint32_t pipes;   /* lb */
    uint32_t extra;   /* lb: frames kept for pipes that are full */
    uint64_t count;   /* ends after so many frames */
    uint64_t rate;    /* frames per second */
    uint64_t duration_us;
    struct ss_tool_range src_ip;
    struct ss_tool_range dst_ip;
    struct ss_tool_range src_port;
    struct ss_tool_range dst_port;
    uint8_t src_mac[6];
    uint8_t dst_mac[6];
    uint8_t pad[4];
};

/* Sums over all threads and rings since the start. */
struct ss_tool_stats {
    uint64_t rx_frames;
    uint64_t rx_bytes;
    uint64_t rx_batches; /* syncs that brought frames */
    uint64_t rx_missed;
    uint64_t tx_frames;
    uint64_t tx_bytes;
    uint64_t tx_batches;
    uint64_t tx_dropped;       /* by the backend: no room, no receiver */
    uint64_t matched;          /* sink: datagrams to the port; pong, forward: frames sent on */
    uint64_t dropped;          /* by the tool: nothing of its kind, or unsendable */
    uint64_t swapped;          /* frames that went on by exchanged buffers */
    uint64_t copied;           /* frames that were copied */
    uint64_t lost;             /* ping: no answer within a second */
    uint64_t syscalls;         /* of the ports */
    uint64_t started_us;       /* CLOCK_MONOTONIC */
    uint64_t ended_us;         /* 0: still running */
    uint64_t pipe_frames[32];  /* lb: to each pipe */
    uint64_t pipe_dropped[32]; /* lb: for want of room */
    uint64_t pipe_held_max[32];
    uint64_t latency[4096]; /* ping: buckets of ss_tool_quantile */
    int32_t error;          /* -errno of the thread that failed */
    uint32_t running;       /* threads */
};

struct ss_tool;

/* Opens the ports. 0 or -errno with a sentence. */
int32_t ss_tool_open(struct ss_tool **out, const struct ss_tool_options *options, char *error);
/* What was obtained: port 0 or 1. */
int32_t ss_tool_describe(const struct ss_tool *tool, uint32_t port, struct ss_rings_info *info);
/* Its threads run until count, duration or ss_tool_stop. */
int32_t ss_tool_start(struct ss_tool *tool);
/* Asks the threads to end, and waits for them. Idempotent. */
void ss_tool_stop(struct ss_tool *tool);
int32_t ss_tool_read(const struct ss_tool *tool, struct ss_tool_stats *stats);
/* Nanoseconds below which the fraction q of ping's round trips lies. */
uint64_t ss_tool_quantile(const struct ss_tool_stats *stats, double q);
void ss_tool_close(struct ss_tool *tool);
/* netmap itself: what `shardserver netmap-abi` prints. */
struct ss_netmap_name {
    char port[64];  /* as netmap wants it: "eth0", "eth0{1", "vale0:1" */
    char iface[16]; /* "": the port is on no interface */
    uint32_t ring;
    uint32_t one_ring; /* 1: the name picks this ring alone */
    uint32_t nic;      /* 1: NIC rings are among them */
    uint32_t host;     /* 1: host rings are */
};

/* 0 where it is unknown: the module is not loaded. */
struct ss_netmap_module {
    uint64_t ioc_ctrl;
    uint64_t ioc_txsync;
    uint64_t ioc_rxsync;
    uint64_t memory_bytes; /* of region mem_id */
    uint32_t api;
    uint32_t mem_id;
    uint32_t ring_slots_max;  /* in one ring object */
    uint32_t port_rings_max;  /* of one port, host rings included */
    uint32_t rings_max;       /* of all ports */
    uint32_t descriptors_max; /* on all ports */
    uint32_t bufs_max;
    uint32_t buf_bytes;
};

/* The parts of a port's name ("netmap:" left out). 0 or -errno. */
int32_t ss_netmap_name(const char *text, struct ss_netmap_name *out, char *error);
/* Our declarations of netmap's structures; returns how many, at most `max` are written. */
uint32_t ss_netmap_layout(struct ss_layout_entry *entries, uint32_t max);
/* Numbers of our own in any case; of the module if it answers: else -errno, with a sentence. */
int32_t ss_netmap_module(struct ss_netmap_module *module, char *error);
/* 1: the interface's driver is native to netmap; 0: it would be emulated; -errno. */
int32_t ss_netmap_adapter(const char *iface);

/* What each connection waited for its replies: shared memory, written by the client alone. */
struct ss_load_gaps {
    uint32_t connections;
    uint32_t slots; /* what comes after the last one is noted there */
    uint64_t slot_us;
    /*
     * [slot][connection]: the longest time without a byte of reply that ended in this slot, slots
     * counted from `started_us`; in a row behind the last slot, 1 + the slot in which a
     * connection was lost.
     */
    uint32_t longest_us[];
};

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
    char faults[128];          /* mem: on the client's side of the wire */
    struct ss_load_gaps *gaps; /* NULL: nobody asks when each connection waited */
};

/* Aligned words in shared memory; the client is the one writer, but for stop, go, withheld. */
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
    uint64_t first_errno;    /* of a connection that failed over kernel sockets; 0: none */
    uint64_t started_us;     /* CLOCK_MONOTONIC: first message */
    uint64_t ended_us;       /* last message */
    uint64_t largest_gap_us; /* longest time without any reply while messages were in flight */
    uint64_t stop;
    uint64_t go;
    uint64_t withheld;      /* connections, the last ones, that may not be begun yet */
    uint64_t latency[4096]; /* buckets: ss_latency_quantile */
};

/* Shared memory for one client's statistics; NULL: out of memory. */
struct ss_load_stats *ss_load_stats_map(void);
void ss_load_stats_unmap(struct ss_load_stats *stats);
/* The same for a client's gaps; NULL: out of memory, or nothing to note. */
struct ss_load_gaps *ss_load_gaps_map(uint32_t connections, uint32_t slots, uint64_t slot_us);
void ss_load_gaps_unmap(struct ss_load_gaps *gaps);
/* Runs to its end. 0 or -errno with a sentence; errors of single connections are counted only. */
int32_t ss_load_run(const struct ss_load_options *options, struct ss_load_stats *stats,
                    char *error);
void ss_load_merge(struct ss_load_stats *into, const struct ss_load_stats *from);
/* Nanoseconds below which the fraction q of all samples lies (0 without samples). */
uint64_t ss_latency_quantile(const struct ss_load_stats *stats, double q);
