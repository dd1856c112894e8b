/*
 * The filter in front of picoTCP: which frames it gets to see, and as what. Segments are judged
 * against the connection as its answers show it, so that what lies outside the window, repeats, or
 * is no exact RST never reaches it. Each rule names the flaw that it stands before; SECURITY.md
 * lists them. Start reading at picotcp_take.
 */
#include <arpa/inet.h>
#include <string.h>

#include "base/csum.h"
#include "base/seq.h"
#include "engine_picotcp/picotcp.h"
#include "stack/arp.h"
#include "stack/flow.h"
#include "stack/ipv4.h"
#include "stack/lane.h"
#include "stack/tcp/tcp.h"

enum {
    ICMP_ECHO_REQUEST = 8,
    PINGS_PER_TURN = 16,
    ACK_OLD_MAX = 65535, /* an ACK older than any window is none (RFC 5961 section 5) */
};

static bool feed(struct picotcp *engine, const struct segment *seg,
                 const struct scrub_options *options, struct scrubbed *what)
{
    uint32_t len;

    what->sums = engine->api->checks_sums;
    len = scrub_write(engine->stack, seg, options, what, engine->staging);
    if (!engine->api->input(engine->staging, len)) {
        return false;
    }
    engine->fed++;
    return true;
}

static uint16_t alias_of(uint32_t conn)
{
    return htons((uint16_t)(conn + 1));
}

