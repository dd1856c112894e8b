/*
 * What stands before picoTCP: bare segments against its filter, flaw by published flaw, and the
 * manners that it lacks by itself. Skipped where make picotcp has not been run.
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "base/csum.h"
#include "base/hash.h"
#include "check.h"
#include "engine_picotcp/picotcp.h"
#include "peer.h"
#include "stack/tx.h"

static struct peer peer;
static bool available;

/* A shard with picoTCP, and a peer. */
static bool opened(void)
{
    if (available) {
        peer_open(&peer);
    } else {
        check_skip("no picoTCP here: make picotcp");
    }
    return available;
}

static uint64_t verdicts(enum verdict verdict)
{
    return peer.sim.worker[0].stack.stats->verdict[verdict];
}

static void send_flags(uint8_t flags, uint32_t seq, uint32_t ack)
{
    peer_send(&peer, &(struct send){.seq = seq, .ack = ack, .flags = flags, .window = 65535});
}

/* A SYN with these options is counted as `verdict`, and nothing is said. */
static void refused_syn(const uint8_t *options, uint32_t len, enum verdict verdict)
{
    uint64_t before = verdicts(verdict);

    peer.tcp_port = 7;
    peer.local_port++;
    peer_send(
        &peer,
        &(struct send){.flags = TCP_SYN, .window = 65535, .options = options, .options_len = len});
    CHECK_EQ(verdicts(verdict), before + 1);
    peer_silent(&peer);
    peer_flush(&peer);
}

static void still_serves(void)
{
    peer_flush(&peer);
    peer_connect(&peer, 7);
    peer_flush(&peer);
    peer_send(&peer, &(struct send){
                         .seq = 1, .ack = 1, .flags = TCP_ACK, .window = 65535, .payload = "ping"});
    peer_run(&peer, 2000);
    CHECK(peer.answers_n > 0 && peer.answers[peer.answers_n - 1].len == 4);
    send_flags(TCP_RST, 5, 0);
    CHECK_EQ(peer.sim.worker[0].stack.shared->conns_active, 0);
    peer_close(&peer);
}

static void cve_2020_24337_an_option_of_length_zero_is_dropped(void)
{
    static const uint8_t zero[] = {3, 0, 1, 1};
    static const uint8_t one[] = {254, 1, 1, 1};
    static const uint8_t beyond[] = {1, 1, 8, 10};
    static const uint8_t wrong_size[] = {2, 3, 5, 1};

    if (!opened()) {
        return;
    }
    refused_syn(zero, 4, VERDICT_tcp_bad_header);
    refused_syn(one, 4, VERDICT_tcp_bad_header);
    refused_syn(beyond, 4, VERDICT_tcp_bad_header);
    refused_syn(wrong_size, 4, VERDICT_tcp_bad_header);
    peer_connect(&peer, 7);
    peer_flush(&peer);
    peer_send(&peer, &(struct send){.seq = 1,
                                    .ack = 1,
                                    .flags = TCP_ACK,
                                    .window = 65535,
                                    .options = zero,
                                    .options_len = 4,
                                    .payload = "never"});
    peer_silent(&peer);
    CHECK_EQ(verdicts(VERDICT_tcp_bad_header), 5);
    send_flags(TCP_RST, 1, 0);
    still_serves();
}

static void cve_2023_35847_a_segment_size_of_zero_is_refused(void)
{
    static const uint8_t zero[] = {2, 4, 0, 0};
    static const uint8_t tiny[] = {2, 4, 0, 63};

    if (!opened()) {
        return;
    }
    refused_syn(zero, 4, VERDICT_filter_mss);
    refused_syn(tiny, 4, VERDICT_filter_mss);
    still_serves();
}

/* A raw frame to the shard. */
static void put_frame(uint8_t *frame, uint16_t type, uint32_t len)
{
    struct nm_ring *ring = peer.port->tx;

    memcpy(frame, mem_attachment_mac(peer.attachment, true), 6);
    memcpy(frame + 6, mem_attachment_mac(peer.attachment, false), 6);
    frame[12] = (uint8_t)(type >> 8);
    frame[13] = (uint8_t)type;
    memcpy(nm_ring_buf(ring, ring->head), frame, len);
    ring->slot[ring->head].len = (uint16_t)len;
    ring->slot[ring->head].flags = 0;
    nm_ring_give(ring, nm_ring_next(ring, ring->head));
    peer.port->ops->tx_sync(peer.port, peer.sim.now_us);
    peer_run(&peer, 200);
}

