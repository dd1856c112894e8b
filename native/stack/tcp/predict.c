/*
 * Header prediction (Van Jacobson): an established connection receives the next bytes, which also
 * acknowledge all that was sent; its service is called and answers with one segment. Whatever is
 * not exactly that takes the long way through input.c and output.c, which decide the same;
 * test_predict.c compares them. Start reading at tcp_predicted.
 */
#include <arpa/inet.h>

#include "base/csum.h"
#include "stack/arp.h"
#include "stack/chunk.h"
#include "stack/ipv4.h"
#include "stack/timer.h"
#include "stack/tcp/tcp.h"

enum {
    USUAL_FLAGS = CONN_PASSIVE | CONN_WS_OK,
    PLAIN_HEADER = 0x50, /* data offset of 20 bytes */
    COPY_BLOCK = 64,
    COPY_SHORT = 256,
};

/* The fixed TCP header as it lies in the frame. */
struct header {
    uint32_t seq;
    uint32_t ack;
    uint32_t wnd;
    uint32_t len; /* of the payload */
};

/* The connection at hand, both of whose lines are saved. */
struct talk {
    uint32_t conn;
    struct conn_hot *hot;
    struct conn_active *active;
};

/* A payload in a chunk. */
struct payload {
    uint8_t *bytes;
    uint32_t len;
    uint32_t sum; /* as in struct chunk */
};

/* No options, ACK and perhaps PSH. */
static inline bool is_plain(const uint8_t *l4)
{
    uint32_t word = load_u32(l4 + offsetof(struct wire_tcp, data_off));

    return (word & htonl(~(uint32_t)(TCP_PSH << 16 | UINT16_MAX))) ==
           htonl(PLAIN_HEADER << 24 | TCP_ACK << 16);
}

static inline struct header read_header(const struct frame *frame, const uint8_t *l4)
{
    return (struct header){
        .seq = ntohl(load_u32(l4 + offsetof(struct wire_tcp, seq))),
        .ack = ntohl(load_u32(l4 + offsetof(struct wire_tcp, ack))),
        .wnd = ntohs(load_u16(l4 + offsetof(struct wire_tcp, window))),
        .len = frame->l4_len - TCP_HDR_LEN,
    };
}

/* Established, and nothing out of the ordinary is going on. */
static inline bool is_usual(const struct conn_hot *hot)
{
    uint16_t both = load_u16(&hot->state); /* and the flags behind it */

    return (both & ~(uint32_t)(USUAL_FLAGS << 8)) == CONN_ESTABLISHED;
}

/* The connection waits for nothing but this segment. */
static inline bool is_next(const struct conn_hot *hot, const struct header *header)
{
    return header->seq == hot->rcv_nxt && header->ack == hot->snd_max &&
           header->len <= hot->rcv_adv - hot->rcv_nxt &&
           load_u16(&hot->retries) == 0 && /* nor dupacks */
           header->wnd > 0;
}

/* Nothing queued but one chunk that this segment acknowledges. */
static inline bool is_calm(const struct conn_hot *hot, const struct conn_active *active)
{
    return (active->rcv.head & active->ooo.head) == NONE &&
           (active->flags & ~(uint32_t)ACTIVE_TIMING) == 0 &&
           active->snd.head == active->snd.tail &&
           active->snd.bytes == hot->snd_max - hot->snd_una && active->cwnd < active->ssthresh;
}

/* A chunk whose bytes may be overwritten before the commit: never one that was queued before. */
static inline uint32_t take_chunk(struct stack *stack, struct conn_active *active)
{
    uint32_t index = active->spare_chunk;

    if (index == NONE) {
        return chunk_alloc(stack);
    }
    active->spare_chunk = NONE;
    return index;
}

