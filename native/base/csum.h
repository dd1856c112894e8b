/* The Internet checksum (RFC 1071): 64-bit accumulators, folded once. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    CSUM_BLOCK = 64,
};
typedef uint64_t csum_pair __attribute__((vector_size(16)));

/* Adds `len` bytes, which begin at an even place of the checksummed data, to an unfolded sum. */
uint64_t csum_add(const void *data, size_t len, uint64_t sum);
/* Copies and returns the unfolded sum of what was copied. */
uint64_t csum_copy(void *dst, const void *src, size_t len);
/* The pseudo-header of IPv4 (RFC 9293 section 3.1); addresses in network order, `len` in bytes. */
uint64_t csum_pseudo(uint32_t src, uint32_t dst, uint8_t proto, uint32_t len);

/* The unfolded sum of an IPv4 header without options. */
static inline uint64_t csum_ipv4_header(const void *header)
{
    uint32_t word[5];

    memcpy(word, header, sizeof(word));
    return (uint64_t)word[0] + word[1] + word[2] + word[3] + word[4];
}

/* Adds with the carry brought round. */
static inline uint64_t csum_carry(uint64_t sum, uint64_t more)
{
    sum += more;
    return sum + (sum < more);
}

/* 16 bits, not complemented: both halves added to themselves, swapped, carry into the upper one. */
static inline uint16_t csum_fold16(uint64_t sum)
{
    uint32_t half;

    sum += sum << 32 | sum >> 32;
    half = (uint32_t)(sum >> 32);
    half += half << 16 | half >> 16;
    return (uint16_t)(half >> 16);
}

/* Complemented, in the byte order in which it is stored. */
static inline uint16_t csum_fold(uint64_t sum)
{
    return (uint16_t)~csum_fold16(sum);
}

/* The sum of a piece that begins at an odd place. */
static inline uint64_t csum_shift(uint64_t sum)
{
    return __builtin_bswap16(csum_fold16(sum));
}

/* 64 bytes: 32-bit halves added in 64-bit lanes, where no carry is lost. */
static inline uint64_t csum_copy_block(uint8_t *to, const uint8_t *from)
{
    const csum_pair low_half = {UINT32_MAX, UINT32_MAX};
    csum_pair low = {0, 0};
    csum_pair high = {0, 0};

    for (size_t at = 0; at < CSUM_BLOCK; at += sizeof(csum_pair)) {
        csum_pair words;

        memcpy(&words, from + at, sizeof(words));
        memcpy(to + at, &words, sizeof(words));
        low += words & low_half;
        high += words >> 32;
    }
    low += high;
    return low[0] + low[1];
}

/* csum_copy for what is mostly one short block: no call for that. */
static inline uint64_t csum_copy_short(uint8_t *to, const uint8_t *from, size_t len)
{
    uint64_t sum = 0;

    if (len >= CSUM_BLOCK) {
        sum = csum_copy_block(to, from);
        to += CSUM_BLOCK;
        from += CSUM_BLOCK;
        len -= CSUM_BLOCK;
    }
    return len > 0 ? csum_carry(sum, csum_copy(to, from, len)) : sum;
}