/* The same with IPv4, its checksum made right. */
static void put_ip(uint8_t *frame, uint32_t len)
{
    uint16_t check;

    memset(frame + ETH_HDR_LEN + 10, 0, 2);
    check = csum_fold(csum_add(frame + ETH_HDR_LEN, (size_t)(frame[ETH_HDR_LEN] & 15) * 4, 0));
    memcpy(frame + ETH_HDR_LEN + 10, &check, 2);
    put_frame(frame, 0x0800, len);
}

/* An IPv4 header from the peer, for `len` bytes that follow it. */
static uint8_t *begin_ip(uint8_t *frame, uint8_t protocol, uint16_t len)
{
    struct wire_ipv4 ip = {.version_ihl = 0x45,
                           .total_len = htons((uint16_t)(IPV4_HDR_LEN + len)),
                           .ttl = 64,
                           .protocol = protocol,
                           .src = htonl(0x0a4d00c8),
                           .dst = htonl(0x0a4d0001)};

    memset(frame, 0, ETH_HDR_LEN + IPV4_HDR_LEN + len);
    memcpy(frame + ETH_HDR_LEN, &ip, sizeof(ip));
    return frame + ETH_HDR_LEN + IPV4_HDR_LEN;
}

static void cve_2020_24341_a_header_longer_than_its_segment_is_dropped(void)
{
    uint8_t frame[256];
    uint8_t *l4;

    if (!opened()) {
        return;
    }
    l4 = begin_ip(frame, PROTO_TCP, 20);
    l4[3] = 7;
    l4[12] = 15 << 4; /* 60 bytes of header in 20 */
    l4[13] = TCP_SYN;
    put_ip(frame, 54);
    CHECK_EQ(verdicts(VERDICT_tcp_bad_header), 1);
    l4[12] = 4 << 4; /* CVE-2023-35849: shorter than a header is */
    put_ip(frame, 54);
    CHECK_EQ(verdicts(VERDICT_tcp_bad_header), 2);
    begin_ip(frame, PROTO_TCP, 8); /* CVE-2023-35846: no ports to look at */
    put_ip(frame, 42);
    CHECK_EQ(verdicts(VERDICT_tcp_bad_header), 3);
    peer_silent(&peer);
    still_serves();
}

static void cve_2021_33304_no_fragment_reaches_it(void)
{
    uint8_t frame[256];

    if (!opened()) {
        return;
    }
    for (uint8_t i = 0; i < 3; i++) {
        begin_ip(frame, i == 2 ? PROTO_TCP : PROTO_ICMP, 64);
        frame[ETH_HDR_LEN + 6] = i == 0 ? 0x20 : 0; /* first with more, then a last one */
        frame[ETH_HDR_LEN + 7] = i == 0 ? 0 : 8;
        put_ip(frame, 98);
    }
    begin_ip(frame, 99, 64); /* the protocol nobody serves, whole */
    put_ip(frame, 98);
    CHECK_EQ(verdicts(VERDICT_ip_fragment), 3);
    CHECK_EQ(verdicts(VERDICT_ip_protocol), 1);
    peer_silent(&peer);
    still_serves();
}

static uint64_t fed(void)
{
    const struct picotcp *engine = peer.sim.worker[0].stack.engine_state;

    return engine->fed;
}

