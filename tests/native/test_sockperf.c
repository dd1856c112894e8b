/* The sockperf service from the wire: cut anywhere, many to a segment, lengths that cannot be. */
#include <arpa/inet.h>
#include <string.h>

#include "base/wire.h"
#include "check.h"
#include "peer.h"

enum {
    SOCKPERF = 11111,
    HEADER = 14,
    LONGEST = 65507,
    CLIENT = 1,
    ASKED = 2,
    WARMUP = 4,
    STREAM_MAX = 300000,
};

static struct peer peer;

/* What we say, what has to come back, what came. */
static struct {
    uint8_t said[STREAM_MAX];
    uint32_t said_len;
    uint32_t sent; /* of it */
    uint8_t want[STREAM_MAX];
    uint32_t want_len;
    uint8_t heard[STREAM_MAX];
    uint32_t heard_len;
    bool fin;
    bool reset;
} talk;

static struct stack *stack(void)
{
    return &peer.sim.worker[0].stack;
}

static void open_talk(void)
{
    memset(&talk, 0, sizeof(talk));
    peer_open(&peer);
    peer_connect(&peer, SOCKPERF);
    peer.read = 1; /* the SYN-ACK */
}

/* A message as its client makes it, and its answer as the client looks for it. */
static void compose(uint64_t number, uint16_t flags, uint32_t length)
{
    uint8_t *at = talk.said + talk.said_len;
    uint32_t halves[2] = {htonl((uint32_t)(number >> 32)), htonl((uint32_t)number)};
    uint16_t flags_n = htons(flags);
    uint32_t length_n = htonl(length);

    memcpy(at, halves, 8);
    memcpy(at + 8, &flags_n, 2);
    memcpy(at + 10, &length_n, 4);
    for (uint32_t i = HEADER; i < length; i++) {
        at[i] = (uint8_t)(number * 31 + i * 7);
    }
    talk.said_len += length;
    if ((flags & (CLIENT | ASKED | WARMUP)) == (CLIENT | ASKED)) {
        memcpy(talk.want + talk.want_len, at, length);
        flags_n = htons(flags & (uint16_t)~CLIENT);
        memcpy(talk.want + talk.want_len + 8, &flags_n, 2);
        talk.want_len += length;
    }
}

static void hear(void)
{
    const struct answer *answer;

    while ((answer = peer_next(&peer)) != NULL) {
        uint32_t at = answer->seq - peer.irs - 1;

        talk.reset |= (answer->flags & TCP_RST) != 0;
        if (at <= talk.heard_len && at + answer->len > talk.heard_len &&
            at + answer->len <= STREAM_MAX) {
            memcpy(talk.heard + at, answer->payload, answer->len);
            talk.heard_len = at + answer->len;
        }
        talk.fin |= (answer->flags & TCP_FIN) && at + answer->len == talk.heard_len;
    }
    peer_flush(&peer);
}

static void put(uint32_t len, uint8_t flags, uint16_t window)
{
    peer_send(&peer, &(struct send){.seq = 1 + talk.sent,
                                    .ack = 1 + talk.heard_len + talk.fin,
                                    .flags = flags,
                                    .window = window,
                                    .payload = len ? (const char *)talk.said + talk.sent : NULL,
                                    .len = len});
    talk.sent += len;
    hear();
}

/* All that is composed, in segments of these sizes by turns. */
static void say(const uint32_t *sizes, uint32_t n)
{
    for (uint32_t i = 0; talk.sent < talk.said_len; i++) {
        uint32_t left = talk.said_len - talk.sent;

        put(sizes[i % n] < left ? sizes[i % n] : left, TCP_ACK | TCP_PSH, UINT16_MAX);
    }
}

static void drain(void)
{
    for (uint32_t quiet = 0; quiet < 5 && talk.heard_len < talk.want_len;) {
        uint32_t before = talk.heard_len;

        put(0, TCP_ACK, UINT16_MAX);
        peer_run(&peer, 2000);
        hear();
        quiet = talk.heard_len > before ? 0 : quiet + 1;
    }
}

static bool as_wanted(void)
{
    return CHECK_EQ(talk.heard_len, talk.want_len) &&
           CHECK(memcmp(talk.heard, talk.want, talk.want_len) == 0);
}

static void close_in_order(void)
{
    put(0, TCP_ACK | TCP_FIN, UINT16_MAX);
    talk.sent++;
    for (uint32_t i = 0; i < 20 && !talk.fin; i++) {
        put(0, TCP_ACK, UINT16_MAX);
        peer_run(&peer, 2000);
        hear();
    }
    CHECK(talk.fin);
    put(0, TCP_ACK, UINT16_MAX);
    CHECK_EQ(stack()->shared->conns_active, 0);
    peer_close(&peer);
}

static const uint32_t whole[] = {1460};

