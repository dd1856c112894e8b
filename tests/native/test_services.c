/* The built-in services from the wire (RFC 862, 863, 864, 867; http), and slow readers. */
#include <stdio.h>
#include <string.h>

#include "base/wire.h"
#include "check.h"
#include "peer.h"

enum {
    ECHO = 7,
    DISCARD = 9,
    DAYTIME = 13,
    CHARGEN = 19,
    HTTP = 80,
    LINE = 74, /* chargen: 72 characters, CR LF */
    STREAM_MAX = 300000,
    BUFFERS = 65536, /* sim.c: rcv_buf and snd_buf */
};

static struct peer peer;

/* What one connection has said and heard. */
static struct {
    uint32_t snd; /* our next number */
    uint32_t len; /* bytes heard */
    bool fin;
    uint8_t bytes[STREAM_MAX];
} talk;

static struct stack *stack(void)
{
    return &peer.sim.worker[0].stack;
}

static void open_to(uint16_t tcp_port)
{
    peer_open(&peer);
    peer_connect(&peer, tcp_port);
    peer.read = 1; /* the SYN-ACK */
    memset(&talk, 0, sizeof(talk));
    talk.snd = 1;
}

/* Puts what came into its place. */
static void hear(void)
{
    const struct answer *answer;

    while ((answer = peer_next(&peer)) != NULL) {
        uint32_t at = answer->seq - peer.irs - 1;

        if (at <= talk.len && at + answer->len > talk.len && at + answer->len <= STREAM_MAX) {
            memcpy(talk.bytes + at, answer->payload, answer->len);
            talk.len = at + answer->len;
        }
        talk.fin |= (answer->flags & TCP_FIN) && at + answer->len == talk.len;
    }
    peer_flush(&peer);
}

static void send_flags(const char *text, uint32_t len, uint8_t flags, uint16_t window)
{
    peer_send(&peer, &(struct send){.seq = talk.snd,
                                    .ack = 1 + talk.len + talk.fin,
                                    .flags = flags,
                                    .window = window,
                                    .payload = len ? text : NULL,
                                    .len = len});
    talk.snd += len + !!(flags & TCP_FIN);
    hear();
}

static void say(const char *text)
{
    send_flags(text, (uint32_t)strlen(text), TCP_ACK | TCP_PSH, 65535);
}

static void acknowledge(uint16_t window)
{
    send_flags(NULL, 0, TCP_ACK, window);
}

/* Acknowledges until nothing new comes. */
static void drain(uint32_t enough)
{
    for (uint32_t quiet = 0; quiet < 5 && talk.len < enough;) {
        uint32_t before = talk.len + talk.fin;

        acknowledge(65535);
        peer_run(&peer, 2000);
        hear();
        quiet = talk.len + talk.fin > before ? 0 : quiet + 1;
    }
}

static void reset_and_close(void)
{
    peer_send(&peer, &(struct send){.seq = talk.snd, .flags = TCP_RST});
    CHECK_EQ(stack()->shared->conns_active, 0);
    peer_close(&peer);
}

/* Our FIN, their FIN, our ACK: nothing is left. */
static void close_in_order(void)
{
    send_flags(NULL, 0, TCP_ACK | TCP_FIN, 65535);
    drain(STREAM_MAX);
    CHECK(talk.fin);
    acknowledge(65535);
    CHECK_EQ(stack()->shared->conns_active, 0);
    peer_close(&peer);
}

static void echo_returns_each_piece_as_it_was(void)
{
    static char piece[1461];
    uint32_t sent = 0;

    open_to(ECHO);
    for (uint32_t len = 1; len <= 1460; len += 113) {
        for (uint32_t i = 0; i < len; i++) {
            piece[i] = (char)(len + i);
        }
        send_flags(piece, len, TCP_ACK, 65535);
        sent += len;
        CHECK_EQ(talk.len, sent);
        CHECK(memcmp(talk.bytes + sent - len, piece, len) == 0);
    }
    close_in_order();
}

static void discard_says_nothing_and_takes_all(void)
{
    static char piece[1460];

    open_to(DISCARD);
    for (uint32_t i = 0; i < 1000; i++) { /* twenty times its buffer */
        send_flags(piece, sizeof(piece), TCP_ACK, 65535);
    }
    CHECK_EQ(talk.len, 0);
    CHECK_EQ(stack()->stats->counter[COUNTER_service_bytes_in], 1000 * sizeof(piece));
    close_in_order();
    CHECK_EQ(talk.len, 0);
}