/* An installed picoTCP may have its DNS, mDNS and IPv6: nothing of theirs may reach it. */
static void cve_2020_24338_no_name_reaches_it(void)
{
    static const uint16_t ports[] = {53, 5353};
    uint8_t frame[256];
    uint64_t before;
    uint8_t *l4;

    if (!opened()) {
        return;
    }
    before = fed();
    for (uint32_t i = 0; i < 2; i++) {
        l4 = begin_ip(frame, 17, 64);
        l4[0] = l4[2] = (uint8_t)(ports[i] >> 8);
        l4[1] = l4[3] = (uint8_t)ports[i];
        l4[5] = 64;
        l4[10] = 0x81; /* an answer, */
        l4[15] = 200;  /* more records than there are bytes, */
        l4[20] = 0xc0; /* and a name that points to itself */
        l4[21] = 12;
        put_ip(frame, 98);
    }
    CHECK_EQ(verdicts(VERDICT_ip_protocol), 2);
    CHECK_EQ(fed(), before);
    peer_silent(&peer);
    still_serves();
}

static void cve_2020_17441_no_ipv6_reaches_it(void)
{
    static const uint8_t next_headers[] = {58, 0, 60,
                                           44}; /* ICMPv6, hop by hop, options, fragment */
    uint8_t frame[256];
    uint64_t before;

    if (!opened()) {
        return;
    }
    before = fed();
    for (uint32_t i = 0; i < sizeof(next_headers); i++) {
        memset(frame, 0, sizeof(frame));
        frame[ETH_HDR_LEN] = 0x60;
        frame[ETH_HDR_LEN + 4] = 0xff; /* a payload longer than the frame */
        frame[ETH_HDR_LEN + 6] = next_headers[i];
        frame[ETH_HDR_LEN + 7] = 64;
        memset(frame + ETH_HDR_LEN + 8, 0xfe, 32);
        frame[ETH_HDR_LEN + 40] = i == 0 ? 128 : 59;
        frame[ETH_HDR_LEN + 41] = 0xff; /* an extension header longer than the packet */
        put_frame(frame, 0x86dd, 98);
    }
    CHECK_EQ(verdicts(VERDICT_eth_type), sizeof(next_headers));
    CHECK_EQ(fed(), before);
    peer_silent(&peer);
    still_serves();
}

static void impossible_flags_are_dropped(void)
{
    static const uint8_t impossible[] = {0,       TCP_FIN, TCP_SYN | TCP_FIN, TCP_SYN | TCP_RST,
                                         TCP_PSH, 0xff};

    if (!opened()) {
        return;
    }
    peer.tcp_port = 7;
    for (uint32_t i = 0; i < sizeof(impossible); i++) {
        send_flags(impossible[i], 0, 0);
    }
    CHECK_EQ(verdicts(VERDICT_filter_flags), sizeof(impossible));
    peer_silent(&peer);
    still_serves();
}

static void congestion_and_urgent_bits_do_not_reset(void)
{
    if (!opened()) {
        return;
    }
    peer.tcp_port = 7;
    peer.iss = 1000000;
    send_flags(TCP_SYN | 0xc0, 0, 0);
    if (CHECK(peer.answers_n == 1 && peer.answers[0].flags == (TCP_SYN | TCP_ACK))) {
        peer.irs = peer.answers[0].seq;
    }
    send_flags(TCP_ACK, 1, 1);
    peer_flush(&peer);
    peer_send(&peer, &(struct send){.seq = 1,
                                    .ack = 1,
                                    .flags = TCP_ACK | TCP_URG | 0x40,
                                    .window = 65535,
                                    .payload = "x"});
    CHECK(peer.answers_n > 0 && peer.answers[peer.answers_n - 1].len == 1);
    send_flags(TCP_RST, 2, 0);
    still_serves();
}

static void only_the_exact_reset_ends_a_connection(void)
{
    if (!opened()) {
        return;
    }
    peer_connect(&peer, 7);
    peer_flush(&peer);
    send_flags(TCP_RST, 100, 0);
    peer_expect(&peer, TCP_ACK, 1, 1, 0);
    send_flags(TCP_RST, 100000, 0);
    peer_silent(&peer);
    CHECK_EQ(verdicts(VERDICT_tcp_rst_bad_seq), 2);
    CHECK_EQ(peer.sim.worker[0].stack.shared->conns_active, 1);
    send_flags(TCP_RST, 1, 0);
    CHECK_EQ(verdicts(VERDICT_tcp_rst), 1);
    still_serves();
}

