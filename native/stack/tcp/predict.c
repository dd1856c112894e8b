/*
 * Header prediction (Van Jacobson): an established connection receives the next bytes, which also
 * acknowledge all that was sent, and answers with one segment. Whatever is not exactly that takes
 * the long way through input.c and output.c, which decide the same; test_predict.c compares them.
 */
#include <arpa/inet.h>

#include "base/csum.h"
#include "stack/arp.h"
#include "stack/chunk.h"
#include "stack/eth.h"
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
    bool plain;   /* no options, ACK and perhaps PSH */
};

static struct header read_header(const struct frame *frame)
{
    struct wire_tcp tcp;

    memcpy(&tcp, frame->data + frame->l4_off, sizeof(tcp));
    return (struct header){
        .seq = ntohl(tcp.seq),
        .ack = ntohl(tcp.ack),
        .wnd = ntohs(tcp.window),
        .len = frame->l4_len - TCP_HDR_LEN,
        .plain = tcp.data_off == PLAIN_HEADER && (tcp.flags & ~TCP_PSH) == TCP_ACK,
    };
}

/* The connection waits for nothing but this segment. */
static bool is_usual(const struct conn_hot *hot, const struct header *header)
{
    return hot->state == CONN_ESTABLISHED && (hot->flags & ~USUAL_FLAGS) == 0 &&
           header->seq == hot->rcv_nxt && header->ack == hot->snd_max &&
           header->len <= hot->rcv_adv - hot->rcv_nxt && hot->retries == 0 && hot->dupacks == 0 &&
           header->wnd > 0 && hot->active != NONE;
}

/* Nothing queued but one chunk that this segment acknowledges. */
static bool is_calm(const struct conn_hot *hot, const struct conn_active *active)
{
    return active->rcv.head == NONE && active->ooo.head == NONE &&
           (active->flags & ~(uint32_t)ACTIVE_TIMING) == 0 &&
           active->snd.head == active->snd.tail &&
           active->snd.bytes == hot->snd_max - hot->snd_una && active->cwnd < active->ssthresh;
}

/* A chunk whose bytes may be overwritten before the commit: never one that was queued before. */
static uint32_t take_chunk(struct stack *stack, struct conn_active *active)
{
    uint32_t index = active->spare_chunk;

    if (index == NONE) {
        return chunk_alloc(stack);
    }
    active->spare_chunk = NONE;
    return index;
}

