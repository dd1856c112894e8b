/* ICMP (RFC 792, 1122 section 3.2.2): echo is answered byte by byte, the rest is counted. */
#include <arpa/inet.h>
#include <string.h>

#include "base/csum.h"
#include "base/wire.h"
#include "check.h"
#include "peer.h"

enum {
    ECHO_REPLY = 0,
    UNREACHABLE = 3,
    ECHO_REQUEST = 8,
    DATA_MAX = 1500 - IPV4_HDR_LEN - ICMP_HDR_LEN,
    L4 = ETH_HDR_LEN + IPV4_HDR_LEN,
    MORE_FRAGMENTS = 0x2000,
};

static struct peer peer;
static uint8_t answer[2048];
static uint32_t answer_len;
static uint32_t answers;

static void tap(struct peer *from, const uint8_t *frame, uint32_t len)
{
    (void)from;
    if (frame[12] == 0x08 && frame[13] == 0x00 && frame[ETH_HDR_LEN + 9] == PROTO_ICMP) {
        memcpy(answer, frame, len);
        answer_len = len;
        answers++;
    }
}

static void open_peer(void)
{
    peer_open(&peer);
    peer.tap = tap;
    answers = 0;
}

/* What a message is, where it is not a right echo request to us. */
struct message {
    uint32_t len;     /* of the data */
    uint32_t options; /* bytes of IP options */
    uint32_t trailer; /* bytes behind the packet */
    uint32_t src;     /* host order; 0: ours */
    uint32_t dst;
    uint16_t frag;
    uint8_t type;
    uint8_t code;
    bool echo; /* type is ECHO_REQUEST */
    bool damaged;
    bool to_all;  /* Ethernet broadcast */
    uint32_t cut; /* ICMP bytes left out at the end */
};

static uint32_t build(const struct message *message, uint8_t *frame)
{
    uint32_t header = IPV4_HDR_LEN + message->options;
    uint32_t l4_len = ICMP_HDR_LEN + message->len - message->cut;
    uint8_t *l4 = frame + ETH_HDR_LEN + header;
    struct wire_icmp icmp = {.type = message->echo ? ECHO_REQUEST : message->type,
                             .code = message->code,
                             .id = htons(0x1234),
                             .seq = htons((uint16_t)message->len)};
    struct wire_ipv4 ip = {.version_ihl = (uint8_t)(0x40 | header / 4),
                           .total_len = htons((uint16_t)(header + l4_len)),
                           .frag_off = htons(message->frag),
                           .ttl = 64,
                           .protocol = PROTO_ICMP,
                           .src = htonl(message->src ? message->src : PEER_IP),
                           .dst = htonl(message->dst ? message->dst : SHARD_IP)};

    memset(frame, 1, 2048); /* options: NOP */
    memcpy(frame, mem_attachment_mac(peer.attachment, true), 6);
    if (message->to_all) {
        memset(frame, 0xff, 6);
    }
    memcpy(frame + 6, mem_attachment_mac(peer.attachment, false), 6);
    frame[12] = 0x08;
    frame[13] = 0x00;
    memcpy(frame + ETH_HDR_LEN, &ip, sizeof(ip));
    ip.check = csum_fold(csum_add(frame + ETH_HDR_LEN, header, 0));
    memcpy(frame + ETH_HDR_LEN, &ip, sizeof(ip));
    for (uint32_t i = 0; i < message->len; i++) {
        l4[ICMP_HDR_LEN + i] = (uint8_t)(i * 11 + message->len);
    }
    memcpy(l4, &icmp, sizeof(icmp));
    icmp.check = csum_fold(csum_add(l4, l4_len, 0));
    icmp.check = (uint16_t)(icmp.check ^ (message->damaged ? 0x0100 : 0));
    memcpy(l4, &icmp, sizeof(icmp));
    return ETH_HDR_LEN + header + l4_len + message->trailer;
}

/* Sends it and checks its verdict; the answers it drew. */
static uint32_t ask(const struct message *message, enum verdict verdict)
{
    const struct stats_page *stats = peer.sim.worker[0].stack.stats;
    uint64_t before = stats->verdict[verdict];
    uint32_t drawn = answers;
    uint8_t frame[2048];

    peer_put(&peer, frame, build(message, frame));
    peer_run(&peer, 200);
    CHECK_EQ(stats->verdict[verdict], before + 1);
    return answers - drawn;
}

/* The answer is the request with type 0 and the addresses exchanged. */
static void check_echo(const struct message *message)
{
    uint32_t l4_len = ICMP_HDR_LEN + message->len;
    struct wire_ipv4 ip;
    struct wire_icmp icmp;

    CHECK_EQ(answer_len, L4 + l4_len);
    memcpy(&ip, answer + ETH_HDR_LEN, sizeof(ip));
    memcpy(&icmp, answer + L4, sizeof(icmp));
    CHECK_EQ(ip.version_ihl, 0x45);
    CHECK_EQ(ntohs(ip.total_len), IPV4_HDR_LEN + l4_len);
    CHECK_EQ(csum_fold(csum_add(answer + ETH_HDR_LEN, IPV4_HDR_LEN, 0)), 0);
    CHECK_EQ(ntohl(ip.src), SHARD_IP);
    CHECK_EQ(ntohl(ip.dst), PEER_IP);
    CHECK(memcmp(answer, mem_attachment_mac(peer.attachment, false), 6) == 0);
    CHECK_EQ(icmp.type, ECHO_REPLY);
    CHECK_EQ(icmp.code, 0);
    CHECK_EQ(ntohs(icmp.id), 0x1234);
    CHECK_EQ(ntohs(icmp.seq), message->len);
    CHECK_EQ(csum_fold(csum_add(answer + L4, l4_len, 0)), 0);
    for (uint32_t i = 0; i < message->len; i++) {
        if (answer[L4 + ICMP_HDR_LEN + i] != (uint8_t)(i * 11 + message->len)) {
            CHECK(!"the same data");
            return;
        }
    }
}