/* RFC 864: 72 of the 95 printable characters, shifted by one each line. */
static void chargen_has_the_pattern_of_the_rfc(void)
{
    uint32_t wrong = 0;

    open_to(CHARGEN);
    say("this is thrown away");
    drain(2 * 95 * LINE);
    CHECK(talk.len >= 2 * 95 * LINE);
    for (uint32_t i = 0; i < talk.len; i++) {
        uint32_t column = i % LINE;
        uint8_t expected = (uint8_t)(' ' + (i / LINE + column) % 95);

        if (column >= 72) {
            expected = column == 72 ? '\r' : '\n';
        }
        wrong += talk.bytes[i] != expected;
    }
    CHECK_EQ(wrong, 0);
    CHECK(memcmp(talk.bytes, " !\"#$%&'()*+,-./0123456789:;<=>?@ABC", 36) == 0);
    reset_and_close();
}

static void chargen_ends_when_the_peer_does(void)
{
    open_to(CHARGEN);
    drain(5000);
    send_flags(NULL, 0, TCP_ACK | TCP_FIN, 65535);
    drain(STREAM_MAX);
    CHECK(talk.fin);
    CHECK(talk.len < 5000 + 3 * BUFFERS); /* what was queued, no more */
    acknowledge(65535);
    CHECK_EQ(stack()->shared->conns_active, 0);
    peer_close(&peer);
}

static void daytime_says_a_line_and_closes_first(void)
{
    char weekday[16];
    char month[16];
    int day;
    int year;
    int hour;
    int minute;
    int second;

    open_to(DAYTIME);
    hear();
    CHECK(talk.fin);
    CHECK_EQ(sscanf((const char *)talk.bytes, "%15[A-Za-z], %15[A-Za-z] %d, %d %d:%d:%d-UTC",
                    weekday, month, &day, &year, &hour, &minute, &second),
             7);
    CHECK(year >= 2024 && day >= 1 && day <= 31);
    CHECK(talk.len > 4 && memcmp(talk.bytes + talk.len - 6, "-UTC\r\n", 6) == 0);
    send_flags(NULL, 0, TCP_ACK | TCP_FIN, 65535);
    CHECK_EQ(stack()->shared->time_wait, 1); /* on the side that closed first */
    peer_run(&peer, 1500000);
    CHECK_EQ(stack()->shared->conns_active, 0);
    peer_close(&peer);
}

static void daytime_has_no_use_for_data(void)
{
    open_to(DAYTIME);
    hear();
    say("what time is it?");
    CHECK_EQ(stack()->stats->counter[COUNTER_rsts_sent], 1);
    CHECK_EQ(stack()->shared->conns_active, 0);
    peer_close(&peer);
}

static const char request[] = "GET / HTTP/1.1\r\nHost: shard\r\n\r\n";

/* Replies heard, each whole: headers, and as many bytes of body as they say. */
static uint32_t replies(void)
{
    const char *at = (const char *)talk.bytes;
    const char *end = at + talk.len;
    uint32_t n = 0;

    while (at < end) {
        const char *body = strstr(at, "\r\n\r\n");
        const char *length = strstr(at, "Content-Length: ");
        unsigned bytes = 0;

        if (!body || !length || length > body || strncmp(at, "HTTP/1.1 200 OK\r\n", 17) != 0 ||
            sscanf(length, "Content-Length: %u", &bytes) != 1) {
            break;
        }
        at = body + 4 + bytes;
        n++;
    }
    CHECK(at == end);
    return n;
}

static void http_waits_for_the_whole_request(void)
{
    open_to(HTTP);
    for (uint32_t i = 0; i + 1 < sizeof(request) - 1; i++) {
        send_flags(request + i, 1, TCP_ACK, 65535);
        CHECK_EQ(talk.len, 0);
    }
    send_flags(request + sizeof(request) - 2, 1, TCP_ACK, 65535);
    CHECK_EQ(replies(), 1);
    say("GET /again HTTP/1.1\r\n\r\n"); /* the connection is kept */
    CHECK_EQ(replies(), 2);
    say("GET / HTTP/1.0\n\n"); /* bare line ends are taken (RFC 9112 section 2.2) */
    CHECK_EQ(replies(), 3);
    close_in_order();
}

