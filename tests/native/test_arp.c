/* ARP (RFC 826, 1122 section 2.3.2): answers, questions, what is learned and what is not. */
#include <arpa/inet.h>
#include <string.h>

#include "base/wire.h"
#include "check.h"
#include "peer.h"
#include "stack/ipv4.h"
#include "stack/neighbour.h"

enum {
    STRANGER_IP = 0x0a4d0042, /* 10.77.0.66: never announced */
    REQUEST = 1,
    REPLY = 2,
    SEEN_MAX = 64,
};

static struct peer peer;

static struct {
    struct wire_arp arp[SEEN_MAX];
    uint8_t to[SEEN_MAX][6]; /* Ethernet destination */
    uint32_t n;
    uint8_t tcp_to[6]; /* where the last TCP segment went */
} seen;

static void tap(struct peer *from, const uint8_t *frame, uint32_t len)
{
    (void)from;
    if (frame[12] == 0x08 && frame[13] == 0x00) {
        memcpy(seen.tcp_to, frame, 6);
    }
    if (frame[12] == 0x08 && frame[13] == 0x06 && seen.n < SEEN_MAX) {
        CHECK(len >= ETH_HDR_LEN + ARP_LEN);
        memcpy(&seen.arp[seen.n], frame + ETH_HDR_LEN, ARP_LEN);
        memcpy(seen.to[seen.n++], frame, 6);
    }
}

static uint64_t verdict(enum verdict which)
{
    return peer.sim.worker[0].stack.stats->verdict[which];
}

static void open_peer(void)
{
    peer_open(&peer);
    peer.tap = tap;
    memset(&seen, 0, sizeof(seen));
}

static struct wire_arp arp_from(uint32_t spa, uint32_t tpa, uint16_t oper)
{
    struct wire_arp arp = {.htype = htons(1),
                           .ptype = htons(ETHERTYPE_IPV4),
                           .hlen = 6,
                           .plen = 4,
                           .oper = htons(oper),
                           .spa = htonl(spa),
                           .tpa = htonl(tpa)};

    memcpy(arp.sha, mem_attachment_mac(peer.attachment, false), 6);
    return arp;
}

static void put_arp_cut(const struct wire_arp *arp, uint32_t len)
{
    uint8_t frame[ETH_HDR_LEN + ARP_LEN] = {0};

    memset(frame, 0xff, 6);
    memcpy(frame + 6, mem_attachment_mac(peer.attachment, false), 6);
    frame[12] = 0x08;
    frame[13] = 0x06;
    memcpy(frame + ETH_HDR_LEN, arp, ARP_LEN);
    peer_put(&peer, frame, len);
    peer_run(&peer, 200);
}

static void put_arp(const struct wire_arp *arp)
{
    put_arp_cut(arp, ETH_HDR_LEN + ARP_LEN);
}

static bool knows(uint32_t ip, uint8_t mac[6])
{
    bool ask;

    return neighbour_lookup(peer.sim.server->cluster.neighbours, htonl(ip), mac, peer.sim.now_us,
                            &ask);
}

static void a_request_for_our_address_is_answered_and_learned(void)
{
    struct wire_arp request;
    uint8_t mac[6] = {0};

    open_peer();
    request = arp_from(STRANGER_IP, SHARD_IP, REQUEST);
    put_arp(&request);
    if (CHECK_EQ(seen.n, 1)) {
        CHECK_EQ(ntohs(seen.arp[0].oper), REPLY);
        CHECK_EQ(ntohl(seen.arp[0].spa), SHARD_IP);
        CHECK_EQ(ntohl(seen.arp[0].tpa), STRANGER_IP);
        CHECK_EQ(ntohs(seen.arp[0].htype), 1);
        CHECK_EQ(ntohs(seen.arp[0].ptype), ETHERTYPE_IPV4);
        CHECK(memcmp(seen.arp[0].sha, peer.sim.device->mac, 6) == 0);
        CHECK(memcmp(seen.arp[0].tha, request.sha, 6) == 0);
        CHECK(memcmp(seen.to[0], request.sha, 6) == 0); /* to the asker alone */
    }
    CHECK(knows(STRANGER_IP, mac) && memcmp(mac, request.sha, 6) == 0);
    peer_close(&peer);
}

/* Neither a request for somebody else nor an answer to nobody makes an entry. */
static void what_is_not_ours_is_neither_answered_nor_learned(void)
{
    struct wire_arp arp;
    uint8_t mac[6];

    open_peer();
    arp = arp_from(STRANGER_IP, PEER_IP + 1, REQUEST);
    put_arp(&arp);
    arp = arp_from(STRANGER_IP, SHARD_IP, REPLY);
    put_arp(&arp);
    arp = arp_from(STRANGER_IP, STRANGER_IP, REQUEST); /* announces itself */
    put_arp(&arp);
    CHECK_EQ(seen.n, 0);
    CHECK_EQ(verdict(VERDICT_arp_not_ours), 3);
    CHECK(!knows(STRANGER_IP, mac));
    peer_close(&peer);
}