/* What was sent is acknowledged: its chunk is kept for the next payload. */
static inline void take_ack(struct stack *stack, const struct talk *talk,
                            const struct header *header)
{
    struct conn_hot *hot = talk->hot;
    struct conn_active *active = talk->active;

    if (active->snd.head != NONE) {
        if (active->spare_chunk == NONE) {
            active->spare_chunk = active->snd.head;
        } else {
            chunk_free(stack, active->snd.head);
        }
        if (active->cwnd < TCP_CWND_MAX) {
            active->cwnd += min_u32(active->snd.bytes, 2u * hot->mss);
        }
        queue_init(&active->snd);
    }
    if ((active->flags & ACTIVE_TIMING) && seq_gt(header->ack, active->rtt_seq)) {
        active->flags &= ~(uint32_t)ACTIVE_TIMING;
        tcp_rtt_sample(stack, talk->conn, (uint32_t)stack->now_us - active->rtt_at_us);
    }
    active->cur_chunk = NONE;
    hot->snd_una = header->ack;
    hot->snd_nxt = header->ack;
    hot->snd_wl1 = header->seq;
    hot->snd_wnd = header->wnd << (hot->wscale & 15);
    hot->rtx_at = 0;
}

/*
 * Copies the payload into a chunk that holds nothing: an undone step need not restore it. Fills the
 * payload's checksum, so that an echo does not add its bytes up again. False: it is wrong.
 */
static inline bool copy_payload(const struct frame *frame, const uint8_t *l4, uint8_t *to,
                                uint32_t *sum)
{
    uint64_t payload = csum_copy_short(to, l4 + TCP_HDR_LEN, frame->l4_len - TCP_HDR_LEN);
    uint64_t rest;

    *sum = CHUNK_SUM_KNOWN | csum_fold16(payload);
    if (frame->csum != FRAME_CSUM_NONE) {
        return true;
    }
    rest = csum_pseudo(frame->tuple.raddr, frame->tuple.laddr, PROTO_TCP, frame->l4_len) +
           csum_ipv4_header(l4); /* 20 bytes as well */
    return csum_fold(rest + (*sum & UINT16_MAX)) == 0;
}

/* The payload becomes the whole of a queue that was empty. */
static inline void take_payload(struct stack *stack, struct chunk_queue *queue, uint32_t index,
                                const struct payload *payload)
{
    *chunk_at(stack, index) = (struct chunk){
        .next = NONE, .start = 0, .end = (uint16_t)payload->len, .sum = payload->sum};
    *queue = (struct chunk_queue){.head = index, .tail = index, .bytes = payload->len};
    stats_add(stack->stats, COUNTER_copied_bytes, payload->len);
}

/*
 * Short payloads by whole blocks, which may end beyond `len`: in the chunk area there is always
 * something behind, and the slot is looked at.
 */
static inline void copy_out(const struct stack *stack, uint8_t *to, const uint8_t *from,
                            uint32_t len)
{
    uint32_t at = 0;

    if (unlikely(len > COPY_SHORT ||
                 stack->port->tx->nr_buf_size < PORT_VNET_HDR_LEN + TCP_HEADERS_LEN + COPY_SHORT)) {
        memcpy(to, from, len);
        return;
    }
    do {
        memcpy(to + at, from + at, COPY_BLOCK);
        at += COPY_BLOCK;
    } while (at < len);
}

/* One segment, and all windows are open. */
static inline bool fits(const struct conn_hot *hot, const struct conn_active *active, uint32_t len)
{
    return len <= hot->mss && len <= hot->snd_wnd && len <= active->cwnd;
}

/* One chunk to send, nothing in flight. */
static inline bool may_answer(const struct conn_hot *hot, const struct conn_active *active)
{
    return is_usual(hot) && ((hot->snd_nxt ^ hot->snd_una) | (hot->snd_max ^ hot->snd_una)) == 0 &&
           active->snd.head != NONE && active->snd.head == active->snd.tail &&
           active->rcv.head == NONE && (active->flags & ~(uint32_t)ACTIVE_TIMING) == 0 &&
           fits(hot, active, active->snd.bytes);
}

/* Everything up to the IP addresses, as it is in all that we send. */
static inline void write_link(const struct stack *stack, uint8_t *buf, const uint8_t mac[6])
{
    memcpy(buf, stack->head, sizeof(stack->head));
    store_u32(buf, load_u32(mac));
    store_u16(buf + 4, load_u16(mac + 4));
}

