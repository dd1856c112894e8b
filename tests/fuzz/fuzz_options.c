/*
 * Parsers against a second opinion: the TCP option parser, on options that end where memory ends,
 * and the services http and sockperf, whose requests and messages are found again here however they
 * were cut into segments. The first byte chooses.
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "base/wire.h"
#include "check.h"
#include "fuzz.h"
#include "stack/tcp/tcp.h"

enum {
    OPTIONS_MAX = 40,
    REQUESTS_MAX = 4000, /* bytes */
    WSCALE_MAX = 14,
    TURNS_TO_DRAIN = 400,
    LOCAL_PORT = 40000,
    HTTP_PORT = 80,
    SOCKPERF_PORT = 11111,
    SOCKPERF_CHOSEN = 3, /* first byte; other odd ones choose http */
    SOCKPERF_HEADER = 14,
    SOCKPERF_MAX = 65507,
};

/* RFC 9293 section 3.1, from the back: each option must end within the list. */
struct opinion {
    bool legal;
    uint16_t mss;
    uint8_t wscale;
};

static struct opinion second_opinion(const uint8_t *options, uint32_t len)
{
    struct opinion opinion = {.legal = true, .wscale = UINT8_MAX};
    const uint8_t *end = options + len;

    for (const uint8_t *at = options; at < end && *at != 0;) {
        ptrdiff_t left = end - at;

        if (*at == 1) {
            at++;
            continue;
        }
        if (left < 2 || at[1] < 2 || at[1] > left) {
            opinion.legal = false;
            break;
        }
        if (at[0] == 2 && at[1] == 4) {
            opinion.mss = (uint16_t)(at[2] * 256 + at[3]);
        }
        if (at[0] == 3 && at[1] == 3) {
            opinion.wscale = at[2] > WSCALE_MAX ? WSCALE_MAX : at[2];
        }
        at += at[1];
    }
    return opinion;
}

static void try_options(struct input *input)
{
    uint32_t len = (uint32_t)(input->left > OPTIONS_MAX ? OPTIONS_MAX : input->left) / 4 * 4;
    uint32_t total = TCP_HEADERS_LEN + len;
    uint8_t *bytes = calloc(1, total);
    struct wire_tcp tcp = {.data_off = (uint8_t)((TCP_HDR_LEN + len) / 4 << 4), .flags = TCP_SYN};
    struct frame frame = {.data = bytes,
                          .len = total,
                          .contig = total,
                          .nslots = 1,
                          .csum = FRAME_CSUM_VALID,
                          .l3_off = ETH_HDR_LEN,
                          .l4_off = ETH_HDR_LEN + IPV4_HDR_LEN,
                          .l4_len = TCP_HDR_LEN + len};
    struct segment seg = {0};
    struct opinion opinion = second_opinion(input->at, len);
    enum verdict verdict;

    if (!bytes) {
        return;
    }
    memcpy(bytes + ETH_HDR_LEN + IPV4_HDR_LEN, &tcp, sizeof(tcp));
    memcpy(bytes + TCP_HEADERS_LEN, input->at, len);
    verdict = segment_parse(NULL, &frame, &seg);
    CHECK_EQ(verdict, opinion.legal ? VERDICT_NONE : VERDICT_tcp_bad_header);
    if (opinion.legal) {
        CHECK_EQ(seg.mss, opinion.mss);
        CHECK_EQ(seg.wscale, opinion.wscale);
        CHECK_EQ(seg.len, 0);
    }
    free(bytes);
}

/* Our end of the one connection to a service, on a wire that loses nothing. */
static struct {
    struct lab lab;
    uint16_t tcp_port;
    uint32_t seq; /* next to be sent, and acknowledged: one segment at a time */
    uint32_t acked;
    uint32_t irs;
    uint32_t replied;   /* bytes */
    const uint8_t *due; /* what has to come, again and again */
    uint32_t due_len;
    bool wrong;
    bool reset;
} talk;

static const char reply[] = "HTTP/1.1 200 OK\r\nServer: shardserver\r\nContent-Type: "
                            "text/plain\r\nContent-Length: 14\r\n\r\nHello, shard.\n";

static void on_frame(void *data, const uint8_t *frame, uint32_t len)
{
    struct wire_tcp tcp;
    uint32_t off;

    (void)data;
    if (len < TCP_HEADERS_LEN || frame[13] != 0x00 || frame[23] != PROTO_TCP) {
        return;
    }
    CHECK(lab_tcp_right(frame, len));
    memcpy(&tcp, frame + ETH_HDR_LEN + IPV4_HDR_LEN, sizeof(tcp));
    talk.reset |= (tcp.flags & TCP_RST) != 0;
    if (talk.reset) {
        return;
    }
    talk.acked = ntohl(tcp.ack);
    if (tcp.flags & TCP_SYN) {
        talk.irs = ntohl(tcp.seq);
        return;
    }
    off = ETH_HDR_LEN + IPV4_HDR_LEN + (uint32_t)(tcp.data_off >> 4) * 4;
    talk.wrong |= off < len && (ntohl(tcp.seq) != talk.irs + 1 + talk.replied || !talk.due_len);
    for (; off < len && talk.due_len; off++) {
        talk.wrong |= frame[off] != talk.due[talk.replied % talk.due_len];
        talk.replied++;
    }
}

