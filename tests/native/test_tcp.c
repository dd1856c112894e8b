/* TCP seen from the wire (RFC 9293, 5961, 6298, 7323), requirement by requirement. */
#include <arpa/inet.h>
#include <string.h>

#include "check.h"
#include "peer.h"

static struct peer peer;

static void open_to(uint16_t tcp_port)
{
    peer_open(&peer);
    peer_connect(&peer, tcp_port);
    peer_flush(&peer);
}

/* Resets the connection from our side, so that the laws hold at the end. */
static void reset_and_close(uint32_t seq)
{
    peer_send(&peer, &(struct send){.seq = seq, .flags = TCP_RST});
    CHECK_EQ(peer.sim.worker[0].stack.shared->conns_active, 0);
    peer_close(&peer);
}

static void say(uint32_t seq, uint32_t ack, const char *text)
{
    peer_send(
        &peer,
        &(struct send){.seq = seq, .ack = ack, .flags = TCP_ACK, .window = 65535, .payload = text});
}

static void say_ack(uint32_t seq, uint32_t ack)
{
    peer_send(&peer, &(struct send){.seq = seq, .ack = ack, .flags = TCP_ACK, .window = 65535});
}

static void test_must_14_a_syn_ack_offers_mtu_minus_40(void)
{
    static const uint8_t options[] = {2, 4, 1460 >> 8, 1460 & 255, 1, 3, 3, 7};
    const struct answer *answer;

    peer_open(&peer);
    peer.tcp_port = 7;
    peer_send(&peer, &(struct send){
                         .flags = TCP_SYN, .window = 100, .options = options, .options_len = 8});
    answer = peer_next(&peer);
    if (CHECK(answer != NULL)) {
        CHECK_EQ(answer->mss, 1460);
        CHECK(answer->wscale <= 14);
        peer.irs = answer->seq;
    }
    reset_and_close(1);
}

static void no_window_scale_unless_offered(void)
{
    const struct answer *answer;

    peer_open(&peer);
    peer.tcp_port = 7;
    peer_send(&peer, &(struct send){.flags = TCP_SYN, .window = 100});
    answer = peer_next(&peer);
    if (CHECK(answer != NULL)) {
        CHECK_EQ(answer->wscale, UINT8_MAX);
    }
    reset_and_close(1);
}

static void test_must_15_without_an_offer_segments_are_536(void)
{
    uint32_t largest = 0;
    const struct answer *answer;

    peer_open(&peer);
    peer.tcp_port = 19;
    peer_send(&peer, &(struct send){.flags = TCP_SYN, .window = 65535});
    answer = peer_next(&peer);
    peer.irs = answer ? answer->seq : 0;
    say_ack(1, 1);
    peer_run(&peer, 5000);
    while ((answer = peer_next(&peer)) != NULL) {
        largest = answer->len > largest ? answer->len : largest;
    }
    CHECK_EQ(largest, 536);
    reset_and_close(1);
}

static void test_must_60_one_byte_is_echoed_at_once_with_psh(void)
{
    const struct answer *answer;

    open_to(7);
    say(1, 1, "x");
    answer = peer_next(&peer);
    if (CHECK(answer != NULL)) {
        CHECK_EQ(answer->flags, TCP_ACK | TCP_PSH);
        CHECK_EQ(answer->len, 1);
        CHECK_EQ(answer->payload[0], 'x');
        CHECK_EQ(answer->ack - peer.iss, 2);
    }
    reset_and_close(2);
}

static void half_close_echoes_everything_then_fins(void)
{
    open_to(7);
    peer_send(&peer, &(struct send){.seq = 1,
                                    .ack = 1,
                                    .flags = TCP_ACK | TCP_FIN,
                                    .window = 65535,
                                    .payload = "last words"});
    peer_expect(&peer, TCP_ACK | TCP_FIN, 1, 12, 10);
    say_ack(12, 12);
    CHECK_EQ(peer.sim.worker[0].stack.shared->conns_active, 0);
    peer_close(&peer);
}

