/* Bytes that name themselves; see pattern.h. */
#include "client/pattern.h"

#include <string.h>

#include "base/hash.h"

struct pattern pattern_of(uint64_t seed, uint32_t connection)
{
    uint64_t state = seed ^ (uint64_t)connection * 0xd6e8feb86659fd93u;

    return (struct pattern){splitmix64(&state)};
}

/* The eight bytes at word `index`: one multiply-fold. */
static uint64_t word_at(struct pattern pattern, uint64_t index)
{
    return hash_fold(pattern.key ^ index, 0x9e3779b97f4a7c15u) ^ index;
}

/* Copies the part of a word that a range takes. */
static size_t partial(struct pattern pattern, uint64_t offset, uint8_t *dst, size_t len)
{
    uint64_t word = word_at(pattern, offset / 8);
    size_t skip = offset % 8;
    size_t part = len < 8 - skip ? len : 8 - skip;

    memcpy(dst, (const uint8_t *)&word + skip, part);
    return part;
}

void pattern_fill(struct pattern pattern, uint64_t offset, void *dst, size_t len)
{
    uint8_t *to = dst;

    while (len > 0) {
        size_t part = 8;

        if (offset % 8 == 0 && len >= 8) {
            uint64_t word = word_at(pattern, offset / 8);
            memcpy(to, &word, sizeof(word));
        } else {
            part = partial(pattern, offset, to, len);
        }
        to += part;
        offset += part;
        len -= part;
    }
}

static size_t differing(const uint8_t *a, const uint8_t *b, size_t len)
{
    size_t wrong = 0;

    for (size_t i = 0; i < len; i++) {
        wrong += a[i] != b[i];
    }
    return wrong;
}

size_t pattern_check(struct pattern pattern, uint64_t offset, const void *src, size_t len)
{
    const uint8_t *from = src;
    size_t wrong = 0;

    while (len > 0) {
        uint8_t expected[8];
        size_t part = partial(pattern, offset, expected, len);

        if (memcmp(expected, from, part) != 0) {
            wrong += differing(expected, from, part);
        }
        from += part;
        offset += part;
        len -= part;
    }
    return wrong;
}
