/*
 * Counters of a shard: a shared page of aligned 64-bit words, one writer, one store each, so that a
 * hung or dead worker's last words can be read at any instant (DESIGN 2.5). stats.def names them.
 */
#pragma once
#include "base/compiler.h"

enum verdict {
#define VERDICT(name, text) VERDICT_##name,
#define COUNTER(name, text)
#include "stats/stats.def"
#undef VERDICT
#undef COUNTER
    VERDICT_COUNT,
    VERDICT_NONE = VERDICT_COUNT,
};

enum counter {
#define VERDICT(name, text)
#define COUNTER(name, text) COUNTER_##name,
#include "stats/stats.def"
#undef VERDICT
#undef COUNTER
    COUNTER_COUNT,
};

struct stats_page {
    _Alignas(CACHE_LINE) uint64_t verdict[VERDICT_COUNT];
    _Alignas(CACHE_LINE) uint64_t counter[COUNTER_COUNT];
    _Alignas(CACHE_LINE) volatile uint64_t heartbeat; /* grows with every turn */
    volatile uint64_t heartbeat_us;                   /* CLOCK_MONOTONIC of the last turn */
    volatile uint32_t phase;                          /* enum worker_phase: the last words */
    volatile uint32_t state;                          /* enum ss_shard_state */
    volatile uint64_t adopted_us; /* when the present worker had rolled back and began to serve */
};

/* Names and texts in the order of the enums, for whoever prints them. */
const char *stats_verdict_name(enum verdict verdict);
const char *stats_verdict_text(enum verdict verdict);
const char *stats_counter_name(enum counter counter);
const char *stats_counter_text(enum counter counter);
uint64_t stats_verdict_sum(const struct stats_page *page);

static inline void stats_add(struct stats_page *page, enum counter counter, uint64_t n)
{
    page->counter[counter] += n;
}

static inline void stats_set(struct stats_page *page, enum counter counter, uint64_t value)
{
    page->counter[counter] = value;
}
