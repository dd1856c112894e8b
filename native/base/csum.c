/* The Internet checksum by 8-byte words, four accumulators at a time for long data. */
#include "base/csum.h"

#include <arpa/inet.h>
#include <string.h>

#include "base/wire.h"

enum {
    BLOCK = 32,
    COPY_LONG = 256,
};

/* Copies eight bytes, and returns them. */
static inline uint64_t copy64(uint8_t *to, const uint8_t *from)
{
    uint64_t word = load_u64(from);

    memcpy(to, &word, sizeof(word));
    return word;
}

/* Up to seven bytes, as they would lie in zeroed memory. */
static inline uint64_t load_tail(const uint8_t *bytes, size_t len)
{
    uint64_t sum = 0;

    if (len & 4) {
        sum = load_u32(bytes);
        bytes += 4;
    }
    if (len & 2) {
        sum += load_u16(bytes);
        bytes += 2;
    }
    return len & 1 ? sum + bytes[0] : sum;
}

/* Whole blocks: 32-bit halves added into 64-bit lanes, which the compiler turns into vectors. */
__attribute__((target_clones("avx2", "default"))) static uint64_t blocks_sum(const uint8_t *bytes,
                                                                             size_t blocks)
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

uint64_t csum_add(const void *data, size_t len, uint64_t start)
{
    const uint8_t *bytes = data;
    unsigned __int128 sum = start;

    if (len >= 256) {
        size_t blocks = len / BLOCK;

        sum += blocks_sum(bytes, blocks);
        bytes += blocks * BLOCK;
        len -= blocks * BLOCK;
    }
    for (; len >= BLOCK; len -= BLOCK, bytes += BLOCK) {
        sum += load_u64(bytes);
        sum += load_u64(bytes + 8);
        sum += load_u64(bytes + 16);
        sum += load_u64(bytes + 24);
    }
    for (; len >= 8; len -= 8, bytes += 8) {
        sum += load_u64(bytes);
    }
    sum += load_tail(bytes, len);
    return csum_carry((uint64_t)sum, (uint64_t)(sum >> 64));
}

uint64_t csum_copy(void *dst, const void *src, size_t len)
{
    const uint8_t *from = src;
    uint8_t *to = dst;
    uint64_t sum = 0;

    if (len >= COPY_LONG) {
        memcpy(dst, src, len);
        return csum_add(dst, len, 0);
    }
    for (; len >= CSUM_BLOCK; len -= CSUM_BLOCK, from += CSUM_BLOCK, to += CSUM_BLOCK) {
        sum = csum_carry(sum, csum_copy_block(to, from));
    }
    for (; len >= 8; len -= 8, from += 8, to += 8) {
        sum = csum_carry(sum, copy64(to, from));
    }
    for (size_t i = 0; i < len; i++) {
        to[i] = from[i];
    }
    return csum_carry(sum, load_tail(from, len));
}

uint64_t csum_pseudo(uint32_t src, uint32_t dst, uint8_t proto, uint32_t len)
{
    return (uint64_t)src + dst + htons(proto) + htons((uint16_t)len);
}
