/*
 * A connection and everything it may hold, as it lies in the arena: indices only.
 *
 * An idle connection costs CONN_IDLE_BYTES. What is needed only with data queued or in flight is an
 * *active* record from a pool. Who changes a record saves it first: conn_touch,
 * active_touch.
 */
#pragma once
#include "base/seq.h"
#include "stack/stack.h"

enum {
    NONE = UINT32_MAX,
    CHUNK_BYTES = 2048,
    CHUNK_SUM_KNOWN = 1 << 16,
    TICK_US = 1000, /* the wheel's resolution */
    WHEEL_LEVELS = 3,
    WHEEL_SLOTS = 256,
    WHEEL_NOWHERE = UINT16_MAX,
    CONN_IDLE_BYTES = 128,
    CONN_MARK_READY = 1,
    CONN_MARK_OUTPUT = 2,
};

/* RFC 9293 section 3.3.2. FREE is ours: the record is in the free list. */
enum conn_state {
    CONN_FREE,
    CONN_SYN_SENT,
    CONN_SYN_RCVD,
    CONN_ESTABLISHED,
    CONN_FIN_WAIT_1,
    CONN_FIN_WAIT_2,
    CONN_CLOSE_WAIT,
    CONN_CLOSING,
    CONN_LAST_ACK,
    CONN_TIME_WAIT,
    CONN_STATES,
};

enum conn_flag {
    CONN_ACK_NOW = 1,     /* an ACK must leave in this turn */
    CONN_FIN_QUEUED = 2,  /* the service has closed its direction */
    CONN_FIN_SENT = 4,    /* our FIN took its sequence number */
    CONN_PEER_FIN = 8,    /* the peer's FIN was taken in order */
    CONN_PROBING = 16,    /* rtx_at is the zero-window probe's */
    CONN_PASSIVE = 32,    /* came from a listener (MUST-11) */
    CONN_RCV_CLOSED = 64, /* the service reads no more: data is answered with RST */
    CONN_WS_OK = 128,     /* both sides sent a window scale (RFC 7323) */
};

struct conn_hot {
    _Alignas(CACHE_LINE) struct tuple tuple;
    uint32_t rcv_nxt;
    uint32_t rcv_adv;   /* right edge of the window that we advertised: never moves left */
    uint32_t rcv_acked; /* the last ACK number that we sent */
    uint32_t snd_una;
    uint32_t snd_nxt;
    uint32_t snd_max; /* highest SND.NXT: snd_nxt goes back at a timeout */
    uint32_t snd_wnd; /* scaled, bytes */
    uint32_t active;  /* index, NONE: idle */
    uint32_t rtx_at;  /* tick of retransmission, probe or end of TIME-WAIT; 0: none */
    uint32_t delack_at;
    uint32_t snd_wl1; /* sequence number of the segment that last set snd_wnd */
    uint16_t mss;     /* what we may send in one segment */
    uint8_t state;
    uint8_t flags;
    uint8_t wscale; /* low nibble: peer's (for snd_wnd), high: ours */
    uint8_t service;
    uint8_t retries;
    uint8_t dupacks;
};

struct conn_cold {
    uint32_t challenge_at; /* tick of the last challenge ACK; 0: none yet */
    uint32_t spare;
    uint32_t srtt_us; /* 0: no sample yet */
    uint32_t rttvar_us;
    uint32_t rto_us;
    uint32_t wheel_next;
    uint32_t wheel_prev;
    uint32_t wheel_at;     /* tick for which it is queued; the deadlines in hot are the truth */
    uint16_t wheel_slot;   /* level * WHEEL_SLOTS + slot; WHEEL_NOWHERE */
    uint16_t ssthresh_mss; /* kept while idle; 0: none yet */
    uint32_t snd_wnd_max;
};

enum active_flag {
    ACTIVE_TIMING = 1,   /* rtt_seq is being timed (Karn: never a retransmission) */
    ACTIVE_RECOVERY = 2, /* fast recovery until snd_una reaches recover (RFC 6582) */
    ACTIVE_FIN_HELD = 4, /* a FIN arrived out of order at fin_seq */
    ACTIVE_RESEND = 8,   /* the segment at snd_una goes again in this turn */
    ACTIVE_PROBE = 16,   /* one byte goes beyond the closed window in this turn */
    ACTIVE_SLOW = 32,    /* tests: no header prediction; costs the usual packet nothing */
};

struct chunk_queue {
    uint32_t head;
    uint32_t tail;
    uint32_t bytes;
};

struct conn_active {
    _Alignas(CACHE_LINE) struct chunk_queue snd; /* from snd_una on */
    struct chunk_queue rcv;                      /* in order, not yet read */
    uint32_t cur_chunk;                          /* where snd_nxt lies; NONE: walk */
    uint32_t cur_off;                            /* absolute offset in its buffer */
    uint32_t cwnd;
    uint32_t ssthresh;
    uint32_t rtt_seq;
    uint32_t rtt_at_us; /* low 32 bits of the microsecond clock */
    uint32_t conn;      /* whose it is; NONE: free */
    uint32_t flags;     /* enum active_flag */
    uint32_t ooo_chunks;
    uint32_t spare_chunk; /* acknowledged, for the next payload; NONE */
    /* second line: only with holes or losses */
    uint32_t recover;
    uint32_t fin_seq;
    struct chunk_queue ooo; /* sorted by seq, no overlaps */
    uint32_t acked_bytes;   /* for congestion avoidance (RFC 5681 section 3.1) */
    uint32_t pad[10];
};