static void only_a_client_that_asks_is_answered(void)
{
    static const uint16_t flags[] = {0, 1, 2, 4, 5, 6, 7, 0xffff, 3, 0xf003, 0x000b};

    open_talk();
    for (uint32_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        compose(i + (1ull << 40), flags[i], HEADER + i);
        say(whole, 1);
        as_wanted();
    }
    CHECK_EQ(talk.want_len, 3 * HEADER + 8 + 9 + 10);
    close_in_order();
}

/* Lengths from header alone to several chunks, one in three unanswered. */
static void compose_many(uint32_t n)
{
    static const uint32_t lengths[] = {14, 15, 64, 200, 14, 1460, 1474, 3000, 14, 5000};

    for (uint32_t i = 0; i < n; i++) {
        compose(i, i % 3 == 1 ? CLIENT : CLIENT | ASKED, lengths[i % 10]);
    }
}

static void segments_may_be_cut_anywhere(void)
{
    static const uint32_t cuts[][3] = {{1460, 1460, 1460}, {1, 2, 3},    {13, 14, 15},
                                       {9, 1, 4},          {700, 1, 13}, {1459, 3, 8}};

    for (uint32_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
        open_talk();
        compose_many(40);
        say(cuts[i], 3);
        drain();
        if (!as_wanted()) {
            break;
        }
        CHECK_EQ(stack()->stats->counter[COUNTER_service_refused], 0);
        close_in_order();
    }
}

static void many_messages_to_a_segment_are_answered_in_order(void)
{
    open_talk();
    for (uint32_t i = 0; i < 5000; i++) {
        compose(i, CLIENT | ASKED, HEADER);
    }
    say(whole, 1);
    drain();
    as_wanted();
    close_in_order();
}

static void the_longest_message_comes_back(void)
{
    open_talk();
    compose(1, CLIENT | ASKED, LONGEST);
    compose(2, CLIENT | ASKED, HEADER);
    say(whole, 1);
    drain();
    as_wanted();
    close_in_order();
}

static void a_wild_length_is_reset_and_counted(void)
{
    static const uint32_t lengths[] = {0, 1, 13, LONGEST + 1, 65536, 1u << 31, UINT32_MAX};

    for (uint32_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        uint32_t wild = htonl(lengths[i]);

        open_talk();
        compose(1, CLIENT | ASKED, 100);
        say(whole, 1);
        as_wanted();
        compose(2, CLIENT | ASKED, HEADER);
        memcpy(talk.said + talk.said_len - 4, &wild, 4);
        say(whole, 1);
        CHECK(talk.reset);
        CHECK_EQ(talk.heard_len, 100);
        CHECK_EQ(stack()->stats->counter[COUNTER_service_refused], 1);
        CHECK_EQ(stack()->shared->conns_active, 0);
        peer_close(&peer);
    }
}

static void half_a_header_gets_no_answer(void)
{
    open_talk();
    compose(1, CLIENT | ASKED, HEADER);
    talk.said_len = HEADER - 1;
    talk.want_len = 0;
    say(whole, 1);
    CHECK_EQ(stack()->shared->conns_active, 1); /* it may go on */
    close_in_order();
    CHECK_EQ(talk.heard_len, 0);
    CHECK(!talk.reset);
}

static void half_a_message_comes_back_as_far_as_it_came(void)
{
    open_talk();
    compose(1, CLIENT | ASKED, 1000);
    talk.said_len = 600;
    talk.want_len = 600;
    say(whole, 1);
    as_wanted();
    close_in_order();
}

/* What finds no room waits in the header, in the middle, and at the end of a message. */
static void a_slow_reader_misses_nothing(void)
{
    uint32_t stopped = 0;

    open_talk();
    compose_many(60);
    for (uint32_t i = 0; talk.sent < talk.said_len || talk.heard_len < talk.want_len; i++) {
        uint32_t left = talk.said_len - talk.sent;
        uint16_t window = i % 5 == 4 ? 777 : 0;

        if (!CHECK(i < 3000)) {
            break;
        }
        put(left < 1460 ? left : 1460, TCP_ACK, window);
        peer_run(&peer, 1000);
        hear();
        stopped += window == 0;
    }
    CHECK(stopped > 100);
    as_wanted();
    close_in_order();
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"only a client that asks is answered", only_a_client_that_asks_is_answered},
        {"segments may be cut anywhere", segments_may_be_cut_anywhere},
        {"many messages to a segment are answered in order",
         many_messages_to_a_segment_are_answered_in_order},
        {"the longest message comes back", the_longest_message_comes_back},
        {"a wild length is reset and counted", a_wild_length_is_reset_and_counted},
        {"half a header gets no answer", half_a_header_gets_no_answer},
        {"half a message comes back as far as it came",
         half_a_message_comes_back_as_far_as_it_came},
        {"a slow reader misses nothing", a_slow_reader_misses_nothing},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
