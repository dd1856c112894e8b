/*
 * The load client: the bytes that name themselves, the latency buckets, and what it says of
 * servers that refuse, close, reset, lie, say too much or say nothing.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bad_server.h"
#include "base/hash.h"
#include "check.h"
#include "client/histogram.h"
#include "client/load.h"
#include "client/pattern.h"

enum {
    STREAM = 1000,
    SAMPLES = 20000,
    CONNECTIONS = 8,
    SIZE = 64,
    MESSAGES = 20,
    PATIENCE_US = 60000000, /* with who answers, on a machine that does other things, too */
    SILENCE_US = 1500000,   /* with who never does */
};

static void the_stream_is_the_same_however_it_is_cut(void)
{
    static const uint64_t starts[] = {0, 1, 7, 8, 4093, UINT32_MAX - 20, (uint64_t)1 << 40};
    struct pattern pattern = pattern_of(7, 3);
    uint8_t whole[STREAM];
    uint8_t part[STREAM];

    for (size_t s = 0; s < sizeof(starts) / sizeof(starts[0]); s++) {
        pattern_fill(pattern, starts[s], whole, STREAM);
        for (uint32_t at = 0; at < 40; at++) {
            for (uint32_t len = 0; len < 40; len++) {
                pattern_fill(pattern, starts[s] + at, part, len);
                CHECK(memcmp(part, whole + at, len) == 0);
                CHECK_EQ(pattern_check(pattern, starts[s] + at, whole + at, len), 0);
            }
        }
    }
}

static uint32_t bytes_alike(struct pattern a, struct pattern b, uint64_t shift)
{
    uint8_t one[STREAM];
    uint8_t other[STREAM];
    uint32_t alike = 0;

    pattern_fill(a, 0, one, STREAM);
    pattern_fill(b, shift, other, STREAM);
    for (uint32_t i = 0; i < STREAM; i++) {
        alike += one[i] == other[i];
    }
    return alike;
}

/* A byte in 256 is alike by chance; what belongs elsewhere must be wrong in nine of ten. */
static void seed_connection_and_place_all_matter(void)
{
    CHECK_EQ(bytes_alike(pattern_of(1, 1), pattern_of(1, 1), 0), STREAM);
    for (uint32_t i = 0; i < 50; i++) {
        CHECK(bytes_alike(pattern_of(1, i), pattern_of(1, i + 1), 0) < STREAM / 10);
        CHECK(bytes_alike(pattern_of(i, 1), pattern_of(i + 1, 1), 0) < STREAM / 10);
        CHECK(bytes_alike(pattern_of(i, 1), pattern_of(i, 1), i + 1) < STREAM / 10);
        CHECK(bytes_alike(pattern_of(i, 1), pattern_of(i, 1), (uint64_t)8 << i % 40) < STREAM / 10);
    }
}

static void a_wrong_byte_is_found_anywhere(void)
{
    struct pattern pattern = pattern_of(9, 9);
    uint8_t bytes[200];

    for (uint64_t start = 0; start < 9; start++) {
        pattern_fill(pattern, start, bytes, sizeof(bytes));
        for (uint32_t at = 0; at < sizeof(bytes); at++) {
            for (uint32_t bit = 0; bit < 8; bit++) {
                bytes[at] ^= (uint8_t)(1u << bit);
                CHECK_EQ(pattern_check(pattern, start, bytes, sizeof(bytes)), 1);
                bytes[at] ^= (uint8_t)(1u << bit);
            }
        }
        for (uint32_t at = 0; at < sizeof(bytes); at += 3) {
            bytes[at] ^= 0xff;
        }
        CHECK_EQ(pattern_check(pattern, start, bytes, sizeof(bytes)), (sizeof(bytes) + 2) / 3);
    }
}

static int by_value(const void *a, const void *b)
{
    uint64_t one = *(const uint64_t *)a;
    uint64_t other = *(const uint64_t *)b;

    return one < other ? -1 : one > other;
}

/* Half a bucket of 128 to a power of two. */
static bool is_near(uint64_t got, uint64_t right)
{
    uint64_t off = got > right ? got - right : right - got;

    return off * 256 <= right;
}

static void check_quantiles(uint64_t *values, uint32_t n)
{
    static const double quantiles[] = {0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999, 1};
    static uint64_t buckets[HISTOGRAM_BUCKETS];

    memset(buckets, 0, sizeof(buckets));
    for (uint32_t i = 0; i < n; i++) {
        histogram_record(buckets, values[i]);
    }
    qsort(values, n, sizeof(values[0]), by_value);
    for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
        uint32_t rank = (uint32_t)(quantiles[i] * n);
        uint64_t right = values[rank < n ? rank : n - 1];
        uint64_t got = histogram_quantile(buckets, quantiles[i]);

        if (!CHECK(is_near(got, right))) {
            printf("    quantile %g of %u: %llu, not %llu\n", quantiles[i], n,
                   (unsigned long long)got, (unsigned long long)right);
        }
    }
}

