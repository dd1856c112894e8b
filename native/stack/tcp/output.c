/*
 * What a connection has to say: SYN, data, FIN, ACK, probes; and segments for no connection. One
 * call is one transaction; the ring is published after its commit.
 */
#include <arpa/inet.h>

#include "base/csum.h"
#include "stack/arp.h"
#include "stack/chunk.h"
#include "stack/eth.h"
#include "stack/ipv4.h"
#include "stack/neighbour.h"
#include "stack/timer.h"
#include "stack/tx.h"
#include "stack/tcp/tcp.h"

enum {
    SYN_OPTIONS_LEN = 8, /* MSS, NOP, window scale */
    SUPER_BYTES_MAX = UINT16_MAX - IPV4_HDR_LEN - TCP_HDR_LEN,
};

/* A segment about to be written. */
struct outgoing {
    uint32_t seq;
    uint32_t ack;
    uint32_t len; /* of the payload */
    uint16_t window;
    uint8_t flags;
    uint8_t options_len;
    uint16_t gso_size; /* 0: one segment; else what the port cuts it into */
};

/* Fills IPv4 and TCP headers around options and payload that already stand in `buf`. */
static void write_headers(struct stack *stack, uint8_t *buf, const struct tuple *tuple,
                          const struct outgoing *out)
{
    uint32_t tcp_len = TCP_HDR_LEN + out->options_len + out->len;
    struct wire_tcp tcp = {
        .src_port = tuple->lport,
        .dst_port = tuple->rport,
        .seq = htonl(out->seq),
        .ack = htonl(out->ack),
        .data_off = (uint8_t)((TCP_HDR_LEN + out->options_len) / 4 << 4),
        .flags = out->flags,
        .window = htons(out->window),
    };
    uint8_t *l4 = buf + ETH_HDR_LEN + IPV4_HDR_LEN;
    uint64_t sum = csum_pseudo(tuple->laddr, tuple->raddr, PROTO_TCP, tcp_len);

    ipv4_write(stack, buf + ETH_HDR_LEN, tuple->raddr, PROTO_TCP, tcp_len);
    if (stack->port->caps & PORT_CAP_TX_CSUM) {
        tcp.check = csum_fold16(sum);
        memcpy(l4, &tcp, sizeof(tcp));
        tx_push_partial(stack, ETH_HDR_LEN + IPV4_HDR_LEN + tcp_len, out->gso_size);
        return;
    }
    memcpy(l4, &tcp, sizeof(tcp));
    tcp.check = csum_fold(csum_add(l4, tcp_len, sum));
    memcpy(l4 + offsetof(struct wire_tcp, check), &tcp.check, sizeof(tcp.check));
    tx_push(stack, ETH_HDR_LEN + IPV4_HDR_LEN + tcp_len);
}

/* A TX buffer with the Ethernet header done; NULL: ring full, or the next hop is not known yet. */
static uint8_t *begin_frame(struct stack *stack, uint32_t raddr, bool *unresolved)
{
    const uint8_t *mac = arp_resolve(stack, stack_next_hop(stack->config, raddr));
    uint8_t *buf;

    *unresolved = !mac;
    if (*unresolved) {
        stats_add(stack->stats, COUNTER_neighbour_misses, 1);
        return NULL;
    }
    buf = tx_reserve(stack);
    if (!buf) {
        stats_add(stack->stats, COUNTER_tx_ring_full, 1);
        return NULL;
    }
    eth_write(stack, buf, mac, ETHERTYPE_IPV4);
    return buf;
}

/* The chunk and offset at which the byte `skip` after snd_una lies. */
static void seek(const struct stack *stack, const struct conn_active *active, uint32_t skip,
                 uint32_t *index, uint32_t *off)
{
    *index = active->snd.head;
    while (*index != NONE) {
        const struct chunk *chunk = chunk_at(stack, *index);
        uint32_t have = (uint32_t)(chunk->end - chunk->start);

        if (skip < have || chunk->next == NONE) {
            *off = chunk->start + skip;
            return;
        }
        skip -= have;
        *index = chunk->next;
    }
    *off = 0;
}