/* What was sent is acknowledged: its chunk is kept for the next payload. */
static void take_ack(struct stack *stack, uint32_t conn, struct conn_active *active,
                     const struct header *header)
{
    struct conn_hot *hot = &stack->hot[conn];

    if (active->snd.head != NONE) {
        if (active->spare_chunk == NONE) {
            active->spare_chunk = active->snd.head;
        } else {
            chunk_free(stack, active->snd.head);
        }
        active->cwnd += min_u32(active->snd.bytes, 2u * hot->mss);
        queue_init(&active->snd);
    }
    if ((active->flags & ACTIVE_TIMING) && seq_gt(header->ack, active->rtt_seq)) {
        active->flags &= ~(uint32_t)ACTIVE_TIMING;
        tcp_rtt_sample(stack, conn, (uint32_t)stack->now_us - active->rtt_at_us);
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
static bool copy_payload(const struct frame *frame, uint8_t *to, uint32_t *sum)
{
    const uint8_t *l4 = frame->data + frame->l4_off;
    uint64_t payload = csum_copy(to, l4 + TCP_HDR_LEN, frame->l4_len - TCP_HDR_LEN);
    uint64_t rest = csum_pseudo(frame->tuple.raddr, frame->tuple.laddr, PROTO_TCP, frame->l4_len) +
                    csum_ipv4_header(l4); /* 20 bytes as well */

    *sum = CHUNK_SUM_KNOWN | csum_fold16(payload);
    return frame->csum != FRAME_CSUM_NONE || csum_fold(csum_carry(rest, payload)) == 0;
}

static void take_payload(struct stack *stack, struct conn_active *active, uint32_t index,
                         uint32_t len, uint32_t sum)
{
    *chunk_at(stack, index) =
        (struct chunk){.next = NONE, .start = 0, .end = (uint16_t)len, .sum = sum};
    active->rcv = (struct chunk_queue){.head = index, .tail = index, .bytes = len};
    stats_add(stack->stats, COUNTER_copied_bytes, len);
}

/* The segment is one that this file knows, for a connection that waits for nothing else. */
static bool is_expected(const struct stack *stack, const struct frame *frame,
                        const struct header *header)
{
    const struct conn_hot *hot = &stack->hot[frame->conn];

    return header->plain && is_usual(hot, header) && tuple_equal(&hot->tuple, &frame->tuple) &&
           is_calm(hot, conn_active_of(stack, frame->conn));
}

bool tcp_predicted_input(struct stack *stack, struct frame *frame)
{
    uint32_t conn = frame->conn;
    struct conn_active *active;
    struct header header;
    struct conn_hot *hot;
    uint32_t index;
    uint32_t sum;

    if (conn == CONN_NONE || frame->l4_len - TCP_HDR_LEN - 1 >= CHUNK_BYTES ||
        frame->contig < frame->l4_off + frame->l4_len) {
        return false;
    }
    header = read_header(frame);
    if (!is_expected(stack, frame, &header)) {
        return false;
    }
    hot = conn_touch(stack, conn);
    active = active_touch(stack, hot->active);
    index = take_chunk(stack, active);
    if (index == NONE) {
        return false;
    }
    if (!copy_payload(frame, chunk_data(stack, index), &sum)) {
        chunk_free(stack, index);
        return false; /* the long way finds it wrong and counts it */
    }
    take_ack(stack, conn, active, &header);
    take_payload(stack, active, index, header.len, sum);
    hot->rcv_nxt += header.len;
    frame->verdict = VERDICT_tcp_ok;
    return true;
}

/* Short payloads by whole blocks, which may end beyond `len`: within a buffer at either side. */
static inline void copy_short(uint8_t *to, const uint8_t *from, uint32_t len)
{
    for (uint32_t at = 0; at < len; at += COPY_BLOCK) {
        memcpy(to + at, from + at, COPY_BLOCK);
    }
}

static void copy_payload_out(const struct stack *stack, uint8_t *to, const uint8_t *from,
                             uint32_t len, uint32_t start)
{
    if (len <= COPY_SHORT && start + len <= CHUNK_BYTES - COPY_BLOCK &&
        stack->port->tx->nr_buf_size >=
            PORT_VNET_HDR_LEN + TCP_HEADERS_LEN + COPY_SHORT + COPY_BLOCK) {
        copy_short(to, from, len);
    } else {
        memcpy(to, from, len);
    }
}

/* One chunk to send, all windows open, nothing in flight. */
static bool may_answer(const struct conn_hot *hot, const struct conn_active *active)
{
    return hot->state == CONN_ESTABLISHED && (hot->flags & ~USUAL_FLAGS) == 0 &&
           hot->snd_nxt == hot->snd_una && hot->snd_max == hot->snd_una &&
           active->snd.head != NONE && active->snd.head == active->snd.tail &&
           active->snd.bytes <= hot->mss && active->snd.bytes <= hot->snd_wnd &&
           active->snd.bytes <= active->cwnd && active->rcv.head == NONE &&
           (active->flags & ~(uint32_t)ACTIVE_TIMING) == 0;
}

/* The 54 bytes of headers before a payload that stands in `buf` already. */
static void write_headers(const struct stack *stack, const struct conn_hot *hot, uint8_t *buf,
                          uint32_t len, uint32_t window, uint64_t payload_sum)
{
    uint8_t *ip = buf + ETH_HDR_LEN;
    uint8_t *l4 = ip + IPV4_HDR_LEN;
    uint16_t total = htons((uint16_t)(IPV4_HDR_LEN + TCP_HDR_LEN + len));
    uint32_t word[4] = {load_u32(&hot->tuple.lport), htonl(hot->snd_nxt), htonl(hot->rcv_nxt),
                        htonl(PLAIN_HEADER << 24 | (TCP_ACK | TCP_PSH) << 16 | window)};
    uint64_t sum = csum_pseudo(hot->tuple.laddr, hot->tuple.raddr, PROTO_TCP, TCP_HDR_LEN + len) +
                   word[0] + word[1] + word[2] + word[3] + payload_sum;

    store_u16(ip + offsetof(struct wire_ipv4, total_len), total);
    store_u16(ip + offsetof(struct wire_ipv4, check),
              csum_fold(stack->head_sum + total + hot->tuple.raddr));
    store_u32(ip + offsetof(struct wire_ipv4, dst), hot->tuple.raddr);
    store_u32(l4, word[0]);
    store_u32(l4 + offsetof(struct wire_tcp, seq), word[1]);
    store_u32(l4 + offsetof(struct wire_tcp, ack), word[2]);
    store_u32(l4 + offsetof(struct wire_tcp, data_off), word[3]);
    store_u32(l4 + offsetof(struct wire_tcp, check), csum_fold(sum)); /* urgent: 0 */
}

/* Everything up to the IP addresses, as it is in all that we send. */
static void write_link(const struct stack *stack, uint8_t *buf, const uint8_t mac[6])
{
    memcpy(buf, stack->head, sizeof(stack->head));
    store_u32(buf, load_u32(mac));
    store_u16(buf + 4, load_u16(mac + 4));
}

static void book_answer(struct stack *stack, uint32_t conn, struct conn_active *active,
                        uint32_t len)
{
    struct conn_hot *hot = &stack->hot[conn];

    if (!(active->flags & ACTIVE_TIMING) &&
        (uint32_t)stack->now_us - active->rtt_at_us > TCP_RTT_SAMPLE_US) {
        active->flags |= ACTIVE_TIMING;
        active->rtt_seq = hot->snd_nxt;
        active->rtt_at_us = (uint32_t)stack->now_us;
    }
    active->cur_chunk = NONE;
    hot->snd_nxt += len;
    hot->snd_max = hot->snd_nxt;
    hot->rcv_acked = hot->rcv_nxt;
    hot->delack_at = 0;
    tcp_arm_rtx(stack, conn);
    timer_update(stack, conn);
}

bool tcp_predicted_output(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];
    struct conn_active *active = conn_active_of(stack, conn);
    const struct chunk *chunk;
    const uint8_t *payload;
    const uint8_t *mac;
    uint8_t *buf;
    uint32_t len;
    uint64_t sum;

    if (!active || !may_answer(hot, active)) {
        return false;
    }
    mac = arp_resolve(stack, stack_next_hop(stack->config, hot->tuple.raddr));
    if (!mac) {
        return false;
    }
    buf = tx_reserve(stack);
    if (!buf) {
        return false;
    }
    conn_touch(stack, conn);
    active_touch(stack, hot->active);
    chunk = chunk_at(stack, active->snd.head);
    payload = chunk_data(stack, active->snd.head) + chunk->start;
    len = active->snd.bytes;
    if (chunk->sum & CHUNK_SUM_KNOWN) {
        sum = chunk->sum & UINT16_MAX;
        copy_payload_out(stack, buf + TCP_HEADERS_LEN, payload, len, chunk->start);
    } else {
        sum = csum_copy(buf + TCP_HEADERS_LEN, payload, len);
    }
    write_link(stack, buf, mac);
    write_headers(stack, hot, buf, len, tcp_window(stack, conn), sum);
    tx_push(stack, TCP_HEADERS_LEN + len);
    stats_add(stack->stats, COUNTER_copied_bytes, len);
    book_answer(stack, conn, active, len);
    return true;
}