static void test_rfc_5961_only_the_exact_rst_resets(void)
{
    open_to(7);
    peer_send(&peer, &(struct send){.seq = 2, .flags = TCP_RST});
    peer_expect(&peer, TCP_ACK, 1, 1, 0); /* challenge */
    peer_send(&peer, &(struct send){.seq = 0, .flags = TCP_RST});
    peer_send(&peer, &(struct send){.seq = 70000000, .flags = TCP_RST});
    peer_silent(&peer);
    CHECK_EQ(peer.sim.worker[0].stack.shared->conns_active, 1);
    reset_and_close(1);
}

static void test_rfc_5961_a_syn_is_challenged(void)
{
    open_to(7);
    peer_send(&peer, &(struct send){.seq = 5, .flags = TCP_SYN, .window = 65535});
    peer_expect(&peer, TCP_ACK, 1, 1, 0);
    CHECK_EQ(peer.sim.worker[0].stack.shared->conns_active, 1);
    reset_and_close(1);
}

static void test_rfc_5961_challenges_are_limited(void)
{
    open_to(7);
    for (int i = 0; i < 100; i++) {
        peer_send(&peer, &(struct send){.seq = 2, .flags = TCP_RST});
    }
    CHECK_EQ(peer.answers_n, 1);
    reset_and_close(1);
}

static void test_must_11_a_rst_in_syn_rcvd_goes_back_to_listen(void)
{
    peer_open(&peer);
    peer.tcp_port = 7;
    peer.iss = 1000000;
    peer_send(&peer, &(struct send){.flags = TCP_SYN, .window = 65535});
    CHECK_EQ(peer.sim.worker[0].stack.shared->syn_rcvd, 1);
    peer_send(&peer, &(struct send){.seq = 1, .flags = TCP_RST});
    CHECK_EQ(peer.sim.worker[0].stack.shared->conns_active, 0);
    CHECK_EQ(peer.sim.worker[0].stack.stats->counter[COUNTER_conns_accepted], 0);
    peer_flush(&peer);
    peer_connect(&peer, 7);
    reset_and_close(1);
}

static void test_must_10_simultaneous_open(void)
{
    struct stack *stack = &peer.sim.worker[0].stack;
    struct tuple tuple = {.laddr = htonl(0x0a4d0001),
                          .raddr = htonl(0x0a4d00c8),
                          .lport = htons(7),
                          .rport = htons(40000)};
    const struct answer *answer;

    peer_open(&peer);
    peer.tcp_port = 7;
    stack->now_us = peer.sim.now_us;
    CHECK(socket_connect(stack, &tuple, 0) != NONE);
    stack_commit(stack);
    peer_run(&peer, 200);
    answer = peer_next(&peer);
    if (CHECK(answer && answer->flags == TCP_SYN)) {
        peer.irs = answer->seq;
    }
    peer_send(&peer, &(struct send){.flags = TCP_SYN, .window = 65535});
    peer_expect(&peer, TCP_SYN | TCP_ACK, 0, 1, 0);
    peer_send(&peer, &(struct send){.ack = 1, .flags = TCP_SYN | TCP_ACK, .window = 65535});
    peer_expect(&peer, TCP_ACK, 1, 1, 0);
    say(1, 1, "x");
    peer_expect(&peer, TCP_ACK, 1, 2, 1);
    reset_and_close(2);
}

static void a_port_that_nobody_serves_answers_rst(void)
{
    const struct answer *answer;

    peer_open(&peer);
    peer.tcp_port = 9999;
    peer_send(&peer, &(struct send){.flags = TCP_SYN, .window = 65535});
    answer = peer_next(&peer);
    if (CHECK(answer != NULL)) {
        CHECK_EQ(answer->flags, TCP_RST | TCP_ACK);
        CHECK_EQ(answer->ack, peer.iss + 1);
    }
    peer_close(&peer);
}

static void a_listener_answers_nothing_without_syn_ack_or_rst(void)
{
    static const uint8_t nothing[] = {0, TCP_FIN, TCP_PSH, TCP_FIN | TCP_PSH | TCP_URG};

    peer_open(&peer);
    peer.irs = 0;
    for (uint32_t i = 0; i < sizeof(nothing); i++) {
        peer.tcp_port = 7;
        peer_send(&peer, &(struct send){.seq = 1, .flags = nothing[i], .window = 65535});
        peer_silent(&peer);
    }
    peer.tcp_port = 9999; /* nobody listens: RFC 9293 section 3.10.7.1 */
    peer_send(&peer, &(struct send){.seq = 1, .flags = TCP_FIN, .window = 65535});
    CHECK(peer_next(&peer) != NULL);
    peer_close(&peer);
}