/* RFC 5227: a probe is answered, a claim of our own address changes nothing. */
static void nobody_takes_our_address(void)
{
    struct wire_arp arp;
    uint8_t mac[6];

    open_peer();
    arp = arp_from(0, SHARD_IP, REQUEST);
    put_arp(&arp);
    CHECK_EQ(seen.n, 1);
    arp = arp_from(SHARD_IP, SHARD_IP, REQUEST);
    put_arp(&arp);
    arp = arp_from(SHARD_IP, PEER_IP, REPLY);
    put_arp(&arp);
    CHECK(!knows(SHARD_IP, mac));
    CHECK(!knows(0, mac));
    peer_close(&peer);
}

static void malformed_frames_are_counted_only(void)
{
    struct wire_arp good;
    struct wire_arp bad[6];
    uint8_t mac[6];

    open_peer();
    good = arp_from(STRANGER_IP, SHARD_IP, REQUEST);
    for (uint32_t i = 0; i < 6; i++) {
        bad[i] = good;
    }
    bad[0].htype = htons(6);
    bad[1].ptype = htons(0x86dd);
    bad[2].hlen = 8;
    bad[3].plen = 16;
    bad[4].sha[0] |= 1; /* no host has a group's address */
    memset(bad[5].sha, 0xff, 6);
    for (uint32_t i = 0; i < 6; i++) {
        put_arp(&bad[i]);
    }
    for (uint32_t len = ETH_HDR_LEN; len < ETH_HDR_LEN + ARP_LEN; len++) {
        put_arp_cut(&good, len);
    }
    CHECK_EQ(verdict(VERDICT_arp_malformed), 6 + ARP_LEN);
    CHECK_EQ(seen.n, 0);
    CHECK(!knows(STRANGER_IP, mac));
    peer_close(&peer);
}

/* A host that moved: what it says about itself moves the connection. */
static void a_known_neighbour_may_change_its_mac(void)
{
    struct wire_arp arp;

    open_peer();
    peer_connect(&peer, 7);
    CHECK(memcmp(seen.tcp_to, mem_attachment_mac(peer.attachment, false), 6) == 0);
    arp = arp_from(PEER_IP, PEER_IP, REQUEST);
    memset(arp.sha, 0x22, 6);
    put_arp(&arp);
    CHECK_EQ(verdict(VERDICT_arp_learned), 1);
    CHECK_EQ(seen.n, 0);
    peer_send(&peer, &(struct send){
                         .seq = 1, .ack = 1, .flags = TCP_ACK, .window = 65535, .payload = "x"});
    peer_run(&peer, 1500000);    /* it is resent to the same place */
    CHECK_EQ(peer.answers_n, 1); /* ours, before the move: the rest is not for this link */
    arp = arp_from(PEER_IP, SHARD_IP, REQUEST);
    put_arp(&arp);
    peer_flush(&peer);
    peer_run(&peer, 4000000);
    peer_expect(&peer, TCP_ACK, 1, 2, 1);
    peer_send(&peer, &(struct send){.seq = 2, .flags = TCP_RST});
    peer_close(&peer);
}

/* Asks once a second while there is no answer; what waited goes when it comes. */
static void an_unknown_next_hop_is_asked_for(void)
{
    static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    struct wire_arp reply;

    open_peer();
    peer.ip = STRANGER_IP;
    peer.tcp_port = 7;
    peer_send(&peer, &(struct send){.flags = TCP_SYN, .window = 65535});
    peer_silent(&peer);
    peer_run(&peer, 3500000);
    CHECK(seen.n >= 2 && seen.n <= 4);
    for (uint32_t i = 0; i < seen.n; i++) {
        CHECK_EQ(ntohs(seen.arp[i].oper), REQUEST);
        CHECK_EQ(ntohl(seen.arp[i].spa), SHARD_IP);
        CHECK_EQ(ntohl(seen.arp[i].tpa), STRANGER_IP);
        CHECK(memcmp(seen.to[i], everybody, 6) == 0);
    }
    peer_silent(&peer);
    reply = arp_from(STRANGER_IP, SHARD_IP, REPLY);
    put_arp(&reply);
    CHECK_EQ(verdict(VERDICT_arp_learned), 1);
    peer_run(&peer, 5000000);
    CHECK(peer.answers_n >= 1 && peer.answers[0].flags == (TCP_SYN | TCP_ACK));
    peer_send(&peer, &(struct send){.seq = 1, .flags = TCP_RST});
    CHECK_EQ(peer.sim.worker[0].stack.shared->conns_active, 0);
    peer_close(&peer);
}