/* IPv4 and TCP before a payload that stands in `buf` already. */
static inline void write_headers(const struct stack *stack, const struct conn_hot *hot,
                                 uint8_t *buf, uint32_t window, const struct payload *payload)
{
    uint32_t len = payload->len;
    uint8_t *ip = buf + ETH_HDR_LEN;
    uint8_t *l4 = ip + IPV4_HDR_LEN;
    uint16_t total = htons((uint16_t)(IPV4_HDR_LEN + TCP_HDR_LEN + len));
    uint32_t ports = load_u32(&hot->tuple.lport);
    uint32_t seq = htonl(hot->snd_nxt);
    uint32_t ack = htonl(hot->rcv_nxt);
    uint32_t flags = htonl(PLAIN_HEADER << 24 | (TCP_ACK | TCP_PSH) << 16 | window);
    uint64_t sum = csum_pseudo(hot->tuple.laddr, hot->tuple.raddr, PROTO_TCP, TCP_HDR_LEN + len) +
                   ports + seq + ack + flags + (payload->sum & UINT16_MAX);

    store_u16(ip + offsetof(struct wire_ipv4, total_len), total);
    store_u16(ip + offsetof(struct wire_ipv4, check),
              csum_fold(stack->head_sum + total + hot->tuple.raddr));
    store_u32(ip + offsetof(struct wire_ipv4, dst), hot->tuple.raddr);
    store_u32(l4, ports);
    store_u32(l4 + offsetof(struct wire_tcp, seq), seq);
    store_u32(l4 + offsetof(struct wire_tcp, ack), ack);
    store_u32(l4 + offsetof(struct wire_tcp, data_off), flags);
    store_u32(l4 + offsetof(struct wire_tcp, check), csum_fold(sum)); /* urgent: 0 */
}

static inline void book_answer(struct stack *stack, const struct talk *talk, uint32_t len)
{
    struct conn_hot *hot = talk->hot;
    struct conn_active *active = talk->active;
    const struct conn_cold *cold = &stack->cold[talk->conn];

    if (!(active->flags & ACTIVE_TIMING) &&
        (uint32_t)stack->now_us - active->rtt_at_us > cold->rto_us / TCP_RTO_SAMPLES) {
        active->flags |= ACTIVE_TIMING;
        active->rtt_seq = hot->snd_nxt;
        active->rtt_at_us = (uint32_t)stack->now_us;
    }
    active->cur_chunk = NONE;
    hot->snd_nxt += len;
    hot->snd_max = hot->snd_nxt;
    hot->rcv_acked = hot->rcv_nxt;
    hot->delack_at = 0;
    hot->rtx_at = tick_after(stack, cold->rto_us);
    if (unlikely(cold->wheel_slot == WHEEL_NOWHERE ||
                 (int32_t)(cold->wheel_at - hot->rtx_at) > 0)) {
        timer_requeue(stack, talk->conn, hot->rtx_at);
    }
}

/*
 * Sends a payload of a connection that may answer. False: the ring is full or the next hop unknown.
 */
static always_inline bool send_payload(struct stack *stack, const struct talk *talk,
                                       struct payload *payload)
{
    struct conn_hot *hot = talk->hot;
    const uint8_t *mac = arp_resolve(stack, stack_next_hop(stack->config, hot->tuple.raddr));
    uint8_t *buf = mac ? tx_reserve(stack) : NULL;

    if (unlikely(!buf)) {
        return false;
    }
    if (payload->sum & CHUNK_SUM_KNOWN) {
        copy_out(stack, buf + TCP_HEADERS_LEN, payload->bytes, payload->len);
    } else {
        payload->sum = csum_fold16(csum_copy(buf + TCP_HEADERS_LEN, payload->bytes, payload->len));
    }
    write_link(stack, buf, mac);
    write_headers(stack, hot, buf, tcp_window(stack, hot, 0), payload);
    tx_push(stack, TCP_HEADERS_LEN + payload->len);
    stats_add(stack->stats, COUNTER_copied_bytes, payload->len);
    book_answer(stack, talk, payload->len);
    return true;
}