/* picoTCP may have a number of its own for its FIN. */
static uint32_t ack_for(const struct picotcp_conn *own, const struct segment *seg)
{
    return (own->flags & OWN_FIN_OUT) && seg->ack == own->snd_max ? own->fin_ack : seg->ack;
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

/* The claim of a SYN that opens nothing goes back. */
static enum verdict refuse(struct stack *stack, const struct frame *frame, enum verdict verdict)
{
    stack_clear_later(stack, frame->hash);
    return verdict;
}

/* Whether picoTCP can carry one more; what it lacks is the verdict. */
static enum verdict admit(struct picotcp *engine, const struct frame *frame,
                          const struct scrub_options *options)
{
    struct stack *stack = engine->stack;

    if (options->mss != 0 && options->mss < SCRUB_MSS_MIN) {
        return VERDICT_filter_mss;
    }
    if (stack->shared->syn_rcvd >= min_u32(stack->config->backlog_max, PICOTCP_BACKLOG_MAX)) {
        return VERDICT_tcp_backlog_full;
    }
    if (engine->api->memory() > PICOTCP_MEMORY_MAX) {
        return VERDICT_tcp_table_full;
    }
    if (!picotcp_neighbour(engine, stack_next_hop(stack->config, frame->tuple.raddr))) {
        return VERDICT_filter_later;
    }
    return VERDICT_NONE;
}

static void feed_syn(struct picotcp *engine, uint32_t conn, const struct segment *seg,
                     const struct scrub_options *options)
{
    struct scrubbed what = {
        .remote_port = alias_of(conn), .flags = TCP_SYN, .seq = seg->seq, .off = seg->off};

    feed(engine, seg, options, &what); /* what it has no memory for comes again */
}

static enum verdict open_passive(struct picotcp *engine, const struct segment *seg,
                                 const struct scrub_options *options, uint8_t service)
{
    struct stack *stack = engine->stack;
    const struct frame *frame = seg->frame;
    uint32_t conn = conn_open(stack, frame->hash);
    struct conn_hot *hot;

    if (conn == NONE) {
        return refuse(stack, frame, VERDICT_tcp_table_full);
    }
    hot = &stack->hot[conn];
    hot->tuple = frame->tuple;
    hot->state = CONN_SYN_RCVD;
    hot->flags = CONN_PASSIVE;
    hot->service = service;
    stack->shared->syn_rcvd++; /* its line was saved by conn_alloc */
    engine->conns[conn] =
        (struct picotcp_conn){.rcv_nxt = seg->seq + 1,
                              .rcv_put = seg->seq + 1,
                              .window = UINT16_MAX,
                              .mss = options->mss ? options->mss : 536,
                              .wscale = options->wscale == UINT8_MAX ? 0 : options->wscale,
                              .heard_us = stack->now_us};
    feed_syn(engine, conn, seg, options);
    return VERDICT_tcp_syn;
}

static enum verdict listen_segment(struct picotcp *engine, const struct segment *seg,
                                   const struct scrub_options *options)
{
    struct stack *stack = engine->stack;
    const struct frame *frame = seg->frame;
    const struct listener *listener;
    enum verdict verdict;

    if (seg->flags & TCP_RST) {
        return VERDICT_tcp_late_rst;
    }
    if ((seg->flags & (TCP_SYN | TCP_ACK)) != TCP_SYN) {
        tcp_reply_rst(stack, &frame->tuple, seg);
        return VERDICT_tcp_no_connection;
    }
    listener = find_listener(stack, frame->tuple.lport);
    if (!listener || stack->shared->draining) {
        tcp_reply_rst(stack, &frame->tuple, seg);
        return refuse(stack, frame, VERDICT_tcp_no_listener);
    }
    verdict = admit(engine, frame, options);
    if (verdict != VERDICT_NONE) {
        return refuse(stack, frame, verdict);
    }
    return open_passive(engine, seg, options, listener->service);
}

/* One in 500 ms (RFC 5961 section 7). */
static void challenge(struct picotcp *engine, uint32_t conn)
{
    struct picotcp_conn *own = &engine->conns[conn];
    uint64_t now_us = engine->stack->now_us;

    if (own->challenge_us != 0 && now_us - own->challenge_us < TCP_CHALLENGE_US) {
        stats_add(engine->stack->stats, COUNTER_replies_limited, 1);
        return;
    }
    own->challenge_us = now_us;
    picotcp_ack(engine, conn);
}

/* RFC 5961 section 3: the exact number ends it, one in the window is asked about. */
static enum verdict take_rst(struct picotcp *engine, uint32_t conn, const struct segment *seg)
{
    struct picotcp_conn *own = &engine->conns[conn];

    if (seg->seq == own->rcv_nxt) {
        picotcp_end(engine, conn, CLOSE_RESET);
        return VERDICT_tcp_rst;
    }
    if (seg->seq - own->rcv_nxt <= own->window) {
        challenge(engine, conn);
    }
    return VERDICT_tcp_rst_bad_seq;
}

static enum verdict take_syn(struct picotcp *engine, uint32_t conn, const struct segment *seg,
                             const struct scrub_options *options)
{
    struct picotcp_conn *own = &engine->conns[conn];
    uint8_t state = engine->stack->hot[conn].state;

    if (state == CONN_SYN_RCVD && seg->seq + 1 == own->rcv_nxt) {
        feed_syn(engine, conn, seg, options);
        return VERDICT_tcp_dup;
    }
    if (state == CONN_SYN_RCVD || (state == CONN_TIME_WAIT && seq_gt(seg->seq, own->rcv_nxt))) {
        picotcp_end(engine, conn, state == CONN_TIME_WAIT ? CLOSE_DONE : CLOSE_RESET);
        return VERDICT_filter_later; /* the next SYN finds the place free */
    }
    challenge(engine, conn); /* RFC 5961 section 4 */
    return VERDICT_tcp_syn_challenge;
}

/* What the ACK says to us: we keep to the peer's window, picoTCP need not. */
static bool take_ack(struct picotcp *engine, uint32_t conn, const struct segment *seg)
{
    struct stack *stack = engine->stack;
    struct picotcp_conn *own = &engine->conns[conn];
    uint32_t edge = seg->ack + (seg->wnd << own->wscale);

    if (seq_gt(seg->ack, own->snd_max) || seq_lt(seg->ack, own->snd_una - ACK_OLD_MAX)) {
        picotcp_ack(engine, conn);
        return false;
    }
    own->flags &= (uint8_t)~OWN_ACKED_NEW;
    if (seq_lt(seg->ack, own->snd_una)) {
        return true;
    }
    if (seg->ack != own->snd_una) {
        own->snd_una = seg->ack;
        own->flags = (uint8_t)((own->flags & ~OWN_PROBE) | OWN_ACKED_NEW);
    }
    if (seq_gt(edge, own->snd_edge)) {
        own->snd_edge = edge;
    }
    if (stack->hot[conn].active != NONE) {
        conn_mark_output(stack, conn);
    }
    return true;
}

/*
 * No byte is new: picoTCP answers a repeated segment after a FIN with RST, so we answer. A new ACK
 * in it is handed over bare.
 */
static enum verdict take_old(struct picotcp *engine, uint32_t conn, const struct segment *seg,
                             const struct scrub_options *options)
{
    struct picotcp_conn *own = &engine->conns[conn];
    struct scrubbed what = {.remote_port = alias_of(conn),
                            .flags = TCP_ACK,
                            .ack = ack_for(own, seg),
                            .seq = own->rcv_nxt,
                            .off = seg->off};

    picotcp_ack(engine, conn);
    if (own->flags & OWN_ACKED_NEW) {
        feed(engine, seg, options, &what);
    }
    return VERDICT_tcp_dup;
}

/*
 * Bytes first, then the FIN as a segment of its own: picoTCP passes over a FIN that comes with
 * bytes. Once we have closed it takes any FIN for the next in order, so that one has to be exact.
 */
static enum verdict feed_text(struct picotcp *engine, uint32_t conn, const struct segment *seg,
                              const struct scrub_options *options)
{
    struct picotcp_conn *own = &engine->conns[conn];
    const struct conn_hot *hot = &engine->stack->hot[conn];
    bool done = own->flags & OWN_PEER_DONE; /* only its ACKs count */
    uint32_t skip = seq_lt(seg->seq, own->rcv_nxt) ? own->rcv_nxt - seg->seq : 0;
    struct scrubbed what = {.remote_port = alias_of(conn),
                            .flags = TCP_ACK,
                            .ack = ack_for(own, seg),
                            .seq = done ? own->rcv_nxt : seg->seq + skip,
                            .off = seg->off + skip,
                            .len = seg->len - min_u32(skip, seg->len)};
    bool fin = (seg->flags & TCP_FIN) && !done;
    bool fed = true;

    if (what.len > 0 || !fin || hot->state == CONN_SYN_RCVD) {
        what.flags |= what.len > 0 ? TCP_PSH : 0;
        fed = feed(engine, seg, options, &what);
    }
    what.seq += what.len;
    if (fin && fed && (hot->state < CONN_FIN_WAIT_1 || what.seq == own->rcv_nxt)) {
        what.flags = TCP_ACK | TCP_FIN;
        what.len = 0;
        feed(engine, seg, options, &what);
    }
    if (!fed) {
        return VERDICT_tcp_no_memory;
    }
    if (seq_lt(own->rcv_put, own->rcv_nxt)) {
        own->rcv_put = own->rcv_nxt;
    }
    if (seq_gt(seg->seq, own->rcv_put)) {
        return VERDICT_tcp_ooo;
    }
    own->rcv_put += seq_gt(what.seq, own->rcv_put) ? what.seq - own->rcv_put : 0;
    return VERDICT_tcp_ok;
}

static enum verdict open_segment(struct picotcp *engine, uint32_t conn, const struct segment *seg,
                                 const struct scrub_options *options)
{
    struct picotcp_conn *own = &engine->conns[conn];
    uint32_t end = seg->seq + segment_span(seg);

    own->heard_us = engine->stack->now_us;
    if (seg->flags & TCP_RST) {
        return take_rst(engine, conn, seg);
    }
    if (seg->flags & TCP_SYN) {
        return seg->flags & TCP_ACK ? VERDICT_filter_flags : take_syn(engine, conn, seg, options);
    }
    if (engine->stack->hot[conn].state == CONN_SYN_RCVD && seg->ack != own->snd_max) {
        tcp_reply_rst(engine->stack, &seg->frame->tuple, seg);
        return VERDICT_tcp_bad_ack;
    }
    if (!take_ack(engine, conn, seg)) {
        return VERDICT_tcp_bad_ack;
    }
    if (seq_lt(seg->seq, own->rcv_nxt) && !seq_gt(end, own->rcv_nxt)) {
        return take_old(engine, conn, seg, options);
    }
    if (seq_gt(seg->seq, own->rcv_nxt + PICOTCP_BUFFER) ||
        ((own->flags & OWN_PEER_DONE) && seg->len > 0)) {
        picotcp_ack(engine, conn);
        return VERDICT_tcp_out_of_window;
    }
    return feed_text(engine, conn, seg, options);
}

static enum verdict take_tcp(struct picotcp *engine, const struct frame *frame)
{
    struct stack *stack = engine->stack;
    struct scrub_options options;
    struct segment seg;
    enum verdict verdict = segment_parse(stack, frame, &seg);
    uint32_t conn;

    if (verdict != VERDICT_NONE) {
        return verdict;
    }
    if (!scrub_parse(frame, &seg, &options)) {
        return VERDICT_tcp_bad_header;
    }
    if (!scrub_flags(seg.flags)) {
        return VERDICT_filter_flags;
    }
    conn = flow_lookup(stack, &frame->tuple, frame->hash); /* may have come or gone in the burst */
    if (conn == NONE) {
        return listen_segment(engine, &seg, &options);
    }
    if (engine->conns[conn].flags & OWN_ENDED) {
        return VERDICT_tcp_no_connection; /* its RST has left, or its peer's has come */
    }
    return open_segment(engine, conn, &seg, &options);
}

/* Only echo requests, of one packet, with the right checksum, and not too many. */
static enum verdict take_icmp(struct picotcp *engine, const struct frame *frame)
{
    const struct stack_config *config = engine->stack->config;
    uint32_t len = ETH_HDR_LEN + IPV4_HDR_LEN + frame->l4_len;
    struct wire_ipv4 ip;
    uint8_t type;

    if (frame->l4_len < ICMP_HDR_LEN || frame->contig < (uint32_t)frame->l4_off + ICMP_HDR_LEN ||
        (frame->csum == FRAME_CSUM_NONE &&
         csum_fold(frame_sum(frame, frame->l4_off, frame->l4_len)) != 0)) {
        return VERDICT_icmp_malformed;
    }
    type = frame->data[frame->l4_off];
    if (type != ICMP_ECHO_REQUEST || frame->data[frame->l4_off + 1] != 0 || frame->broadcast ||
        frame->l4_len > (uint32_t)config->mtu - IPV4_HDR_LEN) {
        return type == 3 || type == 4 || type == 11 || type == 12 ? VERDICT_icmp_error
                                                                  : VERDICT_icmp_ignored;
    }
    if (engine->pings++ >= PINGS_PER_TURN) {
        return VERDICT_filter_flood;
    }
    if (!picotcp_neighbour(engine, stack_next_hop(config, frame->tuple.raddr))) {
        return VERDICT_filter_later;
    }
    frame_copy(frame, 0, engine->staging, ETH_HDR_LEN + IPV4_HDR_LEN);
    memcpy(&ip, engine->staging + ETH_HDR_LEN, sizeof(ip));
    ip.version_ihl = 0x45;
    ip.total_len = htons((uint16_t)(IPV4_HDR_LEN + frame->l4_len));
    ip.frag_off = 0;
    ip.check = 0;
    ip.check = csum_fold(csum_ipv4_header(&ip));
    memcpy(engine->staging + ETH_HDR_LEN, &ip, sizeof(ip));
    frame_copy(frame, frame->l4_off, engine->staging + ETH_HDR_LEN + IPV4_HDR_LEN, frame->l4_len);
    engine->fed += engine->api->input(engine->staging, len) != 0;
    return VERDICT_icmp_echo;
}

/* The shard whose ring it came to answers; each instance of picoTCP learns. */
static enum verdict take_arp(struct picotcp *engine, struct frame *frame)
{
    bool ours = frame->nslots > 0;

    if (ours) {
        arp_input(engine->stack, frame);
        if (frame->verdict == VERDICT_arp_malformed) {
            return VERDICT_arp_malformed;
        }
        picotcp_distribute(engine, frame);
    } else if (frame->contig < ETH_HDR_LEN + ARP_LEN) {
        return VERDICT_arp_malformed;
    }
    picotcp_arp(engine, frame);
    return ours ? (enum verdict)frame->verdict : VERDICT_arp_learned;
}

enum verdict picotcp_take(struct picotcp *engine, struct frame *frame)
{
    switch (frame->kind) {
    case FRAME_TCP:
        return take_tcp(engine, frame);
    case FRAME_ARP:
        return take_arp(engine, frame);
    default:
        return take_icmp(engine, frame);
    }
}

void picotcp_distribute(struct picotcp *engine, const struct frame *frame)
{
    struct stack *stack = engine->stack;

    for (uint32_t to = 0; to < stack->config->shards; to++) {
        if (to != stack->shard && lane_push(stack->cluster->lanes, stack->shard, to, frame)) {
            stats_add(stack->stats, COUNTER_wakeups_sent, doorbell_ring(stack->cluster, to));
        }
    }
}