/* 65,000 hosts ask for us: the table stays as it was made, and everybody is still served. */
static void a_flood_of_addresses_is_bounded(void)
{
    struct wire_arp arp;
    uint32_t known = 0;
    uint8_t mac[6];

    open_peer();
    peer_connect(&peer, 7);
    for (uint32_t i = 0; i < 65000; i++) {
        arp = arp_from(0x0a4e0000 + i, SHARD_IP, REQUEST);
        put_arp(&arp);
    }
    CHECK_EQ(verdict(VERDICT_arp_reply_sent), 65001); /* and the one of peer_open */
    for (uint32_t i = 0; i < 65000; i++) {
        known += knows(0x0a4e0000 + i, mac);
    }
    CHECK(known > 0 && known <= 1024);
    arp = arp_from(PEER_IP, SHARD_IP, REQUEST);
    put_arp(&arp);
    peer_flush(&peer);
    peer_send(&peer, &(struct send){
                         .seq = 1, .ack = 1, .flags = TCP_ACK, .window = 65535, .payload = "x"});
    peer_expect(&peer, TCP_ACK, 1, 2, 1);
    peer_send(&peer, &(struct send){.seq = 2, .flags = TCP_RST});
    peer_close(&peer);
}

/* With an address that the host has as well: its kernel asks, and hears the answers. */
static void where_arp_is_the_hosts_a_peer_is_where_its_segments_come_from(void)
{
    static const uint8_t moved[6] = {2, 2, 2, 2, 2, 2};
    const uint8_t *own;

    open_peer();
    peer.sim.server->config.host_arp = true;
    peer.ip = STRANGER_IP;
    own = mem_attachment_mac(peer.attachment, false);
    peer_connect(&peer, 7); /* its SYN is answered at once */
    CHECK(memcmp(seen.tcp_to, own, 6) == 0);
    peer_run(&peer, 2000000);
    neighbour_update(peer.sim.server->cluster.neighbours, htonl(STRANGER_IP), moved,
                     peer.sim.now_us, true);
    peer_flush(&peer);
    peer_send(&peer, &(struct send){
                         .seq = 1, .ack = 1, .flags = TCP_ACK, .window = 65535, .payload = "x"});
    peer_expect(&peer, TCP_ACK, 1, 2, 1);
    CHECK(memcmp(seen.tcp_to, own, 6) == 0);
    peer_run(&peer, 70000000); /* however old it is, nobody is asked */
    CHECK_EQ(seen.n, 0);
    peer_send(&peer, &(struct send){.seq = 2, .flags = TCP_RST});
    peer_close(&peer);
}

/* On the link: the host itself. Beyond it: the gateway, where there is one. */
static void the_next_hop_follows_the_prefix(void)
{
    static const struct {
        uint32_t prefix;
        uint32_t to;
        bool on_link;
    } cases[] = {
        {24, 0x0a4d00fe, true},  {24, 0x0a4d01fe, false}, {30, 0x0a4d0002, true},
        {30, 0x0a4d0004, false}, {16, 0x0a4dffff, true},  {16, 0x0a4e0001, false},
        {32, 0x0a4d0002, false}, {8, 0x0affff01, true},   {8, 0x0b000001, false},
    };
    static const uint32_t gateway = 0x0a4d0002;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct stack_config config = {.ip = htonl(SHARD_IP),
                                      .netmask = htonl(UINT32_MAX << (32 - cases[i].prefix))};
        uint32_t to = htonl(cases[i].to);

        CHECK_EQ(stack_next_hop(&config, to), to); /* no gateway: everybody is asked for */
        config.gateway = htonl(gateway);
        CHECK_EQ(stack_next_hop(&config, to), cases[i].on_link ? to : config.gateway);
    }
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a request for our address is answered and learned",
         a_request_for_our_address_is_answered_and_learned},
        {"what is not ours is neither answered nor learned",
         what_is_not_ours_is_neither_answered_nor_learned},
        {"nobody takes our address", nobody_takes_our_address},
        {"malformed frames are counted only", malformed_frames_are_counted_only},
        {"a known neighbour may change its MAC", a_known_neighbour_may_change_its_mac},
        {"an unknown next hop is asked for", an_unknown_next_hop_is_asked_for},
        {"where ARP is the host's a peer is where its segments come from",
         where_arp_is_the_hosts_a_peer_is_where_its_segments_come_from},
        {"the next hop follows the prefix", the_next_hop_follows_the_prefix},
        {"a flood of addresses is bounded", a_flood_of_addresses_is_bounded},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