/* Copies `len` bytes from a place in the send queue and moves the place on. */
static void gather(const struct stack *stack, uint32_t *index, uint32_t *off, uint8_t *dst,
                   uint32_t len)
{
    while (len > 0) {
        const struct chunk *chunk = chunk_at(stack, *index);
        uint32_t part = min_u32(len, chunk->end - *off);

        if (part == 0) {
            *index = chunk->next;
            *off = chunk_at(stack, *index)->start;
            continue;
        }
        memcpy(dst, chunk_data(stack, *index) + *off, part);
        *off += part;
        dst += part;
        len -= part;
    }
}

/* Copies the payload for sequence number `seq`; the cursor serves when seq is snd_nxt. */
static void copy_payload(struct stack *stack, struct conn_hot *hot, uint32_t seq, uint8_t *dst,
                         uint32_t len)
{
    struct conn_active *active = &stack->active[hot->active];
    uint32_t index = active->cur_chunk;
    uint32_t off = active->cur_off;

    if (len == 0) {
        return;
    }
    if (seq != hot->snd_nxt || index == NONE) {
        seek(stack, active, seq - hot->snd_una, &index, &off);
    }
    gather(stack, &index, &off, dst, len);
    if (seq == hot->snd_nxt) {
        active->cur_chunk = index;
        active->cur_off = off;
    }
    stats_add(stack->stats, COUNTER_copied_bytes, len);
}

static void start_timing(struct stack *stack, const struct conn_hot *hot,
                         const struct outgoing *out)
{
    struct conn_active *active;

    if (hot->active == NONE || out->len == 0) {
        return;
    }
    active = &stack->active[hot->active];
    if (!(active->flags & ACTIVE_TIMING) &&
        (uint32_t)stack->now_us - active->rtt_at_us >
            stack->cold[active->conn].rto_us / TCP_RTO_SAMPLES) {
        active->flags |= ACTIVE_TIMING;
        active->rtt_seq = out->seq;
        active->rtt_at_us = (uint32_t)stack->now_us;
    }
}

/* Books what a segment takes of the sequence space and says about the receive side. */
static void book_sent(struct stack *stack, struct conn_hot *hot, const struct outgoing *out)
{
    uint32_t end = out->seq + out->len + ((out->flags & (TCP_SYN | TCP_FIN)) != 0);

    hot->flags &= (uint8_t)~CONN_ACK_NOW;
    hot->delack_at = 0;
    hot->rcv_acked = hot->rcv_nxt;
    if (end == out->seq) {
        return;
    }
    if (seq_lt(out->seq, hot->snd_max)) {
        stats_add(stack->stats, COUNTER_retransmits, 1);
    } else {
        start_timing(stack, hot, out);
    }
    if (out->seq == hot->snd_nxt) {
        hot->snd_nxt = end;
    }
    if (seq_gt(end, hot->snd_max)) {
        hot->snd_max = end;
    }
}

/* Sends one segment of a connection. False: not now (ring full); a next hop unknown counts as loss.
 */
static bool send_segment(struct stack *stack, uint32_t conn, uint32_t seq, uint32_t len,
                         uint8_t flags)
{
    struct conn_hot *hot = &stack->hot[conn];
    struct outgoing out = {.seq = seq,
                           .ack = hot->rcv_nxt,
                           .len = len,
                           .flags = flags,
                           .gso_size = len > hot->mss ? hot->mss : 0};
    bool unresolved;
    uint8_t *buf = begin_frame(stack, hot->tuple.raddr, &unresolved);

    if (!buf) {
        if (unresolved) {
            book_sent(stack, hot, &out);
        }
        return unresolved;
    }
    out.window = (uint16_t)tcp_window(stack, &stack->hot[conn], tcp_unread(stack, conn));
    if (len > 0) {
        copy_payload(stack, hot, seq, buf + TCP_HEADERS_LEN, len);
    }
    write_headers(stack, buf, &hot->tuple, &out);
    book_sent(stack, hot, &out);
    return true;
}

static void write_syn_options(const struct stack *stack, uint8_t *opt)
{
    uint32_t mss = stack->config->mtu - IPV4_HDR_LEN - TCP_HDR_LEN; /* MUST-67 */

    opt[0] = 2;
    opt[1] = 4;
    opt[2] = (uint8_t)(mss >> 8);
    opt[3] = (uint8_t)mss;
    opt[4] = 1;
    opt[5] = 3;
    opt[6] = 3;
    opt[7] = tcp_wscale_ours(stack);
}

