/* Opening: segments for no connection, SYN-SENT, SYN-RCVD; initial sequence numbers. */
#include <arpa/inet.h>

#include "base/hash.h"
#include "stack/flow.h"
#include "stack/timer.h"
#include "stack/tcp/tcp.h"

/* RFC 6528: a clock of 4 us plus a keyed function of the tuple, one key for all shards. */
uint32_t tcp_isn(const struct stack *stack, const struct tuple *tuple)
{
    uint64_t hash = siphash24(stack->cluster->isn_key, tuple, sizeof(*tuple));

    return (uint32_t)hash + (uint32_t)((stack->now_us - stack->cluster->start_us) / 4);
}

uint8_t tcp_wscale_ours(const struct stack *stack)
{
    uint8_t shift = 0;

    while (shift < TCP_WSCALE_MAX && stack->config->rcv_buf >> shift > UINT16_MAX) {
        shift++;
    }
    return shift;
}

static const struct listener *find_listener(const struct stack *stack, uint16_t tcp_port)
{
    for (uint32_t i = 0; i < stack->config->listeners_n; i++) {
        if (stack->config->listeners[i].tcp_port == tcp_port) {
            return &stack->config->listeners[i];
        }
    }
    return NULL;
}

/* What both ends agree on in their SYNs (MUST-15, MUST-16: 536 without an offer). */
static void take_syn_options(struct stack *stack, uint32_t conn, const struct segment *seg)
{
    struct conn_hot *hot = &stack->hot[conn];
    uint32_t ours = stack->config->mtu - IPV4_HDR_LEN - TCP_HDR_LEN;
    uint32_t offer = seg->mss ? max_u32(seg->mss, TCP_MSS_MIN) : 536;

    hot->mss = (uint16_t)min_u32(offer, ours);
    if (seg->wscale != UINT8_MAX) {
        hot->flags |= CONN_WS_OK;
        hot->wscale = (uint8_t)(seg->wscale | tcp_wscale_ours(stack) << 4);
    }
    hot->rcv_nxt = seg->seq + 1;
    hot->rcv_acked = seg->seq;
    hot->rcv_adv = hot->rcv_nxt + min_u32(stack->config->rcv_buf, UINT16_MAX);
    hot->snd_wnd = seg->wnd; /* the window of a SYN is never scaled (RFC 7323) */
}

static void note_window(struct stack *stack, uint32_t conn, const struct segment *seg)
{
    struct conn_cold *cold = cold_touch(stack, conn);

    stack->hot[conn].snd_wl1 = seg->seq;
    cold->snd_wnd_max = max_u32(cold->snd_wnd_max, stack->hot[conn].snd_wnd);
}

static enum verdict open_passive(struct stack *stack, const struct frame *frame,
                                 const struct segment *seg, uint8_t service)
{
    uint32_t conn = conn_open(stack, frame->hash);
    struct conn_hot *hot;

    if (conn == NONE) {
        stack_clear_later(stack, frame->hash);
        return VERDICT_tcp_table_full;
    }
    hot = &stack->hot[conn];
    hot->tuple = frame->tuple;
    hot->state = CONN_SYN_RCVD;
    hot->flags = CONN_PASSIVE;
    hot->service = service;
    take_syn_options(stack, conn, seg);
    hot->snd_una = hot->snd_nxt = hot->snd_max = tcp_isn(stack, &frame->tuple);
    note_window(stack, conn, seg);
    stack->shared->syn_rcvd++; /* its line was saved by conn_alloc */
    conn_mark_output(stack, conn);
    return VERDICT_tcp_syn;
}

enum verdict tcp_listen(struct stack *stack, const struct frame *frame, const struct segment *seg)
{
    const struct listener *listener = find_listener(stack, frame->tuple.lport);

    if (seg->flags & TCP_RST) {
        return VERDICT_tcp_late_rst;
    }
    if (listener && !(seg->flags & (TCP_SYN | TCP_ACK))) {
        return VERDICT_tcp_no_flags; /* RFC 9293 section 3.10.7.2 */
    }
    if ((seg->flags & (TCP_SYN | TCP_ACK)) != TCP_SYN) {
        tcp_reply_rst(stack, &frame->tuple, seg);
        return VERDICT_tcp_no_connection;
    }
    if (!listener || stack->shared->draining) {
        tcp_reply_rst(stack, &frame->tuple, seg);
        return VERDICT_tcp_no_listener;
    }
    if (stack->shared->syn_rcvd >= stack->config->backlog_max) {
        stack_clear_later(stack, frame->hash);
        return VERDICT_tcp_backlog_full; /* silent: the peer's SYN comes again */
    }
    return open_passive(stack, frame, seg, listener->service);
}

void tcp_established(struct stack *stack, uint32_t conn, const struct segment *seg)
{
    struct conn_hot *hot = &stack->hot[conn];
    struct stack_shared *shared = stack->shared;

    if (hot->state == CONN_SYN_RCVD) {
        undo_save(&stack->arena, &shared->syn_rcvd);
        shared->syn_rcvd--;
    }
    stats_add(stack->stats,
              hot->flags & CONN_PASSIVE ? COUNTER_conns_accepted : COUNTER_conns_connected, 1);
    hot->state = CONN_ESTABLISHED;
    hot->snd_una = seg->ack;
    if (seq_lt(hot->snd_nxt, seg->ack)) {
        hot->snd_nxt = seg->ack;
    }
    if (!(seg->flags & TCP_SYN)) {
        hot->snd_wnd = seg->wnd << (hot->wscale & 15);
    }
    hot->rtx_at = 0;
    note_window(stack, conn, seg);
    if (hot->retries > 0) {
        cold_touch(stack, conn)->rto_us = 3000000; /* RFC 6298 section 5.7 */
        hot->retries = 0;
    }
    conn_mark_ready(stack, conn);
}

static enum verdict syn_sent_rst(struct stack *stack, uint32_t conn, bool ack_ok)
{
    if (!ack_ok) {
        return VERDICT_tcp_rst_bad_seq;
    }
    tcp_drop(stack, conn, CLOSE_REFUSED);
    return VERDICT_tcp_rst;
}

/* RFC 9293 section 3.10.7.3 */
enum verdict tcp_syn_sent(struct stack *stack, uint32_t conn, const struct segment *seg)
{
    struct conn_hot *hot = &stack->hot[conn];
    bool has_ack = seg->flags & TCP_ACK;
    bool ack_ok = has_ack && seg->ack == hot->snd_una + 1;

    if (has_ack && !ack_ok) {
        if (!(seg->flags & TCP_RST)) {
            tcp_reply_rst(stack, &hot->tuple, seg);
        }
        return VERDICT_tcp_bad_ack;
    }
    if (seg->flags & TCP_RST) {
        return syn_sent_rst(stack, conn, ack_ok);
    }
    if (!(seg->flags & TCP_SYN)) {
        return VERDICT_tcp_bad_header;
    }
    take_syn_options(stack, conn, seg);
    if (ack_ok) {
        tcp_established(stack, conn, seg);
        hot->flags |= CONN_ACK_NOW;
    } else { /* simultaneous open (MUST-10): our SYN goes again, as SYN-ACK */
        hot->state = CONN_SYN_RCVD;
        hot->snd_nxt = hot->snd_una;
        undo_save(&stack->arena, &stack->shared->syn_rcvd);
        stack->shared->syn_rcvd++;
    }
    conn_mark_output(stack, conn);
    return VERDICT_tcp_syn;
}
