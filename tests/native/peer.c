/* A peer made of bare segments; see peer.h. */
#include "peer.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csum.h"
#include "base/wire.h"
#include "check.h"

void peer_put(struct peer *peer, const uint8_t *frame, uint32_t len)
{
    struct nm_ring *ring = peer->port->tx;

    CHECK(nm_ring_space(ring) > 0);
    memcpy(nm_ring_buf(ring, ring->head), frame, len);
    ring->slot[ring->head].len = (uint16_t)len;
    ring->slot[ring->head].flags = 0;
    nm_ring_give(ring, nm_ring_next(ring, ring->head));
    peer->port->ops->tx_sync(peer->port, peer->sim.now_us);
}

static void announce(struct peer *peer)
{
    uint8_t frame[ETH_HDR_LEN + ARP_LEN] = {0};
    struct wire_arp arp = {.htype = htons(1),
                           .ptype = htons(ETHERTYPE_IPV4),
                           .hlen = 6,
                           .plen = 4,
                           .oper = htons(1),
                           .spa = htonl(PEER_IP),
                           .tpa = htonl(SHARD_IP)};

    memcpy(arp.sha, mem_attachment_mac(peer->attachment, false), 6);
    memset(frame, 0xff, 6);
    memcpy(frame + 6, arp.sha, 6);
    frame[12] = 0x08;
    frame[13] = 0x06;
    memcpy(frame + ETH_HDR_LEN, &arp, sizeof(arp));
    peer_put(peer, frame, sizeof(frame));
}

void peer_open(struct peer *peer)
{
    peer_open_shards(peer, 1);
}

void peer_open_shards(struct peer *peer, uint32_t shards)
{
    memset(peer, 0, sizeof(*peer));
    sim_open(&peer->sim, &(struct sim_options){.shards = shards, .conns = 64, .seed = 5});
    CHECK_EQ(mem_attach_local(&peer->attachment, peer->sim.device), 0);
    peer->port = mem_attachment_port(peer->attachment);
    peer->ip = PEER_IP;
    peer->local_port = 40000;
    announce(peer);
    peer_run(peer, 1000);
    peer_flush(peer);
}

void peer_close(struct peer *peer)
{
    mem_detach(peer->attachment);
    sim_check_laws(&peer->sim);
    sim_close(&peer->sim);
}

static void parse_options(struct answer *answer, const uint8_t *opt, uint32_t len)
{
    for (uint32_t i = 0; i < len && opt[i] != 0; i += opt[i] == 1 ? 1 : opt[i + 1]) {
        if (opt[i] == 2) {
            answer->mss = (uint16_t)(opt[i + 2] << 8 | opt[i + 3]);
        } else if (opt[i] == 3) {
            answer->wscale = opt[i + 2];
        }
    }
}

static bool checksums_right(const uint8_t *ip, uint32_t tcp_len)
{
    struct wire_ipv4 header;
    uint64_t pseudo;

    memcpy(&header, ip, sizeof(header));
    pseudo = csum_pseudo(header.src, header.dst, PROTO_TCP, tcp_len);
    return csum_fold(csum_add(ip, IPV4_HDR_LEN, 0)) == 0 &&
           csum_fold(csum_add(ip + IPV4_HDR_LEN, tcp_len, pseudo)) == 0;
}

static void take_answer(struct peer *peer, const uint8_t *frame, uint32_t len)
{
    const uint8_t *ip = frame + ETH_HDR_LEN;
    struct answer *answer = &peer->answers[peer->answers_n];
    struct wire_tcp tcp;
    uint32_t header;
    uint32_t tcp_len;

    if (len < TCP_HEADERS_LEN || frame[12] != 0x08 || frame[13] != 0 || ip[9] != PROTO_TCP ||
        peer->answers_n == PEER_ANSWERS_MAX) {
        return;
    }
    tcp_len = (uint32_t)(ip[2] << 8 | ip[3]) - IPV4_HDR_LEN;
    CHECK(checksums_right(ip, tcp_len));
    memcpy(&tcp, ip + IPV4_HDR_LEN, sizeof(tcp));
    header = (uint32_t)(tcp.data_off >> 4) * 4;
    *answer = (struct answer){.seq = ntohl(tcp.seq),
                              .ack = ntohl(tcp.ack),
                              .window = ntohs(tcp.window),
                              .len = (uint16_t)(tcp_len - header),
                              .flags = tcp.flags,
                              .wscale = UINT8_MAX,
                              .to_port = ntohs(tcp.dst_port),
                              .at_us = peer->sim.now_us};
    parse_options(answer, ip + IPV4_HDR_LEN + TCP_HDR_LEN, header - TCP_HDR_LEN);
    memcpy(answer->payload, ip + IPV4_HDR_LEN + header, answer->len);
    peer->answers_n++;
}

