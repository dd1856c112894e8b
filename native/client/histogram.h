/* Latency buckets: 128 to each power of two (0.8 %), from 1 ns to 68 s, in shared memory. */
#pragma once
#include <stdint.h>

enum {
    HISTOGRAM_BUCKETS = 4096,
};

void histogram_record(uint64_t *buckets, uint64_t value);
/* The value below which the fraction q of all samples lies: its bucket's middle. */
uint64_t histogram_quantile(const uint64_t *buckets, double q);
