/*
 * From picoTCP to a TX slot: the peer's port is put back, and what the frame tells (the number that
 * picoTCP acknowledges, how far it has sent, its FIN) is noted for the filter. After a
 * retransmission picoTCP's SND.NXT may stay behind what was acknowledged, and its ACKs, FIN and RST
 * would carry that: they are given the right number here.
 */
#include <arpa/inet.h>
#include <string.h>

#include "base/csum.h"
#include "base/seq.h"
#include "engine_picotcp/picotcp.h"

enum {
    FIN_AGAIN_US = 200000,
    ICMP_ECHO_REPLY = 0,
};

/* The connection of a segment that leaves; NONE: it is of one that has ended. */
static uint32_t conn_of(const struct picotcp *engine, const struct wire_ipv4 *ip,
                        const struct wire_tcp *tcp)
{
    const struct stack *stack = engine->stack;
    uint32_t conn = (uint32_t)ntohs(tcp->dst_port) - 1;

    if (conn >= stack->config->conns_max || stack->hot[conn].state == CONN_FREE ||
        (engine->conns[conn].flags & OWN_ENDED) || stack->hot[conn].tuple.raddr != ip->dst ||
        stack->hot[conn].tuple.lport != tcp->src_port) {
        return NONE;
    }
    return conn;
}

static void note(struct picotcp *engine, uint32_t conn, const struct wire_tcp *tcp, uint32_t len)
{
    struct picotcp_conn *own = &engine->conns[conn];
    uint32_t seq = ntohl(tcp->seq);
    uint32_t end = seq + len + ((tcp->flags & TCP_SYN) != 0) + ((tcp->flags & TCP_FIN) != 0);

    if (tcp->flags & TCP_SYN) {
        own->snd_una = own->snd_edge = own->snd_put = own->snd_max = end;
        return;
    }
    if (tcp->flags & TCP_RST) {
        stats_add(engine->stack->stats, COUNTER_rsts_sent, 1);
        return;
    }
    if (seq_gt(end, own->snd_max)) {
        own->snd_max = end;
    } else if (len > 0) {
        stats_add(engine->stack->stats, COUNTER_retransmits, 1);
    }
    if ((tcp->flags & TCP_ACK) && seq_gt(ntohl(tcp->ack), own->rcv_nxt)) {
        own->rcv_nxt = ntohl(tcp->ack);
    }
    own->window = ntohs(tcp->window);
    if (tcp->flags & TCP_FIN) {
        own->flags |= OWN_FIN_OUT;
        own->fin_us = engine->stack->now_us;
    }
}

/* RFC 1624: the checksum when one 16-bit word of what it covers changes. */
static uint16_t checksum_changed(uint16_t check, uint16_t from, uint16_t to)
{
    uint32_t sum = (uint32_t)(uint16_t)~check + (uint16_t)~from + to;

    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~(uint16_t)((sum & 0xffff) + (sum >> 16));
}

/* The number that a segment without bytes has to carry. */
static uint32_t right_seq(struct picotcp_conn *own, const struct wire_tcp *tcp)
{
    uint32_t seq = ntohl(tcp->seq);

    if (tcp->flags & TCP_FIN) {
        own->fin_ack = seq + 1; /* what picoTCP waits for */
        return own->snd_put;
    }
    if ((tcp->flags & TCP_RST) || tcp->flags == TCP_ACK) {
        return own->snd_max;
    }
    return seq;
}

static void set_seq(struct wire_tcp *tcp, uint32_t seq)
{
    uint32_t was = tcp->seq;

    seq = htonl(seq);
    tcp->check = checksum_changed(tcp->check, (uint16_t)was, (uint16_t)seq);
    tcp->check = checksum_changed(tcp->check, (uint16_t)(was >> 16), (uint16_t)(seq >> 16));
    tcp->seq = seq;
}

/* Restores the peer's port in the slot's copy; false: the frame is of nobody's. */
static bool restore(struct picotcp *engine, uint8_t *buf, uint32_t len)
{
    uint8_t *l4 = buf + ETH_HDR_LEN + IPV4_HDR_LEN;
    struct wire_ipv4 ip;
    struct wire_tcp tcp;
    uint32_t header;
    uint32_t payload;
    uint32_t conn;
    uint16_t port;

    if (len < TCP_HEADERS_LEN) {
        return false;
    }
    memcpy(&ip, buf + ETH_HDR_LEN, sizeof(ip));
    memcpy(&tcp, l4, sizeof(tcp));
    conn = conn_of(engine, &ip, &tcp);
    header = IPV4_HDR_LEN + (uint32_t)(tcp.data_off >> 4) * 4;
    if (conn == NONE || header > ntohs(ip.total_len)) {
        return false;
    }
    payload = ntohs(ip.total_len) - header;
    if (payload == 0 && engine->stack->hot[conn].state != CONN_SYN_RCVD) {
        set_seq(&tcp, right_seq(&engine->conns[conn], &tcp));
    }
    note(engine, conn, &tcp, payload);
    port = engine->stack->hot[conn].tuple.rport;
    tcp.check = checksum_changed(tcp.check, tcp.dst_port, port);
    tcp.dst_port = port;
    memcpy(l4, &tcp, sizeof(tcp));
    return true;
}

