/* Retransmission (RFC 6298), zero-window probes, delayed ACKs, the end of TIME-WAIT. */
#include "stack/chunk.h"
#include "stack/timer.h"
#include "stack/tcp/tcp.h"

uint32_t tcp_flight(const struct conn_hot *hot)
{
    return hot->snd_nxt - hot->snd_una;
}

/* The RTO without back-off. */
void tcp_rto_restore(struct stack *stack, uint32_t conn)
{
    struct conn_cold *cold = cold_touch(stack, conn);
    uint32_t rto = cold->srtt_us + max_u32(TICK_US, 4 * cold->rttvar_us);

    if (cold->srtt_us == 0) {
        rto = stack->config->rto_initial_us;
    }
    cold->rto_us = min_u32(max_u32(rto, stack->config->rto_min_us), TCP_RTO_MAX_US);
}

/* A sample near the mean leaves an RTO that stands at its minimum where it is. */
static bool changes_nothing(const struct stack *stack, const struct conn_cold *cold,
                            uint32_t rtt_us)
{
    return cold->rto_us == stack->config->rto_min_us &&
           cold->srtt_us + 4 * cold->rttvar_us <= cold->rto_us && rtt_us >= cold->srtt_us / 2 &&
           rtt_us <= 2 * cold->srtt_us;
}

/* RFC 6298 section 2: SRTT, RTTVAR, RTO. */
void tcp_rtt_sample(struct stack *stack, uint32_t conn, uint32_t rtt_us)
{
    struct conn_cold *cold = &stack->cold[conn];

    if (changes_nothing(stack, cold, rtt_us)) {
        return;
    }
    cold_touch(stack, conn);
    if (cold->srtt_us == 0) {
        cold->srtt_us = max_u32(rtt_us, 1);
        cold->rttvar_us = rtt_us / 2;
    } else {
        uint32_t error = rtt_us > cold->srtt_us ? rtt_us - cold->srtt_us : cold->srtt_us - rtt_us;
        cold->rttvar_us = cold->rttvar_us - cold->rttvar_us / 4 + error / 4;
        cold->srtt_us = max_u32(cold->srtt_us - cold->srtt_us / 8 + rtt_us / 8, 1);
    }
    tcp_rto_restore(stack, conn);
}

static void back_off(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];
    struct conn_cold *cold = cold_touch(stack, conn);

    cold->rto_us = min_u32(cold->rto_us * 2, TCP_RTO_MAX_US);
    hot->retries++;
}

static void rtx_syn(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];

    if (hot->retries >= TCP_SYN_RETRIES) {
        tcp_drop(stack, conn, CLOSE_TIMEOUT);
        return;
    }
    back_off(stack, conn);
    hot->rtx_at = 0;
    hot->snd_nxt = hot->snd_una;
    conn_mark_output(stack, conn);
}

/* RFC 5681 section 3.1, RFC 6298 section 5.4 to 5.6: back to snd_una with one segment. */
static void rtx_data(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];

    if (hot->retries >= stack->config->retries_max) {
        tcp_send_rst(stack, conn);
        tcp_drop(stack, conn, CLOSE_TIMEOUT);
        return;
    }
    stats_add(stack->stats, COUNTER_rto_expired, 1);
    if (hot->active != NONE) {
        struct conn_active *active = active_touch_all(stack, hot->active);

        if (hot->retries == 0) {
            active->ssthresh = max_u32((hot->snd_max - hot->snd_una) / 2, 2u * hot->mss);
        }
        active->cwnd = hot->mss;
        active->acked_bytes = 0;
        active->recover = hot->snd_max;
        active->cur_chunk = NONE;
        active->flags &= ~(uint32_t)(ACTIVE_TIMING | ACTIVE_RECOVERY | ACTIVE_RESEND);
    }
    back_off(stack, conn);
    hot->dupacks = 0;
    hot->rtx_at = 0;
    hot->snd_nxt = hot->snd_una;
    conn_mark_output(stack, conn);
}

/* The window may stay closed for ever while its ACKs come (MUST-37): only silence counts. */
static void probe(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];

    if (hot->retries >= stack->config->retries_max) {
        tcp_drop(stack, conn, CLOSE_TIMEOUT);
        return;
    }
    back_off(stack, conn);
    hot->rtx_at = 0;
    hot->flags &= (uint8_t)~CONN_PROBING;
    if (hot->active != NONE) {
        active_touch(stack, hot->active)->flags |= ACTIVE_PROBE;
    }
    conn_mark_output(stack, conn);
}

static void rtx_expired(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];

    switch (hot->state) {
    case CONN_SYN_SENT:
    case CONN_SYN_RCVD:
        rtx_syn(stack, conn);
        return;
    case CONN_TIME_WAIT:
        tcp_drop(stack, conn, CLOSE_DONE);
        return;
    case CONN_FIN_WAIT_2:
        if (hot->snd_una == hot->snd_max) { /* closed on our side, and the peer never ends */
            tcp_drop(stack, conn, CLOSE_TIMEOUT);
            return;
        }
        break;
    default:
        break;
    }
    if (hot->flags & CONN_PROBING) {
        probe(stack, conn);
    } else {
        rtx_data(stack, conn);
    }
}

void tcp_timer(struct stack *stack, uint32_t conn)
{
    uint32_t now = stack_tick(stack);
    struct conn_hot *hot = conn_touch(stack, conn);

    if (tick_reached(hot->delack_at, now)) {
        hot->delack_at = 0;
        hot->flags |= CONN_ACK_NOW;
        stats_add(stack->stats, COUNTER_acks_delayed, 1);
        conn_mark_output(stack, conn);
    }
    if (tick_reached(hot->rtx_at, now)) {
        rtx_expired(stack, conn);
    }
    if (hot->state == CONN_FREE) {
        return;
    }
    if (hot->active != NONE && hot->rtx_at == 0 && hot->delack_at == 0 &&
        tcp_quiet(hot, &stack->active[hot->active])) {
        conn_deactivate(stack, conn); /* idle for a timeout: RFC 5681 section 4.1 */
    }
    timer_update(stack, conn);
}