static bool send_syn(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];
    bool answer = hot->state == CONN_SYN_RCVD;
    bool scale = !answer || (hot->flags & CONN_WS_OK);
    struct outgoing out = {.seq = hot->snd_una,
                           .ack = answer ? hot->rcv_nxt : 0,
                           .flags = answer ? TCP_SYN | TCP_ACK : TCP_SYN,
                           .options_len = scale ? SYN_OPTIONS_LEN : 4};
    bool unresolved;
    uint8_t *buf;

    if (hot->snd_nxt != hot->snd_una) {
        return true;
    }
    buf = begin_frame(stack, hot->tuple.raddr, &unresolved);
    if (!buf && !unresolved) {
        return false;
    }
    if (buf) {
        out.window = (uint16_t)min_u32(stack->config->rcv_buf, UINT16_MAX);
        write_syn_options(stack, buf + TCP_HEADERS_LEN);
        write_headers(stack, buf, &hot->tuple, &out);
    }
    book_sent(stack, hot, &out);
    tcp_arm_rtx(stack, conn);
    return true;
}

/* Bytes queued behind snd_nxt. */
static uint32_t unsent(const struct conn_hot *hot, const struct conn_active *active)
{
    int32_t left = active ? (int32_t)(hot->snd_una + active->snd.bytes - hot->snd_nxt) : 0;

    return left > 0 ? (uint32_t)left : 0;
}

/* One segment of the `len` bytes, or as many whole ones as the port cuts from one frame. */
static uint32_t whole_segments(const struct stack *stack, const struct conn_hot *hot, uint32_t len)
{
    const uint32_t headers = PORT_VNET_HDR_LEN + TCP_HEADERS_LEN;
    uint32_t room;

    if (len < 2u * hot->mss || !(stack->port->caps & PORT_CAP_TX_GSO)) {
        return hot->mss;
    }
    room = tx_room(stack, headers + min_u32(len, SUPER_BYTES_MAX));
    return room < headers + 2u * hot->mss ? hot->mss : (room - headers) / hot->mss * hot->mss;
}

/* How much of `left` may leave now: windows, limited transmit (RFC 3042), SWS and Nagle. */
static uint32_t sendable(const struct stack *stack, const struct conn_hot *hot,
                         const struct conn_active *active, uint32_t left)
{
    uint32_t limited = active->flags & ACTIVE_RECOVERY ? 0 : min_u32(hot->dupacks, 2) * hot->mss;
    uint32_t wnd = min_u32(hot->snd_wnd, active->cwnd + limited);
    uint32_t flight = tcp_flight(hot);
    uint32_t room = wnd > flight ? wnd - flight : 0;
    uint32_t len = min_u32(left, room);

    if (len >= hot->mss) {
        return whole_segments(stack, hot, len);
    }
    if (len == 0) {
        return 0;
    }
    if (len == left) { /* the last of the queue: Nagle holds it while data is in flight */
        bool hold = !stack->config->nodelay && flight > 0 && !(hot->flags & CONN_FIN_QUEUED);
        return hold ? 0 : len;
    }
    /* cut by the window: only when nothing else will move it (MUST-38) */
    return flight == 0 || len >= hot->snd_wnd / 2 ? len : 0;
}

static bool fin_pending(const struct conn_hot *hot, const struct conn_active *active)
{
    uint32_t end = hot->snd_una + (active ? active->snd.bytes : 0);

    return (hot->flags & CONN_FIN_QUEUED) && hot->snd_nxt == end &&
           !((hot->flags & CONN_FIN_SENT) && hot->snd_una == hot->snd_max);
}

