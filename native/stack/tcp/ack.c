/* The send side of an acceptable ACK: window, what left the queue, RTT, congestion (RFC 5681,
 * 6582). */
#include "stack/chunk.h"
#include "stack/timer.h"
#include "stack/tcp/tcp.h"

/* RFC 9293 section 3.10.7.4: newer segments only. True when the window is what it was. */
static bool update_window(struct stack *stack, uint32_t conn, const struct segment *seg)
{
    struct conn_hot *hot = &stack->hot[conn];
    uint32_t wnd = seg->wnd << (hot->wscale & 15);

    if (wnd == hot->snd_wnd) {
        if (seq_gt(seg->seq, hot->snd_wl1)) {
            hot->snd_wl1 = seg->seq;
        }
        return true;
    }
    if (!seq_gt(seg->ack, hot->snd_una) && !seq_ge(seg->seq, hot->snd_wl1)) {
        return false;
    }
    hot->snd_wl1 = seg->seq;
    hot->snd_wnd = wnd;
    if ((hot->flags & CONN_PROBING) && wnd > 0) {
        hot->flags &= (uint8_t)~CONN_PROBING;
        hot->rtx_at = 0;
        hot->retries = 0;
        tcp_rto_restore(stack, conn);
    }
    return false;
}

/* RFC 6582 section 3.2, step 3: a partial ACK shows the next hole, a full one ends recovery. */
static void recovery_ack(struct conn_hot *hot, struct conn_active *active, uint32_t acked,
                         uint32_t ack)
{
    if (seq_ge(ack, active->recover)) {
        active->flags &= ~(uint32_t)ACTIVE_RECOVERY;
        active->cwnd = min_u32(active->ssthresh, max_u32(hot->snd_max - ack, hot->mss) + hot->mss);
        return;
    }
    active->flags |= ACTIVE_RESEND;
    active->cwnd -= min_u32(acked, active->cwnd - hot->mss);
    if (acked >= hot->mss) {
        active->cwnd += hot->mss;
    }
}

/* RFC 5681 section 3.1: slow start, then one segment a window. */
static void grow_window(struct stack *stack, const struct conn_hot *hot, struct conn_active *active,
                        uint32_t acked)
{
    if (active->cwnd < active->ssthresh) {
        if (active->cwnd < TCP_CWND_MAX) {
            active->cwnd += min_u32(acked, 2u * hot->mss);
        }
        return;
    }
    active_touch_all(stack, hot->active);
    active->acked_bytes += acked;
    if (active->acked_bytes >= active->cwnd) {
        active->acked_bytes -= active->cwnd;
        active->cwnd = min_u32(active->cwnd + hot->mss, TCP_CWND_MAX);
    }
}

static void take_rtt(struct stack *stack, uint32_t conn, struct conn_active *active, uint32_t ack)
{
    if ((active->flags & ACTIVE_TIMING) && seq_gt(ack, active->rtt_seq)) {
        active->flags &= ~(uint32_t)ACTIVE_TIMING;
        tcp_rtt_sample(stack, conn, (uint32_t)stack->now_us - active->rtt_at_us);
    }
}

static void drop_acked(struct stack *stack, uint32_t conn, struct conn_active *active,
                       const struct segment *seg)
{
    struct conn_hot *hot = &stack->hot[conn];
    uint32_t acked = seg->ack - hot->snd_una;
    uint32_t data = min_u32(acked, active->snd.bytes); /* the rest is our FIN */

    take_rtt(stack, conn, active, seg->ack);
    if (active->flags & ACTIVE_RECOVERY) {
        recovery_ack(hot, active, acked, seg->ack);
    } else {
        grow_window(stack, hot, active, acked);
    }
    queue_drop(stack, &active->snd, data);
    if (data > 0) {
        conn_mark_ready(stack, conn); /* room to write */
    }
}

static void new_ack(struct stack *stack, uint32_t conn, const struct segment *seg)
{
    struct conn_hot *hot = &stack->hot[conn];
    struct conn_active *active = NULL;

    if (hot->active != NONE) {
        active = active_touch(stack, hot->active);
        drop_acked(stack, conn, active, seg);
    }
    hot->snd_una = seg->ack;
    if (seq_lt(hot->snd_nxt, seg->ack)) {
        hot->snd_nxt = seg->ack;
    }
    if (active && hot->snd_nxt == seg->ack) {
        active->cur_chunk = NONE; /* its chunk may be gone */
    }
    if (hot->retries > 0) {
        tcp_rto_restore(stack, conn);
        hot->retries = 0;
    }
    hot->dupacks = 0;
    hot->flags &= (uint8_t)~CONN_PROBING;
    hot->rtx_at = 0;
    if (hot->snd_una != hot->snd_max) {
        tcp_arm_rtx(stack, conn); /* RFC 6298 section 5.3 */
    }
}

/* RFC 5681 section 3.2, step 2; RFC 6582 for when not to. */
static void fast_retransmit(struct stack *stack, struct conn_hot *hot, struct conn_active *active)
{
    active_touch_all(stack, hot->active);
    active->ssthresh = max_u32(tcp_flight(hot) / 2, 2u * hot->mss);
    active->cwnd = active->ssthresh + 3u * hot->mss;
    active->recover = hot->snd_max;
    active->flags |= ACTIVE_RECOVERY | ACTIVE_RESEND;
    active->flags &= ~(uint32_t)ACTIVE_TIMING;
    stats_add(stack->stats, COUNTER_fast_retransmits, 1);
}

static void duplicate_ack(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];
    struct conn_active *active;

    if (hot->flags & CONN_PROBING) {
        hot->retries = 0; /* the peer lives: its window may stay closed for ever (MUST-37) */
        return;
    }
    if (hot->active == NONE || hot->snd_una == hot->snd_max) {
        return;
    }
    active = active_touch(stack, hot->active);
    hot->dupacks = (uint8_t)min_u32(hot->dupacks + 1u, UINT8_MAX);
    if (active->flags & ACTIVE_RECOVERY) {
        active->cwnd = min_u32(active->cwnd + hot->mss, TCP_CWND_MAX);
    } else if (hot->dupacks == 3 && seq_ge(hot->snd_una, active->recover)) {
        fast_retransmit(stack, hot, active);
    }
}

/* What the ACK of our FIN does. False: LAST-ACK has ended. */
static bool fin_acked(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];

    switch (hot->state) {
    case CONN_FIN_WAIT_1:
        hot->state = CONN_FIN_WAIT_2;
        if (hot->flags & CONN_RCV_CLOSED) { /* nobody reads: do not wait for ever */
            hot->rtx_at = tick_after(stack, stack->config->time_wait_us);
        }
        return true;
    case CONN_CLOSING:
        tcp_enter_time_wait(stack, conn);
        return true;
    case CONN_LAST_ACK:
        tcp_drop(stack, conn, CLOSE_DONE);
        return false;
    default:
        return true;
    }
}

bool tcp_ack(struct stack *stack, uint32_t conn, const struct segment *seg)
{
    struct conn_hot *hot = &stack->hot[conn];
    bool same_window = update_window(stack, conn, seg);

    if (seq_gt(seg->ack, hot->snd_una)) {
        new_ack(stack, conn, seg);
    } else if (seg->ack == hot->snd_una && seg->len == 0 && same_window &&
               !(seg->flags & TCP_FIN)) {
        duplicate_ack(stack, conn);
    }
    conn_mark_output(stack, conn);
    if ((hot->flags & CONN_FIN_SENT) && hot->snd_una == hot->snd_max) {
        return fin_acked(stack, conn);
    }
    return true;
}
