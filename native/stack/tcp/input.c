/*
 * SEGMENT ARRIVES (RFC 9293 section 3.10.7), one verdict a segment: sequence, RST, SYN, ACK, text,
 * FIN, in this order. Replies are queued, never sent from here.
 */
#include "stack/tcp/tcp.h"

#include "base/hash.h"
#include "stack/flow.h"
#include "stack/timer.h"

/* Section 3.10.7.4, first: the four cases of table 6. */
static bool acceptable(const struct conn_hot *hot, const struct segment *seg)
{
    uint32_t wnd = hot->rcv_adv - hot->rcv_nxt;
    uint32_t span = segment_span(seg);

    if (wnd == 0) {
        return span == 0 && seg->seq == hot->rcv_nxt;
    }
    if (seq_in(seg->seq, hot->rcv_nxt, hot->rcv_adv)) {
        return true;
    }
    return span > 0 && seq_in(seg->seq + span - 1, hot->rcv_nxt, hot->rcv_adv);
}

/* An unacceptable segment is answered with an ACK, unless it is a RST. */
static enum verdict refuse(struct stack *stack, uint32_t conn, const struct segment *seg)
{
    struct conn_hot *hot = &stack->hot[conn];

    if (seg->flags & TCP_RST) {
        return VERDICT_tcp_rst_bad_seq;
    }
    hot->flags |= CONN_ACK_NOW;
    conn_mark_output(stack, conn);
    if (seq_le(seg->seq + segment_span(seg), hot->rcv_nxt)) {
        return VERDICT_tcp_dup;
    }
    return VERDICT_tcp_out_of_window;
}

/* RFC 5961 section 3: only the exact sequence number resets. */
static enum verdict handle_rst(struct stack *stack, uint32_t conn, const struct segment *seg)
{
    if (seg->seq != stack->hot[conn].rcv_nxt) {
        tcp_challenge(stack, conn);
        return VERDICT_tcp_rst_bad_seq;
    }
    tcp_drop(stack, conn, CLOSE_RESET);
    return VERDICT_tcp_rst;
}

/*
 * RFC 5961 section 5: an ACK from before the largest window, or of what was never sent, is refused.
 * Deviation: the present window (at least 64 KiB) stands for the largest, which lies in a cold
 * line; an older ACK carries nothing new.
 */
static bool ack_acceptable(const struct conn_hot *hot, uint32_t ack)
{
    return seq_ge(ack, hot->snd_una - max_u32(hot->snd_wnd, UINT16_MAX)) &&
           seq_le(ack, hot->snd_max);
}

/* Fifth: the ACK. VERDICT_NONE: go on with the text; `gone` when the connection ended. */
static enum verdict check_ack(struct stack *stack, uint32_t conn, const struct segment *seg,
                              bool *gone)
{
    struct conn_hot *hot = &stack->hot[conn];

    if (!(seg->flags & TCP_ACK)) {
        return VERDICT_tcp_bad_ack;
    }
    if (hot->state == CONN_SYN_RCVD) {
        if (!seq_gt(seg->ack, hot->snd_una) || !seq_le(seg->ack, hot->snd_max)) {
            tcp_reply_rst(stack, &hot->tuple, seg);
            return VERDICT_tcp_bad_ack;
        }
        tcp_established(stack, conn, seg);
        return VERDICT_NONE;
    }
    if (!ack_acceptable(hot, seg->ack)) {
        tcp_challenge(stack, conn);
        return VERDICT_tcp_bad_ack;
    }
    *gone = !tcp_ack(stack, conn, seg);
    return VERDICT_NONE;
}

/*
 * SYN-RCVD after both SYNs crossed (section 3.5, figure 8): the peer's SYN comes again, with the
 * ACK of ours. Its number is taken already, so the four cases would refuse it, on both sides.
 */
