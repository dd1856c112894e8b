/* Latency buckets; see histogram.h. */
#include "client/histogram.h"

enum {
    SUB_BITS = 7,
    SUB = 1 << SUB_BITS,
};

static uint32_t bucket_of(uint64_t value)
{
    uint32_t exponent;
    uint32_t index;

    if (value < SUB) {
        return (uint32_t)value;
    }
    exponent = 63 - (uint32_t)__builtin_clzll(value);
    index = (exponent - SUB_BITS + 1) * SUB + (uint32_t)(value >> (exponent - SUB_BITS)) - SUB;
    return index < HISTOGRAM_BUCKETS ? index : HISTOGRAM_BUCKETS - 1;
}

static uint64_t middle_of(uint32_t bucket)
{
    uint32_t shift;

    if (bucket < SUB) {
        return bucket;
    }
    shift = bucket / SUB - 1;
    return (((uint64_t)(bucket % SUB) + SUB) << shift) + ((uint64_t)1 << shift) / 2;
}

void histogram_record(uint64_t *buckets, uint64_t value)
{
    buckets[bucket_of(value)]++;
}

uint64_t histogram_quantile(const uint64_t *buckets, double q)
{
    uint64_t total = 0;
    uint64_t seen = 0;
    uint64_t wanted;

    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        total += buckets[i];
    }
    if (total == 0) {
        return 0;
    }
    wanted = (uint64_t)(q * (double)total);
    wanted = wanted < total ? wanted : total - 1;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += buckets[i];
        if (seen > wanted) {
            return middle_of(i);
        }
    }
    return 0;
}
