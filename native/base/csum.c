/* The Internet checksum by 8-byte words, four accumulators at a time for long data. */
#include "base/csum.h"

#include <arpa/inet.h>
#include <string.h>

enum {
    BLOCK = 32,
};

static uint64_t word(const uint8_t *bytes)
{
    uint64_t value;

    memcpy(&value, bytes, sizeof(value));
    return value;
}

/* Whole blocks: 32-bit halves added into 64-bit lanes, which the compiler turns into vectors. */
__attribute__((target_clones("avx2", "default"))) static uint64_t
blocks_sum(const uint8_t *bytes, size_t blocks)
{
    uint64_t lane[8] = {0};

    for (size_t i = 0; i < blocks; i++) {
        uint32_t half[8];

        memcpy(half, bytes + i * BLOCK, BLOCK);
        for (int k = 0; k < 8; k++) {
            lane[k] += half[k];
        }
    }
    return csum_carry(lane[0] + lane[1] + lane[2] + lane[3], lane[4] + lane[5] + lane[6] + lane[7]);
}

uint64_t csum_add(const void *data, size_t len, uint64_t sum)
{
    const uint8_t *bytes = data;
    uint8_t tail[8] = {0};

    if (len >= 128) {
        size_t blocks = len / BLOCK;

        sum = csum_carry(sum, blocks_sum(bytes, blocks));
        bytes += blocks * BLOCK;
        len -= blocks * BLOCK;
    }
    for (; len >= 8; len -= 8, bytes += 8) {
        sum = csum_carry(sum, word(bytes));
    }
    if (len > 0) {
        memcpy(tail, bytes, len);
        sum = csum_carry(sum, word(tail));
    }
    return sum;
}

uint64_t csum_pseudo(uint32_t src, uint32_t dst, uint8_t proto, uint32_t len)
{
    return (uint64_t)src + dst + htons(proto) + htons((uint16_t)len);
}