static bool is_crossed_syn_ack(const struct conn_hot *hot, const struct segment *seg)
{
    return hot->state == CONN_SYN_RCVD && seg->seq + 1 == hot->rcv_nxt && seg->len == 0 &&
           (seg->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == (TCP_SYN | TCP_ACK) &&
           seq_gt(seg->ack, hot->snd_una) && seq_le(seg->ack, hot->snd_max);
}

/* A connection in a synchronized state, or SYN-RCVD. */
static enum verdict arrives(struct stack *stack, uint32_t conn, const struct segment *seg)
{
    struct conn_hot *hot = &stack->hot[conn];
    bool probe = seg->seq == hot->rcv_nxt && hot->rcv_adv == hot->rcv_nxt && segment_span(seg) > 0;
    struct segment bare = *seg;
    enum verdict verdict;
    bool gone = false;

    if (hot->state == CONN_SYN_RCVD && (seg->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN &&
        seg->seq + 1 == hot->rcv_nxt) { /* the SYN again: so is our answer */
        hot->snd_nxt = hot->snd_una;
        conn_mark_output(stack, conn);
        return VERDICT_tcp_dup;
    }
    if (is_crossed_syn_ack(hot, seg)) {
        tcp_established(stack, conn, seg);
        hot->flags |= CONN_ACK_NOW;
        conn_mark_output(stack, conn);
        return VERDICT_tcp_ok;
    }
    if (probe) { /* zero window: the text is refused, RST and ACK are taken (MUST-66) */
        bare.len = 0;
        bare.flags &= (uint8_t)~TCP_FIN;
        hot->flags |= CONN_ACK_NOW;
        conn_mark_output(stack, conn);
    } else if (!acceptable(hot, seg)) {
        return refuse(stack, conn, seg);
    }
    if (bare.flags & TCP_RST) {
        return handle_rst(stack, conn, &bare);
    }
    if (bare.flags & TCP_SYN) {
        tcp_challenge(stack, conn);
        return VERDICT_tcp_syn_challenge;
    }
    verdict = check_ack(stack, conn, &bare, &gone);
    if (verdict != VERDICT_NONE) {
        return verdict;
    }
    if (gone || probe) {
        return probe ? VERDICT_tcp_out_of_window : VERDICT_tcp_ok;
    }
    return tcp_text(stack, conn, &bare);
}

/* TIME-WAIT: a new SYN beyond the old window may reuse the tuple (MAY-2); RSTs are ignored (RFC
 * 1337). */
static enum verdict time_wait(struct stack *stack, struct frame *frame, uint32_t conn,
                              const struct segment *seg)
{
    struct conn_hot *hot = &stack->hot[conn];

    if (seg->flags & TCP_RST) {
        return VERDICT_tcp_late_rst;
    }
    if ((seg->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && seq_gt(seg->seq, hot->rcv_nxt)) {
        conn_free(stack, conn);
        return tcp_listen(stack, frame, seg);
    }
    if (seg->flags & TCP_FIN) {
        hot->rtx_at = tick_after(stack, stack->config->time_wait_us);
        timer_update(stack, conn);
    }
    hot->flags |= CONN_ACK_NOW;
    conn_mark_output(stack, conn);
    return VERDICT_tcp_dup;
}

static uint32_t find(const struct stack *stack, const struct frame *frame)
{
    uint32_t conn = frame->conn;

    if (conn < stack->config->conns_max && stack->hot[conn].state != CONN_FREE &&
        memcmp(&stack->hot[conn].tuple, &frame->tuple, sizeof(struct tuple)) == 0) {
        return conn;
    }
    return flow_lookup(stack, &frame->tuple, frame->hash); /* opened or freed within the burst */
}

void tcp_input(struct stack *stack, struct frame *frame)
{
    struct segment seg;
    uint32_t conn;

    frame->verdict = (uint8_t)segment_parse(stack, frame, &seg);
    if (frame->verdict != VERDICT_NONE) {
        return;
    }
    conn = find(stack, frame);
    if (conn == CONN_NONE) {
        frame->verdict = (uint8_t)tcp_listen(stack, frame, &seg);
        return;
    }
    switch (conn_touch(stack, conn)->state) {
    case CONN_SYN_SENT:
        frame->verdict = (uint8_t)tcp_syn_sent(stack, conn, &seg);
        break;
    case CONN_TIME_WAIT:
        frame->verdict = (uint8_t)time_wait(stack, frame, conn, &seg);
        break;
    default:
        frame->verdict = (uint8_t)arrives(stack, conn, &seg);
    }
}
