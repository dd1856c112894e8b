/*
 * Two parsers against a second opinion: the TCP option parser, on options that end where memory
 * ends, and the http service, whose requests are counted again here however they were cut into
 * segments. The first byte chooses.
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

/* Our end of the one http connection, on a wire that loses nothing. */
static struct {
    struct lab lab;
    uint32_t seq; /* next to be sent, and acknowledged: one segment at a time */
    uint32_t acked;
    uint32_t irs;
    uint32_t replied; /* bytes */
    bool wrong;
} http;

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
    http.acked = ntohl(tcp.ack);
    if (tcp.flags & TCP_SYN) {
        http.irs = ntohl(tcp.seq);
        return;
    }
    off = ETH_HDR_LEN + IPV4_HDR_LEN + (uint32_t)(tcp.data_off >> 4) * 4;
    http.wrong |= off < len && ntohl(tcp.seq) != http.irs + 1 + http.replied;
    for (; off < len; off++) {
        http.wrong |= frame[off] != (uint8_t)reply[http.replied % (sizeof(reply) - 1)];
        http.replied++;
    }
}

static void say(uint8_t flags, const uint8_t *text, uint32_t len)
{
    uint8_t segment[TCP_HDR_LEN + UINT8_MAX];
    uint8_t frame[ETH_HDR_LEN + IPV4_HDR_LEN + sizeof(segment)];
    struct wire_tcp tcp = {.src_port = htons(LOCAL_PORT),
                           .dst_port = htons(HTTP_PORT),
                           .seq = htonl(http.seq),
                           .ack = htonl(http.irs + 1 + http.replied),
                           .data_off = 0x50,
                           .flags = flags,
                           .window = htons(UINT16_MAX)};

    memcpy(segment, &tcp, sizeof(tcp));
    memcpy(segment + TCP_HDR_LEN, text, len);
    lab_send(&http.lab, frame, lab_wrap_tcp(&http.lab, frame, segment, TCP_HDR_LEN + len));
    lab_turn(&http.lab);
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

static void try_http(struct input *input)
{
    uint8_t cut = input_u8(input);
    uint32_t len = (uint32_t)(input->left > REQUESTS_MAX ? REQUESTS_MAX : input->left);
    const uint8_t *bytes = input->at;
    uint32_t requests = count_requests(bytes, len);
    uint32_t done = 0;

    memset(&http, 0, sizeof(http));
    lab_open(&http.lab, 1);
    http.lab.on_frame = on_frame;
    lab_announce(&http.lab);
    http.seq = 1000;
    say(TCP_SYN, bytes, 0);
    http.seq++;
    say(TCP_ACK, bytes, 0);
    for (uint32_t turn = 0; turn < 2 * REQUESTS_MAX && done < len; turn++) {
        uint32_t part = 1 + (cut + turn * (cut >> 4)) % 255u;

        part = part < len - done ? part : len - done;
        say(TCP_ACK, bytes + done, part);
        done += http.acked - http.seq;
        http.seq = http.acked;
    }
    for (uint32_t i = 0; i < TURNS_TO_DRAIN && http.replied < requests * (sizeof(reply) - 1); i++) {
        say(TCP_ACK, bytes, 0);
        lab_run(&http.lab, 1000);
    }
    CHECK_EQ(done, len);
    CHECK(!http.wrong);
    CHECK_EQ(http.replied, requests * (sizeof(reply) - 1));
    http.lab.on_frame = NULL;
    lab_close(&http.lab);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};

    if (input_u8(&input) & 1) {
        try_http(&input);
    } else {
        try_options(&input);
    }
    fuzz_settle();
    return 0;
}
