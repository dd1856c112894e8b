/*
 * The native stack of one shard: everything it is lies in struct stack and its arena; time and
 * randomness are arguments. Input never transmits and output never receives. Start reading at
 * engine_input and engine_output.
 */
#pragma once
#include "base/arena.h"
#include "ports/port.h"
#include "stack/frame.h"
#include "stats/stats.h"

struct directory;
struct neighbour_table;
struct lanes;
struct conn_hot;
struct conn_cold;
struct conn_active;
struct service;
struct engine_ops;

enum {
    STACK_SHARDS_MAX = 64,
    STACK_LISTENERS_MAX = 16,
    REPLIES_MAX = BURST_MAX,
    HOPS = 64,
    CLEARS_MAX = BURST_MAX,
    UNDO_LONG = UNDO_LINES_MAX / 2, /* lines after which a turn is committed in parts */
};

struct listener {
    uint16_t tcp_port; /* network order */
    uint8_t service;   /* index into the service table */
    uint8_t pad;
};

/* Validated by api.c, equal for all shards, constant while they run. Addresses in network order. */
struct stack_config {
    uint32_t ip;
    uint32_t netmask;
    uint32_t gateway; /* 0: none */
    uint8_t mac[6];
    uint16_t mtu;
    bool host_arp; /* ARP is the host's: who our peers are is learned from their segments */
    uint32_t shards;
    uint32_t conns_max;   /* per shard */
    uint32_t actives_max; /* connections with data in flight or queued */
    uint32_t chunks_max;  /* payload buffers of 2 KiB */
    uint32_t rcv_buf;     /* bytes per connection */
    uint32_t snd_buf;
    uint32_t backlog_max; /* connections in SYN-RCVD */
    uint32_t rto_min_us;
    uint32_t rto_initial_us;
    uint32_t delack_us;
    uint32_t time_wait_us;
    uint32_t retries_max; /* retransmissions before a connection is given up (R2) */
    uint8_t nodelay;
    uint8_t listeners_n;
    struct listener listeners[STACK_LISTENERS_MAX];
};

/* Shared by the shards of one server: made before the fork, mapped at one address. */
struct cluster {
    struct directory *directory;
    struct neighbour_table *neighbours;
    struct lanes *lanes;
    uint64_t flow_key[2];           /* for the flow hash */
    uint64_t isn_key[2];            /* RFC 6528; one for all shards, kept over restarts */
    uint64_t start_us;              /* the ISN clock's zero */
    int doorbell[STACK_SHARDS_MAX]; /* eventfds */
    _Atomic uint32_t *sleeping;     /* one padded word per shard (stride 16) */
};

enum reply_kind {
    REPLY_ARP,       /* answer an ARP request */
    REPLY_ARP_ASK,   /* ask who has an address */
    REPLY_ICMP_ECHO, /* answer an echo request held in `frame` */
    REPLY_TCP,       /* a segment without data for no connection, or a challenge ACK */
};

/* What input owes the wire; written by input, sent by output in the same turn, lost with a kill. */
struct reply {
    uint8_t kind;
    uint8_t tcp_flags;
    uint8_t mac[6];     /* destination */
    uint32_t ip;        /* ARP: the peer's or the asked address */
    struct tuple tuple; /* TCP */
    uint32_t seq;
    uint32_t ack;
    uint16_t window;
    const struct frame *frame;
};

/* The TX side of a port within a turn: slots are filled here and published at sync. */
struct tx_cursor {
    uint32_t next; /* first slot not yet filled */
    uint32_t left; /* slots still free */
};

/* Next hops looked up lately: spares the shared table, for a second at most. */
struct hop {
    uint32_t ip;
    uint8_t mac[6];
    uint16_t pad;
    uint64_t until_us;
};

struct stack_shared; /* in the arena: see stack/tcb.h */