static void data_for_no_connection_answers_rst(void)
{
    peer_open(&peer);
    peer.tcp_port = 7;
    peer.irs = 0;
    say(1, 77, "stray");
    peer_expect(&peer, TCP_RST, 77, 0, 0);
    peer_close(&peer);
}

static void test_must_7_illegal_option_lengths_do_no_harm(void)
{
    static const uint8_t zero[] = {2, 0, 0, 0};
    static const uint8_t past[] = {2, 41, 0, 0};

    peer_open(&peer);
    peer.tcp_port = 7;
    peer_send(&peer,
              &(struct send){.flags = TCP_SYN, .window = 1, .options = zero, .options_len = 4});
    peer_send(&peer,
              &(struct send){.flags = TCP_SYN, .window = 1, .options = past, .options_len = 4});
    peer_silent(&peer);
    CHECK_EQ(peer.sim.worker[0].stack.stats->verdict[VERDICT_tcp_bad_header], 2);
    peer_flush(&peer);
    peer_connect(&peer, 7);
    reset_and_close(1);
}

static void test_must_30_urgent_data_is_delivered_in_band(void)
{
    open_to(7);
    peer_send(
        &peer,
        &(struct send){
            .seq = 1, .ack = 1, .flags = TCP_ACK | TCP_URG, .window = 65535, .payload = "urgent"});
    peer_expect(&peer, TCP_ACK, 1, 7, 6);
    reset_and_close(7);
}

static void out_of_order_segments_are_joined(void)
{
    open_to(7);
    say(4, 1, "def");
    peer_expect(&peer, TCP_ACK, 1, 1, 0); /* a duplicate ACK, at once */
    say(7, 1, "ghi");
    peer_expect(&peer, TCP_ACK, 1, 1, 0);
    say(1, 1, "abc");
    peer_expect(&peer, TCP_ACK, 1, 10, 9);
    CHECK(memcmp(peer.answers[2].payload, "abcdefghi", 9) == 0);
    reset_and_close(10);
}

static void overlaps_keep_the_first_copy(void)
{
    open_to(7);
    say(3, 1, "CD");
    say(1, 1, "abXY");
    peer_next(&peer);
    peer_expect(&peer, TCP_ACK, 1, 5, 4);
    CHECK(memcmp(peer.answers[1].payload, "abXY", 4) == 0 ||
          memcmp(peer.answers[1].payload, "abCD", 4) == 0);
    reset_and_close(5);
}

static void a_fin_out_of_order_waits_for_the_hole(void)
{
    open_to(7);
    peer_send(
        &peer,
        &(struct send){
            .seq = 4, .ack = 1, .flags = TCP_ACK | TCP_FIN, .window = 65535, .payload = "def"});
    peer_expect(&peer, TCP_ACK, 1, 1, 0);
    say(1, 1, "abc");
    peer_expect(&peer, TCP_ACK | TCP_FIN, 1, 8, 6);
    say_ack(8, 8);
    peer_close(&peer);
}

static void a_fin_before_held_text_is_not_taken(void)
{
    open_to(7);
    say(4, 1, "def");
    peer_expect(&peer, TCP_ACK, 1, 1, 0);
    peer_send(
        &peer,
        &(struct send){
            .seq = 1, .ack = 1, .flags = TCP_ACK | TCP_FIN, .window = 65535, .payload = "abcd"});
    peer_expect(&peer, TCP_ACK, 1, 7, 6); /* never an ACK of the number behind the text */
    reset_and_close(7);
}

static void test_must_19_retransmissions_back_off(void)
{
    uint64_t gap = 0;

    open_to(7);
    say(1, 1, "lost");
    peer_run(&peer, 8000000);
    CHECK(peer.answers_n >= 4);
    for (uint32_t i = 1; i < peer.answers_n; i++) {
        uint64_t now = peer.answers[i].at_us - peer.answers[i - 1].at_us;

        CHECK_EQ(peer.answers[i].len, 4);
        CHECK(gap == 0 || (now > gap * 188 / 100 && now < gap * 212 / 100));
        gap = now;
    }
    reset_and_close(5);
}

