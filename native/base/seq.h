/* Sequence numbers modulo 2^32 (RFC 9293 section 3.4): compare only through these. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

static inline bool seq_lt(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) < 0;
}

static inline bool seq_le(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) <= 0;
}

static inline bool seq_gt(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) > 0;
}

static inline bool seq_ge(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) >= 0;
}

/* True when a <= x < b on the circle. */
static inline bool seq_in(uint32_t x, uint32_t a, uint32_t b)
{
    return x - a < b - a;
}