struct stack {
    const struct stack_config *config;
    struct cluster *cluster;
    struct port *port;
    struct stats_page *stats;
    struct arena arena;
    struct stack_shared *shared; /* cursors, free lists, timer wheel: in the arena */
    struct conn_hot *hot;
    struct conn_cold *cold;
    struct conn_active *active;
    uint64_t *service_state; /* 8 bytes a connection */
    uint64_t *flow_table;
    uint32_t flow_mask;
    uint32_t *conn_free;
    uint32_t *active_free;
    uint32_t *chunk_free;
    uint8_t *chunks;
    const struct service *const *services;
    uint32_t shard;
    uint64_t now_us; /* read once a turn */
    struct hop hops[HOPS];
    struct tx_cursor tx;
    struct reply replies[REPLIES_MAX];
    uint32_t replies_n;
    uint32_t *ready; /* connections whose service has something to do */
    uint32_t ready_n;
    uint32_t *output; /* connections that may have something to say */
    uint32_t output_n;
    /* Ethernet and IPv4 headers of all that we send, without destination and length */
    uint8_t head[ETH_HDR_LEN + IPV4_HDR_LEN];
    uint64_t mac_word;  /* our MAC, in the six bytes of lower address */
    uint64_t head_sum;  /* of its IPv4 part */
    uint8_t *marks;     /* CONN_MARK_* bits: already in ready or output */
    void *service_data; /* a client's own, for its service */
    /* what may only follow the commit */
    uint64_t clear_hash[CLEARS_MAX]; /* directory entries to clear */
    uint32_t clears_n;
    uint32_t *chunk_freed; /* not yet in the free list: nobody may overwrite them */
    uint32_t chunk_freed_n;
    bool opened;           /* in this burst: a frame's connection may be another by now */
    bool commit_soon;      /* what the commit frees is needed, or its lists are full */
    uint32_t settled;      /* frames[] below have their verdict */
    uint32_t counted;      /* frames[] below are in the statistics */
    uint32_t active_flags; /* of a new active record: 0, or ACTIVE_SLOW in tests */
    struct frame frames[BURST_MAX + 1]; /* one more: the frame after may be looked at */
    const struct engine_ops *engine;    /* NULL: the native one, called directly */
    void *engine_state;                 /* the other one's own */
    void *engine_library;               /* opened for it before privileges were dropped; or NULL */
};

/* A free TX slot's buffer at the Ethernet header, or NULL when the ring is full. */
uint8_t *tx_reserve(struct stack *stack);
/* Queues the reserved slot with a frame of `len` bytes whose checksums are complete. */
void tx_push(struct stack *stack, uint32_t len);

/* Room for one more reply in this turn; NULL: counted as replies_limited. */
struct reply *reply_add(struct stack *stack, enum reply_kind kind);

/* Makes everything so far permanent, then does what may only follow it. */
void stack_commit(struct stack *stack);
/*
 * The end of a step (a frame, a timer, a service step, output of a connection): the state is
 * consistent. A turn is one transaction of many steps; it is committed here only when it grows
 * long.
 */
static inline bool stack_step(struct stack *stack)
{
    if (unlikely(stack->arena.undo->count > UNDO_LONG || stack->commit_soon)) {
        stack_commit(stack);
        return true;
    }
    return false;
}

/* The directory's entry of a flow goes once the transaction is committed. */
void stack_clear_later(struct stack *stack, uint64_t hash);
/* The flow lives again before its entry was cleared. */
void stack_clear_not(struct stack *stack, uint64_t hash);
/* After a kill: what was left unfinished is undone, what was sent may be sent again. */
void engine_adopt(struct stack *stack, uint32_t *adopted, uint32_t *dropped);
/* One slice of the nudging that follows an adoption; false: done. */
bool engine_sweep(struct stack *stack);
/* Runs the services of ready connections. */
void engine_services(struct stack *stack);

/* Each frame of the burst gets its verdict. Frames steered away have one already. */
void engine_input(struct stack *stack, struct frame *frames, uint32_t n);
/* True when this shard holds a connection for the tuple; fills `conn`. */
bool engine_owns(struct stack *stack, const struct tuple *tuple, uint64_t hash, uint32_t *conn);
/* Before a burst's first verdict, and with each. */
void engine_begin(struct stack *stack);
void engine_settle(struct stack *stack, struct frame *frame);
/* Sends what input owes. */
void engine_send_replies(struct stack *stack);
/* Replies first, then each connection that has something to say. */
void engine_output(struct stack *stack);
/* Runs what is due at stack->now_us. */
void engine_timers(struct stack *stack);
/* CLOCK_MONOTONIC microseconds of the next timer; UINT64_MAX: none. */
uint64_t engine_next_deadline(const struct stack *stack);