static void icmp_errors_and_floods_stay_outside(void)
{
    uint8_t frame[256];
    uint16_t check;

    if (!opened()) {
        return;
    }
    for (uint32_t i = 0; i < 2; i++) {
        uint8_t *l4 = begin_ip(frame, PROTO_ICMP, 64);

        l4[0] = i == 0 ? 3 : 8;
        check = csum_fold(csum_add(l4, 64, 0));
        memcpy(l4 + 2, &check, 2);
        put_ip(frame, 98);
    }
    CHECK_EQ(verdicts(VERDICT_icmp_error), 1);
    CHECK_EQ(verdicts(VERDICT_icmp_echo), 1);
    frame[ETH_HDR_LEN + IPV4_HDR_LEN + 9] ^= 1;
    put_ip(frame, 98);
    CHECK_EQ(verdicts(VERDICT_icmp_malformed), 1);
    CHECK_EQ(peer.sim.worker[0].stack.port->counters->tx_frames, 2); /* ARP, and one echo */
    still_serves();
}

static void send_as_picotcp(uint8_t type, uint8_t protocol, uint32_t len)
{
    struct stack *stack = &peer.sim.worker[0].stack;
    uint8_t frame[128] = {0};

    begin_ip(frame, protocol, 40);
    frame[12] = type;
    frame[13] = type == 0x86 ? 0xdd : 0;
    tx_begin(stack);
    CHECK_EQ(picotcp_send(stack->engine_state, frame, len), 1);
    tx_publish(stack);
}

static void only_what_we_serve_leaves(void)
{
    const uint64_t *refused;
    uint64_t before; /* one with IGMP has announced itself */
    uint64_t sent;

    if (!opened()) {
        return;
    }
    refused = &peer.sim.worker[0].stack.stats->counter[COUNTER_egress_refused];
    peer_connect(&peer, 7);
    send_flags(TCP_RST, 1, 0);
    before = *refused;
    CHECK(before <= 1);
    sent = peer.sim.worker[0].stack.port->counters->tx_frames;
    send_as_picotcp(0x86, PROTO_TCP, 94); /* IPv6 */
    send_as_picotcp(0x08, 2, 54);         /* IGMP */
    send_as_picotcp(0x08, 17, 74);        /* UDP */
    send_as_picotcp(0x08, PROTO_TCP, 74); /* of no connection */
    send_as_picotcp(0x08, PROTO_TCP, 34); /* no header */
    send_as_picotcp(0x08, PROTO_TCP, 10);
    CHECK_EQ(*refused, before + 6);
    CHECK_EQ(peer.sim.worker[0].stack.port->counters->tx_frames, sent);
    still_serves();
}

static void a_flood_of_syns_fills_the_backlog_and_no_more(void)
{
    static const uint8_t mss[] = {2, 4, 5, 0xb4};

    if (!opened()) { /* 64 connections at most */
        return;
    }
    peer.tcp_port = 7;
    for (uint32_t i = 0; i < 200; i++) {
        peer.local_port++;
        peer_send(&peer, &(struct send){
                             .flags = TCP_SYN, .window = 65535, .options = mss, .options_len = 4});
    }
    CHECK_EQ(verdicts(VERDICT_tcp_syn), 64);
    CHECK_EQ(verdicts(VERDICT_tcp_table_full), 136);
    peer_run(&peer, 6000000);
    CHECK_EQ(peer.sim.worker[0].stack.shared->conns_active, 0); /* half-open ones end after 5 s */
    still_serves();
}

static void cve_2020_27635_initial_numbers_are_drawn(void)
{
    uint32_t last = 0;
    uint32_t near = 0;

    if (!opened()) {
        return;
    }
    for (uint32_t i = 0; i < 40; i++) {
        peer_connect(&peer, 7);
        near += peer.irs - last < (1u << 20) || last - peer.irs < (1u << 20);
        last = peer.irs;
        send_flags(TCP_RST, 1, 0);
        peer_flush(&peer);
    }
    CHECK(near <= 1);
    still_serves();
}