/* Section 3.10.7.4's SND.NXT: what is resent does not move it back. */
static void acks_amid_a_retransmission_are_in_the_window(void)
{
    uint32_t flight;

    peer_open(&peer);
    peer_connect(&peer, 19);
    peer_run(&peer, 20000);
    flight = (peer.answers_n - 1) * 1460;
    peer_run(&peer, 1500000);
    CHECK(peer.sim.worker[0].stack.stats->counter[COUNTER_rto_expired] > 0);
    peer_flush(&peer);
    say(0, 1, "x"); /* seen before: answered with an ACK */
    peer_expect(&peer, TCP_ACK, 1 + flight, 1, 0);
    reset_and_close(1);
}

static void test_must_36_a_closed_window_is_probed_for_ever(void)
{
    uint32_t probes = 0;

    open_to(7);
    peer_send(&peer, &(struct send){
                         .seq = 1, .ack = 1, .flags = TCP_ACK, .window = 0, .payload = "hello"});
    for (int i = 0; i < 20; i++) {
        const struct answer *answer;

        peer_run(&peer, 10000000);
        while ((answer = peer_next(&peer)) != NULL) {
            probes += answer->len == 1;
        }
        peer_flush(&peer);
        peer_send(&peer, &(struct send){.seq = 6, .ack = 1, .flags = TCP_ACK, .window = 0});
    }
    CHECK(probes >= 6);
    CHECK_EQ(peer.sim.worker[0].stack.shared->conns_active, 1);
    peer_flush(&peer);
    say_ack(6, 1); /* the window opens */
    peer_expect(&peer, TCP_ACK, 1, 6, 5);
    reset_and_close(6);
}

static void test_must_66_a_rst_counts_at_zero_window(void)
{
    open_to(7);
    peer_send(&peer, &(struct send){
                         .seq = 1, .ack = 1, .flags = TCP_ACK, .window = 0, .payload = "hello"});
    reset_and_close(6);
}

static void three_duplicate_acks_send_the_hole_again(void)
{
    uint32_t before;

    peer_open(&peer);
    peer_connect(&peer, 19);
    peer_run(&peer, 3000);
    before = peer.answers_n;
    CHECK(before >= 4);
    for (int i = 0; i < 3; i++) {
        say_ack(1, 1);
    }
    CHECK_EQ(peer.sim.worker[0].stack.stats->counter[COUNTER_fast_retransmits], 1);
    CHECK(peer.answers_n > before);
    CHECK_EQ(peer.answers[peer.answers_n - 1].seq - peer.irs, 1);
    reset_and_close(1);
}

static void rfc_6928_the_first_flight_is_ten_segments(void)
{
    peer_open(&peer);
    peer_connect(&peer, 19);
    peer_run(&peer, 20000);
    CHECK_EQ(peer.answers_n, 1 + 10); /* the SYN-ACK, and the flight */
    reset_and_close(1);
}

static void delayed_acks_come_within_half_a_second(void)
{
    open_to(9);
    say(1, 1, "to be discarded");
    peer_silent(&peer);
    peer_run(&peer, 500000);
    peer_expect(&peer, TCP_ACK, 1, 16, 0);
    reset_and_close(16);
}

static void an_ack_of_what_was_never_sent_is_refused(void)
{
    open_to(7);
    say(1, 5000, "x");
    peer_expect(&peer, TCP_ACK, 1, 1, 0);
    CHECK_EQ(peer.sim.worker[0].stack.stats->verdict[VERDICT_tcp_bad_ack], 1);
    reset_and_close(1);
}

static void daytime_closes_first_and_waits(void)
{
    peer_open(&peer);
    peer_connect(&peer, 13);
    CHECK_EQ(peer.answers_n, 2);
    CHECK(peer.answers[1].len > 20);
    CHECK(peer.answers[1].flags & TCP_FIN);
    peer_send(&peer, &(struct send){.seq = 1,
                                    .ack = 2u + peer.answers[1].len,
                                    .flags = TCP_ACK | TCP_FIN,
                                    .window = 65535});
    CHECK_EQ(peer.sim.worker[0].stack.shared->time_wait, 1);
    peer_run(&peer, 1200000);
    CHECK_EQ(peer.sim.worker[0].stack.shared->conns_active, 0);
    peer_close(&peer);
}

