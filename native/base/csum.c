/* The Internet checksum by 8-byte words, four accumulators at a time for long data. */
#include "base/csum.h"

#include <arpa/inet.h>
#include <string.h>

enum {
    BLOCK = 32,
};

/* Two 64-bit words added into 128 bits: the carries collect in the upper half. */
static inline unsigned __int128 add_words(unsigned __int128 sum, const uint8_t *bytes)
{
    uint64_t word[4];

    memcpy(word, bytes, sizeof(word));
    return sum + word[0] + word[1] + word[2] + word[3];
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
    uint64_t tail = 0;

    if (len >= 256) {
        size_t blocks = len / BLOCK;

        sum += blocks_sum(bytes, blocks);
        bytes += blocks * BLOCK;
        len -= blocks * BLOCK;
    }
    for (; len >= BLOCK; len -= BLOCK, bytes += BLOCK) {
        sum = add_words(sum, bytes);
    }
    for (; len >= 8; len -= 8, bytes += 8) {
        uint64_t word;

        memcpy(&word, bytes, sizeof(word));
        sum += word;
    }
    if (len >= 4) {
        uint32_t half;

        memcpy(&half, bytes, sizeof(half));
        sum += half;
        bytes += 4;
        len -= 4;
    }
    if (len > 0) { /* up to three bytes */
        memcpy(&tail, bytes, len);
        sum += tail;
    }
    return csum_carry((uint64_t)sum, (uint64_t)(sum >> 64));
}

uint64_t csum_pseudo(uint32_t src, uint32_t dst, uint8_t proto, uint32_t len)
{
    return (uint64_t)src + dst + htons(proto) + htons((uint16_t)len);
}