/* Cut anywhere, several to a segment, more than are read ahead at once. */
static void http_answers_pipelined_requests_in_full(void)
{
    static char many[sizeof(request) * 400];
    uint32_t len = 0;

    for (uint32_t i = 0; i < 400; i++) {
        memcpy(many + len, request, sizeof(request) - 1);
        len += (uint32_t)sizeof(request) - 1;
    }
    open_to(HTTP);
    for (uint32_t at = 0; at < len;) {
        uint32_t part = 1 + at * 7 % 1400;

        part = part < len - at ? part : len - at;
        send_flags(many + at, part, TCP_ACK, 65535);
        at += part;
    }
    drain(STREAM_MAX);
    CHECK_EQ(replies(), 400);
    close_in_order();
}

static void http_reads_a_request_of_any_length_without_keeping_it(void)
{
    static char header[1400];
    uint32_t least = UINT32_MAX;

    memset(header, 'x', sizeof(header));
    open_to(HTTP);
    say("GET / HTTP/1.1\r\nLong: ");
    for (uint32_t i = 0; i < 800; i++) { /* a megabyte */
        send_flags(header, sizeof(header), TCP_ACK, 65535);
        least = stack()->shared->chunk_free_n < least ? stack()->shared->chunk_free_n : least;
    }
    CHECK_EQ(talk.len, 0);
    CHECK(least >= stack()->config->chunks_max - 4);
    say("\r\n\r\n");
    CHECK_EQ(replies(), 1);
    close_in_order();
}

static void half_a_request_gets_no_reply(void)
{
    open_to(HTTP);
    say("GET / HTTP/1.1\r\nHost:");
    close_in_order();
    CHECK_EQ(talk.len, 0);
}

static uint32_t chunks_used(void)
{
    return stack()->config->chunks_max - stack()->shared->chunk_free_n;
}

/* Who does not read stops the service, then himself; nothing is lost meanwhile. */
static void a_slow_reader_closes_the_window(void)
{
    static char piece[1460];
    uint16_t window = UINT16_MAX;
    uint32_t sent = 0;

    open_to(ECHO);
    for (uint32_t i = 0; i < 400 && window >= sizeof(piece); i++) {
        for (uint32_t k = 0; k < sizeof(piece); k++) {
            piece[k] = (char)((sent + k) * 7 % 251);
        }
        peer_send(&peer, &(struct send){.seq = 1 + sent,
                                        .ack = 1,
                                        .flags = TCP_ACK,
                                        .payload = piece,
                                        .len = sizeof(piece)});
        sent += (uint32_t)sizeof(piece);
        peer_run(&peer, 50000); /* the delayed ACK */
        window = peer.answers_n ? peer.answers[peer.answers_n - 1].window : window;
        peer_flush(&peer);
    }
    CHECK(window < sizeof(piece));
    CHECK(sent > BUFFERS && sent <= 2 * BUFFERS + 2 * sizeof(piece));
    CHECK(chunks_used() <= 2 * BUFFERS / 1024 + 4);
    talk.snd = 1 + sent;
    drain(sent);
    CHECK(talk.len >= sent - sizeof(piece) && talk.len <= sent);
    for (uint32_t i = 0; i < talk.len; i++) {
        if (!CHECK_EQ(talk.bytes[i], i * 7 % 251)) {
            break;
        }
    }
    talk.snd = 1 + talk.len; /* what the closed window cut off */
    reset_and_close();
}

static void a_reader_that_never_reads_holds_its_share_alone(void)
{
    open_to(CHARGEN);
    peer_send(&peer, &(struct send){.seq = 1, .ack = 1, .flags = TCP_ACK, .window = 0});
    peer_run(&peer, 3000000);
    CHECK(chunks_used() > 0);
    CHECK(chunks_used() <= BUFFERS / 1024 + 4);
    CHECK_EQ(stack()->stats->counter[COUNTER_service_bytes_out], BUFFERS);
    reset_and_close();
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"echo returns each piece as it was", echo_returns_each_piece_as_it_was},
        {"discard says nothing and takes all", discard_says_nothing_and_takes_all},
        {"chargen has the pattern of RFC 864", chargen_has_the_pattern_of_the_rfc},
        {"chargen ends when the peer does", chargen_ends_when_the_peer_does},
        {"daytime says a line and closes first", daytime_says_a_line_and_closes_first},
        {"daytime has no use for data", daytime_has_no_use_for_data},
        {"http waits for the whole request", http_waits_for_the_whole_request},
        {"http answers pipelined requests in full", http_answers_pipelined_requests_in_full},
        {"http reads a request of any length without keeping it",
         http_reads_a_request_of_any_length_without_keeping_it},
        {"half a request gets no reply", half_a_request_gets_no_reply},
        {"a slow reader closes the window", a_slow_reader_closes_the_window},
        {"a reader that never reads holds its share alone",
         a_reader_that_never_reads_holds_its_share_alone},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
