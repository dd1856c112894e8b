/* Text and FIN: in order, out of order, and the window that we advertise. */
#include "stack/chunk.h"
#include "stack/timer.h"
#include "stack/tcp/tcp.h"

enum {
    OOO_CHUNKS_MAX = 512, /* out-of-order chunks one connection may hold */
};

/* Cuts off what lies outside [rcv_nxt, rcv_adv). */
static void trim(const struct conn_hot *hot, struct segment *seg)
{
    if (seq_lt(seg->seq, hot->rcv_nxt)) {
        uint32_t old = hot->rcv_nxt - seg->seq;

        if (seg->flags & TCP_SYN) {
            old--;
        }
        old = min_u32(old, seg->len);
        seg->off += old;
        seg->len -= old;
        seg->seq = hot->rcv_nxt;
    }
    if (seq_gt(seg->seq + seg->len, hot->rcv_adv)) {
        seg->len = hot->rcv_adv - seg->seq;
        seg->flags &= (uint8_t)~TCP_FIN;
    }
}

/* RFC 9293 section 3.10.7.4, eighth. */
static void take_fin(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];

    hot->rcv_nxt++;
    hot->rcv_adv = seq_lt(hot->rcv_adv, hot->rcv_nxt) ? hot->rcv_nxt : hot->rcv_adv;
    hot->flags |= CONN_PEER_FIN | CONN_ACK_NOW;
    switch (hot->state) {
    case CONN_ESTABLISHED:
        hot->state = CONN_CLOSE_WAIT;
        break;
    case CONN_FIN_WAIT_1: /* our FIN was acknowledged before, else the state were FIN-WAIT-2 */
        hot->state = CONN_CLOSING;
        break;
    case CONN_FIN_WAIT_2:
        tcp_enter_time_wait(stack, conn);
        break;
    default:
        break;
    }
    conn_mark_ready(stack, conn);
}

/* Moves what became contiguous from the out-of-order queue; both queues' record is touched. */
static void join_ooo(struct stack *stack, struct conn_hot *hot, struct conn_active *active)
{
    while (active->ooo.head != NONE) {
        const struct chunk *chunk = chunk_at(stack, active->ooo.head);
        uint32_t len = (uint32_t)(chunk->end - chunk->start);
        uint32_t old;
        uint32_t index;

        if (seq_gt(chunk->seq, hot->rcv_nxt)) {
            return;
        }
        old = hot->rcv_nxt - chunk->seq;
        index = queue_unlink(stack, &active->ooo);
        active->ooo_chunks--;
        if (old >= len) {
            chunk_free(stack, index);
            continue;
        }
        if (old > 0) {
            struct chunk *touched = chunk_touch(stack, index);
            touched->start = (uint16_t)(touched->start + old);
            touched->sum = 0;
        }
        queue_link(stack, &active->rcv, index);
        hot->rcv_nxt += len - old;
    }
}

static enum verdict in_order(struct stack *stack, uint32_t conn, struct segment *seg)
{
    struct conn_hot *hot = &stack->hot[conn];
    struct conn_active *active = conn_activate(stack, conn);
    uint32_t taken;

    if (!active) {
        return VERDICT_tcp_no_memory;
    }
    taken = queue_append_frame(stack, &active->rcv, seg->frame, seg->off, seg->len);
    hot->rcv_nxt += taken;
    if (active->ooo.head != NONE) {
        hot->flags |= CONN_ACK_NOW; /* a hole was filled (RFC 5681 section 4.2) */
        active_touch_all(stack, hot->active);
        join_ooo(stack, hot, active);
    }
    if (seg->seq + seg->len != hot->rcv_nxt) { /* text is missing before the FIN, or lies behind */
        seg->flags &= (uint8_t)~TCP_FIN;
    }
    if ((active->flags & ACTIVE_FIN_HELD) && active->fin_seq == hot->rcv_nxt) {
        seg->flags |= TCP_FIN;
        seg->seq = hot->rcv_nxt;
        seg->len = 0;
    }
    conn_mark_ready(stack, conn);
    return taken || seg->len == 0 ? VERDICT_tcp_ok : VERDICT_tcp_no_memory;
}

/* The last chunk in the queue whose first byte is not after `seq`; NONE: before all. */
static uint32_t ooo_place(const struct stack *stack, const struct chunk_queue *ooo, uint32_t seq)
{
    uint32_t before = NONE;

    if (ooo->tail != NONE && seq_le(chunk_at(stack, ooo->tail)->seq, seq)) {
        return ooo->tail;
    }
    for (uint32_t i = ooo->head; i != NONE && seq_le(chunk_at(stack, i)->seq, seq);
         i = chunk_at(stack, i)->next) {
        before = i;
    }
    return before;
}