/* The segment at snd_una once more: fast retransmit and partial ACKs. */
static bool resend_head(struct stack *stack, uint32_t conn, struct conn_active *active)
{
    struct conn_hot *hot = &stack->hot[conn];
    uint32_t len = min_u32(min_u32(active->snd.bytes, hot->mss), hot->snd_max - hot->snd_una);
    bool fin = (hot->flags & CONN_FIN_SENT) && len == active->snd.bytes;
    uint8_t flags = (uint8_t)(TCP_ACK | (fin ? TCP_FIN : 0));

    if (len == 0 && !fin) {
        active->flags &= ~(uint32_t)ACTIVE_RESEND;
        return true;
    }
    if (!send_segment(stack, conn, hot->snd_una, len, flags)) {
        return false;
    }
    active->flags &= ~(uint32_t)ACTIVE_RESEND;
    tcp_arm_rtx(stack, conn);
    return true;
}

/* One byte beyond the closed window (RFC 9293 section 3.8.6.1). */
static bool send_probe(struct stack *stack, uint32_t conn, struct conn_active *active)
{
    struct conn_hot *hot = &stack->hot[conn];

    if (active->snd.bytes > 0 && !send_segment(stack, conn, hot->snd_una, 1, TCP_ACK | TCP_PSH)) {
        return false;
    }
    stats_add(stack->stats, COUNTER_probes, 1);
    active->flags &= ~(uint32_t)ACTIVE_PROBE;
    if (hot->snd_nxt != hot->snd_una) { /* the probe is no flight: the window is still closed */
        hot->snd_nxt = hot->snd_una;
        active->cur_chunk = NONE;
    }
    return true;
}

/* Data and FIN, as far as windows, ring and budget allow. False: the ring is full. */
static bool send_data(struct stack *stack, uint32_t conn, struct conn_active *active)
{
    struct conn_hot *hot = &stack->hot[conn];
    uint32_t budget = TCP_OUTPUT_SEGMENTS;
    uint32_t left = unsent(hot, active);

    while (left > 0 && budget-- > 0) {
        uint32_t len = sendable(stack, hot, active, left);
        bool last = len == left;
        bool fin = last && (hot->flags & CONN_FIN_QUEUED);
        uint8_t flags = (uint8_t)(TCP_ACK | (last ? TCP_PSH : 0) | (fin ? TCP_FIN : 0));

        if (len == 0) {
            return true;
        }
        if (!send_segment(stack, conn, hot->snd_nxt, len, flags)) {
            return false;
        }
        hot->flags |= fin ? CONN_FIN_SENT : 0;
        left -= len;
        budget -= min_u32(budget, len / hot->mss); /* a super-segment counts for what it holds */
    }
    return left == 0;
}

static bool send_fin(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];

    if (!send_segment(stack, conn, hot->snd_nxt, 0, TCP_ACK | TCP_FIN)) {
        return false;
    }
    hot->flags |= CONN_FIN_SENT;
    return true;
}

/* Everything that carries sequence numbers. False: come again, the ring is full. */
static bool send_all(struct stack *stack, uint32_t conn, struct conn_active *active)
{
    struct conn_hot *hot = &stack->hot[conn];

    if (active && (active->flags & ACTIVE_RESEND) && !resend_head(stack, conn, active)) {
        return false;
    }
    if (active && (active->flags & ACTIVE_PROBE) && !send_probe(stack, conn, active)) {
        return false;
    }
    if (active && !send_data(stack, conn, active)) {
        return false;
    }
    return !fin_pending(hot, active) || send_fin(stack, conn);
}

/* What receiving owes: at once, after two segments, or by the delayed-ACK timer (MUST-58, SHLD-18).
 */
static bool send_ack(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];
    uint32_t owed = hot->rcv_nxt - hot->rcv_acked;

    if ((hot->flags & CONN_ACK_NOW) || owed >= 2u * hot->mss || tcp_window_opened(stack, conn)) {
        /* after a timeout snd_nxt is old: with it two sides that resend refuse each other's ACKs */
        return send_segment(stack, conn, hot->flags & CONN_PROBING ? hot->snd_nxt : hot->snd_max, 0,
                            TCP_ACK);
    }
    if (owed > 0 && hot->delack_at == 0) {
        hot->delack_at = tick_after(stack, stack->config->delack_us);
    }
    return true;
}

/*
 * RTO for what is in flight; the zero-window probe when the window alone holds data back. With the
 * TX ring full nothing is held by the peer: the connection simply comes again.
 */