static void services_keep_their_manners(void)
{
    uint32_t bytes = 0;

    if (!opened()) {
        return;
    }
    peer_connect(&peer, 13); /* daytime: a line, then its FIN */
    peer_run(&peer, 5000);
    send_flags(TCP_ACK, 1, 1u + peer.answers[peer.answers_n - 1].len); /* FINs when it has all */
    peer_run(&peer, 5000);
    CHECK(peer.answers[peer.answers_n - 1].flags & TCP_FIN);
    send_flags(TCP_RST, 1, 0);
    peer_flush(&peer);
    peer_connect(&peer, 80);
    peer_flush(&peer);
    peer_send(&peer, &(struct send){.seq = 1,
                                    .ack = 1,
                                    .flags = TCP_ACK,
                                    .window = 65535,
                                    .payload = "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n"});
    peer_run(&peer, 2000);
    CHECK(strstr((const char *)peer.answers[peer.answers_n - 1].payload, "Hello") != NULL);
    send_flags(TCP_RST, 37, 0);
    peer_flush(&peer);
    peer_connect(&peer, 19); /* chargen: no more than the window takes */
    peer_run(&peer, 500000);
    for (uint32_t i = 0; i < peer.answers_n; i++) {
        if (peer.answers[i].seq - peer.irs == 1 + bytes) {
            bytes += peer.answers[i].len;
        }
    }
    CHECK(bytes > 0 && bytes <= 65535);
    send_flags(TCP_RST, 1, 0);
    still_serves();
}

static void a_closed_window_is_probed_until_it_opens(void)
{
    uint32_t probes = 0;

    if (!opened()) {
        return;
    }
    peer_connect(&peer, 7);
    peer_flush(&peer);
    peer_send(&peer,
              &(struct send){.seq = 1, .ack = 1, .flags = TCP_ACK, .window = 0, .payload = "held"});
    for (uint32_t second = 0; second < 120; second++) { /* the peer answers, and stays closed */
        peer_flush(&peer);
        peer_run(&peer, 1000000);
        probes += peer.answers_n > 0;
        peer_send(&peer, &(struct send){.seq = 5, .ack = 1, .flags = TCP_ACK, .window = 0});
    }
    CHECK(probes > 60);
    CHECK_EQ(peer.sim.worker[0].stack.shared->conns_active, 1);
    peer_flush(&peer);
    peer_send(&peer, &(struct send){.seq = 5, .ack = 1, .flags = TCP_ACK, .window = 1000});
    peer_run(&peer, 2000000);
    send_flags(TCP_ACK, 5, 2);
    peer_run(&peer, 2000000);
    CHECK(peer.answers_n > 0);
    CHECK_EQ(peer.answers[peer.answers_n - 1].seq + peer.answers[peer.answers_n - 1].len - peer.irs,
             5);
    send_flags(TCP_RST, 5, 0);
    still_serves();
}

/* One frame of the torture: a segment near the connection's numbers, with something wrong. */
static void torture(uint64_t *state)
{
    uint8_t frame[400];
    uint64_t dice = splitmix64(state);
    uint32_t options = (uint32_t)(dice % 11) * 4;
    uint32_t len = (uint32_t)(dice >> 8) % 200;
    uint16_t tcp_len = (uint16_t)(TCP_HDR_LEN + options + len);
    uint8_t *l4 = begin_ip(frame, PROTO_TCP, tcp_len);
    struct wire_tcp tcp = {
        .src_port = htons((uint16_t)(peer.local_port - (dice >> 16) % 3)),
        .dst_port = htons((dice >> 20) % 8 ? peer.tcp_port : 19),
        .seq = htonl(peer.iss + (uint32_t)(dice >> 24) % 300),
        .ack = htonl(peer.irs + 1 + ((dice >> 30) % 4 ? 0 : (uint32_t)(dice >> 32) % 300)),
        .data_off = (uint8_t)((TCP_HDR_LEN + options) / 4 << 4),
        .flags = (uint8_t)(dice >> 40),
        .window = htons((uint16_t)(dice >> 48))};
    uint32_t kinds = (dice >> 60) % 2 ? 2 : 11; /* END and NOP, or whatever there is */
    uint16_t check;

    for (uint32_t i = 0; i < options + len; i++) {
        l4[TCP_HDR_LEN + i] = (uint8_t)(splitmix64(state) % (i < options ? kinds : 256));
    }
    if ((dice >> 23) % 4) {
        tcp.flags = TCP_ACK | ((dice >> 41) % 32 ? 0 : TCP_FIN) | ((dice >> 46) % 64 ? 0 : TCP_RST);
    }
    memcpy(l4, &tcp, sizeof(tcp));
    check = csum_fold(
        csum_add(l4, tcp_len, csum_pseudo(htonl(0x0a4d00c8), htonl(0x0a4d0001), 6, tcp_len)));
    memcpy(l4 + offsetof(struct wire_tcp, check), &check, sizeof(check));
    put_ip(frame, ETH_HDR_LEN + IPV4_HDR_LEN + tcp_len);
}