static void http_answers_each_pipelined_request(void)
{
    open_to(80);
    say(1, 1, "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n");
    if (CHECK(peer.answers_n == 1)) {
        const char *first = (const char *)peer.answers[0].payload;

        CHECK(strncmp(first, "HTTP/1.1 200 OK\r\n", 17) == 0);
        CHECK(strstr(first + 17, "HTTP/1.1 200 OK\r\n") != NULL);
    }
    reset_and_close(55);
}

static void the_same_initial_number_is_never_used_twice(void)
{
    uint32_t first;

    peer_open(&peer);
    peer_connect(&peer, 7);
    first = peer.irs;
    peer_send(&peer, &(struct send){.seq = 1, .flags = TCP_RST});
    peer_run(&peer, 1000000);
    peer_flush(&peer);
    peer.local_port--;
    peer_connect(&peer, 7); /* the same tuple, a second later: RFC 6528's clock */
    CHECK(peer.irs - first > 240000 && peer.irs - first < 260000);
    reset_and_close(1);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"MUST-14: a SYN-ACK offers MTU - 40", test_must_14_a_syn_ack_offers_mtu_minus_40},
        {"no window scale unless offered", no_window_scale_unless_offered},
        {"MUST-15: without an offer segments are 536",
         test_must_15_without_an_offer_segments_are_536},
        {"MUST-60: one byte is echoed at once with PSH",
         test_must_60_one_byte_is_echoed_at_once_with_psh},
        {"half-close echoes everything, then FINs", half_close_echoes_everything_then_fins},
        {"RFC 5961: only the exact RST resets", test_rfc_5961_only_the_exact_rst_resets},
        {"RFC 5961: a SYN is challenged", test_rfc_5961_a_syn_is_challenged},
        {"RFC 5961: challenges are limited", test_rfc_5961_challenges_are_limited},
        {"MUST-11: a RST in SYN-RCVD goes back to LISTEN",
         test_must_11_a_rst_in_syn_rcvd_goes_back_to_listen},
        {"MUST-10: simultaneous open", test_must_10_simultaneous_open},
        {"a port that nobody serves answers RST", a_port_that_nobody_serves_answers_rst},
        {"a listener answers nothing without SYN, ACK or RST",
         a_listener_answers_nothing_without_syn_ack_or_rst},
        {"data for no connection answers RST", data_for_no_connection_answers_rst},
        {"MUST-7: illegal option lengths do no harm",
         test_must_7_illegal_option_lengths_do_no_harm},
        {"MUST-30: urgent data is delivered in band",
         test_must_30_urgent_data_is_delivered_in_band},
        {"out-of-order segments are joined", out_of_order_segments_are_joined},
        {"overlaps keep one copy of each byte", overlaps_keep_the_first_copy},
        {"a FIN out of order waits for the hole", a_fin_out_of_order_waits_for_the_hole},
        {"a FIN before held text is not taken", a_fin_before_held_text_is_not_taken},
        {"MUST-19: retransmissions back off", test_must_19_retransmissions_back_off},
        {"ACKs amid a retransmission are in the window",
         acks_amid_a_retransmission_are_in_the_window},
        {"MUST-36: a closed window is probed for ever",
         test_must_36_a_closed_window_is_probed_for_ever},
        {"MUST-66: a RST counts at zero window", test_must_66_a_rst_counts_at_zero_window},
        {"three duplicate ACKs send the hole again", three_duplicate_acks_send_the_hole_again},
        {"RFC 6928: the first flight is ten segments", rfc_6928_the_first_flight_is_ten_segments},
        {"delayed ACKs come within half a second", delayed_acks_come_within_half_a_second},
        {"an ACK of what was never sent is refused", an_ack_of_what_was_never_sent_is_refused},
        {"daytime closes first and waits", daytime_closes_first_and_waits},
        {"http answers each pipelined request", http_answers_each_pipelined_request},
        {"initial numbers follow the clock (RFC 6528)",
         the_same_initial_number_is_never_used_twice},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