/* Header of a payload buffer; the bytes lie in the chunk area. */
struct chunk {
    uint32_t next;
    uint32_t seq; /* out-of-order queue: sequence number of the first byte */
    uint16_t start;
    uint16_t end;
    uint32_t sum; /* CHUNK_SUM_KNOWN | folded checksum of [start, end); 0: not known */
};

struct wheel {
    _Alignas(CACHE_LINE) uint32_t now; /* last tick that was run */
    uint32_t queued;
    uint32_t pad[14];
    uint32_t head[WHEEL_LEVELS][WHEEL_SLOTS];
};

/* What is one per shard, each group on a line of its own. */
struct stack_shared {
    _Alignas(CACHE_LINE) uint32_t rx_cursor; /* next ring slot without a verdict */
    uint32_t lane_next;                      /* rotates the lane served first */
    uint64_t booked_frames; /* rx + steered_in - verdicts that were settled at adoptions */
    _Alignas(CACHE_LINE) uint32_t lane_cursor[STACK_SHARDS_MAX];
    _Alignas(CACHE_LINE) uint32_t conn_free_n;
    uint32_t conns_active;
    uint32_t syn_rcvd;
    uint32_t time_wait;
    _Alignas(CACHE_LINE) uint32_t active_free_n;
    uint32_t chunk_free_n;
    uint32_t sweep; /* adoption: next connection to look at; conns_max: done */
    uint32_t draining;
    _Alignas(CACHE_LINE) struct wheel wheel;
};

_Static_assert(sizeof(struct conn_hot) == 64, "one line");
_Static_assert(sizeof(struct conn_cold) == 40, "DESIGN 10.4");
_Static_assert(sizeof(struct conn_active) == 128, "two lines");
_Static_assert(sizeof(struct chunk) == 16, "four to a line");
_Static_assert(sizeof(struct conn_hot) + sizeof(struct conn_cold) + 8 /* flow table entry */ +
                       8 /* directory entry */ + 8 /* service */
                   <= CONN_IDLE_BYTES,
               "an idle connection");

static inline struct conn_hot *conn_touch(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];

    undo_save(&stack->arena, hot);
    return hot;
}

/* 40 bytes may lie on two lines. */
static inline struct conn_cold *cold_touch(struct stack *stack, uint32_t conn)
{
    struct conn_cold *cold = &stack->cold[conn];
    size_t offset = (size_t)((uint8_t *)cold - stack->arena.base);

    undo_save(&stack->arena, cold);
    if (offset % CACHE_LINE + sizeof(*cold) > CACHE_LINE) {
        undo_save(&stack->arena, (uint8_t *)cold + sizeof(*cold) - 1);
    }
    return cold;
}

/* The first line: queues in order, cursor, window, flags. */
static inline struct conn_active *active_touch(struct stack *stack, uint32_t index)
{
    struct conn_active *active = &stack->active[index];

    undo_save(&stack->arena, active);
    return active;
}

/* Both lines: holes, losses, congestion avoidance. */
static inline struct conn_active *active_touch_all(struct stack *stack, uint32_t index)
{
    undo_save(&stack->arena, (uint8_t *)&stack->active[index] + CACHE_LINE);
    return active_touch(stack, index);
}

static inline uint32_t stack_tick(const struct stack *stack)
{
    return (uint32_t)(stack->now_us / TICK_US);
}

/* Bytes of arena for a configuration, and the layout of a new or an inherited arena. */
size_t stack_arena_bytes(const struct stack_config *config);
/* `fresh` initialises; otherwise the layout is found again by the same carving. */
int stack_attach(struct stack *stack, bool fresh);
/* Only finds the parts, in the one order, and writes nothing; returns where the last one ends. */
size_t stack_layout(struct stack *stack);
void stack_detach(struct stack *stack);

/* A zeroed record under `hash` in the flow table; NONE when either table is full. */
uint32_t conn_open(struct stack *stack, uint64_t hash);
/* Gives everything it holds back and unhooks it from table, wheel and counts. */
void conn_free(struct stack *stack, uint32_t conn);
/* Its active record, made if it has none; NULL when the pool is empty. Touched either way. */
struct conn_active *conn_activate(struct stack *stack, uint32_t conn);
/* Gives the active record back; its queues must be empty or are freed. */
void conn_deactivate(struct stack *stack, uint32_t conn);

static inline struct conn_active *conn_active_of(const struct stack *stack, uint32_t conn)
{
    uint32_t index = stack->hot[conn].active;

    if (index == NONE) {
        return NULL;
    }
    ENSURE(index < stack->config->actives_max);
    return &stack->active[index];
}

void conn_mark_ready(struct stack *stack, uint32_t conn);
void conn_mark_output(struct stack *stack, uint32_t conn);