static void collect(struct peer *peer)
{
    struct nm_ring *ring = peer->port->rx;

    peer->port->ops->rx_sync(peer->port, peer->sim.now_us);
    while (!nm_ring_empty(ring)) {
        const uint8_t *frame = nm_ring_buf(ring, ring->head);

        if (peer->tap) {
            peer->tap(peer, frame, ring->slot[ring->head].len);
        }
        take_answer(peer, frame, ring->slot[ring->head].len);
        nm_ring_give(ring, nm_ring_next(ring, ring->head));
    }
}

void peer_run(struct peer *peer, uint64_t us)
{
    for (uint64_t end = peer->sim.now_us + us; peer->sim.now_us < end;) {
        sim_step(&peer->sim);
        collect(peer);
    }
}

void peer_flush(struct peer *peer)
{
    peer->answers_n = 0;
    peer->read = 0;
}

const struct answer *peer_next(struct peer *peer)
{
    return peer->read < peer->answers_n ? &peer->answers[peer->read++] : NULL;
}

void peer_post(struct peer *peer, const struct send *send)
{
    uint8_t frame[2048] = {0};
    uint32_t len = send->len || !send->payload ? send->len : (uint32_t)strlen(send->payload);
    uint32_t tcp_len = TCP_HDR_LEN + send->options_len + len;
    uint8_t *l4 = frame + ETH_HDR_LEN + IPV4_HDR_LEN;
    struct wire_tcp tcp = {.src_port = htons(peer->local_port),
                           .dst_port = htons(peer->tcp_port),
                           .seq = htonl(peer->iss + send->seq),
                           .ack = send->flags & TCP_ACK ? htonl(peer->irs + send->ack) : 0,
                           .data_off = (uint8_t)((TCP_HDR_LEN + send->options_len) / 4 << 4),
                           .flags = send->flags,
                           .window = htons(send->window)};
    struct wire_ipv4 ip = {.version_ihl = 0x45,
                           .total_len = htons((uint16_t)(IPV4_HDR_LEN + tcp_len)),
                           .ttl = 64,
                           .protocol = PROTO_TCP,
                           .src = htonl(peer->ip),
                           .dst = htonl(SHARD_IP)};

    memcpy(frame, mem_attachment_mac(peer->attachment, true), 6);
    memcpy(frame + 6, mem_attachment_mac(peer->attachment, false), 6);
    frame[12] = 0x08;
    ip.check = csum_fold(csum_add(&ip, sizeof(ip), 0));
    memcpy(frame + ETH_HDR_LEN, &ip, sizeof(ip));
    memcpy(l4, &tcp, sizeof(tcp));
    if (send->options_len) {
        memcpy(l4 + TCP_HDR_LEN, send->options, send->options_len);
    }
    if (send->payload) {
        memcpy(l4 + TCP_HDR_LEN + send->options_len, send->payload, len);
    }
    tcp.check = csum_fold(csum_add(l4, tcp_len, csum_pseudo(ip.src, ip.dst, PROTO_TCP, tcp_len)));
    tcp.check = (uint16_t)(tcp.check ^ (send->damaged ? 1 : 0));
    memcpy(l4 + offsetof(struct wire_tcp, check), &tcp.check, sizeof(tcp.check));
    peer_put(peer, frame, ETH_HDR_LEN + IPV4_HDR_LEN + tcp_len);
}

void peer_send(struct peer *peer, const struct send *send)
{
    peer_post(peer, send);
    peer_run(peer, 200);
}

void peer_connect(struct peer *peer, uint16_t tcp_port)
{
    static const uint8_t mss[] = {2, 4, 1460 >> 8, 1460 & 255};
    const struct answer *answer;

    peer->tcp_port = tcp_port;
    peer->local_port++;
    peer->iss = 1000000;
    peer_send(peer,
              &(struct send){.flags = TCP_SYN, .window = 65535, .options = mss, .options_len = 4});
    answer = peer_next(peer);
    if (CHECK(answer && answer->flags == (TCP_SYN | TCP_ACK))) {
        CHECK_EQ(answer->ack, peer->iss + 1);
        peer->irs = answer->seq;
    }
    peer_send(peer, &(struct send){.seq = 1, .ack = 1, .flags = TCP_ACK, .window = 65535});
}

bool peer_expect(struct peer *peer, uint8_t flags, uint32_t seq, uint32_t ack, uint32_t len)
{
    const struct answer *answer = peer_next(peer);

    if (!CHECK(answer != NULL)) {
        return false;
    }
    CHECK_EQ(answer->flags & ~TCP_PSH, flags);
    CHECK_EQ(answer->seq - peer->irs, seq);
    if (flags & TCP_ACK) {
        CHECK_EQ(answer->ack - peer->iss, ack);
    }
    return CHECK_EQ(answer->len, len);
}

bool peer_silent(struct peer *peer)
{
    return CHECK_EQ(peer->answers_n - peer->read, 0);
}