static void say(uint8_t flags, const uint8_t *text, uint32_t len)
{
    uint8_t segment[TCP_HDR_LEN + UINT8_MAX];
    uint8_t frame[ETH_HDR_LEN + IPV4_HDR_LEN + sizeof(segment)];
    struct wire_tcp tcp = {.src_port = htons(LOCAL_PORT),
                           .dst_port = htons(talk.tcp_port),
                           .seq = htonl(talk.seq),
                           .ack = htonl(talk.irs + 1 + talk.replied),
                           .data_off = 0x50,
                           .flags = flags,
                           .window = htons(UINT16_MAX)};

    memcpy(segment, &tcp, sizeof(tcp));
    memcpy(segment + TCP_HDR_LEN, text, len);
    lab_send(&talk.lab, frame, lab_wrap_tcp(&talk.lab, frame, segment, TCP_HDR_LEN + len));
    lab_turn(&talk.lab);
}

/* A request ends at an empty line; a line may end with LF alone (RFC 9112 section 2.2). */
static uint32_t count_requests(const uint8_t *bytes, uint32_t len)
{
    uint32_t requests = 0;

    for (uint32_t i = 0; i < len; i++) {
        bool after_crlf =
            i >= 2 && bytes[i] == '\n' && bytes[i - 1] == '\r' && bytes[i - 2] == '\n';
        bool after_lf = i >= 1 && bytes[i] == '\n' && bytes[i - 1] == '\n';

        if (after_crlf || after_lf) {
            requests++;
            bytes += i + 1; /* what ended this one begins no other */
            len -= i + 1;
            i = UINT32_MAX;
        }
    }
    return requests;
}

/* Says all of it, cut as `cut` says, and waits until so many bytes have come back. */
static void converse(const uint8_t *bytes, uint32_t len, uint8_t cut, uint32_t expected)
{
    uint32_t done = 0;

    lab_open(&talk.lab, 1);
    talk.lab.on_frame = on_frame;
    lab_announce(&talk.lab);
    talk.seq = 1000;
    say(TCP_SYN, bytes, 0);
    talk.seq++;
    say(TCP_ACK, bytes, 0);
    for (uint32_t turn = 0; turn < 2 * REQUESTS_MAX && done < len && !talk.reset; turn++) {
        uint32_t part = 1 + (cut + turn * (cut >> 4)) % 255u;

        part = part < len - done ? part : len - done;
        say(TCP_ACK, bytes + done, part);
        done += talk.acked - talk.seq;
        talk.seq = talk.acked;
    }
    for (uint32_t i = 0; i < TURNS_TO_DRAIN && talk.replied < expected && !talk.reset; i++) {
        say(TCP_ACK, bytes, 0);
        lab_run(&talk.lab, 1000);
    }
    CHECK(done == len || talk.reset);
    CHECK(!talk.wrong);
    talk.lab.on_frame = NULL;
    lab_close(&talk.lab);
}

static uint32_t length_of(const struct input *input)
{
    return (uint32_t)(input->left > REQUESTS_MAX ? REQUESTS_MAX : input->left);
}

static void try_http(struct input *input)
{
    uint8_t cut = input_u8(input);
    uint32_t len = length_of(input);
    uint32_t expected = count_requests(input->at, len) * (uint32_t)(sizeof(reply) - 1);

    memset(&talk, 0, sizeof(talk));
    talk.tcp_port = HTTP_PORT;
    talk.due = (const uint8_t *)reply;
    talk.due_len = sizeof(reply) - 1;
    converse(input->at, len, cut, expected);
    CHECK(!talk.reset);
    CHECK_EQ(talk.replied, expected);
}

/* The messages that ask, one behind the other, as they come back; UINT32_MAX: a wild length. */
static uint32_t answer_all(const uint8_t *bytes, uint32_t len, uint8_t *out, uint32_t *n)
{
    uint32_t at = 0;

    for (*n = 0; at + SOCKPERF_HEADER <= len;) {
        uint32_t length = (uint32_t)bytes[at + 10] << 24 | (uint32_t)bytes[at + 11] << 16 |
                          (uint32_t)bytes[at + 12] << 8 | bytes[at + 13];
        uint32_t here = length < len - at ? length : len - at;

        if (length < SOCKPERF_HEADER || length > SOCKPERF_MAX) {
            return UINT32_MAX;
        }
        if ((bytes[at + 9] & 7) == 3) { /* of a client, to be answered, no warm-up */
            memcpy(out + *n, bytes + at, here);
            out[*n + 9] ^= 1;
            *n += here;
        }
        at += here;
    }
    return at;
}

static void try_sockperf(struct input *input)
{
    static uint8_t answers[REQUESTS_MAX];
    uint8_t cut = input_u8(input);
    uint32_t len = length_of(input);
    bool wild;
    uint32_t n;

    memset(&talk, 0, sizeof(talk));
    talk.tcp_port = SOCKPERF_PORT;
    wild = answer_all(input->at, len, answers, &n) == UINT32_MAX;
    talk.due = answers;
    talk.due_len = n;
    converse(input->at, len, cut, wild ? UINT32_MAX : n);
    CHECK_EQ(talk.reset, wild);
    CHECK(wild ? talk.replied <= n : talk.replied == n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};

    uint8_t choice = input_u8(&input);

    if (choice == SOCKPERF_CHOSEN) {
        try_sockperf(&input);
    } else if (choice & 1) {
        try_http(&input);
    } else {
        try_options(&input);
    }
    fuzz_settle();
    return 0;
}