/*
 * Whether the frame may leave; its copy in the slot is made right. An installed picoTCP may have
 * been built with more than we use (IGMP, IPv6), and announces itself by it.
 */
static bool pass(struct picotcp *engine, const uint8_t *frame, uint8_t *buf, uint32_t len)
{
    uint16_t type;

    memcpy(&type, frame + 2 * ETH_ALEN_BYTES, sizeof(type));
    if (type == htons(ETHERTYPE_ARP)) {
        picotcp_arp_asked(engine, frame, len);
        return true;
    }
    if (type != htons(ETHERTYPE_IPV4) || len <= ETH_HDR_LEN + IPV4_HDR_LEN) {
        return false;
    }
    switch (frame[ETH_HDR_LEN + offsetof(struct wire_ipv4, protocol)]) {
    case PROTO_TCP:
        return restore(engine, buf, len);
    case PROTO_ICMP:
        return frame[ETH_HDR_LEN + IPV4_HDR_LEN] == ICMP_ECHO_REPLY;
    default:
        return false;
    }
}

int32_t picotcp_send(void *host, const uint8_t *frame, uint32_t len)
{
    struct picotcp *engine = host;
    struct stack *stack = engine->stack;
    uint8_t *buf = tx_reserve(stack);

    if (!buf) {
        return 0;
    }
    engine->sent++;
    if (len >= ETH_HDR_LEN && len <= (uint32_t)stack->config->mtu + ETH_HDR_LEN) {
        memcpy(buf, frame, len);
        if (pass(engine, frame, buf, len)) {
            tx_push(stack, len);
            return 1;
        }
    }
    stats_add(stack->stats, COUNTER_egress_refused, 1);
    return 1;
}

static struct reply *reply_of(struct picotcp *engine, uint32_t conn, uint8_t flags, uint32_t seq)
{
    struct stack *stack = engine->stack;
    const struct picotcp_conn *own = &engine->conns[conn];
    struct reply *reply = reply_add(stack, REPLY_TCP);

    if (reply) {
        reply->tuple = stack->hot[conn].tuple;
        reply->tcp_flags = flags;
        reply->seq = seq;
        reply->ack = own->rcv_nxt;
        reply->window = own->window;
    }
    return reply;
}

void picotcp_ack(struct picotcp *engine, uint32_t conn)
{
    if (reply_of(engine, conn, TCP_ACK, engine->conns[conn].snd_max)) {
        stats_add(engine->stack->stats, COUNTER_challenge_acks, 1);
    }
}

/*
 * picoTCP tells of room only when its window was closed entirely: a peer that was left a few bytes
 * would wait for its persist timer. All has been read, so its whole buffer is free again.
 */
void picotcp_open_window(struct picotcp *engine, uint32_t conn)
{
    struct picotcp_conn *own = &engine->conns[conn];
    uint16_t was = own->window;

    if (was >= PICOTCP_BUFFER / 2 || engine->stack->hot[conn].state == CONN_SYN_RCVD) {
        return;
    }
    own->window = PICOTCP_BUFFER;
    if (!reply_of(engine, conn, TCP_ACK, own->snd_max)) {
        own->window = was;
    }
}

void picotcp_fin_again(struct picotcp *engine, uint32_t conn)
{
    struct picotcp_conn *own = &engine->conns[conn];
    uint64_t wait_us = (uint64_t)FIN_AGAIN_US << own->fin_tries;

    if (!(own->flags & OWN_FIN_OUT) || own->snd_una == own->snd_max ||
        engine->stack->now_us - own->fin_us < wait_us) {
        return;
    }
    if (reply_of(engine, conn, TCP_FIN | TCP_ACK, own->snd_max - 1)) {
        own->fin_us = engine->stack->now_us;
        own->fin_tries = (uint8_t)min_u32(own->fin_tries + 1u, 4);
        stats_add(engine->stack->stats, COUNTER_retransmits, 1);
    }
}
