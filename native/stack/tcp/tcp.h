/*
 * TCP (RFC 9293) inside: a parsed segment, and the steps of input, output and timers. Input follows
 * section 3.10.7 step by step; start reading at tcp_input in input.c.
 */
#pragma once
#include "stack/events.h"
#include "stack/conn.h"
#include "stack/timer.h"

enum {
    TCP_SYN_RETRIES = 5,
    TCP_MSS_MIN = 64, /* smaller offers are raised: RFC 9293 has none so small, attacks do */
    TCP_WSCALE_MAX = 14,
    TCP_OUTPUT_SEGMENTS = 64, /* segments one connection may send in a turn */
    TCP_CHALLENGE_US = 500000,
    TCP_RTO_SAMPLES = 4, /* samples of the RTT in the time of an RTO, one at a time */
    TCP_RTO_MAX_US = 60000000,
    TCP_PROBE_MAX_US = 60000000,
    TCP_CWND_MAX = 1 << 30,
};

struct segment {
    const struct frame *frame;
    uint32_t seq;
    uint32_t ack;
    uint32_t wnd; /* as in the header, unscaled */
    uint32_t off; /* of the payload, within the frame */
    uint32_t len; /* of the payload */
    uint8_t flags;
    uint8_t wscale; /* SYN: the peer's shift, UINT8_MAX: not offered */
    uint16_t mss;   /* SYN: the peer's offer, 0: none */
};

/* input.c */
void tcp_input(struct stack *stack, struct frame *frame);
/* Counts `seg` in the sequence space: SYN and FIN take a number each. */
static inline uint32_t segment_span(const struct segment *seg)
{
    return seg->len + ((seg->flags & TCP_SYN) != 0) + ((seg->flags & TCP_FIN) != 0);
}

/*
 * predict.c, for a frame whose connection is known: the usual segment, its service and the usual
 * reply in one go; `more` of the connection follows in the burst. False: take the long way.
 */
bool tcp_predicted(struct stack *stack, struct frame *frame, bool more);
bool tcp_predicted_output(struct stack *stack, uint32_t conn);

/* segment.c: header, checksum, options. VERDICT_NONE when all is well. */
enum verdict segment_parse(struct stack *stack, const struct frame *frame, struct segment *seg);

/* open.c: segments for no connection, SYN-SENT and SYN-RCVD. */
enum verdict tcp_listen(struct stack *stack, const struct frame *frame, const struct segment *seg);
enum verdict tcp_syn_sent(struct stack *stack, uint32_t conn, const struct segment *seg);
void tcp_established(struct stack *stack, uint32_t conn, const struct segment *seg);
uint32_t tcp_isn(const struct stack *stack, const struct tuple *tuple);
uint8_t tcp_wscale_ours(const struct stack *stack);

/* ack.c: what an acceptable ACK does to the send side. False: the connection is gone. */
bool tcp_ack(struct stack *stack, uint32_t conn, const struct segment *seg);

/* receive.c: text and FIN, in or out of order. */
enum verdict tcp_text(struct stack *stack, uint32_t conn, const struct segment *seg);

/* Bytes that may still be received, of which `used` are not yet read. */
static inline uint32_t tcp_space(const struct stack *stack, const struct conn_hot *hot,
                                 uint32_t used)
{
    uint32_t limit = stack->config->rcv_buf;

    if (unlikely(stack->shared->chunk_free_n < stack->config->chunks_max / 8)) {
        limit = min_u32(limit, 4u * hot->mss); /* memory is short: small windows */
    }
    return used < limit ? limit - used : 0;
}

/* The window to advertise in a segment that leaves now; advances rcv_adv. */
static inline uint32_t tcp_window(struct stack *stack, struct conn_hot *hot, uint32_t used)
{
    uint32_t shift = hot->flags & CONN_WS_OK ? hot->wscale >> 4 : 0;
    uint32_t open = hot->rcv_adv - hot->rcv_nxt;
    uint32_t limit = stack->config->rcv_buf;

    if (open <= limit / 2 || open + hot->mss <= limit) { /* else there is no step to make */
        uint32_t step = min_u32(limit / 2, hot->mss);
        uint32_t space = min_u32(tcp_space(stack, hot, used), (uint32_t)UINT16_MAX << shift);

        if (space >= open + step) { /* RFC 9293 section 3.8.6.2.2: no silly window */
            hot->rcv_adv = hot->rcv_nxt + (space >> shift << shift);
        }
    }
    return min_u32((hot->rcv_adv - hot->rcv_nxt) >> shift, UINT16_MAX);
}

/* Bytes received and not yet read. */
static inline uint32_t tcp_unread(const struct stack *stack, uint32_t conn)
{
    const struct conn_active *active = conn_active_of(stack, conn);

    return active ? active->rcv.bytes : 0;
}

/* True when a window update is worth a segment (RFC 9293 section 3.8.6.2.2). */
bool tcp_window_opened(const struct stack *stack, uint32_t conn);

/* output.c */
void tcp_output(struct stack *stack, uint32_t conn);
void tcp_reply_rst(struct stack *stack, const struct tuple *tuple, const struct segment *seg);
/* False: the TX ring is full. */
bool reply_send_tcp(struct stack *stack, const struct reply *reply);
/* Sends RST for a connection that exists. */
void tcp_send_rst(struct stack *stack, uint32_t conn);
/* One challenge ACK per connection and 500 ms (RFC 5961 section 7). */
void tcp_challenge(struct stack *stack, uint32_t conn);

/* timers.c */
void tcp_timer(struct stack *stack, uint32_t conn);
void tcp_rtt_sample(struct stack *stack, uint32_t conn, uint32_t rtt_us);
static inline void tcp_arm_rtx(struct stack *stack, uint32_t conn)
{
    stack->hot[conn].rtx_at = tick_after(stack, stack->cold[conn].rto_us);
}

/* Ends the back-off: the peer has answered. */
void tcp_rto_restore(struct stack *stack, uint32_t conn);
uint32_t tcp_flight(const struct conn_hot *hot);
/* Nothing queued, held or in flight: the active record may go. */
static inline bool tcp_quiet(const struct conn_hot *hot, const struct conn_active *active)
{
    return active->snd.bytes == 0 && active->rcv.bytes == 0 && active->ooo.head == NONE &&
           hot->snd_una == hot->snd_max && !(active->flags & ACTIVE_FIN_HELD);
}

/* close.c */
void tcp_enter_time_wait(struct stack *stack, uint32_t conn);
/* Tells the service, then frees; the directory follows after the commit. */
void tcp_drop(struct stack *stack, uint32_t conn, enum close_reason reason);