static void echo_of_every_length_comes_back(void)
{
    open_peer();
    for (uint32_t len = 0; len <= DATA_MAX; len += len < 70 || len > DATA_MAX - 6 ? 1 : 41) {
        struct message message = {.echo = true, .len = len};

        if (CHECK_EQ(ask(&message, VERDICT_icmp_echo), 1)) {
            check_echo(&message);
        }
    }
    peer_close(&peer);
}

static void what_surrounds_the_message_is_left_out(void)
{
    struct message padded = {.echo = true, .len = 1, .trailer = 25};
    struct message optioned = {.echo = true, .len = 33, .options = 8};

    open_peer();
    CHECK_EQ(ask(&padded, VERDICT_icmp_echo), 1);
    check_echo(&padded);
    CHECK_EQ(ask(&optioned, VERDICT_icmp_echo), 1);
    check_echo(&optioned);
    peer_close(&peer);
}

static void damaged_messages_are_not_answered(void)
{
    open_peer();
    for (uint32_t len = 0; len < 9; len++) {
        CHECK_EQ(ask(&(struct message){.echo = true, .len = len, .damaged = true},
                     VERDICT_icmp_malformed),
                 0);
    }
    for (uint32_t cut = 1; cut <= ICMP_HDR_LEN; cut++) {
        CHECK_EQ(ask(&(struct message){.echo = true, .cut = cut}, VERDICT_icmp_malformed), 0);
    }
    peer_close(&peer);
}

/* RFC 1122 section 3.2.2.6 lets us; nobody shall make us a part of a flood. */
static void broadcasts_are_not_answered(void)
{
    open_peer();
    CHECK_EQ(ask(&(struct message){.echo = true, .len = 8, .to_all = true}, VERDICT_icmp_ignored),
             0);
    CHECK_EQ(ask(&(struct message){.echo = true, .to_all = true, .dst = 0x0a4d00ff},
                 VERDICT_ip_not_ours),
             0);
    CHECK_EQ(ask(&(struct message){.echo = true, .to_all = true, .dst = UINT32_MAX},
                 VERDICT_ip_not_ours),
             0);
    peer_close(&peer);
}

static void sources_that_no_host_has_are_not_answered(void)
{
    static const uint32_t sources[] = {SHARD_IP,   0x0a4d00ff, 0x7f000001, 0xe0000001,
                                       0xf0000001, UINT32_MAX, 0x00000001};

    open_peer();
    for (uint32_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
        CHECK_EQ(ask(&(struct message){.echo = true, .len = 5, .src = sources[i]},
                     VERDICT_ip_bad_source),
                 0);
    }
    peer_close(&peer);
}

static void fragments_and_giants_are_not_answered(void)
{
    open_peer();
    CHECK_EQ(
        ask(&(struct message){.echo = true, .len = 8, .frag = MORE_FRAGMENTS}, VERDICT_ip_fragment),
        0);
    CHECK_EQ(ask(&(struct message){.echo = true, .len = 8, .frag = 1}, VERDICT_ip_fragment), 0);
    CHECK_EQ(ask(&(struct message){.echo = true, .len = DATA_MAX + 1}, VERDICT_icmp_ignored), 0);
    peer_close(&peer);
}

static void other_messages_are_counted_only(void)
{
    open_peer();
    for (uint32_t type = 0; type < 256; type++) {
        bool error = type == 3 || type == 4 || type == 11 || type == 12;

        if (type == ECHO_REQUEST) {
            continue;
        }
        CHECK_EQ(ask(&(struct message){.type = (uint8_t)type, .len = 20},
                     error ? VERDICT_icmp_error : VERDICT_icmp_ignored),
                 0);
    }
    CHECK_EQ(ask(&(struct message){.echo = true, .code = 1, .len = 9}, VERDICT_icmp_ignored), 0);
    peer_close(&peer);
}

/* RFC 5927: anybody can send these; no connection ends by them. */
static void errors_end_no_connection(void)
{
    open_peer();
    peer_connect(&peer, 7);
    peer_flush(&peer);
    for (uint8_t code = 0; code < 16; code++) {
        CHECK_EQ(ask(&(struct message){.type = UNREACHABLE, .code = code, .len = 28},
                     VERDICT_icmp_error),
                 0);
    }
    peer_send(&peer, &(struct send){
                         .seq = 1, .ack = 1, .flags = TCP_ACK, .window = 65535, .payload = "x"});
    peer_expect(&peer, TCP_ACK, 1, 2, 1);
    peer_send(&peer, &(struct send){.seq = 2, .flags = TCP_RST});
    peer_close(&peer);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"echo of every length comes back", echo_of_every_length_comes_back},
        {"what surrounds the message is left out", what_surrounds_the_message_is_left_out},
        {"damaged messages are not answered", damaged_messages_are_not_answered},
        {"broadcasts are not answered", broadcasts_are_not_answered},
        {"sources that no host has are not answered", sources_that_no_host_has_are_not_answered},
        {"fragments and giants are not answered", fragments_and_giants_are_not_answered},
        {"other messages are counted only", other_messages_are_counted_only},
        {"errors end no connection", errors_end_no_connection},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