static void ooo_insert(struct stack *stack, struct chunk_queue *ooo, uint32_t before,
                       uint32_t index)
{
    struct chunk *chunk = chunk_at(stack, index); /* touched: it is new */

    if (before == NONE) {
        chunk->next = ooo->head;
        ooo->head = index;
    } else {
        chunk->next = chunk_at(stack, before)->next;
        chunk_touch(stack, before)->next = index;
    }
    if (chunk->next == NONE) {
        ooo->tail = index;
    }
    ooo->bytes += (uint32_t)(chunk->end - chunk->start);
}

/* Stores one piece of a segment where nothing is yet; the first copy of a byte wins. */
static bool ooo_store(struct stack *stack, struct conn_active *active, const struct segment *seg)
{
    uint32_t seq = seg->seq;
    uint32_t end = seg->seq + seg->len;

    while (seq_lt(seq, end)) {
        uint32_t before = ooo_place(stack, &active->ooo, seq);
        const struct chunk *prev = before == NONE ? NULL : chunk_at(stack, before);
        uint32_t next = prev ? prev->next : active->ooo.head;
        uint32_t stop = end;
        uint32_t index;
        struct chunk *chunk;

        if (prev && seq_gt(prev->seq + (uint32_t)(prev->end - prev->start), seq)) {
            seq = prev->seq + (uint32_t)(prev->end - prev->start);
            continue;
        }
        if (next != NONE && seq_lt(chunk_at(stack, next)->seq, stop)) {
            stop = chunk_at(stack, next)->seq;
        }
        stop = seq_gt(stop, seq + CHUNK_BYTES) ? seq + CHUNK_BYTES : stop;
        index = active->ooo_chunks < OOO_CHUNKS_MAX ? chunk_alloc(stack) : NONE;
        if (index == NONE) {
            return false;
        }
        frame_copy(seg->frame, seg->off + (seq - seg->seq), chunk_data(stack, index), stop - seq);
        chunk = chunk_at(stack, index);
        chunk->seq = seq;
        chunk->end = (uint16_t)(stop - seq);
        ooo_insert(stack, &active->ooo, before, index);
        active->ooo_chunks++;
        stats_add(stack->stats, COUNTER_copied_bytes, stop - seq);
        seq = stop;
    }
    return true;
}

static enum verdict out_of_order(struct stack *stack, uint32_t conn, const struct segment *seg)
{
    struct conn_active *active = conn_activate(stack, conn);

    stack->hot[conn].flags |= CONN_ACK_NOW; /* a duplicate ACK tells the sender */
    if (!active) {
        return VERDICT_tcp_ooo_full;
    }
    active_touch_all(stack, stack->hot[conn].active);
    if (seg->flags & TCP_FIN) {
        active->flags |= ACTIVE_FIN_HELD;
        active->fin_seq = seg->seq + seg->len;
    }
    return ooo_store(stack, active, seg) ? VERDICT_tcp_ooo : VERDICT_tcp_ooo_full;
}

/* Nobody will read what comes: RST (SHLD-3, RFC 2525 section 2.17). */
static enum verdict unwanted(struct stack *stack, uint32_t conn, const struct segment *seg)
{
    tcp_reply_rst(stack, &stack->hot[conn].tuple, seg);
    tcp_drop(stack, conn, CLOSE_ABORTED);
    return VERDICT_tcp_ok;
}

enum verdict tcp_text(struct stack *stack, uint32_t conn, const struct segment *seg)
{
    struct conn_hot *hot = &stack->hot[conn];
    struct segment part = *seg;
    enum verdict verdict = VERDICT_tcp_ok;

    if (hot->flags & CONN_PEER_FIN) {
        return VERDICT_tcp_ok; /* after the peer's FIN there is no text */
    }
    trim(hot, &part);
    if (part.len > 0 && (hot->flags & CONN_RCV_CLOSED)) {
        return unwanted(stack, conn, seg);
    }
    if (part.len > 0 || (part.flags & TCP_FIN)) {
        if (part.seq != hot->rcv_nxt) {
            return out_of_order(stack, conn, &part);
        }
        if (part.len > 0) {
            verdict = in_order(stack, conn, &part);
        }
        if ((part.flags & TCP_FIN) && verdict == VERDICT_tcp_ok) {
            take_fin(stack, conn);
        }
    }
    return verdict;
}

bool tcp_window_opened(const struct stack *stack, uint32_t conn)
{
    const struct conn_hot *hot = &stack->hot[conn];
    uint32_t open = hot->rcv_adv - hot->rcv_nxt;
    uint32_t space = tcp_space(stack, hot, tcp_unread(stack, conn));
    uint32_t step = min_u32(stack->config->rcv_buf / 2, 2u * hot->mss);

    return space > open && space - open >= step && open < stack->config->rcv_buf / 2;
}