static void quantiles_are_those_of_the_sorted_values(void)
{
    static uint64_t values[SAMPLES];
    uint64_t random = 3;

    for (uint32_t n = 1; n <= SAMPLES; n = n * 3 + 1) {
        for (uint32_t bits = 1; bits < 38; bits += 6) { /* up to minutes, in nanoseconds */
            for (uint32_t i = 0; i < n; i++) {
                values[i] = splitmix64(&random) >> (64 - bits) >> splitmix64(&random) % bits;
            }
            check_quantiles(values, n);
        }
    }
}

static void small_values_are_exact_and_large_ones_stay(void)
{
    static uint64_t buckets[HISTOGRAM_BUCKETS];

    CHECK_EQ(histogram_quantile(buckets, 0.5), 0);
    for (uint64_t value = 0; value < 128; value++) {
        memset(buckets, 0, sizeof(buckets));
        histogram_record(buckets, value);
        CHECK_EQ(histogram_quantile(buckets, 0.5), value);
    }
    memset(buckets, 0, sizeof(buckets));
    histogram_record(buckets, UINT64_MAX);
    histogram_record(buckets, (uint64_t)1 << 60);
    CHECK(histogram_quantile(buckets, 0.5) > (uint64_t)200 * 1000000000); /* the last bucket */
}

/* Eight connections against a server with these manners. */
static struct ss_load_stats load_against(enum manners manners)
{
    bool silent = manners == IS_SILENT || manners == NEVER_ENDS;
    uint64_t patience_us = silent ? SILENCE_US : PATIENCE_US;
    struct bad_server server = bad_server_start(manners, SIZE * MESSAGES);
    struct ss_load_options options = {.ip = INADDR_LOOPBACK,
                                      .tcp_port = server.tcp_port,
                                      .connections = CONNECTIONS,
                                      .size = SIZE,
                                      .pipeline = 4,
                                      .seed = 5,
                                      .messages = MESSAGES,
                                      .duration_us = PATIENCE_US,
                                      .timeout_us = patience_us,
                                      .ramp = 3};
    struct ss_load_stats *shared = ss_load_stats_map();
    struct ss_load_stats stats;
    char error[SS_ERROR_MAX] = "";

    if (!CHECK_EQ(ss_load_run(&options, shared, error), 0)) {
        printf("    %s\n", error);
    }
    stats = *shared;
    ss_load_stats_unmap(shared);
    bad_server_stop(&server);
    CHECK_EQ(stats.active, 0);
    CHECK_EQ(stats.finished + stats.resets + stats.timeouts + stats.refused, CONNECTIONS);
    return stats;
}

static void a_good_server_has_no_errors(void)
{
    struct ss_load_stats stats = load_against(ECHOES);

    CHECK_EQ(stats.connected, CONNECTIONS);
    CHECK_EQ(stats.finished, CONNECTIONS);
    CHECK_EQ(stats.mismatched_bytes, 0);
    CHECK_EQ(stats.messages, CONNECTIONS * MESSAGES);
    CHECK_EQ(stats.bytes, CONNECTIONS * MESSAGES * SIZE);
    CHECK(ss_latency_quantile(&stats, 0.5) > 1000);
    CHECK(ss_latency_quantile(&stats, 1) < (uint64_t)PATIENCE_US * 1000);
}

static void who_refuses_is_counted_as_refused(void)
{
    struct ss_load_stats stats = load_against(REFUSES);

    CHECK_EQ(stats.refused, CONNECTIONS);
    CHECK_EQ(stats.connected, 0);
    CHECK_EQ(stats.messages, 0);
}

static void who_closes_or_resets_is_counted_as_a_reset(void)
{
    static const enum manners all[] = {CLOSES, RESETS, CLOSES_EARLY};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        struct ss_load_stats stats = load_against(all[i]);

        CHECK_EQ(stats.resets, CONNECTIONS);
        CHECK_EQ(stats.mismatched_bytes, 0);
        CHECK(stats.messages < CONNECTIONS * MESSAGES);
    }
}

static void each_wrong_byte_is_counted(void)
{
    struct ss_load_stats stats = load_against(LIES);

    CHECK_EQ(stats.mismatched_bytes, CONNECTIONS);
    CHECK_EQ(stats.messages, CONNECTIONS * MESSAGES);
}

/* What was never asked for is wrong whatever it says, and is no message. */
static void each_byte_too_much_is_counted(void)
{
    struct ss_load_stats stats = load_against(TALKS_TOO_MUCH);

    CHECK_EQ(stats.mismatched_bytes, 3 * CONNECTIONS);
    CHECK_EQ(stats.messages, CONNECTIONS * MESSAGES);
    CHECK_EQ(stats.bytes, CONNECTIONS * MESSAGES * SIZE);
}

static void who_says_nothing_is_counted_as_a_timeout(void)
{
    static const enum manners all[] = {IS_SILENT, NEVER_ENDS};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        struct ss_load_stats stats = load_against(all[i]);

        CHECK_EQ(stats.timeouts, CONNECTIONS);
        CHECK_EQ(stats.connected, CONNECTIONS);
        CHECK_EQ(stats.messages, all[i] == NEVER_ENDS ? CONNECTIONS * MESSAGES : 0);
    }
}