static void arm_timers(struct stack *stack, uint32_t conn, const struct conn_active *active,
                       bool ring_full)
{
    struct conn_hot *hot = &stack->hot[conn];
    bool held = !ring_full && unsent(hot, active) > 0 && hot->snd_nxt == hot->snd_una;
    bool flight = hot->snd_max != hot->snd_una;

    if ((hot->flags & CONN_PROBING) && !held && hot->snd_nxt != hot->snd_una) {
        hot->flags &= (uint8_t)~CONN_PROBING; /* data is on its way again */
        hot->rtx_at = 0;
    }
    if (hot->rtx_at != 0 || (!held && !flight)) {
        return;
    }
    if (held && (hot->snd_wnd == 0 || !flight)) {
        hot->flags |= CONN_PROBING;
    }
    tcp_arm_rtx(stack, conn);
}

static void output_synchronized(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];
    struct conn_active *active = NULL;
    bool ring_full;

    if (hot->active != NONE) {
        active = active_touch(stack, hot->active);
    }
    ring_full = !send_all(stack, conn, active) || !send_ack(stack, conn);
    if (ring_full) {
        conn_mark_output(stack, conn);
    }
    if (hot->state != CONN_TIME_WAIT) {
        arm_timers(stack, conn, active, ring_full);
    }
    if (active && tcp_quiet(hot, active) && stack->cold[conn].wheel_slot == WHEEL_NOWHERE) {
        conn_deactivate(stack, conn); /* with a timer queued it is given back when that fires */
    }
}

void tcp_output(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];

    if (hot->state == CONN_FREE || tcp_predicted_output(stack, conn)) {
        return;
    }
    conn_touch(stack, conn);
    if (hot->state == CONN_SYN_SENT || hot->state == CONN_SYN_RCVD) {
        if (!send_syn(stack, conn)) {
            conn_mark_output(stack, conn);
        }
    } else {
        output_synchronized(stack, conn);
    }
    timer_update(stack, conn);
}

void tcp_reply_rst(struct stack *stack, const struct tuple *tuple, const struct segment *seg)
{
    struct reply *reply = reply_add(stack, REPLY_TCP);

    if (!reply) {
        return;
    }
    reply->tuple = *tuple;
    reply->window = 0;
    if (seg->flags & TCP_ACK) { /* RFC 9293 section 3.10.7.1 */
        reply->tcp_flags = TCP_RST;
        reply->seq = seg->ack;
        reply->ack = 0;
    } else {
        reply->tcp_flags = TCP_RST | TCP_ACK;
        reply->seq = 0;
        reply->ack = seg->seq + segment_span(seg);
    }
    stats_add(stack->stats, COUNTER_rsts_sent, 1);
}

bool reply_send_tcp(struct stack *stack, const struct reply *reply)
{
    struct outgoing out = {
        .seq = reply->seq, .ack = reply->ack, .flags = reply->tcp_flags, .window = reply->window};
    bool unresolved;
    uint8_t *buf = begin_frame(stack, reply->tuple.raddr, &unresolved);

    if (buf) {
        write_headers(stack, buf, &reply->tuple, &out);
    }
    return buf || unresolved;
}

void tcp_send_rst(struct stack *stack, uint32_t conn)
{
    const struct conn_hot *hot = &stack->hot[conn];
    struct reply *reply = reply_add(stack, REPLY_TCP);

    if (reply) {
        reply->tuple = hot->tuple;
        reply->tcp_flags = TCP_RST | TCP_ACK;
        reply->seq = hot->snd_nxt;
        reply->ack = hot->rcv_nxt;
        reply->window = 0;
        stats_add(stack->stats, COUNTER_rsts_sent, 1);
    }
}

void tcp_challenge(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];
    uint32_t last = stack->cold[conn].challenge_at;

    if (last != 0 && (int32_t)(stack_tick(stack) - last) < TCP_CHALLENGE_US / TICK_US) {
        stats_add(stack->stats, COUNTER_replies_limited, 1);
        return;
    }
    cold_touch(stack, conn)->challenge_at = tick_after(stack, 0);
    hot->flags |= CONN_ACK_NOW;
    stats_add(stack->stats, COUNTER_challenge_acks, 1);
    conn_mark_output(stack, conn);
}