/* The same for a connection whose service has run, or whose turn to send it is. */
static bool answer(struct stack *stack, uint32_t conn)
{
    struct conn_active *active = conn_active_of(stack, conn);
    const struct chunk *chunk;
    struct payload payload;
    struct talk talk;

    if (!active || !may_answer(&stack->hot[conn], active)) {
        return false;
    }
    undo_save(&stack->arena, active);
    talk = (struct talk){.conn = conn, .hot = conn_touch(stack, conn), .active = active};
    chunk = chunk_at(stack, active->snd.head);
    payload = (struct payload){.bytes = chunk_data(stack, active->snd.head) + chunk->start,
                               .len = active->snd.bytes,
                               .sum = chunk->sum};
    return send_payload(stack, &talk, &payload);
}

/* The active record of a connection that this segment is the next of; NULL: not predicted. */
static inline struct conn_active *predict(struct stack *stack, const struct frame *frame,
                                          const struct header *header, const uint8_t *l4)
{
    struct conn_hot *hot = &stack->hot[frame->conn];
    struct conn_active *active;

    if (!is_plain(l4) || !is_usual(hot) || !is_next(hot, header) || hot->active == NONE ||
        (stack->opened && !tuple_equal(&hot->tuple, &frame->tuple))) {
        return NULL;
    }
    active = conn_active_of(stack, frame->conn);
    return is_calm(hot, active) ? active : NULL;
}

/*
 * The service may do whatever it likes with its connection, close it even: what follows looks
 * again. `more` of the same connection in the burst waits for its turn, so that the reply to both
 * is one segment.
 */
__attribute__((noinline)) static void serve(struct stack *stack, uint32_t conn,
                                            const struct service *service, bool more)
{
    if (more || service->step(stack, conn)) {
        conn_mark_ready(stack, conn);
        conn_mark_output(stack, conn);
    } else if (!answer(stack, conn)) {
        conn_mark_output(stack, conn);
    }
}

/* The payload, which is all that is queued, goes back as it came. */
static always_inline void mirror(struct stack *stack, const struct talk *talk,
                                 struct payload *payload)
{
    stats_add(stack->stats, COUNTER_service_bytes_in, payload->len);
    stats_add(stack->stats, COUNTER_service_bytes_out, payload->len);
    if (!fits(talk->hot, talk->active, payload->len) || !send_payload(stack, talk, payload)) {
        conn_mark_output(stack, talk->conn);
    }
}

/* A function of its own: inlined into the burst's loop, its values do not fit the registers. */
__attribute__((noinline)) bool tcp_predicted(struct stack *stack, struct frame *frame, bool more)
{
    const uint8_t *l4 = frame->data + frame->l4_off;
    const struct service *service;
    struct payload payload;
    struct header header;
    struct talk talk;
    uint32_t index;

    if (frame->l4_len - TCP_HDR_LEN - 1 >= CHUNK_BYTES ||
        frame->contig < frame->l4_off + frame->l4_len) {
        return false;
    }
    header = read_header(frame, l4);
    talk.conn = frame->conn;
    talk.active = predict(stack, frame, &header, l4);
    if (!talk.active) {
        return false;
    }
    talk.hot = conn_touch(stack, talk.conn);
    undo_save(&stack->arena, talk.active);
    index = take_chunk(stack, talk.active);
    if (index == NONE) {
        return false;
    }
    payload.bytes = chunk_data(stack, index);
    payload.len = header.len;
    if (!copy_payload(frame, l4, payload.bytes, &payload.sum)) {
        chunk_free(stack, index);
        return false; /* the long way finds it wrong and counts it */
    }
    take_ack(stack, &talk, &header);
    talk.hot->rcv_nxt += header.len;
    frame->verdict = VERDICT_tcp_ok;
    service = stack->services[talk.hot->service];
    if (service->mirror && !more && header.len <= stack->config->snd_buf) {
        take_payload(stack, &talk.active->snd, index, &payload);
        mirror(stack, &talk, &payload);
    } else {
        take_payload(stack, &talk.active->rcv, index, &payload);
        serve(stack, talk.conn, service, more);
    }
    return true;
}

bool tcp_predicted_output(struct stack *stack, uint32_t conn)
{
    return answer(stack, conn);
}