/* Two connections, each asks once and gets its byte `wait_us` after the run has begun. */
static void answer_after(struct load *load, uint32_t index, uint64_t wait_us)
{
    uint8_t byte;

    load_sent(load, index, 1, load->stats->started_us * 1000);
    pattern_fill(load->conns[index].pattern, load->conns[index].received, &byte, 1);
    load_received(load, index, &byte, 1, (load->stats->started_us + wait_us) * 1000);
}

static void a_gap_is_noted_where_it_ended(void)
{
    struct ss_load_gaps *gaps = ss_load_gaps_map(2, 4, 1000);
    struct ss_load_stats *stats = ss_load_stats_map();
    struct ss_load_options options = {.connections = 2, .size = 1, .pipeline = 1, .gaps = gaps};
    struct load load;
    char error[SS_ERROR_MAX];

    CHECK_EQ(load_init(&load, &options, stats, error), 0);
    stats->started_us = 5000000; /* the connections stood before: that wait does not count */
    load_opened(&load, 0, 4000000);
    load_opened(&load, 1, 4000000);
    answer_after(&load, 0, 100);
    answer_after(&load, 0, 2300);
    answer_after(&load, 0, 2400);
    answer_after(&load, 1, 90000); /* beyond the last slot */
    CHECK_EQ(gaps->longest_us[0 * 2 + 0], 100);
    CHECK_EQ(gaps->longest_us[1 * 2 + 0], 0);
    CHECK_EQ(gaps->longest_us[2 * 2 + 0], 2200);
    CHECK_EQ(gaps->longest_us[3 * 2 + 1], 90000);
    load_done(&load, 0, &stats->finished);
    CHECK_EQ(gaps->longest_us[4 * 2 + 0], 0);
    load_done(&load, 1, &stats->resets);
    CHECK_EQ(gaps->longest_us[4 * 2 + 1], 4);
    CHECK_EQ(stats->mismatched_bytes, 0);
    load_free(&load);
    ss_load_stats_unmap(stats);
    ss_load_gaps_unmap(gaps);
}

static void a_withheld_connection_is_not_begun(void)
{
    struct ss_load_stats *stats = ss_load_stats_map();
    struct ss_load_options options = {.connections = 9, .size = 1, .pipeline = 1, .ramp = 9};
    struct load load;
    char error[SS_ERROR_MAX];

    CHECK_EQ(load_init(&load, &options, stats, error), 0);
    stats->withheld = 9;
    CHECK(!load_may_connect(&load));
    stats->withheld = 8;
    CHECK(load_may_connect(&load));
    load_begun(&load, load.opened++, 1);
    CHECK(!load_may_connect(&load));
    stats->withheld = 0;
    CHECK(load_may_connect(&load));
    load_free(&load);
    ss_load_stats_unmap(stats);
}

static void options_that_make_no_sense_are_refused(void)
{
    struct ss_load_options good = {.ip = INADDR_LOOPBACK,
                                   .tcp_port = 7,
                                   .connections = 1,
                                   .size = 1,
                                   .pipeline = 1,
                                   .ramp = 1};
    struct ss_load_stats *stats = ss_load_stats_map();
    char error[SS_ERROR_MAX];

    for (uint32_t i = 0; i < 8; i++) {
        struct ss_load_options bad = good;

        bad.connections = i == 0 ? 0 : i == 1 ? 1000001 : 1;
        bad.size = i == 2 ? 0 : i == 3 ? (1 << 24) + 1 : 1;
        bad.pipeline = i == 4 ? 0 : i == 5 ? 1025 : 1;
        bad.tcp_port = i == 6 ? 65536 : 7;
        bad.ip = i == 7 ? 0 : bad.ip;
        error[0] = '\0';
        CHECK(ss_load_run(&bad, stats, error) < 0);
        CHECK(strncmp(error, "load: ", 6) == 0 && strlen(error) > 20);
    }
    ss_load_stats_unmap(stats);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"the stream is the same however it is cut", the_stream_is_the_same_however_it_is_cut},
        {"seed, connection and place all matter", seed_connection_and_place_all_matter},
        {"a wrong byte is found anywhere", a_wrong_byte_is_found_anywhere},
        {"quantiles are those of the sorted values", quantiles_are_those_of_the_sorted_values},
        {"small values are exact, large ones stay", small_values_are_exact_and_large_ones_stay},
        {"a good server has no errors", a_good_server_has_no_errors},
        {"who refuses is counted as refused", who_refuses_is_counted_as_refused},
        {"who closes or resets is counted as a reset", who_closes_or_resets_is_counted_as_a_reset},
        {"each wrong byte is counted", each_wrong_byte_is_counted},
        {"each byte too much is counted", each_byte_too_much_is_counted},
        {"who says nothing is counted as a timeout", who_says_nothing_is_counted_as_a_timeout},
        {"a gap is noted where it ended", a_gap_is_noted_where_it_ended},
        {"a withheld connection is not begun", a_withheld_connection_is_not_begun},
        {"options that make no sense are refused", options_that_make_no_sense_are_refused},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