static void twenty_thousand_wild_segments_do_no_harm(void)
{
    uint64_t state = 2026;
    struct stack *stack = &peer.sim.worker[0].stack;

    if (!opened()) {
        return;
    }
    for (uint32_t round = 0; round < 20; round++) {
        peer_connect(&peer, round % 2 ? 7 : 80);
        peer_flush(&peer);
        for (uint32_t i = 0; i < 1000; i++) {
            torture(&state);
            peer.answers_n = 0;
        }
        peer_run(&peer, 6000000); /* whoever is left half open is given up */
        peer_flush(&peer);
    }
    for (uint32_t conn = 0; conn < stack->config->conns_max; conn++) {
        if (stack->hot[conn].state != CONN_FREE) {
            socket_abort(stack, conn);
            stack_commit(stack);
        }
    }
    peer_run(&peer, 1000);
    CHECK(verdicts(VERDICT_tcp_bad_header) > 1000);
    CHECK(verdicts(VERDICT_filter_flags) > 100);
    CHECK(verdicts(VERDICT_tcp_ok) + verdicts(VERDICT_tcp_ooo) + verdicts(VERDICT_tcp_dup) > 1000);
    CHECK_EQ(stack->shared->conns_active, 0);
    peer_flush(&peer);
    still_serves();
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"CVE-2020-24337: an option of length zero is dropped",
         cve_2020_24337_an_option_of_length_zero_is_dropped},
        {"CVE-2020-24341, CVE-2023-35846, CVE-2023-35849: a header longer than its segment is "
         "dropped",
         cve_2020_24341_a_header_longer_than_its_segment_is_dropped},
        {"CVE-2020-27635: initial numbers are drawn", cve_2020_27635_initial_numbers_are_drawn},
        {"CVE-2021-33304: no fragment reaches it", cve_2021_33304_no_fragment_reaches_it},
        {"CVE-2023-35847, CVE-2023-35848: a segment size of zero is refused",
         cve_2023_35847_a_segment_size_of_zero_is_refused},
        {"CVE-2020-24338, CVE-2020-24339, CVE-2020-24340, CVE-2017-1000210: no name reaches it",
         cve_2020_24338_no_name_reaches_it},
        {"CVE-2020-17441, CVE-2020-17442, CVE-2020-17443, CVE-2020-17444, CVE-2020-17445: no IPv6 "
         "reaches it",
         cve_2020_17441_no_ipv6_reaches_it},
        {"impossible flags are dropped", impossible_flags_are_dropped},
        {"congestion and urgent bits do not reset", congestion_and_urgent_bits_do_not_reset},
        {"only the exact reset ends a connection", only_the_exact_reset_ends_a_connection},
        {"ICMP errors and floods stay outside", icmp_errors_and_floods_stay_outside},
        {"only what we serve leaves", only_what_we_serve_leaves},
        {"a flood of SYNs fills the backlog and no more",
         a_flood_of_syns_fills_the_backlog_and_no_more},
        {"twenty thousand wild segments do no harm", twenty_thousand_wild_segments_do_no_harm},
        {"services keep their manners", services_keep_their_manners},
        {"a closed window is probed until it opens", a_closed_window_is_probed_until_it_opens},
    };
    struct picotcp_library library;
    char why[256];

    setenv("SIM_ENGINE", engine_picotcp.name, 1);
    available = picotcp_library_open(&library, why, sizeof(why)) == 0;
    picotcp_library_close(&library);
    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
